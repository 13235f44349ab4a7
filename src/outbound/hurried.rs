//! Bodies that must come in time until whoever reads them has seen enough.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A body that must come in time: after it every read is an error of `TimedOut` kind. Looked at before each read, so one that
/// waits may end a stall later.
#[derive(Debug)]
pub(crate) struct Hurried<R> {
    /// The body.
    source: R,
    /// Until when; `None` for as long as it takes.
    until: Option<Instant>,
    /// Whether that still counts.
    hurry: Hurry,
}

impl<R> Hurried<R> {
    /// `source`, to be read by then.
    pub(super) fn new(source: R, until: Option<Instant>) -> Self {
        Self { source, until, hurry: Hurry::default() }
    }

    /// Its hurry, for when the body is in other hands.
    pub(crate) fn hurry(&self) -> Hurry {
        self.hurry.clone()
    }
}

/// The hurry of a [`Hurried`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Hurry(Arc<AtomicBool>);

impl Hurry {
    /// From here on it may take its time.
    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it may.
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<R: Read> Read for Hurried<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.hurry.is_over() && self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it sends too slowly"));
        }
        self.source.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_must_come_in_time_is_cut_until_it_is_left_in_peace() {
        let mut body = Hurried::new(io::repeat(7), Some(Instant::now()));
        let mut byte = [0];
        assert_eq!(body.read(&mut byte).unwrap_err().kind(), io::ErrorKind::TimedOut);
        body.hurry().end();
        assert_eq!((body.read(&mut byte).unwrap(), byte), (1, [7]));
    }
}
