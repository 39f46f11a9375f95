//! `agent-mesh limits`

use agent_team_mesh::MeshError;
use agent_team_mesh::guard::{Measure, Rules, Speaker};
use agent_team_mesh::ops::limits::{Usage, reset, usage};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::Ui;

/// Show how much was said, and how much may be
///
/// Agents and people are counted apart. A limit that is set, in the table `limits` of config.toml, holds for both; one that
/// is not is 1,000 times as wide for people.
#[derive(Debug, Args)]
pub struct LimitsArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Count anew from now on; the archive keeps that it was done
    ///
    /// For people: refused in the shell of an agent.
    Reset {
        /// Only for this teammate
        #[arg(long, value_name = "NAME")]
        peer: Option<String>,
    },
}

pub async fn run(args: &LimitsArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = settings.mesh(false)?;
    let Some(Action::Reset { peer }) = &args.action else { return show(&mesh, ui).await };
    let peer = peer.as_ref().map(|name| mesh.registry()?.find(name).map_err(MeshError::from)).transpose()?;
    reset(&mesh, peer).await?;
    let who = peer.map_or("everybody", |agent| agent.name.as_str());
    ui.out(format!("counting anew for {who}"));
    ui.document("limits", Exit::Done, json!({ "reset": peer.map(|agent| &agent.email_prefix) }));
    Ok(Exit::Done)
}

async fn show(mesh: &agent_team_mesh::Mesh, ui: &Ui) -> Result<Exit, CliError> {
    let (used, resets) = usage(mesh).await?;
    let (rules, caller) = (mesh.config().rules, &mesh.config().caller);
    ui.table(&["SPEAKER", "TO", "COUNTED", "USED", "LIMIT"], used.iter().flat_map(rows).collect());
    ui.out(format!(
        "\nan agent passes a message on at most {} times, and says the same again after {} s",
        rules.max_hops,
        rules.repeat_window.as_secs()
    ));
    if let Some(last) = resets.first() {
        let who = last.peer.as_deref().unwrap_or("everybody");
        ui.out(format!("last reset {} for {who}", last.at.strftime("%Y-%m-%d %H:%M:%SZ")));
    }
    let of = |speaker: Speaker| used.iter().find(|usage| usage.speaker == speaker);
    let fields = json!({
        "speaker": caller.speaker().name(),
        "limits": {
            "maxHops": rules.max_hops,
            "repeatWindowMs": u64::try_from(rules.repeat_window.as_millis()).unwrap_or(u64::MAX),
            "agent": counts(rules.for_speaker(Speaker::Agent)),
            "person": counts(rules.for_speaker(Speaker::Person)),
        },
        "usage": { "agent": of(Speaker::Agent), "person": of(Speaker::Person) },
        "resets": resets,
    });
    ui.document("limits", Exit::Done, fields);
    Ok(Exit::Done)
}

fn counts(rules: Rules) -> Value {
    json!({
        "peerPerHour": rules.peer_per_hour,
        "totalPerHour": rules.total_per_hour,
        "threadPerDay": rules.thread_per_day,
        "unreachablePerHour": rules.unreachable_per_hour,
    })
}

fn rows(usage: &Usage) -> Vec<Vec<String>> {
    let row = |to: &str, measure: Measure, used: u32, limit: u32| {
        let speaker = usage.speaker.name().to_owned();
        vec![speaker, to.to_owned(), measure.words().to_owned(), used.to_string(), limit.to_string()]
    };
    let (rules, tally) = (usage.rules, &usage.tally);
    let mut rows = vec![row("all", Measure::TotalPerHour, tally.total_last_hour, rules.total_per_hour)];
    for said in &tally.peers {
        rows.push(row(&said.peer, Measure::PeerPerHour, said.last_hour, rules.peer_per_hour));
        rows.push(row(&said.peer, Measure::ThreadPerDay, said.thread_last_day, rules.thread_per_day));
        if said.unreachable_last_hour > 0 {
            let tries = said.unreachable_last_hour;
            rows.push(row(&said.peer, Measure::UnreachablePerHour, tries, rules.unreachable_per_hour));
        }
    }
    rows
}
