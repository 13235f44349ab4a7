//! Parameters of requests: tokens, media, thumbnails and links, read from path, query and headers.
//!
//! Owns their names, defaults and bounds. Except for the token, they are read after authentication (`api/auth.rs`). Refuses to know the
//! syntax: that is `http/request.rs`.

use std::time::Duration;

use hyper::header;
use percent_encoding::percent_decode_str;

use crate::accounts::Credential;
use crate::config::ThumbnailMethod;
use crate::error::{Error, Kind, Result};
use crate::federation::InboundRequest;
use crate::http::disposition;
use crate::http::request::{Call, PathParams, Query, decode, target};
use crate::matrix::{MediaId, Mxc, ServerName};
use crate::preview::HttpUrl;
use crate::thumbnail::{Motion, ThumbnailRequest};

/// How long a download waits for a pending upload unless the client says otherwise (spec, `timeout_ms`).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest it waits whatever the client says.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);

impl Call {
    /// The client's access token: the `Authorization` header, else the `access_token` query parameter, which was removed from the
    /// specification and is still in use. `None` if there is neither.
    ///
    /// # Errors
    /// Those of [`Credential::new`].
    pub(crate) fn credential(&self) -> Result<Option<Credential>> {
        let header = self.headers.get(header::AUTHORIZATION).and_then(|value| {
            let value = String::from_utf8_lossy(value.as_bytes());
            let (scheme, token) = value.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim().to_owned())
        });
        // Bytes that are not UTF-8 are an error, not a missing token. A `+` is part of the token, not a space.
        let lossy = |raw: &str| percent_decode_str(raw).decode_utf8_lossy().into_owned();
        let query = self.query();
        let Some(token) = header.or_else(|| query.raw("access_token").map(lossy)) else { return Ok(None) };
        let user_id = query.raw("user_id").map(|raw| lossy(&raw.replace('+', " ")));
        Credential::new(token, user_id).map(Some)
    }

    /// What a server's signature covers.
    pub(crate) fn inbound(&self) -> InboundRequest {
        let authorization = self.headers.get_all(header::AUTHORIZATION).iter();
        InboundRequest {
            method: self.method.as_str().to_owned(),
            uri: target(&self.uri),
            authorization: authorization
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect(),
        }
    }

    /// The media that the path names; it is also recorded in the access line. `own` is used where the route has no server name.
    ///
    /// # Errors
    /// `NotFound` for a name or ID outside its grammar: such media does not exist.
    pub(crate) fn mxc(&mut self, own: &ServerName) -> Result<Mxc> {
        let mxc = self.path.mxc(own)?;
        self.access.mxc = Some(mxc.clone());
        Ok(mxc)
    }
}

impl PathParams {
    /// The requested media; `own` is used where the route has no server name. Media with an invalid name or ID does not exist.
    pub(crate) fn mxc(&self, own: &ServerName) -> Result<Mxc> {
        let server_name = match &self.server_name {
            Some(raw) => ServerName::parse(&decode(raw)?).map_err(|_grammar| Error::not_found())?,
            None => own.clone(),
        };
        let raw = self.media_id.as_deref().ok_or_else(Error::not_found)?;
        let media_id = MediaId::parse(&decode(raw)?).map_err(|_grammar| Error::not_found())?;
        Ok(Mxc { server_name, media_id })
    }

    /// The file name in the path, which wins over the stored one.
    pub(crate) fn file_name(&self) -> Result<Option<String>> {
        let name = self.file_name.as_deref().map(decode).transpose()?;
        Ok(name.map(|name| disposition::short_name(name.into_owned())))
    }
}

impl Query<'_> {
    /// `filename` of an upload; an empty one is none.
    pub(crate) fn upload_name(&self) -> Result<Option<String>> {
        let name = match self.raw("filename") {
            Some(raw) => decode(&raw.replace('+', " "))
                .map_err(|_utf8| Error::new(Kind::BadRequest, "the filename is not UTF-8"))?
                .into_owned(),
            None => return Ok(None),
        };
        let name = disposition::short_name(disposition::decode_twice_encoded(name));
        Ok(Some(name).filter(|name| !name.is_empty()))
    }

    /// Whether the client wants a blurhash in the response to an upload (MSC2448, under its unstable name).
    pub(crate) fn wants_blurhash(&self) -> bool {
        self.get("xyz.amorgan.generate_blurhash").as_deref() == Some("true")
    }

    /// Whether `allow_remote` forbids to fetch remote media.
    pub(crate) fn refuses_remote(&self) -> bool {
        self.get("allow_remote").as_deref() == Some("false")
    }

    /// `timeout_ms`, capped.
    pub(crate) fn timeout(&self) -> Duration {
        let given = self.get("timeout_ms").or_else(|| self.get("fi.mau.msc2246.timeout_ms"));
        let ms = given.and_then(|ms| ms.parse().ok());
        ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis).min(MAX_TIMEOUT)
    }

    /// The thumbnail asked for: `width` and `height` in pixels, `method` (`scale` unless it says `crop`), `animated` (MSC2705).
    ///
    /// # Errors
    /// `MissingParam` and `InvalidParam` as Synapse has them; `BadRequest` for a side of 0.
    pub(crate) fn wanted_thumbnail(&self) -> Result<ThumbnailRequest> {
        let side = |name: &'static str| {
            let missing = || Error::new(Kind::MissingParam, format!("{name} is missing"));
            let text = self.get(name).ok_or_else(missing)?;
            let invalid = |_why| Error::new(Kind::InvalidParam, format!("{name} is not a number of pixels"));
            match text.parse::<u32>().map_err(invalid)? {
                0 => Err(Error::new(Kind::BadRequest, format!("{name} must be more than 0"))),
                pixels => Ok(pixels),
            }
        };
        let (width, height) = (side("width")?, side("height")?);
        let method = match self.get("method").as_deref() {
            None | Some("scale") => ThumbnailMethod::Scale,
            Some("crop") => ThumbnailMethod::Crop,
            Some(_) => return Err(Error::new(Kind::InvalidParam, "method must be crop or scale")),
        };
        let animated = self.get("animated").or_else(|| self.get("org.matrix.msc2705.animated"));
        let motion = if animated.as_deref() == Some("true") { Motion::Animated } else { Motion::Still };
        Ok(ThumbnailRequest { width, height, method, motion })
    }

    /// The page to preview: `url`. `ts`, the preferred point in time, must be a number; the page is always previewed as it is now, which
    /// the specification allows.
    ///
    /// # Errors
    /// `MissingParam`, and `InvalidParam` for what cannot be previewed.
    pub(crate) fn preview_link(&self) -> Result<HttpUrl> {
        let missing = || Error::new(Kind::MissingParam, "url is missing");
        let url = self.get("url").filter(|url| !url.is_empty()).ok_or_else(missing)?;
        if self.get("ts").is_some_and(|ts| ts.parse::<u64>().is_err()) {
            return Err(Error::new(Kind::InvalidParam, "ts is not a number of milliseconds"));
        }
        HttpUrl::parse(&url)
    }
}
