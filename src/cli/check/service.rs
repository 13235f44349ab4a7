//! Whether the service itself runs, asked where it listens: one that does not run must not look like a fault of the proxy.

use std::io::Write;

use super::proxy::{Outside, PROBE};
use super::report::{Level, Report};
use super::{Failure, Neighbour, read_json};
use crate::config::{Config, ListenAddr, reachable};
use crate::error::in_words;
use crate::http::probe_header::{self, ProbeHeader};
use crate::outbound::{Answer, Get, Outbound, OutboundError};

/// What is known of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It answers.
    Runs,
    /// It cannot be asked directly.
    Unknown,
    /// Nobody answers.
    Silent,
}

/// Looks at every address of `listen`.
pub(super) fn check(
    config: &Config,
    outside: &Outside,
    homeserver: Neighbour,
    report: &mut Report<'_, impl Write>,
) -> Result<State, Failure> {
    let mut states = Vec::new();
    for address in &config.listen.addresses {
        states.push(check_address(address, outside, homeserver, report)?);
    }
    let any = |state| states.contains(&state);
    Ok(match (any(State::Runs), any(State::Unknown)) {
        (true, _) => State::Runs,
        (false, true) => State::Unknown,
        (false, false) => State::Silent,
    })
}

/// Looks at one address.
fn check_address(
    address: &ListenAddr,
    outside: &Outside,
    homeserver: Neighbour,
    report: &mut Report<'_, impl Write>,
) -> Result<State, Failure> {
    let (outbound, base_url) = match address {
        ListenAddr::Tcp(address) if address.port() == 0 => {
            let finding =
                format!("`listen: {address}` stands for any free port, so it cannot be asked directly");
            report.say(Level::Warn, "service", finding)?;
            return Ok(State::Unknown);
        }
        ListenAddr::Tcp(address) => (outside.outbound().clone(), format!("http://{}", reachable(*address))),
        ListenAddr::Unix(path) => {
            (outside.outbound().clone().through_socket(path.clone()), "http://localhost".to_owned())
        }
    };
    let answer = match ask(&outbound, &format!("{base_url}/_matrix/media/{PROBE}")) {
        Ok(answer) => answer,
        Err(error) => return tell_silence(address, &error, outside, report),
    };
    let mark = answer.header(probe_header::NAME.as_str()).map(ProbeHeader::parse);
    let finding = match mark {
        None => {
            let finding = format!(
                "another program answers at {address} (status {}); stop it, or set `listen`",
                answer.status()
            );
            report.say(Level::Fail, "service", finding)?;
            return Ok(State::Silent);
        }
        Some(None) => format!(
            "another version of media-sidecar runs at {address}; restart it (`systemctl restart media-sidecar`)"
        ),
        Some(Some(mark)) if mark.fingerprint != outside.fingerprint() => {
            format!(
                "what runs at {address} has another key or server_name than this configuration; restart it (`systemctl restart media-sidecar`)"
            )
        }
        Some(Some(_)) => {
            let Some(why) = ailments(&outbound, &base_url, homeserver) else {
                report.say(Level::Ok, "service", format!("it runs at {address}"))?;
                return Ok(State::Runs);
            };
            format!("it runs at {address} and is not well: {why}")
        }
    };
    report.say(Level::Fail, "service", finding)?;
    Ok(State::Runs)
}

/// Tells of an address where nobody answers. Sockets of systemd's may be elsewhere: what comes through the proxy runs.
fn tell_silence(
    address: &ListenAddr,
    why: &OutboundError,
    outside: &Outside,
    report: &mut Report<'_, impl Write>,
) -> Result<State, Failure> {
    if let ListenAddr::Unix(path) = address
        && rustix::fs::access(path, rustix::fs::Access::WRITE_OK)
            .is_err_and(|why| why == rustix::io::Errno::ACCESS)
    {
        let finding = format!("this user may not use {address}; run `check` as root");
        report.say(Level::Warn, "service", finding)?;
        return Ok(State::Unknown);
    }
    if outside.is_reached() {
        let finding = format!(
            "nobody answers at {address}, and yet it runs; if systemd holds its socket, name that as `listen`"
        );
        report.say(Level::Warn, "service", finding)?;
        return Ok(State::Runs);
    }
    let finding = format!(
        "nobody answers at {address} ({}); start it (`systemctl start media-sidecar`)",
        in_words(why)
    );
    report.say(Level::Fail, "service", finding)?;
    Ok(State::Silent)
}

/// What its health says that was not told yet.
fn ailments(outbound: &Outbound, base_url: &str, homeserver: Neighbour) -> Option<String> {
    let answer = match ask(outbound, &format!("{base_url}/_sidecar/health")) {
        Ok(answer) if answer.status() == 200 => return None,
        Ok(answer) => answer,
        Err(error) => return Some(format!("its health is not told ({})", in_words(&error))),
    };
    let status = answer.status();
    let Some(health) = read_json(answer) else { return Some(format!("its health answers {status}")) };
    let parts = ["database", "blobs", "homeserver"].into_iter();
    let told = parts.filter(|part| *part != "homeserver" || matches!(homeserver, Neighbour::Well { .. }));
    let ill: Vec<_> = told
        .filter_map(|part| {
            let reason = health.get(part)?.as_str()?;
            (reason != "ok").then(|| format!("{part}: {reason}"))
        })
        .collect();
    (!ill.is_empty()).then(|| ill.join("; "))
}

/// Asks the service.
fn ask(outbound: &Outbound, url: &str) -> Result<Answer, OutboundError> {
    outbound.get(&Get { url, headers: &[], via: &[], within: None })
}
