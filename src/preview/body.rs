//! What a page shows: headings, the first paragraphs, pictures. For pages that declare nothing.
//!
//! Owns the choice of the text: that of the main part before others, paragraphs before what merely stands there, and
//! without any of these all that can be read. What is furniture, [`super::furniture`] knows. It keeps no tree: a part of the
//! page that is left out, or is the main one, is known by the name of its element, and ends when as many of that name have
//! ended as began. Only an element that begins a line ends the text before it; one that is not shown leaves it whole.

use super::block::{Block, MAX_BLOCK, weight};
use super::declared::{self, RawImage};
use super::furniture::{self, Hold};
use super::html::{Tag, push_capped};
use super::part::{Part, is_void};
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
    /// What is left out of a part that stands beside the text, if such an element is open.
    left_out_beside: Option<Part>,
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
    /// Whether some of it is a link.
    is_heading_linked: bool,
    /// The first heading of each level.
    headings: [Option<String>; 3],
    /// Text by how likely it is the page's.
    texts: [String; TIERS],
    /// Pictures with their ranks, best first.
    images: Vec<(Rank, RawImage)>,
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
        self.texts.iter().take(OWN_TIERS).any(|text| text.chars().count() >= ENOUGH_TEXT)
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
            self.end_beside();
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
        // One that stands in a sentence is a part of it.
        let hold = hold.filter(|_| name != "label" || self.block.is_empty() || furniture::is_hidden(tag));
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
                if name == "aside" {
                    self.end_block();
                }
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
        if !self.is_beside_text() {
            return;
        }
        let name = tag.name();
        if let Some(part) = &mut self.left_out_beside {
            part.start(name);
        } else if let Some(hold) = furniture::hold(tag, false).filter(|_| !is_void(tag)) {
            self.left_out_beside = Some(Part { name: name.to_owned(), depth: 1, hold });
        } else if text::is_block(name) || name == "br" {
            self.block.push(b" ", false);
        } else if name == "a" {
            self.is_link = tag.get("href").is_some();
        }
    }

    /// An end tag within a part that is left out, or of it.
    fn end_left_out(&mut self, name: &str) {
        let is_over = self.left_out.as_mut().is_some_and(|part| part.end(name));
        if self.is_beside_text() {
            if self.left_out_beside.as_mut().is_some_and(|part| part.end(name)) {
                self.left_out_beside = None;
            } else if name == "a" {
                self.is_link = false;
            } else if text::is_block(name) {
                self.block.push(b" ", false);
            }
        }
        if is_over {
            self.end_beside();
            self.left_out = None;
        }
    }

    /// Whether what comes stands beside the text, where it is read in case that there is no other.
    fn is_beside_text(&self) -> bool {
        self.left_out.as_ref().is_some_and(|part| part.name == "aside")
    }

    /// Ends a part beside the text.
    fn end_beside(&mut self) {
        if !self.is_beside_text() {
            return;
        }
        self.left_out_beside = None;
        self.is_link = false;
        let block = std::mem::take(&mut self.block);
        if let Some(text) = block.line()
            && text::is_sentence(&text)
            && weight(&text) >= LEAST_PARAGRAPH
            && !block.is_mostly_links(&text)
            && !furniture::is_boilerplate(&text)
        {
            self.keep(8, &text);
        }
    }

    /// An end tag.
    pub(super) fn end(&mut self, name: &str) {
        if self.left_out.is_some() {
            self.end_left_out(name);
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
            if self.is_beside_text() && self.left_out_beside.is_none() {
                self.block.push(piece, self.is_link);
            }
            return;
        }
        self.is_heading_linked |= self.is_link;
        if self.heading.is_some() {
            push_capped(&mut self.heading_text, piece, MAX_BLOCK);
        } else {
            self.is_after_break &= piece.trim_ascii().is_empty();
            self.block.push(piece, self.is_link);
        }
    }

    /// The end of the document.
    pub(super) fn finish(&mut self) {
        self.end_beside();
        self.end_block();
        self.end_heading();
    }

    /// Begins a heading, if the element is one.
    fn start_heading(&mut self, name: &str) {
        if let Some(level) = heading_level(name) {
            self.end_heading();
            self.heading = Some(level);
            self.is_heading_linked = false;
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
        let is_title = level == 0;
        if let Some(text) = text::line(&heading, MAX_HEADING)
            && !is_title
            && !self.is_heading_linked
            && text::is_sentence(&text)
            && weight(&text) >= LEAST_PARAGRAPH
            && !furniture::is_boilerplate(&text)
        {
            self.keep(9, &text);
        }
        self.heading_text.clear();
    }

    /// Judges the text since the last boundary.
    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.is_after_break = false;
        let Some(text) = block.line() else { return };
        let prelude = self.prelude.take();
        let (weight, is_sentence) = (weight(&text), text::is_sentence(&text));
        if furniture::is_boilerplate(&text) {
            // It may be what a page about cookies says.
            let is_text = self.place == Place::Paragraph && self.main.is_some() && self.doubtful.is_none();
            if is_text && is_sentence && weight >= LEAST_CONSENT && furniture::is_about_cookies(&text) {
                self.keep(7, &text);
            }
            return;
        }
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
            } else if (is_sentence || self.place == Place::Paragraph)
                && weight >= LEAST_PARAGRAPH
                && !furniture::is_signpost(&text)
            {
                self.keep(7, &text);
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

/// Words in the names and classes of pictures that are not the page's.
const ORNAMENTS: [&str; 9] =
    ["logo", "icon", "avatar", "badge", "emoji", "gravatar", "button", "banner", "captcha"];

/// Kinds of text, by place. Behind those of paragraphs come all that can be read, all that has letters, paragraphs of what
/// seems to be furniture, links and what is said of cookies, what stands beside the text, and headings.
const TIERS: usize = 10;

/// How many of them are the text of a page for sure.
const OWN_TIERS: usize = 7;

/// From this weight on a paragraph of cookies says more than that there are some.
const LEAST_CONSENT: usize = 60;

/// From this weight on a paragraph says something by itself.
const LEAST_PARAGRAPH: usize = 25;

/// How much text is enough, characters.
const ENOUGH_TEXT: usize = 200;

/// Longest heading kept, characters.
const MAX_HEADING: usize = 500;

/// Smallest side of a picture, pixels: below are icons and the eyes of trackers.
pub(super) const MIN_SIDE: u32 = 50;

/// From this area on a picture is large, pixels.
const LARGE_AREA: u64 = 200 * 150;

/// Most pictures kept.
const MAX_IMAGES: usize = 8;
