//! HTML as a stream of tags and text, tokenized as in browsers, in bounded memory.
//! [WHATWG, tokenization](https://html.spec.whatwg.org/multipage/parsing.html#tokenization).
//!
//! Owns html5gum. Only the attributes in [`KEPT`] are kept, each once and truncated to [`MAX_VALUE`], so a tag of any length costs
//! the same. No input deepens the stack: see [`PausingReader`]. Refuses to know the tree: a handler keeps the few facts about
//! nesting that it needs.

use std::io::{self, Read};
use std::ops::Range;

use html5gum::{Emitter, Error, IoReader, Readable as _, Reader, State, Tokenizer};

/// Receives the document, as a SAX handler does.
pub(super) trait HtmlHandler {
    /// A start tag.
    fn start(&mut self, tag: &Tag);
    /// An end tag.
    fn end(&mut self, name: &str);
    /// Some bytes of text, character references resolved. Pieces may break anywhere, also inside a character.
    fn text(&mut self, piece: &[u8]);
    /// Whether the rest of the document is not needed, `position` bytes into it.
    fn is_done(&mut self, position: usize) -> bool;
}

/// The syntax of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// `text/html`: `<title/>` is a start tag.
    Html,
    /// `application/xhtml+xml`: `<title/>` is an empty element, and CDATA is text.
    Xhtml,
}

/// A start tag.
#[derive(Debug, Default)]
pub(super) struct Tag {
    /// In lower case.
    name: Vec<u8>,
    /// The values of all kept attributes, concatenated.
    values: Vec<u8>,
    /// The kept attributes, with their ranges in `values`.
    attributes: Vec<(&'static str, Range<usize>)>,
    /// Whether the tag ends in `/>`.
    is_self_closing: bool,
}

impl Tag {
    /// The name, in lower case.
    pub(super) fn name(&self) -> &str {
        text_of(&self.name)
    }

    /// The value of an attribute; empty for one without a value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, range) = self.attributes.iter().find(|(known, _)| *known == name)?;
        self.values.get(range.clone()).map(text_of)
    }

    /// Whether the tag ends in `/>`.
    pub(super) fn is_self_closing(&self) -> bool {
        self.is_self_closing
    }

    fn clear(&mut self) {
        self.name.clear();
        self.values.clear();
        self.attributes.clear();
        self.is_self_closing = false;
    }
}

/// Tokenizes a document in UTF-8 to its end, or until `handler` is done.
pub(super) fn read(body: &mut dyn Read, syntax: Syntax, handler: &mut dyn HtmlHandler) -> io::Result<()> {
    run(IoReader::new(body), syntax, handler)
}

/// Tokenizes a document in memory, in any character set that contains ASCII.
pub(super) fn read_bytes(bytes: &[u8], handler: &mut dyn HtmlHandler) {
    let Ok(()) = run(bytes.to_reader(), Syntax::Html, handler);
}

/// Runs the tokenizer. Trait objects keep this large generic code from being compiled for each handler.
fn run<R: Reader>(reader: R, syntax: Syntax, handler: &mut dyn HtmlHandler) -> Result<(), R::Error> {
    let emitter = TagEmitter {
        handler,
        syntax,
        tag: Tag::default(),
        is_end: false,
        is_in_tag: false,
        attribute: Vec::new(),
        kept: None,
        last_start: Vec::new(),
        foreign: 0,
        position: 0,
    };
    let mut tokenizer = Tokenizer::new_with_emitter(PausingReader { reader, reads: 0 }, emitter);
    loop {
        match tokenizer.next() {
            Some(Err(ReadError::Pause)) => {}
            Some(Err(ReadError::Io(error))) => return Err(error),
            // The emitter gives a token only when the handler is done.
            Some(Ok(())) | None => return Ok(()),
        }
    }
}

/// A reader that makes the tokenizer return to [`run`] every few double-quoted values.
///
/// The states of html5gum call one another, and there is one cycle of such calls: from a double-quoted value to the next
/// attribute and its value. The compiler does not turn these calls into jumps, so each attribute of a tag would deepen the
/// stack. A read error unwinds the calls. The next call of the tokenizer resumes in the state that was reading, which is set
/// before it reads and has nothing else to keep.
struct PausingReader<R> {
    reader: R,
    /// Reads in double-quoted values since the last pause.
    reads: u8,
}

/// Why the tokenizer returned.
#[derive(Debug, thiserror::Error)]
enum ReadError<E: std::error::Error> {
    /// Only to unwind the stack.
    #[error("a pause")]
    Pause,
    #[error(transparent)]
    Io(E),
}

impl<R: Reader> Reader for PausingReader<R> {
    type Error = ReadError<R::Error>;

    #[inline]
    fn read_byte(&mut self) -> Result<Option<u8>, Self::Error> {
        self.reader.read_byte().map_err(ReadError::Io)
    }

    #[inline]
    fn try_read_string(&mut self, text: &[u8], case_sensitive: bool) -> Result<bool, Self::Error> {
        self.reader.try_read_string(text, case_sensitive).map_err(ReadError::Io)
    }

    #[inline]
    fn read_until<'b>(
        &'b mut self,
        ends: &[u8],
        buffer: &'b mut [u8; 4],
    ) -> Result<Option<&'b [u8]>, Self::Error> {
        // Only the state of a double-quoted value searches for these two first.
        if ends.starts_with(b"\"&") {
            self.reads = self.reads.checked_add(1).filter(|reads| *reads <= MAX_READS).unwrap_or_default();
            if self.reads == 0 {
                return Err(ReadError::Pause);
            }
        }
        self.reader.read_until(ends, buffer).map_err(ReadError::Io)
    }
}

/// Builds tags from what the tokenizer emits, and hands them to the handler.
struct TagEmitter<'a> {
    handler: &'a mut dyn HtmlHandler,
    syntax: Syntax,
    /// The current tag.
    tag: Tag,
    /// Whether the current tag is an end tag.
    is_end: bool,
    /// Whether the current tag is incomplete.
    is_in_tag: bool,
    /// The name of the current attribute.
    attribute: Vec<u8>,
    /// The current attribute, if it is kept, and where its value begins.
    kept: Option<(&'static str, usize)>,
    /// The name of the last start tag, whose end tag ends raw text.
    last_start: Vec<u8>,
    /// How many `svg` and `math` elements are open.
    foreign: usize,
    /// Bytes read.
    position: usize,
}

impl TagEmitter<'_> {
    /// Ends the current attribute. Of several with one name the first counts.
    fn end_attribute(&mut self) {
        self.begin_value();
        if let Some((name, start)) = self.kept.take() {
            self.tag.attributes.push((name, start..self.tag.values.len()));
        }
        self.attribute.clear();
    }

    /// Decides whether the current attribute is kept, once its name is complete.
    fn begin_value(&mut self) {
        if self.kept.is_none() && !self.is_end && !self.attribute.is_empty() {
            let known = KEPT.iter().find(|name| name.as_bytes() == self.attribute);
            // As in browsers, and so that repetitions cost no memory.
            let known = known.filter(|name| !self.tag.attributes.iter().any(|(earlier, _)| earlier == *name));
            self.kept = known.map(|name| (*name, self.tag.values.len()));
        }
    }

    /// The tokenizer state after a start tag. In foreign content (SVG, MathML) neither `title` nor `style` contains raw text.
    /// `noscript` contains elements, because no script is run.
    fn state_after_start(&mut self) -> Option<State> {
        let is_foreign_root = matches!(self.tag.name.as_slice(), b"svg" | b"math");
        if self.tag.is_self_closing && (is_foreign_root || self.foreign > 0 || self.syntax == Syntax::Xhtml) {
            return None;
        }
        if is_foreign_root {
            self.foreign = self.foreign.saturating_add(1);
        } else if BREAKS_OUT.contains(&self.tag.name()) {
            self.foreign = 0;
        }
        // Here `title` and `style` have child elements, so the tokenizer stays in its data state.
        if self.foreign > 0 {
            return None;
        }
        match self.tag.name.as_slice() {
            b"title" | b"textarea" => Some(State::RcData),
            b"script" => Some(State::ScriptData),
            b"style" | b"iframe" | b"xmp" | b"noembed" | b"noframes" => Some(State::RawText),
            b"plaintext" => Some(State::PlainText),
            _ => None,
        }
    }
}

impl Emitter for TagEmitter<'_> {
    type Token = ();

    fn set_last_start_tag(&mut self, name: Option<&[u8]>) {
        self.last_start = name.unwrap_or_default().to_vec();
    }

    fn emit_eof(&mut self) {}

    fn emit_error(&mut self, _error: Error) {}

    #[inline]
    fn should_emit_errors(&mut self) -> bool {
        false
    }

    #[inline]
    fn pop_token(&mut self) -> Option<()> {
        // Where this is called within a tag depends on how the document was split into reads.
        (!self.is_in_tag && self.handler.is_done(self.position)).then_some(())
    }

    #[inline]
    fn move_position(&mut self, offset: isize) {
        self.position = self.position.saturating_add_signed(offset);
    }

    #[inline]
    fn emit_string(&mut self, piece: &[u8]) {
        self.handler.text(piece);
    }

    fn init_start_tag(&mut self) {
        self.tag.clear();
        self.is_in_tag = true;
        self.is_end = false;
    }

    fn init_end_tag(&mut self) {
        self.tag.clear();
        self.is_in_tag = true;
        self.is_end = true;
    }

    fn init_comment(&mut self) {}

    fn emit_current_tag(&mut self) -> Option<State> {
        self.end_attribute();
        self.is_in_tag = false;
        if self.is_end {
            if matches!(self.tag.name.as_slice(), b"svg" | b"math") {
                self.foreign = self.foreign.saturating_sub(1);
            }
            self.handler.end(self.tag.name());
            return None;
        }
        self.last_start.clone_from(&self.tag.name);
        let state = self.state_after_start();
        self.handler.start(&self.tag);
        // Handlers wait for an end tag.
        if self.tag.is_self_closing && self.syntax == Syntax::Xhtml {
            self.handler.end(self.tag.name());
        }
        state
    }

    fn emit_current_comment(&mut self) {}

    fn emit_current_doctype(&mut self) {}

    fn set_self_closing(&mut self) {
        self.tag.is_self_closing = true;
    }

    fn set_force_quirks(&mut self) {}

    #[inline]
    fn push_tag_name(&mut self, piece: &[u8]) {
        push_capped(&mut self.tag.name, piece, MAX_NAME);
    }

    #[inline]
    fn push_comment(&mut self, _piece: &[u8]) {}

    fn push_doctype_name(&mut self, _piece: &[u8]) {}

    fn init_doctype(&mut self) {}

    fn init_attribute(&mut self) {
        self.end_attribute();
    }

    fn init_attribute_value(&mut self) {
        self.begin_value();
    }

    #[inline]
    fn push_attribute_name(&mut self, piece: &[u8]) {
        push_capped(&mut self.attribute, piece, MAX_NAME);
    }

    #[inline]
    fn push_attribute_value(&mut self, piece: &[u8]) {
        self.begin_value();
        if let Some((name, start)) = self.kept {
            let so_far = self.tag.values.get(start..).unwrap_or_default();
            let may_embed = matches!(name, "src" | "content");
            // Only embedded images may be longer than other values.
            let is_embedded = may_embed && so_far.iter().chain(piece).take(EMBEDDED.len()).eq(EMBEDDED);
            let most = if is_embedded { MAX_EMBEDDED } else { MAX_VALUE };
            push_capped(&mut self.tag.values, piece, start.saturating_add(most));
        }
    }

    fn set_doctype_public_identifier(&mut self, _value: &[u8]) {}

    fn set_doctype_system_identifier(&mut self, _value: &[u8]) {}

    fn push_doctype_public_identifier(&mut self, _piece: &[u8]) {}

    fn push_doctype_system_identifier(&mut self, _piece: &[u8]) {}

    fn current_is_appropriate_end_tag_token(&mut self) -> bool {
        self.is_end && self.tag.name == self.last_start
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&mut self) -> bool {
        self.foreign > 0 || self.syntax == Syntax::Xhtml
    }
}

/// Appends as much of `piece` as keeps `buffer` within `max` bytes.
pub(super) fn push_capped(buffer: &mut Vec<u8>, piece: &[u8], max: usize) {
    let room = max.saturating_sub(buffer.len());
    buffer.extend_from_slice(piece.get(..room).unwrap_or(piece));
}

/// Bytes as text, up to the first invalid UTF-8: a truncated value may end inside a character.
fn text_of(bytes: &[u8]) -> &str {
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// The attributes that are kept.
const KEPT: [&str; 38] = [
    "alt",
    "aria-hidden",
    "charset",
    "class",
    "content",
    "data-a-dynamic-image",
    "data-actualsrc",
    "data-echo",
    "data-hi-res-src",
    "data-image",
    "data-large_image",
    "data-lazy",
    "data-lazy-src",
    "data-lazy-srcset",
    "data-old-hires",
    "data-orig-file",
    "data-original",
    "data-src",
    "data-srcset",
    "data-url",
    "height",
    "hidden",
    "href",
    "http-equiv",
    "id",
    "itemprop",
    "name",
    "poster",
    "property",
    "rel",
    "role",
    "sizes",
    "src",
    "srcset",
    "style",
    "title",
    "type",
    "width",
];

/// Start tags that end foreign content: the common ones of [WHATWG, foreign
/// content](https://html.spec.whatwg.org/multipage/parsing.html#parsing-main-inforeign).
const BREAKS_OUT: [&str; 17] = [
    "body", "br", "center", "div", "h1", "h2", "h3", "head", "hr", "img", "li", "meta", "ol", "p", "span",
    "table", "ul",
];

/// Reads in double-quoted values between two pauses. Each takes up to half a kilobyte of stack.
const MAX_READS: u8 = 16;

/// Longest name of a tag or attribute, bytes. No known name is longer.
const MAX_NAME: usize = 32;

/// Longest value of an attribute, bytes. Longer URLs are not fetched, and texts are cut far shorter.
pub(super) const MAX_VALUE: usize = 4096;

/// How the URL of an embedded image begins.
const EMBEDDED: &[u8; 11] = b"data:image/";

/// Longest URL of an embedded image, bytes.
pub(super) const MAX_EMBEDDED: usize = 256 * 1024;

#[cfg(test)]
mod tests;
