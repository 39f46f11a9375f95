//! The tables, and how an older file becomes a newer one.

use std::path::Path;

use rusqlite::Connection;

use super::{ArchiveError, classify};

/// Each step takes the schema one version on. A step that was released is never changed.
const STEPS: [&str; 5] = [
    // 1: messages, their events, full-text search. Times are milliseconds since the epoch.
    "CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        direction TEXT NOT NULL,
        peer TEXT NOT NULL,
        peer_name TEXT NOT NULL,
        via TEXT NOT NULL,
        session TEXT NOT NULL,
        thread TEXT,
        text TEXT NOT NULL,
        header TEXT NOT NULL DEFAULT '',
        bytes INTEGER NOT NULL,
        state TEXT NOT NULL,
        run_id TEXT NOT NULL,
        boot_id TEXT,
        created_at INTEGER NOT NULL,
        sent_at INTEGER,
        reached_at INTEGER,
        accepted_at INTEGER,
        finished_at INTEGER,
        reply TEXT,
        error TEXT,
        -- The outbox: when the text is stale, when to look after it next (none: the outbox is done with it), how often
        -- that was done, and which worker does it now, until when unless it says more.
        expires_at INTEGER,
        next_try_at INTEGER,
        tries INTEGER NOT NULL DEFAULT 0,
        lease_owner TEXT,
        lease_until INTEGER
    ) STRICT;
    CREATE INDEX messages_by_peer ON messages (peer, seq);
    CREATE INDEX messages_by_thread ON messages (thread, seq) WHERE thread IS NOT NULL;
    CREATE INDEX messages_by_state ON messages (state, seq);
    CREATE INDEX outbox ON messages (peer, seq) WHERE next_try_at IS NOT NULL;
    CREATE TABLE events (
        message INTEGER NOT NULL REFERENCES messages (seq) ON DELETE CASCADE,
        at INTEGER NOT NULL,
        step TEXT NOT NULL,
        detail TEXT
    ) STRICT;
    CREATE INDEX events_by_message ON events (message);
    CREATE VIRTUAL TABLE search USING fts5 (words, content = '', contentless_delete = 1, prefix = '1 2 3');",
    // 2: what was said in the last day, for the limits. Not a part of `messages`: those may be forgotten at any time.
    // Two indices for four counts: each more is a page more to sync, and of one peer's day there is never much.
    // `words` are the first 64 bits of a text's SHA-256. A `chorus` is the rest of a broadcast whose first message stands
    // for all. A reset without a peer is for everybody.
    "CREATE TABLE said (
        at INTEGER NOT NULL,
        speaker TEXT NOT NULL,
        peer TEXT NOT NULL,
        session TEXT NOT NULL,
        words INTEGER NOT NULL,
        message TEXT NOT NULL,
        chorus INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX said_by ON said (speaker, at) WHERE chorus = 0;
    CREATE INDEX said_to ON said (speaker, peer, at, session, words);
    CREATE TABLE resets (at INTEGER NOT NULL, peer TEXT) STRICT;",
    // 3: what came to us, by session and by run, and who proved to have sent it: for the gateway that has to know it
    // again after a restart.
    "ALTER TABLE messages ADD COLUMN sender TEXT;
    CREATE INDEX received_by_session ON messages (session, seq) WHERE direction = 'in';
    CREATE INDEX received_by_run ON messages (run_id) WHERE direction = 'in';
    CREATE INDEX received ON messages (seq) WHERE direction = 'in';",
    // 4: the door. Who a message that came to us says it is from, beside who proved to have sent it; the messages that
    // wait for the owner's word, with all that it takes to run them; whether he has paused the door.
    "ALTER TABLE messages ADD COLUMN claimed_from TEXT;
    CREATE INDEX received_at ON messages (created_at) WHERE direction = 'in';
    CREATE TABLE held (
        id TEXT PRIMARY KEY,
        message INTEGER NOT NULL REFERENCES messages (seq) ON DELETE CASCADE,
        document TEXT NOT NULL
    ) STRICT;
    CREATE TABLE door (paused_at INTEGER NOT NULL) STRICT;",
    // 5: the runs that came to us and are not over: all that it takes to run them but the message itself (none: it is no run,
    // or over), and when they may have begun (none: they only wait, or waited).
    "ALTER TABLE messages ADD COLUMN run TEXT;
    ALTER TABLE messages ADD COLUMN began_at INTEGER;",
];

/// Brings the schema up to date, all steps in one transaction.
pub(super) fn migrate(connection: &Connection, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| classify(path, source);
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if version(connection).map_err(failed)? == known {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let result = migrate_locked(connection, path, known);
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.execute_batch(end).map_err(failed)?;
    result
}

/// Another process may have migrated before we got the lock: the version is read again under it.
fn migrate_locked(connection: &Connection, path: &Path, known: i64) -> Result<(), ArchiveError> {
    let failed = |source| classify(path, source);
    let found = version(connection).map_err(failed)?;
    if found > known {
        return Err(ArchiveError::TooNew { path: path.to_owned(), found, known });
    }
    let done = usize::try_from(found).unwrap_or_default();
    for step in &STEPS[done..] {
        connection.execute_batch(step).map_err(failed)?;
    }
    connection.pragma_update(None, "user_version", known).map_err(failed)
}

/// The version since which a message may be a run that is not over.
pub(super) const HAS_RUNS: i64 = 5;

pub(super) fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}
