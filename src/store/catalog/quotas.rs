//! Queries about what users have, and uploads within their quotas. A quota is checked in the transaction that writes the row, so that
//! uploads at the same time cannot each have the last bytes.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::SqliteCatalog;
use super::media::{Added, Filled, NewMedia, Purpose, insert_media, sql_size};
use super::moderation::BY_SYSTEM;
use crate::error::Result;
use crate::matrix::{Mxc, Timestamp, UserId};

/// What a user may have. `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) max_bytes: Option<u64>,
    /// Media IDs, pending ones included.
    pub(crate) max_files: Option<u64>,
}

/// What a user has uploaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserTotal {
    /// Media IDs with content.
    pub(crate) files: u64,
    /// Their sizes together. Those that share a blob count each.
    pub(crate) bytes: u64,
    /// Media IDs without content, expired ones included until they are deleted.
    pub(crate) pending: u64,
}

impl Quota {
    /// Whether a user who has `total` may have so much more.
    pub(crate) fn allows(self, total: UserTotal, bytes: u64, files: u64) -> bool {
        let all_files = total.files.saturating_add(total.pending).saturating_add(files);
        let all_bytes = total.bytes.saturating_add(bytes);
        self.max_bytes.is_none_or(|max| all_bytes <= max)
            && (files == 0 || self.max_files.is_none_or(|max| all_files <= max))
    }

    /// Whether there is any bound.
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// The queries.
pub(crate) trait QuotaRows {
    fn user_total(&self, user_id: &UserId) -> Result<UserTotal>;

    /// Adds uploaded media unless its user would have more than `quota`.
    fn add_within(&self, media: NewMedia, quota: Quota) -> Result<Added>;

    /// Gives a pending ID its content, unless it has content, has expired or does not exist, and unless its user would have more than `quota`.
    fn fill_within(&self, media: NewMedia, quota: Quota) -> Result<Added>;
}

impl QuotaRows for SqliteCatalog {
    fn user_total(&self, user_id: &UserId) -> Result<UserTotal> {
        self.readers.ask(|connection| read_user_total(connection, user_id))
    }

    fn add_within(&self, media: NewMedia, quota: Quota) -> Result<Added> {
        self.writer.write(move |connection| {
            if !is_within(connection, &media, quota, 1)? {
                return Ok(Added::OverQuota);
            }
            insert_media(connection, &media, Purpose::Media)
        })
    }

    fn fill_within(&self, media: NewMedia, quota: Quota) -> Result<Added> {
        self.writer.write(move |connection| {
            if !is_within(connection, &media, quota, 0)? {
                return Ok(Added::OverQuota);
            }
            let NewMedia { mxc, filled, created, open, .. } = &media;
            Ok(if fill_media(connection, mxc, filled, (*created, *open))? { Added::Yes } else { Added::No })
        })
    }
}

/// Whether the user of `media` may have it and `files` more.
fn is_within(connection: &Connection, media: &NewMedia, quota: Quota, files: u64) -> rusqlite::Result<bool> {
    match &media.user_id {
        Some(user_id) if !quota.is_none() => {
            Ok(quota.allows(read_user_total(connection, user_id)?, media.filled.size, files))
        }
        _ => Ok(true),
    }
}

/// Gives a pending ID its content. `false` if it has content already, has expired or does not exist.
pub(super) fn fill_media(
    connection: &Connection,
    mxc: &Mxc,
    filled: &Filled,
    (now, open): (Timestamp, bool),
) -> rusqlite::Result<bool> {
    let changed = connection
                .prepare_cached(
                    "UPDATE media SET sha256 = :sha256, size = :size, content_type = :content_type,
                                      upload_name = :upload_name, expires_ms = NULL, last_access_ms = :now, open = :open,
                                      quarantined_by = (SELECT :system FROM blocked_hash WHERE sha256 = :sha256)
                     WHERE server_name = :server_name AND media_id = :media_id AND sha256 IS NULL AND expires_ms > :now",
                )?
                .execute(named_params! {
                    ":sha256": filled.sha256.as_bytes(),
                    ":size": sql_size(filled.size),
                    ":content_type": filled.content_type,
                    ":upload_name": filled.upload_name,
                    ":server_name": mxc.server_name.as_str(),
                    ":media_id": mxc.media_id.as_str(),
                    ":now": now.0,
                    ":open": open,
                    ":system": BY_SYSTEM,
                })?;
    Ok(changed == 1)
}

pub(super) fn read_user_total(connection: &Connection, user_id: &UserId) -> rusqlite::Result<UserTotal> {
    let count = |row: &Row<'_>, column| row.get::<_, i64>(column).map(|sum| u64::try_from(sum).unwrap_or(0));
    let total = connection
        .prepare_cached("SELECT files, bytes, pending FROM user_usage WHERE user_id = ?1")?
        .query_row([user_id.as_str()], |row| {
            Ok(UserTotal { files: count(row, 0)?, bytes: count(row, 1)?, pending: count(row, 2)? })
        })
        .optional()?;
    Ok(total.unwrap_or_default())
}
