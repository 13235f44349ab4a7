//! JPEG (ITU-T T.81), decoded straight to 1/1, 1/2, 1/4 or 1/8 of its size.
//!
//! Owns the format: segments, entropy codes, coefficients, the scaled transform, JPEG's colours. Refuses to know what
//! the picture is for. Of the crates, those that scale while decoding take several times the time or memory: every
//! coefficient of a progressive file is kept, and every one is read a byte at a time. Here a block keeps only the
//! coefficients that its fraction of the size can show, and a sequential file never stands in memory but for a row
//! of blocks and the result.
//!
//! Read are baseline, extended sequential and progressive files of 8 bits a sample with Huffman codes, with 1, 3 or 4
//! components, interleaved or not. Arithmetic codes, 12 bits, lossless and hierarchical files are refused: browsers
//! do not show them either. Of what is damaged or breaks off all is shown that can be read.

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

/// A decoded picture, as it is stored: not yet oriented.
#[derive(Debug)]
pub(super) struct Picture {
    /// Columns: the file's, divided and rounded up.
    pub(super) width: u32,
    /// Rows: the file's, divided and rounded up.
    pub(super) height: u32,
    /// 1: grey; 3: red, green, blue; 4: inks, 0 bare paper. Of a part of a TIFF, whatever that says.
    pub(super) channels: usize,
    /// Pixels, rows from the top.
    pub(super) data: Vec<u8>,
    /// The colour profile.
    pub(super) icc: Option<Vec<u8>>,
    /// Whether some of it could not be read.
    pub(super) is_partial: bool,
}

/// Reads the segments up to the first scan: what the file is, and its EXIF block.
pub(super) fn probe(input: &mut dyn BufRead) -> Result<(JpegInfo, Option<Vec<u8>>), ThumbnailError> {
    let (headers, scan) = Headers::read(input, &[])?;
    headers.color_space()?;
    Ok((headers.info(&scan)?, headers.exif))
}

/// Decodes at `1 / divisor` of the size until `deadline`; `divisor` is 1, 2, 4 or 8.
pub(super) fn decode(
    mut input: impl BufRead,
    divisor: u32,
    deadline: Option<Instant>,
) -> Result<Picture, ThumbnailError> {
    let (headers, scan) = Headers::read(&mut input, &[])?;
    let space = headers.color_space()?;
    decode_scans(Bits::new(input, deadline), (headers, scan), space, divisor)
}

/// Decodes a part of a TIFF, whose tables may stand apart, within so many bytes. Samples stay as they are: what they stand
/// for the TIFF alone says.
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
    decode_scans(Bits::new(input, None), (headers, scan), space, 1)
}

/// Decodes from the first scan on.
fn decode_scans(
    mut bits: Bits<impl BufRead>,
    (mut headers, scan): (Headers, headers::Scan),
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

/// Reads scans up to the last, or to where they break off. Says whether something lacks.
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
        // Without a word of its end it may have had more scans.
        let Some(marker) = bits.end_scan()? else { return Ok(true) };
        next = match headers.next_scan(bits.input(), Some(marker)) {
            Err(ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_)) => return Ok(true),
            other => other?,
        };
    }
    Ok(is_partial)
}

/// Refuses what shows too little.
fn check(coverage: Coverage) -> Result<(), ThumbnailError> {
    if coverage.is_enough() { Ok(()) } else { Err(ThumbnailError::broken("nothing of it can be read")) }
}

/// Bytes held at the peak of [`decode`], but for the profile.
pub(super) fn estimate(info: &JpegInfo, divisor: u32) -> u64 {
    let geometry = Geometry::new(info, divisor);
    let kept = if info.is_buffered() { Coefficients::bytes(&geometry) } else { 0 };
    let (width, height) = geometry.size;
    let pixels = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(info.channels());
    [kept, pixels, geometry.strip_bytes()].into_iter().fold(0, u64::saturating_add)
}

/// Encoders write about ten.
const MAX_SCANS: u32 = 100;

#[cfg(test)]
mod tests;
