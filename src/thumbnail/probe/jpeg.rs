//! The segments of a JPEG up to its frame header and first scan (ITU-T T.81, annex B).

use std::io::{BufRead, Seek};

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::orient::Orientation;
use super::{Format, Header, Storage, bytes, exif_orientation, skip};

/// What a frame header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::thumbnail) struct Frame {
    /// Channels: 1, 3 or 4.
    pub(in crate::thumbnail) components: u8,
    /// Samples of all components, padded to whole blocks.
    pub(in crate::thumbnail) samples: u64,
    /// Whether every coefficient is kept until the end.
    pub(in crate::thumbnail) progressive: bool,
    /// Whether Adobe's marker is there, which turns inks upside down.
    pub(in crate::thumbnail) adobe: bool,
    /// Where the first scan begins, bytes from the start.
    pub(in crate::thumbnail) scan: u64,
}

/// Reads segments until the first scan, so that EXIF after the frame header is found too.
pub(super) fn probe(input: &mut (impl BufRead + Seek)) -> Result<Header, ThumbnailError> {
    skip(input, 2)?;
    let (mut frame, mut orientation, mut adobe) = (None, Orientation::UPRIGHT, false);
    let mut profile_bytes = 0_u32;
    for _ in 0..MAX_SEGMENTS {
        let marker = next_marker(input)?;
        match marker {
            // Markers without a length: TEM, RSTn.
            0x01 | 0xd0..=0xd7 => continue,
            0xda => {
                let scan = input.stream_position()?;
                let (size, frame) = frame.ok_or_else(|| ThumbnailError::broken("a scan before its frame"))?;
                let storage = Storage::Jpeg(Frame { adobe, scan, ..frame });
                let header = Header::new(Format::Jpeg, size, storage)?;
                return Ok(Header { orientation, profile_bytes, ..header });
            }
            0xd8 | 0xd9 => break,
            _ => {}
        }
        let length = u16::from_be_bytes(bytes(input)?);
        let Some(length) = length.checked_sub(2) else { break };
        match marker {
            0xe1 => {
                let mut segment = vec![0; usize::from(length)];
                input.read_exact(&mut segment)?;
                if let Some(exif) = segment.strip_prefix(b"Exif\0\0") {
                    orientation = exif_orientation(exif);
                }
                continue;
            }
            0xe2 => {
                profile_bytes = profile_bytes.saturating_add(u32::from(length));
                if profile_bytes > MAX_PROFILE {
                    return Err(ThumbnailError::TooLarge("the image's colour profile is too large"));
                }
            }
            0xee => adobe = true,
            0xc0..=0xc2 if frame.is_some() => return Err(ThumbnailError::broken("a second frame header")),
            0xc0..=0xc2 => {
                let mut segment = vec![0; usize::from(length)];
                input.read_exact(&mut segment)?;
                let seen = parse_frame(&segment, marker == 0xc2);
                frame = Some(seen.ok_or_else(|| ThumbnailError::broken("the frame header makes no sense"))?);
                continue;
            }
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Err(ThumbnailError::broken(
                    "a rare kind of JPEG: lossless, hierarchical or arithmetic",
                ));
            }
            _ => {}
        }
        skip(input, u32::from(length))?;
    }
    Err(ThumbnailError::broken("no scan after the headers"))
}

/// The code of the next marker; what stands before it is passed over, as decoders do.
fn next_marker(input: &mut impl BufRead) -> Result<u8, ThumbnailError> {
    for _ in 0..MAX_STRAY {
        if bytes::<1>(input)? != [0xff] {
            continue;
        }
        let mut code = [0xff];
        while code == [0xff] {
            code = bytes::<1>(input)?;
        }
        if code != [0] {
            let [code] = code;
            return Ok(code);
        }
    }
    Err(ThumbnailError::broken("no marker where one belongs"))
}

/// Width, height and the frame out of a SOF segment.
fn parse_frame(segment: &[u8], progressive: bool) -> Option<((u32, u32), Frame)> {
    let (head, rest) = segment.split_first_chunk::<6>()?;
    let [precision, h1, h0, w1, w0, components] = *head;
    let height = u32::from(u16::from_be_bytes([h1, h0]));
    let width = u32::from(u16::from_be_bytes([w1, w0]));
    let factors: Vec<(u32, u32)> = rest
        .as_chunks::<3>()
        .0
        .iter()
        .take(usize::from(components))
        .map(|[_, factors, _]| (u32::from(factors.wrapping_shr(4)), u32::from(factors & 15)))
        .collect();
    let sensible =
        precision == 8 && matches!(components, 1 | 3 | 4) && factors.len() == usize::from(components);
    let in_range = factors.iter().all(|(h, v)| (1..=4).contains(h) && (1..=4).contains(v));
    if !sensible || !in_range {
        return None;
    }
    let most_h = factors.iter().map(|(h, _)| *h).max()?;
    let most_v = factors.iter().map(|(_, v)| *v).max()?;
    let mcus = u64::from(width.div_ceil(most_h.saturating_mul(8)))
        .saturating_mul(u64::from(height.div_ceil(most_v.saturating_mul(8))));
    let blocks: u32 = factors.iter().map(|(h, v)| h.saturating_mul(*v)).sum();
    let samples = mcus.saturating_mul(u64::from(blocks)).saturating_mul(64);
    Some(((width, height), Frame { components, samples, progressive, adobe: false, scan: 0 }))
}

/// Real files have a few dozen; a large profile takes one for each 64 KiB.
const MAX_SEGMENTS: usize = 2000;
/// Bytes between segments that some cameras leave there.
const MAX_STRAY: usize = 1 << 16;
