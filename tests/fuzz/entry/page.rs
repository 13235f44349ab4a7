//! Targets for link previews: HTML, oEmbed, JSON-LD, files.

use std::io::{self, Read};
use std::panic;
use std::thread;

use url::Url;

use crate::preview::{self, Image, Page};

/// Reads a page. The first line is its content type, the second its URL, the rest its HTML.
pub fn page(data: &[u8]) {
    on_small_stack(|| read_page(data));
}

/// Reads an oEmbed response, and the same bytes as a page's JSON-LD.
pub fn oembed(data: &[u8]) {
    on_small_stack(|| read_oembed(data));
}

/// Runs the target on a thread with a stack of [`STACK`]. The main thread, on which the fuzzer runs, has 8 MiB, so that what
/// overflows in production would not overflow there.
fn on_small_stack(target: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let run = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, target);
        let run = run.unwrap_or_else(|why| panic!("no thread: {why}"));
        run.join().unwrap_or_else(|why| panic::resume_unwind(why));
    });
}

/// Stack size, bytes: less than a fifth of that in production (2 MiB for tokio's blocking threads), because inputs are at most 1/32
/// of a page (64 KiB of 2 MiB). `serde_json`, which stops at 127 levels, takes up to 256 KiB.
const STACK: usize = 384 * 1024;

fn read_page(data: &[u8]) {
    let (content_type, rest) = line(data);
    let (address, html) = line(rest);
    let content_type = Some(content_type.as_str()).filter(|text| !text.is_empty());
    let url = http_url(&address);
    let read = |step| preview::read_page(&mut Pieces { rest: html, step }, content_type, &url).ok();
    let whole = read(usize::MAX);
    if let Some(page) = &whole {
        check(page);
    }
    assert_eq!(read(7), whole, "the size of the reads matters");
    check(&preview::describe_file(&url, content_type, content_type, Some(1)));
    let media_type = preview::media_type(html, content_type);
    assert!(!media_type.is_empty() && media_type.bytes().all(|byte| !byte.is_ascii_uppercase()));
    _ = preview::sniff(html, content_type);
}

fn read_oembed(data: &[u8]) {
    let url = http_url("");
    if let Some(response) = preview::parse_oembed(data, &url) {
        check(&response.page);
        assert!(response.page.images.len() <= 3, "more images than a response has");
        assert!(response.cache_age.is_none_or(|age| age.as_secs() <= 86_400), "cached longer than a day");
    }
    let html = [b"<script type=application/ld+json>".as_slice(), data, b"</script>"].concat();
    let page = preview::read_page(&mut html.as_slice(), Some("text/html; charset=utf-8"), &url);
    check(&page.unwrap_or_default());
}

/// Checks what every [`Page`] promises.
fn check(page: &Page) {
    let Page { title, description, site_name, kind, url, images, oembed, refresh, more } = page;
    for (text, max) in [(title, 200), (description, 500), (site_name, 100), (kind, 100)] {
        check_text(text.as_deref(), max);
    }
    for address in [url, oembed, refresh].into_iter().flatten() {
        check_url(address);
    }
    assert!(images.len() <= 12, "{} images", images.len());
    assert!(images.is_sorted_by_key(|image| image.source), "an icon before an image");
    for Image { url, width: _, height: _, alt, source: _ } in images {
        check_url(url);
        check_text(alt.as_deref(), 200);
    }
    assert!(more.len() <= 36, "{} further keys", more.len());
    for (key, value) in more {
        assert!(key.len() <= 50 && key.bytes().all(|byte| byte.is_ascii_graphic()), "the key {key:?}");
        check_text(Some(value), 2048);
    }
}

/// Checks a text: one line, not empty, at most `max` characters.
fn check_text(text: Option<&str>, max: usize) {
    let Some(text) = text else { return };
    assert!(!text.is_empty() && text.trim() == text, "white space around {text:?}");
    assert!(!text.contains(char::is_control), "a control character in {text:?}");
    assert!(!text.contains(['\u{202e}', '\u{2066}', '\u{feff}']), "a bidirectional control in {text:?}");
    assert!(text.chars().count() <= max, "longer than {max}: {text:?}");
}

/// Checks a URL: absolute, `http(s)` without credentials, or an embedded image.
fn check_url(url: &Url) {
    if url.as_str().starts_with("data:image/") {
        return;
    }
    assert!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "credentials: {url}");
    assert!(!url.as_str().contains(|c: char| c.is_control() || c.is_whitespace()), "{url}");
}

/// The URL of a page: `address` if it is one, else a fixed one.
fn http_url(address: &str) -> Url {
    let link =
        preview::HttpUrl::parse(address).or_else(|_| preview::HttpUrl::parse("https://site.example/a/b?c"));
    link.unwrap_or_else(|why| panic!("{why}")).url().clone()
}

/// The first line, with invalid UTF-8 replaced, and the rest.
pub(super) fn line(data: &[u8]) -> (String, &[u8]) {
    let end = memchr::memchr(b'\n', data).unwrap_or(data.len());
    let (line, rest) = data.split_at_checked(end).unwrap_or((data, &[]));
    (String::from_utf8_lossy(line).into_owned(), rest.get(1..).unwrap_or_default())
}

/// A body that arrives in pieces.
pub(super) struct Pieces<'a> {
    /// What has not been read yet.
    pub(super) rest: &'a [u8],
    /// Largest piece, bytes.
    pub(super) step: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = into.len().min(self.step);
        self.rest.read(into.get_mut(..length).unwrap_or_default())
    }
}
