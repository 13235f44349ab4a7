//! Links that lead to a file instead of a page: what it is by its first bytes, and a description of it.
//!
//! Owns the signatures ([WHATWG, MIME sniffing](https://mimesniff.spec.whatwg.org/)). Bytes win over the declared type: a
//! page that claims to be an image is a page, and the reverse.

use percent_encoding::percent_decode_str;
use url::Url;

use super::page::MAX_TITLE;
use super::{Image, ImageSource, Page, text};
use crate::http::disposition;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// HTML or XHTML, for [`super::read_page`].
    Html,
    /// JSON, perhaps oEmbed.
    Json,
    /// A picture, by its signature. A drawing (SVG) is a file.
    Image,
    /// Anything else: a file to name.
    File,
}

/// What a body is whose first bytes are `head` (512 are enough, 16 tell most) and whose `Content-Type` is
/// `content_type`.
pub(crate) fn sniff(head: &[u8], content_type: Option<&str>) -> BodyKind {
    match media_type(head, content_type).as_str() {
        HTML => BodyKind::Html,
        JSON => BodyKind::Json,
        kind if kind.starts_with("image/") && by_signature(head, kind).is_some() => BodyKind::Image,
        _ => BodyKind::File,
    }
}

/// The media type of such a body, without parameters.
pub(crate) fn media_type(head: &[u8], content_type: Option<&str>) -> String {
    let declared = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let declared = declared.trim().to_ascii_lowercase();
    let is_type = declared.len() <= MAX_TYPE && disposition::is_media_type(&declared);
    let is_vague = matches!(declared.as_str(), disposition::UNKNOWN_TYPE | "text/xml" | "application/xml");
    let said = match declared.as_str() {
        "application/xhtml+xml" => HTML,
        "text/json" => JSON,
        kind if kind.ends_with("+json") || kind.ends_with("/json+oembed") => JSON,
        kind if (!is_type || is_vague || kind.starts_with("image/"))
            && (is_html(head) || (!kind.ends_with("xml") && is_part_of_html(head)))
            && !is_drawing(kind, head) =>
        {
            HTML
        }
        kind if !is_type || is_vague || kind == ZIP => {
            by_content(head).unwrap_or(if is_type { kind } else { disposition::UNKNOWN_TYPE })
        }
        _ if !is_type => disposition::UNKNOWN_TYPE,
        kind => kind,
    };
    by_signature(head, &declared).unwrap_or(said).to_owned()
}

/// Describes the file at `url`: its name, by its `Content-Disposition` or the last part of its path, its type, and its
/// size in bytes. A picture is its own image, films and sound are named in the keys that Open Graph has for them.
pub(crate) fn describe_file(
    url: &Url,
    disposition: Option<&str>,
    content_type: Option<&str>,
    size: Option<u64>,
) -> Page {
    let media_type = media_type(&[], content_type);
    let last = || url.path_segments()?.rfind(|part| !part.is_empty());
    let name = disposition
        .and_then(disposition::file_name)
        .or_else(|| Some(percent_decode_str(last()?).decode_utf8_lossy().into_owned()))
        .or_else(|| url.host_str().map(str::to_owned));
    let kind = name_of_type(&media_type);
    let description = size.map_or_else(|| kind.clone(), |size| format!("{kind}, {}", readable_size(size)));
    let mut page = Page {
        title: name.and_then(|name| text::line(&name, MAX_TITLE)),
        description: text::line(&description, MAX_TITLE),
        ..Page::default()
    };
    let key = match media_type.split_once('/') {
        Some(("image", drawing)) if drawing != "svg+xml" => {
            page.images.push(Image {
                url: url.clone(),
                width: None,
                height: None,
                alt: None,
                source: ImageSource::Declared,
            });
            return page;
        }
        Some(("video", _)) => "og:video",
        Some(("audio", _)) => "og:audio",
        _ => return page,
    };
    page.more.insert(key.to_owned(), url.as_str().to_owned());
    page.more.insert(format!("{key}:type"), media_type);
    page
}

/// What a signature says. Containers that hold either are what was declared.
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
        [0xff, 0xe2..=0xe3 | 0xf2..=0xf3 | 0xfa..=0xfb, ..] if declared.starts_with("audio/") => "audio/mpeg",
        [b'f', b'L', b'a', b'C', ..] => "audio/flac",
        [b'%', b'P', b'D', b'F', b'-', ..] => "application/pdf",
        [b'P', b'K', 3, 4, ..] if !declared.starts_with("application/") => by_content(head).unwrap_or(ZIP),
        [0x1f, 0x8b, 8, ..] if !declared.starts_with("application/") => "application/gzip",
        _ => return None,
    })
}

/// Whether bytes that begin with a comment are the drawing that they are declared to be.
fn is_drawing(declared: &str, head: &[u8]) -> bool {
    declared == SVG && by_content(head) == Some(SVG)
}

/// Whether bytes begin as HTML does.
fn is_html(head: &[u8]) -> bool {
    let head = beginning(head);
    let begins = |start: &[u8]| head.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
    let is_declaration = begins(b"<?xml");
    begins(b"<!doctype html")
        || begins(b"<!--")
        || first_element(head).is_some_and(|name| HTML_STARTS.contains(&name.as_str()))
        || is_declaration && head.windows(5).any(|five| five.eq_ignore_ascii_case(b"<html"))
}

/// Whether bytes that are not said to be XML begin as a part of HTML does: with an element that XML may have too, or one
/// that a page makes its own, which has a hyphen in its name.
fn is_part_of_html(head: &[u8]) -> bool {
    first_element(beginning(head))
        .is_some_and(|name| PART_STARTS.contains(&name.as_str()) || name.contains('-'))
}

/// The name of the element that bytes begin with, in lower case.
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

/// The type of a feed, a book or a drawing, by what its first bytes say.
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

/// The first bytes without a mark and blanks.
fn beginning(head: &[u8]) -> &[u8] {
    head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start()
}

/// A type in words.
fn name_of_type(media_type: &str) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == media_type) {
        return (*name).to_owned();
    }
    match media_type.split_once('/') {
        Some(("image", kind)) => format!("{} image", short_name(kind)),
        Some(("video", kind)) => format!("{} video", short_name(kind)),
        Some(("audio", kind)) => format!("{} audio", short_name(kind)),
        _ => media_type.to_owned(),
    }
}

/// The name of a format, as people write it: `x-msvideo` is `MSVIDEO`.
fn short_name(kind: &str) -> String {
    kind.trim_start_matches("x-").to_ascii_uppercase()
}

/// A size in bytes as people read it, in powers of ten: `999 B`, `34 kB`, `1.5 MB`.
fn readable_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let Some((unit, name)) = UNITS.iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let tenth_of_unit = unit.div_euclid(10);
    let tenths = bytes.saturating_add(tenth_of_unit.div_euclid(2)).div_euclid(tenth_of_unit);
    let (whole, tenth) = (tenths.div_euclid(10), tenths.rem_euclid(10));
    if whole >= 10 || tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

/// The type of pages.
const HTML: &str = "text/html";

/// The type of oEmbed answers.
const JSON: &str = "application/json";

/// The type of archives, and of much that is packed as one.
const ZIP: &str = "application/zip";

/// The type of drawings.
const SVG: &str = "image/svg+xml";

/// The elements with which HTML begins ([WHATWG, MIME
/// sniffing](https://mimesniff.spec.whatwg.org/#identifying-a-resource-with-an-unknown-mime-type)), and some more.
const HTML_STARTS: [&str; 25] = [
    "html", "head", "body", "title", "meta", "link", "script", "style", "iframe", "h1", "h2", "div", "font",
    "table", "a", "b", "br", "p", "article", "main", "section", "header", "center", "ul", "base",
];

/// Further elements that a part of HTML may begin with.
const PART_STARTS: [&str; 28] = [
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

/// Types whose names do not follow from their media types.
const NAMES: [(&str, &str); 38] = [
    ("application/octet-stream", "File"),
    ("application/atom+xml", "Atom feed"),
    ("application/epub+zip", "EPUB book"),
    ("application/feed+json", "JSON feed"),
    ("application/gzip", "Gzip archive"),
    ("application/java-archive", "Java archive"),
    ("application/json", "JSON"),
    ("application/msword", "Word document"),
    ("application/pdf", "PDF document"),
    ("application/postscript", "PostScript document"),
    ("application/rss+xml", "RSS feed"),
    ("application/rtf", "RTF document"),
    ("application/vnd.android.package-archive", "Android app"),
    ("application/vnd.debian.binary-package", "Debian package"),
    ("application/vnd.ms-excel", "Excel workbook"),
    ("application/vnd.ms-powerpoint", "PowerPoint presentation"),
    ("application/vnd.oasis.opendocument.presentation", "OpenDocument presentation"),
    ("application/vnd.oasis.opendocument.spreadsheet", "OpenDocument spreadsheet"),
    ("application/vnd.oasis.opendocument.text", "OpenDocument text"),
    ("application/vnd.openxmlformats-officedocument.presentationml.presentation", "PowerPoint presentation"),
    ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "Excel workbook"),
    ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "Word document"),
    ("application/x-7z-compressed", "7-Zip archive"),
    ("application/x-bittorrent", "Torrent"),
    ("application/x-bzip2", "Bzip2 archive"),
    ("application/x-tar", "Tar archive"),
    ("application/x-xz", "XZ archive"),
    ("application/xml", "XML"),
    ("application/zip", "ZIP archive"),
    ("audio/mpeg", "MP3 audio"),
    ("image/svg+xml", "SVG drawing"),
    ("text/calendar", "Calendar"),
    ("text/csv", "CSV table"),
    ("text/markdown", "Markdown text"),
    ("text/plain", "Text"),
    ("text/xml", "XML"),
    ("video/quicktime", "QuickTime video"),
    ("video/x-msvideo", "AVI video"),
];

/// Longest media type believed, bytes.
const MAX_TYPE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn only_what_begins_as_a_picture_is_one() {
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

    #[test]
    fn files_are_described_by_name_type_and_size() {
        let url = Url::parse("https://x.example/files/yearly%20report%202025.pdf?dl=1").unwrap();
        let pdf = Some("application/pdf; x=y");
        let page = describe_file(&url, None, pdf, Some(1_480_000));
        assert_eq!(page.title.as_deref(), Some("yearly report 2025.pdf"));
        assert_eq!(page.description.as_deref(), Some("PDF document, 1.5 MB"));
        let page = describe_file(&url, Some("attachment; filename*=utf-8''r%E2%80%AE.pdf"), pdf, None);
        assert_eq!(page.title.as_deref(), Some("r.pdf"));
        assert_eq!(page.description.as_deref(), Some("PDF document"));
        for (kind, expected) in [
            ("application/rss+xml; charset=utf-8", "RSS feed"),
            ("application/epub+zip", "EPUB book"),
            ("application/atom+xml", "Atom feed"),
            ("text/xml", "XML"),
        ] {
            assert_eq!(describe_file(&url, None, Some(kind), None).description.as_deref(), Some(expected));
        }
    }

    #[test]
    fn media_files_are_named_where_open_graph_has_them() {
        let url = Url::parse("https://x.example/a.mp4").unwrap();
        let page = describe_file(&url, None, Some("video/mp4"), Some(34_000));
        assert_eq!(page.description.as_deref(), Some("MP4 video, 34 kB"));
        assert_eq!(page.more["og:video"], url.as_str());
        assert_eq!(page.more["og:video:type"], "video/mp4");
        let page = describe_file(&url, None, Some("image/png"), Some(999));
        assert_eq!(
            (page.images[0].url.clone(), page.description.as_deref()),
            (url, Some("PNG image, 999 B"))
        );
        let host = Url::parse("https://x.example/").unwrap();
        let page = describe_file(&host, None, Some("audio/mpeg"), None);
        assert_eq!(
            (page.title.as_deref(), page.more["og:audio"].as_str()),
            (Some("x.example"), "https://x.example/")
        );
    }

    #[test]
    fn only_media_types_are_passed_on_as_such() {
        let url = Url::parse("https://x.example/a.mp4").unwrap();
        for declared in ["video/x\u{1}y", "video/x\ty", "video/", "/mp4", "video/é", "video/mp4/x"] {
            assert_eq!(media_type(&[], Some(declared)), disposition::UNKNOWN_TYPE, "{declared:?}");
            assert!(describe_file(&url, None, Some(declared), None).more.is_empty(), "{declared:?}");
        }
        assert_eq!(media_type(&[], Some("Video/X-Y.z+w ;a=b")), "video/x-y.z+w");
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 kB"),
            (1449, "1.4 kB"),
            (34_567, "34 kB"),
            (999_999, "1000 kB"),
            (2_500_000, "2.5 MB"),
            (u64::MAX, "18446744073 GB"),
        ] {
            assert_eq!(readable_size(bytes), expected, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_something(head in proptest::collection::vec(any::<u8>(), 0..64), declared in "\\PC{0,40}") {
            prop_assert!(media_type(&head, Some(&declared)).contains('/'));
        }
    }
}
