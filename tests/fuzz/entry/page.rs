//! What other sites say of themselves: HTML, oEmbed, JSON-LD, files.

use std::io::{self, Read};
use std::panic;
use std::thread;

use url::Url;

use crate::preview::{self, Image, Page};

/// Describes a page. The first line is its content type, the second its URL, what follows its HTML.
pub fn page(data: &[u8]) {
    on_small_stack(|| describe(data));
}

/// Reads an oEmbed answer, and the same bytes as a page's JSON-LD.
pub fn oembed(data: &[u8]) {
    on_small_stack(|| embed(data));
}

/// Runs on a thread of its own with a stack of [`STACK`]. The main thread, where the fuzzer runs, has 8 MiB: what overflows in
/// production would not there.
fn on_small_stack(target: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let run = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, target);
        let run = run.unwrap_or_else(|why| panic!("no thread: {why}"));
        run.join().unwrap_or_else(|why| panic::resume_unwind(why));
    });
}

/// Bytes of stack: less than a fifth of those in production (tokio's blocking threads: 2 MiB), as the inputs are at most a
/// thirty-second of a page (64 KiB of 2 MiB). `serde_json`, which goes 127 levels deep and no further, takes up to 256 KiB.
const STACK: usize = 384 * 1024;

/// Describes a page.
fn describe(data: &[u8]) {
    let (content_type, rest) = line(data);
    let (address, html) = line(rest);
    let content_type = Some(content_type.as_str()).filter(|text| !text.is_empty());
    let url = http_url(&address);
    let read = |step| preview::read_page(&mut Pieces { rest: html, step }, content_type, &url).ok();
    let whole = read(usize::MAX);
    if let Some(page) = &whole {
        check(page);
    }
    assert_eq!(read(7), whole, "the size of the pieces matters");
    check(&preview::describe_file(&url, content_type, content_type, Some(1)));
    let media_type = preview::media_type(html, content_type);
    assert!(!media_type.is_empty() && media_type.bytes().all(|byte| !byte.is_ascii_uppercase()));
    _ = preview::sniff(html, content_type);
}

/// Reads an oEmbed answer, and the same bytes as a page's JSON-LD.
fn embed(data: &[u8]) {
    let url = http_url("");
    if let Some(embed) = preview::parse_oembed(data, &url) {
        check(&embed.page);
        assert!(embed.page.images.len() <= 3, "more pictures than an answer has");
        assert!(embed.cache_age.is_none_or(|age| age.as_secs() <= 86_400), "kept longer than a day");
    }
    let html = [b"<script type=application/ld+json>".as_slice(), data, b"</script>"].concat();
    let page = preview::read_page(&mut html.as_slice(), Some("text/html; charset=utf-8"), &url);
    check(&page.unwrap_or_default());
}

/// Checks what every description promises.
fn check(page: &Page) {
    let Page { title, description, site_name, kind, url, images, oembed, refresh, more } = page;
    for (text, max) in [(title, 200), (description, 500), (site_name, 100), (kind, 100)] {
        check_text(text.as_deref(), max);
    }
    for address in [url, oembed, refresh].into_iter().flatten() {
        check_url(address);
    }
    assert!(images.len() <= 12, "{} pictures", images.len());
    assert!(images.is_sorted_by_key(|image| image.source), "an icon before a picture");
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

/// Checks a text: one line, something to show, at most `max` characters.
fn check_text(text: Option<&str>, max: usize) {
    let Some(text) = text else { return };
    assert!(!text.is_empty() && text.trim() == text, "blanks around {text:?}");
    assert!(!text.contains(char::is_control), "a control character in {text:?}");
    assert!(!text.contains(['\u{202e}', '\u{2066}', '\u{feff}']), "an override in {text:?}");
    assert!(text.chars().count() <= max, "longer than {max}: {text:?}");
}

/// Checks an address: one that may be fetched and shown.
fn check_url(url: &Url) {
    if url.as_str().starts_with("data:image/") {
        return;
    }
    assert!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "credentials: {url}");
    assert!(!url.as_str().contains(|c: char| c.is_control() || c.is_whitespace()), "{url}");
}

/// The address of a page, whatever the input says.
fn http_url(address: &str) -> Url {
    let link =
        preview::HttpUrl::parse(address).or_else(|_| preview::HttpUrl::parse("https://site.example/a/b?c"));
    link.unwrap_or_else(|why| panic!("{why}")).url().clone()
}

/// The first line, lossily, and what follows it.
pub(super) fn line(data: &[u8]) -> (String, &[u8]) {
    let end = memchr::memchr(b'\n', data).unwrap_or(data.len());
    let (line, rest) = data.split_at_checked(end).unwrap_or((data, &[]));
    (String::from_utf8_lossy(line).into_owned(), rest.get(1..).unwrap_or_default())
}

/// A body that comes in pieces.
pub(super) struct Pieces<'a> {
    /// What has not come yet.
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
