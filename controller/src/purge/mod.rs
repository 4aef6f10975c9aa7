//! A purge from its order to the last edge's acknowledgement.
//!
//! [`Purger`] takes orders and numbers them in groups: orders that come while the journal waits for the disk share the
//! next commit, so a burst costs a few. [`Outbox`] is what the edges' [`courier`]s share: the newest number, the recent purges as
//! they are sent, and the [`board`] on which everyone reads how far an order is. An order is told a number only after the
//! journal has it; no edge is told of it earlier.
//!
//! What an edge has acknowledged is kept with the next commit, or a second later. It may lag after a crash: then an edge is sent
//! again what it has, and says so.

pub mod board;
pub mod courier;
mod recent;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use nearside_fleet::purge::{self, Mode, Scope};
use parking_lot::Mutex;
use prometheus_client::{metrics::histogram::Histogram, registry::Registry};
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    board::{Board, Order},
    recent::{Parcel, Recent},
};
use crate::{
    home::seconds,
    journal::{
        Journal, JournalError,
        purge::{Ordered, PURGES_KEPT},
        restored::Restored,
    },
};

/// Orders that wait to be numbered; whoever comes then waits to get in. At a hundred a second it is two seconds of a disk that
/// stands still.
const WAITING_MAX: usize = 256;
/// Scopes numbered in one commit: some 30 ms of work under the journal's lock.
const GROUP_SCOPES_MAX: usize = 4_000;
/// How long an acknowledgement may be known in memory alone.
const KEEP_WITHIN: Duration = Duration::from_secs(1);
/// Purges in one message, by their JSON: below what an edge's control listener reads freely (1 MiB).
const MESSAGE_BYTES_MAX: usize = 512 << 10;

/// Why an order was not taken: nothing is numbered, no edge is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not purged: {0}")]
pub struct NotTaken(String);

/// Takes orders.
#[derive(Debug)]
pub struct Purger {
    orders: mpsc::Sender<Waiting>,
    outbox: Arc<Outbox>,
}

#[derive(Debug)]
struct Waiting {
    ordered: Ordered,
    edges: Vec<String>,
    since: Instant,
    taken: oneshot::Sender<Result<Arc<Order>, NotTaken>>,
}

/// What the couriers share.
#[derive(Debug)]
pub struct Outbox {
    journal: Arc<Journal>,
    recent: Mutex<Recent>,
    newest: watch::Sender<u64>,
    trimmed: AtomicU64,
    board: Mutex<Board>,
    /// Acknowledgements that the journal does not know yet.
    unkept: Mutex<BTreeMap<String, u64>>,
    acknowledged_seconds: Histogram,
}

impl Purger {
    /// With what the journal knows. Starts the task that numbers; it ends when this is dropped.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn start(journal: Arc<Journal>) -> Result<Self, JournalError> {
        let newest = journal.last_purge()?;
        let outbox = Arc::new(Outbox {
            recent: Mutex::new(Recent::from(newest)),
            newest: watch::channel(newest).0,
            trimmed: AtomicU64::new(journal.trimmed()?),
            board: Mutex::default(),
            unkept: Mutex::default(),
            acknowledged_seconds: Histogram::new([
                0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0,
            ]),
            journal,
        });
        let (orders, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(number(waiting, Arc::clone(&outbox)));
        Ok(Self { orders, outbox })
    }

    /// Registers what it counts.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "purge_acknowledged_seconds",
            "From the order of a purge to an edge's acknowledgement",
            self.outbox.acknowledged_seconds.clone(),
        );
    }

    /// What couriers share.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Numbers and journals purges; the couriers of `edges` are under way with them when this returns.
    ///
    /// # Errors
    /// [`NotTaken`]: the journal failed, no edge was told.
    pub async fn order(
        &self,
        scopes: &[Scope],
        mode: Mode,
        who: &str,
        edges: Vec<String>,
    ) -> Result<Arc<Order>, NotTaken> {
        let issued = seconds(SystemTime::now());
        let (who, from) = (who.to_owned(), crate::audit::from());
        let ordered = Ordered { scopes: scopes.to_vec(), mode, issued, who, from };
        let (taken, answer) = oneshot::channel();
        let stopped = || NotTaken("the controller is stopping".to_owned());
        let waiting = Waiting { ordered, edges, since: Instant::now(), taken };
        self.orders.send(waiting).await.map_err(|_| stopped())?;
        let taken = answer.await.map_err(|_| stopped())?;
        // With the commit.
        crate::audit::written();
        taken
    }

    /// An order of late, by any of its numbers.
    pub fn find(&self, sequence: u64) -> Option<Arc<Order>> {
        self.outbox.board.lock().find(sequence)
    }
}

/// Numbers what waits, a group at a time, until nobody can order any more.
async fn number(mut waiting: mpsc::Receiver<Waiting>, outbox: Arc<Outbox>) {
    let mut held: Option<Waiting> = None;
    loop {
        let first = match held.take() {
            Some(held) => Some(held),
            None => match tokio::time::timeout(KEEP_WITHIN, waiting.recv()).await {
                Ok(Some(first)) => Some(first),
                Ok(None) => return outbox.commit(Vec::new()).await,
                Err(_elapsed) => None,
            },
        };
        let mut group: Vec<Waiting> = Vec::new();
        let mut scopes = 0;
        let mut next = first;
        while let Some(one) = next {
            scopes += one.ordered.scopes.len();
            if !group.is_empty() && scopes > GROUP_SCOPES_MAX {
                held = Some(one);
                break;
            }
            group.push(one);
            next = waiting.try_recv().ok();
        }
        outbox.commit(group).await;
    }
}

impl Outbox {
    async fn commit(&self, group: Vec<Waiting>) {
        let acknowledged: Vec<(String, u64)> = std::mem::take(&mut *self.unkept.lock()).into_iter().collect();
        let (ordered, rest): (Vec<Ordered>, Vec<_>) =
            group.into_iter().map(|one| (one.ordered, (one.edges, one.since, one.taken))).unzip();
        let journal = Arc::clone(&self.journal);
        let kept = tokio::task::spawn_blocking(move || {
            let kept = journal.commit_purges(&ordered, &acknowledged);
            (kept.map_err(|error| NotTaken(error.to_string())), acknowledged)
        });
        let (kept, acknowledged) = match kept.await {
            Ok(outcome) => outcome,
            Err(error) => (Err(NotTaken(error.to_string())), Vec::new()),
        };
        let numbered = match kept {
            Ok(numbered) => numbered,
            Err(error) => {
                tracing::error!(%error, "purges were not journaled");
                for (edge, through) in acknowledged {
                    self.unkept.lock().entry(edge).or_insert(through);
                }
                // Who does not listen any more has given up.
                rest.into_iter().for_each(|(_, _, taken)| drop(taken.send(Err(error.clone()))));
                return;
            }
        };
        let mut newest = None;
        for (purges, (edges, since, taken)) in numbered.into_iter().zip(rest) {
            let first = purges.first().and_then(|purge| purge.sequence).unwrap_or(0);
            let last = purges.last().and_then(|purge| purge.sequence).unwrap_or(0);
            self.recent.lock().push(&purges);
            newest = Some(last);
            let order = self.board.lock().open(first, last, edges, since);
            let _gone = taken.send(Ok(order));
        }
        // Last: a courier that wakes finds the purges, and the orders to tell.
        if let Some(newest) = newest {
            self.trimmed.fetch_max(newest.saturating_sub(PURGES_KEPT), Ordering::AcqRel);
            self.newest.send_replace(newest);
        }
    }

    /// The last number given.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// What an edge that has acknowledged so far is told of the journal.
    fn known(&self, acknowledged: u64) -> purge::Journal {
        // In this order: the journal may grow and be trimmed meanwhile, and `trimmed` must not be past `newest`.
        let trimmed = self.trimmed.load(Ordering::Acquire);
        purge::Journal { acknowledged, newest: self.newest(), trimmed }
    }

    /// What follows a number, at most one message of it; `None`: nothing does.
    async fn after(&self, sequence: u64) -> Result<Option<Parcel>, String> {
        if let Some(parcel) = self.recent.lock().after(sequence, purge::PURGES_MAX, MESSAGE_BYTES_MAX) {
            return Ok(parcel);
        }
        let journal = Arc::clone(&self.journal);
        let read = tokio::task::spawn_blocking(move || journal.purges_after(sequence, purge::PURGES_MAX));
        let purges = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(Parcel::of(&purges, MESSAGE_BYTES_MAX))
    }

    fn acknowledged(&self, edge: &str, through: u64, now: Instant) {
        for took in self.board.lock().acknowledged(edge, through, now) {
            self.acknowledged_seconds.observe(took.as_secs_f64());
        }
        self.unkept.lock().insert(edge.to_owned(), through);
    }

    /// An edge knows of more purges than the journal: remembered, so that the next start recovers from it.
    fn found_out(&self) {
        let marked = self.journal.mark_restored(Restored::FoundOut, seconds(SystemTime::now()));
        if let Err(error) = marked {
            tracing::error!(%error, "that home's state was put back is not remembered");
        }
    }

    fn failed(&self, edge: &str, through: u64, error: &str, now: Instant) {
        self.board.lock().failed(edge, through, error, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_that_come_together_share_a_commit_and_keep_their_order() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(&temp.path().join("j.db")).unwrap());
        let purger = Arc::new(Purger::start(Arc::clone(&journal)).unwrap());
        let ordering = (0..500).map(|at| {
            let purger = Arc::clone(&purger);
            tokio::spawn(async move {
                let scopes = [Scope::Url(format!("https://a.test/{at}")), Scope::All];
                let order = purger.order(&scopes, Mode::Hard, "test", vec!["fra".into()]).await.unwrap();
                (order.first, order.last)
            })
        });
        let mut numbers = Vec::new();
        for ordered in ordering.collect::<Vec<_>>() {
            let (first, last) = ordered.await.unwrap();
            assert_eq!(last, first + 1, "an order's purges stay together");
            numbers.push(first);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..500).map(|at| 2 * at + 1).collect::<Vec<u64>>(), "each number once");
        assert_eq!(journal.last_purge().unwrap(), 1_000, "told only after it was kept");
        // What a courier is handed is the journal's, in order, in messages within their bounds.
        let mut at = 0;
        while let Some(parcel) = purger.outbox.after(at).await.unwrap() {
            assert_eq!(parcel.first, at + 1);
            at = parcel.last;
        }
        assert_eq!(at, 1_000);
    }

    #[tokio::test]
    async fn acknowledgements_are_kept_without_an_order() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(&temp.path().join("j.db")).unwrap());
        let purger = Purger::start(Arc::clone(&journal)).unwrap();
        let order = purger.order(&[Scope::All], Mode::Soft, "test", vec!["fra".into()]).await.unwrap();
        purger.outbox.acknowledged("fra", order.last, Instant::now());
        assert!(order.settled(1, Duration::from_secs(1)).await);
        // The task ends with its last sender, and keeps what it knows first.
        drop(purger);
        let kept = async {
            while journal.applied("fra").unwrap() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), kept).await.unwrap();
        assert_eq!(journal.applied("fra").unwrap(), order.last);
    }
}
