//! The state a node should be in, and why one is refused.
//!
//! [`Desired`] is one validated fleet configuration together with where it came from: the local fleet
//! file, the copy of the last good one, or a snapshot from home. All paths in it are real paths on this
//! machine, so that a daemon reads files the same way in all three cases. Choosing among the three, and
//! following changes, is [`crate::run`]'s work.

use std::{fmt, path::PathBuf, sync::Arc};

use nearside_fleet::{config::Config, report};

/// A fleet configuration to stage, with real paths.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The whole fleet; its paths exist on this machine.
    pub config: Arc<Config>,
    /// The fleet file that was read (in a snapshot: its materialised copy).
    pub fleet_file: PathBuf,
    /// Where this state came from.
    pub source: Source,
}

/// Where a desired state came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The fleet file named on the command line.
    Local,
    /// This node's copy of the last good fleet file; the local one is broken.
    LastGood,
    /// An accepted snapshot from home.
    Snapshot(u64),
}

impl Source {
    /// The number, if it is a snapshot.
    pub fn snapshot(&self) -> Option<u64> {
        match self {
            Self::Snapshot(number) => Some(*number),
            Self::Local | Self::LastGood => None,
        }
    }
}

impl From<&Source> for report::Source {
    fn from(source: &Source) -> Self {
        match source {
            Source::Local => Self::Local,
            Source::LastGood => Self::LastGood,
            Source::Snapshot(_) => Self::Snapshot,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("the local fleet file"),
            Self::LastGood => f.write_str("the copy of the last good fleet file"),
            Self::Snapshot(number) => write!(f, "snapshot {number}"),
        }
    }
}

/// Why a desired state was not taken, in words for the person who wrote it.
///
/// Each reason is one line that stands alone: `file:line:column: what was read, what was expected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One line per mistake; never empty.
    pub reasons: Vec<String>,
    /// Files that were read beyond those the fleet file names: the mistake may be mended in one of them, so
    /// they are watched.
    pub also_read: Vec<PathBuf>,
}

impl Refusal {
    /// A refusal for one reason.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reasons: vec![reason.to_string()], also_read: Vec::new() }
    }

    /// A refusal for several reasons.
    ///
    /// # Panics
    /// Never: an empty list becomes one reason that says that none was given.
    pub fn all(reasons: Vec<String>) -> Self {
        if reasons.is_empty() {
            return Self::new("refused without a reason");
        }
        Self { reasons, also_read: Vec::new() }
    }
}

impl Refusal {
    /// The same refusal, with files to watch beside those the fleet file names.
    #[must_use]
    pub fn having_read(mut self, files: Vec<PathBuf>) -> Self {
        self.also_read = files;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons.join("\n"))
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_always_has_a_reason() {
        assert_eq!(Refusal::all(Vec::new()).reasons.len(), 1);
        assert_eq!(Refusal::all(vec!["a".into(), "b".into()]).to_string(), "a\nb");
    }
}
