//! Claims: they protect a blob from removal until its row is committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::IsWanted;
use super::ingest::Replaced;
use crate::error;
use crate::store::sha256::Sha256;

/// How many claims there are on each blob. One table for each store; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<HashMap<Sha256, usize>>>);

/// A blob that is complete and durable, and cannot be removed while this lives. Hold it until the row is committed.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    sha256: Sha256,
    /// Its length, bytes.
    size: u64,
    has_replaced_damage: bool,
}

impl Claims {
    /// Claims a blob of `size` bytes. Call this before the blob appears under its name; it is not removed from here on.
    pub(super) fn claim(&self, sha256: Sha256, size: u64) -> Claim {
        let mut table = self.table();
        let count = table.entry(sha256).or_default();
        *count = count.saturating_add(1);
        drop(table);
        Claim { claims: self.clone(), sha256, size, has_replaced_damage: false }
    }

    /// Whether a blob is claimed.
    pub(super) fn is_claimed(&self, sha256: &Sha256) -> bool {
        self.table().contains_key(sha256)
    }

    /// Runs `take` unless the blob is claimed or wanted, and returns whether it ran. The blob cannot be claimed meanwhile.
    pub(super) fn unless_wanted(
        &self,
        sha256: &Sha256,
        is_wanted: IsWanted<'_>,
        take: impl FnOnce() -> error::Result<()>,
    ) -> error::Result<bool> {
        // Held to the end: an upload of the same bytes must not rely on a file that is about to be removed.
        let table = self.table();
        if table.contains_key(sha256) || is_wanted()? {
            return Ok(false);
        }
        take().map(|()| true)
    }

    /// The table. It is never left half-changed, so a poisoned lock can be used.
    fn table(&self) -> MutexGuard<'_, HashMap<Sha256, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    pub(crate) fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The blob's length, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether damaged bytes were under the blob's name until now. Everything made from them is wrong.
    pub(crate) fn has_replaced_damage(&self) -> bool {
        self.has_replaced_damage
    }

    /// Records what the blob replaced.
    pub(super) fn note(&mut self, replaced: Replaced) {
        self.has_replaced_damage = replaced == Replaced::Damage;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.claims.table();
        if let Some(count) = table.get_mut(&self.sha256) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                table.remove(&self.sha256);
            }
        }
    }
}
