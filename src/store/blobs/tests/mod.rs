//! What every place for blobs promises, and the directory put to the test.

#![allow(clippy::arithmetic_side_effects, clippy::string_slice, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod contract;
mod liar;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use self::contract::{Damage, Site};
use self::liar::Liar;
use super::{BlobStore, DirectoryBlobs};
use crate::store::fs::Fs;
use crate::store::sha256::Sha256;

/// Runs tests of the contract for one site.
macro_rules! contract {
    ($site:ident: $($test:ident)*) => { $(
        #[test]
        fn $test() {
            contract::$test(&$site::new());
        }
    )* };
}

contract! { DirectorySite:
    what_goes_in_comes_out_whole_and_in_parts
    an_empty_file_is_a_blob
    identical_bytes_are_stored_once
    too_many_bytes_are_refused_and_leave_nothing
    what_is_dropped_or_interrupted_leaves_nothing
    a_reader_sees_bytes_before_and_after_the_finish
    a_short_write_is_an_error_whether_or_not_it_is_told
    what_cannot_be_made_durable_is_no_blob_and_the_next_attempt_is
    a_full_disk_refuses_what_is_announced_and_what_is_not
    room_that_was_promised_and_not_used_is_free_again
    lost_blobs_are_told_apart_and_come_back_with_their_bytes
    flipped_bits_are_noticed_when_the_bytes_come_again
    a_claimed_or_wanted_blob_is_not_removed_and_removing_twice_is_fine
    a_removal_that_fails_is_an_error_and_keeps_the_blob
    a_blob_is_there_after_an_upload_that_races_its_removal
    a_claimed_blob_is_there_whatever_is_removed_meanwhile
    a_walk_sees_what_is_complete_while_others_write_and_remove
    what_was_opened_is_read_to_its_end_after_the_removal
    a_blob_is_set_aside_and_taken_back_or_removed
}

/// The directory below a temporary folder, over a disk that lies.
struct DirectorySite {
    folder: tempfile::TempDir,
    liar: Arc<Liar>,
}

impl DirectorySite {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), liar: Arc::default() }
    }

    fn path(&self, sha256: &Sha256) -> PathBuf {
        let name = sha256.to_string();
        self.folder.path().join("blobs").join(&name[..2]).join(name)
    }
}

impl Site for DirectorySite {
    fn open(&self) -> Arc<dyn BlobStore> {
        let fs: Arc<dyn Fs> = Arc::<Liar>::clone(&self.liar);
        DirectoryBlobs::open(self.folder.path(), fs).unwrap()
    }

    fn liar(&self) -> &Liar {
        &self.liar
    }

    fn damage(&self, sha256: &Sha256, damage: Damage) {
        let path = self.path(sha256);
        if damage == Damage::Missing {
            return fs::remove_file(path).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        match damage {
            Damage::Missing => {}
            Damage::Truncated => bytes.truncate(2),
            Damage::Overlong => bytes.push(b'!'),
            Damage::Flipped => bytes[0] ^= 1,
        }
        fs::write(path, bytes).unwrap();
    }

    fn leftovers(&self) -> usize {
        fs::read_dir(self.folder.path().join("tmp")).unwrap().count()
    }
}
