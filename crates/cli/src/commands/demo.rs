//! `agent-mesh demo`

use std::path::Path;
use std::sync::Arc;

use agent_mesh_gateway::{Config, EchoAgent, Gateway, SharedToken};
use agent_team_mesh::client::protocol::methods::info::GatewayIdentity;
use agent_team_mesh::device::DeviceKey;
use agent_team_mesh::{MeshError, private_file};
use clap::{Args, Parser};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::args::Cli;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// The team of the demo.
const TEAM: [(&str, &str); 3] = [("Alice", "alice"), ("Bob", "bob"), ("戴泽", "daize")];

/// Watch a whole team talk on this machine: nothing to set up, nothing left behind
///
/// Starts three gateways on free loopback ports with a throw-away registry, and runs list, ping, send and broadcast
/// against them: the very commands you would type.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What to say
    #[arg(
        short,
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        default_value = "is the build green?"
    )]
    message: String,
}

pub async fn run(args: &DemoArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let folder = tempfile::Builder::new()
        .prefix("agent-mesh-demo-")
        .tempdir()
        .map_err(|e| CliError::io("cannot make a folder for the demo", &e))?;
    let stop = CancellationToken::new();
    let (mut agents, mut tokens) = (Vec::new(), serde_json::Map::new());
    let mut gateways = Vec::new();
    for (name, prefix) in TEAM {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let gateway = start(folder.path(), name, prefix, &token).await?;
        agents.push(
            json!({ "name": name, "emailPrefix": prefix, "url": format!("ws://{}", gateway.local_addr()) }),
        );
        tokens.insert(prefix.to_owned(), token.into());
        gateways.push(tokio::spawn(gateway.run(stop.clone().cancelled_owned())));
    }
    write(folder.path(), "registry.json", &json!({ "agents": agents }))?;
    write(folder.path(), "tokens.json", &json!({ "tokens": tokens }))?;
    let team = settings.in_folder(folder.path())?;
    ui.out(Line::styled(
        style::FAINT,
        format!("three gateways on this machine, a registry in {}", folder.path().display()),
    ));
    let documents = play(args, &team, ui).await;
    stop.cancel();
    for gateway in gateways {
        let _ = gateway.await;
    }
    let documents = documents?;
    ui.out("");
    ui.out("That was it: your own team starts with `agent-mesh init`.");
    ui.document("demo", Exit::Done, json!({ "steps": documents }));
    Ok(Exit::Done)
}

async fn start(folder: &Path, name: &str, prefix: &str, token: &str) -> Result<Gateway, CliError> {
    let key = DeviceKey::load_or_create(&folder.join(format!("{prefix}.pem"))).map_err(MeshError::from)?;
    let identity =
        GatewayIdentity { device_id: key.id().to_owned(), public_key: key.public_key().to_owned() };
    let token = SharedToken::new(token).map_err(|e| CliError::usage(e.to_string()))?;
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::new(listen, token, identity, Arc::new(EchoAgent::named(name)));
    name.clone_into(&mut config.agent_name);
    Gateway::bind(config)
        .await
        .map_err(|e| CliError::from(e).hint("the demo needs three free ports of 127.0.0.1"))
}

fn write(folder: &Path, name: &str, content: &Value) -> Result<(), CliError> {
    let path = folder.join(name);
    private_file::write(&path, content.to_string().as_bytes()).map_err(MeshError::from)?;
    Ok(())
}

/// Runs the commands as if typed.
async fn play(args: &DemoArgs, team: &Settings, ui: &Ui) -> Result<Vec<Value>, CliError> {
    let everybody = format!("{} (to all)", args.message);
    let commands: [&[&str]; 4] = [
        &["list"],
        &["ping", "--to", "bob"],
        &["send", "--to", "戴泽", "--message", &args.message],
        &["broadcast", "--message", &everybody],
    ];
    let mut documents = Vec::new();
    for words in commands {
        ui.out("");
        ui.out(Line::styled(style::STRONG, format!("$ agent-mesh {}", shown(words))));
        let cli = Cli::try_parse_from(std::iter::once(&"agent-mesh").chain(words))
            .map_err(|e| CliError::from_clap(&e))?;
        let mut inner = ui.collecting();
        let exit = Box::pin(super::run(cli.command, team, &mut inner)).await?;
        documents.extend(inner.collected());
        if exit != Exit::Done {
            let error = CliError::new(exit, "demo-failed", format!("`agent-mesh {}` failed", shown(words)));
            let error =
                error.hint("what it said is above; agent-mesh demo changes nothing and can be run again");
            return Err(error.with_fields(json!({ "steps": documents })));
        }
    }
    Ok(documents)
}

/// The words as one would type them.
fn shown(words: &[&str]) -> String {
    let quoted = words.iter().map(|word| {
        if word.chars().any(|c| c.is_whitespace() || "?*()'\"$&;|<>".contains(c)) {
            format!("\"{word}\"")
        } else {
            (*word).to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
