//! Bodies with their `Content-Encoding` undone, within bounds.
//!
//! Owns two bounds: the encoded bytes read for a body, and the time a decoder may read without giving a byte. Refuses to know
//! the codings, which are [`super::content_coding`]'s.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::content_coding;

/// Longest time a decoder may read input without giving a byte. Empty blocks, for example, can be sent without end.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(30);

/// By how many bytes, besides a sixteenth, a body may grow when encoded: gzip and brotli add a few bytes to each block that they
/// cannot compress.
const CODING_OVERHEAD: u64 = 64 * 1024;

/// By when the decoder must give a byte. Shared between the two ends of the decoder.
type OutputDeadline = Arc<Mutex<Option<Instant>>>;

/// `body` with `codings`, the value of `Content-Encoding`, undone. The caller wants at most `limit` bytes and stops reading
/// there. Of an encoded body about 17/16 of `limit` and 64 KiB are read, and then it ends in an error; a body without a
/// coding is passed through.
///
/// # Errors
/// `Unsupported` for a coding that cannot be undone. Reading fails with `InvalidData` for more encoded bytes than that, and
/// with `TimedOut` when nothing was decoded for 30 s.
pub(crate) fn decode_body(
    codings: &str,
    body: Box<dyn Read + Send>,
    limit: u64,
) -> io::Result<Box<dyn Read + Send>> {
    if !content_coding::is_encoded(codings) {
        return Ok(body);
    }
    let deadline = OutputDeadline::default();
    // The decoders look at the first bytes when they are made.
    set(&deadline, Instant::now().checked_add(OUTPUT_TIMEOUT));
    let left = limit.saturating_add(limit.div_euclid(16)).saturating_add(CODING_OVERHEAD);
    let input = DecoderInput { body, left, deadline: Arc::clone(&deadline) };
    let decoder = content_coding::decoder(codings, Box::new(input))?;
    Ok(Box::new(DecoderOutput { decoder, deadline }))
}

/// Sets a new deadline for each read of the decoder.
struct DecoderOutput {
    decoder: Box<dyn Read + Send>,
    deadline: OutputDeadline,
}

impl Read for DecoderOutput {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        set(&self.deadline, Instant::now().checked_add(OUTPUT_TIMEOUT));
        self.decoder.read(into)
    }
}

/// Checks deadline and length of what the decoder reads.
struct DecoderInput {
    body: Box<dyn Read + Send>,
    /// How many more encoded bytes are allowed.
    left: u64,
    deadline: OutputDeadline,
}

impl Read for DecoderInput {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if get(&self.deadline).is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the encoded body has decoded to nothing for 30 s",
            ));
        }
        let count = self.body.read(into)?;
        let Some(left) = self.left.checked_sub(crate::matrix::len_u64(count)) else {
            let why = "the encoded body is longer than the largest body that is accepted";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        };
        self.left = left;
        Ok(count)
    }
}

/// The value is never left half-changed, so a poisoned lock can be used.
fn set(deadline: &OutputDeadline, to: Option<Instant>) {
    *deadline.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

fn get(deadline: &OutputDeadline) -> Option<Instant> {
    *deadline.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// One gzip member.
    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(codings: &str, body: Vec<u8>, limit: u64) -> io::Result<Box<dyn Read + Send>> {
        decode_body(codings, Box::new(io::Cursor::new(body)), limit)
    }

    #[test]
    fn encoded_bodies_are_decoded_and_others_pass() {
        let packed = gzip(b"hello");
        for (codings, body, expected) in [
            ("", packed.clone(), packed.as_slice()),
            (" identity ", packed.clone(), packed.as_slice()),
            ("gzip", packed.clone(), b"hello"),
        ] {
            let mut read = Vec::new();
            decode(codings, body, 100).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, expected, "{codings}");
        }
        let error = decode("zstd", Vec::new(), 100).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_gzip_bomb_is_decoded_only_as_far_as_it_is_read() {
        let bomb = gzip(&vec![0; 64 << 20]);
        let mut body = decode("gzip", bomb, 1000).unwrap();
        let mut start = [7; 4096];
        body.read_exact(&mut start).unwrap();
        assert_eq!(start, [0; 4096]);
    }

    #[test]
    fn input_that_decodes_to_nothing_ends_by_size_or_by_time() {
        let nothing = gzip(b"").repeat(100_000);
        let mut byte = [0];
        let error = decode("gzip", nothing, 1000).unwrap().read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");

        let deadline = OutputDeadline::default();
        set(&deadline, Some(Instant::now()));
        let mut input = DecoderInput { body: Box::new(io::repeat(0)), left: 9, deadline };
        let error = input.read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
