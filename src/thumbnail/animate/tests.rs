//! Animations in, animations out, read again by another decoder.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::io::Cursor;
use std::time::Instant;

use image_webp::{ColorType, LoopCount, WebPDecoder, WebPEncoder};

use super::super::plan::{Motion, Plan, ThumbnailRequest};
use super::super::{Limits, fit_to_memory, input, probe, render};
use super::*;
use crate::config::ThumbnailMethod;

const LIMITS: Limits =
    Limits { max_pixels: 1 << 22, memory: 128 << 20, deadline: None, animation_deadline: None };

const RED: [u8; 4] = [255, 0, 0, 255];
const GREEN: [u8; 4] = [0, 255, 0, 255];
const BLUE: [u8; 4] = [0, 0, 255, 255];
const NONE: [u8; 4] = [0; 4];

/// A frame of one colour on a canvas of 64 × 64: left, top, width, height.
#[derive(Clone, Copy)]
struct Block {
    at: [u16; 4],
    color: [u8; 4],
    dispose: canvas::Dispose,
    duration: u16,
}

const WHOLE: [u16; 4] = [0, 0, 64, 64];

fn block(at: [u16; 4], color: [u8; 4], dispose: canvas::Dispose, duration: u16) -> Block {
    Block { at, color, dispose, duration }
}

/// Red everywhere, green on the right for its time, blue at the bottom and then nothing there, green at the top left.
fn story() -> [Block; 4] {
    use canvas::Dispose::{Clear, Keep, Restore};
    [
        block(WHOLE, RED, Keep, 70),
        block([32, 0, 32, 64], GREEN, Restore, 120),
        block([0, 32, 64, 32], BLUE, Clear, 250),
        block([0, 0, 32, 32], GREEN, Keep, 0),
    ]
}

/// What is seen of [`story`] in the four quarters, row by row, and for how long.
const SEEN: [([[u8; 4]; 4], u32); 4] = [
    ([RED, RED, RED, RED], 70),
    ([RED, GREEN, RED, GREEN], 120),
    ([RED, RED, BLUE, BLUE], 250),
    ([GREEN, RED, NONE, NONE], 100),
];

/// A GIF; `again` as its loop extension has it.
fn gif(blocks: &[Block], again: Option<::gif::Repeat>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let palette: Vec<u8> = [RED, GREEN, BLUE].iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect();
    let mut encoder = ::gif::Encoder::new(&mut bytes, 64, 64, &palette).unwrap();
    if let Some(again) = again {
        encoder.set_repeat(again).unwrap();
    }
    for Block { at: [left, top, width, height], color, dispose, duration } in blocks.iter().copied() {
        let index = [RED, GREEN, BLUE].iter().position(|known| *known == color).unwrap() as u8;
        let frame = ::gif::Frame {
            delay: duration / 10,
            dispose: match dispose {
                canvas::Dispose::Keep => ::gif::DisposalMethod::Keep,
                canvas::Dispose::Clear => ::gif::DisposalMethod::Background,
                canvas::Dispose::Restore => ::gif::DisposalMethod::Previous,
            },
            ..::gif::Frame::from_indexed_pixels(
                width,
                height,
                vec![index; usize::from(width) * usize::from(height)],
                None,
            )
        };
        encoder.write_frame(&::gif::Frame { left, top, ..frame }).unwrap();
    }
    drop(encoder);
    bytes
}

/// An APNG in a colour type that has the colours; with a default image apart or without.
fn apng(blocks: &[Block], plays: u32, is_apart: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, 64, 64);
    encoder.set_color(::png::ColorType::Rgba);
    encoder.set_animated(blocks.len() as u32, plays).unwrap();
    encoder.set_sep_def_img(is_apart).unwrap();
    let mut writer = encoder.write_header().unwrap();
    if is_apart {
        writer.write_image_data(&BLUE.repeat(64 * 64)).unwrap();
    }
    for Block { at: [x, y, width, height], color, dispose, duration } in blocks.iter().copied() {
        let (x, y, width, height) = (x.into(), y.into(), u32::from(width), u32::from(height));
        writer.set_frame_dimension(1, 1).unwrap();
        writer.set_frame_position(x, y).unwrap();
        writer.set_frame_dimension(width, height).unwrap();
        writer.set_frame_delay(duration, 1000).unwrap();
        writer.set_blend_op(::png::BlendOp::Over).unwrap();
        let dispose = match dispose {
            canvas::Dispose::Keep => ::png::DisposeOp::None,
            canvas::Dispose::Clear => ::png::DisposeOp::Background,
            canvas::Dispose::Restore => ::png::DisposeOp::Previous,
        };
        writer.set_dispose_op(dispose).unwrap();
        writer.write_image_data(&color.repeat((width * height) as usize)).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

/// An animated WebP, lossless; it knows no `Restore`.
fn webp(size: u32, blocks: &[Block], plays: u16) -> Vec<u8> {
    let number = |value: u32| value.to_le_bytes().into_iter().take(3);
    let mut body = b"WEBPVP8X\x0a\0\0\0\x12\0\0\0".to_vec();
    body.extend(number(size - 1).chain(number(size - 1)));
    body.extend(b"ANIM\x06\0\0\0\xff\xff\xff\xff");
    body.extend(plays.to_le_bytes());
    for Block { at, color, dispose, duration } in blocks {
        let [x, y, width, height] = at.map(u32::from);
        let mut file = Vec::new();
        let pixels = color.repeat((width * height) as usize);
        WebPEncoder::new(&mut file).encode(&pixels, width, height, ColorType::Rgba8).unwrap();
        body.extend(b"ANMF");
        body.extend((file.len() as u32 - 12 + 16).to_le_bytes());
        for value in [x / 2, y / 2, width - 1, height - 1, u32::from(*duration)] {
            body.extend(number(value));
        }
        body.push(u8::from(*dispose == canvas::Dispose::Clear));
        body.extend(&file[12..]);
    }
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The thumbnail of 32 × 32.
fn small(bytes: &[u8], limits: &Limits) -> Result<Rendered, ThumbnailError> {
    let mut input = Cursor::new(bytes);
    let header = probe(&mut input)?;
    let wanted =
        ThumbnailRequest { width: 32, height: 32, method: ThumbnailMethod::Crop, motion: Motion::Animated };
    let Plan::Render(spec) = Plan::new(header.source(), wanted, &[]) else { panic!("it is large enough") };
    render(&mut input, &header, &[fit_to_memory(&header, spec, limits)], limits)
        .map(|mut made| made.remove(0))
}

/// The frames of an animated thumbnail: RGBA, and milliseconds.
fn frames(rendered: &Rendered) -> (Vec<(image::RgbaImage, u32)>, LoopCount) {
    assert_eq!((rendered.content_type, rendered.extension), ("image/webp", "webp"));
    let mut decoder = WebPDecoder::new(Cursor::new(&rendered.bytes)).unwrap();
    let (width, height) = decoder.dimensions();
    assert_eq!((rendered.width, rendered.height), (width, height));
    let mut data = vec![0; decoder.output_buffer_size().unwrap()];
    let mut frames = Vec::new();
    for _ in 0..decoder.num_frames() {
        let duration = decoder.read_frame(&mut data).unwrap();
        let rgba = if decoder.has_alpha() {
            data.clone()
        } else {
            data.chunks(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]).collect()
        };
        frames.push((image::RgbaImage::from_raw(width, height, rgba).unwrap(), duration));
    }
    (frames, decoder.loop_count())
}

/// Checks the middles of the quarters of 32 × 32 pixels.
fn assert_seen(got: &image::RgbaImage, quarters: &[[u8; 4]], what: &str) {
    for ((x, y), expected) in [(8, 8), (24, 8), (8, 24), (24, 24)].into_iter().zip(quarters) {
        let got = got.get_pixel(x, y).0;
        let near = got.iter().zip(expected).all(|(got, expected)| got.abs_diff(*expected) < 24);
        assert!(near || (got[3] == 0 && expected[3] == 0), "{what} at {x}, {y}: {got:?}, not {expected:?}");
    }
}

fn assert_story(rendered: &Rendered, seen: &[([[u8; 4]; 4], u32)], what: &str) {
    let (got, _) = frames(rendered);
    assert_eq!(got.len(), seen.len(), "{what}");
    for ((number, (got, duration)), (quarters, milliseconds)) in got.iter().enumerate().zip(seen) {
        assert_eq!(duration, milliseconds, "{what}, frame {number}");
        assert_seen(got, quarters, &format!("{what}, frame {number}"));
    }
}

#[test]
fn gif_and_apng_are_composited_with_their_durations() {
    assert_story(&small(&gif(&story(), None), &LIMITS).unwrap(), &SEEN, "gif");
    for is_apart in [false, true] {
        let got = small(&apng(&story(), 0, is_apart), &LIMITS).unwrap();
        assert_story(&got, &SEEN, &format!("apng, {is_apart}"));
    }
}

#[test]
fn webp_frames_are_cleared_and_blended() {
    use canvas::Dispose::{Clear, Keep};
    let blocks = [
        block(WHOLE, RED, Keep, 40),
        block([32, 0, 32, 64], GREEN, Clear, 50),
        block([0, 32, 64, 32], [0, 0, 255, 128], Keep, 60),
    ];
    let seen = [
        ([RED, RED, RED, RED], 40),
        ([RED, GREEN, RED, GREEN], 50),
        ([RED, NONE, [127, 0, 128, 255], [0, 0, 255, 128]], 60),
    ];
    assert_story(&small(&webp(64, &blocks, 0), &LIMITS).unwrap(), &seen, "webp");
}

/// Animations dropped profiles of more than 1 MiB, of which stills take up to 4 MiB.
#[test]
fn a_large_profile_counts_for_animations_as_for_stills() {
    let color = [200, 100, 50, 255];
    let blocks =
        [block(WHOLE, color, canvas::Dispose::Keep, 100), block(WHOLE, BLUE, canvas::Dispose::Keep, 100)];
    let mut bytes = webp(64, &blocks, 0);
    let mut profile = moxcms::ColorProfile::new_display_p3().encode().unwrap();
    profile.resize(2 << 20, 0);
    let chunk = [b"ICCP".as_slice(), &(profile.len() as u32).to_le_bytes(), &profile].concat();
    bytes.splice(30..30, chunk);
    let size = bytes.len() as u32 - 8;
    bytes[4..8].copy_from_slice(&size.to_le_bytes());
    let (got, _) = frames(&small(&bytes, &LIMITS).unwrap());
    assert_eq!(got.len(), 2);
    // Display P3 (200, 100, 50) is sRGB (214, 95, 32).
    assert_seen(&got[0].0, &[[214, 95, 32, 255]; 4], "converted");
    let got = got[0].0.get_pixel(8, 8).0;
    assert!(got[0].abs_diff(214) < 7 && got[2].abs_diff(32) < 9, "{got:?}");
}

#[test]
fn our_own_lossy_frames_are_read_again() {
    let once = small(&gif(&story(), None), &LIMITS).unwrap();
    let mut input = Cursor::new(once.bytes.as_slice());
    let header = probe(&mut input).unwrap();
    let wanted =
        ThumbnailRequest { width: 16, height: 16, method: ThumbnailMethod::Crop, motion: Motion::Animated };
    let Plan::Render(spec) = Plan::new(header.source(), wanted, &[]) else { panic!("it is large enough") };
    let twice = render(&mut input, &header, &[spec], &LIMITS).unwrap().remove(0);
    let (got, _) = frames(&twice);
    assert_eq!(got.iter().map(|(_, duration)| *duration).collect::<Vec<_>>(), [70, 120, 250, 100]);
    assert_eq!(got[3].0.get_pixel(12, 12).0[3], 0);
    assert!(got[1].0.get_pixel(12, 4).0[1] > 220);
}

#[test]
fn loops_are_counted_as_browsers_do() {
    use ::gif::Repeat::{Finite, Infinite};
    let times = |count: u16| LoopCount::Times(count.try_into().unwrap());
    for (bytes, expected) in [
        (gif(&story(), None), times(1)),
        (gif(&story(), Some(Infinite)), LoopCount::Forever),
        (gif(&story(), Some(Finite(4))), times(5)),
        (apng(&story(), 0, false), LoopCount::Forever),
        (apng(&story(), 7, false), times(7)),
        (apng(&story(), 70_000, false), times(u16::MAX)),
        (webp(64, &story(), 0), LoopCount::Forever),
        (webp(64, &story(), 9), times(9)),
    ] {
        assert_eq!(frames(&small(&bytes, &LIMITS).unwrap()).1, expected);
    }
}

#[test]
fn the_same_source_gives_the_same_bytes() {
    for bytes in [gif(&story(), None), apng(&story(), 0, false), webp(64, &story(), 0)] {
        assert_eq!(small(&bytes, &LIMITS).unwrap(), small(&bytes, &LIMITS).unwrap());
    }
}

/// The first frame, in the type that stills have.
fn assert_still(got: &Rendered, what: &str) {
    assert_eq!(got.content_type, if what == "webp" { "image/jpeg" } else { "image/png" }, "{what}");
    if what != "webp" {
        let picture = image::load_from_memory(&got.bytes).unwrap().to_rgba8();
        assert_seen(&picture, &[RED; 4], what);
    }
}

#[test]
fn what_breaks_off_moves_as_far_as_it_goes() {
    for (what, bytes, most) in [
        ("gif", gif(&story(), None), 4),
        ("apng", apng(&story(), 0, false), 4),
        ("webp", webp(64, &story(), 0), 4),
    ] {
        let mut shown = Vec::new();
        for end in (0..=bytes.len()).rev().step_by(7) {
            let Ok(got) = small(&bytes[..end], &LIMITS) else { continue };
            if got.content_type == "image/webp" {
                shown.push(frames(&got).0.len());
            } else if got.is_partial {
                // It breaks off in the first frame.
                let picture = image::load_from_memory(&got.bytes).unwrap().to_rgba8();
                let [red, green, blue, alpha] = picture.get_pixel(0, 0).0;
                assert!(red > 250 && green.max(blue) < 5 && alpha > 0, "{what}");
            } else {
                assert_still(&got, what);
                shown.push(1);
            }
        }
        shown.dedup();
        assert_eq!(shown, (1..=most).rev().collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn what_is_over_a_bound_is_still() {
    use canvas::Dispose::Keep;
    let long = |colors: [[u8; 4]; 2], count: usize| -> Vec<Block> {
        (0..count).map(|at| block(WHOLE, colors[at % 2], Keep, 50)).collect()
    };
    let many = long([RED, BLUE], MAX_FRAMES as usize + 1);
    assert_still(&small(&gif(&many, None), &LIMITS).unwrap(), "gif");
    assert_still(&small(&apng(&many, 0, false), &LIMITS).unwrap(), "apng");
    assert_still(&small(&webp(64, &many, 0), &LIMITS).unwrap(), "webp");
    let most = small(&gif(&many[1..], None), &LIMITS).unwrap();
    assert_eq!(frames(&most).0.len(), MAX_FRAMES as usize);
}

#[test]
fn what_there_is_no_time_for_is_refused_and_never_ends_early() {
    for bytes in [gif(&story(), None), apng(&story(), 0, false), webp(64, &story(), 0)] {
        assert!(matches!(animated(&bytes, Some(Instant::now())), Err(ThumbnailError::Timeout)));
        let late = Limits { animation_deadline: Some(Instant::now()), ..LIMITS };
        assert!(matches!(small(&bytes, &late), Err(ThumbnailError::AnimationTimeout)));
    }
}

#[test]
fn a_huge_canvas_is_still() {
    let drops: Vec<_> = (0..65).map(|at| block([at * 2, 0, 2, 2], RED, canvas::Dispose::Keep, 50)).collect();
    let roomy = Limits { memory: 256 << 20, ..LIMITS };
    // Every frame counts for the whole canvas: 64 of 2048 × 2048 are within the bound.
    assert_eq!(small(&webp(2048, &drops, 0), &roomy).unwrap().content_type, "image/png");
    assert_eq!(small(&webp(2048, &drops[..9], 0), &roomy).unwrap().content_type, "image/webp");
    assert_eq!(small(&webp(2048, &drops[..9], 0), &LIMITS).unwrap().content_type, "image/png", "128 MiB");
}

/// What the animation alone says.
fn animated(bytes: &[u8], deadline: Option<Instant>) -> Result<Option<Rendered>, ThumbnailError> {
    let mut input = Cursor::new(bytes);
    let header = probe(&mut input).unwrap();
    let crop = super::super::plan::Rect { x: 0, y: 0, width: header.width, height: header.height };
    let spec = RenderSpec { crop, width: 32, height: 32, animated: true };
    input::read(&mut input, None, |input| animate(input, &header, &spec, deadline))
}

#[test]
fn one_frame_is_still() {
    let one = &story()[..1];
    assert_still(&small(&webp(64, one, 0), &LIMITS).unwrap(), "webp");
    assert_still(&small(&gif(one, None), &LIMITS).unwrap(), "gif");
    assert!(animated(&webp(64, one, 0), None).unwrap().is_none());
}

#[test]
fn changed_bytes_never_panic() {
    let mut state = 1_u32;
    for bytes in [gif(&story(), None), apng(&story(), 0, true), webp(64, &story(), 0)] {
        for _ in 0..200 {
            let mut changed = bytes.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 8) as usize % changed.len();
                changed[at] = state as u8;
            }
            let mut input = Cursor::new(changed.as_slice());
            let Ok(header) = probe(&mut input) else { continue };
            if header.check_pixels(&LIMITS).is_ok() {
                drop(small_or_nothing(&changed));
            }
        }
    }
}

/// A thumbnail if there is anything to render.
fn small_or_nothing(bytes: &[u8]) -> Option<Rendered> {
    let mut input = Cursor::new(bytes);
    let header = probe(&mut input).ok()?;
    let wanted =
        ThumbnailRequest { width: 32, height: 32, method: ThumbnailMethod::Crop, motion: Motion::Animated };
    let Plan::Render(spec) = Plan::new(header.source(), wanted, &[]) else { return None };
    render(&mut input, &header, &[spec], &LIMITS).ok().map(|mut made| made.remove(0))
}

#[test]
fn apng_of_16_bit_grey_is_read() {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, 64, 64);
    encoder.set_color(::png::ColorType::Grayscale);
    encoder.set_depth(::png::BitDepth::Sixteen);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for grey in [50, 200] {
        // A denominator of 0 stands for 100.
        writer.set_frame_delay(7, 0).unwrap();
        writer.write_image_data(&[grey, 99].repeat(64 * 64)).unwrap();
    }
    writer.finish().unwrap();
    let seen = [([[50, 50, 50, 255]; 4], 70), ([[200, 200, 200, 255]; 4], 70)];
    assert_story(&small(&bytes, &LIMITS).unwrap(), &seen, "grey");
}
