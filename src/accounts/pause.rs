//! A pause after the homeserver did not answer in time.
//!
//! Without it every caller would wait for a time-out of its own, and the threads that ask would all be taken. Only a time-out starts a
//! pause. A homeserver that refuses or breaks off costs nobody time and is asked again at once: else one caller whose token makes it
//! do so would lock out all others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::matrix::Moment;

/// How long the homeserver is not asked after it did not answer in time.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether requests to the homeserver pause, and since when.
#[derive(Default)]
pub(super) struct Pause(Mutex<Option<Moment>>);

impl Pause {
    /// Whether the caller may ask the homeserver. After a pause the first caller may, and the others wait for another pause: it finds
    /// out for all of them whether the homeserver answers again.
    pub(super) fn try_pass(&self, now: Moment) -> bool {
        let mut since = self.since();
        match *since {
            Some(began) if now < began.after(PAUSE) => false,
            Some(_) => {
                *since = Some(now);
                true
            }
            None => true,
        }
    }

    /// The homeserver did not answer in time.
    pub(super) fn begin(&self, now: Moment) {
        *self.since() = Some(now);
    }

    /// The homeserver answered, or failed at once.
    pub(super) fn end(&self) {
        *self.since() = None;
    }

    /// A panic elsewhere cannot leave the value half-changed, so a poisoned lock is as good as any.
    fn since(&self) -> MutexGuard<'_, Option<Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_one_caller_asks_for_all() {
        let pause = Pause::default();
        let at = |seconds: u64| Moment::since_start(Duration::from_secs(seconds));
        assert!(pause.try_pass(at(0)));
        pause.begin(at(10));
        assert!(!pause.try_pass(at(14)));
        assert!(pause.try_pass(at(15)), "this one asks");
        assert!(!pause.try_pass(at(16)), "others do not wait for its answer");
        pause.end();
        assert!(pause.try_pass(at(16)));
    }
}
