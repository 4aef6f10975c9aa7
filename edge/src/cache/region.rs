//! Stretches of files that a socket can take without their bytes being copied through us.
//!
//! Only of what is verified (see `disk::file`) and seems to lie in the page cache: `sendfile` has no way not to wait for
//! the disk, so both ends of a stretch are looked at before it is given away. What is not cached is read as
//! ever, which brings it into the cache. A file that turns out shorter than it should be is found damaged by that
//! reading too: whoever sends a stretch gives back what it could not send.

use std::{fs::File, sync::Arc};

use super::{
    disk::Segment,
    io::{Inline, read_cached},
};

/// Less than this is copied from memory: two more system calls cost as much.
pub const REGION_BYTES_MIN: u64 = 16 * 1024;

/// What the kernel reads ahead at once: such a stretch is cached as a whole or not at all.
const SHORT_BYTES: u64 = 128 * 1024;

/// Bytes of a file.
#[derive(Debug)]
pub struct FileRegion {
    file: Source,
    at: u64,
    left: u64,
}

#[derive(Debug)]
enum Source {
    Chunks(Arc<File>),
    Record(Arc<Segment>),
}

impl FileRegion {
    /// A stretch of one verified chunk. `None`: not cached, or too little to be worth it.
    pub(super) fn of_chunk(file: Arc<File>, at: u64, left: u64) -> Option<FileRegion> {
        FileRegion { file: Source::Chunks(file), at, left }.if_cached()
    }

    /// A stretch of a record's content.
    pub(super) fn of_record(segment: Arc<Segment>, at: u64, left: u64) -> Option<FileRegion> {
        FileRegion { file: Source::Record(segment), at, left }.if_cached()
    }

    /// Both ends are looked at, of a short stretch only the last: what is before it is then very likely cached too.
    fn if_cached(self) -> Option<FileRegion> {
        let holds = |at| matches!(read_cached(self.file(), &mut [0], at), Ok(Inline::Filled));
        let is_cached = self.left >= REGION_BYTES_MIN
            && holds(self.at + self.left - 1)
            && (self.left <= SHORT_BYTES || holds(self.at));
        is_cached.then_some(self)
    }

    /// The file.
    pub fn file(&self) -> &File {
        match &self.file {
            Source::Chunks(file) => file,
            Source::Record(segment) => &segment.file,
        }
    }

    /// Where in the file the next byte is.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// So many were taken.
    pub fn advance(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.at += bytes;
        self.left -= bytes;
    }

    /// Leaves out what is past so many bytes.
    pub fn truncate(&mut self, bytes: u64) {
        self.left = self.left.min(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_and_worth_it_is_given() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), vec![1; 100_000]).unwrap();
        let file = Arc::new(File::open(path.path()).unwrap());
        let region = |at, left| FileRegion::of_chunk(file.clone(), at, left);
        assert!(region(0, REGION_BYTES_MIN - 1).is_none(), "too little");
        assert!(region(90_000, 20_000).is_none(), "past the end");
        // Where the file system can't tell what is cached, nothing is given.
        if let Some(mut region) = region(10_000, 50_000) {
            region.advance(20_000);
            assert_eq!((region.at(), region.left()), (30_000, 30_000));
            region.truncate(10);
            region.advance(11);
            assert_eq!((region.at(), region.left()), (30_010, 0));
        }
    }
}
