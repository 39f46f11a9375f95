//! From the request to the removal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_mesh_gateway::{Config, EchoAgent, MemoryStore, Store};
use serde_json::{Value, json};

use crate::support::*;

fn request_id(answer: &Value) -> String {
    assert_eq!(answer["error"]["code"], "NOT_PAIRED", "{answer}");
    answer["error"]["details"]["requestId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_is_filed_once_announced_and_approved() {
    let gateway = Fixture::echo().await;
    let mut owner = gateway.owner().await;
    let hello = Hello::token(TOKEN).device(1);

    let mut waiting = gateway.dial(BOB).await;
    let first = request_id(&waiting.connect(&hello).await);
    let (code, reason) = waiting.close().await;
    assert_eq!(code, 1008);
    assert!(reason.ends_with(&format!("(requestId: {first})")), "{reason}");
    assert_eq!(
        request_id(&gateway.try_connect(&hello, BOB).await),
        first,
        "the same device, the same request"
    );

    let asked = owner.event("device.pair.requested").await;
    assert_eq!(
        (&asked["payload"]["requestId"], &asked["payload"]["remoteIp"]),
        (&json!(first), &json!("10.0.0.2"))
    );
    let pending = owner.ok("device.pair.list", json!({})).await["pending"].clone();
    assert_eq!(pending, json!([asked["payload"]]), "announced once, as it is listed");

    let approved = owner.ok("device.pair.approve", json!({ "requestId": first })).await;
    assert_eq!(
        (&approved["device"]["approvedVia"], &approved["device"]["scopes"]),
        (&json!("owner"), &json!(RW))
    );
    let resolved = owner.event("device.pair.resolved").await;
    assert_eq!(resolved["payload"]["decision"], "approved");
    let again = owner.error("device.pair.approve", json!({ "requestId": first })).await;
    assert_eq!(again["message"], "unknown requestId");

    let hello = gateway.try_connect(&hello, BOB).await;
    let token = hello["payload"]["auth"]["deviceToken"].as_str().unwrap();
    let listed = owner.ok("device.pair.list", json!({})).await;
    assert!(!listed.to_string().contains(token), "tokens are never shown");
}

#[tokio::test]
async fn a_rejected_device_files_a_new_request() {
    let gateway = Fixture::echo().await;
    let mut owner = gateway.owner().await;
    let hello = Hello::token(TOKEN).device(1);
    let first = request_id(&gateway.try_connect(&hello, BOB).await);
    let rejected = owner.ok("device.pair.reject", json!({ "requestId": first })).await;
    assert_eq!(rejected, json!({ "requestId": first, "deviceId": device_id(1) }));
    assert_eq!(owner.event("device.pair.resolved").await["payload"]["decision"], "rejected");
    assert_ne!(request_id(&gateway.try_connect(&hello, BOB).await), first);
}

#[tokio::test(start_paused = true)]
async fn a_request_expires_after_five_minutes() {
    let gateway = Fixture::echo().await;
    let hello = Hello::token(TOKEN).device(1);
    let first = request_id(&gateway.try_connect(&hello, BOB).await);
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    let mut owner = gateway.owner().await;
    assert_eq!(owner.ok("device.pair.list", json!({})).await["pending"], json!([]));
    assert_ne!(request_id(&gateway.try_connect(&hello, BOB).await), first);
}

#[tokio::test]
async fn an_approver_gives_only_what_it_has() {
    let gateway = Fixture::echo().await;
    let id = request_id(&gateway.try_connect(&Hello::token(TOKEN).device(1), BOB).await);
    let mut weak = gateway.client(&Hello::token(TOKEN).scopes(&["operator.pairing"]), LOCAL).await;
    let error = weak.error("device.pair.approve", json!({ "requestId": id })).await;
    assert_eq!(error["message"], "missing scope: operator.read");
    let mut peer = gateway.client(&Hello::token(TOKEN), LOCAL).await;
    let error = peer.error("device.pair.approve", json!({ "requestId": id })).await;
    assert_eq!(error["details"]["missingScope"], "operator.pairing");
}

#[tokio::test]
async fn a_removed_device_is_out_at_once() {
    let gateway = Fixture::echo().await;
    let hello = Hello::token(TOKEN).device(1).client("cli", "cli");
    let minted = gateway.try_connect(&hello, LOCAL).await;
    let token = minted["payload"]["auth"]["deviceToken"].as_str().unwrap().to_owned();
    let hello = Hello::device_token(&token).device(1);
    let (mut one, mut two) = (gateway.client(&hello, BOB).await, gateway.client(&hello, BOB).await);

    let mut owner = gateway.owner().await;
    let listed = owner.ok("device.pair.list", json!({})).await;
    assert_eq!(listed["paired"][0]["connected"], true);
    let params = json!({ "deviceId": device_id(1) });
    assert_eq!(owner.ok("device.pair.remove", params.clone()).await, params);
    for client in [&mut one, &mut two] {
        assert_eq!(client.close().await, (4001, "device removed".to_owned()));
    }
    let refused = gateway.try_connect(&hello, BOB).await;
    assert_eq!(refused["error"]["details"]["code"], "AUTH_DEVICE_TOKEN_MISMATCH");
    assert_eq!(owner.error("device.pair.remove", params).await["message"], "unknown deviceId");
}

#[tokio::test]
async fn approved_devices_survive_a_restart() {
    let store = Arc::new(MemoryStore::default());
    let start = async || {
        let store = Arc::clone(&store);
        Fixture::start(Arc::new(EchoAgent::new()), |config| config.store = store).await
    };
    let first = start().await;
    let hello = Hello::token(TOKEN).device(1).client("cli", "cli");
    let minted = first.try_connect(&hello, LOCAL).await;
    let token = minted["payload"]["auth"]["deviceToken"].as_str().unwrap().to_owned();

    let second = start().await;
    let hello = second.try_connect(&Hello::device_token(&token).device(1), BOB).await;
    assert_eq!(hello["ok"], true, "{hello}");
    assert_ne!(hello["payload"]["server"]["bootId"], minted["payload"]["server"]["bootId"]);
}

/// A disk that counts what is written to it.
#[derive(Default)]
struct Counted {
    disk: MemoryStore,
    writes: AtomicUsize,
}

impl Store for Counted {
    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        self.disk.load()
    }
    fn save(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.disk.save(bytes)
    }
}

/// When the only device was seen last, as the owner is told.
async fn last_seen(gateway: &Fixture) -> Option<i64> {
    gateway.owner().await.ok("device.pair.list", json!({})).await["paired"][0]["lastSeenAtMs"].as_i64()
}

#[tokio::test]
async fn when_a_device_was_seen_last_survives_a_restart_and_costs_no_write_a_connection() {
    let store = Arc::new(Counted::default());
    let start = async |seen: Duration| {
        let store = Arc::clone(&store);
        let change = |config: &mut Config| (config.store, config.timing.seen) = (store, seen);
        Fixture::start(Arc::new(EchoAgent::new()), change).await
    };
    let mut first = start(Duration::from_secs(3600)).await;
    let token = first.pair(1, &RW).await;
    let before = store.writes.load(Ordering::SeqCst);
    for _ in 0..20 {
        first.client(&Hello::device_token(&token).device(1), BOB).await;
    }
    let seen = last_seen(&first).await;
    assert!(seen.is_some());
    assert_eq!(store.writes.load(Ordering::SeqCst), before);
    first.stop();
    first.running.await.unwrap();
    assert_eq!(store.writes.load(Ordering::SeqCst), before + 1);

    // Whoever is killed has kept it, too.
    let second = start(Duration::from_millis(10)).await;
    assert_eq!(last_seen(&second).await, seen);
    second.client(&Hello::device_token(&token).device(1), BOB).await;
    let newer = last_seen(&second).await.unwrap();
    let kept = || String::from_utf8(store.load().unwrap().unwrap()).unwrap();
    while !kept().contains(&newer.to_string()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A disk that is full.
struct Full;

impl Store for Full {
    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn save(&self, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
}

#[tokio::test]
async fn what_cannot_be_saved_is_not_promised() {
    let gateway = Fixture::start(Arc::new(EchoAgent::new()), |config| config.store = Arc::new(Full)).await;
    let minted = gateway.try_connect(&Hello::token(TOKEN).device(1).client("cli", "cli"), LOCAL).await;
    assert_eq!(minted["error"]["code"], "UNAVAILABLE");
    let id = request_id(&gateway.try_connect(&Hello::token(TOKEN).device(2), BOB).await);
    let error = gateway.owner().await.error("device.pair.approve", json!({ "requestId": id })).await;
    assert_eq!(error["code"], "UNAVAILABLE");
}

#[tokio::test]
async fn a_removal_that_has_to_wait_and_may_not_changes_nothing() {
    let gateway =
        Fixture::start(Arc::new(EchoAgent::new()), |config| config.limits.waiting_requests = 1).await;
    gateway.try_connect(&Hello::token(TOKEN).device(1).client("cli", "cli"), LOCAL).await;
    let asked = request_id(&gateway.try_connect(&Hello::token(TOKEN).device(2), BOB).await);
    let mut owner = gateway.owner().await;
    owner.request("agent.wait", json!({ "runId": "unknown" })).await;
    for (method, params) in [
        ("device.pair.remove", json!({ "deviceId": device_id(1) })),
        ("device.pair.approve", json!({ "requestId": asked })),
    ] {
        let error = owner.error(method, params).await;
        assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)), "{method}");
    }
    let listed = owner.ok("device.pair.list", json!({})).await;
    assert_eq!(listed["paired"][0]["deviceId"], device_id(1));
    assert_eq!(listed["pending"][0]["requestId"], asked);
}

/// A disk that takes its time.
#[derive(Default)]
struct Slow {
    saved: std::sync::Mutex<Vec<u8>>,
    goes_on: std::sync::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

impl Store for Slow {
    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn save(&self, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(goes_on) = self.goes_on.lock().unwrap().take() {
            goes_on.recv().unwrap();
        }
        *self.saved.lock().unwrap() = bytes.to_vec();
        Ok(())
    }
}

#[tokio::test]
async fn an_approval_is_saved_though_the_approver_has_left() {
    let store = Arc::new(Slow::default());
    let config_store = Arc::clone(&store);
    let mut gateway = Fixture::start(Arc::new(EchoAgent::new()), |config| config.store = config_store).await;
    let mut ids = Vec::new();
    for seed in [1, 2] {
        ids.push(request_id(&gateway.try_connect(&Hello::token(TOKEN).device(seed), BOB).await));
    }
    let (go_on, wait) = std::sync::mpsc::channel();
    *store.goes_on.lock().unwrap() = Some(wait);
    // The first approval is being written, the second waits for it when its approver goes.
    let (mut stays, mut leaves) = (gateway.owner().await, gateway.owner().await);
    let first = stays.request("device.pair.approve", json!({ "requestId": ids[0] })).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    leaves.request("device.pair.approve", json!({ "requestId": ids[1] })).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    drop(leaves);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    // What the first write holds was made before: only the second can hold both.
    go_on.send(()).unwrap();
    assert_eq!(stays.answer(&first).await["ok"], true);
    gateway.stop();
    gateway.running.await.unwrap();
    let saved = String::from_utf8(store.saved.lock().unwrap().clone()).unwrap();
    assert!([1, 2].iter().all(|&seed| saved.contains(&device_id(seed))), "{saved}");
}

#[tokio::test]
async fn a_device_is_listed_under_the_name_it_was_approved_under() {
    let gateway = Fixture::echo().await;
    let hello = Hello::token(TOKEN).device(1);
    let id = request_id(&gateway.try_connect(&hello, BOB).await);
    let mut owner = gateway.owner().await;
    owner.ok("device.pair.approve", json!({ "requestId": id })).await;
    let renamed = hello.spoil(|params| params["client"]["displayName"] = json!("somebody else"));
    gateway.client(&renamed, BOB).await;
    let row = owner.ok("device.pair.list", json!({})).await["paired"][0].clone();
    assert_eq!(
        (&row["displayName"], &row["claimedDisplayName"]),
        (&json!("test Some(1)"), &json!("somebody else"))
    );
}

/// 64 keys behind one address made every other request fail with `pairing-full`.
#[tokio::test]
async fn one_address_cannot_fill_the_queue_for_others() {
    let gateway = Fixture::echo().await;
    for seed in 1..=64 {
        request_id(&gateway.try_connect(&Hello::token(TOKEN).device(seed), BOB).await);
    }
    request_id(&gateway.try_connect(&Hello::token(TOKEN).device(65), CAROL).await);
    let pending = gateway.owner().await.ok("device.pair.list", json!({})).await["pending"].clone();
    let ids: Vec<_> = pending.as_array().unwrap().iter().map(|row| row["deviceId"].clone()).collect();
    let expected: Vec<_> = (57..=65).map(|seed| json!(device_id(seed))).collect();
    assert_eq!(ids, expected);
}
