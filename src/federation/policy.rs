//! Who may exchange media with us: `federation.allow` and `federation.deny`.

use wildmatch::WildMatch;

use crate::error::{Error, Kind, Result};
use crate::matrix::ServerName;

/// Globs over server names without their port.
#[derive(Debug)]
pub(super) struct Policy {
    /// One of these must match.
    allow: Vec<WildMatch>,
    /// None of these may.
    deny: Vec<WildMatch>,
}

impl Policy {
    /// A policy of globs, matched in lower case.
    pub(super) fn new(allow: &[String], deny: &[String]) -> Self {
        let globs =
            |texts: &[String]| texts.iter().map(|text| WildMatch::new(&text.to_ascii_lowercase())).collect();
        Self { allow: globs(allow), deny: globs(deny) }
    }

    /// `Forbidden` for a server that is excluded.
    pub(super) fn check(&self, server_name: &ServerName) -> Result<()> {
        let host = server_name.host_str().to_ascii_lowercase();
        let matches = |globs: &[WildMatch]| globs.iter().any(|glob| glob.matches(&host));
        if matches(&self.allow) && !matches(&self.deny) {
            return Ok(());
        }
        Err(Error::new(Kind::Forbidden, "this server does not exchange media with that server"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_the_name_without_its_port_and_deny_wins() {
        let policy = Policy::new(&["*.example.org".to_owned(), "b.org".to_owned()], &["Evil.*".to_owned()]);
        let allows = |name: &str| policy.check(&ServerName::parse(name).unwrap()).is_ok();
        assert!(allows("a.example.org:8448") && allows("B.ORG"));
        assert!(!allows("c.org") && !allows("example.org") && !allows("evil.example.org:1"));
    }
}
