//! `nearside`: the operator's command line.
//!
//! What may be typed, and how the controller is found and asked, is here; what each command does and prints is in a file of its own.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::{Args, CommandFactory, Parser, Subcommand};
use http::Method;
use nearside_fleet::units;
use nearside_node::{args, identity::Identity, tls};

use crate::{
    api::{DrainRequest, encode},
    client::{ClientError, Peer, SharedClient, json},
    diff::Side,
    home,
};

mod backup;
mod certs;
mod events;
mod explain;
mod history;
mod identity;
mod init;
mod paint;
mod publish;
mod purge;
mod sign;
mod stats;
mod status;
mod trust;
mod warm;

/// For what the controller answers from memory, and for what it does with the whole fleet.
const QUICK: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

/// Runs a fleet of Nearside nodes from home.
#[derive(Parser)]
#[command(
    name = "nearside",
    version,
    after_help = "Examples:\n  \
    nearside init --fleet nearside.toml        make the CA, keys and one identity per node\n  \
    nearside check --fleet nearside.toml       find every mistake before it is published\n  \
    nearside status                            every node at a glance\n  \
    nearside diff                              what is on disk and not published\n  \
    nearside rollback                          back to what was good before\n  \
    nearside purge https://www.example.org/    at every PoP, acknowledged\n  \
    nearside drain fra --for 1h                take a PoP out of the answers\n\n\
    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 the controller can't be reached, 4 done, but not at every PoP yet"
)]
pub struct Cli {
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
    /// Makes a fleet file where there is none, the CA, the keys and one identity per node; makes only what is missing
    #[command(after_help = "Examples:\n  \
        nearside init --fleet nearside.toml --state-dir ~/.nearside\n  \
        nearside init --domain cdn.example.org --origin https://example.org \\\n      \
          --pop fra=198.51.100.10@frankfurt --pop nyc=203.0.113.10@40.7,-74.0")]
    Init(Box<init::InitArgs>),
    /// Checks the fleet file, the zone files and certificates it names
    #[command(after_help = "Examples:\n  nearside check --fleet nearside.toml")]
    Check,
    /// Shows the fleet at one glance: state, health, traffic, hits, certificates, purges
    #[command(
        after_help = "Examples:\n  nearside status\n  nearside status --watch\n  nearside status --json | jq .nodes"
    )]
    Status {
        /// Shows it again and again, every two seconds unless asked
        #[arg(long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, default_missing_value = "2s")]
        watch: Option<Duration>,
    },
    /// Shows what the fleet served: requests, hits, bytes and money saved, busiest paths
    #[command(
        after_help = "Examples:\n  nearside stats\n  nearside stats www --since 7d --top 20\n  nearside stats --pop fra --json"
    )]
    Stats(stats::StatsArgs),
    /// Shows what is wrong now, and what was told
    #[command(
        after_help = "Examples:\n  nearside events\n  nearside events --since 7d\n  nearside events --open --json"
    )]
    Events(events::EventsArgs),
    /// Who is told of events
    #[command(after_help = "Examples:\n  nearside webhook list\n  nearside webhook test ops")]
    #[command(subcommand)]
    Webhook(events::WebhookCommand),
    /// Says what a name is answered for a client, and why; or what becomes of a request
    #[command(after_help = "Examples:\n  \
        nearside explain www.example.org A --client 198.51.100.7\n  \
        nearside explain www.example.org AAAA --client 2001:db8::/48\n  \
        nearside explain http https://www.example.org/ --client 198.51.100.7")]
    Explain(explain::ExplainArgs),
    /// Publishes what is on disk and waits until every node has it
    #[command(after_help = "Examples:\n  \
        nearside publish -m \"new origin\"\n  \
        nearside publish --canary fra --watch 1m    to one PoP first; back by itself if it is worse off")]
    Publish(publish::PublishArgs),
    /// Goes back to what an older snapshot said; ends a rollout under way
    #[command(
        after_help = "Examples:\n  nearside rollback\n  nearside rollback 41 -m \"errors in Frankfurt\""
    )]
    Rollback(publish::RollbackArgs),
    /// Shows what was published, when, by whom and why
    #[command(after_help = "Examples:\n  nearside history\n  nearside history 42      the files it changed")]
    History {
        /// One snapshot and the files it changed
        number: Option<u64>,
        /// How many
        #[arg(long, value_name = "COUNT", default_value = "20")]
        count: usize,
    },
    /// Shows what differs: by default what is on disk from what is published
    #[command(
        after_help = "Examples:\n  nearside diff\n  nearside diff 41         the disk from snapshot 41\n  \
        nearside diff 41 42"
    )]
    Diff {
        /// A snapshot's number, or `disk` [default: the newest]
        from: Option<Side>,
        /// The same [default: disk]
        to: Option<Side>,
    },
    /// Removes from every PoP's cache
    #[command(after_help = "Examples:\n  \
        nearside purge https://www.example.org/style.css\n  \
        nearside purge --prefix https://www.example.org/img/\n  \
        nearside purge --tag product-17 --soft\n  \
        nearside purge --site www\n  \
        nearside purge --from changed-urls.txt --wait 30s\n\n\
        Exit codes: 0 every PoP has acknowledged, 1 nothing was purged, 3 the controller can't be reached,\n  \
        4 taken, but some PoPs have not acknowledged within --wait: they get it when they can be reached")]
    Purge(purge::PurgeArgs),
    /// Fetches URLs ahead, at every PoP or some
    #[command(after_help = "Examples:\n  \
        nearside warm https://www.example.org/ https://www.example.org/app.js\n  \
        nearside warm urls.txt --pop fra --rate 20\n\n\
        Exit codes: 0 all are stored everywhere, 1 none is, 4 some are")]
    Warm(warm::WarmArgs),
    /// Says at which PoPs a URL is cached
    #[command(after_help = "Examples:\n  nearside cached https://www.example.org/app.js\n\n\
        Exit codes: 0 every PoP has answered, 4 some could not be asked")]
    Cached {
        /// Which
        url: String,
    },
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
    /// Signs an address or a cookie for a site's protected paths; asks nobody
    #[command(after_help = "Examples:\n  \
        nearside sign https://www.example.org/private/a.mp4 --expires 2h\n  \
        nearside sign https://www.example.org/private/a.mp4 --from 198.51.100.0/24\n  \
        nearside sign https://www.example.org/hls/7/ --cookie --expires 12h\n  \
        nearside sign --new-key 2026-11 >> secrets/www.urls")]
    Sign(sign::SignArgs),
    /// Makes one encrypted file of home: CA, keys, certificates, tokens, journal; also while the controller runs
    #[command(after_help = "Examples:\n  \
        nearside backup /media/usb/home.age\n  \
        nearside backup home.age --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudnzyyeqh7y2k5")]
    Backup(backup::BackupArgs),
    /// Makes home of a backup, in a state directory that is not there yet or empty
    #[command(after_help = "Examples:\n  nearside restore home.age --state-dir /var/lib/nearside/controller")]
    Restore(backup::RestoreArgs),
    /// Nodes of the fleet: their identities
    #[command(subcommand)]
    Node(identity::NodeCommand),
    /// People who run the fleet: their certificates
    #[command(subcommand)]
    Operator(identity::OperatorCommand),
    /// Bearer tokens for deploy pipelines and dashboards
    #[command(subcommand)]
    Token(trust::TokenCommand),
    /// Who did what, when, from where, and what became of it
    #[command(
        after_help = "Examples:\n  nearside audit --since 7d\n  nearside audit --json | jq '.entries[] | select(.who == \"token:ci\")'"
    )]
    Audit {
        /// Only what is newer
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        since: Option<Duration>,
        /// At most so many, the newest
        #[arg(long, value_name = "COUNT", default_value_t = 1000)]
        limit: usize,
    },
    /// Writes a shell's completions to standard output
    #[command(after_help = "Examples:\n  nearside completions bash > /etc/bash_completion.d/nearside\n  \
        nearside completions zsh > ~/.zfunc/_nearside\n  \
        nearside completions fish > ~/.config/fish/completions/nearside.fish")]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages of this program and its commands
    #[command(after_help = "Examples:\n  nearside man /usr/local/share/man/man1")]
    Man {
        /// Where they go
        dir: PathBuf,
    },
    /// Every site's certificate: who issued it, how long it holds, which PoPs show it
    #[command(
        after_help = "Examples:\n  nearside certs\n  nearside certs www --json\n\nThe exit code is 1 if anything is wrong"
    )]
    Certs(certs::CertsArgs),
    /// Renews, pushes, revokes certificates
    #[command(subcommand)]
    Cert(certs::CertCommand),
}

/// Why a command failed; decides the exit code.
enum Failure {
    /// The work was understood and failed.
    Failed(String),
    /// Nobody to do it.
    Unreachable(String),
    /// The command line makes no sense.
    Usage(String),
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

/// Does what the arguments say; the program's exit code.
pub fn main() -> ExitCode {
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
        Err(Failure::Usage(message)) => {
            eprintln!("nearside: {message}");
            args::usage()
        }
        Err(Failure::Unreachable(message)) => {
            eprintln!("nearside: {message}");
            args::unreachable()
        }
    }
}

async fn run(at: &HomeArgs, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(asked) => init::init(at, *asked),
        Command::Check => Ok(init::checked(at)),
        Command::Completions { shell } => Ok(completions(shell)),
        Command::Man { dir } => man(&dir),
        Command::Status { watch } => status::status(at, watch).await,
        Command::Stats(what) => stats::stats(at, &what).await,
        Command::Events(what) => events::events(at, &what).await,
        Command::Webhook(command) => events::webhook(at, command).await,
        Command::Explain(args) => explain::explain(at, args).await,
        Command::Publish(asked) => publish::publish(at, asked).await,
        Command::Rollback(asked) => publish::rollback(at, asked).await,
        Command::History { number, count } => history::history(at, number, count).await,
        Command::Diff { from, to } => history::diff(at, from, to).await,
        Command::Purge(what) => purge::purge(at, &what).await,
        Command::Warm(what) => warm::warm(at, &what).await,
        Command::Cached { url } => warm::cached(at, &url).await,
        Command::Sign(asked) => sign::sign(at, &asked),
        Command::Drain { pop, lasts, reason } => {
            let body = DrainRequest { pop, seconds: lasts.map(|lasts| lasts.as_secs()), reason };
            let _: serde_json::Value = at.post("/v1/drains", json(&body)).await?;
            let how_long =
                lasts.map_or(String::new(), |lasts| format!(" for {}", units::write_duration(lasts)));
            at.done(&body, &format!("{} is drained{how_long}", body.pop));
            Ok(args::OK)
        }
        Command::Backup(what) => backup::backup(at, &what),
        Command::Restore(what) => backup::restore(at, &what),
        Command::Node(command) => identity::node(at, &command).await,
        Command::Operator(command) => identity::operator(at, &command).await,
        Command::Token(command) => trust::token(at, &command).await,
        Command::Audit { since, limit } => trust::audit(at, since, limit).await,
        Command::Undrain { pop } => {
            let path = format!("/v1/drains/{}", encode(&pop));
            at.peer()?.ask(Method::DELETE, &path, Bytes::new(), QUICK).await?.good()?;
            at.done(&serde_json::json!({ "pop": pop }), &format!("{pop} is back"));
            Ok(args::OK)
        }
        Command::Certs(what) => certs::certs(at, &what).await,
        Command::Cert(command) => certs::cert(at, command).await,
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nearside", &mut text);
    // A reader that went away has what it wanted.
    let _closed = std::io::Write::write_all(&mut std::io::stdout(), &text);
    args::OK
}

fn man(dir: &std::path::Path) -> Result<ExitCode, Failure> {
    let wrong = |error: std::io::Error| failed(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(wrong)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(wrong)?;
    println!("wrote nearside.1 and a page for each command to {}", dir.display());
    Ok(args::OK)
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
        Ok(Peer { name: "controller".to_owned(), address, tls: SharedClient::new(tls) })
    }

    /// Says that something was done, in words or as JSON.
    fn done(&self, json: &impl serde::Serialize, words: &str) {
        match serde_json::to_string_pretty(json) {
            Ok(json) if self.json => println!("{json}"),
            _ => println!("{words}"),
        }
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, Failure> {
        Ok(self.peer()?.ask(Method::POST, path, body, LONG).await?.good()?.json()?)
    }
}
