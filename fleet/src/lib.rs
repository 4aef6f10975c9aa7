//! The fleet file, and the messages between home and the PoPs.

pub mod config;
