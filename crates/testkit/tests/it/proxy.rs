//! The slow line.

use std::time::{Duration, Instant};

use agent_mesh_testkit::{DelayProxy, Direction, FakeGateway, Reply, Script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::peer::{reply_text, tcp};

#[tokio::test]
async fn it_delays_each_way_and_does_not_limit_the_throughput() {
    let delay = Duration::from_millis(60);
    let text = "x".repeat(8 << 20);
    let expected = text.len();
    let gateway = FakeGateway::start(Script::new().reply(move |_| Reply::text(&text))).await;
    let proxy = DelayProxy::start(gateway.address(), delay).await;
    let started = Instant::now();
    let mut peer = tcp(proxy.address()).await.unwrap();
    assert!(started.elapsed() >= 2 * delay, "the upgrade is one round trip");
    peer.hello(|_| {}).await.unwrap();
    let started = Instant::now();
    let (_, second) = peer.agent("k", "hi").await.unwrap();
    let took = started.elapsed();
    assert_eq!(reply_text(&second).len(), expected);
    // 8 MiB in 64 KiB pieces would take 7.7 s if each piece waited for its delay by itself.
    assert!(took >= 2 * delay && took < Duration::from_secs(4), "{took:?}");
    assert!(proxy.forwarded(Direction::ToClient) > 8 << 20);
}

#[tokio::test]
async fn connecting_to_somebody_far_away_takes_a_round_trip_of_its_own() {
    let delay = Duration::from_millis(40);
    let gateway = FakeGateway::start(Script::new()).await;
    let proxy = DelayProxy::far(gateway.address(), delay).await;
    let started = Instant::now();
    let mut peer = tcp(proxy.address()).await.unwrap();
    assert!(started.elapsed() >= 4 * delay, "TCP's round trip and the upgrade's");
    peer.hello(|_| {}).await.unwrap();
}

#[tokio::test]
async fn it_cuts_after_exactly_so_many_bytes() {
    for reset in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = DelayProxy::start(listener.local_addr().unwrap(), Duration::ZERO).await;
        proxy.cut_next(Direction::ToTarget, 1000, reset);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(&[7; 5000]).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        let end = server.read_to_end(&mut bytes).await;
        if reset {
            assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        } else {
            assert_eq!(bytes.len(), 1000);
        }
        assert_eq!(proxy.forwarded(Direction::ToTarget), 1000);
        assert_eq!(proxy.connections(), 1);
    }
}

#[tokio::test]
async fn later_connections_are_whole_and_all_can_be_cut_at_once() {
    let gateway = FakeGateway::start(Script::new()).await;
    let proxy = DelayProxy::start(gateway.address(), Duration::from_millis(1)).await;
    proxy.cut_next(Direction::ToClient, 200, false);
    let mut broken = tcp(proxy.address()).await.unwrap();
    assert!(broken.hello(|_| {}).await.is_err());
    let mut peer = tcp(proxy.address()).await.unwrap();
    peer.hello(|_| {}).await.unwrap();
    proxy.cut_now();
    assert!(peer.next().await.is_err());
    gateway.until(|gateway| gateway.open_connections() == 0).await;
    assert_eq!(proxy.url(), format!("ws://{}", proxy.address()));
}
