//! `--via a2a` where the other side does what a good one does not. The good ones are in `interop/tests/a2a.test.mjs`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_mesh_testkit::{Certificate, TlsFront};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{Host, Serve, token};

/// What an agent says to a call of this method: a result or an error, or `events` of a stream; nothing breaks the
/// connection. What it says to `card` is put into its card.
type Script = fn(method: &str) -> Option<Value>;

/// What it was asked: the authorization and the call of each request.
type Asked = Arc<Mutex<Vec<(Option<String>, Value)>>>;

/// An A2A agent in a few lines of HTTP.
pub struct Agent {
    pub url: String,
    asked: Asked,
    heard: Arc<Notify>,
}

impl Agent {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a2a", listener.local_addr().unwrap());
        let asked = Asked::default();
        let (kept, heard) = (Arc::clone(&asked), Arc::new(Notify::new()));
        let tell = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script, Arc::clone(&kept), Arc::clone(&tell)));
            }
        });
        Self { url, asked, heard }
    }

    /// The first call of this method, when it came.
    pub async fn until(&self, method: &str) -> Value {
        let come = async {
            loop {
                if let Some((_, call)) = self.asked(method).into_iter().next() {
                    return call;
                }
                self.heard.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), come).await.expect("it was never asked that")
    }

    fn asked(&self, method: &str) -> Vec<(Option<String>, Value)> {
        self.asked.lock().unwrap().iter().filter(|(_, call)| call["method"] == method).cloned().collect()
    }
}

/// One request a connection.
async fn serve(stream: TcpStream, script: Script, kept: Asked, tell: Arc<Notify>) {
    let mut stream = BufReader::new(stream);
    let (mut authorization, mut length, mut line) = (None, 0, String::new());
    let mut card = false;
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        card |= line.starts_with("GET /.well-known/agent-card.json ");
        let (name, value) = line.split_once(':').unwrap_or_default();
        match &*name.to_lowercase() {
            "authorization" => authorization = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let call: Value = serde_json::from_slice(&body).unwrap_or_else(|_| json!({ "method": "card" }));
    let method = call["method"].as_str().unwrap().to_owned();
    kept.lock().unwrap().push((authorization, call));
    tell.notify_one();
    let answer = if card { Some(the_card(script)) } else { script(&method) };
    let Some(answer) = answer else { return };
    if let Some(events) = answer["events"].as_array() {
        // Without a length: it ends where the connection does.
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: hello\n\n";
        let events = events.iter().map(|event| format!("data: {}\n\n", json!({ "id": 1, "result": event })));
        let _ = stream.write_all(format!("{head}{}", events.collect::<String>()).as_bytes()).await;
        return;
    }
    let (status, location) = match answer["redirect"].as_str() {
        Some(to) => ("302 Found", format!("Location: {to}\r\n")),
        None => ("200 OK", String::new()),
    };
    let body = answer.to_string();
    let head =
        format!("HTTP/1.1 {status}\r\n{location}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

fn the_card(script: Script) -> Value {
    let interface = json!({ "url": "x", "protocolBinding": "JSONRPC", "protocolVersion": "1.0" });
    let mut card = json!({ "supportedInterfaces": [interface] });
    if let Some(capabilities) = script("card").and_then(|said| said.get("capabilities").cloned()) {
        card["capabilities"] = capabilities;
    }
    card
}

fn streaming() -> Value {
    json!({ "capabilities": { "streaming": true } })
}

fn task(state: &str) -> Value {
    json!({ "id": "t-1", "status": { "state": format!("TASK_STATE_{state}") } })
}

fn piece(text: &str, append: bool) -> Value {
    let artifact = json!({ "artifactId": "a", "parts": [{ "text": text }] });
    json!({ "artifactUpdate": { "taskId": "t-1", "append": append, "artifact": artifact } })
}

fn over() -> Value {
    json!({ "statusUpdate": { "taskId": "t-1", "status": { "state": "TASK_STATE_COMPLETED" } } })
}

/// A script: all that is asked for is a stream.
pub fn good_morning(method: &str) -> Option<Value> {
    Some(match method {
        "card" => streaming(),
        "SendStreamingMessage" => {
            let events =
                [json!({ "task": task("WORKING") }), piece("good", false), piece(" morning", true), over()];
            json!({ "events": events })
        }
        other => panic!("asked for {other}"),
    })
}

fn working() -> Value {
    json!({ "result": { "task": { "id": "t-1", "status": { "state": "TASK_STATE_WORKING" } } } })
}

/// Alice, for whom Bob is an agent over A2A.
pub fn host(a2a_url: &str, more: &Value) -> Host {
    let host = Host::new();
    let mut bob = json!({ "name": "Bob", "emailPrefix": "bob", "a2aUrl": a2a_url, "via": "a2a" });
    bob.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    host.registry(&json!([bob]));
    host.tokens(&["bob"]);
    host
}

const HI: [&str; 7] = ["--json", "send", "--to", "bob", "--message", "hi", "--timeout=4s"];

#[tokio::test]
async fn where_an_answer_is_lost_nobody_knows_and_nothing_is_sent_again() {
    let agent = Agent::start(|method| (method != "SendMessage").then(working)).await;
    let host = host(&agent.url, &json!({}));
    let lost = host.run(&HI).await.exits(3).json();
    assert_eq!((&lost["state"], &lost["error"]["code"]), (&json!("unknown"), &json!("delivery-unknown")));
    let id = lost["id"].as_str().unwrap();
    let waited = host.run(&["--json", "wait", id, "--timeout", "2s"]).await.exits(3).json();
    assert_eq!(waited["state"], "unknown");
    assert_eq!(agent.asked("SendMessage").len(), 1);
}

#[tokio::test]
async fn a_task_that_a_restart_forgot_has_failed() {
    let agent = Agent::start(|method| match method {
        "SendMessage" => Some(working()),
        _ => Some(json!({ "error": { "code": -32001, "message": "Task not found" } })),
    })
    .await;
    let out = host(&agent.url, &json!({})).run(&HI).await.exits(1).json();
    assert_eq!((&out["state"], &out["error"]["code"]), (&json!("failed"), &json!("run-failed")));
    assert!(out["error"]["message"].as_str().unwrap().contains("not known there any more"), "{out}");
}

/// Bob's token opens Bob's gateway; whoever stands behind the a2aUrl has not got it yet.
#[tokio::test]
async fn the_token_of_a_gateway_is_not_shown_to_an_a2a_endpoint() {
    let agent =
        Agent::start(|_| Some(json!({ "result": { "message": { "parts": [{ "text": "hello" }] } } }))).await;
    let host = host(&agent.url, &json!({ "url": "ws://127.0.0.1:9" }));
    let out = host.run(&HI).await.ok().json();
    assert_eq!((&out["reply"]["text"], &out["via"]), (&json!("hello"), &json!("a2a")));
    assert!(agent.asked("SendMessage")[0].0.is_none());
    let set = ["token", "set", "--a2a", "bob"];
    host.call(&set).stdin(format!("{}\n", token("bearer"))).run().await.ok();
    let again = [&HI[..5], &["hi again"]].concat();
    host.run(&again).await.ok();
    assert_eq!(agent.asked("SendMessage")[1].0, Some(format!("Bearer {}", token("bearer"))));
    assert!(
        agent.asked("card").iter().all(|(authorization, _)| authorization.is_none()),
        "the card is public"
    );
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_token_elsewhere() {
    let agent = Agent::start(|_| Some(json!({ "redirect": "http://127.0.0.1:9/elsewhere" }))).await;
    let out = host(&agent.url, &json!({})).run(&HI).await.exits(1).json();
    assert!(out["error"]["message"].as_str().unwrap().contains("302"), "{out}");
}

#[tokio::test]
async fn what_would_be_overheard_or_makes_no_sense_is_refused_before_anything_is_sent() {
    let out = host("http://203.0.113.7/a2a", &json!({})).run(&HI).await.exits(7).json();
    assert_eq!(out["error"]["code"], "plain-text-refused");
    let dry = [&HI[..], &["--dry-run"]].concat();
    let plan = host("https://bob.example.com/a2a/v1", &json!({})).run(&dry).await.ok().json();
    assert_eq!(
        (&plan["address"], &plan["session"]),
        (&json!("https://bob.example.com/a2a/v1"), &json!("mesh:alice"))
    );
    let chosen = [&HI[..], &["--agent", "coder"]].concat();
    let out = host("https://bob.example.com/a2a/v1", &json!({})).run(&chosen).await.exits(2).json();
    assert_eq!(out["error"]["code"], "usage");
}

#[tokio::test]
async fn the_pieces_of_a_stream_are_the_reply() {
    let agent = Agent::start(good_morning).await;
    let out = host(&agent.url, &json!({})).run(&HI).await.ok().json();
    assert_eq!((&out["reply"]["text"], &out["state"]), (&json!("good morning"), &json!("replied")));
}

/// What was heard before counts no more than what the agent says when it is asked.
#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_again() {
    let agent = Agent::start(|method| {
        Some(match method {
            "card" => streaming(),
            "SendStreamingMessage" => {
                json!({ "events": [{ "task": task("SUBMITTED") }, piece("good", false)] })
            }
            "GetTask" => json!({ "result": task("WORKING") }),
            "SubscribeToTask" => {
                json!({ "events": [{ "task": task("WORKING") }, piece("good evening", false), over()] })
            }
            other => panic!("asked for {other}"),
        })
    })
    .await;
    let out = host(&agent.url, &json!({})).run(&HI).await.ok().json();
    assert_eq!(out["reply"]["text"], "good evening");
    let asked = |method| agent.asked(method).len();
    assert_eq!([asked("SendStreamingMessage"), asked("GetTask"), asked("SubscribeToTask")], [1; 3]);
}

#[tokio::test]
async fn who_streams_less_than_his_card_says_is_asked_instead() {
    for refused in ["SendStreamingMessage", "SubscribeToTask"] {
        let script: Script = if refused == "SubscribeToTask" {
            |method| match method {
                "card" => Some(streaming()),
                "SendStreamingMessage" => Some(json!({ "events": [{ "task": task("WORKING") }] })),
                "SubscribeToTask" => {
                    Some(json!({ "error": { "code": -32601, "message": "no such method" } }))
                }
                _ => Some(json!({ "result": task("WORKING") })),
            }
        } else {
            |method| match method {
                "card" => Some(streaming()),
                "SendMessage" => Some(working()),
                "SendStreamingMessage" => {
                    Some(json!({ "error": { "code": -32004, "message": "not offered" } }))
                }
                _ => Some(json!({ "result": task("WORKING") })),
            }
        };
        let agent = Agent::start(script).await;
        let late =
            host(&agent.url, &json!({})).run(&[&HI[..6], &["--timeout=2s"]].concat()).await.exits(3).json();
        assert_eq!(
            (&late["state"], &late["error"]["code"]),
            (&json!("accepted"), &json!("no-reply-in-time"))
        );
        assert_eq!(agent.asked(refused).len(), 1, "{refused}");
        assert!(agent.asked("GetTask").len() >= 2, "{refused}");
    }
}

/// The bounds of a stream: an event of more than 4 MiB is not collected, and a task that was lost so is asked for.
#[tokio::test]
async fn a_stream_that_never_ends_is_left() {
    let agent = Agent::start(|method| {
        Some(match method {
            "card" => streaming(),
            "SendStreamingMessage" => {
                json!({ "events": [{ "task": task("WORKING") }, piece(&"x".repeat(5 << 20), false), over()] })
            }
            "GetTask" => {
                let mut done = task("COMPLETED");
                done["artifacts"] = json!([{ "artifactId": "a", "parts": [{ "text": "in short" }] }]);
                json!({ "result": done })
            }
            other => panic!("asked for {other}"),
        })
    })
    .await;
    let out = host(&agent.url, &json!({})).run(&HI).await.ok().json();
    assert_eq!(out["reply"]["text"], "in short");
}

/// A stream that breaks before its first event is an answer that was lost.
#[tokio::test]
async fn a_stream_without_a_word_leaves_open_whether_the_message_came() {
    let agent = Agent::start(|method| match method {
        "card" => Some(streaming()),
        _ => Some(json!({ "events": [] })),
    })
    .await;
    let lost = host(&agent.url, &json!({})).run(&HI).await.exits(3).json();
    assert_eq!((&lost["state"], &lost["error"]["code"]), (&json!("unknown"), &json!("delivery-unknown")));
    assert_eq!(agent.asked("SendMessage").len(), 0, "nothing is sent again");
}

/// That `wait` reached the agent, and its task goes on, is not that it is away.
#[tokio::test]
async fn wait_says_of_a_task_that_goes_on_that_it_does() {
    let agent = Agent::start(|method| {
        Some(if method == "SendMessage" { working() } else { json!({ "result": task("WORKING") }) })
    })
    .await;
    let host = host(&agent.url, &json!({}));
    let id =
        host.run(&[&HI[..6], &["--no-wait"]].concat()).await.ok().json()["id"].as_str().unwrap().to_owned();
    let late = host.run(&["--json", "wait", &id, "--timeout", "1s"]).await.exits(3).json();
    assert_eq!(late["error"]["code"], "no-reply-in-time");
}

/// Both ends are ours: what a peer says over A2A is a run of `serve` like any other, and `wait` finds it.
#[tokio::test]
async fn two_of_us_talk_over_a2a() {
    let bobs = Host::named("bob@example.com");
    bobs.registry(&json!([{ "name": "Alice", "emailPrefix": "alice", "ip": "127.0.0.1" }]));
    bobs.write("serve.token", token("serve"));
    bobs.run(&["token", "issue", "alice"]).await.ok();
    let serve = Serve::start(&bobs, &["--token-file", "serve.token"]).await;
    let host = host(&format!("http://{}/a2a/v1", serve.address), &json!({}));
    let issued = std::fs::read(bobs.path("alice.token")).unwrap();
    host.call(&["token", "set", "--a2a", "bob"]).stdin(issued).run().await.ok();
    let out = host.run(&HI).await.ok().json();
    assert_eq!((&out["state"], &out["via"]), (&json!("replied"), &json!("a2a")), "{out}");
    assert!(out["reply"]["text"].as_str().unwrap().ends_with("hi"), "{out}");
    let quick = ["--json", "send", "--to", "bob", "--message", "later", "--no-wait"];
    let id = host.run(&quick).await.ok().json()["id"].as_str().unwrap().to_owned();
    let waited = host.run(&["--json", "wait", &id]).await.ok().json();
    assert!(waited["reply"]["text"].as_str().unwrap().ends_with("later"), "{waited}");
}

#[tokio::test]
async fn a_pinned_certificate_is_asked_of_an_a2a_endpoint_too() {
    let agent = Agent::start(|_| {
        Some(json!({ "result": { "message": { "messageId": "m", "role": "ROLE_AGENT", "parts": [{ "text": "heard" }] } } }))
    })
    .await;
    let address = agent.url.strip_prefix("http://").unwrap().strip_suffix("/a2a").unwrap();
    let front = TlsFront::start(Certificate::First, address.parse().unwrap()).await;
    let url = front.url().replacen("wss://", "https://", 1) + "/a2a";
    let send = async |entry: Value| {
        host(&url, &entry).run(&["send", "--to", "bob", "--message", "hi", "--json"]).await
    };
    let right = json!({ "tlsFingerprint": Certificate::First.fingerprint() });
    assert_eq!(send(right).await.ok().json()["reply"]["text"], "heard");

    let calls = agent.asked("SendMessage").len();
    let wrong = send(json!({ "tlsFingerprint": Certificate::Second.fingerprint() })).await.exits(5).json();
    assert_eq!(wrong["error"]["code"], "identity-changed", "{wrong}");
    assert!(wrong["error"]["message"].to_string().contains(Certificate::First.fingerprint()), "{wrong}");
    // What is said of a gateway elsewhere is not said of this place, for which nobody vouches then.
    let elsewhere = json!({ "tlsFingerprint": Certificate::First.fingerprint(), "url": "wss://127.0.0.1:9" });
    assert_eq!(send(elsewhere).await.exits(6).json()["error"]["code"], "unreachable");
    // Nor is a pinned one given up for plain text.
    let plain = json!({ "tlsFingerprint": Certificate::First.fingerprint(), "a2aUrl": agent.url });
    assert_eq!(send(plain).await.exits(5).json()["error"]["code"], "identity-changed");
    assert_eq!(agent.asked("SendMessage").len(), calls);
}
