//! Time for everything that decides: wall time that never runs backwards while the process lives.
//!
//! The wall clock is read once, at start; from there on the monotonic clock counts. A step of the
//! system clock (NTP, a person) therefore never flips a health state or stretches a TTL. The price:
//! a clock that was wrong at start stays wrong until the next start, which only shows in timestamps.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::health::state::Moment;

/// Wall and monotonic time taken together at the first use.
static START: LazyLock<(Moment, Instant)> = LazyLock::new(|| {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (Moment(0).plus(since_epoch), Instant::now())
});

/// The time now.
pub fn now() -> Moment {
    let (wall, instant) = *START;
    wall.plus(instant.elapsed())
}

#[cfg(test)]
mod tests {
    #[test]
    fn does_not_run_backwards() {
        let first = super::now();
        assert!(super::now() >= first);
        assert!(first.0 > 1_700_000_000_000, "milliseconds since 1970");
    }
}
