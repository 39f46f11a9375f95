//! What the gateway behind `serve` remembers: how much each peer ran, which messages wait for the owner's word, and
//! whether the door is paused.

use std::collections::HashMap;

use rusqlite::params;

use super::received::known_run;
use super::row::{NewMessage, Run, event, insert_received, now};
use super::{Accepted, Archive, ArchiveError};
use crate::record::State;

/// What became of a held message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It runs.
    Approved,
    /// The owner said no.
    Rejected,
    /// Its sender wants it no more.
    Withdrawn,
}

/// Why a message that was held never ran.
const REJECTED: &str = "rejected by its owner";
const WITHDRAWN: &str = "withdrawn by its sender";

/// In SQL: a message that came to us was let in, whatever became of it.
pub(super) const LET_IN: &str =
    "state != 'held' AND coalesce(error, '') NOT IN ('rejected by its owner', 'withdrawn by its sender')";

impl Archive {
    /// How many messages of each peer came since this time (milliseconds since the epoch).
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn received_since(&self, since: i64) -> Result<HashMap<String, u32>, ArchiveError> {
        self.read(move |db| {
            let sql = "SELECT peer, count(*) FROM messages WHERE direction = 'in' AND created_at >= ?1 GROUP BY peer";
            let mut statement = db.prepare(sql)?;
            statement.query_map([since], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    /// Keeps a message that waits for the owner's word, under a name of its own, with a document that it takes to run it;
    /// unless its run is known, as for [`Archive::accept_run`]. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn hold(
        &self,
        id: String,
        mut message: NewMessage,
        document: String,
        earlier: Option<(String, String)>,
    ) -> Result<Accepted, ArchiveError> {
        message.state = State::Held;
        self.ask(move |db| {
            let sender = message.peer.email_prefix.to_lowercase();
            if let Some(known) = known_run(db, &message, &sender, earlier.as_ref())? {
                return Ok(Accepted::Known(Box::new(known)));
            }
            let seq = insert_received(db, &mut message, &Run { sender, ..Run::default() })?;
            let sql = "INSERT INTO held (id, message, document) VALUES (?1, ?2, ?3)";
            db.execute(sql, params![id, seq, document])?;
            Ok(Accepted::New(message.id.clone()))
        })
        .await
    }

    /// The ids and documents of the messages that are held, oldest first.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn held(&self) -> Result<Vec<(String, String)>, ArchiveError> {
        self.read(|db| {
            let sql =
                "SELECT messages.id, document FROM held JOIN messages ON seq = message ORDER BY message";
            let mut statement = db.prepare(sql)?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    /// A message is held no more; one that is approved is a run that waits. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it is not held, or that cannot be written.
    pub async fn decide(&self, id: String, decision: Decision) -> Result<(), ArchiveError> {
        let (state, why) = match decision {
            Decision::Approved => (State::Accepted, None),
            Decision::Rejected => (State::Failed, Some(REJECTED)),
            Decision::Withdrawn => (State::Failed, Some(WITHDRAWN)),
        };
        self.ask(move |db| {
            let at = now();
            let taken = "DELETE FROM held WHERE id = ?1 RETURNING message, document";
            let (seq, document): (i64, String) =
                db.query_row(taken, [&id], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let over = (state == State::Failed).then_some(at);
            let run = why.is_none().then_some(document);
            let sql = "UPDATE messages SET state = ?2, finished_at = ?3, error = ?4, run = ?5 WHERE seq = ?1";
            db.execute(sql, params![seq, state.name(), over, why, run])?;
            event(db, seq, at, if why.is_none() { "approved" } else { state.name() }, why)
        })
        .await
    }

    /// Whether the door is paused.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn is_paused(&self) -> Result<bool, ArchiveError> {
        self.read(|db| db.query_row("SELECT EXISTS (SELECT 1 FROM door)", [], |row| row.get(0))).await
    }

    /// Pauses the door, or opens it again. It is on the disk when this returns.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn pause(&self, paused: bool) -> Result<(), ArchiveError> {
        self.ask(move |db| {
            db.execute("DELETE FROM door", [])?;
            if paused {
                db.execute("INSERT INTO door (paused_at) VALUES (?1)", [now()])?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::{archive, message};
    use crate::archive::{Direction, Step};

    fn received(id: &str, peer: &str) -> NewMessage {
        NewMessage {
            run_id: format!("run-{id}"),
            direction: Direction::In,
            claimed_from: Some("the-queen".into()),
            state: State::Accepted,
            ..message(id, peer, "hello")
        }
    }

    async fn state(archive: &Archive, id: &str) -> (State, Option<String>) {
        let stored = archive.find(id).await.unwrap().unwrap();
        assert_eq!(stored.claimed_from.as_deref(), Some("the-queen"));
        (stored.record.state, stored.failure)
    }

    #[tokio::test]
    async fn a_held_message_lives_one_life_whatever_is_decided() {
        let (_folder, archive) = archive();
        for id in ["id-1", "id-2", "id-3"] {
            archive
                .hold(id.to_uppercase(), received(id, "alice"), format!("document {id}"), None)
                .await
                .unwrap();
            assert_eq!(state(&archive, id).await, (State::Held, None));
        }
        assert!(archive.received(None, 9, 9999).await.unwrap().is_empty(), "none of them was said yet");
        let held = ["id-1", "id-2", "id-3"].map(|id| (id.to_owned(), format!("document {id}")));
        assert_eq!(archive.held().await.unwrap(), held);
        archive.decide("ID-2".into(), Decision::Rejected).await.unwrap();
        archive.decide("ID-3".into(), Decision::Withdrawn).await.unwrap();
        archive.decide("ID-1".into(), Decision::Approved).await.unwrap();
        assert!(archive.decide("ID-1".into(), Decision::Rejected).await.is_err(), "it is decided");
        assert!(archive.held().await.unwrap().is_empty());
        assert_eq!(state(&archive, "id-2").await, (State::Failed, Some("rejected by its owner".into())));
        assert_eq!(state(&archive, "id-3").await, (State::Failed, Some("withdrawn by its sender".into())));

        assert_eq!(state(&archive, "id-1").await, (State::Accepted, None));
        let waits = archive.unfinished().await.unwrap();
        assert_eq!(
            (waits[0].stored.record.id.as_str(), waits[0].document.as_str()),
            ("id-1", "document id-1")
        );
        assert!(archive.received(None, 9, 9999).await.unwrap().is_empty(), "it waits");
        archive.begin_run("id-1").await.unwrap();
        let done = Step::finished(State::Replied, Some("hi".into()), None);
        archive.note(None, "id-1", done).await.unwrap();
        assert!(archive.unfinished().await.unwrap().is_empty(), "that life is over");
        let said = archive.received(None, 9, 9999).await.unwrap();
        assert_eq!(said.len(), 1, "what was turned down was never said");
    }

    #[tokio::test]
    async fn what_came_is_counted_by_peer_from_a_time_on() {
        let (_folder, archive) = archive();
        for (id, peer) in [("id-1", "alice"), ("id-2", "alice"), ("id-3", "bob")] {
            archive.accept_run(received(id, peer), peer, String::new(), None, false).await.unwrap();
        }
        archive.hold("h".into(), received("id-4", "bob"), String::new(), None).await.unwrap();
        let counted = archive.received_since(0).await.unwrap();
        assert_eq!((counted["alice"], counted["bob"], counted.len()), (2, 2, 2));
        assert!(archive.received_since(i64::MAX).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_pause_lasts_until_it_is_ended() {
        let (_folder, archive) = archive();
        assert!(!archive.is_paused().await.unwrap());
        for paused in [true, true, false] {
            archive.pause(paused).await.unwrap();
            assert_eq!(archive.is_paused().await.unwrap(), paused);
        }
    }
}
