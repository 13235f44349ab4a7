//! Fetching media: which endpoint family of a server sends it.
//!
//! Owns the order in which families are tried, which one worked last, and the errors for clients. Refuses to know where the bytes go.
//! [MSC3916](https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/3916-authentication-for-media.md),
//! MSC1902, and the legacy routes.

use std::time::Duration;

use super::backoff::{Wait, is_for_unknown, is_ours};
use super::response::{Attempt, RemoteMedia, ResponseReader, rate_limited};
use super::{Federation, FetchOptions, RemoteError, Unavailable, backing_off, too_large};
use crate::config::Family;
use crate::error::{Error, Kind, Result};
use crate::http::multipart::MultipartError;
use crate::matrix::{Expiry, Moment, Mxc, ServerName, Timestamp};

/// How much earlier than our own time-out the remote is told to stop waiting for an upload: its "not yet" has to arrive in time.
const MARGIN: Duration = Duration::from_secs(5);

/// How long a family that worked is tried first. After that the configured order counts again: the server may have been updated.
const FAMILY_LIFETIME: Duration = Duration::from_hours(24);

/// The version of MSC1902's endpoints after the proposal is released.
const STABLE: &str = "v1";

/// The version before that.
const UNSTABLE: &str = "unstable/org.matrix.msc1902";

/// How long it is remembered whether a server has MSC1902's endpoints under the unstable version.
const UNSTABLE_LIFETIME: Duration = Duration::from_hours(24);

/// How long missing or refused media is not requested again.
const NEGATIVE_LIFETIME: Duration = Duration::from_mins(10);

/// A family to try.
#[derive(Clone, Copy)]
struct Candidate {
    family: Family,
    /// Whether it has sent media of this server before.
    is_proven: bool,
}

impl Federation {
    /// Finds `mxc` at its origin, which is another server, waiting there for a pending upload. Blocks.
    ///
    /// # Errors
    /// `NotFound` when the origin says so, `Forbidden` when configuration excludes it, `NotYetUploaded`, `LimitExceeded`,
    /// `RemoteTooLarge`, and `RemoteFailed` for everything else, each saying whose fault it was.
    pub(crate) fn fetch(&self, mxc: &Mxc, options: FetchOptions) -> Result<RemoteMedia> {
        let server_name = &mxc.server_name;
        self.rules.get().policy.check(server_name)?;
        self.require_matching_key()?;
        let now = (self.monotonic)();
        match self.known_unavailable(mxc, now) {
            Some(Unavailable::NotFound) => return Err(Error::not_found()),
            Some(Unavailable::TooLarge) => return Err(too_large()),
            None => {}
        }
        match self.failures.wait(mxc, now) {
            Some(Wait::Failing(wait)) => {
                return Err(backing_off(&format!("cannot reach {server_name}"), wait));
            }
            Some(Wait::FileFailing(wait)) => {
                return Err(backing_off(&format!("{server_name} did not send this file"), wait));
            }
            Some(Wait::Limited(wait)) => return Err(rate_limited(wait)),
            None => {}
        }
        let outcome = self.try_families(mxc, options).and_then(|media| media.at_most(options.max_size));
        match &outcome {
            Err(error) if error.kind() == Kind::NotFound => {
                self.record_unavailable(mxc, Unavailable::NotFound);
            }
            Err(error) if error.kind() == Kind::LimitExceeded => {
                self.failures.record_limit(mxc, now, error.wait().unwrap_or_default());
            }
            Err(error) if error.kind() == Kind::RemoteTooLarge => self.record_too_large(mxc),
            Ok(_) | Err(_) => {}
        }
        outcome
    }

    /// The file is larger than we accept. Without this each view would fetch as much of it as we accept again.
    pub(crate) fn record_too_large(&self, mxc: &Mxc) {
        self.failures.record_success(&mxc.server_name);
        self.record_unavailable(mxc, Unavailable::TooLarge);
    }

    /// Remembers that the media cannot be had, for callers like those of this work.
    fn record_unavailable(&self, mxc: &Mxc, why: Unavailable) {
        let until = (self.monotonic)().after(NEGATIVE_LIFETIME);
        self.negative_cache.insert((mxc.clone(), is_for_unknown()), (why, until));
    }

    /// Why the media cannot be had, if that was seen a moment ago.
    fn known_unavailable(&self, mxc: &Mxc, now: Moment) -> Option<Unavailable> {
        let seen_by = |unknown: bool| {
            let (why, until) = self.negative_cache.get(&(mxc.clone(), unknown))?;
            (now < until).then_some(why)
        };
        seen_by(false).or_else(|| is_for_unknown().then(|| seen_by(true))?)
    }

    /// The server sent a whole file.
    pub(crate) fn record_success(&self, server_name: &ServerName) {
        self.failures.record_success(server_name);
        // It can be reached, so its keys probably can as well.
        self.key_backoff.record_success(server_name);
    }

    /// The server fell silent in the middle of a file.
    pub(crate) fn record_silence(&self, server_name: &ServerName) {
        self.failures.record_server(server_name, (self.monotonic)());
    }

    /// A file of the server arrived too slowly while others waited for its place.
    pub(crate) fn record_slow(&self, mxc: &Mxc) {
        self.failures.record_slow(mxc, (self.monotonic)());
    }

    /// The server broke off in the middle of a file.
    pub(crate) fn record_failure(&self, mxc: &Mxc) {
        self.failures.record_file(mxc, (self.monotonic)());
    }

    /// Tries one family after the other until one sends the media or settles the matter.
    fn try_families(&self, mxc: &Mxc, options: FetchOptions) -> Result<RemoteMedia> {
        let proven = self.proven_family(&mxc.server_name);
        let mut families: Vec<Family> = proven.into_iter().collect();
        families.extend(self.rules.get().families.iter().filter(|family| Some(**family) != proven));
        let mut not_found = false;
        let mut refused = None;
        let mut broken: Option<MultipartError> = None;
        for family in families {
            // After the first response of an endpoint that exists, only the unsigned route can say anything new: split deployments answer
            // the signed ones from an empty store.
            let has_signed_family = proven.is_some_and(|family| family != Family::Legacy);
            let settled = refused.is_some() || (not_found && has_signed_family);
            if settled && family != Family::Legacy {
                continue;
            }
            match self.attempt(mxc, options, Candidate { family, is_proven: proven == Some(family) }) {
                Attempt::Media(media) => {
                    // A server that answers on a signed route and sends media on the unsigned one sends old media there. New media is
                    // on the signed route, so the unsigned one is not remembered. The day of the known family counts from the first time.
                    if !settled && broken.is_none() && proven != Some(family) {
                        self.remember_family(&mxc.server_name, family);
                    }
                    return Ok(media);
                }
                Attempt::UnknownEndpoint => {
                    tracing::debug!(%mxc, ?family, "the remote server lacks the endpoint");
                }
                Attempt::NotFound => not_found = true,
                Attempt::Broken(why) => {
                    tracing::warn!(%mxc, ?family, why = why.to_string(), "the remote server sent an invalid response");
                    broken = Some(why);
                }
                Attempt::Refused(why) => {
                    tracing::warn!(%mxc, ?family, why = why.to_string(), "the remote server does not accept our signature");
                    refused = Some(why);
                }
                Attempt::Settled(error) => {
                    tracing::debug!(%mxc, ?family, ?error, "the remote server does not send the media");
                    if error.kind() != Kind::LimitExceeded {
                        self.failures.record_success(&mxc.server_name);
                    }
                    return Err(error);
                }
                // We broke off ourselves: that says nothing about the server.
                Attempt::Down(cause) if is_ours() => return Err(down(mxc, cause)),
                Attempt::Down(cause) => {
                    tracing::warn!(%mxc, ?family, cause = cause.to_string(), "the remote server fails");
                    if cause.is_about_file() {
                        self.record_failure(mxc);
                    } else {
                        self.record_silence(&mxc.server_name);
                    }
                    return Err(down(mxc, cause));
                }
            }
        }
        // The server answered, so it is up. A response that was too slow counts as a failure instead.
        if broken.as_ref().is_some_and(MultipartError::is_late) {
            self.record_silence(&mxc.server_name);
        } else {
            self.failures.record_success(&mxc.server_name);
        }
        let failed = |message| Error::new(Kind::RemoteFailed, message);
        Err(match (refused, broken) {
            (Some(why), _) => failed("the remote server refused our signature").caused_by(why),
            (None, Some(why)) => failed("the remote server sent an invalid response").caused_by(why),
            (None, None) if not_found => Error::not_found(),
            (None, None) => failed("the remote server has no media endpoint that this server knows"),
        })
    }

    /// Requests the media from the endpoint of one family.
    fn attempt(&self, mxc: &Mxc, options: FetchOptions, candidate: Candidate) -> Attempt {
        let Candidate { family, is_proven } = candidate;
        let Mxc { server_name, media_id } = mxc;
        let rules = self.rules.get();
        let ms = options.timeout.min(rules.timeout.saturating_sub(MARGIN)).as_millis();
        let reader =
            ResponseReader { family, is_proven, outbound: &rules.outbound, max_size: options.max_size };
        let ask = |path: &str, key| match self.ask(server_name, path, key) {
            Ok(response) => reader.read(response),
            Err(error) => Attempt::Down(error),
        };
        let signing_key = self.signing_key();
        let signed = Some(&*signing_key);
        match family {
            Family::Msc1902 => self.try_versions(server_name, |version| {
                let path = format!("/_matrix/federation/{version}/remote_media/download");
                ask(&format!("{path}/{server_name}/{media_id}?allow_remote=false&timeout_ms={ms}"), signed)
            }),
            // Never `allow_remote` here: Dendrite answers it with an empty 404.
            Family::Msc3916 => {
                ask(&format!("/_matrix/federation/v1/media/download/{media_id}?timeout_ms={ms}"), signed)
            }
            Family::Legacy => {
                let query = format!("{server_name}/{media_id}?allow_remote=false&timeout_ms={ms}");
                let v3 = ask(&format!("/_matrix/media/v3/download/{query}&allow_redirect=true"), None);
                // Servers from before v3.
                let is_old = matches!(v3, Attempt::UnknownEndpoint);
                if is_old { ask(&format!("/_matrix/media/r0/download/{query}"), None) } else { v3 }
            }
        }
    }

    /// Tries MSC1902's stable version, and once a day its unstable one, which servers are to use before the proposal is released. A
    /// server that has the unstable one is asked there first.
    fn try_versions(&self, server_name: &ServerName, ask: impl Fn(&str) -> Attempt) -> Attempt {
        let now = (self.monotonic)();
        let known = self.unstable_prefix.get(server_name).filter(|(_, until)| now < *until);
        let remember =
            |has_it| self.unstable_prefix.insert(server_name.clone(), (has_it, now.after(UNSTABLE_LIFETIME)));
        if let Some((true, _)) = known {
            let unstable = ask(UNSTABLE);
            if !matches!(unstable, Attempt::UnknownEndpoint) {
                return unstable;
            }
            self.unstable_prefix.remove(server_name);
        }
        let stable = ask(STABLE);
        if known.is_some() || !matches!(stable, Attempt::UnknownEndpoint | Attempt::NotFound) {
            return stable;
        }
        let unstable = ask(UNSTABLE);
        match (&stable, &unstable) {
            // Under a path that the server may not know, an error about the media proves nothing. These responses do.
            (_, Attempt::Media(_) | Attempt::Settled(_)) | (Attempt::UnknownEndpoint, Attempt::NotFound) => {
                remember(true);
                unstable
            }
            // Some proxies drop connections for unknown paths. Whether the server is down shows with the next family.
            _ => {
                remember(false);
                stable
            }
        }
    }

    /// The family that sent this server's media lately, if it is still among the configured ones. A catalog that fails costs a few
    /// requests, never the media.
    fn proven_family(&self, server_name: &ServerName) -> Option<Family> {
        let family = self.known_family(server_name).unwrap_or_else(|error| {
            tracing::warn!(%server_name, ?error, "the endpoint family of a server cannot be looked up");
            None
        });
        family.filter(|family| self.rules.get().families.contains(family))
    }

    /// Remembers that a family sent media, unlike the one that is known: the day counts from the first time, so that families that are
    /// preferred get their chance. A failure to store it is only logged.
    fn remember_family(&self, server_name: &ServerName, family: Family) {
        if let Err(error) = self.catalog.put_family(server_name, family, (self.clock)()) {
            tracing::warn!(%server_name, ?family, ?error, "the endpoint family of a server cannot be stored");
        }
    }

    /// The family remembered for a server, unless that is too old.
    fn known_family(&self, server_name: &ServerName) -> Result<Option<Family>> {
        let known = self.catalog.family(server_name)?;
        let counts = |proven: Timestamp| {
            Expiry::at(proven.after(FAMILY_LIFETIME)).lies_ahead((self.clock)(), FAMILY_LIFETIME)
        };
        Ok(known.filter(|(_, proven)| counts(*proven)).map(|(family, _)| family))
    }
}

/// The error for a server that does not answer, or fails.
fn down(mxc: &Mxc, cause: RemoteError) -> Error {
    let message = if cause.is_response() {
        format!("{} answered with an error", mxc.server_name)
    } else {
        format!("cannot reach {}", mxc.server_name)
    };
    Error::new(Kind::RemoteFailed, message).caused_by(cause)
}
