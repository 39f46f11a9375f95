//! `invite`, `join` and `pair approve` by itself: from one line to a reply, with no shared token on Alice's disk.

use std::fs;
use std::path::Path;

use agent_mesh_testkit::{FakeGateway, Script};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::support::{Call, Host, Out, Serve, signal, token, until};

/// Bob's host with a gateway at work, and Alice's, where nobody is known yet.
struct Two {
    bobs: Host,
    serve: Serve,
    alices: Host,
}

impl Two {
    async fn new() -> Self {
        let bobs = Host::new();
        bobs.write("serve.token", token("bob"));
        let serve = Serve::start(&bobs, &["--token-file", "serve.token"]).await;
        let two = Self { bobs, serve, alices: Host::new() };
        two.bobs_registry(&json!({}));
        two
    }

    /// Bob's registry, with more about Alice.
    fn bobs_registry(&self, more: &Value) {
        let mut alice = json!({ "name": "Alice", "emailPrefix": "alice" });
        alice.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let bob = json!({ "name": "Bob", "emailPrefix": "bob", "url": self.serve.url() });
        self.bobs.registry(&json!([bob, alice]));
    }

    fn bob(&self, args: &[&str]) -> Call {
        let gateway = self.serve.url();
        let call = self.bobs.call(&[&["--gateway", &gateway, "--json"], args].concat());
        call.env("OPENCLAW_GATEWAY_TOKEN", token("bob")).env("MESH_MY_EMAIL", "bob@example.com")
    }

    async fn invite(&self) -> String {
        let document = self.bob(&["invite", "alice"]).run().await.ok().json();
        document["invite"].as_str().unwrap().to_owned()
    }

    /// Bob's invite for her, who is waited for; the line is the first that is said.
    async fn waits_for_alice(&self) -> (Watch, String) {
        let mut bob = Watch::start(self.bob(&["invite", "alice", "--wait"]));
        let mut line = String::new();
        BufReader::new(bob.child.stderr.as_mut().unwrap()).read_line(&mut line).await.unwrap();
        (bob, line.trim_end().to_owned())
    }

    async fn join(&self, invite: &str, args: &[&str]) -> Out {
        self.alices.call(&[&["join", "-", "--json"], args].concat()).stdin(invite).run().await
    }

    async fn send(&self) -> Out {
        self.alices.run(&["send", "--to", "bob", "--message", "hi", "--json"]).await
    }
}

/// The JSON Lines of a run that goes on.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(call: Call) -> Self {
        let mut child = call.spawn();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(std::time::Duration::from_secs(60), self.lines.next_line()).await;
        serde_json::from_str(&line.expect("it is silent").unwrap().expect("it ended")).unwrap()
    }
}

fn code(out: &Out) -> Value {
    out.json()["error"]["code"].clone()
}

/// What an invite holds.
fn opened(invite: &str) -> Value {
    let body = invite.strip_prefix("amesh1.").unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &Path| vec![(path.display().to_string(), fs::read(path).unwrap())];
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { read(&path) }).collect()
}

#[tokio::test]
async fn an_invite_that_waits_lets_alice_in_by_itself() {
    let two = Two::new().await;
    let (mut bob, invite) = two.waits_for_alice().await;
    let invite = invite.as_str();
    let holds = opened(invite);
    assert_eq!(
        (&holds["name"], &holds["emailPrefix"], &holds["url"]),
        (&json!("Bob"), &json!("bob"), &json!(two.serve.url()))
    );
    assert_eq!(holds["gatewayId"].as_str().unwrap().len(), 64);

    let joined = two.join(invite, &[]).await.ok().json();
    assert_eq!(joined["peer"], json!({ "name": "Bob", "emailPrefix": "bob" }));
    assert_eq!((&joined["status"], &joined["registry"]["change"]), (&json!("approved"), &json!("added")));
    let listed = two.alices.run(&["list", "--json"]).await.ok().json();
    let who = |row: &Value| (row["emailPrefix"].clone(), row["self"].clone());
    let listed: Vec<_> = listed["agents"].as_array().unwrap().iter().map(who).collect();
    assert_eq!(listed, [(json!("alice"), json!(true)), (json!("bob"), json!(false))], "we know who we are");
    let known = two.alices.run(&["trust", "show", "bob", "--json"]).await.ok().json();
    assert_eq!(known["identity"]["deviceId"], holds["gatewayId"], "the gateway was met with the invite");
    let approved = bob.next().await;
    assert_eq!((&approved["to"]["emailPrefix"], &approved["invite"]), (&json!("alice"), &json!(invite)));
    assert_eq!((&approved["status"], &approved["ok"]), (&json!("approved"), &json!(true)));
    let alices_device = two.alices.run(&["whoami", "--json"]).await.ok().json()["device"]["id"].clone();
    assert_eq!(approved["device"]["deviceId"], alices_device);
    assert!(bob.lines.next_line().await.unwrap().is_none(), "one document");
    assert_eq!(bob.child.wait().await.unwrap().code(), Some(0));

    assert_eq!(two.send().await.ok().json()["reply"]["text"], "echo: hi");
    for (path, content) in files(&two.alices.path("")) {
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains(&token("bob")), "{path} holds the gateway's token");
        assert!(!text.contains(holds["bootstrapToken"].as_str().unwrap()), "{path} holds the code");
        assert!(!text.contains(holds["proof"].as_str().unwrap()), "{path} holds the proof");
    }
    let (mode, memory) = (crate::support::mode, two.bobs.state("invites.json"));
    assert_eq!(mode(&memory), 0o600);
    assert!(!fs::read_to_string(&memory).unwrap().contains(holds["bootstrapToken"].as_str().unwrap()));
}

#[tokio::test]
async fn without_waiting_it_prints_the_line_alone_and_says_what_to_run() {
    let two = Two::new().await;
    let gateway = two.serve.url();
    let call = two.bobs.call(&["invite", "alice", "--gateway", &gateway]);
    let out = call
        .env("OPENCLAW_GATEWAY_TOKEN", token("bob"))
        .env("MESH_MY_EMAIL", "bob@example.com")
        .run()
        .await
        .ok();
    assert_eq!(out.stdout.lines().count(), 1, "a pipe gets the invite and nothing else: {}", out.stdout);
    assert!(out.stderr.contains("agent-mesh join -") && out.stderr.contains("pair approve --invited"));
    let invite = out.stdout.trim_end();

    // Out of time, and given again.
    let pending = two.join(invite, &["--timeout", "1s"]).await.exits(3);
    assert_eq!(code(&pending), "not-approved-in-time");
    let request = pending.json()["requestId"].as_str().unwrap().to_owned();
    let listed = two.bob(&["pair", "list"]).run().await.ok().json();
    assert_eq!(
        (&listed["pending"][0]["requestId"], &listed["pending"][0]["to"]["emailPrefix"]),
        (&json!(request), &json!("alice"))
    );
    let name = listed["pending"][0]["displayName"].as_str().unwrap();
    assert!(name.starts_with("agent-mesh:alice (") && !name.contains("invite:"), "{name}");
    let decided = two.bob(&["pair", "approve", "--invited"]).run().await.ok().json();
    let decision = &decided["decisions"][0];
    assert_eq!(
        (&decision["decision"], &decision["reason"], &decision["to"]["emailPrefix"]),
        (&json!("approved"), &json!("invite"), &json!("alice"))
    );
    two.join(invite, &[]).await.ok();
    two.send().await.ok();
    let again = two.join(invite, &[]).await.ok().json();
    assert_eq!((&again["status"], &again["registry"]["change"]), (&json!("approved"), &json!("unchanged")));
}

#[tokio::test]
async fn an_invite_is_one_devices_and_revoked_access_says_how_to_come_back() {
    let two = Two::new().await;
    let invite = two.invite().await;
    two.join(&invite, &["--timeout", "1s"]).await.exits(3);
    let mallorys = Host::new();
    let refused = mallorys.call(&["join", "-", "--json"]).stdin(invite.as_str()).run().await.exits(5);
    assert_eq!(code(&refused), "invite-invalid");
    assert!(!mallorys.config("registry.json").exists());
    two.bob(&["pair", "approve", "--invited"]).run().await.ok();
    two.join(&invite, &[]).await.ok();

    let listed = two.bob(&["pair", "list"]).run().await.ok().json();
    let row = &listed["paired"][0];
    assert_eq!(row["to"], json!({ "name": "Alice", "emailPrefix": "alice" }), "known by her invite");
    assert!(row["approvedAt"].is_string() && row["lastSeenAt"].is_string(), "{row}");
    two.bob(&["pair", "revoke", "alice"]).run().await.ok();
    let refused = two.send().await.exits(5);
    assert_eq!(code(&refused), "device-token-invalid");
    let hint = refused.json()["error"]["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("rotated, revoked or removed") && hint.contains("agent-mesh join -"), "{hint}");
    assert_eq!(code(&two.join(&invite, &[]).await.exits(5)), "invite-invalid", "the old one is used up");

    let fresh = two.invite().await;
    two.join(&fresh, &["--timeout", "1s"]).await.exits(3);
    two.bob(&["pair", "approve", "--invited"]).run().await.ok();
    two.join(&fresh, &[]).await.ok();
    two.send().await.ok();
}

#[tokio::test]
async fn only_known_devices_are_let_in_and_every_decision_is_told() {
    let two = Two::new().await;
    let mut bob = Watch::start(two.bob(&["pair", "approve", "--from-registry", "--invited", "--watch"]));
    let ask = async |host: &Host| {
        host.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": two.serve.url() }]));
        let invite = two.bob(&["invite", "carol"]).run().await.ok().json()["invite"].clone();
        // A setup code of OpenClaw's proves nothing to Bob's agent-mesh: what ours adds is left out.
        let mut bare = opened(invite.as_str().unwrap());
        bare.as_object_mut()
            .unwrap()
            .retain(|key, _| !["name", "emailPrefix", "proof", "gatewayId"].contains(&&**key));
        let code = URL_SAFE_NO_PAD.encode(bare.to_string());
        let out = host.call(&["join", "-", "--json", "--timeout", "1s"]).stdin(code).run().await.exits(3);
        (host.run(&["whoami", "--json"]).await.ok().json()["device"]["id"].clone(), out.json())
    };
    let (device, asked) = ask(&two.alices).await;
    let left = bob.next().await;
    assert_eq!(
        (&left["decision"], &left["reason"], &left["requestId"]),
        (&json!("left"), &json!("not-known"), &asked["requestId"])
    );
    // The registry learns of her, and the request that waits is decided on anew.
    two.bobs_registry(&json!({ "deviceId": device }));
    let approved = bob.next().await;
    assert_eq!(
        (&approved["decision"], &approved["reason"], &approved["to"]["name"], &approved["deviceId"]),
        (&json!("approved"), &json!("registry"), &json!("Alice"), &device)
    );
    let stranger = Host::new();
    let (mallorys, _) = ask(&stranger).await;
    let left = bob.next().await;
    assert_eq!((&left["decision"], &left["deviceId"]), (&json!("left"), &mallorys));
    assert_eq!((&left["command"], &left["ok"]), (&json!("pair"), &json!(true)));
    signal(&bob.child, Signal::INT);
    assert_eq!(bob.child.wait().await.unwrap().code(), Some(130));

    let revoked = two.bob(&["pair", "revoke", "alice"]).run().await.ok();
    assert!(revoked.stderr.contains("--from-registry would let it in again"), "{}", revoked.stderr);
}

#[tokio::test]
async fn the_watch_outlives_its_gateway() {
    let mut two = Two::new().await;
    let mut bob = Watch::start(two.bob(&["pair", "approve", "--invited", "--watch"]));
    let address = two.serve.address.clone();
    let invite = two.invite().await;
    two.join(&invite, &[]).await.ok();
    assert_eq!(bob.next().await["decision"], "approved");
    assert_eq!(two.serve.end().await, Some(0));
    two.serve = Serve::start_on(&two.bobs, &address, &["--token-file", "serve.token"]).await;
    let carols = Host::new();
    let invite = two.bob(&["invite", "carol"]).run().await.ok().json()["invite"].clone();
    carols.call(&["join", "-"]).stdin(invite.as_str().unwrap()).run().await.ok();
    assert_eq!(bob.next().await["to"]["emailPrefix"], "carol");
    bob.child.kill().await.unwrap();
}

#[tokio::test]
async fn what_the_registry_says_is_not_overwritten_by_an_invite() {
    let two = Two::new().await;
    let invite = two.invite().await;
    let elsewhere =
        json!([{ "name": "Bob", "emailPrefix": "bob", "url": "ws://127.0.0.1:1", "note": "ours" }]);
    two.alices.registry(&elsewhere);
    let before = fs::read(two.alices.config("registry.json")).unwrap();
    let refused = two.join(&invite, &[]).await.exits(7);
    assert_eq!(code(&refused), "invite-elsewhere");
    assert_eq!(fs::read(two.alices.config("registry.json")).unwrap(), before);

    two.join(&invite, &["--replace", "--timeout", "1s"]).await.exits(3);
    two.bob(&["pair", "approve", "--invited"]).run().await.ok();
    let joined = two.join(&invite, &["--replace"]).await.ok().json();
    assert_eq!(joined["registry"], json!({ "change": "changed", "fields": ["url"] }));
    let registry: Value =
        serde_json::from_slice(&fs::read(two.alices.config("registry.json")).unwrap()).unwrap();
    assert_eq!(registry["agents"][0]["note"], "ours");
    two.send().await.ok();
}

#[tokio::test]
async fn an_invite_to_another_gateway_than_the_one_we_know_is_refused_until_that_is_forgotten() {
    let two = Two::new().await;
    let old = json!({ "deviceId": "07e5".repeat(16), "publicKey": "", "since": "2026-11-23T10:00:00Z" });
    let pins = json!({ "pins": { "bob": { "identity": old, "bootId": "an older one" } } });
    two.alices.write(two.alices.state("pins.json"), pins.to_string());
    let invite = two.invite().await;
    two.join(&invite, &["--timeout", "1s"]).await.exits(3);
    two.bob(&["pair", "approve", "--invited"]).run().await.ok();
    let refused = two.join(&invite, &[]).await.exits(5);
    assert_eq!(code(&refused), "identity-changed");
    two.alices.run(&["trust", "reset", "bob"]).await.ok();
    two.join(&invite, &[]).await.ok();
    two.send().await.ok();
}

#[tokio::test]
async fn an_invite_whose_time_is_over_says_so_by_the_gateways_clock() {
    let gateway = FakeGateway::start(Script::new().bootstrap_token("another")).await;
    let invite = |ms: i64| {
        let holds = json!({ "url": gateway.url(), "bootstrapToken": "over", "expiresAtMs": ms,
            "name": "Bob", "emailPrefix": "bob" });
        format!("amesh1.{}", URL_SAFE_NO_PAD.encode(holds.to_string()))
    };
    let host = Host::new();
    let join = async |text: String| host.call(&["join", "-", "--json"]).stdin(text).run().await.exits(5);
    assert_eq!(code(&join(invite(1_000)).await), "invite-expired");
    assert_eq!(code(&join(invite(4_000_000_000_000)).await), "invite-invalid");
    assert_eq!(gateway.connects(), 1, "one that ended long ago is not shown");
    // By ours it has just ended; theirs is days behind, and counts.
    let now = jiff::Timestamp::now().as_millisecond();
    assert_eq!(code(&join(invite(now - 60_000)).await), "invite-invalid");
    assert_eq!(gateway.connects(), 2);
}

/// It was shown for 14 s again and again, and then called not approved in time.
#[tokio::test]
async fn an_invite_that_has_ended_is_told_at_once_and_not_shown() {
    let two = Two::new().await;
    let document = two.bob(&["invite", "alice", "--expires", "1s"]).run().await.ok().json();
    let invite = document["invite"].as_str().unwrap().to_owned();
    let end: jiff::Timestamp = document["expiresAt"].as_str().unwrap().parse().unwrap();
    while jiff::Timestamp::now() <= end {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let out = two.join(&invite, &[]).await.exits(5);
    assert_eq!(code(&out), "invite-expired");
    assert!(out.json()["error"]["hint"].as_str().unwrap().contains("agent-mesh invite alice"));
    let listed = two.bob(&["pair", "list"]).run().await.ok().json();
    assert_eq!(listed["pending"], json!([]), "the code was not shown");
    two.serve.end().await;
    assert_eq!(
        code(&two.alices.call(&["join", "-", "--json"]).stdin(invite).run().await.exits(5)),
        "invite-expired"
    );
}

/// The gateway keeps one request a device, and the name of the latest connect with it; it tells nobody that it changed.
#[tokio::test]
async fn a_newer_invite_lets_in_a_device_that_had_asked_before() {
    let two = Two::new().await;
    two.alices.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": two.serve.url() }]));
    two.alices.run(&["pair", "--to", "bob"]).await.ok();
    let mut bob = Watch::start(two.bob(&["pair", "approve", "--invited", "--watch"]));
    assert_eq!(bob.next().await["reason"], "not-known");
    let first = two.invite().await;
    let mut bare = opened(&first);
    bare.as_object_mut().unwrap().remove("proof");
    let unproven = format!("amesh1.{}", URL_SAFE_NO_PAD.encode(bare.to_string()));
    two.join(&unproven, &["--timeout", "1s"]).await.exits(3);

    let invite = two.invite().await;
    two.join(&invite, &[]).await.ok();
    let approved = bob.next().await;
    assert_eq!((&approved["decision"], &approved["reason"]), (&json!("approved"), &json!("invite")));
    bob.child.kill().await.unwrap();
    two.send().await.ok();
}

/// Bob was slow: what Alice runs next says that the same invite goes on, and it does.
#[tokio::test]
async fn a_join_that_ran_out_of_time_goes_on_with_the_same_invite() {
    let two = Two::new().await;
    let invite = two.invite().await;
    let pending = two.join(&invite, &["--timeout", "1s"]).await.exits(3);
    assert!(pending.json()["error"]["hint"].as_str().unwrap().contains("same invite again"));
    two.bob(&["pair", "approve", "--invited"]).run().await.ok();

    let hint = |out: &Out| out.json()["error"]["hint"].as_str().unwrap().to_owned();
    for args in
        [&["send", "--to", "bob", "--message", "hi", "--json"][..], &["ping", "--to", "bob", "--json"]]
    {
        let refused = two.alices.run(args).await.exits(5);
        assert_eq!(code(&refused), "join-unfinished", "without a registry");
        assert!(hint(&refused).contains("same invite again: agent-mesh join -"), "{refused:?}");
    }
    let doctor = two.alices.run(&["doctor"]).await.ok().stdout;
    assert!(doctor.contains("here (with the same invite): agent-mesh join -"), "{doctor}");
    // Known from before, with a token that was revoked: it is not that one which is needed.
    two.alices.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": two.serve.url() }]));
    assert_eq!(code(&two.send().await.exits(5)), "join-unfinished");
    let id = two.alices.run(&["whoami", "--json"]).await.ok().json()["device"]["id"].clone();
    let old = json!({ "tokens": { "bob": { "deviceToken": "sEcReT-old", "deviceId": id, "scopes": [],
        "issuedAt": "2026-11-23T10:00:00Z", "url": two.serve.url() } } });
    two.alices.write(two.alices.state("device-tokens.json"), old.to_string());
    assert_eq!(code(&two.send().await.exits(5)), "join-unfinished");

    two.join(&invite, &[]).await.ok();
    two.send().await.ok();
    let asked = fs::read_to_string(two.alices.state("asked.json")).unwrap();
    assert_eq!(asked, "{}", "what is done is forgotten");
}

/// `pair` threw away the token of Bob's gateway when somebody else's answered at his address.
#[tokio::test]
async fn a_token_that_another_gateway_refuses_is_kept() {
    let mut two = Two::new().await;
    let invite = two.invite().await;
    two.join(&invite, &["--timeout", "1s"]).await.exits(3);
    two.bob(&["pair", "approve", "--invited"]).run().await.ok();
    two.join(&invite, &[]).await.ok();
    let kept = fs::read(two.alices.state("device-tokens.json")).unwrap();
    let address = two.serve.address.clone();
    two.serve.end().await;

    let carols = Host::new();
    let other = Serve::start_on(&carols, &address, &[]).await;
    let refused = two.alices.run(&["send", "--to", "bob", "--message", "hi", "--json"]).await.exits(5);
    let hint = refused.json()["error"]["hint"].as_str().unwrap().to_owned();
    assert!(
        hint.starts_with("another gateway may have this address") && !hint.contains("pair --to"),
        "{hint}"
    );
    let doctor = two.alices.run(&["doctor", "--to", "bob"]).await.ok().stdout;
    assert!(!doctor.contains("pair --to") && doctor.contains("is not Bob's address any more"), "{doctor}");
    let asked = two.alices.run(&["pair", "--to", "bob"]).await.ok();
    assert!(asked.stderr.contains("it is kept until Bob's gateway gives us another"), "{}", asked.stderr);
    assert_eq!(fs::read(two.alices.state("device-tokens.json")).unwrap(), kept);
    other.end().await;

    two.serve = Serve::start_on(&two.bobs, &address, &["--token-file", "serve.token"]).await;
    two.send().await.ok();
}

#[tokio::test]
async fn what_is_no_invite_is_refused_before_anything_is_made() {
    let host = Host::new();
    for (text, says) in [
        ("", "invite-malformed"),
        ("hello", "invite-malformed"),
        ("amesh1.AAAA", "invite-malformed"),
        ("amesh9.AAAA", "invite-too-new"),
    ] {
        let out = host.call(&["join", "-", "--json"]).stdin(text).run().await.exits(2);
        assert_eq!(code(&out), says, "{text}");
    }
    let holds = json!({ "url": "ws://127.0.0.1:1", "bootstrapToken": "b" });
    let nameless = URL_SAFE_NO_PAD.encode(holds.to_string());
    let out = host.call(&["join", "-", "--json"]).stdin(nameless).run().await.exits(2);
    assert!(out.json()["error"]["message"].as_str().unwrap().contains("--from"));
    let holds =
        json!({ "url": "ws://127.0.0.1:1", "bootstrapToken": "b", "name": "A", "emailPrefix": "Alice" });
    let own = format!("amesh1.{}", URL_SAFE_NO_PAD.encode(holds.to_string()));
    host.call(&["join", "-", "--json"]).stdin(own).run().await.exits(2);
    assert!(!host.state("device.pem").exists() && !host.config("registry.json").exists());

    let given = host.run(&["join", "hello"]).await.exits(2);
    assert!(given.stderr.contains("agent-mesh join -"), "an argument can be seen: {}", given.stderr);
}

#[tokio::test]
async fn an_invite_needs_a_name_a_gateway_and_an_address() {
    let two = Two::new().await;
    let bob = async |args: &[&str]| two.bob(args).run().await;
    for args in [
        &["invite", "alice", "--expires", "11m"][..],
        &["invite", "bob"],
        &["invite", "two words"],
        &["invite", "alice", "--url", "http://x"],
        &["pair", "approve"],
        &["pair", "approve", "--watch"],
        &["pair", "approve", "x", "--invited"],
    ] {
        assert_eq!(code(&bob(args).await.exits(2)), "usage", "{args:?}");
    }
    let refused = bob(&["invite", "alice", "--url", "ws://203.0.113.1:18789"]).await.exits(1);
    assert_eq!(code(&refused), "invite-refused");
    assert!(refused.json()["error"]["hint"].as_str().unwrap().contains("--url"));
    two.bobs.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "ip": "" }]));
    assert_eq!(code(&bob(&["invite", "alice"]).await.exits(1)), "invite-refused", "only loopback is known");
    let sent = bob(&["invite", "carol@example.com", "--url", &two.serve.url(), "--expires", "1m"]).await.ok();
    assert_eq!(sent.json()["to"], json!({ "name": "carol", "emailPrefix": "carol" }));

    let nobody = Host::anonymous().run(&["invite", "alice", "--json"]).await.exits(7);
    assert_eq!(code(&nobody), "identity-unknown");
    let host = Host::new();
    let down = host.call(&["invite", "bob", "--json", "--gateway", "ws://127.0.0.1:1"]);
    let down = down.env("OPENCLAW_GATEWAY_TOKEN", token("x")).run().await.exits(6);
    assert_eq!(code(&down), "own-gateway-unreachable");
}

/// Whoever let us in by a token of our own is never shown the shared one again, unless the user asks with `pair`.
#[tokio::test]
async fn once_there_is_a_device_token_the_shared_one_stays_at_home() {
    let script =
        Script::new().shared_token(&token("bob")).pairing_required().issues_device_token("device-token");
    let gateway = FakeGateway::start(script).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["pair", "--to", "bob"]).await.ok();
    assert!(gateway.approve(&gateway.pending_pairings()[0].0));
    host.run(&["pair", "--to", "bob"]).await.ok();
    let paired = gateway.requests("connect").len();

    let everything = async |exit: Option<i32>| {
        for args in [
            &["send", "--to", "bob", "--message", "hi"][..],
            &["send", "--to", "bob", "--message", "hi", "--via", "chat"],
            &["broadcast", "--message", "hi"],
            &["ping", "--to", "bob"],
            &["doctor"],
            &["list"],
            &["send", "--to", "bob", "--message", "hi", "--queue"],
            &["outbox", "flush"],
        ] {
            let out = host.run(args).await;
            if let Some(exit) = exit {
                out.exits(exit);
            }
        }
    };
    everything(Some(0)).await;
    let connects = gateway.requests("connect");
    assert!(connects.len() > paired + 5, "{connects:?}");
    for sent in &connects[paired..] {
        assert_eq!(sent["auth"], json!({ "deviceToken": "device-token" }));
    }

    // Revoked, it is refused; and still nothing else is shown.
    gateway.revoke("device-token").await;
    let refused = gateway.requests("connect").len();
    everything(None).await;
    let id = host.run(&["log", "--json"]).await.ok().json()["messages"][0]["id"].as_str().unwrap().to_owned();
    host.run(&["wait", &id]).await;
    let connects = gateway.requests("connect");
    assert!(connects.len() > refused);
    for sent in &connects[refused..] {
        assert_eq!(sent["auth"], json!({ "deviceToken": "device-token" }));
    }

    // Nor after the device key was lost, to which the token was bound.
    fs::remove_file(host.state("device.pem")).unwrap();
    let lost = gateway.requests("connect").len();
    let out = host.run(&["send", "--to", "bob", "--message", "hi", "--json"]).await.exits(5);
    assert_eq!(code(&out), "device-token-foreign");
    everything(None).await;
    assert_eq!(gateway.requests("connect").len(), lost, "nothing is shown at all");
    host.run(&["pair", "--to", "bob"]).await.ok();
    until(&gateway, |gateway| gateway.requests("connect").len() > lost).await;
    assert_eq!(gateway.requests("connect")[lost]["auth"]["token"], token("bob"), "asked for by the user");
}

impl Two {
    /// Alice's device, let in by hand: she has a token, and Bob does not know whose it is.
    async fn let_in_by_hand(&self) {
        self.alices.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": self.serve.url() }]));
        let asked = self.alices.run(&["pair", "--to", "bob", "--json"]).await.ok().json();
        self.bob(&["pair", "approve", asked["requestId"].as_str().unwrap()]).run().await.ok();
        self.alices.run(&["pair", "--to", "bob"]).await.ok();
    }

    async fn bobs_name_for_alice(&self) -> Value {
        self.bob(&["pair", "list"]).run().await.ok().json()["paired"][0]["to"]["emailPrefix"].clone()
    }
}

/// She was told "joined", and stayed a device without a name.
#[tokio::test]
async fn an_invite_gives_its_name_to_a_device_that_was_let_in_before() {
    let two = Two::new().await;
    two.let_in_by_hand().await;
    assert_eq!(two.bobs_name_for_alice().await, Value::Null);
    let (mut bob, invite) = two.waits_for_alice().await;
    let joined = two.join(&invite, &[]).await.ok().json();
    assert_eq!(joined["status"], "approved");
    let approved = bob.next().await;
    assert_eq!((&approved["status"], &approved["requestId"]), (&json!("approved"), &Value::Null));
    assert_eq!(bob.child.wait().await.unwrap().code(), Some(0));
    assert_eq!(two.bobs_name_for_alice().await, "alice");
}

#[tokio::test]
async fn serve_itself_knows_whose_device_redeemed_an_invite_though_it_was_let_in_before() {
    let two = Two::new().await;
    two.let_in_by_hand().await;
    let invite = two.invite().await;
    two.join(&invite, &[]).await.ok();
    let policy = "[default]\nmode = \"allow\"\n[peers.alice]\nmode = \"deny\"\n";
    two.bobs.write(two.bobs.config("policy.toml"), policy);
    // The policy is looked at once in a second.
    let denied = async {
        while two.send().await.code != 5 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), denied).await.expect("she has no name");
    assert_eq!(code(&two.send().await), "denied-by-peer", "the policy knows her by her name");
    let doctor = two.alices.run(&["doctor", "--to", "bob"]).await.stdout;
    assert!(doctor.contains("Bob's policy: mode; only Bob can change that"), "{doctor}");
    assert!(!doctor.contains("pair --to"), "{doctor}");
    assert_eq!(two.bobs_name_for_alice().await, "alice", "and so does `pair list`");
    let decided = two.bob(&["pair", "approve", "--invited"]).run().await.ok().json();
    assert_eq!(decided["decisions"][0]["to"]["emailPrefix"], "alice");
    let decided = two.bob(&["pair", "approve", "--invited"]).run().await.ok().json();
    assert_eq!(decided["decisions"], json!([]), "told once");
}

#[tokio::test]
async fn a_request_that_shows_an_invite_and_is_approved_by_hand_has_its_name() {
    let two = Two::new().await;
    let invite = two.invite().await;
    let pending = two.join(&invite, &["--timeout", "1s"]).await.exits(3).json();
    two.bob(&["pair", "approve", pending["requestId"].as_str().unwrap()]).run().await.ok();
    assert_eq!(two.bobs_name_for_alice().await, "alice");
    two.join(&invite, &[]).await.ok();
}

#[tokio::test]
async fn an_invite_that_is_over_is_no_joining_though_we_are_in() {
    let mut two = Two::new().await;
    two.let_in_by_hand().await;
    let document = two.bob(&["invite", "alice", "--expires", "1s"]).run().await.ok().json();
    let over = document["invite"].as_str().unwrap().to_owned();
    let end: jiff::Timestamp = document["expiresAt"].as_str().unwrap().parse().unwrap();
    while jiff::Timestamp::now() <= end {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(code(&two.join(&over, &[]).await.exits(5)), "invite-expired");

    // A restart ends the codes, and no access.
    let good = two.invite().await;
    let address = two.serve.address.clone();
    two.serve.end().await;
    two.serve = Serve::start_on(&two.bobs, &address, &["--token-file", "serve.token"]).await;
    let joined = two.join(&good, &[]).await.ok();
    assert_eq!(joined.json()["status"], "already-in");
    let told = two.alices.call(&["join", "-"]).stdin(good).run().await.ok().stdout;
    assert!(told.contains("the invite was not used") && !told.contains("joined"), "{told}");
}

#[tokio::test]
async fn whoever_is_invited_and_denied_by_the_policy_is_told_of_at_once() {
    let two = Two::new().await;
    let policy = "[default]\nmode = \"deny\"\n";
    let file = two.bobs.write(two.bobs.config("policy.toml"), policy);
    let told = two.bob(&["invite", "eve"]).run().await.ok().stderr;
    assert!(told.contains("the policy of our serve denies eve: add [peers.eve]"), "{told}");
    two.bobs.write(&file, format!("{policy}[peers.eve]\nmode = \"allow\"\n"));
    let told = two.bob(&["invite", "eve"]).run().await.ok().stderr;
    assert!(!told.contains("denies"), "{told}");
}
