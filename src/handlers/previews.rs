//! Previews of linked pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::authorise_user;
use crate::app::App;
use crate::bridge::Pool;
use crate::error::{Error, Kind, Result};
use crate::media::{Library, Picture, Summary};
use crate::preview::{Landing, Link, Step, Wants, late};
use crate::request::Call;
use crate::response::{self, Response};

/// Pictures tried for one preview.
const MAX_TRIED: usize = 3;

/// `GET preview_url`
pub(crate) async fn get_url_preview(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    authorise_user(app, call).await?;
    let disabled = || Error::new(Kind::Unrecognized, "this server does not preview links");
    let timeout = app.library.preview_timeout().ok_or_else(disabled)?;
    let link = call.preview_link()?;
    let answer = if let Some(remembered) = app.library.remembered_preview(&link) {
        remembered?
    } else {
        let (making, of) = (Arc::clone(app), link.clone());
        app.previewing.run(link, || async move { preview(&making, of, timeout).await }).await?
    };
    Ok(response::json_text(&answer))
}

/// When a step of a preview must end.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// What has come by then counts.
    ends: Instant,
    /// It is waited for no longer than this: the system's resolver keeps no deadline.
    given_up: Instant,
}

/// When the steps of a preview must end.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    /// What only adds to the page.
    extra: Deadline,
    /// Everything that comes over the network; the rest of the time is for storing it.
    all: Deadline,
}

impl Deadlines {
    /// Of a preview that begins now and may take `timeout`.
    fn within(timeout: Duration) -> Self {
        let (now, part) = (Instant::now(), timeout.checked_div(20).unwrap_or(timeout));
        let after = |parts: u32| now.checked_add(part.saturating_mul(parts)).unwrap_or(now);
        Self {
            extra: Deadline { ends: after(10), given_up: after(11) },
            all: Deadline { ends: after(18), given_up: after(19) },
        }
    }
}

/// The preview that is kept, or a new one.
async fn preview(app: &Arc<App>, link: Link, timeout: Duration) -> Result<Arc<str>> {
    let deadlines = Deadlines::within(timeout);
    let (library, of) = (Arc::clone(&app.library), link.clone());
    if let Some(kept) = app.bridge.run(Pool::Disk, move || library.kept_preview(&of)).await? {
        return Ok(kept);
    }
    match summarise(app, &link, deadlines).await {
        Ok(summary) => {
            let library = Arc::clone(&app.library);
            app.bridge.run(Pool::Disk, move || library.keep_preview(&link, summary)).await
        }
        Err(error) => {
            tracing::debug!(link = link.as_str(), ?error, "no preview");
            app.library.remember_failure(&link, &error);
            Err(error)
        }
    }
}

/// Asks the page, oEmbed, and for a picture. Only the page's failure is one.
async fn summarise(app: &Arc<App>, link: &Link, deadlines: Deadlines) -> Result<Summary> {
    let page = travel(app, (link.clone(), Wants::Page), deadlines.all, Library::read_link);
    let embed = async {
        let endpoint = app.library.known_oembed(link)?;
        travel(app, (endpoint, Wants::Oembed), deadlines.extra, Library::read_oembed).await.ok()
    };
    let (page, embed) = tokio::join!(page, embed);
    let mut summary = Summary::new(page, embed)?;
    if let Some(endpoint) = summary.discovered_oembed()
        && let Ok(embed) = travel(app, (endpoint, Wants::Oembed), deadlines.extra, Library::read_oembed).await
    {
        summary.add(embed);
    }
    illustrate(app, &mut summary, deadlines.all).await;
    Ok(summary)
}

/// Adds the first picture that shows well, or the largest of those that can be shown at all.
async fn illustrate(app: &Arc<App>, summary: &mut Summary, deadline: Deadline) {
    let mut best: Option<(_, Picture)> = None;
    for image in summary.candidates().into_iter().take(MAX_TRIED) {
        let Ok(link) = Link::parse(image.url.as_str()) else { continue };
        match travel(app, (link, Wants::Image), deadline, Library::read_image).await {
            Ok(picture) if picture.shows_well() => return summary.illustrate(image, picture),
            Ok(picture) => {
                if best.as_ref().is_none_or(|(_, best)| best.pixels() < picture.pixels()) {
                    best = Some((image, picture));
                }
            }
            Err(error) => {
                tracing::debug!(image = image.url.as_str(), ?error, "a picture is left out");
                if error.kind() == Kind::Internal {
                    // Our fault, not the picture's.
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

/// Goes where a link leads, over redirects, and makes something of what is there. Each hop takes a lane to its host, and a
/// thread only once it has one.
async fn travel<T: Send + 'static>(
    app: &Arc<App>,
    (link, wants): (Link, Wants),
    deadline: Deadline,
    land: fn(&Library, Landing) -> Result<T>,
) -> Result<T> {
    let mut trip = app.library.set_out(link, wants)?;
    let going = async {
        loop {
            let place = app.preview_lanes.enter(&trip.host().to_owned()).await?;
            let library = Arc::clone(&app.library);
            let hop = move || {
                // As long as the thread runs, whoever stops waiting.
                let _place = place;
                library.hop(&trip, deadline.ends, land)
            };
            match app.bridge.run(Pool::Previews, hop).await? {
                Step::Redirected(next) => trip = next,
                Step::Arrived(made) => return Ok(made),
            }
        }
    };
    let given_up = deadline.given_up.into();
    tokio::time::timeout_at(given_up, going).await.unwrap_or_else(|_elapsed| Err(late()))
}
