//! The store: the catalog and the blob directory, opened together as the two halves of one thing.
//!
//! Owns the rules over both:
//!
//! 1. Storing: blob durable first, row second, answer third. Deleting: row first, blob second.
//! 2. **Deletion needs positive knowledge.** That a blob has no row is no reason to remove it: the catalog may be missing, new,
//!    restored from an older backup, another store's, or unreadable. That a row has no blob is no reason to remove the row: the disk
//!    may not be mounted, or a restore may be under way.
//!    - A catalog and a directory that do not belong together are not opened ([`StoreError`]). Both carry the same ID:
//!      the catalog in its table `store`, the directory in the file `store-id` beside it.
//!    - Blobs without a row are kept in place for [`ORPHAN_IN_PLACE`], then moved to `orphans/` with a warning, and removed
//!      after [`ORPHAN_ASIDE`]. Both are counted while the service runs, not by the clock. Nothing of that kind happens by itself
//!      to what is found when the catalog is older than the directory, or when it knows too little of it.
//!    - What a row wants is taken back from `orphans/`.
//! 3. An error on the way is never taken for an answer: whoever cannot read keeps.
//!
//! Refuses to know what media is for.

pub(crate) mod blobs;
pub(crate) mod catalog;
pub mod fs;
pub(crate) mod sha256;
pub(crate) mod stored_media;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use self::blobs::Blobs;
use self::catalog::{Catalog, Place, StoreId};
use self::fs::Fs;
use self::sha256::Sha256;
use crate::error::{Error, Result};

/// How long a blob without a row stays in `blobs/` while the service runs.
pub(crate) const ORPHAN_IN_PLACE: Duration = Duration::from_hours(7 * 24);

/// How long it stays in `orphans/` after that, likewise.
pub(crate) const ORPHAN_ASIDE: Duration = Duration::from_hours(30 * 24);

/// The file beside the blob directory that says whose it is.
const MARKER: &str = "store-id";

/// So many blobs without a row are what crashes leave. If there are more, something is wrong with the catalog, and they are kept.
const FEW_ORPHANS: usize = 64;

/// Names handled at once: in memory, and in one transaction.
const BATCH: u32 = 256;

/// The two halves, opened.
pub(crate) struct Store {
    /// What is known.
    pub(crate) catalog: Arc<Catalog>,
    /// Where bytes lie.
    pub(crate) blobs: Arc<Blobs>,
    /// What both have in common.
    id: StoreId,
    /// How far both have counted.
    openings: AtomicI64,
    /// Which file the catalog is.
    file: String,
    /// Whether the catalog may be older than the directory: blobs without a row may have come after it.
    is_older: AtomicBool,
}

/// Why the two halves are not opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is no catalog, or one that knows nothing, beside a directory with blobs.
    #[error(
        "catalog.db is missing or empty, but blobs/ holds media; nothing was changed. Restore catalog.db from a backup (README, \
         \"Backup and restore\"), or move {} away to begin with an empty store", .blobs.display()
    )]
    MissingCatalog {
        /// The directory.
        blobs: PathBuf,
    },
    /// The catalog knows media, and the directory is not there.
    #[error(
        "catalog.db knows media, but {} is missing or empty; nothing was changed. Mount the disk of data_dir, or restore it from \
         a backup (README, \"Backup and restore\"). To go on without the files: mkdir -p {0}/00, as the user the service runs as", .blobs.display()
    )]
    MissingBlobs {
        /// The directory.
        blobs: PathBuf,
    },
    /// Both are there and belong to different stores.
    #[error(
        "catalog.db and blobs/ belong to different stores; nothing was changed. Put the two together that were backed up together. \
         To go on with these two all the same: rm {0}; echo {id} > {0}", .marker.display()
    )]
    Foreign {
        /// `data_dir/store-id`
        marker: PathBuf,
        /// The catalog's ID.
        id: StoreId,
    },
    /// `store-id` has another form.
    #[error("{} cannot be read as the ID of a store. To take catalog.db for its catalog: rm {0}", .marker.display())]
    Malformed {
        /// `data_dir/store-id`
        marker: PathBuf,
    },
}

impl Store {
    /// Opens both halves below `data_dir`, creating a new store where there is nothing at all.
    ///
    /// # Errors
    /// A [`StoreError`] as source when the halves do not belong together. Nothing is changed then.
    pub(crate) fn open(data_dir: &Path, disk: Arc<dyn Fs>) -> Result<Self> {
        if let Some(error) = inspect(data_dir)? {
            return Err(Error::internal("opening the store", error));
        }
        let directory = Directory::look(data_dir)?;
        let catalog = Arc::new(Catalog::open(data_dir)?);
        let (id, openings) = catalog.store_id()?;
        let blobs =
            Blobs::open(data_dir, disk).map_err(|error| Error::internal("opening the blob store", error))?;
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
        let store = Self { catalog, blobs, id, openings, file, is_older: AtomicBool::new(is_older) };
        // A full disk is no reason not to serve what is there.
        if let Err(error) = store.note_generation() {
            tracing::error!(?error, "store-id could not be written");
        }
        store.take_back_wanted()?;
        Ok(store)
    }

    /// Counts on in both halves, the catalog first: whoever restores a copy of it that was made before is found out. To be called at
    /// the opening, now and then, and at the end; does nothing while the catalog may be the older one.
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

    /// Takes back from `orphans/` what a row refers to, for example since the right catalog was restored.
    fn take_back_wanted(&self) -> Result<()> {
        let mut wanted = Vec::new();
        self.blobs.walk_orphans(|sha256| {
            if self.catalog.refers_to(&sha256)? {
                wanted.push(sha256);
            }
            Ok(())
        })?;
        for sha256 in &wanted {
            if self.blobs.is_whole(sha256) {
                self.blobs.remove_orphan(sha256)?;
            } else {
                self.blobs.take_back(sha256)?;
            }
        }
        if !wanted.is_empty() {
            tracing::warn!(count = wanted.len(), "took files back from orphans/ that the catalog refers to");
            self.catalog.forget_orphans(wanted)?;
        }
        Ok(())
    }

    /// Looks for blobs without a row and notes them. Walks the whole directory: for a background thread, once after the start.
    /// Until it has succeeded nothing may be done about any of them.
    pub(crate) fn find_orphans(&self) -> Result<()> {
        let is_older = self.is_older.load(Ordering::Acquire);
        let (mut count, mut bytes, mut batch) = (0_usize, 0_u64, Vec::new());
        self.blobs.walk(|sha256| {
            if !self.catalog.refers_to(&sha256)? && !self.blobs.is_claimed(&sha256) {
                count = count.saturating_add(1);
                bytes = bytes.saturating_add(self.blobs.size(&sha256).unwrap_or(0));
                batch.push(sha256);
            }
            if batch.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX) {
                self.catalog.note_orphans(std::mem::take(&mut batch), is_older)?;
            }
            Ok(())
        })?;
        self.catalog.note_orphans(batch, is_older)?;
        if count > FEW_ORPHANS {
            self.catalog.keep_orphans()?;
        }
        if is_older {
            // Only now, when all that is newer than the catalog is noted.
            self.is_older.store(false, Ordering::Release);
            self.note_generation()?;
        }
        let kept = self.catalog.kept_orphans()?;
        if kept > 0 {
            tracing::warn!(
                kept,
                "files in blobs/ have no row in catalog.db and are kept: a restored catalog may be older than they are (README, \
                 \"Backup and restore\")"
            );
        }
        if count > 0 && count <= FEW_ORPHANS && !is_older {
            tracing::warn!(
                count,
                bytes,
                "files in blobs/ have no row in catalog.db; what is not kept is moved to orphans/ after {} days of running",
                days(ORPHAN_IN_PLACE)
            );
        }
        Ok(())
    }

    /// Deals with blobs that were found without a row, `elapsed` of running time after the last call.
    pub(crate) fn tend_orphans(&self, elapsed: Duration) -> Result<()> {
        if !self.catalog.age_orphans(elapsed)? {
            return Ok(());
        }
        let moved = self.for_old(Place::Blobs, ORPHAN_IN_PLACE, |sha256| {
            let is_aside = self.blobs.set_aside_unless(sha256, || self.catalog.refers_to(sha256))?;
            if is_aside {
                self.catalog.set_orphans_aside(vec![*sha256])?;
            } else if self.catalog.refers_to(sha256)? {
                self.catalog.forget_orphans(vec![*sha256])?;
            }
            Ok(is_aside)
        })?;
        if moved > 0 {
            tracing::warn!(
                count = moved,
                "moved files without a row in catalog.db to orphans/; they are removed after {} days of running",
                days(ORPHAN_ASIDE)
            );
        }
        let removed = self.for_old(Place::Orphans, ORPHAN_ASIDE, |sha256| {
            self.blobs.remove_orphan(sha256)?;
            self.catalog.forget_orphans(vec![*sha256])?;
            Ok(true)
        })?;
        if removed > 0 {
            tracing::warn!(count = removed, "removed files from orphans/");
        }
        Ok(())
    }

    /// Calls `act` for every orphan in `place` that is `age` old, a few at a time in memory. Says how often it did something.
    fn for_old(
        &self,
        place: Place,
        age: Duration,
        mut act: impl FnMut(&Sha256) -> Result<bool>,
    ) -> Result<usize> {
        let (mut count, mut last) = (0_usize, None);
        loop {
            let batch = self.catalog.old_orphans(place, age, last, BATCH)?;
            if batch.is_empty() {
                return Ok(count);
            }
            for sha256 in &batch {
                count = count.saturating_add(usize::from(act(sha256)?));
            }
            last = batch.last().copied();
        }
    }
}

/// Why the halves below `data_dir` would not be opened, if so. Changes neither, and may be asked while the service runs.
///
/// # Errors
/// When one of them cannot be read, or the catalog is damaged or a newer version's.
pub(crate) fn inspect(data_dir: &Path) -> Result<Option<StoreError>> {
    let directory = Directory::look(data_dir)?;
    let path = data_dir.join("catalog.db");
    if is_empty(&path) {
        let blobs = directory.root;
        return Ok(directory.has_blobs.then_some(StoreError::MissingCatalog { blobs }));
    }
    let (id, has_media) = catalog::peek(&path)?;
    Ok(directory.check(id, has_media).err())
}

/// The blob directory before anything is opened.
struct Directory {
    /// `data_dir/blobs`
    root: PathBuf,
    /// `data_dir/store-id`
    marker_path: PathBuf,
    /// Whether it was ever opened: its folders are there.
    is_there: bool,
    /// Whether it holds blobs.
    has_blobs: bool,
    /// What `store-id` says, if it is there.
    marker: Option<Marker>,
}

/// What `store-id` says.
struct Marker {
    /// Whose directory this is; `None` for what cannot be read.
    id: Option<StoreId>,
    /// How far it has counted.
    openings: i64,
    /// Which file the catalog was then.
    catalog: Option<String>,
}

impl Directory {
    /// Looks, and changes nothing.
    fn look(data_dir: &Path) -> Result<Self> {
        let failed = |error| Error::internal("looking at blobs/", error);
        let (root, marker_path) = (data_dir.join("blobs"), data_dir.join(MARKER));
        let has_blobs = Blobs::is_any(&root).map_err(failed)?;
        let is_there = has_blobs || root.join("00").is_dir();
        let marker = match std::fs::read_to_string(&marker_path) {
            Ok(text) => Marker::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { root, marker_path, is_there, has_blobs, marker })
    }

    /// Whether the catalog with `id` is this directory's; none has an ID from before there were any.
    fn check(&self, id: Option<StoreId>, has_media: bool) -> std::result::Result<(), StoreError> {
        let (blobs, marker) = (self.root.clone(), self.marker_path.clone());
        let theirs = self.marker.as_ref().map(|marker| marker.id);
        if has_media && !self.is_there {
            return Err(StoreError::MissingBlobs { blobs });
        }
        match (theirs, id) {
            (Some(None), _) => Err(StoreError::Malformed { marker }),
            (Some(Some(theirs)), Some(id)) if theirs == id => Ok(()),
            // Of two that are empty neither has anything to lose.
            _ if !self.has_blobs && !has_media => Ok(()),
            _ if !has_media => Err(StoreError::MissingCatalog { blobs }),
            (Some(Some(_)), Some(id)) => Err(StoreError::Foreign { marker, id }),
            // One of them was written by a build that knew of no IDs.
            (None, _) | (_, None) => Ok(()),
        }
    }
}

impl Marker {
    /// `<id> <openings> <catalog>`; an ID alone was written by hand. Nothing for an empty file.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let id = StoreId::from_hex(words.next()?);
        let openings = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Some(Self { id, openings, catalog: words.next().map(str::to_owned) })
    }
}

/// Whether a file is not there, or holds nothing.
fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path)
        .map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |file| file.len() == 0)
}

/// What tells a file from another that is put in its place: its inode number and, where the file system knows it, when it was
/// made.
fn file_identity(path: &Path) -> String {
    let Ok(file) = std::fs::metadata(path) else { return String::new() };
    let made = file.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    format!("{}.{}", file.ino(), made.map_or(0, |made| made.as_nanos()))
}

/// Whole days.
fn days(span: Duration) -> u64 {
    span.as_secs().div_euclid(24 * 60 * 60)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::matrix::{MediaId, Mxc, ServerName, Timestamp};
    use crate::store::catalog::NewMedia;
    use crate::store::fs::SystemFs;

    /// A second.
    const SECOND: Duration = Duration::from_secs(1);

    fn open(folder: &Path) -> Result<Store> {
        Store::open(folder, Arc::new(SystemFs))
    }

    /// Why a store is not opened.
    fn refusal(folder: &Path) -> String {
        open(folder).err().unwrap().causes()
    }

    /// A blob of `text`, without a row.
    fn put(store: &Store, text: &str) -> Sha256 {
        let mut ingest = store.blobs.ingest(100, None).unwrap();
        ingest.write(text.as_bytes()).unwrap();
        ingest.finish().unwrap().sha256()
    }

    /// A blob of `text` with its row.
    fn add(store: &Store, text: &str) -> Sha256 {
        let sha256 = put(store, text);
        let content_type = "text/plain".to_owned();
        let filled = catalog::Filled { sha256, size: 1, content_type, upload_name: None };
        let mxc = Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse(text).unwrap(),
        };
        let media = NewMedia { mxc, filled, user_id: None, created: Timestamp(0), open: true };
        assert!(store.catalog.add(media).unwrap());
        sha256
    }

    /// Every file below `folder` but the catalog's, by name.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.retain(|path| path.file_name().unwrap().len() == 64);
        found.sort();
        found
    }

    #[test]
    fn a_look_finds_what_an_opening_would_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let say = || inspect(folder).unwrap().map(|problem| problem.to_string()).unwrap_or_default();
        assert_eq!(say(), "");
        let store = open(folder).unwrap();
        add(&store, "a");
        assert_eq!(say(), "", "while it runs");
        drop(store);
        let catalog = std::fs::read(folder.join("catalog.db")).unwrap();
        std::fs::rename(folder.join("blobs"), folder.join("elsewhere")).unwrap();
        assert!(say().contains("Mount the disk"));
        std::fs::rename(folder.join("elsewhere"), folder.join("blobs")).unwrap();
        remove_catalog(folder);
        assert!(say().contains("missing or empty"));
        assert!(!folder.join("catalog.db").exists());
        std::fs::write(folder.join("catalog.db"), &catalog[..catalog.len() / 2]).unwrap();
        assert!(inspect(folder).is_err());
    }

    fn remove_catalog(folder: &Path) {
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            drop(std::fs::remove_file(folder.join(name)));
        }
    }

    #[test]
    fn a_missing_or_empty_catalog_beside_blobs_is_refused_and_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        add(&open(folder).unwrap(), "a");
        let before = files(folder);
        remove_catalog(folder);
        assert!(refusal(folder).contains("catalog.db is missing or empty"));
        assert!(!folder.join("catalog.db").exists(), "nothing is made in its place");

        std::fs::write(folder.join("catalog.db"), b"").unwrap();
        assert!(refusal(folder).contains("catalog.db is missing or empty"));

        // One that an older build made, which had no ID.
        let other = tempfile::tempdir().unwrap();
        drop(open(other.path()).unwrap());
        std::fs::copy(other.path().join("catalog.db"), folder.join("catalog.db")).unwrap();
        assert!(refusal(folder).contains("catalog.db is missing or empty"));
        std::fs::remove_file(folder.join("store-id")).unwrap();
        assert!(refusal(folder).contains("catalog.db is missing or empty"));
        assert_eq!(files(folder), before);
    }

    #[test]
    fn a_catalog_and_a_directory_of_different_stores_are_refused_until_the_operator_says_so() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        add(&open(one.path()).unwrap(), "a");
        add(&open(two.path()).unwrap(), "b");
        remove_catalog(one.path());
        std::fs::copy(two.path().join("catalog.db"), one.path().join("catalog.db")).unwrap();
        let refusal = refusal(one.path());
        assert!(refusal.contains("belong to different stores"), "{refusal}");
        // The words of the message, as a shell would do it.
        let (_, command) = refusal.split_once("all the same: rm ").unwrap();
        let (path, rest) = command.split_once("; echo ").unwrap();
        let (id, same_path) = rest.split_once(" > ").unwrap();
        assert_eq!(path, same_path);
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, format!("{id}\n")).unwrap();
        let store = open(one.path()).unwrap();
        store.find_orphans().unwrap();
        store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
        assert_eq!(files(&one.path().join("blobs")).len(), 1, "kept in its place");
    }

    #[test]
    fn a_directory_that_is_not_mounted_is_refused_until_the_operator_says_so() {
        let folder = tempfile::tempdir().unwrap();
        add(&open(folder.path()).unwrap(), "a");
        std::fs::rename(folder.path().join("blobs"), folder.path().join("elsewhere")).unwrap();
        let refusal = refusal(folder.path());
        assert!(refusal.contains("Mount the disk"), "{refusal}");
        assert!(!folder.path().join("blobs").exists());
        let (_, command) = refusal.split_once("mkdir -p ").unwrap();
        let (path, _) = command.split_once(", as the user").unwrap();
        std::fs::create_dir_all(path).unwrap();
        assert!(inspect(folder.path()).unwrap().is_none());
        drop(open(folder.path()).unwrap());
    }

    #[test]
    fn a_catalog_of_an_older_build_takes_its_directory_over() {
        let folder = tempfile::tempdir().unwrap();
        add(&open(folder.path()).unwrap(), "a");
        std::fs::remove_file(folder.path().join("store-id")).unwrap();
        open(folder.path()).unwrap().find_orphans().unwrap();
        assert!(folder.path().join("store-id").exists());
    }

    #[test]
    fn an_orphan_stays_for_days_then_lies_aside_for_days_then_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        let wanted = add(&store, "wanted");
        let orphan = put(&store, "orphan");
        store.find_orphans().unwrap();
        store.tend_orphans(ORPHAN_IN_PLACE.checked_sub(SECOND).unwrap()).unwrap();
        assert!(store.blobs.size(&orphan).is_some());
        store.tend_orphans(SECOND).unwrap();
        assert!(store.blobs.size(&orphan).is_none());
        let aside = folder.path().join("orphans").join(orphan.to_string());
        assert!(aside.exists());
        store.tend_orphans(ORPHAN_ASIDE.checked_sub(SECOND).unwrap()).unwrap();
        assert!(aside.exists());
        store.tend_orphans(SECOND).unwrap();
        assert!(!aside.exists());
        assert!(store.blobs.size(&wanted).is_some());
        assert!(!store.catalog.age_orphans(SECOND).unwrap(), "nothing is left to look after");
    }

    #[test]
    fn a_damaged_copy_is_no_reason_to_remove_the_whole_one_in_orphans() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        let sha256 = add(&store, "whole");
        drop(store);
        let name = sha256.to_string();
        let blob = folder.path().join("blobs").join(format!("{:02x}", sha256.as_bytes()[0])).join(&name);
        std::fs::copy(&blob, folder.path().join("orphans").join(&name)).unwrap();
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(&blob, "wh").unwrap();
        drop(open(folder.path()).unwrap());
        assert_eq!(std::fs::read(&blob).unwrap(), b"whole");
    }

    #[test]
    fn an_orphan_that_gets_a_row_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        let orphan = put(&store, "x");
        store.find_orphans().unwrap();
        assert_eq!(add(&store, "x"), orphan);
        store.tend_orphans(ORPHAN_IN_PLACE).unwrap();
        assert!(store.blobs.size(&orphan).is_some());
    }

    #[test]
    fn what_a_restored_catalog_wants_is_taken_back_from_orphans() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        let orphan = put(&store, "x");
        store.find_orphans().unwrap();
        store.tend_orphans(ORPHAN_IN_PLACE).unwrap();
        assert!(store.blobs.size(&orphan).is_none());
        let text = std::fs::read(folder.path().join("orphans").join(orphan.to_string())).unwrap();
        assert_eq!(text, b"x");
        // The row comes without the upload that would bring the bytes again.
        let content_type = "text/plain".to_owned();
        let filled = catalog::Filled { sha256: orphan, size: 1, content_type, upload_name: None };
        let mxc = Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse("x").unwrap(),
        };
        let media = NewMedia { mxc, filled, user_id: None, created: Timestamp(0), open: true };
        store.catalog.add(media).unwrap();
        drop(store);
        let store = open(folder.path()).unwrap();
        assert_eq!(store.blobs.size(&orphan), Some(1));
        assert_eq!(files(&folder.path().join("orphans")), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_came_after_an_older_catalog_is_never_removed_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let backup = folder.path().join("backup.db");
        add(&open(folder.path()).unwrap(), "a");
        std::fs::copy(folder.path().join("catalog.db"), &backup).unwrap();
        let newer = add(&open(folder.path()).unwrap(), "newer");
        remove_catalog(folder.path());
        std::fs::copy(&backup, folder.path().join("catalog.db")).unwrap();

        // Killed before it has looked: the next run knows it as well.
        drop(open(folder.path()).unwrap());
        let store = open(folder.path()).unwrap();
        assert!(store.is_older.load(Ordering::Acquire));
        store.find_orphans().unwrap();
        drop(store);
        let store = open(folder.path()).unwrap();
        assert!(!store.is_older.load(Ordering::Acquire));
        store.find_orphans().unwrap();
        store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
        assert!(store.blobs.size(&newer).is_some());
    }

    #[test]
    fn a_backup_of_the_same_run_is_known_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let backup = folder.path().join("backup.db");
        let store = open(folder.path()).unwrap();
        add(&store, "a");
        let backed_up = rusqlite::Connection::open(folder.path().join("catalog.db")).unwrap();
        backed_up.execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
        drop(backed_up);
        let newer = add(&store, "newer");
        drop(store);
        remove_catalog(folder.path());
        std::fs::copy(&backup, folder.path().join("catalog.db")).unwrap();
        let store = open(folder.path()).unwrap();
        assert!(store.is_older.load(Ordering::Acquire));
        store.find_orphans().unwrap();
        store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
        assert!(store.blobs.size(&newer).is_some());
        drop(store);
        assert!(!open(folder.path()).unwrap().is_older.load(Ordering::Acquire));
    }

    #[test]
    fn more_orphans_than_crashes_leave_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        add(&store, "a");
        let orphans: Vec<_> = (0..=FEW_ORPHANS).map(|number| put(&store, &number.to_string())).collect();
        store.find_orphans().unwrap();
        store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
        assert!(orphans.iter().all(|orphan| store.blobs.size(orphan).is_some()));
    }

    #[test]
    fn a_catalog_that_cannot_be_read_is_no_reason_to_move_anything() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        add(&store, "a");
        let orphan = put(&store, "x");
        store.find_orphans().unwrap();
        let connection = rusqlite::Connection::open(folder.path().join("catalog.db")).unwrap();
        connection.execute_batch("DROP TABLE thumbnail").unwrap();
        assert!(store.tend_orphans(ORPHAN_IN_PLACE).is_err());
        assert!(store.find_orphans().is_err());
        assert!(store.blobs.size(&orphan).is_some());
    }
}
