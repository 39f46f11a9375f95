//! Against a scripted API server over real HTTP: what it says, and what it is asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::sync::{Signal, SourceUri};

/// What the server says to a request, in turn.
enum Say {
    /// A document.
    Json(u16, Value),
    /// The events of a watch; then it hangs up, or stays silent.
    Events(Vec<Value>, Then),
}

enum Then {
    HangUp,
    Stay,
}

/// An API server with a script: whatever comes next is answered with what stands next in it.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(script: Vec<Say>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { url, asked }
    }

    fn client(&self) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = Config::new(self.url.parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// The requests' targets, percent-decoded as far as a reader needs.
    fn asked(&self) -> Vec<String> {
        let all = self.asked.lock().unwrap();
        all.iter().map(|target| target.replace("%3D", "=").replace("%2C", ",")).collect()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<VecDeque<Say>>>, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    seen.lock().unwrap().push(head.split(' ').nth(1).unwrap().to_owned());
    let next = script.lock().unwrap().pop_front();
    match next {
        None => std::future::pending().await,
        Some(Say::Json(code, value)) => {
            let body = value.to_string();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        Some(Say::Events(events, then)) => {
            let start =
                "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(start.as_bytes()).await.unwrap();
            for event in events {
                let line = format!("{event}\n");
                stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
            }
            match then {
                Then::HangUp => stream.write_all(b"0\r\n\r\n").await.unwrap(),
                Then::Stay => std::future::pending().await,
            }
        }
    }
}

fn uri(text: &str) -> K8sUri {
    match text.parse() {
        Ok(SourceUri::K8s(uri)) => uri,
        other => panic!("{other:?}"),
    }
}

fn page(kind: &str, items: &[Value], more: &str) -> Say {
    let api = if kind == "PodList" { "v1" } else { "discovery.k8s.io/v1" };
    Say::Json(
        200,
        json!({ "kind": kind, "apiVersion": api, "metadata": { "resourceVersion": "100", "continue": more }, "items": items }),
    )
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message, "metadata": {} })
}

fn pod(name: &str, email: &str, ip: Option<&str>, ready: bool) -> Value {
    json!({
        "metadata": { "name": name, "annotations": { "agent-mesh/email": email }, "creationTimestamp": "2026-11-23T00:00:00Z" },
        "spec": { "containers": [{ "name": "c", "ports": [{ "name": "gateway", "containerPort": 18789 }] }] },
        "status": { "phase": "Running", "podIP": ip, "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
    })
}

async fn listed(text: &str, script: Vec<Say>) -> Result<Vec<Agent>, String> {
    let server = Server::start(script).await;
    list(server.client(), &uri(text)).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn pods_say_whose_they_are() {
    let mut bob = pod("agent-bob-0", "bob@example.com", Some("10.0.0.2"), true);
    bob["metadata"]["annotations"]["agent-mesh/name"] = "Bob B.".into();
    bob["metadata"]["annotations"]["agent-mesh/tls-fingerprint"] = "0f".repeat(32).into();
    bob["spec"]["containers"][0]["ports"][0]["containerPort"] = 1234.into();
    let mut zoe = pod("agent-zoe-0", "", Some("fd00::3"), true);
    zoe["metadata"]["labels"] = json!({ "agent-mesh/email-prefix": "zoe" });
    let stranger = json!({ "metadata": { "name": "db-0" } });
    let server =
        Server::start(vec![page("PodList", &[bob], "more"), page("PodList", &[zoe, stranger], "")]).await;
    let agents = list(server.client(), &uri("k8s:team?selector=app=agent,tier=x")).await.unwrap();
    let expected = [
        Agent {
            name: "Bob B.".into(),
            ip: Some("10.0.0.2:1234".into()),
            tls_fingerprint: Some("0f".repeat(32)),
            ..Agent::new("bob", "bob")
        },
        Agent { ip: Some("fd00::3".into()), ..Agent::new("zoe", "zoe") },
    ];
    assert_eq!(agents, expected);
    let asked = server.asked();
    assert!(
        asked[0].starts_with("/api/v1/namespaces/team/pods?")
            && asked[0].contains("labelSelector=app=agent,tier=x")
    );
    assert!(asked[1].contains("continue=more"), "{asked:?}");
}

#[tokio::test]
async fn a_pod_that_rolls_is_one_teammate_and_only_who_is_ready_has_an_address() {
    let mut ending = pod("bob-1", "bob@x", Some("10.0.0.1"), true);
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:01Z".into();
    let starting = pod("bob-2", "bob@x", None, false);
    let ready = pod("bob-2", "bob@x", Some("10.0.0.2"), true);
    let mut done = pod("bob-0", "bob@x", Some("10.0.0.9"), false);
    done["status"]["phase"] = "Succeeded".into();
    for (story, pods, expected) in [
        ("the old one ends, the new one has no place yet", vec![ending.clone(), starting.clone()], None),
        ("the new one is there", vec![ending.clone(), ready.clone()], Some("10.0.0.2")),
        ("in any order", vec![ready.clone(), ending.clone(), done.clone()], Some("10.0.0.2")),
        ("only the one that ends: its address is another's soon", vec![ending.clone()], None),
        ("there, and not ready", vec![pod("bob-2", "bob@x", Some("10.0.0.2"), false)], None),
    ] {
        let agents = listed("k8s:team", vec![page("PodList", &pods, "")]).await.unwrap();
        assert_eq!(
            agents,
            [Agent { ip: expected.map(str::to_owned), ..Agent::new("bob", "bob") }],
            "{story}"
        );
    }
    assert_eq!(listed("k8s:team", vec![page("PodList", &[done], "")]).await, Ok(vec![]));
    let two = [ready, pod("bob-3", "BOB@x", Some("10.0.0.3"), true)];
    let error = listed("k8s:team", vec![page("PodList", &two, "")]).await.unwrap_err();
    assert_eq!(error, "bob-2 and bob-3 are both ready as bob");
}

#[tokio::test]
async fn endpoints_are_told_apart_by_their_hosts() {
    let slice = |family: &str, endpoints: Value| {
        json!({ "addressType": family, "metadata": { "name": family }, "endpoints": endpoints,
            "ports": [{ "name": "metrics", "port": 9 }, { "name": "gateway", "port": 1234 }] })
    };
    let slices = [
        slice("IPv6", json!([{ "addresses": ["fd00::2"], "hostname": "agent-bob-0" }])),
        slice(
            "IPv4",
            json!([
                { "addresses": ["10.0.0.2"], "hostname": "agent-bob-0", "conditions": { "ready": true } },
                { "addresses": ["10.0.0.3"], "targetRef": { "name": "agent-zoe-0" }, "conditions": { "ready": false } },
                { "addresses": ["10.0.0.9"], "hostname": "db-0" },
            ]),
        ),
    ];
    let text = "k8s:team?kind=endpointslices&prefix=agent-&selector=kubernetes.io/service-name=agents";
    let agents = listed(text, vec![page("EndpointSliceList", &slices, "")]).await.unwrap();
    let bob = Agent { ip: Some("10.0.0.2:1234".into()), ..Agent::new("bob", "bob") };
    assert_eq!(agents, [bob, Agent::new("zoe", "zoe")]);
}

#[tokio::test]
async fn a_cluster_that_says_no_is_a_broken_source_that_names_the_missing_right() {
    let message = "pods is forbidden: User \"system:serviceaccount:team:mesh\" cannot list resource \"pods\"";
    let error =
        listed("k8s:team", vec![Say::Json(403, status(403, "Forbidden", message))]).await.unwrap_err();
    assert_eq!(error, format!("the cluster does not let us list pods in namespace team: {message}"));
    let error = listed("k8s:team", vec![Say::Json(401, status(401, "Unauthorized", "Unauthorized"))]).await;
    assert_eq!(error.unwrap_err(), "the cluster answered 401 to list pods: Unauthorized");
    for broken in [Say::Json(500, json!("oops")), Say::Json(200, json!({ "items": [{ "metadata": 5 }] }))] {
        listed("k8s:team", vec![broken]).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_list_that_ran_out_of_time_is_begun_anew() {
    let bob = pod("bob-0", "bob@x", Some("10.0.0.2"), true);
    let gone = || Say::Json(410, status(410, "Expired", "the continue token is too old"));
    let script =
        vec![page("PodList", std::slice::from_ref(&bob), "more"), gone(), page("PodList", &[bob], "")];
    assert_eq!(listed("k8s:team", script).await.unwrap().len(), 1, "nobody is listed twice");
    let script = (0..4).map(|_| gone()).collect();
    assert!(listed("k8s:team", script).await.unwrap_err().contains("410"));
}

/// What a Role has to allow is `list` and `watch`: a request that names one object would need `get`.
#[tokio::test]
async fn a_source_asks_for_collections_only() {
    let bob = pod("bob-0", "bob@x", Some("10.0.0.2"), true);
    let server = Server::start(vec![page("PodList", &[bob], "")]).await;
    list(server.client(), &uri("k8s:team?selector=app=agent")).await.unwrap();
    let script = vec![
        version("100"),
        Say::Events(vec![event("ADDED", "101")], Then::HangUp),
        Say::Events(vec![], Then::Stay),
    ];
    let (_, asked) = watched(script, 1, 3).await;
    for target in server.asked().iter().chain(&asked) {
        assert!(target.starts_with("/api/v1/namespaces/team/pods?"), "{target}");
    }
    let watching = asked.iter().filter(|target| target.contains("watch=true")).count();
    assert_eq!((asked.len(), watching), (3, 2), "{asked:?}");
}

fn event(kind: &str, version: &str) -> Value {
    json!({ "type": kind, "object": { "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": { "name": "bob-0", "resourceVersion": version } } })
}

fn version(version: &str) -> Say {
    Say::Json(
        200,
        json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": { "resourceVersion": version }, "items": [] }),
    )
}

/// Watches against a script, and gives what was told until `enough` signals came, and what was asked.
async fn watched(script: Vec<Say>, enough: usize, requests: usize) -> (Vec<Signal>, Vec<String>) {
    let server = Server::start(script).await;
    let (sender, mut signals) = mpsc::channel(16);
    let watch = watch::Watch::begin_with(uri("k8s:team?selector=app=agent"), server.client(), sender).await;
    let task = tokio::spawn(watch.run());
    let told = async {
        let mut told = Vec::new();
        while told.len() < enough {
            told.push(signals.recv().await.unwrap());
        }
        while server.asked().len() < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        told
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await;
    let told = told.unwrap_or_else(|_| panic!("hangs after {:?}", server.asked()));
    task.abort();
    (told, server.asked())
}

#[tokio::test]
async fn a_watch_tells_of_changes_and_goes_on_where_it_broke_off() {
    let script = vec![
        version("100"),
        Say::Events(
            vec![event("ADDED", "101"), event("MODIFIED", "102"), event("BOOKMARK", "150")],
            Then::HangUp,
        ),
        Say::Events(vec![event("DELETED", "151")], Then::Stay),
    ];
    let (told, asked) = watched(script, 3, 3).await;
    assert_eq!(told, [Signal::Changed, Signal::Changed, Signal::Changed]);
    assert!(asked[0].contains("limit=1") && asked[0].contains("labelSelector=app=agent"), "{asked:?}");
    for (request, from) in asked[1..].iter().zip(["100", "150"]) {
        assert!(
            request.contains("watch=true") && request.contains(&format!("resourceVersion={from}")),
            "{asked:?}"
        );
    }
}

#[tokio::test]
async fn after_410_gone_everything_may_have_changed() {
    // The server forgets versions after some minutes. Watching on from an old one, a client would spin for ever.
    let in_stream = json!({ "type": "ERROR", "object": status(410, "Expired", "too old resource version") });
    let script = vec![
        version("100"),
        Say::Events(vec![in_stream], Then::HangUp),
        version("500"),
        Say::Json(410, status(410, "Gone", "too old resource version")),
        version("600"),
        Say::Events(vec![], Then::Stay),
    ];
    let (told, asked) = watched(script, 2, 6).await;
    assert_eq!(told, [Signal::Changed, Signal::Changed], "once for each gap");
    assert!(
        asked[3].contains("resourceVersion=500") && asked[5].contains("resourceVersion=600"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_watch_that_is_denied_is_told_once_and_tried_again() {
    let denied = || Say::Json(403, status(403, "Forbidden", "no watch"));
    let script =
        vec![version("100"), denied(), denied(), Say::Events(vec![event("ADDED", "101")], Then::Stay)];
    let (told, asked) = watched(script, 2, 4).await;
    let trouble = "the cluster does not let us watch pods in namespace team: no watch";
    assert_eq!(told, [Signal::Trouble(trouble.into()), Signal::Changed]);
    assert!(asked[3].contains("resourceVersion=100"), "nothing between is lost: {asked:?}");
}
