//! A small HTTP client over hyper, and the certificates of the demo.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cli::Failure;

/// A certificate authority that lives as long as the demo, and one certificate of it for `127.0.0.1`.
pub(super) struct Certificates {
    /// The authority's certificate, PEM.
    pub(super) ca_pem: String,
    /// The certificate of the fronts.
    pub(super) acceptor: TlsAcceptor,
    /// Trusts the authority.
    pub(super) connector: TlsConnector,
}

impl Certificates {
    /// Creates both.
    pub(super) fn make() -> Result<Self, Failure> {
        let mut authority = CertificateParams::new([])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &authority)?;
        let ca_pem = authority.pem();

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            ca_pem,
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

/// A response with its whole body.
#[derive(Debug)]
pub(super) struct WholeResponse {
    /// Status and headers.
    pub(super) head: hyper::http::response::Parts,
    /// Body.
    pub(super) body: Bytes,
}

impl WholeResponse {
    /// HTTP status.
    pub(super) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// A header, empty if absent.
    pub(super) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A string field of the JSON body, empty if absent.
    pub(super) fn field(&self, name: &str) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    }
}

/// Sends one request over TLS to `address` and reads the answer.
pub(super) async fn ask(
    connector: &TlsConnector,
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<WholeResponse, Failure> {
    let stream = TcpStream::connect(address).await?;
    let stream = connector.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
    let (head, body) = send(stream, request).await?.into_parts();
    Ok(WholeResponse { head, body: body.collect().await?.to_bytes() })
}

/// Sends one request on a fresh connection.
pub(super) async fn send<S, B>(stream: S, request: Request<B>) -> Result<Response<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Failure>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors show up in the response, too.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}
