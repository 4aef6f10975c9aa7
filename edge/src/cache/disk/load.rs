//! What an earlier process left: snapshot and journals replayed, the directory compared with them.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use super::{Disk, DiskFile, Record};
use crate::cache::{
    index::{KeyHash, Packed},
    live::CHUNK_BYTES,
};

/// What was found.
#[derive(Debug)]
pub(in crate::cache) struct Loaded {
    /// Heads on disk, with their keys.
    pub packed: Vec<(KeyHash, Packed)>,
    /// The largest id or tick seen: later ones must be larger.
    pub tick: u64,
    /// The number the next journal gets.
    pub journal: u64,
    /// The number the next segment gets: never one that a journal speaks of.
    pub segment: u32,
    /// Content files that nothing refers to.
    pub orphans: Vec<u64>,
}

#[derive(Default)]
struct Replay {
    puts: HashMap<(KeyHash, u64), Packed>,
    files: HashMap<u64, Arc<DiskFile>>,
    dropped_segments: HashSet<u32>,
    tick: u64,
    segment: u32,
}

/// Fills `disk` with its files and segments.
pub(super) fn load(disk: &Arc<Disk>) -> io::Result<Loaded> {
    let mut replay = Replay::default();
    let snapshot = fs::read(disk.dir.join("index")).unwrap_or_default();
    let first = snapshot_journal(&snapshot);
    let mut journals = numbered(&disk.dir, "journal.")?;
    journals.sort_unstable();
    if let Some(first) = first {
        journals.retain(|&number| number >= first);
        replay.run(disk, &snapshot);
    }
    for number in &journals {
        replay.run(disk, &fs::read(disk.dir.join(format!("journal.{number}")))?);
    }
    let journal = journals.last().copied().unwrap_or(first.unwrap_or(0)) + 1;
    let segments: HashSet<u32> =
        hex_names(&disk.dir.join("segments"))?.into_iter().map(|id| id as u32).collect();
    let Replay { puts, files, dropped_segments, tick, segment } = replay;
    let on_disk: HashSet<u64> = content_files(disk)?.into_iter().collect();
    let mut packed: Vec<_> = puts.into_iter().map(|((hash, _), packed)| (hash, packed)).collect();
    packed.retain(|(_, packed)| {
        let has_segment = segments.contains(&packed.place.segment);
        // A file is removed before the journal says so: a kill in between leaves its head without it.
        let has_file = packed.file == 0 || files.contains_key(&packed.file) && on_disk.contains(&packed.file);
        has_segment && has_file && !dropped_segments.contains(&packed.place.segment)
    });
    adopt_files(disk, &packed, files);
    adopt_segments(disk, &packed, &segments)?;
    let segment = segments.iter().copied().max().unwrap_or(0).max(segment) + 1;
    let tick = on_disk.iter().copied().max().unwrap_or(0).max(tick);
    let orphans = on_disk.into_iter().filter(|&id| disk.file(id).is_none()).collect();
    Ok(Loaded { packed, tick, journal, segment, orphans })
}

/// Files that some head refers to, oldest first; the others are left for the sweep.
fn adopt_files(disk: &Disk, packed: &[(KeyHash, Packed)], files: HashMap<u64, Arc<DiskFile>>) {
    let referred: HashSet<u64> = packed.iter().map(|(_, packed)| packed.file).collect();
    let mut kept: Vec<_> = files.into_values().filter(|file| referred.contains(&file.id)).collect();
    kept.sort_unstable_by_key(|file| file.id);
    let mut order = disk.order.lock();
    for file in kept {
        let bytes = file.bytes_present(None).next_multiple_of(CHUNK_BYTES);
        file.reserved.store(bytes, Ordering::Release);
        // What survived a restart has proven itself as far as we know.
        file.in_probation.store(false, Ordering::Release);
        disk.used.fetch_add(bytes, Ordering::AcqRel);
        disk.files.lock().insert(file.id, Arc::clone(&file));
        order.main.push_back(super::Holder::File(Arc::downgrade(&file)));
    }
}

fn adopt_segments(disk: &Disk, packed: &[(KeyHash, Packed)], found: &HashSet<u32>) -> io::Result<()> {
    let used: HashSet<u32> = packed.iter().map(|(_, packed)| packed.place.segment).collect();
    let mut ids: Vec<u32> = found.iter().copied().collect();
    ids.sort_unstable();
    for id in ids {
        if used.contains(&id) {
            disk.add_segment(id)?;
            disk.used.fetch_add(disk.segment_bytes, Ordering::AcqRel);
        } else {
            drop(fs::remove_file(disk.segment_path(id)));
        }
    }
    Ok(())
}

fn content_files(disk: &Disk) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for bucket in hex_names(&disk.dir.join("files"))? {
        found.extend(hex_names(&disk.dir.join(format!("files/{bucket:02x}")))?);
    }
    Ok(found)
}

impl Replay {
    fn run(&mut self, disk: &Disk, mut bytes: &[u8]) {
        while let Some(record) = Record::read(&mut bytes) {
            self.apply(disk, record);
        }
    }

    fn apply(&mut self, disk: &Disk, record: Record) {
        match record {
            Record::Put { hash, packed } => {
                self.tick = self.tick.max(packed.id);
                self.segment = self.segment.max(packed.place.segment);
                self.puts.insert((hash, packed.id), packed);
            }
            Record::Drop { hash, id } => drop(self.puts.remove(&(hash, id))),
            Record::File { file, hash, length } => {
                self.tick = self.tick.max(file);
                let make = || Arc::new(DiskFile::new(&disk.this, disk.file_path(file), file, hash, length));
                self.files.entry(file).or_insert_with(make);
            }
            Record::Chunk { file, chunk, checksum } => {
                // Bounded by what a content may have: a record is checksummed, not trusted.
                if u64::from(chunk) * CHUNK_BYTES <= disk.bytes_max
                    && let Some(file) = self.files.get(&file)
                {
                    file.recall_chunk(chunk, checksum);
                }
            }
            Record::Length { file, length } => {
                if let Some(file) = self.files.get(&file) {
                    file.recall_length(Some(length));
                }
            }
            Record::DropFile { file } => drop(self.files.remove(&file)),
            Record::DropSegment { segment } => {
                self.segment = self.segment.max(segment);
                self.dropped_segments.insert(segment);
            }
            Record::Snapshot { .. } | Record::End { .. } => {}
        }
    }
}

/// The journal that continues a snapshot. `None`: it is incomplete, and worth nothing.
fn snapshot_journal(mut bytes: &[u8]) -> Option<u64> {
    let Some(Record::Snapshot { journal }) = Record::read(&mut bytes) else { return None };
    let mut count = 0;
    while let Some(record) = Record::read(&mut bytes) {
        if let Record::End { records } = record {
            return (records == count).then_some(journal);
        }
        count += 1;
    }
    None
}

/// Numbers of the files called `prefix` and a number.
pub(super) fn numbered(dir: &Path, prefix: &str) -> io::Result<Vec<u64>> {
    let names = fs::read_dir(dir)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok()).collect())
}

fn hex_names(dir: &Path) -> io::Result<Vec<u64>> {
    let names = fs::read_dir(dir)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| u64::from_str_radix(name.to_str()?, 16).ok()).collect())
}
