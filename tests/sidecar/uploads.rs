//! `POST upload`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::client::read_response;
use crate::harness::{Client, Response, Setup, Sidecar, eventually};

const UPLOAD: &str = "/_matrix/media/v3/upload";

fn download(mxc: &str) -> String {
    format!("/_matrix/client/v1/media/download/{mxc}")
}

fn mxc(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

#[test]
fn an_upload_comes_back_as_it_was_under_every_name() {
    let sidecar = Sidecar::start();
    let bytes: Vec<u8> = (0..=255).cycle().take(700_001).collect();
    for target in [
        "/_matrix/media/r0/upload",
        "/_matrix/media/v1/upload",
        UPLOAD,
        "/_matrix/client/r0/media/upload",
        "/_matrix/client/unstable/org.matrix.msc1902/media/upload",
    ] {
        let target = format!("{target}?filename=b%C3%BCcher.bin");
        let mxc = mxc(&sidecar.alice().with_header("Content-Type", "video/mp4").post(&target, &bytes));
        assert!(mxc.starts_with("sidecar.test/"), "{mxc}");
        let response = sidecar.alice().get(&download(&mxc));
        assert!(response.body == bytes, "{target}");
        assert_eq!(response.header("content-type"), Some("video/mp4"));
        assert_eq!(response.header("content-disposition"), Some("inline; filename*=utf-8''b%C3%BCcher.bin"));
    }
}

#[test]
fn without_a_type_or_name_there_is_none() {
    let sidecar = Sidecar::start();
    for target in [UPLOAD, "/_matrix/media/v3/upload?filename="] {
        let mxc = mxc(&sidecar.alice().post(target, b"x"));
        let response = sidecar.alice().get(&download(&mxc));
        assert_eq!(response.header("content-type"), Some("application/octet-stream"));
        assert_eq!(response.header("content-disposition"), Some("attachment"));
    }
    assert_eq!(
        sidecar.alice().post("/_matrix/media/v3/upload?filename=%ff", b"x").failure(),
        (400, "M_UNKNOWN".to_owned())
    );
}

#[test]
fn a_name_that_a_browser_encoded_twice_comes_out_as_its_user_wrote_it() {
    let sidecar = Sidecar::start();
    for (query, disposition) in [
        (
            "Bericht%2520f%25C3%25BCr%2520%25C3%2584.zip",
            "attachment; filename*=utf-8''Bericht%20f%C3%BCr%20%C3%84.zip",
        ),
        ("Bericht%20f%C3%BCr%20%C3%84.zip", "attachment; filename*=utf-8''Bericht%20f%C3%BCr%20%C3%84.zip"),
        ("a%2520b.png", "attachment; filename*=utf-8''a%20b.png"),
        ("plain.png", "attachment; filename=plain.png"),
        ("100%25.txt", "attachment; filename*=utf-8''100%25.txt"),
        ("50%25ab.txt", "attachment; filename*=utf-8''50%25ab.txt"),
        ("a%250D%250Ab", "attachment; filename*=utf-8''a%250D%250Ab"),
    ] {
        let mxc = mxc(&sidecar.alice().post(&format!("{UPLOAD}?filename={query}"), b"x"));
        let response = sidecar.alice().get(&download(&mxc));
        assert_eq!(response.header("content-disposition"), Some(disposition), "{query}");
    }
    // The longest name is cut after it is decoded, not in the middle of an escape.
    let long = "%25C3%25BC".repeat(200);
    let mxc = mxc(&sidecar.alice().post(&format!("{UPLOAD}?filename={long}"), b"x"));
    let response = sidecar.alice().get(&download(&mxc));
    let expected = format!("attachment; filename*=utf-8''{}", "%C3%BC".repeat(127));
    assert_eq!(response.header("content-disposition"), Some(expected.as_str()));
}

#[test]
fn identical_bytes_are_stored_once_and_keep_their_ids() {
    let sidecar = Sidecar::start();
    let one = sidecar.upload("text/plain", b"same");
    let two = mxc(&sidecar.user("bob").with_header("Content-Type", "image/png").post(UPLOAD, b"same"));
    assert_ne!(one, two);
    assert_eq!(sidecar.blobs().len(), 1);
    let name = sidecar.blobs()[0].file_name().unwrap().to_str().unwrap().to_owned();
    // printf same | sha256sum
    assert_eq!(name, "0967115f2813a3541eaef77de9d9d5773f1c0c04314b0bbfe4ff3b3b1c55b5d5");
    assert_eq!(sidecar.alice().get(&download(&two)).header("content-type"), Some("image/png"));
    assert_eq!(
        sidecar.alice().get(&download(&one)).header("content-type"),
        Some("text/plain; charset=UTF-8")
    );
}

#[test]
fn an_empty_upload_is_media_too() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("text/plain", b"");
    let response = sidecar.alice().get(&download(&mxc));
    assert_eq!((response.status, response.header("content-length")), (200, Some("0")));
}

#[test]
fn an_upload_over_the_limit_is_413_and_leaves_nothing() {
    let sidecar = Setup::new().with(|config| config.uploads.max_size.0 = 1_000_000).start();
    let too_large = (413, "M_TOO_LARGE".to_owned());
    assert_eq!(sidecar.alice().post(UPLOAD, &vec![0; 1_000_001]).failure(), too_large);
    assert_eq!(sidecar.alice().post(UPLOAD, &vec![0; 1_000_000]).status, 200);

    // Without a length only counting tells.
    let alice = sidecar.alice();
    let mut connection = alice.connect();
    write!(connection, "{}Transfer-Encoding: chunked\r\n\r\n", alice.head_of("POST", UPLOAD)).unwrap();
    let chunk = vec![0; 100_000];
    for _ in 0..11 {
        write!(connection, "{:x}\r\n", chunk.len()).unwrap();
        connection.write_all(&chunk).unwrap();
        connection.write_all(b"\r\n").unwrap();
    }
    connection.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut connection, "POST").failure(), too_large);
    eventually("nothing is left", || sidecar.leftovers() == 0);
    assert_eq!(sidecar.blobs().len(), 1);
}

#[test]
fn after_a_413_the_connection_goes_on() {
    let sidecar = Setup::new().with(|config| config.uploads.max_size.0 = 1000).start();
    let alice = sidecar.alice();
    let mut connection = alice.connect();
    connection.write_all(&alice.request("POST", UPLOAD, &vec![7; 3_000_000])).unwrap();
    assert_eq!(read_response(&mut connection, "POST").status, 413);
    connection.write_all(&alice.request("POST", UPLOAD, b"small")).unwrap();
    assert_eq!(read_response(&mut connection, "POST").status, 200);
}

#[test]
fn a_chunked_upload_without_a_length_is_taken() {
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let mut connection = alice.connect();
    write!(connection, "{}Transfer-Encoding: chunked\r\n\r\n", alice.head_of("POST", UPLOAD)).unwrap();
    connection.write_all(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").unwrap();
    let mxc = mxc(&read_response(&mut connection, "POST"));
    assert_eq!(sidecar.alice().get(&download(&mxc)).text(), "hello world");
}

#[test]
fn an_upload_cut_in_the_middle_leaves_nothing() {
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let mut connection = alice.connect();
    write!(connection, "{}Content-Length: 1000000\r\n\r\n", alice.head_of("POST", UPLOAD)).unwrap();
    connection.write_all(&vec![1; 600_000]).unwrap();
    eventually("the upload has begun", || sidecar.leftovers() == 1);
    connection.shutdown(std::net::Shutdown::Both).unwrap();
    eventually("nothing is left", || sidecar.leftovers() == 0);
    assert!(sidecar.blobs().is_empty());
}

/// Asks for leave to send an upload of 4 bytes.
fn ask(client: &Client, method: &str, target: &str) -> TcpStream {
    let mut connection = client.connect();
    let head = client.clone().with_header("Expect", "100-continue").head_of(method, target);
    write!(connection, "{head}Content-Length: 4\r\n\r\n").unwrap();
    connection
}

/// Waits for the leave.
fn await_leave(mut connection: TcpStream) -> TcpStream {
    let mut leave = [0; 25];
    connection.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection
}

/// Whether there is something to read.
fn is_answered(connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    let answered = connection.peek(&mut [0]).is_ok();
    connection.set_nonblocking(false).unwrap();
    answered
}

#[test]
fn a_user_has_32_uploads_under_way_and_further_ones_take_turns() {
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let created = alice.post("/_matrix/media/v1/create", b"{}").json();
    let into = created["content_uri"].as_str().unwrap().replace("mxc://", "/_matrix/media/v3/upload/");
    let mut under_way: Vec<_> = (0..32).map(|_| await_leave(ask(&alice, "POST", UPLOAD))).collect();
    let next = ask(&alice, "PUT", &into);
    // Nothing else waits, and nobody else.
    assert_eq!(sidecar.user("bob").post(UPLOAD, b"his").status, 200);
    assert_eq!(alice.get("/_matrix/client/v1/media/config").status, 200);
    assert!(!is_answered(&next));
    // One that ends makes room: stored, ...
    let mut ending = under_way.pop().unwrap();
    ending.write_all(b"mine").unwrap();
    assert_eq!(read_response(&mut ending, "POST").status, 200);
    let mut into = await_leave(next);
    // ... broken off, ...
    let next = ask(&alice, "POST", UPLOAD);
    under_way.pop();
    let mut next = await_leave(next);
    // ... or refused for another reason.
    for connection in [&mut into, &mut next] {
        connection.write_all(b"more").unwrap();
        assert_eq!(read_response(connection, "POST").status, 200);
    }
    for _ in 0..40 {
        assert_eq!(alice.post("/_matrix/media/v3/upload?filename=%ff", b"x").status, 400);
    }
    assert_eq!(alice.post(UPLOAD, b"mine").status, 200);
}

#[test]
fn who_comes_when_256_uploads_wait_for_a_turn_is_429_before_anything_is_sent() {
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let under_way: Vec<_> = (0..32).map(|_| await_leave(ask(&alice, "POST", UPLOAD))).collect();
    let mut waiting: Vec<_> = (0..257).map(|_| ask(&alice, "POST", UPLOAD)).collect();
    eventually("one is answered", || waiting.iter().any(is_answered));
    let mut refused = waiting.swap_remove(waiting.iter().position(is_answered).unwrap());
    let refused = read_response(&mut refused, "POST");
    assert_eq!(refused.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(refused.json()["retry_after_ms"], 5000);
    assert_eq!(sidecar.user("bob").post(UPLOAD, b"his").status, 200);
    // All of them go away: no place stays taken.
    drop((under_way, waiting));
    eventually("there is a turn", || alice.post(UPLOAD, b"mine").status == 200);
}

#[test]
fn a_bridge_that_sends_a_hundred_small_files_at_once_gets_all_of_them_stored() {
    let sidecar = Sidecar::start();
    let bridge = sidecar.user("bridge");
    let target = format!("{UPLOAD}?user_id=@_bridge_a:sidecar.test");
    let mut connections: Vec<_> = (0..250_u64)
        .map(|number| {
            let mut connection = bridge.connect();
            let bytes = crate::harness::unique(number, 5000);
            connection.write_all(&bridge.request("POST", &target, &bytes)).unwrap();
            connection
        })
        .collect();
    for connection in &mut connections {
        assert_eq!(read_response(connection, "POST").status, 200);
    }
    assert_eq!(sidecar.blobs().len(), 250);
}

#[test]
fn a_client_that_waits_for_leave_to_send_is_answered_before_it_sends() {
    let sidecar = Setup::new().with(|config| config.uploads.max_size.0 = 1000).start();
    let alice = sidecar.alice().with_header("Expect", "100-continue");
    let mut connection = alice.connect();
    write!(connection, "{}Content-Length: 5000\r\n\r\n", alice.head_of("POST", UPLOAD)).unwrap();
    assert_eq!(read_response(&mut connection, "POST").status, 413);

    let mut connection = alice.connect();
    write!(connection, "{}Content-Length: 2\r\n\r\n", alice.head_of("POST", UPLOAD)).unwrap();
    let mut leave = [0; 25];
    connection.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write_all(b"hi").unwrap();
    assert_eq!(read_response(&mut connection, "POST").status, 200);
}
