//! Server names, media IDs, paths, queries.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| media_sidecar::fuzzing::names(data));
