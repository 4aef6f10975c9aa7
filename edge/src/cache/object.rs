//! A stored response: its head, and the content behind it.
//!
//! An object never changes; a revalidation makes a new one over the same content, and who reads the old one
//! is not disturbed. Content is either whole in memory, or [`Live`]: arriving, or on disk in chunks.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use super::{
    Cache,
    body::Body,
    disk::Place,
    evict::Heat,
    fill::RangeLease,
    index::KeyHash,
    live::{CHUNK_BYTES, Live},
    region::FileRegion,
};
use crate::{
    policy::{CacheKey, Meta, Timestamp},
    purge::{Subject, Validity},
};

/// Bytes `start..end` of an object's content.
pub type Span = Range<u64>;

/// What an object costs besides its fields and content: map entry, queue entry, allocations.
const OVERHEAD_BYTES: u64 = 256;

/// Copies all values into one piece of memory: as they come from a connection, each keeps the whole buffer alive that the
/// head was read into, several times what a small object weighs.
pub(super) fn own_values(headers: &mut HeaderMap) {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values_mut().for_each(|value| all.extend_from_slice(value.as_bytes()));
    let mut all = all.freeze();
    for value in headers.values_mut() {
        // The same bytes: they can't be refused.
        if let Ok(mut own) = HeaderValue::from_maybe_shared(all.split_to(value.len())) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
}

/// The content behind a head.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Complete, in memory.
    Whole(Bytes),
    /// Arriving, or in blocks.
    Live(Arc<Live>),
}

/// Whether a small object has been given to the disk's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum OnDisk {
    No,
    Queued,
}

/// One stored (or arriving) response.
pub struct Object {
    pub(super) key: CacheKey,
    pub(super) hash: KeyHash,
    /// Tick at which its fetch began: its identity, and what purges compare.
    pub(super) id: u64,
    /// Tick at which the fetch of its content began: stays when a revalidation gives it a new head.
    pub(super) generation: u64,
    meta: Meta,
    tags: Box<[Box<str>]>,
    pub(super) content: Content,
    pub(super) heat: Heat,
    pub(super) cache: Weak<Cache>,
    /// Where its record is on disk.
    pub(super) place: Mutex<Option<Place>>,
    on_disk: AtomicU8,
    /// Tick of the newest purge it was checked against.
    checked: AtomicU64,
    /// Milliseconds of the soft purge that covers it, plus one; 0: none.
    stale_since: AtomicU64,
    gone: AtomicBool,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("key", &self.key).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Object {
    pub(super) fn new(
        cache: &Weak<Cache>,
        (key, hash): (CacheKey, KeyHash),
        id: u64,
        meta: Meta,
        content: Content,
    ) -> Object {
        Object {
            key,
            hash,
            id,
            generation: id,
            tags: crate::purge::tags(&meta.headers),
            meta,
            content,
            heat: Heat::default(),
            cache: Weak::clone(cache),
            place: Mutex::new(None),
            on_disk: AtomicU8::new(OnDisk::No as u8),
            checked: AtomicU64::new(0),
            stale_since: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// Its head. Cloning `headers` copies no field value.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its key.
    pub fn key(&self) -> &CacheKey {
        &self.key
    }

    /// Identifies its content: objects with the same number hold the same bytes, also over restarts. Two with different
    /// numbers may hold the same all the same.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Length of the whole content; `None` while a fill of undeclared length runs.
    pub fn length(&self) -> Option<u64> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes.len() as u64),
            Content::Live(live) => live.length(),
        }
    }

    /// Content that is complete and in memory: what needs no reader.
    pub fn whole(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes),
            Content::Live(_) => None,
        }
    }

    /// Where `bytes` of its content, all of it in memory, from `at` on lie on disk, if they do and can be sent from there.
    pub fn region(&self, at: u64, bytes: u64) -> Option<FileRegion> {
        let whole = self.whole()?;
        let place = (*self.place.lock())?;
        let segment = self.cache.upgrade()?.disk.as_ref()?.segment(place.segment)?;
        // A record ends with its content.
        let record_end = u64::from(place.offset) + u64::from(place.length.get());
        let content_at = record_end.checked_sub(whole.len() as u64)?;
        FileRegion::of_record(segment, content_at + at, bytes)
    }

    /// Reads `span` (`None`: everything), cut off at the content's end. Bytes not there yet are waited for while
    /// a fill brings them; bytes that no fill brings end the body with [`super::BodyError::Missing`]: see
    /// [`Object::claim`].
    pub fn body(&self, span: Option<Span>) -> Body {
        Body::new(&self.content, span)
    }

    /// Whether all of `span` is there or being brought.
    pub fn has(&self, span: Span) -> bool {
        match &self.content {
            Content::Whole(_) => true,
            Content::Live(live) => live.gaps(span).is_empty(),
        }
    }

    /// Whether what is missing at `at` will come only after much else: a request of its own has it sooner.
    pub fn is_far(&self, at: u64) -> bool {
        match &self.content {
            Content::Whole(_) => false,
            Content::Live(live) => live.is_far(at),
        }
    }

    /// Whether all of its content is there or being brought.
    pub fn is_whole(&self) -> bool {
        match &self.content {
            Content::Whole(_) => true,
            Content::Live(live) => live.is_whole(),
        }
    }

    /// Bytes of its content that are there now.
    pub fn bytes_held(&self) -> u64 {
        match &self.content {
            Content::Whole(bytes) => bytes.len() as u64,
            Content::Live(live) => live.bytes_held(),
        }
    }

    /// Takes the fetches that `span` still needs, widened to whole chunks: the caller asks its origin for each
    /// [`RangeLease::span`] (with `If-Range`). Chunks that others already fetch are not among them.
    /// Empty too where the content is not on disk: then nothing can be missing, or nothing can be added.
    pub fn claim(self: &Arc<Self>, span: Span) -> Vec<RangeLease> {
        let (Content::Live(live), Some(cache)) = (&self.content, self.cache.upgrade()) else {
            return Vec::new();
        };
        let claimed = live.claim(span, || cache.purges.next_tick());
        claimed.into_iter().map(|(fill, span)| RangeLease::new(&cache, self, live, fill, span)).collect()
    }

    /// `span` widened to whole chunks of content `length` long: what to ask an origin for, so that all of the
    /// answer can be kept.
    pub fn chunks_around(span: Span, length: Option<u64>) -> Span {
        let end = span.end.div_ceil(CHUNK_BYTES).saturating_mul(CHUNK_BYTES);
        span.start / CHUNK_BYTES * CHUNK_BYTES..length.map_or(end, |length| end.min(length))
    }

    /// Bytes it takes in memory: head, and content that leaves with it.
    pub(super) fn weight(&self) -> u64 {
        let fields: usize =
            self.meta.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 96).sum();
        let vary = &self.meta.vary.fields;
        let vary: usize =
            vary.iter().map(|(_, value)| 64 + value.as_ref().map_or(0, |value| value.len())).sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 16).sum();
        let content = match &self.content {
            Content::Whole(bytes) => bytes.len() as u64,
            Content::Live(live) => size_of::<Live>() as u64 + live.retained_bytes(),
        };
        (size_of::<Object>() + self.key.as_str().len() + fields + vary + tags) as u64
            + OVERHEAD_BYTES
            + content
    }

    /// What purges say of it; a look at one number while nothing was purged since the last time.
    pub(super) fn validity(&self, cache: &Cache) -> Validity {
        let latest = cache.purges.latest();
        if self.checked.load(Ordering::Acquire) < latest {
            let subject = Subject { key: &self.key, tags: &self.tags, birth: self.id };
            match cache.purges.check(&subject) {
                Validity::Gone => return Validity::Gone,
                Validity::StaleSince(at) => self.stale_since.store(at.millis() + 1, Ordering::Release),
                Validity::Valid => {}
            }
            self.checked.fetch_max(latest, Ordering::AcqRel);
        }
        match self.stale_since.load(Ordering::Acquire) {
            0 => Validity::Valid,
            since => Validity::StaleSince(Timestamp::from_millis(since - 1)),
        }
    }

    /// Claims the one hand-over to the disk's writer.
    pub(super) fn try_queue(&self) -> bool {
        let (no, queued) = (OnDisk::No as u8, OnDisk::Queued as u8);
        self.on_disk.load(Ordering::Relaxed) == no
            && self.on_disk.compare_exchange(no, queued, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Its record on disk is gone, or never came to be: it may be written (again).
    pub(super) fn unqueue(&self) {
        *self.place.lock() = None;
        self.on_disk.store(OnDisk::No as u8, Ordering::Release);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// The file its content is in.
    pub(super) fn file_id(&self) -> Option<u64> {
        match &self.content {
            Content::Whole(_) => None,
            Content::Live(live) => live.file().map(|file| file.id),
        }
    }
}
