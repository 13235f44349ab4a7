//! From the samples of components to pixels.
//!
//! Owns the samples of the current row of MCUs, the colour spaces of JPEG (JFIF; Adobe technote 5116) and the result.
//! Refuses to know coefficients.

use super::blocks::At;
use super::geometry::Geometry;
use super::headers::ColorSpace;
use super::transform::{Transform, Values};

/// The samples of a row of MCUs, all components at the resolution of the result.
pub(super) struct Strips(Vec<Strip>);

/// The samples of a component.
struct Strip {
    /// In rows of `stride`.
    samples: Vec<u8>,
    stride: usize,
    /// Width and height of a block, in samples.
    block: (usize, usize),
    transform: Transform,
    /// The samples at the result's resolution, if the transform cannot give it.
    stretched: Option<Stretched>,
}

/// Samples scaled to the result's resolution by nearest neighbour.
struct Stretched {
    /// Across and down: how many samples of the result correspond to how many of the component.
    ratios: [(usize, usize); 2],
    /// In rows of `stride`.
    samples: Vec<u8>,
    stride: usize,
}

impl Strips {
    /// Allocates a row of MCUs.
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

    /// Transforms a block and writes its samples. Column and row count blocks of the row of MCUs.
    #[inline]
    pub(super) fn put(&mut self, (component, column, row): At, values: &Values) {
        let Some(strip) = self.0.get_mut(component) else { return };
        let place = |at: u32, side: usize| usize::try_from(at).unwrap_or(0).saturating_mul(side);
        let (width, height) = strip.block;
        let start = place(row, height).saturating_mul(strip.stride).saturating_add(place(column, width));
        let out = strip.samples.get_mut(start..).unwrap_or_default();
        strip.transform.put(values, out, strip.stride);
    }

    /// Makes an MCU grey, as browsers show missing ones.
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

    /// Scales the components that need it, once the row of MCUs is complete.
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

    /// A row of samples of a component, at the result's resolution.
    fn row(&self, component: usize, row: usize) -> &[u8] {
        let Some(strip) = self.0.get(component) else { return &[] };
        let (samples, stride) = match &strip.stretched {
            Some(Stretched { samples, stride, .. }) => (samples, *stride),
            None => (&strip.samples, strip.stride),
        };
        samples.chunks_exact(stride.max(1)).nth(row).unwrap_or_default()
    }
}

/// Converts rows of samples to pixels and collects them from the top.
pub(super) struct Colors {
    space: ColorSpace,
    /// Pixels of a row.
    width: usize,
    /// Rows of the result in a row of MCUs.
    strip_rows: usize,
    /// The pixels; 0 where there are none yet.
    data: Vec<u8>,
    /// How many bytes are done.
    done: usize,
}

impl Colors {
    /// Allocates the result.
    pub(super) fn new(geometry: &Geometry, space: ColorSpace) -> Self {
        let length = |length: u32| usize::try_from(length).unwrap_or(0);
        let (width, height) = (length(geometry.size.0), length(geometry.size.1));
        let bytes = width.saturating_mul(height).saturating_mul(space.channels());
        Self { space, width, strip_rows: length(geometry.strip_rows), data: vec![0; bytes], done: 0 }
    }

    pub(super) fn channels(&self) -> usize {
        self.space.channels()
    }

    pub(super) fn into_pixels(self) -> Vec<u8> {
        self.data
    }

    /// Whether all rows are done.
    pub(super) fn is_full(&self) -> bool {
        self.done >= self.data.len()
    }

    /// Adds the pixels of a row of MCUs; those below the picture are dropped.
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
                // YCbCr stores inverted inverted CMY, so the RGB that comes out is CMY.
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

/// Converts a row of each component to a row of pixels.
#[inline]
fn interleave<const C: usize>(out: &mut [u8], parts: [&[u8]; C], convert: impl Fn([u8; C]) -> [u8; C]) {
    for (at, pixel) in out.as_chunks_mut::<C>().0.iter_mut().enumerate() {
        *pixel = convert(parts.map(|part| part.get(at).copied().unwrap_or(0)));
    }
}

/// YCbCr to RGB (JFIF 1.02, "Conversion to and from RGB"), with constants in units of 1/65536.
#[inline]
pub(in crate::thumbnail) fn to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let y = i32::from(y).wrapping_mul(1 << 16).wrapping_add(1 << 15);
    let (cb, cr) = (i32::from(cb).wrapping_sub(128), i32::from(cr).wrapping_sub(128));
    let red = y.wrapping_add(cr.wrapping_mul(91_881));
    let green = y.wrapping_sub(cb.wrapping_mul(22_554)).wrapping_sub(cr.wrapping_mul(46_802));
    let blue = y.wrapping_add(cb.wrapping_mul(116_130));
    [red, green, blue].map(|sum| u8::try_from((sum >> 16).clamp(0, 255)).unwrap_or(0))
}
