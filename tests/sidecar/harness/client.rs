//! An HTTP client that sends exactly what a test says.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Sends requests, each on a connection of its own unless a test keeps one.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    headers: Vec<(String, String)>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as announced.
    pub complete: bool,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, headers: Vec::new() }
    }

    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn get(&self, target: &str) -> Response {
        self.send("GET", target, b"")
    }

    pub fn head(&self, target: &str) -> Response {
        self.send("HEAD", target, b"")
    }

    pub fn post(&self, target: &str, body: &[u8]) -> Response {
        self.send("POST", target, body)
    }

    pub fn put(&self, target: &str, body: &[u8]) -> Response {
        self.send("PUT", target, body)
    }

    pub fn send(&self, method: &str, target: &str, body: &[u8]) -> Response {
        let mut connection = self.connect();
        connection.write_all(&self.request(method, target, body)).unwrap();
        read_response(&mut connection, method)
    }

    /// The same; `None` when the server is not there or goes.
    pub fn try_send(&self, method: &str, target: &str, body: &[u8]) -> Option<Response> {
        let mut connection = TcpStream::connect(self.address).ok()?;
        connection.write_all(&self.request(method, target, body)).ok()?;
        try_read_response(&mut connection, method)
    }

    /// The bytes of a request with a `Content-Length`.
    pub fn request(&self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
        let mut head = self.head_of(method, target);
        if !body.is_empty() || matches!(method, "POST" | "PUT") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        [head.as_bytes(), b"\r\n", body].concat()
    }

    /// Request line and headers, without the empty line.
    pub fn head_of(&self, method: &str, target: &str) -> String {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }
}

/// Reads one answer to a request of `method`.
pub fn read_response(stream: &mut impl Read, method: &str) -> Response {
    try_read_response(stream, method).expect("an answer")
}

/// The same; `None` when the connection ends before there is one.
pub fn try_read_response(stream: &mut impl Read, method: &str) -> Option<Response> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(n, v)| (n.to_lowercase(), v.to_owned()))
        .collect();
    let mut response = Response { status, headers, body: Vec::new(), complete: true };
    if method == "HEAD" || status == 304 || status == 204 {
        return Some(response);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        response.complete = read_chunks(stream, &mut response.body).is_some();
    } else {
        let length = response.header("content-length").expect("a body has a length").parse().unwrap();
        stream.take(length).read_to_end(&mut response.body).ok();
        response.complete = response.body.len() as u64 == length;
    }
    Some(response)
}

/// Reads a chunked body; `None` when it breaks off.
fn read_chunks(stream: &mut impl Read, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            line.push(char::from(byte[0]));
        }
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Some(());
        }
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub fn errcode(&self) -> String {
        let body = self.json();
        assert!(body["error"].is_string(), "{body}");
        body["errcode"].as_str().unwrap().to_owned()
    }

    /// Status and errcode at once.
    pub fn failure(&self) -> (u16, String) {
        (self.status, self.errcode())
    }
}
