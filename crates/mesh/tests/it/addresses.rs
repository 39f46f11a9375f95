//! An ip that rolled away, and the host name that still leads to the gateway.

use agent_mesh_testkit::{FakeGateway, Script};
use agent_team_mesh::ops::list::{Status, list};
use agent_team_mesh::ops::ping::ping;
use agent_team_mesh::record::State;
use agent_team_mesh::registry::{Agent, Registry};
use tokio::time::{Duration, Instant};

use crate::team::{SOON, TOKEN, Team, message, nobody};

/// A team in which Bob has an ip that is dead and a host name that is good.
async fn moved() -> (Team, FakeGateway) {
    let bob = FakeGateway::start(Script::new().shared_token(TOKEN)).await;
    let team = Team::new([]);
    team.token_for("bob", TOKEN);
    let entry = Agent {
        ip: Some(nobody().trim_start_matches("ws://").to_owned()),
        hostname: Some(format!("localhost:{}", bob.port())),
        ..Agent::new("Bob", "bob")
    };
    let registry = Registry { agents: vec![Agent::new("Alice", "alice"), entry], ..Registry::default() };
    registry.save(&team.mesh.config().registry).unwrap();
    (team, bob)
}

#[tokio::test]
async fn the_host_name_is_tried_when_the_ip_is_dead() {
    let (team, bob) = moved().await;
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!(record.state, State::Replied, "{record:?}");
    assert_eq!(list(&team.mesh).await.unwrap()[1].status, Status::Online);
    let pinged = ping(&team.mesh, team.agent("bob"), SOON).await.unwrap();
    let tcp = pinged.steps.iter().find(|step| step.step == "tcp").unwrap();
    assert_eq!((tcp.ok, tcp.detail.clone()), (true, bob.address().to_string()), "which one it was");
}

#[tokio::test]
async fn both_together_have_one_connect_timeout() {
    let (team, bob) = moved().await;
    drop(bob);
    let team = team.next_run(|config| config.connect_timeout = Duration::from_millis(300));
    let start = Instant::now();
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!(record.state, State::Unreachable, "{record:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}
