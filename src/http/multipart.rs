//! The `multipart/mixed` body of MSC3916's federation routes, written and read.
//!
//! Owns the bytes around the media. The written form is exact to the byte, because the parsers of three existing servers are strict. The
//! reader accepts the forms that those three write. Refuses to know what the parts mean.
//! [Spec, federation media download](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid),
//! [RFC 2046 §5.1](https://www.rfc-editor.org/rfc/rfc2046#section-5.1).

use std::io::{self, Read};

use memchr::memmem::Finder;

use crate::matrix::len_u64;

/// Longest header block of one part, in bytes.
const MAX_HEADERS: usize = 16 * 1024;

/// Longest text before the first delimiter, in bytes.
const MAX_PREAMBLE: usize = 64 * 1024;

/// Bytes read from the source at once.
const READ_SIZE: usize = 64 * 1024;

/// Everything before the media's bytes: leading line break (older ruma needs it), the JSON part with its only header, and
/// the second part's headers in the order Synapse's parser depends on. In one piece, so that no peer's parser
/// sees the JSON part in two chunks. `boundary` must be a token; `content_type` and `disposition` header values.
pub(crate) fn prologue(boundary: &str, content_type: &str, disposition: &str) -> Vec<u8> {
    format!(
        "\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\nContent-Type: {content_type}\r\n\
         Content-Disposition: {disposition}\r\n\r\n"
    )
    .into_bytes()
}

/// Everything after the media's bytes.
pub(crate) fn epilogue(boundary: &str) -> Vec<u8> {
    format!("\r\n--{boundary}--\r\n").into_bytes()
}

/// The boundary parameter of a `multipart/mixed` content type, quoted or not; `None` for any other type.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    // RFC 2046: 1 to 70 characters.
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// Why a multipart body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MultipartError {
    /// The source failed.
    #[error("reading the multipart body: {0}")]
    Io(#[from] io::Error),
    /// The body ended before its last delimiter.
    #[error("the multipart body ended before its last delimiter")]
    Truncated,
    /// No delimiter where one must be, or a header that is not one.
    #[error("malformed multipart body")]
    Malformed,
    /// A preamble or header block over its bound.
    #[error("multipart headers are too long")]
    TooLong,
    /// A part with an encoding that exists only in mail.
    #[error("a part of the multipart body has a Content-Transfer-Encoding, which HTTP does not allow")]
    Mail,
}

impl MultipartError {
    /// Whether it did not come in time.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

/// The headers of one part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PartHeaders(Vec<(String, String)>);

impl PartHeaders {
    /// The value of the first header called `name`; case does not matter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// `Content-Encoding`, all its lines as one list.
    pub(crate) fn codings(&self) -> String {
        self.all("content-encoding").collect::<Vec<_>>().join(",")
    }

    /// Refuses a part with a transfer encoding such as base64 (RFC 2045 §6): it belongs to mail, HTTP does not have it (RFC 9110 §8.4).
    ///
    /// # Errors
    /// `Mail`.
    pub(crate) fn check_transfer_encoding(&self) -> Result<(), MultipartError> {
        let as_they_are = ["", "binary", "8bit", "7bit"];
        let is_fine = |line: &str| as_they_are.iter().any(|name| line.trim().eq_ignore_ascii_case(name));
        if self.all("content-transfer-encoding").all(is_fine) { Ok(()) } else { Err(MultipartError::Mail) }
    }

    /// The values of all headers called `name`; case does not matter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The expected length of a part, computed from the length of the whole body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartLength {
    /// Bytes, if nothing follows but the longest of the usual last delimiters; a few more if it is one of the others.
    pub(crate) about: u64,
    /// Bytes, if they are certain. The last delimiter has several forms, and which one was used is known only at the end.
    pub(crate) exact: Option<u64>,
}

/// Reads a multipart body: [`next_part`](Self::next_part) moves to the next part, [`Read`] returns the current part's bytes.
#[derive(Debug)]
pub(crate) struct MultipartReader<R> {
    /// The source of the body.
    source: R,
    /// Read and not yet consumed: `buffer[start..]`.
    buffer: Vec<u8>,
    /// First unconsumed byte.
    start: usize,
    /// Bytes the source has given.
    given: u64,
    /// Whether the source has ended.
    ended: bool,
    /// `--boundary`
    dashes: Vec<u8>,
    /// The line break the sender uses, learned at the first delimiter, then `--boundary`.
    delimiter: Finder<'static>,
    state: State,
}

/// The position of a [`MultipartReader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// In a part's bytes.
    Part,
    /// On a delimiter.
    Delimiter,
    /// Past the last part.
    End,
}

impl<R: Read> MultipartReader<R> {
    /// Reads `source`, whose parts are separated by `boundary`.
    pub(crate) fn new(source: R, boundary: &str) -> Self {
        let dashes = format!("--{boundary}").into_bytes();
        let delimiter = Finder::new(&dashes).into_owned();
        let (buffer, state) = (Vec::new(), State::Preamble);
        Self { source, buffer, start: 0, given: 0, ended: false, dashes, delimiter, state }
    }

    /// The expected length of the current part, whose `headers` have just been read, if it is the last one of a body of `total` bytes.
    ///
    /// It is certain in two cases: the part says its length, and the rest is one of the known last delimiters; or everything so far is
    /// byte for byte what Synapse and this program write, which end in one way only. The last delimiter of ruma has dashes or not,
    /// depending on its version.
    pub(crate) fn last_part(&self, headers: &PartHeaders, total: u64) -> PartLength {
        let position = self.given.saturating_sub(len_u64(self.unread().len()));
        let left = total.saturating_sub(position);
        let delimiter = len_u64(self.delimiter.needle().len());
        let line_break = delimiter.saturating_sub(len_u64(self.dashes.len()));
        // Dashes, a line break, both or neither.
        let tails = [0, line_break, 2, line_break.saturating_add(2)];
        let mut lengths = tails.map(|tail| left.checked_sub(delimiter.saturating_add(tail))).into_iter();
        let about = lengths.clone().next_back().flatten().unwrap_or(0);
        let said = headers.get("content-length").and_then(|length| length.parse().ok());
        let exact = match said {
            Some(said) => lengths.any(|length| length == Some(said)).then_some(said),
            None => (self.is_synapses(headers, position) && left >= delimiter).then_some(about),
        };
        PartLength { about, exact }
    }

    /// Whether the first `position` bytes are as Synapse writes them: [`prologue`], with a boundary of 32 hexadecimal digits.
    fn is_synapses(&self, headers: &PartHeaders, position: u64) -> bool {
        let boundary = self.dashes.get(2..).and_then(|boundary| str::from_utf8(boundary).ok());
        let [(first, content_type), (second, disposition)] = headers.0.as_slice() else { return false };
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        boundary.is_some_and(|boundary| {
            boundary.len() == 32
                && boundary.bytes().all(is_hex)
                && (first.as_str(), second.as_str()) == ("Content-Type", "Content-Disposition")
                && len_u64(prologue(boundary, content_type, disposition).len()) == position
        })
    }

    /// Skips what is left of the current part and reads the next one's headers; `None` after the last.
    pub(crate) fn next_part(&mut self) -> Result<Option<PartHeaders>, MultipartError> {
        if self.state == State::Preamble {
            self.skip_preamble()?;
        }
        while self.state == State::Part {
            let available = self.advance()?;
            self.consume(available);
        }
        let last = self.state == State::End || self.read_delimiter_line()? == Line::Last;
        // If nothing follows a delimiter, it is the last one, with or without dashes.
        if last || (self.unread().is_empty() && self.fill()? == 0) {
            self.state = State::End;
            return Ok(None);
        }
        let headers = self.read_headers()?;
        self.state = State::Part;
        Ok(Some(headers))
    }

    /// Moves onto the first delimiter: at the very start or after a line break.
    fn skip_preamble(&mut self) -> Result<(), MultipartError> {
        loop {
            let unread = self.unread();
            let found = memchr::memmem::find_iter(unread, &self.dashes)
                .find(|at| at.checked_sub(1).is_none_or(|before| unread.get(before) == Some(&b'\n')));
            if let Some(at) = found {
                self.consume(at);
                self.state = State::Delimiter;
                return Ok(());
            }
            if unread.len() > MAX_PREAMBLE {
                return Err(MultipartError::TooLong);
            }
            if self.fill()? == 0 {
                return Err(MultipartError::Malformed);
            }
        }
    }

    /// Consumes `--boundary` and the rest of its line, and learns the sender's line break from it.
    fn read_delimiter_line(&mut self) -> Result<Line, MultipartError> {
        self.consume(self.dashes.len());
        let line = self.read_line()?;
        let text = line.text.trim_ascii();
        if text.starts_with(b"--") || (text.is_empty() && line.ending.is_empty()) {
            return Ok(Line::Last);
        }
        if !text.is_empty() {
            return Err(MultipartError::Malformed);
        }
        self.delimiter = Finder::new(&[line.ending, &self.dashes].concat()).into_owned();
        Ok(Line::Next)
    }

    /// Reads header lines up to and including the empty one.
    fn read_headers(&mut self) -> Result<PartHeaders, MultipartError> {
        let mut headers = PartHeaders::default();
        let mut total = 0_usize;
        loop {
            let line = self.read_line()?;
            if line.text.is_empty() {
                return if line.ending.is_empty() { Err(MultipartError::Truncated) } else { Ok(headers) };
            }
            total = total.saturating_add(line.text.len());
            if total > MAX_HEADERS {
                return Err(MultipartError::TooLong);
            }
            let text = String::from_utf8_lossy(&line.text);
            let (name, value) = text.split_once(':').ok_or(MultipartError::Malformed)?;
            headers.0.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }

    /// Consumes one line, ended by CRLF, LF or the end of the body.
    fn read_line(&mut self) -> Result<OneLine, MultipartError> {
        loop {
            let unread = self.unread();
            if let Some(at) = memchr::memchr(b'\n', unread) {
                let line = unread.get(..at).unwrap_or_default();
                let (text, ending): (_, &'static [u8]) = match line.strip_suffix(b"\r") {
                    Some(text) => (text, b"\r\n"),
                    None => (line, b"\n"),
                };
                let text = text.to_vec();
                self.consume(at.saturating_add(1));
                return Ok(OneLine { text, ending });
            }
            if unread.len() > MAX_HEADERS {
                return Err(MultipartError::TooLong);
            }
            if self.fill()? == 0 {
                let text = self.unread().to_vec();
                self.consume(text.len());
                return Ok(OneLine { text, ending: b"" });
            }
        }
    }

    /// Makes bytes of the current part available and says how many; 0 means its end, and the state has moved on.
    fn advance(&mut self) -> Result<usize, MultipartError> {
        loop {
            let unread = self.unread();
            // The delimiter and enough bytes after it to know that it is not the beginning of a longer line.
            let needle = self.delimiter.needle().len();
            match self.delimiter.find(unread) {
                Some(at) => match unread.get(at.saturating_add(needle)..).and_then(ends_delimiter) {
                    Some(true) if at == 0 => {
                        self.consume(needle.saturating_sub(self.dashes.len()));
                        self.state = State::Delimiter;
                        return Ok(0);
                    }
                    Some(true) => return Ok(at),
                    Some(false) => return Ok(at.saturating_add(needle)),
                    None if at > 0 => return Ok(at),
                    None if self.ended => {
                        self.consume(needle.saturating_sub(self.dashes.len()));
                        self.state = State::Delimiter;
                        return Ok(0);
                    }
                    None => {}
                },
                // A delimiter may begin in the last bytes.
                None => match unread.len().saturating_sub(needle) {
                    0 if self.ended => return Err(MultipartError::Truncated),
                    0 => {}
                    safe => return Ok(safe),
                },
            }
            self.fill()?;
        }
    }

    /// The bytes read and not consumed.
    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Consumes `count` of the unread bytes.
    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.buffer.len());
    }

    /// Reads more; 0 at the end of the source.
    fn fill(&mut self) -> Result<usize, MultipartError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let old = self.buffer.len();
        self.buffer.resize(old.saturating_add(READ_SIZE), 0);
        let result = loop {
            match self.source.read(self.buffer.get_mut(old..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = result.as_ref().copied().unwrap_or(0);
        self.buffer.truncate(old.saturating_add(read));
        self.given = self.given.saturating_add(len_u64(read));
        self.ended = read == 0;
        Ok(result?)
    }
}

impl<R: Read> Read for MultipartReader<R> {
    /// Bytes of the current part; 0 at its end. A body that ends inside a part is an error, never an end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.state != State::Part {
            return Ok(0);
        }
        let available = self.advance().map_err(|error| match error {
            MultipartError::Io(error) => error,
            MultipartError::Truncated
            | MultipartError::Malformed
            | MultipartError::TooLong
            | MultipartError::Mail => io::Error::new(io::ErrorKind::UnexpectedEof, error),
        })?;
        let count = self.unread().get(..available).unwrap_or_default().read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// Whether `rest`, what follows `--boundary`, ends the line as a delimiter's must: dashes, blanks or a line break. `None`
/// when more bytes are needed to tell.
fn ends_delimiter(rest: &[u8]) -> Option<bool> {
    match rest {
        [] | [b'-'] => None,
        [b'-', b'-', ..] | [b'\r' | b'\n' | b' ' | b'\t', ..] => Some(true),
        _ => Some(false),
    }
}

/// What a delimiter announces.
#[derive(PartialEq, Eq)]
enum Line {
    /// Another part.
    Next,
    /// The end. Ruma writes its last delimiter without the closing dashes, as MSC3916's own sample does.
    Last,
}

/// A line and how it ended.
struct OneLine {
    /// Without the line break.
    text: Vec<u8>,
    /// CRLF, LF, or nothing at the end of the body.
    ending: &'static [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives `bytes` in pieces of `step`.
    struct Dribble<'a> {
        /// Left to give.
        bytes: &'a [u8],
        /// Piece size.
        step: usize,
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.step.min(into.len()).min(self.bytes.len());
            into[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes = &self.bytes[count..];
            Ok(count)
        }
    }

    /// Reads all parts of `body`, whose boundary is `B`.
    fn parts(body: &[u8], step: usize) -> Result<Vec<(PartHeaders, Vec<u8>)>, MultipartError> {
        let mut reader = MultipartReader::new(Dribble { bytes: body, step }, "B");
        let mut parts = Vec::new();
        while let Some(headers) = reader.next_part()? {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            parts.push((headers, bytes));
        }
        Ok(parts)
    }

    #[test]
    fn the_layout_is_exact_to_the_byte() {
        let mut body = prologue("B", "image/png", "inline; filename=a.png");
        body.extend_from_slice(b"DATA");
        body.extend(epilogue("B"));
        let expected: &[u8] =
            b"\r\n--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\n\
            Content-Disposition: inline; filename=a.png\r\n\r\nDATA\r\n--B--\r\n";
        assert_eq!(body, expected);
    }

    #[test]
    fn the_length_is_synapses_constant() {
        let boundary = "b".repeat(32);
        let length = prologue(&boundary, "", "").len() + epilogue(&boundary).len();
        // Synapse counts 156 with the JSON, and the two header names with it.
        assert_eq!(length, 2 + "Content-Type: ".len() + "Content-Disposition: ".len() + 3 * 32 + 60);
    }

    #[test]
    fn every_dialect_is_read_at_every_split() {
        let dialects: [(&str, &[u8]); 6] = [
            ("synapse", b"\r\n--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: text/plain\r\nContent-Disposition: inline; filename=x\r\n\r\nda\r\n--Bta\r\n--B--\r\n"),
            ("ruma", b"\r\n--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\ncontent-type: text/plain\r\ncontent-disposition: inline; filename=x\r\n\r\nda\r\n--Bta\r\n--B"),
            ("dendrite", b"--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: text/plain\r\n\r\nda\r\n--Bta\r\n--B--\r\n"),
            ("lf only", b"--B\nContent-Type: application/json\n\n{}\n--B\nCONTENT-TYPE:text/plain\n\nda\r\n--Bta\n--B--"),
            ("preamble", b"This is MIME.\r\n--B \r\n\r\n{}\r\n--B\t\r\nContent-Type: text/plain\r\n\r\nda\r\n--Bta\r\n--B-- \r\nepilogue"),
            ("msc sample", b"--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: text/plain\r\n\r\nda\r\n--Bta\r\n--B\r\n"),
        ];
        for (dialect, body) in dialects {
            for step in 1..=body.len() {
                let parts = parts(body, step).unwrap();
                assert_eq!(parts.len(), 2, "{dialect} {step}");
                assert_eq!(parts[0].1, b"{}", "{dialect} {step}");
                assert_eq!(parts[1].0.get("content-type"), Some("text/plain"), "{dialect}");
                assert_eq!(parts[1].1, b"da\r\n--Bta", "{dialect} {step}");
            }
        }
    }

    /// What is said of the second part's length, by a body of so many bytes more than are read.
    fn last_part(head: &str, boundary: &str, more: u64) -> PartLength {
        let mut reader = MultipartReader::new(head.as_bytes(), boundary);
        reader.next_part().unwrap();
        let headers = reader.next_part().unwrap().unwrap();
        reader.last_part(&headers, len_u64(head.len()).saturating_add(more))
    }

    #[test]
    fn a_parts_length_is_certain_when_it_says_so_itself_and_the_rest_fits() {
        let crlf = "--B\r\n\r\n{}\r\n--B\r\nContent-Length: 100\r\n\r\n";
        let lf = crlf.replace('\r', "");
        for (head, delimiter, certain) in [(crlf, 5, vec![5, 7, 9]), (lf.as_str(), 4, vec![4, 5, 6, 7])] {
            for tail in 0..20 {
                let PartLength { about, exact } = last_part(head, "B", 100 + tail);
                assert_eq!(exact, certain.contains(&tail).then_some(100), "{head:?} {tail}");
                let longest = if delimiter == 5 { 9 } else { 7 };
                assert_eq!(about, 100 + tail - longest, "{head:?} {tail}");
            }
        }
        for length in ["99", "101", "x", "-1", "", "18446744073709551616"] {
            let exact = last_part(&crlf.replace("100", length), "B", 109).exact;
            assert_eq!(exact, None, "{length}");
        }
    }

    #[test]
    fn a_parts_length_is_certain_in_the_layout_that_has_one_end_only() {
        let hex = "0123456789abcdef".repeat(2);
        let whole = String::from_utf8(prologue(&hex, "image/png", "inline")).unwrap();
        let end = len_u64(epilogue(&hex).len());
        assert_eq!(last_part(&whole, &hex, 7 + end), PartLength { about: 7, exact: Some(7) });
        assert_eq!(last_part(&whole, &hex, end).exact, Some(0));
        for other in [
            whole.trim_start().to_owned(),
            whole.replace("{}", "{ }"),
            whole.replace("Content-Type: image", "content-type: image"),
            whole.replace("Content-Type: image", "Content-Type:  image"),
            whole.replace("Content-Disposition: inline", "Content-Disposition: inline\r\nX-Y: z"),
            whole.replace("\r\nContent-Disposition: inline", ""),
        ] {
            assert_eq!(last_part(&other, &hex, 7 + end).exact, None, "{other:?}");
        }
        for boundary in ["g".repeat(32), hex.to_uppercase(), "a".repeat(31)] {
            assert_eq!(last_part(&whole.replace(&hex, &boundary), &boundary, 99).exact, None, "{boundary}");
        }
        // Less than any end.
        assert_eq!(last_part(&whole, &hex, 3), PartLength { about: 0, exact: None });
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error_wherever_it_does() {
        let body = b"\r\n--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: text/plain\r\n\r\ndata";
        for end in 0..=body.len() {
            assert!(parts(&body[..end], 7).map_or(true, |parts| parts.len() < 2), "{end}");
        }
        assert!(parts(body, 7).is_err());
    }

    #[test]
    fn long_headers_and_preambles_are_refused() {
        let long_header = [b"--B\r\nX: ".as_slice(), &vec![b'a'; 1 << 20], b"\r\n\r\n"].concat();
        assert!(matches!(parts(&long_header, 4096), Err(MultipartError::TooLong)));
        assert!(matches!(parts(&vec![b'a'; 1 << 20], 4096), Err(MultipartError::TooLong)));
        assert!(matches!(parts(b"no delimiter", 4096), Err(MultipartError::Malformed)));
        assert!(matches!(parts(b"--B\r\nnot a header\r\n\r\n", 4096), Err(MultipartError::Malformed)));
    }

    #[test]
    fn boundaries_are_found_in_content_types() {
        for (content_type, expected) in [
            ("multipart/mixed; boundary=abc", Some("abc")),
            ("Multipart/Mixed;charset=x; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data; boundary=abc", None),
            ("multipart/mixed", None),
            ("multipart/mixed; boundary=", None),
            ("text/html", None),
        ] {
            assert_eq!(boundary(content_type).as_deref(), expected, "{content_type}");
        }
    }

    proptest! {
        #[test]
        fn data_survives_whatever_it_contains(
            data in proptest::collection::vec(prop_oneof![Just(b"\r\n--".to_vec()), Just(b"--B".to_vec()), Just(b"\r\n--B".to_vec()), Just(b"\n".to_vec()), Just(b"x".to_vec()), proptest::collection::vec(any::<u8>(), 0..8)], 0..12),
            step in 1_usize..64,
        ) {
            let data = data.concat();
            let boundary = "Bdata0123456789";
            prop_assume!(memchr::memmem::find(&data, boundary.as_bytes()).is_none());
            let body = [prologue(boundary, "a/b", "inline"), data.clone(), epilogue(boundary)].concat();
            let mut reader = MultipartReader::new(Dribble { bytes: &body, step }, boundary);
            reader.next_part().unwrap();
            reader.next_part().unwrap();
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, data);
            prop_assert_eq!(reader.next_part().unwrap(), None);
        }

        #[test]
        fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200), step in 1_usize..32) {
            drop(parts(&body, step));
        }
    }
}
