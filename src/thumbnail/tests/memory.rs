//! Limits of memory, tested by headers alone so that nothing large is decoded.

use super::super::probe::Header;
use super::files::{chunk, png};
use super::*;

/// As a fresh configuration has it.
const DEFAULT: Limits =
    Limits { max_pixels: 100_000_000, memory: 128 << 20, deadline: None, animation_deadline: None };

fn header(bytes: &[u8]) -> Header {
    probe(&mut Cursor::new(bytes)).unwrap()
}

/// A lossy WebP that says a size.
fn lossy_webp(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = include_bytes!("../../../tests/fixtures/quadrants.webp").to_vec();
    bytes[26..28].copy_from_slice(&width.to_le_bytes());
    bytes[28..30].copy_from_slice(&height.to_le_bytes());
    bytes
}

/// A PNG of 8-bit RGB that says a size.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    png((width, height), (8, 2, 0), &[], &[Vec::new()])
}

/// A GIF of a frame that says its size.
fn gif_of(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = b"GIF89a".to_vec();
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    bytes.extend([&size[..], &[0x80, 0, 0], &[0; 6], &[0x2c, 0, 0, 0, 0], &size, &[0, 2, 0, 0x3b]].concat());
    bytes
}

/// A JPEG that says a size.
fn jpeg_of(width: u16, height: u16, is_progressive: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 80);
    encoder.set_progressive(is_progressive);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    encoder.encode(&[90; 48], 4, 4, jpeg_encoder::ColorType::Rgb).unwrap();
    let frame = [0xff, if is_progressive { 0xc2 } else { 0xc0 }];
    let at = memchr::memmem::find(&bytes, &frame).unwrap() + 5;
    bytes[at..at + 2].copy_from_slice(&height.to_be_bytes());
    bytes[at + 2..at + 4].copy_from_slice(&width.to_be_bytes());
    bytes
}

fn spec(header: &Header, method: ThumbnailMethod, (width, height): Size) -> RenderSpec {
    let wanted = ThumbnailRequest { width, height, method, motion: Motion::Still };
    let sizes: Vec<crate::config::ThumbnailSize> =
        ["32x32-crop", "96x96-crop", "320x240-scale", "640x480-scale", "800x600-scale"]
            .map(|size| size.parse().unwrap())
            .into();
    match Plan::new(header.source(), wanted, &sizes) {
        Plan::Render(spec) => spec,
        Plan::Original => panic!("it is small enough"),
    }
}

#[test]
fn photographs_and_screenshots_fit_the_default_memory_at_every_size() {
    for (what, bytes) in [
        ("WebP 4000 × 3000", lossy_webp(4000, 3000)),
        ("WebP 1080 × 8000", lossy_webp(1080, 8000)),
        ("PNG 1080 × 8000", png_of(1080, 8000)),
        ("PNG 4000 × 3000", png_of(4000, 3000)),
        ("PNG 8000 × 6000", png_of(8000, 6000)),
        ("GIF 4000 × 3000", gif_of(4000, 3000)),
        ("JPEG of 108 MP", jpeg_of(12_000, 9000, false)),
        ("JPEG of 200 MP", jpeg_of(16_320, 12_240, false)),
        ("progressive JPEG of 48 MP", jpeg_of(8000, 6000, true)),
    ] {
        let header = header(&bytes);
        header.check_pixels(&DEFAULT).unwrap_or_else(|why| panic!("{what}: {why}"));
        for (method, size) in [
            (Crop, (32, 32)),
            (Crop, (96, 96)),
            (Scale, (320, 240)),
            (Scale, (640, 480)),
            (Scale, (800, 600)),
        ] {
            let spec = spec(&header, method, size);
            let needed = estimate(&header, &[spec]);
            assert!(needed <= DEFAULT.memory, "{what} {size:?}: {} MiB", needed >> 20);
            assert_eq!(fit_to_memory(&header, spec, &DEFAULT), spec);
        }
    }
}

#[test]
fn pixels_are_bounded_where_few_bytes_can_claim_them() {
    for bytes in [png_of(12_000, 9000), gif_of(12_000, 9000)] {
        assert!(matches!(header(&bytes).check_pixels(&DEFAULT), Err(ThumbnailError::TooLarge(_))));
    }
}

#[test]
fn if_a_size_does_not_fit_the_largest_that_fits_is_rendered() {
    for bytes in [png_of(3000, 3000), jpeg_of(3000, 3000, false), gif_of(3000, 3000)] {
        let header = header(&bytes);
        let whole = Rect { x: 0, y: 0, width: 3000, height: 3000 };
        for (width, height) in [(2999, 2999), (1500, 1500), (2000, 100)] {
            let asked = RenderSpec { crop: whole, width, height, animated: false };
            let mut last = 0;
            for memory in [3 << 20, 8 << 20, 16 << 20, 32 << 20, 64 << 20, 256 << 20] {
                let limits = Limits { memory, ..DEFAULT };
                let got = fit_to_memory(&header, asked, &limits);
                if estimate(&header, &[got]) > memory {
                    // Nothing fits.
                    assert!(estimate(&header, &[RenderSpec { width: 1, height: 1, ..asked }]) > memory);
                    continue;
                }
                assert!(got.width >= last, "more memory, smaller: {last} {got:?}");
                last = got.width;
                let aspect =
                    f64::from(got.width) / f64::from(got.height) * f64::from(height) / f64::from(width);
                assert!((0.9..1.1).contains(&aspect) || got.height < 20, "{got:?}");
                if got != asked {
                    let longest = got.width.max(got.height);
                    let more = asked.shrunk(longest + 8, width.max(height));
                    assert!(estimate(&header, &[more]) > memory, "{got:?} is not the largest in {memory}");
                }
            }
            assert_eq!(last, width, "all of it fits in the end");
        }
    }
}

#[test]
fn a_picture_made_smaller_to_fit_memory_is_complete() {
    let noise = image::RgbImage::from_fn(600, 400, |x, y| image::Rgb([(x / 3) as u8, (y / 2) as u8, 90]));
    let mut bytes = Cursor::new(Vec::new());
    noise.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let bytes = bytes.into_inner();
    let header = header(&bytes);
    let asked = RenderSpec {
        crop: Rect { x: 0, y: 0, width: 600, height: 400 },
        width: 590,
        height: 393,
        animated: false,
    };
    let limits = Limits { memory: 3_000_000, ..DEFAULT };
    let got = fit_to_memory(&header, asked, &limits);
    assert!(got.width < 590 && got.width > 50, "{got:?}");
    let made = render(&mut Cursor::new(bytes.as_slice()), &header, &[got], &limits).unwrap().remove(0);
    let picture = seen(&made);
    assert_eq!(picture.dimensions(), (got.width, got.height));
    let last = picture.get_pixel(got.width - 1, got.height - 1).0;
    assert!(last[0].abs_diff(199) < 12 && last[1].abs_diff(199) < 12, "{last:?}");
}

#[test]
fn a_profile_counts() {
    let plain = header(&png_of(100, 100));
    let bytes = png((100, 100), (8, 2, 0), &[(*b"iCCP", vec![7; 10])], &[Vec::new()]);
    assert!(memchr::memmem::find(&bytes, &chunk(*b"iCCP", &[7; 10])).is_some());
    let spec = RenderSpec {
        crop: Rect { x: 0, y: 0, width: 100, height: 100 },
        width: 50,
        height: 50,
        animated: false,
    };
    assert!(estimate(&header(&bytes), &[spec]) > estimate(&plain, &[spec]) + (1 << 20));
}
