//! A preview in the making: what the page says, what oEmbed adds, which picture stands for it.

use std::time::Duration;

use serde_json::{Map, Value};

use super::FAILURE_KEPT;
use super::read::{Picture, Reading};
use crate::error::Result;
use crate::preview::{HttpUrl, Image, ImageSource, OembedResponse, Page};

/// Pictures tried for one preview.
const MAX_TRIED: usize = 6;

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
    /// From what a link leads to, and what the oEmbed of a known site says of it, either of which may have failed. oEmbed
    /// comes first; the page adds to it unless the link led away from such sites, to a wall of consent for example.
    ///
    /// # Errors
    /// The page's, when there is nothing else.
    pub(crate) fn new(reading: Result<Reading>, embed: Option<OembedResponse>) -> Result<Self> {
        let Some(embed) = embed else {
            let Reading { page, picture, is_cut_off, .. } = reading?;
            let (alt, cache_age) = (None, Duration::ZERO);
            return Ok(Self { page, picture, alt, cache_age, is_incomplete: is_cut_off });
        };
        let (mut page, cache_age) = (embed.page, embed.cache_age.unwrap_or_default());
        let (mut picture, mut is_incomplete) = (None, false);
        if let Ok(reading) = reading {
            is_incomplete = reading.is_cut_off;
            if reading.is_of_known_site {
                page.fill_from(reading.page);
                picture = reading.picture;
            }
        }
        Ok(Self { page, picture, alt: None, cache_age, is_incomplete })
    }

    /// Where more can be had, when something is lacking.
    pub(crate) fn discovered_oembed(&self) -> Option<HttpUrl> {
        let Page { title, description, images, oembed, .. } = &self.page;
        let is_whole = title.is_some() && description.is_some() && !images.is_empty();
        if is_whole || self.picture.is_some() { None } else { HttpUrl::parse(oembed.as_ref()?.as_str()).ok() }
    }

    /// Adds what oEmbed says to what the page said.
    pub(crate) fn add(&mut self, embed: OembedResponse) {
        self.page.fill_from(embed.page);
        self.cache_age = embed.cache_age.unwrap_or_default();
    }

    /// Pictures to try to have stand for it, best first; none when one does. Where those that the page declares all fail, there
    /// is room for some that it shows, and for its icon.
    pub(crate) fn candidates(&self) -> Vec<Image> {
        if self.picture.is_some() {
            return Vec::new();
        }
        let images = &self.page.images;
        let of = |source| images.iter().filter(move |image| image.source == source);
        let icons = of(ImageSource::Icon).count().min(1);
        let shown = of(ImageSource::Shown).count().min(2);
        let reserved = icons.saturating_add(shown);
        let mut chosen: Vec<_> = of(ImageSource::Declared).take(MAX_TRIED.saturating_sub(reserved)).collect();
        let room = MAX_TRIED.saturating_sub(chosen.len());
        chosen.extend(of(ImageSource::Shown).take(room.saturating_sub(icons)));
        let room = MAX_TRIED.saturating_sub(chosen.len());
        chosen.extend(of(ImageSource::Icon).take(room));
        chosen.into_iter().cloned().collect()
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
        if self.is_incomplete { configured.min(FAILURE_KEPT) } else { configured.max(self.cache_age) }
    }

    /// The answer without an image.
    pub(crate) fn bare_answer(&self) -> String {
        Value::Object(self.keys()).to_string()
    }

    /// The answer's keys without an image.
    pub(super) fn keys(&self) -> Map<String, Value> {
        self.page.open_graph()
    }

    /// The answer's keys, but for the image's address, and the image.
    pub(super) fn into_keys(self) -> (Map<String, Value>, Option<Picture>) {
        let mut keys = self.keys();
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
    use super::*;
    use crate::error::{Error, Kind};

    fn page(title: &str) -> Page {
        Page { title: Some(title.to_owned()), ..Page::default() }
    }

    fn reading(description: &str, is_of_known_site: bool) -> Reading {
        let page = Page { description: Some(description.to_owned()), ..page("page") };
        Reading { page, candidate: None, picture: None, is_of_known_site, is_cut_off: false }
    }

    fn embed(hours: u64) -> OembedResponse {
        OembedResponse { page: page("embed"), cache_age: Some(Duration::from_hours(hours)) }
    }

    /// Title and description.
    fn said(summary: &Summary) -> (&str, Option<&str>) {
        (summary.page.title.as_deref().unwrap(), summary.page.description.as_deref())
    }

    #[test]
    fn oembed_comes_first_and_the_page_adds_to_it_unless_it_is_a_wall() {
        let summary = Summary::new(Ok(reading("about", true)), Some(embed(0))).unwrap();
        assert_eq!(said(&summary), ("embed", Some("about")));
        let summary = Summary::new(Ok(reading("Accept cookies?", false)), Some(embed(0))).unwrap();
        assert_eq!(said(&summary), ("embed", None));
        let summary = Summary::new(Ok(reading("about", false)), None).unwrap();
        assert_eq!(said(&summary), ("page", Some("about")));
    }

    #[test]
    fn a_page_that_fails_is_an_error_unless_oembed_speaks_for_it() {
        let failed = || Err(Error::new(Kind::PageFailed, "x"));
        assert!(Summary::new(failed(), None).is_err());
        assert_eq!(said(&Summary::new(failed(), Some(embed(0))).unwrap()), ("embed", None));
    }

    #[test]
    fn pictures_of_every_origin_have_their_turn() {
        let image = |source, number: usize| Image {
            url: format!("http://x.example/{source:?}{number}").parse().unwrap(),
            width: None,
            height: None,
            alt: None,
            source,
        };
        let chosen = |declared, shown, icons| {
            let images =
                [(ImageSource::Declared, declared), (ImageSource::Shown, shown), (ImageSource::Icon, icons)];
            let images =
                images.into_iter().flat_map(|(source, count)| (0..count).map(move |n| image(source, n)));
            let reading =
                Reading { page: Page { images: images.collect(), ..page("t") }, ..reading("d", false) };
            let summary = Summary::new(Ok(reading), None).unwrap();
            let chosen = summary.candidates();
            assert!(chosen.is_sorted_by_key(|image| image.source));
            [ImageSource::Declared, ImageSource::Shown, ImageSource::Icon]
                .map(|source| chosen.iter().filter(|image| image.source == source).count())
        };
        assert_eq!(chosen(8, 0, 0), [6, 0, 0]);
        assert_eq!(chosen(8, 5, 1), [3, 2, 1]);
        assert_eq!(chosen(1, 5, 1), [1, 4, 1]);
        assert_eq!(chosen(1, 1, 1), [1, 1, 1]);
        assert_eq!(chosen(0, 9, 0), [0, 6, 0]);
        assert_eq!(chosen(0, 0, 2), [0, 0, 2]);
    }

    #[test]
    fn a_site_can_lengthen_what_is_configured_and_what_is_incomplete_is_not_kept_for_long() {
        let hour = Duration::from_hours(1);
        let keep = |hours| Summary::new(Ok(reading("about", true)), Some(embed(hours))).unwrap();
        assert_eq!(keep(0).lifetime(hour), hour);
        assert_eq!(keep(3).lifetime(hour), Duration::from_hours(3));
        let mut late = keep(3);
        late.is_late();
        assert_eq!(late.lifetime(hour), FAILURE_KEPT);
        assert_eq!(late.lifetime(Duration::ZERO), Duration::ZERO);
    }
}
