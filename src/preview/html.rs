//! HTML as tags and text, as a browser's tokenizer sees them, in bounded memory.
//!
//! Owns the html5gum crate ([WHATWG, tokenization](https://html.spec.whatwg.org/multipage/parsing.html#tokenization)).
//! There is no tree: who listens keeps the few facts of nesting it needs. Only the attributes in [`KEPT`] are kept, each
//! once and cut at [`MAX_VALUE`], so a tag of any length costs the same. No input deepens the stack: see [`Paced`].

use std::io::{self, Read};
use std::ops::Range;

use html5gum::{Emitter, Error, IoReader, Readable as _, Reader, State, Tokenizer};

/// Hears the document.
pub(super) trait Listener {
    /// A start tag.
    fn start(&mut self, tag: &Tag);
    /// An end tag.
    fn end(&mut self, name: &str);
    /// Some bytes of text, entities resolved. Pieces break anywhere, also inside a character.
    fn text(&mut self, piece: &[u8]);
    /// Whether it has heard enough, so many bytes into the document.
    fn is_done(&mut self, position: usize) -> bool;
}

/// How the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// `text/html`: `<title/>` opens a title.
    Html,
    /// `application/xhtml+xml`: `<title/>` is a whole element, and CDATA is text.
    Xhtml,
}

/// A start tag.
#[derive(Debug, Default)]
pub(super) struct Tag {
    /// In lower case.
    name: Vec<u8>,
    /// The values of the attributes, one behind the other.
    values: Vec<u8>,
    /// The kept attributes, with their places in `values`.
    attributes: Vec<(&'static str, Range<usize>)>,
    /// Whether it ends in `/>`.
    is_self_closing: bool,
}

impl Tag {
    /// Its name, in lower case.
    pub(super) fn name(&self) -> &str {
        text_of(&self.name)
    }

    /// An attribute's value; empty if it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, range) = self.attributes.iter().find(|(known, _)| *known == name)?;
        self.values.get(range.clone()).map(text_of)
    }

    /// Whether the element ends with its start tag.
    pub(super) fn is_self_closing(&self) -> bool {
        self.is_self_closing
    }

    /// Begins anew.
    fn clear(&mut self) {
        self.name.clear();
        self.values.clear();
        self.attributes.clear();
        self.is_self_closing = false;
    }
}

/// Reads a document in UTF-8 to its end, or until `listener` has heard enough.
pub(super) fn read(mut body: impl Read, syntax: Syntax, listener: &mut dyn Listener) -> io::Result<()> {
    let body: &mut dyn Read = &mut body;
    run(IoReader::new(body), syntax, listener)
}

/// Reads a document that is in memory, in any character set that contains ASCII.
pub(super) fn read_bytes(bytes: &[u8], listener: &mut dyn Listener) {
    let Ok(()) = run(bytes.to_reader(), Syntax::Html, listener);
}

/// Drives the tokenizer. It is generic over all it meets and large: trait objects keep it from being compiled for each listener.
fn run<R: Reader>(reader: R, syntax: Syntax, listener: &mut dyn Listener) -> Result<(), R::Error> {
    let bridge = Bridge {
        listener,
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
    let mut tokenizer = Tokenizer::new_with_emitter(Paced { reader, reads: 0 }, bridge);
    loop {
        match tokenizer.next() {
            Some(Err(Stop::Pause)) => {}
            Some(Err(Stop::Failed(error))) => return Err(error),
            // Each item means that the listener is done.
            Some(Ok(())) | None => return Ok(()),
        }
    }
}

/// A reader that makes the tokenizer come back to [`run`] every few double-quoted values.
///
/// html5gum's states call one another where one follows another, and there is one circle of such calls: around a
/// double-quoted value, to the next attribute and its value. The compiler does not turn them into jumps, so each attribute
/// of a tag would deepen the stack. An error of the reader ends the calls, and the next call of the tokenizer goes on where
/// the last began to read: in the value, for that state is noted before it reads and has nothing else to keep.
struct Paced<R> {
    /// The document.
    reader: R,
    /// How often it was read in a double-quoted value since the last pause.
    reads: u8,
}

/// Why the tokenizer came back.
#[derive(Debug, thiserror::Error)]
enum Stop<E: std::error::Error> {
    /// To be called again.
    #[error("a pause")]
    Pause,
    /// The document cannot be read.
    #[error(transparent)]
    Failed(E),
}

impl<R: Reader> Reader for Paced<R> {
    type Error = Stop<R::Error>;

    #[inline]
    fn read_byte(&mut self) -> Result<Option<u8>, Self::Error> {
        self.reader.read_byte().map_err(Stop::Failed)
    }

    #[inline]
    fn try_read_string(&mut self, text: &[u8], case_sensitive: bool) -> Result<bool, Self::Error> {
        self.reader.try_read_string(text, case_sensitive).map_err(Stop::Failed)
    }

    #[inline]
    fn read_until<'b>(
        &'b mut self,
        ends: &[u8],
        buffer: &'b mut [u8; 4],
    ) -> Result<Option<&'b [u8]>, Self::Error> {
        // Of all states only the double-quoted value looks for both of these and nothing before them.
        if ends.starts_with(b"\"&") {
            self.reads = self.reads.checked_add(1).filter(|reads| *reads <= MAX_READS).unwrap_or_default();
            if self.reads == 0 {
                return Err(Stop::Pause);
            }
        }
        self.reader.read_until(ends, buffer).map_err(Stop::Failed)
    }
}

/// Makes tags of what the tokenizer finds.
struct Bridge<'a> {
    /// Who hears them.
    listener: &'a mut dyn Listener,
    /// How the document is written.
    syntax: Syntax,
    /// The tag under way.
    tag: Tag,
    /// Whether it is an end tag.
    is_end: bool,
    /// Whether it is not over yet.
    is_in_tag: bool,
    /// The name of the attribute under way.
    attribute: Vec<u8>,
    /// The attribute under way, if it is kept, and where its value begins.
    kept: Option<(&'static str, usize)>,
    /// The name of the last start tag: what ends a script.
    last_start: Vec<u8>,
    /// How many `svg` and `math` elements are open.
    foreign: usize,
    /// How many bytes were read.
    position: usize,
}

impl Bridge<'_> {
    /// Settles the attribute under way. The first of a name counts.
    fn end_attribute(&mut self) {
        self.begin_value();
        if let Some((name, start)) = self.kept.take() {
            self.tag.attributes.push((name, start..self.tag.values.len()));
        }
        self.attribute.clear();
    }

    /// Decides whether the attribute under way is kept, once its name is known.
    fn begin_value(&mut self) {
        if self.kept.is_none() && !self.is_end && !self.attribute.is_empty() {
            let known = KEPT.iter().find(|name| name.as_bytes() == self.attribute);
            let known = known.filter(|name| !self.tag.attributes.iter().any(|(earlier, _)| earlier == *name));
            self.kept = known.map(|name| (*name, self.tag.values.len()));
        }
    }

    /// Tracks foreign content, in which neither `title` nor `style` holds raw text. `noscript` holds elements, for no script
    /// is run here.
    fn enter(&mut self) -> Option<State> {
        let is_foreign_root = matches!(self.tag.name.as_slice(), b"svg" | b"math");
        if self.tag.is_self_closing && (is_foreign_root || self.foreign > 0 || self.syntax == Syntax::Xhtml) {
            return None;
        }
        if is_foreign_root {
            self.foreign = self.foreign.saturating_add(1);
        } else if BREAKS_OUT.contains(&self.tag.name()) {
            self.foreign = 0;
        }
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

impl Emitter for Bridge<'_> {
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
        // Where it comes back within a tag depends on the pieces in which the document comes.
        (!self.is_in_tag && self.listener.is_done(self.position)).then_some(())
    }

    #[inline]
    fn move_position(&mut self, offset: isize) {
        self.position = self.position.saturating_add_signed(offset);
    }

    #[inline]
    fn emit_string(&mut self, piece: &[u8]) {
        self.listener.text(piece);
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
            self.listener.end(self.tag.name());
            return None;
        }
        self.last_start.clone_from(&self.tag.name);
        let state = self.enter();
        self.listener.start(&self.tag);
        if self.tag.is_self_closing && self.syntax == Syntax::Xhtml {
            self.listener.end(self.tag.name());
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

/// Bytes as text, up to the first that are none: a value that was cut may end inside a character.
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

/// Start tags that end foreign content ([WHATWG, foreign
/// content](https://html.spec.whatwg.org/multipage/parsing.html#parsing-main-inforeign)), those that pages have.
const BREAKS_OUT: [&str; 17] = [
    "body", "br", "center", "div", "h1", "h2", "h3", "head", "hr", "img", "li", "meta", "ol", "p", "span",
    "table", "ul",
];

/// How often the tokenizer reads double-quoted values before it comes back. Each takes up to half a kilobyte of the stack.
const MAX_READS: u8 = 16;

/// Longest name of a tag or attribute, bytes; a longer one is unknown anyway.
const MAX_NAME: usize = 32;

/// Longest value of an attribute, bytes. A URL that is longer is none, a text is cut far shorter.
pub(super) const MAX_VALUE: usize = 4096;

/// How the address of a picture begins that stands in the page itself.
const EMBEDDED: &[u8; 11] = b"data:image/";

/// The longest such address that is kept, bytes.
pub(super) const MAX_EMBEDDED: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    #![allow(
        clippy::arithmetic_side_effects,
        clippy::format_push_string,
        clippy::format_collect,
        reason = "tests"
    )]
    use super::*;

    /// Writes down what it hears.
    #[derive(Default, PartialEq, Eq, Debug)]
    struct Scribe(String);

    impl Listener for Scribe {
        fn start(&mut self, tag: &Tag) {
            let values: Vec<_> = KEPT.iter().filter_map(|name| Some((*name, tag.get(name)?))).collect();
            self.0.push_str(&format!("<{} {values:?} {}>", tag.name(), tag.is_self_closing()));
        }

        fn end(&mut self, name: &str) {
            self.0.push_str(&format!("</{name}>"));
        }

        fn text(&mut self, piece: &[u8]) {
            self.0.push_str(text_of(piece));
        }

        fn is_done(&mut self, _position: usize) -> bool {
            false
        }
    }

    fn heard(html: &str) -> String {
        let mut scribe = Scribe::default();
        read_bytes(html.as_bytes(), &mut scribe);
        scribe.0
    }

    #[test]
    fn a_value_is_the_same_in_either_quotes() {
        for (html, expected) in [
            (r#"<a href="x">t</a>"#, r#"<a [("href", "x")] false>t</a>"#),
            (r#"<a href="">"#, r#"<a [("href", "")] false>"#),
            (
                r#"<a href="1&amp;2&#51;&x&" id="b"class="c"/>"#,
                r#"<a [("class", "c"), ("href", "1&23&x&"), ("id", "b")] true>"#,
            ),
            (r#"<a href = "a'b>c" href="later">"#, r#"<a [("href", "a'b>c")] false>"#),
            ("<a href=\"a\r\nb\rc\0\">", "<a [(\"href\", \"a\\nb\\nc\u{fffd}\")] false>"),
            (r#"</a href="x">t"#, "</a>t"),
            (r#"<a href="x"#, ""),
            (r#"<a href="x&"#, ""),
        ] {
            assert_eq!(heard(html), expected, "{html}");
            let other = html.replace('\'', "\u{1}").replace('"', "'").replace('\u{1}', "\"");
            let expected = expected.replace("a'b>c", "a\\\"b>c");
            assert_eq!(heard(&other), expected, "{other}");
        }
    }

    #[test]
    fn of_a_tag_without_end_little_is_kept() {
        let mut tag = String::from("<a ");
        for n in 0..1000 {
            tag.push_str(&format!("data-{n}=\"{}\" href=\"{n}\" title{n} ", "v".repeat(1000)));
        }
        assert_eq!(heard(&format!("{tag}>")), r#"<a [("href", "0")] false>"#);
        let all: String = KEPT.iter().map(|name| format!("{name}=\"{}\" ", "v".repeat(100_000))).collect();
        assert!(heard(&format!("<a {all}>")).len() < KEPT.len() * (MAX_VALUE + MAX_NAME + 10));
    }
}
