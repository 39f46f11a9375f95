//! The one thread that writes: what queued up meanwhile in one commit, and the WAL copied while nothing is to be written.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use super::{ArchiveError, classify, connect};

/// How many writes one commit may carry.
const BATCH: usize = 256;

/// When nothing was to be written for so long, there is time to copy the WAL into the database.
const IDLE: Duration = Duration::from_millis(5);

/// For so long a write that nobody waits for waits for another one, to share its commit: that a gateway took a message is
/// hardly noted when the answer is here.
const COMPANY: Duration = Duration::from_millis(2);

/// So many pages in the WAL are worth it: what is left there has to be read again by the next command.
const WORTH_COPYING: i64 = 100;

/// A WAL of so many pages is copied at once: who opens it next reads all of it, 3 us a page, also what is in the database.
const TOO_LONG: i64 = 250;

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

impl Write {
    /// Whether somebody waits for it, or would if he knew how to. Only notes can wait: they all survive our crash only.
    fn is_urgent(&self) -> bool {
        self.survives == Survives::Machine || !self.done.is_closed()
    }
}

/// Runs writes until the archive is dropped: all that queued up in one commit.
pub(super) fn run(connection: &Connection, queue: &mpsc::Receiver<Write>, path: &Path) {
    let mut set = None;
    let mut is_first = true;
    while let Some(first) = next_write(connection, queue, path) {
        let batch = gather(first, queue);
        let mut waiting = Vec::with_capacity(batch.len());
        let outcome = commit(connection, &mut set, batch, &mut waiting);
        for (done, own) in waiting {
            let result = match (&outcome, own) {
                (_, Err(source)) => Err(classify(path, source)),
                (Err(source), Ok(())) => Err(classify(path, copy(source))),
                (Ok(()), Ok(())) => Ok(()),
            };
            // Whoever asked may not care any more.
            let _ = done.send(result);
        }
        if std::mem::take(&mut is_first) {
            shorten_wal(connection);
        }
    }
}

/// Copies all of a WAL that became long, so that the next write begins it anew. For commands, which are over before there is
/// time for it: after their first write, while they dial. No other write of ours can come between.
fn shorten_wal(connection: &Connection) {
    let shortened = checkpoint(connection, "NOOP").and_then(|(in_wal, _)| match in_wal < TOO_LONG {
        true => Ok(()),
        false => checkpoint(connection, "PASSIVE").map(drop),
    });
    if let Err(error) = shortened {
        tracing::debug!(%error, "the WAL was not copied");
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

/// What queued up behind a write.
fn gather(first: Write, queue: &mpsc::Receiver<Write>) -> Vec<Write> {
    let end = Instant::now() + COMPANY;
    let mut batch = vec![first];
    loop {
        batch.extend(queue.try_iter().take(BATCH - batch.len()));
        if batch.len() == BATCH || batch.iter().any(Write::is_urgent) {
            return batch;
        }
        match queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(next) => batch.push(next),
            Err(_) => return batch,
        }
    }
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

/// `set` is what the connection is set to survive.
fn commit(
    connection: &Connection,
    set: &mut Option<Survives>,
    batch: Vec<Write>,
    waiting: &mut Waiting,
) -> Result<(), rusqlite::Error> {
    // IMMEDIATE: a read that turns into a write is refused at once when another process writes.
    let survives = batch.iter().map(|write| write.survives).max().unwrap_or(Survives::Machine);
    let begun = survive(connection, set, survives).and_then(|()| run_cached(connection, "BEGIN IMMEDIATE"));
    let is_alone = batch.len() == 1;
    for write in batch {
        let own = match &begun {
            Err(error) => Err(copy(error)),
            Ok(()) if is_alone => (write.job)(connection),
            Ok(()) => in_savepoint(connection, write.job),
        };
        waiting.push((write.done, own));
    }
    begun?;
    // One that is alone and fails has no savepoint to go back to.
    let end = if waiting.iter().any(|(_, own)| own.is_ok()) { "COMMIT" } else { "ROLLBACK" };
    run_cached(connection, end).inspect_err(|_| {
        let _ = connection.execute_batch("ROLLBACK");
    })
}

fn survive(
    connection: &Connection,
    set: &mut Option<Survives>,
    survives: Survives,
) -> Result<(), rusqlite::Error> {
    if *set != Some(survives) {
        run_cached(connection, survives.pragma())?;
        *set = Some(survives);
    }
    Ok(())
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

    #[tokio::test]
    async fn a_wal_that_others_left_long_begins_anew_after_the_first_writes() {
        let (_folder, archive) = crate::archive::tests::archive();
        let other = Connection::open(archive.path()).unwrap();
        let in_wal = || checkpoint(&other, "NOOP").unwrap().0;
        other.execute_batch("CREATE TABLE t (x BLOB)").unwrap();
        other.execute("INSERT INTO t VALUES (zeroblob(?1))", [4096 * TOO_LONG]).unwrap();
        assert!(in_wal() > TOO_LONG);
        archive.settle().await.unwrap();
        archive.reset_limits(None).await.unwrap();
        assert!(in_wal() < 10, "{} pages", in_wal());
    }

    #[test]
    fn a_commit_survives_what_the_most_demanding_of_its_writes_has_to() {
        let connection = Connection::open_in_memory().unwrap();
        let mut set = None;
        let mut synchronous_after = |batch: &[Survives]| -> i64 {
            let write = |survives: &Survives| Write {
                job: Box::new(|_| Ok(())),
                survives: *survives,
                done: oneshot::channel().0,
            };
            commit(&connection, &mut set, batch.iter().map(write).collect(), &mut Vec::new()).unwrap();
            connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()
        };
        let (normal, full) = (1, 2);
        assert_eq!(synchronous_after(&[Survives::Process]), normal);
        assert_eq!(synchronous_after(&[Survives::Process, Survives::Machine, Survives::Process]), full);
        assert_eq!(synchronous_after(&[Survives::Process]), normal);
    }

    /// Jobs that each insert their number and, if so told, fail then.
    fn after_batch(batch: &[(i64, bool)]) -> (Vec<i64>, Vec<bool>) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        let write = |&(number, fails): &(i64, bool)| Write {
            job: Box::new(move |db| {
                db.execute("INSERT INTO t VALUES (?1)", [number])?;
                if fails { Err(rusqlite::Error::InvalidQuery) } else { Ok(()) }
            }),
            survives: Survives::Process,
            done: oneshot::channel().0,
        };
        let mut waiting = Vec::new();
        commit(&connection, &mut None, batch.iter().map(write).collect(), &mut waiting).unwrap();
        assert!(connection.is_autocommit());
        let mut kept = connection.prepare("SELECT x FROM t").unwrap();
        let kept = kept.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        (kept, waiting.iter().map(|(_, own)| own.is_ok()).collect())
    }

    #[test]
    fn what_fails_leaves_nothing_behind_and_takes_nothing_with_it() {
        assert_eq!(after_batch(&[(1, true)]), (vec![], vec![false]));
        assert_eq!(after_batch(&[(1, false)]), (vec![1], vec![true]));
        assert_eq!(after_batch(&[(1, true), (2, false), (3, true)]), (vec![2], vec![false, true, false]));
        assert_eq!(after_batch(&[(1, true), (2, true)]), (vec![], vec![false, false]));
    }

    #[test]
    fn only_a_note_that_nobody_waits_for_waits_for_company() {
        let (writes, queue) = mpsc::channel();
        let write = |survives, done| Write { job: Box::new(|_| Ok(())), survives, done };
        let (awaited, _committed) = oneshot::channel();
        assert!(write(Survives::Process, awaited).is_urgent());
        assert!(write(Survives::Machine, oneshot::channel().0).is_urgent());
        let note = || write(Survives::Process, oneshot::channel().0);
        assert!(!note().is_urgent());
        for next in [note(), write(Survives::Machine, oneshot::channel().0)] {
            writes.send(next).unwrap();
        }
        assert_eq!(gather(note(), &queue).len(), 3);
        drop(writes);
        assert_eq!(gather(note(), &queue).len(), 1, "nobody will come any more");
    }
}
