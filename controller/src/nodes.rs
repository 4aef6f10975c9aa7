//! Brings every node to the newest snapshot, the last purge and the drains in force, and keeps it there.
//!
//! One task per node: look (its report), send what is missing, look again. Reconciliation, not fire and
//! forget: nothing is remembered as sent, only what the node itself says it has. A failed round backs off with jitter;
//! a change wakes all. An edge's purges go another way beside it ([`crate::purge::courier`]), so that a snapshot under way
//! holds up none; the courier is told when its edge was seen.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Method, StatusCode};
use nearside_fleet::{
    report::{Missing, Report},
    snapshot::Signed,
};
use nearside_node::{identity::facts, state::StateDir};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    bundle,
    client::{Answer, ClientError, Connection, Peer, json},
    home::seconds,
    identities::Identities,
    journal::{Drain, Journal, restored::Restored},
    purge::{Outbox, courier::Courier},
    rollout::{Refusal, Sight, Traffic},
};

/// A report, a drain: answered from memory.
const QUICK: Duration = Duration::from_secs(5);
/// A snapshot: the node compiles databases before it answers.
const STAGE: Duration = Duration::from_secs(120);
/// A file: 256 MiB over a slow home uplink.
const UPLOAD: Duration = Duration::from_secs(300);
/// How often a node that is as it should be is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// How often every node is looked at while a snapshot is rolled out.
pub const CLOSE_LOOK: Duration = Duration::from_secs(1);
/// How far back an edge's counters are remembered, to know how things were before a rollout.
const RECENT: Duration = Duration::from_secs(120);
/// Least time between two of them.
const RECENT_STEP: Duration = Duration::from_secs(5);
/// First pause after a failed round; doubles up to [`LOOK`].
const BACKOFF: Duration = Duration::from_millis(500);
/// Rounds of "these are missing" for one snapshot; the second should find none.
const SEND_ROUNDS_MAX: usize = 3;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A PoP's edge.
    Edge,
    /// A DNS node.
    Dns,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not looked at yet.
    Unknown,
    /// Does not answer.
    Unreachable,
    /// Answers, and has an older state.
    Behind,
    /// Is being sent the newest one.
    Staging,
    /// Has it.
    Current,
    /// Was sent it and would not take it.
    Refusing,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
            Self::Behind => "behind",
            Self::Staging => "staging",
            Self::Current => "current",
            Self::Refusing => "refusing",
        })
    }
}

/// Whose fault it is that a node would not take a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Something in it.
    Snapshot,
    /// The node's own: a full disk, a lost key.
    Node,
}

/// What home knows of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub phase: Phase,
    /// The snapshot it serves; of one that is away, the last it was seen with.
    pub snapshot: Option<u64>,
    /// The snapshot it should have now: an older one, while it waits for its wave.
    #[serde(default)]
    pub wanted: Option<u64>,
    /// Whose fault it is, where it refuses.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// How far its clock is ahead of home's.
    #[serde(default)]
    pub clock_ahead_seconds: Option<i64>,
    /// Why it is not as it should be.
    pub error: Option<String>,
    /// Purges it has, all up to this one.
    pub purges: u64,
    /// When it last answered, seconds since the epoch.
    pub seen: Option<u64>,
    /// What it said of itself then.
    pub report: Option<Report>,
}

impl Status {
    /// How many snapshots it is behind what it should have.
    pub fn lag(&self) -> Option<u64> {
        self.wanted.zip(self.snapshot).map(|(wanted, has)| wanted.saturating_sub(has))
    }
}

/// A snapshot to be brought to nodes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its number.
    pub number: u64,
    /// What is sent.
    pub signed: Signed,
}

/// What all nodes should be.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The newest snapshot.
    pub newest: Option<Arc<Target>>,
    /// Nodes that are not to have it yet, and what they should have instead; `None`: nothing.
    pub held: BTreeMap<String, Option<Arc<Target>>>,
    /// Grows with every drain, so that tasks wake.
    pub drains: u64,
    /// How often nodes are looked at; `None`: as usual.
    pub look: Option<Duration>,
}

impl Desired {
    /// What a node should have.
    pub fn of(&self, node: &str) -> Option<Arc<Target>> {
        self.held.get(node).unwrap_or(&self.newest).clone()
    }
}

/// What was seen of a node, for judging a rollout.
#[derive(Debug, Default)]
struct Seen {
    /// When it last answered, and whether it did so the last time.
    answered: Option<Instant>,
    answers: bool,
    /// What it would not take, and why.
    refused: Option<(u64, Refusal)>,
    /// When, since which start, with which counters.
    recent: VecDeque<(Instant, u64, Traffic)>,
}

/// One node and what is known of it.
#[derive(Debug)]
pub struct Node {
    peer: Peer,
    kind: Kind,
    identities: Arc<Identities>,
    journal: Arc<Journal>,
    state: StateDir,
    status: Mutex<Status>,
    seen: Mutex<Seen>,
    /// Of an edge.
    courier: Option<Arc<Courier>>,
}

impl Node {
    /// A node that was not looked at yet.
    pub fn new(
        peer: Peer,
        kind: Kind,
        identities: Arc<Identities>,
        journal: Arc<Journal>,
        outbox: &Arc<Outbox>,
        state: StateDir,
    ) -> Self {
        let status = Status {
            node: peer.name.clone(),
            kind,
            phase: Phase::Unknown,
            snapshot: journal.served().ok().and_then(|served| served.get(&peer.name).copied()),
            wanted: None,
            cause: None,
            clock_ahead_seconds: None,
            error: None,
            purges: 0,
            seen: None,
            report: None,
        };
        let acknowledged = journal.applied(&peer.name).unwrap_or(0);
        let courier =
            (kind == Kind::Edge).then(|| Courier::new(peer.clone(), Arc::clone(outbox), acknowledged));
        let (status, seen) = (Mutex::new(status), Mutex::default());
        Self { peer, kind, identities, journal, state, status, seen, courier }
    }

    /// What is known of it now.
    pub fn status(&self) -> Status {
        let mut status = self.status.lock().clone();
        if let Some(courier) = &self.courier {
            status.purges = courier.acknowledged();
        }
        status
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How it is asked.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What is known of it, for judging the rollout of a snapshot. What others see of it is added by who knows them.
    pub fn sight(&self, number: u64) -> Sight {
        let status = self.status.lock().clone();
        let seen = self.seen.lock();
        let traffic = status.report.as_ref().map(traffic).unwrap_or_default();
        let refused = seen.refused.as_ref().filter(|(refused, _)| *refused == number);
        let started = status.report.as_ref().map_or(0, |report| report.started);
        let earlier = seen.recent.iter().find(|(_, since, _)| *since == started);
        Sight {
            silent: seen.answered.map(|at| if seen.answers { Duration::ZERO } else { at.elapsed() }),
            has: status.snapshot,
            started,
            refusal: refused.map(|(_, refusal)| refusal.clone()),
            unwell: status.report.as_ref().and_then(|report| report.unwell.clone()),
            down: BTreeMap::new(),
            traffic,
            // Without an earlier look: since it started.
            recent: earlier.map_or(traffic, |(.., earlier)| traffic.since(*earlier)),
        }
    }

    /// For each PoP: how many of its checks this DNS node sees down. `None`: it does not answer, or is none.
    pub fn sees_down(&self) -> Option<BTreeMap<String, u32>> {
        if !self.seen.lock().answers {
            return None;
        }
        let status = self.status.lock();
        let health = status.report.as_ref()?.program_report.get("health")?.as_array()?;
        let mut down = BTreeMap::new();
        for target in health {
            let text = |key: &str| target.get(key).and_then(|value| value.as_str());
            let Some(pop) = text("pop") else { continue };
            *down.entry(pop.to_owned()).or_default() += u32::from(text("status") == Some("down"));
        }
        Some(down)
    }

    /// Reconciles and delivers for ever. Cancel-safe: a dropped round is begun anew by the next task.
    pub async fn run(self: Arc<Self>, desired: watch::Receiver<Desired>) {
        let delivering = async {
            match &self.courier {
                Some(courier) => courier.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.reconcile(desired) => {}
            () = delivering => {}
        }
    }

    async fn reconcile(&self, mut desired: watch::Receiver<Desired>) {
        let mut failures: u32 = 0;
        loop {
            let (target, look) = {
                let desired = desired.borrow_and_update();
                (desired.of(&self.peer.name), desired.look.unwrap_or(LOOK))
            };
            let pause = match self.round(target.as_deref()).await {
                Ok(()) => {
                    failures = 0;
                    look
                }
                Err(error) => {
                    let told = self.status.lock().error.replace(error.clone());
                    if told.as_ref() != Some(&error) {
                        tracing::warn!(node = self.peer.name, %error, "not as it should be");
                    }
                    failures = failures.saturating_add(1);
                    BACKOFF.saturating_mul(1 << failures.min(5)).min(LOOK)
                }
            };
            // Half to whole: a fleet that lost home at once does not come back at once.
            let pause = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = desired.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One look and everything that follows from it.
    async fn round(&self, target: Option<&Target>) -> Result<(), String> {
        let mut connection = match self.look(target).await {
            Ok(connection) => connection,
            Err(error) => {
                self.renew_ended().await;
                return Err(error);
            }
        };
        let has = self.status.lock().snapshot.unwrap_or(0);
        if target.is_some_and(|target| has > target.number)
            && let Ok(number) = self.journal.newest_number()
            && has > number
        {
            let marked = self.journal.mark_restored(Restored::FoundOut, seconds(SystemTime::now()));
            return Err(marked.map_or_else(
                |error| error.to_string(),
                |()| {
                    format!(
                        "has snapshot {has}, home knows of {number} only: home's state was put back. Restart \
                         nearside-controller: it goes on after what the fleet has seen"
                    )
                },
            ));
        }
        let untrusted = self.trust(&mut connection).await.err();
        if let Some(Target { number, signed }) = target
            && self.status.lock().snapshot != Some(*number)
        {
            self.send(&mut connection, *number, signed).await?;
        }
        match &self.courier {
            Some(courier) => courier.error().map_or(Ok(()), |error| Err(format!("purges: {error}"))),
            None => self.drains(&mut connection).await,
        }?;
        self.status.lock().error.clone_from(&untrusted);
        untrusted.map_or(Ok(()), Err)
    }

    /// Brings the node the list of revoked identities, and renews its own where that is due.
    async fn trust(&self, connection: &mut Connection) -> Result<(), String> {
        let words = |error: &dyn std::fmt::Display| format!("its identity: {error}");
        if let Some(leaf) = &connection.leaf {
            self.identities.seen(leaf).map_err(|error| words(&error))?;
        }
        let report = self.status.lock().report.clone();
        // A node of an older version does not say, and can't be renewed.
        let Some(identity) = report.and_then(|report| report.identity) else { return Ok(()) };
        let now = SystemTime::now();
        if identity.revocations != self.identities.revocations() {
            let exchanged = self.identities.exchange_revoked(connection, identity.revocations, now).await;
            exchanged.map_err(|error| words(&error))?;
        }
        if Identities::is_due(&identity, now) {
            let renewed = self.identities.renew(&self.peer.name, connection, now).await;
            renewed.map_err(|error| words(&error))?;
        }
        Ok(())
    }

    /// Renews a node whose certificate ended while it was out of reach; any other that does not answer stays as it is.
    async fn renew_ended(&self) {
        let peer = Peer { tls: self.identities.forgiving(), ..self.peer.clone() };
        let Ok(mut connection) = peer.connect().await else { return };
        let ended = connection.leaf.as_ref().and_then(|leaf| facts(leaf)).is_some_and(|facts| {
            u64::try_from(facts.not_after).is_ok_and(|ended| ended < seconds(SystemTime::now()))
        });
        if ended {
            let renewed = self.identities.renew(&self.peer.name, &mut connection, SystemTime::now()).await;
            if let Err(error) = renewed {
                tracing::warn!(node = self.peer.name, %error, "its identity has ended and was not renewed");
            }
        }
    }

    async fn look(&self, target: Option<&Target>) -> Result<Connection, String> {
        let wanted = target.map(|target| target.number);
        let looked = async {
            let mut connection = self.peer.connect().await?;
            let answer = connection.ask(Method::GET, "/v1/status", bytes::Bytes::new(), QUICK).await?;
            let report: Report = answer.good()?.json()?;
            Ok::<_, ClientError>((connection, report))
        };
        let (connection, report) = looked.await.map_err(|error| {
            self.seen.lock().answers = false;
            let mut status = self.status.lock();
            (status.phase, status.wanted) = (Phase::Unreachable, wanted);
            error.to_string()
        })?;
        self.remember(&report);
        let now = seconds(SystemTime::now());
        let mut status = self.status.lock();
        status.seen = Some(now);
        status.clock_ahead_seconds = Some(report.now.cast_signed() - now.cast_signed());
        if status.snapshot != report.serving.snapshot
            && let Some(number) = report.serving.snapshot
            && let Err(error) = self.journal.keep_served(&self.peer.name, number)
        {
            tracing::warn!(%error, "which snapshot a node has is not remembered");
        }
        (status.snapshot, status.wanted) = (report.serving.snapshot, wanted);
        status.phase = match wanted {
            Some(_) if status.snapshot != wanted => Phase::Behind,
            _ => Phase::Current,
        };
        if status.phase == Phase::Current {
            status.cause = None;
        }
        status.report = Some(report);
        drop(status);
        if let Some(courier) = &self.courier {
            courier.seen();
        }
        Ok(connection)
    }

    /// Keeps when it answered and what its counters were.
    fn remember(&self, report: &Report) {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        (seen.answered, seen.answers) = (Some(now), true);
        let last = seen.recent.back().map(|(at, ..)| *at);
        if last.is_none_or(|last| now.duration_since(last) >= RECENT_STEP) {
            seen.recent.push_back((now, report.started, traffic(report)));
        }
        while seen.recent.front().is_some_and(|(at, ..)| now.duration_since(*at) > RECENT) {
            seen.recent.pop_front();
        }
    }

    async fn send(&self, connection: &mut Connection, number: u64, signed: &Signed) -> Result<(), String> {
        self.status.lock().phase = Phase::Staging;
        let sent = self.send_rounds(connection, signed).await;
        let mut status = self.status.lock();
        match sent {
            Ok(()) => {
                (status.phase, status.snapshot, status.cause) = (Phase::Current, Some(number), None);
                self.seen.lock().refused = None;
                tracing::info!(node = self.peer.name, number, "took the snapshot");
                if let Err(error) = self.journal.keep_served(&self.peer.name, number) {
                    tracing::warn!(%error, "which snapshot a node has is not remembered");
                }
                Ok(())
            }
            Err(NotSent { phase, cause, reason }) => {
                (status.phase, status.cause) = (phase, cause);
                self.seen.lock().refused = cause.map(|cause| match cause {
                    Cause::Snapshot => (number, Refusal::Snapshot(reason.clone())),
                    Cause::Node => (number, Refusal::Node(reason.clone())),
                });
                Err(reason)
            }
        }
    }

    async fn send_rounds(&self, connection: &mut Connection, signed: &Signed) -> Result<(), NotSent> {
        let gone = |error: ClientError| NotSent::new(Phase::Unreachable, error.to_string());
        let body = json(signed);
        for _ in 0..SEND_ROUNDS_MAX {
            let answer =
                connection.ask(Method::POST, "/v1/snapshots", body.clone(), STAGE).await.map_err(gone)?;
            match answer.status {
                status if status.is_success() => return Ok(()),
                StatusCode::CONFLICT => {
                    let missing: Missing =
                        answer.json().map_err(|_| NotSent::refused(Cause::Node, &answer))?;
                    for hash in &missing.missing {
                        let content = bundle::content(&self.state, hash)
                            .map_err(|error| NotSent::new(Phase::Behind, error))?;
                        let path = format!("/v1/files/{hash}");
                        let put =
                            connection.ask(Method::PUT, &path, content.into(), UPLOAD).await.map_err(gone)?;
                        if !put.status.is_success() {
                            return Err(NotSent::refused(Cause::Node, &put));
                        }
                    }
                }
                StatusCode::UNPROCESSABLE_ENTITY => {
                    let told: Option<serde_json::Value> = answer.json().ok();
                    let cause = told.and_then(|told| Cause::deserialize(told.get("cause")?).ok());
                    return Err(NotSent::refused(cause.unwrap_or(Cause::Snapshot), &answer));
                }
                // Too large or unreadable lies in the snapshot; who may not, or has no room, in the node.
                StatusCode::PAYLOAD_TOO_LARGE | StatusCode::BAD_REQUEST => {
                    return Err(NotSent::refused(Cause::Snapshot, &answer));
                }
                _ => return Err(NotSent::refused(Cause::Node, &answer)),
            }
        }
        Err(NotSent::new(Phase::Behind, "files are still missing after they were sent".to_owned()))
    }

    /// Makes a DNS node's drains those in the journal.
    async fn drains(&self, connection: &mut Connection) -> Result<(), String> {
        let words = |error: ClientError| error.to_string();
        let now = seconds(SystemTime::now());
        let wanted = self.journal.drains(now).map_err(|error| error.to_string())?;
        let answer =
            connection.ask(Method::GET, "/v1/drains", bytes::Bytes::new(), QUICK).await.map_err(words)?;
        let present: std::collections::BTreeMap<String, serde_json::Value> =
            answer.good().and_then(|answer| answer.json()).map_err(words)?;
        for Drain { pop, until, reason } in &wanted {
            // Sent in every round while it is in force: its end may have been changed.
            let seconds = until.map(|until| until.saturating_sub(now).max(1));
            let body = serde_json::json!({ "pop": pop, "seconds": seconds, "reason": reason });
            let answer =
                connection.ask(Method::POST, "/v1/drains", json(&body), QUICK).await.map_err(words)?;
            // A PoP that this node does not know yet comes with the next snapshot, and its drain after it.
            if answer.status != StatusCode::NOT_FOUND {
                answer.good().map_err(words)?;
            }
        }
        for pop in present.keys().filter(|pop| wanted.iter().all(|drain| drain.pop != **pop)) {
            let path = format!("/v1/drains/{pop}");
            let answer =
                connection.ask(Method::DELETE, &path, bytes::Bytes::new(), QUICK).await.map_err(words)?;
            if answer.status != StatusCode::NOT_FOUND {
                answer.good().map_err(words)?;
            }
        }
        Ok(())
    }
}

/// Why a node does not have what it was sent.
struct NotSent {
    phase: Phase,
    cause: Option<Cause>,
    reason: String,
}

impl NotSent {
    fn new(phase: Phase, reason: String) -> Self {
        Self { phase, cause: None, reason }
    }

    fn refused(cause: Cause, answer: &Answer) -> Self {
        let reason = format!("refused: {}", answer.message());
        Self { phase: Phase::Refusing, cause: Some(cause), reason }
    }
}

/// An edge's counters; zeros of a DNS node.
fn traffic(report: &Report) -> Traffic {
    let traffic = report.program_report.get("traffic");
    traffic.and_then(|traffic| Traffic::deserialize(traffic).ok()).unwrap_or_default()
}
