//! Images and icons of a page, and their order.

use super::*;

#[test]
fn an_embedded_image_counts_if_it_is_complete_and_no_placeholder() {
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
    assert_eq!(found.len(), 2, "embedded, and one to fetch");
    let lazy = html(&format!("<body><img src='{}' data-src=/late.jpg>", data("png", 1000))).images;
    assert_eq!(lazy.first().map(|image| image.url.path()), Some("/late.jpg"));
}

#[test]
fn a_declared_image_may_be_embedded() {
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
fn the_largest_supported_icon_is_taken() {
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
fn images_are_found_in_the_attributes_of_lazy_loaders() {
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
fn declared_images_come_before_shown_ones_and_icons() {
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
