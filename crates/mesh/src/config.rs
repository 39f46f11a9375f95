//! Everything the mesh has to be told: the caller reads flags, environment and files, and merges them into this.

use std::path::PathBuf;
use std::time::Duration;

use openclaw_client::{Endpoint, Secret};

use crate::fallback::ImFallback;
use crate::guard::{Caller, Rules};
use crate::identity::IdentitySources;
use crate::message::Limits;

/// The settings of a [`Mesh`](crate::Mesh).
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// `registry.json`.
    pub registry: PathBuf,
    /// `tokens.json`: our shared tokens for other peers.
    pub tokens: PathBuf,
    /// The folder of the device key and the device tokens.
    pub state_dir: PathBuf,
    /// Where our identity may come from.
    pub identity: IdentitySources,
    /// Our own gateway.
    pub gateway: OwnGatewayConfig,
    /// How large a message may be.
    pub limits: Limits,
    /// How much may be said, and how far a chain of messages may go.
    pub rules: Rules,
    /// Who makes us speak.
    pub caller: Caller,
    /// What delivers when a gateway cannot be reached.
    pub fallback: Option<ImFallback>,
    /// How long it may take until a gateway sent its challenge.
    pub connect_timeout: Duration,
    /// Who may overhear.
    pub plain_text: PlainText,
}

impl MeshConfig {
    /// With these files, and our own gateway there; nobody says who we are, and all else is as it is without settings.
    #[must_use]
    pub fn new(registry: PathBuf, tokens: PathBuf, state_dir: PathBuf, own_gateway: Endpoint) -> Self {
        Self {
            registry,
            tokens,
            state_dir,
            identity: IdentitySources::default(),
            gateway: OwnGatewayConfig::at(own_gateway),
            limits: Limits::default(),
            rules: Rules::default(),
            caller: Caller::default(),
            fallback: None,
            connect_timeout: Duration::from_secs(5),
            plain_text: PlainText::default(),
        }
    }
}

/// Where plain `ws://` may go, beyond loopback, private addresses, `.local` and `*.ts.net`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainText {
    /// Nowhere else.
    #[default]
    PrivateAddresses,
    /// To DNS names that lead to private addresses, too.
    PrivateNames,
    /// Anywhere.
    Anywhere,
}

/// Our own gateway, for pairing.
#[derive(Clone, Debug)]
pub struct OwnGatewayConfig {
    /// Its address.
    pub endpoint: Endpoint,
    /// Its token, where the environment names one.
    pub token: Option<Secret>,
    /// OpenClaw's settings file, which may hold the token.
    pub openclaw_json: Option<PathBuf>,
    /// The token that `agent-mesh serve` made for itself.
    pub serve_token: Option<PathBuf>,
    /// Where `agent-mesh serve` leaves word where it listens.
    pub serve_address: Option<PathBuf>,
}

impl OwnGatewayConfig {
    /// There, with no place that its token may come from.
    #[must_use]
    pub fn at(endpoint: Endpoint) -> Self {
        Self { endpoint, token: None, openclaw_json: None, serve_token: None, serve_address: None }
    }
}
