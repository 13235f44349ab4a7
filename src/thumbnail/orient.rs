//! The eight EXIF orientations: the geometry between a picture as stored and as displayed.
//!
//! Owns sizes, parts and pixels on both sides of it. Refuses to know where an orientation is read from.

use super::pixels::Pixels;
use super::plan::Rect;

/// An EXIF orientation ([Exif 3.0](https://www.cipa.jp/std/documents/download_e.html?DC-008-Translation-2023-E), tag 274).
/// To find the stored pixel of a displayed one, swap column and row if it transposes, then mirror each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Orientation {
    transposed: bool,
    mirrored_x: bool,
    mirrored_y: bool,
}

impl Orientation {
    /// Displayed as stored.
    pub(super) const UPRIGHT: Self = Self { transposed: false, mirrored_x: false, mirrored_y: false };

    /// The orientation with this EXIF number, 1 to 8; any other number counts as 1.
    pub(super) fn from_exif(value: u8) -> Self {
        Self {
            transposed: matches!(value, 5..=8),
            mirrored_x: matches!(value, 2 | 3 | 7 | 8),
            mirrored_y: matches!(value, 3 | 4 | 6 | 7),
        }
    }

    /// The displayed size of a stored one, or the reverse.
    pub(super) fn turn<T>(self, (width, height): (T, T)) -> (T, T) {
        if self.transposed { (height, width) } else { (width, height) }
    }

    /// Where a part of the displayed picture is stored. `stored` is the stored size of the whole picture.
    pub(super) fn stored_part(self, part: Rect, stored: (u32, u32)) -> Rect {
        let (x, y) = self.turn((part.x, part.y));
        let (width, height) = self.turn((part.width, part.height));
        let mirror = |at: u32, length: u32, whole: u32| whole.saturating_sub(at.saturating_add(length));
        Rect {
            x: if self.mirrored_x { mirror(x, width, stored.0) } else { x },
            y: if self.mirrored_y { mirror(y, height, stored.1) } else { y },
            width,
            height,
        }
    }

    /// Turns stored pixels into displayed ones.
    pub(super) fn apply(self, pixels: Pixels) -> Pixels {
        if self == Self::UPRIGHT {
            return pixels;
        }
        match pixels.layout.channels() {
            1 => self.rearrange::<1>(&pixels),
            2 => self.rearrange::<2>(&pixels),
            3 => self.rearrange::<3>(&pixels),
            _ => self.rearrange::<4>(&pixels),
        }
    }

    /// [`Self::apply`] for pixels of `C` bytes.
    fn rearrange<const C: usize>(self, pixels: &Pixels) -> Pixels {
        let columns = usize::try_from(pixels.width).unwrap_or(0);
        let rows = usize::try_from(pixels.height).unwrap_or(0);
        let (width, height) = self.turn((pixels.width, pixels.height));
        let (across, down) = self.turn((columns, rows));
        let stored = pixels.data.as_chunks::<C>().0;
        let mut data = Vec::with_capacity(pixels.data.len());
        let mirror = |at: usize, length: usize, mirrored: bool| {
            if mirrored { length.saturating_sub(at).saturating_sub(1) } else { at }
        };
        for y in 0..down {
            for x in 0..across {
                let (x, y) = self.turn((x, y));
                let (x, y) = (mirror(x, columns, self.mirrored_x), mirror(y, rows, self.mirrored_y));
                let at = y.saturating_mul(columns).saturating_add(x);
                data.extend(stored.get(at).unwrap_or(&[0; C]));
            }
        }
        Pixels { width, height, layout: pixels.layout, data }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pixels::Layout;
    use super::*;

    /// The stored rows `abc` and `def` as displayed: EXIF number, width, pixels.
    const DISPLAYED: [(u8, u32, &[u8]); 8] = [
        (1, 3, b"abcdef"),
        (2, 3, b"cbafed"),
        (3, 3, b"fedcba"),
        (4, 3, b"defabc"),
        (5, 2, b"adbecf"),
        (6, 2, b"daebfc"),
        (7, 2, b"fcebda"),
        (8, 2, b"cfbead"),
    ];

    #[test]
    fn every_orientation_is_displayed_as_exif_says() {
        for (value, width, seen) in DISPLAYED {
            let stored = Pixels { width: 3, height: 2, layout: Layout::Grey, data: b"abcdef".to_vec() };
            let got = Orientation::from_exif(value).apply(stored);
            assert_eq!((got.width, got.data.as_slice()), (width, seen), "{value}");
        }
    }

    #[test]
    fn a_displayed_part_is_found_where_it_is_stored() {
        for (value, width, seen) in DISPLAYED {
            let orientation = Orientation::from_exif(value);
            for x in 0..width {
                let part = Rect { x, y: 1, width: 1, height: 1 };
                let stored = orientation.stored_part(part, (3, 2));
                let at = |x: u32, y: u32, width: u32| usize::try_from(y * width + x).unwrap();
                assert_eq!(b"abcdef"[at(stored.x, stored.y, 3)], seen[at(x, 1, width)], "{value} {x}");
            }
        }
    }
}
