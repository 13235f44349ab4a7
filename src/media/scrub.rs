//! Reading all files for damage, by and by: once a month while the machine is idle, or when the operator asks for it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Media;
use crate::error::Result;
use crate::matrix::Timestamp;
use crate::store::catalog::ScrubState;
use crate::store::scrub::Damaged;
use crate::store::sha256::Sha256;
use crate::sync::pools::Pool;

/// Blobs listed at once.
const PAGE: u32 = 256;

/// Bytes a second of the monthly reading.
const RATE: u64 = 5 << 20;

/// Time between two of them.
const MONTH: Duration = Duration::from_hours(30 * 24);

/// How long a part may take that the operator asked for: progress is shown after each.
const PART: Duration = Duration::from_secs(5);

/// What a part of the reading has found.
#[derive(Debug, Default)]
struct Part {
    files: u64,
    bytes: u64,
    damaged: Vec<Damaged>,
    /// The last hash that was read; `None` at the end.
    last: Option<Sha256>,
}

impl Media {
    /// Reads files behind `after` for some seconds.
    pub(super) async fn scrub_part(self: &Arc<Self>, after: Option<Sha256>, rate: u64) -> Result<Value> {
        let Part { files, bytes, damaged, last } = self.scrub_for(after, rate, PART).await?;
        let damaged: Vec<Value> = damaged
            .iter()
            .map(|Damaged { sha256, is_removed, mxc }| {
                json!({
                    "sha256": sha256.to_string(), "removed": is_removed, "mxc": mxc.as_ref().map(ToString::to_string),
                })
            })
            .collect();
        let after = last.map(|sha256| sha256.to_string());
        Ok(json!({"files": files, "bytes": bytes, "damaged": damaged, "after": after}))
    }

    /// Goes on with the monthly reading for some seconds, if it is due. Returns whether there is more to read.
    pub(crate) async fn scrub_if_due(self: &Arc<Self>) -> Result<bool> {
        let now = (self.clock)();
        let state = self.blocking(Pool::Disk, |media| media.store.scrub_state()).await?;
        // The first time, a month after the first start.
        if state.finished == Timestamp(0) {
            let begun = ScrubState { position: None, finished: now };
            self.blocking(Pool::Disk, move |media| media.store.set_scrub_state(begun)).await?;
            return Ok(false);
        }
        let is_due = state.finished.until(now) >= MONTH || now < state.finished;
        if state.position.is_none() && !is_due {
            return Ok(false);
        }
        let Part { last, .. } = self.scrub_for(state.position, RATE, PART).await?;
        let finished = if last.is_none() { now } else { state.finished };
        let next = ScrubState { position: last, finished };
        self.blocking(Pool::Disk, move |media| media.store.set_scrub_state(next)).await?;
        if last.is_none() {
            tracing::info!("all files were read for damage");
        }
        Ok(last.is_some())
    }

    /// Reads files behind `after` at `rate` bytes a second, for about `time`.
    async fn scrub_for(self: &Arc<Self>, after: Option<Sha256>, rate: u64, time: Duration) -> Result<Part> {
        let started = tokio::time::Instant::now();
        let mut part = Part { last: after, ..Part::default() };
        loop {
            let after = part.last;
            let page = self.blocking(Pool::Disk, move |media| media.store.to_scrub(after, PAGE)).await?;
            if page.is_empty() {
                part.last = None;
                return Ok(part);
            }
            for blob in page {
                let now: Timestamp = (self.clock)();
                let damaged = self.blocking(Pool::Disk, move |media| media.store.scrub(blob, now)).await?;
                part.damaged.extend(damaged);
                part.files = part.files.saturating_add(1);
                part.bytes = part.bytes.saturating_add(blob.size);
                part.last = Some(blob.sha256);
                let ahead = Duration::from_millis(part.bytes.saturating_mul(1000).div_euclid(rate.max(1)));
                tokio::time::sleep(ahead.saturating_sub(started.elapsed())).await;
                if started.elapsed() >= time {
                    return Ok(part);
                }
            }
        }
    }
}
