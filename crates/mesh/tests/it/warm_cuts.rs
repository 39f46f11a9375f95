//! A kept connection that ends at every point of a message's life: no message is lost, and none runs twice.

use std::cell::Cell;

use agent_mesh_testkit::{Cut, DelayProxy, Direction, FakeGateway, Fault, How, Reply, Script};
use agent_team_mesh::ops::send::SendRequest;
use agent_team_mesh::ops::wait::wait;
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::record::State;
use agent_team_mesh::registry::Via;
use futures_util::future::join_all;
use tokio::time::Duration;

use crate::team::{TOKEN, Team, message};

/// Where a message can be when the connection that it shares with earlier ones ends.
const CUTS: [Cut; 5] =
    [Cut::AfterRequestReceived, Cut::BeforeAccepted, Cut::AfterAccepted, Cut::MidStream, Cut::AfterFinal];

/// The first message goes by the other route, so that the fault strikes the second alone.
#[tokio::test]
async fn a_kept_connection_cut_at_any_point_costs_no_reply_and_no_second_turn() {
    let trials = CUTS.iter().flat_map(|cut| How::ALL.map(|how| (*cut, how)));
    join_all(trials.map(async |(cut, how)| {
        let script = Script::new()
            .tick_every(Duration::from_secs(1))
            .fault(Fault::new(cut, how).of("agent").on_connection(1))
            .reply(|turn| Reply::text(format!("re: {}", turn.message)).deltas(["re: "]));
        let (team, bob) = Team::with_bob(script).await;
        let team = team.staying();
        let first = SendRequest { via: Some(Via::Chat), ..message("first", Duration::from_secs(30)) };
        assert_eq!(team.say_how(&first).await.state, State::Replied);
        let record = team.say_how(&message("second", Duration::from_secs(30))).await;
        let reply = record.reply.as_ref().map(|reply| reply.text.as_str());
        assert_eq!(reply, Some("re: second"), "{cut:?} {how:?}: {record:?}");
        let sent = bob.received().into_iter().filter(|received| received.frame["method"] == "agent");
        assert_eq!(sent.map(|received| received.connection).next(), Some(1), "it left over the kept one");
        assert_eq!(bob.ledger().runs_of_text("second"), 1, "{cut:?} {how:?}");
        let after = team.say_how(&message("third", Duration::from_secs(30))).await;
        assert_eq!(after.state, State::Replied, "{cut:?} {how:?}: {after:?}");
        assert_eq!((bob.connections(), bob.ledger().total()), (2, 3), "{cut:?} {how:?}");
    }))
    .await;
}

/// xorshift64*: random enough for where to cut, and the same everywhere.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, limit: u64) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % limit
    }
}

/// What one lane saw.
#[derive(Debug, Default)]
struct Count {
    messages: usize,
    connections: u32,
    replied: usize,
    lost: usize,
    doubled: usize,
}

const LANES: u64 = 8;
const MESSAGES: usize = 40;

/// Connections that are cut in the middle of whatever bytes, and gateways that are killed, while several messages at a
/// time share what is kept.
#[tokio::test]
async fn random_cuts_of_kept_connections_lose_and_double_nothing() {
    let seed = 0x5EED_2026_1125;
    let counts = join_all((1..=LANES).map(|lane| async move { self::lane(seed * lane).await })).await;
    let sum = |of: fn(&Count) -> usize| counts.iter().map(of).sum::<usize>();
    let connections: u32 = counts.iter().map(|count| count.connections).sum();
    let (messages, replied) = (sum(|count| count.messages), sum(|count| count.replied));
    println!("seed {seed:#x}: {messages} messages over {connections} connections, {replied} replied");
    assert_eq!((sum(|count| count.lost), sum(|count| count.doubled)), (0, 0), "{counts:?}");
    assert!(replied == messages, "{counts:?}");
    let connections = usize::try_from(connections).unwrap();
    assert!(connections > messages / 10, "the cuts are to hit: {connections} connections");
    assert!(connections < messages, "and connections are to be kept: {connections} of them");
}

async fn lane(seed: u64) -> Count {
    let random = Random(Cell::new(seed));
    let script = Script::new().recovers_after(Duration::from_millis(20)).reply(|turn| {
        Reply::text(format!("re: {}", turn.message)).after(Duration::from_millis(2)).deltas(["re: "])
    });
    let bob = FakeGateway::start(script).await;
    let proxy = DelayProxy::start(bob.address(), Duration::ZERO).await;
    let team = Team::new([("Bob", proxy.url())]);
    team.token_for("bob", TOKEN);
    let team = team.staying();
    // Something stands in the session from the start: an empty history proves nothing.
    assert_eq!(team.say("before all this").await.state, State::Replied);
    for _ in 0..10 * MESSAGES {
        // Beyond what it takes to be let in, so that it hits a message.
        let (direction, least, most) = match random.below(2) {
            0 => (Direction::ToTarget, 1_300, 4_000),
            _ => (Direction::ToClient, 17_500, 30_000),
        };
        proxy.cut_next(direction, least + random.below(most - least), random.below(2) == 0);
    }
    let mut count = Count::default();
    while count.messages < MESSAGES {
        let at_once = 1 + usize::try_from(random.below(3)).unwrap();
        let texts: Vec<String> =
            (0..at_once).map(|n| format!("message {} of {seed:x}", count.messages + n)).collect();
        let told = join_all(texts.iter().map(|text| see_through(&team, text)));
        let killed = async {
            if random.below(10) == 0 {
                tokio::time::sleep(Duration::from_micros(random.below(20_000))).await;
                bob.kill().await;
            }
        };
        let (told, ()) = tokio::join!(told, killed);
        for (text, reply) in texts.iter().zip(told) {
            count.messages += 1;
            let runs = bob.ledger().runs_of_text(text);
            count.doubled += usize::from(runs > 1);
            count.replied += usize::from(reply.as_deref() == Some(&format!("re: {text}")) && runs == 1);
            count.lost += usize::from(reply.is_none());
        }
    }
    count.connections = bob.connections();
    count
}

/// Sends it, and waits for it as often as its sender would.
async fn see_through(team: &Team, text: &str) -> Option<String> {
    let mut record = team.say_how(&message(text, Duration::from_secs(20))).await;
    for _ in 0..3 {
        match record.state {
            State::Replied => return record.reply.map(|reply| reply.text),
            // It never got in, and its sender is told so: he says it again.
            State::Unreachable | State::Failed => {
                record = team.say_how(&message(text, Duration::from_secs(20))).await;
            }
            _ => {
                let mesh = team.mesh.reread();
                record = wait(&mesh, &record.id, Duration::from_secs(20), &mut Unobserved).await.unwrap();
            }
        }
    }
    record.reply.map(|reply| reply.text)
}
