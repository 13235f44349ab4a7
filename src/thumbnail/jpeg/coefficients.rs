//! The coefficients of a file with several scans, kept until the last one.
//!
//! Owns their memory: of each block the coefficients that can be seen in the result, and for each of the 64 a bit that says
//! whether it is 0, which refining scans depend on. Refuses to know codes.

use super::ThumbnailError;
use super::blocks::{Places, ZIGZAG, places};
use super::colors::{Colors, Strips};
use super::geometry::{Blocks, Geometry};
use super::headers::{Headers, Scan};

/// The coefficients of all components.
pub(super) struct Coefficients {
    components: Vec<Kept>,
}

/// The coefficients of a component.
struct Kept {
    /// Block after block, `each` values of every block.
    values: Vec<i16>,
    /// Coefficients kept of a block.
    each: usize,
    /// For each block, which coefficients are not 0: in zigzag order from the lowest bit on.
    set: Vec<u64>,
    places: Places,
    /// The quantisation table in zigzag order, known from the component's first scan on.
    divisors: Option<[u16; 64]>,
}

pub(super) struct Block<'a> {
    values: &'a mut [i16],
    /// Which coefficients are not 0.
    set: &'a mut u64,
    places: &'a Places,
}

impl Coefficients {
    /// All coefficients are 0.
    pub(super) fn new(geometry: &Geometry) -> Self {
        let kept = |blocks: &Blocks| {
            let count = usize::try_from(blocks.count()).unwrap_or(0);
            let each = usize::try_from(each(blocks)).unwrap_or(0);
            Kept {
                values: vec![0; count.saturating_mul(each)],
                each,
                set: vec![0; count],
                places: places(blocks.kept(), blocks.kept().0),
                divisors: None,
            }
        };
        Self { components: geometry.components().iter().map(kept).collect() }
    }

    /// Bytes that [`Self::new`] allocates.
    pub(super) fn bytes(geometry: &Geometry) -> u64 {
        let bytes = |blocks: &Blocks| {
            blocks.count().saturating_mul(u64::from(each(blocks)).saturating_mul(2).saturating_add(8))
        };
        geometry.components().iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Keeps the quantisation tables of components whose first scan this is, since files may redefine tables between scans.
    ///
    /// # Errors
    /// `Broken` if a table is missing.
    pub(super) fn take_divisors(
        &mut self,
        geometry: &Geometry,
        headers: &Headers,
        scan: &Scan,
    ) -> Result<(), ThumbnailError> {
        for part in &scan.parts {
            let (Some(kept), Some(blocks)) =
                (self.components.get_mut(part.component), geometry.components().get(part.component))
            else {
                continue;
            };
            if kept.divisors.is_none() {
                let table = headers.tables.quantization.get(blocks.quantization).copied().flatten();
                kept.divisors = Some(table.ok_or_else(|| ThumbnailError::broken("a table is missing"))?);
            }
        }
        Ok(())
    }

    pub(super) fn block(&mut self, component: usize, at: usize) -> Option<Block<'_>> {
        let kept = self.components.get_mut(component)?;
        let start = at.checked_mul(kept.each)?;
        let values = kept.values.get_mut(start..start.checked_add(kept.each)?)?;
        Some(Block { values, set: kept.set.get_mut(at)?, places: &kept.places })
    }

    /// Transforms all coefficients and converts them to pixels.
    pub(super) fn render(&self, geometry: &Geometry, colors: &mut Colors) {
        let mut strips = Strips::new(geometry);
        for unit in 0..geometry.mcu_rows {
            for (index, (kept, blocks)) in self.components.iter().zip(geometry.components()).enumerate() {
                for row in 0..blocks.down {
                    let line = u64::from(unit).saturating_mul(blocks.down.into()).saturating_add(row.into());
                    let first =
                        usize::try_from(line.saturating_mul(blocks.columns.into())).unwrap_or(usize::MAX);
                    for (at, column) in (first..).zip(0..blocks.columns) {
                        strips.put((index, column, row), &kept.values(at));
                    }
                }
            }
            colors.push(&mut strips);
        }
    }
}

impl Kept {
    /// The dequantised coefficients of a block, in rows of eight.
    fn values(&self, at: usize) -> [i32; 64] {
        let mut values = [0; 64];
        let stored = self.values.chunks_exact(self.each.max(1)).nth(at).unwrap_or_default();
        let divisors = self.divisors.as_ref().unwrap_or(&[0; 64]);
        for ((place, natural), divisor) in self.places.iter().zip(ZIGZAG).zip(divisors) {
            let from = stored.get(usize::from(*place)).copied();
            if let (Some(value), Some(to)) = (from, values.get_mut(usize::from(natural))) {
                *to = i32::from(value).wrapping_mul(i32::from(*divisor));
            }
        }
        values
    }
}

impl Block<'_> {
    /// Whether a coefficient is known not to be 0.
    #[inline]
    pub(super) fn is_set(&self, at: usize) -> bool {
        self.set.wrapping_shr(shift(at)) & 1 == 1
    }

    /// The coefficients of a band that are not 0.
    pub(super) fn set_within(&self, first: usize, last: usize) -> impl Iterator<Item = usize> + use<> {
        let above = if first > 63 { 0 } else { u64::MAX.wrapping_shl(shift(first)) };
        let mut rest = *self.set & above & u64::MAX.wrapping_shr(63_u32.saturating_sub(shift(last)));
        std::iter::from_fn(move || {
            let at = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            usize::try_from(at).ok().filter(|at| *at < 64)
        })
    }

    /// Sets a coefficient.
    #[inline]
    pub(super) fn set(&mut self, at: usize, value: i32) {
        if at > 63 {
            return;
        }
        *self.set |= 1_u64.wrapping_shl(shift(at));
        if let Some(to) = self.place(at) {
            *to = i16::try_from(value).unwrap_or(0);
        }
    }

    /// Adds a lower bit, away from 0, unless it is already set.
    #[inline]
    pub(super) fn refine(&mut self, at: usize, bit: i32) {
        if let Some(to) = self.place(at) {
            let value = i32::from(*to);
            if value & bit == 0 {
                let refined =
                    if value < 0 && at > 0 { value.wrapping_sub(bit) } else { value.wrapping_add(bit) };
                *to = i16::try_from(refined).unwrap_or(0);
            }
        }
    }

    /// `None` for a coefficient that is not kept.
    #[inline]
    fn place(&mut self, at: usize) -> Option<&mut i16> {
        self.values.get_mut(usize::from(*self.places.get(at)?))
    }
}

/// Coefficients kept of a block.
fn each(blocks: &Blocks) -> u32 {
    let (columns, rows) = blocks.kept();
    columns.saturating_mul(rows)
}

#[inline]
fn shift(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(0)
}
