//! The catalog: the database of media IDs, blobs, thumbnails, previews and other servers.
//!
//! Owns the queries, as one trait for each group of tables, and their implementation with `SQLite`: schema, connections, all SQL. Refuses to
//! know where the bytes are and why a query is made; the time is an argument. The columns are described in `assets/migrations`.

mod blobs;
mod conduit;
mod connection;
mod eviction;
mod media;
mod migrations;
mod moderation;
mod previews;
mod quotas;
mod scrub;
mod servers;
mod store;
mod thumbnails;
mod usage;

use std::path::Path;

use rusqlite::Connection;

use self::connection::{ReaderPool, WriterThread};
use self::migrations::{MigrationError, migrate};
use crate::error::Result;
use crate::matrix::Mxc;
use crate::store::sha256::Sha256;

pub(crate) use self::blobs::{BlobRows, Totals};
pub(crate) use self::conduit::{ConduitError, read_keypair as read_conduit_keypair};
pub(crate) use self::eviction::{Candidate, Cursor, Evicted, EvictionRows, Group, Page, Terms};
pub(crate) use self::media::{
    Added, Content, Filled, LastAccess, MediaRow, MediaRows, NewMedia, Reservation, Reserved,
};
pub(crate) use self::moderation::{Block, Deleted, ModerationRows, NewBlock, Record, Selection};
pub(crate) use self::previews::{NewPreview, Preview, PreviewLimits, PreviewRows};
pub(crate) use self::quotas::{Quota, QuotaRows, UserTotal};
pub(crate) use self::scrub::{ScrubRows, ScrubState, ToScrub};
pub(crate) use self::servers::{ServerRows, StoredKey};
pub(crate) use self::store::{Place, StoreId, StoreRows, peek};
pub(crate) use self::thumbnails::{NewThumbnail, ThumbnailKey, ThumbnailRows};
pub(crate) use self::usage::{Usage, UsageBy, UsageRows};

/// All queries, implemented by [`SqliteCatalog`]. The methods block. None of their types belongs to a database.
pub(crate) trait Catalog:
    MediaRows
    + ThumbnailRows
    + PreviewRows
    + BlobRows
    + EvictionRows
    + ModerationRows
    + UsageRows
    + QuotaRows
    + ScrubRows
    + ServerRows
    + StoreRows
    + Send
    + Sync
{
}

impl Catalog for SqliteCatalog {}

/// The catalog in `catalog.db`. Reads use pooled connections; writes run on one thread, which commits several at once.
pub(crate) struct SqliteCatalog {
    /// Read-only connections.
    readers: ReaderPool,
    /// The one connection that writes.
    writer: WriterThread,
}

/// Numbers of queries since the catalog was opened, without those of the opening itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Reads: calls that used a reading connection.
    pub(crate) reads: u64,
    /// Writes: calls that used the writer. Group commit may join several in one transaction, but each costs a sync when it is alone.
    pub(crate) writes: u64,
}

/// What deleted rows referred to. Other rows may still refer to the same blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Addresses whose rows were deleted or have other content than before.
    pub(crate) media: Vec<Mxc>,
    /// Blobs that the rows referred to.
    pub(crate) blobs: Vec<Sha256>,
    /// URLs whose previews were deleted.
    pub(crate) previews: Vec<String>,
}

impl SqliteCatalog {
    /// Opens `catalog.db` in `data_dir`; creates or migrates it if necessary.
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join("catalog.db");
        let mut connection = connection::open_writer(&path).map_err(MigrationError::Sqlite)?;
        migrate(&mut connection, &path)?;
        log_totals(&connection)?;
        Ok(Self { readers: ReaderPool::new(&path)?, writer: WriterThread::start(connection)? })
    }
}

/// Logs the totals of the store.
fn log_totals(connection: &Connection) -> Result<()> {
    let Totals { local, remote, preview, thumbnail } =
        blobs::read_totals(connection).map_err(MigrationError::Sqlite)?;
    tracing::info!(
        local_files = local.files,
        local_bytes = local.bytes,
        remote_files = remote.files,
        remote_bytes = remote.bytes,
        preview_bytes = preview.bytes,
        thumbnail_bytes = thumbnail.bytes,
        "opened the store"
    );
    Ok(())
}

/// Changes the catalog below `data_dir` directly, without the service.
#[cfg(test)]
pub(crate) fn execute(data_dir: &Path, sql: &str) {
    Connection::open(data_dir.join("catalog.db"))
        .and_then(|connection| connection.execute_batch(sql))
        .expect("the statement of a test");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_of_the_future_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(SqliteCatalog::open(folder.path()).unwrap());
        let connection = Connection::open(folder.path().join("catalog.db")).unwrap();
        connection.pragma_update(None, "user_version", 999).unwrap();
        let error = SqliteCatalog::open(folder.path()).err().unwrap();
        assert!(error.causes().contains("newer version"), "{error:?}");
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures_and_health_notices_both_ends_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
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
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
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
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        assert_eq!(catalog.counters(), Counters { reads: 0, writes: 0 });
        catalog.store_id().unwrap();
        catalog.kept_orphans().unwrap();
        catalog.writer.write(|connection| connection.execute("no SQL", [])).unwrap_err();
        assert_eq!(catalog.counters(), Counters { reads: 2, writes: 1 });
    }

    #[test]
    fn opening_twice_migrates_once_and_writes_survive() {
        let folder = tempfile::tempdir().unwrap();
        drop(SqliteCatalog::open(folder.path()).unwrap());
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        catalog.check().unwrap();
    }
}
