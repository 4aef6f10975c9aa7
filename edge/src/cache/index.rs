//! From a key to what is stored under it.
//!
//! Sharded maps from 128-bit hashes to a few variants; a variant is an object in memory, or the place of its
//! record on disk: 57 bytes a key with one variant, 65 to 130 as the maps' load goes. Locks are held for a map operation
//! only, but for [`Index::forget_records`]. It knows neither bounds nor purges,
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
/// More than any machine has cores, and so many that a pass over one of ten million keys holds its lock for under a
/// millisecond; a power of two.
const SHARDS: usize = 256;

/// Keyed hash of a [`CacheKey`]. Aligned to 8 bytes: the 8 that 16 would cost are an eighth of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(Rust, packed(8))]
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
    pub vary: u32,
}

/// Hash of a secondary key, the same in every process. Whoever makes two of them collide loses a variant, and
/// gains nothing: what is served is compared in full.
pub(super) fn vary_hash(vary: &Vary) -> u32 {
    let mut hasher = SipHasher13::new();
    for (name, value) in &vary.fields {
        hasher.write(name.as_str().as_bytes());
        hasher.write_u8(u8::from(value.is_some()));
        value.iter().for_each(|value| hasher.write(value));
        hasher.write_u8(b'\n');
    }
    hasher.finish() as u32
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
    pub fn vary(&self) -> u32 {
        match self {
            Variant::Resident(object) => vary_hash(&object.meta().vary),
            Variant::Packed(packed) => packed.vary,
        }
    }
}

/// All under one key, newest first.
pub(super) type Variants = SmallVec<[Variant; 1]>;

/// What the map keeps of a key: nearly always one variant, and then nothing besides.
#[derive(Debug)]
enum Slot {
    One(Variant),
    Several(Box<Variants>),
}

impl Slot {
    fn of(mut variants: Variants) -> Option<Slot> {
        match variants.len() {
            0 => None,
            1 => variants.pop().map(Slot::One),
            _ => Some(Slot::Several(Box::new(variants))),
        }
    }

    fn into_variants(self) -> Variants {
        match self {
            Slot::One(variant) => Variants::from_buf([variant]),
            Slot::Several(variants) => *variants,
        }
    }

    fn variants(&self) -> &[Variant] {
        match self {
            Slot::One(variant) => std::slice::from_ref(variant),
            Slot::Several(variants) => variants,
        }
    }

    fn variants_mut(&mut self) -> &mut [Variant] {
        match self {
            Slot::One(variant) => std::slice::from_mut(variant),
            Slot::Several(variants) => variants,
        }
    }
}

type Shard = HashMap<KeyHash, Slot>;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[Mutex<Shard>]>,
}

/// Changes what is under a hash.
fn edit<T>(shard: &mut Shard, hash: KeyHash, change: impl FnOnce(&mut Variants) -> T) -> T {
    let mut variants = shard.remove(&hash).map(Slot::into_variants).unwrap_or_default();
    let given = change(&mut variants);
    if let Some(slot) = Slot::of(variants) {
        shard.insert(hash, slot);
    }
    given
}

impl Index {
    pub fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Everything under a hash, newest first.
    pub fn find(&self, hash: KeyHash) -> Variants {
        let shard = self.shards[hash.shard()].lock();
        shard.get(&hash).map(|slot| slot.variants().iter().cloned().collect()).unwrap_or_default()
    }

    /// Adds a variant. Gives what has to go for it: too many under one key.
    #[must_use]
    pub fn insert(&self, hash: KeyHash, variant: Variant) -> Variants {
        edit(&mut self.shards[hash.shard()].lock(), hash, |variants| {
            variants.retain(|known| known.id() != variant.id());
            variants.push(variant);
            variants.sort_unstable_by_key(|variant| std::cmp::Reverse(variant.id()));
            let kept = variants.len().min(VARIANTS_MAX);
            variants.drain(kept..).collect()
        })
    }

    /// Adds a variant unless one with its id is there.
    pub fn ensure(&self, hash: KeyHash, variant: Variant) {
        let mut shard = self.shards[hash.shard()].lock();
        let known = shard.get(&hash).map_or(&[][..], Slot::variants);
        if known.len() >= VARIANTS_MAX || known.iter().any(|known| known.id() == variant.id()) {
            return;
        }
        edit(&mut shard, hash, |variants| {
            variants.push(variant);
            variants.sort_unstable_by_key(|variant| std::cmp::Reverse(variant.id()));
        });
    }

    /// Puts `object` in place of the variant with its id, if that is still there.
    pub fn replace(&self, object: &Arc<Object>) -> bool {
        let mut shard = self.shards[object.hash.shard()].lock();
        let variants = shard.get_mut(&object.hash).map_or(&mut [][..], Slot::variants_mut);
        match variants.iter_mut().find(|variant| variant.id() == object.id) {
            Some(variant) => {
                *variant = Variant::Resident(Arc::clone(object));
                true
            }
            None => false,
        }
    }

    /// `object` leaves memory: what stays is its record on disk, or nothing. Whether something stays (or it was not there).
    pub fn demote(&self, object: &Arc<Object>) -> bool {
        let mut shard = self.shards[object.hash.shard()].lock();
        let Some(slot) = shard.get_mut(&object.hash) else { return true };
        let same =
            |variant: &Variant| matches!(variant, Variant::Resident(known) if Arc::ptr_eq(known, object));
        let Some(variant) = slot.variants_mut().iter_mut().find(|variant| same(variant)) else { return true };
        if let Some(packed) = variant.packed() {
            *variant = Variant::Packed(packed);
            return true;
        }
        edit(&mut shard, object.hash, |variants| variants.retain(|variant| !same(variant)));
        false
    }

    /// Removes those variants that `gone` picks, and gives them.
    #[must_use]
    pub fn remove(&self, hash: KeyHash, mut gone: impl FnMut(&Variant) -> bool) -> Variants {
        let mut removed = Variants::new();
        edit(&mut self.shards[hash.shard()].lock(), hash, |variants| {
            variants.retain(|variant| {
                let goes = gone(variant);
                if goes {
                    removed.push(variant.clone());
                }
                !goes
            });
        });
        removed
    }

    /// Records of which `is_gone` says so are gone: variants that were nowhere else go, those in memory only forget them.
    /// A pass over everything, a shard at a time, under its lock: some 10 ns a key.
    pub fn forget_records(&self, is_gone: impl Fn(Place) -> bool) {
        let stays = |variant: &Variant| match variant {
            Variant::Resident(object) => {
                let place = *object.place.lock();
                if place.is_some_and(&is_gone) {
                    object.unqueue();
                }
                true
            }
            Variant::Packed(packed) => !is_gone(packed.place),
        };
        for shard in &self.shards {
            shard.lock().retain(|_, slot| match slot {
                Slot::One(variant) => stays(variant),
                Slot::Several(variants) => {
                    variants.retain(|variant| stays(variant));
                    !variants.is_empty()
                }
            });
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Visits all keys, a shard at a time, each shard copied out of its lock.
    pub fn each_shard(&self, mut visit: impl FnMut(Vec<(KeyHash, Variants)>)) {
        for shard in &self.shards {
            let copy = |(hash, slot): (&KeyHash, &Slot)| (*hash, slot.variants().iter().cloned().collect());
            let copied = shard.lock().iter().map(copy).collect();
            visit(copied);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_costs_57_bytes_at_full_load() {
        assert_eq!(size_of::<Packed>(), 32);
        assert_eq!(size_of::<Variant>(), 32);
        // And a control byte of the map.
        assert_eq!(size_of::<(KeyHash, Slot)>(), 56);
    }
}
