//! A piece of work that callers wait for: for whose benefit it is done, until when, and whether anybody still waits.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::caller::{Caller, Class};
use crate::sync::lock;

/// Work that one or several callers wait for. It has the standing of the best of them, also of one that joined later, and the latest
/// of their deadlines. Clones are the same work.
#[derive(Clone, Debug)]
pub(crate) struct Work(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when the standing rises and when the last waiter leaves.
    changed: watch::Sender<()>,
    /// Works that are done together by this one.
    parts: Vec<Work>,
}

#[derive(Debug)]
struct State {
    caller: Caller,
    /// Callers that wait; `None` for work that goes on without any.
    waiters: Option<usize>,
    /// How long the most patient caller waits for something that is not there yet.
    until: Option<Instant>,
    /// When the last caller stopped waiting.
    left: Option<Instant>,
    /// How long it goes on after that if a user or a server wanted it: they may come back.
    grace: Duration,
    /// Whether it goes on even if nobody waits.
    is_kept: bool,
    /// Whether it was given up. Then nobody can join it.
    is_over: bool,
    /// Whether that was because it is too slow.
    is_too_slow: bool,
}

/// A caller that waits for a work, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiter(Work);

thread_local! {
    /// The work that this thread does.
    static CURRENT: RefCell<Option<Work>> = const { RefCell::new(None) };
}

impl Work {
    /// Work of one caller, who ends it by dropping its future.
    pub(crate) fn of(caller: Caller) -> Self {
        Self::new(caller, None, None, Vec::new())
    }

    /// Work that further callers may join, and its first waiter, who waits until `until` for what is not there yet.
    pub(crate) fn shared(caller: Caller, until: Option<Instant>) -> (Self, Waiter) {
        let work = Self::new(caller, Some(1), until, Vec::new());
        (work.clone(), Waiter(work))
    }

    /// Several works that are done together: given up when all of them are.
    pub(crate) fn together(parts: Vec<Self>) -> Self {
        let best = parts.iter().map(Self::caller).min_by_key(|caller| caller.class);
        Self::new(best.unwrap_or_else(Caller::background), None, None, parts)
    }

    fn new(caller: Caller, waiters: Option<usize>, until: Option<Instant>, parts: Vec<Self>) -> Self {
        let (left, grace) = (None, Duration::ZERO);
        let state =
            State { caller, waiters, until, left, grace, is_kept: false, is_over: false, is_too_slow: false };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: watch::channel(()).0, parts }))
    }

    /// Joins the work. A caller with more rights gives it its own standing, and one who waits longer its deadline. `None` if the work was
    /// given up already.
    pub(crate) fn join(&self, caller: Caller, until: Option<Instant>) -> Option<Waiter> {
        let mut state = lock(&self.0.state);
        if state.is_over {
            return None;
        }
        state.waiters = state.waiters.map(|waiters| waiters.saturating_add(1));
        state.until = state.until.max(until);
        if caller.class < state.caller.class {
            state.caller = caller;
            self.0.changed.send_replace(());
        }
        drop(state);
        Some(Waiter(self.clone()))
    }

    /// For whose benefit it is done: the caller with most rights so far.
    pub(crate) fn caller(&self) -> Caller {
        lock(&self.0.state).caller
    }

    /// Whether it is done for nobody but unknown callers.
    pub(crate) fn is_for_unknown(&self) -> bool {
        self.caller().class == Class::Unknown
    }

    /// The latest moment until which a caller waits for what is not there yet.
    pub(crate) fn until(&self) -> Option<Instant> {
        lock(&self.0.state).until
    }

    /// Lets it go on for a while after the last caller stopped waiting, if a caller with rights wanted it.
    pub(crate) fn linger(&self, grace: Duration) {
        lock(&self.0.state).grace = grace;
    }

    /// From now on it goes on even if nobody waits for it.
    pub(crate) fn keep(&self) {
        lock(&self.0.state).is_kept = true;
    }

    /// Gives the work up if nobody waits for it any more. Returns whether it is given up: then end it.
    pub(crate) fn should_end(&self) -> bool {
        if !self.0.parts.is_empty() {
            return self.0.parts.iter().all(Self::should_end);
        }
        let mut state = lock(&self.0.state);
        if state.waiters == Some(0) && !state.is_kept && state.left_for() >= state.grace() {
            state.is_over = true;
        }
        state.is_over
    }

    /// How long it may still go on although nobody waits; `None` while somebody does.
    fn time_left(&self) -> Option<Duration> {
        let state = lock(&self.0.state);
        let is_left = state.waiters == Some(0) && !state.is_kept;
        is_left.then(|| state.grace().saturating_sub(state.left_for()))
    }

    /// Gives the work up, because it is too slow.
    pub(crate) fn give_up(&self) {
        let mut state = lock(&self.0.state);
        state.is_over = true;
        state.is_too_slow = true;
    }

    /// Whether it was given up for being too slow.
    pub(crate) fn is_too_slow(&self) -> bool {
        lock(&self.0.state).is_too_slow
    }

    /// Resolves when nobody waits for the work any more; then it is given up.
    pub(crate) async fn abandoned(&self) {
        let mut changed = self.0.changed.subscribe();
        // What was given up for being too slow ends by itself, with an error for those who wait.
        while !self.should_end() || self.is_too_slow() {
            let time_left = self.time_left();
            tokio::select! {
                // The sender lives as long as this work.
                _ = changed.changed() => {}
                () = tokio::time::sleep(time_left.unwrap_or_default()), if time_left.is_some() => {}
            }
        }
    }

    /// Hears of changes of the standing.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Runs a blocking step of the work on this thread, where [`Self::current`] finds it.
    pub(crate) fn on_this_thread<T>(&self, step: impl FnOnce() -> T) -> T {
        /// Restores what the thread did before, after a panic too.
        struct Restore(Option<Work>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        step()
    }

    /// The work that this thread does; `None` outside [`Self::on_this_thread`].
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Whether the work of this thread should end, because nobody waits for it.
    pub(crate) fn current_should_end() -> bool {
        CURRENT.with_borrow(|work| work.as_ref().is_some_and(Self::should_end))
    }

    /// Whether two are the same work.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0.state);
        state.waiters = state.waiters.map(|waiters| waiters.saturating_sub(1));
        if state.waiters == Some(0) {
            state.left = Some(Instant::now());
            self.0.0.changed.send_replace(());
        }
    }
}

impl State {
    /// How long nobody has waited.
    fn left_for(&self) -> Duration {
        self.left.map_or(Duration::ZERO, |left| left.elapsed())
    }

    /// How long it goes on without a caller that waits.
    fn grace(&self) -> Duration {
        if self.caller.class == Class::Unknown { Duration::ZERO } else { self.grace }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::matrix::UserId;

    fn alice() -> Caller {
        Caller::user(&UserId::new("@alice:example.org"))
    }

    #[test]
    fn who_joins_raises_the_standing_and_the_deadline_and_nobody_lowers_them() {
        let now = Instant::now();
        let later = now.checked_add(Duration::from_secs(9));
        let (work, _first) = Work::shared(Caller::unknown(None), Some(now));
        let known = work.join(alice(), later).unwrap();
        assert_eq!((work.caller(), work.until()), (alice(), later));
        drop(known);
        let _again = work.join(Caller::unknown(None), Some(now)).unwrap();
        assert_eq!((work.caller(), work.until()), (alice(), later));
    }

    #[test]
    fn work_that_nobody_waits_for_ends_unless_it_is_kept_and_can_be_joined_until_then() {
        let (work, first) = Work::shared(alice(), None);
        assert!(!work.should_end());
        drop(first);
        let second = work.join(alice(), None).unwrap();
        assert!(!work.should_end(), "somebody came back in time");
        drop(second);
        assert!(work.should_end());
        assert!(work.join(alice(), None).is_none());

        let (lingering, waiter) = Work::shared(alice(), None);
        lingering.linger(Duration::from_hours(1));
        drop(waiter);
        assert!(!lingering.should_end(), "alice may come back");
        let (lingering, waiter) = Work::shared(Caller::unknown(None), None);
        lingering.linger(Duration::from_hours(1));
        drop(waiter);
        assert!(lingering.should_end(), "for strangers nothing lingers");

        let (kept, waiter) = Work::shared(alice(), None);
        kept.keep();
        drop(waiter);
        assert!(!kept.should_end());
        assert!(!Work::of(alice()).should_end(), "its caller ends it by other means");
    }

    #[tokio::test]
    async fn works_that_are_done_together_end_when_nobody_waits_for_any() {
        let ((one, first), (other, second)) =
            (Work::shared(alice(), None), Work::shared(Caller::unknown(None), None));
        let both = Work::together(vec![other, one.clone()]);
        assert_eq!(both.caller(), alice());
        drop(first);
        assert!(!both.should_end());
        one.abandoned().await;
        drop(second);
        both.on_this_thread(|| assert!(Work::current_should_end()));
        assert!(!Work::current_should_end());
    }
}
