//! Blobs in a directory: `blobs/ab/<sha256>`, so that `sha256sum` can check them. The 256 folders are created at the opening, so that a new
//! blob costs the sync of one folder only. With a million blobs each has 4000 files.
//!
//! Owns the durability of what is published: temp file in the same file system → write → fsync → rename → fsync of the folder.
//! Everything that changes the directory goes through its [`Fs`].

mod file;
mod room;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use quick_cache::sync::Cache;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256 as Hasher};

pub(super) use self::file::FileSource;
use self::room::{FreeSpace, STEP, SpaceReservation};
use self::writer::TempFile;
use super::claims::Claims;
use super::{BlobReader, BlobStore, Ingest, IsWanted, Lost, Visit};
use crate::error::{self, Error};
use crate::store::fs::Fs;
use crate::store::sha256::Sha256;

/// Blobs of which it is remembered that their bytes were compared with their name; 72 bytes each.
const VERIFIED: usize = 4096;

/// Ending of the names of temp files: nothing else in `tmp/` is ever removed.
const TEMP_ENDING: &str = ".part";

/// The directory.
#[derive(Debug)]
pub(crate) struct DirectoryBlobs {
    /// `data_dir/blobs`
    root: PathBuf,
    /// `data_dir/tmp`
    tmp: PathBuf,
    /// `data_dir/orphans`
    aside: PathBuf,
    fs: Arc<dyn Fs>,
    room: Arc<FreeSpace>,
    /// Blobs whose bytes were compared with their name since the opening, or written by this process.
    verified: Cache<Sha256, Stamp>,
    /// Names the next temp file. `tmp` is emptied at the opening and used by one process alone, so that a number is enough.
    next_temp: AtomicU64,
    claims: Claims,
}

/// What stands where a blob should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Whole,
    /// Something else.
    Damaged,
}

impl DirectoryBlobs {
    /// Opens the directories below `data_dir`, creating them if need be, and deletes temp files that an interrupted run left.
    pub(crate) fn open(data_dir: &Path, fs: Arc<dyn Fs>) -> io::Result<Arc<Self>> {
        let [root, tmp, aside] = ["blobs", "tmp", "orphans"].map(|name| data_dir.join(name));
        for folder in [&root, &tmp, &aside] {
            fs.create_folder(folder)?;
        }
        fs.sync_folder(data_dir)?;
        for leftover in fs::read_dir(&tmp)? {
            let leftover = leftover?;
            if is_temp(&leftover) {
                fs.remove(&leftover.path())?;
            }
        }
        for first in 0..=u8::MAX {
            fs.create_folder(&root.join(format!("{first:02x}")))?;
        }
        fs.sync_folder(&root)?;
        Ok(Arc::new(Self {
            room: Arc::new(FreeSpace::new(Arc::clone(&fs), tmp.clone())),
            root,
            tmp,
            aside,
            fs,
            verified: Cache::new(VERIFIED),
            // 0 is for what stands beside the directory.
            next_temp: AtomicU64::new(1),
            claims: Claims::default(),
        }))
    }

    /// Whether there is any blob below `root`. Changes nothing.
    pub(crate) fn is_any(root: &Path) -> io::Result<bool> {
        for first in 0..=u8::MAX {
            let entries = match fs::read_dir(root.join(format!("{first:02x}"))) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                if blob_name(&entry?).is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What stands at `path`, where the bytes of `sha256` should. They are read once after each opening, and when the file is not as
    /// it was: a medium or a person may have changed them.
    fn inspect(&self, path: &Path, sha256: &Sha256, size: u64) -> Found {
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

    /// Remembers that the file at `path` has the bytes of `sha256`.
    fn note_verified(&self, path: &Path, sha256: &Sha256) {
        if let Ok(there) = fs::symlink_metadata(path) {
            self.verified.insert(*sha256, stamp(&there));
        }
    }

    /// Renames a file and puts both folders on the medium.
    fn move_durably(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)?;
        for folder in [to.parent(), from.parent()].into_iter().flatten() {
            self.fs.sync_folder(folder)?;
        }
        Ok(())
    }

    /// The name of a temp file.
    fn temp_path(&self, number: u64) -> PathBuf {
        self.tmp.join(format!("{number}{TEMP_ENDING}"))
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

    /// `orphans/<sha256>`
    fn aside_path(&self, sha256: &Sha256) -> PathBuf {
        self.aside.join(sha256.to_string())
    }
}

impl BlobStore for DirectoryBlobs {
    fn begin(self: Arc<Self>, limit: u64, announced: Option<u64>) -> io::Result<Ingest> {
        let reservation = SpaceReservation::new(&self.room, announced.unwrap_or(STEP).min(limit))?;
        let temp = TempFile::create(Arc::clone(&self), reservation)?;
        Ok(Ingest::new(temp, &self.claims, limit))
    }

    fn open(&self, sha256: &Sha256, size: u64) -> io::Result<Result<BlobReader, Lost>> {
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

    fn remove_unless(&self, sha256: &Sha256, is_wanted: IsWanted<'_>) -> error::Result<bool> {
        self.claims.unless_wanted(sha256, is_wanted, || {
            absent_is_fine(self.fs.remove(&self.path(sha256)))
                .map_err(|error| Error::internal("removing a blob", error))
        })
    }

    fn is_claimed(&self, sha256: &Sha256) -> bool {
        self.claims.is_claimed(sha256)
    }

    fn size(&self, sha256: &Sha256) -> Option<u64> {
        fs::metadata(self.path(sha256)).ok().map(|file| file.len())
    }

    fn is_whole(&self, sha256: &Sha256) -> bool {
        digest(&self.path(sha256)).is_ok_and(|digest| digest == *sha256)
    }

    fn walk(&self, visit: Visit<'_>) -> error::Result<()> {
        for first in 0..=u8::MAX {
            walk_folder(&self.folder(first), visit)?;
        }
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        self.room.unpromised()
    }

    fn check(&self) -> io::Result<()> {
        self.room.check()?;
        // An empty file would fit on a full disk.
        tempfile::tempfile_in(&self.tmp)?.write_all(&[1; 4096])
    }

    fn set_aside_unless(&self, sha256: &Sha256, is_wanted: IsWanted<'_>) -> error::Result<bool> {
        self.claims.unless_wanted(sha256, is_wanted, || {
            absent_is_fine(self.move_durably(&self.path(sha256), &self.aside_path(sha256)))
                .map_err(|error| Error::internal("moving a blob to orphans/", error))
        })
    }

    fn take_back(&self, sha256: &Sha256) -> error::Result<()> {
        self.move_durably(&self.aside_path(sha256), &self.path(sha256))
            .map_err(|error| Error::internal("moving a blob back from orphans/", error))
    }

    fn remove_aside(&self, sha256: &Sha256) -> error::Result<()> {
        absent_is_fine(self.fs.remove(&self.aside_path(sha256)))
            .map_err(|error| Error::internal("removing a blob from orphans/", error))
    }

    fn walk_aside(&self, visit: Visit<'_>) -> error::Result<()> {
        walk_folder(&self.aside, visit)
    }

    fn write_beside(&self, name: &str, text: &str) -> io::Result<()> {
        let Some(data_dir) = self.root.parent() else { return Ok(()) };
        let path = self.temp_path(0);
        let file = self.fs.create(&path)?;
        self.fs.write(&file, text.as_bytes())?;
        self.fs.sync(&file)?;
        self.fs.rename(&path, &data_dir.join(name))?;
        self.fs.sync_folder(data_dir)
    }
}

/// What changes when somebody else writes to a file: its inode, and when its bytes and itself were last changed.
type Stamp = [i64; 5];

/// The stamp of a file.
fn stamp(file: &fs::Metadata) -> Stamp {
    let inode = file.ino().cast_signed();
    [inode, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()]
}

/// Success when a file is not there: somebody else has removed it.
fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Visits the blobs in one folder; other files are left alone.
fn walk_folder(folder: &Path, visit: Visit<'_>) -> error::Result<()> {
    let failed = |error| Error::internal("walking the blob store", error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        if let Some(sha256) = blob_name(&entry.map_err(failed)?) {
            visit(sha256)?;
        }
    }
    Ok(())
}

/// The blob whose name an entry has.
fn blob_name(entry: &fs::DirEntry) -> Option<Sha256> {
    entry.file_name().to_str().and_then(Sha256::from_hex)
}

/// Whether an entry of `tmp/` is a temp file of ours: nothing else there is touched, whatever `data_dir` names.
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
