//! Pictures into an animated WebP ([container](https://developers.google.com/speed/webp/docs/riff_container)).
//!
//! Owns the file. Each frame holds only the part that changed, in the place of what was there, so that a picture is never
//! mixed with the one before; a picture that changes nothing prolongs the one before.

use webp::{Encoder, WebPConfig};

use super::super::ThumbnailError;
use super::super::encode::Rendered;
use super::super::pixels::Pixels;
use super::super::plan::Rect;
use super::{MAX_BYTES, MAX_CHANGED, UNFIT};

/// An animation while it is written.
pub(super) struct Writer {
    /// The file so far. Its headers are filled in at the end.
    file: Vec<u8>,
    /// The frame not yet in it.
    last: Option<Part>,
    /// What is seen after that frame, RGBA.
    seen: Vec<u8>,
    /// Size of the pictures.
    size: (u32, u32),
    /// Frames so far.
    frames: u32,
    /// Pixels encoded so far.
    changed: u64,
    /// Whether any frame has alpha.
    has_alpha: bool,
}

/// A frame of the file.
struct Part {
    /// Where it is put; left and top are even.
    place: Rect,
    /// Its `ALPH`, `VP8 ` chunks.
    chunks: Vec<u8>,
    /// Milliseconds, up to [`MAX_DURATION`].
    duration: u32,
}

impl Writer {
    /// For pictures of a size.
    pub(super) fn new((width, height): (u32, u32)) -> Result<Self, ThumbnailError> {
        if width.max(height) > MAX_SIDE {
            return Err(UNFIT);
        }
        let file = vec![0; HEADERS];
        Ok(Self {
            file,
            last: None,
            seen: Vec::new(),
            size: (width, height),
            frames: 0,
            changed: 0,
            has_alpha: false,
        })
    }

    /// Adds a picture, RGBA, that is seen for some milliseconds.
    pub(super) fn add(&mut self, picture: Pixels, duration: u32) -> Result<(), ThumbnailError> {
        let mut place = changed(&self.seen, &picture);
        if let (None, Some(last)) = (place, &mut self.last) {
            let longer = last.duration.saturating_add(duration);
            if longer <= MAX_DURATION {
                last.duration = longer;
                return Ok(());
            }
            // A frame cannot last so long: one pixel drawn again goes on for it.
            place = Some(Rect { x: 0, y: 0, width: 1, height: 1 });
        }
        let Some(place) = place else { return Err(ThumbnailError::broken("no pixels")) };
        self.changed =
            self.changed.saturating_add(u64::from(place.width).saturating_mul(place.height.into()));
        if self.changed > MAX_CHANGED {
            return Err(UNFIT);
        }
        let chunks = encode(&cut(&picture, place), place)?;
        self.has_alpha |= chunks.starts_with(b"ALPH");
        self.flush()?;
        self.last = Some(Part { place, chunks, duration: duration.min(MAX_DURATION) });
        self.seen = picture.data;
        self.frames = self.frames.saturating_add(1);
        Ok(())
    }

    /// The file; nothing if there is but one picture.
    pub(super) fn finish(mut self, plays: u16) -> Result<Option<Rendered>, ThumbnailError> {
        if self.frames < 2 {
            return Ok(None);
        }
        self.flush()?;
        let size = u32::try_from(self.file.len().saturating_sub(8)).map_err(ThumbnailError::broken)?;
        let flags = ANIMATION | if self.has_alpha { ALPHA } else { 0 };
        let (width, height) = self.size;
        let mut headers = Vec::with_capacity(HEADERS);
        headers.extend(b"RIFF");
        headers.extend(size.to_le_bytes());
        headers.extend(b"WEBPVP8X\x0a\0\0\0");
        headers.extend([flags, 0, 0, 0]);
        headers.extend(number(width.saturating_sub(1)));
        headers.extend(number(height.saturating_sub(1)));
        headers.extend(b"ANIM\x06\0\0\0\0\0\0\0");
        headers.extend(plays.to_le_bytes());
        for (place, byte) in self.file.iter_mut().zip(headers) {
            *place = byte;
        }
        self.file.shrink_to_fit();
        let (content_type, extension) = ("image/webp", "webp");
        Ok(Some(Rendered { content_type, extension, bytes: self.file, width, height, is_partial: false }))
    }

    /// Writes the last frame.
    fn flush(&mut self) -> Result<(), ThumbnailError> {
        let Some(Part { place, chunks, duration }) = self.last.take() else { return Ok(()) };
        let length = chunks.len().saturating_add(FRAME_HEADER);
        if self.file.len().saturating_add(length) > MAX_BYTES {
            return Err(UNFIT);
        }
        self.file.extend(b"ANMF");
        self.file.extend(u32::try_from(length).map_err(ThumbnailError::broken)?.to_le_bytes());
        self.file.extend(number(place.x.div_euclid(2)));
        self.file.extend(number(place.y.div_euclid(2)));
        self.file.extend(number(place.width.saturating_sub(1)));
        self.file.extend(number(place.height.saturating_sub(1)));
        self.file.extend(number(duration));
        self.file.push(REPLACE);
        self.file.extend(chunks);
        Ok(())
    }
}

/// The smallest part, beginning at an even pixel, outside of which two pictures are equal. Without one before, the whole.
fn changed(before: &[u8], picture: &Pixels) -> Option<Rect> {
    let Pixels { width, height, .. } = *picture;
    if before.is_empty() {
        return Some(Rect { x: 0, y: 0, width, height });
    }
    let row = usize::try_from(width).unwrap_or(0).saturating_mul(4).max(1);
    let (mut left, mut right, mut rows) = (u32::MAX, 0, None);
    for (y, (old, new)) in (0_u32..).zip(before.chunks_exact(row).zip(picture.data.chunks_exact(row))) {
        if old == new {
            continue;
        }
        let mut differ = (0_u32..)
            .zip(old.as_chunks::<4>().0.iter().zip(new.as_chunks::<4>().0))
            .filter_map(|(x, (old, new))| (old != new).then_some(x));
        if let Some(first) = differ.next() {
            left = left.min(first);
            right = right.max(differ.last().unwrap_or(first));
            rows = Some((rows.map_or(y, |(top, _)| top), y));
        }
    }
    let (top, bottom) = rows?;
    let (x, y) = (left & !1, top & !1);
    let length = |from: u32, last: u32| last.saturating_sub(from).saturating_add(1);
    Some(Rect { x, y, width: length(x, right), height: length(y, bottom) })
}

/// A part of a picture.
fn cut(picture: &Pixels, part: Rect) -> Vec<u8> {
    let bytes = |pixels: u32| usize::try_from(pixels).unwrap_or(0).saturating_mul(4);
    let (from, to) = (bytes(part.x), bytes(part.x.saturating_add(part.width)));
    picture
        .data
        .chunks_exact(bytes(picture.width).max(1))
        .skip(usize::try_from(part.y).unwrap_or(0))
        .take(usize::try_from(part.height).unwrap_or(0))
        .filter_map(|row| row.get(from..to))
        .flatten()
        .copied()
        .collect()
}

/// A frame's chunks out of the file that the encoder makes of it.
fn encode(rgba: &[u8], Rect { width, height, .. }: Rect) -> Result<Vec<u8>, ThumbnailError> {
    let mut config = WebPConfig::new().map_err(|()| ThumbnailError::broken("no encoder"))?;
    config.quality = QUALITY;
    config.method = EFFORT;
    let encoded = Encoder::from_rgba(rgba, width, height).encode_advanced(&config);
    let encoded = encoded.map_err(|error| ThumbnailError::broken(format!("encoding failed: {error:?}")))?;
    let mut chunks = encoded.get(12..).unwrap_or_default();
    // The extended header is for files.
    if chunks.starts_with(b"VP8X") {
        chunks = chunks.get(18..).unwrap_or_default();
    }
    Ok(chunks.to_vec())
}

/// 24 bits.
fn number(value: u32) -> [u8; 3] {
    let [low, middle, high, _] = value.to_le_bytes();
    [low, middle, high]
}

/// As of JPEG.
const QUALITY: f32 = 80.0;
/// Of 0 to 6. 4, the encoder's own choice, takes twice as long for 4 % fewer bytes.
const EFFORT: i32 = 2;
/// Pixels; the format's.
const MAX_SIDE: u32 = 16_383;
/// Milliseconds; the format's.
const MAX_DURATION: u32 = 0xff_ffff;
/// Bytes of `RIFF`, `VP8X` and `ANIM`.
const HEADERS: usize = 44;
/// Bytes of an `ANMF` before its chunks.
const FRAME_HEADER: usize = 16;
/// The flag in `VP8X` of files that move.
const ANIMATION: u8 = 0x02;
/// The flag in `VP8X` of files with alpha.
const ALPHA: u8 = 0x10;
/// Not blended, not disposed of.
const REPLACE: u8 = 0x02;

#[cfg(test)]
mod tests {
    use super::super::super::pixels::Layout;
    use super::*;

    /// 4 × 4, black but for some pixels.
    fn picture(white: &[usize]) -> Pixels {
        let mut data = [0, 0, 0, 255].repeat(16);
        for at in white {
            data.as_chunks_mut::<4>().0[*at] = [255; 4];
        }
        Pixels { width: 4, height: 4, layout: Layout::Rgba, data }
    }

    #[test]
    fn the_changed_part_begins_at_even_pixels_and_ends_at_the_last() {
        let black = picture(&[]).data;
        let rect = |x, y, width, height| Some(Rect { x, y, width, height });
        for (white, expected) in [
            (vec![], None),
            (vec![0], rect(0, 0, 1, 1)),
            (vec![5], rect(0, 0, 2, 2)),
            (vec![10, 15], rect(2, 2, 2, 2)),
            (vec![3, 12], rect(0, 0, 4, 4)),
        ] {
            assert_eq!(changed(&black, &picture(&white)), expected, "{white:?}");
        }
        assert_eq!(changed(&[], &picture(&[])), rect(0, 0, 4, 4));
    }

    #[test]
    fn what_does_not_change_lasts_longer() {
        let mut writer = Writer::new((4, 4)).unwrap();
        for (white, duration) in [(0, 20), (0, 30), (5, MAX_DURATION), (5, 40), (5, 60)] {
            writer.add(picture(&[white]), duration).unwrap();
        }
        let bytes = writer.finish(3).unwrap().unwrap().bytes;
        let mut decoder = image_webp::WebPDecoder::new(std::io::Cursor::new(&bytes)).unwrap();
        let mut buffer = vec![0; decoder.output_buffer_size().unwrap()];
        let durations: Vec<_> =
            (0..decoder.num_frames()).map(|_| decoder.read_frame(&mut buffer).unwrap()).collect();
        assert_eq!(durations, [50, MAX_DURATION, 100]);
        assert_eq!(decoder.loop_count(), image_webp::LoopCount::Times(3.try_into().unwrap()));
    }

    #[test]
    fn one_picture_is_no_animation() {
        let mut writer = Writer::new((4, 4)).unwrap();
        for _ in 0..2 {
            writer.add(picture(&[1]), 20).unwrap();
        }
        assert_eq!(writer.finish(0).unwrap(), None);
        assert!(Writer::new((MAX_SIDE + 1, 1)).is_err());
    }
}
