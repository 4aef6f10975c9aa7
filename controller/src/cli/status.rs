//! `nearside status`: every node at a glance.

use std::process::ExitCode;

use nearside_node::args;

use super::{Failure, HomeArgs, QUICK, failed, publish::watched};
use crate::{
    nodes::{Kind, Status},
    serve::FleetStatus,
};

/// Clocks that keep time by themselves drift less; identities are made an hour early to allow for more.
const CLOCK_WARNING_SECONDS: i64 = 60;

pub(super) async fn fleet_status(at: &HomeArgs) -> Result<FleetStatus, Failure> {
    Ok(at.peer()?.get("/v1/status", QUICK).await?)
}

pub(super) async fn status(at: &HomeArgs) -> Result<ExitCode, Failure> {
    let status = fleet_status(at).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(failed)?);
    } else {
        print_status(&status);
    }
    Ok(args::OK)
}

fn print_status(status: &FleetStatus) {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    println!("fleet {}, snapshot {}, purges {}", status.fleet, number(status.snapshot), status.purges);
    print_rollout(status);
    println!(
        "{:<16} {:<5} {:<12} {:>8} {:>6} {:>10}  VERSION",
        "NODE", "KIND", "PHASE", "SNAPSHOT", "LAG", "PURGE LAG"
    );
    for node in &status.nodes {
        let lag = node.lag();
        let (kind, purges) = match node.kind {
            Kind::Edge => ("edge", Some(status.purges.saturating_sub(node.purges))),
            Kind::Dns => ("dns", None),
        };
        let version = node.report.as_ref().map_or("-", |report| report.version.as_str());
        let (has, lag, purges) = (number(node.snapshot), number(lag), number(purges));
        println!("{:<16} {kind:<5} {:<12} {has:>8} {lag:>6} {purges:>10}  {version}", node.node, node.phase);
        if let Some(ahead) = node.clock_ahead_seconds.filter(|ahead| ahead.abs() > CLOCK_WARNING_SECONDS) {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            println!("  its clock is {} s {way} home's: one of them is wrong", ahead.abs());
        }
        if let Some(error) = &node.error {
            println!("  {}", error.replace('\n', "\n  "));
        }
        print_report(node);
    }
    for drain in &status.drains {
        let until = drain.until.map_or("until lifted".to_owned(), |until| format!("until {}", clock(until)));
        println!("{} is drained {until} {}", drain.pop, drain.reason);
    }
    for reason in &status.refused {
        println!("not published: {reason}");
    }
}

/// A rollout under way, and a snapshot that home made by itself because the one before was taken back.
fn print_rollout(status: &FleetStatus) {
    if let Some(rollout) = &status.rollout {
        let nodes = rollout.waves.get(rollout.wave - 1).map_or(String::new(), |wave| wave.join(", "));
        println!(
            "snapshot {} is being rolled out: wave {} of {} ({nodes}), {}; the others keep {}",
            rollout.number,
            rollout.wave,
            rollout.waves.len(),
            watched(rollout),
            rollout.from
        );
    }
    let back = status.newest.as_ref().and_then(|newest| Some((newest, newest.rollback_of?)));
    if let Some((newest, number)) = back {
        println!("snapshot {} repeats {number}: {} ({})", newest.number, newest.note, newest.who);
    }
}

/// What a node says of itself that its program adds: health as a DNS node sees it, an edge's certificates.
fn print_report(node: &Status) {
    let Some(report) = &node.report else { return };
    for warning in &report.warnings {
        println!("  warning: {warning}");
    }
    let targets = report.program_report.get("health").and_then(|health| health.as_array());
    for target in targets.into_iter().flatten() {
        let text = |key: &str| {
            target.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let words: Vec<String> =
            ["pop", "check", "address", "reason"].iter().filter_map(|key| text(key)).collect();
        println!("  sees {}", words.join(" "));
    }
    let certificates = report.program_report.get("certificates").and_then(|all| all.as_object());
    for (site, certificate) in certificates.into_iter().flatten() {
        let not_after = certificate.get("not_after").and_then(serde_json::Value::as_u64);
        let fingerprint = certificate.get("sha256").and_then(|value| value.as_str()).unwrap_or("-");
        let short: String = fingerprint.chars().take(16).collect();
        println!("  serves {site} with {short} until {}", not_after.map_or("-".to_owned(), clock));
    }
}

pub(super) fn clock(at: u64) -> String {
    let at = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    at.map_or("?".to_owned(), |at| at.to_string())
}
