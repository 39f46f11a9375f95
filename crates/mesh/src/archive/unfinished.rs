//! The runs that came to us and are not over: what the gateway behind `serve` goes on with when it was killed.

use jiff::Timestamp;
use rusqlite::params;

use super::row::{COLUMNS, NewMessage, Run, insert_received, now, stored, timestamp};
use super::{Archive, ArchiveError, Stored, Survives};

/// In SQL: a message that came to us has begun to run, and does not only wait, or has waited, for its turn.
pub(super) const BEGAN: &str =
    "coalesce(error, '') != 'stopped before it began' AND (run IS NULL OR began_at IS NOT NULL)";

/// A run that is not over.
#[derive(Debug)]
pub struct Unfinished {
    /// Its message.
    pub stored: Stored,
    /// What else it takes to run it.
    pub document: String,
    /// Since when it may have begun; none if it certainly only waited.
    pub began_at: Option<Timestamp>,
}

impl Archive {
    /// Keeps a message that came to us as a run that waits, or begins now, with a document that it takes to run it.
    /// `sender` is who proved to have sent it, whatever the message says. Gives its id; it survives our own crash when
    /// this returns.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn accept_run(
        &self,
        mut message: NewMessage,
        sender: &str,
        document: String,
        begins: bool,
    ) -> Result<String, ArchiveError> {
        let run = Run { sender: sender.to_owned(), document: Some(document), began_at: begins.then(now) };
        // What the machine's crash takes from us its sender looks for, and has still.
        self.ask_to(Survives::Process, move |db| {
            insert_received(db, &mut message, &run)?;
            Ok(message.id.clone())
        })
        .await
    }

    /// A run that waited begins. It survives our own crash when this returns.
    ///
    /// # Errors
    /// When that cannot be kept, also when there is no such run.
    pub async fn begin_run(&self, id: &str) -> Result<(), ArchiveError> {
        let id = id.to_owned();
        self.ask_to(Survives::Process, move |db| {
            let sql = "UPDATE messages SET began_at = ?2 WHERE id = ?1 AND run IS NOT NULL RETURNING seq";
            db.prepare_cached(sql)?.query_row(params![id, now()], |row| row.get::<_, i64>(0)).map(drop)
        })
        .await
    }

    /// The runs that are not over, in the order they came.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, ArchiveError> {
        self.read(|db| {
            let sql = format!(
                "SELECT {COLUMNS}, run, began_at FROM messages INDEXED BY messages_by_state
                    WHERE state = 'accepted' AND direction = 'in' AND run IS NOT NULL ORDER BY seq"
            );
            let mut statement = db.prepare(&sql)?;
            let rows = statement.query_map([], |row| {
                let began_at = row.get::<_, Option<i64>>("began_at")?.map(timestamp);
                Ok(Unfinished { stored: stored(row)?, document: row.get("run")?, began_at })
            })?;
            rows.collect()
        })
        .await
    }
}
