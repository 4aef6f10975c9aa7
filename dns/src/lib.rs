//! nearside-dns: the GeoDNS authoritative server.

pub mod answer;
pub mod clock;
pub mod health;
pub mod rrl;
pub mod stage;
pub mod steering;
pub mod transport;
pub mod view;
pub mod wire;
