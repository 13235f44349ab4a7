//! `GET preview_url`: what is made of pages that are hard to read.

use serde_json::json;

use crate::harness::{Peer, Reply};
use crate::previews::{beside, html, keys, picture, png, preview};

/// A tag with more attributes than any stack has room for.
fn crowded(attributes: usize, attribute: impl Fn(usize) -> String) -> String {
    format!("<p {}>", (0..attributes).map(attribute).collect::<String>())
}

#[test]
fn a_tag_of_fifty_thousand_attributes_costs_nothing_but_its_preview() {
    let site = Peer::plain(|request| {
        let tag = match request.path() {
            "/same" => crowded(50_000, |_| "b=\"c\" ".to_owned()),
            "/distinct" | "/embedded" => crowded(50_000, |n| format!("data-{n}=\"v\" ")),
            "/embed" => {
                let html = crowded(15_000, |_| "b=\"c\" ".to_owned());
                let embed = json!({"type": "rich", "title": "Embedded", "html": html}).to_string();
                return Reply::new(200).header("Content-Type", "application/json").body(embed);
            }
            _ => return html("<title>Alive</title>"),
        };
        let link = "<link rel=alternate type=application/json+oembed href=/embed>";
        let head = if request.path() == "/embedded" { link } else { "<title>Crowded</title>" };
        html(format!("{head}{tag}"))
    });
    let sidecar = beside(&site).start();
    for (path, title) in
        [("same", "Crowded"), ("distinct", "Crowded"), ("embedded", "Embedded"), ("next", "Alive")]
    {
        let found = keys(&preview(&sidecar, &format!("http://site.test/{path}")));
        assert_eq!(found["og:title"], title, "{path}");
    }
}

#[test]
fn a_picture_of_the_page_stands_in_where_the_declared_one_is_not_to_be_had() {
    let site = Peer::plain(|request| {
        match request.path() {
        "/page" => html(
            "<title>T</title><meta name=description content=D><link rel=apple-touch-icon href=/icon.png>
            <meta property=og:image content=/gone.png><body><main><img src=/b.png width=600 height=400></main>",
        ),
        "/small" => html(
            "<title>T</title><meta property=og:image content=/icon.png><body><main><img src=/b.png width=600 height=400></main>",
        ),
        "/b.png" => picture(png(600, 400, 1)),
        "/icon.png" => picture(png(180, 180, 2)),
        _ => Reply::new(404),
    }
    });
    let sidecar = beside(&site).start();
    let found = keys(&preview(&sidecar, "http://site.test/page"));
    assert_eq!(found["og:image:width"], 600, "that of the page, not the icon");
    let found = keys(&preview(&sidecar, "http://site.test/small"));
    assert_eq!(found["og:image:width"], 180, "small, but declared");
}
