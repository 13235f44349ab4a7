//! The tokenizer: attribute values, and bounds of a tag.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tests"
)]
use super::*;

/// Writes the document down.
#[derive(Default, PartialEq, Eq, Debug)]
struct Transcript(String);

impl HtmlHandler for Transcript {
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

fn transcript(html: &str) -> String {
    let mut handler = Transcript::default();
    read_bytes(html.as_bytes(), &mut handler);
    handler.0
}

#[test]
fn a_value_is_the_same_in_single_and_double_quotes() {
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
        assert_eq!(transcript(html), expected, "{html}");
        let other = html.replace('\'', "\u{1}").replace('"', "'").replace('\u{1}', "\"");
        let expected = expected.replace("a'b>c", "a\\\"b>c");
        assert_eq!(transcript(&other), expected, "{other}");
    }
}

#[test]
fn little_is_kept_of_a_very_long_tag() {
    let mut tag = String::from("<a ");
    for n in 0..1000 {
        tag.push_str(&format!("data-{n}=\"{}\" href=\"{n}\" title{n} ", "v".repeat(1000)));
    }
    assert_eq!(transcript(&format!("{tag}>")), r#"<a [("href", "0")] false>"#);
    let all: String = KEPT.iter().map(|name| format!("{name}=\"{}\" ", "v".repeat(100_000))).collect();
    assert!(transcript(&format!("<a {all}>")).len() < KEPT.len() * (MAX_VALUE + MAX_NAME + 10));
}
