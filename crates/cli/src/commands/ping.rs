//! `agent-mesh ping`

use std::time::Duration;

use agent_team_mesh::ops::ping::{Pinged, ping};
use clap::Args;
use serde_json::{Value, json};

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::text::one_line;
use crate::ui::{Line, Ui, style};

/// Show how far we get with a teammate's gateway, step by step
///
/// Resolve, TCP, TLS, WebSocket, challenge, authentication, scope. Without a device token it connects without a device
/// and so never files a pairing request; a credential that was refused is not shown again. Exits 6 only when no gateway
/// answers; with --count, when it never did.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// The teammate
    #[arg(long, value_name = "NAME")]
    to: String,
    /// How often; at the end come loss and the fastest, average and slowest round trip
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// With --count: how long to rest between two of them
    #[arg(long, value_parser = duration, default_value = "1", value_name = "TIME", requires = "count")]
    interval: Duration,
    /// How long all steps of one may take together
    #[arg(long, value_parser = duration, default_value = "10", value_name = "TIME")]
    timeout: Duration,
    /// Also call a gateway that would be overheard
    #[arg(long)]
    insecure: bool,
}

pub async fn run(args: &PingArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, args.insecure, ui)?;
    let agent = mesh.teammate(&args.to)?;
    super::warn_of_inline_tokens(&mesh, ui)?;
    let mut report = ping(&mesh, agent, args.timeout).await?;
    show(&report, ui);
    let Some(count) = args.count else { return Ok(conclude(report, None, ui)) };
    let mut times = vec![report.rtt_ms.filter(|_| report.answered)];
    for number in 2..=count {
        tokio::time::sleep(args.interval).await;
        let next = ping(&mesh, agent, args.timeout).await?;
        let time = next.rtt_ms.filter(|_| next.answered);
        ui.out(time.map_or_else(|| format!("{number}: no answer"), |ms| format!("{number}: {ms:.1} ms")));
        times.push(time);
        // The document tells the latest look that got somewhere.
        if next.answered || !report.answered {
            report = next;
        }
    }
    Ok(conclude(report, Some(&times), ui))
}

/// The document, and what is wrong.
fn conclude(report: Pinged, times: Option<&[Option<f64>]>, ui: &Ui) -> Exit {
    let mut fields = serde_json::to_value(&report).unwrap_or_default();
    if let Some(times) = times {
        fields["stats"] = stats(times, ui);
    }
    match report.error {
        Some(error) if !report.answered => {
            let error = CliError { exit: Exit::Unreachable, ..CliError::from(error) };
            return ui.document_with_error("ping", fields, error);
        }
        // It answers: that was the question. What else is wrong is said beside it.
        Some(error) => {
            if let Some(hint) = CliError::from(error).hint {
                ui.hint(hint);
            }
        }
        None => {}
    }
    ui.document("ping", Exit::Done, fields);
    Exit::Done
}

/// Loss and round trips.
#[allow(clippy::cast_precision_loss)] // Nobody sends 2^52 pings.
fn stats(times: &[Option<f64>], ui: &Ui) -> Value {
    let answered: Vec<f64> = times.iter().copied().flatten().collect();
    let (sent, received) = (times.len(), answered.len());
    let loss = (sent - received) as f64 * 100.0 / sent as f64;
    ui.out(format!("{sent} sent, {received} answered, {loss:.0} % lost"));
    let rounded = |ms: f64| (ms * 1e3).round() / 1e3;
    let average = (received > 0).then(|| rounded(answered.iter().sum::<f64>() / received as f64));
    let (min, max) = (answered.iter().copied().reduce(f64::min), answered.iter().copied().reduce(f64::max));
    if let (Some(min), Some(average), Some(max)) = (min, average, max) {
        ui.out(format!("fastest {min:.1} ms, average {average:.1} ms, slowest {max:.1} ms"));
    }
    json!({ "sent": sent, "received": received, "lossPercent": rounded(loss), "minMs": min, "avgMs": average, "maxMs": max })
}

fn show(report: &Pinged, ui: &Ui) {
    ui.out(Line::styled(style::STRONG, &report.to.name).text(format!("  {}", report.address)));
    for step in &report.steps {
        let (mark, colour) = if step.ok { ("ok  ", style::GOOD) } else { ("FAIL", style::BAD) };
        let line = Line::styled(colour, mark).text(format!(
            "  {:<9} {:>9.1} ms  {}",
            step.step,
            step.ms,
            one_line(&step.detail)
        ));
        ui.out(line);
    }
    if let Some(identity) = &report.identity {
        ui.out(format!("identity {} ({})", identity.device_id, identity.status.name()));
    }
    if let (Some(rtt), true) = (report.rtt_ms, report.answered) {
        ui.out(format!("round trip {rtt:.1} ms"));
    }
}
