//! `GET download`: headers, ranges, conditions, names.

use std::io::Write as _;

use crate::harness::client::read_response;
use crate::harness::{Peer, Reply, Setup, Sidecar};

const TEXT: &[u8] = b"0123456789abcdef";

fn paths(mxc: &str) -> [String; 8] {
    [
        format!("/_matrix/media/r0/download/{mxc}"),
        format!("/_matrix/media/v1/download/{mxc}"),
        format!("/_matrix/media/v3/download/{mxc}"),
        format!("/_matrix/client/r0/media/download/{mxc}"),
        format!("/_matrix/client/unstable/org.matrix.msc1902/media/download/{mxc}"),
        format!("/_matrix/client/v1/media/download/{mxc}"),
        format!("/_matrix/client/unstable/org.matrix.msc3916/media/download/{mxc}"),
        format!("/_matrix/client/v1/media/download/{mxc}/"),
    ]
}

#[test]
fn media_is_served_under_every_name() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", TEXT);
    for path in &paths(&mxc)[..7] {
        let response = sidecar.alice().get(path);
        assert_eq!((response.status, response.body.as_slice()), (200, TEXT), "{path}");
        let open = !path.contains("/client/v1/") && !path.contains("msc3916");
        assert_eq!(sidecar.anonymous().get(path).status, if open { 200 } else { 401 }, "{path}");
    }
    assert_eq!(sidecar.alice().get(&paths(&mxc)[7]).status, 404, "a trailing slash names nothing");
}

#[test]
fn headers_describe_and_confine_the_media() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", TEXT);
    let response = sidecar.alice().get(&paths(&mxc)[5]);
    for (name, value) in [
        ("content-type", "image/png"),
        ("content-length", "16"),
        ("content-disposition", "inline"),
        ("accept-ranges", "bytes"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-robots-tag", "noindex, nofollow, noarchive, noimageindex"),
        ("cache-control", "private, max-age=86400"),
        ("access-control-allow-origin", "*"),
    ] {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
    let csp = response.header("content-security-policy").unwrap();
    assert!(csp.starts_with("sandbox; default-src 'none'; script-src 'none';"), "{csp}");
    // The blob's own hash: printf 0123456789abcdef | sha256sum
    assert_eq!(
        response.header("etag"),
        Some("\"9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f\"")
    );
    assert!(httpdate::parse_http_date(response.header("last-modified").unwrap()).is_ok());
    let open = sidecar.anonymous().get(&paths(&mxc)[2]);
    assert_eq!(open.header("cache-control"), Some("public, max-age=86400, s-maxage=0, proxy-revalidate"));
}

#[test]
fn what_a_browser_might_run_is_an_attachment() {
    let sidecar = Sidecar::start();
    for (content_type, disposition) in [
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/pdf", "attachment"),
        ("Text/Plain; charset=utf-8", "inline"),
    ] {
        let mxc = sidecar.upload(content_type, b"<script>");
        assert_eq!(
            sidecar.alice().get(&paths(&mxc)[5]).header("content-disposition"),
            Some(disposition),
            "{content_type}"
        );
    }
}

#[test]
fn single_ranges_are_served() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("video/mp4", TEXT);
    let get = |range: &str| sidecar.alice().with_header("Range", range).get(&paths(&mxc)[5]);
    for (range, content_range, body) in [
        ("bytes=0-3", "bytes 0-3/16", "0123"),
        ("bytes=10-", "bytes 10-15/16", "abcdef"),
        ("bytes=-2", "bytes 14-15/16", "ef"),
        ("bytes=15-99", "bytes 15-15/16", "f"),
    ] {
        let response = get(range);
        assert_eq!((response.status, response.text().as_str()), (206, body), "{range}");
        assert_eq!(response.header("content-range"), Some(content_range), "{range}");
        assert_eq!(response.header("content-length"), Some(body.len().to_string().as_str()), "{range}");
        assert!(response.header("etag").is_some());
    }
    for range in ["bytes=0-1,4-5", "bytes=x", "lines=0-1"] {
        assert_eq!(get(range).status, 200, "{range}");
    }
    let outside = get("bytes=16-");
    assert_eq!(outside.failure(), (416, "M_UNKNOWN".to_owned()));
    assert_eq!(outside.header("content-range"), Some("bytes */16"));
}

#[test]
fn a_range_of_something_else_is_the_whole() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("video/mp4", TEXT);
    let etag = sidecar.alice().get(&paths(&mxc)[5]).header("etag").unwrap().to_owned();
    let get = |tag: &str| {
        sidecar
            .alice()
            .with_header("Range", "bytes=0-3")
            .with_header("If-Range", tag)
            .get(&paths(&mxc)[5])
            .status
    };
    assert_eq!(get(&etag), 206);
    assert_eq!(get("\"other\""), 200);
    assert_eq!(get("Wed, 21 Oct 2015 07:28:00 GMT"), 200);
}

#[test]
fn a_good_copy_is_not_sent_again() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", TEXT);
    let path = &paths(&mxc)[5];
    let etag = sidecar.alice().get(path).header("etag").unwrap().to_owned();
    let response = sidecar.alice().with_header("If-None-Match", &etag).get(path);
    assert_eq!((response.status, response.header("etag")), (304, Some(etag.as_str())));
    assert!(response.header("cache-control").is_some());
    assert_eq!(sidecar.alice().with_header("If-None-Match", "\"x\"").get(path).status, 200);
    // Only for those who may see it at all.
    assert_eq!(sidecar.anonymous().with_header("If-None-Match", &etag).get(path).status, 401);
}

#[test]
fn head_is_get_without_the_body() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", TEXT);
    for path in &paths(&mxc)[..7] {
        let (get, head) = (sidecar.alice().get(path), sidecar.alice().head(path));
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        let of_the_media = |headers: &[(String, String)]| -> Vec<_> {
            let is_of_the_request = |name: &str| matches!(name, "date" | "x-request-id");
            headers.iter().filter(|(name, _)| !is_of_the_request(name)).cloned().collect()
        };
        assert_eq!(of_the_media(&head.headers), of_the_media(&get.headers), "{path}");
    }
}

#[test]
fn the_name_in_the_path_wins_and_cannot_break_out() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", TEXT);
    for (name, disposition) in [
        ("photo.png", "inline; filename=photo.png"),
        ("..%2f..%2fetc%2fpasswd", "inline; filename*=utf-8''..%2F..%2Fetc%2Fpasswd"),
        ("a%00b", "inline; filename*=utf-8''a%00b"),
        ("a%0d%0aX-Evil:%201", "inline; filename*=utf-8''a%0D%0AX-Evil%3A%201"),
        ("%C3%BC", "inline; filename*=utf-8''%C3%BC"),
    ] {
        let response = sidecar.alice().get(&format!("{}/{name}", paths(&mxc)[5]));
        assert_eq!(
            (response.status, response.header("content-disposition")),
            (200, Some(disposition)),
            "{name}"
        );
        assert_eq!(response.header("x-evil"), None);
    }
}

#[test]
fn names_and_ids_outside_their_grammar_are_media_that_does_not_exist() {
    let sidecar = Sidecar::start();
    for target in [
        "sidecar.test/..",
        "sidecar.test/%2e%2e%2f%2e%2e%2fcatalog.db",
        "sidecar.test/a%00",
        "sidecar.test/a%2Fb",
        "sidecar.test/%ff",
        "sidecar.test/neverseen",
        "..%2f..%2fetc/passwd",
        "%00/a",
        "user@evil/a",
        "a:b:c/a",
    ] {
        let response = sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{target}"));
        assert_eq!(response.failure(), (404, "M_NOT_FOUND".to_owned()), "{target}");
    }
}

#[test]
fn percent_encoded_segments_name_the_same_media() {
    let sidecar = Setup::new().start();
    let mxc = sidecar.upload("image/png", TEXT);
    let encoded = mxc.replace("sidecar.test", "sidecar%2Etest");
    assert_eq!(sidecar.alice().get(&paths(&encoded)[5]).status, 200);
}

#[test]
fn a_blob_that_vanished_is_404_and_the_service_goes_on() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", TEXT);
    std::fs::remove_file(&sidecar.blobs()[0]).unwrap();
    assert_eq!(sidecar.alice().get(&paths(&mxc)[5]).status, 404);
    let again = sidecar.upload("image/png", TEXT);
    assert_eq!(sidecar.alice().get(&paths(&again)[5]).status, 200);
}

/// Media with its tag and date, and its thumbnail's: the paths whose answers have both.
fn with_validators(sidecar: &Sidecar) -> Vec<(String, String, String)> {
    let video = sidecar.upload("video/mp4", TEXT);
    let picture = sidecar.upload("image/png", &crate::harness::picture(1));
    let paths = [
        format!("/_matrix/media/v3/download/{video}"),
        format!("/_matrix/client/r0/media/download/{video}"),
        format!("/_matrix/client/v1/media/download/{video}"),
        format!("/_matrix/client/v1/media/download/{video}/name.mp4"),
        format!("/_matrix/media/v3/thumbnail/{picture}?width=32&height=32&method=crop"),
        format!("/_matrix/client/v1/media/thumbnail/{picture}?width=32&height=32&method=crop"),
    ];
    let with = |path: String| {
        let response = sidecar.alice().get(&path);
        let header = |name| response.header(name).unwrap().to_owned();
        (path, header("etag"), header("last-modified"))
    };
    paths.into_iter().map(with).collect()
}

/// The second before or after a date.
fn shifted(date: &str, seconds: i64) -> String {
    let date = httpdate::parse_http_date(date).unwrap();
    let span = std::time::Duration::from_secs(seconds.unsigned_abs());
    httpdate::fmt_http_date(if seconds < 0 { date - span } else { date + span })
}

#[test]
fn conditions_count_in_the_order_of_the_rfc() {
    let sidecar = Sidecar::start();
    for (path, etag, date) in with_validators(&sidecar) {
        let (before, after) = (shifted(&date, -1), shifted(&date, 1));
        let (weak, other) = (format!("W/{etag}"), "\"other\"".to_owned());
        let listed = format!("\"a,b\", W/\"c\" ,, {etag}");
        let (range, outside) = ("bytes=0-3".to_owned(), "bytes=99999-".to_owned());
        let garbage = ["tomorrow".to_owned(), "0".to_owned(), format!("{date}, {date}")];
        let mut table: Vec<(Vec<(&str, &String)>, u16)> = vec![
            (vec![("If-Modified-Since", &date)], 304),
            (vec![("If-Modified-Since", &after)], 304),
            (vec![("If-Modified-Since", &before)], 200),
            (vec![("If-Unmodified-Since", &date)], 200),
            (vec![("If-Unmodified-Since", &after)], 200),
            (vec![("If-Unmodified-Since", &before)], 412),
            (vec![("If-Match", &etag)], 200),
            (vec![("If-Match", &listed)], 200),
            (vec![("If-Match", &other)], 412),
            (vec![("If-Match", &weak)], 412),
            (vec![("If-None-Match", &etag)], 304),
            (vec![("If-None-Match", &weak)], 304),
            (vec![("If-None-Match", &listed)], 304),
            (vec![("If-None-Match", &other)], 200),
            // Lists on several lines are one list.
            (vec![("If-None-Match", &other), ("If-None-Match", &etag)], 304),
            (vec![("If-Match", &other), ("If-Match", &etag)], 200),
            // The tag says more than the date.
            (vec![("If-Match", &etag), ("If-Unmodified-Since", &before)], 200),
            (vec![("If-Match", &other), ("If-Unmodified-Since", &after)], 412),
            (vec![("If-None-Match", &other), ("If-Modified-Since", &after)], 200),
            (vec![("If-None-Match", &etag), ("If-Modified-Since", &before)], 304),
            // 412 before 304 before ranges.
            (vec![("If-Match", &other), ("If-None-Match", &etag)], 412),
            (vec![("If-Unmodified-Since", &before), ("If-None-Match", &etag)], 412),
            (vec![("If-Match", &other), ("Range", &range)], 412),
            (vec![("If-None-Match", &etag), ("Range", &range)], 304),
            (vec![("If-Modified-Since", &date), ("Range", &outside)], 304),
            (vec![("If-Match", &etag), ("Range", &outside)], 416),
            (vec![("If-Match", &etag), ("If-None-Match", &other), ("Range", &range)], 206),
            (vec![("Range", &range), ("If-Range", &etag)], 206),
            (vec![("Range", &range), ("If-Range", &date)], 206),
            (vec![("Range", &range), ("If-Range", &weak)], 200),
            (vec![("Range", &range), ("If-Range", &other)], 200),
            (vec![("Range", &range), ("If-Range", &before)], 200),
            (vec![("Range", &range), ("If-Range", &after)], 200),
            (vec![("Range", &outside), ("If-Range", &other)], 200),
            (vec![("If-Range", &other)], 200),
        ];
        for date in &garbage {
            table.push((vec![("If-Modified-Since", date)], 200));
            table.push((vec![("If-Unmodified-Since", date)], 200));
            table.push((vec![("Range", &range), ("If-Range", date)], 200));
        }
        for (headers, status) in table {
            let client =
                headers.iter().fold(sidecar.alice(), |client, (name, value)| client.with_header(name, value));
            let get = client.get(&path);
            assert_eq!(get.status, status, "{path} {headers:?}");
            // Without a range HEAD is judged as GET is.
            let head = client.head(&path);
            let without_range = if matches!(status, 206 | 416) { 200 } else { status };
            assert_eq!((head.status, head.body.len()), (without_range, 0), "HEAD {path} {headers:?}");
            match status {
                304 => assert_eq!((get.header("etag"), get.body.len()), (Some(etag.as_str()), 0), "{path}"),
                412 => assert_eq!(get.failure(), (412, "M_UNKNOWN".to_owned()), "{path}"),
                206 => assert_eq!(get.body.len(), 4, "{path}"),
                _ => {}
            }
        }
        let any = |name: &str| sidecar.alice().with_header(name, "*").get(&path).status;
        assert_eq!((any("If-Match"), any("If-None-Match")), (200, 304), "{path}");
    }
}

#[test]
fn conditions_of_those_who_may_not_see_it_say_nothing() {
    let sidecar = Setup::new()
        .with(|config| config.unauthenticated_media = media_sidecar::config::UnauthenticatedMedia::Closed)
        .start();
    let mxc = sidecar.upload("image/png", TEXT);
    for (name, value) in [
        ("If-Match", "\"x\""),
        ("If-None-Match", "*"),
        ("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let ask =
            |client: crate::harness::Client, path: &str| client.with_header(name, value).get(path).status;
        assert_eq!(ask(sidecar.anonymous(), &paths(&mxc)[2]), 404, "{name}");
        assert_eq!(ask(sidecar.anonymous(), &paths(&mxc)[5]), 401, "{name}");
        assert_eq!(ask(sidecar.user("nobody"), &paths(&mxc)[2]), 401, "{name}");
        assert_eq!(
            ask(sidecar.alice(), "/_matrix/client/v1/media/download/sidecar.test/unknown"),
            404,
            "{name}"
        );
    }
}

#[test]
fn a_page_may_read_what_media_players_look_for() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("video/mp4", TEXT);
    let response = sidecar.alice().with_header("Range", "bytes=0-3").get(&paths(&mxc)[5]);
    let exposed = response.header("access-control-expose-headers").unwrap().to_lowercase();
    let exposed: Vec<&str> = exposed.split(',').map(str::trim).collect();
    for name in [
        "accept-ranges",
        "content-range",
        "content-length",
        "content-disposition",
        "etag",
        "last-modified",
        "date",
        "retry-after",
    ] {
        assert!(exposed.contains(&name), "{name}");
    }
    let preflight = sidecar.anonymous().send("OPTIONS", &paths(&mxc)[5], b"");
    let allowed = preflight.header("access-control-allow-headers").unwrap().to_lowercase();
    let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
    for name in [
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "authorization",
    ] {
        assert!(allowed.contains(&name), "{name}");
    }
}

#[test]
fn a_room_full_of_pictures_of_one_server_is_shown_whole() {
    let remote = Peer::tls(|request| {
        let media_id = request.path().rsplit('/').next().unwrap().to_owned();
        Reply::new(200)
            .header("Content-Type", "image/png")
            .header("Content-Disposition", "inline")
            .body(media_id)
    });
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let target = |number: usize| format!("/_matrix/client/v1/media/download/{}/f{number}", remote.name());
    let mut connections: Vec<_> = (0..100)
        .map(|number| {
            let mut connection = alice.connect();
            connection.write_all(&alice.request("GET", &target(number), b"")).unwrap();
            connection
        })
        .collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        let response = read_response(connection, "GET");
        assert_eq!((response.status, response.text()), (200, format!("f{number}")));
    }
}
