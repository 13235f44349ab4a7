//! Which files go, and which stay.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::report::{Count, Reason};
use super::*;
use crate::config::{Size, Span};
use crate::matrix::{MediaId, Mxc, UserId};
use crate::media::tests::{Environment, media_with};
use crate::store::catalog::{Added, LastAccess, NewBlock, Quota};
use crate::store::fs::{Fs, SystemFs};
use crate::store::{Incoming, Lookup};

const MIB: u64 = 1 << 20;

/// The system's disk, with as much free space as a test says.
#[derive(Debug)]
struct Disk(Arc<AtomicU64>);

impl Fs for Disk {
    fn create(&self, path: &Path) -> io::Result<File> {
        SystemFs.create(path)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        SystemFs.write(file, bytes)
    }

    fn begin_sync(&self, _file: &File, _offset: u64, _len: u64) {}

    fn sync(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemFs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let size = path.metadata()?.len();
        SystemFs.remove(path)?;
        self.0.fetch_add(size, Ordering::SeqCst);
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        SystemFs.create_folder(path)
    }

    fn sync_folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

/// A store whose days a test counts.
struct World {
    media: Arc<Media>,
    now: Arc<AtomicI64>,
    running: Arc<AtomicU64>,
    free: Arc<AtomicU64>,
    next: AtomicU64,
    _folder: tempfile::TempDir,
}

fn hours(count: i64) -> i64 {
    count.saturating_mul(60 * 60 * 1000)
}

impl World {
    /// On day 100; the service has run for two days.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(hours(24 * 100)));
        let (running, free) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(1 << 40)));
        let (clock, monotonic) = (Arc::clone(&now), Arc::clone(&running));
        let environment = Environment {
            clock: Arc::new(move || Timestamp(clock.load(Ordering::SeqCst))),
            monotonic: Arc::new(move || {
                Moment::since_start(Duration::from_millis(monotonic.load(Ordering::SeqCst)))
            }),
            fs: Arc::new(Disk(Arc::clone(&free))),
            ..Environment::system()
        };
        let media = media_with(environment, folder.path(), |_config| {});
        let world = Self { media, now, running, free, next: AtomicU64::new(0), _folder: folder };
        world.pass(48);
        world
    }

    /// Lets hours pass.
    fn pass(&self, count: i64) {
        self.now.fetch_add(hours(count), Ordering::SeqCst);
        self.running.fetch_add(u64::try_from(hours(count)).unwrap(), Ordering::SeqCst);
    }

    /// Stores `size` bytes that nothing else has.
    fn store(&self, server: &str, size: usize, user: Option<&str>, anonymous: bool) -> Mxc {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let mut bytes = vec![0; size];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        self.store_bytes(server, &bytes, user, anonymous)
    }

    fn store_bytes(&self, server: &str, bytes: &[u8], user: Option<&str>, anonymous: bool) -> Mxc {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let mxc = Mxc {
            server_name: ServerName::parse(server).unwrap(),
            media_id: MediaId::parse(&format!("f{number}")).unwrap(),
        };
        let mut ingest = self.media.store.begin(u64::MAX, None).unwrap();
        ingest.write(bytes).unwrap();
        let incoming = Incoming {
            mxc: mxc.clone(),
            content_type: "image/png".to_owned(),
            upload_name: None,
            user_id: user.map(UserId::new),
            created: (self.media.clock)(),
            open: true,
            anonymous,
        };
        assert_eq!(self.media.store.add(ingest, incoming, Quota::default()).unwrap(), Added::Yes);
        mxc
    }

    fn remote(&self, size: usize) -> Mxc {
        self.store("far.org", size, None, false)
    }

    fn touch(&self, mxc: &Mxc, as_avatar: bool) {
        let access = LastAccess { at: (self.media.clock)(), by_known: true, as_avatar };
        self.media.store.touch(vec![(mxc.clone(), access)]).unwrap();
    }

    fn is_there(&self, mxc: &Mxc) -> bool {
        matches!(self.media.store.find(mxc).unwrap(), Lookup::Stored(_))
    }

    fn sweep(&self, mode: Mode, change: impl FnOnce(&mut Rules)) -> Report {
        let mut rules = self.media.config.get().retention.clone();
        change(&mut rules);
        let mut sweep =
            self.media.retention.sweep(&rules, &|_server| None, (mode, Ages::WhenTrusted)).unwrap();
        while sweep.step().unwrap() != Step::Done {}
        sweep.into_report().unwrap()
    }

    fn evict(&self, change: impl FnOnce(&mut Rules)) -> Report {
        self.sweep(Mode::Evict, change)
    }
}

fn days(count: u64) -> Span {
    Span(Duration::from_hours(count.saturating_mul(24)))
}

#[test]
fn by_default_remote_media_goes_after_a_month_and_local_media_never() {
    let world = World::new();
    let local = world.store("example.org", 1000, Some("@a:example.org"), false);
    let (old, used) = (world.remote(1000), world.remote(1000));
    world.pass(24 * 20);
    world.touch(&used, false);
    assert_eq!(world.evict(|_rules| {}).total.files, 0);
    world.pass(24 * 12);
    let report = world.evict(|_rules| {});
    assert_eq!((report.total.files, report.by_reason[&Reason::Unused].bytes), (1, 1000));
    assert_eq!([&local, &old, &used].map(|mxc| world.is_there(mxc)), [true, false, true]);
    world.pass(24 * 3650);
    world.evict(|rules| rules.max_store = Some(Size(1)));
    assert_eq!([&local, &used].map(|mxc| world.is_there(mxc)), [true, false]);
    world.evict(|rules| rules.local.unused = Some(days(400)));
    assert!(!world.is_there(&local), "now the operator says so");
}

#[test]
fn a_store_over_its_bound_loses_the_longest_unused_first_and_of_one_day_the_larger() {
    let world = World::new();
    let stranger = world.store("far.org", 5000, None, true);
    let oldest = world.remote(1000);
    world.pass(24);
    let day: Vec<_> = [2000, 9000, 3000].map(|size| world.remote(size)).into();
    world.pass(24);
    let newest = world.remote(4000);
    let there = |all: &[&Mxc]| all.iter().map(|mxc| world.is_there(mxc)).collect::<Vec<_>>();
    let all = [&stranger, &oldest, &day[0], &day[1], &day[2], &newest];

    // 24 000 bytes: what a stranger caused suffices for a bound slightly below.
    assert_eq!(world.evict(|rules| rules.max_store = Some(Size(24_000))).total.files, 0);
    world.evict(|rules| rules.max_store = Some(Size(23_000)));
    assert_eq!(there(&all), [false, true, true, true, true, true]);
    // 19 000 bytes: down to 95 % of 17 000, so 2850 have to go: the oldest, then the largest of the next day.
    let report = world.evict(|rules| rules.max_store = Some(Size(17_000)));
    assert_eq!(there(&all), [false, false, true, false, true, true]);
    assert_eq!(report.total, Count { files: 2, bytes: 10_000 });
    assert_eq!(report.unmet, Vec::<String>::new());
    // A bound below one file.
    let report = world.evict(|rules| rules.max_store = Some(Size(1)));
    assert_eq!((report.total.files, report.unmet.len()), (3, 0));
}

#[test]
fn a_dry_run_says_what_the_sweep_then_does() {
    let world = World::new();
    for size in [3000, 1000, 7000, 2000] {
        world.remote(size);
        world.store("far.org", size + 1, None, size == 2000);
        world.pass(24 * 9);
    }
    let rules = |rules: &mut Rules| {
        rules.max_store = Some(Size(9000));
        rules.remote.unused = Some(days(20));
        rules.remote.max_size = Some(Size(20_000));
    };
    let dry = world.sweep(Mode::DryRun, rules);
    assert!(dry.dry_run && dry.total.files > 3);
    let done = world.evict(rules);
    assert_eq!((&dry.total, &dry.by_reason, &dry.first), (&done.total, &done.by_reason, &done.first));
    assert_eq!((dry.by_server, dry.by_age), (done.by_server, done.by_age));
    assert_eq!(world.evict(rules).total.files, 0, "it is well within its bounds");
}

#[test]
fn a_full_disk_is_freed_until_it_has_a_margin_and_an_unreachable_floor_is_said() {
    let world = World::new();
    let files: Vec<_> = (0..6).map(|_| world.remote(100 << 20)).collect();
    world.free.store(2000 * MIB, Ordering::SeqCst);
    let report = world.evict(|_rules| {});
    // 2 GiB + 256 MiB − 2000 MiB = 304 MiB.
    assert_eq!(report.by_reason[&Reason::KeepFree].files, 4);
    assert_eq!(files.iter().filter(|mxc| world.is_there(mxc)).count(), 2);
    let report = world.evict(|rules| rules.keep_free = Size(1 << 50));
    assert_eq!(report.total.files, 2);
    assert!(report.unmet[0].starts_with("retention.keep_free is not met"), "{:?}", report.unmet);
}

#[test]
fn room_is_made_for_a_file_before_it_comes_and_no_more_than_it_needs() {
    let world = World::new();
    let files: Vec<_> = (0..6).map(|_| world.remote(10 << 20)).collect();
    let left = || files.iter().filter(|mxc| world.is_there(mxc)).count();
    let rules = world.media.config.get().retention.clone();
    world.free.store(2048 * MIB + 30 * MIB, Ordering::SeqCst);
    world.media.retention.make_room(&rules, 30 * MIB);
    assert_eq!(left(), 6, "it fits");
    world.media.retention.make_room(&rules, 45 * MIB);
    assert_eq!(left(), 4);
    world.media.retention.make_room(&Rules { max_store: Some(Size(41 * MIB)), ..rules.clone() }, 5 * MIB);
    assert_eq!(left(), 3);
    // Larger than the whole store may be: nothing that goes would help.
    world.media.retention.make_room(&Rules { max_store: Some(Size(35 * MIB)), ..rules }, 36 * MIB);
    assert_eq!(left(), 3);
}

#[test]
fn avatars_and_protected_media_stay() {
    let world = World::new();
    let (avatar, protected, plain) = (world.remote(1000), world.remote(1000), world.remote(1000));
    world.touch(&avatar, true);
    world.media.store.protect(&protected, true).unwrap();
    world.pass(24 * 60);
    world.evict(|rules| rules.max_store = Some(Size(1)));
    assert_eq!([&avatar, &protected, &plain].map(|mxc| world.is_there(mxc)), [true, true, false]);
    world.evict(|rules| {
        rules.exempt_avatars = false;
        rules.max_store = Some(Size(1));
    });
    assert_eq!([&avatar, &protected].map(|mxc| world.is_there(mxc)), [false, true]);
    // The exemption ends 90 days after the last request.
    let late = world.remote(1000);
    world.touch(&late, true);
    world.pass(24 * 92);
    world.evict(|_rules| {});
    assert!(!world.is_there(&late));
}

#[test]
fn a_clock_that_is_wrong_and_a_fresh_start_empty_nothing() {
    let world = World::new();
    let mxc = world.remote(1000);
    assert_eq!(world.evict(|_rules| {}).total.files, 0);
    // Set ahead by ten years, while an hour passed.
    world.now.fetch_add(hours(24 * 3650), Ordering::SeqCst);
    assert_eq!(world.evict(|_rules| {}).total.files, 0, "the clock was set");
    world.now.fetch_sub(hours(24 * 3650), Ordering::SeqCst);
    world.evict(|_rules| {});
    // Behind the times in the catalog, which a right clock has written.
    world.now.fetch_sub(hours(1), Ordering::SeqCst);
    world.evict(|_rules| {});
    assert_eq!(world.evict(|rules| rules.remote.unused = Some(days(0))).total.files, 0, "it is behind");
    world.now.fetch_add(hours(1), Ordering::SeqCst);
    world.evict(|_rules| {});
    world.running.store(0, Ordering::SeqCst);
    world.pass(24 * 40);
    assert!(world.is_there(&mxc));

    // As after a restore: all times are old, and the service has just started.
    let fresh = World::new();
    let mxc = fresh.remote(1000);
    fresh.running.store(hours(1).try_into().unwrap(), Ordering::SeqCst);
    fresh.now.fetch_add(hours(24 * 300), Ordering::SeqCst);
    fresh.evict(|_rules| {});
    assert!(fresh.is_there(&mxc));
    fresh.evict(|rules| rules.max_store = Some(Size(1)));
    assert!(!fresh.is_there(&mxc), "the caps need no clock");
}

#[test]
fn shared_bytes_go_with_their_last_row_and_a_quarantine_leaves_a_tombstone() {
    let world = World::new();
    let bytes = vec![9; 5000];
    let local = world.store_bytes("example.org", &bytes, Some("@a:example.org"), false);
    let far = world.store_bytes("far.org", &bytes, None, false);
    let report = world.evict(|rules| rules.max_store = Some(Size(1)));
    assert_eq!([&local, &far].map(|mxc| world.is_there(mxc)), [true, true], "evicting one frees nothing");
    assert_eq!(report.total.files, 0);

    let bad = world.remote(700);
    let block = NewBlock { since: Timestamp(1), by: "me".to_owned(), reason: None };
    assert_eq!(world.media.store.quarantine(&bad, block).unwrap(), 1);
    world.evict(|rules| rules.max_store = Some(Size(1)));
    assert!(matches!(world.media.store.find(&bad).unwrap(), Lookup::Withheld));
    assert_eq!(world.media.store.unquarantine(&bad).unwrap(), 1);
    assert!(matches!(world.media.store.find(&bad).unwrap(), Lookup::Unknown));
}

#[test]
fn older_media_goes_by_the_time_it_came() {
    let world = World::new();
    let old: BTreeSet<_> = (0..600).map(|_| world.remote(9).media_id.as_str().to_owned()).collect();
    assert_eq!(old.len(), 600);
    world.pass(24 * 10);
    let young = world.remote(9);
    let older = |rules: &mut Rules| rules.remote.older = Some(days(5));
    assert_eq!(world.sweep(Mode::DryRun, older).total.files, 600);
    assert_eq!(world.evict(older).total.files, 600);
    assert!(world.is_there(&young));
}

#[test]
fn thumbnails_have_a_bound_of_their_own() {
    let world = World::new();
    let source = world.store("example.org", 900, Some("@a:example.org"), false);
    let Lookup::Stored(stored) = world.media.store.find(&source).unwrap() else { panic!("it is stored") };
    for width in 1..=20 {
        let mut ingest = world.media.store.begin(u64::MAX, None).unwrap();
        ingest.write(&[u8::try_from(width).unwrap(); 1000]).unwrap();
        let key = crate::store::catalog::ThumbnailKey {
            source: stored.content.sha256,
            crop: [0, 0, 9, 9],
            size: [width, 9],
            animated: false,
        };
        let made = crate::store::MadeThumbnail {
            key,
            content_type: "image/png",
            created: (world.media.clock)(),
            limit: 99,
            max_bytes: u64::MAX,
            anonymous: false,
        };
        world.media.store.keep_thumbnail(ingest, made).unwrap().unwrap();
        world.pass(24);
    }
    let report = world.evict(|rules| {
        rules.thumbnails.unused = None;
        rules.thumbnails.max_size = Some(Size(10_000));
    });
    // Down to 95 % of the bound.
    assert_eq!(report.by_reason[&Reason::MaxSize], Count { files: 11, bytes: 11_000 });
    assert_eq!(world.media.store.totals().unwrap().thumbnail.bytes, 9000);
    // Those of the last fourteen days stay.
    world.pass(24 * 10);
    let report = world.evict(|_rules| {});
    assert_eq!((report.by_reason[&Reason::Unused].files, report.total.files), (5, 5));
    assert!(world.is_there(&source));
}

#[tokio::test]
async fn what_was_served_since_the_last_flush_stays_and_two_sweeps_free_once() {
    let world = World::new();
    let (used, unused) = (world.remote(1000), world.remote(1000));
    world.pass(24 * 40);
    let access = LastAccess { at: (world.media.clock)(), by_known: true, as_avatar: false };
    world.media.access_times.note_media(&used, access);
    let rules = world.media.config.get().retention.clone();
    world.media.sweep(rules.clone(), Mode::Evict, Ages::Asked).await.unwrap();
    assert_eq!([&used, &unused].map(|mxc| world.is_there(mxc)), [true, false]);

    let files: Vec<_> = (0..40).map(|_| world.remote(1000)).collect();
    let rules = Rules { max_store: Some(Size(40_000)), ..rules };
    let sweep = || world.media.sweep(rules.clone(), Mode::Evict, Ages::WhenTrusted);
    let (one, other) = tokio::join!(sweep(), sweep());
    let gone = one.unwrap().total.files.saturating_add(other.unwrap().total.files);
    assert_eq!(gone, 3, "from 41 000 bytes to 38 000");
    assert_eq!(files.iter().chain([&used]).filter(|mxc| world.is_there(mxc)).count(), 38);
}

#[tokio::test]
async fn with_sessions_copies_of_other_servers_go_after_a_minute_and_readers_get_all_of_them() {
    let world = World::new();
    let mut config = (*world.media.config.get()).clone();
    let (far, mine) = (world.remote(1000), world.store("example.org", 1000, Some("@a:example.org"), false));
    world.touch(&far, true);
    world.pass(1);
    world.media.end_sessions().await.unwrap();
    assert!(world.is_there(&far), "by default copies are kept");
    config.federation.store = RemoteStore::Session;
    world.media.config.set(config);
    let young = world.remote(1000);
    let Lookup::Stored(open) = world.media.store.find(&far).unwrap() else { panic!("it is stored") };
    world.media.end_sessions().await.unwrap();
    assert_eq!([&far, &young, &mine].map(|mxc| world.is_there(mxc)), [false, true, true]);
    assert_eq!(open.blob.available().unwrap(), 1000);
    world.pass(1);
    world.media.end_sessions().await.unwrap();
    assert_eq!([&young, &mine].map(|mxc| world.is_there(mxc)), [false, true]);
}
