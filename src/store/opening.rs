//! Opening the store: one process at a time, and only if catalog and blob directory belong together.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::UNIX_EPOCH;

use super::Store;
use super::blobs::{BlobStore, DirectoryBlobs};
use super::catalog::{self, Catalog, SqliteCatalog, StoreId};
use super::fs::Fs;
use super::lookup::LossReports;
use super::removal::Removals;
use crate::error::{Error, Result};

/// The file beside the blob directory that names its store.
const MARKER: &str = "store-id";

/// Why the store is not opened. The text says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The catalog is missing or has no media, and there are blobs.
    #[error(
        "catalog.db is missing or empty, but blobs/ holds media; nothing was changed. Restore catalog.db from a backup (README, \
         \"Backup and restore\"), or move {} away to begin with an empty store", .blobs.display()
    )]
    MissingCatalog { blobs: PathBuf },
    /// The catalog has media, and the blob directory is not there.
    #[error(
        "catalog.db knows media, but {} is missing or empty; nothing was changed. Mount the disk of data_dir, or restore it from \
         a backup (README, \"Backup and restore\"). To go on without the files: mkdir -p {0}/00, as the user the service runs as", .blobs.display()
    )]
    MissingBlobs { blobs: PathBuf },
    /// Both are there, with different store IDs.
    #[error(
        "catalog.db and blobs/ belong to different stores; nothing was changed. Put the two together that were backed up together. \
         To go on with these two all the same: rm {0}; echo {id} > {0}", .marker.display()
    )]
    Foreign { marker: PathBuf, id: StoreId },
    /// `store-id` cannot be parsed.
    #[error("{} cannot be read as the ID of a store. To take catalog.db for its catalog: rm {0}", .marker.display())]
    Malformed { marker: PathBuf },
}

impl Store {
    /// Opens catalog and blobs below `data_dir`, and creates a new store where there is neither. Holds a lock on the directory as long as
    /// it lives.
    ///
    /// # Errors
    /// A [`StoreError`] as source when the two do not belong together. Nothing is changed then.
    pub(crate) fn open(data_dir: &Path, fs: Arc<dyn Fs>) -> Result<Self> {
        let lock = lock_data_dir(data_dir)?;
        if let Some(error) = inspect(data_dir)? {
            return Err(Error::internal("opening the store", error));
        }
        let directory = BlobDirectory::look(data_dir)?;
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(data_dir)?);
        let (id, openings) = catalog.store_id()?;
        let blobs: Arc<dyn BlobStore> = DirectoryBlobs::open(data_dir, fs)
            .map_err(|error| Error::internal("opening the blob store", error))?;
        let file = file_identity(&data_dir.join("catalog.db"));
        let theirs = directory.marker.as_ref().map_or(0, |marker| marker.openings);
        let is_known =
            |marker: &Marker| marker.openings <= openings && marker.catalog.as_ref() == Some(&file);
        let is_older = directory.has_blobs && !directory.marker.as_ref().is_some_and(is_known);
        if is_older && directory.marker.is_some() {
            tracing::warn!(
                "catalog.db is not the file that was here before: a backup was restored, or data_dir was copied. Files in \
                 blobs/ that came after it have no row and cannot be served; they are kept"
            );
        }
        let openings = AtomicI64::new(openings.max(theirs));
        let store = Self {
            catalog,
            blobs,
            id,
            openings,
            file,
            is_older: AtomicBool::new(is_older),
            removals: Removals::default(),
            losses: LossReports::default(),
            _lock: lock,
        };
        // Not fatal: with a full disk, stored media can still be served.
        if let Err(error) = store.note_generation() {
            tracing::error!(?error, "store-id could not be written");
        }
        store.take_back_wanted()?;
        Ok(store)
    }

    /// Advances the generation, a number in both catalog and `store-id`, first in the catalog. By its lower number, a restored copy of the
    /// catalog is recognised as older than the directory. Called at the opening, every hour and at the end. Does nothing while the catalog
    /// may be the older one.
    pub(crate) fn note_generation(&self) -> Result<()> {
        if self.is_older.load(Ordering::Acquire) {
            return Ok(());
        }
        let generation = self.openings.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        self.catalog.set_openings(generation)?;
        let failed = |error| Error::internal("writing store-id", error);
        let text = format!("{} {generation} {}\n", self.id, self.file);
        self.blobs.write_beside(MARKER, &text).map_err(failed)
    }
}

/// Checks whether the store below `data_dir` can be opened; returns why not. Changes nothing, and may be called while the service runs.
///
/// # Errors
/// When catalog or directory cannot be read, and when the catalog is damaged or was written by a newer version.
pub(crate) fn inspect(data_dir: &Path) -> Result<Option<StoreError>> {
    let directory = BlobDirectory::look(data_dir)?;
    let path = data_dir.join("catalog.db");
    if is_empty(&path) {
        let blobs = directory.root;
        return Ok(directory.has_blobs.then_some(StoreError::MissingCatalog { blobs }));
    }
    let (id, has_media) = catalog::peek(&path)?;
    Ok(directory.check(id, has_media).err())
}

/// The blob directory as found before the opening.
struct BlobDirectory {
    /// `data_dir/blobs`
    root: PathBuf,
    marker_path: PathBuf,
    /// Whether its folders exist, which means that a store was opened here before.
    is_there: bool,
    has_blobs: bool,
    marker: Option<Marker>,
}

/// The content of `store-id`.
struct Marker {
    /// `None` when it cannot be parsed.
    id: Option<StoreId>,
    /// See [`Store::note_generation`].
    openings: i64,
    /// The catalog's [`file_identity`] when it was written.
    catalog: Option<String>,
}

impl BlobDirectory {
    /// Reads the directory without changing it.
    fn look(data_dir: &Path) -> Result<Self> {
        let failed = |error| Error::internal("looking at blobs/", error);
        let (root, marker_path) = (data_dir.join("blobs"), data_dir.join(MARKER));
        let has_blobs = DirectoryBlobs::is_any(&root).map_err(failed)?;
        let is_there = has_blobs || root.join("00").is_dir();
        let marker = match std::fs::read_to_string(&marker_path) {
            Ok(text) => Marker::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { root, marker_path, is_there, has_blobs, marker })
    }

    /// Whether the catalog with `id` belongs to this directory. `id` is `None` if a version without IDs has written it.
    fn check(&self, id: Option<StoreId>, has_media: bool) -> std::result::Result<(), StoreError> {
        let (blobs, marker) = (self.root.clone(), self.marker_path.clone());
        let theirs = self.marker.as_ref().map(|marker| marker.id);
        if has_media && !self.is_there {
            return Err(StoreError::MissingBlobs { blobs });
        }
        match (theirs, id) {
            (Some(None), _) => Err(StoreError::Malformed { marker }),
            (Some(Some(theirs)), Some(id)) if theirs == id => Ok(()),
            // If both are empty, nothing can be lost.
            _ if !self.has_blobs && !has_media => Ok(()),
            _ if !has_media => Err(StoreError::MissingCatalog { blobs }),
            (Some(Some(_)), Some(id)) => Err(StoreError::Foreign { marker, id }),
            // One of them was written by a version without IDs.
            (None, _) | (_, None) => Ok(()),
        }
    }
}

/// Creates the data directory with access for its owner alone, makes its name durable, and locks it against a second process.
fn lock_data_dir(path: &Path) -> Result<File> {
    let prepare = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if let Some(parent) = path.canonicalize()?.parent() {
            File::open(parent)?.sync_all()?;
        }
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"))
    };
    let lock = prepare().map_err(|error| Error::internal("creating data_dir", error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let error = io::Error::other("another media-sidecar is running there");
            Err(Error::internal("locking data_dir", error))
        }
        Err(TryLockError::Error(error)) => Err(Error::internal("locking data_dir", error)),
    }
}

impl Marker {
    /// Parses `<id> <generation> <catalog>`; an operator may have written the ID alone. `None` for an empty file.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let id = StoreId::from_hex(words.next()?);
        let openings = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Some(Self { id, openings, catalog: words.next().map(str::to_owned) })
    }
}

/// Whether a file does not exist or is empty.
fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path)
        .map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |file| file.len() == 0)
}

/// Distinguishes a file from another one put in its place: inode number and, if the file system has it, time of creation.
fn file_identity(path: &Path) -> String {
    let Ok(file) = std::fs::metadata(path) else { return String::new() };
    let made = file.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    format!("{}.{}", file.ino(), made.map_or(0, |made| made.as_nanos()))
}
