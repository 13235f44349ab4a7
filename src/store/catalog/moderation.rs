//! Queries about what must not be served: quarantine, blocked content, protection, deletion.

use rusqlite::{Connection, OptionalExtension as _};

use super::eviction::{bury, delete_row, drop_sourceless};
use super::media::read_mxc;
use super::{Removed, SqliteCatalog};
use crate::error::Result;
use crate::matrix::{Mxc, ServerName, Timestamp, UserId};
use crate::store::sha256::Sha256;

/// What is said of media that is stored with blocked content.
pub(super) const BY_SYSTEM: &str = "system";

/// Content that is quarantined wherever it turns up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) sha256: Sha256,
    pub(crate) since: Timestamp,
    /// Who blocked it.
    pub(crate) by: String,
    /// Why, in the operator's words.
    pub(crate) reason: Option<String>,
}

/// What an operator wants to know about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// It has a row.
    Media {
        user_id: Option<UserId>,
        created: Timestamp,
        last_access: Timestamp,
        /// Hash and length; `None` while nothing was uploaded to it.
        content: Option<(Sha256, u64)>,
        content_type: String,
        upload_name: Option<String>,
        /// Who quarantined it.
        quarantined_by: Option<String>,
        is_protected: bool,
        /// Addresses with the same content, this one included.
        sharing: u64,
    },
    /// It was deleted, or evicted under quarantine.
    Gone {
        since: Timestamp,
        is_quarantined: bool,
    },
    Unknown,
}

/// Media to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// These addresses.
    Listed(Vec<Mxc>),
    /// All of another server's.
    Server(ServerName),
    /// All that a user uploaded.
    User(UserId),
}

/// Queries about moderation. A write is durable when it returns.
pub(crate) trait ModerationRows {
    fn record(&self, mxc: &Mxc) -> Result<Record>;

    /// Quarantines the content of an address: every row of it, here and of other servers, that is not protected, and all that is stored
    /// with it later. Does nothing for an unknown address and for a protected one, as Synapse. Returns the addresses that are not served
    /// any more.
    fn quarantine(&self, mxc: &Mxc, block: NewBlock) -> Result<Removed>;

    /// Ends the quarantine of the content of an address. Returns how many addresses can be served or fetched again.
    fn unquarantine(&self, mxc: &Mxc) -> Result<u64>;

    /// Sets whether an address is protected from quarantine and from eviction. `false` if there is no row.
    fn protect(&self, mxc: &Mxc, is_protected: bool) -> Result<bool>;

    /// Quarantines content by its hash, whether it is here or not.
    fn block(&self, hashes: Vec<Sha256>, block: NewBlock) -> Result<Removed>;

    /// Ends the quarantine of content. Returns how many of the hashes were blocked.
    fn unblock(&self, hashes: Vec<Sha256>) -> Result<u64>;

    /// Blocked content behind the hash `after`, in the order of the hashes, at most `limit`.
    fn blocked(&self, after: Option<Sha256>, limit: u32) -> Result<Vec<Block>>;

    /// Deletes the rows of addresses, at most `limit`, and notes them as gone. Thumbnails and previews of them go too. Listed addresses
    /// without a row are noted as well, if they are another server's: then they are not fetched.
    fn delete(&self, selection: Selection, ours: &ServerName, now: Timestamp, limit: u32) -> Result<Deleted>;
}

/// Who blocks content, when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewBlock {
    pub(crate) since: Timestamp,
    pub(crate) by: String,
    pub(crate) reason: Option<String>,
}

/// What a deletion did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) removed: Removed,
    /// Rows that were deleted.
    pub(crate) rows: u64,
}

impl ModerationRows for SqliteCatalog {
    fn record(&self, mxc: &Mxc) -> Result<Record> {
        self.readers.ask(|connection| {
            let address = (mxc.server_name.as_str(), mxc.media_id.as_str());
            let found = connection
                .prepare_cached(
                    "SELECT user_id, created_ms, last_access_ms, sha256, size, content_type, upload_name, quarantined_by,
                            protected, (SELECT count(*) FROM media AS other WHERE other.sha256 = media.sha256)
                     FROM media WHERE server_name = ?1 AND media_id = ?2",
                )?
                .query_row(address, |row| {
                    let sha256: Option<[u8; 32]> = row.get(3)?;
                    let size = row.get::<_, Option<i64>>(4)?.and_then(|size| u64::try_from(size).ok());
                    Ok(Record::Media {
                        user_id: row.get::<_, Option<String>>(0)?.as_deref().map(UserId::new),
                        created: Timestamp(row.get(1)?),
                        last_access: Timestamp(row.get(2)?),
                        content: sha256.map(Sha256::from_bytes).zip(size),
                        content_type: row.get(5)?,
                        upload_name: row.get(6)?,
                        quarantined_by: row.get(7)?,
                        is_protected: row.get(8)?,
                        sharing: row.get::<_, u32>(9)?.into(),
                    })
                })
                .optional()?;
            if let Some(found) = found {
                return Ok(found);
            }
            let gone = connection
                .prepare_cached(
                    "SELECT since_ms, why = 'quarantined' FROM gone WHERE server_name = ?1 AND media_id = ?2",
                )?
                .query_row(address, |row| {
                    Ok(Record::Gone { since: Timestamp(row.get(0)?), is_quarantined: row.get(1)? })
                })
                .optional()?;
            Ok(gone.unwrap_or(Record::Unknown))
        })
    }

    fn quarantine(&self, mxc: &Mxc, block: NewBlock) -> Result<Removed> {
        let mxc = mxc.clone();
        self.writer.write(move |connection| {
            let found: Option<(Option<[u8; 32]>, bool)> = connection
                .prepare_cached(
                    "SELECT sha256, protected FROM media WHERE server_name = ?1 AND media_id = ?2",
                )?
                .query_row((mxc.server_name.as_str(), mxc.media_id.as_str()), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            match found {
                Some((Some(sha256), false)) => {
                    let media = block_hash(connection, &Sha256::from_bytes(sha256), &block)?;
                    Ok(Removed { media, ..Removed::default() })
                }
                Some((None, _) | (_, true)) | None => Ok(Removed::default()),
            }
        })
    }

    fn unquarantine(&self, mxc: &Mxc) -> Result<u64> {
        let mxc = mxc.clone();
        self.writer.write(move |connection| {
            let sha256: Option<[u8; 32]> = connection
                .prepare_cached(
                    "SELECT sha256 FROM media WHERE server_name = ?1 AND media_id = ?2
                     UNION ALL SELECT sha256 FROM gone WHERE server_name = ?1 AND media_id = ?2 LIMIT 1",
                )?
                .query_row((mxc.server_name.as_str(), mxc.media_id.as_str()), |row| row.get(0))
                .optional()?
                .flatten();
            let Some(sha256) = sha256.map(Sha256::from_bytes) else { return Ok(0) };
            Ok(unblock_hash(connection, &sha256)?.1)
        })
    }

    fn protect(&self, mxc: &Mxc, is_protected: bool) -> Result<bool> {
        let mxc = mxc.clone();
        self.writer.write(move |connection| {
            let changed = connection
                .prepare_cached("UPDATE media SET protected = ?3 WHERE server_name = ?1 AND media_id = ?2")?
                .execute((mxc.server_name.as_str(), mxc.media_id.as_str(), is_protected))?;
            Ok(changed == 1)
        })
    }

    fn block(&self, hashes: Vec<Sha256>, block: NewBlock) -> Result<Removed> {
        self.writer.write(move |connection| {
            let mut removed = Removed::default();
            for sha256 in &hashes {
                removed.media.extend(block_hash(connection, sha256, &block)?);
            }
            Ok(removed)
        })
    }

    fn unblock(&self, hashes: Vec<Sha256>) -> Result<u64> {
        self.writer.write(move |connection| {
            let mut count = 0_u64;
            for sha256 in &hashes {
                count = count.saturating_add(unblock_hash(connection, sha256)?.0.into());
            }
            Ok(count)
        })
    }

    fn blocked(&self, after: Option<Sha256>, limit: u32) -> Result<Vec<Block>> {
        // In the order of bytes, the empty one comes before every hash.
        let after = after.map_or_else(Vec::new, |sha256| sha256.as_bytes().to_vec());
        self.readers.ask(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT sha256, since_ms, by, reason FROM blocked_hash WHERE sha256 > ?1 ORDER BY sha256 LIMIT ?2",
            )?;
            let rows = statement.query_map((after, limit), |row| {
                Ok(Block {
                    sha256: Sha256::from_bytes(row.get(0)?),
                    since: Timestamp(row.get(1)?),
                    by: row.get(2)?,
                    reason: row.get(3)?,
                })
            })?;
            rows.collect()
        })
    }

    fn delete(&self, selection: Selection, ours: &ServerName, now: Timestamp, limit: u32) -> Result<Deleted> {
        let ours = ours.clone();
        self.writer.write(move |connection| {
            let listed = match selection {
                Selection::Listed(listed) => listed,
                Selection::Server(name) => {
                    let sql =
                        "SELECT server_name, media_id FROM media WHERE server_name = ?1 AND user_id IS NULL
                               AND preview = 0 LIMIT ?2";
                    read_addresses(connection, sql, (name.as_str(), limit))?
                }
                Selection::User(user_id) => {
                    let sql = "SELECT server_name, media_id FROM media WHERE user_id = ?1 LIMIT ?2";
                    read_addresses(connection, sql, (user_id.as_str(), limit))?
                }
            };
            let mut deleted = Deleted::default();
            for mxc in &listed {
                delete_media(connection, mxc, &ours, now, &mut deleted)?;
            }
            Ok(deleted)
        })
    }
}

/// Deletes one address and what was made of it.
fn delete_media(
    connection: &Connection,
    mxc: &Mxc,
    ours: &ServerName,
    now: Timestamp,
    deleted: &mut Deleted,
) -> rusqlite::Result<()> {
    let sha256: Option<Option<[u8; 32]>> = connection
        .prepare_cached("SELECT sha256 FROM media WHERE server_name = ?1 AND media_id = ?2")?
        .query_row((mxc.server_name.as_str(), mxc.media_id.as_str()), |row| row.get(0))
        .optional()?;
    // One of ours without content cannot come back: nothing else has its ID. So creating and deleting leaves nothing.
    if sha256.flatten().is_some() || mxc.server_name != *ours {
        bury(connection, mxc, now, None)?;
    }
    let Some(sha256) = sha256 else { return Ok(()) };
    delete_row(connection, mxc)?;
    deleted.rows = deleted.rows.saturating_add(1);
    deleted.removed.media.push(mxc.clone());
    if let Some(sha256) = sha256.map(Sha256::from_bytes) {
        deleted.removed.blobs.push(sha256);
        drop_sourceless(connection, &sha256, &mut deleted.removed)?;
    }
    if mxc.server_name == *ours {
        let mut previews =
            connection.prepare_cached("DELETE FROM preview WHERE media_id = ?1 RETURNING url")?;
        for url in previews.query_map([mxc.media_id.as_str()], |row| row.get(0))? {
            deleted.removed.previews.push(url?);
        }
    }
    Ok(())
}

/// Blocks content and quarantines its rows. Returns the addresses that were served until now.
fn block_hash(connection: &Connection, sha256: &Sha256, block: &NewBlock) -> rusqlite::Result<Vec<Mxc>> {
    let NewBlock { since, by, reason } = block;
    connection
        .prepare_cached(
            "INSERT INTO blocked_hash (sha256, since_ms, by, reason) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?
        .execute((sha256.as_bytes(), since.0, by, reason))?;
    let mut rows = connection.prepare_cached(
        "UPDATE media SET quarantined_by = ?2 WHERE sha256 = ?1 AND protected = 0 AND quarantined_by IS NULL
         RETURNING server_name, media_id",
    )?;
    rows.query_map((sha256.as_bytes(), by), |row| read_mxc(row, 0))?.collect()
}

/// Ends the quarantine of content. Returns whether it was blocked, and how many addresses were quarantined.
fn unblock_hash(connection: &Connection, sha256: &Sha256) -> rusqlite::Result<(bool, u64)> {
    let mut changed = [0_usize; 3];
    for (changed, sql) in changed.iter_mut().zip([
        "DELETE FROM blocked_hash WHERE sha256 = ?1",
        "UPDATE media SET quarantined_by = NULL WHERE sha256 = ?1 AND quarantined_by IS NOT NULL",
        "DELETE FROM gone WHERE sha256 = ?1",
    ]) {
        *changed = connection.prepare_cached(sql)?.execute([sha256.as_bytes()])?;
    }
    let [blocked, rows, tombstones] = changed;
    Ok((blocked > 0, u64::try_from(rows.saturating_add(tombstones)).unwrap_or(u64::MAX)))
}

fn read_addresses(connection: &Connection, sql: &str, values: (&str, u32)) -> rusqlite::Result<Vec<Mxc>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(values, |row| read_mxc(row, 0))?.collect()
}
