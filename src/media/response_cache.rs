//! Recently served media, ready to be served again without asking the catalog, opening a file or using a thread.
//!
//! Owns how much is kept, and that removed media does not stay. Refuses to know who may see it: the caller checks that on each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::http::response::{MAX_SMALL, PreparedMedia};
use crate::matrix::Mxc;
use crate::store::sha256::Sha256;
use crate::thumbnail::ThumbnailRequest;

/// What the cache may hold, bytes.
const CAPACITY: u64 = 4 << 20;

/// The least weight of an entry, bytes. It limits the open files to 256.
const LEAST: u64 = 16 << 10;

/// The key of an entry: the address and, for a thumbnail, the requested size.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    pub(super) mxc: Mxc,
    /// `None` for the media itself.
    pub(super) requested: Option<ThumbnailRequest>,
}

/// Recently served media.
#[derive(Debug)]
pub(super) struct ResponseCache {
    cache: Cache<CacheKey, Arc<PreparedMedia>, BySize>,
    /// Removals so far. Media that was looked up before the latest removal is not inserted: it may be the removed one.
    removals: AtomicU64,
}

/// The number of removals before a look-up began, see [`ResponseCache::begin_lookup`].
#[derive(Clone, Copy, Debug)]
pub(super) struct AsOf(u64);

/// Weighs by the bytes that are held in memory.
#[derive(Clone, Debug)]
struct BySize;

impl Weighter<CacheKey, Arc<PreparedMedia>> for BySize {
    fn weight(&self, _key: &CacheKey, prepared: &Arc<PreparedMedia>) -> u64 {
        let size = prepared.stored().content.size;
        if size <= MAX_SMALL { size.max(LEAST) } else { LEAST }
    }
}

impl ResponseCache {
    pub(super) fn new() -> Self {
        let items = usize::try_from(CAPACITY.div_euclid(LEAST)).unwrap_or(1);
        Self { cache: Cache::with_weighter(items, CAPACITY, BySize), removals: AtomicU64::new(0) }
    }

    /// The entry at `key`, unless its file was truncated meanwhile. Never blocks.
    pub(super) fn get(&self, key: &CacheKey) -> Option<Arc<PreparedMedia>> {
        self.cache.get(key).filter(|prepared| prepared.is_whole())
    }

    /// Call this before looking up media that may be inserted.
    pub(super) fn begin_lookup(&self) -> AsOf {
        AsOf(self.removals.load(Ordering::SeqCst))
    }

    /// Inserts media that was looked up after `as_of`, unless anything was removed since, or it is only a stopgap.
    pub(super) fn insert(&self, key: &CacheKey, prepared: &Arc<PreparedMedia>, as_of: AsOf) {
        if prepared.is_stopgap() {
            return;
        }
        self.cache.insert(key.clone(), Arc::clone(prepared));
        // Checked after the insertion: a removal that is counted later finds the entry and drops it.
        if self.removals.load(Ordering::SeqCst) != as_of.0 {
            self.cache.remove(key);
        }
    }

    /// Drops the entries of removed media and removed blobs, and closes their files: a deleted file takes room on the disk as long as it
    /// is open. Call this after the rows are deleted.
    pub(super) fn remove(&self, media: &[Mxc], blobs: &[Sha256]) {
        if media.is_empty() && blobs.is_empty() {
            return;
        }
        self.removals.fetch_add(1, Ordering::SeqCst);
        self.cache.retain(|key, prepared| {
            !media.contains(&key.mxc) && !blobs.contains(&prepared.stored().content.sha256)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{MediaId, ServerName, Timestamp};
    use crate::store::blobs::BlobReader;
    use crate::store::catalog::Filled;
    use crate::store::stored_media::StoredMedia;

    fn key(id: &str, requested: Option<ThumbnailRequest>) -> CacheKey {
        let server_name = ServerName::parse("example.org").unwrap();
        CacheKey { mxc: Mxc { server_name, media_id: MediaId::parse(id).unwrap() }, requested }
    }

    fn prepared(byte: u8) -> Arc<PreparedMedia> {
        let content_type = "text/plain".to_owned();
        let sha256 = Sha256::from_bytes([byte; 32]);
        let content = Filled { sha256, size: 1, content_type, upload_name: None };
        let (created, open, blob) = (Timestamp(0), true, BlobReader::of(&[byte]));
        Arc::new(PreparedMedia::new(StoredMedia { content, created, open, blob }))
    }

    fn thumbnail() -> ThumbnailRequest {
        use crate::config::ThumbnailMethod;
        use crate::thumbnail::Motion;
        ThumbnailRequest { width: 32, height: 32, method: ThumbnailMethod::Crop, motion: Motion::Still }
    }

    #[test]
    fn a_removal_drops_exactly_the_entries_concerned() {
        let cache = ResponseCache::new();
        let keys = [key("a", None), key("a", Some(thumbnail())), key("b", None), key("c", None)];
        for (byte, key) in (1..).zip(&keys) {
            cache.insert(key, &prepared(byte), cache.begin_lookup());
        }
        let there = || keys.each_ref().map(|key| cache.get(key).is_some());
        assert_eq!(there(), [true; 4]);
        cache.remove(&[keys[0].mxc.clone()], &[]);
        assert_eq!(there(), [false, false, true, true], "the media and its thumbnails");
        cache.remove(&[], &[Sha256::from_bytes([4; 32])]);
        assert_eq!(there(), [false, false, true, false], "all media with the same bytes");
    }

    #[test]
    fn what_was_looked_up_before_a_removal_does_not_stay() {
        let cache = ResponseCache::new();
        let as_of = cache.begin_lookup();
        cache.remove(&[key("a", None).mxc], &[]);
        cache.insert(&key("a", None), &prepared(1), as_of);
        assert!(cache.get(&key("a", None)).is_none());
        cache.insert(&key("a", None), &prepared(1), cache.begin_lookup());
        assert!(cache.get(&key("a", None)).is_some());
    }

    /// Removals and insertions at the same time: whatever their order, an entry of the removed media is never left.
    #[test]
    fn a_removal_wins_against_an_insertion_at_the_same_time() {
        let media = prepared(1);
        for round in 0..2000 {
            let cache = Arc::new(ResponseCache::new());
            let as_of = cache.begin_lookup();
            let inserting = {
                let (cache, media) = (Arc::clone(&cache), Arc::clone(&media));
                std::thread::spawn(move || cache.insert(&key("a", None), &media, as_of))
            };
            cache.remove(&[key("a", None).mxc], &[]);
            inserting.join().unwrap();
            assert!(cache.get(&key("a", None)).is_none(), "round {round}");
        }
    }
}
