//! Access tokens.

use std::time::Duration;

use media_sidecar::config::Guests;
use serde_json::json;

use crate::harness::{Homeserver, Reply, Setup, Sidecar, eventually};

const CONFIG: &str = "/_matrix/client/v1/media/config";

#[test]
fn bad_tokens_are_refused_everywhere_even_on_open_routes() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("text/plain", b"x");
    for target in [
        CONFIG.to_owned(),
        format!("/_matrix/client/v1/media/download/{mxc}"),
        format!("/_matrix/client/r0/media/download/{mxc}"),
        format!("/_matrix/media/v3/download/{mxc}"),
    ] {
        assert_eq!(
            sidecar.user("nobody").get(&target).failure(),
            (401, "M_UNKNOWN_TOKEN".to_owned()),
            "{target}"
        );
    }
}

#[test]
fn a_token_in_the_query_is_as_good_and_the_header_wins() {
    let sidecar = Sidecar::start();
    assert_eq!(sidecar.anonymous().get(&format!("{CONFIG}?access_token=alice")).status, 200);
    assert_eq!(sidecar.anonymous().get(&format!("{CONFIG}?x=y&access_token=nobody")).status, 401);
    assert_eq!(sidecar.alice().get(&format!("{CONFIG}?access_token=nobody")).status, 200);
}

#[test]
fn the_homeservers_refusal_is_passed_through_whole() {
    let sidecar = Sidecar::start();
    let response = sidecar.user("expired").get(CONFIG);
    assert_eq!(response.status, 401);
    assert_eq!(
        response.json(),
        json!({"errcode": "M_UNKNOWN_TOKEN", "error": "Access token has expired", "soft_logout": true})
    );
}

#[test]
fn a_limit_of_the_homeservers_is_passed_on_with_its_time() {
    for (header, body, expected) in [
        (None, json!({"retry_after_ms": 3000}), 3000),
        (None, json!({"errcode": "M_LIMIT_EXCEEDED", "error": "slow down", "retry_after_ms": 2500}), 2500),
        (Some("7"), json!({"retry_after_ms": 3000}), 7000),
        (Some("Wed, 21 Oct 2026 07:28:00 GMT"), json!({"retry_after_ms": 3000}), 3000),
        (None, json!({"retry_after_ms": u64::MAX}), 3_600_000),
        (Some("99999999999999"), json!({}), 3_600_000),
        (None, json!({"retry_after_ms": null}), 1000),
        (None, json!({}), 1000),
    ] {
        let (answer, case) = (body.clone(), format!("{header:?} {body}"));
        let homeserver = Homeserver::with(move |request| {
            let is_asked =
                matches!(request.path(), "/_matrix/client/v3/account/whoami" | "/_matrix/client/versions")
                    && request.header("authorization").is_some();
            let reply = Reply::json(429, &answer);
            is_asked.then(|| match header {
                Some(header) => reply.header("Retry-After", header),
                None => reply,
            })
        });
        let sidecar = Setup::new().beside(homeserver).start();
        for path in [CONFIG, "/_matrix/client/versions"] {
            let response = sidecar.user("busy").get(path);
            assert_eq!(response.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()), "{path} {case}");
            assert_eq!(response.json()["retry_after_ms"], expected, "{path} {case}");
        }
    }
}

#[test]
fn who_is_not_said_to_be_a_guest_is_none() {
    for (is_guest, status) in
        [(json!(null), 200), (json!(false), 200), (json!(true), 403), (json!("false"), 502)]
    {
        let answer = json!({"user_id": "@odd:sidecar.test", "is_guest": is_guest});
        let homeserver = Homeserver::with(move |request| {
            (request.header("authorization") == Some("Bearer odd")).then(|| Reply::json(200, &answer))
        });
        let sidecar = Setup::new().beside(homeserver).start();
        assert_eq!(sidecar.user("odd").get(CONFIG).status, status, "{is_guest}");
    }
}

#[test]
fn guests_may_download_and_nothing_else() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("text/plain", b"x");
    let guest = sidecar.user("guest");
    assert_eq!(guest.get(&format!("/_matrix/client/v1/media/download/{mxc}")).status, 200);
    let refused = (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned());
    assert_eq!(guest.post("/_matrix/media/v3/upload", b"x").failure(), refused);
    assert_eq!(guest.post("/_matrix/media/v1/create", b"{}").failure(), refused);
    assert_eq!(guest.get(CONFIG).failure(), refused);
}

#[test]
fn a_good_answer_is_believed_for_token_cache_and_a_bad_one_for_seconds() {
    let sidecar =
        Setup::new().with(|config| config.homeserver.token_cache.0 = Duration::from_mins(2)).start();
    let ask = |token: &str| sidecar.user(token).get(CONFIG).status;
    assert_eq!((ask("alice"), ask("alice")), (200, 200));
    assert_eq!(sidecar.homeserver.whoami_count(), 1);
    sidecar.advance(Duration::from_secs(119));
    ask("alice");
    assert_eq!(sidecar.homeserver.whoami_count(), 1);
    sidecar.advance(Duration::from_secs(2));
    ask("alice");
    assert_eq!(sidecar.homeserver.whoami_count(), 2);

    assert_eq!((ask("nobody"), ask("nobody")), (401, 401));
    assert_eq!(sidecar.homeserver.whoami_count(), 3);
    sidecar.advance(Duration::from_secs(6));
    ask("nobody");
    assert_eq!(sidecar.homeserver.whoami_count(), 4);
}

#[test]
fn many_requests_with_one_token_ask_once() {
    let sidecar = Sidecar::start();
    let hold = sidecar.homeserver.hold();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let alice = sidecar.alice();
            let mut connection = alice.connect();
            std::io::Write::write_all(&mut connection, &alice.request("GET", CONFIG, b"")).unwrap();
            connection
        })
        .collect();
    eventually("the homeserver is asked", || sidecar.homeserver.whoami_count() > 0);
    drop(hold);
    for mut connection in clients {
        assert_eq!(crate::harness::client::read_response(&mut connection, "GET").status, 200);
    }
    assert_eq!(sidecar.homeserver.whoami_count(), 1);
}

#[test]
fn a_homeserver_that_is_down_is_502_and_never_401_and_the_cache_goes_on() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("text/plain", b"x");
    sidecar.homeserver.set_down(true);
    assert_eq!(sidecar.alice().get(CONFIG).status, 200, "alice is in the cache");
    let failed = sidecar.user("bob").get(CONFIG);
    assert_eq!(failed.failure(), (502, "M_UNKNOWN".to_owned()));
    assert!(failed.text().contains("homeserver"), "{}", failed.text());
    // On an open route bob counts as a caller without a token.
    assert_eq!(sidecar.user("bob").get(&format!("/_matrix/media/v3/download/{mxc}")).status, 200);
    assert_eq!(sidecar.user("bob").get(&format!("/_matrix/client/v1/media/download/{mxc}")).status, 502);
    sidecar.homeserver.set_down(false);
    assert_eq!(sidecar.user("bob").get(CONFIG).status, 200, "a failure is not remembered");
}

#[test]
fn an_application_service_acts_for_its_users() {
    let sidecar = Sidecar::start();
    let bridge = sidecar.user("bridge");
    let created = bridge.post("/_matrix/media/v1/create?user_id=%40_bridge_a%3Asidecar.test", b"");
    let mxc = created.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let target = format!("/_matrix/media/v3/upload/{mxc}");
    assert_eq!(bridge.put(&target, b"x").status, 403, "the bridge's own user is another");
    assert_eq!(bridge.put(&format!("{target}?user_id=@_bridge_a:sidecar.test"), b"x").status, 200);
    assert_eq!(
        bridge.get(&format!("{CONFIG}?user_id=@alice:sidecar.test")).status,
        403,
        "outside its namespace"
    );
}

#[test]
fn what_is_no_token_or_no_user_id_is_refused_without_asking_the_homeserver() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("text/plain", b"x");
    let targets = [
        CONFIG.to_owned(),
        format!("/_matrix/client/v1/media/download/{mxc}"),
        format!("/_matrix/media/v3/download/{mxc}"),
        "/_matrix/client/versions".to_owned(),
    ];
    let before = sidecar.homeserver.peer.requests().len();
    let long = "x".repeat(4097);
    let unknown = (401, "M_UNKNOWN_TOKEN".to_owned());
    for target in &targets {
        for token in [long.as_str(), "a b", "\u{e4}", "a\tb"] {
            assert_eq!(sidecar.user(token).get(target).failure(), unknown, "{target} {token:?}");
        }
        for token in [long.as_str(), "", "%ff", "a%00b", "a%0d%0ab", "a%20b", "%C3%A4"] {
            let target = format!("{target}?access_token={token}");
            assert_eq!(sidecar.anonymous().get(&target).failure(), unknown, "{target}");
        }
        let server = "s".repeat(250);
        for user_id in [
            "",
            "alice",
            "@alice",
            "alice:sidecar.test",
            "%ff",
            "@a%00:sidecar.test",
            "@a%20b:sidecar.test",
            "@a+b:sidecar.test",
            "@a%0D%0A:sidecar.test",
            "@a:",
            "@a:b:c:d",
            "@a:not%20a%20server",
            &"@".repeat(1400),
            &format!("@abcde:{server}"),
        ] {
            let response = sidecar.user("bridge").get(&format!("{target}?user_id={user_id}"));
            assert_eq!(response.failure(), (401, "M_UNKNOWN_TOKEN".to_owned()), "{target} {user_id}");
        }
    }
    assert_eq!(sidecar.homeserver.peer.requests().len(), before);
    // What only looks odd is for the homeserver to judge.
    for token in [&"x".repeat(4096), "!#$%&'()*,;<>?@[]^{|}~", "+/="] {
        assert_eq!(sidecar.user(token).get(CONFIG).failure(), unknown, "{token}");
    }
    for user_id in
        ["@:sidecar.test", "@A%2B/=_%C3%A4!:sidecar.test:8448", "@a:[::1]:1", "@_bridge_a:sidecar.test"]
    {
        let status = sidecar.user("bridge").get(&format!("{CONFIG}?user_id={user_id}")).status;
        assert_eq!(status, if user_id.contains("bridge") { 200 } else { 403 }, "{user_id}");
    }
    assert_eq!(sidecar.homeserver.peer.requests().len(), before + 7);
}

#[test]
fn whatever_the_homeserver_has_against_a_caller_is_passed_on_and_remembered_briefly() {
    let script = |request: &crate::harness::Request| match request.query("user_id")?.as_str() {
        "@exclusive:sidecar.test" => Some(Reply::error(400, "M_EXCLUSIVE")),
        "@Invalid:sidecar.test" => Some(Reply::error(400, "M_INVALID_USERNAME")),
        "@ghost:sidecar.test" => Some(Reply::error(404, "M_NOT_FOUND")),
        "@locked:sidecar.test" => Some(Reply::error(401, "M_USER_LOCKED")),
        "@teapot:sidecar.test" => Some(Reply::error(418, "ORG.EXAMPLE.TEAPOT")),
        // Not about the caller.
        "@nowhere:sidecar.test" => Some(Reply::error(404, "M_UNRECOGNIZED")),
        "@page:sidecar.test" => {
            Some(Reply::new(404).header("Content-Type", "text/html").body("<h1>Not Found</h1>"))
        }
        "@plain:sidecar.test" => Some(Reply::json(400, &serde_json::json!({"error": "no"}))),
        "@down:sidecar.test" => Some(Reply::error(500, "M_UNKNOWN")),
        _ => None,
    };
    let sidecar = Setup::new().beside(Homeserver::with(script)).start();
    let mxc = sidecar.upload("text/plain", b"x");
    let asked = || sidecar.homeserver.whoami_count();
    for (user, status, errcode) in [
        ("exclusive", 400, "M_EXCLUSIVE"),
        ("Invalid", 400, "M_INVALID_USERNAME"),
        ("ghost", 404, "M_NOT_FOUND"),
        ("locked", 401, "M_USER_LOCKED"),
        ("teapot", 418, "ORG.EXAMPLE.TEAPOT"),
    ] {
        let before = asked();
        for target in [CONFIG.to_owned(), format!("/_matrix/media/v3/download/{mxc}")] {
            let target = format!("{target}?user_id=@{user}:sidecar.test");
            let response = sidecar.user("bridge").get(&target);
            assert_eq!(response.failure(), (status, errcode.to_owned()), "{target}");
        }
        assert_eq!(asked(), before + 1, "{user}");
        sidecar.advance(Duration::from_secs(6));
        sidecar.user("bridge").get(&format!("{CONFIG}?user_id=@{user}:sidecar.test"));
        assert_eq!(asked(), before + 2, "{user}");
    }
    for user in ["nowhere", "page", "plain", "down"] {
        let response = sidecar.user("bridge").get(&format!("{CONFIG}?user_id=@{user}:sidecar.test"));
        assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()), "{user}");
    }
}

/// Beside a homeserver that calls itself `name`.
fn beside(name: &'static str) -> Setup {
    Setup::new().beside(Homeserver::with(move |request| {
        let server = serde_json::json!({"server": {"name": name, "version": "1"}});
        (request.path() == "/_matrix/federation/v1/version").then(|| Reply::json(200, &server))
    }))
}

#[test]
fn beside_conduit_and_its_relatives_an_account_without_a_password_is_no_guest() {
    for (name, status) in [
        ("Conduit", 200),
        ("conduwuit", 200),
        ("continuwuity", 200),
        ("Tuwunel", 200),
        ("Conduit (built at home) 0.10", 200),
        ("Synapse", 403),
        ("Dendrite", 403),
        ("conduits", 403),
        ("", 403),
    ] {
        let sidecar = beside(name).start();
        assert_eq!(sidecar.user("guest").post("/_matrix/media/v3/upload", b"x").status, status, "{name}");
        assert_eq!(sidecar.user("guest").get(CONFIG).status, status, "{name}");
    }
}

#[test]
fn the_operators_word_on_guests_counts_and_what_the_homeserver_is_is_asked_once_an_hour() {
    for (guests, status) in [(Guests::Spec, 403), (Guests::Allow, 200)] {
        for name in ["Conduit", "Synapse"] {
            let sidecar = beside(name).with(|config| config.homeserver.guests = Some(guests)).start();
            assert_eq!(sidecar.user("guest").get(CONFIG).status, status, "{name} {guests:?}");
        }
    }
    let sidecar = beside("Conduit").start();
    let asked = || {
        let paths = sidecar.homeserver.peer.paths();
        paths.iter().filter(|path| path.contains("/federation/v1/version")).count()
    };
    // At the start, because what callers without a token may do depends on it.
    eventually("it is asked", || asked() == 1);
    assert_eq!((sidecar.alice().get(CONFIG).status, asked()), (200, 1));
    assert_eq!((sidecar.user("guest").get(CONFIG).status, asked()), (200, 1));
    sidecar.advance(Duration::from_mins(3));
    assert_eq!(
        (sidecar.user("guest").get(CONFIG).status, asked()),
        (200, 1),
        "the token is asked about anew"
    );
    sidecar.advance(Duration::from_hours(1));
    assert_eq!((sidecar.user("guest").get(CONFIG).status, asked()), (200, 2));
}

#[test]
fn a_homeserver_that_does_not_say_what_it_is_has_guests_by_the_specification() {
    let sidecar = Setup::new()
        .beside(Homeserver::with(|request| {
            (request.path() == "/_matrix/federation/v1/version").then(|| Reply::new(200).body("<html>"))
        }))
        .start();
    assert_eq!(sidecar.user("guest").get(CONFIG).status, 403);
    let mxc = sidecar.upload("text/plain", b"x");
    assert_eq!(sidecar.user("guest").get(&format!("/_matrix/client/v1/media/download/{mxc}")).status, 200);
}
