//! Uploads under way: how many each user may have.
//!
//! Owns the count, in memory; an upload lasts as long as its request, however that ends. Refuses to make anybody wait: an
//! upload that waits would hold its connection as one under way does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{RETRY, lock};
use crate::error::{Error, Kind, Result};
use crate::matrix::UserId;

/// Uploads that a user may have under way at the same time; who begins a further one is told to come back. A client sends a
/// handful at once.
const MAX_UPLOADS_PER_USER: usize = 32;

/// Uploads under way, by user. Who has none is not in the table.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Arc<Mutex<HashMap<UserId, usize>>>);

/// An upload under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    /// Where it counts.
    table: Arc<Mutex<HashMap<UserId, usize>>>,
    /// Whose it is.
    user_id: UserId,
}

impl Uploads {
    /// Begins one.
    ///
    /// # Errors
    /// `LimitExceeded` when the user has too many.
    pub(crate) fn begin(&self, user_id: &UserId) -> Result<UnderWay> {
        let mut table = lock(&self.0);
        let under_way = table.get(user_id).copied().unwrap_or(0);
        if under_way >= MAX_UPLOADS_PER_USER {
            let message = "too many of your uploads are under way";
            return Err(Error::new(Kind::LimitExceeded, message).retry_after(RETRY));
        }
        table.insert(user_id.clone(), under_way.saturating_add(1));
        Ok(UnderWay { table: Arc::clone(&self.0), user_id: user_id.clone() })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        match table.get_mut(&self.user_id) {
            Some(under_way) if *under_way > 1 => *under_way = under_way.saturating_sub(1),
            _ => drop(table.remove(&self.user_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_so_many_and_the_table_holds_only_those_who_have_any() {
        let (uploads, alice, bob) =
            (Uploads::default(), UserId::new("@alice:example.org"), UserId::new("@bob:example.org"));
        let mut held: Vec<_> = (0..MAX_UPLOADS_PER_USER).map(|_| uploads.begin(&alice).unwrap()).collect();
        assert_eq!(uploads.begin(&alice).unwrap_err().kind(), Kind::LimitExceeded);
        drop(uploads.begin(&bob).unwrap());
        held.pop();
        held.push(uploads.begin(&alice).unwrap());
        assert!(uploads.begin(&alice).is_err());
        drop(held);
        assert!(lock(&uploads.0).is_empty());
    }
}
