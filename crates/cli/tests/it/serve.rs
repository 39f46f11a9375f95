//! `serve`: the binary on both ends.

use std::fs;

use serde_json::json;

use crate::support::{DeadPort, Host, Serve, mode, token};

/// Bob's host, his gateway, and Alice's host, which knows his token and address.
async fn both(args: &[&str]) -> (Host, Serve, Host) {
    let bobs = Host::new();
    bobs.write("serve.token", token("bob"));
    let serve = Serve::start(&bobs, &[&["--token-file", "serve.token"], args].concat()).await;
    let alices = Host::with_bob(&serve.url());
    (bobs, serve, alices)
}

#[tokio::test]
async fn it_makes_a_token_listens_and_ends_when_told_to() {
    let host = Host::new();
    let mut serve = Serve::start(&host, &[]).await;
    let line = serve.line().await;
    let path = host.state("serve-token");
    assert!(line.contains(path.to_str().unwrap()), "{line}");
    assert_eq!((mode(&path), mode(&host.state(""))), (0o600, 0o700));
    let made = fs::read_to_string(&path).unwrap();
    assert!(made.trim().len() >= 32 && !line.contains(made.trim()), "{line}");
    assert_eq!(serve.end().await, Some(0));
    let serve = Serve::start(&host, &[]).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), made, "the next start keeps it");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn its_token_comes_from_a_file_or_the_environment() {
    let (_bobs, serve, alices) = both(&[]).await;
    alices.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    alices.tokens(&["nobody"]);
    assert_eq!(serve.end().await, Some(0));
    let host = Host::new();
    host.write("wide", token("x"));
    fs::set_permissions(host.path("wide"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let out = host.run(&["serve", "--listen", "127.0.0.1:0", "--token-file", "wide"]).await.exits(7);
    assert!(out.stderr.contains("chmod 600"), "{}", out.stderr);
}

#[tokio::test]
async fn echo_answers_through_the_real_binary() {
    let (_bobs, serve, alices) = both(&["--agent", "echo"]).await;
    for (via, reply) in [("agent", "echo: hello 戴泽\n"), ("chat", "echo: hello 戴泽\n")] {
        let out = alices.run(&["send", "--to", "bob", "--message", "hello 戴泽", "--via", via]).await.ok();
        assert_eq!(out.stdout, reply, "{via}");
    }
    let document =
        alices.run(&["send", "--to", "bob", "--message", "a", "--rounds", "3", "--json"]).await.ok().json();
    assert_eq!(document["reply"]["text"], "echo: echo: echo: a");
    alices.run(&["ping", "--to", "bob"]).await.ok();
    assert_eq!(alices.run(&["list", "--json"]).await.ok().json()["summary"]["online"], 1);
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn exec_gives_the_message_on_stdin_and_takes_the_reply_from_stdout() {
    let (_bobs, serve, alices) =
        both(&["--agent", "exec", "--", "/bin/sh", "-c", "read line; echo \"got $line\""]).await;
    let out = alices.run(&["send", "--to", "bob", "--message", "one", "--no-header"]).await.ok();
    assert_eq!(out.stdout, "got one\n");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn exec_that_fails_is_a_failed_run() {
    let (_bobs, serve, alices) =
        both(&["--agent", "exec", "--", "/bin/sh", "-c", "echo no luck >&2; exit 3"]).await;
    let document = alices.run(&["send", "--to", "bob", "--message", "one", "--json"]).await.exits(1).json();
    assert_eq!((&document["state"], &document["error"]["code"]), (&json!("failed"), &json!("run-failed")));
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn exec_that_never_reads_is_fine() {
    let (_bobs, serve, alices) = both(&["--agent", "exec", "--", "/bin/sh", "-c", "echo deaf"]).await;
    let long = "x".repeat(8000);
    let out = alices.run(&["send", "--to", "bob", "--message", &long]).await.ok();
    assert_eq!(out.stdout, "deaf\n");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn only_its_token_opens_it_for_pairing_commands() {
    let (bobs, serve, alices) = both(&[]).await;
    alices.run(&["send", "--to", "bob", "--message", "hi"]).await.ok();
    let pair = |args: &[&str]| {
        let gateway = serve.url();
        let call = bobs.call(&[&["pair", "--gateway", &gateway, "--json"], args].concat());
        call.env("OPENCLAW_GATEWAY_TOKEN", token("bob"))
    };
    let list = pair(&["list"]).run().await.ok().json();
    assert_eq!(
        (&list["pending"], &list["paired"]),
        (&json!([]), &json!([])),
        "loopback and the token need no pairing"
    );
    let document = pair(&["approve", "nobody"]).run().await.exits(4).json();
    assert_eq!(document["error"]["code"], "no-such-device");
    let wrong = bobs.call(&["pair", "list", "--gateway", &serve.url(), "--json"]);
    let document = wrong.env("OPENCLAW_GATEWAY_TOKEN", token("wrong")).run().await.exits(5).json();
    assert_eq!(document["error"]["code"], "own-token-refused");
    assert_eq!(serve.end().await, Some(0));
}

/// An address of this machine that is not loopback, so that a client looks remote. Nothing is sent to find it out.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("10.255.255.255:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    matches!(ip, std::net::IpAddr::V4(v4) if v4.is_private()).then_some(ip)
}

#[tokio::test]
async fn a_remote_device_is_approved_talks_and_is_revoked() {
    let Some(ip) = own_address() else { return };
    let bobs = Host::new();
    bobs.write("serve.token", token("bob"));
    let serve = Serve::start_on(&bobs, "0.0.0.0:0", &["--token-file", "serve.token"]).await;
    let port = serve.address.rsplit(':').next().unwrap();
    let own = format!("ws://127.0.0.1:{port}");
    let alices = Host::with_bob(&format!("ws://{ip}:{port}"));
    let bob = async |args: &[&str]| {
        let call = bobs.call(&[&["pair", "--json", "--gateway", &own], args].concat());
        call.env("OPENCLAW_GATEWAY_TOKEN", token("bob")).run().await.ok().json()
    };
    let send = &["send", "--to", "bob", "--message", "hi", "--json"];

    assert_eq!(alices.run(send).await.exits(5).json()["error"]["code"], "pairing-required");
    let filed = alices.run(&["pair", "--to", "bob", "--json"]).await.ok().json();
    let waiting = bob(&["list"]).await["pending"].clone();
    assert_eq!(waiting.as_array().map(Vec::len), Some(1), "{waiting}");
    assert_eq!((&waiting[0]["requestId"], &waiting[0]["remoteIp"]), (&filed["requestId"], &json!(ip)));
    assert_eq!(waiting[0]["scopes"], json!(["operator.read", "operator.write"]));
    assert!(waiting[0]["displayName"].as_str().unwrap().starts_with("agent-mesh:alice ("));
    let approved = bob(&["approve", filed["requestId"].as_str().unwrap()]).await;
    assert_eq!((&approved["status"], &approved["requestId"]), (&json!("approved"), &filed["requestId"]));

    assert_eq!(alices.run(send).await.ok().json()["reply"]["text"], "echo: hi");
    fs::remove_file(alices.config("tokens.json")).unwrap();
    alices.run(send).await.ok();
    let paired = bob(&["list"]).await["paired"].clone();
    assert_eq!(paired[0]["deviceId"], approved["device"]["deviceId"], "{paired}");

    assert_eq!(bob(&["revoke", "alice"]).await["status"], "revoked");
    assert_eq!(alices.run(send).await.exits(5).json()["error"]["code"], "device-token-invalid");
    assert_eq!(bob(&["list"]).await["paired"], json!([]));
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn the_token_it_made_opens_it_for_its_owner() {
    let host = Host::new();
    let serve = Serve::start(&host, &[]).await;
    let list = host.run(&["pair", "list", "--gateway", &serve.url(), "--json"]).await.ok().json();
    assert_eq!((&list["pending"], &list["paired"]), (&json!([]), &json!([])));
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn a_port_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = Host::new();
    let listen = taken.local_addr().unwrap().to_string();
    let document = host.run(&["serve", "--listen", &listen, "--json"]).await.exits(1).json();
    assert_eq!(document["error"]["code"], "cannot-serve");
    assert!(document["error"]["message"].to_string().contains(&listen));
}

#[tokio::test]
async fn an_address_of_another_machine_is_not_called_a_port_in_use() {
    let host = Host::new();
    let document = host.run(&["serve", "--listen", "192.0.2.1:0", "--json"]).await.exits(1).json();
    assert_eq!(document["error"]["code"], "cannot-serve");
    let hint = document["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("no such address") && !hint.contains("free port"), "{hint}");
}

#[tokio::test]
async fn it_listens_where_a_name_leads() {
    let host = Host::new();
    let serve = Serve::start_on(&host, "localhost:0", &[]).await;
    assert!(serve.url().starts_with("ws://127.0.0.1:"), "{}", serve.url());
    assert_eq!(serve.end().await, Some(0));
    for nowhere in ["localhost", "18789", "no-such-host.invalid:0"] {
        let out = host.run(&["serve", "--listen", nowhere]).await.exits(2);
        assert!(out.stderr.contains("such as 127.0.0.1:18789"), "{}", out.stderr);
    }
}

#[tokio::test]
async fn a_second_one_on_the_same_folder_is_told_where_the_first_is() {
    let host = Host::new();
    let serve = Serve::start(&host, &[]).await;
    let document = host.run(&["serve", "--listen", "127.0.0.1:0", "--json"]).await.exits(1).json();
    assert_eq!(document["error"]["code"], "already-serving");
    let hint = document["error"]["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("{}, process {}", serve.url(), serve.child.id().unwrap())), "{hint}");
}

#[tokio::test]
async fn its_owner_is_told_where_it_listens_when_he_calls_elsewhere() {
    let (host, nobody) = (Host::new(), DeadPort::new().url());
    let serve = Serve::start(&host, &[]).await;
    let flag = format!("--gateway {}", serve.url());
    for command in [&["inbox", "list"][..], &["pair", "list"], &["invite", "carl"]] {
        let out = host.run(&[command, &["--gateway", &nobody, "--json"]].concat()).await.exits(6).json();
        assert_eq!(out["error"]["code"], "own-gateway-unreachable");
        assert!(out["error"]["hint"].as_str().unwrap().contains(&flag), "{out}");
    }
    let text = host.run(&["doctor", "--gateway", &nobody]).await.ok().stdout;
    assert!(text.contains(&flag) && text.contains("export MESH_GATEWAY_URL="), "{text}");
    host.run(&["inbox", "list", "--gateway", &serve.url()]).await.ok();
    assert_eq!(serve.end().await, Some(0));
    let out = host.run(&["inbox", "list", "--gateway", &nobody, "--json"]).await.exits(6).json();
    assert!(!out["error"]["hint"].as_str().unwrap().contains(&flag), "what has ended is not named: {out}");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_refused_at_the_start() {
    let host = Host::new();
    host.write("no-program", "#!/bin/sh\n");
    for command in ["no-such-command", "/bin/no-such-command", "/bin", ""] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--json", "--agent", "exec", "--", command];
        let document = host.run(&serve).await.exits(2).json();
        assert_eq!(document["error"]["code"], "command-missing", "{command}");
        assert!(document["error"]["hint"].as_str().unwrap().contains("PATH"));
    }
    let serve = ["serve", "--listen", "127.0.0.1:0", "--json", "--agent", "exec", "--", "./no-program"];
    let error = host.run(&serve).await.exits(2).json()["error"].clone();
    assert_eq!(
        (&error["code"], &error["message"], &error["hint"]),
        (
            &json!("command-not-executable"),
            &json!("./no-program may not be executed"),
            &json!("chmod +x ./no-program")
        )
    );
    let serve = Serve::start(&host, &["--agent", "exec", "--", "cat"]).await;
    assert_eq!(serve.end().await, Some(0), "without a PATH there are the folders of the system");
}

#[tokio::test]
async fn a_run_that_fails_is_told_to_the_owner_with_its_commands_last_words_and_to_the_sender_without() {
    let host = Host::new();
    host.write("serve.token", token("bob"));
    let fails = [
        "--token-file",
        "serve.token",
        "--agent",
        "exec",
        "--",
        "/bin/sh",
        "-c",
        "seq 1 9 >&2; printf 'inner\\033[31m words' >&2; exit 3",
    ];
    let mut serve = Serve::start(&host, &fails).await;
    let alices = Host::with_bob(&serve.url());
    let sent =
        alices.run(&["send", "--to", "bob", "--message", "outer words", "--json"]).await.exits(1).json();
    let run = sent["id"].as_str().unwrap();
    let expected = format!(
        "warning: run {run} of owner failed: the agent's command failed (exit status: 3)\n  | 6\n  | 7\n  | 8\n  | 9\n  | \
         inner\\u{{1b}}[31m words\n"
    );
    let mut lines = String::new();
    for _ in expected.lines() {
        lines += &serve.line().await;
    }
    assert_eq!(lines, expected);
    assert!(!sent.to_string().contains("inner"), "{sent}");
    let logged = alices.run(&["log", "show", run, "--json"]).await.ok();
    assert!(!logged.stdout.contains("inner"), "{logged:?}");
}

/// What only waited has not begun, and was promised to its sender: it runs when the gateway is back, once. What had begun
/// is not begun again.
#[tokio::test]
async fn a_run_that_only_waited_when_the_gateway_was_killed_runs_when_it_is_back() {
    let host = Host::new();
    host.write("serve.token", token("bob"));
    let script = "cat >> ran; [ -e ready ] || exec sleep 5; echo done";
    let agent =
        ["--token-file", "serve.token", "--agent", "exec", "--no-frame", "--", "/bin/sh", "-c", script];
    let mut serve = Serve::start(&host, &agent).await;
    let address = serve.address.clone();
    let alices = Host::with_bob(&serve.url());
    let mut ids = Vec::new();
    for message in ["first", "second", "third"] {
        let sent = ["send", "--to", "bob", "--message", message, "--no-wait", "--no-header", "--json"];
        ids.push(alices.run(&sent).await.ok().json()["id"].as_str().unwrap().to_owned());
    }
    let log = host.run(&["log", "--json"]).await.ok().json();
    let states: Vec<_> = log["messages"].as_array().unwrap().iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["accepted"; 3], "each was written down before its sender was told that it is taken");
    while !host.path("ran").exists() {
        tokio::task::yield_now().await;
    }
    serve.child.kill().await.unwrap();

    host.write("ready", "");
    let serve = Serve::start_on(&host, &address, &agent).await;
    let wait = async |id: &str| alices.run(&["wait", id, "--timeout", "30s", "--json"]).await;
    let first = wait(&ids[0]).await.exits(1).json();
    assert!(first["error"]["message"].as_str().unwrap().contains("the gateway ended before it"), "{first}");
    for id in &ids[1..] {
        assert_eq!(wait(id).await.ok().json()["reply"]["text"], "done");
    }
    assert_eq!(std::fs::read_to_string(host.path("ran")).unwrap(), "firstsecondthird");
    let log = host.run(&["log", "--json"]).await.ok().json();
    let states: Vec<_> = log["messages"].as_array().unwrap().iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["failed", "replied", "replied"]);
    drop(serve);
}

/// SIGKILL leaves nobody who could write an end down: the next one does.
#[tokio::test]
async fn a_run_that_the_gateway_was_killed_in_ends_when_it_is_back() {
    let host = Host::new();
    host.write("serve.token", token("bob"));
    let slow = ["--token-file", "serve.token", "--agent", "exec", "--", "/bin/sh", "-c", "exec sleep 5"];
    let mut serve = Serve::start(&host, &slow).await;
    let address = serve.address.clone();
    let alices = Host::with_bob(&serve.url());
    let sent =
        alices.run(&["send", "--to", "bob", "--message", "hi", "--no-wait", "--json"]).await.ok().json();
    let id = sent["id"].as_str().unwrap();
    // It has begun when it is in the log.
    let log = &["log", "--json"];
    while host.run(log).await.ok().json()["messages"].as_array().unwrap().is_empty() {}
    serve.child.kill().await.unwrap();

    let down = alices.run(&["wait", id, "--timeout", "1s", "--json"]).await.exits(3).json();
    assert_eq!((&down["error"]["code"], &down["state"]), (&json!("away"), &json!("accepted")));
    assert!(down["error"]["hint"].as_str().unwrap().contains(&format!("agent-mesh wait {id}")));

    let serve = Serve::start_on(&host, &address, &slow).await;
    let row = host.run(log).await.ok().json()["messages"][0].clone();
    assert_eq!(row["state"], "failed", "{row}");
    let back = alices.run(&["wait", id, "--timeout", "30s", "--json"]).await.exits(1).json();
    assert_eq!((&back["error"]["code"], &back["state"]), (&json!("run-failed"), &json!("failed")));
    assert!(back["error"]["message"].as_str().unwrap().contains("the gateway ended before it"), "{back}");
    assert_eq!(
        alices.run(&["wait", id, "--json"]).await.exits(1).json()["state"],
        "failed",
        "it is over for good"
    );
    let again =
        alices.run(&["send", "--to", "bob", "--message", "hi", "--id", id, "--json"]).await.exits(2).json();
    assert_eq!(again["error"]["code"], "id-in-use");
    drop(serve);
}
