//! Previews of linked pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::media::{Candidate, Library, Picture, Reading, Summary};
use crate::preview::{Accept, FetchedBody, Followed, HttpUrl, Image, OembedResponse, timed_out};
use crate::sync::pools::Pool;

/// Pages followed that do nothing but lead to another one.
const MAX_REFRESHES: usize = 3;

/// The preview of a link, as the JSON of its answer: what is remembered, kept, or made within `timeout` and once for all who
/// ask.
pub(crate) async fn preview(app: &Arc<App>, link: HttpUrl, timeout: Duration) -> Result<Arc<str>> {
    if let Some(remembered) = app.library.remembered_preview(&link) {
        return remembered;
    }
    let (making, of) = (Arc::clone(app), link.clone());
    app.previewing.run(link, || async move { make(&making, of, timeout).await }).await
}

/// When a step of a preview must end.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// What has come by then counts.
    ends: Instant,
    /// It is waited for no longer than this: a thread may end its step a little later.
    given_up: Instant,
}

/// When the steps of a preview must end.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    /// What only adds to the page.
    extra: Deadline,
    /// Everything that comes over the network, and decoding pictures; the rest of the time is for storing them.
    all: Deadline,
    /// Until when a preview that is kept is looked for.
    looked_up: Instant,
    /// When the answer is due.
    due: Instant,
}

impl Deadlines {
    /// Of a preview that begins now and may take `timeout`.
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

/// The preview that is kept, or a new one.
async fn make(app: &Arc<App>, link: HttpUrl, timeout: Duration) -> Result<Arc<str>> {
    let deadlines = Deadlines::within(timeout);
    let (library, of) = (Arc::clone(&app.library), link.clone());
    let looking = app.pools.run(Pool::Disk, move || library.kept_preview(&of));
    // A disk that is too slow to say has nothing.
    let kept = tokio::time::timeout_at(deadlines.looked_up.into(), looking).await;
    if let Some(kept) = kept.unwrap_or(Ok(None))? {
        return Ok(kept);
    }
    match summarise(app, &link, deadlines).await {
        Ok(summary) => Ok(keep(app, link, summary, deadlines.due).await),
        Err(error) => {
            tracing::debug!(link = link.as_str(), ?error, "no preview");
            app.library.remember_failure(&link, &error);
            Err(error)
        }
    }
}

/// Keeps a preview and gives its answer when it is due: a picture is named only once it is durable, so without one when the disk
/// is slower, or fails. What is stored later is answered later.
async fn keep(app: &Arc<App>, link: HttpUrl, summary: Summary, due: Instant) -> Arc<str> {
    let bare = summary.bare_answer();
    let (library, of) = (Arc::clone(&app.library), link.clone());
    if let Some(place) = app.library.begin_keeping() {
        let keeping = Arc::clone(app);
        let work = move || {
            let _place = place;
            library.keep_preview(&of, summary)
        };
        let keeping = tokio::spawn(async move { keeping.pools.run(Pool::Disk, work).await });
        match tokio::time::timeout_at(due.into(), keeping).await {
            Ok(Ok(Ok(answer))) => return answer,
            Ok(Ok(Err(error))) => tracing::error!(?error, "a preview is answered and not kept"),
            Ok(Err(error)) => tracing::error!(%error, "a preview is answered and not kept"),
            Err(_elapsed) => tracing::warn!("a preview is answered before it is stored: the disk is slow"),
        }
    } else {
        tracing::warn!("a preview is answered and not kept: the disk is slow");
    }
    app.library.answer_for_now(&link, bare)
}

/// Asks the page, oEmbed, and for a picture. Only the page's failure is one.
async fn summarise(app: &Arc<App>, link: &HttpUrl, deadlines: Deadlines) -> Result<Summary> {
    let page = read(app, link, deadlines.all);
    let embed = async {
        let endpoint = app.library.known_oembed(link)?;
        Some(ask_oembed(app, endpoint, deadlines.extra).await)
    };
    let (page, known) = tokio::join!(page, embed);
    let is_late = matches!(known, Some(Embedded::Late));
    let mut summary = Summary::new(page, known.and_then(Embedded::said))?;
    if is_late {
        summary.is_late();
    }
    if let Some(endpoint) = summary.discovered_oembed() {
        match ask_oembed(app, endpoint, deadlines.extra).await {
            Embedded::Said(said) => summary.add(*said),
            Embedded::Late => summary.is_late(),
            Embedded::Nothing => {}
        }
    }
    illustrate(app, &mut summary, deadlines.all).await;
    Ok(summary)
}

/// What oEmbed comes to.
#[derive(Debug)]
enum Embedded {
    /// It describes the link.
    Said(Box<OembedResponse>),
    /// It may do so later.
    Late,
    /// It does not.
    Nothing,
}

impl Embedded {
    /// The description.
    fn said(self) -> Option<OembedResponse> {
        if let Self::Said(embed) = self { Some(*embed) } else { None }
    }
}

/// Asks for an oEmbed description.
async fn ask_oembed(app: &Arc<App>, endpoint: HttpUrl, deadline: Deadline) -> Embedded {
    match travel(app, (endpoint, Accept::Oembed), deadline, Library::read_oembed).await {
        Ok(embed) => Embedded::Said(Box::new(embed)),
        Err(error) => {
            tracing::debug!(?error, "no oEmbed");
            if is_passing(&error, deadline) { Embedded::Late } else { Embedded::Nothing }
        }
    }
}

/// Reads what a link leads to, and what that leads to at once if it says nothing of itself. What looks like a picture and is none is described like any other file.
async fn read(app: &Arc<App>, link: &HttpUrl, deadline: Deadline) -> Result<Reading> {
    let mut reading = travel(app, (link.clone(), Accept::Page), deadline, Library::read_link).await?;
    for _hop in 0..MAX_REFRESHES {
        let Some(next) = reading.refresh() else { break };
        reading = travel(app, (next, Accept::Page), deadline, Library::read_link).await?;
    }
    if let Some(candidate) = reading.take_candidate() {
        match prove(app, candidate, deadline).await {
            Ok(picture) => reading.show(picture),
            Err(error) => {
                tracing::debug!(link = link.as_str(), ?error, "a picture is described as a file");
                if is_passing(&error, deadline) {
                    reading.is_late();
                }
            }
        }
    }
    Ok(reading)
}

/// Adds the first picture that shows well, or the largest of those that can be shown at all.
async fn illustrate(app: &Arc<App>, summary: &mut Summary, deadline: Deadline) {
    let mut best: Option<(Image, Picture)> = None;
    for image in summary.candidates() {
        if best.as_ref().is_some_and(|(best, _)| best.source < image.source) {
            break;
        }
        match picture(app, &image, deadline).await {
            Ok(picture) if picture.shows_well() => return summary.illustrate(image, picture),
            Ok(picture) => {
                if best.as_ref().is_none_or(|(_, best)| best.pixels() < picture.pixels()) {
                    best = Some((image, picture));
                }
            }
            Err(error) => {
                tracing::debug!(image = image.url.as_str(), ?error, "a picture is left out");
                if is_passing(&error, deadline) {
                    summary.is_late();
                }
            }
        }
        if deadline.ends <= Instant::now() {
            summary.is_late();
            break;
        }
    }
    if let Some((image, picture)) = best {
        summary.illustrate(image, picture);
    }
}

/// Whether a part is left out for no lasting fault of its own, so that it is to be tried again soon.
fn is_passing(error: &Error, deadline: Deadline) -> bool {
    matches!(error.kind(), Kind::Internal | Kind::PageUnavailable) || deadline.ends <= Instant::now()
}

/// A picture that a page shows, proven.
async fn picture(app: &Arc<App>, image: &Image, deadline: Deadline) -> Result<Picture> {
    let candidate = if image.url.scheme() == "data" {
        let (library, url) = (Arc::clone(&app.library), image.url.clone());
        let reading = app.pools.run(Pool::Previews, move || library.read_embedded_image(&url));
        let given_up = deadline.given_up.into();
        tokio::time::timeout_at(given_up, reading).await.unwrap_or_else(|_elapsed| Err(timed_out()))?
    } else {
        let link = HttpUrl::parse(image.url.as_str())?;
        travel(app, (link, Accept::Image), deadline, Library::read_image).await?
    };
    prove(app, candidate, deadline).await
}

/// Decodes what looks like a picture, when there are a worker and memory as for a thumbnail: nothing else says whether it can
/// be shown. While they are wanting for all of the time, the picture counts as late.
async fn prove(app: &Arc<App>, candidate: Candidate, deadline: Deadline) -> Result<Picture> {
    let proving = async {
        let place = app.pools.enter(Pool::Thumbnails).await?;
        let memory = app.picture_memory.take(candidate.memory()).await?;
        let library = Arc::clone(&app.library);
        let work = move || {
            // Kept until the work ends, which it may do after its time.
            let _memory = memory;
            library.prove(candidate, deadline.ends)
        };
        place.run(work).await
    };
    let given_up = deadline.given_up.into();
    tokio::time::timeout_at(given_up, proving).await.unwrap_or_else(|_elapsed| Err(timed_out()))
}

/// Goes where a link leads, over redirects, and makes something of what is there. Each hop takes a lane to its host, and a
/// thread only once it has one.
async fn travel<T: Send + 'static>(
    app: &Arc<App>,
    (link, wants): (HttpUrl, Accept),
    deadline: Deadline,
    land: fn(&Library, FetchedBody) -> Result<T>,
) -> Result<T> {
    let mut trip = app.library.set_out(link, wants)?;
    let going = async {
        loop {
            let place = app.requests_per_host.enter(&trip.host().to_owned()).await?;
            let library = Arc::clone(&app.library);
            let hop = move || {
                // As long as the thread runs, whoever stops waiting.
                let _place = place;
                library.hop(&trip, deadline.ends, land)
            };
            match app.pools.run(Pool::Previews, hop).await? {
                Followed::Redirected(next) => trip = next,
                Followed::Fetched(made) => return Ok(made),
            }
        }
    };
    let given_up = deadline.given_up.into();
    tokio::time::timeout_at(given_up, going).await.unwrap_or_else(|_elapsed| Err(timed_out()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Environment;
    use crate::config::Config;
    use crate::federation::SigningKey;
    use crate::matrix::ServerName;

    /// A time long past.
    fn over() -> Deadline {
        Deadline { ends: Instant::now(), given_up: Instant::now() }
    }

    #[tokio::test]
    async fn while_there_is_no_worker_or_memory_a_picture_is_late() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(ServerName::parse("example.org").unwrap());
        config.data_dir = folder.path().to_owned();
        let key = SigningKey::parse(b"ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
        let app = App::open(&config, key, Environment::system()).unwrap();
        let candidate = || {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 20, 20);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.write_header().unwrap().write_image_data(&[7; 400]).unwrap();
            app.library.take_picture(&mut bytes.as_slice()).unwrap()
        };
        let is_late = |proven: Result<Picture>| {
            let error = proven.unwrap_err();
            assert_eq!(error.kind(), Kind::PageUnavailable);
            is_passing(&error, over())
        };

        let worker = app.pools.enter(Pool::Thumbnails).await.unwrap();
        assert!(is_late(prove(&app, candidate(), over()).await));
        drop(worker);
        let memory = app.picture_memory.take(u64::MAX).await.unwrap();
        assert!(is_late(prove(&app, candidate(), over()).await));
        drop(memory);
        // Both were given back by those who gave up.
        let soon = Deadlines::within(Duration::from_mins(1)).all;
        prove(&app, candidate(), soon).await.unwrap();
        assert!(!is_passing(&Error::new(Kind::PageFailed, "it is broken"), soon));
    }
}
