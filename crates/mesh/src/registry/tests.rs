use std::{error::Error, os::unix::fs::PermissionsExt};

use serde_json::json;

use super::*;

const BASH_SKILL: &str = r#"{
  "registryDocUrl": "https://example.com/doc",
  "_comment": "team Ω",
  "agents": [
    {"name": "Alice", "redName": "戴泽", "emailPrefix": "alice", "ip": "10.0.0.10", "hostname": "agent-alice-0", "note": "Team Lead"},
    {"name": "Bob", "nickname": "bobby", "emailPrefix": "Bob", "ip": "", "tags": {"team": "infra"}, "via": "chat", "shoeSize": 44},
    {"name": "那笙", "redName": null, "emailPrefix": "carol", "token": "hunter2"}
  ]
}"#;

fn parse(json: &str) -> Result<Registry, RegistryError> {
    Registry::parse(json.as_bytes(), Path::new("registry.json"))
}

/// A registry whose second entry is Bob with one more field.
fn with_field(field: &str) -> Result<Registry, RegistryError> {
    parse(&format!(
        "{{\"agents\": [{{\"name\": \"A\", \"emailPrefix\": \"a\"}},\n{{\"name\": \"Bob\", \"emailPrefix\": \"bob\", {field}}}]}}"
    ))
}

#[test]
fn bash_skill_registry() {
    let registry = parse(BASH_SKILL).unwrap();
    let [alice, bob, carol] = registry.agents.as_slice() else { panic!("{registry:?}") };
    assert_eq!((alice.nickname(), alice.note.as_deref()), (Some("戴泽"), Some("Team Lead")));
    assert_eq!((bob.nickname(), bob.via), (Some("bobby"), Some(Via::Chat)));
    assert_eq!(bob.tags["team"], "infra");
    assert!(bob.address().is_err(), "an empty ip is none");
    assert!(carol.has_inline_token() && !bob.has_inline_token());
    assert!(!with_field(r#""token": """#).unwrap().agents[1].has_inline_token());
    assert!(!format!("{registry:?}").contains("hunter2"));
    assert_eq!(registry.registry_doc_url.as_deref(), Some("https://example.com/doc"));
}

#[test]
fn rewrite_keeps_unknown_fields_spelling_and_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.json");
    fs::write(&path, BASH_SKILL).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();

    let mut registry = Registry::load(&path).unwrap();
    registry.agents[0].ip = Some("10.0.0.11".into());
    registry.save(&path).unwrap();

    let text = fs::read_to_string(&path).unwrap();
    let mut expected: Value = serde_json::from_str(BASH_SKILL).unwrap();
    expected["agents"][0]["ip"] = json!("10.0.0.11");
    expected["agents"][2].as_object_mut().unwrap().remove("redName"); // null says no more than nothing
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    assert!(text.ends_with("}\n") && text.contains("戴泽"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o664);
    assert_eq!(Registry::load(&path).unwrap(), registry);
}

#[test]
fn missing_and_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Registry::load(&dir.path().join("x")), Err(RegistryError::Missing { .. })));
    assert!(matches!(Registry::load(dir.path()), Err(RegistryError::Unreadable { .. })));
}

#[test]
fn malformed_names_file_line_column_and_path() {
    for (json, expected) in [
        ("", "registry.json:1:0: malformed at the top level"),
        ("{\"agents\": [\n  {\"name\": \"A\" \"x\"}]}", "registry.json:2:16: malformed at agents[0].?"),
        ("{}", "registry.json:1:2: malformed at the top level"),
        ("{\"agents\": {}}", "registry.json:1:11: malformed at agents"),
        ("{\"agents\": [\n {\"name\": \"A\"}]}", "registry.json:2:14: malformed at agents[0]"),
        ("{\"agents\": [\n {\"emailPrefix\": \"a\"}]}", "registry.json:2:21: malformed at agents[0]"),
        (
            "{\"agents\": [{\"name\": \"A\", \"emailPrefix\": \"a\",\n \"ip\": 5}]}",
            "registry.json:2:8: malformed at agents[0].ip",
        ),
        ("{\"agents\": []} x", "registry.json:1:16: malformed at the end"),
    ] {
        assert_eq!(parse(json).unwrap_err().to_string(), expected, "{json}");
    }
    let error = with_field(r#""via": "pigeon""#).unwrap_err();
    assert_eq!(error.to_string(), "registry.json:2:53: malformed at agents[1].via");
    assert!(error.source().unwrap().to_string().contains("expected one of `agent`, `chat`, `a2a`"));
}

#[test]
fn invalid_fields_name_entry_and_field() {
    let hex = "0123456789abcdef".repeat(4);
    for (field, value, expected) in [
        ("url", "bob.example.com", Some("it does not start with ws:// or wss://")),
        ("url", "ws://me:hunter2@bob", Some("it has a user or password in it")),
        ("url", "ws://bob", None),
        ("url", "", None),
        ("a2aUrl", "ws://bob", Some("it does not start with http:// or https://")),
        ("a2aUrl", "https://bob.example.com/a2a/v1", None),
        ("tlsFingerprint", "abc", Some("it is not a SHA-256 fingerprint of 64 hex digits")),
        ("tlsFingerprint", &"é".repeat(32), Some("it is not a SHA-256 fingerprint of 64 hex digits")),
        ("tlsFingerprint", &hex, None),
        ("tlsFingerprint", &["AB"; 32].join(":"), None),
        ("deviceId", &hex, None),
        ("deviceId", &hex.to_uppercase(), Some("it is not 64 lower-case hex digits")),
        ("deviceId", &hex[1..], Some("it is not 64 lower-case hex digits")),
    ] {
        match (with_field(&format!("\"{field}\": \"{value}\"")), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                assert_eq!(
                    error.to_string(),
                    format!("registry.json: agents[1] (Bob) has an invalid {field}")
                );
                assert_eq!(error.source().unwrap().to_string(), expected);
                assert!(!format!("{error:?}").contains("hunter2"));
            }
            (other, _) => panic!("{field} {value}: {other:?}"),
        }
    }
}

#[test]
fn blank_names_and_prefixes_are_invalid() {
    for (name, prefix, expected) in [
        (" ", "a", "registry.json: agents[0] has an invalid name"),
        ("A", "", "registry.json: agents[0] (A) has an invalid emailPrefix"),
        ("A", "a@example.com", "registry.json: agents[0] (A) has an invalid emailPrefix"),
        ("A", "a b", "registry.json: agents[0] (A) has an invalid emailPrefix"),
    ] {
        let json = json!({"agents": [{"name": name, "emailPrefix": prefix}]}).to_string();
        assert_eq!(parse(&json).unwrap_err().to_string(), expected);
    }
}

#[test]
fn one_email_prefix_twice_names_both_entries() {
    let json = json!({"agents": [
        {"name": "Bob", "emailPrefix": "bob"},
        {"name": "Alice", "emailPrefix": "alice"},
        {"name": "Robert", "emailPrefix": "BOB"},
    ]});
    assert_eq!(
        parse(&json.to_string()).unwrap_err().to_string(),
        "registry.json: agents[0] (Bob) and agents[2] (Robert) both have the emailPrefix bob"
    );
}

#[test]
fn fingerprint_becomes_bytes() {
    let agent = |text: &str| Agent { tls_fingerprint: Some(text.into()), ..Agent::new("Bob", "bob") };
    assert_eq!(agent(&["0F"; 32].join(":")).tls_pin().unwrap().unwrap().to_string(), "0f".repeat(32));
    assert_eq!(agent("").tls_pin(), Ok(None));
}

#[test]
fn schema_describes_the_file() {
    let schema = registry_schema();
    assert_eq!(schema["required"], json!(["agents"]));
    let agent = &schema["$defs"]["Agent"];
    assert_eq!(agent["required"], json!(["name", "emailPrefix"]));
    for field in ["redName", "nickname", "url", "tlsFingerprint", "deviceId", "a2aUrl", "via", "tags"] {
        assert!(agent["properties"][field].is_object(), "{field}");
    }
    assert_eq!(agent["properties"]["deviceId"]["pattern"], "^[0-9a-f]{64}$");
    assert!(agent["properties"]["token"].is_null());
    assert_eq!(agent["additionalProperties"], json!(true));
}
