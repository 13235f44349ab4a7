//! What users may upload, what they see of it, and deleting what is theirs.

use std::thread;

use media_sidecar::config::{Config, Size, UserQuota};

use crate::harness::{Client, Peer, Reply, Setup, Sidecar, eventually, unique};

const UPLOAD: &str = "/_matrix/media/v3/upload";
const USAGE: &str = "/_matrix/media/v3/usage";
const CONFIG: &str = "/_matrix/client/v1/media/config";

fn quota(pattern: &str, max_bytes: Option<u64>, max_files: Option<u64>) -> UserQuota {
    UserQuota { pattern: pattern.to_owned(), max_bytes: max_bytes.map(Size), max_files }
}

fn with_quotas(users: Vec<UserQuota>, info_url: Option<&str>) -> Sidecar {
    let info_url = info_url.map(str::to_owned);
    let change = |config: &mut Config| {
        config.quotas.users = users;
        config.quotas.info_url = info_url;
    };
    Setup::new().with(change).start()
}

/// The number under its stable name, which the unstable one equals.
fn storage(client: &Client, path: &str, name: &str) -> Option<u64> {
    let json = client.get(path).json();
    let stable = json[format!("m.storage.{name}")].as_u64();
    assert_eq!(json[format!("org.matrix.msc4034.storage.{name}")].as_u64(), stable, "{json}");
    stable
}

#[test]
fn a_user_may_have_so_many_bytes_and_is_told_where_it_is_explained() {
    let users = vec![quota("@alice:*", Some(1000), None), quota("*", None, None)];
    let sidecar = with_quotas(users, Some("https://example.org/storage"));
    let (alice, bob) = (sidecar.alice(), sidecar.user("bob"));
    assert_eq!(alice.post(UPLOAD, &unique(1, 600)).status, 200);
    // Each row counts whole, shared or not.
    assert_eq!(bob.post(UPLOAD, &unique(1, 600)).status, 200);
    let refused = alice.post(UPLOAD, &unique(1, 600));
    assert_eq!(refused.failure(), (403, "M_USER_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(refused.json()["info_uri"], "https://example.org/storage");
    assert_eq!(refused.json()["can_upgrade"], false);
    assert_eq!(alice.post(UPLOAD, &unique(2, 400)).status, 200);
    assert_eq!(alice.post(UPLOAD, b"").status, 200, "no byte more");
    assert_eq!(alice.post(UPLOAD, b"x").status, 403);
    assert_eq!(bob.post(UPLOAD, &unique(3, 5000)).status, 200, "the first entry that matches counts");

    assert_eq!(storage(&alice, CONFIG, "size"), Some(1000));
    assert_eq!(storage(&alice, CONFIG, "max_files"), None, "what has no bound is left out");
    for path in [USAGE, "/_matrix/media/unstable/org.matrix.msc4034/usage", CONFIG] {
        assert_eq!(
            (storage(&alice, path, "used"), storage(&alice, path, "files")),
            (Some(1000), Some(3)),
            "{path}"
        );
    }
    assert_eq!((storage(&bob, USAGE, "used"), storage(&bob, CONFIG, "used")), (Some(5600), None));
    assert_eq!(storage(&sidecar.user("user3"), USAGE, "used"), Some(0));
    assert_eq!(sidecar.anonymous().get(USAGE).status, 401);
}

#[test]
fn a_chunked_upload_over_the_quota_is_refused_at_its_end_and_leaves_nothing() {
    let sidecar = with_quotas(vec![quota("*", Some(1000), None)], None);
    let alice = sidecar.alice().with_header("Transfer-Encoding", "chunked");
    let body = [b"5dc\r\n".as_slice(), &[7; 1500], b"\r\n0\r\n\r\n"].concat();
    let refused = alice.post(UPLOAD, &body);
    assert_eq!(refused.failure(), (403, "M_FORBIDDEN".to_owned()));
    eventually("nothing is left", || sidecar.blobs().is_empty() && sidecar.leftovers() == 0);
}

#[test]
fn created_ids_count_as_files_and_filling_one_counts_its_bytes() {
    let sidecar = with_quotas(vec![quota("*", Some(1000), Some(2))], None);
    let alice = sidecar.alice();
    let created =
        alice.post("/_matrix/media/v1/create", b"{}").json()["content_uri"].as_str().unwrap().to_owned();
    let into = format!("/_matrix/media/v3/upload/{}", created.strip_prefix("mxc://").unwrap());
    assert_eq!(alice.post(UPLOAD, b"x").status, 200);
    assert_eq!(alice.post(UPLOAD, b"x").status, 403);
    assert_eq!(alice.post("/_matrix/media/v1/create", b"{}").status, 403);
    assert_eq!(alice.put(&into, &unique(1, 1000)).status, 403);
    assert_eq!(alice.put(&into, &unique(1, 999)).status, 200, "the ID is counted already");
    assert_eq!((storage(&alice, USAGE, "used"), storage(&alice, USAGE, "files")), (Some(1000), Some(2)));
}

#[test]
fn twenty_uploads_at_once_cannot_share_the_last_bytes() {
    let sidecar = with_quotas(vec![quota("*", Some(5000), None)], None);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let uploads: Vec<_> = (0..20)
            .map(|number| {
                let alice = sidecar.alice();
                scope.spawn(move || alice.post(UPLOAD, &unique(number, 1000)).status)
            })
            .collect();
        uploads.into_iter().map(|upload| upload.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
    assert_eq!(storage(&sidecar.alice(), USAGE, "used"), Some(5000));
}

#[test]
fn users_delete_what_is_theirs_and_nothing_else() {
    let far = Peer::tls(|_| Reply::new(200).header("Content-Disposition", "inline").body("x"));
    let sidecar = Sidecar::start();
    let (alice, bob) = (sidecar.alice(), sidecar.user("bob"));
    let redact = |mxc: &str| format!("/_matrix/client/v1/media/redact/{mxc}");
    let deletes = |mxc: &str| {
        [
            format!("/_matrix/client/v1/media/{mxc}"),
            format!("/_matrix/client/unstable/org.matrix.msc4425/{mxc}"),
            format!("/_matrix/media/v3/download/{mxc}"),
            format!("/_matrix/media/r0/download/{mxc}"),
        ]
    };
    let download =
        |mxc: &str| sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}")).status;
    let of_far = format!("{}/x", far.name());
    assert_eq!(download(&of_far), 200);
    let mxc = sidecar.upload("text/plain", b"mine");
    let other = sidecar.upload("text/plain", b"mine");
    for target in [redact(&mxc), redact(&of_far)] {
        assert_eq!(bob.post(&target, b"{}").failure(), (403, "M_FORBIDDEN".to_owned()), "{target}");
    }
    assert_eq!(alice.post(&redact("sidecar.test/unknown"), b"{}").status, 404);
    assert_eq!(alice.post(&redact(&mxc), b"{\"reason\": \"oops\"}").status, 200);
    assert_eq!(alice.post(&redact(&mxc), b"").status, 200, "again");
    let unstable = "/_matrix/client/unstable/uk.timedout.msc4322/media/redact";
    assert_eq!(alice.post(&format!("{unstable}/{mxc}"), b"").status, 200);
    assert_eq!((download(&mxc), download(&other)), (404, 200));
    for (number, target) in (0..).zip(deletes("x")) {
        let mxc = sidecar.upload("text/plain", &unique(number, 100));
        let target = target.replace("/x", &format!("/{mxc}"));
        assert_eq!(bob.send("DELETE", &target, b"").status, 403, "{target}");
        assert_eq!(alice.send("DELETE", &target, b"").status, 200, "{target}");
        assert_eq!(alice.send("DELETE", &target, b"").status, 404, "{target}");
        assert_eq!(download(&mxc), 404);
    }
    assert_eq!(sidecar.anonymous().send("DELETE", &deletes(&other)[0], b"").status, 401);
    assert_eq!(sidecar.user("guest").send("DELETE", &deletes(&other)[0], b"").status, 403);
    assert_eq!(sidecar.blobs().len(), 2, "one of ours and one of the other server");
}

#[test]
fn who_waits_for_an_upload_is_told_when_its_id_is_deleted() {
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let created =
        alice.post("/_matrix/media/v1/create", b"{}").json()["content_uri"].as_str().unwrap().to_owned();
    let mxc = created.strip_prefix("mxc://").unwrap().to_owned();
    let target = format!("/_matrix/client/v1/media/download/{mxc}?timeout_ms=60000");
    let bob = sidecar.user("bob");
    let waiting = thread::spawn(move || bob.get(&target).status);
    eventually("it waits, or will find it deleted", || {
        alice.send("DELETE", &format!("/_matrix/client/v1/media/{mxc}"), b"").status != 500
    });
    assert_eq!(waiting.join().unwrap(), 404);
    let catalog = rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    let count: i64 = catalog.query_row("SELECT count(*) FROM gone", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0, "an ID without content leaves nothing: nobody can make the catalog grow with it");
    assert_eq!(alice.put(&format!("/_matrix/media/v3/upload/{mxc}"), b"late").status, 404);
}
