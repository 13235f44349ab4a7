//! Checks the reverse proxy from outside: every media path reaches the sidecar unchanged, large bodies pass, `/_sidecar/` is not routed.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::report::{Causes, CheckProblem, Level, Report};
use super::service::ServiceState;
use super::{Failure, HomeserverState, read_json, supports_authenticated_media};
use crate::app::Environment;
use crate::cli::delegation::Delegation;
use crate::config::{Config, Size};
use crate::error::in_words;
use crate::federation::{ServerAddress, SigningKey};
use crate::http::probe_header::{self, ProbeHeader};
use crate::outbound::{CaFile, Guard, Outbound, OutboundError, OutboundRequest, OutboundResponse, Timeouts};
use crate::server::PROXY_PREFIXES;

/// Longest wait for each answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A path below each prefix that no route has, with escapes that a proxy may be tempted to normalise.
pub(super) const PROBE: &str = "media-sidecar-check/no/route/a%2Fb%20c?d=%C3%A9";

/// Length of the body that is sent, bytes: above nginx's default limit of 1 MiB.
const BODY: usize = 1_100_000;

/// Prefixes below which clients upload.
const UPLOAD_PREFIXES: [&str; 3] =
    ["/_matrix/media/", "/_matrix/client/r0/media/", "/_matrix/client/unstable/org.matrix.msc1902/media/"];

/// An access token that is not valid.
const BEARER: &str = "Bearer media-sidecar-check";

const BODY_TYPE: &str = "application/x-media-sidecar-check";

/// The `Origin` of a browser's request.
const ORIGIN: &str = "https://media-sidecar-check.invalid";

/// This server as others see it.
pub(super) struct PublicView {
    /// Without address checks: our own server may be at a private address.
    outbound: Outbound,
    /// The fingerprint that our sidecar's probe header carries.
    fingerprint: String,
    /// An X-Matrix signature that is not valid.
    x_matrix: String,
    max_upload: Size,
    delegation: Delegation,
}

/// A host and port where clients or servers, or both, connect.
struct EntryPoint<'a> {
    endpoint: &'a ServerAddress,
    /// The path prefixes that are requested there.
    prefixes: Vec<&'static str>,
    /// Whether clients connect there.
    for_clients: bool,
}

impl PublicView {
    /// Resolves the server name.
    pub(super) fn find(config: &Config, key: &SigningKey) -> Result<Self, Failure> {
        let timeouts = Timeouts { stall: TIMEOUT, total: Some(TIMEOUT) };
        let ca_file =
            config.federation.ca_file.as_deref().map(|path| CaFile { key: "federation.ca_file", path });
        let dns = Environment::system().dns;
        let outbound = Outbound::new(Guard::permit_all(), ca_file, timeouts, Arc::clone(&dns))?;
        let delegation = Delegation::find(config, &outbound, dns);
        let x_matrix = format!(
            "X-Matrix origin=\"check.invalid\",destination=\"{}\",key=\"ed25519:check\",sig=\"AA\"",
            config.server_name
        );
        let fingerprint = key.fingerprint(&config.server_name);
        Ok(Self { outbound, fingerprint, x_matrix, max_upload: config.uploads.max_size, delegation })
    }

    pub(super) fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// The fingerprint that our sidecar's probe header carries.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether our sidecar answers at any entry point.
    pub(super) fn is_reached(&self) -> bool {
        self.entry_points().iter().any(|entry_point| {
            let prefix = entry_point.prefixes.first().copied().unwrap_or_default();
            let answer = self.get(entry_point.endpoint, &format!("{prefix}{PROBE}"), &[]).ok();
            let arrived = answer
                .and_then(|answer| answer.header(probe_header::NAME.as_str()).and_then(ProbeHeader::parse));
            arrived.is_some_and(|arrived| arrived.fingerprint == self.fingerprint)
        })
    }

    /// The entry points: one for all, or one for clients and one for servers. Old servers use the legacy paths.
    fn entry_points(&self) -> Vec<EntryPoint<'_>> {
        let Delegation { servers, clients, .. } = &self.delegation;
        if self.delegation.is_one() {
            return vec![EntryPoint {
                endpoint: clients,
                prefixes: PROXY_PREFIXES.to_vec(),
                for_clients: true,
            }];
        }
        let (federation, client): (Vec<_>, Vec<_>) =
            PROXY_PREFIXES.iter().copied().partition(|prefix| is_federation(prefix));
        let federation = [vec!["/_matrix/media/"], federation].concat();
        vec![
            EntryPoint { endpoint: clients, prefixes: client, for_clients: true },
            EntryPoint { endpoint: servers, prefixes: federation, for_clients: false },
        ]
    }

    fn get(
        &self,
        endpoint: &ServerAddress,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<OutboundResponse, OutboundError> {
        with(endpoint, target, headers, |get| self.outbound.get(get))
    }
}

/// Calls `ask` with a request for `target` at an endpoint.
fn with<T>(
    endpoint: &ServerAddress,
    target: &str,
    headers: &[(&str, &str)],
    ask: impl FnOnce(&OutboundRequest<'_>) -> T,
) -> T {
    let url = format!("{}{target}", endpoint.base_url);
    let headers = [&[("Host", endpoint.host.as_str())], headers].concat();
    ask(&OutboundRequest { url: &url, headers: &headers, via: &endpoint.via, timeout: None })
}

/// The answer of an entry point to `/_matrix/client/versions`.
enum VersionsAnswer {
    /// A JSON document.
    Versions(Value),
    /// Not JSON.
    Other,
    /// None, and its cause was reported already.
    Reported,
}

/// Checks the proxy, if the service behind it runs.
pub(super) fn check(
    config: &Config,
    public_view: &PublicView,
    (state, homeserver): (ServiceState, HomeserverState),
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    if state == ServiceState::NotRunning {
        let finding = "not checked while the service does not run; start it, then run `check` again";
        return report.say(Level::Warn, "proxy", finding);
    }
    report_delegation(config, public_view, report)?;
    let (mut unanswered, mut causes, mut open) = (Causes::default(), Causes::default(), Vec::new());
    for entry_point in public_view.entry_points() {
        match public_view.get(entry_point.endpoint, "/_matrix/client/versions", &[]) {
            Err(error) => unanswered.add(
                describe_no_answer(&error, entry_point.endpoint).into(),
                entry_point.endpoint.base_url.clone(),
            ),
            Ok(answer) => {
                // Read at once: the answer's deadline runs while other requests are made.
                let (status, versions) = (answer.status(), read_json(answer));
                check_entry_point(public_view, &entry_point, &mut causes, report)?;
                // A proxy that reaches nothing is reported with its paths.
                let is_told = matches!(status, 502..=504) && !causes.is_empty();
                open.push((
                    entry_point.endpoint,
                    if is_told {
                        VersionsAnswer::Reported
                    } else {
                        versions.map_or(VersionsAnswer::Other, VersionsAnswer::Versions)
                    },
                ));
            }
        }
    }
    unanswered.tell(report)?;
    causes.tell(report)?;
    report_versions(public_view, homeserver, &open, report)?;
    let is_routed = |endpoint: &ServerAddress| {
        let health = public_view.get(endpoint, "/_sidecar/health", &[]).ok().and_then(read_json);
        health.is_some_and(|health| health.get("database").is_some())
    };
    match open.iter().find(|(endpoint, _)| is_routed(endpoint)) {
        Some((endpoint, _)) => {
            let finding =
                format!("reachable by everyone at {}; do not route it in the proxy", endpoint.base_url);
            report.say(Level::Fail, "/_sidecar/", finding)
        }
        None if open.is_empty() => report.say(Level::Warn, "/_sidecar/", "not checked: no proxy answered"),
        None => report.say(Level::Ok, "/_sidecar/", "not routed"),
    }
}

/// Reports where the name is delegated to, and problems of the well-known documents.
fn report_delegation(
    config: &Config,
    public_view: &PublicView,
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    let delegation = &public_view.delegation;
    for problem in &delegation.problems {
        report.say(Level::Fail, "delegation", problem)?;
    }
    if delegation.leads_elsewhere(&config.server_name) && delegation.problems.is_empty() {
        let (servers, clients) = (&delegation.servers.base_url, &delegation.clients.base_url);
        report.say(Level::Ok, "delegation", format!("servers go to {servers}, clients to {clients}"))?;
    }
    Ok(())
}

/// Reports whether clients use authenticated media: by the answer they see, else by the homeserver's own.
fn report_versions(
    public_view: &PublicView,
    homeserver: HomeserverState,
    open: &[(&ServerAddress, VersionsAnswer)],
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    let clients = &public_view.delegation.clients.base_url;
    let seen = open.iter().find(|(endpoint, _)| endpoint.base_url == *clients).map(|(_, seen)| seen);
    let is_led = match (seen, homeserver) {
        (Some(VersionsAnswer::Versions(versions)), _) => supports_authenticated_media(versions),
        (Some(VersionsAnswer::Reported), _)
        | (Some(VersionsAnswer::Other) | None, HomeserverState::Failing) => return Ok(()),
        (Some(VersionsAnswer::Other), HomeserverState::Well { .. }) => {
            let finding =
                format!("{clients}/_matrix/client/versions is not the homeserver's answer; check the proxy");
            return report.say(Level::Fail, "versions", finding);
        }
        (None, HomeserverState::Well { announces }) => announces,
    };
    if is_led {
        return report.say(Level::Ok, "versions", "clients use authenticated media");
    }
    let fix = "clients are not told that v1.11 is supported; route /_matrix/client/versions to media-sidecar, or update the homeserver";
    report.say(Level::Warn, "versions", fix)
}

/// Checks every path prefix of one entry point. Reports those that are fine; adds the problems of the others to `causes`.
fn check_entry_point(
    public_view: &PublicView,
    entry_point: &EntryPoint<'_>,
    causes: &mut Causes,
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    for prefix in &entry_point.prefixes {
        let place = format!("{}{prefix}", entry_point.endpoint.base_url);
        let mut problems = match public_view.probe_get(entry_point.endpoint, prefix) {
            Ok(problems) => problems,
            // A path that does not reach us needs no further checks.
            Err(stray) => {
                causes.add(stray, place);
                continue;
            }
        };
        if entry_point.for_clients && UPLOAD_PREFIXES.contains(prefix) {
            problems.extend(public_view.probe_body(entry_point.endpoint, prefix));
            problems.extend(public_view.probe_preflight(entry_point.endpoint, prefix));
            if problems.is_empty() {
                problems.extend(public_view.probe_length(entry_point.endpoint, prefix));
            }
        }
        if problems.is_empty() {
            report.say(Level::Ok, &place, "reaches media-sidecar unchanged")?;
        }
        for problem in problems {
            causes.add(problem, place.clone());
        }
    }
    Ok(())
}

impl PublicView {
    /// Requests a path below a prefix with every header that matters; returns what arrived changed.
    ///
    /// # Errors
    /// Why the request did not reach our sidecar.
    fn probe_get(&self, endpoint: &ServerAddress, prefix: &str) -> Result<Vec<CheckProblem>, CheckProblem> {
        let target = format!("{prefix}{PROBE}");
        let credential = if is_federation(prefix) { &self.x_matrix } else { BEARER };
        let headers = [
            ("Authorization", credential),
            ("Range", "bytes=0-1"),
            ("If-None-Match", "\"media-sidecar-check\""),
            ("If-Range", "\"media-sidecar-check\""),
            ("If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT"),
            ("Origin", ORIGIN),
        ];
        let answer = self.get(endpoint, &target, &headers).map_err(|error| {
            CheckProblem::from(format!("no answer ({}); check the proxy", in_words(&error)))
        })?;
        let arrived = self.our_probe_header(&answer)?;
        let mut problems = Vec::new();
        if !arrived.has_target(&target) {
            problems.push(
                "reaches media-sidecar changed; let the proxy pass the path unchanged (nginx: proxy_pass without a path)"
                    .into(),
            );
        }
        if arrived.version != "HTTP/1.1" {
            problems.push(format!(
                "reaches media-sidecar as {}, which delays remote media until all of it is stored; let the proxy speak HTTP/1.1 (nginx: proxy_http_version 1.1)",
                arrived.version
            ).into());
        }
        let sent = headers.iter().filter(|(name, _)| *name != "Origin");
        let lost: Vec<_> =
            sent.filter(|(name, value)| !arrived.has_header(name, value)).map(|(name, _)| *name).collect();
        if !lost.is_empty() {
            problems.push(
                format!(
                    "arrives with changed or missing headers: {}; let the proxy pass them on unchanged",
                    lost.join(", ")
                )
                .into(),
            );
        }
        problems.extend(cors_problem(&answer));
        Ok(problems)
    }

    /// Uploads a body larger than the default limit of proxies.
    fn probe_body(&self, endpoint: &ServerAddress, prefix: &str) -> Option<CheckProblem> {
        let target = format!("{prefix}{PROBE}");
        let headers = [("Authorization", BEARER), ("Content-Type", BODY_TYPE)];
        let body = vec![0; BODY];
        let fix = "set no limit there, media-sidecar has its own (nginx: client_max_body_size 0)";
        let answer = match with(endpoint, &target, &headers, |get| self.outbound.post(get, &body)) {
            Ok(answer) => answer,
            Err(error) => {
                return Some(format!("an upload of 1.1 MB is aborted ({}); {fix}", in_words(&error)).into());
            }
        };
        match self.our_probe_header(&answer) {
            Ok(arrived) if arrived.has_header("Content-Type", BODY_TYPE) => None,
            Ok(_) => Some(
                "an upload arrives with a changed or missing Content-Type; let the proxy pass it on unchanged"
                    .into(),
            ),
            Err(_) if answer.status() == 413 => {
                Some(format!("an upload of 1.1 MB is too large for the proxy (status 413); {fix}").into())
            }
            Err(_) => Some(format!(
                "an upload of 1.1 MB does not reach media-sidecar (status {}); let the proxy pass on POST and PUT of any size",
                answer.status()
            ).into()),
        }
    }

    /// Announces an upload of `uploads.max_size`.
    fn probe_length(&self, endpoint: &ServerAddress, prefix: &str) -> Option<CheckProblem> {
        let target = format!("{prefix}{PROBE}");
        let headers = [("Authorization", BEARER), ("Content-Type", BODY_TYPE)];
        let length = self.max_upload.0;
        let answer =
            with(endpoint, &target, &headers, |get| self.outbound.expect_continue(get, length)).ok()??;
        let is_refused = answer.status() == 413 && self.our_probe_header(&answer).is_err();
        is_refused.then(|| {
            format!(
                "an upload of uploads.max_size, {}, is too large for the proxy (status 413); set no limit there, media-sidecar \
                 has its own (nginx: client_max_body_size 0)",
                self.max_upload
            ).into()
        })
    }

    /// Sends the preflight request that browsers send before an upload.
    fn probe_preflight(&self, endpoint: &ServerAddress, prefix: &str) -> Option<CheckProblem> {
        let headers = [
            ("Origin", ORIGIN),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ];
        let target = format!("{prefix}{PROBE}");
        let answer = with(endpoint, &target, &headers, |get| self.outbound.options(get)).ok()?;
        let origins = answer.header_list("access-control-allow-origin");
        let is_granted = (200..300).contains(&answer.status()) && matches!(*origins, ["*" | ORIGIN]);
        (!is_granted).then(|| {
            format!("browsers cannot upload: the proxy answers OPTIONS itself (status {}); let it pass OPTIONS on", answer.status()).into()
        })
    }

    /// The probe header of our own sidecar.
    ///
    /// # Errors
    /// Who answered instead.
    fn our_probe_header(&self, answer: &OutboundResponse) -> Result<ProbeHeader, CheckProblem> {
        let status = answer.status();
        match answer.header(probe_header::NAME.as_str()).map(ProbeHeader::parse) {
            Some(Some(arrived)) if arrived.fingerprint == self.fingerprint => Ok(arrived),
            Some(Some(_)) => {
                Err("reaches another media-sidecar, or one that runs with another key".into())
            }
            Some(None) => Err("reaches another version of media-sidecar; restart the service".into()),
            None if matches!(status, 502..=504) => Err(format!(
                "the proxy does not reach media-sidecar (status {status}); let it connect to what `listen` names, see `media-sidecar proxy-config`"
            ).into()),
            None => Err(format!(
                "does not reach media-sidecar (status {status}); see `media-sidecar proxy-config`"
            ).into()),
        }
    }
}

/// The problem of the CORS headers, if any.
fn cors_problem(answer: &OutboundResponse) -> Option<CheckProblem> {
    let origins = answer.header_list("access-control-allow-origin");
    let exposed = answer.header_list("access-control-expose-headers");
    if origins.len() > 1 {
        return Some(
            "answers arrive with Access-Control-Allow-Origin twice, which browsers refuse; let the proxy add no CORS headers"
                .into(),
        );
    }
    let is_exposed =
        exposed.iter().any(|name| *name == "*" || name.eq_ignore_ascii_case("content-disposition"));
    (origins != ["*"] || !is_exposed).then(|| {
        "answers arrive without Access-Control-Allow-Origin or Access-Control-Expose-Headers (Content-Disposition), which \
         browsers need; let the proxy pass them on unchanged"
            .into()
    })
}

/// Why an entry point does not answer, and how to fix it.
fn describe_no_answer(error: &OutboundError, endpoint: &ServerAddress) -> String {
    let why = in_words(error);
    match error {
        OutboundError::Unresolved => "the name has no address; check its DNS records".into(),
        OutboundError::Tls(cause) => describe_tls_failure(cause),
        OutboundError::Timeout => {
            "no answer in time; is the address right, and does a firewall block it?".into()
        }
        OutboundError::Malformed(_) => {
            format!("the answer is not HTTP ({why}); check what listens there")
        }
        OutboundError::Denied(_) | OutboundError::Redirect(_) | OutboundError::Failed(_) => {
            let is_default = endpoint.base_url.ends_with(":8448");
            let hint = if is_default {
                ", which servers use unless /.well-known/matrix/server names another port"
            } else {
                ""
            };
            format!("no answer ({why}); is the proxy running, and does it listen there{hint}?")
        }
    }
}

/// The problem of the certificate or of TLS, in plain words.
fn describe_tls_failure(cause: &str) -> String {
    let told = |word: &str| cause.contains(word);
    if told("UnknownIssuer") {
        "its certificate is not from a public certificate authority; use one that is, or, in a private federation, name the \
         authority's file in federation.ca_file"
            .into()
    } else if told("CaUsedAsEndEntity") {
        "its certificate is a CA certificate, which clients refuse from a server; use one that the CA issued for the server's name".into()
    } else if told("expired") || told("Expired") {
        "its certificate has expired; renew it and reload the proxy".into()
    } else if told("not valid yet") || told("NotValidYet") {
        "its certificate is not valid yet; check the clock".into()
    } else if told("not valid for") || told("NotValidForName") {
        "its certificate is for another name; use one that contains this name".into()
    } else {
        format!("TLS failed ({cause}); check the proxy's certificate, and whether it speaks TLS on this port")
    }
}

/// Whether a path is a federation path, which servers sign.
fn is_federation(prefix: &str) -> bool {
    prefix.starts_with("/_matrix/federation/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Endpoint, ROUTES};

    #[test]
    fn uploads_are_tried_below_every_prefix_that_has_them() {
        let uploads = ROUTES
            .iter()
            .filter(|row| matches!(row.endpoint, Endpoint::Upload | Endpoint::Create | Endpoint::UploadInto));
        for path in uploads.flat_map(|row| row.cells).map(|(_, path)| path).filter(|path| !path.is_empty()) {
            assert!(UPLOAD_PREFIXES.iter().any(|prefix| path.starts_with(prefix)), "{path}");
        }
        assert!(UPLOAD_PREFIXES.iter().all(|prefix| PROXY_PREFIXES.contains(prefix)));
    }

    #[test]
    fn faults_of_certificates_are_told_in_words() {
        for (cause, words) in [
            ("invalid peer certificate: UnknownIssuer", "not from a public certificate authority"),
            ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "is a CA certificate"),
            ("invalid peer certificate: certificate expired: verification time 1 (UNIX)", "has expired"),
            ("invalid peer certificate: certificate not valid yet: verification time", "check the clock"),
            ("invalid peer certificate: certificate not valid for name \"a\"", "is for another name"),
            ("received corrupt message of type InvalidContentType", "whether it speaks TLS on this port"),
        ] {
            assert!(describe_tls_failure(cause).contains(words), "{cause}");
        }
    }
}
