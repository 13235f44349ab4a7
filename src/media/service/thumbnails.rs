//! Thumbnails for every kind of caller, and for nobody yet; blurhashes for uploaders.

use std::sync::Arc;

use super::content::{AccessOptions, Obtained, WaitFor, find, obtain, serve_again};
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::response::Ready;
use crate::matrix::Mxc;
use crate::media::response_cache::CacheKey;
use crate::media::{self, BLURHASH_TIMEOUT, Found, RemoteFetch, RenderTask, Thumbnail, Viewer};
use crate::store::stored_media::StoredMedia;
use crate::sync::Handle;
use crate::sync::pools::{Permit, Pool};
use crate::thumbnail::ThumbnailRequest;

/// The thumbnail that a request asks for, made if need be, once for all who ask for the same picture.
pub(crate) async fn thumbnail(
    app: &Arc<App>,
    mxc: &Mxc,
    requested: ThumbnailRequest,
    options: AccessOptions,
) -> Result<Arc<Ready>> {
    let key = CacheKey { mxc: mxc.clone(), requested: Some(requested) };
    if let Some(ready) = serve_again(app, &key, options.viewer)? {
        return Ok(ready);
    }
    let mut options = options;
    // Twice at most: what was being made ahead of a file that turned out to break off is made again for who asks.
    for _ in 0..2 {
        match look(app, mxc, options, requested).await? {
            Thumbnail::Ready(stored) => return Ok(app.response_cache.put(key, stored)),
            Thumbnail::ToMake(task) => make(app, vec![task]).await?,
        }
        options.fetch = RemoteFetch::Refused;
    }
    match look(app, mxc, options, requested).await? {
        Thumbnail::Ready(stored) => Ok(app.response_cache.put(key, stored)),
        // Removed between two looks.
        Thumbnail::ToMake(_) => Err(Error::not_found()),
    }
}

/// Finds the original, whole, and what is known of its thumbnail.
async fn look(
    app: &Arc<App>,
    mxc: &Mxc,
    options: AccessOptions,
    requested: ThumbnailRequest,
) -> Result<Thumbnail> {
    let Obtained::Stored(original) = obtain(app, mxc, options, WaitFor::Stored).await? else {
        return Err(Error::not_found());
    };
    let library = Arc::clone(&app.library);
    app.pools.run(Pool::Lookup, move || library.find_thumbnail(original.stored().clone(), requested)).await
}

/// Makes pictures, each once for all who want it.
async fn make(app: &Arc<App>, tasks: Vec<RenderTask>) -> Result<()> {
    // All of them wait before the first is made, so that those that can be are made together.
    let join = |task: RenderTask| ((task.source, task.spec), app.batcher.join(task));
    let handles: Vec<_> = tasks.into_iter().map(join).collect();
    for (key, handle) in handles {
        let working = Arc::clone(app);
        app.making.run(key, || carry_out(working, handle)).await?;
    }
    Ok(())
}

/// Makes a picture, and those that can be made along with it, when there is a worker; unless it is made along with another
/// before.
async fn carry_out(app: Arc<App>, mut handle: Handle<RenderTask>) -> Result<()> {
    let place = tokio::select! {
        biased;
        done = handle.done() => return done,
        place = app.pools.enter(Pool::Thumbnails) => place?,
    };
    let Some((set, waiters)) = handle.take(|set, further| app.library.make_together(set, further)) else {
        drop(place);
        return handle.done().await;
    };
    let outcome = make_set(&app, place, set).await;
    waiters.tell(&outcome);
    outcome
}

/// Makes pictures in one go when there is memory.
async fn make_set(app: &Arc<App>, place: Permit, set: Vec<RenderTask>) -> Result<()> {
    let source = set.first().map(|task| task.source);
    let _memory = app.picture_memory.take(media::memory(&set)).await?;
    let library = Arc::clone(&app.library);
    let sizes = place.run(move || library.make_thumbnails(&set)).await?;
    tracing::debug!(source = source.map(tracing::field::display), sizes, "decoded a picture");
    Ok(())
}

/// The blurhash of an upload, if it is a picture and there is a worker and memory for it soon: nobody's upload fails for
/// want of it.
pub(crate) async fn blurhash(app: &Arc<App>, mxc: &Mxc) -> Option<String> {
    let made = tokio::time::timeout(BLURHASH_TIMEOUT, make_blurhash(app, mxc)).await;
    match made {
        Ok(Ok(blurhash)) => Some(blurhash),
        Ok(Err(error)) => {
            tracing::debug!(?error, %mxc, "no blurhash");
            None
        }
        Err(_elapsed) => {
            tracing::debug!(%mxc, "no blurhash: no time");
            None
        }
    }
}

/// Makes a blurhash when there are a worker and memory.
async fn make_blurhash(app: &Arc<App>, mxc: &Mxc) -> Result<String> {
    let original = find_own(app, mxc).await?;
    let library = Arc::clone(&app.library);
    let task = app.pools.run(Pool::Disk, move || library.plan_blurhash(&original)).await?;
    let place = app.pools.enter(Pool::Thumbnails).await?;
    let memory = app.picture_memory.take(media::memory(std::slice::from_ref(&task))).await?;
    let library = Arc::clone(&app.library);
    let work = move || {
        // Kept until the work ends, which it may do after its time.
        let _memory = memory;
        library.blurhash(&task)
    };
    place.run(work).await
}

/// Makes the configured sizes of uploads, one decode at a time and only while the machine is idle
/// (`thumbnails.pregenerate`). A decode once begun runs to its end, and who asks for its pictures meanwhile shares it; the
/// others wait until the machine is idle again.
pub(crate) async fn pregenerate(app: Arc<App>) {
    loop {
        let mxc = app.backlog.next().await;
        let mut before = usize::MAX;
        loop {
            app.activity.idle().await;
            match make_missing(&app, &mxc).await {
                Ok(lacked) if lacked > 0 && lacked < before => before = lacked,
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(?error, %mxc, "no thumbnails to make");
                    break;
                }
            }
        }
    }
}

/// Makes what one decode gives of the configured sizes that an upload lacks. Says how many it lacked.
async fn make_missing(app: &Arc<App>, mxc: &Mxc) -> Result<usize> {
    let original = find_own(app, mxc).await?;
    let library = Arc::clone(&app.library);
    let mut missing = app.pools.run(Pool::Disk, move || library.missing_thumbnails(&original)).await?;
    let lacked = missing.len();
    let Some(first) = missing.pop() else { return Ok(0) };
    let mut set = vec![first];
    for task in missing {
        if app.library.make_together(&set, &task) {
            set.push(task);
        }
    }
    make(app, set).await?;
    Ok(lacked)
}

/// Finds media of this server.
async fn find_own(app: &Arc<App>, mxc: &Mxc) -> Result<StoredMedia> {
    match find(app, mxc, Viewer::Known, RemoteFetch::Refused).await? {
        Found::Stored(stored) => Ok(stored),
        Found::Pending | Found::Elsewhere => Err(Error::not_found()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::app::Environment;
    use crate::config::Config;
    use crate::config::ThumbnailMethod;
    use crate::error::Kind;
    use crate::federation::SigningKey;
    use crate::matrix::{ServerName, UserId};
    use crate::media::Upload;
    use crate::store::blobs::BlobReader;
    use crate::thumbnail::Motion;

    /// The log of this thread.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// Logs what happens on this thread, until the guard is dropped.
        fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .finish();
            (log, tracing::subscriber::set_default(subscriber))
        }

        /// How many sizes came out of each decode.
        fn decodes(&self) -> Vec<usize> {
            let log = self.0.lock().unwrap();
            let lines = std::str::from_utf8(&log).unwrap().lines();
            let sizes = lines.filter(|line| line.contains("decoded a picture"));
            sizes.map(|line| line.rsplit("sizes=").next().unwrap().trim().parse().unwrap()).collect()
        }
    }

    /// A sidecar, what it logs, and an upload of its own: a JPEG if `is_jpeg`, else a PNG.
    async fn with_upload(folder: &std::path::Path, is_jpeg: bool) -> (Arc<App>, Mxc) {
        let mut config = Config::defaults(ServerName::parse("example.org").unwrap());
        config.data_dir = folder.to_owned();
        let key = SigningKey::parse(b"ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
        let app = App::open(&config, key, Environment::system()).unwrap();
        let pixels: Vec<u8> = (0..1800_u32 * 1200 * 3)
            .map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap())
            .collect();
        let mut bytes = Vec::new();
        if is_jpeg {
            let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
            encoder.encode(&pixels, 1800, 1200, jpeg_encoder::ColorType::Rgb).unwrap();
        } else {
            let mut encoder = png::Encoder::new(&mut bytes, 1800, 1200);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
        let library = Arc::clone(&app.library);
        let upload = Upload {
            user_id: UserId::new("@alice:example.org"),
            content_type: "image/png".to_owned(),
            file_name: None,
        };
        let store = move || {
            let mut ingest = library.begin_upload(None)?;
            ingest.write(&bytes).unwrap();
            library.finish_upload(ingest, upload)
        };
        let mxc = app.pools.run(Pool::Disk, store).await.unwrap();
        (app, mxc)
    }

    /// What is to be made of an upload.
    async fn missing(app: &Arc<App>, mxc: &Mxc) -> Vec<RenderTask> {
        let original = find_own(app, mxc).await.unwrap();
        app.library.missing_thumbnails(&original).unwrap()
    }

    #[tokio::test]
    async fn sizes_asked_for_while_the_worker_is_busy_come_out_of_as_few_decodes_as_can_be() {
        let (log, _logging) = Log::begin();
        // A JPEG of this size is decoded at 1/8, 1/4 and 1/2 for the small sizes, whole for the two large ones.
        for (is_jpeg, decodes) in [(false, vec![5]), (true, vec![1, 1, 1, 2])] {
            let folder = tempfile::tempdir().unwrap();
            let (app, mxc) = with_upload(folder.path(), is_jpeg).await;
            let worker = app.pools.enter(Pool::Thumbnails).await.unwrap();
            let tasks = missing(&app, &mxc).await;
            assert_eq!(tasks.len(), 5);
            // Each is wanted twice.
            let asking = tasks.iter().chain(&tasks).cloned().map(|task| {
                let app = Arc::clone(&app);
                tokio::spawn(async move { make(&app, vec![task]).await })
            });
            let asking: Vec<_> = asking.collect();
            while app.batcher.waiting() < 5 {
                tokio::task::yield_now().await;
            }
            drop(worker);
            for asked in asking {
                asked.await.unwrap().unwrap();
            }
            assert!(missing(&app, &mxc).await.is_empty());
            assert_eq!(app.batcher.waiting(), 0);
            let mut made = log.decodes();
            made.sort_unstable();
            assert_eq!(made, decodes, "JPEG: {is_jpeg}");
            log.0.lock().unwrap().clear();
        }
    }

    #[tokio::test]
    async fn what_is_made_ahead_takes_the_same_way() {
        let (log, _logging) = Log::begin();
        let folder = tempfile::tempdir().unwrap();
        let (app, mxc) = with_upload(folder.path(), true).await;
        for lacked in [5, 3, 2, 1, 0] {
            assert_eq!(make_missing(&app, &mxc).await.unwrap(), lacked);
        }
        assert_eq!(log.decodes(), [2, 1, 1, 1], "from the large ones down");
    }

    /// The header of a broken picture was read again at each request.
    #[tokio::test]
    async fn that_a_header_is_broken_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (app, mxc) = with_upload(folder.path(), false).await;
        let good = find_own(&app, &mxc).await.unwrap();
        let broken = BlobReader::of(b"\x89PNG\r\n\x1a\nIHDR");
        let requested =
            ThumbnailRequest { width: 32, height: 32, method: ThumbnailMethod::Crop, motion: Motion::Still };
        let of = |stored: StoredMedia| app.library.find_thumbnail(stored, requested);
        let refused = of(StoredMedia { blob: broken, ..good.clone() }).unwrap_err();
        assert_eq!(refused.kind(), Kind::BadRequest);
        // Whole bytes under the same name would show another look.
        assert_eq!(of(good).unwrap_err().kind(), Kind::BadRequest);
    }
}
