//! Queries about thumbnails.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::media::{Filled, sql_size};
use super::{Removed, SqliteCatalog};
use crate::error::Result;
use crate::matrix::Timestamp;
use crate::store::sha256::Sha256;

/// The key of a thumbnail: its source and how it was rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThumbnailKey {
    /// The blob of the original.
    pub(crate) source: Sha256,
    /// Left, top, width, height of the part it shows, pixels after orientation.
    pub(crate) crop: [u32; 4],
    /// Width and height, pixels.
    pub(crate) size: [u32; 2],
    /// Whether it is animated.
    pub(crate) animated: bool,
}

/// A thumbnail to be added.
#[derive(Clone, Debug)]
pub(crate) struct NewThumbnail {
    pub(crate) key: ThumbnailKey,
    /// Its content, whose blob is durable and claimed.
    pub(crate) filled: Filled,
    pub(crate) created: Timestamp,
    /// Most thumbnails of the same source to keep besides this one.
    pub(crate) limit: u32,
    /// Most bytes of all thumbnails of the same source, this one included.
    pub(crate) max_bytes: u64,
    /// Whether nobody but callers without a token wanted it so far.
    pub(crate) anonymous: bool,
}

/// Queries about thumbnails.
pub(crate) trait ThumbnailRows {
    /// The thumbnail, if it is stored.
    fn thumbnail(&self, key: &ThumbnailKey) -> Result<Option<Filled>>;

    /// Adds a thumbnail, replacing one with the same key, and deletes the oldest thumbnails of the source beyond `new.limit` and
    /// `new.max_bytes`, in one transaction. `None` if no media has the source; then nothing is changed.
    fn add_thumbnail(&self, new: NewThumbnail) -> Result<Option<Removed>>;

    /// Deletes all thumbnails of a source whose bytes were damaged when they were rendered.
    fn forget_thumbnails_of(&self, source: &Sha256) -> Result<Removed>;

    /// Deletes thumbnails whose source no media has.
    fn forget_sourceless_thumbnails(&self) -> Result<Removed>;
}

impl ThumbnailRows for SqliteCatalog {
    fn thumbnail(&self, key: &ThumbnailKey) -> Result<Option<Filled>> {
        self.readers.ask(|connection| read_thumbnail(connection, key))
    }

    fn add_thumbnail(&self, new: NewThumbnail) -> Result<Option<Removed>> {
        self.writer.write(move |connection| {
            let replaced = read_thumbnail(connection, &new.key)?.map(|old| old.sha256);
            if !insert_thumbnail(connection, &new)? {
                return Ok(None);
            }
            let mut blobs = trim_thumbnails(connection, &new)?;
            blobs.extend(replaced.filter(|replaced| *replaced != new.filled.sha256));
            Ok(Some(Removed { blobs, ..Removed::default() }))
        })
    }

    fn forget_thumbnails_of(&self, source: &Sha256) -> Result<Removed> {
        let source = *source;
        self.writer.write(move |connection| {
            let mut forget =
                connection.prepare_cached("DELETE FROM thumbnail WHERE source = ?1 RETURNING sha256")?;
            let rows = forget.query_map([source.as_bytes()], |row| row.get(0).map(Sha256::from_bytes))?;
            Ok(Removed { blobs: rows.collect::<rusqlite::Result<_>>()?, ..Removed::default() })
        })
    }

    fn forget_sourceless_thumbnails(&self) -> Result<Removed> {
        self.writer.write(|connection| {
            let mut forget = connection.prepare_cached(
                "DELETE FROM thumbnail WHERE NOT EXISTS (SELECT 1 FROM media WHERE media.sha256 = thumbnail.source)
                 RETURNING sha256",
            )?;
            let rows = forget.query_map([], |row| row.get(0).map(Sha256::from_bytes))?;
            Ok(Removed { blobs: rows.collect::<rusqlite::Result<_>>()?, ..Removed::default() })
        })
    }
}

/// Inserts the row of a thumbnail unless no media has its source. Returns whether it did.
fn insert_thumbnail(connection: &Connection, new: &NewThumbnail) -> rusqlite::Result<bool> {
    let NewThumbnail { key, filled, created, anonymous, .. } = new;
    let ThumbnailKey { source, crop: [x, y, crop_width, crop_height], size: [width, height], animated } = key;
    let added = connection
        .prepare_cached(
            "INSERT INTO thumbnail (source, crop_x, crop_y, crop_width, crop_height, width, height,
                                    animated, sha256, size, content_type, created_ms, anonymous)
             SELECT :source, :x, :y, :crop_width, :crop_height, :width, :height,
                    :animated, :sha256, :size, :content_type, :created, :anonymous
             WHERE EXISTS (SELECT 1 FROM media WHERE sha256 = :source)
             ON CONFLICT DO UPDATE SET sha256 = excluded.sha256, size = excluded.size,
                                       content_type = excluded.content_type, created_ms = excluded.created_ms,
                                       anonymous = anonymous AND excluded.anonymous",
        )?
        .execute(named_params! {
            ":source": source.as_bytes(),
            ":x": x,
            ":y": y,
            ":crop_width": crop_width,
            ":crop_height": crop_height,
            ":width": width,
            ":height": height,
            ":animated": animated,
            ":sha256": filled.sha256.as_bytes(),
            ":size": sql_size(filled.size),
            ":content_type": filled.content_type,
            ":created": created.0,
            ":anonymous": anonymous,
        })?;
    Ok(added == 1)
}

/// Deletes the oldest thumbnails of the source beyond the limits. Returns their blobs.
fn trim_thumbnails(connection: &Connection, new: &NewThumbnail) -> rusqlite::Result<Vec<Sha256>> {
    let ThumbnailKey { source, crop: [x, y, crop_width, crop_height], size: [width, height], animated } =
        new.key;
    let mut trim = connection.prepare_cached(
        "DELETE FROM thumbnail
         WHERE source = ?1 AND (width, height, crop_x, crop_y, crop_width, crop_height, animated) IN (
             SELECT width, height, crop_x, crop_y, crop_width, crop_height, animated FROM (
                 SELECT *, row_number() OVER newest_first AS number, sum(size) OVER newest_first AS bytes FROM thumbnail
                 WHERE source = ?1
                   AND (width, height, crop_x, crop_y, crop_width, crop_height, animated) <> (?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 WINDOW newest_first AS (ORDER BY created_ms DESC ROWS UNBOUNDED PRECEDING))
             WHERE number > ?2 OR bytes > ?10)
         RETURNING sha256",
    )?;
    let others = sql_size(new.max_bytes.saturating_sub(new.filled.size));
    let values =
        (source.as_bytes(), new.limit, width, height, x, y, crop_width, crop_height, animated, others);
    trim.query_map(values, |row| Ok(Sha256::from_bytes(row.get(0)?)))?.collect()
}

fn read_thumbnail(connection: &Connection, key: &ThumbnailKey) -> rusqlite::Result<Option<Filled>> {
    let ThumbnailKey { source, crop: [x, y, crop_width, crop_height], size: [width, height], animated } = key;
    connection
        .prepare_cached(
            "SELECT sha256, size, content_type FROM thumbnail
             WHERE source = ?1 AND width = ?2 AND height = ?3 AND crop_x = ?4 AND crop_y = ?5
               AND crop_width = ?6 AND crop_height = ?7 AND animated = ?8",
        )?
        .query_row((source.as_bytes(), width, height, x, y, crop_width, crop_height, animated), |row| {
            Ok(Filled {
                sha256: Sha256::from_bytes(row.get(0)?),
                size: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                content_type: row.get(2)?,
                upload_name: None,
            })
        })
        .optional()
}

#[cfg(test)]
mod tests {
    use super::super::{BlobRows as _, MediaRows as _, NewMedia};
    use super::*;
    use crate::matrix::{MediaId, Mxc, ServerName};

    fn new(key: ThumbnailKey, byte: u8, created: i64, limit: u32) -> NewThumbnail {
        NewThumbnail {
            key,
            filled: filled(byte),
            created: Timestamp(created),
            limit,
            max_bytes: u64::MAX,
            anonymous: false,
        }
    }

    fn filled(byte: u8) -> Filled {
        let (sha256, content_type) = (Sha256::from_bytes([byte; 32]), "image/png".to_owned());
        Filled { sha256, size: 7, content_type, upload_name: None }
    }

    #[test]
    fn the_oldest_thumbnails_of_a_source_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        let mxc = Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse("id").unwrap(),
        };
        let created = Timestamp(0);
        catalog
            .add(NewMedia { mxc, filled: filled(1), user_id: None, created, open: true, anonymous: false })
            .unwrap();
        let key = |width| ThumbnailKey {
            source: Sha256::from_bytes([1; 32]),
            crop: [0, 0, 9, 9],
            size: [width, 9],
            animated: false,
        };
        for width in 2..5_u8 {
            let added = catalog.add_thumbnail(new(key(width.into()), width, width.into(), 9)).unwrap();
            assert_eq!(added, Some(Removed::default()));
        }
        let mut removed = catalog.add_thumbnail(new(key(5), 5, 5, 1)).unwrap().unwrap();
        removed.blobs.sort_by_key(|sha256| *sha256.as_bytes());
        assert_eq!(removed.blobs, [2, 3].map(|byte| Sha256::from_bytes([byte; 32])));
        assert!(catalog.thumbnail(&key(3)).unwrap().is_none());
        assert!(catalog.thumbnail(&key(4)).unwrap().is_some());
    }

    #[test]
    fn a_thumbnail_made_anew_says_which_blob_it_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        let mxc = Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse("a").unwrap(),
        };
        let created = Timestamp(1);
        catalog
            .add(NewMedia { mxc, filled: filled(1), user_id: None, created, open: true, anonymous: false })
            .unwrap();
        let key =
            ThumbnailKey { source: filled(1).sha256, crop: [0, 0, 9, 9], size: [3, 3], animated: false };
        for (byte, blobs) in [(2, vec![]), (2, vec![]), (3, vec![filled(2).sha256])] {
            let added = catalog.add_thumbnail(new(key, byte, 1, 9)).unwrap();
            assert_eq!(added, Some(Removed { blobs, ..Removed::default() }));
        }
        assert_eq!(catalog.thumbnail(&key).unwrap(), Some(filled(3)));
    }

    #[test]
    fn a_thumbnail_lives_as_long_as_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        let source = filled(1);
        let key = ThumbnailKey { source: source.sha256, crop: [0, 0, 9, 9], size: [3, 3], animated: false };
        let added = catalog.add_thumbnail(new(key, 2, 1, 9)).unwrap();
        assert_eq!(added, None, "no media has the source");
        let mxc = Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse("a").unwrap(),
        };
        let media = NewMedia {
            mxc: mxc.clone(),
            filled: source,
            user_id: None,
            created: Timestamp(1),
            open: true,
            anonymous: false,
        };
        catalog.add(media).unwrap();
        assert!(catalog.add_thumbnail(new(key, 2, 1, 9)).unwrap().is_some());
        assert_eq!(catalog.thumbnail(&key).unwrap(), Some(filled(2)));
        assert_eq!(catalog.thumbnail(&ThumbnailKey { size: [4, 3], ..key }).unwrap(), None);
        assert!(catalog.refers_to(&filled(2).sha256).unwrap());
        assert_eq!(catalog.forget_sourceless_thumbnails().unwrap().blobs, []);
        catalog.forget(&mxc).unwrap();
        assert_eq!(catalog.forget_sourceless_thumbnails().unwrap().blobs, [filled(2).sha256]);
        assert!(!catalog.refers_to(&filled(2).sha256).unwrap());
    }
}
