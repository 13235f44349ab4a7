//! What goes on in the background.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use media_sidecar::config::{RemoteStore, UnauthenticatedMedia};

use crate::harness::{Peer, Reply, Setup, Sidecar, eventually};

#[test]
fn blobs_without_a_row_are_noted_and_stay_where_they_are() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("text/plain", b"wanted");
    let folder = sidecar.stop();
    // printf orphan | sha256sum
    let orphan =
        folder.path().join("data/blobs/7b/7b9aa6bc2ec2b1ac9d1b1a0f8ebb7b7a0a7a6c1b1f7be0f0c7e0a5ad7a7c1e55");
    std::fs::write(&orphan, b"orphan").unwrap();
    std::fs::set_permissions(&orphan, std::fs::Permissions::from_mode(0o400)).unwrap();
    let sidecar = Setup::in_folder(folder).start();
    let catalog = rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    let noted = || catalog.query_row("SELECT count(*) FROM orphan", [], |row| row.get::<_, i64>(0)).unwrap();
    eventually("the orphan is noted", || noted() == 1);
    assert_eq!(sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}")).status, 200);
    assert!(orphan.exists());
    assert_eq!(sidecar.blobs().len(), 2);
}

#[test]
fn last_access_is_written_when_the_service_stops_if_it_is_a_day_later() {
    for (hours, written) in [(25, 25), (23, 0)] {
        let sidecar = Sidecar::start();
        let mxc = sidecar.upload("text/plain", b"x");
        sidecar.advance(std::time::Duration::from_hours(hours));
        assert_eq!(sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}")).status, 200);
        let folder = sidecar.stop();
        let catalog = rusqlite::Connection::open(folder.path().join("data/catalog.db")).unwrap();
        let later: i64 =
            catalog.query_row("SELECT last_access_ms - created_ms FROM media", [], |row| row.get(0)).unwrap();
        assert_eq!(later, written * 3_600_000);
    }
}

#[test]
fn remote_media_fetched_while_frozen_stays_hidden_from_callers_without_a_token() {
    let remote = Peer::tls(|_| Reply::new(200).header("Content-Disposition", "inline").body("x"));
    let freeze = |config: &mut media_sidecar::config::Config| {
        config.unauthenticated_media = UnauthenticatedMedia::Frozen;
    };
    let sidecar = Setup::new().with(freeze).start();
    let path = format!("/_matrix/media/v3/download/{}/x", remote.name());
    assert_eq!(sidecar.alice().get(&path).status, 200);
    eventually("it is stored", || sidecar.alice().get(&path).header("etag").is_some());
    assert_eq!(sidecar.anonymous().get(&path).status, 404);
}

#[test]
fn a_second_process_over_the_same_store_is_refused() {
    let sidecar = Sidecar::start();
    let folder = Arc::clone(&sidecar.folder);
    let second = std::panic::catch_unwind(move || Setup::in_folder(folder).start());
    assert!(second.is_err());
    sidecar.upload("text/plain", b"goes on");
}

#[test]
fn a_row_whose_blob_is_away_stays_though_its_origin_is_gone() {
    let is_up = Arc::new(AtomicBool::new(true));
    let up = Arc::clone(&is_up);
    let remote = Peer::tls(move |_| {
        if up.load(Ordering::SeqCst) {
            Reply::new(200).header("Content-Disposition", "inline").body("far away")
        } else {
            Reply::new(500)
        }
    });
    let sidecar = Sidecar::start();
    let path = format!("/_matrix/client/v1/media/download/{}/x", remote.name());
    assert_eq!(sidecar.alice().get(&path).status, 200);
    eventually("it is stored", || sidecar.alice().get(&path).header("etag").is_some());
    let [blob] = sidecar.blobs().try_into().unwrap();
    let away = sidecar.folder.path().join("away");
    std::fs::rename(&blob, &away).unwrap();
    is_up.store(false, Ordering::SeqCst);
    // Also across a start, with all that goes on then.
    let sidecar = Setup::in_folder(sidecar.stop()).start();
    assert_eq!(sidecar.alice().get(&path).status, 502);
    std::fs::rename(&away, &blob).unwrap();
    let back = sidecar.alice().get(&path);
    assert_eq!((back.status, back.body.as_slice()), (200, &b"far away"[..]));
}

#[test]
fn with_sessions_a_fetched_file_is_on_the_disk_for_a_minute_only() {
    let remote = Peer::tls(|_| Reply::new(200).header("Content-Disposition", "inline").body("far away"));
    let session = |config: &mut media_sidecar::config::Config| {
        config.federation.store = RemoteStore::Session;
    };
    let sidecar = Setup::new().with(session).start();
    let path = format!("/_matrix/client/v1/media/download/{}/x", remote.name());
    assert_eq!(sidecar.alice().get(&path).status, 200);
    sidecar.upload("text/plain", b"ours");
    eventually("it is stored", || sidecar.blobs().len() == 2);
    sidecar.advance(std::time::Duration::from_secs(61));
    eventually("it is gone", || sidecar.blobs().len() == 1);
    assert_eq!(sidecar.alice().get(&path).status, 200, "it is fetched anew");
}
