//! An oEmbed answer, and JSON-LD.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| media_sidecar::fuzzing::oembed(data));
