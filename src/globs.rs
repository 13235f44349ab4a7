//! Which names an operator lets in: two lists of globs, `*` and `?`.
//!
//! Owns the rule that all lists in the configuration follow. Refuses to know what the names mean.

use wildmatch::WildMatch;

/// Names allowed and denied, compared in lower case.
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
        let globs =
            |texts: &[String]| texts.iter().map(|text| WildMatch::new(&text.to_ascii_lowercase())).collect();
        Self { allow: globs(allow), deny: globs(deny) }
    }

    /// Whether `name` is let in.
    pub(crate) fn permit(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
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
}
