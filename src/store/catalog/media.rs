//! Queries about media IDs.

use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::moderation::BY_SYSTEM;
#[cfg(test)]
use super::quotas::fill_media;
use super::quotas::{Quota, read_user_total};
use super::{Removed, SqliteCatalog};
use crate::error::Result;
use crate::matrix::{Expiry, MediaId, Mxc, ServerName, Timestamp, UserId};
use crate::store::sha256::Sha256;

/// How much later than the stored time an access must be to be written.
pub(super) const ACCESS_GRAIN: Duration = Duration::from_hours(24);

/// Access times in one transaction. With fewer, the same pages are written again (8192 random rows of a million: 102 MB of log with 512,
/// 66 MB with 2048, 57 MB in one transaction); with more, uploads wait longer.
const ACCESSES_AT_ONCE: usize = 2048;

/// The row of a media ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaRow {
    /// Its content, if it has any.
    pub(crate) content: Content,
    /// Uploader, for local media.
    pub(crate) user_id: Option<UserId>,
    /// When the ID was created here, or the remote file was fetched.
    pub(crate) created: Timestamp,
    /// Whether it may be served without a token.
    pub(crate) open: bool,
    /// Whether it must not be served at all.
    pub(crate) is_quarantined: bool,
}

/// The content of a media ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Created, without content (MSC2246).
    Pending {
        /// When the ID ends.
        expires: Expiry,
    },
    /// With content, which does not change.
    Stored(Filled),
    /// Deleted, or evicted under quarantine: the ID is never served, fetched or given out again.
    Gone,
}

/// Content of a media ID or thumbnail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Name of the blob.
    pub(crate) sha256: Sha256,
    /// Its length, bytes.
    pub(crate) size: u64,
    /// As the uploader claimed it.
    pub(crate) content_type: String,
    /// File name as the uploader gave it.
    pub(crate) upload_name: Option<String>,
}

/// A row to be written for media with content.
#[derive(Clone, Debug)]
pub(crate) struct NewMedia {
    pub(crate) mxc: Mxc,
    /// Its content, whose blob is durable and claimed.
    pub(crate) filled: Filled,
    /// Uploader, for local media.
    pub(crate) user_id: Option<UserId>,
    pub(crate) created: Timestamp,
    /// Whether it may be served without a token.
    pub(crate) open: bool,
    /// Whether nobody but callers without a token wanted it so far.
    pub(crate) anonymous: bool,
}

/// When something was served last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastAccess {
    pub(crate) at: Timestamp,
    /// Whether a user or a server wanted it, since the last access was written.
    pub(crate) by_known: bool,
    /// Whether it was asked for as an avatar is.
    pub(crate) as_avatar: bool,
}

impl LastAccess {
    /// This access and a later one as one.
    pub(crate) fn then(self, later: Self) -> Self {
        Self {
            at: later.at,
            by_known: self.by_known || later.by_known,
            as_avatar: self.as_avatar || later.as_avatar,
        }
    }
}

/// Whether a row was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    Yes,
    /// Its content is blocked.
    Quarantined,
    /// The ID exists, or is gone.
    No,
    /// Its user would have more than the quota allows.
    OverQuota,
}

/// Why media is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// For itself.
    Media,
    /// For a preview. It is deleted together with the preview.
    PreviewImage,
}

/// A media ID to be created without content.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub(crate) mxc: Mxc,
    /// The user who may upload to it.
    pub(crate) user_id: UserId,
    pub(crate) created: Timestamp,
    /// When it expires. Rows with a later expiry were written with a wrong clock and do not count as pending.
    pub(crate) expires: Expiry,
    /// Most pending IDs that the user may have, this one included.
    pub(crate) limit: u32,
    /// What the user may have.
    pub(crate) quota: Quota,
}

/// The result of creating a media ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// The ID was created.
    Done,
    /// The user has too many pending IDs.
    TooMany {
        /// When the first of them expires.
        next_free: Timestamp,
    },
    /// The user has as many media IDs as the quota allows.
    OverQuota,
}

/// Queries about media IDs. A write is durable when it returns; a failed write changes nothing.
pub(crate) trait MediaRows {
    /// The row of an ID, or that it is gone.
    fn media(&self, mxc: &Mxc) -> Result<Option<MediaRow>>;

    /// Adds media with content. Returns whether a row was added: an existing ID stays as it is.
    #[cfg(test)]
    fn add(&self, media: NewMedia) -> Result<bool>;

    /// Adds media with content: an existing ID stays as it is. Blocked content is quarantined from the start.
    fn add_checked(&self, media: NewMedia) -> Result<Added>;

    /// Updates the row of remote media whose blob was lost and has been fetched again. `open` stays, and `created` stays if the bytes are the
    /// same. Returns what the row referred to before; `None` if there is no such row.
    fn refill(&self, media: NewMedia) -> Result<Option<Removed>>;

    /// Adds many rows in one transaction and returns how many were new.
    #[cfg(test)]
    fn add_many(&self, media: Vec<NewMedia>) -> Result<usize>;

    /// Creates a pending ID unless its user has too many.
    fn reserve(&self, reservation: Reservation) -> Result<Reserved>;

    /// Gives a pending ID its content, unless it has expired by `now`. `false` if it has content already, has expired or does not exist.
    #[cfg(test)]
    fn fill(&self, mxc: &Mxc, filled: Filled, now: Timestamp, open: bool) -> Result<bool>;

    /// Deletes pending IDs that expired before `before`.
    fn forget_expired(&self, before: Timestamp) -> Result<Removed>;

    /// Deletes an ID.
    #[cfg(test)]
    fn forget(&self, mxc: &Mxc) -> Result<Removed>;

    /// Writes when media and its blobs were last served, but only where the stored time is more than [`ACCESS_GRAIN`] older, like the mount
    /// option `relatime`: each write wears an SD card. Many times are written in several transactions, so that other writes can run in
    /// between.
    fn touch(&self, accesses: Vec<(Mxc, LastAccess)>) -> Result<()>;

    /// When media was last served, according to the catalog.
    #[cfg(test)]
    fn last_access(&self, mxc: &Mxc) -> Result<Option<Timestamp>>;
}

impl MediaRows for SqliteCatalog {
    fn media(&self, mxc: &Mxc) -> Result<Option<MediaRow>> {
        self.readers.ask(|connection| {
            let address = [mxc.server_name.as_str(), mxc.media_id.as_str()];
            let row = connection
                .prepare_cached(
                    "SELECT sha256, size, content_type, upload_name, user_id, created_ms, expires_ms, open,
                            quarantined_by IS NOT NULL
                     FROM media WHERE server_name = ?1 AND media_id = ?2",
                )?
                .query_row(address, read_media)
                .optional()?;
            if row.is_some() {
                return Ok(row);
            }
            connection
                .prepare_cached("SELECT since_ms FROM gone WHERE server_name = ?1 AND media_id = ?2")?
                .query_row(address, |row| {
                    let (content, created) = (Content::Gone, Timestamp(row.get(0)?));
                    Ok(MediaRow { content, user_id: None, created, open: false, is_quarantined: false })
                })
                .optional()
        })
    }

    #[cfg(test)]
    fn add(&self, media: NewMedia) -> Result<bool> {
        Ok(self.add_checked(media)? != Added::No)
    }

    fn add_checked(&self, media: NewMedia) -> Result<Added> {
        self.writer.write(move |connection| insert_media(connection, &media, Purpose::Media))
    }

    fn refill(&self, media: NewMedia) -> Result<Option<Removed>> {
        self.writer.write(move |connection| refill_media(connection, media))
    }

    #[cfg(test)]
    fn add_many(&self, media: Vec<NewMedia>) -> Result<usize> {
        self.writer.write(move |connection| {
            let mut added = 0_usize;
            for media in &media {
                added = added.saturating_add(usize::from(
                    insert_media(connection, media, Purpose::Media)? != Added::No,
                ));
            }
            Ok(added)
        })
    }

    fn reserve(&self, reservation: Reservation) -> Result<Reserved> {
        self.writer.write(move |connection| {
            let Reservation { mxc, user_id, created, expires, limit, quota } = &reservation;
            if !quota.is_none() && !quota.allows(read_user_total(connection, user_id)?, 0, 1) {
                return Ok(Reserved::OverQuota);
            }
            let (held, next_free): (u32, Option<i64>) = connection
                .prepare_cached(
                    "SELECT count(*), min(expires_ms) FROM media
                     WHERE sha256 IS NULL AND user_id = ?1 AND expires_ms > ?2 AND expires_ms <= ?3",
                )?
                .query_row((user_id.as_str(), created.0, expires.time().0), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            if held >= *limit {
                return Ok(Reserved::TooMany { next_free: Timestamp(next_free.unwrap_or(expires.time().0)) });
            }
            connection
                .prepare_cached(
                    "INSERT INTO media (server_name, media_id, content_type, user_id, created_ms, expires_ms,
                                        last_access_ms, open)
                     VALUES (?1, ?2, '', ?3, ?4, ?5, ?4, 0)",
                )?
                .execute((
                    mxc.server_name.as_str(),
                    mxc.media_id.as_str(),
                    user_id.as_str(),
                    created.0,
                    expires.time().0,
                ))?;
            Ok(Reserved::Done)
        })
    }

    #[cfg(test)]
    fn fill(&self, mxc: &Mxc, filled: Filled, now: Timestamp, open: bool) -> Result<bool> {
        let mxc = mxc.clone();
        self.writer.write(move |connection| fill_media(connection, &mxc, &filled, (now, open)))
    }

    fn forget_expired(&self, before: Timestamp) -> Result<Removed> {
        self.writer.write(move |connection| {
            let mut expired = connection.prepare_cached(
                "DELETE FROM media WHERE sha256 IS NULL AND expires_ms <= ?1 RETURNING server_name, media_id",
            )?;
            let media =
                expired.query_map([before.0], |row| read_mxc(row, 0))?.collect::<rusqlite::Result<_>>()?;
            Ok(Removed { media, ..Removed::default() })
        })
    }

    #[cfg(test)]
    fn forget(&self, mxc: &Mxc) -> Result<Removed> {
        let address = mxc.clone();
        let sha256: Option<Option<[u8; 32]>> = self.writer.write(move |connection| {
            connection
                .prepare_cached(
                    "DELETE FROM media WHERE server_name = ?1 AND media_id = ?2 RETURNING sha256",
                )?
                .query_row([address.server_name.as_str(), address.media_id.as_str()], |row| row.get(0))
                .optional()
        })?;
        let media = sha256.map(|_| mxc.clone()).into_iter().collect();
        let blobs = sha256.flatten().map(Sha256::from_bytes).into_iter().collect();
        Ok(Removed { media, blobs, previews: Vec::new() })
    }

    fn touch(&self, mut accesses: Vec<(Mxc, LastAccess)>) -> Result<()> {
        // In the order of the table, because neighbouring rows share pages.
        accesses.sort_unstable_by(|(one, _), (other, _)| order(one).cmp(&order(other)));
        in_batches(accesses, |batch| {
            self.writer.write(move |connection| {
                let mut statement = connection.prepare_cached(
                    "UPDATE media SET last_access_ms = max(last_access_ms, ?3), anonymous = anonymous AND NOT ?5
                     WHERE server_name = ?1 AND media_id = ?2 AND (last_access_ms < ?4 OR anonymous AND ?5)",
                )?;
                let mut avatar = connection.prepare_cached(
                    "UPDATE media SET avatar_seen_ms = ?3 WHERE server_name = ?1 AND media_id = ?2
                     AND (avatar_seen_ms IS NULL OR avatar_seen_ms < ?4)",
                )?;
                for (mxc, LastAccess { at, by_known, as_avatar }) in &batch {
                    let stale = at.before(ACCESS_GRAIN).0;
                    let address = (mxc.server_name.as_str(), mxc.media_id.as_str());
                    statement.execute((address.0, address.1, at.0, stale, by_known))?;
                    if *as_avatar {
                        avatar.execute((address.0, address.1, at.0, stale))?;
                    }
                }
                Ok(())
            })
        })
    }

    #[cfg(test)]
    fn last_access(&self, mxc: &Mxc) -> Result<Option<Timestamp>> {
        self.readers.ask(|connection| {
            connection
                .query_row(
                    "SELECT last_access_ms FROM media WHERE server_name = ?1 AND media_id = ?2",
                    [mxc.server_name.as_str(), mxc.media_id.as_str()],
                    |row| row.get(0).map(Timestamp),
                )
                .optional()
        })
    }
}

/// Updates the row of remote media that was fetched again. Returns what the row referred to before.
fn refill_media(connection: &Connection, media: NewMedia) -> rusqlite::Result<Option<Removed>> {
    let NewMedia { mxc, filled, created, .. } = media;
    let old: Option<[u8; 32]> = connection
        .prepare_cached(
            "SELECT sha256 FROM media
             WHERE server_name = ?1 AND media_id = ?2 AND sha256 IS NOT NULL AND user_id IS NULL",
        )?
        .query_row([mxc.server_name.as_str(), mxc.media_id.as_str()], |row| row.get(0))
        .optional()?;
    let Some(old) = old.map(Sha256::from_bytes) else { return Ok(None) };
    connection
        .prepare_cached(
            "UPDATE media SET created_ms = iif(sha256 = :sha256, created_ms, :created),
                              sha256 = :sha256, size = :size, content_type = :content_type,
                              upload_name = :upload_name,
                              quarantined_by = iif(protected, NULL, (SELECT :system FROM blocked_hash WHERE sha256 = :sha256))
             WHERE server_name = :server_name AND media_id = :media_id",
        )?
        .execute(named_params! {
            ":sha256": filled.sha256.as_bytes(),
            ":size": sql_size(filled.size),
            ":content_type": filled.content_type,
            ":created": created.0,
            ":upload_name": filled.upload_name,
            ":server_name": mxc.server_name.as_str(),
            ":media_id": mxc.media_id.as_str(),
            ":system": BY_SYSTEM,
        })?;
    let blobs = if old == filled.sha256 { Vec::new() } else { vec![old] };
    Ok(Some(Removed { media: vec![mxc], blobs, previews: Vec::new() }))
}

/// Inserts the row of media with content unless its ID exists or is gone. Blocked content is quarantined from the start.
pub(super) fn insert_media(
    connection: &Connection,
    media: &NewMedia,
    purpose: Purpose,
) -> rusqlite::Result<Added> {
    let NewMedia { mxc, filled, user_id, created, open, anonymous } = media;
    let is_quarantined: Option<bool> = connection
        .prepare_cached(
            "INSERT INTO media (server_name, media_id, sha256, size, content_type, upload_name, user_id,
                                created_ms, last_access_ms, open, preview, anonymous, quarantined_by)
             SELECT :server_name, :media_id, :sha256, :size, :content_type, :upload_name, :user_id,
                    :created, :created, :open, :preview, :anonymous,
                    (SELECT :system FROM blocked_hash WHERE sha256 = :sha256)
             WHERE NOT EXISTS (SELECT 1 FROM gone WHERE server_name = :server_name AND media_id = :media_id)
             ON CONFLICT DO NOTHING
             RETURNING quarantined_by IS NOT NULL",
        )?
        .query_row(
            named_params! {
            ":server_name": mxc.server_name.as_str(),
            ":media_id": mxc.media_id.as_str(),
            ":sha256": filled.sha256.as_bytes(),
            ":size": sql_size(filled.size),
            ":content_type": filled.content_type,
            ":upload_name": filled.upload_name,
            ":user_id": user_id.as_ref().map(UserId::as_str),
            ":created": created.0,
            ":open": open,
            ":preview": purpose == Purpose::PreviewImage,
            ":anonymous": anonymous,
            ":system": BY_SYSTEM,
            },
            |row| row.get(0),
        )
        .optional()?;
    Ok(match is_quarantined {
        Some(true) => Added::Quarantined,
        Some(false) => Added::Yes,
        None => Added::No,
    })
}

/// The position of an address in the table.
fn order(mxc: &Mxc) -> (&str, &str) {
    (mxc.server_name.as_str(), mxc.media_id.as_str())
}

/// Passes access times to `write` in batches of one transaction each.
pub(super) fn in_batches<T>(mut accesses: Vec<T>, write: impl Fn(Vec<T>) -> Result<()>) -> Result<()> {
    while !accesses.is_empty() {
        let rest = accesses.split_off(accesses.len().min(ACCESSES_AT_ONCE));
        write(std::mem::replace(&mut accesses, rest))?;
    }
    Ok(())
}

/// One row in the order of [`MediaRows::media`].
fn read_media(row: &Row<'_>) -> rusqlite::Result<MediaRow> {
    let content = match (row.get::<_, Option<[u8; 32]>>(0)?, row.get::<_, Option<i64>>(6)?) {
        (Some(sha256), _) => Content::Stored(Filled {
            sha256: Sha256::from_bytes(sha256),
            size: row
                .get::<_, i64>(1)?
                .try_into()
                .map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(1, -1))?,
            content_type: row.get(2)?,
            upload_name: row.get(3)?,
        }),
        (None, Some(expires)) => Content::Pending { expires: Expiry::at(Timestamp(expires)) },
        (None, None) => {
            return Err(rusqlite::Error::InvalidColumnType(6, "expires_ms".to_owned(), Type::Null));
        }
    };
    let user_id: Option<String> = row.get(4)?;
    Ok(MediaRow {
        content,
        user_id: user_id.as_deref().map(UserId::new),
        created: Timestamp(row.get(5)?),
        open: row.get(7)?,
        is_quarantined: row.get(8)?,
    })
}

/// An address from two columns, the server name first. Text that does not parse was not written by this program.
pub(super) fn read_mxc(row: &Row<'_>, first: usize) -> rusqlite::Result<Mxc> {
    let second = first.saturating_add(1);
    let unread =
        |column, error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error));
    Ok(Mxc {
        server_name: ServerName::parse(row.get_ref(first)?.as_str()?)
            .map_err(|error| unread(first, error))?,
        media_id: MediaId::parse(row.get_ref(second)?.as_str()?).map_err(|error| unread(second, error))?,
    })
}

/// A size in `SQLite`'s 63 bits.
pub(super) fn sql_size(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::catalog::BlobRows as _;

    /// A catalog in a folder that goes with the first value.
    fn catalog() -> (tempfile::TempDir, SqliteCatalog) {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        (folder, catalog)
    }

    fn mxc(media_id: &str) -> Mxc {
        Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse(media_id).unwrap(),
        }
    }

    fn filled(byte: u8) -> Filled {
        Filled {
            sha256: Sha256::from_bytes([byte; 32]),
            size: u64::from(byte),
            content_type: "image/png".to_owned(),
            upload_name: Some("ü.png".to_owned()),
        }
    }

    fn new_media(media_id: &str, byte: u8) -> NewMedia {
        NewMedia {
            mxc: mxc(media_id),
            filled: filled(byte),
            user_id: Some(UserId::new("@a:example.org")),
            created: Timestamp(1000),
            open: true,
            anonymous: false,
        }
    }

    fn reservation(media_id: &str, created: i64) -> Reservation {
        Reservation {
            mxc: mxc(media_id),
            user_id: UserId::new("@a:example.org"),
            created: Timestamp(created),
            expires: Expiry::at(Timestamp(created).after(Duration::from_millis(100))),
            limit: 2,
            quota: Quota::default(),
        }
    }

    #[test]
    fn added_media_is_found_as_it_was_and_never_replaced() {
        let (_folder, catalog) = catalog();
        assert_eq!(catalog.media(&mxc("a")).unwrap(), None);
        assert!(catalog.add(new_media("a", 1)).unwrap());
        assert!(!catalog.add(new_media("a", 2)).unwrap());
        let media = catalog.media(&mxc("a")).unwrap().unwrap();
        assert_eq!(media.content, Content::Stored(filled(1)));
        assert_eq!(media.user_id, Some(UserId::new("@a:example.org")));
        assert!(media.open);
    }

    #[test]
    fn many_are_added_together_and_known_ids_stay_as_they_are() {
        let (_folder, catalog) = catalog();
        assert!(catalog.add(new_media("a", 1)).unwrap());
        let many = vec![new_media("a", 2), new_media("b", 2), new_media("c", 2)];
        assert_eq!(catalog.add_many(many).unwrap(), 2);
        let content = |id| catalog.media(&mxc(id)).unwrap().unwrap().content;
        assert_eq!([content("a"), content("b")], [Content::Stored(filled(1)), Content::Stored(filled(2))]);
    }

    #[test]
    fn a_pending_id_is_filled_once() {
        let (_folder, catalog) = catalog();
        assert_eq!(catalog.reserve(reservation("p", 0)).unwrap(), Reserved::Done);
        let pending = catalog.media(&mxc("p")).unwrap().unwrap();
        assert_eq!(pending.content, Content::Pending { expires: Expiry::at(Timestamp(100)) });
        assert!(catalog.fill(&mxc("p"), filled(3), Timestamp(99), false).unwrap());
        assert!(!catalog.fill(&mxc("p"), filled(4), Timestamp(99), true).unwrap());
        let media = catalog.media(&mxc("p")).unwrap().unwrap();
        assert_eq!(media.content, Content::Stored(filled(3)));
        assert!(!media.open);
    }

    #[test]
    fn an_expired_id_is_not_filled_and_is_forgotten() {
        let (_folder, catalog) = catalog();
        catalog.reserve(reservation("p", 0)).unwrap();
        assert!(!catalog.fill(&mxc("p"), filled(3), Timestamp(100), true).unwrap());
        assert_eq!(catalog.forget_expired(Timestamp(99)).unwrap(), Removed::default());
        let removed = catalog.forget_expired(Timestamp(100)).unwrap();
        assert_eq!(removed, Removed { media: vec![mxc("p")], ..Removed::default() });
        assert_eq!(catalog.media(&mxc("p")).unwrap(), None);
    }

    #[test]
    fn pending_ids_of_a_user_are_limited_until_one_ends() {
        let (_folder, catalog) = catalog();
        catalog.reserve(reservation("a", 0)).unwrap();
        catalog.reserve(reservation("b", 10)).unwrap();
        let refused = catalog.reserve(reservation("c", 20)).unwrap();
        assert_eq!(refused, Reserved::TooMany { next_free: Timestamp(100) });
        assert_eq!(catalog.reserve(reservation("c", 100)).unwrap(), Reserved::Done);
        // Written while the clock was ahead.
        catalog.reserve(reservation("x", 9000)).unwrap();
        catalog.reserve(reservation("y", 9000)).unwrap();
        assert_eq!(catalog.reserve(reservation("e", 150)).unwrap(), Reserved::Done);
        let other = Reservation { user_id: UserId::new("@b:example.org"), ..reservation("d", 20) };
        assert_eq!(catalog.reserve(other).unwrap(), Reserved::Done);
    }

    #[test]
    fn remote_media_is_refilled_and_what_it_held_before_is_said() {
        let (_folder, catalog) = catalog();
        let remote =
            |byte, created| NewMedia { user_id: None, created: Timestamp(created), ..new_media("r", byte) };
        assert_eq!(catalog.refill(remote(1, 1)).unwrap(), None);
        assert!(catalog.add(remote(1, 1)).unwrap());
        let same = Removed { media: vec![mxc("r")], ..Removed::default() };
        assert_eq!(catalog.refill(remote(1, 5)).unwrap().as_ref(), Some(&same));
        let row = || catalog.media(&mxc("r")).unwrap().unwrap();
        assert_eq!(row().created, Timestamp(1));
        let other = Removed { blobs: vec![filled(1).sha256], ..same };
        assert_eq!(catalog.refill(remote(2, 5)).unwrap(), Some(other));
        assert_eq!((row().created, row().content), (Timestamp(5), Content::Stored(filled(2))));
        assert!(catalog.add(new_media("l", 1)).unwrap());
        assert_eq!(catalog.refill(new_media("l", 2)).unwrap(), None, "only remote media can be fetched anew");
    }

    #[test]
    fn references_are_counted_over_ids() {
        let (_folder, catalog) = catalog();
        let sha256 = filled(1).sha256;
        assert!(!catalog.refers_to(&sha256).unwrap());
        catalog.add(new_media("a", 1)).unwrap();
        catalog.add(new_media("b", 1)).unwrap();
        assert!(catalog.refers_to(&sha256).unwrap());
    }

    #[test]
    fn last_access_moves_forward_by_days_and_unknown_ids_do_not_matter() {
        let (_folder, catalog) = catalog();
        let created = Timestamp(1000);
        catalog.add(new_media("a", 1)).unwrap();
        let (day, later) = (created.after(ACCESS_GRAIN), created.after(ACCESS_GRAIN * 2));
        for (at, written) in [(day, created), (later, later), (day, later), (created, later)] {
            let access = LastAccess { at, by_known: false, as_avatar: false };
            catalog.touch(vec![(mxc("a"), access), (mxc("z"), access)]).unwrap();
            assert_eq!(catalog.last_access(&mxc("a")).unwrap(), Some(written));
        }
    }
}
