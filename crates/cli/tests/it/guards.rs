//! Who is in a chain, how far it goes, and how much may be said.

use agent_mesh_testkit::{FakeGateway, Script};
use serde_json::{Value, json};

use crate::support::{Call, Host, Out, Serve, heard, strict, token};

const AGENT: (&str, &str) = ("OPENCLAW_SHELL", "exec");
const ID: &str = "0197d3f0-8c5e-7cc1-b1a4-0c8f5d4e2a11";

fn say<'a>(text: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--json", "send", "--to", "bob", "--message", text], more].concat()
}

fn in_chain(call: Call, hops: &str, visited: &str) -> Call {
    call.env("MESH_CHAIN_ID", ID).env("MESH_CHAIN_HOPS", hops).env("MESH_CHAIN_VISITED", visited)
}

#[track_caller]
fn refused(out: Out, code: &str) -> Value {
    let error = out.exits(7).json()["error"].clone();
    assert_eq!(error["code"], code, "{error}");
    error
}

fn first_line(dry_run: &Value) -> &str {
    dry_run["message"].as_str().unwrap().lines().next().unwrap()
}

#[tokio::test]
async fn a_message_goes_on_with_the_chain_it_was_called_in() {
    let host = Host::with_bob("ws://127.0.0.1:9");
    let dry = say("hi", &["--dry-run", "--id", ID]);
    let plain = host.run(&dry).await.ok().json();
    assert_eq!(first_line(&plain), format!("[agent-mesh/1 from=alice id={ID} hops=0 reply=this-turn]"));
    let out = in_chain(host.call(&dry), "1", "carol,d%2Cd").env(AGENT.0, AGENT.1).run().await.ok().json();
    let expected = format!(
        "[agent-mesh/1 from=alice id={ID} hops=2 visited=carol,d%2Cd,alice chain={ID} via-shell=exec reply=this-turn]"
    );
    assert_eq!(first_line(&out), expected);
    let line = format!("[agent-mesh/1 from=carol id={ID} hops=0 reply=this-turn]");
    let out = host.run(&say("hi", &["--dry-run", "--id", ID, "--in-reply-to", &line])).await.ok().json();
    assert_eq!(
        first_line(&out),
        format!("[agent-mesh/1 from=alice id={ID} hops=1 visited=carol,alice chain={ID} reply=this-turn]")
    );
}

#[tokio::test]
async fn a_chain_ends_after_four_hops_and_does_not_come_back() {
    let bob = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&bob.url());
    let error = refused(in_chain(host.call(&say("hi", &[])), "4", "a,b,c,d,e").run().await, "loop");
    assert!(error["hint"].as_str().unwrap().contains("ask your owner"), "{error}");
    refused(in_chain(host.call(&say("hi", &[])), "1", "Bob,carol").run().await, "loop");
    assert_eq!(bob.requests("agent").len(), 0);
    let wider = in_chain(host.call(&say("hi", &[])), "4", "a").env("MESH_MAX_HOPS", "9");
    refused(wider.run().await, "loop");
    host.write(host.config("config.toml"), "[limits]\nmax-hops = 9");
    in_chain(host.call(&say("hi", &[])), "4", "a").run().await.ok();
    assert!(bob.requests("agent")[0]["message"].as_str().unwrap().contains("hops=5"));
}

/// A model that tries a dead teammate again and again is stopped, too, and a message that leaves begins the count anew.
#[tokio::test]
async fn an_agent_that_tries_in_vain_is_told_to_stop() {
    let host = Host::with_bob("ws://127.0.0.1:9");
    host.write(host.config("config.toml"), "[limits]\nunreachable-per-hour = 2");
    let agent = async |text: &str| host.call(&say(text, &[])).env(AGENT.0, AGENT.1).run().await;
    for text in ["one", "two"] {
        assert_eq!(agent(text).await.exits(6).json()["error"]["code"], "unreachable");
    }
    let error = refused(agent("three").await, "limit");
    assert!(error["message"].as_str().unwrap().contains("2 tries in an hour to reach one teammate in vain"));
    assert!(error["hint"].as_str().unwrap().contains("ask your owner"), "{error}");
    let limits = host.run(&["--json", "limits"]).await.ok().json();
    assert_eq!(limits["limits"]["agent"]["unreachablePerHour"], 2);
    let tried = json!({ "peer": "bob", "lastHour": 0, "threadLastDay": 0, "unreachableLastHour": 2 });
    assert_eq!(limits["usage"]["agent"]["peers"], json!([tried]));
    host.run(&["limits", "reset", "--peer", "bob"]).await.ok();
    assert_eq!(host.run(&["--json", "limits"]).await.ok().json()["usage"]["agent"]["peers"], json!([]));
    agent("four").await.exits(6);
    let bob = FakeGateway::start(strict()).await;
    host.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": bob.url() }]));
    agent("five").await.ok();
    let peers = host.run(&["--json", "limits"]).await.ok().json()["usage"]["agent"]["peers"].clone();
    assert_eq!(peers, json!([{ "peer": "bob", "lastHour": 1, "threadLastDay": 1 }]));
}

#[tokio::test]
async fn what_came_in_is_continued_by_its_id() {
    let host = Host::new();
    host.write("token", token("alice"));
    let serve = Serve::start(&host, &["--token-file", "token"]).await;
    let carol = Host::named("carol@example.com");
    carol.registry(&json!([{ "name": "Alice", "emailPrefix": "alice", "url": serve.url() }]));
    carol.tokens(&["alice"]);
    carol.run(&["send", "--to", "alice", "--message", "ask bob", "--id", ID]).await.ok();
    host.registry(&json!([
        { "name": "Bob", "emailPrefix": "bob", "ip": "127.0.0.1" },
        { "name": "Carol", "emailPrefix": "carol", "ip": "127.0.0.1" },
    ]));
    let out = host.run(&say("hi", &["--dry-run", "--in-reply-to", ID])).await.ok().json();
    assert!(first_line(&out).contains(&format!(" hops=1 visited=carol,alice chain={ID} ")), "{out}");
    let back = ["--json", "send", "--to", "carol", "--message", "hi", "--in-reply-to", ID];
    refused(host.run(&back).await, "loop");
    let unknown = host.run(&say("hi", &["--in-reply-to", "nonsense"])).await.exits(2).json();
    assert_eq!(unknown["error"]["code"], "no-such-message");
}

#[tokio::test]
async fn an_agent_cannot_hide_and_a_person_can() {
    let bob = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&bob.url());
    refused(host.call(&say("hi", &["--no-header"])).env(AGENT.0, AGENT.1).run().await, "header-needed");
    host.run(&say("hi", &["--no-header"])).await.ok();
    let sent = &bob.requests("agent")[0];
    assert_eq!((&sent["message"], &sent["inputProvenance"]["kind"]), (&json!("hi"), &json!("inter_session")));
}

#[tokio::test]
async fn the_limit_holds_across_processes_until_a_person_resets_it() {
    let bob = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&bob.url());
    let agent = |args: &[&str]| host.call(args).env(AGENT.0, AGENT.1).env("MESH_PEER_PER_HOUR", "2");
    for text in ["one", "two"] {
        agent(&say(text, &[])).run().await.ok();
    }
    let error = refused(agent(&say("three", &[])).run().await, "limit");
    assert!(error["message"].as_str().unwrap().contains("2 messages to one teammate in an hour"), "{error}");
    refused(agent(&say("three", &["--queue"])).run().await, "limit");
    assert_eq!(heard(&bob), ["one", "two"]);
    host.run(&say("a person is counted apart", &[])).await.ok();
    let shown = host.run(&["--json", "limits"]).await.ok().json();
    assert_eq!(
        shown["usage"]["agent"]["peers"][0],
        json!({"peer": "bob", "lastHour": 2, "threadLastDay": 2})
    );
    assert_eq!(
        (&shown["usage"]["person"]["totalLastHour"], &shown["speaker"]),
        (&json!(1), &json!("person"))
    );
    let reset = ["--json", "limits", "reset", "--peer", "bob"];
    refused(agent(&reset).run().await, "owner-only");
    host.run(&reset).await.ok();
    agent(&say("three", &[])).run().await.ok();
    let shown = host.run(&["--json", "limits"]).await.ok().json();
    assert_eq!(shown["resets"][0]["peer"], "bob");
}

#[tokio::test]
async fn an_agent_does_not_say_the_same_twice() {
    let bob = FakeGateway::start(strict()).await;
    let host = Host::with_bob(&bob.url());
    let agent = |args: &[&str]| host.call(args).env(AGENT.0, AGENT.1);
    let first = agent(&say("thank you", &[])).run().await.ok().json();
    let error = refused(agent(&say("thank you", &["--thread", "other"])).run().await, "repeated");
    assert!(error["hint"].as_str().unwrap().contains(first["id"].as_str().unwrap()), "{error}");
    for _ in 0..3 {
        host.run(&say("thank you", &[])).await.ok();
    }
}

#[tokio::test]
async fn rounds_count_and_end_where_the_other_side_says_nothing_new() {
    let polite =
        Script::new().shared_token(&token("bob")).reply(|_| agent_mesh_testkit::Reply::text("thank you"));
    let bob = FakeGateway::start(polite).await;
    let host = Host::with_bob(&bob.url());
    let out = host.call(&say("hi", &["--rounds", "9"])).env(AGENT.0, AGENT.1).run().await;
    refused(out, "repeated");
    assert_eq!(heard(&bob), ["hi", "thank you"]);
}

/// What says no to the message says no to looking at it first, and with the same exit code.
#[tokio::test]
async fn a_dry_run_is_refused_as_the_message_would_be() {
    let host = Host::with_bob("ws://127.0.0.1:9");
    let plan = say("hi", &["--dry-run"]);
    refused(in_chain(host.call(&plan), "4", "x").run().await, "loop");
    let out = in_chain(host.call(&plan), "1", "bob,carol").run().await;
    assert_eq!(out.json()["dryRun"], true);
    assert_eq!(out.json()["address"], "ws://127.0.0.1:9");
    refused(out, "loop");
    let all = ["--json", "broadcast", "--message", "hi", "--dry-run"];
    let out = in_chain(host.call(&all), "1", "bob").run().await;
    let row = out.json()["results"][0].clone();
    assert_eq!((&row["state"], &row["error"]["code"]), (&json!("skipped"), &json!("loop")));
    refused(out, "loop");
    let sent = in_chain(host.call(&say("hi", &[])), "1", "bob").run().await;
    assert_eq!(sent.json()["state"], "skipped");
    let agent = |text| host.call(&say(text, &[])).env(AGENT.0, AGENT.1).env("MESH_PEER_PER_HOUR", "1");
    let bob = FakeGateway::start(strict()).await;
    host.registry(&json!([{ "name": "Bob", "emailPrefix": "bob", "url": bob.url() }]));
    agent("one").run().await.ok();
    let limited = agent("two").run().await;
    assert_eq!(limited.json()["state"], "skipped", "one state for all that a guard refuses");
    refused(limited, "limit");
}

/// Who has no token yet, or no address, is skipped a thousand times before the first message to them.
#[tokio::test]
async fn what_never_left_is_not_counted() {
    let host = Host::with_bob("ws://127.0.0.1:9");
    host.tokens(&[]);
    host.run(&["broadcast", "--message", "hi"]).await.exits(6);
    host.run(&say("hi", &[])).await.exits(5);
    let usage = host.run(&["--json", "limits"]).await.ok().json()["usage"]["person"].clone();
    assert_eq!(usage, json!({ "totalLastHour": 0, "peers": [] }));
}

#[tokio::test]
async fn a_broadcast_leaves_out_who_is_in_the_chain() {
    let (bob, carol) = (FakeGateway::start(strict()).await, FakeGateway::start(Script::new()).await);
    let host = Host::with_bob(&bob.url());
    host.registry(&json!([
        { "name": "Bob", "emailPrefix": "bob", "url": bob.url() },
        { "name": "Carol", "emailPrefix": "carol", "url": carol.url() },
    ]));
    host.tokens(&["bob", "carol"]);
    let all = ["--json", "broadcast", "--message", "hi"];
    let out = in_chain(host.call(&all), "0", "bob").run().await.ok().json();
    assert_eq!((&out["counts"], carol.requests("agent").len()), (&json!({"skipped": 1, "replied": 1}), 1));
    assert_eq!(out["results"][0]["error"]["code"], "loop");
    refused(in_chain(host.call(&all), "1", "bob,carol").run().await, "loop");
    refused(in_chain(host.call(&all), "4", "x").run().await, "loop");
    assert_eq!(bob.requests("agent").len(), 0);
}
