//! From samples of components to pixels.
//!
//! Owns the rows of blocks that are at work, JPEG's colour spaces (JFIF; Adobe technote 5116) and the result.

use super::blocks::At;
use super::geometry::Geometry;
use super::headers::ColorSpace;
use super::transform::{Transform, Values};

/// One row of units: samples of every component, all at one size.
pub(super) struct Strips(Vec<Strip>);

/// One component's.
struct Strip {
    /// Rows of `stride`.
    samples: Vec<u8>,
    /// Samples of a row.
    stride: usize,
    /// Blocks.
    block: (usize, usize),
    /// How they are made.
    transform: Transform,
    /// The same at the result's size, where blocks are not made that large.
    stretched: Option<Stretched>,
}

/// Samples brought to the result's size, each the nearest one.
struct Stretched {
    /// Over how many samples of the result how many of its own go, across and down.
    ratios: [(usize, usize); 2],
    /// Rows of `stride`.
    samples: Vec<u8>,
    /// Samples of a row.
    stride: usize,
}

impl Strips {
    /// Room for a row of units.
    pub(super) fn new(geometry: &Geometry) -> Self {
        let length = |length: u32| usize::try_from(length).unwrap_or(0);
        let strip = |blocks: &super::geometry::Blocks| {
            let stride = length(blocks.columns.saturating_mul(blocks.width));
            let rows = length(blocks.down.saturating_mul(blocks.height));
            let stretched = blocks.stretch.map(|ratios| {
                let ratios = ratios.map(|(most, own)| (length(most), length(own).max(1)));
                let [(most, own), _] = ratios;
                let stride = stride.checked_div(own).unwrap_or(0).saturating_mul(most);
                Stretched {
                    ratios,
                    samples: vec![0; stride.saturating_mul(length(geometry.strip_rows))],
                    stride,
                }
            });
            Strip {
                stretched,
                samples: vec![0; stride.saturating_mul(rows)],
                stride,
                block: (length(blocks.width), length(blocks.height)),
                transform: Transform::new(blocks.width, blocks.height),
            }
        };
        Self(geometry.components().iter().map(strip).collect())
    }

    /// Puts a block in its place, counted in blocks.
    #[inline]
    pub(super) fn put(&mut self, (component, column, row): At, values: &Values) {
        let Some(strip) = self.0.get_mut(component) else { return };
        let place = |at: u32, side: usize| usize::try_from(at).unwrap_or(0).saturating_mul(side);
        let (width, height) = strip.block;
        let start = place(row, height).saturating_mul(strip.stride).saturating_add(place(column, width));
        let out = strip.samples.get_mut(start..).unwrap_or_default();
        strip.transform.put(values, out, strip.stride);
    }

    /// Makes a unit as if there were nothing in it: grey, as browsers show what lacks.
    pub(super) fn blank(&mut self, geometry: &Geometry, unit: u32) {
        for (component, blocks) in geometry.components().iter().enumerate() {
            for row in 0..blocks.down {
                for column in 0..blocks.across {
                    let column = unit.saturating_mul(blocks.across).saturating_add(column);
                    self.put((component, column, row), &[0; 64]);
                }
            }
        }
    }

    /// Ends a row of units: what has to be stretched is.
    fn stretch(&mut self) {
        for Strip { samples, stride, stretched, .. } in &mut self.0 {
            let Some(Stretched { ratios: [across, down], samples: out, stride: wide }) = stretched else {
                continue;
            };
            let from = |at: usize, (most, own): (usize, usize)| {
                at.saturating_mul(own).checked_div(most).unwrap_or(0)
            };
            for (row, line) in out.chunks_exact_mut((*wide).max(1)).enumerate() {
                let source = samples.chunks_exact((*stride).max(1)).nth(from(row, *down)).unwrap_or_default();
                for (at, to) in line.iter_mut().enumerate() {
                    *to = source.get(from(at, *across)).copied().unwrap_or(0);
                }
            }
        }
    }

    /// One row of samples of a component.
    fn row(&self, component: usize, row: usize) -> &[u8] {
        let Some(strip) = self.0.get(component) else { return &[] };
        let (samples, stride) = match &strip.stretched {
            Some(Stretched { samples, stride, .. }) => (samples, *stride),
            None => (&strip.samples, strip.stride),
        };
        samples.chunks_exact(stride.max(1)).nth(row).unwrap_or_default()
    }
}

/// The result, growing from the top.
pub(super) struct Colors {
    /// What components stand for.
    space: ColorSpace,
    /// Pixels of a row.
    width: usize,
    /// Rows of a strip.
    strip_rows: usize,
    /// Pixels, those not yet there 0.
    data: Vec<u8>,
    /// Bytes that are there.
    done: usize,
}

impl Colors {
    /// Room for the result.
    pub(super) fn new(geometry: &Geometry, space: ColorSpace) -> Self {
        let length = |length: u32| usize::try_from(length).unwrap_or(0);
        let (width, height) = (length(geometry.size.0), length(geometry.size.1));
        let bytes = width.saturating_mul(height).saturating_mul(space.channels());
        Self { space, width, strip_rows: length(geometry.strip_rows), data: vec![0; bytes], done: 0 }
    }

    /// Bytes of a pixel.
    pub(super) fn channels(&self) -> usize {
        self.space.channels()
    }

    /// The pixels.
    pub(super) fn into_pixels(self) -> Vec<u8> {
        self.data
    }

    /// Whether all rows are there.
    pub(super) fn is_full(&self) -> bool {
        self.done >= self.data.len()
    }

    /// Takes the next rows; what is below the picture is cut off.
    pub(super) fn push(&mut self, strips: &mut Strips) {
        strips.stretch();
        let strips = &*strips;
        let bytes = self.width.saturating_mul(self.channels());
        let left = self.data.get_mut(self.done..).unwrap_or_default();
        for (row, out) in left.chunks_exact_mut(bytes.max(1)).take(self.strip_rows).enumerate() {
            let part = |component: usize| strips.row(component, row);
            match self.space {
                ColorSpace::Grey => out.iter_mut().zip(part(0)).for_each(|(to, level)| *to = *level),
                ColorSpace::Rgb => interleave(out, [part(0), part(1), part(2)], |pixel| pixel),
                ColorSpace::YCbCr => interleave(out, [part(0), part(1), part(2)], to_rgb),
                ColorSpace::Raw(count) => {
                    for component in 0..usize::from(count) {
                        let places = out.iter_mut().skip(component).step_by(count.into());
                        places.zip(part(component)).for_each(|(to, level)| *to = *level);
                    }
                }
                ColorSpace::InvertedCmyk => {
                    interleave(out, [part(0), part(1), part(2), part(3)], |inks| inks.map(|ink| !ink));
                }
                // Luma and chromas are those of the light that is left, which is the ink inverted twice.
                ColorSpace::Ycck => {
                    let convert = |[y, cb, cr, k]: [u8; 4]| {
                        let [cyan, magenta, yellow] = to_rgb([y, cb, cr]);
                        [cyan, magenta, yellow, !k]
                    };
                    interleave(out, [part(0), part(1), part(2), part(3)], convert);
                }
            }
        }
        self.done = self.done.saturating_add(bytes.saturating_mul(self.strip_rows));
    }
}

/// One row of pixels out of one of each component.
#[inline]
fn interleave<const C: usize>(out: &mut [u8], parts: [&[u8]; C], convert: impl Fn([u8; C]) -> [u8; C]) {
    for (at, pixel) in out.as_chunks_mut::<C>().0.iter_mut().enumerate() {
        *pixel = convert(parts.map(|part| part.get(at).copied().unwrap_or(0)));
    }
}

/// Luma and chromas as red, green and blue (JFIF, section "Conversion to and from RGB"), in 65536ths.
#[inline]
pub(in crate::thumbnail) fn to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let y = i32::from(y).wrapping_mul(1 << 16).wrapping_add(1 << 15);
    let (cb, cr) = (i32::from(cb).wrapping_sub(128), i32::from(cr).wrapping_sub(128));
    let red = y.wrapping_add(cr.wrapping_mul(91_881));
    let green = y.wrapping_sub(cb.wrapping_mul(22_554)).wrapping_sub(cr.wrapping_mul(46_802));
    let blue = y.wrapping_add(cb.wrapping_mul(116_130));
    [red, green, blue].map(|sum| u8::try_from((sum >> 16).clamp(0, 255)).unwrap_or(0))
}
