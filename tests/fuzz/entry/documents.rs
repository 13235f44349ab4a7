//! Targets for documents: the configuration file, well-known documents, signing keys.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::page::line;
use crate::config;
use crate::federation::{self, Object, SigningKey};
use crate::matrix::{ServerName, Timestamp};

/// Parses a configuration file. What is accepted must be printed as a file that is accepted and prints the same.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("/folder/sidecar.yaml");
    match config::load_text(path, text) {
        Ok(loaded) => {
            let printed = loaded.config.to_yaml();
            let again = config::load_text(path, &printed);
            let again = again.unwrap_or_else(|why| panic!("what is printed is refused: {why}\n{printed}"));
            assert_eq!(again.config.to_yaml(), printed, "it prints differently the second time");
        }
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a problem");
            for problem in problems.0 {
                assert!(problem.place.starts_with("/folder/sidecar.yaml"), "{problem}");
                assert!(!problem.message.is_empty(), "{problem}");
            }
        }
    }
}

/// Parses a well-known document. The first line is its `Cache-Control`, and its `Expires`.
pub fn well_known(data: &[u8]) {
    let (header, document) = line(data);
    for (cache_control, expires) in [(Some(header.as_str()), None), (None, Some(header.as_str()))] {
        let lifetime = federation::well_known_lifetime(cache_control, expires, NOW);
        let bounds = Duration::from_mins(5)..=Duration::from_hours(48);
        assert!(bounds.contains(&lifetime), "{lifetime:?}");
    }
    if let Some(name) = federation::read_well_known(document) {
        assert!(ServerName::parse(name.as_str()).is_ok(), "{name}");
    }
}

/// Parses a key document, as the response of its server and of a notary, unchanged and signed with [`KEY`]; and a key file.
pub fn keys(data: &[u8]) {
    if let Ok(key) = SigningKey::parse(data) {
        let version = key.key_id().strip_prefix("ed25519:").unwrap_or_default();
        assert!(version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{}", key.key_id());
        assert!(!version.is_empty(), "a key without a version");
    }
    let Ok(document) = serde_json::from_slice::<Object>(data) else { return };
    canonical(&document);
    let name = document.get("server_name").and_then(Value::as_str).unwrap_or_default();
    let Ok(name) = ServerName::parse(name) else { return };
    accepted(&document, &name);
    let signing_key = SigningKey::parse(KEY).unwrap_or_else(|why| panic!("{why}"));
    let Some(signed) = sign(document, &name, &signing_key) else { return };
    if accepted(&signed, &name) {
        let mut changed = signed;
        changed.insert("changed".to_owned(), true.into());
        assert!(!accepted(&changed, &name), "a document is accepted that was changed after signing");
    }
}

/// Canonical JSON must parse to the same document and be its own canonical form; the signed form must lack the signatures.
fn canonical(document: &Object) {
    let Some(text) = federation::canonical(document) else { return };
    let again: Object = serde_json::from_slice(&text).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(&again, document, "the canonical form is another document");
    assert_eq!(federation::canonical(&again), Some(text), "two canonical forms");
    let signed = federation::signable(document).unwrap_or_default();
    let signed: Object = serde_json::from_slice(&signed).unwrap_or_else(|why| panic!("{why}"));
    assert!(
        !signed.contains_key("signatures") && !signed.contains_key("unsigned"),
        "signatures or `unsigned` are signed"
    );
}

/// Whether the document is accepted from its server. A notary's copy must not be accepted if it is not.
fn accepted(document: &Object, name: &ServerName) -> bool {
    let signing_key = SigningKey::parse(KEY).unwrap_or_else(|why| panic!("{why}"));
    let public_key = federation::decode_base64(&signing_key.public_key()).unwrap_or_default();
    let notary_keys: Vec<_> =
        public_key.try_into().into_iter().map(|key| (signing_key.key_id().to_owned(), key)).collect();
    let from_notary = |document: &Object| {
        let response = Object::from_iter([("server_keys".to_owned(), json!([document]))]);
        federation::check_testimony(response, name, name, &notary_keys, NOW)
    };
    let own = federation::check_document(document, name, NOW);
    if let Ok(keys) = &own {
        assert!((1..=16).contains(&keys.len()), "{} keys", keys.len());
        for key in keys {
            assert!(key.key_id.starts_with("ed25519:") && key.fetched == NOW, "{}", key.key_id);
            assert!(key.valid_until.lies_ahead(NOW, WEEK), "{:?}", key.valid_until);
        }
    }
    assert!(own.is_ok() || from_notary(document).is_err(), "a document is accepted only from a notary");
    own.is_ok()
}

/// The document with `key` added and signed by it; `None` if it has no canonical form.
fn sign(mut document: Object, name: &ServerName, key: &SigningKey) -> Option<Object> {
    let keys = document.entry("verify_keys").or_insert_with(|| json!({}));
    keys.as_object_mut()?.insert(key.key_id().to_owned(), json!({"key": key.public_key()}));
    let signature = key.sign(&federation::signable(&document)?);
    let signatures = document.entry("signatures").or_insert_with(|| json!({}));
    let signatures = signatures.as_object_mut()?.entry(name.as_str()).or_insert_with(|| json!({}));
    signatures.as_object_mut()?.insert(key.key_id().to_owned(), signature.into());
    Some(document)
}

/// The time at which documents are checked.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// The longest time for which a key is valid.
const WEEK: Duration = Duration::from_hours(7 * 24);

/// The key of the specification's test vectors.
const KEY: &[u8] = b"ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n";
