//! What is read of pages, and what holds of any page.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::format_collect,
    reason = "tests"
)]

mod charsets;
mod fixtures;
mod hostile;
mod images;
mod texts;

use std::io::{self, Read};

use url::Url;

use super::*;

fn read(mut bytes: &[u8], content_type: Option<&str>, url: &str) -> Page {
    read_page(&mut bytes, content_type, &Url::parse(url).unwrap()).unwrap()
}

fn html(text: &str) -> Page {
    read(text.as_bytes(), Some("text/html"), "https://x.example/")
}

/// A body that arrives in pieces of a given size, bytes.
struct SmallReads<'a>(&'a [u8], usize);

impl Read for SmallReads<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(out.len()).min(self.0.len());
        let (now, later) = self.0.split_at(count);
        out[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// Checks what holds of every page: clean texts, absolute URLs, few keys.
fn assert_sane(page: &Page, what: &str) {
    let keys = page.open_graph();
    assert!(keys.len() <= 41, "{what}: {} keys", keys.len());
    let alts = page.images.iter().filter_map(|image| image.alt.as_deref());
    for value in keys.values().map(|value| value.as_str().unwrap()).chain(alts) {
        assert!(!value.is_empty() && value.chars().count() <= 2048, "{what}: {value:?}");
        let is_forbidden = |c: char| {
            c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
        };
        assert!(!value.chars().any(is_forbidden), "{what}: {value:?}");
    }
    assert!(page.title.iter().all(|title| title.chars().count() <= 200), "{what}");
    assert!(page.description.iter().all(|text| text.chars().count() <= 500), "{what}");
    let urls = page.images.iter().map(|image| &image.url).chain(&page.url).chain(&page.oembed);
    for url in urls {
        assert!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{what}: {url}");
    }
    assert!(page.images.len() <= MAX_IMAGES, "{what}");
}

#[test]
fn what_a_page_lacks_is_filled_from_another() {
    let mut page = html("<title>A</title><meta property=og:image content=/a>");
    page.fill_from(html(
        "<title>B</title><meta name=description content=D><meta property=og:image content=/b>",
    ));
    assert_eq!((page.title.as_deref(), page.description.as_deref()), (Some("A"), Some("D")));
    assert_eq!(page.images.iter().map(|image| image.url.path()).collect::<Vec<_>>(), ["/a", "/b"]);
}

#[test]
fn a_complete_page_is_not_read_to_its_end() {
    /// An endless body that counts the bytes read.
    struct Endless<'a>(&'a [u8], usize);
    impl Read for Endless<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = if self.0.is_empty() { out.len() } else { self.0.read(out)? };
            self.1 += count;
            Ok(count)
        }
    }
    let head =
        "<title>T</title><meta name=description content=D><meta property=og:image content=/i></head><body>";
    let mut body = Endless(head.as_bytes(), 0);
    let page = read_page(&mut body, None, &Url::parse("https://x.example/").unwrap()).unwrap();
    assert_eq!(page.images.len(), 1);
    assert!(body.1 <= 160 * 1024, "{} bytes read", body.1);
}

#[test]
fn a_body_that_breaks_off_is_described_by_what_was_received() {
    /// A body that fails after its bytes.
    struct Broken<'a>(&'a [u8]);
    impl Read for Broken<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() { Err(io::ErrorKind::TimedOut.into()) } else { self.0.read(out) }
        }
    }
    let url = Url::parse("https://x.example/").unwrap();
    let long = format!("<title>Early</title>{}", "<p>x".repeat(20_000));
    for text in ["<title>Early</title><p>rest", long.as_str()] {
        let page = read_page(&mut Broken(text.as_bytes()), None, &url).unwrap();
        assert_eq!(page.title.as_deref(), Some("Early"));
    }
    assert_eq!(read_page(&mut Broken(b""), None, &url).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_page_that_only_redirects_has_a_refresh_target() {
    for (page, expected) in [
        ("<meta http-equiv=refresh content='0;URL=https://y.example/a'>", Some("https://y.example/a")),
        (
            "<head><noscript><META http-equiv=\"refresh\" content=\"0;URL=https://y.example/a\"></noscript><title>https://y.example/a</title></head><script>location.replace('x')</script>",
            Some("https://y.example/a"),
        ),
        (
            "<title>Redirecting…</title><meta http-equiv=Refresh content='1; url=b?c'><p>Click here if nothing happens.",
            Some("https://x.example/b?c"),
        ),
        (
            "<base href=https://z.example/d/><meta http-equiv=refresh content='0;url=e'>",
            Some("https://z.example/d/e"),
        ),
        (
            "<title>Please wait</title><meta http-equiv=refresh content='0;url=/a'>",
            Some("https://x.example/a"),
        ),
        ("<title>News</title><meta http-equiv=refresh content='0;url=/a'>", None),
        ("<meta name=description content=D><meta http-equiv=refresh content='0;url=/a'>", None),
        ("<meta property=og:image content=/i><meta http-equiv=refresh content='0;url=/a'>", None),
        ("<meta http-equiv=refresh content='300;url=/a'>", None),
        ("<meta http-equiv=refresh content='0'>", None),
        ("<meta http-equiv=refresh content='0;url=https://x.example/#top'>", None),
        ("<meta http-equiv=refresh content='0;url=javascript:x'>", None),
        (
            &format!(
                "<meta http-equiv=refresh content='0;url=/a'><p>{}",
                "This page says much of itself. ".repeat(9)
            ),
            None,
        ),
    ] {
        assert_eq!(html(page).refresh.map(String::from).as_deref(), expected, "{page}");
    }
}
