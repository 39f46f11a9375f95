//! Every cut, in every way: a typed error before the deadline, and nothing left behind.

use agent_mesh_testkit::{Cut, FakeGateway, Fault, How, Reply, Script};
use openclaw_client::protocol::methods::agent::Outcome;
use openclaw_client::protocol::methods::info::Health;
use openclaw_client::{CallError, ConnectError, Lost, Step};
use tokio::time::{Duration, Instant};

use crate::caller::{connect, connect_to, turn, within};

/// Where a conversation got, and how it ended there.
#[derive(Debug)]
enum End {
    Connecting(ConnectError),
    Accepting(CallError),
    Answering(CallError),
    AfterAnswer(CallError),
    Never,
}

async fn converse(gateway: &FakeGateway, tcp: bool, deadline: Instant) -> End {
    let connected = match tcp {
        true => connect_to(&gateway.url(), deadline).await,
        false => connect(gateway, deadline).await,
    };
    let client = match connected {
        Ok(client) => client,
        Err(error) => return End::Connecting(error),
    };
    let run = match client.start(&turn("key", "text"), deadline).await {
        Ok(run) => run,
        Err(error) => return End::Accepting(error),
    };
    match run.finished(deadline).await {
        Ok(outcome) => assert_eq!(outcome, Outcome::Reply("text".into())),
        Err(error) => return End::Answering(error),
    }
    client.call(&Health {}, deadline).await.err().map_or(End::Never, End::AfterAnswer)
}

fn script(cut: Cut, how: How) -> Script {
    let fault = Fault::new(cut, how);
    let fault = if cut == Cut::AfterRequestReceived { fault.of("agent") } else { fault };
    Script::new().reply(|_| Reply::text("text").deltas(["te", "xt"])).fault(fault)
}

fn step_of(cut: Cut) -> Step {
    match cut {
        Cut::AfterTcp => Step::Ws,
        Cut::AfterUpgrade => Step::Challenge,
        _ => Step::Auth,
    }
}

#[tokio::test(start_paused = true)]
async fn every_ending_is_seen_at_once_and_told_apart() {
    for cut in Cut::ALL {
        for how in [How::Close(1011), How::Drop] {
            let gateway = FakeGateway::in_memory(script(cut, how));
            let started = Instant::now();
            let end = converse(&gateway, false, within(30)).await;
            assert!(started.elapsed() < Duration::from_secs(3), "{cut:?} {how:?}: {end:?}");
            let lost = match (cut, end) {
                (Cut::AfterTcp, End::Connecting(ConnectError::Lost { step: Step::Ws, .. })) => continue,
                (
                    Cut::AfterUpgrade | Cut::AfterChallenge | Cut::AfterConnectReceived,
                    End::Connecting(ConnectError::Lost { step, how }),
                ) => {
                    assert_eq!(step, step_of(cut));
                    how
                }
                (
                    Cut::AfterHello | Cut::AfterRequestReceived | Cut::BeforeAccepted,
                    End::Accepting(CallError::Lost(lost) | CallError::Unsent(lost)),
                )
                | (Cut::AfterAccepted | Cut::MidStream, End::Answering(CallError::Lost(lost)))
                | (Cut::AfterFinal, End::AfterAnswer(CallError::Lost(lost) | CallError::Unsent(lost))) => {
                    lost
                }
                (_, end) => panic!("{cut:?} {how:?}: {end:?}"),
            };
            match (how, lost) {
                (How::Close(code), Lost::Closed { code: seen, reason }) => {
                    assert_eq!((seen, reason.as_str()), (code, "testkit"), "{cut:?}");
                }
                (How::Drop, Lost::Dropped(_)) => {}
                (_, lost) => panic!("{cut:?} {how:?}: {lost:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_deadline() {
    for cut in Cut::ALL {
        for how in [How::Silence, How::Freeze] {
            let gateway = FakeGateway::in_memory(script(cut, how));
            let started = Instant::now();
            let end = converse(&gateway, false, within(30)).await;
            let right = match &end {
                End::Connecting(ConnectError::Deadline(step)) => *step == step_of(cut),
                End::Accepting(CallError::Deadline) => {
                    matches!(cut, Cut::AfterHello | Cut::AfterRequestReceived | Cut::BeforeAccepted)
                }
                End::Answering(CallError::Deadline) => matches!(cut, Cut::AfterAccepted | Cut::MidStream),
                End::AfterAnswer(CallError::Deadline) => cut == Cut::AfterFinal,
                _ => false,
            };
            assert!(right, "{cut:?} {how:?}: {end:?}");
            assert_eq!(started.elapsed().as_secs(), 30, "{cut:?} {how:?}: {end:?}");
        }
    }
}

#[tokio::test]
async fn the_same_over_tcp_with_resets() {
    for cut in Cut::ALL {
        for how in [How::Close(1011), How::Drop, How::Reset] {
            let gateway = FakeGateway::start(script(cut, how)).await;
            let started = Instant::now();
            let end = converse(&gateway, true, within(20)).await;
            // A reset may overtake what was sent before it, so only the kind of the error is certain.
            let lost = matches!(
                &end,
                End::Connecting(ConnectError::Lost { .. })
                    | End::Accepting(CallError::Lost(_) | CallError::Unsent(_))
                    | End::Answering(CallError::Lost(_))
                    | End::AfterAnswer(CallError::Lost(_) | CallError::Unsent(_))
            );
            assert!(lost, "{cut:?} {how:?}: {end:?}");
            assert!(started.elapsed() < Duration::from_secs(10), "{cut:?} {how:?}: {end:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_task_outlives_its_connection() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    for cut in Cut::ALL {
        for how in How::ALL {
            let gateway = FakeGateway::in_memory(script(cut, how));
            converse(&gateway, false, within(30)).await;
            gateway.kill().await;
        }
    }
    // Saying goodbye to a gateway that does not listen takes a moment of (virtual) time.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(alive(), before);
}
