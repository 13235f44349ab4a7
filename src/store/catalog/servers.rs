//! Queries about other servers: their verify keys, and which endpoints they have.

use rusqlite::OptionalExtension as _;
use rusqlite::types::{FromSqlError, Type};

use super::SqliteCatalog;
use crate::config::Family;
use crate::error::Result;
use crate::matrix::{Expiry, ServerName, Timestamp};

/// A verify key of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredKey {
    /// `ed25519:version`
    pub(crate) key_id: String,
    /// Raw public key.
    pub(crate) public_key: [u8; 32],
    /// No request is accepted with it after this.
    pub(crate) valid_until: Expiry,
    pub(crate) fetched: Timestamp,
}

/// Most keys stored. A busy server of a small community knows a few thousand others.
const MAX_ROWS: u32 = 20_000;

/// Queries about other servers.
pub(crate) trait ServerRows: Send + Sync {
    /// The stored keys of a server, valid or not.
    fn server_keys(&self, server_name: &ServerName) -> Result<Vec<StoredKey>>;

    /// Replaces all keys of a server: a key that it no longer publishes verifies nothing.
    fn put_server_keys(&self, server_name: &ServerName, keys: Vec<StoredKey>) -> Result<()>;

    /// Deletes keys that are not valid at `now`, and of the others all but the [`MAX_ROWS`] fetched last, because anyone can make us fetch the
    /// keys of a server by claiming to be it. Returns how many.
    fn forget_expired_keys(&self, now: Timestamp) -> Result<usize>;

    /// The endpoint family under which a server sent media, and since when.
    fn family(&self, server_name: &ServerName) -> Result<Option<(Family, Timestamp)>>;

    /// Stores the family under which a server sent media.
    fn put_family(&self, server_name: &ServerName, family: Family, now: Timestamp) -> Result<()>;

    /// Deletes families stored before `before`. Returns how many.
    fn forget_families(&self, before: Timestamp) -> Result<usize>;
}

impl ServerRows for SqliteCatalog {
    fn server_keys(&self, server_name: &ServerName) -> Result<Vec<StoredKey>> {
        self.readers.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT key_id, public_key, valid_until_ms, fetched_ms FROM server_key WHERE server_name = ?1",
                )?
                .query_map([server_name.as_str()], |row| {
                    Ok(StoredKey {
                        key_id: row.get(0)?,
                        public_key: row.get(1)?,
                        valid_until: Expiry::at(Timestamp(row.get(2)?)),
                        fetched: Timestamp(row.get(3)?),
                    })
                })?
                .collect()
        })
    }

    fn put_server_keys(&self, server_name: &ServerName, keys: Vec<StoredKey>) -> Result<()> {
        let server_name = server_name.clone();
        self.writer.write(move |connection| {
            connection.execute("DELETE FROM server_key WHERE server_name = ?1", [server_name.as_str()])?;
            let mut insert = connection.prepare_cached(
                "INSERT INTO server_key (server_name, key_id, public_key, valid_until_ms, fetched_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for key in &keys {
                insert.execute((
                    server_name.as_str(),
                    key.key_id.as_str(),
                    key.public_key,
                    key.valid_until.time().0,
                    key.fetched.0,
                ))?;
            }
            Ok(())
        })
    }

    fn forget_expired_keys(&self, now: Timestamp) -> Result<usize> {
        self.writer.write(move |connection| {
            let expired = connection.execute("DELETE FROM server_key WHERE valid_until_ms <= ?1", [now.0])?;
            let surplus = connection.execute(
                "DELETE FROM server_key WHERE (server_name, key_id) IN (
                     SELECT server_name, key_id FROM server_key ORDER BY fetched_ms DESC LIMIT -1 OFFSET ?1)",
                [MAX_ROWS],
            )?;
            Ok(expired.saturating_add(surplus))
        })
    }

    fn family(&self, server_name: &ServerName) -> Result<Option<(Family, Timestamp)>> {
        self.readers.ask(|connection| {
            connection
                .prepare_cached("SELECT family, proven_ms FROM server WHERE server_name = ?1")?
                .query_row([server_name.as_str()], |row| {
                    let name: String = row.get(0)?;
                    let unknown = || {
                        rusqlite::Error::FromSqlConversionFailure(
                            0,
                            Type::Text,
                            Box::new(FromSqlError::InvalidType),
                        )
                    };
                    Ok((family_named(&name).ok_or_else(unknown)?, Timestamp(row.get(1)?)))
                })
                .optional()
        })
    }

    fn put_family(&self, server_name: &ServerName, family: Family, now: Timestamp) -> Result<()> {
        let server_name = server_name.clone();
        self.writer.write(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO server (server_name, family, proven_ms) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET family = excluded.family, proven_ms = excluded.proven_ms",
                )?
                .execute((server_name.as_str(), name_of(family), now.0))
                .map(drop)
        })
    }

    fn forget_families(&self, before: Timestamp) -> Result<usize> {
        self.writer.write(move |connection| {
            connection.execute("DELETE FROM server WHERE proven_ms < ?1", [before.0])
        })
    }
}

/// A family in the catalog.
fn name_of(family: Family) -> &'static str {
    match family {
        Family::Msc1902 => "msc1902",
        Family::Msc3916 => "msc3916",
        Family::Legacy => "legacy",
    }
}

/// A family from the catalog.
fn family_named(name: &str) -> Option<Family> {
    [Family::Msc1902, Family::Msc3916, Family::Legacy].into_iter().find(|family| name_of(*family) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_family_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        let server_name = ServerName::parse("example.org").unwrap();
        assert_eq!(catalog.family(&server_name).unwrap(), None);
        for family in [Family::Legacy, Family::Msc3916, Family::Msc1902] {
            catalog.put_family(&server_name, family, Timestamp(7)).unwrap();
            assert_eq!(catalog.family(&server_name).unwrap(), Some((family, Timestamp(7))));
        }
        assert_eq!(catalog.forget_families(Timestamp(7)).unwrap(), 0);
        assert_eq!(catalog.forget_families(Timestamp(8)).unwrap(), 1);
    }

    #[test]
    fn keys_are_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(folder.path()).unwrap();
        let server_name = ServerName::parse("example.org").unwrap();
        let key = |key_id: &str| StoredKey {
            key_id: key_id.to_owned(),
            public_key: [7; 32],
            valid_until: Expiry::at(Timestamp(2)),
            fetched: Timestamp(1),
        };
        catalog.put_server_keys(&server_name, vec![key("ed25519:a"), key("ed25519:b")]).unwrap();
        catalog.put_server_keys(&server_name, vec![key("ed25519:c")]).unwrap();
        assert_eq!(catalog.server_keys(&server_name).unwrap(), [key("ed25519:c")]);
        assert_eq!(catalog.forget_expired_keys(Timestamp(1)).unwrap(), 0);
        assert_eq!(catalog.forget_expired_keys(Timestamp(2)).unwrap(), 1);
    }
}
