//! Writes a blob into the directory: a temp file that is renamed to the blob's name when it is complete.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::FileSource;
use super::room::{STEP, SpaceReservation};
use super::{DirectoryBlobs, Found};
use crate::matrix::len_u64;
use crate::store::blobs::BlobReader;
use crate::store::blobs::ingest::{BlobWriter, Replaced};
use crate::store::sha256::Sha256;

/// A file in `tmp/`, deleted on drop unless it has become a blob.
#[derive(Debug)]
pub(super) struct TempFile {
    blobs: Arc<DirectoryBlobs>,
    /// Its name; `None` after it was renamed to a blob.
    path: Option<PathBuf>,
    /// The only handle that can write to it.
    file: File,
    /// Space reserved for the rest.
    reservation: SpaceReservation,
    /// Bytes so far.
    size: u64,
    /// Bytes for which writing to the medium has been started.
    syncing: u64,
}

impl TempFile {
    /// Creates an empty file.
    pub(super) fn create(blobs: Arc<DirectoryBlobs>, reservation: SpaceReservation) -> io::Result<Self> {
        let path = blobs.temp_path(blobs.next_temp.fetch_add(1, Ordering::Relaxed));
        let file = blobs.fs.create(&path)?;
        Ok(Self { blobs, path: Some(path), file, reservation, size: 0, syncing: 0 })
    }
}

impl BlobWriter for TempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let count = len_u64(bytes.len());
        self.reservation.prepare(count)?;
        self.blobs.fs.write(&self.file, bytes)?;
        self.reservation.used(count);
        self.size = self.size.saturating_add(count);
        let waiting = self.size.saturating_sub(self.syncing);
        if waiting >= STEP {
            self.blobs.fs.begin_sync(&self.file, self.syncing, waiting);
            self.syncing = self.size;
            // Other programs write to the same disk, so the reservation may not be there any more.
            self.blobs.room.check()?;
        }
        Ok(())
    }

    fn reader(&self, size: u64) -> io::Result<BlobReader> {
        let file = File::open(self.path.as_deref().ok_or(io::ErrorKind::NotFound)?)?;
        Ok(BlobReader::new(FileSource::new(file), size))
    }

    fn publish(mut self: Box<Self>, sha256: &Sha256, size: u64) -> io::Result<Replaced> {
        let blobs = Arc::clone(&self.blobs);
        let path = blobs.path(sha256);
        let found = blobs.inspect(&path, sha256, size);
        if found != Found::Whole {
            blobs.fs.sync(&self.file)?;
            let written = self.file.metadata()?.len();
            if written != size {
                let why = format!("{size} bytes were written, and the file has {written}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir()) {
                // A file cannot be renamed over a folder. The folder is not ours and stays.
                blobs.fs.rename(&path, &path.with_extension("aside"))?;
            }
            if let Some(temp) = &self.path {
                // If two uploads of the same bytes end at the same time, the second rename replaces the first file by identical bytes.
                blobs.fs.rename(temp, &path)?;
                self.path = None;
            }
            blobs.note_verified(&path, sha256);
        }
        // Also if the file existed already: the upload that renamed it may not have synced the folder yet.
        let [first, ..] = *sha256.as_bytes();
        blobs.fs.sync_folder(&blobs.folder(first))?;
        Ok(if found == Found::Damaged { Replaced::Damage } else { Replaced::Nothing })
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = self.blobs.fs.remove(path)
        {
            tracing::error!(%error, "removing a temp file failed; the next start removes it");
        }
    }
}
