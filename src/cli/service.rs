//! Asking the running service, or opening the store when none runs.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{Failure, load_config_quietly, runtime};
use crate::app::{App, Environment};
use crate::config::{Config, ListenAddr};
use crate::federation::SigningKey;
use crate::media::OperatorRequest;

/// The longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 << 20;

/// The service, or the store when none runs.
pub(super) enum Operator {
    Service(ListenAddr),
    Store(Box<Config>),
}

impl Operator {
    /// Finds out whether the service runs.
    pub(super) fn find(config: Option<&Path>) -> Result<Self, Failure> {
        let config = load_config_quietly(config)?;
        let Some(address) = config.ops_address() else { return Ok(Self::Store(Box::new(config))) };
        let is_there = match &address {
            ListenAddr::Unix(socket) => std::os::unix::net::UnixStream::connect(socket).map(drop),
            ListenAddr::Tcp(address) => connectable(*address),
        };
        match is_there {
            Ok(()) => Ok(Self::Service(address)),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(Self::Store(Box::new(config)))
            }
            Err(error) => Err(format!("{address}: {error}; run this as the user of the service").into()),
        }
    }

    /// Sends a request, and returns the answer.
    pub(super) fn ask(&self, request: OperatorRequest) -> Result<Value, Failure> {
        let runtime = runtime()?;
        match self {
            Self::Service(address) => runtime.block_on(send(address, &request)),
            Self::Store(config) => {
                if !config.data_dir.join("catalog.db").exists() {
                    return Err(format!("there is no store in data_dir {}", config.data_dir.display()).into());
                }
                let environment = Environment::system();
                // Nothing is sent to other servers, so nothing is signed.
                let random = std::sync::Arc::clone(&environment.random);
                let app = App::open(config, SigningKey::generate(|bytes| random(bytes)), environment)
                    .map_err(|error| format!("data_dir {}: {}", config.data_dir.display(), error.causes()))?;
                let answer = runtime.block_on(app.media.operate(request));
                answer.map_err(|error| told(error.message(), &error.causes()).into())
            }
        }
    }
}

/// A message and what it was caused by.
fn told(message: &str, causes: &str) -> String {
    if causes.is_empty() { message.to_owned() } else { format!("{message}: {causes}") }
}

fn connectable(address: SocketAddr) -> io::Result<()> {
    std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop)
}

/// Sends a request to the running service.
async fn send(address: &ListenAddr, request: &OperatorRequest) -> Result<Value, Failure> {
    match address {
        ListenAddr::Unix(socket) => exchange(UnixStream::connect(socket).await?, request).await,
        ListenAddr::Tcp(address) => exchange(TcpStream::connect(address).await?, request).await,
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: &OperatorRequest,
) -> Result<Value, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/_sidecar/operator")
        .header("Host", "localhost")
        .header("Content-Type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(request)?)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
    connection.abort();
    let answer: Value = serde_json::from_slice(&body).map_err(|_error| {
        format!("the service answered with status {status} and no JSON; is it of the same version?")
    })?;
    if status.is_success() {
        return Ok(answer);
    }
    Err(answer.get("error").and_then(Value::as_str).unwrap_or("the service refused").to_owned().into())
}
