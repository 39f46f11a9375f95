//! The outbox: nothing is lost, nothing runs twice, and the order holds.

use agent_mesh_testkit::{Cut, FakeGateway, Fault, Gate, How, Refusal, Reply, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::archive::Stored;
use agent_team_mesh::ops::outbox::{self, Carried, Report, flush, send_or_keep, work};
use agent_team_mesh::ops::send::SendRequest;
use agent_team_mesh::ops::wait::wait;
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::record::State;
use agent_team_mesh::registry::{Agent, Registry};
use rusqlite::Connection;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::team::{SOON, TOKEN, Team, message, nobody};

const HOUR: Duration = Duration::from_secs(3600);

impl Team {
    /// `send --queue`
    async fn keep(&self, text: &str) -> Carried {
        self.keep_for(text, HOUR).await
    }

    async fn keep_for(&self, text: &str, expires: Duration) -> Carried {
        let bob = self.agent("bob");
        send_or_keep(&self.mesh, bob, &message(text, SOON), expires, &mut Unobserved).await.unwrap()
    }

    /// `outbox flush`: the states in the order in which they were reported.
    async fn flush(&self) -> Vec<State> {
        let mut states = Vec::new();
        let mut report = |report: Report| match report {
            Report::Carried(carried) => states.push(carried.record.state),
            other => panic!("{other:?}"),
        };
        flush(&self.mesh, None, SOON, &mut report).await.unwrap();
        states
    }

    /// The next run of the program, in which Bob has this address.
    fn bob_at(self, url: &str) -> Self {
        let bob = Agent { url: Some(url.to_owned()), ..Agent::new("Bob", "bob") };
        let agents = vec![Agent::new("Alice", "alice"), bob];
        Registry { agents, ..Registry::default() }.save(&self.mesh.config().registry).unwrap();
        self.next_run(|_| {})
    }

    async fn stored(&self, id: &str) -> Stored {
        self.mesh.archive().unwrap().find(id).await.unwrap().unwrap()
    }

    /// The archive file, for what only a crash does.
    fn change(&self, sql: &str) {
        let db = Connection::open(self.mesh.archive().unwrap().path()).unwrap();
        db.busy_timeout(SOON).unwrap();
        assert!(db.execute(sql, []).unwrap() > 0, "{sql}");
    }
}

/// Us, a token for Bob, and nobody at his address.
fn alone() -> Team {
    let team = Team::new([("Bob", nobody())]);
    team.token_for("bob", TOKEN);
    team
}

fn texts(bob: &FakeGateway) -> Vec<String> {
    bob.requests("agent").iter().map(|sent| sent["message"].as_str().unwrap().to_owned()).collect()
}

/// It was waited for until the deadline, and what was queued behind it, too.
#[tokio::test]
async fn a_gateway_that_has_an_earlier_message_and_is_away_keeps_nobody_waiting() {
    let (team, bob) = Team::with_bob(Script::new().reply(|_| Reply::never())).await;
    let taken = SendRequest { wait: false, ..message("first", SOON) };
    let first = send_or_keep(&team.mesh, team.agent("bob"), &taken, HOUR, &mut Unobserved).await.unwrap();
    assert_eq!(first.record.state, State::Accepted);
    let team = team.bob_at(&nobody());
    drop(bob);
    let patient = message("second", HOUR);
    let mut unobserved = Unobserved;
    let kept = send_or_keep(&team.mesh, team.agent("bob"), &patient, HOUR, &mut unobserved);
    let kept = tokio::time::timeout(SOON, kept).await.expect("it waits for a gateway that is away").unwrap();
    assert_eq!(kept.record.state, State::Queued, "{kept:?}");
    let mut states = Vec::new();
    let mut report = |report: Report| match report {
        Report::Carried(carried) => states.push(carried.record.state),
        other => panic!("{other:?}"),
    };
    let flushed = flush(&team.mesh, None, HOUR, &mut report);
    tokio::time::timeout(SOON, flushed).await.expect("it waits for a gateway that is away").unwrap();
    assert_eq!(states, [State::Accepted, State::Queued]);
}

/// Whoever was one too many to be called at once was not called at all.
#[tokio::test]
async fn a_flush_calls_everybody_who_has_mail() {
    let names: Vec<String> = (0..50).map(|number| format!("P{number}")).collect();
    let team = Team::new(names.iter().map(|name| (name.as_str(), nobody())));
    names.iter().for_each(|name| team.token_for(&name.to_lowercase(), TOKEN));
    for name in &names {
        let agent = team.agent(name);
        let kept =
            send_or_keep(&team.mesh, agent, &message(name, SOON), HOUR, &mut Unobserved).await.unwrap();
        assert_eq!(kept.record.state, State::Queued, "{kept:?}");
    }
    assert_eq!(team.flush().await, [State::Queued; 50]);
}

#[tokio::test]
async fn what_is_kept_while_bob_is_away_is_delivered_in_order_when_he_is_back() {
    let team = alone();
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let kept = team.keep(text).await;
        assert_eq!(kept.record.state, State::Queued, "{kept:?}");
        assert!(kept.next_try_at.is_some());
        ids.push(kept.record.id);
    }
    assert_eq!(team.flush().await, [State::Queued], "the first that finds nobody speaks for the others");
    let bob = FakeGateway::start(Script::new()).await;
    let team = team.bob_at(&bob.url());
    assert_eq!(team.flush().await, [State::Replied; 3]);
    assert_eq!(texts(&bob), ["one", "two", "three"]);
    assert_eq!((bob.connects(), bob.ledger().repeated().len()), (1, 0), "all over one connection");
    let last = team.stored(&ids[2]).await;
    assert_eq!(last.record.reply.as_ref().unwrap().text, "echo: three");
    assert_eq!((last.next_try_at, last.failure), (None, None));
    let steps = team.mesh.archive().unwrap().events(&ids[0]).await.unwrap();
    let steps: Vec<&str> = steps.iter().map(|event| event.step.as_str()).collect();
    assert_eq!(
        steps,
        [
            "queued", "put-back", "put-back", "put-back", "put-back", "reached", "sending", "accepted",
            "replied"
        ]
    );
    assert!(outbox::list(&team.mesh).await.unwrap().is_empty() && team.flush().await.is_empty());
}

#[tokio::test]
async fn a_peer_who_is_there_answers_at_once_and_earlier_ones_go_first() {
    let team = alone();
    team.keep("early").await;
    let bob = FakeGateway::start(Script::new()).await;
    let team = team.bob_at(&bob.url());
    let sent = team.keep("late").await;
    assert_eq!((sent.record.state, sent.record.reply.unwrap().text.as_str()), (State::Replied, "echo: late"));
    assert_eq!(texts(&bob), ["early", "late"]);
}

#[tokio::test]
async fn what_is_stale_is_not_delivered() {
    let team = alone();
    let stale = team.keep_for("stale", Duration::from_millis(50)).await.record.id;
    team.keep("fresh").await;
    sleep(Duration::from_millis(60)).await;
    let bob = FakeGateway::start(Script::new()).await;
    let team = team.bob_at(&bob.url());
    assert_eq!(team.flush().await, [State::Expired, State::Replied]);
    assert_eq!(texts(&bob), ["fresh"]);
    let [given_up] = outbox::list(&team.mesh).await.unwrap().try_into().unwrap();
    assert_eq!((given_up.record.id.as_str(), given_up.record.state), (stale.as_str(), State::Expired));
    outbox::retry(&team.mesh, &stale, HOUR).await.unwrap();
    assert_eq!(team.flush().await, [State::Replied], "still worth saying, after all");
}

/// The gateway is busy starting when the connection stands: the text gets stale on the way.
#[tokio::test]
async fn what_gets_stale_while_it_knocks_is_not_delivered_either() {
    let starting = Refusal::starting_up();
    let bob = FakeGateway::start(Script::new().refuse_first(2, starting)).await;
    let team = Team::new([("Bob", bob.url())]);
    team.token_for("bob", TOKEN);
    let kept = team.keep_for("hello", Duration::from_millis(300)).await;
    assert_eq!(kept.record.state, State::Expired, "{kept:?}");
    assert_eq!(bob.ledger().total(), 0);
}

#[tokio::test]
async fn what_does_not_pass_by_itself_is_given_up_at_once_and_seen() {
    let wrong = FakeGateway::start(Script::new().shared_token("another")).await;
    let refusing = Script::new()
        .reply(|_| Reply::refused(json!({"code": "INVALID_REQUEST", "message": "no such agent"})));
    let refusing = FakeGateway::start(refusing).await;
    for bob in [&wrong, &refusing] {
        let team = alone();
        let id = team.keep("hello").await.record.id;
        team.keep("behind it").await;
        let team = team.bob_at(&bob.url());
        assert_eq!(team.flush().await, [State::Failed, State::Failed]);
        let given_up = outbox::list(&team.mesh).await.unwrap();
        assert_eq!(given_up.len(), 2);
        assert!(given_up[0].failure.is_some() && given_up[0].next_try_at.is_none(), "{given_up:?}");
        assert!(team.flush().await.is_empty(), "given up is given up");
        // Somebody mended it.
        let good = FakeGateway::start(Script::new()).await;
        let team = team.bob_at(&good.url());
        outbox::retry(&team.mesh, &id, HOUR).await.unwrap();
        assert_eq!(team.flush().await, [State::Replied]);
        assert_eq!(texts(&good), ["hello"]);
        assert_eq!(
            outbox::remove(&team.mesh, &given_up[1].record.id).await.unwrap().record.state,
            State::Cancelled
        );
        assert!(outbox::list(&team.mesh).await.unwrap().is_empty());
        let done = outbox::retry(&team.mesh, &id, HOUR).await.unwrap_err();
        assert!(matches!(done, MeshError::NotInOutbox { state: State::Replied, .. }), "{done}");
    }
}

/// `find` takes a unique beginning for a name: Bob's messages must not go to Bobby when Bob has left.
#[tokio::test]
async fn a_teammate_who_left_is_not_taken_for_another() {
    let bobby = FakeGateway::start(Script::new()).await;
    let team = alone();
    team.keep("for bob").await;
    let agents =
        vec![Agent::new("Alice", "alice"), Agent { url: Some(bobby.url()), ..Agent::new("Bobby", "bobby") }];
    Registry { agents, ..Registry::default() }.save(&team.mesh.config().registry).unwrap();
    team.token_for("bobby", TOKEN);
    let team = team.next_run(|_| {});
    assert_eq!(team.flush().await, [State::Failed]);
    assert_eq!(bobby.connections(), 0);
}

#[tokio::test]
async fn a_gateway_that_is_restarting_is_asked_again() {
    let draining = json!({"code": "UNAVAILABLE", "message": "restarting", "retryable": true, "retryAfterMs": 1000,
        "details": {"reason": "gateway-restarting"}});
    let bob = Script::new().reply(move |_| Reply::refused(draining.clone()));
    let bob = FakeGateway::start(bob).await;
    let team = Team::new([("Bob", bob.url())]);
    team.token_for("bob", TOKEN);
    let kept = team.keep("hello").await;
    assert_eq!(kept.record.state, State::Queued, "{kept:?}");
    let wait = kept.next_try_at.unwrap().duration_since(jiff::Timestamp::now());
    assert!(wait.is_positive(), "{wait:?}");
    let back = FakeGateway::start(Script::new()).await;
    assert_eq!(team.bob_at(&back.url()).flush().await, [State::Replied]);
}

#[tokio::test]
async fn what_was_taken_out_is_not_sent() {
    let team = alone();
    let id = team.keep("hello").await.record.id;
    outbox::remove(&team.mesh, &id).await.unwrap();
    let bob = FakeGateway::start(Script::new()).await;
    let team = team.bob_at(&bob.url());
    assert!(team.flush().await.is_empty());
    assert_eq!(wait(&team.mesh, &id, SOON, &mut Unobserved).await.unwrap().state, State::Cancelled);
    assert_eq!(bob.ledger().total(), 0);
}

/// Many messages, several teammates, two processes with an archive in common, connections that break.
#[tokio::test]
async fn two_workers_send_each_message_once() {
    const EACH: usize = 25;
    let script = || {
        let script = Script::new().fault(Fault::new(Cut::BeforeAccepted, How::Drop).times(3));
        script.fault(Fault::new(Cut::AfterRequestReceived, How::Reset).of("agent").times(3))
    };
    let peers = [FakeGateway::start(script()).await, FakeGateway::start(script()).await];
    let team = Team::new([("Bob", nobody()), ("Carol", nobody())]);
    for name in ["bob", "carol"] {
        team.token_for(name, TOKEN);
    }
    for number in 0..EACH {
        for name in ["bob", "carol"] {
            let text = format!("{name} {number:02}");
            let request = message(&text, SOON);
            send_or_keep(&team.mesh, team.agent(name), &request, HOUR, &mut Unobserved).await.unwrap();
        }
    }
    let mut agents = team.mesh.registry().unwrap().agents.clone();
    for (agent, peer) in agents[1..].iter_mut().zip(&peers) {
        agent.url = Some(peer.url());
    }
    Registry { agents, ..Registry::default() }.save(&team.mesh.config().registry).unwrap();
    team.mesh.archive().unwrap().hurry(None).await.unwrap();
    let other = agent_team_mesh::Mesh::new(team.mesh.config().clone());
    let mut quiet = |_| {};
    let mut silent = |_| {};
    let finished = async {
        while outbox::list(&team.mesh).await.unwrap().iter().any(|m| m.next_try_at.is_some()) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        end = work(&team.mesh, SOON, &mut quiet) => panic!("{end:?}"),
        end = work(&other, SOON, &mut silent) => panic!("{end:?}"),
        () = finished => {}
        () = sleep(Duration::from_secs(50)) => panic!("it does not end: {:?}", outbox::list(&team.mesh).await),
    }
    for (peer, name) in peers.iter().zip(["bob", "carol"]) {
        let ledger = peer.ledger();
        assert_eq!((ledger.total(), ledger.repeated().len()), (EACH, 0));
        let mut order = texts(peer);
        order.dedup();
        let expected: Vec<String> = (0..EACH).map(|number| format!("{name} {number:02}")).collect();
        assert_eq!(order, expected);
    }
    let all = team.mesh.archive().unwrap().list(Default::default()).await.unwrap();
    assert!(all.iter().all(|message| message.record.state == State::Replied), "{all:?}");
}

/// A worker that is killed leaves a lease behind, and a message that left, or did not, or was never sent.
#[tokio::test]
async fn the_work_of_a_dead_worker_is_looked_up_before_it_is_done_again() {
    for cut in [
        Cut::AfterConnectReceived,
        Cut::AfterHello,
        Cut::AfterRequestReceived,
        Cut::BeforeAccepted,
        Cut::AfterAccepted,
    ] {
        let fault = Fault::new(cut, How::Freeze).on_connection(1);
        let fault = if cut == Cut::AfterRequestReceived { fault.of("agent") } else { fault };
        let bob = Script::new().fault(fault);
        let bob = FakeGateway::start(bob).await;
        let team = alone();
        let id = team.keep("hello").await.record.id;
        team.keep("behind it").await;
        let team = team.bob_at(&bob.url());
        let dying = async {
            bob.until(|bob| match cut {
                Cut::AfterConnectReceived | Cut::AfterHello => !bob.requests("connect").is_empty(),
                _ => !bob.requests("agent").is_empty(),
            })
            .await;
            sleep(Duration::from_millis(100)).await;
        };
        tokio::select! {
            _ = team.flush() => panic!("{cut:?}: a frozen gateway answered"),
            () = dying => {}
        }
        team.mesh.archive().unwrap().settle().await.unwrap();
        // The drop gave the lease back; a kill would not have.
        team.change(&format!("UPDATE messages SET lease_owner = 'dead', lease_until = unixepoch() * 1000 + 1500 WHERE id = '{id}'"));
        let team = team.next_run(|_| {});
        // Once Bob has the first, the second may follow.
        let others: &[State] = if cut == Cut::AfterAccepted { &[State::Replied] } else { &[] };
        assert_eq!(team.flush().await, others, "{cut:?}: the lease holds, and nobody overtakes");
        let start = Instant::now();
        while team.flush().await.is_empty() {
            assert!(start.elapsed() < SOON, "{cut:?}");
            sleep(Duration::from_millis(100)).await;
        }
        let ledger = bob.ledger();
        assert_eq!((ledger.runs_of_text("hello"), ledger.runs_of_text("behind it")), (1, 1), "{cut:?}");
        assert_eq!(team.stored(&id).await.record.reply.as_ref().unwrap().text, "echo: hello", "{cut:?}");
    }
}

/// A worker that only slept too long finds its message in other hands, and does not send it.
#[tokio::test]
async fn a_worker_that_lost_its_lease_sends_nothing() {
    let gate = Gate::new();
    let bob = Script::new().refuse_first(3, Refusal::starting_up());
    let bob = FakeGateway::start(bob).await;
    let team = alone();
    let id = team.keep("hello").await.record.id;
    let team = team.bob_at(&bob.url());
    let taken = async {
        bob.until(|bob| bob.connects() == 1).await;
        team.change(&format!("UPDATE messages SET lease_owner = 'other', lease_until = unixepoch() * 1000 + 60000 WHERE id = '{id}'"));
        gate.open();
    };
    let mut troubles = 0;
    let mut report = |report: Report| match report {
        Report::Trouble(_) => troubles += 1,
        other => panic!("{other:?}"),
    };
    let (flushed, ()) = tokio::join!(flush(&team.mesh, None, SOON, &mut report), taken);
    flushed.unwrap();
    assert_eq!((troubles, bob.ledger().total()), (1, 0));
    assert_eq!(team.stored(&id).await.record.state, State::Queued);
}

/// Us, and a Bob whose agent answers when the gate is open.
async fn slow_bob() -> (Team, FakeGateway, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let bob = Script::new().reply(move |turn| Reply::text(format!("re: {}", turn.message)).when(&held));
    let bob = FakeGateway::start(bob).await;
    let team = Team::new([("Bob", bob.url())]);
    team.token_for("bob", TOKEN);
    (team, bob, gate)
}

#[tokio::test]
async fn a_reply_that_takes_long_is_fetched_later_and_holds_nobody_up() {
    let (team, bob, gate) = slow_bob().await;
    let request = message("slow", Duration::from_millis(300));
    let sent = send_or_keep(&team.mesh, team.agent("bob"), &request, HOUR, &mut Unobserved).await.unwrap();
    assert_eq!(sent.record.state, State::Accepted, "{sent:?}");
    assert!(sent.next_try_at.is_some());
    let request = message("next", Duration::from_millis(300));
    let next = send_or_keep(&team.mesh, team.agent("bob"), &request, HOUR, &mut Unobserved).await.unwrap();
    assert_eq!(next.record.state, State::Accepted, "{next:?}");
    gate.open();
    assert_eq!(team.flush().await, [State::Replied; 2]);
    assert_eq!((bob.ledger().total(), texts(&bob).len()), (2, 2));
    let record = wait(&team.mesh, &sent.record.id, SOON, &mut Unobserved).await.unwrap();
    assert_eq!(record.reply.unwrap().text, "re: slow");
}

#[tokio::test]
async fn that_it_was_taken_is_kept_of_a_message_that_nobody_waits_for() {
    let (team, _bob, gate) = slow_bob().await;
    let request = SendRequest { wait: false, ..message("later", SOON) };
    let sent = send_or_keep(&team.mesh, team.agent("bob"), &request, HOUR, &mut Unobserved).await.unwrap();
    assert_eq!(sent.record.state, State::Accepted, "{sent:?}");
    let kept = team.stored(&sent.record.id).await;
    assert_eq!(kept.record.state, State::Accepted);
    assert!(kept.record.receipt.accepted_at.is_some_and(|at| at >= kept.sent_at.unwrap()), "{kept:?}");
    let steps = team.mesh.archive().unwrap().events(&sent.record.id).await.unwrap();
    assert!(steps.iter().any(|event| event.step == "accepted"), "{steps:?}");
    gate.open();
}

#[tokio::test]
async fn wait_waits_for_what_has_not_left() {
    let team = alone();
    let id = team.keep("hello").await.record.id;
    let record = wait(&team.mesh, &id, Duration::from_millis(300), &mut Unobserved).await.unwrap();
    assert!(matches!(record.error, Some(MeshError::StillQueued { .. })), "{record:?}");
    let bob = FakeGateway::start(Script::new()).await;
    let team = team.bob_at(&bob.url());
    let mut unobserved = Unobserved;
    let (record, states) = tokio::join!(wait(&team.mesh, &id, SOON, &mut unobserved), team.flush());
    assert_eq!(states, [State::Replied]);
    assert_eq!(record.unwrap().reply.unwrap().text, "echo: hello");
    assert_eq!(bob.ledger().total(), 1);
}
