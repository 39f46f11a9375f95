//! Many peers at once.

use agent_mesh_testkit::{DelayProxy, FakeGateway, Reply, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::ops::broadcast::{BroadcastRequest, Selection, broadcast};
use agent_team_mesh::ops::list::{Status, list};
use agent_team_mesh::ops::wait::wait;
use agent_team_mesh::progress::{Observer, Progress, Unobserved};
use agent_team_mesh::record::State;
use tokio::net::TcpListener;
use tokio::time::{Duration, Instant};

use crate::team::{SOON, TOKEN, Team, message, nobody};

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

/// A gateway that takes connections and never says a word, as long as this lives.
struct Silent(TcpListener);

impl Silent {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("ws://{}", self.0.local_addr().unwrap())
    }
}

/// Names that live as long as the test.
fn names(what: &str, count: usize) -> Vec<&'static str> {
    (0..count).map(|n| &*format!("{what}{n}").leak()).collect()
}

/// In groups of 256 they cost one for each group.
#[tokio::test(start_paused = true)]
async fn all_silent_peers_cost_list_one_connect_timeout() {
    let (silent, bob) = (Silent::start().await, FakeGateway::start(Script::new()).await);
    let silent_names = names("Silent", 700);
    let mut peers: Vec<(&str, String)> = silent_names.iter().map(|name| (*name, silent.url())).collect();
    for (place, name) in names("Live", 20).into_iter().enumerate() {
        peers.insert(place * 30, (name, bob.url()));
    }
    let team = Team::new(peers.clone());
    let start = Instant::now();
    let rows = list(&team.mesh).await.unwrap();
    let timeout = team.mesh.config().connect_timeout;
    assert!(start.elapsed() < timeout * 3 / 2, "{:?}", start.elapsed());
    assert!(start.elapsed() >= timeout);
    let found: Vec<(&str, bool)> =
        rows.iter().skip(1).map(|row| (row.name.as_str(), row.status == Status::Online)).collect();
    let expected: Vec<(&str, bool)> = peers.iter().map(|(name, url)| (*name, *url == bob.url())).collect();
    assert_eq!(found, expected);
}

/// With one turn: the dead used to hold it for a connect timeout each.
#[tokio::test]
async fn a_broadcast_does_not_wait_for_the_dead_before_it_goes_on() {
    let (silent, bob) = (Silent::start().await, FakeGateway::start(Script::new()).await);
    let team = Team::new([
        ("Dead1", silent.url()),
        ("Dead2", silent.url()),
        ("Bob", bob.url()),
        ("Dead3", silent.url()),
        ("Carol", bob.url()),
    ]);
    for name in ["dead1", "dead2", "bob", "dead3", "carol"] {
        team.token_for(name, TOKEN);
    }
    let mut order = Order::default();
    let request = BroadcastRequest { concurrency: 1, ..request() };
    let (_, records) = broadcast(&team.mesh, &request, std::future::pending(), &mut order).await.unwrap();
    assert_eq!(order.0[..2], ["bob", "carol"]);
    let states: Vec<State> = records.iter().map(|record| record.state).collect();
    let (dead, live) = (State::Unreachable, State::Replied);
    assert_eq!(states, [dead, dead, live, dead, live]);
}

/// Each rewrote the file with the tokens of all.
#[tokio::test]
async fn what_gateways_issue_in_a_broadcast_is_kept_at_its_end_also_if_it_is_broken_off() {
    let script = || Script::new().shared_token(TOKEN).issues_device_token("tok-device");
    let (quick, never) =
        (FakeGateway::start(script()).await, FakeGateway::start(script().reply(|_| Reply::never())).await);
    let peers = names("Peer", 40);
    for (gateway, breaks_off) in [(&quick, false), (&never, true)] {
        let team = Team::new(peers.iter().map(|name| (*name, gateway.url())));
        peers.iter().for_each(|name| team.token_for(&name.to_lowercase(), TOKEN));
        let (request, mut unobserved) = (request(), Unobserved);
        let run = broadcast(&team.mesh, &request, std::future::pending(), &mut unobserved);
        if breaks_off {
            tokio::select! {
                _ = run => panic!("nobody ever answers"),
                () = gateway.until(|gateway| gateway.requests("agent").len() == peers.len()) => {}
            }
        } else {
            assert_eq!(run.await.unwrap().1.len(), peers.len());
        }
        let ours = team.mesh.device().unwrap().id();
        assert_eq!(team.mesh.device_token_store().all(Some(ours)).unwrap().ours.len(), peers.len());
        let team = team.next_run(|_| {});
        assert_eq!(team.mesh.pins().all().unwrap().len(), peers.len());
    }
}

/// Bob is so far away that his turn goes to Carol while he is dialled; and Carol says nothing for as long as one waits.
#[tokio::test]
async fn the_time_that_others_took_is_not_taken_from_a_message() {
    let bob = FakeGateway::start(Script::new().reply(|_| Reply::text("here"))).await;
    let far = DelayProxy::start(bob.address(), Duration::from_millis(100)).await;
    let carol = Script::new().reply(|_| Reply::text("late").after(Duration::from_secs(60)));
    let carol = FakeGateway::start(carol).await;
    let team = Team::new([("Bob", far.url()), ("Carol", carol.url())]);
    for name in ["bob", "carol"] {
        team.token_for(name, TOKEN);
    }
    let send = message("standup?", Duration::from_millis(1500));
    let request = BroadcastRequest { send, concurrency: 1, ..request() };
    let (_, records) =
        broadcast(&team.mesh, &request, std::future::pending(), &mut Unobserved).await.unwrap();
    let states: Vec<State> = records.iter().map(|record| record.state).collect();
    assert_eq!(states, [State::Replied, State::Accepted], "{records:?}");
}

/// A disk that fills while a message is under way: it was told as failed, its sender was told to send it again, and whoever
/// asked after it made it leave, too.
#[tokio::test]
async fn what_the_log_has_as_under_way_is_not_told_as_failed() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN)).await;
    let log = rusqlite::Connection::open(team.mesh.archive().unwrap().path()).unwrap();
    log.busy_timeout(SOON).unwrap();
    let full = "CREATE TRIGGER full BEFORE UPDATE ON messages BEGIN SELECT RAISE(ABORT, 'no room'); END";
    log.execute_batch(full).unwrap();
    let (_, records) =
        broadcast(&team.mesh, &request(), std::future::pending(), &mut Unobserved).await.unwrap();
    assert_eq!(records[0].state, State::Unknown, "{records:?}");
    assert!(matches!(records[0].error, Some(MeshError::Unknown { .. })));
    assert_eq!(bob.ledger().total(), 0);
    log.execute_batch("DROP TRIGGER full").unwrap();
    let record = wait(&team.mesh, &records[0].id, SOON, &mut Unobserved).await.unwrap();
    assert_eq!((record.state, bob.ledger().total()), (State::Replied, 1));
}
