//! `nearside publish`, and all that ends in a publish: waits until every node has what is published.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use nearside_node::args;

use super::{Failure, HomeArgs, failed, status::fleet_status};
use crate::{
    nodes::{Phase, Status},
    serve::PublishOutcome,
};

/// How often a publish looks whether all nodes have it.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until every node has a snapshot, and says of each.
pub(super) async fn settle(
    at: &HomeArgs,
    outcome: &PublishOutcome,
    wait: Duration,
) -> Result<ExitCode, Failure> {
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
        for node in &status.nodes {
            let reason = node.error.as_deref().map_or(String::new(), |error| format!(": {error}"));
            println!("{:<16} {}{reason}", node.node, node.phase);
        }
    }
    Ok(if status.nodes.iter().all(has) { args::OK } else { args::failed() })
}
