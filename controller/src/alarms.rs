//! Finds what is wrong in what the nodes say of themselves and of each other.
//!
//! Pure: a [`FleetStatus`] and a time come in, findings go out; what needs two looks (a counter that grows, a lag that
//! lasts) is remembered between them and nowhere else. It says three things of a subject: it is bad, it is good, or nothing,
//! where nobody knows; a condition of before a restart ends only when it was seen to be over.

use std::collections::{BTreeMap, BTreeSet};

use nearside_fleet::report::Report;
use serde_json::Value;

use crate::{
    events::{Event, Kind, Open},
    nodes::{self, Phase, Status},
    serve::FleetStatus,
};

/// A node that home does not reach, or an edge that lacks purges, for so long. Four rounds of looking: restarts and
/// lost packets are none of an operator's business.
const PATIENCE_SECONDS: u64 = 60;
/// A disk is in trouble until it was used for so long without an error.
const DISK_SECONDS: u64 = 600;
/// Clocks may differ by this much: certificates and tickets have as much slack and more.
const CLOCK_SECONDS: u64 = 300;
/// A DNS node's word counts while home has heard it this lately.
const FRESH_SECONDS: u64 = 60;

/// The kinds that are decided here; no other is cleared here.
const OWN: &[Kind] = &[
    Kind::PopDown,
    Kind::NodeUnreachable,
    Kind::NodeRefusing,
    Kind::ClockWrong,
    Kind::DiskTrouble,
    Kind::PurgeLag,
];

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct Alarms {
    unreachable: BTreeMap<String, u64>,
    lagging: BTreeMap<String, u64>,
    disks: BTreeMap<String, Disk>,
}

#[derive(Debug, Default)]
struct Disk {
    started: u64,
    errors: u64,
    grew: Option<u64>,
}

/// What one look found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is wrong now.
    pub raise: Vec<Event>,
    good: BTreeSet<(Kind, String)>,
    subjects: BTreeSet<String>,
}

impl Findings {
    /// Which of the conditions that hold are over: seen to be good, or of a node that is no longer in the fleet.
    pub fn over(&self, open: &[Open]) -> Vec<(Kind, String)> {
        let gone = |open: &Open| !self.subjects.is_empty() && !self.subjects.contains(&open.subject);
        let known = |open: &Open| (open.kind, open.subject.clone());
        let own = open.iter().filter(|open| OWN.contains(&open.kind));
        own.filter(|open| gone(open) || self.good.contains(&known(open))).map(known).collect()
    }

    fn say(&mut self, kind: Kind, subject: &str, bad: Option<String>) {
        match bad {
            Some(message) => self.raise.push(Event::new(kind, subject, message)),
            None => drop(self.good.insert((kind, subject.to_owned()))),
        }
    }
}

impl Alarms {
    /// Judges the fleet as it is at `now`, seconds since the epoch.
    pub fn look(&mut self, fleet: &FleetStatus, now: u64) -> Findings {
        let subjects = fleet.nodes.iter().map(|node| node.node.clone()).collect();
        let mut found = Findings { subjects, ..Findings::default() };
        for node in &fleet.nodes {
            self.reach(node, now, &mut found);
            self.purges(node, fleet.purges, now, &mut found);
            if let Some(report) = node.report.as_ref().filter(|_| is_heard(node, now)) {
                clock(node, report, &mut found);
                self.disk(node, report, now, &mut found);
            }
        }
        pops(fleet, now, &mut found);
        let known = |name: &String| found.subjects.contains(name);
        self.unreachable.retain(|name, _| known(name));
        self.lagging.retain(|name, _| known(name));
        self.disks.retain(|name, _| known(name));
        found
    }

    fn reach(&mut self, node: &Status, now: u64, found: &mut Findings) {
        let name = node.node.as_str();
        if node.phase == Phase::Unknown {
            return;
        }
        if node.phase == Phase::Unreachable {
            let since = *self.unreachable.entry(name.to_owned()).or_insert(now);
            if now.saturating_sub(since) >= PATIENCE_SECONDS {
                let why = node.error.as_deref().unwrap_or("no answer");
                found.say(Kind::NodeUnreachable, name, Some(format!("home can't reach it: {why}")));
            }
            return;
        }
        self.unreachable.remove(name);
        found.say(Kind::NodeUnreachable, name, None);
        match node.phase {
            Phase::Refusing => {
                let why = node.error.as_deref().unwrap_or("without a reason");
                found.say(Kind::NodeRefusing, name, Some(why.to_owned()));
            }
            Phase::Current => found.say(Kind::NodeRefusing, name, None),
            // On its way: what was, stands until it has arrived.
            _ => {}
        }
    }

    fn purges(&mut self, node: &Status, newest: u64, now: u64, found: &mut Findings) {
        if node.kind != nodes::Kind::Edge {
            return;
        }
        let lag = newest.saturating_sub(node.purges);
        if lag == 0 {
            self.lagging.remove(&node.node);
            return found.say(Kind::PurgeLag, &node.node, None);
        }
        let since = *self.lagging.entry(node.node.clone()).or_insert(now);
        if now.saturating_sub(since) >= PATIENCE_SECONDS {
            let message = format!("has not acknowledged the purges after number {}", node.purges);
            found.say(Kind::PurgeLag, &node.node, Some(message));
        }
    }

    fn disk(&mut self, node: &Status, report: &Report, now: u64, found: &mut Findings) {
        let told = report.warnings.iter().find(|warning| warning.contains("state directory"));
        if let Some(warning) = told {
            return found.say(Kind::DiskTrouble, &node.node, Some(warning.clone()));
        }
        let errors = report.program_report.pointer("/cache/disk_errors").and_then(Value::as_u64).unwrap_or(0);
        let disk = self.disks.entry(node.node.clone()).or_insert_with(|| Disk {
            started: report.started,
            errors,
            grew: None,
        });
        if report.started != disk.started {
            // It counts from 0 again.
            (disk.started, disk.errors) = (report.started, 0);
        }
        if errors > disk.errors {
            (disk.errors, disk.grew) = (errors, Some(now));
        }
        let lately = disk.grew.filter(|grew| now.saturating_sub(*grew) < DISK_SECONDS);
        let message = lately.map(|_| {
            "operations on its cache directory fail; clients are served past it. See its log for the reason".to_owned()
        });
        found.say(Kind::DiskTrouble, &node.node, message);
    }
}

/// Whether what home knows of a node is of now.
fn is_heard(node: &Status, now: u64) -> bool {
    let fresh = node.seen.is_some_and(|seen| now.saturating_sub(seen) < FRESH_SECONDS);
    fresh && !matches!(node.phase, Phase::Unknown | Phase::Unreachable)
}

fn clock(node: &Status, report: &Report, found: &mut Findings) {
    let Some(seen) = node.seen else { return };
    let off = report.now.abs_diff(seen);
    let way = if report.now > seen { "ahead of" } else { "behind" };
    let message = (off > CLOCK_SECONDS).then(|| format!("its clock is {off} s {way} home's"));
    found.say(Kind::ClockWrong, &node.node, message);
}

/// How the DNS nodes see a PoP: who can tell, and who sees what down.
#[derive(Default)]
struct View<'n> {
    seers: BTreeSet<&'n str>,
    downs: BTreeMap<&'n str, Vec<String>>,
}

/// PoPs as the DNS nodes see them: bad where half of those that can tell see an address down.
fn pops(fleet: &FleetStatus, now: u64, found: &mut Findings) {
    let mut views: BTreeMap<String, View<'_>> = BTreeMap::new();
    for node in fleet.nodes.iter().filter(|node| node.kind == nodes::Kind::Dns && is_heard(node, now)) {
        for target in targets(node) {
            let text = |key: &str| target.get(key).and_then(Value::as_str);
            let (Some(pop), Some(status)) = (text("pop"), text("status")) else { continue };
            let View { seers, downs } = views.entry(pop.to_owned()).or_default();
            seers.insert(node.node.as_str());
            if status == "down" {
                let [address, check, reason] =
                    ["address", "check", "reason"].map(|key| text(key).unwrap_or("?"));
                let words = format!("{address} (check {check}: {reason})");
                downs.entry(node.node.as_str()).or_default().push(words);
            }
        }
    }
    found.subjects.extend(views.keys().cloned());
    for (pop, View { seers, downs }) in views {
        let is_down = !downs.is_empty() && downs.len() * 2 >= seers.len();
        let message = is_down.then(|| {
            let what: BTreeSet<&String> = downs.values().flatten().collect();
            let what: Vec<&str> = what.into_iter().map(String::as_str).collect();
            let who: Vec<&str> = downs.keys().copied().collect();
            format!(
                "down as seen by {} of {} DNS nodes ({}): {}",
                downs.len(),
                seers.len(),
                who.join(", "),
                what.join("; ")
            )
        });
        found.say(Kind::PopDown, &pop, message);
    }
}

/// The addresses a DNS node probes, as it reports them.
pub fn targets(node: &Status) -> impl Iterator<Item = &Value> {
    let report = node.report.as_ref();
    let health = report.and_then(|report| report.program_report.get("health")?.as_array());
    health.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use nearside_fleet::report::{Serving, Source};
    use serde_json::json;

    use super::*;

    fn node(name: &str, kind: nodes::Kind, program_report: Value) -> Status {
        let serving = Serving { source: Source::Snapshot, snapshot: Some(1), since: 0 };
        let report = Report {
            identity: None,
            node: name.to_owned(),
            program: String::new(),
            version: String::new(),
            started: 1,
            now: 1_000,
            enrolled: true,
            serving,
            refused: None,
            unwell: None,
            warnings: Vec::new(),
            program_report,
        };
        Status {
            node: name.to_owned(),
            kind,
            phase: Phase::Current,
            snapshot: Some(1),
            wanted: Some(1),
            cause: None,
            clock_ahead_seconds: Some(0),
            error: None,
            purges: 5,
            seen: Some(1_000),
            report: Some(report),
        }
    }

    fn edge(name: &str) -> Status {
        node(name, nodes::Kind::Edge, json!({}))
    }

    fn dns(name: &str, fra: &str) -> Status {
        let target = json!({"pop": "fra", "check": "page", "address": "192.0.2.1", "status": fra, "reason": "refused"});
        node(name, nodes::Kind::Dns, json!({ "health": [target] }))
    }

    fn fleet(nodes: Vec<Status>) -> FleetStatus {
        FleetStatus { fleet: "x".into(), snapshot: Some(1), purges: 5, nodes, ..FleetStatus::default() }
    }

    fn kinds(found: &Findings) -> Vec<(Kind, &str)> {
        found.raise.iter().map(|event| (event.kind, event.subject.as_str())).collect()
    }

    fn open(kind: Kind, subject: &str) -> Open {
        let (subject, message) = (subject.to_owned(), String::new());
        Open { kind, subject, severity: kind.severity(), since: 0, told: 0, level: 0, muted: false, message }
    }

    #[test]
    fn a_pop_is_down_when_half_of_those_who_look_say_so() {
        let mut alarms = Alarms::default();
        let up = fleet(vec![edge("fra"), dns("ns1", "up"), dns("ns2", "up"), dns("ns3", "down")]);
        assert_eq!(kinds(&alarms.look(&up, 1_000)), [], "one of three");
        let down = fleet(vec![edge("fra"), dns("ns1", "down"), dns("ns2", "up")]);
        let found = alarms.look(&down, 1_000);
        assert_eq!(kinds(&found), [(Kind::PopDown, "fra")]);
        assert!(found.raise[0].message.contains("192.0.2.1 (check page: refused)"), "{found:?}");
        assert_eq!(found.over(&[open(Kind::PopDown, "fra")]), []);
        assert_eq!(alarms.look(&up, 1_000).over(&[open(Kind::PopDown, "fra")]).len(), 1);
    }

    #[test]
    fn nobody_s_word_ends_nothing() {
        let mut stale = dns("ns1", "up");
        stale.seen = Some(1_000 - FRESH_SECONDS);
        let found = Alarms::default().look(&fleet(vec![edge("fra"), stale]), 1_000);
        assert_eq!(found.over(&[open(Kind::PopDown, "fra")]), []);
        assert_eq!(found.over(&[open(Kind::CertificateFailed, "gone")]), [], "not ours");
        assert_eq!(found.over(&[open(Kind::PopDown, "gone")]).len(), 1, "left the fleet");
        assert_eq!(Findings::default().over(&[open(Kind::PopDown, "fra")]), [], "nothing is known yet");
    }

    #[test]
    fn a_node_may_be_away_for_a_minute() {
        let mut alarms = Alarms::default();
        let mut away = edge("fra");
        (away.phase, away.error) = (Phase::Unreachable, Some("connection refused".into()));
        let away = fleet(vec![away]);
        assert_eq!(kinds(&alarms.look(&away, 1_000)), []);
        assert_eq!(kinds(&alarms.look(&away, 1_000 + PATIENCE_SECONDS)), [(Kind::NodeUnreachable, "fra")]);
        let back = alarms.look(&fleet(vec![edge("fra")]), 1_100);
        assert_eq!(back.over(&[open(Kind::NodeUnreachable, "fra")]).len(), 1);
        assert_eq!(kinds(&alarms.look(&away, 1_101)), [], "it counts anew");
    }

    #[test]
    fn purges_may_lag_for_a_minute() {
        let mut alarms = Alarms::default();
        let mut behind = fleet(vec![edge("fra")]);
        behind.purges = 7;
        assert_eq!(kinds(&alarms.look(&behind, 1_000)), []);
        assert_eq!(kinds(&alarms.look(&behind, 1_061)), [(Kind::PurgeLag, "fra")]);
    }

    #[test]
    fn a_disk_is_in_trouble_while_its_errors_grow() {
        let mut alarms = Alarms::default();
        let with = |errors: u64| {
            let mut node = node("fra", nodes::Kind::Edge, json!({"cache": {"disk_errors": errors}}));
            node.seen = Some(u64::MAX);
            if let Some(report) = &mut node.report {
                report.now = u64::MAX;
            }
            fleet(vec![node])
        };
        assert_eq!(kinds(&alarms.look(&with(3), 1_000)), [], "of before home looked");
        assert_eq!(kinds(&alarms.look(&with(4), 1_010)), [(Kind::DiskTrouble, "fra")]);
        assert_eq!(kinds(&alarms.look(&with(4), 1_020)), [(Kind::DiskTrouble, "fra")]);
        assert_eq!(kinds(&alarms.look(&with(4), 1_010 + DISK_SECONDS)), []);
    }

    #[test]
    fn a_wrong_clock_and_a_refusal_are_told() {
        let mut off = edge("fra");
        off.report.as_mut().unwrap().now = 1_000 + CLOCK_SECONDS + 1;
        let mut refusing = edge("nyc");
        (refusing.phase, refusing.error) = (Phase::Refusing, Some("nearside.toml:1:1: no".into()));
        let found = Alarms::default().look(&fleet(vec![off, refusing]), 1_000);
        assert_eq!(kinds(&found), [(Kind::ClockWrong, "fra"), (Kind::NodeRefusing, "nyc")]);
    }
}
