//! Halves that do not belong together.

use super::super::inspect;
use super::super::orphans::ORPHAN_IN_PLACE;
use super::*;

#[test]
fn a_look_finds_what_an_opening_would_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let say = || inspect(folder).unwrap().map(|problem| problem.to_string()).unwrap_or_default();
    assert_eq!(say(), "");
    let store = open(folder).unwrap();
    add(&store, "a");
    assert_eq!(say(), "", "while it runs");
    drop(store);
    let catalog = std::fs::read(folder.join("catalog.db")).unwrap();
    std::fs::rename(folder.join("blobs"), folder.join("elsewhere")).unwrap();
    assert!(say().contains("Mount the disk"));
    std::fs::rename(folder.join("elsewhere"), folder.join("blobs")).unwrap();
    remove_catalog(folder);
    assert!(say().contains("missing or empty"));
    assert!(!folder.join("catalog.db").exists());
    std::fs::write(folder.join("catalog.db"), &catalog[..catalog.len() / 2]).unwrap();
    assert!(inspect(folder).is_err());
}

#[test]
fn a_missing_or_empty_catalog_beside_blobs_is_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    add(&open(folder).unwrap(), "a");
    let before = files(folder);
    remove_catalog(folder);
    assert!(refusal(folder).contains("catalog.db is missing or empty"));
    assert!(!folder.join("catalog.db").exists(), "nothing is made in its place");

    std::fs::write(folder.join("catalog.db"), b"").unwrap();
    assert!(refusal(folder).contains("catalog.db is missing or empty"));

    // One that an older build made, which had no ID.
    let other = tempfile::tempdir().unwrap();
    drop(open(other.path()).unwrap());
    std::fs::copy(other.path().join("catalog.db"), folder.join("catalog.db")).unwrap();
    assert!(refusal(folder).contains("catalog.db is missing or empty"));
    std::fs::remove_file(folder.join("store-id")).unwrap();
    assert!(refusal(folder).contains("catalog.db is missing or empty"));
    assert_eq!(files(folder), before);
}

#[test]
fn a_catalog_and_a_directory_of_different_stores_are_refused_until_the_operator_says_so() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    add(&open(one.path()).unwrap(), "a");
    add(&open(two.path()).unwrap(), "b");
    remove_catalog(one.path());
    std::fs::copy(two.path().join("catalog.db"), one.path().join("catalog.db")).unwrap();
    let refusal = refusal(one.path());
    assert!(refusal.contains("belong to different stores"), "{refusal}");
    // The words of the message, as a shell would do it.
    let (_, command) = refusal.split_once("all the same: rm ").unwrap();
    let (path, rest) = command.split_once("; echo ").unwrap();
    let (id, same_path) = rest.split_once(" > ").unwrap();
    assert_eq!(path, same_path);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, format!("{id}\n")).unwrap();
    let store = open(one.path()).unwrap();
    store.find_orphans().unwrap();
    store.tend_orphans(ORPHAN_IN_PLACE.saturating_mul(100)).unwrap();
    assert_eq!(files(&one.path().join("blobs")).len(), 1, "kept in its place");
}

#[test]
fn a_directory_that_is_not_mounted_is_refused_until_the_operator_says_so() {
    let folder = tempfile::tempdir().unwrap();
    add(&open(folder.path()).unwrap(), "a");
    std::fs::rename(folder.path().join("blobs"), folder.path().join("elsewhere")).unwrap();
    let refusal = refusal(folder.path());
    assert!(refusal.contains("Mount the disk"), "{refusal}");
    assert!(!folder.path().join("blobs").exists());
    let (_, command) = refusal.split_once("mkdir -p ").unwrap();
    let (path, _) = command.split_once(", as the user").unwrap();
    std::fs::create_dir_all(path).unwrap();
    assert!(inspect(folder.path()).unwrap().is_none());
    drop(open(folder.path()).unwrap());
}

#[test]
fn a_catalog_of_an_older_build_takes_its_directory_over() {
    let folder = tempfile::tempdir().unwrap();
    add(&open(folder.path()).unwrap(), "a");
    std::fs::remove_file(folder.path().join("store-id")).unwrap();
    open(folder.path()).unwrap().find_orphans().unwrap();
    assert!(folder.path().join("store-id").exists());
}
