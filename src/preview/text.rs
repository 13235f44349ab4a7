//! Text as it is shown: one line, without control characters, without markup, of bounded length.
//!
//! Owns what is removed. Bidirectional overrides, embeddings and isolates go, because they would act on the words around
//! the preview; the marks that order a name in Arabic or Hebrew (U+200E, U+200F, U+061C) and the joiners of Persian and
//! of emoji stay.

use std::borrow::Cow;

use super::html::{self, Listener, Tag, push_capped};

/// A value that a page declares, as one line of at most `max` characters; `None` if nothing is left. Values that are HTML
/// are read as HTML, and entities that were escaped once too often become what they stand for.
pub(super) fn clean(value: &str, max: usize) -> Option<String> {
    let value = without_cut_tag(beginning(value));
    if is_html(value) {
        return line(&unescape(&text_of_html(value)), max);
    }
    let value = unescape(value);
    let value = without_cut_tag(&value);
    if is_html(value) { line(&text_of_html(value), max) } else { line(value, max) }
}

/// A value of JSON, which ought to be text but often has entities or is HTML.
pub(super) fn clean_json(value: &str, max: usize) -> Option<String> {
    clean(&unescape(beginning(value)), max)
}

/// A text of the body as one line of at most `max` characters: of a longer one whole sentences, if there are some.
pub(super) fn sentences(text: &str, max: usize) -> Option<String> {
    let whole = line(text, text.len())?;
    let Some((end, _)) = whole.char_indices().nth(max) else { return Some(whole) };
    let least = end.div_euclid(3);
    let fitting = whole.get(..end).unwrap_or_default();
    let is_end = |(at, c): &(usize, char)| *at >= least && is_sentence_end(&whole, *at, *c);
    match fitting.char_indices().rev().find(is_end) {
        Some((at, c)) => whole.get(..at.saturating_add(c.len_utf8())).map(str::to_owned),
        None => Some(shorten(&whole, max)),
    }
}

/// Whether the text is a sentence, or several: it ends as one.
pub(super) fn is_sentence(text: &str) -> bool {
    let text = text.trim_end_matches(CLOSING);
    text.ends_with(['.', '!', '?', '。', '！', '？', '؟', '।']) && !text.ends_with("..")
}

/// Whether a sentence ends with the character `c` at `at`. One after a short word ends an abbreviation.
fn is_sentence_end(text: &str, at: usize, c: char) -> bool {
    let after = text.get(at.saturating_add(c.len_utf8())..).unwrap_or_default();
    match c {
        '。' | '！' | '？' => true,
        '.' | '!' | '?' | '؟' | '।' => {
            let before = text.get(..at).unwrap_or_default();
            let word = before.rsplit([' ', '.', '(']).next().unwrap_or_default();
            let begins = after.trim_start_matches(' ').chars().next();
            after.starts_with(' ')
                && word.chars().count() >= 3
                && begins.is_none_or(|begins| !begins.is_lowercase())
        }
        _ => false,
    }
}

/// A text with its entities resolved, those with a semicolon: it was escaped twice.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        resolved.push_str(before);
        let length = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '#').unwrap_or(after.len());
        let is_entity = (2..=MAX_ENTITY).contains(&length)
            && after.get(length..).is_some_and(|rest| rest.starts_with(';'));
        let end = if is_entity { length.saturating_add(1) } else { 0 };
        let entity =
            rest.get(before.len()..before.len().saturating_add(1).saturating_add(end)).unwrap_or("&");
        let text = if is_entity { text_of_html(entity) } else { "&".to_owned() };
        // Of an unknown name the beginning may be known, without its semicolon.
        let is_known = text == ";" || !text.ends_with(';');
        resolved.push_str(if is_known { &text } else { entity });
        rest = after.get(end..).unwrap_or_default();
    }
    resolved.push_str(rest);
    Cow::Owned(resolved)
}

/// As much of a value as is looked at: [`is_html`] may look at each byte many times.
fn beginning(value: &str) -> &str {
    value.get(..value.floor_char_boundary(MAX_GATHERED)).unwrap_or(value)
}

/// Text as one line of at most `max` characters, whatever it says; `None` if it is none.
pub(super) fn line(text: &str, max: usize) -> Option<String> {
    if is_garbage(text) {
        return None;
    }
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

/// A value without the tag or comment that it ends in, if it was cut there.
fn without_cut_tag(value: &str) -> &str {
    let Some((before, after)) = value.rsplit_once('<').filter(|(_, after)| !after.contains('>')) else {
        return value;
    };
    let (is_end, rest) = after.strip_prefix('/').map_or((false, after), |rest| (true, rest));
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(length);
    let is_known = TEXT_ELEMENTS.iter().any(|known| known.eq_ignore_ascii_case(name));
    // `a <b` may well compare.
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

/// Whether a value has a comment of words before or behind all else.
fn has_comment(value: &str) -> bool {
    value.split_once("<!--").is_some_and(|(before, rest)| {
        rest.split_once("-->").is_some_and(|(inside, after)| {
            let is_at_edge = before.trim().is_empty() != after.trim().is_empty();
            is_at_edge && inside.contains(char::is_alphanumeric)
        })
    })
}

/// Whether a value that ought to be text is HTML: it closes an element, or opens one that has attributes. A lone `<div>`
/// is what a page about HTML talks of.
fn is_html(value: &str) -> bool {
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
            let is_break = name.eq_ignore_ascii_case("br") && at > 0;
            let before = value.get(..at).unwrap_or_default();
            let is_glued = inside.is_empty()
                && BREAKING.iter().any(|known| known.eq_ignore_ascii_case(name))
                && joins(before, after);
            is_end || is_break || is_glued || inside.trim_end().ends_with('/') || inside.contains('=')
        })
}

/// Whether a tag between two texts stands where only markup does: at the start or behind a word, before a word. What a page
/// about HTML talks of has blanks around it, or is in the plural.
fn joins(before: &str, after: &str) -> bool {
    let is_behind = !before.ends_with(char::is_whitespace);
    let word = after.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let ends_all = after.is_empty() && is_sentence(before);
    is_behind && (!matches!(word, "" | "s") || ends_all)
}

/// Whether bytes that are no text were read as one: more than one character in ten is a control or could not be read. What
/// could not be read in one place counts once.
fn is_garbage(text: &str) -> bool {
    let is_unread = |c: char| c == char::REPLACEMENT_CHARACTER;
    let (mut odd, mut all) = (0_usize, 0_usize);
    let mut was_unread = false;
    for c in text.chars() {
        let is_next = std::mem::replace(&mut was_unread, is_unread(c)) && is_unread(c);
        if !is_next {
            all = all.saturating_add(1);
            let is_odd = is_unread(c) || (c.is_control() && !c.is_whitespace());
            odd = odd.saturating_add(usize::from(is_odd));
        }
    }
    odd > LEAST_GARBAGE && odd.saturating_mul(10) > all
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
        if self.left_out.is_none() && is_unseen(tag.name()) && !tag.is_self_closing() {
            self.left_out = Some(tag.name().to_owned());
        }
        if is_block(tag.name()) || tag.name() == "br" {
            push_capped(&mut self.text, b" ", MAX_GATHERED);
        }
    }

    fn end(&mut self, name: &str) {
        if self.left_out.as_deref() == Some(name) {
            self.left_out = None;
        }
        if is_block(name) {
            push_capped(&mut self.text, b" ", MAX_GATHERED);
        }
    }

    fn text(&mut self, piece: &[u8]) {
        if self.left_out.is_none() {
            push_capped(&mut self.text, piece, MAX_GATHERED);
        }
    }

    fn is_done(&mut self, _position: usize) -> bool {
        self.text.len() >= MAX_GATHERED
    }
}

/// Whether an element begins a line of its own. All others, also unknown ones, stand in the middle of a line.
pub(super) fn is_block(name: &str) -> bool {
    BLOCKS.binary_search(&name).is_ok()
}

/// Whether the text in an element is not shown as text of the page: it is none, stands in for something, or fills a control.
pub(super) fn is_unseen(name: &str) -> bool {
    UNSEEN.binary_search(&name).is_ok()
}

/// The elements that begin a line of their own ([WHATWG,
/// rendering](https://html.spec.whatwg.org/multipage/rendering.html#flow-content-3)), in order.
const BLOCKS: [&str; 58] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "center",
    "col",
    "colgroup",
    "dd",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "frame",
    "frameset",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hgroup",
    "hr",
    "html",
    "legend",
    "li",
    "listing",
    "main",
    "marquee",
    "menu",
    "nav",
    "ol",
    "optgroup",
    "option",
    "p",
    "plaintext",
    "pre",
    "search",
    "section",
    "summary",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "ul",
    "xmp",
];

/// The elements whose text is not that of the page, in order.
const UNSEEN: [&str; 21] = [
    "annotation",
    "annotation-xml",
    "applet",
    "audio",
    "canvas",
    "datalist",
    "iframe",
    "meter",
    "noembed",
    "noframes",
    "noscript",
    "object",
    "progress",
    "rp",
    "script",
    "select",
    "style",
    "svg",
    "template",
    "textarea",
    "video",
];

/// The elements that break a text, which texts have without their ends.
const BREAKING: [&str; 6] = ["br", "div", "li", "ol", "p", "ul"];

/// What may stand behind the end of a sentence.
const CLOSING: [char; 8] = ['"', '\'', ')', ']', '”', '’', '»', '」'];

/// As many odd characters a text may have.
const LEAST_GARBAGE: usize = 4;

/// Longest name of an entity, bytes: `CounterClockwiseContourIntegral`.
const MAX_ENTITY: usize = 32;

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

/// The attributes that texts have.
const ATTRIBUTES: [&str; 9] = ["alt", "class", "href", "id", "rel", "src", "style", "target", "title"];

/// Most text taken from one value, bytes.
const MAX_GATHERED: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_are_in_order_for_the_search() {
        assert!(BLOCKS.is_sorted() && UNSEEN.is_sorted());
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
            ("I <3 you & me", "I <3 you & me"),
            ("<p>Hello world", "Hello world"),
            ("First.<p>Second", "First. Second"),
            ("All of it.<p>", "All of it."),
            ("<P>Äpfel", "Äpfel"),
            ("<p>: The Paragraph element", "<p>: The Paragraph element"),
            ("<p> and <div> compared", "<p> and <div> compared"),
            ("<div>s are boxes", "<div>s are boxes"),
            ("x<audio>no sound</audio>y <b>z</b>", "xy z"),
        ] {
            assert_eq!(clean(value, 100).as_deref(), Some(expected), "{value}");
        }
        assert_eq!(clean_json("Caf&eacute; &#8211; a < b", 100).as_deref(), Some("Café – a < b"));
        assert_eq!(clean_json("O&amp;#39;Neill", 100).as_deref(), Some("O'Neill"));
    }

    #[test]
    fn what_was_escaped_twice_is_resolved_once_more() {
        for (value, expected) in [
            ("Tout O&#39;pre", "Tout O'pre"),
            ("A &amp; B", "A & B"),
            ("&quot;q&quot;", "\"q\""),
            ("a&nbsp;b&#x41;&#65;&eacute;", "a bAAé"),
            ("&lt;p&gt;Hello&lt;/p&gt;", "Hello"),
            ("a &lt; b", "a < b"),
            ("&amp;amp;", "&amp;"),
            ("AT&T; R&D; &nothing; &; &#; &#xg; 1&2;", "AT&T; R&D; &nothing; &; &#; &#xg; 1&2;"),
            ("a&copy=1&amp", "a&copy=1&amp"),
            ("<b>x</b> &amp;amp; y", "x & y"),
        ] {
            assert_eq!(clean(value, 100).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_tag_or_comment_that_was_cut_is_not_shown() {
        for (value, expected) in [
            ("One &lt;a href=&quot;http://x", "One"),
            ("One &lt;a hr", "One"),
            ("One &lt;p", "One"),
            ("One &lt;div", "One"),
            ("One &lt;/stro", "One"),
            ("One &lt;img src=", "One"),
            ("One <a href=\"http://x", "One"),
            ("One &lt;b&gt;two&lt;/b&gt; &lt;a href=", "One two"),
            ("&lt;!-- c --&gt;x", "x"),
            ("<!-- c -->x", "x"),
            ("x &lt;!-- c", "x"),
            ("The HTML <!-- Comment --> tag", "The HTML <!-- Comment --> tag"),
            ("<!--...--> in HTML", "<!--...--> in HTML"),
            ("<!-- Comment -->", "<!-- Comment -->"),
            ("a <b", "a <b"),
            ("a <b and c", "a <b and c"),
            ("I <3 you", "I <3 you"),
            ("a &lt; b = c", "a < b = c"),
            ("List <T", "List <T"),
        ] {
            assert_eq!(clean(value, 100).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn of_a_long_text_whole_sentences_are_taken() {
        for (text, max, expected) in [
            ("One is short. Two is longer. Three is the end.", 30, "One is short. Two is longer."),
            (
                "One is short. Two is longer. Three is the end.",
                100,
                "One is short. Two is longer. Three is the end.",
            ),
            (
                "It was Dr. Who of the U.S. Army that came by here",
                40,
                "It was Dr. Who of the U.S. Army that…",
            ),
            ("Short. But then no further end of anything comes", 30, "Short. But then no further…"),
            ("日本語の文。次の文です。最後の文", 13, "日本語の文。次の文です。"),
            ("Version 1.2.3 came out and 4.5 followed soon", 30, "Version 1.2.3 came out and…"),
        ] {
            assert_eq!(sentences(text, max).as_deref(), Some(expected), "{text}");
        }
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
