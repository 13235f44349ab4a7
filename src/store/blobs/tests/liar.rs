//! A disk that lies when a test says so.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use rustix::io::Errno;

use crate::store::fs::{Fs, SystemFs};

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// Half of what is written gets in, and that is said.
    ShortWrite,
    /// Half of what is written gets in, and that is not said.
    SilentShortWrite,
    /// Bytes cannot be put on the medium.
    NoSync,
    /// No file gets another name.
    NoRename,
    /// Names cannot be put on the medium.
    NoFolderSync,
    /// No file goes.
    NoRemove,
    /// So many bytes are free.
    Free(u64),
}

/// The system's disk, but for one lie. It syncs nothing: nobody cuts the power here.
#[derive(Debug, Default)]
pub(super) struct Liar(Mutex<Option<Lie>>);

impl Liar {
    pub(super) fn tell(&self, lie: impl Into<Option<Lie>>) {
        *self.0.lock().unwrap() = lie.into();
    }

    fn tells(&self, lie: Lie) -> bool {
        *self.0.lock().unwrap() == Some(lie)
    }

    /// Fails if this is the lie.
    fn unless(&self, lie: Lie) -> io::Result<()> {
        if self.tells(lie) { Err(Errno::IO.into()) } else { Ok(()) }
    }
}

impl Fs for Liar {
    fn create(&self, path: &Path) -> io::Result<File> {
        SystemFs.create(path)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let half = &bytes[..bytes.len() / 2];
        if self.tells(Lie::ShortWrite) {
            SystemFs.write(file, half)?;
            return Err(Errno::NOSPC.into());
        }
        SystemFs.write(file, if self.tells(Lie::SilentShortWrite) { half } else { bytes })
    }

    fn begin_sync(&self, _file: &File, _offset: u64, _len: u64) {}

    fn sync(&self, _file: &File) -> io::Result<()> {
        self.unless(Lie::NoSync)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.unless(Lie::NoRename)?;
        SystemFs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.unless(Lie::NoRemove)?;
        SystemFs.remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        SystemFs.create_folder(path)
    }

    fn sync_folder(&self, _path: &Path) -> io::Result<()> {
        self.unless(Lie::NoFolderSync)
    }

    fn free(&self, _path: &Path) -> io::Result<u64> {
        match *self.0.lock().unwrap() {
            Some(Lie::Free(bytes)) => Ok(bytes),
            _ => Ok(u64::MAX),
        }
    }
}
