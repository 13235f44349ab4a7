//! Where blocks lie and how large they come out.
//!
//! Owns the arithmetic of sampling factors (T.81, A.1 and A.2). A component that was stored with fewer samples is
//! transformed to larger blocks, so that all components come out at one size and nothing has to be stretched.

use super::headers::{JpegInfo, Scan};

/// A file's blocks at a fraction of its size.
#[derive(Debug)]
pub(super) struct Geometry {
    /// Columns and rows of the result.
    pub(super) size: (u32, u32),
    /// Units across the picture.
    pub(super) mcu_columns: u32,
    /// Units down the picture.
    pub(super) mcu_rows: u32,
    /// Rows of the result in a row of units.
    pub(super) strip_rows: u32,
    /// What there is of each component.
    components: Vec<Blocks>,
}

/// The blocks of one component.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Blocks across a unit.
    pub(super) across: u32,
    /// Blocks down a unit.
    pub(super) down: u32,
    /// Samples across a block of the result: 1, 2, 4, 8, 16 or 32.
    pub(super) width: u32,
    /// Samples down a block of the result, likewise.
    pub(super) height: u32,
    /// Blocks across the picture, to whole units.
    pub(super) columns: u32,
    /// Blocks down the picture, to whole units.
    pub(super) rows: u32,
    /// Blocks across the picture that are its own, for scans of this component alone.
    own_columns: u32,
    /// Blocks down the picture that are its own.
    own_rows: u32,
    /// Which quantisation table is its own.
    pub(super) quantization: usize,
    /// Where blocks cannot be made larger, for the ratio is no power of two: over how many samples of the result how many of
    /// its own are stretched, across and down.
    pub(super) stretch: Option<[(u32, u32); 2]>,
}

/// The units of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Across.
    pub(super) columns: u32,
    /// Down.
    pub(super) rows: u32,
}

impl Blocks {
    /// How many coefficients of a row and of a column can be seen in the result.
    pub(super) fn kept(&self) -> (u32, u32) {
        (self.width.min(8), self.height.min(8))
    }

    /// Blocks in all.
    pub(super) fn count(&self) -> u64 {
        u64::from(self.columns).saturating_mul(u64::from(self.rows))
    }
}

impl Geometry {
    /// At `1 / divisor` of the size; `divisor` is 1, 2, 4 or 8.
    pub(super) fn new(info: &JpegInfo, divisor: u32) -> Self {
        let frame = &info.frame;
        let block = 8_u32.checked_div(divisor).filter(|side| *side > 0).unwrap_or(1);
        let most = |factor: fn(&super::headers::Component) -> u32| {
            frame.components().iter().map(factor).max().unwrap_or(1)
        };
        let (most_across, most_down) = (most(|component| component.across), most(|component| component.down));
        let unit = |blocks: u32| blocks.saturating_mul(8);
        let (mcu_columns, mcu_rows) =
            (frame.width.div_ceil(unit(most_across)), frame.height.div_ceil(unit(most_down)));
        let mut components = Vec::new();
        for component in frame.components() {
            let ratio = |most: u32, own: u32| {
                let ratio = most.checked_div(own).filter(|ratio| ratio.is_power_of_two())?;
                (ratio.saturating_mul(own) == most).then_some(ratio)
            };
            let ratios = (ratio(most_across, component.across), ratio(most_down, component.down));
            // Thirds are rare, and stretched by the nearest sample.
            let (across, down, stretch) = match ratios {
                (Some(across), Some(down)) => (across, down, None),
                _ => (1, 1, Some([(most_across, component.across), (most_down, component.down)])),
            };
            let own = |length: u32, factor: u32, most: u32| {
                length.saturating_mul(factor).div_ceil(most.max(1)).div_ceil(8)
            };
            components.push(Blocks {
                across: component.across,
                down: component.down,
                width: across.saturating_mul(block),
                height: down.saturating_mul(block),
                columns: mcu_columns.saturating_mul(component.across),
                rows: mcu_rows.saturating_mul(component.down),
                own_columns: own(frame.width, component.across, most_across),
                own_rows: own(frame.height, component.down, most_down),
                quantization: usize::from(component.quantization),
                stretch,
            });
        }
        let reduced = |length: u32| length.div_ceil(divisor.max(1));
        let size = (reduced(frame.width), reduced(frame.height));
        Self { size, mcu_columns, mcu_rows, strip_rows: most_down.saturating_mul(block), components }
    }

    /// The components.
    pub(super) fn components(&self) -> &[Blocks] {
        &self.components
    }

    /// Bytes of one row of units, all components.
    pub(super) fn strip_bytes(&self) -> u64 {
        let bytes = |blocks: &Blocks| {
            let row = u64::from(blocks.columns).saturating_mul(blocks.width.into());
            let own = row.saturating_mul(u64::from(blocks.down).saturating_mul(blocks.height.into()));
            let stretched =
                blocks.stretch.map_or(0, |[(across, _), (down, _)]| across.saturating_mul(down).into());
            own.saturating_mul(stretched.max(1)).saturating_add(own)
        };
        self.components.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// The units of a scan: of several components the frame's, of one its own blocks (T.81, A.2.2).
    pub(super) fn scan_grid(&self, scan: &Scan) -> Grid {
        match scan.parts.as_slice() {
            [part] => match self.components.get(part.component) {
                Some(blocks) => Grid { columns: blocks.own_columns, rows: blocks.own_rows },
                None => Grid { columns: 0, rows: 0 },
            },
            _ => Grid { columns: self.mcu_columns, rows: self.mcu_rows },
        }
    }

    /// The places of a component's blocks in one unit of a scan, in order.
    pub(super) fn blocks_of(
        &self,
        scan: &Scan,
        component: usize,
        (column, row): (u32, u32),
    ) -> impl Iterator<Item = usize> + use<> {
        let alone = scan.parts.len() == 1;
        let blocks = self.components.get(component).copied();
        let (across, down, columns) = match blocks {
            Some(blocks) if alone => (1, 1, blocks.columns),
            Some(blocks) => (blocks.across, blocks.down, blocks.columns),
            None => (0, 0, 0),
        };
        (0..down).flat_map(move |y| {
            (0..across).map(move |x| {
                let row = row.wrapping_mul(down).wrapping_add(y);
                let at = row.wrapping_mul(columns).wrapping_add(column.wrapping_mul(across)).wrapping_add(x);
                usize::try_from(at).unwrap_or(usize::MAX)
            })
        })
    }
}
