//! The head of an answer, as servers send it and as the HTTP client takes it.
//!
//! Owns the leniency of browsers: lines that are no header fields are passed over, folded ones joined, what nobody here reads is
//! left out of a head that is long. [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112) where the server keeps to it.

use super::OutboundError;

/// Largest head, bytes.
pub(super) const MAX_HEAD: usize = 256 * 1024;

/// Most fields of one.
const MAX_FIELDS: usize = 1000;

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

/// What is known of a head so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// More must come.
    Unfinished,
    /// Clean, and how many bytes it took as it was sent.
    Whole(Vec<u8>, usize),
}

/// Reads the head that `bytes` begin with, over those that only announce another. `is_all`: no more will come.
///
/// # Errors
/// For what is no HTTP, or too long.
pub(super) fn read(bytes: &[u8], is_all: bool) -> Result<Head, OutboundError> {
    let mut taken = 0_usize;
    loop {
        let rest = bytes.get(taken..).unwrap_or_default();
        let Some(length) = length(rest).or_else(|| (is_all && !rest.is_empty()).then_some(rest.len())) else {
            if rest.len() > MAX_HEAD {
                return Err(OutboundError::Malformed("the head of its answer is over 256 KiB"));
            }
            // What speaks another language is not waited for.
            if !rest.trim_ascii_start().is_empty() && !may_be_http(rest) {
                return Err(OutboundError::Malformed(NO_HTTP));
            }
            return Ok(Head::Unfinished);
        };
        if length > MAX_HEAD {
            return Err(OutboundError::Malformed("the head of its answer is over 256 KiB"));
        }
        taken = taken.saturating_add(length);
        let (status, clean) = clean(rest.get(..length).unwrap_or_default())?;
        // 100 Continue, 103 Early Hints and the like; 101 is an answer, if none that was asked for.
        if !matches!(status, 100 | 102..=199) {
            return Ok(Head::Whole(clean, taken));
        }
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

/// The length of the head, up to and with its empty line, if that is there. Empty lines before it belong to it.
fn length(bytes: &[u8]) -> Option<usize> {
    let mut at = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    loop {
        let end = memchr::memchr(b'\n', bytes.get(at..)?)?;
        let line = bytes.get(at..at.saturating_add(end))?;
        at = at.saturating_add(end).saturating_add(1);
        if line.is_empty() || line == b"\r" {
            return Some(at);
        }
    }
}

/// The status, and the head as the HTTP client takes it.
fn clean(head: &[u8]) -> Result<(u16, Vec<u8>), OutboundError> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.skip_while(|line| line.is_empty());
    let (version, status) = lines.next().and_then(status_line).ok_or(OutboundError::Malformed(NO_HTTP))?;
    let mut fields: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let (mut count, mut is_kept) = (0_usize, false);
    for line in lines.filter(|line| !line.is_empty()) {
        count = count.saturating_add(1);
        if count > MAX_FIELDS {
            return Err(OutboundError::Malformed("the head of its answer has over 1000 lines"));
        }
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
    use super::*;

    /// The clean head as text.
    fn cleaned(head: &[u8]) -> String {
        match read(head, false).unwrap() {
            Head::Whole(clean, taken) => {
                assert_eq!(taken, head.len());
                String::from_utf8(clean).unwrap()
            }
            Head::Unfinished => panic!("{}", String::from_utf8_lossy(head)),
        }
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
        for unfinished in [&b""[..], b"H", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"] {
            assert_eq!(read(unfinished, false).unwrap(), Head::Unfinished);
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
            assert!(matches!(read(broken, false), Err(OutboundError::Malformed(_))), "{broken:?}");
        }
        // A server that hangs up before the empty line has said all the same.
        let Head::Whole(clean, _) = read(b"HTTP/1.1 302 x\r\nLocation: /a\r\n", true).unwrap() else {
            panic!()
        };
        assert_eq!(clean, b"HTTP/1.1 302\r\nLocation: /a\r\n\r\n");
    }
}
