//! A clock that was wrong and is set right: what was to last a while lasts no longer for it. A machine without a clock of its own
//! starts with any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use media_sidecar::matrix::Timestamp;

use crate::harness::{Homeserver, OURS, Peer, RemoteKey, Reply, Setup, Sidecar, eventually};
use crate::previews;

/// How far a clock is wrong.
const MONTH: Duration = Duration::from_hours(30 * 24);
const CONFIG: &str = "/_matrix/client/v1/media/config";
const CREATE: &str = "/_matrix/media/v1/create";
const SIGNED: &str = "/_matrix/federation/v1/media/download/x";

/// Does something while the clock is ahead, and sets it right again.
fn while_ahead<T>(sidecar: &Sidecar, act: impl FnOnce() -> T) -> T {
    sidecar.set_ahead(MONTH);
    let done = act();
    sidecar.set_back(MONTH);
    done
}

fn download(server_name: &str, media_id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{server_name}/{media_id}")
}

fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap()
}

#[test]
fn a_token_that_was_logged_out_is_refused_once_its_time_in_the_cache_is_over() {
    let logged_out = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&logged_out);
    let homeserver =
        Homeserver::with(move |_| state.load(Ordering::SeqCst).then(|| Reply::error(401, "M_UNKNOWN_TOKEN")));
    let sidecar = Setup::new().beside(homeserver).start();
    assert_eq!(while_ahead(&sidecar, || sidecar.alice().get(CONFIG).status), 200);
    logged_out.store(true, Ordering::SeqCst);
    sidecar.advance(Duration::from_secs(121));
    assert_eq!(sidecar.alice().get(CONFIG).failure(), (401, "M_UNKNOWN_TOKEN".to_owned()));
    // The other way round: what is known does not get lost.
    let asked = sidecar.homeserver.whoami_count();
    assert_eq!(while_ahead(&sidecar, || sidecar.alice().get(CONFIG).status), 401);
    assert_eq!(sidecar.homeserver.whoami_count(), asked);
}

#[test]
fn a_server_that_failed_is_left_alone_for_no_longer_than_before() {
    let status = Arc::new(AtomicU16::new(503));
    let now = Arc::clone(&status);
    let remote = Peer::tls(move |_| match now.load(Ordering::SeqCst) {
        200 => Reply::new(200).header("Content-Type", "image/png").body("png"),
        status => Reply::new(status),
    });
    let sidecar = Sidecar::start();
    let fetch = |media_id: &str| sidecar.alice().get(&download(&remote.name(), media_id));
    // An error is about the file until several files say so.
    for media_id in ["x", "y", "a"] {
        assert_eq!(while_ahead(&sidecar, || fetch(media_id).status), 502);
    }
    assert!(fetch("b").text().contains("tried again in 30 s"), "{}", fetch("b").text());
    status.store(200, Ordering::SeqCst);
    sidecar.advance(Duration::from_secs(31));
    assert_eq!(fetch("c").status, 200);
}

#[test]
fn media_that_was_absent_is_asked_for_again_after_its_time() {
    let there = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&there);
    let remote = Peer::tls(move |_| match state.load(Ordering::SeqCst) {
        true => Reply::new(200).header("Content-Type", "image/png").body("png"),
        false => Reply::error(404, "M_NOT_FOUND"),
    });
    let sidecar = Sidecar::start();
    let path = download(&remote.name(), "x");
    assert_eq!(while_ahead(&sidecar, || sidecar.alice().get(&path).status), 404);
    there.store(true, Ordering::SeqCst);
    assert_eq!(sidecar.alice().get(&path).status, 404);
    sidecar.advance(Duration::from_mins(11));
    assert_eq!(sidecar.alice().get(&path).status, 200);
}

#[test]
fn a_server_whose_keys_could_not_be_had_is_asked_for_them_again() {
    let remote = Peer::tls(|_| Reply::new(503));
    let sidecar = Sidecar::start();
    let header = RemoteKey::new(1).authorization(&remote.name(), OURS, SIGNED);
    let ask = || sidecar.anonymous().with_header("Authorization", &header).get(SIGNED).status;
    assert_eq!(while_ahead(&sidecar, ask), 401);
    assert_eq!((ask(), remote.requests().len()), (401, 1));
    sidecar.advance(Duration::from_secs(31));
    assert_eq!((ask(), remote.requests().len()), (401, 2));
}

/// A key that was fetched while the clock was ahead is valid for longer than a week by the right time.
#[test]
fn keys_fetched_while_the_clock_was_ahead_are_fetched_anew() {
    let name = Arc::new(std::sync::OnceLock::<String>::new());
    let told = Arc::clone(&name);
    let seed = Arc::new(AtomicU16::new(1));
    let current = Arc::clone(&seed);
    let remote = Peer::tls(move |_| {
        let key = RemoteKey::new(current.load(Ordering::SeqCst).try_into().unwrap());
        Reply::json(200, &key.document(told.get().unwrap(), Timestamp::now().0 + milliseconds(2 * MONTH)))
    });
    name.set(remote.name()).unwrap();
    let sidecar = Sidecar::start();
    let ask = |seed| {
        let header = RemoteKey::new(seed).authorization(&remote.name(), OURS, SIGNED);
        sidecar.anonymous().with_header("Authorization", &header).get(SIGNED).status
    };
    assert_eq!(while_ahead(&sidecar, || ask(1)), 404, "accepted");
    // It changes its key. The old one proves nothing any more.
    seed.store(2, Ordering::SeqCst);
    assert_eq!((ask(1), remote.requests().len()), (401, 2));
    assert_eq!((ask(2), remote.requests().len()), (404, 2));
}

#[test]
fn what_worked_while_the_clock_was_ahead_is_not_tried_first_for_a_month() {
    let remote = Peer::tls(|request| match request.path().starts_with("/_matrix/media/") {
        true => Reply::new(200).header("Content-Type", "image/png").body("png"),
        false => Reply::error(404, "M_UNRECOGNIZED"),
    });
    let sidecar = Sidecar::start();
    let fetch = |media_id: &str| {
        assert_eq!(sidecar.alice().get(&download(&remote.name(), media_id)).status, 200);
    };
    while_ahead(&sidecar, || fetch("a"));
    let before = remote.requests().len();
    fetch("b");
    let paths = remote.paths().split_off(before);
    assert!(paths[0].starts_with("/_matrix/federation/"), "{paths:?}");
    let before = remote.requests().len();
    fetch("c");
    assert_eq!(remote.requests().len(), before + 1, "now it is remembered");
}

#[test]
fn an_id_created_while_the_clock_was_ahead_does_not_stay_pending_for_a_month() {
    let sidecar = Setup::new().with(|config| config.uploads.pending_per_user = 1).start();
    let create = || sidecar.alice().post(CREATE, b"{}");
    let created = while_ahead(&sidecar, create).json();
    let mxc = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap();
    let path = format!("/_matrix/client/v1/media/download/{mxc}");
    assert_eq!(sidecar.alice().get(&path).failure(), (404, "M_NOT_FOUND".to_owned()));
    let filled = sidecar.alice().put(&format!("/_matrix/media/v3/upload/{mxc}"), b"x");
    assert_eq!(filled.status, 404, "{}", filled.text());
    assert_eq!(create().status, 200, "it takes no place");
    let limited = create();
    assert_eq!(limited.status, 429);
    let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!(wait <= 86_400, "{wait}");
}

#[test]
fn a_preview_is_renewed_in_memory_and_across_a_restart() {
    let site = Peer::plain(|_| previews::html("<title>T</title>"));
    let sidecar = previews::beside(&site).start();
    let preview = |sidecar: &Sidecar| assert_eq!(previews::preview(sidecar, "http://site.test/").status, 200);
    while_ahead(&sidecar, || preview(&sidecar));
    preview(&sidecar);
    assert_eq!(site.requests().len(), 1);
    sidecar.advance(Duration::from_mins(61));
    while_ahead(&sidecar, || preview(&sidecar));
    assert_eq!(site.requests().len(), 2);
    let setup = Setup::in_folder(sidecar.stop());
    setup.zone.host("site.test", 80, &[site.address]);
    let sidecar =
        setup.with(|config| config.previews.ip_allow = vec!["127.0.0.0/8".parse().unwrap()]).start();
    preview(&sidecar);
    assert_eq!(site.requests().len(), 3);
}

#[test]
fn a_failed_preview_is_tried_again_after_its_time() {
    let site = Peer::plain(|_| Reply::new(500));
    let sidecar = previews::beside(&site).start();
    let preview = || previews::preview(&sidecar, "http://site.test/").status;
    assert_eq!(while_ahead(&sidecar, preview), 502);
    sidecar.advance(Duration::from_secs(61));
    assert_eq!((preview(), site.requests().len()), (502, 2));
}

/// Idleness was counted from the last request: set back, the clock showed a time before it for as long as it had been ahead.
#[test]
fn a_machine_whose_clock_was_set_back_is_idle_when_nothing_happens() {
    let sidecar = Setup::new().with(|config| config.thumbnails.pregenerate = true).start();
    while_ahead(&sidecar, || sidecar.upload("image/png", &previews::png(900, 700, 1)));
    assert_eq!(sidecar.blobs().len(), 1);
    sidecar.advance(Duration::from_secs(5));
    eventually("thumbnails are made ahead", || sidecar.blobs().len() > 1);
}

#[test]
fn a_delegation_is_asked_for_again_after_its_time() {
    let media =
        Peer::tls_named(&["moved.test"], |_| Reply::new(200).header("Content-Type", "image/png").body("png"));
    for (status, lifetime) in [(200, Duration::from_mins(50)), (503, Duration::from_mins(3))] {
        let well_known = Peer::tls_named(&["moved.test"], move |_| {
            let reply = Reply::json(status, &serde_json::json!({"m.server": "moved.test:8449"}));
            reply.header("Cache-Control", "max-age=2400")
        });
        let sidecar = Sidecar::start();
        sidecar.zone.host("moved.test", 443, &[well_known.address]);
        for port in [8448, 8449] {
            sidecar.zone.host("moved.test", port, &[media.address]);
        }
        let fetch = |media_id: &str| {
            assert_eq!(sidecar.alice().get(&download("moved.test", media_id)).status, 200);
            well_known.requests().len()
        };
        assert_eq!(while_ahead(&sidecar, || fetch("a")), 1);
        assert_eq!(fetch("b"), 1);
        sidecar.advance(lifetime);
        assert_eq!(fetch("c"), 2, "{status}");
    }
}
