//! Key files: the signing key read from disk, from systemd and from Conduit's database, and written.
//!
//! Owns what the files' modes must be, and what the operator is told. Refuses to know the forms of a key.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::signing_key::{KeyFormatError, SigningKey};
use crate::error::in_words;
use crate::matrix::len_u64;
use crate::store::catalog::{ConduitError, read_conduit_keypair};

/// Permission bits that a key file must not have, and what they let other users do, worst first.
const EXPOSED: [(u32, &str); 3] =
    [(0o002, "written by every user"), (0o004, "read by every user"), (0o020, "written by its group")];

/// Largest key file read, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Where the service reads its key.
#[derive(Clone, Debug)]
pub(crate) enum KeyFile {
    /// The credential `signing.key` that systemd handed over at the start.
    Credential(PathBuf),
    /// The file that `homeserver.signing_key` names.
    File(PathBuf),
}

/// Whether saving may replace a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Fail if the file exists.
    Never,
    /// Replace an existing file.
    Replace,
}

/// A key read from a file, and what the operator should know about the file.
#[derive(Debug)]
pub struct LoadedKey {
    /// The key.
    pub key: SigningKey,
    /// For the log: the group can read the file.
    pub warning: Option<String>,
}

/// Why there is no key. Each message says how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file that `homeserver.signing_key` names cannot be read.
    #[error("cannot read the signing key {}: {}; {}", path.display(), in_words(source), fix_for_reading(source, path))]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file to import cannot be read.
    #[error("cannot read {}: {}; {}", path.display(), in_words(source), fix_for_importing(source))]
    NoSource {
        /// Path of the file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Other users can read or write the file.
    #[error("the signing key {} can be {by} (mode {mode:04o}); run `chmod 600 {0}`", path.display())]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What other users can do, like "read by every user".
        by: &'static str,
    },
    /// The file holds no signing key.
    #[error("{}: {why}", path.display())]
    NotAKey {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        why: KeyFormatError,
    },
    /// The file is longer than any signing key.
    #[error("{}: the file is too large for a signing key", .0.display())]
    TooLarge(PathBuf),
    /// Conduit's database gives no key.
    #[error("cannot read the signing key from {}: {why}", path.display())]
    ConduitDatabase {
        /// The database, or its folder.
        path: PathBuf,
        /// Why, and how to fix it.
        why: ConduitKeyError,
    },
    /// The file exists.
    #[error("{} exists already; use --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The file cannot be written.
    #[error("cannot write the signing key {}: {}; {}", path.display(), in_words(source), fix_for_writing(source))]
    Unwritable {
        /// Path of the file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Why Conduit's database gives no key. Each message says how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum ConduitKeyError {
    /// This user may not read it.
    #[error("it may not be read; run this as root")]
    Forbidden,
    /// The folder does not exist.
    #[error("there is no such folder; name Conduit's database_path, the folder with conduit.db")]
    NoFolder,
    /// The folder holds a `RocksDB` database.
    #[error(
        "it is a RocksDB database, which only RocksDB's own tool reads. Take the key out of a copy: `cp -r {} COPY`, \
         `ldb --db=COPY --column_family=global --hex get 0x6b657970616972 > record.hex` (ldb is in Debian's rocksdb-tools), \
         then `media-sidecar key import record.hex`", .0.display()
    )]
    RocksDb(PathBuf),
    /// The folder holds no database that is known here.
    #[error("it holds no conduit.db; name Conduit's database_path, the folder with conduit.db")]
    NoDatabase,
    /// `SQLite` cannot read it without creating files beside it.
    #[error(
        "Conduit runs or did not end cleanly, so SQLite has to create files beside the database to read it, and this user may not; run \
         this as root"
    )]
    NeedsWriting,
    /// `SQLite` cannot read it.
    #[error("{0}; is it Conduit's database? name its database_path, the folder with conduit.db")]
    Unusable(String),
    /// It has no key.
    #[error("it holds no `keypair` record; is this the database of the homeserver that runs?")]
    NoRecord,
}

impl ConduitKeyError {
    /// Why there is no `conduit.db` to open in `folder`.
    fn of_folder(folder: &Path, why: &io::Error) -> Self {
        if why.kind() == io::ErrorKind::PermissionDenied {
            Self::Forbidden
        } else if !folder.exists() {
            Self::NoFolder
        } else if folder.join("CURRENT").exists() {
            Self::RocksDb(folder.to_owned())
        } else {
            Self::NoDatabase
        }
    }
}

impl From<ConduitError> for ConduitKeyError {
    fn from(error: ConduitError) -> Self {
        match error {
            ConduitError::NeedsWriting => Self::NeedsWriting,
            ConduitError::Unusable(why) => Self::Unusable(why.to_string()),
        }
    }
}

impl KeyFile {
    /// The credential if there is one, else the `configured` file.
    pub(crate) fn locate(configured: &Path) -> Self {
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY");
        let credential = folder.map(|folder| Path::new(&folder).join("signing.key"));
        match credential.filter(|path| path.exists()) {
            Some(path) => Self::Credential(path),
            None => Self::File(configured.to_owned()),
        }
    }

    /// Reads the key. The mode of a file is checked. That of a credential is not: systemd protects it by other means.
    pub(crate) fn load(&self) -> Result<LoadedKey, KeyError> {
        match self {
            Self::Credential(path) => {
                Ok(LoadedKey { key: SigningKey::read_credential(path)?, warning: None })
            }
            Self::File(path) => SigningKey::load(path),
        }
    }

    /// How a running service takes another key, as the end of a sentence.
    pub(crate) fn how_to_renew(&self) -> &'static str {
        match self {
            Self::Credential(_) => "then restart the service: systemd hands the key over at the start",
            Self::File(_) => "the file is read again within a minute, without a restart",
        }
    }
}

impl SigningKey {
    /// Reads a key file: Synapse's text form, Dendrite's PEM or Conduit's record. A file that others can read or write is
    /// refused: the key is this server's identity, and whoever can write the file can replace it.
    pub fn load(path: &Path) -> Result<LoadedKey, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(unreadable)?.mode() & 0o777;
        let exposed = EXPOSED.iter().find(|(bits, _)| mode & bits != 0);
        if let Some((_, by)) = exposed {
            return Err(KeyError::Exposed { path: path.to_owned(), mode, by });
        }
        let readable_by_group = mode & 0o040 != 0;
        let warning = readable_by_group.then(|| {
            format!(
                "the signing key {0} can be read by its group (mode {mode:04o}); `chmod 600 {0}`",
                path.display()
            )
        });
        Ok(LoadedKey {
            key: Self::parse_file(path, read_file(path).map_err(unreadable)?.as_deref())?,
            warning,
        })
    }

    /// Reads a key file whatever its mode, to import it.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::NoSource { path: path.to_owned(), source };
        Self::parse_file(path, read_file(path).map_err(unreadable)?.as_deref())
    }

    /// Reads systemd's credential, whatever its mode.
    fn read_credential(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        Self::parse_file(path, read_file(path).map_err(unreadable)?.as_deref())
    }

    /// Parses the contents of a file; `None` stands for too much of it. Errors name the file.
    fn parse_file(path: &Path, bytes: Option<&[u8]>) -> Result<Self, KeyError> {
        let bytes = bytes.ok_or_else(|| KeyError::TooLarge(path.to_owned()))?;
        Self::parse(bytes).map_err(|why| KeyError::NotAKey { path: path.to_owned(), why })
    }

    /// Reads the key of a Conduit from its SQLite database, which may be in use. `folder` is Conduit's `database_path`.
    pub fn read_conduit_db(folder: &Path) -> Result<Self, KeyError> {
        let file = if folder.is_file() { folder.to_owned() } else { folder.join("conduit.db") };
        let failed = |path: &Path, why| KeyError::ConduitDatabase { path: path.to_owned(), why };
        if let Err(error) = File::open(&file) {
            let why = ConduitKeyError::of_folder(folder, &error);
            return Err(failed(if error.kind() == io::ErrorKind::NotFound { folder } else { &file }, why));
        }
        let record = read_conduit_keypair(&file).map_err(|error| failed(&file, error.into()))?;
        let record = record.ok_or_else(|| failed(&file, ConduitKeyError::NoRecord))?;
        Self::parse_file(&file, Some(&record))
    }

    /// Writes the key in Synapse's form, readable by its owner alone. An existing file is replaced only with
    /// [`Overwrite::Replace`].
    pub fn save(&self, path: &Path, overwrite: Overwrite) -> Result<(), KeyError> {
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                return KeyError::Exists(path.to_owned());
            }
            KeyError::Unwritable { path: path.to_owned(), source }
        };
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".signing").tempfile_in(folder).map_err(failed)?;
        file.write_all(self.to_synapse().as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        match overwrite {
            Overwrite::Never => file.persist_noclobber(path),
            Overwrite::Replace => file.persist(path),
        }
        .map_err(|error| failed(error.error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

/// The bytes of a file; `None` if there are too many for a key, as in a device that never ends.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| len_u64(bytes.len()) <= MAX_FILE))
}

/// What to do about a key file that cannot be read.
fn fix_for_reading(why: &io::Error, path: &Path) -> String {
    if why.kind() == io::ErrorKind::PermissionDenied {
        let shown = path.display();
        return format!(
            "run this as root, or give the file to the user of the service (`chown USER {shown}`)"
        );
    }
    "copy the homeserver's key there with `media-sidecar key import FILE`, or set homeserver.signing_key"
        .to_owned()
}

/// What to do about a file that cannot be read for import.
fn fix_for_importing(why: &io::Error) -> &'static str {
    if why.kind() == io::ErrorKind::PermissionDenied {
        "run this as root"
    } else if why.kind() == io::ErrorKind::IsADirectory {
        "name the key file in it, or for a Conduit with SQLite `--conduit-db` and this folder"
    } else {
        "name the homeserver's key file: Synapse's signing_key_path (like /etc/matrix-synapse/homeserver.signing.key), \
         Dendrite's global.private_key, or for a Conduit with SQLite `--conduit-db` and its database_path"
    }
}

/// What to do about a key file that cannot be written.
fn fix_for_writing(why: &io::Error) -> &'static str {
    if why.kind() == io::ErrorKind::PermissionDenied {
        "run this as root, or set homeserver.signing_key"
    } else {
        "create its folder, or set homeserver.signing_key"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::signing_key::tests::VECTOR;
    use super::*;

    #[test]
    fn a_saved_key_is_private_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let key = SigningKey::generate(|bytes| getrandom::fill(bytes).unwrap());
        key.save(&path, Overwrite::Never).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = SigningKey::load(&path).unwrap();
        assert_eq!((loaded.key.key_id(), loaded.key.public_key()), (key.key_id(), key.public_key()));
        assert!(loaded.warning.is_none());
        assert!(matches!(key.save(&path, Overwrite::Never), Err(KeyError::Exists(_))));
        key.save(&path, Overwrite::Replace).unwrap();
    }

    #[test]
    fn a_key_that_others_can_read_or_write_stops_the_start_and_a_shared_one_is_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        fs::write(&path, VECTOR).unwrap();
        let load = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            SigningKey::load(&path)
        };
        for (mode, by) in [
            (0o644, "read by every user"),
            (0o604, "read by every user"),
            (0o602, "written by every user"),
            (0o622, "written by every user"),
            (0o666, "written by every user"),
            (0o777, "written by every user"),
            (0o620, "written by its group"),
            (0o660, "written by its group"),
            (0o460, "written by its group"),
        ] {
            let error = load(mode).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
            assert!(error.contains(by), "{mode:04o}: {error}");
        }
        for mode in [0o640, 0o440, 0o650] {
            assert!(load(mode).unwrap().warning.unwrap().contains("group"), "{mode:04o}");
        }
        for mode in [0o600, 0o400, 0o700] {
            assert!(load(mode).unwrap().warning.is_none(), "{mode:04o}");
        }
        load(0o622).unwrap_err();
        assert!(SigningKey::read(&path).is_ok() && SigningKey::read_credential(&path).is_ok());
    }

    #[test]
    fn complaints_name_the_file_and_say_what_to_do_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("text"), "hello").unwrap();
        for (complaint, words) in [
            (SigningKey::read(&path("nope")).unwrap_err(), "/nope: No such file"),
            (SigningKey::read(&path("nope")).unwrap_err(), "name the homeserver's key file: Synapse's"),
            (SigningKey::read(folder.path()).unwrap_err(), "name the key file in it"),
            (SigningKey::read(&path("text")).unwrap_err(), "/text: not a signing key"),
            (SigningKey::read("/dev/zero".as_ref()).unwrap_err(), "/dev/zero: the file is too large"),
            (SigningKey::load(&path("nope")).unwrap_err(), "`media-sidecar key import FILE`"),
            (SigningKey::read_conduit_db(&path("nope")).unwrap_err(), "/nope: there is no such folder"),
            (SigningKey::read_conduit_db(folder.path()).unwrap_err(), "it holds no conduit.db"),
            (SigningKey::read_conduit_db(&path("text")).unwrap_err(), "/text: "),
            (SigningKey::read_conduit_db(&path("text")).unwrap_err(), "is it Conduit's database?"),
        ] {
            let told = complaint.to_string();
            assert!(told.contains(words) && !told.contains('\n'), "{words} is not in {told}");
        }
        let told = SigningKey::read(&path("nope")).unwrap_err().to_string();
        assert!(!told.contains("key import"), "that is what was just done: {told}");
        fs::write(path("CURRENT"), "MANIFEST-000004\n").unwrap();
        let told = SigningKey::read_conduit_db(folder.path()).unwrap_err().to_string();
        for words in ["RocksDB", "ldb --db=COPY --column_family=global", "key import record.hex"] {
            assert!(told.contains(words), "{words} is not in {told}");
        }
    }
}
