//! The head of an answer, as servers send it and as the HTTP client takes it.
//!
//! Owns the leniency of browsers: lines that are no header fields are passed over, folded ones joined, what nobody here reads is
//! left out of a head that is long. [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) where the server keeps to it.

use super::OutboundError;

/// Largest head, with those that announce it, bytes.
const MAX_HEAD: usize = 256 * 1024;

/// Most lines of one.
const MAX_LINES: usize = 1000;

/// Largest head that is handed on as it is, bytes.
const PLAIN_HEAD: usize = 12 * 1024;

/// Most fields handed on; the HTTP client takes 128.
const PLAIN_FIELDS: usize = 100;

/// Of a long head these are handed on: what frames the body, and what is read of answers.
const READ: [&str; 20] = [
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expires",
    "keep-alive",
    "last-modified",
    "location",
    "refresh",
    "retry-after",
    "server",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// Reads the head of an answer as it comes, over those before it that only announce it. Each byte is looked at once, however
/// few come at a time.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// All that came, [`MAX_HEAD`] bytes and one chunk at most.
    raw: Vec<u8>,
    /// Where the head begins.
    start: usize,
    /// Where the line begins that is not whole yet.
    line: usize,
    /// How much of it is known to have no end.
    searched: usize,
    /// Lines of it so far.
    lines: usize,
}

impl HeadReader {
    /// Takes what came next; nothing when no more will. Gives the head, clean, and all that came after it, once it is whole;
    /// nothing of a connection that ended before the first byte.
    ///
    /// # Errors
    /// For what is no HTTP, or too long.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Result<Option<Vec<u8>>, OutboundError> {
        self.raw.extend_from_slice(chunk);
        let is_all = chunk.is_empty();
        if is_all && self.raw.is_empty() {
            return Ok(Some(Vec::new()));
        }
        loop {
            let end = match self.end()? {
                Some(end) => end,
                // Who hangs up before the empty line has said all the same.
                None if is_all => self.raw.len(),
                None => return self.expect_more().map(|()| None),
            };
            let (status, mut clean) = clean(self.raw.get(self.start..end).unwrap_or_default())?;
            // 100 Continue, 103 Early Hints and the like; 101 is an answer, if none that was asked for.
            if !matches!(status, 100 | 102..=199) {
                clean.extend_from_slice(self.raw.get(end..).unwrap_or_default());
                return Ok(Some(clean));
            }
            (self.start, self.line, self.searched, self.lines) = (end, end, end, 0);
        }
    }

    /// Where the head ends, behind its empty line, if that is there. Empty lines before it belong to it.
    fn end(&mut self) -> Result<Option<usize>, OutboundError> {
        while let Some(at) = self.raw.get(self.searched..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let end = self.searched.saturating_add(at);
            let line = self.raw.get(self.line..end).unwrap_or_default();
            let is_empty = line.is_empty() || line == b"\r";
            self.searched = end.saturating_add(1);
            self.line = self.searched;
            if is_empty && self.lines > 0 {
                return Ok(Some(self.searched));
            }
            if !is_empty {
                self.lines = self.lines.saturating_add(1);
            }
            if self.lines > MAX_LINES {
                return Err(OutboundError::Malformed("the head of its answer has over 1000 lines"));
            }
        }
        self.searched = self.raw.len();
        Ok(None)
    }

    /// Whether waiting for more makes sense.
    fn expect_more(&self) -> Result<(), OutboundError> {
        if self.raw.len() > MAX_HEAD {
            return Err(OutboundError::Malformed("the head of its answer is over 256 KiB"));
        }
        let begun = self.raw.get(self.start..).unwrap_or_default();
        if may_be_http(begun) { Ok(()) } else { Err(OutboundError::Malformed(NO_HTTP)) }
    }
}

/// What is said of a server that speaks something else.
const NO_HTTP: &str = "its answer is not HTTP";

/// Whether this may be the beginning of an answer.
fn may_be_http(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    let known = b"HTTP/";
    start.iter().zip(known).all(|(byte, expected)| byte.eq_ignore_ascii_case(expected))
}

/// The status, and the head as the HTTP client takes it.
fn clean(head: &[u8]) -> Result<(u16, Vec<u8>), OutboundError> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.skip_while(|line| line.is_empty());
    let (version, status) = lines.next().and_then(status_line).ok_or(OutboundError::Malformed(NO_HTTP))?;
    let mut fields: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let mut is_kept = false;
    for line in lines.filter(|line| !line.is_empty()) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some((_, value)) = fields.last_mut().filter(|_| is_kept) {
                value.push(b' ');
                value.extend(line.trim_ascii());
            }
            continue;
        }
        let field = field(line);
        is_kept = field.is_some();
        fields.extend(field);
    }
    fields.retain(|(_, value)| value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t'));
    let is_long = head.len() > PLAIN_HEAD || fields.len() > PLAIN_FIELDS;
    let mut clean = format!("HTTP/1.{version} {status:03}\r\n").into_bytes();
    let mut kept = 0_usize;
    for (name, value) in fields {
        let size = name.len().saturating_add(value.len()).saturating_add(clean.len());
        if is_long && (!is_read(name) || size > PLAIN_HEAD || kept >= PLAIN_FIELDS) {
            continue;
        }
        kept = kept.saturating_add(1);
        for part in [name, b": ", &value, b"\r\n"] {
            clean.extend_from_slice(part);
        }
    }
    clean.extend_from_slice(b"\r\n");
    Ok((status, clean))
}

/// Minor version and status of `HTTP/1.1 200 Fine`.
fn status_line(line: &[u8]) -> Option<(u8, u16)> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let version = words.next()?.to_ascii_uppercase();
    let minor = match version.strip_prefix(b"HTTP/1.")? {
        b"0" => 0,
        later if later.iter().all(u8::is_ascii_digit) && !later.is_empty() => 1,
        _ => return None,
    };
    let status = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    (100..=999).contains(&status).then_some((minor, status))
}

/// Name and value of a line, if it is a header field.
fn field(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) =
        (line.get(..colon)?.trim_ascii_end(), line.get(colon.checked_add(1)?..)?.trim_ascii());
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(is_token) {
        return None;
    }
    // A length that is none says nothing: the body ends with the connection.
    let is_length = name.eq_ignore_ascii_case(b"content-length");
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if is_length && !value.split(|byte| *byte == b',').all(|part| is_number(part.trim_ascii())) {
        return None;
    }
    Some((name, value.to_vec()))
}

/// Whether anybody here reads a field.
fn is_read(name: &[u8]) -> bool {
    READ.iter().any(|read| name.eq_ignore_ascii_case(read.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn whatever_comes_the_clean_head_is_short_and_the_same_in_any_pieces(
            lines in prop::collection::vec("[ -~\t\u{e4}]{0,40}|(Location|content-type|X-A) ?: [ -~]{0,5000}", 0..200),
            cut in 0_usize..5000,
        ) {
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", lines.join("\r\n"));
            let whole = HeadReader::default().take(head.as_bytes());
            let mut reader = HeadReader::default();
            let (first, second) = head.as_bytes().split_at(cut.clamp(1, head.len().saturating_sub(1)));
            let pieces = reader.take(first).and_then(|read| read.map_or_else(|| reader.take(second), |mut read| {
                read.extend(second);
                Ok(Some(read))
            }));
            match (whole, pieces) {
                (Ok(Some(whole)), Ok(Some(pieces))) => {
                    let end = memchr::memmem::find(&whole, b"\r\n\r\n").unwrap();
                    prop_assert!(end < PLAIN_HEAD + 1024);
                    prop_assert_eq!(whole, pieces);
                }
                (whole, pieces) => prop_assert_eq!(whole.is_err(), pieces.is_err()),
            }
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 1..2000), is_http: bool) {
            let start: &[u8] = if is_http { b"HTTP/1.1 200\n" } else { b"" };
            let mut reader = HeadReader::default();
            if let Ok(None) = reader.take(&[start, &bytes].concat()) {
                drop(reader.take(b""));
            }
        }
    }

    /// The clean head as text, whether it comes at once or byte by byte.
    fn cleaned(head: &[u8]) -> String {
        let whole = HeadReader::default().take(head).unwrap().unwrap();
        let mut reader = HeadReader::default();
        let (last, others) = head.split_last().unwrap();
        if head.len() < 10_000 {
            assert!(others.iter().all(|byte| reader.take(&[*byte]).unwrap().is_none()));
            assert_eq!(reader.take(&[*last]).unwrap().unwrap(), whole);
        }
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn heads_that_browsers_take_are_taken() {
        for (head, clean) in [
            (&b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"[..], "HTTP/1.1 200\r\nA: b\r\n\r\n"),
            (b"HTTP/1.1 200\nA:b\n\n", "HTTP/1.1 200\r\nA: b\r\n\r\n"),
            (b"\r\n\r\nhttp/1.0  404  Nicht gefunden: \xfc\r\n\r\n", "HTTP/1.0 404\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nno colon here\r\nA: b\r\n\r\n", "HTTP/1.1 200\r\nA: b\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\n: b\r\nTwo words: c\r\nA : b\r\n\r\n", "HTTP/1.1 200\r\nA: b\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n  c\r\n\td\r\n\r\n", "HTTP/1.1 200\r\nA: b c d\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nnothing\r\n  folded\r\nA: b\r\n\r\n", "HTTP/1.1 200\r\nA: b\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nA: b\x00c\r\nB: d\r\n\r\n", "HTTP/1.1 200\r\nB: d\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\nB: d\r\n\r\n", "HTTP/1.1 200\r\nB: d\r\n\r\n"),
            (
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                "HTTP/1.1 200\r\n\r\n",
            ),
        ] {
            assert_eq!(cleaned(head), clean, "{}", String::from_utf8_lossy(head));
        }
        let raw = b"HTTP/1.1 302 Found\r\nLocation: /stra\xc3\x9fe\r\n\r\n";
        assert!(cleaned(raw).contains("Location: /stra\u{df}e\r\n"), "other bytes than ASCII are kept");
    }

    #[test]
    fn of_a_long_head_what_is_read_is_kept() {
        use std::fmt::Write as _;
        let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
        for number in 0..900 {
            write!(head, "Set-Cookie: {number}={}\r\nX-{number}: y\r\n", "c".repeat(200)).unwrap();
            if number == 450 {
                break;
            }
        }
        head += "Content-Type: text/html\r\nCONTENT-LENGTH: 5\r\n\r\n";
        assert!(head.len() > 90 * 1024);
        assert_eq!(
            cleaned(head.as_bytes()),
            "HTTP/1.1 200\r\nContent-Type: text/html\r\nCONTENT-LENGTH: 5\r\n\r\n"
        );
        let long = format!("HTTP/1.1 302 x\r\nX: {}\r\nLocation: /a\r\n\r\n", "y".repeat(200 * 1024));
        assert_eq!(cleaned(long.as_bytes()), "HTTP/1.1 302\r\nLocation: /a\r\n\r\n");
        let hostile = format!("HTTP/1.1 302 x\r\n{}\r\n", "Location: /aaaaaaaaaaaaaaa\r\n".repeat(990));
        assert!(cleaned(hostile.as_bytes()).len() < 16 * 1024);
    }

    #[test]
    fn what_is_no_head_is_an_error_and_what_is_none_yet_is_waited_for() {
        for unfinished in
            [&b"H"[..], b"\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
        {
            assert_eq!(HeadReader::default().take(unfinished).unwrap(), None);
        }
        let lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(1001));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(MAX_HEAD));
        for broken in [
            &b"SSH-2.0-x\r\n"[..],
            b"<html>",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1.1 099 x\r\n\r\n",
            lines.as_bytes(),
            long.as_bytes(),
        ] {
            let read = HeadReader::default().take(broken);
            assert!(matches!(read, Err(OutboundError::Malformed(_))), "{broken:?}");
        }
        // A server that hangs up before the empty line has said all the same.
        let mut reader = HeadReader::default();
        assert_eq!(reader.take(b"HTTP/1.1 302 x\r\nLocation: /a\r\n").unwrap(), None);
        assert_eq!(reader.take(b"").unwrap().unwrap(), b"HTTP/1.1 302\r\nLocation: /a\r\n\r\n");
        assert_eq!(HeadReader::default().take(b"").unwrap(), Some(Vec::new()), "or nothing");
    }

    /// Each was small, and all were kept.
    #[test]
    fn announcements_without_end_are_an_error() {
        let mut reader = HeadReader::default();
        let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
        let taken = (0..MAX_HEAD).find_map(|_| reader.take(hint).err());
        assert!(matches!(taken, Some(OutboundError::Malformed(_))));
        assert!(reader.raw.len() < MAX_HEAD + 100);
    }

    #[test]
    fn what_comes_after_a_head_is_handed_on_with_it() {
        let read =
            HeadReader::default().take(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 100 is the body\n\n").unwrap();
        assert_eq!(read.unwrap(), b"HTTP/1.1 200\r\n\r\nHTTP/1.1 100 is the body\n\n");
    }
}
