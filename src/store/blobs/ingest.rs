//! The gate: bytes become a blob.
//!
//! Owns that they are counted, limited and hashed on the way, so that only here a [`Sha256`] is made of bytes. Where they go is the
//! [`BlobWriter`]'s business.

use std::fmt;
use std::io;

use sha2::{Digest as _, Sha256 as Hasher};

use super::claims::{Claim, Claims};
use super::reader::BlobReader;
use crate::matrix::len_u64;
use crate::store::sha256::Sha256;

/// Bytes on their way into a place for blobs. Dropped before it is published, nothing stays.
pub(super) trait BlobWriter: Send + Sync + fmt::Debug {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// `StorageFull` when there is no room for them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Reads the `size` bytes written so far, and further ones as they come, also after the writer is gone.
    fn reader(&self, size: u64) -> io::Result<BlobReader>;

    /// Makes a durable blob of the `size` bytes written, unless it is there already.
    fn publish(self: Box<Self>, sha256: &Sha256, size: u64) -> io::Result<Replaced>;
}

/// What a blob has taken the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// Nothing, or the same bytes.
    Nothing,
    /// Other bytes, which somebody put under its name from outside.
    Damage,
}

/// Bytes on their way in: counted, limited and hashed. Dropped before [`finish`](Self::finish), nothing stays of them.
#[derive(Debug)]
pub(crate) struct Ingest {
    writer: Box<dyn BlobWriter>,
    claims: Claims,
    /// Of the bytes so far.
    hasher: Hasher,
    /// Bytes so far.
    size: u64,
    /// Most bytes allowed.
    limit: u64,
}

/// Why bytes did not get in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// More bytes than the limit.
    #[error("more than {0} bytes")]
    TooLarge(u64),
    /// Writing failed, for example because the disk is full.
    #[error("writing to the blob store: {0}")]
    Io(#[from] io::Error),
}

/// Bytes that did not become a durable blob. Something may stand under the blob's name all the same.
#[derive(Debug, thiserror::Error)]
#[error("making the blob {sha256} durable")]
pub(crate) struct Unfinished {
    /// The blob's name.
    pub(crate) sha256: Sha256,
    /// Why.
    pub(crate) source: io::Error,
}

impl Ingest {
    /// Takes at most `limit` bytes to `writer`.
    pub(super) fn new(writer: impl BlobWriter + 'static, claims: &Claims, limit: u64) -> Self {
        let (writer, claims, hasher) = (Box::new(writer), claims.clone(), Hasher::new());
        Self { writer, claims, hasher, size: 0, limit }
    }

    /// Takes in `bytes`. After an error it can only be dropped.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        let size = self.size.saturating_add(len_u64(bytes.len()));
        if size > self.limit {
            return Err(IngestError::TooLarge(self.limit));
        }
        self.writer.write(bytes)?;
        self.size = size;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Bytes taken in so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the bytes so far, and further ones as they come. It stays good after [`finish`](Self::finish), and after a drop.
    pub(crate) fn reader(&self) -> io::Result<BlobReader> {
        self.writer.reader(self.size)
    }

    /// Makes a durable blob of what was taken in. Identical bytes are stored once.
    pub(crate) fn finish(self) -> Result<Claim, Unfinished> {
        let Self { writer, claims, hasher, size, .. } = self;
        let sha256 = Sha256::from_bytes(hasher.finalize().into());
        // Claimed first: from here on nobody removes a blob of that name.
        let mut claim = claims.claim(sha256, size);
        match writer.publish(&sha256, size) {
            Ok(replaced) => {
                claim.note(replaced);
                Ok(claim)
            }
            Err(source) => Err(Unfinished { sha256, source }),
        }
    }
}
