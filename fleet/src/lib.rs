//! The fleet file, and the messages between home and the PoPs.

pub mod config;
pub mod mistake;
pub mod spec;
pub mod units;

pub use self::{
    mistake::Mistake,
    spec::{Loaded, load},
};
