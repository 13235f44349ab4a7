//! `preview_url` cannot be turned against the network: what must not be connected to is not, by whatever way it is named.
//! Connections at the forbidden place are counted.

use std::sync::Arc;

use serde_json::json;

use crate::harness::{Peer, Reply, Setup, Sidecar};
use crate::previews::{beside, html, keys, picture, png, preview};

/// What no preview may reach, at an address that is not allowed.
fn forbidden() -> Peer {
    Peer::plain_at("127.0.0.2", |_| html("<title>Secret</title>"))
}

/// A sidecar that may connect to 127.0.0.1 alone, where `site.test` is, and knows `forbidden` as `inner.test`.
fn guarded(site: &Peer, forbidden: &Peer) -> Setup {
    let setup = beside(site).with(|config| {
        config.previews.ip_allow = vec!["127.0.0.1/32".parse().unwrap()];
        config.previews.ports = vec![80, forbidden.address.port()].into();
    });
    setup.zone.host("inner.test", 80, &[forbidden.address]);
    setup
}

fn failure(sidecar: &Sidecar, url: &str) -> (u16, String) {
    preview(sidecar, url).failure()
}

#[test]
fn a_literal_address_is_refused_however_it_is_written() {
    let inner = Peer::plain_at("0.0.0.0", |_| html("<title>Secret</title>"));
    let port = inner.address.port();
    let ports = move |config: &mut media_sidecar::config::Config| config.previews.ports = vec![port].into();
    let sidecar = Setup::new().with(ports).start();
    let hosts = [
        "127.0.0.1",
        "127.0.0.2",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "%31%32%37.0.0.1",
        "１２７.０.０.１",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "169.254.169.254",
        "10.0.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[2001:0:7f00:1::]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
    ];
    for host in hosts {
        let refused = (403, "M_FORBIDDEN".to_owned());
        assert_eq!(failure(&sidecar, &format!("http://{host}:{port}/")), refused, "{host}");
    }
    assert_eq!(inner.connections(), 0);

    // That the place can be reached is the list's doing alone.
    let open = Setup::new().with(ports).with(|config| config.previews.ip_deny = Vec::new()).start();
    for host in ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let found = keys(&preview(&open, &format!("http://{host}:{port}/")));
        assert_eq!(found["og:title"], "Secret", "{host}");
    }
}

#[test]
fn a_name_that_leads_to_a_forbidden_address_is_not_connected_to() {
    let (site, inner) = (Peer::plain(|_| html("<title>Fine</title>")), forbidden());
    let setup = guarded(&site, &inner);
    setup.zone.host("mixed.test", 80, &[inner.address, site.address]);
    setup.zone.host(
        "mapped.test",
        80,
        &[format!("[::ffff:127.0.0.2]:{}", inner.address.port()).parse().unwrap()],
    );
    let sidecar = setup.start();
    let nowhere = preview(&sidecar, "http://nowhere.test/");
    for host in ["inner.test", "inner.test.", "mapped.test"] {
        let refused = preview(&sidecar, &format!("http://{host}/"));
        assert_eq!(refused.failure(), (502, "M_UNKNOWN".to_owned()), "{host}");
        assert_eq!(refused.json(), nowhere.json(), "which names lead inside is not told");
    }
    assert_eq!(keys(&preview(&sidecar, "http://mixed.test/"))["og:title"], "Fine");
    assert_eq!(inner.connections(), 0);
}

#[test]
fn a_redirect_is_checked_like_the_first_hop() {
    let inner = forbidden();
    let port = inner.address.port();
    let site = Peer::plain(move |request| {
        Reply::new(302).header("Location", &request.query("to").unwrap().replace("PORT", &port.to_string()))
    });
    let sidecar = guarded(&site, &inner)
        .with(|config| config.previews.deny_hosts = vec!["denied.*".to_owned()])
        .start();
    for (to, status) in [
        ("http://127.0.0.2:PORT/", 403),
        ("http://2130706434:PORT/", 403),
        ("//[::ffff:127.0.0.2]:PORT/", 403),
        ("http://inner.test/", 502),
        ("http://denied.test/", 403),
        ("http://site.test:22/", 403),
        ("http://user:secret@site.test/", 502),
        ("file:///etc/passwd", 502),
        ("ftp://site.test/", 502),
        ("data:text/html,<title>x</title>", 502),
        ("http://", 502),
    ] {
        let encoded: String = url::form_urlencoded::byte_serialize(to.as_bytes()).collect();
        let refused = preview(&sidecar, &format!("http://site.test/?to={encoded}"));
        assert_eq!(refused.status, status, "{to}: {}", refused.text());
    }
    assert_eq!(inner.connections(), 0);
    assert_eq!(site.connections(), 11);
}

#[test]
fn a_name_that_leads_elsewhere_the_second_time_is_checked_the_second_time() {
    let inner = forbidden();
    let site = Peer::plain(|request| match request.path() {
        "/" => html("<title>Rebound</title><meta property=og:image content=/i.png>"),
        _ => picture(png(40, 30, 1)),
    });
    let setup = guarded(&site, &inner);
    // The answer that is checked is the one that is connected to: the second one never serves the first request.
    setup.zone.host("rebind.test", 80, &[site.address]);
    setup.zone.host("rebind.test", 80, &[inner.address]);
    let sidecar = setup.start();
    assert_eq!(keys(&preview(&sidecar, "http://rebind.test/")), json!({"og:title": "Rebound"}));
    assert_eq!(failure(&sidecar, "http://rebind.test/again").0, 502);
    assert_eq!((site.paths(), inner.connections()), (vec!["/".to_owned()], 0));
}

#[test]
fn what_a_page_names_is_checked_like_the_page() {
    let inner = forbidden();
    let port = inner.address.port();
    let site = Peer::plain(move |request| match request.path() {
        "/image" => html(format!(
            "<title>T</title><meta property=og:image content=http://127.0.0.2:{port}/i.png>\
             <meta property=og:image content=http://inner.test/i.png><meta property=og:image content=/moved.png>"
        )),
        "/moved.png" => Reply::new(302).header("Location", &format!("http://127.0.0.2:{port}/i.png")),
        _ => html(
            "<title>T</title><link rel=alternate type=application/json+oembed href=http://inner.test/oembed>",
        ),
    });
    let sidecar = guarded(&site, &inner).start();
    for path in ["/image", "/oembed"] {
        assert_eq!(
            keys(&preview(&sidecar, &format!("http://site.test{path}"))),
            json!({"og:title": "T"}),
            "{path}"
        );
    }
    assert_eq!(inner.connections(), 0);
    assert!(site.paths().contains(&"/moved.png".to_owned()));
}

#[test]
fn urls_that_are_not_for_previews_are_400_and_nothing_is_asked() {
    let (site, inner) = (Peer::plain(|_| html("")), forbidden());
    let sidecar = guarded(&site, &inner).start();
    for url in [
        "data:text/html,<title>x</title>",
        "file:///etc/passwd",
        "ftp://site.test/",
        "gopher://site.test/",
        "javascript:alert(1)",
        "mxc://site.test/x",
        "http://user@site.test/",
        "http://user:secret@site.test/",
        "http://:secret@site.test/",
        "http://./",
        "site.test",
        "//site.test/",
    ] {
        assert_eq!(failure(&sidecar, url), (400, "M_INVALID_PARAM".to_owned()), "{url}");
    }
    assert_eq!(site.connections() + inner.connections(), 0);
}

/// `bücher.example` and `localhost.` in a list never matched.
#[test]
fn hosts_are_excluded_however_their_entry_is_written() {
    let site = Peer::plain(|_| html("<title>T</title>"));
    let deny = ["b\u{fc}cher.example", "*.B\u{dc}CHER.example", "localhost.", "EXAMPLE.com", "127.1"];
    let setup = beside(&site).with(|config| config.previews.deny_hosts = deny.map(str::to_owned).to_vec());
    for host in ["xn--bcher-kva.example", "www.xn--bcher-kva.example", "localhost", "example.com"] {
        setup.zone.host(host, 80, &[site.address]);
    }
    let sidecar = setup.start();
    for host in [
        "b\u{fc}cher.example",
        "xn--bcher-kva.example.",
        "www.b\u{fc}cher.example",
        "LOCALHOST",
        "example.com",
        "127.0.0.1",
    ] {
        let refused = (403, "M_FORBIDDEN".to_owned());
        assert_eq!(failure(&sidecar, &format!("http://{host}/")), refused, "{host}");
    }
    assert_eq!(site.connections(), 0);
}

#[test]
fn hosts_and_ports_that_the_operator_excludes_are_403_and_nothing_is_asked() {
    let site = Peer::plain(|request| match request.path() {
        "/page" => html("<title>T</title><meta property=og:image content=http://img.denied.test/i.png>"),
        _ => picture(png(40, 30, 1)),
    });
    let denied = Arc::new(Peer::plain(|_| picture(png(40, 30, 1))));
    let setup = beside(&site).with(|config| {
        config.previews.allow_hosts = vec!["*.test".to_owned()];
        config.previews.deny_hosts = vec!["*denied.test".to_owned()];
    });
    for host in ["denied.test", "denied.test.", "img.denied.test", "other.example"] {
        setup.zone.host(host, 80, &[denied.address]);
    }
    let sidecar = setup.start();
    for url in [
        "http://denied.test/",
        "http://DENIED.test./",
        "http://img.denied.test/",
        "http://other.example/",
        "http://site.test:22/",
        "http://site.test:6667/",
    ] {
        assert_eq!(failure(&sidecar, url), (403, "M_FORBIDDEN".to_owned()), "{url}");
    }
    assert_eq!(keys(&preview(&sidecar, "http://site.test/page")), json!({"og:title": "T"}));
    assert_eq!(denied.connections(), 0);
}
