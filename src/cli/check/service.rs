//! Checks the service itself at its `listen` addresses, so that a stopped service does not look like a problem of the proxy.

use std::io::Write;

use super::proxy::{PROBE, PublicView};
use super::report::{Level, Report};
use super::{Failure, HomeserverState, read_json};
use crate::config::{Config, ListenAddr, reachable};
use crate::error::in_words;
use crate::http::probe_header::{self, ProbeHeader};
use crate::outbound::{Outbound, OutboundError, OutboundRequest, OutboundResponse};

/// Whether the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceState {
    Running,
    /// It cannot be asked directly.
    Unknown,
    NotRunning,
}

/// Checks every address of `listen`.
pub(super) fn check(
    config: &Config,
    public_view: &PublicView,
    homeserver: HomeserverState,
    report: &mut Report<'_, impl Write>,
) -> Result<ServiceState, Failure> {
    let mut states = Vec::new();
    for address in &config.listen.addresses {
        states.push(check_address(address, public_view, homeserver, report)?);
    }
    let any = |state| states.contains(&state);
    Ok(match (any(ServiceState::Running), any(ServiceState::Unknown)) {
        (true, _) => ServiceState::Running,
        (false, true) => ServiceState::Unknown,
        (false, false) => ServiceState::NotRunning,
    })
}

fn check_address(
    address: &ListenAddr,
    public_view: &PublicView,
    homeserver: HomeserverState,
    report: &mut Report<'_, impl Write>,
) -> Result<ServiceState, Failure> {
    let (outbound, base_url) = match address {
        ListenAddr::Tcp(address) if address.port() == 0 => {
            let finding =
                format!("`listen: {address}` means any free port, so the service cannot be asked directly");
            report.say(Level::Warn, "service", finding)?;
            return Ok(ServiceState::Unknown);
        }
        ListenAddr::Tcp(address) => {
            (public_view.outbound().clone(), format!("http://{}", reachable(*address)))
        }
        ListenAddr::Unix(path) => {
            (public_view.outbound().clone().through_socket(path.clone()), "http://localhost".to_owned())
        }
    };
    let answer = match ask(&outbound, &format!("{base_url}/_matrix/media/{PROBE}")) {
        Ok(answer) => answer,
        Err(error) => return report_no_answer(address, &error, public_view, report),
    };
    let mark = answer.header(probe_header::NAME.as_str()).map(ProbeHeader::parse);
    let finding = match mark {
        None => {
            let finding = format!(
                "another program answers at {address} (status {}); stop it, or change `listen`",
                answer.status()
            );
            report.say(Level::Fail, "service", finding)?;
            return Ok(ServiceState::NotRunning);
        }
        Some(None) => format!(
            "another version of media-sidecar runs at {address}; restart it (`systemctl restart media-sidecar`)"
        ),
        Some(Some(mark)) if mark.fingerprint != public_view.fingerprint() => {
            format!(
                "the media-sidecar at {address} runs with another key or server_name; restart it (`systemctl restart media-sidecar`)"
            )
        }
        Some(Some(_)) => {
            let Some(why) = health_problems(&outbound, &base_url, homeserver) else {
                report.say(Level::Ok, "service", format!("running at {address}"))?;
                return Ok(ServiceState::Running);
            };
            format!("running at {address}, but failing: {why}")
        }
    };
    report.say(Level::Fail, "service", finding)?;
    Ok(ServiceState::Running)
}

/// Reports an address without an answer. With systemd's sockets `listen` may be another address: then the proxy's route shows that the service
/// runs.
fn report_no_answer(
    address: &ListenAddr,
    why: &OutboundError,
    public_view: &PublicView,
    report: &mut Report<'_, impl Write>,
) -> Result<ServiceState, Failure> {
    if let ListenAddr::Unix(path) = address
        && rustix::fs::access(path, rustix::fs::Access::WRITE_OK)
            .is_err_and(|why| why == rustix::io::Errno::ACCESS)
    {
        let finding = format!("this user may not connect to {address}; run `check` as root");
        report.say(Level::Warn, "service", finding)?;
        return Ok(ServiceState::Unknown);
    }
    if public_view.is_reached() {
        let finding = format!(
            "no answer at {address}, but the service runs; if systemd opens its socket, set `listen` to that socket"
        );
        report.say(Level::Warn, "service", finding)?;
        return Ok(ServiceState::Running);
    }
    let finding =
        format!("no answer at {address} ({}); start it (`systemctl start media-sidecar`)", in_words(why));
    report.say(Level::Fail, "service", finding)?;
    Ok(ServiceState::NotRunning)
}

/// The failing parts of its health that were not reported yet.
fn health_problems(outbound: &Outbound, base_url: &str, homeserver: HomeserverState) -> Option<String> {
    let answer = match ask(outbound, &format!("{base_url}/_sidecar/health")) {
        Ok(answer) if answer.status() == 200 => return None,
        Ok(answer) => answer,
        Err(error) => return Some(format!("its health cannot be read ({})", in_words(&error))),
    };
    let status = answer.status();
    let Some(health) = read_json(answer) else { return Some(format!("its health has status {status}")) };
    let parts = ["database", "blobs", "homeserver"].into_iter();
    let told =
        parts.filter(|part| *part != "homeserver" || matches!(homeserver, HomeserverState::Well { .. }));
    let ill: Vec<_> = told
        .filter_map(|part| {
            let reason = health.get(part)?.as_str()?;
            (reason != "ok").then(|| format!("{part}: {reason}"))
        })
        .collect();
    (!ill.is_empty()).then(|| ill.join("; "))
}

fn ask(outbound: &Outbound, url: &str) -> Result<OutboundResponse, OutboundError> {
    outbound.get(&OutboundRequest { url, headers: &[], via: &[], timeout: None })
}
