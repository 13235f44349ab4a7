//! The configuration file: where it is searched for, and the messages when it cannot be read.
//!
//! Refuses to know its content.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::yaml::{Broken, YamlFile};
use super::{Problem, Problems};
use crate::error::in_words;
use crate::matrix::len_u64;

/// The paths that are tried without `--config`.
const DEFAULT_FILES: [&str; 2] = ["sidecar.yaml", "/etc/media-sidecar/sidecar.yaml"];

/// Largest configuration file read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// The configuration file to use: `given`, else `./sidecar.yaml`, else `/etc/media-sidecar/sidecar.yaml`.
/// `None` when neither default exists: the environment may set everything.
pub fn find(given: Option<&Path>) -> Option<PathBuf> {
    // A file that cannot be accessed counts as existing, so that the error says so.
    let is_there = |path: &&Path| match path.metadata() {
        Ok(metadata) => !metadata.is_dir(),
        Err(why) => why.kind() == io::ErrorKind::PermissionDenied,
    };
    given.or_else(|| DEFAULT_FILES.iter().map(Path::new).find(is_there)).map(Path::to_owned)
}

/// The problem when the file cannot be read.
pub(super) fn unreadable(path: &Path, broken: Broken) -> Problems {
    let Broken { line, message } = broken;
    let file = path.display();
    let place = line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"));
    Problems(vec![Problem { place, key: String::new(), message }])
}

/// The problem when there is no file and the environment does not set `server_name`.
pub(super) fn no_file() -> Problem {
    let looked = DEFAULT_FILES.map(|file| {
        let path = std::path::absolute(file).unwrap_or_else(|_| file.into());
        path.display().to_string()
    });
    Problem {
        place: "no configuration file".to_owned(),
        key: String::new(),
        message: format!(
            "looked for {}; copy the shipped sidecar.yaml to one of them and set server_name, or name a file with --config",
            looked.join(" and ")
        ),
    }
}

/// Reads and parses one file. The error says how to fix it.
pub(super) fn read(path: &Path) -> Result<YamlFile, Broken> {
    let whole = |message: String| Broken { line: None, message };
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes));
    read.map_err(|why| {
        whole(if why.kind() == io::ErrorKind::NotFound {
            "there is no such file; name another with --config".to_owned()
        } else if why.kind() == io::ErrorKind::IsADirectory {
            format!(
                "it is a folder; name the file in it (like --config {})",
                path.join("sidecar.yaml").display()
            )
        } else if why.kind() == io::ErrorKind::PermissionDenied {
            "this user may not read it; make it readable for everyone (it contains no secret), or run this as root"
                .to_owned()
        } else {
            format!("cannot read it: {}", in_words(&why))
        })
    })?;
    if len_u64(bytes.len()) > MAX_FILE {
        return Err(whole("it is too large for a configuration; name another file with --config".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|why| {
        let before = why.as_bytes().get(..why.utf8_error().valid_up_to()).unwrap_or_default();
        let line = before.split(|byte| *byte == b'\n').count();
        Broken { line: Some(line), message: "it is not UTF-8 text; save the file as UTF-8".to_owned() }
    })?;
    YamlFile::parse(path, &text)
}
