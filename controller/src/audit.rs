//! Whose request is being answered, for the audit log.
//!
//! What is done lies many calls below where the caller's address is known; a task-local carries it there. It also
//! tells the API whether what was done was written down, so that nothing an endpoint does goes without a row.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[derive(Clone, Debug)]
struct Answering {
    from: Option<IpAddr>,
    written: Arc<AtomicBool>,
}

tokio::task_local! {
    static ANSWERING: Answering;
}

/// Runs an answer for a caller; whether it wrote to the audit log. Tasks that it starts are not seen.
pub async fn answering<F: Future>(from: Option<IpAddr>, answer: F) -> (F::Output, bool) {
    let written = Arc::new(AtomicBool::new(false));
    let answering = Answering { from, written: Arc::clone(&written) };
    let output = ANSWERING.scope(answering, answer).await;
    (output, written.load(Ordering::Relaxed))
}

/// The address of the caller that is being answered.
pub fn from() -> Option<IpAddr> {
    ANSWERING.try_with(|answering| answering.from).ok().flatten()
}

/// A row was written, or will be.
pub fn written() {
    // Outside of an answer nobody asks.
    let _nobody = ANSWERING.try_with(|answering| answering.written.store(true, Ordering::Relaxed));
}
