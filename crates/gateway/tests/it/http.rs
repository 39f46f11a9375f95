//! The port seen by an HTTP client.

use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::*;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// One request; gives the status and the body.
async fn ask(gateway: &Fixture, from: &str, line: &str, fields: &str) -> (u16, String) {
    let mut stream = gateway.stream(from);
    let request = format!("{line} HTTP/1.1\r\nHost: gateway\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn health_is_open_to_everybody() {
    let gateway = Fixture::echo().await;
    let live = r#"{"ok":true,"status":"live"}"#;
    for (path, body) in [
        ("/healthz", live),
        ("/health", live),
        ("/readyz", r#"{"ready":true}"#),
        ("/ready", r#"{"ready":true}"#),
    ] {
        assert_eq!(ask(&gateway, BOB, &format!("GET {path}"), "").await, (200, body.to_owned()));
    }
    let (status, page) = ask(&gateway, BOB, "GET /", "").await;
    assert!(status == 200 && page.starts_with("<!doctype html>"));
    assert_eq!(ask(&gateway, BOB, "GET /v1/models", "").await, (404, r#"{"error":"not_found"}"#.to_owned()));
    assert_eq!(ask(&gateway, BOB, "POST /healthz", "Content-Length: 0\r\n").await.0, 405);
}

#[tokio::test]
async fn a_proxy_on_loopback_is_refused() {
    let gateway = Fixture::echo().await;
    for mark in ["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9", "Forwarded: for=203.0.113.9"] {
        let (status, body) = ask(&gateway, LOCAL, "GET /", &format!("{mark}\r\n{UPGRADE}")).await;
        assert!(status == 403 && body.contains("proxy_attribution_required"), "{mark}: {body}");
    }
}

#[tokio::test]
async fn a_half_upgrade_is_refused() {
    let gateway = Fixture::echo().await;
    for (line, drop) in [
        ("GET /", "Sec-WebSocket-Key"),
        ("GET /", "Sec-WebSocket-Version"),
        ("GET /", "Connection"),
        ("POST /", "-"),
    ] {
        let fields: String =
            UPGRADE.split_inclusive("\r\n").filter(|field| !field.starts_with(drop)).collect();
        assert_eq!(ask(&gateway, BOB, line, &fields).await.0, 400, "{line} without {drop}");
    }
}

#[tokio::test]
async fn a_web_page_cannot_get_in() {
    let gateway = Fixture::echo().await;
    let mut stream = gateway.stream(LOCAL);
    let fields = format!("GET / HTTP/1.1\r\nHost: gateway\r\nOrigin: http://gateway\r\n{UPGRADE}\r\n");
    stream.write_all(fields.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let socket = tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await;
    let mut client = Client::over(socket).await;
    let answer = client.connect(&Hello::token(TOKEN)).await;
    assert_eq!(answer["error"]["details"]["code"], "CONTROL_UI_ORIGIN_NOT_ALLOWED");
    assert_eq!(client.close().await.0, 1008);
}

#[tokio::test]
async fn one_address_may_have_32_strangers() {
    let gateway = Fixture::echo().await;
    let mut strangers = Vec::new();
    for _ in 0..32 {
        strangers.push(gateway.dial(BOB).await);
    }
    let refused = Client::upgrade(gateway.stream(BOB)).await.err().unwrap().to_string();
    assert!(refused.contains("503"), "{refused}");
    gateway.dial(CAROL).await;
    // Who authenticates is no stranger any more.
    assert_eq!(strangers[0].connect(&Hello::token(TOKEN)).await["ok"], true);
    gateway.dial(BOB).await;
}

/// 300 idle sockets of one address used up the file descriptors: they were counted from the upgrade on only.
#[tokio::test]
async fn idle_sockets_of_one_network_are_counted_before_they_say_anything() {
    let gateway = Fixture::start(std::sync::Arc::new(agent_mesh_gateway::EchoAgent::new()), |config| {
        config.limits.unauthenticated_per_ip = 2;
    })
    .await;
    let from = |i: u32| format!("[2001:db8::{i}]:1");
    let idle: Vec<_> = (0..3).map(|i| gateway.stream(&from(i))).collect();
    tokio::task::yield_now().await;
    assert_eq!(ask(&gateway, &from(9), "GET /healthz", "").await.0, 200, "health is still told");
    let upgrade = Client::upgrade(gateway.stream(&from(9))).await.err().unwrap().to_string();
    assert!(upgrade.contains("503"), "{upgrade}");

    let more: Vec<_> = (3..9).map(|i| gateway.stream(&from(i))).collect();
    for mut surplus in more.into_iter().skip(1) {
        let end = surplus.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.unwrap(), 0, "closed at once");
    }
    gateway.dial("[2001:db8:0:1::1]:1").await;
    drop(idle);
    tokio::task::yield_now().await;
    gateway.dial(&from(9)).await;
}

#[tokio::test]
async fn one_device_and_one_address_may_have_so_many_connections() {
    let gateway = Fixture::start(std::sync::Arc::new(agent_mesh_gateway::EchoAgent::new()), |config| {
        config.limits.connections_per_device = 1;
        config.limits.connections_per_ip = 2;
    })
    .await;
    let refused = |answer: serde_json::Value| {
        answer["error"]["code"] == "UNAVAILABLE" && answer["error"]["retryable"] == true
    };
    let mine = Hello::token(TOKEN).device(1);
    let first = gateway.client(&mine, LOCAL).await;
    assert!(refused(gateway.try_connect(&mine, LOCAL).await));
    gateway.client(&Hello::token(TOKEN).device(2), LOCAL).await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _again = gateway.client(&mine, LOCAL).await;

    let nobody = Hello::token(TOKEN);
    let _two = (gateway.client(&nobody, BOB).await, gateway.client(&nobody, BOB).await);
    assert!(refused(gateway.try_connect(&nobody, BOB).await));
    gateway.client(&nobody, CAROL).await;
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_end_is_not_waited_for() {
    let gateway = Fixture::echo().await;
    let (mut stream, start) = (gateway.stream(BOB), Instant::now());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: gate").await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(start.elapsed() <= Duration::from_secs(11), "{:?}", start.elapsed());
}

#[tokio::test]
async fn it_works_over_a_real_socket_too() {
    let gateway = Fixture::echo().await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://gateway.test/", stream).await.unwrap();
    let first = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
    let first: serde_json::Value = serde_json::from_str(first.to_text().unwrap()).unwrap();
    assert_eq!(first["event"], json!("connect.challenge"));
}

#[tokio::test]
async fn what_is_measured_is_the_owners_to_know() {
    let gateway = Fixture::echo().await;
    let mut owner = gateway.owner().await;
    owner.turn("main", "hi", "k1").await;
    let (status, page) = ask(&gateway, LOCAL, "GET /metrics", "").await;
    assert_eq!(status, 200);
    for line in [
        "agent_mesh_runs_ended_total{outcome=\"reply\"} 1",
        "agent_mesh_runs{state=\"running\"} 0",
        "agent_mesh_run_seconds_count 1",
        "agent_mesh_run_wait_seconds_count 1",
        "agent_mesh_requests_total{protocol=\"openclaw\"} 1",
        "agent_mesh_connects_total{result=\"let-in\"} 1",
        "agent_mesh_connections 1",
        "agent_mesh_denied_total{rule=\"mode\"} 0",
    ] {
        assert!(page.contains(&format!("{line}\n")), "{line}: {page}");
    }
    // Every line is a comment, or a name with a number.
    for line in page.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("agent_mesh_") && value.parse::<f64>().is_ok(), "{line}");
    }
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    assert_eq!(ask(&gateway, LOCAL, "GET /metrics", "X-Forwarded-For: 203.0.113.9\r\n").await.0, 401);
    assert_eq!(ask(&gateway, BOB, "GET /metrics", "").await.0, 401);
    assert_eq!(ask(&gateway, BOB, "GET /metrics", &bearer("wrong")).await.0, 401);
    assert_eq!(ask(&gateway, BOB, "GET /metrics", &bearer(TOKEN)).await.0, 200);
    assert_eq!(ask(&gateway, LOCAL, "POST /metrics", "Content-Length: 0\r\n").await.0, 405);
    let open = Fixture::start(std::sync::Arc::new(agent_mesh_gateway::EchoAgent::new()), |config| {
        config.open_metrics = true;
    })
    .await;
    assert_eq!(ask(&open, BOB, "GET /metrics", "").await.0, 200);
}
