//! What the disk holds, as a list of records: appended as it happens, rewritten whole as a snapshot.
//!
//! Both files have one format, so that loading is one loop: the snapshot, then every journal from the number it names.
//! Records may repeat what the snapshot knows already; replaying them is idempotent. A torn record ends its
//! file: what follows was not acknowledged to anyone. Nothing here is synced per record: losing the
//! end of a journal loses cached objects, never a purge, which has a journal of its own.

use std::num::NonZeroU32;

use bytes::{Buf, BufMut};

use super::segment::Place;
use crate::cache::index::{KeyHash, Packed};

/// Something that happened on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Record {
    /// An object's record was written; `file` holds its content where that is not 0.
    Put { hash: KeyHash, packed: Packed },
    /// An object was removed.
    Drop { hash: KeyHash, id: u64 },
    /// A content file was created.
    File { file: u64, hash: KeyHash, length: Option<u64> },
    /// A chunk of it was written.
    Chunk { file: u64, chunk: u32, checksum: u32 },
    /// Its length became known.
    Length { file: u64, length: u64 },
    /// It was removed.
    DropFile { file: u64 },
    /// A segment was removed, and all records in it.
    DropSegment { segment: u32 },
    /// First of a snapshot: the journal that continues it.
    Snapshot { journal: u64 },
    /// Last of a snapshot: without it, it is not one.
    End { records: u64 },
}

/// Longest record, bytes.
const RECORD_BYTES_MAX: usize = 64;

impl Record {
    /// Appends `length u8, crc32, payload`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut payload = [0; RECORD_BYTES_MAX];
        let mut rest = &mut payload[..];
        match *self {
            Record::Put { hash, packed: Packed { id, place, file, vary } } => {
                rest.put_u8(1);
                rest.put_u128_le(hash.0);
                rest.put_u64_le(id);
                rest.put_u32_le(place.segment);
                rest.put_u32_le(place.offset);
                rest.put_u32_le(place.length.get());
                rest.put_u64_le(file);
                rest.put_u64_le(u64::from(vary));
            }
            Record::Drop { hash, id } => {
                rest.put_u8(2);
                rest.put_u128_le(hash.0);
                rest.put_u64_le(id);
            }
            Record::File { file, hash, length } => {
                rest.put_u8(3);
                rest.put_u64_le(file);
                rest.put_u128_le(hash.0);
                rest.put_u64_le(length.unwrap_or(u64::MAX));
            }
            Record::Chunk { file, chunk, checksum } => {
                rest.put_u8(4);
                rest.put_u64_le(file);
                rest.put_u32_le(chunk);
                rest.put_u32_le(checksum);
            }
            Record::Length { file, length } => {
                rest.put_u8(5);
                rest.put_u64_le(file);
                rest.put_u64_le(length);
            }
            Record::DropFile { file } => {
                rest.put_u8(6);
                rest.put_u64_le(file);
            }
            Record::DropSegment { segment } => {
                rest.put_u8(7);
                rest.put_u32_le(segment);
            }
            Record::Snapshot { journal } => {
                rest.put_u8(8);
                rest.put_u64_le(journal);
            }
            Record::End { records } => {
                rest.put_u8(9);
                rest.put_u64_le(records);
            }
        }
        let unused = rest.len();
        let payload = &payload[..RECORD_BYTES_MAX - unused];
        out.put_u8(payload.len() as u8);
        out.put_u32_le(crc32fast::hash(payload));
        out.put_slice(payload);
    }

    /// Reads one record off the front of `input`. `None`: the end, or a torn record.
    pub fn read(input: &mut &[u8]) -> Option<Record> {
        let (&length, rest) = input.split_first()?;
        let (checksum, rest) = rest.split_at_checked(4)?;
        let (payload, rest) = rest.split_at_checked(usize::from(length))?;
        if crc32fast::hash(payload).to_le_bytes() != checksum {
            return None;
        }
        let record = Record::parse(payload)?;
        *input = rest;
        Some(record)
    }

    fn parse(mut from: &[u8]) -> Option<Record> {
        let kind = from.try_get_u8().ok()?;
        let record = match kind {
            1 => Record::Put {
                hash: KeyHash(from.try_get_u128_le().ok()?),
                packed: Packed {
                    id: from.try_get_u64_le().ok()?,
                    place: Place {
                        segment: from.try_get_u32_le().ok()?,
                        offset: from.try_get_u32_le().ok()?,
                        length: NonZeroU32::new(from.try_get_u32_le().ok()?)?,
                    },
                    file: from.try_get_u64_le().ok()?,
                    vary: from.try_get_u64_le().ok()? as u32,
                },
            },
            2 => {
                Record::Drop { hash: KeyHash(from.try_get_u128_le().ok()?), id: from.try_get_u64_le().ok()? }
            }
            3 => Record::File {
                file: from.try_get_u64_le().ok()?,
                hash: KeyHash(from.try_get_u128_le().ok()?),
                length: Some(from.try_get_u64_le().ok()?).filter(|&length| length != u64::MAX),
            },
            4 => Record::Chunk {
                file: from.try_get_u64_le().ok()?,
                chunk: from.try_get_u32_le().ok()?,
                checksum: from.try_get_u32_le().ok()?,
            },
            5 => Record::Length { file: from.try_get_u64_le().ok()?, length: from.try_get_u64_le().ok()? },
            6 => Record::DropFile { file: from.try_get_u64_le().ok()? },
            7 => Record::DropSegment { segment: from.try_get_u32_le().ok()? },
            8 => Record::Snapshot { journal: from.try_get_u64_le().ok()? },
            9 => Record::End { records: from.try_get_u64_le().ok()? },
            _ => return None,
        };
        from.is_empty().then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Record> {
        let hash = KeyHash(77 << 64 | 5);
        let place = Place { segment: 1, offset: 2, length: NonZeroU32::MIN };
        vec![
            Record::Snapshot { journal: 3 },
            Record::Put { hash, packed: Packed { id: 9, place, file: 0, vary: 8 } },
            Record::Drop { hash, id: 9 },
            Record::File { file: 4, hash, length: None },
            Record::File { file: 4, hash, length: Some(10) },
            Record::Chunk { file: 4, chunk: 7, checksum: 0xdead_beef },
            Record::Length { file: 4, length: 99 },
            Record::DropFile { file: 4 },
            Record::DropSegment { segment: 1 },
            Record::End { records: 8 },
        ]
    }

    #[test]
    fn records_read_back_and_a_torn_one_ends_the_list() {
        let mut bytes = Vec::new();
        all().iter().for_each(|record| record.write(&mut bytes));
        let read = |bytes: &[u8]| {
            let mut input = bytes;
            std::iter::from_fn(|| Record::read(&mut input)).collect::<Vec<_>>()
        };
        assert_eq!(read(&bytes), all());
        for end in 0..bytes.len() {
            let records = read(&bytes[..end]);
            assert!(records.len() < all().len() && all().starts_with(&records));
        }
    }
}
