//! Flag, environment, file, default: the only reader of the environment and the home folder.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use agent_team_mesh::client::{Endpoint, Secret};
use agent_team_mesh::fallback::ImFallback;
use agent_team_mesh::guard::Caller;
use agent_team_mesh::identity::IdentitySources;
use agent_team_mesh::message::Limits;
use agent_team_mesh::{Mesh, MeshConfig, OwnGatewayConfig, PlainText};
use serde::Deserialize;

use crate::args::{GlobalArgs, duration};
use crate::error::{CliError, Exit};

pub mod guards;
pub mod sync;
pub mod table;

use guards::{GuardSettings, LimitsTable};
use sync::SyncEntry;
use table::About;

/// The environment, taken once.
pub struct Env {
    vars: HashMap<OsString, OsString>,
    args: Vec<OsString>,
    home: Option<PathBuf>,
    exe: Option<PathBuf>,
}

impl Env {
    /// Of this process.
    #[allow(clippy::disallowed_methods)] // The one place that may.
    pub fn of_process() -> Self {
        Self {
            vars: std::env::vars_os().collect(),
            args: std::env::args_os().collect(),
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            exe: std::env::current_exe().ok(),
        }
    }

    /// Of nobody.
    fn empty() -> Self {
        Self { vars: HashMap::new(), args: Vec::new(), home: None, exe: None }
    }

    pub fn args(&self) -> impl Iterator<Item = OsString> {
        self.args.clone().into_iter()
    }

    /// A variable that is set to something.
    fn get(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, CliError> {
        self.get(name).map(|value| value.to_str().ok_or_else(|| invalid(name, "it is not UTF-8"))).transpose()
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, CliError> {
        match self.text(name)? {
            None => Ok(None),
            Some("1" | "true" | "yes" | "on") => Ok(Some(true)),
            Some("0" | "false" | "no" | "off") => Ok(Some(false)),
            Some(_) => Err(invalid(name, "expected 1 or 0")),
        }
    }

    /// `NO_COLOR`, whatever its value.
    pub fn no_color(&self) -> bool {
        self.get("NO_COLOR").is_some()
    }

    /// `MESH_JSON`.
    pub fn json(&self) -> Result<bool, CliError> {
        Ok(self.flag("MESH_JSON")?.unwrap_or(false))
    }

    fn xdg(&self, name: &str, fallback: &str) -> PathBuf {
        // The specification: a relative path there is to be ignored.
        match self.get(name).map(PathBuf::from).filter(|path| path.is_absolute()) {
            Some(path) => path,
            None => self.home.as_deref().unwrap_or(Path::new("")).join(fallback),
        }
    }
}

fn invalid(name: &str, why: &str) -> CliError {
    CliError::usage(format!("{name}: {why}"))
}

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

/// `config.toml`. Every key is optional; an unknown one is a mistake.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct ConfigFile {
    registry: Option<PathBuf>,
    tokens: Option<PathBuf>,
    policy: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    gateway: Option<String>,
    me: Option<String>,
    email_domain: Option<String>,
    im_fallback: Option<PathBuf>,
    msg_soft_limit: Option<usize>,
    msg_hard_limit: Option<usize>,
    timeout: Option<String>,
    connect_timeout: Option<String>,
    allow_insecure_private_ws: Option<bool>,
    queue: Option<bool>,
    sync: Option<Vec<SyncEntry>>,
    limits: LimitsTable,
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

/// The three layers above the defaults.
struct Layers<'a> {
    env: &'a Env,
}

impl Layers<'_> {
    /// A path: flag, variable, file, default.
    fn path(
        &self,
        about: &About,
        flag: Option<&PathBuf>,
        file: Option<PathBuf>,
        default: impl FnOnce() -> PathBuf,
    ) -> Setting<PathBuf> {
        first(about, flag.cloned(), self.env.get(about.env).map(PathBuf::from), file, default)
    }

    /// A value that a variable spells as text.
    fn parsed<T: FromStr>(
        &self,
        about: &About,
        file: Option<T>,
        default: T,
        expected: &str,
    ) -> Result<Setting<T>, CliError> {
        let name = about.env;
        let env = self.env.text(name)?.map(|text| text.parse::<T>().map_err(|_| invalid(name, expected)));
        Ok(first(about, None, env.transpose()?, file, || default))
    }

    fn duration(
        &self,
        about: &About,
        file: Option<InFile<'_>>,
        default: u64,
    ) -> Result<Setting<Duration>, CliError> {
        let env =
            self.env.text(about.env)?.map(|text| duration(text).map_err(|why| invalid(about.env, &why)));
        let file = file.map(|InFile(path, text)| {
            duration(&text).map_err(|why| malformed_config(path, &format!(": {}: {why}", about.name)))
        });
        Ok(first(about, None, env.transpose()?, file.transpose()?, || Duration::from_secs(default)))
    }

    /// A switch: an option without a value.
    fn switch(&self, about: &About, flag: bool, file: Option<bool>) -> Result<Setting<bool>, CliError> {
        Ok(first(about, flag.then_some(true), self.env.flag(about.env)?, file, || false))
    }
}

/// A value of the settings file that is still text.
struct InFile<'a>(&'a Path, String);

/// The strongest layer that says anything.
fn first<T>(
    about: &About,
    flag: Option<T>,
    env: Option<T>,
    file: Option<T>,
    default: impl FnOnce() -> T,
) -> Setting<T> {
    let option = about.flag.unwrap_or_default();
    let layers = [(flag, Source::Flag(option)), (env, Source::Env(about.env)), (file, Source::File)];
    for (value, source) in layers {
        if let Some(value) = value {
            return Setting { value, source };
        }
    }
    Setting { value: default(), source: Source::Default }
}

impl Settings {
    /// Merges the layers.
    pub fn load(args: &GlobalArgs, env: Env) -> Result<Self, CliError> {
        let config_dir = env.xdg("XDG_CONFIG_HOME", ".config").join("agent-team-mesh");
        let state_default = env.xdg("XDG_STATE_HOME", ".local/state").join("agent-team-mesh");
        let layers = Layers { env: &env };
        let json = layers.switch(&table::JSON, args.json, None)?;
        let config_file =
            layers.path(&table::CONFIG, args.config.as_ref(), None, || config_dir.join("config.toml"));
        let file = read_config(&config_file)?;
        let in_file = |text| InFile(&config_file.value, text);
        let caller = guards::caller(&env)?;
        Ok(Self {
            registry: layers.path(&table::REGISTRY, args.registry.as_ref(), file.registry, || {
                default_registry(&config_dir, &env)
            }),
            tokens: layers
                .path(&table::TOKENS, args.tokens.as_ref(), file.tokens, || config_dir.join("tokens.json")),
            policy: layers
                .path(&table::POLICY, args.policy.as_ref(), file.policy, || config_dir.join("policy.toml")),
            state_dir: layers
                .path(&table::STATE_DIR, args.state_dir.as_ref(), file.state_dir, || state_default),
            gateway: gateway(args, &env, file.gateway)?,
            me: first(
                &table::ME,
                args.me.clone().map(Some),
                env.text(table::ME.env)?.map(|me| Some(me.to_owned())),
                file.me.map(Some),
                || None,
            ),
            email_domain: layers.parsed(
                &table::EMAIL_DOMAIN,
                file.email_domain,
                "example.com".to_owned(),
                "",
            )?,
            im_fallback: first(
                &table::IM_FALLBACK,
                None,
                env.get(table::IM_FALLBACK.env).map(|path| Some(PathBuf::from(path))),
                file.im_fallback.map(Some),
                || None,
            ),
            soft_limit: layers.parsed(
                &table::SOFT_LIMIT,
                file.msg_soft_limit,
                4096,
                "expected a number of bytes",
            )?,
            hard_limit: layers.parsed(
                &table::HARD_LIMIT,
                file.msg_hard_limit,
                8192,
                "expected a number of bytes",
            )?,
            timeout: layers.duration(&table::TIMEOUT, file.timeout.map(in_file), 60)?,
            connect_timeout: layers.duration(
                &table::CONNECT_TIMEOUT,
                file.connect_timeout.map(in_file),
                5,
            )?,
            private_names: layers.switch(&table::PRIVATE_NAMES, false, file.allow_insecure_private_ws)?,
            queue: layers.switch(&table::QUEUE, false, file.queue)?,
            sync: first(
                &table::SYNC,
                None,
                env.text(table::SYNC.env)?.map(|from| vec![SyncEntry::plain(from)]),
                file.sync,
                Vec::new,
            ),
            guards: GuardSettings::load(&env, &config_file.value, &file.limits, caller.speaker())?,
            caller,
            json,
            no_color: first(
                &table::NO_COLOR,
                args.no_color.then_some(true),
                env.no_color().then_some(true),
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
        Ok(Mesh::new(config))
    }

    fn identity_sources(&self) -> IdentitySources {
        let home = |path: &str| self.env.home.as_ref().map(|home| home.join(path));
        let (flag, env) = match self.me.source {
            Source::Env(_) => (None, self.me.value.clone()),
            _ => (self.me.value.clone(), None),
        };
        let user_md = [
            home(".openclaw/workspace/USER.md"),
            home(".config/agent-team-mesh/USER.md"),
            Some(PathBuf::from("./USER.md")),
        ];
        IdentitySources {
            flag,
            env,
            user_md: user_md.into_iter().flatten().collect(),
            sso: home("sso.json"),
            domain: self.email_domain.value.clone(),
        }
    }

    /// The token of our own gateway, from the environment.
    fn own_token(&self) -> Result<Option<Secret>, CliError> {
        Ok(self.own_token_setting()?.value)
    }

    fn own_token_setting(&self) -> Result<Setting<Option<Secret>>, CliError> {
        let own = self.secret(&table::GATEWAY_TOKEN)?;
        if own.value.is_some() { Ok(own) } else { self.serve_token_setting() }
    }

    /// `MESH_GATEWAY_TOKEN`: the token `serve` asks of its owner.
    pub fn serve_token(&self) -> Result<Option<Secret>, CliError> {
        Ok(self.serve_token_setting()?.value)
    }

    fn serve_token_setting(&self) -> Result<Setting<Option<Secret>>, CliError> {
        self.secret(&table::SERVE_TOKEN)
    }

    /// `MESH_OPENAI_KEY`, else `OPENAI_API_KEY`: the key of the model behind `serve --agent openai`.
    pub fn openai_key(&self) -> Result<Option<Secret>, CliError> {
        let own = self.secret(&table::OPENAI_KEY)?;
        if own.value.is_some() { Ok(own.value) } else { Ok(self.secret(&table::OPENAI_API_KEY)?.value) }
    }

    fn secret(&self, about: &About) -> Result<Setting<Option<Secret>>, CliError> {
        let token = self.env.text(about.env)?.map(|token| Some(Secret::new(token.trim().to_owned())));
        Ok(first(about, None, token, None, || None))
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
fn gateway(args: &GlobalArgs, env: &Env, file: Option<String>) -> Result<Setting<Endpoint>, CliError> {
    let about = &table::GATEWAY;
    let given = env.text(about.env)?.map(str::to_owned);
    let url = first(about, args.gateway.clone(), given, file, || "ws://127.0.0.1:18789".to_owned());
    let place = match url.source {
        Source::Flag(name) | Source::Env(name) => name,
        Source::File | Source::Default => "config.toml: gateway",
    };
    let value = url.value.parse::<Endpoint>().map_err(|error| invalid(place, &error.to_string()))?;
    Ok(Setting { value, source: url.source })
}

fn malformed_config(path: &Path, why: &str) -> CliError {
    CliError::new(Exit::Usage, "config-malformed", format!("{}{why}", path.display()))
}

fn read_config(path: &Setting<PathBuf>) -> Result<ConfigFile, CliError> {
    match std::fs::read_to_string(&path.value) {
        Ok(text) => toml::from_str(&text).map_err(|error: toml::de::Error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let (line, column) = (
                before.matches('\n').count() + 1,
                before.chars().rev().take_while(|c| *c != '\n').count() + 1,
            );
            malformed_config(&path.value, &format!(":{line}:{column}: {}", error.message()))
        }),
        // Only a file that somebody named has to be there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.source == Source::Default => {
            Ok(ConfigFile::default())
        }
        Err(error) => Err(malformed_config(&path.value, &format!(": {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)], home: &Path) -> Env {
        Env {
            vars: vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            args: Vec::new(),
            home: Some(home.to_owned()),
            exe: None,
        }
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
