//! Whether each PoP's addresses answer.

pub mod state;
