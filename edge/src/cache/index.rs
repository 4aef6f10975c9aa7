//! From a key to what is stored under it.
//!
//! Sharded maps from 128-bit hashes to a few variants; a variant is an object in memory, or the place of its
//! record on disk (40 bytes). Locks are held for a map operation only. It knows neither bounds nor purges,
//! and a hash is not a key: whoever looks up compares the whole key.

use std::{hash::Hasher, sync::Arc};

use hashbrown::HashMap;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use super::{disk::Place, object::Object};
use crate::policy::{CacheKey, vary::Vary};

/// Variants kept per key. Past it the oldest goes: Vary on a field with many values must not fill the store.
pub const VARIANTS_MAX: usize = 16;
/// More than any machine has cores; a power of two.
const SHARDS: usize = 64;

/// Keyed hash of a [`CacheKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KeyHash(pub u128);

impl KeyHash {
    pub fn of(key: &CacheKey, secret: u128) -> KeyHash {
        let mut hasher = SipHasher13::new_with_keys(secret as u64, (secret >> 64) as u64);
        hasher.write(key.as_str().as_bytes());
        KeyHash(hasher.finish128().as_u128())
    }

    pub fn low(self) -> u64 {
        self.0 as u64
    }

    fn shard(self) -> usize {
        (self.0 >> 120) as usize % SHARDS
    }
}

/// One variant.
#[derive(Clone, Debug)]
pub(super) enum Variant {
    Resident(Arc<Object>),
    Packed(Packed),
}

/// A variant whose head is on disk only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub id: u64,
    pub place: Place,
    /// File of its content; 0: the record holds it.
    pub file: u64,
    /// Hash of its secondary key: a newer response to the same request fields replaces it unread.
    pub vary: u64,
}

/// Hash of a secondary key, the same in every process. Whoever makes two of them collide loses a variant, and
/// gains nothing: what is served is compared in full.
pub(super) fn vary_hash(vary: &Vary) -> u64 {
    let mut hasher = SipHasher13::new();
    for (name, value) in &vary.fields {
        hasher.write(name.as_str().as_bytes());
        hasher.write_u8(u8::from(value.is_some()));
        value.iter().for_each(|value| hasher.write(value));
        hasher.write_u8(b'\n');
    }
    hasher.finish()
}

impl Variant {
    pub fn id(&self) -> u64 {
        match self {
            Variant::Resident(object) => object.id,
            Variant::Packed(packed) => packed.id,
        }
    }

    pub fn file(&self) -> Option<u64> {
        match self {
            Variant::Resident(object) => object.file_id(),
            Variant::Packed(packed) => Some(packed.file).filter(|&file| file != 0),
        }
    }

    pub fn place(&self) -> Option<Place> {
        match self {
            Variant::Resident(object) => *object.place.lock(),
            Variant::Packed(packed) => Some(packed.place),
        }
    }

    /// What stays of it when memory is gone.
    pub fn packed(&self) -> Option<Packed> {
        let place = self.place()?;
        Some(Packed { id: self.id(), place, file: self.file().unwrap_or(0), vary: self.vary() })
    }

    /// Hash of its secondary key.
    pub fn vary(&self) -> u64 {
        match self {
            Variant::Resident(object) => vary_hash(&object.meta().vary),
            Variant::Packed(packed) => packed.vary,
        }
    }
}

pub(super) type Variants = SmallVec<[Variant; 1]>;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[Mutex<HashMap<KeyHash, Variants>>]>,
}

impl Index {
    pub fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Everything under a hash, newest first.
    pub fn find(&self, hash: KeyHash) -> Variants {
        self.shards[hash.shard()].lock().get(&hash).cloned().unwrap_or_default()
    }

    /// Adds a variant. Gives what has to go for it: too many under one key.
    #[must_use]
    pub fn insert(&self, hash: KeyHash, variant: Variant) -> Variants {
        let mut shard = self.shards[hash.shard()].lock();
        let variants = shard.entry(hash).or_default();
        variants.retain(|known| known.id() != variant.id());
        variants.push(variant);
        variants.sort_unstable_by_key(|variant| std::cmp::Reverse(variant.id()));
        if variants.len() > VARIANTS_MAX { variants.drain(VARIANTS_MAX..).collect() } else { Variants::new() }
    }

    /// Adds a variant unless one with its id is there.
    pub fn ensure(&self, hash: KeyHash, variant: Variant) {
        let mut shard = self.shards[hash.shard()].lock();
        let variants = shard.entry(hash).or_default();
        if variants.len() < VARIANTS_MAX && variants.iter().all(|known| known.id() != variant.id()) {
            variants.push(variant);
            variants.sort_unstable_by_key(|variant| std::cmp::Reverse(variant.id()));
        }
    }

    /// Puts `object` in place of the variant with its id, if that is still there.
    pub fn replace(&self, object: &Arc<Object>) -> bool {
        let mut shard = self.shards[object.hash.shard()].lock();
        let variants = shard.get_mut(&object.hash);
        match variants.and_then(|variants| variants.iter_mut().find(|variant| variant.id() == object.id)) {
            Some(variant) => {
                *variant = Variant::Resident(Arc::clone(object));
                true
            }
            None => false,
        }
    }

    /// Keeps only the record on disk of an object that leaves memory. Gives `false` where it has none: then
    /// it is removed.
    pub fn demote(&self, object: &Object) -> bool {
        let mut shard = self.shards[object.hash.shard()].lock();
        let Some(variants) = shard.get_mut(&object.hash) else { return true };
        let same = |variant: &Variant| matches!(variant, Variant::Resident(known) if std::ptr::eq(&raw const **known, object));
        let Some(at) = variants.iter().position(same) else { return true };
        if let Some(packed) = variants[at].packed() {
            variants[at] = Variant::Packed(packed);
            return true;
        }
        variants.remove(at);
        if variants.is_empty() {
            shard.remove(&object.hash);
        }
        false
    }

    /// Removes those variants that `gone` picks, and gives them.
    #[must_use]
    pub fn remove(&self, hash: KeyHash, mut gone: impl FnMut(&Variant) -> bool) -> Variants {
        let mut shard = self.shards[hash.shard()].lock();
        let Some(variants) = shard.get_mut(&hash) else { return Variants::new() };
        let mut removed = Variants::new();
        variants.retain(|variant| {
            let goes = gone(variant);
            if goes {
                removed.push(variant.clone());
            }
            !goes
        });
        if variants.is_empty() {
            shard.remove(&hash);
        }
        removed
    }

    /// The record at `place` is gone: the variant that was nowhere else goes, one in memory only forgets it.
    pub fn forget_place(&self, hash: KeyHash, place: Place) {
        let mut shard = self.shards[hash.shard()].lock();
        let Some(variants) = shard.get_mut(&hash) else { return };
        variants.retain(|variant| match variant {
            Variant::Resident(object) => {
                let is_there = *object.place.lock() == Some(place);
                if is_there {
                    object.unqueue();
                }
                true
            }
            Variant::Packed(packed) => packed.place != place,
        });
        if variants.is_empty() {
            shard.remove(&hash);
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Visits all keys, a shard at a time, each shard copied out of its lock.
    pub fn each_shard(&self, mut visit: impl FnMut(Vec<(KeyHash, Variants)>)) {
        for shard in &self.shards {
            let copy = shard.lock().iter().map(|(hash, variants)| (*hash, variants.clone())).collect();
            visit(copy);
        }
    }
}
