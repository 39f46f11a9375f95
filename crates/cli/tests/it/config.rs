//! `config`, `init`, `completions` and `man`, and the two documents that tests write.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Host, mode, token};

async fn settings(host: &Host, args: &[&str], env: &[(&str, &str)]) -> Vec<Value> {
    let mut call = host.call(&[&["config", "--json"], args].concat());
    for (name, value) in env {
        call = call.env(name, value);
    }
    call.run().await.ok().json()["settings"].as_array().unwrap().clone()
}

fn setting<'a>(all: &'a [Value], name: &str) -> (&'a str, &'a str) {
    let row = all.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no setting {name}"));
    (row["value"].as_str().unwrap_or("-"), row["source"].as_str().unwrap())
}

#[tokio::test]
async fn config_shows_each_value_and_where_it_comes_from() {
    let host = Host::anonymous();
    let file =
        host.write(host.config("config.toml"), "timeout = \"2m\"\ntokens = \"/file\"\nme = \"file@x.org\"\n");
    let env = [("MESH_TOKENS_FILE", "/env"), ("MESH_MY_EMAIL", "env@x.org"), ("NO_COLOR", "1")];
    let all = settings(&host, &["--me", "flag@x.org"], &env).await;
    let file = file.to_str().unwrap();
    assert_eq!(setting(&all, "timeout"), ("120s", file));
    assert_eq!(setting(&all, "tokens"), ("/env", "env MESH_TOKENS_FILE"));
    assert_eq!(setting(&all, "me"), ("flag@x.org", "flag --me"));
    assert_eq!(setting(&all, "msg-soft-limit"), ("4096", "default"));
    assert_eq!(setting(&all, "no-color"), ("true", "env NO_COLOR"));
    assert_eq!(setting(&all, "json"), ("true", "flag --json"));
    assert_eq!(setting(&all, "im-fallback"), ("-", "default"));
    insta::assert_snapshot!(host.run(&["config"]).await.transcript());
}

#[tokio::test]
async fn config_says_only_whether_a_secret_is_set() {
    let host = Host::new();
    let all = settings(&host, &[], &[]).await;
    assert_eq!(setting(&all, "gateway-token"), ("unset", "default"));
    // That the token itself is not shown, `Out` checks for every run.
    let (own, serve) = (token("own"), token("serve"));
    let all = settings(&host, &[], &[("OPENCLAW_GATEWAY_TOKEN", &own), ("MESH_GATEWAY_TOKEN", &serve)]).await;
    assert_eq!(setting(&all, "gateway-token"), ("set", "env OPENCLAW_GATEWAY_TOKEN"));
    assert_eq!(setting(&all, "serve-token"), ("set", "env MESH_GATEWAY_TOKEN"));
    let all = settings(&host, &[], &[("MESH_GATEWAY_TOKEN", &serve)]).await;
    assert_eq!(
        setting(&all, "gateway-token"),
        ("set", "env MESH_GATEWAY_TOKEN"),
        "serve's token opens it, too"
    );
}

#[tokio::test]
async fn every_variable_and_key_of_the_table_is_really_read() {
    // What each setting can be set to, other than its default.
    let values = [
        ("config", "other.toml"),
        ("registry", "/other"),
        ("tokens", "/other"),
        ("policy", "/other"),
        ("state-dir", "/other"),
        ("gateway", "ws://10.0.0.1:1234"),
        ("gateway-token", "sEcReT-own"),
        ("serve-token", "sEcReT-serve"),
        ("openai-key", "sEcReT-model"),
        ("openai-api-key", "sEcReT-model"),
        ("me", "other@x.org"),
        ("email-domain", "x.org"),
        ("im-fallback", "/other"),
        ("msg-soft-limit", "17"),
        ("msg-hard-limit", "5000"),
        ("timeout", "17s"),
        ("connect-timeout", "17s"),
        ("allow-insecure-private-ws", "true"),
        ("queue", "true"),
        ("sync", "file:/other"),
        ("limits.max-hops", "17"),
        ("limits.peer-per-hour", "17"),
        ("limits.total-per-hour", "17"),
        ("limits.thread-per-day", "17"),
        ("limits.unreachable-per-hour", "17"),
        ("limits.repeat-window", "17s"),
        ("json", "true"),
        ("no-color", "true"),
    ];
    let host = Host::anonymous();
    let rows = settings(&host, &[], &[]).await;
    assert_eq!(rows.len(), values.len(), "a setting without a row here");
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let (_, value) = values.into_iter().find(|(known, _)| *known == name).unwrap();
        let shown = if name.ends_with("-token") || name.ends_with("-key") { "set" } else { value };
        host.write("other.toml", "");
        let env = row["env"].as_str().unwrap();
        let source = format!("env {env}");
        if name != "json" {
            assert_eq!(setting(&settings(&host, &[], &[(env, value)]).await, name), (shown, &*source));
        }
        if row["inFile"] == true {
            let toml = if value.parse::<u32>().is_ok() || value == "true" {
                value.to_owned()
            } else {
                format!("{value:?}")
            };
            let line = match name {
                "sync" => format!("[[sync]]\nfrom = {toml}\n"),
                _ => format!("{name} = {toml}\n"),
            };
            let file = host.write("settings.toml", line);
            let all = settings(&host, &["--config", "settings.toml"], &[]).await;
            assert_eq!(setting(&all, name), (shown, "settings.toml"));
            fs::remove_file(file).unwrap();
        }
    }
}

#[tokio::test]
async fn init_makes_what_is_missing_and_keeps_what_is_there() {
    let host = Host::new();
    let document = host.run(&["init", "--json"]).await.ok().json();
    let files = document["files"].as_array().unwrap();
    assert!(files.iter().all(|file| file["status"] == "created"), "{document}");
    let paths: Vec<PathBuf> = files.iter().map(|file| file["path"].as_str().unwrap().into()).collect();
    assert!(paths.contains(&host.config("registry.json")) && paths.contains(&host.config("tokens.json")));
    assert!(paths.contains(&host.state("device.pem")));
    for path in &paths {
        assert_eq!(mode(path) & 0o077, 0, "{}", path.display());
    }
    let before: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let again = host.run(&["init", "--json"]).await.ok().json();
    assert!(again["files"].as_array().unwrap().iter().all(|file| file["status"] == "kept"), "{again}");
    assert_eq!(before, paths.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>());
    assert_eq!(again["deviceId"], document["deviceId"]);
    insta::assert_snapshot!(host.run(&["init"]).await.transcript());
    assert_eq!(host.run(&["list", "--json"]).await.ok().json()["agents"][0]["self"], true);
}

#[tokio::test]
async fn init_takes_over_a_bash_skill() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    let theirs = json!({ "registryDocUrl": "https://doc", "agents": [
        { "name": "Bob", "emailPrefix": "bob", "ip": "10.0.0.9" },
        { "name": "戴泽", "emailPrefix": "daize", "ip": "10.0.0.2", "color": "red" },
    ]});
    host.write("skill/references/registry.json", theirs.to_string());
    let tokens = json!({ "tokens": { "bob": token("theirs"), "daize": token("daize") } });
    host.write("skill/references/tokens.json", tokens.to_string());
    let document = host.run(&["init", "--from", "skill", "--json"]).await.ok().json();
    assert_eq!(document["imported"]["agents"]["added"], json!(["daize"]));
    assert_eq!(document["imported"]["tokens"]["kept"], json!(["bob"]));
    let registry = fs::read_to_string(host.config("registry.json")).unwrap();
    assert!(
        registry.contains("\"color\"") && registry.contains("https://doc") && !registry.contains("10.0.0.9")
    );
    assert!(fs::read_to_string(host.config("tokens.json")).unwrap().contains(&token("bob")));
    host.run(&["init", "--from", "skill", "--overwrite"]).await.ok();
    assert!(fs::read_to_string(host.config("registry.json")).unwrap().contains("10.0.0.9"));
    assert!(fs::read_to_string(host.config("tokens.json")).unwrap().contains(&token("theirs")));
}

/// It left us out and said nothing, and nobody knew what to run next.
#[tokio::test]
async fn init_says_who_we_are_and_what_comes_next() {
    let commands = |document: &Value| {
        let next = document["next"].as_array().unwrap().iter();
        next.map(|next| next["command"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let host = Host::anonymous();
    let document = host.run(&["init", "--json"]).await.ok().json();
    assert_eq!((&document["identity"], &document["inRegistry"]), (&Value::Null, &json!(false)));
    assert!(commands(&document)[0].contains("MESH_MY_EMAIL="), "{document}");
    let out = host.run(&["init"]).await.ok();
    assert!(out.stdout.contains("not known") && out.stderr.contains("USER.md"), "{out:?}");

    // Once we are known, the list of nobody gets its first entry; so does the one that the skill brings.
    let known = async |args: &[&str]| {
        host.call(args).env("MESH_MY_EMAIL", "alice@example.com").run().await.ok().json()
    };
    let document = known(&["init", "--json"]).await;
    assert_eq!(
        (&document["identity"]["emailPrefix"], &document["inRegistry"]),
        (&json!("alice"), &json!(true))
    );
    assert_eq!(commands(&document)[0], "agent-mesh join -");
    fs::remove_file(host.config("registry.json")).unwrap();
    host.run(&["skill", "install"]).await.ok();
    assert_eq!(known(&["init", "--json"]).await["inRegistry"], true);

    // A list of the team's is theirs.
    host.registry(&json!([{ "name": "Bob", "emailPrefix": "bob" }]));
    assert_eq!(known(&["init", "--json"]).await["inRegistry"], false);
    let out = host.call(&["init"]).env("MESH_MY_EMAIL", "alice@example.com").run().await.ok();
    assert!(
        out.stdout.contains("not in the registry") && out.stderr.contains("\"emailPrefix\":\"alice\""),
        "{out:?}"
    );
}

#[tokio::test]
async fn completions_know_every_command() {
    let host = Host::anonymous();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let out = host.run(&["completions", shell]).await.ok();
        for word in ["broadcast", "doctor", "message-file"] {
            assert!(out.stdout.contains(word), "{shell} does not know {word}");
        }
        let document = host.run(&["completions", shell, "--json"]).await.ok().json();
        assert_eq!(document["script"], out.stdout);
    }
}

/// The script once named the commands one way and looked for them another: nothing was completed after `send`.
#[tokio::test]
async fn bash_completes_the_options_of_a_command() {
    let script = Host::anonymous().run(&["completions", "bash"]).await.ok().stdout;
    let asks = "COMP_WORDS=(agent-mesh send --t); COMP_CWORD=2\n_agent__mesh agent-mesh --t send\necho \"${COMPREPLY[@]}\"";
    let bash = std::process::Command::new("bash").args(["-c", &format!("{script}\n{asks}")]).output();
    let Ok(out) = bash else { return eprintln!("skipped: there is no bash here") };
    let mut completed: Vec<_> = std::str::from_utf8(&out.stdout).unwrap().split_whitespace().collect();
    completed.sort_unstable();
    assert_eq!(completed, ["--thread", "--timeout", "--to", "--tokens"]);
}

#[tokio::test]
async fn man_prints_one_page_or_writes_all() {
    let host = Host::anonymous();
    let out = host.run(&["man"]).await.ok();
    assert!(
        out.stdout.contains(".TH agent-mesh 1") && out.stdout.contains("agent\\-mesh\\-send(1)"),
        "{}",
        out.stdout
    );
    let document = host.run(&["man", "--dir", "pages", "--json"]).await.ok().json();
    let files = document["files"].as_array().unwrap();
    for name in ["agent-mesh.1", "agent-mesh-send.1", "agent-mesh-pair-approve.1"] {
        assert!(files.contains(&json!(Path::new("pages").join(name))), "{document}");
        assert!(fs::read_to_string(host.path("pages").join(name)).unwrap().contains(".SH SYNOPSIS"));
    }
}
