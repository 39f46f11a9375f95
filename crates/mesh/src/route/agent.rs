//! The route of choice: the gateway's `agent` method. Each run has its own reply, also in a busy session.

use openclaw_client::protocol::event::{AgentEvent, ChatEvent, ChatState};
use openclaw_client::protocol::methods::agent::{Agent, InputProvenance, Outcome};
use openclaw_client::protocol::methods::sessions::MessagesSubscribe;
use openclaw_client::{CallError, Client, Events, GatewayEvent, Run};

use super::{Delivery, Outgoing, Setback, Wait};
use crate::error::MeshError;
use crate::progress::{Observer, Progress};
use crate::record::State;

pub(crate) async fn deliver(
    client: &Client,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    let mut events = None;
    if message.wait != Wait::Taken && observer.wants_text() {
        events = Some(client.events());
        // Not awaited: the gateway handles requests in order, so this costs no round trip.
        let subscribed = client.tell(&MessagesSubscribe { key: message.session.clone() });
        subscribed.map_err(|error| message.setback(error, delivery))?;
    }
    let started = client.start(&request(message), message.deadline).await;
    let run = started.map_err(|error| message.not_taken(error, delivery))?;
    let held = run.ack().held == Some(true);
    let is_over = message.wait.is_over(held);
    if held {
        delivery.held();
        observer.progress(Progress::Held);
    } else {
        match is_over || run.is_in_flight() {
            true => delivery.accepted(),
            false => delivery.just_accepted(),
        }
        observer.progress(Progress::Accepted);
    }
    if is_over {
        return Ok(());
    }
    if run.is_in_flight() {
        // Its result goes to the connection that started it.
        return Err(Setback::Lost("the run belongs to another connection".to_owned()));
    }
    let finished = delivery.until_over(finish(run, events, message, observer)).await;
    match finished.map_err(|error| message.setback(error, delivery))? {
        Outcome::Failed(reason) if never_began(&reason) => Err(Setback::Lost(reason)),
        outcome => conclude(outcome, message, delivery).map_err(Setback::Final),
    }
}

/// Whether a run failed before it began: a gateway that goes on after a crash lets nothing new into a session until it is
/// done there. It marks the run as interrupted, and only a new attempt under a new run id can be answered.
pub(crate) fn never_began(reason: &str) -> bool {
    reason.contains("SESSION_WORK_START_CHANGED")
}

pub(crate) fn request(message: &Outgoing) -> Agent {
    Agent {
        message: message.text.clone(),
        idempotency_key: message.run_id.clone(),
        session_key: Some(message.session.clone()),
        input_provenance: Some(InputProvenance {
            kind: "inter_session".to_owned(),
            source_session_key: Some(format!("mesh:{}", message.me)),
            source_channel: Some("agent-mesh".to_owned()),
            source_tool: Some("agent_mesh".to_owned()),
        }),
        ..Agent::default()
    }
}

/// Waits for the run's own result while its events are shown.
async fn finish(
    run: Run,
    events: Option<Events>,
    message: &Outgoing,
    observer: &mut dyn Observer,
) -> Result<Outcome, CallError> {
    let finished = run.finished(message.deadline);
    let Some(mut events) = events else { return finished.await };
    tokio::pin!(finished);
    loop {
        tokio::select! {
            // A result that is here is taken before an event that is late.
            biased;
            outcome = &mut finished => return outcome,
            event = events.next() => match event {
                Some(event) => show(&event, &message.run_id, observer),
                None => return finished.await,
            },
        }
    }
}

/// Shows an event if it belongs to our run.
pub(crate) fn show(event: &GatewayEvent, run_id: &str, observer: &mut dyn Observer) {
    match &*event.name {
        "agent" => {
            let Ok(event) = event.read::<AgentEvent>() else { return };
            if let (Some(phase), true) = (event.phase(), event.run_id == run_id) {
                observer.progress(Progress::Phase(phase));
            }
        }
        "chat" => {
            let Ok(event) = event.read::<ChatEvent>() else { return };
            if event.run_id == run_id {
                show_chat(&event, observer);
            }
        }
        _ => {}
    }
}

pub(crate) fn show_chat(event: &ChatEvent, observer: &mut dyn Observer) {
    match event.state {
        ChatState::Status => {
            if let Some(phase) = &event.phase {
                observer.progress(Progress::Phase(phase));
            }
        }
        ChatState::Delta if event.replace => {
            let text = event.message.as_ref().map(|m| m.text()).unwrap_or_default();
            observer.progress(Progress::Rewrite(&text));
        }
        ChatState::Delta => {
            if let Some(text) = &event.delta_text {
                observer.progress(Progress::Text(text));
            }
        }
        _ => {}
    }
}

/// Writes down how the run ended.
pub(crate) fn conclude(
    outcome: Outcome,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
) -> Result<(), MeshError> {
    let failed = |reason: &str| MeshError::RunFailed { to: message.to.clone(), reason: reason.to_owned() };
    match outcome {
        Outcome::Reply(text) => {
            delivery.replied(text);
            return Ok(());
        }
        Outcome::NoReply => {
            delivery.finished(State::NoReply);
            return Err(MeshError::NoReply { to: message.to.clone(), merged: false });
        }
        _ => delivery.finished(State::Failed),
    }
    Err(match outcome {
        Outcome::Aborted => failed("the run was aborted on the other side"),
        Outcome::RunTimeout => failed("the run ran out of its time on the other side"),
        Outcome::Failed(reason) => failed(&reason),
        _ => failed("the run ended in a way this version does not know"),
    })
}
