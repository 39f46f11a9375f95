//! Turns of the agent.

use std::sync::Arc;
use std::time::Duration;

use agent_mesh_gateway::{Agent, AgentFailure, Deltas, EchoAgent, ReplyFuture, Turn};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::*;

fn reply(done: &Value) -> &str {
    done["payload"]["result"]["payloads"][0]["text"].as_str().unwrap_or_else(|| panic!("{done}"))
}

fn agent(session: &str, key: &str) -> Value {
    json!({ "sessionKey": session, "message": format!("message {key}"), "idempotencyKey": key })
}

#[tokio::test]
async fn an_agent_call_is_answered_twice_on_one_id() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.owner().await;
    let (accepted, done) = client.turn("mesh:Alice", "hello", "k1").await;
    let ack = &accepted["payload"];
    assert_eq!(ack["acceptedAt"].as_i64().map(|at| at > 0), Some(true));
    assert_eq!(
        (&ack["runId"], &ack["status"], &ack["sessionKey"], &ack["agentId"]),
        (&json!("k1"), &json!("accepted"), &json!("agent:main:mesh:alice"), &json!("main"))
    );
    assert_eq!((reply(&done), &done["payload"]["status"]), ("echo: hello", &json!("ok")));
    assert_eq!(done["payload"]["summary"], "completed");
}

#[tokio::test]
async fn a_known_key_is_never_run_again() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let (mut first, mut second) = (gateway.owner().await, gateway.owner().await);
    let id = first.request("agent", agent("a", "k")).await;
    first.answer(&id).await;
    let held = turns.recv().await.unwrap();
    let again = second.ok("agent", agent("a", "k")).await;
    assert_eq!(
        again,
        json!({ "runId": "k", "status": "in_flight", "sessionKey": "agent:main:a", "agentId": "main" })
    );
    held.finish.send(Ok("the reply".into())).unwrap();
    let done = first.answer(&id).await;
    let cached = second.call("agent", json!({ "message": "other text", "idempotencyKey": "k" })).await;
    assert_eq!(cached["payload"], done["payload"], "the input is not compared");
    assert!(turns.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_run_is_answered_from_the_history_or_not_at_all() {
    let gateway = Fixture::start(Arc::new(Moody), |config| config.limits.rows_per_session = 3).await;
    let mut client = gateway.owner().await;
    client.turn("a", "one", "k1").await;
    client.turn("a", "fail", "k2").await;
    tokio::time::advance(Duration::from_secs(300)).await;
    // Reconnected: the old connection was not read for so long.
    let mut client = gateway.owner().await;
    let told = client.call("agent", agent("a", "k1")).await;
    assert_eq!((reply(&told), &told["payload"]["status"]), ("one", &json!("ok")));
    let error = client.error("agent", agent("a", "k2")).await;
    assert_eq!(
        (&error["code"], &error["details"]["reason"]),
        (&json!("INVALID_REQUEST"), &json!("run-over")),
        "never a second turn"
    );
    let (accepted, _) = client.turn("a", "more", "k3").await;
    assert_eq!(accepted["payload"]["status"], "accepted");
    let (again, _) = client.turn("a", "one", "k1").await;
    assert_eq!(again["payload"]["status"], "accepted", "its row is gone");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_chat_is_acknowledged_from_the_history() {
    let gateway = Fixture::start(Arc::new(Moody), |_| {}).await;
    let mut client = gateway.owner().await;
    let send = |message: &str| json!({ "sessionKey": "a", "message": message, "idempotencyKey": "k" });
    client.ok("chat.send", send("hi")).await;
    client.ok("agent.wait", json!({ "runId": "k" })).await;
    tokio::time::advance(Duration::from_secs(300)).await;
    let mut client = gateway.owner().await;
    assert_eq!(client.ok("chat.send", send("hi")).await, json!({ "runId": "k", "status": "ok" }));
    assert_eq!(client.error("chat.send", send("other")).await["details"]["reason"], "chat-request-conflict");
}

/// Any peer could send another's key and was given the reply.
#[tokio::test(start_paused = true)]
async fn a_key_belongs_to_the_device_that_used_it() {
    let gateway = Fixture::echo().await;
    let peer = |seed| Hello::token(TOKEN).device(seed);
    let conflict = async |method: &str| {
        let mut thief = gateway.client(&peer(2), LOCAL).await;
        let error = thief.error(method, agent("a", "k")).await;
        assert_eq!(error["code"], "INVALID_REQUEST");
        assert_eq!(error["details"]["reason"], "chat-request-conflict", "{method}");
    };
    let mut mine = gateway.client(&peer(1), LOCAL).await;
    mine.turn("a", "message k", "k").await;
    mine.ok("chat.send", agent("a", "k")).await;
    let row = mine.ok("chat.history", json!({ "sessionKey": "a" })).await["messages"][0].clone();
    assert_eq!(row["__openclaw"]["from"], device_id(1));
    conflict("agent").await;
    conflict("chat.send").await;
    tokio::time::advance(Duration::from_secs(300)).await;
    conflict("agent").await;
    conflict("chat.send").await;
    let mut mine = gateway.client(&peer(1), LOCAL).await;
    assert_eq!(reply(&mine.call("agent", agent("a", "k")).await), "echo: message k");
}

/// With all eight slots taken by one peer, the accepted run of another waited for the end of one of them.
#[tokio::test]
async fn one_device_leaves_slots_to_others() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let mut greedy = gateway.client(&Hello::token(TOKEN).device(1), LOCAL).await;
    for i in 0..20 {
        greedy.ok("agent", agent(&format!("s{i}"), &format!("k{i}"))).await;
    }
    let mut running = Vec::new();
    for _ in 0..6 {
        running.push(turns.recv().await.unwrap());
    }
    gateway.owner().await.ok("agent", agent("mine", "mine")).await;
    assert_eq!(turns.recv().await.unwrap().turn.run_id, "mine");
    assert!(turns.try_recv().is_err());
}

/// A reply larger than the default bound failed, and one larger than the write buffer ended the connection.
#[tokio::test]
async fn a_raised_reply_limit_holds_everywhere() {
    let gateway = Fixture::start(Arc::new(Moody), |config| {
        config.limits.reply_bytes = 20_000_000;
        (config.limits.buffered_bytes, config.limits.payload) = (100_000, 100_000);
        (config.limits.cached_bytes, config.limits.session_bytes) = (1_000_000, 1_000_000);
    })
    .await;
    let mut client = gateway.client(&Hello::token(TOKEN).scoped(), LOCAL).await;
    let (_, done) = client.turn("a", "9 MB", "k").await;
    assert_eq!(reply(&done).len(), 9_000_000);
    let again = client.call("agent", agent("a", "k")).await;
    assert_eq!(reply(&again).len(), 9_000_000, "remembered, too");
}

#[tokio::test]
async fn one_session_is_a_queue_and_sessions_run_side_by_side() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |config| config.limits.parallel_runs = 2).await;
    let mut client = gateway.owner().await;
    for (session, key) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1")] {
        client.ok("agent", agent(session, key)).await;
    }
    let (one, two) = (turns.recv().await.unwrap(), turns.recv().await.unwrap());
    let mut running = [one.turn.run_id.as_str(), two.turn.run_id.as_str()];
    running.sort_unstable();
    assert_eq!(running, ["a1", "b1"], "two slots, two sessions");
    let history = client.ok("chat.history", json!({ "sessionKey": "a" })).await;
    assert_eq!(
        history["pendingInputs"],
        json!({ "items": [{ "runId": "a2", "state": "queued" }], "total": 1 })
    );
    assert_eq!(history["sessionInfo"]["hasActiveRun"], true);
    assert_eq!(history["messages"].as_array().unwrap().len(), 1, "a queued run has no row yet");
    assert!(turns.try_recv().is_err(), "no third slot");

    let mut order = Vec::new();
    let mut held = std::collections::VecDeque::from([one, two]);
    while let Some(next) = held.pop_front() {
        order.push(next.turn.run_id.clone());
        next.finish.send(Ok("done".into())).unwrap();
        if order.len() + held.len() < 4 {
            held.push_back(turns.recv().await.unwrap());
        }
    }
    let place = |key: &str| order.iter().position(|run| run == key).unwrap();
    assert!(place("a1") < place("a2"), "{order:?}");
}

/// An agent that does what its message says.
struct Moody;

impl Agent for Moody {
    fn reply(&self, turn: Turn, _: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            match turn.message.as_str() {
                "fail" => Err(AgentFailure::failed("no luck")),
                "silence" => Ok(" \n".to_owned()),
                "panic" => panic!("the agent's own fault"),
                "9 MB" => Ok("x".repeat(9_000_000)),
                "huge" => Ok("x".repeat(2000)),
                "slow" => std::future::pending().await,
                other => Ok(other.to_owned()),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn every_bad_end_has_its_shape() {
    let gateway = Fixture::start(Arc::new(Moody), |config| config.limits.reply_bytes = 1000).await;
    let mut client = gateway.owner().await;

    let (_, failed) = client.turn("a", "fail", "1").await;
    assert_eq!(failed["ok"], false);
    assert_eq!(failed["error"], json!({ "code": "UNAVAILABLE", "message": "no luck" }));
    assert_eq!(failed["payload"], json!({ "runId": "1", "status": "error", "summary": "no luck" }));

    let (_, silent) = client.turn("a", "silence", "2").await;
    assert_eq!((&silent["ok"], &silent["payload"]["summary"]), (&json!(true), &json!("failed")));
    assert_eq!(silent["payload"]["result"]["payloads"][0]["isError"], true);

    let (_, crashed) = client.turn("a", "panic", "3").await;
    assert_eq!(crashed["error"]["message"], "the agent crashed");
    let (_, huge) = client.turn("a", "huge", "4").await;
    assert_eq!(huge["error"]["message"], "the reply is larger than 1000 bytes");

    let start = Instant::now();
    let params = json!({ "sessionKey": "a", "message": "slow", "idempotencyKey": "5", "timeout": 3 });
    let id = client.request("agent", params).await;
    client.answer(&id).await;
    let late = client.answer(&id).await;
    assert_eq!(
        (&late["payload"]["status"], &late["payload"]["timeoutPhase"]),
        (&json!("timeout"), &json!("provider"))
    );
    assert!(start.elapsed() < Duration::from_secs(6));

    let (_, fine) = client.turn("a", "fine", "6").await;
    assert_eq!(reply(&fine), "fine", "the session goes on");
}

#[tokio::test]
async fn an_abort_stops_queued_and_running_turns() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let mut client = gateway.owner().await;
    let mut ids = Vec::new();
    for key in ["1", "2"] {
        let id = client.request("agent", agent("a", key)).await;
        client.answer(&id).await;
        ids.push(id);
    }
    let held = turns.recv().await.unwrap();
    let abort = |run: &str| json!({ "sessionKey": "a", "runId": run });
    let request = client.request("chat.abort", abort("2")).await;
    let second = client.answer(&ids[1]).await;
    let aborted = json!({ "runId": "2", "status": "timeout", "summary": "aborted", "stopReason": "rpc" });
    assert_eq!((&second["ok"], &second["payload"]), (&json!(true), &aborted));
    assert_eq!(
        client.answer(&request).await["payload"],
        json!({ "ok": true, "aborted": true, "runIds": ["2"] })
    );

    let request = client.request("chat.abort", abort("1")).await;
    assert_eq!(client.answer(&request).await["payload"]["aborted"], true);
    held.turn.cancel.cancelled().await;
    drop(held.finish);
    assert_eq!(client.answer(&ids[0]).await["payload"]["stopReason"], "rpc");
    assert_eq!(client.ok("chat.abort", abort("1")).await["aborted"], false);
    let waited = client.ok("agent.wait", json!({ "runId": "1" })).await;
    assert_eq!((&waited["status"], &waited["stopReason"]), (&json!("error"), &json!("rpc")));
}

#[tokio::test(start_paused = true)]
async fn agent_wait_tells_the_end_and_not_more_than_it_knows() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let (mut client, mut watcher) = (gateway.owner().await, gateway.owner().await);
    client.ok("agent", agent("a", "k")).await;
    let held = turns.recv().await.unwrap();
    for run in ["k", "unknown"] {
        let start = Instant::now();
        let expired = watcher.ok("agent.wait", json!({ "runId": run, "timeoutMs": 5000 })).await;
        assert_eq!(expired, json!({ "runId": run, "status": "timeout" }));
        assert_eq!(start.elapsed().as_secs(), 5);
    }
    let id = watcher.request("agent.wait", json!({ "runId": "k" })).await;
    held.finish.send(Ok("x".repeat(5000))).unwrap();
    let over = watcher.answer(&id).await["payload"].clone();
    assert_eq!((&over["status"], &over["terminalReply"]["disposition"]), (&json!("ok"), &json!("visible")));
    assert!(
        over["endedAt"].is_i64() && over["terminalReply"]["text"].as_str().unwrap().ends_with('\u{2026}')
    );
}

#[tokio::test]
async fn agent_wait_tells_all_of_a_reply_that_nothing_else_tells_any_more() {
    let past = Remembered { run: "of last week", session: "agent:main:mesh:alice", reply: "x".repeat(5000) };
    let gateway = Fixture::start(Arc::new(EchoAgent::new()), |config| config.memory = Arc::new(past)).await;
    let over = gateway.owner().await.ok("agent.wait", json!({ "runId": "of last week" })).await;
    assert_eq!((&over["status"], &over["endedAt"]), (&json!("ok"), &json!(2)));
    assert_eq!(over["terminalReply"]["text"].as_str().unwrap().len(), 5000);
}

#[tokio::test]
async fn waiting_requests_of_one_connection_are_bounded() {
    let (puppet, _turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |config| config.limits.waiting_requests = 2).await;
    let mut client = gateway.owner().await;
    for _ in 0..2 {
        client.request("agent.wait", json!({ "runId": "x" })).await;
    }
    assert_eq!(client.error("agent.wait", json!({ "runId": "x" })).await["code"], "UNAVAILABLE");
}

#[tokio::test]
async fn the_agent_is_told_who_speaks() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let hello = Hello::token(TOKEN).device(1);
    let mut client = gateway.client(&hello, LOCAL).await;
    let provenance = json!({
        "kind": "inter_session", "sourceSessionKey": "mesh:alice", "sourceChannel": "agent-mesh",
        "sourceTool": "agent_mesh",
    });
    let mut params = agent("mesh:alice", "k");
    params["inputProvenance"] = provenance.clone();
    client.ok("agent", params).await;
    let turn = turns.recv().await.unwrap().turn;
    assert_eq!(turn.from.device_id, Some(device_id(1)));
    assert_eq!(turn.from.display_name.as_deref(), Some("test Some(1)"));
    assert_eq!(json!(turn.provenance), provenance);
    assert_eq!((turn.run_id.as_str(), turn.session_key.as_str()), ("k", "agent:main:mesh:alice"));
    let row = &client.ok("chat.history", json!({ "sessionKey": "mesh:alice" })).await["messages"][0];
    assert_eq!(row["provenance"], provenance);
}

#[tokio::test]
async fn the_agent_is_told_the_owner_from_a_peer() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let token = gateway.pair(1, &RW).await;
    let mut told = async |hello: Hello, from: &str| {
        gateway.client(&hello, from).await.ok("agent", agent("a", from)).await;
        let held = turns.recv().await.unwrap();
        held.finish.send(Ok("seen".into())).unwrap();
        (held.turn.from.principal.key().to_owned(), held.turn.permission_mode)
    };
    let key = format!("dev-{}", &device_id(1)[..12]);
    let peers = (key, Some("read-only".to_owned()));
    assert_eq!(told(Hello::token(TOKEN).device(2), LOCAL).await, ("owner".into(), None));
    assert_eq!(told(Hello::device_token(&token).device(1), BOB).await, peers);
    // A tunnel ends on loopback, too.
    let tunnel = "127.0.0.1:50001";
    assert_eq!(told(Hello::device_token(&token).device(1), tunnel).await, peers);
}

#[tokio::test]
async fn bad_parameters_are_refused_and_run_nothing() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let mut client = gateway.owner().await;
    let bad = [
        ("agent", json!({ "message": "", "idempotencyKey": "k" })),
        ("agent", json!({ "message": "x", "idempotencyKey": "" })),
        ("agent", json!({ "message": "x", "idempotencyKey": "a\u{0}b" })),
        ("agent", json!({ "message": "x" })),
        ("agent", json!({ "message": 1, "idempotencyKey": "k" })),
        ("agent", json!({ "message": "x", "idempotencyKey": "k", "sessionKey": "agent:nope:x" })),
        ("agent", json!({ "message": "x", "idempotencyKey": "k", "sessionKey": "agent::x" })),
        ("agent", json!({ "message": "x", "idempotencyKey": "k", "sessionKey": "x".repeat(513) })),
        ("agent", json!({ "message": "x", "idempotencyKey": "k", "agentId": "nope" })),
        ("agent", json!({ "message": "x", "idempotencyKey": "k", "attachments": [{}] })),
        (
            "agent",
            json!({
                "message": "x", "idempotencyKey": "k",
                "inputProvenance": { "kind": "inter_session", "sourceSessionKey": "x".repeat(257) },
            }),
        ),
        ("agent.wait", json!({ "runId": "x".repeat(513) })),
        ("chat.send", json!({ "sessionKey": "a", "message": " ", "idempotencyKey": "k" })),
        ("chat.send", json!({ "sessionKey": "a", "message": "a\u{0}b", "idempotencyKey": "k" })),
        ("chat.send", json!({ "sessionKey": "", "message": "x", "idempotencyKey": "k" })),
        ("agent.wait", json!({})),
        ("chat.history", json!([])),
    ];
    for (method, params) in bad {
        let error = client.error(method, params.clone()).await;
        assert_eq!(error["code"], "INVALID_REQUEST", "{method} {params}");
    }
    assert!(turns.try_recv().is_err());
}

#[tokio::test]
async fn a_second_answer_to_a_client_that_left_is_no_trouble() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let mut leaver = gateway.owner().await;
    leaver.ok("agent", agent("a", "k")).await;
    let held = turns.recv().await.unwrap();
    drop(leaver);
    held.finish.send(Ok("late".into())).unwrap();
    let mut client = gateway.owner().await;
    assert_eq!(client.ok("agent.wait", json!({ "runId": "k" })).await["status"], "ok");
    assert_eq!(reply(&client.call("agent", agent("a", "k")).await), "late");
}
