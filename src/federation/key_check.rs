//! Whether the key we sign with is the one our homeserver publishes.
//!
//! Other servers verify our requests with the key that the homeserver publishes at `/_matrix/key/v2/server`. Signed with another key,
//! every request would be refused.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};

use serde::Deserialize;

use super::{Federation, LoadedKey, SigningKey};
use crate::accounts::homeserver::{HomeserverClient, HomeserverError};
use crate::error::{Error, Kind, Result};
use crate::matrix::ServerName;

/// Largest key document, bytes.
const MAX_DOCUMENT: u64 = 64 * 1024;

/// Where a homeserver publishes its keys.
const KEY_PATH: &str = "/_matrix/key/v2/server";

/// The outcome of comparing our key with the published one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyCheck {
    /// The homeserver could not be asked, for this reason. Requests are signed all the same: usually the key is right.
    Unknown(String),
    /// Our key is published.
    Matches,
    /// It is not: what differs, and how to fix it.
    Differs(String),
}

/// What of `/_matrix/key/v2/server` matters here. Its signatures do not: it comes from the homeserver that the operator named.
#[derive(Deserialize)]
struct PublishedKeys {
    server_name: String,
    verify_keys: BTreeMap<String, PublishedKey>,
}

#[derive(Deserialize)]
struct PublishedKey {
    /// Unpadded base64.
    key: String,
}

impl Federation {
    /// Compares our key with the published one and remembers the outcome. While they differ the key file is read again, so that
    /// putting the right key there is enough. Blocks.
    pub(crate) fn check_own_key(&self) -> KeyCheck {
        let mut found = self.compare_key();
        if matches!(found, KeyCheck::Differs(_)) && self.reload_key() {
            found = self.compare_key();
        }
        let mut remembered = self.key_check.write().unwrap_or_else(PoisonError::into_inner);
        // A homeserver that cannot be asked has not taken back what it said.
        if matches!((&*remembered, &found), (KeyCheck::Differs(_), KeyCheck::Unknown(_))) {
            return remembered.clone();
        }
        if *remembered != found {
            match &found {
                KeyCheck::Unknown(why) => {
                    tracing::warn!(why, "cannot compare the signing key with the homeserver's");
                }
                KeyCheck::Matches => {
                    let signing_key = self.signing_key();
                    tracing::info!(key_id = signing_key.key_id(), "the signing key is the homeserver's");
                }
                KeyCheck::Differs(what) => tracing::error!("{what}"),
            }
            remembered.clone_from(&found);
        }
        found
    }

    /// What is wrong with our key, if the last check found a difference and a new one does too. Blocks.
    pub(crate) fn key_problem(&self) -> Option<String> {
        let known = self.key_check.read().unwrap_or_else(PoisonError::into_inner).clone();
        let now = if matches!(known, KeyCheck::Differs(_)) { self.check_own_key() } else { known };
        match now {
            KeyCheck::Differs(what) => Some(what),
            KeyCheck::Matches | KeyCheck::Unknown(_) => None,
        }
    }

    fn compare_key(&self) -> KeyCheck {
        let (key, renew) = (self.signing_key(), self.key_file.how_to_renew());
        check_published_key(&self.homeserver, &self.server_name, &key, renew)
    }

    /// Reads the key file again. `true` when it holds another key, which is in use from then on.
    fn reload_key(&self) -> bool {
        let LoadedKey { key, warning } = match self.key_file.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(%error, "the signing key cannot be reloaded");
                return false;
            }
        };
        let old = self.signing_key();
        if (key.key_id(), key.public_key()) == (old.key_id(), old.public_key()) {
            return false;
        }
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        tracing::info!(key_id = key.key_id(), "the signing key was reloaded");
        *self.signing_key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        true
    }

    /// Refuses outbound work that needs our signature while the keys differ.
    pub(super) fn require_matching_key(&self) -> Result<()> {
        match &*self.key_check.read().unwrap_or_else(PoisonError::into_inner) {
            KeyCheck::Unknown(_) | KeyCheck::Matches => Ok(()),
            KeyCheck::Differs(_) => Err(Error::new(
                Kind::RemoteFailed,
                "this server cannot sign its requests: its signing key is not the one its homeserver publishes",
            )),
        }
    }
}

/// Why the homeserver's published key could not be read.
#[derive(Debug, thiserror::Error)]
enum PublishedKeyError {
    #[error(transparent)]
    Homeserver(#[from] HomeserverError),
    #[error("status {0} for {KEY_PATH}")]
    Status(u16),
    #[error(transparent)]
    Body(#[from] io::Error),
    #[error("{KEY_PATH}: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Compares `key` with what the homeserver of `server_name` publishes. `renew` says how a running service takes another key.
pub(crate) fn check_published_key(
    homeserver: &HomeserverClient,
    server_name: &ServerName,
    key: &SigningKey,
    renew: &str,
) -> KeyCheck {
    let published = match read_published(homeserver) {
        Ok(published) => published,
        Err(error) => return KeyCheck::Unknown(error.to_string()),
    };
    if published.server_name != server_name.as_str() {
        return KeyCheck::Differs(format!(
            "the homeserver calls itself {}, server_name says {server_name}: set server_name to the name in user IDs and restart",
            published.server_name
        ));
    }
    let (ours, key_id) = (key.public_key(), key.key_id());
    if published.verify_keys.get(key_id).is_some_and(|theirs| theirs.key.trim_end_matches('=') == ours) {
        return KeyCheck::Matches;
    }
    let theirs: Vec<_> = published.verify_keys.iter().map(|(id, key)| format!("{id} {}", key.key)).collect();
    KeyCheck::Differs(format!(
        "the signing key here is {key_id} {ours}, the homeserver publishes {}: import the homeserver's key with \
         `media-sidecar key import --force FILE`; {renew}",
        theirs.join(", ")
    ))
}

fn read_published(homeserver: &HomeserverClient) -> std::result::Result<PublishedKeys, PublishedKeyError> {
    let answer = homeserver.get(KEY_PATH, None)?;
    if answer.status() != 200 {
        return Err(PublishedKeyError::Status(answer.status()));
    }
    let body = answer.read_at_most(MAX_DOCUMENT)?.unwrap_or_default();
    Ok(serde_json::from_slice(&body)?)
}
