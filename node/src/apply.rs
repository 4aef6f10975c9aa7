//! Stages desired states with the daemon, one at a time, and swaps in those that check out.
//!
//! The only caller of [`Daemon::stage`] and [`Daemon::swap`]. It remembers what serves and what was refused
//! last, for the report. It does not know where desired states come from.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use nearside_fleet::config::Config;

use crate::{
    daemon::Daemon,
    desired::{Desired, Refusal, Source},
    metrics::NodeMetrics,
};

/// What serves, and what does not.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The state that was swapped in last.
    pub serving: Option<Serving>,
    /// The newest desired state, if it was refused; cleared by the next one that is taken.
    pub refused: Option<Refused>,
}

/// A state that serves.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Where it came from.
    pub source: Source,
    /// When it was swapped in.
    pub since: SystemTime,
    /// The fleet as it serves.
    pub config: Arc<Config>,
}

/// A state that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Where it came from.
    pub source: Source,
    /// When.
    pub at: SystemTime,
    /// Why.
    pub refusal: Refusal,
}

/// Stages and swaps.
#[derive(Debug)]
pub struct Applier<D> {
    node: String,
    daemon: Arc<D>,
    metrics: NodeMetrics,
    /// What serves. Held while staging: two city databases compiled at once would double the memory's peak.
    staging: tokio::sync::Mutex<Option<Desired>>,
    status: Mutex<Status>,
}

impl<D: Daemon> Applier<D> {
    /// An applier of `daemon`, which runs as `node`, that has applied nothing.
    pub fn new(node: &str, daemon: Arc<D>, metrics: NodeMetrics) -> Self {
        Self {
            node: node.to_owned(),
            daemon,
            metrics,
            staging: tokio::sync::Mutex::default(),
            status: Mutex::default(),
        }
    }

    /// Stages a desired state and swaps it in. Returns the files it read beyond those the fleet file names.
    /// Not cancelled half-way: a dropped future leaves a staging to finish, unswapped.
    ///
    /// # Errors
    /// The daemon's [`Refusal`], already logged and counted; what served before serves on.
    pub async fn apply(&self, desired: Desired) -> Result<Vec<PathBuf>, Refusal> {
        let mut serving = self.staging.lock().await;
        let also_read = self.stage_and_swap(desired.clone()).await?;
        *serving = Some(desired);
        Ok(also_read)
    }

    /// Stages what serves once more, for what a daemon reads beside it: the node's identity.
    ///
    /// # Errors
    /// As [`Applier::apply`].
    pub async fn again(&self) -> Result<(), Refusal> {
        let serving = self.staging.lock().await;
        match serving.clone() {
            Some(desired) => self.stage_and_swap(desired).await.map(drop),
            None => Ok(()),
        }
    }

    async fn stage_and_swap(&self, desired: Desired) -> Result<Vec<PathBuf>, Refusal> {
        let (source, config) = (desired.source.clone(), Arc::clone(&desired.config));
        let started = Instant::now();
        let (daemon, node) = (Arc::clone(&self.daemon), self.node.clone());
        let staged = tokio::task::spawn_blocking(move || {
            // A fleet without this node is one of another node, or a slip: nothing in it says what to serve.
            D::KIND.listeners(&desired.config, &node)?;
            daemon.stage(&desired)
        });
        let staged = staged.await;
        // A panic while staging is our bug, but the state that serves is untouched: refuse and go on.
        let staged = staged.unwrap_or_else(|error| Err(Refusal::new(format!("staging failed: {error}"))));
        match staged {
            Ok(staging) => {
                self.daemon.swap(staging.staged);
                self.took(source, config, started.elapsed());
                Ok(staging.also_read)
            }
            Err(refusal) => {
                self.refuse(source, &refusal);
                Err(refusal)
            }
        }
    }

    /// Records, logs and counts a refusal, also of a state that never got as far as the daemon.
    pub fn refuse(&self, source: Source, refusal: &Refusal) {
        let serving_on = match &self.status().serving {
            Some(serving) => format!("{} serves on", serving.source),
            None => "nothing serves yet".to_owned(),
        };
        for reason in &refusal.reasons {
            tracing::error!("refused: {reason}");
        }
        let mistakes = match refusal.reasons.len() {
            1 => "one mistake".to_owned(),
            many => format!("{many} mistakes"),
        };
        tracing::error!("{source} was refused for {mistakes}; {serving_on}");
        self.metrics.reloads_refused.inc();
        self.metrics.refusing.set(1);
        self.lock().refused = Some(Refused { source, at: SystemTime::now(), refusal: refusal.clone() });
    }

    /// Keeps showing a refusal that was told already, beside a fallback that serves now.
    pub fn remember_refused(&self, source: Source, refusal: Refusal) {
        self.metrics.refusing.set(1);
        self.lock().refused = Some(Refused { source, at: SystemTime::now(), refusal });
    }

    /// Counts a refusal that is no state of this fleet's (a forged snapshot): it is not shown as its newest.
    pub fn count_refusal(&self) {
        self.metrics.reloads_refused.inc();
    }

    /// What serves and what was refused, now.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// The daemon.
    pub fn daemon(&self) -> &Arc<D> {
        &self.daemon
    }

    fn took(&self, source: Source, config: Arc<Config>, took: Duration) {
        tracing::info!(took_ms = took.as_millis(), "now serving {source} of fleet {}", config.fleet);
        let since = SystemTime::now();
        self.metrics.reloads.inc();
        self.metrics.refusing.set(0);
        let seconds = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        self.metrics.state_since.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        let snapshot = if let Source::Snapshot(number) = source { number } else { 0 };
        self.metrics.snapshot.set(i64::try_from(snapshot).unwrap_or(i64::MAX));
        *self.lock() = Status { serving: Some(Serving { source, since, config }), refused: None };
    }

    /// The status is plain data, whole even where a thread panicked beside it.
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
