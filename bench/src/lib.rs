//! Load generators for scripts/bench.
