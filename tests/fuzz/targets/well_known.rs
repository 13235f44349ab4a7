//! A well-known document and its lifetime.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| media_sidecar::fuzzing::well_known(data));
