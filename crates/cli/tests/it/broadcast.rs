//! `broadcast`: one message, the whole team.

use std::os::unix::fs::PermissionsExt;

use agent_mesh_testkit::{Cut, FakeGateway, Fault, Gate, How, Reply, Script};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{DeadPort, Host, token, until};

/// A gateway for each name, which says who it is.
async fn team(names: &[&'static str]) -> (Vec<FakeGateway>, Host) {
    let mut gateways = Vec::new();
    for name in names {
        gateways.push(FakeGateway::start(named(name)).await);
    }
    let host = Host::new();
    let mut agents = vec![json!({ "name": "Alice", "emailPrefix": "alice", "ip": "" })];
    agents.extend(names.iter().zip(&gateways).map(|(name, gateway)| {
        json!({ "name": name, "emailPrefix": name, "url": gateway.url(), "tags": { "team": &name[..1] } })
    }));
    host.registry(&json!(agents));
    host.tokens(names);
    (gateways, host)
}

/// Two gateways, Bob's first, and a host that knows both.
fn bob_and_carol(bob: &FakeGateway, carol: &FakeGateway) -> Host {
    let host = Host::with_bob(&bob.url());
    host.registry(&json!([
        { "name": "Bob", "emailPrefix": "bob", "url": bob.url() },
        { "name": "Carol", "emailPrefix": "carol", "url": carol.url() },
    ]));
    host.tokens(&["bob", "carol"]);
    host
}

fn named(name: &'static str) -> Script {
    Script::new()
        .shared_token(&token(name))
        .reply(move |_| Reply::text(format!("I am {name}\nsecond\nthird\nfourth")))
}

fn states(document: &Value) -> Vec<(String, String)> {
    let rows = document["results"].as_array().unwrap().iter();
    rows.map(|row| {
        (row["to"]["emailPrefix"].as_str().unwrap().to_owned(), row["state"].as_str().unwrap().to_owned())
    })
    .collect()
}

fn pairs(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn everybody_but_me_is_asked_and_told_in_registry_order() {
    // The first of the registry answers last.
    let gate = Gate::new();
    let held = gate.clone();
    let slow = FakeGateway::start(named("ann").reply(move |_| Reply::text("I am ann").when(&held))).await;
    let (mut gateways, host) = team(&["bob", "cid"]).await;
    host.registry(&json!([
        { "name": "ann", "emailPrefix": "ann", "url": slow.url() },
        { "name": "Alice", "emailPrefix": "alice", "ip": "" },
        { "name": "bob", "emailPrefix": "bob", "url": gateways[0].url() },
        { "name": "cid", "emailPrefix": "cid", "url": gateways[1].url() },
    ]));
    host.tokens(&["ann", "bob", "cid"]);
    let run = host.run(&["broadcast", "--message", "hi", "--json"]);
    let order = async {
        for gateway in &mut gateways {
            until(gateway, |gateway| gateway.ledger().total() == 1).await;
        }
        gate.open();
    };
    let (out, ()) = tokio::join!(run, order);
    let document = out.ok().json();
    assert_eq!(states(&document), pairs(&[("ann", "replied"), ("bob", "replied"), ("cid", "replied")]));
    assert_eq!(document["counts"], json!({ "replied": 3 }));
    assert_eq!(document["results"][0]["reply"], json!({ "text": "I am ann" }));
    assert_eq!(document["results"][1]["reply"]["text"], "I am bob\nsecond\nthird\nfourth", "whole replies");
    let ids: Vec<_> =
        document["results"].as_array().unwrap().iter().map(|row| row["id"].to_string()).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && document["id"].is_string());
}

#[tokio::test]
async fn text_shows_who_said_what() {
    let (_gateways, host) = team(&["bob", "cid"]).await;
    let out = host.run(&["broadcast", "--message", "hi", "--concurrency", "1"]).await.ok();
    insta::assert_snapshot!(out.transcript());
}

#[tokio::test]
async fn some_reached_is_8_and_the_skipped_do_not_count() {
    let (gateways, host) = team(&["bob", "cid"]).await;
    let dead = DeadPort::new();
    let agents = |more: Value| {
        let mut agents = vec![
            json!({ "name": "bob", "emailPrefix": "bob", "url": gateways[0].url() }),
            json!({ "name": "pending", "emailPrefix": "pending", "ip": "" }),
        ];
        agents.push(more);
        json!(agents)
    };
    host.registry(&agents(json!({ "name": "dan", "emailPrefix": "dan", "url": dead.url() })));
    host.tokens(&["bob", "cid", "dan"]);
    let document = host.run(&["broadcast", "--message", "hi", "--json"]).await.exits(8).json();
    assert_eq!(
        states(&document),
        pairs(&[("bob", "replied"), ("pending", "skipped"), ("dan", "unreachable")])
    );
    assert_eq!(document["counts"], json!({ "replied": 1, "skipped": 1, "unreachable": 1 }));
    assert_eq!(document["error"]["code"], "reached-some");
    assert_eq!(document["results"][2]["error"]["code"], "unreachable");
    host.registry(&agents(json!({ "name": "cid", "emailPrefix": "cid", "url": gateways[1].url() })));
    host.run(&["broadcast", "--message", "hi"]).await.ok();
}

#[tokio::test]
async fn a_peer_whose_token_we_lack_is_skipped() {
    let (gateways, host) = team(&["bob", "cid"]).await;
    host.tokens(&["bob"]);
    let document = host.run(&["broadcast", "--message", "hi", "--json"]).await.ok().json();
    assert_eq!(states(&document), pairs(&[("bob", "replied"), ("cid", "skipped")]));
    assert_eq!(gateways[1].connects(), 0);
}

#[tokio::test]
async fn a_quorum_is_enough() {
    let (gateways, host) = team(&["bob"]).await;
    let dead = DeadPort::new();
    host.registry(&json!([
        { "name": "bob", "emailPrefix": "bob", "url": gateways[0].url() },
        { "name": "dan", "emailPrefix": "dan", "url": dead.url() },
    ]));
    host.tokens(&["bob", "dan"]);
    for (quorum, exit) in [("1", 0), ("2", 8), ("3", 2), ("0", 2)] {
        host.run(&["broadcast", "--message", "hi", "--quorum", quorum]).await.exits(exit);
    }
    let all = ["broadcast", "--message", "hi", "--quorum", "2", "--only", "bob", "--json"];
    let document = host.run(&all).await.exits(2).json();
    assert_eq!(document["error"]["message"], "--quorum: only 1 is asked");
    assert_eq!(gateways[0].ledger().total(), 2, "who asks for too many asks nobody");
}

#[tokio::test]
async fn what_cannot_be_kept_here_is_our_failure_and_not_theirs() {
    let (gateways, host) = team(&["bob", "cid"]).await;
    host.write(host.state("archive.db"), "this is no archive");
    let sent = host.run(&["send", "--to", "bob", "--message", "hi", "--json"]).await.exits(1).json();
    let document = host.run(&["broadcast", "--message", "hi", "--json"]).await.exits(1).json();
    assert_eq!(document["error"]["code"], sent["error"]["code"]);
    assert_eq!(states(&document), pairs(&[("bob", "failed"), ("cid", "failed")]));
    assert!(gateways.iter().all(|gateway| gateway.ledger().total() == 0));
}

#[tokio::test]
async fn nobody_reached_is_6() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    let document = host.run(&["broadcast", "--message", "hi", "--json"]).await.exits(6).json();
    assert_eq!(document["counts"], json!({ "unreachable": 1 }));
    let document =
        host.run(&["broadcast", "--message", "hi", "--except", "bob", "--json"]).await.exits(6).json();
    assert_eq!(document["error"]["code"], "reached-nobody");
    assert_eq!((&document["counts"], &document["results"]), (&json!({}), &json!([])));
}

#[tokio::test]
async fn the_fallback_is_used_only_when_asked_for() {
    let dead = DeadPort::new();
    let host = Host::with_bob(&dead.url());
    let script = host.write("im.sh", "#!/bin/sh\n: > im.log\n");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let call = |args: &[&str]| {
        host.call(&[&["broadcast", "--message", "hi", "--json"], args].concat())
            .env("MESH_IM_FALLBACK", &script)
    };
    call(&[]).run().await.exits(6);
    assert!(!host.path("im.log").exists());
    let document = call(&["--fallback"]).run().await.ok().json();
    assert_eq!(document["counts"], json!({ "fallback": 1 }));
}

#[tokio::test]
async fn a_selection_reaches_those_and_no_others() {
    let (gateways, host) = team(&["ann", "bob", "bea"]).await;
    let rows: [(&[&str], &[usize]); 5] = [
        (&["--only", "ann,bob"], &[0, 1]),
        (&["--only", "ann", "--only", "bea"], &[0, 2]),
        (&["--except", "bob"], &[0, 2]),
        (&["--to-tag", "team=b"], &[1, 2]),
        (&["--to-tag", "team=b", "--except", "bea"], &[1]),
    ];
    let mut expected = [0; 3];
    for (options, chosen) in rows {
        host.run(&[&["broadcast", "--message", "hi"], options].concat()).await.ok();
        chosen.iter().for_each(|place| expected[*place] += 1);
        let counts: Vec<usize> = gateways.iter().map(|gateway| gateway.ledger().total()).collect();
        assert_eq!(counts, expected, "{options:?}");
    }
    host.run(&["broadcast", "--message", "hi", "--only", "zebedee"]).await.exits(4);
}

#[tokio::test]
async fn a_dry_run_says_who_would_be_asked_and_connects_to_nobody() {
    let (gateways, host) = team(&["bob", "cid"]).await;
    host.tokens(&["bob"]);
    let document = host.run(&["broadcast", "--message", "hi", "--dry-run", "--json"]).await.ok().json();
    assert_eq!(document["dryRun"], true);
    assert_eq!(document["message"], "hi");
    assert_eq!(states(&document), pairs(&[("bob", "would-send"), ("cid", "skipped")]));
    let bob = &document["results"][0];
    assert_eq!((&bob["address"], &bob["bytes"]), (&json!(gateways[0].url()), &json!(2)));
    assert_eq!((&bob["session"], &bob["token"]), (&json!("agent:main:mesh:alice"), &json!("configured")));
    assert_eq!(document["results"][1]["token"], "missing");
    assert_eq!(document["results"][1]["error"]["code"], "no-credential");
    assert!(bob["error"].is_null());
    insta::assert_snapshot!(host.run(&["broadcast", "--message", "hi", "--dry-run"]).await.transcript());
    assert!(gateways.iter().all(|gateway| gateway.connections() == 0), "a dry run connected");
}

#[tokio::test]
async fn no_wait_leaves_them_at_work() {
    let gateway = FakeGateway::start(named("bob").reply(|_| Reply::never())).await;
    let host = Host::with_bob(&gateway.url());
    let document = host.run(&["broadcast", "--message", "hi", "--no-wait", "--json"]).await.ok().json();
    assert_eq!(document["counts"], json!({ "accepted": 1 }));
}

/// Exit 8 said that it reached only some, and its hint to send again.
#[tokio::test]
async fn all_have_it_and_nobody_replied_in_time_is_3() {
    let gateway = FakeGateway::start(named("bob").reply(|_| Reply::never())).await;
    let host = Host::with_bob(&gateway.url());
    let out = host.run(&["broadcast", "--message", "hi", "--timeout", "1", "--json"]).await.exits(3).json();
    assert_eq!(
        (&out["counts"], &out["error"]["code"]),
        (&json!({ "accepted": 1 }), &json!("no-reply-in-time"))
    );
}

/// It was exit 6, as if the others were away.
#[tokio::test]
async fn a_key_that_others_can_read_is_our_failure_and_not_theirs() {
    let (gateways, host) = team(&["bob"]).await;
    host.run(&["broadcast", "--message", "hi"]).await.ok();
    let key = host.state("device.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let out = host.run(&["broadcast", "--message", "again", "--json"]).await.exits(7).json();
    assert_eq!(out["error"]["code"], "unsafe-file", "{out}");
    assert_eq!(gateways[0].ledger().total(), 1);
}

/// All of it came when the last one was done.
#[tokio::test]
async fn who_is_done_is_shown_while_others_are_at_work() {
    let gate = Gate::new();
    let held = gate.clone();
    let slow = named("bob").reply(move |_| Reply::text("at last").when(&held));
    let (bob, carol) = (FakeGateway::start(slow).await, FakeGateway::start(named("carol")).await);
    let host = bob_and_carol(&bob, &carol);
    let mut child = host.call(&["broadcast", "--message", "hi"]).spawn();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || lines.next_line().await.unwrap().unwrap_or_default();
    assert_eq!((next().await, next().await), ("Carol  replied".into(), "  I am carol".into()));
    gate.open();
    let rest = [next().await, next().await, next().await, next().await, next().await];
    assert_eq!(rest[3..], ["Bob  replied", "  at last"], "{rest:?}");
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn one_at_a_time_is_possible() {
    let (gateways, host) = team(&["bob", "cid", "dan"]).await;
    let document =
        host.run(&["broadcast", "--message", "hi", "--concurrency", "1", "--json"]).await.ok().json();
    assert_eq!(document["counts"], json!({ "replied": 3 }));
    assert!(gateways.iter().all(|gateway| gateway.ledger().total() == 1));
}

#[tokio::test]
async fn the_first_reply_is_enough_and_the_others_keep_what_they_have() {
    let (quick, slow) = (Script::new(), Script::new().reply(|_| Reply::never()));
    let (bob, carol) = (FakeGateway::start(slow).await, FakeGateway::start(quick).await);
    let host = Host::with_bob(&bob.url());
    host.registry(&json!([
        { "name": "Bob", "emailPrefix": "bob", "url": bob.url() },
        { "name": "Carol", "emailPrefix": "carol", "url": carol.url() },
        { "name": "Dave", "emailPrefix": "dave", "url": carol.url() },
    ]));
    host.tokens(&["bob", "carol", "dave"]);
    let first = ["--json", "broadcast", "--message", "hi", "--first", "--concurrency"];
    let out = host.run(&[&first[..], &["1", "--except", "bob"]].concat()).await.ok().json();
    assert_eq!(out["counts"], json!({ "replied": 1, "skipped": 1 }), "the second was not even asked");
    let out =
        host.run(&[&first[..], &["2", "--timeout", "50s", "--only", "bob,carol"]].concat()).await.ok().json();
    let states: Vec<_> = out["results"].as_array().unwrap().iter().map(|result| &result["state"]).collect();
    assert_eq!(states[1], "replied");
    let id = out["results"][0]["id"].as_str().unwrap();
    let kept = host.run(&["--json", "log", "--state", states[0].as_str().unwrap()]).await.ok().json();
    let kept = kept["messages"].as_array().unwrap().iter().any(|message| message["id"] == id);
    let is_known = states[0] == "accepted" || states[0] == "unknown";
    assert!(if is_known { kept } else { states[0] == "skipped" }, "{states:?}");
}

/// A gateway that says nothing has got nothing: the log said for ever that its message was on its way.
#[tokio::test]
async fn what_has_not_left_when_nobody_waits_any_more_never_does() {
    let silent = Script::new().fault(Fault::new(Cut::AfterTcp, How::Freeze));
    let (bob, carol) = (FakeGateway::start(silent).await, FakeGateway::start(named("carol")).await);
    let host = bob_and_carol(&bob, &carol);
    let out = host.run(&["--json", "broadcast", "--message", "hi", "--first"]).await.ok().json();
    assert_eq!(out["counts"], json!({ "replied": 1, "skipped": 1 }));
    let id = out["results"][0]["id"].as_str().unwrap();
    let waited = host.run(&["--json", "wait", id]).await.exits(1).json();
    assert_eq!((&waited["state"], &waited["error"]["code"]), (&json!("skipped"), &json!("ended")));
    assert!(waited["error"]["hint"].as_str().unwrap().contains(id), "{waited}");
    let usage = host.run(&["--json", "limits"]).await.ok().json()["usage"]["person"].clone();
    assert_eq!(usage["totalLastHour"], 1, "the one that left counts for the broadcast");
    assert_eq!(usage["peers"], json!([{ "peer": "carol", "lastHour": 1, "threadLastDay": 1 }]));
}

#[tokio::test]
async fn hints_are_talk_and_not_a_result() {
    let host = Host::with_bob("ws://127.0.0.1:9");
    host.tokens(&[]);
    let out = host.run(&["broadcast", "--message", "hi"]).await.exits(6);
    assert!(!out.stdout.contains("hint") && out.stderr.contains("hint for Bob: "), "{out:?}");
}

#[tokio::test]
async fn a_long_message_to_all_is_warned_of_once() {
    let (_gateways, host) = team(&["bob", "cid"]).await;
    let call = host.call(&["broadcast", "--message", "1234567"]).env("MESH_MSG_SOFT_LIMIT", "6");
    let stderr = call.run().await.ok().stderr;
    assert_eq!(stderr.matches("warning: the message has 7 bytes").count(), 1, "{stderr}");
}
