//! What every Nearside daemon does: start, watch, hold the last good state, serve its control listener, stop.
//!
//! A program implements [`Daemon`] (build a state aside, swap it in, serve, stop) and hands it to
//! [`run::serve`], which does the rest the same way on every node: [`logs`], [`signals`], [`state`] on
//! disk, [`watch`]ing of local files, [`snapshots`] from home, the [`control`] listener, [`metrics`], and
//! the service manager ([`ready`]). Nothing here knows what a DNS answer or a cached object is.
//!
//! Invariant: a state that does not check out is never swapped in, and never stops the one that serves.

#![forbid(unsafe_code)]

pub mod apply;
pub mod args;
pub mod bind;
pub mod certificate;
pub mod control;
pub mod daemon;
pub mod desired;
pub mod enrolled;
pub mod identity;
pub mod last_good;
pub mod load;
pub mod local;
pub mod logs;
pub mod metrics;
pub mod ready;
pub mod renewal;
pub mod routes;
pub mod run;
pub mod signals;
pub mod snapshots;
pub mod state;
pub mod store;
pub mod tls;
pub mod unverified;
pub mod watch;

pub use control::{
    ControlRequest, ControlResponse, Role,
    table::{Access, Route},
};
pub use daemon::{Context, Daemon, Kind, Staging, StartError};
pub use desired::{Desired, Refusal, Source};

#[cfg(test)]
mod test_daemon;
#[cfg(test)]
mod test_identities;

/// Waits for a condition for ten seconds at most.
#[cfg(test)]
pub(crate) async fn test_wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within 10 s");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
