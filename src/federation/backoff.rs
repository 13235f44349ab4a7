//! Back-off: servers and files that failed are not asked for again for some time.
//!
//! A response is about the file that was asked for: an error for it closes that file, and the server only once several files failed in a
//! row. Silence, refusal and broken TLS are about the server. What callers without rights caused counts for such callers alone.

use std::hash::Hash;
use std::time::Duration;

use quick_cache::sync::Cache;

use crate::matrix::{Moment, Mxc, ServerName};
use crate::sync::admission::Work;

/// Servers remembered that failed for callers with rights, and servers without keys; about 150 bytes an entry.
const REMEMBERED: usize = 4096;

/// The same for callers without rights, and files; the tables are made at the start.
const REMEMBERED_FEW: usize = 512;

/// After the first failure. Softer than Synapse's ten minutes: a person waits for the picture.
const FIRST: Duration = Duration::from_secs(30);

/// After many failures in a row.
const LONGEST: Duration = Duration::from_hours(1);

/// After many failures in a row to get a server's keys. Anyone can name a server, so a wrong answer must end soon.
const LONGEST_FOR_KEYS: Duration = Duration::from_mins(2);

/// Different files of one server that failed in a row, after which the server counts as failing.
const FAILED_FILES: usize = 3;

/// What failed, how often, and when to try again.
#[derive(Debug)]
pub(super) struct Backoff<K> {
    states: Cache<K, BackoffState>,
    longest: Duration,
}

#[derive(Clone, Copy, Debug)]
struct BackoffState {
    /// Failures in a row; 0 when the server only asked us to slow down.
    failures: u32,
    retry_at: Moment,
}

/// How long a server is still not asked, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It failed.
    Failing(Duration),
    /// It did not send the file.
    FileFailing(Duration),
    /// It asked us to slow down.
    Limited(Duration),
}

impl<K: Clone + Eq + Hash> Backoff<K> {
    fn new(remembered: usize, longest: Duration) -> Self {
        Self { states: Cache::new(remembered), longest }
    }

    /// How long `key` is still not asked for; `None` when it may be.
    pub(super) fn wait(&self, key: &K, now: Moment) -> Option<Wait> {
        let BackoffState { failures, retry_at } = self.states.get(key)?;
        match (now.until(retry_at), failures) {
            (Duration::ZERO, _) => None,
            (wait, 0) => Some(Wait::Limited(wait)),
            (wait, _) => Some(Wait::Failing(wait)),
        }
    }

    /// The server asked us to send nothing for `wait`.
    fn record_limit(&self, key: &K, now: Moment, wait: Duration) {
        self.states.insert(key.clone(), BackoffState { failures: 0, retry_at: now.after(wait) });
    }

    /// It failed: it is not asked for during 30 s, then twice as long each time, up to the longest wait. Failures of requests that ran at
    /// the same time count once.
    pub(super) fn record_failure(&self, key: &K, now: Moment) {
        let old = self.states.get(key);
        if old.is_some_and(|old| now < old.retry_at) {
            return;
        }
        let failures = old.map_or(0, |old| old.failures).saturating_add(1);
        let wait = doubled(FIRST, self.longest, failures);
        self.states.insert(key.clone(), BackoffState { failures, retry_at: now.after(wait) });
    }

    /// It can be had again.
    pub(super) fn record_success(&self, key: &K) {
        self.states.remove(key);
    }
}

impl Backoff<ServerName> {
    /// For servers' keys.
    pub(super) fn for_keys() -> Self {
        Self::new(REMEMBERED, LONGEST_FOR_KEYS)
    }
}

/// Failed files and servers, seen by callers with rights and by those without.
#[derive(Debug)]
pub(super) struct Failures {
    known: SeenFailures,
    unknown: SeenFailures,
}

#[derive(Debug)]
struct SeenFailures {
    servers: Backoff<ServerName>,
    files: Backoff<Mxc>,
    /// Files of a server that failed in a row.
    failed: Cache<ServerName, Vec<Mxc>>,
}

impl Failures {
    pub(super) fn new() -> Self {
        let seen = |servers: usize| SeenFailures {
            servers: Backoff::new(servers, LONGEST),
            files: Backoff::new(REMEMBERED_FEW, LONGEST),
            failed: Cache::new(REMEMBERED_FEW),
        };
        Self { known: seen(REMEMBERED), unknown: seen(REMEMBERED_FEW) }
    }

    /// How long `mxc` is still not asked for in the work of this thread.
    pub(super) fn wait(&self, mxc: &Mxc, now: Moment) -> Option<Wait> {
        let of = |seen: &SeenFailures| {
            let of_file = || match seen.files.wait(mxc, now)? {
                Wait::Failing(wait) => Some(Wait::FileFailing(wait)),
                wait @ (Wait::FileFailing(_) | Wait::Limited(_)) => Some(wait),
            };
            seen.servers.wait(&mxc.server_name, now).or_else(of_file)
        };
        of(&self.known).or_else(|| is_for_unknown().then(|| of(&self.unknown))?)
    }

    /// The server was silent, refused the connection or broke it.
    pub(super) fn record_server(&self, server_name: &ServerName, now: Moment) {
        if is_ours() {
            return;
        }
        self.seen().servers.record_failure(server_name, now);
    }

    /// The server answered with an error, or with less than the file.
    pub(super) fn record_file(&self, mxc: &Mxc, now: Moment) {
        if is_ours() {
            return;
        }
        let seen = self.seen();
        seen.files.record_failure(mxc, now);
        if seen.is_several(mxc) {
            seen.servers.record_failure(&mxc.server_name, now);
        }
    }

    /// The file arrived too slowly while others waited for its place. That depends on the others: it says nothing about the server.
    pub(super) fn record_slow(&self, mxc: &Mxc, now: Moment) {
        self.seen().files.record_failure(mxc, now);
    }

    /// The server asked us to slow down.
    pub(super) fn record_limit(&self, mxc: &Mxc, now: Moment, wait: Duration) {
        let seen = self.seen();
        seen.files.record_limit(mxc, now, wait);
        if seen.is_several(mxc) {
            seen.servers.record_limit(&mxc.server_name, now, wait);
        }
    }

    /// The server sent a file, an answer that settles a matter, or a request with a good signature.
    pub(super) fn record_success(&self, server_name: &ServerName) {
        for seen in [&self.known, &self.unknown] {
            seen.servers.record_success(server_name);
            seen.failed.remove(server_name);
        }
    }

    /// Where failures of the work of this thread are recorded.
    fn seen(&self) -> &SeenFailures {
        if is_for_unknown() { &self.unknown } else { &self.known }
    }
}

impl SeenFailures {
    /// Adds a failed file. Returns whether several files of its server failed in a row.
    fn is_several(&self, mxc: &Mxc) -> bool {
        let mut failed = self.failed.get(&mxc.server_name).unwrap_or_default();
        if !failed.contains(mxc) {
            failed.push(mxc.clone());
        }
        let is_several = failed.len() >= FAILED_FILES;
        failed.truncate(FAILED_FILES);
        self.failed.insert(mxc.server_name.clone(), failed);
        is_several
    }
}

/// Whether this thread works for callers without rights only.
pub(super) fn is_for_unknown() -> bool {
    Work::current().is_some_and(|work| work.is_for_unknown())
}

/// Whether a failure is our own, because we broke off work that nobody waits for.
pub(super) fn is_ours() -> bool {
    Work::current().is_some_and(|work| work.should_end() && !work.is_too_slow())
}

/// The wait after `failures` in a row: `first` after one, twice as long after each further one, at most `longest`.
pub(super) fn doubled(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{MediaId, UserId};
    use crate::sync::admission::Caller;

    fn file(server_name: &str, media_id: &str) -> Mxc {
        let server_name = ServerName::parse(server_name).unwrap();
        Mxc { server_name, media_id: MediaId::parse(media_id).unwrap() }
    }

    #[test]
    fn waits_double_up_to_an_hour_and_a_success_ends_them() {
        let backoff = Backoff::new(9, LONGEST);
        let name = ServerName::parse("a.org").unwrap();
        let mut now = Moment::since_start(Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..9 {
            backoff.record_failure(&name, now);
            // Another request that was under way at the time.
            backoff.record_failure(&name, now);
            let Some(Wait::Failing(wait)) = backoff.wait(&name, now) else { panic!("it failed") };
            waits.push(wait.as_secs());
            now = now.after(wait);
            assert_eq!(backoff.wait(&name, now), None);
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        backoff.record_failure(&name, now);
        backoff.record_success(&name);
        assert_eq!(backoff.wait(&name, now), None);
        backoff.record_limit(&name, now, Duration::from_secs(9));
        assert_eq!(backoff.wait(&name, now), Some(Wait::Limited(Duration::from_secs(9))));
    }

    #[test]
    fn an_error_is_about_the_file_until_several_files_say_so() {
        let (failures, now) = (Failures::new(), Moment::since_start(Duration::ZERO));
        let (one, other) = (file("a.org", "one"), file("a.org", "other"));
        for _ in 0..9 {
            failures.record_file(&one, now);
        }
        assert!(failures.wait(&one, now).is_some());
        assert_eq!(failures.wait(&other, now), None);
        failures.record_limit(&other, now, Duration::from_secs(5));
        assert_eq!(failures.wait(&file("a.org", "new"), now), None);
        failures.record_success(&one.server_name);
        failures.record_file(&file("a.org", "third"), now);
        assert_eq!(failures.wait(&file("a.org", "new"), now), None, "not in a row");
        failures.record_file(&one, now);
        failures.record_file(&other, now);
        assert!(matches!(failures.wait(&file("a.org", "new"), now), Some(Wait::Failing(_))));
        failures.record_server(&file("b.org", "x").server_name, now);
        assert!(failures.wait(&file("b.org", "y"), now).is_some());
    }

    #[test]
    fn what_callers_without_rights_cause_counts_for_them_alone() {
        let (failures, now) = (Failures::new(), Moment::since_start(Duration::ZERO));
        let (by_unknown, by_known) = (file("a.org", "x"), file("b.org", "x"));
        let (unknown, known) =
            (Work::of(Caller::unknown(None)), Work::of(Caller::user(&UserId::new("@a:b"))));
        unknown.on_this_thread(|| failures.record_server(&by_unknown.server_name, now));
        known.on_this_thread(|| failures.record_server(&by_known.server_name, now));
        known.on_this_thread(|| assert_eq!(failures.wait(&by_unknown, now), None));
        unknown.on_this_thread(|| assert!(failures.wait(&by_unknown, now).is_some()));
        unknown.on_this_thread(|| assert!(failures.wait(&by_known, now).is_some()));
        let (gone, waiter) = Work::shared(Caller::unknown(None), None);
        drop(waiter);
        gone.on_this_thread(|| failures.record_file(&file("c.org", "x"), now));
        unknown.on_this_thread(|| assert_eq!(failures.wait(&file("c.org", "x"), now), None, "we broke off"));
        for media_id in ["x", "y", "z"] {
            unknown.on_this_thread(|| failures.record_slow(&file("c.org", media_id), now));
        }
        unknown.on_this_thread(|| {
            assert!(matches!(failures.wait(&file("c.org", "x"), now), Some(Wait::FileFailing(_))));
            assert_eq!(failures.wait(&file("c.org", "w"), now), None, "slow files close no server");
        });
    }
}
