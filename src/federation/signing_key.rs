//! The homeserver's signing key: read, written, used for X-Matrix requests and nothing else.
//!
//! Owns the key. No other module sees its bytes; its `Debug` shows the key ID.
//! [Spec, signing details](https://spec.matrix.org/v1.19/appendices/#signing-details).

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64_NOPAD, HEXLOWER};
use ed25519_dalek::Signer as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::conduit_key::{self, Record};
use super::signed_json::{Object, decode_base64, signable};
use crate::error::in_words;
use crate::matrix::{ServerName, Timestamp, len_u64};
use crate::store::catalog::{ConduitError, read_conduit_keypair};

/// Algorithm of every Matrix signing key.
const ALGORITHM: &str = "ed25519";

/// Marks Dendrite's key file.
const DENDRITE_BEGIN: &str = "-----BEGIN MATRIX PRIVATE KEY-----";

/// Ends Dendrite's key file.
const DENDRITE_END: &str = "-----END MATRIX PRIVATE KEY-----";

/// What others may not do with a key file: permission bits, and what they let others do, worst first.
const EXPOSED: [(u32, &str); 3] =
    [(0o002, "written by every user"), (0o004, "read by every user"), (0o020, "written by its group")];

/// Largest key file read, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// A signing key with its ID.
pub struct SigningKey {
    /// `ed25519:version`
    key_id: String,
    /// Zeroed on drop.
    key: ed25519_dalek::SigningKey,
}

/// A key read from a file, and what the operator should know about the file.
#[derive(Debug)]
pub struct LoadedKey {
    /// The key.
    pub key: SigningKey,
    /// For the log: the group can read the file.
    pub warning: Option<String>,
}

/// Why there is no key. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file that `homeserver.signing_key` names cannot be read.
    #[error("cannot read the signing key {}: {}; {}", path.display(), in_words(source), mend_of_reading(source, path))]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file to import cannot be read.
    #[error("cannot read {}: {}; {}", path.display(), in_words(source), mend_of_importing(source))]
    NoSource {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file, or write it.
    #[error("the signing key {} can be {by} (mode {mode:04o}); run `chmod 600 {0}`", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What can be done by whom.
        by: &'static str,
    },
    /// None of the known forms.
    #[error("{0}")]
    Malformed(&'static str),
    /// The same, of a file.
    #[error("{}: {why}", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: Box<KeyError>,
    },
    /// Conduit's database gives no key.
    #[error("cannot read the signing key from {}: {why}", path.display())]
    ConduitDatabase {
        /// The database, or its folder.
        path: PathBuf,
        /// Why, and the mend.
        why: String,
    },
    /// The file exists.
    #[error("{} exists already; use --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The file cannot be written.
    #[error("cannot write the signing key {}: {}; {}", path.display(), in_words(source), mend_of_writing(source))]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What to do about a key file that cannot be read.
fn mend_of_reading(why: &io::Error, path: &Path) -> String {
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
fn mend_of_importing(why: &io::Error) -> &'static str {
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
fn mend_of_writing(why: &io::Error) -> &'static str {
    if why.kind() == io::ErrorKind::PermissionDenied {
        "run this as root, or set homeserver.signing_key"
    } else {
        "make its folder, or set homeserver.signing_key"
    }
}

impl SigningKey {
    /// Reads a key file: Synapse's text form, Dendrite's PEM or Conduit's record. A file that others can read or write is
    /// refused: the key is this server's identity, and who can write the file can take it away.
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

    /// Reads the credential of systemd, whatever its mode.
    fn read_credential(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        Self::parse_file(path, read_file(path).map_err(unreadable)?.as_deref())
    }

    /// Parses what was read of a file, `None` if it was too much. Complaints name the file.
    fn parse_file(path: &Path, bytes: Option<&[u8]>) -> Result<Self, KeyError> {
        let parsed = match bytes {
            Some(bytes) => Self::parse(bytes),
            None => Err(KeyError::Malformed("the file is too large for a signing key")),
        };
        parsed.map_err(|why| KeyError::NotAKey { path: path.to_owned(), why: Box::new(why) })
    }

    /// Parses the contents of a key file.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        if text.contains(DENDRITE_BEGIN) {
            return Self::parse_dendrite(text);
        }
        match conduit_key::parse(bytes) {
            Some(record) => Self::from_conduit(record),
            None => Self::parse_synapse(text),
        }
    }

    /// Reads the key of a Conduit from its SQLite database, which may be in use. `folder` is Conduit's `database_path`.
    pub fn read_conduit_db(folder: &Path) -> Result<Self, KeyError> {
        let file = if folder.is_file() { folder.to_owned() } else { folder.join("conduit.db") };
        let failed = |path: &Path, why: String| KeyError::ConduitDatabase { path: path.to_owned(), why };
        if let Err(error) = File::open(&file) {
            let why = mend_of_database(folder, &error);
            return Err(failed(if error.kind() == io::ErrorKind::NotFound { folder } else { &file }, why));
        }
        let record = read_conduit_keypair(&file).map_err(|error| failed(&file, mend_of_sqlite(&error)))?;
        let record = record.ok_or_else(|| {
            let why = "it holds no `keypair` record; is this the database of the homeserver that runs?";
            failed(&file, why.to_owned())
        })?;
        Self::parse_file(&file, Some(&record))
    }

    /// A fresh key with a random version.
    pub fn generate(mut random: impl FnMut(&mut [u8])) -> Self {
        let (mut seed, mut version) = ([0; 32], [0; 4]);
        random(&mut seed);
        random(&mut version);
        let version = HEXLOWER.encode(&version);
        Self::new(&format!("a_{version}"), &seed)
    }

    /// Writes the key in Synapse's form, readable by its owner alone. An existing file is replaced only by `force`.
    pub fn save(&self, path: &Path, overwrite: Overwrite) -> Result<(), KeyError> {
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                return KeyError::Exists(path.to_owned());
            }
            KeyError::Unwritable { path: path.to_owned(), source }
        };
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".signing").tempfile_in(folder).map_err(failed)?;
        let version = self.key_id.split_once(':').map_or("", |(_, version)| version);
        let seed = BASE64_NOPAD.encode(self.key.as_bytes());
        writeln!(file, "{ALGORITHM} {version} {seed}").map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        match overwrite {
            Overwrite::Never => file.persist_noclobber(path),
            Overwrite::Replace => file.persist(path),
        }
        .map_err(|error| failed(error.error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// `ed25519:version`
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key in unpadded base64, as `/_matrix/key/v2/server` shows it.
    pub fn public_key(&self) -> String {
        BASE64_NOPAD.encode(self.key.verifying_key().as_bytes())
    }

    /// Tells the sidecar of `server_name` with this key from any other, by what everybody may know: 16 hex digits.
    pub(crate) fn fingerprint(&self, server_name: &ServerName) -> String {
        let digest = Sha256::digest(format!("{server_name} {} {}", self.key_id, self.public_key()));
        HEXLOWER.encode(digest.first_chunk::<8>().unwrap_or(&[0; 8]))
    }

    /// The document a homeserver with this key publishes at `/_matrix/key/v2/server`: for the demo's stand-in, whose key
    /// this is. The sidecar itself publishes nothing.
    pub(crate) fn key_document(&self, server_name: &ServerName, valid_until: Timestamp) -> Value {
        let mut document = Object::from_iter([
            ("server_name".to_owned(), json!(server_name)),
            ("verify_keys".to_owned(), json!({&self.key_id: {"key": self.public_key()}})),
            ("old_verify_keys".to_owned(), json!({})),
            ("valid_until_ts".to_owned(), json!(valid_until.0)),
        ]);
        let signature = self.sign(&signable(&document).unwrap_or_default());
        document.insert("signatures".to_owned(), json!({server_name.as_str(): {&self.key_id: signature}}));
        Value::Object(document)
    }

    /// Signs canonical JSON.
    pub(crate) fn sign(&self, canonical_json: &[u8]) -> String {
        BASE64_NOPAD.encode(&self.key.sign(canonical_json).to_bytes())
    }

    /// A key from its parts.
    fn new(version: &str, seed: &[u8; 32]) -> Self {
        Self { key_id: format!("{ALGORITHM}:{version}"), key: ed25519_dalek::SigningKey::from_bytes(seed) }
    }

    /// Conduit's record. A public key beside the seed must be the seed's own.
    fn from_conduit(record: Record) -> Result<Self, KeyError> {
        let Record { version, seed, public_key } = record;
        if !is_version(&version) {
            return Err(KeyError::Malformed(
                "the key's version may have only letters, digits and underscores",
            ));
        }
        let key = Self::new(&version, &seed);
        if public_key.is_some_and(|public_key| public_key != *key.key.verifying_key().as_bytes()) {
            return Err(KeyError::Malformed(
                "the record is damaged: its public key does not belong to its secret one",
            ));
        }
        Ok(key)
    }

    /// Lines of `ed25519 <version> <unpadded base64 of the seed>`; the first signs, as in Synapse.
    fn parse_synapse(text: &str) -> Result<Self, KeyError> {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let mut words = line.unwrap_or_default().split_ascii_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(ALGORITHM), Some(version), Some(seed), None) => Self::from_text(version, seed),
            _ => Err(KeyError::Malformed(NOT_A_KEY)),
        }
    }

    /// A PEM block with a `Key-ID` header around the base64 of the seed; the first block signs, as in Dendrite.
    fn parse_dendrite(text: &str) -> Result<Self, KeyError> {
        let malformed = KeyError::Malformed("the MATRIX PRIVATE KEY block is incomplete");
        let block = text.split_once(DENDRITE_BEGIN).and_then(|(_, rest)| rest.split_once(DENDRITE_END));
        let Some((block, _)) = block else { return Err(malformed) };
        let (headers, body): (Vec<&str>, Vec<&str>) =
            block.lines().map(str::trim).filter(|line| !line.is_empty()).partition(|line| line.contains(':'));
        let key_id = headers.iter().find_map(|header| {
            let (name, value) = header.split_once(':')?;
            name.trim().eq_ignore_ascii_case("Key-ID").then(|| value.trim())
        });
        let version = key_id.and_then(|key_id| key_id.strip_prefix("ed25519:"));
        version.map_or(Err(malformed), |version| Self::from_text(version, &body.concat()))
    }

    /// A key from the text of its parts.
    fn from_text(version: &str, seed: &str) -> Result<Self, KeyError> {
        if !is_version(version) {
            return Err(KeyError::Malformed(
                "the key's version may have only letters, digits and underscores",
            ));
        }
        match decode_base64(seed).and_then(|seed| seed.try_into().ok()) {
            Some(seed) => Ok(Self::new(version, &seed)),
            None => Err(KeyError::Malformed("the key's seed is not the base64 of 32 bytes")),
        }
    }
}

/// A file's bytes; `None` if there are too many for a key, as in a device.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| len_u64(bytes.len()) <= MAX_FILE))
}

/// Why there is no `conduit.db` to open, and what to do instead.
fn mend_of_database(folder: &Path, why: &io::Error) -> String {
    let shown = folder.display();
    if why.kind() == io::ErrorKind::PermissionDenied {
        "it may not be read; run this as root".to_owned()
    } else if !folder.exists() {
        "there is no such folder; name Conduit's database_path, the folder with conduit.db".to_owned()
    } else if folder.join("CURRENT").exists() {
        format!(
            "it is a RocksDB database, which only RocksDB's own tool reads. Take the key out of a copy: `cp -r {shown} COPY`, \
             `ldb --db=COPY --column_family=global --hex get 0x6b657970616972 > record.hex` (ldb is in Debian's rocksdb-tools), \
             then `media-sidecar key import record.hex`"
        )
    } else {
        "it holds no conduit.db; name Conduit's database_path, the folder with conduit.db".to_owned()
    }
}

/// Why SQLite gives nothing, and what to do.
fn mend_of_sqlite(why: &ConduitError) -> String {
    match why {
        ConduitError::NeedsWriting => {
            "SQLite must write beside it to read it, for Conduit runs or did not end cleanly, and \
                                       this user may not; run this as root"
                .to_owned()
        }
        ConduitError::Unusable(why) => {
            format!("{why}; is it Conduit's database? name its database_path, the folder with conduit.db")
        }
    }
}

/// Where the service has its key from.
#[derive(Clone, Debug)]
pub(crate) enum KeyFile {
    /// The credential `signing.key` that systemd handed over at the start.
    Credential(PathBuf),
    /// The file that `homeserver.signing_key` names.
    File(PathBuf),
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

    /// Reads the key. A file's mode is checked; a credential is guarded by systemd, by means that its mode does not show.
    pub(crate) fn load(&self) -> Result<LoadedKey, KeyError> {
        match self {
            Self::Credential(path) => {
                Ok(LoadedKey { key: SigningKey::read_credential(path)?, warning: None })
            }
            Self::File(path) => SigningKey::load(path),
        }
    }

    /// What makes a running service take another key.
    pub(crate) fn how_to_renew(&self) -> &'static str {
        match self {
            Self::Credential(_) => "then restart the service: systemd hands the key over at the start",
            Self::File(_) => "the file is read again within a minute, without a restart",
        }
    }
}

/// Whether saving may replace a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave an existing file alone and fail.
    Never,
    /// Replace it.
    Replace,
}

/// What is wrong with a file of no known form.
const NOT_A_KEY: &str = "not a signing key: expected `ed25519 <version> <seed>` (Synapse), a MATRIX PRIVATE KEY block (Dendrite) \
                         or the `keypair` record of Conduit's family, raw or in hex";

/// Longest version, bytes; the specification names no bound, and the field's have a dozen.
const MAX_VERSION: usize = 64;

/// A key's version: `[a-zA-Z0-9_]+` (spec, `definitions/keys.yaml`).
pub(super) fn is_version(version: &str) -> bool {
    (1..=MAX_VERSION).contains(&version.len())
        && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The key of the specification's test vectors.
    pub(in crate::federation) const VECTOR: &str = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

    #[test]
    fn both_forms_give_the_same_key() {
        let synapse = SigningKey::parse(format!("\n{VECTOR}\ned25519 2 other\n").as_bytes()).unwrap();
        assert_eq!(synapse.key_id(), "ed25519:1");
        assert_eq!(synapse.public_key(), "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI");
        let dendrite = "-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:1\n\n\
                        YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0=\n-----END MATRIX PRIVATE KEY-----\n";
        let dendrite = SigningKey::parse(dendrite.as_bytes()).unwrap();
        assert_eq!(dendrite.key_id(), "ed25519:1");
        assert_eq!(dendrite.public_key(), synapse.public_key());
    }

    #[test]
    fn conduits_record_gives_the_same_key_and_a_damaged_one_none() {
        let synapse = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        let (seed, public_key) = (synapse.key.as_bytes(), *synapse.key.verifying_key().as_bytes());
        for (name, record) in conduit_key::tests::variants(seed, &public_key) {
            let key = SigningKey::parse(&record).unwrap();
            assert_eq!(
                (key.key_id(), key.public_key()),
                ("ed25519:abcd1234", synapse.public_key()),
                "{name}"
            );
        }
        let (_, damaged) = &conduit_key::tests::variants(seed, &[9; 32])[0];
        assert!(SigningKey::parse(damaged).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn other_files_are_refused_in_words() {
        for (text, word) in [
            ("", "Synapse"),
            ("rsa 1 abc", "Synapse"),
            ("ed25519 a:b YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0", "version"),
            ("ed25519 1 short", "seed"),
            ("-----BEGIN MATRIX PRIVATE KEY-----\n", "incomplete"),
        ] {
            let error = SigningKey::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(SigningKey::parse(b"\xff\xfe").is_err());
    }

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

    #[test]
    fn debug_shows_no_seed() {
        let key = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains("ed25519:1") && !shown.contains("YJDB"), "{shown}");
    }
}
