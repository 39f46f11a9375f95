//! The outbox: messages that wait, and who carries which of them.
//!
//! A worker takes a message by a lease, one UPDATE in a transaction that was IMMEDIATE from its first word, so that of
//! two workers one gets it. While it works it renews the lease, and every step that it writes is refused once the lease
//! is another's: the step that has to be on the disk before a message leaves, too. A worker that dies leaves a lease
//! that runs out.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, named_params, params};
use uuid::Uuid;

use super::row::{COLUMNS, event, now, stored};
use super::{Archive, ArchiveError, Stored};
use crate::record::State;

/// How long a lease holds; a worker that lives renews it three times in this time.
const LEASE: Duration = Duration::from_secs(30);

/// A message that is ours to carry.
pub struct Claim {
    /// The message as it was taken.
    pub stored: Stored,
    /// What makes it ours.
    pub lease: Lease,
}

/// The right to carry one message. Dropped, it is given back at once.
pub struct Lease {
    archive: Archive,
    id: String,
    owner: String,
}

impl Lease {
    /// The name in the archive under which the message is carried.
    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// Renews the lease again and again; returns only when it is another's.
    pub(crate) async fn keep(&self) -> ArchiveError {
        loop {
            tokio::time::sleep(LEASE / 3).await;
            let (id, owner) = (self.id.clone(), self.owner.clone());
            let renewed = self.archive.ask(move |db| {
                let sql =
                    "UPDATE messages SET lease_until = ?3 WHERE id = ?1 AND lease_owner = ?2 RETURNING 1";
                db.query_row(sql, params![id, owner, lease_end()], |_| Ok(()))
            });
            match renewed.await {
                Err(error @ (ArchiveError::Taken | ArchiveError::Closed)) => return error,
                // Should it run out meanwhile, no step is written any more.
                Err(error) => tracing::warn!(%error, "a lease could not be renewed"),
                Ok(()) => {}
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (id, owner) = (std::mem::take(&mut self.id), std::mem::take(&mut self.owner));
        // Not awaited: should it not reach the disk, the lease runs out by itself.
        drop(self.archive.write(move |db| {
            let sql =
                "UPDATE messages SET lease_owner = NULL, lease_until = NULL WHERE id = ?1 AND lease_owner = ?2";
            db.execute(sql, params![id, owner]).map(drop)
        }));
    }
}

fn lease_end() -> i64 {
    now() + i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}

/// In the outbox, and in nobody's hands.
const FREE: &str = "next_try_at IS NOT NULL AND (lease_until IS NULL OR lease_until <= :now)";

impl Archive {
    /// Takes the next message for a peer that is due at `due`. Of one peer's messages the earlier one goes first: a later
    /// one is not given out until it is known that the earlier one arrived, or that it never will.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn claim_due(&self, peer: &str, due: Timestamp) -> Result<Option<Claim>, ArchiveError> {
        let (peer, due) = (peer.to_lowercase(), due.as_millisecond());
        self.claim(move |db| {
            let sql = format!(
                "SELECT seq FROM messages AS mine WHERE peer = :peer AND next_try_at <= :due AND {FREE}
                    AND (state <> 'queued' OR expires_at > :now)
                    AND NOT EXISTS (SELECT 1 FROM messages AS earlier
                        WHERE earlier.peer = mine.peer AND earlier.next_try_at IS NOT NULL AND earlier.seq < mine.seq
                            AND earlier.state IN ('queued', 'sending', 'unknown'))
                ORDER BY seq LIMIT 1"
            );
            let values = named_params! { ":peer": peer, ":due": due, ":now": now() };
            db.prepare_cached(&sql)?.query_row(values, |row| row.get(0)).optional()
        })
        .await
    }

    /// Takes a message of the outbox that may have left already, to look what became of it.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn claim_sent(&self, id: &str) -> Result<Option<Claim>, ArchiveError> {
        let id = id.to_owned();
        self.claim(move |db| {
            let sql = format!("SELECT seq FROM messages WHERE id = :id AND state <> 'queued' AND {FREE}");
            let values = named_params! { ":id": id, ":now": now() };
            db.query_row(&sql, values, |row| row.get(0)).optional()
        })
        .await
    }

    async fn claim(
        &self,
        mut pick: impl FnMut(&Connection) -> Result<Option<i64>, rusqlite::Error> + Send + 'static,
    ) -> Result<Option<Claim>, ArchiveError> {
        let owner = Uuid::now_v7().to_string();
        let lease_owner = owner.clone();
        let claimed = self.ask(move |db| {
            let Some(seq) = pick(db)? else { return Ok(None) };
            let sql = format!(
                "UPDATE messages SET lease_owner = ?2, lease_until = ?3, tries = tries + 1 WHERE seq = ?1
                    RETURNING {COLUMNS}"
            );
            db.prepare_cached(&sql)?.query_row(params![seq, owner, lease_end()], stored).map(Some)
        });
        Ok(claimed.await?.map(|stored| {
            let lease = Lease { archive: self.clone(), id: stored.record.id.clone(), owner: lease_owner };
            Claim { stored, lease }
        }))
    }

    /// Gives a message back: it is `state`, and the outbox looks after it again at `next`, or never. One that is queued
    /// again has certainly not arrived.
    ///
    /// # Errors
    /// When the archive cannot be written, or the lease is not held any more.
    pub async fn put_back(
        &self,
        lease: &Lease,
        state: State,
        next: Option<Timestamp>,
        why: &str,
    ) -> Result<(), ArchiveError> {
        let (id, owner, why) = (lease.id.clone(), lease.owner.clone(), why.to_owned());
        let next = next.map(Timestamp::as_millisecond);
        self.ask(move |db| {
            let sql = "UPDATE messages SET state = ?3, next_try_at = ?4, error = ?5,
                    sent_at = iif(?3 = 'queued', NULL, sent_at), boot_id = iif(?3 = 'queued', NULL, boot_id),
                    lease_owner = NULL, lease_until = NULL
                WHERE id = ?1 AND lease_owner = ?2 RETURNING seq";
            let seq: i64 =
                db.query_row(sql, params![id, owner, state.name(), next, why], |row| row.get(0))?;
            event(db, seq, now(), "put-back", Some(&why))
        })
        .await
    }

    /// The peers with a message that is due, or stale.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn outbox_peers(
        &self,
        only: Option<&str>,
        due: Timestamp,
    ) -> Result<Vec<String>, ArchiveError> {
        let (only, due) = (only.map(str::to_lowercase), due.as_millisecond());
        self.read(move |db| {
            let sql = format!(
                "SELECT DISTINCT peer FROM messages WHERE {FREE} AND (:only IS NULL OR peer = :only)
                    AND (next_try_at <= :due OR (state = 'queued' AND expires_at <= :now))"
            );
            let values = named_params! { ":only": only, ":due": due, ":now": now() };
            db.prepare(&sql)?.query_map(values, |row| row.get(0))?.collect()
        })
        .await
    }

    /// Makes everything that waits due now, whatever pause it was given.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn hurry(&self, only: Option<&str>) -> Result<(), ArchiveError> {
        let only = only.map(str::to_lowercase);
        self.ask(move |db| {
            let sql =
                "UPDATE messages SET next_try_at = ?2 WHERE next_try_at > ?2 AND (?1 IS NULL OR peer = ?1)";
            db.execute(sql, params![only, now()]).map(drop)
        })
        .await
    }

    /// Ends the life of what is too late to be sent, and gives it.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn expire(&self) -> Result<Vec<Stored>, ArchiveError> {
        self.ask(move |db| {
            let at = now();
            let sql = format!(
                "UPDATE messages SET state = 'expired', finished_at = :now, next_try_at = NULL
                    WHERE state = 'queued' AND expires_at <= :now AND {FREE} RETURNING {COLUMNS}"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let expired: Vec<Stored> =
                statement.query_map(named_params! { ":now": at }, stored)?.collect::<Result<_, _>>()?;
            for message in &expired {
                event(db, message.seq(), at, State::Expired.name(), None)?;
            }
            Ok(expired)
        })
        .await
    }

    /// What the outbox holds, in the order of arrival: what it still looks after, then what it gave up before it
    /// arrived.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn outbox(&self) -> Result<Vec<Stored>, ArchiveError> {
        self.read(move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE next_try_at IS NOT NULL OR (expires_at IS NOT NULL
                    AND accepted_at IS NULL AND state IN ('failed', 'expired'))
                ORDER BY next_try_at IS NULL, seq"
            );
            db.prepare(&sql)?.query_map([], stored)?.collect()
        })
        .await
    }

    /// Takes a message out that has not left, also from under a worker that is about to send it. Says whether there was
    /// one to take.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn cancel(&self, id: &str) -> Result<bool, ArchiveError> {
        let id = id.to_owned();
        self.ask(move |db| {
            let at = now();
            let sql = "UPDATE messages SET state = 'cancelled', finished_at = ?2, next_try_at = NULL,
                    lease_owner = NULL, lease_until = NULL
                WHERE id = ?1 AND expires_at IS NOT NULL AND accepted_at IS NULL
                    AND state IN ('queued', 'failed', 'expired') RETURNING seq";
            let seq: Option<i64> = db.query_row(sql, params![id, at], |row| row.get(0)).optional()?;
            seq.map(|seq| event(db, seq, at, State::Cancelled.name(), None))
                .transpose()
                .map(|it| it.is_some())
        })
        .await
    }

    /// Puts a message that was given up before it arrived back into the outbox, and makes one that waits due. Says
    /// whether there was one. What was refused under a run id is sent under another.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn retry(&self, id: &str, expires_at: Timestamp) -> Result<bool, ArchiveError> {
        let (id, run_id, expires_at) =
            (id.to_owned(), Uuid::now_v7().to_string(), expires_at.as_millisecond());
        self.ask(move |db| {
            let at = now();
            let sql =
                "UPDATE messages SET state = 'queued', finished_at = NULL, error = NULL, next_try_at = ?2,
                    tries = 0, expires_at = max(expires_at, ?3), run_id = iif(sent_at IS NULL, run_id, ?4),
                    sent_at = NULL, boot_id = NULL
                WHERE id = ?1 AND expires_at IS NOT NULL AND accepted_at IS NULL
                    AND state IN ('queued', 'failed', 'expired', 'cancelled') RETURNING seq";
            let seq: Option<i64> =
                db.query_row(sql, params![id, at, expires_at, run_id], |row| row.get(0)).optional()?;
            seq.map(|seq| event(db, seq, at, State::Queued.name(), Some("again")))
                .transpose()
                .map(|it| it.is_some())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::{archive, message};
    use crate::archive::{Filter, NewMessage, Step};

    fn in_a(time: Duration) -> Timestamp {
        Timestamp::now() + time
    }

    async fn queue(archive: &Archive, id: &str, peer: &str, expires_at: Timestamp) {
        let new = NewMessage {
            session: "s".into(),
            state: State::Queued,
            expires_at: Some(expires_at),
            ..message(id, peer, id)
        };
        archive.begin(new).await.unwrap();
    }

    async fn claim(archive: &Archive, peer: &str) -> Option<Claim> {
        archive.claim_due(peer, Timestamp::now()).await.unwrap()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn one_message_has_one_carrier_and_the_later_one_waits() {
        let (_folder, archive) = archive();
        for (id, peer) in [("id-1", "bob"), ("id-2", "bob"), ("id-3", "carol")] {
            queue(&archive, id, peer, in_a(HOUR)).await;
        }
        let first = claim(&archive, "bob").await.unwrap();
        assert_eq!((first.stored.record.id.as_str(), first.stored.tries), ("id-1", 1));
        assert!(claim(&archive, "bob").await.is_none(), "the later one waits for the earlier one");
        let other = Archive::open(archive.path()).unwrap();
        assert!(claim(&other, "bob").await.is_none(), "for other processes, too");
        assert_eq!(claim(&archive, "carol").await.unwrap().stored.record.id, "id-3");
        archive.note(Some(first.lease.owner()), "id-1", Step::Accepted).await.unwrap();
        assert_eq!(claim(&other, "bob").await.unwrap().stored.record.id, "id-2", "the earlier one arrived");
    }

    #[tokio::test]
    async fn a_dropped_lease_is_free_at_once_and_a_lost_one_writes_nothing() {
        let (_folder, archive) = archive();
        queue(&archive, "id-1", "bob", in_a(HOUR)).await;
        drop(claim(&archive, "bob").await.unwrap());
        let lost = claim(&archive, "bob").await.unwrap();
        assert!(archive.cancel("id-1").await.unwrap());
        let sending = Step::Sending { run_id: "id-1".into(), boot_id: None };
        let refused = archive.note(Some(lost.lease.owner()), "id-1", sending).await;
        assert!(matches!(refused, Err(ArchiveError::Taken)), "{refused:?}");
        let refused = archive.put_back(&lost.lease, State::Queued, None, "").await;
        assert!(matches!(refused, Err(ArchiveError::Taken)), "{refused:?}");
        assert_eq!(archive.list(Filter::default()).await.unwrap()[0].record.state, State::Cancelled);
    }

    #[tokio::test]
    async fn what_is_stale_is_not_given_out() {
        let (_folder, archive) = archive();
        queue(&archive, "id-1", "bob", Timestamp::now()).await;
        queue(&archive, "id-2", "bob", in_a(HOUR)).await;
        assert_eq!(archive.outbox_peers(None, Timestamp::UNIX_EPOCH).await.unwrap(), ["bob"]);
        assert!(claim(&archive, "bob").await.is_none());
        assert_eq!(archive.expire().await.unwrap()[0].record.id, "id-1");
        assert_eq!(claim(&archive, "bob").await.unwrap().stored.record.id, "id-2");
    }

    #[tokio::test]
    async fn what_waits_is_due_in_time_or_when_somebody_is_in_a_hurry() {
        let (_folder, archive) = archive();
        queue(&archive, "id-1", "bob", in_a(HOUR)).await;
        let first = claim(&archive, "bob").await.unwrap();
        archive.put_back(&first.lease, State::Queued, Some(in_a(HOUR / 2)), "away").await.unwrap();
        assert!(claim(&archive, "bob").await.is_none());
        archive.hurry(Some("carol")).await.unwrap();
        assert!(claim(&archive, "bob").await.is_none());
        archive.hurry(None).await.unwrap();
        assert_eq!(claim(&archive, "bob").await.unwrap().stored.tries, 2);
    }

    #[tokio::test]
    async fn what_was_given_up_can_be_put_back_and_what_arrived_cannot() {
        let (_folder, archive) = archive();
        queue(&archive, "id-1", "bob", in_a(HOUR)).await;
        let finished = |state| Step::finished(state, None, Some("no".into()));
        let sending = Step::Sending { run_id: "id-1".into(), boot_id: Some("boot".into()) };
        archive.note(None, "id-1", sending).await.unwrap();
        assert!(!archive.cancel("id-1").await.unwrap(), "it may have left");
        archive.note(None, "id-1", finished(State::Failed)).await.unwrap();
        assert_eq!(archive.outbox().await.unwrap()[0].failure.as_deref(), Some("no"));
        assert!(archive.retry("id-1", in_a(HOUR)).await.unwrap());
        let again = claim(&archive, "bob").await.unwrap().stored;
        assert_eq!((again.sent_at, again.record.state, again.tries), (None, State::Queued, 1));
        assert_ne!(again.run_id, "id-1", "what was refused under one run id is sent under another");
        archive.note(None, "id-1", Step::Accepted).await.unwrap();
        archive.note(None, "id-1", finished(State::Failed)).await.unwrap();
        assert!(!archive.retry("id-1", in_a(HOUR)).await.unwrap());
        assert!(archive.outbox().await.unwrap().is_empty());
    }
}
