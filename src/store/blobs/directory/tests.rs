//! Tests of what only a directory has: names, modes, and foreign files in it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::store::blobs::Claim;
use crate::store::fs::SystemFs;

/// SHA-256 of "hello".
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// A directory in a folder that goes with the first value.
fn store() -> (tempfile::TempDir, Arc<DirectoryBlobs>) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = DirectoryBlobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
    (folder, blobs)
}

/// Stores `bytes` as a blob.
fn put(blobs: &Arc<DirectoryBlobs>, bytes: &[u8]) -> Claim {
    let mut ingest = Arc::clone(blobs).begin(100, None).unwrap();
    ingest.write(bytes).unwrap();
    ingest.finish().unwrap()
}

/// How many files are in `tmp`.
fn leftovers(folder: &tempfile::TempDir) -> usize {
    fs::read_dir(folder.path().join("tmp")).unwrap().count()
}

#[test]
fn a_blob_lies_under_its_sha256_and_is_read_only() {
    let (folder, blobs) = store();
    let claim = put(&blobs, b"hello");
    assert_eq!((claim.sha256().to_string().as_str(), claim.size()), (HELLO, 5));
    let path = folder.path().join("blobs/2c").join(HELLO);
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
    assert_eq!(leftovers(&folder), 0);
}

#[test]
fn what_else_stands_under_a_blobs_name_is_not_given_out_and_makes_way_for_its_bytes() {
    use std::os::unix::net::UnixListener;
    type Damage<'a> = &'a dyn Fn(&Path);

    let (folder, blobs) = store();
    let sha256 = put(&blobs, b"hello").sha256();
    let path = folder.path().join("blobs/2c").join(HELLO);
    let length = |there| Lost::Length { there, size: 5 };
    let table: [(Damage<'_>, Lost); 8] = [
        (&|_| {}, Lost::Missing),
        (&|path| fs::write(path, b"he").unwrap(), length(2)),
        (&|path| fs::write(path, b"").unwrap(), length(0)),
        (&|path| fs::write(path, b"hello!").unwrap(), length(6)),
        (&|path| fs::create_dir(path).unwrap(), Lost::NoFile),
        (&|path| fs::create_dir_all(path.join("with/more")).unwrap(), Lost::NoFile),
        (&|path| drop(UnixListener::bind(path).unwrap()), Lost::NoFile),
        (&|path| std::os::unix::fs::symlink(path, path).unwrap(), Lost::NoFile),
    ];
    for (damage, expected) in table {
        fs::remove_file(&path).unwrap();
        damage(&path);
        assert_eq!(blobs.open(&sha256, 5).unwrap().unwrap_err(), expected);
        put(&blobs, b"hello");
        assert!(blobs.open(&sha256, 5).unwrap().is_ok(), "after {expected}");
        fs::remove_dir_all(path.with_extension("aside")).ok();
    }
    let mkfifo = std::process::Command::new("mkfifo").arg(path.with_extension("pipe")).status().unwrap();
    assert!(mkfifo.success());
    fs::rename(path.with_extension("pipe"), &path).unwrap();
    assert_eq!(blobs.open(&sha256, 5).unwrap().unwrap_err(), Lost::NoFile, "without waiting");
}

#[test]
fn a_file_system_that_refuses_is_an_error_and_nothing_half_written_stays() {
    let (folder, blobs) = store();
    let mut ingest = Arc::clone(&blobs).begin(100, None).unwrap();
    ingest.write(b"hello").unwrap();
    // A file stands where the folder was: renaming into it fails, whoever runs the test.
    fs::remove_dir(folder.path().join("blobs/2c")).unwrap();
    fs::write(folder.path().join("blobs/2c"), b"").unwrap();
    assert!(ingest.finish().is_err());
    assert_eq!(leftovers(&folder), 0);
    assert!(!blobs.is_claimed(&Sha256::from_hex(HELLO).unwrap()));
}

#[test]
fn files_of_others_in_tmp_stay() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tmp")).unwrap();
    for name in ["notes.txt", "7", "x.part", ".part", "1.part", "22.part"] {
        fs::write(folder.path().join("tmp").join(name), b"x").unwrap();
    }
    fs::create_dir(folder.path().join("tmp/3.part")).unwrap();
    drop(DirectoryBlobs::open(folder.path(), Arc::new(SystemFs)).unwrap());
    let mut left: Vec<_> =
        fs::read_dir(folder.path().join("tmp")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".part", "3.part", "7", "notes.txt", "x.part"]);
}
