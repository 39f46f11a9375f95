//! Messages and events, in and out of the tables.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use uuid::Uuid;

use super::ledger::{COUNTS, Leaving};
use super::step::{Step, apply};
use super::{Archive, ArchiveError, Carrier, Committed, Survives, search};
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
    /// Its id, a UUID.
    pub id: String,
    /// The run id of the first attempt: the id, for what we send.
    pub run_id: String,
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
    /// For one that came to us: who it says it is from. Who it is from stands in `peer`.
    pub claimed_from: Option<String>,
    /// Where its life begins.
    pub state: State,
    /// For the outbox: when it is too late to send it.
    pub expires_at: Option<Timestamp>,
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
    /// Who proved to have sent it, for one that came to us: `owner`, or the key of a peer.
    pub sender: Option<String>,
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
    /// For one that came to us: who it says it is from, where `peer` is who proved to have sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_from: Option<String>,
    /// When it is too late to send it, for one that was given to the outbox.
    pub expires_at: Option<Timestamp>,
    /// When the outbox looks after it next; none if it is done with it.
    pub next_try_at: Option<Timestamp>,
    /// How often the outbox tried.
    pub tries: u32,
    /// What stood before it on the wire.
    #[serde(skip)]
    pub header: String,
    /// The gateway process that the last attempt went to.
    #[serde(skip)]
    pub boot_id: Option<String>,
    /// When the last attempt may have left; none if it certainly did not.
    #[serde(skip)]
    pub sent_at: Option<Timestamp>,
    /// Until when a worker of the outbox has it.
    #[serde(skip)]
    pub lease_until: Option<Timestamp>,
    #[serde(skip)]
    seq: i64,
}

impl Stored {
    /// Its place in the order of arrival.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }
}

/// The shortest beginning of an id that is looked for.
const SHORTEST_ID: usize = 8;

/// How many of the messages that a beginning fits are named, the newest.
const NAMED: usize = 5;

pub(super) fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

impl Archive {
    /// Begins a message's life. It survives our own crash when this returns; what waits in the outbox, the machine's, too.
    ///
    /// # Errors
    /// When it cannot be kept, also when its id is known already: then nothing may be sent.
    pub async fn begin(&self, message: NewMessage) -> Result<(), ArchiveError> {
        self.write_to(survives(&message), move |db| insert(db, &message)).await
    }

    /// Ends the life of what came to us before this time, was never answered, and is not among the runs that are not over:
    /// its gateway died in the middle of it. For whoever is the only gateway of this archive.
    pub fn abandon_received(&self, before: Timestamp) -> Committed {
        self.write(move |db| {
            let at = now();
            let sql = "UPDATE messages SET state = 'failed', finished_at = ?2, error = 'the gateway ended before it'
                WHERE state = 'accepted' AND direction = 'in' AND created_at < ?1
                    AND run IS NULL RETURNING seq";
            let mut statement = db.prepare_cached(sql)?;
            let ended = statement.query_map([before.as_millisecond(), at], |row| row.get(0))?;
            for seq in ended.collect::<Result<Vec<i64>, _>>()? {
                event(db, seq, at, State::Failed.name(), Some("the gateway ended before it"))?;
            }
            Ok(())
        })
    }

    /// Notes a step, on behalf of who holds this lease, if the message is carried under one: refused when it is not held any
    /// more. What comes back completes when it is committed; steps of no great weight need not be awaited.
    pub fn note(&self, lease: Option<&str>, id: &str, step: Step) -> Committed {
        let (id, lease, at) = (id.to_owned(), lease.map(str::to_owned), now());
        self.write_to(step.survives(), move |db| apply(db, &id, lease.as_deref(), at, &step))
    }

    /// The same for a message whose beginning was noted by [`Archive::begin_leaving`].
    pub(crate) fn note_here(
        &self,
        carrier: &Carrier,
        lease: Option<&str>,
        id: &str,
        step: Step,
    ) -> Committed {
        let (id, lease, at) = (id.to_owned(), lease.map(str::to_owned), now());
        self.write_here(carrier, step.bytes(), step.survives(), move |db| {
            apply(db, &id, lease.as_deref(), at, &step)
        })
    }

    /// Ends the lives of messages whose sending was given up in the middle, all in one write, and gives them as they are
    /// then. One that never left is `unsent`, one that may have left is unknown; what was confirmed, or has ended, or is
    /// the outbox's, stays as it is. One whose life had not begun is left out.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub(crate) async fn give_up(
        &self,
        ids: Vec<String>,
        unsent: State,
        why: &'static str,
    ) -> Result<Vec<Stored>, ArchiveError> {
        self.ask(move |db| {
            let mut all = Vec::with_capacity(ids.len());
            for id in &ids {
                let Some(mut message) = by_id(db, id)? else { continue };
                if message.record.state == State::Sending && message.next_try_at.is_none() {
                    let state = if message.sent_at.is_some() { State::Unknown } else { unsent };
                    let end = Step::finished(state, None, Some(why.to_owned()));
                    apply(db, id, None, now(), &end)?;
                    message = by_id(db, id)?.unwrap_or(message);
                }
                all.push(message);
            }
            Ok(all)
        })
        .await
    }

    /// A message by its id, or a beginning of it that fits only one.
    ///
    /// # Errors
    /// When the beginning fits several, or the archive cannot be read.
    pub async fn find(&self, id: &str) -> Result<Option<Stored>, ArchiveError> {
        // Ours are written in one way, whatever way of writing a UUID they were given in. A peer's may be anything.
        let (given, beginning) = (id.to_owned(), as_written(id));
        let (mut found, all) = self
            .read(move |db| {
                for id in [&given, &beginning] {
                    if let Some(found) = by_id(db, id)? {
                        return Ok((vec![found], 1));
                    }
                }
                if beginning.len() < SHORTEST_ID {
                    return Ok((Vec::new(), 0));
                }
                let begins = "FROM messages WHERE id >= ?1 AND id < ?1 || 'g'";
                let newest = format!("SELECT {COLUMNS} {begins} ORDER BY seq DESC LIMIT {NAMED}");
                let found: Vec<_> =
                    db.prepare(&newest)?.query_map([&beginning], stored)?.collect::<Result<_, _>>()?;
                let all = match found.len() {
                    NAMED => {
                        let count = format!("SELECT count(*) {begins}");
                        let all: u32 = db.query_row(&count, [&beginning], |row| row.get(0))?;
                        usize::try_from(all).unwrap_or(usize::MAX)
                    }
                    few => few,
                };
                Ok((found, all))
            })
            .await?;
        if found.len() > 1 {
            let more = all.saturating_sub(found.len());
            let ids = found.into_iter().map(|stored| stored.record.id).collect();
            return Err(ArchiveError::Ambiguous { beginning: id.to_owned(), ids, more });
        }
        Ok(found.pop())
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

    /// Forgets messages whose life ended before this time; says how many.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn prune(&self, before: Timestamp) -> Result<usize, ArchiveError> {
        let before = before.as_millisecond();
        let old = "created_at < ?1 AND next_try_at IS NULL
            AND state NOT IN ('queued', 'sending', 'accepted', 'held')";
        self.ask(move |db| {
            // What did not count does not begin to when nobody knows any more that it never left.
            let messages = format!("SELECT id FROM messages WHERE {old}");
            db.execute(
                &format!("DELETE FROM said WHERE message IN ({messages}) AND NOT ({COUNTS})"),
                [before],
            )?;
            db.execute(
                &format!("DELETE FROM search WHERE rowid IN (SELECT seq FROM messages WHERE {old})"),
                [before],
            )?;
            db.execute(
                &format!("DELETE FROM events WHERE message IN (SELECT seq FROM messages WHERE {old})"),
                [before],
            )?;
            db.execute(&format!("DELETE FROM messages WHERE {old}"), [before])
        })
        .await
    }
}

fn by_id(db: &Connection, id: &str) -> Result<Option<Stored>, rusqlite::Error> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE id = ?1");
    db.prepare_cached(&sql)?.query_row([id], stored).optional()
}

fn as_written(id: &str) -> String {
    Uuid::try_parse(id).map_or_else(|_| id.to_lowercase(), |uuid| uuid.to_string())
}

/// What the beginning of a message's life has to survive. What is sent at once has left nothing behind until the note that
/// it leaves, which takes this row to the disk with it. What waits in the outbox is a promise.
pub(super) fn survives(message: &NewMessage) -> Survives {
    if message.state == State::Sending { Survives::Process } else { Survives::Machine }
}

/// What belongs to a message that came to us, and is a run here.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Who proved to have sent it, whatever the message says.
    pub(super) sender: String,
    /// What it takes to run it.
    pub(super) document: Option<String>,
    /// Since when it may have begun.
    pub(super) began_at: Option<i64>,
}

/// Begins the life of a message that came to us, under its own id, or a fresh one if that is taken: ids are the senders'
/// to choose.
pub(super) fn insert_received(
    db: &Connection,
    message: &mut NewMessage,
    run: &Run,
) -> Result<i64, rusqlite::Error> {
    let taken = "SELECT EXISTS (SELECT 1 FROM messages WHERE id = ?1)";
    if db.prepare_cached(taken)?.query_row([&message.id], |row| row.get(0))? {
        message.id = Uuid::now_v7().to_string();
    }
    insert_as(db, message, &Birth::Received(run))
}

pub(super) fn insert(db: &Connection, message: &NewMessage) -> Result<(), rusqlite::Error> {
    insert_as(db, message, &Birth::Ours).map(drop)
}

/// Begins the life of a message that leaves at once: as it stands after [`Step::Reached`] and [`Step::Sending`].
pub(super) fn insert_leaving(
    db: &Connection,
    message: &NewMessage,
    leaving: &Leaving,
) -> Result<(), rusqlite::Error> {
    let seq = insert_as(db, message, &Birth::Leaving(leaving))?;
    event(db, seq, now(), "reached", leaving.boot_id.as_deref())
}

/// What else is known of a message when its life begins.
enum Birth<'a> {
    Ours,
    Leaving(&'a Leaving),
    Received(&'a Run),
}

fn insert_as(db: &Connection, message: &NewMessage, birth: &Birth<'_>) -> Result<i64, rusqlite::Error> {
    let at = now();
    let (leaving, run) = match birth {
        Birth::Ours => (None, None),
        Birth::Leaving(leaving) => (Some(leaving), None),
        Birth::Received(run) => (None, Some(run)),
    };
    db.prepare_cached(
        "INSERT INTO messages (id, direction, peer, peer_name, via, session, thread, text, header, bytes, state, run_id,
            created_at, accepted_at, expires_at, next_try_at, claimed_from, sender, run, began_at, boot_id, reached_at, sent_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?22)",
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
        message.run_id,
        at,
        message.state.is_confirmed().then_some(at),
        message.expires_at.map(Timestamp::as_millisecond),
        message.expires_at.map(|_| at),
        message.claimed_from,
        run.map(|run| &run.sender),
        run.and_then(|run| run.document.as_ref()),
        run.and_then(|run| run.began_at),
        leaving.and_then(|leaving| leaving.boot_id.as_ref()),
        leaving.map(|_| at),
    ])?;
    let seq = db.last_insert_rowid();
    // A run's words are indexed at its end, together with the reply's.
    if run.is_none_or(|run| run.document.is_none()) {
        index(db, seq, &message.text, None)?;
    }
    event(db, seq, at, message.state.name(), None)?;
    Ok(seq)
}

pub(super) fn index(
    db: &Connection,
    seq: i64,
    text: &str,
    reply: Option<&str>,
) -> Result<(), rusqlite::Error> {
    let all = format!("{text}\n{}", reply.unwrap_or_default());
    let words = search::words(&all);
    let sql = "INSERT OR REPLACE INTO search (rowid, words) VALUES (?1, ?2)";
    db.prepare_cached(sql)?.execute(params![seq, words]).map(drop)
}

pub(super) fn event(
    db: &Connection,
    seq: i64,
    at: i64,
    step: &str,
    detail: Option<&str>,
) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO events (message, at, step, detail) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute(params![seq, at, step, detail]).map(drop)
}

pub(super) const COLUMNS: &str = "seq, id, direction, peer, peer_name, via, session, thread, text, header, bytes, state, run_id, \
    boot_id, created_at, sent_at, reached_at, accepted_at, finished_at, reply, error, \
    expires_at, next_try_at, tries, lease_until, sender, claimed_from";

pub(super) fn stored(row: &Row<'_>) -> Result<Stored, rusqlite::Error> {
    let time = |name: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.map(timestamp));
    let direction: String = row.get("direction")?;
    let via: String = row.get("via")?;
    let state: String = row.get("state")?;
    let peer: String = row.get("peer")?;
    let record = Record {
        to: To { name: row.get("peer_name")?, email_prefix: peer.clone() },
        id: row.get("id")?,
        via: via_of(&via),
        session: row.get("session")?,
        bytes: row.get::<_, i64>("bytes")?.try_into().unwrap_or_default(),
        state: State::from_name(&state).unwrap_or(State::Unknown),
        receipt: Receipt {
            reached_at: time("reached_at")?,
            accepted_at: time("accepted_at")?,
            finished_at: time("finished_at")?,
        },
        reply: row.get::<_, Option<String>>("reply")?.map(|text| Reply { text }),
        warning: None,
        error: None,
    };
    Ok(Stored {
        record,
        direction: if direction == "in" { Direction::In } else { Direction::Out },
        peer,
        sender: row.get("sender")?,
        created_at: timestamp(row.get("created_at")?),
        thread: row.get("thread")?,
        message: row.get("text")?,
        run_id: row.get("run_id")?,
        failure: row.get("error")?,
        claimed_from: row.get("claimed_from")?,
        expires_at: time("expires_at")?,
        next_try_at: time("next_try_at")?,
        tries: row.get("tries")?,
        lease_until: time("lease_until")?,
        header: row.get("header")?,
        boot_id: row.get("boot_id")?,
        sent_at: time("sent_at")?,
        seq: row.get("seq")?,
    })
}

pub(super) fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

pub(super) fn via_name(via: Via) -> &'static str {
    match via {
        Via::Agent => "agent",
        Via::Chat => "chat",
        Via::A2a => "a2a",
    }
}

fn via_of(name: &str) -> Via {
    match name {
        "chat" => Via::Chat,
        "a2a" => Via::A2a,
        _ => Via::Agent,
    }
}
