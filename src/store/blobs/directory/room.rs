//! Free space: how much must stay free, and how much is reserved for uploads in progress.
//!
//! The file system says how much is free. Bytes that were announced and not yet written are counted here, so that several uploads at the
//! same time cannot all rely on the same space.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::fs::Fs;

/// Space that must stay free on the disk, bytes: the catalog needs some for its log, even to delete rows. No blob is begun below it; one in
/// progress may use one [`STEP`] of it.
pub(super) const FLOOR: u64 = 64 << 20;

/// Space reserved at once for bytes that were not announced, and bytes written before free space is checked again.
pub(super) const STEP: u64 = 4 << 20;

/// The free space of one file system.
#[derive(Debug)]
pub(super) struct FreeSpace {
    fs: Arc<dyn Fs>,
    /// A folder on the file system.
    folder: PathBuf,
    /// Bytes reserved for all blobs in progress and not yet written.
    promised: Mutex<u64>,
}

/// Space reserved for one writer. The rest of it is released when this is dropped.
#[derive(Debug)]
pub(super) struct SpaceReservation {
    room: Arc<FreeSpace>,
    /// Bytes reserved and not yet written.
    left: u64,
}

impl FreeSpace {
    /// The free space of the file system of `folder`.
    pub(super) fn new(fs: Arc<dyn Fs>, folder: PathBuf) -> Self {
        Self { fs, folder, promised: Mutex::default() }
    }

    /// Whether more than the required space is free. Reservations are not counted, because they may be used.
    pub(super) fn check(&self) -> io::Result<()> {
        let free = self.fs.free(&self.folder)?;
        if free < FLOOR {
            let why = format!(
                "only {free} bytes are free, and {FLOOR} must stay free: free some on this disk, move data_dir to a larger one, or let \
                 local media go (retention.local)"
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        Ok(())
    }

    /// Bytes that are free and not reserved.
    pub(super) fn unpromised(&self) -> io::Result<u64> {
        let promised = *self.promised();
        Ok(self.fs.free(&self.folder)?.saturating_sub(promised))
    }

    /// The sum of reservations. It is never left half-changed, so a poisoned lock can be used.
    fn promised(&self) -> MutexGuard<'_, u64> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpaceReservation {
    /// Reserves space for `bytes`.
    ///
    /// # Errors
    /// `StorageFull` when they do not fit beside the space that must stay free and the reservations of others.
    pub(super) fn new(room: &Arc<FreeSpace>, bytes: u64) -> io::Result<Self> {
        let mut reservation = Self { room: Arc::clone(room), left: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Makes sure that `bytes` more may be written. Announced bytes are reserved already; for others a further step is reserved.
    pub(super) fn prepare(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.left { self.grow(bytes.saturating_sub(self.left).max(STEP)) } else { Ok(()) }
    }

    /// Notes that `bytes` were written: from here on the file system counts them.
    pub(super) fn used(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left = self.left.saturating_sub(bytes);
        let mut promised = self.room.promised();
        *promised = promised.saturating_sub(bytes);
    }

    /// Reserves `bytes` more. Checked and counted under one lock.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let mut promised = self.room.promised();
        let free = self.room.fs.free(&self.room.folder)?;
        let wanted = promised.saturating_add(bytes);
        if free < FLOOR || free.saturating_sub(wanted) < FLOOR.saturating_sub(STEP) {
            let others = *promised;
            let why = format!(
                "{free} bytes are free, {others} of them promised to uploads and fetches under way; {bytes} more are \
                 wanted, and {FLOOR} are left alone"
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        *promised = wanted;
        self.left = self.left.saturating_add(bytes);
        Ok(())
    }
}

impl Drop for SpaceReservation {
    fn drop(&mut self) {
        self.used(self.left);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs::File;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::blobs::{BlobStore as _, DirectoryBlobs};
    use crate::store::fs::SystemFs;

    /// A disk with so many bytes free, less what is written to it.
    #[derive(Debug)]
    struct Small(AtomicU64);

    impl Fs for Small {
        fn create(&self, path: &Path) -> io::Result<File> {
            SystemFs.create(path)
        }

        /// Large pieces are only counted: this disk would be slow.
        fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
            self.0.fetch_sub(crate::matrix::len_u64(bytes.len()), Ordering::SeqCst);
            if bytes.len() < 1000 { SystemFs.write(file, bytes) } else { Ok(()) }
        }

        fn begin_sync(&self, _file: &File, _offset: u64, _len: u64) {}

        fn sync(&self, _file: &File) -> io::Result<()> {
            Ok(())
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            SystemFs.rename(from, to)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            SystemFs.remove(path)
        }

        fn create_folder(&self, path: &Path) -> io::Result<()> {
            SystemFs.create_folder(path)
        }

        fn sync_folder(&self, _path: &Path) -> io::Result<()> {
            Ok(())
        }

        fn free(&self, _path: &Path) -> io::Result<u64> {
            Ok(self.0.load(Ordering::SeqCst))
        }
    }

    /// A store on a disk with so much free.
    fn store(free: u64) -> (tempfile::TempDir, Arc<Small>, Arc<DirectoryBlobs>) {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Arc::new(Small(free.into())));
        let below: Arc<dyn Fs> = Arc::<Small>::clone(&disk);
        let blobs = DirectoryBlobs::open(folder.path(), below).unwrap();
        (folder, disk, blobs)
    }

    /// A mebibyte.
    const MIB: u64 = 1 << 20;

    #[test]
    fn uploads_at_once_never_eat_what_is_left_alone_announced_or_not() {
        for announced in [Some(50 * MIB), None] {
            let (_folder, disk, blobs) = store(FLOOR + 60 * MIB);
            let mut uploads: Vec<_> =
                (0..6).filter_map(|_| Arc::clone(&blobs).begin(50 * MIB, announced).ok()).collect();
            assert_eq!(uploads.len(), if announced.is_some() { 1 } else { 6 });
            let piece = vec![0; usize::try_from(MIB).unwrap()];
            for _ in 0..50 {
                // An upload that finds no room ends.
                uploads.retain_mut(|upload| upload.write(&piece).is_ok());
                assert!(disk.0.load(Ordering::SeqCst) >= FLOOR - STEP);
            }
            let one_went_through = uploads.iter().any(|upload| upload.size() == 50 * MIB);
            assert!(one_went_through || announced.is_none());
        }
    }

    #[test]
    fn room_that_was_promised_and_not_used_is_free_again() {
        let (_folder, _disk, blobs) = store(FLOOR + 60 * MIB);
        let mut short = Arc::clone(&blobs).begin(50 * MIB, Some(50 * MIB)).unwrap();
        assert_eq!(
            Arc::clone(&blobs).begin(50 * MIB, Some(50 * MIB)).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        short.write(b"less than announced").unwrap();
        short.finish().unwrap();
        drop(Arc::clone(&blobs).begin(50 * MIB, Some(50 * MIB)).unwrap());
        assert_eq!(*blobs.room.promised(), 0);
    }

    #[test]
    fn an_upload_ends_when_others_fill_the_disk_meanwhile() {
        let (_folder, disk, blobs) = store(FLOOR + 60 * MIB);
        let mut upload = Arc::clone(&blobs).begin(50 * MIB, Some(50 * MIB)).unwrap();
        let piece = vec![0; usize::try_from(STEP).unwrap()];
        upload.write(&piece).unwrap();
        disk.0.store(FLOOR, Ordering::SeqCst);
        assert!(upload.write(&piece).is_err());
    }
}
