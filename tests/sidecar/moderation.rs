//! What the operator does on the command line: usage, retention, quarantine, blocking, deletion.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use crate::binary::{Folder, Service, text};
use crate::harness::{Authority, Peer, Reply, eventually, picture};

const UPLOAD: &str = "/_matrix/media/v3/upload";

/// A service that trusts the test's other servers.
fn folder(more: &str) -> Folder {
    let folder = Folder::new(&format!("federation: {{ip_allow: [127.0.0.0/8], ca_file: ca.pem}}\n{more}"));
    std::fs::write(folder.path("ca.pem"), Authority::get().ca_pem()).unwrap();
    folder
}

/// Another server that gives `bytes` for every ID, and counts.
fn remote(bytes: Vec<u8>) -> (Peer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let peer = Peer::tls(move |request| {
        if request.path().contains("/download/") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        let reply =
            Reply::new(200).header("Content-Type", "image/png").header("Content-Disposition", "inline");
        reply.body(&bytes)
    });
    (peer, asked)
}

fn upload(service: &Service, user: &str, bytes: &[u8]) -> String {
    let answer = service.user(user).with_header("Content-Type", "image/png").post(UPLOAD, bytes);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["content_uri"].as_str().unwrap().to_owned()
}

/// `server/id` of a URI.
fn path(mxc: &str) -> &str {
    mxc.strip_prefix("mxc://").unwrap()
}

/// Status of a download and of a thumbnail.
fn served(service: &Service, mxc: &str) -> [u16; 2] {
    let download = format!("/_matrix/client/v1/media/download/{}", path(mxc));
    let thumbnail =
        format!("/_matrix/client/v1/media/thumbnail/{}?width=32&height=32&method=scale", path(mxc));
    [service.alice().get(&download).status, service.alice().get(&thumbnail).status]
}

/// Runs a command. Gives its exit status and what it printed.
fn run(folder: &Folder, arguments: &[&str]) -> (i32, String) {
    let output = folder.run(arguments);
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

/// Synapse's behaviour, row by row: quarantine is by content, spares protected media, holds for later uploads, and can be lifted.
#[test]
fn quarantine_is_by_content_and_reversible_and_spares_what_is_protected() {
    let folder = folder("");
    let (far, asked) = remote(picture(1));
    let service = folder.serve();
    let (one, two) = (upload(&service, "alice", &picture(1)), upload(&service, "bob", &picture(1)));
    let (safe, other) = (upload(&service, "user3", &picture(1)), upload(&service, "alice", &picture(2)));
    let far = format!("mxc://{}/x", far.name());
    for mxc in [&one, &two, &safe, &other, &far] {
        assert_eq!(served(&service, mxc), [200, 200], "{mxc}");
    }
    eventually("it is stored", || run(&folder, &["media", "show", &far]).0 == 0);
    assert_eq!(run(&folder, &["media", "protect", &safe]).0, 0);

    // A protected one: nothing happens. An unknown one: nothing happens, and it is said.
    let (status, told) = run(&folder, &["media", "quarantine", &safe]);
    assert_eq!((status, told.contains("protected")), (0, true), "{told}");
    assert_eq!(served(&service, &one), [200, 200]);
    let (status, told) = run(&folder, &["media", "quarantine", "mxc://sidecar.test/unknown"]);
    assert_eq!((status, told.contains("unknown")), (1, true), "{told}");

    let (status, told) = run(&folder, &["media", "quarantine", &one, "--reason", "a report"]);
    assert_eq!((status, told.contains("addresses changed: 3")), (0, true), "{told}");
    let count = asked.load(Ordering::SeqCst);
    for mxc in [&one, &two, &far] {
        assert_eq!(served(&service, mxc), [404, 404], "{mxc}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), count, "it is not fetched again");
    for mxc in [&safe, &other] {
        assert_eq!(served(&service, mxc), [200, 200], "{mxc}");
    }
    // Born quarantined; the uploader learns nothing.
    let again = upload(&service, "alice", &picture(1));
    assert_eq!(served(&service, &again), [404, 404]);
    let (_, shown) = run(&folder, &["media", "show", &again]);
    assert!(shown.contains("quarantined by") && shown.contains("system"), "{shown}");

    let (status, told) = run(&folder, &["media", "unquarantine", &again]);
    assert_eq!((status, told.contains("addresses changed: 4")), (0, true), "{told}");
    for mxc in [&one, &two, &far, &again, &safe] {
        assert_eq!(served(&service, mxc), [200, 200], "{mxc}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), count, "nothing was lost");
}

#[test]
fn quarantined_remote_media_that_is_evicted_is_not_fetched_again() {
    let folder = folder("");
    let (far, asked) = remote(picture(1));
    let service = folder.serve();
    let far = format!("mxc://{}/x", far.name());
    assert_eq!(served(&service, &far)[0], 200);
    eventually("it is stored", || run(&folder, &["media", "show", &far]).0 == 0);
    run(&folder, &["media", "quarantine", &far]);
    let (_, told) = run(&folder, &["retention", "--max-store", "1B"]);
    let (_, shown) = run(&folder, &["media", "show", &far]);
    assert!(shown.contains("quarantined, not stored"), "{shown}\n{told}");
    let count = asked.load(Ordering::SeqCst);
    assert_eq!(served(&service, &far), [404, 404]);
    assert_eq!(asked.load(Ordering::SeqCst), count);
    run(&folder, &["media", "unquarantine", &far]);
    assert_eq!(served(&service, &far)[0], 200);
    assert_eq!(asked.load(Ordering::SeqCst), count + 1, "it is fetched on demand");
}

#[test]
fn blocked_hashes_outlive_rows_and_move_between_stores_as_a_list() {
    let folder = folder("");
    let bytes = picture(7);
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
    let list = folder.path("list.txt");
    std::fs::write(
        &list,
        format!("# a shared list\n\n{}  # upper case\n{}\n", hash.to_uppercase(), "0".repeat(64)),
    )
    .unwrap();
    // No service runs, and none has: there is no store.
    let (status, told) = run(&folder, &["block", "export"]);
    assert_eq!((status, told.contains("there is no store")), (1, true), "{told}");
    drop(folder.serve());
    let (status, told) = run(&folder, &["block", "import", list.to_str().unwrap(), "--reason", "shared"]);
    assert_eq!((status, told.contains("blocked 2 hashes")), (0, true), "{told}");

    let service = folder.serve();
    let mxc = upload(&service, "alice", &bytes);
    assert_eq!(served(&service, &mxc), [404, 404]);
    assert_eq!(run(&folder, &["media", "delete", &mxc]).0, 0);
    assert_eq!(served(&service, &upload(&service, "alice", &bytes)), [404, 404]);
    let (_, exported) = run(&folder, &["block", "export"]);
    assert_eq!(exported.lines().collect::<Vec<_>>(), [&"0".repeat(64), &hash]);
    let (_, told) = run(&folder, &["block", "remove", &hash, &"1".repeat(64)]);
    assert!(told.contains("unblocked 1 of 2 hashes"), "{told}");
    assert_eq!(served(&service, &upload(&service, "alice", &bytes)), [200, 200]);
    std::fs::write(&list, "not a hash\n").unwrap();
    let (status, told) = run(&folder, &["block", "import", list.to_str().unwrap()]);
    assert_eq!((status, told.contains("list.txt:1: `not a hash` is not a SHA-256")), (1, true), "{told}");
}

#[test]
fn what_is_deleted_never_comes_back_and_what_shares_its_bytes_stays() {
    let folder = folder("");
    let (far, asked) = remote(picture(1));
    let service = folder.serve();
    let (one, two) = (upload(&service, "alice", &picture(1)), upload(&service, "bob", &picture(1)));
    let far_one = format!("mxc://{}/x", far.name());
    let unseen = format!("mxc://{}/unseen", far.name());
    assert_eq!(served(&service, &far_one)[0], 200);
    eventually("it is stored", || run(&folder, &["media", "show", &far_one]).0 == 0);
    let count = asked.load(Ordering::SeqCst);
    let (status, told) = run(&folder, &["media", "delete", &one, &far_one, &unseen]);
    assert_eq!((status, told.contains("deleted 2 of 3 files")), (0, true), "{told}");
    for mxc in [&one, &far_one, &unseen] {
        assert_eq!(served(&service, mxc), [404, 404], "{mxc}");
        assert!(run(&folder, &["media", "show", mxc]).1.contains("deleted"), "{mxc}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), count, "nothing is fetched again");
    assert_eq!(served(&service, &two), [200, 200], "it has the same bytes");

    // All of a user, all of a server; the bytes go with the last row.
    let blobs = || {
        std::fs::read_dir(folder.path("data/blobs"))
            .unwrap()
            .flatten()
            .map(|folder| std::fs::read_dir(folder.path()).unwrap().count())
            .sum::<usize>()
    };
    let other = upload(&service, "alice", &picture(3));
    assert_eq!(served(&service, &format!("mxc://{}/y", far.name()))[0], 200);
    eventually("it is stored", || {
        run(&folder, &["media", "show", &format!("mxc://{}/y", far.name())]).0 == 0
    });
    let (_, told) = run(&folder, &["media", "delete", "--user", "@bob:sidecar.test"]);
    assert!(told.contains("deleted 1 files"), "{told}");
    let (_, told) = run(&folder, &["media", "delete", "--server", &far.name()]);
    assert!(told.contains("deleted 1 files"), "{told}");
    assert_eq!((served(&service, &two), served(&service, &other)), ([404, 404], [200, 200]));
    run(&folder, &["media", "delete", &other]);
    assert_eq!(blobs(), 0);
    let (status, told) = run(&folder, &["media", "delete", "nonsense"]);
    assert_eq!((status, told.contains("is not an MXC URI")), (1, true), "{told}");
}

#[test]
fn retention_evicts_what_can_come_back_and_usage_says_who_takes_the_room() {
    let folder = folder("");
    let (far, asked) = remote(vec![7; 200_000]);
    let service = folder.serve();
    let mine = upload(&service, "alice", &picture(1));
    let far_one = format!("mxc://{}/x", far.name());
    assert_eq!(served(&service, &far_one)[0], 200);
    eventually("it is stored", || run(&folder, &["media", "show", &far_one]).0 == 0);

    for (by, name) in
        [("server", far.name()), ("user", "@alice:sidecar.test".to_owned()), ("type", "image/png".to_owned())]
    {
        let (status, table) = run(&folder, &["usage", "--by", by]);
        let shown: String = name.chars().take(33).collect();
        assert!(status == 0 && table.contains(&shown), "{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        let is_aligned = |line: &str| line.chars().count() == 76;
        assert!(table.lines().skip(2).all(is_aligned), "numbers end in one column: {table}");
    }
    let (_, json) = run(&folder, &["usage", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let remote = json["rows"].as_array().unwrap().iter().find(|row| row["name"] == "remote").unwrap();
    assert_eq!((&remote["referenced"], &remote["freed"]), (&200_000.into(), &200_000.into()));

    let arguments = ["retention", "--dry-run", "--max-store", "1KiB"];
    let (status, told) = run(&folder, &arguments);
    assert!(status == 0 && told.contains("would go") && told.contains(&far_one), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 80), "{told}");
    assert_eq!(run(&folder, &["media", "show", &far_one]).0, 0, "a dry run evicts nothing");
    let (_, told) = run(&folder, &["retention", "--max-store", "1B"]);
    assert!(told.contains("1 files went") && told.contains("retention.max_store is not met"), "{told}");
    assert_eq!(run(&folder, &["media", "show", &far_one]).0, 1);
    assert_eq!(served(&service, &mine), [200, 200], "local media stays whatever the bounds are");
    let count = asked.load(Ordering::SeqCst);
    assert_eq!(served(&service, &far_one)[0], 200, "it comes back on demand");
    assert_eq!(asked.load(Ordering::SeqCst), count + 1);
    drop(service);
    let (status, told) = run(&folder, &["usage"]);
    assert!(status == 0 && told.contains("local"), "without the service: {told}");
}

/// Every local user can connect to a port, and so can a web page in a browser here.
#[test]
fn acts_are_for_the_unix_socket_alone() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = folder(&format!("ops: {{listen: \"{free}\"}}\n"));
    let _service = folder.serve();
    let (status, told) = run(&folder, &["usage"]);
    assert_eq!((status, told.contains("needs a Unix socket")), (1, true), "{told}");
}

#[test]
fn damaged_copies_are_dropped_and_fetched_anew_and_damaged_local_files_are_kept_and_named() {
    let folder = folder("");
    let (far, asked) = remote(picture(1));
    let service = folder.serve();
    let mine = upload(&service, "alice", &picture(2));
    let sound = upload(&service, "alice", &picture(3));
    let far_one = format!("mxc://{}/x", far.name());
    assert_eq!(served(&service, &far_one)[0], 200);
    eventually("it is stored", || run(&folder, &["media", "show", &far_one]).0 == 0);
    let (status, told) = run(&folder, &["scrub", "--rate", "100MiB/s"]);
    assert_eq!((status, told.contains("damaged and kept: 0")), (0, true), "{told}");
    drop(service);
    for bytes in [picture(1), picture(2)] {
        let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
        let path = folder.path(&format!("data/blobs/{}/{hash}", &hash[..2]));
        std::fs::remove_file(&path).unwrap();
        let damaged: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
        std::fs::write(&path, damaged).unwrap();
    }
    let service = folder.serve();
    let (status, told) = run(&folder, &["scrub", "--rate", "100MiB/s"]);
    assert_eq!(status, 1, "{told}");
    assert!(told.contains("damaged copies removed: 1; damaged and kept: 1"), "{told}");
    assert!(told.contains(&format!("{mine}\n")) && told.contains("DAMAGED, kept"), "{told}");
    let count = asked.load(Ordering::SeqCst);
    assert_eq!(
        service.alice().get(&format!("/_matrix/client/v1/media/download/{}", path(&far_one))).body,
        picture(1)
    );
    assert_eq!(asked.load(Ordering::SeqCst), count + 1);
    assert_eq!(run(&folder, &["media", "show", &mine]).0, 0, "its row stays");
    assert_eq!(served(&service, &sound), [200, 200]);
}

#[test]
fn a_user_who_is_none_is_named_instead_of_deleting_nothing() {
    let folder = folder("");
    drop(folder.serve());
    let (status, told) = run(&folder, &["media", "delete", "--user", "bob"]);
    assert_eq!(
        (status, told.contains("`bob` is not a user ID (like @alice:example.org)")),
        (1, true),
        "{told}"
    );
}
