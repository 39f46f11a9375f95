//! From the request to the removal.

use std::sync::Arc;

use agent_mesh_gateway::{EchoAgent, MemoryStore, Store};
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
