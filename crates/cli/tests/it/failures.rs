//! Every failure a user can meet, each seen as text and as JSON. Under `--json` stdout is exactly one document whose `ok`
//! says what the exit code says; in text, stdout stays empty or shows how far it got, and stderr says what to do.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_mesh_testkit::{Challenge, Cut, FakeGateway, Fault, How, Opening, Refusal, Reply, Script};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{DeadPort, Host, Out, SECRET, strict, token};

mod files;

/// One failure.
struct Row {
    name: &'static str,
    /// Who answers at Bob's address; nobody, if none.
    gateway: Option<fn() -> Script>,
    /// What is wrong with the files.
    arrange: fn(&Host),
    env: &'static [(&'static str, &'static str)],
    args: &'static [&'static str],
    stdin: Option<&'static [u8]>,
    exit: i32,
    code: &'static str,
    /// What message and hint say between them.
    says: &'static [&'static str],
    /// And what they say only once.
    once: &'static [&'static str],
    /// How many connects with a credential the gateway may see.
    connects: Option<u32>,
}

const HI: &[&str] = &["send", "--to", "bob", "--message", "hi"];
/// The same, by somebody in a hurry; but a loaded machine must get to where the other side falls silent.
const SOON: &[&str] = &["send", "--to", "bob", "--message", "hi", "--timeout", "4s"];

impl Row {
    const fn new(name: &'static str, args: &'static [&'static str], exit: i32, code: &'static str) -> Self {
        let arrange = |_: &Host| {};
        let (env, says, once): (&[_], &[_], &[_]) = (&[], &[], &[]);
        Self { name, gateway: None, arrange, env, args, stdin: None, exit, code, says, once, connects: None }
    }

    fn once(self, once: &'static [&'static str]) -> Self {
        Self { once, ..self }
    }

    fn says(self, says: &'static [&'static str]) -> Self {
        Self { says, ..self }
    }

    fn host(self, arrange: fn(&Host)) -> Self {
        Self { arrange, ..self }
    }

    fn env(self, env: &'static [(&'static str, &'static str)]) -> Self {
        Self { env, ..self }
    }

    fn stdin(self, stdin: &'static [u8]) -> Self {
        Self { stdin: Some(stdin), ..self }
    }

    fn gateway(self, script: fn() -> Script) -> Self {
        Self { gateway: Some(script), ..self }
    }

    fn connects(self, connects: u32) -> Self {
        Self { connects: Some(connects), ..self }
    }
}

/// What cannot be understood.
fn usage() -> Vec<Row> {
    let usage = |name, args, says| Row::new(name, args, 2, "usage").says(says);
    vec![
        usage("unknown command", &["sned"], &["sned"]),
        usage("a command behind none", &["sned", "send"], &["sned"]),
        usage("half a second", &["list", "--watch", "--interval", "0.5"], &["500ms"]),
        usage("nothing to import", &["init", "--from", "nope"], &["nope", "folder of a bash skill"]),
        usage("nothing to pin", &["trust", "add", "bob"], &["wss://", "agent-mesh trust show bob"]),
        usage("no such token file", &["serve", "--token-file", "nope"], &["nope", "0600"]),
        usage(
            "no such attachment",
            &["send", "--to", "bob", "--message", "x", "--attach", "nope"],
            &["nope", "spelled"],
        ),
        usage("unknown option", &["send", "--tp", "bob"], &["--tp"]),
        usage("no recipient", &["send", "--message", "hi"], &["--to"]),
        usage(
            "two messages",
            &["send", "--to", "bob", "--message", "a", "--message-file", "b"],
            &["--message-file"],
        ),
        usage(
            "a time without a unit we know",
            &["send", "--to", "bob", "--timeout", "5y", "--message", "a"],
            &["5y", "--timeout"],
        ),
        usage(
            "no rounds",
            &["send", "--to", "bob", "--message", "a", "--rounds", "0"],
            &["--rounds", "1..=20"],
        ),
        usage("too many rounds", &["send", "--to", "bob", "--message", "a", "--rounds", "21"], &["21"]),
        usage("an id that is no UUID", &["send", "--to", "bob", "--message", "a", "--id", "7"], &["--id"]),
        usage(
            "a route that is none",
            &["send", "--to", "bob", "--message", "a", "--via", "pigeon"],
            &["pigeon"],
        ),
        usage("a tag without a value", &["broadcast", "--message", "a", "--to-tag", "infra"], &["KEY=VALUE"]),
        usage("pair with nobody", &["pair", "--wait"], &["--to"]),
        usage("pair with two meanings", &["pair", "--to", "bob", "list"], &["--to"]),
        usage("an unknown shell", &["completions", "tcsh"], &["tcsh", "bash"]),
        usage("serve exec without a command", &["serve", "--agent", "exec"], &["-- CMD"]),
        usage("serve echo with a command", &["serve", "--", "true"], &["--agent exec"]),
        usage("an interval without a watch", &["list", "--interval", "1s"], &["--watch"]),
        usage("a gateway that is no address", &["pair", "list", "--gateway", "http://x"], &["--gateway"]),
    ]
}

/// Writes a file, for a row.
fn put(host: &Host, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    host.write(path, content);
}

/// Whom, and what.
fn messages() -> Vec<Row> {
    vec![
        Row::new("unknown teammate", &["send", "--to", "bop", "--message", "hi"], 4, "unknown-teammate")
            .says(&["bop", "did you mean Bob (bob)?"]),
        Row::new("somebody of another domain", &["send", "--to", "bob@other.com", "--message", "hi"], 4, "unknown-teammate")
            .says(&["bob@other.com", "Bob (bob)"]),
        Row::new("the log with nobody", &["log", "--with", "zebedee"], 4, "unknown-teammate").says(&["zebedee"]),
        Row::new("the log with either", &["log", "--with", "o"], 2, "ambiguous")
            .host(|host| host.registry(&json!([{"name": "Bob", "emailPrefix": "bob"}, {"name": "Joe", "emailPrefix": "joe"}])))
            .says(&["Bob (bob)", "Joe (joe)"]),
        Row::new("unknown teammate, nobody near", &["ping", "--to", "zebedee"], 4, "unknown-teammate")
            .says(&["zebedee", "agent-mesh list"]),
        Row::new("ambiguous", &["send", "--to", "bo", "--message", "hi"], 2, "ambiguous")
            .host(|host| {
                host.registry(&json!([{"name": "Bob", "emailPrefix": "bob"}, {"name": "Bonnie", "emailPrefix": "bonnie"}]));
            })
            .says(&["Bob (bob)", "Bonnie (bonnie)"]),
        Row::new("no message", &["send", "--to", "bob"], 2, "message-invalid").says(&["empty"]),
        Row::new("empty message", &["send", "--to", "bob", "--message", ""], 2, "message-invalid").says(&["empty"]),
        Row::new("blank message", &["send", "--to", "bob", "--message", " \n\t\u{3000}"], 2, "message-invalid"),
        Row::new("blank message, piped", &["send", "--to", "bob"], 2, "message-invalid").stdin(b"\n\n"),
        Row::new("blank message to all", &["broadcast", "--message", " "], 2, "message-invalid"),
        Row::new("NUL", &["send", "--to", "bob", "--message-file", "nul"], 2, "message-invalid")
            .host(|host| put(host, "nul", "a\0b"))
            .says(&["NUL", "1"]),
        Row::new("not UTF-8", &["send", "--to", "bob"], 2, "usage").stdin(b"ab\xff").says(&["UTF-8", "byte 2", "iconv"]),
        Row::new("no such message file", &["send", "--to", "bob", "--message-file", "nope"], 2, "usage").says(&["nope", "how its name is spelled"]),
        Row::new("over the hard limit", &["send", "--to", "bob", "--message", "戴泽"], 7, "message-too-large")
            .env(&[("MESH_MSG_HARD_LIMIT", "5")])
            .says(&["6 bytes", "5", "MESH_MSG_HARD_LIMIT"]),
        Row::new("over the hard limit, to all", &["broadcast", "--message", "戴泽"], 7, "message-too-large")
            .env(&[("MESH_MSG_SOFT_LIMIT", "1"), ("MESH_MSG_HARD_LIMIT", "5")]),
        Row::new("over the hard limit, dry run", &["send", "--to", "bob", "--message", "戴泽", "--dry-run"], 7, "message-too-large")
            .env(&[("MESH_MSG_SOFT_LIMIT", "1"), ("MESH_MSG_HARD_LIMIT", "5")]),
        Row::new("no address", HI, 4, "no-address")
            .host(|host| host.registry(&json!([{"name": "Bob", "emailPrefix": "bob", "ip": ""}])))
            .says(&["Bob"]),
        Row::new("no address, ping", &["ping", "--to", "bob"], 4, "no-address")
            .host(|host| host.registry(&json!([{"name": "Bob", "emailPrefix": "bob"}]))),
        Row::new("an address nobody can dial", HI, 2, "registry-invalid")
            .host(|host| host.registry(&json!([{"name": "Bob", "emailPrefix": "bob", "url": "https://x"}])))
            .says(&["url"]),
        Row::new("plain text to a public host", HI, 7, "plain-text-refused")
            .host(|host| host.registry(&json!([{"name": "Bob", "emailPrefix": "bob", "url": "ws://203.0.113.1"}])))
            .says(&["wss://", "--insecure"]),
        Row::new("plain text to a name", HI, 7, "plain-text-refused")
            .host(|host| host.registry(&json!([{"name": "Bob", "emailPrefix": "bob", "url": "ws://gw.example.com"}]))),
        Row::new("no credential", HI, 5, "no-credential")
            .host(|host| fs::remove_file(host.config("tokens.json")).unwrap())
            .gateway(strict)
            .connects(0)
            .says(&["Bob", "agent-mesh token set bob"]),
        Row::new("token check, none", &["token", "check", "alice"], 5, "no-credential").says(&["alice"]),
        Row::new("token rm, none", &["token", "rm", "alice"], 5, "no-credential").says(&["alice"]),
        Row::new("token set, blank", &["token", "set", "bob"], 2, "token-invalid").stdin(b" \n"),
        Row::new("token set, two lines", &["token", "set", "bob"], 2, "token-invalid").stdin(b"sEcReT-1\nsEcReT-2"),
        Row::new("token set, nobody", &["token", "set", "zebedee"], 4, "unknown-teammate").stdin(b"sEcReT-1"),
    ]
}

/// What the network, and what is at the other end of it, can do to a connection.
fn connections() -> Vec<Row> {
    vec![
        Row::new("unreachable", HI, 6, "unreachable").says(&["Bob", "agent-mesh doctor --to bob"]),
        Row::new("unreachable, ping", &["ping", "--to", "bob"], 6, "unreachable")
            .says(&["Connection refused"]),
        Row::new("unreachable, pair", &["pair", "--to", "bob"], 6, "unreachable"),
        Row::new("another protocol", HI, 6, "protocol-mismatch")
            .gateway(|| strict().protocol(9))
            .says(&["3 and 4"]),
        Row::new("closes before the upgrade", HI, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterTcp, How::Drop))),
        Row::new("resets before the upgrade", HI, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterTcp, How::Reset))),
        Row::new("closes before the challenge", HI, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterUpgrade, How::Close(1011)))),
        Row::new("closes after the challenge", HI, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterChallenge, How::Drop))),
        Row::new("closes instead of hello", HI, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterConnectReceived, How::Reset))),
        Row::new("answers garbage", HI, 6, "not-a-gateway")
            .gateway(|| Script::new().opening(Opening::Garbage(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec())))
            .says(&["registry"]),
        Row::new("a challenge that is no JSON", HI, 6, "not-a-gateway")
            .gateway(|| strict().challenge(Challenge::Text("hello there".into()))),
        Row::new("a challenge of bytes", HI, 6, "not-a-gateway")
            .gateway(|| strict().challenge(Challenge::Binary(vec![0, 159, 146, 150]))),
        Row::new("plain HTTP", HI, 6, "unreachable")
            .gateway(|| Script::new().opening(Opening::Http(200, "text/html".into(), "<h1>hi</h1>".into())))
            .says(&["HTTP 200"]),
        Row::new("plain HTTP, not found", HI, 6, "unreachable")
            .gateway(|| Script::new().opening(Opening::Http(404, "text/plain".into(), "no".into())))
            .says(&["HTTP 404"]),
        Row::new("never answers", SOON, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterTcp, How::Freeze)))
            .says(&["in time"]),
        Row::new("never challenges", SOON, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterUpgrade, How::Silence))),
        Row::new("never says hello", SOON, 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterConnectReceived, How::Silence))),
        Row::new("never answers, ping", &["ping", "--to", "bob", "--timeout", "4s"], 6, "unreachable")
            .gateway(|| strict().fault(Fault::new(Cut::AfterTcp, How::Freeze))),
        Row::new("draining", SOON, 75, "busy")
            .gateway(|| Script::new().opening(Opening::Http(503, "text/plain".into(), "draining".into()))),
        Row::new("starting up", SOON, 75, "busy")
            .gateway(|| strict().refuse(Refusal::starting_up()))
            .says(&["again"]),
        Row::new("our own gateway is off", &["pair", "list"], 6, "own-gateway-unreachable")
            .host(|host| {
                put(host, ".openclaw/openclaw.json", "{gateway: {auth: {token: 'sEcReT-own'}}}");
            })
            // A port below 1024, where no test can listen.
            .env(&[("MESH_GATEWAY_URL", "ws://127.0.0.1:9")])
            .says(&["--gateway", "agent-mesh serve", "openclaw gateway status"]),
        Row::new("our own token is nowhere", &["pair", "list"], 5, "own-token-missing").says(&[
            "OPENCLAW_GATEWAY_TOKEN",
            "openclaw.json",
            "agent-mesh serve",
        ]),
    ]
}

/// What a gateway refuses.
fn refusals() -> Vec<Row> {
    vec![
        Row::new("wrong token", HI, 5, "token-mismatch")
            .gateway(|| Script::new().shared_token("another"))
            .connects(1)
            .says(&["agent-mesh token set bob", "Do not retry"]),
        Row::new("pairing required", HI, 5, "pairing-required")
            .gateway(|| strict().pairing_required())
            .connects(1)
            .says(&["agent-mesh pair approve", "openclaw devices approve", "Bob's host"]),
        Row::new("scopes missing", HI, 5, "missing-scope")
            .gateway(|| strict().hello_extra(json!({"auth": {"scopes": []}})))
            .says(&["operator.write", "agent-mesh pair --to bob"]),
        Row::new("device token revoked", HI, 5, "device-token-invalid")
            .gateway(|| strict().refuse(Refusal::device_token_mismatch()))
            .connects(1)
            .says(&["another gateway may have this address", "rotated, revoked or removed", "agent-mesh join -"]),
        Row::new("approved for less", HI, 5, "scope-mismatch").gateway(|| strict().refuse(Refusal::scope_mismatch())),
        Row::new("bad signature", HI, 5, "device-refused").gateway(|| strict().refuse(Refusal::signature_invalid())),
        Row::new("locked out", HI, 5, "locked-out")
            .gateway(|| strict().refuse(Refusal::rate_limited()))
            .connects(1)
            .says(&["wait 300 s"]),
        Row::new("pair with a wrong token", &["pair", "--to", "bob"], 5, "token-mismatch")
            .gateway(|| Script::new().shared_token("another"))
            .connects(1),
        Row::new("restarting for longer than we have", SOON, 75, "busy").gateway(|| {
            let message = "agent unavailable during gateway restart";
            let error = json!({"code": "UNAVAILABLE", "message": message, "retryable": true, "retryAfterMs": 500,
                "details": {"code": "GATEWAY_RESTARTING", "reason": "restarting", "method": "agent"}});
            strict().reply(move |_| Reply::refused(error.clone()))
        }),
    ]
}

/// What can become of a message.
fn runs() -> Vec<Row> {
    const CHAT: &[&str] = &["send", "--to", "bob", "--message", "hi", "--via", "chat"];
    vec![
        Row::new("run failed", HI, 1, "run-failed")
            .gateway(|| strict().reply(|_| Reply::provider_error("the model is on fire")))
            .says(&["Bob's agent failed", "the model is on fire"]),
        Row::new("run aborted", HI, 1, "run-failed")
            .gateway(|| strict().reply(|_| Reply::aborted()))
            .says(&["aborted"]),
        Row::new("run out of time", HI, 1, "run-failed").gateway(|| strict().reply(|_| Reply::timeout())),
        Row::new("no reply", HI, 1, "no-reply")
            .gateway(|| strict().reply(|_| Reply::texts(Vec::<String>::new())))
            .says(&["gave no reply"]),
        Row::new("no reply, chat", CHAT, 1, "no-reply")
            // Ended, with no text of its own: merged into somebody else's turn.
            .gateway(|| strict().reply(|_| Reply::raw(json!({}))))
            .says(&["merged", "--via agent"]),
        Row::new("says nothing", HI, 1, "no-reply").gateway(|| strict().reply(|_| Reply::empty())),
        Row::new("run failed, chat", CHAT, 1, "run-failed")
            .gateway(|| strict().reply(|_| Reply::provider_error("the model is on fire")))
            .says(&["on fire"]),
        Row::new("chat with an old gateway", CHAT, 1, "gateway-too-old")
            .gateway(|| strict().protocol(3))
            .says(&["protocol 3", "--via agent"]),
        Row::new("no reply in time", SOON, 3, "no-reply-in-time")
            .gateway(|| strict().reply(|_| Reply::never()))
            .connects(1)
            .says(&["accepted", "do not send it again"]),
        Row::new(
            "no reply in time, chat",
            &["send", "--to", "bob", "--message", "hi", "--via", "chat", "--timeout", "4s"],
            3,
            "no-reply-in-time",
        )
        .gateway(|| strict().reply(|_| Reply::never())),
        Row::new("delivery unknown", SOON, 3, "delivery-unknown")
            .gateway(|| strict().fault(Fault::new(Cut::AfterRequestReceived, How::Freeze).of("agent")))
            .says(&["twice"]),
        Row::new("broadcast to nobody reachable", &["broadcast", "--message", "hi"], 6, "reached-nobody"),
        Row::new("broadcast, reply failed", &["broadcast", "--message", "hi"], 8, "reached-some")
            .gateway(|| strict().reply(|_| Reply::provider_error("no"))),
    ]
}

/// Plays every row twice, several at once: most of them wait for something that never comes.
async fn walk(rows: Vec<Row>) {
    let count = rows.len();
    let at_once = Arc::new(Semaphore::new(6));
    let mut playing = JoinSet::new();
    for row in rows.into_iter().map(Arc::new) {
        for json in [false, true] {
            let (row, at_once) = (Arc::clone(&row), Arc::clone(&at_once));
            playing.spawn(async move {
                let _turn = at_once.acquire().await.unwrap();
                let name = format!("{}{}", row.name, if json { " (--json)" } else { "" });
                let wrong = check(&row, json).await.into_iter();
                wrong.map(|why| format!("{name}: {why}")).collect::<Vec<_>>()
            });
        }
    }
    let wrong = playing.join_all().await.concat();
    assert!(wrong.is_empty(), "{count} rows twice, not as promised:\n{}", wrong.join("\n"));
}

/// Plays a row once, and says what is not as promised.
async fn check(row: &Row, json: bool) -> Vec<String> {
    let dead = DeadPort::new();
    let gateway = match row.gateway {
        Some(script) => Some(FakeGateway::start(script()).await),
        None => None,
    };
    let host = Host::with_bob(&gateway.as_ref().map_or_else(|| dead.url(), FakeGateway::url));
    (row.arrange)(&host);
    let mut args = row.args.to_vec();
    if json {
        args.insert(0, "--json");
    }
    let mut call = host.call(&args);
    for (name, value) in row.env {
        call = call.env(name, value);
    }
    if let Some(stdin) = row.stdin {
        call = call.stdin(stdin);
    }
    let begun = Instant::now();
    let out = call.run().await;
    let took = begun.elapsed();
    let told = if json { told_in_json(row, &out) } else { told_in_text(&out) };
    let mut wrong = Vec::new();
    match told {
        Err(why) => wrong.push(format!("{why}: {out:?}")),
        Ok(told) => {
            let missing = row.says.iter().filter(|words| !told.contains(**words));
            wrong.extend(missing.map(|words| format!("does not say {words:?}: {told}")));
            let again = row.once.iter().filter(|words| told.matches(**words).count() > 1);
            wrong.extend(again.map(|words| format!("says {words:?} twice: {told}")));
        }
    }
    if out.code != row.exit {
        wrong.push(format!("exit {}, not {}: {out:?}", out.code, row.exit));
    }
    // Far above what any row needs, far below the 60 s of a send: a failure that is certain is told at once.
    if took > Duration::from_secs(25) {
        wrong.push(format!("took {took:?}"));
    }
    if let (Some(gateway), Some(connects)) = (&gateway, row.connects)
        && gateway.connects() != connects
    {
        wrong.push(format!("{} connects, not {connects}", gateway.connects()));
    }
    wrong
}

fn told_in_json(row: &Row, out: &Out) -> Result<String, String> {
    let document = out.checked_json()?;
    let (command, error) = (&document["command"], &document["error"]);
    let typed = row.args.first().copied().unwrap_or_default();
    if command != typed && !(typed == "sned" && command == "agent-mesh") {
        return Err(format!("command is {command}"));
    }
    if error["hint"].is_null() {
        return Err("there is no hint, so nobody knows what to do next".into());
    }
    if error["code"] != row.code {
        return Err(format!("code is {}, not {}", error["code"], row.code));
    }
    Ok(format!("{}\n{}", text(&error["message"]), text(&error["hint"])))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn told_in_text(out: &Out) -> Result<String, String> {
    if !out.stderr.contains("error: ") {
        return Err("stderr has no `error: `".into());
    }
    Ok(out.stderr.clone())
}

#[tokio::test]
async fn what_cannot_be_understood_is_a_usage_error() {
    walk(usage()).await;
}

#[tokio::test]
async fn a_file_or_variable_that_is_wrong_is_named() {
    walk(files::rows()).await;
}

#[tokio::test]
async fn a_message_or_recipient_that_cannot_be_is_refused() {
    walk(messages()).await;
}

#[tokio::test]
async fn whatever_is_at_the_other_end_no_panic_and_no_hang() {
    walk(connections()).await;
}

#[tokio::test]
async fn a_refusal_is_explained_and_never_repeated() {
    walk(refusals()).await;
}

#[tokio::test]
async fn a_run_that_gives_no_reply_says_why() {
    walk(runs()).await;
}

#[tokio::test]
async fn a_reply_that_is_late_leaves_its_id() {
    let gateway = FakeGateway::start(strict().reply(|_| Reply::never())).await;
    let host = Host::with_bob(&gateway.url());
    let id = "0197d3f0-8c5e-7cc1-b1a4-0c8f5d4e2a11";
    let args = [SOON, &["--id", id]].concat();
    let out = host.run(&args).await.exits(3);
    assert!(out.stderr.contains(id), "{}", out.stderr);
    let document = host.run(&[SOON, &["--json"]].concat()).await.exits(3).json();
    assert_eq!(document["state"], "accepted");
    assert!(document["receipt"]["acceptedAt"].is_string() && document["receipt"]["finishedAt"].is_null());
    // Said again under the same id, it is not sent again.
    let document = host.run(&[&args[..], &["--json"]].concat()).await.exits(2).json();
    assert_eq!(document["error"]["code"], "id-in-use");
    assert_eq!(gateway.ledger().runs_of_key(id), 1);
}

#[tokio::test]
async fn a_pairing_request_names_its_id_in_both_commands() {
    let gateway = FakeGateway::start(strict().pairing_required()).await;
    let host = Host::with_bob(&gateway.url());
    let out = host.run(HI).await.exits(5);
    let (request, _) = gateway.pending_pairings().remove(0);
    for command in ["agent-mesh pair approve", "openclaw devices approve"] {
        assert!(out.stderr.contains(&format!("{command} {request}")), "{}", out.stderr);
    }
}

#[tokio::test]
async fn the_connect_timeout_leaves_time_for_the_fallback() {
    let gateway = FakeGateway::start(strict().fault(Fault::new(Cut::AfterTcp, How::Freeze))).await;
    let host = Host::with_bob(&gateway.url());
    let begun = Instant::now();
    host.call(HI).env("MESH_CONNECT_TIMEOUT", "300ms").run().await.exits(6);
    assert!(begun.elapsed() < Duration::from_secs(20), "the 60 s of the send were used up");
}

#[test]
fn tokens_of_tests_carry_the_mark_that_is_searched_for() {
    assert!(token("bob").starts_with(SECRET));
}
