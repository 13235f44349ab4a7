//! The homeserver's signing key, used for X-Matrix requests and nothing else.
//!
//! Owns the key and its text forms. Outside this module only `key_file` sees the secret, to write it; `Debug` shows the key ID. Refuses
//! to know files.
//! [Spec, signing details](https://spec.matrix.org/v1.19/appendices/#signing-details).

use std::fmt;

use data_encoding::{BASE64_NOPAD, HEXLOWER};
use ed25519_dalek::Signer as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::conduit_key::{self, KeypairRecord};
use super::signed_json::{Object, decode_base64, signable};
use crate::matrix::{ServerName, Timestamp};

/// Algorithm of every Matrix signing key.
const ALGORITHM: &str = "ed25519";

/// Marks Dendrite's key file.
const DENDRITE_BEGIN: &str = "-----BEGIN MATRIX PRIVATE KEY-----";

/// Ends Dendrite's key file.
const DENDRITE_END: &str = "-----END MATRIX PRIVATE KEY-----";

/// A signing key with its ID.
pub struct SigningKey {
    /// `ed25519:version`
    key_id: String,
    /// Zeroed on drop.
    key: ed25519_dalek::SigningKey,
}

/// Why bytes are not a signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFormatError {
    /// None of the known forms.
    #[error(
        "not a signing key: expected `ed25519 <version> <seed>` (Synapse), a MATRIX PRIVATE KEY block (Dendrite) or the `keypair` \
         record of Conduit's family, raw or in hex"
    )]
    Unknown,
    /// The version is empty, too long, or has other characters.
    #[error("the key's version may have only letters, digits and underscores")]
    Version,
    /// The seed is not 32 bytes in base64.
    #[error("the key's seed is not the base64 of 32 bytes")]
    Seed,
    /// Dendrite's form without its end, or without its `Key-ID`.
    #[error("the MATRIX PRIVATE KEY block is incomplete")]
    Incomplete,
    /// Conduit's record with the public key of another seed.
    #[error("the record is damaged: its public key does not belong to its secret one")]
    Damaged,
}

impl SigningKey {
    /// Parses the contents of a key file.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyFormatError> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        if text.contains(DENDRITE_BEGIN) {
            return Self::parse_dendrite(text);
        }
        match conduit_key::parse(bytes) {
            Some(record) => Self::from_conduit(record),
            None => Self::parse_synapse(text),
        }
    }

    /// A fresh key with a random version.
    pub fn generate(mut random: impl FnMut(&mut [u8])) -> Self {
        let (mut seed, mut version) = ([0; 32], [0; 4]);
        random(&mut seed);
        random(&mut version);
        let version = HEXLOWER.encode(&version);
        Self::new(&format!("a_{version}"), &seed)
    }

    /// `ed25519:version`
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key in unpadded base64, as `/_matrix/key/v2/server` shows it.
    pub fn public_key(&self) -> String {
        BASE64_NOPAD.encode(self.key.verifying_key().as_bytes())
    }

    /// 16 hex digits that identify the sidecar of `server_name` with this key. Made of public data only.
    pub(crate) fn fingerprint(&self, server_name: &ServerName) -> String {
        let digest = Sha256::digest(format!("{server_name} {} {}", self.key_id, self.public_key()));
        HEXLOWER.encode(digest.first_chunk::<8>().unwrap_or(&[0; 8]))
    }

    /// The document a homeserver with this key publishes at `/_matrix/key/v2/server`. Only for the demo's stand-in homeserver: the
    /// sidecar itself publishes nothing.
    pub(crate) fn key_document(&self, server_name: &ServerName, valid_until: Timestamp) -> Value {
        let mut document = Object::from_iter([
            ("server_name".to_owned(), json!(server_name)),
            ("verify_keys".to_owned(), json!({&self.key_id: {"key": self.public_key()}})),
            ("old_verify_keys".to_owned(), json!({})),
            ("valid_until_ts".to_owned(), json!(valid_until.0)),
        ]);
        let signature = self.sign(&signable(&document).unwrap_or_default());
        document.insert("signatures".to_owned(), json!({server_name.as_str(): {&self.key_id: signature}}));
        Value::Object(document)
    }

    /// The signature over canonical JSON, in unpadded base64.
    pub(crate) fn sign(&self, canonical_json: &[u8]) -> String {
        BASE64_NOPAD.encode(&self.key.sign(canonical_json).to_bytes())
    }

    /// The secret key in Synapse's text form.
    pub(super) fn to_synapse(&self) -> String {
        let version = self.key_id.split_once(':').map_or("", |(_, version)| version);
        format!("{ALGORITHM} {version} {}\n", BASE64_NOPAD.encode(self.key.as_bytes()))
    }

    fn new(version: &str, seed: &[u8; 32]) -> Self {
        Self { key_id: format!("{ALGORITHM}:{version}"), key: ed25519_dalek::SigningKey::from_bytes(seed) }
    }

    /// From Conduit's record. A public key beside the seed must be the seed's own.
    fn from_conduit(record: KeypairRecord) -> Result<Self, KeyFormatError> {
        let KeypairRecord { version, seed, public_key } = record;
        if !is_version(&version) {
            return Err(KeyFormatError::Version);
        }
        let key = Self::new(&version, &seed);
        if public_key.is_some_and(|public_key| public_key != *key.key.verifying_key().as_bytes()) {
            return Err(KeyFormatError::Damaged);
        }
        Ok(key)
    }

    /// Lines of `ed25519 <version> <unpadded base64 of the seed>`; the first signs, as in Synapse.
    fn parse_synapse(text: &str) -> Result<Self, KeyFormatError> {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let mut words = line.unwrap_or_default().split_ascii_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(ALGORITHM), Some(version), Some(seed), None) => Self::from_text(version, seed),
            _ => Err(KeyFormatError::Unknown),
        }
    }

    /// A PEM block with a `Key-ID` header around the base64 of the seed; the first block signs, as in Dendrite.
    fn parse_dendrite(text: &str) -> Result<Self, KeyFormatError> {
        let incomplete = KeyFormatError::Incomplete;
        let block = text.split_once(DENDRITE_BEGIN).and_then(|(_, rest)| rest.split_once(DENDRITE_END));
        let Some((block, _)) = block else { return Err(incomplete) };
        let (headers, body): (Vec<&str>, Vec<&str>) =
            block.lines().map(str::trim).filter(|line| !line.is_empty()).partition(|line| line.contains(':'));
        let key_id = headers.iter().find_map(|header| {
            let (name, value) = header.split_once(':')?;
            name.trim().eq_ignore_ascii_case("Key-ID").then(|| value.trim())
        });
        let version = key_id.and_then(|key_id| key_id.strip_prefix("ed25519:"));
        version.map_or(Err(incomplete), |version| Self::from_text(version, &body.concat()))
    }

    fn from_text(version: &str, seed: &str) -> Result<Self, KeyFormatError> {
        if !is_version(version) {
            return Err(KeyFormatError::Version);
        }
        match decode_base64(seed).and_then(|seed| seed.try_into().ok()) {
            Some(seed) => Ok(Self::new(version, &seed)),
            None => Err(KeyFormatError::Seed),
        }
    }
}

/// Longest version, bytes; the specification names no bound, and the field's have a dozen.
const MAX_VERSION: usize = 64;

/// A key's version: `[a-zA-Z0-9_]+` (spec, `definitions/keys.yaml`).
pub(super) fn is_version(version: &str) -> bool {
    (1..=MAX_VERSION).contains(&version.len())
        && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The key of the specification's test vectors.
    pub(in crate::federation) const VECTOR: &str = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

    #[test]
    fn both_forms_give_the_same_key() {
        let synapse = SigningKey::parse(format!("\n{VECTOR}\ned25519 2 other\n").as_bytes()).unwrap();
        assert_eq!(synapse.key_id(), "ed25519:1");
        assert_eq!(synapse.public_key(), "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI");
        let dendrite = "-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:1\n\n\
                        YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0=\n-----END MATRIX PRIVATE KEY-----\n";
        let dendrite = SigningKey::parse(dendrite.as_bytes()).unwrap();
        assert_eq!(dendrite.key_id(), "ed25519:1");
        assert_eq!(dendrite.public_key(), synapse.public_key());
    }

    #[test]
    fn conduits_record_gives_the_same_key_and_a_damaged_one_none() {
        let synapse = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        let (seed, public_key) = (synapse.key.as_bytes(), *synapse.key.verifying_key().as_bytes());
        for (name, record) in conduit_key::tests::variants(seed, &public_key) {
            let key = SigningKey::parse(&record).unwrap();
            assert_eq!(
                (key.key_id(), key.public_key()),
                ("ed25519:abcd1234", synapse.public_key()),
                "{name}"
            );
        }
        let (_, damaged) = &conduit_key::tests::variants(seed, &[9; 32])[0];
        assert!(SigningKey::parse(damaged).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn other_files_are_refused_in_words() {
        for (text, word) in [
            ("", "Synapse"),
            ("rsa 1 abc", "Synapse"),
            ("ed25519 a:b YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0", "version"),
            ("ed25519 1 short", "seed"),
            ("-----BEGIN MATRIX PRIVATE KEY-----\n", "incomplete"),
        ] {
            let error = SigningKey::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(SigningKey::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn debug_shows_no_seed() {
        let key = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains("ed25519:1") && !shown.contains("YJDB"), "{shown}");
    }
}
