//! The formats that only come whole: GIF, WebP, BMP, through `image`.

use std::io::{BufRead, Seek};

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, Limits as ImageLimits};

use super::super::ThumbnailError;
use super::super::pixels::{Decoded, Layout, Pixels};
use super::super::plan::Job;
use super::super::probe::{Format, Header, from_image, webp_profile};
use super::{divisor, reduce};

/// Decodes the picture, of an animation its first frame.
pub(super) fn decode(
    mut input: impl BufRead + Seek,
    header: &Header,
    job: &Job,
) -> Result<Decoded, ThumbnailError> {
    match header.format {
        Format::Gif => with_image(GifDecoder::new(input), header, job),
        Format::WebP => {
            let icc = webp_profile(&mut input, header)?;
            input.rewind()?;
            let decoded = with_image(WebPDecoder::new(input), header, job)?;
            Ok(Decoded { icc: Some(icc), ..decoded })
        }
        Format::Bmp => with_image(BmpDecoder::new(input), header, job),
        Format::Jpeg | Format::Png | Format::Tiff => Err(ThumbnailError::NotAnImage),
    }
}

/// Decodes with a decoder of `image`.
fn with_image(
    decoder: image::ImageResult<impl ImageDecoder>,
    header: &Header,
    job: &Job,
) -> Result<Decoded, ThumbnailError> {
    let mut decoder = decoder.map_err(from_image)?;
    if decoder.dimensions() != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let mut bounds = ImageLimits::no_limits();
    // A GIF's frame may be larger than its canvas: twice, or by what is little anyway, as was estimated.
    bounds.max_alloc = Some(header.pixels().saturating_mul(8).max(LITTLE));
    decoder.set_limits(bounds).map_err(from_image)?;
    let image = DynamicImage::from_decoder(decoder).map_err(from_image)?;
    let (pixels, divisor) = reduce(into_pixels(image), divisor(header, job));
    Ok(Decoded { pixels, divisor, icc: None })
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
