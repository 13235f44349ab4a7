//! The headers of Windows and OS/2 bitmaps
//! ([BITMAPV5HEADER](https://learn.microsoft.com/en-us/windows/win32/api/wingdi/ns-wingdi-bitmapv5header)).

use std::io::{Read as _, Seek as _, SeekFrom};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::{Format, Header, Storage, bytes, skip};

/// What the headers say.
#[derive(Debug)]
pub(in crate::thumbnail) struct Bitmap {
    /// Columns.
    pub(in crate::thumbnail) width: u32,
    /// Rows.
    pub(in crate::thumbnail) height: u32,
    /// Whether the first row is the upper one.
    pub(in crate::thumbnail) is_top_down: bool,
    /// Bits of a pixel: 1, 2, 4, 8, 16, 24 or 32.
    pub(in crate::thumbnail) bits: u32,
    /// Whether runs of equal pixels are packed.
    pub(in crate::thumbnail) is_packed: bool,
    /// Where pixels begin.
    pub(in crate::thumbnail) start: u64,
    /// Which bits of a pixel are red, green, blue and alpha.
    pub(in crate::thumbnail) masks: [u32; 4],
    /// Red, green and blue by index.
    pub(in crate::thumbnail) palette: Vec<[u8; 3]>,
}

impl Bitmap {
    /// Reads the headers and the palette.
    pub(in crate::thumbnail) fn read(input: &mut Input<'_>) -> Result<Self, ThumbnailError> {
        input.seek(SeekFrom::Start(10))?;
        let start = u32::from_le_bytes(bytes(input)?);
        let size = u32::from_le_bytes(bytes(input)?);
        let mut fields = Vec::new();
        input.by_ref().take(u64::from(size.clamp(4, LARGEST)).saturating_sub(4)).read_to_end(&mut fields)?;
        let long = |at: usize| {
            fields
                .get(at..)
                .and_then(|rest| rest.first_chunk::<4>())
                .map_or(0, |four| u32::from_le_bytes(*four))
        };
        let word = |at: usize| {
            fields
                .get(at..)
                .and_then(|rest| rest.first_chunk::<2>())
                .map_or(0, |two| u16::from_le_bytes(*two))
        };
        let is_core = size == CORE;
        let (width, height, bits, packing, used) = if is_core {
            (word(0).into(), i32::from(word(2)), word(6), 0, 0)
        } else {
            // OS/2 cuts the header short: what lacks is 0.
            (long(0), long(4).cast_signed(), word(10), long(12), long(28))
        };
        if width > i32::MAX.unsigned_abs() {
            return Err(ThumbnailError::broken("a width below 0"));
        }
        let bits = u32::from(bits);
        let is_packed = match (packing, bits) {
            (PLAIN, 1 | 2 | 4 | 8 | 16 | 24 | 32) | (BITFIELDS | ALPHA_BITFIELDS, 16 | 32) => false,
            (RLE8, 8) | (RLE4, 4) => true,
            // JPEG, PNG, and OS/2's.
            (3..=5, _) => return Err(ThumbnailError::Unsupported("BMP of this kind")),
            _ => return Err(ThumbnailError::broken("no such kind of bitmap")),
        };
        let mut masks = if bits == 16 { [0x7c00, 0x3e0, 0x1f, 0] } else { [0xff_0000, 0xff00, 0xff, 0] };
        if matches!(packing, BITFIELDS | ALPHA_BITFIELDS) {
            if size <= INFO {
                // Behind the header.
                let count = if packing == ALPHA_BITFIELDS { 4 } else { 3 };
                for mask in masks.iter_mut().take(count) {
                    *mask = u32::from_le_bytes(bytes(input)?);
                }
            } else {
                masks = [long(36), long(40), long(44), if size >= WITH_ALPHA { long(48) } else { 0 }];
            }
        }
        let palette = if bits <= 8 { palette(input, bits, used, is_core)? } else { Vec::new() };
        let (height, is_top_down) = (height.unsigned_abs(), height < 0);
        Ok(Self { width, height, is_top_down, bits, is_packed, start: start.into(), masks, palette })
    }

    /// Bytes of a row, which ends at a multiple of four.
    pub(in crate::thumbnail) fn stride(&self) -> u64 {
        u64::from(self.width).saturating_mul(self.bits.into()).div_ceil(32).saturating_mul(4)
    }
}

/// A bitmap's header.
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    let bitmap = Bitmap::read(input)?;
    // Some rows as they are stored and one as pixels. Packed, every index and whether it is there.
    let rows =
        bitmap.stride().saturating_add(u64::from(bitmap.width).saturating_mul(4)).saturating_add(1 << 18);
    let pixels = u64::from(bitmap.width).saturating_mul(bitmap.height.into());
    let held = if bitmap.is_packed { rows.saturating_add(pixels.saturating_mul(2)) } else { rows };
    Header::new(Format::Bmp, (bitmap.width, bitmap.height), Storage::Rows { held })
}

/// The colours behind the header.
fn palette(
    input: &mut Input<'_>,
    bits: u32,
    used: u32,
    is_core: bool,
) -> Result<Vec<[u8; 3]>, ThumbnailError> {
    let most = 1_u32.wrapping_shl(bits);
    let count = if used == 0 { most } else { used.min(most) };
    let mut palette = Vec::new();
    for _ in 0..count {
        let [blue, green, red] = bytes(input)?;
        palette.push([red, green, blue]);
        if !is_core {
            skip(input, 1)?;
        }
    }
    Ok(palette)
}

/// Bytes of OS/2's first header.
const CORE: u32 = 12;
/// Bytes of the common header.
const INFO: u32 = 40;
/// Bytes of the first header with a mask of alpha.
const WITH_ALPHA: u32 = 56;
/// Bytes of the header, at most: `BITMAPV5HEADER`.
const LARGEST: u32 = 124;
/// Packing: none.
const PLAIN: u32 = 0;
/// Packing: runs of bytes.
const RLE8: u32 = 1;
/// Packing: runs of half bytes.
const RLE4: u32 = 2;
/// Packing: none, channels where masks say.
const BITFIELDS: u32 = 3;
/// Packing: the same with alpha.
const ALPHA_BITFIELDS: u32 = 6;
