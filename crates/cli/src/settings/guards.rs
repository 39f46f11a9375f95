//! The limits of what may be said, and who makes us speak.

use std::path::Path;
use std::time::Duration;

use agent_team_mesh::client::protocol::attribution::Chain;
use agent_team_mesh::guard::{Caller, LONGEST_WINDOW, Rules, Speaker};
use serde::Deserialize;

use super::env::invalid;
use super::file::malformed_config;
use super::layers::{InFile, Layers};
use super::table::{self, About};
use super::{Env, Setting, Source};
use crate::error::CliError;

/// How much of the name of a shell goes into a header.
const LONGEST_SHELL: usize = 32;

/// `[limits]` of the settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LimitsTable {
    max_hops: Option<u32>,
    peer_per_hour: Option<u32>,
    total_per_hour: Option<u32>,
    thread_per_day: Option<u32>,
    unreachable_per_hour: Option<u32>,
    #[serde(deserialize_with = "super::spelled::duration")]
    repeat_window: Option<String>,
}

/// The limits as they are set.
pub struct GuardSettings {
    pub max_hops: Setting<u32>,
    pub peer_per_hour: Setting<u32>,
    pub total_per_hour: Setting<u32>,
    pub thread_per_day: Setting<u32>,
    pub unreachable_per_hour: Setting<u32>,
    pub repeat_window: Setting<Duration>,
}

impl GuardSettings {
    /// The variables of an agent's shell are the agent's to set: there, one that would allow more than the owner does is
    /// as good as unset.
    pub(super) fn load(
        env: &Env,
        path: &Path,
        file: &LimitsTable,
        speaker: Speaker,
    ) -> Result<Self, CliError> {
        let set = Self::merge(&Layers { env }, path, file)?;
        if speaker == Speaker::Person {
            return Ok(set);
        }
        let owners = Self::merge(&Layers { env: &Env::empty() }, path, file)?;
        Ok(Self {
            max_hops: stricter(set.max_hops, owners.max_hops, |set, owners| set <= owners),
            peer_per_hour: stricter(set.peer_per_hour, owners.peer_per_hour, |set, owners| set <= owners),
            total_per_hour: stricter(set.total_per_hour, owners.total_per_hour, |set, owners| set <= owners),
            thread_per_day: stricter(set.thread_per_day, owners.thread_per_day, |set, owners| set <= owners),
            unreachable_per_hour: stricter(
                set.unreachable_per_hour,
                owners.unreachable_per_hour,
                |set, owners| set <= owners,
            ),
            repeat_window: stricter(set.repeat_window, owners.repeat_window, |set, owners| set >= owners),
        })
    }

    fn merge(layers: &Layers<'_>, path: &Path, file: &LimitsTable) -> Result<Self, CliError> {
        let rules = Rules::default();
        let count = |about: &About, in_file: Option<u32>, default: u32| {
            let setting = layers.parsed(about, in_file, default, "expected a number")?;
            check(setting.value > 0, setting, about, path, "it must be 1 or more")
        };
        let window = file.repeat_window.clone().map(|text| InFile(path, text));
        let window = layers.duration(&table::REPEAT_WINDOW, window, rules.repeat_window.as_secs())?;
        let fits = window.value <= LONGEST_WINDOW;
        Ok(Self {
            max_hops: layers.parsed(&table::MAX_HOPS, file.max_hops, rules.max_hops, "expected a number")?,
            peer_per_hour: count(&table::PEER_PER_HOUR, file.peer_per_hour, rules.peer_per_hour)?,
            total_per_hour: count(&table::TOTAL_PER_HOUR, file.total_per_hour, rules.total_per_hour)?,
            thread_per_day: count(&table::THREAD_PER_DAY, file.thread_per_day, rules.thread_per_day)?,
            unreachable_per_hour: count(
                &table::UNREACHABLE_PER_HOUR,
                file.unreachable_per_hour,
                rules.unreachable_per_hour,
            )?,
            repeat_window: check(fits, window, &table::REPEAT_WINDOW, path, "it must be 24h or less")?,
        })
    }

    /// The limits as the mesh takes them.
    pub fn rules(&self) -> Rules {
        Rules {
            max_hops: self.max_hops.value,
            peer_per_hour: self.peer_per_hour.value,
            total_per_hour: self.total_per_hour.value,
            thread_per_day: self.thread_per_day.value,
            unreachable_per_hour: self.unreachable_per_hour.value,
            repeat_window: self.repeat_window.value,
        }
    }
}

fn stricter<T>(set: Setting<T>, owners: Setting<T>, strict: fn(&T, &T) -> bool) -> Setting<T> {
    if strict(&set.value, &owners.value) { set } else { owners }
}

/// The setting, if it is usable; else an error that names where it was given.
fn check<T>(
    usable: bool,
    setting: Setting<T>,
    about: &About,
    path: &Path,
    why: &str,
) -> Result<Setting<T>, CliError> {
    match setting.source {
        _ if usable => Ok(setting),
        Source::File => Err(malformed_config(path, &format!(": {}: {why}", about.name))),
        _ => Err(invalid(about.env, why)),
    }
}

/// Who makes us speak, as the environment tells: OpenClaw marks the shells of its agents with `OPENCLAW_SHELL`, `serve`
/// gives its agent's command a run id and the chain of the message it answers.
pub(super) fn caller(env: &Env) -> Result<Caller, CliError> {
    let shell = env.text("OPENCLAW_SHELL")?;
    Ok(Caller {
        agent: env.text("MESH_RUN_ID")?.is_some(),
        shell: shell.map(|shell| shell.chars().take(LONGEST_SHELL).collect()),
        chain: chain(env)?,
    })
}

fn chain(env: &Env) -> Result<Option<Chain>, CliError> {
    let Some(id) = env.text("MESH_CHAIN_ID")? else { return Ok(None) };
    let hops = env.text("MESH_CHAIN_HOPS")?.unwrap_or("0");
    let visited = env.text("MESH_CHAIN_VISITED")?.unwrap_or_default();
    let unreadable = || {
        let what = "expected a message id, a number, and names with commas between them, as serve gives them";
        invalid("MESH_CHAIN_ID, MESH_CHAIN_HOPS, MESH_CHAIN_VISITED", what)
    };
    Chain::from_values(id, hops, visited).map(Some).ok_or_else(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Env {
        let vars = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Env { vars, ..Env::empty() }
    }

    fn load(vars: &[(&str, &str)], file: &str) -> Result<Rules, CliError> {
        let (env, file) = (env(vars), toml::from_str(file).unwrap());
        let speaker = caller(&env)?.speaker();
        Ok(GuardSettings::load(&env, Path::new("config.toml"), &file, speaker)?.rules())
    }

    #[test]
    fn an_agent_can_make_its_limits_stricter_and_not_wider() {
        let vars = |value| [("MESH_PEER_PER_HOUR", value), ("MESH_REPEAT_WINDOW", "1h")];
        let agents = |value| [&vars(value)[..], &[("OPENCLAW_SHELL", "exec")]].concat();
        for (file, value, persons, agent) in
            [("", "5", 5, 5), ("", "900", 900, 60), ("peer-per-hour = 70", "900", 900, 70)]
        {
            assert_eq!(load(&vars(value), file).unwrap().peer_per_hour, persons);
            let rules = load(&agents(value), file).unwrap();
            assert_eq!((rules.peer_per_hour, rules.repeat_window.as_secs()), (agent, 3600));
        }
        let shorter = [("MESH_REPEAT_WINDOW", "1s"), ("MESH_RUN_ID", "x")];
        assert_eq!(load(&shorter, "").unwrap().repeat_window.as_secs(), 600);
    }

    #[test]
    fn what_cannot_be_a_limit_names_its_place() {
        for (vars, file, says) in [
            (&[("MESH_MAX_HOPS", "x")][..], "", "MESH_MAX_HOPS"),
            (&[("MESH_PEER_PER_HOUR", "0")], "", "MESH_PEER_PER_HOUR"),
            (&[], "thread-per-day = 0", "limits.thread-per-day"),
            (&[], "repeat-window = \"2d\"", "limits.repeat-window"),
            (&[("MESH_CHAIN_ID", "x")], "", "MESH_CHAIN_VISITED"),
            (
                &[("MESH_CHAIN_ID", "x"), ("MESH_CHAIN_VISITED", "a"), ("MESH_CHAIN_HOPS", "?")],
                "",
                "MESH_CHAIN_HOPS",
            ),
        ] {
            let error = load(vars, file).unwrap_err().message;
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_chain_is_read_as_serve_writes_it() {
        let vars = [("MESH_CHAIN_ID", "id"), ("MESH_CHAIN_HOPS", "1"), ("MESH_CHAIN_VISITED", "alice,b%2Cb")];
        let chain = caller(&env(&vars)).unwrap().chain.unwrap();
        assert_eq!((chain.hops, chain.visited.join(" ")), (1, "alice b,b".to_owned()));
    }
}
