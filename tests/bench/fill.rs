//! A catalog as large as a measurement needs.
//!
//! The rows look like those of a server that has been used for years: IDs as random as real ones, most of them of other
//! servers, names and types of every kind. What they hold is not as real: all of them share [`BLOBS`] small blobs, so that
//! every row can be downloaded and a million rows cost no million files.
//!
//! A part of the library's unit tests, which may use its inside. `tests/bench/run` fills by
//! `BENCH_FILL_ROWS=1000000 BENCH_FILL_CONFIG=…/sidecar.yaml cargo test --lib -- --ignored bench_fill`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::app::Environment;
use crate::config::{self, Config};
use crate::matrix::{MediaId, Mxc, ServerName, UserId};
use crate::store::Store;
use crate::store::blobs::Claim;
use crate::store::catalog::{Filled, NewMedia};
use crate::store::fs::SystemFs;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Different blobs that the rows share.
const BLOBS: u64 = 16;

/// Rows in one transaction, written in the order of their IDs: random IDs touch most pages of a large table, so the more
/// at once, the fewer times each page is written.
const BATCH: u64 = 100_000;

/// Other servers that the rows are of.
const SERVERS: u16 = 200;

/// Uploaders of the rows that are our own.
const USERS: u16 = 50;

/// How far back the oldest row was made, seconds: three years.
const AGE_S: u32 = 3 * 365 * 24 * 60 * 60;

/// Types with the end of a name each, as common as they are in rooms.
const KINDS: [(&str, &str); 10] = [
    ("image/jpeg", "jpg"),
    ("image/jpeg", "jpg"),
    ("image/jpeg", "jpg"),
    ("image/jpeg", "jpg"),
    ("image/png", "png"),
    ("image/png", "png"),
    ("image/webp", "webp"),
    ("video/mp4", "mp4"),
    ("audio/ogg", "ogg"),
    ("application/pdf", "pdf"),
];

/// Adds `rows` rows to the catalog below `data_dir`. Refuses while a service runs there.
fn fill(config: &Config, rows: u64) -> Result<(), Failure> {
    let store = Store::open(&config.data_dir, Arc::new(SystemFs))?;
    let claims = claims(&store)?;
    let maker = Maker::new(config, &claims)?;
    let mut added = 0_u64;
    while added < rows {
        let count = rows.saturating_sub(added).min(BATCH);
        let mut batch = (0..count).map(|_| maker.row()).collect::<Result<Vec<_>, Failure>>()?;
        batch.sort_unstable_by(|one, other| order(one).cmp(&order(other)));
        store.add_many(batch)?;
        added = added.saturating_add(count);
    }
    Ok(())
}

#[test]
#[ignore = "fills what BENCH_FILL_CONFIG names with BENCH_FILL_ROWS rows, for tests/bench/run"]
fn on_request() {
    let variable = |name| std::env::var(name).unwrap();
    let config = variable("BENCH_FILL_CONFIG");
    let config = config::load(Some(Path::new(&config)), []).unwrap().config;
    fill(&config, variable("BENCH_FILL_ROWS").parse().unwrap()).unwrap();
}

#[test]
fn rows_are_added_to_those_there_and_a_running_service_keeps_its_catalog() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::defaults(ServerName::parse("sidecar.test").unwrap());
    folder.path().clone_into(&mut config.data_dir);
    fill(&config, 300).unwrap();
    fill(&config, 33).unwrap();

    let catalog = rusqlite::Connection::open(folder.path().join("catalog.db")).unwrap();
    let count =
        "SELECT count(*), count(DISTINCT server_name), count(user_id), count(DISTINCT sha256) FROM media";
    let counts = catalog.query_row(count, [], |row| row.try_into());
    let (rows, servers, local, blobs): (u32, u32, u32, u32) = counts.unwrap();
    assert_eq!((rows, u64::from(blobs)), (333, BLOBS));
    assert!(servers > 10 && local > 50, "{servers} servers, {local} local rows");
    let _running = Store::open(&config.data_dir, Arc::new(SystemFs)).unwrap();
    assert!(fill(&config, 1).is_err());
}

/// Where a row stands in the table.
fn order(media: &NewMedia) -> (&str, &str) {
    (media.mxc.server_name.as_str(), media.mxc.media_id.as_str())
}

/// The blobs that rows share, the same each time: 1 KiB, 2 KiB and so on of a letter of their own.
fn claims(store: &Store) -> Result<Vec<Claim>, Failure> {
    let blob = |number: u64| {
        let mut ingest = store.begin(u64::MAX, None)?;
        for _ in 0..=number {
            ingest.write(&[b'a'.saturating_add(u8::try_from(number)?); 1024])?;
        }
        Ok(ingest.finish()?)
    };
    (0..BLOBS).map(blob).collect()
}

/// Makes rows.
struct Maker<'a> {
    /// Where IDs and everything else come from.
    environment: Environment,
    /// Ours.
    server_name: &'a ServerName,
    /// Others.
    servers: Vec<ServerName>,
    /// Ours.
    users: Vec<UserId>,
    /// What rows hold.
    claims: &'a [Claim],
}

impl<'a> Maker<'a> {
    /// Names whoever the rows are of.
    fn new(config: &'a Config, claims: &'a [Claim]) -> Result<Self, Failure> {
        let server = |number| ServerName::parse(&format!("matrix{number}.bench.example"));
        let user = |number| UserId::new(&format!("@user{number}:{}", config.server_name));
        Ok(Self {
            environment: Environment::system(),
            server_name: &config.server_name,
            servers: (0..SERVERS).map(server).collect::<Result<_, _>>()?,
            users: (0..USERS).map(user).collect(),
            claims,
        })
    }

    /// One row: two in five are our own.
    fn row(&self) -> Result<NewMedia, Failure> {
        let user_id = if self.below(5) < 2 { self.pick(&self.users).cloned() } else { None };
        let server_name = match &user_id {
            Some(_) => Some(self.server_name),
            None => self.pick(&self.servers),
        };
        let (content_type, ending) = self.pick(&KINDS).ok_or("no kinds")?;
        let claim = self.pick(self.claims).ok_or("no blobs")?;
        let age = Duration::from_secs(self.below(AGE_S).into());
        Ok(NewMedia {
            mxc: Mxc {
                server_name: server_name.ok_or("no servers")?.clone(),
                media_id: MediaId::generate(|bytes| (self.environment.random)(bytes)),
            },
            filled: Filled {
                sha256: claim.sha256(),
                size: claim.size(),
                content_type: (*content_type).to_owned(),
                upload_name: Some(format!("IMG_{:010}.{ending}", self.below(u32::MAX))),
            },
            user_id,
            created: (self.environment.clock)().before(age),
            open: true,
            anonymous: false,
        })
    }

    /// A number below `bound`, even enough for this.
    fn below(&self, bound: u32) -> u32 {
        let mut bytes = [0; 4];
        (self.environment.random)(&mut bytes);
        u32::from_le_bytes(bytes).checked_rem(bound).unwrap_or_default()
    }

    /// One of `all`.
    fn pick<'b, T>(&self, all: &'b [T]) -> Option<&'b T> {
        let index = self.below(u32::try_from(all.len()).ok()?);
        all.get(usize::try_from(index).ok()?)
    }
}
