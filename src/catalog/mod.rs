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
mod thumbnails;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use self::connection::{Readers, Writer};
use crate::error::{Error, Result};

pub(crate) use self::conduit::{ConduitError, read_keypair as read_conduit_keypair};
pub(crate) use self::keys::StoredKey;
pub(crate) use self::media::{Content, Filled, Media, NewMedia, Reservation, Reserved};
pub(crate) use self::previews::{Dropped, NewPreview, Preview, Room};
pub(crate) use self::thumbnails::ThumbnailKey;

/// The catalog. Reads run on pooled connections, writes on one thread that commits several at once.
pub(crate) struct Catalog {
    /// Read-only connections.
    readers: Readers,
    /// The one connection that writes.
    writer: Writer,
    /// How often media was removed.
    removals: AtomicU64,
}

/// The schema, in the order it grew; `user_version` counts how many a database has.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../assets/migrations/0001_media.sql"),
    include_str!("../../assets/migrations/0002_server.sql"),
    include_str!("../../assets/migrations/0003_thumbnail.sql"),
    include_str!("../../assets/migrations/0004_preview.sql"),
    include_str!("../../assets/migrations/0005_preview_bytes.sql"),
];

impl Catalog {
    /// Opens `catalog.db` in `data_dir`, creates or migrates it.
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join("catalog.db");
        let mut connection =
            connection::open_writer(&path).map_err(|error| Error::internal("opening the catalog", error))?;
        migrate(&mut connection).map_err(|error| Error::internal("migrating the catalog", error))?;
        Ok(Self {
            readers: Readers::new(&path)?,
            writer: Writer::start(connection)?,
            removals: AtomicU64::new(0),
        })
    }

    /// How often stored media was removed since the opening. What was read holds good while this does not change: rows of
    /// stored media never change otherwise.
    pub(crate) fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Notes that stored media was removed. To be called once it is.
    fn note_removal(&self) {
        self.removals.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the catalog answers, for the health check.
    pub(crate) fn check(&self) -> Result<()> {
        self.readers.ask(|connection| {
            connection.query_row("SELECT count(*) FROM pragma_user_version", [], |_| Ok(()))
        })
    }
}

/// Runs the migrations this database lacks, each in a transaction of its own with its number.
fn migrate(connection: &mut Connection) -> std::result::Result<(), MigrationError> {
    let done: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let migrations = (1_u32..).zip(MIGRATIONS);
    if migrations.clone().last().is_none_or(|(newest, _)| done > newest) {
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

/// Why a database could not be brought up to date.
#[derive(Debug, thiserror::Error)]
enum MigrationError {
    /// Written by a version with more migrations.
    #[error("catalog.db was written by a newer version of media-sidecar; run that one")]
    Newer,
    /// `SQLite` refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn opening_twice_migrates_once_and_writes_survive() {
        let folder = tempfile::tempdir().unwrap();
        drop(Catalog::open(folder.path()).unwrap());
        let catalog = Catalog::open(folder.path()).unwrap();
        catalog.check().unwrap();
    }
}
