//! SIGHUP: the configuration is read again, without an end of the service.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::binary::{Folder, Service, command};
use crate::harness::{Authority, Peer, Reply, eventually};

const UPLOAD: &str = "/_matrix/media/v3/upload";

/// What the log says after a reload.
const READ: &str = "the configuration was reloaded";

/// Changes the configuration and has it read again. `tells` is what the log says then.
fn reload(folder: &Folder, service: &Service, change: impl FnOnce(&str) -> String, tells: &str) {
    let path = folder.path("sidecar.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(&text)).unwrap();
    let before = service.log().matches(tells).count();
    service.signal(Signal::HUP);
    eventually(tells, || service.log().matches(tells).count() > before);
}

#[test]
fn limits_and_the_log_level_change_without_a_restart() {
    let folder = Folder::new("uploads: {max_size: 100}\nlog: info\n");
    let service = folder.serve();
    assert_eq!(service.alice().post(UPLOAD, &[7; 100]).status, 200);
    assert_eq!(service.alice().post(UPLOAD, &[7; 101]).status, 413);
    reload(
        &folder,
        &service,
        |text| {
            text.replace("max_size: 100", "max_size: 101")
                .replace("log: info", "log: \"info,media_sidecar::access=off\"")
        },
        READ,
    );
    assert_eq!(service.alice().post(UPLOAD, &[7; 101]).status, 200);
    assert_eq!(service.alice().get("/_matrix/media/v3/config").json()["m.upload.size"], 101);
    assert_eq!(service.alice().get("/_matrix/media/unknown").status, 404);
    reload(&folder, &service, |text| text.replace(",media_sidecar::access=off", ""), READ);
    assert_eq!(service.alice().put("/_matrix/media/v3/config", b"").status, 405);
    eventually("access lines are back", || service.log().contains("status=405"));
    assert!(!service.log().contains("status=404"), "they were off: {}", service.log());
}

#[test]
fn a_configuration_with_mistakes_changes_nothing_and_is_said_to() {
    let folder = Folder::new("uploads: {max_size: 100}\n");
    let service = folder.serve();
    reload(
        &folder,
        &service,
        |text| text.replace("max_size: 100", "max_size: 50, max_sise: 3"),
        "nothing was changed",
    );
    assert!(service.log().contains("max_sise"), "{}", service.log());
    assert_eq!(service.alice().post(UPLOAD, &[7; 100]).status, 200);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_in_force() {
    let folder = Folder::new("uploads: {max_size: 100}\nthumbnails: {workers: 1}\n");
    let service = folder.serve();
    reload(
        &folder,
        &service,
        |text| text.replace("workers: 1", "workers: 2").replace("max_size: 100", "max_size: 50"),
        "changed, but effective only after a restart: thumbnails.workers",
    );
    assert_eq!(service.alice().post(UPLOAD, &[7; 100]).status, 413);
}

#[test]
fn systemd_hears_of_the_reload_and_its_end() {
    let folder = Folder::new("");
    let socket = UnixDatagram::bind(folder.path("notify.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let next = || {
        let mut message = [0; 1024];
        let length = socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let service = Service::start(
        command(folder.folder.path()).arg("serve").env("NOTIFY_SOCKET", folder.path("notify.sock")),
    );
    assert_eq!(next().trim_end(), "READY=1");
    service.signal(Signal::HUP);
    let reloading = next();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next().trim_end(), "READY=1");
}

#[test]
fn lists_and_rules_of_federation_and_previews_change_without_a_restart() {
    let site = Peer::plain(|_| {
        Reply::new(200)
            .header("Content-Type", "text/html")
            .body("<title>Hello</title><p>Some words of a page.</p>")
    });
    let remote = Peer::tls(|_| Reply::new(200).header("Content-Disposition", "inline").body("x"));
    let folder = Folder::new(
        "federation: {ca_file: ca.pem, ip_allow: [127.0.0.0/8], deny: []}\n\
         previews: {ip_allow: [127.0.0.0/8], deny_hosts: []}\nlog: info\n",
    );
    std::fs::write(folder.path("ca.pem"), Authority::get().ca_pem()).unwrap();
    let service = folder.serve();
    let fetch = |number: u32| {
        service.alice().get(&format!("/_matrix/client/v1/media/download/{}/{number}", remote.name())).status
    };
    let preview = |number: u32| {
        let target = format!("/_matrix/client/v1/media/preview_url?url={}/{number}", site.url());
        service.alice().get(&target).status
    };
    assert_eq!((fetch(1), preview(1)), (200, 200));
    let deny = |text: &str| {
        text.replace("deny: []", "deny: [127.0.0.1]").replace("deny_hosts: []", "deny_hosts: [127.0.0.1]")
    };
    reload(&folder, &service, deny, READ);
    assert_eq!((fetch(1), fetch(2), preview(1), preview(2)), (403, 403, 403, 403));
    let allow = |text: &str| {
        text.replace("deny: [127.0.0.1]", "deny: []")
            .replace("deny_hosts: [127.0.0.1]", "deny_hosts: []")
            .replace("ip_allow: [127.0.0.0/8]", "ip_allow: []")
    };
    reload(&folder, &service, allow, READ);
    assert_eq!(
        (fetch(1), fetch(2), preview(1), preview(2)),
        (200, 502, 200, 403),
        "what is stored, and addresses that are denied"
    );
}
