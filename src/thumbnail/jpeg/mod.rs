//! A JPEG decoder (ITU-T T.81) that decodes directly at 1/1, 1/2, 1/4 or 1/8 of the size.
//!
//! Owns the format: segments, Huffman codes, coefficients, the scaled inverse transform, colour spaces. Refuses to know
//! what the picture is for. Written here because `jpeg-decoder`, the library that scales while decoding, keeps all 64
//! coefficients of every block of a progressive file and reads its input a byte at a time, which takes several times the
//! memory and time. Here a block keeps only the coefficients that can be seen at the fraction, and of a sequential file only
//! one row of MCUs and the result are in memory.
//!
//! Supported are baseline, extended sequential and progressive files with Huffman coding, 8 bits a sample and 1, 3 or 4
//! components, interleaved or not. Arithmetic coding, 12 bits, lossless and hierarchical files are refused, as in browsers.
//! Of a damaged or truncated file, everything that can be read is shown.

mod bits;
mod blocks;
mod coefficients;
mod colors;
mod geometry;
mod headers;
mod huffman;
mod scans;
mod standard;
mod transform;

use std::io::BufRead;
use std::time::Instant;

use self::bits::Bits;
use self::coefficients::Coefficients;
use self::colors::Colors;
pub(super) use self::colors::to_rgb;
use self::geometry::Geometry;
use self::headers::ColorSpace;
use self::headers::Headers;
pub(super) use self::headers::JpegInfo;
use self::scans::Coverage;
use super::ThumbnailError;

/// A decoded picture, as stored, before orientation.
#[derive(Debug)]
pub(super) struct Picture {
    /// The file's width, divided and rounded up.
    pub(super) width: u32,
    /// The file's height, divided and rounded up.
    pub(super) height: u32,
    /// 1: grey; 3: RGB; 4: CMYK, where 0 is no ink. From [`decode_part`], whatever the TIFF says.
    pub(super) channels: usize,
    /// Interleaved pixels, rows from the top.
    pub(super) data: Vec<u8>,
    pub(super) icc: Option<Vec<u8>>,
    /// Whether a part of it could not be read.
    pub(super) is_partial: bool,
}

/// Reads the segments up to the first scan. Returns what is known of the file, and its EXIF block.
///
/// # Errors
/// `Broken`, `Unsupported`, or `TooLarge` for the colour profile.
pub(super) fn probe(input: &mut dyn BufRead) -> Result<(JpegInfo, Option<Vec<u8>>), ThumbnailError> {
    let (headers, scan) = Headers::read(input, &[])?;
    headers.color_space()?;
    Ok((headers.info(&scan)?, headers.exif))
}

/// Decodes at `1 / divisor` of the size; `divisor` is 1, 2, 4 or 8.
///
/// # Errors
/// Those of [`probe`], `Broken` if too little of the picture can be read, `TooLarge` for too many scans, `Timeout` past the
/// deadline.
pub(super) fn decode(
    mut input: impl BufRead,
    divisor: u32,
    deadline: Option<Instant>,
) -> Result<Picture, ThumbnailError> {
    let (headers, scan) = Headers::read(&mut input, &[])?;
    let space = headers.color_space()?;
    decode_scans(Bits::new(input, deadline), headers, scan, space, divisor)
}

/// Decodes a chunk of a TIFF at full size, in at most `most` bytes. `tables` may hold its tables as a JPEG without a picture.
/// Samples are not converted, since the TIFF says what they mean.
///
/// # Errors
/// `Broken`, also above `most` bytes, or `Unsupported`.
pub(super) fn decode_part(
    input: &mut dyn BufRead,
    tables: &[u8],
    most: u64,
) -> Result<Picture, ThumbnailError> {
    let (headers, scan) = Headers::read(input, tables)?;
    let info = headers.info(&scan)?;
    if estimate(&info, 1) > most {
        return Err(ThumbnailError::broken("a JPEG that does not fit its place"));
    }
    let space = ColorSpace::Raw(info.frame.count);
    decode_scans(Bits::new(input, None), headers, scan, space, 1)
}

/// Decodes all scans, from the first one on.
fn decode_scans(
    mut bits: Bits<impl BufRead>,
    mut headers: Headers,
    scan: headers::Scan,
    space: ColorSpace,
    divisor: u32,
) -> Result<Picture, ThumbnailError> {
    let icc = headers.profile.close();
    let info = headers.info(&scan)?;
    let geometry = Geometry::new(&info, divisor);
    let mut colors = Colors::new(&geometry, space);
    let is_partial = if info.is_buffered() {
        let mut kept = Coefficients::new(&geometry);
        let is_partial = gather(&mut bits, &mut headers, scan, &geometry, &mut kept)?;
        kept.render(&geometry, &mut colors);
        is_partial
    } else {
        let coverage = scans::stream(&mut bits, &headers, &scan, &geometry, &mut colors)?;
        check(coverage)?;
        !coverage.is_complete()
    };
    let (width, height) = geometry.size;
    Ok(Picture { width, height, channels: colors.channels(), data: colors.into_pixels(), icc, is_partial })
}

/// Reads scans up to the last one, or to where the file ends. Returns whether something is missing.
fn gather(
    bits: &mut Bits<impl BufRead>,
    headers: &mut Headers,
    first: headers::Scan,
    geometry: &Geometry,
    kept: &mut Coefficients,
) -> Result<bool, ThumbnailError> {
    let mut is_partial = false;
    let mut next = Some(first);
    let mut scans = 0_u32;
    while let Some(scan) = next {
        scans = scans.saturating_add(1);
        if scans > MAX_SCANS {
            return Err(ThumbnailError::TooLarge("the image takes too long to decode"));
        }
        let outcome = kept
            .take_divisors(geometry, headers, &scan)
            .and_then(|()| scans::read(bits, headers, &scan, geometry, kept));
        match outcome {
            Ok(coverage) => {
                if scans == 1 {
                    check(coverage)?;
                }
                is_partial |= !coverage.is_complete();
            }
            Err(ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_)) if scans > 1 => return Ok(true),
            Err(error) => return Err(error),
        }
        // Without an end marker there may have been more scans.
        let Some(marker) = bits.end_scan()? else { return Ok(true) };
        next = match headers.next_scan(bits.input(), Some(marker)) {
            Err(ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_)) => return Ok(true),
            other => other?,
        };
    }
    Ok(is_partial)
}

/// Refuses a picture of which too little could be read.
fn check(coverage: Coverage) -> Result<(), ThumbnailError> {
    if coverage.is_enough() { Ok(()) } else { Err(ThumbnailError::broken("nothing of it can be read")) }
}

/// Bytes held at the peak of [`decode`], except for the profile.
pub(super) fn estimate(info: &JpegInfo, divisor: u32) -> u64 {
    let geometry = Geometry::new(info, divisor);
    let kept = if info.is_buffered() { Coefficients::bytes(&geometry) } else { 0 };
    let (width, height) = geometry.size;
    let pixels = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(info.channels());
    [kept, pixels, geometry.strip_bytes()].into_iter().fold(0, u64::saturating_add)
}

/// Most scans; encoders write about ten.
const MAX_SCANS: u32 = 100;

#[cfg(test)]
mod tests;
