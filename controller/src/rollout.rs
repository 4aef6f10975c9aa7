//! Decides how far a snapshot may go: to a few nodes first, to the rest in waves, or back.
//!
//! Pure: what is known of the nodes and the time come in, what each node should have and a verdict come out. Asking
//! nodes, keeping the state over a restart and making the snapshot that goes back are [`crate::serve`]'s work.
//!
//! Edges go first and DNS nodes last, one of them alone before the others: an answer may only name what edges already
//! serve, and resolvers get over one bad DNS node, not over all of them.
//!
//! Invariants: no node is given the new snapshot before its wave; once a gate has failed nobody else is given it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Steps a rollout may have beside canaries and DNS nodes; more would only be slower.
pub const WAVES_MAX: usize = 10;
/// Shares of the edges that have it after each wave, in percent, unless said otherwise.
pub const WAVES: [u8; 3] = [25, 50, 100];
/// How long each wave is watched, unless said otherwise: two rounds of usual checks and a look at the error rates.
pub const WATCH: Duration = Duration::from_secs(30);
/// Shortest and longest watch that may be asked for.
pub const WATCH_RANGE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(86_400)];
/// Of a wave's nodes, how many may be away for it to count as evidence. They are given the snapshot when they return.
const AWAY_MAX_PERCENT: usize = 50;
/// How long a rollout waits for a wave of which more are away.
const AWAY_WAIT: Duration = Duration::from_secs(60);
/// A node that took the snapshot and then says nothing for so long has failed: it is looked at every second.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A node that answers and has not taken the snapshot after so long has failed: staging may take two minutes.
const TAKE_MAX: Duration = Duration::from_secs(180);
/// Errors below this number prove nothing.
const ERRORS_MIN: u64 = 10;
/// A share of errors is worse if it is above twice what it was before, and by this much: visitors' own mistakes vary.
const ERRORS_MARGIN: f64 = 0.02;

/// Counters of an edge since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Responses.
    pub requests: u64,
    /// Those with a status of 500 or above.
    pub errors: u64,
    /// Requests to origins.
    pub fetches: u64,
    /// Those that gave no answer.
    pub failures: u64,
}

impl Traffic {
    /// What was added since; a process that began anew counts from zero.
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            fetches: self.fetches.saturating_sub(before.fetches),
            failures: self.failures.saturating_sub(before.failures),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            fetches: self.fetches + other.fetches,
            failures: self.failures + other.failures,
        }
    }
}

/// What is known of a node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Since when it has not answered; zero: it answered the last time it was asked. `None`: never since home started.
    pub silent: Option<Duration>,
    /// The snapshot it serves.
    pub has: Option<u64>,
    /// When its process started, seconds since the epoch by its own clock.
    pub started: u64,
    /// Why it would not take the new snapshot.
    pub refusal: Option<Refusal>,
    /// Why it says that it does not serve.
    pub unwell: Option<String>,
    /// For each DNS node that answers: how many of this PoP's checks it sees down.
    pub down: BTreeMap<String, u32>,
    /// Its counters now.
    pub traffic: Traffic,
    /// What they grew by in the last minutes.
    pub recent: Traffic,
}

impl Sight {
    fn answers(&self) -> bool {
        self.silent == Some(Duration::ZERO)
    }
}

/// Why a node would not take a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// For what is in it: others would refuse it too.
    Snapshot(String),
    /// For trouble of its own, like a full disk: says nothing about the snapshot.
    Node(String),
}

/// Everything known, by node.
pub type Sights = BTreeMap<String, Sight>;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The snapshot that nodes have until their wave.
    pub from: u64,
    /// The new one.
    pub to: u64,
    /// Nodes that are new with it: they have nothing until their wave.
    pub newcomers: BTreeSet<String>,
    /// Who is given it together, in order; nobody twice.
    pub waves: Vec<Vec<String>>,
    /// How long each wave is watched once its nodes have it.
    pub watch: Duration,
}

/// Orders nodes into waves. Edges are picked across the fleet, others each time, so that no wave is a region and
/// no PoP always the first. Percents are cumulative; the last wave has the rest whatever they say.
pub fn waves(
    edges: &[String],
    dns: &[String],
    canaries: &[String],
    percents: &[u8],
    number: u64,
) -> Vec<Vec<String>> {
    let mut out: Vec<Vec<String>> = Vec::new();
    let is_canary = |node: &&String| canaries.contains(node);
    let first: Vec<String> = edges.iter().chain(dns).filter(is_canary).cloned().collect();
    let mut given = edges.iter().filter(is_canary).count();
    let mut rest: Vec<String> = edges.iter().filter(|node| !is_canary(node)).cloned().collect();
    rest.sort_by_key(|node| nearside_fleet::Sha256::of(format!("{number} {node}").as_bytes()).to_string());
    out.push(first);
    for percent in percents.iter().copied().chain([100]) {
        let wanted = (edges.len() * usize::from(percent.min(100))).div_ceil(100);
        let more = wanted.saturating_sub(given).min(rest.len());
        given += more;
        out.push(rest.drain(..more).collect());
    }
    let mut dns: Vec<String> = dns.iter().filter(|node| !is_canary(node)).cloned().collect();
    let others = dns.split_off(dns.len().min(1));
    out.extend([dns, others]);
    out.retain(|wave| !wave.is_empty());
    out
}

/// A node as it was before it was given the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    started: u64,
    unwell: bool,
    down: BTreeMap<String, u32>,
    traffic: Traffic,
    recent: Traffic,
}

/// A rollout under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// What is to be done.
    pub plan: Plan,
    /// The wave that was let go last, from 0.
    pub wave: usize,
    /// When, on the caller's clock.
    entered: Duration,
    before: BTreeMap<String, Before>,
    /// When each node was first seen with it.
    taken: BTreeMap<String, Duration>,
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Stay,
    /// The next wave was let go.
    Advanced,
    /// Everybody has it, or will when they return.
    Done,
    /// A gate failed, for this reason: all go back.
    Failed(String),
}

impl Rollout {
    /// Lets the first wave go. `now` is a clock that never goes back.
    ///
    /// # Panics
    /// Never; a plan without waves is done at the first look.
    pub fn new(plan: Plan, now: Duration, sights: &Sights) -> Self {
        let mut rollout =
            Self { plan, wave: 0, entered: now, before: BTreeMap::new(), taken: BTreeMap::new() };
        rollout.remember(sights);
        rollout
    }

    /// Goes on after a restart of home, on a new clock: the wave under way is watched from the beginning, compared with
    /// how its nodes were before they had the snapshot.
    pub fn resume(&mut self, now: Duration) {
        self.entered = now;
        self.taken.clear();
    }

    /// What a node should have; `None`: nothing yet.
    pub fn target(&self, node: &str) -> Option<u64> {
        match self.wave_of(node) {
            Some(wave) if wave <= self.wave => Some(self.plan.to),
            _ if self.plan.newcomers.contains(node) => None,
            _ => Some(self.plan.from),
        }
    }

    /// When a node was first seen with the snapshot, on the caller's clock.
    pub fn taken(&self, node: &str) -> Option<Duration> {
        self.taken.get(node).copied()
    }

    /// Looks at the fleet and decides.
    pub fn observe(&mut self, now: Duration, sights: &Sights) -> Step {
        self.remember(sights);
        for node in self.released() {
            if sights.get(&node).is_some_and(|sight| sight.answers() && sight.has == Some(self.plan.to)) {
                self.taken.entry(node).or_insert(now);
            }
        }
        let nothing = Sight::default();
        for node in self.released() {
            let sight = sights.get(&node).unwrap_or(&nothing);
            if let Some(reason) = self.gate(&node, sight, now, sights) {
                return Step::Failed(reason);
            }
        }
        let Some(wave) = self.plan.waves.get(self.wave) else { return Step::Done };
        let away: Vec<&str> =
            wave.iter().filter(|node| self.is_away(node, sights)).map(String::as_str).collect();
        if away.len() * 100 > wave.len() * AWAY_MAX_PERCENT {
            if now.saturating_sub(self.entered) > AWAY_WAIT {
                return Step::Failed(format!(
                    "more than {AWAY_MAX_PERCENT} % of wave {} are away: {}",
                    self.wave + 1,
                    away.join(", ")
                ));
            }
            return Step::Stay;
        }
        let watched = |node: &String| {
            let taken = self.taken.get(node);
            taken.is_some_and(|taken| now.saturating_sub(*taken) >= self.plan.watch)
        };
        if !wave.iter().all(|node| away.contains(&node.as_str()) || watched(node)) {
            return Step::Stay;
        }
        if self.wave + 1 >= self.plan.waves.len() {
            return Step::Done;
        }
        self.wave += 1;
        self.entered = now;
        self.remember(sights);
        Step::Advanced
    }

    fn wave_of(&self, node: &str) -> Option<usize> {
        self.plan.waves.iter().position(|wave| wave.iter().any(|name| name == node))
    }

    fn released(&self) -> Vec<String> {
        self.plan.waves.iter().take(self.wave + 1).flatten().cloned().collect()
    }

    /// Keeps how nodes are as long as they have not been given the snapshot: that is what they are compared with.
    fn remember(&mut self, sights: &Sights) {
        for (node, sight) in sights {
            let given = self.wave_of(node).is_some_and(|wave| wave <= self.wave);
            if !sight.answers()
                || sight.has == Some(self.plan.to)
                || (given && self.before.contains_key(node))
            {
                continue;
            }
            // The counters are those of the beginning: nodes that wait show how things are without the snapshot.
            let first = self.before.get(node).filter(|before| before.started == sight.started);
            let traffic =
                if given { sight.traffic } else { first.map_or(sight.traffic, |first| first.traffic) };
            let before = Before {
                started: sight.started,
                unwell: sight.unwell.is_some(),
                down: sight.down.clone(),
                traffic,
                recent: sight.recent,
            };
            self.before.insert(node.clone(), before);
        }
    }

    /// Why a node that was given the snapshot is worse off with it.
    fn gate(&self, node: &str, sight: &Sight, now: Duration, sights: &Sights) -> Option<String> {
        if let Some(Refusal::Snapshot(reason)) = &sight.refusal {
            return Some(format!("{node} refuses it: {reason}"));
        }
        if !self.taken.contains_key(node) {
            let late =
                sight.answers() && sight.refusal.is_none() && now.saturating_sub(self.entered) > TAKE_MAX;
            return late.then(|| format!("{node} has not taken it within {} s", TAKE_MAX.as_secs()));
        }
        if let Some(silent) = sight.silent.filter(|silent| *silent > SILENCE_MAX) {
            return Some(format!("{node} took it and has not answered for {} s", silent.as_secs()));
        }
        if !sight.answers() {
            return None;
        }
        let before = self.before.get(node);
        if let Some(before) = before.filter(|before| before.started != sight.started) {
            // Home's own restart or a look that came late can't tell; a process that began anew can.
            return (sight.started > before.started).then(|| format!("{node} began anew after it took it"));
        }
        if let Some(reason) = sight.unwell.as_ref().filter(|_| before.is_none_or(|before| !before.unwell)) {
            return Some(format!("{node} does not serve: {reason}"));
        }
        let before = before?;
        seen_down(node, sight, before).or_else(|| self.errs(node, sight, before, sights))
    }

    fn errs(&self, node: &str, sight: &Sight, before: &Before, sights: &Sights) -> Option<String> {
        let after = sight.traffic.since(before.traffic);
        let others = self.others(sights);
        let responses = |traffic: Traffic| (traffic.errors, traffic.requests);
        let fetches = |traffic: Traffic| (traffic.failures, traffic.fetches);
        if worse(responses(after), responses(before.recent), responses(others)) {
            let (errors, requests) = responses(after);
            return Some(format!(
                "{node} answers {errors} of {requests} requests with an error, {} before",
                percent(responses(before.recent))
            ));
        }
        if worse(fetches(after), fetches(before.recent), fetches(others)) {
            let (failures, asked) = fetches(after);
            return Some(format!(
                "{node} gets no answer from origins to {failures} of {asked} requests, {} before",
                percent(fetches(before.recent))
            ));
        }
        None
    }

    /// What nodes that wait have seen meanwhile: an origin that fails for them too is not the snapshot's fault.
    fn others(&self, sights: &Sights) -> Traffic {
        let waiting = self.plan.waves.iter().skip(self.wave + 1).flatten();
        waiting
            .filter_map(|node| Some((sights.get(node)?, self.before.get(node)?)))
            .filter(|(sight, before)| sight.started == before.started)
            .fold(Traffic::default(), |sum, (sight, before)| sum.plus(sight.traffic.since(before.traffic)))
    }

    /// Away is who does not answer and never had it, and who can't take anything for reasons of its own.
    fn is_away(&self, node: &str, sights: &Sights) -> bool {
        if self.taken.contains_key(node) {
            return false;
        }
        sights
            .get(node)
            .is_none_or(|sight| !sight.answers() || matches!(sight.refusal, Some(Refusal::Node(_))))
    }
}

/// At least half of the DNS nodes that saw a PoP see more of it down than before: one with a bad line is outvoted.
fn seen_down(node: &str, sight: &Sight, before: &Before) -> Option<String> {
    let both = sight.down.iter().filter_map(|(dns, down)| Some((dns, *down, *before.down.get(dns)?)));
    let worse: Vec<&str> =
        both.clone().filter(|(_, now, then)| now > then).map(|(dns, ..)| dns.as_str()).collect();
    let failed = !worse.is_empty() && worse.len() * 2 >= both.count();
    failed.then(|| {
        format!("{} {} {node} down", worse.join(", "), if worse.len() == 1 { "sees" } else { "see" })
    })
}

/// Whether a share of errors is above what it was before and what it is elsewhere.
fn worse(after: (u64, u64), before: (u64, u64), others: (u64, u64)) -> bool {
    let usual = share(before).max(share(others));
    after.0 >= ERRORS_MIN && share(after) > 2.0 * usual + ERRORS_MARGIN
}

fn share((part, whole): (u64, u64)) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(counts: (u64, u64)) -> String {
    format!("{:.1} %", share(counts) * 100.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn plan(list: &[&[&str]]) -> Plan {
        let waves = list.iter().map(|wave| names(wave)).collect();
        Plan { from: 6, to: 7, newcomers: BTreeSet::new(), waves, watch: 5 * SECOND }
    }

    fn well(has: u64) -> Sight {
        Sight { silent: Some(Duration::ZERO), has: Some(has), started: 1, ..Sight::default() }
    }

    /// A rollout over one canary and two others, whose canary has taken it.
    fn with_canary() -> (Rollout, Sights) {
        let mut sights: Sights = ["a", "b", "c"].map(|node| (node.to_owned(), well(6))).into();
        let mut rollout = Rollout::new(plan(&[&["a"], &["b", "c"]]), Duration::ZERO, &sights);
        sights.insert("a".into(), well(7));
        assert_eq!(rollout.observe(SECOND, &sights), Step::Stay);
        (rollout, sights)
    }

    #[test]
    fn canaries_go_first_then_shares_of_the_edges_then_dns_nodes() {
        let edges: Vec<String> = (0..8).map(|number| format!("e{number}")).collect();
        let dns = names(&["ns1", "ns2", "ns3"]);
        let sizes = |canaries: &[&str], percents: &[u8]| {
            let waves = waves(&edges, &dns, &names(canaries), percents, 3);
            let all: BTreeSet<&String> = waves.iter().flatten().collect();
            assert_eq!(all.len(), 11, "everybody once: {waves:?}");
            waves.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&["e3"], &[25, 50, 100]), [1, 1, 2, 4, 1, 2]);
        assert_eq!(sizes(&[], &[25, 50, 100]), [2, 2, 4, 1, 2]);
        assert_eq!(sizes(&["e3", "ns2"], &[]), [2, 7, 1, 1]);
        assert_eq!(sizes(&["e0"], &[1, 10]), [1, 7, 1, 2], "shares that add nobody are no waves");
        assert_eq!(waves(&edges, &dns, &names(&["e3"]), &[], 1)[0], ["e3"]);
        assert_ne!(
            waves(&edges, &[], &[], &[25], 1)[0],
            waves(&edges, &[], &[], &[25], 2)[0],
            "not always the same ones first"
        );
    }

    #[test]
    fn a_wave_follows_when_the_one_before_was_watched() {
        let (mut rollout, mut sights) = with_canary();
        assert_eq!(rollout.target("b"), Some(6));
        assert_eq!(rollout.observe(5 * SECOND, &sights), Step::Stay);
        assert_eq!(rollout.observe(6 * SECOND, &sights), Step::Advanced);
        assert_eq!(rollout.target("b"), Some(7));
        for node in ["b", "c"] {
            sights.insert(node.into(), well(7));
        }
        assert_eq!(rollout.observe(8 * SECOND, &sights), Step::Stay);
        assert_eq!(rollout.observe(13 * SECOND, &sights), Step::Done);
    }

    #[test]
    fn every_gate_fails_for_its_reason() {
        let failed = |change: &dyn Fn(&mut Sights), words: &str| {
            let (mut rollout, mut sights) = with_canary();
            for node in ["ns1", "ns2", "ns3"] {
                for sight in sights.values_mut() {
                    sight.down.insert(node.to_owned(), 0);
                }
            }
            rollout.before.get_mut("a").unwrap().down = sights["a"].down.clone();
            change(&mut sights);
            match rollout.observe(3 * SECOND, &sights) {
                Step::Failed(reason) => assert!(reason.contains(words), "{reason:?} has no {words:?}"),
                step => assert!(words.is_empty(), "{step:?}, expected {words:?}"),
            }
        };
        failed(&|_| (), "");
        failed(&|all| a(all).refusal = Some(Refusal::Snapshot("x:1:1".into())), "refuses it: x:1:1");
        failed(&|all| a(all).silent = Some(11 * SECOND), "not answered for 11 s");
        failed(&|all| a(all).silent = Some(9 * SECOND), "");
        failed(&|all| a(all).started = 2, "began anew");
        failed(&|all| a(all).unwell = Some("draining".into()), "does not serve: draining");
        failed(
            &|all| a(all).down = BTreeMap::from([("ns1".into(), 1), ("ns2".into(), 1), ("ns3".into(), 0)]),
            "ns1, ns2 see a down",
        );
        failed(
            &|all| a(all).down = BTreeMap::from([("ns1".into(), 1), ("ns2".into(), 0), ("ns3".into(), 0)]),
            "",
        );
        failed(&|all| a(all).down = BTreeMap::from([("ns1".into(), 1)]), "ns1 sees a down");
        let traffic = |requests, errors| Traffic { requests, errors, ..Traffic::default() };
        failed(&|all| a(all).traffic = traffic(100, 10), "10 of 100 requests with an error, 0.0 % before");
        failed(&|all| a(all).traffic = traffic(9, 9), "");
        failed(
            &|all| {
                a(all).traffic = traffic(100, 10);
                all.get_mut("b").unwrap().traffic = traffic(100, 9);
            },
            "",
        );
        failed(
            &|all| a(all).traffic = Traffic { fetches: 30, failures: 20, ..Traffic::default() },
            "from origins to 20 of 30",
        );
    }

    fn a(sights: &mut Sights) -> &mut Sight {
        sights.get_mut("a").unwrap()
    }

    #[test]
    fn what_was_bad_before_is_not_the_snapshots_fault() {
        let mut bad = well(6);
        bad.recent = Traffic { requests: 100, errors: 40, ..Traffic::default() };
        bad.unwell = Some("draining".into());
        bad.down.insert("ns1".into(), 2);
        let mut sights: Sights = [("a".to_owned(), bad.clone()), ("b".to_owned(), well(6))].into();
        let mut rollout = Rollout::new(plan(&[&["a"], &["b"]]), Duration::ZERO, &sights);
        bad.has = Some(7);
        bad.traffic = Traffic { requests: 100, errors: 50, ..Traffic::default() };
        sights.insert("a".into(), bad);
        assert_eq!(rollout.observe(SECOND, &sights), Step::Stay);
        assert_eq!(rollout.observe(6 * SECOND, &sights), Step::Advanced);
    }

    #[test]
    fn nodes_that_are_away_hold_up_nobody_unless_they_are_most() {
        let mut sights: Sights = ["a", "b", "c"].map(|node| (node.to_owned(), well(6))).into();
        sights.get_mut("c").unwrap().silent = Some(100 * SECOND);
        let mut rollout = Rollout::new(plan(&[&["a", "c"], &["b"]]), Duration::ZERO, &sights);
        sights.insert("a".into(), well(7));
        rollout.observe(SECOND, &sights);
        assert_eq!(rollout.observe(6 * SECOND, &sights), Step::Advanced, "half may be away");
        // The next wave is away whole, or can't take anything because its disk is full.
        sights.get_mut("b").unwrap().refusal = Some(Refusal::Node("disk full".into()));
        assert_eq!(rollout.observe(60 * SECOND, &sights), Step::Stay);
        let step = rollout.observe(67 * SECOND, &sights);
        assert!(matches!(&step, Step::Failed(reason) if reason.contains("are away: b")), "{step:?}");
    }

    #[test]
    fn a_restart_of_home_watches_the_wave_from_the_beginning() {
        let (rollout, sights) = with_canary();
        let text = serde_json::to_string(&rollout).unwrap();
        let mut again: Rollout = serde_json::from_str(&text).unwrap();
        assert_eq!(again, rollout);
        again.resume(Duration::ZERO);
        assert_eq!(again.observe(SECOND, &sights), Step::Stay);
        assert_eq!(again.observe(5 * SECOND, &sights), Step::Stay);
        let mut errs = sights.clone();
        a(&mut errs).traffic = Traffic { requests: 50, errors: 50, ..Traffic::default() };
        assert!(matches!(again.clone().observe(6 * SECOND, &errs), Step::Failed(_)), "compared with before");
        assert_eq!(again.observe(6 * SECOND, &sights), Step::Advanced);
    }

    #[test]
    fn a_newcomer_has_nothing_until_its_wave() {
        let mut plan = plan(&[&["a"], &["b"]]);
        plan.newcomers = ["b".to_owned()].into();
        let rollout = Rollout::new(plan, Duration::ZERO, &Sights::new());
        assert_eq!((rollout.target("a"), rollout.target("b"), rollout.target("z")), (Some(7), None, Some(6)));
    }

    /// What happens to a node in one simulated second.
    #[derive(Clone, Debug)]
    enum Event {
        Leaves,
        Returns,
        Refuses,
        FillsUp,
        Errs,
        Nothing,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            2 => Just(Event::Leaves),
            4 => Just(Event::Returns),
            1 => Just(Event::Refuses),
            1 => Just(Event::FillsUp),
            1 => Just(Event::Errs),
            40 => Just(Event::Nothing),
        ]
    }

    proptest! {
        /// Nodes come, go, refuse and fail at random: none ever has the snapshot before its wave, and after a failed gate all
        /// that are reachable end with what they had before, all others once they return.
        #[test]
        fn no_node_is_beyond_its_wave_and_a_failed_gate_ends_with_the_old_state(
            edges in 1_usize..12,
            events in proptest::collection::vec((0_usize..14, event()), 0..400),
            restarts in proptest::collection::btree_set(0_usize..400, 0..4),
        ) {
            let all: Vec<String> = (0..edges).map(|number| format!("e{number}")).collect();
            let dns = names(&["ns1", "ns2"]);
            let waves = waves(&all, &dns, &all[..1], &WAVES, 7);
            let mut sights: Sights = all.iter().chain(&dns).map(|node| (node.clone(), well(6))).collect();
            let plan = Plan { from: 6, to: 7, newcomers: BTreeSet::new(), waves: waves.clone(), watch: 3 * SECOND };
            let mut rollout = Rollout::new(plan, Duration::ZERO, &sights);
            let mut ended = None;
            for second in 1..1000_u32 {
                let now = SECOND * second;
                if let Some((at, event)) = events.get(second as usize) {
                    let node = sights.keys().nth(at % sights.len()).unwrap().clone();
                    let sight = sights.get_mut(&node).unwrap();
                    match event {
                        Event::Leaves => sight.silent = Some(SECOND),
                        Event::Returns => (sight.silent, sight.refusal) = (Some(Duration::ZERO), None),
                        Event::Refuses => sight.refusal = Some(Refusal::Snapshot("no".into())),
                        Event::FillsUp => sight.refusal = Some(Refusal::Node("full".into())),
                        Event::Errs => {
                            sight.traffic.requests += 50;
                            sight.traffic.errors += 50;
                        }
                        Event::Nothing => {}
                    }
                }
                // What home does: nodes that answer are brought to their target.
                for (node, sight) in &mut sights {
                    match sight.silent {
                        Some(Duration::ZERO) if sight.refusal.is_none() => sight.has = rollout.target(node),
                        Some(silent) if silent > Duration::ZERO => sight.silent = Some(silent + SECOND),
                        _ => {}
                    }
                }
                for (at, wave) in waves.iter().enumerate() {
                    for node in wave.iter().filter(|_| at > rollout.wave) {
                        prop_assert_eq!(sights[node].has, Some(6), "{} before its wave", node);
                    }
                }
                if restarts.contains(&(second as usize)) {
                    rollout.resume(now);
                }
                match rollout.observe(now, &sights) {
                    Step::Stay | Step::Advanced => {}
                    end => {
                        ended = Some(end);
                        break;
                    }
                }
            }
            let ended = ended.expect("it ends");
            if let Step::Failed(_) = ended {
                let given: BTreeSet<&String> = waves.iter().take(rollout.wave + 1).flatten().collect();
                for (node, sight) in &sights {
                    prop_assert!(sight.has == Some(6) || given.contains(node), "{} was not let go", node);
                }
            } else {
                let has = sights.values().filter(|sight| sight.has == Some(7)).count();
                prop_assert!(has * 2 >= sights.len(), "done with {has} of {}", sights.len());
            }
        }
    }
}
