//! The one thread that writes: what queued up meanwhile in one commit, and the WAL copied while nothing is to be written.
//! Only a message that leaves over a connection that stands, or comes to a gateway, with no other one beside it, is written
//! by who carries it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;

use super::{ArchiveError, BUSY, Committed, classify, connect};

/// How many writes one commit may carry.
const BATCH: usize = 256;

/// When nothing was to be written for so long, there is time to copy the WAL into the database.
const IDLE: Duration = Duration::from_millis(5);

/// For so long a write that is not urgent waits for another one, to share its commit: that a gateway was reached is hardly
/// noted when the message leaves.
const COMPANY: Duration = Duration::from_millis(2);

/// A WAL of so many pages is worth copying: the next command has to read all of it, 3 us a page, also what is in the
/// database.
const WORTH_COPYING: i64 = 100;

/// From so many pages on a commit copies the WAL into the database, and waits for the disk. SQLite's own 1,000 make that a
/// sixth of all that a gateway writes which is never idle; a page that changed often is copied once.
const MOST_IN_WAL: i64 = 2000;

/// Of so many bytes of text and less a message is small: to write it takes as long as to hand it over, and a larger one may
/// fill the WAL by itself.
pub(super) const SMALL: usize = 64 * 1024;

/// After so many writes that it did not do the thread looks whether the WAL is worth copying: each adds up to 40 pages, and
/// from `MOST_IN_WAL` on SQLite copies it as a part of a commit.
const LOOK_EVERY: usize = 20;

/// A job that may be run again: what it did is taken back where another one of its batch fails.
pub(super) type Job = Box<dyn FnMut(&Connection) -> Result<(), rusqlite::Error> + Send>;

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
    pub(super) done: Done,
    /// Whoever waits for it has something better to do meanwhile.
    pub(super) can_wait: bool,
}

type Done = oneshot::Sender<Result<(), ArchiveError>>;

/// What the thread is asked for.
pub(super) enum Order {
    Write(Write),
    /// Others have written: the WAL is to be looked at.
    Look,
    /// Somebody else has written first, and found a long WAL.
    Shorten,
}

impl Order {
    pub(super) fn write(self) -> Option<Write> {
        match self {
            Self::Write(write) => Some(write),
            Self::Look | Self::Shorten => None,
        }
    }
}

impl Write {
    /// One that somebody waits for, unless he drops what tells him that it is committed.
    pub(super) fn new(
        survives: Survives,
        job: impl FnMut(&Connection) -> Result<(), rusqlite::Error> + Send + 'static,
    ) -> (Self, Committed) {
        let (done, committed) = oneshot::channel();
        (Self { job: Box::new(job), survives, done, can_wait: false }, Committed(committed))
    }

    /// Whether somebody waits for it, or would if he knew how to. Only notes can wait: they all survive our crash only.
    fn is_urgent(&self) -> bool {
        self.survives == Survives::Machine || !(self.can_wait || self.done.is_closed())
    }
}

/// What the thread shares with those who ask it.
#[derive(Default)]
pub(super) struct Desk {
    writer: OnceLock<Mutex<Writer>>,
    /// Something was written. Whether the WAL that was found is to be copied has been looked at.
    has_begun: AtomicBool,
    /// Writes that are queued or being committed.
    queued: AtomicUsize,
    /// Messages that are being carried.
    carried: AtomicUsize,
    /// Writes that the thread did not do.
    unseen: AtomicUsize,
}

impl Desk {
    pub(super) fn queue(&self, queue: &mpsc::Sender<Order>, order: Order) {
        if matches!(order, Order::Write(_)) {
            self.queued.fetch_add(1, Ordering::AcqRel);
        }
        // A failed send drops `done`, which the other end reports.
        let _ = queue.send(order);
    }

    /// Runs writes until the archive is dropped: all that queued up in one commit.
    pub(super) fn run(&self, writer: Writer, queue: &mpsc::Receiver<Order>) {
        // Now, while nobody waits.
        if let Err(error) = writer.connection.pragma_update(None, "wal_autocheckpoint", MOST_IN_WAL) {
            tracing::debug!(%error, "the WAL is copied sooner");
        }
        let writer = self.writer.get_or_init(|| Mutex::new(writer));
        // A write that panicked leaves nothing to go on with.
        while let Some(first) = next_write(writer, queue) {
            let batch = gather(first, queue);
            let written = batch.len();
            let Ok(mut writer) = writer.lock() else { return };
            writer.commit(batch);
            self.queued.fetch_sub(written, Ordering::AcqRel);
            if !self.has_begun.swap(true, Ordering::AcqRel) {
                shorten_wal(&writer.connection);
            }
        }
    }
}

/// That a message is being carried.
pub(crate) struct Carrier(Arc<Desk>);

impl Carrier {
    pub(super) fn new(desk: &Arc<Desk>) -> Self {
        desk.carried.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(desk))
    }

    /// Commits a write in this thread if no other message is carried and nobody else writes; gives it back otherwise. What
    /// it gives is to be queued.
    ///
    /// To hand a write over and to be woken takes 0.1 ms, a fifth of a quick send, and so does the connection's way from one
    /// core's cache to another's: it is for messages that leave over a connection that stands, and for those that come to a
    /// gateway. The price: while the disk is waited for, so is whatever else this thread does.
    pub(super) fn try_commit(&self, write: Write) -> Option<Order> {
        let desk = &self.0;
        let is_alone = desk.carried.load(Ordering::Acquire) == 1 && desk.queued.load(Ordering::Acquire) == 0;
        let Some(Ok(mut writer)) = desk.writer.get().filter(|_| is_alone).map(Mutex::try_lock) else {
            return Some(Order::Write(write));
        };
        if writer.begin_at_once(write.survives).is_err() {
            // Another process writes, or whatever it is: the thread has time to find out.
            return Some(Order::Write(write));
        }
        writer.finish(vec![write]);
        if !desk.has_begun.swap(true, Ordering::AcqRel) {
            return is_long(&writer.connection).then_some(Order::Shorten);
        }
        let unseen = desk.unseen.fetch_add(1, Ordering::Relaxed) + 1;
        unseen.is_multiple_of(LOOK_EVERY).then_some(Order::Look)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.carried.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The connection that writes.
pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
    /// What the connection is set to survive.
    set: Option<Survives>,
}

impl Writer {
    pub(super) fn new(connection: Connection, path: &Path) -> Self {
        Self { connection, path: path.to_owned(), set: None }
    }

    fn commit(&mut self, batch: Vec<Write>) {
        let survives = batch.iter().map(|write| write.survives).max().unwrap_or(Survives::Machine);
        match self.begin(survives) {
            Ok(()) => self.finish(batch),
            Err(error) => batch.into_iter().for_each(|write| self.tell(write.done, Err(copy(&error)))),
        }
    }

    /// Begins a transaction unless somebody else writes.
    fn begin_at_once(&mut self, survives: Survives) -> Result<(), rusqlite::Error> {
        self.connection.busy_timeout(Duration::ZERO)?;
        let begun = self.begin(survives);
        self.connection.busy_timeout(BUSY)?;
        begun
    }

    fn begin(&mut self, survives: Survives) -> Result<(), rusqlite::Error> {
        if self.set != Some(survives) {
            run_cached(&self.connection, survives.pragma())?;
            self.set = Some(survives);
        }
        // IMMEDIATE: a read that turns into a write is refused at once when another process writes.
        run_cached(&self.connection, "BEGIN IMMEDIATE")
    }

    /// Runs the writes in the transaction that was begun, commits it, and tells whoever asked.
    fn finish(&self, mut batch: Vec<Write>) {
        let undo = Undo(&self.connection);
        let results = self.run(&mut batch);
        // The last error is the one that ended the transaction, if one did.
        let ended = match results.iter().rev().find_map(|own| own.as_ref().err()) {
            // As where the disk is full: SQLite takes back all of it, and the others are told why.
            Some(why) if self.connection.is_autocommit() => Err(copy(why)),
            _ if results.iter().any(Result::is_ok) => run_cached(&self.connection, "COMMIT"),
            _ => Ok(()),
        };
        drop(undo);
        for (write, own) in batch.into_iter().zip(results) {
            self.tell(write.done, own.and_then(|()| ended.as_ref().map_err(copy).copied()));
        }
    }

    /// Runs each write; one that fails leaves nothing behind, and takes none with it.
    ///
    /// At first without a savepoint each: the full-text index writes down what it has collected at each savepoint, which
    /// makes the writes of a large batch dearer by half.
    fn run(&self, batch: &mut [Write]) -> Vec<Result<(), rusqlite::Error>> {
        let mut results = Vec::with_capacity(batch.len());
        let is_alone = batch.len() == 1;
        for write in batch.iter_mut() {
            let before = self.connection.total_changes();
            let own = (write.job)(&self.connection);
            if let Err(why) = &own
                && !is_alone
                && !self.left_nothing(why, before)
            {
                return self.run_apart(batch);
            }
            results.push(own);
        }
        results
    }

    /// Whether a write that failed certainly changed nothing. Another kind of failure may not even have taken back its own
    /// statement.
    fn left_nothing(&self, why: &rusqlite::Error, changes_before: u64) -> bool {
        let is_refused = *why == rusqlite::Error::QueryReturnedNoRows
            || why.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
        is_refused && self.connection.total_changes() == changes_before && !self.connection.is_autocommit()
    }

    /// Takes all of it back and runs each write again, so that it can be taken back alone.
    fn run_apart(&self, batch: &mut [Write]) -> Vec<Result<(), rusqlite::Error>> {
        drop(Undo(&self.connection));
        let mut ended = run_cached(&self.connection, "BEGIN IMMEDIATE").err();
        let run = |write: &mut Write| {
            if let Some(why) = &ended {
                return Err(copy(why));
            }
            let own = in_savepoint(&self.connection, &mut write.job);
            if let Err(why) = &own
                && self.connection.is_autocommit()
            {
                ended = Some(copy(why));
            }
            own
        };
        batch.iter_mut().map(run).collect()
    }

    fn tell(&self, done: Done, result: Result<(), rusqlite::Error>) {
        // Whoever asked may not care any more.
        let _ = done.send(result.map_err(|source| classify(&self.path, source)));
    }
}

/// Takes back what was not committed, also when a write panics: no other process could write any more.
struct Undo<'a>(&'a Connection);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

/// Copies all of a WAL that became long, so that the next write begins it anew. For commands, which are over before there is
/// time for it: after their first write, while they dial or the message is on its way. No other write of ours can come between.
fn shorten_wal(connection: &Connection) {
    if is_long(connection)
        && let Err(error) = checkpoint(connection, "PASSIVE")
    {
        tracing::debug!(%error, "the WAL was not copied");
    }
}

/// Whether there is much in the WAL, copied or not.
fn is_long(connection: &Connection) -> bool {
    // Where that cannot be known, it is copied later.
    checkpoint(connection, "NOOP").is_ok_and(|(in_wal, _)| in_wal >= WORTH_COPYING)
}

/// The next write. While a message is on its way nothing is to be written, and what the WAL has collected is copied then:
/// as a part of a commit, which is when SQLite would do it, somebody would wait for it.
fn next_write(writer: &Mutex<Writer>, queue: &mpsc::Receiver<Order>) -> Option<Write> {
    let mut order = queue.recv_timeout(IDLE);
    loop {
        match order {
            Ok(Order::Write(write)) => return Some(write),
            Ok(Order::Shorten) => {
                if let Ok(writer) = writer.lock() {
                    shorten_wal(&writer.connection);
                }
            }
            Ok(Order::Look) | Err(RecvTimeoutError::Timeout) => look_after_wal(writer),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        order = queue.recv().map_err(|_| RecvTimeoutError::Disconnected);
    }
}

fn look_after_wal(writer: &Mutex<Writer>) {
    // One that panicked has said so.
    let Ok(writer) = writer.lock() else { return };
    match is_worth_copying(&writer.connection) {
        Ok(false) => {}
        Ok(true) => copy_wal_beside(writer.path.clone()),
        Err(error) => tracing::debug!(%error, "the WAL was not looked at"),
    }
}

/// What queued up behind a write.
fn gather(first: Write, queue: &mpsc::Receiver<Order>) -> Vec<Write> {
    let end = Instant::now() + COMPANY;
    let mut batch = vec![first];
    loop {
        batch.extend(queue.try_iter().filter_map(Order::write).take(BATCH - batch.len()));
        if batch.len() == BATCH || batch.iter().any(Write::is_urgent) {
            return batch;
        }
        match queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(next) => batch.extend(next.write()),
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

fn in_savepoint(connection: &Connection, job: &mut Job) -> Result<(), rusqlite::Error> {
    run_cached(connection, "SAVEPOINT one")?;
    let result = job(connection);
    if connection.is_autocommit() {
        return result;
    }
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
        other.execute("INSERT INTO t VALUES (zeroblob(?1))", [4096 * WORTH_COPYING]).unwrap();
        assert!(in_wal() > WORTH_COPYING);
        archive.settle().await.unwrap();
        archive.reset_limits(None).await.unwrap();
        assert!(in_wal() < 10, "{} pages", in_wal());
    }

    /// The cache's size comes from .cargo/config.toml, unless the environment has a LIBSQLITE3_FLAGS of its own.
    #[tokio::test]
    async fn the_connection_that_writes_is_set_up_as_it_should_be() {
        let (_folder, archive) = crate::archive::tests::archive();
        archive.settle().await.unwrap();
        archive.reset_limits(None).await.unwrap();
        let writer = archive.desk.writer.get().unwrap().lock().unwrap();
        let pragma = |name: &str| -> i64 {
            writer.connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
        };
        assert_eq!((pragma("cache_size"), pragma("wal_autocheckpoint")), (-512, 2000));
    }

    #[test]
    fn a_commit_survives_what_the_most_demanding_of_its_writes_has_to() {
        let mut writer = writer();
        let mut synchronous_after = |batch: &[Survives]| -> i64 {
            let write = |survives: &Survives| Write::new(*survives, |_| Ok(())).0;
            writer.commit(batch.iter().map(write).collect());
            writer.connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()
        };
        let (normal, full) = (1, 2);
        assert_eq!(synchronous_after(&[Survives::Process]), normal);
        assert_eq!(synchronous_after(&[Survives::Process, Survives::Machine, Survives::Process]), full);
        assert_eq!(synchronous_after(&[Survives::Process]), normal);
    }

    fn writer() -> Writer {
        Writer::new(Connection::open_in_memory().unwrap(), Path::new("archive.db"))
    }

    /// A job that inserts a number and, if so told, fails then; and what became of it.
    fn insert(
        number: i64,
        fails: bool,
        survives: Survives,
    ) -> (Write, oneshot::Receiver<Result<(), ArchiveError>>) {
        let (write, committed) = Write::new(survives, move |db| {
            db.execute("INSERT INTO t VALUES (?1)", [number])?;
            if fails { Err(rusqlite::Error::InvalidQuery) } else { Ok(()) }
        });
        (write, committed.0)
    }

    fn kept(connection: &Connection) -> Vec<i64> {
        let mut kept = connection.prepare("SELECT x FROM t").unwrap();
        kept.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Commits these together; what each was told.
    fn commit(writer: &mut Writer, jobs: Vec<Job>) -> Vec<Result<(), ArchiveError>> {
        let write = |job| Write::new(Survives::Process, job);
        let (batch, told): (_, Vec<_>) = jobs.into_iter().map(write).unzip();
        writer.commit(batch);
        assert!(writer.connection.is_autocommit());
        told.into_iter().map(|mut told| told.0.try_recv().unwrap()).collect()
    }

    fn after_batch(batch: &[(i64, bool)]) -> (Vec<i64>, Vec<bool>) {
        let mut writer = writer();
        writer.connection.execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        let job = |&(number, fails): &(i64, bool)| insert(number, fails, Survives::Process).0.job;
        let told = commit(&mut writer, batch.iter().map(job).collect());
        (kept(&writer.connection), told.iter().map(Result::is_ok).collect())
    }

    #[test]
    fn what_fails_leaves_nothing_behind_and_takes_nothing_with_it() {
        assert_eq!(after_batch(&[(1, true)]), (vec![], vec![false]));
        assert_eq!(after_batch(&[(1, false)]), (vec![1], vec![true]));
        assert_eq!(after_batch(&[(1, true), (2, false), (3, true)]), (vec![2], vec![false, true, false]));
        assert_eq!(after_batch(&[(1, true), (2, true)]), (vec![], vec![false, false]));
    }

    type Fails = fn(&Connection) -> Result<(), rusqlite::Error>;

    /// How often a write was run that has one beside it that fails, what is kept, and what each was told.
    fn beside(fails: Fails) -> (usize, Vec<i64>, Vec<bool>) {
        let mut writer = writer();
        writer.connection.execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&runs);
        let counted = move |db: &Connection| {
            seen.fetch_add(1, Ordering::Relaxed);
            db.execute("INSERT INTO t VALUES (0)", []).map(drop)
        };
        let jobs: [Job; 3] = [Box::new(counted), Box::new(fails), insert(1, false, Survives::Process).0.job];
        let told = commit(&mut writer, jobs.into());
        (runs.load(Ordering::Relaxed), kept(&writer.connection), told.iter().map(Result::is_ok).collect())
    }

    #[test]
    fn a_batch_is_run_again_only_where_one_that_failed_had_written() {
        let others = [true, false, true].to_vec();
        assert_eq!(beside(|_| Err(rusqlite::Error::QueryReturnedNoRows)), (1, vec![0, 1], others.clone()));
        let half: Fails = |db| db.execute_batch("INSERT INTO t VALUES (2); INSERT INTO nowhere VALUES (3)");
        assert_eq!(beside(half), (2, vec![0, 1], others));
    }

    #[test]
    fn where_sqlite_itself_takes_a_batch_back_everybody_is_told_why_and_nobody_that_he_is_kept() {
        let mut writer = writer();
        writer.connection.execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        let full = |db: &Connection| {
            db.execute_batch("INSERT INTO t VALUES (2); ROLLBACK; INSERT INTO nowhere VALUES (3)")
        };
        let jobs: [Job; 4] = [
            Box::new(|_| Err(rusqlite::Error::QueryReturnedNoRows)),
            insert(0, false, Survives::Process).0.job,
            Box::new(full),
            insert(1, false, Survives::Process).0.job,
        ];
        let told = commit(&mut writer, jobs.into());
        assert_eq!(kept(&writer.connection), Vec::<i64>::new());
        let is_why =
            |told: &Result<(), ArchiveError>| format!("{:?}", told.as_ref().unwrap_err()).contains("nowhere");
        let told: Vec<_> = told.iter().map(is_why).collect();
        assert_eq!(told, [false, true, true, true]);
    }

    #[test]
    fn who_is_alone_writes_himself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connect = || Connection::open(&path).unwrap();
        let desk = Arc::new(Desk::default());
        let carrier = Carrier::new(&desk);
        let try_commit = |number, fails, survives| {
            let (write, mut told) = insert(number, fails, survives);
            (carrier.try_commit(write).is_none(), told.try_recv().ok().map(|told| told.is_ok()))
        };
        let handed_over = (false, None);
        assert_eq!(try_commit(0, false, Survives::Process), handed_over, "the file is not open yet");
        let connection = connect();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x INTEGER)").unwrap();
        let writer = desk.writer.get_or_init(|| Mutex::new(Writer::new(connection, &path)));
        assert_eq!(try_commit(1, false, Survives::Process), (true, Some(true)));
        assert_eq!(try_commit(2, true, Survives::Process), (true, Some(false)));
        assert_eq!(try_commit(3, false, Survives::Machine), (true, Some(true)));
        let somebody_else = connect();
        somebody_else.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(try_commit(4, false, Survives::Process), handed_over, "another process writes");
        somebody_else.execute_batch("ROLLBACK").unwrap();
        let writing = writer.lock().unwrap();
        assert_eq!(try_commit(5, false, Survives::Process), handed_over, "the thread writes");
        drop(writing);
        let another = Carrier::new(&desk);
        assert_eq!(try_commit(6, false, Survives::Process), handed_over, "others share a commit");
        drop(another);
        let (queue, _writes) = mpsc::channel();
        desk.queue(&queue, Order::Write(insert(7, false, Survives::Process).0));
        assert_eq!(try_commit(8, false, Survives::Process), handed_over, "others come first");
        assert_eq!(kept(&connect()), [1, 3]);
        desk.queued.store(0, Ordering::Release);
        let orders = (10..).take(2 * LOOK_EVERY).filter_map(|number| {
            let order = carrier.try_commit(insert(number, false, Survives::Process).0)?;
            Some(matches!(order, Order::Look))
        });
        assert_eq!(orders.collect::<Vec<_>>(), [true, true], "now and then the thread looks after the WAL");
    }

    #[test]
    fn who_writes_first_has_the_thread_shorten_a_long_wal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x BLOB)").unwrap();
        connection.execute("INSERT INTO t VALUES (zeroblob(?1))", [4096 * WORTH_COPYING]).unwrap();
        let desk = Arc::new(Desk::default());
        let writer = desk.writer.get_or_init(|| Mutex::new(Writer::new(connection, &path)));
        let carrier = Carrier::new(&desk);
        let write = || insert(1, false, Survives::Process).0;
        assert!(matches!(carrier.try_commit(write()), Some(Order::Shorten)));
        assert!(carrier.try_commit(write()).is_none(), "once");
        shorten_wal(&writer.lock().unwrap().connection);
        assert!(carrier.try_commit(write()).is_none());
        assert!(!is_long(&writer.lock().unwrap().connection));
    }

    #[test]
    fn a_write_that_panics_locks_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let mut writer = Writer::new(Connection::open(&path).unwrap(), &path);
        let panics = Write { job: Box::new(|_| panic!("a bug")), ..insert(1, false, Survives::Process).0 };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.commit(vec![panics])));
        assert!(panicked.is_err());
        Connection::open(&path).unwrap().execute_batch("BEGIN IMMEDIATE").unwrap();
    }

    #[test]
    fn only_a_note_that_nobody_is_in_a_hurry_with_waits_for_company() {
        let (writes, queue) = mpsc::channel();
        let write = |survives, done| Write { job: Box::new(|_| Ok(())), survives, done, can_wait: false };
        let (awaited, _committed) = oneshot::channel();
        assert!(write(Survives::Process, awaited).is_urgent());
        assert!(write(Survives::Machine, oneshot::channel().0).is_urgent());
        let (awaited, _committed) = oneshot::channel();
        let soon = Write { can_wait: true, ..write(Survives::Process, awaited) };
        assert!(!soon.is_urgent());
        assert!(Write { survives: Survives::Machine, ..soon }.is_urgent());
        let note = || write(Survives::Process, oneshot::channel().0);
        assert!(!note().is_urgent());
        for next in [note(), write(Survives::Machine, oneshot::channel().0)] {
            writes.send(Order::Write(next)).unwrap();
        }
        assert_eq!(gather(note(), &queue).len(), 3);
        drop(writes);
        assert_eq!(gather(note(), &queue).len(), 1, "nobody will come any more");
    }
}
