//! What a page declares about itself in `meta`, `link` and `base` elements.
//!
//! Owns the vocabulary: [Open Graph](https://ogp.me/), Twitter cards, Dublin Core, `name`, `itemprop`, `rel`. Values are kept as
//! written; [`super::page`] chooses among them and cleans them.

use std::collections::BTreeMap;

use super::html::{MAX_VALUE, Tag};
use super::image_ref::{ImageRef, is_embedded, is_showable, pixels};

/// The declarations of a page.
#[derive(Debug, Default)]
pub(super) struct MetaTags {
    /// The first non-empty value of each key. Keys are in lower case; those of `itemprop` begin with `itemprop:`.
    values: BTreeMap<String, String>,
    /// `og:image`, in document order.
    pub(super) images: Vec<ImageRef>,
    /// `link rel=image_src`, and images of `link itemprop`.
    pub(super) link_images: Vec<ImageRef>,
    /// `link rel=icon` and the like, largest first.
    pub(super) icons: Vec<ImageRef>,
    /// `base href`
    pub(super) base: Option<String>,
    /// `link rel=canonical`
    pub(super) canonical: Option<String>,
    /// `link rel=alternate` to an oEmbed description in JSON.
    pub(super) oembed: Option<String>,
    /// Target of an immediate `http-equiv=refresh`.
    pub(super) refresh: Option<String>,
    /// Whether an image in a `data:` URL has been kept.
    has_embedded: bool,
}

impl MetaTags {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Keys and values of the Open Graph vocabularies.
    pub(super) fn open_graph(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_open_graph = |key: &&String| VOCABULARIES.iter().any(|prefix| key.starts_with(prefix));
        self.values
            .iter()
            .filter(move |(key, _)| is_open_graph(key))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether an image is declared that can be shown.
    pub(super) fn has_image(&self) -> bool {
        self.images.iter().chain(&self.link_images).any(|image| is_showable(&image.src))
            || IMAGE_KEYS.iter().any(|key| self.get(key).is_some_and(is_showable))
    }

    /// Handles a `meta` element.
    pub(super) fn meta(&mut self, tag: &Tag) {
        let Some(content) = tag.get("content").map(str::trim).filter(|content| !content.is_empty()) else {
            return;
        };
        if tag.get("http-equiv").is_some_and(|name| name.trim().eq_ignore_ascii_case("refresh")) {
            self.refresh = self.refresh.take().or_else(|| refresh(content).map(str::to_owned));
        }
        // One embedded image at most: its bytes are in memory.
        if content.len() > MAX_VALUE && std::mem::replace(&mut self.has_embedded, true) {
            return;
        }
        // `property` (RDFa) and `itemprop` (microdata) are lists of names.
        let words = |name| tag.get(name).unwrap_or_default().split_ascii_whitespace();
        let properties = words("property").map(str::to_ascii_lowercase);
        let name = tag.get("name").map(|name| name.trim().to_ascii_lowercase());
        let items = words("itemprop").map(|name| format!("itemprop:{}", name.to_ascii_lowercase()));
        let mut known: Vec<String> = Vec::new();
        for key in properties.chain(name).chain(items).take(MAX_KEYS) {
            if !known.contains(&key) {
                self.value(&key, content);
                known.push(key);
            }
        }
    }

    /// Keeps the value of a known key.
    fn value(&mut self, key: &str, content: &str) {
        if let Some(property) = key.strip_prefix("og:image") {
            self.image_property(property, content);
            return;
        }
        // Dublin Core is written with a dot in `name` and with a colon in RDFa.
        let dotted = ["dc", "dcterms"]
            .iter()
            .find_map(|prefix| Some(format!("{prefix}.{}", key.strip_prefix(prefix)?.strip_prefix(':')?)));
        let key = dotted.as_deref().unwrap_or(key);
        let is_wanted =
            NAMES.binary_search(&key).is_ok() || VOCABULARIES.iter().any(|prefix| key.starts_with(prefix));
        let is_wanted = is_wanted || key.starts_with("twitter:") || key.starts_with("itemprop:");
        let is_wanted = is_wanted && (content.len() <= MAX_VALUE || IMAGE_KEYS.contains(&key));
        // The first value counts, so that the body of a page cannot override its head.
        if is_wanted && self.values.len() < MAX_VALUES && !self.values.contains_key(key) {
            self.values.insert(key.to_owned(), content.to_owned());
        }
    }

    /// Handles `og:image` and its structured properties (`:width`, …), which belong to the image before them
    /// ([Open Graph, structured properties](https://ogp.me/#structured)).
    fn image_property(&mut self, property: &str, content: &str) {
        // `og:image` and `og:image:url` mean the same. Many pages write both, with one value.
        let is_new = match (property, self.images.last()) {
            ("", _) => true,
            (":url" | ":secure_url", last) => {
                last.is_none_or(|last| property == ":url" && last.src != content)
            }
            (_, last) => last.is_none(),
        };
        // Some pages write the size before the URL.
        let has_no_url = self.images.last().is_some_and(|last| last.src.is_empty());
        if is_new && !has_no_url && self.images.len() < MAX_IMAGES {
            self.images.push(ImageRef::default());
        }
        let Some(last) = self.images.last_mut() else { return };
        match property {
            "" | ":url" if is_new || has_no_url => content.clone_into(&mut last.src),
            ":secure_url" if content.starts_with("https:") || last.src.is_empty() => {
                content.clone_into(&mut last.src);
            }
            ":width" => last.width = last.width.or_else(|| pixels(content)),
            ":height" => last.height = last.height.or_else(|| pixels(content)),
            ":alt" if last.alt.is_none() => last.alt = Some(content.to_owned()),
            _ => {}
        }
    }

    /// Handles a `link` element.
    pub(super) fn link(&mut self, tag: &Tag) {
        let Some(href) = tag.get("href").map(str::trim).filter(|href| !href.is_empty()) else { return };
        let rel = tag.get("rel").unwrap_or_default().to_ascii_lowercase();
        let kind = tag.get("type").unwrap_or_default().trim().to_ascii_lowercase();
        for word in rel.split_ascii_whitespace() {
            match word {
                "canonical" if self.canonical.is_none() => self.canonical = Some(href.to_owned()),
                "alternate" | "alternative" if is_oembed(&kind) && self.oembed.is_none() => {
                    self.oembed = Some(href.to_owned());
                }
                "image_src" => {
                    push(&mut self.link_images, ImageRef { src: href.to_owned(), ..ImageRef::default() });
                }
                "icon" | "apple-touch-icon" | "apple-touch-icon-precomposed" => self.icon(word, tag, href),
                _ => {}
            }
        }
        if tag.get("itemprop").is_some_and(|name| matches!(name.trim(), "image" | "thumbnailUrl")) {
            push(&mut self.link_images, ImageRef { src: href.to_owned(), ..ImageRef::default() });
        }
    }

    /// Handles an icon. Those of known size come first, largest first.
    fn icon(&mut self, rel: &str, tag: &Tag, href: &str) {
        let kind = tag.get("type").unwrap_or_default().to_ascii_lowercase();
        let sizes = tag.get("sizes").unwrap_or_default().to_ascii_lowercase();
        let side = sizes.split_ascii_whitespace().filter_map(|size| pixels(size.split('x').next()?)).max();
        // Nothing is assumed of a favicon without `sizes`. It sorts behind all of known size.
        let side = side.or((rel != "icon").then_some(DEFAULT_TOUCH_ICON));
        let is_small = side.is_some_and(|side| side < MIN_ICON);
        let is_unsupported = UNSUPPORTED_ICONS.iter().any(|format| kind.contains(format));
        let icon = ImageRef { src: href.to_owned(), width: side, height: side, alt: None };
        if !is_small && !is_unsupported && is_supported_icon(&icon.src) {
            let at = self.icons.partition_point(|known| known.width >= side);
            self.icons.insert(at, icon);
            self.icons.truncate(MAX_IMAGES);
        }
    }

    /// Handles a `base` element. The first counts.
    pub(super) fn base(&mut self, tag: &Tag) {
        if self.base.is_none() {
            self.base = tag.get("href").map(str::to_owned);
        }
    }
}

/// Whether an icon may be one that can be decoded: neither ICO nor SVG.
fn is_supported_icon(src: &str) -> bool {
    let path = src.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let is_ico = !is_embedded(src) && matches!(path.rsplit_once('.'), Some((_, "ico")));
    is_showable(src) && !is_ico
}

/// The target of `http-equiv=refresh`, if it applies within a second ([WHATWG, shared declarative
/// refresh](https://html.spec.whatwg.org/multipage/semantics.html#shared-declarative-refresh-steps)).
pub(super) fn refresh(content: &str) -> Option<&str> {
    let content = content.trim_start();
    let digits = content.find(|c: char| !c.is_ascii_digit()).unwrap_or(content.len());
    let (seconds, rest) = content.split_at_checked(digits)?;
    let is_immediate = seconds.is_empty() || seconds.parse::<u32>().is_ok_and(|seconds| seconds <= 1);
    if !is_immediate || (seconds.is_empty() && !rest.starts_with('.')) {
        return None;
    }
    // Fractions of a second are ignored, as in browsers.
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let rest = rest.trim_start().trim_start_matches([';', ',']).trim_start();
    let named = rest.get(..3).filter(|name| name.eq_ignore_ascii_case("url")).and_then(|_| rest.get(3..));
    let named = named.and_then(|rest| rest.trim_start().strip_prefix('='));
    let target = named.unwrap_or(rest).trim();
    // An unclosed quote ends at the end of the value.
    let quoted = ['"', '\''].into_iter().find_map(|quote| target.strip_prefix(quote)?.split(quote).next());
    Some(quoted.unwrap_or(target)).filter(|target| !target.is_empty())
}

/// Whether a media type is that of an oEmbed description in JSON.
fn is_oembed(media_type: &str) -> bool {
    matches!(media_type, "application/json+oembed" | "text/json+oembed")
}

/// Adds an image unless there are [`MAX_IMAGES`].
fn push(images: &mut Vec<ImageRef>, image: ImageRef) {
    if images.len() < MAX_IMAGES {
        images.push(image);
    }
}

/// Prefixes of the Open Graph vocabularies.
const VOCABULARIES: [&str; 7] = ["og:", "article:", "profile:", "book:", "video:", "music:", "product:"];

/// Keys without such a prefix that are kept, sorted.
const NAMES: [&str; 12] = [
    "application-name",
    "author",
    "citation_title",
    "dc.description",
    "dc.title",
    "dcterms.description",
    "dcterms.title",
    "description",
    "image",
    "thumbnail",
    "thumbnailurl",
    "title",
];

/// Most keys taken from one element.
const MAX_KEYS: usize = 16;

/// Keys whose values are images, best first.
pub(super) const IMAGE_KEYS: [&str; 8] = [
    "twitter:image",
    "twitter:image:src",
    "twitter:image0",
    "itemprop:image",
    "itemprop:thumbnailurl",
    "image",
    "thumbnail",
    "thumbnailurl",
];

/// Most values kept; of at most [`MAX_VALUE`] bytes each, 400 KiB.
const MAX_VALUES: usize = 100;

/// Most images kept of each list.
const MAX_IMAGES: usize = 16;

/// Smallest side of an icon that may be the image of a preview, pixels.
const MIN_ICON: u32 = 16;

/// Words in the media types of icons that cannot be decoded here.
const UNSUPPORTED_ICONS: [&str; 3] = ["svg", "x-icon", "microsoft.icon"];

/// Side of an `apple-touch-icon` without `sizes`, pixels.
const DEFAULT_TOUCH_ICON: u32 = 180;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_immediate_refresh_has_a_target() {
        for (content, expected) in [
            ("0;URL=https://x.example/", Some("https://x.example/")),
            ("0; url = '/a b' rest", Some("/a b")),
            ("1,url=\"/a\"", Some("/a")),
            (" 0.5 ; /a?b=c;d", Some("/a?b=c;d")),
            (".5;url=/a", Some("/a")),
            ("0 /a", Some("/a")),
            ("0;url", Some("url")),
            ("1", None),
            ("0;", None),
            ("0;url=", None),
            ("2;url=/a", None),
            ("300", None),
            ("99999999999;url=/a", None),
            ("url=/a", None),
            ("", None),
        ] {
            assert_eq!(refresh(content), expected, "{content}");
        }
    }

    #[test]
    fn names_are_sorted_for_the_binary_search() {
        assert!(NAMES.is_sorted());
    }
}
