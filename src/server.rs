//! The HTTP server: route table, accept loop, dispatch, access line, listeners, graceful drain.
//!
//! Everything that makes this an HTTP server is here; what the endpoints do is in `api/`. The order for each request: routing comes
//! first (404, 405 and OPTIONS need no token), then who calls (`api::auth`), then the endpoint.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use matchit::Router;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::auth::Auth::{self, Homeserver, Internal, Optional, Required, Server, UserOnly};
use crate::api::auth::Principal;
use crate::api::auth::authenticate;
use crate::api::client::{self, AllowRemote};
use crate::api::federation::{self, BodyFormat};
use crate::api::ops;
use crate::app::App;
use crate::config::{Config, Listen, ListenAddr};
use crate::error::{Error, Kind, LogLevel, Result, in_words};
use crate::housekeeping;
use crate::http::access::{self, Access};
use crate::http::connection::{Connection, InFlight, Requests, Socket};
use crate::http::error_response;
use crate::http::probe_header::{self, ProbeHeader};
use crate::http::request::{self, Call, PathParams};
use crate::http::response::{self, Response};
use crate::log::{self, RequestId, RequestIds};
use crate::sync::pools::Pool;

/// Connections of clients and servers at the same time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: u32 = 4096;

/// Connections to `ops.listen` at the same time. Apart from the others, so that the operator gets in when all of those are taken.
const MAX_OPS_CONNECTIONS: u32 = 64;

/// Longest wait for a request's head, on a fresh connection or an idle one. Above nginx's 60 s for idle upstreams, so that
/// the proxy closes first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest wait for a client to take a buffer of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// Largest request head, and read buffer of a connection, bytes.
const MAX_HEAD: usize = 32 * 1024;

/// How long running requests may go on after the signal to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Pause after a failed accept: usually no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the kernel keeps for a Unix socket until they are accepted.
const BACKLOG: i32 = 1024;

/// Mode of a Unix socket of `listen`: the reverse proxy shares the group.
const LISTEN_MODE: u32 = 0o660;

/// Mode of a Unix socket of `ops.listen`.
const OPS_MODE: u32 = 0o600;

/// On each answer: the ID that the log has for the request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What an endpoint does, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Download,
    Thumbnail,
    Upload,
    /// A media ID to be filled later (MSC2246).
    Create,
    /// Filling it.
    UploadInto,
    PreviewUrl,
    Config,
    /// The homeserver's versions, with ours.
    Versions,
    Health,
}

/// A column of the table: who calls, under which proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// `/_matrix/media`, clients and old servers alike.
    Legacy,
    ClientMsc1902,
    /// Spec 1.11.
    ClientMsc3916,
    FederationMsc1902,
    /// Spec 1.11.
    FederationMsc3916,
    /// None of them: the homeserver's path and our own.
    Own,
}

/// A row of the table: one endpoint under all its names.
pub(crate) struct Row {
    pub(crate) endpoint: Endpoint,
    /// HEAD goes with GET.
    pub(crate) method: Method,
    /// Who may call, and the path, in the order of [`COLUMNS`]; [`NONE`] where the endpoint does not exist.
    pub(crate) cells: [(Auth, &'static str); 5],
}

/// The columns of [`ROUTES`].
pub(crate) const COLUMNS: [Column; 5] = [
    Column::Legacy,
    Column::ClientMsc1902,
    Column::ClientMsc3916,
    Column::FederationMsc1902,
    Column::FederationMsc3916,
];

/// A cell without a path.
const NONE: (Auth, &str) = (Internal, "");

/// The mapping of MSC1902, with its successor's columns. `{v}` is `r0`, `v1` or `v3`; `[…]` may be left out; the unstable
/// names follow by rule, see [`names`].
#[rustfmt::skip]
pub(crate) const ROUTES: [Row; 7] = [
    Row { endpoint: Endpoint::Download, method: Method::GET, cells: [
        (Optional, "/_matrix/media/{v}/download/{o}/{m}[/{name}]"),
        (Optional, "/_matrix/client/r0/media/download/{o}/{m}[/{name}]"),
        (Required, "/_matrix/client/v1/media/download/{o}/{m}[/{name}]"),
        (Server, "/_matrix/federation/v1/remote_media/download/{o}/{m}"),
        (Server, "/_matrix/federation/v1/media/download/{m}"),
    ] },
    Row { endpoint: Endpoint::Thumbnail, method: Method::GET, cells: [
        (Optional, "/_matrix/media/{v}/thumbnail/{o}/{m}"),
        (Optional, "/_matrix/client/r0/media/thumbnail/{o}/{m}"),
        (Required, "/_matrix/client/v1/media/thumbnail/{o}/{m}"),
        (Server, "/_matrix/federation/v1/remote_media/thumbnail/{o}/{m}"),
        (Server, "/_matrix/federation/v1/media/thumbnail/{m}"),
    ] },
    Row { endpoint: Endpoint::Upload, method: Method::POST, cells: [
        (UserOnly, "/_matrix/media/{v}/upload"),
        (UserOnly, "/_matrix/client/r0/media/upload"),
        NONE, NONE, NONE,
    ] },
    Row { endpoint: Endpoint::Create, method: Method::POST, cells: [
        (UserOnly, "/_matrix/media/v1/create"),
        NONE, NONE, NONE, NONE,
    ] },
    Row { endpoint: Endpoint::UploadInto, method: Method::PUT, cells: [
        (UserOnly, "/_matrix/media/v3/upload/{o}/{m}"),
        NONE, NONE, NONE, NONE,
    ] },
    Row { endpoint: Endpoint::PreviewUrl, method: Method::GET, cells: [
        (UserOnly, "/_matrix/media/{v}/preview_url"),
        (UserOnly, "/_matrix/client/r0/media/preview_url"),
        (UserOnly, "/_matrix/client/v1/media/preview_url"),
        NONE, NONE,
    ] },
    Row { endpoint: Endpoint::Config, method: Method::GET, cells: [
        (UserOnly, "/_matrix/media/{v}/config"),
        (UserOnly, "/_matrix/client/r0/media/config"),
        (UserOnly, "/_matrix/client/v1/media/config"),
        NONE, NONE,
    ] },
];

/// The homeserver's own path, optionally routed here, and ours, never proxied to the world. Served beside [`ROUTES`].
pub(crate) const OWN_ROUTES: [Route; 2] = [
    Route::own(Endpoint::Versions, Homeserver, "/_matrix/client/versions"),
    Route::own(Endpoint::Health, Internal, "/_sidecar/health"),
];

/// What `ops.listen` serves.
pub(crate) const OPS_ROUTES: [Route; 1] = [Route::own(Endpoint::Health, Internal, "/_sidecar/health")];

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

/// A method and a path, who may call, and what is there.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    endpoint: Endpoint,
    column: Column,
    auth: Auth,
    method: Method,
    /// Also the name in the access line.
    pub(crate) pattern: &'static str,
}

impl Route {
    /// A route outside of MSC1902's mapping.
    const fn own(endpoint: Endpoint, auth: Auth, pattern: &'static str) -> Self {
        Self { endpoint, column: Column::Own, auth, method: Method::GET, pattern }
    }

    /// Whether `method` is this route's. HEAD is GET without the body.
    fn takes(&self, method: &Method) -> bool {
        *method == self.method || (*method == Method::HEAD && self.method == Method::GET)
    }
}

/// The `Allow` header of a path.
fn allow(routes: &[Route]) -> String {
    let mut methods: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods.join(", ")
}

/// Everything that the main listener serves: every name of every cell, and [`OWN_ROUTES`].
fn main_routes() -> Vec<(String, Route)> {
    let mut all = Vec::new();
    for Row { endpoint, method, cells } in &ROUTES {
        for (column, (auth, pattern)) in COLUMNS.into_iter().zip(*cells).filter(|(_, cell)| *cell != NONE) {
            let route = Route { endpoint: *endpoint, column, auth, method: method.clone(), pattern };
            all.extend(names(column, *endpoint, pattern).into_iter().map(|name| (name, route.clone())));
        }
    }
    all.extend(OWN_ROUTES.map(|route| (route.pattern.to_owned(), route)));
    all
}

/// What `ops.listen` serves.
fn ops_routes() -> Vec<(String, Route)> {
    OPS_ROUTES.map(|route| (route.pattern.to_owned(), route)).into()
}

/// The routes of each path, to be looked up.
#[expect(clippy::expect_used, reason = "the tables are constant and a test compiles them")]
fn compile(routes: Vec<(String, Route)>) -> Router<Vec<Route>> {
    let mut paths = BTreeMap::<String, Vec<Route>>::new();
    for (path, route) in routes {
        paths.entry(path).or_default().push(route);
    }
    let mut compiled = Router::new();
    for (path, routes) in paths {
        compiled.insert(path, routes).expect("no path of the tables contradicts another");
    }
    compiled
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

/// Serves `app` on the listeners `main` and `ops` until `stop` resolves, then drains: no new connections, up to 30 s for running
/// requests, and everything noted is written.
pub async fn run(app: Arc<App>, main: Vec<Listener>, ops: Option<Listener>, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(());
    let mut seed = [0; 8];
    (app.random)(&mut seed);
    let request_ids = Arc::new(RequestIds::new(seed));
    let surface = |routes: Vec<(String, Route)>, limit: u32| {
        Arc::new(Surface {
            app: Arc::clone(&app),
            routes: compile(routes),
            listen: app.config().listen.clone(),
            request_ids: Arc::clone(&request_ids),
            stopped: stopped.clone(),
            limit,
            places: Arc::new(Semaphore::new(usize::try_from(limit).unwrap_or(1))),
        })
    };
    let main_surface = surface(main_routes(), MAX_CONNECTIONS);
    let ops_surface = surface(ops_routes(), MAX_OPS_CONNECTIONS);
    let mut tasks = JoinSet::new();
    housekeeping::start(&app, &mut tasks);
    let mut accepting = JoinSet::new();
    for listener in main {
        accepting.spawn(accept(Arc::clone(&main_surface), listener));
    }
    if let Some(listener) = ops {
        accepting.spawn(accept(Arc::clone(&ops_surface), listener));
    }

    stop.await;
    tracing::info!("stopping: finishing running requests");
    stopping.send_replace(());
    app.media.stop();
    // Every client that has connected before the stop is answered.
    while accepting.join_next().await.is_some() {}
    let all_ended = async { tokio::join!(main_surface.drained(), ops_surface.drained()) };
    if tokio::time::timeout(DRAIN, all_ended).await.is_err() {
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
async fn accept(surface: Arc<Surface>, listener: Listener) {
    let mut stopped = surface.stopped.clone();
    loop {
        let place = Arc::clone(&surface.places).acquire_owned();
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
            Ok(socket) => serve_connection(&surface, socket, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let Ok(queue) = listener.into_queue() else { return };
    for accepted in queue {
        let Ok(place) = Arc::clone(&surface.places).try_acquire_owned() else { return };
        match accepted {
            Ok(socket) => serve_connection(&surface, socket, place),
            Err(error) => return tracing::warn!(%error, "cannot accept a connection"),
        }
    }
}

/// Serves one connection in a task of its own; `place` is free again when it ends.
fn serve_connection(surface: &Arc<Surface>, socket: Socket, place: OwnedSemaphorePermit) {
    let peer = socket.peer().map(|peer| peer.to_canonical());
    let mut stopped = surface.stopped.clone();
    let surface = Arc::clone(surface);
    let requests = Requests::new();
    let stream = Connection::new(socket, Arc::clone(&requests), stopped.clone(), WRITE_TIMEOUT);
    let counted = Arc::clone(&requests);
    let service = service_fn(move |request| {
        let (surface, in_flight) = (Arc::clone(&surface), counted.begin());
        async move { Ok::<_, Infallible>(surface.answer(request, peer, in_flight).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::spawn(async move {
        let _place = place;
        let mut connection = pin!(connection);
        let last_request = async {
            // An error means that the service is gone.
            drop(stopped.changed().await);
            requests.next().await;
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

/// A set of routes with the connections that ask for them: what all connections of `listen` share, and all of `ops.listen`.
struct Surface {
    app: Arc<App>,
    routes: Router<Vec<Route>>,
    /// Which peers are believed about others.
    listen: Listen,
    request_ids: Arc<RequestIds>,
    /// Changes when the service stops.
    stopped: watch::Receiver<()>,
    /// Connections at the same time.
    limit: u32,
    /// A permit for each of them.
    places: Arc<Semaphore>,
}

impl Surface {
    /// Waits until all connections have ended: each holds a place.
    async fn drained(&self) {
        drop(self.places.acquire_many(self.limit).await);
    }

    /// Answers one request, whatever it is, and sees to its access line.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
        in_flight: InFlight,
    ) -> Response {
        let is_trusted = self.listen.trusts(peer);
        let given = request.headers().get(REQUEST_ID).filter(|_| is_trusted);
        let given = given.and_then(|id| RequestId::parse(id.to_str().ok()?));
        let id = given.unwrap_or_else(|| self.request_ids.next());
        let mut access = Access::begin(request.method().clone(), id.clone(), in_flight);
        access.client = access::client_address(peer, request.headers(), &self.listen);
        let header = HeaderValue::try_from(id.as_str());
        let mut response = log::in_request(id, self.respond(request, access)).await;
        response.headers_mut().extend(header.ok().map(|id| (REQUEST_ID, id)));
        response
    }

    /// Finds the route and has it answered.
    async fn respond(&self, request: Request<Incoming>, mut access: Access) -> Response {
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        // A sidecar that asks its homeserver and reaches a sidecar is told nothing but that.
        let in_circles = parts.headers.contains_key(probe_header::ASKING);
        let found = self.routes.at(uri.path()).ok().filter(|_| !in_circles);
        let routes = found.as_ref().map_or(&[][..], |found| found.value.as_slice());
        if let Some(first) = routes.first() {
            access.route = first.pattern;
            access.is_probe = first.endpoint == Endpoint::Health;
            // Health checks do not keep the machine busy.
            access.busy = (first.column != Column::Own).then(|| self.app.activity.begin());
        }
        let path = found.as_ref().map(|found| path_params(&found.params)).unwrap_or_default();
        let Parts { method, version, uri: target, headers, .. } = parts;
        let mut call = Call { method, version, uri: target, headers, path, body, access };
        let outcome = match routes.iter().find(|route| route.takes(&call.method)) {
            _ if call.method == Method::OPTIONS => Ok(response::preflight()),
            Some(route) => Box::pin(self.call(route, &mut call)).await,
            None if routes.is_empty() => Err(Error::new(Kind::Unrecognized, "unrecognized request")),
            None => Err(Error::new(Kind::MethodNotAllowed, "this method is not for this path")),
        };
        let Call { method, version, headers, body, mut access, .. } = call;
        if outcome.is_err() {
            client::discard(body);
        }
        let mut response = outcome.unwrap_or_else(|error| failure(&error, access.route));
        if routes.is_empty() {
            let fingerprint = self.app.federation.fingerprint();
            let target = request::target(&uri);
            let probe = ProbeHeader::of(&fingerprint, &target, version, &headers).to_string();
            response
                .headers_mut()
                .extend(HeaderValue::try_from(probe).ok().map(|probe| (probe_header::NAME, probe)));
        }
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            let allow = HeaderValue::try_from(allow(routes));
            response.headers_mut().extend(allow.ok().map(|allow| (header::ALLOW, allow)));
        }
        if method == Method::HEAD {
            response.body_mut().clear();
        }
        access.status = response.status().as_u16();
        response.body_mut().log(access);
        response
    }

    /// Who calls comes first: nothing of the request is looked at before.
    async fn call(&self, route: &Route, call: &mut Call) -> Result<Response> {
        let principal = authenticate(&self.app, route.auth, call).await?;
        dispatch(&self.app, route, principal, call).await
    }
}

/// From route to endpoint: every pair that the tables can hold.
async fn dispatch(app: &Arc<App>, route: &Route, principal: Principal, call: &mut Call) -> Result<Response> {
    match (route.endpoint, route.column) {
        (Endpoint::Download, Column::Legacy | Column::ClientMsc1902) => {
            client::get_content(app, call, &principal, AllowRemote::Heeded).await
        }
        (Endpoint::Download, Column::ClientMsc3916 | Column::Own) => {
            client::get_content(app, call, &principal, AllowRemote::Ignored).await
        }
        (Endpoint::Download, Column::FederationMsc1902) => {
            federation::get_content(app, call, BodyFormat::Raw).await
        }
        (Endpoint::Download, Column::FederationMsc3916) => {
            federation::get_content(app, call, BodyFormat::Multipart).await
        }
        (Endpoint::Thumbnail, Column::Legacy | Column::ClientMsc1902) => {
            client::get_content_thumbnail(app, call, &principal, AllowRemote::Heeded).await
        }
        (Endpoint::Thumbnail, Column::ClientMsc3916 | Column::Own) => {
            client::get_content_thumbnail(app, call, &principal, AllowRemote::Ignored).await
        }
        (Endpoint::Thumbnail, Column::FederationMsc1902) => {
            federation::get_content_thumbnail(app, call, BodyFormat::Raw).await
        }
        (Endpoint::Thumbnail, Column::FederationMsc3916) => {
            federation::get_content_thumbnail(app, call, BodyFormat::Multipart).await
        }
        (Endpoint::PreviewUrl, _) => client::get_url_preview(app, call).await,
        (Endpoint::Upload, _) => client::create_content(app, call, principal.user()?).await,
        (Endpoint::Create, _) => client::create_mxc_uri(app, call, principal.user()?).await,
        (Endpoint::UploadInto, _) => client::create_content_async(app, call, principal.user()?).await,
        (Endpoint::Config, _) => Ok(client::get_media_config(app)),
        (Endpoint::Versions, _) => ops::get_supported_versions(app, call).await,
        (Endpoint::Health, _) => ops::health(app).await,
    }
}

/// The answer to a request that failed. The log line, if there is one, carries the request's ID.
fn failure(error: &Error, route: &str) -> Response {
    match error.kind().log_level() {
        LogLevel::Quiet => error_response::error(error, route),
        LogLevel::Info | LogLevel::Warn | LogLevel::Error => {
            log::request_span().in_scope(|| error_response::error(error, route))
        }
    }
}

fn path_params(params: &matchit::Params<'_, '_>) -> PathParams {
    let get = |name| params.get(name).map(str::to_owned);
    PathParams { server_name: get("o"), media_id: get("m"), file_name: get("name") }
}

/// A socket to accept from.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Takes the next connection that was made and not accepted.
type Take = Box<dyn FnMut() -> io::Result<Socket> + Send>;

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole: waiting for more to send only delays them. An error shows later.
                drop(stream.set_nodelay(true));
                Ok(Socket::Tcp(stream, peer.ip()))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }

    /// The connections that were made and not accepted. The kernel is asked: what the runtime knows of readiness may be old.
    fn into_queue(self) -> io::Result<impl Iterator<Item = io::Result<Socket>>> {
        let mut take: Take = match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (stream, peer) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    TcpStream::from_std(stream).map(|stream| Socket::Tcp(stream, peer.ip()))
                })
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream).map(Socket::Unix)
                })
            }
        };
        Ok(std::iter::from_fn(move || match take() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            taken => Some(taken),
        }))
    }
}

/// Where it listens, for people.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("?"),
            },
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                match address.as_ref().and_then(|address| address.as_pathname()) {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("unix:?"),
                }
            }
        }
    }
}

/// Opens the sockets of `listen`. A Unix socket that an earlier run left is replaced, and may be used by its group.
pub fn bind(config: &Config) -> io::Result<Vec<Listener>> {
    let addresses = &config.listen.addresses;
    addresses.iter().map(|address| bind_one(address, LISTEN_MODE, "listen")).collect()
}

/// Opens the socket of `ops.listen`, unless that is off. A Unix socket that an earlier run left is replaced, and may be used by its
/// owner alone.
///
/// # Errors
/// Where nobody has asked for the socket in `data_dir`, only when another process listens on it: on a file system without
/// sockets, or with a path too long for one, the service goes on without it.
pub fn bind_ops(config: &Config) -> io::Result<Option<Listener>> {
    let Some(address) = config.ops_address() else { return Ok(None) };
    match bind_one(&address, OPS_MODE, "ops.listen") {
        Err(error) if config.ops.listen.is_none() && error.kind() != io::ErrorKind::AddrInUse => {
            tracing::warn!("{error}; the service goes on without it");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// What to do about an address that cannot be listened on, besides setting another one.
const FIXES: [(io::ErrorKind, &str); 4] = [
    (io::ErrorKind::AddrInUse, "stop what listens there, or "),
    (io::ErrorKind::AlreadyExists, "remove it, or "),
    (io::ErrorKind::NotFound, "make its folder, or "),
    (io::ErrorKind::AddrNotAvailable, "it is no address of this machine; "),
];

/// Opens the socket at `address`, which `key` names.
fn bind_one(address: &ListenAddr, mode: u32, key: &str) -> io::Result<Listener> {
    let bound = match address {
        ListenAddr::Tcp(address) => std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Listener::Tcp)
        }),
        ListenAddr::Unix(path) => bind_unix(path, mode).map(Listener::Unix),
    };
    bound.map_err(|error| {
        let fix = FIXES.iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, fix)| *fix);
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {}; {fix}set `{key}`", in_words(&error)),
        )
    })
}

/// Opens a Unix socket. One that a process which is gone has left there is replaced, one that is in use is not.
fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    };
    match path.symlink_metadata() {
        Ok(metadata) if metadata.file_type().is_socket() => {
            match rustix::net::connect(socket()?, &address) {
                Err(Errno::CONNREFUSED) => std::fs::remove_file(path)?,
                // A queue that is full belongs to somebody.
                Ok(()) | Err(Errno::AGAIN) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = socket()?;
    rustix::net::bind(&socket, &address)?;
    // Nobody can connect before `listen`, so never with another mode.
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_table_leads_to_its_endpoint() {
        let routes = compile(main_routes());
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
            let [route] = found.value.as_slice() else { panic!("{path}: {:?}", found.value) };
            assert_eq!((route.endpoint, route.column), (endpoint, column), "{path}");
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

    /// README says who may call in three sentences; here they are again.
    #[test]
    fn who_may_call_is_what_the_readme_says() {
        for (path, Route { endpoint, column, auth, .. }) in main_routes() {
            let is_media = matches!(endpoint, Endpoint::Download | Endpoint::Thumbnail);
            let expected = match column {
                Column::FederationMsc1902 | Column::FederationMsc3916 => Server,
                Column::Legacy | Column::ClientMsc1902 if is_media => Optional,
                Column::ClientMsc3916 if is_media => Required,
                Column::Legacy | Column::ClientMsc1902 | Column::ClientMsc3916 => UserOnly,
                Column::Own if endpoint == Endpoint::Versions => Homeserver,
                Column::Own => Internal,
            };
            assert_eq!(auth, expected, "{path}");
        }
    }

    #[test]
    fn the_ops_listener_serves_no_media_and_a_path_names_all_its_methods() {
        let routes = compile(ops_routes());
        assert!(routes.at("/_sidecar/health").is_ok());
        for (path, _) in main_routes().iter().filter(|(_, route)| route.column != Column::Own) {
            assert!(routes.at(path).is_err(), "{path}");
        }
        let [get, _] = OWN_ROUTES;
        let put = Route { method: Method::PUT, ..get.clone() };
        let path = || "/x".to_owned();
        let both = compile(vec![(path(), get), (path(), put)]);
        assert_eq!(allow(both.at("/x").unwrap().value), "GET, PUT, HEAD, OPTIONS");
    }

    #[test]
    fn the_proxy_prefixes_cover_every_name() {
        for (path, route) in main_routes() {
            let is_covered = PROXY_PREFIXES.iter().any(|prefix| path.starts_with(prefix));
            assert_eq!(is_covered, route.column != Column::Own, "{path}");
        }
    }

    #[test]
    fn the_readme_shows_this_table() {
        let readme = include_str!("../README.md");
        for row in &ROUTES {
            let cells = row.cells.map(|(_, path)| {
                if path.is_empty() { "–".to_owned() } else { format!("`{} {path}`", row.method) }
            });
            let line = cells.join(" | ");
            assert!(readme.contains(&line), "README.md lacks the line\n{line}");
        }
        for path in PROXY_PREFIXES {
            assert!(readme.contains(&format!("\n{path}\n")), "README.md lacks {path}");
        }
        for Route { pattern, .. } in OWN_ROUTES.iter().chain(&OPS_ROUTES) {
            assert!(readme.contains(pattern), "README.md lacks {pattern}");
        }
    }
}
