//! `retention` and `quotas`: what the store may hold, and who may fill it.

use serde::{Deserialize, Serialize};

use super::units::{Size, Span};

/// Bounds of the store. What is evicted can be fetched or made again; local media goes only where `local` says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Bytes of all blobs.
    pub max_store: Option<Size>,
    /// Bytes that stay free on the disk of `data_dir`.
    pub keep_free: Size,
    /// Media of other servers.
    pub remote: KindRules,
    /// Media uploaded here.
    pub local: KindRules,
    /// Thumbnails of any media.
    pub thumbnails: ThumbnailRules,
    /// Whether avatars, emoji and stickers stay.
    pub exempt_avatars: bool,
    /// Time between two sweeps.
    pub every: Span,
}

/// Bounds of one kind of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindRules {
    /// Bytes of its blobs.
    pub max_size: Option<Size>,
    /// How long it stays without being asked for.
    pub unused: Option<Span>,
    /// How long it stays after it came.
    pub older: Option<Span>,
}

/// Bounds of thumbnails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThumbnailRules {
    /// Bytes of their blobs.
    pub max_size: Option<Size>,
    /// How long one stays without being asked for.
    pub unused: Option<Span>,
}

impl Retention {
    pub(super) fn defaults() -> Self {
        let never = KindRules { max_size: None, unused: None, older: None };
        Self {
            max_store: None,
            keep_free: Size(2 << 30),
            remote: KindRules { unused: Some(days(30)), ..never },
            local: never,
            thumbnails: ThumbnailRules { max_size: Some(Size(512 << 20)), unused: Some(days(14)) },
            exempt_avatars: true,
            every: super::minutes(60),
        }
    }
}

/// A span of whole days.
const fn days(count: u64) -> Span {
    super::minutes(count.saturating_mul(24 * 60))
}
