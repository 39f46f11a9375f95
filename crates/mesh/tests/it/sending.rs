//! A message and its reply.

use std::collections::HashMap;
use std::time::Duration;

use agent_mesh_testkit::{Cut, Fault, Gate, How, Reply, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::ops::send::{SendRequest, send_rounds};
use agent_team_mesh::ops::wait::wait;
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::record::State;
use agent_team_mesh::registry::Via;
use serde_json::json;

use crate::team::{SOON, TOKEN, Team, message};

#[tokio::test]
async fn a_message_gets_its_reply() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN)).await;
    let record = team.send("bob", &SendRequest::new("is the build green?")).await;
    assert_eq!(record.state, State::Replied, "{record:?}");
    assert!(record.reply.unwrap().text.ends_with("is the build green?"));
    let receipt = record.receipt;
    assert!(receipt.reached_at <= receipt.accepted_at && receipt.accepted_at <= receipt.finished_at);
    assert_eq!((record.session.as_str(), record.bytes), ("agent:main:mesh:alice", 19));

    let [sent] = bob.requests("agent").try_into().unwrap();
    assert_eq!(sent["idempotencyKey"], record.id);
    assert_eq!(sent["inputProvenance"]["sourceSessionKey"], "mesh:alice");
    assert!(sent.get("timeout").is_none(), "our patience must not abort the peer's run");
    assert!(sent["message"].as_str().unwrap().contains("alice"), "the header says who asks");
}

#[tokio::test]
async fn two_sends_into_one_busy_session_each_get_their_own_reply() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = Script::new().reply(move |turn| Reply::text(format!("re: {}", turn.message)).when(&held));
    let (team, bob) = Team::with_bob(script).await;
    let (one, two) = (message("one", SOON), message("two", SOON));
    let opened = async {
        bob.until(|bob| bob.requests("agent").len() == 2).await;
        gate.open();
    };
    let (one, two, ()) = tokio::join!(team.send("bob", &one), team.send("bob", &two), opened);
    assert_eq!(one.session, two.session);
    assert_eq!((one.reply.unwrap().text, two.reply.unwrap().text), ("re: one".into(), "re: two".into()));
}

#[tokio::test]
async fn what_chat_send_merged_is_no_reply_and_never_somebody_elses() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = Script::new().reply(move |turn| Reply::text(format!("re: {}", turn.message)).when(&held));
    let (team, bob) = Team::with_bob(script).await;
    let via_chat = |text| SendRequest { via: Some(Via::Chat), ..message(text, SOON) };
    let (one, two) = (via_chat("one"), via_chat("two"));
    let second = async {
        bob.until(|bob| bob.requests("chat.send").len() == 1).await;
        let record = team.send("bob", &two).await;
        gate.open();
        record
    };
    let (one, two) = tokio::join!(team.send("bob", &one), second);
    assert_eq!(two.state, State::NoReply);
    assert!(matches!(two.error, Some(MeshError::NoReply { merged: true, .. })), "{two:?}");
    assert_eq!(two.reply, None);
    assert!(one.reply.unwrap().text.contains("re: one"));
}

#[tokio::test]
async fn chat_gives_the_reply_of_its_own_run() {
    let (team, _bob) = Team::with_bob(Script::new()).await;
    let record = team.send("bob", &SendRequest { via: Some(Via::Chat), ..message("hello", SOON) }).await;
    assert_eq!(record.reply.unwrap().text, "echo: hello");
}

#[tokio::test]
async fn how_a_run_ends_is_told() {
    for (reply, state) in [
        (Reply::provider_error("no quota"), State::Failed),
        (Reply::aborted(), State::Failed),
        (Reply::timeout(), State::Failed),
        (
            Reply::refused(json!({"code": "FORBIDDEN", "message": "missing scope: operator.write"})),
            State::Failed,
        ),
    ] {
        let shown = format!("{reply:?}");
        let (team, _bob) = Team::with_bob(Script::new().reply(move |_| reply.clone())).await;
        let record = team.send("bob", &message("hello", SOON)).await;
        assert_eq!(record.state, state, "{shown}: {record:?}");
        assert!(record.error.is_some() && record.reply.is_none());
    }
}

/// What a gateway says stands in the log, in JSON and on the terminal; our token must not.
#[tokio::test]
async fn a_gateway_that_quotes_our_token_is_not_repeated() {
    let quoting =
        json!({ "code": "FORBIDDEN", "message": format!("bad: {TOKEN}"), "details": { "got": TOKEN } });
    let script = Script::new().shared_token(TOKEN).reply(move |_| Reply::refused(quoting.clone()));
    let (team, _bob) = Team::with_bob(script).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    let told = format!("{record:?}");
    assert!(told.contains("bad: <redacted>") && !told.contains(TOKEN), "{told}");
}

#[tokio::test]
async fn without_waiting_accepted_is_the_end() {
    let (team, bob) = Team::with_bob(Script::new().reply(|_| Reply::never())).await;
    let record = team.send("bob", &SendRequest { wait: false, ..message("hello", SOON) }).await;
    assert_eq!((record.state, record.error.is_none()), (State::Accepted, true));
    assert_eq!(bob.ledger().runs_of_text("hello"), 1);
}

/// Two messages of a soak ended as unknown though the door had answered them: five hundred others had come since, and its
/// history showed them no more.
#[tokio::test]
async fn what_the_history_has_forgotten_the_gateway_may_still_know() {
    let long = "x".repeat(5_000);
    let replies = HashMap::from([("short", "yes".to_owned()), ("long", long)]);
    let script = Script::new()
        .reply(move |turn| Reply::text(replies.get(&*turn.message).cloned().unwrap_or_default()));
    let (team, bob) = Team::with_bob(script).await;
    let mut ids = Vec::new();
    for text in ["short", "long"] {
        ids.push(team.send("bob", &SendRequest { wait: false, ..message(text, SOON) }).await.id);
    }
    // Turns of a session come one after the other.
    team.send("bob", &message("last", SOON)).await;
    bob.reset_sessions();
    // Within five minutes it would be sent again: the gateway remembers the key.
    let archive = rusqlite::Connection::open(team.mesh.archive_path()).unwrap();
    archive.execute("UPDATE messages SET sent_at = sent_at - 600000", []).unwrap();
    let mut states = Vec::new();
    for id in &ids {
        let record = wait(&team.mesh, id, SOON, &mut Unobserved).await.unwrap();
        states.push((record.state, record.reply.map(|reply| reply.text)));
    }
    assert_eq!(states, [(State::Replied, Some("yes".to_owned())), (State::Unknown, None)]);
    assert_eq!(bob.ledger().total(), 3, "none was sent again");
}

/// The scripted gateway's clock is days behind ours: what it was told after our message looks older than that.
#[tokio::test]
async fn what_a_reset_session_was_told_since_does_not_prove_that_nothing_came_before() {
    let silence = Fault::new(Cut::BeforeAccepted, How::Silence).of("agent").once();
    let (team, bob) = Team::with_bob(Script::new().fault(silence)).await;
    let first = team.send("bob", &message("first", Duration::from_millis(300))).await;
    assert!(first.receipt.accepted_at.is_none(), "{first:?}");
    bob.until(|bob| bob.ledger().runs_of_text("first") == 1).await;
    bob.kill().await;
    bob.reset_sessions();
    assert_eq!(team.send("bob", &message("second", SOON)).await.state, State::Replied);
    let found = wait(&team.mesh, &first.id, SOON, &mut Unobserved).await.unwrap();
    assert_eq!((found.state, bob.ledger().runs_of_text("first")), (State::Unknown, 1), "{found:?}");
}

#[tokio::test]
async fn a_message_that_stands_far_back_in_its_session_is_found() {
    let silence = Fault::new(Cut::BeforeAccepted, How::Silence).of("agent").once();
    let (team, bob) = Team::with_bob(Script::new().fault(silence)).await;
    let first = team.send("bob", &message("first", Duration::from_millis(300))).await;
    bob.until(|bob| bob.ledger().runs_of_text("first") == 1).await;
    bob.kill().await;
    for number in 0..60 {
        let later = team.send("bob", &message(&format!("later {number}"), SOON)).await;
        assert_eq!(later.state, State::Replied, "{later:?}");
    }
    let found = wait(&team.mesh, &first.id, SOON, &mut Unobserved).await.unwrap();
    assert_eq!((found.state, bob.ledger().runs_of_text("first")), (State::Replied, 1), "{found:?}");
    let limits: Vec<_> = bob.requests("chat.history").iter().map(|asked| asked["limit"].clone()).collect();
    assert_eq!(limits, [100, 1000], "the last rows first");
}

#[tokio::test]
async fn rounds_send_each_reply_back_over_one_connection() {
    let (team, bob) = Team::with_bob(Script::new()).await;
    let request = message("hi", SOON);
    let said = send_rounds(&team.mesh, team.agent("bob"), &request, 3, &mut Unobserved).await.unwrap();
    let said: Vec<(String, String)> =
        said.into_iter().map(|(message, record)| (message, record.reply.unwrap().text)).collect();
    let expected =
        [("hi", "echo: hi"), ("echo: hi", "echo: echo: hi"), ("echo: echo: hi", "echo: echo: echo: hi")];
    assert_eq!(said, expected.map(|(message, reply)| (message.to_owned(), reply.to_owned())));
    assert_eq!(bob.connects(), 1);
}
