//! The tour through MSC1902, in requests and responses.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, header};

use super::Server;
use super::http::{self, Certificates, WholeResponse};
use super::site::TITLE;
use crate::cli::Failure;

/// The file that alice uploads.
const PICTURE: &[u8] = include_bytes!("../../../assets/demo.png");

/// Runs the tour; returns whether every step succeeded.
pub(super) async fn walk(
    (alice, bob): (&Server, &Server),
    site: SocketAddr,
    certificates: &Certificates,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    writeln!(
        out,
        "Two servers, A = {} and B = {}: each a TLS front, a homeserver and a media-sidecar.\n",
        alice.name, bob.name
    )?;
    let mut tour = Tour { certificates, out, step: 0, passed: true };

    tour.tell("alice uploads a picture at A, on the client side of the split")?;
    let upload = Asked::new(alice, Method::POST, "/_matrix/client/r0/media/upload?filename=mountains.png")
        .token(&alice.token)
        .body("image/png", PICTURE);
    let uploaded = tour.ask(upload, 200).await?;
    let mxc = uploaded.field("content_uri");
    let path = mxc.trim_start_matches("mxc://").to_owned();
    tour.note(&format!("it is now {mxc}"))?;
    tour.check(path.starts_with(alice.name.as_str()), "the picture has an address at A")?;

    tour.tell("an unsigned request gets nothing from A's federation routes")?;
    let remote_media = format!("/_matrix/federation/v1/remote_media/download/{path}");
    let refused = tour.ask(Asked::new(alice, Method::GET, &remote_media), 401).await?;
    tour.note(&format!("{}: {}", refused.field("errcode"), refused.field("error")))?;

    tour.tell("bob downloads the picture at B; B fetches it from A, signed with its homeserver's key")?;
    alice.seen.take();
    let download = format!("/_matrix/client/r0/media/download/{path}");
    let fetched = tour.ask(Asked::new(bob, Method::GET, &download).token(&bob.token), 200).await?;
    let seen = alice.seen.take();
    for line in &seen {
        tour.note(&format!("A was asked: {line}"))?;
    }
    tour.check(fetched.body == PICTURE, "bob has alice's picture, byte for byte")?;
    tour.check(seen.iter().any(|line| line.contains("/remote_media/")), "it came through remote_media")?;
    tour.check(fetched.header("content-disposition").contains("mountains.png"), "and kept its name")?;

    tour.tell("requested again, B serves it from its own store without asking A")?;
    let again = tour.ask(Asked::new(bob, Method::GET, &download).token(&bob.token), 200).await?;
    tour.note(&format!("ETag {}", again.header("etag")))?;
    tour.check(again.body == PICTURE && alice.seen.take().is_empty(), "nothing crossed between the servers")?;

    tour.tell("an unchanged copy is not sent again, and a video player gets the range it requests")?;
    let unchanged =
        Asked::new(bob, Method::GET, &download).header(header::IF_NONE_MATCH, again.header("etag"));
    tour.ask(unchanged, 304).await?;
    let part =
        tour.ask(Asked::new(bob, Method::GET, &download).header(header::RANGE, "bytes=0-7"), 206).await?;
    tour.check(Some(&*part.body) == PICTURE.get(..8), &format!("{}, no more", part.header("content-range")))?;

    tour.tell("both make a thumbnail of it, each from its own copy")?;
    let thumbnail = format!("/_matrix/client/r0/media/thumbnail/{path}?width=96&height=96&method=crop");
    let at_a = tour.ask(Asked::new(alice, Method::GET, &thumbnail).token(&alice.token), 200).await?;
    let at_b = tour.ask(Asked::new(bob, Method::GET, &thumbnail).token(&bob.token), 200).await?;
    tour.check(at_a.header("content-disposition").contains("thumbnail.png"), "a thumbnail, called as one")?;
    tour.check(at_a.body == at_b.body, "the same bytes at both, without a request between them")?;

    tour.tell("what MSC1902 became: the same picture through the released specification's routes (MSC3916)")?;
    let released = format!("/_matrix/client/v1/media/download/{path}");
    tour.ask(Asked::new(bob, Method::GET, &released), 401).await?;
    let authenticated = tour.ask(Asked::new(bob, Method::GET, &released).token(&bob.token), 200).await?;
    tour.check(authenticated.body == PICTURE, "with a token, the same bytes")?;

    tour.tell("and old clients go on as before")?;
    let legacy = format!("/_matrix/media/v3/download/{path}");
    let old = tour.ask(Asked::new(alice, Method::GET, &legacy), 200).await?;
    tour.check(old.body == PICTURE, "the same bytes")?;

    tour.preview(alice, site).await?;

    let Tour { passed, .. } = tour;
    writeln!(
        out,
        "\n{}",
        if passed { "Every step succeeded." } else { "Some steps failed: see the lines marked FAIL." }
    )?;
    Ok(passed)
}

/// Prints what to try by hand.
pub(super) fn tell_how_to_try(
    alice: &Server,
    bob: &Server,
    ca_file: &Path,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let ca = ca_file.display();
    writeln!(out, "\nTry it by hand, until Ctrl-C:\n")?;
    writeln!(out, "  curl --cacert {ca} -H 'Authorization: Bearer {}' \\", alice.token)?;
    writeln!(out, "       -H 'Content-Type: text/plain' --data-binary 'hello' \\")?;
    writeln!(out, "       'https://{}/_matrix/client/r0/media/upload?filename=hello.txt'\n", alice.name)?;
    writeln!(out, "  curl --cacert {ca} -H 'Authorization: Bearer {}' -i \\", bob.token)?;
    writeln!(out, "       https://{}/_matrix/client/v1/media/download/{}/MEDIA_ID", bob.name, alice.name)?;
    out.flush()?;
    Ok(())
}

/// A request of the tour.
struct Asked<'a> {
    /// The server it is sent to.
    server: &'a Server,
    request: hyper::http::request::Builder,
    line: String,
    body: &'static [u8],
}

impl<'a> Asked<'a> {
    /// `method path` of `server`.
    fn new(server: &'a Server, method: Method, path: &str) -> Self {
        let line = format!("{method} https://{}{path}", server.name);
        let request = Request::builder().method(method).uri(path).header(header::HOST, server.name.as_str());
        Self { server, request, line, body: b"" }
    }

    fn token(self, token: &str) -> Self {
        self.header(header::AUTHORIZATION, &format!("Bearer {token}"))
    }

    fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        let shown = if name == header::AUTHORIZATION { "Bearer …" } else { value };
        self.line.extend(["\n     ", name.as_str(), ": ", shown]);
        self.request = self.request.header(name, value);
        self
    }

    fn body(mut self, content_type: &str, body: &'static [u8]) -> Self {
        self.body = body;
        self.header(header::CONTENT_TYPE, content_type)
    }
}

/// The state of the tour.
struct Tour<'a, W> {
    certificates: &'a Certificates,
    out: &'a mut W,
    /// Number of the current step.
    step: u32,
    /// Whether all steps so far have succeeded.
    passed: bool,
}

impl<W: Write> Tour<'_, W> {
    /// Shows a preview of a page at `site`, and that a preview of the sidecar itself is refused.
    async fn preview(&mut self, server: &Server, site: SocketAddr) -> Result<(), Failure> {
        self.tell("alice's client previews a link: A fetches the page, which is allowed, and its picture")?;
        let preview_url = "/_matrix/client/r0/media/preview_url?url=http%3A%2F%2F";
        let target = format!("{preview_url}{}%3A{}%2F", site.ip(), site.port());
        let preview = self.ask(Asked::new(server, Method::GET, &target).token(&server.token), 200).await?;
        self.note(&format!("{}: {}", preview.field("og:title"), preview.field("og:description")))?;
        self.check(preview.field("og:title") == TITLE, "the title is the page's")?;
        let copy = preview.field("og:image");
        self.note(&format!("its picture is now {copy}"))?;
        let path = format!("/_matrix/client/r0/media/download/{}", copy.trim_start_matches("mxc://"));
        let picture = self.ask(Asked::new(server, Method::GET, &path).token(&server.token), 200).await?;
        self.check(
            picture.body == PICTURE,
            "a copy of it, byte for byte: the site does not see who looks at it",
        )?;

        self.tell("a link to an address inside the network is not followed")?;
        let inside = format!("{preview_url}169.254.169.254%3A{}%2F", site.port());
        let refused = self.ask(Asked::new(server, Method::GET, &inside).token(&server.token), 403).await?;
        self.note(&format!("{}: {}", refused.field("errcode"), refused.field("error")))
    }

    /// Begins a step.
    fn tell(&mut self, what: &str) -> Result<(), Failure> {
        self.step = self.step.saturating_add(1);
        Ok(writeln!(self.out, "{}. {what}", self.step)?)
    }

    /// Adds to a step.
    fn note(&mut self, what: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "     {what}")?)
    }

    /// Checks a claim of the step.
    fn check(&mut self, holds: bool, claim: &str) -> Result<(), Failure> {
        self.passed &= holds;
        Ok(writeln!(self.out, "     {} {claim}", if holds { "ok  " } else { "FAIL" })?)
    }

    /// Sends a request that must be answered with `status`.
    async fn ask(&mut self, asked: Asked<'_>, status: u16) -> Result<WholeResponse, Failure> {
        let started = Instant::now();
        let request = asked.request.body(Full::new(Bytes::from_static(asked.body)))?;
        let answer = http::ask(&self.certificates.connector, asked.server.address, request).await?;
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        writeln!(
            self.out,
            "   {}\n     → {} {} bytes, {ms:.1} ms",
            asked.line,
            answer.status(),
            answer.body.len()
        )?;
        if answer.status() != status {
            self.check(false, &format!("expected {status}: {}", String::from_utf8_lossy(&answer.body)))?;
        }
        Ok(answer)
    }
}
