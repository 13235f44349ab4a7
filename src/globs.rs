//! Which names an operator lets in: two lists of globs, `*` and `?`.
//!
//! Owns the rule that all lists in the configuration follow. Refuses to know what the names mean.

use wildmatch::WildMatch;

use crate::config::{host_glob, host_name};

/// Names allowed and denied, lists and names compared in the form that URLs have.
#[derive(Clone, Debug)]
pub(crate) struct Globs {
    /// One of these must match.
    allow: Vec<WildMatch>,
    /// None of these may.
    deny: Vec<WildMatch>,
}

impl Globs {
    /// Permits what `allow` matches and `deny` does not.
    pub(crate) fn new(allow: &[String], deny: &[String]) -> Self {
        // What is no host was refused with the configuration, and matches nothing.
        let globs = |texts: &[String]| {
            texts.iter().filter_map(|text| host_glob(text).ok()).map(|glob| WildMatch::new(&glob)).collect()
        };
        Self { allow: globs(allow), deny: globs(deny) }
    }

    /// Whether `name` is let in.
    pub(crate) fn permit(&self, name: &str) -> bool {
        let name = host_name(name);
        let matches = |globs: &[WildMatch]| globs.iter().any(|glob| glob.matches(&name));
        matches(&self.allow) && !matches(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_in_any_case_and_deny_wins() {
        let globs = Globs::new(&["*.example.org".to_owned(), "b.org".to_owned()], &["Evil.*".to_owned()]);
        assert!(globs.permit("a.example.org") && globs.permit("B.ORG"));
        assert!(!globs.permit("c.org") && !globs.permit("example.org") && !globs.permit("evil.example.org"));
    }

    #[test]
    fn entries_match_however_they_are_written() {
        let deny =
            ["b\u{fc}cher.example", "localhost.", "EXAMPLE.com", "*.B\u{dc}CHER.example.", "127.1", "[::1]"];
        let globs = Globs::new(&["*".to_owned()], &deny.map(str::to_owned));
        for name in [
            "xn--bcher-kva.example",
            "XN--BCHER-KVA.example.",
            "localhost",
            "LOCALHOST.",
            "example.com",
            "a.xn--bcher-kva.example",
            "127.0.0.1",
            "2130706433",
            "::1",
            "[0:0::1]",
        ] {
            assert!(!globs.permit(name), "{name}");
        }
        assert!(globs.permit("cher.example") && globs.permit("a.example.com"));
    }
}
