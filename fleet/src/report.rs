//! What a node says of itself (`GET /v1/status`).
//!
//! The frame is the same for every program; what only one of them knows is in [`Report::program_report`].

use serde::{Deserialize, Serialize};

/// One node, now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its name in the fleet file.
    pub node: String,
    /// `nearside-dns` or `nearside-edge`.
    pub program: String,
    /// Version of the program.
    pub version: String,
    /// When the process started, seconds since the Unix epoch.
    pub started: u64,
    /// Its clock now, likewise: home sees a wrong one.
    pub now: u64,
    /// Whether it follows home, or its local fleet file.
    pub enrolled: bool,
    /// The identity it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What it serves.
    pub serving: Serving,
    /// The newest state that it refused, until a later one is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Why it does not serve, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwell: Option<String>,
    /// Why it may not be as it should: warnings for the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the program adds.
    #[serde(default)]
    pub program_report: serde_json::Value,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Serial number of its certificate, in hex.
    pub serial: String,
    /// When it ends, seconds since the Unix epoch.
    pub not_after: u64,
    /// Whether its key was made on the node.
    pub made_here: bool,
    /// Number of the newest list of revoked identities it has; 0 for none.
    pub revocations: u64,
}

/// Which desired state is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Where it came from.
    pub source: Source,
    /// The snapshot's number, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<u64>,
    /// Since when, seconds since the Unix epoch.
    pub since: u64,
}

/// Where a desired state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The `--fleet` file.
    Local,
    /// The node's copy of the last good one, because the file is broken.
    LastGood,
    /// Home.
    Snapshot,
}

/// A refused state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The snapshot's number, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<u64>,
    /// One line per mistake, with file, line and column.
    pub reasons: Vec<String>,
    /// When, seconds since the Unix epoch.
    pub at: u64,
}

/// Answer to a snapshot that can't be taken yet: these files have to be sent first (409).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Hashes, each once.
    pub missing: Vec<crate::digest::Sha256>,
}
