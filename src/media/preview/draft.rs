//! A preview while it is made: what the page says, what oEmbed adds, which image stands for it. No I/O.

use std::time::Duration;

use serde_json::{Map, Value};

use super::kept::FAILURE_KEPT;
use super::read::{LinkTarget, VerifiedImage};
use crate::error::Result;
use crate::preview::{HttpUrl, Image, ImageSource, OembedResponse, Page};

/// Images tried for one preview.
const MAX_TRIED: usize = 6;

/// What is known of a link so far.
#[derive(Debug)]
pub(super) struct PreviewDraft {
    page: Page,
    image: Option<VerifiedImage>,
    /// `og:image:alt` of the image.
    alt: Option<String>,
    /// How long the site wants the preview kept.
    cache_age: Duration,
    /// Whether a part is missing that may be there the next time.
    is_incomplete: bool,
}

impl PreviewDraft {
    /// From what a link leads to, and what the oEmbed description of a known site says of it; either may have failed. The description
    /// comes first; the page adds to it unless the link led away from such sites, to a wall of consent for example.
    ///
    /// # Errors
    /// The page's, when there is nothing else.
    pub(super) fn new(target: Result<LinkTarget>, embed: Option<OembedResponse>) -> Result<Self> {
        let Some(embed) = embed else {
            let LinkTarget { page, image, is_cut_off, .. } = target?;
            let (alt, cache_age) = (None, Duration::ZERO);
            return Ok(Self { page, image, alt, cache_age, is_incomplete: is_cut_off });
        };
        let (mut page, cache_age) = (embed.page, embed.cache_age.unwrap_or_default());
        let (mut image, mut is_incomplete) = (None, false);
        if let Ok(target) = target {
            is_incomplete = target.is_cut_off;
            if target.is_of_known_site {
                page.fill_from(target.page);
                image = target.image;
            }
        }
        Ok(Self { page, image, alt: None, cache_age, is_incomplete })
    }

    /// Where the page says that an oEmbed description is, when something is missing without it.
    pub(super) fn discovered_oembed(&self) -> Option<HttpUrl> {
        let Page { title, description, images, oembed, .. } = &self.page;
        let is_whole = title.is_some() && description.is_some() && !images.is_empty();
        if is_whole || self.image.is_some() { None } else { HttpUrl::parse(oembed.as_ref()?.as_str()).ok() }
    }

    /// Adds a description to what the page says.
    pub(super) fn add(&mut self, embed: OembedResponse) {
        self.page.fill_from(embed.page);
        self.cache_age = embed.cache_age.unwrap_or_default();
    }

    /// Images to try, best first; none when there is one. Where those that the page declares all fail, some that it shows and its icon
    /// get their turn.
    pub(super) fn candidates(&self) -> Vec<Image> {
        if self.image.is_some() {
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

    /// Takes the image that stands for the link.
    pub(super) fn set_image(&mut self, named: Image, fetched: VerifiedImage) {
        self.alt = named.alt;
        self.image = Some(fetched);
    }

    /// Notes that a part is missing that may be there the next time.
    pub(super) fn mark_incomplete(&mut self) {
        self.is_incomplete = true;
    }

    /// How long to keep it: as long as configured, longer if the site wants it, and not for long when it is incomplete.
    pub(super) fn lifetime(&self, configured: Duration) -> Duration {
        if self.is_incomplete { configured.min(FAILURE_KEPT) } else { configured.max(self.cache_age) }
    }

    /// The JSON of the answer without an image.
    pub(super) fn answer_without_image(&self) -> String {
        Value::Object(self.keys()).to_string()
    }

    /// The answer's keys without those of an image.
    pub(super) fn keys(&self) -> Map<String, Value> {
        self.page.open_graph()
    }

    /// The answer's keys, but for the image's address, and the image.
    pub(super) fn into_keys(self) -> (Map<String, Value>, Option<VerifiedImage>) {
        let mut keys = self.keys();
        if let Some(image) = &self.image {
            let mut insert = |key: &str, value: Value| keys.insert(key.to_owned(), value);
            insert("og:image:type", image.content_type.into());
            insert("og:image:width", image.width.into());
            insert("og:image:height", image.height.into());
            insert("matrix:image:size", image.size().into());
            if let Some(alt) = self.alt {
                insert("og:image:alt", alt.into());
            }
        }
        (keys, self.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    fn page(title: &str) -> Page {
        Page { title: Some(title.to_owned()), ..Page::default() }
    }

    fn target(description: &str, is_of_known_site: bool) -> LinkTarget {
        let page = Page { description: Some(description.to_owned()), ..page("page") };
        LinkTarget { page, unverified: None, image: None, is_of_known_site, is_cut_off: false }
    }

    fn embed(hours: u64) -> OembedResponse {
        OembedResponse { page: page("embed"), cache_age: Some(Duration::from_hours(hours)) }
    }

    /// Title and description.
    fn said(draft: &PreviewDraft) -> (&str, Option<&str>) {
        (draft.page.title.as_deref().unwrap(), draft.page.description.as_deref())
    }

    #[test]
    fn oembed_comes_first_and_the_page_adds_to_it_unless_it_is_a_wall() {
        let draft = PreviewDraft::new(Ok(target("about", true)), Some(embed(0))).unwrap();
        assert_eq!(said(&draft), ("embed", Some("about")));
        let draft = PreviewDraft::new(Ok(target("Accept cookies?", false)), Some(embed(0))).unwrap();
        assert_eq!(said(&draft), ("embed", None));
        let draft = PreviewDraft::new(Ok(target("about", false)), None).unwrap();
        assert_eq!(said(&draft), ("page", Some("about")));
    }

    #[test]
    fn a_page_that_fails_is_an_error_unless_oembed_speaks_for_it() {
        let failed = || Err(Error::new(Kind::PageFailed, "x"));
        assert!(PreviewDraft::new(failed(), None).is_err());
        assert_eq!(said(&PreviewDraft::new(failed(), Some(embed(0))).unwrap()), ("embed", None));
    }

    #[test]
    fn images_of_every_source_have_their_turn() {
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
            let target =
                LinkTarget { page: Page { images: images.collect(), ..page("t") }, ..target("d", false) };
            let draft = PreviewDraft::new(Ok(target), None).unwrap();
            let chosen = draft.candidates();
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
        let keep = |hours| PreviewDraft::new(Ok(target("about", true)), Some(embed(hours))).unwrap();
        assert_eq!(keep(0).lifetime(hour), hour);
        assert_eq!(keep(3).lifetime(hour), Duration::from_hours(3));
        let mut late = keep(3);
        late.mark_incomplete();
        assert_eq!(late.lifetime(hour), FAILURE_KEPT);
        assert_eq!(late.lifetime(Duration::ZERO), Duration::ZERO);
    }
}
