//! The rest of a server, as far as the demo needs it: a TLS front that sends media to the sidecar and everything else to a
//! stand-in homeserver.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::http;
use crate::cli::Failure;
use crate::federation::SigningKey;
use crate::matrix::{ServerName, Timestamp};
use crate::server::PROXY_PREFIXES;

/// A response body of the front: passed on or created here.
type FrontBody = BoxBody<Bytes, hyper::Error>;

/// A stand-in homeserver: knows one user and publishes a key.
pub(super) struct StandIn {
    pub(super) token: String,
    pub(super) user_id: String,
    /// The response of `/_matrix/key/v2/server`.
    pub(super) key_document: Value,
}

impl StandIn {
    /// A homeserver of `server_name` with the user `localpart`, whose key is `key`.
    pub(super) fn new(server_name: &ServerName, localpart: &str, token: String, key: &SigningKey) -> Self {
        let valid_until = Timestamp::now().after(std::time::Duration::from_hours(24));
        let key_document = key.key_document(server_name, valid_until);
        Self { token, user_id: format!("@{localpart}:{server_name}"), key_document }
    }

    /// Responds to the requests that a sidecar and other servers send to a homeserver.
    fn answer(&self, request: &Request<Incoming>) -> (StatusCode, Value) {
        let authorization =
            request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match request.uri().path() {
            "/_matrix/client/v3/account/whoami"
                if authorization == Some(&format!("Bearer {}", self.token)) =>
            {
                (StatusCode::OK, json!({"user_id": self.user_id, "is_guest": false}))
            }
            "/_matrix/client/v3/account/whoami" => {
                (StatusCode::UNAUTHORIZED, json!({"errcode": "M_UNKNOWN_TOKEN", "error": "unknown token"}))
            }
            "/_matrix/client/versions" => (StatusCode::OK, json!({"versions": ["v1.11"]})),
            "/_matrix/key/v2/server" => (StatusCode::OK, self.key_document.clone()),
            _ => (StatusCode::NOT_FOUND, json!({"errcode": "M_UNRECOGNIZED", "error": "not in the demo"})),
        }
    }
}

/// Request lines a front has seen from other servers.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    /// Notes a signed request.
    fn note(&self, request: &Request<Incoming>) {
        let authorization =
            request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(signed) = authorization.filter(|value| value.starts_with("X-Matrix")) {
            let (shown, _signature) = signed.split_once(",sig=").unwrap_or((signed, ""));
            let line = format!("{} {}  {shown},sig=…", request.method(), request.uri());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// What was noted since the last call.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Accepts HTTPS on `listener`, for ever.
pub(super) async fn serve_front(
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
    (sidecar, homeserver): (SocketAddr, SocketAddr),
    seen: Seen,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                seen.note(&request);
                let is_media = PROXY_PREFIXES.iter().any(|prefix| request.uri().path().starts_with(prefix));
                let to = if is_media { sidecar } else { homeserver };
                async move {
                    Ok::<_, Infallible>(
                        forward(to, request).await.unwrap_or_else(|error| bad_gateway(&error)),
                    )
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            // A client that breaks off ends its connection and nothing else.
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Serves a stand-in homeserver over plain HTTP on `listener`, for ever.
pub(super) async fn serve_stand_in(listener: TcpListener, stand_in: Arc<StandIn>) {
    while let Ok((stream, _)) = listener.accept().await {
        let stand_in = Arc::clone(&stand_in);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (status, body) = stand_in.answer(&request);
                let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
                *response.status_mut() = status;
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
                async move { Ok::<_, Infallible>(response) }
            });
            let server = hyper::server::conn::http1::Builder::new();
            // A client that breaks off ends its connection and nothing else.
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Passes a request on, its target byte for byte: it is signed.
async fn forward(to: SocketAddr, request: Request<Incoming>) -> Result<Response<FrontBody>, Failure> {
    let stream = TcpStream::connect(to).await?;
    let response = http::send(stream, request).await?;
    Ok(response.map(BodyExt::boxed))
}

/// The response when the sidecar or the homeserver does not respond.
fn bad_gateway(error: &Failure) -> Response<FrontBody> {
    let body = Full::new(Bytes::from(format!("{error}\n"))).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
