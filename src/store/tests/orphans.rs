//! Blobs without a row.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::orphans::{FEW_ORPHANS, ORPHAN_ASIDE, ORPHAN_IN_PLACE};
use super::*;

/// A second.
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_orphan_stays_for_days_then_lies_aside_for_days_then_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let wanted = add(&store, "wanted");
    let orphan = put(&store, "orphan");
    store.find_orphans().unwrap();
    store.tend_orphans(ORPHAN_IN_PLACE.checked_sub(SECOND).unwrap()).unwrap();
    assert!(store.blobs.size(&orphan).is_some());
    store.tend_orphans(SECOND).unwrap();
    assert!(store.blobs.size(&orphan).is_none());
    let aside = folder.path().join("orphans").join(orphan.to_string());
    assert!(aside.exists());
    store.tend_orphans(ORPHAN_ASIDE.checked_sub(SECOND).unwrap()).unwrap();
    assert!(aside.exists());
    store.tend_orphans(SECOND).unwrap();
    assert!(!aside.exists());
    assert!(store.blobs.size(&wanted).is_some());
    assert!(!store.catalog.age_orphans(SECOND).unwrap(), "nothing is left to look after");
}

#[test]
fn a_damaged_copy_is_no_reason_to_remove_the_whole_one_in_orphans() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let sha256 = add(&store, "whole");
    drop(store);
    let name = sha256.to_string();
    let blob = folder.path().join("blobs").join(format!("{:02x}", sha256.as_bytes()[0])).join(&name);
    std::fs::copy(&blob, folder.path().join("orphans").join(&name)).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "wh").unwrap();
    drop(open(folder.path()).unwrap());
    assert_eq!(std::fs::read(&blob).unwrap(), b"whole");
}

#[test]
fn an_orphan_that_gets_a_row_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let orphan = put(&store, "x");
    store.find_orphans().unwrap();
    assert_eq!(add(&store, "x"), orphan);
    store.tend_orphans(ORPHAN_IN_PLACE).unwrap();
    assert!(store.blobs.size(&orphan).is_some());
}

#[test]
fn what_a_restored_catalog_wants_is_taken_back_from_orphans() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let orphan = put(&store, "x");
    store.find_orphans().unwrap();
    store.tend_orphans(ORPHAN_IN_PLACE).unwrap();
    assert!(store.blobs.size(&orphan).is_none());
    let text = std::fs::read(folder.path().join("orphans").join(orphan.to_string())).unwrap();
    assert_eq!(text, b"x");
    // The row comes without the upload that would bring the bytes again.
    let content_type = "text/plain".to_owned();
    let filled = catalog::Filled { sha256: orphan, size: 1, content_type, upload_name: None };
    let mxc = Mxc {
        server_name: ServerName::parse("example.org").unwrap(),
        media_id: MediaId::parse("x").unwrap(),
    };
    let media = NewMedia { mxc, filled, user_id: None, created: Timestamp(0), open: true, anonymous: false };
    store.catalog.add(media).unwrap();
    drop(store);
    let store = open(folder.path()).unwrap();
    assert_eq!(store.blobs.size(&orphan), Some(1));
    assert_eq!(files(&folder.path().join("orphans")), Vec::<PathBuf>::new());
}

#[test]
fn what_came_after_an_older_catalog_is_never_removed_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup.db");
    add(&open(folder.path()).unwrap(), "a");
    std::fs::copy(folder.path().join("catalog.db"), &backup).unwrap();
    let newer = add(&open(folder.path()).unwrap(), "newer");
    remove_catalog(folder.path());
    std::fs::copy(&backup, folder.path().join("catalog.db")).unwrap();

    // Killed before it has looked: the next run knows it as well.
    drop(open(folder.path()).unwrap());
    let store = open(folder.path()).unwrap();
    assert!(store.is_older.load(Ordering::Acquire));
    store.find_orphans().unwrap();
    drop(store);
    let store = open(folder.path()).unwrap();
    assert!(!store.is_older.load(Ordering::Acquire));
    store.find_orphans().unwrap();
    store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
    assert!(store.blobs.size(&newer).is_some());
}

#[test]
fn a_backup_of_the_same_run_is_known_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup.db");
    let store = open(folder.path()).unwrap();
    add(&store, "a");
    catalog::execute(folder.path(), &format!("VACUUM INTO '{}'", backup.display()));
    let newer = add(&store, "newer");
    drop(store);
    remove_catalog(folder.path());
    std::fs::copy(&backup, folder.path().join("catalog.db")).unwrap();
    let store = open(folder.path()).unwrap();
    assert!(store.is_older.load(Ordering::Acquire));
    store.find_orphans().unwrap();
    store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
    assert!(store.blobs.size(&newer).is_some());
    drop(store);
    assert!(!open(folder.path()).unwrap().is_older.load(Ordering::Acquire));
}

#[test]
fn more_orphans_than_crashes_leave_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    add(&store, "a");
    let orphans: Vec<_> = (0..=FEW_ORPHANS).map(|number| put(&store, &number.to_string())).collect();
    store.find_orphans().unwrap();
    store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
    assert!(orphans.iter().all(|orphan| store.blobs.size(orphan).is_some()));
}

#[test]
fn a_catalog_that_cannot_be_read_is_no_reason_to_move_anything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    add(&store, "a");
    let orphan = put(&store, "x");
    store.find_orphans().unwrap();
    catalog::execute(folder.path(), "DROP TABLE blob");
    assert!(store.tend_orphans(ORPHAN_IN_PLACE).is_err());
    assert!(store.find_orphans().is_err());
    assert!(store.blobs.size(&orphan).is_some());
}
