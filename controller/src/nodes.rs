//! Brings every node to the newest snapshot, the last purge and the drains in force, and keeps it there.
//!
//! One task per node: look (its report), send what is missing, look again. Reconciliation, not fire and
//! forget: nothing is remembered as sent, only what the node itself says it has. A failed round backs off with jitter;
//! a change wakes all. An edge's purges go another way beside it ([`crate::purge::courier`]), so that a snapshot under way
//! holds up none; the courier is told when its edge was seen.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode};
use nearside_fleet::{
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
    journal::{Drain, Journal},
    purge::{Outbox, courier::Courier},
};

/// A report, a drain: answered from memory.
const QUICK: Duration = Duration::from_secs(5);
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
    /// Of an edge.
    courier: Option<Arc<Courier>>,
}

impl Node {
    /// A node that was not looked at yet.
    pub fn new(peer: Peer, kind: Kind, journal: Arc<Journal>, outbox: &Arc<Outbox>, state: StateDir) -> Self {
        let status = Status {
            node: peer.name.clone(),
            kind,
            phase: Phase::Unknown,
            snapshot: None,
            error: None,
            purges: 0,
            seen: None,
            report: None,
        };
        let acknowledged = journal.applied(&peer.name).unwrap_or(0);
        let courier =
            (kind == Kind::Edge).then(|| Courier::new(peer.clone(), Arc::clone(outbox), acknowledged));
        Self { peer, kind, journal, state, status: Mutex::new(status), courier }
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
        match &self.courier {
            Some(courier) => courier.error().map_or(Ok(()), |error| Err(format!("purges: {error}"))),
            None => self.drains(&mut connection).await,
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
        if let Some(courier) = &self.courier {
            courier.seen();
        }
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
