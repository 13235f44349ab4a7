//! The header of a TIFF ([TIFF 6.0](https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf)) or `BigTIFF`: its first
//! directory.
//!
//! Owns the tags and the bounds on them. Refuses to know further pages and to decode pixels. Strips and tiles are both
//! called chunks.

use std::io::{Read as _, Seek as _, SeekFrom};

use image::metadata::Orientation as ImageOrientation;

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::input::Input;
use super::super::orient::Orientation;
use super::{Format, Header, Storage, bytes};

/// The tags of the first directory.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "tags of two values each, which go together in any way")]
pub(in crate::thumbnail) struct Directory {
    pub(in crate::thumbnail) width: u32,
    pub(in crate::thumbnail) height: u32,
    /// `BitsPerSample`, the same for all samples: 1 to 64.
    pub(in crate::thumbnail) bits: u32,
    /// `SamplesPerPixel`: 1 to [`MAX_SAMPLES`].
    pub(in crate::thumbnail) samples: u32,
    /// `SampleFormat`: [`UNSIGNED`], [`FLOATING`], or another.
    pub(in crate::thumbnail) sample_format: u64,
    /// `PhotometricInterpretation`.
    pub(in crate::thumbnail) photometric: u64,
    /// `Compression`.
    pub(in crate::thumbnail) compression: u64,
    pub(in crate::thumbnail) is_little_endian: bool,
    /// `FillOrder` 2: the lowest bit of a byte comes first.
    pub(in crate::thumbnail) is_reversed: bool,
    /// `PlanarConfiguration` 2: each sample has chunks of its own.
    pub(in crate::thumbnail) is_planar: bool,
    /// Whether chunks are tiles, not strips.
    pub(in crate::thumbnail) is_tiled: bool,
    /// `Predictor`: 1 none, 2 horizontal differencing, 3 floating point.
    pub(in crate::thumbnail) predictor: u64,
    /// Width and height of a chunk.
    pub(in crate::thumbnail) chunk_size: (u32, u32),
    /// Offsets of the chunks in the file.
    pub(in crate::thumbnail) offsets: Vec<u64>,
    /// Stored bytes of the chunks.
    pub(in crate::thumbnail) byte_counts: Vec<u64>,
    /// `ColorMap`: the red of every index, then green, then blue, in 16 bits.
    pub(in crate::thumbnail) palette: Vec<u64>,
    /// `ExtraSamples`: the meaning of the samples after the colours.
    pub(in crate::thumbnail) extra_samples: Vec<u64>,
    /// `YCbCrSubSampling`: pixels across and down for each chroma sample, 1 to 4.
    pub(in crate::thumbnail) subsampling: (u32, u32),
    /// Offset and bytes of the JPEG tables or, in the old style of JPEG, of the whole JPEG.
    pub(in crate::thumbnail) jpeg: Option<(u64, u64)>,
    /// `T4Options`.
    pub(in crate::thumbnail) fax_options: u64,
    /// Offset and bytes of the ICC profile.
    pub(in crate::thumbnail) profile: Option<(u64, u64)>,
    /// `Orientation`, numbered as in EXIF.
    orientation: u64,
}

/// A directory entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    field_type: u16,
    /// How many values it has.
    count: u64,
    /// Where the values are in the file.
    offset: u64,
}

/// Reads entries and their values.
struct TagReader<'a, 'b> {
    input: &'a mut Input<'b>,
    is_little_endian: bool,
    /// Whether offsets have eight bytes.
    is_big_tiff: bool,
}

impl TagReader<'_, '_> {
    /// Reads an integer of up to 8 bytes.
    fn number(&mut self, size: u64) -> Result<u64, ThumbnailError> {
        let mut number = [0; 8];
        let size = usize::try_from(size).unwrap_or(8).min(8);
        let part = number.get_mut(..size).unwrap_or_default();
        self.input.read_exact(part)?;
        if !self.is_little_endian {
            part.reverse();
        }
        Ok(u64::from_le_bytes(number))
    }

    /// Bytes of an offset.
    fn offset_size(&self) -> u64 {
        if self.is_big_tiff { 8 } else { 4 }
    }

    /// Reads the entries of a directory with their tags, at most [`MAX_ENTRIES`].
    fn entries(&mut self, start: u64) -> Result<Vec<(u16, Entry)>, ThumbnailError> {
        self.input.seek(SeekFrom::Start(start))?;
        let count = self.number(if self.is_big_tiff { 8 } else { 2 })?;
        let first = start.saturating_add(if self.is_big_tiff { 8 } else { 2 });
        let size = if self.is_big_tiff { 20 } else { 12 };
        let mut entries = Vec::new();
        for at in 0..count.min(MAX_ENTRIES) {
            let entry = first.saturating_add(at.saturating_mul(size));
            self.input.seek(SeekFrom::Start(entry))?;
            // A truncated directory counts as far as it goes.
            let Ok(tag) = self.number(2) else { break };
            let Ok(field_type) = self.number(2) else { break };
            let Ok(count) = self.number(self.offset_size()) else { break };
            let (tag, field_type) = (u16::try_from(tag).unwrap_or(0), u16::try_from(field_type).unwrap_or(0));
            let inline = entry.saturating_add(4).saturating_add(self.offset_size());
            let is_inline = count.saturating_mul(type_size(field_type)) <= self.offset_size();
            let offset = if is_inline {
                inline
            } else {
                let Ok(offset) = self.number(self.offset_size()) else { break };
                offset
            };
            entries.push((tag, Entry { field_type, count, offset }));
        }
        Ok(entries)
    }

    /// Reads the values of an entry; fewer if the file ends before the last.
    ///
    /// # Errors
    /// `Broken` for more than [`MAX_VALUES`].
    fn values(&mut self, entry: &Entry) -> Result<Vec<u64>, ThumbnailError> {
        if entry.count > MAX_VALUES {
            return Err(ThumbnailError::broken("an array that is too long"));
        }
        self.input.seek(SeekFrom::Start(entry.offset))?;
        let mut values = Vec::new();
        for _ in 0..entry.count {
            let Ok(value) = self.number(type_size(entry.field_type)) else { break };
            values.push(value);
        }
        Ok(values)
    }
}

impl Directory {
    /// Reads the directory.
    ///
    /// # Errors
    /// `Broken`, `Unsupported`, or `TooLarge` for the colour profile.
    pub(in crate::thumbnail) fn read(input: &mut Input<'_>) -> Result<Self, ThumbnailError> {
        input.rewind()?;
        let [mark, _, version, other] = bytes(input)?;
        let is_little_endian = mark == b'I';
        let is_big_tiff = version == BIG_TIFF_VERSION || other == BIG_TIFF_VERSION;
        let mut tags = TagReader { input, is_little_endian, is_big_tiff };
        if is_big_tiff {
            tags.number(4)?;
        }
        let start = tags.number(tags.offset_size())?;
        let entries = tags.entries(start)?;
        let find = |tag: u16| entries.iter().find(|(found, _)| *found == tag).map(|(_, entry)| *entry);
        let mut all = |tag: u16| find(tag).map_or(Ok(Vec::new()), |entry| tags.values(&entry));
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
        let chunk_size = if is_tiled {
            (side(tile.0)?, side(tile.1)?)
        } else if compression == OLD_JPEG {
            (width, height.max(1))
        } else {
            let rows = one(all(278)?, u64::MAX).min(height.into());
            (width, side(rows)?.max(1))
        };
        if is_tiled && chunk_size.0.max(chunk_size.1) > MAX_TILE {
            return Err(ThumbnailError::broken("tiles that are too large"));
        }
        let (offsets, byte_counts) = if is_tiled && find(324).is_some() { (324, 325) } else { (273, 279) };
        let subsampling = all(530)?;
        let subsampled = |at: usize| subsampling.get(at).copied().unwrap_or(2).clamp(1, 4);
        let subsampling = (side(subsampled(0))?, side(subsampled(1))?);
        let span = |entry: Option<Entry>| entry.map(|entry| (entry.offset, entry.count));
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
            is_little_endian,
            is_reversed: one(all(266)?, 1) == 2,
            is_planar: samples > 1 && one(all(284)?, 1) == 2,
            is_tiled,
            predictor: one(all(317)?, 1),
            chunk_size,
            offsets: all(offsets)?,
            byte_counts: all(byte_counts)?,
            palette: all(320)?,
            extra_samples: all(338)?,
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

    /// Refuses compressions that are not supported, with the names that libtiff gives their numbers.
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

    /// Samples of a pixel that are stored together in a chunk.
    pub(in crate::thumbnail) fn samples_in_chunk(&self) -> u32 {
        if self.is_planar { 1 } else { self.samples }
    }

    /// Bytes of a decompressed row of a chunk.
    pub(in crate::thumbnail) fn row_bytes(&self) -> u64 {
        let bits = u64::from(self.chunk_size.0)
            .saturating_mul(self.bits.into())
            .saturating_mul(self.samples_in_chunk().into());
        bits.div_ceil(8)
    }

    /// Whether chunks are JPEGs.
    pub(in crate::thumbnail) fn is_jpeg(&self) -> bool {
        matches!(self.compression, JPEG | OLD_JPEG)
    }

    /// Bytes that decoding a JPEG chunk may take.
    pub(in crate::thumbnail) fn max_jpeg_bytes(&self) -> u64 {
        let (width, height) = self.chunk_size;
        let rows = u64::from(height).saturating_add(ROWS_AT_WORK);
        u64::from(width).saturating_add(ROWS_AT_WORK).saturating_mul(rows).saturating_mul(4)
    }

    /// Bytes held while decoding, besides the reduced rows.
    fn held(&self) -> u64 {
        // A row decompressed, as samples and as pixels, times up to four rows that share chroma.
        let row = self.row_bytes().saturating_mul(3);
        let samples = u64::from(self.chunk_size.0).saturating_mul(self.samples.into()).saturating_mul(5);
        let pixels = u64::from(self.width).saturating_mul(4);
        let jpeg = if self.is_jpeg() { self.max_jpeg_bytes() } else { 0 };
        // Tiles and planes are collected for a whole band of rows.
        let band = if self.is_tiled || self.is_planar {
            u64::from(self.width).saturating_mul(self.chunk_size.1.into()).saturating_mul(self.samples.into())
        } else {
            0
        };
        let arrays = self.offsets.len().saturating_add(self.byte_counts.len()).saturating_mul(16);
        let arrays = u64::try_from(arrays).unwrap_or(u64::MAX);
        [row, samples, pixels, jpeg, band, arrays, TABLES].into_iter().fold(0, u64::saturating_add)
    }
}

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

/// Bytes of a value of a field type (TIFF 6.0, section 2; `BigTIFF` adds 16 to 18).
fn type_size(field_type: u16) -> u64 {
    match field_type {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}

/// The version number of `BigTIFF`, whose offsets have eight bytes.
const BIG_TIFF_VERSION: u8 = 43;
/// `SampleFormat`: unsigned integers.
pub(in crate::thumbnail) const UNSIGNED: u64 = 1;
/// `SampleFormat`: IEEE 754.
pub(in crate::thumbnail) const FLOATING: u64 = 3;
/// `Compression`: the JPEG of TIFF 6.0, section 22, which Technical Note 2 replaced.
pub(in crate::thumbnail) const OLD_JPEG: u64 = 6;
/// `Compression`: each chunk is a JPEG (TIFF Technical Note 2).
pub(in crate::thumbnail) const JPEG: u64 = 7;
/// Most entries of a directory that are read.
const MAX_ENTRIES: u64 = 4096;
/// Most values of one entry: a strip for each row of any picture that other limits allow.
const MAX_VALUES: u64 = 1 << 16;
/// CMYK with alpha has 5.
const MAX_SAMPLES: u64 = 8;
/// Pixels a side of a tile, at most.
const MAX_TILE: u32 = 1 << 14;
/// Rows and columns by which the buffers of the JPEG decoder exceed the picture: four blocks.
const ROWS_AT_WORK: u64 = 32;
/// Bytes of the tables and buffers of the decompressors.
const TABLES: u64 = 1 << 18;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::super::input;
    use super::*;

    /// A directory of a size and one more entry.
    fn directory(tag: u16, field_type: u16, count: u32, value: u32) -> Result<Directory, ThumbnailError> {
        let mut file = b"II*\0\x08\0\0\0\x03\0".to_vec();
        for (tag, field_type, count, value) in
            [(256, 4, 1, 9), (257, 4, 1, 9), (tag, field_type, count, value)]
        {
            file.extend([u16::to_le_bytes(tag), u16::to_le_bytes(field_type)].concat());
            file.extend([u32::to_le_bytes(count), u32::to_le_bytes(value)].concat());
        }
        input::read(&mut Cursor::new(file), None, |mut input| Directory::read(&mut input))
    }

    /// Fuzzing found tags that escaped the bound on the number of values.
    #[test]
    fn too_many_values_are_refused_for_every_tag() {
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
        assert!(directory(700, 1, u32::MAX, 8).is_ok(), "no known tag, so it is not read");
    }
}
