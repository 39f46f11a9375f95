//! `demo`: README's first command.

use serde_json::Value;

use crate::support::Host;

#[tokio::test]
async fn it_plays_every_step_on_an_empty_machine_and_leaves_nothing() {
    let host = Host::anonymous();
    let out = host.call(&["demo"]).env("TMPDIR", host.path("")).run().await.ok();
    for step in ["$ agent-mesh list", "$ agent-mesh ping", "$ agent-mesh send", "$ agent-mesh broadcast"] {
        assert!(out.stdout.contains(step), "{step}: {}", out.stdout);
    }
    for words in [
        "3 of 3 online",
        "戴泽 heard: is the build green?",
        "Alice heard: ",
        "Bob heard: ",
        "agent-mesh init",
    ] {
        assert!(out.stdout.contains(words), "{words}: {}", out.stdout);
    }
    assert_eq!(std::fs::read_dir(host.path("")).unwrap().count(), 0, "it left files behind");
}

#[tokio::test]
async fn its_document_is_one_and_holds_those_of_all_steps() {
    let host = Host::anonymous();
    let document = host.run(&["demo", "--json", "--message", "戴 \"quoted\""]).await.ok().json();
    let steps = document["steps"].as_array().unwrap();
    let commands: Vec<&Value> = steps.iter().map(|step| &step["command"]).collect();
    assert_eq!(commands, ["list", "ping", "send", "broadcast"]);
    assert!(steps.iter().all(|step| step["ok"] == true));
    assert_eq!(steps[2]["reply"]["text"], "戴泽 heard: 戴 \"quoted\"");
}

#[tokio::test]
async fn the_settings_of_the_user_do_not_touch_it() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    let call = host.call(&["demo"]).env("MESH_MSG_HARD_LIMIT", "5000").env("MESH_SESSION", "x");
    call.env("OPENCLAW_GATEWAY_TOKEN", crate::support::token("own")).run().await.ok();
}
