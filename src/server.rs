//! The HTTP server: route table, accept loop, dispatch, access line, graceful drain.
//!
//! Owns everything that makes this an HTTP server. Refuses to know what the endpoints do: that is in `api/`. Each request is first routed
//! (404, 405 and OPTIONS need no token), then authenticated (`api::auth`), then passed to its endpoint.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::auth::Auth::{self, Homeserver, Internal, Operator, Optional, Required, Server, UserOnly};
use crate::api::auth::Principal;
use crate::api::auth::authenticate;
use crate::api::client::{self, AllowRemote};
use crate::api::federation::{self, BodyFormat};
use crate::api::ops;
use crate::app::App;
use crate::config::Listen;
use crate::error::{Error, Kind, LogLevel, Result};
use crate::housekeeping;
use crate::http::access::{self, Access};
use crate::http::connection::{Connection, InFlight, Requests, Socket};
use crate::http::error_response;
pub use crate::http::listener::{Listener, bind, bind_ops};
use crate::http::probe_header::{self, ProbeHeader};
use crate::http::request::{self, Call, PathParams};
use crate::http::response::{self, Response};
use crate::log::{self, RequestId, RequestIds};
use crate::sync::admission::{Caller, MAX_CONNECTIONS, Taken, WorkKind};
use crate::sync::pools::Pool;

/// Connections to `ops.listen` at the same time. They are counted separately, so that the operator can connect when `listen` is full.
const MAX_OPS_CONNECTIONS: u32 = 64;

/// Longest wait for a request's head, on a new or idle connection. Longer than nginx keeps idle upstream connections (60 s), so that the
/// proxy closes first: otherwise it may send a request on a connection that we are closing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest wait for a client to read one buffer of a response.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// Largest request head, and read buffer of a connection, bytes.
const MAX_HEAD: usize = 32 * 1024;

/// How long running requests may continue after the signal to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Pause after a failed accept: usually no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The header with the request ID, which the log lines of the request carry too.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An endpoint, regardless of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Download,
    Thumbnail,
    Upload,
    /// Creates a media ID without content (MSC2246).
    Create,
    /// Uploads to a created media ID (MSC2246).
    UploadInto,
    PreviewUrl,
    Config,
    /// What the user has uploaded (MSC4034).
    Usage,
    /// Deletes the caller's own media; nothing to do is a success (MSC4322).
    Redact,
    /// Deletes the caller's own media (MSC2278, MSC4425).
    Delete,
    /// The homeserver's versions with our features added.
    Versions,
    Health,
    /// How much work is admitted, waits and was refused.
    Limits,
    /// Does what the operator asks for.
    Operator,
}

/// A column of the table: one kind of caller under one proposal.
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
    /// A path outside the table, see [`OWN_ROUTES`].
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

/// The mapping of MSC1902, with the columns of its successor. `{v}` is `r0`, `v1` or `v3`; `[…]` is optional; the unstable names are
/// derived by [`names`].
#[rustfmt::skip]
pub(crate) const ROUTES: [Row; 10] = [
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
    Row { endpoint: Endpoint::Usage, method: Method::GET, cells: [
        (UserOnly, "/_matrix/media/v3/usage"), NONE, NONE, NONE, NONE,
    ] },
    Row { endpoint: Endpoint::Redact, method: Method::POST, cells: [
        NONE, NONE, (UserOnly, "/_matrix/client/v1/media/redact/{o}/{m}"), NONE, NONE,
    ] },
    Row { endpoint: Endpoint::Delete, method: Method::DELETE, cells: [
        (UserOnly, "/_matrix/media/{v}/download/{o}/{m}"),
        NONE, (UserOnly, "/_matrix/client/v1/media/{o}/{m}"), NONE, NONE,
    ] },
];

/// Routes of `listen` outside [`ROUTES`]: a path of the homeserver, which the proxy may send here, and the health check, which it must not.
pub(crate) const OWN_ROUTES: [Route; 2] = [
    Route::own(Endpoint::Versions, Method::GET, Homeserver, "/_matrix/client/versions"),
    Route::own(Endpoint::Health, Method::GET, Internal, "/_sidecar/health"),
];

/// The routes of `ops.listen`.
pub(crate) const OPS_ROUTES: [Route; 3] = [
    Route::own(Endpoint::Health, Method::GET, Operator, "/_sidecar/health"),
    Route::own(Endpoint::Limits, Method::GET, Operator, "/_sidecar/limits"),
    Route::own(Endpoint::Operator, Method::POST, Operator, "/_sidecar/operator"),
];

/// Prefixes of all paths in [`ROUTES`] under all their names: what a reverse proxy must send here.
pub(crate) const PROXY_PREFIXES: [&str; 11] = [
    "/_matrix/media/",
    "/_matrix/client/r0/media/",
    "/_matrix/client/v1/media/",
    "/_matrix/client/unstable/org.matrix.msc1902/media/",
    "/_matrix/client/unstable/org.matrix.msc3916/media/",
    "/_matrix/client/unstable/uk.timedout.msc4322/media/",
    "/_matrix/client/unstable/org.matrix.msc4425/",
    "/_matrix/federation/v1/remote_media/",
    "/_matrix/federation/v1/media/",
    "/_matrix/federation/unstable/org.matrix.msc1902/remote_media/",
    "/_matrix/federation/unstable/org.matrix.msc3916.v2/media/",
];

/// A method and a path, who may call it, and the endpoint behind it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    endpoint: Endpoint,
    column: Column,
    auth: Auth,
    method: Method,
    /// Also the route's name in the access line.
    pub(crate) pattern: &'static str,
}

impl Route {
    /// A route outside the table.
    const fn own(endpoint: Endpoint, method: Method, auth: Auth, pattern: &'static str) -> Self {
        Self { endpoint, column: Column::Own, auth, method, pattern }
    }

    /// Whether the route has this method. HEAD is GET without the body.
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

/// The routes of `listen`: every name of every cell, and [`OWN_ROUTES`].
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

/// The routes of `ops.listen`, by path.
fn ops_routes() -> Vec<(String, Route)> {
    OPS_ROUTES.map(|route| (route.pattern.to_owned(), route)).into()
}

/// A router over the routes of each path.
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

/// All paths of one cell: its versions and the unstable name of its proposal, each with and without the optional part.
fn names(column: Column, endpoint: Endpoint, path: &str) -> Vec<String> {
    let unstable = match (column, endpoint) {
        (Column::ClientMsc1902, _) => path.replacen("/r0/", "/unstable/org.matrix.msc1902/", 1),
        (Column::FederationMsc1902, _) => path.replacen("/v1/", "/unstable/org.matrix.msc1902/", 1),
        (Column::ClientMsc3916, Endpoint::Redact) => {
            path.replacen("/v1/", "/unstable/uk.timedout.msc4322/", 1)
        }
        (Column::ClientMsc3916, Endpoint::Delete) => {
            path.replacen("/v1/media/", "/unstable/org.matrix.msc4425/", 1)
        }
        (Column::ClientMsc3916, _) => path.replacen("/v1/", "/unstable/org.matrix.msc3916/", 1),
        (Column::FederationMsc3916, _) => path.replacen("/v1/", "/unstable/org.matrix.msc3916.v2/", 1),
        (Column::Legacy, Endpoint::Create) => path.replacen("/v1/", "/unstable/fi.mau.msc2246/", 1),
        (Column::Legacy, Endpoint::UploadInto) => path.replacen("/v3/", "/unstable/fi.mau.msc2246/", 1),
        (Column::Legacy, Endpoint::Usage) => path.replacen("/v3/", "/unstable/org.matrix.msc4034/", 1),
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

/// Serves `app` on the listeners `main` and `ops` until `stop` resolves. Then drains: no new connections, up to 30 s for running requests,
/// and last-access times are written.
pub async fn run(app: Arc<App>, main: Vec<Listener>, ops: Option<Listener>, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(());
    let mut seed = [0; 8];
    (app.random)(&mut seed);
    let request_ids = Arc::new(RequestIds::new(seed));
    let surface = |routes: Vec<(String, Route)>, limit: u32, is_fair: bool| {
        Arc::new(Surface {
            app: Arc::clone(&app),
            routes: compile(routes),
            listen: app.config().listen.clone(),
            request_ids: Arc::clone(&request_ids),
            stopped: stopped.clone(),
            limit,
            is_fair,
            places: Arc::new(Semaphore::new(usize::try_from(limit).unwrap_or(1))),
        })
    };
    let main_surface = surface(main_routes(), MAX_CONNECTIONS.into(), true);
    let ops_surface = surface(ops_routes(), MAX_OPS_CONNECTIONS, false);
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
    // Clients that connected before the stop are still in the queue: they are answered as well.
    while accepting.join_next().await.is_some() {}
    let all_ended = async { tokio::join!(main_surface.drained(), ops_surface.drained()) };
    if tokio::time::timeout(DRAIN, all_ended).await.is_err() {
        tracing::warn!("some requests did not end within {} s and are aborted", DRAIN.as_secs());
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

/// Accepts connections until the service stops, then those that are already in the kernel's queue.
async fn accept(surface: Arc<Surface>, listener: Listener) {
    let mut stopped = surface.stopped.clone();
    loop {
        // A permit first, then `accept`: beyond the limit, connections wait in the kernel, where they cost us no memory.
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

/// Serves one connection in a new task, which holds the permit `place` until it ends. Closes it at once if its client has too many.
fn serve_connection(surface: &Arc<Surface>, socket: Socket, place: OwnedSemaphorePermit) {
    let peer = socket.peer().map(|peer| peer.to_canonical());
    let Ok(share) = surface.admit(peer) else { return };
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
        let _held = (place, share);
        let mut connection = pin!(connection);
        let last_request = async {
            // An error means that the sender was dropped, which is a stop as well.
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

/// What all connections of one listener share; there is one for `listen` and one for `ops.listen`.
struct Surface {
    app: Arc<App>,
    routes: Router<Vec<Route>>,
    /// Says which peers are trusted proxies.
    listen: Listen,
    request_ids: Arc<RequestIds>,
    /// Changes when the service stops.
    stopped: watch::Receiver<()>,
    /// Most connections at the same time.
    limit: u32,
    /// Whether one block of addresses leaves half of the connections to others.
    is_fair: bool,
    /// A permit for each connection.
    places: Arc<Semaphore>,
}

/// The clients of a block of addresses have too many connections.
struct TooMany;

impl Surface {
    /// Admits a connection. Those of a trusted proxy are its clients', whom the proxy has to bound.
    fn admit(&self, peer: Option<IpAddr>) -> std::result::Result<Option<Taken>, TooMany> {
        if !self.is_fair || self.listen.trusts(peer) {
            return Ok(None);
        }
        let share = self.app.admission.try_enter(WorkKind::Connection, Caller::unknown(peer));
        share.map(Some).ok_or(TooMany)
    }

    /// Waits until all connections have ended: each holds a permit.
    async fn drained(&self) {
        drop(self.places.acquire_many(self.limit).await);
    }

    /// Answers one request, under its request ID.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
        in_flight: InFlight,
    ) -> Response {
        let is_trusted = self.listen.trusts(peer);
        // Only from a trusted proxy: anyone else could write other requests' IDs into our log.
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

    /// Finds the route, calls its endpoint, and completes the response. The access line is written when the body has been sent.
    async fn respond(&self, request: Request<Incoming>, mut access: Access) -> Response {
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        // A sidecar that asks its homeserver and reaches a sidecar instead would go round in circles: it gets a 404 that says so.
        let in_circles = parts.headers.contains_key(probe_header::ASKING);
        let found = self.routes.at(uri.path()).ok().filter(|_| !in_circles);
        let routes = found.as_ref().map_or(&[][..], |found| found.value.as_slice());
        if let Some(first) = routes.first() {
            access.route = first.pattern;
            access.is_probe = first.endpoint == Endpoint::Health;
            // Health checks do not count as activity: the machine is idle between them.
            access.busy = (first.column != Column::Own).then(|| self.app.activity.begin());
        }
        let path = found.as_ref().map(|found| path_params(&found.params)).unwrap_or_default();
        let Parts { method, version, uri: target, headers, .. } = parts;
        let mut call = Call { method, version, uri: target, headers, path, body, access };
        let outcome = match routes.iter().find(|route| route.takes(&call.method)) {
            _ if call.method == Method::OPTIONS => Ok(response::preflight()),
            // Boxed, because the endpoints' futures are large and this one is part of every connection.
            Some(route) => Box::pin(self.call(route, &mut call)).await,
            None if routes.is_empty() => Err(Error::new(Kind::Unrecognized, "unrecognized request")),
            None => Err(Error::new(Kind::MethodNotAllowed, "this path does not support this method")),
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

    /// Authenticates the caller before anything else of the request is looked at.
    async fn call(&self, route: &Route, call: &mut Call) -> Result<Response> {
        let principal = authenticate(&self.app, route.auth, call).await?;
        dispatch(&self.app, route, principal, call).await
    }
}

/// Calls the endpoint of a route. The match covers every pair of endpoint and column.
async fn dispatch(app: &Arc<App>, route: &Route, principal: Principal, call: &mut Call) -> Result<Response> {
    let caller = principal.caller(call.access.client);
    let is_heeded = matches!(route.column, Column::Legacy | Column::ClientMsc1902);
    let allow_remote = if is_heeded { AllowRemote::Heeded } else { AllowRemote::Ignored };
    match (route.endpoint, route.column) {
        (Endpoint::Download, column) => match body_format(column) {
            Some(format) => federation::get_content(app, call, caller, format).await,
            None => client::get_content(app, call, caller, allow_remote).await,
        },
        (Endpoint::Thumbnail, column) => match body_format(column) {
            Some(format) => federation::get_content_thumbnail(app, call, caller, format).await,
            None => client::get_content_thumbnail(app, call, caller, allow_remote).await,
        },
        (Endpoint::PreviewUrl, _) => client::get_url_preview(app, call, caller).await,
        (Endpoint::Upload, _) => client::create_content(app, call, caller, principal.user()?).await,
        (Endpoint::Create, _) => client::create_mxc_uri(app, call, principal.user()?).await,
        (Endpoint::UploadInto, _) => client::create_content_async(app, call, caller, principal.user()?).await,
        (Endpoint::Config, _) => client::get_media_config(app, principal.user()?).await,
        (Endpoint::Usage, _) => client::get_media_usage(app, principal.user()?).await,
        (Endpoint::Redact, _) => client::redact_media(app, call, principal.user()?).await,
        (Endpoint::Delete, _) => client::delete_media(app, call, principal.user()?).await,
        (Endpoint::Versions, _) => ops::get_supported_versions(app, call).await,
        (Endpoint::Health, _) => ops::health(app).await,
        (Endpoint::Limits, _) => Ok(ops::limits(app)),
        (Endpoint::Operator, _) => ops::operate(app, call).await,
    }
}

/// How media is wrapped in a column for servers; `None` in one for clients.
fn body_format(column: Column) -> Option<BodyFormat> {
    match column {
        Column::FederationMsc1902 => Some(BodyFormat::Raw),
        Column::FederationMsc3916 => Some(BodyFormat::Multipart),
        Column::Legacy | Column::ClientMsc1902 | Column::ClientMsc3916 | Column::Own => None,
    }
}

/// The response to a failed request. If it writes a log line, that carries the request ID.
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
            ("/_matrix/media/v3/usage", Endpoint::Usage, Column::Legacy),
            ("/_matrix/media/unstable/org.matrix.msc4034/usage", Endpoint::Usage, Column::Legacy),
            ("/_matrix/client/v1/media/redact/a/b", Endpoint::Redact, Column::ClientMsc3916),
            (
                "/_matrix/client/unstable/uk.timedout.msc4322/media/redact/a/b",
                Endpoint::Redact,
                Column::ClientMsc3916,
            ),
            ("/_matrix/client/v1/media/a/b", Endpoint::Delete, Column::ClientMsc3916),
            ("/_matrix/client/unstable/org.matrix.msc4425/a/b", Endpoint::Delete, Column::ClientMsc3916),
            ("/_matrix/media/r0/download/a/b", Endpoint::Delete, Column::Legacy),
        ] {
            let found = routes.at(path).unwrap_or_else(|_| panic!("{path}"));
            let is_it = |route: &Route| (route.endpoint, route.column) == (endpoint, column);
            assert_eq!(
                found.value.iter().filter(|route| is_it(route)).count(),
                1,
                "{path}: {:?}",
                found.value
            );
            let mut methods: Vec<_> = found.value.iter().map(|route| route.method.as_str()).collect();
            methods.dedup();
            assert_eq!(methods.len(), found.value.len(), "{path}: one route for each method");
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
        assert!(main_routes().iter().all(|(_, route)| route.auth != Operator), "the world reaches `listen`");
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
