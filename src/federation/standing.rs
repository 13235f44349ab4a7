//! Whether the key we sign with is the one our homeserver publishes.
//!
//! Other servers verify our requests with what the homeserver publishes at `/_matrix/key/v2/server`; with another key every one
//! of them would be refused.

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

/// What the last comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The homeserver could not be asked, for this reason: we go on in good faith.
    Unknown(String),
    /// The keys are the same.
    Agrees,
    /// They are not. What differs, and the mend.
    Differs(String),
}

/// What of `/_matrix/key/v2/server` matters here. Its signatures do not: it comes from the neighbour the operator named.
#[derive(Deserialize)]
struct Published {
    /// Whose keys.
    server_name: String,
    /// Key ID → key.
    verify_keys: BTreeMap<String, PublishedKey>,
}

/// One published key.
#[derive(Deserialize)]
struct PublishedKey {
    /// Unpadded base64.
    key: String,
}

impl Federation {
    /// Compares our key with the published one and remembers the outcome. While they differ the key file is read again, so that
    /// putting the right key there is enough. Blocks.
    pub(crate) fn compare_published_key(&self) -> Standing {
        let mut standing = self.compare();
        if matches!(standing, Standing::Differs(_)) && self.reread_key() {
            standing = self.compare();
        }
        let mut remembered = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        // A homeserver that cannot be asked has not taken back what it said.
        if matches!((&*remembered, &standing), (Standing::Differs(_), Standing::Unknown(_))) {
            return remembered.clone();
        }
        if *remembered != standing {
            match &standing {
                Standing::Unknown(why) => {
                    tracing::warn!(why, "cannot compare the signing key with the homeserver's");
                }
                Standing::Agrees => {
                    tracing::info!(
                        key_id = self.signing_key().key_id(),
                        "the signing key is the homeserver's"
                    );
                }
                Standing::Differs(what) => tracing::error!("{what}"),
            }
            remembered.clone_from(&standing);
        }
        standing
    }

    /// What is wrong with our key, if it was not the published one and still is not. Blocks.
    pub(crate) fn key_problem(&self) -> Option<String> {
        let known = self.standing.read().unwrap_or_else(PoisonError::into_inner).clone();
        let now = if matches!(known, Standing::Differs(_)) { self.compare_published_key() } else { known };
        match now {
            Standing::Differs(what) => Some(what),
            Standing::Agrees | Standing::Unknown(_) => None,
        }
    }

    /// One comparison.
    fn compare(&self) -> Standing {
        let (key, renew) = (self.signing_key(), self.key_file.how_to_renew());
        compare_published_key(&self.homeserver, &self.server_name, &key, renew)
    }

    /// Takes the key that the file has now, if it is another one. Whether it is.
    fn reread_key(&self) -> bool {
        let LoadedKey { key, warning } = match self.key_file.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(%error, "the signing key cannot be read again");
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
        tracing::info!(key_id = key.key_id(), "the signing key was read again");
        *self.signing_key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        true
    }

    /// Refuses outbound work that needs our signature while the keys differ.
    pub(super) fn check_standing(&self) -> Result<()> {
        match &*self.standing.read().unwrap_or_else(PoisonError::into_inner) {
            Standing::Unknown(_) | Standing::Agrees => Ok(()),
            Standing::Differs(_) => Err(Error::new(
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
pub(crate) fn compare_published_key(
    homeserver: &HomeserverClient,
    server_name: &ServerName,
    key: &SigningKey,
    renew: &str,
) -> Standing {
    let published = match read_published(homeserver) {
        Ok(published) => published,
        Err(error) => return Standing::Unknown(error.to_string()),
    };
    if published.server_name != server_name.as_str() {
        return Standing::Differs(format!(
            "the homeserver calls itself {}, server_name says {server_name}: set server_name to the name in user IDs and restart",
            published.server_name
        ));
    }
    let (ours, key_id) = (key.public_key(), key.key_id());
    if published.verify_keys.get(key_id).is_some_and(|theirs| theirs.key.trim_end_matches('=') == ours) {
        return Standing::Agrees;
    }
    let theirs: Vec<_> = published.verify_keys.iter().map(|(id, key)| format!("{id} {}", key.key)).collect();
    Standing::Differs(format!(
        "the signing key here is {key_id} {ours}, the homeserver publishes {}: import the homeserver's key with \
         `media-sidecar key import --force FILE`; {renew}",
        theirs.join(", ")
    ))
}

fn read_published(homeserver: &HomeserverClient) -> std::result::Result<Published, PublishedKeyError> {
    let answer = homeserver.get(KEY_PATH, None)?;
    if answer.status() != 200 {
        return Err(PublishedKeyError::Status(answer.status()));
    }
    let body = answer.read_at_most(MAX_DOCUMENT)?.unwrap_or_default();
    Ok(serde_json::from_slice(&body)?)
}
