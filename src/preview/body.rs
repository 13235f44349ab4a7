//! What a page shows: headings, the first paragraphs, pictures. For pages that declare nothing.
//!
//! Owns the judgement of what is the text and what is furniture (menus, banners, footers, what is hidden). It keeps no
//! tree: a part of the page that is left out, or is the main one, is known by the name of its element, and ends when as
//! many of that name have ended as began.

use super::declared::RawImage;
use super::html::{Tag, push_capped};
use super::text;

/// What was seen of the body so far.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// The part that is left out, if one is open.
    left_out: Option<Part>,
    /// The main part, if one is open.
    main: Option<Part>,
    /// The text since the last boundary.
    block: Block,
    /// Whether it stands in a paragraph.
    is_paragraph: bool,
    /// Whether it stands in a link.
    is_link: bool,
    /// The heading under way: its level from 0.
    heading: Option<usize>,
    /// Its text.
    heading_text: Vec<u8>,
    /// The first heading of each level.
    headings: [Option<String>; 3],
    /// Text by how likely it is the page's.
    texts: [String; TIERS],
    /// Pictures with their ranks, best first.
    images: Vec<(Rank, RawImage)>,
}

/// An element that is open, by its name.
#[derive(Debug)]
struct Part {
    /// The name.
    name: String,
    /// How many of the name are open within, itself included.
    depth: usize,
    /// How sure its end is.
    hold: Hold,
}

/// What may end a part that is left out, besides its own end: pages forget to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    /// A main part or a heading of the first level.
    Weak,
    /// A main part. Headings within count: the head of a page has its title.
    Header,
    /// A main part.
    Medium,
    /// Nothing.
    Strong,
}

/// A run of text.
#[derive(Debug, Default)]
struct Block {
    /// The text.
    text: Vec<u8>,
    /// How many bytes of it are links.
    linked: usize,
}

/// How likely a picture is the page's: not an ornament, in the main part, large; then its area.
type Rank = (bool, bool, bool, u64);

impl Body {
    /// The title that the headings give.
    pub(super) fn heading(&self) -> Option<&str> {
        self.headings.iter().flatten().map(String::as_str).next()
    }

    /// The first meaningful paragraphs.
    pub(super) fn text(&self) -> Option<&str> {
        self.texts.iter().map(String::as_str).find(|text| !text.is_empty())
    }

    /// The pictures, best first.
    pub(super) fn images(&self) -> impl Iterator<Item = &RawImage> {
        self.images.iter().map(|(_, image)| image)
    }

    /// Whether more text would change nothing.
    pub(super) fn has_text(&self) -> bool {
        self.texts.first().is_some_and(|text| text.chars().count() >= ENOUGH_TEXT)
    }

    /// Whether there is a large picture in the main part.
    pub(super) fn has_image(&self) -> bool {
        self.images
            .first()
            .is_some_and(|((is_picture, is_main, is_large, _), _)| *is_picture && *is_main && *is_large)
    }

    /// Whether what comes is inside a drawing or a template, where a `title` is not the page's.
    pub(super) fn is_apart(&self) -> bool {
        self.left_out.as_ref().is_some_and(|part| part.hold == Hold::Strong)
    }

    /// A start tag.
    pub(super) fn start(&mut self, tag: &Tag) {
        let name = tag.name();
        if !text::is_inline(name) {
            self.end_block();
            self.is_paragraph = name == "p";
        }
        if let Some(part) = &mut self.left_out {
            if !part.is_broken_by(name) {
                part.start(name);
                if part.hold == Hold::Header {
                    self.start_heading(name);
                }
                return;
            }
            self.left_out = None;
        }
        let is_void = VOID.contains(&name) || (tag.is_self_closing() && matches!(name, "svg" | "math"));
        if !is_void && let Some(hold) = self.furniture(tag) {
            self.left_out = Some(Part { name: name.to_owned(), depth: 1, hold });
            return;
        }
        match (&mut self.main, is_main(tag)) {
            (Some(part), _) => part.start(name),
            (None, true) => {
                self.main = Some(Part { name: name.to_owned(), depth: 1, hold: Hold::Strong });
            }
            (None, false) => {}
        }
        self.start_heading(name);
        match name {
            "a" => self.is_link = tag.get("href").is_some(),
            "img" | "amp-img" => self.image(tag),
            "br" => self.text_piece(b" "),
            _ => {}
        }
    }

    /// An end tag.
    pub(super) fn end(&mut self, name: &str) {
        if !text::is_inline(name) {
            self.end_block();
            self.is_paragraph = false;
        }
        if heading_level(name).is_some() {
            self.end_heading();
        }
        if let Some(part) = &mut self.left_out {
            if part.end(name) {
                self.left_out = None;
            }
            return;
        }
        if self.main.as_mut().is_some_and(|part| part.end(name)) {
            self.main = None;
        }
        if name == "a" {
            self.is_link = false;
        }
    }

    /// Text.
    pub(super) fn text_piece(&mut self, piece: &[u8]) {
        let is_left_out = self.left_out.as_ref().is_some_and(|part| part.hold != Hold::Header);
        if self.heading.is_some() && !is_left_out {
            push_capped(&mut self.heading_text, piece, MAX_BLOCK);
        } else if self.heading.is_none() && self.left_out.is_none() {
            push_capped(&mut self.block.text, piece, MAX_BLOCK);
            if self.is_link {
                self.block.linked = self.block.linked.saturating_add(piece.trim_ascii().len());
            }
        }
    }

    /// The end of the document.
    pub(super) fn finish(&mut self) {
        self.end_block();
        self.end_heading();
    }

    /// Whether an element is furniture.
    fn furniture(&self, tag: &Tag) -> Option<Hold> {
        let by_name = match tag.name() {
            "script" | "style" | "template" | "noscript" | "iframe" | "object" | "svg" | "math"
            | "canvas" | "audio" | "video" | "textarea" | "select" | "xmp" | "noembed" | "noframes"
            | "plaintext" => Some(Hold::Strong),
            "nav" | "footer" | "aside" | "menu" | "dialog" | "button" | "pre" | "figcaption" | "title" => {
                Some(Hold::Medium)
            }
            "sup" if is_citation(tag) => Some(Hold::Medium),
            "header" if self.main.is_none() => Some(Hold::Header),
            _ => None,
        };
        if by_name.is_some() || matches!(tag.name(), "html" | "body" | "main" | "article" | "h1" | "head") {
            return by_name;
        }
        if is_hidden(tag) {
            return Some(Hold::Strong);
        }
        let role = tag.get("role").unwrap_or_default();
        if [
            "navigation",
            "contentinfo",
            "complementary",
            "search",
            "dialog",
            "alertdialog",
            "alert",
            "menu",
            "menubar",
        ]
        .contains(&role)
        {
            return Some(Hold::Medium);
        }
        if role == "banner" {
            return Some(Hold::Header);
        }
        let is_named = [tag.get("class"), tag.get("id")].into_iter().flatten().any(is_furniture_name);
        is_named.then_some(Hold::Weak)
    }

    /// Begins a heading, if the element is one.
    fn start_heading(&mut self, name: &str) {
        if let Some(level) = heading_level(name) {
            self.end_heading();
            self.heading = Some(level);
        }
    }

    /// Ends the heading under way.
    fn end_heading(&mut self) {
        let Some(level) = self.heading.take() else { return };
        let heading = String::from_utf8_lossy(&self.heading_text);
        if let Some(first @ None) = self.headings.get_mut(level) {
            *first = text::line(&heading, MAX_HEADING);
        }
        self.heading_text.clear();
    }

    /// Judges the text since the last boundary.
    fn end_block(&mut self) {
        let is_mostly_links = self.block.linked.saturating_mul(2) > self.block.text.len();
        let (in_main, in_paragraph) = (self.main.is_some(), self.is_paragraph);
        let (tier, least) = match (in_main, in_paragraph) {
            (true, true) => (0, 25),
            (true, false) => (1, 40),
            (false, true) => (2, 25),
            (false, false) => (3, 60),
        };
        if let Some(known) = self.texts.get_mut(tier)
            && known.chars().count() < ENOUGH_TEXT
            && !is_mostly_links
            && self.block.text.len() >= least
            && let Some(text) = text::line(&String::from_utf8_lossy(&self.block.text), MAX_BLOCK)
            && weight(&text) >= least
            && !is_consent(&text)
        {
            if !known.is_empty() {
                known.push(' ');
            }
            known.push_str(&text);
        }
        self.block.text.clear();
        self.block.linked = 0;
    }

    /// Ranks a picture, if it may be one.
    fn image(&mut self, tag: &Tag) {
        let Some(image) = RawImage::of_img(tag) else { return };
        let sides = [image.width, image.height];
        let is_small = sides.into_iter().flatten().any(|side| side < MIN_SIDE);
        let name = image.src.to_ascii_lowercase();
        if is_small || TRACKERS.iter().any(|word| name.contains(word)) || is_hidden(tag) {
            return;
        }
        let area = match sides {
            [Some(width), Some(height)] => u64::from(width).saturating_mul(u64::from(height)),
            _ => 0,
        };
        let class = tag.get("class").unwrap_or_default().to_ascii_lowercase();
        let is_ornament = ORNAMENTS.iter().any(|word| name.contains(word) || class.contains(word));
        let rank = (!is_ornament, self.main.is_some(), area >= LARGE_AREA, area);
        let at = self.images.partition_point(|(known, _)| *known >= rank);
        if at < MAX_IMAGES {
            self.images.insert(at, (rank, image));
            self.images.truncate(MAX_IMAGES);
        }
    }
}

impl Part {
    /// A start tag within.
    fn start(&mut self, name: &str) {
        if self.name == name {
            self.depth = self.depth.saturating_add(1);
        }
    }

    /// An end tag; whether it ends the part.
    fn end(&mut self, name: &str) -> bool {
        if self.name == name {
            self.depth = self.depth.saturating_sub(1);
        }
        self.depth == 0
    }

    /// Whether a start tag shows that the part has ended.
    fn is_broken_by(&self, name: &str) -> bool {
        match name {
            "main" => self.hold < Hold::Strong,
            "article" => self.hold < Hold::Medium,
            "h1" => self.hold == Hold::Weak,
            _ => false,
        }
    }
}

/// Whether an element holds what the page is about.
fn is_main(tag: &Tag) -> bool {
    matches!(tag.name(), "main" | "article")
        || tag.get("role") == Some("main")
        || tag
            .get("itemprop")
            .is_some_and(|name| name.split_ascii_whitespace().any(|word| word == "articleBody"))
}

/// Whether an element is the mark of a footnote, as wikis write it.
fn is_citation(tag: &Tag) -> bool {
    tag.get("class").is_some_and(|names| names.split_ascii_whitespace().any(|name| name == "reference"))
}

/// The level of a heading that may be the title, from 0.
fn heading_level(name: &str) -> Option<usize> {
    match name {
        "h1" => Some(0),
        "h2" => Some(1),
        "h3" => Some(2),
        // Not a title, but not a paragraph either.
        "h4" | "h5" | "h6" => Some(usize::MAX),
        _ => None,
    }
}

/// Whether an element is not shown.
fn is_hidden(tag: &Tag) -> bool {
    let style = tag.get("style").unwrap_or_default();
    let style: String =
        style.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
    tag.get("hidden").is_some()
        || tag.get("aria-hidden") == Some("true")
        || style.contains("display:none")
        || style.contains("visibility:hidden")
}

/// Whether a class or an ID names furniture: `site-menu`, `cookie_banner`. `has-sidebar` names what is beside it.
fn is_furniture_name(names: &str) -> bool {
    names.split_ascii_whitespace().any(|name| {
        let mut words = name.split(['-', '_']);
        let is_about_another =
            words.clone().any(|word| ["has", "no", "with", "is", "wrapper", "layout"].contains(&word));
        !is_about_another && words.any(|word| FURNITURE.iter().any(|known| known.eq_ignore_ascii_case(word)))
    })
}

/// Whether a text asks for consent to cookies.
fn is_consent(text: &str) -> bool {
    let text = text.to_lowercase();
    let asks =
        ["accept", "consent", "agree", "use cookies", "uses cookies", "cookie policy", "cookie settings"];
    text.contains("cookie") && text.len() < 500 && asks.iter().any(|word| text.contains(word))
}

/// How much a text says: a character of Chinese, Japanese or Korean as much as two letters.
fn weight(text: &str) -> usize {
    text.chars().map(|c| if c >= '\u{2e80}' { 2 } else { 1 }).sum()
}

/// Elements without content.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];

/// Words in classes and IDs of furniture.
const FURNITURE: [&str; 25] = [
    "advert",
    "advertisement",
    "breadcrumb",
    "breadcrumbs",
    "byline",
    "caption",
    "comments",
    "consent",
    "cookie",
    "cookiebanner",
    "cookies",
    "footer",
    "gdpr",
    "hidden",
    "menu",
    "modal",
    "nav",
    "navbar",
    "navigation",
    "newsletter",
    "popup",
    "related",
    "sidebar",
    "skip",
    "toc",
];

/// Words in the names of what is no picture at all.
const TRACKERS: [&str; 9] =
    ["pixel", "spacer", "blank.gif", "1x1", "beacon", "transparent.", "sprite", "/track", "placeholder"];

/// Words in the names and classes of pictures that are not the page's.
const ORNAMENTS: [&str; 9] =
    ["logo", "icon", "avatar", "badge", "emoji", "gravatar", "button", "banner", "captcha"];

/// Kinds of text, by place.
const TIERS: usize = 4;

/// How much text is enough, characters.
const ENOUGH_TEXT: usize = 200;

/// Longest block kept, bytes.
const MAX_BLOCK: usize = 2048;

/// Longest heading kept, characters.
const MAX_HEADING: usize = 500;

/// Smallest side of a picture, pixels: below are icons and the eyes of trackers.
const MIN_SIDE: u32 = 50;

/// From this area on a picture is large, pixels.
const LARGE_AREA: u64 = 200 * 150;

/// Most pictures kept.
const MAX_IMAGES: usize = 8;
