//! Queries about who and what takes the room.

use std::collections::HashMap;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::SqliteCatalog;
use super::blobs::read_totals;
use crate::error::Result;
use crate::matrix::Timestamp;

/// Most different content types that are counted apart: uploaders choose them.
const MAX_TYPES: usize = 10_000;

/// What the rows of a report on usage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UsageBy {
    Kind,
    /// Other servers.
    Server,
    /// Uploaders.
    User,
    /// The content type as it was claimed, without its parameters.
    Type,
    /// Days since last access, in groups that `group` names.
    Age {
        now: i64,
    },
}

/// A row of a report on usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) name: String,
    pub(crate) files: u64,
    /// Sizes of the files, each whole.
    pub(crate) referenced: u64,
    /// Sizes of those that nothing else shares its bytes with.
    pub(crate) freed: u64,
}

/// The queries.
pub(crate) trait UsageRows {
    /// What the store holds, by `by`, the largest first. `age` names a time since last access, in days.
    fn usage(&self, by: UsageBy, age: fn(u64) -> &'static str) -> Result<Vec<Usage>>;
}

impl UsageRows for SqliteCatalog {
    fn usage(&self, by: UsageBy, age: fn(u64) -> &'static str) -> Result<Vec<Usage>> {
        self.readers.ask(|connection| {
            // `size IS NOT NULL` says the same as `sha256 IS NOT NULL`, for which SQLite would take the index and look up every row.
            let mut rows = match by {
                UsageBy::Kind => by_kind(connection)?,
                UsageBy::Server => from_table(
                    connection,
                    "SELECT server_name, files, bytes FROM server_usage WHERE files > 0",
                )?,
                UsageBy::User => {
                    from_table(connection, "SELECT user_id, files, bytes FROM user_usage WHERE files > 0")?
                }
                UsageBy::Type => by_row(
                    connection,
                    "SELECT content_type, size FROM media WHERE size IS NOT NULL",
                    |text, _| essence(text),
                )?,
                UsageBy::Age { now } => by_row(
                    connection,
                    "SELECT '', size, last_access_ms FROM media WHERE size IS NOT NULL",
                    |_, last_access| age(days(now, last_access)).to_owned(),
                )?,
            };
            if by != UsageBy::Kind {
                subtract_shared(connection, by, age, &mut rows)?;
            }
            let mut rows: Vec<Usage> = rows.into_values().collect();
            rows.sort_by(|one, other| (other.referenced, &one.name).cmp(&(one.referenced, &other.name)));
            Ok(rows)
        })
    }
}

/// The kinds. What a kind references is the size of its rows, and what it frees that of the blobs which count as it.
fn by_kind(connection: &Connection) -> rusqlite::Result<HashMap<String, Usage>> {
    let totals = read_totals(connection)?;
    let sum = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(unsigned);
    let locals = sum("SELECT coalesce(sum(bytes), 0) FROM user_usage")?;
    let remotes = sum("SELECT coalesce(sum(bytes), 0) FROM server_usage")?;
    let kinds = [
        ("local", totals.local, locals),
        ("remote", totals.remote, remotes),
        ("preview", totals.preview, totals.preview.bytes),
        ("thumbnail", totals.thumbnail, totals.thumbnail.bytes),
    ];
    Ok(kinds
        .into_iter()
        .map(|(name, total, referenced)| {
            let name = name.to_owned();
            (name.clone(), Usage { name, files: total.files, referenced, freed: total.bytes })
        })
        .collect())
}

/// Rows of a table of totals.
fn from_table(connection: &Connection, sql: &str) -> rusqlite::Result<HashMap<String, Usage>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        let (name, files, bytes): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let bytes = unsigned(bytes);
        Ok((name.clone(), Usage { name, files: unsigned(files), referenced: bytes, freed: bytes }))
    })?;
    rows.collect()
}

/// Sums over all media, grouped by what `key` makes of a text and of the last access.
fn by_row(
    connection: &Connection,
    sql: &str,
    key: impl Fn(&str, i64) -> String,
) -> rusqlite::Result<HashMap<String, Usage>> {
    let mut statement = connection.prepare(sql)?;
    let has_time = statement.column_count() > 2;
    let mut rows = statement.query([])?;
    let mut sums = HashMap::<String, Usage>::new();
    while let Some(row) = rows.next()? {
        let time = if has_time { row.get(2)? } else { 0 };
        let mut name = key(row.get_ref(0)?.as_str()?, time);
        if sums.len() >= MAX_TYPES && !sums.contains_key(&name) {
            "other types".clone_into(&mut name);
        }
        let size = unsigned(row.get(1)?);
        let sum = sums.entry(name.clone()).or_insert_with(|| Usage { name, ..Usage::default() });
        sum.files = sum.files.saturating_add(1);
        sum.referenced = sum.referenced.saturating_add(size);
        sum.freed = sum.freed.saturating_add(size);
    }
    Ok(sums)
}

/// Takes what several rows share from what each of them would free.
fn subtract_shared(
    connection: &Connection,
    by: UsageBy,
    age: fn(u64) -> &'static str,
    sums: &mut HashMap<String, Usage>,
) -> rusqlite::Result<()> {
    // The left table is read once in its order; only shared blobs cost a look-up.
    let mut statement = connection.prepare(
        "SELECT media.server_name, coalesce(media.user_id, ''), media.content_type, media.last_access_ms, blob.size
         FROM blob CROSS JOIN media ON media.sha256 = blob.sha256
         WHERE blob.locals + blob.remotes + blob.previews + blob.thumbnails > 1",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let user_id = row.get_ref(1)?.as_str()?;
        let name = match by {
            UsageBy::Server if user_id.is_empty() => row.get(0)?,
            UsageBy::User => user_id.to_owned(),
            UsageBy::Type => essence(row.get_ref(2)?.as_str()?),
            UsageBy::Age { now } => age(days(now, row.get(3)?)).to_owned(),
            UsageBy::Server | UsageBy::Kind => continue,
        };
        let size = unsigned(row.get(4)?);
        if let Some(sum) = sums.get_mut(&name) {
            sum.freed = sum.freed.saturating_sub(size);
        }
    }
    Ok(())
}

/// A content type without its parameters.
fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.is_empty() { "none".to_owned() } else { essence }
}

/// Whole days from a time to `now`.
fn days(now: i64, time: i64) -> u64 {
    Timestamp(time).until(Timestamp(now)).as_secs().div_euclid(24 * 60 * 60)
}

/// A sum from a column. It is never negative.
fn unsigned(sum: i64) -> u64 {
    u64::try_from(sum).unwrap_or(0)
}
