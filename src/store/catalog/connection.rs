//! `SQLite` connections: a pool for reading, a thread for writing.
//!
//! Owns pragmas and group commit: writes that arrive while a commit is synced to the disk share the next commit. Many small uploads cost few
//! syncs, and each is durable before its response.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Error, Kind, Result};

/// Connections that read. `SQLite` answers from the page cache in microseconds; more would only cost memory.
const READERS: u32 = 4;

/// Page cache of each connection: 512 KiB. `SQLite` takes a negative number as KiB.
const CACHE_SIZE: i32 = -512;

/// Statements kept prepared on each connection.
const STATEMENTS: usize = 32;

/// Writes that wait for the writer thread; further callers block until one is done.
const QUEUE: usize = 256;

/// Most writes in one transaction.
const BATCH: usize = 64;

/// How long to wait for a lock that another process holds (a backup, `sqlite3` in a terminal), or for a free reader.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The pool of read-only connections.
pub(super) struct ReaderPool {
    pool: Pool<SqliteConnectionManager>,
    /// Reads so far.
    asked: AtomicU64,
}

/// The thread that writes, stopped when this is dropped.
pub(super) struct WriterThread {
    /// `None` once dropping has begun.
    queue: Option<SyncSender<Job>>,
    /// Writes so far.
    asked: AtomicU64,
    /// How the last commit ended.
    last_commit: Arc<LastCommit>,
    /// Joined on drop, so that the database is closed when the catalog is gone.
    thread: Option<JoinHandle<()>>,
}

/// How the last commit ended, and when.
#[derive(Debug)]
struct LastCommit(Mutex<(Instant, bool)>);

/// How long a successful commit proves that the catalog can be written. The health check commits only without such a proof, to spare the SD
/// card.
const COMMIT_PROOF: Duration = Duration::from_mins(5);

/// A write. It runs inside the transaction, or without one if that could not be begun. Returns its error, if it failed, and what to do when
/// the transaction has ended.
type Job = Box<dyn FnOnce(Option<&Connection>) -> (Option<Error>, Finish) + Send>;

/// Sends the caller the result of its write, given the result of the commit.
type Finish = Box<dyn FnOnce(&Result<()>) + Send>;

impl ReaderPool {
    /// A pool on the database at `path`, which exists.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let manager = SqliteConnectionManager::file(path).with_flags(flags).with_init(|connection| {
            connection.busy_timeout(LOCK_TIMEOUT)?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            connection.pragma_update(None, "cache_size", CACHE_SIZE)
        });
        Pool::builder()
            .max_size(READERS)
            // Opened when needed: each connection keeps its own copy of the schema, some 150 KiB.
            .min_idle(Some(0))
            .connection_timeout(LOCK_TIMEOUT)
            .test_on_check_out(false)
            .build(manager)
            .map(|pool| Self { pool, asked: AtomicU64::new(0) })
            .map_err(|error| Error::internal("opening the catalog for reading", error))
    }

    /// How many reads were made so far.
    pub(super) fn count(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Runs one read.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let connection =
            self.pool.get().map_err(|error| Error::internal("waiting for the catalog", error))?;
        question(&connection).map_err(|error| Error::internal("reading the catalog", error))
    }
}

impl WriterThread {
    /// Starts the thread on `connection`.
    pub(super) fn start(connection: Connection) -> Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        // Opening the catalog has written to it.
        let last_commit = Arc::new(LastCommit(Mutex::new((Instant::now(), true))));
        let noted = Arc::clone(&last_commit);
        let thread = std::thread::Builder::new()
            .name("catalog-writer".to_owned())
            .spawn(move || write_batches(&connection, &jobs, &noted))
            .map_err(|error| Error::internal("starting the catalog's writer", error))?;
        Ok(Self { queue: Some(queue), asked: AtomicU64::new(0), last_commit, thread: Some(thread) })
    }

    /// Whether the last commit succeeded within [`COMMIT_PROOF`]. If not, the health check tries one.
    pub(super) fn is_proven(&self) -> bool {
        let (at, worked) = *self.last_commit.lock();
        worked && at.elapsed() < COMMIT_PROOF
    }

    /// How many writes were made so far.
    pub(super) fn count(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Runs one write and waits until it is durable. A write that fails leaves no trace and does not disturb others.
    pub(super) fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (answer, outcome) = sync_channel(1);
        let job: Job = Box::new(move |connection| {
            let result = connection.map(|connection| {
                in_savepoint(connection, change).map_err(|error| failed("writing to the catalog", error))
            });
            // Without a transaction the commit has failed, and its error says why.
            let result = result.unwrap_or_else(|| Err(Error::internal("writing to the catalog", WriterGone)));
            let error = result.as_ref().err().cloned();
            // The receiver is gone only if the caller's thread has panicked.
            (error, Box::new(move |commit| drop(answer.send(commit.clone().and(result)))))
        });
        let gone = || Error::internal("writing to the catalog", WriterGone);
        self.queue.as_ref().ok_or_else(gone)?.send(job).map_err(|_job| gone())?;
        outcome.recv().map_err(|_disconnected| gone())?
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // If the thread has panicked, that was printed already.
            drop(thread.join());
        }
    }
}

/// The writer thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("the catalog's writer has stopped")]
struct WriterGone;

/// `SQLite` has rolled back a transaction by itself.
#[derive(Debug, thiserror::Error)]
#[error("the transaction was rolled back")]
struct RolledBack;

/// The writer's loop: runs all waiting writes in one transaction, commits, and sends the results.
fn write_batches(connection: &Connection, jobs: &Receiver<Job>, last_commit: &LastCommit) {
    while let Ok(first) = jobs.recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let jobs = std::iter::once(first).chain(jobs.try_iter().take(BATCH));
        let mut finish = Vec::new();
        let changes = connection.total_changes();
        let mut commit = begun.map_err(|error| failed("writing to the catalog", error));
        for job in jobs {
            let (error, answer) = job(commit.is_ok().then_some(connection));
            finish.push(answer);
            // A full disk or an I/O error rolls back the whole transaction, with the earlier writes in it.
            if connection.is_autocommit() && commit.is_ok() {
                commit = Err(error.unwrap_or_else(|| Error::internal("writing to the catalog", RolledBack)));
            }
        }
        if commit.is_ok() {
            commit = connection
                .execute_batch("COMMIT")
                .map_err(|error| failed("committing to the catalog", error));
        }
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "rolling back a catalog transaction");
        }
        if commit.is_err() {
            last_commit.lock().1 = false;
        } else if connection.total_changes() > changes {
            *last_commit.lock() = (Instant::now(), true);
        }
        for answer in finish {
            answer(&commit);
        }
    }
}

impl LastCommit {
    /// The value is never left half-changed, so a poisoned lock can be used.
    fn lock(&self) -> MutexGuard<'_, (Instant, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error for a failed write. A full disk is not an internal error.
fn failed(what: &'static str, error: rusqlite::Error) -> Error {
    let is_full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
    let inside = Error::internal(what, error);
    if is_full { inside.with_kind(Kind::NoRoom, "no room left on the server") } else { inside }
}

/// Runs `change` in a savepoint. If it fails, only its own changes are rolled back.
fn in_savepoint<T>(
    connection: &Connection,
    change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT change")?;
    match change(connection) {
        Ok(value) => connection.execute_batch("RELEASE change").map(|()| value),
        Err(error) => {
            // Some errors have rolled back the whole transaction already. The first error is the cause, so that one is returned.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK TO change; RELEASE change")?;
            }
            Err(error)
        }
    }
}

/// Opens the connection that writes, creating the database for the owner alone.
pub(super) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    if let Err(error) = std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)) {
        tracing::warn!(%error, "cannot make the catalog private to its owner");
    }
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", CACHE_SIZE)?;
    // Readers do not wait for the writer, and the file survives a power failure at any moment.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is on the disk when it returns.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // So that triggers also fire for rows that REPLACE deletes: see 0007_blob.sql.
    connection.pragma_update(None, "recursive_triggers", true)?;
    connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_write_leaves_no_trace_and_the_next_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = open_writer(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (x INTEGER UNIQUE)").unwrap();
        let writer = WriterThread::start(connection).unwrap();
        writer.write(|connection| connection.execute("INSERT INTO t VALUES (1)", [])).unwrap();
        let failed = writer.write(|connection| {
            connection.execute("INSERT INTO t VALUES (2)", [])?;
            connection.execute("INSERT INTO t VALUES (1)", [])
        });
        assert!(failed.unwrap_err().causes().contains("UNIQUE"));
        writer.write(|connection| connection.execute("INSERT INTO t VALUES (3)", [])).unwrap();
        let sum: i64 = ReaderPool::new(&path)
            .unwrap()
            .ask(|c| c.query_row("SELECT sum(x) FROM t", [], |r| r.get(0)))
            .unwrap();
        assert_eq!(sum, 4);
    }

    #[test]
    fn the_pragmas_are_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writer(&folder.path().join("x.db")).unwrap();
        let text =
            |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, String>(0)).unwrap();
        let number =
            |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(text("journal_mode"), "wal");
        assert_eq!((number("synchronous"), number("foreign_keys")), (2, 1));
    }
}
