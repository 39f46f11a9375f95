//! Large teams: more teammates than this process may have files open.

use agent_mesh_testkit::FakeGateway;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{Host, Out, strict, token};

/// So many files may be open. The process itself needs about ten.
const DESCRIPTORS: usize = 64;

/// 200 teammates; every tenth has a gateway that takes connections and never says a word.
struct Team {
    host: Host,
    gateway: FakeGateway,
    _silent: TcpListener,
}

impl Team {
    async fn new() -> Self {
        let gateway = FakeGateway::start(strict()).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = format!("ws://{}", silent.local_addr().unwrap());
        let host = Host::new();
        let url = |n: usize| if is_dead(n) { dead.clone() } else { gateway.url() };
        let agents: Vec<Value> = (0..200)
            .map(|n| json!({ "name": format!("Agent {n}"), "emailPrefix": format!("a{n}"), "url": url(n) }))
            .collect();
        host.registry(&json!(agents));
        let tokens: serde_json::Map<_, _> =
            (0..200).map(|n| (format!("a{n}"), token("bob").into())).collect();
        host.write(host.config("tokens.json"), json!({ "tokens": tokens }).to_string());
        Self { host, gateway, _silent: silent }
    }
}

fn is_dead(n: usize) -> bool {
    n.is_multiple_of(10)
}

/// What each row says, in registry order.
fn states(rows: &Value, field: &str) -> Vec<String> {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row[field].as_str().unwrap().to_owned()).collect()
}

fn expected(dead: &str, live: &str) -> Vec<String> {
    (0..200).map(|n| if is_dead(n) { dead } else { live }.to_owned()).collect()
}

#[tokio::test]
async fn list_finds_everybody_with_few_descriptors_and_says_what_to_raise() {
    let team = Team::new().await;
    let call = |hard| {
        let call = team.host.call(&["list", "--json"]).env("MESH_CONNECT_TIMEOUT", "2s");
        call.descriptors(DESCRIPTORS, hard).run()
    };
    let out = call(true).await.ok();
    assert_eq!(states(&out.json()["agents"], "status"), expected("unreachable", "online"));
    let notice = "of 200 teammates are called at once, since no more than 64 files may be open: \
                  those that do not answer take longer; raise it with ulimit -n 1024\n";
    let told = |out: &Out| out.stderr.matches(notice).count();
    assert_eq!((told(&out), out.stderr.matches("ulimit").count()), (1, 1), "{}", out.stderr);
    // What it may allow itself, it does not talk of.
    let out = call(false).await.ok();
    assert_eq!((told(&out), &out.json()["summary"]["online"]), (0, &json!(180)));
}

#[tokio::test]
async fn a_broadcast_with_few_descriptors_loses_nobody() {
    let team = Team::new().await;
    let args = ["broadcast", "--message", "hi", "--concurrency", "100", "--json"];
    let call = team.host.call(&args).env("MESH_CONNECT_TIMEOUT", "2s").descriptors(DESCRIPTORS, true);
    let out = call.run().await.exits(8);
    assert_eq!(states(&out.json()["results"], "state"), expected("unreachable", "replied"));
    assert_eq!(out.json()["counts"], json!({ "replied": 180, "unreachable": 20 }));
    assert_eq!(team.gateway.ledger().total(), 180);
    assert!(out.stderr.contains("ulimit -n"), "{}", out.stderr);
}
