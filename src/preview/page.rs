//! From HTML to a [`Page`].

use std::io::{self, Read};

use html5gum::{Token, Tokenizer};
use url::Url;

use super::{Image, Page};

/// Reads as much of `body` as it takes to describe the page at `url`. A body that breaks off is described by what came;
/// an error is one before the first byte.
pub(crate) fn read_page(body: &mut dyn Read, content_type: Option<&str>, url: &Url) -> io::Result<Page> {
    let mut page = Page::default();
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes)?;
    let label = content_type.and_then(|value| value.split_once("charset=")).map(|(_, label)| label.trim());
    let encoding = label.and_then(|label| encoding_rs::Encoding::for_label(label.as_bytes()));
    let (text, ..) = encoding.unwrap_or(encoding_rs::UTF_8).decode(&bytes);
    let mut is_title = false;
    for token in Tokenizer::new(text.as_ref()) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => {
                is_title = *tag.name == b"title";
                let get = |name: &[u8]| {
                    let value = tag.attributes.get(name)?;
                    Some(String::from_utf8_lossy(value).into_owned())
                };
                let (Some(key), Some(content)) = (get(b"property").or_else(|| get(b"name")), get(b"content"))
                else {
                    continue;
                };
                match key.as_str() {
                    "og:title" => page.title = Some(content),
                    "og:description" => page.description = Some(content),
                    "og:site_name" => page.site_name = Some(content),
                    "og:type" => page.kind = Some(content),
                    "og:url" => page.url = url.join(&content).ok(),
                    "og:image" => page.images.extend(url.join(&content).ok().map(|url| Image {
                        url,
                        width: None,
                        height: None,
                        alt: None,
                    })),
                    _ => {}
                }
            }
            Token::String(text) if is_title && page.title.is_none() => {
                page.title = Some(String::from_utf8_lossy(&text).trim().to_owned());
            }
            Token::String(_) | Token::EndTag(_) | Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {
                is_title = false;
            }
        }
    }
    Ok(page)
}
