//! The shape of `src/`, checked: levels, doors, sizes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
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

/// Files with a limit of their own, each with its reason.
const LONG_FILES: [(&str, usize, &str); 1] = [(
    "server.rs",
    750,
    "a reader finds the whole HTTP server in one file, the route table, which is data, included",
)];

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
                    theirs < own || imported == module || is_listed,
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
        let own = LONG_FILES.iter().find(|(file, ..)| path.ends_with(Path::new("src").join(file)));
        let most = own.map_or(MAX_LINES, |(_, most, _)| *most);
        assert!(lines <= most, "{}: {lines} lines", path.display());
        assert!(text.starts_with("//! "), "{}: no module doc", path.display());
    }
}

/// Modules that speak HTTP, as a server or as a client.
const HTTP_MODULES: [&str; 5] = ["http", "api", "server", "outbound", "cli"];

/// Further modules that may name the status of another server's response, which they read or hand on. What our own answers have
/// for a status is for [`HTTP_MODULES`] to know.
const READS_STATUSES: [&str; 4] = ["error", "accounts", "federation", "preview"];

/// The error type of each `Result<…, …>` in `code`.
fn error_types(code: &str) -> Vec<String> {
    let code = code.replace("->", "");
    let starts = code.match_indices("Result<").map(|(at, found)| at + found.len());
    starts.filter_map(|start| error_type(&code[start..])).collect()
}

/// The second type argument in `arguments`, which begin behind `<`.
fn error_type(arguments: &str) -> Option<String> {
    let (mut depth, mut comma) = (0, None);
    for (at, char) in arguments.char_indices() {
        match char {
            '<' | '(' | '[' => depth += 1,
            ',' if depth == 0 => comma = Some(at + 1),
            '>' | ')' | ']' if depth == 0 => return Some(arguments[comma?..at].trim().to_owned()),
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[test]
fn errors_are_types_and_status_codes_stay_where_http_is_spoken() {
    let texts = ["String", "&str", "&'static str", "Cow<'static, str>"];
    for (module, path, text) in sources() {
        let (code, path) = (code(&text), path.display());
        for error in error_types(code) {
            assert!(!texts.contains(&error.as_str()), "{path}: an error is a {error}");
        }
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let is_text = ["Err", "Error"].iter().any(|name| line.contains(&format!("type {name} = String")));
            assert!(!is_text, "{path}: {line}");
            let is_http = HTTP_MODULES.contains(&module.as_str());
            assert!(is_http || !line.contains("StatusCode"), "{path}: {line}");
            let reads = is_http || READS_STATUSES.contains(&module.as_str());
            assert!(reads || !(line.contains("status") && line.contains("u16")), "{path}: {line}");
        }
    }
}

/// The names in back quotes in the second column of a table's lines.
fn table_names(lines: &[&str]) -> Vec<Vec<String>> {
    let name = |quoted: &str| {
        quoted.trim_matches(['[', ']']).trim_end_matches('/').trim_end_matches(".rs").to_owned()
    };
    let cells = lines.iter().filter_map(|line| line.split('|').nth(2));
    cells.map(|cell| cell.split('`').skip(1).step_by(2).map(name).collect()).collect()
}

/// The levels that a table lists, lowest first. Its lines begin with `start` and a number. `main` is no module.
fn levels_by(text: &str, start: &str) -> Vec<Vec<String>> {
    let is_level = |line: &&str| {
        line.strip_prefix(start).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let lines: Vec<&str> = text.lines().filter(is_level).collect();
    let mut levels = table_names(&lines);
    levels.reverse();
    levels
        .into_iter()
        .map(|level| {
            let mut level: Vec<_> = level.into_iter().filter(|name| name != "main").collect();
            level.sort();
            level
        })
        .collect()
}

#[test]
fn files_that_the_readme_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let quoted = readme.split('`').skip(1).step_by(2);
    let paths = quoted.filter_map(|quoted| quoted.split_whitespace().next());
    let of_this_repository =
        |path: &&str| ["src/", "tests/", "assets/", ".ci/"].iter().any(|start| path.starts_with(start));
    let named: Vec<&str> = paths.filter(of_this_repository).collect();
    assert!(named.len() > 10, "{named:?}");
    for path in named {
        assert!(root.join(path).exists(), "README.md names {path}");
    }
}

#[test]
fn the_maps_in_the_readme_and_in_lib_rs_name_the_levels_and_src_has_no_other_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected: Vec<Vec<String>> = LEVELS
        .iter()
        .map(|level| {
            let mut level: Vec<_> = level.iter().map(|name| (*name).to_owned()).collect();
            level.sort();
            level
        })
        .collect();
    let lib = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
    assert_eq!(levels_by(&lib, "//! | "), expected, "src/lib.rs");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let layout = readme.split("Modules of `src/`").nth(1).unwrap().split("\n## ").next().unwrap();
    assert_eq!(levels_by(layout, "| "), expected, "README.md");
    let mut modules: Vec<_> = sources().into_iter().map(|(module, ..)| module).collect();
    modules.sort();
    modules.dedup();
    let mut listed = expected.concat();
    listed.sort();
    assert_eq!(modules, listed, "src/");
}
