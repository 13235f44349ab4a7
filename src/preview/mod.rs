//! Link previews: fetching a page, and reading its title, description and images from HTML, JSON-LD, oEmbed or a file's first
//! bytes.
//!
//! Owns the HTML tokenizer, character sets, and the rules by which pages are fetched ([`Fetcher`]). The readers refuse to know the
//! network, and all of it the store: the caller fetches and stores the image that it chooses from [`Page::images`]. The keys of a
//! preview are those of
//! [the specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url), which are
//! those of [the Open Graph protocol](https://ogp.me/).
//!
//! | module | what it reads |
//! |---|---|
//! | `http_url`, `fetch` | URLs that may be fetched; requests and redirects |
//! | `sniff`, `file`, `data_url` | what a body is; a description of a file; images in `data:` URLs |
//! | `charset`, `utf8_reader` | the character set of a page; its bytes as UTF-8 |
//! | `html`, `elements` | HTML as tags and text; properties of elements |
//! | `page` | a page, by way of `meta_tags`, `json_ld`, `visible` and `oembed` |
//! | `visible` | headings, paragraphs and images, by way of `boilerplate`, `open_element`, `text_run` and `text_tiers` |
//! | `image_ref`, `image_ranking` | images that tags refer to; their order |
//! | `text`, `markup` | one clean line of text; values that are HTML |

mod boilerplate;
mod charset;
mod data_url;
mod elements;
mod fetch;
mod file;
mod html;
mod http_url;
mod image_ranking;
mod image_ref;
mod json_ld;
mod markup;
mod meta_tags;
mod oembed;
mod open_element;
mod page;
mod sniff;
mod text;
mod text_run;
mod text_tiers;
mod utf8_reader;
mod visible;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use url::Url;

pub(crate) use data_url::read_data_url;
pub(crate) use fetch::{Accept, FetchedBody, Fetcher, Followed, body_error, timed_out};
pub(crate) use file::describe_file;
pub(crate) use http_url::HttpUrl;
pub(crate) use oembed::{
    MAX_OEMBED, MAX_OEMBED_CACHE_AGE, OembedProviders, OembedResponse, json_to_utf8, parse_oembed,
};
pub(crate) use page::{read_page, refresh_target};
pub(crate) use sniff::{BodyKind, media_type, sniff};

/// What a page says about itself. Every text is one line without control characters and markup, of bounded length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// `og:title`
    pub(crate) title: Option<String>,
    /// `og:description`
    pub(crate) description: Option<String>,
    /// `og:site_name`
    pub(crate) site_name: Option<String>,
    /// `og:type`
    pub(crate) kind: Option<String>,
    /// `og:url`, the canonical URL.
    pub(crate) url: Option<Url>,
    /// Images that may become `og:image`, best first, sorted by [`ImageSource`]. The first that can be fetched and decoded is used.
    pub(crate) images: Vec<Image>,
    /// URL of an oEmbed description of the page, as declared in the page.
    pub(crate) oembed: Option<Url>,
    /// Target of `http-equiv=refresh`, if the page says nothing else.
    pub(crate) refresh: Option<Url>,
    /// Further keys (`og:locale`, `article:author`, …) with their values.
    pub(crate) more: BTreeMap<String, String>,
}

/// An image of a page. Its URL is `http`, `https` or `data:image/…`; the rest is what the page claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) url: Url,
    /// Pixels.
    pub(crate) width: Option<u32>,
    /// Pixels.
    pub(crate) height: Option<u32>,
    /// `og:image:alt`
    pub(crate) alt: Option<String>,
    pub(crate) source: ImageSource,
}

/// Where in a page an image was found, best first. A worse source counts only if no image of a better one can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ImageSource {
    /// `og:image`, JSON-LD and the like.
    Declared,
    /// An image in the body.
    Shown,
    /// The icon of the site.
    Icon,
}

impl ImageSource {
    /// Most images of this source.
    fn max_images(self) -> usize {
        match self {
            Self::Declared => 6,
            Self::Shown => 5,
            Self::Icon => 1,
        }
    }
}

impl Page {
    /// Adds from `other` what this page lacks.
    pub(crate) fn fill_from(&mut self, other: Self) {
        self.title = self.title.take().or(other.title);
        self.description = self.description.take().or(other.description);
        self.site_name = self.site_name.take().or(other.site_name);
        self.kind = self.kind.take().or(other.kind);
        self.url = self.url.take().or(other.url);
        self.oembed = self.oembed.take().or(other.oembed);
        for image in other.images {
            if self.images.len() < MAX_IMAGES && !self.images.iter().any(|known| known.url == image.url) {
                self.images.push(image);
            }
        }
        self.images.sort_by_key(|image| image.source);
        for (key, value) in other.more {
            if self.more.len() < MAX_MORE {
                self.more.entry(key).or_insert(value);
            }
        }
    }

    /// The keys of the preview, except those of the image.
    pub(crate) fn open_graph(&self) -> Map<String, Value> {
        let mut keys: Map<String, Value> =
            self.more.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let url = self.url.as_ref().map(|url| url.as_str().to_owned());
        for (key, value) in [
            ("og:title", &self.title),
            ("og:description", &self.description),
            ("og:site_name", &self.site_name),
            ("og:type", &self.kind),
            ("og:url", &url),
        ] {
            if let Some(value) = value {
                keys.insert(key.to_owned(), value.as_str().into());
            }
        }
        keys
    }
}

/// Most images of a page: the sum over all sources.
const MAX_IMAGES: usize = 12;

/// Most further keys; with those of the page and its image at most 50.
const MAX_MORE: usize = 36;

#[cfg(test)]
mod tests;
