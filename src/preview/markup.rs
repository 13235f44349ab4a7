//! HTML and character references in values that should be plain text.
//!
//! Owns the guess whether such a value is HTML, and the text of a piece of HTML. Refuses to know lengths and characters of the
//! result, which are [`super::text`]'s.

use std::borrow::Cow;

use super::elements::{is_block, is_unrendered};
use super::html::{self, HtmlHandler, Tag, push_capped};
use super::text::is_sentence;

/// Resolves character references that end in a semicolon. The value was escaped twice where there are some.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        resolved.push_str(before);
        let length = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '#').unwrap_or(after.len());
        let is_reference = (2..=MAX_REFERENCE).contains(&length)
            && after.get(length..).is_some_and(|rest| rest.starts_with(';'));
        let end = if is_reference { length.saturating_add(1) } else { 0 };
        let reference =
            rest.get(before.len()..before.len().saturating_add(1).saturating_add(end)).unwrap_or("&");
        let text = if is_reference { text_of_html(reference) } else { "&".to_owned() };
        // `text_of_html` may resolve the beginning of an unknown name, as browsers do; then the semicolon is left over.
        let is_known = text == ";" || !text.ends_with(';');
        resolved.push_str(if is_known { &text } else { reference });
        rest = after.get(end..).unwrap_or_default();
    }
    resolved.push_str(rest);
    Cow::Owned(resolved)
}

/// The text of a piece of HTML, at most [`MAX_COLLECTED`] bytes.
pub(super) fn text_of_html(html: &str) -> String {
    let mut collector = TextCollector::default();
    html::read_bytes(html.as_bytes(), &mut collector);
    String::from_utf8_lossy(&collector.text).into_owned()
}

/// A value without the tag or comment at its end, if it was truncated inside it.
pub(super) fn without_cut_tag(value: &str) -> &str {
    let Some((before, after)) = value.rsplit_once('<').filter(|(_, after)| !after.contains('>')) else {
        return value;
    };
    let (is_end, rest) = after.strip_prefix('/').map_or((false, after), |rest| (true, rest));
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(length);
    // Unknown names are more likely those of generic types, as in `List<T`.
    let is_known = TEXT_ELEMENTS.iter().any(|known| known.eq_ignore_ascii_case(name));
    // `a <b` may be a comparison.
    let is_name = is_known && (name.len() > 1 || matches!(name, "p" | "a"));
    let word = rest.trim_start().to_ascii_lowercase();
    let begins_attribute = ATTRIBUTES.iter().any(|known| known.starts_with(&word));
    let is_tag = if rest.is_empty() {
        is_end || is_name
    } else {
        is_known
            && rest.starts_with(char::is_whitespace)
            && (rest.contains('=') || (is_name && begins_attribute))
    };
    if is_tag || after.starts_with("!--") { before } else { value }
}

/// Whether a value begins or ends with a comment that has words.
fn has_comment(value: &str) -> bool {
    value.split_once("<!--").is_some_and(|(before, rest)| {
        rest.split_once("-->").is_some_and(|(inside, after)| {
            let is_at_edge = before.trim().is_empty() != after.trim().is_empty();
            is_at_edge && inside.contains(char::is_alphanumeric)
        })
    })
}

/// Whether a value that should be text is HTML: it closes an element, or opens one with attributes. A page about HTML may well
/// mention a lone `<div>`.
pub(super) fn is_html(value: &str) -> bool {
    has_comment(value)
        || value.match_indices('<').any(|(at, _)| {
            let rest = value.get(at..).unwrap_or_default().trim_start_matches('<');
            let (is_end, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(length);
            if !TEXT_ELEMENTS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return false;
            }
            let Some((inside, after)) = rest.split_once('>') else { return false };
            // At the start it is more likely what a page about HTML writes of.
            let is_break = name.eq_ignore_ascii_case("br") && at > 0;
            let before = value.get(..at).unwrap_or_default();
            let is_glued = inside.is_empty()
                && BREAKING.iter().any(|known| known.eq_ignore_ascii_case(name))
                && is_between_words(before, after);
            is_end || is_break || is_glued || inside.trim_end().ends_with('/') || inside.contains('=')
        })
}

/// Whether a tag stands between two texts as only markup does: without white space before it, and before a word. A page about
/// HTML writes tags with spaces around them, or in the plural.
fn is_between_words(before: &str, after: &str) -> bool {
    let follows_directly = !before.ends_with(char::is_whitespace);
    let word = after.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let ends_all = after.is_empty() && is_sentence(before);
    follows_directly && (!matches!(word, "" | "s") || ends_all)
}

/// Collects the text of a piece of HTML.
#[derive(Default)]
struct TextCollector {
    text: Vec<u8>,
    /// The name of the open element whose text is left out.
    excluded: Option<String>,
}

impl HtmlHandler for TextCollector {
    fn start(&mut self, tag: &Tag) {
        // A self-closing tag has no end tag that would end the exclusion.
        if self.excluded.is_none() && is_unrendered(tag.name()) && !tag.is_self_closing() {
            self.excluded = Some(tag.name().to_owned());
        }
        if is_block(tag.name()) || tag.name() == "br" {
            push_capped(&mut self.text, b" ", MAX_COLLECTED);
        }
    }

    fn end(&mut self, name: &str) {
        if self.excluded.as_deref() == Some(name) {
            self.excluded = None;
        }
        if is_block(name) {
            push_capped(&mut self.text, b" ", MAX_COLLECTED);
        }
    }

    fn text(&mut self, piece: &[u8]) {
        if self.excluded.is_none() {
            push_capped(&mut self.text, piece, MAX_COLLECTED);
        }
    }

    fn is_done(&mut self, _position: usize) -> bool {
        self.text.len() >= MAX_COLLECTED
    }
}

/// Block elements that values have without end tags.
const BREAKING: [&str; 6] = ["br", "div", "li", "ol", "p", "ul"];

/// Longest name of a character reference, bytes: `CounterClockwiseContourIntegral`.
const MAX_REFERENCE: usize = 32;

/// Elements that occur in values that are HTML.
const TEXT_ELEMENTS: [&str; 36] = [
    "a",
    "abbr",
    "article",
    "b",
    "blockquote",
    "br",
    "center",
    "cite",
    "code",
    "dd",
    "div",
    "dl",
    "dt",
    "em",
    "figure",
    "font",
    "h1",
    "h2",
    "h3",
    "h4",
    "i",
    "iframe",
    "img",
    "li",
    "ol",
    "p",
    "pre",
    "script",
    "section",
    "span",
    "strong",
    "style",
    "table",
    "td",
    "u",
    "ul",
];

/// Attributes that occur in such values.
const ATTRIBUTES: [&str; 9] = ["alt", "class", "href", "id", "rel", "src", "style", "target", "title"];

/// Most text read of one value, bytes.
pub(super) const MAX_COLLECTED: usize = 8 * 1024;
