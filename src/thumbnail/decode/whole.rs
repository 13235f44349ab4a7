//! The formats that only come whole: GIF, WebP, BMP, TIFF, through `image`.

use std::io::{BufRead, Seek};

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, Limits as ImageLimits};

use super::super::Limits;
use super::super::ThumbnailError;
use super::super::pixels::{Decoded, Layout, Pixels};
use super::super::probe::{Format, Header, from_image};
use super::reduce;

/// Decodes the picture, of an animation its first frame, reduced once for each divisor.
pub(super) fn decode(
    input: impl BufRead + Seek,
    header: &Header,
    divisors: &[u32],
    limits: &Limits,
) -> Result<Vec<Decoded>, ThumbnailError> {
    match header.format {
        Format::Gif => with_image(GifDecoder::new(input), header, divisors, limits),
        Format::WebP => with_image(WebPDecoder::new(input), header, divisors, limits),
        Format::Bmp => with_image(BmpDecoder::new(input), header, divisors, limits),
        Format::Tiff => with_image(TiffDecoder::new(input), header, divisors, limits),
        Format::Jpeg | Format::Png => Err(ThumbnailError::NotAnImage),
    }
}

/// Decodes with a decoder of `image`.
fn with_image(
    decoder: image::ImageResult<impl ImageDecoder>,
    header: &Header,
    divisors: &[u32],
    limits: &Limits,
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut decoder = decoder.map_err(from_image)?;
    if decoder.dimensions() != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let mut bounds = ImageLimits::no_limits();
    bounds.max_alloc = Some(limits.memory);
    decoder.set_limits(bounds).map_err(from_image)?;
    let icc = decoder.icc_profile().unwrap_or_default();
    let image = DynamicImage::from_decoder(decoder).map_err(from_image)?;
    Ok(reduce(into_pixels(image), divisors, icc.as_deref()))
}

/// The layout of 8 bits a channel that keeps what the picture has.
fn into_pixels(image: DynamicImage) -> Pixels {
    let (width, height) = (image.width(), image.height());
    let color = image.color();
    let (layout, data) = match (color.has_color(), color.has_alpha()) {
        (false, false) => (Layout::Grey, image.into_luma8().into_raw()),
        (false, true) => (Layout::GreyAlpha, image.into_luma_alpha8().into_raw()),
        (true, false) => (Layout::Rgb, image.into_rgb8().into_raw()),
        (true, true) => (Layout::Rgba, image.into_rgba8().into_raw()),
    };
    Pixels { width, height, layout, data }
}
