//! The fleet file, and the messages between home and the PoPs.
//!
//! Two languages meet here: what a person writes ([`load`] → [`config::Config`]), and what the programs say
//! to each other ([`snapshot`], [`purge`], [`report`]). Nothing here opens a socket; the fleet file is the
//! only file that is read.

pub mod config;
pub mod countries;
pub mod digest;
pub mod fields;
pub mod files;
pub mod glob;
pub mod mistake;
pub mod patterns;
pub mod purge;
pub mod report;
pub mod seal;
pub mod signing;
pub mod snapshot;
pub mod spec;
pub mod stats;
pub mod template;
pub mod tickets;
pub mod units;

pub use self::{
    digest::Sha256,
    files::Files,
    mistake::Mistake,
    spec::{Loaded, load, load_with},
};
