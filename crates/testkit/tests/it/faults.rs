//! Every cut in every way, and noise.

use std::time::Duration;

use agent_mesh_testkit::{Cut, FakeGateway, Fault, How, Noise, Reply, Script};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::peer::{Peer, TestResult, connected, pipe, reply_text, send_params, tcp, upgrade};

/// A whole conversation, as far as it gets.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    peer: TestResult<Peer<S>>,
    steps: &mut Vec<&'static str>,
) {
    let Ok(mut peer) = peer else { return };
    steps.push("upgrade");
    if peer.hello(|_| {}).await.is_err() {
        return;
    }
    steps.push("hello");
    if peer.request("1", "agent", send_params("x", "key", "text")).await.is_err()
        || peer.response().await.is_err()
    {
        return;
    }
    steps.push("accepted");
    if peer.response().await.is_err() {
        return;
    }
    steps.push("final");
    if peer.request("2", "health", json!({})).await.is_ok() && peer.response().await.is_ok() {
        steps.push("health");
    }
}

fn cut_script(cut: Cut, how: How) -> Script {
    let fault = Fault::new(cut, how);
    // The connect frame is a request as well, in name.
    let fault = if cut == Cut::AfterRequestReceived { fault.of("agent") } else { fault };
    Script::new().reply(|turn| Reply::text(&turn.message).deltas(["te", "xt"])).fault(fault)
}

/// How many steps a client completes, and how often the turn is run, at each cut.
fn expected(cut: Cut) -> (usize, usize) {
    match cut {
        Cut::AfterTcp => (0, 0),
        Cut::AfterUpgrade | Cut::AfterChallenge | Cut::AfterConnectReceived => (1, 0),
        Cut::AfterHello | Cut::AfterRequestReceived => (2, 0),
        Cut::BeforeAccepted => (2, 1),
        Cut::AfterAccepted | Cut::MidStream => (3, 1),
        Cut::AfterFinal => (4, 1),
    }
}

#[tokio::test(start_paused = true)]
async fn every_cut_ends_the_conversation_at_its_point() {
    for cut in Cut::ALL {
        for how in How::ALL {
            let gateway = FakeGateway::in_memory(cut_script(cut, how));
            let mut steps = Vec::new();
            let conversation = async { converse(pipe(&gateway).await, &mut steps).await };
            let ended = timeout(Duration::from_secs(600), conversation).await.is_ok();
            assert_eq!(steps.len(), expected(cut).0, "{cut:?} {how:?}: {steps:?}");
            assert_eq!(ended, !matches!(how, How::Silence | How::Freeze), "{cut:?} {how:?}");
            gateway.until(|gateway| gateway.ledger().total() == expected(cut).1).await;
        }
    }
}

#[tokio::test]
async fn every_cut_over_tcp() {
    for cut in Cut::ALL {
        for how in [How::Close(4321), How::Drop, How::Reset] {
            let gateway = FakeGateway::start(cut_script(cut, how)).await;
            let mut steps = Vec::new();
            converse(tcp(gateway.address()).await, &mut steps).await;
            assert!(steps.len() <= expected(cut).0, "{cut:?} {how:?}: {steps:?}");
            // A reset may overtake frames that were sent before it; the other ways may not.
            if how != How::Reset {
                assert_eq!(steps.len(), expected(cut).0, "{cut:?} {how:?}: {steps:?}");
            }
            gateway.until(|gateway| gateway.ledger().total() == expected(cut).1).await;
        }
    }
}

#[tokio::test]
async fn a_reset_is_seen_as_one() {
    let gateway = FakeGateway::start(Script::new().fault(Fault::new(Cut::AfterHello, How::Reset))).await;
    let mut peer = tcp(gateway.address()).await.unwrap();
    let _ = peer.hello(|_| {}).await;
    let error = peer.next().await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("reset"), "{error}");
}

#[tokio::test]
async fn a_close_frame_carries_its_code() {
    let gateway =
        FakeGateway::start(Script::new().fault(Fault::new(Cut::AfterHello, How::Close(4321)))).await;
    let mut peer = tcp(gateway.address()).await.unwrap();
    peer.hello(|_| {}).await.unwrap();
    assert_eq!(peer.close_code().await, Some(4321));
}

#[tokio::test]
async fn a_lost_answer_is_found_on_the_next_connection() {
    let fault = Fault::new(Cut::AfterAccepted, How::Drop).of("agent").on_connection(1).once();
    let gateway = FakeGateway::in_memory(Script::new().fault(fault));
    let mut first = connected(&gateway).await;
    assert!(first.agent("key", "text").await.is_err());
    let mut second = connected(&gateway).await;
    let answer = second.call("agent", send_params("mesh:alice", "key", "text")).await;
    assert_eq!(answer["result"]["payloads"][0]["text"], "echo: text");
    assert_eq!(gateway.ledger().runs_of_key("key"), 1);
    assert_eq!(gateway.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn silence_still_pongs_and_freeze_does_not() {
    for (how, answered) in [(How::Silence, true), (How::Freeze, false)] {
        let gateway = FakeGateway::in_memory(Script::new().fault(Fault::new(Cut::AfterHello, how)));
        let mut peer = connected(&gateway).await;
        futures_util::SinkExt::send(&mut peer.ws, Message::Ping(vec![1].into())).await.unwrap();
        let pong = timeout(Duration::from_secs(60), peer.ws.next()).await;
        assert_eq!(matches!(pong, Ok(Some(Ok(Message::Pong(_))))), answered, "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ticks_and_pings_come_and_stop() {
    let script = Script::new().tick_every(Duration::from_secs(10)).ping_every(Duration::from_secs(4));
    let gateway = FakeGateway::in_memory(script.stops_after_ticks(3));
    let mut peer = connected(&gateway).await;
    let started = Instant::now();
    for n in 1..=3 {
        assert_eq!(peer.next().await.unwrap()["event"], "tick");
        assert_eq!(started.elapsed().as_secs(), n * 10);
    }
    assert!(timeout(Duration::from_secs(3600), peer.next()).await.is_err(), "no more ticks");
    assert_eq!(peer.call("health", json!({})).await["ok"], true, "but still there");
    assert!(gateway.pongs() >= 5);
}

#[tokio::test]
async fn noise_surrounds_every_response() {
    let mut script = Script::new();
    for noise in [
        Noise::UnknownId,
        Noise::Events(4),
        Noise::Text("{\"type\":".into()),
        Noise::Text("[1,2]".into()),
        Noise::Binary(vec![0xde, 0xad]),
        Noise::Ping,
        Noise::BigEvent(2),
        Noise::Duplicate,
    ] {
        script = script.noise(noise);
    }
    let gateway = FakeGateway::in_memory(script);
    let mut peer = connected(&gateway).await;
    peer.request("1", "health", json!({})).await.unwrap();
    let mut frames: Vec<Value> = Vec::new();
    while frames.iter().filter(|frame| frame["id"] == "1").count() < 2 {
        frames.push(peer.next().await.unwrap());
    }
    assert_eq!(frames[0]["id"], "nobody-asked");
    assert_eq!(frames.iter().filter(|frame| frame["type"] == "event").count(), 5);
    assert!(frames.iter().any(|frame| frame.to_string().len() > 2 << 20));
    assert!(frames.contains(&Value::Null) && frames.contains(&json!([1, 2])));
}

#[tokio::test]
async fn fragments_arrive_whole() {
    let script = Script::new().fragments(1).reply(|_| Reply::text("grüße, 世界"));
    let gateway = FakeGateway::in_memory(script);
    let mut peer = connected(&gateway).await;
    let (_, second) = peer.agent("k", "hi").await.unwrap();
    assert_eq!(reply_text(&second), "grüße, 世界");
}

#[tokio::test]
async fn frames_over_the_limit_close_with_1009_and_bad_ones_are_survived() {
    let gateway = FakeGateway::start(Script::new().max_payload(100_000)).await;
    let mut peer = tcp(gateway.address()).await.unwrap();
    peer.hello(|_| {}).await.unwrap();
    futures_util::SinkExt::send(&mut peer.ws, Message::text("not json")).await.unwrap();
    peer.send(&json!({"type": "req", "id": "x", "method": "health", "surprise": 1})).await.unwrap();
    assert_eq!(peer.response().await.unwrap()["error"]["code"], "INVALID_REQUEST");
    peer.send(&json!([])).await.unwrap();
    assert_eq!(peer.response().await.unwrap()["id"], "invalid");
    peer.request("big", "health", json!({"x": "y".repeat(200_000)})).await.unwrap();
    assert_eq!(peer.close_code().await, Some(1009));
}

#[tokio::test]
async fn any_stream_will_do() {
    let (client, server) = tokio::io::duplex(256);
    let gateway = Script::new().run_on(server);
    let mut peer = upgrade(client).await.unwrap();
    assert_eq!(peer.hello(|_| {}).await.unwrap()["ok"], true);
    assert_eq!(gateway.open_connections(), 1);
    drop(peer);
    gateway.until(|gateway| gateway.open_connections() == 0).await;
}

#[tokio::test]
async fn dropping_the_gateway_ends_its_connections() {
    let gateway = FakeGateway::start(Script::new().fault(Fault::new(Cut::AfterHello, How::Freeze))).await;
    let mut peer = tcp(gateway.address()).await.unwrap();
    peer.hello(|_| {}).await.unwrap();
    let address = gateway.address();
    drop(gateway);
    assert!(peer.next().await.is_err());
    assert!(tcp(address).await.is_err());
}
