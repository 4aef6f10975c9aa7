//! Load generators for `scripts/bench`, and what they share: queries, and a histogram of latencies.
//!
//! Nothing here judges: the programs print counts, `bench/harness` turns them into ratios.

pub mod histogram;
pub mod query;
