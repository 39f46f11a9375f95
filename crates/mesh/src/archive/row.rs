//! Messages and events, in and out of the tables.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value};
use serde::Serialize;

use super::{Archive, ArchiveError, Committed, search};
use crate::record::{Receipt, Record, Reply, State, To};
use crate::registry::Via;

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From us to a peer.
    Out,
    /// From a peer to us.
    In,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// A message that is about to live.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its id, a UUID; also the first run id.
    pub id: String,
    /// Which way it goes.
    pub direction: Direction,
    /// The other side.
    pub peer: To,
    /// The route.
    pub via: Via,
    /// The session key on the wire.
    pub session: String,
    /// The topic.
    pub thread: Option<String>,
    /// The message, without its header.
    pub text: String,
    /// What stood before it on the wire: the same bytes are needed to send it again under the same key.
    pub header: String,
    /// Where its life begins.
    pub state: State,
}

/// A step in a message's life.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Step {
    /// A connection to the peer's gateway stands.
    Reached {
        /// The gateway process.
        boot_id: Option<String>,
    },
    /// The request is about to leave under this run id. From here on it may have arrived.
    Sending {
        /// The run id of this attempt.
        run_id: String,
    },
    /// The gateway confirmed the run.
    Accepted,
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
    },
}

/// A dated step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub step: String,
    /// More about it.
    pub detail: Option<String>,
}

/// A message as the archive knows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// The record, as `send` gives it.
    #[serde(flatten)]
    pub record: Record,
    /// Which way it went.
    pub direction: Direction,
    /// The other side's e-mail prefix.
    pub peer: String,
    /// When its life began.
    pub created_at: Timestamp,
    /// The topic.
    pub thread: Option<String>,
    /// The message, without its header.
    pub message: String,
    /// The run id of the last attempt.
    pub run_id: String,
    /// What went wrong, in a sentence.
    pub failure: Option<String>,
    /// What stood before it on the wire.
    #[serde(skip)]
    pub header: String,
    /// The gateway process that the last attempt went to.
    #[serde(skip)]
    pub boot_id: Option<String>,
    /// When the last attempt may have left.
    #[serde(skip)]
    pub sent_at: Option<Timestamp>,
    #[serde(skip)]
    seq: i64,
}

/// Which messages.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With this peer.
    pub peer: Option<String>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// In this state.
    pub state: Option<State>,
    /// On this topic.
    pub thread: Option<String>,
    /// With these words in message or reply.
    pub search: Option<String>,
    /// Only those that came after this one.
    pub after: Option<i64>,
    /// At most so many, the newest.
    pub limit: Option<u32>,
}

impl Stored {
    /// Its place in the order of arrival.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

impl Archive {
    /// Begins a message's life. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be kept, also when its id is known already: then nothing may be sent.
    pub async fn begin(&self, message: NewMessage) -> Result<(), ArchiveError> {
        self.write(move |db| insert(db, &message)).await
    }

    /// Notes a step. What comes back completes when it is on the disk; steps of no great weight need not be awaited.
    pub fn note(&self, id: &str, step: Step) -> Committed {
        let id = id.to_owned();
        let at = now();
        self.write(move |db| apply(db, &id, at, &step))
    }

    /// A message by its id, or a beginning of it that fits only one.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn find(&self, id: &str) -> Result<Option<Stored>, ArchiveError> {
        let id = id.to_owned();
        self.read(move |db| {
            let exact = format!("SELECT {COLUMNS} FROM messages WHERE id = ?1");
            if let Some(found) = db.query_row(&exact, [&id], stored).optional()? {
                return Ok(Some(found));
            }
            if id.len() < 8 {
                return Ok(None);
            }
            let begins = format!("SELECT {COLUMNS} FROM messages WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2");
            let mut rows = db.prepare(&begins)?.query_map([&id], stored)?.collect::<Result<Vec<_>, _>>()?;
            Ok(if rows.len() == 1 { rows.pop() } else { None })
        })
        .await
    }

    /// The steps of a message, in order.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn events(&self, id: &str) -> Result<Vec<Event>, ArchiveError> {
        let id = id.to_owned();
        self.read(move |db| {
            let sql = "SELECT at, step, detail FROM events
                WHERE message = (SELECT seq FROM messages WHERE id = ?1) ORDER BY rowid";
            let event = |row: &Row<'_>| {
                Ok(Event { at: timestamp(row.get(0)?), step: row.get(1)?, detail: row.get(2)? })
            };
            db.prepare(sql)?.query_map([&id], event)?.collect()
        })
        .await
    }

    /// The messages that fit, newest last.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Stored>, ArchiveError> {
        self.read(move |db| {
            let (sql, values) = select(&filter);
            let mut rows = db
                .prepare(&sql)?
                .query_map(params_from_iter(values), stored)?
                .collect::<Result<Vec<_>, _>>()?;
            rows.reverse();
            Ok(rows)
        })
        .await
    }

    /// Forgets messages whose life ended before this time; says how many.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn prune(&self, before: Timestamp) -> Result<usize, ArchiveError> {
        let before = before.as_millisecond();
        let old = "created_at < ?1 AND state NOT IN ('queued', 'sending', 'accepted', 'held')";
        let (count_to, count) = std::sync::mpsc::channel();
        self.write(move |db| {
            db.execute(
                &format!("DELETE FROM search WHERE rowid IN (SELECT seq FROM messages WHERE {old})"),
                [before],
            )?;
            db.execute(
                &format!("DELETE FROM events WHERE message IN (SELECT seq FROM messages WHERE {old})"),
                [before],
            )?;
            let _ = count_to.send(db.execute(&format!("DELETE FROM messages WHERE {old}"), [before])?);
            Ok(())
        })
        .await?;
        Ok(count.recv().unwrap_or_default())
    }
}

fn insert(db: &Connection, message: &NewMessage) -> Result<(), rusqlite::Error> {
    let at = now();
    db.prepare_cached(
        "INSERT INTO messages (id, direction, peer, peer_name, via, session, thread, text, header, bytes, state, run_id,
            created_at, sent_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?1, ?12, ?12)",
    )?
    .execute(params![
        message.id,
        message.direction.name(),
        message.peer.email_prefix.to_lowercase(),
        message.peer.name,
        via_name(message.via),
        message.session,
        message.thread,
        message.text,
        message.header,
        i64::try_from(message.text.len()).unwrap_or(i64::MAX),
        message.state.name(),
        at,
    ])?;
    let seq = db.last_insert_rowid();
    index(db, seq, &message.text, None)?;
    event(db, seq, at, message.state.name(), None)
}

fn apply(db: &Connection, id: &str, at: i64, step: &Step) -> Result<(), rusqlite::Error> {
    let seq: i64 =
        db.prepare_cached("SELECT seq FROM messages WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    let update = |sql: &str, values: &[&dyn rusqlite::ToSql]| db.prepare_cached(sql)?.execute(values);
    match step {
        Step::Reached { boot_id } => {
            update(
                "UPDATE messages SET reached_at = coalesce(reached_at, ?2), boot_id = ?3 WHERE seq = ?1",
                &[&seq, &at, boot_id],
            )?;
            event(db, seq, at, "reached", boot_id.as_deref())
        }
        Step::Sending { run_id } => {
            update(
                "UPDATE messages SET sent_at = ?2, run_id = ?3, state = 'sending' WHERE seq = ?1",
                &[&seq, &at, run_id],
            )?;
            event(db, seq, at, "sending", Some(run_id))
        }
        Step::Accepted => {
            update(
                "UPDATE messages SET accepted_at = coalesce(accepted_at, ?2), state = 'accepted' WHERE seq = ?1",
                &[&seq, &at],
            )?;
            event(db, seq, at, "accepted", None)
        }
        Step::Phase(phase) => event(db, seq, at, "phase", Some(phase)),
        Step::Lost(how) => event(db, seq, at, "lost", Some(how)),
        Step::Finished { state, reply, error } => {
            update(
                "UPDATE messages SET finished_at = ?2, state = ?3, reply = ?4, error = ?5 WHERE seq = ?1",
                &[&seq, &at, &state.name(), reply, error],
            )?;
            if let Some(reply) = reply {
                let text: String =
                    db.query_row("SELECT text FROM messages WHERE seq = ?1", [seq], |row| row.get(0))?;
                index(db, seq, &text, Some(reply))?;
            }
            event(db, seq, at, state.name(), error.as_deref())
        }
    }
}

fn index(db: &Connection, seq: i64, text: &str, reply: Option<&str>) -> Result<(), rusqlite::Error> {
    let words = search::words(&format!("{text}\n{}", reply.unwrap_or_default()));
    let sql = "INSERT OR REPLACE INTO search (rowid, words) VALUES (?1, ?2)";
    db.prepare_cached(sql)?.execute(params![seq, words]).map(drop)
}

fn event(
    db: &Connection,
    seq: i64,
    at: i64,
    step: &str,
    detail: Option<&str>,
) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO events (message, at, step, detail) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute(params![seq, at, step, detail]).map(drop)
}

const COLUMNS: &str = "seq, id, direction, peer, peer_name, via, session, thread, text, header, bytes, state, run_id, \
    boot_id, created_at, sent_at, reached_at, accepted_at, finished_at, reply, error";

fn stored(row: &Row<'_>) -> Result<Stored, rusqlite::Error> {
    let time = |name: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.map(timestamp));
    let direction: String = row.get("direction")?;
    let via: String = row.get("via")?;
    let state: String = row.get("state")?;
    let peer: String = row.get("peer")?;
    let record = Record {
        to: To { name: row.get("peer_name")?, email_prefix: peer.clone() },
        id: row.get("id")?,
        via: if via == "chat" {
            Via::Chat
        } else if via == "a2a" {
            Via::A2a
        } else {
            Via::Agent
        },
        session: row.get("session")?,
        bytes: row.get::<_, i64>("bytes")?.try_into().unwrap_or_default(),
        state: State::from_name(&state).unwrap_or(State::Unknown),
        receipt: Receipt {
            reached_at: time("reached_at")?,
            accepted_at: time("accepted_at")?,
            finished_at: time("finished_at")?,
        },
        reply: row.get::<_, Option<String>>("reply")?.map(|text| Reply { text }),
        error: None,
    };
    Ok(Stored {
        record,
        direction: if direction == "in" { Direction::In } else { Direction::Out },
        peer,
        created_at: timestamp(row.get("created_at")?),
        thread: row.get("thread")?,
        message: row.get("text")?,
        run_id: row.get("run_id")?,
        failure: row.get("error")?,
        header: row.get("header")?,
        boot_id: row.get("boot_id")?,
        sent_at: time("sent_at")?,
        seq: row.get("seq")?,
    })
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

fn via_name(via: Via) -> &'static str {
    match via {
        Via::Agent => "agent",
        Via::Chat => "chat",
        Via::A2a => "a2a",
    }
}

/// The query of a filter, newest first.
fn select(filter: &Filter) -> (String, Vec<Value>) {
    let mut wheres = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut add = |clause: &str, value: Value| {
        values.push(value);
        wheres.push(clause.replace('?', &format!("?{}", values.len())));
    };
    if let Some(words) = &filter.search {
        add("seq IN (SELECT rowid FROM search WHERE search MATCH ?)", search::query(words).into());
    }
    if let Some(peer) = &filter.peer {
        add("peer = ?", peer.to_lowercase().into());
    }
    if let Some(since) = filter.since {
        add("created_at >= ?", since.as_millisecond().into());
    }
    if let Some(state) = filter.state {
        add("state = ?", state.name().to_owned().into());
    }
    if let Some(thread) = &filter.thread {
        add("thread = ?", thread.clone().into());
    }
    if let Some(after) = filter.after {
        add("seq > ?", after.into());
    }
    let wheres = if wheres.is_empty() { "1".to_owned() } else { wheres.join(" AND ") };
    let limit = filter.limit.map_or(-1, i64::from);
    (format!("SELECT {COLUMNS} FROM messages WHERE {wheres} ORDER BY seq DESC LIMIT {limit}"), values)
}
