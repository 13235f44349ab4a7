//! Queries about blobs: which are referred to, and running totals by kind, by user and by server.
//!
//! Triggers keep the totals in the transaction that changes a row (`assets/migrations/0007_blob.sql`), so reading them is reading one row,
//! or four.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::SqliteCatalog;
use super::media::{ACCESS_GRAIN, LastAccess, in_batches, read_mxc};
use crate::error::Result;
use crate::matrix::Mxc;
use crate::store::sha256::Sha256;

/// The totals of the store, by kind. A blob with rows of several kinds counts only in the first of them, so that the kinds add up to the
/// bytes of all blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Media uploaded here.
    pub(crate) local: KindTotal,
    /// Media fetched from other servers.
    pub(crate) remote: KindTotal,
    /// Images of linked pages.
    pub(crate) preview: KindTotal,
    /// Thumbnails of any of these.
    pub(crate) thumbnail: KindTotal,
}

impl Totals {
    /// Bytes of all blobs.
    pub(crate) fn bytes(&self) -> u64 {
        let Self { local, remote, preview, thumbnail } = self;
        [local, remote, preview, thumbnail].iter().fold(0, |sum, total| sum.saturating_add(total.bytes))
    }
}

/// The totals of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KindTotal {
    /// Media IDs with content, or thumbnails. Several may share a blob.
    pub(crate) files: u64,
    /// Blobs that count as this kind.
    pub(crate) blobs: u64,
    /// Sizes of these blobs together.
    pub(crate) bytes: u64,
}

/// Queries about blobs.
pub(crate) trait BlobRows {
    /// The totals by kind.
    fn totals(&self) -> Result<Totals>;

    /// Whether any row of media or of thumbnails refers to a blob.
    fn refers_to(&self, sha256: &Sha256) -> Result<bool>;

    /// Whether a blob in `blobs/` must stay: a row refers to it, or it is a noted orphan, which may belong to another catalog.
    fn is_wanted(&self, sha256: &Sha256) -> Result<bool>;

    /// One of the addresses of a blob.
    fn address_of(&self, sha256: &Sha256) -> Result<Option<Mxc>>;

    /// As [`MediaRows::touch`](super::media::MediaRows::touch), for thumbnails, which are named by their own hashes.
    fn touch_blobs(&self, accesses: Vec<(Sha256, LastAccess)>) -> Result<()>;
}

impl BlobRows for SqliteCatalog {
    fn totals(&self) -> Result<Totals> {
        self.readers.ask(read_totals)
    }

    fn refers_to(&self, sha256: &Sha256) -> Result<bool> {
        self.readers.ask(|connection| {
            connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM blob WHERE sha256 = ?1 AND kind IS NOT NULL)")?
                .query_row([sha256.as_bytes()], |row| row.get(0))
        })
    }

    fn is_wanted(&self, sha256: &Sha256) -> Result<bool> {
        self.readers.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM blob WHERE sha256 = ?1 AND kind IS NOT NULL)
                         OR EXISTS (SELECT 1 FROM orphan WHERE sha256 = ?1 AND is_aside = 0)",
                )?
                .query_row([sha256.as_bytes()], |row| row.get(0))
        })
    }

    fn address_of(&self, sha256: &Sha256) -> Result<Option<Mxc>> {
        self.readers.ask(|connection| {
            connection
                .prepare_cached("SELECT server_name, media_id FROM media WHERE sha256 = ?1 LIMIT 1")?
                .query_row([sha256.as_bytes()], |row| read_mxc(row, 0))
                .optional()
        })
    }

    fn touch_blobs(&self, mut accesses: Vec<(Sha256, LastAccess)>) -> Result<()> {
        accesses.sort_unstable_by_key(|(sha256, _)| *sha256);
        in_batches(accesses, |batch| {
            self.writer.write(move |connection| {
                let mut statement = connection.prepare_cached(
                    "UPDATE blob SET last_access_ms = ?2 WHERE sha256 = ?1 AND last_access_ms < ?3",
                )?;
                let mut clear = connection.prepare_cached(
                    "UPDATE thumbnail SET anonymous = 0 WHERE sha256 = ?1 AND anonymous = 1",
                )?;
                for (sha256, LastAccess { at, by_known, .. }) in &batch {
                    statement.execute((sha256.as_bytes(), at.0, at.before(ACCESS_GRAIN).0))?;
                    if *by_known {
                        clear.execute([sha256.as_bytes()])?;
                    }
                }
                Ok(())
            })
        })
    }
}

/// Reads the totals by kind.
pub(super) fn read_totals(connection: &Connection) -> rusqlite::Result<Totals> {
    let mut totals = Totals::default();
    let mut statement = connection.prepare_cached("SELECT kind, files, blobs, bytes FROM kind_usage")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let total = KindTotal { files: count(row, 1)?, blobs: count(row, 2)?, bytes: count(row, 3)? };
        match row.get_ref(0)?.as_str()? {
            "local" => totals.local = total,
            "remote" => totals.remote = total,
            "preview" => totals.preview = total,
            _ => totals.thumbnail = total,
        }
    }
    Ok(totals)
}

/// A total from a column. It is never negative.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|sum| u64::try_from(sum).unwrap_or(0))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::matrix::{Expiry, MediaId, Mxc, ServerName, Timestamp, UserId};
    use crate::store::catalog::{
        Content, EvictionRows as _, Filled, Group, MediaRow, MediaRows as _, ModerationRows as _, NewBlock,
        NewMedia, NewPreview, NewThumbnail, Place, Preview, PreviewLimits, PreviewRows as _, Quota,
        Reservation, Selection, StoreRows as _, Terms, ThumbnailKey, ThumbnailRows as _, UserTotal,
    };

    /// Stored media of another server.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(in crate::store::catalog) struct ServerTotal {
        pub(in crate::store::catalog) files: u64,
        /// Their sizes together. Those that share a blob count each.
        pub(in crate::store::catalog) bytes: u64,
    }

    impl SqliteCatalog {
        pub(in crate::store::catalog) fn server_total(
            &self,
            server_name: &ServerName,
        ) -> Result<ServerTotal> {
            self.readers.ask(|connection| {
                let total = connection
                    .prepare_cached("SELECT files, bytes FROM server_usage WHERE server_name = ?1")?
                    .query_row([server_name.as_str()], |row| {
                        Ok(ServerTotal { files: count(row, 0)?, bytes: count(row, 1)? })
                    })
                    .optional()?;
                Ok(total.unwrap_or_default())
            })
        }
    }

    /// Something that is done to a catalog. Numbers choose among a few IDs, blobs, users and servers, so that they meet again.
    #[derive(Clone, Debug)]
    enum Step {
        Add { id: u8, blob: u8, owner: u8 },
        AddMany { id: u8, blob: u8, owner: u8 },
        Reserve { id: u8, owner: u8 },
        Fill { id: u8, blob: u8 },
        Refill { id: u8, blob: u8 },
        ForgetExpired,
        Forget { id: u8 },
        Thumbnail { source: u8, blob: u8, width: u8, limit: u8 },
        ForgetThumbnailsOf { source: u8 },
        ForgetSourceless,
        KeepPreview { url: u8, id: Option<u8>, blob: u8, count: u8, bytes: u8 },
        ForgetPreviews { now: u8, bytes: u8 },
        Touch { id: u8, days: u8 },
        Orphans { blob: u8 },
        Evict { group: u8, blob: u8 },
        Quarantine { id: u8, ends: bool },
        Delete { id: u8, all: u8 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (id, blob, owner) = (0..8_u8, 1..6_u8, 0..4_u8);
        let of = || (id.clone(), blob.clone(), owner.clone());
        let step = prop_oneof![
            4 => of().prop_map(|(id, blob, owner)| Step::Add { id, blob, owner }),
            1 => of().prop_map(|(id, blob, owner)| Step::AddMany { id, blob, owner }),
            2 => of().prop_map(|(id, _, owner)| Step::Reserve { id, owner }),
            2 => of().prop_map(|(id, blob, _)| Step::Fill { id, blob }),
            2 => of().prop_map(|(id, blob, _)| Step::Refill { id, blob }),
            1 => Just(Step::ForgetExpired),
            2 => of().prop_map(|(id, _, _)| Step::Forget { id }),
            4 => (blob.clone(), blob.clone(), 1..5_u8, 0..3_u8)
                .prop_map(|(source, blob, width, limit)| Step::Thumbnail { source, blob, width, limit }),
            1 => blob.clone().prop_map(|source| Step::ForgetThumbnailsOf { source }),
            1 => Just(Step::ForgetSourceless),
            3 => (0..4_u8, proptest::option::of(id.clone()), blob.clone(), 1..4_u8, 0..20_u8)
                .prop_map(|(url, id, blob, count, bytes)| Step::KeepPreview { url, id, blob, count, bytes }),
            1 => (0..4_u8, 0..20_u8).prop_map(|(now, bytes)| Step::ForgetPreviews { now, bytes }),
            1 => (id.clone(), 0..9_u8).prop_map(|(id, days)| Step::Touch { id, days }),
            1 => blob.clone().prop_map(|blob| Step::Orphans { blob }),
            2 => of().prop_map(|(group, blob, _)| Step::Evict { group, blob }),
            1 => (id.clone(), any::<bool>()).prop_map(|(id, ends)| Step::Quarantine { id, ends }),
            1 => (id.clone(), 0..6_u8).prop_map(|(id, all)| Step::Delete { id, all }),
        ];
        proptest::collection::vec(step, 1..60)
    }

    fn sha256(blob: u8) -> Sha256 {
        Sha256::from_bytes([blob; 32])
    }

    fn filled(blob: u8) -> Filled {
        Filled { sha256: sha256(blob), size: blob.into(), content_type: String::new(), upload_name: None }
    }

    /// Even IDs are ours, odd ones another server's.
    fn mxc(id: u8) -> Mxc {
        let server_name =
            if id.is_multiple_of(2) { "our.org".to_owned() } else { format!("far{}.org", id % 3) };
        Mxc {
            server_name: ServerName::parse(&server_name).unwrap(),
            media_id: MediaId::parse(&format!("id{id}")).unwrap(),
        }
    }

    fn user(owner: u8) -> UserId {
        UserId::new(&format!("@{owner}:our.org"))
    }

    fn media(id: u8, blob: u8, owner: u8) -> NewMedia {
        let user_id = id.is_multiple_of(2).then(|| user(owner));
        NewMedia {
            mxc: mxc(id),
            filled: filled(blob),
            user_id,
            created: Timestamp(i64::from(blob)),
            open: true,
            anonymous: false,
        }
    }

    /// Does one thing, whatever comes of it.
    #[expect(clippy::too_many_lines, reason = "one arm for each thing")]
    fn apply(catalog: &SqliteCatalog, step: &Step) -> Result<()> {
        let ours = ServerName::parse("our.org").unwrap();
        match *step {
            Step::Add { id, blob, owner } => drop(catalog.add(media(id, blob, owner))?),
            Step::AddMany { id, blob, owner } => {
                let many = vec![media(id, blob, owner), media(id / 2, blob, owner), media(id, 1, owner)];
                catalog.add_many(many)?;
            }
            Step::Reserve { id, owner } => {
                let expires = Expiry::at(Timestamp(100));
                let mxc = mxc(id & !1);
                if catalog.media(&mxc)?.is_none() {
                    let created = Timestamp(1);
                    catalog.reserve(Reservation {
                        mxc,
                        user_id: user(owner),
                        created,
                        expires,
                        limit: 3,
                        quota: Quota::default(),
                    })?;
                }
            }
            Step::Fill { id, blob } => drop(catalog.fill(&mxc(id), filled(blob), Timestamp(9), true)?),
            Step::Refill { id, blob } => drop(catalog.refill(media(id, blob, 0))?),
            Step::ForgetExpired => drop(catalog.forget_expired(Timestamp(100))?),
            Step::Forget { id } => drop(catalog.forget(&mxc(id))?),
            Step::Thumbnail { source, blob, width, limit } => {
                let size = [width.into(), 1];
                let key = ThumbnailKey { source: sha256(source), crop: [0, 0, 9, 9], size, animated: false };
                let (filled, created) = (filled(blob), Timestamp(width.into()));
                catalog.add_thumbnail(NewThumbnail {
                    key,
                    filled,
                    created,
                    limit: limit.into(),
                    max_bytes: u64::MAX,
                    anonymous: false,
                })?;
            }
            Step::ForgetThumbnailsOf { source } => drop(catalog.forget_thumbnails_of(&sha256(source))?),
            Step::ForgetSourceless => drop(catalog.forget_sourceless_thumbnails()?),
            Step::KeepPreview { url, id, blob, count, bytes } => {
                let expires = Expiry::at(Timestamp(url.into()));
                let preview = Preview { answer: String::new(), expires };
                let image = id.map(|id| NewMedia { user_id: None, ..media(id & !1, blob, 0) });
                let new = NewPreview { url: format!("u{url}"), preview, image };
                catalog.keep_preview(
                    new,
                    &ours,
                    PreviewLimits { count: count.into(), bytes: bytes.into() },
                )?;
            }
            Step::ForgetPreviews { now, bytes } => {
                drop(catalog.forget_previews(Timestamp(now.into()), &ours, bytes.into())?);
            }
            Step::Touch { id, days } => {
                let at = Timestamp(0).after(Duration::from_hours(24 * u64::from(days)));
                catalog.touch(vec![(mxc(id), LastAccess { at, by_known: true, as_avatar: false })])?;
            }
            Step::Evict { group, blob } => {
                let far = ServerName::parse("far1.org").unwrap();
                let groups =
                    [Group::Thumbnails, Group::Anonymous, Group::Remote, Group::Local, Group::Server(far)];
                let terms = Terms { now: Timestamp(9), avatars_since: Timestamp(i64::MAX) };
                let before = catalog.totals()?.bytes();
                let group = &groups[usize::from(group % 5)];
                let evicted = catalog.evict(group, vec![sha256(blob), sha256(1)], terms)?;
                assert_eq!(before, catalog.totals()?.bytes().saturating_add(evicted.freed));
            }
            Step::Quarantine { id, ends: true } => drop(catalog.unquarantine(&mxc(id))?),
            Step::Quarantine { id, ends: false } => {
                let block = NewBlock { since: Timestamp(9), by: "me".to_owned(), reason: None };
                catalog.quarantine(&mxc(id), block)?;
            }
            Step::Delete { id, all } => {
                let has_content =
                    |row: MediaRow| row.content == Content::Gone || matches!(row.content, Content::Stored(_));
                let was_there =
                    catalog.media(&mxc(id))?.is_some_and(has_content) || mxc(id).server_name != ours;
                let selection = match all {
                    0 => Selection::Server(mxc(1).server_name),
                    1 => Selection::User(user(id)),
                    _ => Selection::Listed(vec![mxc(id), mxc(id / 2)]),
                };
                catalog.delete(selection, &ours, Timestamp(9), 9)?;
                if all > 1 && was_there {
                    assert!(!catalog.add(media(id, 1, 1))?, "a deleted ID is given out again");
                }
            }
            Step::Orphans { blob } => {
                catalog.note_orphans(vec![sha256(blob)], false)?;
                catalog.age_orphans(Duration::from_secs(1))?;
                catalog.old_orphans(Place::Blobs, Duration::ZERO, None, 9)?;
                catalog.set_orphans_aside(vec![sha256(blob)])?;
                catalog.forget_orphans(vec![sha256(blob)])?;
            }
        }
        Ok(())
    }

    /// Everything that the triggers keep: references to each blob by kind with its size, sums by kind, user and server.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Accounts {
        blobs: BTreeMap<[u8; 32], ([u64; 4], u64)>,
        kinds: [KindTotal; 4],
        users: BTreeMap<String, UserTotal>,
        servers: BTreeMap<String, ServerTotal>,
    }

    /// The accounts as they are kept.
    fn kept(connection: &Connection) -> rusqlite::Result<Accounts> {
        let mut accounts = Accounts::default();
        let mut statement =
            connection.prepare("SELECT locals, remotes, previews, thumbnails, size, sha256 FROM blob")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let rows = [count(row, 0)?, count(row, 1)?, count(row, 2)?, count(row, 3)?];
            accounts.blobs.insert(row.get(5)?, (rows, count(row, 4)?));
        }
        let Totals { local, remote, preview, thumbnail } = read_totals(connection)?;
        accounts.kinds = [local, remote, preview, thumbnail];
        let mut statement = connection.prepare("SELECT files, bytes, pending, user_id FROM user_usage")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let total = UserTotal { files: count(row, 0)?, bytes: count(row, 1)?, pending: count(row, 2)? };
            accounts.users.insert(row.get(3)?, total);
        }
        let mut statement = connection.prepare("SELECT files, bytes, server_name FROM server_usage")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let total = ServerTotal { files: count(row, 0)?, bytes: count(row, 1)? };
            accounts.servers.insert(row.get(2)?, total);
        }
        Ok(accounts)
    }

    #[allow(clippy::arithmetic_side_effects, clippy::needless_range_loop, reason = "tests")]
    /// The totals, counted again from the rows of media and thumbnails.
    fn recounted(connection: &Connection) -> rusqlite::Result<Accounts> {
        let mut accounts = Accounts::default();
        let mut statement =
            connection.prepare("SELECT preview, user_id, server_name, sha256, size FROM media")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (is_preview, user_id): (bool, Option<String>) = (row.get(0)?, row.get(1)?);
            let sha256: Option<[u8; 32]> = row.get(3)?;
            let size = row.get::<_, Option<u32>>(4)?.unwrap_or(0).into();
            let kind = match (is_preview, &user_id) {
                (true, _) => 2,
                (false, None) => 1,
                (false, Some(_)) => 0,
            };
            if let Some(sha256) = sha256 {
                let blob = accounts.blobs.entry(sha256).or_default();
                (blob.0[kind], blob.1) = (blob.0[kind].saturating_add(1), size);
            }
            match user_id {
                Some(user_id) => {
                    let total = accounts.users.entry(user_id).or_default();
                    total.files += u64::from(sha256.is_some());
                    total.bytes += size;
                    total.pending += u64::from(sha256.is_none());
                }
                None if !is_preview => {
                    let total = accounts.servers.entry(row.get(2)?).or_default();
                    (total.files, total.bytes) =
                        (total.files.saturating_add(1), total.bytes.saturating_add(size));
                }
                None => {}
            }
        }
        let mut statement = connection.prepare("SELECT sha256, size FROM thumbnail")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let blob = accounts.blobs.entry(row.get(0)?).or_default();
            (blob.0[3], blob.1) = (blob.0[3] + 1, count(row, 1)?);
        }
        for (rows, size) in accounts.blobs.values() {
            let first = rows.iter().position(|count| *count > 0).unwrap();
            for kind in 0..4 {
                accounts.kinds[kind].files += rows[kind];
            }
            accounts.kinds[first].blobs += 1;
            accounts.kinds[first].bytes += size;
        }
        Ok(accounts)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_done_the_accounts_are_what_a_recount_gives(steps in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let catalog = SqliteCatalog::open(folder.path()).unwrap();
            for step in steps {
                apply(&catalog, &step).unwrap();
                let (kept, recounted) =
                    catalog.readers.ask(|connection| Ok((kept(connection)?, recounted(connection)?))).unwrap();
                prop_assert_eq!(kept, recounted, "after {:?}", step);
            }
        }
    }

    #[test]
    fn a_quarantined_blob_outlives_its_rows_and_is_known_again_when_it_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        catalog.add(media(2, 5, 1)).unwrap();
        catalog.writer.write(|connection| connection.execute("UPDATE blob SET state = 1", [])).unwrap();
        catalog.forget(&mxc(2)).unwrap();
        assert!(!catalog.refers_to(&sha256(5)).unwrap());
        assert_eq!(catalog.totals().unwrap(), Totals::default());
        catalog.add(media(3, 5, 1)).unwrap();
        let (state, kind): (u32, String) = catalog
            .readers
            .ask(|connection| {
                connection.query_row("SELECT state, kind FROM blob", [], |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .unwrap();
        assert_eq!((state, kind.as_str()), (1, "remote"));
        assert_eq!(catalog.totals().unwrap().remote, KindTotal { files: 1, blobs: 1, bytes: 5 });
    }

    #[test]
    fn access_to_media_is_access_to_its_blob_and_the_longest_unused_are_found_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        catalog.add_many(vec![media(1, 1, 0), media(3, 1, 0), media(5, 2, 0)]).unwrap();
        let at = Timestamp(1).after(Duration::from_hours(48));
        let access = |at| LastAccess { at, by_known: false, as_avatar: false };
        catalog.touch(vec![(mxc(3), access(at))]).unwrap();
        let question = "SELECT sha256 FROM blob WHERE kind = 'remote' ORDER BY last_access_ms LIMIT 9";
        let look = || {
            catalog
                .readers
                .ask(|connection| {
                    let mut statement = connection.prepare(question)?;
                    let oldest: Vec<[u8; 32]> =
                        statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
                    let plan: String =
                        connection
                            .query_row(&format!("EXPLAIN QUERY PLAN {question}"), [], |row| row.get(3))?;
                    Ok((oldest, plan))
                })
                .unwrap()
        };
        let (oldest, plan) = look();
        assert_eq!(oldest, [[2; 32], [1; 32]]);
        catalog
            .touch_blobs(vec![(sha256(2), access(at.after(ACCESS_GRAIN))), (sha256(9), access(at))])
            .unwrap();
        assert_eq!(look().0, [[1; 32], [2; 32]]);
        assert!(plan.contains("blob_remote_by_access"), "{plan}");
    }
}
