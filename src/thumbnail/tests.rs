//! Formats, orientations and bad input, through the whole way.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::io::{Cursor, Read, SeekFrom};
use std::time::Instant;

use super::*;
use crate::config::ThumbnailMethod;

/// A picture of 64 × 32 whose left half is red and right half blue, its top quarter black.
fn picture() -> image::RgbImage {
    image::RgbImage::from_fn(64, 32, |x, y| match (x, y) {
        (_, 0..8) => image::Rgb([0, 0, 0]),
        (0..32, _) => image::Rgb([255, 0, 0]),
        _ => image::Rgb([0, 0, 255]),
    })
}

/// It as a file of `image`'s.
fn file(format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// It as a JPEG with an orientation.
fn jpeg(orientation: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    encoder.add_app_segment(1, exif).unwrap();
    encoder.encode(&picture(), 64, 32, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

/// A thumbnail of 16 × 8, or of 8 × 16 of what is seen upright.
fn small(bytes: &[u8], limits: &Limits) -> Result<Rendered, ThumbnailError> {
    let mut input = Cursor::new(bytes);
    let header = probe(&mut input)?;
    let wanted = Wanted { width: 8, height: 8, method: ThumbnailMethod::Scale, motion: Motion::Still };
    let Plan::Render(job) = Plan::new(header.source(), wanted, &[]) else { panic!("it is large enough") };
    render(&mut input, &header, &[job], limits).map(|mut made| made.remove(0))
}

const LIMITS: Limits = Limits { max_pixels: 1 << 20, memory: 64 << 20, deadline: None };

/// The pixels of a thumbnail.
fn pixels(rendered: &Rendered) -> image::RgbImage {
    let mut input = Cursor::new(rendered.bytes.as_slice());
    let header = probe(&mut input).unwrap();
    let (width, height) = (header.width, header.height);
    let crop = Rect { x: 0, y: 0, width, height };
    let job = Job { crop, width, height, animated: false };
    input.set_position(0);
    let decoded = decode::decode(input, &header, &[job], &LIMITS).unwrap().remove(0);
    image::RgbImage::from_raw(width, height, decoded.pixels.data).unwrap()
}

#[test]
fn every_format_keeps_its_colours() {
    use image::ImageFormat::{Bmp, Gif, Png, Tiff, WebP};
    for format in [Png, Gif, Bmp, Tiff, WebP] {
        let got = small(&file(format), &LIMITS).unwrap();
        assert_eq!((got.width, got.height), (16, 8), "{format:?}");
        let drawn = matches!(format, Png | Gif | Bmp);
        assert_eq!(got.content_type, if drawn { "image/png" } else { "image/jpeg" }, "{format:?}");
        assert_near(pixels(&got).get_pixel(3, 5).0, [255, 0, 0]);
        assert_near(pixels(&got).get_pixel(12, 5).0, [0, 0, 255]);
    }
}

#[test]
fn every_orientation_is_applied() {
    for orientation in 1..=8 {
        let got = small(&jpeg(orientation), &LIMITS).unwrap();
        let upright = orient::Orientation::from_exif(orientation);
        assert_eq!((got.width, got.height), upright.turn((16, 8)), "{orientation}");
        let seen = pixels(&got);
        // The red half is stored on the left, below the black quarter.
        let red = Rect { x: 3, y: 5, width: 1, height: 1 };
        let found = (0..got.width)
            .flat_map(|x| (0..got.height).map(move |y| (x, y)))
            .find(|(x, y)| upright.stored_part(Rect { x: *x, y: *y, width: 1, height: 1 }, (16, 8)) == red);
        let (x, y) = found.unwrap();
        assert_near(seen.get_pixel(x, y).0, [255, 0, 0]);
        assert!(!got.bytes.windows(4).any(|word| word == b"Exif"), "{orientation}");
    }
}

#[test]
fn limits_bind_and_broken_files_are_broken() {
    let whole = jpeg(1);
    let few = Limits { max_pixels: 100, ..LIMITS };
    assert!(matches!(small(&whole, &few), Err(ThumbnailError::TooLarge(_))));
    let tight = Limits { memory: 1000, ..LIMITS };
    assert!(matches!(small(&whole, &tight), Err(ThumbnailError::TooLarge(_))));
    let late = Limits { deadline: Some(Instant::now()), ..LIMITS };
    assert!(matches!(small(&whole, &late), Err(ThumbnailError::TooLarge(_))));
    for bytes in [file(image::ImageFormat::Png), file(image::ImageFormat::Bmp), whole] {
        let half = &bytes[..bytes.len() / 2];
        assert!(matches!(small(half, &LIMITS), Err(ThumbnailError::Broken(_))), "{:?}", &bytes[..4]);
    }
}

#[test]
fn changed_bytes_never_panic() {
    use image::ImageFormat::{Bmp, Gif, Png, Tiff, WebP};
    let mut files: Vec<Vec<u8>> = [Png, Gif, Bmp, Tiff, WebP].map(file).into();
    files.push(jpeg(6));
    let mut state = 1_u32;
    for bytes in files {
        for _ in 0..300 {
            let mut changed = bytes.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 8) as usize % changed.len();
                changed[at] = state as u8;
            }
            let mut input = Cursor::new(changed.as_slice());
            let Ok(header) = probe(&mut input) else { continue };
            let wanted = Wanted { width: 8, height: 8, method: ThumbnailMethod::Crop, motion: Motion::Still };
            if let Plan::Render(job) = Plan::new(header.source(), wanted, &[]) {
                drop(render(&mut input, &header, &[job], &LIMITS));
            }
        }
    }
}

/// Counts the bytes read through it.
struct Counting<'a>(Cursor<&'a [u8]>, u64);

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1 += count as u64;
        Ok(count)
    }
}

impl Seek for Counting<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn sizes_made_together_take_one_decode_and_have_the_bytes_of_those_made_alone() {
    use image::ImageFormat::{Bmp, Gif, Png, Tiff, WebP};
    // Noise, so that every pixel counts.
    let noise = image::RgbImage::from_fn(640, 480, |x, y| {
        let hash = (x * 640 + y).wrapping_mul(2_654_435_761) >> 8;
        image::Rgb([hash as u8, (hash >> 8) as u8, (x / 3) as u8])
    });
    let mut files: Vec<Vec<u8>> = [Png, Gif, Bmp, Tiff, WebP]
        .map(|format| {
            let mut bytes = Cursor::new(Vec::new());
            noise.write_to(&mut bytes, format).unwrap();
            bytes.into_inner()
        })
        .into();
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
    encoder.encode(&noise, 640, 480, jpeg_encoder::ColorType::Rgb).unwrap();
    files.push(bytes);
    for bytes in files {
        let header = probe(&mut Cursor::new(bytes.as_slice())).unwrap();
        let job = |side| {
            let wanted =
                Wanted { width: side, height: side, method: ThumbnailMethod::Crop, motion: Motion::Still };
            match Plan::new(header.source(), wanted, &[]) {
                Plan::Render(job) => job,
                Plan::Original => panic!("it is smaller"),
            }
        };
        let jobs: Vec<Job> = [16, 30, 60, 100, 230].map(job).into();
        let made = |jobs: &[Job]| {
            let mut input = io::BufReader::new(Counting(Cursor::new(&bytes), 0));
            (render(&mut input, &header, jobs, &LIMITS).unwrap(), input.into_inner().1)
        };
        let mut together = Vec::new();
        let mut rest = jobs.clone();
        while let Some(first) = rest.first().copied() {
            let (set, others) = rest.iter().partition(|job| share_a_decode(&header, &first, job));
            rest = others;
            let (pictures, read) = made(&set);
            assert_eq!(read, made(&[first]).1, "{:?}: as much is read for {set:?} as for one", header.format);
            together.extend(set.into_iter().zip(pictures));
        }
        for (job, picture) in together {
            assert_eq!(picture, made(&[job]).0[0], "{:?} {job:?}", header.format);
        }
        let is_jpeg = matches!(header.storage, probe::Storage::Jpeg(_));
        assert!(share_a_decode(&header, &jobs[0], &jobs[1]));
        assert_eq!(share_a_decode(&header, &jobs[0], &jobs[4]), !is_jpeg);
        assert!(estimate(&header, &jobs) > estimate(&header, &jobs[4..]));
    }
}

/// Equal but for what JPEG loses.
fn assert_near(got: [u8; 3], expected: [u8; 3]) {
    assert!(
        got.iter().zip(expected).all(|(got, expected)| got.abs_diff(expected) < 60),
        "{got:?} {expected:?}"
    );
}
