//! Pictures made to break who shows them: refused in the words of the specification, within the memory that the
//! configuration allows.

use std::io::Cursor;
use std::sync::mpsc;
use std::time::Duration;

use image::{DynamicImage, ImageFormat, RgbImage};

use crate::binary::{Folder, Service};
use crate::harness::{Setup, Sidecar, eventually};

/// The configured `thumbnails.memory`, MiB.
const MEMORY: u64 = 20;

/// What a request for a thumbnail brings besides: a connection, the catalog's cache, the allocator's scraps. MiB.
const SCRAPS: u64 = 6;

/// Answers of [`ask`].
const GIVEN: (u16, &str) = (200, "");
const BROKEN: (u16, &str) = (400, "M_UNKNOWN");
const TOO_LARGE: (u16, &str) = (413, "M_TOO_LARGE");

/// A picture of some size.
fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let pixels =
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x.to_le_bytes()[0], y.to_le_bytes()[0], 90]));
    DynamicImage::from(pixels).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg(width: u16, height: u16, progressive: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 80);
    encoder.set_progressive(progressive);
    let pixels = vec![90; usize::from(width) * usize::from(height) * 3];
    encoder.encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

/// Puts bytes into others.
fn spliced(mut bytes: Vec<u8>, at: usize, instead: usize, new: &[u8]) -> Vec<u8> {
    bytes.splice(at..at + instead, new.iter().copied());
    bytes
}

/// Where a word begins.
fn find(bytes: &[u8], word: &[u8]) -> usize {
    memchr::memmem::find(bytes, word).unwrap()
}

/// The checksum of a PNG chunk.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

/// A PNG's chunk.
fn chunk(name: [u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&name, data].concat();
    [&u32::try_from(data.len()).unwrap().to_be_bytes()[..], &body, &crc32(&body).to_be_bytes()].concat()
}

/// A PNG whose header says another size than its pixels have.
fn claiming(width: u32, height: u32) -> Vec<u8> {
    let png = picture(90, 90, ImageFormat::Png);
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &png[24..29]].concat();
    spliced(png, 8, 25, &chunk(*b"IHDR", &header))
}

/// 100 MB of nothing, deflated.
fn deflated() -> Vec<u8> {
    use std::io::Write as _;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 10_000, 10_000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().unwrap();
    let mut pixels = writer.stream_writer_with_size(1 << 20).unwrap();
    for _ in 0..10_000 {
        pixels.write_all(&[0; 10_000]).unwrap();
    }
    pixels.finish().unwrap();
    drop(writer);
    let mut stream = Vec::new();
    let mut at = 8;
    while at < file.len() {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        if &file[at + 4..at + 8] == b"IDAT" {
            stream.extend(&file[at + 8..at + 8 + length]);
        }
        at += length + 12;
    }
    stream
}

/// A PNG with a chunk after its header.
fn png_with(name: [u8; 4], data: &[u8]) -> Vec<u8> {
    spliced(picture(90, 90, ImageFormat::Png), 33, 0, &chunk(name, data))
}

/// A GIF of 100 × 100 whose second and later frames are a pixel.
fn gif(frames: usize) -> Vec<u8> {
    let gif = picture(100, 100, ImageFormat::Gif);
    let end = gif.len() - 1;
    let frame = b"\x2c\0\0\0\0\x01\0\x01\0\x80\0\0\0\xff\xff\xff\x02\x02\x44\x01\0";
    spliced(gif, end, 0, &frame.repeat(frames - 1))
}

/// A WebP with a canvas that nothing fills, moving.
fn webp_canvas(width: u32, height: u32) -> Vec<u8> {
    let side = |length: u32| (length - 1).to_le_bytes()[..3].to_vec();
    let still = picture(90, 90, ImageFormat::WebP);
    let frame = [[0; 6].to_vec(), side(90), side(90), vec![100, 0, 0, 0], still[12..].to_vec()].concat();
    riff(&[
        (*b"VP8X", [vec![2, 0, 0, 0], side(width), side(height)].concat()),
        (*b"ANIM", vec![0; 6]),
        (*b"ANMF", frame.clone()),
        (*b"ANMF", frame),
    ])
}

/// A WebP of chunks.
fn riff(chunks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
    let long = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
    let mut body = b"WEBP".to_vec();
    for (name, data) in chunks {
        body.extend([name, &long(data.len())[..], data].concat());
        body.extend(vec![0; data.len() % 2]);
    }
    [b"RIFF", &long(body.len())[..], &body].concat()
}

/// A WebP with a profile of `length` bytes.
fn webp_with_profile(length: usize) -> Vec<u8> {
    let still = picture(90, 90, ImageFormat::WebP);
    let picture = still[20..].to_vec();
    riff(&[
        (*b"VP8X", vec![0x20, 0, 0, 0, 89, 0, 0, 89, 0, 0]),
        (*b"ICCP", vec![7; length]),
        (*b"VP8L", picture),
    ])
}

/// A lossy WebP with something after its picture, which the decoder reads along.
fn lossy_webp(more: usize) -> Vec<u8> {
    let whole = include_bytes!("../fixtures/quadrants.webp");
    riff(&[(*b"VP8 ", [&whole[20..], &vec![7; more]].concat())])
}

/// A lossy WebP of 90 × 90 with a frame of 16 383 × 16 383.
fn lying_webp() -> Vec<u8> {
    let frame = include_bytes!("../fixtures/quadrants.webp")[20..].to_vec();
    let frame = spliced(frame, 6, 4, &[0xff, 0x3f, 0xff, 0x3f]);
    riff(&[(*b"VP8X", vec![0, 0, 0, 0, 89, 0, 0, 89, 0, 0]), (*b"VP8 ", frame)])
}

/// A TIFF of one row of pixels, with the entries added to the necessary ones.
fn tiff(compression: u16, more: &[(u16, u16, u32, u32)], tail: &[u8]) -> Vec<u8> {
    let mut entries = vec![
        (256, 4, 1, 90),
        (257, 4, 1, 90),
        (258, 3, 1, 8),
        (259, 3, 1, u32::from(compression)),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, 90),
        (279, 4, 1, 100),
    ];
    entries.retain(|entry| more.iter().all(|other| other.0 != entry.0));
    entries.extend(more);
    entries.sort_unstable();
    let mut file = b"II*\0".to_vec();
    file.extend(u32::try_from(8 + tail.len()).unwrap().to_le_bytes());
    file.extend(tail);
    file.extend(u16::try_from(entries.len()).unwrap().to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend(
            [
                &u16::to_le_bytes(tag)[..],
                &u16::to_le_bytes(kind),
                &u32::to_le_bytes(count),
                &u32::to_le_bytes(value),
            ]
            .concat(),
        );
    }
    file.extend([0; 4]);
    file
}

/// Segments of a JPEG as large as they get.
fn segments(marker: u8, bytes: usize) -> Vec<u8> {
    let mut segment = vec![0xff, marker, 0xff, 0xff];
    segment.extend(b"ICC_PROFILE\0\x01\x01");
    segment.resize(65_537, 7);
    segment.repeat(bytes / segment.len())
}

/// A file's name, the file, and the answer it gets.
type Case = (&'static str, Vec<u8>, (u16, &'static str));

/// Every hostile file.
fn hostile() -> Vec<Case> {
    [hostile_pngs(), hostile_jpegs(), hostile_others()].concat()
}

fn hostile_pngs() -> Vec<Case> {
    let bomb = deflated();
    let named = [b"x\0\0", bomb.as_slice()].concat();
    let whole = picture(90, 90, ImageFormat::Png);
    let unfilled = whole[..find(&whole, b"IDAT") - 4].to_vec();
    let overfilled = [unfilled.clone(), chunk(*b"IDAT", &bomb), chunk(*b"IEND", &[])].concat();
    let wide = spliced(overfilled.clone(), 8, 25, &chunk(*b"IHDR", b"\0\0\x27\x10\0\0\x27\x10\x08\0\0\0\0"));
    vec![
        ("a PNG's half", whole[..whole.len() / 2].to_vec(), GIVEN),
        ("a PNG's headers", whole[..40].to_vec(), BROKEN),
        ("PNG without pixels", unfilled, BROKEN),
        ("PNG of 50 000 × 50 000", claiming(50_000, 50_000), TOO_LARGE),
        ("PNG of 1 × 60 000", claiming(1, 60_000), GIVEN),
        ("PNG of 60 000 × 1", claiming(60_000, 1), BROKEN),
        ("PNG of 0 × 90", claiming(0, 90), BROKEN),
        ("true PNG of 1 × 60 000", picture(1, 60_000, ImageFormat::Png), GIVEN),
        ("true PNG of 60 000 × 1", picture(60_000, 1, ImageFormat::Png), GIVEN),
        ("100 MB in a PNG's pixels", wide, GIVEN),
        ("100 MB in the pixels of a PNG of 90 × 90", overfilled, GIVEN),
        ("100 MB in a PNG's profile", png_with(*b"iCCP", &named), GIVEN),
        ("100 MB in a PNG's text", png_with(*b"zTXt", &named), GIVEN),
        ("30 MB of a PNG's profile", png_with(*b"iCCP", &vec![7; 30_000_000]), TOO_LARGE),
    ]
}

fn hostile_jpegs() -> Vec<Case> {
    let (whole, progressive) = (jpeg(400, 300, false), jpeg(400, 300, true));
    let (frame, scan) = (find(&whole, b"\xff\xc0"), find(&whole, b"\xff\xda"));
    let size = frame + 5;
    let second_frame = whole[frame..frame + 19].to_vec();
    let first = find(&progressive, b"\xff\xda") + 2;
    let later = first + find(&progressive[first..], b"\xff\xda");
    vec![
        ("JPEG of 65 500 × 65 500", spliced(whole.clone(), size, 4, &[0xff, 0xdc, 0xff, 0xdc]), TOO_LARGE),
        (
            "progressive JPEG of 9 000 × 9 000",
            spliced(progressive.clone(), find(&progressive, b"\xff\xc2") + 5, 4, &[0x23, 0x28, 0x23, 0x28]),
            TOO_LARGE,
        ),
        ("JPEG of 0 rows", spliced(whole.clone(), size, 2, &[0, 0]), BROKEN),
        ("JPEG with a second frame header", spliced(whole.clone(), frame, 0, &second_frame), BROKEN),
        ("a JPEG's headers", whole[..scan].to_vec(), BROKEN),
        (
            "30 MB of a JPEG's profile",
            spliced(whole.clone(), frame, 0, &segments(0xe2, 30_000_000)),
            TOO_LARGE,
        ),
        ("30 MB of a JPEG's comments", spliced(whole, frame, 0, &segments(0xfe, 30_000_000)), GIVEN),
        (
            "30 MB of profile between scans",
            spliced(progressive, later, 0, &segments(0xe2, 30_000_000)),
            GIVEN,
        ),
    ]
}

fn hostile_others() -> Vec<Case> {
    let bmp = picture(90, 90, ImageFormat::Bmp);
    // The first frame's descriptor, after header and extensions.
    let first = find(&gif(1), b"\x2c\0\0\0\0");
    let xmp = [
        b"\x21\xff\x0bXMP DataXMP".to_vec(),
        [[255].as_slice(), &[7; 255]].concat().repeat(120_000),
        vec![0],
    ]
    .concat();
    vec![
        ("empty", Vec::new(), BROKEN),
        ("noise", (0..5000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect(), BROKEN),
        ("GIF of 100 000 frames", gif(100_000), GIVEN),
        ("GIF of 65 535 × 65 535", spliced(gif(1), 6, 4, &[0xff; 4]), TOO_LARGE),
        (
            "GIF of 100 × 100 with a frame of 60 000 × 500",
            spliced(gif(1), first + 5, 4, &[0x60, 0xea, 0xf4, 1]),
            BROKEN,
        ),
        ("30 MB of a GIF's XMP", spliced(gif(1), first, 0, &xmp), TOO_LARGE),
        ("GIF of 0 × 0 with a frame", spliced(gif(1), 6, 4, &[0; 4]), GIVEN),
        ("WebP's canvas of 16 384 × 16 384", webp_canvas(16_384, 16_384), TOO_LARGE),
        ("WebP's canvas of 9 000 × 9 000", webp_canvas(9_000, 9_000), GIVEN),
        ("30 MB of a WebP's profile", webp_with_profile(30_000_000), TOO_LARGE),
        ("lossy WebP whose frame is larger than its canvas", lying_webp(), BROKEN),
        ("30 MB of a lossy WebP", lossy_webp(30_000_000), TOO_LARGE),
        ("WebP's small senseless profile", webp_with_profile(100), GIVEN),
        (
            "TIFF with 8 million strips",
            tiff(1, &[(273, 4, 8_000_000, 8), (279, 4, 8_000_000, 8)], &vec![0; 32_000_000]),
            BROKEN,
        ),
        ("TIFF with a JPEG in it", tiff(7, &[(279, 4, 1, 1000)], &jpeg(16_000, 8, false)), BROKEN),
        (
            "TIFF with tiles of 4 milliard columns",
            tiff(1, &[(322, 4, 1, u32::MAX), (323, 4, 1, 1)], &[0; 200]),
            BROKEN,
        ),
        ("TIFF of 60 000 channels", tiff(1, &[(277, 3, 1, 60_000)], &[0; 200]), BROKEN),
        ("BMP of 60 000 × 60 000", spliced(bmp, 18, 8, &[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]), TOO_LARGE),
    ]
}

/// A service's figure, in MiB.
fn status(service: &Service, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn hostile_pictures_are_refused_in_bounded_memory_and_the_worker_lives_on() {
    let folder = Folder::new(&format!("thumbnails:\n  memory: {MEMORY}MiB\n"));
    let service = folder.serve();
    let upload = |bytes: &[u8]| {
        let uploaded =
            service.alice().with_header("Content-Type", "image/png").post("/_matrix/media/v3/upload", bytes);
        uploaded.json()["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned()
    };
    let ask = |mxc: &str| {
        service
            .alice()
            .get(&format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32&method=crop"))
    };
    let hostile: Vec<_> =
        hostile().into_iter().map(|(name, bytes, answer)| (name, upload(&bytes), answer)).collect();
    assert_eq!(ask(&upload(&picture(90, 90, ImageFormat::Png))).status, 200);
    // From here on the peak is counted anew.
    std::fs::write(format!("/proc/{}/clear_refs", service.child.id()), "5").unwrap();
    let before = status(&service, "VmHWM");
    for (name, mxc, (expected, errcode)) in &hostile {
        let answer = ask(mxc);
        assert_eq!(answer.status, *expected, "{name}: {}", answer.text());
        if *expected != 200 {
            assert_eq!(answer.errcode(), *errcode, "{name}");
        }
        let peak = status(&service, "VmHWM");
        assert!(peak <= before + MEMORY + SCRAPS, "{name}: {before} MiB grew to {peak} MiB");
    }
    let other = upload(&picture(91, 90, ImageFormat::Png));
    assert_eq!(ask(&other).status, 200, "the worker lives on");
}

#[test]
fn who_asks_for_more_pictures_than_can_wait_is_told_to_come_back() {
    let sidecar = Setup::new().with(|config| config.thumbnails.sizes.clear()).start();
    // Of one picture not so many are kept.
    let sources = [301, 302, 303, 304, 305, 306, 307, 308]
        .map(|side| sidecar.upload("image/png", &picture(side, 4, ImageFormat::Png)));
    let ask_for = |number: usize| {
        let (mxc, width) = (&sources[number % sources.len()], number / sources.len() + 1);
        let query = format!("width={width}&height=1&method=crop");
        sidecar.alice().get(&format!("/_matrix/client/v1/media/thumbnail/{mxc}?{query}"))
    };
    // While another holds the catalog's pen no picture can be finished; looking things up goes on.
    let pen = rusqlite::Connection::open(sidecar.folder.path().join("data/catalog.db")).unwrap();
    pen.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (answers, answered) = mpsc::channel();
    std::thread::scope(|scope| {
        for number in 0..WAITING + 3 {
            let (answers, ask_for) = (answers.clone(), &ask_for);
            scope.spawn(move || answers.send(ask_for(number)).unwrap());
        }
        for _ in 0..3 {
            let refused = answered.recv().unwrap();
            assert_eq!(refused.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
            assert_eq!(refused.header("retry-after"), Some("5"));
        }
        pen.execute_batch("ROLLBACK").unwrap();
        for _ in 0..WAITING {
            assert_eq!(answered.recv().unwrap().status, 200);
        }
    });
    eventually("there is room again", || ask_for(WAITING + 4).status == 200);
}

/// Pictures that are made or wait at most.
const WAITING: usize = 1 + 320;

#[test]
fn a_broken_picture_is_left_alone_for_a_while() {
    let sidecar = Sidecar::start();
    let good = picture(100, 80, ImageFormat::Png);
    let pixels = find(&good, b"IDAT") + 4;
    let mxc = sidecar.upload("image/png", &spliced(good.clone(), pixels, 20, &[0xff; 20]));
    let small = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32&method=crop");
    assert_eq!(sidecar.alice().get(&small).failure(), (400, "M_UNKNOWN".to_owned()));
    // Whole bytes in its place would show any further look at the file.
    let [blob] = sidecar.blobs().try_into().unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, &good).unwrap();
    for size in ["width=32&height=32&method=crop", "width=96&height=96&method=crop"] {
        let target = format!("/_matrix/client/v1/media/thumbnail/{mxc}?{size}");
        assert_eq!(sidecar.alice().get(&target).failure(), (400, "M_UNKNOWN".to_owned()), "{size}");
    }
    sidecar.advance(Duration::from_secs(601));
    assert_eq!(sidecar.alice().get(&small).status, 200);
}

/// Decoders' complaints that looked like a failing disk were 500, at each request.
#[test]
fn what_a_decoder_cannot_read_is_the_pictures_fault() {
    let sidecar = Sidecar::start();
    let good = picture(90, 90, ImageFormat::Png);
    let rows = [0x26, 0xa0, 0x9b].repeat(40);
    for (name, bytes) in [
        ("header", good[..40].to_vec()),
        ("fax of group 3", tiff(3, &[(258, 3, 1, 1)], &[0; 200])),
        ("fax of group 4", tiff(4, &[(258, 3, 1, 1)], &[0; 200])),
        ("fax that is none", tiff(4, &[(258, 3, 1, 1), (266, 3, 1, 2)], &rows)),
        ("LZW", tiff(5, &[], &[0xff; 200])),
        ("Deflate", tiff(8, &[], &[0xff; 200])),
        ("zstd", tiff(50_000, &[], &[0xff; 200])),
        ("pixels", spliced(good.clone(), find(&good, b"IDAT") + 4, 20, &[0xff; 20])),
        ("a place past any file", tiff(1, &[(273, 4, 1, u32::MAX)], &[0; 200])),
        (
            "tiles of planes that lack",
            tiff(1, &[(322, 3, 1, 32), (323, 3, 1, 32), (277, 3, 1, 3), (284, 3, 1, 2)], &[0; 200]),
        ),
    ] {
        let mxc = sidecar.upload("image/tiff", &bytes);
        let target = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32&method=crop");
        let status = sidecar.alice().get(&target).status;
        // Of some the first rows can be read.
        let may_be_seen = name.starts_with("fax") || name.starts_with("tiles");
        assert!(status == 400 || may_be_seen && status == 200, "{name}: {status}");
    }
}

/// A photograph of sorts of a phone, lossy.
fn phones_webp(width: u32, height: u32) -> Vec<u8> {
    let pixels = RgbImage::from_fn(width, height, |x, y| {
        let noise = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).to_le_bytes()[3] >> 4;
        image::Rgb(
            [(x >> 5).to_le_bytes()[0], (y >> 5).to_le_bytes()[0], 90]
                .map(|value| value.saturating_add(noise)),
        )
    });
    webp::Encoder::from_rgb(&pixels, width, height).encode(75.0).to_vec()
}

/// Everyday pictures were refused for memory that they do not take.
#[test]
fn what_phones_and_screens_make_is_shown_in_the_memory_that_is_configured() {
    const DEFAULT: u64 = 128;
    let folder = Folder::new("");
    let service = folder.serve();
    let mut grey = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut grey, 50);
    encoder.encode(&vec![90; 12_000 * 9000], 12_000, 9000, jpeg_encoder::ColorType::Luma).unwrap();
    let pictures: Vec<_> = [
        ("WebP 4000 × 2400", phones_webp(4000, 2400)),
        ("PNG 1080 × 8000", picture(1080, 8000, ImageFormat::Png)),
        ("JPEG 12 000 × 9000", grey),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        let uploaded = service.alice().post("/_matrix/media/v3/upload", &bytes);
        (name, uploaded.json()["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned())
    })
    .collect();
    std::fs::write(format!("/proc/{}/clear_refs", service.child.id()), "5").unwrap();
    let before = status(&service, "VmHWM");
    for (name, mxc) in pictures {
        for query in ["width=96&height=96&method=crop", "width=800&height=600"] {
            let answer = service.alice().get(&format!("/_matrix/client/v1/media/thumbnail/{mxc}?{query}"));
            assert_eq!(answer.status, 200, "{name} {query}: {}", answer.text());
            let peak = status(&service, "VmHWM");
            assert!(peak <= before + DEFAULT + SCRAPS, "{name}: {before} MiB grew to {peak} MiB");
        }
    }
}
