//! From the bytes of a page to UTF-8: which character set it is in, and the conversion as it is read.
//!
//! Owns `encoding_rs` and `chardetng`. The order is the browsers': byte order mark, `Content-Type`, what the document
//! says ([WHATWG, determining the character
//! encoding](https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding)), a guess. It is settled
//! where it begins to matter: at the first byte that is not ASCII, however far into the page. Unlike browsers, a declaration that the bytes refute is passed over: servers add `charset=iso-8859-1` to pages in UTF-8, and
//! `utf-8` to old pages in something else.

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::Range;
use std::rc::Rc;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{CoderResult, Decoder, Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use url::{Host, Url};

use super::html::{self, Listener, Tag};

/// What a page was heard to declare, while it is read.
pub(super) type Heard = Rc<Cell<Option<&'static Encoding>>>;

/// Notes the character set that a `meta` element declares, if it is the first.
pub(super) fn hear(tag: &Tag, heard: &Heard) {
    heard.set(heard.get().or_else(|| declaration(tag)));
}

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
    /// What is known of the character set.
    hints: Hints,
    /// The conversion, once the character set is settled. Until then all is ASCII, which is the same in each.
    decoder: Option<Decoder>,
    /// Whether it has written its last.
    is_flushed: bool,
    /// What it wrote.
    text: Vec<u8>,
    /// The part of `text` not yet handed out.
    ready: Range<usize>,
}

/// What is known of a page's character set besides its bytes.
struct Hints {
    /// What its `Content-Type` and its first bytes declare, best first.
    declared: Vec<&'static Encoding>,
    /// What it was heard to declare.
    heard: Heard,
    /// The last label of its host.
    top_level_domain: Option<Vec<u8>>,
}

impl<'a> Utf8Body<'a> {
    /// Reads the beginning of `body`. The error is one before the first byte.
    pub(super) fn open(
        body: &'a mut dyn Read,
        content_type: Option<&str>,
        url: &Url,
        heard: Heard,
    ) -> io::Result<Self> {
        let hints = Hints { declared: Vec::new(), heard, top_level_domain: top_level_domain(url) };
        let mut opened = Self {
            raw: Vec::new(),
            converted: 0,
            body,
            is_over: false,
            hints,
            decoder: None,
            is_flushed: false,
            text: vec![0; PIECE],
            ready: 0..0,
        };
        opened.fill()?;
        let window = &opened.raw;
        let header = content_type.and_then(charset_parameter).and_then(|label| named(label.as_bytes()));
        let declared = [header, prolog_charset(window), meta_charset(window)];
        opened.hints.declared = declared.into_iter().flatten().collect();
        let marked = Encoding::for_bom(window).map(|(encoding, _length)| encoding);
        // Nothing is the same in UTF-16.
        let settled =
            marked.or_else(|| window.contains(&0).then(|| opened.hints.settle(window, opened.is_over)));
        opened.decoder = settled.map(Encoding::new_decoder_with_bom_removal);
        Ok(opened)
    }

    /// Reads until a window of bytes is there that are not converted. The error is one before the first byte.
    fn fill(&mut self) -> io::Result<()> {
        self.raw.drain(..self.converted);
        self.converted = 0;
        let mut filled = self.raw.len();
        self.raw.resize(WINDOW.max(filled), 0);
        let mut failed = None;
        while let Some(room) = self.raw.get_mut(filled..).filter(|room| !room.is_empty() && !self.is_over) {
            match self.body.read(room) {
                Ok(0) => self.is_over = true,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_over = true;
                    failed = Some(error).filter(|_| filled == 0);
                }
            }
        }
        self.raw.truncate(filled);
        failed.map_or(Ok(()), Err)
    }

    /// Converts the next piece; nothing is ready after it at the end.
    fn convert(&mut self) {
        while self.ready.is_empty() && !self.is_flushed {
            let source = self.raw.get(self.converted..).unwrap_or_default();
            if source.is_empty() && !self.is_over {
                self.refill();
                continue;
            }
            let Some(decoder) = &mut self.decoder else {
                self.pass_on();
                continue;
            };
            let (result, read, written, _malformed) =
                decoder.decode_to_utf8(source, &mut self.text, self.is_over);
            self.converted = self.converted.saturating_add(read);
            self.ready = 0..written;
            self.is_flushed = self.is_over && result == CoderResult::InputEmpty;
        }
    }

    /// Passes on what is the same in every character set; settles which it is where that ends.
    fn pass_on(&mut self) {
        let source = self.raw.get(self.converted..).unwrap_or_default();
        let plain = source.iter().take(self.text.len()).take_while(|byte| is_plain(**byte)).count();
        if let (Some(from), Some(to)) = (source.get(..plain), self.text.get_mut(..plain)) {
            to.copy_from_slice(from);
        }
        self.is_flushed = source.is_empty();
        self.converted = self.converted.saturating_add(plain);
        self.ready = 0..plain;
        if plain == 0 && !self.is_flushed {
            // What breaks off here ends here.
            self.is_over |= self.fill().is_err();
            self.decoder =
                Some(self.hints.settle(&self.raw, self.is_over).new_decoder_without_bom_handling());
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

impl Hints {
    /// The character set of a page of which `window` is the first part that is not ASCII, or the rest when `is_whole`.
    fn settle(&self, window: &[u8], is_whole: bool) -> &'static Encoding {
        let evidence = Evidence::of(window, is_whole);
        let later = [self.heard.get().map(readable), meta_charset(window)];
        for encoding in self.declared.iter().copied().chain(later.into_iter().flatten()) {
            match evidence.judge(encoding) {
                Verdict::Believed => return encoding,
                Verdict::IsUtf8 => return UTF_8,
                Verdict::Refuted => {}
            }
        }
        // One byte that broke on its way does not make it something else, nor do bytes that no text has.
        if evidence.is_utf8() || evidence.bytes == 0 {
            return UTF_8;
        }
        let top_level_domain = self.top_level_domain.as_deref();
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(window, is_whole);
        let guess = detector.guess(top_level_domain, Utf8Detection::Deny);
        let is_founded =
            evidence.bytes >= ENOUGH_TO_GUESS || EncodingDetector::tld_may_affect_guess(top_level_domain);
        if is_founded { guess } else { WINDOWS_1252 }
    }
}

/// Whether a byte means the same in every character set, whatever comes before it.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii() && !matches!(byte, 0 | 0x0e | 0x0f | 0x1b)
}

/// What the bytes say when read as UTF-8.
#[derive(Debug, Default)]
struct Evidence {
    /// Characters that are not ASCII.
    foreign: usize,
    /// Sequences that are no UTF-8.
    invalid: usize,
    /// Stretches without ASCII that are more UTF-8 than not.
    good: usize,
    /// Stretches without ASCII that are not.
    bad: usize,
    /// Bytes that are not ASCII and occur in texts.
    bytes: usize,
    /// Whether there are bytes of value 0.
    has_nulls: bool,
}

/// Bytes that are not ASCII, one behind the other: a word in a set of one byte a character, a text in Chinese. However many
/// of them are broken, they broke once.
#[derive(Debug, Default)]
struct Stretch {
    /// Bytes that are UTF-8.
    valid: usize,
    /// Bytes that are none.
    broken: usize,
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
        let mut evidence = Self { has_nulls: window.contains(&0), ..Self::default() };
        // Hardly any text has the last two, and none has only them.
        evidence.bytes = window.iter().filter(|byte| (0x80..0xfe).contains(*byte)).count();
        let mut window = window.to_vec();
        hide_surrogates(&mut window);
        let mut rest = window.len();
        let mut stretch = Stretch::default();
        for chunk in window.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_ascii() {
                    evidence.end_stretch(&mut stretch);
                } else if c != HALF {
                    evidence.foreign = evidence.foreign.saturating_add(1);
                    stretch.valid = stretch.valid.saturating_add(c.len_utf8());
                }
            }
            rest = rest.saturating_sub(chunk.valid().len()).saturating_sub(chunk.invalid().len());
            let is_cut = rest == 0 && !is_whole;
            if !chunk.invalid().is_empty() && !is_cut {
                evidence.invalid = evidence.invalid.saturating_add(1);
                stretch.broken = stretch.broken.saturating_add(chunk.invalid().len());
            }
        }
        evidence.end_stretch(&mut stretch);
        evidence
    }

    /// Counts a stretch that is over.
    fn end_stretch(&mut self, stretch: &mut Stretch) {
        let Stretch { valid, broken } = std::mem::take(stretch);
        if valid > broken {
            self.good = self.good.saturating_add(1);
        } else if broken > 0 {
            self.bad = self.bad.saturating_add(1);
        }
    }

    /// Whether it is UTF-8, but for a byte here and there.
    fn is_utf8(&self) -> bool {
        self.invalid == 0 || (self.good > 0 && self.good >= self.bad)
    }

    /// Whether it may be UTF-8, as it says: what is broken may be much, but is not nearly all.
    fn may_be_utf8(&self) -> bool {
        self.invalid == 0 || (self.good > 0 && self.good.saturating_mul(MAX_BROKEN) >= self.bad)
    }

    /// Judges a declaration. In a set of one byte a character, text that happens to be UTF-8 does not occur; in one of
    /// two it does, in a few characters.
    fn judge(&self, encoding: &'static Encoding) -> Verdict {
        if encoding == UTF_8 {
            return if self.may_be_utf8() { Verdict::Believed } else { Verdict::Refuted };
        }
        if encoding == UTF_16LE || encoding == UTF_16BE {
            return if self.has_nulls { Verdict::Believed } else { Verdict::Refuted };
        }
        let enough = if encoding.is_single_byte() { 1 } else { 8 };
        let is_utf8 = self.foreign >= enough && self.foreign.div_euclid(4) >= self.invalid;
        if is_utf8 { Verdict::IsUtf8 } else { Verdict::Believed }
    }
}

/// Writes characters in place of surrogates that stand in UTF-8 as if they were characters: [CESU-8](https://www.unicode.org/reports/tr26/)
/// is UTF-8 that some program wrote wrongly. Half a pair is also the end of many a word in Ukrainian, so it says nothing.
fn hide_surrogates(window: &mut [u8]) {
    let mut at = 0_usize;
    while let Some(rest) = window.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let length = match rest {
            [0xed, high @ 0xa0..=0xaf, a @ 0x80..=0xbf, 0xed, low @ 0xb0..=0xbf, b @ 0x80..=0xbf, ..] => {
                // Two halves are two characters of three bytes each, which no other text has.
                (*high, *low) = (0x80, 0x80);
                (*a, *b) = (0x80, 0x80);
                6
            }
            [first @ 0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] => {
                (*first, *second, *third) = (0xef, 0xbf, 0xbd);
                3
            }
            _ => 1,
        };
        at = at.saturating_add(length);
    }
}

/// What [`hide_surrogates`] writes for half a pair.
const HALF: char = char::REPLACEMENT_CHARACTER;

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

/// What one `meta` element says.
fn declaration(tag: &Tag) -> Option<&'static Encoding> {
    let is_type = tag.get("http-equiv").is_some_and(|name| name.eq_ignore_ascii_case("content-type"));
    let in_content = || tag.get("content").filter(|_| is_type).and_then(charset_parameter);
    let label = tag.get("charset").map(str::to_owned).or_else(in_content);
    label.and_then(|label| named(label.as_bytes()))
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
        if tag.name() == "meta" {
            self.found = self.found.or_else(|| declaration(tag));
        }
    }

    fn end(&mut self, _name: &str) {}

    fn text(&mut self, _piece: &[u8]) {}

    fn is_done(&mut self, _position: usize) -> bool {
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

/// How many bytes that are not ASCII a guess takes where the host says nothing of the language.
const ENOUGH_TO_GUESS: usize = 4;

/// How many stretches that are broken a page in UTF-8, as it says, may have for each that is whole.
const MAX_BROKEN: usize = 8;

/// How much of a page is looked at, bytes. Browsers look for `meta` in the first 1024 and begin anew when it comes later.
const WINDOW: usize = 32 * 1024;

/// How much is read and converted at a time, bytes.
const PIECE: usize = 16 * 1024;

/// Longest XML declaration, bytes.
const MAX_DECLARATION: usize = 256;
