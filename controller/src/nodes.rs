//! Brings every node to the newest snapshot, the last purge and the drains in force, and keeps it there.
//!
//! One task per node: look (its report), send what is missing, look again. Reconciliation, not fire and
//! forget: nothing is remembered as sent, only what the node itself says it has. A failed round backs off with jitter;
//! a change wakes all. Purges go out at once from [`Node::deliver`], which the tasks use for replay too.
//!
//! Invariant: one delivery of purges per node at a time, so acknowledgements are kept in order.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Method, StatusCode};
use nearside_fleet::{
    purge::{self, Acknowledged, PURGES_MAX, Purges},
    report::{Missing, Report},
    snapshot::Signed,
};
use nearside_node::state::StateDir;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    bundle,
    client::{ClientError, Connection, Peer, json},
    home::seconds,
    journal::{Drain, Journal, JournalError},
};

/// A report, a drain: answered from memory.
const QUICK: Duration = Duration::from_secs(5);
/// A purge: answered once it is on the edge's disk.
const PURGE: Duration = Duration::from_secs(10);
/// A snapshot: the node compiles databases before it answers.
const STAGE: Duration = Duration::from_secs(120);
/// A file: 256 MiB over a slow home uplink.
const UPLOAD: Duration = Duration::from_secs(300);
/// How often a node that is as it should be is looked at.
const LOOK: Duration = Duration::from_secs(15);
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

/// What home knows of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub phase: Phase,
    /// The snapshot it serves.
    pub snapshot: Option<u64>,
    /// Why it is not as it should be.
    pub error: Option<String>,
    /// Purges it has, all up to this one.
    pub purges: u64,
    /// When it last answered, seconds since the epoch.
    pub seen: Option<u64>,
    /// What it said of itself then.
    pub report: Option<Report>,
}

/// What all nodes should be.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The newest snapshot.
    pub snapshot: Option<(u64, Signed)>,
    /// Grows with every drain, so that tasks wake.
    pub drains: u64,
}

/// One node and what is known of it.
#[derive(Debug)]
pub struct Node {
    peer: Peer,
    kind: Kind,
    journal: Arc<Journal>,
    state: StateDir,
    status: Mutex<Status>,
    delivering: tokio::sync::Mutex<()>,
}

impl Node {
    /// A node that was not looked at yet.
    pub fn new(peer: Peer, kind: Kind, journal: Arc<Journal>, state: StateDir) -> Self {
        let status = Status {
            node: peer.name.clone(),
            kind,
            phase: Phase::Unknown,
            snapshot: None,
            error: None,
            purges: journal.applied(&peer.name).unwrap_or(0),
            seen: None,
            report: None,
        };
        Self {
            peer,
            kind,
            journal,
            state,
            status: Mutex::new(status),
            delivering: tokio::sync::Mutex::default(),
        }
    }

    /// What is known of it now.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How it is asked.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Reconciles for ever. Cancel-safe: a dropped round is begun anew by the next task.
    pub async fn run(self: Arc<Self>, mut desired: watch::Receiver<Desired>) {
        let mut failures: u32 = 0;
        loop {
            let target = desired.borrow_and_update().clone();
            let pause = match self.round(&target).await {
                Ok(()) => {
                    failures = 0;
                    LOOK
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
    async fn round(&self, target: &Desired) -> Result<(), String> {
        let mut connection = self.look(target).await?;
        if let Some((number, signed)) = &target.snapshot
            && self.status.lock().snapshot != Some(*number)
        {
            self.send(&mut connection, *number, signed).await?;
        }
        match self.kind {
            Kind::Edge => self.deliver().await.map(drop),
            Kind::Dns => self.drains(&mut connection).await,
        }?;
        self.status.lock().error = None;
        Ok(())
    }

    async fn look(&self, target: &Desired) -> Result<Connection, String> {
        let looked = async {
            let mut connection = self.peer.connect().await?;
            let answer = connection.ask(Method::GET, "/v1/status", bytes::Bytes::new(), QUICK).await?;
            let report: Report = answer.good()?.json()?;
            Ok::<_, ClientError>((connection, report))
        };
        let (connection, report) = looked.await.map_err(|error| {
            self.status.lock().phase = Phase::Unreachable;
            error.to_string()
        })?;
        let mut status = self.status.lock();
        status.seen = Some(seconds(SystemTime::now()));
        status.snapshot = report.serving.snapshot;
        status.phase = match &target.snapshot {
            Some((number, _)) if status.snapshot != Some(*number) => Phase::Behind,
            _ => Phase::Current,
        };
        status.report = Some(report);
        drop(status);
        Ok(connection)
    }

    async fn send(&self, connection: &mut Connection, number: u64, signed: &Signed) -> Result<(), String> {
        self.status.lock().phase = Phase::Staging;
        let sent = self.send_rounds(connection, signed).await;
        let mut status = self.status.lock();
        match sent {
            Ok(()) => {
                (status.phase, status.snapshot) = (Phase::Current, Some(number));
                tracing::info!(node = self.peer.name, number, "took the snapshot");
                Ok(())
            }
            Err((phase, reason)) => {
                status.phase = phase;
                Err(reason)
            }
        }
    }

    async fn send_rounds(&self, connection: &mut Connection, signed: &Signed) -> Result<(), (Phase, String)> {
        let gone = |error: ClientError| (Phase::Unreachable, error.to_string());
        let body = json(signed);
        for _ in 0..SEND_ROUNDS_MAX {
            let answer =
                connection.ask(Method::POST, "/v1/snapshots", body.clone(), STAGE).await.map_err(gone)?;
            match answer.status {
                status if status.is_success() => return Ok(()),
                StatusCode::CONFLICT => {
                    let missing: Missing = answer.json().map_err(|_| (Phase::Refusing, answer.message()))?;
                    for hash in &missing.missing {
                        let content =
                            bundle::content(&self.state, hash).map_err(|error| (Phase::Behind, error))?;
                        let path = format!("/v1/files/{hash}");
                        let put =
                            connection.ask(Method::PUT, &path, content.into(), UPLOAD).await.map_err(gone)?;
                        put.good().map_err(|error| (Phase::Behind, error.to_string()))?;
                    }
                }
                _ => return Err((Phase::Refusing, format!("refused: {}", answer.message()))),
            }
        }
        Err((Phase::Behind, "files are still missing after they were sent".to_owned()))
    }

    /// Sends an edge every purge it has not acknowledged. Returns how long it took.
    ///
    /// # Errors
    /// Why some are not in force there yet; the node's task tries again.
    pub async fn deliver(&self) -> Result<Duration, String> {
        let started = Instant::now();
        let _one = self.delivering.lock().await;
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let mut connection: Option<Connection> = None;
        let mut reached: Option<u64> = None;
        loop {
            let (known, after) = self.place(reached).map_err(|error| words(&error))?;
            let purges = self.journal.purges_after(after, PURGES_MAX).map_err(|error| words(&error))?;
            let Some(last) = purges.last().and_then(|purge| purge.sequence) else { break };
            let mut open = match connection.take() {
                Some(open) => open,
                None => self.peer.connect().await.map_err(|error| words(&error))?,
            };
            let message = json(&Purges { purges, journal: Some(known) });
            let answer = open.ask(Method::POST, "/v1/purges", message, PURGE).await;
            let through = answer
                .and_then(|answer| answer.good()?.json::<Acknowledged>())
                .map_err(|error| words(&error))?
                .through;
            connection = Some(open);
            if through < last && reached.is_some_and(|reached| through <= reached) {
                return Err(format!("has purges up to {through} only, was sent up to {last}"));
            }
            reached = Some(through);
            // Past the last one home knows of, its own count is from a journal we lost: it must not skip ours.
            let kept = if through > known.newest { last } else { through };
            self.journal.keep_applied(&self.peer.name, kept).map_err(|error| words(&error))?;
            self.status.lock().purges = kept;
            if through > self.journal.last_purge().map_err(|error| words(&error))? {
                return Err(format!(
                    "has purges up to {through}, home knows of {last} only: was home's journal lost? Purges below that \
                     number have no effect there; `nearside purge --all` after the numbers are past it",
                ));
            }
        }
        Ok(started.elapsed())
    }

    /// What an edge is told of the journal, and from where purges are sent: from where it said it stands, which may be
    /// before what it once acknowledged (it was installed anew), or from what it acknowledged.
    fn place(&self, reached: Option<u64>) -> Result<(purge::Journal, u64), JournalError> {
        let acknowledged = self.journal.applied(&self.peer.name)?;
        let known = purge::Journal {
            acknowledged,
            newest: self.journal.last_purge()?,
            trimmed: self.journal.trimmed()?,
        };
        let after = reached.filter(|&reached| reached <= known.newest).unwrap_or(acknowledged);
        Ok((known, after))
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
