//! The agent of our own OpenClaw gateway, behind `serve`.

use std::sync::Arc;
use std::time::Duration;

use agent_mesh_gateway::{Agent, AgentFailure, Deltas, ReplyFuture, Turn};
use agent_team_mesh::client::protocol::methods::agent::Outcome;
use agent_team_mesh::ops::relay::{self, Relay, RelayError};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{chain, relay_hint};
use crate::ui::Ui;

/// How long OpenClaw may take to let us in at the start.
const START: Duration = Duration::from_secs(15);

/// Passes turns on to OpenClaw, and its replies back.
///
/// The sender is told that a turn failed, and who is at fault. Why stands in our log: OpenClaw's own words may name the
/// owner's files, models and accounts.
pub struct OpenClawAgent {
    relay: Arc<Relay>,
    timeout: Duration,
}

impl OpenClawAgent {
    pub fn new(relay: Arc<Relay>, timeout: Duration) -> Self {
        Self { relay, timeout }
    }
}

impl Agent for OpenClawAgent {
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(self.turn(turn, None, deltas))
    }

    fn can_resume(&self) -> bool {
        true
    }

    fn resume(&self, turn: Turn, began_at: i64, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            let began_at = Timestamp::from_millisecond(began_at)
                .map_err(|_| AgentFailure::failed("it is not known when it began"))?;
            self.turn(turn, Some(began_at), deltas).await
        })
    }
}

impl OpenClawAgent {
    async fn turn(
        &self,
        turn: Turn,
        began_at: Option<Timestamp>,
        deltas: Deltas,
    ) -> Result<String, AgentFailure> {
        let framed = turn.framed();
        let relayed = relay::Turn {
            run_id: turn.run_id,
            session: turn.session_key,
            message: framed.message,
            system: framed.system,
            provenance: framed.provenance,
            permission_mode: turn.permission_mode,
            deadline: Instant::now() + self.timeout,
        };
        let (pieces, mut written) = mpsc::channel(32);
        let running = self.relay.run(&relayed, began_at, &pieces);
        tokio::pin!(running);
        let result = loop {
            tokio::select! {
                Some(piece) = written.recv() => deltas.push(piece).await,
                result = &mut running => break result,
                () = turn.cancel.cancelled() => {
                    self.relay.abort(&relayed).await;
                    return Err(AgentFailure::Cancelled);
                }
            }
        };
        while let Ok(piece) = written.try_recv() {
            deltas.push(piece).await;
        }
        judge(result, &relayed.run_id)
    }
}

/// Says at the start what would make each turn fail, and that all the same turns are taken: OpenClaw may come up later.
pub async fn try_out(relay: Option<Relay>, ui: &Ui) {
    if let Some(relay) = relay
        && let Err(error) = relay.open(Instant::now() + START).await
    {
        ui.warn(format!("each run fails until this is mended: {}", chain(&error)));
        ui.hint(relay_hint(&error));
    }
    // That is no reason to end.
    std::future::pending::<()>().await;
}

fn judge(result: Result<Outcome, RelayError>, run: &str) -> Result<String, AgentFailure> {
    match result {
        Ok(Outcome::Reply(text)) => Ok(text),
        Ok(Outcome::NoReply) => Ok(String::new()),
        Ok(Outcome::Aborted) => Err(AgentFailure::Cancelled),
        Ok(Outcome::RunTimeout) | Err(RelayError::Deadline) => Err(AgentFailure::TimedOut),
        Ok(other) => {
            tracing::warn!(outcome = ?other, run, "OpenClaw's run failed");
            Err(AgentFailure::failed("the agent's run failed"))
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), run, "a turn could not be passed on to OpenClaw");
            Err(AgentFailure::failed(match error {
                RelayError::Refused(_) => "the agent's gateway refused the message",
                RelayError::Unknown(_) => "it is not known whether the agent answered",
                _ => "the agent's gateway cannot be reached",
            }))
        }
    }
}
