//! The access line: who asked for what, how it ended, and how long it took.
//!
//! Owns its fields and when it is written. Refuses to know anything that a stranger writes freely: a path is named by its route, media by
//! its address once that was parsed, a client by its IP address.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hyper::Method;
use hyper::header::HeaderMap;

use crate::http::drain::InFlight;
use crate::log::ACCESS;
use crate::matrix::Mxc;
use crate::sync::Busy;

/// One line of the access log, written when this is dropped: with the body once there is a response, and without one when
/// the client goes away before.
#[derive(Debug)]
pub(crate) struct Access {
    /// HTTP method.
    pub(crate) method: Method,
    /// The route's pattern.
    pub(crate) route: &'static str,
    /// HTTP status; 499, as nginx has it, while there is none.
    pub(crate) status: u16,
    /// When the request's head had been read.
    pub(crate) started: Instant,
    /// User ID, server name, or `-`.
    pub(crate) caller: String,
    /// Where the request comes from; nothing behind a Unix socket whose proxy does not say.
    pub(crate) client: Option<IpAddr>,
    /// The media asked for or made.
    pub(crate) mxc: Option<Mxc>,
    /// Body bytes sent.
    pub(crate) bytes: u64,
    /// Who asks, which decides how loudly it is told.
    pub(crate) occasion: Occasion,
    /// While this lives, the machine is not idle.
    _busy: Option<Busy>,
    /// While this lives, the connection stays open though the service stops.
    pub(crate) in_flight: Option<InFlight>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Somebody wants something.
    Request,
    /// A monitor asks again and again whether all is well.
    Probe,
}

impl Access {
    /// The line of a request that has just begun.
    pub(crate) fn begin(method: Method, route: &'static str, busy: Option<Busy>) -> Self {
        Self {
            method,
            route,
            status: 499,
            started: Instant::now(),
            caller: "-".to_owned(),
            client: None,
            mxc: None,
            bytes: 0,
            occasion: Occasion::Request,
            _busy: busy,
            in_flight: None,
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let Self { method, route, status, started, caller, client, mxc, bytes, occasion, .. } = self;
        let ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1000.0;
        let client = client.map(tracing::field::display);
        let mxc = mxc.as_ref().map(tracing::field::display);
        match occasion {
            Occasion::Request => {
                tracing::info!(target: ACCESS, %method, route, status, bytes, ms, caller, client, mxc);
            }
            Occasion::Probe => {
                tracing::debug!(target: ACCESS, %method, route, status, bytes, ms, caller, client, mxc);
            }
        }
    }
}

/// Where a request comes from. A proxy on this machine (a Unix socket, a loopback address) says whom it speaks for: the last hop of
/// `X-Forwarded-For` is the one it saw itself, those before are what that one told. Anybody else speaks for themselves.
pub(crate) fn client_address(peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = peer.map(|peer| peer.to_canonical());
    if peer.is_some_and(|peer| !peer.is_loopback()) {
        return peer;
    }
    let last = |name: &str| {
        let line = headers.get_all(name).iter().next_back()?.to_str().ok()?;
        address(line.rsplit(',').next()?.trim())
    };
    last("x-forwarded-for").or_else(|| last("x-real-ip")).or(peer)
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

    #[test]
    fn only_a_proxy_on_this_machine_speaks_for_others_and_its_last_hop_counts() {
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let (forwarded, real) = ("x-forwarded-for", "x-real-ip");
        let table: [(&str, Headers<'_>, &str); 20] = [
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
        ];
        for (peer, headers, expected) in table {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let client = client_address(peer.parse().ok(), &map);
            assert_eq!(client, expected.parse().ok(), "{peer:?} {headers:?}");
        }
    }
}
