//! Many peers at once.

use agent_mesh_testkit::{FakeGateway, Reply, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::ops::broadcast::{BroadcastRequest, Selection, broadcast};
use agent_team_mesh::progress::{Observer, Progress};
use agent_team_mesh::record::State;
use tokio::time::Duration;

use crate::team::{SOON, Team, message, nobody};

/// Writes down in which order peers are done.
#[derive(Default)]
struct Order(Vec<String>);

impl Observer for Order {
    fn progress(&mut self, step: Progress<'_>) {
        if let Progress::PeerDone(record) = step {
            self.0.push(record.to.email_prefix.clone());
        }
    }
}

fn request() -> BroadcastRequest {
    BroadcastRequest {
        send: message("standup?", SOON),
        selection: Selection::default(),
        concurrency: 64,
        enough: None,
    }
}

#[tokio::test]
async fn registry_order_is_kept_and_one_dead_peer_does_not_spoil_the_rest() {
    let slow = Script::new().reply(|_| Reply::text("late").after(Duration::from_millis(300)));
    let slow = FakeGateway::start(slow).await;
    let quick = FakeGateway::start(Script::new().reply(|_| Reply::text("early"))).await;
    let wrong = FakeGateway::start(Script::new().shared_token("another")).await;
    let team = Team::new([
        ("Slow", slow.url()),
        ("Dead", nobody()),
        ("Pending", String::new()),
        ("Wrong", wrong.url()),
        ("Quick", quick.url()),
        ("Stranger", quick.url()),
    ]);
    for name in ["slow", "dead", "wrong", "quick"] {
        team.token_for(name, "tok");
    }
    let mut order = Order::default();
    let (_, records) = broadcast(&team.mesh, &request(), std::future::pending(), &mut order).await.unwrap();
    let states: Vec<(&str, State)> =
        records.iter().map(|record| (record.to.email_prefix.as_str(), record.state)).collect();
    let expected = [
        ("slow", State::Replied),
        ("dead", State::Unreachable),
        ("pending", State::Skipped),
        ("wrong", State::Failed),
        ("quick", State::Replied),
        ("stranger", State::Skipped),
    ];
    assert_eq!(states, expected, "we are left out, and those we hold no token for are skipped");
    assert_eq!(records[0].reply.as_ref().unwrap().text, "late");
    assert_eq!(order.0.last().map(String::as_str), Some("slow"), "who is done is told at once");
    let mut ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), records.len(), "each message has an id of its own");
    assert_eq!((quick.connects(), wrong.connects()), (1, 1));
}

#[tokio::test]
async fn selections_name_teammates_as_to_does() {
    let team = Team::new([("Bob", nobody()), ("Carol", nobody()), ("Dan", nobody())]);
    let chosen = |only: &[&str], except: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let selection = Selection { only: names(only), except: names(except), tags: Vec::new() };
        selection.of(&team.mesh).map(|agents| agents.into_iter().map(|a| a.name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(chosen(&[], &[]).unwrap(), ["Bob", "Carol", "Dan"]);
    assert_eq!(chosen(&["dan", "BOB"], &[]).unwrap(), ["Bob", "Dan"]);
    assert_eq!(chosen(&[], &["car"]).unwrap(), ["Bob", "Dan"]);
    assert!(matches!(chosen(&["eve"], &[]), Err(MeshError::Lookup(_))));
}
