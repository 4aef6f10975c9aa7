//! Runs a daemon as a node, from the command line to the exit code.
//!
//! Boot: the accepted snapshot if this node is enrolled, else the local fleet file, else the copy of the
//! last good one. Then the daemon starts, the control doors open, the service manager is told, and one
//! loop follows local files and signals until it is time to stop. Invariant: nothing after the first good
//! state ends the process but a signal.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    apply::Applier,
    args::{self, ServeArgs},
    control::server::{self, OpenError, Server, SharedTls},
    daemon::{Context, Daemon, Listeners, StartError},
    desired::{Desired, Refusal, Source},
    enrolled::Enrolment,
    last_good, load,
    local::Local,
    logs,
    metrics::Metrics,
    ready,
    renewal::{self, Renewal},
    routes,
    signals::{Asked, Signals},
    snapshots::Snapshots,
    state::StateDir,
    store::Store,
    tls,
    watch::Watch,
};

/// Threads of the control runtime. Data paths have their own; this one does probes, control and timers.
const CONTROL_THREADS: usize = 2;

/// From SIGTERM to the end, whatever is still under way. Shorter than the units' `TimeoutStopSec`.
pub const DRAIN_MAX: Duration = Duration::from_secs(25);

/// The Unix door in the state directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("nothing to serve: {0}")]
    NothingToServe(Refusal),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("signals can't be received: {0}")]
    Signals(std::io::Error),
}

/// Runs a daemon until it is told to stop. `make` gets its [`Context`] before any configuration is known.
///
/// Returns 0 after a clean stop, 1 where the node could not start, 2 for a bad `--log-level`.
pub fn serve<D: Daemon>(
    args: &ServeArgs,
    version: &str,
    make: impl FnOnce(Context) -> Result<D, StartError>,
) -> ExitCode {
    if let Err(error) = logs::init(&args.logs) {
        eprintln!("error: {error}");
        return args::usage();
    }
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(args, version, make));
            // What is still blocked (a staging, a slow disk) must not hold up the stop.
            runtime.shutdown_timeout(Duration::from_millis(200));
            result
        }
        Err(error) => Err(RunError::Start(StartError(format!("no runtime: {error}")))),
    };
    match result {
        Ok(()) => args::OK,
        Err(error) => {
            tracing::error!("{error}");
            args::failed()
        }
    }
}

async fn run<D: Daemon>(
    args: &ServeArgs,
    version: &str,
    make: impl FnOnce(Context) -> Result<D, StartError>,
) -> Result<(), RunError> {
    let mut signals = Signals::listen().map_err(RunError::Signals)?;
    let state = StateDir::open_or_warn(args.state_dir());
    if let Some(state) = &state {
        // Before anything is written there.
        server::not_shared(&state.path(CONTROL_SOCKET)).await?;
    }
    let kept = state.clone().and_then(|state| match Store::open(&state) {
        Ok(store) => Some((state, store)),
        Err(error) => {
            tracing::warn!(%error, "states can't be kept");
            None
        }
    });
    let metrics = Metrics::new(D::KIND.program(), version);
    tracing::info!(node = args.node, pid = std::process::id(), "{} {version} starts", D::KIND.program());
    let context = Context { node: args.node.clone(), state: state.clone(), metrics: metrics.clone() };
    let daemon = Arc::new(make(context)?);
    let applier = Arc::new(Applier::new(&args.node, daemon, metrics.node.clone()));
    let enrolment = Arc::new(Enrolment::new(&args.node, state.clone()));
    let snapshots =
        Arc::new(Snapshots::new(&args.node, kept.clone(), Arc::clone(&applier), Arc::clone(&enrolment)));
    let mut local = Local::new(args.fleet.clone(), kept.clone());

    let node = Node { args, version, state, kept, metrics, applier, enrolment, snapshots };
    // A first state can take its time (a city database, a first round of checks); a stop does not wait for it.
    tokio::select! {
        up = node.come_up(&mut local) => up?,
        () = stop_asked(&mut signals) => {
            tracing::info!("stopped before it served");
            return Ok(());
        }
    }
    tokio::spawn(ready::watchdog());
    tokio::spawn(follow_identity(Arc::clone(&node.enrolment), Arc::clone(&node.applier)));
    ready::ready("serving");
    follow(&node.applier, &node.snapshots, local, signals).await;
    Ok(())
}

/// The parts of a node that come up together.
struct Node<'a, D: Daemon> {
    args: &'a ServeArgs,
    version: &'a str,
    state: Option<StateDir>,
    kept: Option<(StateDir, Store)>,
    metrics: Metrics,
    applier: Arc<Applier<D>>,
    enrolment: Arc<Enrolment>,
    snapshots: Arc<Snapshots<D>>,
}

impl<D: Daemon> Node<'_, D> {
    /// A first state, then the daemon, then the doors.
    async fn come_up(&self, local: &mut Local) -> Result<(), RunError> {
        let booted = boot(&self.applier, &self.snapshots, local, self.kept.as_ref()).await;
        booted.map_err(RunError::NothingToServe)?;
        let listeners = listeners(&self.applier, &self.args.node).map_err(RunError::NothingToServe)?;
        Arc::clone(self.applier.daemon()).start().await?;
        let routes = routes::Routes::new(
            &self.args.node,
            self.version,
            Arc::clone(&self.applier),
            Arc::clone(&self.enrolment),
            Arc::clone(&self.snapshots),
            Renewal::new(&self.args.node, self.state.clone(), Arc::clone(&self.enrolment)),
            self.metrics.clone(),
        );
        open_doors(listeners, self.state.as_ref(), routes, &self.enrolment).await
    }
}

/// Waits for SIGTERM or SIGINT. Cancel-safe.
async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

fn listeners<D: Daemon>(applier: &Applier<D>, node: &str) -> Result<Listeners, Refusal> {
    match applier.status().serving {
        Some(serving) => D::KIND.listeners(&serving.config, node),
        None => Err(Refusal::new("no state was swapped in")),
    }
}

/// Finds a first state that checks out. The error is the local file's: the one a person can mend.
async fn boot<D: Daemon>(
    applier: &Applier<D>,
    snapshots: &Snapshots<D>,
    local: &mut Local,
    kept: Option<&(StateDir, Store)>,
) -> Result<(), Refusal> {
    if snapshots.boot().await {
        local.look().await;
        return Ok(());
    }
    let Err(refusal) = local.apply(applier).await else { return Ok(()) };
    let Some((state, store)) = kept else { return Err(refusal) };
    let (state, store) = (state.clone(), store.clone());
    let restored = tokio::task::spawn_blocking(move || last_good::restore(&state, &store)).await;
    let (root, fleet_file) = match restored {
        Ok(Ok(Some(restored))) => restored,
        Ok(Ok(None)) => return Err(refusal),
        Ok(Err(error)) => {
            tracing::error!(%error, "the last good state can't be used either");
            return Err(refusal);
        }
        Err(_) => return Err(refusal),
    };
    tracing::warn!(
        copy = %fleet_file.display(),
        "STARTING FROM THE LAST GOOD STATE: the local fleet file was refused (see above); mend it and it is \
         taken without a restart"
    );
    let loaded =
        load::load(&fleet_file, Some(&root)).inspect_err(|again| applier.refuse(Source::LastGood, again));
    let Ok(loaded) = loaded else { return Err(refusal) };
    let desired = Desired { config: loaded.config, fleet_file, source: Source::LastGood };
    match applier.apply(desired).await {
        Ok(_) => {
            // The local file still stands refused: status shows it beside what serves.
            applier.remember_refused(Source::Local, refusal);
            Ok(())
        }
        Err(_) => Err(refusal),
    }
}

/// Opens the control listener, the metrics listener and the Unix socket.
async fn open_doors<D: Daemon>(
    listeners: Listeners,
    state: Option<&StateDir>,
    routes: routes::Routes<D>,
    enrolment: &Arc<Enrolment>,
) -> Result<(), RunError> {
    let tls = enrolment.tls();
    let metrics = routes.metrics().node.clone();
    if let Some(address) = listeners.metrics {
        let scrape = Server::new(routes.clone().scrape_handler(), metrics.clone());
        let (address, serving) = scrape.tcp(address, SharedTls::default()).await?;
        tracing::info!("metrics on http://{address}/metrics");
        tokio::spawn(serving);
    }
    let server = Server::new(routes.handler(), metrics).judged_by(renewal::judge(Arc::clone(enrolment)));
    if let Some(address) = listeners.control {
        let how =
            if tls.load().is_some() { "mutual TLS" } else { "plain, read-only: this node has no identity" };
        let (address, serving) = server.tcp(address, tls).await?;
        tracing::info!("control on {address} ({how})");
        tokio::spawn(serving);
    }
    if let Some(state) = state {
        match server.unix(&state.path(CONTROL_SOCKET)).await {
            Ok(serving) => drop(tokio::spawn(serving)),
            // A path past the 107 bytes of sockaddr_un, say. The rest works without it.
            Err(OpenError::Bind(reason)) => tracing::warn!("no control socket: {reason}"),
            Err(shared @ OpenError::Shared(_)) => return Err(shared.into()),
        }
    }
    Ok(())
}

/// Reads the identity again whenever its files change. What serves is then staged anew: a daemon shows the identity to other
/// nodes, and must know whose are revoked.
async fn follow_identity<D: Daemon>(enrolment: Arc<Enrolment>, applier: Arc<Applier<D>>) {
    let files = enrolment.identity_files();
    if files.is_empty() {
        return;
    }
    let mut watch = Watch::new();
    watch.replace(files);
    let known = |enrolment: &Enrolment| {
        let identity = enrolment.identity()?;
        Some((identity.credentials.chain.clone(), identity.revoked.clone()))
    };
    let mut staged = known(&enrolment);
    loop {
        watch.changed().await;
        enrolment.read_identity();
        let now = known(&enrolment);
        if now != staged {
            staged = now;
            // A refusal is logged where it is found, and what served before serves on.
            let _refused = applier.again().await;
        }
    }
}

/// Follows local files and signals until told to stop, then drains.
async fn follow<D: Daemon>(
    applier: &Applier<D>,
    snapshots: &Snapshots<D>,
    mut local: Local,
    mut signals: Signals,
) {
    loop {
        let asked = tokio::select! {
            () = local.changed() => None,
            asked = signals.next() => Some(asked),
        };
        if asked == Some(Asked::Stop) {
            break;
        }
        if !local.differs().await {
            if asked.is_some() {
                tracing::info!("SIGHUP: nothing has changed");
            }
            continue;
        }
        if snapshots.governs() {
            local.look().await;
            tracing::warn!(
                "the local fleet file changed and is ignored: this node is enrolled and takes its state from \
                 home (`nearside publish`); remove STATE/identity and restart to make it standalone"
            );
            continue;
        }
        ready::reloading();
        // What is being staged is dropped by a stop; a SIGHUP meanwhile is found by the next poll.
        let result = tokio::select! {
            result = local.apply(applier) => result,
            () = stop_asked(&mut signals) => break,
        };
        ready::ready(if result.is_ok() {
            "serving"
        } else {
            "serving the last good state; the newest was refused"
        });
    }
    ready::stopping();
    tracing::info!("draining, at most {} s; a second signal stops now", DRAIN_MAX.as_secs());
    let deadline = Instant::now() + DRAIN_MAX;
    let stop = tokio::time::timeout(DRAIN_MAX, applier.daemon().stop(deadline));
    tokio::pin!(stop);
    loop {
        tokio::select! {
            drained = &mut stop => {
                let how = if drained.is_ok() { "drained" } else { "gave up draining" };
                tracing::info!("{how}, stopped");
                return;
            }
            asked = signals.next() => if asked == Asked::Stop {
                tracing::warn!("stopped without draining");
                return;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        metrics::NodeMetrics,
        test_daemon::{TestDaemon, write_fleet},
    };

    fn applier() -> Arc<Applier<TestDaemon>> {
        Arc::new(Applier::new("ns1", Arc::new(TestDaemon::default()), NodeMetrics::default()))
    }

    /// Boots as a node without an identity.
    async fn boot_standalone(
        applier: &Arc<Applier<TestDaemon>>,
        local: &mut Local,
        kept: Option<&(StateDir, Store)>,
    ) -> Result<(), Refusal> {
        let enrolment = Arc::new(Enrolment::new("ns1", kept.map(|(state, _)| state.clone())));
        let snapshots = Snapshots::new("ns1", kept.cloned(), Arc::clone(applier), enrolment);
        boot(applier, &snapshots, local, kept).await
    }

    #[tokio::test]
    async fn a_broken_file_at_the_start_gives_way_to_the_last_good_state() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path().join("state")).unwrap();
        let kept = (state.clone(), Store::open(&state).unwrap());
        let fleet = write_fleet(&temp.path().join("etc"), "good");

        let mut local = Local::new(fleet.clone(), Some(kept.clone()));
        boot_standalone(&applier(), &mut local, Some(&kept)).await.unwrap();

        // A restart later: the fleet file is broken, the zone file gone.
        fs::write(&fleet, "version = \"one\"").unwrap();
        fs::remove_dir_all(temp.path().join("etc/zones")).unwrap();
        let again = applier();
        let mut local = Local::new(fleet.clone(), Some(kept.clone()));
        boot_standalone(&again, &mut local, Some(&kept)).await.unwrap();
        assert_eq!(again.daemon().serves().as_deref(), Some("good"));
        let status = again.status();
        assert_eq!(status.serving.unwrap().source, Source::LastGood);
        assert_eq!(status.refused.unwrap().source, Source::Local, "and it says why");

        // Mended: taken without a restart.
        write_fleet(&temp.path().join("etc"), "better");
        local.changed().await;
        assert!(local.differs().await);
        local.apply(&again).await.unwrap();
        assert_eq!(again.daemon().serves().as_deref(), Some("better"));
    }

    #[tokio::test]
    async fn a_broken_file_without_a_last_good_state_says_what_is_broken() {
        let temp = tempfile::tempdir().unwrap();
        let fleet = write_fleet(temp.path(), "BAD");
        let refusal = boot_standalone(&applier(), &mut Local::new(fleet, None), None)
            .await
            .expect_err("nothing to serve");
        assert!(refusal.to_string().contains("cdn.test.zone:1:1"), "{refusal}");
    }

    #[tokio::test]
    async fn a_fleet_without_this_node_is_refused_and_lists_those_there_are() {
        let temp = tempfile::tempdir().unwrap();
        let daemon = Arc::new(TestDaemon::default());
        let applier = Arc::new(Applier::new("ns9", daemon, NodeMetrics::default()));
        let mut local = Local::new(write_fleet(temp.path(), "x"), None);
        let refusal = boot_standalone(&applier, &mut local, None).await.expect_err("there is no ns9");
        assert!(refusal.to_string().contains("it has: ns1"), "{refusal}");
    }
}
