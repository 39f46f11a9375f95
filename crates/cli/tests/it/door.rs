//! Who may come in at `serve`, what they may do, and the owner's hand on it: the binary on both ends.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use agent_mesh_testkit::FakeGateway;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Host, Out, Serve, mode, signal, strict};

/// Bob's host, where Alice holds a token of her own; his gateway; and Alice's host, which knows it and the address.
async fn team(policy: &str) -> (Host, Serve, Host) {
    let bobs = Host::named("bob@example.com");
    bobs.registry(
        &json!([{ "name": "Alice", "emailPrefix": "alice", "ip": "", "tags": { "team": "infra" } }]),
    );
    bobs.write(bobs.config("policy.toml"), policy);
    bobs.run(&["token", "issue", "alice"]).await.ok();
    let serve = Serve::start(&bobs, &[]).await;
    let alices = Host::with_bob(&serve.url());
    let own = fs::read_to_string(bobs.path("alice.token")).unwrap();
    alices.call(&["token", "set", "bob"]).stdin(own).run().await.ok();
    (bobs, serve, alices)
}

async fn send(alices: &Host, more: &[&str]) -> Out {
    alices.run(&[&["send", "--to", "bob", "--message", "hello", "--json"], more].concat()).await
}

/// The owner's command, at his own gateway.
async fn owner(bobs: &Host, serve: &Serve, args: &[&str]) -> Out {
    bobs.run(&[args, &["--gateway", &serve.url(), "--json"]].concat()).await
}

fn error(out: &Out) -> (i32, String) {
    (out.code, out.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the gateway has read its files again.
async fn reread(serve: &mut Serve) {
    while !serve.line().await.contains("were read again") {}
}

#[tokio::test]
async fn a_token_that_was_issued_opens_the_door_and_is_shown_nowhere() {
    let (bobs, serve, alices) = team("").await;
    let own = fs::read_to_string(bobs.path("alice.token")).unwrap();
    let policy = fs::read_to_string(bobs.config("policy.toml")).unwrap();
    assert!(own.len() >= 40 && !policy.contains(&own) && policy.contains("sha256:"));
    assert_eq!((mode(&bobs.path("alice.token")), mode(&bobs.config("policy.toml"))), (0o600, 0o600));
    assert_eq!(send(&alices, &[]).await.ok().json()["reply"]["text"], "echo: hello");
    let issued = bobs.run(&["token", "issued", "--json"]).await.ok().json();
    assert_eq!(issued["issued"], json!(["alice"]));

    let again = bobs.run(&["token", "issue", "alice", "--json"]).await.exits(2);
    assert!(again.json()["error"]["message"].as_str().unwrap().contains("exists"), "{again:?}");
    let out = bobs.run(&["token", "issue", "alice", "--out", "new.token", "--json"]).await.ok();
    let new = fs::read_to_string(bobs.path("new.token")).unwrap();
    assert!(out.json()["replaced"] == true && !out.stdout.contains(&new) && !out.stderr.contains(&new));
    let piped = bobs.run(&["token", "issue", "alice", "--out", "-"]).await.ok();
    assert_eq!(piped.stdout.trim().len(), new.len(), "into a pipe, and nothing else");
    bobs.run(&["token", "issue", "alice", "--out", "-", "--json"]).await.exits(2);
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_token_that_was_revoked_opens_nothing_and_the_sockets_of_others_stay() {
    let (bobs, mut serve, alices) = team("").await;
    send(&alices, &[]).await.ok();
    bobs.run(&["token", "revoke", "alice"]).await.ok();
    reread(&mut serve).await;
    assert_eq!(error(&send(&alices, &[]).await), (5, "token-mismatch".into()));
    let none = bobs.run(&["token", "revoke", "alice", "--json"]).await;
    assert_eq!(error(&none), (5, "no-credential".into()));
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn the_first_token_makes_a_policy_that_keeps_everybody_in() {
    let bobs = Host::new();
    bobs.run(&["token", "issue", "Carol"]).await.ok();
    let policy = fs::read_to_string(bobs.config("policy.toml")).unwrap();
    assert!(policy.contains("mode = \"allow\"") && policy.contains("[peers.carol]"), "{policy}");
}

#[tokio::test]
async fn a_member_of_the_team_needs_no_token_at_all() {
    let alices = Host::with_bob("ws://127.0.0.1:1");
    fs::remove_file(alices.config("tokens.json")).unwrap();
    alices.run(&["init"]).await.ok();
    let device = alices.run(&["whoami", "--json"]).await.ok().json()["device"]["id"].clone();
    let bobs = Host::named("bob@example.com");
    bobs.registry(&json!([{ "name": "Alice", "emailPrefix": "alice", "ip": "", "deviceId": device }]));
    let serve = Serve::start(&bobs, &[]).await;
    alices.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": serve.url() }]));
    assert_eq!(alices.run(&["pair", "--to", "bob", "--json"]).await.ok().json()["status"], "approved");
    assert_eq!(send(&alices, &[]).await.ok().json()["reply"]["text"], "echo: hello");
    let logged = bobs.run(&["log", "--json"]).await.ok().json();
    assert_eq!(logged["messages"][0]["peer"], "alice");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_stranger_asks_without_a_token_and_comes_in_when_approved() {
    let bobs = Host::named("bob@example.com");
    let serve = Serve::start(&bobs, &[]).await;
    let alices = Host::with_bob(&serve.url());
    fs::remove_file(alices.config("tokens.json")).unwrap();
    let filed = alices.run(&["pair", "--to", "bob", "--json"]).await.ok().json();
    assert_eq!(filed["status"], "pending");
    owner(&bobs, &serve, &["pair", "approve", filed["requestId"].as_str().unwrap()]).await.ok();
    assert_eq!(alices.run(&["pair", "--to", "bob", "--json"]).await.ok().json()["status"], "approved");
    send(&alices, &[]).await.ok();
    let peer = bobs.run(&["log", "--json"]).await.ok().json()["messages"][0]["peer"].clone();
    assert!(peer.as_str().unwrap().starts_with("dev-"), "nobody named that device: {peer}");
    assert_eq!(serve.end().await, Some(0));
}

/// What an error says and advises.
fn told(out: &Out) -> String {
    let error = &out.json()["error"];
    format!("{}\n{}", error["message"].as_str().unwrap(), error["hint"].as_str().unwrap())
}

/// What `doctor` found to be wrong with Bob, and what it advises.
async fn diagnosis(alices: &Host) -> String {
    let report = alices.run(&["doctor", "--to", "bob", "--json"]).await.ok().json();
    let checks = report["checks"].as_array().unwrap().iter();
    let failed: Vec<_> = checks.filter(|check| check["status"] == "fail").map(Value::to_string).collect();
    failed.join("\n")
}

#[tokio::test]
async fn who_has_asked_hears_that_it_waits_and_the_next_message_looks_whether_it_was_approved() {
    let bobs = Host::named("bob@example.com");
    let mut serve = Serve::start(&bobs, &[]).await;
    let alices = Host::with_bob(&serve.url());
    fs::remove_file(alices.config("tokens.json")).unwrap();
    assert!(
        told(&send(&alices, &[]).await.exits(5)).contains("agent-mesh invite alice"),
        "who we are is known"
    );
    let filed = alices.run(&["pair", "--to", "bob", "--json"]).await.ok().json();
    let request = filed["requestId"].as_str().unwrap();
    let approve = format!("agent-mesh pair approve {request}");
    let waits = send(&alices, &[]).await;
    assert_eq!(error(&waits), (5, "pairing-required".into()));
    assert!(told(&waits).contains(&format!("on Bob's host, run one of: {approve}")), "{waits:?}");
    let found = diagnosis(&alices).await;
    assert!(found.contains(&approve) && found.contains("Bob was asked at"), "{found}");
    assert!(!alices.run(&["ping", "--to", "bob", "--json"]).await.ok().stdout.contains("no token"));
    owner(&bobs, &serve, &["pair", "approve", request]).await.ok();
    let device = alices.run(&["whoami", "--json"]).await.ok().json()["device"]["id"].clone();
    let rule = format!("[peers.dev-{}]\nmode = ", device.as_str().unwrap().get(..12).unwrap());

    // Approved, and kept out by the policy: both say so, and neither advises to ask again.
    bobs.write(bobs.config("policy.toml"), format!("{rule}\"deny\""));
    reread(&mut serve).await;
    let denied = send(&alices, &[]).await;
    let words = told(&denied);
    assert!(words.contains("Bob's policy: mode") && words.contains("[peers.alice]"), "{words}");
    let found = diagnosis(&alices).await;
    for said in [&words, &found] {
        assert!(
            said.contains("mode") && said.contains("[peers.alice]") && !said.contains("pair --to"),
            "{said}"
        );
    }

    bobs.write(bobs.config("policy.toml"), format!("{rule}\"allow\""));
    reread(&mut serve).await;
    send(&alices, &[]).await.ok();
    assert_eq!(fs::read_to_string(alices.state("filed.json")).unwrap(), "{}");
    assert_eq!(diagnosis(&alices).await, "");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn the_real_gateway_wants_a_token_to_be_asked() {
    let gateway = FakeGateway::start(strict()).await;
    let alices = Host::with_bob(&gateway.url());
    fs::remove_file(alices.config("tokens.json")).unwrap();
    let out = alices.run(&["pair", "--to", "bob", "--json"]).await;
    assert_eq!(error(&out), (5, "no-credential".into()));
}

#[tokio::test]
async fn a_held_message_runs_when_the_owner_says_so_also_after_a_restart() {
    let (bobs, serve, alices) = team("[peers.alice]\nmode = \"approve\"\n").await;
    let sent = send(&alices, &["--no-wait"]).await.ok().json();
    assert_eq!((&sent["state"], sent["receipt"]["acceptedAt"].is_string()), (&json!("held"), true), "{sent}");
    let waited =
        alices.run(&["wait", sent["id"].as_str().unwrap(), "--timeout", "1", "--json"]).await.exits(3);
    assert_eq!((&waited.json()["state"], &waited.json()["error"]["code"]), (&json!("held"), &json!("held")));
    assert_eq!(bobs.run(&["log", "--json"]).await.ok().json()["messages"][0]["state"], "held");
    assert_eq!(serve.end().await, Some(0));

    let serve = Serve::start(&bobs, &[]).await;
    alices.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": serve.url() }]));
    let held = owner(&bobs, &serve, &["inbox", "list"]).await.ok().json()["messages"].clone();
    assert_eq!(held.as_array().unwrap().len(), 1, "{held}");
    let id = held[0]["id"].as_str().unwrap();
    let as_sent = owner(&bobs, &serve, &["inbox", "show", sent["id"].as_str().unwrap()]).await.ok().json();
    assert_eq!(as_sent["messages"][0]["id"], id, "its sender's id means it, too");
    let shown = owner(&bobs, &serve, &["inbox", "show", &id[..8]]).await.ok().json()["messages"][0].clone();
    assert_eq!((&shown["from"]["emailPrefix"], &shown["complete"]), (&json!("alice"), &json!(true)));
    assert!(shown["message"].as_str().unwrap().ends_with("hello"), "{shown}");
    let text = bobs.run(&["inbox", "list", "--gateway", &serve.url()]).await.ok().stdout;
    assert!(text.contains("Alice (alice)") && text.contains("hello"), "{text}");
    assert_eq!(owner(&bobs, &serve, &["inbox", "approve", id]).await.ok().json()["status"], "approved");
    let waited = alices.run(&["wait", sent["id"].as_str().unwrap(), "--json"]).await.ok().json();
    assert_eq!((&waited["state"], &waited["reply"]["text"]), (&json!("replied"), &json!("echo: hello")));
    assert_eq!(error(&owner(&bobs, &serve, &["inbox", "approve", id]).await), (2, "not-held".into()));

    let logged = bobs.run(&["log", "--json"]).await.ok().json()["messages"].clone();
    assert_eq!(
        (logged.as_array().unwrap().len(), &logged[0]["state"]),
        (1, &json!("replied")),
        "one life: {logged}"
    );
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_key_that_only_the_archive_still_knows_is_not_held_again() {
    let (bobs, serve, _) = team("").await;
    assert_eq!(serve.end().await, Some(0));
    // Of a reply that long the door takes up nothing at its next start, and nothing that was said before it.
    let script = "case \"$(cat)\" in *long*) head -c 4194300 /dev/zero | tr '\\0' y;; *) echo done;; esac";
    let agent = ["--agent", "exec", "--", "/bin/sh", "-c", script];
    let own = fs::read_to_string(bobs.path("alice.token")).unwrap();
    let alice = async |serve: &Serve| {
        let host = Host::with_bob(&serve.url());
        host.call(&["token", "set", "bob"]).stdin(own.clone()).run().await.ok();
        host
    };
    let once = ["--id", "0190a6c8-0000-7000-8000-000000000001"];
    let serve = Serve::start(&bobs, &agent).await;
    let host = alice(&serve).await;
    send(&host, &once).await.ok();
    host.run(&["send", "--to", "bob", "--message", "long"]).await.ok();
    assert_eq!(serve.end().await, Some(0));

    let policy = fs::read_to_string(bobs.config("policy.toml")).unwrap();
    assert!(policy.contains("[peers.alice]"), "{policy}");
    bobs.write(
        bobs.config("policy.toml"),
        policy.replace("[peers.alice]", "[peers.alice]\nmode = \"approve\""),
    );
    let serve = Serve::start(&bobs, &agent).await;
    let host = alice(&serve).await;
    let again = send(&host, &once).await.ok().json();
    assert_eq!((&again["state"], &again["reply"]["text"]), (&json!("replied"), &json!("done")));
    assert_eq!(send(&host, &["--no-wait"]).await.ok().json()["state"], "held", "a new one is");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_flush_does_not_wait_for_the_owners_word() {
    let (bobs, serve, alices) = team("[peers.alice]\nmode = \"approve\"\n").await;
    let sent = send(&alices, &["--queue", "--no-wait"]).await.ok().json();
    let id = sent["id"].as_str().unwrap();
    // As long as the test may take: if it waited for the reply, it would hang.
    let flush = ["outbox", "flush", "--timeout", "10m", "--json"];
    for _ in 0..2 {
        let flushed = alices.run(&flush).await.ok().json();
        assert_eq!(flushed["counts"], json!({ "held": 1 }));
    }
    let listed = alices.run(&["outbox", "list", "--json"]).await.ok().json();
    let why = listed["messages"][0]["failure"].as_str().unwrap();
    assert_eq!(why, "Bob has to let the message run, and has not done so yet");
    owner(&bobs, &serve, &["inbox", "approve", id]).await.ok();
    let flushed = alices.run(&flush).await.ok().json();
    assert_eq!(flushed["counts"], json!({ "replied": 1 }));
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_rejected_message_fails_and_says_whose_word_that_was() {
    let (bobs, serve, alices) = team("[peers.alice]\nmode = \"approve\"\n").await;
    let sending = send(&alices, &["--timeout", "30"]);
    let rejecting = async {
        loop {
            let held = owner(&bobs, &serve, &["inbox", "list"]).await.ok().json()["messages"].clone();
            if let Some(id) = held[0]["id"].as_str() {
                return owner(&bobs, &serve, &["inbox", "reject", id]).await.ok();
            }
        }
    };
    let (sent, rejected) = tokio::join!(sending, rejecting);
    let id = sent.json()["id"].clone();
    let again = alices.run(&["wait", id.as_str().unwrap(), "--json"]).await.exits(1).json();
    assert_eq!(again["error"], sent.json()["error"], "one fact has one code");
    assert_eq!(rejected.json()["status"], "rejected");
    assert_eq!(error(&sent), (1, "run-failed".into()));
    assert!(sent.json()["error"]["message"].as_str().unwrap().contains("rejected by its owner"), "{sent:?}");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_paused_door_says_come_again_and_stays_paused() {
    let (bobs, serve, alices) = team("").await;
    assert_eq!(owner(&bobs, &serve, &["inbox", "pause"]).await.ok().json()["paused"], true);
    let out = send(&alices, &["--timeout", "5"]).await;
    assert_eq!(error(&out), (75, "paused-by-peer".into()));
    assert_eq!(serve.end().await, Some(0));

    let serve = Serve::start(&bobs, &[]).await;
    alices.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": serve.url() }]));
    assert_eq!(owner(&bobs, &serve, &["inbox", "list"]).await.ok().json()["paused"], true);
    assert_eq!(owner(&bobs, &serve, &["inbox", "resume"]).await.ok().json()["paused"], false);
    send(&alices, &[]).await.ok();
    assert_eq!(serve.end().await, Some(0));

    let serve = Serve::start(&bobs, &["--pause"]).await;
    assert_eq!(owner(&bobs, &serve, &["inbox", "list"]).await.ok().json()["paused"], true);
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_denial_names_its_rule_and_a_restart_forgives_nothing() {
    let (bobs, serve, alices) = team("[peers.alice]\nruns-per-day = 1\nmessage-bytes = 200\n").await;
    let long = "x".repeat(300);
    let out = alices.run(&["send", "--to", "bob", "--message", &long, "--json"]).await;
    assert_eq!(error(&out), (5, "denied-by-peer".into()));
    assert!(out.json()["error"]["hint"].as_str().unwrap().contains("message-bytes = 200"), "{out:?}");
    send(&alices, &[]).await.ok();
    assert_eq!(serve.end().await, Some(0));

    let serve = Serve::start(&bobs, &[]).await;
    alices.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": serve.url() }]));
    let out = send(&alices, &["--timeout", "5"]).await;
    assert_eq!(error(&out), (75, "denied-by-peer".into()));
    assert!(out.json()["error"]["hint"].as_str().unwrap().contains("runs-per-day = 1"), "{out:?}");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn rules_are_read_again_when_they_change_or_on_sighup_and_bad_ones_change_nothing() {
    let (bobs, mut serve, alices) = team("").await;
    let good = fs::read_to_string(bobs.config("policy.toml")).unwrap();
    send(&alices, &[]).await.ok();
    bobs.write(bobs.config("policy.toml"), good.replace("[peers.alice]", "[peers.alice]\nmode = \"deny\""));
    reread(&mut serve).await;
    let out = send(&alices, &[]).await;
    assert_eq!(error(&out), (5, "denied-by-peer".into()));

    bobs.write(bobs.config("policy.toml"), "[peers.alice]\nmode = \"allow\"\nrunz = 1\n");
    let mut said = String::new();
    while !said.contains("runz") {
        said = serve.line().await;
    }
    assert!(said.contains("the rules are as they were"), "{said}");
    assert_eq!(error(&send(&alices, &[]).await), (5, "denied-by-peer".into()));
    fs::remove_file(bobs.config("policy.toml")).unwrap();
    signal(&serve.child, Signal::HUP);
    while !said.contains("there is no policy") {
        said = serve.line().await;
    }
    assert_eq!(error(&send(&alices, &[]).await), (5, "denied-by-peer".into()), "to lose it opens nothing");

    bobs.write(bobs.config("policy.toml"), good);
    signal(&serve.child, Signal::HUP);
    reread(&mut serve).await;
    send(&alices, &[]).await.ok();
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_keeps_serve_from_starting() {
    let host = Host::new();
    let start = async |args: &[&str]| {
        let out = host.run(&[&["serve", "--listen", "127.0.0.1:0", "--json"], args].concat()).await;
        error(&out)
    };
    let policy = host.write(host.config("policy.toml"), "[default]\nmode = \"perhaps\"\n");
    assert_eq!(start(&[]).await, (2, "policy-malformed".into()));
    host.write(host.config("policy.toml"), "");
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(start(&[]).await, (7, "unsafe-file".into()));
    assert_eq!(start(&["--policy", "nowhere.toml"]).await, (2, "policy-missing".into()));
}

#[tokio::test]
async fn the_inbox_is_the_owners_alone() {
    let (_bobs, serve, alices) = team("").await;
    let out = alices.run(&["inbox", "list", "--gateway", &serve.url(), "--json"]).await;
    assert_eq!(error(&out).0, 5);
    let own: Value =
        serde_json::from_str(&fs::read_to_string(alices.config("tokens.json")).unwrap()).unwrap();
    let own = own["tokens"]["bob"].as_str().unwrap();
    let call = alices.call(&["inbox", "list", "--gateway", &serve.url(), "--json"]);
    assert_eq!(
        error(&call.env("OPENCLAW_GATEWAY_TOKEN", own).run().await).0,
        5,
        "a peer's token is no owner's"
    );
    assert_eq!(serve.end().await, Some(0));
}

/// The idle sockets of many: as many as issue 6 names, or as this process may have.
const IDLE: u64 = 10_000;
/// Of each address; it may have 64 that have not said who they are.
const EACH: u64 = 50;

/// So many sockets as the limit of this process leaves room for, beside what other tests have open.
fn room_for_sockets() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let most = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    most.map_or(IDLE, |most| most.saturating_sub(1_000).min(IDLE))
}

async fn idle_socket(address: String, number: u64) -> (Instant, TcpStream) {
    let [.., high, low] = (number / EACH).to_be_bytes();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 1, high, low), 0).into()).unwrap();
    (Instant::now(), socket.connect(address.parse().unwrap()).await.unwrap())
}

#[tokio::test]
async fn ten_thousand_idle_sockets_keep_nobody_out() {
    let (_bobs, serve, alices) = team("[default]\nmode = \"allow\"\n").await;
    let mut coming = JoinSet::new();
    let mut idle = Vec::new();
    for number in 0..room_for_sockets() {
        coming.spawn(idle_socket(serve.address.clone(), number));
        if coming.len() == 200 {
            idle.extend(coming.join_next().await.unwrap());
        }
    }
    idle.extend(coming.join_all().await);
    let sent = send(&alices, &[]).await.ok().json();
    assert_eq!(sent["state"], "replied", "{sent}");
    // Who says nothing for ten seconds is sent away, and nobody before that.
    let ended = |socket: &TcpStream| matches!(socket.try_read(&mut [0]), Ok(0));
    let early =
        idle.iter().filter(|(since, socket)| ended(socket) && since.elapsed() < Duration::from_secs(9));
    assert_eq!(early.count(), 0, "of {}", idle.len());
    drop(idle);
    send(&alices, &["--thread", "afterwards"]).await.ok();
}
