//! The daemon: holds the view that serves, rebuilds it when health or configuration changes.
//!
//! [`Server`] implements the node's [`Daemon`]: staging is [`crate::stage`]'s, probing [`crate::health`]'s,
//! answering [`crate::transport`]'s; here they are wired. Two things make a new view, a swap and a change
//! of health; [`Server::rebuild`] is the only place that stores one, under a lock, so that a flip can't
//! bring an old configuration back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use nearside_node::{
    Context, ControlRequest, ControlResponse, Daemon, Desired, Kind, Refusal, Staging, StartError,
};
use nearside_zones::Name;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    challenge::{ChallengeError, Challenges},
    clock, control,
    explain::HealthMessage,
    health::{Health, TargetReport, VIEW_AGE_MAX, drain::Drains, exec::ExecPolicy, peers::PeerReport},
    stage::{Stage, Staged},
    steering::ServiceId,
    transport::{
        bind::{self, Listener},
        encrypted::{Certificate, Encrypted},
        stats::{Stats, Sums},
        tcp::Streams,
        udp::Workers,
    },
    view::{Base, View},
};

/// A view is rebuilt this often, well within what it promises.
const REBUILD_INTERVAL: Duration = Duration::from_millis(VIEW_AGE_MAX.as_millis() as u64 / 2);

/// `nearside-dns` as a daemon.
pub struct Server {
    node: String,
    stage: Stage,
    health: Arc<Health>,
    stats: Arc<Stats>,
    /// Set by the first swap.
    views: OnceLock<Arc<ArcSwap<View>>>,
    /// Held while a view is made. Keeps the view replaced last, so that it is freed here and not by the
    /// worker that read it last, in the middle of a batch.
    rebuilding: Mutex<Option<Arc<View>>>,
    /// TXT records that home has set. Taken before `rebuilding` is, or within it, never the other way round.
    challenges: Mutex<Arc<Challenges>>,
    challenged: Gauge,
    /// Services and families without a healthy PoP, as last said.
    all_down: Mutex<BTreeSet<(String, String)>>,
    /// Shown by the encrypted listeners.
    certificate: Arc<Certificate>,
    serving: AtomicBool,
    running: Mutex<Option<Running>>,
    /// Ends the tasks that run beside the sockets.
    stop: CancellationToken,
}

/// What was started and has to be stopped.
struct Running {
    listen: Vec<SocketAddr>,
    workers: Workers,
    streams: Arc<Streams>,
    encrypted: Option<Encrypted>,
}

/// What the server says of itself under `program_report` in `GET /v1/status`.
#[derive(Serialize)]
struct Report {
    listen: Vec<SocketAddr>,
    serving: bool,
    zones: Vec<ZoneReport>,
    health: Vec<TargetReport>,
    drains: Drains,
    /// Other DNS nodes whose views count, where checks have `views`.
    peers: Vec<PeerReport>,
    /// The same as steering sees it, for `explain` from outside.
    seen: HealthMessage,
}

#[derive(Serialize)]
struct ZoneReport {
    origin: String,
    serial: u32,
    names: usize,
}

impl Server {
    /// A server without a configuration. Registers its metrics. Must be called on the runtime.
    /// `exec` says which programs its checks may run.
    pub fn new(context: Context, exec: ExecPolicy) -> Server {
        let health = Health::new(context.state.clone());
        let stats = Arc::new(Stats::default());
        let challenged = Gauge::default();
        context.metrics.register("nearside_dns", |registry| {
            health.register(registry);
            registry.register("challenges", "Names with an ACME challenge", challenged.clone());
            registry.register_collector(Box::new(Sums(Arc::clone(&stats))));
        });
        Server {
            node: context.node,
            stage: Stage::new(exec),
            health,
            stats,
            views: OnceLock::new(),
            rebuilding: Mutex::new(None),
            challenges: Mutex::default(),
            challenged,
            all_down: Mutex::new(BTreeSet::new()),
            certificate: Arc::default(),
            serving: AtomicBool::new(false),
            running: Mutex::new(None),
            stop: CancellationToken::new(),
        }
    }

    /// The view that serves; `None` before the first swap.
    pub fn view(&self) -> Option<Arc<View>> {
        self.views.get().map(|views| views.load_full())
    }

    /// The states and drains.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Stores a view of the health of now: with a new base, or with the one that serves.
    fn rebuild(&self, base: Option<Arc<Base>>) {
        let mut replaced = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(base) = base.or_else(|| self.view().map(|view| Arc::clone(&view.base))) else { return };
        let view = Arc::new(View::new(base, self.health.view()).with_challenges(&self.challenges()));
        self.say_all_down(&view);
        match self.views.get() {
            Some(views) => *replaced = Some(views.swap(view)),
            // The lock above makes this the only writer.
            None => drop(self.views.set(Arc::new(ArcSwap::new(view)))),
        }
    }

    /// The challenges in force; those that are over are forgotten.
    pub fn challenges(&self) -> Arc<Challenges> {
        let mut challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = challenges.expired(clock::now()) {
            *challenges = Arc::new(left);
        }
        self.challenged.set(i64::try_from(challenges.len()).unwrap_or(i64::MAX));
        Arc::clone(&challenges)
    }

    /// Sets all values of one name's challenge. When it returns, they are in the answers.
    ///
    /// # Errors
    /// [`ChallengeError`]; what was set before stays.
    pub fn set_challenge(
        &self,
        name: &Name,
        values: &[String],
        lasts: Duration,
    ) -> Result<(), ChallengeError> {
        {
            let mut challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
            *challenges = Arc::new(challenges.with(name, values, lasts, clock::now())?);
        }
        self.rebuild(None);
        Ok(())
    }

    /// Withdraws one name's challenge. When it returns, it is gone from the answers. `false`: there was none.
    pub fn withdraw_challenge(&self, name: &Name) -> bool {
        {
            let mut challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
            match challenges.without(name) {
                Some(left) => *challenges = Arc::new(left),
                None => return false,
            }
        }
        self.rebuild(None);
        true
    }

    /// Rebuilds the view at every flip, and often enough that its TTLs stay true.
    async fn keep_true(self: Arc<Self>) {
        loop {
            tokio::select! {
                _ = tokio::time::timeout(REBUILD_INTERVAL, self.health.changed()) => {}
                () = self.stop.cancelled() => return,
            }
            self.rebuild(None);
        }
    }

    /// Says aloud when nobody healthy is left for some clients, and when that is over.
    fn say_all_down(&self, view: &View) {
        let name = |service: ServiceId| view.base.config.services.keys().nth(service.0 as usize);
        let mut now = BTreeMap::new();
        for down in view.table.all_down() {
            let Some(service) = name(down.service) else { continue };
            now.insert((service.clone(), down.family.to_string()), (down.lists, down.of));
        }
        let mut before = self.all_down.lock().unwrap_or_else(PoisonError::into_inner);
        for ((service, family), (lists, of)) in now.iter().filter(|(key, _)| !before.contains(*key)) {
            error!(
                service,
                family,
                "all down: no PoP is healthy for {lists} of {of} lists of clients; `all_down` decides what they get"
            );
        }
        for (service, family) in before.iter().filter(|key| !now.contains_key(*key)) {
            info!(service, family, "no longer all down");
        }
        *before = now.into_keys().collect();
    }

    fn lock_running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Warns of what a reload can't change.
    fn compare_listeners(&self, base: &Base) {
        let running = self.lock_running();
        let (Some(running), Some(node)) = (&*running, base.config.dns.get(&self.node)) else { return };
        let asked = |address: &SocketAddr| {
            running
                .listen
                .iter()
                .any(|have| have == address || (address.port() == 0 && have.ip() == address.ip()))
        };
        if node.listen.len() != running.listen.len() || !node.listen.iter().all(asked) {
            warn!("the listen addresses have changed in the fleet file: that takes a restart");
        }
    }
}

impl Daemon for Server {
    type Staged = Staged;

    const KIND: Kind = Kind::Dns;
    const ROUTES: &'static [nearside_node::Route<()>] = crate::control::ROUTES;

    fn stage(&self, desired: &Desired) -> Result<Staging<Staged>, Refusal> {
        Kind::Dns.listeners(&desired.config, &self.node)?;
        let mut staged = self.stage.build(&desired.config, &self.node, &self.stats)?;
        for warning in &staged.warnings {
            warn!("{warning}");
        }
        let also_read = std::mem::take(&mut staged.also_read);
        Ok(Staging { staged, also_read })
    }

    fn swap(&self, staged: Staged) {
        self.compare_listeners(&staged.base);
        self.certificate.replace(staged.certificate);
        self.health.apply(staged.plan);
        self.rebuild(Some(staged.base));
    }

    async fn start(self: Arc<Self>) -> Result<(), StartError> {
        let failed = |what: &str| StartError(what.to_owned());
        let view = self.view().ok_or_else(|| failed("no configuration was swapped in"))?;
        let views = self.views.get().ok_or_else(|| failed("no configuration was swapped in"))?;
        let node = view.base.config.dns.get(&self.node).ok_or_else(|| failed("no such node"))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut listeners = bind::bind(&node.listen, node.workers.unwrap_or(cores)).map_err(StartError)?;
        tokio::spawn(Arc::clone(&self.health).keep_saved());
        tokio::spawn(Arc::clone(&self.health).keep_asking());
        self.health.first_round().await;
        self.rebuild(None);
        tokio::spawn(Arc::clone(&self).keep_true());

        let listen: Vec<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
        let workers = Workers::start(&mut listeners, views, &self.stats)
            .map_err(|error| StartError(format!("no UDP workers: {error}")))?;
        let streams = Streams::new(Arc::clone(views), Arc::clone(&self.stats));
        for Listener { address, tcp, .. } in listeners {
            let listener = tokio::net::TcpListener::from_std(tcp)
                .map_err(|error| StartError(format!("{address}: {error}")))?;
            streams.listen(listener);
        }
        for address in &listen {
            info!(%address, "serving DNS over UDP and TCP");
        }
        let encrypted = match &node.encrypted {
            Some(config) => {
                let certificate = Arc::clone(&self.certificate);
                let started = Encrypted::start(config, certificate, views, &self.stats).await;
                Some(started.map_err(StartError)?)
            }
            None => None,
        };
        *self.lock_running() = Some(Running { listen, workers, streams, encrypted });
        self.serving.store(true, Ordering::Release);
        Ok(())
    }

    fn report(&self) -> serde_json::Value {
        let zones = self.view().map_or_else(Vec::new, |view| {
            let report = |zone: &Arc<nearside_zones::Zone>| ZoneReport {
                origin: zone.origin().to_string(),
                serial: zone.serial(),
                names: zone.nodes().len(),
            };
            view.base.zones.iter().map(report).collect()
        });
        let report = Report {
            listen: self.lock_running().as_ref().map_or_else(Vec::new, |running| running.listen.clone()),
            serving: self.serving.load(Ordering::Acquire),
            zones,
            health: self.health.report(),
            drains: self.health.drains(),
            peers: self.health.peers(),
            seen: HealthMessage::from(&self.health.view()),
        };
        serde_json::to_value(report).unwrap_or_default()
    }

    fn health(&self) -> Result<(), String> {
        if self.serving.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("not serving: starting or stopping".into())
        }
    }

    async fn control(&self, request: ControlRequest) -> ControlResponse {
        control::answer(self, &request).await
    }

    async fn stop(&self, deadline: Instant) {
        self.serving.store(false, Ordering::Release);
        self.stop.cancel();
        let running = self.lock_running().take();
        if let Some(Running { workers, streams, encrypted, .. }) = running {
            streams.stop(deadline).await;
            if let Some(encrypted) = encrypted {
                encrypted.stop(deadline).await;
            }
            let workers = tokio::task::spawn_blocking(move || workers.stop());
            // Workers bound their own end; a panicked join leaves nothing to wait for.
            let _ = tokio::time::timeout_at(deadline.into(), workers).await;
        }
        self.stats.close();
        let health = Arc::clone(&self.health);
        // The states are worth a wait, not a hang: the disk may be the reason we stop.
        let _ = tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(move || health.stop()))
            .await;
    }
}
