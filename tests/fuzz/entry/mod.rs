//! The door for `tests/fuzz`: a function for each target, over parsers that the library keeps to itself.
//!
//! Exists only under cargo-fuzz, which sets `cfg(fuzzing)`, and in this crate's own tests, which try every seed and a few
//! changes of each. Owns what must hold for any input; refuses to know the fuzzer. A target is a row of `tests/fuzz/README.md`, a function here and a file of one call there.
#![allow(clippy::missing_panics_doc, clippy::panic, reason = "a panic is a finding")]

mod documents;
mod http;
mod page;
mod picture;

pub use documents::{config, keys, well_known};
pub use http::{headers, multipart, names};
pub use page::{oembed, page};
pub use picture::image;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every seed of a target, whole, cut short, and with some of its bytes changed.
    fn try_seeds(target: &str, holds: impl Fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
        let mut state = 1_u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(state >> 8).unwrap().checked_rem(below).unwrap_or(0)
        };
        for entry in std::fs::read_dir(folder).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            holds(&seed);
            holds(&seed[..random(seed.len())]);
            for _ in 0..20 {
                let mut changed = seed.clone();
                for _ in 0..=random(4) {
                    let at = random(changed.len());
                    changed[at] = random(256).to_le_bytes()[0];
                }
                holds(&changed);
            }
        }
    }

    #[test]
    fn what_must_hold_of_pictures_holds_for_the_seeds() {
        try_seeds("image", |data| _ = super::image(data));
    }

    #[test]
    fn what_must_hold_of_pages_holds_for_the_seeds() {
        try_seeds("page", super::page);
    }

    #[test]
    fn what_must_hold_of_oembed_answers_and_json_ld_holds_for_the_seeds() {
        try_seeds("oembed", super::oembed);
    }

    #[test]
    fn what_must_hold_of_headers_holds_for_the_seeds() {
        try_seeds("headers", super::headers);
    }

    #[test]
    fn what_must_hold_of_names_and_queries_holds_for_the_seeds() {
        try_seeds("names", super::names);
    }

    #[test]
    fn what_must_hold_of_multipart_bodies_holds_for_the_seeds() {
        try_seeds("multipart", super::multipart);
    }

    #[test]
    fn what_must_hold_of_configurations_holds_for_the_seeds() {
        try_seeds("config", super::config);
    }

    #[test]
    fn what_must_hold_of_well_known_documents_holds_for_the_seeds() {
        try_seeds("well_known", super::well_known);
    }

    #[test]
    fn what_must_hold_of_key_documents_holds_for_the_seeds() {
        try_seeds("keys", super::keys);
    }
}
