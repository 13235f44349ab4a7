//! `create` and `upload` into what was created (MSC2246).

use std::io::Write as _;
use std::time::Duration;

use crate::harness::client::read_response;
use crate::harness::{Setup, Sidecar, eventually};

fn create(sidecar: &Sidecar, token: &str) -> String {
    let created = sidecar.user(token).post("/_matrix/media/v1/create", b"{}");
    assert_eq!(created.status, 200, "{}", created.text());
    created.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

fn upload_into(mxc: &str) -> String {
    format!("/_matrix/media/v3/upload/{mxc}")
}

fn download(mxc: &str) -> String {
    format!("/_matrix/client/v1/media/download/{mxc}")
}

#[test]
fn a_created_id_is_filled_once() {
    let sidecar = Sidecar::start();
    let mxc = create(&sidecar, "alice");
    let target = format!("{}?filename=a.txt", upload_into(&mxc));
    let filled = sidecar.alice().with_header("Content-Type", "text/plain").put(&target, b"hello");
    assert_eq!((filled.status, filled.text().as_str()), (200, "{}"));
    let response = sidecar.alice().get(&download(&mxc));
    assert_eq!(response.text(), "hello");
    assert_eq!(response.header("content-disposition"), Some("inline; filename=a.txt"));
    // A bare PUT: 409 comes before any look at the body.
    for body in [&b""[..], b"again"] {
        assert_eq!(
            sidecar.alice().put(&target, body).failure(),
            (409, "M_CANNOT_OVERWRITE_MEDIA".to_owned())
        );
    }
    assert_eq!(sidecar.alice().get(&download(&mxc)).text(), "hello");
}

#[test]
fn creating_needs_no_body_and_tells_when_the_id_ends() {
    let sidecar = Sidecar::start();
    for target in ["/_matrix/media/v1/create", "/_matrix/media/unstable/fi.mau.msc2246/create"] {
        let created = sidecar.alice().send("POST", target, b"").json();
        let expires = created["unused_expires_at"].as_i64().unwrap();
        let now = media_sidecar::matrix::Timestamp::now().0;
        assert!((expires - now - 86_400_000).abs() < 600_000, "{created}");
    }
}

#[test]
fn the_unstable_names_work_too() {
    let sidecar = Sidecar::start();
    let mxc = create(&sidecar, "alice");
    assert_eq!(
        sidecar.alice().put(&format!("/_matrix/media/unstable/fi.mau.msc2246/upload/{mxc}"), b"x").status,
        200
    );
}

#[test]
fn only_its_creator_fills_an_id_and_only_here() {
    let sidecar = Sidecar::start();
    let mxc = create(&sidecar, "alice");
    assert_eq!(sidecar.user("bob").put(&upload_into(&mxc), b"x").failure(), (403, "M_FORBIDDEN".to_owned()));
    for mxc in ["sidecar.test/unknown", "other.test/x", "sidecar.test/.."] {
        assert_eq!(
            sidecar.alice().put(&upload_into(mxc), b"x").failure(),
            (404, "M_NOT_FOUND".to_owned()),
            "{mxc}"
        );
    }
}

#[test]
fn an_expired_id_is_gone_and_says_so() {
    let sidecar =
        Setup::new().with(|config| config.uploads.pending_lifetime.0 = Duration::from_mins(1)).start();
    let mxc = create(&sidecar, "alice");
    sidecar.advance(Duration::from_secs(61));
    let refused = sidecar.alice().put(&upload_into(&mxc), b"x");
    assert_eq!(refused.failure(), (404, "M_NOT_FOUND".to_owned()));
    assert!(refused.text().contains("expired"), "{}", refused.text());
    assert_eq!(sidecar.alice().get(&download(&mxc)).status, 404, "at once, without waiting");
}

#[test]
fn too_many_pending_ids_are_429_until_one_is_used_or_ends() {
    let sidecar = Setup::new().with(|config| config.uploads.pending_per_user = 2).start();
    let (one, _two) = (create(&sidecar, "alice"), create(&sidecar, "alice"));
    let refused = sidecar.alice().post("/_matrix/media/v1/create", b"{}");
    assert_eq!(refused.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("86400"));
    assert!(refused.json()["retry_after_ms"].as_u64().unwrap() > 86_000_000);
    create(&sidecar, "bob");
    assert_eq!(sidecar.alice().put(&upload_into(&one), b"x").status, 200);
    create(&sidecar, "alice");
}

#[test]
fn a_flood_of_creates_is_429() {
    let sidecar = Setup::new().with(|config| config.uploads.pending_per_user = 100_000).start();
    let create = || sidecar.alice().post("/_matrix/media/v1/create", b"{}");
    for number in 0..50 {
        assert_eq!(create().status, 200, "{number}");
    }
    // However slow the machine, it asks more than ten times a second for long enough.
    let refused = (0..5000).map(|_| create()).find(|response| response.status != 200).expect("a limit");
    assert_eq!(refused.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn a_pending_download_is_504_on_every_route_frozen_or_not() {
    let sidecar = Setup::new()
        .with(|config| config.unauthenticated_media = media_sidecar::config::UnauthenticatedMedia::Frozen)
        .start();
    let mxc = create(&sidecar, "alice");
    for target in [
        format!("{}?timeout_ms=0", download(&mxc)),
        format!("/_matrix/media/v3/download/{mxc}?timeout_ms=10"),
        format!("/_matrix/media/v3/download/{mxc}?fi.mau.msc2246.timeout_ms=10"),
    ] {
        assert_eq!(
            sidecar.alice().get(&target).failure(),
            (504, "M_NOT_YET_UPLOADED".to_owned()),
            "{target}"
        );
    }
    let anonymous = sidecar.anonymous().get(&format!("/_matrix/media/v3/download/{mxc}?timeout_ms=0"));
    assert_eq!(anonymous.failure(), (504, "M_NOT_YET_UPLOADED".to_owned()));
}

#[test]
fn downloads_that_wait_are_answered_when_the_upload_ends() {
    let sidecar = Sidecar::start();
    let mxc = create(&sidecar, "alice");
    let bob = sidecar.user("bob");
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let mut connection = bob.connect();
            connection
                .write_all(&bob.request("GET", &format!("{}?timeout_ms=60000", download(&mxc)), b""))
                .unwrap();
            connection
        })
        .collect();
    // Bob has been authorised, so his downloads have begun.
    eventually("bob is asked about", || sidecar.homeserver.whoami_count() >= 2);
    assert_eq!(sidecar.alice().put(&upload_into(&mxc), b"at last").status, 200);
    for mut connection in waiting {
        assert_eq!(read_response(&mut connection, "GET").text(), "at last");
    }
}

/// Sends an upload but for its last two bytes: enough for a file to be opened.
fn begin(connection: &mut std::net::TcpStream, head: &str) {
    write!(connection, "{head}Content-Length: 300002\r\n\r\n").unwrap();
    connection.write_all(&[&vec![0; 299_998][..], b"sl"].concat()).unwrap();
}

#[test]
fn two_uploads_into_one_id_at_once_are_one_and_a_409() {
    let sidecar = Sidecar::start();
    let mxc = create(&sidecar, "alice");
    let alice = sidecar.alice();
    let mut slow = alice.connect();
    begin(&mut slow, &alice.head_of("PUT", &upload_into(&mxc)));
    eventually("the first upload has begun", || sidecar.leftovers() == 1);
    let second = sidecar.alice().put(&upload_into(&mxc), b"fast");
    assert_eq!(second.failure(), (409, "M_CANNOT_OVERWRITE_MEDIA".to_owned()));
    slow.write_all(b"ow").unwrap();
    assert_eq!(read_response(&mut slow, "PUT").status, 200);
    assert!(sidecar.alice().get(&download(&mxc)).body.ends_with(b"slow"));
}

#[test]
fn an_interrupted_upload_into_an_id_can_be_tried_again() {
    let sidecar = Sidecar::start();
    let mxc = create(&sidecar, "alice");
    let alice = sidecar.alice();
    let mut cut = alice.connect();
    begin(&mut cut, &alice.head_of("PUT", &upload_into(&mxc)));
    eventually("the first upload has begun", || sidecar.leftovers() == 1);
    drop(cut);
    eventually("it is over", || sidecar.leftovers() == 0);
    eventually("the next is taken", || sidecar.alice().put(&upload_into(&mxc), b"fine").status == 200);
}
