//! `agent-mesh serve`

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_mesh_gateway::{Config, FailedRun, Gateway, Memory, NoMemory, SharedToken, Store};
use agent_team_mesh::MeshError;
use agent_team_mesh::archive::Archive;
use agent_team_mesh::client::Secret;
use agent_team_mesh::client::protocol::methods::info::GatewayIdentity;
use agent_team_mesh::device::DeviceKey;
use agent_team_mesh::private_file;
use clap::Args;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{CliError, Exit, chain, token_too_short};
use crate::settings::Settings;
use crate::text;
use crate::ui::{LogFormat, Ui};

pub(super) mod access;
mod alone;
mod backend;
mod ledger;
mod memory;
mod openclaw;

use access::Files;
use alone::Alone;
use backend::BackendArgs;
use ledger::ArchiveLedger;
use memory::Remembered;

pub use access::policy;

/// So many failures may wait to be told; more at a time are not.
const FAILURES: usize = 64;
/// So much is shown of what a command complained of when it failed.
const COMPLAINT_LINES: usize = 5;
const COMPLAINT_WIDTH: usize = 200;

/// Be a gateway for an agent of your own: any OpenClaw client can talk to it
///
/// Loopback plus the gateway's token is the owner. Anybody else is a peer: a device that the owner approved with
/// `agent-mesh pair`, one whose id stands in the registry, or the holder of a token that `agent-mesh token issue` made.
/// What peers may do stands in policy.toml; it and the registry are read again when they change, or on SIGHUP. The
/// owner's token comes from --token-file or MESH_GATEWAY_TOKEN; with neither, one is made and kept.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:18789", value_name = "ADDR:PORT", value_parser = address)]
    listen: SocketAddr,
    /// A file with the gateway's token, mode 0600
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where clients reach the gateway over HTTP, for its A2A card: https://HOST or https://HOST:PORT. Else what they call it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Refuse new messages of peers until `agent-mesh inbox resume`
    #[arg(long)]
    pause: bool,
    /// Let anybody read /metrics; else it is for loopback, and for who has the owner's token
    #[arg(long)]
    metrics: bool,
    /// Log each run on stderr, one line a step; with -v also what happens around it
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// With --log: what is said, too
    #[arg(long, requires = "log")]
    log_text: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

/// An address, or a name for one: IPv4 where it has both, since that is what clients try.
fn address(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected ADDR:PORT, such as 127.0.0.1:18789";
    let found: Vec<_> = text.to_socket_addrs().map_err(|error| format!("{expected}: {error}"))?.collect();
    let older = found.iter().find(|address| address.is_ipv4());
    older.or(found.first()).copied().ok_or_else(|| expected.to_owned())
}

pub async fn run(args: ServeArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let state = &settings.state_dir.value;
    let alone = Alone::in_folder(state, settings.serve_address_path())?;
    let (token, kept_in) = token(&args, settings)?;
    let archive = archive(settings, ui).await?;
    let mut files = Files::new(settings)?;
    let mut config = config(&args, settings, &token, archive.as_ref())?;
    let upstream = args.backend.upstream(settings, &config.identity.device_id)?;
    config.access = files.read()?;
    if args.pause {
        config.ledger.pause(true).await.map_err(|e| CliError::io("cannot pause", &e))?;
    }
    let (failures, failed) = mpsc::channel(FAILURES);
    if args.log.is_none() {
        config.on_failure = Some(Arc::new(move |run| drop(failures.try_send(run))));
    }
    let gateway = Gateway::bind(config).await?;
    alone.say(gateway.local_addr());
    let listen = |kind| signal(kind).map_err(|e| CliError::io("cannot listen for signals", &e));
    let (mut end, hangup) = (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    introduce(gateway.local_addr(), kept_in.as_deref(), ui);
    let reload = gateway.reload();
    let run = gateway.run(async move {
        tokio::select! {
            _ = end.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    });
    tokio::select! {
        () = run => {}
        () = access::watch(files, reload, hangup, ui) => {}
        () = tell(failed, ui) => {}
        () = openclaw::try_out(upstream, ui) => {}
    }
    if let Some(archive) = &archive
        && let Err(error) = archive.settle().await
    {
        ui.warn(format!("the last words may not be archived: {}", chain(&error)));
    }
    Ok(Exit::Done)
}

/// The archive, if there is one to be had.
async fn archive(settings: &Settings, ui: &Ui) -> Result<Option<Archive>, CliError> {
    let archive = match Archive::open(&settings.mesh(false)?.archive_path()) {
        Ok(archive) => archive,
        Err(error) => {
            ui.warn(format!("what is said here is not archived: {}", chain(&error)));
            return Ok(None);
        }
    };
    // We are alone here, so whoever was to answer these was killed, and left not enough to go on with. It is written
    // down before anybody can ask.
    let ended = archive.abandon_received(Timestamp::now()).await;
    ended.unwrap_or_else(|error| ui.warn(format!("some runs stay open in the log: {}", chain(&error))));
    Ok(Some(archive))
}

/// All that the gateway is told but who may come in.
fn config(
    args: &ServeArgs,
    settings: &Settings,
    token: &Secret,
    archive: Option<&Archive>,
) -> Result<Config, CliError> {
    let state = &settings.state_dir.value;
    let key = DeviceKey::load_or_create(&state.join("gateway.pem")).map_err(MeshError::from)?;
    let identity =
        GatewayIdentity { device_id: key.id().to_owned(), public_key: key.public_key().to_owned() };
    let token = SharedToken::new(token.expose().trim())
        .map_err(|error| token_too_short(&token_place(args, settings), error))?;
    let memory: Arc<dyn Memory> = match archive {
        Some(archive) => Arc::new(Remembered(archive.clone())),
        None => Arc::new(NoMemory),
    };
    let agent = args.backend.agent(settings, Arc::clone(&memory), key.id())?;
    let mut config = Config::new(args.listen, token, identity, agent);
    config.memory = memory;
    config.public_url.clone_from(&args.public_url);
    config.open_metrics = args.metrics;
    config.log_text = args.log_text;
    if let Some(archive) = archive {
        config.ledger = Arc::new(ArchiveLedger(archive.clone()));
    }
    config.timing.run = config.timing.run.max(args.backend.run_timeout);
    config.limits.reply_bytes = config.limits.reply_bytes.max(args.backend.max_reply);
    config.store = Arc::new(PairingFile(state.join("gateway-devices.json")));
    Ok(config)
}

/// Where it listens, what that means, and where the owner's token is.
fn introduce(address: SocketAddr, kept_in: Option<&Path>, ui: &Ui) {
    ui.announce(&format!("listening on ws://{address}"));
    if !address.ip().is_loopback() {
        ui.warn(format!(
            "{address} is reached over the network in plain text; and only loopback may approve devices, so `agent-mesh pair` \
             on this host needs a gateway that listens on 0.0.0.0 or 127.0.0.1"
        ));
    }
    if let Some(path) = kept_in {
        ui.note(format!("the owner's token is in {}", path.display()));
    }
}

/// One line for each run that fails, for an owner who reads no log; the sender is told the same. Below it, marked so that
/// it cannot be taken for words of ours, is the end of what the agent's command complained of: that he is not told.
async fn tell(mut failed: mpsc::Receiver<FailedRun>, ui: &Ui) {
    while let Some(FailedRun { from, run_id, why, aside }) = failed.recv().await {
        let lines: Vec<_> = aside.iter().flat_map(|aside| aside.lines()).collect();
        let last = lines.iter().skip(lines.len().saturating_sub(COMPLAINT_LINES));
        let complaint = last.map(|line| format!("\n  | {}", text::shortened(line, COMPLAINT_WIDTH)));
        ui.warn(format!("run {run_id} of {from} failed: {why}{}", complaint.collect::<String>()));
    }
    // Nothing will come any more, and that is no reason to end.
    std::future::pending::<()>().await;
}

/// The owner's token, and the file it is kept in if we made it ourselves, now or before.
fn token(args: &ServeArgs, settings: &Settings) -> Result<(Secret, Option<PathBuf>), CliError> {
    if let Some(path) = &args.token_file {
        let bytes = private_file::read(path).map_err(MeshError::from)?;
        let bytes = bytes.ok_or_else(|| {
            CliError::no_file(
                path,
                "it has to hold the token, with mode 0600; without --token-file one is made",
            )
        })?;
        return Ok((Secret::new(String::from_utf8_lossy(&bytes).trim().to_owned()), None));
    }
    if let Some(token) = settings.serve_token()? {
        return Ok((token, None));
    }
    let path = settings.serve_token_path();
    if let Some(bytes) = private_file::read(&path).map_err(MeshError::from)? {
        return Ok((Secret::new(String::from_utf8_lossy(&bytes).trim().to_owned()), Some(path)));
    }
    // Two version 4 UUIDs: 244 random bits.
    let token = Secret::new(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
    private_file::create(&path, token.expose().as_bytes()).map_err(MeshError::from)?;
    Ok((token, Some(path)))
}

/// Where the token was given.
fn token_place(args: &ServeArgs, settings: &Settings) -> PathBuf {
    match (&args.token_file, settings.serve_token()) {
        (Some(path), _) => path.clone(),
        (None, Ok(Some(_))) => PathBuf::from("MESH_GATEWAY_TOKEN"),
        (None, _) => settings.serve_token_path(),
    }
}

/// The approved devices and their tokens, 0600 in the state folder.
struct PairingFile(PathBuf);

impl Store for PairingFile {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        private_file::read(&self.0).map(|bytes| bytes.map(|bytes| bytes.to_vec())).map_err(io::Error::other)
    }

    fn save(&self, bytes: &[u8]) -> io::Result<()> {
        private_file::write(&self.0, bytes).map_err(io::Error::other)
    }
}
