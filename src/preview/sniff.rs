//! What a body is, by its first bytes and its `Content-Type`.
//!
//! Owns the signatures ([WHATWG, MIME sniffing](https://mimesniff.spec.whatwg.org/)). Bytes win over the declared type: a
//! page that is declared as an image is a page, and the reverse. Refuses to know URLs and what lies behind the first bytes.

use crate::http::disposition;

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// HTML or XHTML, for [`read_page`](super::read_page).
    Html,
    /// JSON, which may be oEmbed.
    Json,
    /// An image, by its signature. SVG has none and is a file.
    Image,
    /// Anything else.
    File,
}

/// How to read a body whose first bytes are `head` (512 are enough) and whose `Content-Type` is `content_type`.
pub(crate) fn sniff(head: &[u8], content_type: Option<&str>) -> BodyKind {
    match media_type(head, content_type).as_str() {
        HTML => BodyKind::Html,
        JSON => BodyKind::Json,
        kind if kind.starts_with("image/") && by_signature(head, kind).is_some() => BodyKind::Image,
        _ => BodyKind::File,
    }
}

/// The media type of a body with these first bytes and this `Content-Type`, in lower case and without parameters.
pub(crate) fn media_type(head: &[u8], content_type: Option<&str>) -> String {
    let declared = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let declared = declared.trim().to_ascii_lowercase();
    let is_type = declared.len() <= MAX_TYPE && disposition::is_media_type(&declared);
    // Servers send these for files whose type they do not know.
    let is_vague = matches!(declared.as_str(), disposition::UNKNOWN_TYPE | "text/xml" | "application/xml");
    let by_type = match declared.as_str() {
        "application/xhtml+xml" => HTML,
        "text/json" => JSON,
        kind if kind.ends_with("+json") || kind.ends_with("/json+oembed") => JSON,
        kind if (!is_type || is_vague || kind.starts_with("image/"))
            && (is_html(head) || (!kind.ends_with("xml") && is_html_fragment(head)))
            && !is_svg(kind, head) =>
        {
            HTML
        }
        // Feeds, EPUB and SVG share their first bytes with other XML and ZIP files.
        kind if !is_type || is_vague || kind == ZIP => {
            by_content(head).unwrap_or(if is_type { kind } else { disposition::UNKNOWN_TYPE })
        }
        _ if !is_type => disposition::UNKNOWN_TYPE,
        kind => kind,
    };
    by_signature(head, &declared).unwrap_or(by_type).to_owned()
}

/// The media type by the signature. A container that may hold audio or video is what was declared.
fn by_signature(head: &[u8], declared: &str) -> Option<&'static str> {
    let either = |video, audio| {
        if declared.starts_with("audio/") { audio } else { video }
    };
    Some(match head {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, kind @ ..] => match kind {
            [b'W', b'E', b'B', b'P', ..] => "image/webp",
            [b'W', b'A', b'V', b'E', ..] => "audio/wav",
            [b'A', b'V', b'I', b' ', ..] => "video/x-msvideo",
            _ => return None,
        },
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => "image/bmp",
        [b'I', b'I', 0x2a, 0, ..] | [b'M', b'M', 0, 0x2a, ..] => "image/tiff",
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand {
            [b'a', b'v', b'i', b'f' | b's', ..] => "image/avif",
            [b'h', b'e', b'i' | b'v', b'c' | b'x', ..] | [b'm', b'i', b'f', b'1', ..] => "image/heic",
            [b'M', b'4', b'A' | b'B', ..] => "audio/mp4",
            [b'q', b't', b' ', b' ', ..] => "video/quicktime",
            _ => either("video/mp4", "audio/mp4"),
        },
        [0x1a, 0x45, 0xdf, 0xa3, ..] => either("video/webm", "audio/webm"),
        [b'O', b'g', b'g', b'S', ..] => {
            if declared.starts_with("video/") {
                "video/ogg"
            } else {
                "audio/ogg"
            }
        }
        [b'I', b'D', b'3', ..] => "audio/mpeg",
        // An MPEG frame without ID3 tag. Only two bytes, so only where audio is declared.
        [0xff, 0xe2..=0xe3 | 0xf2..=0xf3 | 0xfa..=0xfb, ..] if declared.starts_with("audio/") => "audio/mpeg",
        [b'f', b'L', b'a', b'C', ..] => "audio/flac",
        [b'%', b'P', b'D', b'F', b'-', ..] => "application/pdf",
        // `application/…` may name a format that is a ZIP archive, such as Office documents.
        [b'P', b'K', 3, 4, ..] if !declared.starts_with("application/") => by_content(head).unwrap_or(ZIP),
        [0x1f, 0x8b, 8, ..] if !declared.starts_with("application/") => "application/gzip",
        _ => return None,
    })
}

/// Whether bytes declared as SVG are SVG: like HTML, it may begin with a comment.
fn is_svg(declared: &str, head: &[u8]) -> bool {
    declared == SVG && by_content(head) == Some(SVG)
}

/// Whether bytes begin as an HTML document does.
fn is_html(head: &[u8]) -> bool {
    let head = beginning(head);
    let begins = |start: &[u8]| head.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
    let is_declaration = begins(b"<?xml");
    begins(b"<!doctype html")
        || begins(b"<!--")
        || first_element(head).is_some_and(|name| HTML_STARTS.contains(&name.as_str()))
        || is_declaration && head.windows(5).any(|five| five.eq_ignore_ascii_case(b"<html"))
}

/// Whether bytes begin as a fragment of HTML does: with an element that other XML may have too, or with a custom element, which
/// has a hyphen in its name. Only for bytes that are not declared as XML.
fn is_html_fragment(head: &[u8]) -> bool {
    first_element(beginning(head))
        .is_some_and(|name| FRAGMENT_STARTS.contains(&name.as_str()) || name.contains('-'))
}

/// The name of the element at the start, in lower case.
fn first_element(head: &[u8]) -> Option<String> {
    let rest = head.strip_prefix(b"<")?;
    let is_in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let length = rest.iter().take_while(|byte| is_in_name(byte)).count();
    let (name, after) = rest.split_at_checked(length)?;
    let is_over =
        after.first().is_none_or(|after| after.is_ascii_whitespace() || matches!(after, b'>' | b'/'));
    let is_name = name.first().is_some_and(u8::is_ascii_alphabetic) && is_over;
    is_name.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// The media type of a feed, an EPUB or an SVG, by words in its first bytes.
fn by_content(head: &[u8]) -> Option<&'static str> {
    let has = |word: &[u8]| head.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    if head.starts_with(b"PK\x03\x04") {
        return has(b"mimetypeapplication/epub+zip").then_some("application/epub+zip");
    }
    let is_xml = beginning(head).starts_with(b"<");
    let roots: [(&[u8], _); 4] = [
        (b"<rss", "application/rss+xml"),
        (b"<rdf:rdf", "application/rss+xml"),
        (b"<feed", "application/atom+xml"),
        (b"<svg", "image/svg+xml"),
    ];
    let root = roots.iter().find(|(root, _)| is_xml && has(root));
    root.map(|(_, kind)| *kind)
}

/// The bytes without byte order mark and leading white space.
fn beginning(head: &[u8]) -> &[u8] {
    head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start()
}

const HTML: &str = "text/html";

const JSON: &str = "application/json";

/// The type of archives. EPUB, Office documents and others are ZIP archives too.
const ZIP: &str = "application/zip";

const SVG: &str = "image/svg+xml";

/// Elements with which an HTML document begins: those of [WHATWG, MIME
/// sniffing](https://mimesniff.spec.whatwg.org/#identifying-a-resource-with-an-unknown-mime-type), and some more.
const HTML_STARTS: [&str; 25] = [
    "html", "head", "body", "title", "meta", "link", "script", "style", "iframe", "h1", "h2", "div", "font",
    "table", "a", "b", "br", "p", "article", "main", "section", "header", "center", "ul", "base",
];

/// Further elements with which a fragment of HTML may begin.
const FRAGMENT_STARTS: [&str; 28] = [
    "abbr",
    "aside",
    "blockquote",
    "button",
    "canvas",
    "code",
    "dl",
    "em",
    "figure",
    "footer",
    "form",
    "h3",
    "h4",
    "hr",
    "i",
    "img",
    "input",
    "label",
    "nav",
    "noscript",
    "ol",
    "picture",
    "pre",
    "small",
    "span",
    "strong",
    "template",
    "u",
];

/// Longest media type that is accepted, bytes.
const MAX_TYPE: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_win_over_what_is_declared() {
        for (head, declared, expected) in [
            (&b"\x89PNG\r\n\x1a\n"[..], Some("text/html"), "image/png"),
            (b"<!DOCTYPE HTML><html>", Some("image/png"), "text/html"),
            (b"\xef\xbb\xbf \n<HTML>", None, "text/html"),
            (b"<?xml version=\"1.0\"?><html xmlns=", Some("application/xml"), "text/html"),
            (b"<?xml version=\"1.0\"?><svg xmlns=", Some("image/svg+xml"), "image/svg+xml"),
            (b"<svg><html>", Some("image/svg+xml"), "image/svg+xml"),
            (b"<!-- made by -->\n<svg xmlns=", Some("image/svg+xml"), "image/svg+xml"),
            (b"<!-- made by --><html>", Some("image/png"), "text/html"),
            (b"<div>text", None, "text/html"),
            (b"\n<DIV class=x>", Some("application/octet-stream"), "text/html"),
            (b"<p>text", None, "text/html"),
            (b"<a href=x>", Some("rubbish"), "text/html"),
            (b"<b", None, "text/html"),
            (b"<abc>", None, "application/octet-stream"),
            (b"<divider>", None, "application/octet-stream"),
            (b"<span>text", None, "text/html"),
            (b"<NAV class=x>", None, "text/html"),
            (b"<form action=/>", None, "text/html"),
            (b"<pre>text", None, "text/html"),
            (b"<img src=x>", Some("application/octet-stream"), "text/html"),
            (b"<noscript>", None, "text/html"),
            (b"<my-app></my-app>", None, "text/html"),
            (b"<x-a.b_c/>", None, "text/html"),
            (b"<-a>", None, "application/octet-stream"),
            (b"<spanner>", None, "application/octet-stream"),
            (b"<my-note>", Some("text/xml"), "text/xml"),
            (b"<form>", Some("application/xml"), "application/xml"),
            (b"<rss-x><svg", Some("image/svg+xml"), "image/svg+xml"),
            (b"<pre", Some("text/plain"), "text/plain"),
            (
                b"<?xml version=\"1.0\"?>\n<rss version=",
                Some("text/xml; charset=utf-8"),
                "application/rss+xml",
            ),
            (b"<feed xmlns=", Some("application/xml"), "application/atom+xml"),
            (b"<rss", Some("application/rss+xml"), "application/rss+xml"),
            (b"<note>", Some("text/xml"), "text/xml"),
            (
                b"PK\x03\x04\n\0\0\0\0\0mimetypeapplication/epub+zip",
                Some("application/zip"),
                "application/epub+zip",
            ),
            (b"PK\x03\x04\n\0\0\0\0\0mimetypeapplication/epub+zip", None, "application/epub+zip"),
            (b"PK\x03\x04", Some("application/java-archive"), "application/java-archive"),
            (b"PK\x03\x04", Some("text/html"), "application/zip"),
            (b"\x1f\x8b\x08\0", Some("text/html"), "application/gzip"),
            (b"hello", Some("text/html; charset=x"), "text/html"),
            (b"hello", Some("text/plain"), "text/plain"),
            (b"<html>", Some("text/plain"), "text/plain"),
            (b"{}", Some("Application/JSON"), "application/json"),
            (b"{}", Some("application/json+oembed"), "application/json"),
            (b"%PDF-1.7", Some("application/octet-stream"), "application/pdf"),
            (b"\0\0\0 ftypisom", Some("video/mp4"), "video/mp4"),
            (b"\0\0\0 ftypisom", Some("audio/mp4"), "audio/mp4"),
            (b"\0\0\0 ftypavif", None, "image/avif"),
            (b"RIFF0000WEBPVP8 ", None, "image/webp"),
            (b"OggS", Some("application/ogg"), "audio/ogg"),
            (b"ID3\x03", None, "audio/mpeg"),
            (b"no picture", Some("image/png"), "image/png"),
            (b"", None, "application/octet-stream"),
            (b"", Some("rubbish"), "application/octet-stream"),
        ] {
            assert_eq!(media_type(head, declared), expected, "{head:?} {declared:?}");
        }
    }

    #[test]
    fn only_bytes_with_an_image_signature_are_an_image() {
        for (head, declared, expected) in [
            (&b"\x89PNG\r\n\x1a\n"[..], "text/html", BodyKind::Image),
            (b"not a picture", "image/png", BodyKind::File),
            (b"<svg xmlns=", "image/svg+xml", BodyKind::File),
            (b"<!doctype html>", "image/png", BodyKind::Html),
            (b"{", "application/json; charset=utf-8", BodyKind::Json),
            (b"%PDF-1.7", "text/html", BodyKind::File),
        ] {
            assert_eq!(sniff(head, Some(declared)), expected, "{head:?} {declared}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_media_type(head in proptest::collection::vec(any::<u8>(), 0..64), declared in "\\PC{0,40}") {
            prop_assert!(media_type(&head, Some(&declared)).contains('/'));
        }
    }
}
