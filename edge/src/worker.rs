//! Which worker a thread is. Counters and connections are kept per worker, so that the hot path
//! shares no cache line with another core.

use std::cell::Cell;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// This thread's worker, 0 outside of workers.
pub fn index() -> usize {
    INDEX.get()
}

/// Makes this thread worker `index`.
pub fn enter(index: usize) {
    INDEX.set(index);
}
