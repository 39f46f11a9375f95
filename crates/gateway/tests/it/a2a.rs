//! The port seen by an A2A client.

use std::sync::Arc;
use std::time::Duration;

use agent_mesh_gateway::{Access, Agent, Config, EchoAgent, Policy, TokenHash};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const ALICE: &str = "alice-own-token-0123456789";
const DAVE: &str = "dave-own-token-0123456789";

/// A gateway where Alice and Dave have tokens of their own; more of the policy is Alice's.
async fn door(agent: Arc<dyn Agent>, alices: &str, change: impl FnOnce(&mut Config)) -> Fixture {
    let policy = format!(
        "[peers.alice]\ntoken = \"{}\"\n{alices}\n[peers.dave]\ntoken = \"{}\"\n",
        TokenHash::of(ALICE),
        TokenHash::of(DAVE)
    );
    let access = Access { policy: Policy::parse(&policy).unwrap(), ..Access::default() };
    Fixture::start(agent, |config| {
        config.access = access;
        change(config);
    })
    .await
}

async fn echo() -> Fixture {
    door(Arc::new(EchoAgent::new()), "", |_| {}).await
}

/// A whole answer: status, head and body.
async fn http(gateway: &Fixture, from: &str, request: &str) -> (u16, String, String) {
    let mut stream = gateway.stream(from);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn post(token: &str, fields: &str, body: &str) -> String {
    format!(
        "POST /a2a/v1 HTTP/1.1\r\nHost: bob.test\r\nAuthorization: Bearer {token}\r\n{fields}\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

const JSON: &str = "Content-Type: application/json\r\n";

async fn rpc_with(gateway: &Fixture, token: &str, fields: &str, body: &str) -> Value {
    let (status, head, body) = http(gateway, BOB, &post(token, &format!("{JSON}{fields}"), body)).await;
    assert_eq!((status, head.contains("content-type: application/json")), (200, true), "{head} {body}");
    serde_json::from_str(&body).unwrap()
}

/// Calls a method; gives the whole answer.
async fn rpc(gateway: &Fixture, token: &str, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string();
    let answer = rpc_with(gateway, token, "", &body).await;
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)));
    answer
}

async fn result(gateway: &Fixture, token: &str, method: &str, params: Value) -> Value {
    let answer = rpc(gateway, token, method, params).await;
    assert!(answer["error"].is_null(), "{answer}");
    answer["result"].clone()
}

async fn error(gateway: &Fixture, token: &str, method: &str, params: Value) -> Value {
    let answer = rpc(gateway, token, method, params).await;
    assert!(answer["result"].is_null(), "{answer}");
    answer["error"].clone()
}

fn message(id: &str, text: &str) -> Value {
    json!({ "messageId": id, "role": "ROLE_USER", "parts": [{ "text": text }] })
}

fn in_context(context: &str, id: &str, text: &str) -> Value {
    let mut message = message(id, text);
    message["contextId"] = json!(context);
    message
}

fn state(task: &Value) -> &str {
    task["status"]["state"].as_str().unwrap()
}

#[tokio::test]
async fn the_card_is_for_everybody_and_leads_back_to_where_it_was_asked_for() {
    let gateway = echo().await;
    for path in ["/.well-known/agent-card.json", "/.well-known/agent.json"] {
        let get = format!("GET {path} HTTP/1.1\r\nHost: bob.test:1\r\nConnection: close\r\n\r\n");
        let (status, _, body) = http(&gateway, BOB, &get).await;
        let card: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200);
        assert_eq!(
            card["supportedInterfaces"],
            json!([{ "url": "http://bob.test:1/a2a/v1", "protocolBinding": "JSONRPC", "protocolVersion": "1.0" }])
        );
        assert_eq!(card["capabilities"]["streaming"], true);
    }
    let odd = "GET /.well-known/agent-card.json HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n";
    let (_, _, body) = http(&gateway, BOB, odd).await;
    assert!(body.contains(&format!("http://{}/a2a/v1", gateway.address)), "{body}");
    let public = |config: &mut Config| config.public_url = Some("https://bob.example/".to_owned());
    let gateway = door(Arc::new(EchoAgent::new()), "", public).await;
    let (_, _, body) = http(&gateway, BOB, odd).await;
    assert!(body.contains("\"https://bob.example/a2a/v1\""), "{body}");
}

#[tokio::test]
async fn nobody_without_a_token_of_his_own_is_heard() {
    let gateway = echo().await;
    let ask = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"GetTask\",\"params\":{\"id\":\"x\"}}";
    let none =
        format!("POST /a2a/v1 HTTP/1.1\r\nHost: h\r\n{JSON}Content-Length: 0\r\nConnection: close\r\n\r\n");
    let (status, head, _) = http(&gateway, BOB, &none).await;
    assert!(status == 401 && head.contains("www-authenticate: bearer"), "{head}");
    // The owner's token is no peer's.
    for _ in 0..10 {
        assert_eq!(http(&gateway, BOB, &post(TOKEN, JSON, ask)).await.0, 401);
    }
    assert_eq!(http(&gateway, BOB, &post("guess", JSON, ask)).await.0, 429, "locked out");
    assert_eq!(http(&gateway, BOB, &post(ALICE, JSON, ask)).await.0, 200, "but nobody else is");
}

#[tokio::test]
async fn a_message_becomes_a_task_with_the_reply_and_once_more_it_is_the_same_task() {
    let gateway = echo().await;
    let params = json!({ "message": in_context("Ctx-1", "m-1", "hello") });
    let first = result(&gateway, ALICE, "SendMessage", params.clone()).await["task"].clone();
    assert_eq!((state(&first), &first["contextId"]), ("TASK_STATE_COMPLETED", &json!("Ctx-1")));
    assert_eq!(first["artifacts"][0]["parts"], json!([{ "text": "echo: hello" }]));
    let again = result(&gateway, ALICE, "SendMessage", params).await["task"].clone();
    assert_eq!(again["id"], first["id"]);
    let got = result(&gateway, ALICE, "GetTask", json!({ "id": first["id"] })).await;
    assert_eq!(got, first);
    let others = error(&gateway, DAVE, "GetTask", json!({ "id": first["id"] })).await;
    assert_eq!(others["code"], -32001, "somebody else's task is none");
    let data = json!({ "messageId": "m-2", "role": "ROLE_USER", "parts": [{ "text": "a" }, { "data": { "b": 1 } }] });
    let task = result(&gateway, ALICE, "SendMessage", json!({ "message": data })).await["task"].clone();
    assert_eq!(task["artifacts"][0]["parts"][0]["text"], "echo: a\n{\"b\":1}");
}

#[tokio::test]
async fn a_context_is_a_session_of_its_peer_alone() {
    let (agent, mut turns) = Puppet::new();
    let gateway = door(agent, "", |_| {}).await;
    let mut sessions = Vec::new();
    for (token, context) in [(ALICE, "c"), (ALICE, "C"), (DAVE, "c")] {
        let params = json!({ "message": in_context(context, "m", "hi"), "configuration": { "returnImmediately": true } });
        result(&gateway, token, "SendMessage", params).await;
        let held = turns.recv().await.unwrap();
        sessions.push(held.turn.session_key.clone());
        held.finish.send(Ok("x".to_owned())).unwrap();
    }
    assert_eq!(
        sessions,
        ["agent:main:mesh:alice:a2a:c", "agent:main:mesh:alice:a2a:^c", "agent:main:mesh:dave:a2a:c"]
    );
}

#[tokio::test]
async fn a_task_is_looked_up_until_it_is_over_and_cancelled_for_real() {
    let (agent, mut turns) = Puppet::new();
    let gateway = door(agent, "", |_| {}).await;
    let at_once =
        |id: &str| json!({ "message": message(id, "hi"), "configuration": { "returnImmediately": true } });
    let task = result(&gateway, ALICE, "SendMessage", at_once("m-1")).await["task"].clone();
    let held = turns.recv().await.unwrap();
    let query = json!({ "id": task["id"] });
    assert_eq!(state(&result(&gateway, ALICE, "GetTask", query.clone()).await), "TASK_STATE_WORKING");
    assert_eq!(error(&gateway, DAVE, "CancelTask", query.clone()).await["code"], -32001);
    assert!(!held.turn.cancel.is_cancelled());

    let stop = async {
        held.turn.cancel.cancelled().await;
        held.finish.send(Err(agent_mesh_gateway::AgentFailure::Cancelled)).unwrap();
    };
    let (cancelled, ()) = tokio::join!(result(&gateway, ALICE, "CancelTask", query.clone()), stop);
    assert_eq!(state(&cancelled), "TASK_STATE_CANCELED");
    assert_eq!(error(&gateway, ALICE, "CancelTask", query).await["code"], -32002);

    let task = result(&gateway, ALICE, "SendMessage", at_once("m-2")).await["task"].clone();
    let held = turns.recv().await.unwrap();
    held.finish.send(Err(agent_mesh_gateway::AgentFailure::failed("no luck"))).unwrap();
    // The same message waits for the run's end; and finds it again.
    for _ in 0..2 {
        let params = json!({ "message": message("m-2", "hi") });
        let failed = result(&gateway, ALICE, "SendMessage", params).await["task"].clone();
        assert_eq!((state(&failed), &failed["id"]), ("TASK_STATE_FAILED", &task["id"]));
        assert_eq!(failed["status"]["message"]["parts"][0]["text"], "no luck");
    }
}

#[tokio::test]
async fn a_refusal_is_told_also_where_the_run_is_over() {
    let (agent, mut turns) = Puppet::new();
    let gateway = door(agent, "requests-per-minute = 2", |_| {}).await;
    let params = json!({ "message": message("m", "hi") });
    let play = async {
        let held = turns.recv().await.unwrap();
        held.finish.send(Err(agent_mesh_gateway::AgentFailure::failed("no luck"))).unwrap();
    };
    let (failed, ()) = tokio::join!(result(&gateway, ALICE, "SendMessage", params.clone()), play);
    assert_eq!(state(&failed["task"]), "TASK_STATE_FAILED");
    assert_eq!(result(&gateway, ALICE, "SendMessage", params.clone()).await, failed, "it is found again");
    let error = error(&gateway, ALICE, "SendMessage", params).await;
    assert_eq!(error["data"][0]["metadata"]["rule"], "requests-per-minute", "{error}");
}

/// The events of a stream.
async fn stream(gateway: &Fixture, token: &str, method: &str, params: Value) -> Vec<Value> {
    let body = json!({ "jsonrpc": "2.0", "id": "s", "method": method, "params": params }).to_string();
    let (status, head, body) = http(gateway, BOB, &post(token, JSON, &body)).await;
    assert!(status == 200 && head.contains("content-type: text/event-stream"), "{head} {body}");
    // Chunked: the sizes stand on lines of their own.
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str::<Value>(data).unwrap()["result"].clone()).collect()
}

#[tokio::test]
async fn a_stream_tells_the_task_its_pieces_and_its_end() {
    let (agent, mut turns) = Puppet::new();
    let gateway = door(agent, "", |config| config.timing.delta = Duration::ZERO).await;
    let params = json!({ "message": in_context("c", "m-1", "hi") });
    let play = async {
        let held = turns.recv().await.unwrap();
        held.deltas.push("hel").await;
        held.deltas.push("lo").await;
        held.finish.send(Ok("hello!".to_owned())).unwrap();
    };
    let (events, ()) = tokio::join!(stream(&gateway, ALICE, "SendStreamingMessage", params.clone()), play);
    assert_eq!(events[0]["task"]["contextId"], "c");
    let pieces: Vec<_> = events.iter().filter_map(|event| event.get("artifactUpdate")).collect();
    let text: String =
        pieces.iter().map(|piece| piece["artifact"]["parts"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, "hello!", "{events:?}");
    assert!(pieces[0]["append"].is_null() && pieces.last().unwrap()["lastChunk"] == true, "{pieces:?}");
    assert!(pieces[1..].iter().all(|piece| piece["append"] == true), "{pieces:?}");
    let last = &events.last().unwrap()["statusUpdate"];
    assert_eq!((state(last), &last["taskId"]), ("TASK_STATE_COMPLETED", &events[0]["task"]["id"]));

    let again = stream(&gateway, ALICE, "SendStreamingMessage", params).await;
    assert_eq!(
        (again.len(), state(&again[0]["task"])),
        (1, "TASK_STATE_COMPLETED"),
        "it is over: told at once"
    );
    let query = json!({ "id": events[0]["task"]["id"] });
    assert_eq!(error(&gateway, ALICE, "SubscribeToTask", query).await["code"], -32004);
}

#[tokio::test]
async fn a_stream_can_be_taken_up_again_and_shows_no_pieces_where_the_policy_says_so() {
    let (agent, mut turns) = Puppet::new();
    let gateway = door(agent, "stream = false", |config| config.timing.delta = Duration::ZERO).await;
    let params = json!({ "message": message("m-1", "hi"), "configuration": { "returnImmediately": true } });
    let task = result(&gateway, ALICE, "SendMessage", params).await["task"].clone();
    let held = turns.recv().await.unwrap();
    let play = async {
        held.deltas.push("secret draft").await;
        held.finish.send(Ok("final".to_owned())).unwrap();
    };
    let query = json!({ "id": task["id"] });
    let (events, ()) = tokio::join!(stream(&gateway, ALICE, "SubscribeToTask", query), play);
    let kinds: Vec<_> =
        events.iter().map(|event| event.as_object().unwrap().keys().next().unwrap().clone()).collect();
    assert_eq!(kinds.last().unwrap(), "statusUpdate");
    assert!(!format!("{events:?}").contains("secret draft"), "{events:?}");
}

#[tokio::test]
async fn what_is_no_request_of_ours_is_refused_in_the_words_of_the_protocol() {
    let gateway = echo().await;
    let call = |method: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": method }).to_string();
    for (body, code) in [
        ("{".to_owned(), -32700),
        ("\u{0}".to_owned(), -32700),
        ("[]".to_owned(), -32600),
        ("7".to_owned(), -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"GetTask"}"#.to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","method":"GetTask","params":{"id":"x"}}"#.to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"GetTask"}"#.to_owned(), -32600),
        (call("no/such/method"), -32601),
        (call("message/send"), -32601),
        (call("GetTask"), -32602),
        (call("SendMessage"), -32602),
        (call("ListTasks"), -32004),
        (call("GetExtendedAgentCard"), -32007),
        (call("CreateTaskPushNotificationConfig"), -32003),
    ] {
        let answer = rpc_with(&gateway, ALICE, "", &body).await;
        assert_eq!(answer["error"]["code"], code, "{body}: {answer}");
    }
    for (message, code) in [
        (json!({ "role": "ROLE_USER", "parts": [{ "text": " " }] }), -32602),
        (json!({ "role": "ROLE_USER", "parts": [] }), -32602),
        (json!({ "role": "ROLE_USER", "parts": [{ "url": "https://x.test/f" }] }), -32005),
        (json!({ "role": "ROLE_USER", "parts": [{ "text": "a" }, { "raw": "YQ==" }] }), -32005),
        (json!({ "role": "ROLE_USER", "parts": [{ "text": "a" }], "contextId": "../x" }), -32602),
        (json!({ "role": "ROLE_USER", "parts": [{ "text": "a" }], "taskId": "t" }), -32004),
    ] {
        let error = error(&gateway, ALICE, "SendMessage", json!({ "message": message })).await;
        assert_eq!(error["code"], code, "{message}: {error}");
    }
    let body = call("ListTasks");
    for (version, code) in [("0.3", -32009), ("2.0", -32009), ("1.0", -32004), ("1.1", -32004), ("", -32004)]
    {
        let answer = rpc_with(&gateway, ALICE, &format!("A2A-Version: {version}\r\n"), &body).await;
        assert_eq!(answer["error"]["code"], code, "{version}");
    }
}

#[tokio::test]
async fn http_has_its_limits() {
    let gateway = door(Arc::new(EchoAgent::new()), "", |config| {
        config.timing.header = Duration::from_millis(200);
    })
    .await;
    let get = format!(
        "GET /a2a/v1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ALICE}\r\nConnection: close\r\n\r\n"
    );
    let (status, head, _) = http(&gateway, BOB, &get).await;
    assert!(status == 405 && head.contains("allow: post"), "{head}");
    let posted = "POST /.well-known/agent-card.json HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(http(&gateway, BOB, posted).await.0, 405);
    assert_eq!(http(&gateway, BOB, &post(ALICE, "Content-Type: text/plain\r\n", "{}")).await.0, 415);
    let large = "x".repeat(1024 * 1024 + 1);
    assert_eq!(http(&gateway, BOB, &post(ALICE, JSON, &large)).await.0, 413);
    // One byte of a body that was announced, and then nothing.
    let slow = format!(
        "POST /a2a/v1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ALICE}\r\n{JSON}Content-Length: 100\r\n\
         Connection: close\r\n\r\n{{"
    );
    assert_eq!(http(&gateway, BOB, &slow).await.0, 408);
}

#[tokio::test]
async fn the_policy_holds_here_too_and_says_which_rule() {
    for (policy, id, text, rule) in [
        ("mode = \"deny\"", "m", "hi", "mode"),
        ("message-bytes = 4", "m", "hello", "message-bytes"),
        ("runs-per-day = 0", "m", "hi", "runs-per-day"),
        ("requests-per-minute = 0", "m", "hi", "requests-per-minute"),
        ("sessions = [\"main\"]", "m", "hi", "sessions"),
    ] {
        let gateway = door(Arc::new(EchoAgent::new()), policy, |_| {}).await;
        let error = error(&gateway, ALICE, "SendMessage", json!({ "message": message(id, text) })).await;
        assert_eq!(error["code"], -32000, "{policy}: {error}");
        let info = &error["data"][0];
        assert_eq!((&info["reason"], &info["metadata"]["rule"]), (&json!("POLICY_DENIED"), &json!(rule)));
        let get = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let (_, _, page) = http(&gateway, LOCAL, get).await;
        assert!(page.contains(&format!("agent_mesh_denied_total{{rule=\"{rule}\"}} 1\n")), "{rule}: {page}");
    }
}

#[tokio::test]
async fn a_message_that_waits_for_the_owner_is_a_task_that_waits() {
    let gateway = door(Arc::new(EchoAgent::new()), "mode = \"approve\"", |_| {}).await;
    let params = json!({ "message": message("m", "hi"), "configuration": { "returnImmediately": true } });
    let task = result(&gateway, ALICE, "SendMessage", params).await["task"].clone();
    assert_eq!(state(&task), "TASK_STATE_SUBMITTED");
    let words = task["status"]["message"]["parts"][0]["text"].as_str().unwrap();
    assert!(words.contains("owner"), "{words}");
    let mut owner = gateway.owner().await;
    let held = owner.ok("mesh.inbox.list", json!({})).await;
    let id = held["held"][0]["id"].clone();
    owner.ok("mesh.inbox.approve", json!({ "id": id })).await;
    // The same message waits for the end.
    let done = result(&gateway, ALICE, "SendMessage", json!({ "message": message("m", "hi") })).await["task"]
        .clone();
    assert_eq!((state(&done), &done["id"]), ("TASK_STATE_COMPLETED", &task["id"]));
}

#[tokio::test]
async fn a_task_survives_a_restart() {
    let past =
        Remembered { run: "t-1", session: "agent:main:mesh:alice:a2a:c", reply: "from yesterday".to_owned() };
    let gateway = door(Arc::new(EchoAgent::new()), "", |config| config.memory = Arc::new(past)).await;
    let query = json!({ "id": "t-1" });
    let task = result(&gateway, ALICE, "GetTask", query.clone()).await;
    assert_eq!((state(&task), &task["contextId"]), ("TASK_STATE_COMPLETED", &json!("c")));
    assert_eq!(task["artifacts"][0]["parts"][0]["text"], "from yesterday");
    assert_eq!(error(&gateway, DAVE, "GetTask", query.clone()).await["code"], -32001);
    assert_eq!(error(&gateway, ALICE, "CancelTask", query).await["code"], -32002);
    assert_eq!(error(&gateway, ALICE, "GetTask", json!({ "id": "t-2" })).await["code"], -32001);
}
