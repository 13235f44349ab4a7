//! Conduit's own SQLite database, of which one record is read: the signing key.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

/// The record `keypair` of the table `global` in `conduit.db` below `folder`, Conduit's `database_path`. Read-only, also while
/// Conduit runs: in WAL mode readers and the writer do not wait for each other. `None` when there is no such record.
pub(crate) fn read_keypair(folder: &Path) -> rusqlite::Result<Option<Vec<u8>>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder.join("conduit.db"), flags)?;
    connection.busy_timeout(super::connection::PATIENCE)?;
    connection
        .query_row("SELECT value FROM global WHERE key = CAST('keypair' AS BLOB)", [], |row| row.get(0))
        .optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_while_the_database_is_open_for_writing_and_its_wal_is_not_yet_merged() {
        let folder = tempfile::tempdir().unwrap();
        let conduit = Connection::open(folder.path().join("conduit.db")).unwrap();
        conduit.pragma_update(None, "page_size", 2048).unwrap();
        conduit.pragma_update(None, "journal_mode", "WAL").unwrap();
        conduit.execute_batch("CREATE TABLE global (key BLOB PRIMARY KEY, value BLOB NOT NULL)").unwrap();
        assert_eq!(read_keypair(folder.path()).unwrap(), None);
        conduit.execute("INSERT INTO global VALUES (CAST('keypair' AS BLOB), x'0102ff')", []).unwrap();
        conduit.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(folder.path().join("conduit.db-wal").metadata().unwrap().len() > 0);
        assert_eq!(read_keypair(folder.path()).unwrap(), Some(vec![1, 2, 0xff]));
    }

    #[test]
    fn a_folder_without_the_database_is_an_error() {
        assert!(read_keypair(tempfile::tempdir().unwrap().path()).is_err());
    }
}
