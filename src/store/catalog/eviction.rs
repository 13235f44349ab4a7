//! Queries about what goes when room is made: blobs in the order in which they go, and their eviction.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::blobs::read_totals;
use super::media::read_mxc;
use super::{Removed, SqliteCatalog};
use crate::error::Result;
use crate::matrix::{Mxc, ServerName, Timestamp};
use crate::store::sha256::Sha256;

/// Blobs that are listed at once by the time they came.
const ARRIVED_AT_ONCE: u32 = 256;

/// Blobs that go together, in the order in which groups go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    Thumbnails,
    /// Media of other servers that nobody but callers without a token wanted.
    Anonymous,
    /// The other media of other servers.
    Remote,
    /// Media uploaded here.
    Local,
    /// Media of one other server.
    Server(ServerName),
}

/// On which terms something may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) now: Timestamp,
    /// Media that was asked for as an avatar is, then or later, stays.
    pub(crate) avatars_since: Timestamp,
}

/// A blob that may be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) sha256: Sha256,
    /// Its length, bytes.
    pub(crate) size: u64,
    /// When it was last served for any of its rows.
    pub(crate) last_access: Timestamp,
    /// When its first row came.
    pub(crate) created: Timestamp,
    /// One of its addresses; `None` for a thumbnail.
    pub(crate) mxc: Option<Mxc>,
}

/// Where a listing of candidates goes on: behind this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    last_access: Timestamp,
    sha256: Sha256,
    /// Of the row, in [`Group::Anonymous`] and [`Group::Server`].
    mxc: Option<Mxc>,
}

/// Which part of a listing of candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Behind this one; `None`: from the start.
    pub(crate) after: Option<Cursor>,
    pub(crate) terms: Terms,
    /// Most rows.
    pub(crate) limit: u32,
}

/// What an eviction removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) removed: Removed,
    /// How many bytes fewer the totals have.
    pub(crate) freed: u64,
}

/// Queries about what goes.
pub(crate) trait EvictionRows {
    /// The next blobs of a group, the longest unused first, and where to go on. `None`: these were the last.
    fn candidates(&self, group: &Group, page: Page) -> Result<(Vec<Candidate>, Option<Cursor>)>;

    /// Blobs of [`Group::Remote`] (with [`Group::Anonymous`]) or [`Group::Local`] whose first row came before `created`, at most 256, behind the
    /// hash `after`. Reads the whole table.
    fn arrived_before(
        &self,
        group: &Group,
        created: Timestamp,
        after: Option<Sha256>,
        terms: Terms,
    ) -> Result<Vec<Candidate>>;

    /// When anything was last served or stored, as far as the catalog knows.
    fn newest_access(&self) -> Result<Option<Timestamp>>;

    /// Visits the bytes that are kept of each other server.
    fn server_usage(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()>;

    /// Deletes the rows of `blobs` that belong to `group`, as far as they may still go, with thumbnails that lose their source. Media of
    /// other servers that is quarantined leaves a tombstone. In one transaction.
    fn evict(&self, group: &Group, blobs: Vec<Sha256>, terms: Terms) -> Result<Evicted>;
}

/// The condition that no row of a blob is protected or an avatar.
const MAY_GO: &str = "NOT EXISTS (SELECT 1 FROM media AS kept WHERE kept.sha256 = blob.sha256
                                  AND (kept.protected = 1 OR kept.avatar_seen_ms >= :avatars_since))";

/// Columns of a [`Candidate`] whose address is in the row `media`.
const WITH_ROW: &str =
    "blob.sha256, blob.size, blob.last_access_ms, blob.created_ms, media.server_name, media.media_id";

impl SqliteCatalog {
    /// Lists candidates whose order is that of their rows: `media` is joined, under `condition`.
    fn by_row(
        &self,
        condition: &str,
        server_name: &str,
        page: Page,
    ) -> Result<(Vec<Candidate>, Option<Cursor>)> {
        let Page { after, terms, limit } = page;
        let sql = format!(
            "SELECT {WITH_ROW}, media.last_access_ms FROM media CROSS JOIN blob ON blob.sha256 = media.sha256
             WHERE {condition} AND media.last_access_ms >= :at
               AND (media.last_access_ms, media.server_name, media.media_id) > (:at, :after_server, :after_id)
               AND blob.kind = 'remote' AND {MAY_GO}
             ORDER BY media.last_access_ms, media.server_name, media.media_id LIMIT :limit"
        );
        let (at, mxc) = after.map_or((i64::MIN, None), |cursor| (cursor.last_access.0, cursor.mxc));
        let (after_server, after_id) =
            mxc.as_ref().map_or(("", ""), |mxc| (mxc.server_name.as_str(), mxc.media_id.as_str()));
        self.readers.ask(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(named_params! {
                ":avatars_since": terms.avatars_since.0, ":at": at, ":after_server": after_server,
                ":after_id": after_id, ":limit": limit, ":server_name": server_name,
            })?;
            let (mut found, mut last) = (Vec::new(), None);
            while let Some(row) = rows.next()? {
                let candidate = read_candidate(row)?;
                last = Some(Cursor {
                    last_access: Timestamp(row.get(6)?),
                    sha256: candidate.sha256,
                    mxc: candidate.mxc.clone(),
                });
                found.push(candidate);
            }
            let is_full = u32::try_from(found.len()).is_ok_and(|count| count >= limit);
            Ok((found, last.filter(|_| is_full)))
        })
    }

    /// Lists candidates of one kind in the order of their blobs.
    fn by_blob(&self, kind: &str, page: Page) -> Result<(Vec<Candidate>, Option<Cursor>)> {
        let Page { after, terms, limit } = page;
        // `kind` is written out, because the partial indexes are found by it.
        let of_thumbnails = kind == "thumbnail";
        let address = if of_thumbnails { "NULL, NULL" } else { "media.server_name, media.media_id" };
        let join = match kind {
            "thumbnail" => "",
            "remote" => {
                "JOIN media ON media.sha256 = blob.sha256 AND media.user_id IS NULL AND media.preview = 0 AND media.anonymous = 0"
            }
            _ => "JOIN media ON media.sha256 = blob.sha256 AND media.user_id IS NOT NULL",
        };
        // A thumbnail's blob has no row of media; of the others most have only the one that is joined.
        let may_go = if of_thumbnails {
            ":avatars_since IS NOT NULL".to_owned()
        } else {
            format!(
                "media.protected = 0 AND (media.avatar_seen_ms IS NULL OR media.avatar_seen_ms < :avatars_since)
                 AND (blob.locals + blob.remotes + blob.previews = 1 OR {MAY_GO})"
            )
        };
        let sql = format!(
            "SELECT blob.sha256, blob.size, blob.last_access_ms, blob.created_ms, {address} FROM blob {join}
             WHERE blob.kind = '{kind}' AND blob.last_access_ms >= :at
               AND (blob.last_access_ms, blob.sha256) > (:at, :after) AND {may_go}
             ORDER BY blob.last_access_ms, blob.sha256 LIMIT :limit"
        );
        let (at, after_hash) =
            after.map_or((i64::MIN, [0; 32]), |cursor| (cursor.last_access.0, *cursor.sha256.as_bytes()));
        self.readers.ask(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(named_params! {
                ":avatars_since": terms.avatars_since.0, ":at": at, ":after": after_hash, ":limit": limit,
            })?;
            let (mut found, mut count, mut last) = (Vec::<Candidate>::new(), 0_u32, None);
            while let Some(row) = rows.next()? {
                count = count.saturating_add(1);
                let candidate = read_candidate(row)?;
                let (last_access, sha256) = (candidate.last_access, candidate.sha256);
                // A blob with several rows comes several times.
                if last
                    .replace(Cursor { last_access, sha256, mxc: None })
                    .is_none_or(|last| last.sha256 != sha256)
                {
                    found.push(candidate);
                }
            }
            Ok((found, last.filter(|_| count >= limit)))
        })
    }
}

impl EvictionRows for SqliteCatalog {
    fn candidates(&self, group: &Group, page: Page) -> Result<(Vec<Candidate>, Option<Cursor>)> {
        match group {
            Group::Thumbnails => self.by_blob("thumbnail", page),
            Group::Remote => self.by_blob("remote", page),
            Group::Local => self.by_blob("local", page),
            Group::Anonymous => {
                let condition = "media.anonymous = 1 AND :server_name IS NOT NULL AND NOT EXISTS (
                    SELECT 1 FROM media AS other WHERE other.sha256 = media.sha256 AND other.anonymous = 0)";
                self.by_row(condition, "", page)
            }
            Group::Server(name) => {
                let condition =
                    "media.server_name = :server_name AND media.user_id IS NULL AND media.preview = 0";
                self.by_row(condition, name.as_str(), page)
            }
        }
    }

    fn arrived_before(
        &self,
        group: &Group,
        created: Timestamp,
        after: Option<Sha256>,
        terms: Terms,
    ) -> Result<Vec<Candidate>> {
        let kind = if *group == Group::Local { "local" } else { "remote" };
        let sql = format!(
            "SELECT blob.sha256, blob.size, blob.last_access_ms, blob.created_ms, media.server_name, media.media_id
             FROM blob JOIN media ON media.sha256 = blob.sha256
             WHERE blob.sha256 > :after AND blob.kind = '{kind}' AND blob.created_ms < :created AND {MAY_GO}
             GROUP BY blob.sha256 ORDER BY blob.sha256 LIMIT :limit"
        );
        let after = after.map_or([0; 32], |sha256| *sha256.as_bytes());
        self.readers.ask(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map(
                named_params! {
                    ":after": after, ":created": created.0, ":avatars_since": terms.avatars_since.0, ":limit": ARRIVED_AT_ONCE,
                },
                read_candidate,
            )?;
            rows.collect()
        })
    }

    fn newest_access(&self) -> Result<Option<Timestamp>> {
        self.readers.ask(|connection| {
            let newest = |kind: &str| {
                connection
                    .prepare_cached(&format!(
                        "SELECT last_access_ms FROM blob WHERE kind = '{kind}' ORDER BY last_access_ms DESC LIMIT 1"
                    ))?
                    .query_row([], |row| row.get(0))
                    .optional()
            };
            Ok(newest("remote")?.max(newest("thumbnail")?).map(Timestamp))
        })
    }

    fn server_usage(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.readers.ask(|connection| {
            let mut statement = connection.prepare_cached("SELECT server_name, bytes FROM server_usage")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                visit(row.get_ref(0)?.as_str()?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
            }
            Ok(())
        })
    }

    fn evict(&self, group: &Group, blobs: Vec<Sha256>, terms: Terms) -> Result<Evicted> {
        let group = group.clone();
        self.writer.write(move |connection| {
            let before = all_bytes(connection)?;
            let mut removed = Removed::default();
            for sha256 in &blobs {
                if group == Group::Thumbnails {
                    let gone = connection
                        .prepare_cached("DELETE FROM thumbnail WHERE sha256 = ?1")?
                        .execute([sha256.as_bytes()])?;
                    removed.blobs.extend((gone > 0).then_some(*sha256));
                } else {
                    evict_media(connection, &group, sha256, terms, &mut removed)?;
                }
            }
            let freed = before.saturating_sub(all_bytes(connection)?);
            Ok(Evicted { removed, freed })
        })
    }
}

/// Deletes the rows of a blob that belong to `group`, unless it must stay by now.
fn evict_media(
    connection: &Connection,
    group: &Group,
    sha256: &Sha256,
    terms: Terms,
    removed: &mut Removed,
) -> rusqlite::Result<()> {
    let must_stay: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM media WHERE sha256 = ?1 AND (protected = 1 OR avatar_seen_ms >= ?2))",
        )?
        .query_row((sha256.as_bytes(), terms.avatars_since.0), |row| row.get(0))?;
    if must_stay {
        return Ok(());
    }
    let mut rows = connection.prepare_cached(
        "SELECT server_name, media_id, user_id IS NOT NULL, quarantined_by IS NOT NULL FROM media
         WHERE sha256 = ?1 AND preview = 0",
    )?;
    let rows = rows
        .query_map([sha256.as_bytes()], |row| Ok((read_mxc(row, 0)?, row.get(2)?, row.get(3)?)))?
        .collect::<rusqlite::Result<Vec<(Mxc, bool, bool)>>>()?;
    let mut count = 0_usize;
    for (mxc, is_local, is_quarantined) in rows {
        let is_of_group = match group {
            Group::Local => is_local,
            Group::Server(name) => !is_local && mxc.server_name == *name,
            Group::Remote | Group::Anonymous | Group::Thumbnails => !is_local,
        };
        if !is_of_group {
            continue;
        }
        count = count.saturating_add(1);
        if is_quarantined {
            // Otherwise the next request would fetch it again.
            bury(connection, &mxc, terms.now, Some(sha256))?;
        }
        delete_row(connection, &mxc)?;
        removed.media.push(mxc);
    }
    if count > 0 {
        removed.blobs.push(*sha256);
        drop_sourceless(connection, sha256, removed)?;
    }
    Ok(())
}

/// Notes that an address ended: for good, or with the quarantine of `sha256`.
pub(super) fn bury(
    connection: &Connection,
    mxc: &Mxc,
    now: Timestamp,
    sha256: Option<&Sha256>,
) -> rusqlite::Result<()> {
    let why = if sha256.is_some() { "quarantined" } else { "deleted" };
    connection
        .prepare_cached(
            "INSERT INTO gone (server_name, media_id, since_ms, why, sha256) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET why = excluded.why, sha256 = excluded.sha256 WHERE excluded.why = 'deleted'",
        )?
        .execute((mxc.server_name.as_str(), mxc.media_id.as_str(), now.0, why, sha256.map(Sha256::as_bytes)))?;
    Ok(())
}

/// Deletes the row of an address.
pub(super) fn delete_row(connection: &Connection, mxc: &Mxc) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM media WHERE server_name = ?1 AND media_id = ?2")?
        .execute((mxc.server_name.as_str(), mxc.media_id.as_str()))?;
    Ok(())
}

/// Deletes the thumbnails of a picture that no media has any more.
pub(super) fn drop_sourceless(
    connection: &Connection,
    source: &Sha256,
    removed: &mut Removed,
) -> rusqlite::Result<()> {
    let mut thumbnails = connection.prepare_cached(
        "DELETE FROM thumbnail WHERE source = ?1 AND NOT EXISTS (SELECT 1 FROM media WHERE sha256 = ?1)
         RETURNING sha256",
    )?;
    for thumbnail in thumbnails.query_map([source.as_bytes()], |row| row.get(0).map(Sha256::from_bytes))? {
        removed.blobs.push(thumbnail?);
    }
    Ok(())
}

/// Bytes of all blobs.
fn all_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    read_totals(connection).map(|totals| totals.bytes())
}

fn read_candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    let has_address = !matches!(row.get_ref(4)?, rusqlite::types::ValueRef::Null);
    Ok(Candidate {
        sha256: Sha256::from_bytes(row.get(0)?),
        size: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
        last_access: Timestamp(row.get(2)?),
        created: Timestamp(row.get(3)?),
        mxc: if has_address { Some(read_mxc(row, 4)?) } else { None },
    })
}
