//! What a sweep did, or would do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::matrix::Timestamp;
use crate::store::catalog::Candidate;

/// Servers listed in a report.
const SERVERS: usize = 100;

/// Rows listed in a report.
const FIRST: usize = 20;

/// Why something is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// Nobody asked for it for a time (`unused`).
    Unused,
    /// It came too long ago (`older`).
    Older,
    /// There is too much of its kind (`max_size`).
    MaxSize,
    /// There is too much of its server (`quotas.servers`).
    ServerQuota,
    /// The store is too large (`max_store`).
    MaxStore,
    /// The disk is too full (`keep_free`).
    KeepFree,
}

/// What a sweep did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Whether nothing was evicted.
    pub(crate) dry_run: bool,
    /// What the store held before, bytes.
    pub(crate) stored: u64,
    /// What was free on the disk before, bytes.
    pub(crate) free: u64,
    /// All of it.
    pub(crate) total: Count,
    pub(crate) by_reason: BTreeMap<Reason, Count>,
    pub(crate) by_kind: BTreeMap<String, Count>,
    pub(crate) by_server: BTreeMap<String, Count>,
    /// By the time since last access.
    pub(crate) by_age: BTreeMap<Age, Count>,
    pub(crate) first: Vec<Line>,
    /// Bounds that are not met, although nothing more may go.
    pub(crate) unmet: Vec<String>,
}

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The names of [`Age`], the same as in its serialised form.
pub(crate) const AGES: [&str; 6] =
    ["under a day", "1 to 7 days", "7 to 30 days", "30 to 90 days", "90 to 365 days", "over a year"];

/// The time since last access, in groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Age {
    #[serde(rename = "under a day")]
    Day,
    #[serde(rename = "1 to 7 days")]
    Week,
    #[serde(rename = "7 to 30 days")]
    Month,
    #[serde(rename = "30 to 90 days")]
    Quarter,
    #[serde(rename = "90 to 365 days")]
    Year,
    #[serde(rename = "over a year")]
    Longer,
}

/// One file that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) reason: Reason,
    pub(crate) kind: String,
    pub(crate) bytes: u64,
    /// Milliseconds since 1970.
    pub(crate) last_access: i64,
    /// One of its addresses; `None` for thumbnails.
    pub(crate) mxc: Option<String>,
}

impl Count {
    pub(super) fn add(&mut self, more: Self) {
        self.files = self.files.saturating_add(more.files);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

impl Report {
    /// Logs what was evicted, if anything was, and what could not be.
    pub(super) fn log(&self) {
        if self.total.files > 0 {
            let reasons: Vec<String> =
                self.by_reason.iter().map(|(reason, count)| format!("{reason:?} {}", count.files)).collect();
            tracing::info!(
                files = self.total.files,
                bytes = self.total.bytes,
                reasons = reasons.join(", "),
                "evicted files"
            );
        }
        for unmet in &self.unmet {
            tracing::warn!("{unmet}");
        }
    }

    /// Keeps the servers with the most bytes, and sums up the others.
    pub(super) fn trim_servers(&mut self) {
        let mut sizes: Vec<u64> = self.by_server.values().map(|count| count.bytes).collect();
        sizes.sort_unstable();
        let Some(least) = sizes.len().checked_sub(SERVERS).and_then(|position| sizes.get(position)).copied()
        else {
            return;
        };
        let mut others = Count::default();
        self.by_server.retain(|_name, count| {
            if count.bytes < least {
                others.add(*count);
            }
            count.bytes >= least
        });
        if others != Count::default() {
            self.by_server.insert("others".to_owned(), others);
        }
    }

    /// Counts one file.
    pub(super) fn add(&mut self, reason: Reason, kind: &str, candidate: &Candidate, now: Timestamp) {
        let count = Count { files: 1, bytes: candidate.size };
        self.total.add(count);
        self.by_reason.entry(reason).or_default().add(count);
        self.by_kind.entry(kind.to_owned()).or_default().add(count);
        self.by_age.entry(Age::of(candidate.last_access.until(now))).or_default().add(count);
        if let Some(mxc) = candidate.mxc.as_ref().filter(|_| kind == "remote") {
            if let Some(of_server) = self.by_server.get_mut(mxc.server_name.as_str()) {
                of_server.add(count);
            } else {
                self.by_server.insert(mxc.server_name.as_str().to_owned(), count);
            }
        }
        if self.first.len() < FIRST {
            self.first.push(Line {
                reason,
                kind: kind.to_owned(),
                bytes: candidate.size,
                last_access: candidate.last_access.0,
                mxc: candidate.mxc.as_ref().map(ToString::to_string),
            });
        }
    }
}

impl Age {
    fn of(span: Duration) -> Self {
        Self::of_days(span.as_secs().div_euclid(24 * 60 * 60))
    }

    fn of_days(days: u64) -> Self {
        match days {
            0 => Self::Day,
            1..7 => Self::Week,
            7..30 => Self::Month,
            30..90 => Self::Quarter,
            90..365 => Self::Year,
            _ => Self::Longer,
        }
    }

    /// As the reports have it.
    pub(crate) fn name_of_days(days: u64) -> &'static str {
        let [day, week, month, quarter, year, longer] = AGES;
        match Self::of_days(days) {
            Self::Day => day,
            Self::Week => week,
            Self::Month => month,
            Self::Quarter => quarter,
            Self::Year => year,
            Self::Longer => longer,
        }
    }
}
