//! The file system operations on which durability depends.
//!
//! Decides nothing: `blobs/directory` owns the order of the steps. It is a trait, so that tests can use a disk that fails at a chosen step or
//! loses everything that was not synced. Reading does not go through it.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A file system that blobs are written to.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a file that does not exist, readable by the owner alone. Only the handle returned can write to it.
    fn create(&self, path: &Path) -> io::Result<File>;

    /// Appends all of `bytes`.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()>;

    /// Starts to write a part of a file to the medium, so that [`sync`](Self::sync) takes less time. Guarantees nothing.
    fn begin_sync(&self, file: &File, offset: u64, len: u64);

    /// Makes a file's bytes durable.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Renames a file within the file system, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name; open handles stay good.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder and its parents, for the owner alone; fine if it exists.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Free bytes where `path` lies; [`u64::MAX`] when the file system does not say.
    fn free(&self, path: &Path) -> io::Result<u64>;
}

/// The system's own file system.
#[derive(Clone, Copy, Debug)]
pub struct SystemFs;

impl Fs for SystemFs {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn begin_sync(&self, file: &File, offset: u64, len: u64) {
        // Linux starts writeback of dirty pages on this advice and keeps them cached: fadvise(2), mm/fadvise.c. A file system that
        // ignores it syncs everything at the end.
        rustix::fs::fadvise(file, offset, NonZeroU64::new(len), rustix::fs::Advice::DontNeed)
            .unwrap_or_default();
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(path)?;
        // Some file systems, above all FUSE, do not support it.
        let is_known = space.f_blocks > 0;
        Ok(if is_known { space.f_bavail.saturating_mul(space.f_frsize) } else { u64::MAX })
    }
}
