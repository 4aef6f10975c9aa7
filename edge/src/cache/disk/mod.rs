//! The disk tier: space, eviction, and what happens when the disk fails.
//!
//! Large content lies in a file each ([`DiskFile`]), heads and small content in packed segments; a journal and its
//! snapshots ([`journal`]) say what there is. One thread ([`writer`]) appends to segments and journal; fills
//! write their own chunks. Space is reserved before it is written, by evicting first.
//!
//! New files wait in a probation queue of a tenth of the space; those asked for again move to the main queue, so that
//! one-hit wonders leave first. Segments hold only what was asked for twice and enter the main queue at once.
//!
//! A failing disk pauses the tier: what would be written is not, clients are served all the same.

mod file;
mod journal;
mod load;
mod segment;
mod writer;

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

pub(super) use self::{
    file::DiskFile,
    journal::Record,
    load::Loaded,
    segment::{Place, Segment, Unpacked},
};
use self::{segment::Segments, writer::Job};
use super::{
    Cache,
    index::{Index, KeyHash},
    io::{Inline, read_cached},
    metrics::Metrics,
    object::Object,
};

/// Smallest disk tier that makes sense: a few segments and a few chunks.
pub const DISK_BYTES_MIN: u64 = 16 << 20;
/// Files kept open for the next reader. Far below the usual limit of 20,000 descriptors.
const OPEN_FILES_MAX: usize = 1024;
/// How long nothing is written after a failure. Long enough not to hammer a dying disk, short enough that a full one
/// made free by hand is used again soon.
const PAUSE: Duration = Duration::from_secs(10);
/// Jobs waiting for the writer. A job is at most 1 KB of record or a reference to an object.
const QUEUE_MAX: usize = 8192;
/// Content bytes that jobs hold on to.
const QUEUE_BYTES_MAX: u64 = 32 << 20;
/// Longest journal: replaying it takes well under a second. Small tiers have shorter ones.
const JOURNAL_BYTES_MAX: u64 = 32 << 20;
/// How long a start waits for the process before it to let go of the directory.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const FORMAT: &str = "nearside-cache 1";

/// Something that holds space.
#[derive(Debug)]
enum Holder {
    File(Weak<DiskFile>),
    Segment(u32),
}

/// Eviction order. Entries of what was dropped already are skipped when their turn comes.
#[derive(Debug, Default)]
struct Order {
    probation: VecDeque<Weak<DiskFile>>,
    main: VecDeque<Holder>,
}

/// The disk tier.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    bytes_max: u64,
    segment_bytes: u64,
    /// A journal past this is replaced by a snapshot.
    journal_bytes_max: u64,
    /// Keys hashes, so that strangers can't aim at a collision.
    pub secret: u128,
    this: Weak<Disk>,
    pub metrics: Arc<Metrics>,
    cache: OnceLock<Weak<Cache>>,
    used: AtomicU64,
    probation_used: AtomicU64,
    files: Mutex<HashMap<u64, Arc<DiskFile>>>,
    segments: Segments,
    /// Segments were dropped since the last [`Disk::forget_lost_records`].
    lost_segments: AtomicBool,
    order: Mutex<Order>,
    open: Mutex<VecDeque<Weak<DiskFile>>>,
    paused_until: Mutex<Option<Instant>>,
    jobs: mpsc::SyncSender<Job>,
    queued_bytes: AtomicU64,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held until [`Disk::close`]; from then on the directory is another's, and nothing in it is touched.
    lock: Mutex<Option<File>>,
    is_closed: AtomicBool,
}

impl Disk {
    /// Opens the directory, recalls what is in it, and starts the writer.
    ///
    /// # Errors
    /// Those of the file system; a directory in use by another process; one that holds something else.
    pub fn open(dir: &Path, bytes_max: u64, metrics: &Arc<Metrics>) -> io::Result<(Arc<Disk>, Loaded)> {
        if bytes_max < DISK_BYTES_MIN {
            let what = format!("the disk tier needs at least {DISK_BYTES_MIN} bytes, not {bytes_max}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        fs::create_dir_all(dir)?;
        let lock = lock(dir)?;
        let secret = read_format(dir)?;
        fs::create_dir_all(dir.join("segments"))?;
        fs::create_dir_all(dir.join("files"))?;
        let (jobs, queue) = mpsc::sync_channel(QUEUE_MAX);
        let disk = Arc::new_cyclic(|this| Disk {
            dir: dir.to_owned(),
            // The rest is for journal and snapshots.
            bytes_max: bytes_max - bytes_max / 16,
            segment_bytes: (bytes_max / 256).clamp(1 << 20, 256 << 20),
            journal_bytes_max: (bytes_max / 64).clamp(1 << 18, JOURNAL_BYTES_MAX),
            secret,
            this: Weak::clone(this),
            metrics: Arc::clone(metrics),
            cache: OnceLock::new(),
            used: AtomicU64::new(0),
            probation_used: AtomicU64::new(0),
            files: Mutex::default(),
            segments: Segments::default(),
            lost_segments: AtomicBool::new(false),
            order: Mutex::default(),
            open: Mutex::default(),
            paused_until: Mutex::new(None),
            jobs,
            queued_bytes: AtomicU64::new(0),
            writer: Mutex::new(None),
            lock: Mutex::new(Some(lock)),
            is_closed: AtomicBool::new(false),
        });
        let loaded = load::load(&disk)?;
        *disk.writer.lock() = Some(writer::start(&disk, queue, &loaded)?);
        Ok((disk, loaded))
    }

    /// Whom evictions concern.
    pub fn attach(&self, cache: &Weak<Cache>) {
        let _ = self.cache.set(Weak::clone(cache));
    }

    fn cache(&self) -> Option<Arc<Cache>> {
        self.cache.get().and_then(Weak::upgrade)
    }

    fn file_path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("files/{:02x}/{id:016x}", id & 0xff))
    }

    fn segment_path(&self, id: u32) -> PathBuf {
        self.dir.join(format!("segments/{id:08x}"))
    }

    // -- Content files.

    /// Whether content of this length may be written now.
    pub fn takes(&self, length: Option<u64>) -> bool {
        length.unwrap_or(0) <= self.bytes_max / 2 && !self.is_paused()
    }

    /// Creates the file of a content. Waits for the disk.
    pub fn create(&self, (hash, id, length): (KeyHash, u64, Option<u64>)) -> io::Result<Arc<DiskFile>> {
        self.check_open()?;
        let file = Arc::new(DiskFile::new(&self.this, self.file_path(id), id, hash, length));
        file.create()?;
        self.note_open(&file);
        self.files.lock().insert(id, Arc::clone(&file));
        self.order.lock().probation.push_back(Arc::downgrade(&file));
        self.journal(Record::File { file: id, hash, length });
        Ok(file)
    }

    pub fn file(&self, id: u64) -> Option<Arc<DiskFile>> {
        self.files.lock().get(&id).cloned()
    }

    /// Drops a file and what refers to it. Its space is free when its last reader is gone.
    pub fn drop_file(&self, file: &DiskFile) {
        self.forget_file(file);
        if let Some(cache) = self.cache() {
            cache.content_dropped(file.hash, file.id);
        }
    }

    /// Drops a file that nothing refers to any more.
    pub fn forget_file(&self, file: &DiskFile) {
        if file.doom() {
            self.files.lock().remove(&file.id);
            self.journal(Record::DropFile { file: file.id });
        }
    }

    fn note_open(&self, file: &Arc<DiskFile>) {
        let closing = {
            let mut open = self.open.lock();
            open.push_back(Arc::downgrade(file));
            if open.len() > OPEN_FILES_MAX { open.pop_front() } else { None }
        };
        if let Some(file) = closing.and_then(|file| file.upgrade()) {
            file.close();
        }
    }

    fn unlink(&self, path: PathBuf, bytes: u64) {
        if self.is_closed.load(Ordering::Acquire) {
            return;
        }
        if let Err(
            mpsc::TrySendError::Full(Job::Unlink(path)) | mpsc::TrySendError::Disconnected(Job::Unlink(path)),
        ) = self.jobs.try_send(Job::Unlink(path))
        {
            let _ = fs::remove_file(path);
        }
        self.release(bytes);
    }

    // -- Space.

    /// Counts `bytes` for `file`, evicting others first. Waits for no disk: what is evicted is unlinked by
    /// the writer.
    ///
    /// # Errors
    /// `StorageFull` when nothing more can go.
    pub fn reserve(&self, file: &DiskFile, bytes: u64) -> io::Result<()> {
        self.check_open()?;
        self.make_room(bytes, Some(file.id))?;
        file.reserved.fetch_add(bytes, Ordering::AcqRel);
        if file.in_probation.load(Ordering::Acquire) {
            self.probation_used.fetch_add(bytes, Ordering::AcqRel);
        }
        Ok(())
    }

    fn make_room(&self, bytes: u64, spare: Option<u64>) -> io::Result<()> {
        // Counted first, so that two at once can't both take the last bytes.
        self.used.fetch_add(bytes, Ordering::AcqRel);
        while self.used.load(Ordering::Acquire) > self.bytes_max {
            if !self.evict_one(spare) {
                self.release(bytes);
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "disk tier is full of what can't be evicted",
                ));
            }
        }
        self.metrics.disk_bytes.set(self.used.load(Ordering::Relaxed));
        Ok(())
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.metrics.disk_bytes.set(self.used.load(Ordering::Relaxed));
    }

    /// Drops one file or segment. Each file is spared at most once per hit and once per call.
    fn evict_one(&self, spare: Option<u64>) -> bool {
        let mut tries = {
            let order = self.order.lock();
            4 * (order.probation.len() + order.main.len())
        };
        while tries > 0 {
            tries -= 1;
            let holder = {
                let mut order = self.order.lock();
                let crowded = self.probation_used.load(Ordering::Acquire) > self.bytes_max / 10;
                let from_probation = crowded || order.main.is_empty();
                match from_probation.then(|| order.probation.pop_front()).flatten() {
                    Some(file) => Some(Holder::File(file)),
                    None => order.main.pop_front().or_else(|| order.probation.pop_front().map(Holder::File)),
                }
            };
            match holder {
                None => return false,
                Some(Holder::Segment(id)) => {
                    self.drop_segment(id);
                    return true;
                }
                Some(Holder::File(file)) => {
                    if let Some(file) = file.upgrade().filter(|file| !file.is_doomed())
                        && self.evict_file(&file, spare)
                    {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Drops a file, or gives it another round.
    fn evict_file(&self, file: &Arc<DiskFile>, spare: Option<u64>) -> bool {
        self.leave_probation(file);
        if file.is_busy() || Some(file.id) == spare || file.heat.cool() {
            self.order.lock().main.push_back(Holder::File(Arc::downgrade(file)));
            return false;
        }
        self.metrics.disk_evicted.one();
        // Off the account now; the unlink follows as soon as nobody reads it.
        self.release(file.reserved.swap(0, Ordering::AcqRel));
        self.drop_file(file);
        true
    }

    fn leave_probation(&self, file: &DiskFile) {
        if file.in_probation.swap(false, Ordering::AcqRel) {
            self.probation_used.fetch_sub(file.reserved.load(Ordering::Acquire), Ordering::AcqRel);
        }
    }

    fn drop_segment(&self, id: u32) {
        if self.segments.remove(id).is_none() {
            return;
        }
        self.metrics.disk_evicted.one();
        self.journal(Record::DropSegment { segment: id });
        // What the index says of its records is found untrue at their next lookup, or by the sweep.
        self.lost_segments.store(true, Ordering::Release);
        if let Some(cache) = self.cache() {
            cache.sweeper.wake();
        }
        self.unlink(self.segment_path(id), self.segment_bytes);
    }

    /// Clears the index of records whose segments were dropped.
    pub fn forget_lost_records(&self, index: &Index) {
        if !self.lost_segments.swap(false, Ordering::AcqRel) {
            return;
        }
        // Looked up again where it says no: a segment may have been begun since.
        let known = self.segments.ids();
        index.forget_records(|place| {
            !known.contains(&place.segment) && self.segments.find(place.segment).is_none()
        });
    }

    fn add_segment(&self, id: u32) -> io::Result<Arc<Segment>> {
        let segment = Arc::new(Segment::open(&self.segment_path(id), id)?);
        self.segments.insert(Arc::clone(&segment));
        self.order.lock().main.push_back(Holder::Segment(id));
        Ok(segment)
    }

    // -- Records.

    /// Reads a record: inline if the page cache has it, else on the blocking pool. `None`: gone, torn or unreadable.
    /// A segment that is still there.
    pub fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.find(id)
    }

    pub async fn read_record(&self, place: Place) -> Option<Unpacked> {
        let segment = self.segments.find(place.segment)?;
        let mut buffer = vec![0; place.length.get() as usize];
        let read = match read_cached(&segment.file, &mut buffer, u64::from(place.offset)) {
            Ok(Inline::Filled) => Ok(Bytes::from(buffer)),
            Ok(Inline::WouldBlock) => {
                let task = tokio::task::spawn_blocking(move || read_place(&segment, place));
                task.await.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            Err(error) => Err(error),
        };
        self.unpacked(read)
    }

    /// As [`Disk::read_record`], waiting for the disk.
    pub fn read_record_blocking(&self, place: Place) -> Option<Unpacked> {
        let segment = self.segments.find(place.segment)?;
        self.unpacked(read_place(&segment, place))
    }

    fn unpacked(&self, read: io::Result<Bytes>) -> Option<Unpacked> {
        let unpacked = match read {
            Ok(record) => segment::unpack(record),
            Err(error) => {
                tracing::warn!(%error, "reading a cached record failed");
                self.metrics.disk_errors.one();
                None
            }
        };
        if unpacked.is_none() {
            self.metrics.damaged.one();
        }
        unpacked
    }

    /// Hands an object to the writer, once.
    pub fn admit(&self, object: &Arc<Object>) {
        // First what every hit pays for: one load.
        if !object.try_queue() {
            return;
        }
        if self.is_paused() {
            return object.unqueue();
        }
        let bytes = object.whole().map_or(0, |content| content.len() as u64);
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if queued > QUEUE_BYTES_MAX || self.jobs.try_send(Job::Pack(Arc::clone(object))).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.metrics.disk_queue_full.one();
            object.unqueue();
        }
    }

    /// Hands a record to the journal. One that is lost costs an object at the next start, or revives one that
    /// was replaced (never one that was purged: purges are checked again).
    pub fn journal(&self, record: Record) {
        if self.jobs.try_send(Job::Journal(record)).is_err() {
            self.metrics.disk_queue_full.one();
        }
    }

    /// Waits until everything handed over so far is written and a snapshot of it is durable.
    pub fn snapshot(&self) -> io::Result<()> {
        let (done, wait) = mpsc::channel();
        let gone = || io::Error::other("the cache's writer thread has stopped");
        self.jobs.send(Job::Snapshot(done)).map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())?
    }

    /// Waits until everything handed over so far is written.
    pub fn flush(&self) {
        let (done, wait) = mpsc::channel();
        if self.jobs.send(Job::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    // -- Failure.

    /// Whether writing is suspended after a failure, or over.
    pub fn is_paused(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
            || self.paused_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn check_open(&self) -> io::Result<()> {
        match self.is_closed.load(Ordering::Acquire) {
            true => Err(io::Error::other("the cache directory is closed")),
            false => Ok(()),
        }
    }

    /// Something could not be written: pauses the tier, counts, and logs once per pause.
    pub fn failed(&self, doing: &str, error: &io::Error) {
        if self.is_closed.load(Ordering::Acquire) {
            return;
        }
        self.metrics.disk_errors.one();
        let is_new = {
            let mut paused = self.paused_until.lock();
            let is_new = paused.is_none_or(|until| Instant::now() >= until);
            *paused = Some(Instant::now() + PAUSE);
            is_new
        };
        if is_new {
            tracing::error!(dir = %self.dir.display(), %error, doing, "cache disk fails: serving without storing");
        }
        if error.raw_os_error() == Some(libc::ENOSPC) {
            // Someone else fills the file system: give some of ours back.
            let target = self.used.load(Ordering::Acquire).saturating_sub(self.bytes_max / 16);
            while self.used.load(Ordering::Acquire) > target && self.evict_one(None) {}
        }
    }

    /// Stops the writer after what it was given, and lets go of the directory: bodies under way read on from the files
    /// they have open, nothing is written or removed any more. Idempotent.
    pub fn close(&self) {
        let Some(writer) = self.writer.lock().take() else { return };
        let _ = self.jobs.send(Job::Stop);
        // The writer itself may hold the last reference to the store.
        if writer.thread().id() != std::thread::current().id() {
            let _ = writer.join();
        }
        self.is_closed.store(true, Ordering::Release);
        drop(self.lock.lock().take());
    }
}

fn read_place(segment: &Segment, place: Place) -> io::Result<Bytes> {
    let mut buffer = vec![0; place.length.get() as usize];
    super::io::read_blocking(&segment.file, &mut buffer, u64::from(place.offset))?;
    Ok(buffer.into())
}

/// Takes the directory, waiting a little for a predecessor that is still stopping.
fn lock(dir: &Path) -> io::Result<File> {
    let lock = File::create(dir.join("lock"))?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_WAIT / 100)
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process uses this directory"));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Reads the directory's format line and secret; begins a new one only in a directory that holds nothing else.
fn read_format(dir: &Path) -> io::Result<u128> {
    let path = dir.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let secret = text
                .trim_end()
                .strip_prefix(FORMAT)
                .and_then(|hex| u128::from_str_radix(hex.trim(), 16).ok());
            secret.ok_or_else(|| {
                let what =
                    format!("{} does not say {FORMAT:?}: empty the directory to start anew", path.display());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(other) = fs::read_dir(dir)?.flatten().find(|entry| !is_ours(&entry.file_name())) {
                let what =
                    format!("{} is not empty and no cache: it holds {:?}", dir.display(), other.file_name());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            let mut secret = [0; 16];
            let unavailable = |_| io::Error::other("no randomness");
            aws_lc_rs::rand::fill(&mut secret).map_err(unavailable)?;
            let secret = u128::from_le_bytes(secret);
            let mut file = File::create(dir.join("format.new"))?;
            file.write_all(format!("{FORMAT} {secret:032x}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(dir.join("format.new"), &path)?;
            Ok(secret)
        }
        Err(error) => Err(error),
    }
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    matches!(&*name, "lock" | "format.new" | "purges" | "purges.new" | "lost+found")
}
