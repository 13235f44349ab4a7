//! Migrations: they bring a database to the schema of this version.
//!
//! Owns the list of migrations, the copy that is made before they run, and the errors of opening a database.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

use crate::error::Error;
use crate::store::fs::Fs as _;
use crate::store::fs::SystemFs;

/// The migrations, in order; `user_version` is the number of those that have run.
const MIGRATIONS: [&str; 9] = [
    include_str!("../../../assets/migrations/0001_media.sql"),
    include_str!("../../../assets/migrations/0002_server.sql"),
    include_str!("../../../assets/migrations/0003_thumbnail.sql"),
    include_str!("../../../assets/migrations/0004_preview.sql"),
    include_str!("../../../assets/migrations/0005_preview_bytes.sql"),
    include_str!("../../../assets/migrations/0006_store.sql"),
    include_str!("../../../assets/migrations/0007_blob.sql"),
    include_str!("../../../assets/migrations/0008_anonymous.sql"),
    include_str!("../../../assets/migrations/0009_bounds.sql"),
];

/// `user_version` after all of them have run.
pub(super) const NEWEST: u32 = 9;

/// In the name of a copy: between the name of the database and the number of the first migration that the copy lacks.
const COPY: &str = ".before-";

/// Why a database could not be migrated.
#[derive(Debug, thiserror::Error)]
pub(super) enum MigrationError {
    /// A newer version of this program has written it.
    #[error("catalog.db was written by a newer version of media-sidecar; run that one")]
    Newer,
    /// Not a database, or a part of one, for example an interrupted copy.
    #[error(
        "catalog.db is damaged; nothing was changed. Restore it from a backup (README, \"Backup and restore\")"
    )]
    Damaged,
    /// Not enough space for the copy and for the migrations.
    #[error(
        "this version has to upgrade catalog.db and keeps a copy of it first: {needed} bytes must be free on the disk of data_dir, \
         {free} are. Nothing was changed"
    )]
    NoRoom {
        /// Required free bytes.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// The copy cannot be written.
    #[error(
        "this version has to upgrade catalog.db, and a copy of it cannot be kept first; nothing was changed: {0}"
    )]
    Copy(#[from] io::Error),
    /// An error of `SQLite`.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl From<MigrationError> for Error {
    fn from(error: MigrationError) -> Self {
        let is_damaged = matches!(
            &error,
            MigrationError::Sqlite(error)
                if matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                )
        );
        Self::internal("opening the catalog", if is_damaged { MigrationError::Damaged } else { error })
    }
}

/// Runs the migrations that the database at `path` lacks, all in one transaction. If it has a schema already, first makes a copy beside it.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), MigrationError> {
    let done: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if done > NEWEST {
        return Err(MigrationError::Newer);
    }
    if done == NEWEST {
        return Ok(());
    }
    if done > 0 {
        tracing::info!(from = done, to = NEWEST, "upgrading catalog.db; a large one takes a minute or more");
        check_room(connection, path, SystemFs.free(path)?)?;
        keep_copy(connection, path)?;
    }
    let transaction = connection.transaction()?;
    for (_, migration) in (1_u32..).zip(MIGRATIONS).filter(|(number, _)| *number > done) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", NEWEST)?;
    transaction.commit()?;
    if done > 0 {
        // The write-ahead log has grown to the size of all that the migrations wrote.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(())
}

/// Fails if there is not enough space for a copy and for the migrations. With a million rows they add two fifths to the database, and as
/// much again to its log.
fn check_room(connection: &Connection, path: &Path, free: u64) -> Result<(), MigrationError> {
    let log = fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
    let pages: u32 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let page_size: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let size = u64::from(pages).saturating_mul(page_size.into());
    let needed = size.saturating_mul(2).saturating_add(log);
    if free < needed { Err(MigrationError::NoRoom { needed, free }) } else { Ok(()) }
}

/// Makes a copy of the database beside it, durable and readable by its owner only. Replaces older copies.
fn keep_copy(connection: &Connection, path: &Path) -> Result<(), MigrationError> {
    let copy = beside(path, &format!("{COPY}{NEWEST}"));
    let unfinished = beside(&copy, ".tmp");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Created here with its mode, because SQLite would use the default mode. It accepts an existing empty file.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let name = unfinished.to_str().ok_or_else(|| io::Error::other("the path of data_dir is not UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [name])?;
    file.sync_all()?;
    fs::rename(&unfinished, &copy)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()?;
    tracing::info!(copy = %copy.display(), "kept a copy of catalog.db as it was before the upgrade");
    if let Err(error) = remove_older_copies(path, &copy) {
        tracing::warn!(%error, "cannot remove an older copy of catalog.db");
    }
    Ok(())
}

/// Removes the copies of earlier migrations.
fn remove_older_copies(path: &Path, copy: &Path) -> io::Result<()> {
    for number in 0..NEWEST {
        let older = beside(path, &format!("{COPY}{number}"));
        if older != copy && older.try_exists()? {
            fs::remove_file(older)?;
        }
    }
    Ok(())
}

/// `path` with a suffix.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::matrix::{MediaId, Mxc, ServerName, Timestamp, UserId};
    use crate::store::catalog::blobs::tests::ServerTotal;
    use crate::store::catalog::blobs::{KindTotal, Totals};
    use crate::store::catalog::{
        BlobRows as _, MediaRows as _, QuotaRows as _, Removed, SqliteCatalog, UserTotal,
    };
    use crate::store::sha256::Sha256;

    /// The schema before blobs had a table of their own.
    const WITHOUT_BLOBS: u32 = 6;

    /// A row or more in every table. Blobs 01 and 02 are shared: by two users, a server and a preview; by a preview and a thumbnail.
    const ROWS: &str = "
        INSERT INTO media (server_name, media_id, sha256, size, content_type, upload_name, user_id, created_ms, expires_ms, last_access_ms, open, preview)
        VALUES ('our.org', 'one',     unhex(hex(zeroblob(31)) || '01'), 100, 'image/png', 'a.png', '@a:our.org', 1000, NULL, 5000, 1, 0),
               ('our.org', 'two',     unhex(hex(zeroblob(31)) || '01'), 100, 'image/png', NULL,    '@b:our.org', 2000, NULL, 2000, 0, 0),
               ('far.org', 'one',     unhex(hex(zeroblob(31)) || '01'), 100, 'image/png', NULL,    NULL,         3000, NULL, 9000, 1, 0),
               ('far.org', 'three',   unhex(hex(zeroblob(31)) || '03'), 30,  'image/gif', NULL,    NULL,         3000, NULL, 3000, 1, 0),
               ('our.org', 'picture', unhex(hex(zeroblob(31)) || '01'), 100, 'image/png', NULL,    NULL,         4000, NULL, 4000, 1, 1),
               ('our.org', 'other',   unhex(hex(zeroblob(31)) || '02'), 20,  'image/png', NULL,    NULL,         4000, NULL, 4000, 1, 1),
               ('our.org', 'pending', NULL,                             NULL, '',         NULL,    '@a:our.org', 4000, 9000, 4000, 0, 0);
        INSERT INTO thumbnail VALUES
            (unhex(hex(zeroblob(31)) || '01'), 0, 0, 9, 9, 3, 3, 0, unhex(hex(zeroblob(31)) || '02'), 20, 'image/png', 5000),
            (unhex(hex(zeroblob(31)) || '01'), 0, 0, 9, 9, 4, 4, 0, unhex(hex(zeroblob(31)) || '04'), 4,  'image/png', 5000);
        INSERT INTO preview VALUES ('https://a/', '{}', 'picture', 9000), ('https://b/', '{}', 'other', 9000), ('https://c/', '{}', NULL, 9000);
        INSERT INTO server_key VALUES ('far.org', 'ed25519:1', zeroblob(32), 9000, 1000);
        INSERT INTO server VALUES ('far.org', 'msc3916', 1000);
        INSERT INTO orphan VALUES (unhex(hex(zeroblob(31)) || '0f'), 0, 1, 77);
        UPDATE store SET openings = 41;";

    fn blob(byte: u8) -> Sha256 {
        let mut bytes = [0; 32];
        bytes[31] = byte;
        Sha256::from_bytes(bytes)
    }

    fn mxc(server_name: &str, media_id: &str) -> Mxc {
        Mxc {
            server_name: ServerName::parse(server_name).unwrap(),
            media_id: MediaId::parse(media_id).unwrap(),
        }
    }

    /// Writes a catalog as the build with `version` migrations would, and returns its connection.
    fn write_old(path: &Path, version: u32) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        for migration in &MIGRATIONS[..usize::try_from(version).unwrap()] {
            connection.execute_batch(migration).unwrap();
        }
        connection.pragma_update(None, "user_version", version).unwrap();
        connection
    }

    /// Every row of a table as text, in order.
    fn rows(path: &Path, table: &str) -> Vec<String> {
        columns(path, table, usize::MAX)
    }

    /// The first columns of all rows.
    fn columns(path: &Path, table: &str, most: usize) -> Vec<String> {
        let connection = Connection::open(path).unwrap();
        let mut statement = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let columns = statement.column_count().min(most);
        let row = |row: &rusqlite::Row<'_>| {
            let values = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap()));
            Ok(values.collect::<Vec<_>>().join(" "))
        };
        statement.query_map([], row).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    #[test]
    fn the_newest_is_the_last() {
        assert_eq!(usize::try_from(NEWEST).unwrap(), MIGRATIONS.len());
    }

    #[test]
    fn a_catalog_without_blobs_is_upgraded_with_every_row_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        write_old(&path, WITHOUT_BLOBS).execute_batch(ROWS).unwrap();
        let tables = ["media", "thumbnail", "preview", "server_key", "server", "orphan", "store"];
        let count = |table: &str| {
            let connection = Connection::open(&path).unwrap();
            connection.prepare(&format!("SELECT * FROM {table}")).unwrap().column_count()
        };
        let old = tables.map(|table| (table, count(table)));
        let before = old.map(|(table, count)| columns(&path, table, count));

        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        // Later migrations add columns.
        assert_eq!(old.map(|(table, count)| columns(&path, table, count)), before);
        let expected = Totals {
            local: KindTotal { files: 2, blobs: 1, bytes: 100 },
            remote: KindTotal { files: 2, blobs: 1, bytes: 30 },
            preview: KindTotal { files: 2, blobs: 1, bytes: 20 },
            thumbnail: KindTotal { files: 2, blobs: 1, bytes: 4 },
        };
        assert_eq!(catalog.totals().unwrap(), expected);
        let user = |name| catalog.user_total(&UserId::new(name)).unwrap();
        assert_eq!(user("@a:our.org"), UserTotal { files: 1, bytes: 100, pending: 1 });
        assert_eq!(user("@b:our.org"), UserTotal { files: 1, bytes: 100, pending: 0 });
        let far = ServerName::parse("far.org").unwrap();
        assert_eq!(catalog.server_total(&far).unwrap(), ServerTotal { files: 2, bytes: 130 });
        let times: (i64, i64) = catalog
            .readers
            .ask(|connection| {
                let question = "SELECT created_ms, last_access_ms FROM blob WHERE sha256 = ?1";
                connection.query_row(question, [blob(1).as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .unwrap();
        assert_eq!(times, (1000, 9000));

        // It is used on like one that was new: the last row that refers to a blob takes it along.
        let removed = catalog.forget(&mxc("far.org", "three")).unwrap();
        assert_eq!(
            removed,
            Removed { media: vec![mxc("far.org", "three")], blobs: vec![blob(3)], ..Removed::default() }
        );
        assert!(!catalog.refers_to(&blob(3)).unwrap() && catalog.refers_to(&blob(1)).unwrap());
        let left = Totals { remote: KindTotal { files: 1, blobs: 0, bytes: 0 }, ..expected };
        assert_eq!(catalog.totals().unwrap(), left);
        catalog.forget_expired(Timestamp(9000)).unwrap();
        assert_eq!(user("@a:our.org").pending, 0);
    }

    #[test]
    fn the_copy_made_before_an_upgrade_opens_with_the_old_schema_and_replaces_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        // Still open, with its rows in the log alone, as a crash leaves it.
        let old = write_old(&path, WITHOUT_BLOBS);
        old.execute_batch(ROWS).unwrap();
        fs::write(beside(&path, ".before-6"), "of an earlier upgrade").unwrap();
        let copy = beside(&path, &format!("{COPY}{NEWEST}"));
        fs::write(&copy, "of an upgrade that failed").unwrap();
        fs::write(beside(&copy, ".tmp"), "of an upgrade that was interrupted").unwrap();
        drop(SqliteCatalog::open(folder.path()).unwrap());

        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("before"))
            .collect();
        assert_eq!(names, [format!("catalog.db{COPY}{NEWEST}")]);
        let connection = Connection::open(&copy).unwrap();
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, WITHOUT_BLOBS);
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        let old_rows = rows(&copy, "media");
        let count = connection.prepare("SELECT * FROM media").unwrap().column_count();
        assert_eq!(old_rows, columns(&path, "media", count));
        connection.execute("SELECT * FROM blob", []).unwrap_err();
        // Put back in place of the other, it is upgraded again.
        drop((connection, old));
        for end in ["", "-wal", "-shm"] {
            drop(fs::remove_file(beside(&path, end)));
        }
        fs::copy(&copy, &path).unwrap();
        assert_eq!(SqliteCatalog::open(folder.path()).unwrap().totals().unwrap().local.files, 2);
    }

    #[test]
    fn a_new_catalog_and_one_that_is_up_to_date_are_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            drop(SqliteCatalog::open(folder.path()).unwrap());
            assert!(!folder.path().join(format!("catalog.db{COPY}{NEWEST}")).exists());
        }
    }

    #[test]
    fn every_earlier_schema_is_upgraded() {
        for version in 1..NEWEST {
            let folder = tempfile::tempdir().unwrap();
            drop(write_old(&folder.path().join("catalog.db"), version));
            SqliteCatalog::open(folder.path()).unwrap().totals().unwrap();
        }
    }

    #[test]
    fn an_upgrade_without_room_or_without_a_copy_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let old = write_old(&path, WITHOUT_BLOBS);
        let error = check_room(&old, &path, 1 << 10).unwrap_err();
        assert!(error.to_string().contains("1024 are. Nothing was changed"), "{error}");
        check_room(&old, &path, 1 << 30).unwrap();
        drop(old);
        // A folder stands where the copy is to be written.
        fs::create_dir(beside(&path, &format!("{COPY}{NEWEST}.tmp"))).unwrap();
        let error = SqliteCatalog::open(folder.path()).err().unwrap();
        assert!(error.causes().contains("a copy of it cannot be kept first"), "{error:?}");
        let version: u32 = Connection::open(&path)
            .unwrap()
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, WITHOUT_BLOBS);
    }
}
