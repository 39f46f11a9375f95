//! Deadlines are absolute, liveness is measured, and nobody is left waiting.

use agent_mesh_testkit::{Cut, FakeGateway, Fault, How, Noise, Reply, Script};
use openclaw_client::protocol::methods::info::Health;
use openclaw_client::{CallError, Client, Lost};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use crate::caller::{ask, connect, turn, within};

async fn fails_after(seconds: u64, script: Script, deadline: u64) -> CallError {
    let gateway = FakeGateway::in_memory(script);
    let client = connect(&gateway, within(5)).await.unwrap();
    let started = Instant::now();
    let error = ask(&client, "k", "hi", within(deadline)).await.unwrap_err();
    assert_eq!(started.elapsed().as_secs(), seconds, "{error:?}");
    error
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_not_put_off_by_signs_of_life() {
    // Ticks, pings and deltas come all the time; the run never ends.
    let deltas = vec!["."; 10_000];
    let script = Script::new()
        .tick_every(Duration::from_secs(1))
        .ping_every(Duration::from_secs(1))
        .noise(Noise::Events(10))
        .reply(move |_| Reply::never().deltas(deltas.clone()).every(Duration::from_secs(1)));
    assert!(matches!(fails_after(100, script, 100).await, CallError::Deadline));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_spans_both_answers() {
    let gateway =
        FakeGateway::in_memory(Script::new().reply(|_| Reply::text("late").after(Duration::from_secs(61))));
    let client = connect(&gateway, within(5)).await.unwrap();
    let deadline = within(60);
    let run = client.start(&turn("k", "hi"), deadline).await.unwrap();
    sleep(Duration::from_secs(59)).await;
    let started = Instant::now();
    assert!(matches!(run.finished(deadline).await, Err(CallError::Deadline)));
    assert_eq!(started.elapsed().as_secs(), 1);
    // The late answer finds nobody and disturbs nobody.
    sleep(Duration::from_secs(10)).await;
    assert!(client.call(&Health {}, within(5)).await.unwrap().ok);
}

#[tokio::test(start_paused = true)]
async fn ticks_keep_a_long_run_alive() {
    let hours = Duration::from_secs(5 * 3600);
    let script = Script::new().ping_every(2 * hours).reply(move |_| Reply::text("at last").after(hours));
    let gateway = FakeGateway::in_memory(script);
    let client = connect(&gateway, within(5)).await.unwrap();
    ask(&client, "k", "hi", within(6 * 3600)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_silent_intervals_end_the_connection() {
    // The last tick comes after 30 s; silence is noticed two intervals of 10 s later.
    let script =
        Script::new().tick_every(Duration::from_secs(10)).stops_after_ticks(3).reply(|_| Reply::never());
    let error = fails_after(50, script, 600).await;
    assert!(matches!(error, CallError::Lost(Lost::Silent)), "{error:?}");
    for how in [How::Silence, How::Freeze] {
        let script = Script::new().fault(Fault::new(Cut::AfterAccepted, how));
        let error = fails_after(60, script, 600).await;
        assert!(matches!(error, CallError::Lost(Lost::Silent)), "{how:?}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stops_reading_does_not_hold_a_large_request_up() {
    let script = Script::new().fault(Fault::new(Cut::AfterHello, How::Freeze));
    let gateway = FakeGateway::in_memory(script);
    let client = connect(&gateway, within(5)).await.unwrap();
    let started = Instant::now();
    let error = ask(&client, "k", &"x".repeat(5 << 20), within(10)).await.unwrap_err();
    assert!(matches!(error, CallError::Deadline), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 10);
}

/// Thirty requests and thirty runs that nobody answers.
fn crowd(client: &Client) -> JoinSet<CallError> {
    let mut waiting = JoinSet::new();
    for n in 0..30 {
        let caller = client.clone();
        waiting
            .spawn(async move { ask(&caller, &format!("run-{n}"), "hi", within(3600)).await.unwrap_err() });
        let caller = client.clone();
        waiting.spawn(async move {
            let wait = openclaw_client::protocol::methods::agent::AgentWait {
                run_id: format!("unknown-{n}"),
                timeout_ms: Some(3_600_000),
            };
            caller.call(&wait, within(3600)).await.unwrap_err()
        });
    }
    waiting
}

#[tokio::test(start_paused = true)]
async fn when_the_connection_dies_everybody_learns_of_it_at_once() {
    for how in [How::Drop, How::Close(1012)] {
        let gateway = FakeGateway::in_memory(Script::new().reply(|_| Reply::never()));
        let client = connect(&gateway, within(5)).await.unwrap();
        let mut waiting = crowd(&client);
        gateway
            .until(|gateway| gateway.ledger().total() == 30 && gateway.requests("agent.wait").len() == 30)
            .await;
        let died = Instant::now();
        gateway.disconnect(how).await;
        let mut told = 0;
        while let Some(error) = waiting.join_next().await {
            match (how, error.unwrap()) {
                (How::Close(_), CallError::Lost(Lost::Closed { code: 1012, reason })) => {
                    assert_eq!(reason, "service restart");
                }
                (How::Drop, CallError::Lost(Lost::Dropped(_))) => {}
                (_, error) => panic!("{how:?}: {error:?}"),
            }
            told += 1;
        }
        assert_eq!(told, 60);
        assert!(died.elapsed() < Duration::from_secs(1), "{:?}", died.elapsed());
        // And whoever asks now is told that it did not even leave.
        assert!(client.has_ended());
        let error = client.call(&Health {}, within(3600)).await.unwrap_err();
        assert!(matches!(error, CallError::Unsent(_)), "{error:?}");
        assert!(client.tell(&Health {}).is_ok());
        assert!(died.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_nothing_behind() {
    let gateway =
        FakeGateway::in_memory(Script::new().reply(|_| Reply::text("late").after(Duration::from_secs(5))));
    let client = connect(&gateway, within(5)).await.unwrap();
    for n in 0..100 {
        let run = client.start(&turn(&format!("k{n}"), "hi"), within(5)).await.unwrap();
        drop(run);
    }
    sleep(Duration::from_secs(30)).await;
    assert_eq!(
        ask(&client, "last", "hi", within(10)).await.unwrap(),
        openclaw_client::protocol::methods::agent::Outcome::Reply("late".into())
    );
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    drop(client);
    gateway.until(|gateway| gateway.open_connections() == 0).await;
    gateway.kill().await;
    sleep(Duration::from_secs(1)).await;
    assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() < alive);
}
