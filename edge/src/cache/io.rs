//! Reads of the disk tier: what the page cache holds inline, the rest where waiting is allowed.
//!
//! With `transform/niceness.rs` the only `unsafe` of the edge. A worker thread serves thousands of connections; a read that waits for the disk would
//! stop them all, so it reads inline what is cached and hands the rest to the blocking pool. Never mmap: a cold
//! fault stalls the thread just the same, and a truncated file kills the process.
#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd, os::unix::fs::FileExt};

/// What an inline read found.
#[derive(Debug, PartialEq, Eq)]
pub enum Inline {
    /// All bytes asked for.
    Filled,
    /// Not (all) in the page cache, or the file system can't tell: read it elsewhere.
    WouldBlock,
}

/// Fills `buffer` from `offset` if that needs no disk access.
///
/// # Errors
/// Those of `preadv2(2)`, `EAGAIN` and `EOPNOTSUPP` excepted: they are [`Inline::WouldBlock`].
pub fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Inline> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        let vector = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let at = i64::try_from(offset + filled as u64).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: `vector` describes `rest`, exclusively borrowed and alive over the call; the
        // kernel writes at most `iov_len` initialised bytes into it. The descriptor is open: `file` is borrowed.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, at, libc::RWF_NOWAIT) };
        match read {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if read > 0 => filled += read.unsigned_abs(),
            _ => {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    // Some file systems (tmpfs before 5.x, overlayfs, FUSE) refuse the flag.
                    Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
                        Ok(Inline::WouldBlock)
                    }
                    _ => Err(error),
                };
            }
        }
    }
    Ok(Inline::Filled)
}

/// Fills `buffer` from `offset`, waiting for the disk.
///
/// # Errors
/// Those of `pread(2)`; a file that ends early is `UnexpectedEof`.
pub fn read_blocking(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_reads_give_the_same_bytes_as_blocking_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let mut buffer = vec![0; 200_000];
        if read_cached(&file, &mut buffer, 1000).unwrap() == Inline::Filled {
            assert_eq!(buffer, bytes[1000..201_000]);
        }
        read_blocking(&file, &mut buffer, 77).unwrap();
        assert_eq!(buffer, bytes[77..200_077]);
    }

    #[test]
    fn the_end_of_the_file_is_an_error_not_zeroes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"short").unwrap();
        let file = File::open(&path).unwrap();
        let mut buffer = [0; 10];
        assert!(!matches!(read_cached(&file, &mut buffer, 0), Ok(Inline::Filled)));
        assert!(read_blocking(&file, &mut buffer, 0).is_err());
    }
}
