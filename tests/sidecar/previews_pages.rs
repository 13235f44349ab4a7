//! `GET preview_url`: what is made of pages that are hard to read.

use serde_json::json;

use crate::harness::{Peer, Reply};
use crate::previews::{beside, html, keys, preview};

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
