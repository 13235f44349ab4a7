//! Whether the reverse proxy sends every path here, as it came, lets large bodies through, and keeps our own paths to itself.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::report::{Causes, Level, Report};
use super::service::State;
use super::{Failure, Neighbour, read_json, supports_authenticated_media};
use crate::app::Environment;
use crate::cli::delegation::Delegation;
use crate::config::{Config, Size};
use crate::error::in_words;
use crate::federation::{Endpoint, SigningKey};
use crate::http::probe_header::{self, ProbeHeader};
use crate::outbound::{Answer, Get, Guard, Limits, Outbound, OutboundError};
use crate::server::PROXY_PREFIXES;

/// Longest wait for each answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A path below each prefix that is nothing here and that a proxy may be tempted to tidy.
pub(super) const PROBE: &str = "media-sidecar-check/a%2Fb%20c?d=%C3%A9";

/// Length of the body that is sent, bytes: more than the 1 MiB that nginx lets through unless told otherwise.
const BODY: usize = 1_100_000;

/// Prefixes below which clients upload.
const UPLOAD_PREFIXES: [&str; 3] =
    ["/_matrix/media/", "/_matrix/client/r0/media/", "/_matrix/client/unstable/org.matrix.msc1902/media/"];

/// A client's token, which is none.
const BEARER: &str = "Bearer media-sidecar-check";

/// Type of the body.
const BODY_TYPE: &str = "application/x-media-sidecar-check";

/// The page that a browser's request comes from.
const ORIGIN: &str = "https://media-sidecar-check.invalid";

/// The doors of this server, as others find them.
pub(super) struct Outside {
    /// To anywhere: it is our own server that is asked, and where it lies is the operator's affair.
    outbound: Outbound,
    /// Whose sidecar should answer.
    fingerprint: String,
    /// A server's signature, which is none.
    x_matrix: String,
    /// The largest upload.
    max_upload: Size,
    /// Where the name leads.
    delegation: Delegation,
}

/// A place where clients or servers, or both, come in.
struct Door<'a> {
    /// Where it is.
    endpoint: &'a Endpoint,
    /// What is asked for there.
    prefixes: Vec<&'static str>,
    /// Whether clients come in there.
    for_clients: bool,
}

impl Outside {
    /// Looks where the server's name leads.
    pub(super) fn find(config: &Config, key: &SigningKey) -> Result<Self, Failure> {
        let limits = Limits { stall: TIMEOUT, total: Some(TIMEOUT) };
        let ca_file = config.federation.ca_file.as_deref().map(|path| ("federation.ca_file", path));
        let names = Environment::system().names;
        let outbound = Outbound::new(Guard::permit_all(), ca_file, limits, Arc::clone(&names))?;
        let delegation = Delegation::find(config, &outbound, names);
        let x_matrix = format!(
            "X-Matrix origin=\"check.invalid\",destination=\"{}\",key=\"ed25519:check\",sig=\"AA\"",
            config.server_name
        );
        let fingerprint = key.fingerprint(&config.server_name);
        Ok(Self { outbound, fingerprint, x_matrix, max_upload: config.uploads.max_size, delegation })
    }

    /// What asks.
    pub(super) fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// Whose sidecar should answer.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether our sidecar answers at any door.
    pub(super) fn is_reached(&self) -> bool {
        self.doors().iter().any(|door| {
            let prefix = door.prefixes.first().copied().unwrap_or_default();
            let answer = self.get(door.endpoint, &format!("{prefix}{PROBE}"), &[]).ok();
            let mark = answer
                .and_then(|answer| answer.header(probe_header::NAME.as_str()).and_then(ProbeHeader::parse));
            mark.is_some_and(|mark| mark.fingerprint == self.fingerprint)
        })
    }

    /// The doors: one for all, or one for clients and one for servers, old ones of which use the old paths.
    fn doors(&self) -> Vec<Door<'_>> {
        let Delegation { servers, clients, .. } = &self.delegation;
        if self.delegation.is_one() {
            return vec![Door { endpoint: clients, prefixes: PROXY_PREFIXES.to_vec(), for_clients: true }];
        }
        let (federation, client): (Vec<_>, Vec<_>) =
            PROXY_PREFIXES.iter().copied().partition(|prefix| is_federation(prefix));
        let federation = [vec!["/_matrix/media/"], federation].concat();
        vec![
            Door { endpoint: clients, prefixes: client, for_clients: true },
            Door { endpoint: servers, prefixes: federation, for_clients: false },
        ]
    }

    /// Asks an endpoint for a path.
    fn get(
        &self,
        endpoint: &Endpoint,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, OutboundError> {
        with(endpoint, target, headers, |get| self.outbound.get(get))
    }
}

/// One question to an endpoint.
fn with<T>(
    endpoint: &Endpoint,
    target: &str,
    headers: &[(&str, &str)],
    ask: impl FnOnce(&Get<'_>) -> T,
) -> T {
    let url = format!("{}{target}", endpoint.base_url);
    let headers = [&[("Host", endpoint.host.as_str())], headers].concat();
    ask(&Get { url: &url, headers: &headers, via: &endpoint.via, within: None })
}

/// What a door says at `/_matrix/client/versions`.
enum Seen {
    /// What a homeserver says.
    Versions(Value),
    /// Something else.
    Nonsense,
    /// Nothing that was not told already.
    Told,
}

/// Judges the proxy, if there is something behind it.
pub(super) fn check(
    config: &Config,
    outside: &Outside,
    (state, homeserver): (State, Neighbour),
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    if state == State::Silent {
        let finding = "not looked at while the service does not run; start it, then run `check` again";
        return report.say(Level::Warn, "proxy", finding);
    }
    tell_delegation(config, outside, report)?;
    let (mut silent, mut causes, mut open) = (Causes::default(), Causes::default(), Vec::new());
    for door in outside.doors() {
        match outside.get(door.endpoint, "/_matrix/client/versions", &[]) {
            Err(error) => silent.add(mend_of_silence(&error, door.endpoint), door.endpoint.base_url.clone()),
            Ok(answer) => {
                // Read at once: the time for an answer goes on while others are asked for.
                let (status, versions) = (answer.status(), read_json(answer));
                check_door(outside, &door, &mut causes, report)?;
                // A proxy that reaches nobody was told of by its paths.
                let is_told = matches!(status, 502..=504) && !causes.is_empty();
                open.push((
                    door.endpoint,
                    if is_told { Seen::Told } else { versions.map_or(Seen::Nonsense, Seen::Versions) },
                ));
            }
        }
    }
    silent.tell(report)?;
    causes.tell(report)?;
    tell_versions(outside, homeserver, &open, report)?;
    let is_shown = |endpoint: &Endpoint| {
        let health = outside.get(endpoint, "/_sidecar/health", &[]).ok().and_then(read_json);
        health.is_some_and(|health| health.get("database").is_some())
    };
    match open.iter().find(|(endpoint, _)| is_shown(endpoint)) {
        Some((endpoint, _)) => {
            let finding =
                format!("everybody can see it at {}; do not let the proxy route it", endpoint.base_url);
            report.say(Level::Fail, "/_sidecar/", finding)
        }
        None if open.is_empty() => {
            report.say(Level::Warn, "/_sidecar/", "whether it is routed cannot be seen: nobody answered")
        }
        None => report.say(Level::Ok, "/_sidecar/", "not routed"),
    }
}

/// Tells where the name leads, if that is elsewhere, and what is wrong with the documents that say so.
fn tell_delegation(
    config: &Config,
    outside: &Outside,
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    let delegation = &outside.delegation;
    for fault in &delegation.faults {
        report.say(Level::Fail, "delegation", fault)?;
    }
    if delegation.leads_elsewhere(&config.server_name) && delegation.faults.is_empty() {
        let (servers, clients) = (&delegation.servers.base_url, &delegation.clients.base_url);
        report.say(Level::Ok, "delegation", format!("servers go to {servers}, clients to {clients}"))?;
    }
    Ok(())
}

/// Tells whether clients are led to authenticated media, by what they see, or else by what the homeserver says.
fn tell_versions(
    outside: &Outside,
    homeserver: Neighbour,
    open: &[(&Endpoint, Seen)],
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    let clients = &outside.delegation.clients.base_url;
    let seen = open.iter().find(|(endpoint, _)| endpoint.base_url == *clients).map(|(_, seen)| seen);
    let is_led = match (seen, homeserver) {
        (Some(Seen::Versions(versions)), _) => supports_authenticated_media(versions),
        (Some(Seen::Told), _) | (Some(Seen::Nonsense) | None, Neighbour::Unwell) => return Ok(()),
        (Some(Seen::Nonsense), Neighbour::Well { .. }) => {
            let finding =
                format!("{clients}/_matrix/client/versions is not the homeserver's; see to the proxy");
            return report.say(Level::Fail, "versions", finding);
        }
        (None, Neighbour::Well { announces }) => announces,
    };
    if is_led {
        return report.say(Level::Ok, "versions", "clients use authenticated media");
    }
    let mend = "clients are not told of v1.11; route /_matrix/client/versions here, or update the homeserver";
    report.say(Level::Warn, "versions", mend)
}

/// Looks through one door at every path that belongs behind it. What is well is told, what is not is noted.
fn check_door(
    outside: &Outside,
    door: &Door<'_>,
    causes: &mut Causes,
    report: &mut Report<'_, impl Write>,
) -> Result<(), Failure> {
    for prefix in &door.prefixes {
        let place = format!("{}{prefix}", door.endpoint.base_url);
        let mut faults = match outside.probe_get(door.endpoint, prefix) {
            Ok(faults) => faults,
            // Nothing further is to be seen of a path that does not come here.
            Err(stray) => {
                causes.add(stray, place);
                continue;
            }
        };
        if door.for_clients && UPLOAD_PREFIXES.contains(prefix) {
            faults.extend(outside.probe_body(door.endpoint, prefix));
            faults.extend(outside.probe_preflight(door.endpoint, prefix));
            if faults.is_empty() {
                faults.extend(outside.probe_length(door.endpoint, prefix));
            }
        }
        if faults.is_empty() {
            report.say(Level::Ok, &place, "comes here as it was sent")?;
        }
        for fault in faults {
            causes.add(fault, place.clone());
        }
    }
    Ok(())
}

impl Outside {
    /// Asks for a path below a prefix, with every header that matters. Gives what is wrong with how that arrived.
    ///
    /// # Errors
    /// Why it does not come here at all.
    fn probe_get(&self, endpoint: &Endpoint, prefix: &str) -> Result<Vec<String>, String> {
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
        let answer = self
            .get(endpoint, &target, &headers)
            .map_err(|error| format!("no answer ({}); see to the proxy", in_words(&error)))?;
        let mark = self.mark_of(&answer)?;
        let mut faults = Vec::new();
        if !mark.has_target(&target) {
            faults.push(
                "comes here changed; let the proxy pass the path as it is (nginx: proxy_pass without a path)"
                    .to_owned(),
            );
        }
        if mark.version != "HTTP/1.1" {
            faults.push(format!(
                "comes here in {}, where remote media must be stored before it is sent; nginx: proxy_http_version 1.1",
                mark.version
            ));
        }
        let sent = headers.iter().filter(|(name, _)| *name != "Origin");
        let lost: Vec<_> =
            sent.filter(|(name, value)| !mark.has_header(name, value)).map(|(name, _)| *name).collect();
        if !lost.is_empty() {
            faults.push(format!(
                "comes here without {} as it was sent; let the proxy pass these headers on as they are",
                lost.join(", ")
            ));
        }
        faults.extend(fault_of_cors(&answer));
        Ok(faults)
    }

    /// Uploads more than proxies let through unless they are told to.
    fn probe_body(&self, endpoint: &Endpoint, prefix: &str) -> Option<String> {
        let target = format!("{prefix}{PROBE}");
        let headers = [("Authorization", BEARER), ("Content-Type", BODY_TYPE)];
        let body = vec![0; BODY];
        let mend = "set no limit there, media-sidecar has its own (nginx: client_max_body_size 0)";
        let answer = match with(endpoint, &target, &headers, |get| self.outbound.post(get, &body)) {
            Ok(answer) => answer,
            Err(error) => {
                return Some(format!("an upload of 1.1 MB breaks off ({}); {mend}", in_words(&error)));
            }
        };
        match self.mark_of(&answer) {
            Ok(mark) if mark.has_header("Content-Type", BODY_TYPE) => None,
            Ok(_) => Some(
                "an upload comes here without Content-Type as it was sent; let the proxy pass it on as it is"
                    .to_owned(),
            ),
            Err(_) if answer.status() == 413 => {
                Some(format!("an upload of 1.1 MB is too large for the proxy (status 413); {mend}"))
            }
            Err(_) => Some(format!(
                "an upload of 1.1 MB does not come here (status {}); let the proxy pass on POST and PUT of any size",
                answer.status()
            )),
        }
    }

    /// Announces the largest upload that is allowed here.
    fn probe_length(&self, endpoint: &Endpoint, prefix: &str) -> Option<String> {
        let target = format!("{prefix}{PROBE}");
        let headers = [("Authorization", BEARER), ("Content-Type", BODY_TYPE)];
        let length = self.max_upload.0;
        let answer = with(endpoint, &target, &headers, |get| self.outbound.announce(get, length)).ok()??;
        let is_refused = answer.status() == 413 && self.mark_of(&answer).is_err();
        is_refused.then(|| {
            format!(
                "an upload of uploads.max_size, {}, is too large for the proxy (status 413); set no limit there, media-sidecar \
                 has its own (nginx: client_max_body_size 0)",
                self.max_upload
            )
        })
    }

    /// Asks as browsers do before an upload.
    fn probe_preflight(&self, endpoint: &Endpoint, prefix: &str) -> Option<String> {
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
            format!("browsers are not let in: OPTIONS is answered by the proxy (status {}); let it pass on OPTIONS", answer.status())
        })
    }

    /// Our sidecar's mark on an answer.
    ///
    /// # Errors
    /// Who answers instead.
    fn mark_of(&self, answer: &Answer) -> Result<ProbeHeader, String> {
        let status = answer.status();
        match answer.header(probe_header::NAME.as_str()).map(ProbeHeader::parse) {
            Some(Some(mark)) if mark.fingerprint == self.fingerprint => Ok(mark),
            Some(Some(_)) => {
                Err("goes to another media-sidecar, or this one runs with another key".to_owned())
            }
            Some(None) => Err("goes to another version of media-sidecar; restart the service".to_owned()),
            None if matches!(status, 502..=504) => Err(format!(
                "the proxy does not reach media-sidecar (status {status}); let it connect to what `listen` names, see `media-sidecar proxy-config`"
            )),
            None => Err(format!("does not come here (status {status}); see `media-sidecar proxy-config`")),
        }
    }
}

/// What is wrong with the headers by which browsers judge an answer.
fn fault_of_cors(answer: &Answer) -> Option<String> {
    let origins = answer.header_list("access-control-allow-origin");
    let exposed = answer.header_list("access-control-expose-headers");
    if origins.len() > 1 {
        return Some(
            "its answers carry Access-Control-Allow-Origin twice, which browsers refuse; let the proxy add no CORS headers"
                .to_owned(),
        );
    }
    let is_exposed =
        exposed.iter().any(|name| *name == "*" || name.eq_ignore_ascii_case("content-disposition"));
    (origins != ["*"] || !is_exposed).then(|| {
        "its answers lose Access-Control-Allow-Origin or Access-Control-Expose-Headers (Content-Disposition), which browsers \
         need; let the proxy pass them on as they are"
            .to_owned()
    })
}

/// What a door where nobody answers needs.
fn mend_of_silence(error: &OutboundError, endpoint: &Endpoint) -> String {
    let why = in_words(error);
    match error {
        OutboundError::Unresolved => "the name has no address; see to its DNS records".to_owned(),
        OutboundError::Tls(cause) => fault_of_certificate(cause),
        OutboundError::Timeout => {
            "nobody answers in time; is the address right, and does a firewall let it through?".to_owned()
        }
        OutboundError::Malformed(_) => format!("what answers there speaks no HTTP ({why})"),
        OutboundError::Denied(_) | OutboundError::Redirect(_) | OutboundError::Failed(_) => {
            let is_default = endpoint.base_url.ends_with(":8448");
            let hint = if is_default {
                ", which servers use unless /.well-known/matrix/server names another port"
            } else {
                ""
            };
            format!("nobody answers ({why}); is the proxy running, and does it listen there{hint}?")
        }
    }
}

/// What is wrong with the certificate, or with TLS.
fn fault_of_certificate(cause: &str) -> String {
    let told = |word: &str| cause.contains(word);
    if told("UnknownIssuer") {
        "its certificate is from nobody whom others trust; use one of a public authority, or in a private federation name its \
         authority in federation.ca_file"
            .to_owned()
    } else if told("CaUsedAsEndEntity") {
        "its certificate is an authority's own, which nobody takes for a server; let it sign one for the server's name".to_owned()
    } else if told("expired") || told("Expired") {
        "its certificate has expired; renew it and reload the proxy".to_owned()
    } else if told("not valid yet") || told("NotValidYet") {
        "its certificate is not valid yet; see to the clock".to_owned()
    } else if told("not valid for") || told("NotValidForName") {
        "its certificate is for another name; let the proxy use one that carries this name".to_owned()
    } else {
        format!(
            "no secure connection ({cause}); see to the proxy's certificate, and whether it speaks TLS on this port"
        )
    }
}

/// Whether servers use a path, and sign what they ask for.
fn is_federation(prefix: &str) -> bool {
    prefix.starts_with("/_matrix/federation/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Endpoint as Route, ROUTES};

    #[test]
    fn uploads_are_tried_below_every_prefix_that_has_them() {
        let uploads = ROUTES
            .iter()
            .filter(|row| matches!(row.endpoint, Route::Upload | Route::Create | Route::UploadInto));
        for path in uploads.flat_map(|row| row.cells).map(|(_, path)| path).filter(|path| !path.is_empty()) {
            assert!(UPLOAD_PREFIXES.iter().any(|prefix| path.starts_with(prefix)), "{path}");
        }
        assert!(UPLOAD_PREFIXES.iter().all(|prefix| PROXY_PREFIXES.contains(prefix)));
    }

    #[test]
    fn faults_of_certificates_are_told_in_words() {
        for (cause, words) in [
            ("invalid peer certificate: UnknownIssuer", "from nobody whom others trust"),
            ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "an authority's own"),
            ("invalid peer certificate: certificate expired: verification time 1 (UNIX)", "has expired"),
            ("invalid peer certificate: certificate not valid yet: verification time", "see to the clock"),
            ("invalid peer certificate: certificate not valid for name \"a\"", "is for another name"),
            ("received corrupt message of type InvalidContentType", "whether it speaks TLS on this port"),
        ] {
            assert!(fault_of_certificate(cause).contains(words), "{cause}");
        }
    }
}
