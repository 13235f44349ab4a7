//! Response heads: parsed as leniently as browsers do, and rewritten in the form that the HTTP client accepts.
//! [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) §4 and §5.
//!
//! Owns the leniency: invalid lines are skipped, folded lines joined, and of a long head only the fields that this program reads are
//! kept. ureq's own parser, httparse with its strict defaults, refuses all of these and any head of over 128
//! fields; httparse at its most lenient still refuses `http/1.1` and a head without its empty line, and reads a head that
//! comes in pieces from the start each time. Refuses to know bodies.

use super::OutboundError;

/// Largest head, together with the interim (1xx) heads before it, bytes.
const MAX_HEAD: usize = 256 * 1024;

/// Most lines of a head.
const MAX_LINES: usize = 1000;

/// Largest head of which all fields are kept, bytes.
const MAX_FULL_HEAD: usize = 12 * 1024;

/// Most fields kept; ureq accepts 128.
const MAX_FIELDS: usize = 100;

/// The fields kept of a longer head: those that frame the body, and those that this program reads.
const KEPT_FIELDS: [&str; 20] = [
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

/// Reads the final response head as it arrives, skipping interim (1xx) heads. Each byte is scanned once, however small the
/// pieces.
#[derive(Debug, Default)]
pub(super) struct ResponseHeadReader {
    /// All bytes received: at most [`MAX_HEAD`] and one chunk.
    raw: Vec<u8>,
    /// Where the current head begins.
    start: usize,
    /// Where the current line begins.
    line: usize,
    /// Up to where a line end was searched.
    searched: usize,
    /// Lines of the current head so far.
    lines: usize,
}

impl ResponseHeadReader {
    /// Adds the next bytes; an empty `chunk` means that the connection has ended. Returns the normalised head and all bytes
    /// behind it once the head is complete, and no bytes for a connection that ended before the first one.
    ///
    /// # Errors
    /// `Malformed` for what is not HTTP, or exceeds 256 KiB or 1000 lines.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Option<Vec<u8>>, OutboundError> {
        self.raw.extend_from_slice(chunk);
        let has_ended = chunk.is_empty();
        if has_ended && self.raw.is_empty() {
            return Ok(Some(Vec::new()));
        }
        loop {
            let end = match self.end()? {
                Some(end) => end,
                // A server that closes the connection before the empty line has sent all that it will.
                None if has_ended => self.raw.len(),
                None => return self.expect_more().map(|()| None),
            };
            let (status, mut head) = normalize(self.raw.get(self.start..end).unwrap_or_default())?;
            // 100 Continue, 103 Early Hints and the like. 101 Switching Protocols is final, though never asked for.
            if !matches!(status, 100 | 102..=199) {
                head.extend_from_slice(self.raw.get(end..).unwrap_or_default());
                return Ok(Some(head));
            }
            (self.start, self.line, self.searched, self.lines) = (end, end, end, 0);
        }
    }

    /// The end of the current head, behind its empty line, if that has arrived. Empty lines before the status line are skipped.
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
                return Err(OutboundError::Malformed("the response head has over 1000 lines"));
            }
        }
        self.searched = self.raw.len();
        Ok(None)
    }

    /// Fails when more bytes cannot make this a head.
    fn expect_more(&self) -> Result<(), OutboundError> {
        if self.raw.len() > MAX_HEAD {
            return Err(OutboundError::Malformed("the response head is over 256 KiB"));
        }
        let begin = self.raw.get(self.start..).unwrap_or_default();
        if may_be_http(begin) { Ok(()) } else { Err(OutboundError::Malformed(NOT_HTTP)) }
    }
}

/// The message for a server that speaks another protocol.
const NOT_HTTP: &str = "the response is not HTTP/1";

/// Whether `bytes` may be the start of a response.
fn may_be_http(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    let known = b"HTTP/";
    start.iter().zip(known).all(|(byte, expected)| byte.eq_ignore_ascii_case(expected))
}

/// The status code, and the head in the form that RFC 9112 requires, without the reason phrase.
fn normalize(head: &[u8]) -> Result<(u16, Vec<u8>), OutboundError> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.skip_while(|line| line.is_empty());
    let (version, status) = lines.next().and_then(status_line).ok_or(OutboundError::Malformed(NOT_HTTP))?;
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
    // A field with a control character is dropped, as NUL and bare CR could mean different things to different parsers.
    fields.retain(|(_, value)| value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t'));
    // Some sites send a hundred cookies or a policy of many kilobytes.
    let is_long = head.len() > MAX_FULL_HEAD || fields.len() > MAX_FIELDS;
    let mut normalized = format!("HTTP/1.{version} {status:03}\r\n").into_bytes();
    let mut kept = 0_usize;
    for (name, value) in fields {
        let size = name.len().saturating_add(value.len()).saturating_add(normalized.len());
        if is_long && (!is_kept_field(name) || size > MAX_FULL_HEAD || kept >= MAX_FIELDS) {
            continue;
        }
        kept = kept.saturating_add(1);
        for part in [name, b": ", &value, b"\r\n"] {
            normalized.extend_from_slice(part);
        }
    }
    normalized.extend_from_slice(b"\r\n");
    Ok((status, normalized))
}

/// Minor version and status code of a status line. Later minor versions than 1 count as 1 (RFC 9110 §2.5).
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

/// Name and value of a field line; `None` for a line that is none, or whose `Content-Length` is not a number.
fn field(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) =
        (line.get(..colon)?.trim_ascii_end(), line.get(colon.checked_add(1)?..)?.trim_ascii());
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(is_token) {
        return None;
    }
    // Without a usable length the body ends with the connection (RFC 9112 §6.3).
    // Several equal lengths in one field are allowed (RFC 9112 §6.3), so each is checked.
    let is_length = name.eq_ignore_ascii_case(b"content-length");
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if is_length && !value.split(|byte| *byte == b',').all(|part| is_number(part.trim_ascii())) {
        return None;
    }
    Some((name, value.to_vec()))
}

/// Whether a field is kept of a long head.
fn is_kept_field(name: &[u8]) -> bool {
    KEPT_FIELDS.iter().any(|kept| name.eq_ignore_ascii_case(kept.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_head_is_short_when_normalised_and_the_same_in_any_pieces(
            lines in prop::collection::vec("[ -~\t\u{e4}]{0,40}|(Location|content-type|X-A) ?: [ -~]{0,5000}", 0..200),
            cut in 0_usize..5000,
        ) {
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", lines.join("\r\n"));
            let whole = ResponseHeadReader::default().push(head.as_bytes());
            let mut reader = ResponseHeadReader::default();
            let (first, second) = head.as_bytes().split_at(cut.clamp(1, head.len().saturating_sub(1)));
            let pieces = reader.push(first).and_then(|read| read.map_or_else(|| reader.push(second), |mut read| {
                read.extend(second);
                Ok(Some(read))
            }));
            match (whole, pieces) {
                (Ok(Some(whole)), Ok(Some(pieces))) => {
                    let end = memchr::memmem::find(&whole, b"\r\n\r\n").unwrap();
                    prop_assert!(end < MAX_FULL_HEAD + 1024);
                    prop_assert_eq!(whole, pieces);
                }
                (whole, pieces) => prop_assert_eq!(whole.is_err(), pieces.is_err()),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 1..2000), is_http: bool) {
            let start: &[u8] = if is_http { b"HTTP/1.1 200\n" } else { b"" };
            let mut reader = ResponseHeadReader::default();
            if let Ok(None) = reader.push(&[start, &bytes].concat()) {
                drop(reader.push(b""));
            }
        }
    }

    /// The normalised head as text, which must be the same at once and byte by byte.
    fn normalized(head: &[u8]) -> String {
        let whole = ResponseHeadReader::default().push(head).unwrap().unwrap();
        let mut reader = ResponseHeadReader::default();
        let (last, others) = head.split_last().unwrap();
        if head.len() < 10_000 {
            assert!(others.iter().all(|byte| reader.push(&[*byte]).unwrap().is_none()));
            assert_eq!(reader.push(&[*last]).unwrap().unwrap(), whole);
        }
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn heads_that_browsers_accept_are_accepted() {
        for (head, expected) in [
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
            assert_eq!(normalized(head), expected, "{}", String::from_utf8_lossy(head));
        }
        let raw = b"HTTP/1.1 302 Found\r\nLocation: /stra\xc3\x9fe\r\n\r\n";
        assert!(normalized(raw).contains("Location: /stra\u{df}e\r\n"), "bytes outside ASCII are kept");
    }

    #[test]
    fn of_a_long_head_only_the_fields_that_are_read_are_kept() {
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
            normalized(head.as_bytes()),
            "HTTP/1.1 200\r\nContent-Type: text/html\r\nCONTENT-LENGTH: 5\r\n\r\n"
        );
        let long = format!("HTTP/1.1 302 x\r\nX: {}\r\nLocation: /a\r\n\r\n", "y".repeat(200 * 1024));
        assert_eq!(normalized(long.as_bytes()), "HTTP/1.1 302\r\nLocation: /a\r\n\r\n");
        let hostile = format!("HTTP/1.1 302 x\r\n{}\r\n", "Location: /aaaaaaaaaaaaaaa\r\n".repeat(990));
        assert!(normalized(hostile.as_bytes()).len() < 16 * 1024);
    }

    #[test]
    fn incomplete_heads_wait_for_more_and_other_protocols_are_errors() {
        for unfinished in
            [&b"H"[..], b"\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
        {
            assert_eq!(ResponseHeadReader::default().push(unfinished).unwrap(), None);
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
            let read = ResponseHeadReader::default().push(broken);
            assert!(matches!(read, Err(OutboundError::Malformed(_))), "{broken:?}");
        }
        // The connection ends before the empty line.
        let mut reader = ResponseHeadReader::default();
        assert_eq!(reader.push(b"HTTP/1.1 302 x\r\nLocation: /a\r\n").unwrap(), None);
        assert_eq!(reader.push(b"").unwrap().unwrap(), b"HTTP/1.1 302\r\nLocation: /a\r\n\r\n");
        assert_eq!(ResponseHeadReader::default().push(b"").unwrap(), Some(Vec::new()), "nothing was sent");
    }

    /// Each interim head is small, so the bound must hold for all of them together.
    #[test]
    fn interim_heads_without_end_are_an_error() {
        let mut reader = ResponseHeadReader::default();
        let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
        let taken = (0..MAX_HEAD).find_map(|_| reader.push(hint).err());
        assert!(matches!(taken, Some(OutboundError::Malformed(_))));
        assert!(reader.raw.len() < MAX_HEAD + 100);
    }

    #[test]
    fn bytes_behind_the_head_follow_it() {
        let read = ResponseHeadReader::default()
            .push(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 100 is the body\n\n")
            .unwrap();
        assert_eq!(read.unwrap(), b"HTTP/1.1 200\r\n\r\nHTTP/1.1 100 is the body\n\n");
    }
}
