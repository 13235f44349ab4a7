//! Blobs that somebody cut off, lengthened, removed or put something else in the place of.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use media_sidecar::matrix::Timestamp;

use crate::binary::Folder;
use crate::harness::{
    OURS, Peer, RemoteKey, Reply, Setup, Sidecar, eventually, files_below, picture, unique,
};
use crate::previews;

/// Something that happens to the file of a blob.
type Damage = (&'static str, fn(&Path));

/// The ways to damage one.
const DAMAGES: [Damage; 5] = [
    ("cut off", |path| change(path, |bytes| bytes.truncate(bytes.len() / 2))),
    ("emptied", |path| change(path, Vec::clear)),
    ("lengthened", |path| change(path, |bytes| bytes.push(b'!'))),
    ("removed", |path| fs::remove_file(path).unwrap()),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir_all(path.join("and/more")).unwrap();
    }),
];

/// Changes a file in its place, under whoever holds it open.
fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    how(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The file of the only blob of so many bytes.
fn blob(blobs: &[PathBuf], size: u64) -> PathBuf {
    let mut found = blobs.iter().filter(|path| fs::metadata(path).unwrap().len() == size);
    let path = found.next().expect("a blob of that size").clone();
    assert!(found.next().is_none());
    path
}

#[test]
fn our_own_media_is_404_before_the_first_byte_on_every_route_and_whole_again_after_an_upload() {
    let origin = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let told = std::sync::Arc::clone(&origin);
    let peer = Peer::tls(move |_| {
        Reply::json(200, &RemoteKey::new(1).document(told.get().unwrap(), Timestamp::now().0 + 86_400_000))
    });
    origin.set(peer.name()).unwrap();
    let sidecar = Sidecar::start();
    // What is small is kept in memory once it was served, what is large is not.
    for (number, size) in [5000, 300_000].into_iter().enumerate() {
        for (damage, apply) in DAMAGES {
            let bytes = unique(number as u64, size);
            let mxc = sidecar.upload("video/mp4", &bytes);
            apply(&blob(&sidecar.blobs(), bytes.len() as u64));
            let not_found = (404, "M_NOT_FOUND".to_owned());
            for path in [
                format!("/_matrix/media/v3/download/{mxc}"),
                format!("/_matrix/client/r0/media/download/{mxc}"),
                format!("/_matrix/client/v1/media/download/{mxc}"),
                format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32"),
            ] {
                assert_eq!(sidecar.alice().get(&path).failure(), not_found, "{damage} {path}");
                assert_eq!(sidecar.alice().head(&path).status, 404, "{damage} {path}");
                let ranged = sidecar.alice().with_header("Range", "bytes=0-9").get(&path);
                assert_eq!(ranged.failure(), not_found, "{damage} {path}");
            }
            let media_id = mxc.split('/').next_back().unwrap();
            for target in [
                format!("/_matrix/federation/v1/remote_media/download/{mxc}"),
                format!("/_matrix/federation/v1/media/download/{media_id}"),
            ] {
                let authorization = RemoteKey::new(1).authorization(&peer.name(), OURS, &target);
                let response = sidecar.anonymous().with_header("Authorization", &authorization).get(&target);
                assert_eq!(response.failure(), not_found, "{damage} {target}");
            }
            // The same bytes, uploaded again, repair everything that refers to them.
            let again = sidecar.upload("video/mp4", &bytes);
            for mxc in [&mxc, &again] {
                let response = sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}"));
                assert!(response.status == 200 && response.body == bytes, "{damage} {mxc}");
            }
            fs::read_dir(sidecar.data_dir().join("blobs")).unwrap().for_each(|folder| {
                for entry in fs::read_dir(folder.unwrap().path()).unwrap() {
                    let path = entry.unwrap().path();
                    if path.extension().is_some() {
                        fs::remove_dir_all(path).unwrap();
                    }
                }
            });
        }
    }
}

#[test]
fn what_was_served_lately_is_not_served_once_it_is_cut_off() {
    let sidecar = Sidecar::start();
    let bytes = unique(7, 300_000);
    let path = format!("/_matrix/client/v1/media/download/{}", sidecar.upload("video/mp4", &bytes));
    assert!(sidecar.alice().get(&path).body == bytes);
    let whole = || sidecar.alice().get(&path);
    for (damage, apply) in DAMAGES.into_iter().filter(|(name, _)| !matches!(*name, "removed" | "a folder")) {
        apply(&sidecar.blobs()[0]);
        assert_eq!(whole().failure(), (404, "M_NOT_FOUND".to_owned()), "{damage}");
        sidecar.upload("video/mp4", &bytes);
        assert!(whole().body == bytes, "{damage}");
    }
}

#[test]
fn remote_media_is_fetched_anew() {
    let bytes = unique(1, 300_000);
    let sent = bytes.clone();
    let remote = Peer::tls(move |_| {
        Reply::new(200)
            .header("Content-Type", "video/mp4")
            .header("Content-Disposition", "inline")
            .body(&sent)
    });
    for (number, (damage, apply)) in DAMAGES.into_iter().enumerate() {
        let sidecar = Sidecar::start();
        let media_id = format!("x{number}");
        let path = format!("/_matrix/client/v1/media/download/{}/{media_id}", remote.name());
        let fetches = || remote.paths().iter().filter(|path| path.ends_with(&media_id)).count();
        eventually("it is stored", || sidecar.alice().get(&path).header("etag").is_some());
        assert_eq!(fetches(), 1);
        // Not the one that was served lately.
        let sidecar = Setup::in_folder(sidecar.stop()).start();
        apply(&blob(&sidecar.blobs(), bytes.len() as u64));
        let response = sidecar.alice().get(&path);
        assert!(response.status == 200 && response.body == bytes, "{damage}");
        assert_eq!(fetches(), 2, "{damage}");
        eventually("it is stored", || sidecar.alice().get(&path).header("etag").is_some());
        assert_eq!(fetches(), 2, "{damage}");
    }
}

#[test]
fn a_thumbnail_is_made_anew() {
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/png", &picture(1));
    // All of these are made 32 pixels wide.
    let thumbnail = |side: usize| {
        let query = format!("width={side}&height={side}&method=crop");
        sidecar.alice().get(&format!("/_matrix/client/v1/media/thumbnail/{mxc}?{query}"))
    };
    let before = thumbnail(32);
    assert_eq!(before.status, 200);
    for (number, (damage, apply)) in DAMAGES.into_iter().enumerate() {
        let made = sidecar.blobs().into_iter().find(|path| fs::read(path).unwrap() == before.body);
        apply(&made.expect("a thumbnail's blob"));
        let after = thumbnail(31 - number);
        assert!(after.status == 200 && after.complete && after.body == before.body, "{damage}");
    }
}

#[test]
fn the_picture_of_a_preview_is_404_until_the_page_is_read_again() {
    let site = Peer::plain(|request| match request.path() {
        "/page" => previews::html("<title>T</title><meta property=og:image content=/i.png>"),
        _ => previews::picture(previews::png(40, 30, 1)),
    });
    for (damage, apply) in DAMAGES {
        let sidecar = previews::beside(&site).start();
        let image = || {
            let keys = previews::keys(&previews::preview(&sidecar, "http://site.test/page"));
            format!("/_matrix/client/v1/media/download/{}", previews::image_of(&keys))
        };
        let path = image();
        apply(&sidecar.blobs()[0]);
        assert_eq!(sidecar.alice().get(&path).failure(), (404, "M_NOT_FOUND".to_owned()), "{damage}");
        sidecar.advance(Duration::from_hours(2));
        assert_eq!(image(), path, "{damage}");
        let response = sidecar.alice().get(&path);
        assert!(response.status == 200 && response.body == previews::png(40, 30, 1), "{damage}");
    }
}

#[test]
fn the_journal_names_the_media_and_the_blob_and_does_so_once() {
    let folder = Folder::new("");
    let service = folder.serve();
    let uploaded = service.alice().post("/_matrix/media/v3/upload", b"hello");
    let uri = uploaded.json()["content_uri"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/media/v3/download/{}", uri.strip_prefix("mxc://").unwrap());
    let blob = files_below(&folder.path("data/blobs"))[0].clone();
    change(&blob, |bytes| bytes.truncate(2));
    for _ in 0..20 {
        assert_eq!(service.alice().get(&path).status, 404);
    }
    let lines = || -> Vec<String> {
        let log = service.log();
        log.lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect()
    };
    eventually("a line", || !lines().is_empty());
    assert_eq!(service.alice().get("/_matrix/client/v1/media/config").status, 200);
    eventually("the last line", || service.log().contains("/media/config"));
    let [line] = &lines()[..] else { panic!("{:?}", lines()) };
    let sha256 = blob.file_name().unwrap().to_str().unwrap();
    for part in [uri.as_str(), sha256, "2 bytes", "5"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}
