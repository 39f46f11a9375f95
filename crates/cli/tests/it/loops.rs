//! Five agents, each wired to pass everything it hears on to all others. Nothing in them ever stops: the guards do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Host, Serve, token};

const TEAM: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

/// What each of the five does with a message; `$0` is our binary. The text grows by a name, so no two are the same.
const FAITHFUL: &str = r#"read -r header; read -r note; read -r empty; text=$(cat)
"$0" broadcast --no-wait --in-reply-to "$header" --message "$MESH_MY_EMAIL: $text" >&2; echo passed on"#;

/// The same by one that loses the chain: all that is known of it is that it runs for an agent.
const FORGETFUL: &str = r#"read -r header; read -r note; read -r empty; text=$(cat)
unset MESH_CHAIN_ID MESH_CHAIN_HOPS MESH_CHAIN_VISITED
"$0" broadcast --no-wait --message "$MESH_MY_EMAIL: $text" >&2; echo passed on"#;

/// The same by one that does not even add to it.
const PARROT: &str = r#"read -r header; read -r note; read -r empty; text=$(cat)
unset MESH_CHAIN_ID MESH_CHAIN_HOPS MESH_CHAIN_VISITED
"$0" broadcast --no-wait --message "$text" >&2; echo passed on"#;

struct Team {
    hosts: Vec<Host>,
    _gateways: Vec<Serve>,
}

impl Team {
    async fn start(script: &str, config: &str) -> Self {
        let mut team = Self { hosts: Vec::new(), _gateways: Vec::new() };
        let mut entries = Vec::new();
        for name in TEAM {
            let host = Host::named(&format!("{name}@example.com"));
            host.write("token", token(name));
            host.write(host.config("config.toml"), config);
            let exec = ["--token-file", "token", "--agent", "exec", "--", "/bin/sh", "-c", script];
            let serve = Serve::start(&host, &[&exec[..], &[env!("CARGO_BIN_EXE_agent-mesh")]].concat()).await;
            entries.push(json!({ "name": name, "emailPrefix": name, "url": serve.url() }));
            team.hosts.push(host);
            team._gateways.push(serve);
        }
        for host in &team.hosts {
            host.registry(&json!(entries));
            host.tokens(&TEAM);
        }
        team
    }

    /// Somebody outside tells one of them something. Gives how many messages that made.
    async fn unleash(&self) -> usize {
        let outsider = Host::named("zoe@example.com");
        std::fs::create_dir_all(outsider.config("")).unwrap();
        std::fs::copy(self.hosts[0].config("registry.json"), outsider.config("registry.json")).unwrap();
        outsider.tokens(&TEAM);
        outsider.run(&["send", "--to", "alice", "--message", "hello"]).await.ok();
        let begun = Instant::now();
        loop {
            let (mut sent, mut heard) = (1, 0);
            for host in &self.hosts {
                let log = host.run(&["--json", "log", "-n", "1000"]).await.ok().json();
                let count = |direction: &str, states: &[&str]| {
                    let counts = |message: &&Value| {
                        message["direction"] == direction
                            && states.iter().any(|state| message["state"] == **state)
                    };
                    log["messages"].as_array().unwrap().iter().filter(counts).count()
                };
                sent += count("out", &["sending", "accepted", "replied", "unknown"]);
                heard += count("in", &["replied"]);
            }
            // Whoever is still at work has not replied: when all that was sent was answered, nothing more will come.
            if sent == heard {
                return sent;
            }
            assert!(heard < sent && sent < 1000, "{sent} sent, {heard} answered");
            assert!(begun.elapsed() < Duration::from_secs(240), "no end: {sent} sent, {heard} answered");
        }
    }
}

#[tokio::test]
async fn a_team_that_keeps_the_chain_stops_when_all_have_seen_it() {
    let count = Team::start(FAITHFUL, "").await.unleash().await;
    eprintln!("five agents that keep the chain: {count} messages");
    // From outside to one, and from there along every path without a repetition, of four hops at most: 1 + 4 + 12 + 24 + 24.
    assert_eq!(count, 65);
}

#[tokio::test]
async fn a_hop_limit_of_one_stops_a_team_after_one_hop() {
    let count = Team::start(FAITHFUL, "[limits]\nmax-hops = 1").await.unleash().await;
    eprintln!("five agents, one hop: {count} messages");
    assert_eq!(count, 5);
}

#[tokio::test]
async fn a_team_that_loses_the_chain_stops_at_the_limits() {
    let count = Team::start(FORGETFUL, "[limits]\npeer-per-hour = 2").await.unleash().await;
    eprintln!("five agents that lose the chain, two messages an hour to each: {count} messages");
    // Twenty pairs, two messages each, and the one from outside.
    assert_eq!(count, 41);
}

#[tokio::test]
async fn a_team_of_parrots_says_everything_once() {
    let count = Team::start(PARROT, "").await.unleash().await;
    eprintln!("five agents that repeat: {count} messages");
    assert_eq!(count, 21);
}
