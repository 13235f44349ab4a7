//! What pages do, kind by kind, and what is seen of them.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use url::Url;

use super::*;

fn read(mut bytes: &[u8], content_type: Option<&str>, url: &str) -> Page {
    read_page(&mut bytes, content_type, &Url::parse(url).unwrap()).unwrap()
}

fn html(text: &str) -> Page {
    read(text.as_bytes(), Some("text/html"), "https://x.example/")
}

/// The description of a page of that body.
fn description(body: &str) -> Option<String> {
    html(&format!("<title>T</title><body>{body}")).description
}

#[test]
fn a_paragraph_is_whole_whatever_unseen_stands_in_it() {
    let lead = "Ada Example (EY-da; born 14 March 1879) was a physicist widely held to be one of the greatest of her time.";
    let second = "The second paragraph says what she did before she came to be known for it.";
    for unseen in [
        "<style>.l{font-size:85%}</style>",
        "<link rel=mw-deduplicated-inline-style href=x>",
        "<meta name=x content=y>",
        "<button>Listen</button>",
        "<noscript><img src=/x.png><p>no</p></noscript>",
        "<audio controls><source src=a.ogg><p>no sound</p></audio>",
        "<video><p>no film</p></video>",
        "<script>var x = '<p>';</script>",
        "<template><p>later</p></template>",
        "<svg><title>no</title><text>no</text></svg>",
        "<iframe src=x><p>no</p></iframe>",
        "<select><option>one<option>two</select>",
        "<textarea><p>typed</p></textarea>",
        "<canvas>no</canvas>",
        "<object><p>no</p></object>",
        "<datalist><option>one</datalist>",
        "<span style='display: none'>no</span>",
        "<span hidden>no</span>",
        "<span class=noprint>no</span>",
        "<sup class=reference><a href=#1>[1]</a></sup>",
        "<progress>70 %</progress>",
        "<wbr>",
        "<img src=/p.png>",
        "<input value=x>",
        "<!-- <p> -->",
    ] {
        let body = format!(
            "<p><b>Ada Example</b> (<i>EY-da</i>; {unseen}<span>born 14 March 1879) was a physicist widely held to be one of the greatest of her time.</span></p><p>{second}</p>"
        );
        assert_eq!(description(&body), Some(format!("{lead} {second}")), "{unseen}");
    }
    for shown in [
        "tt",
        "nobr",
        "small",
        "custom-element",
        "unknown",
        "a href=x",
        "output",
        "rt",
        "font",
        "blink",
        "label",
    ] {
        let name = shown.split(' ').next().unwrap();
        let body =
            format!("<p>Some text with a <{shown}>word</{name}> in it, as is usual.</p><p>{second}</p>");
        assert_eq!(
            description(&body),
            Some(format!("Some text with a word in it, as is usual. {second}")),
            "{shown}"
        );
    }
    let body = format!(
        "<main><div>A text of the main part that goes <div hidden>no</div><div style='display:none'><p>no</p></div>on behind what is hidden.</div><p>{second}</p></main>"
    );
    assert_eq!(description(&body).as_deref(), Some(second));
    let body = body.replace(&format!("<p>{second}</p>"), "");
    assert_eq!(
        description(&body).as_deref(),
        Some("A text of the main part that goes on behind what is hidden.")
    );
}

#[test]
fn without_anything_better_the_text_of_the_page_describes_it() {
    let text = "Green tea is made from leaves.";
    for body in [
        "<div>#</div>",
        "<ul><li>#</ul>",
        "<ol><li>#</li></ol>",
        "<table><tr><td>#</table>",
        "<pre>#</pre>",
        "<blockquote>#</blockquote>",
        "<article>#</article>",
        "<section>#</section>",
        "<main>#</main>",
        "<dl><dt>Tea<dd>#</dl>",
        "#",
        "<center><font size=2>#</font></center>",
        "<span>#</span>",
        "<form><div>#</div></form>",
        "<details><summary>Tea</summary>#</details>",
        "<h1>Tea</h1>#",
        "<p>#",
        "<nav><a href=/>Home</a></nav><div>#</div><footer>About us and our other shops in town.</footer>",
        "<header><div>The shop for everything</div></header><div>#</div>",
        "<ul><li><a href=/1>Home</a><li><a href=/2>News of the day and the week</a></ul><div>#</div>",
        "<div><a href=/1>Home</a> | <a href=/2>News and weather</a> | <a href=/3>About this place</a></div><div>#</div>",
        "<div id=CookieBanner>We would like you to accept.</div><div>#</div>",
        "<div>We use cookies to make this better for you.</div><div>#</div>",
        "<div>Please enable JavaScript to see this page.</div><div>#</div>",
        "<div>#</div><div>© 2024 Example Ltd. All rights reserved.</div>",
        "<button>Buy this tea now, please</button><div>#</div>",
        "<select><option>A language of your choice</select>#",
    ] {
        assert_eq!(description(&body.replace('#', text)).as_deref(), Some(text), "{body}");
    }
    for (body, expected) in [
        ("<p>One.</p><p>Two follows here.</p>", Some("One. Two follows here.")),
        (
            "<p>One.<p>Two follows here.<p>Three is a bit longer than the others.",
            Some("One. Two follows here. Three is a bit longer than the others."),
        ),
        ("<p>First line.<br><br>Second line.", Some("First line. Second line.")),
        (
            "<p>See <a href=x>what is written in that other place</a> for all.</p>",
            Some("See what is written in that other place for all."),
        ),
        ("<p>Loading...</p>", None),
        ("<pre>let x = 1;</pre><p>A short one.</p>", Some("A short one.")),
        ("Hi", Some("Hi")),
        (
            "<div class=l-sidebar-fixed><p>The text is in what seems to be a bar at the side.</p></div>",
            Some("The text is in what seems to be a bar at the side."),
        ),
        (
            "<header><h1>Tool</h1><p>Tool is made for all that there is to do.</p></header>",
            Some("Tool is made for all that there is to do."),
        ),
        (
            "<figure><img src=/a.jpg><figcaption>A view of the harbour at night.</figcaption></figure>",
            Some("A view of the harbour at night."),
        ),
        ("<div class=cookie-banner><p>We value your privacy, and so do all of our partners.</p></div>", None),
        (
            "<p>The root <math><mi>x</mi><annotation>{x}</annotation></math> is what we look for.",
            Some("The root x is what we look for."),
        ),
        ("<a href=/>Home</a> <a href=/n>News</a>", None),
        ("<nav>Home, news and all the rest of it</nav>", None),
        ("", None),
        ("<p>Русский текст.</p>", Some("Русский текст.")),
        ("<div>日本語の文章。</div>", Some("日本語の文章。")),
    ] {
        assert_eq!(description(body).as_deref(), expected, "{body}");
    }
}

#[test]
fn what_stands_beside_a_text_describes_a_page_that_has_none() {
    for (body, expected) in [
        (
            "<h1>Welcome to the garden</h1><h2>We grow roses and tulips here.</h2>",
            Some("We grow roses and tulips here."),
        ),
        ("<h2><a href=/1>We grow roses and tulips here.</a></h2>", None),
        ("<a href=/x>Read all about our new garden here.</a>", Some("Read all about our new garden here.")),
        (
            "<p><a href=/1>Roses of the garden</a> <a href=/2>Tulips of the field</a></p>",
            Some("Roses of the garden Tulips of the field"),
        ),
        ("<p><a href=/1>Roses of the garden</a> <a href=/2>Tulips of the field</a></p>Hi", Some("Hi")),
        (
            "<aside><script>no()</script><p>The only text there is stands beside.</p><nav>no</nav></aside>",
            Some("The only text there is stands beside."),
        ),
        ("<aside><p>The only text there is stands beside.", Some("The only text there is stands beside.")),
        ("<aside><p>What stands beside the text itself.</p></aside>Text.", Some("Text.")),
        (
            "<aside><p>What stands beside the text itself.<main><p>The text of the page itself.",
            Some("The text of the page itself."),
        ),
        ("<aside><a href=/1>We grow roses and tulips here.</a></aside>", None),
        (
            "<article><p>We use cookies in baking because they are tasty and everyone loves them so much.</p></article>",
            Some("We use cookies in baking because they are tasty and everyone loves them so much."),
        ),
        (
            "<main><p>We use cookies on this website to give you the best experience of all that there is.</p></main>",
            None,
        ),
        ("<p>Type your <label>name and surname</label> here</p>", Some("Type your name and surname here")),
        ("<form><label>Name</label><input></form>", None),
        ("<a href=/x>Click here if you are not redirected.</a>", None),
    ] {
        assert_eq!(description(body).as_deref(), expected, "{body}");
    }
}

#[test]
fn a_lead_of_links_is_passed_over_unless_it_is_a_sentence() {
    let text = "Green tea is made from leaves that have not been withered or oxidised.";
    let links = "<p><a href=/1>For other uses of the word</a>, see <a href=/2>the list of all that is called so</a>.</p>";
    assert_eq!(description(&format!("{links}<p>{text}</p>")).as_deref(), Some(text));
    let lead = "<p><b>Vert</b> is a <a href=/1>commune</a> in the <a href=/2>Seine-et-Marne department</a> in the <a href=/3>Île-de-France region</a> in <a href=/4>north-central France</a>.</p>";
    let expected = "Vert is a commune in the Seine-et-Marne department in the Île-de-France region in north-central France.";
    assert_eq!(description(lead).as_deref(), Some(expected));
}

#[test]
fn a_long_text_is_cut_where_a_sentence_ends() {
    let sentence = "This is a sentence of the text that is long enough to be cut in its middle. ";
    let found = description(&format!("<p>{}</p>", sentence.repeat(9))).unwrap();
    assert_eq!(found, sentence.repeat(3).trim());
    let found = description(&format!("<p>{}</p>", "word ".repeat(100))).unwrap();
    assert!(found.ends_with("word…") && found.chars().count() <= 300, "{found}");
}

#[test]
fn titles_are_those_that_browsers_and_wikis_mean() {
    for (page, expected) in [
        ("<title>Open<p>text", "Open<p>text"),
        (
            "<title>Hermitian matrix - Wiki</title><script type=application/ld+json>{\"@type\":\"Article\",\"name\":\"Hermitian matrix\",\"headline\":\"matrix equal to its transpose\"}</script>",
            "Hermitian matrix",
        ),
        ("<title>Tout O&amp;#39;pre</title>", "Tout O'pre"),
        ("<meta property=og:title content='A &amp;amp; B'>", "A & B"),
        ("<title>&amp;quot;q&amp;quot;</title>", "\"q\""),
        ("<meta property='dc:title og:title' content=Listed><title>T</title>", "Listed"),
        ("<meta itemprop='name headline' content=Listed>", "Listed"),
        ("<meta property='x:title dc:title' content=Core>", "Core"),
        ("<meta property=dcterms:title content=Terms>", "Terms"),
        ("<noscript><title>no</title></noscript><title>yes</title>", "yes"),
    ] {
        assert_eq!(html(page).title.as_deref(), Some(expected), "{page}");
    }
    assert_eq!(
        html("<meta name=description content='&lt;p&gt;Some words of it'>").description.as_deref(),
        Some("Some words of it")
    );
}

#[test]
fn the_site_is_named_by_its_account_if_by_nothing_else() {
    let account = "<meta name=twitter:site content=@example>";
    assert_eq!(html(account).site_name.as_deref(), Some("@example"));
    let named = html(&format!("{account}<meta property=og:site_name content=Example>"));
    assert_eq!(named.site_name.as_deref(), Some("Example"));
}

#[test]
fn a_picture_inside_the_page_is_one_if_it_is_whole_and_no_dot() {
    let data = |kind: &str, length: usize| format!("data:image/{kind};base64,{}", "A".repeat(length));
    let images =
        |src: &str, more: &str| html(&format!("<title>T</title><body>{more}<img src='{src}'>")).images;
    for (kind, length, expected) in
        [("png", 100_000, 1), ("jpeg", 1000, 1), ("gif", 60, 0), ("svg+xml", 1000, 0), ("png", 300_000, 0)]
    {
        let src = data(kind, length);
        let found = images(&src, "");
        assert_eq!(found.len(), expected, "{kind} of {length}");
        assert!(found.iter().all(|image| image.url.as_str() == src));
    }
    let found = images(&data("png", 1000), "<img src=/a.jpg>");
    assert_eq!(found.len(), 2, "beside another");
    let lazy = html(&format!("<body><img src='{}' data-src=/late.jpg>", data("png", 1000))).images;
    assert_eq!(lazy.first().map(|image| image.url.path()), Some("/late.jpg"));
}

#[test]
fn a_declared_picture_may_stand_in_the_page_whole() {
    let data = |length: usize| format!("data:image/png;base64,{}", "A".repeat(length));
    for (length, expected) in [(1000, 1), (100_000, 1), (300_000, 0), (60, 0)] {
        for key in ["property=og:image", "property=og:image:url", "name=twitter:image", "itemprop=image"] {
            let page = html(&format!("<title>T</title><meta {key} content=\"{}\"><body>", data(length)));
            assert_eq!(page.images.len(), expected, "{key} of {length}");
            assert!(page.images.iter().all(|image| image.url.as_str() == data(length)));
        }
    }
    let many = format!("<meta property=og:image content={}>", data(100_000)).repeat(20);
    let many = html(&format!("{many}<meta property=og:image content=/a.jpg>"));
    assert_eq!(many.images.len(), 2);
    let text = html(&format!("<meta name=description content={}><p>Text.</p>", data(100_000)));
    assert_eq!(text.description.as_deref(), Some("Text."));
}

#[test]
fn the_largest_icon_is_the_last_resort() {
    for (links, expected) in [
        ("<link rel=icon href=/icon.png>", Some("/icon.png")),
        ("<link rel='shortcut icon' href=/icon.png>", Some("/icon.png")),
        ("<link rel=icon sizes=any href=/icon.png>", Some("/icon.png")),
        ("<link rel=icon sizes=64x64 href=/icon.png>", Some("/icon.png")),
        ("<link rel=icon sizes=16x16 href=/icon.png>", Some("/icon.png")),
        ("<link rel=icon sizes=8x8 href=/icon.png>", None),
        ("<link rel=icon sizes=any href=/icon.svg>", None),
        ("<link rel=icon type=image/svg+xml href=/icon>", None),
        ("<link rel=icon href=/favicon.ico><link rel=icon href=/icon.png>", Some("/icon.png")),
        (
            "<link rel=icon href=/u.png><link rel=icon sizes=32x32 href=/s.png><link rel=icon sizes='16x16 192x192' href=/l.png>",
            Some("/l.png"),
        ),
        ("<link rel=icon href=/u.png><link rel=icon sizes=32x32 href=/s.png>", Some("/s.png")),
        ("<link rel=icon sizes=32x32 href=/s.png><link rel=apple-touch-icon href=/t.png>", Some("/t.png")),
    ] {
        let page = html(&format!("<title>T</title>{links}<body>"));
        assert_eq!(page.images.first().map(|image| image.url.path()), expected, "{links}");
        assert!(page.images.iter().all(|image| image.source == ImageSource::Icon));
    }
}

#[test]
fn pictures_are_found_where_pages_keep_them_best_first() {
    for (body, expected) in [
        (
            "<picture><source srcset='/a.avif' type=image/avif><source srcset='/s.webp 1x, /l.webp 2x' type=image/webp><img src='data:image/gif;base64,AAAA' width=600 height=400></picture>",
            "/l.webp",
        ),
        ("<img src=/blank.gif data-lazy-src=/lazy.jpg>", "/lazy.jpg"),
        ("<img class=lazy data-original=/o.jpg src=data:x>", "/o.jpg"),
        ("<img src='data:x' data-lazy-srcset='/s.jpg 300w, /l.jpg 900w'>", "/l.jpg"),
        ("<noscript><img src=/n.jpg></noscript>", "/n.jpg"),
        ("<img src=/placeholder.png srcset='/l.jpg 2x'>", "/l.jpg"),
        ("<img src=/s.jpg data-old-hires=/h.jpg>", "/h.jpg"),
        (
            r#"<img src='data:x' data-a-dynamic-image='{"https://x.example/s.jpg":[50,40],"https://x.example/l.jpg":[500,400]}'>"#,
            "/l.jpg",
        ),
        ("<img src=data:x data-lazy=/lazy.jpg>", "/lazy.jpg"),
        ("<img src=/i.jpg data-lazy=true data-url=/page data-echo=1>", "/i.jpg"),
        ("<img src=data:x data-actualsrc=/lazy.jpg>", "/lazy.jpg"),
        ("<img src=data:x data-echo=/lazy.jpg>", "/lazy.jpg"),
        ("<img src=data:x data-url='/lazy.PNG?w=1'>", "/lazy.PNG"),
        ("<img src=/s.jpg data-hi-res-src=/h.jpg>", "/h.jpg"),
        ("<img src=data:x data-orig-file=/o.jpg>", "/o.jpg"),
        ("<img src=/i.jpg data-orig-file=/o.jpg>", "/i.jpg"),
        ("<video poster=/still.jpg src=/v.mp4></video>", "/still.jpg"),
        ("<div class=wp-caption><img src=/c.jpg><p class=wp-caption-text>Said of it</p></div>", "/c.jpg"),
        ("<div class=sidebar><img src=/ad.jpg></div><img src=/i.jpg>", "/i.jpg"),
        ("<picture><source srcset=/s.webp><img src=/i.jpg></picture>", "/i.jpg"),
        ("<picture><source srcset=/s.webp></picture><img src=data:x><img src=/i.jpg>", "/i.jpg"),
    ] {
        let page = html(&format!("<title>T</title><body>{body}"));
        assert_eq!(page.images.first().map(|image| image.url.path()), Some(expected), "{body}");
        assert_eq!(page.images.len(), 1, "{body}");
    }
}

#[test]
fn behind_the_declared_picture_come_those_shown_and_the_icon() {
    let page = html(
        "<title>T</title><meta name=description content=D><link rel=apple-touch-icon href=/icon.png>
        <meta property=og:image content=/a.png><body><main><img src=/b.png width=600 height=400><img src=/a.png></main>",
    );
    let found: Vec<_> = page.images.iter().map(|image| (image.url.path(), image.source)).collect();
    assert_eq!(
        found,
        [("/a.png", ImageSource::Declared), ("/b.png", ImageSource::Shown), ("/icon.png", ImageSource::Icon)]
    );
}

#[test]
fn a_page_that_only_leads_elsewhere_says_where() {
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

#[test]
fn a_character_set_counts_wherever_it_is_declared() {
    let url = "https://x.example/";
    let script = format!("<script>{}</script>", "x = 1;\n".repeat(33 * 1024 / 7));
    let russian = encoding_rs::WINDOWS_1251.encode("<title>Привет, мир</title>").0;
    for (before, after) in [("<meta charset=windows-1251>", ""), ("", "<meta charset=windows-1251>")] {
        let page = [script.as_bytes(), before.as_bytes(), &russian, after.as_bytes()].concat();
        assert_eq!(read(&page, Some("text/html"), url).title.as_deref(), Some("Привет, мир"));
    }
    let late = format!("{script}<title>Grüße, мир</title>");
    for content_type in ["text/html; charset=iso-8859-1", "text/html", "text/html; charset=windows-1251"] {
        assert_eq!(
            read(late.as_bytes(), Some(content_type), url).title.as_deref(),
            Some("Grüße, мир"),
            "{content_type}"
        );
    }
    let mut broken = "<title>Schöne Grüße aus Köln, мир</title><p>\u{1}".to_owned().into_bytes();
    *broken.last_mut().unwrap() = 0xe4;
    for content_type in ["text/html", "text/html; charset=iso-8859-1", "text/html; charset=utf-8"] {
        assert_eq!(
            read(&broken, Some(content_type), url).title.as_deref(),
            Some("Schöne Grüße aus Köln, мир"),
            "{content_type}"
        );
    }
    let page = read(b"<title>Noise \xff\xff here</title>", Some("text/html"), url);
    assert_eq!(page.title.as_deref(), Some("Noise \u{fffd}\u{fffd} here"));
    let page = read(b"<title>Noise \xff\xfe\xff\xfe\xff \x93q\x94</title>", Some("text/html"), url);
    assert_eq!(page.title.as_deref(), Some("Noise ÿþÿþÿ “q”"));
    let page = read(b"<title>caf\xe9</title>", Some("text/html"), url);
    assert_eq!(page.title.as_deref(), Some("café"));
}

#[test]
fn a_page_in_utf_8_stays_so_whatever_is_broken_in_it() {
    let url = "https://x.example/";
    let party = b"Party \xed\xa0\xbc\xed\xbe\x89 f\xc3\xbcr alle";
    let titles: [(&[u8], &str); 9] = [
        (party, "für alle"),
        (b"Party \xed\xa0\xbc\xed\xbe\x89", "Party"),
        (b"a\xff\xfe f\xc3\xbcr", "für"),
        (b"a\xc0\x80 f\xc3\xbcr alle", "für alle"),
        (b"f\xc3\xbc\xffr", "fü"),
        (b"\x93a\x94 \x93b\x94 f\xc3\xbcr", "für"),
        (b"\xed\xa0\xbc f\xc3\xbcr", "für"),
        ("\u{65e5}\u{672c}\u{8a9e}".as_bytes(), "\u{65e5}\u{672c}\u{8a9e}"),
        (b"\xe6\x97\xa5\xff\xe6\x9c\xac\xfe\xff\xe8\xaa\x9e", "\u{672c}"),
    ];
    for (title, part) in titles {
        let page = [b"<title>", title, b"</title>"].concat();
        let declared = [b"<meta charset=utf-8>".as_slice(), &page].concat();
        for (page, content_type) in [(&page, "text/html; charset=utf-8"), (&declared, "text/html")] {
            let found = read(page, Some(content_type), url).title.unwrap_or_default();
            assert!(found.contains(part), "{found:?} of {part:?} as {content_type}");
        }
    }
    let more = " \u{2014} am 5. M\u{e4}rz in der Stra\u{df}e".as_bytes();
    let page = [b"<title>".as_slice(), party, more, b"</title>"].concat();
    let found = read(&page, Some("text/html"), url).title.unwrap();
    assert!(found.contains("f\u{fc}r alle \u{2014} am 5. M\u{e4}rz in der Stra\u{df}e"), "{found}");
}

#[test]
fn a_page_that_is_not_in_utf_8_is_read_though_it_says_so() {
    for (encoding, text) in [
        (encoding_rs::WINDOWS_1251, "Вибори в Румунії: під час голосування у столиці зафіксували порушення"),
        (encoding_rs::WINDOWS_1251, "Привет, мир"),
        (encoding_rs::WINDOWS_1252, "Un été à la plage — la météo de la journée"),
        (encoding_rs::GBK, "中国联通公司今天发布了新的产品和服务计划"),
        (encoding_rs::SHIFT_JIS, "日本語のページはこのように書かれています"),
        (encoding_rs::EUC_KR, "한국어로 쓰인 페이지는 이렇게 보입니다"),
    ] {
        let page = [b"<title>".as_slice(), &encoding.encode(text).0, b"</title>"].concat();
        for content_type in ["text/html; charset=utf-8", "text/html"] {
            let found = read(&page, Some(content_type), "https://x.example/").title;
            assert_eq!(found.as_deref(), Some(text), "{} as {content_type}", encoding.name());
        }
    }
}

#[test]
fn garbage_describes_nothing() {
    let noise: Vec<u8> = (0..2000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .filter(|byte| *byte != b'<')
        .collect();
    for content_type in ["text/html", "text/html; charset=utf-8", "text/html; charset=windows-1252"] {
        let page = [b"<title>T</title><p>".as_slice(), &noise].concat();
        let page = read(&page, Some(content_type), "https://x.example/");
        assert_eq!((page.title.as_deref(), page.description.as_deref()), (Some("T"), None), "{content_type}");
        let page = [b"<title>".as_slice(), &noise, b"</title>"].concat();
        assert_eq!(read(&page, Some(content_type), "https://x.example/").title, None, "{content_type}");
    }
}
