//! `agent-mesh mcp`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;

use clap::Args;
use rmcp::service::ServerInitializeError;
use rmcp::{ServiceExt, transport};

use crate::error::{CliError, Exit};
use crate::interrupt::interrupted;
use crate::settings::Settings;
use crate::ui::Ui;

mod asked;
mod hint;
mod http;
mod progress;
mod resources;
mod server;
mod told;
mod tools;

use server::Server;

/// Be an MCP server: tools with which an agent reaches its teammates' agents
///
/// Speaks MCP on standard input and output until its input ends; talk goes to stderr. Whoever uses it counts as an agent:
/// the limits for agents hold. With --http it listens instead, for whoever has its token.
#[derive(Debug, Args)]
pub struct McpArgs {
    /// Speak streamable HTTP at http://ADDR/mcp, on loopback only; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<SocketAddr>,
    /// With --http: a file with the bearer token, mode 0600; else one is made and kept in the state folder
    #[arg(long, value_name = "FILE", requires = "http")]
    token_file: Option<PathBuf>,
    /// Also send where it could be overheard
    #[arg(long)]
    insecure: bool,
}

pub async fn run(args: &McpArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open_for_agent(settings, args.insecure)?.keeping_connections();
    let server = Server::new(mesh, settings.timeout.value);
    let exit = match args.http {
        Some(address) => http::serve(address, args.token_file.as_deref(), settings, server.clone(), ui).await,
        None => over_stdio(server.clone()).await,
    };
    server.say_goodbye().await;
    exit
}

async fn over_stdio(server: Server) -> Result<Exit, CliError> {
    // Whatever else this process has to say must not be on standard output: it belongs to the protocol.
    let served = tokio::select! {
        served = server.serve(transport::stdio()) => served,
        () = interrupted() => return Err(CliError::interrupted()),
    };
    let running = match served {
        Ok(running) => running,
        // Nobody said anything: a client that only looked whether we start.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(Exit::Done),
        Err(error) => {
            return Err(CliError::new(Exit::Failed, "mcp", error.to_string())
                .hint("it is a program that speaks MCP over standard input that starts this one"));
        }
    };
    let stop = running.cancellation_token();
    let mut ended = pin!(running.waiting());
    let ended = tokio::select! {
        ended = &mut ended => ended,
        () = interrupted() => {
            // As if each call had been cancelled: what has not left never does.
            stop.cancel();
            drop(ended.await);
            return Err(CliError::interrupted());
        }
    };
    ended.map(|_| Exit::Done).map_err(|error| CliError::new(Exit::Failed, "mcp", error.to_string()))
}
