//! The skill that teaches an OpenClaw agent to use us. Whether OpenClaw takes it, `interop/tests/skill.test.mjs` asks.

use std::fs;

use serde_json::json;

use crate::support::{Host, mode};

const FOLDER: &str = ".openclaw/workspace/skills/agent-team-mesh";

#[tokio::test]
async fn install_puts_it_where_openclaw_looks_and_keeps_what_is_the_users() {
    let host = Host::new();
    let statuses = async || {
        let document = host.run(&["--json", "skill", "install"]).await.ok().json();
        let files = document["files"].as_array().unwrap().clone();
        files.iter().map(|file| file["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(statuses().await, ["created"; 5]);
    let path = |name: &str| host.path(FOLDER).join(name);
    assert_eq!(mode(&path("scripts/agent-mesh.sh")), 0o755);
    assert_eq!(statuses().await, ["kept"; 5]);
    fs::write(path("SKILL.md"), "old").unwrap();
    host.write(
        path("references/registry.json"),
        json!({ "agents": [{ "name": "Bob", "emailPrefix": "bob" }] }).to_string(),
    );
    assert_eq!(statuses().await, ["updated", "kept", "kept", "kept", "kept"]);
    // The registry beside the skill is one of the places that are looked at.
    assert_eq!(host.run(&["--json", "list"]).await.ok().json()["agents"][0]["name"], "Bob");
    let elsewhere = host.run(&["--json", "skill", "install", "--dir", "here"]).await.ok().json();
    assert_eq!(elsewhere["files"][0]["path"], "here/SKILL.md");
}

#[tokio::test]
async fn what_it_teaches_is_what_there_is() {
    let host = Host::with_bob("ws://127.0.0.1:9");
    let skill = host.run(&["skill", "show"]).await.ok().stdout;
    let front = skill.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).unwrap().0;
    for said in [
        "message my teammate's agent",
        "ping bob's agent",
        "broadcast to the team",
        "「给戴泽的 agent 发消息」",
        "「ping 那笙」",
        "「广播给全组」",
        "「群发 mesh」",
    ] {
        assert!(front.contains(said), "{said}");
    }
    assert!(front.contains(r#""requires": { "bins": ["agent-mesh"] }"#));
    // Every command in it, as far as it can be parsed without doing anything.
    let commands = skill.split('`').filter(|code| code.starts_with("agent-mesh ")).collect::<Vec<_>>();
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        let verb = command.split(' ').nth(1).unwrap();
        let help = host.run(&[verb, "--help"]).await.ok().stdout;
        for flag in command.split(' ').filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "{command}: there is no {flag}");
        }
    }
}
