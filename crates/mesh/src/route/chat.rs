//! The bash skill's route: `chat.send`, then the reply of *my* run from its own `final` event, else from the history.
//!
//! Two `chat.send`s into one busy session are merged by the gateway. A merged message has no reply of its own, and
//! somebody else's is never taken for it.

use openclaw_client::protocol::event::{ChatEvent, ChatState};
use openclaw_client::protocol::methods::agent::{AgentWait, AgentWaited};
use openclaw_client::protocol::methods::chat::{ChatHistory, ChatSend};
use openclaw_client::protocol::methods::sessions::MessagesSubscribe;
use openclaw_client::{CallError, Client, Events};
use tokio::time::{Duration, Instant};

use super::agent::show_chat;
use super::{Delivery, Outgoing, Setback};
use crate::error::MeshError;
use crate::progress::{Observer, Progress};
use crate::record::State;

/// How many of the newest rows may stand between my message and its answer.
const ROWS: u32 = 200;
/// How long one `agent.wait` waits; it is asked again until the deadline.
const WAIT_STEP: Duration = Duration::from_secs(20);
/// After the run is over its `final` event may still be on its way.
const LATE_FINAL: Duration = Duration::from_secs(1);

/// How a chat run showed its end.
enum Ending {
    /// Its own final text.
    Text(String),
    /// It is over, and no text of its own came.
    Over(AgentWaited),
    /// It failed.
    Failed(String),
}

pub(crate) async fn deliver(
    client: &Client,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    let protocol = client.hello().protocol;
    if protocol < 4 {
        delivery.finished(State::Failed);
        let error = MeshError::TooOld { to: message.to.clone(), protocol, route: "chat" };
        return Err(Setback::Final(error));
    }
    let events = client.events();
    let request = ChatSend {
        session_key: message.session.clone(),
        message: message.text.clone(),
        idempotency_key: message.run_id.clone(),
    };
    let sent = match client.tell(&MessagesSubscribe { key: message.session.clone() }) {
        Ok(()) => client.call(&request, message.deadline).await,
        Err(error) => Err(error),
    };
    let ack = sent.map_err(|error| message.not_taken(error, delivery))?;
    if ack.run_id.is_none() || matches!(ack.status.as_deref(), Some("error" | "timeout")) {
        delivery.finished(State::Failed);
        let reason = ack.summary.unwrap_or_else(|| "the gateway took the message for a command".to_owned());
        return Err(Setback::Final(MeshError::RunFailed { to: message.to.clone(), reason }));
    }
    if ack.held {
        delivery.held();
        observer.progress(Progress::Held);
    } else {
        delivery.accepted();
        observer.progress(Progress::Accepted);
    }
    if message.wait.is_over(ack.held) {
        return Ok(());
    }
    let ending = reply(client, events, message, observer).await;
    let ending = ending.map_err(|error| message.setback(error, delivery))?;
    conclude(ending, message, delivery).map_err(Setback::Final)
}

fn conclude(ending: Reply, message: &Outgoing, delivery: &mut Delivery<'_>) -> Result<(), MeshError> {
    let to = message.to.clone();
    match ending {
        Reply::Text(text) => {
            delivery.replied(text);
            Ok(())
        }
        Reply::Silent => {
            delivery.finished(State::NoReply);
            Err(MeshError::NoReply { to, merged: false })
        }
        Reply::Merged => {
            delivery.finished(State::NoReply);
            Err(MeshError::NoReply { to, merged: true })
        }
        Reply::Failed(reason) => {
            delivery.finished(State::Failed);
            Err(MeshError::RunFailed { to, reason })
        }
    }
}

/// How my run ended.
enum Reply {
    Text(String),
    /// With nothing to say.
    Silent,
    /// Without a text of its own.
    Merged,
    Failed(String),
}

async fn reply(
    client: &Client,
    mut events: Events,
    message: &Outgoing,
    observer: &mut dyn Observer,
) -> Result<Reply, CallError> {
    let ending = tokio::select! {
        biased;
        ending = own_final(&mut events, &message.run_id, observer) => ending,
        waited = wait_until_over(client, message) => Ending::Over(waited?),
    };
    let waited = match ending {
        Ending::Text(text) if text.is_empty() => return Ok(Reply::Silent),
        Ending::Text(text) => return Ok(Reply::Text(text)),
        Ending::Failed(reason) => return Ok(Reply::Failed(reason)),
        Ending::Over(waited) => waited,
    };
    if waited.status != "ok" {
        return Ok(Reply::Failed(waited.error.unwrap_or(waited.status)));
    }
    let patience = message.deadline.min(Instant::now() + LATE_FINAL);
    let late = tokio::time::timeout_at(patience, own_final(&mut events, &message.run_id, observer)).await;
    match late {
        Ok(Ending::Text(text)) => Ok(Reply::Text(text)),
        Ok(Ending::Failed(reason)) => Ok(Reply::Failed(reason)),
        _ => Ok(from_history(client, message).await?.map_or(Reply::Merged, Reply::Text)),
    }
}

/// Reads events until my run shows its end. A `final` without a message is no answer: the text was queued or merged.
async fn own_final(events: &mut Events, run_id: &str, observer: &mut dyn Observer) -> Ending {
    while let Some(event) = events.next().await {
        if &*event.name != "chat" {
            continue;
        }
        let Ok(event) = event.read::<ChatEvent>() else { continue };
        if event.run_id != run_id {
            continue;
        }
        match (event.state, &event.message) {
            (ChatState::Final, Some(text)) => return Ending::Text(text.text()),
            (ChatState::Error, _) => return Ending::Failed(event.error_message.unwrap_or_default()),
            (ChatState::Aborted, _) => {
                return Ending::Failed("the run was aborted on the other side".to_owned());
            }
            _ => show_chat(&event, observer),
        }
    }
    // The connection is gone; whoever asks the gateway learns how.
    std::future::pending().await
}

async fn wait_until_over(client: &Client, message: &Outgoing) -> Result<AgentWaited, CallError> {
    loop {
        let step = WAIT_STEP.min(message.deadline.saturating_duration_since(Instant::now()));
        let timeout_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        let request = AgentWait { run_id: message.run_id.clone(), timeout_ms: Some(timeout_ms) };
        let waited = client.call(&request, message.deadline).await?;
        if waited.is_over() {
            return Ok(waited);
        }
        if Instant::now() >= message.deadline {
            return Err(CallError::Deadline);
        }
        // `pending` is answered at once.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn from_history(client: &Client, message: &Outgoing) -> Result<Option<String>, CallError> {
    let request =
        ChatHistory { session_key: message.session.clone(), limit: Some(ROWS), max_chars: Some(100_000) };
    let history = client.call(&request, message.deadline).await?;
    let row = history.messages.iter().rev().find(|row| row.answers(&message.run_id));
    Ok(row.map(|row| row.text()))
}
