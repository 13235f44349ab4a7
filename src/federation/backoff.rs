//! Back-off: servers that failed are not asked again for some time.

use std::time::Duration;

use quick_cache::sync::Cache;

use crate::matrix::{Moment, ServerName};

/// Servers remembered; about 150 bytes each.
const REMEMBERED: usize = 4096;

/// After the first failure. Softer than Synapse's ten minutes: a person waits for the picture.
const FIRST: Duration = Duration::from_secs(30);

/// After many failures in a row.
const LONGEST: Duration = Duration::from_hours(1);

/// Which servers failed, how often, and when to try again.
#[derive(Debug)]
pub(super) struct Backoff(Cache<ServerName, BackoffState>);

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
    /// It asked us to slow down.
    Limited(Duration),
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self(Cache::new(REMEMBERED))
    }

    /// How long `server_name` is still not asked; `None` when it may be asked.
    pub(super) fn wait(&self, server_name: &ServerName, now: Moment) -> Option<Wait> {
        let BackoffState { failures, retry_at } = self.0.get(server_name)?;
        match (now.until(retry_at), failures) {
            (Duration::ZERO, _) => None,
            (wait, 0) => Some(Wait::Limited(wait)),
            (wait, _) => Some(Wait::Failing(wait)),
        }
    }

    /// The server asked us to send nothing for `wait`.
    pub(super) fn record_limit(&self, server_name: &ServerName, now: Moment, wait: Duration) {
        self.0.insert(server_name.clone(), BackoffState { failures: 0, retry_at: now.after(wait) });
    }

    /// The server failed: it is not asked for 30 s, then twice as long each time, up to an hour. Failures of requests that ran at the
    /// same time count once.
    pub(super) fn record_failure(&self, server_name: &ServerName, now: Moment) {
        let old = self.0.get(server_name);
        if old.is_some_and(|old| now < old.retry_at) {
            return;
        }
        let failures = old.map_or(0, |old| old.failures).saturating_add(1);
        let wait = doubled(FIRST, LONGEST, failures);
        self.0.insert(server_name.clone(), BackoffState { failures, retry_at: now.after(wait) });
    }

    /// The server answered, or sent a request of its own with a good signature.
    pub(super) fn record_success(&self, server_name: &ServerName) {
        self.0.remove(server_name);
    }
}

/// The wait after `failures` in a row: `first` after one, twice as long after each further one, at most `longest`.
pub(super) fn doubled(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour_and_a_success_ends_them() {
        let backoff = Backoff::new();
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
}
