//! Backups that home makes by itself.

use std::{path::PathBuf, time::Duration};

/// `[controller.backup]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Where they go.
    pub directory: PathBuf,
    /// The age recipient (`age1…`) that can open them; home can't.
    pub recipient: String,
    /// How often.
    pub every: Duration,
    /// How many are kept; older ones are removed.
    pub keep: usize,
}
