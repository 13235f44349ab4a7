//! Headers of pictures: format, size, orientation, motion, and what decoding will cost.
//!
//! Owns the detection of the format by its first bytes, whatever type was declared. Refuses to decode pixels, and to
//! allocate memory by what a header claims.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod webp;

use std::io::{Read, Seek as _};
use std::time::{Duration, Instant};

use image::metadata::Orientation as ImageOrientation;

pub(super) use self::bmp::Bitmap;
pub(super) use self::gif::{canvas as gif_canvas, count_frames as count_gif_frames};
pub(super) use self::tiff::{Directory, FLOATING, OLD_JPEG};
pub(super) use self::webp::{
    ByteSpan, Coding, first_frame_of as webp_first_frame, from_webp, profile as webp_profile,
};
use super::Limits;
use super::ThumbnailError;
use super::input::{self, Input, ReadSeek};
use super::jpeg::JpegInfo;
use super::orient::Orientation;
use super::plan::{Motion, Source};

/// What rendering needs to know of a picture before it decodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) format: Format,
    /// In pixels, before orientation.
    pub(super) width: u32,
    /// In pixels, before orientation.
    pub(super) height: u32,
    pub(super) orientation: Orientation,
    pub(super) motion: Motion,
    pub(super) storage: Storage,
    /// Upper bound of the bytes of the colour profile.
    pub(super) profile_bytes: u32,
}

/// The formats that thumbnails can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    /// PNG and APNG.
    Png,
    Gif,
    WebP,
    /// Bitmaps of Windows and OS/2.
    Bmp,
    /// TIFF and `BigTIFF`.
    Tiff,
}

/// How a picture is decoded, which decides what that costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// Directly at a fraction of its size.
    Jpeg(JpegInfo),
    /// At full size, reduced row by row.
    Rows {
        /// Bytes that the decoder holds besides the reduced rows.
        held: u64,
    },
}

impl Header {
    /// Size after orientation, and motion.
    pub(crate) fn source(&self) -> Source {
        let (width, height) = self.orientation.turn((self.width, self.height));
        Source { width, height, motion: self.motion }
    }

    /// The media type of the detected format.
    pub(crate) fn content_type(&self) -> &'static str {
        match self.format {
            Format::Jpeg => "image/jpeg",
            Format::Png => "image/png",
            Format::Gif => "image/gif",
            Format::WebP => "image/webp",
            Format::Bmp => "image/bmp",
            Format::Tiff => "image/tiff",
        }
    }

    /// Refuses a picture with more than [`Limits::max_pixels`] pixels. JPEGs are never refused: the time to decode one depends
    /// on its bytes. In other formats, a few bytes can claim pixels that take minutes.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(crate) fn check_pixels(&self, limits: &Limits) -> Result<(), ThumbnailError> {
        if self.format != Format::Jpeg && self.pixels() > limits.max_pixels {
            return Err(ThumbnailError::TooLarge("the image has too many pixels"));
        }
        Ok(())
    }

    /// Pixels of one frame.
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.width).saturating_mul(u64::from(self.height))
    }

    /// Upper bound of the bytes of a decoded pixel. A truncated picture gets an alpha channel, except JPEG.
    pub(super) fn channels(&self) -> u64 {
        match self.storage {
            Storage::Jpeg(info) => info.channels(),
            Storage::Rows { .. } => 4,
        }
    }

    /// An upright still.
    ///
    /// # Errors
    /// `Broken` if a side is 0.
    fn new(format: Format, (width, height): (u32, u32), storage: Storage) -> Result<Self, ThumbnailError> {
        if width == 0 || height == 0 {
            return Err(ThumbnailError::broken("a side is 0"));
        }
        let (orientation, motion) = (Orientation::UPRIGHT, Motion::Still);
        Ok(Self { format, width, height, orientation, motion, storage, profile_bytes: 0 })
    }
}

/// Reads a picture's header, in at most [`PROBE_TIMEOUT`]: a file can hold millions of small blocks before its header ends.
///
/// # Errors
/// `NotAnImage` for other formats, `Broken`, `Unsupported`, `TooLarge` for too much metadata, `Timeout`, `Io`.
pub(crate) fn probe(input: &mut dyn ReadSeek) -> Result<Header, ThumbnailError> {
    probe_until(input, Instant::now().checked_add(PROBE_TIMEOUT))
}

fn probe_until(input: &mut dyn ReadSeek, deadline: Option<Instant>) -> Result<Header, ThumbnailError> {
    input::read(input, deadline, |mut input| {
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        let most = u64::try_from(MAGIC_BYTES).unwrap_or(0);
        input.by_ref().take(most).read_to_end(&mut magic)?;
        let format = detect_format(&magic).ok_or(ThumbnailError::NotAnImage)?;
        input.rewind()?;
        match format {
            Format::Jpeg => jpeg::probe(&mut input),
            Format::Png => png::probe(&mut input),
            Format::Gif => gif::probe(&mut input),
            Format::WebP => webp::probe(&mut input),
            Format::Bmp => bmp::probe(&mut input),
            Format::Tiff => tiff::probe(&mut input),
        }
    })
}

/// The format by the first bytes. It accepts every file that a decoder here can read; `preview` has a stricter table of its
/// own, which names the types of all kinds of files.
fn detect_format(magic: &[u8]) -> Option<Format> {
    let starts = |with: &[u8]| magic.starts_with(with);
    let webp = starts(b"RIFF") && magic.get(8..12) == Some(b"WEBP");
    match () {
        () if starts(b"\xff\xd8\xff") => Some(Format::Jpeg),
        () if starts(b"\x89PNG\r\n\x1a\n") => Some(Format::Png),
        () if starts(b"GIF87a") || starts(b"GIF89a") => Some(Format::Gif),
        () if webp => Some(Format::WebP),
        () if starts(b"BM") => Some(Format::Bmp),
        () if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|start| magic.starts_with(*start)) => {
            Some(Format::Tiff)
        }
        () => None,
    }
}

/// The orientation in an EXIF block; upright if it has none.
fn exif_orientation(exif: &[u8]) -> Orientation {
    let found = ImageOrientation::from_exif_chunk(exif).unwrap_or(ImageOrientation::NoTransforms);
    Orientation::from_exif(found.to_exif())
}

/// Reads `N` bytes.
pub(super) fn bytes<const N: usize>(input: &mut impl Read) -> Result<[u8; N], ThumbnailError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Skips bytes and keeps the read-ahead buffer, since a file can have millions of small blocks to skip.
fn skip(input: &mut Input<'_>, count: u32) -> Result<(), ThumbnailError> {
    Ok(input.seek_relative(i64::from(count))?)
}

/// Reading a header normally takes milliseconds, whatever the size of the picture.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// First bytes read to detect the format; the longest signature has 12.
const MAGIC_BYTES: usize = 16;
/// Most bytes of an EXIF block, the limit of a JPEG segment.
const MAX_EXIF: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "tests")]

    use std::io::{self, BufReader, Cursor, Seek};

    use super::*;

    #[test]
    fn other_formats_are_refused_by_their_first_bytes() {
        let pages: [&[u8]; 8] = [
            b"",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
            b"<?xml version=\"1.0\"?><svg/>",
            b"%PDF-1.7",
            b"<!doctype html>",
            b"\0\0\0\x1cftypavif",
            b"\xff\x0a\xfa\x1f",
            b"\x93\x1c\x07\xd5\xee\x10\x84\xaa\x01",
        ];
        for bytes in pages {
            let got = probe(&mut Cursor::new(bytes));
            assert!(matches!(got, Err(ThumbnailError::NotAnImage)), "{bytes:?}: {got:?}");
        }
    }

    /// Counts the bytes that are read from it.
    struct Counted {
        inner: Cursor<Vec<u8>>,
        read: usize,
    }

    impl Read for Counted {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.inner.read(into)?;
            self.read += count;
            Ok(count)
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
            self.inner.seek(to)
        }
    }

    /// A GIF with 100 000 empty extensions before its frame.
    fn gif_of_small_blocks() -> Vec<u8> {
        let mut gif = b"GIF89a\x01\0\x01\0\0\0\0".to_vec();
        gif.extend(b"\x21\xfe\0".repeat(100_000));
        gif.extend(b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x01\0\0\x3b");
        gif
    }

    /// A seek for each block discarded the buffer, so that 50 MiB of them were read thousands of times.
    #[test]
    fn a_file_of_small_blocks_is_read_once() {
        let gif = gif_of_small_blocks();
        let size = gif.len();
        let mut input = BufReader::new(Counted { inner: Cursor::new(gif), read: 0 });
        probe(&mut input).unwrap();
        // The first buffer is read twice, to detect the format.
        assert!(input.get_ref().read <= size + 20_000, "{} of {size}", input.get_ref().read);
    }

    /// 16 million empty extensions after the first frame took as long as decoding, at each request.
    #[test]
    fn a_long_way_to_a_second_frame_is_not_gone() {
        let mut gif = gif_of_small_blocks();
        assert_eq!(gif.pop(), Some(0x3b), "the trailer");
        let first = gif.len();
        gif.extend(b"\x21\xfe\0".repeat(1_000_000));
        gif.extend(b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x01\0\0\x3b");
        let mut input = BufReader::new(Counted { inner: Cursor::new(gif), read: 0 });
        assert_eq!(probe(&mut input).unwrap().motion, Motion::Still);
        assert!(input.get_ref().read < first + 200_000, "{} of {first}", input.get_ref().read);
    }

    #[test]
    fn reading_a_header_ends_at_its_deadline() {
        let got = probe_until(&mut Cursor::new(gif_of_small_blocks()), Some(Instant::now()));
        assert!(matches!(got, Err(ThumbnailError::Timeout)), "{got:?}");
    }

    #[test]
    fn a_truncated_header_is_broken() {
        let starts: [&[u8]; 6] = [
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n\0\0",
            b"GIF89a\x01",
            b"RIFF\x10\0\0\0WEBPVP8 ",
            b"BM\0\0\0",
            b"II*\0\x08\0\0\0",
        ];
        for bytes in starts {
            let got = probe(&mut Cursor::new(bytes));
            assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{bytes:?}: {got:?}");
        }
    }
}
