//! Text as it is shown: one line, without control characters and markup, of bounded length.
//!
//! Owns which characters are removed. Bidirectional overrides, embeddings and isolates are, because they would act on the text
//! around the preview; the marks that order names in Arabic and Hebrew (U+200E, U+200F, U+061C) and the joiners of Persian and
//! of emoji stay. HTML in values is [`super::markup`]'s.

use super::markup::{MAX_COLLECTED, is_html, text_of_html, unescape, without_cut_tag};

/// A value that a page declares, as one line of at most `max` characters; `None` if nothing is left. A value that is HTML
/// becomes its text, and character references that were escaped twice are resolved.
pub(super) fn clean(value: &str, max: usize) -> Option<String> {
    // Sites truncate descriptions, also in the middle of a tag.
    let value = without_cut_tag(beginning(value));
    if is_html(value) {
        return line(&unescape(&text_of_html(value)), max);
    }
    let value = unescape(value);
    let value = without_cut_tag(&value);
    if is_html(value) { line(&text_of_html(value), max) } else { line(value, max) }
}

/// [`clean`] for a value of JSON, which should be text and often has character references or is HTML.
pub(super) fn clean_json(value: &str, max: usize) -> Option<String> {
    clean(&unescape(beginning(value)), max)
}

/// A text of the body as one line of at most `max` characters, cut at the end of a sentence if there is one behind the first
/// third.
pub(super) fn sentences(text: &str, max: usize) -> Option<String> {
    let whole = line(text, text.len())?;
    let Some((end, _)) = whole.char_indices().nth(max) else { return Some(whole) };
    let least = end.div_euclid(3);
    let fitting = whole.get(..end).unwrap_or_default();
    // Not too early: one short sentence of a long text says little.
    let is_end = |(at, c): &(usize, char)| *at >= least && is_sentence_end(&whole, *at, *c);
    match fitting.char_indices().rev().find(is_end) {
        Some((at, c)) => whole.get(..at.saturating_add(c.len_utf8())).map(str::to_owned),
        None => Some(shorten(&whole, max)),
    }
}

/// Whether the text ends as a sentence does.
pub(super) fn is_sentence(text: &str) -> bool {
    let text = text.trim_end_matches(CLOSING);
    text.ends_with(['.', '!', '?', '。', '！', '？', '؟', '।']) && !text.ends_with("..")
}

/// Whether the character `c` at byte `at` ends a sentence. Behind a short word it is taken for that of an abbreviation.
fn is_sentence_end(text: &str, at: usize, c: char) -> bool {
    let after = text.get(at.saturating_add(c.len_utf8())..).unwrap_or_default();
    match c {
        '。' | '！' | '？' => true,
        '.' | '!' | '?' | '؟' | '।' => {
            let before = text.get(..at).unwrap_or_default();
            let word = before.rsplit([' ', '.', '(']).next().unwrap_or_default();
            let begins = after.trim_start_matches(' ').chars().next();
            after.starts_with(' ')
                // `Dr.` and `U.S.` do not end a sentence.
                && word.chars().count() >= 3
                && begins.is_none_or(|begins| !begins.is_lowercase())
        }
        _ => false,
    }
}

/// The part of a value that is read: [`is_html`] may look at each byte many times.
fn beginning(value: &str) -> &str {
    value.get(..value.floor_char_boundary(MAX_COLLECTED)).unwrap_or(value)
}

/// Text as one line of at most `max` characters, markup included; `None` if nothing is left, or if it is [garbage](is_garbage).
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
        // Written before the next character, so that there is none at the end.
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

/// Whether the text comes from bytes that are not text: more than one character in ten is a control or replacement character. A
/// run of replacement characters counts once.
fn is_garbage(text: &str) -> bool {
    let is_replaced = |c: char| c == char::REPLACEMENT_CHARACTER;
    let (mut odd, mut all) = (0_usize, 0_usize);
    let mut was_replaced = false;
    for c in text.chars() {
        let is_in_run = std::mem::replace(&mut was_replaced, is_replaced(c)) && is_replaced(c);
        if !is_in_run {
            all = all.saturating_add(1);
            let is_odd = is_replaced(c) || (c.is_control() && !c.is_whitespace());
            odd = odd.saturating_add(usize::from(is_odd));
        }
    }
    odd > MAX_ODD && odd.saturating_mul(10) > all
}

/// Whether a character is removed: controls, bidirectional controls that span text, invisible characters, noncharacters.
fn is_removed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}' | '\u{fdd0}'..='\u{fdef}')
        || u32::from(c) & 0xfffe == 0xfffe
}

/// The beginning of `line` with an ellipsis, at most `max` characters in all, cut at the end of a word if one is near.
fn shorten(line: &str, max: usize) -> String {
    let end = line.char_indices().nth(max.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let start = line.get(..end).unwrap_or(line);
    // The cut may fall right behind a word.
    let is_whole = line.get(end..).is_some_and(|rest| rest.starts_with(' '));
    let word = start.rfind(' ').filter(|_| !is_whole).and_then(|at| start.get(..at));
    let is_near = |word: &&str| word.len() >= start.len().saturating_mul(4).div_euclid(5);
    let start = word.filter(is_near).unwrap_or(start);
    // An ellipsis behind a comma or half an emoji reads badly.
    let start = start.trim_end_matches(|c: char| c.is_whitespace() || ",;:–—-\u{200d}".contains(c));
    format!("{start}…")
}

/// Characters that may follow the punctuation mark of a sentence.
const CLOSING: [char; 8] = ['"', '\'', ')', ']', '”', '’', '»', '」'];

/// Control and replacement characters that any text may have.
const MAX_ODD: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn html_values_become_text_and_other_values_stay() {
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
    fn references_escaped_twice_are_resolved() {
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
    fn a_truncated_tag_or_comment_is_removed() {
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
    fn a_long_text_is_cut_behind_a_sentence() {
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
        fn any_text_is_clean_and_short(text in "(\\PC|\\pC|[ <>/&;abp\"=]){0,80}", max in 2_usize..60) {
            for cleaned in [clean(&text, max), clean_json(&text, max), line(&text, max)].into_iter().flatten() {
                prop_assert!(!cleaned.is_empty() && cleaned.chars().count() <= max);
                prop_assert!(!cleaned.chars().any(|c| c.is_control() || is_removed(c)));
                prop_assert!(!cleaned.contains("  ") && cleaned.trim() == cleaned);
                prop_assert_eq!(line(&cleaned, max), Some(cleaned.clone()));
            }
        }
    }
}
