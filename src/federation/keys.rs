//! Verify keys of other servers: fetched from the server itself, else from a notary, and remembered in the catalog.
//!
//! Owns which server is asked for keys, how long, and how long the keys are good. Refuses to know what a believable document is.

use std::time::{Duration, Instant};

use super::backoff::{Wait, is_ours};
use super::key_document::{MAX_VALIDITY, Notary, NotaryKey, check_document, check_notary_response};
use super::signed_json::{self, Object};
use super::{Federation, RemoteError};
use crate::error::{Error, Kind, Result};
use crate::matrix::{ServerName, Timestamp};
use crate::outbound::OutboundResponse;
use crate::store::catalog::StoredKey;

/// Largest key document, bytes.
const MAX_DOCUMENT: u64 = 64 * 1024;

/// Where every server publishes its keys.
const KEY_PATH: &str = "/_matrix/key/v2/server";

/// How often a server may be asked again because a request names a key it did not publish.
const REFETCH_AFTER: Duration = Duration::from_mins(1);

/// What the catalog knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownKey {
    /// It is valid.
    Good {
        /// Raw public key.
        public_key: [u8; 32],
        /// Less than a fifth of its validity is left: time to fetch it again.
        expires_soon: bool,
    },
    /// It must be fetched.
    Missing,
}

impl Federation {
    /// The key `key_id` of `server_name`, as far as the catalog knows it.
    ///
    /// # Errors
    /// `BadSignature` when the server was asked a moment ago and has no such key.
    pub(super) fn known_key(&self, server_name: &ServerName, key_id: &str) -> Result<KnownKey> {
        let now = (self.clock)();
        let keys = self.stored_keys(server_name)?;
        if let Some(key) = keys.iter().find(|key| key.key_id == key_id && is_valid(key, now)) {
            let lifetime = key.fetched.until(key.valid_until.time());
            let expires_soon = key.valid_until.left(now, MAX_VALIDITY) < lifetime.div_f32(5.0);
            return Ok(KnownKey::Good { public_key: key.public_key, expires_soon });
        }
        if keys.iter().any(|key| is_valid(key, now) && is_fresh(key, now)) {
            return Err(Error::new(Kind::BadSignature, format!("{server_name} has no signing key {key_id}")));
        }
        Ok(KnownKey::Missing)
    }

    /// Whether the server proved once who it is: its keys are known, or it sent a file.
    pub(crate) fn is_proven(&self, server_name: &ServerName) -> Result<bool> {
        Ok(!self.stored_keys(server_name)?.is_empty() || self.catalog.family(server_name)?.is_some())
    }

    /// Fetches the keys of `server_name` and remembers them: from the server itself, then from our homeserver, which probably knows
    /// them, then from the configured notaries. A server whose keys cannot be had is not asked again for a while.
    ///
    /// Blocks for at most one and a half times `small_timeout`. That is also how long anyone can keep a thread busy by naming a slow
    /// server as the origin of a request.
    ///
    /// # Errors
    /// `BadSignature`: requests of this server cannot be verified.
    pub(crate) fn refresh_keys(&self, server_name: &ServerName) -> Result<()> {
        let now = (self.clock)();
        let unavailable =
            || Error::new(Kind::BadSignature, format!("the signing keys of {server_name} cannot be fetched"));
        if let Some(Wait::Failing(wait)) = self.key_backoff.wait(server_name, (self.monotonic)()) {
            return Err(unavailable().caused_by(RemoteError::BackingOff(wait)));
        }
        // Deadlines of network exchanges are the real time that `outbound` measures, not the injected clock.
        let started = Instant::now();
        let small_timeout = self.rules.get().small_timeout;
        let deadline = started.checked_add(small_timeout).unwrap_or(started);
        let direct = self.fetch_own_keys(server_name, now, deadline);
        let found = direct.or_else(|error| {
            tracing::debug!(%server_name, error = error.to_string(), "asking notaries for its keys");
            let deadline = deadline.checked_add(small_timeout.div_f32(2.0)).unwrap_or(deadline);
            self.ask_notaries(server_name, now, deadline).ok_or(error)
        });
        match found {
            Ok(keys) => {
                self.key_backoff.record_success(server_name);
                self.remember_keys(server_name, keys);
                Ok(())
            }
            Err(error) => {
                // A look-up that nobody waits for any more was broken off by ourselves.
                if !is_ours() {
                    self.key_backoff.record_failure(server_name, (self.monotonic)());
                }
                Err(unavailable().caused_by(error))
            }
        }
    }

    /// The keys of a server by its own document.
    fn fetch_own_keys(
        &self,
        server_name: &ServerName,
        now: Timestamp,
        deadline: Instant,
    ) -> std::result::Result<Vec<StoredKey>, RemoteError> {
        let document = read_object(self.ask_small(server_name, KEY_PATH, deadline)?)?;
        Ok(check_document(&document, server_name, now)?)
    }

    /// The remembered keys of a server, valid or not.
    fn stored_keys(&self, server_name: &ServerName) -> Result<Vec<StoredKey>> {
        match self.unstored_keys.get(server_name) {
            Some(keys) => Ok(keys),
            None => self.catalog.server_keys(server_name),
        }
    }

    /// Remembers the keys of a server. While the catalog cannot be written they are kept in memory: they are good all the same.
    fn remember_keys(&self, server_name: &ServerName, keys: Vec<StoredKey>) {
        match self.catalog.put_server_keys(server_name, keys.clone()) {
            Ok(()) => drop(self.unstored_keys.remove(server_name)),
            Err(error) => {
                tracing::warn!(%server_name, ?error, "the keys of a server cannot be stored and stay in memory");
                self.unstored_keys.insert(server_name.clone(), keys);
            }
        }
    }

    /// The keys of `server_name` from the first notary that has them, within the time left until `deadline`.
    fn ask_notaries(
        &self,
        server_name: &ServerName,
        now: Timestamp,
        deadline: Instant,
    ) -> Option<Vec<StoredKey>> {
        let path = format!("/_matrix/key/v2/query/{server_name}?minimum_valid_until_ts={}", now.0);
        let rules = self.rules.get();
        // The homeserver may have to ask the server itself, as long as we did: some time is kept for the other notaries.
        let asked = Instant::now();
        let half = deadline.saturating_duration_since(asked).div_f32(2.0);
        let half =
            if rules.notaries.is_empty() { deadline } else { asked.checked_add(half).unwrap_or(deadline) };
        let response = self.homeserver.get_until(&path, half).map_err(RemoteError::from);
        let by_homeserver = response.and_then(|response| {
            let notary = Notary { name: &self.server_name, keys: &self.own_public_keys() };
            read_notary_response(response, server_name, notary, now)
        });
        by_homeserver.ok().or_else(|| {
            rules.notaries.iter().filter(|notary| *notary != server_name).find_map(|notary| {
                let keys = self.keys_of_notary(notary, now, deadline)?;
                let response = self.ask_small(notary, &path, deadline);
                let signer = Notary { name: notary, keys: &keys };
                response
                    .and_then(|response| read_notary_response(response, server_name, signer, now))
                    .inspect_err(|error| {
                        let error = error.to_string();
                        tracing::debug!(%notary, %server_name, error, "the notary does not give the keys");
                    })
                    .ok()
            })
        })
    }

    /// The key that the homeserver signs with when it is asked as a notary: it is ours too.
    fn own_public_keys(&self) -> Vec<NotaryKey> {
        let signing_key = self.signing_key();
        let public_key = signed_json::decode_base64(&signing_key.public_key());
        let public_key = public_key.and_then(|key| key.try_into().ok());
        public_key.map(|key| (signing_key.key_id().to_owned(), key)).into_iter().collect()
    }

    /// A notary's own keys: remembered ones, else from the notary itself.
    fn keys_of_notary(
        &self,
        notary: &ServerName,
        now: Timestamp,
        deadline: Instant,
    ) -> Option<Vec<NotaryKey>> {
        let valid = |keys: Vec<StoredKey>| {
            let valid = keys.into_iter().filter(|key| is_valid(key, now));
            let keys: Vec<_> = valid.map(|key| (key.key_id, key.public_key)).collect();
            Some(keys).filter(|keys| !keys.is_empty())
        };
        if let Some(keys) = self.stored_keys(notary).ok().and_then(valid) {
            return Some(keys);
        }
        let keys = self.fetch_own_keys(notary, now, deadline).ok()?;
        self.remember_keys(notary, keys.clone());
        valid(keys)
    }
}

/// Whether a remembered key may be used. One that seems to be fetched in the future was fetched by a clock that was wrong.
fn is_valid(key: &StoredKey, now: Timestamp) -> bool {
    key.fetched <= now && key.valid_until.lies_ahead(now, MAX_VALIDITY)
}

/// Whether the server was asked so lately that it is not asked again.
fn is_fresh(key: &StoredKey, now: Timestamp) -> bool {
    key.fetched <= now && now < key.fetched.after(REFETCH_AFTER)
}

/// The JSON object of a response with status 200.
fn read_object(response: OutboundResponse) -> std::result::Result<Object, RemoteError> {
    if response.status() != 200 {
        return Err(RemoteError::status(response.status(), None));
    }
    let body = response.read_at_most(MAX_DOCUMENT).map_err(RemoteError::BrokenOff)?;
    let body = body.ok_or(RemoteError::TooLong(MAX_DOCUMENT))?;
    serde_json::from_slice(&body).map_err(|_json| RemoteError::NotJson)
}

/// The keys of `server_name` in the response of a notary.
fn read_notary_response(
    response: OutboundResponse,
    server_name: &ServerName,
    notary: Notary<'_>,
    now: Timestamp,
) -> std::result::Result<Vec<StoredKey>, RemoteError> {
    check_notary_response(read_object(response)?, server_name, notary, now)
        .map_err(|why| RemoteError::Notary { notary: notary.name.clone(), why })
}
