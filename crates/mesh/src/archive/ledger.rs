//! How much was said in the last day, and whether there may be more: counted and written in one transaction, so that of
//! two processes that ask at once each sees what the other wrote. What certainly never left does not count, but for how
//! often a peer was tried that cannot be reached.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::row::{apply, insert, now, survives};
use super::{Archive, ArchiveError, NewMessage, Step};
use crate::guard::{LONGEST_WINDOW, Measure, Refusal, Rules, Speaker};

/// What a message is measured by.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// The rules as configured.
    pub rules: Rules,
    /// Who speaks.
    pub speaker: Speaker,
    /// For the rest of a broadcast: the id of its first message, which stands for all in the sum over all peers.
    pub chorus_of: Option<String>,
}

/// That a connection stands over which a message leaves at once.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// The gateway process at its other end.
    pub boot_id: Option<String>,
}

/// How much was said to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// The peer's e-mail prefix.
    pub peer: String,
    /// Messages to it in the last hour.
    pub last_hour: u32,
    /// Messages in its busiest conversation in the last day.
    pub thread_last_day: u32,
    /// Tries to reach it in vain in the last hour, since something last left for it.
    #[serde(skip_serializing_if = "is_none")]
    pub unreachable_last_hour: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none(tries: &u32) -> bool {
    *tries == 0
}

/// How much one kind of speaker said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// To all, in the last hour; a broadcast counts once.
    pub total_last_hour: u32,
    /// To each peer that something was said to in the last day.
    pub peers: Vec<Said>,
}

/// A moment from which on counting began anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reset {
    /// When.
    pub at: Timestamp,
    /// For which peer; none: for all.
    pub peer: Option<String>,
}

/// That the message of a line in `said` left, or may have, or may still do so. One that was forgotten did.
pub(super) const COUNTS: &str = "NOT EXISTS (SELECT 1 FROM messages WHERE id = said.message AND (state IN ('unreachable', 'skipped', \
    'expired', 'cancelled') OR (state = 'failed' AND sent_at IS NULL)))";

/// That the message of a line in `said` did not leave because its peer could not be reached, and none left for it since.
fn in_vain(speaker: &str, peer: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM messages WHERE id = said.message AND state = 'unreachable')
            AND at > (SELECT coalesce(max(at), 0) FROM said WHERE speaker = {speaker} AND peer = {peer} AND {COUNTS})"
    )
}

impl Archive {
    /// Begins a message's life, if there may be one more, as [`Archive::begin`] does; one that is refused leaves nothing
    /// behind.
    ///
    /// # Errors
    /// When it cannot be kept, also when its id is known already: then nothing may be sent.
    pub async fn begin_within(
        &self,
        message: NewMessage,
        allowance: Allowance,
    ) -> Result<Result<(), Refusal>, ArchiveError> {
        self.ask_to(survives(&message), move |db| enter(db, &message, &allowance)).await
    }

    /// The same for a message that leaves at once. That it does is on the disk with it when this returns.
    ///
    /// # Errors
    /// As [`Archive::begin_within`].
    pub(crate) async fn begin_leaving(
        &self,
        message: NewMessage,
        allowance: Allowance,
        Leaving { boot_id }: Leaving,
    ) -> Result<Result<(), Refusal>, ArchiveError> {
        let leaves = Step::Sending { run_id: message.run_id.clone(), boot_id: boot_id.clone() };
        self.ask_to(leaves.survives(), move |db| {
            let entered = enter(db, &message, &allowance)?;
            if entered.is_ok() {
                for step in [Step::Reached { boot_id }, leaves] {
                    apply(db, &message.id, None, now(), &step)?;
                }
            }
            Ok(entered)
        })
        .await
    }

    /// How much this kind of speaker said since the last reset.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn tally(&self, speaker: Speaker) -> Result<Tally, ArchiveError> {
        self.read(move |db| {
            let (hour, day) = (Measure::TotalPerHour.window(), Measure::ThreadPerDay.window());
            let total = format!(
                "SELECT count(*) FROM said WHERE speaker = ?1 AND chorus = 0 AND {COUNTS}
                    AND at > max(?2, (SELECT coalesce(max(at), 0) FROM resets WHERE peer IS NULL))"
            );
            let total_last_hour =
                db.query_row(&total, params![speaker.name(), before(hour)], |row| row.get(0))?;
            let peers = format!(
                "SELECT peer, sum(hour), max(day) FROM (
                    SELECT peer, sum(at > ?2) AS hour, count(*) AS day FROM said
                    WHERE speaker = ?1 AND {COUNTS} AND at > max(?3, (SELECT coalesce(max(at), 0) FROM resets
                        WHERE resets.peer IS NULL OR resets.peer = said.peer))
                    GROUP BY peer, session)
                GROUP BY peer ORDER BY sum(day) DESC, peer"
            );
            let said = |row: &Row<'_>| {
                let (last_hour, thread_last_day) = (row.get(1)?, row.get(2)?);
                Ok(Said { peer: row.get(0)?, last_hour, thread_last_day, unreachable_last_hour: 0 })
            };
            let values = params![speaker.name(), before(hour), before(day)];
            let mut peers: Vec<Said> =
                db.prepare(&peers)?.query_map(values, said)?.collect::<Result<_, _>>()?;
            for (peer, tries) in tries(db, speaker)? {
                match peers.iter_mut().find(|said| said.peer == peer) {
                    Some(said) => said.unreachable_last_hour = tries,
                    None => peers.push(Said {
                        peer,
                        last_hour: 0,
                        thread_last_day: 0,
                        unreachable_last_hour: tries,
                    }),
                }
            }
            Ok(Tally { total_last_hour, peers })
        })
        .await
    }

    /// Lets a message that left stand for its whole broadcast, in place of the first one, which did not.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub(crate) async fn stand_for_all(&self, id: &str) -> Result<(), ArchiveError> {
        let id = id.to_owned();
        self.ask(move |db| db.execute("UPDATE said SET chorus = 0 WHERE message = ?1", [id]).map(drop)).await
    }

    /// Counts anew from now on, for one peer or for all. That it was done stays.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn reset_limits(&self, peer: Option<&str>) -> Result<(), ArchiveError> {
        let peer = peer.map(str::to_lowercase);
        self.ask(move |db| {
            db.execute("INSERT INTO resets (at, peer) VALUES (?1, ?2)", params![now(), peer]).map(drop)
        })
        .await
    }

    /// The last resets, newest first.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn resets(&self) -> Result<Vec<Reset>, ArchiveError> {
        self.read(|db| {
            let reset = |row: &Row<'_>| {
                Ok(Reset {
                    at: Timestamp::from_millisecond(row.get(0)?).unwrap_or_default(),
                    peer: row.get(1)?,
                })
            };
            let sql = "SELECT at, peer FROM resets ORDER BY at DESC LIMIT 20";
            db.prepare(sql)?.query_map([], reset)?.collect()
        })
        .await
    }
}

/// How often each peer was tried in vain.
fn tries(db: &Connection, speaker: Speaker) -> Result<Vec<(String, u32)>, rusqlite::Error> {
    let sql = format!(
        "SELECT peer, count(*) FROM (SELECT DISTINCT peer AS who FROM said WHERE speaker = ?1 AND at > ?2)
            JOIN said ON peer = who WHERE speaker = ?1 AND {}
            AND at > max(?2, (SELECT coalesce(max(at), 0) FROM resets WHERE resets.peer IS NULL OR resets.peer = who))
        GROUP BY peer ORDER BY peer",
        in_vain("?1", "who")
    );
    let values = params![speaker.name(), before(Measure::UnreachablePerHour.window())];
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    db.prepare(&sql)?.query_map(values, row)?.collect()
}

/// Begins a message's life, unless there may be none more.
fn enter(
    db: &Connection,
    message: &NewMessage,
    allowance: &Allowance,
) -> Result<Result<(), Refusal>, rusqlite::Error> {
    let ledger = Ledger::of(db, message, allowance);
    if let Some(refusal) = ledger.refusal()? {
        return Ok(Err(refusal));
    }
    ledger.enter()?;
    insert(db, message).map(Ok)
}

/// The moment so long ago.
fn before(window: Duration) -> i64 {
    now() - i64::try_from(window.as_millis()).unwrap_or(i64::MAX)
}

/// The ledger, opened at the page of one message.
struct Ledger<'a> {
    db: &'a Connection,
    message: &'a NewMessage,
    allowance: &'a Allowance,
    peer: String,
    words: i64,
}

impl<'a> Ledger<'a> {
    fn of(db: &'a Connection, message: &'a NewMessage, allowance: &'a Allowance) -> Self {
        let peer = message.peer.email_prefix.to_lowercase();
        let digest: [u8; 32] = Sha256::digest(&message.text).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self { db, message, allowance, peer, words: i64::from_be_bytes([a, b, c, d, e, f, g, h]) }
    }

    fn refusal(&self) -> Result<Option<Refusal>, rusqlite::Error> {
        let rules = self.allowance.rules.for_speaker(self.allowance.speaker);
        if let Some(window) = rules.repeat_window_of(self.allowance.speaker)
            && let Some(refusal) = self.repeated(window)?
        {
            return Ok(Some(refusal));
        }
        let mut measures = vec![
            (Measure::ThreadPerDay, rules.thread_per_day),
            (Measure::PeerPerHour, rules.peer_per_hour),
            (Measure::UnreachablePerHour, rules.unreachable_per_hour),
        ];
        if !self.is_stood_for()? {
            measures.push((Measure::TotalPerHour, rules.total_per_hour));
        }
        let most = self.most_said()?;
        for (measure, limit) in measures.into_iter().filter(|(_, limit)| i64::from(*limit) <= most) {
            if let Some(at) = self.exhausted(measure, limit)? {
                let free_at =
                    at.saturating_add(i64::try_from(measure.window().as_millis()).unwrap_or(i64::MAX));
                let free_at = Timestamp::from_millisecond(free_at).unwrap_or(Timestamp::MAX);
                return Ok(Some(Refusal::Limit { to: self.message.peer.clone(), measure, limit, free_at }));
            }
        }
        Ok(None)
    }

    /// Whether another message of the same broadcast counts for it. The first may have been refused.
    fn is_stood_for(&self) -> Result<bool, rusqlite::Error> {
        let Some(first) = &self.allowance.chorus_of else { return Ok(false) };
        let sql = "SELECT EXISTS (SELECT 1 FROM said WHERE speaker = ?1 AND chorus = 0 AND at > ?2 AND message = ?3)";
        let values = params![self.allowance.speaker.name(), before(Measure::TotalPerHour.window()), first];
        self.db.prepare_cached(sql)?.query_row(values, |row| row.get(0))
    }

    /// No count is larger than this: what is in the table at all, of whom and whenever, and the gaps in it. Known from both
    /// ends of it, where a count walks through what it counts: a person's limits are wide, and are hardly ever near.
    fn most_said(&self) -> Result<i64, rusqlite::Error> {
        let sql = "SELECT coalesce((SELECT max(rowid) FROM said) - (SELECT min(rowid) FROM said) + 1, 0)";
        self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))
    }

    /// When the oldest of the last `limit` messages was written, if there are so many: at the limit, only its leaving the
    /// window makes room. Which of them left is looked at only where it matters.
    fn exhausted(&self, measure: Measure, limit: u32) -> Result<Option<i64>, rusqlite::Error> {
        match self.nth_last(measure, limit, "1")? {
            Some(_) if measure == Measure::UnreachablePerHour => {
                self.nth_last(measure, limit, &in_vain("?1", "?4"))
            }
            Some(_) => self.nth_last(measure, limit, COUNTS),
            None => Ok(None),
        }
    }

    fn nth_last(&self, measure: Measure, nth: u32, counts: &str) -> Result<Option<i64>, rusqlite::Error> {
        let Some(others) = nth.checked_sub(1) else { return Ok(Some(now())) };
        let (which, resets) = match measure {
            Measure::TotalPerHour => ("chorus = 0", "peer IS NULL"),
            Measure::PeerPerHour | Measure::UnreachablePerHour => ("peer = ?4", "peer IS NULL OR peer = ?4"),
            Measure::ThreadPerDay => ("peer = ?4 AND session = ?5", "peer IS NULL OR peer = ?4"),
        };
        let sql = format!(
            "SELECT at FROM said WHERE speaker = ?1 AND {which} AND {counts}
                AND at > max(?2, (SELECT coalesce(max(at), 0) FROM resets WHERE {resets}))
            ORDER BY at DESC LIMIT 1 OFFSET ?3"
        );
        let since = before(measure.window());
        let all = params![self.allowance.speaker.name(), since, others, self.peer, self.message.session];
        let named = match measure {
            Measure::TotalPerHour => 3,
            Measure::PeerPerHour | Measure::UnreachablePerHour => 4,
            Measure::ThreadPerDay => 5,
        };
        self.db.prepare_cached(&sql)?.query_row(&all[..named], |row| row.get(0)).optional()
    }

    /// The same text to the same peer, unless it certainly did not arrive: that may be said again.
    fn repeated(&self, window: Duration) -> Result<Option<Refusal>, rusqlite::Error> {
        let sql = "SELECT at, message FROM said WHERE speaker = 'agent' AND peer = :peer AND words = :words
                AND at > max(:since, (SELECT coalesce(max(at), 0) FROM resets WHERE peer IS NULL OR peer = :peer))
                AND NOT EXISTS (SELECT 1 FROM messages WHERE id = said.message
                    AND state IN ('failed', 'unreachable', 'skipped', 'expired', 'cancelled'))
            ORDER BY at DESC LIMIT 1";
        let since = before(window.min(LONGEST_WINDOW));
        let values = named_params! { ":peer": self.peer, ":words": self.words, ":since": since };
        let repeated = |row: &Row<'_>| {
            let ago = u64::try_from(now() - row.get::<_, i64>(0)?).unwrap_or_default();
            Ok(Refusal::Repeated {
                to: self.message.peer.clone(),
                ago: Duration::from_millis(ago),
                id: row.get(1)?,
            })
        };
        self.db.prepare_cached(sql)?.query_row(values, repeated).optional()
    }

    /// Writes the message down, and forgets what no limit looks back to.
    fn enter(&self) -> Result<(), rusqlite::Error> {
        // The oldest come first in the table: a few at a time keep it as long as a day. Their numbers as a range, since SQLite
        // makes a table for a list.
        let old = "DELETE FROM said WHERE at < ?1 AND rowid < 8 + (SELECT min(rowid) FROM said)";
        self.db.prepare_cached(old)?.execute([before(LONGEST_WINDOW)])?;
        // After the last reset, also in its millisecond or by a clock that was set back: what it lets through counts.
        let sql = "INSERT INTO said (at, speaker, peer, session, words, message, chorus)
            VALUES (max(?1, 1 + (SELECT coalesce(max(at), 0) FROM resets)), ?2, ?3, ?4, ?5, ?6, ?7)";
        let values = params![
            now(),
            self.allowance.speaker.name(),
            self.peer,
            self.message.session,
            self.words,
            self.message.id,
            self.allowance.chorus_of.is_some(),
        ];
        self.db.prepare_cached(sql)?.execute(values).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::archive::tests::archive;
    use crate::archive::{Direction, Step};
    use crate::record::{State, To};
    use crate::registry::Via;

    fn message(peer: &str, session: &str, text: &str) -> NewMessage {
        let id = uuid::Uuid::now_v7().to_string();
        NewMessage {
            run_id: id.clone(),
            id,
            direction: Direction::Out,
            peer: To { name: peer.to_uppercase(), email_prefix: peer.into() },
            via: Via::Agent,
            session: session.into(),
            thread: None,
            text: text.into(),
            header: String::new(),
            claimed_from: None,
            state: State::Sending,
            expires_at: None,
        }
    }

    fn agent(rules: Rules) -> Allowance {
        Allowance { rules, speaker: Speaker::Agent, chorus_of: None }
    }

    /// What stops a message, by the name of its setting.
    async fn say(archive: &Archive, message: NewMessage, allowance: Allowance) -> Option<&'static str> {
        match archive.begin_within(message, allowance).await.unwrap() {
            Ok(()) => None,
            Err(Refusal::Limit { measure, .. }) => Some(measure.setting()),
            Err(Refusal::Repeated { .. }) => Some("repeated"),
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn each_limit_stops_what_it_counts_and_nothing_else() {
        let rules = Rules { peer_per_hour: 3, total_per_hour: 5, thread_per_day: 2, ..Rules::default() };
        let (_folder, archive) = archive();
        let mut texts = (0..).map(|n| n.to_string());
        let mut said = Vec::new();
        for (peer, session) in [
            ("bob", "a"),
            ("bob", "a"),
            ("bob", "a"),
            ("bob", "b"),
            ("bob", "c"),
            ("carol", "a"),
            ("dave", "a"),
            ("erin", "a"),
        ] {
            said.push(say(&archive, message(peer, session, &texts.next().unwrap()), agent(rules)).await);
        }
        let (thread, peer, total) = (Some("thread-per-day"), Some("peer-per-hour"), Some("total-per-hour"));
        assert_eq!(said, [None, None, thread, None, peer, None, None, total]);
        assert_eq!(archive.list(crate::archive::Filter::default()).await.unwrap().len(), 5);
        let person = Allowance { speaker: Speaker::Person, ..agent(rules) };
        for (said, stopped) in [("one", None), ("two", None), ("three", thread)] {
            assert_eq!(
                say(&archive, message("bob", "a", said), person.clone()).await,
                stopped,
                "people are counted apart"
            );
        }
        let tally = archive.tally(Speaker::Agent).await.unwrap();
        assert_eq!(tally.total_last_hour, 5);
        assert_eq!(
            tally.peers[0],
            Said { peer: "bob".into(), last_hour: 3, thread_last_day: 2, unreachable_last_hour: 0 }
        );
        archive.reset_limits(Some("Bob")).await.unwrap();
        assert_eq!(
            say(&archive, message("bob", "a", "x"), agent(rules)).await,
            total,
            "bob's reset is bob's"
        );
        archive.reset_limits(None).await.unwrap();
        assert_eq!(say(&archive, message("bob", "a", "x"), agent(rules)).await, None);
        assert_eq!(archive.resets().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_agent_repeats_itself_only_where_it_was_not_heard() {
        let (_folder, archive) = archive();
        let allowance = || agent(Rules::default());
        let first = message("bob", "a", "hello");
        let id = first.id.clone();
        assert_eq!(say(&archive, first, allowance()).await, None);
        assert_eq!(say(&archive, message("bob", "b", "hello"), allowance()).await, Some("repeated"));
        assert_eq!(say(&archive, message("carol", "a", "hello"), allowance()).await, None);
        let person = Allowance { speaker: Speaker::Person, ..allowance() };
        assert_eq!(say(&archive, message("bob", "a", "hello"), person.clone()).await, None);
        let rules = Rules { repeat_window: Duration::from_secs(60), ..Rules::default() };
        let told = Allowance { rules, ..person };
        assert_eq!(
            say(&archive, message("bob", "a", "hello"), told).await,
            Some("repeated"),
            "who sets it means it"
        );
        let unreachable = Step::Finished { state: State::Unreachable, reply: None, error: None };
        archive.note(None, &id, unreachable).await.unwrap();
        assert_eq!(say(&archive, message("bob", "a", "hello"), allowance()).await, None);
    }

    #[tokio::test]
    async fn a_broadcast_counts_once_over_all_and_once_for_each() {
        let rules = Rules { peer_per_hour: 1, total_per_hour: 2, ..Rules::default() };
        let (_folder, archive) = archive();
        let first = message("p0", "a", "all");
        let chorus = Allowance { chorus_of: Some(first.id.clone()), ..agent(rules) };
        assert_eq!(say(&archive, first, agent(rules)).await, None);
        for n in 1..50 {
            assert_eq!(say(&archive, message(&format!("p{n}"), "a", "all"), chorus.clone()).await, None);
        }
        assert_eq!(archive.tally(Speaker::Agent).await.unwrap().total_last_hour, 1);
        assert_eq!(
            say(&archive, message("p7", "a", "all of you"), chorus.clone()).await,
            Some("peer-per-hour")
        );
        assert_eq!(say(&archive, message("q1", "a", "one"), agent(rules)).await, None);
        let refused = message("q2", "a", "two");
        let chorus = Allowance { chorus_of: Some(refused.id.clone()), ..agent(rules) };
        assert_eq!(say(&archive, refused, agent(rules)).await, Some("total-per-hour"));
        assert_eq!(
            say(&archive, message("q3", "a", "two"), chorus).await,
            Some("total-per-hour"),
            "the rest of a broadcast does not slip past the limit that stopped its first message"
        );
    }

    /// The limits of a night are worth nothing if two processes can each write the last message.
    #[tokio::test(flavor = "multi_thread")]
    async fn many_who_ask_at_once_stay_under_the_limit_together() {
        let rules = Rules { peer_per_hour: 10, ..Rules::default() };
        let (_folder, archive) = archive();
        let others: Vec<Archive> = (0..4).map(|_| Archive::open(archive.path()).unwrap()).collect();
        let asked = (0..100).map(|n| {
            let archive = &others[n % others.len()];
            async move { say(archive, message("bob", "a", &n.to_string()), agent(rules)).await }
        });
        let said = futures_util::future::join_all(asked).await;
        assert_eq!(said.iter().filter(|refused| refused.is_none()).count(), 10);
    }

    #[tokio::test]
    async fn only_what_left_or_may_have_left_counts() {
        let rules = Rules { peer_per_hour: 2, total_per_hour: 2, thread_per_day: 2, ..Rules::default() };
        let (_folder, archive) = archive();
        for state in [
            State::Skipped,
            State::Unreachable,
            State::Failed,
            State::Expired,
            State::Cancelled,
            State::Unknown,
        ] {
            let next = message("bob", "a", state.name());
            let id = next.id.clone();
            assert_eq!(say(&archive, next, agent(rules)).await, None, "{}", state.name());
            archive.note(None, &id, Step::Finished { state, reply: None, error: None }).await.unwrap();
        }
        let left = message("bob", "a", "it left, and their agent failed");
        let id = left.id.clone();
        assert_eq!(say(&archive, left, agent(rules)).await, None);
        archive.note(None, &id, Step::Sending { run_id: id.clone(), boot_id: None }).await.unwrap();
        let failed = Step::Finished { state: State::Failed, reply: None, error: None };
        archive.note(None, &id, failed).await.unwrap();
        assert_eq!(say(&archive, message("bob", "a", "x"), agent(rules)).await, Some("thread-per-day"));
        let tally = archive.tally(Speaker::Agent).await.unwrap();
        assert_eq!((tally.total_last_hour, tally.peers[0].last_hour), (2, 2));
        archive.prune(Timestamp::MAX).await.unwrap();
        assert_eq!(archive.tally(Speaker::Agent).await.unwrap(), tally, "what is forgotten counts as before");
    }

    #[tokio::test]
    async fn a_broadcast_whose_first_message_did_not_leave_counts_by_another() {
        let rules = Rules { total_per_hour: 1, ..Rules::default() };
        let (_folder, archive) = archive();
        let (first, second) = (message("bob", "a", "all"), message("carol", "a", "all"));
        let (skipped, left) = (first.id.clone(), second.id.clone());
        assert_eq!(say(&archive, first, agent(rules)).await, None);
        assert_eq!(
            say(&archive, second, Allowance { chorus_of: Some(skipped.clone()), ..agent(rules) }).await,
            None
        );
        let step = Step::Finished { state: State::Skipped, reply: None, error: None };
        archive.note(None, &skipped, step).await.unwrap();
        assert_eq!(archive.tally(Speaker::Agent).await.unwrap().total_last_hour, 0);
        archive.stand_for_all(&left).await.unwrap();
        assert_eq!(archive.tally(Speaker::Agent).await.unwrap().total_last_hour, 1);
        assert_eq!(say(&archive, message("dave", "a", "x"), agent(rules)).await, Some("total-per-hour"));
    }

    #[tokio::test]
    async fn a_forgotten_message_still_counts() {
        let rules = Rules { peer_per_hour: 1, ..Rules::default() };
        let (_folder, archive) = archive();
        let first = message("bob", "a", "hello");
        let id = first.id.clone();
        assert_eq!(say(&archive, first, agent(rules)).await, None);
        let replied = Step::Finished { state: State::Replied, reply: None, error: None };
        archive.note(None, &id, replied).await.unwrap();
        assert_eq!(archive.prune(Timestamp::MAX).await.unwrap(), 1);
        assert_eq!(say(&archive, message("bob", "a", "more"), agent(rules)).await, Some("peer-per-hour"));
    }

    /// What was said before, by a person to one peer in one session.
    fn fill(db: &Connection, lines: u32) {
        let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
            INSERT INTO said (at, speaker, peer, session, words, message, chorus)
                SELECT ?1, 'person', 'bob', 'a', i, 'message ' || i, 0 FROM n";
        db.execute(sql, params![now(), lines]).unwrap();
    }

    /// The steps of SQLite's machine that one more message takes.
    fn steps_of_one_more(before: u32) -> u32 {
        let (_folder, archive) = archive();
        let mut db = Connection::open(archive.path()).unwrap();
        fill(&db, before);
        let taken = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&taken);
        let count = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            false
        };
        db.progress_handler(1, Some(count)).unwrap();
        let person = Allowance { speaker: Speaker::Person, ..agent(Rules::default()) };
        enter(&db, &message("bob", "a", "one more"), &person).unwrap().unwrap();
        taken.load(Ordering::Relaxed)
    }

    #[test]
    fn one_more_message_takes_no_longer_for_those_before_it() {
        let (few, many) = (steps_of_one_more(10), steps_of_one_more(5_000));
        assert!(many < few * 11 / 10, "{few} steps after ten, {many} after 5,000");
    }

    #[tokio::test]
    async fn a_limit_is_found_among_lines_that_it_does_not_count() {
        let rules = Rules { peer_per_hour: 2, ..Rules::default() };
        let (_folder, archive) = archive();
        archive
            .write(|db| {
                fill(db, 50);
                Ok(())
            })
            .await
            .unwrap();
        for (text, stopped) in [("one", None), ("two", None), ("three", Some("peer-per-hour"))] {
            assert_eq!(say(&archive, message("bob", "b", text), agent(rules)).await, stopped);
            assert_eq!(say(&archive, message("carol", "b", text), agent(rules)).await, stopped);
        }
        archive.reset_limits(Some("bob")).await.unwrap();
        archive
            .write(|db| db.execute("DELETE FROM said WHERE speaker = 'person'", []).map(drop))
            .await
            .unwrap();
        for (text, stopped) in [("four", None), ("five", None), ("six", Some("peer-per-hour"))] {
            assert_eq!(say(&archive, message("bob", "b", text), agent(rules)).await, stopped);
        }
    }

    #[tokio::test]
    async fn a_message_that_leaves_at_once_is_written_with_its_leaving() {
        let rules = Rules { peer_per_hour: 1, ..Rules::default() };
        let (_folder, archive) = archive();
        let boot = || Leaving { boot_id: Some("boot".into()) };
        let first = message("bob", "a", "one");
        let id = first.id.clone();
        archive.begin_leaving(first, agent(rules), boot()).await.unwrap().unwrap();
        let kept = archive.find(&id).await.unwrap().unwrap();
        assert_eq!((kept.record.state, kept.boot_id.as_deref()), (State::Sending, Some("boot")));
        assert!(kept.sent_at.is_some() && kept.record.receipt.reached_at.is_some());
        let steps: Vec<_> = archive.events(&id).await.unwrap().into_iter().map(|event| event.step).collect();
        assert_eq!(steps, ["sending", "reached"], "as when they are written one by one");
        let second = message("bob", "a", "two");
        let refused = archive.begin_leaving(second, agent(rules), boot()).await.unwrap();
        assert!(matches!(refused, Err(Refusal::Limit { .. })), "{refused:?}");
        assert_eq!(archive.list(crate::archive::Filter::default()).await.unwrap().len(), 1);
    }
}
