//! Who `serve` takes an invited teammate for: the same as `pair list` does, in all that it says and decides.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{Call, Host, Out, Serve, token};

/// Tells what it is told, and asks Alice back in text and in JSON; `$0` is our binary.
const ASKS_BACK: &str = r#"echo "key=$MESH_FROM_KEY session=$MESH_SESSION visited=$MESH_CHAIN_VISITED"; head -n 1
"$0" send --to alice --message back 2>&1; echo "code $?"
"$0" send --to alice --message back --json; echo "code $?""#;

/// Tells who asks.
const TELLS: &str = r#"echo "$MESH_FROM_KEY""#;

/// Carl's host with an agent that is a script, and Alice's, who was never told Carl's token.
struct Two {
    carls: Host,
    serve: Serve,
    alices: Host,
}

impl Two {
    async fn new(script: &str) -> Self {
        let carls = Host::named("carl@example.com");
        carls.write("serve.token", token("carl"));
        let exec = ["--token-file", "serve.token", "--agent", "exec", "--", "/bin/sh", "-c", script];
        let serve = Serve::start(&carls, &[&exec[..], &[env!("CARGO_BIN_EXE_agent-mesh")]].concat()).await;
        let two = Self { carls, serve, alices: Host::new() };
        two.registry(&json!({}));
        two
    }

    /// Carl's registry, with more about Alice.
    fn registry(&self, more: &Value) {
        let mut alice = json!({ "name": "Alice", "emailPrefix": "alice", "url": "ws://127.0.0.1:9" });
        alice.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.carls.registry(&json!([
            { "name": "Carl", "emailPrefix": "carl", "url": self.serve.url() }, alice,
        ]));
    }

    fn carl(&self, args: &[&str]) -> Call {
        let call = self.carls.call(&[&["--gateway", &self.serve.url(), "--json"], args].concat());
        call.env("OPENCLAW_GATEWAY_TOKEN", token("carl"))
    }

    /// An invite for somebody, redeemed by Alice's device.
    async fn invite(&self, name: &str) {
        let mut watch = self.carl(&["invite", name, "--wait"]).spawn();
        let mut line = String::new();
        BufReader::new(watch.stderr.as_mut().unwrap()).read_line(&mut line).await.unwrap();
        let join = self.alices.call(&["join", "-", "--json"]).stdin(line);
        join.run().await.ok();
        assert_eq!(watch.wait().await.unwrap().code(), Some(0));
    }

    /// Alice asks, and Carl approves what he sees.
    async fn approve(&self) {
        self.alices.registry(&json!([{ "name": "Carl", "emailPrefix": "carl", "url": self.serve.url() }]));
        let pair = &["pair", "--to", "carl", "--json"];
        let filed = self.alices.run(pair).await.ok().json();
        self.carl(&["pair", "approve", filed["requestId"].as_str().unwrap()]).run().await.ok();
        assert_eq!(self.alices.run(pair).await.ok().json()["status"], "approved");
    }

    async fn send(&self) -> Out {
        self.alices.run(&["send", "--to", "carl", "--message", "hi"]).await
    }

    /// Sends until Carl's gateway takes the sender for somebody: it looks at its files once a second.
    async fn becomes(&self, who: &str) {
        for _ in 0..100 {
            if self.send().await.ok().stdout.trim_end() == who {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("never {who}");
    }

    async fn device(&self) -> String {
        let whoami = self.alices.run(&["whoami", "--json"]).await.ok().json();
        whoami["device"]["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn an_invited_teammate_is_in_the_chain_and_no_message_goes_back_to_her() {
    let two = Two::new(ASKS_BACK).await;
    two.invite("alice").await;
    let reply = two.send().await.ok().stdout;
    assert!(reply.contains("key=alice session=agent:main:mesh:alice visited=alice\n"), "{reply}");
    assert!(reply.contains("[agent-mesh-door/1 from=alice device="), "{reply}");
    assert!(reply.contains("Alice had a part in this already (alice)"), "{reply}");
    assert_eq!(reply.matches("code 7").count(), 2, "{reply}");
    let document = reply.lines().find(|line| line.starts_with('{')).unwrap();
    let document: Value = serde_json::from_str(document).unwrap();
    assert_eq!((&document["error"]["code"], &document["ok"]), (&json!("loop"), &json!(false)));
    let device = two.device().await;
    let list = two.carl(&["pair", "list"]).run().await.ok().json();
    assert_eq!(
        (&list["paired"][0]["deviceId"], &list["paired"][0]["to"]["emailPrefix"]),
        (&json!(device), &json!("alice"))
    );
}

#[tokio::test]
async fn a_device_that_is_approved_by_hand_is_in_the_chain_by_its_name_and_by_its_claim() {
    let two = Two::new(ASKS_BACK).await;
    two.approve().await;
    let device = two.device().await;
    let reply = two.send().await.ok().stdout;
    let key = format!("dev-{}", &device[..12]);
    assert!(
        reply.contains(&format!("key={key} session=agent:main:mesh:{key}:mesh:alice visited=alice,{key}\n")),
        "{reply}"
    );
    assert_eq!(reply.matches("code 7").count(), 2, "what she claims is enough to stop: {reply}");

    // Without her claim nothing says that it is her device.
    let hidden =
        two.alices.call(&["send", "--to", "carl", "--message", "hi", "--no-header"]).run().await.ok().stdout;
    assert!(hidden.contains(&format!("visited={key}\n")) && !hidden.contains("code 7"), "{hidden}");
}

#[tokio::test]
async fn a_name_that_is_learned_later_holds_without_a_restart_and_history_stays_in_reach() {
    let two = Two::new(TELLS).await;
    two.approve().await;
    let device = two.device().await;
    assert_eq!(two.send().await.ok().stdout.trim_end(), format!("dev-{}", &device[..12]));
    two.registry(&json!({ "deviceId": device }));
    two.becomes("alice").await;
    two.registry(&json!({}));
    two.becomes(&format!("dev-{}", &device[..12])).await;
}

#[tokio::test]
async fn an_invite_gives_no_name_that_the_registry_gives_to_another_and_a_revoked_device_has_none() {
    let two = Two::new(TELLS).await;
    two.invite("mallory").await;
    assert_eq!(two.send().await.ok().stdout.trim_end(), "mallory");
    two.registry(&json!({ "deviceId": two.device().await }));
    two.becomes("alice").await;
    two.registry(&json!({}));
    two.becomes("mallory").await;
    two.carl(&["pair", "revoke", &two.device().await]).run().await.ok();
    let refused =
        two.alices.run(&["send", "--to", "carl", "--message", "hi", "--json"]).await.exits(5).json();
    assert_eq!(refused["error"]["code"], "device-token-invalid");
    assert!(!std::fs::read_to_string(two.carls.state("invites.json")).unwrap().contains(&two.device().await));
}

#[tokio::test]
async fn the_list_names_whom_the_door_names() {
    let two = Two::new(TELLS).await;
    two.invite("alice").await;
    let device = two.device().await;
    let nameless = format!("dev-{}", &device[..12]);
    let whose = async || {
        let listed = two.carl(&["pair", "list"]).run().await.ok().json();
        listed["paired"][0]["to"]["emailPrefix"].as_str().unwrap_or("nobody").to_owned()
    };
    assert_eq!(whose().await, "alice");
    for (policy, door, list) in [
        (format!("[peers.bob]\ndevice-id = \"{device}\""), "bob", "bob"),
        (format!("[peers.{nameless}]\nstream = false"), &*nameless, "nobody"),
    ] {
        two.carls.write(two.carls.config("policy.toml"), policy);
        two.becomes(door).await;
        assert_eq!(whose().await, list);
    }
    two.carls.write(two.carls.config("policy.toml"), "nonsense");
    let listed = two.carl(&["pair", "list"]).run().await.ok();
    assert!(
        listed.stderr.contains("names may be wrong") && listed.stderr.contains("policy.toml: line 1"),
        "{listed:?}"
    );
    std::fs::remove_file(two.carls.config("policy.toml")).unwrap();

    // Of a device that the registry gives to two, an invite does not decide.
    let entry = |prefix: &str| json!({ "name": prefix, "emailPrefix": prefix, "deviceId": device });
    two.carls.registry(&json!([entry("dora"), entry("emil")]));
    assert_eq!(whose().await, "nobody");
}
