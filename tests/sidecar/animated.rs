//! `GET thumbnail?animated=true` (MSC2705).

use std::io::Cursor;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gif::{DisposalMethod, Encoder, Frame, Repeat};
use image_webp::{LoopCount, WebPDecoder};
use media_sidecar::matrix::Timestamp;

use crate::harness::{OURS, Peer, RemoteKey, Reply, Response, Setup, Sidecar};

/// A GIF of frames of one colour, each 40 ms longer than the one before, on a canvas of another size: red, green, blue, …
fn gif((width, height): (u16, u16), frame: u16, count: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let palette = [255, 0, 0, 0, 255, 0, 0, 0, 255];
    let mut encoder = Encoder::new(&mut bytes, width, height, &palette).unwrap();
    encoder.set_repeat(Repeat::Finite(2)).unwrap();
    for number in 0..count {
        let pixels = vec![u8::try_from(number % 3).unwrap(); usize::from(frame) * usize::from(frame)];
        let frame = Frame {
            delay: 4 * (number % 10 + 1),
            dispose: DisposalMethod::Keep,
            ..Frame::from_indexed_pixels(frame, frame, pixels, None)
        };
        encoder.write_frame(&frame).unwrap();
    }
    drop(encoder);
    bytes
}

/// The header of an animated WebP of a size, and the same tiny frame many times.
fn webp(side: u32, frames: u32) -> Vec<u8> {
    let mut picture = Vec::new();
    image_webp::WebPEncoder::new(&mut picture).encode(&[9; 4], 1, 1, image_webp::ColorType::Rgba8).unwrap();
    let chunk = &picture[12..];
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
    let mut body = b"WEBPVP8X\x0a\0\0\0\x12\0\0\0".to_vec();
    for _ in 0..2 {
        body.extend(&(side - 1).to_le_bytes()[..3]);
    }
    body.extend(b"ANIM\x06\0\0\0\0\0\0\0\0\0");
    for _ in 0..frames {
        body.extend(b"ANMF");
        body.extend(length(16 + chunk.len()));
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0]);
        body.extend(chunk);
    }
    [b"RIFF".as_slice(), &length(body.len()), &body].concat()
}

fn thumbnail(mxc: &str, query: &str) -> String {
    format!("/_matrix/client/v1/media/thumbnail/{mxc}?{query}")
}

/// The middle pixel of each frame, its milliseconds, and the loops.
fn frames(response: &Response) -> (Vec<([u8; 3], u32)>, LoopCount) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("image/webp"));
    assert_eq!(response.header("content-disposition"), Some("inline; filename=thumbnail.webp"));
    let mut decoder = WebPDecoder::new(Cursor::new(&response.body)).unwrap();
    assert_eq!((decoder.dimensions(), decoder.has_alpha()), ((32, 32), false));
    let mut pixels = vec![0; decoder.output_buffer_size().unwrap()];
    let frames = (0..decoder.num_frames())
        .map(|_| {
            let duration = decoder.read_frame(&mut pixels).unwrap();
            (pixels.as_chunks::<3>().0[16 * 32 + 16], duration)
        })
        .collect();
    (frames, decoder.loop_count())
}

/// A still whose middle is of a colour.
fn assert_still(response: &Response, color: [u8; 3], what: &str) {
    assert_eq!(response.status, 200, "{what}: {}", response.text());
    assert_eq!(response.header("content-type"), Some("image/png"), "{what}");
    let picture = image::load_from_memory(&response.body).unwrap().to_rgb8();
    assert_eq!(picture.get_pixel(picture.width() / 2, picture.height() / 2).0, color, "{what}");
}

#[test]
fn a_moving_picture_moves_when_asked_to() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/gif", &gif((64, 64), 64, 3));
    let size = "width=32&height=32&method=crop";
    for asked in ["animated=true", "org.matrix.msc2705.animated=true"] {
        let (frames, loops) = frames(&sidecar.alice().get(&thumbnail(&mxc, &format!("{size}&{asked}"))));
        assert_eq!(loops, LoopCount::Times(3.try_into().unwrap()));
        assert_eq!(frames.len(), 3, "{asked}");
        for (number, (pixel, duration)) in frames.into_iter().enumerate() {
            assert_eq!(usize::try_from(duration).unwrap(), 40 * (number + 1), "{asked}");
            assert!(pixel[number] > 230 && pixel[(number + 1) % 3] < 25, "{asked}: {number} {pixel:?}");
        }
    }
    for not_asked in ["", "&animated=false", "&animated=1"] {
        let response = sidecar.alice().get(&thumbnail(&mxc, &format!("{size}{not_asked}")));
        assert_still(&response, [255, 0, 0], not_asked);
    }
}

#[test]
fn a_small_moving_picture_is_its_own_animation_but_not_its_own_still() {
    let sidecar = Sidecar::start();
    let bytes = gif((20, 10), 20, 3);
    let mxc = sidecar.upload("image/gif", &bytes);
    let original = sidecar.alice().get(&thumbnail(&mxc, "width=32&height=32&animated=true"));
    assert_eq!(original.header("content-type"), Some("image/gif"));
    assert_eq!(original.body, bytes);
    assert_still(&sidecar.alice().get(&thumbnail(&mxc, "width=32&height=32")), [255, 0, 0], "small");
}

#[test]
fn a_still_for_want_of_time_is_answered_and_not_kept() {
    let setup = Setup::new();
    let hurry = Arc::clone(&setup.hurry);
    let sidecar = setup.start();
    let mxc = sidecar.upload("image/gif", &gif((64, 64), 64, 3));
    let still = thumbnail(&mxc, "width=32&height=32&method=crop");
    let moving = format!("{still}&animated=true");
    hurry.store(true, Ordering::SeqCst);
    let first = sidecar.alice().get(&moving);
    assert_still(&first, [255, 0, 0], "no time");
    assert_eq!(first.header("cache-control"), Some("no-store"));
    hurry.store(false, Ordering::SeqCst);
    // For a while it is not tried again: a slow machine would have nothing else to do.
    sidecar.advance(Duration::from_secs(599));
    let second = sidecar.alice().get(&moving);
    assert_eq!((second.header("cache-control"), &second.body), (Some("no-store"), &first.body));
    sidecar.advance(Duration::from_secs(2));
    let third = sidecar.alice().get(&moving);
    assert_eq!(frames(&third).0.len(), 3);
    assert_eq!(third.header("cache-control"), Some("private, max-age=86400"));
    // What stood in is what anybody gets who asks for it, and that is kept.
    let asked = sidecar.alice().get(&still);
    assert_eq!((asked.header("cache-control"), &asked.body), (Some("private, max-age=86400"), &first.body));
    // Of the animation too.
    hurry.store(true, Ordering::SeqCst);
    assert_eq!(sidecar.alice().get(&moving).body, third.body);
    // What is still however much time there is, is kept as before.
    let long =
        thumbnail(&sidecar.upload("image/gif", &gif((64, 64), 64, 1001)), "width=32&height=32&method=crop");
    hurry.store(false, Ordering::SeqCst);
    let bounded = sidecar.alice().get(&format!("{long}&animated=true"));
    assert_still(&bounded, [255, 0, 0], "1001 frames");
    assert_eq!(bounded.header("cache-control"), Some("private, max-age=86400"));
}

#[test]
fn after_a_restart_an_animation_is_tried_again_at_once() {
    let setup = Setup::new();
    setup.hurry.store(true, Ordering::SeqCst);
    let sidecar = setup.start();
    let mxc = sidecar.upload("image/gif", &gif((64, 64), 64, 3));
    let moving = thumbnail(&mxc, "width=32&height=32&method=crop&animated=true");
    assert_still(&sidecar.alice().get(&moving), [255, 0, 0], "no time");
    let sidecar = Setup::in_folder(sidecar.stop()).start();
    assert_eq!(frames(&sidecar.alice().get(&moving)).0.len(), 3);
}

#[test]
fn servers_get_the_animation_that_clients_get() {
    let sidecar = Sidecar::start();
    let name = Arc::new(OnceLock::<String>::new());
    let told = Arc::clone(&name);
    let remote = Peer::tls(move |_| {
        Reply::json(200, &RemoteKey::new(1).document(told.get().unwrap(), Timestamp::now().0 + 86_400_000))
    });
    name.set(remote.name()).unwrap();
    let mxc = sidecar.upload("image/gif", &gif((64, 64), 64, 3));
    let query = "width=32&height=32&method=crop&animated=true";
    let target = format!("/_matrix/federation/v1/remote_media/thumbnail/{mxc}?{query}");
    let header = RemoteKey::new(1).authorization(&remote.name(), OURS, &target);
    let theirs = sidecar.anonymous().with_header("Authorization", &header).get(&target);
    assert_eq!(frames(&theirs).0.len(), 3);
    assert_eq!(sidecar.alice().get(&thumbnail(&mxc, query)).body, theirs.body);
}

#[test]
fn animation_bombs_are_still_or_413_and_harm_nobody() {
    let sidecar = Sidecar::start();
    let ask = |bytes: &[u8]| {
        let mxc = sidecar.upload("image/gif", bytes);
        sidecar.alice().get(&thumbnail(&mxc, "width=32&height=32&method=crop&animated=true"))
    };
    // More frames than are shown, and more pixels over all of them.
    assert_still(&ask(&gif((64, 64), 64, 1001)), [255, 0, 0], "1001 frames");
    let mut endless = gif((64, 64), 64, 1);
    let frame = endless.split_off(endless.len() - 1 - one_frame());
    for _ in 0..100_000 {
        endless.extend(&frame[..frame.len() - 1]);
    }
    assert_still(&ask(&endless), [255, 0, 0], "100 000 frames");
    assert_still(&ask(&gif((2000, 2000), 1, 70)), [0; 3], "70 frames of 4 megapixels");
    assert_eq!(ask(&webp(2000, 70)).status, 200, "70 frames of 4 megapixels");
    // Canvases that do not fit in memory are shown still, row by row; those over `thumbnails.max_pixels` are not.
    for canvas in [webp(9999, 3), gif((9999, 9999), 1, 3)] {
        let answer = ask(&canvas);
        assert_ne!(answer.header("content-type"), Some("image/webp"));
        assert_eq!(answer.status, 200);
    }
    for canvas in [webp(16_384, 3), gif((65_535, 65_535), 1, 3)] {
        assert_eq!(ask(&canvas).failure(), (413, "M_TOO_LARGE".to_owned()));
    }
    // Broken in the middle of the third frame: the first two are shown.
    let whole = gif((64, 64), 64, 3);
    let (frames_, _) = frames(&ask(&whole[..whole.len() - one_frame() / 2]));
    assert_eq!(frames_.len(), 2);
    assert_eq!(frames(&ask(&gif((64, 64), 64, 4))).0.len(), 4, "the worker is alive");
}

/// Bytes that a frame of [`gif`] of 64 × 64 takes.
fn one_frame() -> usize {
    gif((64, 64), 64, 2).len() - gif((64, 64), 64, 1).len()
}
