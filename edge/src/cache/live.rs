//! Content that is arriving, or kept in blocks: what its readers may read now, and what they wait for.
//!
//! A position is, in this order: in a block in memory; in the open end of a fill; on disk (the chunk is there, or the
//! fill wrote that far); on its way, when a fill will reach it; or missing. Fills append and wake readers; readers
//! hold nothing of a fill but their position. All state sits under one short lock; disk access happens outside.
//!
//! Memory per fill is fixed: what is on disk leaves through the memory tier, a small object is bounded by its
//! size, and where nothing can be stored a window of [`WINDOW_BYTES`] moves with the slowest reader.
//!
//! Long, because readers, fills and gaps meet under that one lock and share its invariants.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{
    Cache,
    body::BodyError,
    disk::DiskFile,
    evict::Heat,
    fill::Keep,
    memory::{Block, Entry},
    object::Span,
};

/// What is read, written and sent at once. Frames of 128 to 256 KiB carry the most bytes per CPU-second; the lower end
/// halves what 300 slow clients hold.
pub const BLOCK_BYTES: u64 = 128 * 1024;
/// What is there or missing as a whole, with one checksum.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// How far readers of a response that can't be stored may be apart.
pub const WINDOW_BYTES: u64 = 1 << 20;
/// Pieces below it are joined: a dripping origin must not cost a list entry per byte.
const PIECE_BYTES_MIN: usize = 16 * 1024;
/// How far past what has arrived a reader may begin and wait for it: a second or so of a busy origin's. Whoever
/// seeks further is better served by a request of its own.
const FAR_BYTES: u64 = 16 << 20;
/// A fill is nearly done, and worth finishing unread, with so little missing (or a quarter of the whole).
const NEARLY_DONE_BYTES: u64 = 1 << 20;

/// Where a fill's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They stay in memory until the end.
    Retain,
    /// Block by block to the file.
    File,
    /// To the readers only: nothing is stored.
    Window,
}

#[derive(Debug)]
pub(super) struct FillState {
    pub id: u64,
    pub start: u64,
    pub end: Option<u64>,
    /// Readers may read up to here.
    pub written: u64,
    /// On disk up to here.
    pub flushed: u64,
    pub mode: Mode,
    pub keep: Keep,
    /// Bytes counted as pinned in the memory tier.
    pub pinned: u64,
    /// Readers that had come before it: a fill for a later one is not abandoned because they left.
    readers_before: u64,
    /// Others are fetched before it.
    is_queued: bool,
    open: Vec<Bytes>,
    open_at: u64,
}

impl FillState {
    fn covers(&self, at: u64) -> bool {
        self.start <= at && self.end.is_none_or(|end| at < end)
    }

    fn is_nearly_done(&self) -> bool {
        self.end.is_some_and(|end| {
            let left = end - self.written;
            left <= NEARLY_DONE_BYTES || left <= (end - self.start) / 4
        })
    }

    fn piece(&self, at: u64) -> Option<Bytes> {
        let mut piece_at = self.open_at;
        for piece in &self.open {
            let end = piece_at + piece.len() as u64;
            if at >= piece_at && at < end {
                return Some(piece.slice((at - piece_at) as usize..));
            }
            piece_at = end;
        }
        None
    }

    fn take_open(&mut self) -> (u64, Bytes) {
        let length = (self.written - self.open_at) as usize;
        let mut whole = BytesMut::with_capacity(length);
        self.open.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
        let at = std::mem::replace(&mut self.open_at, self.written);
        (at, whole.freeze())
    }
}

#[derive(Debug)]
struct Reader {
    at: u64,
    waker: Option<Waker>,
    is_cut: bool,
}

#[derive(Debug)]
struct State {
    length: Option<u64>,
    blocks: HashMap<u32, Arc<Block>>,
    fills: SmallVec<[FillState; 1]>,
    readers: HashMap<u64, Reader>,
    readers_ever: u64,
    /// Why what is missing is missing, where something went wrong.
    broken: Option<BodyError>,
}

/// What a reader gets at its position.
#[derive(Debug)]
pub(super) enum Step {
    Data(Bytes),
    /// Read so many bytes of the file from there; the block's number is for [`Live::keep_block`].
    Read {
        file: Arc<DiskFile>,
        at: u64,
        length: usize,
        whole_block: bool,
    },
    Wait,
    End,
    Fail(BodyError),
}

/// A block that became complete.
#[derive(Debug)]
pub(super) struct Sealed {
    pub at: u64,
    pub block: Arc<Block>,
}

/// Content in blocks.
#[derive(Debug)]
pub(super) struct Live {
    pub id: u64,
    cache: Weak<Cache>,
    state: Mutex<State>,
    /// Readers moved or left.
    pub moved: Notify,
    file: OnceLock<Arc<DiskFile>>,
    retained: AtomicU64,
}

impl Live {
    pub fn new(id: u64, cache: &Weak<Cache>, length: Option<u64>) -> Live {
        Live {
            id,
            cache: Weak::clone(cache),
            state: Mutex::new(State {
                length,
                blocks: HashMap::new(),
                fills: SmallVec::new(),
                readers: HashMap::new(),
                readers_ever: 0,
                broken: None,
            }),
            moved: Notify::new(),
            file: OnceLock::new(),
            retained: AtomicU64::new(0),
        }
    }

    pub fn file(&self) -> Option<&Arc<DiskFile>> {
        self.file.get()
    }

    /// The file its bytes go to, from now on.
    pub fn set_file(&self, file: Arc<DiskFile>) {
        // The first stays: a content has one file, and only its one whole fill sets it.
        let _ = self.file.set(file);
    }

    pub fn length(&self) -> Option<u64> {
        self.state.lock().length
    }

    /// Bytes that leave memory only with the object.
    pub fn retained_bytes(&self) -> u64 {
        self.retained.load(Ordering::Relaxed)
    }

    pub fn is_whole(&self) -> bool {
        if self.file().is_some_and(|file| file.is_complete()) {
            return true;
        }
        let length = {
            let state = self.state.lock();
            let arrives =
                |fill: &FillState| fill.start == 0 && (fill.end.is_none() || fill.end == state.length);
            if state.fills.iter().any(arrives) {
                return true;
            }
            state.length
        };
        match length {
            Some(length) => self.gaps(0..length).is_empty(),
            None => self.state.lock().broken.is_none(),
        }
    }

    pub fn bytes_held(&self) -> u64 {
        let state = self.state.lock();
        let arriving: u64 = state.fills.iter().map(|fill| fill.written - fill.start).sum();
        match self.file() {
            Some(file) => file.bytes_present(state.length).max(arriving),
            None => arriving.max(self.retained_bytes()),
        }
    }

    // -- Readers.

    /// Adds a reader; it holds back a window fill, and its leaving may end a fill.
    pub fn enter(&self, at: u64) -> u64 {
        let mut state = self.state.lock();
        state.readers_ever += 1;
        let reader = state.readers_ever;
        state.readers.insert(reader, Reader { at, waker: None, is_cut: false });
        reader
    }

    pub fn leave(&self, reader: u64) {
        let freed = {
            let mut state = self.state.lock();
            state.readers.remove(&reader);
            state.trim()
        };
        self.unpin(freed);
        self.moved.notify_one();
    }

    /// What there is at `at`, for `reader`, at most up to `end`. Where it has to wait, `waker` is called.
    pub fn step(&self, reader: u64, at: u64, end: u64, waker: &Waker) -> Step {
        let mut state = self.state.lock();
        let end = state.length.map_or(end, |length| end.min(length));
        if at >= end {
            return Step::End;
        }
        match state.readers.get_mut(&reader) {
            Some(known) if !known.is_cut => known.at = at,
            _ => return Step::Fail(BodyError::TooSlow),
        }
        let freed = state.trim();
        let step = self.at(&mut state, reader, at, end, waker);
        drop(state);
        if freed > 0 {
            self.unpin(freed);
            self.moved.notify_one();
        }
        step
    }

    fn at(&self, state: &mut State, reader: u64, at: u64, end: u64, waker: &Waker) -> Step {
        let index = (at / BLOCK_BYTES) as u32;
        let cut = |data: Bytes| {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(data.len());
            Step::Data(data.slice(..most))
        };
        if let Some(block) = state.blocks.get(&index) {
            let inside = at.checked_sub(block.at).map(|inside| inside as usize);
            if let Some(inside) = inside.filter(|&inside| inside < block.data.len()) {
                block.heat.bump();
                return cut(block.data.slice(inside..));
            }
        }
        if let Some(piece) = state.fills.iter().find_map(|fill| fill.piece(at)) {
            return cut(piece);
        }
        if let Some(step) = self.on_disk(state, at, end) {
            return step;
        }
        if state.fills.iter().any(|fill| fill.covers(at) && at >= fill.written) {
            if let Some(known) = state.readers.get_mut(&reader) {
                known.waker = Some(waker.clone());
            }
            return Step::Wait;
        }
        Step::Fail(state.broken.unwrap_or(BodyError::Missing))
    }

    fn on_disk(&self, state: &State, at: u64, end: u64) -> Option<Step> {
        let file = self.file()?;
        let block_at = at / BLOCK_BYTES * BLOCK_BYTES;
        let block_end = block_at + BLOCK_BYTES;
        let known_end = state.length.unwrap_or(u64::MAX);
        let written = |fill: &&FillState| fill.mode != Mode::Retain && fill.start <= at && at < fill.flushed;
        if file.has_chunk((at / CHUNK_BYTES) as u32) {
            let length = (block_end.min(known_end) - block_at) as usize;
            return Some(Step::Read { file: Arc::clone(file), at: block_at, length, whole_block: true });
        }
        let fill = state.fills.iter().find(written)?;
        let length = (block_end.min(fill.flushed).min(end) - at) as usize;
        Some(Step::Read { file: Arc::clone(file), at, length, whole_block: false })
    }

    /// Keeps a block read from disk in memory, for as long as the tier lets it.
    pub fn keep_block(self: &Arc<Self>, at: u64, data: Bytes) {
        let index = (at / BLOCK_BYTES) as u32;
        let block = Arc::new(Block { at, data, heat: Heat::default() });
        if self.state.lock().blocks.insert(index, Arc::clone(&block)).is_none()
            && let Some(cache) = self.cache.upgrade()
        {
            cache.admit(Entry::block(self, index, block));
        }
    }

    /// The tier lets a block go.
    pub fn drop_block(&self, index: u32, block: &Arc<Block>) {
        let mut state = self.state.lock();
        if state.blocks.get(&index).is_some_and(|known| Arc::ptr_eq(known, block)) {
            state.blocks.remove(&index);
        }
    }

    /// The disk's copy of a chunk can't be used.
    pub fn damaged(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.broken = Some(BodyError::Damaged);
            state.wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    // -- Gaps.

    /// Stretches of `span` that are neither there nor on their way, in whole chunks.
    pub fn gaps(&self, span: Span) -> Vec<Span> {
        gaps(&self.state.lock(), self.file().map(|file| &**file), span)
    }

    /// Registers a fill for each gap in `span`. Only content with a file and a known length can be completed.
    pub fn claim(&self, span: Span, mut next_id: impl FnMut() -> u64) -> Vec<(u64, Span)> {
        let Some(file) = self.file() else { return Vec::new() };
        let mut state = self.state.lock();
        let missing = gaps(&state, Some(file), span);
        let mut claimed = Vec::with_capacity(missing.len());
        for gap in missing {
            let id = next_id();
            state.add_fill(id, gap.clone(), Mode::File, Keep::WhileRead);
            claimed.push((id, gap));
        }
        claimed
    }

    // -- Fills.

    pub fn begin(&self, id: u64, start: u64, end: Option<u64>, mode: Mode, keep: Keep) {
        let end_known = end.unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        state.add_fill(id, start..end_known, mode, keep);
    }

    /// A fill's origin is asked only after others are through.
    pub fn set_queued(&self, id: u64) {
        self.with_fill(id, |fill| fill.is_queued = true);
    }

    /// A queued or claimed fill begins.
    pub fn set_begun(&self, id: u64, keep: Keep) {
        self.with_fill(id, |fill| (fill.keep, fill.is_queued) = (keep, false));
    }

    /// Whether what is missing at `at` comes only after [`FAR_BYTES`] of something else.
    pub fn is_far(&self, at: u64) -> bool {
        if self.file().is_some_and(|file| file.has_chunk((at / CHUNK_BYTES) as u32)) {
            return false;
        }
        let state = self.state.lock();
        let mut coming = state.fills.iter().filter(|fill| fill.covers(at)).peekable();
        coming.peek().is_some()
            && coming.all(|fill| fill.is_queued || fill.written.saturating_add(FAR_BYTES) < at)
    }

    /// Runs `change` on the fill's state; `None` when it has ended.
    pub fn with_fill<T>(&self, id: u64, change: impl FnOnce(&mut FillState) -> T) -> Option<T> {
        self.state.lock().fills.iter_mut().find(|fill| fill.id == id).map(change)
    }

    /// Appends a piece that stays within one block, and wakes readers. Gives the block it completes.
    pub fn append(&self, id: u64, piece: Bytes) -> Option<Sealed> {
        let (sealed, wakers) = {
            let mut state = self.state.lock();
            let fill = state.fills.iter_mut().find(|fill| fill.id == id)?;
            let before = fill.written;
            fill.written += piece.len() as u64;
            match fill.open.last_mut() {
                Some(last) if last.len() + piece.len() <= PIECE_BYTES_MIN => {
                    *last = [&last[..], &piece[..]].concat().into()
                }
                _ => fill.open.push(piece),
            }
            let is_full = fill.written / BLOCK_BYTES > before / BLOCK_BYTES;
            let sealed = if is_full { state.seal(id) } else { None };
            (sealed, state.wakers())
        };
        wakers.into_iter().for_each(Waker::wake);
        sealed
    }

    /// Closes the last block, which may be short.
    pub fn seal_rest(&self, id: u64) -> Option<Sealed> {
        self.state.lock().seal(id)
    }

    /// A block is on disk: it may leave memory when the tier wants.
    pub fn flushed(self: &Arc<Self>, id: u64, sealed: &Sealed) {
        let end = sealed.at + sealed.block.data.len() as u64;
        self.with_fill(id, |fill| fill.flushed = end);
        if let Some(cache) = self.cache.upgrade() {
            cache.admit(Entry::block(self, (sealed.at / BLOCK_BYTES) as u32, Arc::clone(&sealed.block)));
        }
    }

    /// Blocks in memory past `from`, in order: what a file has to catch up with.
    pub fn sealed_from(&self, from: u64) -> Vec<Sealed> {
        let state = self.state.lock();
        let mut blocks: Vec<Sealed> = state
            .blocks
            .values()
            .map(|block| Sealed { at: block.at, block: Arc::clone(block) })
            .filter(|sealed| sealed.at >= from)
            .collect();
        blocks.sort_unstable_by_key(|sealed| sealed.at);
        blocks
    }

    /// Whether a window fill may go on, after dropping what all readers have read.
    pub fn window_has_room(&self, id: u64) -> bool {
        let (freed, room) = {
            let mut state = self.state.lock();
            let freed = state.trim();
            let held = state.fills.iter().find(|fill| fill.id == id).map_or(0, |fill| fill.pinned);
            (freed, held < WINDOW_BYTES)
        };
        self.unpin(freed);
        room
    }

    /// Cuts off the readers that hold a full window back while another one waits for more. Gives how many.
    pub fn cut_laggards(&self, id: u64) -> u64 {
        let (cut, freed, wakers) = {
            let mut state = self.state.lock();
            let Some(written) = state.fills.iter().find(|fill| fill.id == id).map(|fill| fill.written) else {
                return 0;
            };
            if !state.readers.values().any(|reader| reader.at >= written) {
                return 0;
            }
            let mut cut = 0;
            for reader in state.readers.values_mut().filter(|reader| !reader.is_cut) {
                if reader.at + WINDOW_BYTES <= written + BLOCK_BYTES {
                    reader.is_cut = true;
                    cut += 1;
                }
            }
            (cut, state.trim(), state.wakers())
        };
        self.unpin(freed);
        wakers.into_iter().for_each(Waker::wake);
        cut
    }

    /// Whether a fill should end because nobody reads it.
    pub fn is_abandoned(&self, id: u64) -> bool {
        let state = self.state.lock();
        let is_worthless = |fill: &FillState| {
            let unread = state.readers_ever > fill.readers_before && state.readers.is_empty();
            let is_finishing = fill.mode != Mode::Window && fill.is_nearly_done();
            unread && fill.keep == Keep::WhileRead && fill.end != Some(fill.written) && !is_finishing
        };
        state.fills.iter().find(|fill| fill.id == id).is_none_or(is_worthless)
    }

    /// Ends a fill. After [`Ended::Complete`] the content's length is known; after a failure, readers that waited for
    /// it are reset.
    pub fn end(&self, id: u64, ended: Ended) {
        let (pinned, wakers) = {
            let mut state = self.state.lock();
            let Some(at) = state.fills.iter().position(|fill| fill.id == id) else { return };
            let fill = state.fills.remove(at);
            let mut pinned = fill.pinned;
            match ended {
                Ended::Complete if fill.mode == Mode::Window => {
                    state.linger(fill);
                    pinned = 0;
                }
                Ended::Complete => {
                    state.length.get_or_insert(fill.written);
                    if fill.mode == Mode::Retain {
                        let held = state.blocks.values().map(|block| block.data.len() as u64).sum();
                        self.retained.store(held, Ordering::Relaxed);
                    }
                }
                Ended::Failed => {
                    state.broken.get_or_insert(BodyError::FillFailed);
                    if fill.mode != Mode::File {
                        state.blocks.clear();
                    }
                }
            }
            (pinned, state.wakers())
        };
        self.unpin(pinned);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn unpin(&self, bytes: u64) {
        if bytes > 0
            && let Some(cache) = self.cache.upgrade()
        {
            cache.memory.unpin(bytes);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let pinned = self.state.get_mut().fills.iter().map(|fill| fill.pinned).sum();
        self.unpin(pinned);
    }
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Complete,
    Failed,
}

impl State {
    fn add_fill(&mut self, id: u64, span: Span, mode: Mode, keep: Keep) {
        let end = Some(span.end).filter(|&end| end != u64::MAX);
        self.fills.push(FillState {
            id,
            start: span.start,
            end,
            written: span.start,
            flushed: span.start,
            mode,
            keep,
            pinned: 0,
            readers_before: self.readers_ever,
            is_queued: false,
            open: Vec::new(),
            open_at: span.start,
        });
    }

    fn seal(&mut self, id: u64) -> Option<Sealed> {
        let fill = self.fills.iter_mut().find(|fill| fill.id == id)?;
        if fill.open_at == fill.written {
            return None;
        }
        let (at, data) = fill.take_open();
        let block = Arc::new(Block { at, data, heat: Heat::default() });
        self.blocks.insert((at / BLOCK_BYTES) as u32, Arc::clone(&block));
        Some(Sealed { at, block })
    }

    /// Those who wait. They look again, and wait again where nothing changed for them.
    fn wakers(&mut self) -> Vec<Waker> {
        self.readers.values_mut().filter_map(|reader| reader.waker.take()).collect()
    }

    /// Drops blocks of a window fill that every reader is past. Gives the bytes no longer pinned.
    fn trim(&mut self) -> u64 {
        let Some(fill) = self.fills.iter_mut().find(|fill| fill.mode == Mode::Window) else { return 0 };
        let slowest = self.readers.values().filter(|reader| !reader.is_cut).map(|reader| reader.at).min();
        // Before the first reader came, everything is kept for it.
        let passed =
            slowest.unwrap_or(if self.readers_ever > fill.readers_before { fill.written } else { 0 });
        let mut freed = 0;
        self.blocks.retain(|_, block| {
            let goes = block.at + (block.data.len() as u64) <= passed && block.at >= fill.flushed;
            if goes {
                freed += block.data.len() as u64;
            }
            !goes
        });
        let freed = freed.min(fill.pinned);
        fill.pinned -= freed;
        freed
    }

    /// A window fill that is complete stays, with nothing to come, until its readers are through.
    fn linger(&mut self, mut fill: FillState) {
        fill.end = Some(fill.written);
        self.length.get_or_insert(fill.written);
        fill.keep = Keep::Always;
        self.fills.push(fill);
    }
}

fn gaps(state: &State, file: Option<&DiskFile>, span: Span) -> Vec<Span> {
    let end = state.length.map_or(span.end, |length| span.end.min(length));
    let mut found: Vec<Span> = Vec::new();
    let mut at = span.start / CHUNK_BYTES * CHUNK_BYTES;
    // Without a file and without a fill, content is in memory as a whole, or nothing of it is left.
    if file.is_none() && state.fills.is_empty() {
        return if state.broken.is_some() { vec![span] } else { found };
    }
    while at < end {
        let chunk_end = (at + CHUNK_BYTES).min(state.length.unwrap_or(u64::MAX));
        // What a window fill of a stored object brings is gone once its readers have it.
        let brings = |fill: &FillState| fill.covers(at) && (file.is_none() || fill.mode == Mode::File);
        let is_coming = state.fills.iter().any(brings);
        if !is_coming && !file.is_some_and(|file| file.has_chunk((at / CHUNK_BYTES) as u32)) {
            match found.last_mut() {
                Some(last) if last.end == at => last.end = chunk_end,
                _ => found.push(at..chunk_end),
            }
        }
        at += CHUNK_BYTES;
    }
    found
}
