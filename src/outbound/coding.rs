//! `Content-Encoding`: gzip, deflate and brotli, undone as the bytes come.
//! [RFC 9110 §8.4](https://www.rfc-editor.org/rfc/rfc9110#section-8.4), RFC 1950 to 1952, RFC 7932.
//!
//! Owns the leniency of browsers: words that are no codings (`none`, `utf-8`, S3's `aws-chunked`) say nothing.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// What a request that can read the codings of this module sends as `Accept-Encoding`.
pub(crate) const ACCEPT_ENCODING: &str = "gzip, br";

/// Most codings, one upon the other.
const MAX_CODINGS: usize = 3;

/// Most bytes that one coding hands to the next. What is packed twice could unpack to very much between the two, and to nothing
/// in the end.
const MAX_BETWEEN: u64 = 32 << 20;

/// How much of a brotli stream is read at once, bytes.
const BROTLI_BUFFER: usize = 8 * 1024;

/// The first byte, but for its top bit, of a brotli stream whose window may be as large as 1 GiB: not the HTTP coding, where
/// 16 MiB are the most (RFC 7932 §9.1 forbids this value).
const LARGE_WINDOW: u8 = 0x11;

/// How gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Codings that there are and nobody asked for.
const OTHERS: [&str; 12] = [
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
    /// RFC 1950, or the bare RFC 1951 that some servers send.
    Deflate,
    /// RFC 7932.
    Brotli,
}

/// Whether a body under `codings`, the value of `Content-Encoding`, is another than the one that is meant.
pub(crate) fn is_encoded(codings: &str) -> bool {
    read(codings).is_none_or(|codings| !codings.is_empty())
}

/// `body` without `codings`, the value of `Content-Encoding`.
///
/// # Errors
/// One of `Unsupported` kind for a coding that was not asked for.
pub(super) fn undo(codings: &str, body: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let unknown = || io::Error::new(io::ErrorKind::Unsupported, "a content encoding that was not asked for");
    let codings = read(codings).filter(|codings| codings.len() <= MAX_CODINGS).ok_or_else(unknown)?;
    let mut body: Box<dyn Read + Send> = Box::new(body);
    // The last one was applied last.
    for (index, coding) in codings.into_iter().rev().enumerate() {
        body = if index == 0 {
            unpack(coding, body, Trust::Full)?
        } else {
            unpack(coding, Box::new(Between { body, left: MAX_BETWEEN }), Trust::Little)?
        };
    }
    Ok(body)
}

/// What one coding hands to the next: more than so many bytes are an error, and never pass for the whole.
struct Between {
    /// The bytes.
    body: Box<dyn Read + Send>,
    /// How many may still come.
    left: u64,
}

impl Read for Between {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(into)?;
        let left = self.left.checked_sub(crate::matrix::len_u64(count));
        let too_much =
            || io::Error::new(io::ErrorKind::InvalidData, "too much between two content encodings");
        self.left = left.ok_or_else(too_much)?;
        Ok(count)
    }
}

/// Whether a coding is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// It is.
    Full,
    /// It may be named twice and applied once.
    Little,
}

/// The codings of a list, in order; `None` if there is one that cannot be undone.
fn read(codings: &str) -> Option<Vec<Coding>> {
    let mut known = Vec::new();
    for word in codings.split(',') {
        match word.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => known.push(Coding::Gzip),
            "deflate" | "x-deflate" => known.push(Coding::Deflate),
            "br" => known.push(Coding::Brotli),
            other if OTHERS.contains(&other) => return None,
            _ => {}
        }
    }
    Some(known)
}

/// A body without one coding.
fn unpack(coding: Coding, body: Box<dyn Read + Send>, trust: Trust) -> io::Result<Box<dyn Read + Send>> {
    let (first, body) = peek(body)?;
    // Servers that pack what they have not made yet say so of nothing, too.
    let Some(first) = first else { return Ok(Box::new(io::empty())) };
    Ok(match (coding, first) {
        (Coding::Gzip, first) if trust == Trust::Little && first != GZIP => Box::new(body),
        (Coding::Gzip, _) => Box::new(MultiGzDecoder::new(body)),
        (Coding::Deflate, first) if is_zlib(first) => Box::new(ZlibDecoder::new(body)),
        (Coding::Deflate, _) => Box::new(DeflateDecoder::new(body)),
        (Coding::Brotli, [byte, _]) if byte & 0x7f == LARGE_WINDOW => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "brotli with a large window"));
        }
        (Coding::Brotli, _) => Box::new(Decompressor::new(body, BROTLI_BUFFER)),
    })
}

/// The first two bytes, a zero for the second if there is none, and the whole body; `None` of an empty one.
fn peek(mut body: Box<dyn Read + Send>) -> io::Result<(Option<[u8; 2]>, impl Read + Send)> {
    let mut first = Vec::with_capacity(2);
    body.by_ref().take(2).read_to_end(&mut first)?;
    let bytes = first.first().map(|byte| [*byte, first.get(1).copied().unwrap_or_default()]);
    Ok((bytes, io::Cursor::new(first).chain(body)))
}

/// Whether these are the first bytes of RFC 1950.
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
        undo(codings, body)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn the_codings_asked_for_are_undone() {
        for (codings, body) in
            [("", &b"hello hello"[..]), ("identity", b"hello hello"), ("gzip", GZIP), ("br", BROTLI)]
        {
            assert_eq!(all(codings, body).unwrap(), b"hello hello", "{codings}");
        }
        let twice = [GZIP, GZIP].concat().leak();
        assert_eq!(all("x-gzip", twice).unwrap().len(), 22, "members one after the other");
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
        // Packed twice.
        let mut packed = flate2::read::GzEncoder::new(BROTLI, flate2::Compression::fast());
        let mut bytes = Vec::new();
        packed.read_to_end(&mut bytes).unwrap();
        assert_eq!(all("br, gzip", bytes.leak()).unwrap(), b"hello hello");
    }

    #[test]
    fn nothing_is_nothing_in_every_coding() {
        for codings in ["gzip", "deflate", "br", "br, gzip", "gzip, gzip"] {
            assert_eq!(all(codings, b"").unwrap(), b"", "{codings}");
        }
    }

    #[test]
    fn what_is_encoded_is_known_by_its_codings() {
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

    /// Half a megabyte unpacked to gigabytes of nothing.
    #[test]
    fn what_is_very_much_between_two_codings_is_cut_there() {
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
        // What is named twice and applied once is no shorter for it.
        let long = layer(vec![7; 33 << 20]);
        assert_eq!(all("gzip", long.clone().leak()).unwrap().len(), 33 << 20);
        assert!(all("gzip, gzip", long.leak()).is_err());
    }

    #[test]
    fn what_is_cut_off_broken_or_foreign_is_an_error() {
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
