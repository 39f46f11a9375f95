//! The steps of a message's life, and what each does to its row.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::Survives;
use super::row::{event, index};
use crate::record::State;

/// A step in a message's life.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Step {
    /// A connection to the peer's gateway stands.
    Reached {
        /// The gateway process, if the message goes to it now: the one it went to before is not forgotten for another.
        boot_id: Option<String>,
    },
    /// The request is about to leave under this run id. From here on it may have arrived.
    Sending {
        /// The run id of this attempt.
        run_id: String,
        /// The gateway process it goes to.
        boot_id: Option<String>,
    },
    /// The gateway confirmed the run.
    Accepted,
    /// The same, and its owner has to let it run.
    Held,
    /// The gateway refused the attempt for now, and started nothing: the message certainly did not arrive.
    TurnedAway(String),
    /// The connection had ended before the attempt was written: it never left.
    Unsent(String),
    /// The run entered a phase.
    Phase(String),
    /// The connection was lost; what became of the run has to be looked up.
    Lost(String),
    /// Its life ended so.
    Finished {
        /// How.
        state: State,
        /// The reply.
        reply: Option<String>,
        /// What went wrong, in a sentence.
        error: Option<String>,
        /// When the gateway confirmed the run, where that is not noted yet.
        accepted_at: Option<Timestamp>,
    },
}

impl Step {
    /// An end, of a message that was noted as confirmed if it was.
    #[must_use]
    pub fn finished(state: State, reply: Option<String>, error: Option<String>) -> Self {
        Self::Finished { state, reply, error, accepted_at: None }
    }

    /// So much text it brings.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Finished { reply: Some(reply), .. } => reply.len(),
            _ => 0,
        }
    }

    /// That a message leaves, or has come to an end that only we know of, must never be forgotten. What else a crash of
    /// the machine takes from us, the history of the peer's session gives back.
    pub(super) fn survives(&self) -> Survives {
        match self {
            Self::Reached { .. }
            | Self::Accepted
            | Self::Held
            | Self::TurnedAway(_)
            | Self::Unsent(_)
            | Self::Phase(_)
            | Self::Lost(_) => Survives::Process,
            Self::Finished { state: State::Replied | State::NoReply, .. } => Survives::Process,
            Self::Sending { .. } | Self::Finished { .. } => Survives::Machine,
        }
    }
}

/// Notes a step, if the message is still in the hands of who holds this lease.
pub(super) fn apply(
    db: &Connection,
    id: &str,
    lease: Option<&str>,
    at: i64,
    step: &Step,
) -> Result<(), rusqlite::Error> {
    // Its text only where the index gets it: beside the reply, or for the first time.
    let has_reply = matches!(step, Step::Finished { reply: Some(_), .. });
    let is_end = matches!(step, Step::Finished { .. });
    let find = "SELECT seq, iif(?3 OR (?4 AND run IS NOT NULL), text, NULL) FROM messages
        WHERE id = ?1 AND (?2 IS NULL OR lease_owner = ?2)";
    let (seq, text): (i64, Option<String>) = db
        .prepare_cached(find)?
        .query_row(params![id, lease, has_reply, is_end], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match step {
        Step::Reached { boot_id } => {
            let sql =
                "UPDATE messages SET reached_at = coalesce(reached_at, ?2), boot_id = ?3 WHERE seq = ?1";
            db.prepare_cached(sql)?.execute(params![seq, at, boot_id])?;
            event(db, seq, at, "reached", boot_id.as_deref())
        }
        Step::Sending { run_id, boot_id } => sending(db, seq, at, run_id, boot_id.as_deref()),
        Step::Accepted => confirmed(db, seq, at, State::Accepted),
        Step::Held => confirmed(db, seq, at, State::Held),
        Step::TurnedAway(why) => taken_back(db, seq, at, "turned-away", why),
        Step::Unsent(how) => taken_back(db, seq, at, "unsent", how),
        Step::Phase(phase) => event(db, seq, at, "phase", Some(phase)),
        Step::Lost(how) => event(db, seq, at, "lost", Some(how)),
        Step::Finished { state, reply, error, accepted_at } => {
            let accepted_at = accepted_at.map(Timestamp::as_millisecond);
            if let Some(at) = accepted_at {
                event(db, seq, at, State::Accepted.name(), None)?;
            }
            finished(db, seq, at, *state, (reply.as_deref(), error.as_deref()), accepted_at)?;
            text.map_or(Ok(()), |text| index(db, seq, &text, reply.as_deref()))
        }
    }
}

fn sending(
    db: &Connection,
    seq: i64,
    at: i64,
    run_id: &str,
    boot_id: Option<&str>,
) -> Result<(), rusqlite::Error> {
    // The life of what is sent at once begins with this word.
    let sql = "SELECT state = 'sending' AND sent_at IS NULL FROM messages WHERE seq = ?1";
    let said: bool = db.prepare_cached(sql)?.query_row([seq], |row| row.get(0))?;
    // A confirmation counts for its own attempt only.
    let sql = "UPDATE messages SET sent_at = ?2, boot_id = ?4, state = 'sending',
        accepted_at = CASE WHEN run_id = ?3 THEN accepted_at END, run_id = ?3 WHERE seq = ?1";
    db.prepare_cached(sql)?.execute(params![seq, at, run_id, boot_id])?;
    if said { Ok(()) } else { event(db, seq, at, "sending", Some(run_id)) }
}

fn confirmed(db: &Connection, seq: i64, at: i64, state: State) -> Result<(), rusqlite::Error> {
    let sql = "UPDATE messages SET accepted_at = coalesce(accepted_at, ?2), state = ?3 WHERE seq = ?1";
    db.prepare_cached(sql)?.execute(params![seq, at, state.name()])?;
    event(db, seq, at, state.name(), None)
}

/// As if the attempt had not left: it certainly started nothing.
fn taken_back(db: &Connection, seq: i64, at: i64, step: &str, why: &str) -> Result<(), rusqlite::Error> {
    let sql = "UPDATE messages SET sent_at = NULL, boot_id = NULL WHERE seq = ?1";
    db.prepare_cached(sql)?.execute([seq])?;
    event(db, seq, at, step, Some(why))
}

fn finished(
    db: &Connection,
    seq: i64,
    at: i64,
    state: State,
    (reply, error): (Option<&str>, Option<&str>),
    accepted_at: Option<i64>,
) -> Result<(), rusqlite::Error> {
    let sql = "UPDATE messages SET finished_at = ?2, state = ?3, reply = ?4, run = NULL,
        error = CASE WHEN ?5 IS NULL AND run IS NOT NULL AND began_at IS NULL THEN 'stopped before it began' ELSE ?5 END,
        accepted_at = coalesce(accepted_at, ?6),
        next_try_at = NULL, lease_owner = NULL, lease_until = NULL WHERE seq = ?1";
    db.prepare_cached(sql)?.execute(params![seq, at, state.name(), reply, error, accepted_at])?;
    event(db, seq, at, state.name(), error)
}
