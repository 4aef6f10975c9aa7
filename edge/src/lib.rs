//! nearside-edge: the caching edge of every PoP.
pub mod cache;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod framing;
pub mod listen;
pub mod load;
pub mod metrics;
pub mod origin;
pub mod policy;
pub mod purge;
pub mod request;
pub mod site;
pub mod stats;
pub mod tls;
pub mod warm;
pub mod worker;
