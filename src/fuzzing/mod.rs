//! The door for `tests/fuzz`: a function for each target, over parsers that the library keeps to itself.
//!
//! Exists only under cargo-fuzz, which sets `cfg(fuzzing)`. Owns what must hold for any input; refuses to know the
//! fuzzer. A target is a row of `tests/fuzz/README.md`, a function here and a file of one call there.
#![allow(clippy::missing_panics_doc, clippy::panic, reason = "a panic is a finding")]

mod picture;

pub use picture::image;
