//! `sidecar.yaml`: every key, its default and its meaning.
//!
//! Owns the order defaults < file < environment (`SIDECAR_SERVER_NAME`, nested keys with `__`), the
//! messages about an invalid file (all at once, each with key, file and line), and printing the configuration in
//! effect. The shipped `sidecar.yaml` is the reference for operators; a test keeps the two equal.

mod complaints;
mod file;
mod homeserver_url;
pub(crate) mod host_list;
mod hosts;
mod keys;
mod languages;
mod limits;
mod live;
mod load;
mod ports;
mod print;
mod problem;
mod retention;
mod units;
mod validate;
mod yaml;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::file::find;
pub(crate) use self::homeserver_url::{HomeserverUrl, HomeserverUrlError};
pub(crate) use self::hosts::{host_glob, host_name};
pub(crate) use self::languages::accept_language;
pub use self::limits::{LeakyBucket, Limits, OtherPlaces, Places, UserPlaces};
pub(crate) use self::live::Live;
#[cfg(any(fuzzing, test))]
pub(crate) use self::load::load_text;
pub use self::load::{Loaded, load};
pub use self::ports::Ports;
pub(crate) use self::print::redacted;
pub use self::problem::{Problem, Problems};
pub use self::retention::{KindRules, Quotas, Retention, ServerQuota, ThumbnailRules, UserQuota};
pub(crate) use self::units::reachable;
pub use self::units::{
    ListenAddr, OpsListen, Rate, Size, Span, ThumbnailMethod, ThumbnailSize, TrustedProxy, UnitError,
};
pub(crate) use self::validate::is_log_directives;

use crate::matrix::ServerName;

/// The whole configuration, parsed and validated. Field docs are in `sidecar.yaml`, in the operator's words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The name in user IDs and MXC URIs.
    pub server_name: ServerName,
    /// Where to accept connections. `listen: ADDRESS` and `listen: [ADDRESS, …]` are short for `listen.addresses`.
    pub listen: Listen,
    /// The second listener, for the operator.
    pub ops: Ops,
    /// Holds `catalog.db`, `blobs/`, `tmp/`.
    pub data_dir: PathBuf,
    /// The neighbour.
    pub homeserver: Homeserver,
    /// What users may store.
    pub uploads: Uploads,
    /// What is served without a token.
    pub unauthenticated_media: UnauthenticatedMedia,
    /// Other servers.
    pub federation: Federation,
    /// Pictures made smaller.
    pub thumbnails: Thumbnails,
    /// Pages summarised.
    pub previews: Previews,
    /// What the store may hold.
    pub retention: Retention,
    /// Who may fill it.
    pub quotas: Quotas,
    /// What callers may cause at the same time.
    pub limits: Limits,
    /// Log directives as in `RUST_LOG`: `info`, `warn,media_sidecar=debug`.
    pub log: String,
}

/// The listener that serves media.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Where the reverse proxy connects; at least one.
    #[serde(with = "units::one_or_many")]
    pub addresses: Vec<ListenAddr>,
    /// Peers whose `X-Forwarded-For`, `X-Real-IP` and `X-Request-ID` headers are trusted.
    pub trust_forwarded: Vec<TrustedProxy>,
}

/// The listener that serves the operator's routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ops {
    /// `None`: the Unix socket `ops.sock` in `data_dir`.
    pub listen: Option<OpsListen>,
}

/// The homeserver this sidecar stands beside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Homeserver {
    /// Base URL for `whoami` and the published key. The only outbound address exempt from `ip_deny`.
    pub url: String,
    /// Key file; `$CREDENTIALS_DIRECTORY/signing.key` wins under systemd.
    pub signing_key: PathBuf,
    /// How long a good result of `whoami` is cached.
    pub token_cache: Span,
    /// What guests may do; `None`: depends on the homeserver's software.
    pub guests: Option<Guests>,
}

/// What accounts may do that the homeserver reports as guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guests {
    /// Only download, as specified.
    Spec,
    /// The same as other accounts.
    Allow,
}

/// Bounds of local uploads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uploads {
    /// Largest upload, in bytes.
    pub max_size: Size,
    /// Most media IDs without content that a user may have.
    pub pending_per_user: u32,
    /// How long a media ID without content is valid.
    pub pending_lifetime: Span,
}

/// Which media callers without a token may see on the legacy and MSC1902 client routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnauthenticatedMedia {
    /// All media, as in MSC1902.
    Open,
    /// Media that was stored while this was `open`.
    Frozen,
    /// No media.
    Closed,
    /// `open` beside a homeserver that serves new media without a token itself, else `frozen`.
    Auto,
}

/// Exchange with other servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Federation {
    /// Server names (globs) to exchange media with.
    pub allow: Vec<String>,
    /// Server names (globs) not to; wins over `allow`.
    pub deny: Vec<String>,
    /// The order in which endpoint families are tried with a server.
    pub families: Vec<Family>,
    /// Largest remote file, in bytes.
    pub max_size: Size,
    /// Longest silence of a remote server.
    pub timeout: Span,
    /// Key servers to query when the origin does not respond.
    pub notaries: Vec<ServerName>,
    /// PEM file of further roots to trust, for federation alone.
    pub ca_file: Option<PathBuf>,
    /// Addresses never connected to.
    pub ip_deny: Vec<IpNet>,
    /// Exceptions to `ip_deny`.
    pub ip_allow: Vec<IpNet>,
    /// Whether copies of their media are kept.
    pub store: RemoteStore,
}

/// Whether copies of other servers' media are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteStore {
    /// Until retention evicts them.
    Keep,
    /// For a minute, and while somebody reads them.
    Session,
}

/// A generation of media endpoints between servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `/_matrix/federation/v1/remote_media`, signed, raw bytes.
    Msc1902,
    /// `/_matrix/federation/v1/media`, signed, multipart (spec 1.11).
    Msc3916,
    /// `/_matrix/media`, unsigned.
    Legacy,
}

/// Bounds of thumbnailing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Thumbnails {
    /// Sizes that requests are rounded up to.
    pub sizes: Vec<ThumbnailSize>,
    /// Largest source, in pixels.
    pub max_pixels: Size,
    /// Memory for all decodes together, in bytes.
    pub memory: Size,
    /// Decodes at the same time.
    pub workers: u32,
    /// Whether thumbnails of uploads are rendered in all `sizes` ahead of requests.
    pub pregenerate: bool,
}

/// Previews of linked pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Previews {
    /// Whether `preview_url` is served.
    pub enabled: bool,
    /// How much of a page is read, in bytes.
    pub max_page: Size,
    /// Largest preview image, in bytes.
    pub max_image: Size,
    /// Space for all preview images together, in bytes, without their thumbnails.
    pub max_stored: Size,
    /// Time limit for a whole preview.
    pub timeout: Span,
    /// Ports that may be connected to.
    pub ports: Ports,
    /// How long a preview is kept.
    pub cache: Span,
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// Sent as `Accept-Language`, best first, with or without weights.
    pub accept_language: Vec<String>,
    /// Hosts (globs) to preview.
    pub allow_hosts: Vec<String>,
    /// Hosts (globs) not to; wins over `allow_hosts`.
    pub deny_hosts: Vec<String>,
    /// oEmbed providers, used before the embedded list.
    pub oembed: Vec<OembedProvider>,
    /// PEM file of further roots to trust, for previews alone.
    pub ca_file: Option<PathBuf>,
    /// Addresses never connected to.
    pub ip_deny: Vec<IpNet>,
    /// Exceptions to `ip_deny`.
    pub ip_allow: Vec<IpNet>,
}

/// An oEmbed provider. A missing field is empty, which validation refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OembedProvider {
    /// The URL of its API.
    pub endpoint: String,
    /// The pages it describes: URLs (globs).
    pub urls: Vec<String>,
}

impl Listen {
    /// Whether a peer is a trusted proxy; `None` is a peer on a Unix socket. IPv4-mapped IPv6 addresses must be given as IPv4.
    pub(crate) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        self.trust_forwarded.iter().any(|trusted| match (trusted, peer) {
            (TrustedProxy::Unix, None) => true,
            (TrustedProxy::Range(range), Some(peer)) => range.contains(&peer),
            (TrustedProxy::Unix, Some(_)) | (TrustedProxy::Range(_), None) => false,
        })
    }
}

/// Addresses that are not the public internet. Of IPv4 all that [IANA's special-purpose
/// registry](https://www.iana.org/assignments/iana-ipv4-special-registry/) holds, and multicast. Of IPv6 all outside `2000::/3`, the one
/// range that is given out, and inside it what [its registry](https://www.iana.org/assignments/iana-ipv6-special-registry/)
/// holds: with it go all ranges that embed IPv4 addresses (NAT64, 6to4, Teredo). IPv4-mapped IPv6 addresses are compared as IPv4.
const NOT_PUBLIC: [&str; 25] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/3",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "4000::/2",
    "8000::/1",
];

impl Config {
    /// Every default, for `server_name`.
    pub fn defaults(server_name: ServerName) -> Self {
        let any = || vec!["*".to_owned()];
        let not_public = || NOT_PUBLIC.iter().filter_map(|net| net.parse().ok()).collect::<Vec<IpNet>>();
        let size = |width, height, method| ThumbnailSize { width, height, method };
        Self {
            server_name,
            listen: Listen {
                addresses: vec![ListenAddr::Tcp(([127, 0, 0, 1], 8090).into())],
                trust_forwarded: ["127.0.0.0/8", "::1", "unix"]
                    .iter()
                    .filter_map(|proxy| proxy.parse().ok())
                    .collect(),
            },
            ops: Ops { listen: None },
            data_dir: "./data".into(),
            homeserver: Homeserver {
                url: "http://127.0.0.1:6167".to_owned(),
                signing_key: "signing.key".into(),
                token_cache: minutes(2),
                guests: None,
            },
            uploads: Uploads {
                max_size: Size(50 << 20),
                pending_per_user: 5,
                pending_lifetime: minutes(24 * 60),
            },
            unauthenticated_media: UnauthenticatedMedia::Open,
            federation: Federation {
                allow: any(),
                deny: vec![],
                families: vec![Family::Msc1902, Family::Msc3916, Family::Legacy],
                max_size: Size(50 << 20),
                timeout: minutes(1),
                notaries: vec![],
                ca_file: None,
                ip_deny: not_public(),
                ip_allow: vec![],
                store: RemoteStore::Keep,
            },
            thumbnails: Thumbnails {
                sizes: vec![
                    size(32, 32, ThumbnailMethod::Crop),
                    size(96, 96, ThumbnailMethod::Crop),
                    size(320, 240, ThumbnailMethod::Scale),
                    size(640, 480, ThumbnailMethod::Scale),
                    size(800, 600, ThumbnailMethod::Scale),
                ],
                max_pixels: Size(100_000_000),
                memory: Size(128 << 20),
                workers: 1,
                pregenerate: false,
            },
            previews: Previews {
                enabled: true,
                max_page: Size(2 << 20),
                max_image: Size(10 << 20),
                max_stored: Size(256 << 20),
                timeout: Span(Duration::from_secs(10)),
                ports: Ports::Any,
                cache: minutes(60),
                user_agent: "Mozilla/5.0 (compatible; media-sidecar; Matrix link preview bot)".to_owned(),
                accept_language: vec!["en".to_owned()],
                allow_hosts: any(),
                deny_hosts: vec![],
                oembed: vec![],
                ca_file: None,
                ip_deny: not_public(),
                ip_allow: vec![],
            },
            retention: Retention::defaults(),
            quotas: Quotas::NONE,
            limits: Limits::defaults(),
            log: "info".to_owned(),
        }
    }
}

impl Config {
    /// The address of the operator's listener; `None` if it is off.
    pub(crate) fn ops_address(&self) -> Option<ListenAddr> {
        match &self.ops.listen {
            None => Some(ListenAddr::Unix(self.data_dir.join("ops.sock"))),
            Some(OpsListen::At(address)) => Some(address.clone()),
            Some(OpsListen::Off) => None,
        }
    }
}

/// A span of `minutes`.
const fn minutes(count: u64) -> Span {
    Span(Duration::from_secs(count.saturating_mul(60)))
}
