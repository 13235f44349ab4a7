//! Verify keys of other servers: from the server itself, else from a notary; checked, remembered in the catalog.
//!
//! Owns validity. `old_verify_keys` are not even read: they verify events, never requests.
//! [Spec, publishing keys](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys),
//! [querying through another server](https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::backoff::Wait;
use super::signed_json::{self, Object};
use super::signing_key::is_version;
use super::{Federation, RemoteError};
use crate::error::{Error, Kind, Result};
use crate::matrix::{Expiry, ServerName, Timestamp};
use crate::outbound::OutboundResponse;
use crate::store::catalog::StoredKey;

/// Largest key document, bytes.
const MAX_DOCUMENT: u64 = 64 * 1024;

/// Longest validity of a key after it was fetched (spec, `valid_until_ts`).
const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// Most keys taken from one document.
const MAX_KEYS: usize = 16;

/// Most documents of one server looked at in a notary's answer.
const MAX_DOCUMENTS: usize = 16;

/// How often a server may be asked again because a request names a key it did not publish.
const REFETCH_AFTER: Duration = Duration::from_mins(1);

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownKey {
    /// It is good.
    Good {
        /// Raw public key.
        public_key: [u8; 32],
        /// Whether its validity nears its end, so that it should be fetched anew.
        is_aging: bool,
    },
    /// The server must be asked.
    Missing,
}

/// What `/_matrix/key/v2/server` answers, as far as it matters here.
#[derive(Debug, Deserialize)]
struct KeyDocument {
    /// Whose keys.
    server_name: String,
    /// Keys in use.
    verify_keys: BTreeMap<String, VerifyKey>,
    /// When the list should be fetched again.
    valid_until_ts: i64,
    /// Server → key ID → signature.
    signatures: BTreeMap<String, BTreeMap<String, String>>,
}

/// One key of a [`KeyDocument`].
#[derive(Debug, Deserialize)]
struct VerifyKey {
    /// Unpadded base64.
    key: String,
}

/// A notary's answer.
#[derive(Debug, Deserialize)]
struct Testimony {
    /// Key documents, signed by their server and by the notary.
    server_keys: Vec<Object>,
}

impl Federation {
    /// What is known of the key `key_id` of `server_name`.
    ///
    /// # Errors
    /// `BadSignature` when the server was asked a moment ago and has no such key.
    pub(super) fn known_key(&self, server_name: &ServerName, key_id: &str) -> Result<KnownKey> {
        let now = (self.clock)();
        let keys = self.keys_at_hand(server_name)?;
        if let Some(key) = keys.iter().find(|key| key.key_id == key_id && is_valid(key, now)) {
            let lifetime = key.fetched.until(key.valid_until.time());
            let is_aging = key.valid_until.left(now, MAX_VALIDITY) < lifetime.div_f32(5.0);
            return Ok(KnownKey::Good { public_key: key.public_key, is_aging });
        }
        if keys.iter().any(|key| is_valid(key, now) && is_fresh(key, now)) {
            return Err(Error::new(Kind::BadSignature, format!("{server_name} has no signing key {key_id}")));
        }
        Ok(KnownKey::Missing)
    }

    /// Asks for the keys of `server_name` and remembers them: the server itself, then our homeserver, which probably knows
    /// them, then the configured notaries. One that fails is left alone for a while. Blocks, for half as long again as one
    /// exchange may take: whoever names a slow server as the origin of a request keeps a thread busy for that long.
    ///
    /// # Errors
    /// `BadSignature`: requests of this server cannot be trusted.
    pub(crate) fn refresh_keys(&self, server_name: &ServerName) -> Result<()> {
        let now = (self.clock)();
        let unavailable =
            || Error::new(Kind::BadSignature, format!("the signing keys of {server_name} cannot be fetched"));
        if let Some(Wait::Failing(wait)) = self.key_backoff.wait(server_name, (self.monotonic)()) {
            return Err(unavailable().caused_by(RemoteError::BackingOff(wait)));
        }
        let started = Instant::now();
        let until = started.checked_add(self.rules.get().small_patience).unwrap_or(started);
        let direct = self.ask_small(server_name, "/_matrix/key/v2/server", until).and_then(read_document);
        let direct = direct.and_then(|document| check(&document, server_name, now));
        let found = direct.or_else(|error| {
            tracing::debug!(%server_name, error = error.to_string(), "asking notaries for its keys");
            let until = until.checked_add(self.rules.get().small_patience.div_f32(2.0)).unwrap_or(until);
            self.ask_notaries(server_name, now, until).ok_or(error)
        });
        match found {
            Ok(keys) => {
                self.key_backoff.alive(server_name);
                self.remember_keys(server_name, keys);
                Ok(())
            }
            Err(error) => {
                self.key_backoff.failed(server_name, (self.monotonic)());
                Err(unavailable().caused_by(error))
            }
        }
    }

    /// The keys of a server that are remembered, valid or not.
    fn keys_at_hand(&self, server_name: &ServerName) -> Result<Vec<StoredKey>> {
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

    /// The keys of `server_name` by the word of the first notary that has them before `until`.
    fn ask_notaries(
        &self,
        server_name: &ServerName,
        now: Timestamp,
        until: Instant,
    ) -> Option<Vec<StoredKey>> {
        let path = format!("/_matrix/key/v2/query/{server_name}?minimum_valid_until_ts={}", now.0);
        // It may ask the server itself, as patiently as we did: some time stays for the others.
        let asked = Instant::now();
        let half = until.saturating_duration_since(asked).div_f32(2.0);
        let half = if self.rules.get().notaries.is_empty() {
            until
        } else {
            asked.checked_add(half).unwrap_or(until)
        };
        let homeserver = self.homeserver.get_until(&path, half).map_err(RemoteError::from);
        let signing_key = self.signing_key();
        let own_key =
            signed_json::decode_base64(&signing_key.public_key()).and_then(|key| key.try_into().ok());
        let own_keys: Vec<_> =
            own_key.map(|key| (signing_key.key_id().to_owned(), key)).into_iter().collect();
        let by_homeserver =
            homeserver.and_then(|answer| testimony(answer, server_name, &self.server_name, &own_keys, now));
        by_homeserver.ok().or_else(|| {
            self.rules.get().notaries.iter().filter(|notary| *notary != server_name).find_map(|notary| {
                let keys = self.keys_of_notary(notary, now, until)?;
                let answer = self.ask_small(notary, &path, until);
                let found = answer.and_then(|answer| testimony(answer, server_name, notary, &keys, now));
                found.inspect_err(|error| tracing::debug!(%notary, %server_name, error = error.to_string(), "no testimony")).ok()
            })
        })
    }

    /// A notary's own keys: remembered, else from the notary itself.
    fn keys_of_notary(
        &self,
        notary: &ServerName,
        now: Timestamp,
        until: Instant,
    ) -> Option<Vec<(String, [u8; 32])>> {
        let good = |keys: Vec<StoredKey>| {
            let good = keys.into_iter().filter(|key| is_valid(key, now));
            Some(good.map(|key| (key.key_id, key.public_key)).collect::<Vec<_>>())
                .filter(|keys| !keys.is_empty())
        };
        if let Some(keys) = self.keys_at_hand(notary).ok().and_then(good) {
            return Some(keys);
        }
        let document =
            self.ask_small(notary, "/_matrix/key/v2/server", until).and_then(read_document).ok()?;
        let keys = check(&document, notary, now).ok()?;
        self.remember_keys(notary, keys.clone());
        good(keys)
    }
}

/// Whether a remembered key may be used. One that seems to be fetched in the future was fetched by a clock that was wrong.
fn is_valid(key: &StoredKey, now: Timestamp) -> bool {
    key.fetched <= now && key.valid_until.lies_ahead(now, MAX_VALIDITY)
}

/// Whether its server was asked a moment ago.
fn is_fresh(key: &StoredKey, now: Timestamp) -> bool {
    key.fetched <= now && now < key.fetched.after(REFETCH_AFTER)
}

/// The JSON object of a good answer.
fn read_document(answer: OutboundResponse) -> std::result::Result<Object, RemoteError> {
    let complain = |why: &str| RemoteError::Answer(format!("key document: {why}"));
    if answer.status() != 200 {
        return Err(complain(&format!("status {}", answer.status())));
    }
    let body = answer.read_at_most(MAX_DOCUMENT).map_err(|error| complain(&error.to_string()))?;
    let body = body.ok_or_else(|| complain("too large"))?;
    serde_json::from_slice(&body).map_err(|_json| complain("not a JSON object"))
}

/// The keys a notary testifies to: its answer must carry its own signature with one of `notary_keys`, and prove itself as any
/// document does.
fn testimony(
    answer: OutboundResponse,
    server_name: &ServerName,
    notary: &ServerName,
    notary_keys: &[(String, [u8; 32])],
    now: Timestamp,
) -> std::result::Result<Vec<StoredKey>, RemoteError> {
    check_testimony(read_document(answer)?, server_name, notary, notary_keys, now)
        .map_err(|why| RemoteError::Answer(format!("notary {notary}: {why}")))
}

/// The keys that a notary's answer testifies to. Synapse gives a document for each key it stored, some of them out of date: the
/// first good one counts.
pub(crate) fn check_testimony(
    answer: Object,
    server_name: &ServerName,
    notary: &ServerName,
    notary_keys: &[(String, [u8; 32])],
    now: Timestamp,
) -> std::result::Result<Vec<StoredKey>, &'static str> {
    let testimony: Testimony = serde_json::from_value(Value::Object(answer)).map_err(|_json| "malformed")?;
    let name = Value::from(server_name.as_str());
    let documents = testimony.server_keys.iter().filter(|keys| keys.get("server_name") == Some(&name));
    let mut found = Err("does not know this server");
    for document in documents.take(MAX_DOCUMENTS) {
        found = check_copy(document, notary, notary_keys)
            .and_then(|()| check_document(document, server_name, now));
        if found.is_ok() {
            break;
        }
    }
    found
}

/// Whether a notary signed a document with one of its keys.
fn check_copy(
    document: &Object,
    notary: &ServerName,
    notary_keys: &[(String, [u8; 32])],
) -> std::result::Result<(), &'static str> {
    let message = signed_json::signable(document).ok_or("numbers without a canonical form")?;
    let signature_with =
        |key_id: &str| document.get("signatures")?.get(notary.as_str())?.get(key_id)?.as_str();
    let is_signed = notary_keys.iter().any(|(key_id, key)| {
        signature_with(key_id).is_some_and(|signature| signed_json::verifies(key, &message, signature))
    });
    if is_signed { Ok(()) } else { Err("its signature is missing or wrong") }
}

/// [`check_document`], for the journal.
fn check(
    document: &Object,
    server_name: &ServerName,
    now: Timestamp,
) -> std::result::Result<Vec<StoredKey>, RemoteError> {
    check_document(document, server_name, now)
        .map_err(|why| RemoteError::Answer(format!("key document: {why}")))
}

/// The keys of a document that proves itself: for the right server, still valid, signed with at least one key it lists, and every
/// signature by a listed key good.
pub(crate) fn check_document(
    object: &Object,
    server_name: &ServerName,
    now: Timestamp,
) -> std::result::Result<Vec<StoredKey>, &'static str> {
    let document: KeyDocument = serde_json::from_value(Value::Object(object.clone()))
        .map_err(|_json| "fields are missing or mistyped")?;
    if document.server_name != server_name.as_str() {
        return Err("for another server");
    }
    let message = signed_json::signable(object).ok_or("numbers without a canonical form")?;
    let valid_until = Timestamp(document.valid_until_ts).min(now.after(MAX_VALIDITY));
    if valid_until <= now {
        return Err("no longer valid");
    }
    let signatures = document.signatures.get(server_name.as_str());
    let mut proven = false;
    let mut keys = Vec::new();
    for (key_id, key) in document.verify_keys.iter().take(MAX_KEYS) {
        let Some(version) = key_id.strip_prefix("ed25519:") else { continue };
        let public_key = signed_json::decode_base64(&key.key).and_then(|bytes| bytes.try_into().ok());
        let Some(public_key) = public_key.filter(|_| is_version(version)) else { continue };
        if let Some(signature) = signatures.and_then(|signatures| signatures.get(key_id)) {
            if !signed_json::verifies(&public_key, &message, signature) {
                return Err("a signature is wrong");
            }
            proven = true;
        }
        let valid_until = Expiry::at(valid_until);
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
    fn document(edit: impl FnOnce(&mut Value)) -> Object {
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
        document.as_object().unwrap().clone()
    }

    fn check(document: &Object) -> std::result::Result<Vec<StoredKey>, &'static str> {
        check_document(document, &ServerName::parse("example.org").unwrap(), Timestamp(1000))
    }

    #[test]
    fn a_good_document_gives_its_verify_keys_and_no_old_ones() {
        let keys = check(&document(|_| {})).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(
            (keys[0].key_id.as_str(), keys[0].valid_until),
            ("ed25519:1", Expiry::at(Timestamp(5000)))
        );
    }

    #[test]
    fn validity_is_capped_at_seven_days() {
        let keys =
            check(&document(|document| document["valid_until_ts"] = json!(9_000_000_000_000_i64))).unwrap();
        assert_eq!(keys[0].valid_until, Expiry::at(Timestamp(1000).after(MAX_VALIDITY)));
    }

    /// Synapse's notary gave an outdated document before the good one, and only the first was looked at.
    #[test]
    fn of_several_documents_a_notary_gives_the_first_good_one_counts() {
        let notary = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        let public_key: [u8; 32] =
            signed_json::decode_base64(&notary.public_key()).unwrap().try_into().unwrap();
        let copy = |mut document: Object, is_signed: bool| {
            let signature = notary.sign(&signed_json::signable(&document).unwrap());
            if is_signed {
                document["signatures"]["notary.org"] = json!({"ed25519:1": signature});
            }
            Value::Object(document)
        };
        let outdated = copy(document(|document| document["valid_until_ts"] = json!(999)), true);
        let unsigned = copy(document(|_| {}), false);
        let good = copy(document(|_| {}), true);
        let other = copy(document(|document| document["server_name"] = json!("other.org")), true);
        let testimony = |documents: &[&Value]| {
            let answer = json!({"server_keys": documents}).as_object().unwrap().clone();
            let [server_name, notary] =
                ["example.org", "notary.org"].map(|name| ServerName::parse(name).unwrap());
            check_testimony(
                answer,
                &server_name,
                &notary,
                &[("ed25519:1".to_owned(), public_key)],
                Timestamp(1000),
            )
        };
        assert_eq!(testimony(&[&other, &outdated, &unsigned, &good]).unwrap().len(), 1);
        assert_eq!(testimony(&[&outdated]), Err("no longer valid"));
        assert_eq!(testimony(&[&unsigned]), Err("its signature is missing or wrong"));
        assert_eq!(testimony(&[&other]), Err("does not know this server"));
    }

    #[test]
    fn documents_that_do_not_prove_themselves_are_refused() {
        assert_eq!(check(&Object::new()), Err("fields are missing or mistyped"));
        assert_eq!(
            check(&document(|document| document["server_name"] = json!("evil.org"))),
            Err("for another server")
        );
        assert_eq!(
            check(&document(|document| document["valid_until_ts"] = json!(1000))),
            Err("no longer valid")
        );
        let mut forged = document(|_| {});
        forged.insert("valid_until_ts".to_owned(), json!(6000));
        assert_eq!(check(&forged), Err("a signature is wrong"));
        let renamed = |document: &mut Value| {
            let key = document["verify_keys"]["ed25519:1"].take();
            document["verify_keys"] = json!({"ed25519:2": key});
        };
        assert_eq!(check(&document(renamed)), Err("not signed with a key it lists"));
    }
}
