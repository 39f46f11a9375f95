//! A process that lives on keeps its connections: when the next message goes over one, and when it must not.

use agent_mesh_testkit::{Certificate, Challenge, FakeGateway, Gate, How, Reply, Script, TlsFront};
use agent_team_mesh::MeshError;
use agent_team_mesh::ops::broadcast::{BroadcastRequest, Selection, broadcast};
use agent_team_mesh::ops::outbox::{Report, flush, send_or_keep};
use agent_team_mesh::ops::send::{SendRequest, send};
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::record::{Record, State};
use agent_team_mesh::registry::{Agent, Registry, Via};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Duration, Instant, advance, pause, resume};

use crate::team::{SOON, TOKEN, Team, message, nobody};

/// A gateway that ticks so rarely that an hour may pass without one.
fn unhurried() -> Script {
    Script::new().tick_every(Duration::from_secs(3600)).ping_every(Duration::from_secs(3600))
}

/// The clock jumps, and what is due happens.
async fn pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

impl Team {
    /// The same, in a process that lives on.
    pub fn staying(mut self) -> Self {
        self.mesh = self.mesh.reread().keeping_connections();
        self
    }

    /// As a server does it: with files as they are now.
    pub async fn say(&self, text: &str) -> Record {
        self.say_how(&message(text, SOON)).await
    }

    pub async fn say_how(&self, request: &SendRequest) -> Record {
        let mesh = self.mesh.reread();
        let bob = mesh.registry().unwrap().find("bob").unwrap();
        send(&mesh, bob, request, &mut Unobserved).await.unwrap()
    }

    /// Says it, and checks that it was answered.
    async fn ask(&self, text: &str) {
        let record = self.say(text).await;
        assert_eq!(record.state, State::Replied, "{text}: {record:?}");
        assert_eq!(record.reply.unwrap().text, format!("echo: {text}"));
    }

    async fn steps(&self, id: &str) -> Vec<String> {
        let events = self.mesh.archive().unwrap().events(id).await.unwrap();
        events.into_iter().map(|event| event.step).collect()
    }

    fn write_registry(&self, bob: Agent) {
        let registry = Registry { agents: vec![Agent::new("Alice", "alice"), bob], ..Registry::default() };
        registry.save(&self.mesh.config().registry).unwrap();
    }
}

async fn with_bob(script: Script) -> (Team, FakeGateway) {
    let (team, bob) = Team::with_bob(script).await;
    (team.staying(), bob)
}

#[tokio::test]
async fn the_second_message_goes_over_the_connection_of_the_first() {
    let (team, bob) = with_bob(Script::new().shared_token(TOKEN)).await;
    for text in ["one", "two", "three"] {
        team.ask(text).await;
    }
    assert_eq!((bob.connections(), bob.open_connections()), (1, 1));
    let chat = SendRequest { via: Some(Via::Chat), ..message("four", SOON) };
    assert_eq!(team.say_how(&chat).await.reply.unwrap().text, "echo: four");
    assert_eq!(bob.connections(), 1, "the other route shares it");
    team.mesh.close_connections().await;
    bob.until(|bob| bob.open_connections() == 0).await;
    team.ask("five").await;
    assert_eq!(bob.connections(), 2);
}

#[tokio::test]
async fn what_does_not_live_on_holds_nothing() {
    let (team, bob) = Team::with_bob(Script::new()).await;
    team.ask("one").await;
    bob.until(|bob| bob.open_connections() == 0).await;
    team.ask("two").await;
    assert_eq!(bob.connections(), 2);
}

#[tokio::test]
async fn messages_at_the_same_time_share_one_connection() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = Script::new().reply(move |turn| Reply::text(format!("re: {}", turn.message)).when(&held));
    let (team, bob) = with_bob(script).await;
    let texts: Vec<String> = (0..20).map(|n| format!("message {n}")).collect();
    let opened = async {
        bob.until(|bob| bob.requests("agent").len() + bob.requests("chat.send").len() == 20).await;
        gate.open();
    };
    // Each in a session of its own: `chat.send` into a busy one is merged.
    let asked = texts.iter().enumerate().map(async |(n, text)| {
        let via = Some(if n % 2 == 0 { Via::Agent } else { Via::Chat });
        let mut request = SendRequest { via, ..message(text, SOON) };
        request.session.thread = Some(format!("t{n}"));
        team.say_how(&request).await
    });
    let (records, ()) = tokio::join!(join_all(asked), opened);
    for (text, record) in texts.iter().zip(records) {
        assert_eq!(
            record.reply.as_ref().map(|reply| &reply.text),
            Some(&format!("re: {text}")),
            "{record:?}"
        );
    }
    assert_eq!((bob.connections(), bob.ledger().total()), (1, 20));
}

#[tokio::test]
async fn more_than_may_share_one_have_connections_of_their_own_for_that_time() {
    let gate = Gate::new();
    let held = gate.clone();
    let (team, bob) = with_bob(Script::new().reply(move |_| Reply::text("re").when(&held))).await;
    let texts: Vec<String> = (0..40).map(|n| format!("message {n}")).collect();
    let opened = async {
        bob.until(|bob| bob.requests("agent").len() == 40).await;
        gate.open();
    };
    let (records, ()) = tokio::join!(join_all(texts.iter().map(|text| team.say(text))), opened);
    assert!(records.iter().all(|record| record.state == State::Replied));
    assert_eq!(bob.connections(), 1 + 8);
    bob.until(|bob| bob.open_connections() == 1).await;
}

#[tokio::test]
async fn who_waits_for_a_dial_that_fails_dials_himself_and_nobody_in_turn() {
    let team = Team::new([("Bob", nobody())]);
    team.token_for("bob", TOKEN);
    let team = team.staying();
    let texts = ["one", "two", "three"].map(str::to_owned);
    for record in join_all(texts.iter().map(|text| team.say(text))).await {
        assert_eq!(record.state, State::Unreachable, "{record:?}");
    }
    // A server that says nothing costs each of them the connect timeout, twice at most.
    let mute = FakeGateway::start(Script::new().challenge(Challenge::Absent)).await;
    team.write_registry(Agent { url: Some(mute.url()), ..Agent::new("Bob", "bob") });
    let start = Instant::now();
    let texts: Vec<String> = (0..10).map(|n| format!("message {n}")).collect();
    for record in join_all(texts.iter().map(|text| team.say(text))).await {
        assert_eq!(record.state, State::Unreachable, "{record:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(10), "in turn it would be 20 s: {:?}", start.elapsed());
}

#[tokio::test]
async fn after_a_minute_without_a_message_it_is_let_go() {
    let (team, bob) = with_bob(unhurried()).await;
    team.ask("one").await;
    pass(Duration::from_secs(59)).await;
    team.ask("two").await;
    // Counted from the last message.
    pass(Duration::from_secs(59)).await;
    assert_eq!((bob.connections(), bob.open_connections()), (1, 1));
    pass(Duration::from_secs(2)).await;
    bob.until(|bob| bob.open_connections() == 0).await;
    team.ask("three").await;
    assert_eq!(bob.connections(), 2);
}

#[tokio::test]
async fn a_message_under_way_holds_its_connection_for_longer() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = unhurried().reply(move |turn| match turn.message.as_str() {
        "long" => Reply::text("at last").when(&held),
        text => Reply::text(format!("echo: {text}")),
    });
    let (team, bob) = with_bob(script).await;
    let later = async {
        bob.until(|bob| bob.requests("agent").len() == 1).await;
        pass(Duration::from_secs(300)).await;
        team.say_how(&SendRequest { wait: false, ..message("short", SOON) }).await;
        gate.open();
    };
    let long = message("long", Duration::from_secs(3600));
    let (long, ()) = tokio::join!(team.say_how(&long), later);
    assert_eq!(long.reply.unwrap().text, "at last");
    assert_eq!(bob.connections(), 1);
}

#[tokio::test]
async fn a_gateway_whose_tick_is_late_is_not_trusted_with_the_next_message() {
    let tick = Duration::from_secs(10);
    let script = Script::new().tick_every(tick).stops_after_ticks(0);
    let (team, bob) = with_bob(script).await;
    team.ask("one").await;
    pass(tick).await;
    team.ask("two").await;
    assert_eq!(bob.connections(), 1);
    // Two whole intervals would end it; this is one and a half.
    pass(tick * 3 / 2 + Duration::from_millis(1)).await;
    team.ask("three").await;
    assert_eq!(bob.connections(), 2);
}

#[tokio::test]
async fn a_gateway_that_went_away_meanwhile_is_dialled_anew() {
    for how in [How::Close(1012), How::Drop, How::Reset] {
        let (team, bob) = with_bob(Script::new()).await;
        team.ask("one").await;
        bob.disconnect(how).await;
        team.ask("two").await;
        assert_eq!((bob.connections(), bob.ledger().total()), (2, 2), "{how:?}");
    }
    let (team, bob) = with_bob(Script::new()).await;
    for text in ["one", "two", "three"] {
        team.ask(text).await;
        if text == "two" { bob.kill().await } else { bob.restart().await }
    }
    team.ask("four").await;
    assert_eq!((bob.connections(), bob.ledger().repeated().len()), (4, 0));
}

/// Nothing on the wire tells that the other side is gone. What leaves then is looked for over another connection.
#[tokio::test]
async fn a_gateway_that_froze_meanwhile_costs_two_ticks_and_no_message() {
    for how in [How::Silence, How::Freeze] {
        let (team, bob) = with_bob(Script::new().tick_every(Duration::from_secs(1))).await;
        team.ask("one").await;
        bob.disconnect(how).await;
        let record = team.say("two").await;
        assert_eq!(record.reply.as_ref().map(|reply| reply.text.as_str()), Some("echo: two"), "{record:?}");
        assert_eq!((bob.connections(), bob.ledger().runs_of_text("two")), (2, 1), "{how:?}");
        let steps = team.steps(&record.id).await;
        assert_eq!(steps, ["sending", "reached", "lost", "reached", "sending", "accepted", "replied"]);
        team.ask("three").await;
        assert_eq!(bob.connections(), 2, "and the new one is kept");
    }
}

/// Who was not even told that a message was taken does not hand the connection on.
#[tokio::test]
async fn a_connection_on_which_nobody_answered_is_not_used_again() {
    let (team, bob) = with_bob(unhurried()).await;
    team.ask("one").await;
    bob.disconnect(How::Freeze).await;
    let record = team.say_how(&message("two", Duration::from_millis(300))).await;
    assert_eq!(record.state, State::Unknown, "{record:?}");
    team.ask("three").await;
    assert_eq!(bob.connections(), 2);
}

#[tokio::test]
async fn a_device_that_was_removed_is_out_at_once() {
    let (team, bob) = Team::with_bob(Script::new().device_token("ours")).await;
    team.device_token_for("bob", "ours");
    let team = team.staying();
    team.ask("one").await;
    bob.revoke("ours").await;
    let record = team.say("two").await;
    assert_eq!(record.state, State::Failed, "{record:?}");
    assert!(record.error.unwrap().refusal().is_some_and(|fault| fault.is_auth()));
    assert_eq!((bob.requests("agent").len(), bob.connects()), (1, 2));
}

#[tokio::test]
async fn with_another_credential_it_is_another_connection() {
    let (team, bob) = with_bob(Script::new().shared_token(TOKEN)).await;
    team.ask("one").await;
    team.token_for("bob", "another");
    let record = team.say("two").await;
    assert!(record.error.unwrap().refusal().is_some_and(|fault| fault.is_auth()), "{:?}", record.state);
    team.mesh.token_store().remove("bob").unwrap();
    let record = team.say("three").await;
    assert!(matches!(record.error, Some(MeshError::NoCredential { .. })), "{record:?}");
    team.token_for("bob", TOKEN);
    team.ask("four").await;
    assert_eq!((bob.requests("agent").len(), bob.connects()), (2, 3));
}

/// At first contact the shared token is shown and a device token comes back: that is the one to show next time.
#[tokio::test]
async fn the_connection_that_brought_a_device_token_counts_for_it() {
    let script = Script::new().shared_token(TOKEN).issues_device_token("fresh");
    let (team, bob) = with_bob(script).await;
    team.ask("one").await;
    team.ask("two").await;
    assert_eq!(bob.connections(), 1);
}

#[tokio::test]
async fn at_another_address_or_with_another_pin_it_is_another_connection() {
    let (team, old) = with_bob(Script::new()).await;
    let new = FakeGateway::start(Script::new()).await;
    team.ask("one").await;
    team.write_registry(Agent { url: Some(new.url()), ..Agent::new("Bob", "bob") });
    team.ask("two").await;
    assert_eq!((old.requests("agent").len(), new.requests("agent").len()), (1, 1));
    old.until(|old| old.open_connections() == 0).await;
    // As `trust reset` in another shell does it.
    agent_team_mesh::ops::trust::reset(&team.mesh.reread(), "bob").unwrap();
    team.ask("three").await;
    assert_eq!(new.connections(), 2, "who it is, is asked again");
    let front = TlsFront::start(Certificate::First, new.address()).await;
    let pinned = |pin: Certificate| Agent {
        url: Some(front.url()),
        tls_fingerprint: Some(pin.fingerprint().to_owned()),
        ..Agent::new("Bob", "bob")
    };
    team.write_registry(pinned(Certificate::First));
    team.ask("four").await;
    // It is the other one that is expected from now on, and this connection was not checked for it.
    team.write_registry(pinned(Certificate::Second));
    let record = team.say("five").await;
    assert!(matches!(record.error, Some(MeshError::IdentityChanged { .. })), "{record:?}");
    assert_eq!(new.requests("agent").len(), 3);
}

/// Access that somebody mends while we run: the next message is let in anew.
#[tokio::test]
async fn a_refusal_ends_what_is_kept() {
    let script = Script::new().reply(|turn| match turn.message.as_str() {
        "no" => Reply::refused(json!({"code": "FORBIDDEN", "message": "missing scope: operator.write"})),
        text => Reply::text(format!("echo: {text}")),
    });
    let (team, bob) = with_bob(script).await;
    team.ask("one").await;
    assert_eq!(team.say("no").await.state, State::Failed);
    team.ask("two").await;
    assert_eq!(bob.connections(), 2);
}

#[tokio::test]
async fn only_so_many_are_kept_without_a_message() {
    let mut peers = Vec::new();
    for n in 0..70 {
        peers.push((format!("peer{n:02}"), FakeGateway::start(Script::new()).await));
    }
    let team = Team::new(peers.iter().map(|(name, gateway)| (name.as_str(), gateway.url())));
    peers.iter().for_each(|(name, _)| team.token_for(name, TOKEN));
    let team = team.staying();
    let request = BroadcastRequest {
        send: message("standup?", SOON),
        selection: Selection::default(),
        concurrency: 64,
        enough: None,
    };
    let (_, records) =
        broadcast(&team.mesh, &request, std::future::pending(), &mut Unobserved).await.unwrap();
    assert!(records.iter().all(|record| record.state == State::Replied));
    let open =
        |peers: &[(String, FakeGateway)]| -> u32 { peers.iter().map(|(_, g)| g.open_connections()).sum() };
    let begun = Instant::now();
    while open(&peers) > 64 {
        assert!(begun.elapsed() < SOON, "{} are open", open(&peers));
        tokio::task::yield_now().await;
    }
    assert_eq!(open(&peers), 64);
}

/// Keeps the archive from writing: a message has taken its connection, and is not written down yet.
fn hold(team: &Team) -> rusqlite::Connection {
    let archive = rusqlite::Connection::open(team.mesh.archive_path()).unwrap();
    archive.execute_batch("BEGIN IMMEDIATE").unwrap();
    archive
}

/// Lets the archive write again, when our side has seen that the connection ended.
async fn release(archive: rusqlite::Connection) {
    // The end is there to be read; this is for whoever reads it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    archive.execute_batch("ROLLBACK").unwrap();
}

/// The connection is well when it is taken, and ends before the message is written. Nothing left, and that is certain: in
/// a session without a past, at a gateway that was killed, it could else not be known.
#[tokio::test]
async fn a_connection_that_ends_just_before_the_message_leaves_makes_nothing_uncertain() {
    for via in [Via::Agent, Via::Chat] {
        let (team, bob) = with_bob(Script::new()).await;
        team.ask("one").await;
        let archive = hold(&team);
        let mut request = SendRequest { via: Some(via), ..message("two", SOON) };
        request.session.thread = Some("new".into());
        let mesh = team.mesh.reread();
        let (agent, mut observer) = (mesh.registry().unwrap().find("bob").unwrap(), Unobserved);
        let sent = send(&mesh, agent, &request, &mut observer);
        let killed = async {
            bob.kill().await;
            release(archive).await;
        };
        let (record, ()) = tokio::join!(biased; sent, killed);
        let record = record.unwrap();
        assert_eq!(record.state, State::Replied, "{via:?}: {record:?}");
        assert_eq!((bob.connections(), bob.ledger().runs_of_text("two")), (2, 1));
        let steps = ["sending", "reached", "unsent", "reached", "accepted", "replied"];
        assert_eq!(team.steps(&record.id).await, steps, "{via:?}");
    }
}

/// The same, and nobody is there any more: the message waits, as one that found nobody in the first place.
#[tokio::test]
async fn what_did_not_leave_waits_in_the_outbox() {
    let (team, bob) = with_bob(Script::new()).await;
    team.ask("one").await;
    let archive = hold(&team);
    let mesh = team.mesh.reread();
    let agent = mesh.registry().unwrap().find("bob").unwrap();
    let (request, hour) = (message("two", SOON), Duration::from_secs(3600));
    let mut observer = Unobserved;
    let kept = send_or_keep(&mesh, agent, &request, hour, &mut observer);
    let gone = async {
        drop(bob);
        release(archive).await;
    };
    let (kept, ()) = tokio::join!(biased; kept, gone);
    let kept = kept.unwrap();
    assert_eq!((kept.record.state, kept.next_try_at.is_some()), (State::Queued, true), "{kept:?}");
    let bob = FakeGateway::start(Script::new()).await;
    team.write_registry(Agent { url: Some(bob.url()), ..Agent::new("Bob", "bob") });
    let mut states = Vec::new();
    let mut report = |report| {
        if let Report::Carried(carried) = report {
            states.push(carried.record.state);
        }
    };
    flush(&team.mesh.reread(), None, SOON, &mut report).await.unwrap();
    assert_eq!((states, bob.ledger().runs_of_text("two")), (vec![State::Replied], 1));
}
