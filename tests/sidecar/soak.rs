//! A small disk through which much more flows than it holds: uploads never meet a full disk while copies can go, nobody gets a wrong or
//! short byte, and in the end local media is all there and the totals are a recount's.
//!
//! Needs root, to mount a file system of 2 GB. In full size: `SOAK_BYTES=20000000000 cargo test --test sidecar --locked -- --ignored
//! --nocapture soak`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use crate::binary::{Folder, Service};
use crate::harness::peer::pause;
use crate::harness::{Authority, Peer, Reply};

/// The file system, bytes.
const DISK: u64 = 2_000_000_000;

/// `retention.keep_free`.
const FLOOR: u64 = 200 << 20;

/// The largest file.
const LARGEST: u64 = 8 << 20;

/// Local media is uploaded up to this.
const LOCAL: u64 = 600_000_000;

/// What flows through unless `SOAK_BYTES` says more.
const SHORT: u64 = 3_000_000_000;

/// A file system in a file, mounted until this is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` when this user may not mount.
    fn mount(image: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        std::fs::File::create(image).unwrap().set_len(DISK).unwrap();
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let is_made = run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        is_made.then(|| Self(at.to_owned()))
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// Files that are different, made quickly: a number, then a part of a fixed text of random bytes.
struct Files(Vec<u8>);

impl Files {
    fn new() -> Self {
        let mut text = vec![0; usize::try_from(2 * LARGEST).unwrap()];
        getrandom::fill(&mut text).unwrap();
        Self(text)
    }

    fn bytes(&self, number: u64) -> Vec<u8> {
        let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Most are pictures; some are videos.
        let longest = if mixed >> 60 == 0 { LARGEST } else { 1 << 20 };
        let length = usize::try_from((mixed >> 8) % longest).unwrap();
        let start = usize::try_from(mixed % LARGEST).unwrap();
        [&number.to_be_bytes()[..], &self.0[start..start + length]].concat()
    }
}

struct Soak {
    service: Service,
    files: Arc<Files>,
    remotes: Vec<Peer>,
    next: AtomicU64,
    flowed: AtomicU64,
    stop: AtomicBool,
    /// Addresses and numbers of local files, and their bytes together.
    local: Mutex<(Vec<(String, u64)>, u64)>,
}

impl Soak {
    fn check(&self, target: &str, number: u64) {
        let response = self.service.alice().get(&format!("/_matrix/client/v1/media/download/{target}"));
        let expected = self.files.bytes(number);
        assert_eq!(response.status, 200, "{target}: {}", response.text());
        assert!(response.complete && response.body == expected, "{target} has wrong or too few bytes");
        self.flowed.fetch_add(expected.len() as u64, Ordering::SeqCst);
    }

    /// Fetches new files, and sometimes one of those before.
    fn fetch(&self) {
        let mut number = self.next.fetch_add(1, Ordering::SeqCst);
        if number.is_multiple_of(4) {
            number = number.saturating_sub(number % 977);
        }
        let remote = &self.remotes[usize::try_from(number % 4).unwrap()];
        self.check(&format!("{}/f{number}", remote.name()), number);
    }

    /// Uploads until there is enough, then downloads what is here.
    fn upload(&self) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let known = self.local.lock().unwrap().0.get(usize::try_from(number % 1000).unwrap()).cloned();
        if let Some((mxc, of)) = known.filter(|_| !number.is_multiple_of(3)) {
            return self.check(&mxc, of);
        }
        if self.local.lock().unwrap().1 >= LOCAL {
            pause();
            return;
        }
        let bytes = self.files.bytes(number);
        let answer = self.service.alice().post("/_matrix/media/v3/upload", &bytes);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mxc = answer.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        let mut local = self.local.lock().unwrap();
        local.0.push((mxc, number));
        local.1 += bytes.len() as u64;
        self.flowed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    }
}

#[test]
#[ignore = "takes minutes, and needs root to mount a file system"]
fn a_small_disk_holds_its_floor_while_much_more_flows_through_it() {
    let total = std::env::var("SOAK_BYTES").map_or(SHORT, |bytes| bytes.parse().unwrap());
    let folder = Folder::new(&format!(
        "federation: {{ca_file: ca.pem, ip_allow: [127.0.0.0/8]}}\nretention: {{keep_free: {FLOOR}B}}\n"
    ));
    std::fs::write(folder.path("ca.pem"), Authority::get().ca_pem()).unwrap();
    let Some(disk) = Disk::mount(&folder.path("disk.img"), &folder.path("data")) else {
        println!("SKIPPED: no file system can be mounted here");
        return;
    };
    let files = Arc::new(Files::new());
    let remote = || {
        let files = Arc::clone(&files);
        Peer::tls(move |request| {
            let name = request.path().rsplit('/').next().unwrap();
            let Some(Ok(number)) = name.strip_prefix('f').map(str::parse) else { return Reply::new(404) };
            Reply::new(200).header("Content-Disposition", "inline").body(files.bytes(number))
        })
    };
    let soak = Soak {
        service: folder.serve(),
        files: Arc::clone(&files),
        remotes: (0..4).map(|_| remote()).collect(),
        next: AtomicU64::new(0),
        flowed: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        local: Mutex::default(),
    };
    let (started, mut least) = (Instant::now(), u64::MAX);
    thread::scope(|scope| {
        let work = |job: fn(&Soak)| {
            let soak = &soak;
            scope.spawn(move || {
                while !soak.stop.load(Ordering::SeqCst) {
                    job(soak);
                }
            })
        };
        let workers =
            [work(Soak::fetch), work(Soak::fetch), work(Soak::fetch), work(Soak::upload), work(Soak::upload)];
        while soak.flowed.load(Ordering::SeqCst) < total && workers.iter().all(|worker| !worker.is_finished())
        {
            least = least.min(disk.free());
            pause();
        }
        soak.stop.store(true, Ordering::SeqCst);
    });
    let Soak { mut service, local, flowed, .. } = soak;
    println!(
        "{} MB flowed in {:.0} s; at least {} MiB were free; memory {} KiB",
        flowed.load(Ordering::SeqCst) / 1_000_000,
        started.elapsed().as_secs_f64(),
        least >> 20,
        service.memory_kib()
    );
    assert!(least >= FLOOR - LARGEST, "{least} bytes were free");
    let (local, bytes) = local.into_inner().unwrap();
    service.signal(Signal::TERM);
    service.child.wait().unwrap();
    check_at_rest(&folder, &local, bytes);
    let service = folder.serve();
    for (mxc, number) in &local {
        let response = service.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}"));
        assert!(response.status == 200 && response.body == files.bytes(*number), "{mxc} is lost or damaged");
    }
    drop(service);
    drop(disk);
}

/// The totals are a recount's, and every local file has its row.
fn check_at_rest(folder: &Folder, local: &[(String, u64)], bytes: u64) {
    let catalog = rusqlite::Connection::open(folder.path("data/catalog.db")).unwrap();
    let kept = "SELECT kind, files, blobs, bytes FROM kind_usage ORDER BY kind";
    // Files count by their own rows, blobs by the first kind that has a row of them.
    let recounted = "SELECT kind, CASE kind WHEN 'local' THEN (SELECT count(*) FROM media WHERE sha256 IS NOT NULL AND user_id IS NOT NULL)
                                          WHEN 'remote' THEN (SELECT count(*) FROM media WHERE user_id IS NULL AND preview = 0)
                                          WHEN 'preview' THEN (SELECT count(*) FROM media WHERE preview = 1)
                                          ELSE (SELECT count(*) FROM thumbnail) END,
                            count(*), sum(size) FROM blob WHERE kind IS NOT NULL GROUP BY kind ORDER BY kind";
    let totals = |sql: &str| -> Vec<(String, i64, i64, i64)> {
        let mut statement = catalog.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
        rows.unwrap().map(Result::unwrap).filter(|row: &(String, i64, i64, i64)| row.2 > 0).collect()
    };
    assert_eq!(totals(kept), totals(recounted));
    let (rows, sum): (i64, i64) = catalog
        .query_row("SELECT count(*), sum(size) FROM media WHERE user_id IS NOT NULL", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((rows, sum), (local.len().try_into().unwrap(), bytes.try_into().unwrap()));
}
