//! Questions about thumbnails.

use rusqlite::{OptionalExtension as _, named_params};

use super::Catalog;
use super::media::{Filled, sql_size};
use crate::error::Result;
use crate::matrix::Timestamp;
use crate::store::sha256::Sha256;

/// Which thumbnail of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThumbnailKey {
    /// The picture it is made of.
    pub(crate) source: Sha256,
    /// Left, top, width, height of the part it shows, pixels after orientation.
    pub(crate) crop: [u32; 4],
    /// Width and height, pixels.
    pub(crate) size: [u32; 2],
    /// Whether it has all frames.
    pub(crate) animated: bool,
}

impl Catalog {
    /// The thumbnail, if it was made.
    pub(crate) fn thumbnail(&self, key: &ThumbnailKey) -> Result<Option<Filled>> {
        let ThumbnailKey { source, crop: [x, y, crop_width, crop_height], size: [width, height], animated } =
            key;
        self.readers.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT sha256, size, content_type FROM thumbnail
                     WHERE source = ?1 AND width = ?2 AND height = ?3 AND crop_x = ?4 AND crop_y = ?5
                       AND crop_width = ?6 AND crop_height = ?7 AND animated = ?8",
                )?
                .query_row(
                    (source.as_bytes(), width, height, x, y, crop_width, crop_height, animated),
                    |row| {
                        Ok(Filled {
                            sha256: Sha256::from_bytes(row.get(0)?),
                            size: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                            content_type: row.get(2)?,
                            upload_name: None,
                        })
                    },
                )
                .optional()
        })
    }

    /// Adds a thumbnail whose blob is durable and claimed, unless no media has its source any more. Says whether there is a
    /// row now.
    pub(crate) fn add_thumbnail(&self, key: ThumbnailKey, filled: Filled, now: Timestamp) -> Result<bool> {
        self.writer.write(move |connection| {
            let ThumbnailKey { source, crop: [x, y, crop_width, crop_height], size: [width, height], animated } = key;
            let added = connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO thumbnail (source, crop_x, crop_y, crop_width, crop_height, width, height,
                                                       animated, sha256, size, content_type, created_ms)
                     SELECT :source, :x, :y, :crop_width, :crop_height, :width, :height,
                            :animated, :sha256, :size, :content_type, :now
                     WHERE EXISTS (SELECT 1 FROM media WHERE sha256 = :source)",
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
                    ":now": now.0,
                })?;
            Ok(added == 1)
        })
    }

    /// Forgets the oldest thumbnails of a source beyond `limit` besides `key`. Gives what their rows referred to.
    pub(crate) fn trim_thumbnails(&self, key: ThumbnailKey, limit: u32) -> Result<Vec<Sha256>> {
        self.writer.write(move |connection| {
            let ThumbnailKey { source, crop: [x, y, crop_width, crop_height], size: [width, height], animated } = key;
            let mut trim = connection.prepare_cached(
                "DELETE FROM thumbnail
                 WHERE source = ?1 AND (width, height, crop_x, crop_y, crop_width, crop_height, animated) IN (
                     SELECT width, height, crop_x, crop_y, crop_width, crop_height, animated FROM thumbnail
                     WHERE source = ?1
                       AND (width, height, crop_x, crop_y, crop_width, crop_height, animated) <> (?3, ?4, ?5, ?6, ?7, ?8, ?9)
                     ORDER BY created_ms DESC LIMIT -1 OFFSET ?2)
                 RETURNING sha256",
            )?;
            let values = (source.as_bytes(), limit, width, height, x, y, crop_width, crop_height, animated);
            trim.query_map(values, |row| Ok(Sha256::from_bytes(row.get(0)?)))?.collect()
        })
    }

    /// Forgets all thumbnails of a source, whose bytes were damaged when they were made, and what is kept in memory of it. Gives what
    /// their rows referred to.
    pub(crate) fn forget_thumbnails_of(&self, source: &Sha256) -> Result<Vec<Sha256>> {
        let source = *source;
        let forgotten = self.writer.write(move |connection| {
            let mut forget =
                connection.prepare_cached("DELETE FROM thumbnail WHERE source = ?1 RETURNING sha256")?;
            forget.query_map([source.as_bytes()], |row| row.get(0).map(Sha256::from_bytes))?.collect()
        });
        self.note_removal();
        forgotten
    }

    /// Forgets thumbnails whose source no media has any more. Gives what their rows referred to.
    pub(crate) fn forget_sourceless_thumbnails(&self) -> Result<Vec<Sha256>> {
        self.writer.write(|connection| {
            let mut forget = connection.prepare_cached(
                "DELETE FROM thumbnail WHERE NOT EXISTS (SELECT 1 FROM media WHERE media.sha256 = thumbnail.source)
                 RETURNING sha256",
            )?;
            forget.query_map([], |row| row.get(0).map(Sha256::from_bytes))?.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewMedia;
    use super::*;
    use crate::matrix::{MediaId, Mxc, ServerName};

    fn filled(byte: u8) -> Filled {
        let (sha256, content_type) = (Sha256::from_bytes([byte; 32]), "image/png".to_owned());
        Filled { sha256, size: 7, content_type, upload_name: None }
    }

    #[test]
    fn the_oldest_thumbnails_of_a_source_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(folder.path()).unwrap();
        let mxc = Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse("id").unwrap(),
        };
        let created = Timestamp(0);
        catalog.add(NewMedia { mxc, filled: filled(1), user_id: None, created, open: true }).unwrap();
        let key = |width| ThumbnailKey {
            source: Sha256::from_bytes([1; 32]),
            crop: [0, 0, 9, 9],
            size: [width, 9],
            animated: false,
        };
        for width in 2..6_u8 {
            let at = Timestamp(width.into());
            assert!(catalog.add_thumbnail(key(width.into()), filled(width), at).unwrap());
        }
        let mut dropped = catalog.trim_thumbnails(key(5), 1).unwrap();
        dropped.sort_by_key(|sha256| *sha256.as_bytes());
        assert_eq!(dropped, [2, 3].map(|byte| Sha256::from_bytes([byte; 32])));
        assert!(catalog.thumbnail(&key(3)).unwrap().is_none());
        assert!(catalog.thumbnail(&key(4)).unwrap().is_some());
    }

    #[test]
    fn a_thumbnail_lives_as_long_as_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(folder.path()).unwrap();
        let source = filled(1);
        let key = ThumbnailKey { source: source.sha256, crop: [0, 0, 9, 9], size: [3, 3], animated: false };
        assert!(!catalog.add_thumbnail(key, filled(2), Timestamp(1)).unwrap(), "no media has the source");
        let mxc = Mxc {
            server_name: ServerName::parse("example.org").unwrap(),
            media_id: MediaId::parse("a").unwrap(),
        };
        let media =
            NewMedia { mxc: mxc.clone(), filled: source, user_id: None, created: Timestamp(1), open: true };
        catalog.add(media).unwrap();
        assert!(catalog.add_thumbnail(key, filled(2), Timestamp(1)).unwrap());
        assert_eq!(catalog.thumbnail(&key).unwrap(), Some(filled(2)));
        assert_eq!(catalog.thumbnail(&ThumbnailKey { size: [4, 3], ..key }).unwrap(), None);
        assert!(catalog.refers_to(&filled(2).sha256).unwrap());
        assert_eq!(catalog.forget_sourceless_thumbnails().unwrap(), []);
        catalog.forget(&mxc).unwrap();
        assert_eq!(catalog.forget_sourceless_thumbnails().unwrap(), [filled(2).sha256]);
        assert!(!catalog.refers_to(&filled(2).sha256).unwrap());
    }
}
