//! The HTTP server: accept loop, the route table, dispatch, access line, graceful drain.
//!
//! Everything that makes this an HTTP server is here; what the endpoints do is in `handlers/`. Routing comes first (404,
//! 405 and OPTIONS need no token), then the handler.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use matchit::Router;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::client::{self, Auth};
use crate::api::federation::{self, BodyFormat};
use crate::api::ops;
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::housekeeping;
use crate::http::access::{Access, Occasion, client_address};
use crate::http::drain::{self, Draining, InFlight};
use crate::http::error_response;
use crate::http::listeners::Stream;
pub use crate::http::listeners::{Listener, bind};
use crate::http::probe_header::{self, Mark};
use crate::http::request::{self, Call, PathParams};
use crate::http::response::{self, Response};
use crate::http::write_timeout::WriteTimeout;
use crate::sync::pools::Pool;

/// Connections at the same time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// Longest wait for a request's head, on a fresh connection or an idle one. Above nginx's 60 s for idle upstreams, so that
/// the proxy closes first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest wait for a client to take a byte of an answer.
const WRITE_STALL: Duration = Duration::from_mins(1);

/// Largest request head, and read buffer of a connection, bytes.
const MAX_HEAD: usize = 32 * 1024;

/// How long running requests may go on after the signal to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Pause after a failed accept: usually no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an endpoint does, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Media, whole or in ranges.
    Download,
    /// A picture made smaller.
    Thumbnail,
    /// New media.
    Upload,
    /// A media ID to be filled later (MSC2246).
    Create,
    /// Filling it.
    UploadInto,
    /// A page summarised.
    PreviewUrl,
    /// Limits.
    Config,
    /// The homeserver's versions, with ours.
    Versions,
    /// Whether all is well.
    Health,
}

/// A column of the table: who calls, under which proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// `/_matrix/media`, clients and old servers alike.
    Legacy,
    /// Clients under MSC1902.
    ClientMsc1902,
    /// Clients under MSC3916 (spec 1.11).
    ClientMsc3916,
    /// Servers under MSC1902.
    FederationMsc1902,
    /// Servers under MSC3916 (spec 1.11).
    FederationMsc3916,
    /// Neither: the homeserver's and our own.
    Own,
}

/// A row of the table: one endpoint under all its names; an empty name means that it has none there.
pub(crate) struct Row {
    /// What it does.
    pub(crate) endpoint: Endpoint,
    /// The one method (HEAD goes with GET).
    pub(crate) method: Method,
    /// Its paths, in the order of [`COLUMNS`].
    pub(crate) paths: [&'static str; 5],
}

/// The columns of [`ROUTES`].
pub(crate) const COLUMNS: [Column; 5] = [
    Column::Legacy,
    Column::ClientMsc1902,
    Column::ClientMsc3916,
    Column::FederationMsc1902,
    Column::FederationMsc3916,
];

/// The mapping of MSC1902, with its successor's columns. `{v}` is `r0`, `v1` or `v3`; `[…]` may be left out; the unstable
/// names follow by rule, see [`names`].
#[rustfmt::skip]
pub(crate) const ROUTES: [Row; 7] = [
    Row { endpoint: Endpoint::Download, method: Method::GET, paths: [
        "/_matrix/media/{v}/download/{o}/{m}[/{name}]",
        "/_matrix/client/r0/media/download/{o}/{m}[/{name}]",
        "/_matrix/client/v1/media/download/{o}/{m}[/{name}]",
        "/_matrix/federation/v1/remote_media/download/{o}/{m}",
        "/_matrix/federation/v1/media/download/{m}",
    ] },
    Row { endpoint: Endpoint::Thumbnail, method: Method::GET, paths: [
        "/_matrix/media/{v}/thumbnail/{o}/{m}",
        "/_matrix/client/r0/media/thumbnail/{o}/{m}",
        "/_matrix/client/v1/media/thumbnail/{o}/{m}",
        "/_matrix/federation/v1/remote_media/thumbnail/{o}/{m}",
        "/_matrix/federation/v1/media/thumbnail/{m}",
    ] },
    Row { endpoint: Endpoint::Upload, method: Method::POST, paths: [
        "/_matrix/media/{v}/upload",
        "/_matrix/client/r0/media/upload",
        "", "", "",
    ] },
    Row { endpoint: Endpoint::Create, method: Method::POST, paths: [
        "/_matrix/media/v1/create",
        "", "", "", "",
    ] },
    Row { endpoint: Endpoint::UploadInto, method: Method::PUT, paths: [
        "/_matrix/media/v3/upload/{o}/{m}",
        "", "", "", "",
    ] },
    Row { endpoint: Endpoint::PreviewUrl, method: Method::GET, paths: [
        "/_matrix/media/{v}/preview_url",
        "/_matrix/client/r0/media/preview_url",
        "/_matrix/client/v1/media/preview_url",
        "", "",
    ] },
    Row { endpoint: Endpoint::Config, method: Method::GET, paths: [
        "/_matrix/media/{v}/config",
        "/_matrix/client/r0/media/config",
        "/_matrix/client/v1/media/config",
        "", "",
    ] },
];

/// Paths outside the mapping: the homeserver's own, optionally routed here, and ours, never proxied to the world.
pub(crate) const OWN_ROUTES: [(Endpoint, &str); 2] =
    [(Endpoint::Versions, "/_matrix/client/versions"), (Endpoint::Health, "/_sidecar/health")];

/// Beginnings of all paths of [`ROUTES`] under all their names: what a reverse proxy sends here.
pub(crate) const PROXY_PREFIXES: [&str; 9] = [
    "/_matrix/media/",
    "/_matrix/client/r0/media/",
    "/_matrix/client/v1/media/",
    "/_matrix/client/unstable/org.matrix.msc1902/media/",
    "/_matrix/client/unstable/org.matrix.msc3916/media/",
    "/_matrix/federation/v1/remote_media/",
    "/_matrix/federation/v1/media/",
    "/_matrix/federation/unstable/org.matrix.msc1902/remote_media/",
    "/_matrix/federation/unstable/org.matrix.msc3916.v2/media/",
];

/// A path that leads somewhere.
#[derive(Clone, Debug)]
struct Route {
    /// What is there.
    endpoint: Endpoint,
    /// For whom.
    column: Column,
    /// The one method.
    method: Method,
    /// For the access line.
    name: &'static str,
}

/// Serves `app` on `listeners` until `stop` resolves, then drains: no new connections, up to 30 s for running requests,
/// and everything noted is written.
pub async fn run(app: Arc<App>, listeners: Vec<Listener>, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let server =
        Arc::new(Server { app: Arc::clone(&app), routes: routes(), stopped, places: Arc::clone(&places) });
    let mut tasks = JoinSet::new();
    housekeeping::start(&app, &mut tasks);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(Arc::clone(&server), listener));
    }

    stop.await;
    tracing::info!("stopping: finishing running requests");
    stopping.send_replace(());
    app.media.stop();
    // Whoever has connected by now is answered.
    while accepting.join_next().await.is_some() {}
    // Every connection holds a place: when all are free again, all have ended.
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN, places.acquire_many(all)).await.is_err() {
        tracing::warn!("some requests did not end in {} s and are cut off", DRAIN.as_secs());
    }
    tasks.shutdown().await;
    let media = Arc::clone(&app.media);
    if let Err(error) = app.pools.run(Pool::Disk, move || media.flush_accesses()).await {
        tracing::error!(?error, "last-access times are lost");
    }
    let store = Arc::clone(&app.store);
    if let Err(error) = app.pools.run(Pool::Disk, move || store.note_generation()).await {
        tracing::error!(?error, "store-id could not be written");
    }
}

/// Accepts connections until the service stops, and then those that are in the queue already.
async fn accept(server: Arc<Server>, listener: Listener) {
    let mut stopped = server.stopped.clone();
    loop {
        let place = Arc::clone(&server.places).acquire_owned();
        let place = tokio::select! {
            place = place => place,
            _ = stopped.changed() => break,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok(stream) => serve_connection(&server, stream, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let Ok(queue) = listener.into_queue() else { return };
    for _ in 0..MAX_CONNECTIONS {
        let Ok(place) = Arc::clone(&server.places).try_acquire_owned() else { return };
        match queue.next() {
            Ok(Some(stream)) => serve_connection(&server, stream, place),
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "cannot accept a connection"),
        }
    }
}

/// Serves one connection in a task of its own; `place` is free again when it ends.
fn serve_connection(server: &Arc<Server>, stream: Stream, place: OwnedSemaphorePermit) {
    let peer = stream.peer();
    let mut stopped = server.stopped.clone();
    let server = Arc::clone(server);
    let state = drain::Connection::new();
    let stream = Draining::new(stream, Arc::clone(&state), stopped.clone());
    let requests = Arc::clone(&state);
    let service = service_fn(move |request| {
        let (server, in_flight) = (Arc::clone(&server), requests.begin());
        async move { Ok::<_, Infallible>(server.answer(request, peer, in_flight).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream, WRITE_STALL)), service);
    tokio::spawn(async move {
        let _place = place;
        let mut connection = pin!(connection);
        let last_request = async {
            // An error means that the service is gone.
            drop(stopped.changed().await);
            state.request().await;
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = last_request => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    });
}

/// What all connections share.
struct Server {
    /// The parts.
    app: Arc<App>,
    /// The table, compiled.
    routes: Router<Route>,
    /// Changes when the server stops.
    stopped: watch::Receiver<()>,
    /// One for each connection.
    places: Arc<Semaphore>,
}

impl Server {
    /// Answers one request, whatever it is, and sees to its access line.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
        in_flight: InFlight,
    ) -> Response {
        let method = request.method().clone();
        let uri = request.uri().clone();
        // One that asks its homeserver and finds a sidecar is told nothing but that.
        let in_circles = request.headers().contains_key(probe_header::ASKING);
        let found = self.routes.at(uri.path()).ok().filter(|_| !in_circles);
        let (name, route) = found.as_ref().map_or(("-", None), |found| (found.value.name, Some(found.value)));
        let mark = route.is_none().then(|| {
            let target = request::target(&uri);
            Mark::of(&self.app.federation.fingerprint(), &target, request.version(), request.headers())
                .to_string()
        });
        // Who asks how we are is not to keep us busy.
        let busy = route.filter(|route| route.column != Column::Own).map(|_| self.app.activity.begin());
        let mut access = Access::begin(method.clone(), name, busy);
        access.in_flight = Some(in_flight);
        access.client = client_address(peer, request.headers());
        if route.is_some_and(|route| route.endpoint == Endpoint::Health) {
            access.occasion = Occasion::Probe;
        }
        let (outcome, mut access) = match route {
            _ if method == Method::OPTIONS => (Ok(response::preflight()), access),
            None => {
                client::discard(request.into_body());
                (Err(Error::new(Kind::Unrecognized, "unrecognized request")), access)
            }
            Some(route) if !route.takes(&method) => {
                client::discard(request.into_body());
                (Err(Error::new(Kind::MethodNotAllowed, "this method is not for this path")), access)
            }
            Some(route) => {
                let path = found.as_ref().map(|found| path_params(&found.params)).unwrap_or_default();
                let (parts, body) = request.into_parts();
                let mut call = Call {
                    method: method.clone(),
                    version: parts.version,
                    uri: parts.uri,
                    headers: parts.headers,
                    path,
                    body,
                    access,
                };
                let outcome = Box::pin(dispatch(&self.app, route, &mut call)).await;
                if outcome.is_err() {
                    client::discard(call.body);
                }
                (outcome, call.access)
            }
        };
        let mut response = outcome.unwrap_or_else(|error| error_response::error(&error, name));
        if let Some(mark) = mark.and_then(|mark| HeaderValue::try_from(mark).ok()) {
            response.headers_mut().insert(header::HeaderName::from_static(probe_header::MARK), mark);
        }
        if let (Some(route), 405) = (route, response.status().as_u16())
            && let Ok(allow) = HeaderValue::from_str(route.allow())
        {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        if method == Method::HEAD {
            response.body_mut().clear();
        }
        access.status = response.status().as_u16();
        response.body_mut().log(access);
        response
    }
}

/// From route to endpoint: every pair that the table can hold.
async fn dispatch(app: &Arc<App>, route: &Route, call: &mut Call) -> Result<Response> {
    match (route.endpoint, route.column) {
        (Endpoint::Download, Column::Legacy | Column::ClientMsc1902) => {
            client::get_content(app, call, Auth::Optional).await
        }
        (Endpoint::Download, Column::ClientMsc3916 | Column::Own) => {
            client::get_content(app, call, Auth::Required).await
        }
        (Endpoint::Download, Column::FederationMsc1902) => {
            federation::get_content(app, call, BodyFormat::Raw).await
        }
        (Endpoint::Download, Column::FederationMsc3916) => {
            federation::get_content(app, call, BodyFormat::Multipart).await
        }
        (Endpoint::Thumbnail, Column::Legacy | Column::ClientMsc1902) => {
            client::get_content_thumbnail(app, call, Auth::Optional).await
        }
        (Endpoint::Thumbnail, Column::ClientMsc3916 | Column::Own) => {
            client::get_content_thumbnail(app, call, Auth::Required).await
        }
        (Endpoint::Thumbnail, Column::FederationMsc1902) => {
            federation::get_content_thumbnail(app, call, BodyFormat::Raw).await
        }
        (Endpoint::Thumbnail, Column::FederationMsc3916) => {
            federation::get_content_thumbnail(app, call, BodyFormat::Multipart).await
        }
        (Endpoint::PreviewUrl, _) => client::get_url_preview(app, call).await,
        (Endpoint::Upload, _) => client::create_content(app, call).await,
        (Endpoint::Create, _) => client::create_mxc_uri(app, call).await,
        (Endpoint::UploadInto, _) => client::create_content_async(app, call).await,
        (Endpoint::Config, _) => client::get_media_config(app, call).await,
        (Endpoint::Versions, _) => ops::get_supported_versions(app, call).await,
        (Endpoint::Health, _) => ops::health(app).await,
    }
}

impl Route {
    /// Whether `method` is this route's. HEAD is GET without the body.
    fn takes(&self, method: &Method) -> bool {
        *method == self.method || (*method == Method::HEAD && self.method == Method::GET)
    }

    /// The `Allow` header.
    fn allow(&self) -> &'static str {
        match self.method {
            Method::GET => "GET, HEAD, OPTIONS",
            Method::POST => "POST, OPTIONS",
            _ => "PUT, OPTIONS",
        }
    }
}

/// The table, compiled: every name of every endpoint.
#[expect(clippy::expect_used, reason = "the table is constant and a test compiles it")]
fn routes() -> Router<Route> {
    let mut router = Router::new();
    let mut add =
        |path: String, route: Route| router.insert(path, route).expect("no two routes share a path");
    for row in &ROUTES {
        for (column, path) in COLUMNS.into_iter().zip(row.paths).filter(|(_, path)| !path.is_empty()) {
            let route = Route { endpoint: row.endpoint, column, method: row.method.clone(), name: path };
            for name in names(column, row.endpoint, path) {
                add(name, route.clone());
            }
        }
    }
    for (endpoint, path) in OWN_ROUTES {
        add(path.to_owned(), Route { endpoint, column: Column::Own, method: Method::GET, name: path });
    }
    router
}

/// Every path that a cell of the table stands for: versions, the unstable name of its proposal, with and without what is
/// optional.
fn names(column: Column, endpoint: Endpoint, path: &str) -> Vec<String> {
    let unstable = match (column, endpoint) {
        (Column::ClientMsc1902, _) => path.replacen("/r0/", "/unstable/org.matrix.msc1902/", 1),
        (Column::FederationMsc1902, _) => path.replacen("/v1/", "/unstable/org.matrix.msc1902/", 1),
        (Column::ClientMsc3916, _) => path.replacen("/v1/", "/unstable/org.matrix.msc3916/", 1),
        (Column::FederationMsc3916, _) => path.replacen("/v1/", "/unstable/org.matrix.msc3916.v2/", 1),
        (Column::Legacy, Endpoint::Create) => path.replacen("/v1/", "/unstable/fi.mau.msc2246/", 1),
        (Column::Legacy, Endpoint::UploadInto) => path.replacen("/v3/", "/unstable/fi.mau.msc2246/", 1),
        (Column::Legacy | Column::Own, _) => String::new(),
    };
    let versions = ["r0", "v1", "v3"].map(|version| path.replace("{v}", version));
    let mut all: Vec<String> =
        versions.into_iter().chain([unstable]).filter(|path| !path.is_empty()).collect();
    all.sort();
    all.dedup();
    let with_options = |path: String| match path.split_once('[') {
        Some((short, rest)) => vec![short.to_owned(), format!("{short}{}", rest.trim_end_matches(']'))],
        None => vec![path],
    };
    all.into_iter().flat_map(with_options).collect()
}

/// What the pattern captured.
fn path_params(params: &matchit::Params<'_, '_>) -> PathParams {
    let get = |name| params.get(name).map(str::to_owned);
    PathParams { server_name: get("o"), media_id: get("m"), file_name: get("name") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_table_leads_to_its_endpoint() {
        let routes = routes();
        for (path, endpoint, column) in [
            ("/_matrix/media/r0/download/a/b", Endpoint::Download, Column::Legacy),
            ("/_matrix/media/v3/download/a/b/c%2Fd.png", Endpoint::Download, Column::Legacy),
            ("/_matrix/client/r0/media/download/a/b", Endpoint::Download, Column::ClientMsc1902),
            (
                "/_matrix/client/unstable/org.matrix.msc1902/media/config",
                Endpoint::Config,
                Column::ClientMsc1902,
            ),
            ("/_matrix/client/v1/media/download/a/b/c", Endpoint::Download, Column::ClientMsc3916),
            (
                "/_matrix/client/unstable/org.matrix.msc3916/media/thumbnail/a/b",
                Endpoint::Thumbnail,
                Column::ClientMsc3916,
            ),
            (
                "/_matrix/federation/v1/remote_media/download/a/b",
                Endpoint::Download,
                Column::FederationMsc1902,
            ),
            (
                "/_matrix/federation/unstable/org.matrix.msc1902/remote_media/thumbnail/a/b",
                Endpoint::Thumbnail,
                Column::FederationMsc1902,
            ),
            ("/_matrix/federation/v1/media/download/b", Endpoint::Download, Column::FederationMsc3916),
            (
                "/_matrix/federation/unstable/org.matrix.msc3916.v2/media/download/b",
                Endpoint::Download,
                Column::FederationMsc3916,
            ),
            ("/_matrix/media/v1/create", Endpoint::Create, Column::Legacy),
            ("/_matrix/media/unstable/fi.mau.msc2246/create", Endpoint::Create, Column::Legacy),
            ("/_matrix/media/v3/upload/a/b", Endpoint::UploadInto, Column::Legacy),
            ("/_matrix/media/unstable/fi.mau.msc2246/upload/a/b", Endpoint::UploadInto, Column::Legacy),
            ("/_matrix/media/r0/upload", Endpoint::Upload, Column::Legacy),
            ("/_sidecar/health", Endpoint::Health, Column::Own),
        ] {
            let found = routes.at(path).unwrap_or_else(|_| panic!("{path}"));
            assert_eq!((found.value.endpoint, found.value.column), (endpoint, column), "{path}");
        }
        for path in [
            "/",
            "/_matrix/media/unknown",
            "/_matrix/media/v2/download/a/b",
            "/_matrix/media/v3/download/a",
            "/_matrix/media/v3/download//b",
            "/_matrix/media/v3/create",
            "/_matrix/client/v1/media/upload",
        ] {
            assert!(routes.at(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_proxy_prefixes_cover_every_name() {
        for row in &ROUTES {
            for (column, path) in COLUMNS.into_iter().zip(row.paths).filter(|(_, path)| !path.is_empty()) {
                for name in names(column, row.endpoint, path) {
                    assert!(PROXY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)), "{name}");
                }
            }
        }
    }

    #[test]
    fn the_readme_shows_this_table() {
        let readme = include_str!("../README.md");
        for row in &ROUTES {
            let cells = row.paths.map(|path| {
                if path.is_empty() { "–".to_owned() } else { format!("`{} {path}`", row.method) }
            });
            let line = cells.join(" | ");
            assert!(readme.contains(&line), "README.md lacks the line\n{line}");
        }
        for path in PROXY_PREFIXES {
            assert!(readme.contains(&format!("\n{path}\n")), "README.md lacks {path}");
        }
        for (_, path) in OWN_ROUTES {
            assert!(readme.contains(path), "README.md lacks {path}");
        }
    }
}
