//! Multipart bodies, read and written.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| media_sidecar::fuzzing::multipart(data));
