//! Queries about the store as a whole: which blob directory belongs to this catalog, which blobs there have no row, and whether the catalog
//! works.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rusqlite::{Connection, OpenFlags};

use super::connection::LOCK_TIMEOUT;
use super::migrations::{MigrationError, NEWEST};
use super::{Counters, SqliteCatalog};
use crate::error::Result;
use crate::store::sha256::Sha256;

/// The ID that a catalog and its blob directory have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreId([u8; 16]);

impl StoreId {
    /// 32 lower-case hex digits.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The place of a blob without a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In `blobs/`, where it was found.
    Blobs,
    /// In `orphans/`, where it was moved.
    Orphans,
}

/// The store ID of the catalog at `path`, if it has one, and whether it has media. The file is not changed; `SQLite` may create its `-shm`
/// file beside it.
///
/// # Errors
/// When it cannot be read, is damaged, or was written by a newer version.
pub(crate) fn peek(path: &Path) -> Result<(Option<StoreId>, bool)> {
    let look = || {
        // After a crash, the write-ahead log can be read only through a connection that may write.
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .or_else(|_| Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY))?;
        connection.busy_timeout(LOCK_TIMEOUT)?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            return Ok((None, false));
        }
        if version > NEWEST {
            return Err(MigrationError::Newer);
        }
        let has_media = "SELECT EXISTS (SELECT 1 FROM media WHERE sha256 IS NOT NULL)";
        let has_media = connection.query_row(has_media, [], |row| row.get(0))?;
        if version < FIRST_WITH_ID {
            return Ok((None, has_media));
        }
        let id = connection.query_row("SELECT id FROM store", [], |row| row.get(0).map(StoreId))?;
        Ok((Some(id), has_media))
    };
    Ok(look()?)
}

/// The migration that created the table `store`.
const FIRST_WITH_ID: u32 = 6;

/// Queries about the store as a whole.
pub(crate) trait StoreRows {
    /// Whether the catalog can be read and written, for the health check. A successful commit in the last minutes is proof enough; otherwise
    /// one is tried.
    fn check(&self) -> Result<()>;

    /// The numbers of queries so far.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests count with it what a request costs"))]
    fn counters(&self) -> Counters;

    /// The store ID, and the generation that catalog and directory have in common. It grows at each opening, every hour, and at the end.
    fn store_id(&self) -> Result<(StoreId, i64)>;

    /// Writes the generation.
    fn set_openings(&self, openings: i64) -> Result<()>;

    /// Notes blobs that were found in `blobs/` without a row. Existing notes stay as they are; with `is_kept` they are never removed
    /// automatically.
    fn note_orphans(&self, found: Vec<Sha256>, is_kept: bool) -> Result<()>;

    /// How many of the orphans in `blobs/` are never removed automatically.
    fn kept_orphans(&self) -> Result<u64>;

    /// Marks all orphans in `blobs/` as never to be removed automatically.
    fn keep_orphans(&self) -> Result<()>;

    /// Deletes the notes about orphans that have a row now, or were removed.
    fn forget_orphans(&self, sha256: Vec<Sha256>) -> Result<()>;

    /// Notes that orphans were moved to `orphans/`. Their time there begins.
    fn set_orphans_aside(&self, sha256: Vec<Sha256>) -> Result<()>;

    /// Adds the running time since the last call to the age of all orphans that are not kept. Returns whether there are any.
    fn age_orphans(&self, by: Duration) -> Result<bool>;

    /// At most `limit` orphans in `place` that are at least `age` old and not kept, after `after` in the order of their names.
    fn old_orphans(
        &self,
        place: Place,
        age: Duration,
        after: Option<Sha256>,
        limit: u32,
    ) -> Result<Vec<Sha256>>;
}

impl StoreRows for SqliteCatalog {
    fn check(&self) -> Result<()> {
        self.readers.ask(|connection| {
            connection.query_row("SELECT count(*) FROM pragma_user_version", [], |_| Ok(()))
        })?;
        if self.writer.is_proven() {
            // A lock of another process makes this fail without writing anything.
            return self.writer.write(|_| Ok(()));
        }
        self.writer
            .write(|connection| connection.execute("UPDATE store SET openings = openings", []).map(drop))
    }

    fn counters(&self) -> Counters {
        Counters { reads: self.readers.count(), writes: self.writer.count() }
    }

    fn store_id(&self) -> Result<(StoreId, i64)> {
        self.readers.ask(|connection| {
            connection.query_row("SELECT id, openings FROM store", [], |row| {
                Ok((StoreId(row.get(0)?), row.get(1)?))
            })
        })
    }

    fn set_openings(&self, openings: i64) -> Result<()> {
        self.writer.write(move |connection| {
            connection.execute("UPDATE store SET openings = ?1", [openings]).map(drop)
        })
    }

    fn note_orphans(&self, found: Vec<Sha256>, is_kept: bool) -> Result<()> {
        self.writer.write(move |connection| {
            let mut statement = connection.prepare_cached(
                "INSERT INTO orphan (sha256, is_aside, is_kept, age_ms) VALUES (?1, 0, ?2, 0)
                 ON CONFLICT DO UPDATE SET is_kept = max(is_kept, excluded.is_kept)",
            )?;
            for sha256 in &found {
                statement.execute((sha256.as_bytes(), is_kept))?;
            }
            Ok(())
        })
    }

    fn kept_orphans(&self) -> Result<u64> {
        let question = "SELECT count(*) FROM orphan WHERE is_aside = 0 AND is_kept = 1";
        let kept: i64 =
            self.readers.ask(|connection| connection.query_row(question, [], |row| row.get(0)))?;
        Ok(kept.try_into().unwrap_or(0))
    }

    fn keep_orphans(&self) -> Result<()> {
        self.writer.write(|connection| {
            connection.execute("UPDATE orphan SET is_kept = 1 WHERE is_aside = 0", []).map(drop)
        })
    }

    fn forget_orphans(&self, sha256: Vec<Sha256>) -> Result<()> {
        self.writer.write(move |connection| {
            let mut statement = connection.prepare_cached("DELETE FROM orphan WHERE sha256 = ?1")?;
            for sha256 in &sha256 {
                statement.execute([sha256.as_bytes()])?;
            }
            Ok(())
        })
    }

    fn set_orphans_aside(&self, sha256: Vec<Sha256>) -> Result<()> {
        self.writer.write(move |connection| {
            let mut statement =
                connection.prepare_cached("UPDATE orphan SET is_aside = 1, age_ms = 0 WHERE sha256 = ?1")?;
            for sha256 in &sha256 {
                statement.execute([sha256.as_bytes()])?;
            }
            Ok(())
        })
    }

    fn age_orphans(&self, by: Duration) -> Result<bool> {
        let has_orphans = self.readers.ask(|connection| {
            connection
                .query_row("SELECT EXISTS (SELECT 1 FROM orphan WHERE is_kept = 0)", [], |row| row.get(0))
        })?;
        if has_orphans {
            let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            self.writer.write(move |connection| {
                connection.execute("UPDATE orphan SET age_ms = age_ms + ?1 WHERE is_kept = 0", [by]).map(drop)
            })?;
        }
        Ok(has_orphans)
    }

    fn old_orphans(
        &self,
        place: Place,
        age: Duration,
        after: Option<Sha256>,
        limit: u32,
    ) -> Result<Vec<Sha256>> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let after = after.map_or_else(Vec::new, |sha256| sha256.as_bytes().to_vec());
        self.readers.ask(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT sha256 FROM orphan
                 WHERE is_aside = ?1 AND is_kept = 0 AND age_ms >= ?2 AND sha256 > ?3
                 ORDER BY sha256 LIMIT ?4",
            )?;
            let rows = statement.query_map((place == Place::Orphans, age, after, limit), |row| {
                row.get(0).map(Sha256::from_bytes)
            })?;
            rows.collect()
        })
    }
}
