//! nearside-dns: the GeoDNS authoritative server.

pub mod answer;
pub mod clock;
pub mod health;
pub mod rrl;
pub mod steering;
pub mod transport;
pub mod wire;
