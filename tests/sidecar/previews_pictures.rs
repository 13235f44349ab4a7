//! `GET preview_url`: which pictures are shown, and how much of them is kept.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Peer, Reply, Setup, Sidecar, eventually, unique};
use crate::previews::{beside, download, gallery, image_of, keys, picture, png, preview};

/// A JPEG of noise: progressive or not.
fn jpeg(progressive: bool) -> Vec<u8> {
    let pixels: Vec<u8> =
        (0..300_u32 * 240 * 3).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 80);
    encoder.set_progressive(progressive);
    encoder.encode(&pixels, 300, 240, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

/// A PNG of noise.
fn noise() -> Vec<u8> {
    crate::harness::picture(1)
}

/// A WebP of such pixels.
fn webp(side: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    image_webp::WebPEncoder::new(&mut bytes).encode(pixels, side, side, image_webp::ColorType::Rgb8).unwrap();
    bytes
}

/// A file that breaks off where its pixels begin.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(pixels(&bytes) + 18);
    bytes
}

/// A file whose pixels are something else.
fn torn(mut bytes: Vec<u8>) -> Vec<u8> {
    let start = pixels(&bytes) + 16;
    for (at, byte) in bytes[start..].iter_mut().enumerate() {
        // Ones without end, to a JPEG: no code is that.
        *byte = if at % 2 == 0 { 0xff } else { 0 };
    }
    bytes
}

/// Where pixels begin: what breaks off behind its first rows is shown.
fn pixels(bytes: &[u8]) -> usize {
    let marks: [&[u8]; 3] = [b"IDAT", b"\xff\xda", b"VP8L"];
    marks.iter().find_map(|mark| memchr::memmem::find(bytes, mark)).unwrap()
}

/// Files with a good header and broken bytes behind it.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("cut.png", cut(noise())),
        ("torn.png", torn(noise())),
        ("cut.jpeg", cut(jpeg(false))),
        ("torn.jpeg", torn(jpeg(false))),
        ("cut-progressive.jpeg", cut(jpeg(true))),
        ("cut.webp", cut(webp(64, &unique(2, 64 * 64 * 3)))),
    ]
}

/// A site with all of them, pages `of/` each alone and followed by a good one, and links to good ones.
fn site() -> Peer {
    let files = broken();
    Peer::plain(move |request| {
        let path = request.path();
        if let Some(name) = path.strip_prefix("/of") {
            return gallery(&[name, "/good.jpeg"][..=usize::from(request.target.contains("?two"))]);
        }
        match files.iter().find(|(name, _)| path == format!("/{name}")) {
            Some((_, bytes)) => picture(bytes.clone()),
            None if path == "/good.jpeg" => picture(jpeg(false)),
            None => Reply::new(404),
        }
    })
}

fn of(sidecar: &Sidecar, path: &str) -> Value {
    keys(&preview(sidecar, &format!("http://site.test{path}")))
}

#[test]
fn a_picture_that_cannot_be_decoded_is_left_out_and_the_next_one_is_shown() {
    let site = site();
    let sidecar = beside(&site).start();
    for (name, _) in broken() {
        assert_eq!(of(&sidecar, &format!("/of/{name}")), json!({"og:title": "Gallery"}), "{name}");
        let followed = of(&sidecar, &format!("/of/{name}?two"));
        assert_eq!(
            (&followed["og:image:type"], &followed["og:image:width"]),
            (&json!("image/jpeg"), &json!(300))
        );
        assert!(download(&sidecar, &image_of(&followed)).body == jpeg(false), "{name}");
    }
    assert_eq!((sidecar.blobs().len(), sidecar.leftovers()), (1, 0));
}

#[test]
fn a_link_to_a_picture_that_cannot_be_decoded_is_described_like_a_file() {
    let site = site();
    let sidecar = beside(&site).start();
    for (name, _) in broken() {
        let described = of(&sidecar, &format!("/{name}"));
        assert_eq!((&described["og:title"], described.get("og:image")), (&json!(name), None), "{described}");
    }
    assert_eq!((sidecar.blobs().len(), sidecar.leftovers()), (0, 0));
    image_of(&of(&sidecar, "/good.jpeg"));
}

#[test]
fn a_picture_that_no_thumbnail_could_be_made_of_is_left_out() {
    let site = Peer::plain(|request| match request.path() {
        "/large.png" => picture(png(1000, 1000, 1)),
        "/good.png" => picture(png(40, 30, 1)),
        _ => gallery(&["/large.png", "/good.png"]),
    });
    let pixels = beside(&site).with(|config| config.thumbnails.max_pixels.0 = 999_999).start();
    assert_eq!(of(&pixels, "/")["og:image:width"], 40);
    // A WebP is decoded whole, however small a size is asked for.
    let site = Peer::plain(|request| match request.path() {
        "/large.webp" => picture(webp(1000, &[9].repeat(3_000_000))),
        "/good.png" => picture(png(40, 30, 1)),
        _ => gallery(&["/large.webp", "/good.png"]),
    });
    let memory = beside(&site).with(|config| config.thumbnails.memory.0 = 3_000_000).start();
    assert_eq!(of(&memory, "/")["og:image:width"], 40);
}

/// Bytes of all blobs. One that goes meanwhile may count or not.
fn stored(sidecar: &Sidecar) -> u64 {
    sidecar.blobs().iter().filter_map(|blob| blob.metadata().ok()).map(|blob| blob.len()).sum()
}

/// A picture that no other `number` gives, all of one length.
fn numbered(number: u64) -> Vec<u8> {
    let mut bytes = crate::harness::picture(number);
    // What follows the end of a PNG is nobody's.
    bytes.resize(20_000, 0);
    bytes
}

#[test]
fn pictures_of_previews_take_so_much_and_the_next_to_expire_make_room() {
    let site = Peer::plain(|request| match request.path().trim_matches(['/', 'i']).parse() {
        Ok(number) if request.path().starts_with("/i") => picture(numbered(number)),
        Ok(number) => gallery(&[&format!("/i{number}")]),
        Err(_) => gallery(&["/i7", "/large"]),
    });
    let setup = beside(&site).with(|config| config.previews.max_stored.0 = 50_000);
    let sidecar = setup.start();
    let mut shown = Vec::new();
    for number in 0..4 {
        shown.push(image_of(&of(&sidecar, &format!("/{number}"))));
        assert!(stored(&sidecar) <= 50_000, "{number}");
        sidecar.advance(Duration::from_secs(1));
    }
    let statuses: Vec<_> = shown.iter().map(|mxc| download(&sidecar, mxc).status).collect();
    assert_eq!(statuses, [404, 404, 200, 200]);
    // Whose picture is gone is asked for again, another is not.
    let asked = site.requests().len();
    assert_eq!(image_of(&of(&sidecar, "/3")), shown[3]);
    assert_eq!(site.requests().len(), asked);
    assert_ne!(image_of(&of(&sidecar, "/0")), shown[0]);
    assert_eq!(download(&sidecar, &shown[2]).status, 404);
    // What users upload does not count, and does not go.
    let upload = sidecar.upload("image/png", &numbered(3));
    image_of(&of(&sidecar, "/4"));
    image_of(&of(&sidecar, "/5"));
    assert_eq!((download(&sidecar, &shown[3]).status, download(&sidecar, &upload).status), (404, 200));

    // Less is allowed from now on.
    let setup = Setup::in_folder(sidecar.stop()).with(|config| config.previews.max_stored.0 = 20_000);
    let sidecar = setup.start();
    eventually("one goes", || stored(&sidecar) == 40_000);
    assert_eq!(download(&sidecar, &upload).status, 200);
}

#[test]
fn a_picture_larger_than_all_may_be_together_is_left_out() {
    let site = Peer::plain(|request| match request.path() {
        "/large.png" => picture(numbered(1)),
        "/small.png" => picture(png(40, 30, 1)),
        _ => gallery(&["/large.png", "/small.png"]),
    });
    let sidecar = beside(&site).with(|config| config.previews.max_stored.0 = 19_999).start();
    assert_eq!(of(&sidecar, "/")["og:image:width"], 40);
}
