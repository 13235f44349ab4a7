//! What may go, in the order in which it goes.

use std::collections::VecDeque;

use crate::error::Result;
use crate::matrix::Timestamp;
use crate::store::Store;
use crate::store::catalog::{Candidate, Cursor, Group, Page, Terms};

/// Milliseconds of a day: the grain of last access.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// The candidates of one group, read page by page.
pub(super) struct Candidates {
    pub(super) group: Group,
    page: u32,
    next: VecDeque<Candidate>,
    after: Option<Cursor>,
    is_read: bool,
}

impl Candidates {
    pub(super) fn of(group: Group, page: u32) -> Self {
        Self { group, page, next: VecDeque::new(), after: None, is_read: false }
    }

    /// Puts back the one that was taken last.
    pub(super) fn put_back(&mut self, candidate: Candidate) {
        self.next.push_front(candidate);
    }

    /// The next one to go: by the day of last access, then the larger one.
    pub(super) fn next(&mut self, store: &Store, terms: Terms) -> Result<Option<Candidate>> {
        while self.next.is_empty() && !self.is_read {
            let (mut page, after) =
                store.candidates(&self.group, Page { after: self.after.take(), terms, limit: self.page })?;
            page.sort_by_key(|candidate| {
                (day(candidate.last_access), u64::MAX.saturating_sub(candidate.size))
            });
            self.is_read = after.is_none();
            self.after = after;
            self.next = page.into();
        }
        Ok(self.next.pop_front())
    }
}

/// The number of a time's day.
pub(super) fn day(time: Timestamp) -> i64 {
    time.0.div_euclid(DAY)
}
