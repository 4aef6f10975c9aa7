//! End to end: the real binaries, real clients, real peers.
//!
//! What the tests in `tests/` share: a block of loopback addresses of one's own ([`loopback`]), processes
//! that die with the test ([`process`]), waiting for a condition ([`wait`]), `dig` and `curl` as they are
//! typed ([`dig`], [`curl`]), origins that count ([`origin`]) and that lie
//! ([`files`]), a network that is cut ([`partition`]), a client that misses no byte ([`visitor`]), a whole fleet ([`fleet`]), and the failure drills ([`drills`]).
//!
//! A failure here is a failed test: functions panic with what they saw rather than return errors.

// A harness fails by panicking; `expect` with what was going on is its error message.
#![allow(clippy::expect_used, clippy::unwrap_used)]
#![forbid(unsafe_code)]

pub mod curl;
pub mod dig;
pub mod drills;
pub mod files;
pub mod fleet;
pub mod loopback;
pub mod origin;
pub mod partition;
pub mod pebble;
pub mod process;
pub mod schema;
pub mod visitor;
pub mod wait;
