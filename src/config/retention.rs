//! `retention` and `quotas`: what the store may hold, and who may fill it.

use serde::{Deserialize, Serialize};

use super::host_list::matches;
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

/// What users may upload, and how much of each other server's media is kept. The first entry that matches counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// Of users.
    pub users: Vec<UserQuota>,
    /// Of other servers.
    pub servers: Vec<ServerQuota>,
    /// A page that explains the quotas to users.
    pub info_url: Option<String>,
}

/// What matching users may upload. A missing bound is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserQuota {
    /// User IDs; `*` and `?` match.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Sizes of all uploads together, bytes.
    pub max_bytes: Option<Size>,
    /// Media IDs, pending ones included.
    pub max_files: Option<u64>,
}

/// How much of a matching server's media is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerQuota {
    /// Server names; `*` and `?` match.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Sizes of its files together, bytes.
    pub max_bytes: Option<Size>,
}

impl Quotas {
    /// No bounds.
    pub(super) const NONE: Self = Self { users: Vec::new(), servers: Vec::new(), info_url: None };

    /// The entry of a user, if one matches.
    pub(crate) fn of_user(&self, user_id: &str) -> Option<&UserQuota> {
        self.users.iter().find(|quota| matches(&quota.pattern, user_id))
    }

    /// The bytes of another server's media that are kept, if they are bounded.
    pub(crate) fn of_server(&self, server_name: &str) -> Option<u64> {
        let first = self.servers.iter().find(|quota| matches(&quota.pattern, server_name));
        first.and_then(|quota| quota.max_bytes).map(|size| size.0)
    }
}

/// A span of whole days.
const fn days(count: u64) -> Span {
    super::minutes(count.saturating_mul(24 * 60))
}
