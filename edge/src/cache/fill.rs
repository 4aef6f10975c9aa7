//! Fills: what an origin sends on its way into memory, onto disk, and to whoever reads it already.
//!
//! The fill belongs to the store: [`drive`] runs as its own task, and neither the leader's client nor any other holds it
//! back. What can't be stored (no space, a failing disk, too large for memory alone or for its site) still streams to
//! whoever reads it.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::BodyExt;

use super::{
    Cache,
    disk::DiskFile,
    live::{BLOCK_BYTES, CHUNK_BYTES, Ended, Live, Mode, Sealed},
    object::{Content, Object, Span},
};
use crate::policy::{self, Meta};

/// Largest content that is kept whole: in one piece of memory, and in one record on disk. Twice a frame; a file of its
/// own below that costs more in inode and open(2) than in bytes.
pub const SMALL_BYTES_MAX: u64 = 256 * 1024;
/// How long a reader may hold back others where a response can't be stored. Tests don't wait as long.
const LAGGARD_MAX: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5000 });

/// Whether a fill goes on when nobody reads it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It ends with its last reader, unless it is nearly done.
    WhileRead,
    /// It completes: a refresh or a warming asked for it.
    Always,
}

/// Why a fill must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The last reader left.
    #[error("nobody reads it any more")]
    Abandoned,
    /// More bytes than the head declared.
    #[error("the content is longer than declared")]
    TooLong,
    /// The end came before the declared length.
    #[error("the content is shorter than declared")]
    TooShort,
    /// The origin's body failed.
    #[error("the origin's body failed")]
    Origin,
}

/// Which bytes of what content a response head announces.
#[derive(Debug)]
pub(super) struct Extent {
    pub length: Option<u64>,
    pub start: u64,
    pub end: Option<u64>,
    /// Whether what comes can be kept: all of it, or whole chunks.
    is_storable: bool,
}

impl Extent {
    pub(super) fn of(meta: &Meta) -> Extent {
        match meta.content {
            policy::Content::Whole { length } => Extent { length, start: 0, end: length, is_storable: true },
            policy::Content::HeadOnly => {
                Extent { length: Some(0), start: 0, end: Some(0), is_storable: true }
            }
            // Kept as what it is: its first byte is byte 0 of the content. Large ones are worth whole chunks
            // only: see [`Lease::start_part`].
            policy::Content::Part { first, last, .. } => {
                let length = (last - first).saturating_add(1);
                Extent {
                    length: Some(length),
                    start: 0,
                    end: Some(length),
                    is_storable: length <= SMALL_BYTES_MAX,
                }
            }
        }
    }

    pub(super) fn part(meta: &Meta, span: Span) -> Extent {
        let length = match meta.content {
            policy::Content::Whole { length } => length,
            policy::Content::Part { complete_length, .. } => complete_length,
            policy::Content::HeadOnly => None,
        };
        let whole_chunks = span.start.is_multiple_of(CHUNK_BYTES)
            && (span.end.is_multiple_of(CHUNK_BYTES) || Some(span.end) == length);
        let is_strong = meta.validators.etag.as_ref().is_some_and(|tag| !tag.weak);
        let is_storable = whole_chunks && is_strong && length.is_some_and(|length| span.end <= length);
        Extent { length, start: span.start, end: Some(span.end), is_storable }
    }

    pub(super) fn mode(&self, cache: &Cache) -> Mode {
        let is_part = self.start > 0 || self.end != self.length;
        let disk = cache.disk.as_ref().filter(|disk| disk.takes(self.length));
        let size = self.length.unwrap_or(0);
        if !self.is_storable || cache.memory.is_crowded() {
            Mode::Window
        } else if disk.is_some() && (is_part || size > SMALL_BYTES_MAX) {
            Mode::File
        } else if !is_part && size <= cache.memory.object_bytes_max() {
            Mode::Retain
        } else {
            Mode::Window
        }
    }
}

/// What a fill is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An object of its own.
    Whole,
    /// A missing stretch of a stored object.
    Range,
}

/// The writing end of arriving content. Dropped unfinished, its readers are reset and nothing is stored.
#[derive(Debug)]
pub struct Filler {
    cache: Arc<Cache>,
    object: Arc<Object>,
    live: Arc<Live>,
    id: u64,
    tick: u64,
    purpose: Purpose,
    end: Option<u64>,
    written: u64,
    /// Longer content is not stored.
    stored_bytes_max: u64,
    /// Checksum of the chunk being written.
    chunk: crc32fast::Hasher,
    chunk_is_open: bool,
    reserved_to: u64,
    is_ended: bool,
}

impl Filler {
    pub(super) fn new(
        cache: &Arc<Cache>,
        object: &Arc<Object>,
        live: &Arc<Live>,
        id: u64,
        purpose: Purpose,
    ) -> Filler {
        let (start, end) = live.with_fill(id, |fill| (fill.start, fill.end)).unwrap_or((0, Some(0)));
        Filler {
            cache: Arc::clone(cache),
            object: Arc::clone(object),
            live: Arc::clone(live),
            id,
            tick: cache.begin_fetch_at(id),
            purpose,
            end,
            written: start,
            stored_bytes_max: u64::MAX,
            chunk: crc32fast::Hasher::new(),
            chunk_is_open: false,
            reserved_to: start,
            is_ended: false,
        }
    }

    /// Stores content of up to so many bytes only. What turns out longer streams on to its readers, and is forgotten.
    pub fn at_most(mut self, stored_bytes_max: u64) -> Filler {
        self.stored_bytes_max = stored_bytes_max;
        self
    }

    fn is_too_long(&self) -> bool {
        self.written > self.stored_bytes_max && self.purpose == Purpose::Whole && self.mode() != Mode::Window
    }

    /// Appends. Waits for the disk (or, where nothing can be stored, for readers); never for a slow client otherwise.
    ///
    /// # Errors
    /// [`FillError::TooLong`], [`FillError::Abandoned`].
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), FillError> {
        if self.end.is_some_and(|end| data.len() as u64 > end - self.written) {
            return Err(FillError::TooLong);
        }
        while !data.is_empty() {
            if self.live.is_abandoned(self.id) {
                return Err(FillError::Abandoned);
            }
            let room = (BLOCK_BYTES - self.written % BLOCK_BYTES) as usize;
            let piece = data.split_to(room.min(data.len()));
            let bytes = piece.len() as u64;
            self.written += bytes;
            self.cache.pin(bytes);
            self.live.with_fill(self.id, |fill| fill.pinned += bytes);
            if let Some(sealed) = self.live.append(self.id, piece) {
                self.place(sealed).await?;
            }
        }
        Ok(())
    }

    /// Completes when the last reader has left and the fill is not worth finishing. Never before the first came.
    pub async fn abandoned(&self) {
        loop {
            let moved = self.live.moved.notified();
            if self.live.is_abandoned(self.id) {
                return;
            }
            moved.await;
        }
    }

    /// All bytes came: commits.
    ///
    /// # Errors
    /// [`FillError::TooShort`]; readers are reset, nothing is stored.
    pub async fn finish(mut self) -> Result<(), FillError> {
        if self.end.is_some_and(|end| self.written < end) {
            return Err(FillError::TooShort);
        }
        self.end = Some(self.written);
        if self.is_too_long() {
            self.give_up_storing();
        }
        if let Some(sealed) = self.live.seal_rest(self.id)
            && self.mode() == Mode::File
        {
            self.spool(sealed).await;
        }
        let mode = self.mode();
        if let Some(file) = self.live.file().cloned()
            && mode == Mode::File
            && self.chunk_is_open
        {
            self.close_chunk(&file, self.written);
        }
        self.is_ended = true;
        self.live.end(self.id, Ended::Complete);
        match (self.purpose, mode) {
            (Purpose::Whole, Mode::Retain) => {
                let object = self.whole_in_memory();
                self.cache.commit(&self.object, object);
            }
            (Purpose::Whole, Mode::File) => {
                if let Some(file) = self.live.file() {
                    file.complete(self.live.length());
                }
                self.cache.commit(&self.object, Arc::clone(&self.object));
            }
            (Purpose::Whole, Mode::Window) | (Purpose::Range, _) => {}
        }
        Ok(())
    }

    fn mode(&self) -> Mode {
        self.live.with_fill(self.id, |fill| fill.mode).unwrap_or(Mode::Window)
    }

    /// A small object's blocks as one piece, which later readers share without a lock.
    fn whole_in_memory(&self) -> Arc<Object> {
        if self.written > SMALL_BYTES_MAX {
            return Arc::clone(&self.object);
        }
        let blocks = self.live.sealed_from(0);
        let bytes = match &blocks[..] {
            [only] => only.block.data.clone(),
            blocks => blocks.iter().map(|sealed| &sealed.block.data[..]).collect::<Vec<_>>().concat().into(),
        };
        let owner = (self.object.key.clone(), self.object.hash);
        let weak = Arc::downgrade(&self.cache);
        let object =
            Object::new(&weak, owner, self.object.id, self.object.meta().clone(), Content::Whole(bytes));
        Arc::new(object)
    }

    /// Finds a full block its place by the fill's mode.
    async fn place(&mut self, sealed: Sealed) -> Result<(), FillError> {
        if self.is_too_long() {
            self.give_up_storing();
        }
        match self.mode() {
            Mode::File => self.spool(sealed).await,
            Mode::Retain => self.outgrow().await,
            Mode::Window => {}
        }
        if self.mode() == Mode::Window { self.wait_for_readers().await } else { Ok(()) }
    }

    /// Content of undeclared length that is no longer small goes to a file, or on in memory up to its bound.
    async fn outgrow(&mut self) {
        let is_small = self.written < SMALL_BYTES_MAX || self.end.is_some();
        let disk = self.cache.disk.as_ref().filter(|disk| disk.takes(None));
        if !is_small && disk.is_some() {
            self.live.with_fill(self.id, |fill| fill.mode = Mode::File);
            for sealed in self.live.sealed_from(0) {
                if self.mode() == Mode::File {
                    self.spool(sealed).await;
                }
            }
        } else if self.written > self.cache.memory.object_bytes_max()
            || (!is_small && self.cache.memory.is_crowded())
        {
            self.give_up_storing();
        }
    }

    /// Writes a block to the file; what can't be written is streamed on without being stored.
    async fn spool(&mut self, sealed: Sealed) {
        let length = sealed.block.data.len() as u64;
        match self.try_spool(&sealed).await {
            Ok(file) => {
                let end = sealed.at + length;
                self.chunk.update(&sealed.block.data);
                self.chunk_is_open = true;
                if end.is_multiple_of(CHUNK_BYTES) {
                    self.close_chunk(&file, end);
                }
                self.live.with_fill(self.id, |fill| fill.pinned -= length.min(fill.pinned));
                self.cache.memory.unpin(length);
                self.live.flushed(self.id, &sealed);
            }
            Err(error) => {
                if let Some(disk) = &self.cache.disk {
                    disk.failed("writing content", &error);
                }
                self.give_up_storing();
            }
        }
    }

    fn close_chunk(&mut self, file: &DiskFile, end: u64) {
        self.chunk_is_open = false;
        let chunk = std::mem::take(&mut self.chunk);
        file.commit_chunk(((end - 1) / CHUNK_BYTES) as u32, chunk.finalize());
        // With the first chunk already: what a kill leaves of a long download can be continued after a restart.
        if let Some(disk) = &self.cache.disk
            && Cache::is_recordable(&self.object)
        {
            disk.admit(&self.object);
        }
    }

    async fn try_spool(&mut self, sealed: &Sealed) -> io::Result<Arc<DiskFile>> {
        let Some(disk) = self.cache.disk.clone() else { return Err(io::ErrorKind::StorageFull.into()) };
        let length = self.live.length();
        let first = self.live.file().cloned();
        let owner = (self.object.hash, self.live.id, length);
        let end = sealed.at + sealed.block.data.len() as u64;
        let reserve = if end > self.reserved_to { CHUNK_BYTES } else { 0 };
        self.reserved_to = if reserve > 0 { (end).next_multiple_of(CHUNK_BYTES) } else { self.reserved_to };
        let (data, at) = (sealed.block.data.clone(), sealed.at);
        let written = tokio::task::spawn_blocking(move || {
            let file = match first {
                Some(file) => file,
                None => disk.create(owner)?,
            };
            disk.reserve(&file, reserve)?;
            file.write(&data, at)?;
            Ok(file)
        });
        let file = written.await.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        file.set_live(&self.live);
        self.live.set_file(Arc::clone(&file));
        Ok(file)
    }

    fn give_up_storing(&mut self) {
        self.cache.metrics.fills_unstored.one();
        self.live.with_fill(self.id, |fill| fill.mode = Mode::Window);
        if self.purpose == Purpose::Whole {
            self.cache.withdraw(&self.object);
        }
    }

    /// Where nothing is stored, the readers set the pace.
    async fn wait_for_readers(&self) -> Result<(), FillError> {
        loop {
            let moved = self.live.moved.notified();
            if self.live.is_abandoned(self.id) {
                return Err(FillError::Abandoned);
            }
            if self.live.window_has_room(self.id) {
                return Ok(());
            }
            if tokio::time::timeout(LAGGARD_MAX, moved).await.is_err() {
                self.cache.metrics.readers_cut.add(self.live.cut_laggards(self.id));
            }
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Some(file) = self.live.file().filter(|_| self.purpose == Purpose::Whole) {
            file.set_idle();
        }
        if !self.is_ended {
            self.cache.metrics.fills_failed.one();
            self.live.end(self.id, Ended::Failed);
            if self.purpose == Purpose::Whole {
                self.cache.fill_failed(&self.object);
            }
        }
        self.cache.end_fetch(self.tick);
    }
}

/// The right to fetch one missing stretch of a stored object. Dropped unused, readers of the stretch are reset.
#[derive(Debug)]
pub struct RangeLease {
    filler: Filler,
    span: Span,
}

impl RangeLease {
    pub(super) fn new(
        cache: &Arc<Cache>,
        object: &Arc<Object>,
        live: &Arc<Live>,
        fill: u64,
        span: Span,
    ) -> RangeLease {
        RangeLease { filler: Filler::new(cache, object, live, fill, Purpose::Range), span }
    }

    /// What to ask the origin for.
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// Others are fetched before it: who comes meanwhile for bytes of it had better not wait.
    pub fn queue(&self) {
        self.filler.live.set_queued(self.filler.id);
    }

    /// The origin answered 206 with exactly this span and the object's own strong validator: begin.
    /// Otherwise drop the lease.
    pub fn start(self, keep: Keep) -> Filler {
        self.filler.cache.metrics.fills.one();
        self.filler.cache.metrics.gaps_filled.one();
        self.filler.live.set_begun(self.filler.id, keep);
        self.filler
    }
}

/// Feeds an origin's body to a filler until its end, its failure, or the last reader leaving. Spawn it: the
/// store owns the fill, not the client that caused it.
///
/// # Errors
/// As [`Filler::write`] and [`Filler::finish`], or [`FillError::Origin`].
pub async fn drive<B>(mut filler: Filler, mut body: B) -> Result<(), FillError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    loop {
        let frame = {
            let left = std::pin::pin!(filler.abandoned());
            match select(left, body.frame()).await {
                Either::Left(_) => {
                    filler.cache.metrics.fills_abandoned.one();
                    return Err(FillError::Abandoned);
                }
                Either::Right((frame, _)) => frame,
            }
        };
        match frame {
            // Trailers are not stored (RFC 9110 §6.5.1: they may be discarded).
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    filler.write(data).await?;
                }
            }
            Some(Err(_)) => return Err(FillError::Origin),
            None => return filler.finish().await,
        }
    }
}
