//! oEmbed providers: where to request a description of a page.
//!
//! Owns the list of sites that are asked before their pages, because the pages say little to a program, or nothing without a
//! login. Software that runs on many hosts (Mastodon, PeerTube) declares its endpoint in its pages; for a page of such software
//! that does not, [`endpoint_by_path`] guesses the endpoint. Refuses to know responses.

use percent_encoding::{CONTROLS, utf8_percent_encode};
use url::Url;
use wildmatch::WildMatch;

use crate::config::{OembedProvider, host_glob};

/// The known oEmbed providers.
#[derive(Debug)]
pub(crate) struct OembedProviders {
    /// Configured ones first.
    all: Vec<Provider>,
}

/// An endpoint and the pages that it describes.
#[derive(Debug)]
struct Provider {
    endpoint: Url,
    pages: Vec<UrlGlob>,
}

/// A glob of URLs. `*` does not match across the border of host and path, so `https://*.x.example/*` does not match
/// `https://y.example/.x.example/`.
#[derive(Debug)]
struct UrlGlob {
    /// Host and port.
    authority: WildMatch,
    /// Path and query.
    path: WildMatch,
}

impl OembedProviders {
    /// The built-in providers behind the configured ones (`previews.oembed`).
    pub(crate) fn new(extra: &[OembedProvider]) -> Self {
        let configured = extra.iter().map(|provider| {
            (provider.endpoint.as_str(), provider.urls.iter().map(String::as_str).collect::<Vec<_>>())
        });
        let known = BUILT_IN.iter().map(|(endpoint, globs)| (*endpoint, globs.to_vec()));
        let all = configured.chain(known).filter_map(|(endpoint, globs)| {
            let endpoint = Url::parse(&endpoint.replace("{format}", "json")).ok()?;
            Some(Provider { endpoint, pages: globs.into_iter().filter_map(UrlGlob::parse).collect() })
        });
        Self { all: all.collect() }
    }

    /// The URL of a description of the page at `url`, if its site is known.
    pub(crate) fn endpoint(&self, url: &Url) -> Option<Url> {
        let provider =
            self.all.iter().find(|provider| provider.pages.iter().any(|glob| glob.matches(url)))?;
        Some(request_url(provider.endpoint.clone(), url))
    }
}

impl UrlGlob {
    /// Parses a glob like `https://*.example.org/video/*`. It matches `http` as well.
    fn parse(glob: &str) -> Option<Self> {
        let (_scheme, rest) = glob.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, "*"));
        // As in parsed URLs: a normalised host, and a path with bytes outside ASCII percent-encoded.
        let is_port =
            |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*');
        let split = authority.rsplit_once(':').filter(|(_, port)| is_port(port));
        let (host, port) = split.map_or((authority, ""), |(host, port)| (host, port));
        let host = host_glob(host).ok()?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let colon = if port.is_empty() { "" } else { ":" };
        Some(Self {
            authority: WildMatch::new(&format!("{host}{colon}{port}")),
            path: WildMatch::new(&format!("/{}", utf8_percent_encode(path, CONTROLS))),
        })
    }

    /// Whether it matches `url`.
    fn matches(&self, url: &Url) -> bool {
        let path =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        self.authority.matches(url.authority()) && self.path.matches(&path)
    }
}

/// The URL at which software that runs on any host would describe the page at `url`, by the path: `/@name/112233445566778899`
/// of Mastodon, `/w/` and `/videos/watch/` of PeerTube.
pub(in crate::preview) fn endpoint_by_path(url: &Url) -> Option<Url> {
    let parts: Vec<&str> = url.path_segments()?.collect();
    let is_post = |id: &str| id.len() >= 15 && id.bytes().all(|byte| byte.is_ascii_digit());
    let is_video = |id: &str| {
        matches!(id.len(), 22 | 36) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let endpoint = match parts.as_slice() {
        [user, id] if user.starts_with('@') && is_post(id) => "/api/oembed",
        ["w", id] | ["videos", "watch", id] if is_video(id) => "/services/oembed",
        _ => return None,
    };
    Some(request_url(url.join(endpoint).ok()?, url))
}

/// The URL of a request to `endpoint` for a description of the page at `url` ([oEmbed §2.2](https://oembed.com/#section2.2)).
fn request_url(mut endpoint: Url, url: &Url) -> Url {
    let mut page = url.clone();
    page.set_fragment(None);
    endpoint.query_pairs_mut().append_pair("format", "json").append_pair("url", page.as_str());
    endpoint
}

/// Endpoints of the built-in providers, with globs of the pages that they describe.
const BUILT_IN: [(&str, &[&str]); 7] = [
    (
        "https://www.youtube.com/oembed",
        &[
            "https://*.youtube.com/watch*",
            "https://*.youtube.com/shorts/*",
            "https://*.youtube.com/live/*",
            "https://*.youtube.com/playlist?list=*",
            "https://youtube.com/watch*",
            "https://youtube.com/shorts/*",
            "https://youtube.com/live/*",
            "https://youtu.be/*",
        ],
    ),
    (
        "https://vimeo.com/api/oembed.json",
        &["https://vimeo.com/*", "https://www.vimeo.com/*", "https://player.vimeo.com/video/*"],
    ),
    (
        "https://publish.twitter.com/oembed",
        &[
            "https://x.com/*/status/*",
            "https://*.x.com/*/status/*",
            "https://twitter.com/*/status/*",
            "https://*.twitter.com/*/status/*",
        ],
    ),
    ("https://open.spotify.com/oembed", &["https://open.spotify.com/*", "https://spotify.link/*"]),
    (
        "https://soundcloud.com/oembed",
        &["https://soundcloud.com/*/*", "https://*.soundcloud.com/*/*", "https://on.soundcloud.com/*"],
    ),
    (
        "https://www.reddit.com/oembed",
        &["https://reddit.com/r/*/comments/*", "https://*.reddit.com/r/*/comments/*"],
    ),
    (
        "https://www.tiktok.com/oembed",
        &[
            "https://www.tiktok.com/@*/video/*",
            "https://www.tiktok.com/@*/photo/*",
            "https://vm.tiktok.com/*",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn pages_of_known_sites_have_an_endpoint() {
        let providers = OembedProviders::new(&[OembedProvider {
            endpoint: "https://tube.example/oembed.{format}?theme=dark".to_owned(),
            urls: vec![
                "https://tube.example:8443/watch/*".to_owned(),
                "https://youtu.be/mine*".to_owned(),
                "https://*.B\u{fc}hne.example./st\u{fc}ck/*".to_owned(),
            ],
        }]);
        for (page, expected) in [
            (
                "https://www.youtube.com/watch?v=abc#t=1",
                Some(
                    "https://www.youtube.com/oembed?format=json&url=https%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3Dabc",
                ),
            ),
            (
                "http://m.youtube.com/shorts/x",
                Some(
                    "https://www.youtube.com/oembed?format=json&url=http%3A%2F%2Fm.youtube.com%2Fshorts%2Fx",
                ),
            ),
            (
                "https://x.com/ada/status/1",
                Some(
                    "https://publish.twitter.com/oembed?format=json&url=https%3A%2F%2Fx.com%2Fada%2Fstatus%2F1",
                ),
            ),
            (
                "https://youtu.be/mine7",
                Some(
                    "https://tube.example/oembed.json?theme=dark&format=json&url=https%3A%2F%2Fyoutu.be%2Fmine7",
                ),
            ),
            (
                "https://tube.example:8443/watch/a",
                Some(
                    "https://tube.example/oembed.json?theme=dark&format=json&url=https%3A%2F%2Ftube.example%3A8443%2Fwatch%2Fa",
                ),
            ),
            (
                "https://die.b\u{fc}hne.example/st\u{fc}ck/1",
                Some(
                    "https://tube.example/oembed.json?theme=dark&format=json&url=https%3A%2F%2Fdie.xn--bhne-0ra.example%2Fst%25C3%25BCck%2F1",
                ),
            ),
            ("https://tube.example/watch/a", None),
            ("https://www.youtube.com/feed/trending", None),
            ("https://evil.example/.youtube.com/watch?v=1", None),
            ("https://evil.example/?https://x.com/ada/status/1", None),
            ("https://nox.com/ada/status/1", None),
        ] {
            assert_eq!(providers.endpoint(&url(page)).map(String::from).as_deref(), expected, "{page}");
        }
    }

    #[test]
    fn every_built_in_provider_is_well_formed() {
        assert_eq!(OembedProviders::new(&[]).all.len(), BUILT_IN.len());
        for (_, globs) in BUILT_IN {
            assert!(globs.iter().all(|glob| glob.starts_with("https://") && UrlGlob::parse(glob).is_some()));
        }
    }

    #[test]
    fn software_of_many_hosts_is_recognised_by_its_paths() {
        for (page, expected) in [
            (
                "https://chirp.example/@ada/112233445566778899",
                Some(
                    "https://chirp.example/api/oembed?format=json&url=https%3A%2F%2Fchirp.example%2F%40ada%2F112233445566778899",
                ),
            ),
            (
                "https://peer.example/w/kkGMgK9ZtnKfYAgnEtQxbv",
                Some(
                    "https://peer.example/services/oembed?format=json&url=https%3A%2F%2Fpeer.example%2Fw%2FkkGMgK9ZtnKfYAgnEtQxbv",
                ),
            ),
            ("https://blog.example/@ada/2024", None),
            ("https://wiki.example/w/index.php", None),
        ] {
            assert_eq!(endpoint_by_path(&url(page)).map(String::from).as_deref(), expected, "{page}");
        }
    }
}
