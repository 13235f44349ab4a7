//! A disk that fails when a test says so, and a power cut: what was not synced is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use media_sidecar::store::fs::{Fs, SystemFs};

use super::files_below;

/// The kinds of operation, as a fault names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    CreateFolder,
    SyncFolder,
}

/// What goes wrong, counted from [`ScriptedDisk::plan`] on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The operation of this number fails, the next ones do not.
    Once(usize),
    /// From the operation of this number on, everything fails: the disk is gone, or the power.
    From(usize),
    /// From the operation of this number on, everything that takes room fails: the disk is full. Half of a write gets in.
    FullFrom(usize),
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    /// Nothing: neither names nor bytes.
    Nothing,
    /// Names without their bytes, as file systems do that order nothing.
    Names,
    /// All of it, as after `kill -9`.
    All,
}

/// Works on real files, through the system, and remembers what of them is on the medium.
#[derive(Debug, Default)]
pub struct ScriptedDisk(Mutex<State>, Mutex<()>);

#[derive(Debug, Default)]
struct State {
    /// Operations since the plan was made.
    steps: Vec<Step>,
    fault: Option<Fault>,
    /// What it says is free; `None`: what is.
    free: Option<u64>,
    /// Faults that came to pass.
    failures: usize,
    /// The file behind an inode number, which the system gives again.
    files: HashMap<u64, usize>,
    /// Bytes of each file on the medium.
    synced: Vec<Vec<u8>>,
    /// Which file has a name.
    names: BTreeMap<PathBuf, usize>,
    /// The same on the medium.
    synced_names: BTreeMap<PathBuf, usize>,
    /// Folders whose own names are on the medium.
    synced_folders: BTreeSet<PathBuf>,
    /// Folders that are there.
    folders: BTreeSet<PathBuf>,
}

impl ScriptedDisk {
    /// Over a store all of which is on the medium.
    pub fn over(store: &Path) -> Self {
        let mut state = State::default();
        for name in ["blobs", "tmp"] {
            for path in files_below(&store.join(name)) {
                state.files.insert(path.metadata().unwrap().ino(), state.synced.len());
                state.names.insert(path.clone(), state.synced.len());
                state.folders.extend(path.parent().unwrap().ancestors().map(Path::to_owned));
                state.synced.push(fs::read(path).unwrap());
            }
        }
        (state.synced_names, state.synced_folders) = (state.names.clone(), state.folders.clone());
        Self(Mutex::new(state), Mutex::default())
    }

    /// From now on `fault` happens.
    pub fn plan(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.failures, state.steps) = (fault, 0, Vec::new());
    }

    /// Nothing gets on the medium while the guard lives: the disk is slow.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.1.lock().unwrap()
    }

    /// From now on it says that so many bytes are free.
    pub fn set_free(&self, free: u64) {
        self.state().free = Some(free);
    }

    /// Operations since the last plan.
    pub fn steps(&self) -> Vec<Step> {
        self.state().steps.clone()
    }

    /// How often the plan's fault happened.
    pub fn failures(&self) -> usize {
        self.state().failures
    }

    /// Makes of the files in `store` what a power cut at this moment would leave. Nobody may use them meanwhile.
    pub fn cut_power(&self, store: &Path, left: Left) {
        if matches!(left, Left::All) {
            return;
        }
        let state = self.state();
        let names = if matches!(left, Left::Names) { &state.names } else { &state.synced_names };
        for folder in ["blobs", "tmp"].map(|name| store.join(name)) {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
        }
        for (path, file) in names {
            let folder = path.parent().unwrap();
            let is_there =
                |folder: &&Path| state.synced_folders.contains(*folder) || matches!(left, Left::Names);
            let is_reachable =
                folder.ancestors().take_while(|ancestor| *ancestor != store).all(|folder| is_there(&folder));
            if is_reachable {
                fs::create_dir_all(folder).unwrap();
                fs::write(path, &state.synced[*file]).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Counts an operation, and fails it if that is the plan.
    fn step(&self, step: Step) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.steps.push(step);
        let number = state.steps.len();
        let takes_room = matches!(step, Step::Create | Step::Write | Step::Sync | Step::CreateFolder);
        let error = match state.fault {
            Some(Fault::Once(at)) if number == at => rustix::io::Errno::IO,
            Some(Fault::From(at)) if number >= at => rustix::io::Errno::IO,
            Some(Fault::FullFrom(at)) if number >= at && takes_room => rustix::io::Errno::NOSPC,
            _ => return Ok(state),
        };
        state.failures += 1;
        Err(error.into())
    }
}

impl Fs for ScriptedDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.step(Step::Create)?;
        let file = SystemFs.create(path)?;
        let number = state.synced.len();
        state.synced.push(Vec::new());
        state.files.insert(file.metadata()?.ino(), number);
        state.names.insert(path.to_owned(), number);
        Ok(file)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        match self.step(Step::Write) {
            Ok(_state) => SystemFs.write(file, bytes),
            Err(error) => {
                SystemFs.write(file, &bytes[..bytes.len() / 2])?;
                Err(error)
            }
        }
    }

    /// What has begun may be lost all the same.
    fn begin_sync(&self, _file: &File, _offset: u64, _len: u64) {}

    fn sync(&self, file: &File) -> io::Result<()> {
        drop(self.hold());
        let mut state = self.step(Step::Sync)?;
        let number = state.files[&file.metadata()?.ino()];
        let path = state.names.iter().find(|(_, named)| **named == number).unwrap().0.clone();
        state.synced[number] = fs::read(path)?;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step(Step::Rename)?;
        SystemFs.rename(from, to)?;
        let number = state.names.remove(from).unwrap();
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step(Step::Remove)?;
        SystemFs.remove(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step(Step::CreateFolder)?;
        SystemFs.create_folder(path)?;
        state.folders.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step(Step::SyncFolder)?;
        let is_in = |name: &PathBuf| name.parent() == Some(path);
        state.synced_names.retain(|name, _| !is_in(name));
        let names: Vec<_> =
            state.names.iter().filter(|(name, _)| is_in(name)).map(|(n, f)| (n.clone(), *f)).collect();
        state.synced_names.extend(names);
        let folders: Vec<_> = state.folders.iter().filter(|name| is_in(name)).cloned().collect();
        state.synced_folders.extend(folders);
        Ok(())
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        self.state().free.map_or_else(|| SystemFs.free(path), Ok)
    }
}
