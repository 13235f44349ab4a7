//! The only way in which bytes become a blob.
//!
//! Owns counting, limiting and hashing them: only this file computes a [`Sha256`]. Where the bytes go is up to the [`BlobWriter`].

use std::fmt;
use std::io;

use sha2::{Digest as _, Sha256 as Hasher};

use super::claims::{Claim, Claims};
use super::reader::BlobReader;
use crate::matrix::len_u64;
use crate::store::sha256::Sha256;

/// Writes one blob. If it is dropped before it is published, nothing remains.
pub(super) trait BlobWriter: Send + Sync + fmt::Debug {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// `StorageFull` when there is not enough space.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// A reader for the `size` bytes written so far and those still to come. It stays usable after the writer is dropped.
    fn reader(&self, size: u64) -> io::Result<BlobReader>;

    /// Makes the `size` bytes written a durable blob, unless it exists already.
    fn publish(self: Box<Self>, sha256: &Sha256, size: u64) -> io::Result<Replaced>;
}

/// What a new blob replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// Nothing, or the same bytes.
    Nothing,
    /// Damaged bytes under the same name.
    Damage,
}

/// A blob being written: counted, limited and hashed. If it is dropped before [`finish`](Self::finish), nothing remains.
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

/// Why bytes were not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// More bytes than the limit.
    #[error("more than {0} bytes")]
    TooLarge(u64),
    /// Writing failed, for example because the disk is full.
    #[error("writing to the blob store: {0}")]
    Io(#[from] io::Error),
}

/// The error when a blob could not be made durable. A file may exist under its name all the same.
#[derive(Debug, thiserror::Error)]
#[error("making the blob {sha256} durable")]
pub(crate) struct Unfinished {
    pub(crate) sha256: Sha256,
    pub(crate) source: io::Error,
}

impl Ingest {
    /// Passes at most `limit` bytes on to `writer`.
    pub(super) fn new(writer: impl BlobWriter + 'static, claims: &Claims, limit: u64) -> Self {
        let (writer, claims, hasher) = (Box::new(writer), claims.clone(), Hasher::new());
        Self { writer, claims, hasher, size: 0, limit }
    }

    /// Appends `bytes`. After an error the ingest can only be dropped.
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

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A reader for the bytes so far and those still to come. It stays usable after [`finish`](Self::finish) and after a drop.
    pub(crate) fn reader(&self) -> io::Result<BlobReader> {
        self.writer.reader(self.size)
    }

    /// The bytes without a blob: they can be read until the reader is dropped, and are in no store.
    pub(crate) fn unstored(self) -> io::Result<(Sha256, BlobReader)> {
        let reader = self.reader()?;
        Ok((Sha256::from_bytes(self.hasher.finalize().into()), reader))
    }

    /// Makes the bytes a durable blob. Identical bytes are stored once.
    pub(crate) fn finish(self) -> Result<Claim, Unfinished> {
        let Self { writer, claims, hasher, size, .. } = self;
        let sha256 = Sha256::from_bytes(hasher.finalize().into());
        // Claimed before it is published, so that there is no moment in which it could be removed.
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
