//! Several sizes from one decode.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use super::super::*;
use super::LIMITS;
use crate::config::ThumbnailMethod;

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
fn sizes_rendered_together_take_one_decode_and_give_the_same_bytes_as_alone() {
    use image::ImageFormat::{Bmp, Gif, Png, WebP};
    // Noise, so that every pixel counts.
    let noise = image::RgbImage::from_fn(640, 480, |x, y| {
        let hash = (x * 640 + y).wrapping_mul(2_654_435_761) >> 8;
        image::Rgb([hash as u8, (hash >> 8) as u8, (x / 3) as u8])
    });
    let mut files: Vec<Vec<u8>> = [Png, Gif, Bmp, WebP]
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
        let spec = |side| {
            let wanted = ThumbnailRequest {
                width: side,
                height: side,
                method: ThumbnailMethod::Crop,
                motion: Motion::Still,
            };
            match Plan::new(header.source(), wanted, &[]) {
                Plan::Render(spec) => spec,
                Plan::Original => panic!("it is smaller"),
            }
        };
        let specs: Vec<RenderSpec> = [16, 30, 60, 100, 230].map(spec).into();
        let made = |specs: &[RenderSpec]| {
            let mut input = io::BufReader::new(Counting(Cursor::new(&bytes), 0));
            (render(&mut input, &header, specs, &LIMITS).unwrap(), input.into_inner().1)
        };
        let mut together = Vec::new();
        let mut rest = specs.clone();
        while let Some(first) = rest.first().copied() {
            let (set, others) = rest.iter().partition(|spec| can_share_decode(&header, &first, spec));
            rest = others;
            let (pictures, read) = made(&set);
            assert_eq!(read, made(&[first]).1, "{:?}: as much is read for {set:?} as for one", header.format);
            together.extend(set.into_iter().zip(pictures));
        }
        for (spec, picture) in together {
            assert_eq!(picture, made(&[spec]).0[0], "{:?} {spec:?}", header.format);
        }
        let is_jpeg = matches!(header.storage, probe::Storage::Jpeg(_));
        assert!(can_share_decode(&header, &specs[0], &specs[1]));
        assert_eq!(can_share_decode(&header, &specs[0], &specs[4]), !is_jpeg);
        assert!(estimate(&header, &specs) > estimate(&header, &specs[4..]));
    }
}
