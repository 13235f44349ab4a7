//! The frames of an animated GIF ([GIF 89a](https://www.w3.org/Graphics/GIF/spec-gif89a.txt)).
//!
//! Owns the loop count and the translation of disposal. Refuses to know sizes of thumbnails.

use std::io::Seek as _;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, DisposalMethod, MemoryLimit, Repeat};

use super::super::ThumbnailError;
use super::super::decode::from_gif;
use super::super::input::Input;
use super::super::plan::Rect;
use super::super::probe::{Header, count_gif_frames, gif_canvas};
use super::canvas::{AnimationFrame, Blend, Canvas, Dispose};
use super::{AnimationInfo, FrameReader, MAX_FRAMES};

/// A GIF whose frames are being read.
pub(super) struct Gif<'a> {
    decoder: Decoder<Input<'a>>,
    /// How many frames it has.
    count: u32,
    /// Whether the first frame is still to be read.
    is_at_start: bool,
}

impl<'a> Gif<'a> {
    /// Reads up to the first frame.
    pub(super) fn open(mut input: Input<'a>, header: &Header) -> Result<Self, ThumbnailError> {
        let count = count_gif_frames(&mut input, MAX_FRAMES.saturating_add(1))?;
        input.rewind()?;
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::RGBA);
        // No frame may be larger than the canvas, beyond what metadata takes.
        let most = header.pixels().saturating_mul(4).saturating_add(METADATA);
        options.set_memory_limit(NonZeroU64::new(most).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
        Ok(Self { decoder: options.read_info(input).map_err(from_gif)?, count, is_at_start: true })
    }
}

impl FrameReader for Gif<'_> {
    fn info(&self) -> AnimationInfo {
        // As in browsers and gif2webp, the extension counts the repetitions after the first time; without it there are none.
        let loop_count = match self.decoder.repeat() {
            Repeat::Infinite => 0,
            Repeat::Finite(again) => again.saturating_add(1),
        };
        AnimationInfo { loop_count, icc: self.decoder.icc_profile().map(Vec::from), frames: self.count }
    }

    fn draw_next(&mut self, canvas: &mut Canvas) -> Result<Option<u32>, ThumbnailError> {
        let screen = (self.decoder.width().into(), self.decoder.height().into());
        let Some(frame) = self.decoder.read_next_frame().map_err(from_gif)? else { return Ok(None) };
        let (width, height) = (u32::from(frame.width), u32::from(frame.height));
        let part = Rect { x: frame.left.into(), y: frame.top.into(), width, height };
        let is_first = std::mem::replace(&mut self.is_at_start, false);
        canvas.draw(&AnimationFrame {
            part: if is_first { gif_canvas(screen, part).1 } else { part },
            data: &frame.buffer,
            stride: usize::from(frame.width).saturating_mul(4),
            blend: Blend::Over,
            dispose: match frame.dispose {
                DisposalMethod::Any | DisposalMethod::Keep => Dispose::Keep,
                DisposalMethod::Background => Dispose::Clear,
                DisposalMethod::Previous => Dispose::Restore,
            },
        })?;
        Ok(Some(u32::from(frame.delay).saturating_mul(10)))
    }
}

/// Bytes for the profile and XMP.
const METADATA: u64 = 1 << 20;
