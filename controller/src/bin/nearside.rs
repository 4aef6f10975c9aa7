//! `nearside`: the operator's command line.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use http::Method;
use nearside_controller::{
    api::{DrainRequest, PurgeAnswer, PurgeRequest, RenewRequest, encode},
    check,
    client::{ClientError, Peer, json},
    home,
    nodes::{Kind, Phase, Status},
    serve::{FleetStatus, PublishOutcome},
};
use nearside_fleet::{
    purge::{Mode, Scope},
    units,
};
use nearside_node::{args, identity::Identity, state::StateDir, tls};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// For what the controller answers from memory, and for what it does with the whole fleet.
const QUICK: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);
/// How often a publish looks whether all nodes have it.
const LOOK: Duration = Duration::from_millis(100);

/// Runs a fleet of Nearside nodes from home.
#[derive(Parser)]
#[command(
    name = "nearside",
    version,
    after_help = "Examples:\n  \
    nearside init --fleet nearside.toml        make the CA, keys and one identity per node\n  \
    nearside check --fleet nearside.toml       find every mistake before it is published\n  \
    nearside status                            every node at a glance\n  \
    nearside purge https://www.example.org/    at every PoP, acknowledged\n  \
    nearside drain fra --for 1h                take a PoP out of the answers\n\n\
    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 the controller can't be reached"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Args)]
struct HomeArgs {
    /// The fleet file
    #[arg(long, value_name = "FILE", env = "NEARSIDE_FLEET", default_value = "nearside.toml", global = true)]
    fleet: PathBuf,
    /// The controller's state directory
    #[arg(
        long,
        value_name = "DIR",
        env = "NEARSIDE_STATE_DIR",
        default_value = "/var/lib/nearside/controller",
        global = true
    )]
    state_dir: PathBuf,
    /// Where the controller listens [default: as the running one says, else the fleet file]
    #[arg(long, value_name = "ADDRESS:PORT", global = true)]
    controller: Option<SocketAddr>,
    /// Directory with ca.pem, cert.pem, key.pem of an operator [default: <STATE_DIR>/operator]
    #[arg(long, value_name = "DIR", global = true)]
    identity: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the CA, the keys and one identity per node; makes only what is missing
    #[command(after_help = "Examples:\n  nearside init --fleet nearside.toml --state-dir ~/.nearside")]
    Init {
        /// Where the nodes' identities go [default: <STATE_DIR>/identities]
        #[arg(long, value_name = "DIR")]
        identities: Option<PathBuf>,
    },
    /// Checks the fleet file, the zone files and certificates it names
    #[command(after_help = "Examples:\n  nearside check --fleet nearside.toml")]
    Check,
    /// Shows every node: reachable, snapshot, health, purges
    #[command(after_help = "Examples:\n  nearside status\n  nearside status --json | jq .nodes")]
    Status,
    /// Says what a name is answered for a client, and why
    #[command(after_help = "Examples:\n  \
        nearside explain www.example.org A --client 198.51.100.7\n  \
        nearside explain www.example.org AAAA --client 2001:db8::/48")]
    Explain {
        /// The name
        name: String,
        /// The record type
        #[arg(default_value = "A")]
        rtype: String,
        /// The client's address or subnet
        #[arg(long, value_name = "IP[/LEN]")]
        client: String,
    },
    /// Publishes what is on disk and waits until every node has it
    #[command(after_help = "Examples:\n  nearside publish")]
    Publish {
        /// How long to wait for the nodes
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
        wait: Duration,
    },
    /// Removes from every PoP's cache
    #[command(after_help = "Examples:\n  \
        nearside purge https://www.example.org/style.css\n  \
        nearside purge --prefix https://www.example.org/img/\n  \
        nearside purge --tag product-17 --soft\n  \
        nearside purge --site www")]
    Purge(PurgeArgs),
    /// Takes a PoP out of the answers of all DNS nodes
    #[command(after_help = "Examples:\n  nearside drain fra --for 1h --reason \"new disk\"")]
    Drain {
        /// Which
        pop: String,
        /// Ends by itself after this
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        lasts: Option<Duration>,
        /// Shown wherever the drain is
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Puts a drained PoP back
    #[command(after_help = "Examples:\n  nearside undrain fra")]
    Undrain {
        /// Which
        pop: String,
    },
    /// Certificates from the fleet's CA
    #[command(after_help = "Examples:\n  nearside cert renew\n  nearside cert renew www")]
    #[command(subcommand)]
    Cert(CertCommand),
}

#[derive(Subcommand)]
enum CertCommand {
    /// Renews now and publishes
    Renew {
        /// Only this site's
        site: Option<String>,
    },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct PurgeArgs {
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

/// Why a command failed; decides the exit code.
enum Failure {
    /// The work was understood and failed.
    Failed(String),
    /// Nobody to do it.
    Unreachable(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } => Self::Unreachable(format!(
                "the controller can't be reached: {error} (is `nearside-controller serve` running?)"
            )),
            ClientError::Status { message, .. } => Self::Failed(message),
            ClientError::Answer { .. } => Self::Failed(error.to_string()),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "expected a duration such as 30s, 10m, 1h".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tls::install_provider();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nearside: {error}");
            return args::failed();
        }
    };
    match runtime.block_on(run(&cli.home, cli.command)) {
        Ok(code) => code,
        Err(Failure::Failed(message)) => {
            eprintln!("nearside: {message}");
            args::failed()
        }
        Err(Failure::Unreachable(message)) => {
            eprintln!("nearside: {message}");
            args::unreachable()
        }
    }
}

async fn run(at: &HomeArgs, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init { identities } => init(at, identities),
        Command::Check => Ok(checked(at)),
        Command::Status => status(at).await,
        Command::Explain { name, rtype, client } => explain(at, &name, &rtype, &client).await,
        Command::Publish { wait } => {
            let outcome: PublishOutcome = at.post("/v1/publish", Bytes::new()).await?;
            settle(at, &outcome, wait).await
        }
        Command::Purge(what) => purge(at, &what).await,
        Command::Drain { pop, lasts, reason } => {
            let body = DrainRequest { pop, seconds: lasts.map(|lasts| lasts.as_secs()), reason };
            let _: serde_json::Value = at.post("/v1/drains", json(&body)).await?;
            println!(
                "{} is drained{}",
                body.pop,
                lasts.map_or(String::new(), |lasts| format!(" for {lasts:?}"))
            );
            Ok(args::OK)
        }
        Command::Undrain { pop } => {
            let path = format!("/v1/drains/{}", encode(&pop));
            at.peer()?.ask(Method::DELETE, &path, Bytes::new(), QUICK).await?.good()?;
            println!("{pop} is back");
            Ok(args::OK)
        }
        Command::Cert(CertCommand::Renew { site }) => {
            let outcome: PublishOutcome =
                at.post("/v1/certificates/renew", json(&RenewRequest { site })).await?;
            settle(at, &outcome, Duration::from_secs(30)).await
        }
    }
}

impl HomeArgs {
    /// How the controller is asked.
    fn peer(&self) -> Result<Peer, Failure> {
        let dir = self.identity.clone().unwrap_or_else(|| self.state_dir.join(home::OPERATOR));
        let identity =
            Identity::read(&dir).map_err(|error| failed(format!("{error} (was `nearside init` run?)")))?;
        let tls = identity.credentials.client_config().map_err(failed)?;
        let running = || {
            let text = std::fs::read_to_string(self.state_dir.join("controller.addr")).ok()?;
            text.trim().parse().ok()
        };
        let written =
            || nearside_fleet::load(&self.fleet).ok()?.config.controller.map(|controller| controller.listen);
        let address = self.controller.or_else(running).or_else(written);
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9443)));
        Ok(Peer { name: "controller".to_owned(), address, tls })
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, Failure> {
        Ok(self.peer()?.ask(Method::POST, path, body, LONG).await?.good()?.json()?)
    }
}

fn init(at: &HomeArgs, identities: Option<PathBuf>) -> Result<ExitCode, Failure> {
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

fn checked(at: &HomeArgs) -> ExitCode {
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

async fn fleet_status(at: &HomeArgs) -> Result<FleetStatus, Failure> {
    Ok(at.peer()?.get("/v1/status", QUICK).await?)
}

async fn status(at: &HomeArgs) -> Result<ExitCode, Failure> {
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
    println!(
        "{:<16} {:<5} {:<12} {:>8} {:>6} {:>10}  VERSION",
        "NODE", "KIND", "PHASE", "SNAPSHOT", "LAG", "PURGE LAG"
    );
    for node in &status.nodes {
        let lag = status.snapshot.zip(node.snapshot).map(|(newest, has)| newest.saturating_sub(has));
        let (kind, purges) = match node.kind {
            Kind::Edge => ("edge", Some(status.purges.saturating_sub(node.purges))),
            Kind::Dns => ("dns", None),
        };
        let version = node.report.as_ref().map_or("-", |report| report.version.as_str());
        let (has, lag, purges) = (number(node.snapshot), number(lag), number(purges));
        println!("{:<16} {kind:<5} {:<12} {has:>8} {lag:>6} {purges:>10}  {version}", node.node, node.phase);
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

fn clock(at: u64) -> String {
    let at = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    at.map_or("?".to_owned(), |at| at.to_string())
}

async fn explain(at: &HomeArgs, name: &str, rtype: &str, client: &str) -> Result<ExitCode, Failure> {
    let path = format!("/v1/explain?name={}&type={}&client={}", encode(name), encode(rtype), encode(client));
    let explanation: serde_json::Value = at.peer()?.get(&path, QUICK).await?;
    match explanation.get("text").and_then(|text| text.as_str()).filter(|_| !at.json) {
        Some(text) => println!("{}", text.trim_end()),
        None => println!("{}", serde_json::to_string_pretty(&explanation).map_err(failed)?),
    }
    Ok(args::OK)
}

/// Waits until every node has a snapshot, and says of each.
async fn settle(at: &HomeArgs, outcome: &PublishOutcome, wait: Duration) -> Result<ExitCode, Failure> {
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

async fn purge(at: &HomeArgs, what: &PurgeArgs) -> Result<ExitCode, Failure> {
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
