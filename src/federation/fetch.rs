//! The outbound ladder: which endpoint family of a server gives the media.
//!
//! Owns the order of attempts, the memory of what worked, and what the client is told. Refuses to know where the bytes go.
//! [MSC3916](https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/3916-authentication-for-media.md),
//! MSC1902, and the legacy routes.

use std::time::Duration;

use super::answer::{Attempt, RemoteMedia, limited};
use super::backoff::Wait;
use super::{Federation, RemoteError, Vain, left_alone, too_large};
use crate::config::Family;
use crate::error::{Error, Kind, Result};
use crate::matrix::{Mxc, ServerName};

/// How much sooner than us the remote is told to give up waiting for an upload.
const MARGIN: Duration = Duration::from_secs(5);

/// How long a family that worked is tried first; after that the order is tried from its top, for the server may have learned.
const FAMILY_LIFETIME: Duration = Duration::from_hours(24);

/// How long media that was asked for in vain is not asked for again.
const VAIN_LIFETIME: Duration = Duration::from_mins(10);

impl Federation {
    /// Finds `mxc` at its origin, which is another server, waiting there up to `timeout` for a pending upload. Blocks.
    ///
    /// # Errors
    /// `NotFound` when the origin says so, `Forbidden` when configuration excludes it, `NotYetUploaded`, `LimitExceeded`,
    /// `RemoteTooLarge`, and `RemoteFailed` for everything else, each saying whose fault it was.
    pub(crate) fn fetch(&self, mxc: &Mxc, timeout: Duration) -> Result<RemoteMedia> {
        let server_name = &mxc.server_name;
        self.policy.check(server_name)?;
        self.check_standing()?;
        let now = (self.clock)();
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
        let outcome = self.climb(mxc, timeout);
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
        self.in_vain.insert(mxc.clone(), (Vain::TooLarge, (self.clock)().after(VAIN_LIFETIME)));
    }

    /// Notes that a server sent a whole file.
    pub(crate) fn sent_whole(&self, server_name: &ServerName) {
        self.backoff.alive(server_name);
    }

    /// Notes that a server broke off in the middle of a file.
    pub(crate) fn broke_off(&self, server_name: &ServerName) {
        self.backoff.failed(server_name, (self.clock)());
    }

    /// Tries the families until one gives the media or an answer that settles the matter.
    fn climb(&self, mxc: &Mxc, timeout: Duration) -> Result<RemoteMedia> {
        let proven = self.proven_family(mxc)?;
        let mut rungs: Vec<Family> = proven.into_iter().collect();
        rungs.extend(self.families.iter().filter(|family| Some(**family) != proven));
        let mut not_found = false;
        let mut refused = None;
        for family in rungs {
            // After a word from an endpoint that is there, only the unsigned route can say anything new: split deployments
            // answer the signed ones from an empty store.
            let has_signed_family = proven.is_some_and(|family| family != Family::Legacy);
            let settled = refused.is_some() || (not_found && has_signed_family);
            if settled && family != Family::Legacy {
                continue;
            }
            match self.attempt(family, mxc, timeout) {
                Attempt::Media(media) => {
                    // What the unsigned route gives a server whose signed one has spoken is old media, not the rule.
                    if !settled {
                        self.remember_family(mxc, family)?;
                    }
                    return Ok(media);
                }
                Attempt::UnknownEndpoint => {
                    tracing::debug!(%mxc, ?family, "the remote server lacks the endpoint");
                }
                Attempt::NotFound => not_found = true,
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
                    self.backoff.failed(&mxc.server_name, (self.clock)());
                    return Err(down(mxc, cause));
                }
            }
        }
        // Media is a sign of life only when it was sent whole, any other answer at once.
        self.backoff.alive(&mxc.server_name);
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
    fn attempt(&self, family: Family, mxc: &Mxc, timeout: Duration) -> Attempt {
        let Mxc { server_name, media_id } = mxc;
        // The remote's "not yet" must come before our patience ends.
        let ms = timeout.min(self.patience.saturating_sub(MARGIN)).as_millis();
        let signing_key = self.signing_key();
        let signed = Some(&*signing_key);
        let ask = |path: String, key| match self.ask(server_name, &path, key) {
            Ok(answer) => Attempt::read(family, answer, &self.outbound),
            Err(error) => Attempt::Down(error),
        };
        match family {
            Family::Msc1902 => {
                let path = "/_matrix/federation/v1/remote_media/download";
                ask(format!("{path}/{server_name}/{media_id}?allow_remote=false&timeout_ms={ms}"), signed)
            }
            // Never `allow_remote` here: Dendrite answers it with an empty 404.
            Family::Msc3916 => {
                ask(format!("/_matrix/federation/v1/media/download/{media_id}?timeout_ms={ms}"), signed)
            }
            Family::Legacy => {
                let query = format!("{server_name}/{media_id}?allow_remote=false&timeout_ms={ms}");
                let v3 = ask(format!("/_matrix/media/v3/download/{query}&allow_redirect=true"), None);
                // Servers from before v3.
                let is_old = matches!(v3, Attempt::UnknownEndpoint);
                if is_old { ask(format!("/_matrix/media/r0/download/{query}"), None) } else { v3 }
            }
        }
    }

    /// The family that gave this server's media lately, if it is still among the configured ones.
    fn proven_family(&self, mxc: &Mxc) -> Result<Option<Family>> {
        let now = (self.clock)();
        let remembered =
            self.catalog.family(&mxc.server_name)?.filter(|(_, at)| now < at.after(FAMILY_LIFETIME));
        Ok(remembered.map(|(family, _)| family).filter(|family| self.families.contains(family)))
    }

    /// Remembers that a family gave media. The day counts from the first time, so that better families get their chance.
    fn remember_family(&self, mxc: &Mxc, family: Family) -> Result<()> {
        let now = (self.clock)();
        match self.catalog.family(&mxc.server_name)? {
            Some((known, at)) if known == family && now < at.after(FAMILY_LIFETIME) => Ok(()),
            _ => self.catalog.put_family(&mxc.server_name, family, now),
        }
    }
}

/// A server that does not answer, or with its own failure.
fn down(mxc: &Mxc, cause: RemoteError) -> Error {
    let message = match &cause {
        RemoteError::Answer(_) => format!("{} answered with an error", mxc.server_name),
        RemoteError::Outbound(_) | RemoteError::BackingOff(_) => format!("cannot reach {}", mxc.server_name),
    };
    Error::new(Kind::RemoteFailed, message).caused_by(cause)
}
