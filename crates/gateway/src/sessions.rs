//! What was said, by session. In memory and bounded: the oldest goes first.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use openclaw_protocol::methods::agent::InputProvenance;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::config::Limits;
use crate::conn::ShownClient;
use crate::keys::namespace;
use crate::memory::{self, End, OWNER};
use crate::runs::{Origin, Run, provenance_size};
use crate::shares::Who;

/// Rows of `chat.history` when no limit is given.
const DEFAULT_ROWS: usize = 200;
/// Characters of a row's text when no limit is given.
const DEFAULT_CHARS: usize = 8_000;
/// The most characters of a row's text.
const MAX_CHARS: usize = 100_000;
/// Bytes of text in one answer: well below the frame limit, whatever the escaping adds.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// How the real gateway marks a text that it cut.
const CUT: &str = "\n...(truncated)...";
/// Memory of a row beside its text, roughly; what its client says of itself is bounded when it connects.
const ROW_OVERHEAD: usize = 1024;

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    sessions: HashMap<String, Session>,
    bytes: usize,
    max_sessions: usize,
    max_rows: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Session {
    id: Uuid,
    /// Numbered without a gap.
    rows: VecDeque<Row>,
    /// The number of the user row of each run.
    inputs: HashMap<(Origin, String), u64>,
    next_seq: u64,
    created_at: i64,
    updated_at: i64,
}

/// One row, to be added.
#[derive(Debug)]
pub(crate) enum NewRow {
    /// What the run was told.
    User {
        text: String,
        provenance: Option<InputProvenance>,
        /// What the client says of itself; none when that is not remembered.
        client: Option<Arc<ShownClient>>,
        origin: Origin,
        /// Who has proven to be the sender.
        who: Who,
    },
    /// What it answered.
    Assistant { text: String },
}

#[derive(Debug)]
struct Row {
    seq: u64,
    id: Uuid,
    run_id: String,
    ts: i64,
    content: NewRow,
}

/// A run that has been executed: what the history knows of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) who: Who,
    pub(crate) same_input: bool,
    /// None when it ended without one.
    pub(crate) reply: Option<String>,
    pub(crate) ts: i64,
}

/// What `chat.history` is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Page {
    pub(crate) limit: Option<u32>,
    pub(crate) max_chars: Option<u32>,
}

impl Page {
    fn rows(self) -> usize {
        self.limit.map_or(DEFAULT_ROWS, |limit| limit as usize)
    }

    /// The last of these, as many as are asked for and as one answer has room for.
    fn show<'a>(self, rows: &[&'a Row]) -> Vec<Shown<'a>> {
        let max_chars = self.max_chars.map_or(DEFAULT_CHARS, |chars| (chars as usize).min(MAX_CHARS));
        let mut room = ANSWER_BYTES;
        let mut messages = Vec::new();
        for row in rows.iter().rev().take(self.rows()) {
            let size = row.extras() + row.text().len().min(max_chars * 4);
            if size > room {
                break;
            }
            room -= size;
            messages.push(Shown { row, max_chars });
        }
        messages.reverse();
        messages
    }
}

/// What `chat.history` shows of a session's rows.
#[derive(Debug, Default)]
pub(crate) struct Rows<'a> {
    pub(crate) session_id: Option<String>,
    pub(crate) messages: Vec<Shown<'a>>,
    pub(crate) total: usize,
}

/// A row of `sessions.list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) key: String,
    session_id: String,
    created_at: i64,
    updated_at: i64,
    message_count: usize,
}

impl Sessions {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            sessions: HashMap::new(),
            bytes: 0,
            max_sessions: limits.sessions.max(1),
            max_rows: limits.rows_per_session.max(1),
            max_bytes: limits.session_bytes,
        }
    }

    /// Adds a row; what is oldest makes room.
    pub(crate) fn append(&mut self, key: &str, run_id: &str, content: NewRow, now: i64) {
        if !self.sessions.contains_key(key) {
            self.make_room_for_session();
        }
        let session = self.sessions.entry(key.to_owned()).or_insert_with(|| Session::new(now));
        session.updated_at = now;
        session.next_seq += 1;
        let seq = session.next_seq;
        // As unique as the session's own.
        let id = Uuid::from_u128(session.id.as_u128() ^ u128::from(seq));
        let row = Row { seq, id, run_id: run_id.to_owned(), ts: now, content };
        self.bytes += session.push(row);
        if session.rows.len() > self.max_rows {
            self.bytes -= session.drop_first().unwrap_or(0);
        }
        self.make_room_for_bytes(key);
    }

    /// Takes up what was said before the start, oldest first. With it the keys of those runs are known again: a client
    /// that lost its answer to our restart gets it, and no second turn.
    pub(crate) fn recall(&mut self, past: Vec<memory::Past>) {
        for turn in past {
            let row = NewRow::User {
                text: turn.message,
                provenance: None,
                client: None,
                origin: turn.origin,
                who: if turn.from == OWNER { Who::Owner(None) } else { Who::Peer(turn.from) },
            };
            self.append(&turn.session_key, &turn.run_id, row, turn.began_at);
            if let End::Replied(text) = turn.end {
                let ended_at = turn.ended_at.unwrap_or(turn.began_at);
                self.append(&turn.session_key, &turn.run_id, NewRow::Assistant { text }, ended_at);
            }
        }
    }

    fn make_room_for_session(&mut self) {
        while self.sessions.len() >= self.max_sessions {
            let Some(oldest) = self.oldest(None) else { return };
            self.forget(&oldest);
        }
    }

    /// The sessions that were not used for the longest time go first, then the oldest rows of this one.
    fn make_room_for_bytes(&mut self, current: &str) {
        while self.bytes > self.max_bytes {
            if let Some(oldest) = self.oldest(Some(current)) {
                self.forget(&oldest);
                continue;
            }
            match self.sessions.get_mut(current).and_then(Session::drop_first) {
                Some(bytes) => self.bytes -= bytes,
                None => return,
            }
        }
    }

    fn oldest(&self, except: Option<&str>) -> Option<String> {
        let others = self.sessions.iter().filter(|(key, _)| Some(key.as_str()) != except);
        others.min_by_key(|(_, session)| session.updated_at).map(|(key, _)| key.clone())
    }

    fn forget(&mut self, key: &str) {
        if let Some(session) = self.sessions.remove(key) {
            self.bytes -= session.rows.iter().map(Row::size).sum::<usize>();
        }
    }

    /// What became of a run that is no longer in the table of runs, as long as its input stands here.
    pub(crate) fn past(&self, run: &Run, message: &str) -> Option<Past> {
        let session = self.sessions.get(&run.session)?;
        let seq = *session.inputs.get(&(run.origin, run.id.clone()))?;
        let index = usize::try_from(seq.checked_sub(session.rows.front()?.seq)?).ok()?;
        let row = session.rows.get(index)?;
        let NewRow::User { text, who, client, .. } = &row.content else { return None };
        // Runs of a session come one after the other: a reply stands right behind its input.
        let next = session.rows.get(index + 1).filter(|next| next.run_id == run.id);
        let reply = next.and_then(|next| match &next.content {
            NewRow::Assistant { text } => Some(text.clone()),
            NewRow::User { .. } => None,
        });
        // Which of his devices the owner had before the start is not remembered.
        let is_recalled = client.is_none();
        let who = match (who, &run.who) {
            (Who::Owner(None), owner @ Who::Owner(_)) if is_recalled => owner,
            (who, _) => who,
        };
        Some(Past { who: who.clone(), same_input: text == message, reply, ts: row.ts })
    }

    /// The newest rows of a session that may have had several keys, oldest first. An unknown session is an empty one.
    pub(crate) fn pages<'a>(&self, keys: impl Iterator<Item = &'a str>, page: Page) -> Rows<'_> {
        let sessions: Vec<&Session> = keys.filter_map(|key| self.sessions.get(key)).collect();
        let newest = |session: &'_ Session| session.rows.len().saturating_sub(page.rows())..;
        let mut rows: Vec<&Row> =
            sessions.iter().flat_map(|session| session.rows.range(newest(session))).collect();
        if sessions.len() > 1 {
            rows.sort_by_key(|row| row.ts);
        }
        Rows {
            session_id: sessions.last().map(|session| session.id.to_string()),
            messages: page.show(&rows),
            total: sessions.iter().map(|session| session.rows.len()).sum(),
        }
    }

    /// All sessions, the last used first.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        let mut summaries: Vec<_> = self.sessions.iter().map(|(key, session)| session.summary(key)).collect();
        summaries.sort_by(|a, b| b.updated_at.cmp(&a.updated_at).then_with(|| a.key.cmp(&b.key)));
        summaries
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.sessions.len()
    }

    /// How many of them are a peer's.
    pub(crate) fn count_of(&self, peer: &str) -> usize {
        self.sessions.keys().filter(|key| namespace(key).as_deref() == Some(peer)).count()
    }
}

impl Session {
    fn new(now: i64) -> Self {
        Self {
            id: Uuid::new_v4(),
            rows: VecDeque::new(),
            inputs: HashMap::new(),
            next_seq: 0,
            created_at: now,
            updated_at: now,
        }
    }

    /// Adds a row; gives its size.
    fn push(&mut self, row: Row) -> usize {
        if let NewRow::User { origin, .. } = &row.content {
            self.inputs.insert((*origin, row.run_id.clone()), row.seq);
        }
        let size = row.size();
        self.rows.push_back(row);
        size
    }

    /// Drops the oldest row; gives its size.
    fn drop_first(&mut self) -> Option<usize> {
        let row = self.rows.pop_front()?;
        if let NewRow::User { origin, .. } = &row.content {
            self.inputs.remove(&(*origin, row.run_id.clone()));
        }
        Some(row.size())
    }

    fn summary(&self, key: &str) -> Summary {
        Summary {
            key: key.to_owned(),
            session_id: self.id.to_string(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            message_count: self.rows.len(),
        }
    }
}

impl Row {
    fn text(&self) -> &str {
        match &self.content {
            NewRow::User { text, .. } | NewRow::Assistant { text } => text,
        }
    }

    fn size(&self) -> usize {
        self.text().len() + self.extras() + ROW_OVERHEAD
    }

    /// What a client can make large beside the text; twice the run's id, which `inputs` holds too.
    fn extras(&self) -> usize {
        let provenance = match &self.content {
            NewRow::User { provenance, .. } => provenance.as_ref().map_or(0, provenance_size),
            NewRow::Assistant { .. } => 0,
        };
        2 * self.run_id.len() + provenance
    }
}

/// A row as `chat.history` shows it. It becomes text in the answer and not before: as a tree of values a short one takes 4 KiB,
/// and whoever looks for his reply asks for a thousand.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    row: &'a Row,
    max_chars: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'static str>,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(rename = "__openclaw")]
    note: Note<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<&'a InputProvenance>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts([Part<'a>; 1]),
}

#[derive(Serialize)]
struct Part<'a> {
    r#type: &'static str,
    text: &'a str,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Note<'a> {
    id: Uuid,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<Transport<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Transport<'a> {
    clients: [&'a ShownClient; 1],
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.row;
        let (text, is_cut) = cut(row.text(), self.max_chars);
        let note = Note {
            id: row.id,
            seq: row.seq,
            truncated: is_cut.then_some(true),
            reason: is_cut.then_some("display-cap"),
            ..Note::default()
        };
        match &row.content {
            NewRow::User { provenance, client, who, .. } => {
                let key = format!("{}:user", row.run_id);
                let transport = client.as_deref().map(|client| Transport { clients: [client] });
                let idempotency_key = Some(key.as_str());
                Message {
                    role: "user",
                    content: Content::Text(&text),
                    stop_reason: None,
                    timestamp: row.ts,
                    idempotency_key,
                    note: Note { idempotency_key, transport, from: who.name(), ..note },
                    provenance: provenance.as_ref(),
                }
                .serialize(serializer)
            }
            NewRow::Assistant { .. } => Message {
                role: "assistant",
                content: Content::Parts([Part { r#type: "text", text: &text }]),
                stop_reason: Some("stop"),
                timestamp: row.ts,
                idempotency_key: None,
                note: Note { run_id: Some(&row.run_id), ..note },
                provenance: None,
            }
            .serialize(serializer),
        }
    }
}

fn cut(text: &str, max_chars: usize) -> (Cow<'_, str>, bool) {
    match text.char_indices().nth(max_chars) {
        None => (text.into(), false),
        Some((end, _)) => (format!("{}{CUT}", &text[..end]).into(), true),
    }
}

#[cfg(test)]
mod tests {
    use openclaw_protocol::methods::chat::HistoryRow;

    use serde_json::{Value, json};

    use super::*;

    fn sessions(sessions: usize, rows_per_session: usize, session_bytes: usize) -> Sessions {
        Sessions::new(&Limits { sessions, rows_per_session, session_bytes, ..Limits::default() })
    }

    fn user(text: &str) -> NewRow {
        let client = Some(Arc::default());
        NewRow::User {
            text: text.into(),
            provenance: None,
            client,
            origin: Origin::Agent,
            who: Who::Owner(None),
        }
    }

    fn run(origin: Origin, id: &str) -> Run {
        Run::new(id.into(), origin, "s".into(), Who::Owner(None), [0; 32], 0)
    }

    fn page<'a>(sessions: &'a Sessions, key: &str, page: Page) -> Rows<'a> {
        sessions.pages([key].into_iter(), page)
    }

    /// As they go over the wire.
    fn sent(rows: &Rows<'_>) -> Value {
        serde_json::to_value(&rows.messages).unwrap()
    }

    fn read(rows: &Rows<'_>) -> Vec<HistoryRow> {
        serde_json::from_value(sent(rows)).unwrap()
    }

    fn texts(sessions: &Sessions, key: &str) -> Vec<String> {
        read(&page(sessions, key, Page::default())).into_iter().map(|row| row.text()).collect()
    }

    #[test]
    fn rows_have_the_shape_that_the_protocol_crate_reads() {
        let mut all = sessions(10, 10, 10_000);
        all.append("s", "r1", user("hi"), 1);
        all.append("s", "r1", NewRow::Assistant { text: "hello".into() }, 2);
        let rows = read(&page(&all, "s", Page::default()));
        assert!(rows[0].is_input_of("r1") && rows[1].answers("r1"));
        assert_eq!((rows[1].text(), rows[1].timestamp), ("hello".into(), Some(2)));
    }

    #[test]
    fn what_was_said_before_the_start_is_history_and_its_keys_are_known() {
        let past = |run_id: &str, from: &str, end| memory::Past {
            run_id: run_id.into(),
            origin: Origin::Agent,
            session_key: "s".into(),
            from: from.into(),
            message: "hi".into(),
            end,
            began_at: 5,
            ended_at: Some(7),
        };
        let mut all = sessions(10, 10, 10_000);
        let replied = End::Replied("hello".into());
        all.recall(vec![past("r1", "alice", replied), past("r2", "owner", End::Failed("why".into()))]);
        assert_eq!(texts(&all, "s"), ["hi", "hello", "hi"]);
        let alice = Who::Peer("alice".into());
        let first = all.past(&run(Origin::Agent, "r1"), "hi").unwrap();
        assert_eq!((first.who, first.reply.as_deref(), first.ts), (alice.clone(), Some("hello"), 5));
        let mut device = run(Origin::Agent, "r2");
        device.who = Who::Owner(Some("d1".into()));
        let second = all.past(&device, "hi").unwrap();
        assert_eq!((&second.who, second.reply), (&device.who, None), "the owner, with whatever device");
        device.who = alice;
        assert_eq!(all.past(&device, "hi").unwrap().who, Who::Owner(None));
    }

    #[test]
    fn rows_sessions_and_bytes_are_bounded() {
        let mut all = sessions(2, 2, 100_000);
        for text in ["1", "2", "3"] {
            all.append("a", "r", user(text), 1);
        }
        assert_eq!(texts(&all, "a"), ["2", "3"]);
        all.append("b", "r", user("b"), 2);
        all.append("c", "r", user("c"), 3);
        assert_eq!((all.count(), texts(&all, "a").len()), (2, 0));

        let row = ROW_OVERHEAD + 1 + 2;
        let mut all = sessions(9, 9, 3 * row);
        for (key, text) in [("a", "1"), ("b", "2"), ("b", "3"), ("b", "4"), ("b", "5")] {
            all.append(key, "r", user(text), 1);
        }
        assert_eq!((texts(&all, "a").len(), texts(&all, "b")), (0, vec!["3".into(), "4".into(), "5".into()]));
        assert_eq!(all.bytes, 3 * row);
    }

    /// Twelve runs of one byte with a `sourceSessionKey` of 20 MiB made a history of 358 MB that counted as 6 KB.
    #[test]
    fn a_provenance_counts_as_text_in_the_history_and_on_a_page() {
        let mut all = sessions(10, 100, 10_000_000);
        for i in 0..100 {
            let mut row = user("x");
            if let NewRow::User { provenance, .. } = &mut row {
                let source_session_key = Some("x".repeat(1_000_000));
                *provenance = Some(InputProvenance { source_session_key, ..InputProvenance::default() });
            }
            all.append("s", &i.to_string(), row, 1);
        }
        let page = page(&all, "s", Page::default());
        assert_eq!((page.total, page.messages.len()), (9, 4));
    }

    #[test]
    fn a_run_is_known_as_long_as_its_input_stands() {
        let mut all = sessions(10, 4, usize::MAX);
        all.append("s", "r1", user("hi"), 1);
        all.append("s", "r1", NewRow::Assistant { text: "hello".into() }, 2);
        all.append("s", "r2", user("again"), 3);
        let past = |all: &Sessions, id: &str| all.past(&run(Origin::Agent, id), "hi");
        let told = |reply: Option<&str>, same_input, ts| {
            Some(Past { who: Who::Owner(None), same_input, reply: reply.map(str::to_owned), ts })
        };
        assert_eq!(past(&all, "r1"), told(Some("hello"), true, 1));
        assert_eq!(past(&all, "r2"), told(None, false, 3));
        assert_eq!(all.past(&run(Origin::Chat, "r1"), "hi"), None, "keys are known per method");
        for _ in 0..2 {
            all.append("s", "r3", user("more"), 4);
        }
        assert_eq!((past(&all, "r1"), past(&all, "r2")), (None, told(None, false, 3)));
    }

    #[test]
    fn long_texts_are_cut_at_a_character_and_say_so() {
        let mut all = sessions(1, 10, usize::MAX);
        all.append("s", "r", user(&"é".repeat(20)), 1);
        let short = Page { max_chars: Some(10), ..Page::default() };
        let row = &sent(&page(&all, "s", short))[0];
        assert_eq!(row["content"], json!(format!("{}{CUT}", "é".repeat(10))));
        assert_eq!(row["__openclaw"]["reason"], "display-cap");
    }

    #[test]
    fn a_page_is_the_newest_rows_and_fits_a_frame() {
        let mut all = sessions(1, 1000, usize::MAX);
        for i in 0..100 {
            all.append("s", &i.to_string(), user(&"x".repeat(100_000)), 1);
        }
        let rows = page(&all, "s", Page { limit: Some(1000), max_chars: Some(1_000_000) });
        assert_eq!((rows.total, rows.messages.len()), (100, 41));
        assert_eq!(page(&all, "s", Page { limit: Some(3), max_chars: None }).messages.len(), 3);
        assert_eq!(sent(&rows)[40]["idempotencyKey"], "99:user");
    }

    /// Each key had room of its own: 8 MiB of text that JSON escapes are more than a frame takes.
    #[test]
    fn a_page_of_two_keys_has_the_room_of_one() {
        let mut all = sessions(2, 1000, usize::MAX);
        for i in 0..60 {
            let key = if i % 2 == 0 { "before" } else { "after" };
            all.append(key, &i.to_string(), user(&"x".repeat(100_000)), i);
        }
        let everything = Page { limit: Some(1000), max_chars: Some(1_000_000) };
        let rows = all.pages(["before", "after"].into_iter(), everything);
        assert_eq!((rows.total, rows.messages.len()), (60, 41));
        let times =
            |rows: &Rows<'_>| -> Vec<_> { read(rows).into_iter().filter_map(|row| row.timestamp).collect() };
        let all_times = times(&rows);
        assert_eq!((all_times.first(), all_times.last()), (Some(&19), Some(&59)));
        let few = all.pages(["before", "after"].into_iter(), Page { limit: Some(3), max_chars: None });
        assert_eq!(times(&few), [57, 58, 59]);
    }
}
