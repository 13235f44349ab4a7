//! `kill -9` under upload load: what was answered is there, nothing half-written is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use crate::binary::Folder;
use crate::harness::{Client, files_below};

/// Random moments at which the program is killed.
const ROUNDS: u64 = 10;

/// Uploaders at once.
const UPLOADERS: u64 = 4;

#[test]
fn every_answered_upload_survives_kill_9_and_nothing_half_written_does() {
    let folder = Folder::new("");
    let seed = u64::from_le_bytes({
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    });
    println!("seed {seed}");
    let answered = Arc::new(Mutex::new(Vec::<(String, Vec<u8>)>::new()));
    for round in 0..ROUNDS {
        let before = answered.lock().unwrap().len();
        let mut service = folder.serve();
        let stop = Arc::new(AtomicBool::new(false));
        let uploaders: Vec<_> = (0..UPLOADERS)
            .map(|uploader| {
                let (answered, stop, address) = (Arc::clone(&answered), Arc::clone(&stop), service.address);
                std::thread::spawn(move || {
                    upload_until(&stop, address, seed ^ (round << 8) ^ uploader, &answered);
                })
            })
            .collect();
        // A number of answers, different each round, is the random moment: no clock decides.
        let wanted = before + usize::try_from(1 + (seed >> round) % 40).unwrap();
        crate::harness::eventually("uploads are answered", || answered.lock().unwrap().len() >= wanted);
        service.signal(rustix::process::Signal::KILL);
        service.child.wait().unwrap();
        stop.store(true, Ordering::SeqCst);
        for uploader in uploaders {
            uploader.join().unwrap();
        }
    }

    let service = folder.serve();
    for (mxc, bytes) in answered.lock().unwrap().iter() {
        let response = service.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}"));
        assert_eq!(response.status, 200, "{mxc} is lost");
        assert!(response.body == *bytes, "{mxc} is damaged");
    }
    for blob in files_below(&folder.path("data/blobs")) {
        let name = data_encoding::HEXLOWER.encode(&Sha256::digest(std::fs::read(&blob).unwrap()));
        assert_eq!(blob.file_name().unwrap().to_str().unwrap(), name, "a blob is not what its name says");
    }
    assert_eq!(std::fs::read_dir(folder.path("data/tmp")).unwrap().count(), 0);
    drop(service);
    let catalog = rusqlite::Connection::open(folder.path("data/catalog.db")).unwrap();
    let verdict: String = catalog.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    crate::harness::eventually("blobs and rows agree after one sweep", || {
        let service = folder.serve();
        let rows: u32 =
            catalog.query_row("SELECT count(DISTINCT sha256) FROM media", [], |row| row.get(0)).unwrap();
        let mut blobs = 0;
        // The sweep runs in the background of a live service.
        for _ in 0..200 {
            blobs = u32::try_from(files_below(&folder.path("data/blobs")).len()).unwrap();
            if blobs == rows {
                break;
            }
            std::thread::yield_now();
        }
        drop(service);
        blobs == rows
    });
}

/// Uploads different files and notes each that is answered.
fn upload_until(
    stop: &AtomicBool,
    address: std::net::SocketAddr,
    seed: u64,
    answered: &Mutex<Vec<(String, Vec<u8>)>>,
) {
    let mut number = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let unique = Sha256::digest(format!("{seed} {number}"));
        let bytes: Vec<u8> = unique
            .iter()
            .copied()
            .cycle()
            .take(usize::try_from(number % 7).unwrap() * 60_000 + 100)
            .collect();
        let upload = std::panic::catch_unwind(|| {
            let alice = Client::new(address).with_header("Authorization", "Bearer alice");
            alice.post("/_matrix/media/v3/upload", &bytes)
        });
        // A connection that broke is no answer.
        let Ok(response) = upload else { continue };
        if response.status == 200 && response.complete {
            let mxc =
                response.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
            answered.lock().unwrap().push((mxc, bytes));
        }
    }
}
