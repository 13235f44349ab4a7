//! The outbound ladder: which endpoint family of a server gives the media.
//!
//! Owns the order of attempts and the reading of their answers. Refuses to know where the bytes go.
//! [MSC3916](https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/3916-authentication-for-media.md),
//! MSC1902, and the legacy routes.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;

use super::{Federation, RemoteError};
use crate::config::Family;
use crate::disposition;
use crate::error::{Error, Kind, Result};
use crate::matrix::Mxc;
use crate::multipart::{self, MultipartReader};
use crate::outbound::Answer;

/// Largest error body read for its errcode, bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;

/// Largest JSON part of a multipart answer, bytes.
const MAX_JSON_PART: u64 = 64 * 1024;

/// A remote file, its bytes still to be read.
pub(crate) struct RemoteMedia {
    /// As the remote claims it.
    pub(crate) content_type: String,
    /// The remote's file name.
    pub(crate) upload_name: Option<String>,
    /// How many bytes the remote announces.
    pub(crate) size: Option<u64>,
    /// The bytes. A body that breaks off ends in an error, not in an end.
    pub(crate) body: Box<dyn Read + Send>,
}

/// How much sooner than us the remote is told to give up waiting for an upload.
const MARGIN: Duration = Duration::from_secs(5);

/// What one attempt came to.
enum Attempt {
    /// Here it is.
    Media(RemoteMedia),
    /// The server does not have this endpoint, or a proxy in front of it does not.
    UnknownEndpoint,
    /// The server says that it has no such media; or, in its way, that it has no such endpoint.
    NotFound,
    /// Our signature was not accepted.
    Refused(String),
    /// Nothing else will help.
    Failed(Error),
}

/// A Matrix error body.
#[derive(Deserialize)]
struct ErrorBody {
    /// `M_…`
    errcode: String,
}

impl Federation {
    /// Finds `mxc` at its origin, which is another server, waiting there up to `timeout` for a pending upload. Blocks.
    ///
    /// # Errors
    /// `NotFound` when the origin says so, `Forbidden` when configuration excludes it, `NotYetUploaded`, `LimitExceeded`,
    /// `RemoteTooLarge`, and `RemoteFailed` for everything else, each saying whose fault it was.
    pub(crate) fn fetch(&self, mxc: &Mxc, timeout: Duration) -> Result<RemoteMedia> {
        self.policy.check(&mxc.server_name)?;
        let mut not_found = false;
        let mut refused = None;
        for family in &self.families {
            let outcome = match self.attempt(*family, mxc, timeout) {
                Ok(attempt) => attempt,
                Err(error) => Attempt::Failed(unreachable(mxc, error)),
            };
            match outcome {
                Attempt::Media(media) => return Ok(media),
                Attempt::UnknownEndpoint => {}
                Attempt::NotFound => not_found = true,
                Attempt::Refused(why) => {
                    tracing::warn!(%mxc, ?family, why, "the remote server does not accept our signature");
                    refused = Some(why);
                }
                Attempt::Failed(error) => return Err(error),
            }
        }
        Err(match refused {
            Some(why) => Error::new(Kind::RemoteFailed, "the remote server refused our signature")
                .caused_by(RemoteError::Answer(why)),
            None if not_found => Error::not_found(),
            None => Error::new(
                Kind::RemoteFailed,
                "the remote server has no media endpoint that this server knows",
            ),
        })
    }

    /// One rung.
    fn attempt(
        &self,
        family: Family,
        mxc: &Mxc,
        timeout: Duration,
    ) -> std::result::Result<Attempt, RemoteError> {
        let Mxc { server_name, media_id } = mxc;
        // The remote's "not yet" must come before our patience ends.
        let ms = timeout.min(self.patience.saturating_sub(MARGIN)).as_millis();
        let (path, key) = match family {
            Family::Msc1902 => (
                format!(
                    "/_matrix/federation/v1/remote_media/download/{server_name}/{media_id}?allow_remote=false&timeout_ms={ms}"
                ),
                Some(&self.signing_key),
            ),
            Family::Msc3916 => (
                format!("/_matrix/federation/v1/media/download/{media_id}?timeout_ms={ms}"),
                Some(&self.signing_key),
            ),
            Family::Legacy => (
                format!(
                    "/_matrix/media/v3/download/{server_name}/{media_id}?allow_remote=false&timeout_ms={ms}"
                ),
                None,
            ),
        };
        let answer = self.ask(server_name, &path, key)?;
        match answer.status() {
            200 if family == Family::Msc3916 => Ok(multipart_media(answer)),
            // Raw answers: a catch-all page is not media. Legacy servers of old send no disposition.
            200 if family == Family::Msc1902 && answer.header_lossy("content-disposition").is_none() => {
                Ok(Attempt::UnknownEndpoint)
            }
            200 => Ok(Attempt::Media(raw_media(answer))),
            status => Ok(judge_error(status, answer)),
        }
    }
}

/// The media of a raw answer.
fn raw_media(answer: Answer) -> RemoteMedia {
    RemoteMedia {
        content_type: disposition::storable_type(answer.header("content-type")),
        upload_name: answer.header_lossy("content-disposition").as_deref().and_then(disposition::file_name),
        size: answer.content_length(),
        body: Box::new(answer.into_reader()),
    }
}

/// The media of a multipart answer: a JSON part, then the bytes with their headers. Dendrite puts the disposition on the
/// answer itself.
fn multipart_media(answer: Answer) -> Attempt {
    let Some(boundary) = answer.header("content-type").and_then(multipart::boundary) else {
        return Attempt::UnknownEndpoint;
    };
    let outer_disposition = answer.header_lossy("content-disposition");
    let mut reader = MultipartReader::new(answer.into_reader(), &boundary);
    let mut second_part = || {
        reader.next_part()?.ok_or(multipart::MultipartError::Malformed)?;
        let json = std::io::copy(&mut reader.by_ref().take(MAX_JSON_PART), &mut std::io::sink())?;
        if json >= MAX_JSON_PART {
            return Err(multipart::MultipartError::TooLong);
        }
        reader.next_part()?.ok_or(multipart::MultipartError::Malformed)
    };
    let headers = match second_part() {
        Ok(headers) => headers,
        Err(error) => return Attempt::Failed(broken().caused_by(error)),
    };
    if headers.get("location").is_some() {
        return Attempt::Failed(
            broken().caused_by(RemoteError::Answer("it redirects to another place".to_owned())),
        );
    }
    let disposition = headers.get("content-disposition").map(str::to_owned).or(outer_disposition);
    Attempt::Media(RemoteMedia {
        content_type: disposition::storable_type(headers.get("content-type")),
        upload_name: disposition.as_deref().and_then(disposition::file_name),
        size: headers.get("content-length").and_then(|length| length.parse().ok()),
        body: Box::new(reader),
    })
}

/// Reads an answer that is not 200.
fn judge_error(status: u16, answer: Answer) -> Attempt {
    let retry_after = answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
    let body = answer.read_at_most(MAX_ERROR_BODY).ok().flatten().unwrap_or_default();
    let errcode = serde_json::from_slice::<ErrorBody>(&body).ok().map(|body| body.errcode);
    let failed = |kind, message| Attempt::Failed(Error::new(kind, message));
    match (status, errcode.as_deref()) {
        (300..=399 | 400 | 403 | 404 | 405 | 501, None) | (400 | 404 | 405, Some("M_UNRECOGNIZED")) => {
            Attempt::UnknownEndpoint
        }
        (404, Some(_)) => Attempt::NotFound,
        (401 | 403, Some(errcode)) => Attempt::Refused(format!("{status} {errcode}")),
        (504, Some("M_NOT_YET_UPLOADED")) => failed(Kind::NotYetUploaded, "the media is not yet uploaded"),
        (413 | 502, Some("M_TOO_LARGE")) => failed(Kind::RemoteTooLarge, "the remote file is too large"),
        (429, _) => Attempt::Failed(
            Error::new(Kind::LimitExceeded, "the remote server asks to slow down")
                .retry_after(Duration::from_secs(retry_after.unwrap_or(1))),
        ),
        (status, errcode) => {
            let why = format!("status {status} {}", errcode.unwrap_or_default());
            let message = "the remote server answered with an error";
            Attempt::Failed(Error::new(Kind::RemoteFailed, message).caused_by(RemoteError::Answer(why)))
        }
    }
}

/// A remote whose answer cannot be read.
fn broken() -> Error {
    Error::new(Kind::RemoteFailed, "the remote server sent a broken answer")
}

/// A remote that does not answer.
fn unreachable(mxc: &Mxc, error: RemoteError) -> Error {
    match error {
        RemoteError::Discovery(error) => error,
        RemoteError::Outbound(_) | RemoteError::Answer(_) => {
            Error::new(Kind::RemoteFailed, format!("cannot reach {}", mxc.server_name)).caused_by(error)
        }
    }
}

impl RemoteMedia {
    /// Refuses a file that announces more than `limit` bytes.
    pub(crate) fn at_most(self, limit: u64) -> Result<Self> {
        match self.size {
            Some(size) if size > limit => {
                Err(Error::new(Kind::RemoteTooLarge, "the remote file is too large"))
            }
            _ => Ok(self),
        }
    }
}

impl std::fmt::Debug for RemoteMedia {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteMedia")
            .field("content_type", &self.content_type)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
