//! The inverse discrete cosine transform (T.81, A.3.3), to blocks of 1, 2, 4, 8, 16 or 32 samples a side.
//!
//! Owns the arithmetic from coefficients to samples. Refuses to know where blocks belong. The lowest N of eight coefficients
//! are those of the same picture at N samples instead of eight, and a block of more than eight samples has zeros for its higher
//! coefficients; so one formula serves every size.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "the tables' own indices; what files say is multiplied and added wrapping"
)]

/// The dequantised coefficients of a block, in rows of eight.
pub(super) type Values = [i32; 64];

/// The possible sides of a block, in samples.
const SIDES: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// The transform to blocks of one size.
#[derive(Debug)]
pub(super) struct Transform {
    /// Samples across a block.
    width: usize,
    /// Samples down a block.
    height: usize,
    /// For each horizontal frequency, the basis function over the columns, in units of 1/8192.
    across: Vec<[i32; LARGEST]>,
    /// For each row, the weight of each vertical frequency, in units of 1/8192.
    down: Vec<[i32; 8]>,
}

/// Most samples across a block.
const LARGEST: usize = 32;

impl Transform {
    /// To blocks of `width × height` samples; each side must be one of [`SIDES`].
    pub(super) fn new(width: u32, height: u32) -> Self {
        let usable = |side: u32| if SIDES.contains(&side) { side } else { 1 };
        let (width, height) = (usable(width), usable(height));
        let length = |side: u32| usize::try_from(side).unwrap_or(1);
        let across = (0..width.min(8))
            .map(|wave| {
                let mut values = [0; LARGEST];
                values.iter_mut().zip(0..width).for_each(|(value, at)| *value = basis(width, wave, at));
                values
            })
            .collect();
        let down = (0..height)
            .map(|at| {
                let mut values = [0; 8];
                values
                    .iter_mut()
                    .zip(0..height.min(8))
                    .for_each(|(value, wave)| *value = basis(height, wave, at));
                values
            })
            .collect();
        Self { width: length(width), height: length(height), across, down }
    }

    /// Writes the samples of a block into rows of `stride` samples; the first is at the start of `out`.
    pub(super) fn put(&self, values: &Values, out: &mut [u8], stride: usize) {
        if values.iter().skip(1).all(|value| *value == 0) {
            let level = sample(values.first().copied().unwrap_or(0).wrapping_mul(ONE / 8), ONE);
            for row in out.chunks_mut(stride.max(1)).take(self.height) {
                row.iter_mut().take(self.width).for_each(|sample| *sample = level);
            }
            return;
        }
        match self.width {
            1 => self.put_block::<1, 1>(values, out, stride),
            2 => self.put_block::<2, 2>(values, out, stride),
            4 => self.put_block::<4, 4>(values, out, stride),
            8 => self.put_block::<8, 8>(values, out, stride),
            16 => self.put_block::<8, 16>(values, out, stride),
            _ => self.put_block::<8, LARGEST>(values, out, stride),
        }
    }

    /// [`Self::put`] with `KEPT` coefficients a row, for blocks of up to `WIDE` columns.
    #[inline]
    fn put_block<const KEPT: usize, const WIDE: usize>(
        &self,
        values: &Values,
        out: &mut [u8],
        stride: usize,
    ) {
        let rows = values.as_chunks::<8>().0;
        for (line, weights) in out.chunks_mut(stride.max(1)).zip(&self.down) {
            // The first pass: one row, still as frequencies along it.
            let mut waves = [0_i32; KEPT];
            for (row, weight) in rows.iter().zip(weights).take(self.height) {
                for (wave, value) in waves.iter_mut().zip(row) {
                    *wave = wave.wrapping_add(value.wrapping_mul(*weight));
                }
            }
            let mut sums = [0_i32; WIDE];
            for (wave, shape) in waves.iter().zip(&self.across) {
                let strength = wave.wrapping_add(ROUND) >> DROPPED;
                for (sum, value) in sums.iter_mut().zip(shape) {
                    *sum = sum.wrapping_add(strength.wrapping_mul(*value));
                }
            }
            for (to, sum) in line.iter_mut().zip(sums).take(self.width) {
                *to = sample(sum, ONE << LEFT);
            }
        }
    }
}

/// A sample from a sum in units of 1/`one`, which is a power of two: rounded, level-shifted by 128 (T.81, A.3.1), clipped.
#[inline]
fn sample(sum: i32, one: i32) -> u8 {
    let level = sum.wrapping_add(one / 2) >> one.trailing_zeros();
    u8::try_from(level.wrapping_add(128).clamp(0, 255)).unwrap_or(0)
}

/// The basis function number `wave` of `side` samples at sample `at`, in units of 1/8192:
/// `cos((2·at + 1)·wave·π / 2·side) / 2`, for number 0 divided by √2.
fn basis(side: u32, wave: u32, at: u32) -> i32 {
    if wave == 0 {
        return FLAT;
    }
    // In units of π/64.
    let angle = (2 * at + 1) * wave * (32 / side) % 128;
    let quarter = |angle: u32| COSINES.get(usize::try_from(angle).unwrap_or(0)).copied().unwrap_or(0);
    match angle {
        0..=32 => quarter(angle),
        33..=64 => -quarter(64 - angle),
        65..=96 => -quarter(angle - 64),
        _ => quarter(128 - angle),
    }
}

/// 1 in the tables.
const ONE: i32 = 8192;
/// √(1/8).
const FLAT: i32 = 2896;
/// Bits dropped between the two passes, so that the second one does not overflow.
const DROPPED: u32 = 10;
/// Fractional bits that remain between the passes.
const LEFT: u32 = 13 - DROPPED;
/// Rounds the bits that are dropped.
const ROUND: i32 = 1 << (DROPPED - 1);
/// Half the cosine of 0 to π/2 in steps of π/64, in units of 1/8192.
const COSINES: [i32; 33] = [
    4096, 4091, 4076, 4052, 4017, 3973, 3920, 3857, 3784, 3703, 3612, 3513, 3406, 3290, 3166, 3035, 2896,
    2751, 2598, 2440, 2276, 2106, 1931, 1751, 1567, 1380, 1189, 995, 799, 601, 401, 201, 0,
];
