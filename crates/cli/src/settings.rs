//! Flag, environment, file, default: the only reader of the environment and the home folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_team_mesh::client::Endpoint;
use agent_team_mesh::fallback::ImFallback;
use agent_team_mesh::guard::Caller;
use agent_team_mesh::identity::{Configured, IdentitySources};
use agent_team_mesh::message::Limits;
use agent_team_mesh::{Mesh, MeshConfig, OwnGatewayConfig, PlainText};

use crate::args::GlobalArgs;
use crate::error::CliError;

mod env;
mod file;
pub mod guards;
mod layers;
mod programs;
mod secrets;
mod spelled;
pub mod sync;
pub mod table;

pub use env::Env;
use env::invalid;
use file::ConfigFile;
use guards::GuardSettings;
use layers::{InFile, Layers, first};
pub use programs::Program;
use sync::SyncEntry;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This option of the command line.
    Flag(&'static str),
    /// This variable.
    Env(&'static str),
    /// The settings file.
    File,
    /// Nobody said anything.
    Default,
}

/// A setting and where it came from.
#[derive(Debug, Clone)]
pub struct Setting<T> {
    pub value: T,
    pub source: Source,
}

/// All settings, merged.
pub struct Settings {
    pub config_file: Setting<PathBuf>,
    pub registry: Setting<PathBuf>,
    pub tokens: Setting<PathBuf>,
    pub policy: Setting<PathBuf>,
    pub state_dir: Setting<PathBuf>,
    pub gateway: Setting<Endpoint>,
    pub me: Setting<Option<String>>,
    pub email_domain: Setting<String>,
    pub im_fallback: Setting<Option<PathBuf>>,
    pub soft_limit: Setting<usize>,
    pub hard_limit: Setting<usize>,
    pub timeout: Setting<Duration>,
    pub connect_timeout: Setting<Duration>,
    pub private_names: Setting<bool>,
    pub queue: Setting<bool>,
    pub sync: Setting<Vec<SyncEntry>>,
    pub guards: GuardSettings,
    pub caller: Caller,
    pub json: Setting<bool>,
    pub no_color: Setting<bool>,
    env: Env,
}

impl Settings {
    /// Merges the layers.
    pub fn load(args: &GlobalArgs, env: Env) -> Result<Self, CliError> {
        let folder = env.xdg("XDG_CONFIG_HOME", ".config").join("agent-team-mesh");
        let layers = Layers { env: &env };
        let json = layers.switch(&table::JSON, args.json, None)?;
        let config_file =
            layers.path(&table::CONFIG, args.config.as_ref(), None, || folder.join("config.toml"));
        let mut file = file::read(&config_file)?;
        let caller = guards::caller(&env)?;
        let guards = GuardSettings::load(&env, &config_file.value, &file.limits, caller.speaker())?;
        let [registry, tokens, policy, state_dir] = places(&layers, args, &mut file, &folder);
        let [soft_limit, hard_limit] = sizes(&layers, &file)?;
        let [timeout, connect_timeout] = times(&layers, &mut file, &config_file.value)?;
        Ok(Self {
            registry,
            tokens,
            policy,
            state_dir,
            gateway: gateway(&layers, args, file.gateway.take())?,
            me: layers.text(&table::ME, args.me.clone(), file.me.take())?,
            email_domain: layers.parsed(&table::EMAIL_DOMAIN, file.email_domain, "example.com".into(), "")?,
            im_fallback: layers.optional_path(&table::IM_FALLBACK, file.im_fallback.take()),
            soft_limit,
            hard_limit,
            timeout,
            connect_timeout,
            private_names: layers.switch(&table::PRIVATE_NAMES, false, file.allow_insecure_private_ws)?,
            queue: layers.switch(&table::QUEUE, false, file.queue)?,
            sync: sync::entries(&layers, file.sync.take())?,
            guards,
            caller,
            json,
            no_color: first(
                &table::NO_COLOR,
                args.no_color.then_some(true),
                env.set_no_color(),
                None,
                || false,
            ),
            config_file,
            env,
        })
    }

    /// The settings of a team that lives in one folder, whatever the environment says: for the demo.
    pub fn in_folder(&self, folder: &Path) -> Result<Self, CliError> {
        let args = GlobalArgs {
            registry: Some(folder.join("registry.json")),
            tokens: Some(folder.join("tokens.json")),
            state_dir: Some(folder.join("state")),
            me: Some("you@example.com".to_owned()),
            ..GlobalArgs::default()
        };
        Self::load(&args, Env { home: Some(folder.to_owned()), ..Env::empty() })
    }

    /// The mesh these settings describe.
    pub fn mesh(&self, insecure: bool) -> Result<Mesh, CliError> {
        let limits = Limits::new(self.soft_limit.value, self.hard_limit.value)
            .map_err(|e| CliError::usage(format!("MESH_MSG_SOFT_LIMIT, MESH_MSG_HARD_LIMIT: {e}")))?;
        let plain_text = match (insecure, self.private_names.value) {
            (true, _) => PlainText::Anywhere,
            (false, true) => PlainText::PrivateNames,
            (false, false) => PlainText::PrivateAddresses,
        };
        Ok(Mesh::new(MeshConfig {
            registry: self.registry.value.clone(),
            tokens: self.tokens.value.clone(),
            state_dir: self.state_dir.value.clone(),
            identity: self.identity_sources(),
            gateway: OwnGatewayConfig {
                endpoint: self.gateway.value.clone(),
                token: self.own_token()?,
                openclaw_json: self.env.home.as_ref().map(|home| home.join(".openclaw/openclaw.json")),
                serve_token: Some(self.serve_token_path()),
                serve_address: Some(self.serve_address_path()),
            },
            limits,
            rules: self.guards.rules(),
            caller: self.caller.clone(),
            fallback: self.im_fallback.value.clone().map(|script| ImFallback {
                script,
                domain: self.email_domain.value.clone(),
                timeout: Duration::from_secs(30),
            }),
            connect_timeout: self.connect_timeout.value,
            plain_text,
        }))
    }

    /// The mesh whose own gateway is the one behind `serve --agent openclaw`: its token comes from `OPENCLAW_GATEWAY_TOKEN`
    /// or OpenClaw's settings, and never is the one that `serve` asks of others.
    pub fn upstream(&self) -> Result<Mesh, CliError> {
        let mut config = self.mesh(false)?.config().clone();
        config.gateway.token = self.secret(&table::GATEWAY_TOKEN)?.value;
        config.gateway.serve_token = None;
        config.gateway.serve_address = None;
        Ok(Mesh::new(config))
    }

    /// Where it stands who we are.
    pub fn identity_sources(&self) -> IdentitySources {
        let home = |path: &str| self.env.home.as_ref().map(|home| home.join(path));
        let me = self.me.value.clone();
        let (flag, env, config) = match self.me.source {
            Source::Env(_) => (None, me, None),
            Source::File => (None, None, me),
            _ => (me, None, None),
        };
        let config = config.map(|value| Configured { value, path: self.config_file.value.clone() });
        let user_md = [
            home(".openclaw/workspace/USER.md"),
            home(".config/agent-team-mesh/USER.md"),
            Some(PathBuf::from("./USER.md")),
        ];
        IdentitySources {
            flag,
            env,
            config,
            user_md: user_md.into_iter().flatten().collect(),
            sso: home("sso.json"),
            domain: self.email_domain.value.clone(),
        }
    }

    /// Where OpenClaw looks for the skill, and the bash skill was.
    pub fn skill_dir(&self) -> PathBuf {
        let home = self.env.home.as_deref().unwrap_or(Path::new(""));
        home.join(".openclaw/workspace/skills/agent-team-mesh")
    }

    /// Where `serve` keeps the token it makes.
    pub fn serve_token_path(&self) -> PathBuf {
        self.state_dir.value.join("serve-token")
    }

    /// Where `serve` leaves word where it listens.
    pub fn serve_address_path(&self) -> PathBuf {
        self.state_dir.value.join("serve-address")
    }
}

/// Registry, tokens, policy and state folder.
fn places(
    layers: &Layers<'_>,
    args: &GlobalArgs,
    file: &mut ConfigFile,
    folder: &Path,
) -> [Setting<PathBuf>; 4] {
    let state = || layers.env.xdg("XDG_STATE_HOME", ".local/state").join("agent-team-mesh");
    let registry = || default_registry(folder, layers.env);
    [
        layers.path(&table::REGISTRY, args.registry.as_ref(), file.registry.take(), registry),
        layers.path(&table::TOKENS, args.tokens.as_ref(), file.tokens.take(), || folder.join("tokens.json")),
        layers.path(&table::POLICY, args.policy.as_ref(), file.policy.take(), || folder.join("policy.toml")),
        layers.path(&table::STATE_DIR, args.state_dir.as_ref(), file.state_dir.take(), state),
    ]
}

/// From how many bytes a message is warned of, and refused.
fn sizes(layers: &Layers<'_>, file: &ConfigFile) -> Result<[Setting<usize>; 2], CliError> {
    let bytes =
        |about, in_file, default| layers.parsed(about, in_file, default, "expected a number of bytes");
    let mut soft = bytes(&table::SOFT_LIMIT, file.msg_soft_limit, 4096)?;
    let hard = bytes(&table::HARD_LIMIT, file.msg_hard_limit, 8192)?;
    // Whoever lowers the one that refuses has said nothing of the other.
    if soft.source == Source::Default {
        soft.value = soft.value.min(hard.value);
    }
    Ok([soft, hard])
}

/// How long a message may take, and a connection.
fn times(
    layers: &Layers<'_>,
    file: &mut ConfigFile,
    path: &Path,
) -> Result<[Setting<Duration>; 2], CliError> {
    let in_file = |text| InFile(path, text);
    Ok([
        layers.duration(&table::TIMEOUT, file.timeout.take().map(in_file), 60)?,
        layers.duration(&table::CONNECT_TIMEOUT, file.connect_timeout.take().map(in_file), 5)?,
    ])
}

/// The first that exists of the places in the contract; where `init` would write it, if none does.
fn default_registry(config_dir: &Path, env: &Env) -> PathBuf {
    let beside_binary =
        env.exe.as_ref().and_then(|exe| Some(exe.parent()?.join("../references/registry.json")));
    let skill = "~/.openclaw/workspace/skills/agent-team-mesh/references/registry.json";
    let places = [
        Some(config_dir.join("registry.json")),
        Some(PathBuf::from("./references/registry.json")),
        beside_binary,
        env.home.as_ref().map(|home| home.join(skill.trim_start_matches("~/"))),
    ];
    let mut places = places.into_iter().flatten();
    places.clone().find(|path| path.exists()).or_else(|| places.next()).unwrap_or_default()
}

/// Our own gateway; a mistake names where the address was given.
fn gateway(
    layers: &Layers<'_>,
    args: &GlobalArgs,
    file: Option<String>,
) -> Result<Setting<Endpoint>, CliError> {
    let about = &table::GATEWAY;
    let given = layers.env.text(about.env)?.map(str::to_owned);
    let url = first(about, args.gateway.clone(), given, file, || "ws://127.0.0.1:18789".to_owned());
    let place = match url.source {
        Source::Flag(name) | Source::Env(name) => name,
        Source::File | Source::Default => "config.toml: gateway",
    };
    let value = url.value.parse::<Endpoint>().map_err(|error| invalid(place, &error.to_string()))?;
    Ok(Setting { value, source: url.source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn env(vars: &[(&str, &str)], home: &Path) -> Env {
        let vars = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Env { vars, home: Some(home.to_owned()), ..Env::empty() }
    }

    fn load(args: &GlobalArgs, vars: &[(&str, &str)], home: &Path) -> Result<Settings, CliError> {
        Settings::load(args, env(vars, home))
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".config/agent-team-mesh");
        std::fs::create_dir_all(&dir).unwrap();
        let tokens = |args: &GlobalArgs, vars: &[(&str, &str)]| {
            let setting = load(args, vars, home.path()).unwrap().tokens;
            (setting.value.to_string_lossy().into_owned(), setting.source)
        };
        let none = GlobalArgs::default();
        let default = dir.join("tokens.json").to_string_lossy().into_owned();
        assert_eq!(tokens(&none, &[]), (default, Source::Default));
        std::fs::write(dir.join("config.toml"), "tokens = \"/file\"").unwrap();
        assert_eq!(tokens(&none, &[]), ("/file".into(), Source::File));
        let vars = [("MESH_TOKENS_FILE", "/env")];
        assert_eq!(tokens(&none, &vars), ("/env".into(), Source::Env("MESH_TOKENS_FILE")));
        let flag = GlobalArgs { tokens: Some("/flag".into()), ..GlobalArgs::default() };
        assert_eq!(tokens(&flag, &vars), ("/flag".into(), Source::Flag("--tokens")));
    }

    #[test]
    fn a_value_that_does_not_parse_names_its_variable() {
        let home = tempfile::tempdir().unwrap();
        let cases = [
            ("MESH_MSG_SOFT_LIMIT", "4k"),
            ("MESH_MSG_HARD_LIMIT", "-1"),
            ("MESH_TIMEOUT", "soon"),
            ("MESH_GATEWAY_URL", "http//x"),
            ("OPENCLAW_ALLOW_INSECURE_PRIVATE_WS", "maybe"),
        ];
        for (name, value) in cases {
            let error = load(&GlobalArgs::default(), &[(name, value)], home.path()).err().unwrap();
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.message.starts_with(name), "{}", error.message);
        }
    }

    #[test]
    fn the_registry_is_found_where_the_bash_skill_keeps_it() {
        let home = tempfile::tempdir().unwrap();
        let skill = home.path().join(".openclaw/workspace/skills/agent-team-mesh/references");
        std::fs::create_dir_all(&skill).unwrap();
        std::fs::write(skill.join("registry.json"), "{}").unwrap();
        let found =
            |vars: &[(&str, &str)]| load(&GlobalArgs::default(), vars, home.path()).unwrap().registry.value;
        assert_eq!(found(&[]), skill.join("registry.json"));
        let own = home.path().join(".config/agent-team-mesh");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("registry.json"), "{}").unwrap();
        assert_eq!(found(&[]), own.join("registry.json"));
    }

    #[test]
    fn a_settings_file_with_an_unknown_key_is_a_mistake() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c.toml");
        std::fs::write(&path, "tokns = \"x\"").unwrap();
        let args = GlobalArgs { config: Some(path), ..GlobalArgs::default() };
        let error = load(&args, &[], home.path()).err().unwrap();
        assert_eq!((error.exit, error.code), (Exit::Usage, "config-malformed"));
        assert!(error.message.contains("tokns"), "{}", error.message);
    }
}
