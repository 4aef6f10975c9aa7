//! Brings one edge every purge it has not acknowledged, over a connection that is kept.
//!
//! One message at a time: what is ordered while one is under way goes with the next, so a far edge gets larger messages and
//! none gets them out of order. A failed try is repeated with backoff, or at once when the edge is seen again or another purge
//! is ordered, yet never without pause. Purges are numbered and an edge applies each once, so sending again is safe.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use nearside_fleet::purge::{Acknowledged, Purges};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Outbox;
use crate::client::{Answer, Connection, Peer, json};

/// For a message: answered once it is on the edge's disk.
const ANSWER: Duration = Duration::from_secs(10);
/// An idle connection is used this often: an edge closes one after 15 s.
const KEEP_OPEN: Duration = Duration::from_secs(8);
/// For that.
const KEEP_OPEN_ANSWER: Duration = Duration::from_secs(2);
/// Shortest pause after a failed try: purges may be ordered a hundred times a second.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest one, where nothing else happens.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub struct Courier {
    peer: Peer,
    outbox: Arc<Outbox>,
    state: Mutex<State>,
    seen: Notify,
}

#[derive(Debug)]
struct State {
    acknowledged: u64,
    error: Option<String>,
}

impl Courier {
    /// For an edge that has acknowledged so far.
    pub fn new(peer: Peer, outbox: Arc<Outbox>, acknowledged: u64) -> Arc<Self> {
        let state = Mutex::new(State { acknowledged, error: None });
        Arc::new(Self { peer, outbox, state, seen: Notify::new() })
    }

    /// All up to this one are in force there.
    pub fn acknowledged(&self) -> u64 {
        self.state.lock().acknowledged
    }

    /// Why the last try failed, until one succeeds.
    pub fn error(&self) -> Option<String> {
        self.state.lock().error.clone()
    }

    /// The edge was seen: a failed try is repeated now.
    pub fn seen(&self) {
        self.seen.notify_one();
    }

    /// Delivers for ever. Cancel-safe: the next courier begins at what was acknowledged.
    pub async fn run(&self) {
        let mut newest = self.outbox.newest.subscribe();
        let mut line: Option<Connection> = None;
        let mut failures: u32 = 0;
        loop {
            let target = *newest.borrow_and_update();
            let behind = target > self.acknowledged() || self.state.lock().error.is_some();
            let tried = if behind { self.catch_up(&mut line).await } else { Ok(()) };
            match tried {
                Ok(()) => {
                    failures = 0;
                    self.state.lock().error = None;
                    self.idle(&mut newest, &mut line).await;
                }
                Err(error) => {
                    line = None;
                    self.outbox.failed(&self.peer.name, target, &error, Instant::now());
                    tracing::debug!(node = self.peer.name, %error, "purges were not delivered");
                    self.state.lock().error = Some(error);
                    failures = failures.saturating_add(1);
                    self.pause(&mut newest, failures).await;
                }
            }
        }
    }

    /// Until there is something to do; keeps the connection open meanwhile.
    async fn idle(&self, newest: &mut watch::Receiver<u64>, line: &mut Option<Connection>) {
        tokio::select! {
            // The sender lives in the outbox, which lives with us.
            _ordered = newest.changed() => {}
            () = self.seen.notified() => {
                // It is there: the next purge finds a connection. Why there is none is told by who looks after the node.
                if line.is_none() {
                    *line = self.peer.connect().await.ok();
                }
            }
            () = tokio::time::sleep(KEEP_OPEN) => {
                if let Some(mut open) = line.take().filter(|open| self.peer.stands_by(open)) {
                    let asked = open.ask(Method::GET, "/health", Bytes::new(), KEEP_OPEN_ANSWER).await;
                    *line = asked.is_ok().then_some(open);
                }
            }
        }
    }

    async fn pause(&self, newest: &mut watch::Receiver<u64>, failures: u32) {
        tokio::time::sleep(PAUSE_MIN).await;
        let longest = PAUSE_MIN.saturating_mul(1 << failures.min(7)).min(PAUSE_MAX);
        let longest = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(longest) => {}
            _ordered = newest.changed() => {}
            () = self.seen.notified() => {}
        }
    }

    /// Sends everything that is not acknowledged, from where the edge says it stands: that may be before what it once
    /// acknowledged, if it was installed anew.
    async fn catch_up(&self, line: &mut Option<Connection>) -> Result<(), String> {
        let mut reached: Option<u64> = None;
        loop {
            let known = self.outbox.known(self.acknowledged());
            let after = reached.filter(|&reached| reached <= known.newest).unwrap_or(known.acknowledged);
            let (message, first, last) = match self.outbox.after(after).await? {
                Some(parcel) => (Bytes::from(parcel.message(&known)), parcel.first, parcel.last),
                None if after >= known.trimmed => return Ok(()),
                // It lacks purges that home has no more, and none came after them: told that alone, it purges softly.
                None => (json(&Purges { purges: Vec::new(), journal: Some(known) }), after, known.trimmed),
            };
            let through = self.send(line, message).await?;
            tracing::trace!(node = self.peer.name, first, last, through, "purges were sent");
            if through < last && reached.is_some_and(|reached| through <= reached) {
                return Err(format!("has purges up to {through} only, was sent up to {last}"));
            }
            reached = Some(through);
            // Past the last one home knows of, its own count is from a journal we lost: it must not skip ours.
            let is_lost = through > self.outbox.newest();
            let kept = if is_lost { last } else { through };
            self.state.lock().acknowledged = kept;
            self.outbox.acknowledged(&self.peer.name, kept, Instant::now());
            if is_lost {
                self.outbox.found_out();
                return Err(format!(
                    "has purges up to {through}, home knows of {last} only: home's state was put back. Restart \
                     nearside-controller: it goes on after what the fleet has seen",
                ));
            }
        }
    }

    /// Sends one message. A kept connection may have been closed by the other side: then over a new one.
    async fn send(&self, line: &mut Option<Connection>, message: Bytes) -> Result<u64, String> {
        let began = Instant::now();
        let mut answered: Option<Answer> = None;
        if let Some(mut open) = line.take().filter(|open| self.peer.stands_by(open)) {
            match open.ask(Method::POST, "/v1/purges", message.clone(), ANSWER).await {
                Ok(answer) => {
                    answered = Some(answer);
                    *line = Some(open);
                }
                Err(error) if began.elapsed() >= ANSWER => return Err(error.to_string()),
                Err(_closed) => {}
            }
        }
        let answer = match answered {
            Some(answer) => answer,
            None => {
                let mut open = self.peer.connect().await.map_err(|error| error.to_string())?;
                let answer = open.ask(Method::POST, "/v1/purges", message, ANSWER).await;
                let answer = answer.map_err(|error| error.to_string())?;
                *line = Some(open);
                answer
            }
        };
        let acknowledged = answer.good().and_then(|answer| answer.json::<Acknowledged>());
        acknowledged.map(|acknowledged| acknowledged.through).map_err(|error| error.to_string())
    }
}
