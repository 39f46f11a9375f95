//! The least a program can do to keep a message and its answer: the rows that the archive gets, in the same two commits, by
//! nothing but SQLite; and nothing is asked of it, neither limits nor ids. As sure as the archive, and no surer: the message
//! is on the disk before it leaves; its reply outlives the crash of the process, and after one of the machine the peer still
//! has it (`Survives` in `archive/writer.rs`).

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Error, params};

const INDEX: &str = "INSERT OR REPLACE INTO search (rowid, words) VALUES (?1, ?2)";
const EVENT: &str = "INSERT INTO events (message, at, step) VALUES (?1, 1, ?2)";
/// What the limits count.
const SAID: &str = "INSERT INTO said (at, speaker, peer, session, words, message, chorus) VALUES (1, 'person', ?1, ?2, 1, ?3, 0)";

/// A connection to an archive.
#[derive(Debug)]
pub struct Journal(Connection);

/// What is kept of a message before it leaves.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its id.
    pub id: &'a str,
    /// To whom.
    pub peer: &'a str,
    /// In which session.
    pub session: &'a str,
    /// Its words.
    pub text: &'a str,
    /// And what stands before them.
    pub header: &'a str,
}

impl Journal {
    /// Opens the archive, which is there: its tables are made by agent-mesh.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        Ok(Self(connection))
    }

    /// The same for a process that is soon over: its WAL is kept as short as agent-mesh keeps the archive's (`WORTH_COPYING`
    /// in `archive/writer.rs`), or each start would read up to 1,000 pages of it, 3 us a page.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_for_one(path: &Path) -> Result<Self, Error> {
        let journal = Self::open(path)?;
        journal.0.pragma_update(None, "wal_autocheckpoint", 100)?;
        Ok(journal)
    }

    /// Keeps a message, and says under which number.
    ///
    /// # Errors
    /// When it is not kept.
    pub fn begin(&self, entry: Entry<'_>) -> Result<i64, Error> {
        const MESSAGE: &str = "INSERT INTO messages (id, direction, peer, peer_name, via, session, text, header, bytes, state,
            run_id, created_at, sent_at) VALUES (?1, 'out', ?2, ?2, 'agent', ?3, ?4, ?5, 90, 'sending', ?1, 1, 1)";
        let db = &self.0;
        db.execute_batch("PRAGMA synchronous = FULL; BEGIN IMMEDIATE")?;
        let values = params![entry.id, entry.peer, entry.session, entry.text, entry.header];
        db.prepare_cached(MESSAGE)?.execute(values)?;
        let seq = db.last_insert_rowid();
        db.prepare_cached(INDEX)?.execute(params![seq, entry.text])?;
        db.prepare_cached(SAID)?.execute(params![entry.peer, entry.session, entry.id])?;
        for step in ["sending", "reached"] {
            db.prepare_cached(EVENT)?.execute(params![seq, step])?;
        }
        db.execute_batch("COMMIT")?;
        Ok(seq)
    }

    /// Keeps the answer.
    ///
    /// # Errors
    /// When it is not kept.
    pub fn finish(&self, seq: i64, text: &str, reply: &str) -> Result<(), Error> {
        const REPLY: &str =
            "UPDATE messages SET finished_at = 2, state = 'replied', reply = ?2 WHERE seq = ?1";
        let db = &self.0;
        db.execute_batch("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE")?;
        db.prepare_cached(REPLY)?.execute(params![seq, reply])?;
        db.prepare_cached(INDEX)?.execute(params![seq, format!("{text}\n{reply}")])?;
        for step in ["accepted", "replied"] {
            db.prepare_cached(EVENT)?.execute(params![seq, step])?;
        }
        db.execute_batch("COMMIT")
    }
}
