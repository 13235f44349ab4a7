//! Text as it is shown: one line, without control characters, without markup, of bounded length.
//!
//! Owns what is removed. Bidirectional overrides, embeddings and isolates go, because they would act on the words around
//! the preview; the marks that order a name in Arabic or Hebrew (U+200E, U+200F, U+061C) and the joiners of Persian and
//! of emoji stay.

use super::html::{self, Listener, Tag, push_capped};

/// A value that a page declares, as one line of at most `max` characters; `None` if nothing is left. Values that are HTML
/// are read as HTML, once.
pub(super) fn clean(value: &str, max: usize) -> Option<String> {
    let value = beginning(value);
    if is_html(value) { line(&text_of_html(value), max) } else { line(value, max) }
}

/// A value of JSON, which ought to be text but often has entities or is HTML.
pub(super) fn clean_json(value: &str, max: usize) -> Option<String> {
    let value = beginning(value);
    if value.contains('&') && !is_html(value) {
        line(&text_of_html(&value.replace('<', "&lt;")), max)
    } else {
        clean(value, max)
    }
}

/// As much of a value as is looked at: [`is_html`] may look at each byte many times.
fn beginning(value: &str) -> &str {
    value.get(..value.floor_char_boundary(MAX_GATHERED)).unwrap_or(value)
}

/// Text as one line of at most `max` characters, whatever it says.
pub(super) fn line(text: &str, max: usize) -> Option<String> {
    let mut line = String::new();
    let mut length = 0_usize;
    let mut is_gap = false;
    for c in text.chars() {
        if c.is_whitespace() {
            is_gap = true;
            continue;
        }
        if is_removed(c) {
            continue;
        }
        if std::mem::take(&mut is_gap) && !line.is_empty() {
            line.push(' ');
            length = length.saturating_add(1);
        }
        line.push(c);
        length = length.saturating_add(1);
        if length > max {
            return Some(shorten(&line, max));
        }
    }
    (!line.is_empty()).then_some(line)
}

/// The text of a piece of HTML.
pub(super) fn text_of_html(html: &str) -> String {
    let mut gatherer = Gatherer::default();
    html::read_bytes(html.as_bytes(), &mut gatherer);
    String::from_utf8_lossy(&gatherer.text).into_owned()
}

/// Whether a value that ought to be text is HTML: it closes an element, or opens one that has attributes. A lone `<div>`
/// is what a page about HTML talks of.
fn is_html(value: &str) -> bool {
    value.match_indices('<').any(|(at, _)| {
        let rest = value.get(at..).unwrap_or_default().trim_start_matches('<');
        let (is_end, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(length);
        if !TEXT_ELEMENTS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return false;
        }
        let Some((inside, _)) = rest.split_once('>') else { return false };
        let is_break = name.eq_ignore_ascii_case("br") && at > 0;
        is_end || is_break || inside.trim_end().ends_with('/') || inside.contains('=')
    })
}

/// Whether a character is never shown.
fn is_removed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}' | '\u{fdd0}'..='\u{fdef}')
        || u32::from(c) & 0xfffe == 0xfffe
}

/// The beginning of `line`, at most `max` characters with the ellipsis. It ends with a word where one ends nearby.
fn shorten(line: &str, max: usize) -> String {
    let end = line.char_indices().nth(max.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let start = line.get(..end).unwrap_or(line);
    let is_whole = line.get(end..).is_some_and(|rest| rest.starts_with(' '));
    let word = start.rfind(' ').filter(|_| !is_whole).and_then(|at| start.get(..at));
    let is_near = |word: &&str| word.len() >= start.len().saturating_mul(4).div_euclid(5);
    let start = word.filter(is_near).unwrap_or(start);
    let start = start.trim_end_matches(|c: char| c.is_whitespace() || ",;:–—-\u{200d}".contains(c));
    format!("{start}…")
}

/// Gathers the text of a piece of HTML.
#[derive(Default)]
struct Gatherer {
    /// The text so far.
    text: Vec<u8>,
    /// The element that is left out, if one is open.
    left_out: Option<String>,
}

impl Listener for Gatherer {
    fn start(&mut self, tag: &Tag) {
        if self.left_out.is_none() && matches!(tag.name(), "script" | "style" | "template" | "iframe") {
            self.left_out = Some(tag.name().to_owned());
        }
        if !is_inline(tag.name()) || tag.name() == "br" {
            push_capped(&mut self.text, b" ", MAX_GATHERED);
        }
    }

    fn end(&mut self, name: &str) {
        if self.left_out.as_deref() == Some(name) {
            self.left_out = None;
        }
        if !is_inline(name) {
            push_capped(&mut self.text, b" ", MAX_GATHERED);
        }
    }

    fn text(&mut self, piece: &[u8]) {
        if self.left_out.is_none() {
            push_capped(&mut self.text, piece, MAX_GATHERED);
        }
    }

    fn is_done(&self) -> bool {
        self.text.len() >= MAX_GATHERED
    }
}

/// Whether an element stands in the middle of a line. Those that pages define themselves (`relative-time`) do.
pub(super) fn is_inline(name: &str) -> bool {
    INLINE.binary_search(&name).is_ok() || name.contains('-')
}

/// The elements that stand in a line, in order.
const INLINE: [&str; 38] = [
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "br", "cite", "code", "data", "del", "dfn", "em",
    "font", "i", "img", "ins", "kbd", "label", "mark", "q", "ruby", "s", "samp", "script", "small", "source",
    "span", "strike", "strong", "sub", "sup", "svg", "time", "u", "var", "wbr",
];

/// The elements that HTML in a value is made of.
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

/// Most text taken from one value, bytes.
const MAX_GATHERED: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn inline_elements_are_in_order_for_the_search() {
        assert!(INLINE.is_sorted());
    }

    #[test]
    fn text_is_one_clean_line() {
        for (text, expected) in [
            ("  a \n\t b\u{a0}\u{3000}c ", Some("a b c")),
            ("nul\0 bell\x07 esc\x1b[1m c1\u{85}x\u{9b}y", Some("nul bell esc[1m c1 xy")),
            ("user\u{202e}gpj.exe", Some("usergpj.exe")),
            ("a\u{2067}b\u{2069}", Some("ab")),
            ("שלום\u{200f} (world)", Some("שלום\u{200f} (world)")),
            ("می\u{200c}خواهم 👩\u{200d}💻", Some("می\u{200c}خواهم 👩\u{200d}💻")),
            ("soft\u{ad}hyphen zero\u{200b}width\u{feff}", Some("softhyphen zerowidth")),
            (" \u{200b}\n", None),
            ("", None),
        ] {
            assert_eq!(line(text, 50).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn long_text_ends_with_a_word_and_an_ellipsis() {
        assert_eq!(line("one two three four", 18).as_deref(), Some("one two three four"));
        assert_eq!(line("one two three four", 17).as_deref(), Some("one two three…"));
        assert_eq!(line("one two three four", 14).as_deref(), Some("one two three…"));
        assert_eq!(line("one two three, four", 17).as_deref(), Some("one two three…"));
        assert_eq!(line("日本語の長い文章です", 5).as_deref(), Some("日本語の…"));
        assert_eq!(line(&"x".repeat(300), 200).unwrap().chars().count(), 200);
    }

    #[test]
    fn values_that_are_html_become_text_and_others_stay() {
        for (value, expected) in [
            ("<p>Hello <b>world</b></p><p>again</p>", "Hello world again"),
            ("<p>Tom &amp; Jerry</p>", "Tom & Jerry"),
            ("one<br>two<br/>three", "one two three"),
            ("see <a href=\"/x\">this", "see this"),
            ("x<script>alert(1)</script>y", "xy"),
            ("<div>: The Content Division element", "<div>: The Content Division element"),
            ("<br>: The Line Break element", "<br>: The Line Break element"),
            ("a < b and c > d", "a < b and c > d"),
            ("Vec<String> and </T>", "Vec<String> and </T>"),
            ("I <3 you &amp; me", "I <3 you &amp; me"),
        ] {
            assert_eq!(clean(value, 100).as_deref(), Some(expected), "{value}");
        }
        assert_eq!(clean_json("Caf&eacute; &#8211; a < b", 100).as_deref(), Some("Café – a < b"));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_clean_and_short(text in "(\\PC|\\pC|[ <>/&;abp\"=]){0,80}", max in 2_usize..60) {
            for cleaned in [clean(&text, max), clean_json(&text, max), line(&text, max)].into_iter().flatten() {
                prop_assert!(!cleaned.is_empty() && cleaned.chars().count() <= max);
                prop_assert!(!cleaned.chars().any(|c| c.is_control() || is_removed(c)));
                prop_assert!(!cleaned.contains("  ") && cleaned.trim() == cleaned);
                prop_assert_eq!(line(&cleaned, max), Some(cleaned.clone()));
            }
        }
    }
}
