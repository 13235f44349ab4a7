//! oEmbed: what a site says about its pages in JSON ([oembed.com](https://oembed.com/)).
//!
//! Owns the reading of responses. Where to request them, `providers` knows.

mod providers;

use std::collections::BTreeMap;
use std::time::Duration;

use encoding_rs::{Encoding, WINDOWS_1252};
use serde_json::Value;
use url::Url;

use super::html::{self, HtmlHandler, Tag, push_capped};
use super::image_ref::{ImageRef, MIN_SIDE, pixels};
use super::markup::text_of_html;
use super::page::{MAX_DESCRIPTION, MAX_NAME, MAX_TITLE, absolute};
use super::{Image, ImageSource, Page, text};

pub(crate) use self::providers::OembedProviders;
pub(super) use self::providers::endpoint_by_path;

/// What an oEmbed response says about a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OembedResponse {
    pub(crate) page: Page,
    /// `cache_age`: how long the site wants it cached, at most a day.
    pub(crate) cache_age: Option<Duration>,
}

/// Converts a response to UTF-8. One that is not UTF-8, as it should be, is in the `charset` of `content_type`, else in
/// windows-1252.
pub(crate) fn json_to_utf8(json: Vec<u8>, content_type: Option<&str>) -> Vec<u8> {
    let mark = Encoding::for_bom(&json).map(|(encoding, _)| encoding);
    if mark.is_none() && std::str::from_utf8(&json).is_ok() {
        return json;
    }
    let declared = || {
        let parameters = content_type?.to_ascii_lowercase();
        let (_, label) = parameters.split_once("charset=")?;
        Encoding::for_label(label.split(';').next()?.trim_matches(['"', '\'', ' ']).as_bytes())
    };
    let encoding = mark.or_else(declared).unwrap_or(WINDOWS_1252);
    encoding.decode(&json).0.into_owned().into_bytes()
}

/// Reads the response of the endpoint at `url`. `None` if it is malformed, over [`MAX_OEMBED`], or has nothing to show.
pub(crate) fn parse_oembed(json: &[u8], url: &Url) -> Option<OembedResponse> {
    if json.len() > MAX_OEMBED {
        return None;
    }
    let response: Value = serde_json::from_slice(json).ok()?;
    let get = |key: &str, max| text::clean_json(response.get(key)?.as_str()?, max);
    let html = response.get("html").and_then(Value::as_str);
    let text = html.and_then(text_of_embed);
    let author = get("author_name", MAX_NAME);
    let title = get("title", MAX_TITLE);
    let description =
        text.or_else(|| get("description", MAX_DESCRIPTION)).filter(|text| Some(text) != title.as_ref());
    // A post has an author instead of a title.
    let title = title.or_else(|| author.clone().filter(|_| description.is_some()));
    let mut more = BTreeMap::new();
    if let Some(author) = author.filter(|author| Some(author) != title.as_ref()) {
        more.insert("article:author".to_owned(), author);
    }
    // The image of a photo is the thing itself, and its thumbnail the second choice.
    let is_photo = response.get("type").and_then(Value::as_str) == Some("photo");
    let photo = is_photo.then(|| image(&response, url, "")).flatten();
    let thumbnail = image(&response, url, "thumbnail_");
    let shown = html.and_then(|html| image_of_embed(html, url));
    let kind = match response.get("type").and_then(Value::as_str) {
        Some("video") => Some("video.other"),
        Some("link") => Some("website"),
        _ => None,
    };
    let page = Page {
        title,
        description,
        site_name: get("provider_name", MAX_NAME),
        kind: kind.map(str::to_owned),
        images: photo.into_iter().chain(thumbnail).chain(shown).collect(),
        more,
        ..Page::default()
    };
    let says_something = page.title.is_some() || page.description.is_some() || !page.images.is_empty();
    let cache_age = response.get("cache_age").and_then(number).map(Duration::from_secs);
    says_something
        .then(|| OembedResponse { page, cache_age: cache_age.map(|age| age.min(MAX_OEMBED_CACHE_AGE)) })
}

/// An image of a response: the keys `url`, `width` and `height`, each with `prefix`.
fn image(response: &Value, base: &Url, prefix: &str) -> Option<Image> {
    let get = |key: &str| response.get(format!("{prefix}{key}"));
    let url = absolute(base, get("url")?.as_str()?)?;
    let side = |key: &str| get(key).and_then(number).and_then(|px| pixels(&px.to_string()));
    Some(Image {
        url,
        width: side("width"),
        height: side("height"),
        alt: None,
        source: ImageSource::Declared,
    })
}

/// A number, which some sites write as a string.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// The text of the HTML to embed: its paragraphs, or all of it if there are none. Players have none.
fn text_of_embed(html: &str) -> Option<String> {
    let mut paragraphs = ParagraphText::default();
    html::read_bytes(html.as_bytes(), &mut paragraphs);
    let paragraphs = text::line(&String::from_utf8_lossy(&paragraphs.text), MAX_DESCRIPTION);
    paragraphs.or_else(|| text::line(&text_of_html(html), MAX_DESCRIPTION))
}

/// The first image in the HTML to embed that is not small.
fn image_of_embed(html: &str, base: &Url) -> Option<Image> {
    let mut search = ImageSearch::default();
    html::read_bytes(html.as_bytes(), &mut search);
    let ImageRef { src, width, height, .. } = search.found?;
    Some(Image { url: absolute(base, &src)?, width, height, alt: None, source: ImageSource::Shown })
}

/// Searches for an image that is not small.
#[derive(Default)]
struct ImageSearch {
    found: Option<ImageRef>,
}

impl HtmlHandler for ImageSearch {
    fn start(&mut self, tag: &Tag) {
        if tag.name() == "img" && self.found.is_none() {
            self.found = ImageRef::of_img(tag, None).filter(|image| !image.is_smaller_than(MIN_SIDE));
        }
    }

    fn end(&mut self, _name: &str) {}

    fn text(&mut self, _piece: &[u8]) {}

    fn is_done(&mut self, _position: usize) -> bool {
        self.found.is_some()
    }
}

/// Collects the text of paragraphs. In an embedded post they are the post, and what is around them its signature.
#[derive(Default)]
struct ParagraphText {
    text: Vec<u8>,
    /// Whether a paragraph is open.
    is_open: bool,
}

impl HtmlHandler for ParagraphText {
    fn start(&mut self, tag: &Tag) {
        self.is_open |= tag.name() == "p";
        if matches!(tag.name(), "p" | "br") {
            push_capped(&mut self.text, b" ", html::MAX_VALUE);
        }
    }

    fn end(&mut self, name: &str) {
        // The end tag of `p` may be left out before that of `blockquote`.
        self.is_open &= !matches!(name, "p" | "blockquote");
    }

    fn text(&mut self, piece: &[u8]) {
        if self.is_open {
            push_capped(&mut self.text, piece, html::MAX_VALUE);
        }
    }

    fn is_done(&mut self, _position: usize) -> bool {
        false
    }
}

/// Longest [`cache_age`](OembedResponse::cache_age), as in Synapse.
pub(crate) const MAX_OEMBED_CACHE_AGE: Duration = Duration::from_hours(24);

/// Largest response that is read, bytes.
pub(crate) const MAX_OEMBED: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn parse(json: &str) -> Option<OembedResponse> {
        parse_oembed(json.as_bytes(), &url("https://x.example/oembed"))
    }

    #[test]
    fn a_video_has_title_site_and_thumbnail() {
        let embed = parse(
            r#"{"title":"Tuning","author_name":"Ada","provider_name":"Tube","type":"video","version":"1.0","cache_age":"604800",
            "thumbnail_url":"https://i.example/t.jpg","thumbnail_width":480,"thumbnail_height":"360",
            "html":"<iframe src=\"https://x.example/e\" title=\"Tuning\"></iframe>"}"#,
        )
        .unwrap();
        assert_eq!(embed.page.title.as_deref(), Some("Tuning"));
        assert_eq!(embed.page.description, None);
        assert_eq!(embed.page.site_name.as_deref(), Some("Tube"));
        assert_eq!(embed.page.more["article:author"], "Ada");
        let image = &embed.page.images[0];
        assert_eq!(
            (image.url.as_str(), image.width, image.height),
            ("https://i.example/t.jpg", Some(480), Some(360))
        );
        assert_eq!(embed.cache_age, Some(Duration::from_hours(24)));
    }

    #[test]
    fn a_post_has_its_paragraph_as_description_and_its_author_as_title() {
        let embed = parse(
            r#"{"author_name":"Ada &amp; co","provider_name":"Chirp","type":"rich","cache_age":3600,"html":
            "<blockquote class=\"t\"><p lang=\"en\" dir=\"ltr\">Shipping day!<br>See <a href=\"x\">notes</a> &amp; more</p>&mdash; Ada (@ada) <a href=\"y\">March 1</a></blockquote>\n<script async src=\"w.js\">var x = 1;</script>"}"#,
        )
        .unwrap();
        assert_eq!(embed.page.title.as_deref(), Some("Ada & co"));
        assert_eq!(embed.page.description.as_deref(), Some("Shipping day! See notes & more"));
        assert_eq!(embed.cache_age, Some(Duration::from_hours(1)));
        assert!(embed.page.more.is_empty());
    }

    #[test]
    fn responses_in_other_character_sets_are_converted() {
        let latin =
            |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>();
        let (json, utf8) = (r#"{"title":"Stra\u{df}e \u{e4}"}"#, "{\"title\":\"Stra\u{df}e \u{e4}\"}");
        let json = json.replace("\\u{df}", "\u{df}").replace("\\u{e4}", "\u{e4}");
        let wide: Vec<u8> =
            [0xfeff].into_iter().chain(json.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        for (bytes, content_type) in [
            (json.clone().into_bytes(), Some("application/json; charset=iso-8859-1")),
            (latin(&json), Some("application/json; charset=ISO-8859-1")),
            (latin(&json), Some("application/json; charset=\"windows-1252\"; x=y")),
            (latin(&json), Some("application/json")),
            (latin(&json), None),
            (latin(&json), Some("application/json; charset=utf-8")),
            (wide, None),
            (format!("\u{feff}{json}").into_bytes(), None),
        ] {
            let read = json_to_utf8(bytes, content_type);
            if content_type.is_none_or(|kind| !kind.ends_with("utf-8")) {
                assert_eq!(String::from_utf8(read).unwrap(), utf8, "{content_type:?}");
            } else {
                assert!(String::from_utf8(read).is_ok());
            }
        }
    }

    #[test]
    fn the_image_may_be_in_the_html_to_embed() {
        let embed = parse(
            r#"{"type":"rich","title":"T","html":"<img src='/dot.png' width=1 height=1><a href=x><img src=\"/p.jpg\" width=640 height=480></a>"}"#,
        )
        .unwrap();
        let image = &embed.page.images[0];
        assert_eq!((image.url.as_str(), image.width), ("https://x.example/p.jpg", Some(640)));
    }

    #[test]
    fn og_type_follows_from_the_type_of_the_response() {
        for (kind, expected) in
            [("video", Some("video.other")), ("link", Some("website")), ("rich", None), ("photo", None)]
        {
            let embed = parse(&format!(r#"{{"type":"{kind}","title":"T"}}"#)).unwrap();
            assert_eq!(embed.page.kind.as_deref(), expected, "{kind}");
        }
    }

    #[test]
    fn the_url_of_a_photo_is_its_image() {
        let embed =
            parse(r#"{"type":"photo","url":"/p.jpg","width":1024,"height":768,"title":"Fog"}"#).unwrap();
        assert_eq!(embed.page.images[0].url.as_str(), "https://x.example/p.jpg");
    }

    #[test]
    fn responses_with_nothing_to_show_are_ignored() {
        let long = format!("{{\"title\":\"{}\"}}", "x".repeat(MAX_OEMBED));
        for json in [
            "",
            "null",
            "[]",
            "{}",
            "<xml/>",
            r#"{"title":7}"#,
            r#"{"title":"\u0000"}"#,
            r#"{"author_name":"Ada"}"#,
            r#"{"thumbnail_url":"javascript:alert(1)"}"#,
            &long,
        ] {
            assert_eq!(parse(json), None, "{}", json.len());
        }
    }

    proptest! {
        #[test]
        fn any_response_is_read(title in "\\PC{0,40}", html in "[<>/=\"a-z &;]{0,80}", width in any::<i64>()) {
            let json = serde_json::json!({ "title": title, "html": html, "thumbnail_url": html, "thumbnail_width": width });
            parse(&json.to_string());
        }
    }
}
