//! `GET preview_url`: what is fetched, kept and answered.

use std::io::{Cursor, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::{ImageFormat, RgbImage};
use media_sidecar::config::{Config, OembedProvider};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::harness::client::read_response;
use crate::harness::{Fault, OURS, Peer, Reply, Request, Response, ScriptedDisk, Setup, Sidecar, eventually};

/// A picture whose every pixel is `shade`.
pub fn png(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, image::Rgb([shade, 90, 9]))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

pub fn html(text: impl AsRef<[u8]>) -> Reply {
    Reply::new(200).header("Content-Type", "text/html; charset=utf-8").body(text)
}

pub fn picture(bytes: Vec<u8>) -> Reply {
    Reply::new(200).header("Content-Type", "image/png").body(bytes)
}

/// A site's usual answers: a page with a picture.
fn usual(request: &Request) -> Reply {
    match request.path() {
        "/page" => html(
            "<title>T</title><meta property=og:title content=Title><meta property=og:image content=/i.png>",
        ),
        "/i.png" => picture(png(40, 30, 1)),
        _ => Reply::new(404),
    }
}

/// A sidecar that reaches `site` as `http://site.test`.
pub fn beside(site: &Peer) -> Setup {
    let setup = Setup::new();
    reach(&setup, site);
    setup.with(|config| config.previews.ip_allow = vec!["127.0.0.0/8".parse().unwrap()])
}

fn reach(setup: &Setup, site: &Peer) {
    setup.zone.host("site.test", 80, &[site.address]);
}

pub fn target(url: &str) -> String {
    format!("/_matrix/client/v1/media/preview_url?url={}", utf8_percent_encode(url, NON_ALPHANUMERIC))
}

pub fn preview(sidecar: &Sidecar, url: &str) -> Response {
    sidecar.alice().get(&target(url))
}

/// The keys of a preview that is there.
pub fn keys(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

pub fn image_of(keys: &Value) -> String {
    keys["og:image"]
        .as_str()
        .unwrap_or_else(|| panic!("no image: {keys}"))
        .strip_prefix("mxc://")
        .unwrap()
        .to_owned()
}

pub fn download(sidecar: &Sidecar, mxc: &str) -> Response {
    sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}"))
}

fn bad_gateway() -> (u16, String) {
    (502, "M_UNKNOWN".to_owned())
}

#[test]
fn a_page_is_previewed_under_every_name_with_a_stored_copy_of_its_image() {
    let site = Peer::plain(usual);
    let sidecar = beside(&site).start();
    let mut answers = Vec::new();
    for path in [
        "/_matrix/media/r0/preview_url",
        "/_matrix/media/v1/preview_url",
        "/_matrix/media/v3/preview_url",
        "/_matrix/client/r0/media/preview_url",
        "/_matrix/client/unstable/org.matrix.msc1902/media/preview_url",
        "/_matrix/client/v1/media/preview_url",
        "/_matrix/client/unstable/org.matrix.msc3916/media/preview_url",
    ] {
        let target = format!("{path}?url=http%3A%2F%2Fsite.test%2Fpage&ts=1700000000000");
        let response = sidecar.alice().get(&target);
        assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
        answers.push(keys(&response));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let found = &answers[0];
    assert_eq!(found["og:title"], "Title");
    assert_eq!((&found["og:image:width"], &found["og:image:height"]), (&json!(40), &json!(30)));
    assert_eq!(found["og:image:type"], "image/png");
    let mxc = image_of(found);
    assert!(mxc.starts_with(&format!("{OURS}/")), "{mxc}");
    let copy = download(&sidecar, &mxc);
    assert_eq!((copy.status, copy.header("content-type")), (200, Some("image/png")));
    assert_eq!(copy.body, png(40, 30, 1));
    assert_eq!(found["matrix:image:size"], json!(copy.body.len()));
    assert_eq!(site.paths(), ["/page", "/i.png"], "one fetch for all");
}

#[test]
fn a_token_is_required_and_guests_are_refused_before_anything_is_asked() {
    let site = Peer::plain(usual);
    let sidecar = beside(&site).start();
    for target in [target("http://site.test/page"), target("data:x"), target("")] {
        let missing = (401, "M_MISSING_TOKEN".to_owned());
        assert_eq!(sidecar.anonymous().get(&target).failure(), missing);
        let refused = (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned());
        assert_eq!(sidecar.user("guest").get(&target).failure(), refused);
    }
    assert_eq!(site.connections(), 0);
}

#[test]
fn parameters_that_make_no_sense_are_400() {
    let sidecar = Sidecar::start();
    let path = "/_matrix/client/v1/media/preview_url";
    for (query, errcode) in [
        ("", "M_MISSING_PARAM"),
        ("?url=", "M_MISSING_PARAM"),
        ("?ts=1", "M_MISSING_PARAM"),
        ("?url=x", "M_INVALID_PARAM"),
        ("?url=http%3A%2F%2Fsite.test&ts=soon", "M_INVALID_PARAM"),
        ("?url=http%3A%2F%2Fsite.test&ts=-1", "M_INVALID_PARAM"),
    ] {
        let response = sidecar.alice().get(&format!("{path}{query}"));
        assert_eq!(response.failure(), (400, errcode.to_owned()), "{query}");
    }
}

#[test]
fn previews_that_are_switched_off_are_an_unknown_endpoint() {
    let sidecar = Setup::new().with(|config| config.previews.enabled = false).start();
    let response = preview(&sidecar, "http://site.test/page");
    assert_eq!(response.failure(), (404, "M_UNRECOGNIZED".to_owned()));
}

#[test]
fn an_empty_page_is_an_empty_preview() {
    let site = Peer::plain(|request| match request.path() {
        "/204" => Reply::raw().body("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
        "/nothing" => html(""),
        _ => html("<!doctype html><html><body><div id=app></div><script>let a = 1</script></body></html>"),
    });
    let sidecar = beside(&site).start();
    for path in ["/app", "/nothing", "/204"] {
        assert_eq!(keys(&preview(&sidecar, &format!("http://site.test{path}"))), json!({}), "{path}");
    }
}

#[test]
fn many_who_ask_at_once_cause_one_fetch() {
    let (release, held) = gate();
    let site = Peer::plain(move |request| match request.path() {
        "/slow" => {
            held.lock().unwrap().recv().ok();
            html("<title>Slow</title>")
        }
        _ => html("<title>Other</title>"),
    });
    let sidecar = beside(&site).start();
    let request = sidecar.alice().request("GET", &target("http://site.test/slow#one"), b"");
    let mut connections: Vec<_> = (0..8).map(|_| sidecar.alice().connect()).collect();
    for connection in &mut connections {
        connection.write_all(&request).unwrap();
    }
    eventually("the page is asked for", || site.paths().contains(&"/slow".to_owned()));
    // Answered after those have come in.
    keys(&preview(&sidecar, "http://site.test/other"));
    drop(release);
    for connection in &mut connections {
        assert_eq!(keys(&read_response(connection, "GET"))["og:title"], "Slow");
    }
    assert_eq!(site.paths().iter().filter(|path| *path == "/slow").count(), 1);
}

/// What holds a script back until the first value is dropped.
fn gate() -> (Sender<()>, Mutex<Receiver<()>>) {
    let (release, held) = channel();
    (release, Mutex::new(held))
}

#[test]
fn a_host_sees_two_requests_at_a_time() {
    let (release, held) = gate();
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let held = Arc::new(held);
    let site = Peer::plain(move |_| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        held.lock().unwrap().recv().ok();
        now.fetch_sub(1, Ordering::SeqCst);
        html("<title>T</title>")
    });
    let other = Peer::plain(usual);
    let setup = beside(&site);
    setup.zone.host("other.test", 80, &[other.address]);
    let sidecar = setup.start();
    let mut connections: Vec<_> = (0..6).map(|_| sidecar.alice().connect()).collect();
    for (index, connection) in connections.iter_mut().enumerate() {
        let target = target(&format!("http://site.test/{index}"));
        connection.write_all(&sidecar.alice().request("GET", &target, b"")).unwrap();
    }
    eventually("both lanes are taken", || site.requests().len() == 2);
    // Others are not held up by it.
    assert_eq!(keys(&preview(&sidecar, "http://other.test/page"))["og:title"], "Title");
    assert_eq!(site.connections(), 2);
    drop(release);
    for connection in &mut connections {
        assert_eq!(keys(&read_response(connection, "GET"))["og:title"], "T");
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn an_image_that_cannot_be_stored_is_left_out_for_a_minute() {
    // Whichever step of it fails first: creating, writing, syncing, naming.
    for step in 0..4 {
        let site = Peer::plain(usual);
        let disk = Arc::new(ScriptedDisk::default());
        let mut setup = beside(&site);
        setup.disk = Some(Arc::clone(&disk) as _);
        let sidecar = setup.start();
        disk.plan(Some(Fault::From(step)));
        let without = keys(&preview(&sidecar, "http://site.test/page"));
        assert_eq!(without, json!({"og:title": "Title"}), "{step}");
        disk.plan(None);
        assert_eq!(keys(&preview(&sidecar, "http://site.test/page")), without, "{step}");
        sidecar.advance(Duration::from_secs(61));
        let with = keys(&preview(&sidecar, "http://site.test/page"));
        assert_eq!(download(&sidecar, &image_of(&with)).status, 200, "{step}");
    }
}

#[test]
fn a_preview_is_kept_for_its_time_and_across_a_restart() {
    let site = Peer::plain(usual);
    let sidecar = beside(&site).start();
    let first = keys(&preview(&sidecar, "http://site.test/page"));
    let folder = sidecar.stop();
    let catalog = rusqlite::Connection::open(folder.path().join("data/catalog.db")).unwrap();
    catalog
        .execute("INSERT INTO preview (url, answer, expires_ms) VALUES ('http://old.test/', '{}', 0)", [])
        .unwrap();
    let setup = Setup::in_folder(folder);
    reach(&setup, &site);
    let sidecar =
        setup.with(|config| config.previews.ip_allow = vec!["127.0.0.0/8".parse().unwrap()]).start();
    assert_eq!(keys(&preview(&sidecar, "http://site.test/page#elsewhere")), first);
    assert_eq!(site.requests().len(), 2);
    // Housekeeping has done its first run, whose clock must not be moved: it would remove what is renewed here.
    let old = || {
        catalog.query_row("SELECT count(*) FROM preview WHERE expires_ms = 0", [], |row| row.get::<_, u32>(0))
    };
    eventually("what had expired before is gone", || old().unwrap() == 0);
    sidecar.advance(Duration::from_mins(61));
    let later = keys(&preview(&sidecar, "http://site.test/page"));
    assert_eq!(site.requests().len(), 4);
    assert_eq!(later, first, "the same picture keeps its address");
    assert_eq!(download(&sidecar, &image_of(&first)).status, 200);
}

#[test]
fn a_failure_is_kept_for_a_minute() {
    let fails = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fails);
    let site = Peer::plain(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(500),
        _ => html("<title>Back</title>"),
    });
    let sidecar = beside(&site).start();
    let (first, second) = (preview(&sidecar, "http://site.test/"), preview(&sidecar, "http://site.test/"));
    assert_eq!(first.failure(), bad_gateway());
    assert_eq!(first.json(), second.json());
    sidecar.advance(Duration::from_secs(59));
    assert_eq!(preview(&sidecar, "http://site.test/").failure(), bad_gateway());
    assert_eq!(site.requests().len(), 1);
    sidecar.advance(Duration::from_secs(2));
    assert_eq!(keys(&preview(&sidecar, "http://site.test/"))["og:title"], "Back");
}

#[test]
fn an_expired_preview_goes_with_its_image_and_its_thumbnails() {
    let site = Peer::plain(usual);
    let sidecar = beside(&site).start();
    let mxc = image_of(&keys(&preview(&sidecar, "http://site.test/page")));
    let thumbnail = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=16&height=16&method=crop");
    assert_eq!(sidecar.alice().get(&thumbnail).status, 200);
    assert_eq!(sidecar.blobs().len(), 2);
    let mut setup = Setup::in_folder(sidecar.stop());
    setup.ahead = Duration::from_hours(2);
    let sidecar = setup.start();
    eventually("the blobs are gone", || sidecar.blobs().is_empty());
    assert_eq!(download(&sidecar, &mxc).status, 404);
    assert_eq!(rows(&sidecar, "media"), 0);
    assert_eq!(rows(&sidecar, "preview"), 0);
}

#[test]
fn what_a_user_uploaded_stays_when_a_preview_of_the_same_bytes_expires() {
    let site = Peer::plain(usual);
    let sidecar = beside(&site).start();
    let mxc = image_of(&keys(&preview(&sidecar, "http://site.test/page")));
    let upload = sidecar.upload("image/png", &png(40, 30, 1));
    assert_eq!(sidecar.blobs().len(), 1);
    let mut setup = Setup::in_folder(sidecar.stop());
    setup.ahead = Duration::from_hours(2);
    let sidecar = setup.start();
    eventually("the copy is gone", || download(&sidecar, &mxc).status == 404);
    assert_eq!(download(&sidecar, &upload).body, png(40, 30, 1));
}

/// Rows of a table.
fn rows(sidecar: &Sidecar, table: &str) -> u32 {
    let catalog = rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    catalog.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn a_newer_picture_takes_the_place_of_the_old() {
    let count = AtomicUsize::new(0);
    let site = Peer::plain(move |request| match request.path() {
        "/i.png" if count.fetch_add(1, Ordering::SeqCst) > 0 => picture(png(40, 30, 2)),
        _ => usual(request),
    });
    let sidecar = beside(&site).start();
    let old = image_of(&keys(&preview(&sidecar, "http://site.test/page")));
    sidecar.advance(Duration::from_mins(61));
    let new = image_of(&keys(&preview(&sidecar, "http://site.test/page")));
    assert_eq!(download(&sidecar, &new).body, png(40, 30, 2));
    assert_eq!(download(&sidecar, &old).status, 404);
    assert_eq!(sidecar.blobs().len(), 1);
}

#[test]
fn a_preview_image_belongs_to_nobody_and_is_marked() {
    let site = Peer::plain(usual);
    let sidecar = beside(&site).start();
    keys(&preview(&sidecar, "http://site.test/page"));
    let folder = sidecar.stop();
    let catalog = rusqlite::Connection::open(folder.path().join("data/catalog.db")).unwrap();
    let row = catalog.query_row("SELECT user_id, preview, server_name, open FROM media", [], |row| {
        Ok((
            row.get::<_, Option<String>>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, i64>(3)?,
        ))
    });
    assert_eq!(row.unwrap(), (None, 1, OURS.to_owned(), 1));
}

/// A page that shows the pictures at `paths`.
pub fn gallery(paths: &[&str]) -> Reply {
    let tags = paths.iter().map(|path| format!("<meta property=og:image content={path}>"));
    html("<title>Gallery</title>".to_owned() + &tags.collect::<Vec<_>>().concat())
}

#[test]
fn an_image_that_fails_is_left_out_and_the_next_one_is_tried() {
    let mut cut = png(40, 30, 1);
    cut.truncate(20);
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' width='100' height='100'/>";
    let site = Peer::plain(move |request| match request.path() {
        "/missing" => Reply::new(404),
        "/text" => Reply::new(200).header("Content-Type", "image/png").body("<html>no picture</html>"),
        "/cut" => picture(cut.clone()),
        "/svg" => Reply::new(200).header("Content-Type", "image/svg+xml").body(svg),
        "/spacer" => picture(png(1, 1, 1)),
        "/large" => picture([png(40, 30, 1), vec![0; 100_000]].concat()),
        "/breaks" => Reply::new(200).header("Content-Length", "9999").body(png(40, 30, 1)),
        "/good" => picture(png(40, 30, 1)),
        path => gallery(
            &[path.trim_start_matches("/of"), "/good"][..=usize::from(request.target.contains("?two"))],
        ),
    });
    let sidecar = beside(&site).with(|config| config.previews.max_image.0 = 50_000).start();
    for path in ["/missing", "/text", "/cut", "/svg", "/spacer", "/large", "/breaks"] {
        let alone = keys(&preview(&sidecar, &format!("http://site.test/of{path}")));
        assert_eq!(alone, json!({"og:title": "Gallery"}), "{path}");
        let followed = keys(&preview(&sidecar, &format!("http://site.test/of{path}?two")));
        assert_eq!(followed["og:image:width"], 40, "{path}");
    }
    assert_eq!((sidecar.blobs().len(), sidecar.leftovers()), (1, 0));
}

#[test]
fn an_image_that_is_late_is_left_out_and_tried_again_after_a_minute() {
    let (release, held) = gate();
    let site = Peer::plain(move |request| match request.path() {
        "/i.png" => {
            held.lock().unwrap().recv().ok();
            picture(png(40, 30, 1))
        }
        _ => usual(request),
    });
    let sidecar = beside(&site).with(impatient).start();
    let without = keys(&preview(&sidecar, "http://site.test/page"));
    assert_eq!((&without["og:title"], without.get("og:image")), (&json!("Title"), None));
    drop(release);
    sidecar.advance(Duration::from_secs(61));
    image_of(&keys(&preview(&sidecar, "http://site.test/page")));
}

/// Parts that failed for a passing reason were believed to be missing for the whole hour.
#[test]
fn a_part_that_its_site_failed_to_give_is_tried_again_after_a_minute() {
    let is_well = Arc::new(AtomicUsize::new(0));
    let well = Arc::clone(&is_well);
    let cut = || Reply::new(200).header("Content-Length", "9999").header("Content-Type", "image/png");
    let site = Peer::plain(move |request| match (request.path(), well.load(Ordering::SeqCst)) {
        ("/discovered", _) => html(
            "<link rel=alternate type=application/json+oembed href='/oembed'><meta property=og:title content=Page>",
        ),
        ("/known", _) => html("<meta property=og:title content=Page>"),
        ("/shows-busy", _) => gallery(&["/busy.png"]),
        ("/shows-cut", _) => gallery(&["/cut.png"]),
        ("/oembed" | "/busy.png", 0) => Reply::new(503),
        ("/cut.png", 0) => cut().body(&png(40, 30, 1)[..60]),
        ("/oembed", _) => {
            Reply::json(200, &json!({"type": "photo", "title": "E", "thumbnail_url": "/i.png"}))
        }
        ("/busy.png" | "/cut.png", _) => picture(png(40, 30, 1)),
        _ => usual(request),
    });
    let known = OembedProvider {
        endpoint: "http://site.test/oembed".to_owned(),
        urls: vec!["http://site.test/known*".to_owned()],
    };
    let sidecar = beside(&site).with(|config| config.previews.oembed = vec![known]).start();
    let pages = ["/discovered", "/known", "/shows-busy", "/shows-cut", "/cut.png"];
    let of = |page: &str| keys(&preview(&sidecar, &format!("http://site.test{page}")));
    for page in pages {
        let without = of(page);
        assert!(without["og:title"].is_string() && without.get("og:image").is_none(), "{page}: {without}");
    }
    is_well.store(1, Ordering::SeqCst);
    sidecar.advance(Duration::from_secs(61));
    for page in pages {
        image_of(&of(page));
    }
}

#[test]
fn a_part_that_is_not_there_is_believed_to_be_missing() {
    let site = Peer::plain(|request| match request.path() {
        "/page" => html(
            "<link rel=alternate type=application/json+oembed href='/oembed'><meta property=og:image content=/i.png>",
        ),
        _ => Reply::new(404),
    });
    let sidecar = beside(&site).start();
    let found = keys(&preview(&sidecar, "http://site.test/page"));
    let asked = site.requests().len();
    sidecar.advance(Duration::from_mins(59));
    assert_eq!(keys(&preview(&sidecar, "http://site.test/page")), found);
    assert_eq!(site.requests().len(), asked);
}

/// Little time for a preview, though enough for a site that answers.
fn impatient(config: &mut Config) {
    config.previews.timeout.0 = Duration::from_secs(3);
}

#[test]
fn a_page_that_is_late_is_a_bad_gateway() {
    let (release, held) = gate();
    let silent = Peer::plain(move |_| {
        held.lock().unwrap().recv().ok();
        html("<title>Late</title>")
    });
    let (_go_on, stalled) = channel();
    let stalled = Mutex::new(Some(stalled));
    let stalling = Peer::plain(move |_| {
        let stalled = stalled.lock().unwrap().take().expect("one request");
        html("<").header("Content-Length", "1000").wait(stalled)
    });
    let setup = beside(&silent).with(impatient);
    setup.zone.host("stalling.test", 80, &[stalling.address]);
    let sidecar = setup.start();
    for host in ["site.test", "stalling.test"] {
        let late = preview(&sidecar, &format!("http://{host}/"));
        assert_eq!(late.failure(), bad_gateway(), "{host}");
        assert_eq!(late.json()["error"], "the site did not answer in time", "{host}");
    }
    drop(release);
}

#[test]
fn links_to_files_are_described_and_pictures_are_shown() {
    let length = png(40, 30, 1).len();
    let site = Peer::plain(|request| match request.path() {
        "/photo.png" => picture(png(40, 30, 1)),
        // Bytes decide, not names.
        "/claims-html" => Reply::new(200).header("Content-Type", "text/html").body(png(41, 30, 1)),
        "/claims.png" => picture(b"<!doctype html><title>A page</title>".to_vec()),
        "/drawing.svg" => Reply::new(200)
            .header("Content-Type", "image/svg+xml")
            .body("<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "/broken.png" => picture(png(40, 30, 1)[..20].to_vec()),
        "/paper" => Reply::new(200)
            .header("Content-Type", "application/pdf")
            .header("Content-Disposition", "attachment; filename=paper.pdf")
            .header("Content-Length", "5000000000")
            .body("%PDF-1.7\n"),
        _ => Reply::new(404),
    });
    let sidecar = beside(&site).start();
    let of = |path: &str| keys(&preview(&sidecar, &format!("http://site.test{path}")));
    let photo = of("/photo.png");
    assert_eq!((&photo["og:title"], &photo["og:image:type"]), (&json!("photo.png"), &json!("image/png")));
    assert_eq!((&photo["matrix:image:size"], &photo["og:image:height"]), (&json!(length), &json!(30)));
    assert_eq!(download(&sidecar, &image_of(&photo)).body, png(40, 30, 1));
    assert_eq!(of("/claims-html")["og:image:width"], 41);
    assert_eq!(of("/claims.png").get("og:image"), None);
    let paper = of("/paper");
    assert_eq!((&paper["og:title"], paper.get("og:image")), (&json!("paper.pdf"), None));
    assert!(paper["og:description"].is_string(), "{paper}");
    for path in ["/drawing.svg", "/broken.png"] {
        assert_eq!(of(path).get("og:image"), None, "{path}");
    }
    assert_eq!(sidecar.blobs().len(), 2);
}

#[test]
fn requests_say_what_is_configured_and_nothing_of_the_user() {
    let site = Peer::plain(|request| match request.path() {
        "/" => Reply::new(302).header("Location", "/page").header("Set-Cookie", "id=1"),
        _ => usual(request),
    });
    let manners = |config: &mut Config| {
        config.previews.user_agent = "Tester/1".to_owned();
        config.previews.accept_language = vec!["de".to_owned(), "en".to_owned()];
    };
    let sidecar = beside(&site).with(manners).start();
    keys(&preview(&sidecar, "http://site.test/"));
    let requests = site.requests();
    assert_eq!(site.paths(), ["/", "/page", "/i.png"]);
    for request in &requests {
        assert_eq!(request.header("user-agent"), Some("Tester/1"));
        assert_eq!(request.header("accept-language"), Some("de, en;q=0.9"));
        assert_eq!(request.header("host"), Some("site.test"));
        for secret in ["authorization", "cookie", "referer"] {
            assert_eq!(request.header(secret), None, "{}: {secret}", request.target);
        }
    }
    assert!(requests[1].header("accept").unwrap().starts_with("text/html"));
    assert_eq!(requests[1].header("accept-encoding"), Some("gzip, br"));
    assert!(requests[2].header("accept").unwrap().starts_with("image/"));
}

#[test]
fn twenty_redirects_are_followed_and_no_more() {
    let site = Peer::plain(|request| match request.path().trim_start_matches('/').parse::<u32>() {
        Ok(0) => Reply::new(301).header("Location", "/deep/page"),
        Ok(left) => Reply::new(307).header("Location", &format!("{}", left - 1)),
        Err(_) if request.path() == "/deep/page" => {
            html("<title>There</title><meta property=og:image content=i.png>")
        }
        Err(_) if request.path() == "/deep/i.png" => picture(png(40, 30, 1)),
        Err(_) if request.path() == "/loop" => Reply::new(302).header("Location", "/loop"),
        Err(_) => Reply::new(302),
    });
    let sidecar = beside(&site).start();
    let found = keys(&preview(&sidecar, "http://site.test/19"));
    assert_eq!((&found["og:title"], &found["og:image:width"]), (&json!("There"), &json!(40)));
    for path in ["/20", "/loop", "/nowhere"] {
        assert_eq!(preview(&sidecar, &format!("http://site.test{path}")).failure(), bad_gateway(), "{path}");
    }
    assert_eq!(site.paths().iter().filter(|path| *path == "/loop").count(), 21);
}

/// `bytes` by gzip.
fn gzip(bytes: impl std::io::Read) -> Vec<u8> {
    let mut packed = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()),
        &mut packed,
    )
    .unwrap();
    packed
}

#[test]
fn packed_pages_are_unpacked_and_bombs_are_cut_off() {
    let page = "<title>Packed</title>";
    let bomb = gzip(std::io::Read::chain(
        &b"<title>Bomb</title><p>"[..],
        std::io::Read::take(std::io::repeat(0), 200 << 20),
    ));
    // A gigabyte, in 846 bytes.
    let brotli_bomb = include_bytes!("../fixtures/bomb.html.br");
    let site = Peer::plain(move |request| match request.path() {
        "/gzip" => html(gzip(page.as_bytes())).header("Content-Encoding", "gzip"),
        "/gzip-bomb" => html(&bomb).header("Content-Encoding", "gzip"),
        "/br-bomb" => html(brotli_bomb).header("Content-Encoding", "br"),
        "/zstd" => html("x").header("Content-Encoding", "zstd"),
        "/nothing-gzip" => html("").header("Content-Encoding", "gzip"),
        "/nothing-br" => html("").header("Content-Encoding", "br"),
        _ => html("not packed at all").header("Content-Encoding", "gzip"),
    });
    let sidecar = beside(&site).start();
    let title = |path: &str| keys(&preview(&sidecar, &format!("http://site.test{path}")))["og:title"].clone();
    assert_eq!(title("/gzip"), "Packed");
    assert_eq!(title("/gzip-bomb"), "Bomb");
    assert_eq!(title("/br-bomb"), "Bomb");
    for path in ["/nothing-gzip", "/nothing-br"] {
        assert_eq!(keys(&preview(&sidecar, &format!("http://site.test{path}"))), json!({}), "{path}");
    }
    for path in ["/zstd", "/broken"] {
        assert_eq!(preview(&sidecar, &format!("http://site.test{path}")).failure(), bad_gateway(), "{path}");
    }
}

#[test]
fn what_never_ends_is_read_up_to_its_limit() {
    let site = Peer::plain(|request| match request.path() {
        "/page" => html("<title>Endless</title>").endless("<p>and so on "),
        "/image" => gallery(&["/endless.png"]),
        "/endless.png" => picture(png(40, 30, 1)).endless([0; 4096]),
        "/nothing.gz" => {
            // Members of nothing, one after the other.
            html("").header("Content-Encoding", "gzip").endless(gzip(&b""[..]))
        }
        "/headers" => Reply::raw().body("HTTP/1.1 200 OK\r\n").endless("X-More: and more\r\n"),
        _ => Reply::raw().endless("HTTP/1.1 100 Continue\r\n\r\n"),
    });
    let small = |config: &mut Config| {
        config.previews.max_page.0 = 100_000;
        config.previews.max_image.0 = 200_000;
    };
    let sidecar = beside(&site).with(impatient).with(small).start();
    let of = |path: &str| preview(&sidecar, &format!("http://site.test{path}"));
    assert_eq!(keys(&of("/page"))["og:title"], "Endless");
    assert_eq!(keys(&of("/image")), json!({"og:title": "Gallery"}));
    for path in ["/nothing.gz", "/headers", "/continue"] {
        assert_eq!(of(path).failure(), bad_gateway(), "{path}");
    }
    assert_eq!(sidecar.leftovers(), 0);
}

#[test]
fn oembed_fills_what_the_page_lacks() {
    let site = Peer::plain(|request| match request.path() {
        "/watch" => html(
            "<link rel=alternate type=application/json+oembed href='/oembed?url=watch'><meta property=og:title content=Page>",
        ),
        "/oembed" => Reply::json(
            200,
            &json!({
                "version": "1.0", "type": "video", "title": "Embed", "provider_name": "Site",
                "thumbnail_url": "http://site.test/i.png", "cache_age": 7200,
            }),
        ),
        "/known" => Reply::new(403),
        _ => usual(request),
    });
    let known = OembedProvider {
        endpoint: "http://site.test/oembed".to_owned(),
        urls: vec!["http://site.test/known*".to_owned()],
    };
    let sidecar = beside(&site).with(|config| config.previews.oembed = vec![known]).start();
    let blocked = keys(&preview(&sidecar, "http://site.test/known?v=1"));
    assert_eq!((&blocked["og:title"], &blocked["og:site_name"]), (&json!("Embed"), &json!("Site")));
    image_of(&blocked);
    let asked = site.requests().into_iter().find(|request| request.path() == "/oembed").unwrap();
    assert_eq!(asked.query("url").as_deref(), Some("http://site.test/known?v=1"));
    assert_eq!(asked.header("accept"), Some("application/json"));
}

#[test]
fn a_preview_whose_oembed_was_late_is_kept_for_a_minute() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let wait = Arc::clone(&gate);
    let page = "<link rel=alternate type=application/json+oembed href='/oembed'><meta property=og:title content=Page>";
    let site = Peer::plain(move |request| {
        if request.path() == "/watch" {
            return html(page);
        }
        drop(wait.lock());
        Reply::json(
            200,
            &json!({"version": "1.0", "type": "video", "author_name": "Ann", "title": "Embed", "provider_name": "Site"}),
        )
    });
    let sidecar = beside(&site).with(|config| config.previews.timeout.0 = Duration::from_secs(2)).start();
    let without = json!({"og:title": "Page"});
    assert_eq!(keys(&preview(&sidecar, "http://site.test/watch")), without);
    drop(held);
    assert_eq!(keys(&preview(&sidecar, "http://site.test/watch")), without, "believed for a while");
    sidecar.advance(Duration::from_secs(61));
    assert_eq!(
        keys(&preview(&sidecar, "http://site.test/watch")),
        json!({"og:title": "Page", "og:site_name": "Site", "og:type": "video.other", "article:author": "Ann"})
    );
}

#[test]
fn oembed_is_discovered_in_the_page_and_lengthens_how_long_it_is_kept() {
    let site = Peer::plain(|request| match request.path() {
        "/watch" => html(
            "<link rel=alternate type=application/json+oembed href='/oembed'><meta property=og:title content=Page>",
        ),
        "/oembed" => Reply::json(
            200,
            &json!({"version": "1.0", "type": "photo", "title": "Embed", "thumbnail_url": "/i.png", "cache_age": 7200}),
        ),
        _ => usual(request),
    });
    let sidecar = beside(&site).start();
    let found = keys(&preview(&sidecar, "http://site.test/watch"));
    assert_eq!(found["og:title"], "Page");
    image_of(&found);
    let asked = site.requests().len();
    sidecar.advance(Duration::from_mins(90));
    assert_eq!(keys(&preview(&sidecar, "http://site.test/watch")), found);
    assert_eq!(site.requests().len(), asked);
}

#[test]
fn the_longest_link_is_asked_for_whole_even_when_all_of_it_has_to_be_encoded() {
    let site = Peer::plain(|_| html("<title>Long</title>"));
    let sidecar = beside(&site).start();
    for letter in ["a", "ü", "日"] {
        let room = 4096 - "http://site.test/".len();
        let url = format!("http://site.test/{}", letter.repeat(room / letter.len()));
        assert_eq!(keys(&preview(&sidecar, &url))["og:title"], "Long", "{letter}");
    }
    assert_eq!(site.requests().len(), 3);
    let too_long = format!("http://site.test/{}", "a".repeat(4096));
    assert_eq!(preview(&sidecar, &too_long).failure(), (400, "M_INVALID_PARAM".to_owned()));
}
