//! Endpoints for the operator and the homeserver's own path.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::api::auth::client_of_homeserver;
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::request::Call;
use crate::http::response::{self, Response};
use crate::sync::admission::{Ask, Caller, Counts, Work, WorkKind};
use crate::sync::pools::Pool;

/// `GET /_sidecar/health`: 200 when everything works, else 503 with the reason. The reverse proxy must not expose it.
pub(crate) async fn health(app: &Arc<App>) -> Result<Response> {
    let (catalog, blobs, accounts) =
        (Arc::clone(&app.store), Arc::clone(&app.store), Arc::clone(&app.accounts));
    let database =
        app.pools.run(Pool::Disk, move || Ok(catalog.check_catalog().err().map(|error| error.causes())));
    let store =
        app.pools.run(Pool::Disk, move || Ok(blobs.check_blobs().err().map(|error| error.to_string())));
    let federation = Arc::clone(&app.federation);
    let ask =
        move || Ok(accounts.check().err().map(|error| error.causes()).or_else(|| federation.key_problem()));
    let operator = Work::of(Caller::operator());
    let homeserver = app.admission.run(WorkKind::HomeserverRequest, &operator, Ask::default(), ask);
    let (database, store, homeserver) = tokio::try_join!(database, store, homeserver)?;

    let failing = database.is_some() || store.is_some() || homeserver.is_some();
    let told = |reason: Option<String>| reason.unwrap_or_else(|| "ok".to_owned());
    let body = json!({
        "status": if failing { "failing" } else { "ok" },
        "database": told(database),
        "blobs": told(store),
        "homeserver": told(homeserver),
    });
    // Monitors ask every few seconds: only a change is logged.
    if app.is_failing.swap(failing, Ordering::Relaxed) != failing {
        if failing {
            tracing::warn!(health = %body, "health: failing");
        } else {
            tracing::info!("health: all is well again");
        }
    }
    let status = if failing { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok(response::json_with(status, body.to_string()))
}

/// `GET /_sidecar/limits`: for each kind of work and class of callers, the places, and what happened since the start.
pub(crate) fn limits(app: &Arc<App>) -> Response {
    let mut body = Map::new();
    for (kind, class, counts) in app.admission.counts() {
        let Counts { places, running, waiting, granted, waited, refused_full, refused_late } = counts;
        // There is no limit where the places are counted for each server.
        let places = u32::try_from(places).ok().filter(|places| *places < u32::MAX);
        let of_kind = body.entry(kind.name()).or_insert_with(|| json!({}));
        if let Some(of_kind) = of_kind.as_object_mut() {
            let counts = json!({
                "places": places,
                "running": running,
                "waiting": waiting,
                "granted": granted,
                "waited_ms": u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                "refused_queue_full": refused_full,
                "refused_after_wait": refused_late,
            });
            of_kind.insert(class.name().to_owned(), counts);
        }
    }
    response::json(&Value::Object(body))
}

/// Longest request of the operator, bytes.
const MAX_REQUEST: usize = 4 << 20;

/// `POST /_sidecar/operator`: usage, retention, moderation. Only through a Unix socket, whose file says who may connect: every local user,
/// and every web page in a local browser, can connect to a port.
pub(crate) async fn operate(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    if call.access.client.is_some() {
        return Err(Error::new(
            Kind::Forbidden,
            "this needs a Unix socket; set ops.listen to null or to unix:/path",
        ));
    }
    let body = Limited::new(&mut call.body, MAX_REQUEST).collect().await;
    let body =
        body.map_err(|_error| Error::new(Kind::BadRequest, "the request is too long, or broke off"))?;
    let request = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| Error::new(Kind::BadRequest, format!("the request is malformed: {error}")))?;
    app.media.operate(request).await.map(|answer| response::json(&answer))
}

/// `GET /_matrix/client/versions`: the homeserver's response with our features added.
pub(crate) async fn get_supported_versions(app: &Arc<App>, call: &Call) -> Result<Response> {
    let (accounts, credential) = (Arc::clone(&app.accounts), call.credential()?);
    let caller = Work::of(client_of_homeserver(app, call.access.client));
    let ask = move || accounts.versions(credential.as_ref());
    let mut versions = app.admission.run(WorkKind::HomeserverRequest, &caller, Ask::default(), ask).await?;
    let features = versions.entry("unstable_features").or_insert_with(|| json!({}));
    let features = features
        .as_object_mut()
        .ok_or_else(|| Error::new(Kind::HomeserverFailed, "the homeserver's versions are malformed"))?;
    features.insert("org.matrix.msc1902".to_owned(), json!(true));
    features.insert("org.matrix.msc3916.stable".to_owned(), json!(true));
    Ok(response::json(&Value::Object(versions)))
}
