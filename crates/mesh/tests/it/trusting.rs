//! Certificates: what an authority does not vouch for is pinned by the user or the registry, or refused.

use agent_mesh_testkit::{Certificate, FakeGateway, Script, TlsFront};
use agent_team_mesh::MeshError;
use agent_team_mesh::client::ConnectError;
use agent_team_mesh::ops::trust;
use agent_team_mesh::pins::{Mark, PinnedBy};
use agent_team_mesh::record::State;
use agent_team_mesh::registry::{Agent, Registry};
use tokio::time::Instant;

use crate::team::{SOON, TOKEN, Team, message};

/// Bob behind TLS, and us, who hold his token.
async fn behind_tls(certificate: Certificate) -> (Team, FakeGateway, TlsFront) {
    let bob = FakeGateway::start(Script::new().shared_token(TOKEN)).await;
    let front = TlsFront::start(certificate, bob.address()).await;
    let team = Team::new([("Bob", front.url())]);
    team.token_for("bob", TOKEN);
    (team, bob, front)
}

/// The next run, with this pin in the registry.
fn with_registry_pin(team: Team, url: String, pin: &str) -> Team {
    let bob = Agent { url: Some(url), tls_fingerprint: Some(pin.to_owned()), ..Agent::new("Bob", "bob") };
    let registry = Registry { agents: vec![Agent::new("Alice", "alice"), bob], ..Registry::default() };
    registry.save(&team.mesh.config().registry).unwrap();
    team.next_run(|_| {})
}

async fn add(team: &Team, expected: Option<Certificate>) -> Result<trust::Trusted, MeshError> {
    let expected = expected.map(|certificate| certificate.fingerprint().parse().unwrap());
    trust::add(&team.mesh, team.agent("bob"), expected, Instant::now() + SOON).await
}

#[track_caller]
fn assert_changed(error: &MeshError, by: PinnedBy) {
    let MeshError::IdentityChanged { mark, old, new, pinned_by, .. } = error else { panic!("{error:?}") };
    assert_eq!((*mark, *pinned_by), (Mark::Certificate, by));
    assert_eq!(
        (old.as_str(), new.as_str()),
        (Certificate::First.fingerprint(), Certificate::Second.fingerprint())
    );
}

#[tokio::test]
async fn a_self_signed_certificate_is_never_trusted_by_itself() {
    let (team, bob, _front) = behind_tls(Certificate::First).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    let Some(MeshError::Connect { source, .. }) = &record.error else { panic!("{record:?}") };
    let ConnectError::Untrusted { fingerprint: Some(shown), .. } = &**source else { panic!("{source:?}") };
    assert_eq!(shown.to_string(), Certificate::First.fingerprint());
    assert_eq!((bob.connects(), bob.connections()), (0, 0), "not even the WebSocket");
}

#[tokio::test]
async fn an_added_certificate_lets_messages_through_and_another_one_stops_them() {
    let (team, bob, front) = behind_tls(Certificate::First).await;
    let added = add(&team, None).await.unwrap().certificate.unwrap();
    assert_eq!(
        (added.fingerprint.as_str(), added.pinned_by),
        (Certificate::First.fingerprint(), PinnedBy::Us)
    );
    assert_eq!(bob.connects(), 0, "to look at a certificate needs no credential");
    assert_eq!(team.send("bob", &message("hello", SOON)).await.state, State::Replied);

    let before = bob.connections();
    front.show(Certificate::Second);
    assert_changed(&team.send("bob", &message("hello", SOON)).await.error.unwrap(), PinnedBy::Us);
    assert_changed(&add(&team, None).await.unwrap_err(), PinnedBy::Us);
    assert_changed(&add(&team, Some(Certificate::Second)).await.unwrap_err(), PinnedBy::Us);
    trust::reset(&team.mesh, "bob").unwrap();
    assert_eq!(bob.connections(), before + 1, "only the one that was told to expect it got through");
    add(&team, Some(Certificate::Second)).await.unwrap();
    assert_eq!(team.send("bob", &message("hello", SOON)).await.state, State::Replied);
}

#[tokio::test]
async fn only_the_expected_certificate_is_added() {
    let (team, bob, _front) = behind_tls(Certificate::Second).await;
    assert_changed(&add(&team, Some(Certificate::First)).await.unwrap_err(), PinnedBy::Us);
    assert_eq!((team.mesh.pins().get("bob").unwrap().certificate, bob.connections()), (None, 0));
}

#[tokio::test]
async fn the_pin_of_the_registry_wins() {
    let (team, _bob, front) = behind_tls(Certificate::Second).await;
    add(&team, None).await.unwrap();
    let team = with_registry_pin(team, front.url(), Certificate::First.fingerprint());
    assert_changed(&team.send("bob", &message("hello", SOON)).await.error.unwrap(), PinnedBy::Registry);
    let shown = trust::show(&team.mesh, team.agent("bob")).unwrap().certificate.unwrap();
    assert_eq!(
        (shown.fingerprint.as_str(), shown.pinned_by),
        (Certificate::First.fingerprint(), PinnedBy::Registry)
    );
    let team = with_registry_pin(team, front.url(), Certificate::Second.fingerprint());
    assert_eq!(team.send("bob", &message("hello", SOON)).await.state, State::Replied);
}

/// Whoever takes the address over must not get in by asking for less.
#[tokio::test]
async fn a_pinned_certificate_is_not_given_up_for_plain_text() {
    let (team, bob, _front) = behind_tls(Certificate::First).await;
    add(&team, None).await.unwrap();
    let plain = Agent { url: Some(bob.url()), ..Agent::new("Bob", "bob") };
    let registry = Registry { agents: vec![Agent::new("Alice", "alice"), plain], ..Registry::default() };
    registry.save(&team.mesh.config().registry).unwrap();
    let (before, team) = (bob.connections(), team.next_run(|_| {}));
    let record = team.send("bob", &message("hello", SOON)).await;
    assert!(matches!(record.error, Some(MeshError::IdentityChanged { .. })), "{record:?}");
    assert_eq!(bob.connections(), before);
}

#[tokio::test]
async fn without_tls_there_is_nothing_to_add() {
    let (team, _bob) = Team::with_bob(Script::new()).await;
    assert!(matches!(add(&team, None).await.unwrap_err(), MeshError::NoCertificate { .. }));
}
