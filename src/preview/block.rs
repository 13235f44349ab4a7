//! A run of text of a page, with how much of it is links.
//!
//! Owns when a text is a list of links, and how much a text says.

use super::html::push_capped;
use super::text;

/// A run of text.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The text.
    text: Vec<u8>,
    /// How many bytes of its words are links.
    pub(super) linked: usize,
    /// How many are not.
    pub(super) plain: usize,
    /// How many words are not.
    pub(super) plain_words: usize,
}

impl Block {
    /// Whether there are no words in it.
    pub(super) fn is_empty(&self) -> bool {
        self.linked == 0 && self.plain == 0
    }

    /// The text as one line, if there is some.
    pub(super) fn line(&self) -> Option<String> {
        text::line(&String::from_utf8_lossy(&self.text), MAX_BLOCK)
    }

    /// More text, in a link or not.
    pub(super) fn push(&mut self, piece: &[u8], is_link: bool) {
        let starts_word = self.text.last().is_none_or(u8::is_ascii_whitespace);
        push_capped(&mut self.text, piece, MAX_BLOCK);
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
        let letters = piece.iter().filter(|byte| is_letter(byte)).count();
        if is_link {
            self.linked = self.linked.saturating_add(letters);
            return;
        }
        self.plain = self.plain.saturating_add(letters);
        let mut was_blank = starts_word;
        for byte in piece {
            if was_blank && is_letter(byte) {
                self.plain_words = self.plain_words.saturating_add(1);
            }
            was_blank = byte.is_ascii_whitespace();
        }
    }

    /// Whether it is a list of links. A sentence may have many of them.
    pub(super) fn is_mostly_links(&self, text: &str) -> bool {
        let is_prose =
            text::is_sentence(text) && self.plain_words >= 5 && self.plain.saturating_mul(4) >= self.linked;
        self.linked > self.plain && !is_prose
    }
}

/// How much a text says: a character of Chinese, Japanese or Korean as much as two letters.
pub(super) fn weight(text: &str) -> usize {
    text.chars().map(|c| if c >= '\u{2e80}' { 2 } else { 1 }).sum()
}

/// Longest block kept, bytes.
pub(super) const MAX_BLOCK: usize = 2048;
