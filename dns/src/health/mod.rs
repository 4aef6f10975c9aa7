//! Whether each PoP's addresses answer.

pub mod probe;
pub mod state;
