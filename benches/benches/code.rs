//! What the hot paths cost by themselves, each beside the least that could do the same: `cargo bench -p agent-mesh-benches`.
//! In each group `own` is ours and `bare` the other one; `./bench code` reads what criterion wrote down of them.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; and a bench that cannot start says so at once.

use std::fs;
use std::hint::black_box;

use agent_mesh_benches::bare::{Caller, connect_params};
use agent_mesh_benches::journal::{Entry, Journal};
use agent_team_mesh::archive::{Archive, Direction, NewMessage, Step};
use agent_team_mesh::client::protocol::connect::{Auth, Challenge, ClientInfo};
use agent_team_mesh::client::protocol::event::AgentEvent;
use agent_team_mesh::client::protocol::frame::Frame;
use agent_team_mesh::client::protocol::handshake::{AwaitHello, Offer, answer};
use agent_team_mesh::device::DeviceKey;
use agent_team_mesh::record::{State, To};
use agent_team_mesh::registry::{Registry, Via};
use criterion::{Criterion, criterion_group, criterion_main};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use serde_json::{Value, json};
use uuid::Uuid;

const HELLO: &str = include_str!("../../crates/protocol/tests/golden/server/hello-ok.json");
const EVENT: &str = include_str!("../../crates/protocol/tests/golden/server/event-agent-assistant.json");

/// The frame that answers a challenge, signed.
fn connect(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.pem");
    let device = DeviceKey::load_or_create(&path).unwrap();
    let offer = Offer {
        client: ClientInfo {
            id: "gateway-client".to_owned(),
            mode: "backend".to_owned(),
            version: "0.1.0".to_owned(),
            platform: "agent-mesh".to_owned(),
            display_name: Some("agent-mesh:alice (01234567)".to_owned()),
            device_family: None,
        },
        scopes: ["operator.read", "operator.write"].map(str::to_owned).to_vec(),
        caps: vec!["session-scoped-events".to_owned()],
        auth: Some(Auth { token: Some("a-token-for-the-bench".to_owned()), ..Auth::default() }),
        user_agent: Some("agent-mesh/0.1.0".to_owned()),
    };
    let asked = json!({ "nonce": Uuid::new_v4(), "ts": 1_764_000_000_000_i64 });
    let challenge: Challenge = serde_json::from_value(asked.clone()).unwrap();
    let caller = Caller {
        key: SigningKey::from_pkcs8_pem(&fs::read_to_string(&path).unwrap()).unwrap(),
        by_device: false,
        secret: "a-token-for-the-bench".to_owned(),
        name: "alice".to_owned(),
    };
    let mut group = c.benchmark_group("connect frame, signed");
    group.bench_function("own", |b| b.iter(|| answer(&challenge, offer.clone(), Some(&device)).unwrap()));
    group.bench_function("bare", |b| b.iter(|| connect_params(&caller, black_box(&asked)).to_string()));
}

/// What a gateway says first, 16 KB, of which a caller needs little; and what it says most often.
fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("hello of 16 KB");
    group.bench_function("own", |b| b.iter(|| AwaitHello.read(black_box(HELLO)).unwrap()));
    group.bench_function("bare", |b| b.iter(|| serde_json::from_str::<Value>(black_box(HELLO)).unwrap()));
    group.finish();

    let mut group = c.benchmark_group("event of an agent");
    group.bench_function("own", |b| {
        b.iter(|| match Frame::decode(black_box(EVENT)).unwrap() {
            Frame::Event(event) => {
                serde_json::from_str::<AgentEvent>(event.payload.map_or("null", |raw| raw.get())).unwrap()
            }
            _ => unreachable!("an event"),
        });
    });
    group.bench_function("bare", |b| b.iter(|| serde_json::from_str::<Value>(black_box(EVENT)).unwrap()));
}

/// A message before it leaves, and its reply: on the disk, both.
fn archive(c: &mut Criterion) {
    const SESSION: &str = "agent:main:mesh:alice";
    const TEXT: &str = "please check why the build of main failed after the merge";
    const REPLY: &str = "the schema migration ran before the backup was done; it is green now";
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let archive = Archive::open(&folder.path().join("own.db")).unwrap();
    drop(Archive::open(&folder.path().join("bare.db")).unwrap());
    let bare = Journal::open(&folder.path().join("bare.db")).unwrap();
    let mut group = c.benchmark_group("archive: begin, leave, finish");
    group.bench_function("own", |b| {
        b.iter(|| {
            let id = Uuid::now_v7().to_string();
            let message = NewMessage {
                run_id: id.clone(),
                id: id.clone(),
                direction: Direction::Out,
                peer: To { name: "Bob".to_owned(), email_prefix: "bob".to_owned() },
                via: Via::Agent,
                session: SESSION.to_owned(),
                thread: None,
                text: TEXT.to_owned(),
                header: String::new(),
                claimed_from: None,
                state: State::Sending,
                expires_at: None,
            };
            let leaves = Step::Sending { run_id: id.clone(), boot_id: None };
            let end = Step::finished(State::Replied, Some(REPLY.to_owned()), None);
            runtime.block_on(async {
                archive.begin(message).await.unwrap();
                archive.note(None, &id, leaves).await.unwrap();
                archive.note(None, &id, end).await.unwrap();
            });
        });
    });
    group.bench_function("bare", |b| {
        b.iter(|| {
            let id = Uuid::now_v7().to_string();
            let entry = Entry { id: &id, peer: "bob", session: SESSION, text: TEXT, header: "" };
            let seq = bare.begin(entry).unwrap();
            bare.finish(seq, TEXT, REPLY).unwrap();
        });
    });
}

/// A team of ten thousand, read, and one of them found.
fn registry(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.json");
    let agents: Vec<Value> = (0..10_000)
        .map(|n| {
            json!({ "name": format!("Teammate {n}"), "emailPrefix": format!("user.{n}"),
                "ip": format!("10.0.{}.{}", n / 250, n % 250), "note": "a word or two" })
        })
        .collect();
    fs::write(&path, json!({ "agents": agents }).to_string()).unwrap();
    let mut group = c.benchmark_group("registry of 10,000: read, and find one");
    group.sample_size(20);
    group.bench_function("own", |b| {
        b.iter(|| Registry::load(&path).unwrap().find(black_box("user.9999")).unwrap().name.clone());
    });
    group.bench_function("bare", |b| {
        b.iter(|| {
            let registry: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let agents = registry["agents"].as_array().unwrap();
            agents.iter().find(|agent| agent["emailPrefix"] == black_box("user.9999")).unwrap()["name"]
                .clone()
        });
    });
}

criterion_group!(code, connect, frames, archive, registry);
criterion_main!(code);
