//! `GET download`: headers, ranges, conditions, names.

use crate::harness::{Setup, Sidecar};

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
        let without_date = |headers: &[(String, String)]| -> Vec<_> {
            headers.iter().filter(|(name, _)| name != "date").cloned().collect()
        };
        assert_eq!(without_date(&head.headers), without_date(&get.headers), "{path}");
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
