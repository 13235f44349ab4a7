//! Writing of animated WebP ([RFC 9649](https://www.rfc-editor.org/rfc/rfc9649)).
//!
//! Owns the container. Refuses to know sources. Each frame holds only the part that changed and replaces what was there, so
//! that no alpha is blended; a picture that changes nothing prolongs the frame before. Written here because the encoder of
//! the `webp` crate needs all pictures in memory at once, where this writer holds the last one.

use webp::{Encoder, WebPConfig};

use super::super::ThumbnailError;
use super::super::encode::Rendered;
use super::super::pixels::Pixels;
use super::super::plan::Rect;
use super::{MAX_BYTES, MAX_ENCODED_PIXELS, TOO_LONG};

/// An animation that is being written.
pub(super) struct Writer {
    /// The file so far, with room for the headers, which are written at the end.
    file: Vec<u8>,
    /// The last frame, not yet in the file because it may be prolonged.
    pending: Option<PendingFrame>,
    /// The last picture, RGBA.
    last_picture: Vec<u8>,
    /// Width and height of the pictures.
    size: (u32, u32),
    /// Frames so far.
    frames: u32,
    encoded_pixels: u64,
    /// Whether any frame has alpha.
    has_alpha: bool,
}

/// An encoded frame.
struct PendingFrame {
    /// The part of the canvas that it replaces; left and top are even.
    part: Rect,
    /// Its `ALPH` and `VP8 ` chunks.
    chunks: Vec<u8>,
    /// Milliseconds, up to [`MAX_DURATION`].
    duration: u32,
}

impl Writer {
    /// # Errors
    /// `TooLarge` above [`MAX_SIDE`].
    pub(super) fn new((width, height): (u32, u32)) -> Result<Self, ThumbnailError> {
        if width.max(height) > MAX_SIDE {
            return Err(TOO_LONG);
        }
        let file = vec![0; HEADERS];
        Ok(Self {
            file,
            pending: None,
            last_picture: Vec::new(),
            size: (width, height),
            frames: 0,
            encoded_pixels: 0,
            has_alpha: false,
        })
    }

    /// Adds a picture, RGBA, that is shown for `duration` milliseconds.
    ///
    /// # Errors
    /// `TooLarge` if the animation exceeds a bound.
    pub(super) fn add(&mut self, picture: Pixels, duration: u32) -> Result<(), ThumbnailError> {
        let mut part = changed_part(&self.last_picture, &picture);
        if let (None, Some(last)) = (part, &mut self.pending) {
            let longer = last.duration.saturating_add(duration);
            if longer <= MAX_DURATION {
                last.duration = longer;
                return Ok(());
            }
            // No frame can last so long. A further frame redraws one pixel.
            part = Some(Rect { x: 0, y: 0, width: 1, height: 1 });
        }
        let Some(part) = part else { return Err(ThumbnailError::broken("no pixels")) };
        self.encoded_pixels =
            self.encoded_pixels.saturating_add(u64::from(part.width).saturating_mul(part.height.into()));
        if self.encoded_pixels > MAX_ENCODED_PIXELS {
            return Err(TOO_LONG);
        }
        let chunks = encode(&crop(&picture, part), part)?;
        self.has_alpha |= chunks.starts_with(b"ALPH");
        self.flush()?;
        self.pending = Some(PendingFrame { part, chunks, duration: duration.min(MAX_DURATION) });
        self.last_picture = picture.data;
        self.frames = self.frames.saturating_add(1);
        Ok(())
    }

    /// The file; `None` if there is only one frame.
    pub(super) fn finish(mut self, loop_count: u16) -> Result<Option<Rendered>, ThumbnailError> {
        if self.frames < 2 {
            return Ok(None);
        }
        self.flush()?;
        let size = u32::try_from(self.file.len().saturating_sub(8)).map_err(ThumbnailError::broken)?;
        let flags = ANIMATION_FLAG | if self.has_alpha { ALPHA_FLAG } else { 0 };
        let (width, height) = self.size;
        let mut headers = Vec::with_capacity(HEADERS);
        headers.extend(b"RIFF");
        headers.extend(size.to_le_bytes());
        headers.extend(b"WEBPVP8X\x0a\0\0\0");
        headers.extend([flags, 0, 0, 0]);
        headers.extend(u24(width.saturating_sub(1)));
        headers.extend(u24(height.saturating_sub(1)));
        headers.extend(b"ANIM\x06\0\0\0\0\0\0\0");
        headers.extend(loop_count.to_le_bytes());
        for (part, byte) in self.file.iter_mut().zip(headers) {
            *part = byte;
        }
        self.file.shrink_to_fit();
        let (content_type, extension) = ("image/webp", "webp");
        Ok(Some(Rendered { content_type, extension, bytes: self.file, width, height, is_partial: false }))
    }

    /// Writes the pending frame to the file.
    fn flush(&mut self) -> Result<(), ThumbnailError> {
        let Some(PendingFrame { part, chunks, duration }) = self.pending.take() else { return Ok(()) };
        let length = chunks.len().saturating_add(FRAME_HEADER);
        if self.file.len().saturating_add(length) > MAX_BYTES {
            return Err(TOO_LONG);
        }
        self.file.extend(b"ANMF");
        self.file.extend(u32::try_from(length).map_err(ThumbnailError::broken)?.to_le_bytes());
        self.file.extend(u24(part.x.div_euclid(2)));
        self.file.extend(u24(part.y.div_euclid(2)));
        self.file.extend(u24(part.width.saturating_sub(1)));
        self.file.extend(u24(part.height.saturating_sub(1)));
        self.file.extend(u24(duration));
        self.file.push(NO_BLEND);
        self.file.extend(chunks);
        Ok(())
    }
}

/// The smallest part outside of which two pictures are equal, with even left and top; `None` if they are equal. If `before` is
/// empty, the whole picture.
fn changed_part(before: &[u8], picture: &Pixels) -> Option<Rect> {
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
    let length = |from: u32, pending: u32| pending.saturating_sub(from).saturating_add(1);
    Some(Rect { x, y, width: length(x, right), height: length(y, bottom) })
}

/// The pixels of a part of a picture.
fn crop(picture: &Pixels, part: Rect) -> Vec<u8> {
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

/// Encodes a frame and returns its chunks without the file around them.
fn encode(rgba: &[u8], Rect { width, height, .. }: Rect) -> Result<Vec<u8>, ThumbnailError> {
    let mut config = WebPConfig::new().map_err(|()| ThumbnailError::broken("no encoder"))?;
    config.quality = QUALITY;
    config.method = EFFORT;
    let encoded = Encoder::from_rgba(rgba, width, height).encode_advanced(&config);
    let encoded = encoded.map_err(|error| ThumbnailError::broken(format!("encoding failed: {error:?}")))?;
    let mut chunks = encoded.get(12..).unwrap_or_default();
    // Frames have no `VP8X` chunk.
    if chunks.starts_with(b"VP8X") {
        chunks = chunks.get(18..).unwrap_or_default();
    }
    Ok(chunks.to_vec())
}

/// An integer in 24 bits, little-endian.
fn u24(value: u32) -> [u8; 3] {
    let [low, middle, high, _] = value.to_le_bytes();
    [low, middle, high]
}

/// 0 to 100; the same as for JPEG.
const QUALITY: f32 = 80.0;
/// 0 to 6. The encoder's default, 4, takes twice as long for 4 % fewer bytes.
const EFFORT: i32 = 2;
/// Pixels; the limit of the VP8 bitstream.
const MAX_SIDE: u32 = 16_383;
/// Milliseconds; the limit of the `ANMF` chunk.
const MAX_DURATION: u32 = 0xff_ffff;
/// Bytes of the `RIFF` header and the `VP8X` and `ANIM` chunks.
const HEADERS: usize = 44;
/// Bytes of an `ANMF` chunk's data before the frame's chunks.
const FRAME_HEADER: usize = 16;
/// The flag of `VP8X` for animations.
const ANIMATION_FLAG: u8 = 0x02;
/// The flag of `VP8X` for alpha.
const ALPHA_FLAG: u8 = 0x10;
/// The flags of an `ANMF` chunk: not blended, not disposed of.
const NO_BLEND: u8 = 0x02;

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
    fn the_changed_part_begins_at_even_pixels_and_ends_at_the_last_changed_one() {
        let black = picture(&[]).data;
        let rect = |x, y, width, height| Some(Rect { x, y, width, height });
        for (white, expected) in [
            (vec![], None),
            (vec![0], rect(0, 0, 1, 1)),
            (vec![5], rect(0, 0, 2, 2)),
            (vec![10, 15], rect(2, 2, 2, 2)),
            (vec![3, 12], rect(0, 0, 4, 4)),
        ] {
            assert_eq!(changed_part(&black, &picture(&white)), expected, "{white:?}");
        }
        assert_eq!(changed_part(&[], &picture(&[])), rect(0, 0, 4, 4));
    }

    #[test]
    fn an_unchanged_picture_prolongs_the_frame_before() {
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
    fn one_frame_is_no_animation() {
        let mut writer = Writer::new((4, 4)).unwrap();
        for _ in 0..2 {
            writer.add(picture(&[1]), 20).unwrap();
        }
        assert_eq!(writer.finish(0).unwrap(), None);
        assert!(Writer::new((MAX_SIDE + 1, 1)).is_err());
    }
}
