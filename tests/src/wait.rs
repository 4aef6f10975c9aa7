//! Waiting for a condition, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` finds something; panics with `what` and the last thing seen when time is up.
///
/// `look` returns `Err` with what it saw instead.
///
/// # Panics
/// At the deadline.
pub fn until<T, S: std::fmt::Display>(
    what: &str,
    at_most: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + at_most;
    loop {
        let saw = match look() {
            Ok(found) => return found,
            Err(saw) => saw,
        };
        assert!(Instant::now() < deadline, "{what}: not within {at_most:?}; last seen: {saw}");
        thread::sleep(LOOK_EVERY);
    }
}
