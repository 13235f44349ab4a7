//! `data:` URLs: images embedded in a page. [RFC 2397](https://www.rfc-editor.org/rfc/rfc2397), parsed as the
//! [Fetch standard](https://fetch.spec.whatwg.org/#data-url-processor) has it.
//!
//! Owns the decoding. Refuses to know the declared media type: images are recognised by their bytes.

use data_encoding::{BASE64_NOPAD, Encoding};
use percent_encoding::percent_decode_str;
use url::Url;

/// The bytes of a `data:` URL; `None` if it is not one, is malformed, or has more than `max` bytes.
pub(crate) fn read_data_url(url: &Url, max: u64) -> Option<Vec<u8>> {
    let text = url.as_str().split('#').next()?.strip_prefix("data:")?;
    let (kind, data) = text.split_once(',')?;
    let mut bytes: Vec<u8> = percent_decode_str(data).collect();
    if kind.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64")) {
        bytes.retain(|byte| !byte.is_ascii_whitespace());
        let end = bytes.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last.saturating_add(1));
        bytes = forgiving()?.decode(bytes.get(..end)?).ok()?;
    }
    (crate::matrix::len_u64(bytes.len()) <= max).then_some(bytes)
}

/// Base64 that ignores trailing bits, as [forgiving-base64](https://infra.spec.whatwg.org/#forgiving-base64-decode) does.
fn forgiving() -> Option<Encoding> {
    let mut specification = BASE64_NOPAD.specification();
    specification.check_trailing_bits = false;
    specification.encoding().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_are_decoded_as_in_browsers() {
        for (url, expected) in [
            ("data:image/gif;base64,R0lGODlh", Some(&b"GIF89a"[..])),
            ("data:image/gif;base64,R0lG%0AODlh", Some(b"GIF89a")),
            ("data:image/png;charset=x; BASE64 ,QQ==", Some(b"A")),
            ("data:;base64,QQ", Some(b"A")),
            ("data:;base64,QR", Some(b"A")),
            ("data:,a%20b?c#d", Some(b"a b?c")),
            ("data:image/gif;base64,R0lG*", None),
            ("data:image/gif", None),
            ("https://example.org/,a", None),
            ("data:,123456789", None),
        ] {
            assert_eq!(read_data_url(&Url::parse(url).unwrap(), 8).as_deref(), expected, "{url}");
        }
    }
}
