//! Formats, orientations and bad input, through the whole way.
//!
//! Every file of [`sources`] shows one scene of four quadrants, and so must its thumbnails, whatever the method and size.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "tests"
)]

mod damaged;
mod files;
mod memory;
mod sharing;
mod sources;
mod tiff_parts;
mod tiffs;

use std::io::Cursor;
use std::time::Instant;

use sources::{SECRET, Scene, Source as Sample};

use super::*;
use crate::config::ThumbnailMethod::{self, Crop, Scale};

/// Width and height.
type Size = (u32, u32);

/// Requests for the scene of 160 × 96 with the size of what they give: `scale` covers, `crop` has the aspect asked for.
const REQUESTS: [(ThumbnailMethod, Size, Size); 6] = [
    (Scale, (40, 24), (40, 24)),
    (Scale, (8, 40), (67, 40)),
    (Scale, (100, 10), (100, 60)),
    (Crop, (32, 32), (32, 32)),
    (Crop, (20, 60), (20, 60)),
    (Crop, (90, 10), (90, 10)),
];

const LIMITS: Limits =
    Limits { max_pixels: 1 << 20, memory: 64 << 20, deadline: None, animation_deadline: None };

/// A thumbnail made as it is for a request, at exactly that size.
fn thumbnail(
    bytes: &[u8],
    method: ThumbnailMethod,
    (width, height): (u32, u32),
    limits: &Limits,
) -> Result<Rendered, ThumbnailError> {
    let mut input = Cursor::new(bytes);
    let header = probe(&mut input)?;
    let wanted = ThumbnailRequest { width, height, method, motion: Motion::Still };
    let spec = match Plan::new(header.source(), wanted, &[]) {
        Plan::Render(spec) => spec,
        Plan::Original => panic!("it is large enough: {header:?}"),
    };
    render(&mut input, &header, &[spec], limits).map(|mut made| made.remove(0))
}

/// A thumbnail's pixels, read by `image` and jpeg-decoder alone.
fn seen(rendered: &Rendered) -> image::RgbaImage {
    if rendered.content_type == "image/jpeg" {
        let mut decoder = jpeg_decoder::Decoder::new(rendered.bytes.as_slice());
        let data = decoder.decode().unwrap();
        let info = decoder.info().unwrap();
        let (width, height) = (info.width.into(), info.height.into());
        return if info.pixel_format == jpeg_decoder::PixelFormat::L8 {
            image::DynamicImage::from(image::GrayImage::from_raw(width, height, data).unwrap()).into_rgba8()
        } else {
            image::DynamicImage::from(image::RgbImage::from_raw(width, height, data).unwrap()).into_rgba8()
        };
    }
    image::load_from_memory_with_format(&rendered.bytes, image::ImageFormat::Png).unwrap().into_rgba8()
}

/// Checks a thumbnail of a file against everything that is known of it.
fn check(sample: &Sample, method: ThumbnailMethod, wanted: Size, size: Size) {
    let what = format!("{} {method:?} {wanted:?}", sample.name);
    let got =
        thumbnail(&sample.bytes, method, wanted, &LIMITS).unwrap_or_else(|why| panic!("{what}: {why:?}"));
    assert_eq!((got.width, got.height), size, "{what}");
    let has_alpha = sample.scene.iter().any(|color| color[3] < 255);
    assert!(!got.is_partial, "{what}");
    let is_drawn = matches!(sample.format, probe::Format::Png | probe::Format::Gif | probe::Format::Bmp);
    let expected = if has_alpha || is_drawn { ("image/png", "png") } else { ("image/jpeg", "jpg") };
    assert_eq!((got.content_type, got.extension), expected, "{what}");
    for word in [SECRET, b"Exif", b"eXIf", b"iCCP", b"ICC_PROFILE", b"tEXt"] {
        assert!(memchr::memmem::find(&got.bytes, word).is_none(), "{what}: {}", word.escape_ascii());
    }
    let picture = seen(&got);
    assert_eq!(picture.dimensions(), size, "{what}");
    // What our own encoder loses at quality 80 comes on top.
    let tolerance = sample.tolerance + if got.content_type == "image/jpeg" { 20 } else { 0 };
    check_quadrants(&what, &picture, sample.scene, tolerance);
}

/// Checks the middle of each quadrant, and all of it but for an edge that the filter touches.
fn check_quadrants(what: &str, picture: &image::RgbaImage, scene: Scene, tolerance: u8) {
    let (width, height) = picture.dimensions();
    // Lanczos reaches three pixels, JPEG's blocks sixteen: the middles are farther off in what is large enough.
    for (index, expected) in scene.into_iter().enumerate() {
        let (right, below) = (index as u32 % 2, index as u32 / 2);
        let at = (width / 4 + right * (width / 2), height / 4 + below * (height / 2));
        let got = picture.get_pixel(at.0, at.1).0;
        let is_near = if expected[3] == 0 {
            got[3] <= 2
        } else {
            got.iter().zip(expected).all(|(got, expected)| got.abs_diff(expected) <= tolerance)
        };
        assert!(is_near, "{what}: {got:?} at {at:?}, not {expected:?}");
    }
}

#[test]
fn every_kind_of_file_shows_its_scene_by_every_method_and_size() {
    for sample in sources::all() {
        for (method, wanted, size) in REQUESTS {
            check(&sample, method, wanted, size);
        }
    }
}

#[test]
fn every_orientation_is_seen_upright_in_every_format_that_says_one() {
    for sample in sources::oriented() {
        for (method, wanted, size) in REQUESTS {
            check(&sample, method, wanted, size);
        }
    }
}

#[test]
fn inks_are_seen_as_their_profile_says() {
    for (name, bytes) in sources::printed() {
        let [red, green, blue, _] =
            seen(&thumbnail(&bytes, Crop, (32, 32), &LIMITS).unwrap()).get_pixel(16, 16).0;
        assert!(green > 130 && green > red + 50 && green > blue + 50, "{name}: {red} {green} {blue}");
    }
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    for sample in sources::all() {
        let once = || thumbnail(&sample.bytes, Crop, (32, 32), &LIMITS).unwrap();
        assert_eq!(once(), once(), "{}", sample.name);
    }
}

#[test]
fn what_is_invisible_does_not_bleed_into_what_is_seen() {
    for sample in sources::all().iter().filter(|sample| sample.scene[3][3] == 0 && sample.tolerance <= 4) {
        let picture = seen(&thumbnail(&sample.bytes, Scale, (41, 25), &LIMITS).unwrap());
        for pixel in picture.pixels().filter(|pixel| pixel.0[3] > 40) {
            // Ringing apart, there are only the scene's colours and what is between them.
            let between = |channel: usize| {
                let visible = || sample.scene.iter().filter(|color| color[3] > 0).map(|color| color[channel]);
                let (least, most) = (visible().min().unwrap(), visible().max().unwrap());
                (least.saturating_sub(25)..=most.saturating_add(25)).contains(&pixel.0[channel])
            };
            assert!((0..3).all(between), "{}: {pixel:?}", sample.name);
        }
    }
}

/// Found by fuzzing: of a side of few pixels the JPEG decoder takes a fraction that nobody asked for.
#[test]
fn slivers_of_jpegs_are_decoded() {
    for (width, height) in [(300, 1), (1, 300), (300, 3), (4, 300), (17, 2), (3, 2), (2, 2)] {
        let mut bytes = Vec::new();
        let pixels = [220, 40, 40].repeat(usize::from(width) * usize::from(height));
        let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
        encoder.encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
        let mut input = Cursor::new(bytes.as_slice());
        let header = probe(&mut input).unwrap();
        for divisor in 1..=u32::from(width.max(height)) {
            let (width, height) = (u32::from(width), u32::from(height));
            let crop = Rect { x: 0, y: 0, width, height };
            let (width, height) = (width.div_ceil(divisor), height.div_ceil(divisor));
            let spec = RenderSpec { crop, width, height, animated: false };
            let got = render(&mut input, &header, &[spec], &LIMITS).unwrap().remove(0);
            assert_eq!(seen(&got).dimensions(), (width, height));
        }
    }
}

#[test]
fn limits_bind() {
    for sample in sources::all() {
        let what = &sample.name;
        let small = |bytes: &[u8], limits: &Limits| thumbnail(bytes, Crop, (32, 32), limits);
        let few = Limits { max_pixels: 100, ..LIMITS };
        let got = small(&sample.bytes, &few);
        if sample.format == probe::Format::Jpeg {
            got.unwrap_or_else(|why| panic!("{what}: its pixels are bounded by its bytes, but {why:?}"));
        } else {
            assert!(matches!(got, Err(ThumbnailError::TooLarge(_))), "{what}");
        }
        let tight = Limits { memory: 1000, ..LIMITS };
        assert!(matches!(small(&sample.bytes, &tight), Err(ThumbnailError::TooLarge(_))), "{what}");
        let late = Limits { deadline: Some(Instant::now()), ..LIMITS };
        assert!(matches!(small(&sample.bytes, &late), Err(ThumbnailError::Timeout)), "{what}");
    }
}

/// Changes bytes here and there, and checks that no decoder gave up over them: that is caught, but costs a line in the log.
#[test]
fn changed_bytes_never_panic() {
    let of_sources = sources::all().into_iter().map(|sample| (sample.name, sample.bytes));
    let of_tiffs = tiffs::all().into_iter().map(|(name, bytes, _)| (name, bytes));
    let cut_webps = damaged::GRAIN.map(|bytes| ("grain".to_owned(), bytes[..bytes.len() * 7 / 10].to_vec()));
    let mut state = 1_u32;
    let calm = |error: &ThumbnailError| !format!("{error:?}").contains("gave up");
    for (name, bytes) in of_sources.chain(of_tiffs).chain(cut_webps) {
        for _ in 0..40 {
            let mut changed = bytes.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 8) as usize % changed.len();
                changed[at] = state as u8;
            }
            let mut input = Cursor::new(changed.as_slice());
            let header = match probe(&mut input) {
                Ok(header) => header,
                Err(error) => {
                    assert!(calm(&error), "{name}: {error:?}");
                    continue;
                }
            };
            let wanted = ThumbnailRequest { width: 8, height: 8, method: Crop, motion: Motion::Still };
            if let Plan::Render(spec) = Plan::new(header.source(), wanted, &[])
                && let Err(error) = render(&mut input, &header, &[spec], &LIMITS)
            {
                assert!(calm(&error), "{name}: {error:?}");
            }
        }
    }
}
