//! Writers of files: by hand where no encoder writes that kind, and so that no decoder is tested with its own crate.

use image::{ImageFormat, RgbaImage};

use super::Cursor;
use super::sources::{SECRET, SIZE};

/// An EXIF block with an orientation and a secret.
pub(super) fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"MM\0*\0\0\0\x08\0\x02".to_vec();
    exif.extend([0x01, 0x0e, 0, 2, 0, 0, 0, SECRET.len() as u8, 0, 0, 0, 38]);
    exif.extend([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0]);
    exif.extend([0; 4]);
    exif.extend(SECRET);
    exif
}

/// A JPEG with an EXIF block.
pub(super) fn jpeg(
    picture: &RgbaImage,
    exif: &[u8],
    color: jpeg_encoder::ColorType,
    sampling: jpeg_encoder::SamplingFactor,
) -> Vec<u8> {
    use jpeg_encoder::ColorType::{Cmyk, CmykAsYcck, Luma};
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
    encoder.set_sampling_factor(sampling);
    encoder.add_exif_metadata(exif).unwrap();
    let channels = if color == Luma {
        1
    } else if matches!(color, Cmyk | CmykAsYcck) {
        4
    } else {
        3
    };
    let (width, height) = picture.dimensions();
    encoder.encode(&rows(picture, channels).concat(), width as u16, height as u16, color).unwrap();
    bytes
}

/// A chunk's name and data.
pub(super) type Chunk = ([u8; 4], Vec<u8>);

/// A PNG: depth, colour type and interlacing, chunks before the pixels, rows.
pub(super) fn png(
    (width, height): (u32, u32),
    (depth, color, interlace): (u8, u8, u8),
    chunks: &[Chunk],
    rows: &[Vec<u8>],
) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, color, 0, 0, interlace]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(chunk(*b"IHDR", &header));
    for (kind, data) in chunks {
        file.extend(chunk(*kind, data));
    }
    file.extend(chunk(*b"IDAT", &zlib(&lines(rows))));
    file.extend(chunk(*b"IEND", &[]));
    file
}

/// Rows, each after the filter that leaves it as it is.
pub(super) fn lines(rows: &[Vec<u8>]) -> Vec<u8> {
    rows.iter().flat_map(|row| std::iter::once(0).chain(row.iter().copied())).collect()
}

/// The rows of the seven passes of an interlaced PNG with alpha.
pub(super) fn passes(picture: &RgbaImage) -> Vec<Vec<u8>> {
    const PASSES: [(u32, u32, u32, u32); 7] =
        [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];
    let (width, height) = picture.dimensions();
    let mut rows = Vec::new();
    for (x, y, right, down) in PASSES {
        for y in (y..height).step_by(down as usize) {
            let row = (x..width).step_by(right as usize).flat_map(|x| picture.get_pixel(x, y).0);
            rows.push(row.collect());
        }
    }
    rows
}

/// A frame of the whole size.
pub(super) fn fctl(sequence: u32) -> Chunk {
    let numbers = [sequence, SIZE.0, SIZE.1, 0, 0].map(u32::to_be_bytes).concat();
    (*b"fcTL", [numbers.as_slice(), &[0, 1, 0, 10, 0, 0]].concat())
}

/// A PNG's chunk.
pub(super) fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    let crc = !body.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    });
    [&(data.len() as u32).to_be_bytes()[..], &body, &crc.to_be_bytes()].concat()
}

/// A zlib stream that stores.
pub(super) fn zlib(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = data.chunks(65_535).count();
    for (at, block) in data.chunks(65_535).enumerate() {
        let length = block.len() as u16;
        stream.push(u8::from(at + 1 == blocks));
        stream.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        stream.extend(block);
    }
    let (a, b) = data.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}

/// A lossless WebP in the extended format, with chunks after the picture.
pub(super) fn webp(picture: &RgbaImage, chunks: &[Chunk]) -> Vec<u8> {
    let mut simple = Cursor::new(Vec::new());
    picture.write_to(&mut simple, ImageFormat::WebP).unwrap();
    let (width, height) = picture.dimensions();
    let side = |length: u32| (length - 1).to_le_bytes()[..3].to_vec();
    // Alpha is announced, and EXIF.
    let mut head = vec![if chunks.is_empty() { 0x10 } else { 0x18 }, 0, 0, 0];
    head.extend([side(width), side(height)].concat());
    let mut body = b"WEBP".to_vec();
    let mut add = |name: [u8; 4], data: &[u8]| {
        body.extend([name.as_slice(), &(data.len() as u32).to_le_bytes(), data].concat());
        body.extend(vec![0; data.len() % 2]);
    };
    add(*b"VP8X", &head);
    let stream = simple.into_inner();
    let length = u32::from_le_bytes(stream[16..20].try_into().unwrap()) as usize;
    add(*b"VP8L", &stream[20..20 + length]);
    for (name, data) in chunks {
        add(*name, data);
    }
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

/// What a TIFF's samples are.
#[derive(Clone)]
pub(super) struct Ink {
    pub(super) depth: u16,
    pub(super) samples: u16,
    /// 0: white is 0; 1: black is 0; 2: RGB; 5: inks.
    pub(super) kind: u16,
    pub(super) planar: bool,
    /// What `ExtraSamples` says of the alpha beside RGB. 1: multiplied in; 2: apart.
    pub(super) alpha: u16,
    pub(super) orientation: u8,
    /// A colour profile, or nothing.
    pub(super) profile: Vec<u8>,
}

/// The common kind.
pub(super) const RGB: Ink =
    Ink { depth: 8, samples: 3, kind: 2, planar: false, alpha: 2, orientation: 1, profile: Vec::new() };

/// A little-endian TIFF in one strip, or one for each plane.
pub(super) fn tiff(picture: &RgbaImage, ink: &Ink, rows: &[Vec<u8>]) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let mut file = b"II*\0\0\0\0\0".to_vec();
    let mut place = |data: &[u8]| {
        file.extend(vec![0; file.len() % 2]);
        file.extend(data);
        (file.len() - data.len()) as u32
    };
    let shorts = |value: u16| value.to_le_bytes().repeat(usize::from(ink.samples));
    let strips: Vec<Vec<u8>> = if ink.planar { rows.to_vec() } else { vec![rows.concat()] };
    let count = strips.len() as u32;
    let offsets: Vec<u32> = strips.iter().map(|strip| place(strip)).collect();
    let lengths: Vec<u32> = strips.iter().map(|strip| strip.len() as u32).collect();
    let mut longs = |values: &[u32]| match values {
        [value] => *value,
        values => place(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()),
    };
    let (offsets, lengths) = (longs(&offsets), longs(&lengths));
    let mut per_sample = |value: u16| match ink.samples {
        1 => u32::from(value),
        _ => place(&shorts(value)),
    };
    let samples = u32::from(ink.samples);
    let bits = per_sample(ink.depth);
    let format = per_sample(if ink.depth == 32 { 3 } else { 1 });
    let description = place(SECRET);
    let profile = place(&ink.profile);
    let mut entries = vec![
        (256_u16, 4_u16, 1_u32, width),
        (257, 4, 1, height),
        (258, 3, samples, bits),
        (259, 3, 1, 1),
        (262, 3, 1, u32::from(ink.kind)),
        (270, 2, SECRET.len() as u32, description),
        (273, 4, count, offsets),
        (274, 3, 1, u32::from(ink.orientation)),
        (277, 3, 1, samples),
        (278, 4, 1, height),
        (279, 4, count, lengths),
        (284, 3, 1, if ink.planar { 2 } else { 1 }),
    ];
    if ink.samples == 4 && ink.kind == 2 {
        entries.push((338, 3, 1, u32::from(ink.alpha)));
    }
    entries.push((339, 3, samples, format));
    if !ink.profile.is_empty() {
        entries.push((34_675, 7, ink.profile.len() as u32, profile));
    }
    let start = place(&(entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend(
            [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()]
                .concat(),
        );
    }
    file.extend([0; 4]);
    file[4..8].copy_from_slice(&start.to_le_bytes());
    file
}

/// The first channels of each pixel.
pub(super) fn rows(picture: &RgbaImage, channels: usize) -> Vec<Vec<u8>> {
    let row = |row: image::buffer::Pixels<'_, image::Rgba<u8>>| {
        row.flat_map(|pixel| pixel.0[..channels].to_vec()).collect()
    };
    picture.rows().map(row).collect()
}
