//! What is remembered of other servers besides their keys.

use rusqlite::OptionalExtension as _;
use rusqlite::types::{FromSqlError, Type};

use super::Catalog;
use crate::config::Family;
use crate::error::Result;
use crate::matrix::{ServerName, Timestamp};

impl Catalog {
    /// The endpoint family that gave a server's media, and when that was first seen.
    pub(crate) fn family(&self, server_name: &ServerName) -> Result<Option<(Family, Timestamp)>> {
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

    /// Remembers the family that gave a server's media.
    pub(crate) fn put_family(&self, server_name: &ServerName, family: Family, now: Timestamp) -> Result<()> {
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

    /// Forgets families that were proven before `before`. Says how many.
    pub(crate) fn forget_families(&self, before: Timestamp) -> Result<usize> {
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
        let catalog = Catalog::open(folder.path()).unwrap();
        let server_name = ServerName::parse("example.org").unwrap();
        assert_eq!(catalog.family(&server_name).unwrap(), None);
        for family in [Family::Legacy, Family::Msc3916, Family::Msc1902] {
            catalog.put_family(&server_name, family, Timestamp(7)).unwrap();
            assert_eq!(catalog.family(&server_name).unwrap(), Some((family, Timestamp(7))));
        }
        assert_eq!(catalog.forget_families(Timestamp(7)).unwrap(), 0);
        assert_eq!(catalog.forget_families(Timestamp(8)).unwrap(), 1);
    }
}
