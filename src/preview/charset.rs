//! From the bytes of a page to UTF-8: which character set it is in, and the conversion as it is read.
//!
//! Owns `encoding_rs` and `chardetng`. The order is the browsers': byte order mark, `Content-Type`, what the document
//! says ([WHATWG, determining the character
//! encoding](https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding)), a guess. Unlike
//! browsers, a declaration that the bytes refute is passed over: servers add `charset=iso-8859-1` to pages in UTF-8, and
//! `utf-8` to old pages in something else.

use std::io::{self, Read};
use std::ops::Range;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{CoderResult, Decoder, Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE};
use url::{Host, Url};

use super::html::{self, Listener, Tag};

/// A body in UTF-8. One that breaks off ends there.
pub(super) struct Utf8Body<'a> {
    /// Bytes as they came: at first those that were looked at.
    raw: Vec<u8>,
    /// How many of `raw` are converted.
    converted: usize,
    /// The rest.
    body: &'a mut dyn Read,
    /// Whether there is no rest.
    is_over: bool,
    /// The conversion.
    decoder: Decoder,
    /// Whether it has written its last.
    is_flushed: bool,
    /// What it wrote.
    text: Vec<u8>,
    /// The part of `text` not yet handed out.
    ready: Range<usize>,
}

impl<'a> Utf8Body<'a> {
    /// Reads the beginning of `body` and settles its character set. The error is one before the first byte.
    pub(super) fn open(body: &'a mut dyn Read, content_type: Option<&str>, url: &Url) -> io::Result<Self> {
        let mut raw = vec![0; WINDOW];
        let mut filled = 0_usize;
        let mut is_over = false;
        while let Some(room) = raw.get_mut(filled..).filter(|room| !room.is_empty() && !is_over) {
            match body.read(room) {
                Ok(0) => is_over = true,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if filled == 0 => return Err(error),
                Err(_broken_off) => is_over = true,
            }
        }
        raw.truncate(filled);
        let decoder = charset(&raw, is_over, content_type, url).new_decoder_with_bom_removal();
        let text = vec![0; PIECE];
        Ok(Self { raw, converted: 0, body, is_over, decoder, is_flushed: false, text, ready: 0..0 })
    }

    /// Converts the next piece; nothing is ready after it at the end.
    fn convert(&mut self) {
        while self.ready.is_empty() && !self.is_flushed {
            let source = self.raw.get(self.converted..).unwrap_or_default();
            if source.is_empty() && !self.is_over {
                self.refill();
                continue;
            }
            let (result, read, written, _malformed) =
                self.decoder.decode_to_utf8(source, &mut self.text, self.is_over);
            self.converted = self.converted.saturating_add(read);
            self.ready = 0..written;
            self.is_flushed = self.is_over && result == CoderResult::InputEmpty;
        }
    }

    /// Reads on. An error ends the body.
    fn refill(&mut self) {
        self.raw.resize(PIECE, 0);
        self.converted = 0;
        let count = loop {
            match self.body.read(&mut self.raw) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.unwrap_or(0),
            }
        };
        self.raw.truncate(count);
        self.is_over = count == 0;
    }
}

impl Read for Utf8Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.convert();
        let mut ready = self.text.get(self.ready.clone()).unwrap_or_default();
        let count = ready.read(out)?;
        self.ready.start = self.ready.start.saturating_add(count);
        Ok(count)
    }
}

/// The character set of a page that begins with `window`, or is it when `is_whole`.
fn charset(window: &[u8], is_whole: bool, content_type: Option<&str>, url: &Url) -> &'static Encoding {
    if let Some((encoding, _length)) = Encoding::for_bom(window) {
        return encoding;
    }
    let evidence = Evidence::of(window, is_whole);
    let header = content_type.and_then(charset_parameter).and_then(|label| named(label.as_bytes()));
    let declared = [header, prolog_charset(window), meta_charset(window)];
    for encoding in declared.into_iter().flatten() {
        match evidence.judge(encoding) {
            Verdict::Believed => return encoding,
            Verdict::IsUtf8 => return UTF_8,
            Verdict::Refuted => {}
        }
    }
    if evidence.invalid == 0 {
        return UTF_8;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(window, is_whole);
    detector.guess(top_level_domain(url).as_deref(), Utf8Detection::Deny)
}

/// What the bytes say when read as UTF-8.
#[derive(Debug, Default)]
struct Evidence {
    /// Characters that are not ASCII.
    foreign: usize,
    /// Sequences that are no UTF-8.
    invalid: usize,
    /// Whether there are bytes of value 0.
    has_nulls: bool,
}

/// What the bytes say of a declared character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing against it.
    Believed,
    /// It is UTF-8 in truth.
    IsUtf8,
    /// It is something else.
    Refuted,
}

impl Evidence {
    /// Looks at the beginning of a page.
    fn of(window: &[u8], is_whole: bool) -> Self {
        let mut evidence = Self::default();
        let mut rest = window.len();
        for chunk in window.utf8_chunks() {
            let foreign = chunk.valid().chars().filter(|c| !c.is_ascii()).count();
            evidence.foreign = evidence.foreign.saturating_add(foreign);
            rest = rest.saturating_sub(chunk.valid().len()).saturating_sub(chunk.invalid().len());
            let is_cut = rest == 0 && !is_whole;
            if !chunk.invalid().is_empty() && !is_cut {
                evidence.invalid = evidence.invalid.saturating_add(1);
            }
        }
        evidence.has_nulls = window.contains(&0);
        evidence
    }

    /// Judges a declaration. In a set of one byte a character, text that happens to be UTF-8 does not occur; in one of
    /// two it does, in a few characters.
    fn judge(&self, encoding: &'static Encoding) -> Verdict {
        if encoding == UTF_8 {
            return if self.invalid > self.foreign { Verdict::Refuted } else { Verdict::Believed };
        }
        if encoding == UTF_16LE || encoding == UTF_16BE {
            return if self.has_nulls { Verdict::Believed } else { Verdict::Refuted };
        }
        let enough = if encoding.is_single_byte() { 1 } else { 8 };
        if self.invalid == 0 && self.foreign >= enough { Verdict::IsUtf8 } else { Verdict::Believed }
    }
}

/// The character set of a label. Those that browsers refuse to convert count as not named.
fn named(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label(label).filter(|encoding| *encoding != REPLACEMENT)
}

/// The `charset` of a `Content-Type`, or of a `meta` that stands in for one.
fn charset_parameter(content_type: &str) -> Option<String> {
    let lower = content_type.to_ascii_lowercase();
    let (_before, after) = lower.split_once("charset")?;
    let value = after.trim_start().strip_prefix('=')?.trim_start();
    let value = value.trim_start_matches(['"', '\'']);
    let end = value.find(|c: char| c.is_whitespace() || matches!(c, ';' | ',' | '"' | '\''));
    Some(value.get(..end.unwrap_or(value.len()))?.to_owned())
}

/// What the XML declaration says; without a mark or a declaration, whether it is there in UTF-16.
fn prolog_charset(window: &[u8]) -> Option<&'static Encoding> {
    match window {
        [b'<', 0, _, 0, ..] => return Some(UTF_16LE),
        [0, b'<', 0, _, ..] => return Some(UTF_16BE),
        _ => {}
    }
    let declaration = window.trim_ascii_start().strip_prefix(b"<?xml")?;
    let declaration = declaration.get(..MAX_DECLARATION).unwrap_or(declaration);
    let declaration = declaration.split(|byte| *byte == b'>').next().unwrap_or_default();
    let declaration = String::from_utf8_lossy(declaration);
    let (_before, after) = declaration.split_once("encoding")?;
    let value = after.trim_start().strip_prefix('=')?.trim_start();
    let label = value.trim_start_matches(['"', '\'']).split(['"', '\'']).next()?;
    named(label.as_bytes()).map(readable)
}

/// What a `meta` element says.
fn meta_charset(window: &[u8]) -> Option<&'static Encoding> {
    let mut search = MetaSearch::default();
    html::read_bytes(window, &mut search);
    search.found.map(readable)
}

/// A declaration in the document is readable as ASCII, so it cannot be UTF-16.
fn readable(encoding: &'static Encoding) -> &'static Encoding {
    if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding }
}

/// Listens for `<meta charset>` and `<meta http-equiv="Content-Type">`.
#[derive(Default)]
struct MetaSearch {
    /// The first.
    found: Option<&'static Encoding>,
}

impl Listener for MetaSearch {
    fn start(&mut self, tag: &Tag) {
        if tag.name() != "meta" || self.found.is_some() {
            return;
        }
        let is_type = tag.get("http-equiv").is_some_and(|name| name.eq_ignore_ascii_case("content-type"));
        let in_content = || tag.get("content").filter(|_| is_type).and_then(charset_parameter);
        let label = tag.get("charset").map(str::to_owned).or_else(in_content);
        self.found = label.and_then(|label| named(label.as_bytes()));
    }

    fn end(&mut self, _name: &str) {}

    fn text(&mut self, _piece: &[u8]) {}

    fn is_done(&self) -> bool {
        self.found.is_some()
    }
}

/// The last label of the host, which tells a guess what languages to expect.
fn top_level_domain(url: &Url) -> Option<Vec<u8>> {
    let Some(Host::Domain(domain)) = url.host() else { return None };
    let label = domain.trim_end_matches('.').rsplit('.').next()?;
    let is_plain =
        label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    (is_plain && !label.is_empty()).then(|| label.as_bytes().to_vec())
}

/// How much of a page is looked at, bytes. Browsers look for `meta` in the first 1024 and begin anew when it comes later.
const WINDOW: usize = 32 * 1024;

/// How much is read and converted at a time, bytes.
const PIECE: usize = 16 * 1024;

/// Longest XML declaration, bytes.
const MAX_DECLARATION: usize = 256;
