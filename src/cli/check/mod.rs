//! `media-sidecar check`: says, line by line, what is well and what is not, with the mend.
//!
//! Looks at what is near first: configuration, key, homeserver, folder, the service itself; then from outside, as clients and
//! servers do, through the reverse proxy at this server's own name. Each cause is said once.

mod proxy;
mod report;
mod service;
mod stray;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use self::report::{Level, Report};
use super::{Failure, load_config, load_signing_key, runtime};
use crate::accounts::homeserver::{HomeserverClient, HomeserverError};
use crate::app::Environment;
use crate::config::{Config, Size, find as find_config, redacted};
use crate::error::in_words;
use crate::federation::{KeyFile, SigningKey, Standing, compare_published_key};
use crate::matrix::Timestamp;
use crate::outbound::Answer;
use crate::preview::Fetcher;
use crate::store;

/// Largest answer read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Below this much free space the operator is warned.
const ROOM: Size = Size(1 << 30);

/// How far the clocks of this machine and its neighbours may be apart; keys and signatures tolerate little more.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// No clock that works shows an earlier time: 2026-01-01.
const EARLIEST: Timestamp = Timestamp(1_767_225_600_000);

/// Judges the deployment and tells `out`. `Ok(false)` when anything fails.
pub fn check(path: Option<&Path>, out: &mut impl Write) -> Result<bool, Failure> {
    let runtime = runtime()?;
    // SRV records are asked for inside it.
    let _inside = runtime.enter();
    let mut report = Report::new(out);
    let loaded = match load_config(path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems.0 {
                report.say(Level::Fail, "configuration", problem)?;
            }
            return Ok(false);
        }
    };
    for warning in loaded.warnings {
        report.say(Level::Warn, "configuration", warning)?;
    }
    let config = loaded.config;
    let file = find_config(path).map(|file| format!(" ({})", file.display())).unwrap_or_default();
    report.say(Level::Ok, "configuration", format!("server_name is {}{file}", config.server_name))?;
    let key = check_key(&config, &mut report)?;
    let homeserver = check_homeserver(&config, key.as_ref(), &mut report)?;
    check_data_dir(&config, &mut report)?;
    if let Err(why) = Fetcher::new(&config.previews, Environment::system().names) {
        report.say(Level::Fail, "previews", in_words(&why))?;
    }
    if let Some(key) = key {
        match proxy::Outside::find(&config, &key) {
            Ok(outside) => {
                let state = service::check(&config, &outside, homeserver, &mut report)?;
                proxy::check(&config, &outside, (state, homeserver), &mut report)?;
            }
            // A `ca_file` that is none, for instance.
            Err(why) => report.say(Level::Fail, "service and proxy", in_words(&why))?,
        }
    } else {
        report.say(
            Level::Warn,
            "service and proxy",
            "not looked at without the signing key, by which we know our own",
        )?;
    }
    Ok(!report.has_failed())
}

/// The signing key and its file.
fn check_key(config: &Config, report: &mut Report<'_, impl Write>) -> Result<Option<SigningKey>, Failure> {
    match load_signing_key(config) {
        Ok(loaded) => {
            match loaded.warning {
                Some(warning) => report.say(Level::Warn, "signing key", warning)?,
                None => report.say(Level::Ok, "signing key", loaded.key.key_id())?,
            }
            Ok(Some(loaded.key))
        }
        Err(error) => {
            report.say(Level::Fail, "signing key", error)?;
            Ok(None)
        }
    }
}

/// Whether the homeserver answers, publishes our key, and has our time. Gives what it said of itself.
fn check_homeserver(
    config: &Config,
    key: Option<&SigningKey>,
    report: &mut Report<'_, impl Write>,
) -> Result<Neighbour, Failure> {
    let homeserver = HomeserverClient::new(&config.homeserver.url, Environment::system().names)?;
    let url = redacted(&config.homeserver.url);
    let answer = match homeserver.get("/_matrix/client/versions", None) {
        Ok(answer) if answer.status() == 200 => answer,
        Ok(answer) => {
            let finding =
                format!("{url} answers {} for /_matrix/client/versions; set homeserver.url", answer.status());
            report.say(Level::Fail, "homeserver", finding)?;
            return Ok(Neighbour::Unwell);
        }
        Err(error) => {
            let finding = match &error {
                HomeserverError::Sidecar => format!(
                    "{url}: {error}; set homeserver.url to the homeserver's own address, not the proxy's or ours"
                ),
                HomeserverError::Outbound(why) => {
                    format!("{url} does not answer ({}); start it or set homeserver.url", in_words(why))
                }
            };
            report.say(Level::Fail, "homeserver", finding)?;
            return Ok(Neighbour::Unwell);
        }
    };
    report.say(Level::Ok, "homeserver", format!("{url} answers"))?;
    check_clock(&answer, report)?;
    let announces = read_json(answer).as_ref().is_some_and(supports_authenticated_media);
    let renew = KeyFile::locate(&config.homeserver.signing_key).how_to_renew();
    let standing = key.map(|key| compare_published_key(&homeserver, &config.server_name, key, renew));
    let differs = matches!(standing, Some(Standing::Differs(_)));
    match standing {
        None => {}
        Some(Standing::Agrees) => report.say(Level::Ok, "published key", "it is ours")?,
        Some(Standing::Differs(what)) => report.say(Level::Fail, "published key", what)?,
        Some(Standing::Unknown(why)) => {
            let finding =
                format!("cannot be seen ({why}); let homeserver.url serve /_matrix/key/v2/server too");
            report.say(Level::Warn, "published key", finding)?;
        }
    }
    Ok(if differs { Neighbour::Unwell } else { Neighbour::Well { announces } })
}

/// What was found of the homeserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbour {
    /// A failure was told.
    Unwell,
    /// It answers.
    Well {
        /// Whether its own versions lead clients to authenticated media.
        announces: bool,
    },
}

/// Whether a `/versions` answer leads clients to authenticated media: spec 1.11 or later, or the flag for it.
fn supports_authenticated_media(versions: &Value) -> bool {
    let is_late = |version: &Value| {
        let minor = version.as_str().and_then(|text| text.strip_prefix("v1."));
        minor.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor >= 11)
    };
    let listed =
        versions.get("versions").and_then(Value::as_array).is_some_and(|list| list.iter().any(is_late));
    let flag = versions.get("unstable_features").and_then(|flags| flags.get("org.matrix.msc3916.stable"));
    listed || flag == Some(&Value::Bool(true))
}

/// Whether this machine's clock is possible and agrees with the homeserver's.
fn check_clock(answer: &Answer, report: &mut Report<'_, impl Write>) -> Result<(), Failure> {
    let now = Timestamp::now();
    let theirs = answer.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
    let ours = now.system_time();
    let apart = theirs.map(|theirs| {
        ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).unwrap_or_default()
    });
    if now < EARLIEST {
        report.say(Level::Fail, "clock", "it shows a time long past; set it, or run a time service")
    } else if let Some(apart) = apart.filter(|apart| *apart > CLOCK_TOLERANCE) {
        report.say(
            Level::Fail,
            "clock",
            format!("{} s apart from the homeserver's; run a time service", apart.as_secs()),
        )
    } else {
        report.say(Level::Ok, "clock", httpdate::fmt_http_date(ours))
    }
}

/// Whether the data directory can be written and has room.
fn check_data_dir(config: &Config, report: &mut Report<'_, impl Write>) -> Result<(), Failure> {
    let path = &config.data_dir;
    // Without the dots in between.
    let shown = path.components().collect::<PathBuf>();
    let shown = shown.display();
    if !path.exists() {
        return report.say(
            Level::Warn,
            "data directory",
            format!("{shown} is not there yet; serve makes it"),
        );
    }
    match store::inspect(path) {
        Ok(None) => {}
        Ok(Some(problem)) => return report.say(Level::Fail, "data directory", problem),
        Err(error) => {
            let finding = format!("{shown} cannot be looked into ({}); run check as root", error.causes());
            report.say(Level::Warn, "data directory", finding)?;
        }
    }
    if let Err(error) = tempfile::tempfile_in(path) {
        let why = in_words(&error);
        let finding = format!("{shown} cannot be written ({why}); give it to the user the service runs as");
        return report.say(Level::Fail, "data directory", finding);
    }
    let space = rustix::fs::statvfs(path).map(|space| space.f_bavail.saturating_mul(space.f_frsize));
    match space {
        Err(error) => {
            report.say(Level::Warn, "data directory", format!("{shown}: free space unknown ({error})"))
        }
        Ok(free) if free < config.uploads.max_size.0 => {
            let finding = format!("{shown} has less room than one upload may take ({free} bytes); make room");
            report.say(Level::Fail, "data directory", finding)
        }
        Ok(free) if free < ROOM.0 => {
            report.say(Level::Warn, "data directory", format!("{shown} has only {free} bytes left"))
        }
        Ok(free) => report.say(Level::Ok, "data directory", format!("{shown}, {} GiB free", free >> 30)),
    }
}

/// A JSON body, if it is one.
fn read_json(answer: Answer) -> Option<Value> {
    serde_json::from_slice(&answer.read_at_most(MAX_ANSWER).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_that_lead_to_authenticated_media() {
        for (versions, expected) in [
            (json!({"versions": ["v1.10", "v1.11"]}), true),
            (json!({"versions": ["v1.12"]}), true),
            (json!({"versions": ["r0.6.1", "v1.9"]}), false),
            (json!({"versions": [], "unstable_features": {"org.matrix.msc3916.stable": true}}), true),
            (json!({}), false),
        ] {
            assert_eq!(supports_authenticated_media(&versions), expected, "{versions}");
        }
    }
}
