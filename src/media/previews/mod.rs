//! Previews of linked pages: what is kept of them, for how long, and what is answered.
//!
//! [Spec, `preview_url`](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url). A preview is a few
//! bounded steps, each on a thread of its own; who calls them holds the deadline (`handlers/previews.rs`).

mod read;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value};

pub(crate) use self::read::{Candidate, Picture, Reading};
pub(crate) use self::summary::Summary;
use super::Library;
use crate::config::{self, Live};
use crate::error::{Error, Kind, Result};
use crate::matrix::{Expiry, Moment, Mxc, len_u64};
use crate::preview::{
    Accept, FetchedBody, Fetcher, Followed, HttpUrl, MAX_OEMBED_CACHE_AGE, OembedProviders, RedirectChain,
};
use crate::store::catalog::{Filled, NewMedia, NewPreview, Preview, Removed, Room};

/// How long a failure is believed, and a preview whose site was late with a part of it.
const FAILURE_KEPT: Duration = Duration::from_mins(1);

/// Previews being stored. While the disk is so slow that there are as many, further ones are not kept.
const MAX_KEEPING: usize = 16;

/// Previews kept.
const MAX_PREVIEWS: u32 = 10_000;

/// What of them is in memory as well, bytes.
const REMEMBERED_BYTES: u64 = 1 << 20;

/// How many of average size that makes: a hint for the table.
const REMEMBERED: usize = 512;

/// What previews need besides the library's own parts.
pub(super) struct Desk {
    /// What follows from the configuration.
    rules: Live<Rules>,
    /// The latest answers.
    remembered: Cache<HttpUrl, Remembered, Weight>,
    /// How many previews are being stored.
    keeping: Arc<AtomicUsize>,
}

/// What follows from the configuration; made anew when that is read again.
struct Rules {
    /// The operator's wishes.
    config: config::Previews,
    /// The way to pages.
    fetcher: Fetcher,
    /// Who speaks oEmbed.
    providers: OembedProviders,
}

/// The place of a preview that is being stored.
#[derive(Debug)]
pub(crate) struct Keeping(Arc<AtomicUsize>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An answer in memory.
#[derive(Clone)]
struct Remembered {
    /// The JSON object, or why there is none.
    outcome: Result<Arc<str>>,
    /// How long it is good.
    until: Moment,
}

/// Weighs answers by their bytes.
#[derive(Clone)]
struct Weight;

impl Desk {
    /// Asking with `fetcher`.
    pub(super) fn new(config: config::Previews, fetcher: Fetcher) -> Self {
        let remembered = Cache::with_weighter(REMEMBERED, REMEMBERED_BYTES, Weight);
        Self { rules: Live::new(Rules::new(config, fetcher)), remembered, keeping: Arc::default() }
    }

    /// Goes by `config` from now on, asking with `fetcher`. What was refused may be allowed now.
    pub(super) fn reload(&self, config: config::Previews, fetcher: Fetcher) {
        self.rules.set(Rules::new(config, fetcher));
        self.remembered.clear();
    }
}

impl Rules {
    /// The rules of `config`, asking with `fetcher`.
    fn new(config: config::Previews, fetcher: Fetcher) -> Self {
        let providers = OembedProviders::new(&config.oembed);
        Self { config, fetcher, providers }
    }
}

impl Library {
    /// How long a preview may take; `None` when there are none here.
    pub(crate) fn preview_timeout(&self) -> Option<Duration> {
        let previews = &self.desk.rules.get().config;
        previews.enabled.then_some(previews.timeout.0)
    }

    /// The answer for `link`, if it is in memory. Does not block.
    pub(crate) fn remembered_preview(&self, link: &HttpUrl) -> Option<Result<Arc<str>>> {
        // What was kept of a host that is excluded by now is not shown.
        if let Err(error) = self.desk.rules.get().fetcher.check_allowed(link) {
            return Some(Err(error));
        }
        let remembered = self.desk.remembered.get(link)?;
        ((self.monotonic)() < remembered.until).then_some(remembered.outcome)
    }

    /// The answer for `link`, if one is kept.
    pub(crate) fn kept_preview(&self, link: &HttpUrl) -> Result<Option<Arc<str>>> {
        if let Some(remembered) = self.remembered_preview(link) {
            return remembered.map(Some);
        }
        let Some(Preview { answer, expires }) = self.catalog.preview(link.as_str())? else { return Ok(None) };
        let left =
            expires.left((self.clock)(), self.desk.rules.get().config.cache.0.max(MAX_OEMBED_CACHE_AGE));
        Ok((!left.is_zero()).then(|| self.remember(link, answer, left)))
    }

    /// Notes that there is no preview of `link`, so that its site is not asked again at once.
    pub(crate) fn remember_failure(&self, link: &HttpUrl, error: &Error) {
        // Other failures are ours and may be over at any moment.
        if matches!(error.kind(), Kind::PageFailed | Kind::PageUnavailable | Kind::Forbidden) {
            let until = (self.monotonic)().after(FAILURE_KEPT);
            let outcome = Err(error.clone());
            self.desk.remembered.insert(link.clone(), Remembered { outcome, until });
        }
    }

    /// The beginning of the way to `link`.
    pub(crate) fn set_out(&self, link: HttpUrl, wants: Accept) -> Result<RedirectChain> {
        self.desk.rules.get().fetcher.start(link, wants)
    }

    /// Goes one hop, until `deadline` at most; `land` reads what is at the end. Blocks.
    pub(crate) fn hop<T>(
        &self,
        trip: &RedirectChain,
        deadline: Instant,
        land: fn(&Self, FetchedBody) -> Result<T>,
    ) -> Result<Followed<T>> {
        self.desk.rules.get().fetcher.follow_once(trip, deadline, |landing| land(self, landing))
    }

    /// Where a site that is known to speak oEmbed describes `link`.
    pub(crate) fn known_oembed(&self, link: &HttpUrl) -> Option<HttpUrl> {
        HttpUrl::parse(self.desk.rules.get().providers.endpoint(link.url())?.as_str()).ok()
    }

    /// A place for a preview to be stored, if there is one.
    pub(crate) fn begin_keeping(&self) -> Option<Keeping> {
        let place = Keeping(Arc::clone(&self.desk.keeping));
        let before = place.0.fetch_add(1, Ordering::SeqCst);
        (before < MAX_KEEPING).then_some(place)
    }

    /// `answer` while the preview is not stored: what is stored meanwhile counts, and it is believed for a while.
    pub(crate) fn answer_for_now(&self, link: &HttpUrl, answer: String) -> Arc<str> {
        if let Some(Ok(stored)) = self.remembered_preview(link) {
            return stored;
        }
        let lifetime = self.desk.rules.get().config.cache.0.min(FAILURE_KEPT);
        self.remember(link, answer, lifetime)
    }

    /// Keeps the preview of `link`, and the image with it: blob first, then both rows at once. An image that cannot be stored
    /// is left out, for a while. Gives the answer.
    pub(crate) fn keep_preview(&self, link: &HttpUrl, summary: Summary) -> Result<Arc<str>> {
        let mut lifetime = summary.lifetime(self.desk.rules.get().config.cache.0);
        let without_picture = summary.keys();
        let (keys, picture) = summary.into_keys();
        let mut kept = (String::new(), Removed::default());
        match picture {
            None => kept = self.commit_preview(link, keys, None, lifetime)?,
            Some(Picture { ingest, content_type, .. }) => {
                let stored = self.store(ingest, content_type.to_owned(), None, |filled| {
                    kept = self.commit_preview(link, keys, Some(filled), lifetime)?;
                    Ok(true)
                });
                if let Err(error) = stored {
                    tracing::error!(?error, "a preview goes without its image");
                    lifetime = lifetime.min(FAILURE_KEPT);
                    kept = self.commit_preview(link, without_picture, None, lifetime)?;
                }
            }
        }
        let (answer, dropped) = kept;
        self.clear_away(&dropped);
        Ok(self.remember(link, answer, lifetime))
    }

    /// Writes the rows of a preview. Gives the answer, and what went to make room.
    fn commit_preview(
        &self,
        link: &HttpUrl,
        mut keys: Map<String, Value>,
        image: Option<Filled>,
        lifetime: Duration,
    ) -> Result<(String, Removed)> {
        let url = link.as_str().to_owned();
        let image = match image {
            Some(filled) => {
                // The same picture keeps its address: clients have it.
                let known = self.catalog.preview_image(&url, &self.server_name)?;
                let known = known.filter(|(_, sha256)| *sha256 == filled.sha256);
                let mxc = match known {
                    Some((media_id, _)) => Mxc { server_name: self.server_name.clone(), media_id },
                    None => self.new_mxc(),
                };
                keys.insert("og:image".to_owned(), mxc.to_string().into());
                let (created, open) = ((self.clock)(), self.is_open());
                Some(NewMedia { mxc, filled, user_id: None, created, open })
            }
            None => None,
        };
        let answer = Value::Object(keys).to_string();
        let expires = Expiry::at((self.clock)().after(lifetime));
        let new = NewPreview { url, preview: Preview { answer: answer.clone(), expires }, image };
        let room = Room { count: MAX_PREVIEWS, bytes: self.desk.rules.get().config.max_stored.0 };
        let dropped = self.catalog.keep_preview(new, &self.server_name, room)?;
        Ok((answer, dropped))
    }

    /// Forgets previews that have expired or, after a change of configuration, are too much; their images and what was made of
    /// them.
    pub(super) fn forget_expired_previews(&self) -> Result<()> {
        let bytes = self.desk.rules.get().config.max_stored.0;
        let dropped = self.catalog.forget_previews((self.clock)(), &self.server_name, bytes)?;
        self.clear_away(&dropped);
        Ok(())
    }

    /// Removes what rows referred to that are gone.
    fn clear_away(&self, dropped: &Removed) {
        for link in dropped.previews.iter().filter_map(|url| HttpUrl::parse(url).ok()) {
            self.desk.remembered.remove(&link);
        }
        for blob in &dropped.blobs {
            if let Err(error) = self.remove_blob(blob) {
                tracing::error!(?error, "a blob that nothing refers to stays until the next start");
            }
        }
    }

    /// Keeps an answer in memory for so long.
    fn remember(&self, link: &HttpUrl, answer: String, lifetime: Duration) -> Arc<str> {
        let answer: Arc<str> = answer.into();
        let until = (self.monotonic)().after(lifetime);
        self.desk.remembered.insert(link.clone(), Remembered { outcome: Ok(Arc::clone(&answer)), until });
        answer
    }
}

impl Weighter<HttpUrl, Remembered> for Weight {
    fn weight(&self, link: &HttpUrl, remembered: &Remembered) -> u64 {
        let answer = remembered.outcome.as_ref().map_or(0, |answer| answer.len());
        len_u64(link.as_str().len().saturating_add(answer).saturating_add(OVERHEAD))
    }
}

/// What an answer takes in memory besides its text, bytes.
const OVERHEAD: usize = 256;
