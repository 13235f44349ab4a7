//! `Content-Disposition` and `Content-Type` of media: what may be shown inline, and how a file name travels.
//!
//! Owns both headers' text, in both directions. Refuses to know where the media lies.
//! [Spec, serving inline content](https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content) (MSC2702),
//! [RFC 6266](https://www.rfc-editor.org/rfc/rfc6266), [RFC 8187](https://www.rfc-editor.org/rfc/rfc8187).

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The types a browser may show from the homeserver's origin (MSC2702). Never SVG, HTML, scripts or PDF.
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// Text types that get `; charset=UTF-8` when they name none: browsers guess Latin-1 otherwise.
const TEXTUAL: [&str; 5] = ["text/css", "text/csv", "text/html", "text/plain", "text/xml"];

/// What RFC 8187 leaves bare in `filename*`.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

/// Longest file name kept, bytes of UTF-8: what file systems take.
const MAX_NAME: usize = 255;

/// The type of media whose uploader claimed none (spec, upload).
pub(crate) const UNKNOWN_TYPE: &str = "application/octet-stream";

/// The `Content-Disposition` of media of `content_type`: `inline` only for the safe list, with `name` as a bare token
/// or, when that cannot be, as `filename*`. The form Synapse sends and every known parser takes.
pub(crate) fn header(content_type: &str, name: Option<&str>) -> String {
    let safe = INLINE.contains(&essence(content_type).as_str());
    let mut header = String::from(if safe { "inline" } else { "attachment" });
    match name {
        None | Some("") => {}
        Some(name) if name.bytes().all(is_token_byte) => {
            header.push_str("; filename=");
            header.push_str(name);
        }
        Some(name) => {
            // Writing to a String cannot fail.
            _ = write!(header, "; filename*=utf-8''{}", utf8_percent_encode(name, ATTR_CHAR));
        }
    }
    header
}

/// The file name in a `Content-Disposition` header of another server. `filename*` wins; a plain `filename` counts only
/// when it is ASCII, and is not percent-decoded.
pub(crate) fn file_name(header: &str) -> Option<String> {
    let mut plain = None;
    for (name, value) in parameters(header) {
        if name.eq_ignore_ascii_case("filename*") {
            if let Some(decoded) = decode_extended(&value) {
                return Some(short_name(decoded));
            }
        } else if name.eq_ignore_ascii_case("filename") && value.is_ascii() && plain.is_none() {
            plain = Some(value);
        }
    }
    plain.filter(|name| !name.is_empty()).map(short_name)
}

/// A file name as its user wrote it. Some clients (matrix-js-sdk by XHR) percent-encode it once more than the query calls for, so
/// that it is still encoded when the query has been decoded. Only a name that such a client can have made is decoded: all ASCII,
/// every `%` begins an escape, and what comes out is UTF-8 without control characters.
pub(crate) fn decode_twice_encoded(name: String) -> String {
    let is_escape = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let mut escapes = name.split('%').skip(1).peekable();
    if !name.is_ascii() || escapes.peek().is_none() || !escapes.all(is_escape) {
        return name;
    }
    match percent_decode_str(&name).decode_utf8() {
        Ok(decoded) if !decoded.contains(char::is_control) => decoded.into_owned(),
        Ok(_) | Err(_) => name,
    }
}

/// A file name that fits into a header even when every byte of it is encoded: its first 255 bytes, whole characters.
pub(crate) fn short_name(mut name: String) -> String {
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or(0));
    name
}

/// The `Content-Type` to answer with: as stored, with a charset where text names none.
pub(crate) fn served_type(content_type: &str) -> String {
    if TEXTUAL.contains(&content_type.to_ascii_lowercase().as_str()) {
        format!("{content_type}; charset=UTF-8")
    } else {
        content_type.to_owned()
    }
}

/// A claimed type as it is stored: itself when it can stand in a header, else [`UNKNOWN_TYPE`]. At most 255 bytes.
pub(crate) fn storable_type(claimed: Option<&str>) -> String {
    let fits = |text: &&str| {
        (1..=255).contains(&text.len())
            && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            && text.contains('/')
    };
    claimed.map(str::trim).filter(fits).unwrap_or(UNKNOWN_TYPE).to_owned()
}

/// `type/subtype` in lower case, parameters cut.
pub(crate) fn essence(content_type: &str) -> String {
    let bare = content_type.split_once(';').map_or(content_type, |(bare, _)| bare);
    bare.trim().to_ascii_lowercase()
}

/// Whether a text is a type and a subtype without parameters, each of them a token (RFC 9110, 8.3.1).
pub(crate) fn is_media_type(text: &str) -> bool {
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(is_token_byte);
    text.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// Visible ASCII without RFC 2616's separators, as Synapse has it, and without `%`, which some browsers decode even here
/// (RFC 6266 appendix D).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}%".contains(&byte)
}

/// `charset'language'percent-encoded`, in UTF-8.
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let name = percent_decode_str(encoded).decode_utf8().ok()?;
    (charset.eq_ignore_ascii_case("utf-8") && !name.is_empty()).then(|| name.into_owned())
}

/// Every `name=value` after the first semicolon. A semicolon inside a quoted value does not end a parameter; a quote
/// that never closes does not swallow what it began.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut pieces = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for char in header.chars() {
        let Some(piece) = pieces.last_mut() else { break };
        let in_value = piece.split_once('=').is_some_and(|(_, value)| value.trim_start().starts_with('"'));
        if char == ';' && !(quoted && in_value) {
            pieces.push(String::new());
            (quoted, escaped) = (false, false);
            continue;
        }
        quoted ^= char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        piece.push(char);
    }
    let pairs = pieces.iter().filter_map(|piece| piece.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), unquote(value.trim()))).collect()
}

/// The inside of a quoted string with backslashes resolved; anything else as it is.
fn unquote(value: &str) -> String {
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) => inside.replace("\\\\", "\\").replace("\\\"", "\""),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_travel_as_token_or_extended() {
        for (name, expected) in [
            (None, "inline"),
            (Some(""), "inline"),
            (Some("photo.png"), "inline; filename=photo.png"),
            (Some("my photo.png"), "inline; filename*=utf-8''my%20photo.png"),
            (Some("100%25.png"), "inline; filename*=utf-8''100%2525.png"),
            (Some("a;b.png"), "inline; filename*=utf-8''a%3Bb.png"),
            (Some("ångström"), "inline; filename*=utf-8''%C3%A5ngstr%C3%B6m"),
            (Some("a\r\nX: y"), "inline; filename*=utf-8''a%0D%0AX%3A%20y"),
        ] {
            assert_eq!(header("image/png", name), expected);
        }
    }

    #[test]
    fn only_the_safe_list_is_inline() {
        for content_type in ["image/png", "Text/Plain; charset=utf-8", "VIDEO/MP4"] {
            assert_eq!(header(content_type, None), "inline", "{content_type}");
        }
        for content_type in
            ["image/svg+xml", "text/html", "application/pdf", "", ";", "image/png2", "text/javascript"]
        {
            assert_eq!(header(content_type, None), "attachment", "{content_type}");
        }
    }

    #[test]
    fn file_names_of_other_servers() {
        for (header, expected) in [
            ("attachment; filename=abc.txt", Some("abc.txt")),
            ("inline; filename=\"azerty\"", Some("azerty")),
            ("inline; filename=\"aze%20rty\"", Some("aze%20rty")),
            ("inline; filename=\"aze\"rty\"", Some("aze\"rty")),
            ("inline; filename=\"azer;ty\"", Some("azer;ty")),
            ("inline; filename=\"a\\\"b\"", Some("a\"b")),
            ("inline; filename*=utf-8''foo%C2%A3bar", Some("foo£bar")),
            ("inline; FileName*=UTF-8'en'x; filename=y", Some("x")),
            ("inline; filename=y; filename*=utf-8''x", Some("x")),
            ("inline; filename*=utf-8''%ff; filename=y", Some("y")),
            ("inline; filename=ü", None),
            ("inline; filename=", None),
            ("inline", None),
            ("", None),
        ] {
            assert_eq!(file_name(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(short_name("é".repeat(200)).len(), 254);
        assert_eq!(short_name("a".repeat(300)).len(), 255);
        assert_eq!(file_name(&format!("inline; filename={}", "b".repeat(400))).unwrap().len(), 255);
    }

    #[test]
    fn types_are_stored_as_claimed_when_they_can_stand_in_a_header() {
        assert_eq!(storable_type(Some(" image/PNG ")), "image/PNG");
        for claimed in [None, Some(""), Some("image"), Some("a/b\r\nX: y"), Some("ä/b")] {
            assert_eq!(storable_type(claimed), UNKNOWN_TYPE, "{claimed:?}");
        }
        assert_eq!(served_type("text/plain"), "text/plain; charset=UTF-8");
        assert_eq!(served_type("text/plain; charset=latin1"), "text/plain; charset=latin1");
        assert_eq!(served_type("image/png"), "image/png");
    }

    #[test]
    fn a_name_that_is_still_encoded_is_decoded_once_and_any_other_is_kept() {
        for (name, expected) in [
            ("Bericht%20f%C3%BCr%20%C3%84.zip", "Bericht für Ä.zip"),
            ("a%20b.png", "a b.png"),
            ("%E6%97%A5%E6%9C%AC.txt", "日本.txt"),
            ("%e6%97%a5.txt", "日.txt"),
            ("100%25.txt", "100%.txt"),
            // Once, not until nothing is left.
            ("a%2520b", "a%20b"),
            ("a%2Fb", "a/b"),
            ("a+b%20c", "a+b c"),
            // No encoding makes these.
            ("", ""),
            ("plain.png", "plain.png"),
            ("für%20Ä", "für%20Ä"),
            ("100%", "100%"),
            ("100%2", "100%2"),
            ("100%zz.txt", "100%zz.txt"),
            ("100% of%20it", "100% of%20it"),
            // Not UTF-8: a name that merely looks encoded.
            ("50%ab.txt", "50%ab.txt"),
            ("f%FCr.txt", "f%FCr.txt"),
            ("%C3", "%C3"),
            ("%ED%A0%80", "%ED%A0%80"),
            // Control characters.
            ("a%00b", "a%00b"),
            ("a%0D%0Ab", "a%0D%0Ab"),
            ("a%7Fb", "a%7Fb"),
            ("a%C2%85b", "a%C2%85b"),
        ] {
            assert_eq!(decode_twice_encoded(name.to_owned()), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_twice_comes_out_as_it_was(name in "[^\\p{Cc}]{1,40}") {
            let once = utf8_percent_encode(&name, ATTR_CHAR).to_string();
            prop_assert_eq!(decode_twice_encoded(once), name);
        }

        #[test]
        fn any_name_survives_the_round_trip_and_cannot_break_the_header(name in ".{1,40}") {
            let header = header("image/png", Some(&name));
            prop_assert!(header.bytes().all(|b| (b' '..=b'~').contains(&b)));
            prop_assert!(!header.contains('"') && header.matches(';').count() == 1);
            prop_assert_eq!(file_name(&header), Some(name));
        }

        #[test]
        fn any_header_is_read(header in "\\PC{0,60}") {
            file_name(&header);
        }
    }
}
