//! `Content-Encoding`: gzip and brotli, undone as the bytes come.
//! [RFC 9110 §8.4](https://www.rfc-editor.org/rfc/rfc9110#section-8.4), RFC 1952, RFC 7932.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use flate2::read::MultiGzDecoder;

/// What a request that can read the codings of this module sends as `Accept-Encoding`.
pub(crate) const ACCEPT_ENCODING: &str = "gzip, br";

/// How much of a brotli stream is read at once, bytes.
const BROTLI_BUFFER: usize = 8 * 1024;

/// The first byte, but for its top bit, of a brotli stream whose window may be as large as 1 GiB: not the HTTP coding, where
/// 16 MiB are the most (RFC 7932 §9.1 forbids this value).
const LARGE_WINDOW: u8 = 0x11;

/// `body` without `codings`, the value of `Content-Encoding`, in lower case.
pub(super) fn undo(codings: &str, mut body: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    match codings.trim() {
        "" | "identity" => Ok(Box::new(body)),
        "gzip" | "x-gzip" => Ok(Box::new(MultiGzDecoder::new(body))),
        "br" => {
            let mut first = Vec::with_capacity(1);
            body.by_ref().take(1).read_to_end(&mut first)?;
            if first.first().is_some_and(|byte| byte & 0x7f == LARGE_WINDOW) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "brotli with a large window"));
            }
            Ok(Box::new(Decompressor::new(io::Cursor::new(first).chain(body), BROTLI_BUFFER)))
        }
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "a content encoding that was not asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'hello hello' | gzip -n`
    const GZIP: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x57\xc8\x00\x91\x00\x40\xa6\x2d\x01\x0b\x00\x00\x00";

    /// "hello hello" as one uncompressed brotli metablock and an empty last one (RFC 7932 §9.2).
    const BROTLI: &[u8] = b"\xa0\x00\x10hello hello\x03";

    /// All of a body under `codings`.
    fn read(codings: &str, body: &'static [u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        undo(codings, body)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn the_codings_asked_for_are_undone() {
        for (codings, body) in
            [("", &b"hello hello"[..]), ("identity", b"hello hello"), ("gzip", GZIP), ("br", BROTLI)]
        {
            assert_eq!(read(codings, body).unwrap(), b"hello hello", "{codings}");
        }
        let twice = [GZIP, GZIP].concat().leak();
        assert_eq!(read("x-gzip", twice).unwrap().len(), 22, "members one after the other");
    }

    #[test]
    fn what_is_cut_off_broken_or_foreign_is_an_error() {
        for (codings, body) in [
            ("gzip", &GZIP[..12]),
            ("gzip", b"<html>"),
            ("br", &BROTLI[..6]),
            ("br", b"\x11\x1e\x00"),
            ("zstd", b"x"),
            ("gzip, br", GZIP),
        ] {
            assert!(read(codings, body).is_err(), "{codings} {body:?}");
        }
    }
}
