//! From HTML to a [`Page`]: what is read, when it is enough, and which of several answers counts.
//!
//! Owns the order of precedence: Open Graph, Twitter's cards, JSON-LD, the document's own words, what the body shows.

use std::collections::BTreeMap;
use std::io::{self, Read};

use url::Url;

use super::body::Body;
use super::charset::{self, Heard, Utf8Body};
use super::declared::{self, Declared, IMAGE_KEYS, RawImage};
use super::html::{self, Listener, Syntax, Tag, push_capped};
use super::json_ld::{self, JsonLd};
use super::{Image, ImageSource, MAX_IMAGES, MAX_MORE, Page, oembed, text};

/// Reads as much of `body` as it takes to describe the page at `url`. A body that breaks off is described by what came;
/// an error is one before the first byte.
pub(crate) fn read_page(body: &mut dyn Read, content_type: Option<&str>, url: &Url) -> io::Result<Page> {
    let is_xhtml =
        content_type.is_some_and(|value| value.to_ascii_lowercase().contains("application/xhtml+xml"));
    let syntax = if is_xhtml { Syntax::Xhtml } else { Syntax::Html };
    let mut reader = PageReader::default();
    let body = Utf8Body::open(body, content_type, url, reader.charset.clone())?;
    html::read(body, syntax, &mut reader)?;
    reader.finish();
    Ok(reader.page(url))
}

/// Where a page at `url` leads at once by its `Refresh` header, which is the same as `http-equiv=refresh`.
pub(crate) fn refresh_target(url: &Url, header: &str) -> Option<Url> {
    absolute(url, declared::refresh(header)?)
}

/// Listens to a page.
#[derive(Debug, Default)]
struct PageReader {
    /// What it declares.
    declared: Declared,
    /// What it tells search engines.
    json_ld: JsonLd,
    /// What it shows.
    body: Body,
    /// `title`
    title: Option<String>,
    /// The text that is gathered.
    gathered: Vec<u8>,
    /// What it is gathered for.
    gathering: Gathering,
    /// The character set that it declares.
    charset: Heard,
    /// Whether the head is over.
    is_in_body: bool,
    /// Whether all is known, at least by what is declared.
    is_whole: bool,
    /// Where it is read to for the sake of a picture, should the declared one fail, bytes.
    end: Option<usize>,
}

/// Which text is gathered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gathering {
    /// That of the body.
    #[default]
    Body,
    /// The title.
    Title,
    /// A script of JSON-LD.
    JsonLd,
}

impl Listener for PageReader {
    fn start(&mut self, tag: &Tag) {
        match tag.name() {
            "meta" => {
                self.declared.meta(tag);
                charset::hear(tag, &self.charset);
            }
            "link" => self.declared.link(tag),
            "base" => self.declared.base(tag),
            "title" if self.title.is_none() && !self.body.is_apart() => self.gathering = Gathering::Title,
            "script" if tag.get("type").is_some_and(is_json_ld) => self.gathering = Gathering::JsonLd,
            name => {
                if !self.is_in_body && !IN_HEAD.contains(&name) && !self.body.is_apart() {
                    self.is_in_body = true;
                    self.settle();
                }
            }
        }
        self.body.start(tag);
    }

    fn end(&mut self, name: &str) {
        match (self.gathering, name) {
            (Gathering::Title, "title") => {
                self.title = text::clean(&String::from_utf8_lossy(&self.gathered), MAX_TITLE);
                self.stop_gathering();
            }
            (Gathering::JsonLd, "script") => {
                self.json_ld.read(&self.gathered);
                self.stop_gathering();
            }
            (_, "head") => self.is_in_body = true,
            (Gathering::Body | Gathering::Title | Gathering::JsonLd, _) => {}
        }
        self.body.end(name);
        if matches!(name, "head" | "p" | "div" | "article" | "section" | "script" | "title") {
            self.settle();
        }
    }

    fn text(&mut self, piece: &[u8]) {
        match self.gathering {
            Gathering::Body => self.body.text_piece(piece),
            Gathering::Title => push_capped(&mut self.gathered, piece, html::MAX_VALUE),
            Gathering::JsonLd => push_capped(&mut self.gathered, piece, json_ld::MAX_SCRIPT),
        }
    }

    fn is_done(&mut self, position: usize) -> bool {
        if !self.is_whole {
            return false;
        }
        let end = *self.end.get_or_insert(position.saturating_add(READ_ON));
        self.body.has_image() || position >= end
    }
}

impl PageReader {
    /// Goes back to the text of the body.
    fn stop_gathering(&mut self) {
        self.gathered = Vec::new();
        self.gathering = Gathering::Body;
    }

    /// Decides whether all is known: the head is over, and title, description and picture are there.
    fn settle(&mut self) {
        let has = |key| self.declared.get(key).is_some();
        let has_title = self.title.is_some() || has("og:title") || has("twitter:title");
        self.is_whole = self.is_in_body
            && has_title
            && (self.declared.has_image() || !self.json_ld.images().is_empty() || self.body.has_image())
            && (DESCRIPTIONS.iter().any(|key| has(key)) || self.body.has_text());
    }

    /// The end of the document. A title that was never closed is what there is, as in browsers.
    fn finish(&mut self) {
        if self.gathering == Gathering::Title {
            self.title = text::line(&String::from_utf8_lossy(&self.gathered), MAX_TITLE);
        }
        self.body.finish();
    }

    /// The page.
    fn page(&self, url: &Url) -> Page {
        let base = self.declared.base.as_deref().and_then(|base| absolute(url, base));
        let base = base.as_ref().unwrap_or(url);
        let declared = |key: &str, max| self.declared.get(key).and_then(|value| text::clean(value, max));
        let first = |keys: &[&str], max| keys.iter().find_map(|key| declared(key, max));
        let json = |value: Option<&str>, max| value.and_then(|value| text::clean_json(value, max));
        let canonical = [self.declared.get("og:url"), self.declared.canonical.as_deref()];
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
            // Lower case first: a few letters become two.
            kind: self.declared.get("og:type").and_then(|kind| text::clean(&kind.to_lowercase(), MAX_NAME)),
            url: canonical.into_iter().flatten().find_map(|address| absolute(base, address)),
            images: self.images(base),
            oembed: self.declared.oembed.as_deref().and_then(|address| absolute(base, address)),
            refresh: self.refresh(base, url),
            more: self.more(base),
        };
        if page.oembed.is_none() && (page.description.is_none() || page.images.is_empty()) {
            page.oembed = oembed::on_any_host(url);
        }
        page
    }

    /// Where the page sends its readers at once, if it says nothing of itself: its title is an address or says no more than
    /// that it leads elsewhere.
    fn refresh(&self, base: &Url, url: &Url) -> Option<Url> {
        let target = absolute(base, self.declared.refresh.as_deref()?)?;
        let has = |key: &str| self.declared.get(key).is_some();
        let is_title = |title: &str| {
            let title = title.to_lowercase();
            !title.contains("://") && !LEADING.iter().any(|word| title.contains(word))
        };
        let is_title = self.title.as_deref().is_some_and(is_title);
        let says_something = is_title
            || has("og:title")
            || has("twitter:title")
            || DESCRIPTIONS.iter().any(|key| has(key))
            || self.declared.has_image()
            || self.body.has_prose();
        let whole = |url: &Url| {
            let mut url = url.clone();
            url.set_fragment(None);
            url
        };
        (!says_something && whole(&target) != whole(url)).then_some(target)
    }

    /// The pictures, best first: those declared, those shown, icons.
    fn images(&self, base: &Url) -> Vec<Image> {
        let mut declared = self.declared.images.clone();
        declared.sort_by_key(fitness);
        for key in IMAGE_KEYS {
            let get = |key: String| self.declared.get(&key);
            if let Some(src) = self.declared.get(key) {
                let alt = get(format!("{key}:alt")).map(str::to_owned);
                declared.push(RawImage { src: src.to_owned(), alt, ..RawImage::default() });
            }
            if key == "twitter:image0" {
                declared.extend_from_slice(self.json_ld.images());
            }
        }
        declared.extend_from_slice(&self.declared.link_images);
        let shown: Vec<RawImage> = self.body.images().cloned().collect();
        let mut images = Vec::new();
        for (source, candidates) in [
            (ImageSource::Declared, &declared),
            (ImageSource::Shown, &shown),
            (ImageSource::Icon, &self.declared.icons),
        ] {
            resolve(base, candidates, source, &mut images);
        }
        images
    }

    /// The further keys.
    fn more(&self, base: &Url) -> BTreeMap<String, String> {
        let own = ["og:title", "og:description", "og:site_name", "og:type", "og:url"];
        let mut more = BTreeMap::new();
        for (key, value) in self.declared.open_graph() {
            let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_-.".contains(&byte));
            if own.contains(&key) || !is_plain || key.len() > MAX_KEY {
                continue;
            }
            let value = if is_address(key) {
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

/// Adds candidates as pictures that can be fetched and shown, each once.
fn resolve(base: &Url, candidates: &[RawImage], source: ImageSource, images: &mut Vec<Image>) {
    let room = images.len().saturating_add(source.most()).min(MAX_IMAGES);
    for raw in candidates {
        let is_embedded = declared::is_embedded(&raw.src);
        let url = if is_embedded { Url::parse(&raw.src).ok() } else { absolute(base, &raw.src) };
        let Some(mut url) = url else { continue };
        url.set_fragment(None);
        if let Some(known) = images.iter_mut().find(|image| image.url == url) {
            known.width = known.width.or(raw.width);
            known.height = known.height.or(raw.height);
        } else if images.len() < room && raw.is_showable() {
            let alt = raw.alt.as_deref().and_then(|alt| text::clean(alt, MAX_TITLE));
            images.push(Image { url, width: raw.width, height: raw.height, alt, source });
        }
    }
}

/// How fit a declared image is to be the first: 0 unless it says that it is small. Among equals the page's order stands,
/// as Open Graph has it.
fn fitness(image: &RawImage) -> u8 {
    let side = image.width.unwrap_or(u32::MAX).min(image.height.unwrap_or(u32::MAX));
    match side {
        0..150 => 2,
        150..300 => 1,
        _ => 0,
    }
}

/// An address in a page as an absolute `http` or `https` URL.
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

/// Whether the value of a key is a URL.
fn is_address(key: &str) -> bool {
    matches!(key, "og:video" | "og:audio" | "og:see_also")
        || key.ends_with(":url")
        || key.ends_with(":secure_url")
}

/// Whether a script is JSON-LD.
fn is_json_ld(media_type: &str) -> bool {
    media_type.trim().to_ascii_lowercase().starts_with("application/ld+json")
}

/// The elements of a head.
const IN_HEAD: [&str; 9] = ["html", "head", "title", "meta", "link", "base", "script", "style", "noscript"];

/// Where a description is declared, best first.
const DESCRIPTIONS: [&str; 6] = [
    "og:description",
    "twitter:description",
    "description",
    "itemprop:description",
    "dc.description",
    "dcterms.description",
];

/// Where a title is declared besides, best first.
const TITLES: [&str; 6] =
    ["itemprop:headline", "itemprop:name", "title", "dc.title", "dcterms.title", "citation_title"];

/// Words in titles of pages that only lead elsewhere.
const LEADING: [&str; 5] = ["redirect", "loading…", "loading...", "please wait", "moved"];

/// How much further a page is read for a picture that it shows, once all is declared, bytes.
const READ_ON: usize = 64 * 1024;

/// Longest title, characters.
pub(super) const MAX_TITLE: usize = 200;

/// Longest declared description, characters.
pub(super) const MAX_DESCRIPTION: usize = 500;

/// Longest description taken from the body, characters.
const MAX_BODY_TEXT: usize = 300;

/// Longest name of a site or a type, characters.
pub(super) const MAX_NAME: usize = 100;

/// Longest further key, bytes, as in Synapse.
const MAX_KEY: usize = 50;

/// Longest URL, bytes, as in Synapse twice over.
const MAX_URL: usize = 2048;
