//! One busy session, several messages in it.

use std::time::Duration;

use agent_mesh_testkit::{Cut, FakeGateway, Fault, Gate, How, Reply, Script};
use serde_json::Value;
use tokio::process::Child;

use crate::all::all;
use crate::home::{Home, Ran, ended};

const SESSION: &str = "standup";
const FIRST: &str = "0197d3f0-8c5e-7cc1-b1a4-0c8f5d4e2a01";
const SECOND: &str = "0197d3f0-8c5e-7cc1-b1a4-0c8f5d4e2a02";

fn send<'a>(id: &'a str, text: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["send", "--to", "bob", "--session", SESSION, "--no-header", "--id", id, "--message", text];
    [&args[..], &["--timeout", "5s"], more].concat()
}

/// The end of a send, and of a `wait` for what came too late for it: the scripted gateway lets connections in while it is
/// being killed, and who met it then, in its old process, asks that one for a while.
async fn seen_through(home: &Home, child: Child, args: &[&str], id: &str) -> Ran {
    let sent = ended(child, args).await.unwrap();
    if sent.document["state"] == "accepted" { home.run(&["wait", id]).await } else { sent }
}

/// An agent that answers when the gate opens, at a gateway that goes on soon after a crash.
fn slow(gate: &Gate) -> Script {
    let gate = gate.clone();
    Script::new()
        .recovers_after(Duration::from_millis(50))
        .reply(move |turn| Reply::text(format!("re: {}", turn.message)).when(&gate))
}

async fn accepted(gateway: &FakeGateway, count: usize) {
    gateway.until(|g| g.requests("agent").len() == count).await;
}

fn reply(document: &Value) -> &str {
    document["reply"]["text"].as_str().unwrap_or_default()
}

/// `chat.send`, and the bash skill with it, gets this wrong.
#[tokio::test]
async fn two_senders_to_one_busy_peer_each_get_their_own_answer() {
    let gate = Gate::new();
    let gateway = FakeGateway::start(slow(&gate)).await;
    let (alice, carol) = (Home::of("alice", &gateway.url()), Home::of("carol", &gateway.url()));
    let (first, second) = (send(FIRST, "from alice", &[]), send(SECOND, "from carol", &[]));
    let sent_first = alice.spawn(&first);
    accepted(&gateway, 1).await;
    let sent_second = carol.spawn(&second);
    accepted(&gateway, 2).await;
    gate.open();
    let (a, b) = (ended(sent_first, &first).await.unwrap(), ended(sent_second, &second).await.unwrap());
    assert_eq!((reply(&a.document), reply(&b.document)), ("re: from alice", "re: from carol"));
    assert_eq!((gateway.ledger().total(), gateway.ledger().repeated().len()), (2, 0));
}

/// The queued one is never run by a gateway that was killed, and its key is refused: it takes a new attempt. The active
/// one is brought to its end by the gateway itself, and must not be sent again.
#[tokio::test]
async fn ten_times_the_gateway_is_killed_with_one_run_active_and_one_queued() {
    for round in 0..10 {
        let gate = Gate::new();
        let gateway = FakeGateway::start(slow(&gate)).await;
        let (alice, carol) = (Home::of("alice", &gateway.url()), Home::of("carol", &gateway.url()));
        let (first, second) = (send(FIRST, "from alice", &[]), send(SECOND, "from carol", &[]));
        let sent_first = alice.spawn(&first);
        gateway.until(|g| g.ledger().total() == 1).await;
        let sent_second = carol.spawn(&second);
        accepted(&gateway, 2).await;
        gateway.kill().await;
        gate.open();
        let a = seen_through(&alice, sent_first, &first, FIRST).await;
        let b = seen_through(&carol, sent_second, &second, SECOND).await;
        let replies = (reply(&a.document), reply(&b.document));
        assert_eq!(replies, ("re: from alice", "re: from carol"), "round {round}: {a:#?} {b:#?}");
        let ledger = gateway.ledger();
        assert_eq!(
            (ledger.runs_of_text("from alice"), ledger.runs_of_text("from carol")),
            (1, 1),
            "round {round}"
        );
    }
}

/// Each shell looks, sees that the message never runs, and sends it again: both must choose the same key.
#[tokio::test]
async fn two_shells_that_wait_for_one_interrupted_message_send_it_again_once() {
    for _ in 0..10 {
        let gate = Gate::new();
        let gateway = FakeGateway::start(slow(&gate)).await;
        let alice = Home::of("alice", &gateway.url());
        alice.run(&send(FIRST, "one", &["--no-wait"])).await;
        gateway.until(|g| g.ledger().total() == 1).await;
        alice.run(&send(SECOND, "two", &["--no-wait"])).await;
        gateway.kill().await;
        gate.open();
        let waits = all((0..3).map(|_| alice.run(&["wait", SECOND]))).await;
        for wait in waits {
            assert_eq!(reply(&wait.document), "re: two", "{wait:#?}");
        }
        assert_eq!(gateway.ledger().runs_of_text("two"), 1);
    }
}

/// A gateway that crashes again while it makes good for the first crash.
#[tokio::test]
async fn a_second_crash_during_the_recovery_costs_no_reply() {
    let gate = Gate::new();
    let gateway = FakeGateway::start(slow(&gate)).await;
    let alice = Home::of("alice", &gateway.url());
    let args = send(FIRST, "hello", &[]);
    let sent = alice.spawn(&args);
    gateway.until(|g| g.ledger().total() == 1).await;
    for crash in 1..=3 {
        gateway.kill().await;
        // The recovery run stands in the session: crash again in the middle of it.
        let system_rows = |g: &FakeGateway| {
            let rows = g.history(&format!("agent:main:{SESSION}"));
            rows.iter()
                .filter(|row| row["content"].as_str().is_some_and(|text| text.starts_with("[System]")))
                .count()
        };
        gateway.until(|g| system_rows(g) == crash).await;
    }
    gate.open();
    let sent = seen_through(&alice, sent, &args, FIRST).await;
    assert_eq!(reply(&sent.document), "re: hello", "{sent:#?}");
    assert_eq!(gateway.ledger().runs_of_text("hello"), 1);
}

/// The first attempt was confirmed and never ran; the second never arrived, at a gateway that is gone as well.
#[tokio::test]
async fn a_second_crash_before_the_new_attempt_arrives_costs_no_reply() {
    let gate = Gate::new();
    let third = Fault::new(Cut::AfterRequestReceived, How::Drop).of("agent").on_connection(3);
    let gateway = FakeGateway::start(slow(&gate).fault(third)).await;
    let alice = Home::of("alice", &gateway.url());
    alice.run(&send(FIRST, "one", &["--no-wait"])).await;
    gateway.until(|g| g.ledger().total() == 1).await;
    alice.run(&send(SECOND, "two", &["--no-wait"])).await;
    gateway.kill().await;
    gate.open();
    let args = ["wait", SECOND, "--timeout", "20s"];
    let waits = alice.spawn(&args);
    accepted(&gateway, 3).await;
    gateway.kill().await;
    let waited = ended(waits, &args).await.unwrap();
    assert_eq!(reply(&waited.document), "re: two", "{waited:#?}");
    assert_eq!(gateway.ledger().runs_of_text("two"), 1);
}
