//! The disk failing at every step there is, and the power going at every step: no success that is none, nothing lost.
//!
//! What `SQLite` does below the catalog is trusted: WAL with `synchronous=FULL`, which a test beside the code checks.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::harness::{
    Fault, Left, Peer, Reply, Response, ScriptedDisk, Setup, Sidecar, eventually, files_below, picture,
    unique,
};

/// Size of uploads: several batches.
const SIZE: usize = 600_000;

/// Size of remote files: a few reads.
const REMOTE_SIZE: usize = 50_000;

/// What is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Upload,
    UploadInto,
    Fetch,
    Thumbnail,
}

const WORKS: [Work; 4] = [Work::Upload, Work::UploadInto, Work::Fetch, Work::Thumbnail];

/// One piece of work: what it needs is there, and it may be tried any number of times.
struct Task {
    work: Work,
    number: u64,
    /// `server/media_id`, as far as it is known before.
    mxc: String,
}

/// Serves the bytes of every number.
fn remote() -> Peer {
    Peer::tls(|request| {
        let number = request.path().rsplit('/').next().unwrap().parse().unwrap();
        Reply::new(200).header("Content-Disposition", "inline").body(unique(number, REMOTE_SIZE))
    })
}

fn mxc_of(response: &Response) -> String {
    response.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

impl Task {
    /// Prepares one, undisturbed.
    fn new(work: Work, number: u64, sidecar: &Sidecar, remote: &Peer) -> Self {
        let mxc = match work {
            Work::Upload => String::new(),
            Work::UploadInto => mxc_of(&sidecar.alice().post("/_matrix/media/v1/create", b"{}")),
            Work::Fetch => format!("{}/{number}", remote.name()),
            Work::Thumbnail => sidecar.upload("image/png", &picture(number)),
        };
        Self { work, number, mxc }
    }

    fn bytes(&self) -> Vec<u8> {
        match self.work {
            Work::Upload | Work::UploadInto => unique(self.number, SIZE),
            Work::Fetch => unique(self.number, REMOTE_SIZE),
            Work::Thumbnail => picture(self.number),
        }
    }

    /// Tries. Says whether it was answered with success.
    fn attempt(&mut self, sidecar: &Sidecar) -> bool {
        let alice = sidecar.alice();
        let response = match self.work {
            Work::Upload => alice.post("/_matrix/media/v3/upload", &self.bytes()),
            Work::UploadInto => alice.put(&format!("/_matrix/media/v3/upload/{}", self.mxc), &self.bytes()),
            Work::Fetch => return self.download(sidecar),
            Work::Thumbnail => alice.get(&format!(
                "/_matrix/client/v1/media/thumbnail/{}?width=32&height=32&method=crop",
                self.mxc
            )),
        };
        match (response.status, self.work) {
            (200, Work::Upload) => self.mxc = mxc_of(&response),
            (200, Work::Thumbnail) => drop(image::load_from_memory(&response.body).unwrap()),
            (200, _) => {}
            (500, _) => assert_eq!(response.errcode(), "M_UNKNOWN"),
            (507, _) => assert!(response.text().contains("no room left"), "{}", response.text()),
            (status, work) => panic!("{work:?}: {status} {}", response.text()),
        }
        response.status == 200
    }

    /// Downloads what this work made. Says whether it is in the store; bytes that are not its own never come.
    fn download(&self, sidecar: &Sidecar) -> bool {
        let response = sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{}", self.mxc));
        let is_whole = response.status == 200 && response.complete;
        assert!(!is_whole || response.body == self.bytes(), "{}: damaged", self.mxc);
        assert!(is_whole || self.work == Work::Fetch, "{}: lost, {}", self.mxc, response.status);
        is_whole && response.header("etag").is_some()
    }
}

/// Every row has its blob; and, in time, every blob its row or is noted for having none, and nothing is half-written.
fn check_store(data_dir: &Path) {
    let catalog = rusqlite::Connection::open(data_dir.join("catalog.db")).unwrap();
    let on_disk = || -> BTreeSet<String> {
        let blobs = files_below(&data_dir.join("blobs"));
        blobs.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let names = |question: &str| -> BTreeSet<String> {
        let mut statement = catalog.prepare(question).unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    };
    let rows = || -> BTreeSet<String> {
        names(
            "SELECT lower(hex(sha256)) FROM media WHERE sha256 IS NOT NULL
             UNION SELECT lower(hex(sha256)) FROM thumbnail",
        )
    };
    let orphans = || names("SELECT lower(hex(sha256)) FROM orphan");
    let rows_before = rows();
    let blobs = on_disk();
    assert!(rows_before.is_subset(&blobs), "rows without blobs: {:?}", rows_before.difference(&blobs));
    eventually("every blob has its row or is noted for having none", || {
        on_disk().difference(&rows()).all(|blob| orphans().contains(blob))
    });
    eventually("nothing is half-written", || std::fs::read_dir(data_dir.join("tmp")).unwrap().count() == 0);
}

/// How many steps the disk takes for a piece of work, and that it succeeds.
fn count_steps(work: Work, sidecar: &Sidecar, disk: &ScriptedDisk, remote: &Peer) -> usize {
    let mut task = Task::new(work, 0, sidecar, remote);
    disk.plan(None);
    eventually("it is done", || task.attempt(sidecar));
    let steps = disk.steps().len();
    assert!((5..20).contains(&steps), "{:?}", disk.steps());
    steps
}

fn setup() -> Setup {
    Setup::new().with(many_pending)
}

fn many_pending(config: &mut media_sidecar::config::Config) {
    config.uploads.pending_per_user = 1000;
}

#[test]
fn a_disk_that_fails_at_any_step_fails_the_request_and_the_next_succeeds() {
    for work in WORKS {
        let (disk, remote, setup) = (Arc::new(ScriptedDisk::default()), remote(), setup());
        let sidecar = setup.on(Arc::clone(&disk) as _).start();
        let steps = count_steps(work, &sidecar, &disk, &remote);
        let mut number = 0;
        for fault in [Fault::Once, Fault::FullFrom, Fault::From] {
            for at in 1..=steps {
                number += 1;
                let mut task = Task::new(work, number, &sidecar, &remote);
                let context = format!("{work:?}, {:?}", fault(at));
                disk.plan(Some(fault(at)));
                let is_done = task.attempt(&sidecar);
                if work == Work::Fetch {
                    // What was passed on before the fault is not taken back: only the disk tells how it went.
                    eventually(&context, || disk.failures() > 0 || task.attempt(&sidecar));
                }
                let failures = disk.failures();
                assert!(work == Work::Fetch || is_done == (failures == 0), "{context}: {is_done} {failures}");
                // A remote file comes in as many pieces as the network makes.
                let is_sure = !matches!(fault(at), Fault::FullFrom(_)) && work != Work::Fetch;
                assert!(failures > 0 || !is_sure, "{context}: no such step");
                disk.plan(None);
                if !matches!(fault(at), Fault::From(_)) && work != Work::Fetch {
                    check_store(&sidecar.data_dir());
                }
                if !is_done {
                    eventually(&context, || task.attempt(&sidecar));
                }
                task.download(&sidecar);
            }
        }
        let folder = sidecar.stop();
        let sidecar = Setup::in_folder(folder).start();
        check_store(&sidecar.data_dir());
    }
}

#[test]
fn a_disk_with_too_little_room_takes_in_nothing_says_so_and_serves_what_it_has() {
    const RESERVE: u64 = 64 << 20;
    let (disk, remote) = (Arc::new(ScriptedDisk::default()), remote());
    let sidecar = setup().on(Arc::clone(&disk) as _).start();
    let alice = sidecar.alice();
    let mxc = sidecar.upload("text/plain", b"x");
    let picture = sidecar.upload("image/png", &picture(1));
    let thumbnail = format!("/_matrix/client/v1/media/thumbnail/{picture}?width=32&height=32&method=crop");
    disk.set_free(RESERVE - 1);
    let full = (507, "M_UNKNOWN".to_owned());
    for size in [1, SIZE] {
        let refused = alice.post("/_matrix/media/v3/upload", &unique(1, size));
        assert_eq!(refused.failure(), full);
        assert!(refused.text().contains("no room left on the server"), "{}", refused.text());
    }
    let fetch = format!("/_matrix/client/v1/media/download/{}/2", remote.name());
    assert_eq!(alice.get(&fetch).failure(), full);
    assert_eq!(alice.get(&thumbnail).failure(), full);
    assert_eq!(alice.get(&format!("/_matrix/client/v1/media/download/{mxc}")).status, 200);
    let health = sidecar.anonymous().get("/_sidecar/health");
    assert_eq!(health.status, 503);
    assert!(
        health.json()["blobs"].as_str().unwrap().contains("67108863 bytes are free"),
        "{}",
        health.text()
    );
    assert_eq!((sidecar.blobs().len(), sidecar.leftovers()), (2, 0));

    disk.set_free(RESERVE);
    assert_eq!(alice.post("/_matrix/media/v3/upload", b"y").status, 200);
    assert_eq!(alice.get(&fetch).status, 200);
    assert_eq!(alice.get(&thumbnail).status, 200);
    assert_eq!(sidecar.anonymous().get("/_sidecar/health").status, 200);
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_that_was_answered() {
    for work in WORKS {
        let (remote, mut setup) = (remote(), setup());
        let (mut answered, mut number) = (Vec::<Task>::new(), 0);
        let mut steps = None;
        for left in [Left::Nothing, Left::Names, Left::All] {
            for at in 1.. {
                let data_dir = setup.config.data_dir.clone();
                let disk = Arc::new(ScriptedDisk::over(&data_dir));
                let sidecar = setup.on(Arc::clone(&disk) as _).start();
                assert!(answered.iter().all(|task| task.work == Work::Fetch || task.download(&sidecar)));
                check_store(&data_dir);
                let steps = *steps.get_or_insert_with(|| count_steps(work, &sidecar, &disk, &remote));

                number += 2;
                let mut bystander = Task::new(Work::Upload, number, &sidecar, &remote);
                assert!(bystander.attempt(&sidecar));
                answered.push(bystander);
                let mut task = Task::new(work, number + 1, &sidecar, &remote);
                disk.plan(Some(Fault::From(at)));
                if task.attempt(&sidecar) {
                    answered.push(task);
                }
                let folder = sidecar.stop();
                disk.cut_power(&data_dir, left);
                setup = Setup::in_folder(folder).with(many_pending);
                if at > steps {
                    break;
                }
            }
        }
        let sidecar = setup.start();
        assert!(answered.iter().all(|task| task.download(&sidecar)), "{work:?}");
        check_store(&sidecar.data_dir());
    }
}
