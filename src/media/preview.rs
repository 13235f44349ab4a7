//! Previews of linked pages: cached, stored, or made now. All requests for the same link share one run.
//!
//! Who may see what: users may preview links where previews are enabled. The fetcher decides which hosts may be reached, again on every
//! redirect.
//!
//! A preview combines several responses of untrusted servers, each read in its own thread under a common deadline. If the page itself
//! fails, the preview fails; any other part that fails or is late is left out.
//!
//! [Spec, `preview_url`](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url).

mod draft;
mod kept;
mod read;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::draft::PreviewDraft;
pub(super) use self::kept::PreviewState;
use self::read::{LinkTarget, UnverifiedImage, VerifiedImage};
use super::Media;
use crate::error::{Error, Kind, Result};
use crate::preview::{Accept, FetchedBody, Followed, HttpUrl, Image, OembedResponse, timed_out};
use crate::sync::Priority;
use crate::sync::admission::{Ask, Caller, Share, Work, WorkKind};
use crate::sync::pools::Pool;

/// Most pages followed that only redirect to another one (`<meta http-equiv=refresh>`).
const MAX_REFRESHES: usize = 3;

/// When a step of a preview must end.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// The step itself ends at this moment and uses what has arrived by then.
    ends: Instant,
    /// We stop waiting for its thread at this moment, a little later: threads are not always on time.
    given_up: Instant,
}

/// When the steps of a preview must end.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    /// For optional parts such as oEmbed.
    extra: Deadline,
    /// For all network requests and for decoding images. The rest of the time is for storing them.
    all: Deadline,
    /// For looking up a stored preview.
    looked_up: Instant,
    /// For the response to the client.
    due: Instant,
}

impl Deadlines {
    /// The deadlines of a preview that begins now and may take `timeout`.
    fn within(timeout: Duration) -> Self {
        let (now, part) = (Instant::now(), timeout.checked_div(20).unwrap_or(timeout));
        let after = |parts: u32| now.checked_add(part.saturating_mul(parts)).unwrap_or(now);
        Self {
            extra: Deadline { ends: after(10), given_up: after(11) },
            all: Deadline { ends: after(18), given_up: after(19) },
            looked_up: after(2),
            due: after(20),
        }
    }
}

/// The result of asking for an oEmbed description.
#[derive(Debug)]
enum OembedOutcome {
    Described(Box<OembedResponse>),
    /// It did not arrive in time; there may be one later.
    Late,
    None,
}

impl OembedOutcome {
    fn description(self) -> Option<OembedResponse> {
        if let Self::Described(description) = self { Some(*description) } else { None }
    }
}

impl Media {
    /// The preview of a link as a JSON object, within `timeout` ([`Self::preview_timeout`]).
    ///
    /// # Errors
    /// `Forbidden` for hosts that the configuration excludes; `PageFailed` and `PageUnavailable` when the page cannot be fetched;
    /// `LimitExceeded`.
    pub(crate) async fn preview(
        self: &Arc<Self>,
        link: HttpUrl,
        caller: Caller,
        timeout: Duration,
    ) -> Result<Arc<str>> {
        if let Some(remembered) = self.remembered_preview(&link) {
            return remembered;
        }
        let (media, of) = (Arc::clone(self), link.clone());
        let make = |work: Work| async move {
            let _place = media.admission.take(WorkKind::Preview, &work, Ask::default()).await?;
            media.make_preview(of, &work, timeout).await
        };
        self.previews.in_flight.run(link, caller, make).await
    }

    /// How long a preview may take.
    ///
    /// # Errors
    /// `Unrecognized` when previews are disabled.
    pub(crate) fn preview_timeout(&self) -> Result<Duration> {
        let config = &self.previews.rules().config;
        let disabled = || Error::new(Kind::Unrecognized, "this server does not preview links");
        config.enabled.then_some(config.timeout.0).ok_or_else(disabled)
    }

    /// The stored preview, or a new one.
    async fn make_preview(
        self: &Arc<Self>,
        link: HttpUrl,
        work: &Work,
        timeout: Duration,
    ) -> Result<Arc<str>> {
        let deadlines = Deadlines::within(timeout);
        let of = link.clone();
        let stored = self.blocking(Pool::Disk, move |media| media.stored_preview(&of));
        // If the disk is too slow to answer, we fetch the page: that costs time we have, waiting would cost all of it.
        let stored = tokio::time::timeout_at(deadlines.looked_up.into(), stored).await;
        if let Some(stored) = stored.unwrap_or(Ok(None))? {
            return Ok(stored);
        }
        match self.draft_preview(&link, work, deadlines).await {
            Ok(draft) => Ok(self.keep_and_answer(link, draft, deadlines.due).await),
            Err(error) => {
                tracing::debug!(link = link.as_str(), ?error, "no preview");
                self.remember_failure(&link, &error);
                Err(error)
            }
        }
    }

    /// Fetches the page, its oEmbed description, and an image.
    async fn draft_preview(
        self: &Arc<Self>,
        link: &HttpUrl,
        work: &Work,
        deadlines: Deadlines,
    ) -> Result<PreviewDraft> {
        let target = self.read_target(link, work, deadlines.all);
        let oembed = async {
            let endpoint = self.known_oembed(link)?;
            Some(self.fetch_oembed(endpoint, work, deadlines.extra).await)
        };
        let (target, oembed) = tokio::join!(target, oembed);
        let is_late = matches!(oembed, Some(OembedOutcome::Late));
        let mut draft = PreviewDraft::new(target, oembed.and_then(OembedOutcome::description))?;
        if is_late {
            draft.mark_incomplete();
        }
        if let Some(endpoint) = draft.discovered_oembed() {
            match self.fetch_oembed(endpoint, work, deadlines.extra).await {
                OembedOutcome::Described(description) => draft.add(*description),
                OembedOutcome::Late => draft.mark_incomplete(),
                OembedOutcome::None => {}
            }
        }
        self.choose_image(&mut draft, work, deadlines.all).await;
        Ok(draft)
    }

    /// Reads the target of a link, following pages that only redirect. A file that looks like an image and cannot be decoded is described
    /// like any other file.
    async fn read_target(
        self: &Arc<Self>,
        link: &HttpUrl,
        work: &Work,
        deadline: Deadline,
    ) -> Result<LinkTarget> {
        let mut target =
            self.fetch_link(link.clone(), Accept::Page, (work, deadline), Self::read_link).await?;
        for _ in 0..MAX_REFRESHES {
            let Some(next) = target.refresh() else { break };
            target = self.fetch_link(next, Accept::Page, (work, deadline), Self::read_link).await?;
        }
        if let Some(image) = target.take_unverified() {
            match self.verify_image(image, work, deadline).await {
                Ok(image) => target.set_image(image),
                Err(error) => {
                    tracing::debug!(link = link.as_str(), ?error, "an image is described as a file");
                    if is_temporary(&error, deadline) {
                        target.mark_cut_off();
                    }
                }
            }
        }
        Ok(target)
    }

    async fn fetch_oembed(
        self: &Arc<Self>,
        endpoint: HttpUrl,
        work: &Work,
        deadline: Deadline,
    ) -> OembedOutcome {
        match self.fetch_link(endpoint, Accept::Oembed, (work, deadline), Self::read_oembed).await {
            Ok(description) => OembedOutcome::Described(Box::new(description)),
            Err(error) => {
                tracing::debug!(?error, "no oEmbed");
                if is_temporary(&error, deadline) { OembedOutcome::Late } else { OembedOutcome::None }
            }
        }
    }

    /// Adds the first image that is large enough, or the largest of those that can be shown at all.
    async fn choose_image(self: &Arc<Self>, draft: &mut PreviewDraft, work: &Work, deadline: Deadline) {
        let mut best: Option<(Image, VerifiedImage)> = None;
        for image in draft.candidates() {
            // Candidates come in the order of their sources, the most reliable first: a small image of a better source beats a
            // large one of a worse source.
            if best.as_ref().is_some_and(|(best, _)| best.source < image.source) {
                break;
            }
            match self.fetch_image(&image, work, deadline).await {
                Ok(fetched) if fetched.is_large() => return draft.set_image(image, fetched),
                Ok(fetched) => {
                    if best.as_ref().is_none_or(|(_, best)| best.pixels() < fetched.pixels()) {
                        best = Some((image, fetched));
                    }
                }
                Err(error) => {
                    tracing::debug!(image = image.url.as_str(), ?error, "an image is left out");
                    if is_temporary(&error, deadline) {
                        draft.mark_incomplete();
                    }
                }
            }
            if deadline.ends <= Instant::now() {
                draft.mark_incomplete();
                break;
            }
        }
        if let Some((image, fetched)) = best {
            draft.set_image(image, fetched);
        }
    }

    /// Fetches an image of a page and decodes it.
    async fn fetch_image(
        self: &Arc<Self>,
        image: &Image,
        work: &Work,
        deadline: Deadline,
    ) -> Result<VerifiedImage> {
        let unverified = if image.url.scheme() == "data" {
            let url = image.url.clone();
            let media = Arc::clone(self);
            let step = move || media.read_data_image(&url);
            let reading = self.admission.run(WorkKind::PageFetch, work, Ask::default(), step);
            let given_up = deadline.given_up.into();
            tokio::time::timeout_at(given_up, reading).await.unwrap_or_else(|_elapsed| Err(timed_out()))?
        } else {
            let link = HttpUrl::parse(image.url.as_str())?;
            self.fetch_link(link, Accept::Image, (work, deadline), Self::read_image).await?
        };
        self.verify_image(unverified, work, deadline).await
    }

    /// Decodes an image, because its header alone does not prove that it can be shown. Needs a worker and memory, as a thumbnail does; if
    /// they are not free before the deadline, the image counts as late.
    async fn verify_image(
        self: &Arc<Self>,
        image: UnverifiedImage,
        work: &Work,
        deadline: Deadline,
    ) -> Result<VerifiedImage> {
        let verifying = async {
            let worker = self.admission.enter(WorkKind::Still, work, Ask::default()).await?;
            let memory = self.thumbnails.memory.acquire(image.memory(), Priority::High).await;
            let media = Arc::clone(self);
            let step = move || {
                // Held until the work ends, which may be after the deadline: its memory is in use until then.
                let _memory = memory;
                media.decode_image(image, deadline.ends)
            };
            worker.run(step).await
        };
        let given_up = deadline.given_up.into();
        tokio::time::timeout_at(given_up, verifying).await.unwrap_or_else(|_elapsed| Err(timed_out()))
    }

    /// Fetches the target of a link over redirects and runs `read` on the body, in the same thread. Each redirect waits for a place of
    /// its host: a slow host must not hold threads that others need.
    async fn fetch_link<T: Send + 'static>(
        self: &Arc<Self>,
        link: HttpUrl,
        accept: Accept,
        (work, deadline): (&Work, Deadline),
        read: fn(&Self, FetchedBody) -> Result<T>,
    ) -> Result<T> {
        let mut chain = self.previews.rules().fetcher.start(link, accept)?;
        let fetching = async {
            loop {
                let (media, to_host) = (Arc::clone(self), Ask::to(Share::of_host(chain.host())));
                let step = move || {
                    let rules = media.previews.rules();
                    rules.fetcher.follow_once(&chain, deadline.ends, |body| read(&media, body))
                };
                match self.admission.run(WorkKind::PageFetch, work, to_host, step).await? {
                    Followed::Redirected(next) => chain = next,
                    Followed::Fetched(made) => return Ok(made),
                }
            }
        };
        let given_up = deadline.given_up.into();
        tokio::time::timeout_at(given_up, fetching).await.unwrap_or_else(|_elapsed| Err(timed_out()))
    }

    /// Stores a preview and returns it before `due`. An image is named only once it is durable. If the disk is slower than that, or
    /// fails, the response goes without an image, and the next request gets what was stored meanwhile.
    async fn keep_and_answer(self: &Arc<Self>, link: HttpUrl, draft: PreviewDraft, due: Instant) -> Arc<str> {
        let without_image = draft.answer_without_image();
        if let Some(permit) = self.previews.storing_permit() {
            let (media, of) = (Arc::clone(self), link.clone());
            // A task of its own: the preview is stored even if this response cannot wait for it.
            let storing = tokio::spawn(async move {
                let step = move |media: &Arc<Self>| {
                    let _permit = permit;
                    media.store_preview(&of, draft)
                };
                media.blocking(Pool::Disk, step).await
            });
            match tokio::time::timeout_at(due.into(), storing).await {
                Ok(Ok(Ok(answer))) => return answer,
                Ok(Ok(Err(error))) => tracing::error!(?error, "storing a preview failed"),
                Ok(Err(error)) => tracing::error!(%error, "storing a preview failed"),
                Err(_elapsed) => {
                    tracing::warn!("a preview was sent before it was stored: the disk is slow");
                }
            }
        } else {
            tracing::warn!("a preview was sent and not stored: the disk is slow");
        }
        self.answer_unstored(&link, without_image)
    }
}

/// Whether a part was left out for a temporary reason, so that the preview should be made again soon.
fn is_temporary(error: &Error, deadline: Deadline) -> bool {
    matches!(error.kind(), Kind::Internal | Kind::PageUnavailable) || deadline.ends <= Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::media_in;

    /// A time long past.
    fn over() -> Deadline {
        Deadline { ends: Instant::now(), given_up: Instant::now() }
    }

    #[tokio::test]
    async fn while_there_is_no_worker_or_memory_a_picture_is_late() {
        let folder = tempfile::tempdir().unwrap();
        let media = media_in(folder.path(), |_config| {});
        let image = || {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 20, 20);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.write_header().unwrap().write_image_data(&[7; 400]).unwrap();
            media.receive_image(&mut bytes.as_slice()).unwrap()
        };
        let is_late = |verified: Result<VerifiedImage>| {
            let error = verified.unwrap_err();
            assert_eq!(error.kind(), Kind::PageUnavailable);
            is_temporary(&error, over())
        };

        let work = Work::of(Caller::operator());
        let worker = media.admission.enter(WorkKind::Still, &work, Ask::default()).await.unwrap();
        assert!(is_late(media.verify_image(image(), &work, over()).await));
        drop(worker);
        let memory = media.thumbnails.memory.acquire(u64::MAX, Priority::High).await;
        assert!(is_late(media.verify_image(image(), &work, over()).await));
        drop(memory);
        // Both were given back by those who gave up.
        let soon = Deadlines::within(Duration::from_mins(1)).all;
        media.verify_image(image(), &work, soon).await.unwrap();
        assert!(!is_temporary(&Error::new(Kind::PageFailed, "it is broken"), soon));
    }
}
