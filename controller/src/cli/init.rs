//! `nearside init` and `nearside check`: what is done before there is a controller.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use nearside_node::{args, state::StateDir};

use super::{Failure, HomeArgs, failed};
use crate::{check, home};

pub(super) fn init(at: &HomeArgs, identities: Option<PathBuf>) -> Result<ExitCode, Failure> {
    if home::write_starter(&at.fleet).map_err(|error| failed(format!("{}: {error}", at.fleet.display())))? {
        println!("wrote {}: change it to your fleet, then run this again", at.fleet.display());
    }
    let loaded = nearside_fleet::load(&at.fleet).map_err(|mistakes| {
        failed(mistakes.iter().map(nearside_fleet::Mistake::with_source).collect::<Vec<_>>().join("\n"))
    })?;
    let state = StateDir::open(&at.state_dir).map_err(failed)?;
    let dir = identities.unwrap_or_else(|| at.state_dir.join("identities"));
    let out = StateDir::open(&dir).map_err(failed)?;
    let made = home::init(&state, &out, &loaded.config, SystemTime::now()).map_err(failed)?;
    for path in &made.paths {
        println!("made {}", path.display());
    }
    if made.paths.is_empty() {
        println!("nothing was missing");
    } else {
        println!("copy {}/NODE to each node's state directory as `identity`", Path::new(&dir).display());
    }
    Ok(args::OK)
}

pub(super) fn checked(at: &HomeArgs) -> ExitCode {
    let checked = check::check(&at.fleet, SystemTime::now());
    for warning in &checked.warnings {
        eprintln!("warning: {warning}");
    }
    for mistake in &checked.mistakes {
        eprintln!("{mistake}");
    }
    if !checked.mistakes.is_empty() {
        match checked.mistakes.len() {
            1 => eprintln!("1 mistake"),
            count => eprintln!("{count} mistakes"),
        }
        return args::failed();
    }
    if let Some(config) = checked.loaded.map(|loaded| loaded.config) {
        println!(
            "{}: fleet {} is good: {} PoPs, {} DNS nodes, {} zones, {} sites",
            at.fleet.display(),
            config.fleet,
            config.pops.len(),
            config.dns.len(),
            config.zones.len(),
            config.sites.len()
        );
    }
    args::OK
}
