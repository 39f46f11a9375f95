//! Our own agent and a teammate's in turn: both gateways are scripted, and what each of them was told is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_mesh_testkit::{FakeGateway, Reply, Script};
use serde_json::{Value, json};

use crate::support::{Call, Host, heard, token};

/// An agent that says something new each time, and these words in its n-th answer.
fn talkative(name: &'static str, nth: u32, words: &'static str) -> Script {
    let count = Arc::new(AtomicU32::new(0));
    Script::new().shared_token(&token(name)).reply(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        Reply::text(if number == nth { words.to_owned() } else { format!("{name} says {number}") })
    })
}

struct Pair {
    host: Host,
    own: FakeGateway,
    bob: FakeGateway,
}

impl Pair {
    async fn new(own: Script, bob: Script) -> Self {
        let (own, bob) = (FakeGateway::start(own).await, FakeGateway::start(bob).await);
        Self { host: Host::with_bob(&bob.url()), own, bob }
    }

    fn talk(&self, more: &[&str]) -> Call {
        let base = ["--json", "dialogue", "--with", "bob", "--topic", "the release", "--thread", "r1"];
        self.host
            .call(&[&base[..], more].concat())
            .env("MESH_GATEWAY_URL", self.own.url())
            .env("OPENCLAW_GATEWAY_TOKEN", token("own"))
    }
}

fn texts(document: &Value) -> Vec<(&str, &str)> {
    let turns = document["turns"].as_array().unwrap().iter();
    turns.map(|turn| (turn["speaker"].as_str().unwrap(), turn["text"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn they_answer_each_other_until_the_turns_are_used_up() {
    let pair = Pair::new(talkative("own", 0, ""), talkative("bob", 0, "")).await;
    let out = pair.talk(&["--turns", "4"]).run().await.ok().json();
    let expected =
        [("ours", "own says 1"), ("theirs", "bob says 1"), ("ours", "own says 2"), ("theirs", "bob says 2")];
    assert_eq!((texts(&out), &out["end"]), (expected.to_vec(), &json!("turns")));

    let ours = pair.own.requests("agent");
    assert_eq!(ours[0]["sessionKey"], "agent:main:mesh-dialogue:bob:r1");
    assert!(ours[0]["message"].as_str().unwrap().contains("about: the release"), "{}", ours[0]);
    assert_eq!(ours[0].get("inputProvenance"), None, "the topic is the owner's own");
    let told = ours[1]["message"].as_str().unwrap();
    assert!(told.contains("words of Bob's agent") && told.contains("\nbob says 1\n--- end "), "{told}");
    assert_eq!(ours[1]["inputProvenance"]["kind"], "inter_session");

    let theirs = heard(&pair.bob);
    assert!(theirs[0].starts_with("(The beginning of a dialogue of at most 4 messages."), "{theirs:?}");
    assert_eq!(theirs[1], "own says 2");
    let log = pair.host.run(&["--json", "log", "--thread", "r1"]).await.ok().json();
    assert_eq!(
        (log["messages"].as_array().unwrap().len(), &log["messages"][1]["id"]),
        (2, &out["turns"][2]["id"])
    );
}

#[tokio::test]
async fn whoever_says_the_stop_phrase_ends_it() {
    let pair = Pair::new(talkative("own", 2, "Fine. END OF DIALOGUE"), talkative("bob", 0, "")).await;
    let out = pair.talk(&[]).run().await.ok().json();
    assert_eq!((out["turns"].as_array().unwrap().len(), &out["end"]), (3, &json!("stop-phrase")));
    assert_eq!(heard(&pair.bob).last().unwrap(), "Fine. END OF DIALOGUE", "their agent hears the last words");
    let pair = Pair::new(talkative("own", 0, ""), talkative("bob", 1, "over and out")).await;
    let out = pair.talk(&["--stop-phrase", "over and out"]).run().await.ok().json();
    assert_eq!((texts(&out).len(), pair.own.requests("agent").len()), (2, 1));
}

/// Agents that quote what they were told end nothing, though they were told of the stop phrase; and the last words of ours
/// get an answer, or the log would have them under way for ever.
#[tokio::test]
async fn two_who_quote_each_other_go_on_to_the_last_turn() {
    let quoting =
        |name: &str| Script::new().shared_token(&token(name)).reply(|turn| Reply::text(&turn.message));
    let pair = Pair::new(quoting("own"), quoting("bob")).await;
    let out = pair.talk(&["--turns", "3"]).run().await.ok().json();
    assert_eq!((texts(&out).len(), &out["end"]), (3, &json!("turns")));
    let log = pair.host.run(&["--json", "log", "--thread", "r1"]).await.ok().json();
    let states: Vec<_> =
        log["messages"].as_array().unwrap().iter().map(|message| &message["state"]).collect();
    assert_eq!(states, ["replied", "replied"]);
}

/// Two polite agents would go on for ever: the same words again end it, and what was said stands.
#[tokio::test]
async fn the_limits_for_agents_hold() {
    let polite = |name: &str| Script::new().shared_token(&token(name)).reply(|_| Reply::text("thank you"));
    let pair = Pair::new(polite("own"), polite("bob")).await;
    let out = pair.talk(&["--turns", "40"]).run().await.exits(7).json();
    // The first message had an introduction, so the second is the first repetition that is noticed with the third.
    assert_eq!((&out["error"]["code"], heard(&pair.bob).len()), (&json!("repeated"), 2));
    assert_eq!(out["turns"].as_array().unwrap().len(), 5);
    let count = pair.talk(&["--turns", "3"]).env("MESH_PEER_PER_HOUR", "2").run().await.exits(7).json();
    assert_eq!(count["error"]["code"], "limit");
}

#[tokio::test]
async fn without_our_own_gateway_or_agent_nothing_is_sent() {
    let failing = Script::new().shared_token(&token("own")).reply(|_| Reply::provider_error("no quota"));
    let pair = Pair::new(failing, talkative("bob", 0, "")).await;
    let out = pair.talk(&[]).run().await.exits(1).json();
    assert_eq!(out["error"]["code"], "own-agent-failed");
    let wrong = pair.talk(&[]).env("OPENCLAW_GATEWAY_TOKEN", token("wrong")).run().await.exits(5).json();
    assert_eq!(wrong["error"]["code"], "own-token-refused");
    assert_eq!(heard(&pair.bob).len(), 0);
}
