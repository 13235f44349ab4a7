//! How much callers without a token may cause to be fetched: a leaky bucket of bytes for each block of addresses, and one for all together.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{NotUntil, Quota, RateLimiter};

use crate::config::LeakyBucket;
use crate::error::{Error, Kind, Result};
use crate::sync::admission::Share;

/// How many full buckets all blocks together have: who has many addresses does not fill the disk faster.
const BLOCKS: u32 = 8;

/// Counts bytes by share.
type BytesByShare = RateLimiter<Option<Share>, HashMapStateStore<Option<Share>>, DefaultClock>;

/// The buckets. The limit of all together has `None` as its key.
#[derive(Debug)]
pub(super) struct AnonymousBucket {
    own: BytesByShare,
    all: BytesByShare,
}

impl AnonymousBucket {
    pub(super) fn new(config: &LeakyBucket) -> Self {
        let cells = |bytes: u64, times: u32| {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_mul(times);
            NonZeroU32::new(bytes).unwrap_or(NonZeroU32::MIN)
        };
        let limiter = |times| {
            let quota = Quota::per_second(cells(config.rate.0, times));
            RateLimiter::hashmap(quota.allow_burst(cells(config.burst.0, times)))
        };
        Self { own: limiter(1), all: limiter(BLOCKS) }
    }

    /// Takes `bytes` for a caller.
    ///
    /// # Errors
    /// `LimitExceeded` when a bucket is empty. One whose own is empty takes nothing from the others'.
    pub(super) fn take(&self, share: Share, bytes: u64) -> Result<()> {
        let Some(cells) = NonZeroU32::new(u32::try_from(bytes).unwrap_or(u32::MAX)) else { return Ok(()) };
        for (limiter, key) in [(&self.own, Some(share)), (&self.all, None)] {
            match limiter.check_key_n(&key, cells) {
                Ok(Ok(())) => {}
                Ok(Err(not_until)) => return Err(empty(&not_until)),
                Err(_more_than_a_burst) => return Err(too_much()),
            }
        }
        Ok(())
    }

    /// Drops callers that fetched nothing for a while.
    pub(super) fn tidy(&self) {
        for limiter in [&self.own, &self.all] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// The error for a caller whose bucket is empty.
fn empty(not_until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Error {
    too_much().retry_after(not_until.wait_time_from(DefaultClock::default().now()))
}

fn too_much() -> Error {
    Error::new(
        Kind::LimitExceeded,
        "too much was fetched from other servers for callers without an access token; try again later",
    )
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;
    use crate::config::{Rate, Size};
    use crate::sync::admission::Caller;

    fn block(number: u8) -> Share {
        Caller::unknown(Some(IpAddr::from([198, 51, number, 1]))).share
    }

    #[test]
    fn each_block_has_its_bucket_and_all_together_have_eight() {
        let bucket = AnonymousBucket::new(&LeakyBucket { burst: Size(1000), rate: Rate(1) });
        bucket.take(block(1), 0).unwrap();
        bucket.take(block(1), 900).unwrap();
        let refused = bucket.take(block(1), 200).unwrap_err();
        assert_eq!(refused.kind(), Kind::LimitExceeded);
        assert!(refused.wait().is_some_and(|wait| wait > Duration::from_secs(50)), "{:?}", refused.wait());
        let refused = bucket.take(block(1), 1001).unwrap_err();
        assert_eq!(refused.kind(), Kind::LimitExceeded, "more than a whole bucket");
        let served = (2..100).filter(|number| bucket.take(block(*number), 1000).is_ok()).count();
        assert_eq!(served, 7, "8000 bytes together, of which 900 were used");
        bucket.tidy();
    }
}
