//! The first directory of a TIFF ([TIFF 6.0](https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf)).
//!
//! Owns the checks that the `tiff` crate leaves out: it reads whole arrays before anybody can set it limits.

use std::io::{BufRead, Read, Seek, SeekFrom};

use image::metadata::Orientation as ImageOrientation;
use tiff::TiffError;
use tiff::decoder::Decoder;
use tiff::tags::Tag;

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::orient::Orientation;
use super::{Format, Header, Storage, bytes};

/// What the directory says of the cost of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Directory {
    /// Channels with the extra ones, which are decoded too.
    samples: u32,
    /// Bytes of colour profile.
    profile_bytes: u32,
}

/// Checks the directory, then asks the decoder what the picture is.
pub(super) fn probe(input: &mut (impl BufRead + Seek)) -> Result<Header, ThumbnailError> {
    let directory = read_directory(input)?;
    input.rewind()?;
    let mut decoder = Decoder::new(input).map_err(from_tiff)?;
    let size = decoder.dimensions().map_err(from_tiff)?;
    let depth = u32::from(decoder.colortype().map_err(from_tiff)?.bit_depth());
    let native = depth.saturating_mul(directory.samples).div_ceil(8);
    // A strip as it is decompressed beside what is decoded already, then that beside its samples of 8 bits, then, of
    // planes, those beside the pixels.
    let bytes_per_pixel = native.max(directory.samples).saturating_mul(2);
    let header = Header::new(Format::Tiff, size, Storage::Whole { bytes_per_pixel })?;
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let orientation = orientation.and_then(ImageOrientation::from_exif);
    let orientation = orientation.unwrap_or(ImageOrientation::NoTransforms).to_exif();
    let orientation = Orientation::from_exif(orientation);
    Ok(Header { orientation, profile_bytes: directory.profile_bytes, ..header })
}

/// Reads the first directory's entries and refuses senseless ones.
fn read_directory(input: &mut (impl Read + Seek)) -> Result<Directory, ThumbnailError> {
    input.rewind()?;
    let little = &bytes::<4>(input)? == b"II*\0";
    let word = |pair: [u8; 2]| if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) };
    let long = |four: [u8; 4]| if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) };
    let start = long(bytes(input)?);
    input.seek(SeekFrom::Start(u64::from(start)))?;
    let mut directory = Directory { samples: 1, profile_bytes: 0 };
    for _ in 0..word(bytes(input)?) {
        let tag = word(bytes(input)?);
        let kind = word(bytes(input)?);
        let count = long(bytes(input)?);
        let [a, b, c, d] = bytes(input)?;
        let value = if kind == SHORT { u32::from(word([a, b])) } else { long([a, b, c, d]) };
        // Private tags are passed over unread.
        if tag < XMP && count > MAX_VALUES {
            return Err(ThumbnailError::broken("an array that is too long"));
        }
        match tag {
            SAMPLES_PER_PIXEL => directory.samples = value,
            TILE_WIDTH if value > MAX_TILE => {
                return Err(ThumbnailError::broken("tiles that are too wide"));
            }
            ICC_PROFILE => directory.profile_bytes = count,
            _ => {}
        }
    }
    if directory.samples > MAX_SAMPLES {
        return Err(ThumbnailError::broken("too many channels"));
    }
    if directory.profile_bytes > MAX_PROFILE {
        return Err(ThumbnailError::TooLarge("the image's colour profile is too large"));
    }
    Ok(directory)
}

/// A failure inside the decoder as ours.
pub(in crate::thumbnail) fn from_tiff(error: TiffError) -> ThumbnailError {
    match error {
        TiffError::IoError(error) => error.into(),
        TiffError::LimitsExceeded => ThumbnailError::TooLarge("the image takes too much memory to decode"),
        error @ (TiffError::FormatError(_)
        | TiffError::UnsupportedError(_)
        | TiffError::IntSizeError
        | TiffError::UsageError(_)) => ThumbnailError::broken(error),
    }
}

/// Number of the type whose values stand first in their four bytes.
const SHORT: u16 = 3;
/// Number of the tag.
const SAMPLES_PER_PIXEL: u16 = 277;
/// Number of the tag.
const TILE_WIDTH: u16 = 322;
/// Number of the tag, the first of those that no decoder reads for the pixels.
const XMP: u16 = 700;
/// Number of the tag.
const ICC_PROFILE: u16 = 34_675;
/// Values of one tag: a strip for each row of any picture that other limits allow. Each takes 32 bytes for a while.
const MAX_VALUES: u32 = 1 << 16;
/// Four inks and alpha, and room.
const MAX_SAMPLES: u32 = 8;
/// Pixels across; a row of them is buffered.
const MAX_TILE: u32 = 1 << 14;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A directory of one entry.
    fn directory(tag: u16, kind: u16, count: u32, value: u32) -> Result<Directory, ThumbnailError> {
        let mut file = b"II*\0\x08\0\0\0\x01\0".to_vec();
        file.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        file.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
        read_directory(&mut Cursor::new(file))
    }

    /// Fuzzing found that tags which are read here too escaped the bound on their values.
    #[test]
    fn what_would_take_memory_is_refused_whatever_its_tag() {
        for tag in [SAMPLES_PER_PIXEL, TILE_WIDTH, 273, 258] {
            let got = directory(tag, SHORT, MAX_VALUES + 1, 3);
            assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{tag}: {got:?}");
            assert!(directory(tag, SHORT, 1, 3).is_ok(), "{tag}");
        }
        assert!(matches!(
            directory(SAMPLES_PER_PIXEL, SHORT, 1, MAX_SAMPLES + 1),
            Err(ThumbnailError::Broken(_))
        ));
        assert!(matches!(directory(TILE_WIDTH, 4, 1, MAX_TILE + 1), Err(ThumbnailError::Broken(_))));
        assert!(matches!(directory(ICC_PROFILE, 7, MAX_PROFILE + 1, 8), Err(ThumbnailError::TooLarge(_))));
        assert_eq!(directory(ICC_PROFILE, 7, MAX_PROFILE, 8).unwrap().profile_bytes, MAX_PROFILE);
        assert!(directory(XMP, 1, u32::MAX, 8).is_ok(), "nobody reads it");
    }
}
