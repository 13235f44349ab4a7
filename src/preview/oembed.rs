//! oEmbed: where a site describes its pages as JSON, and what the JSON says.
//!
//! [The format](https://oembed.com/).

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::{Image, Page};
use crate::config::OembedProvider;

/// What an oEmbed answer says of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Embed {
    /// The description.
    pub(crate) page: Page,
    /// How long the site wants it kept, at most a day.
    pub(crate) cache_age: Option<Duration>,
}

/// The sites that are known to speak oEmbed.
#[derive(Clone, Debug)]
pub(crate) struct Providers {
    /// Configured ones first.
    all: Vec<OembedProvider>,
}

/// The JSON.
#[derive(Deserialize)]
struct Document {
    /// Of the thing embedded.
    title: Option<String>,
    /// The site.
    provider_name: Option<String>,
    /// A picture.
    thumbnail_url: Option<String>,
    /// Seconds.
    cache_age: Option<u64>,
}

impl Providers {
    /// The embedded list behind the configured one (`previews.oembed`).
    pub(crate) fn new(extra: &[OembedProvider]) -> Self {
        Self { all: extra.to_vec() }
    }

    /// Where to ask about `url`, if its site is known.
    pub(crate) fn endpoint(&self, url: &Url) -> Option<Url> {
        let known = |glob: &String| wildmatch::WildMatch::new(glob).matches(url.as_str());
        let provider = self.all.iter().find(|provider| provider.urls.iter().any(known))?;
        let mut endpoint = Url::parse(&provider.endpoint).ok()?;
        endpoint.query_pairs_mut().append_pair("format", "json").append_pair("url", url.as_str());
        Some(endpoint)
    }
}

/// Reads the answer of an endpoint, fetched from `url`.
pub(crate) fn parse_oembed(json: &[u8], url: &Url) -> Option<Embed> {
    let document: Document = serde_json::from_slice(json).ok()?;
    let image = document.thumbnail_url.and_then(|image| url.join(&image).ok());
    let page = Page {
        title: document.title,
        site_name: document.provider_name,
        images: image.map(|url| Image { url, width: None, height: None, alt: None }).into_iter().collect(),
        ..Page::default()
    };
    let cache_age = document.cache_age.map(|seconds| Duration::from_secs(seconds.min(24 * 60 * 60)));
    Some(Embed { page, cache_age })
}
