//! The bytes of a page as UTF-8, converted while they are read.
//!
//! Owns buffering and conversion. Which character set a page is in, [`super::charset`] decides: at the first byte that is not
//! ASCII, however far into the page, because until then all of them mean the same.

use std::io::{self, Read};
use std::ops::Range;

use encoding_rs::{CoderResult, Decoder, Encoding};
use url::Url;

use super::charset::{CharsetHints, DeclaredCharset, Window, is_plain};

/// A body converted to UTF-8. A body that breaks off ends there.
pub(super) struct Utf8Reader<'a> {
    body: &'a mut dyn Read,
    /// Whether `body` has ended.
    has_ended: bool,
    /// Bytes read from `body`.
    raw: Vec<u8>,
    /// How many bytes of `raw` are converted.
    converted: usize,
    hints: CharsetHints,
    /// `None` until the character set is decided; all bytes so far are ASCII then.
    decoder: Option<Decoder>,
    /// Whether `decoder` has written its last bytes.
    is_flushed: bool,
    /// Converted bytes.
    text: Vec<u8>,
    /// The part of `text` that has not been read yet.
    ready: Range<usize>,
}

impl<'a> Utf8Reader<'a> {
    /// Reads the beginning of `body`, the page at `url`. `declared` receives what the page declares while it is read.
    ///
    /// # Errors
    /// A read error before the first byte.
    pub(super) fn new(
        body: &'a mut dyn Read,
        content_type: Option<&str>,
        url: &Url,
        declared: DeclaredCharset,
    ) -> io::Result<Self> {
        let mut reader = Self {
            raw: Vec::new(),
            converted: 0,
            body,
            has_ended: false,
            hints: CharsetHints::new(url, declared),
            decoder: None,
            is_flushed: false,
            text: vec![0; PIECE],
            ready: 0..0,
        };
        reader.fill()?;
        reader.hints.read_declarations(content_type, &reader.raw);
        let encoding = reader.hints.without_ascii(reader.window());
        reader.decoder = encoding.map(Encoding::new_decoder_with_bom_removal);
        Ok(reader)
    }

    /// Drops converted bytes and reads until there are [`WINDOW`] bytes or the body ends. Fails only before the first byte.
    fn fill(&mut self) -> io::Result<()> {
        self.raw.drain(..self.converted);
        self.converted = 0;
        let mut filled = self.raw.len();
        self.raw.resize(WINDOW.max(filled), 0);
        let mut failed = None;
        while let Some(room) = self.raw.get_mut(filled..).filter(|room| !room.is_empty() && !self.has_ended) {
            match self.body.read(room) {
                Ok(0) => self.has_ended = true,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.has_ended = true;
                    // Later errors end the body, because a part of a page is better than none.
                    failed = Some(error).filter(|_| filled == 0);
                }
            }
        }
        self.raw.truncate(filled);
        failed.map_or(Ok(()), Err)
    }

    /// The bytes that were read and are not converted, once `fill` has dropped the others.
    fn window(&self) -> Window<'_> {
        Window { bytes: &self.raw, is_last: self.has_ended }
    }

    /// Converts the next piece. Nothing is ready after it only at the end.
    fn convert(&mut self) {
        while self.ready.is_empty() && !self.is_flushed {
            let source = self.raw.get(self.converted..).unwrap_or_default();
            if source.is_empty() && !self.has_ended {
                self.refill();
                continue;
            }
            let Some(decoder) = &mut self.decoder else {
                self.pass_ascii();
                continue;
            };
            let (result, read, written, _malformed) =
                decoder.decode_to_utf8(source, &mut self.text, self.has_ended);
            self.converted = self.converted.saturating_add(read);
            self.ready = 0..written;
            self.is_flushed = self.has_ended && result == CoderResult::InputEmpty;
        }
    }

    /// Passes bytes that mean the same in every character set, and decides the character set where these end.
    fn pass_ascii(&mut self) {
        let source = self.raw.get(self.converted..).unwrap_or_default();
        // Copied as they are until the character set matters.
        let plain = source.iter().take(self.text.len()).take_while(|byte| is_plain(**byte)).count();
        if let (Some(from), Some(to)) = (source.get(..plain), self.text.get_mut(..plain)) {
            to.copy_from_slice(from);
        }
        self.is_flushed = source.is_empty();
        self.converted = self.converted.saturating_add(plain);
        self.ready = 0..plain;
        if plain == 0 && !self.is_flushed {
            // A body that breaks off ends here.
            self.has_ended |= self.fill().is_err();
            self.decoder = Some(self.hints.decide(self.window()).new_decoder_without_bom_handling());
        }
    }

    /// Reads the next piece. An error ends the body.
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
        self.has_ended = count == 0;
    }
}

impl Read for Utf8Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.convert();
        let mut ready = self.text.get(self.ready.clone()).unwrap_or_default();
        let count = ready.read(out)?;
        self.ready.start = self.ready.start.saturating_add(count);
        Ok(count)
    }
}

/// How much of a page is searched for declarations and judged at once, bytes. Browsers search the first 1024 for `meta` and
/// start over if it comes later.
const WINDOW: usize = 32 * 1024;

/// How much is read and converted at once, bytes.
const PIECE: usize = 16 * 1024;
