//! `nearside-controller`: the daemon at home.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use nearside_controller::{acme, api, certs, home, import, recovery, serve::Controller};
use nearside_node::{
    args::{self, LogArgs},
    control::server::{Server, SharedTls, handler},
    logs,
    metrics::Metrics,
    ready,
    signals::{Asked, Signals},
    state::StateDir,
    tls,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Where the API listens, for the command line on this machine; kept so that a broken fleet file does not
/// hide it.
const ADDRESS: &str = "controller.addr";
/// Where it listens unless the fleet file says otherwise.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9443);

/// Keeps the fleet's desired state at home and brings every node to it.
#[derive(Parser)]
#[command(
    name = "nearside-controller",
    version,
    after_help = "Examples:\n  \
    nearside init --fleet nearside.toml --state-dir /var/lib/nearside/controller\n  \
    nearside-controller serve --fleet nearside.toml --state-dir /var/lib/nearside/controller"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publishes the fleet file on every good change, replays purges and drains, answers the command line
    Serve {
        /// The fleet file
        #[arg(long, value_name = "FILE", env = "NEARSIDE_FLEET")]
        fleet: PathBuf,
        /// Keys, journal and published files; filled by `nearside init`
        #[arg(long, value_name = "DIR", default_value = "/var/lib/nearside/controller")]
        state_dir: PathBuf,
        /// How logs are written, and how much of them
        #[command(flatten)]
        logs: LogArgs,
    },
}

fn main() -> ExitCode {
    let Command::Serve { fleet, state_dir, logs } = Cli::parse().command;
    if let Err(error) = logs::init(&logs) {
        eprintln!("{error}");
        return args::usage();
    }
    tls::install_provider();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return args::failed();
        }
    };
    match runtime.block_on(run(&fleet, &state_dir)) {
        Ok(()) => args::OK,
        Err(error) => {
            tracing::error!("{error}");
            args::failed()
        }
    }
}

async fn run(fleet: &Path, state_dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = Signals::listen()?;
    let state = StateDir::open(state_dir)?;
    let metrics = Metrics::new("nearside-controller", env!("CARGO_PKG_VERSION"));
    let fleet = nearside_fleet::files::absolute(fleet);
    let (listen, scrape) = addresses(&fleet, &state);
    recovery::recover(&state, &fleet).await?;
    let controller = Controller::open(state.clone(), fleet, &metrics)?;
    let server = {
        let judge = api::judge(Arc::clone(&controller));
        let (controller, metrics) = (Arc::clone(&controller), metrics.clone());
        let node = metrics.node.clone();
        Server::new(
            handler(move |request| api::answer(Arc::clone(&controller), metrics.clone(), request)),
            node,
        )
        .judged_by(judge)
    };
    let (bound, accepting) = server.tcp(listen, controller.identities().server()).await?;
    state.write(ADDRESS, format!("{bound}\n").as_bytes())?;
    tokio::spawn(accepting);
    if let Some(scrape) = scrape {
        let metrics = metrics.clone();
        let node = metrics.node.clone();
        let plain = Server::new(handler(move |request| api::answer_scrape(metrics.clone(), request)), node);
        let (_, accepting) = plain.tcp(scrape, SharedTls::default()).await?;
        tokio::spawn(accepting);
    }
    let following = tokio::spawn(Arc::clone(&controller).follow());
    let watching = tokio::spawn(Arc::clone(&controller).watch_over());
    let ordering = tokio::spawn(acme::follow::follow(Arc::clone(&controller)));
    let importing = tokio::spawn(import::follow(Arc::clone(&controller)));
    let expiring = tokio::spawn(certs::watch_ends(Arc::clone(&controller)));
    let counting = tokio::spawn(Arc::clone(&controller).count());
    tokio::spawn(Arc::clone(&controller).keep_backups());
    tracing::info!(listen = %bound, "the controller is up");
    tokio::spawn(ready::watchdog());
    ready::ready("serving");
    while signals.next().await == Asked::Reload {
        // Refusals are logged where they are found.
        let _logged = controller.publish("SIGHUP").await;
    }
    ready::stopping();
    following.abort();
    ordering.abort();
    importing.abort();
    expiring.abort();
    watching.abort();
    counting.abort();
    tracing::info!(at = home::seconds(std::time::SystemTime::now()), "stopped");
    Ok(())
}

/// Where to listen: the fleet file says; where it is broken, where it was last time.
fn addresses(fleet: &Path, state: &StateDir) -> (SocketAddr, Option<SocketAddr>) {
    let section = nearside_fleet::load(fleet).ok().map(|loaded| loaded.config.controller);
    match section {
        Some(Some(controller)) => (controller.listen, controller.metrics),
        Some(None) => (LISTEN, None),
        None => {
            let kept = state.read(ADDRESS, 1 << 10).ok().flatten();
            let kept = kept.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
            (kept.unwrap_or(LISTEN), None)
        }
    }
}
