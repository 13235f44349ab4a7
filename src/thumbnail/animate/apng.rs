//! The frames of an APNG ([PNG, third edition](https://www.w3.org/TR/png-3/#apng-frame-based-animation)).
//!
//! Owns the default image and the conversion to RGBA. Refuses to know sizes of thumbnails.

use png::{BlendOp, ColorType, Decoder, DisposeOp, Limits as PngLimits, OutputInfo, Reader, Transformations};

use super::super::ThumbnailError;
use super::super::decode::{from_png, png_profile};
use super::super::input::Input;
use super::super::plan::Rect;
use super::super::probe::Header;
use super::canvas::{AnimationFrame, Blend, Canvas, Dispose};
use super::{AnimationInfo, FrameReader};

/// An APNG whose frames are being read.
pub(super) struct Apng<'a> {
    reader: Reader<Input<'a>>,
    /// Frames still to be read.
    left: u32,
    /// A frame as decoded.
    raw: Vec<u8>,
    /// The frame in RGBA, if it was decoded to something else.
    rgba: Vec<u8>,
}

impl<'a> Apng<'a> {
    /// Reads up to the first frame of the animation.
    pub(super) fn open(input: Input<'a>, header: &Header) -> Result<Self, ThumbnailError> {
        let bytes = super::super::decode::png_bytes(header);
        let mut decoder = Decoder::new_with_limits(input, PngLimits { bytes });
        decoder.set_ignore_text_chunk(true);
        decoder.set_transformations(Transformations::normalize_to_color8() | Transformations::ALPHA);
        let reader = decoder.read_info().map_err(from_png)?;
        let info = reader.info();
        if (info.width, info.height) != (header.width, header.height) {
            return Err(ThumbnailError::broken("the size is not what the header says"));
        }
        let left = info.animation_control().map_or(0, |control| control.num_frames);
        let has_default_image = info.frame_control.is_none();
        let size =
            reader.output_buffer_size().ok_or(ThumbnailError::TooLarge("the image has too many pixels"))?;
        let mut apng = Self { reader, left, raw: vec![0; size], rgba: Vec::new() };
        if has_default_image {
            // The default image, for viewers without APNG, is not a frame.
            apng.reader.next_frame(&mut apng.raw).map_err(from_png)?;
        }
        Ok(apng)
    }

    /// The frame just read as RGBA, and the bytes from row to row.
    fn rgba(&mut self, output: &OutputInfo) -> Result<(&[u8], usize), ThumbnailError> {
        // The decoder lays out an interlaced frame as if it were as wide as the canvas.
        let stride = if self.reader.info().interlaced {
            self.reader.output_line_size(self.reader.info().width)
        } else {
            Some(output.line_size)
        };
        let stride = stride.ok_or(ThumbnailError::TooLarge("the image has too many pixels"))?;
        match output.color_type {
            ColorType::Rgba => Ok((&self.raw, stride)),
            ColorType::GrayscaleAlpha => {
                self.rgba.clear();
                self.rgba.extend(self.raw.as_chunks::<2>().0.iter().flat_map(|[l, a]| [*l, *l, *l, *a]));
                Ok((&self.rgba, stride.saturating_mul(2)))
            }
            ColorType::Grayscale | ColorType::Rgb | ColorType::Indexed => {
                Err(ThumbnailError::broken("no alpha was added"))
            }
        }
    }
}

impl FrameReader for Apng<'_> {
    fn info(&self) -> AnimationInfo {
        let info = self.reader.info();
        let loop_count = info.animation_control().map_or(0, |control| control.num_plays);
        AnimationInfo {
            loop_count: u16::try_from(loop_count).unwrap_or(u16::MAX),
            frames: self.left,
            icc: png_profile(info),
        }
    }

    fn draw_next(&mut self, canvas: &mut Canvas) -> Result<Option<u32>, ThumbnailError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let output = self.reader.next_frame(&mut self.raw).map_err(from_png)?;
        let control = self.reader.info().frame_control;
        let control = control.ok_or_else(|| ThumbnailError::broken("a frame without its control chunk"))?;
        let (data, stride) = self.rgba(&output)?;
        canvas.draw(&AnimationFrame {
            part: Rect {
                x: control.x_offset,
                y: control.y_offset,
                width: output.width,
                height: output.height,
            },
            data,
            stride,
            blend: match control.blend_op {
                BlendOp::Source => Blend::Replace,
                BlendOp::Over => Blend::Over,
            },
            dispose: match control.dispose_op {
                DisposeOp::None => Dispose::Keep,
                DisposeOp::Background => Dispose::Clear,
                DisposeOp::Previous => Dispose::Restore,
            },
        })?;
        // A denominator of 0 stands for 100 (PNG, 11.3.6.2).
        let parts = if control.delay_den == 0 { 100 } else { control.delay_den };
        let duration = u32::from(control.delay_num).saturating_mul(1000).checked_div(parts.into());
        Ok(Some(duration.unwrap_or(0)))
    }
}
