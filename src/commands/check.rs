//! `media-sidecar check`: says, line by line, what is well and what is not, with the mend.
//!
//! Looks from outside, as clients and servers do: through the reverse proxy, at this server's own name. The service may
//! run or not while it looks.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Failure, load_config, load_signing_key, runtime};
use crate::app::Surroundings;
use crate::config::{Config, Size, redacted};
use crate::federation::{Discovery, Endpoint, SigningKey, Standing, compare_published_key};
use crate::homeserver::Homeserver;
use crate::matrix::Timestamp;
use crate::outbound::{Answer, Get, Guard, Limits, Outbound};
use crate::server::{CHECK_HEADER, PROXY_PREFIXES, check_value};

/// Longest wait for each answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Below this much free space the operator is warned.
const ROOM: Size = Size(1 << 30);

/// How far the clocks of this machine and its neighbours may be apart; keys and signatures tolerate little more.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// No clock that works shows an earlier time: 2026-01-01.
const EARLIEST: Timestamp = Timestamp(1_767_225_600_000);

/// A path below each prefix that is nothing here and that a proxy may be tempted to tidy.
const PROBE: &str = "media-sidecar-check/a%2Fb%20c?d=%C3%A9";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// All well.
    Ok,
    /// Works, but.
    Warn,
    /// Does not work.
    Fail,
}

/// The check on its way.
struct Report<'a, W> {
    /// Whom to tell.
    out: &'a mut W,
    /// Whether anything failed.
    failed: bool,
}

/// Judges the deployment and tells `out`. `Ok(false)` when anything fails.
pub fn check(config: Option<&Path>, out: &mut impl Write) -> Result<bool, Failure> {
    let runtime = runtime()?;
    // SRV records are asked for inside it.
    let _inside = runtime.enter();
    let mut report = Report { out, failed: false };
    let loaded = match load_config(config) {
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
    report.say(Level::Ok, "configuration", format!("server_name is {}", config.server_name))?;
    let key = check_key(&config, &mut report)?;
    check_homeserver(&config, key.as_ref(), &mut report)?;
    check_data_dir(&config, &mut report)?;
    if let Some(key) = key {
        check_proxy(&config, &key, &mut report)?;
    }
    Ok(!report.failed)
}

impl<W: Write> Report<'_, W> {
    /// Tells one finding.
    fn say(&mut self, level: Level, subject: &str, finding: impl fmt::Display) -> Result<(), Failure> {
        self.failed |= level == Level::Fail;
        let word = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        Ok(writeln!(self.out, "{word:<5} {subject}: {finding}")?)
    }
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

/// Whether the homeserver answers, publishes our key, and has our time.
fn check_homeserver(
    config: &Config,
    key: Option<&SigningKey>,
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    let homeserver = Homeserver::new(&config.homeserver.url, Surroundings::system().names)?;
    let url = redacted(&config.homeserver.url);
    let answer = match homeserver.get("/_matrix/client/versions", None) {
        Ok(answer) if answer.status() == 200 => answer,
        Ok(answer) => {
            let finding =
                format!("{url} answers {} for /_matrix/client/versions; set homeserver.url", answer.status());
            return report.say(Level::Fail, "homeserver", finding);
        }
        Err(error) => {
            let finding = format!("{url} does not answer ({error}); start it or set homeserver.url");
            return report.say(Level::Fail, "homeserver", finding);
        }
    };
    report.say(Level::Ok, "homeserver", format!("{url} answers"))?;
    check_clock(&answer, report)?;
    let versions = read_json(answer);
    let authenticated = versions.as_ref().is_some_and(supports_authenticated_media);
    if authenticated {
        report.say(Level::Ok, "versions", "clients use authenticated media")?;
    } else {
        let mend =
            "the homeserver does not announce v1.11; route /_matrix/client/versions here, or update it";
        report.say(Level::Warn, "versions", mend)?;
    }
    match key.map(|key| compare_published_key(&homeserver, &config.server_name, key)) {
        None => Ok(()),
        Some(Ok(Standing::Agrees)) => report.say(Level::Ok, "published key", "it is ours"),
        Some(Ok(Standing::Differs(what))) => report.say(Level::Fail, "published key", what),
        Some(Ok(Standing::Unknown(why)) | Err(why)) => {
            let finding =
                format!("cannot be seen ({why}); let homeserver.url serve /_matrix/key/v2/server too");
            report.say(Level::Warn, "published key", finding)
        }
    }
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
    let shown = path.display();
    if !path.exists() {
        return report.say(
            Level::Warn,
            "data directory",
            format!("{shown} is not there yet; serve makes it"),
        );
    }
    if let Err(error) = tempfile::tempfile_in(path) {
        let finding = format!("{shown} cannot be written ({error}); give it to the user the service runs as");
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

/// Whether the reverse proxy sends every path here, as it came, and keeps our own to itself.
fn check_proxy(
    config: &Config,
    key: &SigningKey,
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    let Surroundings { clock, monotonic, random, names, .. } = Surroundings::system();
    let limits = Limits { stall: TIMEOUT, total: Some(TIMEOUT) };
    // It is our own server that is asked: where it lies is the operator's affair.
    let ca_file = config.federation.ca_file.as_deref();
    let outbound = Outbound::new(Guard::permit_all(), ca_file, limits, Arc::clone(&names))?;
    let discovery = Discovery::new(outbound.clone(), names, (clock, monotonic), random);
    let for_servers = discovery.resolve(&config.server_name, None);
    let for_clients = client_endpoint(config, &outbound);

    let fingerprint = key.fingerprint(&config.server_name);
    for prefix in PROXY_PREFIXES {
        let is_federation = prefix.starts_with("/_matrix/federation/");
        let sides: &[&Endpoint] = match (is_federation, prefix) {
            (true, _) => &[&for_servers],
            (false, "/_matrix/media/") if for_servers.base_url != for_clients.base_url => {
                &[&for_clients, &for_servers]
            }
            (false, _) => &[&for_clients],
        };
        for endpoint in sides {
            let target = format!("{prefix}{PROBE}");
            let (level, finding) = judge_route(&outbound, endpoint, &target, &fingerprint);
            report.say(level, &format!("{}{prefix}", endpoint.base_url), finding)?;
        }
    }
    let versions = ask(&outbound, &for_clients, "/_matrix/client/versions").ok().and_then(read_json);
    match versions {
        Some(versions) if supports_authenticated_media(&versions) => {
            report.say(Level::Ok, "versions", "clients use authenticated media")?;
        }
        Some(_) => {
            let mend = "clients are not told of v1.11; route /_matrix/client/versions here, or update the homeserver";
            report.say(Level::Warn, "versions", mend)?;
        }
        None => {
            let finding =
                format!("{}/_matrix/client/versions does not answer; see to the proxy", for_clients.base_url);
            report.say(Level::Fail, "versions", finding)?;
        }
    }
    let mut sides = vec![&for_clients];
    sides.extend(Some(&for_servers).filter(|side| side.base_url != for_clients.base_url));
    let is_shown = |side: &&&Endpoint| {
        let health = ask(&outbound, side, "/_sidecar/health").ok().and_then(read_json);
        health.is_some_and(|health| health.get("database").is_some())
    };
    match sides.iter().find(is_shown) {
        Some(side) => {
            let finding = format!("everybody can see it at {}; do not let the proxy route it", side.base_url);
            report.say(Level::Fail, "/_sidecar/", finding)
        }
        None => report.say(Level::Ok, "/_sidecar/", "not routed"),
    }
}

/// Asks for a path below a prefix and judges who answers.
fn judge_route(outbound: &Outbound, endpoint: &Endpoint, target: &str, fingerprint: &str) -> (Level, String) {
    let answer = match ask(outbound, endpoint, target) {
        Ok(answer) => answer,
        Err(why) => {
            return (
                Level::Fail,
                format!("no answer ({why}); is the proxy running, and the name's address right?"),
            );
        }
    };
    let mark = answer.header(CHECK_HEADER).map(str::to_owned);
    match mark {
        Some(mark) if mark == check_value(fingerprint, target) => {
            (Level::Ok, "comes here as it was sent".to_owned())
        }
        Some(mark) if mark.starts_with(fingerprint) => (
            Level::Fail,
            "comes here changed; let the proxy pass the path as it is (nginx: proxy_pass without a path)"
                .to_owned(),
        ),
        Some(_) => {
            (Level::Fail, "goes to another media-sidecar, or this one runs with another key".to_owned())
        }
        None => (
            Level::Fail,
            format!("does not come here (status {}); see `media-sidecar proxy-config`", answer.status()),
        ),
    }
}

/// Where clients reach the server: what `/.well-known/matrix/client` says, else the server name itself.
fn client_endpoint(config: &Config, outbound: &Outbound) -> Endpoint {
    let own = format!("https://{}", config.server_name);
    let document =
        outbound.follow(&format!("{own}/.well-known/matrix/client"), None).ok().and_then(read_json);
    let base_url =
        document.as_ref().and_then(|document| document.get("m.homeserver")?.get("base_url")?.as_str());
    let base_url = base_url.unwrap_or(&own).trim_end_matches('/').to_owned();
    let host = base_url.split_once("://").map_or(base_url.as_str(), |(_, host)| host).to_owned();
    Endpoint { base_url, host, via: Vec::new() }
}

/// Asks an endpoint for a path.
fn ask(outbound: &Outbound, endpoint: &Endpoint, target: &str) -> Result<Answer, String> {
    let url = format!("{}{target}", endpoint.base_url);
    let get = Get { url: &url, headers: &[("Host", &endpoint.host)], via: &endpoint.via, within: None };
    outbound.get(&get).map_err(|error| error.to_string())
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
