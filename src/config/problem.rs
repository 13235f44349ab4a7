//! Problems of a configuration and how they are printed: one line each.

use std::error::Error as StdError;
use std::fmt;

/// One problem of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `sidecar.yaml:12`, `SIDECAR_LOG`, or the file alone.
    pub place: String,
    /// The dotted key; empty when the file cannot be read at all.
    pub key: String,
    /// What is wrong and how to fix it.
    pub message: String,
}

impl Problem {
    /// Its line, for sorting problems in the order of the file; those without a line come last.
    pub(super) fn line(&self) -> usize {
        self.place.rsplit_once(':').and_then(|(_, line)| line.parse().ok()).unwrap_or(usize::MAX)
    }
}

/// All problems of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.place, self.message),
            key => write!(f, "{}: `{key}`: {}", self.place, self.message),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl StdError for Problems {}
