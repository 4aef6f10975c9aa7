//! The memory tier: what is resident, and the bound on all of it.
//!
//! Residents are whole small objects, heads of large ones, and hot blocks of their content. Bytes
//! pinned by fills count against the same bound: they push residents out. It only decides who leaves; the
//! store drops the references.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    evict::{Comes, Heat, Resident, S3Fifo},
    live::Live,
    object::Object,
};

/// A block costs this much besides its bytes.
const BLOCK_OVERHEAD_BYTES: u64 = 160;

/// A stretch of a large object's content in memory.
#[derive(Debug)]
pub(super) struct Block {
    /// Where in the content it begins: at its number's place, but for the first block of an unaligned part.
    pub at: u64,
    pub data: Bytes,
    pub heat: Heat,
}

/// Something in memory that can leave by itself.
#[derive(Debug)]
pub(super) enum Entry {
    /// A head, with its content where that is not on disk.
    Object { object: Arc<Object>, weight: u64 },
    /// A block whose content is on disk as well.
    Block { live: Weak<Live>, index: u32, block: Arc<Block>, fingerprint: u64 },
}

impl Entry {
    pub fn object(object: Arc<Object>) -> Entry {
        let weight = object.weight();
        Entry::Object { object, weight }
    }

    pub fn block(live: &Arc<Live>, index: u32, block: Arc<Block>) -> Entry {
        let fingerprint = live.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(index) + 1);
        Entry::Block { live: Arc::downgrade(live), index, block, fingerprint }
    }
}

impl Resident for Entry {
    fn weight(&self) -> u64 {
        match self {
            Entry::Object { weight, .. } => *weight,
            Entry::Block { block, .. } => block.data.len() as u64 + BLOCK_OVERHEAD_BYTES,
        }
    }

    fn heat(&self) -> &Heat {
        match self {
            Entry::Object { object, .. } => &object.heat,
            Entry::Block { block, .. } => &block.heat,
        }
    }

    fn fingerprint(&self) -> u64 {
        match self {
            Entry::Object { object, .. } => object.hash.low(),
            Entry::Block { fingerprint, .. } => *fingerprint,
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Entry::Object { object, .. } => object.is_gone(),
            Entry::Block { live, .. } => live.strong_count() == 0,
        }
    }
}

/// The tier.
#[derive(Debug)]
pub(super) struct Memory {
    bytes_max: u64,
    /// One lock for inserts and evictions; hits don't take it.
    queues: Mutex<S3Fifo<Entry>>,
    pinned: AtomicU64,
}

impl Memory {
    pub fn new(bytes_max: u64) -> Memory {
        Memory { bytes_max, queues: Mutex::default(), pinned: AtomicU64::new(0) }
    }

    /// Takes an entry in and gives those that have to leave, possibly it itself, and whether it was here before.
    #[must_use]
    pub fn insert(&self, entry: Entry) -> (Vec<Entry>, Comes) {
        let mut queues = self.queues.lock();
        let comes = queues.insert(entry);
        (self.evict(&mut queues), comes)
    }

    /// Counts bytes that a fill holds, and gives the entries that have to leave for them.
    #[must_use]
    pub fn pin(&self, bytes: u64) -> Vec<Entry> {
        let pinned = self.pinned.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let mut queues = self.queues.lock();
        if queues.bytes() + pinned > self.bytes_max { self.evict(&mut queues) } else { Vec::new() }
    }

    /// Gives back what [`Memory::pin`] counted.
    pub fn unpin(&self, bytes: u64) {
        self.pinned.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Whether fills hold half of the tier: then new ones stream without being stored.
    pub fn is_crowded(&self) -> bool {
        self.pinned.load(Ordering::Acquire) > self.bytes_max / 2
    }

    /// Largest object that lives in memory alone.
    pub fn object_bytes_max(&self) -> u64 {
        self.bytes_max / 8
    }

    /// Bytes of residents, and bytes pinned.
    pub fn bytes(&self) -> (u64, u64) {
        (self.queues.lock().bytes(), self.pinned.load(Ordering::Acquire))
    }

    /// Lets go of what was dropped elsewhere.
    pub fn sweep(&self) -> Vec<Entry> {
        self.queues.lock().take_gone()
    }

    fn evict(&self, queues: &mut S3Fifo<Entry>) -> Vec<Entry> {
        let mut evicted = Vec::new();
        let room = self.bytes_max.saturating_sub(self.pinned.load(Ordering::Acquire));
        queues.evict_to(room, |entry| evicted.push(entry));
        evicted
    }
}
