//! From what a source answered to a list of teammates.

use std::path::Path;

use serde_json::Value;

use super::Broken;
use super::table;
use crate::registry::{Agent, Registry};

/// Reads JSON (our registry, or a bare array of its entries) or CSV, whichever it is.
///
/// The content decides and not a file name or content type: exports are served under all of them.
pub(super) fn read(bytes: &[u8], origin: &str) -> Result<Vec<Agent>, Broken> {
    let text = std::str::from_utf8(bytes).map_err(|_| Broken::NotText)?;
    let text = text.trim_start_matches('\u{feff}');
    let agents = match text.trim_start().chars().next() {
        None => Vec::new(),
        Some('{') => registry(text.as_bytes(), origin)?.agents,
        Some('[') => registry(&wrapped(text), origin)?.agents,
        Some(_) => table::read(text)?,
    };
    let agents = agents.into_iter().map(cleaned).collect();
    checked(agents, origin)
}

/// Checks entries as those of a registry file are checked: no field with an impossible value, no prefix twice.
pub(super) fn checked(agents: Vec<Agent>, origin: &str) -> Result<Vec<Agent>, Broken> {
    let registry = Registry { agents, ..Registry::default() };
    registry.check(Path::new(origin)).map_err(Broken::Registry)?;
    Ok(registry.agents)
}

fn registry(json: &[u8], origin: &str) -> Result<Registry, Broken> {
    Registry::parse(json, Path::new(origin)).map_err(Broken::Registry)
}

/// A bare array as the registry it stands for. What follows the array stays behind it, so that it is refused.
fn wrapped(array: &str) -> Vec<u8> {
    // On one line with the array: line numbers in errors stay those of the source.
    [b"{\"agents\":", array.as_bytes(), b"}"].concat()
}

/// An entry without what no source has to say: secrets, our own marks, and fields left blank.
fn cleaned(mut agent: Agent) -> Agent {
    agent.token = None;
    agent.source = None;
    agent.extra.retain(|_, value| *value != Value::Null);
    let texts = [
        &mut agent.nickname,
        &mut agent.red_name,
        &mut agent.ip,
        &mut agent.hostname,
        &mut agent.url,
        &mut agent.note,
        &mut agent.tls_fingerprint,
        &mut agent.agent,
        &mut agent.session,
        &mut agent.device_id,
        &mut agent.a2a_url,
    ];
    for text in texts {
        text.take_if(|text| text.trim().is_empty());
    }
    agent
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let agents = read(text.as_bytes(), "src").map_err(|error| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })?;
        Ok(agents.into_iter().map(|agent| agent.email_prefix).collect())
    }

    #[test]
    fn json_is_our_registry_or_a_bare_array() {
        let bob = r#"{"name": "Bob", "emailPrefix": "bob"}"#;
        for text in [
            format!("{{\"agents\": [{bob}], \"registryDocUrl\": \"x\"}}"),
            format!("[{bob}]"),
            format!("\u{feff} \n[{bob}]\n"),
        ] {
            assert_eq!(names(&text), Ok(vec!["bob".to_owned()]), "{text}");
        }
        for text in ["", " \n", "[]", "{\"agents\": []}", "\u{feff}", "name,email\n"] {
            assert_eq!(names(text), Ok(vec![]), "{text:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_an_error() {
        let whole = r#"[{"name": "Bob", "emailPrefix": "bob"}, {"name": "Cid", "emailPrefix": "cid"}]"#;
        for end in 1..whole.len() {
            assert!(names(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        for text in [
            "<!DOCTYPE html><title>Sign in</title>",
            "null",
            "404: Not Found",
            "{\"error\": \"rate limited\"}",
            "[] []",
            "[]}",
            "[{\"name\": \"Bob\"}]",
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        ] {
            assert!(names(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_twice_names_both_entries() {
        let text = r#"[{"name": "Bob", "emailPrefix": "bob"}, {"name": "Robert", "emailPrefix": "BOB"}]"#;
        let expected = "src: agents[0] (Bob) and agents[1] (Robert) both have the emailPrefix bob";
        assert_eq!(names(text), Err(expected.to_owned()));
        let table = "name,email\nBob,bob@x.org\nRobert,Bob@y.org\n";
        assert_eq!(names(table), Err(expected.to_owned()));
    }

    #[test]
    fn no_token_and_no_mark_comes_from_a_source() {
        let text = r#"[{"name": "Bob", "emailPrefix": "bob", "token": "hunter2", "source": "file:mine",
            "ip": "", "url": " ", "shoeSize": 44, "x": null}]"#;
        let agents = read(text.as_bytes(), "src").unwrap();
        let mut expected = Agent::new("Bob", "bob");
        expected.extra.insert("shoeSize".into(), 44.into());
        assert_eq!(agents, [expected]);
    }
}
