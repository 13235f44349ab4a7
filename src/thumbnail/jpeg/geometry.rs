//! The positions and sizes of blocks.
//!
//! Owns the arithmetic of sampling factors (T.81, A.1 and A.2). Refuses to know samples. A subsampled component is
//! transformed to larger blocks, so that all components have the resolution of the result without another step.

use super::headers::{JpegInfo, Scan};

/// The blocks of a file at a fraction of its size.
#[derive(Debug)]
pub(super) struct Geometry {
    /// Width and height of the result, in pixels.
    pub(super) size: (u32, u32),
    /// MCUs across the picture.
    pub(super) mcu_columns: u32,
    /// MCUs down the picture.
    pub(super) mcu_rows: u32,
    /// Rows of the result in a row of MCUs.
    pub(super) strip_rows: u32,
    components: Vec<Blocks>,
}

/// The blocks of a component.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Blocks across an MCU.
    pub(super) across: u32,
    /// Blocks down an MCU.
    pub(super) down: u32,
    /// Samples across a transformed block: 1, 2, 4, 8, 16 or 32.
    pub(super) width: u32,
    /// Samples down a transformed block: 1, 2, 4, 8, 16 or 32.
    pub(super) height: u32,
    /// Blocks across the picture, rounded up to whole MCUs.
    pub(super) columns: u32,
    /// Blocks down the picture, rounded up to whole MCUs.
    pub(super) rows: u32,
    /// Blocks across the picture in scans of this component alone, which have no MCUs of several blocks.
    own_columns: u32,
    /// Blocks down the picture in such scans.
    own_rows: u32,
    /// The index of its quantisation table.
    pub(super) quantization: usize,
    /// Set if the subsampling ratio is no power of two, so that samples are scaled after the transform. Across and down: how
    /// many samples of the result correspond to how many of the component.
    pub(super) stretch: Option<[(u32, u32); 2]>,
}

/// The number of MCUs of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) columns: u32,
    pub(super) rows: u32,
}

impl Blocks {
    /// How many horizontal and vertical frequencies can be seen in the result.
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
            // Ratios such as 3 are rare, so nearest neighbour is good enough for them.
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

    pub(super) fn components(&self) -> &[Blocks] {
        &self.components
    }

    /// Bytes of a row of MCUs, all components.
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

    /// The MCUs of a scan. In a scan of one component, each of its own blocks is an MCU (T.81, A.2.2).
    pub(super) fn scan_grid(&self, scan: &Scan) -> Grid {
        match scan.parts.as_slice() {
            [part] => match self.components.get(part.component) {
                Some(blocks) => Grid { columns: blocks.own_columns, rows: blocks.own_rows },
                None => Grid { columns: 0, rows: 0 },
            },
            _ => Grid { columns: self.mcu_columns, rows: self.mcu_rows },
        }
    }

    /// The indices of a component's blocks in an MCU of a scan, in their order.
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
