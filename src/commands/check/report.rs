//! The lines that `check` prints.

use std::fmt;
use std::io::Write;

use super::Failure;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// All well.
    Ok,
    /// Works, but.
    Warn,
    /// Does not work.
    Fail,
}

/// The check on its way.
pub(super) struct Report<'a, W> {
    /// Whom to tell.
    out: &'a mut W,
    /// Whether anything failed.
    failed: bool,
}

impl<'a, W: Write> Report<'a, W> {
    /// Tells `out`.
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, failed: false }
    }

    /// Whether anything failed so far.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Tells one finding.
    pub(super) fn say(
        &mut self,
        level: Level,
        subject: &str,
        finding: impl fmt::Display,
    ) -> Result<(), Failure> {
        self.failed |= level == Level::Fail;
        let word = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        Ok(writeln!(self.out, "{word:<5} {subject}: {finding}")?)
    }
}
