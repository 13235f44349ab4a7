//! Verify keys of other servers.

use super::Catalog;
use crate::error::Result;
use crate::matrix::{Expiry, ServerName, Timestamp};

/// A key that verifies requests of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredKey {
    /// `ed25519:version`
    pub(crate) key_id: String,
    /// Raw public key.
    pub(crate) public_key: [u8; 32],
    /// No request is accepted with it after this.
    pub(crate) valid_until: Expiry,
    /// When it was fetched.
    pub(crate) fetched: Timestamp,
}

/// Keys kept; a busy server of a small community knows a few thousand others.
const MAX_ROWS: u32 = 20_000;

impl Catalog {
    /// The keys known of a server, valid or not.
    pub(crate) fn server_keys(&self, server_name: &ServerName) -> Result<Vec<StoredKey>> {
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

    /// Replaces what is known of a server's keys: a key it no longer publishes verifies nothing.
    pub(crate) fn put_server_keys(&self, server_name: &ServerName, keys: Vec<StoredKey>) -> Result<()> {
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

    /// Forgets keys that are no longer valid at `now`, and of the others all but the [`MAX_ROWS`] fetched last: anybody can
    /// claim to be a server whose keys are then fetched. Says how many.
    pub(crate) fn forget_expired_keys(&self, now: Timestamp) -> Result<usize> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(folder.path()).unwrap();
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
