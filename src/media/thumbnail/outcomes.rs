//! Caches in memory beside the catalog: answers to requests, recently rendered pictures, recent failures.

use std::time::Duration;

use quick_cache::sync::Cache;

use crate::error::{Error, Result};
use crate::matrix::{Moment, Monotonic};
use crate::store::catalog::Filled;
use crate::store::sha256::Sha256;
use crate::thumbnail::{Header, RenderSpec, ThumbnailRequest};

/// Requests whose answer is remembered; about 200 bytes each.
const ANSWERS: usize = 4096;

/// Pictures remembered as made; about 250 bytes each.
const MADE: usize = 1024;

/// Failures remembered; about 200 bytes each.
const REFUSALS: usize = 1024;

/// Animations remembered for which there was no time; about 150 bytes each.
const UNANIMATED: usize = 1024;

/// Sources remembered as broken off; about 50 bytes each.
const PARTIAL: usize = 1024;

/// Headers remembered; about 150 bytes each.
const HEADERS: usize = 1024;

/// How long a failure is cached, of a source that is broken or took too long. The same bytes would fail again, and clients ask again.
const REFUSAL: Duration = Duration::from_mins(10);

/// How long a still stands in for an animation that there was no time for. Then it is tried again: the machine may have been busy. On
/// one that is too slow for it, requests meanwhile do not cost another [`ANIMATION_TIMEOUT`](super::ANIMATION_TIMEOUT).
const ANIMATION_RETRY: Duration = Duration::from_mins(10);

/// The caches, all of them bounded. They may be out of date: callers check that a blob they name still exists.
#[derive(Debug)]
pub(super) struct Outcomes {
    headers: Cache<Sha256, Header>,
    answers: Cache<(Sha256, ThumbnailRequest), CachedAnswer>,
    made: Cache<(Sha256, RenderSpec), Filled>,
    refusals: Cache<(Sha256, Step), (Error, Moment)>,
    /// Until when a still stands in for the animation.
    unanimated: Cache<(Sha256, RenderSpec), Moment>,
    partial: Cache<Sha256, ()>,
}

/// The cached answer to a request for a thumbnail.
#[derive(Clone, Debug)]
pub(super) enum CachedAnswer {
    /// The original itself; its bytes have this type.
    Original(&'static str),
    /// A rendered picture.
    Made(Filled),
}

/// The part of the work on a source that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Header,
    Still,
    Animation,
}

impl Step {
    /// The step that renders a spec.
    pub(super) fn of(spec: &RenderSpec) -> Self {
        if spec.animated { Self::Animation } else { Self::Still }
    }
}

impl Outcomes {
    pub(super) fn new() -> Self {
        Self {
            headers: Cache::new(HEADERS),
            answers: Cache::new(ANSWERS),
            made: Cache::new(MADE),
            refusals: Cache::new(REFUSALS),
            unanimated: Cache::new(UNANIMATED),
            partial: Cache::new(PARTIAL),
        }
    }

    pub(super) fn answer(&self, source: Sha256, requested: ThumbnailRequest) -> Option<CachedAnswer> {
        self.answers.get(&(source, requested))
    }

    pub(super) fn note_answer(&self, source: Sha256, requested: ThumbnailRequest, answer: CachedAnswer) {
        self.answers.insert((source, requested), answer);
    }

    /// The header of a source, if it was read recently.
    pub(super) fn header(&self, source: Sha256) -> Option<Header> {
        self.headers.get(&source)
    }

    pub(super) fn note_header(&self, source: Sha256, header: Header) {
        self.headers.insert(source, header);
    }

    /// The picture of a spec, if it was rendered recently.
    pub(super) fn made(&self, source: Sha256, spec: RenderSpec) -> Option<Filled> {
        self.made.get(&(source, spec))
    }

    pub(super) fn note_made(&self, source: Sha256, spec: RenderSpec, picture: Filled) {
        self.made.insert((source, spec), picture);
    }

    /// Returns the error with which a step of this source failed recently.
    pub(super) fn check_refused(&self, source: Sha256, step: Step, monotonic: &Monotonic) -> Result<()> {
        match self.refusals.get(&(source, step)) {
            Some((error, until)) if monotonic() < until => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn note_refusal(&self, source: Sha256, step: Step, error: &Error, monotonic: &Monotonic) {
        self.refusals.insert((source, step), (error.clone(), monotonic().after(REFUSAL)));
    }

    /// Whether there was not enough time for an animation recently.
    pub(super) fn had_no_time(&self, source: Sha256, spec: RenderSpec, monotonic: &Monotonic) -> bool {
        self.unanimated.get(&(source, spec)).is_some_and(|until| monotonic() < until)
    }

    pub(super) fn note_no_time(&self, source: Sha256, spec: RenderSpec, monotonic: &Monotonic) {
        self.unanimated.insert((source, spec), monotonic().after(ANIMATION_RETRY));
    }

    /// Whether the source is known to be truncated.
    pub(super) fn is_partial(&self, source: Sha256) -> bool {
        self.partial.get(&source).is_some()
    }

    pub(super) fn note_partial(&self, source: Sha256) {
        self.partial.insert(source, ());
    }

    /// Drops pictures whose blobs were removed, and failures of sources whose blobs were: damaged bytes may have been replaced.
    pub(super) fn forget_blobs(&self, blobs: &[Sha256]) {
        if blobs.is_empty() {
            return;
        }
        self.made.retain(|_, picture| !blobs.contains(&picture.sha256));
        self.answers.retain(|_, answer| match answer {
            CachedAnswer::Made(picture) => !blobs.contains(&picture.sha256),
            CachedAnswer::Original(_) => true,
        });
        self.headers.retain(|source, _| !blobs.contains(source));
        self.refusals.retain(|(source, _), _| !blobs.contains(source));
        self.partial.retain(|source, ()| !blobs.contains(source));
    }
}
