//! The outbound ladder: which endpoint family of a server gives the media.
//!
//! Owns the order of attempts, the memory of what worked, and what the client is told. Refuses to know where the bytes go.
//! [MSC3916](https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/3916-authentication-for-media.md),
//! MSC1902, and the legacy routes.

use std::time::Duration;

use super::answer::{Attempt, Reading, RemoteMedia, limited};
use super::backoff::Wait;
use super::{Federation, RemoteError, Vain, Wish, left_alone, too_large};
use crate::config::Family;
use crate::error::{Error, Kind, Result};
use crate::http::multipart::MultipartError;
use crate::matrix::{Expiry, Mxc, ServerName, Timestamp};

/// How much sooner than us the remote is told to give up waiting for an upload.
const MARGIN: Duration = Duration::from_secs(5);

/// How long a family that worked is tried first; after that the order is tried from its top, for the server may have learned.
const FAMILY_LIFETIME: Duration = Duration::from_hours(24);

/// The version of MSC1902's endpoints once the proposal is released.
const STABLE: &str = "v1";

/// The same before.
const UNSTABLE: &str = "unstable/org.matrix.msc1902";

/// How long it is remembered whether a server has MSC1902's endpoints under the unstable version.
const UNSTABLE_LIFETIME: Duration = Duration::from_hours(24);

/// How long media that was asked for in vain is not asked for again.
const VAIN_LIFETIME: Duration = Duration::from_mins(10);

impl Federation {
    /// Finds `mxc` at its origin, which is another server, waiting there for a pending upload. Blocks.
    ///
    /// # Errors
    /// `NotFound` when the origin says so, `Forbidden` when configuration excludes it, `NotYetUploaded`, `LimitExceeded`,
    /// `RemoteTooLarge`, and `RemoteFailed` for everything else, each saying whose fault it was.
    pub(crate) fn fetch(&self, mxc: &Mxc, wish: Wish) -> Result<RemoteMedia> {
        let server_name = &mxc.server_name;
        self.rules.get().policy.check(server_name)?;
        self.check_standing()?;
        let now = (self.monotonic)();
        match self.in_vain.get(mxc) {
            Some((Vain::Absent, until)) if now < until => return Err(Error::not_found()),
            Some((Vain::TooLarge, until)) if now < until => return Err(too_large()),
            Some(_) | None => {}
        }
        match self.backoff.wait(server_name, now) {
            Some(Wait::Failing(wait)) => return Err(left_alone(server_name, wait)),
            Some(Wait::Limited(wait)) => return Err(limited(wait)),
            None => {}
        }
        let outcome = self.climb(mxc, wish).and_then(|media| media.at_most(wish.max_size));
        match &outcome {
            Err(error) if error.kind() == Kind::NotFound => {
                self.in_vain.insert(mxc.clone(), (Vain::Absent, now.after(VAIN_LIFETIME)));
            }
            Err(error) if error.kind() == Kind::LimitExceeded => {
                self.backoff.limited(server_name, now, error.wait().unwrap_or_default());
            }
            Err(error) if error.kind() == Kind::RemoteTooLarge => self.too_large(mxc),
            Ok(_) | Err(_) => {}
        }
        outcome
    }

    /// Notes that a file is larger than we take: each view would fetch as much of it as we take again.
    pub(crate) fn too_large(&self, mxc: &Mxc) {
        self.backoff.alive(&mxc.server_name);
        self.in_vain.insert(mxc.clone(), (Vain::TooLarge, (self.monotonic)().after(VAIN_LIFETIME)));
    }

    /// Notes that a server sent a whole file.
    pub(crate) fn sent_whole(&self, server_name: &ServerName) {
        self.backoff.alive(server_name);
    }

    /// Notes that a server broke off in the middle of a file.
    pub(crate) fn broke_off(&self, server_name: &ServerName) {
        self.backoff.failed(server_name, (self.monotonic)());
    }

    /// Tries the families until one gives the media or an answer that settles the matter.
    fn climb(&self, mxc: &Mxc, wish: Wish) -> Result<RemoteMedia> {
        let proven = self.proven_family(&mxc.server_name);
        let mut rungs: Vec<Family> = proven.into_iter().collect();
        rungs.extend(self.rules.get().families.iter().filter(|family| Some(**family) != proven));
        let mut not_found = false;
        let mut refused = None;
        let mut broken: Option<MultipartError> = None;
        for family in rungs {
            // After a word from an endpoint that is there, only the unsigned route can say anything new: split deployments
            // answer the signed ones from an empty store.
            let has_signed_family = proven.is_some_and(|family| family != Family::Legacy);
            let settled = refused.is_some() || (not_found && has_signed_family);
            if settled && family != Family::Legacy {
                continue;
            }
            match self.attempt(mxc, wish, (family, proven == Some(family))) {
                Attempt::Media(media) => {
                    // What the unsigned route gives of a server whose signed one has spoken is old media, not the rule.
                    if !settled && broken.is_none() {
                        self.remember_family(&mxc.server_name, family);
                    }
                    return Ok(media);
                }
                Attempt::UnknownEndpoint => {
                    tracing::debug!(%mxc, ?family, "the remote server lacks the endpoint");
                }
                Attempt::NotFound => not_found = true,
                Attempt::Broken(why) => {
                    tracing::warn!(%mxc, ?family, why = why.to_string(), "the remote server sent a broken answer");
                    broken = Some(why);
                }
                Attempt::Refused(why) => {
                    tracing::warn!(%mxc, ?family, why, "the remote server does not accept our signature");
                    refused = Some(why);
                }
                Attempt::Told(error) => {
                    tracing::debug!(%mxc, ?family, ?error, "the remote server's answer");
                    if error.kind() != Kind::LimitExceeded {
                        self.backoff.alive(&mxc.server_name);
                    }
                    return Err(error);
                }
                Attempt::Down(cause) => {
                    tracing::warn!(%mxc, ?family, cause = cause.to_string(), "the remote server fails");
                    self.backoff.failed(&mxc.server_name, (self.monotonic)());
                    return Err(down(mxc, cause));
                }
            }
        }
        // Media is a sign of life only when it was sent whole, any other answer at once; but not one that never ends.
        if broken.as_ref().is_some_and(MultipartError::is_late) {
            self.backoff.failed(&mxc.server_name, (self.monotonic)());
        } else {
            self.backoff.alive(&mxc.server_name);
        }
        let failed = |message| Error::new(Kind::RemoteFailed, message);
        Err(match (refused, broken) {
            (Some(why), _) => {
                failed("the remote server refused our signature").caused_by(RemoteError::Answer(why))
            }
            (None, Some(why)) => failed("the remote server sent a broken answer").caused_by(why),
            (None, None) if not_found => Error::not_found(),
            (None, None) => failed("the remote server has no media endpoint that this server knows"),
        })
    }

    /// One rung: a family, and whether it has given media of this server before.
    fn attempt(&self, mxc: &Mxc, wish: Wish, (family, is_proven): (Family, bool)) -> Attempt {
        let Mxc { server_name, media_id } = mxc;
        // The remote's "not yet" must come before our patience ends.
        let rules = self.rules.get();
        let ms = wish.timeout.min(rules.patience.saturating_sub(MARGIN)).as_millis();
        let reading = Reading { family, is_proven, outbound: &rules.outbound, max_size: wish.max_size };
        let ask = |path: &str, key| match self.ask(server_name, path, key) {
            Ok(answer) => reading.read(answer),
            Err(error) => Attempt::Down(error),
        };
        let signing_key = self.signing_key();
        let signed = Some(&*signing_key);
        match family {
            Family::Msc1902 => self.either(server_name, |version| {
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

    /// Asks under MSC1902's stable version, and once a day under its unstable one, which servers are to use before the proposal is
    /// released. One that has the endpoint there is asked there first.
    fn either(&self, server_name: &ServerName, ask: impl Fn(&str) -> Attempt) -> Attempt {
        let now = (self.monotonic)();
        let known = self.unstable.get(server_name).filter(|(_, until)| now < *until);
        let remember =
            |has_it| self.unstable.insert(server_name.clone(), (has_it, now.after(UNSTABLE_LIFETIME)));
        if let Some((true, _)) = known {
            let answer = ask(UNSTABLE);
            if !matches!(answer, Attempt::UnknownEndpoint) {
                return answer;
            }
            self.unstable.remove(server_name);
        }
        let stable = ask(STABLE);
        if known.is_some() || !matches!(stable, Attempt::UnknownEndpoint | Attempt::NotFound) {
            return stable;
        }
        let unstable = ask(UNSTABLE);
        match (&stable, &unstable) {
            // What a server says of other media than this, under a path that it may not know, is only believed when it is good.
            (_, Attempt::Media(_) | Attempt::Told(_)) | (Attempt::UnknownEndpoint, Attempt::NotFound) => {
                remember(true);
                unstable
            }
            // A path that a proxy drops is no sign that the server is down: the next family finds out.
            _ => {
                remember(false);
                stable
            }
        }
    }

    /// The family that gave this server's media lately, if it is still among the configured ones. A catalog that does not know
    /// costs a few questions, never the media.
    fn proven_family(&self, server_name: &ServerName) -> Option<Family> {
        let family = self.known_family(server_name).unwrap_or_else(|error| {
            tracing::warn!(%server_name, ?error, "the endpoint family of a server cannot be looked up");
            None
        });
        family.filter(|family| self.rules.get().families.contains(family))
    }

    /// Remembers that a family gave media, if it can be. The day counts from the first time, so that better families get their
    /// chance.
    fn remember_family(&self, server_name: &ServerName, family: Family) {
        let remembered = match self.known_family(server_name) {
            Ok(Some(known)) if known == family => Ok(()),
            Ok(_) | Err(_) => self.catalog.put_family(server_name, family, (self.clock)()),
        };
        if let Err(error) = remembered {
            tracing::warn!(%server_name, ?family, ?error, "the endpoint family of a server cannot be remembered");
        }
    }

    /// What the catalog knows of a server's family and is not too old.
    fn known_family(&self, server_name: &ServerName) -> Result<Option<Family>> {
        let known = self.catalog.family(server_name)?;
        let counts = |proven: Timestamp| {
            Expiry::at(proven.after(FAMILY_LIFETIME)).lies_ahead((self.clock)(), FAMILY_LIFETIME)
        };
        Ok(known.filter(|(_, proven)| counts(*proven)).map(|(family, _)| family))
    }
}

/// A server that does not answer, or with its own failure.
fn down(mxc: &Mxc, cause: RemoteError) -> Error {
    let message = match &cause {
        RemoteError::Answer(_) => format!("{} answered with an error", mxc.server_name),
        RemoteError::Outbound(_) | RemoteError::Homeserver(_) | RemoteError::BackingOff(_) => {
            format!("cannot reach {}", mxc.server_name)
        }
    };
    Error::new(Kind::RemoteFailed, message).caused_by(cause)
}
