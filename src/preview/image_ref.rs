//! Images that tags refer to: URLs in `src`, `srcset` and the attributes of lazy loaders, sizes in pixels.
//!
//! Owns which attribute of an element names its image, and which URLs are not worth fetching. Refuses to know where in the page
//! an image stands.

use std::collections::BTreeMap;

use super::html::{MAX_EMBEDDED, MAX_VALUE, Tag};

/// An image as a page refers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageRef {
    /// Its URL, which may be relative.
    pub(super) src: String,
    /// Pixels.
    pub(super) width: Option<u32>,
    /// Pixels.
    pub(super) height: Option<u32>,
    /// Text alternative.
    pub(super) alt: Option<String>,
}

impl ImageRef {
    /// The image of an `img` element. In this order: what a lazy loader would load, `src`, the largest of its `srcset`, `source`
    /// (that of the `picture` around it), an embedded image.
    pub(super) fn of_img(tag: &Tag, source: Option<String>) -> Option<Self> {
        let named = |name: &&str| {
            tag.get(name).map(str::trim).filter(|src| is_worth_fetching(src)).map(str::to_owned)
        };
        let set =
            |name: &&str| tag.get(name).and_then(largest_of_srcset).filter(|src| is_worth_fetching(src));
        let guessed = |name: &&str| named(name).filter(|src| has_image_extension(src));
        // Before `src`, which holds a placeholder where a lazy loader is used.
        let src = LAZY.iter().find_map(named).or_else(|| AMBIGUOUS.iter().find_map(guessed));
        let src = src.or_else(|| tag.get("data-a-dynamic-image").and_then(largest_of_size_map));
        let src = src.or_else(|| named(&"src")).or_else(|| SRCSETS.iter().find_map(set)).or(source);
        let src = src.or_else(|| ORIGINALS.iter().find_map(named));
        // Last: an embedded image is mostly a blurred placeholder.
        let embedded = || tag.get("src").map(str::trim).filter(|src| is_embedded(src)).map(str::to_owned);
        let src = src.or_else(embedded)?;
        Some(Self::with_attributes(tag, src))
    }

    /// Whether a side is known to be less than `side` pixels.
    pub(super) fn is_smaller_than(&self, side: u32) -> bool {
        [self.width, self.height].into_iter().flatten().any(|known| known < side)
    }

    /// The poster frame of a `video` element.
    pub(super) fn of_poster(tag: &Tag) -> Option<Self> {
        let src = tag.get("poster").map(str::trim).filter(|src| is_worth_fetching(src))?;
        Some(Self::with_attributes(tag, src.to_owned()))
    }

    /// An image with the attributes of its element.
    fn with_attributes(tag: &Tag, src: String) -> Self {
        let side = |name| tag.get(name).and_then(pixels);
        let alt = tag.get("alt").filter(|alt| !alt.trim().is_empty()).map(str::to_owned);
        Self { src, width: side("width"), height: side("height"), alt }
    }
}

/// The URL of the largest image of a `source` element, unless its format is unsupported.
pub(super) fn largest_of_source(tag: &Tag) -> Option<String> {
    let media_type = tag.get("type").unwrap_or_default().to_ascii_lowercase();
    if UNSUPPORTED_FORMATS.iter().any(|format| media_type.contains(format)) {
        return None;
    }
    SRCSETS.iter().find_map(|name| largest_of_srcset(tag.get(name)?)).filter(|src| is_worth_fetching(src))
}

/// Whether a URL may be that of an image that can be shown: to fetch, or embedded.
pub(super) fn is_showable(src: &str) -> bool {
    may_be_image(src) || is_embedded(src)
}

/// Whether a URL is that of a placeholder or a tracking pixel, by the words in it.
pub(super) fn is_placeholder(src: &str) -> bool {
    let src = src.to_ascii_lowercase();
    PLACEHOLDERS.iter().any(|word| src.contains(word))
}

/// Whether a URL is an image itself (`data:`), complete and more than a placeholder.
pub(super) fn is_embedded(src: &str) -> bool {
    // A value of exactly this length was truncated.
    let is_complete = src.len() != MAX_VALUE && src.len() < MAX_EMBEDDED;
    let is_image = src.starts_with("data:image/") && !src.starts_with("data:image/svg");
    is_image && is_complete && src.len() >= MIN_EMBEDDED
}

/// Shortest `data:` URL that counts as an image, bytes. Shorter ones are blank pixels and spinners.
const MIN_EMBEDDED: usize = 512;

/// Whether the path of a URL ends in the extension of an image.
fn has_image_extension(src: &str) -> bool {
    let path = src.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    path.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension))
}

/// Whether a URL in the body may lead to an image that says something.
fn is_worth_fetching(src: &str) -> bool {
    // Braces and angle brackets are those of templates that a script fills in.
    may_be_image(src) && !is_placeholder(src) && !src.contains(['{', '<'])
}

/// Parses a number of pixels: `640`, `640px`, `640.0`; `None` for `100%` and what is not a number.
pub(super) fn pixels(text: &str) -> Option<u32> {
    let text = text.trim();
    let text = text.strip_suffix("px").unwrap_or(text).trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = fraction.bytes().all(|byte| byte.is_ascii_digit());
    whole.parse().ok().filter(|px| is_number && (1..=MAX_SIDE).contains(px))
}

/// The largest image of a JSON map from URLs to sizes: `{"a.jpg":[500,400],"b.jpg":[1000,800]}`. Of a truncated map the first.
fn largest_of_size_map(map: &str) -> Option<String> {
    let whole: Option<BTreeMap<String, Vec<u32>>> = serde_json::from_str(map).ok();
    let largest =
        whole.and_then(|whole| whole.into_iter().max_by_key(|(_, sides)| sides.iter().copied().max()));
    // Truncated JSON does not parse.
    let first = || map.split('"').nth(1).map(str::to_owned);
    largest.map(|(src, _)| src).or_else(first).filter(|src| is_worth_fetching(src))
}

/// The largest image of a `srcset` ([WHATWG](https://html.spec.whatwg.org/multipage/images.html#srcset-attributes)): of
/// `a.jpg 320w, b.jpg 1280w` the second.
fn largest_of_srcset(set: &str) -> Option<String> {
    let mut best: Option<(u32, &str)> = None;
    // A truncated set ends in half a URL.
    let whole = if set.len() >= MAX_VALUE { set.rsplit_once(',')?.0 } else { set };
    // Commas without white space occur in URLs.
    for candidate in whole.split(", ").flat_map(|part| part.split(",\n")) {
        let mut words = candidate.split_ascii_whitespace();
        let Some(src) = words.next().filter(|src| !src.starts_with("data:")) else { continue };
        let size = words.next().and_then(|size| size.trim_end_matches(['w', 'x', ',']).parse().ok());
        let size = size.unwrap_or(1);
        if best.is_none_or(|(largest, _)| size > largest) {
            best = Some((size, src.trim_end_matches(',')));
        }
    }
    best.map(|(_, src)| src.to_owned())
}

/// Whether a URL may be fetched for an image. SVG is not supported, and `data:` and `blob:` cannot be fetched.
fn may_be_image(src: &str) -> bool {
    let path = src.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let is_remote = !path.starts_with("data:") && !path.starts_with("blob:");
    let is_svg = matches!(path.rsplit_once('.'), Some((_, "svg" | "svgz")));
    !path.is_empty() && is_remote && !is_svg
}

/// Attributes in which lazy loaders have the URL, best first.
const LAZY: [&str; 5] = ["data-old-hires", "data-src", "data-lazy-src", "data-original", "data-image"];

/// Attributes in which some lazy loaders have the URL and other scripts something else, best first.
const AMBIGUOUS: [&str; 5] = ["data-hi-res-src", "data-lazy", "data-actualsrc", "data-echo", "data-url"];

/// Attributes with the full-size image, for elements that have nothing else.
const ORIGINALS: [&str; 2] = ["data-large_image", "data-orig-file"];

/// File extensions of images.
const EXTENSIONS: [&str; 8] = ["bmp", "gif", "jfif", "jpeg", "jpg", "png", "tiff", "webp"];

/// Attributes in the form of `srcset`, best first.
const SRCSETS: [&str; 3] = ["data-srcset", "data-lazy-srcset", "srcset"];

/// Image formats that cannot be decoded here.
const UNSUPPORTED_FORMATS: [&str; 5] = ["avif", "heic", "heif", "jxl", "svg"];

/// Words in the URLs of placeholders and tracking pixels.
const PLACEHOLDERS: [&str; 9] =
    ["pixel", "spacer", "blank.gif", "1x1", "beacon", "transparent.", "sprite", "/track", "placeholder"];

/// Largest side that counts as a size, pixels.
const MAX_SIDE: u32 = 100_000;

/// Smallest side of an image that a page shows, pixels. Smaller ones are icons and tracking pixels.
pub(super) const MIN_SIDE: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_as_pixels() {
        for (text, expected) in [
            ("640", Some(640)),
            (" 640px ", Some(640)),
            ("640.5", Some(640)),
            ("100%", None),
            ("0", None),
            ("-1", None),
            ("4294967296", None),
            ("auto", None),
            ("", None),
        ] {
            assert_eq!(pixels(text), expected, "{text}");
        }
    }

    #[test]
    fn the_widest_of_a_srcset_is_taken() {
        for (set, expected) in [
            ("a.jpg 320w, b.jpg 1280w, c.jpg 640w", Some("b.jpg")),
            ("a.jpg, b.jpg 2x", Some("b.jpg")),
            (
                "https://x.example/w_300,h_200/a.jpg 300w, https://x.example/w_900,h_600/a.jpg 900w",
                Some("https://x.example/w_900,h_600/a.jpg"),
            ),
            ("data:image/gif;base64,AAAA 1x", None),
            ("", None),
        ] {
            assert_eq!(largest_of_srcset(set).as_deref(), expected, "{set}");
        }
    }

    #[test]
    fn the_largest_of_a_size_map_is_taken() {
        for (map, expected) in [
            (
                r#"{"https://x.example/a.jpg":[500,400],"https://x.example/b.jpg":[1000,800]}"#,
                Some("https://x.example/b.jpg"),
            ),
            (r#"{"https://x.example/a.jpg":[500,400],"https://x.exa"#, Some("https://x.example/a.jpg")),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(largest_of_size_map(map).as_deref(), expected, "{map}");
        }
    }
}
