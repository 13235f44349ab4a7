//! Remote servers' answers as they are taken: lengths, encodings, types, names, what is no answer at all; and what is not stored.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use media_sidecar::config::{Config, Family};
use media_sidecar::matrix::Timestamp;

use crate::harness::{OURS, Peer, RemoteKey, Reply, Request, Response, Setup, Sidecar, eventually};

const FILE: &[u8] = b"\x89PNG from afar";
const SIGNED: &str = "/_matrix/federation/v1/media/download/";
/// A boundary as Synapse makes them.
const HEX: &str = "0123456789abcdef0123456789abcdef";
const DAY: i64 = 86_400_000;

fn download(remote: &Peer, media_id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{}/{media_id}", remote.name())
}

fn get(sidecar: &Sidecar, remote: &Peer) -> Response {
    sidecar.alice().get(&download(remote, "x"))
}

/// A remote that gives `reply` to requests for paths with `family` in them and knows no others.
fn remote(family: &'static str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Peer {
    Peer::tls(
        move |request: &Request| {
            if request.path().contains(family) { reply() } else { Reply::error(404, "M_UNRECOGNIZED") }
        },
    )
}

fn msc3916(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Peer {
    remote("/federation/v1/media/", reply)
}

fn multipart(boundary: &str) -> Reply {
    Reply::new(200).header("Content-Type", &format!("multipart/mixed; boundary={boundary}"))
}

/// Everything before the file, as Synapse writes it, but with other headers of the file if need be.
fn head(boundary: &str, headers: &str) -> String {
    format!(
        "\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n{headers}\r\n\r\n"
    )
}

fn limited(max_size: u64) -> Sidecar {
    Setup::new().with(|config| config.federation.max_size.0 = max_size).start()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The ends of a multipart body in use: Synapse's and Go's, new ruma's, old ruma's, the proposal's own.
const ENDS: [&str; 4] = ["--\r\n", "--", "", "\r\n"];

#[test]
fn a_multipart_file_that_is_announced_as_too_large_is_502_before_its_first_byte() {
    let sidecar = limited(4000);
    for end in ENDS {
        let (release, held) = channel();
        let held = std::sync::Mutex::new(Some(held));
        let remote = msc3916(move || {
            let body = [head("B", "Content-Type: image/png").as_bytes(), &[7; 5000]].concat();
            let last = format!("\r\n--B{end}");
            multipart("B")
                .header("Content-Length", &(body.len() + last.len()).to_string())
                .body(&body[..200])
                .wait(held.lock().unwrap().take().unwrap())
                .body([&body[200..], last.as_bytes()].concat())
        });
        let too_large = (502, "M_TOO_LARGE".to_owned());
        assert_eq!(get(&sidecar, &remote).failure(), too_large, "{end:?}");
        let asked = remote.requests().len();
        assert_eq!(get(&sidecar, &remote).failure(), too_large, "{end:?}");
        assert_eq!(remote.requests().len(), asked, "remembered");
        drop(release);
    }
}

#[test]
fn a_part_that_says_it_is_too_large_is_502_before_its_first_byte() {
    let remote = msc3916(|| {
        let before = head("B", "Content-Type: image/png\r\nContent-Length: 5000");
        multipart("B").until_close().body([before.as_bytes(), &[7; 5000], b"\r\n--B--"].concat())
    });
    assert_eq!(get(&limited(4000), &remote).failure(), (502, "M_TOO_LARGE".to_owned()));
}

#[test]
fn a_multipart_file_as_large_as_allowed_is_taken_whatever_its_end() {
    for end in ENDS {
        let before = head("B", "Content-Type: image/png");
        let body = [before.as_bytes(), &[7; 4000], b"\r\n--B", end.as_bytes()].concat();
        let remote = msc3916(move || multipart("B").body(&body));
        let response = get(&limited(4000), &remote);
        assert_eq!((response.status, response.complete), (200, true), "{end:?}: {}", response.text());
        assert_eq!(response.body, [7; 4000]);
    }
}

#[test]
fn the_length_of_a_multipart_file_is_told_when_it_is_certain() {
    let type_and_name = "Content-Type: image/png\r\nContent-Disposition: inline; filename=a.png";
    let with_length = |length: usize| format!("{type_and_name}\r\nContent-Length: {length}");
    let size = FILE.len();
    let mut cases = vec![
        ("synapse", HEX, type_and_name.to_owned(), "--\r\n", Some(size)),
        ("ruma", "abcdefghijklmnopqrstuvwxyzabcd", type_and_name.to_lowercase(), "--", None),
        ("old ruma", "abcdefghijklmnopqrstuvwxyzabcd", type_and_name.to_lowercase(), "", None),
        ("another boundary", "B", type_and_name.to_owned(), "--\r\n", None),
        ("another order", HEX, "Content-Disposition: inline\r\nContent-Type: image/png".to_owned(), "", None),
        ("no disposition", HEX, "Content-Type: image/png".to_owned(), "--", None),
        ("a lie, too short", "B", with_length(3), "--\r\n", None),
        ("a lie, too long", "B", with_length(3000), "--\r\n", None),
        ("a lie of one byte", HEX, with_length(size + 1), "--\r\n", None),
    ];
    let sidecar = Sidecar::start();
    cases.extend(ENDS.map(|end| ("its own length", "B", with_length(size), end, Some(size))));
    for (case, boundary, headers, end, expected) in cases {
        let last = format!("\r\n--{boundary}{end}");
        let body = [head(boundary, &headers).as_bytes(), FILE, last.as_bytes()].concat();
        let (announced, chunk) = (body.clone(), format!("{:x}\r\n", body.len()));
        let boundary = boundary.to_owned();
        let other = boundary.clone();
        let with = msc3916(move || multipart(&boundary).body(&announced));
        let without = msc3916(move || {
            let body = [chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
            multipart(&other).header("Transfer-Encoding", "chunked").body(body)
        });
        for (remote, expected) in [(with, expected), (without, None)] {
            let response = get(&sidecar, &remote);
            assert_eq!((response.status, response.complete), (200, true), "{case}: {}", response.text());
            assert_eq!(response.body, FILE, "{case}");
            // It may be stored by the time that it is answered.
            let expected = if response.header("etag").is_some() { Some(size) } else { expected };
            let length = response.header("content-length").map(|length| length.parse().unwrap());
            assert_eq!(length, expected, "{case} {end:?}");
        }
    }
}

/// Synapse announces the whole and ends with the first delimiter.
#[test]
fn a_multipart_answer_that_ends_before_the_file_leads_on_to_the_next_family() {
    for (hangs, legacy_has_it) in [(false, true), (false, false), (true, true)] {
        let (release, held) = channel::<()>();
        let held = std::sync::Mutex::new(Some(held));
        let remote = Peer::tls(move |request: &Request| match request.path() {
            path if path.ends_with("/y") => {
                Reply::new(200).header("Content-Disposition", "inline").body(FILE)
            }
            path if path.contains("/federation/v1/media/") => {
                let reply = multipart(HEX).header("Content-Length", "225");
                let reply = reply.body(&head(HEX, "")[..40]);
                match held.lock().unwrap().take() {
                    Some(held) if hangs => reply.wait(held),
                    _ => reply,
                }
            }
            path if path.starts_with("/_matrix/media/v3/") && legacy_has_it => {
                Reply::new(200).header("Content-Type", "text/plain").header("Content-Disposition", "inline")
            }
            _ => Reply::error(404, "M_UNRECOGNIZED"),
        });
        let sidecar =
            Setup::new().with(|config| config.federation.timeout.0 = Duration::from_secs(1)).start();
        let response = get(&sidecar, &remote);
        if legacy_has_it {
            assert_eq!((response.status, response.body.len()), (200, 0), "{}", response.text());
            assert_eq!(response.header("content-length"), Some("0"));
            eventually("it is stored", || get(&sidecar, &remote).header("etag").is_some());
        } else {
            assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
            assert!(response.text().contains("invalid response"), "{}", response.text());
        }
        // It is about this file, not about the server.
        assert_eq!(sidecar.alice().get(&download(&remote, "y")).body, FILE);
        drop(release);
    }
}

#[test]
fn a_multipart_file_is_empty_only_if_its_own_headers_say_so() {
    let says_so = "Content-Type: text/plain\r\nContent-Length: 0";
    for (headers, rest, expected) in [
        // It breaks off after the headers.
        (says_so, "", Some("")),
        (says_so, "\r\n--B--\r\n", Some("")),
        (says_so, "a lie\r\n--B--\r\n", Some("a lie")),
        ("Content-Type: text/plain", "\r\n--B--\r\n", Some("")),
        ("Content-Type: text/plain", "", None),
        ("Content-Type: text/plain\r\nContent-Length: 5", "", None),
    ] {
        let body = head("B", headers) + rest;
        let remote = msc3916(move || multipart("B").header("Content-Length", "225").body(&body));
        let exact = head("B", headers) + rest;
        let whole = msc3916(move || multipart("B").body(&exact));
        for (remote, is_whole) in [(remote, false), (whole, true)] {
            let sidecar = Sidecar::start();
            let response = get(&sidecar, &remote);
            match expected {
                None => assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()), "{headers}"),
                Some(text) if is_whole || headers == says_so && rest.is_empty() => {
                    assert_eq!((response.status, response.complete), (200, true), "{headers} {rest}");
                    assert_eq!(response.text(), text, "{headers} {rest}");
                    eventually("it is stored", || get(&sidecar, &remote).header("etag").is_some());
                }
                // Cut off behind the last delimiter: nobody minds.
                Some(_) => {}
            }
            if expected.is_none() {
                eventually("nothing is left", || sidecar.leftovers() == 0);
                assert!(sidecar.blobs().is_empty());
            }
        }
    }
}

#[test]
fn a_raw_answer_that_no_catch_all_page_would_give_is_media() {
    let sidecar = Sidecar::start();
    for (content_type, disposition, is_media) in [
        (Some("image/png"), None, true),
        (Some("application/octet-stream"), None, true),
        (Some("video/mp4; codecs=x"), None, true),
        (Some("text/csv"), None, true),
        (Some("text/html"), None, false),
        (Some("Text/HTML; charset=utf-8"), None, false),
        (Some("text/plain"), None, false),
        (Some("text/plain; charset=utf-8"), None, false),
        (Some("application/json"), None, false),
        (Some("nonsense"), None, false),
        (None, None, false),
        (Some("text/html"), Some("attachment"), true),
        (Some("text/plain"), Some("inline"), true),
        (None, Some("attachment; filename=a"), true),
    ] {
        let remote = remote("/federation/v1/remote_media/", move || {
            let mut reply = Reply::new(200);
            for (name, value) in [("Content-Type", content_type), ("Content-Disposition", disposition)] {
                reply = if let Some(value) = value { reply.header(name, value) } else { reply };
            }
            reply.body(FILE)
        });
        let response = get(&sidecar, &remote);
        let expected = if is_media { 200 } else { 502 };
        assert_eq!(response.status, expected, "{content_type:?} {disposition:?}: {}", response.text());
    }
}

#[test]
fn a_server_that_has_given_media_raw_is_believed_but_for_a_page() {
    let remote = remote("/federation/v1/remote_media/", || Reply::new(200).body(FILE));
    let sidecar = Sidecar::start();
    let catalog = || rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    catalog()
        .execute(
            "INSERT INTO server (server_name, family, proven_ms) VALUES (?1, 'msc1902', ?2)",
            (remote.name(), Timestamp::now().0 - 600_000),
        )
        .unwrap();
    assert_eq!(get(&sidecar, &remote).body, FILE);
    let page = Peer::tls(|request: &Request| match request.path().contains("/remote_media/") {
        true => Reply::new(200).header("Content-Type", "text/html").body("<h1>Down for maintenance</h1>"),
        false => Reply::error(404, "M_NOT_FOUND"),
    });
    catalog().execute("UPDATE server SET server_name = ?1", [page.name()]).unwrap();
    assert_eq!(get(&sidecar, &page).status, 404);
}

#[test]
fn no_encoding_is_asked_for_and_one_that_comes_is_undone() {
    let far = gzip(FILE);
    let (cdn_file, raw_file) = (far.clone(), far);
    let cdn = Peer::tls(move |_| {
        let reply = Reply::new(200).header("Content-Type", "image/png").header("Content-Encoding", "gzip");
        reply.body(&cdn_file)
    });
    let url = format!("{}/x", cdn.url());
    let raw = move || {
        let reply = Reply::new(200).header("Content-Type", "image/png").header("Content-Encoding", "x-gzip");
        reply.body(&raw_file)
    };
    let whole = gzip(
        &[head(HEX, "Content-Type: image/png").as_bytes(), FILE, b"\r\n--", HEX.as_bytes(), b"--"].concat(),
    );
    let wrapped = move || multipart(HEX).header("Content-Encoding", "GZIP").body(&whole);
    let elsewhere = move || Reply::new(307).header("Location", &url);
    for remote in [
        remote("/federation/v1/remote_media/", raw.clone()),
        msc3916(wrapped),
        remote("/_matrix/media/v3/", raw),
        remote("/_matrix/media/v3/", elsewhere),
    ] {
        let sidecar = Sidecar::start();
        let response = get(&sidecar, &remote);
        assert_eq!((response.status, response.complete), (200, true), "{}", response.text());
        assert_eq!(response.body, FILE);
        let length = response.header("content-length").map(|length| length.parse().unwrap());
        assert!(length.is_none_or(|length: usize| length == FILE.len()), "what comes is longer or shorter");
        assert_eq!(response.header("content-encoding"), None);
        eventually("it is stored", || get(&sidecar, &remote).header("etag").is_some());
        assert_eq!(get(&sidecar, &remote).body, FILE);
        let asked = [remote.requests(), cdn.requests()].concat();
        assert!(
            asked.iter().all(|request| request.header("accept-encoding") == Some("identity")),
            "{asked:?}"
        );
    }
    assert!(!cdn.requests().is_empty());
}

#[test]
fn an_encoding_that_cannot_be_undone_is_502_and_never_stored() {
    for codings in [
        vec!["zstd"],
        vec!["gzip", "br"],
        vec!["gzip, gzip"],
        vec!["gzip"],
        vec!["x-gzip"],
        vec!["br"],
        vec!["deflate"],
    ] {
        let lines = codings.clone();
        let remote = remote("/_matrix/media/v3/", move || {
            let reply = Reply::new(200).header("Content-Type", "image/png");
            lines.iter().fold(reply, |reply, line| reply.header("Content-Encoding", line)).body(FILE)
        });
        let sidecar = Sidecar::start();
        let response = get(&sidecar, &remote);
        assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()), "{codings:?}");
        eventually("nothing is left", || sidecar.leftovers() == 0);
        assert!(sidecar.blobs().is_empty(), "{codings:?}");
    }
}

/// `bytes` in RFC 1950, and as one uncompressed brotli block (RFC 7932 §9.2) of less than 16 bytes.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    assert!((1..=16).contains(&bytes.len()));
    // The window of 16 bits, a block that is not the last, four nibbles for its length less one, not compressed.
    let head = (u32::try_from(bytes.len() - 1).unwrap() << 4) | 1 << 20;
    [&head.to_le_bytes()[..3], bytes, b"\x03"].concat()
}

/// A multipart answer whose file has these headers, and the file as legacy media; whichever is asked for first is the first.
fn in_a_part(headers: &str, packed: &[u8], legacy: Option<&'static [u8]>) -> Peer {
    let whole = [head(HEX, headers).as_bytes(), packed, b"\r\n--", HEX.as_bytes(), b"--\r\n"].concat();
    beside_legacy(move || multipart(HEX).body(&whole), legacy)
}

/// A remote that gives `reply` for MSC3916 and perhaps has the file as legacy media.
fn beside_legacy(reply: impl Fn() -> Reply + Send + Sync + 'static, legacy: Option<&'static [u8]>) -> Peer {
    Peer::tls(move |request: &Request| match (request.path(), legacy) {
        (path, _) if path.contains("/federation/v1/media/") => reply(),
        (path, Some(file)) if path.starts_with("/_matrix/media/v3/") => {
            Reply::new(200).header("Content-Type", "image/png").body(file)
        }
        _ => Reply::error(404, "M_UNRECOGNIZED"),
    })
}

#[test]
fn a_part_that_comes_encoded_is_stored_plain() {
    for (headers, packed) in [
        ("Content-Encoding: gzip", gzip(FILE)),
        ("content-encoding: X-GZIP", gzip(FILE)),
        ("Content-Encoding: deflate", deflate(FILE)),
        ("Content-Encoding: br", brotli(FILE)),
        ("Content-Encoding: br, gzip", gzip(&brotli(FILE))),
        ("Content-Encoding: br\r\nContent-Encoding: gzip", gzip(&brotli(FILE))),
        ("Content-Encoding: identity", FILE.to_vec()),
        ("Content-Transfer-Encoding: binary", FILE.to_vec()),
        ("Content-Transfer-Encoding: 8BIT", FILE.to_vec()),
        ("Content-Transfer-Encoding: 7bit", FILE.to_vec()),
    ] {
        let length = packed.len();
        for headers in [
            format!("Content-Type: image/png\r\nContent-Disposition: inline; filename=a.png\r\n{headers}"),
            format!("Content-Type: image/png\r\nContent-Length: {length}\r\n{headers}"),
        ] {
            let remote = in_a_part(&headers, &packed, None);
            let sidecar = Sidecar::start();
            for _ in 0..2 {
                let response = get(&sidecar, &remote);
                assert_eq!(
                    (response.status, response.complete),
                    (200, true),
                    "{headers}: {}",
                    response.text()
                );
                assert_eq!(response.body, FILE, "{headers}");
                let length = response.header("content-length").map(|length| length.parse().unwrap());
                assert!(length.is_none_or(|length: usize| length == FILE.len()), "{headers}: {length:?}");
                eventually("it is stored", || get(&sidecar, &remote).header("etag").is_some());
            }
        }
    }
}

#[test]
fn a_large_part_that_comes_encoded_is_taken_whole_and_no_larger_than_allowed() {
    let file = vec![7; 1 << 20];
    let remote = in_a_part("Content-Type: image/png\r\nContent-Encoding: gzip", &gzip(&file), None);
    let response = get(&limited(1 << 20), &remote);
    assert!(response.complete);
    assert_eq!(response.body.len(), file.len());
    let sidecar = limited((1 << 20) - 1);
    let response = get(&sidecar, &remote);
    assert!(response.status == 502 || !response.complete, "{}", response.status);
    eventually("it is remembered", || {
        let again = get(&sidecar, &remote);
        again.status == 502 && again.failure() == (502, "M_TOO_LARGE".to_owned())
    });
    assert!(sidecar.blobs().is_empty());
}

#[test]
fn a_part_in_a_form_that_cannot_be_read_leads_on_to_the_next_family_and_is_never_stored() {
    let base64 = data_encoding::BASE64.encode(FILE);
    for (headers, body) in [
        ("Content-Transfer-Encoding: base64", base64.as_bytes()),
        ("content-transfer-encoding: BASE64", base64.as_bytes()),
        ("Content-Transfer-Encoding: quoted-printable", b"=89PNG from afar"),
        ("Content-Transfer-Encoding: binary\r\nContent-Transfer-Encoding: base64", base64.as_bytes()),
        ("Content-Transfer-Encoding: x-uuencode", b"begin 644 a"),
        ("Content-Encoding: zstd", FILE),
        ("Content-Encoding: gzip", FILE),
        ("Content-Encoding: br", FILE),
        ("Content-Encoding: gzip, br", &gzip(FILE)),
        ("Content-Encoding: gzip\r\nContent-Length: 0", FILE),
    ] {
        let headers = format!("Content-Type: image/png\r\n{headers}");
        let sidecar = Sidecar::start();
        let alone = in_a_part(&headers, body, None);
        assert_eq!(get(&sidecar, &alone).failure(), (502, "M_UNKNOWN".to_owned()), "{headers}");
        eventually("nothing is left", || sidecar.leftovers() == 0);
        assert!(sidecar.blobs().is_empty(), "{headers}");
        let response = get(&sidecar, &in_a_part(&headers, body, Some(FILE)));
        assert_eq!((response.status, &*response.body), (200, FILE), "{headers}");
    }
}

#[test]
fn what_is_not_packed_as_it_says_leads_on_to_the_next_family() {
    for codings in ["gzip", "br", "deflate", "zstd"] {
        let remote = Peer::tls(move |request: &Request| {
            let reply = Reply::new(200).header("Content-Type", "image/png");
            match request.path() {
                path if path.contains("/remote_media/") => {
                    reply.header("Content-Encoding", codings).body(FILE)
                }
                path if path.starts_with("/_matrix/media/v3/") => reply.body(FILE),
                _ => Reply::error(404, "M_UNRECOGNIZED"),
            }
        });
        let response = get(&Sidecar::start(), &remote);
        assert_eq!((response.status, response.complete), (200, true), "{codings}: {}", response.text());
        assert_eq!(response.body, FILE, "{codings}");
    }
}

#[test]
fn nothing_in_any_encoding_is_an_empty_file() {
    for codings in ["gzip", "br", "deflate", "gzip, br"] {
        let nothing =
            move || Reply::new(200).header("Content-Type", "image/png").header("Content-Encoding", codings);
        let headers = format!("Content-Type: image/png\r\nContent-Encoding: {codings}");
        for remote in [
            remote("/federation/v1/remote_media/", nothing),
            remote("/_matrix/media/v3/", nothing),
            in_a_part(&headers, b"", None),
        ] {
            let sidecar = Sidecar::start();
            let response = get(&sidecar, &remote);
            assert_eq!((response.status, response.body.len()), (200, 0), "{codings}: {}", response.text());
            assert_eq!(response.header("content-length"), Some("0"), "{codings}");
            eventually("it is stored", || get(&sidecar, &remote).header("etag").is_some());
        }
    }
    // An empty file, packed.
    let remote = in_a_part("Content-Type: image/png\r\nContent-Encoding: gzip", &gzip(b""), None);
    assert_eq!(get(&Sidecar::start(), &remote).header("content-length"), Some("0"));
}

/// What announces a file and gives not a byte of it is no answer while the file can be had in another way.
#[test]
fn an_answer_that_ends_at_the_files_first_byte_leads_on_to_the_next_family() {
    let type_only = "Content-Type: image/png";
    let type_and_name = "Content-Type: image/png\r\nContent-Disposition: inline; filename=a.png";
    let ends: [fn(Reply, String) -> Reply; 4] = [
        // Too little of what was announced, the same to the byte, without an announcement, and in chunks.
        |reply, body| reply.header("Content-Length", &(body.len() + 1000).to_string()).body(body),
        |reply, body| reply.body(body),
        |reply, body| reply.until_close().body(body),
        |reply, body| {
            let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            reply.header("Transfer-Encoding", "chunked").body(chunks)
        },
    ];
    for headers in [type_only, type_and_name] {
        for (index, end) in ends.into_iter().enumerate() {
            let sidecar = Sidecar::start();
            let remote = beside_legacy(move || end(multipart(HEX), head(HEX, headers)), Some(FILE));
            let response = get(&sidecar, &remote);
            assert_eq!((response.status, response.complete), (200, true), "{index}: {}", response.text());
            assert_eq!(response.body, FILE, "{index} {headers}");
            let alone = beside_legacy(move || end(multipart(HEX), head(HEX, headers)), None);
            assert_eq!(get(&sidecar, &alone).failure(), (502, "M_UNKNOWN".to_owned()), "{index} {headers}");
        }
    }
}

#[test]
fn a_raw_answer_without_a_byte_of_what_it_announces_leads_on_to_the_next_family() {
    let remote = Peer::tls(|request: &Request| {
        let reply = Reply::new(200).header("Content-Type", "image/png");
        match request.path() {
            path if path.contains("/remote_media/") => reply.header("Content-Length", "225"),
            path if path.starts_with("/_matrix/media/v3/") => reply.body(FILE),
            _ => Reply::error(404, "M_UNRECOGNIZED"),
        }
    });
    let response = get(&Sidecar::start(), &remote);
    assert_eq!((response.status, response.complete), (200, true), "{}", response.text());
    assert_eq!(response.body, FILE);
}

#[test]
fn a_file_that_unpacks_to_more_than_allowed_is_cut_off_and_not_asked_for_again() {
    let bomb = gzip(&vec![0; 50 << 20]);
    let remote = remote("/_matrix/media/v3/", move || {
        Reply::new(200).header("Content-Type", "image/png").header("Content-Encoding", "gzip").body(&bomb)
    });
    let sidecar = limited(1 << 20);
    let response = get(&sidecar, &remote);
    assert!(response.status == 502 || !response.complete, "{}", response.status);
    eventually("it is remembered", || {
        let again = get(&sidecar, &remote);
        again.status == 502 && again.failure() == (502, "M_TOO_LARGE".to_owned())
    });
    assert!(sidecar.blobs().is_empty());
}

#[test]
fn keys_and_delegations_that_come_encoded_are_read() {
    let packed = |text: String| {
        let reply = Reply::new(200).header("Content-Type", "application/json");
        reply.header("Content-Encoding", "gzip").body(gzip(text.as_bytes()))
    };
    let remote = Peer::tls_named(&["packed.test"], move |request| match request.path() {
        "/.well-known/matrix/server" => packed(r#"{"m.server": "packed.test:8449"}"#.to_owned()),
        "/_matrix/key/v2/server" => {
            packed(RemoteKey::new(1).document("packed.test", Timestamp::now().0 + DAY).to_string())
        }
        _ => Reply::error(404, "M_UNRECOGNIZED"),
    });
    let sidecar = Sidecar::start();
    sidecar.zone.host("packed.test", 443, &[remote.address]);
    sidecar.zone.host("packed.test", 8449, &[remote.address]);
    let target = format!("{SIGNED}x");
    let header = RemoteKey::new(1).authorization("packed.test", OURS, &target);
    assert_eq!(
        sidecar.anonymous().with_header("Authorization", &header).get(&target).status,
        404,
        "accepted"
    );
    let asked = remote.requests();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|request| request.header("accept-encoding") == Some("identity")), "{asked:?}");
}

/// Browsers take the last type of a list.
#[test]
fn a_type_that_is_a_list_is_stored_and_served_as_unknown() {
    let unknown = |response: &Response, what: &str| {
        assert_eq!(response.status, 200, "{what}");
        assert_eq!(response.header("content-type"), Some("application/octet-stream"), "{what}");
        let disposition = response.header("content-disposition").unwrap();
        assert!(disposition.starts_with("attachment"), "{what}: {disposition}");
    };
    let sidecar = Sidecar::start();
    for lists in [
        vec!["text/plain;x=,text/html"],
        vec!["application/json;,text/xml"],
        vec!["text/plain, text/html"],
        vec!["text/plain; x=\"a\",text/html"],
        vec!["text/plain", "text/html"],
    ] {
        let client =
            lists.iter().fold(sidecar.alice(), |client, list| client.with_header("Content-Type", list));
        let uploaded = client.post("/_matrix/media/v3/upload", b"<script>").json();
        let mxc = uploaded["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap();
        unknown(&sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}")), lists[0]);

        let (lines, part) = (lists.clone(), lists.clone());
        let raw = remote("/_matrix/media/v3/", move || {
            let reply = Reply::new(200).header("Content-Disposition", "inline");
            lines.iter().fold(reply, |reply, line| reply.header("Content-Type", line)).body(FILE)
        });
        let wrapped = msc3916(move || {
            let lines: Vec<_> = part.iter().map(|line| format!("Content-Type: {line}")).collect();
            multipart("B").body([head("B", &lines.join("\r\n")).as_bytes(), FILE, b"\r\n--B--"].concat())
        });
        for remote in [raw, wrapped] {
            unknown(&get(&sidecar, &remote), lists[0]);
            eventually("it is stored", || get(&sidecar, &remote).header("etag").is_some());
            unknown(&get(&sidecar, &remote), lists[0]);
        }
    }
}

#[test]
fn a_list_of_types_in_an_old_row_is_served_as_unknown() {
    let remote_key = RemoteKey::new(1);
    let name = Arc::new(std::sync::OnceLock::<String>::new());
    let told = Arc::clone(&name);
    let remote = Peer::tls(move |_| {
        Reply::json(200, &RemoteKey::new(1).document(told.get().unwrap(), Timestamp::now().0 + DAY))
    });
    name.set(remote.name()).unwrap();
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("text/plain", b"<script>");
    let catalog = rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    catalog.execute("UPDATE media SET content_type = 'text/plain;x=,text/html'", []).unwrap();
    let response = sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}/a.txt"));
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    assert_eq!(response.header("content-disposition"), Some("attachment; filename=a.txt"));
    let target = format!("{SIGNED}{}", mxc.split_once('/').unwrap().1);
    let header = remote_key.authorization(&remote.name(), OURS, &target);
    let text = sidecar.anonymous().with_header("Authorization", &header).get(&target).text();
    assert!(
        text.contains("\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment\r\n"),
        "{text}"
    );
}

#[test]
fn names_of_remote_files_come_out_as_their_users_wrote_them() {
    let sidecar = Sidecar::start();
    for (sent, expected) in [
        ("filename=Bericht%20f%C3%BCr%20%C3%84.zip", "filename*=utf-8''Bericht%20f%C3%BCr%20%C3%84.zip"),
        ("filename*=utf-8''a%2520b", "filename*=utf-8''a%20b"),
        ("filename=\"üml.png\"", "filename*=utf-8''%C3%BCml.png"),
        ("filename=\"100%.png\"", "filename*=utf-8''100%25.png"),
        ("filename=%FF.png", "filename*=utf-8''%25FF.png"),
        ("filename=a.png", "filename=a.png"),
    ] {
        let disposition = format!("inline; {sent}");
        let part = disposition.clone();
        let raw = remote("/_matrix/media/v3/", move || {
            let reply = Reply::new(200).header("Content-Type", "image/png");
            reply.header("Content-Disposition", &disposition).body(FILE)
        });
        let wrapped = msc3916(move || {
            let headers = format!("Content-Type: image/png\r\nContent-Disposition: {part}");
            multipart("B").body([head("B", &headers).as_bytes(), FILE, b"\r\n--B--"].concat())
        });
        for remote in [raw, wrapped] {
            let response = get(&sidecar, &remote);
            let expected = format!("inline; {expected}");
            assert_eq!(response.header("content-disposition"), Some(expected.as_str()), "{sent}");
        }
    }
}

/// Makes the catalog refuse new rows of a table.
fn refuse_rows(sidecar: &Sidecar, table: &str) {
    let catalog = rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    let refuse =
        format!("CREATE TRIGGER no_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END");
    catalog.execute_batch(&refuse).unwrap();
}

#[test]
fn media_comes_though_its_servers_family_cannot_be_remembered() {
    let remote =
        remote("/_matrix/media/v3/", || Reply::new(200).header("Content-Type", "image/png").body(FILE));
    let sidecar = Sidecar::start();
    refuse_rows(&sidecar, "server");
    assert_eq!(get(&sidecar, &remote).body, FILE);
    eventually("it is stored", || get(&sidecar, &remote).header("etag").is_some());
    let catalog = rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    catalog.execute_batch("ALTER TABLE server RENAME TO elsewhere").unwrap();
    assert_eq!(sidecar.alice().get(&download(&remote, "y")).body, FILE, "nor looked up");
}

#[test]
fn a_file_that_came_whole_is_given_whole_though_it_cannot_be_stored() {
    let remote = msc3916(|| {
        multipart("B").body([head("B", "Content-Type: image/png").as_bytes(), FILE, b"\r\n--B--"].concat())
    });
    let sidecar = Sidecar::start();
    refuse_rows(&sidecar, "media");
    for _ in 0..10 {
        let response = get(&sidecar, &remote);
        assert_eq!((response.status, response.complete), (200, true), "{}", response.text());
        assert_eq!(response.body, FILE);
    }
    eventually("nothing is left", || sidecar.leftovers() == 0 && sidecar.blobs().is_empty());
}

#[test]
fn a_signed_request_is_answered_though_the_keys_cannot_be_stored() {
    let can_answer = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&can_answer);
    let name = Arc::new(std::sync::OnceLock::<String>::new());
    let told = Arc::clone(&name);
    let remote = Peer::tls(move |_| match state.load(Ordering::SeqCst) {
        true => Reply::json(200, &RemoteKey::new(1).document(told.get().unwrap(), Timestamp::now().0 + DAY)),
        false => Reply::new(503),
    });
    name.set(remote.name()).unwrap();
    let sidecar = Sidecar::start();
    refuse_rows(&sidecar, "server_key");
    let mxc = sidecar.upload("text/plain", b"ours");
    let target = format!("{SIGNED}{}", mxc.split_once('/').unwrap().1);
    let ask = |seed| {
        let header = RemoteKey::new(seed).authorization(&remote.name(), OURS, &target);
        sidecar.anonymous().with_header("Authorization", &header).get(&target)
    };
    let response = ask(1);
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.text().contains("ours"));
    can_answer.store(false, Ordering::SeqCst);
    assert_eq!(
        (ask(1).status, remote.requests().len()),
        (200, 1),
        "it is remembered for as long as the process runs"
    );
    assert_eq!(ask(2).status, 401, "another key");
    sidecar.advance(Duration::from_hours(25));
    assert_eq!(ask(1).status, 401, "no longer valid");
}

#[test]
fn the_unstable_version_of_msc1902_is_asked_for_once_a_day() {
    let unstable = "/federation/unstable/org.matrix.msc1902/remote_media/download/";
    let is_unstable = move |path: &String| path.contains(unstable);
    // It has it nowhere.
    for errcode in ["M_UNRECOGNIZED", "M_NOT_FOUND"] {
        let none = Peer::tls(move |request| match request.path().starts_with("/_matrix/media/") {
            true => Reply::new(200).header("Content-Type", "image/png").body(FILE),
            false => Reply::error(404, errcode),
        });
        let only_1902 = |config: &mut Config| config.federation.families = vec![Family::Msc1902];
        let sidecar = Setup::new().with(only_1902).start();
        let fetch = |media_id: &str| {
            let response = sidecar.alice().get(&download(&none, media_id));
            assert!(matches!(response.status, 404 | 502), "{}", response.status);
            none.paths().iter().filter(|path| is_unstable(path)).count()
        };
        assert_eq!((fetch("a"), fetch("b")), (1, 1), "{errcode}");
        sidecar.advance(Duration::from_hours(23));
        assert_eq!(fetch("c"), 1, "{errcode}");
        sidecar.advance(Duration::from_hours(2));
        assert_eq!(fetch("d"), 2, "{errcode}");
    }
    // It has it there.
    for errcode in ["M_UNRECOGNIZED", "M_NOT_FOUND"] {
        let early = Peer::tls(move |request| match request.path().contains(unstable) {
            true => Reply::new(200).header("Content-Type", "image/png").body(FILE),
            false => Reply::error(404, errcode),
        });
        let sidecar = Sidecar::start();
        for (media_id, requests) in [("a", 2), ("b", 3), ("c", 4)] {
            assert_eq!(sidecar.alice().get(&download(&early, media_id)).body, FILE);
            assert_eq!(early.requests().len(), requests, "{errcode} {media_id}: {:?}", early.paths());
        }
        let request = early.requests().pop().unwrap();
        assert!(crate::harness::is_signed_by_us(&request, &early.name()));
        assert_eq!(request.query("allow_remote").as_deref(), Some("false"));
    }
}

/// What a server says of a path that it does not know must not keep us from those that it does know.
#[test]
fn no_answer_under_the_unstable_version_closes_the_other_ways() {
    for status in [401, 403, 500, 503, 400] {
        let remote = Peer::tls(move |request| match request.path() {
            path if path.contains("/unstable/") => Reply::error(status, "M_UNKNOWN"),
            path if path.contains("/federation/v1/media/") => multipart("B")
                .body([head("B", "Content-Type: image/png").as_bytes(), FILE, b"\r\n--B--"].concat()),
            _ => Reply::error(404, "M_UNRECOGNIZED"),
        });
        assert_eq!(get(&Sidecar::start(), &remote).body, FILE, "{status}");
    }
}

#[test]
fn names_that_no_server_can_have_are_404_at_once() {
    let sidecar = Sidecar::start();
    for name in [".", "..", "...", "%2e%2e", "a..b", ".a", "a..", "..:8448", &"a".repeat(64)] {
        for path in ["/_matrix/client/v1/media/download", "/_matrix/media/v3/download"] {
            let response = sidecar.alice().get(&format!("{path}/{name}/x"));
            assert_eq!(response.failure(), (404, "M_NOT_FOUND".to_owned()), "{name}");
        }
        let target = format!("{SIGNED}x");
        let header = RemoteKey::new(1).authorization(name, OURS, &target);
        assert_eq!(
            sidecar.anonymous().with_header("Authorization", &header).get(&target).status,
            401,
            "{name}"
        );
    }
    assert!(sidecar.zone.asked.lock().unwrap().is_empty(), "DNS was asked");
    let asked = sidecar.homeserver.peer.paths();
    assert!(!asked.iter().any(|path| path.contains("/key/v2/query")), "{asked:?}");
}
