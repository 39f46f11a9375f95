//! `token`, and where tokens are kept.

use serde_json::{Value, json};

use crate::support::{Host, mode, token};

#[tokio::test]
async fn a_token_enters_by_standard_input_into_a_file_that_is_ours_alone() {
    let host = Host::new();
    let document = host
        .call(&["token", "set", "Bob", "--json"])
        .stdin(format!("{}\n", token("bob")))
        .run()
        .await
        .ok()
        .json();
    assert_eq!(
        (&document["emailPrefix"], &document["path"]),
        (&json!("bob"), &json!(host.config("tokens.json")))
    );
    assert_eq!((mode(&host.config("tokens.json")), mode(&host.config(""))), (0o600, 0o700));
    let kept: Value = serde_json::from_slice(&std::fs::read(host.config("tokens.json")).unwrap()).unwrap();
    assert_eq!(kept, json!({ "tokens": { "bob": token("bob") } }), "without the line break");
}

#[tokio::test]
async fn a_name_of_the_registry_will_do() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    let out = host.call(&["token", "set", "bobby"]).stdin(token("new")).run().await.ok();
    assert!(out.stdout.contains("bob") && out.stderr.is_empty(), "{out:?}");
    let kept = std::fs::read_to_string(host.config("tokens.json")).unwrap();
    assert!(kept.contains(&token("new")) && !kept.contains(&token("bob")), "the old one is replaced");
}

#[tokio::test]
async fn check_says_for_whom_there_is_one_and_rm_forgets_it() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    let check = host.run(&["token", "check", "--json"]).await.ok().json();
    assert_eq!(check["tokens"], json!([{ "emailPrefix": "bob", "shared": true, "device": false }]));
    insta::assert_snapshot!(host.run(&["token", "check"]).await.transcript());
    host.run(&["token", "check", "bob"]).await.ok();
    host.run(&["token", "rm", "bob"]).await.ok();
    host.run(&["token", "check", "bob"]).await.exits(5);
    assert_eq!(host.run(&["token", "check", "--json"]).await.ok().json()["tokens"], json!([]));
}

#[tokio::test]
async fn what_others_put_into_the_file_stays() {
    let host = Host::new();
    host.write(
        host.config("tokens.json"),
        format!(r#"{{"note": "ours", "tokens": {{"cid": "{}"}}}}"#, token("cid")),
    );
    host.call(&["token", "set", "bob"]).stdin(token("bob")).run().await.ok();
    let kept: Value = serde_json::from_slice(&std::fs::read(host.config("tokens.json")).unwrap()).unwrap();
    assert_eq!(kept, json!({ "note": "ours", "tokens": { "bob": token("bob"), "cid": token("cid") } }));
}

#[tokio::test]
async fn two_at_once_lose_nothing() {
    let host = Host::new();
    let names = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"];
    let set = |name: &'static str| host.call(&["token", "set", name]).stdin(token(name)).run();
    let [a, b, c, d, e, f, g, h] = names.map(set);
    let done = tokio::join!(a, b, c, d, e, f, g, h);
    for out in [done.0, done.1, done.2, done.3, done.4, done.5, done.6, done.7] {
        out.ok();
    }
    let rows = host.run(&["token", "check", "--json"]).await.ok().json();
    assert_eq!(rows["tokens"].as_array().map(Vec::len), Some(names.len()));
}

#[tokio::test]
async fn a_token_in_the_registry_is_warned_of_and_never_shown_nor_used() {
    let gateway = agent_mesh_testkit::FakeGateway::start(crate::support::strict()).await;
    let host = Host::new();
    host.registry(
        &json!([{ "name": "Bob", "emailPrefix": "bob", "url": gateway.url(), "token": token("bob") }]),
    );
    let out = host.run(&["list"]).await.ok();
    assert!(
        out.stderr.contains("warning: ") && out.stderr.contains("agent-mesh token set bob"),
        "{}",
        out.stderr
    );
    host.call(&["whoami", "--json", "--me", "bob"]).run().await.ok();
    host.run(&["send", "--to", "bob", "--message", "hi"]).await.exits(5);
    assert_eq!(gateway.connects(), 0);
}

#[tokio::test]
async fn nothing_said_at_any_volume_shows_a_token() {
    let gateway = agent_mesh_testkit::FakeGateway::start(
        crate::support::strict().issues_device_token(&token("device")),
    )
    .await;
    let host = Host::with_bob(&gateway.url());
    // Each run is searched for tokens: see `Out`.
    for args in [
        &["send", "--to", "bob", "--message", "hi", "-vv"][..],
        &["send", "--to", "bob", "--message", "hi", "-vv", "--json"],
        &["send", "--to", "bob", "--message", "hi", "--dry-run", "-vv"],
        &["ping", "--to", "bob", "-vv"],
        &["pair", "--to", "bob", "-vv"],
        &["doctor", "-vv", "--json"],
        &["list", "-vv"],
        &["config", "-vv", "--json"],
        &["token", "check", "-vv"],
        &["broadcast", "--message", "hi", "-vv", "--json"],
    ] {
        let call = host
            .call(args)
            .env("OPENCLAW_GATEWAY_TOKEN", token("own"))
            .env("MESH_GATEWAY_TOKEN", token("serve"));
        call.run().await.ok();
    }
    assert!(gateway.connects() > 4, "the tokens were really used");
}
