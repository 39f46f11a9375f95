//! `send --queue`, `outbox`, and what the archive keeps of both directions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use agent_mesh_testkit::{FakeGateway, Reply};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::support::{DeadPort, Host, SECRET, Serve, heard, signal, strict, token};

/// Bob's new address.
fn move_bob(host: &Host, url: &str) {
    host.registry(&json!([
        { "name": "Alice", "emailPrefix": "alice", "ip": "10.255.255.1" },
        { "name": "Bob", "nickname": "bobby", "emailPrefix": "bob", "url": url },
    ]));
}

async fn queue(host: &Host, text: &str) -> Value {
    host.run(&["send", "--queue", "--to", "bob", "--message", text, "--json"]).await.ok().json()
}

#[tokio::test]
async fn a_message_is_kept_while_bob_is_away_and_delivered_when_he_is_back() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    let out = host.run(&["send", "--queue", "--to", "bob", "--message", "one"]).await.ok();
    let id = out.stdout.trim().strip_prefix("queued ").unwrap().to_owned();
    assert!(out.stderr.contains("outbox flush"), "{}", out.stderr);
    let call = host.call(&["send", "--to", "bob", "--message", "two", "--json"]).env("MESH_QUEUE", "1");
    let document = call.run().await.ok().json();
    assert_eq!((&document["state"], &document["command"]), (&json!("queued"), &json!("send")));
    assert!(document["nextTryAt"].is_string(), "{document}");
    let listed = host.run(&["outbox", "list", "--json"]).await.ok().json();
    assert_eq!(
        (listed["messages"].as_array().unwrap().len(), &listed["counts"]),
        (2, &json!({ "waiting": 2, "givenUp": 0 }))
    );
    assert_eq!((&listed["messages"][0]["id"], &listed["messages"][0]["tries"]), (&json!(id), &json!(2)));
    let out = host.run(&["outbox", "flush"]).await.ok();
    assert!(out.stdout.contains("queued"), "what waits is no failure: {}", out.stdout);

    let gateway = FakeGateway::start(strict()).await;
    move_bob(&host, &gateway.url());
    let flushed = host.run(&["outbox", "flush", "--json"]).await.ok().json();
    assert_eq!(flushed["counts"], json!({ "replied": 2 }));
    assert!(flushed["results"][0]["reply"]["text"].as_str().unwrap().ends_with("one"));
    assert_eq!(heard(&gateway), ["one", "two"]);
    let out = host.run(&["outbox", "list"]).await.ok();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", "the outbox is empty\n"));
    let shown = host.run(&["log", "show", &id, "--json"]).await.ok().json();
    assert_eq!(shown["messages"][0]["state"], "replied");
}

#[tokio::test]
async fn queue_with_bob_at_home_is_a_send() {
    let gateway = FakeGateway::start(strict().reply(|_| Reply::text("here"))).await;
    let host = Host::with_bob(&gateway.url());
    let out = host.run(&["send", "--queue", "--to", "bob", "--message", "hi"]).await.ok();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("here\n", ""));
}

#[tokio::test]
async fn rm_and_retry_name_what_they_cannot_do() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    let id = queue(&host, "one").await["id"].as_str().unwrap().to_owned();
    assert_eq!(host.run(&["outbox", "rm", &id, "--json"]).await.ok().json()["state"], "cancelled");
    assert_eq!(
        host.run(&["outbox", "retry", &id, "--expires", "2d", "--json"]).await.ok().json()["state"],
        "queued"
    );
    let gateway = FakeGateway::start(strict()).await;
    move_bob(&host, &gateway.url());
    host.run(&["outbox", "flush", "--to", "bob"]).await.ok();
    let document = host.run(&["outbox", "rm", &id, "--json"]).await.exits(2).json();
    assert_eq!(document["error"]["code"], "not-in-outbox");
    let document = host.run(&["outbox", "rm", "0197d3f0-8c5e", "--json"]).await.exits(2).json();
    assert_eq!(document["error"]["code"], "no-such-message");
    assert_eq!(gateway.ledger().total(), 1);
}

#[tokio::test]
async fn what_was_given_up_gives_the_exit_code_and_stays_visible() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    queue(&host, "one").await;
    let gateway = FakeGateway::start(agent_mesh_testkit::Script::new().shared_token("another")).await;
    move_bob(&host, &gateway.url());
    let document = host.run(&["outbox", "flush", "--json"]).await.exits(5).json();
    assert_eq!(
        (&document["error"]["code"], &document["counts"]),
        (&json!("token-mismatch"), &json!({ "failed": 1 }))
    );
    let listed = host.run(&["outbox", "list", "--json"]).await.ok().json();
    assert_eq!(listed["counts"], json!({ "waiting": 0, "givenUp": 1 }));
    assert_eq!(gateway.connects(), 1, "a refused credential is not shown again");
    host.run(&["outbox", "flush"]).await.ok();
    assert_eq!(gateway.connects(), 1);
}

#[tokio::test]
async fn a_worker_delivers_as_json_lines_until_it_is_told_to_end() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    queue(&host, "one").await;
    let gateway = FakeGateway::start(strict()).await;
    move_bob(&host, &gateway.url());
    let mut worker = host.call(&["outbox", "run", "--json"]).spawn();
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line =
            tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.expect("it is silent");
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    };
    let line = next().await;
    assert_eq!((&line["state"], &line["to"]["emailPrefix"]), (&json!("replied"), &json!("bob")));
    let id = i32::try_from(worker.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(worker.wait().await.unwrap().code(), Some(0));
    assert_eq!(gateway.ledger().total(), 1);
}

/// Killed while the message is with Bob: the next worker finds the answer, and Bob is not asked twice.
#[tokio::test]
async fn a_worker_that_is_killed_costs_no_second_turn() {
    let gate = agent_mesh_testkit::Gate::new();
    let held = gate.clone();
    let gateway = FakeGateway::start(strict().reply(move |_| Reply::text("done").when(&held))).await;
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    let id = queue(&host, "one").await["id"].as_str().unwrap().to_owned();
    move_bob(&host, &gateway.url());
    let mut worker = host.call(&["outbox", "run"]).spawn();
    gateway.until(|gateway| gateway.ledger().total() == 1).await;
    worker.kill().await.unwrap();
    gate.open();
    // The lease of the dead worker has to run out first.
    let document = host.run(&["wait", &id, "--timeout", "50s", "--json"]).await.ok().json();
    assert_eq!(document["reply"]["text"], "done");
    assert_eq!(gateway.ledger().total(), 1);
}

#[tokio::test]
async fn serve_archives_what_it_hears_and_says() {
    let bobs = Host::new();
    bobs.registry(&json!([{ "name": "Alice", "emailPrefix": "alice", "ip": "" }]));
    bobs.run(&["token", "issue", "alice"]).await.ok();
    let script = "if grep -q fail; then exit 3; fi; echo done";
    let serve = Serve::start(&bobs, &["--agent", "exec", "--", "sh", "-c", script]).await;
    let alices = Host::with_bob(&serve.url());
    let own = fs::read_to_string(bobs.path("alice.token")).unwrap();
    alices.call(&["token", "set", "bob"]).stdin(own).run().await.ok();
    let sent = alices
        .run(&["send", "--to", "bob", "--message", "构建好了吗?", "--thread", "ci", "--json"])
        .await
        .ok()
        .json();
    alices.run(&["send", "--to", "bob", "--message", "plain", "--no-header"]).await.ok();
    alices.run(&["send", "--to", "bob", "--message", "fail"]).await.exits(1);
    assert_eq!(serve.end().await, Some(0));
    let logged = bobs.run(&["log", "--json"]).await.ok().json()["messages"].clone();
    let (first, second) = (&logged[0], &logged[1]);
    assert_eq!(
        (&first["direction"], &first["peer"], &first["state"]),
        (&json!("in"), &json!("alice"), &json!("replied"))
    );
    assert_eq!(
        (&first["id"], &first["message"], &first["thread"]),
        (&sent["id"], &json!("构建好了吗?"), &json!("ci"))
    );
    assert_eq!(
        (&first["session"], &first["reply"]["text"]),
        (&json!("agent:main:mesh:alice:ci"), &json!("done"))
    );
    assert!(
        first["receipt"]["acceptedAt"].is_string() && first["receipt"]["finishedAt"].is_string(),
        "{first}"
    );
    // Who sent it is who proved it, whatever it says; that is kept beside.
    assert_eq!((&second["peer"], &first["claimedFrom"]), (&json!("alice"), &json!("alice")));
    assert!(second["claimedFrom"].as_str().unwrap().starts_with("agent-mesh:alice"), "{second}");
    assert_eq!((&logged[2]["state"], logged[2]["failure"].is_string()), (&json!("failed"), true), "{logged}");
    for filter in [
        &["--with", "alice", "--state", "failed"][..],
        &["--search", "构建"],
        &["--thread", "ci"],
        &["--state", "replied", "-n", "1"],
    ] {
        let found = bobs.run(&[&["log", "--json", "--since", "1d"], filter].concat()).await.ok().json();
        assert_eq!(found["messages"].as_array().unwrap().len(), 1, "{filter:?}");
    }
    let text = bobs.run(&["log"]).await.ok().stdout;
    assert!(text.contains("← Alice replied  构建好了吗?"), "{text}");
}

#[tokio::test]
async fn serve_answers_also_when_it_cannot_archive() {
    let bobs = Host::new();
    bobs.write("serve.token", token("bob"));
    bobs.write(
        bobs.state("archive.db"),
        "this is no archive, and long enough that SQLite takes a look at all of its first hundred bytes",
    );
    let mut child = bobs.call(&["serve", "--listen", "127.0.0.1:0", "--token-file", "serve.token"]).spawn();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().contains("not archived"));
    let line = lines.next_line().await.unwrap().unwrap();
    let alices = Host::with_bob(line.strip_prefix("listening on ").unwrap());
    alices.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
}

#[tokio::test]
async fn export_prints_lines_or_one_document_and_prune_forgets_what_is_over() {
    let gateway = FakeGateway::start(strict().reply(|_| Reply::text("- [x] green\nall of it"))).await;
    let host = Host::with_bob(&gateway.url());
    for text in ["one", "two"] {
        host.run(&["send", "--to", "bob", "--message", text]).await.ok();
    }
    let out = host.run(&["log", "export", "--format", "jsonl"]).await.ok().stdout;
    let texts: Vec<Value> =
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].clone()).collect();
    assert_eq!(texts, ["one", "two"]);
    let out = host.run(&["log", "export", "--format", "md", "-n", "1"]).await.ok().stdout;
    assert!(out.contains("to Bob (replied)\n\n> two\n\n- [x] green\n"), "{out}");
    assert_eq!(
        host.run(&["--json", "log", "export"]).await.ok().json()["messages"].as_array().unwrap().len(),
        2
    );
    assert!(
        host.run(&["log", "export", "--format", "md", "--json"]).await.ok().json()["markdown"].is_string()
    );
    host.run(&["log", "--with", "bob", "prune", "--older-than", "90d"]).await.exits(2);
    assert_eq!(host.run(&["log", "prune", "--older-than", "90d", "--json"]).await.ok().json()["pruned"], 0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(host.run(&["log", "prune", "--older-than", "10ms", "--json"]).await.ok().json()["pruned"], 2);
}

#[tokio::test]
async fn follow_shows_a_message_when_it_leaves_and_when_its_reply_is_here() {
    let gate = agent_mesh_testkit::Gate::new();
    let held = gate.clone();
    let gateway = FakeGateway::start(strict().reply(move |_| Reply::text("done").when(&held))).await;
    let host = Host::with_bob(&gateway.url());
    let mut follow = host.call(&["log", "--follow", "--json"]).spawn();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line =
            tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.expect("it is silent");
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    };
    let send = host.run(&["send", "--to", "bob", "--message", "hi"]);
    let watch = async {
        let mut states = Vec::new();
        loop {
            let line = next().await;
            states.push(line["state"].as_str().unwrap().to_owned());
            match line["state"].as_str() {
                Some("accepted") => gate.open(),
                Some("replied") => break states,
                _ => {}
            }
        }
    };
    let (out, states) = tokio::join!(send, watch);
    out.ok();
    assert_eq!(states[states.len() - 2..], ["accepted", "replied"]);
}

#[tokio::test]
async fn a_peer_that_left_the_registry_is_still_in_the_log() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    host.registry(&json!([{ "name": "Carol", "emailPrefix": "carol" }]));
    let log = host.run(&["--json", "log", "--with", "bob"]).await.ok().json();
    assert_eq!(log["messages"].as_array().unwrap().len(), 1);
    fs::remove_file(host.config("registry.json")).unwrap();
    host.run(&["log", "--with", "bob"]).await.ok();
    host.run(&["log", "--with", "carol"]).await.exits(2);
}

/// Ctrl-C is how they end: no failure that somebody has to read about.
#[tokio::test]
async fn who_follows_ends_with_ctrl_c_and_no_error() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    for (args, first) in [
        (&["log", "--follow"][..], None),
        (&["list", "--watch"], None),
        (&["outbox", "run"], Some("delivering")),
    ] {
        let mut child = host.call(args).spawn();
        let (mut out, mut err) =
            (BufReader::new(child.stdout.take().unwrap()), BufReader::new(child.stderr.take().unwrap()));
        let mut begun = String::new();
        let reading = async {
            match first {
                Some(_) => err.read_line(&mut begun).await,
                None => out.read_line(&mut begun).await,
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reading).await.expect("it is silent").unwrap();
        assert!(begun.contains(first.unwrap_or_default()), "{begun}");
        signal(&child, Signal::INT);
        assert_eq!(child.wait().await.unwrap().code(), Some(130), "{args:?}");
        let mut told = String::new();
        err.read_to_string(&mut told).await.unwrap();
        assert!(!told.contains("error"), "{args:?}: {told}");
    }
}

#[tokio::test]
async fn the_list_keeps_the_message_and_the_reason_apart() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    queue(&host, "good morning").await;
    let out = host.run(&["outbox", "list"]).await.ok().stdout;
    let row = out.lines().nth(1).unwrap();
    assert!(row.contains("good morning  Bob: "), "{out}");
    assert!(row.contains("Z  "), "times say which zone is theirs: {out}");
}

/// Shared and device tokens, ours and the gateway's: none in the archive, whatever happened.
#[tokio::test]
async fn no_token_reaches_the_archive() {
    let gateway = FakeGateway::start(strict().issues_device_token(&token("device"))).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["send", "--to", "bob", "--message", "one"]).await.ok();
    host.run(&["send", "--to", "bob", "--message", "two", "--via", "chat"]).await.ok();
    let refusing = FakeGateway::start(agent_mesh_testkit::Script::new().shared_token("another")).await;
    move_bob(&host, &refusing.url());
    host.run(&["send", "--to", "bob", "--message", "three"]).await.exits(5);
    host.run(&["send", "--queue", "--to", "bob", "--message", "four"]).await.exits(5);
    let dead = DeadPort::new();
    move_bob(&host, &dead.url());
    queue(&host, "five").await;
    let serve = Serve::start(&host, &[]).await;
    let made = fs::read_to_string(host.state("serve-token")).unwrap();
    host.tokens(&["bob"]);
    move_bob(&host, &serve.url());
    host.write(host.config("tokens.json"), json!({ "tokens": { "bob": made.trim() } }).to_string());
    fs::remove_file(host.state("device-tokens.json")).unwrap();
    // This one is another gateway than the first.
    host.run(&["trust", "reset", "bob"]).await.ok();
    host.run(&["outbox", "flush"]).await.ok();
    // While it is open, the newest pages are in the side file.
    let (mut seen, mut bytes) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(host.state("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("archive.db") {
            bytes.extend(fs::read(&path).unwrap());
            seen.push(name);
        }
    }
    assert!(seen.contains(&"archive.db-wal".to_owned()), "{seen:?}");
    let holds = |what: &str| bytes.windows(what.len()).any(|window| window == what.as_bytes());
    assert!(holds("five") && holds("three"), "the messages are there");
    assert!(!holds(SECRET) && !holds(made.trim()), "a token is in the archive");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn what_cannot_be_written_to_can_be_listed() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    let id = queue(&host, "one").await["id"].clone();
    let folder = host.state("");
    let set_modes = |file: u32, mode: u32| {
        for entry in fs::read_dir(&folder).unwrap() {
            fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(file)).unwrap();
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    };
    let run = async |args: &[&str]| host.call(&[args, &["--json"]].concat()).unprivileged().run().await;
    set_modes(0o400, 0o500);
    for listing in [&["outbox", "list"][..], &["log"]] {
        assert_eq!(run(listing).await.ok().json()["messages"][0]["id"], id, "{listing:?}");
    }
    for change in [&["outbox", "flush"][..], &["send", "--to", "bob", "--message", "two"]] {
        let refused = run(change).await.exits(1).json();
        assert_eq!(refused["error"]["code"], "archive-read-only", "{refused}");
        assert!(refused["error"]["hint"].to_string().contains(&*folder.to_string_lossy()), "{refused}");
    }
    set_modes(0o600, 0o700);
}
