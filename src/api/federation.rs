//! Endpoints for servers: raw responses for MSC1902, multipart responses for MSC3916.
//! [Spec, content repository](https://spec.matrix.org/v1.19/server-server-api/#content-repository).

use std::sync::Arc;

use data_encoding::HEXLOWER;

use crate::app::App;
use crate::error::{Error, Result};
use crate::http::request::Call;
use crate::http::response::{self, Caching, PreparedMedia, Response};
use crate::matrix::Mxc;
use crate::media::download::{AccessOptions, Download, RemoteFetch, WaitFor};
use crate::sync::admission::Caller;

/// How media is wrapped for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    /// MSC1902: "no schema changes".
    Raw,
    /// MSC3916.
    Multipart,
}

/// `GET remote_media/download/{o}/{m}` and `GET media/download/{m}`. Only media of this server: MSC3916 forbids to serve other servers'
/// media to servers.
pub(crate) async fn get_content(
    app: &Arc<App>,
    call: &mut Call,
    caller: Caller,
    format: BodyFormat,
) -> Result<Response> {
    let mxc = our_media(app, call)?;
    match app.media.download(&mxc, options(call, caller), WaitFor::Stored).await? {
        Download::Stored(prepared) => Ok(wrap(app, call, &prepared, format)),
        Download::Arriving(_) => Err(Error::not_found()),
    }
}

/// `GET remote_media/thumbnail/{o}/{m}` and `GET media/thumbnail/{m}`: the same bytes that our clients get.
pub(crate) async fn get_content_thumbnail(
    app: &Arc<App>,
    call: &mut Call,
    caller: Caller,
    format: BodyFormat,
) -> Result<Response> {
    let mxc = our_media(app, call)?;
    let picture = app.media.thumbnail(&mxc, call.query().wanted_thumbnail()?, options(call, caller)).await?;
    Ok(wrap(app, call, &picture, format))
}

/// The requested media, which must be of this server.
fn our_media(app: &App, call: &mut Call) -> Result<Mxc> {
    let mxc = call.mxc(&app.server_name)?;
    if mxc.server_name == app.server_name { Ok(mxc) } else { Err(Error::not_found()) }
}

/// Servers see all media of this server and may not cause a fetch.
fn options(call: &Call, caller: Caller) -> AccessOptions {
    AccessOptions { caller, remote: RemoteFetch::Refused, timeout: call.query().timeout() }
}

/// The response in the form of the requested endpoint family.
fn wrap(app: &App, call: &Call, prepared: &PreparedMedia, format: BodyFormat) -> Response {
    let readers = &app.readers;
    match format {
        BodyFormat::Raw => response::media(prepared, None, Caching::Private, &call.conditions(), readers),
        BodyFormat::Multipart => response::multipart_federation(prepared, &boundary(app), readers),
    }
}

/// 32 random hex digits. The media cannot contain them, except by a negligible chance.
fn boundary(app: &App) -> String {
    let mut random = [0; 16];
    (app.random)(&mut random);
    HEXLOWER.encode(&random)
}
