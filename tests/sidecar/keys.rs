//! The signing key as the program finds it: modes, imports, complaints.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::binary::{Folder, command, text};
use crate::harness::{Homeserver, OUR_KEY, OURS, Peer, RemoteKey, Reply, Setup, eventually};

/// A user without rights, where tests run as root.
const NOBODY: u32 = 65534;

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Conduit's record of a key, as ed25519-dalek writes it: RFC 5958 with the public key.
pub fn conduit_record(seed: [u8; 32]) -> Vec<u8> {
    let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
    let head = b"\x30\x51\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    [b"k1234567\xff", &head[..], &seed, b"\x81\x21\x00", public.as_bytes()].concat()
}

/// Conduit's database in a folder that `key import` may only read, and the complaint of `key import` if there is one.
fn import_as_nobody(conduit: impl FnOnce(&Path)) -> Result<String, String> {
    let folder = Folder::new("");
    let database = folder.path("conduit");
    std::fs::create_dir(&database).unwrap();
    conduit(&database);
    std::fs::create_dir(folder.path("keys")).unwrap();
    set_mode(folder.path("keys"), 0o777);
    set_mode(folder.folder.path(), 0o755);
    set_mode(&database, 0o555);
    let mut import = command(folder.folder.path());
    import.args(["key", "import", "--conduit-db", "conduit"]);
    import.env("SIDECAR_HOMESERVER__SIGNING_KEY", "keys/signing.key");
    if rustix::process::geteuid().is_root() {
        import.uid(NOBODY).gid(NOBODY);
    }
    let output = import.output().unwrap();
    set_mode(&database, 0o755);
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Fills `folder` with Conduit's database and leaves it open.
fn conduit(folder: &Path) -> rusqlite::Connection {
    let conduit = rusqlite::Connection::open(folder.join("conduit.db")).unwrap();
    conduit.pragma_update(None, "journal_mode", "WAL").unwrap();
    conduit.execute_batch("CREATE TABLE global (key BLOB PRIMARY KEY, value BLOB NOT NULL)").unwrap();
    let record = conduit_record([7; 32]);
    conduit.execute("INSERT INTO global VALUES (CAST('keypair' AS BLOB), ?1)", [&record]).unwrap();
    conduit
}

#[test]
fn a_key_that_others_can_read_or_write_stops_the_start_and_says_how_to_fix_it() {
    let folder = Folder::new("");
    for (mode, words) in [
        (0o644, "can be read by every user (mode 0644)"),
        (0o602, "can be written by every user (mode 0602)"),
        (0o622, "can be written by every user (mode 0622)"),
        (0o620, "can be written by its group (mode 0620)"),
    ] {
        set_mode(folder.path("signing.key"), mode);
        let output = folder.run(&["serve"]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(words) && told.contains("run `chmod 600 "), "{told}");
    }
}

#[test]
fn the_credential_of_systemd_may_have_any_mode() {
    let folder = Folder::new("");
    std::fs::create_dir(folder.path("credentials")).unwrap();
    std::fs::write(folder.path("credentials/signing.key"), OUR_KEY).unwrap();
    set_mode(folder.path("credentials/signing.key"), 0o666);
    let output = command(folder.folder.path())
        .args(["key", "show"])
        .env("CREDENTIALS_DIRECTORY", folder.path("credentials"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_stopped_conduits_key_is_imported_by_a_user_who_may_only_read_it() {
    let imported = import_as_nobody(|folder| conduit(folder).close().unwrap()).unwrap();
    assert!(imported.contains("ed25519:k1234567"), "{imported}");
}

#[test]
fn a_database_that_needs_more_than_reading_says_to_run_as_root() {
    // As after a kill: the journal is there and its index is not.
    let told = import_as_nobody(|folder| {
        let open = conduit(folder);
        for file in ["conduit.db", "conduit.db-wal"] {
            std::fs::copy(folder.join(file), folder.join(format!("{file}.copy"))).unwrap();
        }
        drop(open);
        for file in ["conduit.db", "conduit.db-wal"] {
            std::fs::rename(folder.join(format!("{file}.copy")), folder.join(file)).unwrap();
        }
    });
    let told = told.unwrap_err();
    assert!(told.contains("run this as root") && !told.contains("readonly"), "{told}");

    let told = import_as_nobody(|folder| {
        conduit(folder).close().unwrap();
        set_mode(folder.join("conduit.db"), 0o600);
    });
    let told = told.unwrap_err();
    assert!(told.contains("run this as root"), "{told}");
}

#[test]
fn what_is_no_sqlite_of_conduit_is_told_with_the_next_step() {
    let folder = Folder::new("");
    std::fs::create_dir(folder.path("rocks")).unwrap();
    std::fs::write(folder.path("rocks/CURRENT"), "MANIFEST-000004\n").unwrap();
    for (arguments, words) in [
        (&["--conduit-db", "rocks"][..], "ldb --db=COPY --column_family=global --hex get 0x6b657970616972"),
        (&["--conduit-db", "nope"], "there is no such folder"),
        (&["--conduit-db", "sidecar.yaml"], "is it Conduit's database?"),
        (&["/nope"], "/nope: No such file or directory"),
        (&["sidecar.yaml"], "sidecar.yaml: not a signing key"),
    ] {
        let output = folder.run(&[&["key", "import"], arguments].concat());
        let told = text(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(words), "{words} is not in {told}");
        let advises_itself = told.contains("key import`") || told.contains("key import FILE`");
        assert!(!advises_itself && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn with_a_wrong_key_health_says_so_and_the_right_one_in_the_file_is_enough() {
    // The homeserver's real key is another than the one this sidecar started with.
    let real = RemoteKey::new(2);
    let document = real.document(OURS, i64::MAX);
    let homeserver = Homeserver::with(move |request| {
        (request.path() == "/_matrix/key/v2/server").then(|| Reply::json(200, &document))
    });
    let remote = Peer::tls(|_| {
        Reply::new(200).header("Content-Type", "image/png").header("Content-Disposition", "inline").body(b"x")
    });
    let mut setup = Setup::new().beside(homeserver);
    let file = setup.folder.path().join("signing.key");
    std::fs::write(&file, OUR_KEY).unwrap();
    set_mode(&file, 0o600);
    setup.config.homeserver.signing_key = file.clone();
    let sidecar = setup.start();
    let health = || {
        let answer = sidecar.anonymous().get("/_sidecar/health");
        (answer.status, answer.json()["homeserver"].as_str().unwrap().to_owned())
    };
    eventually("the keys are compared", || health().0 == 503);
    let told = health().1;
    for words in
        ["ed25519:1 ", "the homeserver publishes ed25519:r2 ", "key import --force", "without a restart"]
    {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    let download = format!("/_matrix/client/v1/media/download/{}/x", remote.name());
    assert_eq!(sidecar.alice().get(&download).status, 502);
    assert!(remote.requests().is_empty());
    let mark = || sidecar.anonymous().get("/nothing").header("x-media-sidecar").unwrap().to_owned();
    let old_mark = mark();

    // A file that everybody can read is not taken.
    let seed = data_encoding::BASE64_NOPAD.encode(real.key.as_bytes());
    std::fs::write(&file, format!("ed25519 r2 {seed}\n")).unwrap();
    set_mode(&file, 0o644);
    assert_eq!(health().0, 503);
    set_mode(&file, 0o600);
    assert_eq!(health(), (200, "ok".to_owned()));
    assert_eq!(sidecar.alice().get(&download).status, 200);
    let signed = remote.requests().iter().any(|request| {
        request.header("authorization").is_some_and(|header| header.contains("key=\"ed25519:r2\""))
    });
    assert!(signed && mark() != old_mark, "{:?}", remote.requests());
}
