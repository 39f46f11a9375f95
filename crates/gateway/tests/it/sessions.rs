//! `chat.*`, `sessions.*` and what the gateway says of itself.

use serde_json::{Value, json};

use crate::support::*;

fn send(session: &str, message: &str, key: &str) -> Value {
    json!({ "sessionKey": session, "message": message, "idempotencyKey": key })
}

#[tokio::test]
async fn chat_send_queues_answers_by_events_and_remembers() {
    let (puppet, mut turns) = Puppet::new();
    let gateway = Fixture::start(puppet, |_| {}).await;
    let mut client = gateway.owner().await;
    assert_eq!(
        client.ok("chat.send", send("a", "/stop", "1")).await,
        json!({ "runId": "1", "status": "started" })
    );
    let first = turns.recv().await.unwrap();
    assert_eq!(first.turn.message, "/stop", "a slash is text");
    assert_eq!(client.ok("chat.send", send("a", "/stop", "1")).await["status"], "in_flight");
    client.ok("chat.send", send("a", "second", "2")).await;
    for other in [send("a", "other", "1"), send("b", "/stop", "1")] {
        let error = client.error("chat.send", other).await;
        assert_eq!(error["details"]["reason"], "chat-request-conflict");
    }

    first.finish.send(Ok("one".into())).unwrap();
    let second = turns.recv().await.unwrap();
    assert_eq!(second.turn.run_id, "2", "runs never merge");
    second.finish.send(Ok("two".into())).unwrap();
    let mut finals = Vec::new();
    while finals.len() < 2 {
        let event = client.event("chat").await["payload"].clone();
        if event["state"] == "final" {
            finals.push((event["runId"].clone(), event["message"]["content"][0]["text"].clone()));
        }
    }
    assert_eq!(finals, [(json!("1"), json!("one")), (json!("2"), json!("two"))]);
    assert_eq!(
        client.ok("chat.send", send("a", "/stop", "1")).await,
        json!({ "runId": "1", "status": "ok" })
    );
}

#[tokio::test]
async fn history_has_rows_that_name_their_run() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.owner().await;
    client.turn("mesh:alice", "hello", "k1").await;
    client.turn("mesh:alice", "again", "k2").await;
    let history = client.ok("chat.history", json!({ "sessionKey": "MESH:alice" })).await;
    assert_eq!(
        (&history["sessionKey"], &history["totalMessages"]),
        (&json!("agent:main:mesh:alice"), &json!(4))
    );
    let (user, assistant) = (&history["messages"][0], &history["messages"][1]);
    assert_eq!(
        (&user["role"], &user["content"], &user["idempotencyKey"]),
        (&json!("user"), &json!("hello"), &json!("k1:user"))
    );
    assert_eq!(assistant["content"], json!([{ "type": "text", "text": "echo: hello" }]));
    assert_eq!((&assistant["stopReason"], &assistant["__openclaw"]["runId"]), (&json!("stop"), &json!("k1")));
    assert_eq!((&user["__openclaw"]["seq"], &assistant["__openclaw"]["seq"]), (&json!(1), &json!(2)));
    assert!(assistant["timestamp"].is_i64() && assistant["__openclaw"]["id"].is_string());

    let newest = client.ok("chat.history", json!({ "sessionKey": "mesh:alice", "limit": 1 })).await;
    assert_eq!((&newest["messages"][0]["__openclaw"]["seq"], &newest["hasMore"]), (&json!(4), &json!(true)));
    let unknown = client.ok("chat.history", json!({ "sessionKey": "never" })).await;
    assert_eq!((&unknown["messages"], &unknown["pendingInputs"]["total"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn sessions_are_listed_newest_first() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.owner().await;
    for session in ["a", "b", "c"] {
        client.turn(session, "x", session).await;
    }
    let page = client.ok("sessions.list", json!({ "limit": 2 })).await;
    assert_eq!(
        (&page["totalCount"], &page["hasMore"], &page["nextOffset"]),
        (&json!(3), &json!(true), &json!(2))
    );
    assert_eq!(page["sessions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn it_says_what_it_is() {
    let gateway = Fixture::start(std::sync::Arc::new(agent_mesh_gateway::EchoAgent::new()), |config| {
        config.agent_name = "bob".into();
        config.version = "9.9.9".into();
    })
    .await;
    let mut client = gateway.dial(LOCAL).await;
    let hello = client.connect(&Hello::token(TOKEN).scopes(&["operator.read"])).await["payload"].clone();
    assert_eq!((&hello["type"], &hello["server"]["version"]), (&json!("hello-ok"), &json!("9.9.9")));
    assert_eq!(hello["snapshot"]["presence"].as_array().unwrap().len(), 1);
    assert_eq!(client.ok("gateway.identity.get", json!({})).await["deviceId"], "d".repeat(64));
    let agents = client.ok("agents.list", json!({})).await;
    assert_eq!((&agents["defaultId"], &agents["agents"][0]["name"]), (&json!("main"), &json!("bob")));
    assert_eq!(client.ok("agent.identity.get", json!({})).await["name"], "bob");
    assert_eq!(client.ok("status", json!({})).await["runtimeVersion"], "9.9.9");
    assert_eq!(client.ok("system-presence", json!({})).await[0]["mode"], "gateway");
    assert_eq!(client.ok("health", json!({})).await["defaultAgentId"], "main");

    // The hello lists exactly what is there: nothing listed is unknown.
    let mut admin = gateway.client(&Hello::token(TOKEN).scopes(&["operator.admin"]), LOCAL).await;
    for method in hello["features"]["methods"].as_array().unwrap() {
        let method = method.as_str().unwrap();
        let params = if method == "agent.wait" { json!({ "runId": "x", "timeoutMs": 0 }) } else { json!({}) };
        let answer = admin.call(method, params).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.starts_with("unknown method"), "{method}");
    }
}

#[tokio::test]
async fn each_method_needs_its_scope() {
    let gateway = Fixture::echo().await;
    let missing = async |scopes: &[&str], method: &str| {
        let mut client = gateway.client(&Hello::token(TOKEN).scopes(scopes), LOCAL).await;
        client.call(method, json!({})).await["error"]["details"]["missingScope"].clone()
    };
    for method in ["agent", "agent.wait", "chat.send", "chat.abort"] {
        assert_eq!(
            missing(&["operator.read", "operator.pairing"], method).await,
            "operator.write",
            "{method}"
        );
    }
    for method in ["status", "agents.list", "chat.history", "sessions.list", "gateway.identity.get"] {
        assert_eq!(missing(&["operator.pairing"], method).await, "operator.read", "{method}");
        assert_eq!(missing(&["operator.write"], method).await, Value::Null, "{method}: write implies read");
    }
    for method in ["list", "approve", "reject", "remove"] {
        let method = format!("device.pair.{method}");
        assert_eq!(missing(&RW, &method).await, "operator.pairing", "{method}");
    }
    assert_eq!(missing(&[], "health").await, Value::Null);
}
