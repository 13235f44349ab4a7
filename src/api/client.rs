//! Endpoints for clients, under all their names.
//! [Spec, content repository](https://spec.matrix.org/v1.19/client-server-api/#content-repository).

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Version;
use hyper::body::{Body as _, Incoming};
use serde_json::{Map, Value, json};

use crate::accounts::Account;
use crate::app::App;
use crate::error::Result;
use crate::http::request::Call;
use crate::http::response::{self, ArrivingHead, Caching, Response};
use crate::matrix::Mxc;
use crate::media::download::{AccessOptions, Download, RemoteFetch, RemoteHead, WaitFor};
use crate::media::{Upload, Viewer, WhenGone};
use crate::store::catalog::UserTotal;
use crate::sync::admission::Caller;

/// Whether a route knows the parameter `allow_remote`, by which clients ask not to fetch remote media. MSC3916's routes do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowRemote {
    Heeded,
    Ignored,
}

/// How long the rest of a refused upload is read and discarded, so that the client reads our response.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// `GET download/{o}/{m}[/{name}]`
pub(crate) async fn get_content(
    app: &Arc<App>,
    call: &mut Call,
    caller: Caller,
    allow_remote: AllowRemote,
) -> Result<Response> {
    let options = options(call, caller, allow_remote);
    let mxc = call.mxc(&app.server_name)?;
    let file_name = call.path.file_name()?;
    let conditions = call.conditions();
    // In HTTP/1.0 a body without a length ends with the connection, so a truncated file would look complete: wait for all of it. The
    // same for conditional requests: the ETag is a hash of all bytes.
    let wait_for = if call.version < Version::HTTP_11 || conditions.needs_validators() {
        WaitFor::Stored
    } else {
        WaitFor::FirstByte
    };
    match app.media.download(&mxc, options, wait_for).await? {
        Download::Stored(prepared) => {
            let caching = caching(options.viewer());
            Ok(response::media(&prepared, file_name.as_deref(), caching, &conditions, &app.readers))
        }
        Download::Arriving(file) => {
            let RemoteHead { content_type, upload_name, size } = file.head.clone();
            let file_name = file_name.as_deref().or(upload_name.as_deref());
            let head = ArrivingHead { content_type: &content_type, file_name, size };
            response::arriving(head, &conditions, |range| file.chunks(range)).await
        }
    }
}

/// `GET thumbnail/{o}/{m}`
pub(crate) async fn get_content_thumbnail(
    app: &Arc<App>,
    call: &mut Call,
    caller: Caller,
    allow_remote: AllowRemote,
) -> Result<Response> {
    let options = options(call, caller, allow_remote);
    let mxc = call.mxc(&app.server_name)?;
    let picture = app.media.thumbnail(&mxc, call.query().wanted_thumbnail()?, options).await?;
    Ok(response::media(&picture, None, caching(options.viewer()), &call.conditions(), &app.readers))
}

/// The rights and wishes of a caller.
fn options(call: &Call, caller: Caller, allow_remote: AllowRemote) -> AccessOptions {
    let remote = match allow_remote {
        AllowRemote::Heeded if call.query().refuses_remote() => RemoteFetch::Refused,
        AllowRemote::Heeded | AllowRemote::Ignored => RemoteFetch::Allowed,
    };
    AccessOptions { caller, remote, timeout: call.query().timeout() }
}

/// Which caches may store a response for this viewer.
fn caching(viewer: Viewer) -> Caching {
    match viewer {
        Viewer::Anonymous => Caching::Public,
        Viewer::Known => Caching::Private,
    }
}

/// `POST upload`
pub(crate) async fn create_content(
    app: &Arc<App>,
    call: &mut Call,
    caller: Caller,
    account: Account,
) -> Result<Response> {
    // Held until the request ends.
    let _place = app.media.upload_place(caller).await?;
    let upload = Upload {
        user_id: account.user_id,
        content_type: call.content_type(),
        file_name: call.query().upload_name()?,
        announced: call.content_length(),
    };
    let mxc = app.media.upload(upload, &mut call.body).await?;
    call.access.mxc = Some(mxc.clone());
    let mut answer = Map::from_iter([("content_uri".to_owned(), mxc.to_string().into())]);
    add_blurhash(app, call, &mxc, caller, &mut answer).await;
    Ok(response::json(&answer.into()))
}

/// `POST create` (MSC2246). The body, if there is one, is `{}`; it is not read.
pub(crate) async fn create_mxc_uri(app: &Arc<App>, call: &mut Call, account: Account) -> Result<Response> {
    let created = app.media.create(account.user_id).await?;
    call.access.mxc = Some(created.mxc.clone());
    Ok(response::json(
        &json!({"content_uri": created.mxc.to_string(), "unused_expires_at": created.expires.time().0}),
    ))
}

/// `PUT upload/{o}/{m}` (MSC2246). Whether the user may upload to the ID is checked before the body is read.
pub(crate) async fn create_content_async(
    app: &Arc<App>,
    call: &mut Call,
    caller: Caller,
    account: Account,
) -> Result<Response> {
    let _place = app.media.upload_place(caller).await?;
    let mxc = call.mxc(&app.server_name)?;
    let target = app.media.upload_target(&mxc, &account.user_id).await?;
    let upload = Upload {
        user_id: account.user_id,
        content_type: call.content_type(),
        file_name: call.query().upload_name()?,
        announced: call.content_length(),
    };
    let mxc = app.media.upload_to(target, upload, &mut call.body).await?;
    let mut answer = Map::new();
    add_blurhash(app, call, &mxc, caller, &mut answer).await;
    Ok(response::json(&answer.into()))
}

/// `GET config`, with the user's quota if there is one (MSC4034).
pub(crate) async fn get_media_config(app: &Arc<App>, account: Account) -> Result<Response> {
    let mut answer = Map::from_iter([("m.upload.size".to_owned(), app.media.max_upload_size().into())]);
    let quota = app.media.quota(&account.user_id);
    if !quota.is_none() {
        let total = app.media.user_total(&account.user_id).await?;
        add_storage(&mut answer, "size", quota.max_bytes);
        add_storage(&mut answer, "max_files", quota.max_files);
        add_usage(&mut answer, total);
    }
    Ok(response::json(&answer.into()))
}

/// `GET usage` (MSC4034): what the user has uploaded.
pub(crate) async fn get_media_usage(app: &Arc<App>, account: Account) -> Result<Response> {
    let mut answer = Map::new();
    add_usage(&mut answer, app.media.user_total(&account.user_id).await?);
    Ok(response::json(&answer.into()))
}

/// Adds what a user has. Created media IDs count as files, as they do for the quota.
fn add_usage(answer: &mut Map<String, Value>, total: UserTotal) {
    add_storage(answer, "used", Some(total.bytes));
    add_storage(answer, "files", Some(total.files.saturating_add(total.pending)));
}

/// Adds a number under its stable and its unstable name (MSC4034). What has no bound is left out.
fn add_storage(answer: &mut Map<String, Value>, name: &str, value: Option<u64>) {
    for prefix in ["m.storage", "org.matrix.msc4034.storage"] {
        answer.extend(value.map(|value| (format!("{prefix}.{name}"), value.into())));
    }
}

/// `POST redact/{o}/{m}` (MSC4322): deletes the user's own media. It may be gone already. The body may hold a reason; it is not read.
pub(crate) async fn redact_media(app: &Arc<App>, call: &mut Call, account: Account) -> Result<Response> {
    let mxc = call.mxc(&app.server_name)?;
    app.media.delete_own(&mxc, account.user_id, WhenGone::Fine).await?;
    Ok(response::json(&json!({})))
}

/// `DELETE download/{o}/{m}` (MSC2278) and `DELETE media/{o}/{m}` (MSC4425): deletes the user's own media.
pub(crate) async fn delete_media(app: &Arc<App>, call: &mut Call, account: Account) -> Result<Response> {
    let mxc = call.mxc(&app.server_name)?;
    app.media.delete_own(&mxc, account.user_id, WhenGone::NotFound).await?;
    Ok(response::json(&json!({})))
}

/// `GET preview_url`
pub(crate) async fn get_url_preview(app: &Arc<App>, call: &mut Call, caller: Caller) -> Result<Response> {
    let timeout = app.media.preview_timeout()?;
    let preview = app.media.preview(call.query().preview_link()?, caller, timeout).await?;
    Ok(response::json_text(&preview))
}

/// Adds the blurhash of the uploaded picture, if the client asked for it and it can be computed (MSC2448, under its unstable name).
async fn add_blurhash(
    app: &Arc<App>,
    call: &Call,
    mxc: &Mxc,
    caller: Caller,
    answer: &mut Map<String, Value>,
) {
    if call.query().wants_blurhash()
        && let Some(blurhash) = app.media.blurhash(mxc, caller).await
    {
        answer.insert("xyz.amorgan.blurhash".to_owned(), blurhash.into());
    }
}

/// Reads and discards the rest of a request's body, for a limited time. If a connection is closed with unread bytes, TCP resets it, and
/// the client may never see the response.
pub(crate) fn discard(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(
        DISCARD_TIME,
        async move { while let Some(Ok(_)) = body.frame().await {} },
    ));
}
