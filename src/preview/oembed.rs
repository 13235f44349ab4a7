//! oEmbed: where a site describes its pages as JSON, and what the JSON says ([oembed.com](https://oembed.com/)).
//!
//! Owns the list of sites that are worth asking before their pages, which say little to a program or nothing without a
//! login. Software that runs on many hosts (Mastodon, `PeerTube`) describes itself in its pages and names its endpoint there;
//! for a page of such an address that does neither, [`on_any_host`] knows where to ask.

use std::collections::BTreeMap;
use std::time::Duration;

use encoding_rs::{Encoding, WINDOWS_1252};
use percent_encoding::{CONTROLS, utf8_percent_encode};
use serde_json::Value;
use url::Url;
use wildmatch::WildMatch;

use super::body::MIN_SIDE;
use super::declared::RawImage;
use super::declared::pixels;
use super::html::{self, Listener, Tag, push_capped};
use super::page::{MAX_DESCRIPTION, MAX_NAME, MAX_TITLE, absolute};
use super::{Image, ImageSource, Page, text};
use crate::config::{OembedProvider, host_glob};

/// What an oEmbed answer says of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OembedResponse {
    /// The description.
    pub(crate) page: Page,
    /// How long the site wants it kept, at most a day.
    pub(crate) cache_age: Option<Duration>,
}

/// The sites that are known to speak oEmbed.
#[derive(Debug)]
pub(crate) struct OembedProviders {
    /// Endpoints and the pages they describe, configured ones first.
    all: Vec<(Url, Vec<Pattern>)>,
}

/// A glob of URLs. Its `*` does not reach from the host into the path, so `https://*.x.example/*` is never somebody
/// else's `https://y.example/.x.example/`.
#[derive(Debug)]
struct Pattern {
    /// Host and port.
    authority: WildMatch,
    /// Path and query.
    path: WildMatch,
}

impl OembedProviders {
    /// The known sites behind the configured ones (`previews.oembed`).
    pub(crate) fn new(extra: &[OembedProvider]) -> Self {
        let configured = extra.iter().map(|provider| {
            (provider.endpoint.as_str(), provider.urls.iter().map(String::as_str).collect::<Vec<_>>())
        });
        let known = KNOWN.iter().map(|(endpoint, globs)| (*endpoint, globs.to_vec()));
        let all = configured.chain(known).filter_map(|(endpoint, globs)| {
            let endpoint = Url::parse(&endpoint.replace("{format}", "json")).ok()?;
            Some((endpoint, globs.into_iter().filter_map(Pattern::parse).collect()))
        });
        Self { all: all.collect() }
    }

    /// Where to ask about `url`, if its site is known. What the answer lacks is in the page.
    pub(crate) fn endpoint(&self, url: &Url) -> Option<Url> {
        let (endpoint, _) =
            self.all.iter().find(|(_, patterns)| patterns.iter().any(|pattern| pattern.matches(url)))?;
        Some(question(endpoint.clone(), url))
    }
}

impl Pattern {
    /// Reads a glob like `https://*.example.org/video/*`. It is meant for `http` as well.
    fn parse(glob: &str) -> Option<Self> {
        let (_scheme, rest) = glob.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, "*"));
        // As URLs have them: the host in its normal form, other letters than ASCII in the path encoded.
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

    /// Whether it names `url`.
    fn matches(&self, url: &Url) -> bool {
        let path =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        self.authority.matches(url.authority()) && self.path.matches(&path)
    }
}

/// Where software that runs on any host would describe `url`, by the shape of its path: `/@name/112233445566778899` of
/// Mastodon, `/w/` and `/videos/watch/` of `PeerTube`.
pub(super) fn on_any_host(url: &Url) -> Option<Url> {
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
    Some(question(url.join(endpoint).ok()?, url))
}

/// The question about `url`.
fn question(mut endpoint: Url, url: &Url) -> Url {
    let mut asked = url.clone();
    asked.set_fragment(None);
    endpoint.query_pairs_mut().append_pair("format", "json").append_pair("url", asked.as_str());
    endpoint
}

/// An answer in UTF-8, which it should be in, whatever it came in: what is no UTF-8 is what `content_type` declares, else Latin-1.
pub(crate) fn json_to_utf8(json: Vec<u8>, content_type: Option<&str>) -> Vec<u8> {
    let mark = Encoding::for_bom(&json).map(|(encoding, _)| encoding);
    if mark.is_none() && std::str::from_utf8(&json).is_ok() {
        return json;
    }
    let declared = || {
        let parameters = content_type?.to_ascii_lowercase();
        let (_, label) = parameters.split_once("charset=")?;
        Encoding::for_label(label.split(';').next()?.trim_matches(['"', '\'', ' ']).as_bytes())
    };
    let encoding = mark.or_else(declared).unwrap_or(WINDOWS_1252);
    encoding.decode(&json).0.into_owned().into_bytes()
}

/// Reads the answer that an endpoint gave at `url`. `None` if it says nothing to show.
pub(crate) fn parse_oembed(json: &[u8], url: &Url) -> Option<OembedResponse> {
    if json.len() > MAX_OEMBED {
        return None;
    }
    let answer: Value = serde_json::from_slice(json).ok()?;
    let get = |key: &str, max| text::clean_json(answer.get(key)?.as_str()?, max);
    let html = answer.get("html").and_then(Value::as_str);
    let said = html.and_then(text_of_embed);
    let author = get("author_name", MAX_NAME);
    let title = get("title", MAX_TITLE);
    let description =
        said.or_else(|| get("description", MAX_DESCRIPTION)).filter(|said| Some(said) != title.as_ref());
    // A post has an author instead of a title.
    let title = title.or_else(|| author.clone().filter(|_| description.is_some()));
    let mut more = BTreeMap::new();
    if let Some(author) = author.filter(|author| Some(author) != title.as_ref()) {
        more.insert("article:author".to_owned(), author);
    }
    let is_photo = answer.get("type").and_then(Value::as_str) == Some("photo");
    let photo = is_photo.then(|| image(&answer, url, ["url", "width", "height"])).flatten();
    let thumbnail = image(&answer, url, ["thumbnail_url", "thumbnail_width", "thumbnail_height"]);
    let shown = html.and_then(|html| picture_of_embed(html, url));
    let kind = match answer.get("type").and_then(Value::as_str) {
        Some("video") => Some("video.other"),
        Some("link") => Some("website"),
        _ => None,
    };
    let page = Page {
        title,
        description,
        site_name: get("provider_name", MAX_NAME),
        kind: kind.map(str::to_owned),
        images: photo.into_iter().chain(thumbnail).chain(shown).collect(),
        more,
        ..Page::default()
    };
    let says_something = page.title.is_some() || page.description.is_some() || !page.images.is_empty();
    let cache_age = answer.get("cache_age").and_then(number).map(Duration::from_secs);
    says_something
        .then(|| OembedResponse { page, cache_age: cache_age.map(|age| age.min(MAX_OEMBED_CACHE_AGE)) })
}

/// An image of an answer: its URL and its sides.
fn image(answer: &Value, base: &Url, [url, width, height]: [&str; 3]) -> Option<Image> {
    let url = absolute(base, answer.get(url)?.as_str()?)?;
    let side = |key: &str| answer.get(key).and_then(number).and_then(|px| pixels(&px.to_string()));
    Some(Image { url, width: side(width), height: side(height), alt: None, source: ImageSource::Declared })
}

/// A number, which some sites write as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// What the HTML to embed says: its paragraphs, or without any its whole text. Players say nothing.
fn text_of_embed(html: &str) -> Option<String> {
    let mut listener = Paragraphs::default();
    html::read_bytes(html.as_bytes(), &mut listener);
    let paragraphs = text::line(&String::from_utf8_lossy(&listener.text), MAX_DESCRIPTION);
    paragraphs.or_else(|| text::line(&text::text_of_html(html), MAX_DESCRIPTION))
}

/// The first picture in the HTML to embed.
fn picture_of_embed(html: &str, base: &Url) -> Option<Image> {
    let mut pictures = Pictures::default();
    html::read_bytes(html.as_bytes(), &mut pictures);
    let RawImage { src, width, height, .. } = pictures.first?;
    Some(Image { url: absolute(base, &src)?, width, height, alt: None, source: ImageSource::Shown })
}

/// Looks for a picture that is more than an ornament.
#[derive(Default)]
struct Pictures {
    /// The first.
    first: Option<RawImage>,
}

impl Listener for Pictures {
    fn start(&mut self, tag: &Tag) {
        if tag.name() == "img" && self.first.is_none() {
            let is_small = |image: &RawImage| {
                [image.width, image.height].into_iter().flatten().any(|side| side < MIN_SIDE)
            };
            self.first = RawImage::of_img(tag, None).filter(|image| !is_small(image));
        }
    }

    fn end(&mut self, _name: &str) {}

    fn text(&mut self, _piece: &[u8]) {}

    fn is_done(&mut self, _position: usize) -> bool {
        self.first.is_some()
    }
}

/// Gathers the text of paragraphs: in an embedded post they are the post, what is around them its signature.
#[derive(Default)]
struct Paragraphs {
    /// The text.
    text: Vec<u8>,
    /// Whether a paragraph is open.
    is_open: bool,
}

impl Listener for Paragraphs {
    fn start(&mut self, tag: &Tag) {
        self.is_open |= tag.name() == "p";
        if matches!(tag.name(), "p" | "br") {
            push_capped(&mut self.text, b" ", html::MAX_VALUE);
        }
    }

    fn end(&mut self, name: &str) {
        self.is_open &= !matches!(name, "p" | "blockquote");
    }

    fn text(&mut self, piece: &[u8]) {
        if self.is_open {
            push_capped(&mut self.text, piece, html::MAX_VALUE);
        }
    }

    fn is_done(&mut self, _position: usize) -> bool {
        false
    }
}

/// The sites that are asked before their pages: endpoints and the pages they describe.
const KNOWN: [(&str, &[&str]); 7] = [
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

/// Longest an answer is kept, whatever it says: as in Synapse.
pub(crate) const MAX_OEMBED_CACHE_AGE: Duration = Duration::from_hours(24);

/// Longest answer read, bytes.
pub(crate) const MAX_OEMBED: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn parse(json: &str) -> Option<OembedResponse> {
        parse_oembed(json.as_bytes(), &url("https://x.example/oembed"))
    }

    #[test]
    fn known_sites_are_asked_at_their_endpoints() {
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
    fn every_known_entry_is_well_formed() {
        assert_eq!(OembedProviders::new(&[]).all.len(), KNOWN.len());
        for (_, globs) in KNOWN {
            assert!(globs.iter().all(|glob| glob.starts_with("https://") && Pattern::parse(glob).is_some()));
        }
    }

    #[test]
    fn software_of_many_hosts_is_known_by_its_paths() {
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
            assert_eq!(on_any_host(&url(page)).map(String::from).as_deref(), expected, "{page}");
        }
    }

    #[test]
    fn a_video_has_title_site_and_thumbnail() {
        let embed = parse(
            r#"{"title":"Tuning","author_name":"Ada","provider_name":"Tube","type":"video","version":"1.0","cache_age":"604800",
            "thumbnail_url":"https://i.example/t.jpg","thumbnail_width":480,"thumbnail_height":"360",
            "html":"<iframe src=\"https://x.example/e\" title=\"Tuning\"></iframe>"}"#,
        )
        .unwrap();
        assert_eq!(embed.page.title.as_deref(), Some("Tuning"));
        assert_eq!(embed.page.description, None);
        assert_eq!(embed.page.site_name.as_deref(), Some("Tube"));
        assert_eq!(embed.page.more["article:author"], "Ada");
        let image = &embed.page.images[0];
        assert_eq!(
            (image.url.as_str(), image.width, image.height),
            ("https://i.example/t.jpg", Some(480), Some(360))
        );
        assert_eq!(embed.cache_age, Some(Duration::from_hours(24)));
    }

    #[test]
    fn a_post_is_its_paragraph_under_its_authors_name() {
        let embed = parse(
            r#"{"author_name":"Ada &amp; co","provider_name":"Chirp","type":"rich","cache_age":3600,"html":
            "<blockquote class=\"t\"><p lang=\"en\" dir=\"ltr\">Shipping day!<br>See <a href=\"x\">notes</a> &amp; more</p>&mdash; Ada (@ada) <a href=\"y\">March 1</a></blockquote>\n<script async src=\"w.js\">var x = 1;</script>"}"#,
        )
        .unwrap();
        assert_eq!(embed.page.title.as_deref(), Some("Ada & co"));
        assert_eq!(embed.page.description.as_deref(), Some("Shipping day! See notes & more"));
        assert_eq!(embed.cache_age, Some(Duration::from_hours(1)));
        assert!(embed.page.more.is_empty());
    }

    #[test]
    fn answers_in_other_character_sets_are_read() {
        let latin =
            |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>();
        let (json, utf8) = (r#"{"title":"Stra\u{df}e \u{e4}"}"#, "{\"title\":\"Stra\u{df}e \u{e4}\"}");
        let json = json.replace("\\u{df}", "\u{df}").replace("\\u{e4}", "\u{e4}");
        let wide: Vec<u8> =
            [0xfeff].into_iter().chain(json.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        for (bytes, content_type) in [
            (json.clone().into_bytes(), Some("application/json; charset=iso-8859-1")),
            (latin(&json), Some("application/json; charset=ISO-8859-1")),
            (latin(&json), Some("application/json; charset=\"windows-1252\"; x=y")),
            (latin(&json), Some("application/json")),
            (latin(&json), None),
            (latin(&json), Some("application/json; charset=utf-8")),
            (wide, None),
            (format!("\u{feff}{json}").into_bytes(), None),
        ] {
            let read = json_to_utf8(bytes, content_type);
            if content_type.is_none_or(|kind| !kind.ends_with("utf-8")) {
                assert_eq!(String::from_utf8(read).unwrap(), utf8, "{content_type:?}");
            } else {
                assert!(String::from_utf8(read).is_ok());
            }
        }
    }

    #[test]
    fn the_html_to_embed_may_have_the_picture() {
        let embed = parse(
            r#"{"type":"rich","title":"T","html":"<img src='/dot.png' width=1 height=1><a href=x><img src=\"/p.jpg\" width=640 height=480></a>"}"#,
        )
        .unwrap();
        let image = &embed.page.images[0];
        assert_eq!((image.url.as_str(), image.width), ("https://x.example/p.jpg", Some(640)));
    }

    #[test]
    fn what_an_answer_is_about_is_its_type() {
        for (kind, expected) in
            [("video", Some("video.other")), ("link", Some("website")), ("rich", None), ("photo", None)]
        {
            let embed = parse(&format!(r#"{{"type":"{kind}","title":"T"}}"#)).unwrap();
            assert_eq!(embed.page.kind.as_deref(), expected, "{kind}");
        }
    }

    #[test]
    fn a_photo_is_its_image() {
        let embed =
            parse(r#"{"type":"photo","url":"/p.jpg","width":1024,"height":768,"title":"Fog"}"#).unwrap();
        assert_eq!(embed.page.images[0].url.as_str(), "https://x.example/p.jpg");
    }

    #[test]
    fn answers_that_say_nothing_are_none() {
        let long = format!("{{\"title\":\"{}\"}}", "x".repeat(MAX_OEMBED));
        for json in [
            "",
            "null",
            "[]",
            "{}",
            "<xml/>",
            r#"{"title":7}"#,
            r#"{"title":"\u0000"}"#,
            r#"{"author_name":"Ada"}"#,
            r#"{"thumbnail_url":"javascript:alert(1)"}"#,
            &long,
        ] {
            assert_eq!(parse(json), None, "{}", json.len());
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read(title in "\\PC{0,40}", html in "[<>/=\"a-z &;]{0,80}", width in any::<i64>()) {
            let json = serde_json::json!({ "title": title, "html": html, "thumbnail_url": html, "thumbnail_width": width });
            parse(&json.to_string());
        }
    }
}
