//! Thumbnails for every kind of caller.

use std::sync::Arc;

use super::{Obtained, Until, obtain};
use crate::app::App;
use crate::bridge::Pool;
use crate::error::{Error, Result};
use crate::matrix::Mxc;
use crate::media::{Making, RemoteFetch, Stored, Thumbnail, Viewer};
use crate::request::Call;
use crate::thumbnail::Wanted;

/// The thumbnail that a request asks for, made if need be, once for all who ask for the same picture.
pub(super) async fn thumbnail(
    app: &Arc<App>,
    call: &Call,
    mxc: &Mxc,
    (viewer, fetch): (Viewer, RemoteFetch),
) -> Result<Stored> {
    let wanted = call.wanted_thumbnail()?;
    let making = match look(app, call, mxc, (viewer, fetch), wanted).await? {
        Thumbnail::Ready(stored) => return Ok(stored),
        Thumbnail::ToMake(making) => making,
    };
    make(app, making).await?;
    match look(app, call, mxc, (viewer, RemoteFetch::Refused), wanted).await? {
        Thumbnail::Ready(stored) => Ok(stored),
        // Removed between the two looks.
        Thumbnail::ToMake(_) => Err(Error::not_found()),
    }
}

/// Finds the original, whole, and what is known of its thumbnail.
async fn look(
    app: &Arc<App>,
    call: &Call,
    mxc: &Mxc,
    capacity: (Viewer, RemoteFetch),
    wanted: Wanted,
) -> Result<Thumbnail> {
    let Obtained::Stored(original) = obtain(app, call, mxc, capacity, Until::Stored).await? else {
        return Err(Error::not_found());
    };
    let library = Arc::clone(&app.library);
    app.bridge.run(Pool::Disk, move || library.find_thumbnail(original, wanted)).await
}

/// Makes a picture when there is memory and a worker for it.
async fn make(app: &Arc<App>, making: Making) -> Result<()> {
    let working = Arc::clone(app);
    let key = (making.source, making.job);
    let work = || async move {
        let _memory = working.picture_memory.take(making.memory).await?;
        let library = Arc::clone(&working.library);
        working.bridge.run(Pool::Thumbnails, move || library.make_thumbnail(&making)).await
    };
    app.making.run(key, work).await
}
