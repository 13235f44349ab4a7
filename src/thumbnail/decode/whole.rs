//! The formats that only come whole: GIF and BMP, through `image`; WebP.

use std::io::{BufRead, Seek};

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::{DynamicImage, ImageDecoder, Limits as ImageLimits};
use image_webp::WebPDecoder;

use super::super::ThumbnailError;
use super::super::pixels::{Decoded, Layout, Pixels};
use super::super::probe::{Format, Header, from_image, from_webp, webp_profile};
use super::reduce;

/// Decodes the picture, of an animation its first frame, reduced once for each divisor.
pub(super) fn decode(
    input: impl BufRead + Seek,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    match header.format {
        Format::Gif => with_image(GifDecoder::new(input), header, divisors),
        Format::WebP => webp(input, header, divisors),
        Format::Bmp => with_image(BmpDecoder::new(input), header, divisors),
        Format::Jpeg | Format::Png | Format::Tiff => Err(ThumbnailError::NotAnImage),
    }
}

/// Decodes with a decoder of `image`.
fn with_image(
    decoder: image::ImageResult<impl ImageDecoder>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut decoder = decoder.map_err(from_image)?;
    if decoder.dimensions() != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let mut bounds = ImageLimits::no_limits();
    // A GIF's frame may be larger than its canvas: twice, or by what is little anyway, as was estimated.
    bounds.max_alloc = Some(header.pixels().saturating_mul(8).max(LITTLE));
    decoder.set_limits(bounds).map_err(from_image)?;
    let image = DynamicImage::from_decoder(decoder).map_err(from_image)?;
    Ok(reduce(into_pixels(image), divisors, None))
}

/// Decodes a WebP.
fn webp(
    mut input: impl BufRead + Seek,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let icc = webp_profile(&mut input, header)?;
    input.rewind()?;
    let mut decoder = WebPDecoder::new(input).map_err(from_webp)?;
    let (width, height) = decoder.dimensions();
    if (width, height) != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let layout = if decoder.has_alpha() { Layout::Rgba } else { Layout::Rgb };
    let size = decoder.output_buffer_size();
    let mut data = vec![0; size.ok_or(ThumbnailError::TooLarge("the image has too many pixels"))?];
    decoder.read_image(&mut data).map_err(from_webp)?;
    Ok(reduce(Pixels { width, height, layout, data }, divisors, Some(&icc)))
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

/// Bytes.
const LITTLE: u64 = 1 << 20;
