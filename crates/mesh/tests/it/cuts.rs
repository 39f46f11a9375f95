//! A connection that ends at every point of a conversation: the state says what is certain, and nothing hangs.

use std::os::unix::fs::PermissionsExt;

use agent_mesh_testkit::{Cut, FakeGateway, Fault, How, Reply, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::fallback::ImFallback;
use agent_team_mesh::ops::send::SendRequest;
use agent_team_mesh::record::{Record, State};
use agent_team_mesh::registry::Via;
use futures_util::future::join_all;
use tokio::time::{Duration, Instant};

use crate::team::{SOON, TOKEN, Team, message};

/// What is certain when the connection ends there and none follows.
fn certain(cut: Cut) -> State {
    match cut {
        // At first contact the gateway is asked for its identity before anything leaves.
        Cut::AfterTcp
        | Cut::AfterUpgrade
        | Cut::AfterChallenge
        | Cut::AfterConnectReceived
        | Cut::AfterHello => State::Unreachable,
        // The request left, and nobody said what became of it.
        Cut::AfterRequestReceived | Cut::BeforeAccepted => State::Unknown,
        Cut::AfterAccepted | Cut::MidStream => State::Accepted,
        Cut::AfterFinal => State::Replied,
    }
}

/// A gateway that fails in one way, and us before we send to it.
struct Trial {
    cut: Cut,
    how: How,
    via: Via,
    team: Team,
    bob: FakeGateway,
}

impl Trial {
    async fn new(cut: Cut, how: How, via: Via, gone_for_good: bool) -> Self {
        let fault = Fault::new(cut, how).on_connection(1);
        let fault = if cut == Cut::AfterRequestReceived {
            fault.of(if via == Via::Chat { "chat.send" } else { "agent" })
        } else {
            fault
        };
        let mut script = Script::new()
            .fault(fault)
            .reply(|turn| Reply::text(format!("re: {}", turn.message)).deltas(["re: "]));
        if gone_for_good {
            for connection in 2..100 {
                script = script.fault(Fault::new(Cut::AfterTcp, How::Drop).on_connection(connection));
            }
        }
        let (team, bob) = Team::with_bob(script).await;
        // Made here: writing files to the disk takes long enough to count.
        team.mesh.device().unwrap();
        team.mesh.archive().unwrap();
        Self { cut, how, via, team, bob }
    }

    async fn send(&self, timeout: Duration) -> Record {
        let request = SendRequest { via: Some(self.via), ..message("hello", timeout) };
        let start = Instant::now();
        let record = self.team.send("bob", &request).await;
        assert!(start.elapsed() < Duration::from_secs(20), "{self:?}: {record:?}");
        assert!(self.bob.ledger().total() <= 1, "{self:?}: {record:?}");
        record
    }

    fn check(&self, record: &Record, expected: State) {
        assert_eq!(record.state, expected, "{self:?}: {record:?}");
        let error_fits = match (record.state, &record.error) {
            (State::Replied, error) => error.is_none(),
            (State::Accepted, Some(MeshError::ReplyDeadline { id, .. })) => *id == record.id,
            (State::Unknown, error) => matches!(error, Some(MeshError::Unknown { .. })),
            (State::Unreachable, Some(error)) => error.is_unreachable(),
            _ => false,
        };
        assert!(error_fits, "{self:?}: {record:?}");
    }
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.cut, self.how)
    }
}

async fn trials(hows: &[How], via: Via, gone_for_good: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for cut in Cut::ALL {
        for how in hows {
            trials.push(Trial::new(cut, *how, via, gone_for_good).await);
        }
    }
    trials
}

#[tokio::test]
async fn where_nobody_comes_back_the_state_says_what_is_certain() {
    for (via, hows) in [(Via::Agent, &How::ALL[..]), (Via::Chat, &[How::Drop])] {
        let trials = trials(hows, via, true).await;
        let sends = trials.iter().map(|trial| trial.send(Duration::from_secs(2)));
        for (trial, record) in trials.iter().zip(join_all(sends).await) {
            trial.check(&record, certain(trial.cut));
        }
    }
}

#[tokio::test]
async fn a_connection_cut_once_costs_no_reply_and_no_second_turn() {
    let trials = trials(&[How::Close(1011), How::Drop, How::Reset], Via::Agent, false).await;
    let sends = trials.iter().map(|trial| trial.send(Duration::from_secs(60)));
    for (trial, record) in trials.iter().zip(join_all(sends).await) {
        match certain(trial.cut) {
            // A first connect is not tried again by itself.
            State::Unreachable => trial.check(&record, State::Unreachable),
            _ => {
                trial.check(&record, State::Replied);
                assert_eq!(trial.bob.ledger().total(), 1, "{trial:?}");
            }
        }
    }
}

/// The fallback is for messages that certainly did not arrive: anything else would be said twice.
#[tokio::test]
async fn the_fallback_carries_only_what_never_left() {
    for (place, used) in
        [(Cut::AfterTcp, true), (Cut::AfterConnectReceived, true), (Cut::BeforeAccepted, false)]
    {
        let Trial { team, bob, .. } = Trial::new(place, How::Drop, Via::Agent, true).await;
        let folder = tempfile::tempdir().unwrap();
        let (script, trace) = (folder.path().join("im"), folder.path().join("trace"));
        std::fs::write(&script, format!("#!/bin/sh\necho \"$@\" > {}\n", trace.display())).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        let fallback = ImFallback { script, domain: "example.com".into(), timeout: Duration::from_secs(20) };
        let team = team.next_run(|config| config.fallback = Some(fallback));
        let record = team.send("bob", &message("hello", Duration::from_secs(2))).await;
        assert_eq!(record.state == State::Fallback, used, "{record:?}");
        let said = std::fs::read_to_string(trace).unwrap_or_default();
        let expected = if used { "--to bob@example.com --msg [agent-mesh fallback] hello\n" } else { "" };
        assert_eq!(said, expected);
        assert!(bob.ledger().total() <= 1);
    }
}

#[tokio::test]
async fn a_run_that_never_ends_is_waited_for_until_the_deadline_and_not_aborted() {
    for via in [Via::Agent, Via::Chat] {
        let (team, bob) = Team::with_bob(Script::new().reply(|_| Reply::never())).await;
        let request = SendRequest { via: Some(via), ..message("hello", Duration::from_millis(400)) };
        let start = Instant::now();
        let record = team.send("bob", &request).await;
        assert!(start.elapsed() >= Duration::from_millis(400) && start.elapsed() < Duration::from_secs(20));
        assert_eq!(record.state, State::Accepted, "{record:?}");
        assert!(matches!(record.error, Some(MeshError::ReplyDeadline { .. })), "{record:?}");
        assert!(bob.requests("chat.abort").is_empty());
    }
}

/// An address that takes connections and says nothing costs the connect timeout, not the time meant for the reply.
#[tokio::test]
async fn a_mute_server_costs_the_connect_timeout_only() {
    let (team, _bob) = Team::with_bob(Script::new().fault(Fault::new(Cut::AfterTcp, How::Freeze))).await;
    let team = team.next_run(|config| config.connect_timeout = Duration::from_millis(200));
    let start = Instant::now();
    let record = team.send("bob", &message("hello", Duration::from_secs(60))).await;
    assert_eq!(record.state, State::Unreachable, "{record:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// The token that came with the first connection was read back from the file, and taken for that of another device.
#[tokio::test]
async fn a_connection_that_brought_a_device_token_is_made_again_when_it_is_lost() {
    let script = Script::new()
        .shared_token(TOKEN)
        .issues_device_token("tok-device")
        .fault(Fault::new(Cut::AfterAccepted, How::Drop).on_connection(1));
    let (team, bob) = Team::with_bob(script).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!(record.state, State::Replied, "{record:?}");
    assert_eq!((bob.connects(), bob.ledger().total()), (2, 1));
}
