//! An element that is open, tracked by its name alone.
//!
//! Owns where it ends: where as many elements of its name have ended as began. Refuses to know why it is tracked. There is no
//! tree, so memory does not grow with nesting.

/// An open element.
#[derive(Debug)]
pub(super) struct OpenElement {
    pub(super) name: String,
    /// How many elements of this name are open within it, itself included.
    depth: usize,
}

impl OpenElement {
    /// An element that has just begun.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), depth: 1 }
    }

    /// Counts a start tag within the element.
    pub(super) fn start(&mut self, name: &str) {
        if self.name == name {
            self.depth = self.depth.saturating_add(1);
        }
    }

    /// Counts an end tag. Returns whether it ends the element.
    pub(super) fn end(&mut self, name: &str) -> bool {
        if self.name == name {
            self.depth = self.depth.saturating_sub(1);
        }
        self.depth == 0
    }
}
