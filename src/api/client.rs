//! Endpoints for clients, under all their names.
//! [Spec, content repository](https://spec.matrix.org/v1.19/client-server-api/#content-repository).

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Version;
use hyper::body::{Body as _, Incoming};
use serde_json::{Map, Value, json};

use crate::accounts::Account;
use crate::api::auth::Principal;
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::receive;
use crate::http::request::Call;
use crate::http::response::{self, Caching, Response};
use crate::matrix::Mxc;
use crate::media::service::{self, AccessOptions, Obtained, WaitFor};
use crate::media::{RemoteFetch, Upload, Viewer};
use crate::sync::pools::Pool;

/// Whether a route knows the parameter `allow_remote`, by which clients ask not to fetch remote media. MSC3916's routes do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowRemote {
    Heeded,
    Ignored,
}

/// How long the rest of a refused upload is read and thrown away, so that the client gets to read the answer.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// `GET download/{o}/{m}[/{name}]`
pub(crate) async fn get_content(
    app: &Arc<App>,
    call: &mut Call,
    principal: &Principal,
    allow_remote: AllowRemote,
) -> Result<Response> {
    let options = options(call, principal, allow_remote);
    let mxc = call.mxc(&app.server_name)?;
    let file_name = call.path.file_name()?;
    let readers = &app.readers;
    let conditions = call.conditions();
    // An HTTP/1.0 body of no known length ends like one that broke off: half a file would pass for a whole one. Conditions are
    // about the bytes, which are known when all of them are here.
    let wait_for = if call.version < Version::HTTP_11 || conditions.needs_validators() {
        WaitFor::Stored
    } else {
        WaitFor::FirstByte
    };
    Ok(match service::obtain(app, &mxc, options, wait_for).await? {
        Obtained::Stored(ready) => {
            response::media(&ready, file_name.as_deref(), caching(options.viewer), &conditions, readers)
        }
        Obtained::Arriving(coming) => response::arriving(coming, file_name.as_deref(), &conditions).await?,
    })
}

/// `GET thumbnail/{o}/{m}`
pub(crate) async fn get_content_thumbnail(
    app: &Arc<App>,
    call: &mut Call,
    principal: &Principal,
    allow_remote: AllowRemote,
) -> Result<Response> {
    let options = options(call, principal, allow_remote);
    let mxc = call.mxc(&app.server_name)?;
    let picture = service::thumbnail(app, &mxc, call.query().wanted_thumbnail()?, options).await?;
    Ok(response::media(&picture, None, caching(options.viewer), &call.conditions(), &app.readers))
}

/// What a caller may be given, and how long they wait.
fn options(call: &Call, principal: &Principal, allow_remote: AllowRemote) -> AccessOptions {
    let fetch = match allow_remote {
        AllowRemote::Heeded if call.query().refuses_remote() => RemoteFetch::Refused,
        AllowRemote::Heeded | AllowRemote::Ignored => RemoteFetch::Allowed,
    };
    AccessOptions { viewer: principal.viewer(), fetch, timeout: call.query().timeout() }
}

/// Who may keep what a viewer is given.
fn caching(viewer: Viewer) -> Caching {
    match viewer {
        Viewer::Anonymous => Caching::Public,
        Viewer::Known => Caching::Private,
    }
}

/// `POST upload`
pub(crate) async fn create_content(app: &Arc<App>, call: &mut Call, account: Account) -> Result<Response> {
    // Kept until the request ends: a place among the user's uploads.
    let _under_way = app.uploads.begin(&account.user_id).await?;
    let upload = Upload {
        user_id: account.user_id,
        content_type: call.content_type(),
        file_name: call.query().upload_name()?,
    };
    refuse_announced(app, call)?;
    let (library, store) = (Arc::clone(&app.library), Arc::clone(&app.library));
    let announced = call.content_length();
    let begin = move || library.begin_upload(announced);
    let finish = move |ingest| store.finish_upload(ingest, upload);
    let mxc = app.receiver.receive(&app.pools, &mut call.body, begin, finish).await?;
    app.backlog.add(mxc.clone());
    call.access.mxc = Some(mxc.clone());
    let mut answer = Map::from_iter([("content_uri".to_owned(), mxc.to_string().into())]);
    add_blurhash(app, call, &mxc, &mut answer).await;
    Ok(response::json(&answer.into()))
}

/// `POST create` (MSC2246). The body carries nothing (`{}`, if it is sent) and is not looked at.
pub(crate) async fn create_mxc_uri(app: &Arc<App>, call: &mut Call, account: Account) -> Result<Response> {
    let library = Arc::clone(&app.library);
    let created = app.pools.run(Pool::Disk, move || library.create(account.user_id)).await?;
    call.access.mxc = Some(created.mxc.clone());
    Ok(response::json(
        &json!({"content_uri": created.mxc.to_string(), "unused_expires_at": created.expires.time().0}),
    ))
}

/// `PUT upload/{o}/{m}` (MSC2246). Whether the ID may be filled is decided before the body is looked at.
pub(crate) async fn create_content_async(
    app: &Arc<App>,
    call: &mut Call,
    account: Account,
) -> Result<Response> {
    let _under_way = app.uploads.begin(&account.user_id).await?;
    let mxc = call.mxc(&app.server_name)?;
    let user_id = account.user_id;
    let (library, user, target) = (Arc::clone(&app.library), user_id.clone(), mxc.clone());
    let filling = app.pools.run(Pool::Disk, move || library.begin_filling(&target, &user)).await?;

    let upload =
        Upload { user_id, content_type: call.content_type(), file_name: call.query().upload_name()? };
    refuse_announced(app, call)?;
    let (library, filled) = (Arc::clone(&app.library), Arc::clone(app));
    let announced = call.content_length();
    let begin = move || library.begin_upload(announced);
    // Told from the same thread: those who wait hear of it even if this client is gone by then.
    let finish = move |ingest| {
        filled.library.finish_filling(&filling, ingest, upload)?;
        filled.pending.filled(&mxc);
        filled.backlog.add(mxc.clone());
        Ok(mxc)
    };
    let mxc = app.receiver.receive(&app.pools, &mut call.body, begin, finish).await?;
    let mut answer = Map::new();
    add_blurhash(app, call, &mxc, &mut answer).await;
    Ok(response::json(&answer.into()))
}

/// `GET config`
pub(crate) fn get_media_config(app: &Arc<App>) -> Response {
    response::json(&json!({"m.upload.size": app.library.max_upload_size()}))
}

/// `GET preview_url`
pub(crate) async fn get_url_preview(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    let disabled = || Error::new(Kind::Unrecognized, "this server does not preview links");
    let timeout = app.library.preview_timeout().ok_or_else(disabled)?;
    let preview = service::preview(app, call.query().preview_link()?, timeout).await?;
    Ok(response::json_text(&preview))
}

/// Adds the blurhash of what was uploaded, if that is wanted and can be had (MSC2448, under its unstable name).
async fn add_blurhash(app: &Arc<App>, call: &Call, mxc: &Mxc, answer: &mut Map<String, Value>) {
    if call.query().wants_blurhash()
        && let Some(blurhash) = service::blurhash(app, mxc).await
    {
        answer.insert("xyz.amorgan.blurhash".to_owned(), blurhash.into());
    }
}

/// Refuses an upload that announces too much, before it is sent.
fn refuse_announced(app: &Arc<App>, call: &Call) -> Result<()> {
    let limit = app.library.max_upload_size();
    match call.content_length() {
        Some(length) if length > limit => Err(receive::too_large(limit)),
        _ => Ok(()),
    }
}

/// Reads and throws away what is left of a request's body, for a while: a connection closed with unread bytes is reset, and
/// the client may never see the answer.
pub(crate) fn discard(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(
        DISCARD_TIME,
        async move { while let Some(Ok(_)) = body.frame().await {} },
    ));
}
