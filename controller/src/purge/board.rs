//! How far every order of late is, edge by edge.
//!
//! Pure: acknowledgements and failures come in with their times. An edge is settled for an order when it has acknowledged it, or
//! when a try that began after it failed: it gets it later, and nobody waits for it. An acknowledgement that comes still is
//! noted.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Orders that can be asked after: ten seconds at a hundred a second, days of a quiet fleet.
const ORDERS_KEPT: usize = 1_000;

/// Where an order stands at an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// In force and on its disk.
    Acknowledged,
    /// Under way.
    Waiting,
    /// A try failed; it is replayed.
    Away,
}

/// What became of a purge at one PoP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivered {
    /// Which.
    pub pop: String,
    /// Where it stands.
    pub state: Standing,
    /// Milliseconds from the order to there.
    pub ms: f64,
    /// Why it is not in force there yet; it is replayed.
    pub error: Option<String>,
}

/// An order, as one PoP after another settles it.
#[derive(Debug)]
pub struct Order {
    /// Number of its first purge.
    pub first: u64,
    /// Number of its last.
    pub last: u64,
    since: Instant,
    edges: Mutex<BTreeMap<String, Delivered>>,
    settled: watch::Sender<usize>,
}

/// The orders of late.
#[derive(Debug, Default)]
pub struct Board {
    /// In order of their numbers.
    orders: VecDeque<Arc<Order>>,
    /// Those that an edge has not acknowledged, in order.
    waiting: BTreeMap<String, VecDeque<Arc<Order>>>,
}

impl Board {
    /// An order that `edges` were sent.
    pub fn open(&mut self, first: u64, last: u64, edges: Vec<String>, since: Instant) -> Arc<Order> {
        let waiting =
            |pop: &String| Delivered { pop: pop.clone(), state: Standing::Waiting, ms: 0.0, error: None };
        let order = Arc::new(Order {
            first,
            last,
            since,
            edges: Mutex::new(edges.iter().map(|edge| (edge.clone(), waiting(edge))).collect()),
            settled: watch::channel(0).0,
        });
        for edge in edges {
            let queue = self.waiting.entry(edge).or_default();
            queue.push_back(Arc::clone(&order));
            if queue.len() > ORDERS_KEPT {
                queue.pop_front();
            }
        }
        self.orders.push_back(Arc::clone(&order));
        if self.orders.len() > ORDERS_KEPT {
            self.orders.pop_front();
        }
        order
    }

    /// The order that has this number.
    pub fn find(&self, sequence: u64) -> Option<Arc<Order>> {
        let at = self.orders.partition_point(|order| order.last < sequence);
        self.orders.get(at).filter(|order| order.first <= sequence).cloned()
    }

    /// An edge has everything up to a number. Returns how long each order took that this settles.
    pub fn acknowledged(&mut self, edge: &str, through: u64, now: Instant) -> Vec<Duration> {
        let Some(queue) = self.waiting.get_mut(edge) else { return Vec::new() };
        let covered = queue.partition_point(|order| order.last <= through);
        let took = |order: Arc<Order>| order.settle(edge, Standing::Acknowledged, None, now);
        queue.drain(..covered).map(took).collect()
    }

    /// A try that began when `through` was the newest number failed.
    pub fn failed(&mut self, edge: &str, through: u64, error: &str, now: Instant) {
        for order in self.waiting.get(edge).into_iter().flatten() {
            if order.last <= through {
                order.settle(edge, Standing::Away, Some(error), now);
            }
        }
    }
}

impl Order {
    fn settle(&self, edge: &str, state: Standing, error: Option<&str>, now: Instant) -> Duration {
        let took = now.saturating_duration_since(self.since);
        let mut edges = self.edges.lock();
        let Some(known) = edges.get_mut(edge) else { return took };
        // The first failure is what ended the waiting; later ones of the same edge say no more.
        if known.state == Standing::Away && state == Standing::Away {
            return took;
        }
        let waited = known.state == Standing::Waiting;
        (known.state, known.ms, known.error) = (state, took.as_secs_f64() * 1e3, error.map(str::to_owned));
        drop(edges);
        if waited {
            self.settled.send_modify(|settled| *settled += 1);
        }
        took
    }

    /// How far it is, by PoP.
    pub fn progress(&self) -> Vec<Delivered> {
        self.edges.lock().values().cloned().collect()
    }

    /// How far it is, where who has not settled by now is not waited for: it has the purge later.
    pub fn outcome(&self) -> Vec<Delivered> {
        let mut pops = self.progress();
        let waited = self.since.elapsed().as_secs_f64();
        for pop in pops.iter_mut().filter(|pop| pop.state == Standing::Waiting) {
            pop.ms = waited * 1e3;
            pop.error = Some(format!("no acknowledgement within {waited:.1} s"));
        }
        pops
    }

    /// PoPs it was sent to.
    pub fn pops(&self) -> usize {
        self.edges.lock().len()
    }

    /// Waits until `count` PoPs have settled, or all, or no longer than `within`. Whether they have.
    pub async fn settled(&self, count: usize, within: Duration) -> bool {
        let wanted = count.min(self.pops());
        let mut settled = self.settled.subscribe();
        let waiting = settled.wait_for(|&settled| settled >= wanted);
        // The sender lives in `self`.
        tokio::time::timeout(within, waiting).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(order: &Order) -> Vec<Standing> {
        order.progress().into_iter().map(|pop| pop.state).collect()
    }

    #[test]
    fn an_order_settles_edge_by_edge() {
        let (mut board, start) = (Board::default(), Instant::now());
        let edges = || vec!["fra".to_owned(), "nyc".to_owned()];
        let one = board.open(1, 3, edges(), start);
        let two = board.open(4, 4, edges(), start);
        assert!(board.acknowledged("fra", 2, start).is_empty(), "only a part of the order");
        let took = board.acknowledged("fra", 4, start + Duration::from_millis(7));
        assert_eq!(took, [Duration::from_millis(7); 2]);
        assert_eq!(states(&one), [Standing::Acknowledged, Standing::Waiting]);
        // A try that began before the second order says nothing of it.
        board.failed("nyc", 3, "refused", start);
        assert_eq!(states(&one)[1], Standing::Away);
        assert_eq!(states(&two)[1], Standing::Waiting);
        // It comes back.
        assert_eq!(board.acknowledged("nyc", 4, start).len(), 2);
        assert_eq!(states(&one), [Standing::Acknowledged; 2]);
        assert!(one.progress()[1].error.is_none());
    }

    #[test]
    fn orders_are_found_by_any_number_of_theirs_and_forgotten_in_the_end() {
        let (mut board, start) = (Board::default(), Instant::now());
        for at in 0..2_000_u64 {
            board.open(at * 3 + 1, at * 3 + 3, vec!["fra".to_owned()], start);
        }
        assert!(board.find(3).is_none(), "forgotten");
        let order = board.find(5_999).unwrap();
        assert_eq!((order.first, order.last), (5_998, 6_000));
        assert!(board.find(6_001).is_none());
        assert_eq!(board.waiting["fra"].len(), ORDERS_KEPT);
    }

    #[tokio::test]
    async fn who_waits_is_told_in_time() {
        let mut board = Board::default();
        let order = board.open(1, 1, vec!["fra".to_owned(), "nyc".to_owned()], Instant::now());
        assert!(!order.settled(1, Duration::from_millis(1)).await);
        board.acknowledged("nyc", 1, Instant::now());
        assert!(order.settled(1, Duration::from_secs(1)).await);
        let outcome = order.outcome();
        assert!(outcome[0].error.as_ref().unwrap().starts_with("no acknowledgement within"), "{outcome:?}");
        assert!(outcome[1].error.is_none());
    }
}
