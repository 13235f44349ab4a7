//! GIF, the first frame, row by row; an interlaced one whole, a byte for each pixel.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout, length};
use super::super::plan::Rect;
use super::super::probe::{Header, gif_canvas};
use super::Sink;

/// Decodes the first frame on its canvas, reduced once for each divisor.
pub(super) fn decode(
    input: Input<'_>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // For what it keeps of metadata; pixels go into our buffers.
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
    let mut painter = Painter {
        colors: colors(palette, transparent),
        row: vec![0; length(canvas.0).saturating_mul(layout.channels())],
        part,
        layout,
        sink: Sink::new(header, layout, divisors),
    };
    painter.blank(part.y);
    let outcome = if interlaced {
        interlaced_rows(&mut decoder, part, &mut painter)
    } else {
        rows(&mut decoder, part, &mut painter)
    };
    if outcome.is_ok() {
        painter.blank(canvas.1);
    }
    painter.sink.finish(outcome, None)
}

/// Turns rows of a frame into rows of the canvas.
struct Painter {
    /// RGBA by index.
    colors: [[u8; 4]; 256],
    /// A row of the canvas; what the frame does not cover stays nothing.
    row: Vec<u8>,
    /// Where the frame is.
    part: Rect,
    /// What a pixel of the canvas is.
    layout: Layout,
    /// Where rows go.
    sink: Sink,
}

impl Painter {
    /// Goes on down to a row with rows that the frame does not cover.
    fn blank(&mut self, down_to: u32) {
        let row = vec![0; self.row.len()];
        while self.sink.rows < down_to.min(self.sink.height) {
            self.sink.push(&row);
        }
    }

    /// Takes the frame's next row.
    fn push(&mut self, indices: &[u8]) {
        let channels = self.layout.channels();
        let first = length(self.part.x).saturating_mul(channels);
        let places = self.row.get_mut(first..).unwrap_or_default();
        for (place, index) in places.chunks_exact_mut(channels).zip(indices) {
            let color = self.colors.get(usize::from(*index)).copied().unwrap_or_default();
            place.iter_mut().zip(color).for_each(|(to, value)| *to = value);
        }
        self.sink.push(&self.row);
    }
}

/// Rows as they come.
fn rows(decoder: &mut Decoder<Input<'_>>, part: Rect, painter: &mut Painter) -> Result<(), ThumbnailError> {
    let mut row = vec![0; length(part.width)];
    for _ in 0..part.height {
        if !decoder.fill_buffer(&mut row).map_err(from_gif)? {
            return Err(ThumbnailError::broken("a frame lacks rows"));
        }
        painter.push(&row);
    }
    Ok(())
}

/// Rows of four passes (GIF 89a, appendix E). Each fills what later ones refine, as browsers show it, so what breaks off is
/// coarse below.
fn interlaced_rows(
    decoder: &mut Decoder<Input<'_>>,
    part: Rect,
    painter: &mut Painter,
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
    indices.chunks_exact(width.max(1)).take(filled).for_each(|row| painter.push(row));
    outcome
}

/// A palette as RGBA. What it lacks is nothing.
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

/// A failure inside the decoder as ours.
pub(in crate::thumbnail) fn from_gif(error: DecodingError) -> ThumbnailError {
    ThumbnailError::broken(error)
}

/// Bytes that profile and XMP may have besides.
const METADATA: u64 = 1 << 20;
