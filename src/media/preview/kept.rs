//! Cached and stored previews: the latest ones in memory, all of them in the catalog, each for as long as its site and the configuration
//! allow.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::draft::PreviewDraft;
use super::read::VerifiedImage;
use crate::config::{self, Live};
use crate::error::{Error, Kind, Result};
use crate::matrix::{Expiry, Moment, len_u64};
use crate::media::Media;
use crate::preview::{Fetcher, HttpUrl, MAX_OEMBED_CACHE_AGE, OembedProviders};
use crate::store::catalog::{Preview, PreviewLimits};
use crate::store::{Incoming, PreviewImage, PreviewPage};
use crate::sync::SingleFlight;

/// How long a failure is cached, and a preview that lacks a part which was late.
pub(super) const FAILURE_KEPT: Duration = Duration::from_mins(1);

/// Previews being stored at the same time. Further ones are not stored: the disk is too slow then, and each holds an image on it.
const MAX_STORING: usize = 16;

/// Previews stored.
const MAX_PREVIEWS: u32 = 10_000;

/// Size of the cache in memory, bytes.
const REMEMBERED_BYTES: u64 = 1 << 20;

/// Expected number of cached previews: a hint for the size of the table.
const REMEMBERED: usize = 512;

/// Memory that a cached preview takes besides its text, bytes.
const OVERHEAD: usize = 256;

/// What requests for previews share.
pub(in crate::media) struct PreviewState {
    rules: Live<Rules>,
    remembered: Cache<HttpUrl, Remembered, Weight>,
    /// A permit for each preview that is being stored.
    storing: Arc<Semaphore>,
    pub(super) in_flight: SingleFlight<HttpUrl, Arc<str>>,
}

/// Everything that follows from the configuration. Replaced as a whole when that is reloaded.
pub(super) struct Rules {
    pub(super) config: config::Previews,
    pub(super) fetcher: Fetcher,
    /// Sites that are known to support oEmbed.
    pub(super) providers: OembedProviders,
}

/// An answer in memory.
#[derive(Clone)]
struct Remembered {
    /// The JSON object, or why there is no preview.
    outcome: Result<Arc<str>>,
    until: Moment,
}

/// Weighs answers by their bytes.
#[derive(Clone)]
struct Weight;

impl PreviewState {
    pub(in crate::media) fn new(config: config::Previews, fetcher: Fetcher) -> Self {
        Self {
            rules: Live::new(Rules::new(config, fetcher)),
            remembered: Cache::with_weighter(REMEMBERED, REMEMBERED_BYTES, Weight),
            storing: Arc::new(Semaphore::new(MAX_STORING)),
            in_flight: SingleFlight::default(),
        }
    }

    /// Applies a changed configuration and empties the cache: a link that was refused may be allowed now.
    pub(in crate::media) fn reload(&self, config: config::Previews, fetcher: Fetcher) {
        self.rules.set(Rules::new(config, fetcher));
        self.remembered.clear();
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.rules.get()
    }

    /// A permit to store a preview; `None` when too many are being stored.
    pub(super) fn storing_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.storing).try_acquire_owned().ok()
    }

    /// Drops deleted previews from memory.
    pub(in crate::media) fn forget(&self, urls: &[String]) {
        for link in urls.iter().filter_map(|url| HttpUrl::parse(url).ok()) {
            self.remembered.remove(&link);
        }
    }
}

impl Rules {
    fn new(config: config::Previews, fetcher: Fetcher) -> Self {
        let providers = OembedProviders::new(&config.oembed);
        Self { config, fetcher, providers }
    }
}

impl Media {
    /// The cached answer for `link`. Never blocks.
    pub(super) fn remembered_preview(&self, link: &HttpUrl) -> Option<Result<Arc<str>>> {
        // Checked on each request: the host may have been excluded after its page was cached.
        if let Err(error) = self.previews.rules().fetcher.check_allowed(link) {
            return Some(Err(error));
        }
        let remembered = self.previews.remembered.get(link)?;
        ((self.monotonic)() < remembered.until).then_some(remembered.outcome)
    }

    /// Caches that there is no preview of `link`, so that its site is not asked again at once.
    pub(super) fn remember_failure(&self, link: &HttpUrl, error: &Error) {
        // Other failures are our own and may be over at any moment.
        if matches!(error.kind(), Kind::PageFailed | Kind::PageUnavailable | Kind::Forbidden) {
            let until = (self.monotonic)().after(FAILURE_KEPT);
            let outcome = Err(error.clone());
            self.previews.remembered.insert(link.clone(), Remembered { outcome, until });
        }
    }

    /// The oEmbed URL for `link`, if its site is known to support oEmbed.
    pub(super) fn known_oembed(&self, link: &HttpUrl) -> Option<HttpUrl> {
        HttpUrl::parse(self.previews.rules().providers.endpoint(link.url())?.as_str()).ok()
    }

    /// The answer for a preview that is not stored yet: what was stored meanwhile, else `answer`, which is cached for a short time.
    pub(super) fn answer_unstored(&self, link: &HttpUrl, answer: String) -> Arc<str> {
        if let Some(Ok(stored)) = self.remembered_preview(link) {
            return stored;
        }
        let lifetime = self.previews.rules().config.cache.0.min(FAILURE_KEPT);
        self.remember(link, answer, lifetime)
    }

    fn remember(&self, link: &HttpUrl, answer: String, lifetime: Duration) -> Arc<str> {
        let answer: Arc<str> = answer.into();
        let until = (self.monotonic)().after(lifetime);
        let outcome = Ok(Arc::clone(&answer));
        self.previews.remembered.insert(link.clone(), Remembered { outcome, until });
        answer
    }
}

/// The blocking steps.
impl Media {
    /// The answer for `link` from the catalog.
    pub(super) fn stored_preview(&self, link: &HttpUrl) -> Result<Option<Arc<str>>> {
        if let Some(remembered) = self.remembered_preview(link) {
            return remembered.map(Some);
        }
        let stored = self.store.preview(link.as_str())?;
        let Some(Preview { answer, expires }) = stored else { return Ok(None) };
        let left =
            expires.left((self.clock)(), self.previews.rules().config.cache.0.max(MAX_OEMBED_CACHE_AGE));
        Ok((!left.is_zero()).then(|| self.remember(link, answer, left)))
    }

    /// Stores the preview of `link` and its image: the blob first, then both rows in one transaction. If the image cannot be stored, the
    /// preview goes without it and is made again soon.
    pub(super) fn store_preview(&self, link: &HttpUrl, draft: PreviewDraft) -> Result<Arc<str>> {
        let mut lifetime = draft.lifetime(self.previews.rules().config.cache.0);
        let without_image = draft.keys();
        let (keys, image) = draft.into_keys();
        let stored = match image {
            None => self.commit_preview(link, keys, None, lifetime)?,
            Some(image) => match self.commit_preview(link, keys, Some(image), lifetime) {
                Ok(stored) => stored,
                Err(error) => {
                    tracing::error!(
                        ?error,
                        "storing the image of a preview failed; the preview is stored without it"
                    );
                    lifetime = lifetime.min(FAILURE_KEPT);
                    self.commit_preview(link, without_image, None, lifetime)?
                }
            },
        };
        Ok(self.remember(link, stored.answer, lifetime))
    }

    /// Stores a preview that consists of `keys` and the address of the image.
    fn commit_preview(
        &self,
        link: &HttpUrl,
        mut keys: Map<String, Value>,
        image: Option<VerifiedImage>,
        lifetime: Duration,
    ) -> Result<Preview> {
        let now = (self.clock)();
        let image = image.map(|VerifiedImage { ingest, content_type, .. }| {
            let (mxc, content_type, open) = (self.new_mxc(), content_type.to_owned(), self.is_open());
            let (upload_name, user_id, created) = (None, None, now);
            PreviewImage {
                ingest,
                incoming: Incoming {
                    mxc,
                    content_type,
                    upload_name,
                    user_id,
                    created,
                    open,
                    anonymous: false,
                },
            }
        });
        let room = PreviewLimits { count: MAX_PREVIEWS, bytes: self.previews.rules().config.max_stored.0 };
        let page = PreviewPage { url: link.as_str().to_owned(), server_name: self.server_name.clone(), room };
        self.store.keep_preview(page, image, |image| {
            if let Some(mxc) = image {
                keys.insert("og:image".to_owned(), mxc.to_string().into());
            }
            Preview { answer: Value::Object(keys).to_string(), expires: Expiry::at(now.after(lifetime)) }
        })
    }

    /// Deletes expired previews with their images and thumbnails, and the oldest ones while they take more than `previews.max_stored`.
    pub(in crate::media) fn remove_expired_previews(&self) -> Result<()> {
        let bytes = self.previews.rules().config.max_stored.0;
        self.store.remove_previews((self.clock)(), &self.server_name, bytes)?;
        Ok(())
    }
}

impl Weighter<HttpUrl, Remembered> for Weight {
    fn weight(&self, link: &HttpUrl, remembered: &Remembered) -> u64 {
        let answer = remembered.outcome.as_ref().map_or(0, |answer| answer.len());
        len_u64(link.as_str().len().saturating_add(answer).saturating_add(OVERHEAD))
    }
}
