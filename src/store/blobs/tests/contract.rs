//! The contract of [`BlobStore`], as tests over any site.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use super::super::{BlobStore, Claim, Ingest, IngestError, Lost};
use super::liar::{Liar, Lie};
use crate::error::Error;
use crate::matrix::len_u64;
use crate::store::sha256::Sha256;

/// A place for blobs under test.
pub(super) trait Site {
    /// Opens it as after a start of the program.
    fn open(&self) -> Arc<dyn BlobStore>;

    /// What it stands on.
    fn liar(&self) -> &Liar;

    /// Changes what stands under a blob's name, behind the store's back.
    fn damage(&self, sha256: &Sha256, damage: Damage);

    /// How much lies about of what has not become a blob.
    fn leftovers(&self) -> usize;
}

/// What others do to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Missing,
    Truncated,
    Overlong,
    Flipped,
}

/// Takes `bytes` in, not yet finished.
fn begin(blobs: &Arc<dyn BlobStore>, bytes: &[u8]) -> Ingest {
    let mut ingest = Arc::clone(blobs).begin(1 << 20, None).unwrap();
    bytes.chunks(3).for_each(|piece| ingest.write(piece).unwrap());
    ingest
}

/// Makes a blob of `bytes`.
fn put(blobs: &Arc<dyn BlobStore>, bytes: &[u8]) -> Claim {
    begin(blobs, bytes).finish().unwrap()
}

/// The bytes of a blob of `size` bytes.
fn read(blobs: &Arc<dyn BlobStore>, sha256: &Sha256, size: u64) -> Result<String, Lost> {
    let mut text = String::new();
    blobs.open(sha256, size).unwrap()?.cursor().read_to_string(&mut text).unwrap();
    Ok(text)
}

/// Removes a blob that nothing refers to.
fn remove(blobs: &Arc<dyn BlobStore>, sha256: &Sha256) -> bool {
    blobs.remove_unless(sha256, &|| Ok(false)).unwrap()
}

/// Every blob.
fn walk(blobs: &Arc<dyn BlobStore>) -> HashSet<Sha256> {
    let mut names = HashSet::new();
    let visit = &mut |sha256| {
        assert!(names.insert(sha256), "{sha256} twice");
        Ok(())
    };
    blobs.walk(visit).unwrap();
    names
}

pub(super) fn what_goes_in_comes_out_whole_and_in_parts(site: &impl Site) {
    let blobs = site.open();
    let claim = put(&blobs, b"hello");
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!((claim.sha256().to_string().as_str(), claim.size()), (hello, 5));
    assert!(!claim.has_replaced_damage());
    let sha256 = claim.sha256();
    assert_eq!(read(&blobs, &sha256, 5).unwrap(), "hello");
    assert_eq!((blobs.size(&sha256), blobs.is_whole(&sha256)), (Some(5), true));

    let reader = blobs.open(&sha256, 5).unwrap().unwrap();
    let mut part = String::new();
    reader.range(1, 3).cursor().read_to_string(&mut part).unwrap();
    assert_eq!((part.as_str(), reader.size(), reader.is_whole()), ("ell", 5, true));
    assert_eq!(walk(&site.open()), HashSet::from([sha256]), "also after a start");
}

pub(super) fn an_empty_file_is_a_blob(site: &impl Site) {
    let blobs = site.open();
    let claim = put(&blobs, b"");
    assert_eq!((claim.size(), read(&blobs, &claim.sha256(), 0).unwrap().as_str()), (0, ""));
}

pub(super) fn identical_bytes_are_stored_once(site: &impl Site) {
    let blobs = site.open();
    let (one, two) = (begin(&blobs, b"hello"), begin(&blobs, b"hello"));
    let (one, two) = (one.finish().unwrap(), two.finish().unwrap());
    assert_eq!(one.sha256(), two.sha256());
    assert_eq!((walk(&blobs), site.leftovers()), (HashSet::from([one.sha256()]), 0));
    // Each claim counts.
    drop(one);
    assert!(blobs.is_claimed(&two.sha256()) && !remove(&blobs, &two.sha256()));
}

pub(super) fn too_many_bytes_are_refused_and_leave_nothing(site: &impl Site) {
    let blobs = site.open();
    let mut ingest = Arc::clone(&blobs).begin(4, None).unwrap();
    ingest.write(b"1234").unwrap();
    assert!(matches!(ingest.write(b"5"), Err(IngestError::TooLarge(4))));
    assert_eq!(ingest.size(), 4);
    drop(ingest);
    assert_eq!((walk(&blobs).len(), site.leftovers()), (0, 0));
}

pub(super) fn what_is_dropped_or_interrupted_leaves_nothing(site: &impl Site) {
    let blobs = site.open();
    drop(begin(&blobs, b"dropped"));
    assert_eq!(site.leftovers(), 0);
    std::mem::forget(begin(&blobs, b"interrupted"));
    let blobs = site.open();
    assert_eq!((walk(&blobs).len(), site.leftovers()), (0, 0));
}

pub(super) fn a_reader_sees_bytes_before_and_after_the_finish(site: &impl Site) {
    let blobs = site.open();
    let mut ingest = Arc::clone(&blobs).begin(100, None).unwrap();
    let reader = ingest.reader().unwrap().range(0, 5);
    let mut seen = [0; 5];
    assert_eq!(reader.read_at(0, &mut seen).unwrap(), 0);
    ingest.write(b"he").unwrap();
    assert_eq!(reader.read_at(0, &mut seen).unwrap(), 2);
    ingest.write(b"llo").unwrap();
    ingest.finish().unwrap();
    assert_eq!(reader.read_at(2, &mut seen[2..]).unwrap(), 3);
    assert_eq!((&seen, reader.available().unwrap()), (b"hello", 5));
}

pub(super) fn a_short_write_is_an_error_whether_or_not_it_is_told(site: &impl Site) {
    let blobs = site.open();
    let mut told = begin(&blobs, b"before");
    site.liar().tell(Lie::ShortWrite);
    let error = told.write(b"more").unwrap_err();
    assert!(matches!(error, IngestError::Io(error) if error.kind() == io::ErrorKind::StorageFull));
    drop(told);

    site.liar().tell(None);
    let mut silent = begin(&blobs, b"before");
    site.liar().tell(Lie::SilentShortWrite);
    silent.write(b"more").unwrap();
    site.liar().tell(None);
    let unfinished = silent.finish().unwrap_err();
    assert!(unfinished.source.to_string().contains("10 bytes were written"), "{}", unfinished.source);
    assert!(!blobs.is_claimed(&unfinished.sha256));
    assert_eq!((walk(&blobs).len(), site.leftovers()), (0, 0));
}

pub(super) fn what_cannot_be_made_durable_is_no_blob_and_the_next_attempt_is(site: &impl Site) {
    for (lie, text) in [(Lie::NoSync, "one"), (Lie::NoRename, "two"), (Lie::NoFolderSync, "three")] {
        let blobs = site.open();
        let ingest = begin(&blobs, text.as_bytes());
        site.liar().tell(lie);
        let sha256 = ingest.finish().unwrap_err().sha256;
        assert!(!blobs.is_claimed(&sha256), "{lie:?}: nobody may write a row");
        // A second upload of the same bytes is told the same, even if it finds them there.
        assert!(begin(&blobs, text.as_bytes()).finish().is_err(), "{lie:?}");
        site.liar().tell(None);
        assert_eq!(site.leftovers(), 0, "{lie:?}");
        let claim = put(&blobs, text.as_bytes());
        assert_eq!(claim.sha256(), sha256);
        assert_eq!(read(&blobs, &sha256, claim.size()).unwrap(), text);
    }
}

pub(super) fn a_full_disk_refuses_what_is_announced_and_what_is_not(site: &impl Site) {
    let blobs = site.open();
    let mut begun = begin(&blobs, b"begun");
    site.liar().tell(Lie::Free(0));
    for announced in [Some(10), None] {
        let refused = Arc::clone(&blobs).begin(100, announced).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    }
    assert_eq!(blobs.check().unwrap_err().kind(), io::ErrorKind::StorageFull);
    // What is under way ends too, when it has used up what it was promised.
    let piece = vec![0; 64 << 10];
    let ended = (0..1 << 10).find_map(|_| begun.write(&piece).err()).unwrap();
    assert!(matches!(ended, IngestError::TooLarge(_) | IngestError::Io(_)));
    drop(begun);
    assert_eq!((walk(&blobs).len(), site.leftovers()), (0, 0));
    site.liar().tell(None);
    blobs.check().unwrap();
    put(&blobs, b"room again");
}

pub(super) fn room_that_was_promised_and_not_used_is_free_again(site: &impl Site) {
    let (blobs, gib) = (site.open(), 1 << 30);
    site.liar().tell(Lie::Free(gib + (100 << 20)));
    let begin = || Arc::clone(&blobs).begin(gib, Some(gib));
    let mut short = begin().unwrap();
    assert_eq!(begin().unwrap_err().kind(), io::ErrorKind::StorageFull);
    short.write(b"less than announced").unwrap();
    short.finish().unwrap();
    drop(begin().unwrap());
    begin().unwrap();
}

pub(super) fn lost_blobs_are_told_apart_and_come_back_with_their_bytes(site: &impl Site) {
    let blobs = site.open();
    let sha256 = put(&blobs, b"hello").sha256();
    for (damage, lost) in [
        (Damage::Missing, Lost::Missing),
        (Damage::Truncated, Lost::Length { there: 2, size: 5 }),
        (Damage::Overlong, Lost::Length { there: 6, size: 5 }),
    ] {
        site.damage(&sha256, damage);
        assert_eq!(read(&blobs, &sha256, 5).unwrap_err(), lost);
        assert!(!blobs.is_whole(&sha256));
        let claim = put(&blobs, b"hello");
        assert_eq!(claim.has_replaced_damage(), damage != Damage::Missing);
        assert_eq!(read(&blobs, &sha256, 5).unwrap(), "hello");
    }
    // What is cut off after it was opened ends early, and that shows.
    let reader = blobs.open(&sha256, 5).unwrap().unwrap();
    site.damage(&sha256, Damage::Truncated);
    assert!(!reader.is_whole());
    assert_eq!(reader.cursor().read_to_end(&mut Vec::new()).unwrap(), 2);
}

pub(super) fn flipped_bits_are_noticed_when_the_bytes_come_again(site: &impl Site) {
    let sha256 = put(&site.open(), b"hello").sha256();
    site.damage(&sha256, Damage::Flipped);
    let blobs = site.open();
    assert!(!blobs.is_whole(&sha256));
    assert!(put(&blobs, b"hello").has_replaced_damage());
    // Also while it is open.
    site.damage(&sha256, Damage::Flipped);
    assert!(put(&blobs, b"hello").has_replaced_damage());
    assert!(!put(&blobs, b"hello").has_replaced_damage());
    assert_eq!(read(&blobs, &sha256, 5).unwrap(), "hello");
}

pub(super) fn a_claimed_or_wanted_blob_is_not_removed_and_removing_twice_is_fine(site: &impl Site) {
    let blobs = site.open();
    let claim = put(&blobs, b"hello");
    let sha256 = claim.sha256();
    let is_wanted = &|| -> crate::error::Result<bool> { unreachable!("nobody asks for a claimed blob") };
    assert!(!blobs.remove_unless(&sha256, is_wanted).unwrap());
    drop(claim);
    assert!(!blobs.remove_unless(&sha256, &|| Ok(true)).unwrap());
    let unreadable = || Err(Error::internal("reading the catalog", io::Error::other("x")));
    assert!(blobs.remove_unless(&sha256, &unreadable).is_err());
    assert_eq!(read(&blobs, &sha256, 5).unwrap(), "hello");
    assert!(remove(&blobs, &sha256));
    assert_eq!(read(&blobs, &sha256, 5).unwrap_err(), Lost::Missing);
    assert!(remove(&blobs, &sha256), "gone already");
    // It may come back.
    put(&blobs, b"hello");
    assert_eq!(read(&blobs, &sha256, 5).unwrap(), "hello");
}

pub(super) fn a_removal_that_fails_is_an_error_and_keeps_the_blob(site: &impl Site) {
    let blobs = site.open();
    let sha256 = put(&blobs, b"hello").sha256();
    site.liar().tell(Lie::NoRemove);
    assert!(blobs.remove_unless(&sha256, &|| Ok(false)).is_err());
    site.liar().tell(None);
    assert_eq!(read(&blobs, &sha256, 5).unwrap(), "hello");
    assert!(remove(&blobs, &sha256));
}

pub(super) fn a_blob_is_there_after_an_upload_that_races_its_removal(site: &impl Site) {
    let blobs = site.open();
    for _ in 0..50 {
        let sha256 = put(&blobs, b"hello").sha256();
        let (asked, ask) = channel();
        let other = Arc::clone(&blobs);
        let upload = thread::spawn(move || {
            let ingest = begin(&other, b"hello");
            // It finds the blob in its place while the removal asks whether it is wanted.
            ask.recv().unwrap();
            let claim = ingest.finish().unwrap();
            read(&other, &claim.sha256(), 5)
        });
        let is_wanted = || {
            asked.send(()).unwrap();
            Ok(false)
        };
        assert!(blobs.remove_unless(&sha256, &is_wanted).unwrap());
        assert_eq!(upload.join().unwrap().unwrap(), "hello", "removed after it was taken for granted");
    }
}

pub(super) fn a_claimed_blob_is_there_whatever_is_removed_meanwhile(site: &impl Site) {
    let blobs = site.open();
    let sha256 = put(&blobs, b"hello").sha256();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                remove(&blobs, &sha256);
            }
        });
        let uploads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let claim = put(&blobs, b"hello");
                        assert_eq!(read(&blobs, &claim.sha256(), 5).as_deref(), Ok("hello"));
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = uploads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Release);
        outcomes.into_iter().for_each(Result::unwrap);
    });
    assert!(!blobs.is_claimed(&sha256));
}

pub(super) fn a_walk_sees_what_is_complete_while_others_write_and_remove(site: &impl Site) {
    let blobs = site.open();
    let staying: HashSet<_> =
        (0..20).map(|number: u32| put(&blobs, number.to_string().as_bytes()).sha256()).collect();
    let unfinished = begin(&blobs, b"unfinished");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                let claim = put(&blobs, format!("passing {number}").as_bytes());
                let sha256 = claim.sha256();
                drop(claim);
                assert!(remove(&blobs, &sha256));
            }
        });
        for _ in 0..10 {
            assert!(walk(&blobs).is_superset(&staying));
        }
        is_over.store(true, Ordering::Release);
    });
    assert_eq!(walk(&blobs), staying);
    let sha256 = unfinished.finish().unwrap().sha256();
    assert!(walk(&blobs).contains(&sha256));
    // A visitor's error ends the walk.
    let mut visits = 0;
    let visit = &mut |_| {
        visits += 1;
        Err(Error::internal("visiting", io::Error::other("enough")))
    };
    assert!(blobs.walk(visit).is_err());
    assert_eq!(visits, 1);
}

pub(super) fn what_was_opened_is_read_to_its_end_after_the_removal(site: &impl Site) {
    let blobs = site.open();
    let sha256 = put(&blobs, b"hello").sha256();
    let reader = blobs.open(&sha256, 5).unwrap().unwrap();
    assert!(remove(&blobs, &sha256));
    let mut text = String::new();
    reader.cursor().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), len_u64(text.len())), ("hello", reader.size()));
}

pub(super) fn a_blob_is_set_aside_and_taken_back_or_removed(site: &impl Site) {
    let blobs = site.open();
    let claim = put(&blobs, b"hello");
    let sha256 = claim.sha256();
    assert!(!blobs.set_aside_unless(&sha256, &|| Ok(false)).unwrap(), "claimed");
    drop(claim);
    assert!(!blobs.set_aside_unless(&sha256, &|| Ok(true)).unwrap(), "wanted");
    let aside = || {
        let mut names = Vec::new();
        blobs
            .walk_aside(&mut |name| {
                names.push(name);
                Ok(())
            })
            .unwrap();
        names
    };
    assert!(blobs.set_aside_unless(&sha256, &|| Ok(false)).unwrap());
    assert_eq!((aside(), walk(&blobs).len()), (vec![sha256], 0));
    assert_eq!(read(&blobs, &sha256, 5).unwrap_err(), Lost::Missing);
    assert!(blobs.set_aside_unless(&sha256, &|| Ok(false)).unwrap(), "its place is empty");

    blobs.take_back(&sha256).unwrap();
    assert_eq!((aside(), read(&blobs, &sha256, 5).unwrap().as_str()), (vec![], "hello"));
    assert!(blobs.take_back(&sha256).is_err(), "there is nothing");

    blobs.set_aside_unless(&sha256, &|| Ok(false)).unwrap();
    blobs.remove_aside(&sha256).unwrap();
    blobs.remove_aside(&sha256).unwrap();
    assert_eq!((aside(), walk(&blobs).len()), (vec![], 0));
}
