//! The command line of `nearside-dns`: reads arguments, calls, prints, exits.
//!
//! Exit codes: 0 done, 1 the work failed (a mistake was found, the node could not start), 2 the command
//! line made no sense, 3 the running server could not be reached.

use std::{
    fmt,
    io::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, Parser, Subcommand};
use nearside_fleet::Loaded;
use nearside_node::args::{self, ServeArgs};

use serde::Serialize;

use crate::{
    explain::{self, AskError, Door, Question},
    health::exec::ExecPolicy,
    server::Server,
    stage::{Stage, Staged},
    steering::{self, HealthView},
    transport::stats::Stats,
    view::View,
};

/// Version as printed and reported.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The GeoDNS authoritative server of a Nearside fleet: answers each query with the nearest healthy PoP.
#[derive(Parser)]
#[command(
    name = "nearside-dns",
    version,
    after_help = "\
Examples:
  nearside-dns check --fleet nearside.toml
  nearside-dns serve --fleet nearside.toml --node ns1
  nearside-dns explain --fleet nearside.toml www.cdn.test AAAA --client 193.0.6.0/24
  nearside-dns diff-geo --fleet nearside.toml old.mmdb new.mmdb"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve DNS until SIGTERM; SIGHUP reloads
    #[command(after_help = "\
Examples:
  nearside-dns serve --fleet /etc/nearside/nearside.toml --node ns1
  nearside-dns serve --fleet nearside.toml --node ns1 --state-dir ./state --log-level debug

Ports below 1024 need CAP_NET_BIND_SERVICE (the systemd unit grants it).")]
    Serve(ServeDnsArgs),
    /// Check the fleet file, its zones, databases and checks, and say everything that is wrong
    #[command(after_help = "\
Examples:
  nearside-dns check --fleet nearside.toml && systemctl reload nearside-dns")]
    Check(CheckArgs),
    /// Say what a client would be answered, and why
    #[command(after_help = "\
Examples:
  nearside-dns explain --fleet nearside.toml www.cdn.test --client 193.0.6.139
  nearside-dns explain --fleet nearside.toml www.cdn.test AAAA --client 2001:67c:2e8::/48 --json
  nearside-dns explain --fleet nearside.toml www.cdn.test --client 193.0.6.0/24 --control 127.0.10.1:8953

Without --control or --state-dir nothing is probed: every PoP is taken to be up, and the output says so.")]
    Explain(ExplainArgs),
    /// Say how many addresses would be sent elsewhere with another database
    #[command(after_help = "\
Examples:
  nearside-dns diff-geo --fleet nearside.toml GeoLite2-City-old.mmdb GeoLite2-City.mmdb")]
    DiffGeo(DiffGeoArgs),
}

#[derive(Args)]
struct ServeDnsArgs {
    #[command(flatten)]
    node: ServeArgs,
    /// Where the programs of `exec` checks lie; without it a fleet file with such checks is refused
    #[arg(long, value_name = "DIR", env = "NEARSIDE_EXEC_DIR", value_parser = absolute)]
    exec_dir: Option<PathBuf>,
}

/// Relative to what, would be the question.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path: PathBuf = Path::new(text).components().collect();
    if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".to_owned()) }
}

#[derive(Args)]
struct CheckArgs {
    /// The fleet file
    #[arg(long, value_name = "FILE", env = "NEARSIDE_FLEET")]
    fleet: PathBuf,
}

#[derive(Args)]
struct ExplainArgs {
    /// The fleet file
    #[arg(long, value_name = "FILE", env = "NEARSIDE_FLEET")]
    fleet: PathBuf,
    /// The name asked for
    name: String,
    /// A, AAAA or HTTPS
    #[arg(default_value = "A")]
    rtype: String,
    /// Who asks: an address, or a client subnet
    #[arg(long, value_name = "IP[/LEN]", value_parser = explain::parse_client)]
    client: (IpAddr, Option<u8>),
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Ask the server of this state directory for the health of now, through its control socket
    #[arg(long, value_name = "DIR", env = "NEARSIDE_STATE_DIR", conflicts_with = "control")]
    state_dir: Option<PathBuf>,
    /// Ask the server at this control address
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
}

#[derive(Args)]
struct DiffGeoArgs {
    /// The fleet file: says which PoPs would be answered
    #[arg(long, value_name = "FILE", env = "NEARSIDE_FLEET")]
    fleet: PathBuf,
    /// The database now
    old: PathBuf,
    /// The database that would replace it
    new: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => {
            let exec = serve.exec_dir.map_or(ExecPolicy::Refused, ExecPolicy::Within);
            nearside_node::run::serve(&serve.node, VERSION, |context| Ok(Server::new(context, exec)))
        }
        Command::Check(check) => run_check(&check),
        Command::Explain(explain) => run_explain(&explain),
        Command::DiffGeo(diff) => run_diff_geo(&diff),
    }
}

/// Reads the fleet file; what is odd about it is said, what is wrong ends the program.
fn load(fleet: &Path) -> Result<Loaded, ExitCode> {
    let loaded = nearside_fleet::load(fleet).map_err(|mistakes| fail_all(&mistakes))?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(loaded)
}

fn run_check(args: &CheckArgs) -> ExitCode {
    let loaded = match load(&args.fleet) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let absent = loaded.absent(&args.fleet);
    if !absent.is_empty() {
        return fail_all(&absent);
    }
    let staged =
        match Stage::new(ExecPolicy::Unjudged).build(&Arc::new(loaded.config), "check", &Stats::default()) {
            Ok(staged) => staged,
            Err(refusal) => return fail_all(&refusal.reasons),
        };
    for warning in &staged.warnings {
        eprintln!("warning: {warning}");
    }
    let config = &staged.base.config;
    println!(
        "{}: ok: fleet {}, {} PoPs, {} services, {} zones, {} addresses to probe",
        args.fleet.display(),
        config.fleet,
        config.pops.len(),
        config.services.len(),
        config.zones.len(),
        staged.plan.targets.len()
    );
    args::OK
}

fn run_explain(args: &ExplainArgs) -> ExitCode {
    let loaded = match load(&args.fleet) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let Staged { base, plan, .. } = match Stage::new(ExecPolicy::Unjudged).build(
        &Arc::new(loaded.config),
        "explain",
        &Stats::default(),
    ) {
        Ok(staged) => staged,
        Err(refusal) => return fail_all(&refusal.reasons),
    };
    let door = match (&args.state_dir, args.control) {
        (_, Some(address)) => Some(Door::Control(address)),
        (Some(dir), None) => Some(Door::StateDir(dir.clone())),
        (None, None) => None,
    };
    let (health, whence) = match door.map(|door| ask_now(&door)) {
        Some(Ok(found)) => found,
        Some(Err(error)) => {
            eprintln!("error: {error}");
            return args::unreachable();
        }
        None => (plan.all_up(), "nothing was probed: every PoP is taken to be up".to_owned()),
    };
    let question = Question {
        name: args.name.clone(),
        rtype: args.rtype.clone(),
        client: args.client.0,
        length: args.client.1,
    };
    let geo = match steering::open_geo(&base.config.geoip) {
        Ok(geo) => geo,
        Err(error) => return fail(&error),
    };
    match explain::explain(&View::new(base, health), &geo, &question, &whence) {
        Ok(explanation) => print(&explanation, args.json),
        Err(error) => fail(&error),
    }
}

fn ask_now(door: &Door) -> Result<(HealthView, String), AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| AskError::Unreachable { door: "no runtime".into(), source })?;
    runtime.block_on(explain::ask(door))
}

fn run_diff_geo(args: &DiffGeoArgs) -> ExitCode {
    let loaded = match load(&args.fleet) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let same = |path: &Path| match (path.canonicalize(), args.old.canonicalize()) {
        (Ok(path), Ok(old)) => path == old,
        _ => path == args.old,
    };
    let geoip = &loaded.config.geoip;
    let configured = geoip.databases.iter().any(|path| same(path));
    // Among several databases only the one named is replaced; a stranger stands alone.
    let with = |database: &PathBuf| -> Vec<PathBuf> {
        if !configured {
            return vec![database.clone()];
        }
        geoip.databases.iter().map(|path| if same(path) { database.clone() } else { path.clone() }).collect()
    };
    let diffed = steering::open_geo_with(geoip, &with(&args.old)).and_then(|old| {
        let new = steering::open_geo_with(geoip, &with(&args.new))?;
        steering::diff_geo(&loaded.config, &old, &new)
    });
    match diffed {
        Ok(diff) => print(&diff, args.json),
        Err(error) => fail(&error),
    }
}

fn print<T: fmt::Display + Serialize>(value: &T, json: bool) -> ExitCode {
    let text = if json {
        match serde_json::to_string_pretty(value) {
            Ok(text) => text + "\n",
            Err(error) => return fail(&error),
        }
    } else {
        value.to_string()
    };
    // Whoever closed the pipe (`| head`) has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    args::OK
}

fn fail(error: &impl fmt::Display) -> ExitCode {
    fail_all(&[error])
}

fn fail_all<E: fmt::Display>(errors: &[E]) -> ExitCode {
    for error in errors {
        eprintln!("error: {error}");
    }
    args::failed()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
