//! Thumbnails of each other's pictures: a photograph that lies on its side, with an EXIF block that says so.

use crate::client::Answer;
use crate::scenario::{Scenario, Upload};

/// Pixels of the photograph as it is seen.
const SEEN: (u32, u32) = (600, 900);

/// What its corners show: left top, right top, left bottom, right bottom.
const CORNERS: [[u8; 3]; 4] = [[220, 40, 40], [40, 180, 60], [40, 60, 210], [230, 210, 50]];

impl Scenario {
    /// Each makes thumbnails of what it fetches from the other, upright and of the size asked for in its own way.
    pub fn thumbnails_are_shown_by_both(&mut self) {
        let bytes = photograph();
        let photograph = Upload { name: "tower.jpg", content_type: "image/jpeg", bytes: &bytes };
        self.step("alice uploads a photograph at A; bob asks Synapse B for thumbnails of it");
        let tower = self.alice_uploads(&photograph);
        shows_tower(&self.bob_gets(&thumbnail(&tower, "width=96&height=96&method=crop")), (96, 96));
        // Synapse fits into the box.
        shows_tower(&self.bob_gets(&thumbnail(&tower, "width=320&height=240&method=scale")), (160, 240));

        self.step("bob's server asks A for thumbnails, signed, in both families");
        let query = "width=96&height=96&method=crop";
        let small = self.alice_gets(&thumbnail(&tower, query));
        shows_tower(&small, (96, 96));
        let (client, a, key) = (&self.world.client, &self.a, &self.b.key);
        let target = format!("/_matrix/federation/v1/remote_media/thumbnail/{tower}?{query}");
        let raw = client.get(&a.name, &target).signed(key, &a.name).send();
        shows_tower(&raw, (96, 96));
        assert!(raw.body == small.body, "the same bytes");
        let id = tower.split_once('/').unwrap().1;
        let target = format!("/_matrix/federation/v1/media/thumbnail/{id}?{query}");
        let multipart = client.get(&a.name, &target).signed(key, &a.name).send().expect(200);
        assert!(multipart.header("content-type").unwrap().starts_with("multipart/mixed"));
        assert!(multipart.body.windows(small.body.len()).any(|window| window == small.body));

        self.step("bob uploads it at B, to Synapse; alice asks A for thumbnails");
        let tower = self.bob_uploads(&photograph);
        shows_tower(&self.alice_gets(&thumbnail(&tower, query)), (96, 96));
        // The sidecar covers the box.
        let covering = thumbnail(&tower, "width=320&height=240&method=scale");
        shows_tower(&self.alice_gets(&covering), (320, 480));
        let legacy = covering.replace("/client/v1/media/", "/media/v3/");
        shows_tower(&self.world.client.get(&self.a.name, &legacy).send(), (320, 480));
        let asked =
            format!("\"GET /_matrix/federation/v1/media/download/{}", tower.split_once('/').unwrap().1);
        self.b.process.log.wait_for(&[&asked, " 200 "]);
    }

    /// The same between two sidecars, over MSC1902's routes.
    pub fn sidecars_show_thumbnails_of_each_other(&mut self) {
        let bytes = photograph();
        let photograph = Upload { name: "tower.jpg", content_type: "image/jpeg", bytes: &bytes };
        self.step("alice and bob ask for thumbnails of each other's photographs");
        let query = "width=32&height=32&method=crop";
        let tower = self.alice_uploads(&photograph);
        shows_tower(&self.bob_gets(&thumbnail(&tower, query)), (32, 32));
        let route = "/_matrix/federation/v1/remote_media/download/{o}/{m}";
        let caller = format!("caller=\"{}\"", self.b.name);
        self.sidecar_a.process.log.wait_for(&[route, "status=200", &caller]);
        let tower = self.bob_uploads(&photograph);
        shows_tower(&self.alice_gets(&thumbnail(&tower, query)), (32, 32));
        self.step("every step succeeded");
    }
}

/// The released route for clients.
fn thumbnail(path: &str, query: &str) -> String {
    format!("/_matrix/client/v1/media/thumbnail/{path}?{query}")
}

/// The photograph, stored on its side.
fn photograph() -> Vec<u8> {
    let (width, height) = (SEEN.1, SEEN.0);
    // Orientation 6: what is stored at (x, y) is seen at (height - 1 - y, x).
    let stored = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb(CORNERS[usize::from(height - 1 - y >= SEEN.0 / 2) + 2 * usize::from(x >= SEEN.1 / 2)])
    });
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.add_exif_metadata(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0").unwrap();
    let side = |length: u32| u16::try_from(length).unwrap();
    encoder.encode(&stored, side(width), side(height), jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

/// Fails unless the answer is an upright JPEG of a size.
fn shows_tower(answer: &Answer, size: (u32, u32)) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("image/jpeg"));
    let mut decoder = jpeg_decoder::Decoder::new(answer.body.as_slice());
    let pixels = decoder.decode().unwrap();
    let info = decoder.info().unwrap();
    assert_eq!((u32::from(info.width), u32::from(info.height)), size);
    let picture = image::RgbImage::from_raw(size.0, size.1, pixels).unwrap();
    for (index, expected) in (0_u32..).zip(CORNERS) {
        let at = (size.0 / 4 + index % 2 * (size.0 / 2), size.1 / 4 + index / 2 * (size.1 / 2));
        let got = picture.get_pixel(at.0, at.1).0;
        let is_near = got.iter().zip(expected).all(|(got, expected)| got.abs_diff(expected) < 30);
        assert!(is_near, "{got:?} at {at:?}, not {expected:?}");
    }
    assert!(!answer.body.windows(4).any(|word| word == b"Exif"), "its metadata went along");
}
