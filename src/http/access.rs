//! The access line: who requested what, the result, and how long it took.
//!
//! Owns its fields and when it is written. Strangers cannot put free text into it: the path is shown as its route, media by its parsed
//! address, the client by its IP address, and the request ID has a limited character set.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hyper::Method;
use hyper::header::HeaderMap;

use crate::config::Listen;
use crate::http::connection::InFlight;
use crate::log::{ACCESS, RequestId};
use crate::matrix::Mxc;
use crate::sync::Busy;

/// One line of the access log. It is written when this is dropped: together with the body of the response, or earlier if the client
/// disconnects before there is one.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) method: Method,
    /// The route's pattern, or `-`.
    pub(crate) route: &'static str,
    /// HTTP status. 499, as in nginx, while there is no response.
    pub(crate) status: u16,
    /// When the request's head had been read.
    started: Instant,
    request_id: RequestId,
    /// User ID, server name, or `-`.
    pub(crate) caller: String,
    /// The client's address; `None` behind a Unix socket whose proxy does not send it.
    pub(crate) client: Option<IpAddr>,
    /// The requested or created media.
    pub(crate) mxc: Option<Mxc>,
    /// Body bytes sent.
    pub(crate) bytes: u64,
    /// Whether this is a health check. Monitors send many, so their lines have level `debug`.
    pub(crate) is_probe: bool,
    /// Marks the machine as busy until this is dropped.
    pub(crate) busy: Option<Busy>,
    /// Keeps the connection open during a stop until this is dropped.
    _in_flight: InFlight,
}

impl Access {
    /// The line of a request that has just begun.
    pub(crate) fn begin(method: Method, request_id: RequestId, in_flight: InFlight) -> Self {
        Self {
            method,
            route: "-",
            status: 499,
            started: Instant::now(),
            request_id,
            caller: "-".to_owned(),
            client: None,
            mxc: None,
            bytes: 0,
            is_probe: false,
            busy: None,
            _in_flight: in_flight,
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let Self { method, route, status, started, request_id, caller, client, mxc, bytes, .. } = self;
        let ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1000.0;
        let client = client.map(tracing::field::display);
        let mxc = mxc.as_ref().map(tracing::field::display);
        if self.is_probe {
            tracing::debug!(target: ACCESS, %method, route, status, bytes, ms, caller, client, mxc, %request_id);
        } else {
            tracing::info!(target: ACCESS, %method, route, status, bytes, ms, caller, client, mxc, %request_id);
        }
    }
}

/// The address of the client: the `peer` (`None` through a Unix socket) or, if the peer is a trusted proxy, the address that it reports.
/// That is the last address in `X-Forwarded-For` that is not a trusted proxy itself, else `X-Real-IP`. Earlier addresses in the list were
/// sent by the client and may be false.
pub(crate) fn client_address(peer: Option<IpAddr>, headers: &HeaderMap, listen: &Listen) -> Option<IpAddr> {
    if !listen.trusts(peer) {
        return peer;
    }
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut nearest = None;
    for hop in hops {
        let Some(hop) = std::str::from_utf8(hop).ok().and_then(|hop| address(hop.trim())) else { break };
        nearest = Some(hop);
        if !listen.trusts(nearest) {
            break;
        }
    }
    let real = || address(headers.get_all("x-real-ip").iter().next_back()?.to_str().ok()?.trim());
    nearest.or_else(real).or(peer)
}

/// An address as proxies write it, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::config::Config;
    use crate::matrix::ServerName;

    /// The addresses and headers of a request, and the client they mean.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

    /// Tries `table` with these proxies trusted; without any, with the default ones.
    fn judge(trusted: &[&str], table: &[Case<'_>]) {
        let mut listen = Config::defaults(ServerName::parse("example.org").unwrap()).listen;
        if !trusted.is_empty() {
            listen.trust_forwarded = trusted.iter().map(|proxy| proxy.parse().unwrap()).collect();
        }
        for (peer, headers, expected) in table {
            let mut map = HeaderMap::new();
            for (name, value) in *headers {
                map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let peer = peer.parse::<IpAddr>().ok().map(|peer| peer.to_canonical());
            let client = client_address(peer, &map, &listen);
            assert_eq!(client, expected.parse().ok(), "{trusted:?} {peer:?} {headers:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_speaks_for_others_and_the_last_hop_that_it_saw_counts() {
        let (forwarded, real) = ("x-forwarded-for", "x-real-ip");
        judge(
            &["192.0.2.0/24"],
            &[
                ("192.0.2.1", &[(forwarded, "203.0.113.7")], "203.0.113.7"),
                // A proxy behind another one.
                ("192.0.2.1", &[(forwarded, "10.0.0.1, 203.0.113.7, 192.0.2.2")], "203.0.113.7"),
                (
                    "192.0.2.1",
                    &[(forwarded, "203.0.113.7"), (forwarded, "192.0.2.3,192.0.2.2")],
                    "203.0.113.7",
                ),
                ("192.0.2.1", &[(forwarded, "unknown, 192.0.2.2"), (real, "203.0.113.7")], "192.0.2.2"),
                ("192.0.2.1", &[(forwarded, "192.0.2.3, 192.0.2.2")], "192.0.2.3"),
                ("127.0.0.1", &[(forwarded, "203.0.113.7")], "127.0.0.1"),
                ("", &[(forwarded, "203.0.113.7")], ""),
            ],
        );
        judge(
            &["unix"],
            &[
                ("127.0.0.1", &[(forwarded, "203.0.113.7")], "127.0.0.1"),
                ("", &[(forwarded, "203.0.113.7, 127.0.0.1")], "127.0.0.1"),
            ],
        );
        judge(
            &[],
            &[
                ("127.0.0.1", &[], "127.0.0.1"),
                ("", &[], ""),
                ("192.0.2.1", &[], "192.0.2.1"),
                ("127.0.0.1", &[(forwarded, "203.0.113.7")], "203.0.113.7"),
                ("127.8.0.1", &[(forwarded, "203.0.113.7")], "203.0.113.7"),
                ("::1", &[(forwarded, "2001:db8::1")], "2001:db8::1"),
                ("::ffff:127.0.0.1", &[(forwarded, "203.0.113.7")], "203.0.113.7"),
                ("", &[(forwarded, "203.0.113.7")], "203.0.113.7"),
                ("", &[(real, "203.0.113.7")], "203.0.113.7"),
                // What the client claims stands before what the proxy saw.
                ("", &[(forwarded, "10.0.0.1, 203.0.113.7")], "203.0.113.7"),
                ("", &[(forwarded, "10.0.0.1"), (forwarded, "203.0.113.7")], "203.0.113.7"),
                ("", &[(forwarded, "203.0.113.7"), (real, "10.0.0.1")], "203.0.113.7"),
                ("", &[(forwarded, "203.0.113.7:4711")], "203.0.113.7"),
                ("", &[(forwarded, "[2001:db8::1]:4711")], "2001:db8::1"),
                ("", &[(forwarded, "[2001:db8::1]")], "2001:db8::1"),
                ("", &[(forwarded, "::ffff:203.0.113.7")], "203.0.113.7"),
                ("127.0.0.1", &[(forwarded, "203.0.113.7, unknown")], "127.0.0.1"),
                ("127.0.0.1", &[(forwarded, "a\" client=x"), (real, "203.0.113.7")], "203.0.113.7"),
                // Nobody else is believed.
                ("192.0.2.1", &[(forwarded, "203.0.113.7"), (real, "203.0.113.7")], "192.0.2.1"),
                ("10.0.0.1", &[(forwarded, "203.0.113.7")], "10.0.0.1"),
            ],
        );
    }
}
