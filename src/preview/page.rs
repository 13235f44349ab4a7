//! From HTML to a [`Page`]: how far a page is read, and which of several values counts.
//!
//! Owns the order of precedence: Open Graph, Twitter cards, JSON-LD, `title` and other `meta` elements, the body. Refuses to know
//! how each of these is read.

use std::collections::BTreeMap;
use std::io::{self, Read};

use url::Url;

use super::charset::{self, DeclaredCharset};
use super::html::{self, HtmlHandler, Syntax, Tag, push_capped};
use super::image_ref::{self, ImageRef};
use super::json_ld::{self, JsonLd};
use super::meta_tags::{self, IMAGE_KEYS, MetaTags};
use super::utf8_reader::Utf8Reader;
use super::visible::VisibleContent;
use super::{Image, ImageSource, MAX_IMAGES, MAX_MORE, Page, oembed, text};

/// Describes the page at `url`, reading no more of `body` than that takes. A body that breaks off is described by what was
/// received.
///
/// # Errors
/// A read error before the first byte.
pub(crate) fn read_page(body: &mut dyn Read, content_type: Option<&str>, url: &Url) -> io::Result<Page> {
    let is_xhtml =
        content_type.is_some_and(|value| value.to_ascii_lowercase().contains("application/xhtml+xml"));
    let syntax = if is_xhtml { Syntax::Xhtml } else { Syntax::Html };
    let mut reader = PageReader::default();
    let mut body = Utf8Reader::new(body, content_type, url, reader.charset.clone())?;
    html::read(&mut body, syntax, &mut reader)?;
    reader.finish();
    Ok(reader.page(url))
}

/// The target of an immediate `Refresh` header of the page at `url`. It means the same as `http-equiv=refresh`.
pub(crate) fn refresh_target(url: &Url, header: &str) -> Option<Url> {
    absolute(url, meta_tags::refresh(header)?)
}

/// Collects what a page says while it is tokenized.
#[derive(Debug, Default)]
struct PageReader {
    meta: MetaTags,
    json_ld: JsonLd,
    body: VisibleContent,
    /// `title`
    title: Option<String>,
    /// What text is collected for.
    target: TextTarget,
    /// The text of a title or script so far.
    collected: Vec<u8>,
    charset: DeclaredCharset,
    /// Whether the head has ended.
    is_in_body: bool,
    /// Whether title, description and image are known.
    is_complete: bool,
    /// Up to where a complete page is read on, in case that its declared image cannot be used, bytes.
    end: Option<usize>,
}

/// What text is collected for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TextTarget {
    #[default]
    Body,
    Title,
    JsonLd,
}

impl HtmlHandler for PageReader {
    fn start(&mut self, tag: &Tag) {
        match tag.name() {
            "meta" => {
                self.meta.meta(tag);
                charset::note_meta(tag, &self.charset);
            }
            "link" => self.meta.link(tag),
            "base" => self.meta.base(tag),
            "title" if self.title.is_none() && !self.body.is_in_unrendered() => {
                self.target = TextTarget::Title;
            }
            "script" if tag.get("type").is_some_and(is_json_ld) => self.target = TextTarget::JsonLd,
            name => {
                // The tags of `head` and `body` may be left out, so the first element of a body ends the head.
                if !self.is_in_body && !IN_HEAD.contains(&name) && !self.body.is_in_unrendered() {
                    self.is_in_body = true;
                    self.check_complete();
                }
            }
        }
        self.body.start(tag);
    }

    fn end(&mut self, name: &str) {
        match (self.target, name) {
            (TextTarget::Title, "title") => {
                self.title = text::clean(&String::from_utf8_lossy(&self.collected), MAX_TITLE);
                self.stop_collecting();
            }
            (TextTarget::JsonLd, "script") => {
                self.json_ld.read(&self.collected);
                self.stop_collecting();
            }
            (_, "head") => self.is_in_body = true,
            (TextTarget::Body | TextTarget::Title | TextTarget::JsonLd, _) => {}
        }
        self.body.end(name);
        // Only where something new may be known, because the check costs a few look-ups.
        if matches!(name, "head" | "p" | "div" | "article" | "section" | "script" | "title") {
            self.check_complete();
        }
    }

    fn text(&mut self, piece: &[u8]) {
        match self.target {
            TextTarget::Body => self.body.text_piece(piece),
            TextTarget::Title => push_capped(&mut self.collected, piece, html::MAX_VALUE),
            TextTarget::JsonLd => push_capped(&mut self.collected, piece, json_ld::MAX_SCRIPT),
        }
    }

    fn is_done(&mut self, position: usize) -> bool {
        if !self.is_complete {
            return false;
        }
        // A declared image may turn out to be unusable. One that the page shows is then the next best.
        let end = *self.end.get_or_insert(position.saturating_add(READ_ON));
        self.body.images().has_large_main_image() || position >= end
    }
}

impl PageReader {
    /// Lets text go to the body again.
    fn stop_collecting(&mut self) {
        self.collected = Vec::new();
        self.target = TextTarget::Body;
    }

    /// Notes whether the page is complete: the head has ended, and title, description and image are known.
    fn check_complete(&mut self) {
        let has = |key| self.meta.get(key).is_some();
        let has_title = self.title.is_some() || has("og:title") || has("twitter:title");
        self.is_complete = self.is_in_body
            && has_title
            && (self.meta.has_image()
                || !self.json_ld.images().is_empty()
                || self.body.images().has_large_main_image())
            && (DESCRIPTIONS.iter().any(|key| has(key)) || self.body.has_text());
    }

    /// Handles the end of the document. A title without an end tag ends here, as in browsers.
    fn finish(&mut self) {
        if self.target == TextTarget::Title {
            self.title = text::line(&String::from_utf8_lossy(&self.collected), MAX_TITLE);
        }
        self.body.finish();
    }

    /// The page at `url`.
    fn page(&self, url: &Url) -> Page {
        // A relative `base` is relative to the URL of the page.
        let base = self.meta.base.as_deref().and_then(|base| absolute(url, base));
        let base = base.as_ref().unwrap_or(url);
        let declared = |key: &str, max| self.meta.get(key).and_then(|value| text::clean(value, max));
        let first = |keys: &[&str], max| keys.iter().find_map(|key| declared(key, max));
        let json = |value: Option<&str>, max| value.and_then(|value| text::clean_json(value, max));
        let canonical = [self.meta.get("og:url"), self.meta.canonical.as_deref()];
        let mut page = Page {
            title: first(&["og:title", "twitter:title"], MAX_TITLE)
                .or_else(|| json(self.json_ld.title(self.title.as_deref()), MAX_TITLE))
                .or_else(|| self.title.clone())
                .or_else(|| first(&TITLES, MAX_TITLE))
                .or_else(|| text::line(self.body.heading()?, MAX_TITLE)),
            description: first(&DESCRIPTIONS, MAX_DESCRIPTION)
                .or_else(|| json(self.json_ld.description(), MAX_DESCRIPTION))
                .or_else(|| text::sentences(self.body.text()?, MAX_BODY_TEXT)),
            site_name: first(&["og:site_name", "application-name"], MAX_NAME)
                .or_else(|| json(self.json_ld.site_name(), MAX_NAME))
                .or_else(|| declared("twitter:site", MAX_NAME)),
            // Lower case before the cut: a few letters become two in lower case.
            kind: self.meta.get("og:type").and_then(|kind| text::clean(&kind.to_lowercase(), MAX_NAME)),
            url: canonical.into_iter().flatten().find_map(|address| absolute(base, address)),
            images: self.images(base),
            oembed: self.meta.oembed.as_deref().and_then(|address| absolute(base, address)),
            refresh: self.refresh(base, url),
            more: self.more(base),
        };
        // Such pages are often empty for programs and rendered by scripts.
        if page.oembed.is_none() && (page.description.is_none() || page.images.is_empty()) {
            page.oembed = oembed::endpoint_by_path(url);
        }
        page
    }

    /// The target of an immediate refresh, if the page says nothing else. A title that is a URL or says that readers are
    /// redirected does not count.
    fn refresh(&self, base: &Url, url: &Url) -> Option<Url> {
        let target = absolute(base, self.meta.refresh.as_deref()?)?;
        let has = |key: &str| self.meta.get(key).is_some();
        let says_something = |title: &str| {
            let title = title.to_lowercase();
            !title.contains("://") && !REDIRECT_WORDS.iter().any(|word| title.contains(word))
        };
        let says_something = self.title.as_deref().is_some_and(says_something)
            || has("og:title")
            || has("twitter:title")
            || DESCRIPTIONS.iter().any(|key| has(key))
            || self.meta.has_image()
            || self.body.has_prose();
        // A page that refreshes itself, to another fragment perhaps, does not redirect.
        let without_fragment = |url: &Url| {
            let mut url = url.clone();
            url.set_fragment(None);
            url
        };
        (!says_something && without_fragment(&target) != without_fragment(url)).then_some(target)
    }

    /// The images, best first: declared ones, those of the body, icons.
    fn images(&self, base: &Url) -> Vec<Image> {
        let mut declared = self.meta.images.clone();
        declared.sort_by_key(size_penalty);
        for key in IMAGE_KEYS {
            let get = |key: String| self.meta.get(&key);
            if let Some(src) = self.meta.get(key) {
                let alt = get(format!("{key}:alt")).map(str::to_owned);
                declared.push(ImageRef { src: src.to_owned(), alt, ..ImageRef::default() });
            }
            // JSON-LD ranks behind the keys that are meant for previews.
            if key == "twitter:image0" {
                declared.extend_from_slice(self.json_ld.images());
            }
        }
        declared.extend_from_slice(&self.meta.link_images);
        let shown: Vec<ImageRef> = self.body.images().iter().cloned().collect();
        let mut images = Vec::new();
        for (source, candidates) in [
            (ImageSource::Declared, &declared),
            (ImageSource::Shown, &shown),
            (ImageSource::Icon, &self.meta.icons),
        ] {
            resolve(base, candidates, source, &mut images);
        }
        images
    }

    /// Further keys of the Open Graph vocabularies.
    fn more(&self, base: &Url) -> BTreeMap<String, String> {
        let own = ["og:title", "og:description", "og:site_name", "og:type", "og:url"];
        let mut more = BTreeMap::new();
        for (key, value) in self.meta.open_graph() {
            let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_-.".contains(&byte));
            // Keys become keys of the JSON answer, so an odd one is dropped rather than cleaned.
            if own.contains(&key) || !is_plain || key.len() > MAX_KEY {
                continue;
            }
            let value = if is_url(key) {
                absolute(base, value).map(String::from)
            } else {
                text::clean(value, MAX_TITLE)
            };
            if let Some(value) = value
                && more.len() < MAX_MORE
            {
                more.insert(key.to_owned(), value);
            }
        }
        more
    }
}

/// Adds those of `candidates` that can be fetched and shown to `images`, each URL once.
fn resolve(base: &Url, candidates: &[ImageRef], source: ImageSource, images: &mut Vec<Image>) {
    let room = images.len().saturating_add(source.max_images()).min(MAX_IMAGES);
    for candidate in candidates {
        // A `data:` URL is over the limit for URLs, which holds for those that are fetched.
        let is_embedded = image_ref::is_embedded(&candidate.src);
        let url = if is_embedded { Url::parse(&candidate.src).ok() } else { absolute(base, &candidate.src) };
        let Some(mut url) = url else { continue };
        url.set_fragment(None);
        // The same image may be declared without and shown with its size.
        if let Some(known) = images.iter_mut().find(|image| image.url == url) {
            known.width = known.width.or(candidate.width);
            known.height = known.height.or(candidate.height);
        } else if images.len() < room && image_ref::is_showable(&candidate.src) {
            let alt = candidate.alt.as_deref().and_then(|alt| text::clean(alt, MAX_TITLE));
            images.push(Image { url, width: candidate.width, height: candidate.height, alt, source });
        }
    }
}

/// By how much an image declared as small moves back. Among equals the order of the page stands, as Open Graph has it.
fn size_penalty(image: &ImageRef) -> u8 {
    let side = image.width.unwrap_or(u32::MAX).min(image.height.unwrap_or(u32::MAX));
    match side {
        0..150 => 2,
        150..300 => 1,
        _ => 0,
    }
}

/// The absolute `http` or `https` URL of a link in a page, without credentials.
pub(super) fn absolute(base: &Url, address: &str) -> Option<Url> {
    let address = address.trim();
    if address.is_empty() || address.len() > MAX_URL {
        return None;
    }
    let url = base.join(address).ok()?;
    let is_plain =
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    (is_plain && url.as_str().len() <= MAX_URL).then_some(url)
}

/// Whether the value of this key is a URL.
fn is_url(key: &str) -> bool {
    matches!(key, "og:video" | "og:audio" | "og:see_also")
        || key.ends_with(":url")
        || key.ends_with(":secure_url")
}

/// Whether a script is JSON-LD.
fn is_json_ld(media_type: &str) -> bool {
    media_type.trim().to_ascii_lowercase().starts_with("application/ld+json")
}

/// Elements that may stand in the head.
const IN_HEAD: [&str; 9] = ["html", "head", "title", "meta", "link", "base", "script", "style", "noscript"];

/// Keys with a description, best first.
const DESCRIPTIONS: [&str; 6] = [
    "og:description",
    "twitter:description",
    "description",
    "itemprop:description",
    "dc.description",
    "dcterms.description",
];

/// Keys with a title for pages that have no other, best first.
const TITLES: [&str; 6] =
    ["itemprop:headline", "itemprop:name", "title", "dc.title", "dcterms.title", "citation_title"];

/// Words in titles of pages that only redirect, in lower case.
const REDIRECT_WORDS: [&str; 5] = ["redirect", "loading…", "loading...", "please wait", "moved"];

/// How much further a complete page is read for a large image, bytes.
const READ_ON: usize = 64 * 1024;

/// Longest title, characters.
pub(super) const MAX_TITLE: usize = 200;

/// Longest declared description, characters.
pub(super) const MAX_DESCRIPTION: usize = 500;

/// Longest description from the body, characters.
const MAX_BODY_TEXT: usize = 300;

/// Longest name of a site, author or type, characters.
pub(super) const MAX_NAME: usize = 100;

/// Longest further key, bytes, as in Synapse.
const MAX_KEY: usize = 50;

/// Longest URL, bytes, as in Synapse twice over.
const MAX_URL: usize = 2048;
