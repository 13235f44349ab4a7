//! Key documents, notary answers, key files.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| media_sidecar::fuzzing::keys(data));
