//! Canonical JSON and signatures over it.
//!
//! [Spec, canonical JSON](https://spec.matrix.org/v1.19/appendices/#canonical-json),
//! [checking for a signature](https://spec.matrix.org/v1.19/appendices/#checking-for-a-signature).

use std::sync::LazyLock;

use data_encoding::{BASE64_NOPAD, Encoding};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Map, Value};

/// A JSON object. Its keys are sorted, so that its compact text is canonical if its numbers are.
pub(crate) type Object = Map<String, Value>;

/// The canonical form: keys sorted by code point, no white space, only necessary escapes. `None` for numbers that have none:
/// fractions, and integers beyond ±(2^53 − 1).
pub(crate) fn canonical(object: &Object) -> Option<Vec<u8>> {
    // serde_json's maps are sorted by their keys' UTF-8 bytes, which is the order of code points.
    object.values().all(has_canonical_form).then(|| serde_json::to_vec(object).ok()).flatten()
}

/// The canonical form without `signatures` and `unsigned`: what is signed.
pub(crate) fn signable(object: &Object) -> Option<Vec<u8>> {
    let mut object = object.clone();
    object.remove("signatures");
    object.remove("unsigned");
    canonical(&object)
}

/// Whether `signature` (base64) over `message` was made with `public_key`. The strict check: no weak keys, no malleable
/// signatures.
pub(super) fn verifies(public_key: &[u8; 32], message: &[u8], signature: &str) -> bool {
    let check = || {
        let key = VerifyingKey::from_bytes(public_key).ok()?;
        let signature = Signature::from_slice(&decode_base64(signature)?).ok()?;
        key.verify_strict(message, &signature).ok()
    };
    check().is_some()
}

/// Standard base64, padded or not: Matrix writes it without, old software with. Stray bits in the last character do not
/// matter: the specification's own seed has some.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    static LENIENT: LazyLock<Encoding> = LazyLock::new(|| {
        let mut specification = BASE64_NOPAD.specification();
        specification.check_trailing_bits = false;
        specification.encoding().unwrap_or(BASE64_NOPAD)
    });
    LENIENT.decode(text.trim_end_matches('=').as_bytes()).ok()
}

/// Whether a value and all below it have a canonical form.
fn has_canonical_form(value: &Value) -> bool {
    const MAX: i64 = (1 << 53) - 1;
    match value {
        Value::Number(number) => number.as_i64().is_some_and(|number| (-MAX..=MAX).contains(&number)),
        Value::Array(items) => items.iter().all(has_canonical_form),
        Value::Object(entries) => entries.values().all(has_canonical_form),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::signing_key::{SigningKey, tests::VECTOR};
    use super::*;

    fn object(json: &str) -> Object {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn canonical_json_of_the_appendices() {
        for (json, expected) in [
            ("{}", "{}"),
            (r#"{"one": 1, "two": "Two"}"#, r#"{"one":1,"two":"Two"}"#),
            (r#"{"b": "2", "a": "1"}"#, r#"{"a":"1","b":"2"}"#),
            (
                r#"{"auth": {"success": true, "mxid": "@j:e", "profile": {"z": [1, {"y": null}]}}}"#,
                r#"{"auth":{"mxid":"@j:e","profile":{"z":[1,{"y":null}]},"success":true}}"#,
            ),
            (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
            (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
            (r#"{"a": "\b\t\n\f\r\"\\\u001F\/\u007f"}"#, "{\"a\":\"\\b\\t\\n\\f\\r\\\"\\\\\\u001f/\u{7f}\"}"),
        ] {
            assert_eq!(String::from_utf8(canonical(&object(json)).unwrap()).unwrap(), expected);
        }
        for json in [r#"{"a": 1.5}"#, r#"{"a": [9007199254740992]}"#, r#"{"a": -9007199254740992}"#] {
            assert_eq!(canonical(&object(json)), None, "{json}");
        }
    }

    #[test]
    fn signatures_of_the_appendices() {
        let key = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        for (json, signature) in [
            ("{}", "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
            (
                r#"{"one":1,"two":"Two","unsigned":{"x":1},"signatures":{}}"#,
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ] {
            let message = signable(&object(json)).unwrap();
            assert_eq!(key.sign(&message), signature);
            let public_key = decode_base64(&key.public_key()).unwrap().try_into().unwrap();
            assert!(verifies(&public_key, &message, signature));
            assert!(!verifies(&public_key, b"other", signature));
            assert!(!verifies(&public_key, &message, "AAAA"));
            assert!(!verifies(&[0; 32], &message, signature));
        }
    }
}
