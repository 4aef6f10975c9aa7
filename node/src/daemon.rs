//! What a program must be able to do for [`crate::run::serve`] to run it as a node.
//!
//! The life of a daemon: it is made with a [`Context`] and no configuration; a desired state is *staged*
//! (built and checked aside) and *swapped* in; then it *starts* (binds its sockets). From there on every
//! change is stage and swap again, until it *stops*. Implemented by `nearside-dns` and `nearside-edge`.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Instant};

use nearside_fleet::config::Config;

use crate::{
    control::{ControlRequest, ControlResponse},
    desired::{Desired, Refusal},
    metrics::Metrics,
    state::StateDir,
};

/// What the node gives its daemon.
#[derive(Clone, Debug)]
pub struct Context {
    /// This node's name in the fleet file.
    pub node: String,
    /// Where the daemon may keep its own state; `None`: nowhere, run without persistence.
    pub state: Option<StateDir>,
    /// Where the daemon registers its metrics, once, before it starts.
    pub metrics: Metrics,
}

/// What every staged state says of itself, beside being swapped in.
#[derive(Debug)]
pub struct Staging<S> {
    /// What [`Daemon::swap`] takes.
    pub staged: S,
    /// Files that were read and are not named in the fleet file itself (zone files' `$INCLUDE`s): they
    /// are watched and kept with the last good state too. Absolute paths.
    pub also_read: Vec<std::path::PathBuf>,
}

/// Why a daemon could not start: a taken port, a forbidden one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(
    /// What failed and what to do about it, in one line.
    pub String,
);

/// The two kinds of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[dns.NAME]`, run by `nearside-dns`.
    Dns,
    /// `[pop.NAME]`, run by `nearside-edge`.
    Edge,
}

impl Kind {
    /// The program's name, as on the command line.
    pub fn program(self) -> &'static str {
        match self {
            Self::Dns => "nearside-dns",
            Self::Edge => "nearside-edge",
        }
    }

    /// Control and metrics addresses of a node of this kind.
    ///
    /// # Errors
    /// A [`Refusal`] that lists the nodes there are.
    pub fn listeners(self, config: &Config, node: &str) -> Result<Listeners, Refusal> {
        let (section, names): (_, Vec<&str>) = match self {
            Self::Dns => ("dns", config.dns.keys().map(String::as_str).collect()),
            Self::Edge => ("pop", config.pops.keys().map(String::as_str).collect()),
        };
        let found = match self {
            Self::Dns => config.dns.get(node).map(|n| Listeners { control: n.control, metrics: n.metrics }),
            Self::Edge => config.pops.get(node).map(|n| Listeners { control: n.control, metrics: n.metrics }),
        };
        found.ok_or_else(|| {
            Refusal::new(format!(
                "the fleet file has no [{section}.{node}] (--node {node}); it has: {}",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            ))
        })
    }
}

/// Where a node is controlled and scraped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// Control listener.
    pub control: Option<SocketAddr>,
    /// Separate plain listener for `/metrics` only.
    pub metrics: Option<SocketAddr>,
}

/// A program that runs on a node.
pub trait Daemon: Send + Sync + Sized + 'static {
    /// A state built aside, ready to be swapped in.
    type Staged: Send + 'static;

    /// Which section of the fleet file describes this node.
    const KIND: Kind;

    /// The control endpoints that [`Daemon::control`] answers, beside those every node has
    /// ([`crate::routes::ROUTES`]). What is not listed is 404.
    const ROUTES: &'static [crate::Route<()>];

    /// Builds a state aside and checks it, without touching the one that serves. Runs on a blocking
    /// thread; may take seconds; is never called twice at a time.
    ///
    /// # Errors
    /// [`Refusal`] with every mistake found, each with its place.
    fn stage(&self, desired: &Desired) -> Result<Staging<Self::Staged>, Refusal>;

    /// Swaps a staged state in. Instant: readers see the old state or the new one, whole. The first swap
    /// comes before [`Daemon::start`].
    fn swap(&self, staged: Self::Staged);

    /// Binds what the swapped-in state says and serves. Returns once it answers (for DNS: after the first
    /// round of health checks). Called once.
    ///
    /// # Errors
    /// [`StartError`] if a socket can't be had; [`crate::bind::explain`] words it.
    fn start(self: Arc<Self>) -> impl Future<Output = Result<(), StartError>> + Send;

    /// What this program says of itself in its report: serialised under `program` in `GET /v1/status`.
    fn report(&self) -> serde_json::Value;

    /// Whether the node serves now, for `GET /health`: `Err` says why not.
    ///
    /// # Errors
    /// The reason, in words.
    fn health(&self) -> Result<(), String>;

    /// Answers a control request that the node itself does not know (purges, drains, explain).
    /// It is one of [`Daemon::ROUTES`], and the caller's role was checked against it.
    fn control(&self, request: ControlRequest) -> impl Future<Output = ControlResponse> + Send;

    /// Drains and stops: refuses new work, finishes what it has, gives up at the deadline.
    fn stop(&self, deadline: Instant) -> impl Future<Output = ()> + Send;
}
