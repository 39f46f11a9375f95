//! Which answer belongs to which request, whatever else comes along.

use agent_mesh_testkit::{FakeGateway, Gate, Noise, Reply, Script};
use openclaw_client::protocol::event::ChatEvent;
use openclaw_client::protocol::methods::agent::{Agent, Outcome};
use openclaw_client::protocol::methods::info::{AgentsList, GatewayIdentityGet, Health};
use openclaw_client::protocol::methods::sessions::MessagesSubscribe;
use openclaw_client::{CallError, ConnectError};
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::caller::{ask, connect, turn, within};

fn reply(text: &str) -> Outcome {
    Outcome::Reply(text.to_owned())
}

#[tokio::test(start_paused = true)]
async fn every_ending_of_a_run() {
    let script = Script::new().reply(|turn| match turn.message.as_str() {
        "provider" => Reply::provider_error("HTTP 400"),
        "empty" => Reply::empty(),
        "timeout" => Reply::timeout(),
        "aborted" => Reply::aborted(),
        "nothing" => Reply::texts(Vec::<String>::new()),
        _ => Reply::texts(["one", "two"]),
    });
    let gateway = FakeGateway::in_memory(script);
    let client = connect(&gateway, within(5)).await.unwrap();
    for (message, expected) in [
        ("texts", reply("one\n\ntwo")),
        ("provider", Outcome::Failed("HTTP 400".into())),
        ("empty", Outcome::NoReply),
        ("nothing", Outcome::NoReply),
        ("timeout", Outcome::RunTimeout),
        ("aborted", Outcome::Aborted),
    ] {
        assert_eq!(ask(&client, message, message, within(5)).await.unwrap(), expected, "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_another_run_is_no_answer() {
    let others = json!({ "runId": "other", "status": "ok", "result": { "payloads": [{ "text": "wrong" }] } });
    let gateway = FakeGateway::in_memory(Script::new().reply(move |_| Reply::raw(others.clone())));
    let client = connect(&gateway, within(5)).await.unwrap();
    let ended = ask(&client, "mine", "hello", within(5)).await;
    assert!(matches!(ended, Err(CallError::Decode(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_in_another_order_find_their_requests() {
    let gates: Vec<Gate> = (0..20).map(|_| Gate::new()).collect();
    let held = gates.clone();
    let script = Script::new().reply(move |turn| {
        let n: usize = turn.message.parse().unwrap();
        Reply::text(format!("answer {n}")).when(&held[n])
    });
    let gateway = FakeGateway::in_memory(script);
    let client = connect(&gateway, within(5)).await.unwrap();
    let mut runs = Vec::new();
    for n in 0..gates.len() {
        runs.push(client.start(&turn(&format!("key-{n}"), &n.to_string()), within(5)).await.unwrap());
    }
    // Requests in between are answered while all runs wait.
    assert!(client.call(&Health {}, within(5)).await.unwrap().ok);
    let order = Order::default();
    let waiting: Vec<_> = runs
        .into_iter()
        .enumerate()
        .map(|(n, run)| {
            let order = order.clone();
            tokio::spawn(async move {
                let outcome = run.finished(within(60)).await.unwrap();
                order.lock().unwrap().push(n);
                outcome
            })
        })
        .collect();
    for n in (0..gates.len()).rev() {
        gates[n].open();
        // Virtual time: everyone else runs until they wait again.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (n, outcome) in waiting.into_iter().enumerate() {
        assert_eq!(outcome.await.unwrap(), reply(&format!("answer {n}")));
    }
    assert_eq!(*order.lock().unwrap(), (0..gates.len()).rev().collect::<Vec<_>>());
}

type Order = std::sync::Arc<std::sync::Mutex<Vec<usize>>>;

#[tokio::test(start_paused = true)]
async fn two_handles_share_one_connection() {
    let gateway = FakeGateway::in_memory(Script::new());
    let client = connect(&gateway, within(5)).await.unwrap();
    let other = client.clone();
    let (deadline, mine, theirs) = (within(5), turn("a", "a"), turn("b", "b"));
    let (first, second) = tokio::join!(client.start(&mine, deadline), other.start(&theirs, deadline));
    drop(client);
    assert_eq!(first.unwrap().finished(deadline).await.unwrap(), reply("echo: a"));
    assert_eq!(second.unwrap().finished(deadline).await.unwrap(), reply("echo: b"));
    assert_eq!(gateway.connections(), 1);
    drop(other);
    gateway.until(|gateway| gateway.open_connections() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_noise_is_survived() {
    for noise in [
        Noise::UnknownId,
        Noise::Events(50),
        Noise::Text("{\"type\":".into()),
        Noise::Text(String::new()),
        Noise::Text("[1,2]".into()),
        Noise::Text("null".into()),
        Noise::Text(r#"{"type":"future","x":1}"#.into()),
        Noise::Text(r#"{"type":"req","id":"1","method":"agent"}"#.into()),
        Noise::Text(r#"{"type":"res"}"#.into()),
        Noise::Text(r#"{"type":"res","id":"invalid","ok":false,"error":{"code":"X","message":"y"}}"#.into()),
        Noise::Text(format!("{}{}", "[".repeat(5_000), "]".repeat(5_000))),
        Noise::Binary(vec![0xde, 0xad, 0xbe, 0xef]),
        Noise::Binary(Vec::new()),
        Noise::Ping,
        Noise::BigEvent(20),
        Noise::Duplicate,
    ] {
        let shown: String = format!("{noise:?}").chars().take(60).collect();
        let gateway = FakeGateway::in_memory(Script::new().noise(noise));
        let client = connect(&gateway, within(5)).await.unwrap();
        for n in 0..2 {
            let key = format!("key-{n}");
            let outcome = ask(&client, &key, &key, within(5)).await;
            assert_eq!(outcome.unwrap(), reply(&format!("echo: {key}")), "{shown}");
            assert!(client.call(&Health {}, within(5)).await.unwrap().ok, "{shown}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fragments_of_any_size_are_put_together() {
    for size in [1, 7, 125, 65_536] {
        let gateway =
            FakeGateway::in_memory(Script::new().fragments(size).reply(|_| Reply::text("grüße, 世界 🦞")));
        let client = connect(&gateway, within(5)).await.unwrap();
        assert_eq!(ask(&client, "k", "hi", within(5)).await.unwrap(), reply("grüße, 世界 🦞"), "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_20_mib_arrives_and_one_over_the_limit_is_an_error() {
    let gateway = FakeGateway::in_memory(Script::new().reply(|turn| {
        let mib: usize = turn.message.parse().unwrap();
        Reply::text("x".repeat(mib << 20))
    }));
    let client = connect(&gateway, within(5)).await.unwrap();
    match ask(&client, "20", "20", within(60)).await.unwrap() {
        Outcome::Reply(text) => assert_eq!(text.len(), 20 << 20),
        other => panic!("{other:?}"),
    }
    let error = ask(&client, "26", "26", within(60)).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_over_the_gateways_limit_is_not_sent() {
    let gateway = FakeGateway::in_memory(Script::new().max_payload(10_000));
    let client = connect(&gateway, within(5)).await.unwrap();
    let error = ask(&client, "k", &"x".repeat(10_000), within(5)).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { limit: 10_000, .. }), "{error:?}");
    assert!(gateway.requests("agent").is_empty());
    assert!(client.call(&Health {}, within(5)).await.unwrap().ok, "the connection is none the worse");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_says_why() {
    let refusal =
        json!({"code": "UNAVAILABLE", "message": "draining", "retryable": true, "retryAfterMs": 1000});
    let gateway = FakeGateway::in_memory(Script::new().reply(move |_| Reply::refused(refusal.clone())));
    let client = connect(&gateway, within(5)).await.unwrap();
    match client.start(&turn("k", "hi"), within(5)).await.err() {
        Some(CallError::Refused(error)) => assert_eq!(error.retry_after_ms, Some(1000)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_shape_is_an_error_not_a_reply() {
    let gateway = FakeGateway::in_memory(Script::new().reply(|_| Reply::raw(json!(["odd"]))));
    let client = connect(&gateway, within(5)).await.unwrap();
    let error = ask(&client, "k", "hi", within(5)).await.unwrap_err();
    assert!(matches!(error, CallError::Decode(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_runs_already_gets_no_second_answer_and_one_that_ended_gets_it_at_once() {
    let gate = Gate::new();
    let held = gate.clone();
    let gateway = FakeGateway::in_memory(Script::new().reply(move |_| Reply::text("done").when(&held)));
    let first = connect(&gateway, within(5)).await.unwrap();
    let run = first.start(&turn("k", "hi"), within(5)).await.unwrap();
    assert!(!run.is_in_flight());
    let second = connect(&gateway, within(5)).await.unwrap();
    let again = second.start(&turn("k", "hi"), within(5)).await.unwrap();
    assert!(again.is_in_flight());
    gate.open();
    assert_eq!(run.finished(within(5)).await.unwrap(), reply("done"));
    let error = again.finished(within(5)).await.unwrap_err();
    assert!(matches!(error, CallError::Deadline), "{error:?}");
    let started = Instant::now();
    assert_eq!(ask(&second, "k", "hi", within(5)).await.unwrap(), reply("done"));
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(gateway.ledger().runs_of_key("k"), 1);
}

#[tokio::test(start_paused = true)]
async fn live_text_of_a_subscribed_session() {
    for script in [Script::new(), Script::new().final_event_after_response()] {
        let gateway =
            FakeGateway::in_memory(script.reply(|_| Reply::text("one two").deltas(["one", " two"])));
        let client = connect(&gateway, within(5)).await.unwrap();
        let mut events = client.events();
        client.tell(&MessagesSubscribe { key: "agent:main:mesh:k".into() }).unwrap();
        assert_eq!(ask(&client, "k", "hi", within(5)).await.unwrap(), reply("one two"));
        let mut texts = Vec::new();
        while texts.len() < 3 {
            let event = events.next().await.unwrap();
            if &*event.name == "chat" {
                let chat: ChatEvent = event.read().unwrap();
                assert_eq!(chat.run_id, "k");
                texts.push(chat.delta_text.unwrap_or_default());
            }
        }
        assert_eq!(texts, ["one", " two", ""], "two deltas and the final");
        client.close().await;
        assert!(events.next().await.is_none(), "the connection ended");
    }
}

#[tokio::test(start_paused = true)]
async fn the_smaller_methods() {
    let gateway = FakeGateway::in_memory(Script::new());
    let client = connect(&gateway, within(5)).await.unwrap();
    assert_eq!(client.call(&AgentsList {}, within(5)).await.unwrap().default_id, "main");
    assert_eq!(client.call(&GatewayIdentityGet {}, within(5)).await.unwrap().device_id.len(), 64);
    let empty = Agent { idempotency_key: "k".into(), ..Agent::default() };
    let refused = client.start(&empty, within(5)).await.err();
    assert!(matches!(refused, Some(CallError::Refused(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn noise_around_hello_does_not_matter_to_a_deadline_that_passed() {
    let gateway = FakeGateway::in_memory(Script::new());
    let error = connect(&gateway, Instant::now()).await.err();
    assert!(matches!(error, None | Some(ConnectError::Deadline(_))), "{error:?}");
}
