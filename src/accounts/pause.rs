//! A pause after the homeserver did not answer in time.
//!
//! Without a pause every caller would wait for its own time-out, and all threads for the homeserver would be busy. Only a time-out starts a
//! pause. A homeserver that refuses or aborts a request costs no time and is asked again at once: otherwise one caller whose token makes it
//! do so could lock out all others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::matrix::Moment;

/// How long the homeserver is not asked after a time-out.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether requests to the homeserver pause, and since when.
#[derive(Default)]
pub(super) struct Pause(Mutex<Option<Moment>>);

impl Pause {
    /// Whether the caller may ask the homeserver. After a pause only the first caller may ask; the pause goes on for the others until it has
    /// found out whether the homeserver responds again.
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

    /// The homeserver did not respond in time.
    pub(super) fn begin(&self, now: Moment) {
        *self.since() = Some(now);
    }

    /// The homeserver responded or failed at once.
    pub(super) fn end(&self) {
        *self.since() = None;
    }

    /// The value is never left half-changed, so a poisoned lock can be used.
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
