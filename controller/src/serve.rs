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
    config::{Config, PublishOn},
    purge::{Mode, Scope},
};
use nearside_node::{metrics::Metrics, state::StateDir, watch::Watch};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    acme::{self, Acme, Desk, challenge::DnsNode},
    alarms::Alarms,
    backup,
    bundle::{self, Bundler, Content, Draft, How, Published},
    client::Peer,
    diff::{self, Diff, Side},
    events::{Event, Events, Kind as EventKind},
    gauges::Gauges,
    history,
    home::{self, Home, HomeError, seconds},
    identities::{Identities, IdentityTrouble},
    journal::{
        Drain, Journal, JournalError,
        audit::Entry,
        publications::{Outcome, Publication},
    },
    nodes::{Desired, Kind, Node, Phase, Status},
    purge::{NotTaken, Purger, board::Order},
    route::Router,
    stats::{self, Now, Stats, store::Store},
    tokens::Tokens,
    warm::{self, Job, Jobs},
    webhooks::{self, Webhooks},
};

mod rolling;

pub use self::rolling::RolloutStatus;

/// How often certificates are looked at for renewal.
const RENEWAL_LOOK: Duration = Duration::from_secs(3_600);

/// How often what the nodes said is judged; they are asked every fifteen seconds.
const ALARM_LOOK: Duration = Duration::from_secs(2);
/// How often it is looked whether a backup is due.
const BACKUP_LOOK: Duration = Duration::from_secs(60);
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
    /// The statistics.
    #[error(transparent)]
    Stats(#[from] stats::store::StoreError),
    /// Its own identity.
    #[error(transparent)]
    Identity(#[from] IdentityTrouble),
}

/// Why nobody was revoked, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// There is no such name.
    #[error("{0}")]
    Unknown(String),
    /// The list could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityTrouble),
    /// The register.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What follows failed.
    #[error("revoked, but {0}")]
    Failed(String),
}

/// The whole fleet as home sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The fleet's name; empty before the first good state.
    pub fleet: String,
    /// The newest snapshot.
    pub snapshot: Option<u64>,
    /// Who made it, when, why, and what became of it.
    #[serde(default)]
    pub newest: Option<Publication>,
    /// The rollout under way.
    #[serde(default)]
    pub rollout: Option<RolloutStatus>,
    /// Why the fleet file as it is now was not published.
    pub refused: Vec<String>,
    /// The last purge's sequence.
    pub purges: u64,
    /// Drains in force.
    pub drains: Vec<Drain>,
    /// Every node.
    pub nodes: Vec<Status>,
    /// How much each PoP serves, by name; of those that handed out their last minute.
    #[serde(default)]
    pub traffic: BTreeMap<String, stats::Rate>,
    /// How many conditions hold (`nearside events`).
    #[serde(default)]
    pub conditions: usize,
}

/// What a publish did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishOutcome {
    /// The newest snapshot's number.
    pub number: u64,
    /// Whether it was made just now; else nothing had changed.
    pub new: bool,
    /// Whether it goes out in waves.
    #[serde(default)]
    pub rolling: bool,
}

/// Why nothing was published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    /// One entry per mistake.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// Another snapshot is being rolled out.
    #[error("{0}")]
    Busy(String),
}

impl NotPublished {
    /// One entry per reason.
    pub fn reasons(self) -> Vec<String> {
        match self {
            Self::Refused(reasons) => reasons,
            Self::Busy(reason) => vec![reason],
        }
    }
}

/// A publish that waits for the end of a rollout.
struct Waiting;

struct Counters {
    publishes: Counter,
    refused: Counter,
    purges: Counter,
    snapshot: Gauge,
    rollbacks: Counter,
    rolling: Gauge,
    stats_pulls: Counter,
    stats_away: Gauge,
    backup: Gauge,
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
    acme: Acme,
    stats: Arc<Stats>,
    tokens: Tokens,
    identities: Arc<Identities>,
    fleet_file: PathBuf,
    desired: watch::Sender<Desired>,
    inner: Mutex<Inner>,
    publishing: tokio::sync::Mutex<()>,
    rolling: Mutex<Option<rolling::Rolling>>,
    /// A rollout ended.
    rolled: tokio::sync::Notify,
    /// The clock of rollouts.
    began: Instant,
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
        let journal = Arc::new(Journal::open(&state.path(home::DATABASE))?);
        let identities = Identities::open(home.clone(), Arc::clone(&journal), SystemTime::now())?;
        let purger = Purger::start(Arc::clone(&journal))?;
        let events = Events::new(Arc::clone(&journal));
        let webhooks = Webhooks::new(Arc::clone(&journal));
        let acme = Acme::new(Arc::clone(&journal));
        let stats = Arc::new(Stats::new(Store::open(&state.path("stats.db"))?));
        let tokens = Tokens::open(Arc::clone(&journal))?;
        let counters = Counters {
            publishes: Counter::default(),
            refused: Counter::default(),
            purges: Counter::default(),
            snapshot: Gauge::default(),
            rollbacks: Counter::default(),
            rolling: Gauge::default(),
            stats_pulls: Counter::default(),
            stats_away: Gauge::default(),
            backup: Gauge::default(),
        };
        metrics.register("nearside_controller", |registry| {
            registry.register("publishes", "Snapshots made", counters.publishes.clone());
            registry.register("publishes_refused", "Edits that were not published", counters.refused.clone());
            registry.register("purges", "Purges ordered", counters.purges.clone());
            purger.register(registry);
            acme.register(registry);
            registry.register("events", "Events journaled", events.told.clone());
            let webhooks::Counters { delivered, failed } = webhooks.counters.clone();
            registry.register("webhook_messages", "Messages that webhooks took", delivered);
            registry.register("webhook_failures", "Tries to tell a webhook that failed", failed);
            let away = "Edges that gave no statistics at the last round";
            registry.register("stats_rounds", "Rounds of fetching statistics", counters.stats_pulls.clone());
            registry.register("stats_away", away, counters.stats_away.clone());
            let help = "When the newest scheduled backup was made, seconds since the epoch; 0: none";
            registry.register("backup_timestamp_seconds", help, counters.backup.clone());
            registry.register("snapshot", "Number of the newest snapshot", counters.snapshot.clone());
            registry.register("rollbacks", "Snapshots that repeat an older one", counters.rollbacks.clone());
            registry.register("rolling", "1 while a snapshot goes out in waves", counters.rolling.clone());
        });
        let (desired, _) = watch::channel(Desired::default());
        let inner = Mutex::default();
        let publishing = tokio::sync::Mutex::default();
        let (rolling, rolled, began) = (Mutex::default(), tokio::sync::Notify::new(), Instant::now());
        let controller = Self {
            home,
            journal,
            purger,
            warming: Jobs::default(),
            router: Router::default(),
            tokens,
            identities,
            events,
            webhooks,
            acme,
            stats,
            fleet_file,
            desired,
            inner,
            publishing,
            rolling,
            rolled,
            began,
            counters,
        };
        let controller = Arc::new(controller);
        metrics.register("nearside_controller", |registry| {
            registry.register_collector(Box::new(Gauges(Arc::downgrade(&controller))));
        });
        Ok(controller)
    }

    /// Follows the fleet file until cancelled: publishes on change where the file says so, renews certificates, rolls out.
    pub async fn follow(self: Arc<Self>) {
        // What was published before serves as the target even if the file is broken now.
        self.take_up();
        tokio::join!(self.follow_files(), self.follow_rollouts());
    }

    async fn follow_files(self: &Arc<Self>) {
        let mut files = Watch::new();
        let mut waiting = self.publish_by_itself("start").await;
        let mut looked = Instant::now();
        loop {
            let watched = self.inner.lock().watched.clone();
            files.replace(watched);
            let renewal = tokio::time::sleep(RENEWAL_LOOK.saturating_sub(looked.elapsed()));
            tokio::select! {
                () = files.changed() => {
                    if self.publishes_on_change() {
                        waiting = self.publish_by_itself("change").await;
                    }
                }
                // What changed during a rollout had to wait for its end.
                () = self.rolled.notified() => {
                    if waiting.is_some() {
                        waiting = self.publish_by_itself("change").await;
                    }
                }
                () = renewal => {
                    looked = Instant::now();
                    if let Err(error) = self.identities.renew_own(SystemTime::now()) {
                        tracing::error!(%error, "home's own identity was not renewed");
                    }
                    let _refusals_are_logged = self.refresh("renewal").await;
                }
            }
        }
    }

    /// Publishes as nobody asked for: what is on disk where it is to be published on change and was not taken back, else
    /// what is published, with what home adds to it. Returns what has to wait for the end of a rollout.
    async fn publish_by_itself(self: &Arc<Self>, who: &str) -> Option<Waiting> {
        let change = self.publishes_on_change();
        let content = if change { Content::DiskUnlessHeld } else { Content::Newest };
        let how = if change { How::AsConfigured } else { How::AtOnce };
        let order = Draft { content, who: who.to_owned(), note: String::new(), how };
        // Other refusals are logged where they are found.
        matches!(self.order(order).await, Err(NotPublished::Busy(_))).then_some(Waiting)
    }

    fn publishes_on_change(&self) -> bool {
        let inner = self.inner.lock();
        let controller = inner.config.as_ref().and_then(|config| config.controller.as_ref());
        controller.is_none_or(|controller| controller.publish == PublishOn::Change)
    }

    /// Publishes what is on disk as it says itself, if it is good and new.
    ///
    /// # Errors
    /// Every mistake, with its place; the last published state stays.
    pub async fn publish(self: &Arc<Self>, who: &str) -> Result<PublishOutcome, Vec<String>> {
        let (content, how) = (Content::Disk, How::AsConfigured);
        let order = Draft { content, who: who.to_owned(), note: String::new(), how };
        self.order(order).await.map_err(NotPublished::reasons)
    }

    /// Publishes what is published already with what home adds to it: certificates that are due, keys of session tickets.
    /// What people write on disk stays there.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn refresh(self: &Arc<Self>, who: &str) -> Result<PublishOutcome, Vec<String>> {
        let (content, how) = (Content::Newest, How::AtOnce);
        let order = Draft { content, who: who.to_owned(), note: String::new(), how };
        self.order(order).await.map_err(NotPublished::reasons)
    }

    /// Makes a snapshot and sends it on its way.
    ///
    /// # Errors
    /// [`NotPublished`]; the last published state stays.
    pub async fn order(self: &Arc<Self>, order: Draft) -> Result<PublishOutcome, NotPublished> {
        let _one = self.publishing.lock().await;
        if let Some(rollout) = self.rollout() {
            return Err(NotPublished::Busy(format!(
                "snapshot {} is being rolled out (wave {} of {}): wait for it, or end it with `nearside rollback`",
                rollout.number,
                rollout.wave,
                rollout.waves.len()
            )));
        }
        if let How::Waves(waves) = &order.how {
            self.reaches(&waves.canary)?;
        }
        self.made(&order).await
    }

    /// Refuses canaries that can't be asked how they are.
    fn reaches(&self, canaries: &[String]) -> Result<(), NotPublished> {
        let inner = self.inner.lock();
        let away = canaries.iter().filter(|name| {
            let node = inner.nodes.get(*name);
            node.is_some_and(|(node, _)| node.status().phase == Phase::Unreachable)
        });
        let away: Vec<&str> = away.map(String::as_str).collect();
        if canaries.is_empty() || away.len() < canaries.len() {
            return Ok(());
        }
        let reason = format!("{} can't be reached: choose another canary", away.join(", "));
        Err(NotPublished::Refused(vec![reason]))
    }

    /// Makes a snapshot under the caller's lock.
    async fn made(self: &Arc<Self>, order: &Draft) -> Result<PublishOutcome, NotPublished> {
        let (this, wanted) = (Arc::clone(self), order.clone());
        let making = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let bundler =
                Bundler { home: &this.home, journal: &this.journal, fleet_file: &this.fleet_file, now };
            let outcome = bundler.publish(&wanted);
            if outcome.0.as_ref().is_ok_and(|published| published.new) {
                // Still under the lock of publishing: what is being gathered must not be taken for old.
                history::forget(&this.home.state, &this.journal);
            }
            outcome
        });
        // A panic is our bug; what is published stays, so it is a refusal like any other.
        let made = making.await.map_err(|error| vec![format!("publishing failed: {error}")]);
        let (made, read) = made.map_err(NotPublished::Refused)?;
        match made {
            Ok(published) => {
                if !read.is_empty() {
                    self.inner.lock().watched = read;
                }
                self.took(&published, &order.who);
                let rolling = published.new && published.publication.outcome == Outcome::Rolling;
                Ok(PublishOutcome { number: published.number, new: published.new, rolling })
            }
            Err(refusal) => {
                let mut inner = self.inner.lock();
                // What was good before is watched too: the mistake may be mended in any of its files.
                inner.watched.extend(read);
                let told = inner.refused == refusal.reasons;
                inner.refused.clone_from(&refusal.reasons);
                drop(inner);
                for reason in refusal.reasons.iter().filter(|_| !(refusal.held && told)) {
                    tracing::error!("not published: {reason}");
                }
                if !refusal.held {
                    self.counters.refused.inc();
                    self.events.raise(Event::new(
                        EventKind::PublishRefused,
                        FLEET_FILE,
                        refusal.reasons.join("\n"),
                    ));
                }
                Err(NotPublished::Refused(refusal.reasons))
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
        self.acme.wake();
        self.events.clear(EventKind::PublishRefused, FLEET_FILE);
        self.counters.snapshot.set(i64::try_from(published.number).unwrap_or(i64::MAX));
        if published.new {
            self.counters.publishes.inc();
            tracing::info!(number = published.number, who, "published");
            let note = &published.publication.note;
            let note = if note.is_empty() { String::new() } else { format!(": {note}") };
            self.audit(who, &format!("published snapshot {}{note}", published.number));
        }
        self.aim_at(published);
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
                let peer = Peer { name, address, tls: self.identities.client() };
                let identities = Arc::clone(&self.identities);
                let (journal, outbox) = (Arc::clone(&self.journal), self.purger.outbox());
                let node =
                    Arc::new(Node::new(peer, kind, identities, journal, outbox, self.home.state.clone()));
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

    /// Renews certificates and publishes them: of all sites that have theirs from the fleet's CA, or of one site, from
    /// whoever issues it.
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
        let orders = |site: &str| Acme::sites(&config).any(|(found, _)| found.name == site);
        if let Some(site) = site.filter(|site| orders(site)) {
            let outcome = acme::follow::now(self, site, who).await?;
            self.audit(who, &format!("renewed the certificate of {site}"));
            return Ok(outcome);
        }
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
        self.refresh(who).await
    }

    /// What orders certificates.
    pub fn acme(&self) -> &Acme {
        &self.acme
    }

    /// What was published last, and the DNS nodes of it; `None`: nothing was yet.
    pub fn desk(&self) -> Option<Desk> {
        let config = self.inner.lock().config.clone()?;
        let nodes = config.dns.values().map(|node| DnsNode {
            name: node.name.clone(),
            peer: node.control.map(|address| Peer {
                name: node.name.clone(),
                address,
                tls: self.identities.client(),
            }),
            asked: DnsNode::address(node),
        });
        let nodes = nodes.collect();
        Some(Desk { config, nodes })
    }

    /// Where to tell what an operator should know.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What edges counted.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Fetches what edges counted, a little after every minute, until cancelled.
    pub async fn count(self: Arc<Self>) {
        loop {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let into = Duration::from_secs(now.as_secs() % stats::EVERY.as_secs());
            tokio::time::sleep(stats::EVERY - into + stats::AFTER_MINUTE).await;
            let away = self.stats.pull_all(self.nodes(Kind::Edge), Now::Left).await;
            self.counters.stats_pulls.inc();
            self.counters.stats_away.set(i64::try_from(away.len()).unwrap_or(i64::MAX));
        }
    }

    /// Who is told of it.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Writes down who did what.
    pub fn note(&self, who: &str, what: &str) {
        self.audit(who, what);
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

    /// Compares two snapshots, or one with the files on disk; without `from`, the newest. Reads files: not for async code.
    ///
    /// # Errors
    /// In words.
    pub fn diff(&self, from: Option<Side>, to: Side) -> Result<Diff, String> {
        let newest = || self.journal.newest().ok().flatten().map(|(number, ..)| Side::Snapshot(number));
        let from = from.or_else(newest).ok_or_else(|| "nothing was published yet".to_owned())?;
        diff::diff(&self.home, &self.journal, &self.fleet_file, from, to, SystemTime::now())
    }

    /// Makes backups when they are due, until cancelled, and tells when one fails.
    pub async fn keep_backups(self: Arc<Self>) {
        loop {
            let plan = self.with_config(|config| config.controller.as_ref()?.backup.clone()).flatten();
            if let Some(plan) = plan {
                let (state, place) = (self.home.state.clone(), plan.directory.display().to_string());
                let making =
                    tokio::task::spawn_blocking(move || backup::keep_up(&state, &plan, SystemTime::now()));
                let made = making.await.map_err(|error| error.to_string());
                match made.and_then(|made| made.map_err(|error| error.to_string())) {
                    Ok(at) => {
                        self.counters.backup.set(i64::try_from(at).unwrap_or(0));
                        self.events.clear(EventKind::BackupFailed, &place);
                    }
                    Err(error) => {
                        tracing::error!(error, "no backup was made");
                        self.events.raise(Event::new(EventKind::BackupFailed, &place, error));
                    }
                }
            }
            tokio::time::sleep(BACKUP_LOOK).await;
        }
    }

    /// Who belongs to the fleet.
    pub fn identities(&self) -> &Arc<Identities> {
        &self.identities
    }

    /// Revokes all identities of a name: home refuses them at once, every node as soon as it is reached, whatever else can or
    /// can't be published. What a node could read is then replaced: session tickets' keys and certificates of the fleet's
    /// CA. Returns how many identities it were, and why the rest was not published, if so.
    ///
    /// # Errors
    /// In words: nobody of that name, or home could not write it down.
    pub async fn revoke(
        self: &Arc<Self>,
        name: &str,
        reason: &str,
        who: &str,
    ) -> Result<(usize, Option<String>), RevokeError> {
        if name == "controller" {
            return Err(RevokeError::Unknown("home can't revoke itself".to_owned()));
        }
        let known = self.journal.identities()?;
        if known.iter().all(|one| one.name != name) {
            let names: BTreeSet<&str> = known.iter().map(|one| one.name.as_str()).collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(RevokeError::Unknown(format!("nobody is called {name}; there are: {names}")));
        }
        let count = self.identities.revoke(name, reason, SystemTime::now())?;
        self.audit(who, &format!("revoked {name} ({count} identities): {reason}"));
        tracing::warn!(name, reason, "revoked");
        self.desired.send_modify(|desired| desired.drains += 1);
        let Some(node) = name.strip_prefix("node:") else { return Ok((count, None)) };
        self.events.raise(Event::new(EventKind::NodeRevoked, node, reason.to_owned()));
        self.home
            .state
            .remove(format!("seal/{node}.pub"))
            .map_err(HomeError::from)
            .map_err(IdentityTrouble::from)?;
        bundle::forget_ticket_seeds(&self.home.state).map_err(RevokeError::Failed)?;
        let renewed = self.renew(None, who).await;
        Ok((count, renewed.err().map(|reasons| reasons.join("\n"))))
    }

    /// The bearer tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Looks at the configuration that is published; `None` before the first one.
    pub fn with_config<T>(&self, look: impl FnOnce(&Config) -> T) -> Option<T> {
        self.inner.lock().config.as_ref().map(look)
    }

    /// Rows of the audit log from a moment on, newest first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn audit_since(&self, since: u64, count: usize) -> Result<Vec<Entry>, JournalError> {
        self.journal.audit_since(since, count)
    }

    /// Writes a row of the audit log, or says in the program's own that it can't.
    pub fn audit_entry(&self, entry: &Entry) {
        if let Err(error) = self.journal.audit_entry(entry) {
            let Entry { who, what, .. } = entry;
            tracing::warn!(%error, who, what, "not written to the audit log");
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
        let conditions = self.events.open()?.len();
        let drains = self.journal.drains(seconds(SystemTime::now()))?;
        let snapshot = self.desired.borrow().newest.as_ref().map(|target| target.number);
        let newest = self.journal.publications(1)?.pop();
        let rollout = self.rollout();
        let inner = self.inner.lock();
        Ok(FleetStatus {
            fleet: inner.config.as_ref().map(|config| config.fleet.clone()).unwrap_or_default(),
            snapshot,
            newest,
            rollout,
            refused: inner.refused.clone(),
            purges,
            drains,
            nodes: inner.nodes.values().map(|(node, _)| node.status()).collect(),
            traffic: self.stats.rates(),
            conditions,
        })
    }

    /// Whether every node has the newest snapshot.
    pub fn settled(&self) -> bool {
        let inner = self.inner.lock();
        inner.nodes.values().all(|(node, _)| node.status().phase == Phase::Current)
    }

    /// Writes down what was done. The deed is done; a full disk is told by whatever needs it next.
    pub fn audit(&self, who: &str, what: &str) {
        self.audit_entry(&Entry::done(seconds(SystemTime::now()), who, what));
    }
}
