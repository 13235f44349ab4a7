//! `unauthenticated_media`: open, frozen, closed.

use media_sidecar::config::UnauthenticatedMedia;

use crate::harness::{Setup, Sidecar};

fn restart(sidecar: Sidecar, policy: UnauthenticatedMedia) -> Sidecar {
    Setup::in_folder(sidecar.stop()).with(|config| config.unauthenticated_media = policy).start()
}

/// What callers without a token get on the open routes, and with one.
fn statuses(sidecar: &Sidecar, mxc: &str) -> [u16; 4] {
    let legacy = format!("/_matrix/media/v3/download/{mxc}");
    let msc1902 = format!("/_matrix/client/r0/media/download/{mxc}");
    [
        sidecar.anonymous().get(&legacy).status,
        sidecar.anonymous().get(&msc1902).status,
        sidecar.alice().get(&legacy).status,
        sidecar.alice().get(&msc1902).status,
    ]
}

#[test]
fn each_row_remembers_the_policy_it_was_stored_under() {
    let sidecar = Sidecar::start();
    let before = sidecar.upload("image/png", b"before");
    assert_eq!(statuses(&sidecar, &before), [200; 4]);

    let sidecar = restart(sidecar, UnauthenticatedMedia::Frozen);
    let after = sidecar.upload("image/png", b"after");
    assert_eq!(statuses(&sidecar, &before), [200; 4]);
    assert_eq!(statuses(&sidecar, &after), [404, 404, 200, 200]);
    let hidden = sidecar.anonymous().get(&format!("/_matrix/media/v3/download/{after}"));
    assert_eq!(hidden.errcode(), "M_NOT_FOUND");

    let sidecar = restart(sidecar, UnauthenticatedMedia::Closed);
    assert_eq!(statuses(&sidecar, &before), [404, 404, 200, 200]);
    assert_eq!(statuses(&sidecar, &after), [404, 404, 200, 200]);

    let sidecar = restart(sidecar, UnauthenticatedMedia::Open);
    assert_eq!(statuses(&sidecar, &after), [200; 4]);
}

#[test]
fn a_matching_etag_does_not_open_what_is_closed() {
    let sidecar =
        Setup::new().with(|config| config.unauthenticated_media = UnauthenticatedMedia::Closed).start();
    let mxc = sidecar.upload("image/png", b"x");
    let path = format!("/_matrix/media/v3/download/{mxc}");
    let etag = sidecar.alice().get(&path).header("etag").unwrap().to_owned();
    assert_eq!(sidecar.anonymous().with_header("If-None-Match", &etag).get(&path).status, 404);
    assert_eq!(sidecar.alice().with_header("If-None-Match", &etag).get(&path).status, 304);
}

#[test]
fn closed_hides_pending_ids_too() {
    let sidecar =
        Setup::new().with(|config| config.unauthenticated_media = UnauthenticatedMedia::Closed).start();
    let created = sidecar.alice().post("/_matrix/media/v1/create", b"{}").json();
    let mxc = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let path = format!("/_matrix/media/v3/download/{mxc}?timeout_ms=0");
    assert_eq!(sidecar.anonymous().get(&path).failure(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(sidecar.alice().get(&path).failure(), (504, "M_NOT_YET_UPLOADED".to_owned()));
}

#[test]
fn the_flag_of_a_pending_id_is_decided_when_it_is_filled() {
    let sidecar = Sidecar::start();
    let created = sidecar.alice().post("/_matrix/media/v1/create", b"{}").json();
    let mxc = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let sidecar = restart(sidecar, UnauthenticatedMedia::Frozen);
    assert_eq!(sidecar.alice().put(&format!("/_matrix/media/v3/upload/{mxc}"), b"x").status, 200);
    assert_eq!(statuses(&sidecar, &mxc), [404, 404, 200, 200]);
}
