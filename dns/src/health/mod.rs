//! Whether each PoP's addresses answer: runs the probes, keeps the states, hears the operator.
//!
//! [`Health`] is the one writer of health. A [`Plan`] says what is to be probed; each target is one task
//! that probes, sleeps, probes. Samples go through [`state`], which decides; what steering needs to know
//! is handed out as a [`HealthView`]. Nothing here builds an answer: whoever awaits [`Health::changed`]
//! does, and asks for a new view at least every [`VIEW_AGE_MAX`], so that TTLs stay truthful.
//!
//! Invariant: a state outlives its probe's task, a reload and a restart, unless its address is gone.

pub mod drain;
pub mod exec;
pub mod peers;
pub mod plan;
pub mod probe;
pub mod quorum;
pub mod shed;
pub mod state;
mod stats;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nearside_fleet::config::{Check, Id};
use nearside_node::state::StateDir;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    task::AbortHandle,
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    clock,
    steering::{self, HealthView},
};
use drain::Drains;
use peers::Peers;
use plan::{Key, Plan, ShedPlan, Target};
use probe::Finding;
use quorum::{Opinion, Others};
use shed::Shares;
use state::{Change, JITTER_PERCENT, Moment, Sample, State, Status, Thresholds};

/// A view is replaced at least this often. What it promises is shortened by as much, so that an answer
/// given just before the replacement is still no older than the earliest change.
pub const VIEW_AGE_MAX: Duration = Duration::from_secs(1);

/// Probes under way at once. A thousand checks that all time out after 2 s of a 10 s interval need 200;
/// past this, probes wait, and the interval stretches, rather than sockets run out.
pub const PROBES_AT_ONCE: usize = 512;

/// Serving waits this long for the first round of probes at most: by then an address that has not been
/// probed (thousands of targets that all time out) counts as up.
pub const FIRST_ROUND_MAX: Duration = Duration::from_secs(30);

/// A warning is logged when a probed certificate expires sooner than this: time enough to act, later than
/// any ACME client renews.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

/// States are written to disk this often; flips are written at once.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a state file: ten thousand targets, at about 300 bytes each, or 4 KiB where an `exec` check says much.
const STATE_FILE_BYTES_MAX: u64 = 64 << 20;

/// File of the states in the state directory.
const STATES_FILE: &str = "health.json";

/// File of the drains in the state directory.
const DRAINS_FILE: &str = "drains.json";

/// File of what busy PoPs are offered in the state directory.
const SHARES_FILE: &str = "shares.json";

/// A load that was told longer ago than so many intervals of its check counts no more: one lost probe does not
/// make a busy PoP an idle one.
const LOAD_AGE_INTERVALS: u32 = 3;

/// Runs the checks. Cheap to share; see the module.
pub struct Health {
    inner: Mutex<Inner>,
    /// Held while the drains are written, so that the newest are written last.
    saving_drains: Mutex<()>,
    changed: Notify,
    sampled: Notify,
    permits: Semaphore,
    /// Of probes that are processes: they wait for each other, and never keep a connection waiting.
    exec_permits: Semaphore,
    state: Option<StateDir>,
    runtime: Handle,
    stats: stats::Durations,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Key, Entry>,
    /// Addresses that share another's state.
    shadows: BTreeMap<Key, Key>,
    /// PoPs that may be drained.
    pops: BTreeSet<String>,
    drains: Drains,
    /// The other DNS nodes, where checks have `views`.
    peers: Peers,
    /// Services that offer a busy PoP to fewer.
    sheds: BTreeMap<Id, ShedPlan>,
    /// What is offered of busy PoPs.
    shares: Shares,
    /// States from before the restart, until a plan asks for them.
    restored: BTreeMap<Key, State>,
    /// Told to each new task, so that a sample of a replaced one is recognised and thrown away.
    generation: u64,
}

/// One target under way.
struct Entry {
    target: Target,
    thresholds: Thresholds,
    state: State,
    /// Whether a probe of this process has ended.
    sampled: bool,
    /// The state in words, made once per sample.
    reason: Arc<str>,
    certificate_expires: Option<i64>,
    certificate_warned: bool,
    /// What the edge last said of its load, and when.
    load: Option<(f64, Moment)>,
    generation: u64,
    task: AbortHandle,
}

/// One target as it stands, for `explain`, reports and metrics.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    /// The check.
    pub check: String,
    /// The PoP.
    pub pop: String,
    /// The address probed.
    pub address: IpAddr,
    /// The verdict.
    pub status: Status,
    /// Since when, milliseconds since the Unix epoch.
    pub since: Moment,
    /// The state in words.
    pub reason: String,
    /// When the served certificate expires, seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<i64>,
    /// How busy it says it is, 1 being all it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
}

/// A state as it is kept on disk.
#[derive(Serialize, Deserialize)]
struct Saved {
    check: String,
    address: IpAddr,
    #[serde(flatten)]
    state: State,
}

impl Health {
    /// Health without targets, with the states and drains of before the restart taken from `state`.
    /// What can't be read there is logged and forgotten. Must be called on the runtime that will probe.
    pub fn new(state: Option<StateDir>) -> Arc<Health> {
        let now = clock::now();
        let saved: Vec<Saved> = state.as_ref().and_then(|dir| load(dir, STATES_FILE)).unwrap_or_default();
        let restored = saved
            .into_iter()
            .map(|saved| (Key { check: saved.check, address: saved.address }, saved.state.restored(now)))
            .filter(|(_, state)| state.status != Status::Unknown)
            .collect();
        let drains = state.as_ref().and_then(|dir| load(dir, DRAINS_FILE)).unwrap_or_default();
        let shares = state.as_ref().and_then(|dir| load(dir, SHARES_FILE)).unwrap_or_default();
        Arc::new(Health {
            inner: Mutex::new(Inner { restored, drains, shares, ..Inner::default() }),
            saving_drains: Mutex::new(()),
            changed: Notify::new(),
            sampled: Notify::new(),
            permits: Semaphore::new(PROBES_AT_ONCE),
            exec_permits: Semaphore::new(exec::PROGRAMS_AT_ONCE),
            state,
            runtime: Handle::current(),
            stats: stats::Durations::default(),
        })
    }

    /// Takes a plan over: unchanged targets go on as they are, edited checks keep their verdict until
    /// their next probe decides, new targets are probed at once, the rest is forgotten.
    pub fn apply(self: &Arc<Self>, plan: Plan) {
        let now = clock::now();
        let mut inner = self.lock();
        inner.shadows = plan.shadows;
        inner.pops = plan.pops;
        inner.peers.replace(plan.peers);
        inner.replace_sheds(plan.sheds, now);
        let mut old = std::mem::take(&mut inner.entries);
        for (key, target) in plan.targets {
            match old.remove(&key) {
                Some(mut entry) if entry.target.check == target.check => {
                    // Its CA file may have changed all the same: the next probe uses the new prober.
                    entry.target = target;
                    inner.entries.insert(key, entry);
                }
                Some(entry) => {
                    entry.task.abort();
                    let mut state = entry.state;
                    state.reconsider();
                    self.begin(&mut inner, key, target, Some(state), now);
                }
                None => self.begin(&mut inner, key, target, None, now),
            }
        }
        for entry in old.into_values() {
            entry.task.abort();
        }
        let gone = inner.expire_drains(now);
        drop(inner);
        for pop in gone {
            info!(pop, "drain over: it has expired, or the fleet file has no such PoP any more");
        }
        self.changed.notify_one();
    }

    /// Makes an entry and starts its task.
    fn begin(
        self: &Arc<Self>,
        inner: &mut Inner,
        key: Key,
        target: Target,
        before: Option<State>,
        now: Moment,
    ) {
        inner.generation += 1;
        let generation = inner.generation;
        let restored = inner.restored.remove(&key);
        let state = before.or(restored).unwrap_or_else(|| State::unknown(now));
        let thresholds = thresholds(&target.check);
        let task = self.runtime.spawn(run(Arc::clone(self), key.clone(), generation)).abort_handle();
        let reason = in_words(&state, &thresholds);
        let entry = Entry {
            target,
            thresholds,
            state,
            sampled: false,
            reason,
            certificate_expires: None,
            certificate_warned: false,
            load: None,
            generation,
            task,
        };
        inner.entries.insert(key, entry);
    }

    /// Waits until every target was probed once, or [`FIRST_ROUND_MAX`] is over. Cancel-safe.
    pub async fn first_round(&self) {
        let deadline = Instant::now() + FIRST_ROUND_MAX;
        loop {
            let sampled = self.sampled.notified();
            let missing = self.lock().entries.values().filter(|entry| !entry.sampled).count();
            if missing == 0 {
                return;
            }
            if tokio::time::timeout_at(deadline, sampled).await.is_err() {
                warn!(missing, "the first round of checks is not over: what was not probed counts as up");
                return;
            }
        }
    }

    /// Waits until something flipped since the last call. One waiter at a time. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What steering is to know, as of now. Drains that are over end here.
    pub fn view(&self) -> HealthView {
        let now = clock::now();
        let mut inner = self.lock();
        let gone = inner.expire_drains(now);
        let mut view = inner.view(now, now.plus(VIEW_AGE_MAX));
        let steps = inner.judge_loads(&view, now);
        view.offers = inner.offers(now);
        let shares = (!steps.is_empty()).then(|| inner.shares.clone());
        drop(inner);
        for pop in &gone {
            info!(pop, "the drain is over");
        }
        for shed::Step { service, pop, from, to, load } in steps {
            let percent = |share: f64| (share * 100.0).round();
            let (from, to) = (percent(from), percent(to));
            info!(
                service,
                pop, load, from, to, "a busy PoP is offered to another share of networks, in percent"
            );
        }
        if let (Some(dir), Some(shares)) = (&self.state, shares) {
            store(dir, SHARES_FILE, &shares);
        }
        if !gone.is_empty() {
            self.save_drains();
        }
        view
    }

    /// Takes a PoP out of the answers, for a time or until [`Health::undrain`]. On disk before it returns.
    ///
    /// # Errors
    /// The PoP's name, if the configuration has none such.
    pub fn drain(&self, pop: &str, lasts: Option<Duration>, reason: &str) -> Result<(), String> {
        let mut inner = self.lock();
        if !inner.pops.contains(pop) {
            return Err(pop.to_owned());
        }
        let changed = inner.drains.set(pop, clock::now(), lasts, reason);
        drop(inner);
        if !changed {
            return Ok(());
        }
        self.save_drains();
        info!(
            pop,
            seconds = lasts.map(|lasts| lasts.as_secs()),
            reason,
            "drained: the PoP leaves the answers"
        );
        self.changed.notify_one();
        Ok(())
    }

    /// Lifts a drain. `false`: there was none.
    pub fn undrain(&self, pop: &str) -> bool {
        let lifted = self.lock().drains.lift(pop);
        if lifted {
            self.save_drains();
            info!(pop, "drain lifted: the PoP is offered again while its checks pass");
            self.changed.notify_one();
        }
        lifted
    }

    /// Every drain in force.
    pub fn drains(&self) -> Drains {
        self.lock().drains.clone()
    }

    /// Every target, in order of check and address.
    pub fn report(&self) -> Vec<TargetReport> {
        let now = clock::now();
        let inner = self.lock();
        let report = |(key, entry): (&Key, &Entry)| TargetReport {
            check: key.check.clone(),
            pop: entry.target.pop.clone(),
            address: key.address,
            status: entry.state.status,
            since: entry.state.since,
            reason: entry.reason.to_string(),
            certificate_expires: entry.certificate_expires,
            load: entry.load(now),
        };
        inner.entries.iter().map(report).collect()
    }

    /// Writes the states to disk every minute, so that a crash forgets little. Runs until cancelled.
    pub async fn keep_saved(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SAVE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let health = Arc::clone(&self);
            // Fails only if the runtime is shutting down; the stopping daemon saves by itself.
            let _ = tokio::task::spawn_blocking(move || health.save()).await;
        }
    }

    /// Writes the states to disk. Blocks.
    pub fn save(&self) {
        let Some(dir) = &self.state else { return };
        let inner = self.lock();
        let saved: Vec<Saved> = inner
            .entries
            .iter()
            .map(|(key, entry)| (key, &entry.state))
            .chain(&inner.restored)
            .map(|(key, state)| Saved {
                check: key.check.clone(),
                address: key.address,
                state: state.clone(),
            })
            .collect();
        drop(inner);
        store(dir, STATES_FILE, &saved);
    }

    /// Ends every probe and writes the states down. Blocks for the disk.
    pub fn stop(&self) {
        for entry in self.lock().entries.values() {
            entry.task.abort();
        }
        self.save();
    }

    fn save_drains(&self) {
        if let Some(dir) = &self.state {
            let _one = self.saving_drains.lock().unwrap_or_else(PoisonError::into_inner);
            let drains = self.lock().drains.clone();
            store(dir, DRAINS_FILE, &drains);
        }
    }

    /// What a target's task needs for its next probe; `None`: the task was replaced.
    fn next(&self, key: &Key, generation: u64) -> Option<Target> {
        let inner = self.lock();
        let entry = inner.entries.get(key).filter(|entry| entry.generation == generation)?;
        Some(entry.target.clone())
    }

    /// Takes one finding in. `false`: the task was replaced.
    fn record(&self, key: &Key, generation: u64, started: Moment, finding: Finding) -> bool {
        let ended = clock::now();
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(key).filter(|entry| entry.generation == generation) else {
            return false;
        };
        let passed = finding.result.is_ok();
        self.stats.observe(&key.check, passed, ended.since(started));
        let before = entry.state.status;
        let change = entry.state.apply(&Sample { started, ended, result: finding.result }, &entry.thresholds);
        entry.reason = in_words(&entry.state, &entry.thresholds);
        entry.sampled = true;
        entry.certificate_expires = finding.certificate_expires.or(entry.certificate_expires);
        entry.load = finding.load.map(|load| (load, ended)).or(entry.load);
        let warn_of = entry.expiring_certificate(ended);
        let pop = entry.target.pop.clone();
        let reason = entry.state.reason.clone().unwrap_or_default();
        drop(inner);
        self.sampled.notify_waiters();
        let Key { check, address } = key;
        if let Some(days) = warn_of {
            warn!(pop, check, %address, days, "the certificate served here expires soon");
        }
        match change {
            Change::None => return true,
            Change::Up if before == Status::Unknown => info!(pop, check, %address, "found up"),
            Change::Up => info!(pop, check, %address, "up again"),
            Change::Down => warn!(pop, check, %address, reason, "down"),
        }
        self.changed.notify_one();
        true
    }

    /// A poisoned lock means that a task panicked between two states; each is whole by itself.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What is known, for an answer that is given no later than `until`.
    fn view(&self, now: Moment, until: Moment) -> HealthView {
        let mut checks = HashMap::with_capacity(self.entries.len() + self.shadows.len());
        for (key, entry) in &self.entries {
            let health = self.merged(key, entry, now, until);
            checks.insert((key.check.clone(), key.address), health);
        }
        for (key, leader) in &self.shadows {
            if let Some(health) = checks.get(&(leader.check.clone(), leader.address)).cloned() {
                let reason = format!("as {}: {}", leader.address, health.reason).into();
                checks.insert((key.check.clone(), key.address), steering::CheckHealth { reason, ..health });
            }
        }
        let drain = |(pop, drain): (&str, &drain::Drain)| {
            let remaining = drain.until.map(|end| end.since(until));
            let why = if drain.reason.is_empty() { String::new() } else { format!(": {}", drain.reason) };
            let reason = match drain.until {
                Some(end) => format!("drained by an operator until {}{why}", Utc(end)),
                None => format!("drained by an operator since {}{why}", Utc(drain.since)),
            };
            (pop.to_owned(), steering::Drain { remaining, reason: reason.into() })
        };
        HealthView { checks, drains: self.drains.iter().map(drain).collect(), offers: HashMap::new() }
    }

    /// Takes over which services shed; what is offered of those that stay is kept.
    fn replace_sheds(&mut self, sheds: BTreeMap<Id, ShedPlan>, now: Moment) {
        self.shares.retain(|service, pop| sheds.get(service).is_some_and(|shed| shed.pops.contains_key(pop)));
        for (service, shed) in &sheds {
            if self.sheds.get(service) != Some(shed) {
                self.shares.settle(service, &shed.limits, now);
            }
        }
        self.sheds = sheds;
    }

    /// Lets every service that sheds look at the loads of now.
    fn judge_loads(&mut self, view: &HealthView, now: Moment) -> Vec<shed::Step> {
        let mut steps = Vec::new();
        for (service, plan) in &self.sheds {
            let seen = plan.pops.iter().map(|(pop, keys)| {
                let drained = view.drains.contains_key(pop);
                let up = |address| {
                    let checks = keys.iter().filter(|key| key.address == address);
                    let mut said =
                        checks.filter_map(|key| view.checks.get(&(key.check.clone(), key.address)));
                    said.all(|health| health.up)
                };
                let up = !drained && keys.iter().any(|key| up(key.address));
                (pop.clone(), shed::Seen { up, load: self.load(keys, now) })
            });
            steps.extend(self.shares.judge(service, &plan.limits, &seen.collect(), now));
        }
        steps
    }

    /// The highest load that a PoP's checks brought of late.
    fn load(&self, keys: &[Key], now: Moment) -> Option<f64> {
        let loads = keys.iter().filter_map(|key| self.entries.get(key)?.load(now));
        loads.max_by(f64::total_cmp)
    }

    /// What busy PoPs are offered, for steering.
    fn offers(&self, now: Moment) -> HashMap<(Id, Id), steering::Offer> {
        let offers = self.shares.iter().filter_map(|(service, pop, share)| {
            let plan = self.sheds.get(service)?;
            let load = self.load(plan.pops.get(pop)?, now);
            let offer = steering::Offer { share: share.share, load, above: plan.limits.above };
            Some(((service.clone(), pop.clone()), offer))
        });
        offers.collect()
    }

    /// Every service and PoP that may be shed, with what is offered of it.
    fn all_shares(&self) -> impl Iterator<Item = (&Id, &Id, f64)> {
        let pops =
            self.sheds.iter().flat_map(|(service, plan)| plan.pops.keys().map(move |pop| (service, pop)));
        pops.map(|(service, pop)| (service, pop, self.shares.of(service, pop)))
    }

    /// This node's opinion of a target, merged with those of the others where the check asks for them.
    fn merged(&self, key: &Key, entry: &Entry, now: Moment, until: Moment) -> steering::CheckHealth {
        let unchanged_for = entry.state.earliest_change(&entry.thresholds).since(until);
        let own = Opinion { up: entry.state.status.is_up(), unchanged_for };
        let needed = entry.target.check.views as usize;
        let (said, heard_for, missing) = match needed {
            0 | 1 => (Vec::new(), Duration::MAX, 0),
            _ => self.peers.of(key, now, until),
        };
        if said.is_empty() && missing == 0 {
            return steering::CheckHealth { up: own.up, unchanged_for, reason: entry.reason.clone() };
        }
        let heard: Vec<Opinion> = said.iter().map(|(_, opinion)| *opinion).collect();
        let merged = quorum::merge(own, Others { heard: &heard, heard_for, missing }, needed);
        let mut reason = format!("{}; ", entry.reason);
        for (name, opinion) in &said {
            reason += &format!("{name} sees it {}, ", if opinion.up { "up" } else { "down" });
        }
        reason += &match merged.views < needed {
            true => format!("{} of {needed} views heard: this node decides", merged.views),
            false => format!("down in {} of {} views, {needed} needed", merged.down, merged.views),
        };
        steering::CheckHealth { up: merged.up, unchanged_for: merged.unchanged_for, reason: reason.into() }
    }

    fn expire_drains(&mut self, now: Moment) -> Vec<String> {
        let pops = &self.pops;
        self.drains.expire(now, |pop| pops.contains(pop))
    }
}

impl Entry {
    /// The load, if it was told of late.
    fn load(&self, now: Moment) -> Option<f64> {
        let (load, told) = self.load?;
        (now.since(told) <= self.thresholds.interval * LOAD_AGE_INTERVALS).then_some(load)
    }

    /// Days left of a certificate that expires soon, once per certificate.
    fn expiring_certificate(&mut self, now: Moment) -> Option<i64> {
        let left_s = self.certificate_expires? - i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
        let soon = left_s < CERTIFICATE_WARNING.as_secs() as i64;
        let first = soon && !self.certificate_warned;
        self.certificate_warned = soon;
        first.then_some(left_s / (24 * 3600))
    }
}

/// The life of one target: probe, tell, sleep. Ends when it is replaced.
async fn run(health: Arc<Health>, key: Key, generation: u64) {
    loop {
        let Some(target) = health.next(&key, generation) else { return };
        let permits = if target.prober.is_exec() { &health.exec_permits } else { &health.permits };
        let Ok(permit) = permits.acquire().await else { return };
        let (started, begun) = (clock::now(), Instant::now());
        let finding = target.prober.probe(key.address).await;
        drop(permit);
        if !health.record(&key, generation, started, finding) {
            return;
        }
        tokio::time::sleep_until(begun + jittered(target.check.interval)).await;
    }
}

/// An interval, up to [`JITTER_PERCENT`] shorter or longer. Rounded up to whole milliseconds, the unit of
/// [`Moment`], so that no interval is shorter than [`Thresholds::interval_min`] says.
fn jittered(interval: Duration) -> Duration {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX / 200);
    let spread_ms = interval_ms * u64::from(JITTER_PERCENT) / 100;
    Duration::from_millis(interval_ms - spread_ms + fastrand::u64(0..=2 * spread_ms) + 1)
}

fn thresholds(check: &Check) -> Thresholds {
    Thresholds { rise: check.rise, fall: check.fall, interval: check.interval }
}

/// A state in words, for `explain` and reports.
fn in_words(state: &State, thresholds: &Thresholds) -> Arc<str> {
    let since = Utc(state.since);
    let reason = state.reason.as_deref().unwrap_or("no reason known");
    match (state.status, state.against) {
        (Status::Unknown, _) => "not probed yet".into(),
        (Status::Up, 0) => format!("up since {since}").into(),
        (Status::Up, failed) => {
            format!("up since {since}, but {failed} of {} probes failed: {reason}", thresholds.fall).into()
        }
        (Status::Down, 0) => format!("down since {since}: {reason}").into(),
        (Status::Down, passed) => {
            format!("down since {since}, but {passed} of {} probes passed: {reason}", thresholds.rise).into()
        }
    }
}

/// A moment as RFC 3339, in UTC, to the second.
pub struct Utc(pub Moment);

impl std::fmt::Display for Utc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = i64::try_from(self.0.0 / 1000).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_second(seconds) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => f.write_str("the end of time"),
        }
    }
}

/// Reads a state file; what is missing is nothing, what is broken is logged and nothing.
fn load<T: for<'de> Deserialize<'de>>(dir: &StateDir, name: &str) -> Option<T> {
    let bytes = match dir.read(name, STATE_FILE_BYTES_MAX) {
        Ok(bytes) => bytes?,
        Err(error) => {
            warn!(%error, "a state file can't be read: starting without it");
            return None;
        }
    };
    serde_json::from_slice(&bytes)
        .inspect_err(|error| {
            warn!(file = %dir.path(name).display(), %error, "a state file is broken: starting without it");
        })
        .ok()
}

/// Writes a state file; a failing disk is logged and costs only the memory of a restart.
fn store<T: Serialize>(dir: &StateDir, name: &str, value: &T) {
    let written = serde_json::to_vec(value)
        .map_err(|error| error.to_string())
        .and_then(|bytes| dir.write(name, &bytes).map_err(|error| error.to_string()));
    if let Err(error) = written {
        warn!(error, "state can't be saved: it will be missing after a restart");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use nearside_fleet::config::{Probe, ProbeFamily};
    use tokio::net::TcpListener;

    use super::{probe::Prober, *};

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn check(port: u16, fall: u32) -> Check {
        Check {
            name: "web".into(),
            probe: Probe::Tcp,
            port,
            family: ProbeFamily::Each,
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(15),
            rise: 2,
            fall,
            views: 1,
        }
    }

    fn plan(check: &Check) -> Plan {
        let target = Target {
            check: check.clone(),
            prober: Prober::new(check, &exec::ExecPolicy::Refused).unwrap(),
            pop: "fra".into(),
        };
        Plan {
            targets: BTreeMap::from([(Key { check: check.name.clone(), address: HOME }, target)]),
            pops: BTreeSet::from(["fra".to_owned()]),
            ..Plan::default()
        }
    }

    fn up(health: &Health) -> bool {
        health.view().checks[&("web".to_owned(), HOME)].up
    }

    async fn until(health: &Health, wanted: bool) {
        let waiting = async {
            while up(health) != wanted {
                health.changed().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("a flip within 5 s");
    }

    #[tokio::test]
    async fn goes_down_and_up_with_its_server_and_remembers_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let check = check(address.port(), 3);
        let health = Health::new(Some(state.clone()));
        health.apply(plan(&check));
        health.first_round().await;
        assert!(up(&health));
        drop(listener);
        until(&health, false).await;
        let report = health.report();
        assert!(report[0].reason.ends_with("connection refused"), "{:?}", report[0]);
        health.stop();

        let again = Health::new(Some(state));
        let listener = TcpListener::bind(address).await.unwrap();
        again.apply(plan(&check));
        assert!(!up(&again), "down before the restart, down after it, until `rise` probes passed");
        until(&again, true).await;
        drop(listener);
    }

    #[tokio::test]
    async fn an_edited_check_keeps_the_verdict_and_its_next_probe_decides() {
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let closed = TcpListener::bind((HOME, 0)).await.unwrap().local_addr().unwrap().port();
        let health = Health::new(None);
        health.apply(plan(&check(closed, 1)));
        health.first_round().await;
        assert!(!up(&health));
        health.apply(plan(&check(listener.local_addr().unwrap().port(), 1)));
        assert!(!up(&health), "not up by edit alone");
        health.first_round().await;
        assert!(up(&health), "one probe of the new check is enough");
    }

    #[tokio::test]
    async fn a_thousand_silent_addresses_are_probed_a_bounded_number_at_once() {
        const ADDRESSES: u32 = 1000;
        // Connections are made and nobody answers: every probe takes its whole timeout.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let silent = socket.listen(4096).unwrap();
        let check = Check {
            probe: Probe::Http(nearside_fleet::config::HttpProbe {
                host: None,
                path: "/".into(),
                status: (200, 399),
                body: None,
            }),
            interval: Duration::from_secs(3600),
            timeout: Duration::from_millis(400),
            fall: 1,
            ..check(silent.local_addr().unwrap().port(), 1)
        };
        let mut plan = plan(&check);
        let (_, target) = plan.targets.pop_first().unwrap();
        for number in 0..ADDRESSES {
            let address = IpAddr::V4(Ipv4Addr::from_bits(0x7f01_0001 + number));
            plan.targets.insert(Key { check: "web".into(), address }, target.clone());
        }
        let health = Health::new(None);
        health.apply(plan);
        let watch = Arc::clone(&health);
        let most = tokio::spawn(async move {
            let mut most = 0;
            loop {
                most = most.max(PROBES_AT_ONCE - watch.permits.available_permits());
                if watch.report().iter().all(|target| target.status == Status::Down) {
                    return most;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        health.first_round().await;
        let report = health.report();
        assert_eq!(report.len(), ADDRESSES as usize);
        assert!(
            report.iter().all(|target| target.reason.ends_with("timed out after 400 ms")),
            "{:?}",
            report[0]
        );
        let most = tokio::time::timeout(Duration::from_secs(20), most).await.expect("all are down").unwrap();
        assert_eq!(most, PROBES_AT_ONCE, "as many as may be, and never more: the rest waited their turn");
        health.stop();
    }

    #[tokio::test]
    async fn a_certificate_that_expires_soon_is_said_once() {
        let health = Health::new(None);
        health.apply(plan(&Check { interval: Duration::from_secs(3600), ..check(9, 1) }));
        health.first_round().await;
        let key = Key { check: "web".into(), address: HOME };
        let now_s = i64::try_from(clock::now().0 / 1000).unwrap();
        let seen = |left_days: i64| {
            let mut inner = health.lock();
            let entry = inner.entries.get_mut(&key).unwrap();
            entry.certificate_expires = Some(now_s + left_days * 24 * 3600 + 60);
            entry.expiring_certificate(clock::now())
        };
        assert_eq!([seen(30), seen(13), seen(12), seen(90), seen(3)], [None, Some(13), None, None, Some(3)]);
        assert_eq!(health.report()[0].certificate_expires, Some(now_s + 3 * 24 * 3600 + 60));
    }

    #[tokio::test]
    async fn drains_are_kept_on_disk_and_end_by_themselves() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let health = Health::new(Some(state.clone()));
        let check = check(9, 1);
        health.apply(plan(&check));
        assert_eq!(health.drain("nowhere", None, ""), Err("nowhere".to_owned()));
        health.drain("fra", Some(Duration::from_secs(60)), "new disk").unwrap();
        let again = Health::new(Some(state));
        again.apply(plan(&check));
        let view = again.view();
        assert!(view.drains["fra"].remaining.unwrap() <= Duration::from_secs(59), "less the view's own age");
        assert!(view.drains["fra"].reason.ends_with(": new disk"));
        assert!(again.undrain("fra"));
        assert!(!again.undrain("fra"));
        again.drain("fra", Some(Duration::ZERO), "").unwrap();
        assert!(again.view().drains.is_empty());
    }

    #[tokio::test]
    async fn a_busy_pop_is_offered_less_and_a_restart_remembers() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let check = check(listener.local_addr().unwrap().port(), 3);
        let shedding = || {
            let limits = shed::Limits { above: 0.8, lag: Duration::from_secs(60) };
            let key = Key { check: "web".into(), address: HOME };
            let spare = Key { check: "web".into(), address: "127.0.0.2".parse().unwrap() };
            let pops = BTreeMap::from([("fra".into(), vec![key]), ("nyc".into(), vec![spare])]);
            let mut plan = plan(&check);
            plan.sheds.insert("www".into(), ShedPlan { limits, pops });
            plan
        };
        let health = Health::new(Some(state.clone()));
        health.apply(shedding());
        health.first_round().await;
        assert!(health.view().offers.is_empty(), "no load was told");
        let tell = |load| {
            let key = Key { check: "web".into(), address: HOME };
            let told = Some((load, clock::now()));
            health.lock().entries.get_mut(&key).unwrap().load = told;
        };
        tell(1.6);
        let offer = ("www".to_owned(), "fra".to_owned());
        let offered = health.view().offers[&offer].clone();
        assert_eq!((offered.share, offered.above), (0.5, 0.8));
        assert_eq!(health.report()[0].load, Some(1.6));
        let mut registry = prometheus_client::registry::Registry::default();
        health.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for series in [
            "offered_share{service=\"www\",pop=\"fra\"} 0.5",
            "offered_share{service=\"www\",pop=\"nyc\"} 1.0",
            "load{pop=\"fra\",check=\"web\",address=\"127.0.0.1\"} 1.6",
        ] {
            assert!(text.contains(series), "{series} is not in {text}");
        }
        health.stop();

        let again = Health::new(Some(state));
        again.apply(shedding());
        assert_eq!(again.view().offers[&offer].share, 0.5);
        again.apply(plan(&check));
        assert!(again.view().offers.is_empty(), "the service does not shed any more");
    }

    #[tokio::test]
    async fn a_broken_state_file_costs_nothing_but_memory() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        state.write(STATES_FILE, b"{").unwrap();
        state.write(DRAINS_FILE, b"[1]").unwrap();
        let health = Health::new(Some(state));
        assert!(health.report().is_empty());
    }

    #[tokio::test]
    async fn metrics_name_every_target() {
        let health = Health::new(None);
        let mut registry = prometheus_client::registry::Registry::default();
        health.register(&mut registry);
        health.apply(plan(&check(1, 1)));
        health.first_round().await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("address_up{pop=\"fra\",check=\"web\",address=\"127.0.0.1\"} 0"), "{text}");
        assert!(text.contains("probe_duration_seconds_count{check=\"web\",result=\"failed\"} 1"), "{text}");
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let interval = Duration::from_secs(10);
        let least = Thresholds { rise: 1, fall: 1, interval }.interval_min();
        for _ in 0..1000 {
            let jittered = jittered(interval);
            assert!(jittered >= least && jittered <= interval * 106 / 100, "{jittered:?}");
        }
    }
}
