//! An HTTPS client that sends exactly the bytes a test says, and prints what was asked and answered.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::Signer as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// Trusts one authority.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    pub fn new(ca_pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }

    pub fn get(&self, server_name: &str, target: &str) -> Ask<'_> {
        self.ask("GET", server_name, target)
    }

    pub fn post(&self, server_name: &str, target: &str) -> Ask<'_> {
        self.ask("POST", server_name, target)
    }

    fn ask(&self, method: &'static str, server_name: &str, target: &str) -> Ask<'_> {
        let (server_name, target) = (server_name.to_owned(), target.to_owned());
        Ask { client: self, method, server_name, target, headers: String::new(), body: Vec::new() }
    }
}

/// A request in the making.
pub struct Ask<'a> {
    client: &'a Client,
    method: &'static str,
    /// `host:port`, on loopback.
    server_name: String,
    target: String,
    headers: String,
    body: Vec<u8>,
}

impl Ask<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub fn body(mut self, content_type: &str, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("Content-Type", content_type)
    }

    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string().as_bytes())
    }

    /// Signed as `key`'s server, for the server `destination`.
    pub fn signed(self, key: &ServerKey, destination: &str) -> Self {
        let authorization = key.authorization(destination, &self.target);
        self.header("Authorization", &authorization)
    }

    /// Sends it and prints request line and status.
    pub fn send(self) -> Answer {
        let answer = self.try_send().unwrap_or_else(|error| panic!("{}: {error}", self.server_name));
        println!(
            "   {} https://{}{} → {} {} {} bytes",
            self.method,
            self.server_name,
            self.target,
            answer.status,
            answer.header("content-type").unwrap_or("-"),
            answer.body.len()
        );
        answer
    }

    /// Sends it, on a connection of its own.
    pub fn try_send(&self) -> std::io::Result<Answer> {
        let (host, port) = self.server_name.rsplit_once(':').unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::clone(&self.client.0), name).unwrap();
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap()))?;
        socket.set_read_timeout(Some(Duration::from_mins(1)))?;
        let mut stream = StreamOwned::new(connection, socket);
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{}\r\n",
            self.method,
            self.target,
            self.server_name,
            self.body.len(),
            self.headers
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body)?;
        stream.flush()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(Answer::parse(&bytes))
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Self { status, headers, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunk(&answer.body);
        } else if let Some(length) = answer.header("content-length") {
            assert_eq!(length, answer.body.len().to_string(), "the answer broke off");
        }
        answer
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The answer, if its status is `status`.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    /// Fails unless this is a Matrix error of this kind.
    pub fn fails(self, status: u16, errcode: &str) {
        let body = self.expect(status).json();
        println!("     {body}");
        assert_eq!(body["errcode"], errcode);
    }

    /// The file name of the content disposition, by RFC 6266's extended form if it is there.
    pub fn file_name(&self) -> String {
        let disposition = self.header("content-disposition").unwrap_or_else(|| panic!("{:?}", self.headers));
        println!("     Content-Disposition: {disposition}");
        let value_of = |name: &str| {
            disposition
                .split(';')
                .find_map(|part| part.trim().strip_prefix(name))
                .map(|value| value.trim_matches('"'))
        };
        match value_of("filename*=").map(|value| value.strip_prefix("utf-8''").expect("its one form")) {
            Some(encoded) => {
                percent_encoding::percent_decode_str(encoded).decode_utf8().unwrap().into_owned()
            }
            None => value_of("filename=").expect("a file name").to_owned(),
        }
    }
}

/// The body that a chunked one stands for.
fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").expect("a chunk");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

/// A homeserver's signing key, for requests in its name.
pub struct ServerKey {
    server_name: String,
    key_id: String,
    key: ed25519_dalek::SigningKey,
}

impl ServerKey {
    /// From Synapse's file: `ed25519 <version> <seed>`.
    pub fn parse(server_name: &str, text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let seed = data_encoding::BASE64_NOPAD.decode(words[2].as_bytes()).unwrap();
        Self {
            server_name: server_name.to_owned(),
            key_id: format!("{}:{}", words[0], words[1]),
            key: ed25519_dalek::SigningKey::from_bytes(&seed.try_into().unwrap()),
        }
    }

    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The X-Matrix header for `GET uri` of `destination`.
    fn authorization(&self, destination: &str, uri: &str) -> String {
        // serde_json keeps its objects sorted: with texts alone that is canonical.
        let origin = &self.server_name;
        let message = json!({"destination": destination, "method": "GET", "origin": origin, "uri": uri});
        let signature = self.key.sign(message.to_string().as_bytes()).to_bytes();
        let sig = data_encoding::BASE64_NOPAD.encode(&signature);
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{}",sig="{sig}""#, self.key_id)
    }
}
