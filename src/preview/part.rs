//! An element of a page that is open, known by its name alone.
//!
//! Owns where it ends: when as many of its name have ended as began, or where a start tag shows that its end was forgotten.

use super::furniture::Hold;
use super::html::Tag;

/// An element that is open, by its name.
#[derive(Debug)]
pub(super) struct Part {
    /// The name.
    pub(super) name: String,
    /// How many of the name are open within, itself included.
    pub(super) depth: usize,
    /// How sure its end is.
    pub(super) hold: Hold,
}

impl Part {
    /// A start tag within.
    pub(super) fn start(&mut self, name: &str) {
        if self.name == name {
            self.depth = self.depth.saturating_add(1);
        }
    }

    /// An end tag; whether it ends the part.
    pub(super) fn end(&mut self, name: &str) -> bool {
        if self.name == name {
            self.depth = self.depth.saturating_sub(1);
        }
        self.depth == 0
    }

    /// Whether a start tag shows that the part has ended.
    pub(super) fn is_broken_by(&self, name: &str) -> bool {
        match name {
            "body" => true,
            "main" => self.hold < Hold::Strong,
            "article" => self.hold < Hold::Medium,
            "h1" => self.hold <= Hold::Weak,
            _ => false,
        }
    }
}

/// Whether an element has no content.
pub(super) fn is_void(tag: &Tag) -> bool {
    VOID.contains(&tag.name()) || (tag.is_self_closing() && matches!(tag.name(), "svg" | "math"))
}

/// Elements without content.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];
