//! Contract, "Who am I": first hit wins.

use serde_json::{Value, json};

use crate::support::Host;

const WORKSPACE: &str = ".openclaw/workspace/USER.md";
const CONFIG: &str = ".config/agent-team-mesh/USER.md";
const HERE: &str = "USER.md";

/// A row: its name, the files, `MESH_MY_EMAIL`, `--me`; then the address, its source, and the file it came from.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>, Option<&'a str>, [&'a str; 3]);

#[tokio::test]
async fn the_first_source_that_names_us_wins() {
    let sso = r#"{"user": {"email": "sso@example.com"}}"#;
    let all = [
        (WORKSPACE, "email: w@x.org"),
        (CONFIG, "email: c@x.org"),
        (HERE, "email: h@x.org"),
        ("sso.json", sso),
    ];
    let rows: &[Row<'_>] = &[
        ("1 --me", &all, Some("env@x.org"), Some("flag@x.org"), ["flag@x.org", "flag", ""]),
        ("1 --me, a prefix alone", &all, Some("env@x.org"), Some("flag"), ["flag@example.com", "flag", ""]),
        ("1 MESH_MY_EMAIL", &all, Some("env@x.org"), None, ["env@x.org", "env", ""]),
        ("1 MESH_MY_EMAIL, blank", &all, Some("  "), None, ["w@x.org", "user-md", WORKSPACE]),
        ("2 the OpenClaw workspace", &all, None, None, ["w@x.org", "user-md", WORKSPACE]),
        ("2 our own folder", &all[1..], None, None, ["c@x.org", "user-md", CONFIG]),
        ("2 the working folder", &all[2..], None, None, ["h@x.org", "user-md", HERE]),
        (
            "2 decorated",
            &[(HERE, "# Me\n- **Email:** A.B@c.org\n")],
            None,
            None,
            ["a.b@c.org", "user-md", HERE],
        ),
        ("2 full-width colon", &[(HERE, "Email： a@b.org")], None, None, ["a@b.org", "user-md", HERE]),
        ("2 upper case", &[(HERE, "EMAIL: A@B.ORG")], None, None, ["a@b.org", "user-md", HERE]),
        ("2 plus-address", &[(HERE, "email: a+bot@b.org")], None, None, ["a+bot@b.org", "user-md", HERE]),
        (
            "2 no such line: go on",
            &[(HERE, "# Me\nno mail\n"), ("sso.json", sso)],
            None,
            None,
            ["sso@example.com", "sso-json", "sso.json"],
        ),
        ("3 sso.json", &[("sso.json", sso)], None, None, ["sso@example.com", "sso-json", "sso.json"]),
    ];
    for (row, files, env, me, [email, source, file]) in rows {
        let host = Host::anonymous();
        for (name, content) in *files {
            host.write(name, content);
        }
        let mut args = vec!["whoami", "--json"];
        args.extend(me.iter().flat_map(|me| ["--me", *me]));
        let call = host.call(&args);
        let call = if let Some(env) = env { call.env("MESH_MY_EMAIL", env) } else { call };
        let document = call.run().await.ok().json();
        let identity = &document["identity"];
        assert_eq!(identity["email"], *email, "{row}");
        assert_eq!(identity["source"], *source, "{row}");
        assert_eq!(identity["emailPrefix"], email.split('@').next().unwrap(), "{row}");
        let path = identity["path"].as_str().unwrap_or_default();
        assert!(path.ends_with(file) && path.is_empty() == file.is_empty(), "{row}: {path}");
    }
}

#[tokio::test]
async fn the_settings_file_counts_after_the_variable_and_is_named() {
    let host = Host::anonymous();
    host.write(HERE, "email: h@x.org");
    let path = host.write(host.config("config.toml"), "me = \"file@x.org\"");
    let identity = host.run(&["whoami", "--json"]).await.ok().json()["identity"].clone();
    assert_eq!((&identity["email"], &identity["source"]), (&json!("file@x.org"), &json!("config")));
    assert_eq!(identity["path"], json!(path));
    let env = host.call(&["whoami", "--json"]).env("MESH_MY_EMAIL", "env@x.org").run().await.ok().json();
    assert_eq!((&env["identity"]["source"], &env["identity"]["path"]), (&json!("env"), &Value::Null));
    host.write(host.config("config.toml"), "me = \"no address\"");
    let error = host.run(&["whoami", "--json"]).await.exits(2).json()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("config.toml"), "{error}");
}

#[tokio::test]
async fn nobody_identified_names_every_place_looked_at() {
    let out = Host::anonymous().run(&["whoami", "--json"]).await.exits(7);
    let error = out.json()["error"].clone();
    assert_eq!(error["code"], "identity-unknown");
    let told = error.to_string();
    for place in ["--me", "MESH_MY_EMAIL", WORKSPACE, CONFIG, HERE, "sso.json"] {
        assert!(told.contains(place), "{place}: {told}");
    }
}

#[tokio::test]
async fn whoami_needs_no_registry_and_makes_no_key() {
    let host = Host::new();
    let document = host.run(&["whoami", "--json"]).await.ok().json();
    assert_eq!(document["command"], "whoami");
    assert_eq!(document["registry"]["entry"], Value::Null);
    assert_eq!(document["registry"]["path"], json!(host.config("registry.json")));
    assert_eq!(document["token"], json!({ "path": host.config("tokens.json"), "configured": false }));
    assert_eq!(document["device"], json!({ "id": null }));
    assert!(!host.path(".local").exists() && !host.path(".config").exists(), "whoami wrote something");
}

/// It once said nothing of us because of a comma in a file that is about others.
#[tokio::test]
async fn a_broken_file_does_not_hide_who_we_are() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    host.write(host.config("registry.json"), "{");
    host.write(host.config("tokens.json"), "{");
    host.write(host.state("device.pem"), "no key");
    let out = host.run(&["whoami", "--json"]).await.ok();
    let document = out.json();
    assert_eq!(document["identity"]["emailPrefix"], "alice");
    let codes: Vec<_> =
        document["problems"].as_array().unwrap().iter().map(|row| row["code"].clone()).collect();
    assert_eq!(codes, ["registry-malformed", "tokens-malformed", "device-key-malformed"]);
    let text = host.run(&["whoami"]).await.ok();
    assert!(text.stdout.starts_with("alice <alice@example.com>"), "{}", text.stdout);
    assert!(text.stderr.contains("registry.json:1:") && text.stderr.contains("hint: "), "{}", text.stderr);
}

#[tokio::test]
async fn a_broken_registry_is_a_finding_of_doctors_and_not_its_end() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    host.write(host.config("registry.json"), "[]");
    for args in [&["doctor", "--json"][..], &["doctor", "--to", "bob", "--json"]] {
        let document = host.run(args).await.ok().json();
        assert_eq!(document["healthy"], false);
        let checks = document["checks"].as_array().unwrap();
        let registry = checks.iter().find(|check| check["name"] == "registry").unwrap();
        assert_eq!(registry["status"], "fail");
        assert!(registry["fix"]["command"].as_str().unwrap().starts_with("$EDITOR "), "{registry}");
    }
    host.registry(&json!([]));
    host.run(&["doctor", "--to", "bob"]).await.exits(4);
}

#[tokio::test]
async fn whoami_shows_our_entry_tokens_and_device() {
    let host = Host::with_bob("ws://127.0.0.1:1");
    host.run(&["init"]).await.ok();
    let document = host.run(&["whoami", "--json"]).await.ok().json();
    assert_eq!(document["registry"]["entry"]["name"], "Alice");
    assert_eq!(document["token"]["configured"], true);
    assert_eq!(document["device"]["id"].as_str().map(str::len), Some(64));
    insta::assert_snapshot!(host.run(&["whoami"]).await.transcript());
}
