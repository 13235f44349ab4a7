//! A body that must arrive before a deadline, until the deadline is lifted.
//!
//! Owns the check before each read. A read that is already waiting is ended by the connection's own time limits, not by this.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A reader whose reads fail with `TimedOut` once its deadline has passed. The deadline is checked before each read, so a
/// read that waits may end up to one [`stall`](super::Timeouts::stall) later.
pub(crate) struct DeadlineReader {
    source: Box<dyn Read + Send>,
    /// `None`: no deadline.
    ends: Option<Instant>,
    deadline: ReadDeadline,
}

impl DeadlineReader {
    /// Reads `source`, which must end by `ends`.
    pub(super) fn new(source: Box<dyn Read + Send>, ends: Option<Instant>) -> Self {
        Self { source, ends, deadline: ReadDeadline::default() }
    }

    /// A handle that can lift the deadline after the reader has been moved elsewhere.
    pub(crate) fn read_deadline(&self) -> ReadDeadline {
        self.deadline.clone()
    }
}

/// The deadline of a [`DeadlineReader`].
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadDeadline {
    is_lifted: Arc<AtomicBool>,
}

impl ReadDeadline {
    /// Lets the rest of the body take as long as it needs.
    pub(crate) fn lift(&self) {
        self.is_lifted.store(true, Ordering::Relaxed);
    }

    fn is_lifted(&self) -> bool {
        self.is_lifted.load(Ordering::Relaxed)
    }
}

impl Read for DeadlineReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.deadline.is_lifted() && self.ends.is_some_and(|ends| ends <= Instant::now()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the body arrives too slowly"));
        }
        self.source.read(into)
    }
}

impl fmt::Debug for DeadlineReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineReader").field("ends", &self.ends).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fail_after_the_deadline_until_it_is_lifted() {
        let mut body = DeadlineReader::new(Box::new(io::repeat(7)), Some(Instant::now()));
        let mut byte = [0];
        assert_eq!(body.read(&mut byte).unwrap_err().kind(), io::ErrorKind::TimedOut);
        body.read_deadline().lift();
        assert_eq!((body.read(&mut byte).unwrap(), byte), (1, [7]));
    }
}
