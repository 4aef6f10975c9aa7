//! The command line of `nearside-edge`.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use clap::{Parser, Subcommand};
use nearside_fleet::config::SiteTls;
use nearside_node::{
    args::{self, LogArgs, ServeArgs},
    load,
};

use crate::{
    alt_svc::Quic,
    daemon::EdgeDaemon,
    site::Sites,
    tls::{
        self,
        store::{Problem, Severity},
    },
};

/// The caching edge of a PoP: terminates TLS, serves from its cache, pulls from the origin.
#[derive(Parser)]
#[command(name = "nearside-edge", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nearside-edge serve --fleet /etc/nearside/nearside.toml --node fra
  nearside-edge serve --fleet nearside.toml --node fra --state-dir ./state --log-format json
  nearside-edge check --fleet nearside.toml";

#[derive(Subcommand)]
enum Command {
    /// Serve as one PoP of the fleet until told to stop
    #[command(after_help = "SIGHUP reloads; SIGTERM drains and stops.")]
    Serve(ServeArgs),
    /// Read the fleet file and all it names as an edge would, and say what is wrong
    #[command(after_help = "Exits with 0 if an edge would serve all of it, 1 if not.")]
    Check(CheckArgs),
}

#[derive(clap::Args)]
struct CheckArgs {
    /// The fleet file
    #[arg(long, value_name = "FILE", env = "NEARSIDE_FLEET")]
    fleet: PathBuf,
    /// How logs are written, and how much of them
    #[command(flatten)]
    logs: LogArgs,
}

/// Runs the program.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => nearside_node::run::serve(&args, env!("CARGO_PKG_VERSION"), |context| {
            Ok(EdgeDaemon::new(context))
        }),
        Command::Check(args) => check(&args),
    }
}

/// Does what staging does, for every PoP of the file, without a socket or a state directory.
fn check(args: &CheckArgs) -> ExitCode {
    if let Err(error) = nearside_node::logs::init(&args.logs) {
        eprintln!("error: {error}");
        return args::usage();
    }
    nearside_node::tls::install_provider();
    let loaded = match load::load(&args.fleet, None) {
        Ok(loaded) => loaded,
        Err(refusal) => {
            eprintln!("{refusal}");
            return args::failed();
        }
    };
    let config = &loaded.config;
    let mut mistakes =
        Sites::build(&config.sites, &config.geoip, None, None, 1, Quic::Silent).err().unwrap_or_default();
    if config.pops.is_empty() {
        mistakes.push(format!("{}: no [pop.NAME]: no edge can be started from it", args.fleet.display()));
    }
    // What home issues is home's to check: it comes with the first snapshot.
    let local = config.sites.values().filter(|site| matches!(site.tls, None | Some(SiteTls::Files { .. })));
    let (_, problems) = tls::load_table(local, None, SystemTime::now());
    for Problem { site, message, severity } in problems {
        match severity {
            Severity::Refused => mistakes.push(format!("site {site}: certificate: {message}")),
            Severity::Warning => eprintln!("warning: site {site}: {message}"),
        }
    }
    if mistakes.is_empty() {
        println!(
            "{}: {} PoPs, {} sites, all good",
            args.fleet.display(),
            config.pops.len(),
            config.sites.len()
        );
        return args::OK;
    }
    for mistake in mistakes {
        eprintln!("{mistake}");
    }
    args::failed()
}
