//! `chat.send`: the method whose sends merge and queue in a busy session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::fault::Cut;
use crate::methods::{Answer, Client, turn_of};
use crate::reply::{Ends, Outcome, Reply, Turn};
use crate::runs::{self, Origin, Run, chat_event};
use crate::world::Out;

/// What becomes of a send, depending on what the session does.
enum Way {
    Run,
    Interrupt(Arc<Run>),
    Merge(Arc<Run>),
    Queue,
}

pub(crate) fn chat_send(client: &Client, request: &str, params: &Value) -> Answer {
    let world = &client.world;
    let _one_at_a_time = world.submission();
    let turn = turn_of("chat.send", params)?;
    if turn.message.trim().is_empty() {
        return Err(json!({"code": "INVALID_REQUEST", "message": "message or attachment required"}));
    }
    if turn.message.contains('\0') {
        return Err(json!({"code": "INVALID_REQUEST", "message": "message must not contain null bytes"}));
    }
    let known = world.read(|state| state.runs.get(&("chat.send", turn.run_id.clone())).cloned());
    if let Some(run) = known.filter(|run| run.is_known(world)) {
        return again(&run, &turn);
    }
    let reply = (world.script.agent)(&turn);
    if let Ends::Refused(error) = reply.ends {
        return Err(error);
    }
    let run_id = turn.run_id.clone();
    let way = way(client, &turn);
    let mut ack = json!({"runId": run_id, "status": "started"});
    if matches!(way, Way::Interrupt(_)) {
        ack["interruptedActiveRun"] = json!(true);
    }
    let origin = Origin::Request { peer: client.out.clone(), id: None };
    let run = Run::new("chat.send", run_id.clone(), turn.clone(), reply.clone(), origin);
    world.change(|state| state.runs.insert(("chat.send", run_id.clone()), Arc::clone(&run)));
    run.point(Cut::BeforeAccepted);
    client.send(Out::Res(json!({"type": "res", "id": request, "ok": true, "payload": ack})));
    run.point(Cut::AfterAccepted);
    match way {
        Way::Run => runs::start(world, &run),
        Way::Interrupt(active) => {
            active.abort.open();
            runs::start(world, &run);
        }
        Way::Merge(active) => {
            let answer = match &reply.ends {
                Ends::With(Outcome::Texts(texts)) => texts.join("\n"),
                _ => String::new(),
            };
            if active.merge(&turn, answer) {
                world.change(|state| state.ledger.record(&run_id, &turn.message));
                chat_event(world, &run, "final", json!({}));
                run.ends_with(world, Outcome::Merged);
                run.point(Cut::AfterFinal);
            } else {
                runs::start(world, &run);
            }
        }
        Way::Queue => queue(client, run, reply),
    }
    Ok(None)
}

fn way(client: &Client, turn: &Turn) -> Way {
    let busy = client.world.read(|state| {
        let session = state.sessions.get(&turn.session_key)?;
        session.active.as_ref().or(session.tail.as_ref().filter(|run| !run.left.is_open())).cloned()
    });
    match (busy, turn.params["queueMode"].as_str()) {
        (None, _) => Way::Run,
        (Some(active), Some("interrupt")) => Way::Interrupt(active),
        (Some(_), Some("followup" | "collect")) => Way::Queue,
        (Some(active), _) if active.method == "chat.send" => Way::Merge(active),
        // Behind an `agent` run: not observed on the real gateway; queueing keeps that run's reply its own.
        (Some(_), _) => Way::Queue,
    }
}

/// The answer will belong to a hidden run; the send's own run ends with it, without an answer.
fn queue(client: &Client, run: Arc<Run>, reply: Reply) {
    let world = Arc::clone(&client.world);
    run.queued.store(true, Ordering::Relaxed);
    chat_event(&world, &run, "final", json!({}));
    run.point(Cut::AfterFinal);
    let origin = Origin::Queued { key: run.id.clone() };
    let hidden = Run::new("chat.send", world.change(|state| state.new_id()), run.turn.clone(), reply, origin);
    runs::start(&world, &hidden);
    client.world.spawn_run(async move {
        hidden.over().await;
        run.ends_with(&world, Outcome::Merged);
    });
}

/// The same key again.
fn again(run: &Run, turn: &Turn) -> Answer {
    if run.turn.message != turn.message || run.turn.session_key != turn.session_key {
        return Err(
            json!({"code": "INVALID_REQUEST", "message": "idempotency key was used for another request",
                          "details": {"reason": "chat-request-conflict"}}),
        );
    }
    let status = match run.end.borrow().as_ref().map(|end| &end.outcome) {
        None => json!({"status": "in_flight"}),
        Some(Outcome::Texts(_) | Outcome::Merged | Outcome::Raw(_)) => json!({"status": "ok"}),
        Some(Outcome::ProviderError(message)) => json!({"status": "error", "summary": message}),
        Some(Outcome::Empty) => json!({"status": "error", "summary": "failed"}),
        Some(Outcome::Timeout | Outcome::Aborted) => {
            json!({"status": "timeout", "summary": "aborted", "stopReason": "rpc"})
        }
    };
    let mut payload = status;
    payload["runId"] = json!(run.id);
    Ok(Some(payload))
}
