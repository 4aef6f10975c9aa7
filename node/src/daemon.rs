//! What a program must be able to do for [`crate::run::serve`] to run it as a node.
//!
//! The life of a daemon: it is made with a [`Context`] and no configuration; a desired state is *staged*
//! (built and checked aside) and *swapped* in; then it *starts* (binds its sockets). From there on every
//! change is stage and swap again, until it *stops*. Implemented by `nearside-dns` and `nearside-edge`.

use std::{future::Future, sync::Arc, time::Instant};

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

/// A program that runs on a node.
pub trait Daemon: Send + Sync + Sized + 'static {
    /// A state built aside, ready to be swapped in.
    type Staged: Send + 'static;

    /// The program's name, as in its command line (`nearside-dns`).
    const PROGRAM: &'static str;

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
    /// The caller's role was checked: [`crate::Role::may_change`] holds for every method but GET.
    fn control(&self, request: ControlRequest) -> impl Future<Output = ControlResponse> + Send;

    /// Drains and stops: refuses new work, finishes what it has, gives up at the deadline.
    fn stop(&self, deadline: Instant) -> impl Future<Output = ()> + Send;
}
