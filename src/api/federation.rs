//! Endpoints for servers: MSC1902's raw answers and MSC3916's multipart ones.
//! [Spec, content repository](https://spec.matrix.org/v1.19/server-server-api/#content-repository).

use std::sync::Arc;

use data_encoding::HEXLOWER;

use super::authorise_server;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::request::Call;
use crate::http::response::{self, Caching, PreparedMedia, Response};
use crate::matrix::Mxc;
use crate::media::Viewer;
use crate::media::download::{AccessOptions, Download, RemoteFetch, WaitFor};

/// How media is wrapped for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    /// MSC1902: "no schema changes".
    Raw,
    /// MSC3916.
    Multipart,
}

/// `GET remote_media/download/{o}/{m}` and `GET media/download/{m}`. Only our own media: "`remote_media`" means that the
/// target is not expected to hold it, and MSC3916 forbids handing on what is somebody else's.
pub(crate) async fn get_content(app: &Arc<App>, call: &mut Call, format: BodyFormat) -> Result<Response> {
    let mxc = admit(app, call).await?;
    match app.media.download(&mxc, options(call), WaitFor::Stored).await? {
        Download::Stored(prepared) => Ok(wrap(app, call, &prepared, format)),
        Download::Arriving(_) => Err(Error::not_found()),
    }
}

/// `GET remote_media/thumbnail/{o}/{m}` and `GET media/thumbnail/{m}`: the bytes a client of ours gets.
pub(crate) async fn get_content_thumbnail(
    app: &Arc<App>,
    call: &mut Call,
    format: BodyFormat,
) -> Result<Response> {
    let mxc = admit(app, call).await?;
    let picture = app.media.thumbnail(&mxc, call.wanted_thumbnail()?, options(call)).await?;
    Ok(wrap(app, call, &picture, format))
}

/// The media of ours that a server asks for, once it has said who it is.
async fn admit(app: &Arc<App>, call: &mut Call) -> Result<Mxc> {
    authorise_server(app, call).await?;
    let mxc = call.mxc(&app.server_name)?;
    if mxc.server_name == app.server_name { Ok(mxc) } else { Err(Error::not_found()) }
}

/// A server may see what is ours, and causes no fetch.
fn options(call: &Call) -> AccessOptions {
    AccessOptions { viewer: Viewer::Known, remote: RemoteFetch::Refused, timeout: call.timeout() }
}

/// An answer in the asked family's form.
fn wrap(app: &App, call: &Call, prepared: &PreparedMedia, format: BodyFormat) -> Response {
    let readers = &app.readers;
    match format {
        BodyFormat::Raw => response::media(prepared, None, Caching::Private, &call.conditions(), readers),
        BodyFormat::Multipart => response::multipart_federation(prepared, &boundary(app), readers),
    }
}

/// 32 random hex digits: they do not occur in the data.
fn boundary(app: &App) -> String {
    let mut random = [0; 16];
    (app.random)(&mut random);
    HEXLOWER.encode(&random)
}
