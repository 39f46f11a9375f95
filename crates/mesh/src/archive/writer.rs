//! The one thread that writes: what queued up meanwhile in one commit, and the WAL copied while nothing is to be written.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use super::{ArchiveError, classify, connect};

/// How many writes one commit may carry.
const BATCH: usize = 256;

/// When nothing was to be written for so long, there is time to copy the WAL into the database.
const IDLE: Duration = Duration::from_millis(5);

/// So many pages in the WAL are worth it: what is left there has to be read again by the next command.
const WORTH_COPYING: i64 = 100;

pub(super) type Job = Box<dyn FnOnce(&Connection) -> Result<(), rusqlite::Error> + Send>;

/// Which crash a write has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Survives {
    /// Ours. `synchronous = NORMAL`: the system has it, and writes it to the disk in its own time.
    Process,
    /// The machine's. `synchronous = FULL`: it is on the disk, with all that was committed before it.
    Machine,
}

impl Survives {
    fn pragma(self) -> &'static str {
        match self {
            Self::Process => "PRAGMA synchronous = NORMAL",
            Self::Machine => "PRAGMA synchronous = FULL",
        }
    }
}

/// A write, and where to say that it is committed.
pub(super) struct Write {
    pub(super) job: Job,
    pub(super) survives: Survives,
    pub(super) done: oneshot::Sender<Result<(), ArchiveError>>,
}

/// Runs writes until the archive is dropped: all that queued up in one commit, each in a savepoint of its own.
pub(super) fn run(connection: &Connection, queue: &mpsc::Receiver<Write>, path: &Path) {
    while let Some(first) = next_write(connection, queue, path) {
        let batch: Vec<Write> = std::iter::once(first).chain(queue.try_iter().take(BATCH - 1)).collect();
        let mut waiting = Vec::with_capacity(batch.len());
        let outcome = commit(connection, batch, &mut waiting);
        for (done, own) in waiting {
            let result = match (&outcome, own) {
                (_, Err(source)) => Err(classify(path, source)),
                (Err(source), Ok(())) => Err(classify(path, copy(source))),
                (Ok(()), Ok(())) => Ok(()),
            };
            // Whoever asked may not care any more.
            let _ = done.send(result);
        }
    }
}

/// The next write. While a message is on its way nothing is to be written, and what the WAL has collected is copied then:
/// as a part of a commit, which is when SQLite would do it, somebody would wait for it.
fn next_write(connection: &Connection, queue: &mpsc::Receiver<Write>, path: &Path) -> Option<Write> {
    match queue.recv_timeout(IDLE) {
        Err(RecvTimeoutError::Timeout) => {}
        next => return next.ok(),
    }
    match is_worth_copying(connection) {
        Ok(false) => {}
        Ok(true) => copy_wal_beside(path.to_owned()),
        Err(error) => tracing::debug!(%error, "the WAL was not looked at"),
    }
    queue.recv().ok()
}

fn is_worth_copying(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let (in_wal, copied) = checkpoint(connection, "NOOP")?;
    Ok(in_wal - copied >= WORTH_COPYING)
}

/// Copies the WAL into the database, in a thread and over a connection of its own: it waits for the disk, and the next
/// write need not. It waits for nobody else; what others still read stays.
fn copy_wal_beside(path: PathBuf) {
    let copy = move || {
        let copied = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .and_then(|beside| checkpoint(&beside, "PASSIVE").map_err(|source| classify(&path, source)));
        if let Err(error) = copied {
            tracing::debug!(%error, "the WAL was not copied");
        }
    };
    if let Err(error) = thread::Builder::new().name("archive-wal".to_owned()).spawn(copy) {
        tracing::debug!(%error, "the WAL was not copied");
    }
}

/// The pages in the WAL, and how many of them are in the database, too.
fn checkpoint(connection: &Connection, how: &str) -> Result<(i64, i64), rusqlite::Error> {
    let sql = format!("PRAGMA wal_checkpoint({how})");
    connection.prepare_cached(&sql)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}

type Waiting = Vec<(oneshot::Sender<Result<(), ArchiveError>>, Result<(), rusqlite::Error>)>;

fn commit(connection: &Connection, batch: Vec<Write>, waiting: &mut Waiting) -> Result<(), rusqlite::Error> {
    let survives = batch.iter().map(|write| write.survives).max().unwrap_or(Survives::Machine);
    // IMMEDIATE: a read that turns into a write is refused at once when another process writes.
    let begun = connection
        .prepare_cached(survives.pragma())
        .and_then(|mut pragma| pragma.execute([]))
        .and_then(|_| run_cached(connection, "BEGIN IMMEDIATE"));
    for write in batch {
        let own = match &begun {
            Err(error) => Err(copy(error)),
            Ok(()) => in_savepoint(connection, write.job),
        };
        waiting.push((write.done, own));
    }
    begun?;
    run_cached(connection, "COMMIT").inspect_err(|_| {
        let _ = connection.execute_batch("ROLLBACK");
    })
}

fn in_savepoint(connection: &Connection, job: Job) -> Result<(), rusqlite::Error> {
    run_cached(connection, "SAVEPOINT one")?;
    let result = job(connection);
    if result.is_err() {
        run_cached(connection, "ROLLBACK TO one")?;
    }
    run_cached(connection, "RELEASE one")?;
    result
}

fn run_cached(connection: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// SQLite's errors cannot be cloned; the code and the words can.
fn copy(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, words) => rusqlite::Error::SqliteFailure(*code, words.clone()),
        other => rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(1), Some(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wal_is_worth_copying_until_it_was_copied() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("x.db")).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE t (x BLOB)").unwrap();
        let fill = |pages: i64| {
            connection.execute("INSERT INTO t VALUES (zeroblob(?1))", [4096 * pages]).unwrap();
            is_worth_copying(&connection).unwrap()
        };
        assert!(!fill(10));
        assert!(fill(WORTH_COPYING));
        checkpoint(&connection, "PASSIVE").unwrap();
        assert!(!is_worth_copying(&connection).unwrap());
    }

    #[test]
    fn a_commit_survives_what_the_most_demanding_of_its_writes_has_to() {
        let connection = Connection::open_in_memory().unwrap();
        let synchronous_after = |batch: &[Survives]| -> i64 {
            let write = |survives: &Survives| Write {
                job: Box::new(|_| Ok(())),
                survives: *survives,
                done: oneshot::channel().0,
            };
            commit(&connection, batch.iter().map(write).collect(), &mut Vec::new()).unwrap();
            connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()
        };
        let (normal, full) = (1, 2);
        assert_eq!(synchronous_after(&[Survives::Process]), normal);
        assert_eq!(synchronous_after(&[Survives::Process, Survives::Machine, Survives::Process]), full);
        assert_eq!(synchronous_after(&[Survives::Process]), normal);
    }
}
