//! `GET preview_url`: on the way to a page. What servers do that browsers put up with, and what may not hold the answer up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Peer, Reply, ScriptedDisk, Setup, Silent, eventually};
use crate::previews::{beside, html, image_of, keys, picture, png, preview};

/// A page that says so much.
fn page(title: &str) -> String {
    format!("<title>{title}</title>")
}

#[test]
fn heads_that_browsers_put_up_with_are_read() {
    let site = Peer::plain(|request| {
        let reply = html(page("Fine"));
        match request.path() {
            "/many" => (0..300).fold(reply, |reply, number| reply.header(&format!("X-{number}"), "y")),
            "/long" => reply.header("Content-Security-Policy", &"x ".repeat(60 * 1024)),
            "/no-colon" => reply.header("X-A", "b\r\nthis line has none\r\nX-B: c"),
            "/spaced" => reply.header("X-A", "b\r\nX-Spaced : c"),
            "/folded" => reply.header("X-A", "b\r\n  and more"),
            "/early" => Reply::raw().until_close().body(
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n\
                 <title>Fine</title>",
            ),
            "/bare" => {
                Reply::raw().until_close().body("HTTP/1.0 200\nContent-Type: text/html\n\n<title>Fine</title>")
            }
            "/length" => reply.header("Content-Length", "unknown"),
            "/huge" => reply.header("X-A", &"y".repeat(300 * 1024)),
            "/lines" => (0..1100).fold(reply, |reply, _| reply.header("X", "y")),
            _ => Reply::raw().until_close().body("SSH-2.0-OpenSSH_9.9\r\n"),
        }
    });
    let sidecar = beside(&site).start();
    for path in ["/many", "/long", "/no-colon", "/spaced", "/folded", "/early", "/bare", "/length"] {
        assert_eq!(
            keys(&preview(&sidecar, &format!("http://site.test{path}")))["og:title"],
            "Fine",
            "{path}"
        );
    }
    for path in ["/huge", "/lines", "/ssh"] {
        let failed = preview(&sidecar, &format!("http://site.test{path}"));
        assert_eq!(failed.status, 502, "{path}");
        assert_eq!(failed.json()["error"], "the site sent an invalid response", "{path}");
    }
}

#[test]
fn codings_that_browsers_put_up_with_are_undone() {
    use std::io::Write as _;
    let packed = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let site = Peer::plain(move |request| {
        let plain = page("Fine");
        let deflated = || {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(plain.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        match request.path() {
            "/none" => html(&plain).header("Content-Encoding", "none"),
            "/aws" => html(&plain).header("Content-Encoding", "aws-chunked"),
            "/list" => html(packed(&plain)).header("Content-Encoding", "gzip, identity"),
            "/lines" => {
                html(packed(&plain)).header("Content-Encoding", "identity").header("Content-Encoding", "gzip")
            }
            "/deflate" => html(deflated()).header("Content-Encoding", "deflate"),
            _ => html("x").header("Content-Encoding", "zstd"),
        }
    });
    let sidecar = beside(&site).start();
    for path in ["/none", "/aws", "/list", "/lines", "/deflate"] {
        assert_eq!(
            keys(&preview(&sidecar, &format!("http://site.test{path}")))["og:title"],
            "Fine",
            "{path}"
        );
    }
    let failed = preview(&sidecar, "http://site.test/zstd");
    assert_eq!(failed.status, 502);
    assert_eq!(failed.json()["error"], "the site uses a content encoding that was not asked for");
}

#[test]
fn redirects_in_raw_bytes_and_chains_as_long_as_browsers_follow_lead_there() {
    let site = Peer::plain(|request| match request.path() {
        "/stra%C3%9Fe" => html(page("Fine")),
        "/raw" => Reply::new(301).header("Location", "/stra\u{df}e"),
        "/host" => Reply::new(302).header("Location", "http://b\u{fc}cher.test/stra\u{df}e"),
        path => match path[1..].parse::<u32>() {
            Ok(0) => Reply::new(308).header("Location", "/stra%C3%9Fe"),
            Ok(more) => Reply::new(302).header("Location", &format!("/{}", more - 1)),
            Err(_) => Reply::new(404),
        },
    });
    let setup = beside(&site);
    setup.zone.host("xn--bcher-kva.test", 80, &[site.address]);
    let sidecar = setup.start();
    for path in ["/raw", "/host", "/5", "/19"] {
        assert_eq!(
            keys(&preview(&sidecar, &format!("http://site.test{path}")))["og:title"],
            "Fine",
            "{path}"
        );
    }
    let failed = preview(&sidecar, "http://site.test/20");
    assert_eq!((failed.status, failed.json()["error"].as_str()), (502, Some("the site redirects too often")));
}

#[test]
fn an_address_that_swallows_packets_does_not_hold_a_page_up() {
    let site = Peer::plain(|_| html(page("Fine")));
    let silent = Silent::at("127.0.0.1");
    let setup = Setup::new().with(|config| config.previews.ip_allow = vec!["127.0.0.0/8".parse().unwrap()]);
    setup.zone.host("site.test", 80, &[silent.address, site.address]);
    setup.zone.drops("dropped.test");
    let sidecar = setup.with(|config| config.previews.timeout.0 = Duration::from_secs(4)).start();
    assert_eq!(keys(&preview(&sidecar, "http://site.test/"))["og:title"], "Fine");
    assert_eq!(preview(&sidecar, "http://dropped.test/").failure(), (502, "M_UNKNOWN".to_owned()));
}

#[test]
fn a_private_authority_is_trusted_by_name_and_languages_are_sent_as_they_are_weighed() {
    let site = Peer::tls_named(&["site.test"], |_| html(page("Fine")));
    let start = |is_trusted: bool| {
        let setup = Setup::new().with(|config| {
            config.previews.ip_allow = vec!["127.0.0.0/8".parse().unwrap()];
            config.previews.accept_language = ["en-GB", "fr;q=0.8"].map(str::to_owned).to_vec();
            config.previews.ca_file = config.federation.ca_file.clone().filter(|_| is_trusted);
        });
        setup.zone.host("site.test", 443, &[site.address]);
        setup.start()
    };
    assert_eq!(preview(&start(false), "https://site.test/").status, 502);
    assert_eq!(keys(&preview(&start(true), "https://site.test/"))["og:title"], "Fine");
    assert_eq!(site.requests()[0].header("accept-language"), Some("en-GB, fr;q=0.8"));
}

#[test]
fn oembed_in_another_character_set_and_of_any_sensible_length_is_read() {
    let site = Peer::plain(|request| match request.path() {
        "/latin" | "/long" => html(format!(
            "<link rel=alternate type=application/json+oembed href='/oembed{}'><title>Page</title>",
            request.path()
        )),
        "/oembed/latin" => Reply::new(200)
            .header("Content-Type", "application/json; charset=ISO-8859-1")
            .body(b"{\"type\":\"rich\",\"html\":\"<p>Gr\xfc\xdfe</p>\"}"),
        "/oembed/long" => {
            let html = format!("<p>Long.</p><!--{}-->", "x".repeat(200 * 1024));
            Reply::json(200, &json!({"type": "rich", "html": html}))
        }
        _ => Reply::new(404),
    });
    let sidecar = beside(&site).start();
    for (path, description) in [("/latin", "Gr\u{fc}\u{df}e"), ("/long", "Long.")] {
        let found = keys(&preview(&sidecar, &format!("http://site.test{path}")));
        assert_eq!(found["og:description"], description, "{path}");
    }
}

#[test]
fn a_page_that_only_leads_elsewhere_is_followed_through_the_same_guard() {
    let inner = Peer::plain_at("127.0.0.2", |_| html(page("Secret")));
    let port = inner.address.port();
    let site = Peer::plain(move |request| {
        let meta = |to: &str| format!("<meta http-equiv='refresh' content='0;URL={to}'>");
        match request.path() {
            // As t.co answers.
            "/short" => html(format!(
                "<head><noscript>{}</noscript><title>http://site.test/there</title></head><script>x()</script>",
                meta("http://site.test/there")
            )),
            "/bare" => html(meta("/there")),
            "/header" => html("").header("Refresh", "0; url=/there"),
            "/there" => html(page("There")),
            "/said" => html(format!("<title>Said</title>{}", meta("/there"))),
            "/later" => html(format!(
                "<title>http://site.test/</title>{}",
                "<meta http-equiv=refresh content='30;url=/there'>"
            )),
            "/inside" => html(meta(&format!("http://127.0.0.2:{port}/"))),
            "/named" => html(meta("http://inner.test/")),
            "/denied" => html(meta("http://denied.test/")),
            "/circle" => html(meta("/circle2")),
            "/circle2" => html(meta("/circle")),
            _ => Reply::new(404),
        }
    });
    let setup = beside(&site).with(|config| {
        config.previews.ip_allow = vec!["127.0.0.1/32".parse().unwrap()];
        config.previews.deny_hosts = vec!["denied.test".to_owned()];
    });
    setup.zone.host("inner.test", 80, &[inner.address]);
    let sidecar = setup.start();
    let ask = |path: &str| preview(&sidecar, &format!("http://site.test{path}"));
    for path in ["/short", "/bare", "/header"] {
        assert_eq!(keys(&ask(path))["og:title"], "There", "{path}");
    }
    assert_eq!(keys(&ask("/said"))["og:title"], "Said");
    assert_eq!(keys(&ask("/later"))["og:title"], "http://site.test/");
    for (path, status) in [("/inside", 403), ("/named", 502), ("/denied", 403)] {
        assert_eq!(ask(path).status, status, "{path}");
    }
    assert_eq!(keys(&ask("/circle")), json!({}));
    assert_eq!(inner.connections(), 0);
    assert_eq!(site.paths().iter().filter(|path| path.starts_with("/circle")).count(), 4);
}

#[test]
fn where_declared_pictures_fail_those_of_the_body_and_then_the_icon_stand_in() {
    let gone = |number: u32| format!("<meta property=og:image content=/gone{number}.png>");
    let site = Peer::plain(move |request| match request.path() {
        "/body" => {
            html(format!("<title>T</title>{}<main><img src='/b.png' width=600 height=400></main>", gone(0)))
        }
        "/many" => html(format!(
            "<title>T</title>{}<main><img src='/b.png' width=600 height=400></main>",
            (0..9).map(gone).collect::<Vec<_>>().concat()
        )),
        "/icon" => {
            html(format!("<title>T</title>{}<link rel=apple-touch-icon href=/icon.png><p>x</p>", gone(0)))
        }
        "/b.png" => picture(png(600, 400, 1)),
        "/icon.png" => picture(png(180, 180, 2)),
        _ => Reply::new(404),
    });
    let sidecar = beside(&site).start();
    for (path, width) in [("/body", 600), ("/many", 600), ("/icon", 180)] {
        let found = keys(&preview(&sidecar, &format!("http://site.test{path}")));
        assert_eq!(found["og:image:width"], width, "{path}: {found}");
    }
    assert!(site.paths().iter().filter(|path| path.starts_with("/gone")).count() <= 7);
}

#[test]
fn a_picture_inside_the_page_is_shown_within_the_bounds_of_others() {
    let inside = |bytes: &[u8]| format!("data:image/png;base64,{}", data_encoding::BASE64.encode(bytes));
    let (good, small) = (inside(&crate::harness::picture(1)), inside(&png(8, 8, 1)));
    let site = Peer::plain(move |request| {
        let src = if request.path() == "/good" { &good } else { &small };
        html(format!("<title>T</title><main><img src='{src}' width=300 height=300></main>"))
    });
    let sidecar = beside(&site).start();
    let found = keys(&preview(&sidecar, "http://site.test/good"));
    assert_eq!(found["og:image:width"], 64, "{found}");
    assert_eq!(crate::previews::download(&sidecar, &image_of(&found)).body, crate::harness::picture(1));
    assert_eq!(keys(&preview(&sidecar, "http://site.test/small")).get("og:image"), None);
}

/// With `fsync` slowed to 6 s an answer came after 6 s, whatever `previews.timeout` said.
#[test]
fn a_slow_disk_does_not_hold_the_answer_up_and_the_picture_is_named_once_it_is_durable() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fetched);
    let site = Peer::plain(move |request| {
        if request.path() == "/i.png" {
            return picture(png(300, 300, 1));
        }
        count.fetch_add(1, Ordering::SeqCst);
        html("<title>T</title><meta property=og:image content=/i.png>")
    });
    let disk = Arc::new(ScriptedDisk::default());
    let setup = beside(&site).on(disk.clone());
    let sidecar = setup.with(|config| config.previews.timeout.0 = Duration::from_secs(3)).start();
    let slow = disk.hold();
    let started = Instant::now();
    for _ in 0..2 {
        assert_eq!(keys(&preview(&sidecar, "http://site.test/")), json!({"og:title": "T"}));
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(slow);
    let illustrated = || keys(&preview(&sidecar, "http://site.test/")).get("og:image").is_some();
    eventually("the picture is named", illustrated);
    let found = keys(&preview(&sidecar, "http://site.test/"));
    assert_eq!(crate::previews::download(&sidecar, &image_of(&found)).body, png(300, 300, 1));
    assert_eq!(fetched.load(Ordering::SeqCst), 1, "the site was asked once");
}
