//! Access tokens.

use std::time::Duration;

use crate::harness::{Setup, Sidecar};

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
        serde_json::json!({"errcode": "M_UNKNOWN_TOKEN", "error": "Access token has expired", "soft_logout": true})
    );
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
    crate::harness::eventually("the homeserver is asked", || sidecar.homeserver.whoami_count() > 0);
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
