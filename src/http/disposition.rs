//! `Content-Disposition` and `Content-Type` of media: what may be shown inline, and how file names are encoded.
//!
//! Owns the text of both headers, read and written. Refuses to know where the media is stored.
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

/// Text types that get `; charset=UTF-8` if they have no charset: browsers would guess Latin-1.
const TEXTUAL: [&str; 5] = ["text/css", "text/csv", "text/html", "text/plain", "text/xml"];

/// Characters that `filename*` does not percent-encode (RFC 8187).
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

/// Longest file name, bytes of UTF-8: the limit of common file systems.
const MAX_NAME: usize = 255;

/// The type of media without a claimed type (spec, upload).
pub(crate) const UNKNOWN_TYPE: &str = "application/octet-stream";

/// The `Content-Disposition` of media of `content_type`: `inline` only for the safe list; `name` as a plain token if possible, else as
/// `filename*`. Synapse sends the same form, and every known parser accepts it.
pub(crate) fn header(content_type: &str, name: Option<&str>) -> String {
    let safe = is_one_type(content_type) && INLINE.contains(&essence(content_type).as_str());
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

/// The file name in a `Content-Disposition` header of another server. `filename*` wins; a plain `filename` may be raw UTF-8. Other
/// servers keep a name that was encoded twice as it is, and write it in either form.
pub(crate) fn file_name(header: &str) -> Option<String> {
    let mut plain = None;
    for (name, value) in parameters(header) {
        if name.eq_ignore_ascii_case("filename*") {
            if let Some(decoded) = decode_extended(&value) {
                return Some(short_name(decode_twice_encoded(decoded)));
            }
        } else if name.eq_ignore_ascii_case("filename") && plain.is_none() {
            plain = Some(value);
        }
    }
    // The replacement character stands for bytes of some other character set.
    let plain = plain.filter(|name| !name.is_empty() && !name.contains(char::REPLACEMENT_CHARACTER));
    plain.map(|name| short_name(decode_twice_encoded(name)))
}

/// The file name of an upload. Some clients (matrix-js-sdk with XHR) percent-encode it twice, so it is still encoded after the query was
/// decoded. A name is decoded again only if such a client can have sent it: it is all ASCII, every `%` begins an escape, and the result is
/// UTF-8 without control characters.
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

/// The first 255 bytes of a file name, without splitting a character: they fit into a header even if every byte is encoded.
pub(crate) fn short_name(mut name: String) -> String {
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or(0));
    name
}

/// The `Content-Type` of a response: the stored type, with a charset for text that has none. Validated again, because older versions stored
/// types without this check.
pub(crate) fn served_type(content_type: &str) -> String {
    if !is_one_type(content_type) {
        UNKNOWN_TYPE.to_owned()
    } else if TEXTUAL.contains(&content_type.to_ascii_lowercase().as_str()) {
        format!("{content_type}; charset=UTF-8")
    } else {
        content_type.to_owned()
    }
}

/// The type to store for the `Content-Type` lines of an upload: the claimed one if it is valid, else [`UNKNOWN_TYPE`]. Several different
/// lines count as none, because readers disagree about which one to use.
pub(crate) fn storable_type<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut lines = lines.into_iter().map(<[u8]>::trim_ascii);
    let first = lines.next().filter(|first| lines.all(|other| other == *first));
    let claimed = first.and_then(|line| str::from_utf8(line).ok());
    claimed.filter(|text| is_one_type(text)).unwrap_or(UNKNOWN_TYPE).to_owned()
}

/// Whether a text of at most 255 bytes is exactly one media type: `type/subtype` and parameters, without a comma outside quotes or a
/// misplaced quote. Browsers accept a list and use its last type (WHATWG Fetch, extract a MIME type): a harmless type before a comma could
/// hide HTML after it.
fn is_one_type(text: &str) -> bool {
    if text.len() > 255 || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return false;
    }
    let (essence, mut rest) = text.split_once(';').unwrap_or((text, ""));
    if !is_media_type(essence.trim_end()) {
        return false;
    }
    while !rest.is_empty() {
        let until = rest.find(['"', ';', ',']).unwrap_or(rest.len());
        let (before, after) = rest.split_at_checked(until).unwrap_or((rest, ""));
        let after = match after.strip_prefix('"') {
            Some(quoted) if before.ends_with('=') => match after_quotes(quoted) {
                Some(after) => after.trim_start(),
                None => return false,
            },
            Some(_) => return false,
            None => after,
        };
        match after.strip_prefix(';') {
            Some(next) => rest = next,
            None => return after.is_empty(),
        }
    }
    true
}

/// The rest after a quoted string whose opening quote was consumed; `None` if it is not closed.
fn after_quotes(text: &str) -> Option<&str> {
    let mut escaped = false;
    let closing = text.find(|char| {
        let closes = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        closes
    })?;
    text.get(closing.saturating_add(1)..)
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
            ("inline; filename=\"aze%20rty\"", Some("aze rty")),
            ("inline; filename=Bericht%20f%C3%BCr%20%C3%84.zip", Some("Bericht für Ä.zip")),
            (
                "inline; filename*=utf-8''Bericht%2520f%25C3%25BCr%2520%25C3%2584.zip",
                Some("Bericht für Ä.zip"),
            ),
            ("inline; filename*=utf-8''a%252520b", Some("a%20b")),
            ("inline; filename=\"100%.txt\"", Some("100%.txt")),
            ("inline; filename=%ff", Some("%ff")),
            ("inline; filename=\"üml.png\"", Some("üml.png")),
            ("inline; filename=\"ü%20\"", Some("ü%20")),
            ("inline; filename=\"\u{fffd}ml.png\"", None),
            ("inline; filename=\"aze\"rty\"", Some("aze\"rty")),
            ("inline; filename=\"azer;ty\"", Some("azer;ty")),
            ("inline; filename=\"a\\\"b\"", Some("a\"b")),
            ("inline; filename*=utf-8''foo%C2%A3bar", Some("foo£bar")),
            ("inline; FileName*=UTF-8'en'x; filename=y", Some("x")),
            ("inline; filename=y; filename*=utf-8''x", Some("x")),
            ("inline; filename*=utf-8''%ff; filename=y", Some("y")),
            ("inline; filename=ü", Some("ü")),
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
        for good in [
            "image/PNG",
            "text/plain;charset=utf-8",
            "text/plain ; charset=UTF-8 ; format=flowed",
            "text/plain; charset=\"utf-8\"",
            "text/plain; x=\"a,b;c\\\"d, text/html\"; y=z",
            "image/svg+xml",
            "application/vnd.oasis.opendocument.text",
            "text/x-c++; a",
            "text/plain;",
            "text/plain;;x=",
            "video/mp4; codecs=\"avc1.42E01E, mp4a.40.2\"",
        ] {
            assert_eq!(storable_type([format!(" {good}\t").as_bytes()]), good);
            assert_eq!(storable_type([good.as_bytes(), good.as_bytes()]), good, "twice the same");
            assert!(served_type(good).starts_with(good), "{good}");
        }
        for bad in POISON {
            assert_eq!(storable_type([bad.as_bytes()]), UNKNOWN_TYPE, "{bad:?}");
            assert_eq!(served_type(bad), UNKNOWN_TYPE, "{bad:?}");
            assert_eq!(header(bad, None), "attachment", "{bad:?}");
        }
        assert_eq!(storable_type([]), UNKNOWN_TYPE);
        assert_eq!(storable_type([b"text/\xff".as_slice()]), UNKNOWN_TYPE);
        let two = ["text/plain", "text/html"].map(str::as_bytes);
        assert_eq!(storable_type(two), UNKNOWN_TYPE, "each reader takes another");
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

    /// What a browser may take for another type than the first one in it.
    const POISON: [&str; 20] = [
        "",
        "image",
        "/",
        "text/",
        "/plain",
        "a/b\r\nX: y",
        "ä/b",
        "text/plain;x=,text/html",
        "application/json;,text/xml",
        "text/plain, text/html",
        "text/plain,text/html",
        "text/plain; x=\"a\",text/html",
        "text/plain; x=\"a\\\",text/html",
        "text/plain; x=\"a,text/html",
        "text/plain; x=a\"b,c\"",
        "text/plain; \"x,text/html\"",
        "text/plain; x=\"a\" b",
        "text/plain; x=\"a\"\"b\"",
        "text/plain text/html",
        "text /plain",
    ];

    proptest! {
        /// WHATWG Fetch, "get, decode, and split": a comma splits unless it stands in a quoted string, which any quote begins.
        #[test]
        fn what_is_stored_is_one_type_to_a_browser(text in "text/plain[;=,\"\\\\ a/]{0,12}") {
            let stored = storable_type([text.as_bytes()]);
            let (mut quoted, mut escaped) = (false, false);
            for char in stored.chars() {
                prop_assert!(quoted || char != ',', "{text}");
                (quoted, escaped) = match char {
                    '"' if !escaped => (!quoted, false),
                    '\\' if quoted && !escaped => (true, true),
                    _ => (quoted, false),
                };
            }
            prop_assert!(!quoted, "{text}");
        }

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
            prop_assert_eq!(file_name(&header), Some(decode_twice_encoded(name)));
        }

        #[test]
        fn any_header_is_read(header in "\\PC{0,60}") {
            file_name(&header);
        }
    }
}
