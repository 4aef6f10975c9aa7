//! Statistics of the whole fleet: pulled from every edge once a minute, kept, summed up.
//!
//! [`store`] keeps, [`answer`] sums up. An edge hands out numbered pieces until home has them: what home missed while it was away comes
//! later, as far back as edges keep it, and nothing counts twice.

pub mod answer;
pub mod store;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use nearside_fleet::{config::Config, stats::Pieces};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::{
    answer::{StatsAnswer, Summary, TopPath},
    store::{Store, StoreError, Wanted},
};
use crate::{home::seconds, nodes::Node};

/// From one pull to the next.
pub const EVERY: Duration = Duration::from_secs(60);
/// How far after the minute an edge is asked: it has closed the minute by then.
pub const AFTER_MINUTE: Duration = Duration::from_secs(2);
/// For one answer of an edge: some megabytes over a slow line.
const ANSWER: Duration = Duration::from_secs(20);
/// Answers taken from one edge in a row: an hour of many sites.
const ANSWERS_MAX: usize = 16;
/// How long somebody who looks waits for edges to hand out what is of now.
const FRESH: Duration = Duration::from_secs(3);

/// How much a PoP serves, of its last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Requests of clients per second.
    pub requests: f64,
    /// Bits of bodies per second.
    pub bits: f64,
    /// Hit ratio.
    pub hit_ratio: Option<f64>,
}

/// What somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Which cells.
    pub wanted: Wanted,
    /// Seconds of a point.
    pub step: Option<u64>,
    /// Paths.
    pub top: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Stats {
    store: Arc<Store>,
    rates: Mutex<BTreeMap<String, Rate>>,
}

impl Stats {
    /// On a store.
    pub fn new(store: Store) -> Self {
        Stats { store: Arc::new(store), rates: Mutex::default() }
    }

    /// Fetches what an edge has and home has not. `now`: with the minute under way.
    ///
    /// # Errors
    /// In words; what was fetched before stays.
    pub async fn pull(&self, node: &Node, now: Now) -> Result<(), String> {
        let pop = node.peer().name.clone();
        let mut connection = node.peer().connect().await.map_err(|error| error.to_string())?;
        for _ in 0..ANSWERS_MAX {
            let (life, number) = self.place(&pop).await?;
            let fresh = if now == Now::Included { "&now=1" } else { "" };
            let path = format!("/v1/stats?life={life}&after={number}{fresh}");
            let answer = connection.ask(http::Method::GET, &path, bytes::Bytes::new(), ANSWER).await;
            let pieces: Pieces =
                answer.and_then(|answer| answer.good()?.json()).map_err(|error| error.to_string())?;
            let more = pieces.more;
            if let Some(rate) = rate(&pieces) {
                self.rates.lock().insert(pop.clone(), rate);
            }
            let (store, name) = (Arc::clone(&self.store), pop.clone());
            let adding = move || store.add(&name, &pieces, seconds(SystemTime::now()));
            blocking(adding).await?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    async fn place(&self, pop: &str) -> Result<(u64, u64), String> {
        let (store, pop) = (Arc::clone(&self.store), pop.to_owned());
        blocking(move || store.place(&pop)).await
    }

    /// Pulls from all at once; who did not hand out everything in time, by name.
    pub async fn pull_all(self: &Arc<Self>, nodes: Vec<Arc<Node>>, now: Now) -> Vec<String> {
        let within = if now == Now::Included { FRESH } else { ANSWER * 2 };
        let pulling: Vec<_> = nodes
            .into_iter()
            .map(|node| {
                let this = Arc::clone(self);
                tokio::spawn(async move {
                    let name = node.peer().name.clone();
                    let pulled = tokio::time::timeout(within, this.pull(&node, now)).await;
                    let error = match pulled {
                        Ok(Ok(())) => return None,
                        Ok(Err(error)) => error,
                        Err(_elapsed) => "no answer in time".to_owned(),
                    };
                    this.rates.lock().remove(&name);
                    tracing::debug!(node = name, error, "no statistics of now");
                    Some(name)
                })
            })
            .collect();
        let mut away = Vec::new();
        for pulled in pulling {
            // A panic there is our bug; that PoP's figures are of before.
            away.extend(pulled.await.ok().flatten());
        }
        away
    }

    /// How much each PoP serves.
    pub fn rates(&self) -> BTreeMap<String, Rate> {
        self.rates.lock().clone()
    }

    /// Answers a question under the prices of a configuration.
    ///
    /// # Errors
    /// In words.
    pub async fn answer(&self, question: Question, config: &Config) -> Result<StatsAnswer, String> {
        let store = Arc::clone(&self.store);
        let controller = config.controller.as_ref();
        let common = controller.and_then(|controller| controller.price_per_gb);
        let own: BTreeMap<String, f64> =
            config.sites.values().filter_map(|site| Some((site.name.clone(), site.price_per_gb?))).collect();
        let currency = controller.map(|controller| controller.currency.clone()).unwrap_or_default();
        blocking(move || {
            let now = seconds(SystemTime::now());
            let (level, from, step) = answer::plan(&question.wanted, now, question.step);
            let wanted = Wanted { from, ..question.wanted };
            let mut summary = Summary::default();
            store.cells(level, &wanted, |cell| summary.add(cell, step))?;
            let mut answer = summary.answer(|site| own.get(site).copied().or(common));
            let top = store.top(&wanted, now, question.top)?;
            answer.top =
                top.into_iter().map(|(site, path, requests)| TopPath { site, path, requests }).collect();
            (answer.from, answer.until, answer.step, answer.currency) = (from, wanted.until, step, currency);
            Ok(answer)
        })
        .await
    }
}

/// Whether the minute under way is wanted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// It is.
    Included,
    /// Full minutes are enough.
    Left,
}

/// Of the last minute that there is anything of.
fn rate(pieces: &Pieces) -> Option<Rate> {
    let minute = pieces.pieces.last()?.minute;
    let of_it = || pieces.pieces.iter().filter(|piece| piece.minute == minute);
    let lasted: f64 = of_it().map(|piece| piece.seconds).sum();
    if lasted < 1.0 {
        return None;
    }
    let mut all = nearside_fleet::stats::Sums::default();
    of_it().flat_map(|piece| piece.sites.values()).for_each(|site| all.add(&site.sums));
    Some(Rate {
        requests: all.total() as f64 / lasted,
        bits: all.bytes_out as f64 * 8.0 / lasted,
        hit_ratio: all.hit_ratio(),
    })
}

/// SQLite off the runtime's threads: a question may read a million cells.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
