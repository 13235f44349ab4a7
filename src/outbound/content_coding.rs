//! `Content-Encoding`: decoders for gzip, deflate and brotli.
//! [RFC 9110 §8.4](https://www.rfc-editor.org/rfc/rfc9110#section-8.4), RFC 1950 to 1952, RFC 7932.
//!
//! Owns the leniency that browsers have: words in the field that name no coding (`none`, `utf-8`, S3's `aws-chunked`) are ignored,
//! and an empty body is empty under every coding. Refuses to know how much may be decoded, which is
//! [`super::bounded_decoder`]'s.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// The `Accept-Encoding` of a request whose response may come in the codings of this module.
pub(crate) const ACCEPT_ENCODING: &str = "gzip, br";

/// Most codings applied one after the other.
const MAX_CODINGS: usize = 3;

/// Most bytes between two codings. A body encoded twice could decode to gigabytes in between, and to nothing in the end.
const MAX_BETWEEN: u64 = 32 << 20;

/// Read buffer of a brotli decoder, bytes.
const BROTLI_BUFFER: usize = 8 * 1024;

/// The first byte, without its top bit, of a "large window" brotli stream, whose window may be 1 GiB. The HTTP coding allows at
/// most 16 MiB (RFC 7932 §9.1 forbids this value).
const LARGE_WINDOW: u8 = 0x11;

/// How gzip begins (RFC 1952 §2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Codings that exist and cannot be undone here.
const UNSUPPORTED: [&str; 12] = [
    "bzip2",
    "compress",
    "dcb",
    "dcz",
    "exi",
    "lzma",
    "pack200-gzip",
    "sdch",
    "x-bzip2",
    "x-compress",
    "xz",
    "zstd",
];

/// A coding that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950 as specified, or the bare RFC 1951 that some servers send.
    Deflate,
    /// RFC 7932.
    Brotli,
}

/// Whether a body under `codings`, the value of `Content-Encoding`, must be decoded.
pub(crate) fn is_encoded(codings: &str) -> bool {
    parse(codings).is_none_or(|codings| !codings.is_empty())
}

/// A reader of `body` with `codings`, the value of `Content-Encoding`, undone. Reads the first bytes of `body` at once.
///
/// # Errors
/// `Unsupported` for a coding that cannot be undone, or more than three.
pub(super) fn decoder(codings: &str, body: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let unsupported = || io::Error::new(io::ErrorKind::Unsupported, "an unsupported content coding");
    let codings = parse(codings).filter(|codings| codings.len() <= MAX_CODINGS).ok_or_else(unsupported)?;
    let mut body = body;
    // The codings are listed in the order in which they were applied.
    for (index, coding) in codings.into_iter().rev().enumerate() {
        body = if index == 0 {
            undo(coding, body)?
        } else {
            undo_if_applied(coding, Box::new(Between { body, left: MAX_BETWEEN }))?
        };
    }
    Ok(body)
}

/// The bytes between two codings. More than [`MAX_BETWEEN`] are an error, so that a part never passes for the whole.
struct Between {
    body: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Between {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(into)?;
        let left = self.left.checked_sub(crate::matrix::len_u64(count));
        let too_long =
            || io::Error::new(io::ErrorKind::InvalidData, "over 32 MiB between two content codings");
        self.left = left.ok_or_else(too_long)?;
        Ok(count)
    }
}

/// The codings of a list, in order; `None` if one of them is unsupported.
fn parse(codings: &str) -> Option<Vec<Coding>> {
    let mut known = Vec::new();
    for word in codings.split(',') {
        match word.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => known.push(Coding::Gzip),
            "deflate" | "x-deflate" => known.push(Coding::Deflate),
            "br" => known.push(Coding::Brotli),
            other if UNSUPPORTED.contains(&other) => return None,
            _ => {}
        }
    }
    Some(known)
}

/// [`undo`], but gzip only where the bytes begin as gzip does: a second proxy may name the coding again without applying it.
fn undo_if_applied(coding: Coding, body: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    if coding != Coding::Gzip {
        return undo(coding, body);
    }
    let (first, body) = peek(body)?;
    let body: Box<dyn Read + Send> = Box::new(body);
    if first.is_some_and(|first| first != GZIP_MAGIC) { Ok(body) } else { undo(coding, body) }
}

/// A body with one coding undone.
fn undo(coding: Coding, body: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let (first, body) = peek(body)?;
    // Servers that compress on the fly declare the coding of an empty body too.
    let Some(first) = first else { return Ok(Box::new(io::empty())) };
    Ok(match (coding, first) {
        (Coding::Gzip, _) => Box::new(MultiGzDecoder::new(body)),
        (Coding::Deflate, first) if is_zlib(first) => Box::new(ZlibDecoder::new(body)),
        (Coding::Deflate, _) => Box::new(DeflateDecoder::new(body)),
        (Coding::Brotli, [byte, _]) if byte & 0x7f == LARGE_WINDOW => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "brotli with a large window"));
        }
        (Coding::Brotli, _) => Box::new(Decompressor::new(body, BROTLI_BUFFER)),
    })
}

/// The first two bytes, with 0 for a missing second one, and the whole body; `None` of an empty body.
fn peek(mut body: Box<dyn Read + Send>) -> io::Result<(Option<[u8; 2]>, impl Read + Send)> {
    let mut first = Vec::with_capacity(2);
    body.by_ref().take(2).read_to_end(&mut first)?;
    let bytes = first.first().map(|byte| [*byte, first.get(1).copied().unwrap_or_default()]);
    Ok((bytes, io::Cursor::new(first).chain(body)))
}

/// Whether these are the first bytes of a zlib stream (RFC 1950 §2.2).
fn is_zlib(first: [u8; 2]) -> bool {
    first.first().is_some_and(|byte| byte & 0x0f == 8) && u16::from_be_bytes(first).is_multiple_of(31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'hello hello' | gzip -n`
    const GZIP: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x57\xc8\x00\x91\x00\x40\xa6\x2d\x01\x0b\x00\x00\x00";

    /// "hello hello" as one uncompressed brotli metablock and an empty last one (RFC 7932 §9.2).
    const BROTLI: &[u8] = b"\xa0\x00\x10hello hello\x03";

    /// `hello hello` in RFC 1951 and 1950.
    const DEFLATE: &[u8] = b"\xcb\x48\xcd\xc9\xc9\x57\xc8\x00\x91\x00";
    const ZLIB: &[u8] = b"\x78\x9c\xcb\x48\xcd\xc9\xc9\x57\xc8\x00\x91\x00\x19\x91\x04\x49";

    /// All of a body under `codings`.
    fn all(codings: &str, body: &'static [u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        decoder(codings, Box::new(body))?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn supported_codings_are_undone_and_unknown_words_ignored() {
        for (codings, body) in
            [("", &b"hello hello"[..]), ("identity", b"hello hello"), ("gzip", GZIP), ("br", BROTLI)]
        {
            assert_eq!(all(codings, body).unwrap(), b"hello hello", "{codings}");
        }
        let twice = [GZIP, GZIP].concat().leak();
        assert_eq!(all("x-gzip", twice).unwrap().len(), 22, "several gzip members");
        for (codings, body) in [
            ("none", &b"hello hello"[..]),
            ("aws-chunked", b"hello hello"),
            ("UTF-8", b"hello hello"),
            ("binary, identity", b"hello hello"),
            ("gzip, identity", GZIP),
            ("aws-chunked,gzip", GZIP),
            ("GZIP,", GZIP),
            // Named by two proxies, applied by one.
            ("gzip, gzip", GZIP),
            ("deflate", DEFLATE),
            ("deflate", ZLIB),
        ] {
            assert_eq!(all(codings, body).unwrap(), b"hello hello", "{codings}");
        }
        // Encoded twice.
        let mut packed = flate2::read::GzEncoder::new(BROTLI, flate2::Compression::fast());
        let mut bytes = Vec::new();
        packed.read_to_end(&mut bytes).unwrap();
        assert_eq!(all("br, gzip", bytes.leak()).unwrap(), b"hello hello");
    }

    #[test]
    fn an_empty_body_is_empty_under_every_coding() {
        for codings in ["gzip", "deflate", "br", "br, gzip", "gzip, gzip"] {
            assert_eq!(all(codings, b"").unwrap(), b"", "{codings}");
        }
    }

    #[test]
    fn encoded_bodies_are_known_by_the_field() {
        for (codings, expected) in [
            ("", false),
            ("identity", false),
            ("none", false),
            ("aws-chunked", false),
            ("gzip", true),
            ("identity, BR", true),
            ("zstd", true),
        ] {
            assert_eq!(is_encoded(codings), expected, "{codings}");
        }
    }

    /// Half a megabyte that decodes to gigabytes of empty gzip members, and these to nothing.
    #[test]
    fn over_32_mib_between_two_codings_are_an_error() {
        let layer = |bytes: Vec<u8>| {
            let mut packed = Vec::new();
            flate2::read::GzEncoder::new(&*bytes, flate2::Compression::best())
                .read_to_end(&mut packed)
                .unwrap();
            packed
        };
        let empty = layer(Vec::new());
        let small = layer(empty.repeat(1000));
        assert_eq!(all("gzip, gzip", small.leak()).unwrap(), b"");
        let bomb = layer(empty.repeat(2 << 20));
        assert!(bomb.len() < 1 << 20);
        assert!(all("gzip, gzip", bomb.leak()).is_err());
        // A coding named twice and applied once: the bytes in between are the body.
        let long = layer(vec![7; 33 << 20]);
        assert_eq!(all("gzip", long.clone().leak()).unwrap().len(), 33 << 20);
        assert!(all("gzip, gzip", long.leak()).is_err());
    }

    #[test]
    fn truncated_broken_or_unsupported_bodies_are_errors() {
        for (codings, body) in [
            ("gzip", &GZIP[..12]),
            ("gzip", b"<html>"),
            ("gzip", b"\x1f"),
            ("deflate", b"\x78"),
            ("br", &BROTLI[..6]),
            ("br", b"\x11\x1e\x00"),
            ("zstd", b"x"),
            ("gzip, br", GZIP),
            ("gzip, zstd", GZIP),
            ("compress", b"x"),
            ("br, br, br, br", BROTLI),
        ] {
            assert!(all(codings, body).is_err(), "{codings} {body:?}");
        }
    }
}
