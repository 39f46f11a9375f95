//! How much was said in the last day, and whether there may be more: counted and written in one transaction, so that of
//! two processes that ask at once each sees what the other wrote. What certainly never left does not count, but for how
//! often a peer was tried that cannot be reached.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::row::{insert, insert_leaving, now, survives};
use super::step::apply;
use super::{Archive, ArchiveError, NewMessage, Step, Survives};
use crate::guard::{LONGEST_WINDOW, Measure, Refusal, Rules, Speaker};
use crate::record::State;

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
        self.ask_to(survives(&message), move |db| enter(db, &message, &allowance, || insert(db, &message)))
            .await
    }

    /// The same for a message that leaves at once. That it does is on the disk with it when this returns; who does not wait
    /// for that lets nothing leave, and then its life is over again.
    ///
    /// # Errors
    /// As [`Archive::begin_within`].
    pub(crate) async fn begin_leaving(
        &self,
        message: NewMessage,
        allowance: Allowance,
        leaving: Leaving,
    ) -> Result<Result<(), Refusal>, ArchiveError> {
        let begun = Arc::new(AtomicBool::new(false));
        let mut unanswered =
            Unanswered { archive: Some(self), id: message.id.clone(), begun: Arc::clone(&begun) };
        let asked = self.ask_here(message.text.len(), Survives::Machine, move |db| {
            let entered = enter(db, &message, &allowance, || insert_leaving(db, &message, &leaving))?;
            begun.store(entered.is_ok(), Ordering::Release);
            Ok(entered)
        });
        let entered = asked.await;
        unanswered.archive = None;
        entered
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

    /// Where the first message of a broadcast, which stands for all, did not leave, lets another stand for it that did.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub(crate) async fn count_once(&self, first: &str, all: HashSet<String>) -> Result<(), ArchiveError> {
        let first = first.to_owned();
        self.ask(move |db| {
            let counts = format!("SELECT EXISTS (SELECT 1 FROM said WHERE message = ?1 AND {COUNTS})");
            if db.query_row(&counts, [&first], |row| row.get(0))? {
                return Ok(());
            }
            // The newest first: these are all but the last that were written.
            let left = format!("SELECT rowid, message FROM said WHERE {COUNTS} ORDER BY rowid DESC");
            let mut left = db.prepare(&left)?;
            let mut left = left.query([])?;
            while let Some(line) = left.next()? {
                if all.contains(line.get_ref(1)?.as_str()?) {
                    let sql = "UPDATE said SET chorus = 0 WHERE rowid = ?1";
                    return db.execute(sql, [line.get::<_, i64>(0)?]).map(drop);
                }
            }
            Ok(())
        })
        .await
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

/// A message that is being written down as leaving, as long as whoever wants that waits for the answer. Dropped, it did not
/// leave.
struct Unanswered<'a> {
    archive: Option<&'a Archive>,
    id: String,
    /// It was let in.
    begun: Arc<AtomicBool>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(archive) = self.archive else { return };
        let (id, begun) = (std::mem::take(&mut self.id), Arc::clone(&self.begun));
        let end = Step::finished(State::Cancelled, None, Some("given up before it left".to_owned()));
        // Written after its beginning, which may be queued still: only then it is known whether there was one.
        drop(archive.write(move |db| match begun.load(Ordering::Acquire) {
            true => apply(db, &id, None, now(), &end),
            false => Ok(()),
        }));
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

/// Begins a message's life by this, unless there may be none more.
fn enter(
    db: &Connection,
    message: &NewMessage,
    allowance: &Allowance,
    insert: impl FnOnce() -> Result<(), rusqlite::Error>,
) -> Result<Result<(), Refusal>, rusqlite::Error> {
    let ledger = Ledger::of(db, message, allowance)?;
    if let Some(refusal) = ledger.refusal()? {
        return Ok(Err(refusal));
    }
    ledger.enter()?;
    insert().map(Ok)
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
    /// No count is larger than this: what is in the table at all, of whom and whenever, and the gaps in it. Known from both
    /// ends of it, where a count walks through what it counts: a person's limits are wide, and are hardly ever near.
    most: i64,
    /// When the first line was written.
    oldest: i64,
}

impl<'a> Ledger<'a> {
    fn of(
        db: &'a Connection,
        message: &'a NewMessage,
        allowance: &'a Allowance,
    ) -> Result<Self, rusqlite::Error> {
        let sql = "SELECT (SELECT max(rowid) FROM said) - rowid + 1, at FROM said ORDER BY rowid LIMIT 1";
        let ends = db.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)));
        let (most, oldest) = ends.optional()?.unwrap_or((0, i64::MAX));
        let peer = message.peer.email_prefix.to_lowercase();
        let digest: [u8; 32] = Sha256::digest(&message.text).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        let words = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Ok(Self { db, message, allowance, peer, words, most, oldest })
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
        for (measure, limit) in measures.into_iter().filter(|(_, limit)| i64::from(*limit) <= self.most) {
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
        let forgotten = before(LONGEST_WINDOW);
        if self.oldest < forgotten {
            let old = "DELETE FROM said WHERE at < ?1 AND rowid < 8 + (SELECT min(rowid) FROM said)";
            self.db.prepare_cached(old)?.execute([forgotten])?;
        }
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
mod tests;
