//! A preview in the making: what the page says, what oEmbed adds, which picture stands for it.

use std::time::Duration;

use serde_json::{Map, Value};

use super::FAILURE_KEPT;
use super::read::{Picture, Reading};
use crate::error::Result;
use crate::preview::{Embed, Image, Link, Page};

/// Longest time that a site's oEmbed answer can have its preview kept.
const MAX_CACHE_AGE: Duration = Duration::from_hours(24);

/// What is known of a link so far.
#[derive(Debug)]
pub(crate) struct Summary {
    /// What is said of it.
    page: Page,
    /// What stands for it.
    picture: Option<Picture>,
    /// `og:image:alt` of that.
    alt: Option<String>,
    /// How long the site wants it kept.
    cache_age: Duration,
    /// Whether a part of it was late.
    is_incomplete: bool,
}

impl Summary {
    /// From what `asked` leads to, and what its site's oEmbed says of it, either of which may have failed.
    ///
    /// # Errors
    /// The page's, when there is nothing else.
    pub(crate) fn new(asked: &Link, reading: Result<Reading>, embed: Option<Embed>) -> Result<Self> {
        let reading = match (reading, &embed) {
            (Ok(reading), _) => Some(reading),
            (Err(_), Some(_)) => None,
            (Err(error), None) => return Err(error),
        };
        let cache_age = embed.as_ref().and_then(|embed| embed.cache_age).unwrap_or_default();
        let said = embed.map(|embed| embed.page).unwrap_or_default();
        let Some(Reading { url, mut page, picture, is_cut_off }) = reading else {
            return Ok(Self { page: said, picture: None, alt: None, cache_age, is_incomplete: true });
        };
        if url.host() == asked.url().host() {
            page.fill_from(said);
        } else {
            // A page elsewhere may ask for consent or a login; oEmbed speaks of what was asked for.
            let elsewhere = std::mem::replace(&mut page, said);
            page.fill_from(elsewhere);
        }
        Ok(Self { page, picture, alt: None, cache_age, is_incomplete: is_cut_off })
    }

    /// Where more can be had, when something is lacking.
    pub(crate) fn discovered_oembed(&self) -> Option<Link> {
        let Page { title, description, images, oembed, .. } = &self.page;
        let is_whole = title.is_some() && description.is_some() && !images.is_empty();
        if is_whole || self.picture.is_some() { None } else { Link::parse(oembed.as_ref()?.as_str()).ok() }
    }

    /// Adds what oEmbed says to what the page said.
    pub(crate) fn add(&mut self, embed: Embed) {
        self.page.fill_from(embed.page);
        self.cache_age = embed.cache_age.unwrap_or_default();
    }

    /// Pictures that may stand for it, best first; none when one does.
    pub(crate) fn candidates(&self) -> Vec<Image> {
        if self.picture.is_some() { Vec::new() } else { self.page.images.clone() }
    }

    /// Has a picture stand for it.
    pub(crate) fn illustrate(&mut self, image: Image, picture: Picture) {
        self.alt = image.alt;
        self.picture = Some(picture);
    }

    /// Notes that a part of it is late.
    pub(crate) fn is_late(&mut self) {
        self.is_incomplete = true;
    }

    /// How long to keep it: as long as configured, longer if the site wants it, and not for long when a part is missing that
    /// may be there the next time.
    pub(super) fn lifetime(&self, configured: Duration) -> Duration {
        if self.is_incomplete {
            configured.min(FAILURE_KEPT)
        } else {
            configured.max(self.cache_age.min(MAX_CACHE_AGE))
        }
    }

    /// The answer's keys, but for the image's address, and the image.
    pub(super) fn into_keys(self) -> (Map<String, Value>, Option<Picture>) {
        let mut keys = self.page.open_graph();
        if let Some(picture) = &self.picture {
            let mut insert = |key: &str, value: Value| keys.insert(key.to_owned(), value);
            insert("og:image:type", picture.content_type.into());
            insert("og:image:width", picture.width.into());
            insert("og:image:height", picture.height.into());
            insert("matrix:image:size", picture.size().into());
            if let Some(alt) = self.alt {
                insert("og:image:alt", alt.into());
            }
        }
        (keys, self.picture)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::error::{Error, Kind};

    fn link() -> Link {
        Link::parse("https://a.org/x").unwrap()
    }

    fn page(title: &str) -> Page {
        Page { title: Some(title.to_owned()), ..Page::default() }
    }

    fn reading(url: &str, title: &str) -> Reading {
        Reading { url: Url::parse(url).unwrap(), page: page(title), picture: None, is_cut_off: false }
    }

    fn embed(title: &str, hours: u64) -> Embed {
        Embed { page: page(title), cache_age: Some(Duration::from_hours(hours)) }
    }

    fn title(summary: &Summary) -> &str {
        summary.page.title.as_deref().unwrap()
    }

    #[test]
    fn oembed_fills_what_the_page_lacks_and_wins_where_the_link_leads_elsewhere() {
        let summary =
            Summary::new(&link(), Ok(reading("https://a.org/y", "page")), Some(embed("embed", 0))).unwrap();
        assert_eq!(title(&summary), "page");
        let summary =
            Summary::new(&link(), Ok(reading("https://consent.org/", "Accept?")), Some(embed("embed", 0)));
        assert_eq!(title(&summary.unwrap()), "embed");
        let summary = Summary::new(&link(), Ok(reading("https://b.org/", "page")), None);
        assert_eq!(title(&summary.unwrap()), "page");
    }

    #[test]
    fn a_page_that_fails_is_an_error_unless_oembed_speaks_for_it() {
        let failed = || Err(Error::new(Kind::PageFailed, "x"));
        assert!(Summary::new(&link(), failed(), None).is_err());
        assert_eq!(title(&Summary::new(&link(), failed(), Some(embed("embed", 0))).unwrap()), "embed");
    }

    #[test]
    fn a_site_can_lengthen_what_is_configured_to_a_day_and_what_is_incomplete_is_not_kept_for_long() {
        let hour = Duration::from_hours(1);
        let keep = |hours| {
            Summary::new(&link(), Ok(reading("https://a.org/", "p")), Some(embed("e", hours))).unwrap()
        };
        assert_eq!(keep(0).lifetime(hour), hour);
        assert_eq!(keep(3).lifetime(hour), Duration::from_hours(3));
        assert_eq!(keep(300).lifetime(hour), Duration::from_hours(24));
        let mut late = keep(3);
        late.is_late();
        assert_eq!(late.lifetime(hour), FAILURE_KEPT);
        assert_eq!(late.lifetime(Duration::ZERO), Duration::ZERO);
    }
}
