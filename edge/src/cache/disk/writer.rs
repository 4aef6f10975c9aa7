//! The one thread that appends to segments and the journal, and snapshots the index.
//!
//! Its queue is bounded; when it is full, things are not cached. The journal is flushed whenever the queue runs dry, so
//! a killed process loses what was in flight and nothing else.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread,
    time::Duration,
};

use super::{Disk, Record, load, segment};
use crate::{
    cache::{
        index::{Packed, Variant, vary_hash},
        object::Object,
    },
    purge::Validity,
};

/// How often a stopped store is noticed.
const IDLE: Duration = Duration::from_secs(1);

/// Work for the writer.
#[derive(Debug)]
pub(super) enum Job {
    /// Write an object's record.
    Pack(Arc<Object>),
    Journal(Record),
    Unlink(PathBuf),
    /// Write a snapshot and answer when it is durable.
    Snapshot(Sender<io::Result<()>>),
    /// Answer when all before is written.
    Flush(Sender<()>),
    Stop,
}

struct Writer {
    disk: Weak<Disk>,
    journal: Option<BufWriter<File>>,
    journal_number: u64,
    journal_bytes: u64,
    segment: Option<Arc<segment::Segment>>,
    segment_offset: u64,
    next_segment: u32,
}

/// Starts the thread. It ends with [`Job::Stop`], or when the disk tier is dropped.
pub(super) fn start(
    disk: &Arc<Disk>,
    queue: Receiver<Job>,
    loaded: &load::Loaded,
) -> io::Result<thread::JoinHandle<()>> {
    let journal = loaded.journal;
    let orphans: Vec<PathBuf> = loaded.orphans.iter().map(|&id| disk.file_path(id)).collect();
    let mut writer = Writer {
        disk: Arc::downgrade(disk),
        journal: Some(BufWriter::new(File::create(disk.dir.join(format!("journal.{journal}")))?)),
        journal_number: journal,
        journal_bytes: 0,
        segment: None,
        segment_offset: 0,
        next_segment: loaded.segment,
    };
    thread::Builder::new().name("cache-writer".into()).spawn(move || {
        orphans.iter().for_each(|path| drop(fs::remove_file(path)));
        writer.run(&queue);
    })
}

impl Writer {
    fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            let job = match queue.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    match queue.recv_timeout(IDLE) {
                        Ok(job) => job,
                        Err(RecvTimeoutError::Disconnected) => return,
                        Err(RecvTimeoutError::Timeout) => continue,
                    }
                }
            };
            let Some(disk) = self.disk.upgrade() else { return };
            match job {
                Job::Stop => return self.flush(),
                job => self.work(&disk, job),
            }
        }
    }

    fn work(&mut self, disk: &Disk, job: Job) {
        match job {
            Job::Pack(object) => {
                let bytes = object.whole().map_or(0, |content| content.len() as u64);
                disk.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
                if let Err(error) = self.pack(disk, &object) {
                    object.unqueue();
                    disk.failed("writing an object", &error);
                }
            }
            Job::Journal(record) => self.append(disk, &record),
            Job::Unlink(path) => {
                if let Err(error) = fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    disk.failed("removing a file", &error);
                }
            }
            Job::Flush(done) => {
                self.flush();
                let _ = done.send(());
            }
            Job::Snapshot(done) => {
                let _ = done.send(self.snapshot(disk));
            }
            Job::Stop => {}
        }
        if self.journal_bytes > disk.journal_bytes_max
            && let Err(error) = self.snapshot(disk)
        {
            disk.failed("writing a snapshot", &error);
            self.journal_bytes = 0;
        }
    }

    fn pack(&mut self, disk: &Disk, object: &Arc<Object>) -> io::Result<()> {
        if object.is_gone() {
            return Ok(());
        }
        let Some(record) = segment::pack(object) else { return Ok(()) };
        let Some(length) = NonZeroU32::new(record.len() as u32) else { return Ok(()) };
        let (segment, offset) = self.room(disk, record.len() as u64)?;
        segment.append(offset, &record)?;
        disk.metrics.disk_records.one();
        disk.metrics.disk_record_bytes.add(record.len() as u64);
        let place = segment::Place { segment: segment.id, offset, length };
        *object.place.lock() = Some(place);
        let vary = vary_hash(&object.meta().vary);
        let packed = Packed { id: object.id, place, file: object.file_id().unwrap_or(0), vary };
        self.append(disk, &Record::Put { hash: object.hash, packed });
        // It may have left memory while it waited here, and been purged when no sweep could see it: those records may be
        // forgotten as soon as all that waits here is written.
        if let Some(cache) = disk.cache()
            && !object.is_gone()
            && object.validity(&cache) != Validity::Gone
        {
            cache.index.ensure(object.hash, Variant::Packed(packed));
        }
        Ok(())
    }

    fn room(&mut self, disk: &Disk, bytes: u64) -> io::Result<(Arc<segment::Segment>, u32)> {
        debug_assert!(bytes <= segment::RECORD_BYTES_MAX);
        let fits = self.segment_offset + bytes <= disk.segment_bytes;
        if let Some(segment) = self.segment.as_ref().filter(|_| fits)
            // Evicted under us: start another.
            && disk.segments.find(segment.id).is_some()
        {
            let offset = self.segment_offset as u32;
            self.segment_offset += bytes;
            return Ok((Arc::clone(segment), offset));
        }
        disk.make_room(disk.segment_bytes, None)?;
        let segment = match disk.add_segment(self.next_segment) {
            Ok(segment) => segment,
            Err(error) => {
                disk.release(disk.segment_bytes);
                return Err(error);
            }
        };
        self.next_segment += 1;
        self.segment_offset = bytes;
        self.segment = Some(Arc::clone(&segment));
        Ok((segment, 0))
    }

    fn append(&mut self, disk: &Disk, record: &Record) {
        let mut bytes = Vec::with_capacity(64);
        record.write(&mut bytes);
        let Some(journal) = &mut self.journal else { return };
        self.journal_bytes = self.journal_bytes.saturating_add(bytes.len() as u64);
        if let Err(error) = journal.write_all(&bytes) {
            disk.failed("writing the journal", &error);
            // A journal with a hole in it ends there: what follows needs a new one, behind a snapshot.
            self.journal_bytes = u64::MAX;
        }
    }

    fn flush(&mut self) {
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.flush()
            && let Some(disk) = self.disk.upgrade()
        {
            disk.failed("writing the journal", &error);
            self.journal_bytes = u64::MAX;
        }
    }

    /// Everything there is, written aside, synced, renamed; then the journals before it go.
    fn snapshot(&mut self, disk: &Disk) -> io::Result<()> {
        self.flush();
        let number = self.journal_number + 1;
        let next = File::create(disk.dir.join(format!("journal.{number}")))?;
        self.journal = Some(BufWriter::new(next));
        self.journal_number = number;
        self.journal_bytes = 0;
        let aside = disk.dir.join("index.new");
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&aside)?);
        write_snapshot(disk, &mut out, number)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        fs::rename(&aside, disk.dir.join("index"))?;
        File::open(&disk.dir)?.sync_all()?;
        for old in load::numbered(&disk.dir, "journal.")?.into_iter().filter(|&old| old < number) {
            fs::remove_file(disk.dir.join(format!("journal.{old}")))?;
        }
        Ok(())
    }
}

fn write_snapshot(disk: &Disk, out: &mut impl Write, journal: u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut count = 0;
    Record::Snapshot { journal }.write(&mut bytes);
    out.write_all(&bytes)?;
    let mut put = |record: Record| {
        bytes.clear();
        record.write(&mut bytes);
        count += 1;
        out.write_all(&bytes)
    };
    let files: Vec<_> = disk.files.lock().values().cloned().collect();
    for file in files {
        file.records().into_iter().try_for_each(&mut put)?;
    }
    let mut result = Ok(());
    if let Some(cache) = disk.cache() {
        cache.index.each_shard(|keys| {
            for (hash, variants) in keys {
                for packed in variants.iter().filter_map(Variant::packed) {
                    let record = Record::Put { hash, packed };
                    if result.is_ok() {
                        result = put(record);
                    }
                }
            }
        });
    }
    result?;
    bytes.clear();
    Record::End { records: count }.write(&mut bytes);
    out.write_all(&bytes)
}
