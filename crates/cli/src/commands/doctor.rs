//! `agent-mesh doctor`

use std::time::Duration;

use agent_team_mesh::ops::doctor::{Check, Fix, Report, Side, Status, doctor};
use clap::Args;
use serde_json::json;

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::text;
use crate::ui::{Line, Ui, style};

/// Find out what is wrong, and the command that helps
///
/// Looks at our own files and gateway, then how far we get with each teammate: resolve, tcp, tls, websocket, challenge,
/// auth, pairing, scope, ready. It changes nothing, files no pairing request, and shows each credential at most once. What
/// is broken is a finding, and no failure of doctor's:
/// it exits 0 when it did its job, whatever it found.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Only this teammate
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// How long one teammate may take
    #[arg(long, value_parser = duration, default_value = "10", value_name = "TIME")]
    timeout: Duration,
    /// Also call gateways that would be overheard
    #[arg(long)]
    insecure: bool,
}

pub async fn run(args: &DoctorArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = settings.mesh(args.insecure)?;
    let agent = match &args.to {
        // Whom the name means is in a registry that can be read; one that cannot is what there is to find.
        Some(name) if mesh.registry().is_ok() => match mesh.teammate(name) {
            Ok(agent) => Some(agent),
            Err(error) => return Err(error.into()),
        },
        _ => None,
    };
    let report = doctor(&mesh, agent, args.timeout).await;
    ui.table(&["", "WHO", "CHECK", "TIME", "DETAIL"], report.checks.iter().map(row).collect());
    show_fixes(&report, ui);
    let fields = json!({ "healthy": report.is_healthy(), "checks": report.checks });
    ui.document("doctor", Exit::Done, fields);
    Ok(Exit::Done)
}

fn row(check: &Check) -> Vec<String> {
    let mark = match check.status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let who = check.to.as_ref().map_or("(me)", |to| to.name.as_str());
    let time = if check.ms > 0.0 { format!("{:.1} ms", check.ms) } else { "-".to_owned() };
    vec![mark.to_owned(), who.to_owned(), check.name.to_owned(), time, check.detail.clone()]
}

fn show_fixes(report: &Report, ui: &Ui) {
    if report.is_healthy() {
        ui.out(Line::new("\n").with(style::GOOD, "nothing failed"));
    }
    for check in report.checks.iter().filter(|check| check.status != Status::Ok) {
        let who = check.to.as_ref().map(|to| to.name.as_str());
        let Some(fix) = &check.fix else { continue };
        // On one line: what a peer says in it must not look like a fix of ours.
        let what = text::one_line(&format!("{} {}: {}", who.unwrap_or("our"), check.name, check.detail));
        ui.out(format!("\n{what}"));
        show_fix(fix, who, ui);
    }
}

fn show_fix(fix: &Fix, who: Option<&str>, ui: &Ui) {
    let side = match (fix.side, who) {
        (Side::Theirs, Some(name)) => format!("on {name}'s host"),
        _ => "here".to_owned(),
    };
    let when = fix.when.as_ref().map(|when| format!(" ({when})")).unwrap_or_default();
    ui.out(Line::styled(style::STRONG, format!("  {side}{when}: ")).text(&fix.command));
    for also in &fix.also {
        show_fix(also, who, ui);
    }
}
