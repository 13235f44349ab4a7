//! Understanding a page: from the bytes of a web page, an oEmbed answer or a file to what is shown of a link.
//!
//! Owns the HTML tokenizer, the character sets, and the rules by which pages are asked for ([`Fetcher`]). Reading refuses to
//! know the network, and all of it the store: the caller stores the image it chooses from [`Page::images`]. The answer's keys are those of
//! [the specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url), which are
//! those of [the Open Graph protocol](https://ogp.me/).

mod block;
mod body;
mod charset;
mod data_url;
mod declared;
mod fetch;
mod file;
mod furniture;
mod html;
mod json_ld;
mod oembed;
mod page;
mod part;
#[cfg(test)]
mod situations;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use url::Url;

pub(crate) use data_url::read_data_url;
pub(crate) use fetch::{
    Accept, FetchedBody, Fetcher, Followed, HttpUrl, RedirectChain, body_error, timed_out,
};
pub(crate) use file::{BodyKind, describe_file, media_type, sniff};
pub(crate) use oembed::{
    MAX_OEMBED, MAX_OEMBED_CACHE_AGE, OembedProviders, OembedResponse, json_to_utf8, parse_oembed,
};
pub(crate) use page::{read_page, refresh_target};

/// What a page says of itself. Every text is clean: one line, no control characters, no markup, of bounded length.
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
    /// `og:url`, the address that the page prefers.
    pub(crate) url: Option<Url>,
    /// Pictures to show, best first, by their [`ImageSource`]. The first that can be fetched and decoded is `og:image`.
    pub(crate) images: Vec<Image>,
    /// Where an oEmbed description of the page is to be had, found in the page.
    pub(crate) oembed: Option<Url>,
    /// Where the page sends its readers at once (`http-equiv=refresh`), if it says nothing of itself.
    pub(crate) refresh: Option<Url>,
    /// Further keys (`og:locale`, `article:author`, …) with their values.
    pub(crate) more: BTreeMap<String, String>,
}

/// A picture that a page offers. Its URL is `http` or `https`; the rest is what the page claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Where it is.
    pub(crate) url: Url,
    /// Pixels.
    pub(crate) width: Option<u32>,
    /// Pixels.
    pub(crate) height: Option<u32>,
    /// `og:image:alt`
    pub(crate) alt: Option<String>,
    /// Why it may stand for the page.
    pub(crate) source: ImageSource,
}

/// Why a picture may stand for a page, best first. One stands in only where none of a better source can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ImageSource {
    /// The page says so.
    Declared,
    /// The page shows it.
    Shown,
    /// It is the icon of the site.
    Icon,
}

impl ImageSource {
    /// Most pictures of this source.
    fn most(self) -> usize {
        match self {
            Self::Declared => 6,
            Self::Shown => 5,
            Self::Icon => 1,
        }
    }
}

impl Page {
    /// Takes from `other` what this page lacks.
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

    /// The keys of the answer, except those of the image.
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

/// Most pictures a page offers: as many as there are of each source.
const MAX_IMAGES: usize = 12;

/// Most further keys; with those of the page and its image at most 50.
const MAX_MORE: usize = 36;
