//! How the controller rolls a snapshot out, where the fleet file says so.

use std::time::Duration;

use super::Id;

/// `canary`, `waves` and `watch` of `[controller]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// PoPs and DNS nodes that have it first; may be empty.
    pub canary: Vec<Id>,
    /// Shares of the PoPs that have it after each wave, percent, growing; empty: the usual ones.
    pub waves: Vec<u8>,
    /// How long each wave is watched; `None`: as usual.
    pub watch: Option<Duration>,
}
