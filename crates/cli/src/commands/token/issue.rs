//! Tokens that we give to peers, to come in with at our own gateway.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use agent_mesh_gateway::{Policy, TokenHash};
use agent_team_mesh::client::Secret;
use agent_team_mesh::{Mesh, MeshError, private_file};
use serde_json::json;
use toml_edit::{DocumentMut, Item, Table, value};
use zeroize::Zeroizing;

use crate::commands::serve::policy;
use crate::error::{CliError, Exit, policy_malformed};
use crate::settings::Settings;
use crate::ui::Ui;

/// What a policy says that is made for its first token: whoever came in before still does.
const FRESH: &str = "# Who may talk to the agent behind `agent-mesh serve`: docs/policy.md has every key.\n\
    # Without the next line, who is not named below is denied.\n[default]\nmode = \"allow\"\n";

/// Makes a token for a peer, keeps its hash in the policy, and writes it to a file of its own.
pub fn issue(
    mesh: &Mesh,
    settings: &Settings,
    name: &str,
    out: Option<&Path>,
    ui: &Ui,
) -> Result<Exit, CliError> {
    let prefix = super::prefix(mesh, name)?;
    let out = out.map_or_else(|| PathBuf::from(format!("{prefix}.token")), Path::to_owned);
    let to_stdout = out.as_os_str() == "-";
    if to_stdout && (ui.is_json() || std::io::stdout().is_terminal()) {
        return Err(CliError::usage(
            "--out - is for a pipe or a file: a token is not shown, nor put into a document",
        ));
    }
    // Two version 4 UUIDs: 244 random bits.
    let token = Secret::new(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
    if !to_stdout && !private_file::create(&out, token.expose().as_bytes()).map_err(MeshError::from)? {
        return Err(CliError::usage(format!("{} exists: name another with --out", out.display())));
    }
    let path = &settings.policy.value;
    let hash = TokenHash::of(token.expose());
    let replaced = edit(path, &prefix, Some(&hash)).inspect_err(|_| {
        // A token that opens nothing is not left lying about.
        if !to_stdout {
            let _ = std::fs::remove_file(&out);
        }
    })?;
    if to_stdout {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", token.expose()).map_err(|e| CliError::io("cannot write the token", &e))?;
    } else {
        ui.out(format!("the token for {prefix} is in {}", out.display()));
    }
    if replaced {
        ui.note(format!("the token that {prefix} had before opens nothing any more"));
    }
    ui.note(format!(
        "give it to {prefix} over a channel you trust; they run: agent-mesh token set <our name> < FILE"
    ));
    let fields = json!({ "emailPrefix": prefix, "path": out, "policy": path, "replaced": replaced });
    ui.document("token", Exit::Done, fields);
    Ok(Exit::Done)
}

/// Ends a peer's token.
pub fn revoke(mesh: &Mesh, settings: &Settings, name: &str, ui: &Ui) -> Result<Exit, CliError> {
    let prefix = super::prefix(mesh, name).unwrap_or_else(|_| name.to_lowercase());
    let path = &settings.policy.value;
    if !path.exists() || !edit(path, &prefix, None)? {
        let message = format!("{prefix} holds no token of ours");
        return Err(CliError::new(Exit::Auth, "no-credential", message)
            .hint("agent-mesh token issued lists who does"));
    }
    ui.out(format!("the token of {prefix} opens nothing any more"));
    ui.document("token", Exit::Done, json!({ "emailPrefix": prefix, "policy": path }));
    Ok(Exit::Done)
}

/// Who holds a token of ours.
pub fn issued(settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let path = &settings.policy.value;
    let policy = policy(path)?.unwrap_or_else(Policy::open);
    let holders: Vec<&str> = policy.peers().filter(|(_, holds)| *holds).map(|(key, _)| key).collect();
    if holders.is_empty() {
        ui.note("nobody holds a token of ours");
    }
    holders.iter().for_each(|holder| ui.out(*holder));
    ui.document("token", Exit::Done, json!({ "policy": path, "issued": holders }));
    Ok(Exit::Done)
}

/// Puts a hash into the policy, or takes it out, and leaves everything else as it stands there, comments and all. Says
/// whether there was one.
fn edit(path: &Path, prefix: &str, hash: Option<&TokenHash>) -> Result<bool, CliError> {
    let mut had = false;
    private_file::update::<EditError>(path, |old| {
        let text =
            old.map_or(Ok(FRESH), std::str::from_utf8).map_err(|_| malformed(path, "it is not UTF-8"))?;
        let (new, before) = edited(text, prefix, hash).map_err(|why| malformed(path, &why))?;
        had = before;
        Ok(Some(Zeroizing::new(new.into_bytes())))
    })?;
    Ok(had)
}

fn edited(text: &str, prefix: &str, hash: Option<&TokenHash>) -> Result<(String, bool), String> {
    // What the gateway would not read is not written on.
    Policy::parse(text).map_err(|error| error.to_string())?;
    let mut document: DocumentMut = text.parse().map_err(|_| "it is no TOML".to_owned())?;
    let peers = document.entry("peers").or_insert_with(|| Item::Table(implicit()));
    let peers = peers.as_table_like_mut().ok_or("peers is no table")?;
    let known = peers.iter().map(|(key, _)| key.to_owned()).find(|key| key.to_lowercase() == prefix);
    let key = known.unwrap_or_else(|| prefix.to_owned());
    let Some(hash) = hash else {
        let entry = peers.get_mut(&key).and_then(Item::as_table_like_mut);
        let had = entry.is_some_and(|entry| entry.remove("token").is_some());
        return Ok((document.to_string(), had));
    };
    let entry = peers.entry(&key).or_insert_with(|| Item::Table(Table::new()));
    let entry = entry.as_table_like_mut().ok_or("a peer is no table")?;
    let had = entry.insert("token", value(hash.to_string())).is_some();
    Ok((document.to_string(), had))
}

/// A table that has no header of its own.
fn implicit() -> Table {
    let mut table = Table::new();
    table.set_implicit(true);
    table
}

fn malformed(path: &Path, why: &str) -> EditError {
    EditError(policy_malformed(path, &why))
}

/// For [`private_file::update`], which has errors of its own.
struct EditError(CliError);

impl From<private_file::PrivateFileError> for EditError {
    fn from(error: private_file::PrivateFileError) -> Self {
        Self(MeshError::from(error).into())
    }
}

impl From<EditError> for CliError {
    fn from(error: EditError) -> Self {
        error.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_goes_in_and_out_and_the_rest_stays() {
        let text =
            "# ours\n[default]\nmode = \"deny\" # strangers\n\n[peers.Alice]\nruns-per-day = 5 # enough\n";
        let (one, two) = (TokenHash::of("one"), TokenHash::of("two"));
        let (with, had) = edited(text, "alice", Some(&one)).unwrap();
        assert!(!had && with.contains("# ours") && with.contains("# enough") && with.contains("# strangers"));
        assert_eq!(with.matches("sha256:").count(), 1);
        let (other, had) = edited(&with, "alice", Some(&two)).unwrap();
        assert!(had && other.contains(&two.to_string()) && !other.contains(&one.to_string()));
        let (without, had) = edited(&other, "alice", None).unwrap();
        assert!(had && without == text);
        assert!(!edited(&without, "bob", None).unwrap().1);
    }

    #[test]
    fn a_fresh_policy_keeps_those_in_who_were() {
        let (text, _) = edited(FRESH, "alice", Some(&TokenHash::of("one"))).unwrap();
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(policy.peers().collect::<Vec<_>>(), [("alice", true)]);
        let other = agent_mesh_gateway::Member { key: "bob".into(), ..Default::default() };
        assert_eq!(policy.rules(&other).mode, agent_mesh_gateway::Mode::Allow);
    }

    #[test]
    fn what_the_gateway_would_not_read_is_left_alone() {
        assert!(edited("[peers.alice]\nrunz = 1", "alice", None).is_err());
    }
}
