//! The canvas of an animation: blending and disposal of frames as in GIF, APNG and WebP.
//!
//! Owns the displayed picture. Refuses to know files. Written here because `image-webp` never clears a disposed frame and
//! the animation decoders of `image` do not know loop counts; so the frames of all three formats are composited in one way.

use super::super::ThumbnailError;
use super::super::pixels::{Layout, Pixels, Reducer};
use super::super::plan::Rect;

/// How a frame is drawn over the canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blend {
    /// It replaces the pixels, with their alpha.
    Replace,
    /// It is blended by its alpha.
    Over,
}

/// What is done with a frame before the next one is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dispose {
    Keep,
    /// Its part becomes transparent; background colours are ignored, as in browsers.
    Clear,
    /// The pixels that it covered are restored.
    Restore,
}

/// A decoded frame.
#[derive(Debug)]
pub(super) struct AnimationFrame<'a> {
    /// Its part of the canvas; what lies outside is clipped.
    pub(super) part: Rect,
    /// RGBA with straight alpha, in rows of `stride` bytes.
    pub(super) data: &'a [u8],
    pub(super) stride: usize,
    pub(super) blend: Blend,
    pub(super) dispose: Dispose,
}

/// The displayed picture: RGBA with straight alpha, transparent at first.
#[derive(Debug)]
pub(super) struct Canvas {
    width: u32,
    height: u32,
    /// `width × height × 4` bytes.
    data: Vec<u8>,
    /// Before the next frame, this part gets these pixels back or, if there are none, becomes transparent.
    disposal: Option<(Rect, Vec<u8>)>,
}

impl Canvas {
    pub(super) fn new(width: u32, height: u32) -> Self {
        let size = bytes(width).saturating_mul(usize::try_from(height).unwrap_or(0));
        Self { width, height, data: vec![0; size], disposal: None }
    }

    /// Disposes of the last frame and draws the next one.
    ///
    /// # Errors
    /// `Broken` if the frame has too few pixels.
    pub(super) fn draw(&mut self, frame: &AnimationFrame<'_>) -> Result<(), ThumbnailError> {
        if let Some((part, before)) = self.disposal.take() {
            let row = bytes(part.width).max(1);
            let mut rows = before.chunks_exact(row);
            for place in self.rows_mut(part) {
                match rows.next() {
                    Some(row) => place.copy_from_slice(row),
                    None => place.fill(0),
                }
            }
        }
        let part = self.clip(frame.part);
        match frame.dispose {
            Dispose::Keep => {}
            Dispose::Clear => self.disposal = Some((part, Vec::new())),
            Dispose::Restore => {
                let before = self.rows_mut(part).flat_map(|row| row.iter().copied()).collect();
                self.disposal = Some((part, before));
            }
        }
        let mut rows = frame.data.chunks(frame.stride.max(1));
        for place in self.rows_mut(part) {
            let row = rows.next().and_then(|row| row.get(..place.len()));
            let row = row.ok_or_else(|| ThumbnailError::broken("a frame lacks pixels"))?;
            match frame.blend {
                Blend::Replace => place.copy_from_slice(row),
                Blend::Over => blend(place, row),
            }
        }
        Ok(())
    }

    /// The displayed picture, reduced by a divisor.
    pub(super) fn reduced(&self, divisor: u32) -> Pixels {
        let mut reducer = Reducer::new((self.width, self.height), Layout::Rgba, divisor);
        for row in self.data.chunks_exact(bytes(self.width).max(1)) {
            reducer.push(row);
        }
        reducer.finish()
    }

    /// Clips a part to the canvas.
    fn clip(&self, part: Rect) -> Rect {
        let (x, y) = (part.x.min(self.width), part.y.min(self.height));
        let width = part.width.min(self.width.saturating_sub(x));
        let height = part.height.min(self.height.saturating_sub(y));
        Rect { x, y, width, height }
    }

    /// The rows of a part, which must lie within the canvas.
    fn rows_mut(&mut self, part: Rect) -> impl Iterator<Item = &mut [u8]> {
        let (from, to) = (bytes(part.x), bytes(part.x.saturating_add(part.width)));
        let rows = usize::try_from(part.height).unwrap_or(0);
        let first = usize::try_from(part.y).unwrap_or(0);
        self.data
            .chunks_exact_mut(bytes(self.width).max(1))
            .skip(first)
            .take(rows)
            .filter_map(move |row| row.get_mut(from..to))
    }
}

/// Bytes of a row of RGBA.
fn bytes(pixels: u32) -> usize {
    usize::try_from(pixels).unwrap_or(usize::MAX).saturating_mul(4)
}

/// Blends a row over another.
fn blend(below: &mut [u8], above: &[u8]) {
    for (below, above) in below.as_chunks_mut::<4>().0.iter_mut().zip(above.as_chunks::<4>().0) {
        match above {
            [.., 0] => {}
            [.., u8::MAX] => *below = *above,
            above => *below = over(*below, *above),
        }
    }
}

/// Blends a pixel over another, both with straight alpha (source over).
fn over(below: [u8; 4], above: [u8; 4]) -> [u8; 4] {
    let [.., below_alpha] = below.map(u32::from);
    let [.., above_alpha] = above.map(u32::from);
    // Both weights are in units of 1/255².
    let above_weight = above_alpha.saturating_mul(255);
    let below_weight = below_alpha.saturating_mul(255_u32.saturating_sub(above_alpha));
    let total = above_weight.saturating_add(below_weight);
    let rounded = |sum: u32, by: u32| {
        let value = sum.saturating_add(by.div_euclid(2)).checked_div(by).unwrap_or(0);
        u8::try_from(value).unwrap_or(u8::MAX)
    };
    let mut mixed = [0; 4];
    for ((mixed, below), above) in mixed.iter_mut().zip(below).zip(above) {
        let sum = u32::from(above)
            .saturating_mul(above_weight)
            .saturating_add(u32::from(below).saturating_mul(below_weight));
        *mixed = rounded(sum, total);
    }
    let [red, green, blue, _] = mixed;
    [red, green, blue, rounded(total, 255)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: [u8; 4] = [255, 0, 0, 255];
    const BLUE: [u8; 4] = [0, 0, 255, 255];
    const NONE: [u8; 4] = [0; 4];

    fn draw(canvas: &mut Canvas, x: u32, pixels: &[[u8; 4]], blend: Blend, dispose: Dispose) -> Vec<[u8; 4]> {
        let width = u32::try_from(pixels.len()).unwrap();
        let data = pixels.as_flattened();
        let part = Rect { x, y: 0, width, height: 1 };
        canvas.draw(&AnimationFrame { part, data, stride: data.len(), blend, dispose }).unwrap();
        canvas.reduced(1).data.as_chunks::<4>().0.to_vec()
    }

    #[test]
    fn frames_are_kept_cleared_or_restored() {
        let mut canvas = Canvas::new(3, 1);
        assert_eq!(draw(&mut canvas, 0, &[RED; 3], Blend::Replace, Dispose::Keep), [RED; 3]);
        assert_eq!(draw(&mut canvas, 1, &[BLUE], Blend::Over, Dispose::Restore), [RED, BLUE, RED]);
        assert_eq!(draw(&mut canvas, 2, &[BLUE], Blend::Over, Dispose::Clear), [RED, RED, BLUE]);
        assert_eq!(draw(&mut canvas, 0, &[NONE], Blend::Over, Dispose::Keep), [RED, RED, NONE]);
        assert_eq!(draw(&mut canvas, 0, &[NONE], Blend::Replace, Dispose::Keep), [NONE, RED, NONE]);
    }

    #[test]
    fn translucent_colours_are_blended() {
        let mut canvas = Canvas::new(2, 1);
        draw(&mut canvas, 0, &[RED], Blend::Replace, Dispose::Keep);
        let got = draw(&mut canvas, 0, &[[0, 0, 255, 128]; 2], Blend::Over, Dispose::Keep);
        assert_eq!(got, [[127, 0, 128, 255], [0, 0, 255, 128]]);
    }

    #[test]
    fn frames_are_clipped_at_the_edge_and_missing_rows_are_broken() {
        let mut canvas = Canvas::new(2, 1);
        assert_eq!(draw(&mut canvas, 1, &[RED, BLUE], Blend::Replace, Dispose::Restore), [NONE, RED]);
        assert_eq!(draw(&mut canvas, 9, &[BLUE], Blend::Replace, Dispose::Clear), [NONE, NONE]);
        let part = Rect { x: 0, y: 0, width: 2, height: 1 };
        let (blend, dispose) = (Blend::Over, Dispose::Keep);
        assert!(canvas.draw(&AnimationFrame { part, data: &RED, stride: 8, blend, dispose }).is_err());
    }
}
