//! nearside-edge: the caching edge of every PoP.
pub mod policy;
