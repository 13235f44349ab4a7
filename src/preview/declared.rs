//! What a page declares of itself: `meta`, `link` and `base`.
//!
//! Owns the words: [Open Graph](https://ogp.me/), Twitter's cards, `name`, `itemprop`, `rel`. Values are kept as they
//! stand; [`super::page`] chooses among them and cleans.

use std::collections::BTreeMap;

use super::html::{MAX_EMBEDDED, MAX_VALUE, Tag};

/// The declarations of a page.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// Values by key, in lower case; `itemprop` keys begin with `itemprop:`. The first that is not empty counts.
    values: BTreeMap<String, String>,
    /// `og:image`, in order.
    pub(super) images: Vec<RawImage>,
    /// `link rel=image_src`, and images of `link itemprop`.
    pub(super) link_images: Vec<RawImage>,
    /// Icons.
    pub(super) icons: Vec<RawImage>,
    /// `base`
    pub(super) base: Option<String>,
    /// `link rel=canonical`
    pub(super) canonical: Option<String>,
    /// The oEmbed description.
    pub(super) oembed: Option<String>,
    /// Where the page sends its readers at once.
    pub(super) refresh: Option<String>,
    /// Whether a declared picture stands in the page.
    has_embedded: bool,
}

/// An image as it is declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawImage {
    /// Its URL, perhaps relative.
    pub(super) src: String,
    /// Pixels.
    pub(super) width: Option<u32>,
    /// Pixels.
    pub(super) height: Option<u32>,
    /// What it shows.
    pub(super) alt: Option<String>,
}

impl Declared {
    /// A value, if it was declared.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The values whose keys belong to the Open Graph vocabulary.
    pub(super) fn open_graph(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_ours = |key: &&String| VOCABULARIES.iter().any(|prefix| key.starts_with(prefix));
        self.values
            .iter()
            .filter(move |(key, _)| is_ours(key))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there is an image to show.
    pub(super) fn has_image(&self) -> bool {
        self.images.iter().chain(&self.link_images).any(RawImage::is_showable)
            || IMAGE_KEYS
                .iter()
                .any(|key| self.get(key).is_some_and(|src| is_picture(src) || is_embedded(src)))
    }

    /// A `meta` element.
    pub(super) fn meta(&mut self, tag: &Tag) {
        let Some(content) = tag.get("content").map(str::trim).filter(|content| !content.is_empty()) else {
            return;
        };
        if tag.get("http-equiv").is_some_and(|name| name.trim().eq_ignore_ascii_case("refresh")) {
            self.refresh = self.refresh.take().or_else(|| refresh(content).map(str::to_owned));
        }
        // One picture that stands in the page is enough: it is kept in memory whole.
        if content.len() > MAX_VALUE && std::mem::replace(&mut self.has_embedded, true) {
            return;
        }
        // `property` and `itemprop` are lists by RDFa and by microdata.
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

    /// Keeps a value, if its key is one that says something.
    fn value(&mut self, key: &str, content: &str) {
        if let Some(part) = key.strip_prefix("og:image") {
            self.image_part(part, content);
            return;
        }
        // Dublin Core is written with a point in HTML, with a colon in RDFa.
        let dotted = ["dc", "dcterms"]
            .iter()
            .find_map(|prefix| Some(format!("{prefix}.{}", key.strip_prefix(prefix)?.strip_prefix(':')?)));
        let key = dotted.as_deref().unwrap_or(key);
        let is_wanted =
            NAMES.binary_search(&key).is_ok() || VOCABULARIES.iter().any(|prefix| key.starts_with(prefix));
        let is_wanted = is_wanted || key.starts_with("twitter:") || key.starts_with("itemprop:");
        let is_wanted = is_wanted && (content.len() <= MAX_VALUE || IMAGE_KEYS.contains(&key));
        if is_wanted && self.values.len() < MAX_VALUES && !self.values.contains_key(key) {
            self.values.insert(key.to_owned(), content.to_owned());
        }
    }

    /// A part of `og:image`: the parts belong to the image before them.
    fn image_part(&mut self, part: &str, content: &str) {
        let is_new = match (part, self.images.last()) {
            ("", _) => true,
            (":url" | ":secure_url", last) => last.is_none_or(|last| part == ":url" && last.src != content),
            (_, last) => last.is_none(),
        };
        let has_no_url = self.images.last().is_some_and(|last| last.src.is_empty());
        if is_new && !has_no_url && self.images.len() < MAX_IMAGES {
            self.images.push(RawImage::default());
        }
        let Some(last) = self.images.last_mut() else { return };
        match part {
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

    /// A `link` element.
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
                    push(&mut self.link_images, RawImage { src: href.to_owned(), ..RawImage::default() });
                }
                "icon" | "apple-touch-icon" | "apple-touch-icon-precomposed" => self.icon(word, tag, href),
                _ => {}
            }
        }
        if tag.get("itemprop").is_some_and(|name| matches!(name.trim(), "image" | "thumbnailUrl")) {
            push(&mut self.link_images, RawImage { src: href.to_owned(), ..RawImage::default() });
        }
    }

    /// An icon stands in for a page without any picture: the largest, and before none one that does not say how large it is.
    fn icon(&mut self, rel: &str, tag: &Tag, href: &str) {
        let kind = tag.get("type").unwrap_or_default().to_ascii_lowercase();
        let sizes = tag.get("sizes").unwrap_or_default().to_ascii_lowercase();
        let side = sizes.split_ascii_whitespace().filter_map(|size| pixels(size.split('x').next()?)).max();
        let side = side.or((rel != "icon").then_some(DEFAULT_TOUCH_ICON));
        let is_small = side.is_some_and(|side| side < MIN_ICON);
        let is_unknown = UNKNOWN_ICONS.iter().any(|unknown| kind.contains(unknown));
        let icon = RawImage { src: href.to_owned(), width: side, height: side, alt: None };
        if !is_small && !is_unknown && is_shown_icon(&icon) {
            let at = self.icons.partition_point(|known| known.width >= side);
            self.icons.insert(at, icon);
            self.icons.truncate(MAX_IMAGES);
        }
    }

    /// A `base` element. The first counts.
    pub(super) fn base(&mut self, tag: &Tag) {
        if self.base.is_none() {
            self.base = tag.get("href").map(str::to_owned);
        }
    }
}

impl RawImage {
    /// Whether it may be a picture that can be fetched and shown.
    pub(super) fn is_showable(&self) -> bool {
        is_picture(&self.src) || is_embedded(&self.src)
    }

    /// An `img` element: the source that a script would set later, its own, the largest of its set, or `source`, the one that
    /// a `picture` has for it.
    pub(super) fn of_img(tag: &Tag, source: Option<String>) -> Option<Self> {
        let named = |name: &&str| tag.get(name).map(str::trim).filter(|src| is_shown(src)).map(str::to_owned);
        let set = |name: &&str| tag.get(name).and_then(largest_of_set).filter(|src| is_shown(src));
        let guessed = |name: &&str| named(name).filter(|src| looks_like_picture(src));
        let src = LATER.iter().find_map(named).or_else(|| LATER_OR_ELSE.iter().find_map(guessed));
        let src = src.or_else(|| tag.get("data-a-dynamic-image").and_then(largest_of_map));
        let src = src.or_else(|| named(&"src")).or_else(|| SETS.iter().find_map(set)).or(source);
        let src = src.or_else(|| ORIGINALS.iter().find_map(named));
        let embedded = || tag.get("src").map(str::trim).filter(|src| is_embedded(src)).map(str::to_owned);
        let src = src.or_else(embedded)?;
        Some(Self::shown(tag, src))
    }

    /// The still of a `video` element.
    pub(super) fn of_poster(tag: &Tag) -> Option<Self> {
        let src = tag.get("poster").map(str::trim).filter(|src| is_shown(src))?;
        Some(Self::shown(tag, src.to_owned()))
    }

    /// A picture with what its element says of it.
    fn shown(tag: &Tag, src: String) -> Self {
        let side = |name| tag.get(name).and_then(pixels);
        let alt = tag.get("alt").filter(|alt| !alt.trim().is_empty()).map(str::to_owned);
        Self { src, width: side("width"), height: side("height"), alt }
    }
}

/// Whether an icon may be one that can be read: not of Windows' own kind, nor a drawing.
fn is_shown_icon(icon: &RawImage) -> bool {
    let path = icon.src.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let is_old = !is_embedded(&icon.src) && matches!(path.rsplit_once('.'), Some((_, "ico")));
    icon.is_showable() && !is_old
}

/// The largest picture of a `source` element of a `picture`, if it is of a kind that can be shown.
pub(super) fn of_source(tag: &Tag) -> Option<String> {
    let kind = tag.get("type").unwrap_or_default().to_ascii_lowercase();
    if UNKNOWN_KINDS.iter().any(|unknown| kind.contains(unknown)) {
        return None;
    }
    SETS.iter().find_map(|name| largest_of_set(tag.get(name)?)).filter(|src| is_shown(src))
}

/// Whether an address is that of what stands in for a picture, or counts visitors.
pub(super) fn is_placeholder(src: &str) -> bool {
    let src = src.to_ascii_lowercase();
    PLACEHOLDERS.iter().any(|word| src.contains(word))
}

/// Whether an address holds a picture itself (`data:`), whole and more than a dot that stands in for another one.
pub(super) fn is_embedded(src: &str) -> bool {
    let is_whole = src.len() != MAX_VALUE && src.len() < MAX_EMBEDDED;
    let is_picture = src.starts_with("data:image/") && !src.starts_with("data:image/svg");
    is_picture && is_whole && src.len() >= MIN_EMBEDDED
}

/// The shortest address that is taken for a picture of its own, bytes: shorter ones are blank dots and spinners.
const MIN_EMBEDDED: usize = 512;

/// Whether an address is named as pictures are.
fn looks_like_picture(src: &str) -> bool {
    let path = src.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    path.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending))
}

/// Whether an address in the body leads to a picture.
fn is_shown(src: &str) -> bool {
    is_picture(src) && !is_placeholder(src) && !src.contains(['{', '<'])
}

/// Where `http-equiv=refresh` leads, if it does so within a second ([WHATWG, shared declarative
/// refresh](https://html.spec.whatwg.org/multipage/semantics.html#shared-declarative-refresh-steps)).
pub(super) fn refresh(content: &str) -> Option<&str> {
    let content = content.trim_start();
    let digits = content.find(|c: char| !c.is_ascii_digit()).unwrap_or(content.len());
    let (seconds, rest) = content.split_at_checked(digits)?;
    let is_at_once = seconds.is_empty() || seconds.parse::<u32>().is_ok_and(|seconds| seconds <= 1);
    if !is_at_once || (seconds.is_empty() && !rest.starts_with('.')) {
        return None;
    }
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let rest = rest.trim_start().trim_start_matches([';', ',']).trim_start();
    let named = rest.get(..3).filter(|name| name.eq_ignore_ascii_case("url")).and_then(|_| rest.get(3..));
    let named = named.and_then(|rest| rest.trim_start().strip_prefix('='));
    let target = named.unwrap_or(rest).trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| target.strip_prefix(quote)?.split(quote).next());
    Some(quoted.unwrap_or(target)).filter(|target| !target.is_empty())
}

/// The number of pixels that a text gives: `640`, `640px`, `640.0`; `None` for `100%` and nonsense.
pub(super) fn pixels(text: &str) -> Option<u32> {
    let text = text.trim();
    let text = text.strip_suffix("px").unwrap_or(text).trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = fraction.bytes().all(|byte| byte.is_ascii_digit());
    whole.parse().ok().filter(|px| is_number && (1..=MAX_SIDE).contains(px))
}

/// The largest picture of a shop's map: `{"a.jpg":[500,400],"b.jpg":[1000,800]}`. One that was cut has its first.
fn largest_of_map(map: &str) -> Option<String> {
    let whole: Option<BTreeMap<String, Vec<u32>>> = serde_json::from_str(map).ok();
    let largest =
        whole.and_then(|whole| whole.into_iter().max_by_key(|(_, sides)| sides.iter().copied().max()));
    let first = || map.split('"').nth(1).map(str::to_owned);
    largest.map(|(src, _)| src).or_else(first).filter(|src| is_shown(src))
}

/// The last part of a path that is written for the widest screen: `a.jpg 320w, b.jpg 1280w`.
fn largest_of_set(set: &str) -> Option<String> {
    let mut best: Option<(u32, &str)> = None;
    // A set that was cut ends in half a URL.
    let whole = if set.len() >= MAX_VALUE { set.rsplit_once(',')?.0 } else { set };
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

/// Whether an address may lead to a picture: a drawing (SVG) is none that is shown, and one inside the page cannot be
/// fetched.
fn is_picture(src: &str) -> bool {
    let path = src.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let is_elsewhere = !path.starts_with("data:") && !path.starts_with("blob:");
    let is_drawing = matches!(path.rsplit_once('.'), Some((_, "svg" | "svgz")));
    !path.is_empty() && is_elsewhere && !is_drawing
}

/// Whether a media type is that of oEmbed in JSON.
fn is_oembed(media_type: &str) -> bool {
    matches!(media_type, "application/json+oembed" | "text/json+oembed")
}

/// Keeps an image while there is room.
fn push(images: &mut Vec<RawImage>, image: RawImage) {
    if images.len() < MAX_IMAGES {
        images.push(image);
    }
}

/// The vocabularies that pages are described in.
const VOCABULARIES: [&str; 7] = ["og:", "article:", "profile:", "book:", "video:", "music:", "product:"];

/// Keys outside of the vocabularies, in order.
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

/// Attributes in which a script finds the picture that it shows later, best first.
const LATER: [&str; 5] = ["data-old-hires", "data-src", "data-lazy-src", "data-original", "data-image"];

/// Attributes in which some scripts find it and others find something else, best first.
const LATER_OR_ELSE: [&str; 5] = ["data-hi-res-src", "data-lazy", "data-actualsrc", "data-echo", "data-url"];

/// Attributes with the picture in its full size, where there is no other.
const ORIGINALS: [&str; 2] = ["data-large_image", "data-orig-file"];

/// How the names of pictures end.
const ENDINGS: [&str; 8] = ["bmp", "gif", "jfif", "jpeg", "jpg", "png", "tiff", "webp"];

/// Attributes with pictures of several sizes, best first.
const SETS: [&str; 3] = ["data-srcset", "data-lazy-srcset", "srcset"];

/// Kinds of pictures that are not shown here.
const UNKNOWN_KINDS: [&str; 5] = ["avif", "heic", "heif", "jxl", "svg"];

/// Words in the names of what is no picture at all.
const PLACEHOLDERS: [&str; 9] =
    ["pixel", "spacer", "blank.gif", "1x1", "beacon", "transparent.", "sprite", "/track", "placeholder"];

/// Most keys of one element.
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

/// Most values kept: at [`MAX_VALUE`] bytes each, 400 KB.
const MAX_VALUES: usize = 100;

/// Most images kept of one kind.
const MAX_IMAGES: usize = 16;

/// Largest side believed, pixels.
const MAX_SIDE: u32 = 100_000;

/// Smallest icon that stands in for a picture, pixels.
const MIN_ICON: u32 = 16;

/// Kinds of icons that are not shown here.
const UNKNOWN_ICONS: [&str; 3] = ["svg", "x-icon", "microsoft.icon"];

/// What `apple-touch-icon` means without `sizes`, pixels.
const DEFAULT_TOUCH_ICON: u32 = 180;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_of_pixels() {
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
    fn the_widest_of_a_set_counts() {
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
            assert_eq!(largest_of_set(set).as_deref(), expected, "{set}");
        }
    }

    #[test]
    fn the_largest_of_a_map_counts() {
        for (map, expected) in [
            (
                r#"{"https://x.example/a.jpg":[500,400],"https://x.example/b.jpg":[1000,800]}"#,
                Some("https://x.example/b.jpg"),
            ),
            (r#"{"https://x.example/a.jpg":[500,400],"https://x.exa"#, Some("https://x.example/a.jpg")),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(largest_of_map(map).as_deref(), expected, "{map}");
        }
    }

    #[test]
    fn only_a_refresh_at_once_leads_elsewhere() {
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
    fn names_are_in_order_for_the_search() {
        assert!(NAMES.is_sorted());
    }
}
