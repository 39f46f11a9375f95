//! Which gateway is Bob's, and what happens when another one answers.

use agent_mesh_testkit::{Certificate, FakeGateway, TlsFront};
use serde_json::json;

use crate::support::{Host, mode, strict, token};

const BOB: &str = "bfb7205b8d51379805975236f23fdcae82bb29ab2640d3b2f53872664a521892";
const OTHER: &str = "07e5000000000000000000000000000000000000000000000000000000000000";

fn moved(host: &Host, url: &str) {
    host.registry(&json!([{ "name": "Bob", "nickname": "bobby", "emailPrefix": "bob", "url": url }]));
}

#[tokio::test]
async fn another_gateway_gets_no_message_until_the_user_says_so() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    assert_eq!(host.run(&["trust", "list", "--json"]).await.ok().json()["peers"], json!([]));
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    assert_eq!(mode(&host.state("pins.json")), 0o600);
    let shown = host.run(&["trust", "show", "bobby", "--json"]).await.ok().json();
    assert_eq!((&shown["to"]["emailPrefix"], &shown["identity"]["deviceId"]), (&json!("bob"), &json!(BOB)));
    assert_eq!(shown["certificate"], json!(null));

    let other = FakeGateway::start(strict().identity(OTHER)).await;
    moved(&host, &other.url());
    for args in [
        &["send", "--to", "bob", "--message", "hi"][..],
        &["send", "--to", "bob", "--message", "hi", "--via", "chat"],
        &["send", "--to", "bob", "--message", "hi", "--queue"],
    ] {
        let json = [args, &["--json"]].concat();
        let document = host.run(&json).await.exits(5).json();
        assert_eq!(document["error"]["code"], "identity-changed", "{args:?}");
        let message = document["error"]["message"].as_str().unwrap();
        assert!(message.contains(BOB) && message.contains(OTHER), "{message}");
        let hint = document["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("agent-mesh trust reset bob"), "{hint}");
        let out = host.run(args).await.exits(5);
        assert!(out.stdout.is_empty() && out.stderr.contains("agent-mesh trust reset bob"), "{out:?}");
    }
    let broadcast = host.run(&["broadcast", "--message", "hi", "--json"]).await;
    assert_eq!(broadcast.json()["results"][0]["error"]["code"], "identity-changed");
    assert_eq!((other.ledger().total(), other.requests("agent").len()), (0, 0));

    let forgotten = host.run(&["trust", "reset", "bob", "--json"]).await.ok().json();
    assert_eq!(forgotten["identity"]["deviceId"], BOB);
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    assert_eq!(other.ledger().total(), 1);
}

#[tokio::test]
async fn ping_and_doctor_show_the_identity() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    let identity =
        async |host: &Host| host.run(&["ping", "--to", "bob", "--json"]).await.ok().json()["identity"].take();
    assert_eq!(identity(&host).await, json!({ "deviceId": BOB, "status": "new" }));
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    let text = host.run(&["ping", "--to", "bob"]).await.ok().stdout;
    assert!(text.contains(&format!("identity {BOB} (known)")), "{text}");
    let other = FakeGateway::start(strict().identity(OTHER)).await;
    moved(&host, &other.url());
    assert_eq!(identity(&host).await, json!({ "deviceId": OTHER, "status": "changed" }));
    let doctor = host.run(&["doctor", "--to", "bob"]).await.ok().stdout;
    assert!(
        doctor.contains("here (only if Bob really has a new gateway): agent-mesh trust reset bob"),
        "{doctor}"
    );
}

#[tokio::test]
async fn a_certificate_is_added_by_hand_and_a_changed_one_stops_everything() {
    let gateway = FakeGateway::start(strict()).await;
    let front = TlsFront::start(Certificate::First, gateway.address()).await;
    let host = Host::with_bob(&front.url());
    let fingerprint = Certificate::First.fingerprint();
    let refused = host.run(&["send", "--to", "bob", "--message", "hi", "--json"]).await.exits(5).json();
    assert_eq!(refused["error"]["code"], "tls-untrusted");
    let command = format!("agent-mesh trust add bob --fingerprint {fingerprint}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains(&command), "{refused}");

    let added = host.run(&["trust", "add", "bob", "--json"]).await.ok().json();
    assert_eq!(added["certificate"]["fingerprint"], fingerprint);
    assert_eq!((added["certificate"]["pinnedBy"].as_str(), gateway.connects()), (Some("us"), 0));
    host.run(&["trust", "add", "bob", "--fingerprint", fingerprint]).await.ok();
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    let list = host.run(&["trust", "list"]).await.ok().stdout;
    assert!(list.contains(&fingerprint[..16]) && list.contains(&BOB[..16]), "{list}");

    front.show(Certificate::Second);
    let before = gateway.connects();
    let changed = host.run(&["send", "--to", "bob", "--message", "hi", "--json"]).await.exits(5).json();
    assert_eq!(changed["error"]["code"], "identity-changed");
    let message = changed["error"]["message"].as_str().unwrap();
    assert!(
        message.contains(fingerprint) && message.contains(Certificate::Second.fingerprint()),
        "{message}"
    );
    host.run(&["trust", "add", "bob"]).await.exits(5);
    assert_eq!(gateway.connects(), before, "no credential was shown");
    host.run(&["trust", "reset", "bob"]).await.ok();
    host.run(&["trust", "add", "bob"]).await.ok();
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
}

#[tokio::test]
async fn a_pin_of_the_registry_is_shown_as_the_registrys_and_outlives_a_reset() {
    let host = Host::new();
    let pin = Certificate::First.fingerprint();
    let bob =
        json!({ "name": "Bob", "emailPrefix": "bob", "url": "wss://127.0.0.1:1", "tlsFingerprint": pin });
    host.registry(&json!([bob]));
    let list = host.run(&["trust", "list", "--json"]).await.ok().json();
    assert_eq!(
        list["peers"][0]["certificate"],
        json!({ "fingerprint": pin, "pinnedBy": "registry", "since": null })
    );
    let out = host.run(&["trust", "reset", "bob"]).await.ok();
    assert!(out.stderr.contains("tlsFingerprint"), "{out:?}");
}

#[tokio::test]
async fn who_left_the_registry_can_still_be_forgotten() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    host.registry(&json!([]));
    assert_eq!(
        host.run(&["trust", "list", "--json"]).await.ok().json()["peers"][0]["to"]["emailPrefix"],
        "bob"
    );
    host.run(&["trust", "show", "bob"]).await.exits(4);
    assert!(host.run(&["trust", "reset", "bob"]).await.ok().stdout.contains("forgot"));
    assert!(host.run(&["trust", "reset", "bob"]).await.ok().stdout.contains("nothing was known"));
}

#[tokio::test]
async fn what_cannot_be_trusted_is_refused_before_anything_is_dialled() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["trust", "add", "bob"]).await.exits(2);
    host.run(&["trust", "add", "bob", "--fingerprint", &token("x")[..4]]).await.exits(2);
    host.write(host.state("pins.json"), "{");
    let out = host.run(&["send", "--to", "bob", "--message", "hi", "--json"]).await.exits(2);
    assert_eq!(out.json()["error"]["code"], "pins-malformed");
    assert_eq!(gateway.connections(), 0);
}
