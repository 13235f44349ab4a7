//! The header of a Windows or OS/2 bitmap
//! ([BITMAPV5HEADER](https://learn.microsoft.com/en-us/windows/win32/api/wingdi/ns-wingdi-bitmapv5header)).
//!
//! Owns the fields of all header versions and the palette. Refuses to decode pixels.

use std::io::{Read as _, Seek as _, SeekFrom};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::{Format, Header, Storage, bytes, skip};

/// The fields of the headers, and the palette.
#[derive(Debug)]
pub(in crate::thumbnail) struct Bitmap {
    pub(in crate::thumbnail) width: u32,
    pub(in crate::thumbnail) height: u32,
    /// Whether the top row is stored first; most files store the bottom row first.
    pub(in crate::thumbnail) is_top_down: bool,
    /// Bits per pixel: 1, 2, 4, 8, 16, 24 or 32.
    pub(in crate::thumbnail) bits: u32,
    /// Whether the pixels are run-length encoded.
    pub(in crate::thumbnail) is_rle: bool,
    /// Offset of the pixels in the file.
    pub(in crate::thumbnail) pixel_offset: u64,
    /// Which bits of a pixel are red, green, blue and alpha.
    pub(in crate::thumbnail) masks: [u32; 4],
    /// RGB by index.
    pub(in crate::thumbnail) palette: Vec<[u8; 3]>,
}

impl Bitmap {
    /// Reads the headers and the palette.
    ///
    /// # Errors
    /// `Unsupported` for embedded JPEG and PNG and the compressions of OS/2, `Broken` for unknown ones.
    pub(in crate::thumbnail) fn read(input: &mut Input<'_>) -> Result<Self, ThumbnailError> {
        input.seek(SeekFrom::Start(10))?;
        let pixel_offset = u32::from_le_bytes(bytes(input)?);
        let size = u32::from_le_bytes(bytes(input)?);
        let mut fields = Vec::new();
        input
            .by_ref()
            .take(u64::from(size.clamp(4, V5_HEADER)).saturating_sub(4))
            .read_to_end(&mut fields)?;
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
        let is_core = size == CORE_HEADER;
        let (width, height, bits, compression, used) = if is_core {
            (word(0).into(), i32::from(word(2)), word(6), 0, 0)
        } else {
            // OS/2 allows a shorter header, whose missing fields are 0.
            (long(0), long(4).cast_signed(), word(10), long(12), long(28))
        };
        if width > i32::MAX.unsigned_abs() {
            return Err(ThumbnailError::broken("a width below 0"));
        }
        let bits = u32::from(bits);
        let is_rle = match (compression, bits) {
            (BI_RGB, 1 | 2 | 4 | 8 | 16 | 24 | 32) | (BI_BITFIELDS | BI_ALPHABITFIELDS, 16 | 32) => false,
            (BI_RLE8, 8) | (BI_RLE4, 4) => true,
            // Huffman (OS/2), JPEG, PNG.
            (3..=5, _) => return Err(ThumbnailError::Unsupported("BMP of this kind")),
            _ => return Err(ThumbnailError::broken("unknown compression of a bitmap")),
        };
        let mut masks = if bits == 16 { [0x7c00, 0x3e0, 0x1f, 0] } else { [0xff_0000, 0xff00, 0xff, 0] };
        if matches!(compression, BI_BITFIELDS | BI_ALPHABITFIELDS) {
            if size <= INFO_HEADER {
                // The masks follow the header.
                let count = if compression == BI_ALPHABITFIELDS { 4 } else { 3 };
                for mask in masks.iter_mut().take(count) {
                    *mask = u32::from_le_bytes(bytes(input)?);
                }
            } else {
                masks = [long(36), long(40), long(44), if size >= ALPHA_MASK_HEADER { long(48) } else { 0 }];
            }
        }
        let palette = if bits <= 8 { palette(input, bits, used, is_core)? } else { Vec::new() };
        let (height, is_top_down) = (height.unsigned_abs(), height < 0);
        Ok(Self {
            width,
            height,
            is_top_down,
            bits,
            is_rle,
            pixel_offset: pixel_offset.into(),
            masks,
            palette,
        })
    }

    /// Bytes of a stored row, padded to a multiple of four.
    pub(in crate::thumbnail) fn stride(&self) -> u64 {
        u64::from(self.width).saturating_mul(self.bits.into()).div_ceil(32).saturating_mul(4)
    }
}

pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    let bitmap = Bitmap::read(input)?;
    // A block of stored rows and one row of pixels. Of run-length encoded pixels also an index and a flag each.
    let rows =
        bitmap.stride().saturating_add(u64::from(bitmap.width).saturating_mul(4)).saturating_add(1 << 18);
    let pixels = u64::from(bitmap.width).saturating_mul(bitmap.height.into());
    let held = if bitmap.is_rle { rows.saturating_add(pixels.saturating_mul(2)) } else { rows };
    Header::new(Format::Bmp, (bitmap.width, bitmap.height), Storage::Rows { held })
}

/// Reads the palette, which follows the header.
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

/// Bytes of `BITMAPCOREHEADER`.
const CORE_HEADER: u32 = 12;
/// Bytes of `BITMAPINFOHEADER`.
const INFO_HEADER: u32 = 40;
/// Bytes of `BITMAPV3INFOHEADER`, the first with an alpha mask.
const ALPHA_MASK_HEADER: u32 = 56;
/// Bytes of `BITMAPV5HEADER`, the largest.
const V5_HEADER: u32 = 124;
/// Not compressed.
const BI_RGB: u32 = 0;
/// Runs of 8-bit indices.
const BI_RLE8: u32 = 1;
/// Runs of 4-bit indices.
const BI_RLE4: u32 = 2;
/// Not compressed, with masks for red, green and blue.
const BI_BITFIELDS: u32 = 3;
/// Not compressed, with masks for red, green, blue and alpha.
const BI_ALPHABITFIELDS: u32 = 6;
