//! Keeps an origin's connections, and never more of them at once than the fleet file allows.
//!
//! A slot stands for a request under way. A new connection is only opened by a request that holds a
//! slot and finds no idle one, so connections in use and idle together never exceed the slots.
//! Connections are shared by all workers, but one that a worker opened itself is preferred: the
//! socket is polled by the runtime that opened it, and crossing over costs a wake-up.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{body::SendBody, connect::Wire, error::FetchError, multiplex::Stream, resolve::Resolver};
use crate::worker;

/// Requests that may wait for a slot. Behind a slow origin more would only time out later; the
/// thousand-and-first client is told 503 at once.
const WAITING_MAX: usize = 1024;

/// How long an idle connection is kept. Below the 60 to 75 s at which common servers close theirs:
/// whoever closes first avoids the race that costs a retry.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// A request that must not be repeated takes a reused connection only if it was used this recently:
/// an origin seldom closes within a second, and a failure could not be retried.
const IDLE_FRESH: Duration = Duration::from_secs(1);

/// How long a connection handed back may take to become ready for the next request before another
/// is tried; it only has to notice that it is idle.
const SETTLE: Duration = Duration::from_millis(20);

/// An open connection.
pub struct Connection {
    pub(super) sender: SendRequest<SendBody>,
    pub(super) wire: Arc<Wire>,
    peer: SocketAddr,
    opened_by: usize,
    idle_since: Instant,
}

impl Connection {
    pub(super) fn new(sender: SendRequest<SendBody>, wire: Arc<Wire>, peer: SocketAddr) -> Self {
        Connection { sender, wire, peer, opened_by: worker::index(), idle_since: Instant::now() }
    }
}

/// Which idle connections a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Any: the request can be repeated if the connection proves dead.
    Any,
    /// Only one used a moment ago.
    Fresh,
}

/// Counters of one pool, read by metrics.
#[derive(Default)]
pub struct PoolStats {
    /// Connections opened.
    pub opened: AtomicU64,
    /// Requests sent on a connection that had served one before.
    pub reused: AtomicU64,
    /// Requests repeated because a reused connection proved dead.
    pub retried: AtomicU64,
    /// Attempts to connect that failed.
    pub connect_failed: AtomicU64,
    /// Streams the origin had not begun with when it closed their connection, sent again.
    pub unprocessed: AtomicU64,
    /// Repetitions that the budget forbade.
    pub unretried: AtomicU64,
    /// Requests waiting for a slot now.
    pub waiting: AtomicUsize,
}

/// The connections of one origin.
pub struct Pool {
    idle: Mutex<Vec<Connection>>,
    resolver: Arc<Resolver>,
    slots: Arc<Semaphore>,
    /// For metrics.
    pub stats: PoolStats,
}

impl Pool {
    /// An empty pool of `connections_max` slots, for connections to where `resolver` says.
    pub fn new(connections_max: usize, resolver: Arc<Resolver>) -> Arc<Self> {
        Arc::new(Pool {
            idle: Mutex::new(Vec::new()),
            resolver,
            slots: Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS))),
            stats: PoolStats::default(),
        })
    }

    /// Idle connections now.
    pub fn idle_count(&self) -> usize {
        self.idle.lock().len()
    }

    /// Waits for the right to have one request under way.
    ///
    /// # Errors
    /// [`FetchError::QueueFull`] at once, [`FetchError::QueueTimeout`] after `limit`.
    pub async fn slot(&self, limit: Duration) -> Result<OwnedSemaphorePermit, FetchError> {
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            return Ok(permit);
        }
        if self.stats.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.stats.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(FetchError::QueueFull);
        }
        let _waiting = Waiting(&self.stats.waiting);
        match tokio::time::timeout(limit, self.slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed; were it, nothing would come free either.
            Ok(Err(_)) | Err(_) => Err(FetchError::QueueTimeout(limit)),
        }
    }

    /// Takes an idle connection that is ready, dropping those that are not.
    pub async fn take(&self, reuse: Reuse) -> Option<Connection> {
        loop {
            let mut connection = self.pop(reuse)?;
            if !self.resolver.leads_to(connection.peer) {
                continue;
            }
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    fn pop(&self, reuse: Reuse) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        idle.retain(|connection| !connection.sender.is_closed() && now - connection.idle_since < IDLE_MAX);
        let here = worker::index();
        let position = idle.iter().rposition(|connection| connection.opened_by == here);
        // The last one given back is the one most likely to be alive.
        let position = position.or_else(|| idle.len().checked_sub(1))?;
        let too_old = now - idle[position].idle_since > IDLE_FRESH;
        // Taken out even when too old: the caller opens a new one in its place, and the sum of both
        // must not exceed the slots.
        let connection = idle.swap_remove(position);
        (reuse == Reuse::Any || !too_old).then_some(connection)
    }

    pub(super) fn give_back(&self, mut connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        connection.idle_since = Instant::now();
        self.idle.lock().push(connection);
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection, or a stream of one, in use, and its slot. Dropped, it closes the connection or resets the stream.
pub struct Lease {
    pool: Arc<Pool>,
    line: Line,
    reusable: bool,
    _slot: OwnedSemaphorePermit,
}

/// What a request travels on.
pub enum Line {
    /// A connection that carries nothing else meanwhile.
    Alone(Connection),
    /// A stream among others.
    Stream(Stream),
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, line: Line, reusable: bool, slot: OwnedSemaphorePermit) -> Self {
        Lease { pool, line, reusable, _slot: slot }
    }

    /// The response has been read to its end.
    pub(super) fn give_back(self) {
        // A request body still on its way would hold the connection busy: only ready ones go back.
        if let Line::Alone(connection) = self.line
            && (self.reusable || connection.sender.is_ready())
        {
            self.pool.give_back(connection);
        }
    }
}
