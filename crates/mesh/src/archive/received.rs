//! What came to us: for a gateway that has to know it again after a restart.

use rusqlite::{Connection, OptionalExtension, Params, params};

use super::row::{COLUMNS, NewMessage, stored, via_name};
use super::unfinished::BEGAN;
use super::{Archive, ArchiveError, Stored, door};

impl Archive {
    /// The newest messages that came to us, in one session or in all of them, oldest first: at most so many, and at most
    /// so many bytes of message and reply.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn received(
        &self,
        session: Option<&str>,
        messages: usize,
        bytes: usize,
    ) -> Result<Vec<Stored>, ArchiveError> {
        let session = session.map(str::to_owned);
        self.read(move |db| match session {
            Some(session) => newest(db, "AND session = ?1", [session], messages, bytes),
            None => newest(db, "", [], messages, bytes),
        })
        .await
    }

    /// The newest message that came to us under this run id.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn received_run(&self, run_id: &str) -> Result<Option<Stored>, ArchiveError> {
        let run_id = run_id.to_owned();
        self.read(move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE direction = 'in' AND run_id = ?1 ORDER BY seq DESC LIMIT 1"
            );
            db.query_row(&sql, [run_id], stored).optional()
        })
        .await
    }
}

/// The newest message that brought this run before; `earlier` is another sender and session that are the same.
pub(super) fn known_run(
    db: &Connection,
    message: &NewMessage,
    sender: &str,
    earlier: Option<&(String, String)>,
) -> Result<Option<Stored>, rusqlite::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM messages INDEXED BY received_by_run WHERE direction = 'in' AND run_id = ?1 AND via = ?2
            AND ((sender = ?3 AND session = ?4) OR (sender = ?5 AND session = ?6)) ORDER BY seq DESC LIMIT 1"
    );
    let (key, session) = earlier.map(|(key, session)| (key, session)).unzip();
    let values = params![message.run_id, via_name(message.via), sender, message.session, key, session];
    db.prepare_cached(&sql)?.query_row(values, stored).optional()
}

/// Read row by row, and no further than there is room: one row may have megabytes.
fn newest(
    db: &Connection,
    which: &str,
    values: impl Params,
    messages: usize,
    bytes: usize,
) -> Result<Vec<Stored>, rusqlite::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM messages WHERE direction = 'in' AND {BEGAN} AND {} {which} ORDER BY seq DESC",
        door::LET_IN
    );
    let mut statement = db.prepare(&sql)?;
    let mut found = Vec::new();
    let mut room = bytes;
    for row in statement.query_map(values, stored)?.take(messages) {
        let row = row?;
        let reply = row.record.reply.as_ref().map_or(0, |reply| reply.text.len());
        let Some(left) = room.checked_sub(row.header.len() + row.message.len() + reply) else { break };
        room = left;
        found.push(row);
    }
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use crate::archive::tests::{archive, message};
    use crate::archive::{Direction, NewMessage, Step};
    use crate::record::State;

    #[tokio::test]
    async fn the_newest_that_came_to_us_are_found_as_far_as_there_is_room() {
        let (_folder, archive) = archive();
        for (id, direction, session) in [
            ("1", Direction::In, "a"),
            ("2", Direction::In, "b"),
            ("3", Direction::Out, "a"),
            ("4", Direction::In, "a"),
        ] {
            let new = NewMessage {
                run_id: format!("run-{id}"),
                direction,
                session: session.into(),
                header: String::new(),
                state: State::Accepted,
                ..message(id, "alice", "0123456789")
            };
            archive.begin(new).await.unwrap();
        }
        let replied = Step::finished(State::Replied, Some("01234".into()), None);
        archive.note(None, "4", replied).await.unwrap();
        let ids = async |session, messages, bytes| -> Vec<String> {
            let found = archive.received(session, messages, bytes).await.unwrap();
            found.into_iter().map(|row| row.record.id).collect()
        };
        assert_eq!(ids(None, 9, 999).await, ["1", "2", "4"]);
        assert_eq!(ids(Some("a"), 9, 999).await, ["1", "4"]);
        assert_eq!(ids(None, 2, 999).await, ["2", "4"]);
        assert_eq!(ids(None, 9, 25).await, ["2", "4"], "10 and 5 bytes of the one, 10 of the other");
        assert_eq!(ids(None, 9, 14).await, Vec::<String>::new());
        let run = archive.received_run("run-4").await.unwrap().unwrap();
        assert_eq!(run.record.reply.unwrap().text, "01234");
        assert!(archive.received_run("run-3").await.unwrap().is_none(), "that one we sent");
    }
}
