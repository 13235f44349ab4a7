//! The shape of `src/`, checked: levels, doors, sizes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::missing_docs_in_private_items,
    reason = "tests"
)]

use std::path::{Path, PathBuf};

/// The levels of the map in `lib.rs`, lowest first; within a level modules are listed in the order they may import each
/// other, lower first.
const LEVELS: [&[&str]; 8] = [
    &["sha256", "error", "matrix", "config", "journal"],
    &[
        "range",
        "conditions",
        "disposition",
        "multipart",
        "globs",
        "mark",
        "names",
        "outbound",
        "disk",
        "blobs",
        "catalog",
        "store",
    ],
    &["homeserver", "accounts", "federation", "thumbnail", "preview"],
    &["media"],
    &["patience", "drain", "bridge", "waiting", "access", "response", "shelf", "app", "request"],
    &["service", "handlers", "housekeeping"],
    &["listeners", "server"],
    &["commands", "demo", "fuzzing"],
];

/// Crates that only one module may name.
const DOORS: [(&str, &[&str]); 31] = [
    ("hickory_resolver", &["names"]),
    ("rusqlite", &["catalog"]),
    ("r2d2", &["catalog"]),
    ("r2d2_sqlite", &["catalog"]),
    ("ureq", &["outbound"]),
    ("rustls", &["outbound", "demo"]),
    ("webpki_roots", &["outbound"]),
    ("matchit", &["server"]),
    ("governor", &["media"]),
    ("ed25519_dalek", &["federation"]),
    ("figment", &["config"]),
    ("saphyr", &["config"]),
    ("rcgen", &["demo"]),
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
    ("wildmatch", &["globs", "preview"]),
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

#[test]
fn modules_import_only_from_below() {
    let order: Vec<&str> = LEVELS.concat();
    for (module, path, text) in sources() {
        let own = order
            .iter()
            .position(|name| *name == module)
            .unwrap_or_else(|| panic!("{module} is on no level"));
        for line in code(&text).lines().filter(|line| !line.trim_start().starts_with("//")) {
            assert!(!line.contains("crate::{"), "{}: write one `use crate::…` a line", path.display());
            for rest in line.split("crate::").skip(1) {
                let imported: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let Some(theirs) = order.iter().position(|name| *name == imported) else { continue };
                assert!(
                    theirs <= own,
                    "{}: {module} imports {imported}, which is not below it",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn each_crate_has_one_door() {
    for (module, path, text) in sources() {
        for (name, doors) in DOORS {
            let names_it = code(&text).lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//") && line.contains(&format!("{name}::"))
            });
            assert!(
                !names_it || doors.contains(&module.as_str()),
                "{}: {name} has another door",
                path.display()
            );
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (_, path, text) in sources() {
        let lines = code(&text).lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines", path.display());
        assert!(text.starts_with("//! "), "{}: no module doc", path.display());
    }
}
