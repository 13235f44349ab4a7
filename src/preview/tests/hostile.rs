//! Pages made to exhaust memory, time or stack.

use super::*;

/// Hostile pages, each with a name and the title that must be read.
fn hostile() -> Vec<(&'static str, String, Option<&'static str>)> {
    let many = |piece: &str, count| piece.repeat(count);
    let each = |piece: &dyn Fn(usize) -> String| (0..10_000).map(piece).collect::<Vec<_>>().concat();
    vec![
        ("nested tags", format!("<title>T</title>{}", many("<div><b>", 100_000)), Some("T")),
        ("nested boilerplate", format!("<title>T</title>{}<p>x", many("<nav>", 100_000)), Some("T")),
        ("nested SVG", format!("{}<title>T</title>", many("<svg>", 100_000)), None),
        ("end tags alone", format!("<title>T</title>{}", many("</div></nav></svg>", 100_000)), Some("T")),
        ("a long attribute", format!("<p title='{}'><title>T</title>", many("a", 1 << 20)), Some("T")),
        ("a long attribute name", format!("<p {}><title>T</title>", many("a", 1 << 20)), Some("T")),
        ("a long tag name", format!("<{}><title>T</title>", many("a", 1 << 20)), Some("T")),
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
        ("many angle brackets", format!("<title>T</title>{}", many("<", 100_000)), Some("T")),
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
            "many JSON scripts",
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

/// Tags with so many attributes, in every syntax, that a small stack would overflow if each took a part of it.
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
fn no_page_overflows_a_small_stack() {
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

/// `serde_json` stops at 127 levels, which take more than half of this stack in an unoptimised build.
#[test]
fn no_json_overflows_a_small_stack() {
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
