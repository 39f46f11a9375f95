//! `pair` against a gateway that wants approval.

use agent_mesh_testkit::FakeGateway;
use serde_json::json;

use crate::support::{Host, strict, token, until};

#[tokio::test]
async fn a_filed_request_is_a_success_that_names_what_bob_runs() {
    let gateway = FakeGateway::start(strict().pairing_required()).await;
    let host = Host::with_bob(&gateway.url());
    let document = host.run(&["pair", "--to", "bob", "--json"]).await.ok().json();
    let (request, device) = gateway.pending_pairings().remove(0);
    assert_eq!(document["to"], json!({ "name": "Bob", "emailPrefix": "bob" }));
    assert_eq!((&document["requestId"], &document["status"]), (&json!(request), &json!("pending")));
    let commands =
        [format!("agent-mesh pair approve {request}"), format!("openclaw devices approve {request}")];
    assert_eq!(document["commands"], json!(commands));
    assert_eq!(gateway.requests("connect")[0]["device"]["id"], device);
    insta::assert_snapshot!(host.run(&["pair", "--to", "bob"]).await.transcript());
    assert_eq!(gateway.pending_pairings().len(), 1, "asked twice, filed once");
}

#[tokio::test]
async fn an_approved_device_talks() {
    let gateway = FakeGateway::start(strict().pairing_required().issues_device_token(&token("device"))).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["pair", "--to", "bob"]).await.ok();
    let (request, _) = gateway.pending_pairings().remove(0);
    assert!(gateway.approve(&request));
    let document = host.run(&["pair", "--to", "bob", "--json"]).await.ok().json();
    assert_eq!((&document["status"], &document["commands"]), (&json!("approved"), &json!([])));
    std::fs::remove_file(host.config("tokens.json")).unwrap();
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
}

#[tokio::test]
async fn pair_wait_ends_when_bob_approves() {
    let gateway = FakeGateway::start(strict().pairing_required().issues_device_token(&token("device"))).await;
    let host = Host::with_bob(&gateway.url());
    let approve = async {
        until(&gateway, |gateway| !gateway.pending_pairings().is_empty()).await;
        let (request, _) = gateway.pending_pairings().remove(0);
        assert!(gateway.approve(&request));
    };
    let (out, ()) = tokio::join!(host.run(&["pair", "--to", "bob", "--wait"]), approve);
    let out = out.ok();
    assert!(out.stdout.contains("approved by Bob"), "{out:?}");
    assert!(out.stderr.contains("agent-mesh pair approve"), "{out:?}");
}

#[tokio::test]
async fn pair_wait_gives_up_and_says_what_is_left_to_do() {
    let gateway = FakeGateway::start(strict().pairing_required()).await;
    let host = Host::with_bob(&gateway.url());
    let args = ["pair", "--to", "bob", "--wait", "--timeout", "1s", "--json"];
    let document = host.run(&args).await.exits(3).json();
    assert_eq!(
        (&document["status"], &document["error"]["code"]),
        (&json!("pending"), &json!("not-approved-in-time"))
    );
    assert!(document["requestId"].is_string() && document["error"]["hint"].to_string().contains("approve"));
}
