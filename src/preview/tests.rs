//! The pages in `tests/fixtures/pages`, each with what a reader should see of it, and what holds of any page.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use proptest::prelude::*;
use serde::Deserialize;
use url::Url;

use super::*;

/// What stands beside a page: where it was, how it was served, what is to be seen of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// Its address.
    url: String,
    /// Its `Content-Type`.
    content_type: Option<String>,
    /// The judgement.
    expected: Expected,
}

/// A [`Page`] as JSON.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expected {
    title: Option<String>,
    description: Option<String>,
    site_name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    url: Option<String>,
    images: Vec<ExpectedImage>,
    oembed: Option<String>,
    more: BTreeMap<String, String>,
}

/// An [`Image`] as JSON.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedImage {
    url: String,
    width: Option<u32>,
    height: Option<u32>,
    alt: Option<String>,
}

impl From<Page> for Expected {
    fn from(page: Page) -> Self {
        let image = |image: Image| ExpectedImage {
            url: image.url.into(),
            width: image.width,
            height: image.height,
            alt: image.alt,
        };
        Self {
            title: page.title,
            description: page.description,
            site_name: page.site_name,
            kind: page.kind,
            url: page.url.map(String::from),
            images: page.images.into_iter().map(image).collect(),
            oembed: page.oembed.map(String::from),
            more: page.more,
        }
    }
}

/// A body that arrives in pieces of a given size.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(out.len()).min(self.0.len());
        let (now, later) = self.0.split_at(count);
        out[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// Every page with its name, its bytes and what stands beside it.
fn fixtures() -> Vec<(String, Vec<u8>, Fixture)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pages");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "html") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let json = std::fs::read_to_string(path.with_extension("json"))
                .unwrap_or_else(|_| panic!("{name}.html has no {name}.json beside it"));
            let fixture = serde_json::from_str(&json).unwrap_or_else(|why| panic!("{name}.json: {why}"));
            found.push((name, std::fs::read(&path).unwrap(), fixture));
        }
    }
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    found
}

fn read(mut bytes: &[u8], content_type: Option<&str>, url: &str) -> Page {
    read_page(&mut bytes, content_type, &Url::parse(url).unwrap()).unwrap()
}

fn html(text: &str) -> Page {
    read(text.as_bytes(), Some("text/html"), "https://x.example/")
}

/// What holds of every page: clean texts, whole addresses, few keys.
fn assert_sane(page: &Page, what: &str) {
    let keys = page.open_graph();
    assert!(keys.len() <= 41, "{what}: {} keys", keys.len());
    let alts = page.images.iter().filter_map(|image| image.alt.as_deref());
    for value in keys.values().map(|value| value.as_str().unwrap()).chain(alts) {
        assert!(!value.is_empty() && value.chars().count() <= 2048, "{what}: {value:?}");
        let is_bad = |c: char| {
            c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
        };
        assert!(!value.chars().any(is_bad), "{what}: {value:?}");
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
fn every_page_is_seen_as_judged() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 60, "{} pages", fixtures.len());
    let mut wrong = Vec::new();
    for (name, bytes, fixture) in fixtures {
        let page = read(&bytes, fixture.content_type.as_deref(), &fixture.url);
        assert_sane(&page, &name);
        let got = Expected::from(page);
        if got != fixture.expected {
            wrong.push(format!("{name}:\n got {got:#?}\n expected {:#?}", fixture.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pages_in_pieces_are_seen_as_whole_ones() {
    for (name, bytes, fixture) in fixtures() {
        let whole = read(&bytes, fixture.content_type.as_deref(), &fixture.url);
        for size in [1, 2, 3, 7, 64, 1021] {
            let body = &mut Pieces(&bytes, size);
            let url = Url::parse(&fixture.url).unwrap();
            let pieces = read_page(body, fixture.content_type.as_deref(), &url).unwrap();
            assert_eq!(pieces, whole, "{name} in pieces of {size}");
        }
    }
}
