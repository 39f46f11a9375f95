//! `list`, `ping` and `doctor`: they look, and change nothing.

use agent_mesh_testkit::{Cut, FakeGateway, Fault, How, Refusal, Script};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::support::{DeadPort, Host, strict};

#[tokio::test]
async fn list_shows_everybody_and_authenticates_to_nobody() {
    let gateway = FakeGateway::start(strict()).await;
    let dead = DeadPort::new();
    let host = Host::new();
    host.registry(&json!([
        { "name": "Alice", "emailPrefix": "alice", "url": dead.url() },
        { "name": "Bob", "redName": "戴泽", "emailPrefix": "bob", "url": gateway.url() },
        { "name": "那笙 🦀", "emailPrefix": "cid", "ip": "" },
    ]));
    host.tokens(&["bob"]);
    let document = host.run(&["list", "--json"]).await.ok().json();
    assert_eq!(document["summary"], json!({ "total": 3, "online": 1 }));
    let agents = document["agents"].as_array().unwrap();
    let column = |name: &str| agents.iter().map(|agent| agent[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("status"), ["unreachable", "online", "no-address"]);
    assert_eq!(column("self"), [true, false, false]);
    assert_eq!(column("token"), ["missing", "configured", "missing"]);
    assert_eq!(column("nickname"), [Value::Null, json!("戴泽"), Value::Null]);
    assert_eq!(column("address"), [json!(dead.url()), json!(gateway.url()), Value::Null]);
    assert_eq!(column("paired"), [false, false, false]);
    assert!(agents[1]["latencyMs"].is_f64() && agents[0]["latencyMs"].is_null());
    insta::assert_snapshot!(host.run(&["list"]).await.transcript());
    assert_eq!((gateway.connections(), gateway.connects()), (2, 0), "list showed a credential");
    assert!(!host.path(".local").exists(), "list made a key");
}

#[tokio::test]
async fn list_watch_looks_again_and_again() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    let mut child = host.call(&["list", "--watch", "--interval", "20ms", "--json", "--me", "bob"]).spawn();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next_line().await.unwrap().expect("another look");
        let document: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&document["command"], &document["ok"]), (&json!("list"), &json!(true)));
        assert_eq!(document["agents"][1]["status"], "online");
        assert!(document["at"].is_string());
    }
    // Whoever reads has read enough.
    drop(lines);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn ping_shows_each_step_in_order() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    let document = host.run(&["ping", "--to", "bob", "--json"]).await.ok().json();
    let steps = document["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["resolve", "tcp", "tls", "ws", "challenge", "auth", "scope"]);
    assert!(steps.iter().all(|step| step["ok"] == true && step["ms"].is_f64() && step["detail"].is_string()));
    assert_eq!(document["to"], json!({ "name": "Bob", "emailPrefix": "bob" }));
    assert_eq!(document["address"], gateway.url());
    assert!(document["rttMs"].as_f64().unwrap() > 0.0);
    insta::assert_snapshot!(host.run(&["ping", "--to", "bob"]).await.transcript());
}

#[tokio::test]
async fn ping_without_a_device_token_files_no_request() {
    let gateway = FakeGateway::start(strict().pairing_required()).await;
    let host = Host::with_bob(&gateway.url());
    let document = host.run(&["ping", "--to", "bob", "--json"]).await.ok().json();
    let last = document["steps"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["step"], &last["ok"]), (&json!("scope"), &json!(false)));
    assert!(gateway.requests("connect")[0]["device"].is_null());
    host.run(&["doctor", "--to", "bob"]).await.ok();
    assert_eq!(gateway.pending_pairings(), []);
}

#[tokio::test]
async fn a_gateway_that_refuses_us_answers_all_the_same() {
    let gateway = FakeGateway::start(Script::new().shared_token("another")).await;
    let host = Host::with_bob(&gateway.url());
    let out = host.run(&["ping", "--to", "bob"]).await.ok();
    assert!(out.stdout.contains("FAIL  auth") && out.stderr.contains("agent-mesh token set bob"), "{out:?}");
    assert_eq!(gateway.connects(), 1);
}

#[tokio::test]
async fn ping_count_tells_loss_and_times() {
    let gateway =
        FakeGateway::start(strict().fault(Fault::new(Cut::AfterTcp, How::Drop).on_connection(2))).await;
    let host = Host::with_bob(&gateway.url());
    let args = ["ping", "--to", "bob", "--count", "4", "--interval", "5ms"];
    let stats = host.run(&[&args[..], &["--json"]].concat()).await.ok().json()["stats"].clone();
    assert_eq!(
        (&stats["sent"], &stats["received"], &stats["lossPercent"]),
        (&json!(4), &json!(3), &json!(25.0))
    );
    let [min, average, max] = ["minMs", "avgMs", "maxMs"].map(|name| stats[name].as_f64().unwrap());
    assert!(0.0 < min && min <= average && average <= max, "{stats}");
    let out = host.run(&args).await.ok();
    assert!(out.stdout.contains("4 sent, 4 answered, 0 % lost"), "{}", out.stdout);
}

#[tokio::test]
async fn ping_count_to_nobody_is_6() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    let document = host
        .run(&["ping", "--to", "bob", "--count", "2", "--interval", "5ms", "--json"])
        .await
        .exits(6)
        .json();
    let expected = json!({ "sent": 2, "received": 0, "lossPercent": 100.0, "minMs": null, "avgMs": null, "maxMs": null });
    assert_eq!(document["stats"], expected);
}

#[tokio::test]
async fn ping_count_shows_a_refused_credential_once() {
    let gateway = FakeGateway::start(Script::new().shared_token("another")).await;
    let host = Host::with_bob(&gateway.url());
    host.run(&["ping", "--to", "bob", "--count", "5", "--interval", "5ms"]).await.ok();
    assert_eq!((gateway.connections(), gateway.connects()), (5, 1));
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_what_works() {
    let gateway = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&gateway.url());
    let document = host.run(&["doctor", "--to", "bob", "--json"]).await.ok().json();
    let checks = document["checks"].as_array().unwrap();
    let theirs: Vec<&str> = checks
        .iter()
        .filter(|check| check["scope"] == "peer")
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    let steps =
        ["resolve", "tcp", "tls", "websocket", "challenge", "auth", "pairing", "scope", "identity", "ready"];
    assert_eq!(theirs, steps);
    assert!(checks.iter().all(|check| check["status"].is_string() && check["ms"].is_number()));
}

#[tokio::test]
async fn doctor_names_the_command_and_the_side_that_runs_it() {
    type Case = (&'static str, fn() -> Script, &'static str, &'static str, &'static str);
    let set = "agent-mesh token set bob < FILE";
    let rows: [Case; 3] = [
        ("wrong token", || Script::new().shared_token("another"), "ours", set, "here: "),
        ("no rights", || strict().pairing_required(), "ours", "agent-mesh pair --to bob", "here: "),
        (
            "starting up",
            || strict().fault(Fault::new(Cut::AfterTcp, How::Drop)),
            "theirs",
            "openclaw gateway status",
            "on Bob's host (with OpenClaw): ",
        ),
    ];
    for (row, script, side, command, place) in rows {
        let gateway = FakeGateway::start(script()).await;
        let host = Host::with_bob(&gateway.url());
        let document = host.run(&["doctor", "--to", "bob", "--json"]).await.ok().json();
        assert_eq!(document["healthy"], false, "{row}");
        let failed = document["checks"].as_array().unwrap().iter();
        let failed = failed.filter(|check| check["scope"] == "peer").find(|check| check["status"] == "fail");
        let fix = &failed.unwrap()["fix"];
        assert_eq!((&fix["side"], &fix["command"]), (&json!(side), &json!(command)), "{row}");
        let out = host.run(&["doctor", "--to", "bob"]).await.ok();
        assert!(out.stdout.contains(&format!("{place}{command}")), "{row}: {}", out.stdout);
    }
}

#[tokio::test]
async fn doctor_changes_nothing_and_repeats_no_credential() {
    let gateway = FakeGateway::start(strict().refuse(Refusal::token_mismatch())).await;
    let host = Host::with_bob(&gateway.url());
    let before = std::fs::read_to_string(host.config("tokens.json")).unwrap();
    host.run(&["doctor"]).await.ok();
    assert_eq!(gateway.connects(), 1);
    assert_eq!(std::fs::read_to_string(host.config("tokens.json")).unwrap(), before);
    assert_eq!(gateway.ledger().total(), 0);
    // Without a token there is nothing to show, and no key is made to show it.
    let host = Host::with_bob(&gateway.url());
    std::fs::remove_file(host.config("tokens.json")).unwrap();
    host.run(&["doctor"]).await.ok();
    assert!(!host.path(".local").exists(), "doctor made a file");
}

#[tokio::test]
async fn doctor_goes_on_where_a_file_is_broken() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    std::fs::write(host.config("registry.json"), "{").unwrap();
    std::fs::set_permissions(host.config("tokens.json"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let out = host.run(&["doctor"]).await.ok();
    assert!(out.stdout.contains("registry.json:1:") && out.stdout.contains("chmod 600"), "{}", out.stdout);
}

/// A web server that answers every connection in one way; the path says which.
async fn web_server(answer: fn(&str) -> &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let path =
                String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
            let status = answer(&path);
            let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    format!("ws://{address}")
}

#[tokio::test]
async fn a_gateway_that_says_it_lives_is_online_though_it_takes_no_websocket() {
    let starting =
        web_server(|path| if path == "/healthz" { "200 OK" } else { "503 Service Unavailable" }).await;
    let other = web_server(|_| "404 Not Found").await;
    let host = Host::new();
    host.registry(&json!([
        { "name": "Bob", "emailPrefix": "bob", "url": starting },
        { "name": "Cid", "emailPrefix": "cid", "url": other },
    ]));
    let document = host.run(&["list", "--json"]).await.ok().json();
    let states = [0, 1].map(|n| document["agents"][n]["status"].clone());
    assert_eq!(states, ["online", "unreachable"]);
}
