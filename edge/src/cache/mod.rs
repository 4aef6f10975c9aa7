//! The store: what is kept, where, and who may read it while it is still arriving.
//!
//! It decides nothing about HTTP: `policy` says whether a response may be stored and used, the store
//! keeps bytes and heads, within their bounds. One [`Cache`] serves all worker threads.
//!
//! A request goes: [`Cache::lookup`] → (policy decides) → [`Object::body`], or [`Cache::join`] →
//! [`Join::Lead`] → origin → [`Lease::start`] → a spawned [`fill::drive`] feeds the [`Filler`]; the leader's
//! own client and all who wait read the same [`Object`] through [`Object::body`], each at its own pace.
//!
//! Invariants: no byte is served that its origin did not send for that object (lengths and checksums
//! hold); a fetch begun before a purge is never found after it; memory and disk stay within bounds.

pub mod body;
pub mod fill;
pub mod object;

use std::{path::PathBuf, sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::policy::{self, CacheKey, Timestamp};

pub use self::{
    body::{Body, BodyError},
    fill::{FillError, Filler, Join, Lease, Outcome, Waiter},
    object::{Object, Span},
};

/// What [`Cache::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the disk tier; `None`: memory only.
    pub dir: Option<PathBuf>,
    /// Memory tier, bytes, bookkeeping included.
    pub memory_bytes_max: u64,
    /// Disk tier, bytes.
    pub disk_bytes_max: u64,
}

/// Why the store can't start. An unusable directory is none of these: it costs the disk tier only.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refuses a thread.
    #[error("cannot start the cache's writer thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// One stored response under a key.
#[derive(Clone, Debug)]
pub struct Found {
    /// It, possibly still arriving.
    pub object: Arc<Object>,
    /// When a soft purge made it stale.
    pub stale_since: Option<Timestamp>,
}

impl Found {
    /// As policy wants to see it.
    pub fn candidate(&self) -> policy::Candidate<'_> {
        policy::Candidate { meta: self.object.meta(), stale_since: self.stale_since }
    }
}

/// All that is stored under a key, newest first; few, because variants are capped.
pub type Candidates = SmallVec<[Found; 2]>;

/// Answer to "is it cached?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// How much of it.
    pub extent: Extent,
    /// Bytes held.
    pub bytes: u64,
    /// Length of the whole, where known.
    pub length: Option<u64>,
    /// Since it was generated at the origin.
    pub age: Duration,
    /// When its lifetime ends.
    pub fresh_until: Timestamp,
}

/// How much of an object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Cached,
    /// Some chunks, or a fill is under way.
    Partial,
}

/// The store. Shared by all workers as `Arc<Cache>`.
#[derive(Debug)]
pub struct Cache {}

#[allow(clippy::unimplemented)]
impl Cache {
    /// Opens the store, with what an earlier process left in [`Options::dir`].
    ///
    /// A directory that can't be used (missing rights, taken by another process, damaged beyond reading)
    /// costs the disk tier, a warning and a counter, never the start. Blocks for the time of reading the
    /// index: call it before the runtimes start.
    ///
    /// # Errors
    /// [`OpenError`] only where the system can't give a thread.
    pub fn open(options: Options) -> Result<Arc<Cache>, OpenError> {
        let _ = options;
        unimplemented!()
    }

    /// Finds what is stored under `key`. Resident heads cost one short lock and no await; heads that live on
    /// disk are read first. Purged objects are never among them. Cancel-safe.
    pub async fn lookup(&self, key: &CacheKey) -> Candidates {
        let _ = key;
        unimplemented!()
    }

    /// Takes or joins the one fetch for `key`.
    ///
    /// `hint` tells apart what must not wait for each other under one key: a hash of the values of the
    /// fields that the key's responses are known to vary by, 0 where nothing is known yet.
    pub fn join(self: &Arc<Self>, key: &CacheKey, hint: u64) -> Join {
        let _ = (key, hint);
        unimplemented!()
    }

    /// Takes a fetch of its own that nobody waits for: a request that may not collapse but may be stored.
    pub fn alone(self: &Arc<Self>, key: &CacheKey) -> Lease {
        let _ = key;
        unimplemented!()
    }

    /// What is held of `key` at `now`; the largest of its variants. `None`: nothing.
    pub async fn presence(&self, key: &CacheKey, now: Timestamp) -> Option<Presence> {
        let _ = (key, now);
        unimplemented!()
    }

    /// Removes what is stored under `key` (an unsafe method made it untrue, RFC 9111 §4.4), in memory at once.
    pub fn invalidate(&self, key: &CacheKey, now: Timestamp) {
        let _ = (key, now);
        unimplemented!()
    }

    /// Writes what memory alone holds to disk and snapshots the index, for a planned stop.
    pub fn close(&self) {
        unimplemented!()
    }
}
