//! The shape of `src/`, checked: levels, doors, sizes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::missing_docs_in_private_items,
    reason = "tests"
)]

use std::path::{Path, PathBuf};

/// The levels of the map in `lib.rs`, lowest first. A module imports from the levels below its own, and from its own level only what
/// [`SIDEWAYS`] lists.
const LEVELS: [&[&str]; 10] = [
    &["error", "matrix", "log"],
    &["config", "sync"],
    &["outbound", "store"],
    &["http"],
    &["accounts", "federation", "thumbnail", "preview"],
    &["media"],
    &["app"],
    &["housekeeping", "api"],
    &["server"],
    &["cli"],
];

/// The arrows inside a level, each with its reason.
const SIDEWAYS: [(&str, &str, &str); 1] =
    [("federation", "accounts", "our own published key is asked of the homeserver, which accounts knows")];

/// Arrows upwards that are still to be turned.
const UPWARDS: [(&str, &str); 4] =
    [("http", "accounts"), ("http", "federation"), ("http", "thumbnail"), ("http", "preview")];

/// Crates that only the listed modules may name.
const DOORS: [(&str, &[&str]); 32] = [
    ("simple_dns", &["outbound/dns"]),
    ("resolv_conf", &["outbound/dns"]),
    ("rusqlite", &["store/catalog"]),
    ("r2d2", &["store/catalog"]),
    ("r2d2_sqlite", &["store/catalog"]),
    ("ureq", &["outbound"]),
    ("rustls", &["outbound", "cli/demo"]),
    ("webpki_roots", &["outbound"]),
    ("matchit", &["server"]),
    ("governor", &["media"]),
    ("ed25519_dalek", &["federation"]),
    ("figment", &["config"]),
    ("saphyr", &["config"]),
    ("rcgen", &["cli/demo"]),
    ("image", &["thumbnail"]),
    ("png", &["thumbnail"]),
    ("gif", &["thumbnail"]),
    ("image_webp", &["thumbnail"]),
    ("webp", &["thumbnail"]),
    ("jpeg_decoder", &["thumbnail"]),
    ("jpeg_encoder", &["thumbnail"]),
    ("fast_image_resize", &["thumbnail"]),
    ("moxcms", &["thumbnail"]),
    ("weezl", &["thumbnail"]),
    ("fax", &["thumbnail"]),
    ("fast_blurhash", &["thumbnail"]),
    ("wildmatch", &["config/host_list", "preview"]),
    ("flate2", &["outbound", "thumbnail"]),
    ("brotli_decompressor", &["outbound"]),
    ("html5gum", &["preview"]),
    ("encoding_rs", &["preview"]),
    ("chardetng", &["preview"]),
];

/// Most lines of a source file before its tests. Past it a file wants to be two.
const MAX_LINES: usize = 500;

/// Every source file with the top-level module it belongs to.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(&root).unwrap();
            let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
            let module = first.trim_end_matches(".rs").to_owned();
            if module != "main" && module != "lib" {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((module, path, text));
            }
        }
    }
    found
}

/// The part of a file before its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap()
        .split("#[cfg(test)]\npub(super) mod tests")
        .next()
        .unwrap()
}

/// Which level a module is on.
fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

#[test]
fn modules_import_only_from_below() {
    for (module, path, text) in sources() {
        let own = level(&module).unwrap_or_else(|| panic!("{module} is on no level"));
        for line in code(&text).lines().filter(|line| !line.trim_start().starts_with("//")) {
            assert!(!line.contains("crate::{"), "{}: write one `use crate::…` a line", path.display());
            for rest in line.split("crate::").skip(1) {
                let imported: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let Some(theirs) = level(&imported) else { continue };
                let arrow = (module.as_str(), imported.as_str());
                let is_listed = SIDEWAYS.iter().any(|(from, to, _)| (*from, *to) == arrow);
                assert!(
                    theirs < own || imported == module || is_listed || UPWARDS.contains(&arrow),
                    "{}: {module} imports {imported}, which is not below it",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn each_crate_has_one_door() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (_, path, text) in sources() {
        let place = path.strip_prefix(&root).unwrap().with_extension("");
        for (name, doors) in DOORS {
            let names_it = code(&text).lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//") && line.contains(&format!("{name}::"))
            });
            assert!(
                !names_it || doors.iter().any(|door| place.starts_with(door)),
                "{}: {name} has another door",
                path.display()
            );
        }
    }
}

#[test]
fn the_top_of_the_source_is_one_screen() {
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap().count();
    assert!(entries <= 20, "{entries} entries in src/");
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (_, path, text) in sources() {
        let lines = code(&text).lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines", path.display());
        assert!(text.starts_with("//! "), "{}: no module doc", path.display());
    }
}
