//! What reaches a terminal, and what must never.

use std::process::Stdio;

use agent_mesh_testkit::{FakeGateway, Reply};
use serde_json::{Value, json};

use crate::support::{Host, strict};

const HOSTILE: &str =
    "a\u{1b}[2J\u{1b}]0;title\u{7}\u{202e}b\r\u{9b}31m\u{7f}\u{2066}\u{feff}\u{e0041} 戴泽 🦀\tok\nend";

async fn hostile() -> (FakeGateway, Host) {
    let gateway = FakeGateway::start(strict().reply(|_| Reply::text(HOSTILE))).await;
    let host = Host::with_bob(&gateway.url());
    (gateway, host)
}

fn drives(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{202e}' | '\u{2066}' | '\u{feff}' | '\u{e0041}')
}

#[tokio::test]
async fn a_reply_is_shown_with_its_control_characters_escaped() {
    let (_gateway, host) = hostile().await;
    // Among others' lines each of his is indented: none of them can pass for one of theirs.
    for (args, end) in [
        (&["send", "--to", "bob", "--message", "x"][..], "\nend\n"),
        (&["broadcast", "--message", "x"], "\n  end\n"),
    ] {
        let out = host.run(args).await.ok();
        assert!(!out.stdout.contains(drives) && !out.stderr.contains(drives), "{out:?}");
        assert!(out.stdout.contains("a\\u{1b}[2J") && out.stdout.contains("\\u{202e}b"), "{}", out.stdout);
        assert!(
            out.stdout.contains(&format!(" 戴泽 🦀\tok{end}")),
            "ordinary text was touched: {}",
            out.stdout
        );
    }
}

#[tokio::test]
async fn raw_leaves_a_reply_as_it_is_where_no_terminal_listens() {
    let (_gateway, host) = hostile().await;
    let out = host.run(&["send", "--to", "bob", "--message", "x", "--raw"]).await.ok();
    assert_eq!(out.stdout, format!("{HOSTILE}\n"));
}

#[tokio::test]
async fn json_escapes_them_without_loss() {
    let (_gateway, host) = hostile().await;
    let out = host.run(&["send", "--to", "bob", "--message", "x", "--json", "--raw"]).await.ok();
    assert!(!out.stdout.contains(drives), "{:?}", out.stdout);
    assert!(out.stdout.contains("\\u202e") && out.stdout.contains("\\u009b"), "{}", out.stdout);
    assert_eq!(out.json()["reply"]["text"], HOSTILE);
}

#[tokio::test]
async fn the_words_of_a_registry_or_a_refusal_drive_no_terminal_either() {
    let gateway = FakeGateway::start(strict().reply(|_| Reply::provider_error("x\u{1b}[2J\u{202e}y"))).await;
    let host = Host::with_bob(&gateway.url());
    host.registry(&json!([{ "name": "B\u{1b}[31mob\u{202e}", "emailPrefix": "bob", "url": gateway.url() }]));
    for args in [&["list"][..], &["ping", "--to", "bob"], &["doctor"], &["broadcast", "--message", "x"]] {
        let out = host.run(args).await;
        assert!(!out.stdout.contains(drives) && !out.stderr.contains(drives), "{out:?}");
    }
    let out = host.run(&["send", "--to", "bob", "--message", "x"]).await.exits(1);
    assert!(out.stderr.contains("\\u{1b}[2J") && !out.stderr.contains(drives), "{}", out.stderr);
}

#[tokio::test]
async fn what_is_no_terminal_gets_no_escape_sequence() {
    let (_gateway, host) = hostile().await;
    let commands: [&[&str]; 6] = [
        &["list"],
        &["ping", "--to", "bob"],
        &["--help"],
        &["send", "--help"],
        &["nonsense"],
        &["send", "--to", "nobody", "--message", "x"],
    ];
    for args in commands {
        for (name, value) in [("TERM", "xterm-256color"), ("NO_COLOR", "1")] {
            let out = host.call(args).env(name, value).run().await;
            assert!(!out.stdout.contains('\u{1b}') && !out.stderr.contains('\u{1b}'), "{out:?}");
        }
    }
}

#[tokio::test]
async fn mesh_json_is_json_for_good() {
    let host = Host::new();
    let document = host.call(&["whoami"]).env("MESH_JSON", "1").run().await.ok().json();
    assert_eq!(document["command"], "whoami");
    let document = host.call(&["whoami", "--nonsense"]).env("MESH_JSON", "1").run().await.exits(2).json();
    assert_eq!((&document["command"], &document["error"]["code"]), (&json!("whoami"), &json!("usage")));
}

#[tokio::test]
async fn help_and_version_are_text_and_success() {
    let host = Host::anonymous();
    let asked: [&[&str]; 7] = [
        &["--help"],
        &["--version"],
        &["send", "--help"],
        &["--json", "--help"],
        &["-h"],
        &["help"],
        &["help", "send"],
    ];
    for args in asked {
        let out = host.run(args).await.ok();
        assert!(out.stdout.contains("agent-mesh") && out.stderr.is_empty(), "{out:?}");
        assert!(serde_json::from_str::<Value>(&out.stdout).is_err());
    }
    let help = async |args: &[&str]| host.run(args).await.ok().stdout;
    assert_eq!(help(&["help", "send"]).await, help(&["send", "--help"]).await);
    assert_eq!(help(&["help", "pair", "list"]).await, help(&["pair", "list", "--help"]).await);
    let out = host.run::<&str>(&[]).await.exits(2);
    assert!(out.stdout.is_empty() && out.stderr.contains("Usage: agent-mesh"), "{out:?}");
}

#[tokio::test]
async fn a_reader_that_has_read_enough_is_no_failure() {
    let (_gateway, host) = hostile().await;
    let commands: [&[&str]; 5] = [
        &["list"],
        &["list", "--json"],
        &["send", "--to", "bob", "--message", "x"],
        &["completions", "bash"],
        &["--help"],
    ];
    for args in commands {
        let mut child = host.call(args).spawn();
        // The reading end is closed before anything is written.
        drop(child.stdout.take());
        let out = child.wait_with_output().await.unwrap();
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!said.contains("error") && !said.contains("pipe"), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn a_terminal_sees_colours_unless_it_asks_not_to() {
    let (_gateway, host) = hostile().await;
    let seen = async |env: Option<(&str, &str)>, args: &[&str]| {
        let script = format!("{} {}", env!("CARGO_BIN_EXE_agent-mesh"), args.join(" "));
        let mut command = tokio::process::Command::new("/usr/bin/script");
        command
            .args(["-qec", &script, "/dev/null"])
            .env_clear()
            .env("HOME", host.path(""))
            .env("SHELL", "/bin/sh");
        command.env("MESH_MY_EMAIL", "alice").env("TERM", "xterm").stdin(Stdio::null());
        command.current_dir(host.path("")).envs(env);
        String::from_utf8(command.output().await.unwrap().stdout).unwrap()
    };
    if !std::path::Path::new("/usr/bin/script").exists() {
        return;
    }
    let ping = ["ping", "--to", "bob"];
    let coloured = seen(None, &ping).await;
    assert!(coloured.contains("\u{1b}[32m"), "no colour on a terminal: {coloured:?}");
    for plain in
        [seen(Some(("NO_COLOR", "1")), &ping).await, seen(None, &["ping", "--to", "bob", "--no-color"]).await]
    {
        assert!(!plain.contains("\u{1b}[3"), "{plain:?}");
    }
    // On a terminal, --raw does not count, and the reply that streams is as harmless as the whole one.
    for args in
        [&["send", "--to", "bob", "--message", "x", "--raw"][..], &["send", "--to", "bob", "--message", "x"]]
    {
        let shown = seen(Some(("NO_COLOR", "1")), args).await;
        assert!(shown.contains("a\\u{1b}[2J") && !shown.contains("\u{1b}[2J"), "{shown:?}");
        assert!(!shown.contains('\u{202e}') && !shown.contains("\u{1b}]0;"), "{shown:?}");
    }
}
