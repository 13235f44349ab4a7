//! Queries about previews of linked pages.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::media::{NewMedia, Purpose, insert_media, read_mxc, sql_size};
use super::{Removed, SqliteCatalog};
use crate::error::Result;
use crate::matrix::{Expiry, MediaId, Mxc, ServerName, Timestamp};
use crate::store::sha256::Sha256;

/// A stored preview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preview {
    /// The JSON object for clients.
    pub(crate) answer: String,
    /// When it expires.
    pub(crate) expires: Expiry,
}

/// A preview to be stored.
#[derive(Clone, Debug)]
pub(crate) struct NewPreview {
    /// Normalised URL of the page.
    pub(crate) url: String,
    pub(crate) preview: Preview,
    /// Its image, whose blob is durable and claimed. An existing row stays as it is.
    pub(crate) image: Option<NewMedia>,
}

/// What all previews together may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreviewLimits {
    /// Most previews.
    pub(crate) count: u32,
    /// Most bytes of their images together, each blob counted once.
    pub(crate) bytes: u64,
}

/// Collects what is deleted together with previews.
#[derive(Default)]
struct Dropped {
    /// Images, blobs (also of thumbnails that have lost their source) and URLs.
    removed: Removed,
    /// Bytes of images that no other preview has.
    bytes: u64,
}

/// Queries about previews of linked pages.
pub(crate) trait PreviewRows {
    fn preview(&self, url: &str) -> Result<Option<Preview>>;

    /// The image of the preview of `url`: its ID and the hash of its bytes.
    fn preview_image(&self, url: &str, server_name: &ServerName) -> Result<Option<(MediaId, Sha256)>>;

    /// Stores a preview, replacing the earlier one of its URL. Beyond `room`, previews that expire next are deleted.
    fn keep_preview(&self, new: NewPreview, server_name: &ServerName, room: PreviewLimits)
    -> Result<Removed>;

    /// Deletes previews that have expired by `now`, with their images, and further ones while the images take more than `bytes`.
    fn forget_previews(&self, now: Timestamp, server_name: &ServerName, bytes: u64) -> Result<Removed>;
}

impl PreviewRows for SqliteCatalog {
    fn preview(&self, url: &str) -> Result<Option<Preview>> {
        self.readers.ask(|connection| {
            connection
                .prepare_cached("SELECT answer, expires_ms FROM preview WHERE url = ?1")?
                .query_row([url], |row| {
                    Ok(Preview { answer: row.get(0)?, expires: Expiry::at(Timestamp(row.get(1)?)) })
                })
                .optional()
        })
    }

    fn preview_image(&self, url: &str, server_name: &ServerName) -> Result<Option<(MediaId, Sha256)>> {
        let found: Option<(String, [u8; 32])> = self.readers.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT media.media_id, media.sha256
                     FROM preview JOIN media ON media.server_name = ?2 AND media.media_id = preview.media_id
                     WHERE preview.url = ?1 AND media.preview AND media.sha256 IS NOT NULL",
                )?
                .query_row([url, server_name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })?;
        Ok(found.and_then(|(id, sha256)| Some((MediaId::parse(&id).ok()?, Sha256::from_bytes(sha256)))))
    }

    fn keep_preview(
        &self,
        new: NewPreview,
        server_name: &ServerName,
        room: PreviewLimits,
    ) -> Result<Removed> {
        let server_name = server_name.clone();
        self.writer.write(move |connection| {
            let NewPreview { url, preview, image } = &new;
            let media_id = image.as_ref().map(|image| image.mxc.media_id.as_str());
            let replaced: Option<String> = connection
                .prepare_cached("SELECT media_id FROM preview WHERE url = ?1")?
                .query_row([url], |row| row.get(0))
                .optional()?
                .flatten();
            if let Some(image) = image {
                let _quarantined_is_not_served = insert_media(connection, image, Purpose::PreviewImage)?;
            }
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO preview (url, answer, media_id, expires_ms)
                     VALUES (:url, :answer, :media_id, :expires)",
                )?
                .execute(named_params! {
                    ":url": url,
                    ":answer": preview.answer,
                    ":media_id": media_id,
                    ":expires": preview.expires.time().0,
                })?;
            let mut dropped = Dropped::default();
            if let Some(replaced) = replaced.filter(|replaced| Some(replaced.as_str()) != media_id) {
                drop_image(connection, &server_name, &replaced, &mut dropped)?;
            }
            let count: u32 =
                connection.prepare_cached("SELECT count(*) FROM preview")?.query_row([], |row| row.get(0))?;
            if let Some(surplus) = count.checked_sub(room.count).filter(|surplus| *surplus > 0) {
                let mut next = connection.prepare_cached(
                    "SELECT url, media_id FROM preview WHERE url <> ?2 ORDER BY expires_ms LIMIT ?1",
                )?;
                let rows = next
                    .query_map((surplus, url), |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<rusqlite::Result<Vec<_>>>()?;
                drop_previews(connection, &server_name, rows, &mut dropped)?;
            }
            free_bytes(connection, &server_name, (room.bytes, url), &mut dropped)?;
            Ok(dropped.removed)
        })
    }

    fn forget_previews(&self, now: Timestamp, server_name: &ServerName, bytes: u64) -> Result<Removed> {
        let server_name = server_name.clone();
        self.writer.write(move |connection| {
            let mut expired =
                connection.prepare_cached("SELECT url, media_id FROM preview WHERE expires_ms <= ?1")?;
            let rows = expired
                .query_map([now.0], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let mut dropped = Dropped::default();
            drop_previews(connection, &server_name, rows, &mut dropped)?;
            // No preview has an empty URL, so none is spared.
            free_bytes(connection, &server_name, (bytes, ""), &mut dropped)?;
            Ok(dropped.removed)
        })
    }
}

/// Deletes previews with images, those that expire next first, until the remaining images take at most `bytes`. The preview of the URL `but`
/// stays.
fn free_bytes(
    connection: &Connection,
    server_name: &ServerName,
    (bytes, but): (u64, &str),
    dropped: &mut Dropped,
) -> rusqlite::Result<()> {
    let held: i64 = connection
        .prepare_cached(
            "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT sha256, size FROM media WHERE preview = 1)",
        )?
        .query_row([], |row| row.get(0))?;
    let surplus = u64::try_from(held.saturating_sub(sql_size(bytes))).unwrap_or(0);
    let enough = dropped.bytes.saturating_add(surplus);
    let mut next = connection.prepare_cached(
        "SELECT url, media_id FROM preview WHERE media_id IS NOT NULL AND url <> ?1 ORDER BY expires_ms LIMIT ?2",
    )?;
    while dropped.bytes < enough {
        let rows = next
            .query_map((but, AT_ONCE), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            if dropped.bytes < enough {
                drop_previews(connection, server_name, vec![row], dropped)?;
            }
        }
    }
    Ok(())
}

/// Deletes previews, given as URL and image, with their images.
fn drop_previews(
    connection: &Connection,
    server_name: &ServerName,
    rows: Vec<(String, Option<String>)>,
    dropped: &mut Dropped,
) -> rusqlite::Result<()> {
    for (url, media_id) in rows {
        connection.prepare_cached("DELETE FROM preview WHERE url = ?1")?.execute([&url])?;
        if let Some(media_id) = media_id {
            drop_image(connection, server_name, &media_id, dropped)?;
        }
        dropped.removed.previews.push(url);
    }
    Ok(())
}

/// Deletes a preview's image, and thumbnails that lose their source with it.
fn drop_image(
    connection: &Connection,
    server_name: &ServerName,
    media_id: &str,
    dropped: &mut Dropped,
) -> rusqlite::Result<()> {
    let image: Option<([u8; 32], i64, Mxc)> = connection
        .prepare_cached(
            "DELETE FROM media WHERE server_name = ?1 AND media_id = ?2 AND preview
             RETURNING sha256, size, server_name, media_id",
        )?
        .query_row([server_name.as_str(), media_id], |row| Ok((row.get(0)?, row.get(1)?, read_mxc(row, 2)?)))
        .optional()?;
    let Some((image, size, mxc)) = image else { return Ok(()) };
    dropped.removed.media.push(mxc);
    let is_shared: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM media WHERE sha256 = ?1 AND preview = 1)")?
        .query_row([image], |row| row.get(0))?;
    if !is_shared {
        dropped.bytes = dropped.bytes.saturating_add(u64::try_from(size).unwrap_or(0));
    }
    let mut thumbnails = connection.prepare_cached(
        "DELETE FROM thumbnail WHERE source = ?1 AND NOT EXISTS (SELECT 1 FROM media WHERE sha256 = ?1)
         RETURNING sha256",
    )?;
    for thumbnail in thumbnails.query_map([image], |row| row.get(0))? {
        dropped.removed.blobs.push(Sha256::from_bytes(thumbnail?));
    }
    dropped.removed.blobs.push(Sha256::from_bytes(image));
    Ok(())
}

/// Previews deleted in one step while room is made.
const AT_ONCE: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::UserId;
    use crate::store::catalog::{
        BlobRows as _, Content, Filled, MediaRows as _, NewThumbnail, ThumbnailKey, ThumbnailRows as _,
    };

    /// A catalog in a folder that goes with the first value, and our name.
    fn catalog() -> (tempfile::TempDir, SqliteCatalog, ServerName) {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        (folder, catalog, ServerName::parse("example.org").unwrap())
    }

    fn media(media_id: &str, byte: u8) -> NewMedia {
        let sha256 = Sha256::from_bytes([byte; 32]);
        let content_type = "image/png".to_owned();
        NewMedia {
            mxc: Mxc {
                server_name: ServerName::parse("example.org").unwrap(),
                media_id: MediaId::parse(media_id).unwrap(),
            },
            filled: Filled { sha256, size: 7, content_type, upload_name: None },
            user_id: None,
            created: Timestamp(1),
            open: true,
            anonymous: false,
        }
    }

    fn thumbnail(key: ThumbnailKey) -> NewThumbnail {
        NewThumbnail {
            key,
            filled: media("t", 2).filled,
            created: Timestamp(1),
            limit: 9,
            max_bytes: u64::MAX,
            anonymous: false,
        }
    }

    const ROOM: PreviewLimits = PreviewLimits { count: 9, bytes: 1000 };

    fn new(url: &str, expires: i64, image: Option<NewMedia>) -> NewPreview {
        let preview =
            Preview { answer: format!("{{\"of\":\"{url}\"}}"), expires: Expiry::at(Timestamp(expires)) };
        NewPreview { url: url.to_owned(), preview, image }
    }

    #[test]
    fn a_preview_is_kept_with_its_image_and_goes_with_it() {
        let (_folder, catalog, ours) = catalog();
        let image = media("a", 1);
        assert_eq!(
            catalog.keep_preview(new("u", 5, Some(image.clone())), &ours, ROOM).unwrap(),
            Removed::default()
        );
        assert_eq!(catalog.preview("u").unwrap().unwrap(), new("u", 5, None).preview);
        assert_eq!(
            catalog.preview_image("u", &ours).unwrap(),
            Some((image.mxc.media_id.clone(), image.filled.sha256))
        );
        let row = catalog.media(&image.mxc).unwrap().unwrap();
        assert_eq!((row.content, row.user_id), (Content::Stored(image.filled.clone()), None));
        let key =
            ThumbnailKey { source: image.filled.sha256, crop: [0, 0, 9, 9], size: [3, 3], animated: false };
        assert!(catalog.add_thumbnail(thumbnail(key)).unwrap().is_some());

        assert_eq!(catalog.forget_previews(Timestamp(4), &ours, ROOM.bytes).unwrap(), Removed::default());
        let removed = catalog.forget_previews(Timestamp(5), &ours, ROOM.bytes).unwrap();
        assert_eq!(removed.previews, ["u"]);
        assert_eq!(removed.media, std::slice::from_ref(&image.mxc));
        assert_eq!(removed.blobs, [Sha256::from_bytes([2; 32]), Sha256::from_bytes([1; 32])]);
        assert_eq!(catalog.preview("u").unwrap(), None);
        assert!(catalog.media(&image.mxc).unwrap().is_none());
        assert!(removed.blobs.iter().all(|blob| !catalog.refers_to(blob).unwrap()));
    }

    #[test]
    fn an_upload_of_the_same_bytes_keeps_them_and_their_thumbnails() {
        let (_folder, catalog, ours) = catalog();
        let upload = NewMedia { user_id: Some(UserId::new("@a:example.org")), ..media("up", 1) };
        catalog.add(upload.clone()).unwrap();
        catalog.keep_preview(new("u", 5, Some(media("a", 1))), &ours, ROOM).unwrap();
        let key =
            ThumbnailKey { source: upload.filled.sha256, crop: [0, 0, 9, 9], size: [3, 3], animated: false };
        catalog.add_thumbnail(thumbnail(key)).unwrap();
        let removed = catalog.forget_previews(Timestamp(5), &ours, ROOM.bytes).unwrap();
        assert_eq!(removed.blobs, [upload.filled.sha256]);
        assert!(catalog.refers_to(&upload.filled.sha256).unwrap());
        assert!(catalog.thumbnail(&key).unwrap().is_some() && catalog.media(&upload.mxc).unwrap().is_some());
    }

    #[test]
    fn a_newer_preview_replaces_the_image_unless_it_names_the_same() {
        let (_folder, catalog, ours) = catalog();
        let keep = |image| catalog.keep_preview(new("u", 5, image), &ours, ROOM).unwrap();
        keep(Some(media("a", 1)));
        assert_eq!(keep(Some(media("a", 1))), Removed::default());
        assert_eq!(keep(Some(media("b", 2))).blobs, [Sha256::from_bytes([1; 32])]);
        assert_eq!(keep(None).blobs, [Sha256::from_bytes([2; 32])]);
        assert_eq!(catalog.preview_image("u", &ours).unwrap(), None);
    }

    #[test]
    fn the_next_to_expire_make_room() {
        let (_folder, catalog, ours) = catalog();
        for (url, expires) in [("late", 9), ("soon", 3), ("later", 10)] {
            let removed = catalog
                .keep_preview(new(url, expires, None), &ours, PreviewLimits { count: 2, ..ROOM })
                .unwrap();
            assert_eq!(removed.previews.len(), usize::from(url == "later"));
        }
        assert!(catalog.preview("soon").unwrap().is_none() && catalog.preview("late").unwrap().is_some());
    }

    #[test]
    fn media_that_is_no_preview_image_is_never_dropped() {
        let (_folder, catalog, ours) = catalog();
        catalog.add(media("a", 1)).unwrap();
        // The ID is taken: the row stays what it was.
        catalog.keep_preview(new("u", 5, Some(media("a", 1))), &ours, ROOM).unwrap();
        assert_eq!(catalog.forget_previews(Timestamp(5), &ours, ROOM.bytes).unwrap().blobs, []);
        assert!(catalog.media(&media("a", 1).mxc).unwrap().is_some());
    }

    #[test]
    fn previews_with_images_make_room_in_bytes() {
        let (_folder, catalog, ours) = catalog();
        // 7 bytes each; the last two are the same.
        let room = PreviewLimits { count: 9, bytes: 21 };
        let keep =
            |url: &str, expires, image| catalog.keep_preview(new(url, expires, image), &ours, room).unwrap();
        for (url, expires, image) in [
            ("text", 1, None),
            ("second", 3, Some(media("a", 1))),
            ("first", 2, Some(media("b", 2))),
            ("third", 4, Some(media("c", 3))),
            ("as third", 9, Some(media("d", 3))),
        ] {
            assert_eq!(keep(url, expires, image), Removed::default(), "{url}");
        }
        let removed = keep("new", 0, Some(media("e", 4)));
        assert_eq!(
            (removed.previews, removed.blobs),
            (vec!["first".to_owned()], vec![Sha256::from_bytes([2; 32])])
        );
        assert!(catalog.preview("text").unwrap().is_some(), "without an image it takes no room");
        // A limit that is lower by now: what two previews share is freed by the second.
        let removed = catalog.forget_previews(Timestamp(-1), &ours, 7).unwrap();
        assert_eq!(removed.previews, ["new", "second"]);
        let removed = catalog.forget_previews(Timestamp(-1), &ours, 6).unwrap();
        assert_eq!(removed.previews, ["third", "as third"]);
        assert!(catalog.preview("text").unwrap().is_some());
    }
}
