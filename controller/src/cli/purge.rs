//! `nearside purge`: at every PoP, acknowledged.

use std::{
    io::{IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use nearside_fleet::purge::{Mode, Scope};
use nearside_node::args;

use super::{Failure, HomeArgs, LONG, duration, failed};
use crate::{
    api::purges::{PurgeAnswer, PurgeRequest, SCOPES_MAX},
    client::json,
    purge::board::Standing,
};

/// URLs of one command. Larger deploys purge a prefix, a tag or a site.
const URLS_MAX: usize = 100_000;
/// Longest list of URLs that is read.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// One look at how far a purge is; the answer comes earlier if something has changed.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct PurgeArgs {
    /// URLs, with all their variants
    urls: Vec<String>,
    /// URLs from a file, one a line; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Everything whose URL begins so
    #[arg(long, value_name = "URL")]
    prefix: Vec<String>,
    /// Everything that carries this tag
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Everything of a site
    #[arg(long, value_name = "SITE")]
    site: Vec<String>,
    /// Everything
    #[arg(long)]
    all: bool,
    /// Stale instead of gone: served while it is fetched anew
    #[arg(long)]
    soft: bool,
    /// How long to wait for PoPs that don't answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    wait: Duration,
}

pub(super) async fn purge(at: &HomeArgs, what: &PurgeArgs) -> Result<ExitCode, Failure> {
    let mut urls = what.urls.clone();
    if let Some(file) = &what.from {
        urls.extend(list(file)?);
    }
    if urls.len() > URLS_MAX {
        return Err(failed(format!(
            "{} URLs; at most {URLS_MAX} at once: purge a prefix, tag or site",
            urls.len()
        )));
    }
    let mut scopes: Vec<Scope> = urls.into_iter().map(Scope::Url).collect();
    scopes.extend(what.prefix.iter().cloned().map(Scope::Prefix));
    scopes.extend(what.tag.iter().map(|tag| Scope::Tag { tag: tag.clone(), site: None }));
    scopes.extend(what.site.iter().cloned().map(Scope::Site));
    scopes.extend(what.all.then_some(Scope::All));
    if scopes.is_empty() {
        eprintln!("nearside: nothing to purge: name URLs, --from, --prefix, --tag, --site or --all");
        return Ok(args::usage());
    }
    let mode = if what.soft { Mode::Soft } else { Mode::Hard };
    let mut answer: Option<PurgeAnswer> = None;
    let deadline = Instant::now() + what.wait;
    for part in scopes.chunks(SCOPES_MAX) {
        let order = PurgeRequest { scopes: part.to_vec(), mode, wait_seconds: Some(0) };
        let next: PurgeAnswer = at.post("/v1/purges", json(&order)).await?;
        let first = answer.map_or(next.first, |answer| answer.first);
        answer = Some(PurgeAnswer { first, ..next });
    }
    // An edge takes them in order: who has the last has all.
    let Some(answer) = answer else { return Ok(args::usage()) };
    let answer = follow(at, answer, deadline).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
    } else {
        print(&answer);
    }
    let acknowledged = answer.pops.iter().all(|pop| pop.state == Standing::Acknowledged);
    Ok(if acknowledged { args::OK } else { args::partial() })
}

/// Watches the PoPs settle, no longer than the deadline.
async fn follow(at: &HomeArgs, mut answer: PurgeAnswer, deadline: Instant) -> Result<PurgeAnswer, Failure> {
    let first = answer.first;
    let on_terminal = std::io::stderr().is_terminal();
    loop {
        let settled = answer.pops.iter().filter(|pop| pop.state != Standing::Waiting).count();
        if on_terminal {
            // A terminal that is gone is no reason to stop.
            let _gone = write!(std::io::stderr(), "\r{settled} of {} PoPs ", answer.pops.len());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if settled == answer.pops.len() || left.is_zero() {
            break;
        }
        let wait = left.min(LOOK).as_secs().max(1);
        let path = format!("/v1/purges/{}?settled={}&wait_seconds={wait}", answer.last, settled + 1);
        answer = at.peer()?.get(&path, LONG).await?;
    }
    if on_terminal {
        let _gone = write!(std::io::stderr(), "\r{:24}\r", "");
    }
    Ok(PurgeAnswer { first, ..answer })
}

fn print(answer: &PurgeAnswer) {
    for pop in &answer.pops {
        match pop.state {
            Standing::Acknowledged => println!("{:<16} purged in {:.1} ms", pop.pop, pop.ms),
            Standing::Waiting => println!("{:<16} not yet: no answer so far; it is replayed", pop.pop),
            Standing::Away => {
                let error = pop.error.as_deref().unwrap_or_default();
                println!("{:<16} not yet, it is replayed: {error}", pop.pop);
            }
        }
    }
    let count = answer.last + 1 - answer.first;
    let there = answer.pops.iter().filter(|pop| pop.state == Standing::Acknowledged).count();
    println!("{count} purged at {there} of {} PoPs", answer.pops.len());
}

/// One URL a line; empty lines and those that begin with `#` don't count.
pub(super) fn list(file: &Path) -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(LIST_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LIST_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| failed(format!("{}: {error}", file.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}
