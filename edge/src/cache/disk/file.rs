//! One file per large content: which of its chunks are there, and whether they are what was written.
//!
//! Chunks written by this process are trusted; those an earlier one left are checked against their checksum, whole, before
//! their first byte is served. The file is removed when it was dropped and its last reader has gone.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Disk, journal::Record};
use crate::cache::{
    body::read_whole,
    evict::Heat,
    index::KeyHash,
    live::{CHUNK_BYTES, Live},
};

/// Which chunks are there.
#[derive(Debug, Default)]
struct Chunks {
    present: Bits,
    unverified: Bits,
    checksums: Vec<u32>,
    length: Option<u64>,
}

/// A growing set of small numbers.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, bit: u32) -> bool {
        self.0.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn set(&mut self, bit: u32) {
        let word = bit as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (bit % 64);
    }

    fn clear(&mut self, bit: u32) {
        if let Some(word) = self.0.get_mut(bit as usize / 64) {
            *word &= !(1 << (bit % 64));
        }
    }

    fn each(&self) -> impl Iterator<Item = u32> {
        (0..self.0.len() as u32 * 64).filter(|&bit| self.has(bit))
    }
}

/// A content's file.
#[derive(Debug)]
pub(in crate::cache) struct DiskFile {
    pub id: u64,
    pub hash: KeyHash,
    pub heat: Heat,
    disk: Weak<Disk>,
    path: PathBuf,
    chunks: Mutex<Chunks>,
    handle: Mutex<Option<Arc<File>>>,
    live: Mutex<Weak<Live>>,
    pub(super) reserved: AtomicU64,
    pub(super) in_probation: AtomicBool,
    is_busy: AtomicBool,
    is_doomed: AtomicBool,
    is_complete: AtomicBool,
}

impl DiskFile {
    pub(super) fn new(
        disk: &Weak<Disk>,
        path: PathBuf,
        id: u64,
        hash: KeyHash,
        length: Option<u64>,
    ) -> DiskFile {
        DiskFile {
            id,
            hash,
            heat: Heat::default(),
            disk: Weak::clone(disk),
            path,
            chunks: Mutex::new(Chunks { length, ..Chunks::default() }),
            handle: Mutex::new(None),
            live: Mutex::new(Weak::new()),
            reserved: AtomicU64::new(0),
            in_probation: AtomicBool::new(true),
            is_busy: AtomicBool::new(false),
            is_doomed: AtomicBool::new(false),
            is_complete: AtomicBool::new(false),
        }
    }

    /// Creates the file itself.
    pub(super) fn create(&self) -> io::Result<()> {
        let create =
            || OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&self.path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(dir) = self.path.parent() {
                    fs::create_dir_all(dir)?;
                }
                create()?
            }
            created => created?,
        };
        self.is_busy.store(true, Ordering::Release);
        *self.handle.lock() = Some(Arc::new(file));
        Ok(())
    }

    /// A fill writes to it: it must not be evicted.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// The fill that created it has ended.
    pub fn set_idle(&self) {
        self.is_busy.store(false, Ordering::Release);
    }

    /// The content in memory over this file: one per file, so that readers and fills meet.
    pub fn live(&self, make: impl FnOnce() -> Arc<Live>) -> Arc<Live> {
        let mut known = self.live.lock();
        known.upgrade().unwrap_or_else(|| {
            let live = make();
            *known = Arc::downgrade(&live);
            live
        })
    }

    pub fn set_live(&self, live: &Arc<Live>) {
        *self.live.lock() = Arc::downgrade(live);
    }

    pub fn length(&self) -> Option<u64> {
        self.chunks.lock().length
    }

    pub fn has_chunk(&self, chunk: u32) -> bool {
        self.chunks.lock().present.has(chunk)
    }

    pub fn has_any_chunk(&self) -> bool {
        self.chunks.lock().present.0.iter().any(|&word| word != 0)
    }

    pub fn bytes_present(&self, length: Option<u64>) -> u64 {
        let chunks = self.chunks.lock();
        let length = length.or(chunks.length).unwrap_or(u64::MAX);
        chunks.present.each().map(|chunk| chunk_bytes(chunk, length)).sum()
    }

    /// The open file, if reading at `at` needs neither opening nor verifying.
    pub fn opened_at(&self, at: u64) -> Option<Arc<File>> {
        if self.chunks.lock().unverified.has((at / CHUNK_BYTES) as u32) {
            return None;
        }
        self.handle.lock().clone()
    }

    /// Reads, verifying the chunk first where an earlier process wrote it. Waits for the disk.
    pub fn read(self: &Arc<Self>, at: u64, length: usize) -> io::Result<Bytes> {
        let chunk = (at / CHUNK_BYTES) as u32;
        self.verify(chunk)?;
        read_whole(&*self.open()?, at, length)
    }

    /// Checks a chunk that an earlier process wrote. Waits for the disk.
    pub fn verify(self: &Arc<Self>, chunk: u32) -> io::Result<()> {
        let (checksum, length) = {
            let chunks = self.chunks.lock();
            if !chunks.unverified.has(chunk) {
                return Ok(());
            }
            (chunks.checksums.get(chunk as usize).copied().unwrap_or(0), chunks.length.unwrap_or(u64::MAX))
        };
        let bytes = chunk_bytes(chunk, length);
        let data = read_whole(&*self.open()?, u64::from(chunk) * CHUNK_BYTES, bytes as usize)?;
        if crc32fast::hash(&data) != checksum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum of a chunk does not match"));
        }
        self.chunks.lock().unverified.clear(chunk);
        Ok(())
    }

    fn open(self: &Arc<Self>) -> io::Result<Arc<File>> {
        if let Some(open) = &*self.handle.lock() {
            return Ok(Arc::clone(open));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&self.path)?);
        *self.handle.lock() = Some(Arc::clone(&file));
        if let Some(disk) = self.disk.upgrade() {
            disk.note_open(self);
        }
        Ok(file)
    }

    /// Readers keep their own handle; the next one opens it again.
    pub(super) fn close(&self) {
        *self.handle.lock() = None;
    }

    pub fn write(self: &Arc<Self>, data: &[u8], at: u64) -> io::Result<()> {
        self.open()?.write_all_at(data, at)
    }

    /// A chunk is written whole.
    pub fn commit_chunk(&self, chunk: u32, checksum: u32) {
        self.set_chunk(chunk, checksum);
        self.journal(Record::Chunk { file: self.id, chunk, checksum });
    }

    fn set_chunk(&self, chunk: u32, checksum: u32) {
        let mut chunks = self.chunks.lock();
        chunks.present.set(chunk);
        if chunks.checksums.len() <= chunk as usize {
            chunks.checksums.resize(chunk as usize + 1, 0);
        }
        chunks.checksums[chunk as usize] = checksum;
    }

    /// The journal of an earlier process says so.
    pub(super) fn recall_chunk(&self, chunk: u32, checksum: u32) {
        self.set_chunk(chunk, checksum);
        self.chunks.lock().unverified.set(chunk);
    }

    /// Content of undeclared length has come to its end.
    pub fn complete(&self, length: Option<u64>) {
        self.recall_length(length);
        self.set_idle();
        if let Some(length) = length {
            self.journal(Record::Length { file: self.id, length });
        }
    }

    pub(super) fn recall_length(&self, length: Option<u64>) {
        self.chunks.lock().length = length;
    }

    /// What a journal has to say for it to be recalled.
    pub(super) fn records(&self) -> Vec<Record> {
        let chunks = self.chunks.lock();
        let mut records = vec![Record::File { file: self.id, hash: self.hash, length: chunks.length }];
        records.extend(chunks.present.each().map(|chunk| {
            let checksum = chunks.checksums.get(chunk as usize).copied().unwrap_or(0);
            Record::Chunk { file: self.id, chunk, checksum }
        }));
        records
    }

    fn journal(&self, record: Record) {
        if let Some(disk) = self.disk.upgrade() {
            disk.journal(record);
        }
    }

    /// Unreadable or torn: drops it and whatever refers to it.
    pub fn damaged(&self, error: &io::Error) {
        if let Some(disk) = self.disk.upgrade() {
            disk.metrics.damaged.one();
            tracing::warn!(path = %self.path.display(), %error, "stored copy is damaged: dropped");
            disk.drop_file(self);
        }
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.is_doomed.load(Ordering::Acquire)
    }

    /// Whether all chunks are there.
    pub fn is_complete(&self) -> bool {
        if self.is_complete.load(Ordering::Acquire) {
            return true;
        }
        let chunks = self.chunks.lock();
        let complete = chunks.length.is_some_and(|length| {
            (0..length.div_ceil(CHUNK_BYTES)).all(|chunk| chunks.present.has(chunk as u32))
        });
        self.is_complete.store(complete, Ordering::Release);
        complete
    }

    /// Marks the file for removal once nobody reads it. Whether it was not marked yet.
    pub(super) fn doom(&self) -> bool {
        !self.is_doomed.swap(true, Ordering::AcqRel)
    }
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        let bytes = *self.reserved.get_mut();
        let disk = self.disk.upgrade();
        if let Some(disk) = &disk {
            disk.leave_probation(self);
        }
        if !*self.is_doomed.get_mut() {
            return;
        }
        match disk {
            Some(disk) => disk.unlink(std::mem::take(&mut self.path), bytes),
            None => drop(fs::remove_file(&self.path)),
        }
    }
}

fn chunk_bytes(chunk: u32, length: u64) -> u64 {
    let at = u64::from(chunk) * CHUNK_BYTES;
    length.saturating_sub(at).min(CHUNK_BYTES)
}
