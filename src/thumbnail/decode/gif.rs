//! Decoding of GIF: the first frame, row by row; an interlaced one whole, as one byte for each pixel.
//!
//! Owns the palette and the order of interlaced rows. Refuses to know further frames. The `gif` crate does the rest.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout, length};
use super::super::plan::Rect;
use super::super::probe::{Header, gif_canvas};
use super::sink::FrameSink;

/// Decodes the first frame on its canvas, reduced once for each divisor.
pub(super) fn decode(
    input: Input<'_>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // The limit is for metadata; pixels go into buffers of this module.
    let most = NonZeroU64::new(u64::from(header.profile_bytes).saturating_add(METADATA));
    options.set_memory_limit(most.map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(input).map_err(from_gif)?;
    let screen = (decoder.width().into(), decoder.height().into());
    let frame = decoder.next_frame_info().map_err(from_gif)?;
    let frame = frame.ok_or_else(|| ThumbnailError::broken("no frame"))?;
    let (width, height) = (u32::from(frame.width), u32::from(frame.height));
    let part = Rect { x: frame.left.into(), y: frame.top.into(), width, height };
    let (canvas, part) = gif_canvas(screen, part);
    if canvas != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let (interlaced, transparent) = (frame.interlaced, frame.transparent);
    let own = frame.palette.clone();
    let palette = own.as_deref().or(decoder.global_palette()).unwrap_or_default();
    let covers = (part.x, part.y) == (0, 0) && width >= canvas.0 && height >= canvas.1;
    let layout = if covers && transparent.is_none() { Layout::Rgb } else { Layout::Rgba };
    let colors = colors(palette, transparent);
    let mut frame_sink = FrameSink::new(header, layout, part, divisors);
    let push = &mut |indices: &[u8]| {
        let color = |index: &u8| colors.get(usize::from(*index)).copied().unwrap_or_default();
        frame_sink.push(indices.iter().map(color));
    };
    let outcome = if interlaced {
        read_interlaced_rows(&mut decoder, part, push)
    } else {
        read_rows(&mut decoder, part, push)
    };
    frame_sink.finish(outcome, None)
}

/// Passes on the indices of each row.
fn read_rows(
    decoder: &mut Decoder<Input<'_>>,
    part: Rect,
    push: &mut dyn FnMut(&[u8]),
) -> Result<(), ThumbnailError> {
    let mut row = vec![0; length(part.width)];
    for _ in 0..part.height {
        if !decoder.fill_buffer(&mut row).map_err(from_gif)? {
            return Err(ThumbnailError::broken("a frame lacks rows"));
        }
        push(&row);
    }
    Ok(())
}

/// Passes on the rows of four passes in their order (GIF 89a, appendix E). As in browsers, each row also fills those below it
/// that come in later passes, so the end of a truncated picture is coarse.
fn read_interlaced_rows(
    decoder: &mut Decoder<Input<'_>>,
    part: Rect,
    push: &mut dyn FnMut(&[u8]),
) -> Result<(), ThumbnailError> {
    const PASSES: [(usize, usize, usize); 4] = [(0, 8, 8), (4, 8, 4), (2, 4, 2), (1, 2, 1)];
    let (width, height) = (length(part.width), length(part.height));
    let mut indices = vec![0; width.saturating_mul(height)];
    let mut row = vec![0; width];
    let mut filled = 0_usize;
    let mut outcome = Ok(());
    'passes: for (first, step, filling) in PASSES {
        for y in (first..height).step_by(step) {
            match decoder.fill_buffer(&mut row) {
                Ok(true) => {}
                Ok(false) => outcome = Err(ThumbnailError::broken("a frame lacks rows")),
                Err(error) => outcome = Err(from_gif(error)),
            }
            if outcome.is_err() {
                break 'passes;
            }
            for place in indices.chunks_exact_mut(width.max(1)).skip(y).take(filling) {
                place.copy_from_slice(&row);
            }
            filled = filled.max(y.saturating_add(filling));
        }
    }
    indices.chunks_exact(width.max(1)).take(filled).for_each(push);
    outcome
}

/// A palette as RGBA. Missing entries are transparent.
fn colors(palette: &[u8], transparent: Option<u8>) -> [[u8; 4]; 256] {
    let mut colors = [[0; 4]; 256];
    for (color, [red, green, blue]) in colors.iter_mut().zip(palette.as_chunks::<3>().0) {
        *color = [*red, *green, *blue, u8::MAX];
    }
    if let Some(color) = transparent.and_then(|index| colors.get_mut(usize::from(index))) {
        *color = [0; 4];
    }
    colors
}

/// Errors of the decoder, also those of reads, which [`super::super::input::read`] tells apart.
pub(in crate::thumbnail) fn from_gif(error: DecodingError) -> ThumbnailError {
    ThumbnailError::broken(error)
}

/// Bytes for metadata beyond what the header counted.
const METADATA: u64 = 1 << 20;
