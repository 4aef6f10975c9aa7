//! The store: what is kept, where, and who may read it while it is still arriving.
//!
//! It decides nothing about HTTP: `policy` says whether a response may be stored and used, the store
//! keeps bytes and heads, within their bounds. One [`Cache`] serves all worker threads.
//!
//! A request goes: [`Cache::lookup`] → (policy decides) → [`Object::body`], or [`Cache::join`] →
//! [`Join::Lead`] → origin → [`Lease::start`] → a spawned [`fill::drive`] feeds the [`Filler`]; the leader's
//! own client and all who wait read the same [`Object`] through [`Object::body`], each at its own pace.
//!
//! Long, because it is where the parts meet: what enters and leaves the index does so here only.
//!
//! Invariants: no byte is served that its origin did not send for that object (lengths and checksums
//! hold); a fetch begun before a purge is never found after it; memory and disk stay within bounds.

pub mod body;
mod codec;
#[cfg(test)]
mod crash_tests;
mod disk;
mod evict;
pub mod fill;
pub mod flight;
mod index;
mod io;
mod live;
mod memory;
pub mod metrics;
pub mod object;
pub mod region;
#[cfg(test)]
mod scale_tests;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Weak, atomic::AtomicU64},
    time::{Duration, Instant},
};

use nearside_fleet::purge;
use parking_lot::Mutex;
use smallvec::SmallVec;

use self::{
    disk::{Disk, Loaded, Record},
    evict::Comes,
    flight::Flights,
    index::{Index, KeyHash, Packed, Variant, Variants},
    live::Live,
    memory::{Entry, Memory},
    metrics::Metrics,
    object::Content,
};
use crate::{
    policy::{self, CacheKey, Timestamp},
    purge::{Applied, Kind, Order, PurgeError, Purges, Scope, Validity},
};

pub use self::{
    body::{Body, BodyError},
    fill::{FillError, Filler, Keep, RangeLease, SMALL_BYTES_MAX},
    flight::{Join, Lease, Outcome, Waiter},
    index::VARIANTS_MAX,
    live::{BLOCK_BYTES, CHUNK_BYTES},
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
pub struct Cache {
    this: Weak<Cache>,
    secret: u128,
    index: Index,
    memory: Memory,
    disk: Option<Arc<Disk>>,
    flights: Flights,
    purges: Purges,
    /// Nothing was left of an earlier process.
    began_empty: bool,
    /// Ticks of fetches under way: purge records since the oldest can't be forgotten.
    fetches: Mutex<BTreeMap<u64, u32>>,
    metrics: Arc<Metrics>,
    sweeper: sweep::Signal,
    /// Tick of the newest purge that a sweep has seen.
    swept: AtomicU64,
}

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
        let metrics = Arc::new(Metrics::default());
        let opened = options.dir.as_ref().and_then(|dir| {
            let disk = Disk::open(dir, options.disk_bytes_max, &metrics);
            let opened = disk.and_then(|(disk, loaded)| {
                let purges = Purges::open(&dir.join("purges"), loaded.tick)?;
                Ok((disk, loaded, purges))
            });
            let warn = |error: &std::io::Error| {
                metrics.disk_errors.one();
                tracing::warn!(dir = %dir.display(), %error, "cache directory is unusable: caching in memory only");
            };
            opened.inspect_err(warn).ok()
        });
        let (disk, loaded, purges) = match opened {
            Some((disk, loaded, purges)) => (Some(disk), Some(loaded), purges),
            None if options.dir.is_some() => (None, None, Purges::cut_off()),
            None => (None, None, Purges::in_memory()),
        };
        let began_empty = loaded.as_ref().is_none_or(|loaded| loaded.packed.is_empty());
        let (sweeper, signals) = sweep::signal();
        let cache = Arc::new_cyclic(|this| Cache {
            this: Weak::clone(this),
            secret: disk.as_ref().map_or_else(|| fastrand::u128(..), |disk| disk.secret),
            index: Index::new(),
            memory: Memory::new(options.memory_bytes_max),
            disk,
            flights: Flights::new(),
            purges,
            began_empty,
            fetches: Mutex::default(),
            metrics,
            sweeper,
            swept: AtomicU64::new(0),
        });
        if let (Some(disk), Some(loaded)) = (&cache.disk, loaded) {
            disk.attach(&cache.this);
            cache.recall(loaded);
        }
        sweep::start(&cache, signals).map_err(OpenError::Thread)?;
        Ok(cache)
    }

    fn recall(&self, loaded: Loaded) {
        for (hash, packed) in loaded.packed {
            let _too_many = self.index.insert(hash, Variant::Packed(packed));
        }
        tracing::info!(keys = self.index.len(), "cache directory opened");
    }

    /// Finds what is stored under `key`. Resident heads cost one short lock and no await; heads that live on
    /// disk are read first. Purged objects are never among them, nor those of which parts are missing. Cancel-safe.
    pub async fn lookup(&self, key: &CacheKey) -> Candidates {
        let mut found = self.lookup_with_gaps(key).await;
        found.retain(|found| found.object.is_whole());
        found
    }

    /// As [`Cache::lookup`], with the objects of which parts are missing: see [`Object::claim`]. Cancel-safe.
    pub async fn lookup_with_gaps(&self, key: &CacheKey) -> Candidates {
        let hash = KeyHash::of(key, self.secret);
        let mut found = Candidates::new();
        for variant in self.index.find(hash) {
            let object = match variant {
                Variant::Resident(object) => object,
                // Boxed, so that a lookup in memory stays a small future.
                Variant::Packed(packed) => match Box::pin(self.load(hash, packed)).await {
                    Some(object) => object,
                    None => continue,
                },
            };
            if object.key != *key {
                continue;
            }
            let stale_since = match object.validity(self) {
                Validity::Valid => None,
                Validity::StaleSince(at) => Some(at),
                Validity::Gone => {
                    self.remove_purged(hash, |variant| variant.id() == object.id);
                    continue;
                }
            };
            self.touch(&object);
            found.push(Found { object, stale_since });
        }
        found
    }

    /// A hit: keeps it in memory longer, and brings it to disk.
    fn touch(&self, object: &Arc<Object>) {
        object.heat.bump();
        if let Content::Live(live) = &object.content
            && let Some(file) = live.file()
        {
            file.heat.bump();
        }
        if let Some(disk) = &self.disk
            && Self::is_recordable(object)
        {
            disk.admit(object);
        }
    }

    /// Whether a record of it can stand on disk: its content is complete, or can be completed.
    fn is_recordable(object: &Object) -> bool {
        match &object.content {
            Content::Whole(_) => true,
            Content::Live(live) => {
                let is_strong = object.meta().validators.etag.as_ref().is_some_and(|tag| !tag.weak);
                live.file().is_some_and(|file| file.is_complete() || (is_strong && file.length().is_some()))
            }
        }
    }

    async fn load(&self, hash: KeyHash, packed: Packed) -> Option<Arc<Object>> {
        let disk = self.disk.as_ref()?;
        let content = match packed.file {
            0 => None,
            id => Some(disk.file(id)).filter(Option::is_some)?,
        };
        let record = disk.read_record(packed.place).await.filter(|record| record.id == packed.id);
        let Some(record) = record else {
            self.remove(hash, |variant| variant.id() == packed.id && variant.place() == Some(packed.place));
            return None;
        };
        let content = match content {
            None => Content::Whole(record.content),
            Some(file) => {
                // The first chunk now, while a damaged copy can still be a miss; the others as they are read.
                let first = Arc::clone(&file);
                if file.opened_at(0).is_none() && file.has_chunk(0) {
                    let verified = tokio::task::spawn_blocking(move || first.verify(0)).await;
                    if let Err(error) = verified.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                        file.damaged(&error);
                        return None;
                    }
                }
                Content::Live(file.live(|| {
                    let live = Live::new(file.id, &self.this, file.length());
                    live.set_file(Arc::clone(&file));
                    Arc::new(live)
                }))
            }
        };
        self.metrics.disk_loads.one();
        let object = Object::new(&self.this, (record.key, hash), packed.id, record.meta, content);
        *object.place.lock() = Some(packed.place);
        object.try_queue();
        let object = Arc::new(object);
        if !self.index.replace(&object) {
            return None;
        }
        self.admit(Entry::object(Arc::clone(&object)));
        Some(object)
    }

    /// Takes or joins the one fetch for `key`.
    ///
    /// `hint` tells apart what must not wait for each other under one key: a hash of the values of the
    /// fields that the key's responses are known to vary by, 0 where nothing is known yet.
    pub fn join(self: &Arc<Self>, key: &CacheKey, hint: u64) -> Join {
        self.flights.join(self, key, KeyHash::of(key, self.secret), hint, Instant::now())
    }

    /// Takes a fetch of its own that nobody waits for: a request that may not collapse but may be stored.
    pub fn alone(self: &Arc<Self>, key: &CacheKey) -> Lease {
        Lease::alone(self, key, KeyHash::of(key, self.secret))
    }

    /// What is held of `key` at `now`; the largest of its variants. `None`: nothing.
    pub async fn presence(&self, key: &CacheKey, now: Timestamp) -> Option<Presence> {
        let found = self.lookup_with_gaps(key).await;
        let of = |found: &Found| {
            let object = &found.object;
            let meta = object.meta();
            let length = match meta.content {
                policy::Content::Part { complete_length, .. } => complete_length,
                policy::Content::Whole { .. } | policy::Content::HeadOnly => object.length(),
            };
            let bytes = object.bytes_held();
            Presence {
                extent: if length == Some(bytes) { Extent::Cached } else { Extent::Partial },
                bytes,
                length,
                age: meta.age(now),
                fresh_until: found.stale_since.map_or(meta.fresh_until(), |at| at.min(meta.fresh_until())),
            }
        };
        let with_content =
            found.iter().filter(|found| found.object.meta().content != policy::Content::HeadOnly);
        with_content.map(of).max_by_key(|presence| presence.bytes)
    }

    /// Removes what is stored under `key`, and refuses fetches begun before: an unsafe method made it untrue
    /// (RFC 9111 §4.4). In memory at once, not journaled.
    pub fn invalidate(&self, key: &CacheKey, now: Timestamp) {
        self.purges.invalidate(key, now);
        self.remove_key(key);
    }

    /// Removes one stored response: its origin has another generation of it now. Who reads it reads on.
    pub fn outdate(&self, object: &Object) {
        self.metrics.generations.one();
        self.remove(object.hash, |variant| variant.id() == object.id);
    }

    /// Purges. When this returns `Ok`, no request will ever be answered with what the order covers (or, softly,
    /// not without its origin's consent), whatever happens to this process.
    ///
    /// # Errors
    /// [`PurgeError`]; with [`PurgeError::NotDurable`] it is in force until a restart.
    pub async fn purge(self: &Arc<Self>, order: Order, now: Timestamp) -> Result<Applied, PurgeError> {
        self.purge_all(vec![order], now).await
    }

    /// As [`Cache::purge`] for many, with one wait for the disk: see [`Purges::apply_all`].
    ///
    /// # Errors
    /// As [`Cache::purge`].
    pub async fn purge_all(
        self: &Arc<Self>,
        orders: Vec<Order>,
        now: Timestamp,
    ) -> Result<Applied, PurgeError> {
        let cache = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || cache.purge_blocking(&orders, now));
        let stopped = |error| Err(PurgeError::NotDurable(std::io::Error::other(error)));
        task.await.unwrap_or_else(stopped)
    }

    /// As [`Cache::purge_all`], waiting for the disk.
    ///
    /// # Errors
    /// As [`Cache::purge`].
    pub fn purge_blocking(&self, orders: &[Order], now: Timestamp) -> Result<Applied, PurgeError> {
        let applied = self.purges.apply_all(orders, now);
        self.metrics.purges_widened.set(self.purges.widened());
        let mut left_to_sweep = false;
        for order in orders {
            self.metrics.purge_orders.one();
            match (&order.scope, order.kind) {
                (Scope::Key(key), Kind::Hard) => {
                    CacheKey::parse(key).iter().for_each(|key| self.remove_key(key));
                }
                _ => left_to_sweep = true,
            }
        }
        if left_to_sweep {
            self.sweeper.wake();
        }
        applied
    }

    /// What was purged.
    pub fn purges(&self) -> &Purges {
        &self.purges
    }

    /// Finds this store's place in the fleet's sequence of purges, from what home knows of it: see
    /// [`nearside_fleet::purge::Journal`]. Waits for the disk, elsewhere.
    ///
    /// # Errors
    /// [`PurgeError::NotDurable`].
    pub async fn find_place(
        self: &Arc<Self>,
        home: purge::Journal,
        now: Timestamp,
    ) -> Result<(), PurgeError> {
        let (reached, cache) = (self.purge_sequence(), Arc::clone(self));
        if reached >= home.newest || (reached > 0 && reached >= home.trimmed) {
            return Ok(());
        }
        // In this order: what is not under way now is in the index, or begins after home's newest purge.
        let is_empty = self.fetches.lock().is_empty() && self.index.len() == 0;
        let task = tokio::task::spawn_blocking(move || {
            match reached {
                0 if is_empty => cache.purges.skip_to(home.newest)?,
                0 if cache.began_empty => cache.purges.skip_to(home.acknowledged)?,
                _ => {}
            }
            if cache.purge_sequence() < home.trimmed {
                cache.purges.catch_up(home.trimmed, now)
            } else {
                Ok(())
            }
        });
        let stopped = |error| Err(PurgeError::NotDurable(std::io::Error::other(error)));
        task.await.unwrap_or_else(stopped)
    }

    /// All purges of the fleet up to this one are applied here.
    pub fn purge_sequence(&self) -> u64 {
        self.purges.sequence()
    }

    /// Counters and levels, the levels brought up to date.
    pub fn metrics(&self) -> &Metrics {
        let (resident, pinned) = self.memory.bytes();
        self.metrics.memory_bytes.set(resident);
        self.metrics.fill_bytes.set(pinned);
        self.metrics.keys.set(self.index.len() as u64);
        &self.metrics
    }

    /// Whether there is a disk tier that can be written now.
    pub fn is_storing_on_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| !disk.is_paused())
    }

    /// Writes what memory alone holds to disk and snapshots the index, for a planned stop. Waits for the disk.
    pub fn close(&self) {
        let Some(disk) = &self.disk else { return };
        self.index.each_shard(|keys| {
            for object in keys.iter().flat_map(|(_, variants)| variants).filter_map(|variant| match variant {
                Variant::Resident(object) if Self::is_recordable(object) => Some(object),
                _ => None,
            }) {
                disk.admit(object);
            }
            disk.flush();
        });
        if let Err(error) = disk.snapshot() {
            disk.failed("writing a snapshot", &error);
        }
        disk.close();
    }

    // -- Between the store's parts.

    fn begin_fetch(&self) -> u64 {
        // Under the lock, so that no purge record is forgotten between the tick and its registration.
        let mut fetches = self.fetches.lock();
        let tick = self.purges.next_tick();
        *fetches.entry(tick).or_default() += 1;
        self.metrics.fetches.one();
        tick
    }

    fn begin_fetch_at(&self, tick: u64) -> u64 {
        *self.fetches.lock().entry(tick).or_default() += 1;
        self.metrics.fetches.one();
        tick
    }

    fn end_fetch(&self, tick: u64) {
        let mut fetches = self.fetches.lock();
        if let Some(count) = fetches.get_mut(&tick) {
            *count -= 1;
            self.metrics.fetches.sub(1);
            if *count == 0 {
                fetches.remove(&tick);
            }
        }
    }

    fn admit(&self, entry: Entry) -> Comes {
        let (evicted, comes) = self.memory.insert(entry);
        self.let_go(evicted);
        comes
    }

    fn pin(&self, bytes: u64) {
        let evicted = self.memory.pin(bytes);
        self.let_go(evicted);
    }

    fn let_go(&self, evicted: Vec<Entry>) {
        for entry in evicted {
            match entry {
                Entry::Object { object, .. } if !object.is_gone() => {
                    self.metrics.memory_evicted.one();
                    if !self.index.demote(&object)
                        && let Some(file) = object.file_id()
                    {
                        self.forget_content(file);
                    }
                }
                Entry::Object { .. } => {}
                Entry::Block { live, index, block, .. } => {
                    if let Some(live) = live.upgrade() {
                        live.drop_block(index, &block);
                    }
                }
            }
        }
    }

    /// An arriving object can be found from now on.
    fn publish(&self, object: &Arc<Object>) {
        if object.validity(self) != Validity::Valid {
            return;
        }
        let too_many = self.index.insert(object.hash, Variant::Resident(Arc::clone(object)));
        self.discard(object.hash, too_many, object.file_id());
    }

    /// A fill is complete: `done` takes the place of `arriving`, and of what it replaces.
    fn commit(&self, arriving: &Arc<Object>, done: Arc<Object>) {
        if done.validity(self) == Validity::Gone {
            self.withdraw(arriving);
            return;
        }
        if !self.index.replace(&done) {
            self.drop_unfound(&done);
            return;
        }
        self.metrics.objects_stored.one();
        if arriving.heat.is_warm() {
            done.heat.bump();
        }
        let vary = index::vary_hash(&done.meta().vary);
        let replaces = |variant: &Variant| variant.id() < done.id && variant.vary() == vary;
        let replaced = self.index.remove(done.hash, replaces);
        self.discard(done.hash, replaced, done.file_id());
        if let Some(disk) = &self.disk
            && done.file_id().is_some()
        {
            disk.admit(&done);
        }
        let comes = self.admit(Entry::object(Arc::clone(&done)));
        if let Some(disk) = &self.disk
            && comes == Comes::Back
            && Self::is_recordable(&done)
        {
            disk.admit(&done);
        }
        // A purge may have come between the check and the replacement: look again, now that it can be found.
        if done.validity(self) == Validity::Gone {
            self.remove_purged(done.hash, |variant| variant.id() == done.id);
        }
    }

    /// A fill goes on without being stored.
    fn withdraw(&self, object: &Arc<Object>) {
        self.remove(object.hash, |variant| variant.id() == object.id);
        self.drop_unfound(object);
    }

    /// What no index entry refers to leaves no file behind.
    fn drop_unfound(&self, object: &Object) {
        object.set_gone();
        if let Some(file) = object.file_id() {
            self.forget_content(file);
        }
    }

    /// A fill broke off. What arrived of it stays only where the rest can be asked for, with a strong validator.
    fn fill_failed(&self, object: &Arc<Object>) {
        let has_chunks = match &object.content {
            Content::Live(live) => live.file().is_some_and(|file| file.has_any_chunk()),
            Content::Whole(_) => false,
        };
        if !(has_chunks && Self::is_recordable(object)) {
            return self.withdraw(object);
        }
        if let Some(disk) = &self.disk {
            disk.admit(object);
        }
        self.admit(Entry::object(Arc::clone(object)));
    }

    /// A revalidated object takes the place of the old one, unless that was purged meanwhile.
    fn supersede(&self, old: &Arc<Object>, new: &Arc<Object>) {
        let removed = self.index.remove(old.hash, |variant| variant.id() == old.id);
        if removed.is_empty() || new.validity(self) == Validity::Gone {
            new.set_gone();
            return self.discard(old.hash, removed, None);
        }
        let too_many = self.index.insert(new.hash, Variant::Resident(Arc::clone(new)));
        self.discard(new.hash, too_many, new.file_id());
        let was_on_disk = removed.iter().any(|variant| variant.place().is_some());
        self.discard(old.hash, removed, new.file_id());
        if let Some(disk) = &self.disk
            && was_on_disk
        {
            disk.admit(new);
        }
        self.admit(Entry::object(Arc::clone(new)));
    }

    fn remove_key(&self, key: &CacheKey) {
        let hash = KeyHash::of(key, self.secret);
        // By hash alone: of two keys that collide, losing the other one is a miss.
        self.remove_purged(hash, |_| true);
    }

    fn remove(&self, hash: KeyHash, gone: impl FnMut(&Variant) -> bool) -> usize {
        let removed = self.index.remove(hash, gone);
        let count = removed.len();
        self.discard(hash, removed, None);
        count
    }

    fn remove_purged(&self, hash: KeyHash, gone: impl FnMut(&Variant) -> bool) {
        self.metrics.purged.add(self.remove(hash, gone) as u64);
    }

    /// Forgets what left the index: its record, and its file unless that is `kept`.
    fn discard(&self, hash: KeyHash, removed: Variants, kept: Option<u64>) {
        for variant in removed {
            if let Variant::Resident(object) = &variant {
                object.set_gone();
            }
            if let Some(disk) = &self.disk {
                disk.journal(Record::Drop { hash, id: variant.id() });
            }
            if let Some(file) = variant.file().filter(|&file| Some(file) != kept) {
                self.forget_content(file);
            }
        }
    }

    fn forget_content(&self, file: u64) {
        if let Some(disk) = &self.disk
            && let Some(file) = disk.file(file)
        {
            disk.forget_file(&file);
        }
    }

    /// The disk dropped a content file: its objects can't be read any more.
    fn content_dropped(&self, hash: KeyHash, file: u64) {
        let removed = self.index.remove(hash, |variant| variant.file() == Some(file));
        self.discard(hash, removed, Some(file));
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            disk.close();
        }
    }
}
