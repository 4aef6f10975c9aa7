//! `nearside publish`, `rollback`, and all that ends in a publish: waits until every node has what is published.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use nearside_node::args;

use super::{Failure, HomeArgs, QUICK, duration, failed, status::fleet_status};
use crate::{
    api::publish::{PublishRequest, RollbackRequest},
    client::json,
    history::Told,
    journal::publications::{Outcome, Waves},
    nodes::{Phase, Status},
    serve::{PublishOutcome, RolloutStatus},
};

/// How often a publish looks whether all nodes have it, and how far a rollout is.
const LOOK: Duration = Duration::from_millis(100);
const ROLLOUT_LOOK: Duration = Duration::from_millis(500);
/// How long to wait for nodes, unless said otherwise.
const WAIT: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct PublishArgs {
    /// How long to wait for the nodes [default: 30s; for a rollout, its end]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// Why, for the history
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Give it to these nodes first, then to the others in waves
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    canary: Vec<String>,
    /// Shares of the PoPs that have it after each wave, in percent [default: 25,50,100]
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=100))]
    waves: Vec<u8>,
    /// How long each wave is watched [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    watch: Option<Duration>,
    /// To all nodes at once, whatever the fleet file says
    #[arg(long, conflicts_with_all = ["canary", "waves", "watch"])]
    at_once: bool,
}

#[derive(Args)]
pub(super) struct RollbackArgs {
    /// To which snapshot [default: to what was good before]
    number: Option<u64>,
    /// Why, for the history
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// How long to wait for the nodes
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    wait: Duration,
}

pub(super) async fn publish(at: &HomeArgs, asked: PublishArgs) -> Result<ExitCode, Failure> {
    let PublishArgs { wait, message, canary, waves, watch, at_once } = asked;
    let in_waves = !canary.is_empty() || !waves.is_empty() || watch.is_some();
    let waves = in_waves.then(|| Waves {
        canary,
        percents: waves,
        // Less than a second is refused there, and told.
        watch_seconds: watch.map(|watch| watch.as_secs()),
    });
    let body = json(&PublishRequest { note: message, at_once, waves });
    let outcome: PublishOutcome = at.post("/v1/publish", body).await?;
    match outcome.rolling {
        true => follow(at, &outcome, wait).await,
        false => settle(at, &outcome, wait.unwrap_or(WAIT)).await,
    }
}

pub(super) async fn rollback(at: &HomeArgs, asked: RollbackArgs) -> Result<ExitCode, Failure> {
    let body = json(&RollbackRequest { number: asked.number, note: asked.message });
    let outcome: PublishOutcome = at.post("/v1/rollback", body).await?;
    settle(at, &outcome, asked.wait).await
}

/// Waits until every node has a snapshot, and says of each. A rollout is followed to its end.
pub(super) async fn settle(
    at: &HomeArgs,
    outcome: &PublishOutcome,
    wait: Duration,
) -> Result<ExitCode, Failure> {
    if outcome.rolling {
        return follow(at, outcome, None).await;
    }
    let started = Instant::now();
    let has = |node: &Status| node.snapshot.is_some_and(|has| has >= outcome.number);
    let status = loop {
        let status = fleet_status(at).await?;
        let done = status
            .nodes
            .iter()
            .all(|node| has(node) || matches!(node.phase, Phase::Refusing | Phase::Unreachable));
        if done || started.elapsed() >= wait {
            break status;
        }
        tokio::time::sleep(LOOK).await;
    };
    if at.json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(failed)?);
    } else {
        let what = if outcome.new { "published" } else { "nothing changed since" };
        println!("{what} snapshot {}", outcome.number);
        print_nodes(&status.nodes);
    }
    Ok(if status.nodes.iter().all(has) { args::OK } else { args::failed() })
}

/// Follows a rollout until it ends or the patience does; the rollout itself goes on at home.
async fn follow(
    at: &HomeArgs,
    outcome: &PublishOutcome,
    wait: Option<Duration>,
) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let mut progress = Progress::default();
    loop {
        let status = fleet_status(at).await?;
        let Some(rollout) = status.rollout.filter(|rollout| rollout.number == outcome.number) else { break };
        progress.show(&rollout);
        if wait.is_some_and(|wait| started.elapsed() >= wait) {
            progress.end();
            println!(
                "snapshot {} is still being rolled out (wave {} of {}); `nearside status` shows how far",
                rollout.number,
                rollout.wave,
                rollout.waves.len()
            );
            return Ok(args::failed());
        }
        tokio::time::sleep(ROLLOUT_LOOK).await;
    }
    progress.end();
    let told: Told = at.peer()?.get(&format!("/v1/history/{}", outcome.number), QUICK).await?;
    let done = told.publication.outcome == Outcome::Done;
    let status = fleet_status(at).await?;
    if at.json {
        let told = serde_json::json!({ "publication": told, "nodes": status.nodes });
        println!("{}", serde_json::to_string_pretty(&told).map_err(failed)?);
    } else if done {
        println!("snapshot {} is rolled out", outcome.number);
        print_nodes(&status.nodes);
    } else {
        let now = status.snapshot.unwrap_or_default();
        println!("snapshot {} was taken back: {}", outcome.number, told.publication.told);
        println!("snapshot {now} is in force: what was before; `nearside diff` shows what was not taken");
    }
    Ok(if done { args::OK } else { args::failed() })
}

fn print_nodes(nodes: &[Status]) {
    for node in nodes {
        let reason = node.error.as_deref().map_or(String::new(), |error| format!(": {error}"));
        println!("{:<16} {}{reason}", node.node, node.phase);
    }
}

/// Tells of a rollout on standard error: every wave once, on a terminal every second of it.
#[derive(Default)]
struct Progress {
    wave: usize,
    open_line: bool,
}

impl Progress {
    fn show(&mut self, rollout: &RolloutStatus) {
        let nodes = rollout.waves.get(rollout.wave - 1).map_or(String::new(), |wave| wave.join(", "));
        let line = format!("wave {} of {}: {nodes}", rollout.wave, rollout.waves.len());
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}, {}", watched(rollout));
            self.open_line = true;
        } else if self.wave != rollout.wave {
            eprintln!("{line}");
        }
        self.wave = rollout.wave;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open_line) {
            eprintln!();
        }
    }
}

/// How long the wave under way was watched by its last node.
pub(super) fn watched(rollout: &RolloutStatus) -> String {
    let wave = rollout.waves.get(rollout.wave - 1).map_or(&[][..], Vec::as_slice);
    let seconds: BTreeMap<&String, u64> =
        wave.iter().filter_map(|node| Some((node, *rollout.watched_seconds.get(node)?))).collect();
    if seconds.len() < wave.len() {
        return format!("{} of {} have it", seconds.len(), wave.len());
    }
    let least = seconds.into_values().min().unwrap_or(0).min(rollout.watch_seconds);
    format!("watched for {least} of {} s", rollout.watch_seconds)
}
