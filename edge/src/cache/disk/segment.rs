//! Packed records: heads of all objects, with the content of small ones.
//!
//! A segment is appended to until it is full, and dropped as a whole when space is short. Against one file per small
//! object: a million objects cost a few hundred inodes instead of a million, writing one is one `pwrite`
//! instead of create, write, rename, and eviction is one unlink; what it costs is that a hot
//! record in a dropped segment is written again, at its next hit.
//!
//! Head and content have a checksum each. A record that does not match is a miss.

use std::{
    collections::HashSet, fs::File, io, num::NonZeroU32, os::unix::fs::FileExt, path::Path, sync::Arc,
};

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;

use crate::{
    cache::{
        codec::{HEAD_BYTES_MAX, read_head, write_head},
        fill::SMALL_BYTES_MAX,
        object::{Content, Object},
    },
    policy::{CacheKey, Meta},
};

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cache) struct Place {
    pub segment: u32,
    pub offset: u32,
    /// No record is empty: what tells the variants of an index entry apart costs nothing.
    pub length: NonZeroU32,
}

const MAGIC: u32 = u32::from_le_bytes(*b"NsR1");
const HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 4 + 4;
/// Longest record: what a [`Place`] may name.
pub(super) const RECORD_BYTES_MAX: u64 = HEADER_BYTES as u64 + HEAD_BYTES_MAX as u64 + SMALL_BYTES_MAX;

/// One segment. It does not know its records: when it goes, a pass over the index forgets them, which is cheaper than
/// 32 bytes a record all the time.
#[derive(Debug)]
pub(in crate::cache) struct Segment {
    pub id: u32,
    pub file: File,
}

impl Segment {
    pub fn open(path: &Path, id: u32) -> io::Result<Segment> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Segment { id, file })
    }

    pub fn append(&self, offset: u32, record: &[u8]) -> io::Result<()> {
        self.file.write_all_at(record, u64::from(offset))
    }
}

/// The segments there are.
#[derive(Debug, Default)]
pub(super) struct Segments(Mutex<std::collections::HashMap<u32, Arc<Segment>>>);

impl Segments {
    pub fn insert(&self, segment: Arc<Segment>) {
        self.0.lock().insert(segment.id, segment);
    }

    pub fn find(&self, id: u32) -> Option<Arc<Segment>> {
        self.0.lock().get(&id).cloned()
    }

    pub fn remove(&self, id: u32) -> Option<Arc<Segment>> {
        self.0.lock().remove(&id)
    }

    pub fn ids(&self) -> HashSet<u32> {
        self.0.lock().keys().copied().collect()
    }
}

/// A record taken apart.
#[derive(Debug)]
pub(in crate::cache) struct Unpacked {
    pub id: u64,
    pub key: CacheKey,
    pub meta: Meta,
    pub content: Bytes,
}

/// Writes an object as a record. `None`: its head is too large for the disk.
pub(super) fn pack(object: &Object) -> Option<Vec<u8>> {
    let content = match &object.content {
        Content::Whole(bytes) => bytes.clone(),
        Content::Live(_) => Bytes::new(),
    };
    let mut head = Vec::with_capacity(1024);
    write_head(&mut head, &object.key, object.meta());
    if head.len() > HEAD_BYTES_MAX || content.len() as u64 > SMALL_BYTES_MAX {
        return None;
    }
    let mut record = Vec::with_capacity(HEADER_BYTES + head.len() + content.len());
    record.put_u32_le(MAGIC);
    record.put_u32_le(head.len() as u32);
    record.put_u32_le(content.len() as u32);
    record.put_u64_le(object.id);
    record.put_u32_le(crc32fast::hash(&content));
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&record);
    checksum.update(&head);
    record.put_u32_le(checksum.finalize());
    record.extend_from_slice(&head);
    record.extend_from_slice(&content);
    Some(record)
}

/// Takes a record apart. `None`: torn, damaged, or something else.
pub(super) fn unpack(record: Bytes) -> Option<Unpacked> {
    let mut input = record.get(..HEADER_BYTES)?;
    let magic = input.get_u32_le();
    let (head_length, content_length) = (input.get_u32_le() as usize, input.get_u32_le() as usize);
    let id = input.get_u64_le();
    let (content_checksum, head_checksum) = (input.get_u32_le(), input.get_u32_le());
    if magic != MAGIC || record.len() != HEADER_BYTES.checked_add(head_length)?.checked_add(content_length)? {
        return None;
    }
    let head = record.slice(HEADER_BYTES..HEADER_BYTES + head_length);
    let content = record.slice(HEADER_BYTES + head_length..);
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&record[..HEADER_BYTES - 4]);
    checksum.update(&head);
    if checksum.finalize() != head_checksum || crc32fast::hash(&content) != content_checksum {
        return None;
    }
    // The head's fields outlive the content in blocks of a large object, so they get memory of their own; the content
    // keeps the head's few bytes alive beside it.
    let (key, meta) = read_head(Bytes::copy_from_slice(&head)).ok()?;
    Some(Unpacked { id, key, meta, content })
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::cache::{
        codec::tests::{key, meta},
        index::KeyHash,
    };

    #[test]
    fn a_record_reads_back_and_any_flipped_byte_is_noticed() {
        let content = Content::Whole(Bytes::from_static(b"hello"));
        let object = Object::new(&Weak::new(), (key("/x"), KeyHash(1)), 7, meta(Some(5)), content);
        let record = pack(&object).unwrap();
        let unpacked = unpack(record.clone().into()).unwrap();
        assert_eq!((unpacked.id, &unpacked.key, &unpacked.meta), (7, &object.key, object.meta()));
        assert_eq!(&unpacked.content[..], b"hello");
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 0x10;
            assert!(unpack(damaged.into()).is_none(), "byte {at}");
            assert!(unpack(Bytes::copy_from_slice(&record[..at])).is_none(), "cut at {at}");
        }
    }
}
