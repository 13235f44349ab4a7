//! Stored media: its row and its bytes.

use super::blobs::BlobReader;
use super::catalog::Filled;
use crate::matrix::Timestamp;

/// Media whose row was found and whose blob is open. It can be read to its end even if it is removed meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct StoredMedia {
    /// What the row says about the bytes.
    pub(crate) content: Filled,
    /// When it was uploaded or fetched.
    pub(crate) created: Timestamp,
    /// Whether it may be served without a token (`unauthenticated_media: frozen`).
    pub(crate) open: bool,
    pub(crate) blob: BlobReader,
}
