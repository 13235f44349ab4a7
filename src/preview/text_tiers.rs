//! The texts of a page, in tiers by how likely each is what the page says.
//!
//! Owns the order of the tiers, and how much text of one is enough. Which tier a text belongs to, [`super::visible`] decides.

use std::collections::BTreeMap;

/// How likely a text is the page's, best first. The first tier that has text gives the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TextTier {
    /// Paragraphs of the main part.
    MainParagraph,
    /// Other long blocks of the main part.
    MainBlock,
    Paragraph,
    /// Other long blocks.
    Block,
    /// Sentences, and blocks of some length.
    Readable,
    /// Any text with letters.
    Fragment,
    /// Paragraphs of what may be boilerplate.
    Doubtful,
    /// Links, and what a page about cookies says of cookies.
    Links,
    /// Text of an `aside`.
    Aside,
    /// Headings below the first level.
    Heading,
}

/// Texts by tier.
#[derive(Debug, Default)]
pub(super) struct TieredTexts {
    texts: BTreeMap<TextTier, String>,
}

impl TieredTexts {
    /// The text of the best tier.
    pub(super) fn best(&self) -> Option<&str> {
        self.texts.values().map(String::as_str).find(|text| !text.is_empty())
    }

    /// Whether there is more text than a page has that only sends readers elsewhere.
    pub(super) fn has_prose(&self) -> bool {
        self.texts.range(..=TextTier::Doubtful).any(|(_, text)| is_enough(text))
    }

    /// Whether further text would not change the best.
    pub(super) fn is_complete(&self) -> bool {
        self.texts.get(&TextTier::MainParagraph).is_some_and(|text| is_enough(text))
    }

    /// Appends a text to its tier, unless that has enough.
    pub(super) fn push(&mut self, tier: TextTier, text: &str) {
        let kept = self.texts.entry(tier).or_default();
        // The last text is kept whole: what is too long is cut at the end of a sentence later.
        if is_enough(kept) {
            return;
        }
        if !kept.is_empty() && !text.is_empty() {
            kept.push(' ');
        }
        kept.push_str(text);
    }
}

fn is_enough(text: &str) -> bool {
    text.chars().count() >= ENOUGH_TEXT
}

/// How much text of a tier is enough, characters.
const ENOUGH_TEXT: usize = 200;
