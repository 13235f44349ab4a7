//! Truncated, damaged and unusual files.

use std::io::{self, Read, Seek, SeekFrom};

use image::{ImageFormat, RgbaImage};

use super::files::{Chunk, Ink, RGB, chunk, png, rows, tiff, webp};
use super::sources::{COLOR, SIZE, picture};
use super::tiff_parts::raw_jpeg;
use super::*;

/// A thumbnail of the whole.
fn seen_of(bytes: &[u8]) -> (Rendered, RgbaImage) {
    let got = thumbnail(bytes, Scale, (80, 48), &LIMITS).unwrap();
    let picture = seen(&got);
    (got, picture)
}

/// Whether two pixels are near.
fn is_near(got: [u8; 4], expected: [u8; 4], tolerance: u8) -> bool {
    got.iter().zip(expected).all(|(got, expected)| got.abs_diff(expected) <= tolerance)
}

/// A file truncated at three fifths shows its upper half. The missing part is transparent or, in a JPEG, grey.
#[test]
fn truncated_files_show_the_rows_that_are_there() {
    // In so plain a WebP, nearly all bytes are code tables and modes.
    for sample in sources::all().iter().filter(|sample| sample.format != probe::Format::WebP) {
        let what = &sample.name;
        let is_tiff = sample.format == probe::Format::Tiff;
        // Of an animation the first frame is all that is wanted. A TIFF's directory stands behind its pixels.
        let part = if what.starts_with("moving") || what == "APNG" { 0.3 } else { 0.6 };
        // The headers of a small JPEG are most of it.
        let scan = memchr::memmem::find(&sample.bytes, b"\xff\xda");
        let head = scan.filter(|_| sample.format == probe::Format::Jpeg).unwrap_or(0);
        let cut = head + ((sample.bytes.len() - head) as f64 * part) as usize;
        let got = thumbnail(&sample.bytes[..cut], Scale, (80, 48), &LIMITS);
        if is_tiff {
            assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{what}: {got:?}");
            continue;
        }
        let got = got.unwrap_or_else(|why| panic!("{what}: {why:?}"));
        assert!(got.is_partial, "{what}");
        let picture = seen(&got);
        let is_bottom_up = sample.format == probe::Format::Bmp;
        let is_interlaced = what.contains("interlaced");
        let tolerance = sample.tolerance + 24;
        for (column, quadrant) in [(20, 0), (60, 1)] {
            let (row, quadrant) = if is_bottom_up { (44, quadrant + 2) } else { (4, quadrant) };
            let got = picture.get_pixel(column, row).0;
            let expected = sample.scene[quadrant];
            let is_there = if expected[3] == 0 { got[3] < 2 } else { is_near(got, expected, tolerance) };
            assert!(is_there, "{what}: {got:?} at {column}, {row}, not {expected:?}");
        }
        let lacking = picture.get_pixel(40, if is_bottom_up { 1 } else { 47 }).0;
        if sample.format == probe::Format::Jpeg {
            let is_grey = lacking[3] == 255 && lacking[0].abs_diff(lacking[1]) < 30;
            assert!(is_grey || what.contains("progressive"), "{what}: {lacking:?}");
        } else {
            assert!(lacking[3] == 0 || is_interlaced, "{what}: {lacking:?}");
        }
    }
}

/// Soft colours under noise.
pub(super) const GRAIN: [&[u8]; 2] = [
    include_bytes!("../../../tests/fixtures/grain.webp"),
    include_bytes!("../../../tests/fixtures/grain-lossless.webp"),
];

#[test]
fn a_truncated_webp_shows_its_rows() {
    for bytes in GRAIN {
        let of = |bytes: &[u8]| {
            let got = thumbnail(bytes, Scale, (36, 24), &LIMITS).unwrap();
            (got.is_partial, seen(&got))
        };
        let (is_partial, whole) = of(bytes);
        assert!(!is_partial);
        for part in [6, 8, 9] {
            let (is_partial, shown) = of(&bytes[..bytes.len() * part / 10]);
            assert!(is_partial);
            for y in 0..24 * (part as u32 - 4) / 10 {
                let near = (0..36).all(|x| is_near(shown.get_pixel(x, y).0, whole.get_pixel(x, y).0, 24));
                assert!(near, "{part} {y}");
            }
            assert!(part == 9 || shown.get_pixel(20, 23).0[3] == 0, "{part}");
        }
    }
}

/// Pictures of few colours consist mostly of back references, so the decoder rejects most padding.
#[test]
fn a_truncated_lossless_webp_of_few_colours_shows_its_rows() {
    let bytes = include_bytes!("../../../tests/fixtures/palette-lossless.webp");
    let whole = seen(&thumbnail(bytes, Scale, (60, 40), &LIMITS).unwrap());
    for (part, rows) in [(30, 5), (60, 15), (90, 30)] {
        let got = thumbnail(&bytes[..bytes.len() * part / 100], Scale, (60, 40), &LIMITS).unwrap();
        assert!(got.is_partial);
        let shown = seen(&got);
        for y in 0..rows {
            // The whole is a JPEG, whose colours are coarse: the light of a row tells.
            let light = |[r, g, b, _]: [u8; 4]| (3 * i32::from(r) + 6 * i32::from(g) + i32::from(b)) / 10;
            let off = |x| light(shown.get_pixel(x, y).0).abs_diff(light(whole.get_pixel(x, y).0));
            let mean = (0..60).map(off).sum::<u32>() / 60;
            assert!(mean < 12 && shown.get_pixel(30, y).0[3] == 255, "{part} {y}: {mean}");
        }
        assert!(shown.get_pixel(20, 39).0[3] == 0, "{part}");
    }
}

/// An animation may be truncated in its first frame.
#[test]
fn a_truncated_frame_of_a_webp_shows_its_rows() {
    let side = |length: u32| (length - 1).to_le_bytes()[..3].to_vec();
    let frame = [vec![0; 6], side(96), side(64), vec![100, 0, 0, 0], GRAIN[0][12..].to_vec()].concat();
    let mut bytes = b"RIFF\0\0\0\x01WEBPVP8X\x0a\0\0\0\x02\0\0\0".to_vec();
    bytes.extend([side(96), side(64), b"ANIM\x06\0\0\0\0\0\0\0\0\0".to_vec(), b"ANMF".to_vec()].concat());
    bytes.extend((frame.len() as u32).to_le_bytes());
    bytes.extend(frame);
    let got = thumbnail(&bytes, Scale, (36, 24), &LIMITS).unwrap();
    assert!(!got.is_partial);
    let got = thumbnail(&bytes[..bytes.len() * 7 / 10], Scale, (36, 24), &LIMITS).unwrap();
    assert!(got.is_partial && seen(&got).get_pixel(20, 1).0[3] == 255);
}

#[test]
fn files_without_rows_are_broken() {
    for sample in sources::all() {
        let what = &sample.name;
        for cut in [0, 1, 20, 36] {
            let got = thumbnail(&sample.bytes[..cut], Crop, (32, 32), &LIMITS);
            assert!(
                matches!(got, Err(ThumbnailError::Broken(_) | ThumbnailError::NotAnImage)),
                "{what}: {got:?}"
            );
        }
    }
}

/// A disk with a bad sector.
struct Bad<'a>(Cursor<&'a [u8]>, u64);

impl Read for Bad<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.position() >= self.1 {
            return Err(io::Error::from_raw_os_error(5));
        }
        let most = buffer.len().min(512);
        self.0.read(&mut buffer[..most])
    }
}

impl Seek for Bad<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// A failed read is an I/O error in every format, even if the decoder could show a part.
#[test]
fn a_failing_disk_is_not_a_broken_picture() {
    for sample in sources::all() {
        let what = &sample.name;
        let header = probe(&mut Cursor::new(sample.bytes.as_slice())).unwrap();
        let part = if what.starts_with("moving") || what == "APNG" { 4 } else { 2 };
        let mut input = io::BufReader::with_capacity(
            600,
            Bad(Cursor::new(&sample.bytes), sample.bytes.len() as u64 / part),
        );
        let spec = RenderSpec {
            crop: Rect { x: 0, y: 0, width: header.source().width, height: header.source().height },
            width: 32,
            height: 19,
            animated: false,
        };
        let got = render(&mut input, &header, &[spec], &LIMITS);
        assert!(matches!(got, Err(ThumbnailError::Io(_))), "{what}: {got:?}");
    }
}

#[test]
fn a_png_without_its_end_is_whole() {
    let whole = png(SIZE, (8, 2, 0), &[], &rows(&picture(COLOR), 3));
    for missing in [12, 16] {
        let (got, picture) = seen_of(&whole[..whole.len() - missing]);
        assert!(!got.is_partial);
        check_quadrants("no end", &picture, COLOR, 3);
    }
}

/// As in browsers: gamma 1 is linear light, and chromaticities need a gamma.
#[test]
fn a_gamma_without_a_profile_is_converted() {
    let grey = RgbaImage::from_pixel(SIZE.0, SIZE.1, image::Rgba([128, 128, 128, 255]));
    let long = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>();
    let gamma = |value: u32| (*b"gAMA", long(&[value]));
    let srgb = || (*b"cHRM", long(&[31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000]));
    let chunks: [(&[Chunk], u8); 7] = [
        (&[], 128),
        (&[gamma(100_000)], 188),
        (&[gamma(100_000), srgb()], 188),
        (&[gamma(45_455)], 128),
        (&[gamma(45_455), srgb()], 128),
        (&[srgb()], 128),
        // The mark of sRGB wins.
        (&[(*b"sRGB", vec![0]), gamma(100_000)], 128),
    ];
    for (chunks, expected) in chunks {
        for (color, interlace, channels) in [(2, 0, 3), (6, 0, 4), (0, 0, 1), (2, 1, 3)] {
            let lines = rows(&grey, channels);
            let lines = if interlace == 1 { passes_of(&grey, channels) } else { lines };
            let (_, picture) = seen_of(&png(SIZE, (8, color, interlace), chunks, &lines));
            let got = picture.get_pixel(20, 20).0[0];
            assert!(got.abs_diff(expected) <= 2, "{color}: {got}, not {expected}");
        }
    }
}

/// The passes of an interlaced picture of some channels.
fn passes_of(picture: &RgbaImage, channels: usize) -> Vec<Vec<u8>> {
    files::passes(picture)
        .into_iter()
        .map(|row| row.chunks(4).flat_map(|pixel| pixel[..channels].to_vec()).collect())
        .collect()
}

/// A GIF of the scene with its logical screen set to another size.
fn gif_on(screen: (u16, u16)) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture(COLOR).write_to(&mut bytes, ImageFormat::Gif).unwrap();
    let mut bytes = bytes.into_inner();
    bytes[6..8].copy_from_slice(&screen.0.to_le_bytes());
    bytes[8..10].copy_from_slice(&screen.1.to_le_bytes());
    bytes
}

#[test]
fn a_frame_larger_than_its_screen_is_the_picture() {
    for screen in [(80, 48), (0, 0), (160, 10), (10, 96), (1, 1)] {
        let (got, picture) = seen_of(&gif_on(screen));
        assert_eq!((got.width, got.height, got.is_partial), (80, 48, false), "{screen:?}");
        check_quadrants("GIF", &picture, COLOR, 5);
    }
    // A smaller one stays where it is.
    let got = thumbnail(&gif_on((320, 192)), Scale, (80, 48), &LIMITS).unwrap();
    let picture = seen(&got);
    assert_eq!(picture.get_pixel(70, 40).0[3], 0);
    assert!(is_near(picture.get_pixel(10, 6).0, COLOR[0], 5));
}

#[test]
fn an_interlaced_gif_is_put_in_order() {
    let scene = picture(COLOR);
    let palette: Vec<u8> = COLOR.iter().flat_map(|color| color[..3].to_vec()).collect();
    let mut bytes = Vec::new();
    let mut encoder = ::gif::Encoder::new(&mut bytes, 160, 96, &palette).unwrap();
    let lines: Vec<Vec<u8>> = scene
        .rows()
        .map(|row| row.map(|pixel| COLOR.iter().position(|color| *color == pixel.0).unwrap() as u8).collect())
        .collect();
    let order = [(0, 8), (4, 8), (2, 4), (1, 2)];
    let interlaced = order.iter().flat_map(|(first, step)| (*first..96).step_by(*step));
    let buffer: Vec<u8> = interlaced.flat_map(|row: usize| lines[row].clone()).collect();
    let frame = ::gif::Frame {
        width: 160,
        height: 96,
        interlaced: true,
        buffer: buffer.into(),
        ..Default::default()
    };
    encoder.write_frame(&frame).unwrap();
    drop(encoder);
    let (got, picture) = seen_of(&bytes);
    assert!(!got.is_partial);
    check_quadrants("interlaced GIF", &picture, COLOR, 2);
    // Coarse where later passes lack.
    let (got, picture) = seen_of(&bytes[..bytes.len() * 6 / 10]);
    assert!(got.is_partial);
    check_quadrants("interlaced GIF, cut", &picture, COLOR, 8);
}

/// A bitmap of 32 bits with a header of some size and masks.
fn bitmap(header: u32, alpha_mask: u32, alpha: u8, is_top_down: bool) -> Vec<u8> {
    let scene = picture(COLOR);
    let mut file = b"BM\0\0\0\0\0\0\0\0".to_vec();
    file.extend((14 + header).to_le_bytes());
    file.extend(header.to_le_bytes());
    file.extend(160_i32.to_le_bytes());
    file.extend(if is_top_down { -96_i32 } else { 96 }.to_le_bytes());
    file.extend([1, 0, 32, 0]);
    file.extend([3, 0, 0, 0]);
    file.extend([0; 20]);
    for mask in [0xff_0000, 0xff00, 0xff, alpha_mask] {
        file.extend(u32::to_le_bytes(mask));
    }
    file.resize(14 + header as usize, 0);
    let mut lines: Vec<Vec<u8>> = scene
        .rows()
        .map(|row| row.flat_map(|pixel| [pixel.0[2], pixel.0[1], pixel.0[0], alpha]).collect())
        .collect();
    if !is_top_down {
        lines.reverse();
    }
    file.extend(lines.concat());
    file
}

#[test]
fn a_bitmap_whose_alpha_is_0_everywhere_is_opaque() {
    for is_top_down in [false, true] {
        for (header, mask, alpha) in [(124, 0xff00_0000, 0), (108, 0xff00_0000, 0), (124, 0, 77), (108, 0, 0)]
        {
            let (got, picture) = seen_of(&bitmap(header, mask, alpha, is_top_down));
            assert!(!got.is_partial);
            check_quadrants(&format!("BMP {header} {mask:x}"), &picture, COLOR, 3);
        }
        let (_, picture) = seen_of(&bitmap(124, 0xff00_0000, 128, is_top_down));
        check_quadrants("half", &picture, COLOR.map(|[r, g, b, _]| [r, g, b, 128]), 3);
    }
}

#[test]
fn run_length_encoded_bitmaps_are_read() {
    for (bits, packing) in [(8_u16, 1_u32), (4, 2)] {
        let mut file = b"BM\0\0\0\0\0\0\0\0".to_vec();
        file.extend((14 + 40 + 16_u32).to_le_bytes());
        file.extend([40_u32, 160, 96].map(u32::to_le_bytes).concat());
        file.extend([1, 0]);
        file.extend(bits.to_le_bytes());
        file.extend(packing.to_le_bytes());
        file.extend([0_u32, 0, 0, 4, 0].map(u32::to_le_bytes).concat());
        for [red, green, blue, _] in COLOR {
            file.extend([blue, green, red, 0]);
        }
        let run = |count: u8, index: u8| [count, if bits == 8 { index } else { index << 4 | index }];
        for row in 0..96 {
            let (left, right) = if row < 48 { (2, 3) } else { (0, 1) };
            file.extend(run(80, left));
            if row % 2 == 0 {
                file.extend(run(80, right));
            } else {
                // As they are: three, then a run.
                let three: &[u8] =
                    if bits == 8 { &[right, right, right, 0] } else { &[right << 4 | right, right << 4] };
                file.extend([0, 3]);
                file.extend(three);
                file.extend(run(77, right));
            }
            file.extend([0, 0]);
        }
        let end = file.len();
        file.extend([0, 1]);
        let (got, picture) = seen_of(&file);
        assert!(!got.is_partial);
        check_quadrants(&format!("runs of {bits} bits"), &picture, COLOR, 2);
        let (got, picture) = seen_of(&file[..end * 8 / 10]);
        assert!(got.is_partial);
        assert!(is_near(picture.get_pixel(60, 40).0, COLOR[3], 2) && picture.get_pixel(60, 2).0[3] == 0);
    }
}

#[test]
fn flags_of_a_webp_may_name_chunks_that_are_not_there() {
    let whole = webp(&picture(COLOR), &[]);
    // ICC, alpha, EXIF, XMP, and all of them; the animation's flag too, as there is but one picture.
    for flags in [0x20, 0x10, 8, 4, 0x3c, 0x3e] {
        let mut odd = whole.clone();
        odd[20] = flags;
        let (got, picture) = seen_of(&odd);
        assert!(!got.is_partial, "{flags:x}");
        check_quadrants("flags", &picture, COLOR, 26);
    }
}

/// A wrong checksum of a PNG's pixel data does not prevent a thumbnail.
#[test]
fn a_wrong_checksum_of_pixels_is_ignored() {
    let mut bytes = png(SIZE, (8, 2, 0), &[], &rows(&picture(COLOR), 3));
    let at = bytes.len() - 12 - 2;
    bytes[at] ^= 0xff;
    check_quadrants("checksum", &seen_of(&bytes).1, COLOR, 3);
    // And what stands behind the pixels does not matter.
    let mut bytes = png(SIZE, (8, 2, 0), &[], &rows(&picture(COLOR), 3));
    let end = bytes.len() - 12;
    bytes.splice(end.., chunk(*b"zzZZ", b"what"));
    check_quadrants("what", &seen_of(&bytes).1, COLOR, 3);
}

/// Every kind of TIFF that is read besides those of [`sources`].
#[test]
fn tiffs_of_other_programs_are_read() {
    for (what, bytes, scene) in tiffs::all() {
        let (got, picture) = seen_of(&bytes);
        assert!(!got.is_partial, "{what}");
        check_quadrants(&what, &picture, scene, 26);
    }
}

#[test]
fn unsupported_tiffs_are_not_called_broken() {
    for (what, bytes) in tiffs::not_read() {
        let got = probe(&mut Cursor::new(&bytes)).and_then(|_| thumbnail(&bytes, Scale, (80, 48), &LIMITS));
        assert!(
            matches!(got, Err(ThumbnailError::Unsupported(kind)) if kind.contains("TIFF") || kind.contains("JPEG")),
            "{what}: {got:?}"
        );
    }
}

#[test]
fn unsupported_jpegs_and_bitmaps_are_not_called_broken() {
    let whole = raw_jpeg(&vec![40; 24_000], tiff_parts::SIZE, 3);
    let frame = memchr::memmem::find(&whole, b"\xff\xc0").unwrap();
    let mut files: Vec<Vec<u8>> = [0xc3, 0xc5, 0xc9, 0xca, 0xcb, 0xcd, 0xf7]
        .map(|code| [&whole[..=frame], &[code], &whole[frame + 2..]].concat())
        .into();
    let hierarchical = [&whole[..2], b"\xff\xde\0\x05\x08\0\0", &whole[2..]].concat();
    let deep = [&whole[..frame + 4], &[12], &whole[frame + 5..]].concat();
    files.extend([hierarchical, deep, raw_jpeg(&vec![40; 16_000], tiff_parts::SIZE, 2)]);
    for packing in [4, 5] {
        let mut bitmap = bitmap(40, 0, 255, false);
        bitmap[30] = packing;
        files.push(bitmap);
    }
    for bytes in files {
        let got = thumbnail(&bytes, Scale, (80, 48), &LIMITS);
        assert!(matches!(got, Err(ThumbnailError::Unsupported(_))), "{got:?}");
    }
}

#[test]
fn damaged_tiffs_show_what_is_there_or_are_broken() {
    let scene = picture(COLOR);
    let whole = tiff(&scene, &Ink { ..RGB }, &rows(&scene, 3));
    // A strip that begins or ends past the end.
    for (at, value) in [(0, 0xffff_0000_u32), (1, 1)] {
        let mut odd = whole.clone();
        let tag = [273_u16, 279][at];
        let entry = (0..odd.len()).rev().find(|place| odd[*place..].starts_with(&tag.to_le_bytes())).unwrap();
        odd[entry + 8..entry + 12].copy_from_slice(&value.to_le_bytes());
        let got = thumbnail(&odd, Scale, (80, 48), &LIMITS);
        assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{got:?}");
    }
    for (what, bytes, damage) in tiffs::in_strips() {
        let mut zeroed = bytes.clone();
        zeroed[damage.clone()].fill(0);
        let (_, picture) = seen_of(&zeroed);
        let (_, whole) = seen_of(&bytes);
        assert_eq!(picture.dimensions(), whole.dimensions(), "{what}");
        // The first strip is as it was.
        assert!((0..80).all(|x| is_near(picture.get_pixel(x, 4).0, whole.get_pixel(x, 4).0, 3)), "{what}");
    }
}
/// After damage in a fax, rows that can be found again are shown and others are left out.
#[test]
fn damaged_faxes_are_not_black_after_the_damage() {
    for photometric in [0, 1] {
        for (number, chunks) in [(4, tiff_parts::fax(4, false)), (2, tiff_parts::fax(2, false))] {
            let (file, spans) = tiff_parts::Tiff {
                chunks: vec![chunks.concat()],
                ..tiff_parts::Tiff::new(1, 1, photometric, Vec::new()).with(259, &[number])
            }
            .finish();
            let middle = spans[0].start + spans[0].len() / 8;
            // With a one behind the zeros it looks like the end of the page.
            for last in [0, 1] {
                let mut bytes = file.clone();
                bytes[middle..middle + 8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, last]);
                let (got, picture) = seen_of(&bytes);
                let (_, whole) = seen_of(&file);
                let what = format!("{number} {photometric} {last}");
                assert!(is_near(picture.get_pixel(20, 2).0, whole.get_pixel(20, 2).0, 4), "{what}");
                assert!(got.is_partial, "{what}");
                let below = picture.get_pixel(20, 14).0;
                let is_there = is_near(below, whole.get_pixel(20, 14).0, 4);
                assert!(if number == 2 { is_there } else { is_there || below[3] == 0 }, "{what}: {below:?}");
            }
        }
    }
}
