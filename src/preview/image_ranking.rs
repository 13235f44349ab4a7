//! The images that a page shows, ordered by how likely each is the page's.
//!
//! Owns the order: content before ornaments, then images of the main part, large ones, and by area. Refuses to know the
//! elements around an image.

use super::image_ref::{self, ImageRef, MIN_SIDE};

/// Images in their order, at most [`MAX_IMAGES`].
#[derive(Debug, Default)]
pub(super) struct RankedImages {
    /// Best first.
    images: Vec<(Rank, ImageRef)>,
}

/// An image in the body of a page.
#[derive(Debug)]
pub(super) struct FoundImage<'a> {
    pub(super) image: ImageRef,
    /// `class` of its element.
    pub(super) class: &'a str,
    /// Whether it is in the main part of the page.
    pub(super) is_in_main: bool,
}

/// How likely an image is the page's; fields in the order in which they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Not an ornament by its URL or class.
    is_content: bool,
    is_in_main: bool,
    is_large: bool,
    /// Square pixels; 0 if unknown.
    area: u64,
}

impl Rank {
    fn of(found: &FoundImage<'_>) -> Self {
        // A `data:` URL has no name to judge by.
        let is_embedded = image_ref::is_embedded(&found.image.src);
        let name = if is_embedded { String::new() } else { found.image.src.to_ascii_lowercase() };
        let class = found.class.to_ascii_lowercase();
        let area = match (found.image.width, found.image.height) {
            (Some(width), Some(height)) => u64::from(width).saturating_mul(u64::from(height)),
            _ => 0,
        };
        Self {
            is_content: !ORNAMENTS.iter().any(|word| class.contains(word) || name.contains(word)),
            is_in_main: found.is_in_main,
            is_large: area >= LARGE_AREA,
            area,
        }
    }
}

impl RankedImages {
    /// The images, best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &ImageRef> {
        self.images.iter().map(|(_, image)| image)
    }

    /// Whether the best image is large and in the main part, so that further ones hardly matter.
    pub(super) fn has_large_main_image(&self) -> bool {
        let best = self.images.first();
        best.is_some_and(|(rank, _)| rank.is_content && rank.is_in_main && rank.is_large)
    }

    /// Adds an image at its place, unless it is small, a placeholder, or known with a better rank.
    pub(super) fn push(&mut self, found: FoundImage<'_>) {
        let is_embedded = image_ref::is_embedded(&found.image.src);
        if found.image.is_smaller_than(MIN_SIDE)
            || (!is_embedded && image_ref::is_placeholder(&found.image.src))
        {
            return;
        }
        let rank = Rank::of(&found);
        let image = found.image;
        if let Some(at) = self.images.iter().position(|(_, known)| known.src == image.src) {
            if self.images.get(at).is_some_and(|(known, _)| *known >= rank) {
                return;
            }
            self.images.remove(at);
        }
        // One embedded image at most: its bytes are in memory.
        let mut embedded = self.images.iter().filter(|(_, known)| image_ref::is_embedded(&known.src));
        if is_embedded && embedded.any(|(known, _)| *known >= rank) {
            return;
        }
        self.images.retain(|(_, known)| !(is_embedded && image_ref::is_embedded(&known.src)));
        let at = self.images.partition_point(|(known, _)| *known >= rank);
        if at < MAX_IMAGES {
            self.images.insert(at, (rank, image));
            self.images.truncate(MAX_IMAGES);
        }
    }
}

/// Words in the URLs and classes of ornaments.
const ORNAMENTS: [&str; 9] =
    ["logo", "icon", "avatar", "badge", "emoji", "gravatar", "button", "banner", "captcha"];

/// Least area of a large image, square pixels.
const LARGE_AREA: u64 = 200 * 150;

/// Most images kept.
const MAX_IMAGES: usize = 8;
