//! Requests of other servers: X-Matrix, keys, and what they are given.

use std::time::Duration;

use media_sidecar::matrix::Timestamp;

use crate::harness::{Client, OURS, Peer, RemoteKey, Reply, Response, Setup, Sidecar};

const DAY: i64 = 86_400_000;

/// A remote server that publishes the key of `seed`, valid for `validity` ms.
fn remote(seed: u8, validity: i64) -> Peer {
    let name = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let told = std::sync::Arc::clone(&name);
    let peer = Peer::tls(move |request| {
        assert_eq!(request.path(), "/_matrix/key/v2/server");
        let document = RemoteKey::new(seed).document(told.get().unwrap(), Timestamp::now().0 + validity);
        Reply::json(200, &document)
    });
    name.set(peer.name()).unwrap();
    peer
}

/// `target` asked of the sidecar by `origin`, signed with the key of `seed`.
fn ask(sidecar: &Sidecar, origin: &str, seed: u8, target: &str) -> Response {
    signed(sidecar, &RemoteKey::new(seed).authorization(origin, OURS, target)).get(target)
}

fn signed(sidecar: &Sidecar, authorization: &str) -> Client {
    sidecar.anonymous().with_header("Authorization", authorization)
}

fn refused(response: &Response, word: &str) {
    assert_eq!(response.failure(), (401, "M_UNAUTHORIZED".to_owned()), "{}", response.text());
    assert!(response.text().contains(word), "{word} is not in {}", response.text());
}

#[test]
fn msc1902_answers_are_raw() {
    let (sidecar, remote) = (Sidecar::start(), remote(1, DAY));
    let mxc = sidecar.upload("image/png", b"\x89PNG picture");
    for prefix in ["/_matrix/federation/v1", "/_matrix/federation/unstable/org.matrix.msc1902"] {
        let response = ask(
            &sidecar,
            &remote.name(),
            1,
            &format!("{prefix}/remote_media/download/{mxc}?allow_remote=false"),
        );
        assert_eq!((response.status, response.body.as_slice()), (200, &b"\x89PNG picture"[..]));
        assert_eq!(response.header("content-type"), Some("image/png"));
        assert_eq!(response.header("content-disposition"), Some("inline"));
    }
}

#[test]
fn msc3916_answers_are_multipart_to_the_byte() {
    let (sidecar, remote) = (Sidecar::start(), remote(1, DAY));
    let target = "/_matrix/media/v3/upload?filename=a%20b.png";
    let uploaded = sidecar.alice().with_header("Content-Type", "image/png").post(target, b"DATA").json();
    let media_id = uploaded["content_uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    for prefix in ["/_matrix/federation/v1", "/_matrix/federation/unstable/org.matrix.msc3916.v2"] {
        let response =
            ask(&sidecar, &remote.name(), 1, &format!("{prefix}/media/download/{media_id}?timeout_ms=20000"));
        assert_eq!(response.status, 200, "{}", response.text());
        // Synapse takes all that follows `boundary=`.
        let boundary =
            response.header("content-type").unwrap().strip_prefix("multipart/mixed; boundary=").unwrap();
        assert!(boundary.bytes().all(|b| b.is_ascii_alphanumeric()), "{boundary}");
        let expected = format!(
            "\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\nContent-Type: image/png\r\n\
             Content-Disposition: inline; filename*=utf-8''a%20b.png\r\n\r\nDATA\r\n--{boundary}--\r\n"
        );
        assert_eq!(response.text(), expected);
        assert_eq!(response.header("content-length"), Some(expected.len().to_string().as_str()));
        // Dendrite reads the name from the answer itself.
        assert_eq!(response.header("content-disposition"), Some("inline; filename*=utf-8''a%20b.png"));
    }
}

#[test]
fn an_unsigned_or_garbled_request_is_401_with_the_reason() {
    let sidecar = Sidecar::start();
    let target = "/_matrix/federation/v1/media/download/x";
    refused(&sidecar.anonymous().get(target), "needs an X-Matrix signature");
    for (header, word) in [
        ("Bearer alice", "needs an X-Matrix signature"),
        ("X-Matrix nonsense", "malformed"),
        ("X-Matrix origin=a.org,key=\"ed25519:1\"", "sig"),
        ("X-Matrix origin=\"..//\",key=\"ed25519:1\",sig=\"x\"", "origin"),
    ] {
        refused(&signed(&sidecar, header).get(target), word);
    }
}

#[test]
fn a_wrong_signature_is_401() {
    let (sidecar, remote) = (Sidecar::start(), remote(1, DAY));
    let target = "/_matrix/federation/v1/media/download/x";
    let key = RemoteKey::new(1);
    // Over another URI, by another key under the same ID, over another method's object, garbage.
    refused(&signed(&sidecar, &key.authorization(&remote.name(), OURS, "/other")).get(target), "is wrong");
    let foreign = RemoteKey { key_id: key.key_id, ..RemoteKey::new(2) };
    refused(&signed(&sidecar, &foreign.authorization(&remote.name(), OURS, target)).get(target), "is wrong");
    let head = signed(&sidecar, &RemoteKey::new(1).authorization(&remote.name(), OURS, target)).head(target);
    assert_eq!(head.status, 401);
}

#[test]
fn a_request_meant_for_another_server_is_401() {
    let (sidecar, remote) = (Sidecar::start(), remote(1, DAY));
    let target = "/_matrix/federation/v1/media/download/x";
    let elsewhere = RemoteKey::new(1).authorization(&remote.name(), "other.test", target);
    refused(&signed(&sidecar, &elsewhere).get(target), "addressed to other.test");
    // Before spec 1.3 there was no destination in the header; the signature still covers ours.
    let old = RemoteKey::new(1)
        .authorization(&remote.name(), OURS, target)
        .replace(&format!("destination=\"{OURS}\","), "");
    assert_eq!(signed(&sidecar, &old).get(target).status, 404, "accepted; there is no such media");
}

#[test]
fn an_unknown_or_expired_key_is_401() {
    let (sidecar, remote) = (Sidecar::start(), remote(1, 1000));
    let target = "/_matrix/federation/v1/media/download/x";
    refused(&ask(&sidecar, &remote.name(), 3, target), "has no signing key ed25519:r3");
    assert_eq!(ask(&sidecar, &remote.name(), 1, target).status, 404);
    // The document the remote gives later is as short-lived by the sidecar's clock.
    sidecar.advance(Duration::from_hours(1));
    refused(&ask(&sidecar, &remote.name(), 1, target), "cannot be fetched");
}

#[test]
fn a_server_that_gives_no_keys_is_401() {
    let sidecar = Sidecar::start();
    let silent = Peer::tls(|_| Reply::new(404).body("nothing here"));
    let target = "/_matrix/federation/v1/media/download/x";
    refused(&ask(&sidecar, &silent.name(), 1, target), "cannot be fetched");
    let liar =
        Peer::tls(|_| Reply::json(200, &RemoteKey::new(1).document("other.test", Timestamp::now().0 + DAY)));
    refused(&ask(&sidecar, &liar.name(), 1, target), "cannot be fetched");
}

#[test]
fn signatures_of_two_servers_are_not_mixed() {
    let (sidecar, one, two) = (Sidecar::start(), remote(1, DAY), remote(2, DAY));
    let target = "/_matrix/federation/v1/media/download/x";
    let response = signed(&sidecar, &RemoteKey::new(1).authorization(&one.name(), OURS, target))
        .with_header("Authorization", &RemoteKey::new(2).authorization(&two.name(), OURS, target))
        .get(target);
    refused(&response, "different servers");
}

#[test]
fn keys_are_fetched_once_and_survive_a_restart() {
    let (sidecar, remote) = (Sidecar::start(), remote(1, DAY));
    let target = "/_matrix/federation/v1/media/download/x";
    for _ in 0..3 {
        assert_eq!(ask(&sidecar, &remote.name(), 1, target).status, 404);
    }
    let sidecar = Setup::in_folder(sidecar.stop()).start();
    assert_eq!(ask(&sidecar, &remote.name(), 1, target).status, 404);
    assert_eq!(remote.requests().len(), 1);
}

#[test]
fn a_server_that_configuration_excludes_is_403_without_being_asked() {
    let remote = remote(1, DAY);
    let sidecar = Setup::new().with(|config| config.federation.deny = vec!["127.0.0.*".to_owned()]).start();
    let response = ask(&sidecar, &remote.name(), 1, "/_matrix/federation/v1/media/download/x");
    assert_eq!(response.failure(), (403, "M_FORBIDDEN".to_owned()));
    assert!(remote.requests().is_empty());
}

#[test]
fn other_servers_media_is_not_handed_on() {
    let (sidecar, remote) = (Sidecar::start(), remote(1, DAY));
    let target = "/_matrix/federation/v1/remote_media/download/third.test/x";
    assert_eq!(ask(&sidecar, &remote.name(), 1, target).failure(), (404, "M_NOT_FOUND".to_owned()));
}

#[test]
fn closed_media_is_open_to_servers_that_say_who_they_are() {
    let remote = remote(1, DAY);
    let sidecar = Setup::new()
        .with(|config| config.unauthenticated_media = media_sidecar::config::UnauthenticatedMedia::Closed)
        .start();
    let mxc = sidecar.upload("text/plain", b"x");
    let media_id = mxc.rsplit('/').next().unwrap();
    let response =
        ask(&sidecar, &remote.name(), 1, &format!("/_matrix/federation/v1/media/download/{media_id}"));
    assert_eq!(response.status, 200);
}
