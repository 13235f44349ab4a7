//! The content-addressed directory: `blobs/ab/<sha256>`, so that `sha256sum` can check it. Its 256 folders are made at the
//! opening: a new blob then costs the sync of one folder, and a million of them are 4000 in each.
//!
//! Owns the one gate through which bytes become a blob, and the durability of what passed it: temp file in the same file
//! system → write → fsync → rename → fsync of the directory. Refuses to know who refers to a blob: that is
//! `catalog.rs`; the caller writes the row after [`Ingest::finish`] and while it holds the [`Claim`].
//!
//! Nothing here is removed but at the caller's word, who has asked the catalog: [`Blobs::remove_unless`] for what a row
//! referred to until now, `orphans/` for what is found without a row. The rules over both are in `store.rs`.
//!
//! Everything that changes the store goes through its [`Fs`].

mod file;
mod orphans;
mod reader;
mod room;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256 as Hasher};

use self::file::FileSource;
pub(crate) use self::reader::{BlobCursor, BlobReader};
use self::room::{Promised, Reservation, STEP};
use crate::error::{self, Error};
use crate::matrix::len_u64;
use crate::store::fs::Fs;
use crate::store::sha256::Sha256;

/// Blobs of which it is remembered that their bytes were compared with their name; 72 bytes each.
const VERIFIED: usize = 4096;

/// Ending of the names of temp files: nothing else in `tmp/` is ever removed.
const TEMP_ENDING: &str = ".part";

/// The store.
#[derive(Debug)]
pub(crate) struct Blobs {
    /// `data_dir/blobs`
    root: PathBuf,
    /// `data_dir/tmp`
    tmp: PathBuf,
    /// `data_dir/orphans`
    orphans: PathBuf,
    /// What they lie on.
    disk: Arc<dyn Fs>,
    /// Room that is spoken for.
    promised: Promised,
    /// Blobs whose bytes were compared with their name since the opening, or written by this process.
    verified: Cache<Sha256, Stamp>,
    /// Names the next temp file. `tmp` is emptied at the start and one process's alone, so a number will do.
    next_temp: AtomicU64,
    /// How many [`Claim`]s are out for each name. Held while a blob is removed, so that no upload can take for granted
    /// a file that is about to go.
    claims: Mutex<HashMap<Sha256, usize>>,
}

/// Bytes on their way in: counted, limited and hashed. Dropped before [`finish`](Self::finish), nothing stays.
#[derive(Debug)]
pub(crate) struct Ingest {
    /// Where to.
    blobs: Arc<Blobs>,
    /// Where they are until then.
    temp: TempFile,
    /// Room for what is still to come.
    reservation: Reservation,
    /// Of the bytes so far.
    hasher: Hasher,
    /// Bytes so far.
    size: u64,
    /// Those that are on their way to the medium.
    syncing: u64,
    /// Most bytes allowed.
    limit: u64,
}

/// A file in `tmp`, deleted on drop unless it was renamed.
#[derive(Debug)]
struct TempFile {
    /// What it lies on.
    disk: Arc<dyn Fs>,
    /// Its name; `None` once that is a blob's.
    path: Option<PathBuf>,
    /// The one handle that writes.
    file: File,
}

/// A blob that is in place and durable, and cannot be removed while this lives. Hold it until the row is committed.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Where it lies.
    blobs: Arc<Blobs>,
    /// Its name.
    sha256: Sha256,
    /// Its length, bytes.
    size: u64,
    /// Whether other bytes had its name before.
    has_replaced_damage: bool,
}

/// What stands where a blob should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing.
    Nothing,
    /// The blob.
    Whole,
    /// Something else.
    Damaged,
}

/// Bytes that did not become a durable blob. A file may lie under the blob's name all the same.
#[derive(Debug, thiserror::Error)]
#[error("making the blob {sha256} durable")]
pub(crate) struct Unfinished {
    /// The blob's name.
    pub(crate) sha256: Sha256,
    /// What the file system said.
    pub(crate) source: io::Error,
}

/// Why a blob that there ought to be is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    /// Nothing stands under its name.
    #[error("it is missing")]
    Missing,
    /// A folder or the like does.
    #[error("something that is no file stands in its place")]
    NoFile,
    /// It was cut off, or something was appended.
    #[error("it has {there} bytes, not {size}")]
    Length {
        /// Its bytes.
        there: u64,
        /// Those it ought to have.
        size: u64,
    },
}

/// Why bytes did not get in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// More bytes than the limit.
    #[error("more than {0} bytes")]
    TooLarge(u64),
    /// The file system failed, for example because it is full.
    #[error("writing to the blob store: {0}")]
    Io(#[from] io::Error),
}

impl Blobs {
    /// Opens the store below `data_dir`, creating it if need be, and deletes temp files an interrupted run left.
    pub(crate) fn open(data_dir: &Path, disk: Arc<dyn Fs>) -> io::Result<Arc<Self>> {
        let [root, tmp, orphans] = ["blobs", "tmp", "orphans"].map(|name| data_dir.join(name));
        for folder in [&root, &tmp, &orphans] {
            disk.create_folder(folder)?;
        }
        disk.sync_folder(data_dir)?;
        for leftover in fs::read_dir(&tmp)? {
            let leftover = leftover?;
            if is_temp(&leftover) {
                disk.remove(&leftover.path())?;
            }
        }
        for first in 0..=u8::MAX {
            disk.create_folder(&root.join(format!("{first:02x}")))?;
        }
        disk.sync_folder(&root)?;
        Ok(Arc::new(Self {
            root,
            tmp,
            orphans,
            disk,
            promised: Promised::default(),
            verified: Cache::new(VERIFIED),
            // 0 is for what stands beside the directory.
            next_temp: AtomicU64::new(1),
            claims: Mutex::default(),
        }))
    }

    /// Starts taking in at most `limit` bytes, for which there is room if they were `announced`; else room is taken by steps as
    /// they come.
    ///
    /// # Errors
    /// `StorageFull` when they would eat into what is left alone on the disk or into what others were promised.
    pub(crate) fn ingest(self: &Arc<Self>, limit: u64, announced: Option<u64>) -> io::Result<Ingest> {
        let expected = announced.unwrap_or(STEP).min(limit);
        let reservation = Reservation::new(self, expected)?;
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let path = self.tmp.join(format!("{number}{TEMP_ENDING}"));
        let temp =
            TempFile { disk: Arc::clone(&self.disk), file: self.disk.create(&path)?, path: Some(path) };
        let (blobs, hasher) = (Arc::clone(self), Hasher::new());
        Ok(Ingest { blobs, temp, reservation, hasher, size: 0, syncing: 0, limit })
    }

    /// Opens a blob of `size` bytes for reading. What else stands under its name is not the blob.
    pub(crate) fn get(&self, sha256: &Sha256, size: u64) -> io::Result<Result<BlobReader, Lost>> {
        let path = self.path(sha256);
        // Not to wait: a pipe has no bytes for as long as nobody writes into it.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) => {
                use io::ErrorKind::{NotADirectory, NotFound};
                let is_missing = matches!(error.kind(), NotFound | NotADirectory);
                let is_other = || fs::symlink_metadata(&path).is_ok_and(|there| !there.is_file());
                return match error {
                    _ if is_missing => Ok(Err(Lost::Missing)),
                    _ if is_other() => Ok(Err(Lost::NoFile)),
                    error => Err(error),
                };
            }
        };
        let there = file.metadata()?;
        Ok(if !there.is_file() {
            Err(Lost::NoFile)
        } else if there.len() != size {
            Err(Lost::Length { there: there.len(), size })
        } else {
            Ok(BlobReader::new(FileSource::new(file), size))
        })
    }

    /// Calls `visit` with the name of every blob, a few at a time in memory; other files are left alone.
    pub(crate) fn walk(&self, mut visit: impl FnMut(Sha256) -> error::Result<()>) -> error::Result<()> {
        let failed = |error| Error::internal("walking the blob store", error);
        for first in 0..=u8::MAX {
            for entry in fs::read_dir(self.folder(first)).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                if let Some(sha256) = name.to_str().and_then(Sha256::from_hex) {
                    visit(sha256)?;
                }
            }
        }
        Ok(())
    }

    /// Whether there is any blob below `root`. Changes nothing.
    pub(crate) fn is_any(root: &Path) -> io::Result<bool> {
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        for first in 0..=u8::MAX {
            let entries = match fs::read_dir(root.join(format!("{first:02x}"))) {
                Ok(entries) => entries,
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                if entry?.file_name().to_str().and_then(Sha256::from_hex).is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Writes a small file beside the directory, durable and whole or not at all.
    pub(crate) fn write_beside(&self, name: &str, text: &str) -> io::Result<()> {
        let Some(data_dir) = self.root.parent() else { return Ok(()) };
        let path = self.tmp.join(format!("0{TEMP_ENDING}"));
        let file = self.disk.create(&path)?;
        self.disk.write(&file, text.as_bytes())?;
        self.disk.sync(&file)?;
        self.disk.rename(&path, &data_dir.join(name))?;
        self.disk.sync_folder(data_dir)
    }

    /// Whether a blob is being given a row at this moment.
    pub(crate) fn is_claimed(&self, sha256: &Sha256) -> bool {
        self.claims().contains_key(sha256)
    }

    /// Whether new blobs would be taken in now, for the health check. An empty file would fit on a full disk.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.check_room()?;
        tempfile::tempfile_in(&self.tmp)?.write_all(&[1; 4096])
    }

    /// What stands at `path`, where the bytes of `sha256` should. They are read once after each opening, and when the file is not as it
    /// was: a medium or a person may have changed them.
    fn look(&self, path: &Path, sha256: &Sha256, size: u64) -> Found {
        let Ok(there) = fs::symlink_metadata(path) else { return Found::Nothing };
        if there.is_file() && there.len() == size {
            if self.verified.get(sha256) == Some(stamp(&there)) {
                return Found::Whole;
            }
            match digest(path) {
                Ok(digest) if digest == *sha256 => {
                    self.verified.insert(*sha256, stamp(&there));
                    return Found::Whole;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%sha256, %error, "a blob cannot be read; the same bytes replace it");
                    return Found::Damaged;
                }
            }
        }
        tracing::error!(%sha256, "a blob is damaged; the same bytes have come again and replace it");
        Found::Damaged
    }

    /// `ab`
    fn folder(&self, first: u8) -> PathBuf {
        self.root.join(format!("{first:02x}"))
    }

    /// `ab/<sha256>`
    fn path(&self, sha256: &Sha256) -> PathBuf {
        let [first, ..] = *sha256.as_bytes();
        self.folder(first).join(sha256.to_string())
    }

    /// The table of claims. A panic elsewhere cannot leave it half-changed.
    fn claims(&self) -> MutexGuard<'_, HashMap<Sha256, usize>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ingest {
    /// Takes in `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        let size = self.size.saturating_add(len_u64(bytes.len()));
        if size > self.limit {
            return Err(IngestError::TooLarge(self.limit));
        }
        self.reservation.prepare(len_u64(bytes.len()))?;
        self.temp.disk.write(&self.temp.file, bytes)?;
        self.reservation.used(len_u64(bytes.len()));
        self.size = size;
        let waiting = size.saturating_sub(self.syncing);
        if waiting >= STEP {
            self.temp.disk.begin_sync(&self.temp.file, self.syncing, waiting);
            self.syncing = size;
            // Others write to the same disk.
            self.blobs.check_room()?;
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Bytes taken in so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the bytes so far, and further ones as they come. It stays good after [`finish`](Self::finish), and after a drop.
    pub(crate) fn reader(&self) -> io::Result<BlobReader> {
        let file = File::open(self.temp.path.as_deref().ok_or(io::ErrorKind::NotFound)?)?;
        Ok(BlobReader::new(FileSource::new(file), self.size))
    }

    /// Makes a durable blob of what was taken in. Identical bytes are stored once: the second comer finds them there.
    pub(crate) fn finish(self) -> Result<Claim, Unfinished> {
        let Self { blobs, temp, hasher, size, .. } = self;
        let sha256 = Sha256::from_bytes(hasher.finalize().into());
        // Claimed first: from here on nobody removes a file of that name.
        let mut claim = Claim::new(Arc::clone(&blobs), sha256, size);
        match temp.become_blob(&blobs, &sha256, size) {
            Ok(has_replaced_damage) => {
                claim.has_replaced_damage = has_replaced_damage;
                Ok(claim)
            }
            Err(source) => Err(Unfinished { sha256, source }),
        }
    }
}

impl TempFile {
    /// Takes the place of a blob of `size` bytes in `blobs`, unless one is there, and makes its name durable. A file of that name
    /// with other bytes was damaged from outside, and is replaced; says whether there was one.
    fn become_blob(mut self, blobs: &Blobs, sha256: &Sha256, size: u64) -> io::Result<bool> {
        let path = blobs.path(sha256);
        let folder = path.parent().unwrap_or(&blobs.root);
        let found = blobs.look(&path, sha256, size);
        if found != Found::Whole {
            self.disk.sync(&self.file)?;
            if fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir()) {
                // No file can be renamed over a folder. Whoever made it may miss it.
                self.disk.rename(&path, &path.with_extension("aside"))?;
            }
            if let Some(temp) = &self.path {
                // Two comers at once: the second rename puts identical bytes over the first's.
                self.disk.rename(temp, &path)?;
                self.path = None;
            }
            if let Ok(there) = fs::symlink_metadata(&path) {
                blobs.verified.insert(*sha256, stamp(&there));
            }
        }
        // For a file found there too: whoever renamed it may not have come this far.
        self.disk.sync_folder(folder)?;
        Ok(found == Found::Damaged)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = self.disk.remove(path)
        {
            tracing::error!(%error, "a temp file stays until the next start");
        }
    }
}

impl Claim {
    /// Counts a claim.
    fn new(blobs: Arc<Blobs>, sha256: Sha256, size: u64) -> Self {
        let mut claims = blobs.claims();
        let count = claims.entry(sha256).or_default();
        *count = count.saturating_add(1);
        drop(claims);
        Self { blobs, sha256, size, has_replaced_damage: false }
    }

    /// The blob's name.
    pub(crate) fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The blob's length, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether other bytes had the blob's name before: what was read of them is wrong.
    pub(crate) fn has_replaced_damage(&self) -> bool {
        self.has_replaced_damage
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.blobs.claims();
        if let Some(count) = claims.get_mut(&self.sha256) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                claims.remove(&self.sha256);
            }
        }
    }
}

/// What changes when somebody else writes to a file: its inode, and when its bytes and itself were last changed.
type Stamp = [i64; 5];

/// The stamp of a file.
fn stamp(file: &fs::Metadata) -> Stamp {
    let inode = file.ino().cast_signed();
    [inode, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()]
}

/// Whether an entry of `tmp/` is a file of ours: nothing else there is touched, whatever `data_dir` names.
fn is_temp(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let number = name.to_str().and_then(|name| name.strip_suffix(TEMP_ENDING)).unwrap_or_default();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number && entry.file_type().is_ok_and(|kind| kind.is_file())
}

/// The SHA-256 of a file's bytes.
fn digest(path: &Path) -> io::Result<Sha256> {
    let (mut file, mut hasher) = (File::open(path)?, Hasher::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Sha256::from_bytes(hasher.finalize().into())),
            Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::store::fs::SystemFs;

    /// SHA-256 of "hello".
    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    /// A store in a folder that goes with the first value.
    fn store() -> (tempfile::TempDir, Arc<Blobs>) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        (folder, blobs)
    }

    /// Puts `bytes` through the gate.
    fn put(blobs: &Arc<Blobs>, bytes: &[u8]) -> Claim {
        let mut ingest = blobs.ingest(100, None).unwrap();
        bytes.chunks(3).for_each(|piece| ingest.write(piece).unwrap());
        ingest.finish().unwrap()
    }

    /// Names of the files in `tmp`.
    fn leftovers(folder: &tempfile::TempDir) -> usize {
        fs::read_dir(folder.path().join("tmp")).unwrap().count()
    }

    /// Removes a blob that nothing refers to.
    fn remove(blobs: &Blobs, sha256: &Sha256) -> bool {
        blobs.remove_unless(sha256, || Ok(false)).unwrap()
    }

    #[test]
    fn a_blob_lies_under_its_sha256_and_is_read_only() {
        let (folder, blobs) = store();
        let claim = put(&blobs, b"hello");
        assert_eq!((claim.sha256().to_string().as_str(), claim.size()), (HELLO, 5));
        let path = folder.path().join("blobs/2c").join(HELLO);
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        let mut text = String::new();
        blobs.get(&claim.sha256(), 5).unwrap().unwrap().cursor().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(leftovers(&folder), 0);
    }

    #[test]
    fn identical_bytes_are_stored_once() {
        let (folder, blobs) = store();
        let (one, two) = (put(&blobs, b"hello"), put(&blobs, b"hello"));
        assert_eq!(one.sha256(), two.sha256());
        let mut names = Vec::new();
        blobs
            .walk(|sha256| {
                names.push(sha256);
                Ok(())
            })
            .unwrap();
        assert_eq!(names, [one.sha256()]);
        assert_eq!(leftovers(&folder), 0);
    }

    #[test]
    fn a_blob_cut_short_from_outside_is_whole_after_the_next_upload() {
        let (folder, blobs) = store();
        let sha256 = put(&blobs, b"hello").sha256();
        let path = folder.path().join("blobs/2c").join(HELLO);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"he").unwrap();
        put(&blobs, b"hello");
        let mut text = String::new();
        blobs.get(&sha256, 5).unwrap().unwrap().cursor().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn what_else_stands_under_a_blobs_name_is_not_given_out_and_makes_way_for_its_bytes() {
        use std::os::unix::net::UnixListener;
        type Damage<'a> = &'a dyn Fn(&Path);

        let (folder, blobs) = store();
        let sha256 = put(&blobs, b"hello").sha256();
        let path = folder.path().join("blobs/2c").join(HELLO);
        let length = |there| Lost::Length { there, size: 5 };
        let table: [(Damage<'_>, Lost); 8] = [
            (&|_| {}, Lost::Missing),
            (&|path| fs::write(path, b"he").unwrap(), length(2)),
            (&|path| fs::write(path, b"").unwrap(), length(0)),
            (&|path| fs::write(path, b"hello!").unwrap(), length(6)),
            (&|path| fs::create_dir(path).unwrap(), Lost::NoFile),
            (&|path| fs::create_dir_all(path.join("with/more")).unwrap(), Lost::NoFile),
            (&|path| drop(UnixListener::bind(path).unwrap()), Lost::NoFile),
            (&|path| std::os::unix::fs::symlink(path, path).unwrap(), Lost::NoFile),
        ];
        for (damage, expected) in table {
            fs::remove_file(&path).unwrap();
            damage(&path);
            assert_eq!(blobs.get(&sha256, 5).unwrap().unwrap_err(), expected);
            put(&blobs, b"hello");
            assert!(blobs.get(&sha256, 5).unwrap().is_ok(), "after {expected}");
            fs::remove_dir_all(path.with_extension("aside")).ok();
        }
        let mkfifo = std::process::Command::new("mkfifo").arg(path.with_extension("pipe")).status().unwrap();
        assert!(mkfifo.success());
        fs::rename(path.with_extension("pipe"), &path).unwrap();
        assert_eq!(blobs.get(&sha256, 5).unwrap().unwrap_err(), Lost::NoFile, "without waiting");
    }

    #[test]
    fn too_many_bytes_are_refused_and_leave_nothing() {
        let (folder, blobs) = store();
        let mut ingest = blobs.ingest(4, None).unwrap();
        ingest.write(b"1234").unwrap();
        assert!(matches!(ingest.write(b"5"), Err(IngestError::TooLarge(4))));
        drop(ingest);
        assert_eq!(leftovers(&folder), 0);
    }

    #[test]
    fn an_empty_file_is_a_blob() {
        let (_folder, blobs) = store();
        let claim = put(&blobs, b"");
        assert_eq!(claim.size(), 0);
        assert!(blobs.get(&claim.sha256(), 0).unwrap().is_ok());
    }

    #[test]
    fn a_claimed_or_wanted_blob_is_not_removed_and_removing_twice_is_fine() {
        let (_folder, blobs) = store();
        let claim = put(&blobs, b"hello");
        let sha256 = claim.sha256();
        assert!(!remove(&blobs, &sha256));
        drop(claim);
        assert!(!blobs.remove_unless(&sha256, || Ok(true)).unwrap());
        assert!(remove(&blobs, &sha256));
        assert_eq!(blobs.get(&sha256, 5).unwrap().unwrap_err(), Lost::Missing);
        assert!(remove(&blobs, &sha256));
    }

    #[test]
    fn a_blob_comes_back_after_its_removal() {
        let (_folder, blobs) = store();
        let sha256 = put(&blobs, b"hello").sha256();
        remove(&blobs, &sha256);
        assert_eq!(put(&blobs, b"hello").sha256(), sha256);
        assert!(blobs.get(&sha256, 5).unwrap().is_ok());
    }

    #[test]
    fn leftovers_of_an_interrupted_run_go_at_the_next_opening() {
        let (folder, blobs) = store();
        let mut ingest = blobs.ingest(100, None).unwrap();
        ingest.write(b"half").unwrap();
        std::mem::forget(ingest);
        assert_eq!(leftovers(&folder), 1);
        Blobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        assert_eq!(leftovers(&folder), 0);
    }

    #[test]
    fn a_file_system_that_refuses_is_an_error_and_nothing_half_written_stays() {
        let (folder, blobs) = store();
        let mut ingest = blobs.ingest(100, None).unwrap();
        ingest.write(b"hello").unwrap();
        // A file stands where the folder was: renaming into it fails, whoever runs the test.
        fs::remove_dir(folder.path().join("blobs/2c")).unwrap();
        fs::write(folder.path().join("blobs/2c"), b"").unwrap();
        assert!(ingest.finish().is_err());
        assert_eq!(leftovers(&folder), 0);
        assert!(blobs.claims().is_empty());
    }

    #[test]
    fn a_blob_with_flipped_bits_is_replaced_when_its_bytes_come_again_after_an_opening() {
        let (folder, blobs) = store();
        put(&blobs, b"hello");
        drop(blobs);
        let path = folder.path().join("blobs/2c").join(HELLO);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"hellp").unwrap();
        let blobs = Blobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        put(&blobs, b"hello");
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        // Also by somebody else while it is open.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"hellq").unwrap();
        put(&blobs, b"hello");
        assert_eq!(fs::read(&path).unwrap(), b"hello");
    }

    #[test]
    fn files_of_others_in_tmp_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        for name in ["notes.txt", "7", "x.part", ".part", "1.part", "22.part"] {
            fs::write(folder.path().join("tmp").join(name), b"x").unwrap();
        }
        fs::create_dir(folder.path().join("tmp/3.part")).unwrap();
        drop(Blobs::open(folder.path(), Arc::new(SystemFs)).unwrap());
        let mut left: Vec<_> = fs::read_dir(folder.path().join("tmp"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".part", "3.part", "7", "notes.txt", "x.part"]);
    }

    #[test]
    fn a_reader_sees_bytes_before_and_after_the_finish() {
        let (_folder, blobs) = store();
        let mut ingest = blobs.ingest(100, None).unwrap();
        let reader = ingest.reader().unwrap().range(0, 5);
        let mut seen = [0; 5];
        ingest.write(b"he").unwrap();
        assert_eq!(reader.read_at(0, &mut seen).unwrap(), 2);
        ingest.write(b"llo").unwrap();
        ingest.finish().unwrap();
        assert_eq!(reader.read_at(2, &mut seen[2..]).unwrap(), 3);
        assert_eq!((&seen, reader.available().unwrap()), (b"hello", 5));
    }
}
