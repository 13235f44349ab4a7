//! Target `image`: a file through the whole way to its thumbnail.

use std::io::Cursor;
use std::time::{Duration, Instant};

use crate::config::ThumbnailMethod;
use crate::thumbnail::{
    Limits, Motion, Plan, Rect, RenderSpec, Rendered, ThumbnailRequest, estimate, probe, render,
};

/// Probes, plans, estimates and renders a file. Its last eight bytes are the request. Gives the bytes of memory that
/// rendering may have taken, for the caller to compare with what it did take.
pub fn image(data: &[u8]) -> u64 {
    let Some((file, request)) = data.split_last_chunk::<8>() else { return 0 };
    let deadline = Instant::now().checked_add(Duration::from_secs(5));
    let limits = Limits { max_pixels: 1 << 22, memory: 48 << 20, deadline, animation_deadline: deadline };
    let mut input = Cursor::new(file);
    let Ok(header) = probe(&mut input) else { return PROBE_BYTES };
    let source = header.source();
    assert!(source.width > 0 && source.height > 0, "a picture without pixels");
    if header.check_pixels(&limits).is_err() {
        return PROBE_BYTES;
    }
    let Plan::Render(spec) = Plan::new(source, wanted(*request), &[]) else { return PROBE_BYTES };
    assert!(spec.width <= source.width && spec.height <= source.height, "enlarged: {spec:?}");
    let estimated = estimate(&header, &[spec]);
    let made = render(&mut input, &header, &[spec], &limits);
    // Caught, so that a decoder's panic costs one picture; it is a finding nevertheless.
    assert!(!format!("{:?}", made.as_ref().err()).contains("the decoder gave up"), "a decoder panicked");
    let Ok([rendered]) = made.as_deref() else {
        return estimated.max(PROBE_BYTES).saturating_add(UNTOUCHED_BYTES);
    };
    assert!(estimated <= limits.memory, "rendered over the limit");
    check(rendered, &spec).saturating_add(estimated)
}

/// The request that eight bytes say, small for the most part.
fn wanted([w1, w0, h1, h0, method, motion, ..]: [u8; 8]) -> ThumbnailRequest {
    ThumbnailRequest {
        width: u32::from(u16::from_be_bytes([w1 & 7, w0])),
        height: u32::from(u16::from_be_bytes([h1 & 7, h0])),
        method: if method & 1 == 0 { ThumbnailMethod::Scale } else { ThumbnailMethod::Crop },
        motion: if motion & 1 == 0 { Motion::Still } else { Motion::Animated },
    }
}

/// Checks a result: it is what it says, can be decoded, and holds nothing but pixels. Gives the bytes that took.
fn check(rendered: &Rendered, spec: &RenderSpec) -> u64 {
    let Rendered { content_type, extension, bytes, width, height, is_partial: _ } = rendered;
    assert_eq!((*width, *height), (spec.width, spec.height), "not the planned size");
    let pair = format!("{content_type} {extension}");
    assert!(["image/jpeg jpg", "image/png png", "image/webp webp"].contains(&pair.as_str()), "{pair}");
    let mut input = Cursor::new(bytes.as_slice());
    let header = probe(&mut input).unwrap_or_else(|why| panic!("no picture came out: {why:?}"));
    assert_eq!(header.content_type(), *content_type, "not the type it says");
    let source = header.source();
    assert_eq!((source.width, source.height), (*width, *height), "not the size it says");
    assert!(is_bare(bytes, content_type), "something besides pixels");
    // Decoded whole, to the last byte.
    let crop = Rect { x: 0, y: 0, width: *width, height: *height };
    let whole = RenderSpec { crop, width: *width, height: *height, animated: false };
    let limits = Limits { max_pixels: u64::MAX, memory: u64::MAX, deadline: None, animation_deadline: None };
    render(&mut input, &header, &[whole], &limits).unwrap_or_else(|why| panic!("it cannot be read: {why:?}"));
    estimate(&header, &[whole]).saturating_add(u64::try_from(bytes.len()).unwrap_or(0))
}

/// Whether a file has only the parts that its pixels need.
fn is_bare(bytes: &[u8], content_type: &str) -> bool {
    match content_type {
        "image/png" => {
            parts(bytes.get(8..), Length::Before).all(|name| [b"IHDR", b"IDAT", b"IEND"].contains(&&name))
        }
        "image/webp" => parts(bytes.get(12..), Length::After)
            .all(|name| [b"VP8X", b"ANIM", b"ANMF", b"VP8L", b"VP8 ", b"ALPH"].contains(&&name)),
        _ => segments(bytes).all(|marker| matches!(marker, 0xc0 | 0xc4 | 0xda | 0xdb | 0xdd | 0xe0)),
    }
}

/// Where a chunk's length stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// PNG: length, name, data, checksum.
    Before,
    /// WebP: name, length, data, padded.
    After,
}

/// The names of a file's chunks.
fn parts(bytes: Option<&[u8]>, length: Length) -> impl Iterator<Item = [u8; 4]> {
    let mut rest = bytes.unwrap_or_default();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first_chunk::<4>()?;
        let (second, data) = after.split_first_chunk::<4>()?;
        let (name, size) = match length {
            Length::Before => (*second, u32::from_be_bytes(*first).saturating_add(4)),
            Length::After => (*first, u32::from_le_bytes(*second).next_multiple_of(2)),
        };
        rest = data.get(usize::try_from(size).ok()?..).unwrap_or_default();
        Some(name)
    })
}

/// The markers of a JPEG up to its first scan.
fn segments(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let ([_ff, marker, l1, l0], _) = rest.split_first_chunk::<4>()?;
        let size = usize::from(u16::from_be_bytes([*l1, *l0])).saturating_add(2);
        rest = if *marker == 0xda { &[] } else { rest.get(size..).unwrap_or_default() };
        Some(*marker)
    })
}

/// What looking at headers may take: the arrays of a TIFF's directory, mostly.
const PROBE_BYTES: u64 = 12 << 20;
/// A part of a lossy WebP that is announced and not there: asked of the system, but never touched.
const UNTOUCHED_BYTES: u64 = 1 << 24;
