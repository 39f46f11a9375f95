//! `agent`: two responses, queueing, idempotency, kill and restart, and the ledger.

use std::time::Duration;

use agent_mesh_testkit::{FakeGateway, Gate, Reply, Script};
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep};

use crate::peer::{connected, reply_text, send_params};

#[tokio::test]
async fn two_responses_on_one_id_and_a_row_each() {
    let gateway = FakeGateway::in_memory(Script::new());
    let mut peer = connected(&gateway).await;
    let (accepted, second) = peer.agent("run-1", "hello").await.unwrap();
    assert_eq!((&accepted["id"], &second["id"]), (&json!("run-1"), &json!("run-1")));
    assert_eq!(accepted["payload"]["status"], "accepted");
    assert_eq!(reply_text(&second), "echo: hello");
    assert!(second["payload"]["result"]["meta"].is_object(), "the recorded ballast is there");
    let history = peer.call("chat.history", json!({"sessionKey": "mesh:alice"})).await;
    assert_eq!(history["messages"][0]["idempotencyKey"], "run-1:user");
    assert_eq!(history["messages"][1]["__openclaw"]["runId"], "run-1");
    assert_eq!(history["pendingInputs"]["total"], 0);
}

#[tokio::test]
async fn every_ending_has_its_recorded_shape() {
    let script = Script::new().reply(|turn| match turn.message.as_str() {
        "provider" => Reply::provider_error("LLM request failed"),
        "empty" => Reply::empty(),
        "timeout" => Reply::timeout(),
        "aborted" => Reply::aborted(),
        "raw" => Reply::raw(json!({"status": 7})),
        _ => Reply::texts(["a", "b"]),
    });
    let gateway = FakeGateway::in_memory(script);
    let mut peer = connected(&gateway).await;
    let (_, two) = peer.agent("k0", "two").await.unwrap();
    assert_eq!(two["payload"]["result"]["payloads"][1]["text"], "b");
    let (_, provider) = peer.agent("k1", "provider").await.unwrap();
    assert_eq!((&provider["ok"], &provider["error"]["code"]), (&json!(false), &json!("UNAVAILABLE")));
    assert_eq!(provider["payload"]["status"], "error");
    let (_, empty) = peer.agent("k2", "empty").await.unwrap();
    assert_eq!(empty["payload"]["result"]["payloads"][0]["isError"], true);
    let (_, timeout) = peer.agent("k3", "timeout").await.unwrap();
    assert_eq!(
        (&timeout["payload"]["status"], &timeout["payload"]["runId"]),
        (&json!("timeout"), &json!("k3"))
    );
    let (_, aborted) = peer.agent("k4", "aborted").await.unwrap();
    assert_eq!(aborted["payload"]["stopReason"], "rpc");
    let (_, raw) = peer.agent("k5", "raw").await.unwrap();
    assert_eq!(raw["payload"], json!({"status": 7}));
}

#[tokio::test]
async fn answers_come_in_the_order_the_script_says() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = Script::new().reply(move |turn| {
        let reply = Reply::text(&turn.message);
        if turn.message == "first" { reply.when(&held) } else { reply }
    });
    let gateway = FakeGateway::in_memory(script);
    let mut peer = connected(&gateway).await;
    for name in ["first", "second"] {
        peer.request(name, "agent", send_params(&format!("mesh:{name}"), name, name)).await.unwrap();
    }
    let mut order = Vec::new();
    while order.len() < 2 {
        let response = peer.response().await.unwrap();
        if response["payload"]["status"] == "ok" {
            order.push(reply_text(&response).to_owned());
            gate.open();
        }
    }
    assert_eq!(order, ["second", "first"]);
}

#[tokio::test]
async fn one_session_is_a_queue_and_waiting_runs_are_pending_inputs() {
    let gate = Gate::new();
    let held = gate.clone();
    let gateway =
        FakeGateway::in_memory(Script::new().reply(move |turn| Reply::text(&turn.message).when(&held)));
    let mut peer = connected(&gateway).await;
    for name in ["a", "b", "c"] {
        peer.request(name, "agent", send_params("mesh:x", name, name)).await.unwrap();
    }
    gateway.until(|gateway| gateway.requests("agent").len() == 3 && gateway.ledger().total() == 1).await;
    let history = peer.call("chat.history", json!({"sessionKey": "mesh:x"})).await;
    let waiting = &history["pendingInputs"]["items"];
    assert_eq!(waiting, &json!([{"runId": "b", "state": "queued"}, {"runId": "c", "state": "queued"}]));
    assert_eq!(history["inFlightRun"]["runId"], "a");
    // A queued run that is aborted never reaches the model.
    assert_eq!(
        peer.call("chat.abort", json!({"sessionKey": "mesh:x", "runId": "b"})).await["runIds"],
        json!(["b"])
    );
    gate.open();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let response = peer.response().await.unwrap();
        if response["payload"]["status"] == "ok" {
            ended.push(reply_text(&response).to_owned());
        }
    }
    assert_eq!(ended, ["a", "c"]);
    assert_eq!(gateway.ledger().runs_of_text("b"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_runs_once_until_it_is_forgotten() {
    let script = Script::new().reply(|turn| Reply::text(&turn.message).after(Duration::from_secs(20)));
    let gateway = FakeGateway::in_memory(script);
    let mut peer = connected(&gateway).await;
    let started = Instant::now();
    peer.request("1", "agent", send_params("mesh:x", "key", "text")).await.unwrap();
    assert_eq!(peer.response().await.unwrap()["payload"]["status"], "accepted");
    let mut other = connected(&gateway).await;
    assert_eq!(other.call("agent", send_params("mesh:x", "key", "text")).await["status"], "in_flight");
    assert_eq!(reply_text(&peer.response().await.unwrap()), "text");
    assert_eq!(started.elapsed().as_secs(), 20);
    // Whatever the text is now: the first run's answer, at once.
    let cached = other.call("agent", send_params("mesh:x", "key", "other text")).await;
    assert_eq!(cached["result"]["payloads"][0]["text"], "text");
    assert!(gateway.ledger().repeated().is_empty());
    advance(Duration::from_secs(301)).await;
    assert_eq!(other.call("agent", send_params("mesh:x", "key", "text")).await["status"], "accepted");
    gateway.until(|gateway| gateway.ledger().runs_of_key("key") == 2).await;
    assert_eq!(gateway.ledger().repeated(), ["text"]);
}

#[tokio::test]
async fn live_text_needs_the_subscription() {
    let script = Script::new().reply(|_| Reply::text("one two").deltas(["one", " two"]));
    let gateway = FakeGateway::in_memory(script.final_event_after_response());
    let mut deaf = connected(&gateway).await;
    let mut peer = connected(&gateway).await;
    let key = json!({"key": "Agent:main:mesh:ALICE"});
    assert_eq!(peer.call("sessions.messages.subscribe", key).await["key"], "agent:main:mesh:alice");
    peer.agent("k", "go").await.unwrap();
    let texts: Vec<&Value> = peer
        .events
        .iter()
        .filter(|e| e["event"] == "chat")
        .map(|e| &e["payload"]["message"]["content"][0]["text"])
        .collect();
    assert_eq!(texts, [&json!("one"), &json!("one two")]);
    let last = peer.next().await.unwrap();
    assert_eq!((&last["payload"]["state"], &last["payload"]["runId"]), (&json!("final"), &json!("k")));
    deaf.call("health", json!({})).await;
    assert!(deaf.events.is_empty(), "{:?}", deaf.events);
}

#[tokio::test]
async fn refused_and_in_flight_runs_never_start() {
    let script = Script::new().reply(|turn| match turn.message.as_str() {
        "busy" => Reply::in_flight(),
        _ => Reply::refused(json!({"code": "UNAVAILABLE", "message": "no"})),
    });
    let gateway = FakeGateway::in_memory(script);
    let mut peer = connected(&gateway).await;
    assert_eq!(peer.call("agent", send_params("x", "1", "busy")).await["status"], "in_flight");
    assert_eq!(peer.call("agent", send_params("x", "2", "no")).await["code"], "UNAVAILABLE");
    assert_eq!(peer.call("agent", json!({"message": "no key"})).await["code"], "INVALID_REQUEST");
    assert_eq!(gateway.ledger().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn agent_wait_cannot_tell_slow_from_unknown() {
    let gateway = FakeGateway::in_memory(Script::new().reply(|_| Reply::never()));
    let mut peer = connected(&gateway).await;
    peer.request("1", "agent", send_params("x", "run", "hi")).await.unwrap();
    let slow = peer.call("agent.wait", json!({"runId": "run", "timeoutMs": 500})).await;
    let unknown = peer.call("agent.wait", json!({"runId": "nope", "timeoutMs": 500})).await;
    assert_eq!((&slow["status"], &unknown["status"]), (&json!("timeout"), &json!("timeout")));
    assert!(slow.get("endedAt").is_none());
    peer.call("chat.abort", json!({"sessionKey": "x", "runId": "run"})).await;
    let aborted = peer.call("agent.wait", json!({"runId": "run"})).await;
    assert_eq!((&aborted["status"], &aborted["stopReason"]), (&json!("error"), &json!("rpc")));
}

#[tokio::test(start_paused = true)]
async fn a_kill_resumes_the_active_run_and_interrupts_the_queued_one() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = Script::new().reply(move |turn| Reply::text(&turn.message).when(&held));
    let gateway = FakeGateway::in_memory(script.recovers_after(Duration::from_secs(5)));
    let mut peer = connected(&gateway).await;
    for name in ["active", "queued"] {
        peer.request(name, "agent", send_params("x", name, name)).await.unwrap();
        assert_eq!(peer.response().await.unwrap()["payload"]["status"], "accepted");
    }
    gateway.until(|gateway| gateway.ledger().total() == 1).await;
    let boot = gateway.boot_id();
    gateway.kill().await;
    assert!(peer.response().await.is_err());
    assert_ne!(gateway.boot_id(), boot);
    gate.open();
    let mut peer = connected(&gateway).await;
    let refused = peer.call("agent", send_params("x", "queued", "queued")).await;
    assert!(refused["message"].as_str().unwrap().starts_with("Pending input ownership ended"));
    // Virtual time: passes as soon as everything else is waiting.
    sleep(Duration::from_secs(6)).await;
    let history = peer.call("chat.history", json!({"sessionKey": "x"})).await;
    let rows = history["messages"].as_array().unwrap();
    assert_eq!(rows[0]["idempotencyKey"], "active:user");
    assert!(rows[1]["content"].as_str().unwrap().starts_with("[System] Your previous turn was interrupted"));
    assert_eq!(rows[2]["content"][0]["text"], "active");
    assert_ne!(rows[2]["__openclaw"]["runId"], "active");
    assert_eq!(history["pendingInputs"]["items"][0]["state"], "interrupted");
    assert!(gateway.ledger().repeated().is_empty(), "the gateway's own recovery is not a second turn");
}

#[tokio::test]
async fn a_restart_drains_then_forgets() {
    let gate = Gate::new();
    let held = gate.clone();
    let gateway = FakeGateway::in_memory(Script::new().reply(move |_| Reply::text("done").when(&held)));
    let mut peer = connected(&gateway).await;
    peer.request("1", "agent", send_params("x", "run", "hi")).await.unwrap();
    assert_eq!(peer.response().await.unwrap()["payload"]["status"], "accepted");
    let client = async {
        let refused = loop {
            // Until the drain has begun, a second send would be accepted: ask with a method that changes nothing.
            let answer = peer.call("agent", send_params("x", "run", "hi")).await;
            if answer["status"] != "in_flight" {
                break answer;
            }
        };
        assert_eq!(refused["details"]["reason"], "gateway-restarting");
        gate.open();
        assert_eq!(reply_text(&peer.response().await.unwrap()), "done");
        assert_eq!(peer.next().await.unwrap()["event"], "shutdown");
        assert_eq!(peer.close_code().await, Some(1012));
    };
    tokio::join!(gateway.restart(), client);
    let mut peer = connected(&gateway).await;
    assert_eq!(peer.call("agent", send_params("x", "run", "hi")).await["status"], "accepted");
    gateway.until(|gateway| gateway.ledger().runs_of_key("run") == 2).await;
}
