//! Queries about reading all files for damage.

use rusqlite::Row;

use super::SqliteCatalog;
use crate::error::Result;
use crate::matrix::Timestamp;
use crate::store::sha256::Sha256;

/// A blob to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToScrub {
    pub(crate) sha256: Sha256,
    /// Its length, bytes.
    pub(crate) size: u64,
    /// Whether it can be fetched or made again: no media uploaded here has it.
    pub(crate) is_copy: bool,
}

/// How far the reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScrubState {
    /// The last hash that was checked; `None` when none is under way.
    pub(crate) position: Option<Sha256>,
    /// When the last one ended.
    pub(crate) finished: Timestamp,
}

/// The queries.
pub(crate) trait ScrubRows {
    /// The next blobs in the order of their hashes.
    fn to_scrub(&self, after: Option<Sha256>, limit: u32) -> Result<Vec<ToScrub>>;

    fn scrub_state(&self) -> Result<ScrubState>;

    fn set_scrub_state(&self, state: ScrubState) -> Result<()>;
}

impl ScrubRows for SqliteCatalog {
    fn to_scrub(&self, after: Option<Sha256>, limit: u32) -> Result<Vec<ToScrub>> {
        let after = after.map_or([0; 32], |sha256| *sha256.as_bytes());
        self.readers.ask(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT sha256, size, locals = 0 AND previews = 0 FROM blob
                 WHERE sha256 > ?1 AND kind IS NOT NULL ORDER BY sha256 LIMIT ?2",
            )?;
            let read = |row: &Row<'_>| {
                Ok(ToScrub {
                    sha256: Sha256::from_bytes(row.get(0)?),
                    size: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                    is_copy: row.get(2)?,
                })
            };
            statement.query_map((after, limit), read)?.collect()
        })
    }

    fn scrub_state(&self) -> Result<ScrubState> {
        self.readers.ask(|connection| {
            connection.query_row("SELECT position, finished_ms FROM scrub", [], |row| {
                let position: Option<[u8; 32]> = row.get(0)?;
                Ok(ScrubState {
                    position: position.map(Sha256::from_bytes),
                    finished: Timestamp(row.get(1)?),
                })
            })
        })
    }

    fn set_scrub_state(&self, state: ScrubState) -> Result<()> {
        self.writer.write(move |connection| {
            let position = state.position.as_ref().map(Sha256::as_bytes);
            connection
                .execute("UPDATE scrub SET position = ?1, finished_ms = ?2", (position, state.finished.0))?;
            Ok(())
        })
    }
}
