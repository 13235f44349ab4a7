//! Reads the signing key from Conduit's own SQLite database.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

/// Why the record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConduitError {
    /// The database is in WAL mode and in use, or was not closed cleanly: reading it needs files beside it that this user
    /// may not write.
    #[error("it cannot be read without creating files beside it")]
    NeedsWriting,
    #[error("{0}")]
    Unusable(#[from] rusqlite::Error),
}

/// The record `keypair` of the table `global` in `file`, Conduit's `conduit.db`. Read-only, also while Conduit runs: in WAL mode
/// readers and the writer do not wait for each other. `None` when there is no such record.
pub(crate) fn read_keypair(file: &Path) -> Result<Option<Vec<u8>>, ConduitError> {
    match query(file, Sharing::WithWriters) {
        Err(error) if is_refusal(&error) && has_wal(file) => Err(ConduitError::NeedsWriting),
        // SQLite creates its shared-memory file even for reading. If it may not, the database can still be read if it was closed cleanly.
        Err(error) if is_refusal(&error) => Ok(query(file, Sharing::Alone)?),
        other => Ok(other?),
    }
}

/// Whether other processes may write the database while it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    WithWriters,
    /// Takes no locks and ignores files beside the database.
    Alone,
}

fn query(file: &Path, sharing: Sharing) -> rusqlite::Result<Option<Vec<u8>>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match sharing {
        Sharing::WithWriters => Connection::open_with_flags(file, flags),
        Sharing::Alone => Connection::open_with_flags(uri(file), flags | OpenFlags::SQLITE_OPEN_URI),
    }?;
    connection.busy_timeout(super::connection::LOCK_TIMEOUT)?;
    connection
        .query_row("SELECT value FROM global WHERE key = CAST('keypair' AS BLOB)", [], |row| row.get(0))
        .optional()
}

/// `file` as an SQLite URI for a database that does not change. Escapes every byte except letters, digits and a few others.
fn uri(file: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let escaped =
        percent_encoding::percent_encode(file.as_os_str().as_bytes(), percent_encoding::NON_ALPHANUMERIC);
    format!("file:{}?immutable=1", escaped.to_string().replace("%2F", "/"))
}

/// Whether SQLite had not enough permissions.
fn is_refusal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
    )
}

/// Whether the write-ahead log may contain changes that are not in the database yet. A log that cannot be read counts as such.
fn has_wal(file: &Path) -> bool {
    let mut wal = file.as_os_str().to_owned();
    wal.push("-wal");
    let wal = PathBuf::from(wal);
    wal.metadata()
        .map_or_else(|why| why.kind() != std::io::ErrorKind::NotFound, |metadata| metadata.len() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_while_the_database_is_open_for_writing_and_its_wal_is_not_yet_merged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("conduit.db");
        let conduit = Connection::open(&file).unwrap();
        conduit.pragma_update(None, "page_size", 2048).unwrap();
        conduit.pragma_update(None, "journal_mode", "WAL").unwrap();
        conduit.execute_batch("CREATE TABLE global (key BLOB PRIMARY KEY, value BLOB NOT NULL)").unwrap();
        assert_eq!(read_keypair(&file).unwrap(), None);
        conduit.execute("INSERT INTO global VALUES (CAST('keypair' AS BLOB), x'0102ff')", []).unwrap();
        conduit.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(folder.path().join("conduit.db-wal").metadata().unwrap().len() > 0);
        assert_eq!(read_keypair(&file).unwrap(), Some(vec![1, 2, 0xff]));
    }

    #[test]
    fn a_folder_without_the_database_is_an_error() {
        assert!(read_keypair(&tempfile::tempdir().unwrap().path().join("conduit.db")).is_err());
    }

    #[test]
    fn a_database_that_nobody_writes_is_read_from_its_one_file_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a b%20?#ü.db");
        let conduit = Connection::open(&file).unwrap();
        conduit.pragma_update(None, "journal_mode", "WAL").unwrap();
        conduit.execute_batch("CREATE TABLE global (key BLOB PRIMARY KEY, value BLOB NOT NULL)").unwrap();
        conduit.execute("INSERT INTO global VALUES (CAST('keypair' AS BLOB), x'07')", []).unwrap();
        assert!(has_wal(&file), "it is in use");
        conduit.close().unwrap();
        assert!(!has_wal(&file), "it was closed");
        assert_eq!(query(&file, Sharing::Alone).unwrap(), Some(vec![7]));
    }
}
