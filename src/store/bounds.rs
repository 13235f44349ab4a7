//! What the store holds, and what may go when room is made.

use super::Store;
use super::catalog::{Candidate, Cursor, Group, Page, Terms, Totals, Usage, UsageBy, UserTotal};
use super::sha256::Sha256;
use crate::error::{Error, Result};
use crate::matrix::{Timestamp, UserId};

impl Store {
    /// Bytes that are free on the disk, less those promised to files in progress.
    pub(crate) fn free(&self) -> Result<u64> {
        self.blobs.free().map_err(|error| Error::internal("asking for free space", error))
    }

    /// The totals by kind.
    pub(crate) fn totals(&self) -> Result<Totals> {
        self.catalog.totals()
    }

    /// The next blobs of a group that may go, the longest unused first, and where to go on.
    pub(crate) fn candidates(&self, group: &Group, page: Page) -> Result<(Vec<Candidate>, Option<Cursor>)> {
        self.catalog.candidates(group, page)
    }

    /// Blobs of other servers or of ours that came before `created`, behind `after` in the order of their hashes.
    pub(crate) fn arrived_before(
        &self,
        group: &Group,
        created: Timestamp,
        after: Option<Sha256>,
        terms: Terms,
    ) -> Result<Vec<Candidate>> {
        self.catalog.arrived_before(group, created, after, terms)
    }

    /// When anything was last served or stored, as far as the catalog knows.
    pub(crate) fn newest_access(&self) -> Result<Option<Timestamp>> {
        self.catalog.newest_access()
    }

    /// What the store holds, the largest first. `age` names a time since last access, in days.
    pub(crate) fn usage(&self, by: UsageBy, age: fn(u64) -> &'static str) -> Result<Vec<Usage>> {
        self.catalog.usage(by, age)
    }

    /// What a user has uploaded.
    pub(crate) fn user_total(&self, user_id: &UserId) -> Result<UserTotal> {
        self.catalog.user_total(user_id)
    }

    /// Visits the bytes that are kept of each other server.
    pub(crate) fn server_usage(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.catalog.server_usage(visit)
    }
}
