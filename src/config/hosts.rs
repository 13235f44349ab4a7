//! Normalised host names in lists, as in URLs: letter case, other alphabets, the trailing dot, spellings of addresses.
//!
//! Owns the form in which names are compared. Refuses to know what the lists are for.
//! [URL standard, host parsing](https://url.spec.whatwg.org/#host-parsing).

use url::Host;

/// Dots of other scripts, which URLs treat as dots (UTS #46).
const DOTS: [char; 3] = ['\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// A normalised name or address: lower case, ASCII, without brackets and trailing dot.
pub(crate) fn host_name(text: &str) -> String {
    normal(text).unwrap_or_else(|| bare(text).to_ascii_lowercase())
}

/// Why an entry of a host list would never match. Each message ends a sentence that begins with the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// A URL or a part of one.
    #[error("names a URL; write the host alone (like example.org)")]
    Url,
    /// Characters that host names and addresses cannot contain.
    #[error("is not a host (like example.org, *.example.org or 192.0.2.1), which has no port")]
    NotAHost,
    /// A wildcard in a label with letters that DNS encodes (Punycode).
    #[error("mixes a wildcard with letters other than a to z in one part; write that part whole or as *")]
    MixedWildcard,
}

/// A normalised entry of a list; `*` and `?` are wildcards.
///
/// # Errors
/// For an entry that would never match.
pub(crate) fn host_glob(text: &str) -> Result<String, HostError> {
    let text = text.trim();
    if text.contains('/') {
        return Err(HostError::Url);
    }
    if !text.contains(['*', '?']) {
        return normal(text).ok_or(HostError::NotAHost);
    }
    let is_address = text.matches(':').count() > 1 || text.starts_with('[');
    let is_known = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-_*?.".contains(c) || is_address && ":[]".contains(c)
    };
    if !text.chars().all(is_known) {
        return Err(HostError::NotAHost);
    }
    let labels = bare(text).split(|c| c == '.' || DOTS.contains(&c)).map(|label| {
        if label.is_ascii() {
            return Ok(label.to_ascii_lowercase());
        }
        // A label alone may look like an address.
        let whole_name = (!label.contains(['*', '?'])).then(|| normal(&format!("{label}.x"))).flatten();
        let name = whole_name.ok_or(HostError::MixedWildcard)?;
        Ok(name.strip_suffix(".x").unwrap_or(&name).to_owned())
    });
    labels.collect::<Result<Vec<_>, _>>().map(|labels| labels.join("."))
}

/// A name or address in the form of URLs; `None` if it cannot be either.
fn normal(text: &str) -> Option<String> {
    let bare = bare(text);
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return Some(address.to_string());
    }
    match Host::parse(bare).ok()? {
        Host::Domain(name) => Some(name.trim_end_matches('.').to_owned()).filter(|name| !name.is_empty()),
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => Some(address.to_string()),
    }
}

/// The host without brackets and trailing dots.
fn bare(text: &str) -> &str {
    let text = text.trim_end_matches(|c| c == '.' || DOTS.contains(&c));
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_urls_have() {
        for (entry, normal) in [
            ("EXAMPLE.com", "example.com"),
            ("localhost.", "localhost"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("B\u{dc}CHER.Example.", "xn--bcher-kva.example"),
            ("xn--BCHER-kva.example", "xn--bcher-kva.example"),
            ("\u{43f}\u{440}\u{438}\u{43c}\u{435}\u{440}\u{3002}\u{440}\u{444}", "xn--e1afmkfd.xn--p1ai"),
            (" example.org ", "example.org"),
            ("_matrix.example.org", "_matrix.example.org"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("[2001:DB8:0:0::1]", "2001:db8::1"),
            ("127.1", "127.0.0.1"),
            ("0x7f.0.0.1", "127.0.0.1"),
            ("192.0.2.1.", "192.0.2.1"),
            ("*", "*"),
            ("*.EXAMPLE.com.", "*.example.com"),
            ("*.b\u{fc}cher.example", "*.xn--bcher-kva.example"),
            ("*\u{3002}b\u{fc}cher\u{ff0e}example", "*.xn--bcher-kva.example"),
            ("evil?.*", "evil?.*"),
            ("10.*", "10.*"),
            ("[fd00:*]", "fd00:*"),
        ] {
            assert_eq!(host_glob(entry).as_deref(), Ok(normal), "{entry}");
        }
    }

    #[test]
    fn entries_that_would_never_match_are_refused() {
        for entry in [
            "",
            ".",
            "https://example.org",
            "example.org/",
            "example.org:8448",
            "a b",
            "b\u{fc}*.example",
            "exa<mple.org",
            "999.1.1.1.1",
        ] {
            assert!(host_glob(entry).is_err(), "{entry}");
        }
    }

    #[test]
    fn names_that_are_asked_about_have_the_same_form() {
        for (name, normal) in [
            ("Example.ORG.", "example.org"),
            ("2130706433", "127.0.0.1"),
            ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
            ("xn--a.example", "xn--a.example"),
            ("evil.org..", "evil.org"),
        ] {
            assert_eq!(host_name(name), normal, "{name}");
        }
    }
}
