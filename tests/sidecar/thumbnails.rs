//! `GET thumbnail`, for every kind of caller.

use std::io::Cursor;
use std::time::Duration;

use image::{ImageFormat, RgbImage, RgbaImage};
use media_sidecar::config::UnauthenticatedMedia;
use media_sidecar::matrix::Timestamp;

use crate::bad_pictures::crc32;
use crate::harness::{OURS, Peer, RemoteKey, Reply, Response, Setup, Sidecar, eventually};

/// A photograph of sorts: soft gradients.
fn photo(width: u32, height: u32) -> RgbImage {
    let shade = |at: u32, of: u32| u8::try_from(at * 255 / of).unwrap();
    RgbImage::from_fn(width, height, |x, y| image::Rgb([shade(x, width), shade(y, height), 90]))
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photo(width, height).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = photo(width.into(), height.into()).into_raw();
    jpeg_encoder::Encoder::new(&mut bytes, 90)
        .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    bytes
}

fn thumbnail(mxc: &str, query: &str) -> String {
    format!("/_matrix/client/v1/media/thumbnail/{mxc}?{query}")
}

/// Width and height of a picture.
fn size(response: &Response) -> (u32, u32) {
    assert_eq!(response.status, 200, "{}", response.text());
    if response.body.starts_with(b"\xff\xd8") {
        assert_eq!(response.header("content-type"), Some("image/jpeg"));
        let mut decoder = jpeg_decoder::Decoder::new(response.body.as_slice());
        decoder.decode().unwrap();
        let info = decoder.info().unwrap();
        return (info.width.into(), info.height.into());
    }
    let picture = image::load_from_memory(&response.body).unwrap();
    (picture.width(), picture.height())
}

#[test]
fn thumbnails_are_served_under_every_name() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", &png(400, 200));
    let query = "width=32&height=32&method=crop";
    for path in [
        format!("/_matrix/media/r0/thumbnail/{mxc}"),
        format!("/_matrix/media/v3/thumbnail/{mxc}"),
        format!("/_matrix/client/r0/media/thumbnail/{mxc}"),
        format!("/_matrix/client/unstable/org.matrix.msc1902/media/thumbnail/{mxc}"),
        format!("/_matrix/client/v1/media/thumbnail/{mxc}"),
        format!("/_matrix/client/unstable/org.matrix.msc3916/media/thumbnail/{mxc}"),
    ] {
        let response = sidecar.alice().get(&format!("{path}?{query}"));
        assert_eq!(size(&response), (32, 32), "{path}");
        assert_eq!(response.header("content-type"), Some("image/png"));
        assert_eq!(response.header("content-disposition"), Some("inline; filename=thumbnail.png"));
        assert!(response.header("etag").is_some() && response.header("content-security-policy").is_some());
        let is_open = !path.contains("/client/v1/") && !path.contains("msc3916");
        assert_eq!(
            sidecar.anonymous().get(&format!("{path}?{query}")).status,
            if is_open { 200 } else { 401 },
            "{path}"
        );
    }
}

#[test]
fn sizes_follow_the_specification() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/jpeg", &jpeg(1200, 600));
    for (query, expected) in [
        ("width=30&height=30&method=crop", (32, 32)),
        ("width=96&height=96&method=crop", (96, 96)),
        // Both sides at least as asked.
        ("width=320&height=240", (480, 240)),
        ("width=100&height=100&method=scale", (480, 240)),
        ("width=640&height=480&method=scale", (960, 480)),
        ("width=5000&height=5000", (1200, 600)),
    ] {
        assert_eq!(size(&sidecar.alice().get(&thumbnail(&mxc, query))), expected, "{query}");
    }
}

#[test]
fn a_picture_smaller_than_asked_is_its_own_thumbnail_under_its_true_type() {
    let sidecar = Sidecar::start();
    let bytes = png(20, 10);
    let mxc = sidecar.upload("text/html", &bytes);
    let response = sidecar.alice().get(&thumbnail(&mxc, "width=320&height=240"));
    assert_eq!(response.body, bytes);
    assert_eq!(response.header("content-type"), Some("image/png"));
    assert_eq!(response.header("content-disposition"), Some("inline; filename=thumbnail.png"));
}

#[test]
fn senseless_requests_are_400() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", &png(40, 40));
    for (query, errcode) in [
        ("", "M_MISSING_PARAM"),
        ("width=32", "M_MISSING_PARAM"),
        ("width=-1&height=32", "M_INVALID_PARAM"),
        ("width=a&height=32", "M_INVALID_PARAM"),
        ("width=99999999999&height=32", "M_INVALID_PARAM"),
        ("width=0&height=32", "M_UNKNOWN"),
        ("width=32&height=32&method=fit", "M_INVALID_PARAM"),
    ] {
        assert_eq!(
            sidecar.alice().get(&thumbnail(&mxc, query)).failure(),
            (400, errcode.to_owned()),
            "{query}"
        );
    }
    let huge = sidecar.alice().get(&thumbnail(&mxc, "width=1000000000&height=1000000000"));
    assert_eq!(size(&huge), (40, 40));
    let without_token = sidecar.anonymous().get(&thumbnail("x/..", ""));
    assert_eq!(without_token.failure(), (401, "M_MISSING_TOKEN".to_owned()), "the token comes first");
}

/// A photograph asked for nearly as it is took more memory to make smaller than there was, and was refused.
#[test]
fn a_size_that_takes_too_much_memory_is_the_original_or_the_largest_that_fits() {
    let sidecar = Setup::new().with(|config| config.thumbnails.memory.0 = 16_000_000).start();
    let photo = jpeg(3000, 2400);
    let mxc = sidecar.upload("image/jpeg", &photo);
    let ask = |query: &str| sidecar.alice().get(&thumbnail(&mxc, query));
    let beyond = ask("width=2800&height=2000&method=scale");
    assert_eq!((beyond.status, beyond.header("content-type")), (200, Some("image/jpeg")));
    assert!(beyond.body == photo);
    assert_eq!(size(&ask("width=320&height=240&method=scale")), (320, 256));
    let (width, height) = size(&ask("width=2800&height=2000&method=crop"));
    assert!((800..2800).contains(&width), "{width}");
    assert!((width * 2000 / 2800).abs_diff(height) <= 1, "{width} {height}");
}

/// What covers the smallest size that is scaled to, of a picture as wide as they come, is what clients and other servers' tests
/// take for a small one.
#[test]
fn small_thumbnails_keep_the_pictures_type_and_large_photographs_are_jpeg() {
    let sidecar = Sidecar::start();
    let grain = |x: u32, y: u32| u8::try_from((x * 1000 + y).wrapping_mul(2_654_435_761) >> 26).unwrap();
    let opaque = RgbImage::from_fn(1000, 673, |x, y| {
        image::Rgb(
            [u8::try_from(x / 5).unwrap(), u8::try_from(y / 4).unwrap(), 90_u8]
                .map(|value: u8| value.saturating_add(grain(x, y))),
        )
    });
    let flat =
        RgbImage::from_fn(1800, 1200, |x, _| image::Rgb(if x < 700 { [200, 30, 30] } else { [30, 60, 200] }));
    let as_png = |picture: RgbImage| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        sidecar.upload("image/png", &bytes.into_inner())
    };
    let (photo, drawing) = (as_png(opaque), as_png(flat));
    let jpeg = sidecar.upload("image/jpeg", &jpeg(1000, 673));
    for (mxc, query, expected) in [
        (&photo, "width=32&height=32&method=scale", "image/png"),
        (&photo, "width=320&height=240&method=scale", "image/png"),
        (&photo, "width=96&height=96&method=crop", "image/png"),
        (&photo, "width=800&height=600&method=scale", "image/jpeg"),
        (&drawing, "width=800&height=600&method=scale", "image/png"),
        (&jpeg, "width=32&height=32&method=scale", "image/jpeg"),
        (&jpeg, "width=32&height=32&method=crop", "image/jpeg"),
    ] {
        let response = sidecar.alice().get(&thumbnail(mxc, query));
        assert_eq!((response.status, response.header("content-type")), (200, Some(expected)), "{query}");
    }
}

#[test]
fn what_is_no_picture_is_400_and_a_huge_one_413() {
    let sidecar = Setup::new().with(|config| config.thumbnails.max_pixels.0 = 10_000).start();
    let whole = png(90, 90);
    let mut bomb = png(90, 90);
    bomb[16..24].copy_from_slice(&[0, 0, 0xc3, 0x50, 0, 0, 0xc3, 0x50]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    for (bytes, failure) in [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), (400, "M_UNKNOWN")),
        (b"%PDF-1.7".to_vec(), (400, "M_UNKNOWN")),
        (vec![0x5a; 5000], (400, "M_UNKNOWN")),
        (Vec::new(), (400, "M_UNKNOWN")),
        (whole[..40].to_vec(), (400, "M_UNKNOWN")),
        (png(200, 200), (413, "M_TOO_LARGE")),
        (bomb, (413, "M_TOO_LARGE")),
    ] {
        let mxc = sidecar.upload("image/png", &bytes);
        let response = sidecar.alice().get(&thumbnail(&mxc, "width=32&height=32&method=crop"));
        assert_eq!(response.failure(), (failure.0, failure.1.to_owned()), "{} bytes", bytes.len());
    }
    // The worker is alive.
    let mxc = sidecar.upload("image/png", &png(90, 90));
    assert_eq!(size(&sidecar.alice().get(&thumbnail(&mxc, "width=32&height=32&method=crop"))), (32, 32));
}

#[test]
fn a_picture_is_made_once_kept_across_restarts_and_made_again_when_lost() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", &png(400, 200));
    let path = thumbnail(&mxc, "width=32&height=32&method=crop");
    let first = sidecar.alice().get(&path);
    assert_eq!(sidecar.alice().get(&path).body, first.body);
    assert_eq!(sidecar.blobs().len(), 2, "the picture and its thumbnail");
    let etag = first.header("etag").unwrap().to_owned();
    assert_eq!(sidecar.alice().with_header("If-None-Match", &etag).get(&path).status, 304);

    let sidecar = Setup::in_folder(sidecar.stop()).start();
    assert_eq!(sidecar.alice().get(&path).body, first.body);
    let made = sidecar.blobs().into_iter().find(|blob| std::fs::read(blob).unwrap() == first.body).unwrap();
    std::fs::remove_file(made).unwrap();
    assert_eq!(sidecar.alice().get(&path).body, first.body);
}

#[test]
fn many_who_ask_at_once_get_one_picture() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/jpeg", &jpeg(2000, 1500));
    let bodies: Vec<_> = std::thread::scope(|scope| {
        let ask = || sidecar.alice().get(&thumbnail(&mxc, "width=320&height=240")).body;
        let asking: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(sidecar.blobs().len(), 2);
}

#[test]
fn transparency_is_kept() {
    let sidecar = Sidecar::start();
    let picture =
        RgbaImage::from_fn(400, 400, |x, _| image::Rgba([200, 30, 30, if x < 200 { 0 } else { 255 }]));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let mxc = sidecar.upload("image/png", &bytes.into_inner());
    let response = sidecar.alice().get(&thumbnail(&mxc, "width=320&height=240"));
    assert_eq!(response.header("content-type"), Some("image/png"));
    let made = image::load_from_memory(&response.body).unwrap().to_rgba8();
    assert_eq!(
        (made.get_pixel(10, 10).0[3], made.get_pixel(made.width() - 10, 10).0),
        (0, [200, 30, 30, 255])
    );
}

#[test]
fn servers_get_the_same_bytes_as_clients() {
    let sidecar = Sidecar::start();
    let name = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let told = std::sync::Arc::clone(&name);
    let remote = Peer::tls(move |_| {
        Reply::json(200, &RemoteKey::new(1).document(told.get().unwrap(), Timestamp::now().0 + 86_400_000))
    });
    name.set(remote.name()).unwrap();
    let mxc = sidecar.upload("image/png", &png(400, 200));
    let media_id = mxc.rsplit('/').next().unwrap();
    let query = "width=96&height=96&method=crop&animated=true";
    let client = sidecar.alice().get(&thumbnail(&mxc, query)).body;
    let ask = |target: &str| {
        let header = RemoteKey::new(1).authorization(&remote.name(), OURS, target);
        sidecar.anonymous().with_header("Authorization", &header).get(target)
    };
    let raw = ask(&format!("/_matrix/federation/v1/remote_media/thumbnail/{mxc}?{query}"));
    assert_eq!((raw.status, raw.body == client), (200, true));
    let multipart = ask(&format!("/_matrix/federation/v1/media/thumbnail/{media_id}?{query}"));
    assert_eq!(multipart.header("content-disposition"), Some("inline; filename=thumbnail.png"));
    assert!(memchr::memmem::find(&multipart.body, &client).is_some());
    assert_eq!(
        sidecar.anonymous().get(&format!("/_matrix/federation/v1/media/thumbnail/{media_id}?{query}")).status,
        401
    );
}

#[test]
fn remote_pictures_are_fetched_whole_and_made_small_here() {
    let bytes = png(400, 200);
    let original = bytes.clone();
    let remote = Peer::tls(move |request| {
        assert!(request.path().contains("/download/"), "{}", request.target);
        Reply::new(200)
            .header("Content-Type", "image/png")
            .header("Content-Disposition", "inline")
            .body(&original)
    });
    let sidecar = Sidecar::start();
    let mxc = format!("{}/x", remote.name());
    assert_eq!(size(&sidecar.alice().get(&thumbnail(&mxc, "width=32&height=32&method=crop"))), (32, 32));
    assert_eq!(sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}")).body, bytes);
    assert_eq!(remote.requests().len(), 1);
}

#[test]
fn thumbnails_are_as_closed_as_their_originals() {
    let sidecar =
        Setup::new().with(|config| config.unauthenticated_media = UnauthenticatedMedia::Closed).start();
    let mxc = sidecar.upload("image/png", &png(400, 200));
    let query = "width=32&height=32&method=crop";
    assert_eq!(size(&sidecar.alice().get(&thumbnail(&mxc, query))), (32, 32));
    assert_eq!(sidecar.anonymous().get(&format!("/_matrix/media/v3/thumbnail/{mxc}?{query}")).status, 404);
}

#[test]
fn a_thumbnail_goes_with_its_original() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", &png(400, 200));
    assert_eq!(size(&sidecar.alice().get(&thumbnail(&mxc, "width=32&height=32&method=crop"))), (32, 32));
    let folder = sidecar.stop();
    let catalog = rusqlite::Connection::open(folder.path().join("data/catalog.db")).unwrap();
    catalog.execute("DELETE FROM media", []).unwrap();
    drop(catalog);
    let sidecar = Setup::in_folder(folder).start();
    // The row of the original went behind the service's back: its blob is looked after elsewhere (`store.rs`).
    eventually("the thumbnail is gone", || sidecar.blobs().len() == 1);
}

#[test]
fn uploads_are_answered_with_their_blurhash_when_that_is_wanted() {
    let sidecar = Sidecar::start();
    let red = |side| {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(side, side, image::Rgb([200, 30, 30]))
            .write_to(&mut bytes, ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    };
    let target = "/_matrix/media/v3/upload?xyz.amorgan.generate_blurhash=true";
    // As the Python package `blurhash` has them.
    for (bytes, expected) in
        [(png(32, 20), "LxG[.82rwxX7qRWDjte;gJfjfQfj"), (red(20), "L9M^z||wfQ|w|wo1fQo1fQfQfQfQ")]
    {
        let answer = sidecar.alice().post(target, &bytes).json();
        assert_eq!(answer["xyz.amorgan.blurhash"], expected);
        let mxc = answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        assert_eq!(sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}")).body, bytes);
        let created = sidecar.alice().post("/_matrix/media/v1/create", b"{}").json();
        let mxc = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        let into = format!("/_matrix/media/v3/upload/{mxc}?xyz.amorgan.generate_blurhash=true");
        assert_eq!(
            sidecar.alice().put(&into, &bytes).text(),
            format!(r#"{{"xyz.amorgan.blurhash":"{expected}"}}"#)
        );
    }
    // The average colour, which is the first of the waves, is the large picture's too.
    let large = sidecar.alice().post(target, &red(900)).json();
    assert_eq!(&large["xyz.amorgan.blurhash"].as_str().unwrap()[2..6], "M^z|");
    assert_eq!(sidecar.blobs().len(), 3, "nothing is kept of a BlurHash");
}

#[test]
fn no_blurhash_is_no_failure() {
    let sidecar = Setup::new().with(|config| config.thumbnails.max_pixels.0 = 10_000).start();
    let whole = png(90, 90);
    let wanted = "/_matrix/media/v3/upload?xyz.amorgan.generate_blurhash=true";
    for bytes in [b"text".to_vec(), Vec::new(), png(200, 200), whole[..40].to_vec()] {
        let response = sidecar.alice().with_header("Content-Type", "image/png").post(wanted, &bytes);
        let answer = response.json();
        assert_eq!((response.status, answer.as_object().unwrap().len()), (200, 1), "{answer}");
    }
    for unwanted in
        ["/_matrix/media/v3/upload", "/_matrix/media/v3/upload?xyz.amorgan.generate_blurhash=false"]
    {
        assert_eq!(sidecar.alice().post(unwanted, &whole).json().as_object().unwrap().len(), 1, "{unwanted}");
    }
}

#[test]
fn thumbnails_are_made_ahead_when_the_machine_is_idle_and_have_the_bytes_of_those_asked_for() {
    let asked = Sidecar::start();
    let ahead = Setup::new().with(|config| config.thumbnails.pregenerate = true).start();
    let bytes = jpeg(1200, 900);
    let mxc = asked.upload("image/jpeg", &bytes);
    for query in [
        "width=800&height=600",
        "width=640&height=480",
        "width=320&height=240",
        "width=96&height=96&method=crop",
        "width=32&height=32&method=crop",
    ] {
        assert_eq!(asked.alice().get(&thumbnail(&mxc, query)).status, 200);
    }
    // What is no picture is passed over.
    ahead.upload("image/png", b"text");
    ahead.upload("image/jpeg", &bytes);
    assert_eq!(ahead.blobs().len(), 2);
    ahead.advance(Duration::from_secs(5));
    eventually("all sizes are there", || ahead.blobs().len() == 7);
    let names = |sidecar: &Sidecar| {
        let mut names: Vec<_> =
            sidecar.blobs().iter().map(|blob| blob.file_name().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    asked.upload("image/png", b"text");
    assert_eq!(names(&ahead), names(&asked));
}

#[test]
fn what_breaks_off_is_shown_to_who_asks_and_not_made_ahead() {
    let sidecar = Setup::new().with(|config| config.thumbnails.pregenerate = true).start();
    let (photo, drawing) = (jpeg(1200, 900), png(1200, 900));
    let cut = |bytes: &[u8]| bytes[..bytes.len() * 6 / 10].to_vec();
    let broken = [sidecar.upload("image/jpeg", &cut(&photo)), sidecar.upload("image/png", &cut(&drawing))];
    sidecar.upload("image/jpeg", &photo);
    assert_eq!(sidecar.blobs().len(), 3);
    sidecar.advance(Duration::from_secs(5));
    // Uploads are taken one after the other.
    eventually("the sizes of the whole one are there", || sidecar.blobs().len() == 8);
    for mxc in broken {
        let query = "width=320&height=240&method=scale";
        let response = sidecar.alice().get(&thumbnail(&mxc, query));
        assert_eq!(size(&response), (320, 240));
    }
    assert_eq!(sidecar.blobs().len(), 10);
}
