//! What is not a peer's to call. The owner's methods and those of the real gateway look alike to him: none are there.

use serde_json::{Value, json};

use crate::door::*;
use crate::support::*;

/// That Alice may not call this, in the real protocol's words.
async fn is_forbidden(door: &Door, method: &str, params: Value) {
    let error = door.alice().await.error(method, params).await;
    assert_eq!((&error["code"], &error["details"]["code"]), (&json!("FORBIDDEN"), &json!("MISSING_SCOPE")));
    keeps_quiet(&error);
}

async fn needs_admin(door: &Door, method: &str) {
    let error = door.alice().await.error(method, json!({})).await;
    assert_eq!(error["details"]["missingScope"], "operator.admin", "{error}");
}

#[tokio::test]
async fn a_peer_cannot_list_sessions() {
    assault(async |door| {
        let _owner = door.with_secrets().await;
        needs_admin(door, "sessions.list").await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_cannot_see_who_is_there() {
    assault(async |door| needs_admin(door, "system-presence").await).await;
}

#[tokio::test]
async fn a_peer_cannot_list_devices() {
    assault(async |door| is_forbidden(door, "device.pair.list", json!({})).await).await;
}

#[tokio::test]
async fn a_peer_cannot_approve_a_device() {
    assault(async |door| {
        let asked = door.knock(&by_device(STRANGE), MALLORY).await;
        let request = asked["error"]["details"]["requestId"].clone();
        is_forbidden(door, "device.pair.approve", json!({ "requestId": request })).await;
        assert_eq!(code(&door.knock(&by_device(STRANGE), MALLORY).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn a_peer_cannot_throw_another_out() {
    assault(async |door| {
        let mut bob = door.bob().await;
        is_forbidden(door, "device.pair.remove", json!({ "deviceId": device_id(BOBS) })).await;
        assert_eq!(bob.ok("health", json!({})).await["ok"], true);
    })
    .await;
}

#[tokio::test]
async fn a_peer_cannot_invite() {
    assault(async |door| {
        is_forbidden(door, "device.pair.setupCode", json!({ "bootstrapProfile": "limited" })).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_cannot_read_what_is_held() {
    assault(async |door| is_forbidden(door, "mesh.inbox.list", json!({})).await).await;
}

#[tokio::test]
async fn a_peer_cannot_pause_the_door_or_open_it() {
    assault(async |door| {
        is_forbidden(door, "mesh.pause", json!({})).await;
        is_forbidden(door, "mesh.resume", json!({})).await;
        assert_eq!(door.owner().await.ok("mesh.inbox.list", json!({})).await["paused"], false);
    })
    .await;
}

#[tokio::test]
async fn the_configuration_is_not_there_for_a_peer() {
    assault(async |door| needs_admin(door, "config.get").await).await;
}

#[tokio::test]
async fn the_logs_are_not_there_for_a_peer() {
    assault(async |door| needs_admin(door, "logs.tail").await).await;
}

#[tokio::test]
async fn the_files_of_the_agent_are_not_there_for_a_peer() {
    assault(async |door| needs_admin(door, "agents.files.get").await).await;
}

#[tokio::test]
async fn tools_are_not_there_for_a_peer() {
    assault(async |door| needs_admin(door, "tools.invoke").await).await;
}

#[tokio::test]
async fn a_peer_cannot_change_a_sessions_permissions() {
    assault(async |door| {
        let patch = json!({ "key": "agent:main:main", "permissionMode": "full" });
        is_forbidden(door, "sessions.patch", patch).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_cannot_reset_or_delete_a_session() {
    assault(async |door| {
        is_forbidden(door, "sessions.reset", json!({ "key": "agent:main:main" })).await;
        is_forbidden(door, "sessions.delete", json!({ "key": "agent:main:main" })).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_cannot_put_words_into_a_session() {
    assault(async |door| {
        let words =
            json!({ "sessionKey": "agent:main:main", "message": "as the owner said", "role": "user" });
        is_forbidden(door, "chat.inject", words).await;
    })
    .await;
}

#[tokio::test]
async fn a_method_that_looks_like_one_is_none() {
    assault(async |door| {
        for method in ["Health", "health ", "health\u{0}", "he\u{430}lth", "/health", "agent.", ""] {
            let error = door.alice().await.error(method, json!({})).await;
            assert_eq!(error["code"], "FORBIDDEN", "{method:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_method_name_of_a_megabyte_is_not_echoed() {
    assault(async |door| {
        let error = door.alice().await.error(&"m".repeat(1_000_000), json!({})).await;
        assert!(error["code"] == "FORBIDDEN" && error.to_string().len() < 1000);
    })
    .await;
}

#[tokio::test]
async fn what_a_peer_may_not_call_is_not_listed_to_him() {
    assault(async |door| {
        let hello = door.knock(&by_device(ALICES), ALICE).await;
        let methods = hello["payload"]["features"]["methods"].as_array().unwrap();
        assert_eq!(methods.len(), 10, "{methods:?}");
        let text = hello["payload"]["features"].to_string();
        assert!(!text.contains("device.") && !text.contains("mesh.") && !text.contains("sessions.list"));
    })
    .await;
}

#[tokio::test]
async fn the_status_counts_nobody_elses() {
    assault(async |door| {
        let _owner = door.with_secrets().await;
        let status = door.alice().await.ok("status", json!({})).await;
        assert_eq!((&status["sessions"]["count"], &status["connections"]), (&json!(0), &Value::Null));
        keeps_quiet(&status);
    })
    .await;
}

#[tokio::test]
async fn the_health_counts_nobody_elses() {
    assault(async |door| {
        let _owner = door.with_secrets().await;
        let health = door.alice().await.ok("health", json!({})).await;
        assert_eq!(health["sessions"]["count"], 0);
        keeps_quiet(&health);
    })
    .await;
}

#[tokio::test]
async fn the_list_of_agents_says_nothing_of_where_they_live() {
    assault(async |door| {
        let listed = door.alice().await.ok("agents.list", json!({})).await;
        let agent = listed["agents"][0].as_object().unwrap();
        assert_eq!(agent.keys().collect::<Vec<_>>(), ["id", "name"]);
    })
    .await;
}

#[tokio::test]
async fn who_has_read_only_cannot_start_a_run() {
    assault(async |door| {
        let mut reader = door.enter(&by_device(ALICES).scopes(&["operator.read"]), ALICE).await;
        let error = reader.error("agent", say("main", "hi", "k")).await;
        assert_eq!(error["details"]["missingScope"], "operator.write");
    })
    .await;
}

#[tokio::test]
async fn who_has_no_scope_sees_no_history() {
    assault(async |door| {
        let mut blind = door.enter(&by_device(ALICES).scopes(&[]), ALICE).await;
        let error = blind.error("chat.history", json!({ "sessionKey": "main" })).await;
        assert_eq!(error["details"]["missingScope"], "operator.read");
    })
    .await;
}
