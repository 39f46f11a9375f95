//! The runs that came to us and are not over: what the gateway behind `serve` goes on with when it was killed.

use jiff::Timestamp;
use rusqlite::params;

use super::received::known_run;
use super::row::{COLUMNS, NewMessage, Run, insert_received, now, stored, timestamp};
use super::step::apply;
use super::{Archive, ArchiveError, Committed, Step, Stored, Survives};

/// In SQL: a message that came to us has begun to run, and does not only wait, or has waited, for its turn.
pub(super) const BEGAN: &str =
    "coalesce(error, '') != 'stopped before it began' AND (run IS NULL OR began_at IS NOT NULL)";

/// In SQL: where the runs that are not over stand.
pub(super) const UNFINISHED: &str = "FROM messages INDEXED BY messages_by_state
    WHERE state = 'accepted' AND direction = 'in' AND run IS NOT NULL";

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

/// What became of a run that came to us.
#[derive(Debug)]
pub enum Accepted {
    /// It is new, and its message has this id.
    New(String),
    /// It came before.
    Known(Box<Stored>),
}

impl Archive {
    /// Keeps a message that came to us as a run that waits, or begins now, with a document that it takes to run it; unless
    /// its run is known: of this sender, in this session, or under its earlier key in its earlier one, over the same method.
    /// `sender` is who proved to have sent it, whatever the message says. It survives our own crash when this returns.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn accept_run(
        &self,
        mut message: NewMessage,
        sender: &str,
        document: String,
        earlier: Option<(String, String)>,
        begins: bool,
    ) -> Result<Accepted, ArchiveError> {
        let run = Run { sender: sender.to_owned(), document: Some(document), began_at: begins.then(now) };
        // What the machine's crash takes from us its sender looks for, and has still.
        self.ask_here(message.header.len() + message.text.len(), Survives::Process, move |db| {
            if let Some(known) = known_run(db, &message, &run.sender, earlier.as_ref())? {
                return Ok(Accepted::Known(Box::new(known)));
            }
            insert_received(db, &mut message, &run)?;
            Ok(Accepted::New(message.id.clone()))
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

    /// A run is over. What comes back completes when that is written down, which is not done at once: its sender gets the
    /// reply first, and on a busy machine he would wait for what we do with it.
    pub fn end_run(&self, id: &str, end: Step) -> Committed {
        let (id, at) = (id.to_owned(), now());
        self.write_soon(end.survives(), move |db| apply(db, &id, None, at, &end))
    }

    /// The runs that are not over, in the order they came.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, ArchiveError> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS}, run, began_at {UNFINISHED} ORDER BY seq");
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

#[cfg(test)]
mod tests {
    use crate::archive::tests::{archive, message};
    use crate::archive::{Accepted, Archive, Decision, Direction, Filter, NewMessage, Step};
    use crate::record::State;
    use crate::registry::Via;

    fn received(id: &str, text: &str) -> NewMessage {
        NewMessage { direction: Direction::In, state: State::Accepted, ..message(id, "bob", text) }
    }

    async fn find(archive: &Archive, words: &str, limit: Option<u32>) -> Vec<String> {
        let filter = Filter { search: Some(words.into()), limit, ..Filter::default() };
        archive.list(filter).await.unwrap().into_iter().map(|row| row.record.id).collect()
    }

    #[tokio::test]
    async fn a_run_is_known_to_its_sender_in_its_session_and_under_what_he_was_called_before() {
        let (_folder, archive) = archive();
        let accept =
            async |id: &str, run: &str, sender: &str, session: &str, earlier: Option<(&str, &str)>| {
                let earlier = earlier.map(|(key, session)| (key.to_owned(), session.to_owned()));
                let message =
                    NewMessage { run_id: run.into(), session: session.into(), ..received(id, "hello") };
                match archive.accept_run(message, sender, "document".into(), earlier, true).await.unwrap() {
                    Accepted::New(_) => None,
                    Accepted::Known(stored) => Some(stored.record.id),
                }
            };
        assert_eq!(accept("id-1", "r", "alice", "s", None).await, None);
        assert_eq!(accept("id-2", "r", "alice", "s", None).await.as_deref(), Some("id-1"));
        assert_eq!(accept("id-3", "other", "alice", "s", None).await, None);
        assert_eq!(accept("id-4", "r", "alice", "t", None).await, None);
        assert_eq!(accept("id-5", "r", "carol", "s", None).await, None);
        let known = accept("id-6", "r", "dave", "d", Some(("alice", "s"))).await;
        assert_eq!(known.as_deref(), Some("id-1"), "Dave was called Alice before");
        assert_eq!(accept("id-7", "r", "dave", "d", Some(("alice", "d"))).await, None);
        let chat = NewMessage { run_id: "r".into(), via: Via::Chat, ..received("id-8", "hello") };
        let chat = NewMessage { session: "s".into(), ..chat };
        let accepted = archive.hold("h".into(), chat.clone(), "document".into(), None).await.unwrap();
        assert!(matches!(accepted, Accepted::New(_)), "keys are known per method: {accepted:?}");
        let accepted = archive.hold("h-2".into(), chat, "document".into(), None).await.unwrap();
        assert!(matches!(accepted, Accepted::Known(_)), "{accepted:?}");
    }

    #[tokio::test]
    async fn a_run_is_found_by_its_words_before_it_is_over_and_after() {
        let (_folder, archive) = archive();
        archive.begin(message("id-1", "carol", "the deployment")).await.unwrap();
        for (id, text) in
            [("id-2", "请看构建结果 of the deployment"), ("id-3", "nothing"), ("id-4", "DEPLOY")]
        {
            archive.accept_run(received(id, text), "bob", "document".into(), None, true).await.unwrap();
        }
        archive
            .hold("h".into(), received("id-5", "hold the deployment"), "document".into(), None)
            .await
            .unwrap();
        let all = ["id-1", "id-2", "id-4", "id-5"];
        assert_eq!(find(&archive, "deploy", None).await, all);
        assert_eq!(find(&archive, "deploy", Some(2)).await, ["id-4", "id-5"]);
        assert_eq!(find(&archive, "构建 deployment", None).await, ["id-2"]);
        archive.decide("h".into(), Decision::Approved).await.unwrap();
        assert_eq!(find(&archive, "deploy", None).await, all, "each once");
        let replied = Step::finished(State::Replied, Some("done, the other way".into()), None);
        archive.end_run("id-2", replied).await.unwrap();
        for id in ["id-4", "id-5"] {
            archive.end_run(id, Step::finished(State::Failed, None, Some("no".into()))).await.unwrap();
        }
        assert!(archive.unfinished().await.unwrap().iter().all(|run| run.stored.record.id == "id-3"));
        assert_eq!(find(&archive, "deploy", None).await, all);
        assert_eq!(find(&archive, "构建 way", None).await, ["id-2"]);
    }
}
