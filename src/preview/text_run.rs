//! A run of text between two block boundaries, and how much of it is links.
//!
//! Owns the link density: when a text is a list of links rather than prose. Refuses to know where the text stands.

use super::html::{Tag, push_capped};
use super::text;

/// Whether text stands in a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LinkText {
    #[default]
    Unlinked,
    Linked,
}

impl LinkText {
    /// The kind of text that follows the start tag of an `a` element: one without `href` is not a link.
    pub(super) fn of_anchor(tag: &Tag) -> Self {
        if tag.get("href").is_some() { Self::Linked } else { Self::Unlinked }
    }
}

/// A run of text.
#[derive(Debug, Default)]
pub(super) struct TextRun {
    text: Vec<u8>,
    /// Bytes of letters and digits in links.
    pub(super) linked: usize,
    /// Bytes of letters and digits outside links.
    pub(super) unlinked: usize,
    /// Words outside links.
    pub(super) unlinked_words: usize,
}

impl TextRun {
    /// Whether there are no words in it.
    pub(super) fn is_empty(&self) -> bool {
        self.linked == 0 && self.unlinked == 0
    }

    /// The text as one clean line; `None` if it is empty.
    pub(super) fn line(&self) -> Option<String> {
        text::line(&String::from_utf8_lossy(&self.text), MAX_RUN)
    }

    /// Appends text.
    pub(super) fn push(&mut self, piece: &[u8], kind: LinkText) {
        let starts_word = self.text.last().is_none_or(u8::is_ascii_whitespace);
        push_capped(&mut self.text, piece, MAX_RUN);
        // Bytes instead of characters, because pieces may break inside one.
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
        let letters = piece.iter().filter(|byte| is_letter(byte)).count();
        if kind == LinkText::Linked {
            self.linked = self.linked.saturating_add(letters);
            return;
        }
        self.unlinked = self.unlinked.saturating_add(letters);
        let mut was_blank = starts_word;
        for byte in piece {
            if was_blank && is_letter(byte) {
                self.unlinked_words = self.unlinked_words.saturating_add(1);
            }
            was_blank = byte.is_ascii_whitespace();
        }
    }

    /// Whether more of it is links than not. A sentence, which may have many links, is not.
    pub(super) fn is_mostly_links(&self, text: &str) -> bool {
        // A sentence may consist of links for the most part, as in an encyclopedia.
        let is_prose = text::is_sentence(text)
            && self.unlinked_words >= 5
            && self.unlinked.saturating_mul(4) >= self.linked;
        self.linked > self.unlinked && !is_prose
    }
}

/// The length of a text in characters, where one of Chinese, Japanese or Korean counts as two.
pub(super) fn weight(text: &str) -> usize {
    text.chars().map(|c| if c >= '\u{2e80}' { 2 } else { 1 }).sum()
}

/// Longest run kept, bytes.
pub(super) const MAX_RUN: usize = 2048;
