//! What a page shows: headings, paragraphs, images. For pages that declare no description or image.
//!
//! Owns the choice of the text: paragraphs of the main part first, then other paragraphs, then any text that can be read. What is
//! boilerplate, [`super::boilerplate`] knows. Keeps no tree: boilerplate and the main part are tracked by the name of their
//! element. Only a block element ends the text before it; an element that is not rendered leaves the text around it in one piece.

use std::collections::BTreeMap;

use super::boilerplate::{self, Boilerplate, BoilerplateElement};
use super::elements::{is_block, is_void};
use super::html::{Tag, push_capped};
use super::image_ranking::{FoundImage, RankedImages};
use super::image_ref::{self, ImageRef};
use super::open_element::OpenElement;
use super::text;
use super::text_run::{LinkText, MAX_RUN, TextRun, weight};

/// What the body of a page shows, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct VisibleContent {
    /// The open element whose content is left out.
    excluded: Option<BoilerplateElement>,
    /// The open main part.
    main: Option<OpenElement>,
    /// An open element that may be boilerplate and may hold the text all the same.
    doubtful: Option<BoilerplateElement>,
    /// Within an excluded `aside`, an open element whose content is not even read as that of the `aside`.
    excluded_in_aside: Option<OpenElement>,
    /// The text since the last block boundary.
    run: TextRun,
    /// Short paragraphs just before it, which count only together with a longer one.
    short_paragraphs: Option<String>,
    /// What the text stands in.
    block: BlockKind,
    link: LinkText,
    /// Whether only white space came since the last `br`.
    is_after_break: bool,
    /// The largest image of a `source` element, for the `img` element of the same `picture`.
    source: Option<String>,
    /// The level of the open heading, from 0.
    heading: Option<usize>,
    heading_text: Vec<u8>,
    /// Whether a part of the open heading is a link.
    is_heading_linked: bool,
    /// The first heading of each level.
    headings: [Option<String>; 3],
    texts: BTreeMap<TextTier, String>,
    images: RankedImages,
}

/// The element that a text stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum BlockKind {
    #[default]
    Other,
    Paragraph,
    Preformatted,
}

/// How likely a text is the page's, best first. The first tier that has text gives the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TextTier {
    /// Paragraphs of the main part.
    MainParagraph,
    /// Other long blocks of the main part.
    MainBlock,
    Paragraph,
    /// Other long blocks.
    Block,
    /// Sentences, and blocks of some length.
    Readable,
    /// Any text with letters.
    Fragment,
    /// Paragraphs of what may be boilerplate.
    Doubtful,
    /// Links, and what a page about cookies says of cookies.
    Links,
    /// Text of an `aside`.
    Aside,
    /// Headings below the first level.
    Heading,
}

impl VisibleContent {
    /// The first heading of the highest level.
    pub(super) fn heading(&self) -> Option<&str> {
        self.headings.iter().flatten().map(String::as_str).next()
    }

    /// The text of the best tier.
    pub(super) fn text(&self) -> Option<&str> {
        self.texts.values().map(String::as_str).find(|text| !text.is_empty())
    }

    /// Whether there is more text than a page has that only sends readers elsewhere.
    pub(super) fn has_prose(&self) -> bool {
        let own = self.texts.range(..=TextTier::Doubtful);
        own.into_iter().any(|(_, text)| text.chars().count() >= ENOUGH_TEXT)
    }

    pub(super) fn images(&self) -> &RankedImages {
        &self.images
    }

    /// Whether further text would not change the description.
    pub(super) fn has_text(&self) -> bool {
        let best = self.texts.get(&TextTier::MainParagraph);
        best.is_some_and(|text| text.chars().count() >= ENOUGH_TEXT)
    }

    /// Whether the position is inside an element that is not rendered, such as `svg`, whose `title` is not the page's.
    pub(super) fn is_in_unrendered(&self) -> bool {
        self.excluded.as_ref().is_some_and(|excluded| excluded.kind == Boilerplate::Unrendered)
    }

    /// Handles a start tag.
    pub(super) fn start(&mut self, tag: &Tag) {
        let name = tag.name();
        if let Some(excluded) = &mut self.excluded {
            // Pages forget end tags: a start tag that cannot be inside ends the element.
            if !excluded.is_ended_by(name) {
                excluded.element.start(name);
                self.start_in_excluded(tag);
                return;
            }
            self.end_aside();
            self.excluded = None;
        }
        match &mut self.doubtful {
            Some(doubtful) if doubtful.is_ended_by(name) => {
                self.end_run();
                self.doubtful = None;
            }
            Some(doubtful) => doubtful.element.start(name),
            None => {}
        }
        let kind = self.boilerplate(tag);
        // An element that is not rendered does not break the line around it.
        if kind != Some(Boilerplate::Unrendered) && is_block(name) {
            self.end_run();
            self.block = match name {
                "p" => BlockKind::Paragraph,
                "pre" => BlockKind::Preformatted,
                _ => BlockKind::Other,
            };
        }
        if let Some(kind) = kind {
            let element = BoilerplateElement::new(name, kind);
            let may_hold_text =
                matches!(kind, Boilerplate::Caption | Boilerplate::Likely | Boilerplate::Header);
            // An inline element never holds the text of a page.
            if !may_hold_text || !is_block(name) {
                // A `video` is excluded for its fallback text, but its poster frame is seen.
                self.poster(tag);
                if name == "aside" {
                    self.end_run();
                }
                self.excluded = Some(element);
                return;
            }
            // The outermost one counts, because it ends last.
            self.doubtful = self.doubtful.take().or(Some(element));
        }
        self.start_content(tag);
    }

    /// How an element is boilerplate, if it is.
    fn boilerplate(&self, tag: &Tag) -> Option<Boilerplate> {
        let is_in_main = self.main.is_some();
        let kind = if is_in_main { Boilerplate::inside_main(tag) } else { Boilerplate::outside_main(tag) };
        // A label in the middle of a sentence is a part of the sentence.
        let is_in_sentence = tag.name() == "label" && !self.run.is_empty() && !boilerplate::is_hidden(tag);
        kind.filter(|_| !is_void(tag) && !is_in_sentence)
    }

    /// Handles the start tag of an element whose content counts.
    fn start_content(&mut self, tag: &Tag) {
        let name = tag.name();
        match &mut self.main {
            Some(main) => main.start(name),
            None if boilerplate::is_main(tag) => self.main = Some(OpenElement::new(name)),
            None => {}
        }
        // Headings of sidebars and comments are not those of the page.
        if self.doubtful.as_ref().is_none_or(|doubtful| doubtful.kind == Boilerplate::Header) {
            self.start_heading(name);
        }
        match name {
            "a" => self.link = LinkText::of_anchor(tag),
            "picture" => self.source = None,
            // The first `source` is the one for the best format.
            "source" => self.source = self.source.take().or_else(|| image_ref::largest_of_source(tag)),
            "img" | "amp-img" => self.image(tag),
            "br" => self.line_break(),
            _ => {}
        }
    }

    /// Handles a start tag within an excluded element.
    fn start_in_excluded(&mut self, tag: &Tag) {
        // The fallback for an image that a script would load.
        if tag.name() == "img" && self.is_excluded_by("noscript") {
            self.image(tag);
        }
        if !self.is_in_aside() {
            return;
        }
        let name = tag.name();
        if let Some(excluded) = &mut self.excluded_in_aside {
            excluded.start(name);
        // As outside the main part, because the header of an `aside` is not text.
        } else if Boilerplate::outside_main(tag).is_some() && !is_void(tag) {
            self.excluded_in_aside = Some(OpenElement::new(name));
        } else if is_block(name) || name == "br" {
            // All of an `aside` is one run: its blocks are too short to be judged alone.
            self.run.push(b" ", LinkText::Unlinked);
        } else if name == "a" {
            self.link = LinkText::of_anchor(tag);
        }
    }

    /// Handles an end tag within an excluded element, or of it.
    fn end_in_excluded(&mut self, name: &str) {
        let is_over = self.excluded.as_mut().is_some_and(|excluded| excluded.element.end(name));
        if self.is_in_aside() {
            if self.excluded_in_aside.as_mut().is_some_and(|excluded| excluded.end(name)) {
                self.excluded_in_aside = None;
            } else if name == "a" {
                self.link = LinkText::Unlinked;
            } else if is_block(name) {
                self.run.push(b" ", LinkText::Unlinked);
            }
        }
        if is_over {
            self.end_aside();
            self.excluded = None;
        }
    }

    fn is_excluded_by(&self, name: &str) -> bool {
        self.excluded.as_ref().is_some_and(|excluded| excluded.element.name == name)
    }

    /// Whether the position is inside an excluded `aside`, whose text is read in case that the page has no other.
    fn is_in_aside(&self) -> bool {
        self.is_excluded_by("aside")
    }

    /// Keeps the text of an `aside` that ends.
    fn end_aside(&mut self) {
        if !self.is_in_aside() {
            return;
        }
        self.excluded_in_aside = None;
        self.link = LinkText::Unlinked;
        let run = std::mem::take(&mut self.run);
        if let Some(text) = run.line()
            && text::is_sentence(&text)
            && weight(&text) >= MIN_PARAGRAPH
            && !run.is_mostly_links(&text)
            && !boilerplate::is_boilerplate_text(&text)
        {
            self.keep(TextTier::Aside, &text);
        }
    }

    /// Handles an end tag.
    pub(super) fn end(&mut self, name: &str) {
        if self.excluded.is_some() {
            self.end_in_excluded(name);
            return;
        }
        if heading_level(name).is_some() {
            self.end_heading();
        }
        if is_block(name) {
            self.end_run();
            self.block = BlockKind::Other;
        }
        if self.main.as_mut().is_some_and(|main| main.end(name)) {
            self.main = None;
        }
        if self.doubtful.as_mut().is_some_and(|doubtful| doubtful.element.end(name)) {
            self.doubtful = None;
        }
        match name {
            "a" => self.link = LinkText::Unlinked,
            "picture" => self.source = None,
            _ => {}
        }
    }

    /// Handles `br`. Two in a row end a run that is mostly links.
    fn line_break(&mut self) {
        // Menus of old pages are lines of links with `br` between them.
        if self.is_after_break && self.run.linked > self.run.unlinked {
            self.end_run();
        }
        self.text_piece(b" ");
        self.is_after_break = true;
    }

    /// Handles text. Pieces may break anywhere.
    pub(super) fn text_piece(&mut self, piece: &[u8]) {
        if self.excluded.is_some() {
            if self.is_in_aside() && self.excluded_in_aside.is_none() {
                self.run.push(piece, self.link);
            }
            return;
        }
        self.is_heading_linked |= self.link == LinkText::Linked;
        if self.heading.is_some() {
            push_capped(&mut self.heading_text, piece, MAX_RUN);
        } else {
            self.is_after_break &= piece.trim_ascii().is_empty();
            self.run.push(piece, self.link);
        }
    }

    /// Handles the end of the document.
    pub(super) fn finish(&mut self) {
        self.end_aside();
        self.end_run();
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

    /// Ends the open heading.
    fn end_heading(&mut self) {
        let Some(level) = self.heading.take() else { return };
        // A heading separates a short paragraph from the next one.
        self.short_paragraphs = None;
        let heading = String::from_utf8_lossy(&self.heading_text);
        // Further headings of a level are those of sections.
        if let Some(first @ None) = self.headings.get_mut(level) {
            *first = text::line(&heading, MAX_HEADING);
        }
        let is_title = level == 0;
        if let Some(text) = text::line(&heading, MAX_HEADING)
            && !is_title
            && !self.is_heading_linked
            && text::is_sentence(&text)
            && weight(&text) >= MIN_PARAGRAPH
            && !boilerplate::is_boilerplate_text(&text)
        {
            self.keep(TextTier::Heading, &text);
        }
        self.heading_text.clear();
    }

    /// Decides in which tiers the text since the last block boundary is kept.
    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        self.is_after_break = false;
        let Some(text) = run.line() else { return };
        let short_paragraphs = self.short_paragraphs.take();
        let (weight, is_sentence) = (weight(&text), text::is_sentence(&text));
        let is_paragraph = self.block == BlockKind::Paragraph;
        if boilerplate::is_boilerplate_text(&text) {
            // A page about cookies has such sentences in its main part; banners do not.
            let is_content = is_paragraph && self.main.is_some() && self.doubtful.is_none();
            if is_content
                && is_sentence
                && weight >= MIN_ABOUT_COOKIES
                && boilerplate::is_about_cookies(&text)
            {
                self.keep(TextTier::Links, &text);
            }
            return;
        }
        if self.doubtful.is_some() {
            if (is_paragraph || is_sentence) && weight >= MIN_PARAGRAPH && !run.is_mostly_links(&text) {
                self.keep(TextTier::Doubtful, &text);
            }
            return;
        }
        if run.is_mostly_links(&text) {
            // A sentence of links, as in an index of articles, says more than a menu.
            if is_sentence && run.unlinked_words >= 3 {
                self.keep(TextTier::Fragment, &text);
            } else if (is_sentence || is_paragraph)
                && weight >= MIN_PARAGRAPH
                && !boilerplate::is_navigation_hint(&text)
            {
                self.keep(TextTier::Links, &text);
            }
            return;
        }
        let is_byline = boilerplate::is_byline(&text);
        if !is_byline {
            self.keep_prose(&text, short_paragraphs);
        }
        let is_readable = is_sentence || weight >= MIN_PARAGRAPH || is_paragraph;
        // Code and tables of figures read worse than any sentence.
        if is_readable && !is_byline && self.block != BlockKind::Preformatted {
            self.keep(TextTier::Readable, &text);
        } else if text.contains(char::is_alphabetic) {
            self.keep(TextTier::Fragment, &text);
        }
    }

    /// Keeps a text that is neither boilerplate nor links by the element it stands in. A short paragraph waits for a longer one.
    fn keep_prose(&mut self, text: &str, short_paragraphs: Option<String>) {
        let weight = weight(text);
        match (self.block, self.main.is_some()) {
            (BlockKind::Paragraph, is_in_main) => {
                let tier = if is_in_main { TextTier::MainParagraph } else { TextTier::Paragraph };
                if weight >= MIN_PARAGRAPH {
                    self.keep(tier, &short_paragraphs.unwrap_or_default());
                    self.keep(tier, text);
                } else if text::is_sentence(text) {
                    // Bounded: a page may consist of short paragraphs alone.
                    let before = short_paragraphs.filter(|short| short.len() < MAX_RUN).unwrap_or_default();
                    self.short_paragraphs = Some(format!("{before} {text}").trim_start().to_owned());
                }
            }
            (BlockKind::Other, true) if weight >= MIN_MAIN_BLOCK => self.keep(TextTier::MainBlock, text),
            (BlockKind::Other, false) if weight >= MIN_BLOCK => self.keep(TextTier::Block, text),
            (BlockKind::Other | BlockKind::Preformatted, _) => {}
        }
    }

    /// Appends a text to its tier until the tier has enough.
    fn keep(&mut self, tier: TextTier, text: &str) {
        let kept = self.texts.entry(tier).or_default();
        // Checked before and not after: the last paragraph is kept whole and cut at a sentence later.
        if kept.chars().count() < ENOUGH_TEXT {
            if !kept.is_empty() && !text.is_empty() {
                kept.push(' ');
            }
            kept.push_str(text);
        }
    }

    /// Handles an `img` element.
    fn image(&mut self, tag: &Tag) {
        let image = ImageRef::of_img(tag, self.source.take());
        if let Some(image) = image
            && !self.is_beside_content()
            && !boilerplate::is_hidden(tag)
        {
            let class = tag.get("class").unwrap_or_default();
            self.images.push(FoundImage { image, class, is_in_main: self.main.is_some() });
        }
    }

    /// Whether an image at the position is hardly the page's.
    fn is_beside_content(&self) -> bool {
        self.doubtful.as_ref().is_some_and(|doubtful| doubtful.kind > Boilerplate::Caption)
    }

    /// Handles the poster frame of a `video` element.
    fn poster(&mut self, tag: &Tag) {
        if tag.name() == "video"
            && !self.is_beside_content()
            && let Some(image) = ImageRef::of_poster(tag)
        {
            self.images.push(FoundImage { image, class: "", is_in_main: self.main.is_some() });
        }
    }
}

/// The level of a heading, from 0. Headings of level 4 to 6 are never a title, but not paragraphs either.
fn heading_level(name: &str) -> Option<usize> {
    match name {
        "h1" => Some(0),
        "h2" => Some(1),
        "h3" => Some(2),
        "h4" | "h5" | "h6" => Some(usize::MAX),
        _ => None,
    }
}

/// Least [`weight`] of a paragraph about cookies that counts as content.
const MIN_ABOUT_COOKIES: usize = 60;

/// Least [`weight`] of a paragraph that counts by itself.
const MIN_PARAGRAPH: usize = 25;

/// Least [`weight`] of another block of the main part.
const MIN_MAIN_BLOCK: usize = 40;

/// Least [`weight`] of another block.
const MIN_BLOCK: usize = 60;

/// How much text of a tier is enough, characters.
const ENOUGH_TEXT: usize = 200;

/// Longest heading kept, characters.
const MAX_HEADING: usize = 500;
