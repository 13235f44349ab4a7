//! The file of a still result: JPEG or PNG.
//!
//! Owns the choice between the two and their settings. Refuses to know the original beyond its format: no metadata of it
//! reaches a thumbnail.

use jpeg_encoder::{Encoder as JpegEncoder, ImageBuffer, JpegColorType, SamplingFactor, rgb_to_ycbcr};
use png::{BitDepth, ColorType as PngColor, Compression, Encoder as PngEncoder};

use super::ThumbnailError;
use super::pixels::{Layout, Pixels};
use super::probe::Format;

/// A thumbnail's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// `image/jpeg`, `image/png` or `image/webp`.
    pub(crate) content_type: &'static str,
    /// For a file name, without the dot.
    pub(crate) extension: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// In pixels.
    pub(crate) width: u32,
    /// In pixels.
    pub(crate) height: u32,
    /// Whether the source is truncated, so that a part of the picture is missing.
    pub(crate) is_partial: bool,
}

/// Encodes a result. Transparent ones become PNG. Opaque ones from a lossless format that drawings use (PNG, GIF, BMP)
/// become PNG up to [`ALWAYS_PNG`] pixels, and above that if the PNG has at most [`PNG_WORTH`] times the bytes of the JPEG:
/// this keeps screenshots and pictures of few colours sharp. All others become JPEG.
pub(super) fn encode(pixels: Pixels, source: Format) -> Result<Rendered, ThumbnailError> {
    let pixels = drop_full_alpha(pixels);
    if pixels.layout.has_alpha() || pixels.width.max(pixels.height) > u32::from(u16::MAX) {
        return Ok(rendered(&pixels, "image/png", "png", png(&pixels)?));
    }
    let is_drawing = matches!(source, Format::Png | Format::Gif | Format::Bmp);
    if is_drawing && pixels.width.saturating_mul(pixels.height) <= ALWAYS_PNG {
        return Ok(rendered(&pixels, "image/png", "png", png(&pixels)?));
    }
    let photograph = jpeg(&pixels)?;
    if is_drawing {
        let drawing = png(&pixels)?;
        if drawing.len() <= photograph.len().saturating_mul(PNG_WORTH) {
            return Ok(rendered(&pixels, "image/png", "png", drawing));
        }
    }
    Ok(rendered(&pixels, "image/jpeg", "jpg", photograph))
}

fn rendered(
    pixels: &Pixels,
    content_type: &'static str,
    extension: &'static str,
    bytes: Vec<u8>,
) -> Rendered {
    let (width, height) = (pixels.width, pixels.height);
    Rendered { content_type, extension, bytes, width, height, is_partial: false }
}

/// Removes the alpha channel if every pixel is opaque.
fn drop_full_alpha(pixels: Pixels) -> Pixels {
    let opaque = |channels: usize| {
        pixels.data.chunks_exact(channels).all(|pixel| pixel.last().is_some_and(|alpha| *alpha == u8::MAX))
    };
    match pixels.layout {
        Layout::GreyAlpha if opaque(2) => {
            let data = pixels.data.as_chunks::<2>().0.iter().map(|[grey, _]| *grey).collect();
            Pixels { layout: Layout::Grey, data, ..pixels }
        }
        Layout::Rgba if opaque(4) => {
            let data = pixels.data.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect();
            Pixels { layout: Layout::Rgb, data, ..pixels }
        }
        Layout::Grey | Layout::GreyAlpha | Layout::Rgb | Layout::Rgba | Layout::Cmyk => pixels,
    }
}

/// A JPEG of quality [`QUALITY`], its chroma at half the resolution both ways (4:2:0).
fn jpeg(pixels: &Pixels) -> Result<Vec<u8>, ThumbnailError> {
    let side = |length: u32| u16::try_from(length).map_err(ThumbnailError::broken);
    let (width, height) = (side(pixels.width)?, side(pixels.height)?);
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new(&mut bytes, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode_image(JpegSource { pixels, width, height }).map_err(ThumbnailError::broken)?;
    Ok(bytes)
}

/// A picture, grey or RGB, as the JPEG encoder reads it. The encoder's own `encode` compiles the whole encoder for nine colour
/// types; this compiles it once.
struct JpegSource<'a> {
    pixels: &'a Pixels,
    width: u16,
    height: u16,
}

impl ImageBuffer for JpegSource<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        if self.pixels.layout == Layout::Grey { JpegColorType::Luma } else { JpegColorType::Ycbcr }
    }

    fn width(&self) -> u16 {
        self.width
    }

    fn height(&self) -> u16 {
        self.height
    }

    fn fill_buffers(&self, y: u16, [luma, blue, red, _]: &mut [Vec<u8>; 4]) {
        let row_bytes = usize::from(self.width).saturating_mul(self.pixels.layout.channels()).max(1);
        let row = self.pixels.data.chunks_exact(row_bytes).nth(y.into()).unwrap_or_default();
        if self.pixels.layout == Layout::Grey {
            luma.extend_from_slice(row);
            return;
        }
        let (pixels, _) = row.as_chunks::<3>();
        let (groups, rest) = pixels.as_chunks::<16>();
        // Groups of a fixed size, which the compiler turns into SIMD.
        for group in groups {
            let converted = group.map(|[r, g, b]| rgb_to_ycbcr(r, g, b));
            luma.extend_from_slice(&converted.map(|(y, ..)| y));
            blue.extend_from_slice(&converted.map(|(_, cb, _)| cb));
            red.extend_from_slice(&converted.map(|(.., cr)| cr));
        }
        for [r, g, b] in rest {
            let (y, cb, cr) = rgb_to_ycbcr(*r, *g, *b);
            luma.push(y);
            blue.push(cb);
            red.push(cr);
        }
    }
}

/// A PNG of 8 bits a channel.
fn png(pixels: &Pixels) -> Result<Vec<u8>, ThumbnailError> {
    let color = match pixels.layout {
        Layout::Grey => PngColor::Grayscale,
        Layout::GreyAlpha => PngColor::GrayscaleAlpha,
        Layout::Rgb => PngColor::Rgb,
        Layout::Rgba | Layout::Cmyk => PngColor::Rgba,
    };
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new(&mut bytes, pixels.width, pixels.height);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    let mut writer = encoder.write_header().map_err(ThumbnailError::broken)?;
    writer.write_image_data(&pixels.data).map_err(ThumbnailError::broken)?;
    writer.finish().map_err(ThumbnailError::broken)?;
    Ok(bytes)
}

/// Synapse's value.
const QUALITY: u8 = 80;
/// Pixels up to which a PNG's thumbnail is always PNG, as clients and the tests of other servers expect: enough to cover
/// 320 × 240 with a picture up to twice as wide as high.
const ALWAYS_PNG: u32 = 2 * 320 * 240;
/// By how many times a PNG may exceed the JPEG for the sake of sharp edges.
const PNG_WORTH: usize = 2;
