//! Routing, CORS, and the endpoints that have nothing to do with files.

use std::io::{Read as _, Write as _};

use crate::harness::peer::{Reply, Request};
use crate::harness::{Homeserver, Setup, Sidecar};

const UPLOAD_LIMIT: u64 = 1 << 20;

fn sidecar() -> Sidecar {
    Setup::new().with(|config| config.uploads.max_size.0 = UPLOAD_LIMIT).start()
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405() {
    let sidecar = Sidecar::start();
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/_matrix/media/unknown", 404),
        ("GET", "/_matrix/media/v3/unknown", 404),
        ("GET", "/_matrix/media/v9/download/a/b", 404),
        ("GET", "/_matrix/client/v1/media/upload", 404),
        ("PATCH", "/_matrix/media/v3/upload", 405),
        ("GET", "/_matrix/media/v3/upload", 405),
        ("HEAD", "/_matrix/media/v3/upload", 405),
        ("POST", "/_matrix/federation/v1/media/download/x", 405),
    ] {
        let response = sidecar.anonymous().send(method, target, b"");
        assert_eq!(response.status, status, "{method} {target}");
        if method != "HEAD" {
            assert_eq!(response.errcode(), "M_UNRECOGNIZED", "{method} {target}");
        }
        assert_eq!(response.header("allow").is_some(), status == 405, "{method} {target}");
    }
}

#[test]
fn a_request_whose_length_is_contradictory_is_not_followed_by_a_hidden_one() {
    let sidecar = Sidecar::start();
    let hidden = "GET /_sidecar/health HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = format!("Content-Length: {}\r\n", hidden.len());
    let framings = [
        format!("Content-Length: 0\r\n{length}"),
        format!("{length}Content-Length: 0\r\n"),
        format!("Content-Length: 0, {}\r\n", hidden.len()),
        "Content-Length: +0\r\n".to_owned(),
        "Content-Length: 0x0\r\n".to_owned(),
        format!("{length}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
    ];
    for framing in framings {
        let mut stream = sidecar.anonymous().connect();
        write!(stream, "POST /_matrix/media/v1/create HTTP/1.1\r\nHost: x\r\n{framing}\r\n{hidden}").unwrap();
        let mut answers = String::new();
        // Whatever is answered, the connection is closed after it.
        _ = stream.read_to_string(&mut answers);
        assert!(answers.starts_with("HTTP/1.1 400"), "{framing}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{framing}: {answers}");
    }
}

#[test]
fn options_needs_no_token_and_every_answer_carries_cors() {
    let sidecar = Sidecar::start();
    for target in [
        "/_matrix/media/v3/upload",
        "/_matrix/client/v1/media/download/a/b",
        "/_matrix/federation/v1/media/download/x",
    ] {
        let response = sidecar.anonymous().send("OPTIONS", target, b"");
        assert_eq!((response.status, response.body.len()), (204, 0), "{target}");
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            assert!(response.header("access-control-allow-methods").unwrap().contains(method));
        }
        for header in ["X-Requested-With", "Content-Type", "Authorization"] {
            assert!(response.header("access-control-allow-headers").unwrap().contains(header));
        }
    }
    for target in ["/nowhere", "/_matrix/client/v1/media/config", "/_matrix/federation/v1/media/download/x"] {
        assert_eq!(
            sidecar.anonymous().get(target).header("access-control-allow-origin"),
            Some("*"),
            "{target}"
        );
    }
}

#[test]
fn authentication_is_decided_before_anything_else() {
    let sidecar = Sidecar::start();
    for (method, target, errcode) in [
        ("GET", "/_matrix/client/v1/media/download/hs1/mxc:%2F%2Fhs1%2F..", "M_MISSING_TOKEN"),
        ("GET", "/_matrix/client/v1/media/download/%00/%2e%2e", "M_MISSING_TOKEN"),
        ("GET", "/_matrix/client/v1/media/config", "M_MISSING_TOKEN"),
        ("POST", "/_matrix/media/v3/upload?filename=%ff", "M_MISSING_TOKEN"),
        ("POST", "/_matrix/media/v1/create", "M_MISSING_TOKEN"),
        ("PUT", "/_matrix/media/v3/upload/elsewhere/..", "M_MISSING_TOKEN"),
        ("GET", "/_matrix/federation/v1/media/download/..", "M_UNAUTHORIZED"),
        ("GET", "/_matrix/federation/v1/remote_media/download/%00/x", "M_UNAUTHORIZED"),
    ] {
        let response = sidecar.anonymous().send(method, target, b"");
        assert_eq!(response.failure(), (401, errcode.to_owned()), "{method} {target}");
    }
}

#[test]
fn config_tells_the_upload_limit_under_every_name() {
    let sidecar = sidecar();
    for target in [
        "/_matrix/media/r0/config",
        "/_matrix/media/v1/config",
        "/_matrix/media/v3/config",
        "/_matrix/client/r0/media/config",
        "/_matrix/client/unstable/org.matrix.msc1902/media/config",
        "/_matrix/client/v1/media/config",
        "/_matrix/client/unstable/org.matrix.msc3916/media/config",
    ] {
        let response = sidecar.alice().get(target);
        assert_eq!(response.status, 200, "{target}");
        assert_eq!(response.json()["m.upload.size"], UPLOAD_LIMIT, "{target}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(sidecar.anonymous().get(target).status, 401, "{target}");
        assert_eq!(
            sidecar.user("guest").get(target).failure(),
            (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned()),
            "{target}"
        );
    }
}

#[test]
fn versions_are_the_homeservers_with_two_flags_added() {
    let sidecar = Sidecar::start();
    let versions = sidecar.anonymous().get("/_matrix/client/versions").json();
    assert_eq!(
        versions,
        serde_json::json!({
            "versions": ["v1.11"],
            "unstable_features": {"x.y": false, "org.matrix.msc1902": true, "org.matrix.msc3916.stable": true},
            "other": 1,
        })
    );
    sidecar.homeserver.set_down(true);
    assert_eq!(sidecar.anonymous().get("/_matrix/client/versions").failure(), (502, "M_UNKNOWN".to_owned()));
}

#[test]
fn what_the_homeserver_has_against_a_caller_of_versions_is_passed_on() {
    let script = |request: &Request| match request.header("authorization") {
        _ if request.path() != "/_matrix/client/versions" => None,
        Some("Bearer old") => Some(Reply::json(
            401,
            &serde_json::json!({"errcode": "M_UNKNOWN_TOKEN", "error": "gone", "soft_logout": true}),
        )),
        Some("Bearer busy") => Some(Reply::error(429, "M_LIMIT_EXCEEDED").header("Retry-After", "7")),
        _ => None,
    };
    let sidecar = Setup::new().beside(Homeserver::with(script)).start();
    let gone = sidecar.user("old").get("/_matrix/client/versions");
    assert_eq!(gone.failure(), (401, "M_UNKNOWN_TOKEN".to_owned()));
    assert_eq!(gone.json()["soft_logout"], true);
    let busy = sidecar.user("busy").get("/_matrix/client/versions");
    assert_eq!(busy.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(busy.header("retry-after"), Some("7"));
}

#[test]
fn who_sends_much_to_where_nothing_is_reads_the_answer() {
    let sidecar = Sidecar::start();
    let much = vec![7; 20 << 20];
    for (method, target, status) in
        [("POST", "/_matrix/client/v1/media/upload", 404), ("PUT", "/_matrix/media/v3/upload", 405)]
    {
        assert_eq!(sidecar.alice().send(method, target, &much).status, status, "{method} {target}");
    }
}

#[test]
fn health_says_what_fails() {
    let sidecar = Sidecar::start();
    let healthy = sidecar.anonymous().get("/_sidecar/health");
    assert_eq!(healthy.status, 200);
    assert_eq!(
        healthy.json(),
        serde_json::json!({"status": "ok", "database": "ok", "blobs": "ok", "homeserver": "ok"})
    );
    sidecar.homeserver.set_down(true);
    std::fs::remove_dir(sidecar.data_dir().join("tmp")).unwrap();
    let failing = sidecar.anonymous().get("/_sidecar/health");
    assert_eq!(failing.status, 503);
    let body = failing.json();
    assert_eq!((&body["status"], &body["database"]), (&"failing".into(), &"ok".into()));
    assert!(body["homeserver"].as_str().unwrap().contains("502"), "{body}");
    assert!(body["blobs"].as_str().unwrap().contains("No such file"), "{body}");
    std::fs::create_dir(sidecar.data_dir().join("tmp")).unwrap();
}
