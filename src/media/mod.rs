//! The use cases: what clients and servers can do with media.
//!
//! Each use case is one file, to be read from top to bottom. First comes the async function that an endpoint calls, then its blocking
//! steps, which run in bounded pools through [`Media::blocking`]. Parts that only one use case needs are in the folder of the same name.
//!
//! | file | use case |
//! |---|---|
//! | `download.rs` | media from memory, the store, a pending upload or another server |
//! | `upload.rs` | uploading; creating media IDs and uploading to them later |
//! | `thumbnail.rs` | a smaller version of a picture: cached, stored, or rendered now |
//! | `preview.rs` | title, description and image of a linked page |
//! | `remote.rs` | fetching another server's media |
//! | `delete.rs` | deleting one's own media |
//! | `operator.rs` | what the operator asks for: usage, retention, moderation |
//! | `scrub.rs` | reading all files for damage |
//! | `retention.rs` | evicting what can be fetched or made again, so that the store stays within its bounds |
//!
//! Owns who may see what, who waits for what, and that work wanted by many is done once. Refuses to know how a request came in and how
//! its response is written.

mod access_times;
mod delete;
pub(crate) mod download;
mod expiry;
mod operator;
mod pending;
mod preview;
mod remote;
mod response_cache;
mod retention;
mod scrub;
mod thumbnail;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::access_times::AccessTimes;
use self::expiry::ClockWatch;
use self::pending::PendingUploads;
use self::preview::PreviewState;
use self::remote::RemoteFetches;
use self::response_cache::ResponseCache;
use self::retention::Retention;
use self::thumbnail::ThumbnailState;
use self::upload::UploadState;
use crate::config::{Config, Live, UnauthenticatedMedia};
use crate::error::{Error, Result};
use crate::federation::Federation;
use crate::http::file_stream::Readers;
use crate::matrix::{Clock, MediaId, Monotonic, Mxc, Random, ServerName};
use crate::preview::Fetcher;
use crate::store::catalog::LastAccess;
use crate::store::{Removed, Store};
use crate::sync::pools::{Pool, Pools};
use crate::sync::{Activity, Admission};

pub(crate) use self::delete::WhenGone;
pub use self::operator::{Act, By};
pub(crate) use self::operator::{MAX_LISTED, OperatorRequest};
pub(crate) use self::retention::{AGES, Ages, Mode};
pub(crate) use self::thumbnail::{ANIMATION_TIMEOUT, AnimationTime};
pub(crate) use self::upload::Upload;

/// What the use cases share.
pub(crate) struct Media {
    /// The name of this homeserver. Media of other servers is fetched.
    server_name: ServerName,
    config: Live<Config>,
    /// Whether the homeserver itself serves new media to callers without a token.
    homeserver_serves_strangers: AtomicBool,
    store: Arc<Store>,
    federation: Arc<Federation>,
    pools: Arc<Pools>,
    admission: Arc<Admission>,
    /// Read arriving files for the clients that wait for them.
    readers: Readers,
    clock: Clock,
    /// For time spans inside the process.
    monotonic: Monotonic,
    /// For new media IDs.
    random: Random,
    /// Recently served media, ready to be served again.
    response_cache: ResponseCache,
    access_times: AccessTimes,
    clock_watch: ClockWatch,
    /// Downloads that wait for a pending upload.
    pending: PendingUploads,
    uploads: UploadState,
    fetches: RemoteFetches,
    thumbnails: ThumbnailState,
    previews: PreviewState,
    retention: Arc<Retention>,
}

/// What [`Media`] is built from besides the configuration.
pub(crate) struct MediaParts {
    pub(crate) store: Arc<Store>,
    pub(crate) federation: Arc<Federation>,
    /// Fetches linked pages.
    pub(crate) fetcher: Fetcher,
    pub(crate) pools: Arc<Pools>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) readers: Readers,
    /// Tells when the machine is idle: thumbnails are then rendered ahead of requests.
    pub(crate) activity: Arc<Activity>,
    pub(crate) animation_time: AnimationTime,
    pub(crate) clock: Clock,
    pub(crate) monotonic: Monotonic,
    pub(crate) random: Random,
}

/// Who wants to see media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// A caller without an access token.
    Anonymous,
    /// A user with a valid access token, or a server with a valid signature.
    Known,
}

impl Media {
    pub(crate) fn new(config: &Config, parts: MediaParts) -> Arc<Self> {
        let MediaParts {
            store,
            federation,
            fetcher,
            pools,
            admission,
            readers,
            activity,
            animation_time,
            ..
        } = parts;
        let MediaParts { clock, monotonic, random, .. } = parts;
        let retention = Arc::new(Retention::new(
            Arc::clone(&store),
            config.server_name.clone(),
            Arc::clone(&clock),
            Arc::clone(&monotonic),
        ));
        let media = Arc::new(Self {
            server_name: config.server_name.clone(),
            config: Live::new(config.clone()),
            homeserver_serves_strangers: AtomicBool::new(false),
            store,
            federation,
            pools,
            admission,
            readers,
            clock,
            monotonic,
            random,
            response_cache: ResponseCache::new(),
            access_times: AccessTimes::default(),
            clock_watch: ClockWatch::default(),
            pending: PendingUploads::default(),
            uploads: UploadState::new(),
            fetches: RemoteFetches::new(&config.limits.anonymous_fetch),
            thumbnails: ThumbnailState::new(&config.thumbnails, activity, animation_time),
            previews: PreviewState::new(config.previews.clone(), fetcher),
            retention,
        });
        // Weak, because Media owns the store: a strong reference would be a cycle that is never freed.
        let listener = Arc::downgrade(&media);
        media.store.on_removal(move |removed| {
            if let Some(media) = listener.upgrade() {
                media.forget_removed(removed);
            }
        });
        media
    }

    /// Drops from memory everything that was removed from the store.
    fn forget_removed(&self, removed: &Removed) {
        self.response_cache.remove(&removed.media, &removed.blobs);
        self.thumbnails.forget_blobs(&removed.blobs);
        self.previews.forget(&removed.previews);
        for mxc in &removed.media {
            // A download that waits for an upload to it need not wait any longer.
            self.pending.filled(mxc);
        }
    }

    /// Applies a changed configuration; linked pages are fetched with `fetcher` from here on.
    pub(crate) fn reload(&self, config: &Config, fetcher: Fetcher) {
        self.previews.reload(config.previews.clone(), fetcher);
        self.config.set(config.clone());
    }

    /// Ends all waiting for pending uploads, because the service stops.
    pub(crate) fn stop(&self) {
        self.pending.stop();
    }

    /// Runs a blocking step of a use case in `pool`. A step that has begun runs to its end even if the request is cancelled.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        pool: Pool,
        step: impl FnOnce(&Arc<Self>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let media = Arc::clone(self);
        self.pools.run(pool, move || step(&media)).await
    }

    /// A new media ID of this server, which cannot be guessed.
    fn new_mxc(&self) -> Mxc {
        Mxc { server_name: self.server_name.clone(), media_id: MediaId::generate(|pool| (self.random)(pool)) }
    }

    fn is_ours(&self, mxc: &Mxc) -> bool {
        mxc.server_name == self.server_name
    }

    /// Refuses media of servers that the configuration excludes, even if it is stored.
    fn check_policy(&self, mxc: &Mxc) -> Result<()> {
        if self.is_ours(mxc) { Ok(()) } else { self.federation.check_policy(&mxc.server_name) }
    }

    /// Notes whether the homeserver itself serves new media to callers without a token: `unauthenticated_media: auto` follows it.
    pub(crate) fn note_homeserver(&self, serves_strangers: bool) {
        self.homeserver_serves_strangers.store(serves_strangers, Ordering::Relaxed);
    }

    /// What callers without a token may see, with `auto` resolved. Until the homeserver was asked, it is `Frozen`.
    pub(crate) fn unauthenticated_media(&self) -> UnauthenticatedMedia {
        match self.config.get().unauthenticated_media {
            UnauthenticatedMedia::Auto if self.homeserver_serves_strangers.load(Ordering::Relaxed) => {
                UnauthenticatedMedia::Open
            }
            UnauthenticatedMedia::Auto => UnauthenticatedMedia::Frozen,
            configured @ (UnauthenticatedMedia::Open
            | UnauthenticatedMedia::Frozen
            | UnauthenticatedMedia::Closed) => configured,
        }
    }

    /// Whether media stored now may be served to callers without a token (`unauthenticated_media`). The row keeps the answer.
    fn is_open(&self) -> bool {
        self.unauthenticated_media() == UnauthenticatedMedia::Open
    }

    /// Whether `viewer` may see media whose row says `open`.
    fn may_see(&self, viewer: Viewer, open: bool) -> bool {
        match (viewer, self.unauthenticated_media()) {
            (Viewer::Known, _) | (Viewer::Anonymous, UnauthenticatedMedia::Open) => true,
            (Viewer::Anonymous, UnauthenticatedMedia::Frozen | UnauthenticatedMedia::Auto) => open,
            (Viewer::Anonymous, UnauthenticatedMedia::Closed) => false,
        }
    }

    /// An access of this viewer now.
    fn access(&self, viewer: Viewer) -> LastAccess {
        LastAccess { at: (self.clock)(), by_known: viewer == Viewer::Known, as_avatar: false }
    }

    /// Checks that `viewer` may see media that was found, and notes the access. Never blocks.
    ///
    /// # Errors
    /// `Forbidden` for servers that configuration excludes, `NotFound` for media that the viewer may not see.
    fn admit(&self, mxc: &Mxc, viewer: Viewer, open: bool) -> Result<()> {
        self.check_policy(mxc)?;
        if !self.may_see(viewer, open) {
            return Err(Error::not_found());
        }
        self.access_times.note_media(mxc, self.access(viewer));
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use http_body_util::Full;
    use hyper::body::Bytes;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::download::{AccessOptions, Download, RemoteFetch, WaitFor};
    use super::*;
    use crate::app::App;
    pub(in crate::media) use crate::app::Environment;
    use crate::config::ThumbnailMethod;
    use crate::federation::SigningKey;
    use crate::matrix::UserId;
    use crate::sync::admission::Caller;
    use crate::thumbnail::{Motion, ThumbnailRequest};

    /// The use cases of a sidecar in `folder`.
    pub(in crate::media) fn media_in(folder: &Path, change: impl FnOnce(&mut Config)) -> Arc<Media> {
        media_with(Environment::system(), folder, change)
    }

    /// As [`media_in`], with an environment of the test.
    pub(in crate::media) fn media_with(
        environment: Environment,
        folder: &Path,
        change: impl FnOnce(&mut Config),
    ) -> Arc<Media> {
        let mut config = Config::defaults(ServerName::parse("example.org").unwrap());
        config.data_dir = folder.join("data");
        change(&mut config);
        let key = SigningKey::parse(b"ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
        Arc::clone(&App::open(&config, key, environment).unwrap().media)
    }

    /// A grey PNG.
    pub(in crate::media) fn picture(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Grayscale);
        let pixels = vec![7; usize::try_from(width.saturating_mul(height)).unwrap()];
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        bytes
    }

    /// Another server, which gives `file` under MSC1902 whatever it is asked for, and the certificate that it can be trusted by.
    fn remote_server(folder: &Path, file: Vec<u8>) -> (ServerName, PathBuf) {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = ServerName::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut reader = BufReader::new(StreamOwned::new(connection, stream));
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    line.clear();
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Disposition: inline\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    file.len()
                );
                let stream = reader.get_mut();
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&file)).unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        });
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, issuer.pem()).unwrap();
        (name, ca_file)
    }

    /// A thumbnail of remote media that nobody has seen cost 8 reads and 4 writes: each step looked up anew what the one before it had
    /// just stored.
    #[tokio::test]
    async fn nothing_is_looked_up_that_was_just_found_or_stored() {
        let folder = tempfile::tempdir().unwrap();
        let (server_name, ca_file) = remote_server(folder.path(), picture(200, 150));
        let media = media_in(folder.path(), |config| {
            config.federation.ip_allow = vec!["127.0.0.0/8".parse().unwrap()];
            config.federation.ca_file = Some(ca_file);
        });
        let mut last = media.store.counters();
        // Reads and writes since the last call.
        let mut cost = || {
            let now = media.store.counters();
            let cost = (now.reads - last.reads, now.writes - last.writes);
            last = now;
            cost
        };
        let (caller, remote, timeout) = (Caller::operator(), RemoteFetch::Allowed, Duration::from_secs(1));
        let options = AccessOptions { caller, remote, timeout };
        let size = |width| {
            let (method, motion) = (ThumbnailMethod::Crop, Motion::Still);
            ThumbnailRequest { width, height: width, method, motion }
        };
        let remote = Mxc { server_name, media_id: MediaId::parse("abc").unwrap() };

        let made = media.thumbnail(&remote, size(32), options).await.unwrap();
        assert_eq!(made.stored().content.upload_name.as_deref(), Some("thumbnail.png"));
        // Reads: the media, the media again before the fetch, the server's family, the thumbnail. Writes: the family, the media, the
        // thumbnail.
        assert_eq!(cost(), (4, 3));
        media.thumbnail(&remote, size(32), options).await.unwrap();
        assert_eq!(cost(), (0, 0), "the same again");
        media.thumbnail(&remote, size(96), options).await.unwrap();
        assert_eq!(cost(), (1, 1), "another size: the thumbnail");
        media.download(&remote, options, WaitFor::FirstByte).await.unwrap();
        assert_eq!(cost(), (0, 0), "the original, which was read for its thumbnails");
        let other = Mxc { media_id: MediaId::parse("def").unwrap(), ..remote };
        media.thumbnail(&other, size(32), options).await.unwrap();
        assert_eq!(cost(), (3, 1), "the same bytes under another address, of a known family");

        let upload = Upload {
            user_id: UserId::new("@alice:example.org"),
            content_type: "image/png".to_owned(),
            file_name: None,
            announced: None,
        };
        let mut body = Full::new(Bytes::from(picture(30, 20)));
        let uploaded = media.upload(upload, &mut body).await.unwrap();
        assert_eq!(cost(), (0, 1), "an upload");
        let Download::Stored(stored) = media.download(&uploaded, options, WaitFor::FirstByte).await.unwrap()
        else {
            panic!("an upload does not arrive from elsewhere")
        };
        assert_eq!(
            (cost(), stored.stored().content.size),
            ((1, 0), picture(30, 20).len().try_into().unwrap())
        );
        media.download(&uploaded, options, WaitFor::FirstByte).await.unwrap();
        assert_eq!(cost(), (0, 0));
    }
}
