//! The fleet file, and the messages between home and the PoPs.

pub mod config;
pub mod files;
pub mod mistake;
pub mod spec;
pub mod units;

pub use self::{
    files::Files,
    mistake::Mistake,
    spec::{Loaded, load, load_with},
};
