//! Connections cut after a random number of bytes, over TCP: a typed error, and the turn runs once.

use agent_mesh_testkit::{DelayProxy, Direction, FakeGateway, Reply, Script};
use openclaw_client::protocol::methods::agent::Outcome;
use openclaw_client::{CallError, ConnectError};
use tokio::time::{Duration, timeout};

use crate::caller::{ask, connect_to, within};

/// xorshift64*: random enough for where to cut, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

/// Asks until the answer is there, with the same key: the gateway stays up, so it may be sent again.
async fn ask_until_answered(url: &str, key: &str) -> (Outcome, u32) {
    for attempt in 0.. {
        match connect_to(url, within(20)).await {
            Ok(client) => match ask(&client, key, key, within(20)).await {
                Ok(outcome) => return (outcome, attempt),
                Err(CallError::Lost(_) | CallError::Unsent(_)) => {}
                Err(error) => panic!("{key}: {error:?}"),
            },
            Err(ConnectError::Lost { .. }) => {}
            Err(error) => panic!("{key}: {error:?}"),
        }
    }
    unreachable!("an endless loop")
}

#[tokio::test]
async fn two_hundred_random_cuts_and_no_turn_runs_twice() {
    let seed = 0x5EED_2026_1123;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let gateway =
        FakeGateway::start(Script::new().reply(|turn| Reply::text(format!("re {}", turn.message)))).await;
    let proxy = DelayProxy::start(gateway.address(), Duration::ZERO).await;
    let url = proxy.url();
    let mut hurt = 0;
    for n in 0..200 {
        let (direction, most) =
            if random.below(2) == 0 { (Direction::ToTarget, 1_500) } else { (Direction::ToClient, 26_000) };
        let (after, reset) = (random.below(most), random.below(2) == 0);
        proxy.cut_next(direction, after, reset);
        let key = format!("message-{n}");
        let asked = timeout(Duration::from_secs(60), ask_until_answered(&url, &key));
        let (outcome, attempts) =
            asked.await.unwrap_or_else(|_| panic!("hangs: {direction:?} {after} {reset}"));
        assert_eq!(outcome, Outcome::Reply(format!("re {key}")), "{direction:?} {after} {reset}");
        hurt += u32::from(attempts > 0);
        assert_eq!(gateway.ledger().runs_of_text(&key), 1, "{direction:?} {after} {reset}");
    }
    println!("{hurt} of 200 conversations were cut before their answer");
    assert!(hurt > 150, "the cuts are to hit: {hurt}");
    assert!(gateway.ledger().repeated().is_empty());
}
