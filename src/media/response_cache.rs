//! Media that was served lately, ready to be served again: without a look at the catalog, a path to open, or a thread to
//! wait for.
//!
//! Owns how much of it is kept and for how long it holds good. What is in the cache was looked up at some number of
//! generation ([`Library::generation`]); once there was a further one, anything may be gone, and all of it is looked up anew.
//! Refuses to know who may see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::http::response::{MAX_SMALL, Ready};
use crate::matrix::Mxc;
use crate::media::Library;
use crate::store::stored_media::StoredMedia;
use crate::thumbnail::ThumbnailRequest;

/// What the response cache may hold, bytes.
const CAPACITY: u64 = 4 << 20;

/// What anything counts for at least, bytes: 256 open files at most.
const LEAST: u64 = 16 << 10;

/// What media is found by: its address and, of its thumbnails, the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    /// Whose.
    pub(crate) mxc: Mxc,
    /// `None` for the media itself.
    pub(crate) requested: Option<ThumbnailRequest>,
}

/// Media that was served lately.
#[derive(Debug)]
pub(crate) struct ResponseCache {
    /// What there is.
    cache: Cache<CacheKey, Arc<Ready>, BySize>,
    /// Removals when it was last cleared.
    generation: AtomicU64,
}

/// Weighs by the bytes that are held in memory.
#[derive(Clone, Debug)]
struct BySize;

impl Weighter<CacheKey, Arc<Ready>> for BySize {
    fn weight(&self, _title: &CacheKey, ready: &Arc<Ready>) -> u64 {
        let size = ready.stored().content.size;
        if size <= MAX_SMALL { size.max(LEAST) } else { LEAST }
    }
}

impl ResponseCache {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let items = usize::try_from(CAPACITY.div_euclid(LEAST)).unwrap_or(1);
        Self { cache: Cache::with_weighter(items, CAPACITY, BySize), generation: AtomicU64::new(0) }
    }

    /// What is there of this key and still holds good. Never blocks.
    pub(crate) fn get(&self, key: &CacheKey, library: &Library) -> Option<Arc<Ready>> {
        let ready = self.cache.get(key)?;
        (ready.stored().sequence == library.generation() && ready.is_whole()).then_some(ready)
    }

    /// Puts media there, unless it stands in for what was asked for.
    pub(crate) fn put(&self, key: CacheKey, stored: StoredMedia) -> Arc<Ready> {
        self.tidy(stored.sequence);
        let ready = Arc::new(Ready::new(stored));
        if !ready.stored().is_stopgap {
            self.cache.insert(key, Arc::clone(&ready));
        }
        ready
    }

    /// Lets go of everything if something was removed since the last time: the files of removed media take room on the disk
    /// for as long as they are open.
    pub(crate) fn tidy(&self, generation: u64) {
        if self.generation.fetch_max(generation, Ordering::Relaxed) < generation {
            self.cache.clear();
        }
    }
}
