//! `media-sidecar check`: checks the deployment, one line for each finding, with how to fix it.
//!
//! Local things first: configuration, key, homeserver, data directory, the service itself; then the server name from outside, through the
//! reverse proxy, as clients and servers see it. Each cause is reported once.

mod proxy;
mod report;
mod service;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use self::report::{Level, Report};
use super::{Failure, load_config, load_signing_key, runtime};
use crate::accounts::homeserver::{HomeserverClient, HomeserverError};
use crate::accounts::{software_of, strangers};
use crate::app::Environment;
use crate::config::{Config, Size, find as find_config, redacted};
use crate::error::in_words;
use crate::federation::{KeyCheck, KeyFile, SigningKey, check_published_key};
use crate::matrix::Timestamp;
use crate::outbound::OutboundResponse;
use crate::preview::Fetcher;
use crate::store;

/// Largest answer read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Free space below which the operator is warned.
const ROOM: Size = Size(1 << 30);

/// Largest accepted difference between this machine's clock and the homeserver's; keys and signatures tolerate little more.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// A clock that shows an earlier time is wrong: 2026-01-01.
const EARLIEST: Timestamp = Timestamp(1_767_225_600_000);

/// Checks the deployment and writes the findings to `out`. `Ok(false)` if any line is FAIL.
pub fn check(path: Option<&Path>, out: &mut impl Write) -> Result<bool, Failure> {
    let runtime = runtime()?;
    // SRV look-ups need the runtime.
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
    if let Err(why) = Fetcher::new(&config.previews, Environment::system().dns) {
        report.say(Level::Fail, "previews", in_words(&why))?;
    }
    if let Some(key) = key {
        match proxy::PublicView::find(&config, &key) {
            Ok(public_view) => {
                let state = service::check(&config, &public_view, homeserver, &mut report)?;
                proxy::check(&config, &public_view, (state, homeserver), &mut report)?;
            }
            // A `ca_file` that is none, for instance.
            Err(why) => report.say(Level::Fail, "service and proxy", in_words(&why))?,
        }
    } else {
        report.say(Level::Warn, "service and proxy", "not checked without the signing key")?;
    }
    Ok(!report.has_failed())
}

/// Checks the signing key and its file; returns the key if it can be used.
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

/// Checks that the homeserver answers, publishes our key, and that its clock agrees with ours.
fn check_homeserver(
    config: &Config,
    key: Option<&SigningKey>,
    report: &mut Report<'_, impl Write>,
) -> Result<HomeserverState, Failure> {
    let homeserver = HomeserverClient::new(&config.homeserver.url, Environment::system().dns)?;
    let url = redacted(&config.homeserver.url);
    let answer = match homeserver.get("/_matrix/client/versions", None) {
        Ok(answer) if answer.status() == 200 => answer,
        Ok(answer) => {
            let finding =
                format!("{url} answers {} for /_matrix/client/versions; set homeserver.url", answer.status());
            report.say(Level::Fail, "homeserver", finding)?;
            return Ok(HomeserverState::Failing);
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
            return Ok(HomeserverState::Failing);
        }
    };
    report.say(Level::Ok, "homeserver", format!("{url} answers"))?;
    check_clock(&answer, report)?;
    let software = software_of(&homeserver);
    let (is_same, finding) = strangers(config.unauthenticated_media, software.as_ref());
    report.say(if is_same { Level::Ok } else { Level::Warn }, "strangers", finding)?;
    let announces = read_json(answer).as_ref().is_some_and(supports_authenticated_media);
    let renew = KeyFile::locate(&config.homeserver.signing_key).how_to_renew();
    let key_check = key.map(|key| check_published_key(&homeserver, &config.server_name, key, renew));
    let differs = matches!(key_check, Some(KeyCheck::Differs(_)));
    match key_check {
        None => {}
        Some(KeyCheck::Matches) => report.say(Level::Ok, "published key", "matches our signing key")?,
        Some(KeyCheck::Differs(what)) => report.say(Level::Fail, "published key", what)?,
        Some(KeyCheck::Unknown(why)) => {
            let finding =
                format!("cannot be read ({why}); homeserver.url must serve /_matrix/key/v2/server too");
            report.say(Level::Warn, "published key", finding)?;
        }
    }
    Ok(if differs { HomeserverState::Failing } else { HomeserverState::Well { announces } })
}

/// The result of the homeserver's check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HomeserverState {
    /// A failure was reported.
    Failing,
    /// It answers and publishes our key, or its key cannot be read.
    Well {
        /// Whether its own `/versions` lets clients use authenticated media.
        announces: bool,
    },
}

/// Whether a `/versions` answer lets clients use authenticated media: spec 1.11 or later, or the flag of MSC3916.
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

/// Checks this machine's clock against the homeserver's `Date` header.
fn check_clock(answer: &OutboundResponse, report: &mut Report<'_, impl Write>) -> Result<(), Failure> {
    let now = Timestamp::now();
    let theirs = answer.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
    let ours = now.system_time();
    let apart = theirs.map(|theirs| {
        ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).unwrap_or_default()
    });
    if now < EARLIEST {
        report.say(Level::Fail, "clock", "it shows a time before 2026; set it, or run a time service")
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

/// Checks that the data directory can be opened and written and has free space.
fn check_data_dir(config: &Config, report: &mut Report<'_, impl Write>) -> Result<(), Failure> {
    let path = &config.data_dir;
    // Without `/./` in between.
    let shown = path.components().collect::<PathBuf>();
    let shown = shown.display();
    if !path.exists() {
        return report.say(
            Level::Warn,
            "data directory",
            format!("{shown} does not exist yet; `serve` creates it"),
        );
    }
    match store::inspect(path) {
        Ok(None) => {}
        Ok(Some(problem)) => return report.say(Level::Fail, "data directory", problem),
        Err(error) => {
            let finding = format!("{shown} cannot be read ({}); run `check` as root", error.causes());
            report.say(Level::Warn, "data directory", finding)?;
        }
    }
    if let Err(error) = tempfile::tempfile_in(path) {
        let why = in_words(&error);
        let finding =
            format!("{shown} is not writable ({why}); change its owner to the user that the service runs as");
        return report.say(Level::Fail, "data directory", finding);
    }
    let space = rustix::fs::statvfs(path).map(|space| space.f_bavail.saturating_mul(space.f_frsize));
    match space {
        Err(error) => {
            report.say(Level::Warn, "data directory", format!("{shown}: free space unknown ({error})"))
        }
        Ok(free) if free < config.uploads.max_size.0 => {
            let finding = format!(
                "{shown} has less free space than one upload may take ({free} bytes); free some space"
            );
            report.say(Level::Fail, "data directory", finding)
        }
        Ok(free) if free < ROOM.0 => {
            report.say(Level::Warn, "data directory", format!("{shown} has only {free} bytes left"))
        }
        Ok(free) => report.say(Level::Ok, "data directory", format!("{shown}, {} GiB free", free >> 30)),
    }
}

/// The body as JSON; `None` if it is not JSON or larger than [`MAX_ANSWER`].
fn read_json(answer: OutboundResponse) -> Option<Value> {
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
