//! The first directory of a TIFF ([TIFF 6.0](https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf)) or `BigTIFF`.
//!
//! Owns what the directory says, and the bounds on it: arrays are read up to [`MAX_VALUES`].

use std::io::{Read as _, Seek as _, SeekFrom};

use image::metadata::Orientation as ImageOrientation;

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::input::Input;
use super::super::orient::Orientation;
use super::{Format, Header, Storage, bytes};

/// What the directory says of the picture.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "tags of two values each, which go together in any way")]
pub(in crate::thumbnail) struct Directory {
    /// Columns.
    pub(in crate::thumbnail) width: u32,
    /// Rows.
    pub(in crate::thumbnail) height: u32,
    /// Bits of a sample, the same for all.
    pub(in crate::thumbnail) bits: u32,
    /// Samples of a pixel.
    pub(in crate::thumbnail) samples: u32,
    /// What a sample is: [`UNSIGNED`], [`FLOATING`], or something else.
    pub(in crate::thumbnail) sample_format: u64,
    /// What samples stand for.
    pub(in crate::thumbnail) photometric: u64,
    /// How chunks are packed.
    pub(in crate::thumbnail) compression: u64,
    /// Whether numbers begin with their lowest byte.
    pub(in crate::thumbnail) is_little: bool,
    /// Whether bytes begin with their lowest bit.
    pub(in crate::thumbnail) is_reversed: bool,
    /// Whether each sample has chunks of its own.
    pub(in crate::thumbnail) is_planar: bool,
    /// Whether chunks are tiles.
    pub(in crate::thumbnail) is_tiled: bool,
    /// What is predicted from its neighbour: 1 nothing, 2 numbers, 3 floats.
    pub(in crate::thumbnail) predictor: u64,
    /// Columns and rows of a chunk.
    pub(in crate::thumbnail) chunk: (u32, u32),
    /// Where chunks begin.
    pub(in crate::thumbnail) offsets: Vec<u64>,
    /// Bytes of chunks.
    pub(in crate::thumbnail) lengths: Vec<u64>,
    /// Red, then green, then blue of every index, in 16 bits.
    pub(in crate::thumbnail) palette: Vec<u64>,
    /// What the samples beyond the colours are.
    pub(in crate::thumbnail) extra: Vec<u64>,
    /// Pixels across and down for each chroma.
    pub(in crate::thumbnail) subsampling: (u32, u32),
    /// Where a JPEG's tables are, or of the old kind the whole of it.
    pub(in crate::thumbnail) jpeg: Option<(u64, u64)>,
    /// Options of fax group 3.
    pub(in crate::thumbnail) fax_options: u64,
    /// Where the colour profile is.
    pub(in crate::thumbnail) profile: Option<(u64, u64)>,
    /// The orientation as EXIF counts it.
    orientation: u64,
}

/// An entry of the directory.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Type of its values.
    kind: u16,
    /// How many there are.
    count: u64,
    /// Where they are.
    place: u64,
}

/// Reads numbers.
struct Numbers<'a, 'b> {
    /// The file.
    input: &'a mut Input<'b>,
    /// Whether they begin with their lowest byte.
    is_little: bool,
    /// Whether places have eight bytes.
    is_big: bool,
}

impl Numbers<'_, '_> {
    /// A number of some bytes.
    fn number(&mut self, size: u64) -> Result<u64, ThumbnailError> {
        let mut number = [0; 8];
        let size = usize::try_from(size).unwrap_or(8).min(8);
        let part = number.get_mut(..size).unwrap_or_default();
        self.input.read_exact(part)?;
        if !self.is_little {
            part.reverse();
        }
        Ok(u64::from_le_bytes(number))
    }

    /// Bytes of a place.
    fn place_size(&self) -> u64 {
        if self.is_big { 8 } else { 4 }
    }

    /// The entries of a directory with their tags, the first of each.
    fn entries(&mut self, start: u64) -> Result<Vec<(u16, Entry)>, ThumbnailError> {
        self.input.seek(SeekFrom::Start(start))?;
        let count = self.number(if self.is_big { 8 } else { 2 })?;
        let first = start.saturating_add(if self.is_big { 8 } else { 2 });
        let size = if self.is_big { 20 } else { 12 };
        let mut entries = Vec::new();
        for at in 0..count.min(MAX_ENTRIES) {
            let entry = first.saturating_add(at.saturating_mul(size));
            self.input.seek(SeekFrom::Start(entry))?;
            // A directory that breaks off says what it has.
            let Ok(tag) = self.number(2) else { break };
            let Ok(kind) = self.number(2) else { break };
            let Ok(count) = self.number(self.place_size()) else { break };
            let (tag, kind) = (u16::try_from(tag).unwrap_or(0), u16::try_from(kind).unwrap_or(0));
            let inline = entry.saturating_add(4).saturating_add(self.place_size());
            let is_inline = count.saturating_mul(kind_size(kind)) <= self.place_size();
            let place = if is_inline {
                inline
            } else {
                let Ok(place) = self.number(self.place_size()) else { break };
                place
            };
            entries.push((tag, Entry { kind, count, place }));
        }
        Ok(entries)
    }

    /// An entry's numbers; fewer if the file breaks off.
    fn values(&mut self, entry: &Entry) -> Result<Vec<u64>, ThumbnailError> {
        if entry.count > MAX_VALUES {
            return Err(ThumbnailError::broken("an array that is too long"));
        }
        self.input.seek(SeekFrom::Start(entry.place))?;
        let mut values = Vec::new();
        for _ in 0..entry.count {
            let Ok(value) = self.number(kind_size(entry.kind)) else { break };
            values.push(value);
        }
        Ok(values)
    }
}

impl Directory {
    /// Reads it.
    pub(in crate::thumbnail) fn read(input: &mut Input<'_>) -> Result<Self, ThumbnailError> {
        input.rewind()?;
        let [mark, _, version, other] = bytes(input)?;
        let is_little = mark == b'I';
        let is_big = version == BIG || other == BIG;
        let mut numbers = Numbers { input, is_little, is_big };
        if is_big {
            numbers.number(4)?;
        }
        let start = numbers.number(numbers.place_size())?;
        let entries = numbers.entries(start)?;
        let find = |tag: u16| entries.iter().find(|(found, _)| *found == tag).map(|(_, entry)| *entry);
        let mut all = |tag: u16| find(tag).map_or(Ok(Vec::new()), |entry| numbers.values(&entry));
        let one = |values: Vec<u64>, default: u64| values.first().copied().unwrap_or(default);
        let side = |value: u64| u32::try_from(value).map_err(ThumbnailError::broken);
        let (width, height) = (side(one(all(256)?, 0))?, side(one(all(257)?, 0))?);
        let samples = one(all(277)?, 1);
        let bits = all(258)?;
        let depth = one(bits.clone(), 1);
        if bits.iter().take(usize::try_from(samples).unwrap_or(0)).any(|other| *other != depth) {
            return Err(ThumbnailError::Unsupported("TIFF with channels of several depths"));
        }
        if samples == 0 || depth == 0 {
            return Err(ThumbnailError::broken("no channels or no bits"));
        }
        if samples > MAX_SAMPLES || depth > 64 {
            return Err(ThumbnailError::Unsupported("TIFF with so many channels or bits"));
        }
        let tile = (one(all(322)?, 0), one(all(323)?, 0));
        let is_tiled = tile.0 > 0 && tile.1 > 0;
        let compression = one(all(259)?, 1);
        let chunk = if is_tiled {
            (side(tile.0)?, side(tile.1)?)
        } else if compression == OLD_JPEG {
            (width, height.max(1))
        } else {
            let rows = one(all(278)?, u64::MAX).min(height.into());
            (width, side(rows)?.max(1))
        };
        if is_tiled && chunk.0.max(chunk.1) > MAX_TILE {
            return Err(ThumbnailError::broken("tiles that are too large"));
        }
        let (offsets, lengths) = if is_tiled && find(324).is_some() { (324, 325) } else { (273, 279) };
        let subsampling = all(530)?;
        let subsampled = |at: usize| subsampling.get(at).copied().unwrap_or(2).clamp(1, 4);
        let subsampling = (side(subsampled(0))?, side(subsampled(1))?);
        let span = |entry: Option<Entry>| entry.map(|entry| (entry.place, entry.count));
        let jpeg = if compression == OLD_JPEG {
            all(513)?.first().map(|start| (*start, u64::MAX))
        } else {
            span(find(347))
        };
        let directory = Self {
            width,
            height,
            bits: side(depth)?,
            samples: side(samples)?,
            sample_format: one(all(339)?, UNSIGNED),
            photometric: one(all(262)?, 1),
            compression,
            is_little,
            is_reversed: one(all(266)?, 1) == 2,
            is_planar: samples > 1 && one(all(284)?, 1) == 2,
            is_tiled,
            predictor: one(all(317)?, 1),
            chunk,
            offsets: all(offsets)?,
            lengths: all(lengths)?,
            palette: all(320)?,
            extra: all(338)?,
            subsampling,
            jpeg,
            fax_options: one(all(292)?, 0),
            profile: span(find(34_675)),
            orientation: one(all(274)?, 1),
        };
        if directory.profile.is_some_and(|(_, length)| length > MAX_PROFILE.into()) {
            return Err(ThumbnailError::TooLarge("the image's colour profile is too large"));
        }
        Ok(directory)
    }

    /// Refuses what is packed as nothing here unpacks, by the numbers that libtiff lists.
    pub(in crate::thumbnail) fn check_supported(&self) -> Result<(), ThumbnailError> {
        Err(ThumbnailError::Unsupported(match self.compression {
            JPEG if self.bits != 8 => "TIFF with JPEG of other than 8 bits",
            OLD_JPEG if self.jpeg.is_none() => "TIFF with JPEG in pieces, as TIFF 6.0 had it",
            1..=8 | 32_773 | 32_946 => return Ok(()),
            9 | 10 | 34_661 => "TIFF packed with JBIG",
            32_766 => "TIFF packed as NeXT did",
            32_771 => "TIFF with rows of words, packed with fax",
            32_809 => "TIFF packed with ThunderScan",
            32_895..=32_898 | 32_908 | 32_909 => "TIFF packed for printing",
            34_676 | 34_677 => "TIFF with SGI's LogLuv",
            33_003 | 33_005 | 34_712 => "TIFF packed with JPEG 2000",
            34_887 => "TIFF packed with LERC",
            34_892 => "TIFF with lossy DNG's JPEG",
            34_925 => "TIFF packed with LZMA",
            34_926 | 50_000 => "TIFF packed with Zstandard",
            34_927 | 50_001 => "TIFF packed with WebP",
            34_933 => "TIFF packed with PNG",
            34_934 | 22_610 => "TIFF packed with JPEG XR",
            50_002 | 52_546 => "TIFF packed with JPEG XL",
            _ => "TIFF in this packing",
        }))
    }

    /// Samples of a pixel in one chunk.
    pub(in crate::thumbnail) fn together(&self) -> u32 {
        if self.is_planar { 1 } else { self.samples }
    }

    /// Bytes of a row of a chunk.
    pub(in crate::thumbnail) fn row_bytes(&self) -> u64 {
        let bits =
            u64::from(self.chunk.0).saturating_mul(self.bits.into()).saturating_mul(self.together().into());
        bits.div_ceil(8)
    }

    /// Whether chunks are JPEGs.
    pub(in crate::thumbnail) fn is_jpeg(&self) -> bool {
        matches!(self.compression, JPEG | OLD_JPEG)
    }

    /// Bytes that a chunk of JPEG may take to decode.
    pub(in crate::thumbnail) fn jpeg_bytes(&self) -> u64 {
        let (width, height) = self.chunk;
        let rows = u64::from(height).saturating_add(ROWS_AT_WORK);
        u64::from(width).saturating_add(ROWS_AT_WORK).saturating_mul(rows).saturating_mul(4)
    }

    /// Bytes held while rows come.
    fn held(&self) -> u64 {
        // A row as stored, unpacked, as samples and as pixels, of up to four rows that share chromas.
        let row = self.row_bytes().saturating_mul(3);
        let samples = u64::from(self.chunk.0).saturating_mul(self.samples.into()).saturating_mul(5);
        let pixels = u64::from(self.width).saturating_mul(4);
        let jpeg = if self.is_jpeg() { self.jpeg_bytes() } else { 0 };
        // Tiles and planes are gathered.
        let band = if self.is_tiled || self.is_planar {
            u64::from(self.width).saturating_mul(self.chunk.1.into()).saturating_mul(self.samples.into())
        } else {
            0
        };
        let arrays = self.offsets.len().saturating_add(self.lengths.len()).saturating_mul(16);
        let arrays = u64::try_from(arrays).unwrap_or(u64::MAX);
        [row, samples, pixels, jpeg, band, arrays, TABLES].into_iter().fold(0, u64::saturating_add)
    }
}

/// Reads the directory.
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    let directory = Directory::read(input)?;
    let size = (directory.width, directory.height);
    let header = Header::new(Format::Tiff, size, Storage::Rows { held: directory.held() })?;
    let value = u8::try_from(directory.orientation).unwrap_or(1);
    let orientation = ImageOrientation::from_exif(value).unwrap_or(ImageOrientation::NoTransforms);
    let profile = directory.profile.map_or(0, |(_, length)| u32::try_from(length).unwrap_or(u32::MAX));
    Ok(Header {
        orientation: Orientation::from_exif(orientation.to_exif()),
        profile_bytes: profile,
        ..header
    })
}

/// Bytes of a value by its type.
fn kind_size(kind: u16) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}

/// The version of files whose places have eight bytes.
const BIG: u8 = 43;
/// Sample format: a number from 0 on.
pub(in crate::thumbnail) const UNSIGNED: u64 = 1;
/// Sample format: IEEE 754.
pub(in crate::thumbnail) const FLOATING: u64 = 3;
/// Packing: a JPEG in pieces, as TIFF 6.0 had it.
pub(in crate::thumbnail) const OLD_JPEG: u64 = 6;
/// Packing: a JPEG for each chunk.
pub(in crate::thumbnail) const JPEG: u64 = 7;
/// Entries of a directory looked at.
const MAX_ENTRIES: u64 = 4096;
/// Values of one tag: a strip for each row of any picture that other limits allow.
const MAX_VALUES: u64 = 1 << 16;
/// Four inks and alpha, and room.
const MAX_SAMPLES: u64 = 8;
/// Pixels a side.
const MAX_TILE: u32 = 1 << 14;
/// Rows and columns of a JPEG that are at work besides its pixels: four blocks.
const ROWS_AT_WORK: u64 = 32;
/// Bytes of the tables and buffers of what unpacks.
const TABLES: u64 = 1 << 18;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::super::input;
    use super::*;

    /// A directory of one entry besides a size.
    fn directory(tag: u16, kind: u16, count: u32, value: u32) -> Result<Directory, ThumbnailError> {
        let mut file = b"II*\0\x08\0\0\0\x03\0".to_vec();
        for (tag, kind, count, value) in [(256, 4, 1, 9), (257, 4, 1, 9), (tag, kind, count, value)] {
            file.extend([u16::to_le_bytes(tag), u16::to_le_bytes(kind)].concat());
            file.extend([u32::to_le_bytes(count), u32::to_le_bytes(value)].concat());
        }
        input::read(&mut Cursor::new(file), None, |mut input| Directory::read(&mut input))
    }

    /// Fuzzing found that tags which are read here too escaped the bound on their values.
    #[test]
    fn what_would_take_memory_is_refused_whatever_its_tag() {
        let most = u32::try_from(MAX_VALUES).unwrap();
        for tag in [277, 322, 273, 258] {
            let got = directory(tag, 3, most + 1, 3);
            assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{tag}: {got:?}");
            assert!(directory(tag, 3, 1, 3).is_ok(), "{tag}");
        }
        assert!(matches!(directory(277, 3, 1, 0), Err(ThumbnailError::Broken(_))));
        assert!(matches!(directory(277, 3, 1, 9), Err(ThumbnailError::Unsupported(_))));
        assert!(matches!(directory(34_675, 7, MAX_PROFILE + 1, 8), Err(ThumbnailError::TooLarge(_))));
        let profile = directory(34_675, 7, MAX_PROFILE, 8).unwrap().profile;
        assert_eq!(profile, Some((8, MAX_PROFILE.into())));
        assert!(directory(700, 1, u32::MAX, 8).is_ok(), "nobody reads it");
    }
}
