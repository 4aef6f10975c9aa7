//! `nearside warm` and `nearside cached`: fetched ahead, and what is there.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use nearside_node::args;

use super::{Failure, HomeArgs, LONG, failed, purge};
use crate::{
    api::{
        encode,
        warm::{CachedAnswer, WarmRequest},
    },
    client::json,
    warm::{State, Told},
};

/// One look at a job that is under way.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct WarmArgs {
    /// URLs, or files that list them, one a line; `-` reads standard input
    #[arg(required = true, value_name = "URL|FILE")]
    what: Vec<String>,
    /// Only at this PoP (may be repeated)
    #[arg(long, value_name = "POP")]
    pop: Vec<String>,
    /// URLs per second and PoP [default: as fast as each edge fetches]
    #[arg(long, value_name = "URLS")]
    rate: Option<f64>,
    /// Don't wait: print the job's number
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn warm(at: &HomeArgs, what: &WarmArgs) -> Result<ExitCode, Failure> {
    let mut urls = Vec::new();
    for what in &what.what {
        if what.starts_with("http://") || what.starts_with("https://") {
            urls.push(what.clone());
        } else {
            urls.extend(purge::list(Path::new(what))?);
        }
    }
    let order = WarmRequest { urls, pops: what.pop.clone(), per_second: what.rate };
    let mut told: Told = at.post("/v1/warm", json(&order)).await?;
    if what.no_wait {
        println!("job {} is under way at {} PoPs", told.job, told.pops.len());
        return Ok(args::OK);
    }
    let on_terminal = std::io::stderr().is_terminal();
    while told.pops.iter().any(|pop| pop.state == State::Running) {
        if on_terminal {
            let tried: u64 = told.pops.iter().map(|pop| pop.done + pop.failed).sum();
            let all = told.urls * told.pops.len() as u64;
            // A terminal that is gone is no reason to stop.
            let _gone = write!(std::io::stderr(), "\r{tried} of {all} ");
        }
        let path = format!("/v1/warm/{}?wait_seconds={}", told.job, LOOK.as_secs());
        told = at.peer()?.get(&path, LONG).await?;
    }
    if on_terminal {
        let _gone = write!(std::io::stderr(), "\r{:32}\r", "");
    }
    if at.json {
        println!("{}", serde_json::to_string_pretty(&told).map_err(failed)?);
    } else {
        print(&told);
    }
    let fetched: u64 = told.pops.iter().map(|pop| pop.done).sum();
    let all_well = told.pops.iter().all(|pop| pop.state == State::Done && pop.failed == 0);
    Ok(match (all_well, fetched) {
        (true, _) => args::OK,
        (false, 0) => args::failed(),
        (false, _) => args::partial(),
    })
}

fn print(told: &Told) {
    for pop in &told.pops {
        let failed = if pop.failed > 0 { format!(", {} failed", pop.failed) } else { String::new() };
        println!("{:<16} {} of {} warm, {} bytes{failed}", pop.pop, pop.done, told.urls, pop.bytes);
        if let Some(error) = &pop.error {
            println!("  {error}");
        }
        for failure in &pop.failures {
            println!("  {}: {}", failure.url, failure.reason);
        }
    }
}

pub(super) async fn cached(at: &HomeArgs, url: &str) -> Result<ExitCode, Failure> {
    let path = format!("/v1/cached?url={}", encode(url));
    let answer: CachedAnswer = at.peer()?.get(&path, LONG).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
    }
    for pop in answer.pops.iter().filter(|_| !at.json) {
        let of = |pop: &crate::api::warm::AtPop| match (pop.bytes, pop.length) {
            (Some(bytes), Some(length)) => format!("{bytes} of {length} bytes"),
            (Some(bytes), None) => format!("{bytes} bytes"),
            _ => String::new(),
        };
        let age = pop.age_seconds.map_or(String::new(), |age| format!("{age} s old"));
        let error = pop.error.as_deref().unwrap_or_default();
        println!("{}", format!("{:<16} {:<8} {:<24} {age}{error}", pop.pop, pop.state, of(pop)).trim_end());
    }
    let unknown = answer.pops.iter().any(|pop| pop.state == "unknown");
    Ok(if unknown { args::partial() } else { args::OK })
}
