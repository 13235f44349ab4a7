//! `media-sidecar demo`: two complete servers on loopback that exchange media, and a tour of MSC1902 between them.
//!
//! Everything is real: sockets, TLS, signatures, two sidecars with stores of their own. Only the homeservers are stand-ins
//! (`front.rs`): they know one user each and publish a key.

mod front;
mod http;
mod site;
mod tour;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use tokio::net::TcpListener;

use self::front::{Seen, StandIn};
use self::http::Certificates;
use crate::app::{App, Environment};
use crate::cli::{Failure, runtime};
use crate::config::{Config, ListenAddr};
use crate::federation::{Overwrite, SigningKey};
use crate::matrix::ServerName;
use crate::server;

/// What happens after the tour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// The servers keep running, to be tried by hand.
    Serve,
    /// The demo ends.
    Leave,
}

struct Server {
    /// `127.0.0.1:port`
    name: ServerName,
    /// The address of its front, which its server name contains.
    address: SocketAddr,
    /// Its user's access token.
    token: String,
    /// Signed requests that it got from other servers.
    seen: Seen,
}

/// Starts both servers, runs the tour and prints it to `out`.
pub fn run(stay: Stay, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let folder = tempfile::Builder::new().prefix("media-sidecar-demo-").tempdir()?;
    let runtime = runtime()?;
    let passed = runtime.block_on(async {
        let certificates = Certificates::make()?;
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, &certificates.ca_pem)?;
        let website = TcpListener::bind("127.0.0.1:0").await?;
        let site = website.local_addr()?;
        tokio::spawn(site::serve(website));
        let alice = start((&folder.path().join("a"), "alice"), &certificates, &ca_file, site).await?;
        let bob = start((&folder.path().join("b"), "bob"), &certificates, &ca_file, site).await?;
        let passed = tour::walk((&alice, &bob), site, &certificates, out).await?;
        if stay == Stay::Serve {
            tour::tell_how_to_try(&alice, &bob, &ca_file, out)?;
            tokio::signal::ctrl_c().await?;
        }
        Ok::<_, Failure>(passed)
    })?;
    runtime.shutdown_background();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts one server with one user in its own folder: front, stand-in homeserver, and a sidecar that may preview `site`.
async fn start(
    (folder, localpart): (&Path, &str),
    certificates: &Certificates,
    ca_file: &Path,
    site: SocketAddr,
) -> Result<Server, Failure> {
    std::fs::create_dir(folder)?;
    let environment = Environment::system();
    let front = TcpListener::bind("127.0.0.1:0").await?;
    let homeserver = TcpListener::bind("127.0.0.1:0").await?;
    let address = front.local_addr()?;
    let homeserver_address = homeserver.local_addr()?;
    let name = ServerName::parse(&address.to_string())?;

    // As in a real deployment, both read the key from the same file.
    let key_file = folder.join("signing.key");
    SigningKey::generate(|bytes| (environment.random)(bytes)).save(&key_file, Overwrite::Never)?;
    let key = SigningKey::load(&key_file)?.key;
    let mut secret = [0; 12];
    (environment.random)(&mut secret);
    let token = format!("{localpart}_{}", HEXLOWER.encode(&secret));
    let stand_in = Arc::new(StandIn::new(&name, localpart, token.clone(), &key));
    tokio::spawn(front::serve_stand_in(homeserver, stand_in));

    let mut config = Config::defaults(name.clone());
    config.listen.addresses = vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())];
    config.data_dir = folder.join("data");
    config.homeserver.url = format!("http://{homeserver_address}");
    config.federation.ip_allow = vec!["127.0.0.0/8".parse()?];
    config.federation.ca_file = Some(ca_file.to_owned());
    config.previews.ip_allow = vec![site.ip().into()];
    config.previews.ports = vec![site.port()].into();
    let app = App::open(&config, key, environment).map_err(|error| format!("{error:?}"))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let sidecar_address = listener.local_addr()?;
    tokio::spawn(server::run(app, vec![server::Listener::Tcp(listener)], None, std::future::pending()));

    let seen = Seen::default();
    let behind = (sidecar_address, homeserver_address);
    tokio::spawn(front::serve_front(front, certificates.acceptor.clone(), behind, seen.clone()));
    Ok(Server { name, address, token, seen })
}
