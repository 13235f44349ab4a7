//! The signing key as Conduit, conduwuit, continuwuity and tuwunel keep it: the record `keypair` of their `global` table.
//!
//! `version 0xFF PKCS#8`, the document in one of three variants: ring's (85 bytes, a public key in a nesting of ring's own),
//! ed25519-dalek's (83 bytes, a public key as RFC 5958 has it), and without a public key (48 bytes). Strict parsers refuse the
//! first, so the seed is read from its fixed place and checked against the public key beside it. This module only reads: a homeserver
//! deletes a record that it cannot read, and with it its identity.
//! [RFC 8410 §7](https://www.rfc-editor.org/rfc/rfc8410#section-7).

use data_encoding::HEXLOWER_PERMISSIVE;

/// Separates the version from the document. Versions are ASCII, so it is the first such byte.
const SEPARATOR: u8 = 0xff;

/// What stands before the seed: an octet string of 34 bytes that holds an octet string of 32.
const BEFORE_SEED: [u8; 4] = [0x04, 0x22, 0x04, 0x20];

/// The object identifier of Ed25519 (RFC 8410 §3), with its tag and length.
const ED25519: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];

/// What stands before the public key: ring's nesting and RFC 5958's, a bit string of 33 bytes whose first says that no bits are
/// unused.
const BEFORE_PUBLIC_KEY: [&[u8]; 2] = [&[0xa1, 0x23, 0x03, 0x21, 0x00], &[0x81, 0x21, 0x00]];

/// The parts of a record.
#[derive(PartialEq, Eq)]
pub(super) struct KeypairRecord {
    /// What follows `ed25519:` in the key ID.
    pub(super) version: String,
    pub(super) seed: [u8; 32],
    /// Two of the three variants have it.
    pub(super) public_key: Option<[u8; 32]>,
}

/// Parses a record, raw or in hex as `sqlite3` and `ldb` print it. `None` when it is not one.
pub(super) fn parse(bytes: &[u8]) -> Option<KeypairRecord> {
    match from_hex(bytes) {
        Some(raw) => parse_raw(&raw),
        None => parse_raw(bytes),
    }
}

/// Hex digits of either case, with `0x` or `X'…'` around them or not.
fn from_hex(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let text = text.strip_prefix("0x").unwrap_or(text);
    let text = text.strip_prefix("X'").and_then(|rest| rest.strip_suffix('\'')).unwrap_or(text);
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

/// Parses the record itself.
fn parse_raw(record: &[u8]) -> Option<KeypairRecord> {
    let at = record.iter().position(|byte| *byte == SEPARATOR)?;
    let version = std::str::from_utf8(record.get(..at)?).ok()?.to_owned();
    let document = record.get(at..)?.get(1..)?;
    // A sequence in short form, neither cut nor continued.
    let (0x30, length) = (*document.first()?, *document.get(1)?) else { return None };
    if document.len().checked_sub(2)? != usize::from(length) {
        return None;
    }
    let (algorithm, rest) = document.split_at_checked(12)?;
    if !algorithm.ends_with(&ED25519) {
        return None;
    }
    let (seed, rest) = rest.strip_prefix(&BEFORE_SEED)?.split_first_chunk::<32>()?;
    let public_key = match rest {
        [] => None,
        rest => {
            let key = BEFORE_PUBLIC_KEY.iter().find_map(|before| rest.strip_prefix(*before))?;
            Some(key.try_into().ok()?)
        }
    };
    Some(KeypairRecord { version, seed: *seed, public_key })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The three variants as their writers lay them out, for a key of the version `abcd1234`.
    pub(in crate::federation) fn variants(
        seed: &[u8; 32],
        public_key: &[u8; 32],
    ) -> [(&'static str, Vec<u8>); 3] {
        let head = |version: u8, length: u8| {
            [&[0x30, length, 0x02, 0x01, version, 0x30, 0x05][..], &ED25519, &BEFORE_SEED, seed].concat()
        };
        let record = |document: Vec<u8>| [b"abcd1234\xff".as_slice(), &document].concat();
        [
            ("ring", record([head(1, 83), BEFORE_PUBLIC_KEY[0].to_vec(), public_key.to_vec()].concat())),
            ("dalek", record([head(1, 81), BEFORE_PUBLIC_KEY[1].to_vec(), public_key.to_vec()].concat())),
            ("plain", record(head(0, 46))),
        ]
    }

    #[test]
    fn the_variants_have_the_lengths_seen_in_the_field() {
        let lengths = variants(&[1; 32], &[2; 32]).map(|(_, record)| record.len() - b"abcd1234\xff".len());
        assert_eq!(lengths, [85, 83, 48]);
    }

    #[test]
    fn every_variant_is_read_raw_and_in_hex() {
        // 0xFF in the seed does not end the version again.
        let (seed, public_key) = ([0xff; 32], [7; 32]);
        for (name, record) in variants(&seed, &public_key) {
            let upper = data_encoding::HEXUPPER.encode(&record);
            for form in [
                record.clone(),
                format!("{upper}\n").into_bytes(),
                format!("0x{upper}").into_bytes(),
                format!("X'{upper}'").into_bytes(),
            ] {
                let parsed = parse(&form).unwrap_or_else(|| panic!("{name}"));
                assert_eq!((parsed.version.as_str(), parsed.seed), ("abcd1234", seed), "{name}");
                assert_eq!(parsed.public_key, (name != "plain").then_some(public_key), "{name}");
            }
        }
    }

    #[test]
    fn cut_and_continued_records_are_refused() {
        for (name, record) in variants(&[1; 32], &[2; 32]) {
            for end in 0..record.len() {
                assert!(parse(&record[..end]).is_none(), "{name} cut at {end}");
            }
            assert!(parse(&[record, vec![0]].concat()).is_none(), "{name} continued");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            drop(parse(&bytes));
        }
    }
}
