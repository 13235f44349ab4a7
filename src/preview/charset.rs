//! The character set of a page.
//!
//! Owns `encoding_rs`' labels and `chardetng`. The order is that of browsers: byte order mark, `Content-Type`, declarations in the
//! document, a guess ([WHATWG, determining the character
//! encoding](https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding)). Unlike in browsers, a
//! declaration that the bytes contradict does not count: servers add `charset=iso-8859-1` to pages in UTF-8, and `utf-8` to
//! old pages in something else. Refuses to know conversion, which is [`super::utf8_reader`]'s.

use std::cell::Cell;
use std::rc::Rc;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use url::{Host, Url};

use super::html::{self, HtmlHandler, Tag};

/// The character set that a page declares in a `meta` element, noted while the page is read.
pub(super) type DeclaredCharset = Rc<Cell<Option<&'static Encoding>>>;

/// Notes what a `meta` element declares. The first declaration counts.
pub(super) fn note_meta(tag: &Tag, declared: &DeclaredCharset) {
    declared.set(declared.get().or_else(|| declaration(tag)));
}

/// What is known of a page's character set besides its bytes.
pub(super) struct CharsetHints {
    /// What `Content-Type` and the first bytes declare, best first.
    declared: Vec<&'static Encoding>,
    /// What later `meta` elements declare.
    declared_later: DeclaredCharset,
    top_level_domain: Option<Vec<u8>>,
}

/// The part of a page on which a decision rests.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether the page ends with it.
    pub(super) is_last: bool,
}

impl CharsetHints {
    /// The hints of a page at `url`, before its first byte.
    pub(super) fn new(url: &Url, declared_later: DeclaredCharset) -> Self {
        Self { declared: Vec::new(), declared_later, top_level_domain: top_level_domain(url) }
    }

    /// Notes what `Content-Type` and the beginning of the page declare.
    pub(super) fn read_declarations(&mut self, content_type: Option<&str>, window: &[u8]) {
        let header = content_type.and_then(charset_parameter).and_then(|label| named(label.as_bytes()));
        let declared = [header, prolog_charset(window), meta_charset(window)];
        self.declared = declared.into_iter().flatten().collect();
    }

    /// The character set of a page that begins with a byte order mark or contains zero bytes, in which nothing is plain ASCII.
    pub(super) fn without_ascii(&self, window: Window<'_>) -> Option<&'static Encoding> {
        let marked = Encoding::for_bom(window.bytes).map(|(encoding, _length)| encoding);
        marked.or_else(|| window.bytes.contains(&0).then(|| self.decide(window)))
    }

    /// The character set of a page whose bytes before `window` are plain ASCII.
    pub(super) fn decide(&self, window: Window<'_>) -> &'static Encoding {
        let evidence = Utf8Evidence::of(window);
        let later = [self.declared_later.get().map(readable), meta_charset(window.bytes)];
        for encoding in self.declared.iter().copied().chain(later.into_iter().flatten()) {
            match evidence.check(encoding) {
                Plausibility::Plausible => return encoding,
                Plausibility::IsUtf8 => return UTF_8,
                Plausibility::Contradicted => {}
            }
        }
        // A single broken byte does not make UTF-8 something else, nor do bytes that occur in no text.
        if evidence.is_utf8() || evidence.bytes == 0 {
            return UTF_8;
        }
        let top_level_domain = self.top_level_domain.as_deref();
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(window.bytes, window.is_last);
        let guess = detector.guess(top_level_domain, Utf8Detection::Deny);
        // On few bytes the guess is unreliable, and windows-1252 is the usual default.
        let is_reliable =
            evidence.bytes >= ENOUGH_TO_GUESS || EncodingDetector::tld_may_affect_guess(top_level_domain);
        if is_reliable { guess } else { WINDOWS_1252 }
    }
}

/// Whether a byte means the same in every character set, whatever precedes it. Escape and shift bytes do not: ISO-2022-JP switches
/// with them.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii() && !matches!(byte, 0 | 0x0e | 0x0f | 0x1b)
}

/// How the bytes look when read as UTF-8.
#[derive(Debug, Default)]
struct Utf8Evidence {
    /// Characters outside ASCII.
    non_ascii: usize,
    /// Sequences that are not UTF-8.
    invalid: usize,
    /// Runs of non-ASCII bytes that are mostly UTF-8.
    good_runs: usize,
    /// Other runs of non-ASCII bytes.
    bad_runs: usize,
    /// Non-ASCII bytes that occur in texts.
    bytes: usize,
    has_nulls: bool,
}

/// A run of non-ASCII bytes: a word in a single-byte character set, a text in Chinese. However many of its bytes are invalid, it
/// counts once.
#[derive(Debug, Default)]
struct NonAsciiRun {
    /// Bytes that are UTF-8.
    valid: usize,
    /// Bytes that are not.
    invalid: usize,
}

/// Whether a declared character set agrees with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plausibility {
    Plausible,
    /// The bytes are UTF-8 in truth.
    IsUtf8,
    /// The bytes are something else.
    Contradicted,
}

impl Utf8Evidence {
    fn of(window: Window<'_>) -> Self {
        let mut evidence = Self { has_nulls: window.bytes.contains(&0), ..Self::default() };
        // 0xfe and 0xff are rare in any text, and no text has only these.
        evidence.bytes = window.bytes.iter().filter(|byte| (0x80..0xfe).contains(*byte)).count();
        let mut bytes = window.bytes.to_vec();
        replace_surrogates(&mut bytes);
        let mut rest = bytes.len();
        let mut run = NonAsciiRun::default();
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_ascii() {
                    evidence.end_run(&mut run);
                } else if c != HALF_SURROGATE {
                    evidence.non_ascii = evidence.non_ascii.saturating_add(1);
                    run.valid = run.valid.saturating_add(c.len_utf8());
                }
            }
            rest = rest.saturating_sub(chunk.valid().len()).saturating_sub(chunk.invalid().len());
            // A character may be split at the end of the window.
            let is_cut = rest == 0 && !window.is_last;
            if !chunk.invalid().is_empty() && !is_cut {
                evidence.invalid = evidence.invalid.saturating_add(1);
                run.invalid = run.invalid.saturating_add(chunk.invalid().len());
            }
        }
        evidence.end_run(&mut run);
        evidence
    }

    /// Counts a run that has ended.
    fn end_run(&mut self, run: &mut NonAsciiRun) {
        let NonAsciiRun { valid, invalid } = std::mem::take(run);
        if valid > invalid {
            self.good_runs = self.good_runs.saturating_add(1);
        } else if invalid > 0 {
            self.bad_runs = self.bad_runs.saturating_add(1);
        }
    }

    /// Whether the bytes are UTF-8, apart from a few broken ones.
    fn is_utf8(&self) -> bool {
        self.invalid == 0 || (self.good_runs > 0 && self.good_runs >= self.bad_runs)
    }

    /// Whether bytes declared as UTF-8 may be UTF-8: many may be broken, but not nearly all.
    fn may_be_utf8(&self) -> bool {
        self.invalid == 0
            || (self.good_runs > 0 && self.good_runs.saturating_mul(MAX_BAD_RUNS) >= self.bad_runs)
    }

    /// Compares a declaration with the bytes. Text in a single-byte character set is never valid UTF-8 by chance; in a double-byte
    /// one a few characters may be.
    fn check(&self, encoding: &'static Encoding) -> Plausibility {
        if encoding == UTF_8 {
            return if self.may_be_utf8() { Plausibility::Plausible } else { Plausibility::Contradicted };
        }
        if encoding == UTF_16LE || encoding == UTF_16BE {
            return if self.has_nulls { Plausibility::Plausible } else { Plausibility::Contradicted };
        }
        // Text in UTF-8 declared as something else, which servers do by default.
        let enough = if encoding.is_single_byte() { 1 } else { 8 };
        let is_utf8 = self.non_ascii >= enough && self.non_ascii.div_euclid(4) >= self.invalid;
        if is_utf8 { Plausibility::IsUtf8 } else { Plausibility::Plausible }
    }
}

/// Replaces surrogates that are encoded as if they were characters ([CESU-8](https://www.unicode.org/reports/tr26/)): some programs
/// write UTF-8 in this wrong way. A surrogate without its other half is replaced by one that does not count, because the same bytes
/// end many words of Ukrainian in windows-1251.
fn replace_surrogates(window: &mut [u8]) {
    let mut at = 0_usize;
    while let Some(rest) = window.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let length = match rest {
            [0xed, high @ 0xa0..=0xaf, a @ 0x80..=0xbf, 0xed, low @ 0xb0..=0xbf, b @ 0x80..=0xbf, ..] => {
                // A pair becomes two valid characters of three bytes. No other text has these bytes.
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

/// What [`replace_surrogates`] writes for half a pair.
const HALF_SURROGATE: char = char::REPLACEMENT_CHARACTER;

/// The character set of a label. The [replacement encoding](https://encoding.spec.whatwg.org/#replacement), which browsers refuse to
/// convert, does not count.
fn named(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label(label).filter(|encoding| *encoding != REPLACEMENT)
}

/// The `charset` parameter of a `Content-Type`.
fn charset_parameter(content_type: &str) -> Option<String> {
    let lower = content_type.to_ascii_lowercase();
    let (_before, after) = lower.split_once("charset")?;
    let value = after.trim_start().strip_prefix('=')?.trim_start();
    let value = value.trim_start_matches(['"', '\'']);
    let end = value.find(|c: char| c.is_whitespace() || matches!(c, ';' | ',' | '"' | '\''));
    Some(value.get(..end.unwrap_or(value.len()))?.to_owned())
}

/// The encoding of the XML declaration. An XML declaration in UTF-16 without a byte order mark is recognised by its zero bytes.
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

/// What the first `meta` element in the window declares.
fn meta_charset(window: &[u8]) -> Option<&'static Encoding> {
    let mut search = MetaSearch::default();
    html::read_bytes(window, &mut search);
    search.found.map(readable)
}

/// What one `meta` element declares.
fn declaration(tag: &Tag) -> Option<&'static Encoding> {
    let is_type = tag.get("http-equiv").is_some_and(|name| name.eq_ignore_ascii_case("content-type"));
    let in_content = || tag.get("content").filter(|_| is_type).and_then(charset_parameter);
    let label = tag.get("charset").map(str::to_owned).or_else(in_content);
    label.and_then(|label| named(label.as_bytes()))
}

/// A declaration that was read as ASCII cannot mean UTF-16, so it means UTF-8, as in browsers.
fn readable(encoding: &'static Encoding) -> &'static Encoding {
    if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding }
}

/// Searches for `<meta charset>` and `<meta http-equiv="Content-Type">`.
#[derive(Default)]
struct MetaSearch {
    found: Option<&'static Encoding>,
}

impl HtmlHandler for MetaSearch {
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

/// The last label of the host, which tells the detector what languages to expect.
fn top_level_domain(url: &Url) -> Option<Vec<u8>> {
    let Some(Host::Domain(domain)) = url.host() else { return None };
    let label = domain.trim_end_matches('.').rsplit('.').next()?;
    let is_plain =
        label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    (is_plain && !label.is_empty()).then(|| label.as_bytes().to_vec())
}

/// Least non-ASCII bytes for a guess where the host says nothing of the language.
const ENOUGH_TO_GUESS: usize = 4;

/// Most bad runs for each good run of a page declared as UTF-8.
const MAX_BAD_RUNS: usize = 8;

/// Longest XML declaration, bytes.
const MAX_DECLARATION: usize = 256;
