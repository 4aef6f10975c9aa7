//! `nearside purge`: at every PoP, acknowledged.

use std::process::ExitCode;

use clap::Args;
use nearside_fleet::purge::{Mode, Scope};
use nearside_node::args;

use super::{Failure, HomeArgs, failed};
use crate::{
    api::{PurgeAnswer, PurgeRequest},
    client::json,
};

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct PurgeArgs {
    /// URLs, with all their variants
    urls: Vec<String>,
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
}

pub(super) async fn purge(at: &HomeArgs, what: &PurgeArgs) -> Result<ExitCode, Failure> {
    let mut scopes: Vec<Scope> = what.urls.iter().cloned().map(Scope::Url).collect();
    scopes.extend(what.prefix.iter().cloned().map(Scope::Prefix));
    scopes.extend(what.tag.iter().map(|tag| Scope::Tag { tag: tag.clone(), site: None }));
    scopes.extend(what.site.iter().cloned().map(Scope::Site));
    scopes.extend(what.all.then_some(Scope::All));
    if scopes.is_empty() {
        eprintln!("nearside: --soft says how, not what: name URLs, --prefix, --tag, --site or --all");
        return Ok(args::usage());
    }
    let mode = if what.soft { Mode::Soft } else { Mode::Hard };
    let answer: PurgeAnswer = at.post("/v1/purges", json(&PurgeRequest { scopes, mode })).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
    }
    for pop in answer.pops.iter().filter(|_| !at.json) {
        match &pop.error {
            None => println!("{:<16} purged in {:.1} ms", pop.pop, pop.ms),
            Some(error) => println!("{:<16} not yet, it is replayed: {error}", pop.pop),
        }
    }
    Ok(if answer.pops.iter().all(|pop| pop.error.is_none()) { args::OK } else { args::failed() })
}
