//! Header values: X-Matrix, Range, Content-Disposition, Content-Type.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| media_sidecar::fuzzing::headers(data));
