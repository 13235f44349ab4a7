//! The `SQLite` catalog: what is known about each media ID, and the keys of other servers.
//!
//! Owns the schema, the connections and one method for each question the system asks. Refuses to know where bytes lie or
//! why a question is asked; time comes in as an argument. The columns are described in `assets/migrations`.

mod conduit;
mod connection;
mod keys;
mod media;
mod previews;
mod servers;
mod store;
mod thumbnails;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, ErrorCode};

use self::connection::{Readers, Writer};
use crate::error::{Error, Result};
use crate::matrix::Mxc;
use crate::store::sha256::Sha256;

pub(crate) use self::conduit::{ConduitError, read_keypair as read_conduit_keypair};
pub(crate) use self::keys::StoredKey;
pub(crate) use self::media::{Content, Filled, Media, NewMedia, Reservation, Reserved};
pub(crate) use self::previews::{NewPreview, Preview, Room};
pub(crate) use self::store::{Place, StoreId, peek};
pub(crate) use self::thumbnails::{NewThumbnail, ThumbnailKey};

/// The catalog. Reads run on pooled connections, writes on one thread that commits several at once.
pub(crate) struct Catalog {
    /// Read-only connections.
    readers: Readers,
    /// The one connection that writes.
    writer: Writer,
    /// How often media was removed.
    generation: AtomicU64,
}

/// What callers have asked of the catalog since it was opened. The opening itself, with its migrations, is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Questions that reached a reading connection, one for each call, whatever their answer.
    pub(crate) reads: u64,
    /// Writes handed to the writer, one for each call. Group commit may join several in one transaction of `SQLite`; here each
    /// counts, as it costs a sync when nothing else is being written.
    pub(crate) writes: u64,
}

/// What went with rows that were deleted. Each may still be wanted by another row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Addresses whose rows went, or hold something else than before.
    pub(crate) media: Vec<Mxc>,
    /// Blobs that the rows referred to.
    pub(crate) blobs: Vec<Sha256>,
    /// URLs whose previews went.
    pub(crate) previews: Vec<String>,
}

/// The schema, in the order it grew; `user_version` counts how many a database has.
const MIGRATIONS: [&str; 6] = [
    include_str!("../../../assets/migrations/0001_media.sql"),
    include_str!("../../../assets/migrations/0002_server.sql"),
    include_str!("../../../assets/migrations/0003_thumbnail.sql"),
    include_str!("../../../assets/migrations/0004_preview.sql"),
    include_str!("../../../assets/migrations/0005_preview_bytes.sql"),
    include_str!("../../../assets/migrations/0006_store.sql"),
];

/// What `user_version` is when all have run.
const NEWEST: u32 = 6;

impl Catalog {
    /// Opens `catalog.db` in `data_dir`, creates or migrates it.
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join("catalog.db");
        let mut connection = connection::open_writer(&path).map_err(|error| unopened(error.into()))?;
        migrate(&mut connection).map_err(unopened)?;
        Ok(Self {
            readers: Readers::new(&path)?,
            writer: Writer::start(connection)?,
            generation: AtomicU64::new(0),
        })
    }

    /// How often stored media was removed since the opening. What was read holds good while this does not change: rows of
    /// stored media never change otherwise.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How much callers have asked so far.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests count with it what a request costs"))]
    pub(crate) fn counters(&self) -> Counters {
        Counters { reads: self.readers.count(), writes: self.writer.count() }
    }

    /// Notes that stored media was removed. To be called once it is.
    fn note_removal(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the catalog answers and can be written to, for the health check. A commit of the last minutes is proof
    /// enough, unless it failed: then one is tried.
    pub(crate) fn check(&self) -> Result<()> {
        self.readers.ask(|connection| {
            connection.query_row("SELECT count(*) FROM pragma_user_version", [], |_| Ok(()))
        })?;
        if self.writer.is_proven() {
            // Somebody else's lock shows without writing.
            return self.writer.write(|_| Ok(()));
        }
        self.writer
            .write(|connection| connection.execute("UPDATE store SET openings = openings", []).map(drop))
    }
}

/// Runs the migrations this database lacks, each in a transaction of its own with its number.
fn migrate(connection: &mut Connection) -> std::result::Result<(), MigrationError> {
    let done: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let migrations = (1_u32..).zip(MIGRATIONS);
    if done > NEWEST {
        return Err(MigrationError::Newer);
    }
    for (number, migration) in migrations.filter(|(number, _)| *number > done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Why the catalog is not opened.
fn unopened(error: MigrationError) -> Error {
    let is_damaged = matches!(
        &error,
        MigrationError::Sqlite(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            )
    );
    Error::internal("opening the catalog", if is_damaged { MigrationError::Damaged } else { error })
}

/// Why a database could not be brought up to date.
#[derive(Debug, thiserror::Error)]
enum MigrationError {
    /// Written by a version with more migrations.
    #[error("catalog.db was written by a newer version of media-sidecar; run that one")]
    Newer,
    /// No database, or half of one: a copy that was interrupted.
    #[error(
        "catalog.db is damaged; nothing was changed. Restore it from a backup (README, \"Backup and restore\")"
    )]
    Damaged,
    /// `SQLite` refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_last() {
        assert_eq!(usize::try_from(NEWEST).unwrap(), MIGRATIONS.len());
    }

    #[test]
    fn a_catalog_of_the_future_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(Catalog::open(folder.path()).unwrap());
        let connection = Connection::open(folder.path().join("catalog.db")).unwrap();
        connection.pragma_update(None, "user_version", 999).unwrap();
        let error = Catalog::open(folder.path()).err().unwrap();
        assert!(error.causes().contains("newer version"), "{error:?}");
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures_and_health_notices_both_ends_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(folder.path()).unwrap();
        let write = |size: u32| {
            catalog.writer.write(move |connection| {
                connection.execute("CREATE TABLE IF NOT EXISTS filler (x BLOB) STRICT", [])?;
                connection.execute("INSERT INTO filler VALUES (zeroblob(?1))", [size]).map(drop)
            })
        };
        let pages = |count: u32| {
            catalog.writer.write(move |connection| {
                connection.query_row(&format!("PRAGMA max_page_count = {count}"), [], |_| Ok(()))
            })
        };
        write(1).unwrap();
        catalog.check().unwrap();
        pages(1).unwrap();
        let full = write(1 << 20).unwrap_err();
        assert_eq!((full.kind(), full.message()), (crate::error::Kind::NoRoom, "no room left on the server"));
        pages(1 << 20).unwrap();
        catalog.check().unwrap();
    }

    #[test]
    fn health_notices_that_no_commit_works() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(folder.path()).unwrap();
        let other = Connection::open(folder.path().join("catalog.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = catalog.check().unwrap_err();
        assert!(error.causes().contains("database is locked"), "{error:?}");
        other.execute_batch("ROLLBACK").unwrap();
        catalog.check().unwrap();
    }

    #[test]
    fn questions_and_writes_are_counted_whether_they_succeed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(folder.path()).unwrap();
        assert_eq!(catalog.counters(), Counters { reads: 0, writes: 0 });
        catalog.store_id().unwrap();
        catalog.kept_orphans().unwrap();
        catalog.writer.write(|connection| connection.execute("no SQL", [])).unwrap_err();
        assert_eq!(catalog.counters(), Counters { reads: 2, writes: 1 });
    }

    #[test]
    fn opening_twice_migrates_once_and_writes_survive() {
        let folder = tempfile::tempdir().unwrap();
        drop(Catalog::open(folder.path()).unwrap());
        let catalog = Catalog::open(folder.path()).unwrap();
        catalog.check().unwrap();
    }
}
