//! Every setting once: its names, its default and its meaning. The loader reads variables by this table, `agent-mesh
//! config` prints it, and `docs/config.md` is written from it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{Setting, Settings, Source};
use crate::error::CliError;

/// What there is to know about a setting.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct About {
    /// Its name, also in `config.toml` if it may stand there.
    pub name: &'static str,
    /// Whether it may stand in `config.toml`.
    #[serde(rename = "inFile")]
    pub in_file: bool,
    /// The option, if there is one.
    pub flag: Option<&'static str>,
    /// The variable.
    pub env: &'static str,
    /// What it is when nobody says anything.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

pub const CONFIG: About = About {
    name: "config",
    in_file: false,
    flag: Some("--config"),
    env: "MESH_CONFIG",
    default: "`${XDG_CONFIG_HOME:-~/.config}/agent-team-mesh/config.toml`",
    meaning: "The settings file. It need not exist, unless you name one.",
};
pub const REGISTRY: About = About {
    name: "registry",
    in_file: true,
    flag: Some("--registry"),
    env: "MESH_REGISTRY",
    default: "the first that exists: `${XDG_CONFIG_HOME:-~/.config}/agent-team-mesh/registry.json`, \
              `./references/registry.json`, `../references/registry.json` beside the binary, \
              `~/.openclaw/workspace/skills/agent-team-mesh/references/registry.json`",
    meaning: "The team: who is in it, and where their gateways are.",
};
pub const TOKENS: About = About {
    name: "tokens",
    in_file: true,
    flag: Some("--tokens"),
    env: "MESH_TOKENS_FILE",
    default: "`${XDG_CONFIG_HOME:-~/.config}/agent-team-mesh/tokens.json`",
    meaning: "Our tokens for other peers' gateways. Its mode must be 0600.",
};
pub const POLICY: About = About {
    name: "policy",
    in_file: true,
    flag: Some("--policy"),
    env: "MESH_POLICY",
    default: "`${XDG_CONFIG_HOME:-~/.config}/agent-team-mesh/policy.toml`",
    meaning: "Who may talk to the agent behind `serve`, and how much ([policy.md](policy.md)). Its mode must be 0600. It \
              need not exist, unless you name one.",
};
pub const STATE_DIR: About = About {
    name: "state-dir",
    in_file: true,
    flag: Some("--state-dir"),
    env: "MESH_STATE_DIR",
    default: "`${XDG_STATE_HOME:-~/.local/state}/agent-team-mesh`",
    meaning: "The folder of our device key and of the tokens that gateways issued to it.",
};
pub const GATEWAY: About = About {
    name: "gateway",
    in_file: true,
    flag: Some("--gateway"),
    env: "MESH_GATEWAY_URL",
    default: "`ws://127.0.0.1:18789`",
    meaning: "Our own gateway, where `pair list`, `approve`, `reject` and `revoke` do their work.",
};
pub const GATEWAY_TOKEN: About = About {
    name: "gateway-token",
    in_file: false,
    flag: None,
    env: "OPENCLAW_GATEWAY_TOKEN",
    default: "`MESH_GATEWAY_TOKEN`, else `gateway.auth.token` of `~/.openclaw/openclaw.json`, else the token that \
              `agent-mesh serve` made",
    meaning: "The token of our own gateway. A secret: it is never shown.",
};
pub const SERVE_TOKEN: About = About {
    name: "serve-token",
    in_file: false,
    flag: Some("--token-file"),
    env: "MESH_GATEWAY_TOKEN",
    default: "`serve` makes one and keeps it in the state folder",
    meaning: "The token that `agent-mesh serve` asks of its owner. A secret: it is never shown. The option names a file \
              that holds it.",
};
pub const OPENAI_KEY: About = About {
    name: "openai-key",
    in_file: false,
    flag: Some("--api-key-file"),
    env: "MESH_OPENAI_KEY",
    default: "`OPENAI_API_KEY`, else none",
    meaning: "The key of the model behind `agent-mesh serve --agent openai`. A secret: it is never shown. The option \
              names a file that holds it.",
};
pub const OPENAI_API_KEY: About = About {
    name: "openai-api-key",
    in_file: false,
    flag: None,
    env: "OPENAI_API_KEY",
    default: "none",
    meaning: "The same, under the name that other programs use.",
};
pub const ME: About = About {
    name: "me",
    in_file: true,
    flag: Some("--me"),
    env: "MESH_MY_EMAIL",
    default: "the `email:` line of the first `USER.md` in `~/.openclaw/workspace`, `~/.config/agent-team-mesh` or the \
              working folder, else `user.email` of `~/sso.json`",
    meaning: "Who I am: an e-mail address, or the part before the @.",
};
pub const EMAIL_DOMAIN: About = About {
    name: "email-domain",
    in_file: true,
    flag: None,
    env: "MESH_EMAIL_DOMAIN",
    default: "`example.com`",
    meaning: "The domain that completes an e-mail prefix given alone.",
};
pub const IM_FALLBACK: About = About {
    name: "im-fallback",
    in_file: true,
    flag: None,
    env: "MESH_IM_FALLBACK",
    default: "none",
    meaning: "A script that delivers a message when a teammate's gateway cannot be reached. It is run without a shell as \
              `SCRIPT --to PREFIX@DOMAIN --msg TEXT`.",
};
pub const SOFT_LIMIT: About = About {
    name: "msg-soft-limit",
    in_file: true,
    flag: None,
    env: "MESH_MSG_SOFT_LIMIT",
    default: "`4096`",
    meaning: "A message of more bytes than this is sent with a warning. Bytes of UTF-8, without the header.",
};
pub const HARD_LIMIT: About = About {
    name: "msg-hard-limit",
    in_file: true,
    flag: None,
    env: "MESH_MSG_HARD_LIMIT",
    default: "`8192`",
    meaning: "A message of more bytes than this is not sent.",
};
pub const TIMEOUT: About = About {
    name: "timeout",
    in_file: true,
    flag: Some("--timeout"),
    env: "MESH_TIMEOUT",
    default: "`60s`",
    meaning: "How long a send may take, from the first look-up to the reply: `60`, `90s`, `2m`, `500ms`.",
};
pub const CONNECT_TIMEOUT: About = About {
    name: "connect-timeout",
    in_file: true,
    flag: None,
    env: "MESH_CONNECT_TIMEOUT",
    default: "`5s`",
    meaning: "How long it may take until a gateway has said its first word.",
};
pub const PRIVATE_NAMES: About = About {
    name: "allow-insecure-private-ws",
    in_file: true,
    flag: None,
    env: "OPENCLAW_ALLOW_INSECURE_PRIVATE_WS",
    default: "`0`",
    meaning: "`1` allows plain `ws://` to DNS names that lead to private addresses. Private addresses, loopback, \
              `.local` and `*.ts.net` need nothing; a public host needs `wss://` or `--insecure`.",
};
pub const QUEUE: About = About {
    name: "queue",
    in_file: true,
    flag: Some("--queue"),
    env: "MESH_QUEUE",
    default: "`0`",
    meaning: "`1` makes every `send` keep its message in the outbox while the teammate cannot be reached.",
};
pub const SYNC: About = About {
    name: "sync",
    in_file: true,
    flag: Some("--from"),
    env: "MESH_SYNC_FROM",
    default: "none",
    meaning: "Where `sync` gets the team's list from ([sync.md](sync.md)). The variable names one source; in the file \
              each is a table, in the order that decides between them: `[[sync]]` with `from = \"https://…\"` and, if \
              it wants a token, `bearer-file = \"PATH\"` (0600).",
};
pub const MAX_HOPS: About = About {
    name: "limits.max-hops",
    in_file: true,
    flag: None,
    env: "MESH_MAX_HOPS",
    default: "`4`",
    meaning: "How often agents may pass a message on. In `config.toml`, these six stand under `[limits]`. In the shell of \
              an agent a variable can only make them stricter.",
};
pub const PEER_PER_HOUR: About = About {
    name: "limits.peer-per-hour",
    in_file: true,
    flag: None,
    env: "MESH_PEER_PER_HOUR",
    default: "`60`",
    meaning: "How many messages may go to one teammate in an hour. The default is for agents; a person may send 1,000 \
              times as many, unless it is set here.",
};
pub const TOTAL_PER_HOUR: About = About {
    name: "limits.total-per-hour",
    in_file: true,
    flag: None,
    env: "MESH_TOTAL_PER_HOUR",
    default: "`240`",
    meaning: "How many messages may go to all teammates in an hour; for people as with `limits.peer-per-hour`. A broadcast \
              counts once.",
};
pub const THREAD_PER_DAY: About = About {
    name: "limits.thread-per-day",
    in_file: true,
    flag: None,
    env: "MESH_THREAD_PER_DAY",
    default: "`100`",
    meaning: "How many messages may go into one conversation (a session of a teammate) in a day; for people as with \
              `limits.peer-per-hour`.",
};
pub const UNREACHABLE_PER_HOUR: About = About {
    name: "limits.unreachable-per-hour",
    in_file: true,
    flag: None,
    env: "MESH_UNREACHABLE_PER_HOUR",
    default: "`20`",
    meaning: "How often a teammate who cannot be reached may be tried in an hour, counted from the last message that left \
              for them; for people as with `limits.peer-per-hour`.",
};
pub const REPEAT_WINDOW: About = About {
    name: "limits.repeat-window",
    in_file: true,
    flag: None,
    env: "MESH_REPEAT_WINDOW",
    default: "`10m`",
    meaning: "For how long the same text may not go to the same teammate again; 24 h at most. The default is for agents; people \
              may repeat themselves, unless it is set here.",
};
pub const JSON: About = About {
    name: "json",
    in_file: false,
    flag: Some("--json"),
    env: "MESH_JSON",
    default: "`0`",
    meaning: "`1` prints one JSON document in place of text.",
};
pub const NO_COLOR: About = About {
    name: "no-color",
    in_file: false,
    flag: Some("--no-color"),
    env: "NO_COLOR",
    default: "unset",
    meaning: "Set to anything, it means no colours. Output that goes to no terminal has none anyway.",
};

/// A setting as it is now.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    #[serde(flatten)]
    pub about: &'static About,
    /// None where nobody said anything and nothing is the default.
    pub value: Option<String>,
    /// `flag --tokens`, `env MESH_TOKENS_FILE`, the path of the settings file, or `default`.
    pub source: String,
}

impl Settings {
    /// Every setting and where it came from. Of secrets only whether they are set.
    pub fn effective(&self) -> Result<Vec<Effective>, CliError> {
        let path = |path: &Path| Some(path.display().to_string());
        let time = |time: Duration| Some(format!("{time:?}"));
        let secret = |set: bool| Some(if set { "set" } else { "unset" }.to_owned());
        let (own_token, serve_token) = (self.own_token_setting()?, self.serve_token_setting()?);
        Ok(vec![
            self.row(&CONFIG, &self.config_file, |value| path(value)),
            self.row(&REGISTRY, &self.registry, |value| path(value)),
            self.row(&TOKENS, &self.tokens, |value| path(value)),
            self.row(&POLICY, &self.policy, |value| path(value)),
            self.row(&STATE_DIR, &self.state_dir, |value| path(value)),
            self.row(&GATEWAY, &self.gateway, |value| Some(value.to_string())),
            self.row(&GATEWAY_TOKEN, &own_token, |value| secret(value.is_some())),
            self.row(&SERVE_TOKEN, &serve_token, |value| secret(value.is_some())),
            self.row(&OPENAI_KEY, &self.secret(&OPENAI_KEY)?, |value| secret(value.is_some())),
            self.row(&OPENAI_API_KEY, &self.secret(&OPENAI_API_KEY)?, |value| secret(value.is_some())),
            self.row(&ME, &self.me, Clone::clone),
            self.row(&EMAIL_DOMAIN, &self.email_domain, |value| Some(value.clone())),
            self.row(&IM_FALLBACK, &self.im_fallback, |value| value.as_deref().and_then(path)),
            self.row(&SOFT_LIMIT, &self.soft_limit, |value| Some(value.to_string())),
            self.row(&HARD_LIMIT, &self.hard_limit, |value| Some(value.to_string())),
            self.row(&TIMEOUT, &self.timeout, |value| time(*value)),
            self.row(&CONNECT_TIMEOUT, &self.connect_timeout, |value| time(*value)),
            self.row(&PRIVATE_NAMES, &self.private_names, |value| Some(value.to_string())),
            self.row(&QUEUE, &self.queue, |value| Some(value.to_string())),
            self.row(&SYNC, &self.sync, |value| super::sync::show(value)),
            self.row(&MAX_HOPS, &self.guards.max_hops, |value| Some(value.to_string())),
            self.row(&PEER_PER_HOUR, &self.guards.peer_per_hour, |value| Some(value.to_string())),
            self.row(&TOTAL_PER_HOUR, &self.guards.total_per_hour, |value| Some(value.to_string())),
            self.row(&THREAD_PER_DAY, &self.guards.thread_per_day, |value| Some(value.to_string())),
            self.row(&UNREACHABLE_PER_HOUR, &self.guards.unreachable_per_hour, |value| {
                Some(value.to_string())
            }),
            self.row(&REPEAT_WINDOW, &self.guards.repeat_window, |value| time(*value)),
            self.row(&JSON, &self.json, |value| Some(value.to_string())),
            self.row(&NO_COLOR, &self.no_color, |value| Some(value.to_string())),
        ])
    }

    fn row<T>(
        &self,
        about: &'static About,
        setting: &Setting<T>,
        show: impl FnOnce(&T) -> Option<String>,
    ) -> Effective {
        let source = match setting.source {
            Source::Flag(flag) => format!("flag {flag}"),
            Source::Env(name) => format!("env {name}"),
            Source::File => self.config_file.value.display().to_string(),
            Source::Default => "default".to_owned(),
        };
        Effective { about, value: show(&setting.value), source }
    }
}
