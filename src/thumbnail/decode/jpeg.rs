//! JPEG, decoded at 1/8, 1/4, 1/2 or 1/1 straight from its coefficients.

use std::io::{BufReader, Read};

use jpeg_decoder::{Decoder, Error, PixelFormat};

use super::super::ThumbnailError;
use super::super::pixels::{Decoded, Layout, Pixels};
use super::super::plan::Job;
use super::super::probe::{Frame, Header};
use super::PLENTY;
use super::hush::Hushed;

/// Decodes at the fraction that [`scale`] says.
pub(super) fn decode(
    input: impl Read,
    header: &Header,
    frame: Frame,
    job: &Job,
) -> Result<Decoded, ThumbnailError> {
    let divisor = scale(header, job);
    let side = |length: u32| u16::try_from(length.div_ceil(divisor)).unwrap_or(u16::MAX);
    let asked = (side(header.width), side(header.height));
    let mut decoder = Decoder::new(BufReader::new(Hushed::new(input, frame.scan)));
    // The decoder takes the least fraction that reaches one of the sides asked for, and all may reach a side of a few
    // pixels: only the longer one is asked for.
    let wide = header.width >= header.height;
    let (across, down) = if wide { (asked.0, u16::MAX) } else { (u16::MAX, asked.1) };
    let (width, height) = decoder.scale(across, down).map_err(from_jpeg)?;
    if (width, height) != asked {
        // The frame header is not the one that was probed, or the decoder counts otherwise: nothing below would fit.
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let mut data = decoder.decode().map_err(from_jpeg)?;
    let info = decoder.info().ok_or_else(|| ThumbnailError::broken("no frame"))?;
    let layout = match info.pixel_format {
        PixelFormat::L8 => Layout::Grey,
        PixelFormat::RGB24 => Layout::Rgb,
        PixelFormat::CMYK32 => Layout::Cmyk,
        PixelFormat::L16 => return Err(ThumbnailError::broken("16 bits a channel")),
    };
    if layout == Layout::Cmyk && !frame.adobe {
        // The decoder takes every four-channel file for one of Adobe's, whose inks are upside down.
        for ink in &mut data {
            *ink = !*ink;
        }
    }
    let icc = decoder.icc_profile();
    let pixels = Pixels { width: width.into(), height: height.into(), layout, data };
    Ok(Decoded { pixels, divisor, icc })
}

/// The fraction to decode at: the smallest that leaves a factor of two to the final filter; of a picture that would
/// still be larger than [`PLENTY`] then, the smallest that leaves 4/3. The transform itself filters, so what is lost
/// there can hardly be seen.
pub(super) fn scale(header: &Header, job: &Job) -> u32 {
    let within = |most: u32| [8, 4, 2].into_iter().find(|divisor| *divisor <= most).unwrap_or(1);
    let double = within(job.factor(2, 1));
    let area = u64::from(double).saturating_mul(u64::from(double)).max(1);
    if header.pixels().div_euclid(area) > PLENTY { within(job.factor(4, 3)) } else { double }
}

/// A failure inside the decoder as ours.
fn from_jpeg(error: Error) -> ThumbnailError {
    match error {
        Error::Io(error) => error.into(),
        Error::Format(_) | Error::Unsupported(_) | Error::Internal(_) => ThumbnailError::broken(error),
    }
}
