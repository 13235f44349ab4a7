//! The homeserver's software, as `/_matrix/federation/v1/version` names it, and what follows from it.
//! [Spec, server implementation](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1version).

use serde::Deserialize;

use crate::config::UnauthenticatedMedia;

/// Homeservers that report every account without a password as a guest, bridges and bots included, and let them upload: Conduit and its
/// relatives.
const CALL_BOTS_GUESTS: [&str; 5] = ["conduit", "conduwuit", "continuwuity", "tuwunel", "grapevine"];

/// Homeservers that serve new media to callers without a token, all versions of them.
const SERVE_STRANGERS: [&str; 4] = ["conduwuit", "continuwuity", "dendrite", "grapevine"];

/// Homeservers that stopped to, and the first version in which their legacy routes answer 404 for new media.
const STOPPED: [(&str, [u32; 2]); 3] = [("synapse", [1, 120]), ("conduit", [0, 10]), ("tuwunel", [0, 0])];

/// The body of `/_matrix/federation/v1/version`.
#[derive(Deserialize)]
pub(super) struct VersionDocument {
    pub(super) server: Software,
}

/// A homeserver's software.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Software {
    name: String,
    #[serde(default)]
    version: String,
}

impl Software {
    /// The first word of the name, in lower case.
    fn word(&self) -> String {
        let mut words = self.name.split(|char: char| !char.is_alphanumeric());
        words.next().unwrap_or_default().to_ascii_lowercase()
    }

    /// Whether it reports bots and bridges as guests.
    pub(super) fn calls_bots_guests(&self) -> bool {
        CALL_BOTS_GUESTS.contains(&self.word().as_str())
    }

    /// Whether it serves new media on its legacy routes to callers without a token, as it is configured by default; `None` for software
    /// that is not known here.
    pub(crate) fn serves_strangers(&self) -> Option<bool> {
        let word = self.word();
        if SERVE_STRANGERS.contains(&word.as_str()) {
            return Some(true);
        }
        let (_, first) = STOPPED.iter().find(|(name, _)| *name == word)?;
        let mut numbers = self.version.split(|char: char| !char.is_ascii_digit()).map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        Some([next(), next()] < *first)
    }
}

/// What callers without a token may do now, and what the homeserver itself does; `true` if it does the same, or has nothing to say.
pub(crate) fn strangers(setting: UnauthenticatedMedia, software: Option<&Software>) -> (bool, String) {
    let name = software.map_or_else(|| "the homeserver".to_owned(), ToString::to_string);
    let theirs = software.and_then(Software::serves_strangers);
    let resolved = match (setting, theirs) {
        (UnauthenticatedMedia::Auto, Some(true)) => UnauthenticatedMedia::Open,
        (UnauthenticatedMedia::Auto, _) => UnauthenticatedMedia::Frozen,
        (setting, _) => setting,
    };
    let now = match resolved {
        UnauthenticatedMedia::Open => "callers without a token may download everything",
        UnauthenticatedMedia::Closed => "callers without a token may download nothing",
        UnauthenticatedMedia::Frozen | UnauthenticatedMedia::Auto => {
            "callers without a token may download what was stored while unauthenticated_media was open, and nothing new"
        }
    };
    let beside = match theirs {
        Some(true) => format!("{name} itself serves them new media"),
        Some(false) => format!("{name} itself refuses them new media"),
        None => format!("whether {name} itself serves them new media is not known"),
    };
    let word = match setting {
        UnauthenticatedMedia::Open => "open",
        UnauthenticatedMedia::Frozen => "frozen",
        UnauthenticatedMedia::Closed => "closed",
        UnauthenticatedMedia::Auto => "auto",
    };
    let is_same = setting == UnauthenticatedMedia::Auto
        || theirs.is_none_or(|theirs| theirs == (resolved == UnauthenticatedMedia::Open));
    let advice = match (is_same, resolved) {
        (true, _) => "",
        (false, UnauthenticatedMedia::Open) => "; `unauthenticated_media: frozen` or `auto` does so too",
        (false, _) => {
            "; `unauthenticated_media: open` or `auto` does so too, for old clients that send no token"
        }
    };
    (is_same, format!("{now} (unauthenticated_media: {word}); {beside}{advice}"))
}

impl std::fmt::Display for Software {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without what some put behind the number, such as the commit.
        let version = self.version.split_whitespace().next().unwrap_or_default();
        write!(f, "{} {version}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_may_do_is_said_with_the_word_that_changes_it() {
        let software =
            |name: &str, version: &str| Some(Software { name: name.to_owned(), version: version.to_owned() });
        let (old, new) = (software("Synapse", "1.100.0"), software("Synapse", "1.130.0 (x)"));
        for (setting, software, is_same, parts) in [
            (UnauthenticatedMedia::Open, &old, true, ["everything", "Synapse 1.100.0 itself serves"]),
            (UnauthenticatedMedia::Open, &new, false, ["everything", "frozen` or `auto`"]),
            (UnauthenticatedMedia::Open, &None, true, ["everything", "is not known"]),
            (UnauthenticatedMedia::Frozen, &new, true, ["nothing new", "Synapse 1.130.0 itself refuses"]),
            (UnauthenticatedMedia::Frozen, &old, false, ["nothing new", "open` or `auto`"]),
            (UnauthenticatedMedia::Closed, &new, true, ["may download nothing (", "closed"]),
            (UnauthenticatedMedia::Auto, &old, true, ["everything", "auto"]),
            (UnauthenticatedMedia::Auto, &new, true, ["nothing new", "auto"]),
            (UnauthenticatedMedia::Auto, &None, true, ["nothing new", "is not known"]),
        ] {
            let (same, text) = strangers(setting, software.as_ref());
            assert_eq!(same, is_same, "{text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn what_a_homeserver_does_follows_from_its_name_and_version() {
        for (name, version, guests, strangers) in [
            ("Synapse", "1.119.0", false, Some(true)),
            ("Synapse", "1.120.0rc1 (b=x,y)", false, Some(false)),
            ("synapse", "2.0", false, Some(false)),
            ("Conduit", "0.9.0", true, Some(true)),
            ("Conduit", "0.10.0-alpha", true, Some(false)),
            ("Tuwunel", "1.4.0 (abc)", true, Some(false)),
            ("Continuwuity", "0.5.0", true, Some(true)),
            ("Dendrite", "0.14.1", false, Some(true)),
            ("Grapevine", "", true, Some(true)),
            ("New Server", "9.9", false, None),
        ] {
            let software = Software { name: name.to_owned(), version: version.to_owned() };
            assert_eq!(software.calls_bots_guests(), guests, "{software}");
            assert_eq!(software.serves_strangers(), strangers, "{software}");
        }
    }
}
