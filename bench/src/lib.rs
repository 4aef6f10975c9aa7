//! Load generators for `scripts/bench`, and what they share: queries, a histogram of latencies, TLS clients.
//!
//! Nothing here judges: the programs print counts, `bench/harness` turns them into ratios.

pub mod histogram;
pub mod query;
pub mod unverified;
