//! The lines that `check` prints.

use std::fmt;
use std::io::Write;

use super::Failure;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    /// Works, but may surprise.
    Warn,
    Fail,
}

/// Writes the findings and remembers whether one failed.
pub(super) struct Report<'a, W> {
    out: &'a mut W,
    failed: bool,
}

impl<'a, W: Write> Report<'a, W> {
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, failed: false }
    }

    /// Whether any finding was a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Writes one finding.
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

/// A problem and how to fix it, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckProblem(String);

impl<T: Into<String>> From<T> for CheckProblem {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for CheckProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Problems, each with all the places where it was seen.
#[derive(Default)]
pub(super) struct Causes(Vec<(CheckProblem, Vec<String>)>);

impl Causes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes that `cause` was seen at `place`.
    pub(super) fn add(&mut self, cause: CheckProblem, place: String) {
        match self.0.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, places)) if places.contains(&place) => {}
            Some((_, places)) => places.push(place),
            None => self.0.push((cause, vec![place])),
        }
    }

    /// Reports each cause once.
    pub(super) fn tell(&self, report: &mut Report<'_, impl Write>) -> Result<(), Failure> {
        for (cause, places) in &self.0 {
            let Some((first, others)) = places.split_first() else { continue };
            let entry_point: String = first.split_inclusive('/').take(3).collect();
            let others: Vec<_> = others
                .iter()
                .map(|place| {
                    place.strip_prefix(&entry_point).map_or_else(|| place.clone(), |path| format!("/{path}"))
                })
                .collect();
            let finding = match others.len() {
                0 => cause.to_string(),
                _ => format!("{cause} (the same: {})", others.join(", ")),
            };
            report.say(Level::Fail, first, finding)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_with_all_its_places() {
        let mut causes = Causes::default();
        for place in ["https://a/x/", "https://a/y/", "https://a/y/", "https://b/x/"] {
            causes.add("it rains".into(), place.to_owned());
        }
        causes.add("it snows".into(), "https://a/x/".to_owned());
        let mut told = Vec::new();
        let mut report = Report::new(&mut told);
        causes.tell(&mut report).unwrap();
        assert!(report.has_failed());
        let told = String::from_utf8(told).unwrap();
        assert_eq!(
            told,
            "FAIL  https://a/x/: it rains (the same: /y/, https://b/x/)\nFAIL  https://a/x/: it snows\n"
        );
    }
}
