//! Key documents: what `/_matrix/key/v2/server` answers, and a notary's copies of it.
//!
//! Owns the checks that make a document believed. Refuses to know where it was fetched. `old_verify_keys` are not even read: they
//! verify events, never requests.
//! [Spec, publishing keys](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys),
//! [querying through another server](https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::signed_json::{self, Object};
use super::signing_key::is_version;
use crate::matrix::{Expiry, ServerName, Timestamp};
use crate::store::catalog::StoredKey;

/// Longest validity of a key after it was fetched (spec, `valid_until_ts`).
pub(super) const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// Most keys taken from one document.
const MAX_KEYS: usize = 16;

/// Most documents of one server looked at in a notary's response.
const MAX_DOCUMENTS: usize = 16;

/// Why a key document is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyDocumentError {
    /// Not the object that the specification describes.
    #[error("fields are missing or mistyped")]
    Fields,
    /// It names another server.
    #[error("it is another server's")]
    OtherServer,
    /// It contains numbers that canonical JSON cannot have, so nothing can have been signed.
    #[error("numbers without a canonical form")]
    NotCanonical,
    /// Its validity has ended.
    #[error("no longer valid")]
    Expired,
    /// A signature by one of its own keys does not verify.
    #[error("a signature is wrong")]
    WrongSignature,
    /// No signature by one of its own keys.
    #[error("not signed with a key it lists")]
    NotSelfSigned,
}

/// Why a notary's response is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotaryError {
    /// Not the object that the specification describes.
    #[error("its response is malformed")]
    Malformed,
    /// It has no document of this server.
    #[error("it does not know this server")]
    UnknownServer,
    /// A document that the notary did not sign.
    #[error("its signature is missing or wrong")]
    NotSigned,
    /// A document of the server that proves nothing.
    #[error(transparent)]
    Document(#[from] KeyDocumentError),
}

#[derive(Debug, Deserialize)]
struct KeyDocument {
    server_name: String,
    /// Keys in use, by key ID.
    verify_keys: BTreeMap<String, VerifyKey>,
    valid_until_ts: i64,
    /// Server → key ID → signature.
    signatures: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct VerifyKey {
    /// Unpadded base64.
    key: String,
}

#[derive(Debug, Deserialize)]
struct NotaryResponse {
    /// Key documents, each signed by its server and by the notary.
    server_keys: Vec<Object>,
}

/// A key of a notary: its ID and the raw public key.
pub(crate) type NotaryKey = (String, [u8; 32]);

/// A server whose signatures on other servers' keys are believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notary<'a> {
    pub(crate) name: &'a ServerName,
    pub(crate) keys: &'a [NotaryKey],
}

/// The keys of `server_name` in a notary's response, each of which must carry the notary's signature. Synapse sends a document for each
/// key it stored, some of them out of date: the first good one counts.
pub(crate) fn check_notary_response(
    response: Object,
    server_name: &ServerName,
    notary: Notary<'_>,
    now: Timestamp,
) -> Result<Vec<StoredKey>, NotaryError> {
    let response: NotaryResponse =
        serde_json::from_value(Value::Object(response)).map_err(|_json| NotaryError::Malformed)?;
    let name = Value::from(server_name.as_str());
    let documents = response.server_keys.iter().filter(|keys| keys.get("server_name") == Some(&name));
    let mut found = Err(NotaryError::UnknownServer);
    for document in documents.take(MAX_DOCUMENTS) {
        found = check_notary_signature(document, notary)
            .and_then(|()| Ok(check_document(document, server_name, now)?));
        if found.is_ok() {
            break;
        }
    }
    found
}

fn check_notary_signature(document: &Object, notary: Notary<'_>) -> Result<(), NotaryError> {
    let message = signed_json::signable(document).ok_or(KeyDocumentError::NotCanonical)?;
    let signature_with =
        |key_id: &str| document.get("signatures")?.get(notary.name.as_str())?.get(key_id)?.as_str();
    let is_signed = notary.keys.iter().any(|(key_id, key)| {
        signature_with(key_id).is_some_and(|signature| signed_json::verifies(key, &message, signature))
    });
    if is_signed { Ok(()) } else { Err(NotaryError::NotSigned) }
}

/// The keys of a document that proves itself: for the right server, still valid, signed with at least one key it lists, and every
/// signature by a listed key good.
pub(crate) fn check_document(
    object: &Object,
    server_name: &ServerName,
    now: Timestamp,
) -> Result<Vec<StoredKey>, KeyDocumentError> {
    let document: KeyDocument =
        serde_json::from_value(Value::Object(object.clone())).map_err(|_json| KeyDocumentError::Fields)?;
    if document.server_name != server_name.as_str() {
        return Err(KeyDocumentError::OtherServer);
    }
    let message = signed_json::signable(object).ok_or(KeyDocumentError::NotCanonical)?;
    let valid_until = Timestamp(document.valid_until_ts).min(now.after(MAX_VALIDITY));
    if valid_until <= now {
        return Err(KeyDocumentError::Expired);
    }
    let signatures = document.signatures.get(server_name.as_str());
    let mut is_self_signed = false;
    let mut keys = Vec::new();
    for (key_id, key) in document.verify_keys.iter().take(MAX_KEYS) {
        let Some(version) = key_id.strip_prefix("ed25519:") else { continue };
        let public_key = signed_json::decode_base64(&key.key).and_then(|bytes| bytes.try_into().ok());
        let Some(public_key) = public_key.filter(|_| is_version(version)) else { continue };
        if let Some(signature) = signatures.and_then(|signatures| signatures.get(key_id)) {
            if !signed_json::verifies(&public_key, &message, signature) {
                return Err(KeyDocumentError::WrongSignature);
            }
            is_self_signed = true;
        }
        let valid_until = Expiry::at(valid_until);
        keys.push(StoredKey { key_id: key_id.clone(), public_key, valid_until, fetched: now });
    }
    if is_self_signed { Ok(keys) } else { Err(KeyDocumentError::NotSelfSigned) }
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

    fn check(document: &Object) -> Result<Vec<StoredKey>, KeyDocumentError> {
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
        let ask = |documents: &[&Value]| {
            let answer = json!({"server_keys": documents}).as_object().unwrap().clone();
            let [server_name, notary] =
                ["example.org", "notary.org"].map(|name| ServerName::parse(name).unwrap());
            check_notary_response(
                answer,
                &server_name,
                Notary { name: &notary, keys: &[("ed25519:1".to_owned(), public_key)] },
                Timestamp(1000),
            )
        };
        assert_eq!(ask(&[&other, &outdated, &unsigned, &good]).unwrap().len(), 1);
        assert_eq!(ask(&[&outdated]), Err(KeyDocumentError::Expired.into()));
        assert_eq!(ask(&[&unsigned]), Err(NotaryError::NotSigned));
        assert_eq!(ask(&[&other]), Err(NotaryError::UnknownServer));
    }

    #[test]
    fn documents_that_do_not_prove_themselves_are_refused() {
        assert_eq!(check(&Object::new()), Err(KeyDocumentError::Fields));
        assert_eq!(
            check(&document(|document| document["server_name"] = json!("evil.org"))),
            Err(KeyDocumentError::OtherServer)
        );
        assert_eq!(
            check(&document(|document| document["valid_until_ts"] = json!(1000))),
            Err(KeyDocumentError::Expired)
        );
        let mut forged = document(|_| {});
        forged.insert("valid_until_ts".to_owned(), json!(6000));
        assert_eq!(check(&forged), Err(KeyDocumentError::WrongSignature));
        let renamed = |document: &mut Value| {
            let key = document["verify_keys"]["ed25519:1"].take();
            document["verify_keys"] = json!({"ed25519:2": key});
        };
        assert_eq!(check(&document(renamed)), Err(KeyDocumentError::NotSelfSigned));
    }
}
