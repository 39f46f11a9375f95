//! The archive: every message, in both directions, and every step of its life.
//!
//! One SQLite file in the state folder, mode 0600. A message is committed *before* its first byte leaves, so that no
//! crash of ours can lose one or make us send one twice. Every commit survives the crash of this process; one that
//! somebody relies on survives the crash of the machine, too (`Survives`, which sets `PRAGMA synchronous`).
//!
//! One thread writes, and commits what queued up meanwhile together; a message that is the only one is written by who
//! carries it, where that is quicker (`writer`). Reads use connections of their own and never wait for a writer.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::private_file;

mod door;
mod error;
mod ledger;
mod list;
mod queue;
mod reader;
mod received;
mod row;
mod schema;
mod search;
mod step;
mod unfinished;
mod writer;

pub use door::Decision;
pub use error::ArchiveError;
use error::classify;
pub(crate) use ledger::Leaving;
pub use ledger::{Allowance, Reset, Said, Tally};
pub use list::Filter;
pub use queue::{Claim, Lease};
use reader::Readers;
pub use row::{Direction, Event, NewMessage, Stored};
pub use step::Step;
pub use unfinished::{Accepted, Unfinished};
pub(crate) use writer::{Carrier, Survives};
use writer::{Desk, Order, Write, Writer};

/// How long a write waits for another process before it gives up.
const BUSY: Duration = Duration::from_secs(5);

/// A connection that reads keeps so many KiB of pages, a quarter of what one that writes does: it is there for one answer, and
/// its thread has that memory ever after.
const READER_CACHE: i64 = 128;

/// How many statements a connection keeps prepared: all there are. One message takes more than rusqlite's usual 16.
const STATEMENTS: usize = 128;

/// How often a file that another process is setting up is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Completes when a write is on the disk. Dropped, it does not undo the write.
#[derive(Debug)]
pub struct Committed(oneshot::Receiver<Result<(), ArchiveError>>);

impl Future for Committed {
    type Output = Result<(), ArchiveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|committed| committed.unwrap_or(Err(ArchiveError::Closed)))
    }
}

/// The archive of one state folder. A clone is a handle to the same connection.
#[derive(Clone)]
pub struct Archive {
    path: PathBuf,
    orders: mpsc::Sender<Order>,
    desk: Arc<Desk>,
    readers: Readers,
    /// Whether the file is all there is, and cannot be written to: SQLite then looks for no other.
    is_fixed: Arc<AtomicBool>,
}

/// An archive that is being opened.
pub(crate) struct Opening {
    archive: Archive,
    told: oneshot::Receiver<Result<(), ArchiveError>>,
}

impl Opening {
    /// Waits until it is open.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub(crate) async fn done(&mut self) -> Result<Archive, ArchiveError> {
        (&mut self.told).await.unwrap_or(Err(ArchiveError::Closed)).map(|()| self.archive.clone())
    }
}

impl Archive {
    /// Opens the archive, making or migrating it if need be. One that cannot be written to can be read, and refuses each
    /// write.
    ///
    /// # Errors
    /// [`ArchiveError`], and the file is as it was.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let (tell, told) = mpsc::channel();
        let archive = Self::start(path, move |opened| drop(tell.send(opened)))?;
        told.recv().unwrap_or(Err(ArchiveError::Closed)).map(|()| archive)
    }

    /// Begins to do the same while something else goes on: reading what others left in the WAL takes as long as dialling.
    ///
    /// # Errors
    /// When the file cannot be made, or may not be used.
    pub(crate) fn begin_opening(path: &Path) -> Result<Opening, ArchiveError> {
        let (tell, told) = oneshot::channel();
        let archive = Self::start(path, move |opened| drop(tell.send(opened)))?;
        Ok(Opening { archive, told })
    }

    /// Starts the thread that opens the file, says so, and writes from then on.
    fn start(
        path: &Path,
        tell: impl FnOnce(Result<(), ArchiveError>) + Send + 'static,
    ) -> Result<Self, ArchiveError> {
        // Made empty and 0600 here, since SQLite would ask nobody; its side files take the mode of the main one.
        private_file::create(path, b"")?;
        private_file::inspect(path)?;
        let (orders, queue) = mpsc::channel();
        let (owned, is_fixed) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
        let desk = Arc::new(Desk::default());
        let (fixed, at) = (Arc::clone(&is_fixed), Arc::clone(&desk));
        let work = move || match set_up(&owned) {
            Err(ArchiveError::ReadOnly { .. }) => {
                fixed.store(!side_file(&owned, "-wal").exists(), Ordering::Relaxed);
                tell(Ok(()));
                for Write { done, .. } in queue.into_iter().filter_map(Order::write) {
                    // Whoever asked may not care any more.
                    let _ = done.send(Err(ArchiveError::ReadOnly { path: owned.clone() }));
                }
            }
            Err(error) => tell(Err(error)),
            Ok(connection) => {
                tell(Ok(()));
                at.run(Writer::new(connection, &owned), &queue);
            }
        };
        thread::Builder::new().name("archive".to_owned()).spawn(work).map_err(|_| ArchiveError::Closed)?;
        Ok(Self { path: path.to_owned(), orders, desk, readers: Readers::default(), is_fixed })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Queues a write that survives the machine's crash; what comes back completes when it is committed, and may be
    /// dropped by whoever does not care when. Writes are committed in the order they were queued.
    fn write(
        &self,
        job: impl FnMut(&Connection) -> Result<(), rusqlite::Error> + Send + 'static,
    ) -> Committed {
        self.write_to(Survives::Machine, job)
    }

    /// Queues a write that survives as much as it has to.
    fn write_to(
        &self,
        survives: Survives,
        job: impl FnMut(&Connection) -> Result<(), rusqlite::Error> + Send + 'static,
    ) -> Committed {
        let (write, committed) = Write::new(survives, job);
        self.desk.queue(&self.orders, Order::Write(write));
        committed
    }

    /// The same, but soon is early enough: whatever else is written in the meantime shares its commit.
    fn write_soon(
        &self,
        survives: Survives,
        job: impl FnMut(&Connection) -> Result<(), rusqlite::Error> + Send + 'static,
    ) -> Committed {
        let (write, committed) = Write::new(survives, job);
        self.desk.queue(&self.orders, Order::Write(Write { can_wait: true, ..write }));
        committed
    }

    /// A write for a message of so many bytes that somebody is in a hurry with: done when this returns, where it is the only
    /// one, and small.
    fn write_here(
        &self,
        carrier: &Carrier,
        bytes: usize,
        survives: Survives,
        job: impl FnMut(&Connection) -> Result<(), rusqlite::Error> + Send + 'static,
    ) -> Committed {
        if bytes > writer::SMALL {
            return self.write_to(survives, job);
        }
        let (write, committed) = Write::new(survives, job);
        if let Some(order) = carrier.try_commit(write) {
            self.desk.queue(&self.orders, order);
        }
        committed
    }

    /// Says that a message is being carried, as long as what comes back lives.
    pub(crate) fn carrier(&self) -> Carrier {
        Carrier::new(&self.desk)
    }

    /// A write that has something to tell. It is on the disk when this returns.
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnMut(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        self.ask_to(Survives::Machine, job).await
    }

    /// The same, surviving as much as it has to.
    async fn ask_to<T: Send + 'static>(
        &self,
        survives: Survives,
        job: impl FnMut(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let (job, told) = telling(job);
        answer(self.write_to(survives, job), told).await
    }

    /// The same, written as [`Archive::write_here`] does.
    async fn ask_here<T: Send + 'static>(
        &self,
        bytes: usize,
        survives: Survives,
        job: impl FnMut(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let (job, told) = telling(job);
        answer(self.write_here(&self.carrier(), bytes, survives, job), told).await
    }

    /// Completes when all that was queued before is committed.
    ///
    /// # Errors
    /// When the archive is closed or the commit fails.
    pub async fn settle(&self) -> Result<(), ArchiveError> {
        self.write(|_| Ok(())).await
    }

    /// Reads on a connection of its own, on a thread for that.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let (path, is_fixed) = (self.path.clone(), self.is_fixed.load(Ordering::Relaxed));
        let read = move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = match is_fixed {
                true => connect(&immutable(&path), flags | OpenFlags::SQLITE_OPEN_URI),
                false => connect(&path, flags),
            }?;
            connection
                .pragma_update(None, "cache_size", -READER_CACHE)
                .and_then(|()| job(&connection))
                .map_err(|source| classify(&path, source))
        };
        self.readers.run(read).await.unwrap_or(Err(ArchiveError::Closed))
    }
}

/// Where a job that may be run again puts what it tells.
type Told<T> = Arc<Mutex<Option<T>>>;

/// A job as a write, and what it tells.
fn telling<T: Send + 'static>(
    mut job: impl FnMut(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
) -> (impl FnMut(&Connection) -> Result<(), rusqlite::Error> + Send + 'static, Told<T>) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let write = move |db: &Connection| {
        let result = job(db)?;
        *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        Ok(())
    };
    (write, told)
}

/// What a job told, once it is committed.
async fn answer<T>(committed: Committed, told: Told<T>) -> Result<T, ArchiveError> {
    committed.await?;
    told.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(ArchiveError::Closed)
}

/// A file that SQLite keeps beside the archive.
fn side_file(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// The name by which SQLite takes a file for one that nobody changes.
fn immutable(path: &Path) -> PathBuf {
    let escape = |byte: u8| match byte {
        b'%' | b'?' | b'#' => format!("%{byte:02x}").into_bytes(),
        byte => vec![byte],
    };
    let path: Vec<u8> = path.as_os_str().as_bytes().iter().copied().flat_map(escape).collect();
    let name = [b"file:", path.as_slice(), b"?immutable=1"].concat();
    OsString::from_vec(name).into()
}

/// A connection to write with, its file set up. Where two processes make a new file at one moment, SQLite refuses one
/// of them at once, whatever its busy timeout: turning the journal into a WAL needs the file alone.
fn set_up(path: &Path) -> Result<Connection, ArchiveError> {
    let give_up = Instant::now() + BUSY;
    loop {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX);
        let ready = connection.and_then(|connection| schema::migrate(&connection, path).map(|()| connection));
        match ready {
            Err(ArchiveError::Locked { .. }) if Instant::now() < give_up => thread::sleep(LOOK_AGAIN),
            ready => return ready,
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, ArchiveError> {
    let failed = |source| classify(path, source);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    if flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // Whoever closes the file last would copy the WAL into it, and every command would wait for the disk at its end.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::private_file::PrivateFileError;
    use crate::record::{State, To};
    use crate::registry::Via;

    /// A fresh one in a folder of its own.
    pub(super) fn archive() -> (tempfile::TempDir, Archive) {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(&folder.path().join("archive.db")).unwrap();
        (folder, archive)
    }

    /// One that we send now.
    pub(super) fn message(id: &str, peer: &str, text: &str) -> NewMessage {
        NewMessage {
            id: id.into(),
            run_id: id.into(),
            direction: Direction::Out,
            peer: To { name: peer.to_uppercase(), email_prefix: peer.into() },
            via: Via::Agent,
            session: format!("agent:main:mesh:{peer}"),
            thread: None,
            text: text.into(),
            header: "[h]\n\n".into(),
            claimed_from: None,
            state: State::Sending,
            expires_at: None,
        }
    }

    fn replied(text: &str) -> Step {
        Step::finished(State::Replied, Some(text.into()), None)
    }

    /// As on a disk that is mounted read-only, of a file that was closed well.
    #[test]
    fn a_file_that_cannot_change_is_read_without_its_side_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("100%? #1.db");
        private_file::create(&path, b"").unwrap();
        let alone = set_up(&path).unwrap();
        alone.pragma_update(None, "journal_mode", "DELETE").unwrap();
        drop(alone);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = connect(&immutable(&path), flags).unwrap();
        let count: i64 = connection.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
        assert_eq!((count, std::fs::read_dir(folder.path()).unwrap().count()), (0, 1));
    }

    /// How many descriptors of this process lead to a file.
    #[cfg(target_os = "linux")]
    fn descriptors(path: &Path) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        open.filter(|entry| std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|to| to == path))
            .count()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn many_readers_at_once_leave_few_descriptors() {
        let (_folder, archive) = archive();
        let path = archive.path().canonicalize().unwrap();
        let before = descriptors(&path);
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let archive = archive.clone();
            // Long enough for the others to come: each one waits for as many as may be there with it.
            readers.spawn(async move {
                let slow = |_: &_| {
                    thread::sleep(Duration::from_millis(5));
                    Ok(())
                };
                archive.read(slow).await
            });
        }
        while let Some(read) = readers.join_next().await {
            read.unwrap().unwrap();
        }
        let more = descriptors(&path) - before;
        assert!(more <= Readers::MOST, "{more} descriptors were left by 64 readers");
    }

    #[tokio::test]
    async fn a_life_is_kept_step_by_step() {
        let (_folder, archive) = archive();
        archive.begin(message("id-12345", "bob", "hello")).await.unwrap();
        drop(archive.note(None, "id-12345", Step::Reached { boot_id: Some("boot".into()) }));
        drop(archive.note(None, "id-12345", Step::Accepted));
        archive.note(None, "id-12345", replied("hi")).await.unwrap();
        let found = archive.find("id-12345").await.unwrap().unwrap();
        assert_eq!((found.record.state, found.boot_id.as_deref()), (State::Replied, Some("boot")));
        assert_eq!(found.record.reply.as_ref().map(|r| r.text.as_str()), Some("hi"));
        assert!(found.record.receipt.accepted_at.is_some() && found.sent_at.is_none());
        let steps: Vec<_> = archive.events("id-12345").await.unwrap().into_iter().map(|e| e.step).collect();
        assert_eq!(steps, ["sending", "reached", "accepted", "replied"]);
    }

    /// Ids of one minute begin alike: which one was meant is for whoever asks to say, not for us to deny.
    #[tokio::test]
    async fn a_beginning_that_fits_several_names_them() {
        let (_folder, archive) = archive();
        for id in ["0197d3f0-aa", "0197d3f0-ab", "0197d3f1-aa"] {
            archive.begin(message(id, "bob", "x")).await.unwrap();
        }
        let named =
            async |beginning: &str| archive.find(beginning).await.map(|found| found.map(|it| it.record.id));
        assert_eq!(named("0197d3f1").await.unwrap().as_deref(), Some("0197d3f1-aa"));
        assert_eq!((named("0197d3f").await.unwrap(), named("0197d3f2").await.unwrap()), (None, None));
        let several = named("0197d3f0").await.unwrap_err();
        assert_eq!(several.to_string(), "0197d3f0 may be 0197d3f0-ab, 0197d3f0-aa");
    }

    #[tokio::test]
    async fn an_id_is_found_however_it_is_written() {
        let (_folder, archive) = archive();
        let ours = "0197d3f0-2222-4222-8222-abcdefabcdef";
        for id in [ours, "A-Peer's-Own"] {
            archive.begin(message(id, "bob", "x")).await.unwrap();
        }
        let undashed = ours.replace('-', "");
        for id in [&ours.to_uppercase(), &format!("{{{ours}}}"), &undashed, "0197D3F0-2222-4222-8222-ABC"] {
            assert_eq!(archive.find(id).await.unwrap().unwrap().record.id, ours, "{id}");
        }
        assert!(archive.find("A-Peer's-Own").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn one_id_lives_once() {
        let (_folder, archive) = archive();
        archive.begin(message("id-12345", "bob", "one")).await.unwrap();
        assert!(archive.begin(message("id-12345", "bob", "two")).await.is_err());
        assert_eq!(archive.find("id-12345").await.unwrap().unwrap().message, "one");
    }

    #[tokio::test]
    async fn messages_are_found_by_words_of_any_script_in_text_and_reply() {
        let (_folder, archive) = archive();
        archive.begin(message("id-1", "bob", "请看构建结果, the deployment failed")).await.unwrap();
        archive.begin(message("id-2", "carol", "nothing of the kind")).await.unwrap();
        archive.note(None, "id-2", replied("部署好了 \"OR\"")).await.unwrap();
        let find = async |words: &str| -> Vec<String> {
            let filter = Filter { search: Some(words.into()), ..Filter::default() };
            archive.list(filter).await.unwrap().into_iter().map(|m| m.record.id).collect()
        };
        assert_eq!(find("构建").await, ["id-1"]);
        assert_eq!(find("建构").await, Vec::<String>::new());
        assert_eq!(find("deploy").await, ["id-1"]);
        assert_eq!(find("部署").await, ["id-2"]);
        assert_eq!(find("\"OR\" kind").await, ["id-2"]);
        assert_eq!(find("NEAR(").await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn filters_narrow_and_the_newest_comes_last() {
        let (_folder, archive) = archive();
        for n in 0..5 {
            let peer = if n % 2 == 0 { "bob" } else { "carol" };
            archive.begin(message(&format!("id-{n}"), peer, "x")).await.unwrap();
        }
        archive.note(None, "id-4", replied("y")).await.unwrap();
        let ids = async |filter| -> Vec<String> {
            archive.list(filter).await.unwrap().into_iter().map(|m| m.record.id).collect()
        };
        assert_eq!(
            ids(Filter { peer: Some("Bob".into()), ..Filter::default() }).await,
            ["id-0", "id-2", "id-4"]
        );
        assert_eq!(ids(Filter { limit: Some(2), ..Filter::default() }).await, ["id-3", "id-4"]);
        assert_eq!(ids(Filter { state: Some(State::Replied), ..Filter::default() }).await, ["id-4"]);
        assert_eq!(
            archive.prune(jiff::Timestamp::MAX).await.unwrap(),
            1,
            "open messages are never forgotten"
        );
        assert_eq!(ids(Filter::default()).await.len(), 4);
    }

    #[tokio::test]
    async fn a_thousand_writes_at_once_all_arrive() {
        let (_folder, archive) = archive();
        let writes = (0..1000).map(|n| archive.begin(message(&format!("id-{n}"), "bob", "x")));
        for write in futures_util::future::join_all(writes).await {
            write.unwrap();
        }
        assert_eq!(archive.list(Filter::default()).await.unwrap().len(), 1000);
    }

    /// Two commands in a fresh home at one moment: one of them was told that the archive is locked.
    #[test]
    fn many_who_make_the_file_at_once_all_get_it() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("archive.db");
            let opened: Vec<_> = std::thread::scope(|scope| {
                let open = || scope.spawn(|| Archive::open(&path).map(drop));
                [open(), open(), open(), open()].map(|thread| thread.join().unwrap()).into()
            });
            assert!(opened.iter().all(Result::is_ok), "{opened:?}");
        }
    }

    #[test]
    fn the_file_is_ours_alone_and_so_are_its_side_files() {
        let (folder, archive) = archive();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
        let path = archive.path().to_owned();
        drop(archive);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Archive::open(&path), Err(ArchiveError::File(PrivateFileError::WideMode { .. }))));
    }

    #[test]
    fn a_file_that_is_no_archive_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.db");
        let junk = b"this is no database, and it is longer than a header of one hundred bytes would be, which is what SQLite looks at first";
        private_file::write(&path, junk).unwrap();
        assert!(matches!(Archive::open(&path), Err(ArchiveError::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), junk);
    }

    #[test]
    fn a_file_from_a_newer_version_is_left_as_it_was() {
        let (_folder, archive) = archive();
        let path = archive.path().to_owned();
        drop(archive);
        let db = Connection::open(&path).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        db.close().unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(Archive::open(&path), Err(ArchiveError::TooNew { found: 99, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
