//! `sync`: the registry follows the team's list, and no broken list spoils it.

use std::fs;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::support::{Host, SECRET};

const CSV: &str = "Name,Email,IP\nCarol,carol@example.com,10.0.0.3\n";

/// Alice with a hand-made Bob, and a list that has another Bob and Carol.
fn host() -> Host {
    let host = Host::with_bob("ws://10.0.0.2:18789");
    host.write("team.csv", format!("{CSV}Robert,bob@example.com,10.9.9.9\n"));
    host
}

fn registry(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.config("registry.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn sync_shows_the_difference_and_writes_it() {
    let host = host();
    let before = registry(&host);
    let out = host.run(&["sync", "--from", "file:team.csv", "--dry-run"]).await.ok();
    insta::assert_snapshot!(out.transcript());
    assert_eq!(registry(&host), before);
    let document = host.run(&["sync", "--from", "file:team.csv", "--json"]).await.ok().json();
    assert_eq!((&document["source"], &document["written"]), (&json!("file:team.csv"), &json!(true)));
    let carol = json!({ "name": "Carol", "emailPrefix": "carol", "source": "file:team.csv" });
    assert_eq!(
        (&document["added"], &document["removed"], &document["changed"]),
        (&json!([carol]), &json!([]), &json!([]))
    );
    assert_eq!(document["kept"][0]["fields"]["name"], json!({ "old": "Bob", "new": "Robert" }));
    assert_eq!(registry(&host)["agents"][2]["ip"], "10.0.0.3");

    // Carol moves, then leaves; Bob is ours throughout, until we say otherwise.
    host.write("team.csv", CSV.replace("10.0.0.3", "10.0.0.4"));
    insta::assert_snapshot!(host.run(&["sync", "--from", "file:team.csv"]).await.ok().transcript());
    host.write("team.csv", "Name,Email,IP\nRobert,bob@example.com,10.9.9.9\n");
    let out = host.run(&["sync", "--from", "file:team.csv", "--prefer-source"]).await.ok();
    insta::assert_snapshot!(out.transcript());
    let document =
        host.run(&["sync", "--from", "file:team.csv", "--prefer-source", "--json"]).await.ok().json();
    assert_eq!(document["written"], false);
    assert_eq!(registry(&host)["agents"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_broken_source_is_7_and_changes_nothing() {
    let host = host();
    let before = fs::read(host.config("registry.json")).unwrap();
    for (content, code) in [
        ("", "sync-source-empty"),
        ("[]", "sync-source-empty"),
        ("{\"agents\": [{\"name\": \"Ca", "sync-source-broken"),
        ("<html>sign in</html>", "sync-source-broken"),
        ("name,email\nA,a@x\nB,A@x\n", "sync-source-broken"),
    ] {
        host.write("team.csv", content);
        let document = host.run(&["sync", "--from", "file:team.csv", "--json"]).await.exits(7).json();
        assert_eq!(document["error"]["code"], code, "{content}");
        assert_eq!((&document["written"], &document["added"]), (&json!(false), &json!([])));
    }
    for uri in ["exec:false", "file:missing.csv", "http://127.0.0.1:1/x"] {
        host.run(&["sync", "--from", uri]).await.exits(7);
    }
    assert_eq!(fs::read(host.config("registry.json")).unwrap(), before);
    // Told to believe it, we do: hand-made entries stay all the same.
    host.write("team.csv", "[]");
    host.run(&["sync", "--from", "file:team.csv", "--allow-empty"]).await.ok();
    assert_eq!(fs::read(host.config("registry.json")).unwrap(), before);
    insta::assert_snapshot!(host.run(&["sync", "--from", "file:team.csv"]).await.transcript());
}

#[tokio::test]
async fn a_source_that_cannot_be_is_a_usage_error_that_says_where_it_stands() {
    let host = host();
    for (from, message) in [
        ("team.csv", "--from: it begins with none of"),
        ("http://example.com/x", "--from: http:// is only for this machine"),
        ("https://me:pw@example.com/x", "--from: it has a user or password in it"),
        ("git+https://h/r?ref=--upload-pack=x", "--from: its ref is not valid"),
    ] {
        let document = host.run(&["sync", "--from", from, "--json"]).await.exits(2).json();
        let said = document["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message) && !said.contains("pw"), "{said}");
    }
    let document = host.run(&["sync", "--json"]).await.exits(2).json();
    assert_eq!(document["error"]["code"], "sync-no-source");
    host.write(host.config("config.toml"), "[[sync]]\nfrom = 'ftp://x'\n");
    let out = host.run(&["sync"]).await.exits(2);
    assert!(out.stderr.contains("config.toml: sync: it begins with none of"), "{}", out.stderr);
    // A mistake there is no reason for another command to stop.
    host.run(&["whoami"]).await.ok();
    let from = ("MESH_SYNC_FROM", "exec:cat team.csv");
    let document = host.call(&["sync", "--json"]).env(from.0, from.1).run().await.ok().json();
    assert_eq!(document["added"][0]["name"], "Carol");
}

#[cfg(not(feature = "k8s"))]
#[tokio::test]
async fn a_source_this_build_has_not_names_its_feature() {
    let document = host().run(&["sync", "--from", "k8s:team", "--json"]).await.exits(2).json();
    assert_eq!(document["error"]["code"], "feature-absent");
    assert!(document["error"]["hint"].as_str().unwrap().contains("--features k8s"), "{document}");
}

#[tokio::test]
async fn settings_name_sources_in_order_and_their_bearers() {
    let host = host();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = stream.read(&mut head).await.unwrap();
        let body = r#"[{"name": "C.", "emailPrefix": "carol", "nickname": "caro"}]"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&head[..count]).into_owned()
    });
    host.write("bearer", format!("{SECRET}-web\n"));
    let toml = format!(
        "[[sync]]\nfrom = 'file:team.csv'\n[[sync]]\nfrom = 'http://127.0.0.1:{port}/x?key={SECRET}'\nbearer-file = 'bearer'\n"
    );
    host.write(host.config("config.toml"), toml);
    let document = host.run(&["sync", "--json"]).await.ok().json();
    assert!(server.await.unwrap().to_lowercase().contains(&format!("bearer {}-web", SECRET.to_lowercase())));
    let sources = document["source"].as_array().unwrap();
    assert_eq!((sources.len(), &sources[0]), (2, &json!("file:team.csv")));
    let carol = &registry(&host)["agents"][2];
    assert_eq!((&carol["name"], &carol["nickname"]), (&json!("Carol"), &json!("caro")));
    assert!(!fs::read_to_string(host.config("registry.json")).unwrap().contains(SECRET));
    // Shown by their names as well; that no secret is among them, `Out` checks.
    let out = host.run(&["config"]).await.ok();
    assert!(out.stdout.contains("file:team.csv, http://127.0.0.1"), "{}", out.stdout);
}

#[tokio::test]
async fn watch_prints_a_line_a_round_and_survives_a_broken_source() {
    let host = host();
    let good = fs::read(host.path("team.csv")).unwrap();
    let args = ["sync", "--from", "file:team.csv", "--watch", "20ms", "--json"];
    let mut child = host.call(&args).spawn();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line = lines.next_line().await.unwrap().expect("another round");
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(next().await["written"], true);
    host.write("team.csv", "<html>");
    let broken = loop {
        let document = next().await;
        if document["ok"] == false {
            break document;
        }
    };
    assert_eq!(broken["error"]["code"], "sync-source-broken");
    assert!(broken["at"].is_string());
    host.write("team.csv", good);
    while next().await["ok"] == false {}
    // SIGINT, as Ctrl-C sends it.
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    // Wrong from the start, it does not even begin.
    host.run(&["sync", "--from", "nothing", "--watch"]).await.exits(2);
}

#[tokio::test]
async fn what_a_source_says_does_not_drive_the_terminal() {
    let host = host();
    // That no output has control characters in it, `Out` checks.
    let list = json!([{ "name": "E\u{1b}[2Jve\n+ Mallory", "emailPrefix": "eve", "ip": "10.0.0.5", "note": "\u{202e}" }]);
    host.write("team.json", list.to_string());
    let out = host.run(&["sync", "--from", "file:team.json"]).await.ok();
    assert!(out.stdout.starts_with("+ E\\u{1b}[2Jve + Mallory (eve)"), "{}", out.stdout);
}

#[tokio::test]
async fn list_says_which_addresses_are_older_than_the_last_sync() {
    let host = host();
    let older = async |host: &Host| {
        let document = host.run(&["list", "--json"]).await.ok().json();
        let rows = document["agents"].as_array().unwrap().clone();
        let names = rows.iter().filter(|row| row["olderThanSync"] == true);
        let names: Vec<String> = names.map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        (document["lastSync"].is_string(), names)
    };
    host.write("team.csv", CSV);
    host.run(&["sync", "--from", "file:team.csv", "--dry-run"]).await.ok();
    assert_eq!(older(&host).await, (false, vec![]), "a dry run is no sync");
    host.run(&["sync", "--from", "file:team.csv"]).await.ok();
    assert_eq!(older(&host).await, (true, vec!["Bob".to_owned()]));
    let out = host.run(&["list"]).await.ok();
    assert!(out.stdout.contains("ws://10.0.0.2:18789 *") && out.stderr.contains("last sync"), "{out:?}");

    // Edited since: newer than the sync.
    let edited = fs::read_to_string(host.config("registry.json")).unwrap().replace("10.0.0.2", "10.0.0.5");
    host.write(host.config("registry.json"), edited);
    assert_eq!(older(&host).await, (true, vec![]));
    // Confirmed, although nothing changes.
    host.write("team.csv", format!("{CSV}Robert,bob@example.com,10.0.0.5\n"));
    host.run(&["sync", "--from", "file:team.csv"]).await.ok();
    assert_eq!(older(&host).await, (true, vec![]));
    // Asked elsewhere, where nobody knows Carol: her address stays, and is older.
    host.write("other.csv", "Name,Email,IP\nBob,bob@example.com,10.0.0.5\n");
    host.run(&["sync", "--from", "file:other.csv"]).await.ok();
    assert_eq!(older(&host).await, (true, vec!["Carol".to_owned()]));
}
