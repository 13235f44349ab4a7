//! How blobs leave their place: removed once no row refers to them any more. Those that never had a row are moved to
//! `data_dir/orphans/` before anything is removed, and taken back when a row wants them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Blobs;
use crate::error::{self, Error};
use crate::store::sha256::Sha256;

impl Blobs {
    /// Removes a blob unless it is claimed or `is_wanted` says that a row refers to it. Says whether nothing refers to
    /// it any more; a blob that is not there is removed already.
    pub(crate) fn remove_unless(
        &self,
        sha256: &Sha256,
        is_wanted: impl FnOnce() -> error::Result<bool>,
    ) -> error::Result<bool> {
        self.unless_wanted(sha256, is_wanted, |path| {
            self.disk.remove(path).map_err(|error| ("removing a blob", error))
        })
    }

    /// Takes a blob from its place by `take`, unless it is claimed or wanted. No claim can be made meanwhile. Says whether the
    /// place is empty now.
    fn unless_wanted(
        &self,
        sha256: &Sha256,
        is_wanted: impl FnOnce() -> error::Result<bool>,
        take: impl FnOnce(&Path) -> Result<(), (&'static str, io::Error)>,
    ) -> error::Result<bool> {
        let claims = self.claims();
        if claims.contains_key(sha256) || is_wanted()? {
            return Ok(false);
        }
        match take(&self.path(sha256)) {
            Ok(()) => Ok(true),
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err((what, error)) => Err(Error::internal(what, error)),
        }
    }

    /// Moves a blob to `orphans/` unless it is claimed or `is_wanted` says that a row refers to it. Says whether it did, or
    /// whether the blob is gone.
    pub(crate) fn set_aside_unless(
        &self,
        sha256: &Sha256,
        is_wanted: impl FnOnce() -> error::Result<bool>,
    ) -> error::Result<bool> {
        self.unless_wanted(sha256, is_wanted, |path| {
            let moved = self.move_durably(path, &self.orphan_path(sha256));
            moved.map_err(|error| ("moving a blob to orphans/", error))
        })
    }

    /// Moves a blob back from `orphans/`.
    pub(crate) fn take_back(&self, sha256: &Sha256) -> error::Result<()> {
        self.move_durably(&self.orphan_path(sha256), &self.path(sha256))
            .map_err(|error| Error::internal("moving a blob back from orphans/", error))
    }

    /// Removes a blob from `orphans/`.
    pub(crate) fn remove_orphan(&self, sha256: &Sha256) -> error::Result<()> {
        match self.disk.remove(&self.orphan_path(sha256)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::internal("removing a blob from orphans/", error))
            }
            _ => Ok(()),
        }
    }

    /// Calls `visit` with the name of every blob in `orphans/`; other files are left alone.
    pub(crate) fn walk_orphans(
        &self,
        mut visit: impl FnMut(Sha256) -> error::Result<()>,
    ) -> error::Result<()> {
        let failed = |error| Error::internal("walking orphans/", error);
        for entry in fs::read_dir(&self.orphans).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(sha256) = name.to_str().and_then(Sha256::from_hex) {
                visit(sha256)?;
            }
        }
        Ok(())
    }

    /// Length of a blob in its place, bytes; `None` when it is not there.
    pub(crate) fn size(&self, sha256: &Sha256) -> Option<u64> {
        fs::metadata(self.path(sha256)).ok().map(|file| file.len())
    }

    /// Whether a blob is in its place, with the bytes that its name says. Reads all of it.
    pub(crate) fn is_whole(&self, sha256: &Sha256) -> bool {
        super::digest(&self.path(sha256)).is_ok_and(|digest| digest == *sha256)
    }

    /// Renames a file and puts both folders on the medium.
    fn move_durably(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        for folder in [to.parent(), from.parent()].into_iter().flatten() {
            self.disk.sync_folder(folder)?;
        }
        Ok(())
    }

    /// `orphans/<sha256>`
    fn orphan_path(&self, sha256: &Sha256) -> PathBuf {
        self.orphans.join(sha256.to_string())
    }
}
