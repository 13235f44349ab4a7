//! Files of every kind that show the same scene.

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, RgbaImage};

use super::super::probe::Format;
use super::Cursor;
use super::files::{Chunk, Ink, RGB, chunk, exif, fctl, jpeg, lines, passes, png, rows, tiff, webp, zlib};

/// Pixels of the scene as it is seen.
pub(super) const SIZE: (u32, u32) = (160, 96);

/// What the four quadrants show: left top, right top, left bottom, right bottom.
pub(super) type Scene = [[u8; 4]; 4];

/// In colour.
pub(super) const COLOR: Scene =
    [[220, 40, 40, 255], [40, 180, 60, 255], [40, 60, 210, 255], [230, 210, 50, 255]];
/// In grey.
const GREY: Scene = [[30, 30, 30, 255], [90, 90, 90, 255], [160, 160, 160, 255], [230, 230, 230, 255]];
/// In black and white.
const BITS: Scene = [[0, 0, 0, 255], [255, 255, 255, 255], [255, 255, 255, 255], [0, 0, 0, 255]];

/// Written into every file that has a place for it.
pub(super) const SECRET: &[u8] = b"GPS 52.5N 13.4E";

/// A file and what its thumbnails must show.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) bytes: Vec<u8>,
    pub(super) scene: Scene,
    /// How far a channel may be off.
    pub(super) tolerance: u8,
}

impl Source {
    fn new(name: &str, format: Format, bytes: Vec<u8>, scene: Scene, tolerance: u8) -> Self {
        Self { name: name.to_owned(), format, bytes, scene, tolerance }
    }
}

/// Every kind, upright.
pub(super) fn all() -> Vec<Source> {
    let mut all = jpegs();
    all.extend(pngs());
    all.extend(others());
    all.extend(tiffs());
    all
}

/// Each format that can say an orientation, in all eight.
pub(super) fn oriented() -> Vec<Source> {
    let mut all = Vec::new();
    for value in 1..=8 {
        let stored = stored(COLOR, value);
        let exif = exif(value);
        let mut add = |name: &str, format, bytes, tolerance| {
            let name = format!("{name} {value}");
            all.push(Source { name, format, bytes, scene: COLOR, tolerance });
        };
        let sampling = jpeg_encoder::SamplingFactor::F_2_2;
        add("JPEG", Format::Jpeg, jpeg(&stored, &exif, jpeg_encoder::ColorType::Rgb, sampling), 24);
        let size = stored.dimensions();
        let chunks = [(*b"eXIf", exif.clone()), (*b"tEXt", [b"Comment\0", SECRET].concat())];
        add("PNG", Format::Png, png(size, (8, 2, 0), &chunks, &rows(&stored, 3)), 2);
        let scan = passes(&stored);
        add("interlaced PNG", Format::Png, png(size, (8, 6, 1), &chunks, &scan), 2);
        add("WebP", Format::WebP, webp(&stored, &[(*b"EXIF", exif.clone())]), 2);
        let marked = [b"Exif\0\0".as_slice(), &exif].concat();
        add("WebP, marked", Format::WebP, webp(&stored, &[(*b"EXIF", marked)]), 2);
        add("TIFF", Format::Tiff, tiff(&stored, &Ink { orientation: value, ..RGB }, &rows(&stored, 3)), 2);
    }
    all
}

/// The scene as a picture.
pub(super) fn picture(scene: Scene) -> RgbaImage {
    RgbaImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        image::Rgba(scene[usize::from(x >= SIZE.0 / 2) + 2 * usize::from(y >= SIZE.1 / 2)])
    })
}

/// The scene with nothing in its last quadrant.
fn with_hole(mut scene: Scene) -> Scene {
    scene[3] = [scene[3][0], scene[3][1], scene[3][2], 0];
    scene
}

/// The scene as it must be stored to be seen upright.
fn stored(scene: Scene, orientation: u8) -> RgbaImage {
    let mut picture = DynamicImage::from(picture(scene));
    // All but the quarter turns undo themselves.
    let undo = [1, 2, 3, 4, 5, 8, 7, 6][usize::from(orientation) - 1];
    picture.apply_orientation(Orientation::from_exif(undo).unwrap());
    picture.into_rgba8()
}

/// Each sample twice: 16 bits.
fn doubled(rows: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    rows.into_iter().map(|row| row.into_iter().flat_map(|sample| [sample, sample]).collect()).collect()
}

/// Samples of `depth` bits out of their highest ones.
fn packed(rows: Vec<Vec<u8>>, depth: u8) -> Vec<Vec<u8>> {
    let pack = |samples: &[u8]| {
        samples
            .iter()
            .enumerate()
            .fold(0, |byte, (at, sample)| byte | (sample >> (8 - depth)) << (8 - depth - at as u8 * depth))
    };
    let per_byte = usize::from(8 / depth);
    rows.into_iter().map(|row| row.chunks(per_byte).map(pack).collect()).collect()
}

fn jpegs() -> Vec<Source> {
    use jpeg_encoder::{ColorType, SamplingFactor};
    let seen = picture(COLOR);
    let inks = RgbaImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        let [r, g, b, _] = seen.get_pixel(x, y).0;
        let black = 255 - r.max(g).max(b);
        let ink = |light: u8| 255 - (u16::from(light) * 255 / u16::from(255 - black)) as u8;
        image::Rgba([ink(r), ink(g), ink(b), black])
    });
    let adobe = jpeg(&inks, &exif(1), ColorType::Cmyk, SamplingFactor::F_1_1);
    let at = adobe.windows(5).position(|word| word == b"Adobe").unwrap();
    // Without Adobe's segment, from 4 bytes before its name to 12 after, they are the same inks to browsers.
    let mut plain = adobe.clone();
    plain.drain(at - 4..at + 12);
    let grey = picture(GREY);
    let rgb = |sampling| jpeg(&seen, &exif(1), ColorType::Rgb, sampling);
    let mut progressive = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut progressive, 95);
    encoder.set_progressive(true);
    encoder.encode(&rows(&seen, 3).concat(), SIZE.0 as u16, SIZE.1 as u16, ColorType::Rgb).unwrap();
    [
        ("grey JPEG", jpeg(&grey, &exif(1), ColorType::Luma, SamplingFactor::F_1_1), GREY, 6),
        ("4:4:4 JPEG", rgb(SamplingFactor::F_1_1), COLOR, 24),
        ("4:2:2 JPEG", rgb(SamplingFactor::F_2_1), COLOR, 24),
        ("4:2:0 JPEG", rgb(SamplingFactor::F_2_2), COLOR, 24),
        ("progressive JPEG", progressive, COLOR, 24),
        ("CMYK JPEG", adobe, COLOR, 24),
        ("CMYK JPEG without Adobe's segment", plain, COLOR, 24),
        ("YCCK JPEG", jpeg(&inks, &exif(1), ColorType::CmykAsYcck, SamplingFactor::F_2_2), COLOR, 24),
    ]
    .map(|(name, bytes, scene, tolerance)| Source::new(name, Format::Jpeg, bytes, scene, tolerance))
    .into()
}

fn pngs() -> Vec<Source> {
    let (color, grey, bits) = (picture(COLOR), picture(GREY), picture(BITS));
    let (hole, grey_hole) = (picture(with_hole(COLOR)), picture(with_hole(GREY)));
    let palette: Vec<u8> = COLOR.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect();
    let indices = RgbaImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        let quadrant = u8::from(x >= SIZE.0 / 2) + 2 * u8::from(y >= SIZE.1 / 2);
        image::Rgba([quadrant << 6, 0, 0, 0])
    });
    let indices = packed(rows(&indices, 1), 2);
    let grey_alpha = |picture: &RgbaImage| -> Vec<Vec<u8>> {
        let pairs = |row: Vec<u8>| row.as_chunks::<4>().0.iter().flat_map(|[g, _, _, a]| [*g, *a]).collect();
        rows(picture, 4).into_iter().map(pairs).collect()
    };
    let plte = || (*b"PLTE", palette.clone());
    let trns = |bytes: &[u8]| (*b"tRNS", bytes.to_vec());
    // Of one bit a sample, black everywhere is transparent.
    let both_holes = [[0, 0, 0, 0], BITS[1], BITS[2], [0, 0, 0, 0]];
    let of = |header, chunks: &[Chunk], rows: &[Vec<u8>]| png(SIZE, header, chunks, rows);
    let mut apng = of((8, 2, 0), &[(*b"acTL", vec![0, 0, 0, 2, 0, 0, 0, 0]), fctl(0)], &rows(&color, 3));
    let black = [1_u32.to_be_bytes().to_vec(), zlib(&lines(&vec![vec![0; 480]; 96]))].concat();
    let (kind, control) = fctl(2);
    let end = apng.len() - 12;
    apng.splice(end..end, [chunk(kind, &control), chunk(*b"fdAT", &black)].concat());
    [
        ("PNG", of((8, 2, 0), &[], &rows(&color, 3)), COLOR),
        ("16-bit PNG", of((16, 2, 0), &[], &doubled(rows(&color, 3))), COLOR),
        ("grey PNG", of((8, 0, 0), &[], &rows(&grey, 1)), GREY),
        ("16-bit grey PNG", of((16, 0, 0), &[], &doubled(rows(&grey, 1))), GREY),
        ("1-bit PNG", of((1, 0, 0), &[], &packed(rows(&bits, 1), 1)), BITS),
        (
            "1-bit PNG with a tRNS of too many bits",
            of((1, 0, 0), &[trns(&[0, 0xfe])], &packed(rows(&bits, 1), 1)),
            both_holes,
        ),
        ("1-bit PNG with tRNS", of((1, 0, 0), &[trns(&[0, 0])], &packed(rows(&bits, 1), 1)), both_holes),
        ("palette PNG", of((2, 3, 0), &[plte()], &indices), COLOR),
        (
            "palette PNG with tRNS",
            of((2, 3, 0), &[plte(), trns(&[255, 255, 255, 0])], &indices),
            with_hole(COLOR),
        ),
        (
            "RGB PNG with tRNS",
            of((8, 2, 0), &[trns(&[0, 230, 0, 210, 0, 50])], &rows(&color, 3)),
            with_hole(COLOR),
        ),
        ("PNG with alpha", of((8, 6, 0), &[], &rows(&hole, 4)), with_hole(COLOR)),
        ("16-bit PNG with alpha", of((16, 6, 0), &[], &doubled(rows(&hole, 4))), with_hole(COLOR)),
        ("grey PNG with alpha", of((8, 4, 0), &[], &grey_alpha(&grey_hole)), with_hole(GREY)),
        ("interlaced PNG with alpha", of((8, 6, 1), &[], &passes(&hole)), with_hole(COLOR)),
        ("APNG", apng, COLOR),
    ]
    .map(|(name, bytes, scene)| Source::new(name, Format::Png, bytes, scene, 2))
    .into()
}

fn others() -> Vec<Source> {
    let (color, hole) = (picture(COLOR), picture(with_hole(COLOR)));
    let rgb = DynamicImage::from(color.clone()).into_rgb8();
    let by_image = |picture: DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let mut moving = Cursor::new(Vec::new());
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut moving);
    let black = RgbaImage::from_pixel(SIZE.0, SIZE.1, image::Rgba([0, 0, 0, 255]));
    encoder.encode_frames([color.clone(), black].map(image::Frame::new)).unwrap();
    drop(encoder);
    let grey = DynamicImage::from(picture(GREY)).into_luma8().into();
    vec![
        Source::new("GIF", Format::Gif, by_image(color.clone().into(), ImageFormat::Gif), COLOR, 4),
        Source::new(
            "GIF with a hole",
            Format::Gif,
            by_image(hole.clone().into(), ImageFormat::Gif),
            with_hole(COLOR),
            4,
        ),
        Source::new("moving GIF", Format::Gif, moving.into_inner(), COLOR, 4),
        Source::new("lossless WebP", Format::WebP, webp(&color, &[]), COLOR, 2),
        Source::new("lossless WebP with alpha", Format::WebP, webp(&hole, &[]), with_hole(COLOR), 2),
        Source::new("lossy WebP", Format::WebP, LOSSY_WEBP.to_vec(), COLOR, 24),
        Source::new("lossy WebP with alpha", Format::WebP, LOSSY_ALPHA_WEBP.to_vec(), with_hole(COLOR), 24),
        Source::new("BMP", Format::Bmp, by_image(rgb.into(), ImageFormat::Bmp), COLOR, 2),
        Source::new("BMP with a palette", Format::Bmp, by_image(grey, ImageFormat::Bmp), GREY, 2),
        Source::new(
            "BMP with alpha",
            Format::Bmp,
            by_image(hole.into(), ImageFormat::Bmp),
            with_hole(COLOR),
            2,
        ),
    ]
}

/// Nothing in Rust writes lossy WebP; `tests/fixtures/README.md` says what wrote these.
const LOSSY_WEBP: &[u8] = include_bytes!("../../../tests/fixtures/quadrants.webp");
/// The same with a hole.
const LOSSY_ALPHA_WEBP: &[u8] = include_bytes!("../../../tests/fixtures/quadrants-alpha.webp");

fn tiffs() -> Vec<Source> {
    let (color, grey, bits, hole) = (picture(COLOR), picture(GREY), picture(BITS), picture(with_hole(COLOR)));
    let inks: Vec<Vec<u8>> = rows(&color, 3)
        .into_iter()
        .map(|row| row.as_chunks::<3>().0.iter().flat_map(|[r, g, b]| [!r, !g, !b, 0]).collect())
        .collect();
    let planes: Vec<Vec<u8>> =
        (0..3).map(|channel| color.pixels().map(|pixel| pixel.0[channel]).collect()).collect();
    let floats: Vec<Vec<u8>> = rows(&color, 3)
        .into_iter()
        .map(|row| row.into_iter().flat_map(|sample| (f32::from(sample) / 255.0).to_le_bytes()).collect())
        .collect();
    let inverted =
        packed(rows(&bits, 1), 1).into_iter().map(|row| row.into_iter().map(|byte| !byte).collect());
    let inverted: Vec<Vec<u8>> = inverted.collect();
    let translucent = COLOR.map(|[r, g, b, _]| [r, g, b, 128]);
    let multiplied = picture(COLOR.map(|color| {
        let [r, g, b, _] = color.map(|channel| ((u16::from(channel) * 128 + 127) / 255) as u8);
        [r, g, b, 128]
    }));
    let of = |picture: &RgbaImage, ink: Ink, rows: &[Vec<u8>]| tiff(picture, &ink, rows);
    [
        ("TIFF", of(&color, RGB, &rows(&color, 3)), COLOR),
        ("16-bit TIFF", of(&color, Ink { depth: 16, ..RGB }, &doubled(rows(&color, 3))), COLOR),
        ("TIFF of floats", of(&color, Ink { depth: 32, ..RGB }, &floats), COLOR),
        ("TIFF of planes", of(&color, Ink { planar: true, ..RGB }, &planes), COLOR),
        ("TIFF with alpha", of(&hole, Ink { samples: 4, ..RGB }, &rows(&hole, 4)), with_hole(COLOR)),
        (
            "TIFF with alpha multiplied in",
            of(&color, Ink { samples: 4, alpha: 1, ..RGB }, &rows(&multiplied, 4)),
            translucent,
        ),
        ("grey TIFF", of(&grey, Ink { samples: 1, kind: 1, ..RGB }, &rows(&grey, 1)), GREY),
        (
            "1-bit TIFF",
            of(&bits, Ink { depth: 1, samples: 1, kind: 1, ..RGB }, &packed(rows(&bits, 1), 1)),
            BITS,
        ),
        ("1-bit TIFF, white is 0", of(&bits, Ink { depth: 1, samples: 1, kind: 0, ..RGB }, &inverted), BITS),
        ("CMYK TIFF", of(&color, Ink { samples: 4, kind: 5, ..RGB }, &inks), COLOR),
        (
            "16-bit CMYK TIFF",
            of(&color, Ink { depth: 16, samples: 4, kind: 5, ..RGB }, &doubled(inks.clone())),
            COLOR,
        ),
    ]
    .map(|(name, bytes, scene)| Source::new(name, Format::Tiff, bytes, scene, 2))
    .into()
}

/// A press on which cyan is printed as green, to tell a profile that is used from one that is not.
pub(super) fn odd_press() -> Vec<u8> {
    let fixed = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>();
    let identity: Vec<u8> = (0..=255).collect();
    let mut table = b"mft1\0\0\0\0\x04\x03\x02\0".to_vec();
    table.extend(fixed(&[1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 16]));
    table.extend(identity.repeat(4));
    // Cyan counts 8, black 1; lightness, then green to red and blue to yellow around 128.
    for inks in 0..16 {
        table.extend(match (inks & 1 == 1, inks & 8 == 8) {
            (true, _) => [0, 128, 128],
            (false, true) => [150, 68, 168],
            (false, false) => [255, 128, 128],
        });
    }
    table.extend(identity.repeat(3));
    let mut profile = fixed(&[(144 + table.len()) as u32, 0, 0x0210_0000]);
    profile.extend(b"prtrCMYKLab ");
    profile.extend([0; 12]);
    profile.extend(b"acsp");
    profile.resize(68, 0);
    // D50.
    profile.extend(fixed(&[0xf6d6, 0x1_0000, 0xd32d]));
    profile.resize(128, 0);
    profile.extend(fixed(&[1]));
    profile.extend(b"A2B0");
    profile.extend(fixed(&[144, table.len() as u32]));
    profile.extend(table);
    profile
}

/// A sheet of cyan as files that carry [`odd_press`].
pub(super) fn printed() -> [(&'static str, Vec<u8>); 2] {
    let sheet = RgbaImage::from_pixel(SIZE.0, SIZE.1, image::Rgba([255, 0, 0, 0]));
    let ink = Ink { samples: 4, kind: 5, profile: odd_press(), ..RGB };
    let mut jpeg = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 95);
    encoder.add_icc_profile(&odd_press()).unwrap();
    let (width, height) = (SIZE.0 as u16, SIZE.1 as u16);
    encoder.encode(&sheet, width, height, jpeg_encoder::ColorType::Cmyk).unwrap();
    [("TIFF", tiff(&sheet, &ink, &rows(&sheet, 4))), ("JPEG", jpeg)]
}
