//! The few operations of the file system that durability rests on.
//!
//! Owns nothing and decides nothing: the order of the steps is `blobs.rs`'s. It stands apart so that tests can put a disk
//! in its place that fails at a chosen step, or forgets what was not synced. Reading goes past it.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Where the blob store writes.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Makes a file that is not there yet, for the owner alone and read-only from birth: nothing but the handle returned
    /// ever writes to it.
    fn create(&self, path: &Path) -> io::Result<File>;

    /// Appends all of `bytes`.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()>;

    /// Has a part of a file's bytes begin their way to the medium, so that less is left to wait for in
    /// [`sync`](Self::sync). Promises nothing.
    fn begin_sync(&self, file: &File, offset: u64, len: u64);

    /// Puts a file's bytes on the medium.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Gives a file another name in the same file system, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder and its parents, for the owner alone; fine if it is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Puts the names in a folder on the medium.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// How much room is left where `path` lies, bytes; [`u64::MAX`] when the file system does not say.
    fn free(&self, path: &Path) -> io::Result<u64>;
}

/// The system's.
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
        // Linux starts to write dirty pages back when it is told so, and keeps those on their way: fadvise(2), mm/fadvise.c.
        // A file system that knows no such advice syncs everything at the end.
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
        // Some file systems, of FUSE above all, have no notion of it.
        let is_known = space.f_blocks > 0;
        Ok(if is_known { space.f_bavail.saturating_mul(space.f_frsize) } else { u64::MAX })
    }
}
