//! The edge as a node's daemon: stages configurations, swaps them in, starts and stops the listeners.
//!
//! Staged aside and checked: the sites with their origins, the certificates, and the sockets of addresses
//! not listened on yet. Only when all of it is there is anything swapped, and then nothing can fail. Set
//! once, at the start: the number of workers and the store (its directory and sizes); a change of those
//! is logged and waits for a restart.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use http::{Method, StatusCode};
use nearside_fleet::{config, tickets::TicketSeeds};
use nearside_node::{
    ControlRequest, ControlResponse, Daemon, Desired, Kind, Refusal, Staging, StartError, bind,
    identity::RevokedList,
};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    alt_svc::Quic,
    cache::{self, Cache},
    control, explain,
    gates::{
        jwks,
        shared::{self, Settings},
    },
    listen::{self, Bound, Endpoint, Front, Listeners, Speaks},
    load, metrics,
    minutes::{self, Minutes},
    origin::{self, shield::Fleet},
    request::{self, Edge, Identity, Serving},
    site::Sites,
    stats::FrontStats,
    tls::{
        self, Resolver, Table, Tickets,
        store::{Problem, Severity},
    },
    warm::Warmer,
};

/// See the module.
pub struct EdgeDaemon {
    context: nearside_node::Context,
    resolver: Arc<Resolver>,
    front_stats: Arc<FrontStats>,
    /// What serves now, and what the next one is compared with.
    current: ArcSwapOption<Current>,
    running: OnceLock<Running>,
    problems: Mutex<Vec<Problem>>,
}

struct Current {
    fleet: String,
    pop: config::Pop,
    sites: Arc<Sites>,
    endpoints: Vec<Endpoint>,
    /// The server side of TLS with other edges, where this node has an identity.
    peers: Option<Arc<rustls::ServerConfig>>,
    /// Identities of other edges that are refused.
    revoked: Option<Arc<RevokedList>>,
    tickets: Option<TicketSeeds>,
}

impl Current {
    /// Takes effect for new connections.
    fn at_front(&self, front: &Front) {
        front.admission.set_limits(self.pop.front.limits.clone());
        front.proxies.store(Arc::new(self.pop.front.proxy_protocol.clone()));
        front.peers.store(self.peers.clone());
        front.revoked.send_replace(self.revoked.clone());
        front.h2c.store(self.pop.front.h2c, Ordering::Relaxed);
        if let Some(tickets) = &self.tickets {
            front.tickets.set(tickets.clone());
        }
    }
}

struct Running {
    edge: Arc<Edge>,
    front: Arc<Front>,
    listeners: Arc<Listeners>,
    warmer: Arc<Warmer>,
    minutes: Arc<Minutes>,
}

/// A configuration that can be swapped in.
pub struct Staged {
    current: Current,
    table: Table,
    problems: Vec<Problem>,
    bound: Vec<Bound>,
}

impl EdgeDaemon {
    /// An edge without configuration.
    pub fn new(context: nearside_node::Context) -> Self {
        EdgeDaemon {
            context,
            resolver: Arc::default(),
            front_stats: Arc::default(),
            current: ArcSwapOption::empty(),
            running: OnceLock::new(),
            problems: Mutex::default(),
        }
    }

    /// The addresses that are listened on, with the ports the system chose.
    pub fn listening(&self) -> Vec<Endpoint> {
        self.running.get().map(|running| running.listeners.addresses()).unwrap_or_default()
    }

    /// The store, once started.
    pub fn cache(&self) -> Option<&Arc<Cache>> {
        self.running.get().map(|running| &running.edge.cache)
    }

    fn build(&self, config: &config::Config) -> Result<Staged, Refusal> {
        let node = &self.context.node;
        let Some(pop) = config.pops.get(node) else {
            return Err(Refusal::new(format!("the fleet file has no [pop.{node}]")));
        };
        let last = self.current.load_full();
        let last_sites = last.as_ref().map(|last| &*last.sites);
        let fleet = self.fleet(config)?;
        let mut sites =
            Sites::build(&config.sites, &config.geoip, fleet.as_ref(), last_sites, workers(pop), quic(pop))
                .map_err(Refusal::all)?;
        sites.https_port = pop.https.iter().map(|address| address.port()).find(|&port| port != 0);
        let shared = config.shared_limits.as_ref().map(|limits| Settings::load(&config.fleet, limits));
        sites.shared = shared.transpose().map_err(Refusal::new)?.map(Arc::new);
        let tickets =
            config.ticket_keys.as_deref().map(tls::tickets::read).transpose().map_err(Refusal::new)?;
        let table = self.resolver.table();
        let (table, problems) = tls::load_table(config.sites.values(), Some(&table), SystemTime::now());
        let peers = fleet.as_ref().map(|fleet| fleet.credentials.server_config());
        let peers = peers.transpose().map_err(|error| Refusal::new(error.to_string()))?;
        let revoked = fleet.as_ref().and_then(|fleet| fleet.revoked.clone());
        let endpoints = endpoints(pop, peers.is_some());
        let bound = match self.running.get() {
            None => Vec::new(),
            Some(running) => running.listeners.bind(&endpoints).map_err(|((address, speaks), error)| {
                Refusal::new(bind::explain(speaks.name(), address, &error))
            })?,
        };
        let current = Current {
            fleet: config.fleet.clone(),
            pop: pop.clone(),
            sites: Arc::new(sites),
            endpoints,
            tickets,
            peers,
            revoked,
        };
        Ok(Staged { current, table, problems, bound })
    }

    /// What fetching through other PoPs, and being fetched through, needs; `None` for a node without identity.
    fn fleet(&self, config: &config::Config) -> Result<Option<Fleet>, Refusal> {
        let Some(state) = &self.context.state else { return Ok(None) };
        let identity = nearside_node::identity::Identity::of_state(state)
            .map_err(|error| Refusal::new(error.to_string()))?;
        Ok(identity.map(|identity| Fleet {
            node: self.context.node.clone(),
            revoked: identity.revoked.clone(),
            credentials: Arc::new(identity.credentials),
            pops: Arc::new(config.pops.clone()),
        }))
    }

    fn say(&self, problems: Vec<Problem>) {
        for Problem { site, message, severity } in &problems {
            match severity {
                Severity::Refused => tracing::error!(site, "certificate refused: {message}"),
                Severity::Warning => tracing::warn!(site, "certificate: {message}"),
            }
        }
        *self.problems.lock() = problems;
    }

    fn open(&self, current: &Current) -> Result<Running, StartError> {
        let pop = &current.pop;
        let workers = workers(pop);
        let options = cache::Options {
            dir: self.cache_dir(pop),
            memory_bytes_max: pop.memory_bytes_max,
            disk_bytes_max: pop.disk_bytes_max,
        };
        let cache = Cache::open(options).map_err(|error| StartError(error.to_string()))?;
        let edge = Edge::new(Identity::new(&current.fleet, &self.context.node), cache, workers);
        edge.sites.store(current.sites.clone());
        let tickets = Tickets::new().map_err(|error| StartError(format!("ticket keys: {error}")))?;
        let tls = tls::Configs::new(&self.resolver, &tickets);
        let quic = listen::quic::Quic::new(&tls.any)
            .map_err(|error| StartError(format!("QUIC can't be set up: {error}")))?;
        let front =
            Front::new(edge.clone(), tls, tickets, quic, self.resolver.clone(), self.front_stats.clone());
        current.at_front(&front);
        let listeners = Listeners::start(front.clone(), workers)
            .map_err(|error| StartError(format!("no worker threads: {error}")))?;
        let warmer = Warmer::new(edge.clone());
        Ok(Running { edge, front, listeners, warmer, minutes: Minutes::new() })
    }

    /// How full the store is, and whether its disk fails, for the node's report.
    fn cache_use(&self, cache: &Cache) -> serde_json::Value {
        let metrics = cache.metrics();
        let pop = self.current.load();
        let pop = pop.as_ref().map(|current| &current.pop);
        json!({
            "keys": metrics.keys.read(),
            "memory_bytes": metrics.memory_bytes.read(),
            "memory_bytes_max": pop.map(|pop| pop.memory_bytes_max),
            "disk_bytes": metrics.disk_bytes.read(),
            "disk_bytes_max": pop.filter(|pop| pop.cache_dir.is_some()).map(|pop| pop.disk_bytes_max),
            "disk_errors": metrics.disk_errors.read(),
        })
    }

    fn cache_dir(&self, pop: &config::Pop) -> Option<PathBuf> {
        pop.cache_dir.clone()
    }
}

/// Worker threads: as configured, or one per core.
fn workers(pop: &config::Pop) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    pop.workers.unwrap_or_else(cores).max(1)
}

fn quic(pop: &config::Pop) -> Quic {
    if pop.http3 { Quic::Spoken } else { Quic::Silent }
}

fn endpoints(pop: &config::Pop, has_identity: bool) -> Vec<Endpoint> {
    let http = pop.http.iter().map(|&address| (address, Speaks::Http));
    let https = pop.https.iter().map(|&address| (address, Speaks::Https));
    let quic = pop.https.iter().filter(|_| pop.http3).map(|&address| (address, Speaks::Quic));
    let fleet = pop.shield.iter().filter(|_| has_identity).map(|&address| (address, Speaks::Fleet));
    http.chain(https).chain(quic).chain(fleet).collect()
}

impl Daemon for EdgeDaemon {
    type Staged = Staged;

    const KIND: Kind = Kind::Edge;
    const ROUTES: &'static [nearside_node::Route<()>] = control::ROUTES;

    fn stage(&self, desired: &Desired) -> Result<Staging<Staged>, Refusal> {
        Ok(Staging { staged: self.build(&desired.config)?, also_read: Vec::new() })
    }

    fn swap(&self, staged: Staged) {
        let Staged { current, table, problems, bound } = staged;
        self.resolver.swap(Arc::new(table));
        self.say(problems);
        if let Some(running) = self.running.get() {
            running.edge.sites.store(current.sites.clone());
            current.at_front(&running.front);
            running.listeners.apply(&current.endpoints, bound);
            if let Some(last) = self.current.load().as_ref() {
                warn_of_restart(&last.pop, &current.pop);
            }
        }
        self.current.store(Some(Arc::new(current)));
    }

    async fn start(self: Arc<Self>) -> Result<(), StartError> {
        let Some(current) = self.current.load_full() else {
            return Err(StartError("started without a configuration".to_owned()));
        };
        let daemon = self.clone();
        // Opening the store reads its index from disk.
        let opened = tokio::task::spawn_blocking(move || {
            let current = daemon.current.load_full();
            current.map_or_else(
                || Err(StartError("no configuration".to_owned())),
                |current| daemon.open(&current),
            )
        });
        let running = opened.await.map_err(|error| StartError(format!("opening the store: {error}")))??;
        let bound = running.listeners.bind(&current.endpoints).map_err(|((address, speaks), error)| {
            StartError(bind::explain(speaks.name(), address, &error))
        })?;
        metrics::register(&self.context.metrics, &running.edge, &running.front, &self.resolver);
        tokio::spawn(load::keep(running.edge.load.clone(), running.front.clone(), workers(&current.pop)));
        tokio::spawn(minutes::keep(running.minutes.clone(), Arc::downgrade(&running.edge)));
        // Ends with the edge.
        tokio::spawn(origin::watch::run(Arc::downgrade(&running.edge)));
        tokio::spawn(shared::run(Arc::downgrade(&running.edge)));
        tokio::spawn(jwks::run(Arc::downgrade(&running.edge)));
        running.edge.set_serving(Serving::Yes);
        running.listeners.apply(&current.endpoints, bound);
        self.running.set(running).map_err(|_| StartError("started twice".to_owned()))
    }

    fn report(&self) -> serde_json::Value {
        let problems: Vec<_> = self
            .problems
            .lock()
            .iter()
            .map(|problem| json!({ "site": problem.site, "message": problem.message }))
            .collect();
        let table = self.resolver.table();
        let certificates: serde_json::Map<String, serde_json::Value> = table
            .by_site()
            .map(|(site, served)| {
                let facts = json!({
                    "sha256": served.fingerprint,
                    "not_after": served.not_after_secs,
                    "names": served.names,
                });
                (site.to_owned(), facts)
            })
            .collect();
        let listening: Vec<_> = self
            .listening()
            .iter()
            .map(|(address, speaks)| json!({ "address": address, "protocol": speaks.name() }))
            .collect();
        let connections = self.running.get().map_or(0, |running| running.front.admission.open());
        let ticket_key = self.running.get().map(|running| running.front.tickets.key_name());
        json!({
            "listening": listening,
            "connections": connections,
            "ticket_key": ticket_key,
            "certificates": certificates,
            "certificate_problems": problems,
            "cache": self.running.get().map(|running| self.cache_use(&running.edge.cache)),
            "traffic": self.running.get().map(|running| control::traffic(&running.edge)),
            "origins_unwell": self.running.get().map(|running| control::origins_unwell(&running.edge)),
        })
    }

    fn health(&self) -> Result<(), String> {
        match self.running.get().map(|running| running.edge.serving()) {
            Some(Serving::Yes) => Ok(()),
            Some(Serving::Draining) => Err("draining".to_owned()),
            Some(Serving::Starting) | None => Err("starting".to_owned()),
        }
    }

    async fn control(&self, asked: ControlRequest) -> ControlResponse {
        let Some(running) = self.running.get() else {
            return ControlResponse::error(StatusCode::SERVICE_UNAVAILABLE, "starting");
        };
        match (&asked.method, asked.path.as_str()) {
            (&Method::POST, "/v1/purges") => control::purge(&running.edge, &asked, request::now()).await,
            (&Method::GET, "/v1/cached") => {
                control::cached(&running.edge, &running.warmer, &asked, request::now()).await
            }
            (&Method::GET, "/v1/origins") => control::origins(&running.edge),
            (&Method::POST, "/v1/warm") => control::warm(&running.edge, &running.warmer, &asked),
            (&Method::GET, "/v1/stats") => control::stats(&running.edge, &running.minutes, &asked),
            (&Method::GET, "/v1/warm") => control::warming(&running.warmer, &asked),
            (&Method::POST, "/v1/explain-http") => explain::http(&running.edge, &asked, request::now()).await,
            _ => ControlResponse::not_found(),
        }
    }

    async fn stop(&self, deadline: Instant) {
        let Some(running) = self.running.get() else { return };
        running.edge.set_serving(Serving::Draining);
        if !running.listeners.drain(deadline).await {
            let open = running.front.admission.open();
            tracing::warn!(open, "connections were still open at the deadline and are cut");
        }
        let cache = running.edge.cache.clone();
        // A planned stop keeps what memory alone holds.
        let closed = tokio::task::spawn_blocking(move || cache.close()).await;
        if let Err(error) = closed {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }
}

fn warn_of_restart(last: &config::Pop, next: &config::Pop) {
    let store = |pop: &config::Pop| (pop.memory_bytes_max, pop.disk_bytes_max, pop.cache_dir.clone());
    if workers(last) != workers(next) {
        tracing::warn!("`workers` has changed: it takes effect at the next restart");
    }
    if store(last) != store(next) {
        tracing::warn!("the store's settings have changed: they take effect at the next restart");
    }
}
