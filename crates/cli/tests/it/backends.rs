//! `serve` with the agents that stand somewhere else: a model, and OpenClaw.

use agent_mesh_testkit::{FakeGateway, Reply, Script};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::model::Model;
use crate::support::{Host, SECRET, Serve, token, until};

/// Alice's host, which knows Bob's token and address.
async fn bob(host: &Host, args: &[&str]) -> (Serve, Host) {
    host.write("serve.token", token("bob"));
    let serve = Serve::start(host, &[&["--token-file", "serve.token"], args].concat()).await;
    let alices = Host::with_bob(&serve.url());
    (serve, alices)
}

async fn say(alices: &Host, message: &str) -> String {
    alices.run(&["send", "--to", "bob", "--message", message]).await.ok().stdout
}

#[tokio::test]
async fn a_model_is_asked_with_the_key_of_its_file_and_knows_the_conversation_after_a_restart() {
    let (mut model, bobs) = (Model::start().await, Host::new());
    bobs.write("key", format!("{SECRET}-key\n"));
    bobs.write("system", "be kind\n");
    let url = model.url.clone();
    let args =
        ["--agent", "openai", "--url", &url, "--model", "m-1", "--api-key-file", "key", "--system", "system"];
    let (serve, alices) = bob(&bobs, &args).await;
    assert_eq!(say(&alices, "one").await, "2 one\n", "your instructions and the message");
    assert_eq!(say(&alices, "two").await, "4 two\n", "and the turn before");
    assert_eq!(serve.end().await, Some(0));
    let (serve, alices) = bob(&bobs, &args).await;
    assert_eq!(say(&alices, "three").await, "6 three\n", "and the two of the run before");
    assert_eq!(serve.end().await, Some(0));

    let (head, body) = model.asked.recv().await.unwrap();
    assert!(head.contains(&format!("authorization: Bearer {SECRET}-key")), "{head}");
    assert_eq!((&body["model"], &body["messages"][0]["content"]), (&json!("m-1"), &json!("be kind")));
}

#[tokio::test]
async fn what_was_said_is_in_the_history_after_a_restart_and_its_key_is_answered_from_there() {
    let bobs = Host::new();
    let (serve, alices) = bob(&bobs, &["--agent", "echo"]).await;
    let id = uuid::Uuid::new_v4().to_string();
    let send = ["send", "--to", "bob", "--message", "once", "--id", &id, "--json"];
    let first = alices.run(&send).await.ok().json();
    assert_eq!(serve.end().await, Some(0));
    let command = ["--agent", "exec", "--", "false"];
    let (serve, _) = bob(&bobs, &command).await;
    // The archive of the sender knows the id; a sender without one asks again, and the agent would fail.
    let fresh = Host::with_bob(&serve.url());
    let again = fresh.run(&send).await.ok().json();
    assert_eq!((&again["reply"], &again["reply"]["text"]), (&first["reply"], &json!("echo: once")));
    assert_eq!(serve.end().await, Some(0));
}

/// An agent that notes each of its runs in a file. Its long reply is more than the door takes up at its next start, so nothing
/// that was said before it is known in memory then.
const COUNTS: &str = "printf x >> ran; case \"$(cat)\" in
    *long*) head -c 4194300 /dev/zero | tr '\\0' y;;
    *slow*) until [ -e go ]; do sleep 0.01; done; echo slow;;
    *) echo done;;
esac";

#[tokio::test]
async fn a_key_that_only_the_archive_still_knows_never_runs_again_and_waits_for_no_other_run() {
    let bobs = Host::new();
    let agent = ["--agent", "exec", "--", "/bin/sh", "-c", COUNTS];
    let (serve, alices) = bob(&bobs, &agent).await;
    let id = uuid::Uuid::new_v4().to_string();
    let once = ["send", "--to", "bob", "--message", "once", "--id", &id, "--json"];
    alices.run(&once).await.ok();
    assert!(say(&alices, "long").await.len() > 4_000_000);
    assert_eq!(serve.end().await, Some(0));
    let ran = || std::fs::read_to_string(bobs.path("ran")).unwrap();
    let (serve, _) = bob(&bobs, &agent).await;
    // The archive of the sender knows the id; a sender without one asks again.
    let fresh = || Host::with_bob(&serve.url());
    let again = fresh().run(&once).await.ok().json();
    assert_eq!((&again["reply"]["text"], &*ran()), (&json!("done"), "xx"), "once each");
    assert_eq!(serve.end().await, Some(0));

    let (serve, alices) = bob(&bobs, &agent).await;
    alices.run(&["send", "--to", "bob", "--message", "slow", "--no-wait"]).await.ok();
    let again = Host::with_bob(&serve.url()).run(&once).await.ok().json();
    assert_eq!(again["reply"]["text"], "done", "while another run of its session goes on");
    assert!(!bobs.path("go").exists());
    bobs.write("go", "");
    assert_eq!(serve.end().await, Some(0));
    assert_eq!(ran(), "xxx");
}

#[tokio::test]
async fn openclaw_runs_the_turn_and_only_its_own_token_is_shown_to_it() {
    let script = Script::new()
        .shared_token(&token("openclaw"))
        .reply(|turn| Reply::text(format!("{} heard you", turn.session_key)));
    let (openclaw, bobs) = (FakeGateway::start(script).await, Host::new());
    let settings = json!({ "gateway": { "auth": { "mode": "token", "token": token("openclaw") } } });
    bobs.write(".openclaw/openclaw.json", settings.to_string());
    let gateway = openclaw.url();
    let (serve, alices) = bob(&bobs, &["--agent", "openclaw", "--gateway", &gateway]).await;
    assert_eq!(say(&alices, "hello").await, "agent:main:mesh:alice heard you\n");
    assert_eq!(openclaw.requests("connect")[0]["auth"], json!({ "token": token("openclaw") }));
    assert_eq!(openclaw.requests("agent").len(), 1);
    assert!(openclaw.requests("chat.send").is_empty());
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn an_abort_reaches_openclaw() {
    let script = Script::new().shared_token(&token("openclaw")).reply(|_| Reply::never());
    let (openclaw, bobs) = (FakeGateway::start(script).await, Host::new());
    bobs.write(
        ".openclaw/openclaw.json",
        json!({ "gateway": { "auth": { "token": token("openclaw") } } }).to_string(),
    );
    let gateway = openclaw.url();
    let limit = ["--agent", "openclaw", "--gateway", &gateway, "--run-timeout", "1s"];
    let (serve, alices) = bob(&bobs, &limit).await;
    let out = alices.run(&["send", "--to", "bob", "--message", "hello", "--json"]).await.exits(1).json();
    assert_eq!(out["error"]["code"], "run-failed");
    until(&openclaw, |openclaw| openclaw.requests("chat.abort").len() == 1).await;
    assert_eq!(openclaw.requests("chat.abort")[0]["runId"], out["id"]);
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn an_openclaw_that_is_away_or_says_no_is_told_without_its_words() {
    let script = Script::new().shared_token("another token than ours");
    let (openclaw, bobs) = (FakeGateway::start(script).await, Host::new());
    bobs.write(
        ".openclaw/openclaw.json",
        json!({ "gateway": { "auth": { "token": token("openclaw") } } }).to_string(),
    );
    let gateway = openclaw.url();
    let (mut serve, alices) = bob(&bobs, &["--agent", "openclaw", "--gateway", &gateway]).await;
    let mut said = serve.line().await;
    while !said.contains("hint: ") {
        said += &serve.line().await;
    }
    assert!(said.contains("warning: each run fails") && said.contains("OPENCLAW_GATEWAY_TOKEN"), "{said}");
    let out = alices.run(&["send", "--to", "bob", "--message", "hello", "--json"]).await.exits(1).json();
    let message = out["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("the agent's gateway cannot be reached"), "{message}");
    assert_eq!(openclaw.connects(), 2, "a wrong token is shown at the start, and once a turn");
    assert_eq!(serve.end().await, Some(0));
}

#[tokio::test]
async fn options_that_do_not_fit_are_usage_errors() {
    let host = Host::new();
    host.write("wide", "key");
    for (args, why) in [
        (&["--url", "http://x"][..], "--url needs --agent openai"),
        (&["--agent", "openai"], "--agent openai needs --url and --model"),
        (&["--agent", "openai", "--url", "http://x"], "--agent openai needs --url and --model"),
        (
            &["--agent", "openai", "--url", "x", "--model", "m"],
            "--url: the model's URL is not usable: it is no URL",
        ),
        (
            &["--agent", "openai", "--url", "http://x", "--model", "m", "--api-key-file", "no"],
            "no: no such file",
        ),
        (&["--agent", "exec"], "--agent exec needs a command: -- CMD ARGS…"),
        (&["--no-frame"], "--no-frame needs --agent exec"),
        (&["--agent", "openclaw", "--", "cmd"], "a command after -- needs --agent exec"),
    ] {
        let all = [&["serve", "--listen", "127.0.0.1:0", "--json"], args].concat();
        let document = host.run(&all).await.exits(2).json();
        assert_eq!(document["error"]["message"], why, "{args:?}");
    }
}

/// The lines of a log that the gateway has written until now, of which one is the end of a run.
async fn log_of_a_run(serve: &mut Serve) -> Vec<Value> {
    let mut lines: Vec<Value> = Vec::new();
    while !lines.iter().any(|line| line["message"] == "a run is over") {
        if let Ok(line) = serde_json::from_str(&serve.line().await) {
            lines.push(line);
        }
    }
    lines
}

#[tokio::test]
async fn a_run_is_logged_by_its_id_and_what_was_said_only_when_asked() {
    for (more, is_said) in [(&[][..], false), (&["--log-text"], true)] {
        let bobs = Host::new();
        let (mut serve, alices) = bob(&bobs, &[&["--agent", "echo", "--log", "json"], more].concat()).await;
        let sent =
            alices.run(&["send", "--to", "bob", "--message", "tell nobody", "--json"]).await.ok().json();
        let lines = log_of_a_run(&mut serve).await;
        let of_run: Vec<_> = lines.iter().filter(|line| line["run"] == sent["id"]).collect();
        let steps: Vec<_> = of_run.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(steps, ["a run begins", "a run is over"]);
        assert_eq!((&of_run[1]["outcome"], &of_run[1]["from"]), (&json!("reply"), &json!("owner")));
        assert_eq!(format!("{lines:?}").contains("tell nobody"), is_said, "{lines:?}");
        assert_eq!(serve.end().await, Some(0));
    }
}

#[tokio::test]
async fn who_is_refused_and_who_is_turned_away_is_logged_and_every_line_is_json() {
    let bobs = Host::new();
    bobs.registry(&json!([{ "name": "Alice", "emailPrefix": "alice", "ip": "" }]));
    bobs.run(&["token", "issue", "alice", "--out", "alice.token"]).await.ok();
    let policy = bobs.path(".config/agent-team-mesh/policy.toml");
    let rules = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, rules.replace("[peers.alice]\n", "[peers.alice]\nmessage-bytes = 100\n"))
        .unwrap();
    let (mut serve, _) = bob(&bobs, &["--agent", "echo", "--log", "json"]).await;
    let token = std::fs::read_to_string(bobs.path("alice.token")).unwrap();
    let message =
        json!({ "messageId": "m", "role": "ROLE_USER", "parts": [{ "text": "secret ".repeat(50) }] });
    for token in ["of-nobody-and-long-enough", token.trim()] {
        a2a_answer(&serve, token, "SendMessage", json!({ "message": &message })).await;
    }
    let mut next = async || -> Value { serde_json::from_str(&serve.line().await).unwrap() };
    let (mut turned_away, mut refused) = (None, None);
    while turned_away.is_none() || refused.is_none() {
        let line = next().await;
        assert!(!line.to_string().contains("secret"), "{line}");
        match line["message"].as_str().unwrap() {
            "a request was turned away" => turned_away = Some(line),
            "a request was refused" => refused = Some(line),
            _ => {}
        }
    }
    let (turned_away, refused) = (turned_away.unwrap(), refused.unwrap());
    assert_eq!(
        (&turned_away["ip"], &turned_away["code"]),
        (&json!("127.0.0.1"), &json!("AUTH_TOKEN_MISMATCH"))
    );
    assert_eq!((&refused["from"], &refused["rule"]), (&json!("alice"), &json!("message-bytes")));
    assert!(refused["request"].is_string() && refused["method"].is_string(), "{refused}");
    std::fs::write(&policy, "[default").unwrap();
    while next().await["level"] != "WARN" {}
    assert_eq!(serve.end().await, Some(0));
}

/// Calls an A2A method at this gateway; gives the result.
async fn a2a(serve: &Serve, token: &str, method: &str, params: Value) -> Value {
    let answer = a2a_answer(serve, token, method, params).await;
    assert!(answer["error"].is_null(), "{answer}");
    answer["result"].clone()
}

/// The same; gives the whole answer.
async fn a2a_answer(serve: &Serve, token: &str, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let request = format!(
        "POST /a2a/v1 HTTP/1.1\r\nHost: bob\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(&serve.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn an_a2a_task_is_in_the_log_and_can_be_asked_for_after_a_restart() {
    let bobs = Host::new();
    bobs.registry(&json!([{ "name": "Alice", "emailPrefix": "alice", "ip": "" }]));
    bobs.run(&["token", "issue", "alice", "--out", "alice.token"]).await.ok();
    let token = std::fs::read_to_string(bobs.path("alice.token")).unwrap();
    let (serve, _) = bob(&bobs, &["--agent", "echo"]).await;
    let message = json!({ "messageId": "m", "role": "ROLE_USER", "parts": [{ "text": "remember me" }] });
    let sent = a2a(&serve, token.trim(), "SendMessage", json!({ "message": &message })).await["task"].clone();
    assert_eq!(sent["status"]["state"], "TASK_STATE_COMPLETED");
    assert_eq!(serve.end().await, Some(0));
    let log = bobs.run(&["log", "--json"]).await.ok().json();
    assert_eq!(
        (&log["messages"][0]["peer"], &log["messages"][0]["message"]),
        (&json!("alice"), &json!("remember me"))
    );

    let (serve, _) = bob(&bobs, &["--agent", "exec", "--", "false"]).await;
    let got = a2a(&serve, token.trim(), "GetTask", json!({ "id": sent["id"] })).await;
    assert_eq!((&got["artifacts"], &got["contextId"]), (&sent["artifacts"], &sent["contextId"]));
    // Sent once more, it is answered and not run again: this agent fails.
    let again = a2a(&serve, token.trim(), "SendMessage", json!({ "message": message })).await["task"].clone();
    assert_eq!((&again["id"], &again["artifacts"]), (&sent["id"], &sent["artifacts"]));
    assert_eq!(serve.end().await, Some(0));
}
