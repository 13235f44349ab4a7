//! What a page shows: headings, the first paragraphs, pictures. For pages that declare nothing.
//!
//! Owns the choice of the text: that of the main part before others, paragraphs before what merely stands there, and
//! without any of these all that can be read. What is furniture, [`super::furniture`] knows. It keeps no tree: a part of the
//! page that is left out, or is the main one, is known by the name of its element, and ends when as many of that name have
//! ended as began. Only an element that begins a line ends the text before it; one that is not shown leaves it whole.

use super::declared::{self, RawImage};
use super::furniture::{self, Hold};
use super::html::{Tag, push_capped};
use super::text;

/// What was seen of the body so far.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// The part that is left out, if one is open.
    left_out: Option<Part>,
    /// The main part, if one is open.
    main: Option<Part>,
    /// The head of the page or a part whose class says that it is furniture, if one is open. Some of these hold the text.
    doubtful: Option<Part>,
    /// The text since the last boundary.
    block: Block,
    /// Paragraphs of a few words just before it.
    prelude: Option<String>,
    /// What the text stands in.
    place: Place,
    /// Whether it stands in a link.
    is_link: bool,
    /// Whether only blanks came since a line break.
    is_after_break: bool,
    /// The largest picture of a `source`, for the `img` that follows.
    source: Option<String>,
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

/// What a text stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Anything.
    #[default]
    Other,
    /// `p`
    Paragraph,
    /// `pre`: a text if the page has no other.
    Preformatted,
}

/// A run of text.
#[derive(Debug, Default)]
struct Block {
    /// The text.
    text: Vec<u8>,
    /// How many bytes of its words are links.
    linked: usize,
    /// How many are not.
    plain: usize,
    /// How many words are not.
    plain_words: usize,
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

    /// Whether it has more text than what tells readers that they are sent elsewhere.
    pub(super) fn has_prose(&self) -> bool {
        self.texts.iter().any(|text| text.chars().count() >= ENOUGH_TEXT)
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
        if let Some(part) = &mut self.left_out {
            if !part.is_broken_by(name) {
                part.start(name);
                self.start_left_out(tag);
                return;
            }
            self.left_out = None;
        }
        match &mut self.doubtful {
            Some(part) if part.is_broken_by(name) => {
                self.end_block();
                self.doubtful = None;
            }
            Some(part) => part.start(name),
            None => {}
        }
        let hold = furniture::hold(tag, self.main.is_some()).filter(|_| !is_void(tag));
        if hold != Some(Hold::Strong) && text::is_block(name) {
            self.end_block();
            self.place = match name {
                "p" => Place::Paragraph,
                "pre" => Place::Preformatted,
                _ => Place::Other,
            };
        }
        if let Some(hold) = hold {
            let part = Part { name: name.to_owned(), depth: 1, hold };
            if !matches!(hold, Hold::Caption | Hold::Doubtful | Hold::Header) || !text::is_block(name) {
                self.poster(tag);
                self.left_out = Some(part);
                return;
            }
            self.doubtful = self.doubtful.take().or(Some(part));
        }
        match (&mut self.main, furniture::is_main(tag)) {
            (Some(part), _) => part.start(name),
            (None, true) => {
                self.main = Some(Part { name: name.to_owned(), depth: 1, hold: Hold::Strong });
            }
            (None, false) => {}
        }
        if self.doubtful.as_ref().is_none_or(|part| part.hold == Hold::Header) {
            self.start_heading(name);
        }
        match name {
            "a" => self.is_link = tag.get("href").is_some(),
            "picture" => self.source = None,
            "source" => self.source = self.source.take().or_else(|| declared::of_source(tag)),
            "img" | "amp-img" => self.image(tag),
            "br" => self.line_break(),
            _ => {}
        }
    }

    /// A start tag within a part that is left out. Without scripts the picture that one would load is there.
    fn start_left_out(&mut self, tag: &Tag) {
        if tag.name() == "img" && self.left_out.as_ref().is_some_and(|part| part.name == "noscript") {
            self.image(tag);
        }
    }

    /// An end tag.
    pub(super) fn end(&mut self, name: &str) {
        if let Some(part) = &mut self.left_out {
            if part.end(name) {
                self.left_out = None;
            }
            return;
        }
        if heading_level(name).is_some() {
            self.end_heading();
        }
        if text::is_block(name) {
            self.end_block();
            self.place = Place::Other;
        }
        for part in [&mut self.main, &mut self.doubtful] {
            if part.as_mut().is_some_and(|part| part.end(name)) {
                *part = None;
            }
        }
        match name {
            "a" => self.is_link = false,
            "picture" => self.source = None,
            _ => {}
        }
    }

    /// A line break. Two of them end a line of links.
    fn line_break(&mut self) {
        if self.is_after_break && self.block.linked > self.block.plain {
            self.end_block();
        }
        self.text_piece(b" ");
        self.is_after_break = true;
    }

    /// Text.
    pub(super) fn text_piece(&mut self, piece: &[u8]) {
        if self.left_out.is_some() {
            return;
        }
        if self.heading.is_some() {
            push_capped(&mut self.heading_text, piece, MAX_BLOCK);
        } else {
            self.is_after_break &= piece.trim_ascii().is_empty();
            self.block.push(piece, self.is_link);
        }
    }

    /// The end of the document.
    pub(super) fn finish(&mut self) {
        self.end_block();
        self.end_heading();
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
        self.prelude = None;
        let heading = String::from_utf8_lossy(&self.heading_text);
        if let Some(first @ None) = self.headings.get_mut(level) {
            *first = text::line(&heading, MAX_HEADING);
        }
        self.heading_text.clear();
    }

    /// Judges the text since the last boundary.
    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.is_after_break = false;
        let text = String::from_utf8_lossy(&block.text);
        let Some(text) = text::line(&text, MAX_BLOCK) else { return };
        let prelude = self.prelude.take();
        if furniture::is_boilerplate(&text) {
            return;
        }
        let (weight, is_sentence) = (weight(&text), text::is_sentence(&text));
        if self.doubtful.is_some() {
            if (self.place == Place::Paragraph || is_sentence)
                && weight >= LEAST_PARAGRAPH
                && !block.is_mostly_links(&text)
            {
                self.keep(6, &text);
            }
            return;
        }
        if block.is_mostly_links(&text) {
            if is_sentence && block.plain_words >= 3 {
                self.keep(5, &text);
            }
            return;
        }
        let is_label = furniture::is_label(&text);
        match (self.place, self.main.is_some()) {
            _ if is_label => {}
            (Place::Paragraph, in_main) => {
                let tier = if in_main { 0 } else { 2 };
                if weight >= LEAST_PARAGRAPH {
                    self.keep(tier, &prelude.unwrap_or_default());
                    self.keep(tier, &text);
                } else if is_sentence {
                    let before = prelude.filter(|prelude| prelude.len() < MAX_BLOCK).unwrap_or_default();
                    self.prelude = Some(format!("{before} {text}").trim_start().to_owned());
                }
            }
            (Place::Other, true) if weight >= 40 => self.keep(1, &text),
            (Place::Other, false) if weight >= 60 => self.keep(3, &text),
            (Place::Other | Place::Preformatted, _) => {}
        }
        let reads = is_sentence || weight >= LEAST_PARAGRAPH || self.place == Place::Paragraph;
        if reads && !is_label && self.place != Place::Preformatted {
            self.keep(4, &text);
        } else if text.contains(char::is_alphabetic) {
            self.keep(5, &text);
        }
    }

    /// Keeps a text while there is not enough of its kind.
    fn keep(&mut self, tier: usize, text: &str) {
        if let Some(known) = self.texts.get_mut(tier)
            && known.chars().count() < ENOUGH_TEXT
        {
            if !known.is_empty() && !text.is_empty() {
                known.push(' ');
            }
            known.push_str(text);
        }
    }

    /// Ranks a picture, if it may be one.
    fn image(&mut self, tag: &Tag) {
        let Some(image) = RawImage::of_img(tag, self.source.take()).filter(|_| !self.is_beside()) else {
            return;
        };
        let is_hidden = furniture::is_hidden(tag);
        let class = tag.get("class").unwrap_or_default().to_ascii_lowercase();
        let is_ornament = ORNAMENTS.iter().any(|word| class.contains(word));
        if !is_hidden {
            self.rank(image, is_ornament);
        }
    }

    /// Whether a picture here is hardly the page's.
    fn is_beside(&self) -> bool {
        self.doubtful.as_ref().is_some_and(|part| part.hold > Hold::Caption)
    }

    /// The still that stands for a film.
    fn poster(&mut self, tag: &Tag) {
        if tag.name() == "video"
            && !self.is_beside()
            && let Some(image) = RawImage::of_poster(tag)
        {
            self.rank(image, false);
        }
    }

    /// Keeps a picture by its rank.
    fn rank(&mut self, image: RawImage, is_ornament: bool) {
        let sides = [image.width, image.height];
        let is_small = sides.into_iter().flatten().any(|side| side < MIN_SIDE);
        // What is in the page has no name to judge by.
        let is_embedded = declared::is_embedded(&image.src);
        if is_small || (!is_embedded && declared::is_placeholder(&image.src)) {
            return;
        }
        let area = match sides {
            [Some(width), Some(height)] => u64::from(width).saturating_mul(u64::from(height)),
            _ => 0,
        };
        let name = if is_embedded { String::new() } else { image.src.to_ascii_lowercase() };
        let is_ornament = is_ornament || ORNAMENTS.iter().any(|word| name.contains(word));
        let rank = (!is_ornament, self.main.is_some(), area >= LARGE_AREA, area);
        if let Some(at) = self.images.iter().position(|(_, known)| known.src == image.src) {
            if self.images.get(at).is_some_and(|(known, _)| *known >= rank) {
                return;
            }
            self.images.remove(at);
        }
        // Of those that stand in the page, and are in memory whole, one is enough.
        let mut embedded = self.images.iter().filter(|(_, known)| declared::is_embedded(&known.src));
        if is_embedded && embedded.any(|(known, _)| *known >= rank) {
            return;
        }
        self.images.retain(|(_, known)| !(is_embedded && declared::is_embedded(&known.src)));
        let at = self.images.partition_point(|(known, _)| *known >= rank);
        if at < MAX_IMAGES {
            self.images.insert(at, (rank, image));
            self.images.truncate(MAX_IMAGES);
        }
    }
}

impl Block {
    /// More text, in a link or not.
    fn push(&mut self, piece: &[u8], is_link: bool) {
        let starts_word = self.text.last().is_none_or(u8::is_ascii_whitespace);
        push_capped(&mut self.text, piece, MAX_BLOCK);
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
        let letters = piece.iter().filter(|byte| is_letter(byte)).count();
        if is_link {
            self.linked = self.linked.saturating_add(letters);
            return;
        }
        self.plain = self.plain.saturating_add(letters);
        let mut was_blank = starts_word;
        for byte in piece {
            if was_blank && is_letter(byte) {
                self.plain_words = self.plain_words.saturating_add(1);
            }
            was_blank = byte.is_ascii_whitespace();
        }
    }

    /// Whether it is a list of links. A sentence may have many of them.
    fn is_mostly_links(&self, text: &str) -> bool {
        let is_prose =
            text::is_sentence(text) && self.plain_words >= 5 && self.plain.saturating_mul(4) >= self.linked;
        self.linked > self.plain && !is_prose
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
            "body" => true,
            "main" => self.hold < Hold::Strong,
            "article" => self.hold < Hold::Medium,
            "h1" => self.hold <= Hold::Weak,
            _ => false,
        }
    }
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

/// How much a text says: a character of Chinese, Japanese or Korean as much as two letters.
fn weight(text: &str) -> usize {
    text.chars().map(|c| if c >= '\u{2e80}' { 2 } else { 1 }).sum()
}

/// Whether an element has no content.
fn is_void(tag: &Tag) -> bool {
    VOID.contains(&tag.name()) || (tag.is_self_closing() && matches!(tag.name(), "svg" | "math"))
}

/// Elements without content.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];

/// Words in the names and classes of pictures that are not the page's.
const ORNAMENTS: [&str; 9] =
    ["logo", "icon", "avatar", "badge", "emoji", "gravatar", "button", "banner", "captcha"];

/// Kinds of text, by place; the last three are all that can be read, all that has letters, and paragraphs of what seems to be
/// furniture.
const TIERS: usize = 7;

/// From this weight on a paragraph says something by itself.
const LEAST_PARAGRAPH: usize = 25;

/// How much text is enough, characters.
const ENOUGH_TEXT: usize = 200;

/// Longest block kept, bytes.
const MAX_BLOCK: usize = 2048;

/// Longest heading kept, characters.
const MAX_HEADING: usize = 500;

/// Smallest side of a picture, pixels: below are icons and the eyes of trackers.
pub(super) const MIN_SIDE: u32 = 50;

/// From this area on a picture is large, pixels.
const LARGE_AREA: u64 = 200 * 150;

/// Most pictures kept.
const MAX_IMAGES: usize = 8;
