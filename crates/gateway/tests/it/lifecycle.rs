//! Start and end.

use std::sync::Arc;
use std::time::Duration;

use agent_mesh_gateway::{BindError, Config, EchoAgent, Gateway, SharedToken, Store};
use serde_json::json;
use tokio::time::Instant;

use crate::support::*;

fn agent(session: &str, key: &str) -> serde_json::Value {
    json!({ "sessionKey": session, "message": "x", "idempotencyKey": key })
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_runs_finish_and_refuses_new_ones() {
    let (puppet, mut turns) = Puppet::new();
    let mut gateway = Fixture::start(puppet, |_| {}).await;
    let mut client = gateway.owner().await;
    let run = client.request("agent", agent("a", "1")).await;
    client.answer(&run).await;
    let queued = client.request("agent", agent("a", "2")).await;
    client.answer(&queued).await;
    let held = turns.recv().await.unwrap();

    gateway.stop();
    let refused = loop {
        // The signal is another task's business: ask until it has arrived.
        let answer = client.call("agent", agent("b", &uuid::Uuid::new_v4().to_string())).await;
        if answer["ok"] == false {
            break answer["error"].clone();
        }
        turns.recv().await.unwrap().finish.send(Ok("ok".into())).unwrap();
        let frame = client.frame().await.unwrap();
        assert_eq!(frame["ok"], true);
    };
    assert_eq!((&refused["code"], &refused["retryAfterMs"]), (&json!("UNAVAILABLE"), &json!(1000)));
    assert_eq!(refused["details"]["reason"], "gateway-restarting");
    let upgrade = Client::upgrade(gateway.stream(BOB)).await.err().unwrap().to_string();
    assert!(upgrade.contains("503"), "{upgrade}");
    let mut probe = gateway.stream(BOB);
    let request = b"GET /readyz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut probe, request).await.unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut probe, &mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&answer));

    held.finish.send(Ok("finished".into())).unwrap();
    let done = client.answer(&run).await;
    assert_eq!(done["payload"]["result"]["payloads"][0]["text"], "finished");
    turns.recv().await.unwrap().finish.send(Ok("this too".into())).unwrap();
    assert_eq!(client.answer(&queued).await["payload"]["status"], "ok");
    assert_eq!(client.event("shutdown").await["payload"], json!({ "reason": "gateway stopping" }));
    assert_eq!(client.close().await, (1012, "service restart".to_owned()));
    gateway.running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_ever() {
    let (puppet, mut turns) = Puppet::new();
    let mut gateway = Fixture::start(puppet, |_| {}).await;
    let mut client = gateway.owner().await;
    for (session, key) in [("a", "1"), ("a", "2")] {
        client.ok("agent", agent(session, key)).await;
    }
    let _deaf = turns.recv().await.unwrap();
    let mut silent = gateway.stream(BOB);
    let start = Instant::now();
    gateway.stop();
    let ends = [client.frame().await, client.frame().await, client.frame().await];
    assert_eq!(client.close().await.0, 1012);
    let aborted = ends.iter().flatten().filter(|frame| frame["payload"]["stopReason"] == "rpc");
    assert!(aborted.count() >= 1, "{ends:?}");
    gateway.running.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    // A connection that never said anything is gone, too.
    tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn dropping_the_gateway_ends_everything() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.owner().await;
    gateway.running.abort();
    assert_eq!(client.close().await.0, 0);
}

fn config(store: impl Store, listen: &str) -> Config {
    let token = SharedToken::new(TOKEN).unwrap();
    let agent = Arc::new(EchoAgent::new());
    let mut config = Config::new(listen.parse().unwrap(), token, Default::default(), agent);
    config.store = Arc::new(store);
    config
}

/// A store that holds whatever the test says.
struct Holds(&'static [u8]);

impl Store for Holds {
    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        if self.0.is_empty() {
            Err(std::io::ErrorKind::PermissionDenied.into())
        } else {
            Ok(Some(self.0.to_vec()))
        }
    }
    fn save(&self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn it_does_not_start_on_a_store_that_it_cannot_read() {
    let damaged = Gateway::bind(config(Holds(b"{\"version\":1"), "127.0.0.1:0")).await;
    assert!(matches!(damaged, Err(BindError::Damaged(_))));
    let unreadable = Gateway::bind(config(Holds(b""), "127.0.0.1:0")).await;
    assert!(matches!(unreadable, Err(BindError::Store(_))));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let gateway = Fixture::echo().await;
    let listen = gateway.address.to_string();
    let taken = Gateway::bind(config(Holds(br#"{"version":1,"devices":[]}"#), &listen)).await.unwrap_err();
    assert_eq!(taken.to_string(), format!("cannot listen on {listen}"));
}
