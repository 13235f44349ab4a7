//! Bodies without their `Content-Encoding`: bounded in bytes on the wire and in the time that a decoder may work without a result.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::coding;

/// Longest time without a decoded byte. What decodes to nothing can be sent for as long as one likes.
const FRUITLESS: Duration = Duration::from_secs(30);

/// How much more than what they decode to encoded bytes may be: gzip and brotli add a few bytes to each block that they cannot
/// shorten.
const OVERHEAD: u64 = 64 * 1024;

/// When a decoder must have given something.
type Until = Arc<Mutex<Option<Instant>>>;

/// The body `wire` without `codings`, the value of `Content-Encoding`, of which at most `limit` bytes are wanted:
/// decoded it may be longer, and then ends in an error or goes on.
///
/// # Errors
/// One of `Unsupported` kind for an encoding that cannot be undone.
pub(crate) fn decode_body(
    codings: &str,
    wire: impl Read + Send + 'static,
    limit: u64,
) -> io::Result<Box<dyn Read + Send>> {
    if !coding::is_encoded(codings) {
        return Ok(Box::new(wire));
    }
    let until = Until::default();
    // Codings look at the first bytes of those before them.
    set(&until, Instant::now().checked_add(FRUITLESS));
    let left = limit.saturating_add(limit.div_euclid(16)).saturating_add(OVERHEAD);
    let decoder = coding::undo(codings, Encoded { wire, left, until: Arc::clone(&until) })?;
    Ok(Box::new(Decoded { decoder, until }))
}

/// What is read of a decoder.
struct Decoded {
    /// Gives the plain bytes.
    decoder: Box<dyn Read + Send>,
    /// Its time.
    until: Until,
}

impl Read for Decoded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        set(&self.until, Instant::now().checked_add(FRUITLESS));
        self.decoder.read(into)
    }
}

/// What a decoder reads.
struct Encoded<R> {
    /// The body as it comes.
    wire: R,
    /// How many more bytes it may have.
    left: u64,
    /// The decoder's time.
    until: Until,
}

impl<R: Read> Read for Encoded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if get(&self.until).is_some_and(|until| until <= Instant::now()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "what it sends decodes to nothing"));
        }
        let count = self.wire.read(into)?;
        let Some(left) = self.left.checked_sub(crate::matrix::len_u64(count)) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the encoded body is longer than a plain one",
            ));
        };
        self.left = left;
        Ok(count)
    }
}

/// Sets a decoder's time. A panic elsewhere cannot leave it half-changed.
fn set(until: &Until, to: Option<Instant>) {
    *until.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

/// A decoder's time.
fn get(until: &Until) -> Option<Instant> {
    *until.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn what_is_encoded_comes_out_plain_and_what_is_not_stays_as_it_is() {
        let packed = gzip(b"hello");
        for (codings, body, expected) in [
            ("", packed.clone(), packed.as_slice()),
            (" identity ", packed.clone(), packed.as_slice()),
            ("gzip", packed.clone(), b"hello"),
        ] {
            let mut read = Vec::new();
            decode_body(codings, io::Cursor::new(body), 100).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, expected, "{codings}");
        }
        let error = decode_body("zstd", io::empty(), 100).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_bomb_is_read_a_little_at_a_time() {
        let bomb = gzip(&vec![0; 64 << 20]);
        let mut body = decode_body("gzip", io::Cursor::new(bomb), 1000).unwrap();
        let mut start = [7; 4096];
        body.read_exact(&mut start).unwrap();
        assert_eq!(start, [0; 4096]);
    }

    #[test]
    fn what_decodes_to_nothing_ends_after_its_bytes_or_its_time() {
        let nothing = gzip(b"").repeat(100_000);
        let mut byte = [0];
        let error = decode_body("gzip", io::Cursor::new(nothing), 1000).unwrap().read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");

        let until = Until::default();
        set(&until, Some(Instant::now()));
        let error = Encoded { wire: io::repeat(0), left: 9, until }.read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
