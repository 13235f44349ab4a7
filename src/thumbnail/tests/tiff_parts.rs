//! Writers of TIFF's chunks and directories, by hand.

use std::fmt::Write as _;
use std::ops::Range;

use image::RgbaImage;

use super::sources::{COLOR, Scene};

/// Columns and rows: no multiples of tiles.
pub(super) const SIZE: (u32, u32) = (100, 80);
/// In grey.
pub(super) const GREY: Scene =
    [[30, 30, 30, 255], [90, 90, 90, 255], [160, 160, 160, 255], [230, 230, 230, 255]];
/// In black and white.
pub(super) const BITS: Scene = [[0, 0, 0, 255], [255, 255, 255, 255], [255, 255, 255, 255], [0, 0, 0, 255]];

/// A file.
pub(super) struct Tiff {
    /// Tags with their numbers, each of 16 bits, or of 32 from 65 536 on.
    pub(super) tags: Vec<(u16, Vec<u32>)>,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) is_tiled: bool,
    pub(super) is_big: bool,
    pub(super) is_motorola: bool,
}

impl Tiff {
    /// Chunks of rows or tiles.
    pub(super) fn new(samples: u32, depth: u32, photometric: u32, chunks: Vec<Vec<u8>>) -> Self {
        let tags = vec![
            (256, vec![SIZE.0]),
            (257, vec![SIZE.1]),
            (258, vec![depth; samples as usize]),
            (262, vec![photometric]),
            (277, vec![samples]),
        ];
        Self { tags, chunks, is_tiled: false, is_big: false, is_motorola: false }
    }

    pub(super) fn with(mut self, tag: u16, values: &[u32]) -> Self {
        self.tags.retain(|(other, _)| *other != tag);
        self.tags.push((tag, values.to_vec()));
        self
    }

    pub(super) fn tiled(mut self, width: u32, height: u32) -> Self {
        self.is_tiled = true;
        self.with(322, &[width]).with(323, &[height])
    }

    pub(super) fn big(mut self) -> Self {
        self.is_big = true;
        self
    }

    pub(super) fn motorola(mut self) -> Self {
        self.is_motorola = true;
        self
    }

    pub(super) fn number(&self, value: u64, size: usize) -> Vec<u8> {
        let mut bytes = value.to_le_bytes()[..size].to_vec();
        if self.is_motorola {
            bytes.reverse();
        }
        bytes
    }

    /// The file, and where its chunks are.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<Range<usize>>) {
        let (head, entry, place) = if self.is_big { (16, 20, 8) } else { (8, 12, 4) };
        let (offsets, lengths) = if self.is_tiled { (324, 325) } else { (273, 279) };
        let count = self.tags.len() + 2;
        let mut at = head + if self.is_big { 8 } else { 2 } + entry * count + place;
        let arrays = at;
        let mut values: Vec<(u16, Vec<u32>)> = std::mem::take(&mut self.tags);
        let wide = |numbers: &[u32]| numbers.iter().any(|number| *number > 65_535);
        let size = |tag: u16, numbers: &[u32]| if wide(numbers) || tag == offsets { 4 } else { 2 };
        for (tag, numbers) in &values {
            at += numbers.len() * size(*tag, numbers);
        }
        at += self.chunks.len() * 8 + 64;
        let mut spans = Vec::new();
        for chunk in &self.chunks {
            at += at % 2;
            spans.push(at..at + chunk.len());
            at += chunk.len();
        }
        values.push((offsets, spans.iter().map(|span| span.start as u32).collect()));
        values.push((lengths, spans.iter().map(|span| span.len() as u32).collect()));
        values.sort();
        let mut file = if self.is_motorola { b"MM".to_vec() } else { b"II".to_vec() };
        if self.is_big {
            file.extend(
                [self.number(43, 2), self.number(8, 2), self.number(0, 2), self.number(16, 8)].concat(),
            );
            file.extend(self.number(count as u64, 8));
        } else {
            file.extend([self.number(42, 2), self.number(8, 4), self.number(count as u64, 2)].concat());
        }
        let mut tail = Vec::new();
        for (tag, numbers) in &values {
            let size = size(*tag, numbers);
            let kind = if *tag == 347 {
                7
            } else if size == 4 {
                4
            } else {
                3
            };
            let size = if *tag == 347 { 1 } else { size };
            let data: Vec<u8> =
                numbers.iter().flat_map(|number| self.number(u64::from(*number), size)).collect();
            file.extend([self.number((*tag).into(), 2), self.number(kind, 2)].concat());
            file.extend(self.number(numbers.len() as u64, place));
            if data.len() <= place {
                let mut data = data;
                data.resize(place, 0);
                file.extend(data);
            } else {
                file.extend(self.number((arrays + tail.len()) as u64, place));
                tail.extend(data);
                tail.extend(vec![0; tail.len() % 2]);
            }
        }
        file.extend(vec![0; place]);
        file.extend(tail);
        for (chunk, span) in self.chunks.iter().zip(&spans) {
            assert!(file.len() <= span.start, "arrays overlap pixels");
            file.resize(span.start, 0);
            file.extend(chunk);
        }
        (file, spans)
    }

    pub(super) fn file(self) -> Vec<u8> {
        self.finish().0
    }
}

/// The scene at this size.
pub(super) fn scene(of: Scene) -> RgbaImage {
    RgbaImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        image::Rgba(of[usize::from(x >= SIZE.0 / 2) + 2 * usize::from(y >= SIZE.1 / 2)])
    })
}

/// A part of the scene, beyond its edge black, some channels.
pub(super) fn part(
    picture: &RgbaImage,
    (x, y): (u32, u32),
    (width, height): (u32, u32),
    channels: &[usize],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in y..y + height {
        for column in x..x + width {
            let pixel = picture.get_pixel_checked(column, row).map_or([0; 4], |pixel| pixel.0);
            bytes.extend(channels.iter().map(|channel| pixel[*channel]));
        }
    }
    bytes
}

/// Tiles of a side, of some channels together.
pub(super) fn tiles(picture: &RgbaImage, side: u32, channels: &[usize]) -> Vec<Vec<u8>> {
    let places = |length: u32| (0..length).step_by(side as usize);
    let at = places(SIZE.1).flat_map(|y| places(SIZE.0).map(move |x| (x, y)));
    at.map(|at| part(picture, at, (side, side), channels)).collect()
}

/// Strips of some rows.
pub(super) fn strips(picture: &RgbaImage, rows: u32, channels: &[usize]) -> Vec<Vec<u8>> {
    let starts = (0..SIZE.1).step_by(rows as usize);
    starts.map(|y| part(picture, (0, y), (SIZE.0, rows.min(SIZE.1 - y)), channels)).collect()
}

/// Each row of bytes as `PackBits`, by turns as runs and as it is.
pub(super) fn pack_bits(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    for (turn, chunk) in bytes.chunks(100).enumerate() {
        if chunk.iter().all(|byte| *byte == chunk[0]) && turn % 2 == 0 {
            packed.extend([(1 - chunk.len() as i32) as u8, chunk[0], 0x80]);
        } else {
            packed.push(chunk.len() as u8 - 1);
            packed.extend(chunk);
        }
    }
    packed
}

pub(super) fn lzw(bytes: &[u8]) -> Vec<u8> {
    weezl::encode::Encoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8).encode(bytes).unwrap()
}

pub(super) fn old_lzw(bytes: &[u8]) -> Vec<u8> {
    weezl::encode::Encoder::new(weezl::BitOrder::Lsb, 8).encode(bytes).unwrap()
}

pub(super) fn deflate(bytes: &[u8]) -> Vec<u8> {
    super::files::zlib(bytes)
}

/// Differences of 8 or 16 bits, little-endian.
pub(super) fn differences(rows: &[u8], row: usize, samples: usize, size: usize) -> Vec<u8> {
    let mut bytes = rows.to_vec();
    for line in bytes.chunks_mut(row) {
        for at in (samples * size..line.len()).step_by(size).rev() {
            let read = |at: usize| {
                if size == 1 { u16::from(line[at]) } else { u16::from_le_bytes([line[at], line[at + 1]]) }
            };
            let difference = read(at).wrapping_sub(read(at - samples * size)).to_le_bytes();
            line[at..at + size].copy_from_slice(&difference[..size]);
        }
    }
    bytes
}

/// Floats as differences of their bytes.
pub(super) fn float_differences(rows: &[f32], row: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in rows.chunks(row) {
        let mut planes: Vec<u8> =
            (0..4).flat_map(|byte| line.iter().map(move |value| value.to_be_bytes()[byte])).collect();
        for at in (1..planes.len()).rev() {
            planes[at] = planes[at].wrapping_sub(planes[at - 1]);
        }
        bytes.extend(planes);
    }
    bytes
}

/// Bits of a row, from whole bytes on.
pub(super) fn packed(values: &[u8], row: usize, depth: u8) -> Vec<u8> {
    let pack = |samples: &[u8]| {
        samples
            .iter()
            .enumerate()
            .fold(0, |byte, (at, sample)| byte | sample << (8 - depth - at as u8 * depth))
    };
    values
        .chunks(row)
        .flat_map(|row| row.chunks(usize::from(8 / depth)).map(pack).collect::<Vec<_>>())
        .collect()
}

/// Black is 1 in fax.
pub(super) fn is_black(picture: &RgbaImage, x: u32, y: u32) -> bool {
    picture.get_pixel(x, y).0[0] < 128
}

/// Bits of codes.
#[derive(Default)]
pub(super) struct Codes(String);

impl Codes {
    /// A run by the tables of T.4, for the lengths that occur here.
    pub(super) fn run(&mut self, length: u32, black: bool) {
        let code = match (length, black) {
            (0, false) => "00110101",
            (50, false) => "01010011",
            (50, true) => "000001010010",
            (100, false) => "11011", // 64, then 36.
            _ => panic!("no code for {length} {black}"),
        };
        self.0 += code;
        if length == 100 {
            self.0 += "00010101";
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bits = self.0.clone();
        while !bits.len().is_multiple_of(8) {
            bits += "0";
        }
        bits.as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect()
    }

    pub(super) fn align(&mut self) {
        while !self.0.len().is_multiple_of(8) {
            self.0 += "0";
        }
    }
}

pub(super) fn row_runs(codes: &mut Codes, y: u32) {
    let bits = scene(BITS);
    if is_black(&bits, 0, y) {
        codes.run(0, false);
        codes.run(50, true);
        codes.run(50, false);
    } else {
        codes.run(50, false);
        codes.run(50, true);
    }
}

pub(super) const END: &str = "000000000001";

/// Fax in strips of twenty rows: rows by themselves, with end marks, in two dimensions, or without any.
pub(super) fn fax(kind: u32, two_dimensions: bool) -> Vec<Vec<u8>> {
    (0..SIZE.1)
        .step_by(20)
        .map(|first| {
            let mut codes = Codes::default();
            for y in first..first + 20 {
                let is_one = y % 4 == 0 || !two_dimensions;
                match kind {
                    2 => codes.align(),
                    3 => {
                        codes.0 += "0000";
                        codes.0 += END;
                        if two_dimensions {
                            codes.0 += if is_one { "1" } else { "0" };
                        }
                    }
                    _ => {}
                }
                // Strips change colours in no row but their first, so the others are as the one above.
                let is_same = two_dimensions && y > first;
                if kind == 4 || !is_one {
                    if is_same {
                        let changes = if is_black(&scene(BITS), 0, y) { 3 } else { 2 };
                        codes.0 += &"1".repeat(changes);
                    } else {
                        // Horizontal, from an imagined white row.
                        codes.0 += "001";
                        if is_black(&scene(BITS), 0, y) {
                            codes.run(0, false);
                            codes.run(50, true);
                            codes.0 += "1";
                        } else {
                            codes.run(50, false);
                            codes.run(50, true);
                        }
                    }
                } else {
                    row_runs(&mut codes, y);
                }
            }
            codes.bytes()
        })
        .collect()
}

/// The same bits the other way round.
pub(super) fn reversed(chunks: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    chunks.into_iter().map(|chunk| chunk.into_iter().map(u8::reverse_bits).collect()).collect()
}

/// A JPEG of a part, and its tables apart if they are to be.
pub(super) fn jpeg(
    pixels: &[u8],
    (width, height): (u32, u32),
    grey: bool,
    is_apart: bool,
) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = Vec::new();
    let color = if grey { jpeg_encoder::ColorType::Luma } else { jpeg_encoder::ColorType::Rgb };
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
    encoder.encode(pixels, width as u16, height as u16, color).unwrap();
    if !is_apart {
        return (bytes, Vec::new());
    }
    let (mut rest, mut tables) = (vec![0xff, 0xd8], vec![0xff, 0xd8]);
    let mut at = 2;
    while bytes[at + 1] != 0xda {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]])) + 2;
        let segment = &bytes[at..at + length];
        if matches!(segment[1], 0xdb | 0xc4) { &mut tables } else { &mut rest }.extend(segment);
        at += length;
    }
    rest.extend(&bytes[at..]);
    tables.extend([0xff, 0xd9]);
    (rest, tables)
}

/// A JPEG of some channels as they are, of flat blocks: what differs inside a block of 8 by 8 is not coded.
pub(super) fn raw_jpeg(pixels: &[u8], (width, height): (u32, u32), channels: u8) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    bytes.extend([8; 64]);
    // First coefficients of 0 to 11 bits in codes of four bits, and of the others only the end of the block: one bit.
    bytes.extend([0xff, 0xc4, 0, 31, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(0..12);
    bytes.extend([0xff, 0xc4, 0, 20, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0xff, 0xc0, 0, 8 + 3 * channels, 8]);
    bytes.extend([(height as u16).to_be_bytes(), (width as u16).to_be_bytes()].concat());
    bytes.push(channels);
    (0..channels).for_each(|channel| bytes.extend([channel, 0x11, 0]));
    bytes.extend([0xff, 0xda, 0, 6 + 2 * channels, channels]);
    (0..channels).for_each(|channel| bytes.extend([channel, 0]));
    bytes.extend([0, 63, 0]);
    let mut codes = Codes::default();
    let mut last = vec![0; usize::from(channels)];
    for y in (0..height).step_by(8) {
        for x in (0..width).step_by(8) {
            for (channel, last) in last.iter_mut().enumerate() {
                let (x, y) = ((x + 4).min(width - 1), (y + 4).min(height - 1));
                let at = (y * width + x) as usize * usize::from(channels) + channel;
                let value = i32::from(pixels[at]) - 128;
                let difference = value - std::mem::replace(last, value);
                let size = 32 - difference.unsigned_abs().leading_zeros();
                write!(codes.0, "{size:04b}").unwrap();
                let bits = if difference < 0 { difference + (1 << size) - 1 } else { difference };
                if size > 0 {
                    write!(codes.0, "{bits:0width$b}", width = size as usize).unwrap();
                }
                codes.0 += "0";
            }
        }
    }
    for byte in codes.bytes() {
        bytes.push(byte);
        if byte == 0xff {
            bytes.push(0);
        }
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

/// Luma and chromas of BT.601.
pub(super) fn ycbcr([r, g, b]: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = [r, g, b].map(f32::from);
    [
        0.299 * r + 0.587 * g + 0.114 * b,
        128.0 - 0.1687 * r - 0.3313 * g + 0.5 * b,
        128.0 + 0.5 * r - 0.4187 * g - 0.0813 * b,
    ]
    .map(|value| value.round() as u8)
}

/// Squares of two lumas each way with their chromas.
pub(super) fn shared_chromas() -> Vec<u8> {
    let color = scene(COLOR);
    let mut bytes = Vec::new();
    for y in (0..SIZE.1).step_by(2) {
        for x in (0..SIZE.0).step_by(2) {
            let at = |x, y| ycbcr(color.get_pixel(x, y).0[..3].try_into().unwrap());
            bytes.extend([at(x, y)[0], at(x + 1, y)[0], at(x, y + 1)[0], at(x + 1, y + 1)[0]]);
            bytes.extend(&at(x, y)[1..]);
        }
    }
    bytes
}
