//! How queries arrive and answers leave.
//!
//! [`bind`] takes the addresses; [`udp`] serves datagrams on threads of its own over [`batch`], [`tcp`]
//! streams on the runtime; [`stats`] counts. What is answered is decided in [`crate::answer`]; here is
//! only what belongs to sockets: sizes, deadlines, limits, counters.

pub mod batch;
pub mod bind;
pub mod encrypted;
pub mod stats;
pub mod tcp;
pub mod udp;
