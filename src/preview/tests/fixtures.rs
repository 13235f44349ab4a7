//! The pages in `tests/fixtures/pages`, each with the preview that is expected of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// The JSON beside a page.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// The URL of the page.
    url: String,
    content_type: Option<String>,
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
    refresh: Option<String>,
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
            refresh: page.refresh.map(String::from),
            more: page.more,
        }
    }
}

/// Name, bytes and JSON of every page.
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

#[test]
fn every_page_has_the_expected_preview() {
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
fn the_size_of_the_reads_does_not_matter() {
    for (name, bytes, fixture) in fixtures() {
        let whole = read(&bytes, fixture.content_type.as_deref(), &fixture.url);
        for size in [1, 2, 3, 7, 64, 1021] {
            let body = &mut SmallReads(&bytes, size);
            let url = Url::parse(&fixture.url).unwrap();
            let pieces = read_page(body, fixture.content_type.as_deref(), &url).unwrap();
            assert_eq!(pieces, whole, "{name} in pieces of {size}");
        }
    }
}

#[test]
fn a_page_truncated_anywhere_is_sane() {
    for (name, bytes, fixture) in fixtures() {
        for end in (0..bytes.len()).step_by(37) {
            assert_sane(&read(&bytes[..end], fixture.content_type.as_deref(), &fixture.url), &name);
        }
    }
}

proptest! {
    #[test]
    fn any_page_is_sane_and_the_same_in_pieces(
        parts in proptest::collection::vec("<(title|p|meta|svg|nav|script|img|base|link|/p|/svg|/title|a href='[a-z:/]{0,9}')( (property|name|content|src|href|class)=\"[a-z:&;/ ]{0,12}\")*/?>|[ -~]{0,9}|\\PC{0,5}", 0..30),
        size in 1_usize..9,
    ) {
        let text = parts.concat();
        let whole = html(&text);
        assert_sane(&whole, &text);
        let url = Url::parse("https://x.example/").unwrap();
        let pieces = read_page(&mut SmallReads(text.as_bytes(), size), Some("text/html"), &url).unwrap();
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn any_bytes_are_a_sane_page(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        content_type in "(text/html|application/xhtml\\+xml)(; ?charset=(utf-8|utf-16|big5|shift_jis|x|\"gbk\"|iso-2022-jp))?",
    ) {
        assert_sane(&read(&bytes, Some(&content_type), "https://x.example/"), "bytes");
    }
}
