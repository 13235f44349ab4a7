//! Verify keys of other servers: fetched from the server itself, checked, remembered in the catalog.
//!
//! Owns validity. `old_verify_keys` are not even read: they verify events, never requests.
//! [Spec, publishing keys](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys).

use std::time::Duration;

use serde::Deserialize;

use super::signed_json::{self, Object};
use super::signing_key::is_version;
use super::{Federation, RemoteError};
use crate::catalog::StoredKey;
use crate::error::{Error, Kind, Result};
use crate::matrix::{ServerName, Timestamp};

/// Largest key document, bytes.
const MAX_DOCUMENT: u64 = 64 * 1024;

/// Longest validity of a key after it was fetched (spec, `valid_until_ts`).
const MAX_VALIDITY: Duration = Duration::from_hours(168);

/// How often a server may be asked again because a request names a key it did not publish.
const REFETCH_AFTER: Duration = Duration::from_mins(1);

/// What `/_matrix/key/v2/server` answers, as far as it matters here.
#[derive(Debug, Deserialize)]
struct KeyDocument {
    /// Whose keys.
    server_name: String,
    /// Keys in use.
    verify_keys: std::collections::BTreeMap<String, VerifyKey>,
    /// When the list should be fetched again.
    valid_until_ts: i64,
    /// Server → key ID → signature.
    signatures: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>,
}

/// One key of a [`KeyDocument`].
#[derive(Debug, Deserialize)]
struct VerifyKey {
    /// Unpadded base64.
    key: String,
}

impl Federation {
    /// The key `key_id` of `server_name`, remembered or fetched. Blocks.
    ///
    /// # Errors
    /// `BadSignature` when the server has no such key or its keys cannot be had: the request cannot be trusted.
    pub(super) fn verify_key(&self, server_name: &ServerName, key_id: &str) -> Result<[u8; 32]> {
        let now = (self.clock)();
        let known = self.catalog.server_keys(server_name)?;
        let usable = |keys: &[StoredKey]| {
            let key = keys.iter().find(|key| key.key_id == key_id && now < key.valid_until);
            key.map(|key| key.public_key)
        };
        if let Some(key) = usable(&known) {
            return Ok(key);
        }
        let unknown = || Error::new(Kind::BadSignature, format!("{server_name} has no signing key {key_id}"));
        if known.iter().any(|key| now < key.valid_until && now < key.fetched.after(REFETCH_AFTER)) {
            return Err(unknown());
        }
        let fetched = self.fetch_keys(server_name, now).map_err(|error| {
            Error::new(Kind::BadSignature, format!("the signing keys of {server_name} cannot be fetched"))
                .caused_by(error)
        })?;
        self.catalog.put_server_keys(server_name, fetched.clone())?;
        usable(&fetched).ok_or_else(unknown)
    }

    /// Asks a server for its keys and checks the answer.
    fn fetch_keys(
        &self,
        server_name: &ServerName,
        now: Timestamp,
    ) -> std::result::Result<Vec<StoredKey>, RemoteError> {
        let answer = self.ask(server_name, "/_matrix/key/v2/server", None)?;
        if answer.status() != 200 {
            return Err(RemoteError::Answer(format!("status {} for the key document", answer.status())));
        }
        let body =
            answer.read_at_most(MAX_DOCUMENT).map_err(|error| RemoteError::Answer(error.to_string()))?;
        let body = body.ok_or_else(|| RemoteError::Answer("the key document is too large".to_owned()))?;
        check_document(&body, server_name, now)
            .map_err(|why| RemoteError::Answer(format!("key document: {why}")))
    }
}

/// The keys of a document that proves itself: for the right server, signed with at least one key it lists, and every signature
/// by a listed key good.
pub(super) fn check_document(
    body: &[u8],
    server_name: &ServerName,
    now: Timestamp,
) -> std::result::Result<Vec<StoredKey>, &'static str> {
    let object: Object = serde_json::from_slice(body).map_err(|_json| "not a JSON object")?;
    let document: KeyDocument =
        serde_json::from_slice(body).map_err(|_json| "fields are missing or mistyped")?;
    if document.server_name != server_name.as_str() {
        return Err("for another server");
    }
    let message = signed_json::signable(&object).ok_or("numbers without a canonical form")?;
    let valid_until = Timestamp(document.valid_until_ts).min(now.after(MAX_VALIDITY));
    let signatures = document.signatures.get(server_name.as_str());
    let mut proven = false;
    let mut keys = Vec::new();
    for (key_id, key) in &document.verify_keys {
        let Some(version) = key_id.strip_prefix("ed25519:") else { continue };
        let public_key = signed_json::decode_base64(&key.key).and_then(|bytes| bytes.try_into().ok());
        let Some(public_key) = public_key.filter(|_| is_version(version)) else { continue };
        if let Some(signature) = signatures.and_then(|signatures| signatures.get(key_id)) {
            if !signed_json::verifies(&public_key, &message, signature) {
                return Err("a signature is wrong");
            }
            proven = true;
        }
        keys.push(StoredKey { key_id: key_id.clone(), public_key, valid_until, fetched: now });
    }
    if proven { Ok(keys) } else { Err("not signed with a key it lists") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::signing_key::{SigningKey, tests::VECTOR};
    use super::*;

    /// A document of `example.org`, signed after `edit`.
    fn document(edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let key = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        let mut document = json!({
            "server_name": "example.org",
            "verify_keys": {"ed25519:1": {"key": key.public_key()}},
            "old_verify_keys": {"ed25519:old": {"key": key.public_key(), "expired_ts": 1}},
            "valid_until_ts": 5000,
        });
        edit(&mut document);
        let message = signed_json::signable(document.as_object().unwrap()).unwrap();
        document["signatures"] = json!({"example.org": {"ed25519:1": key.sign(&message)}});
        serde_json::to_vec(&document).unwrap()
    }

    fn check(body: &[u8]) -> std::result::Result<Vec<StoredKey>, &'static str> {
        check_document(body, &ServerName::parse("example.org").unwrap(), Timestamp(1000))
    }

    #[test]
    fn a_good_document_gives_its_verify_keys_and_no_old_ones() {
        let keys = check(&document(|_| {})).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].key_id.as_str(), keys[0].valid_until), ("ed25519:1", Timestamp(5000)));
    }

    #[test]
    fn validity_is_capped_at_seven_days() {
        let keys =
            check(&document(|document| document["valid_until_ts"] = json!(9_000_000_000_000_i64))).unwrap();
        assert_eq!(keys[0].valid_until, Timestamp(1000).after(MAX_VALIDITY));
    }

    #[test]
    fn documents_that_do_not_prove_themselves_are_refused() {
        assert_eq!(check(b"[]"), Err("not a JSON object"));
        assert_eq!(check(b"{}"), Err("fields are missing or mistyped"));
        assert_eq!(
            check(&document(|document| document["server_name"] = json!("evil.org"))),
            Err("for another server")
        );
        let text = String::from_utf8(document(|_| {})).unwrap();
        assert_eq!(check(text.replace("5000", "6000").as_bytes()), Err("a signature is wrong"));
        let renamed = |document: &mut serde_json::Value| {
            let key = document["verify_keys"]["ed25519:1"].take();
            document["verify_keys"] = json!({"ed25519:2": key});
        };
        assert_eq!(check(&document(renamed)), Err("not signed with a key it lists"));
    }
}
