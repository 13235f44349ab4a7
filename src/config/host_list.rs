//! Host lists: which hosts an operator allows and denies, with the wildcards `*` and `?`.
//!
//! Owns the rule that all such lists in the configuration follow. Refuses to know what the hosts are for.

use wildmatch::WildMatch;

use crate::config::{host_glob, host_name};

/// Allowed and denied hosts. Entries and names are compared in the normalised form of URLs.
#[derive(Clone, Debug)]
pub(crate) struct HostList {
    /// One of these must match.
    allow: Vec<WildMatch>,
    /// None of these may.
    deny: Vec<WildMatch>,
}

impl HostList {
    /// Permits what `allow` matches and `deny` does not.
    pub(crate) fn new(allow: &[String], deny: &[String]) -> Self {
        // An entry that is not a host was refused when the configuration was loaded; it matches nothing.
        let hosts = |texts: &[String]| {
            texts.iter().filter_map(|text| host_glob(text).ok()).map(|glob| WildMatch::new(&glob)).collect()
        };
        Self { allow: hosts(allow), deny: hosts(deny) }
    }

    /// Whether `name` is allowed.
    pub(crate) fn permit(&self, name: &str) -> bool {
        let name = host_name(name);
        let matches = |hosts: &[WildMatch]| hosts.iter().any(|glob| glob.matches(&name));
        matches(&self.allow) && !matches(&self.deny)
    }
}

/// Whether a text matches a glob, byte by byte.
pub(super) fn matches(glob: &str, text: &str) -> bool {
    WildMatch::new(glob).matches(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_in_any_case_and_deny_wins() {
        let hosts = HostList::new(&["*.example.org".to_owned(), "b.org".to_owned()], &["Evil.*".to_owned()]);
        assert!(hosts.permit("a.example.org") && hosts.permit("B.ORG"));
        assert!(!hosts.permit("c.org") && !hosts.permit("example.org") && !hosts.permit("evil.example.org"));
    }

    #[test]
    fn entries_match_however_they_are_written() {
        let deny =
            ["b\u{fc}cher.example", "localhost.", "EXAMPLE.com", "*.B\u{dc}CHER.example.", "127.1", "[::1]"];
        let hosts = HostList::new(&["*".to_owned()], &deny.map(str::to_owned));
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
            assert!(!hosts.permit(name), "{name}");
        }
        assert!(hosts.permit("cher.example") && hosts.permit("a.example.com"));
    }
}
