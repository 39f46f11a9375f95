//! Devices that came with an invite: they have a name, and what they said before they had it is theirs.

use agent_mesh_gateway::{Access, Member, Policy};
use serde_json::{Value, json};

use crate::door::*;
use crate::support::*;

/// A device that the owner approved.
const GUESTS: u8 = 7;
const GUEST: &str = "10.0.0.7:50000";

/// The team, and this device as one that was invited as somebody.
fn invited(key: &str, seed: u8) -> Access {
    let access = access("");
    let guest = Member { key: key.into(), device_id: Some(device_id(seed)), ..Member::default() };
    Access { roster: access.roster.with_guests([guest]), ..access }
}

fn unnamed(seed: u8) -> String {
    format!("dev-{}", &device_id(seed)[..12])
}

/// As whom the owner's history has the sender of a session's only message.
async fn sender(door: &Door, session: &str) -> Value {
    let history = door.owner().await.ok("chat.history", json!({ "sessionKey": session })).await;
    history["messages"][0]["__openclaw"]["from"].clone()
}

#[tokio::test]
async fn an_invite_alone_opens_nothing() {
    assault(async |door| {
        door.reload.access(invited("alice", STRANGE));
        assert_eq!(code(&door.knock(&by_device(STRANGE), MALLORY).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn an_approved_device_is_who_was_invited_with_it() {
    assault(async |door| {
        door.gateway.pair(GUESTS, &RW).await;
        door.reload.access(invited("zoe", GUESTS));
        door.enter(&by_device(GUESTS), GUEST).await.turn("main", "hi", "k").await;
        assert_eq!(sender(door, "agent:main:mesh:zoe").await, "zoe");
    })
    .await;
}

#[tokio::test]
async fn a_device_that_calls_itself_by_a_members_name_is_not_that_member() {
    assault(async |door| {
        let claims =
            by_device(GUESTS).spoil(|connect| connect["client"]["displayName"] = json!("agent-mesh:alice"));
        let asked = door.knock(&claims, GUEST).await["error"]["details"]["requestId"].clone();
        door.owner().await.ok("device.pair.approve", json!({ "requestId": asked })).await;
        door.reload.access(access(""));
        door.enter(&claims, GUEST).await.turn("main", "hi", "k").await;
        assert_eq!(sender(door, &format!("agent:main:mesh:{}", unnamed(GUESTS))).await, unnamed(GUESTS));
    })
    .await;
}

#[tokio::test]
async fn an_invite_does_not_take_a_device_from_who_the_registry_says_it_is() {
    assault(async |door| {
        door.reload.access(invited("bob", ALICES));
        door.alice().await.turn("main", "hi", "k").await;
        assert_eq!(sender(door, "agent:main:mesh:alice").await, "alice");
    })
    .await;
}

#[tokio::test]
async fn two_devices_of_one_are_one() {
    assault(async |door| {
        door.gateway.pair(GUESTS, &RW).await;
        door.reload.access(invited("alice", GUESTS));
        door.alice().await.turn("main", "from the first", "k").await;
        let mut second = door.enter(&by_device(GUESTS), GUEST).await;
        let history = second.ok("chat.history", json!({ "sessionKey": "main" })).await;
        assert_eq!(history["messages"][0]["content"], "from the first");
    })
    .await;
}

#[tokio::test]
async fn what_was_said_under_another_devices_name_is_not_reached_by_calling_it() {
    assault(async |door| {
        door.gateway.pair(8, &RW).await;
        door.enter(&by_device(8), "10.0.0.8:1").await.turn("main", "of another", "k").await;
        door.gateway.pair(GUESTS, &RW).await;
        door.reload.access(invited("zoe", GUESTS));
        let mut zoe = door.enter(&by_device(GUESTS), GUEST).await;
        let session = format!("agent:main:mesh:{}", unnamed(8));
        let history = zoe.ok("chat.history", json!({ "sessionKey": session })).await;
        assert_eq!(history["messages"], json!([]));
        let waited = zoe.ok("agent.wait", json!({ "runId": "k", "timeoutMs": 1 })).await;
        assert_eq!(waited["status"], "timeout", "another device's run does not exist");
    })
    .await;
}

#[tokio::test]
async fn a_token_of_another_member_does_not_come_in_with_a_guests_device() {
    assault(async |door| {
        door.gateway.pair(GUESTS, &RW).await;
        let stolen = Hello::token(CAROLS_TOKEN).device(GUESTS);
        door.reload.access(invited("zoe", GUESTS));
        assert_eq!(code(&door.knock(&stolen, GUEST).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_guest_whose_device_was_removed_has_no_name_and_no_way_in() {
    assault(async |door| {
        door.gateway.pair(GUESTS, &RW).await;
        door.reload.access(invited("zoe", GUESTS));
        let mut zoe = door.enter(&by_device(GUESTS), GUEST).await;
        door.owner().await.ok("device.pair.remove", json!({ "deviceId": device_id(GUESTS) })).await;
        assert_eq!(zoe.close().await.0, 4001);
        assert_eq!(code(&door.knock(&by_device(GUESTS), GUEST).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn a_rule_for_the_device_holds_for_who_is_invited_with_it_later() {
    assault(async |door| {
        door.gateway.pair(GUESTS, &RW).await;
        let policy = format!("[default]\nmode = \"allow\"\n[peers.{}]\nmode = \"deny\"", unnamed(GUESTS));
        let policy = Policy::parse(&policy).unwrap();
        door.reload.access(Access { policy, ..invited("zoe", GUESTS) });
        assert_eq!(code(&door.knock(&by_device(GUESTS), GUEST).await), "POLICY_DENIED");
    })
    .await;
}

#[tokio::test]
async fn a_guest_takes_no_name_that_stands_for_others() {
    assault(async |door| {
        door.gateway.pair(GUESTS, &RW).await;
        for name in ["owner", "nobody", "dev-0123456789ab"] {
            door.reload.access(invited(name, GUESTS));
            door.enter(&by_device(GUESTS), GUEST).await.turn("main", "hi", name).await;
        }
        let session = format!("agent:main:mesh:{}", unnamed(GUESTS));
        let history = door.owner().await.ok("chat.history", json!({ "sessionKey": session })).await;
        assert_eq!(history["messages"].as_array().map(Vec::len), Some(6));
    })
    .await;
}

/// A message that was sent just before its sender got his name is found under the new one, and never runs twice.
#[tokio::test]
async fn a_run_under_way_is_its_senders_under_his_new_name_too() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    door.gateway.pair(GUESTS, &RW).await;
    let mut before = door.enter(&by_device(GUESTS), GUEST).await;
    let id = before.request("agent", say("mesh:zoe", "work", "k")).await;
    before.answer(&id).await;
    let held = turns.recv().await.unwrap();
    assert_eq!(held.turn.session_key, format!("agent:main:mesh:{}:mesh:zoe", unnamed(GUESTS)));
    door.reload.access(invited("zoe", GUESTS));
    assert_eq!(before.close().await.0, 1012);

    let mut zoe = door.enter(&by_device(GUESTS).scoped(), GUEST).await;
    let again = zoe.ok("agent", say("mesh:zoe", "work", "k")).await;
    assert_eq!(
        (&again["status"], &again["sessionKey"]),
        (&json!("in_flight"), &json!("agent:main:mesh:zoe"))
    );
    let history = zoe.ok("chat.history", json!({ "sessionKey": "mesh:zoe" })).await;
    assert_eq!(
        (&history["messages"][0]["idempotencyKey"], &history["totalMessages"]),
        (&json!("k:user"), &json!(1))
    );
    assert_eq!(history["inFlightRun"]["runId"], "k");
    let subscribed = zoe.ok("sessions.messages.subscribe", json!({ "key": "mesh:zoe" })).await;
    assert_eq!(subscribed["key"], "agent:main:mesh:zoe");
    let waiting = zoe.request("agent.wait", json!({ "runId": "k" })).await;
    held.finish.send(Ok("done".into())).unwrap();
    assert_eq!(zoe.answer(&waiting).await["payload"]["status"], "ok");
    let told = zoe.event("chat").await;
    assert_eq!(
        (&told["payload"]["runId"], &told["payload"]["sessionKey"]),
        (&json!("k"), &json!("agent:main:mesh:zoe"))
    );

    let id = zoe.request("agent", say("mesh:zoe", "more", "k2")).await;
    zoe.answer(&id).await;
    let held = turns.recv().await.unwrap();
    assert_eq!(held.turn.session_key, "agent:main:mesh:zoe");
    held.finish.send(Ok("more done".into())).unwrap();
    zoe.answer(&id).await;
    let history = zoe.ok("chat.history", json!({ "sessionKey": "mesh:zoe", "limit": 3 })).await;
    let texts: Vec<_> = history["messages"].as_array().unwrap().iter().map(|row| &row["role"]).collect();
    assert_eq!(
        (json!(texts), &history["totalMessages"]),
        (json!(["assistant", "user", "assistant"]), &json!(4))
    );
    assert_eq!(zoe.ok("status", json!({})).await["sessions"]["count"], 2);
    let agents = zoe.ok("agents.list", json!({})).await["agents"].clone();
    assert_eq!(agents, json!([{ "id": "main", "name": "agent-mesh" }]), "whom to talk to, and no more");
}

#[tokio::test]
async fn a_run_under_way_is_stopped_by_its_sender_under_his_new_name() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    door.gateway.pair(GUESTS, &RW).await;
    let mut before = door.enter(&by_device(GUESTS), GUEST).await;
    let id = before.request("agent", say("main", "work", "k")).await;
    before.answer(&id).await;
    let held = turns.recv().await.unwrap();
    door.reload.access(invited("alice", GUESTS));
    let mut alice = door.alice().await;
    let stopped = alice.ok("chat.abort", json!({ "sessionKey": "main", "runId": "k" })).await;
    assert_eq!(stopped["aborted"], false, "it was not said with this device");
    let mut second = door.enter(&by_device(GUESTS), GUEST).await;
    let stopped = second.ok("chat.abort", json!({ "sessionKey": "main", "runId": "k" })).await;
    assert_eq!(stopped["runIds"], json!(["k"]));
    held.turn.cancel.cancelled().await;
}
