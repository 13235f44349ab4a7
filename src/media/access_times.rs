//! When media was last served. The times are collected in memory and written in batches, because each write wears an SD card.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::Media;
use crate::error::Result;
use crate::matrix::Mxc;
use crate::store::catalog::LastAccess;
use crate::store::sha256::Sha256;
use crate::sync::lock;

/// Number of noted accesses at which they are written without waiting for the hour. Each takes about 100 bytes.
const MANY: usize = 8192;

/// Most accesses that are noted. The number grows this far only while the catalog cannot be written; then further ones are dropped.
const MAX: usize = 8 * MANY;

/// Access times that are not yet written.
#[derive(Debug, Default)]
pub(super) struct AccessTimes {
    noted: Mutex<Noted>,
    /// Notified when there are [`MANY`].
    many: Notify,
}

#[derive(Debug, Default)]
struct Noted {
    media: HashMap<Mxc, LastAccess>,
    /// By their own hashes: they have no address.
    thumbnails: HashMap<Sha256, LastAccess>,
}

impl AccessTimes {
    /// Notes that media is served.
    pub(super) fn note_media(&self, mxc: &Mxc, access: LastAccess) {
        let mut noted = lock(&self.noted);
        // Looked up first: a copy of the address is needed once only.
        if let Some(last) = noted.media.get_mut(mxc) {
            *last = last.then(access);
        } else if noted.len() < MAX {
            noted.media.insert(mxc.clone(), access);
            self.notify_if_many(&noted);
        }
    }

    /// Notes that a thumbnail is served.
    pub(super) fn note_thumbnail(&self, sha256: Sha256, access: LastAccess) {
        let mut noted = lock(&self.noted);
        if let Some(last) = noted.thumbnails.get_mut(&sha256) {
            *last = last.then(access);
        } else if noted.len() < MAX {
            noted.thumbnails.insert(sha256, access);
            self.notify_if_many(&noted);
        }
    }

    fn notify_if_many(&self, noted: &Noted) {
        if noted.len() == MANY {
            self.many.notify_one();
        }
    }

    /// Takes everything that is noted.
    fn take(&self) -> Noted {
        std::mem::take(&mut *lock(&self.noted))
    }

    /// Puts back what could not be written, except where a later access was noted since.
    fn put_back(&self, taken: Noted) {
        let mut noted = lock(&self.noted);
        for (mxc, earlier) in taken.media {
            let access = noted.media.get(&mxc).map_or(earlier, |later| earlier.then(*later));
            noted.media.insert(mxc, access);
        }
        for (sha256, earlier) in taken.thumbnails {
            let access = noted.thumbnails.get(&sha256).map_or(earlier, |later| earlier.then(*later));
            noted.thumbnails.insert(sha256, access);
        }
    }
}

impl Noted {
    fn len(&self) -> usize {
        self.media.len().saturating_add(self.thumbnails.len())
    }
}

impl Media {
    /// Waits until so many access times are noted that they should be written.
    pub(crate) async fn many_accesses(&self) {
        self.access_times.many.notified().await;
    }

    /// Writes the access times noted since the last call. What cannot be written is kept for the next one. Blocks.
    pub(crate) fn flush_accesses(&self) -> Result<()> {
        let taken = self.access_times.take();
        if taken.len() == 0 {
            return Ok(());
        }
        let media = taken.media.iter().map(|(mxc, at)| (mxc.clone(), *at)).collect();
        let thumbnails = taken.thumbnails.iter().map(|(sha256, at)| (*sha256, *at)).collect();
        let written = self.store.touch(media).and_then(|()| self.store.touch_thumbnails(thumbnails));
        if written.is_err() {
            self.access_times.put_back(taken);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use http_body_util::Full;
    use hyper::body::Bytes;
    use rusqlite::Connection;

    use super::*;
    use crate::app::Environment;
    use crate::config::ThumbnailMethod;
    use crate::matrix::{MediaId, ServerName, Timestamp, UserId};
    use crate::media::Upload;
    use crate::media::download::{AccessOptions, RemoteFetch};
    use crate::media::tests::{media_with, picture};
    use crate::sync::admission::Caller;
    use crate::thumbnail::{Motion, ThumbnailRequest};

    fn at(time: i64) -> LastAccess {
        LastAccess { at: Timestamp(time), by_known: false, as_avatar: false }
    }

    /// Media `number` of a server.
    fn file(number: usize) -> Mxc {
        let server_name = ServerName::parse("remote.example").unwrap();
        Mxc { server_name, media_id: MediaId::parse(&format!("f{number}")).unwrap() }
    }

    #[tokio::test]
    async fn none_is_dropped_while_the_catalog_can_be_written() {
        let times = AccessTimes::default();
        for number in 0..MANY {
            times.note_media(&file(number), at(1));
        }
        times.many.notified().await;
        times.note_media(&file(MANY), at(1));
        times.note_media(&file(0), at(2));
        let taken = times.take();
        assert_eq!((taken.len(), taken.media[&file(0)]), (MANY + 1, at(2)));
        times.note_media(&file(1), at(3));
        times.put_back(taken);
        let again = times.take();
        assert_eq!((again.len(), again.media[&file(1)], again.media[&file(0)]), (MANY + 1, at(3), at(2)));
    }

    #[test]
    fn the_table_is_bounded_when_nothing_can_be_written() {
        let times = AccessTimes::default();
        for number in 0..=MAX {
            times.note_media(&file(number), at(1));
        }
        assert_eq!(times.take().len(), MAX);
    }

    #[tokio::test]
    async fn a_thumbnail_has_an_access_time_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let day = i64::try_from(Duration::from_hours(24).as_millis()).unwrap();
        let now = Arc::new(AtomicI64::new(10 * day));
        let clock = Arc::clone(&now);
        let clock = Arc::new(move || Timestamp(clock.load(Ordering::SeqCst)));
        let media = media_with(Environment { clock, ..Environment::system() }, folder.path(), |_config| {});
        let upload = Upload {
            user_id: UserId::new("@alice:example.org"),
            content_type: "image/png".to_owned(),
            file_name: None,
            announced: None,
        };
        let mxc = media.upload(upload, &mut Full::new(Bytes::from(picture(200, 150)))).await.unwrap();
        let options = AccessOptions {
            caller: Caller::operator(),
            remote: RemoteFetch::Refused,
            timeout: Duration::from_secs(1),
        };
        let size =
            ThumbnailRequest { width: 32, height: 32, method: ThumbnailMethod::Crop, motion: Motion::Still };
        let catalog = Connection::open(folder.path().join("data/catalog.db")).unwrap();
        // Made on the tenth day, then served from the store or from memory: each access counts.
        for accessed in [10, 12, 14] {
            now.store(accessed * day, Ordering::SeqCst);
            media.thumbnail(&mxc, size, options).await.unwrap();
            media.flush_accesses().unwrap();
            let written: i64 = catalog
                .query_row("SELECT last_access_ms FROM blob WHERE kind = 'thumbnail'", [], |row| row.get(0))
                .unwrap();
            assert_eq!(written, accessed * day);
        }
    }
}
