//! nearside-dns: the GeoDNS authoritative server.

pub mod answer;
pub mod challenge;
pub mod cli;
pub mod clock;
pub mod control;
pub mod explain;
pub mod health;
pub mod rrl;
pub mod server;
pub mod stage;
pub mod steering;
pub mod transport;
pub mod view;
pub mod wire;
