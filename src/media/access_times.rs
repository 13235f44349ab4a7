//! When media was last served, collected in memory and written now and then: each write wears an SD card.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::Media;
use crate::error::Result;
use crate::matrix::{Mxc, Timestamp};
use crate::sync::lock;

/// Media noted from which on it is written at once, without waiting for the hour; about 100 bytes each.
const MANY: usize = 8192;

/// Media noted at most. Only a catalog that cannot be written lets it come so far; further media is not noted then.
const MAX: usize = 8 * MANY;

/// Access times that are not yet written.
#[derive(Debug, Default)]
pub(super) struct AccessTimes {
    noted: Mutex<HashMap<Mxc, Timestamp>>,
    /// Notified when there are [`MANY`].
    many: Notify,
}

impl AccessTimes {
    /// Notes that `mxc` is served at `now`.
    pub(super) fn note(&self, mxc: &Mxc, now: Timestamp) {
        let mut noted = lock(&self.noted);
        if let Some(last) = noted.get_mut(mxc) {
            *last = now;
            return;
        }
        if noted.len() < MAX {
            noted.insert(mxc.clone(), now);
        }
        if noted.len() == MANY {
            self.many.notify_one();
        }
    }

    /// Takes everything that is noted.
    fn take(&self) -> HashMap<Mxc, Timestamp> {
        std::mem::take(&mut *lock(&self.noted))
    }

    /// Puts back what could not be written; what was noted meanwhile is later.
    fn put_back(&self, taken: HashMap<Mxc, Timestamp>) {
        let mut noted = lock(&self.noted);
        for (mxc, at) in taken {
            noted.entry(mxc).or_insert(at);
        }
    }
}

impl Media {
    /// Waits until so many access times are noted that they should be written.
    pub(crate) async fn many_accesses(&self) {
        self.access_times.many.notified().await;
    }

    /// Writes the access times noted since the last call. What cannot be written is kept for the next one. Blocks.
    pub(crate) fn flush_accesses(&self) -> Result<()> {
        let taken = self.access_times.take();
        if taken.is_empty() {
            return Ok(());
        }
        let written = self.store.touch(taken.iter().map(|(mxc, at)| (mxc.clone(), *at)).collect());
        if written.is_err() {
            self.access_times.put_back(taken);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{MediaId, ServerName};

    /// Media `number` of a server.
    fn file(number: usize) -> Mxc {
        let server_name = ServerName::parse("remote.example").unwrap();
        Mxc { server_name, media_id: MediaId::parse(&format!("f{number}")).unwrap() }
    }

    #[tokio::test]
    async fn none_is_dropped_while_the_catalog_can_be_written() {
        let times = AccessTimes::default();
        for number in 0..MANY {
            times.note(&file(number), Timestamp(1));
        }
        times.many.notified().await;
        times.note(&file(MANY), Timestamp(1));
        times.note(&file(0), Timestamp(2));
        let taken = times.take();
        assert_eq!((taken.len(), taken[&file(0)]), (MANY + 1, Timestamp(2)));
        times.note(&file(1), Timestamp(3));
        times.put_back(taken);
        let again = times.take();
        assert_eq!((again.len(), again[&file(1)], again[&file(0)]), (MANY + 1, Timestamp(3), Timestamp(2)));
    }

    #[test]
    fn the_table_is_bounded_when_nothing_can_be_written() {
        let times = AccessTimes::default();
        for number in 0..=MAX {
            times.note(&file(number), Timestamp(1));
        }
        assert_eq!(times.take().len(), MAX);
    }
}
