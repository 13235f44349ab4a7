//! `limits`: how much work callers may cause at the same time.

use serde::{Deserialize, Serialize};

use super::units::{Rate, Size};

/// Places for work that costs something, by class of callers: holders of an access token, servers that proved who they are, and all others.
/// A class never waits for another; inside it, a caller may hold as many places as are free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes that callers without a token may cause to be fetched from other servers.
    pub anonymous_fetch: LeakyBucket,
    /// Files of other servers that are requested or arrive.
    pub fetches: Places,
    /// Those of them whose bytes are in motion.
    pub transfers: Places,
    /// Servers whose keys are being fetched.
    pub key_lookups: Places,
    /// DNS lookups.
    pub dns_lookups: Places,
    /// Requests to the homeserver, such as token checks.
    pub homeserver_requests: Places,
    /// Headers of pictures that are being read.
    pub header_reads: Places,
    /// Still pictures that are being decoded; `thumbnails.workers` is the number for users.
    pub stills: OtherPlaces,
    /// Animations that are being decoded.
    pub animations: Places,
    /// Previews that are being made.
    pub previews: UserPlaces,
    /// Pages and pictures that are being fetched for previews.
    pub page_fetches: UserPlaces,
    /// Downloads that wait for a pending upload.
    pub pending_waits: Places,
    /// Uploads that are being received.
    pub uploads: UserPlaces,
}

/// A leaky bucket for each block of addresses (/24, /56); all blocks together have eight times as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakyBucket {
    /// Bytes at once.
    pub burst: Size,
    /// Bytes a second in the long run.
    pub rate: Rate,
}

/// Places of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Of holders of an access token.
    pub users: u32,
    /// Of servers that proved who they are.
    pub servers: u32,
    /// Of all others.
    pub unknown: u32,
}

/// Places for work that users have configured elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherPlaces {
    /// Of servers that proved who they are.
    pub servers: u32,
    /// Of all others.
    pub unknown: u32,
}

/// Places for work that only users may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPlaces {
    /// Of holders of an access token.
    pub users: u32,
}

impl Limits {
    pub(super) fn defaults() -> Self {
        Self {
            anonymous_fetch: LeakyBucket { burst: Size(500 << 20), rate: Rate(87 << 10) },
            fetches: Places { users: 256, servers: 0, unknown: 64 },
            transfers: Places { users: 24, servers: 0, unknown: 8 },
            key_lookups: Places { users: 0, servers: 64, unknown: 256 },
            dns_lookups: Places { users: 192, servers: 64, unknown: 96 },
            homeserver_requests: Places { users: 16, servers: 0, unknown: 16 },
            header_reads: Places { users: 4, servers: 2, unknown: 2 },
            stills: OtherPlaces { servers: 1, unknown: 1 },
            animations: Places { users: 1, servers: 1, unknown: 1 },
            previews: UserPlaces { users: 128 },
            page_fetches: UserPlaces { users: 128 },
            pending_waits: Places { users: 768, servers: 128, unknown: 128 },
            uploads: UserPlaces { users: 4096 },
        }
    }
}
