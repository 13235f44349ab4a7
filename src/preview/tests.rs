//! The pages in `tests/fixtures/pages`, each with what a reader should see of it, and what holds of any page.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::format_collect,
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
fn a_type_that_grows_in_lower_case_is_short_all_the_same() {
    let page = html(&format!("<meta property=og:type content={}>", "\u{130}".repeat(100)));
    assert_eq!(page.kind.unwrap().chars().count(), 100);
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

#[test]
fn a_page_is_read_no_further_than_it_takes() {
    /// Counts what is read of an endless body.
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
fn a_body_that_breaks_off_is_described_by_what_came() {
    /// Fails after its bytes.
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

/// Pages made to hurt, each with the title that must survive.
fn hostile() -> Vec<(&'static str, String, Option<&'static str>)> {
    let many = |piece: &str, count| piece.repeat(count);
    let each = |piece: &dyn Fn(usize) -> String| (0..10_000).map(piece).collect::<Vec<_>>().concat();
    vec![
        ("nested tags", format!("<title>T</title>{}", many("<div><b>", 100_000)), Some("T")),
        ("nested parts left out", format!("<title>T</title>{}<p>x", many("<nav>", 100_000)), Some("T")),
        ("nested drawings", format!("{}<title>T</title>", many("<svg>", 100_000)), None),
        ("end tags alone", format!("<title>T</title>{}", many("</div></nav></svg>", 100_000)), Some("T")),
        ("a long attribute", format!("<p title='{}'><title>T</title>", many("a", 1 << 20)), Some("T")),
        ("a long name of an attribute", format!("<p {}><title>T</title>", many("a", 1 << 20)), Some("T")),
        ("a long name of a tag", format!("<{}><title>T</title>", many("a", 1 << 20)), Some("T")),
        ("many attributes", format!("<p {}><title>T</title>", many("class=x y=z ", 100_000)), Some("T")),
        ("a long value", format!("<meta property=og:title content='{}'>", many("T", 1 << 20)), None),
        (
            "a value of attributes",
            format!("<meta name=description content='&lt;p {}&gt;&lt;/p>'>", many("a=\"b\" ", 500)),
            None,
        ),
        (
            "many values",
            format!("<title>T</title>{}", each(&|n| format!("<meta property=og:x{n} content=y>"))),
            Some("T"),
        ),
        (
            "many images",
            format!(
                "<title>T</title>{}",
                each(&|n| format!(
                    "<meta property=og:image content=/{n}><img src=/{n} width=300 height=300>"
                ))
            ),
            Some("T"),
        ),
        (
            "many blocks",
            format!("<title>T</title>{}", many("<p>some words that could be a paragraph", 10_000)),
            Some("T"),
        ),
        (
            "many entities",
            format!("<title>T</title><p>{}", many("&amp;&#x41;&notanentity;", 20_000)),
            Some("T"),
        ),
        ("many opening brackets", format!("<title>T</title>{}", many("<", 100_000)), Some("T")),
        ("NUL bytes", format!("<title>T</title>{}", many("\0", 100_000)), Some("T")),
        ("an open comment", format!("<title>T</title><!--{}", many("-", 1 << 20)), Some("T")),
        ("an open script", format!("<title>T</title><script>{}", many("</scrip", 20_000)), Some("T")),
        ("an open title", format!("<title>T{}", many(" </titl", 20_000)), None),
        ("an open CDATA", format!("<title>T</title><svg><![CDATA[{}", many("]]", 100_000)), Some("T")),
        ("an open attribute", format!("<title>T</title><a href=\"{}", many("x ", 100_000)), Some("T")),
        (
            "deep JSON",
            format!("<title>T</title><script type=application/ld+json>{}</script>", many("[", 100_000)),
            Some("T"),
        ),
        (
            "much JSON",
            format!("<title>T</title><script type=application/ld+json>[{}1]</script>", many("1,", 60_000)),
            Some("T"),
        ),
        (
            "many scripts of JSON",
            format!("<title>T</title>{}", many("<script type=application/ld+json>[{},{}]</script>", 5_000)),
            Some("T"),
        ),
        (
            "values that look like HTML",
            format!("<title>T</title><meta name=description content='{}'>", many("&lt;p&lt;", 1000)),
            Some("T"),
        ),
    ]
}

#[test]
fn hostile_pages_are_read_to_their_end() {
    for (what, text, title) in hostile() {
        let page = html(&text);
        assert_sane(&page, what);
        if title.is_some() {
            assert_eq!(page.title.as_deref(), title, "{what}");
        }
    }
}

/// Tags with enough attributes, written in every way, to fill a small stack if each took any of it.
fn tags_of_attributes() -> Vec<String> {
    let mut tags = Vec::new();
    for begins in ["<p ", "</p ", "<svg ", "<title ", "<script ", "<meta content='x' "] {
        for attribute in [
            "b=\"c\" ",
            "b='c' ",
            "b=c ",
            "b ",
            "b=\"c\"",
            "b=\"c\"/",
            "b=\"\" ",
            "b = \"c\"\n",
            "b=\"&amp;\" ",
            "b=\"\0\" ",
            "b=\"\r\" ",
            "b=\"c\" d='e' f ",
            "=\"c\" ",
            "class=\"c\" ",
            "\"c\" ",
            "b=\"c\" / ",
            "content=\"&#120;\" ",
        ] {
            tags.push(format!("{begins}{}>", attribute.repeat(5000)));
        }
        let distinct: String = (0..5000).map(|n| format!("data-{n}=\"v\" ")).collect();
        tags.push(format!("{begins}{distinct}>"));
    }
    tags
}

#[test]
fn no_page_deepens_the_stack() {
    let small = std::thread::Builder::new().stack_size(256 * 1024);
    let reader = small.spawn(|| {
        for tag in tags_of_attributes() {
            let page = html(&format!("<title>T</title>{tag}"));
            assert_eq!(page.title.as_deref(), Some("T"));
            let json = serde_json::json!({"title": "T", "html": tag}).to_string();
            let embed = parse_oembed(json.as_bytes(), &Url::parse("https://x.example/").unwrap()).unwrap();
            assert_eq!(embed.page.title.as_deref(), Some("T"));
        }
        for (what, text, _) in hostile() {
            assert_sane(&html(&text), what);
            assert_sane(&read(text.as_bytes(), Some("application/xhtml+xml"), "https://x.example/"), what);
        }
    });
    reader.unwrap().join().unwrap();
}

/// `serde_json` goes 127 levels deep, which takes more than half of this stack where it is not optimised, and no further.
#[test]
fn no_json_deepens_the_stack() {
    let small = std::thread::Builder::new().stack_size(384 * 1024);
    let reader = small.spawn(|| {
        for depth in [100, 127, 128, 100_000] {
            for (opens, closes) in [("[", "]"), ("{\"@graph\":", "}"), ("{\"html\":[", "]}")] {
                let json = format!("{}1{}", opens.repeat(depth), closes.repeat(depth));
                assert_eq!(parse_oembed(json.as_bytes(), &Url::parse("https://x.example/").unwrap()), None);
                let page = html(&format!("<title>T</title><script type=application/ld+json>{json}</script>"));
                assert_eq!(page.title.as_deref(), Some("T"));
            }
        }
    });
    reader.unwrap().join().unwrap();
}

#[test]
fn cut_anywhere_a_page_is_sane() {
    for (name, bytes, fixture) in fixtures() {
        for end in (0..bytes.len()).step_by(37) {
            assert_sane(&read(&bytes[..end], fixture.content_type.as_deref(), &fixture.url), &name);
        }
    }
}

#[test]
fn a_lone_gap_is_filled_by_another_page() {
    let mut page = html("<title>A</title><meta property=og:image content=/a>");
    page.fill_from(html(
        "<title>B</title><meta name=description content=D><meta property=og:image content=/b>",
    ));
    assert_eq!((page.title.as_deref(), page.description.as_deref()), (Some("A"), Some("D")));
    assert_eq!(page.images.iter().map(|image| image.url.path()).collect::<Vec<_>>(), ["/a", "/b"]);
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
        let pieces = read_page(&mut Pieces(text.as_bytes(), size), Some("text/html"), &url).unwrap();
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
