//! Title, description and other texts of a page.

use super::*;

/// The description of a page with this body.
fn description(body: &str) -> Option<String> {
    html(&format!("<title>T</title><body>{body}")).description
}

#[test]
fn unrendered_elements_do_not_break_a_paragraph() {
    let lead = "Ada Example (EY-da; born 14 March 1879) was a physicist widely held to be one of the greatest of her time.";
    let second = "The second paragraph says what she did before she came to be known for it.";
    for unrendered in [
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
            "<p><b>Ada Example</b> (<i>EY-da</i>; {unrendered}<span>born 14 March 1879) was a physicist widely held to be one of the greatest of her time.</span></p><p>{second}</p>"
        );
        assert_eq!(description(&body), Some(format!("{lead} {second}")), "{unrendered}");
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
fn any_text_describes_a_page_without_paragraphs() {
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
fn asides_headings_and_links_describe_a_page_without_text() {
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
fn a_paragraph_of_links_is_skipped_unless_it_is_a_sentence() {
    let text = "Green tea is made from leaves that have not been withered or oxidised.";
    let links = "<p><a href=/1>For other uses of the word</a>, see <a href=/2>the list of all that is called so</a>.</p>";
    assert_eq!(description(&format!("{links}<p>{text}</p>")).as_deref(), Some(text));
    let lead = "<p><b>Vert</b> is a <a href=/1>commune</a> in the <a href=/2>Seine-et-Marne department</a> in the <a href=/3>Île-de-France region</a> in <a href=/4>north-central France</a>.</p>";
    let expected = "Vert is a commune in the Seine-et-Marne department in the Île-de-France region in north-central France.";
    assert_eq!(description(lead).as_deref(), Some(expected));
}

#[test]
fn a_long_text_is_cut_behind_a_sentence() {
    let sentence = "This is a sentence of the text that is long enough to be cut in its middle. ";
    let found = description(&format!("<p>{}</p>", sentence.repeat(9))).unwrap();
    assert_eq!(found, sentence.repeat(3).trim());
    let found = description(&format!("<p>{}</p>", "word ".repeat(100))).unwrap();
    assert!(found.ends_with("word…") && found.chars().count() <= 300, "{found}");
}

#[test]
fn titles_are_read_from_all_their_places() {
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
fn the_twitter_account_names_a_site_without_a_name() {
    let account = "<meta name=twitter:site content=@example>";
    assert_eq!(html(account).site_name.as_deref(), Some("@example"));
    let named = html(&format!("{account}<meta property=og:site_name content=Example>"));
    assert_eq!(named.site_name.as_deref(), Some("Example"));
}

#[test]
fn binary_data_gives_no_text() {
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

#[test]
fn a_type_that_grows_in_lower_case_is_cut() {
    let page = html(&format!("<meta property=og:type content={}>", "\u{130}".repeat(100)));
    assert_eq!(page.kind.unwrap().chars().count(), 100);
}
