//! Who hears what of a run.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::*;

/// All `chat` events that a connection has heard until now: a call is answered after them.
async fn heard(client: &mut Client) -> Vec<Value> {
    client.ok("health", json!({})).await;
    let events = std::mem::take(&mut client.events);
    let chat = events.into_iter().filter(|event| event["event"] == "chat");
    chat.map(|event| event["payload"].clone()).collect()
}

#[tokio::test]
async fn only_those_who_may_and_want_to_hear_a_session() {
    let gateway = Fixture::echo().await;
    let hello = Hello::token(TOKEN);
    let mut every = gateway.client(&hello.clone().scopes(&["operator.read"]), LOCAL).await;
    let mut subscribed = gateway.client(&hello.clone().scoped(), LOCAL).await;
    let mut scoped = gateway.client(&hello.clone().scoped(), LOCAL).await;
    let mut blind = gateway.client(&hello.clone().scopes(&["operator.pairing"]), LOCAL).await;
    let answer = subscribed.ok("sessions.messages.subscribe", json!({ "key": "mesh:Alice" })).await;
    assert_eq!(answer, json!({ "subscribed": true, "key": "agent:main:mesh:alice" }));

    scoped.turn("mesh:alice", "hello", "k1").await;
    scoped.turn("mesh:carol", "hello", "k2").await;
    let sessions = |events: &[Value]| {
        let mut keys: Vec<_> = events.iter().map(|event| event["sessionKey"].to_string()).collect();
        keys.dedup();
        keys
    };
    // The final of the second run may come after its second answer: it is waited for where it has to come.
    while every
        .events
        .last()
        .is_none_or(|event| event["payload"]["runId"] != "k2" || event["payload"]["state"] != "final")
    {
        let frame = every.frame().await.unwrap();
        every.events.push(frame);
    }
    let all = heard(&mut every).await;
    assert_eq!(sessions(&all), ["\"agent:main:mesh:alice\"", "\"agent:main:mesh:carol\""]);
    assert_eq!(sessions(&heard(&mut subscribed).await), ["\"agent:main:mesh:alice\""]);
    assert!(heard(&mut scoped).await.is_empty(), "not even of its own runs");
    assert!(heard(&mut blind).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn deltas_are_gathered_and_add_up_to_the_reply() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let mut client = gateway.owner().await;
    let params = json!({ "sessionKey": "a", "message": "x", "idempotencyKey": "k" });
    client.ok("chat.send", params).await;
    let held = turns.recv().await.unwrap();
    let status = client.event("chat").await["payload"].clone();
    assert_eq!((&status["state"], &status["seq"]), (&json!("status"), &json!(1)));

    held.deltas.push("one ").await;
    let first = client.event("chat").await["payload"].clone();
    assert_eq!((&first["state"], &first["deltaText"]), (&json!("delta"), &json!("one ")));
    for piece in ["two ", "three "] {
        held.deltas.push(piece).await;
    }
    let second = client.event("chat").await["payload"].clone();
    assert_eq!(second["deltaText"], "two three ", "not one event a piece");
    assert_eq!(second["message"]["content"][0]["text"], "one two three ");

    held.deltas.push("four").await;
    held.finish.send(Ok("one two three four".into())).unwrap();
    let last = client.event("chat").await["payload"].clone();
    assert_eq!(last["deltaText"], "four");
    let whole = client.event("chat").await["payload"].clone();
    assert_eq!(
        (&whole["state"], &whole["stopReason"], &whole["agentId"]),
        (&json!("final"), &json!("stop"), &json!("main"))
    );
    assert_eq!(whole["message"]["content"][0]["text"], "one two three four");
    assert!(whole["message"]["timestamp"].is_i64());
}

#[tokio::test(start_paused = true)]
async fn failures_and_aborts_are_told_too() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |config| config.timing.abort = Duration::from_millis(10)).await;
    let mut client = gateway.owner().await;
    let ends = async |client: &mut Client| loop {
        let event = client.event("chat").await["payload"].clone();
        if event["state"] != "status" {
            break event;
        }
    };
    client.ok("chat.send", json!({ "sessionKey": "a", "message": "x", "idempotencyKey": "1" })).await;
    let held = turns.recv().await.unwrap();
    held.finish.send(Err(agent_mesh_gateway::AgentFailure::failed("no luck"))).unwrap();
    let event = ends(&mut client).await;
    assert_eq!((&event["state"], &event["errorMessage"]), (&json!("error"), &json!("no luck")));

    client.ok("chat.send", json!({ "sessionKey": "a", "message": "x", "idempotencyKey": "2" })).await;
    let _deaf = turns.recv().await.unwrap();
    client.ok("chat.abort", json!({ "sessionKey": "a" })).await;
    let event = ends(&mut client).await;
    assert_eq!((&event["state"], &event["stopReason"]), (&json!("aborted"), &json!("rpc")));
}
