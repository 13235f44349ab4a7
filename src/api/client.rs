//! Endpoints for clients, under all their names.
//! [Spec, content repository](https://spec.matrix.org/v1.19/client-server-api/#content-repository).

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Version;
use hyper::body::{Body as _, Incoming};
use serde_json::{Map, Value, json};

use super::{authorise, authorise_user, authorise_viewer};
use crate::accounts::Account;
use crate::app::App;
use crate::error::Result;
use crate::http::request::Call;
use crate::http::response::{self, ArrivingHead, Caching, Response};
use crate::matrix::Mxc;
use crate::media::UploadSlot;
use crate::media::download::{AccessOptions, Download, RemoteFetch, RemoteHead, WaitFor};
use crate::media::{Upload, Viewer};

/// Who may download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Anyone, subject to `unauthenticated_media`.
    Optional,
    /// Holders of an access token.
    Required,
}

/// How long the rest of a refused upload is read and thrown away, so that the client gets to read the answer.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// `GET download/{o}/{m}[/{name}]`
pub(crate) async fn get_content(app: &Arc<App>, call: &mut Call, door: Auth) -> Result<Response> {
    let options = admit(app, call, door).await?;
    let mxc = call.mxc(&app.server_name)?;
    let file_name = call.file_name()?;
    let conditions = call.conditions();
    // An HTTP/1.0 body of no known length ends like one that broke off: half a file would pass for a whole one. Conditions are
    // about the bytes, which are known when all of them are here.
    let wait_for = if call.version < Version::HTTP_11 || conditions.needs_validators() {
        WaitFor::Stored
    } else {
        WaitFor::FirstByte
    };
    match app.media.download(&mxc, options, wait_for).await? {
        Download::Stored(prepared) => {
            let caching = caching(options.viewer);
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
pub(crate) async fn get_content_thumbnail(app: &Arc<App>, call: &mut Call, door: Auth) -> Result<Response> {
    let options = admit(app, call, door).await?;
    let mxc = call.mxc(&app.server_name)?;
    let picture = app.media.thumbnail(&mxc, call.wanted_thumbnail()?, options).await?;
    Ok(response::media(&picture, None, caching(options.viewer), &call.conditions(), &app.readers))
}

/// Who asks for media, and with which options.
async fn admit(app: &Arc<App>, call: &mut Call, door: Auth) -> Result<AccessOptions> {
    let viewer = match door {
        Auth::Optional => authorise_viewer(app, call).await?,
        Auth::Required => authorise(app, call).await.map(|_| Viewer::Known)?,
    };
    let fetch = match door {
        Auth::Optional if call.refuses_remote() => RemoteFetch::Refused,
        Auth::Optional | Auth::Required => RemoteFetch::Allowed,
    };
    Ok(AccessOptions { viewer, remote: fetch, timeout: call.timeout() })
}

/// Who may keep what a viewer is given.
fn caching(viewer: Viewer) -> Caching {
    match viewer {
        Viewer::Anonymous => Caching::Public,
        Viewer::Known => Caching::Private,
    }
}

/// `POST upload`
pub(crate) async fn create_content(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    let (account, _slot) = authorise_upload(app, call).await?;
    let upload = Upload {
        user_id: account.user_id,
        content_type: call.content_type(),
        file_name: call.upload_name()?,
        announced: call.content_length(),
    };
    let mxc = app.media.upload(upload, &mut call.body).await?;
    call.access.mxc = Some(mxc.clone());
    let mut answer = Map::from_iter([("content_uri".to_owned(), mxc.to_string().into())]);
    add_blurhash(app, call, &mxc, &mut answer).await;
    Ok(response::json(&answer.into()))
}

/// `POST create` (MSC2246). The body, `{}` or nothing, says nothing.
pub(crate) async fn create_mxc_uri(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    let account = authorise_user(app, call).await?;
    let created = app.media.create(account.user_id).await?;
    call.access.mxc = Some(created.mxc.clone());
    Ok(response::json(
        &json!({"content_uri": created.mxc.to_string(), "unused_expires_at": created.expires.time().0}),
    ))
}

/// `PUT upload/{o}/{m}` (MSC2246). Whether the ID may be filled is decided before the body is looked at.
pub(crate) async fn create_content_async(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    let (account, _slot) = authorise_upload(app, call).await?;
    let mxc = call.mxc(&app.server_name)?;
    let target = app.media.upload_target(&mxc, &account.user_id).await?;
    let upload = Upload {
        user_id: account.user_id,
        content_type: call.content_type(),
        file_name: call.upload_name()?,
        announced: call.content_length(),
    };
    let mxc = app.media.upload_to(target, upload, &mut call.body).await?;
    let mut answer = Map::new();
    add_blurhash(app, call, &mxc, &mut answer).await;
    Ok(response::json(&answer.into()))
}

/// Whose upload it is, and its place among the user's others, to be kept until the request ends.
async fn authorise_upload(app: &Arc<App>, call: &mut Call) -> Result<(Account, UploadSlot)> {
    let account = authorise_user(app, call).await?;
    let slot = app.media.upload_slot(&account.user_id).await?;
    Ok((account, slot))
}

/// `GET config`
pub(crate) async fn get_media_config(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    authorise_user(app, call).await?;
    Ok(response::json(&json!({"m.upload.size": app.media.max_upload_size()})))
}

/// `GET preview_url`
pub(crate) async fn get_url_preview(app: &Arc<App>, call: &mut Call) -> Result<Response> {
    authorise_user(app, call).await?;
    let timeout = app.media.preview_timeout()?;
    let preview = app.media.preview(call.preview_link()?, timeout).await?;
    Ok(response::json_text(&preview))
}

/// Adds the blurhash of what was uploaded, if that is wanted and can be had (MSC2448, under its unstable name).
async fn add_blurhash(app: &Arc<App>, call: &Call, mxc: &Mxc, answer: &mut Map<String, Value>) {
    if call.wants_blurhash()
        && let Some(blurhash) = app.media.blurhash(mxc).await
    {
        answer.insert("xyz.amorgan.blurhash".to_owned(), blurhash.into());
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
