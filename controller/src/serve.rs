//! The controller, running: watches, publishes, reconciles, answers.
//!
//! [`Controller`] is what the API and the tasks share. A publish runs aside on a blocking thread, one at a
//! time; its outcome swaps what the nodes' tasks aim at. A bad edit changes nothing but the refusal shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use nearside_fleet::{
    Files,
    config::{Config, PublishOn},
    purge::{Mode, Scope},
    snapshot::Signed,
};
use nearside_node::{
    identity::{self, Identity},
    metrics::Metrics,
    state::StateDir,
    watch::Watch,
};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    alarms::Alarms,
    bundle::{self, Bundler, Published},
    client::Peer,
    events::{Event, Events, Kind as EventKind},
    gauges::Gauges,
    home::{Home, HomeError, seconds},
    journal::{Drain, Journal, JournalError},
    nodes::{Desired, Kind, Node, Phase, Status},
    purge::{NotTaken, Purger, board::Order},
    route::Router,
    warm::{self, Job, Jobs},
    webhooks::{self, Webhooks},
};

/// How often certificates are looked at for renewal.
const RENEWAL_LOOK: Duration = Duration::from_secs(3_600);

/// How often what the nodes said is judged; they are asked every fifteen seconds.
const ALARM_LOOK: Duration = Duration::from_secs(2);
/// The subject of events about publishing what is on disk.
const FLEET_FILE: &str = "fleet-file";

/// Why the controller could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its own identity.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// TLS of it.
    #[error(transparent)]
    Tls(#[from] nearside_node::tls::TlsError),
}

/// The whole fleet as home sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The fleet's name; empty before the first good state.
    pub fleet: String,
    /// The newest snapshot.
    pub snapshot: Option<u64>,
    /// Why the fleet file as it is now was not published.
    pub refused: Vec<String>,
    /// The last purge's sequence.
    pub purges: u64,
    /// Drains in force.
    pub drains: Vec<Drain>,
    /// Every node.
    pub nodes: Vec<Status>,
}

/// What a publish did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishOutcome {
    /// The newest snapshot's number.
    pub number: u64,
    /// Whether it was made just now; else nothing had changed.
    pub new: bool,
}

struct Counters {
    publishes: Counter,
    refused: Counter,
    purges: Counter,
    snapshot: Gauge,
}

/// The controller's shared state.
pub struct Controller {
    home: Home,
    journal: Arc<Journal>,
    purger: Purger,
    warming: Jobs,
    router: Router,
    events: Events,
    webhooks: Webhooks,
    fleet_file: PathBuf,
    tls: Arc<rustls::ClientConfig>,
    desired: watch::Sender<Desired>,
    inner: Mutex<Inner>,
    publishing: tokio::sync::Mutex<()>,
    counters: Counters,
}

#[derive(Default)]
struct Inner {
    config: Option<Config>,
    refused: Vec<String>,
    nodes: BTreeMap<String, (Arc<Node>, JoinHandle<()>)>,
    watched: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Controller")
    }
}

impl Controller {
    /// A controller that has read nothing yet. Registers its metrics. To be called within a runtime: a task numbers purges.
    ///
    /// # Errors
    /// [`StartError`], mostly that `nearside init` was not run.
    pub fn open(state: StateDir, fleet_file: PathBuf, metrics: &Metrics) -> Result<Arc<Self>, StartError> {
        let home = Home::open(state.clone())?;
        let journal = Arc::new(Journal::open(&state.path("nearside.db"))?);
        let identity = Identity::read(&state.path(identity::DIR))?;
        let tls = identity.credentials.client_config()?;
        let purger = Purger::start(Arc::clone(&journal))?;
        let events = Events::new(Arc::clone(&journal));
        let webhooks = Webhooks::new(Arc::clone(&journal));
        let counters = Counters {
            publishes: Counter::default(),
            refused: Counter::default(),
            purges: Counter::default(),
            snapshot: Gauge::default(),
        };
        metrics.register("nearside_controller", |registry| {
            registry.register("publishes", "Snapshots made", counters.publishes.clone());
            registry.register("publishes_refused", "Edits that were not published", counters.refused.clone());
            registry.register("purges", "Purges ordered", counters.purges.clone());
            purger.register(registry);
            registry.register("events", "Events journaled", events.told.clone());
            let webhooks::Counters { delivered, failed } = webhooks.counters.clone();
            registry.register("webhook_messages", "Messages that webhooks took", delivered);
            registry.register("webhook_failures", "Tries to tell a webhook that failed", failed);
            registry.register("snapshot", "Number of the newest snapshot", counters.snapshot.clone());
        });
        let (desired, _) = watch::channel(Desired::default());
        let inner = Mutex::default();
        let publishing = tokio::sync::Mutex::default();
        let controller = Self {
            home,
            journal,
            purger,
            warming: Jobs::default(),
            router: Router::default(),
            events,
            webhooks,
            fleet_file,
            tls,
            desired,
            inner,
            publishing,
            counters,
        };
        let controller = Arc::new(controller);
        metrics.register("nearside_controller", |registry| {
            registry.register_collector(Box::new(Gauges(Arc::downgrade(&controller))));
        });
        Ok(controller)
    }

    /// Follows the fleet file until cancelled: publishes on change where the file says so, renews certificates.
    pub async fn follow(self: Arc<Self>) {
        let mut files = Watch::new();
        // What was published before serves as the target even if the file is broken now.
        if let Ok(Some((number, _, signed))) = self.journal.newest() {
            self.counters.snapshot.set(i64::try_from(number).unwrap_or(i64::MAX));
            if let Some(config) = self.published_config(&signed) {
                self.aim(&config);
                self.inner.lock().config = Some(config);
            }
            self.desired.send_modify(|desired| desired.snapshot = Some((number, signed)));
        }
        let _refusals_are_logged = self.publish("start").await;
        let mut looked = Instant::now();
        loop {
            let watched = self.inner.lock().watched.clone();
            files.replace(watched);
            let renewal = tokio::time::sleep(RENEWAL_LOOK.saturating_sub(looked.elapsed()));
            tokio::select! {
                () = files.changed() => {
                    if self.publishes_on_change() {
                        let _refusals_are_logged = self.publish("change").await;
                    }
                }
                () = renewal => {
                    looked = Instant::now();
                    let _refusals_are_logged = self.publish("renewal").await;
                }
            }
        }
    }

    /// The configuration of a snapshot of ours, from the kept copy of its fleet file.
    fn published_config(&self, signed: &Signed) -> Option<Config> {
        let key = self.home.signing_key().ok()?.public_key();
        let snapshot = signed.verify(&key, None, None).ok()?;
        let entry = snapshot.files.iter().find(|file| file.path == snapshot.fleet_file)?;
        let text = String::from_utf8(bundle::content(&self.home.state, &entry.sha256).ok()?).ok()?;
        let files = Files::beside(&self.fleet_file);
        nearside_fleet::spec::parse(&self.fleet_file, &text, &files).ok().map(|loaded| loaded.config)
    }

    fn publishes_on_change(&self) -> bool {
        let inner = self.inner.lock();
        let controller = inner.config.as_ref().and_then(|config| config.controller.as_ref());
        controller.is_none_or(|controller| controller.publish == PublishOn::Change)
    }

    /// Publishes what is on disk, if it is good and new.
    ///
    /// # Errors
    /// Every mistake, with its place; the last published state stays.
    pub async fn publish(self: &Arc<Self>, who: &str) -> Result<PublishOutcome, Vec<String>> {
        let _one = self.publishing.lock().await;
        let this = Arc::clone(self);
        let making = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            Bundler { home: &this.home, journal: &this.journal, fleet_file: &this.fleet_file, now }.publish()
        });
        // A panic is our bug; what is published stays, so it is a refusal like any other.
        let (made, read) = making.await.map_err(|error| vec![format!("publishing failed: {error}")])?;
        match made {
            Ok(published) => {
                self.inner.lock().watched = read;
                self.took(&published, who);
                Ok(PublishOutcome { number: published.number, new: published.new })
            }
            Err(refusal) => {
                self.counters.refused.inc();
                for reason in &refusal.reasons {
                    tracing::error!("not published: {reason}");
                }
                let mut inner = self.inner.lock();
                // What was good before is watched too: the mistake may be mended in any of its files.
                inner.watched.extend(read);
                inner.refused.clone_from(&refusal.reasons);
                drop(inner);
                self.events.raise(Event::new(
                    EventKind::PublishRefused,
                    FLEET_FILE,
                    refusal.reasons.join("\n"),
                ));
                Err(refusal.reasons)
            }
        }
    }

    fn took(self: &Arc<Self>, published: &Published, who: &str) {
        self.aim(&published.config);
        {
            let mut inner = self.inner.lock();
            inner.refused.clear();
            inner.config = Some(published.config.clone());
        }
        self.events.clear(EventKind::PublishRefused, FLEET_FILE);
        self.counters.snapshot.set(i64::try_from(published.number).unwrap_or(i64::MAX));
        if published.new {
            self.counters.publishes.inc();
            tracing::info!(number = published.number, who, "published");
            self.audit(who, &format!("published snapshot {}", published.number));
        }
        let snapshot = (published.number, published.signed.clone());
        self.desired.send_modify(|desired| desired.snapshot = Some(snapshot));
    }

    /// Starts tasks for new or moved nodes, ends those of gone ones.
    fn aim(self: &Arc<Self>, config: &Config) {
        self.webhooks.apply(config, &self.events.follow());
        let edges = config.pops.values().map(|pop| (&pop.name, pop.control, Kind::Edge));
        let dns = config.dns.values().map(|node| (&node.name, node.control, Kind::Dns));
        let mut wanted = BTreeMap::new();
        for (name, control, kind) in edges.chain(dns) {
            match control {
                Some(address) => drop(wanted.insert(name.clone(), (address, kind))),
                None => tracing::warn!(node = name, "has no control address: home can't reach it"),
            }
        }
        let mut inner = self.inner.lock();
        inner.nodes.retain(|name, (node, task)| {
            let stays = wanted.get(name) == Some(&(node.peer().address, node.kind()));
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, (address, kind)) in wanted {
            inner.nodes.entry(name.clone()).or_insert_with(|| {
                let peer = Peer { name, address, tls: Arc::clone(&self.tls) };
                let (journal, outbox) = (Arc::clone(&self.journal), self.purger.outbox());
                let node = Arc::new(Node::new(peer, kind, journal, outbox, self.home.state.clone()));
                let task = tokio::spawn(Arc::clone(&node).run(self.desired.subscribe()));
                (node, task)
            });
        }
    }

    /// Numbers and journals purges; they are on their way to every edge when this returns.
    ///
    /// # Errors
    /// If the journal fails: then no edge was told.
    pub async fn purge(&self, scopes: &[Scope], mode: Mode, who: &str) -> Result<Arc<Order>, NotTaken> {
        let edges = self.nodes(Kind::Edge).iter().map(|node| node.peer().name.clone()).collect();
        let order = self.purger.order(scopes, mode, who, edges).await?;
        self.counters.purges.inc_by(scopes.len() as u64);
        Ok(order)
    }

    /// What is published; `None` before the first good state.
    pub fn config(&self) -> Option<Config> {
        self.inner.lock().config.clone()
    }

    /// Says which PoP is best for a client.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Has edges fetch URLs ahead. `None`: too many such jobs are under way.
    pub fn warm(&self, wanted: warm::Wanted, edges: Vec<Peer>, who: &str) -> Option<Arc<Job>> {
        let what = format!("warmed {} URLs at {} PoPs", wanted.urls.len(), edges.len());
        let job = self.warming.begin(wanted, edges)?;
        self.audit(who, &what);
        Some(job)
    }

    /// A warm job of late.
    pub fn warm_job(&self, number: u64) -> Option<Arc<Job>> {
        self.warming.find(number)
    }

    /// An order of late, by any of its purges' numbers.
    pub fn purge_order(&self, sequence: u64) -> Option<Arc<Order>> {
        self.purger.find(sequence)
    }

    /// Takes a PoP out of the answers of all DNS nodes, and keeps it out.
    ///
    /// # Errors
    /// In words: no such PoP, or the journal failed.
    pub fn drain(&self, drain: &Drain, who: &str) -> Result<(), String> {
        let pops: Vec<String> =
            self.inner.lock().config.iter().flat_map(|config| config.pops.keys().cloned()).collect();
        if !pops.contains(&drain.pop) {
            return Err(format!("there is no PoP {}; there are: {}", drain.pop, pops.join(", ")));
        }
        self.journal.drain(drain).map_err(|error| error.to_string())?;
        self.audit(who, &format!("drained {}", drain.pop));
        self.desired.send_modify(|desired| desired.drains += 1);
        Ok(())
    }

    /// Lifts a drain on all DNS nodes. `false`: there was none.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn undrain(&self, pop: &str, who: &str) -> Result<bool, JournalError> {
        let lifted = self.journal.undrain(pop)?;
        self.audit(who, &format!("undrained {pop}"));
        self.desired.send_modify(|desired| desired.drains += 1);
        Ok(lifted)
    }

    /// Renews certificates from the fleet's CA (all sites, or one) and publishes them.
    ///
    /// # Errors
    /// In words.
    pub async fn renew(
        self: &Arc<Self>,
        site: Option<&str>,
        who: &str,
    ) -> Result<PublishOutcome, Vec<String>> {
        let config =
            self.inner.lock().config.clone().ok_or_else(|| vec!["nothing was published yet".to_owned()])?;
        let ours =
            |site: &&nearside_fleet::config::Site| site.tls == Some(nearside_fleet::config::SiteTls::FleetCa);
        let sites: Vec<String> = match site {
            Some(site) => vec![site.to_owned()],
            None => config.sites.values().filter(ours).map(|site| site.name.clone()).collect(),
        };
        let now = SystemTime::now();
        let bundler = Bundler { home: &self.home, journal: &self.journal, fleet_file: &self.fleet_file, now };
        for site in &sites {
            bundler.renew(&config, site).map_err(|error| vec![error])?;
            self.audit(who, &format!("renewed the certificate of {site}"));
        }
        self.publish(who).await
    }

    /// Where to tell what an operator should know.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Who is told of it.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// What is remembered over restarts.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Looks at what the nodes say until cancelled, and raises and clears what follows from it.
    pub async fn watch_over(self: Arc<Self>) {
        let mut alarms = Alarms::default();
        let mut ticks = tokio::time::interval(ALARM_LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A journal that fails is told by whoever needs it.
            if let (Ok(status), Ok(open)) = (self.status(), self.events.open()) {
                let findings = alarms.look(&status, seconds(SystemTime::now()));
                for (kind, subject) in findings.over(&open) {
                    self.events.clear(kind, &subject);
                }
                for event in findings.raise {
                    self.events.raise(event);
                }
            }
        }
    }

    /// Nodes of a kind, by name.
    pub fn nodes(&self, kind: Kind) -> Vec<Arc<Node>> {
        let inner = self.inner.lock();
        inner.nodes.values().map(|(node, _)| node).filter(|node| node.kind() == kind).cloned().collect()
    }

    /// The whole fleet, as known now.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn status(&self) -> Result<FleetStatus, JournalError> {
        let purges = self.purger.outbox().newest();
        let drains = self.journal.drains(seconds(SystemTime::now()))?;
        let snapshot = self.desired.borrow().snapshot.as_ref().map(|(number, _)| *number);
        let inner = self.inner.lock();
        Ok(FleetStatus {
            fleet: inner.config.as_ref().map(|config| config.fleet.clone()).unwrap_or_default(),
            snapshot,
            refused: inner.refused.clone(),
            purges,
            drains,
            nodes: inner.nodes.values().map(|(node, _)| node.status()).collect(),
        })
    }

    /// Whether every node has the newest snapshot.
    pub fn settled(&self) -> bool {
        let inner = self.inner.lock();
        inner.nodes.values().all(|(node, _)| node.status().phase == Phase::Current)
    }

    fn audit(&self, who: &str, what: &str) {
        // The deed is done and logged; a full disk is told by whatever needs it next.
        if let Err(error) = self.journal.audit(seconds(SystemTime::now()), who, what) {
            tracing::warn!(%error, who, what, "not written to the audit log");
        }
    }
}
