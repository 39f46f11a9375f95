//! After a lost connection, a crash or a restart: look before sending again.
//!
//! What the gateway knows of a run decides, in this order: its answer is there; its message is there (then it is never
//! sent again, and followed, also into the recovery run that a gateway starts by itself after a crash); it waits in the
//! queue; it was interrupted in the queue (then it never runs, and a new attempt needs a new run id); or there is no
//! sign of it. Without a sign the same key may be sent again where that cannot make a second turn: to the same gateway
//! process within the five minutes that it remembers keys, or to another one whose history is complete back to the
//! moment of sending. Where that cannot be known, we say so.

use jiff::Timestamp;
use openclaw_client::protocol::methods::agent::{AgentWait, Outcome};
use openclaw_client::protocol::methods::chat::{ChatHistory, History};
use openclaw_client::{CallError, Client};
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use super::{Delivery, Outgoing, Setback, agent, deliver, gateway};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::progress::{Observer, Progress};
use crate::registry::Via;

/// How many rows of a session are asked for: `chat.history` counts from the newest.
const ROWS: u32 = 1000;
/// A gateway process remembers a key for five minutes after its run ended; some of that is left for the way.
const REMEMBERED: Duration = Duration::from_secs(270);
/// How long one `agent.wait` waits.
const WAIT_STEP: Duration = Duration::from_secs(20);
/// The row of an answer may be written a moment after its run ended.
const LATE_ROW: Duration = Duration::from_secs(2);
/// How often we look for something that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// With these words a gateway tells its agent that it goes on after a crash.
const RECOVERY: &str = "[System] Your previous turn was interrupted by a gateway restart";

/// What we know of the attempt that may have arrived.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// The gateway process it went to.
    pub boot_id: Option<String>,
    /// When it may have left.
    pub sent_at: Timestamp,
}

/// What a session says of a run.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// Its answer.
    Answered(String),
    /// Its message stands there.
    Taken,
    /// It waits behind others.
    Queued,
    /// It was queued when the gateway was killed: it never runs, and its key is refused.
    Interrupted,
    /// Nothing; `complete` if the history reaches back to when it was sent.
    None { complete: bool },
}

/// Finds out what became of a message, and brings it to its end. Sends again only where no second turn can come of it.
pub(crate) async fn resume(
    mesh: &Mesh,
    peer: &Peer,
    message: &mut Outgoing,
    mut attempt: Attempt,
    line: &mut Option<Client>,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), MeshError> {
    let mut reason = "the connection was lost".to_owned();
    loop {
        let client = match line {
            Some(client) => client,
            None => match gateway::connect_patiently(mesh, peer, message.deadline).await {
                Ok(client) => line.insert(client),
                // The message may have arrived: that nobody answers, or lets us in, now does not make it unsent.
                Err(error) => return Err(message.give_up(&format!("{reason}; then {error}"), delivery)),
            },
        };
        delivery.reached(client.hello().server.boot_id.as_deref());
        observer.progress(Progress::Reached);
        match follow(client, message, &mut attempt, delivery, observer).await {
            Ok(()) => return Ok(()),
            Err(Setback::Final(error)) => return Err(error),
            Err(Setback::Deadline) => return Err(message.give_up(&reason, delivery)),
            Err(Setback::Lost(how)) => {
                delivery.lost(&how);
                reason = how;
                *line = None;
                // A gateway that lets us in and dies each time is not to be asked without a break.
                if pause(LOOK_AGAIN, message.deadline).await.is_err() {
                    return Err(message.give_up(&reason, delivery));
                }
            }
        }
    }
}

/// One look, and what follows from it, over one connection.
async fn follow(
    client: &Client,
    message: &mut Outgoing,
    attempt: &mut Attempt,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    loop {
        let sign = look(client, message, attempt).await.map_err(|e| message.setback(e, delivery))?;
        tracing::debug!(?sign, run_id = message.run_id, "looked");
        match sign {
            Sign::Answered(text) => {
                delivery.accepted();
                delivery.replied(text);
                return Ok(());
            }
            Sign::Taken | Sign::Queued => {
                delivery.accepted();
                if !message.wait {
                    return Ok(());
                }
                let over =
                    until_over(client, message, attempt).await.map_err(|e| message.setback(e, delivery))?;
                if let Some(outcome) = over {
                    return agent::conclude(outcome, message, delivery).map_err(Setback::Final);
                }
            }
            Sign::Interrupted => {
                message.run_id = Uuid::now_v7().to_string();
                return again(client, message, attempt, delivery, observer).await;
            }
            Sign::None { complete } => {
                if !may_send_again(client, message, attempt, complete) {
                    let reason =
                        "their gateway was restarted since, and its history does not reach back far enough";
                    return Err(Setback::Final(message.give_up(reason, delivery)));
                }
                return again(client, message, attempt, delivery, observer).await;
            }
        }
    }
}

/// Sends under the present run id. A new one, or a new process, is noted before anything leaves.
async fn again(
    client: &Client,
    message: &Outgoing,
    attempt: &mut Attempt,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    let noted = delivery.sending(&message.run_id).await;
    noted.map_err(|error| Setback::Final(MeshError::Archive(error)))?;
    *attempt = Attempt { boot_id: client.hello().server.boot_id.clone(), sent_at: Timestamp::now() };
    deliver(client, message, delivery, observer).await
}

fn may_send_again(client: &Client, message: &Outgoing, attempt: &Attempt, complete: bool) -> bool {
    // `chat.send` merges, and its answer cannot be told apart: it is never sent twice.
    if message.via != Via::Agent {
        return false;
    }
    let boot_id = client.hello().server.boot_id.as_deref();
    let same_process = boot_id.is_some() && boot_id == attempt.boot_id.as_deref();
    let age = Timestamp::now().duration_since(attempt.sent_at);
    let remembered = age.unsigned_abs() <= REMEMBERED;
    complete || (same_process && remembered)
}

/// Reads what the session says of the run.
async fn look(client: &Client, message: &Outgoing, attempt: &Attempt) -> Result<Sign, CallError> {
    let request =
        ChatHistory { session_key: message.session.clone(), limit: Some(ROWS), max_chars: Some(100_000) };
    let history = client.call(&request, message.deadline).await?;
    Ok(sign(&history, &message.run_id, attempt.sent_at))
}

fn sign(history: &History, run_id: &str, sent_at: Timestamp) -> Sign {
    let rows = &history.messages;
    if let Some(row) = rows.iter().rev().find(|row| row.answers(run_id)) {
        return Sign::Answered(row.text());
    }
    if let Some(place) = rows.iter().position(|row| row.is_input_of(run_id)) {
        return recovered(history, place).map_or(Sign::Taken, Sign::Answered);
    }
    let pending = history.pending_inputs.iter().flat_map(|pending| &pending.items);
    match pending.filter(|item| item.run_id == run_id).map(|item| item.state.as_str()).next() {
        Some("interrupted") => Sign::Interrupted,
        Some(_) => Sign::Queued,
        None => {
            let oldest = rows.first().and_then(|row| row.timestamp);
            let reaches_back = oldest.is_some_and(|oldest| oldest <= sent_at.as_millisecond());
            Sign::None { complete: reaches_back || rows.len() < ROWS as usize }
        }
    }
}

/// The answer of the recovery run that a gateway started for the message at `place`.
fn recovered(history: &History, place: usize) -> Option<String> {
    let mut rest = history.messages[place + 1..].iter().skip_while(|row| row.role != "user");
    let system = rest.next()?;
    if !system.text().contains(RECOVERY) {
        return None;
    }
    let mut answers = rest.take_while(|row| row.role != "user");
    answers
        .find(|row| row.role == "assistant" && row.stop_reason.as_deref() == Some("stop"))
        .map(|row| row.text())
}

/// Waits until the run is over. Gives its outcome where the session cannot show one; else the session is looked at.
async fn until_over(
    client: &Client,
    message: &Outgoing,
    attempt: &Attempt,
) -> Result<Option<Outcome>, CallError> {
    let boot_id = client.hello().server.boot_id.as_deref();
    if boot_id.is_none() || boot_id != attempt.boot_id.as_deref() {
        // This process does not know the run: only the session can show how its recovery goes.
        return pause(LOOK_AGAIN, message.deadline).await.map(|()| None);
    }
    let left = message.deadline.saturating_duration_since(Instant::now());
    let timeout_ms = u64::try_from(WAIT_STEP.min(left).as_millis()).unwrap_or_default();
    let request = AgentWait { run_id: message.run_id.clone(), timeout_ms: Some(timeout_ms) };
    let waited = client.call(&request, message.deadline).await?;
    if !waited.is_over() {
        return pause(LOOK_AGAIN, message.deadline).await.map(|()| None);
    }
    if waited.status != "ok" {
        let aborted = waited.stop_reason.as_deref() == Some("rpc");
        let failed = || Outcome::Failed(waited.error.clone().unwrap_or_else(|| waited.status.clone()));
        return Ok(Some(if aborted { Outcome::Aborted } else { failed() }));
    }
    let patience = message.deadline.min(Instant::now() + LATE_ROW);
    while Instant::now() < patience {
        match look(client, message, attempt).await? {
            Sign::Answered(text) => return Ok(Some(Outcome::Reply(text))),
            _ => sleep(LOOK_AGAIN / 5).await,
        }
    }
    Ok(Some(Outcome::NoReply))
}

async fn pause(time: Duration, deadline: Instant) -> Result<(), CallError> {
    if Instant::now() + time >= deadline {
        return Err(CallError::Deadline);
    }
    sleep(time).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_of(history: serde_json::Value, sent_at: i64) -> Sign {
        let history: History = serde_json::from_value(history).unwrap();
        sign(&history, "r1", Timestamp::from_millisecond(sent_at).unwrap())
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
        assert_eq!(sign_of(json(vec![user("r1", "q"), answer("r1", "a")]), 0), Sign::Answered("a".into()));
        assert_eq!(sign_of(json(vec![user("r1", "q"), answer("r2", "theirs")]), 0), Sign::Taken);
        let system = serde_json::json!({ "role": "user", "content": format!("{RECOVERY} …") });
        let crashed = vec![user("r1", "q"), system, answer("other", "recovered")];
        assert_eq!(sign_of(json(crashed), 0), Sign::Answered("recovered".into()));
        let pending = |state: &str| serde_json::json!({ "pendingInputs": { "items": [{ "runId": "r1", "state": state }] } });
        assert_eq!(sign_of(pending("queued"), 0), Sign::Queued);
        assert_eq!(sign_of(pending("interrupted"), 0), Sign::Interrupted);
    }

    #[test]
    fn another_turn_after_mine_is_never_taken_for_my_recovery() {
        let rows =
            serde_json::json!({ "messages": [user("r1", "q"), user("r2", "other"), answer("r2", "theirs")] });
        assert_eq!(sign_of(rows, 0), Sign::Taken);
    }

    #[test]
    fn a_full_page_is_complete_only_if_it_reaches_back() {
        let rows: Vec<_> = (0..ROWS).map(|n| user(&format!("x{n}"), "q")).collect();
        let page = serde_json::json!({ "messages": rows });
        assert_eq!(sign_of(page.clone(), 60), Sign::None { complete: true });
        assert_eq!(sign_of(page, 40), Sign::None { complete: false });
        assert_eq!(sign_of(serde_json::json!({ "messages": [] }), 40), Sign::None { complete: true });
    }
}
