//! What a gateway knows of a run: one look at the session, and the wait until the run is over.

use jiff::Timestamp;
use openclaw_client::protocol::methods::agent::{AgentWait, AgentWaited, Outcome, TerminalReply};
use openclaw_client::protocol::methods::chat::{ChatHistory, ChatMessageGet, History, HistoryRow};
use openclaw_client::{CallError, Client};
use sha2::{Digest, Sha256};
use tokio::time::{Duration, Instant, sleep};

use super::agent;

/// How many rows of a session are asked for: `chat.history` counts from the newest. What is asked after was said just now, as
/// a rule, and a thousand rows are a megabyte, for the gateway, too.
const ROWS: u32 = 100;
/// And where those do not reach back to it.
const MORE_ROWS: u32 = 1000;
/// Characters of a row that is asked for by itself: the most that a gateway gives.
const WHOLE_CHARS: u32 = 2_000_000;
/// A gateway process remembers a key for five minutes after its run ended; some of that is left for the way.
const REMEMBERED: Duration = Duration::from_secs(270);
/// How long one `agent.wait` waits.
const WAIT_STEP: Duration = Duration::from_secs(20);
/// The row of an answer may be written a moment after its run ended.
const LATE_ROW: Duration = Duration::from_secs(2);
/// How often we look for something that nobody announces.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// With these words a gateway tells its agent that it goes on after a crash.
const RECOVERY: &str = "[System] Your previous turn was interrupted by a gateway restart";

/// Which run is looked for, where, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought<'a> {
    pub session: &'a str,
    pub run_id: &'a str,
    pub deadline: Instant,
}

/// What we know of the attempt that may have arrived.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// The gateway process it went to.
    pub boot_id: Option<String>,
    /// When it may have left.
    pub sent_at: Timestamp,
    /// We made it just now, and its gateway was there.
    pub is_ours: bool,
}

impl Attempt {
    /// Whether the gateway process that answers now still knows the key of this attempt: then sending it again starts
    /// nothing new.
    pub(crate) fn is_remembered_by(&self, client: &Client) -> bool {
        let boot_id = client.hello().server.boot_id.as_deref();
        let same_process = boot_id.is_some() && boot_id == self.boot_id.as_deref();
        let age = Timestamp::now().duration_since(self.sent_at);
        same_process && age.unsigned_abs() <= REMEMBERED
    }
}

/// What a session says of a run.
#[derive(Debug, PartialEq)]
pub(crate) enum Sign {
    /// Its answer.
    Answered(HistoryRow),
    /// Its message stands there.
    Taken,
    /// It waits behind others.
    Queued,
    /// It waits until the peer's owner lets it run.
    Held,
    /// It was queued when the gateway was killed: it never runs, and its key is refused.
    Interrupted,
    /// Nothing; and whether the history reaches back past the moment of sending.
    None { reaches_back: bool },
}

impl Sign {
    /// For the log, which holds no message's text.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::Taken => "taken",
            Self::Queued => "queued",
            Self::Held => "held",
            Self::Interrupted => "interrupted",
            Self::None { reaches_back: true } => "never arrived",
            Self::None { reaches_back: false } => "none",
        }
    }
}

/// Reads what the session says of the run. The rows carry the gateway's time: one that is behind ours would let what was
/// said since pass for what was said before.
pub(crate) async fn look(client: &Client, run: Sought<'_>, sent_at: Timestamp) -> Result<Sign, CallError> {
    let sent_at_ms = sent_at.as_millisecond().saturating_sub(client.ahead_ms());
    let of_the_last = async |limit: u32| {
        let request =
            ChatHistory { session_key: run.session.to_owned(), limit: Some(limit), max_chars: Some(100_000) };
        let history = client.call(&request, run.deadline).await?;
        Ok::<_, CallError>(sign(&history, run.run_id, sent_at_ms))
    };
    let mut sign = of_the_last(ROWS).await?;
    // However few there were: a gateway may count rows that it does not show.
    if sign == (Sign::None { reaches_back: false }) {
        sign = of_the_last(MORE_ROWS).await?;
    }
    if let Sign::Answered(row) = &sign
        && let Some(whole) = in_full(client, run, row).await?
    {
        return Ok(Sign::Answered(whole));
    }
    Ok(sign)
}

/// The whole of a row that the history shows only in part.
async fn in_full(
    client: &Client,
    run: Sought<'_>,
    row: &HistoryRow,
) -> Result<Option<HistoryRow>, CallError> {
    let Some((id, true)) = row.note.as_ref().and_then(|note| Some((note.id.clone()?, note.truncated))) else {
        return Ok(None);
    };
    let request =
        ChatMessageGet { session_key: run.session.to_owned(), message_id: id, max_chars: Some(WHOLE_CHARS) };
    Ok(client.call(&request, run.deadline).await?.message)
}

/// `sent_at_ms` is by the gateway's clock.
fn sign(history: &History, run_id: &str, sent_at_ms: i64) -> Sign {
    let rows = &history.messages;
    if let Some(row) = rows.iter().rev().find(|row| row.answers(run_id)) {
        return Sign::Answered(row.clone());
    }
    if rows.iter().any(|row| row.is_input_of(run_id)) {
        return recovered(history, run_id).map_or(Sign::Taken, Sign::Answered);
    }
    let pending = history.pending_inputs.iter().flat_map(|pending| &pending.items);
    match pending.filter(|item| item.run_id == run_id).map(|item| (item.state.as_str(), item.held)).next() {
        Some(("interrupted", _)) => Sign::Interrupted,
        Some((_, true)) => Sign::Held,
        Some(_) => Sign::Queued,
        None => {
            let oldest = rows.first().and_then(|row| row.timestamp);
            let reaches_back = oldest.is_some_and(|oldest| oldest <= sent_at_ms);
            Sign::None { reaches_back }
        }
    }
}

/// The answer that a recovery run gave to this run's message.
///
/// Runs of a session take turns, so what a gateway goes on with after a crash is the newest message before that without
/// an answer, or its own recovery of that message, if it crashed in the middle of it. Other messages may stand between.
fn recovered(history: &History, run_id: &str) -> Option<HistoryRow> {
    // The messages without an answer, and the recoveries so far: the message each is about, and its own run.
    let mut open: Vec<&str> = Vec::new();
    let mut recoveries: Vec<(&str, Option<&str>)> = Vec::new();
    for row in &history.messages {
        let key = row.idempotency_key.as_deref().and_then(|key| key.strip_suffix(":user"));
        match row.role.as_str() {
            // At the beginning: what a teammate quotes in the middle of a message is no sign.
            "user" if row.text().starts_with(RECOVERY) => {
                recoveries.extend(open.last().map(|message| (*message, key)));
            }
            "user" => open.extend(key),
            "assistant" if row.stop_reason.as_deref() == Some("stop") => {
                let run = row.note.as_ref().and_then(|note| note.run_id.as_deref());
                let own = open.iter().position(|message| Some(*message) == run);
                let message = match own {
                    Some(place) => open[place],
                    // Where the recovery's own run is not said, its answer is the next that is nobody else's.
                    None => match recoveries.iter().rev().find(|(_, own)| own.is_none() || *own == run) {
                        Some((message, _)) => *message,
                        None => continue,
                    },
                };
                if own.is_none() && message == run_id {
                    return Some(row.clone());
                }
                open.retain(|other| *other != message);
                recoveries.retain(|(other, _)| *other != message);
            }
            _ => {}
        }
    }
    None
}

/// The run id of the attempt after this one. Two processes that see the same interrupted run choose the same, so that
/// the gateway takes their attempts for one.
pub(crate) fn next_run_id(run_id: &str) -> String {
    let digest = Sha256::digest(format!("the attempt after {run_id}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// Waits until the run is over. Gives its outcome where the session cannot show one; else the session is looked at.
pub(crate) async fn until_over(
    client: &Client,
    run: Sought<'_>,
    attempt: &Attempt,
) -> Result<Option<Outcome>, CallError> {
    let boot_id = client.hello().server.boot_id.as_deref();
    let is_another = boot_id.is_none() || boot_id != attempt.boot_id.as_deref();
    // Another process of OpenClaw does not know the run: only the session can show how its recovery goes, and has to be
    // looked at soon. One of `serve` knows how it ended.
    let step = if is_another { LOOK_AGAIN } else { WAIT_STEP };
    let left = run.deadline.saturating_duration_since(Instant::now());
    let timeout_ms = u64::try_from(step.min(left).as_millis()).unwrap_or_default();
    let request = AgentWait { run_id: run.run_id.to_owned(), timeout_ms: Some(timeout_ms) };
    let waited = client.call(&request, run.deadline).await?;
    if !waited.is_over() {
        return pause(LOOK_AGAIN, run.deadline).await.map(|()| None);
    }
    if waited.error.as_deref().is_some_and(agent::never_began) {
        // The session says `interrupted` of it.
        return pause(LOOK_AGAIN, run.deadline).await.map(|()| None);
    }
    if waited.status != "ok" {
        return Ok(Some(ended_badly(waited)));
    }
    let patience = run.deadline.min(Instant::now() + LATE_ROW);
    while Instant::now() < patience {
        match look(client, run, attempt.sent_at).await? {
            Sign::Answered(row) => return Ok(Some(Outcome::Reply(row.text()))),
            _ => sleep(LOOK_AGAIN / 5).await,
        }
    }
    Ok(Some(Outcome::NoReply))
}

/// How a run ended that the session does not show any more, where the gateway knows that by itself: OpenClaw for ten
/// minutes, `serve` for as long as its archive does.
pub(crate) async fn remembered(client: &Client, run: Sought<'_>) -> Result<Option<Outcome>, CallError> {
    let request = AgentWait { run_id: run.run_id.to_owned(), timeout_ms: Some(1) };
    let waited = client.call(&request, run.deadline).await?;
    if !waited.is_over() || waited.error.as_deref().is_some_and(agent::never_began) {
        return Ok(None);
    }
    if waited.status != "ok" {
        return Ok(Some(ended_badly(waited)));
    }
    Ok(waited.terminal_reply.and_then(TerminalReply::whole).map(Outcome::Reply))
}

fn ended_badly(waited: AgentWaited) -> Outcome {
    if waited.stop_reason.as_deref() == Some("rpc") {
        return Outcome::Aborted;
    }
    Outcome::Failed(waited.error.unwrap_or(waited.status))
}

pub(crate) async fn pause(time: Duration, deadline: Instant) -> Result<(), CallError> {
    if Instant::now() + time >= deadline {
        return Err(CallError::Deadline);
    }
    sleep(time).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_of(history: serde_json::Value, sent_at_ms: i64) -> Sign {
        let history: History = serde_json::from_value(history).unwrap();
        sign(&history, "r1", sent_at_ms)
    }

    fn text_of(sign: Sign) -> String {
        let Sign::Answered(row) = sign else { panic!("no answer: {sign:?}") };
        row.text()
    }

    fn user(key: &str, text: &str) -> serde_json::Value {
        serde_json::json!({ "role": "user", "content": text, "idempotencyKey": format!("{key}:user"), "timestamp": 50 })
    }

    fn answer(run: &str, text: &str) -> serde_json::Value {
        serde_json::json!({ "role": "assistant", "content": text, "stopReason": "stop", "__openclaw": { "runId": run } })
    }

    #[test]
    fn each_sign_is_read_as_protocol_md_says() {
        let json = |messages: Vec<serde_json::Value>| serde_json::json!({ "messages": messages });
        assert_eq!(text_of(sign_of(json(vec![user("r1", "q"), answer("r1", "a")]), 0)), "a");
        assert_eq!(sign_of(json(vec![user("r1", "q"), answer("r2", "theirs")]), 0), Sign::Taken);
        let system = serde_json::json!({ "role": "user", "content": format!("{RECOVERY} …") });
        let crashed = vec![user("r1", "q"), system, answer("other", "recovered")];
        assert_eq!(text_of(sign_of(json(crashed), 0)), "recovered");
        let quoted = user("r3", &format!("he said: {RECOVERY}"));
        let others = vec![user("r1", "q"), quoted, answer("r3", "theirs")];
        assert_eq!(sign_of(json(others), 0), Sign::Taken, "a quotation is no recovery");
        let pending = |state: &str| serde_json::json!({ "pendingInputs": { "items": [{ "runId": "r1", "state": state }] } });
        assert_eq!(sign_of(pending("queued"), 0), Sign::Queued);
        let held = serde_json::json!({ "pendingInputs": { "items": [{ "runId": "r1", "state": "queued", "held": true }] } });
        assert_eq!(sign_of(held, 0), Sign::Held);
        assert_eq!(sign_of(pending("interrupted"), 0), Sign::Interrupted);
    }

    fn system(key: Option<&str>) -> serde_json::Value {
        let mut row = user(key.unwrap_or_default(), &format!("{RECOVERY} …"));
        if key.is_none() {
            row["idempotencyKey"] = serde_json::Value::Null;
        }
        row
    }

    #[test]
    fn the_answer_of_a_recovery_is_found_past_other_messages_and_further_crashes() {
        let sign = |messages: Vec<serde_json::Value>| sign_of(serde_json::json!({ "messages": messages }), 0);
        let (r1, r2, again) = (user("r1", "q"), user("r2", "p"), || answer("s2", "mine"));
        let theirs = || answer("r2", "theirs");
        // Somebody else's turn came before the recovery.
        assert_eq!(text_of(sign(vec![r1.clone(), r2.clone(), theirs(), system(None), again()])), "mine");
        assert_eq!(
            text_of(sign(vec![r1.clone(), r2.clone(), theirs(), system(Some("s2")), again()])),
            "mine"
        );
        // It crashed in the middle of the recovery.
        assert_eq!(text_of(sign(vec![r1.clone(), system(Some("s1")), system(Some("s2")), again()])), "mine");
        assert_eq!(text_of(sign(vec![r1.clone(), system(None), system(None), again()])), "mine");
        // Their turn, begun after mine was over without an answer, is what was interrupted.
        assert_eq!(
            sign(vec![r1.clone(), r2.clone(), system(Some("s2")), answer("s2", "theirs")]),
            Sign::Taken
        );
        assert_eq!(sign(vec![r1.clone(), r2.clone(), system(None), answer("x", "theirs")]), Sign::Taken);
        // Another's answer between the recovery's beginning and its end.
        assert_eq!(text_of(sign(vec![r2, r1.clone(), system(None), theirs(), again()])), "mine");
        // Words alone are no recovery.
        let quoted = user("r2", &format!("they say: {RECOVERY}"));
        assert_eq!(sign(vec![r1, quoted, answer("x", "theirs")]), Sign::Taken);
    }

    #[test]
    fn an_interrupted_message_has_one_next_attempt_whoever_makes_it() {
        let next = next_run_id("r1");
        assert_eq!(next, next_run_id("r1"));
        assert!(uuid::Uuid::try_parse(&next).is_ok() && next != next_run_id(&next));
    }

    #[test]
    fn another_turn_after_mine_is_never_taken_for_my_recovery() {
        let rows =
            serde_json::json!({ "messages": [user("r1", "q"), user("r2", "other"), answer("r2", "theirs")] });
        assert_eq!(sign_of(rows, 0), Sign::Taken);
    }

    #[test]
    fn only_a_history_that_reaches_back_proves_anything() {
        let rows: Vec<_> = (0..ROWS).map(|n| user(&format!("x{n}"), "q")).collect();
        let page = serde_json::json!({ "messages": rows });
        assert_eq!(sign_of(page.clone(), 60), Sign::None { reaches_back: true });
        assert_eq!(sign_of(page, 40), Sign::None { reaches_back: false });
        // A session that was reset is empty, too: taken for proof, this made a second turn once.
        assert_eq!(sign_of(serde_json::json!({ "messages": [] }), 40), Sign::None { reaches_back: false });
    }
}
