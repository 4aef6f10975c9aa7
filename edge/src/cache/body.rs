//! Reads an object's content as an HTTP body, at its client's own pace.
//!
//! One frame at a time: from memory, else inline from the page cache, else on the blocking pool. Between two
//! frames it holds nothing but its position, so an idle client costs no memory of the store.

use std::{
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use super::{
    disk::DiskFile,
    io::{Inline, read_blocking, read_cached},
    live::{CHUNK_BYTES, Live, Step},
    object::{Content, Span},
    region::FileRegion,
};

/// Why a body ended before its last byte. The client's connection (or stream) must be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The fill that brought it failed: its origin died, or sent another length than declared.
    #[error("the origin's response ended early")]
    FillFailed,
    /// Nobody fetches these bytes.
    #[error("part of the object is not stored")]
    Missing,
    /// The disk's copy is unreadable or torn; it has been dropped.
    #[error("the stored copy is damaged")]
    Damaged,
    /// This reader held up a fill that nothing can spool for longer than allowed.
    #[error("reader too slow for a response that is not stored")]
    TooSlow,
}

/// An object's bytes, in frames of at most 256 KiB. `Send`; dropping it tells the fill.
#[derive(Debug)]
pub struct Body {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Whole(Bytes),
    Live(Reader),
}

#[derive(Debug)]
struct Reader {
    live: Arc<Live>,
    id: u64,
    at: u64,
    /// `u64::MAX`: to the content's end, wherever that will be.
    end: u64,
    read: Option<Read>,
    is_done: bool,
    /// No more stretches of files.
    copies: bool,
}

/// A read that had to leave the runtime.
#[derive(Debug)]
struct Read {
    task: JoinHandle<io::Result<Bytes>>,
    at: u64,
    keep: bool,
}

impl Body {
    pub(super) fn new(content: &Content, span: Option<Span>) -> Body {
        let span = span.unwrap_or(0..u64::MAX);
        let source = match content {
            Content::Whole(bytes) => {
                let end = span.end.min(bytes.len() as u64);
                Source::Whole(bytes.slice(span.start.min(end) as usize..end as usize))
            }
            Content::Live(live) => {
                let end = live.length().map_or(span.end, |length| span.end.min(length));
                let reader = Reader {
                    live: Arc::clone(live),
                    id: live.enter(span.start),
                    at: span.start,
                    end,
                    read: None,
                    is_done: false,
                    copies: false,
                };
                Source::Live(reader)
            }
        };
        Body { source }
    }
}

impl Body {
    /// A stretch of a file in place of the next frame, where it can be sent as it is: at most 1 MiB.
    pub fn region(&mut self) -> Option<FileRegion> {
        match &mut self.source {
            Source::Whole(_) => None,
            Source::Live(reader) => reader.region(),
        }
    }

    /// The last piece was a file's, and so many bytes of it could not be had: they are read again, in the way that
    /// finds out why.
    pub fn give_back(&mut self, bytes: u64) {
        if let Source::Live(reader) = &mut self.source {
            reader.at -= bytes;
            reader.copies = true;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.live.leave(self.id);
    }
}

impl Reader {
    /// What is left of the chunk at its position, as a stretch of its file.
    fn region(&mut self) -> Option<FileRegion> {
        if self.is_done || self.copies || self.read.is_some() || self.at >= self.end {
            return None;
        }
        let chunk = u32::try_from(self.at / CHUNK_BYTES).ok()?;
        let file = self.live.file().filter(|file| file.has_chunk(chunk))?;
        let end = (self.at / CHUNK_BYTES + 1) * CHUNK_BYTES;
        let end = end.min(self.end).min(file.length().or_else(|| self.live.length())?);
        let region = FileRegion::of_chunk(file.opened_at(self.at)?, self.at, end.checked_sub(self.at)?)?;
        self.at = end;
        Some(region)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.is_done {
                return Poll::Ready(None);
            }
            if let Some(read) = &mut self.read {
                let outcome = ready!(Pin::new(&mut read.task).poll(cx));
                let (at, keep) = (read.at, read.keep);
                self.read = None;
                // A join error is the runtime going away, or a panic in the read.
                let data = outcome.unwrap_or_else(|error| Err(io::Error::other(error)));
                return Poll::Ready(Some(self.arrived(at, keep, data)));
            }
            match self.live.step(self.id, self.at, self.end, cx.waker()) {
                Step::Data(data) => {
                    self.at += data.len() as u64;
                    return Poll::Ready(Some(Ok(data)));
                }
                Step::End => self.is_done = true,
                Step::Wait => return Poll::Pending,
                Step::Fail(error) => {
                    self.is_done = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Step::Read { file, at, length, whole_block } => {
                    if let Some(data) = read_inline(&file, at, length) {
                        return Poll::Ready(Some(self.arrived(at, whole_block, data)));
                    }
                    let task = tokio::task::spawn_blocking(move || file.read(at, length));
                    self.read = Some(Read { task, at, keep: whole_block });
                }
            }
        }
    }

    fn arrived(&mut self, at: u64, keep: bool, data: io::Result<Bytes>) -> Result<Bytes, BodyError> {
        let data = match data {
            Ok(data) => data,
            Err(error) => {
                self.is_done = true;
                if let Some(file) = self.live.file() {
                    file.damaged(&error);
                }
                self.live.damaged();
                return Err(BodyError::Damaged);
            }
        };
        let skip = (self.at - at) as usize;
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        if keep {
            self.live.keep_block(at, data.clone());
        }
        let data = data.slice(skip..data.len().min(skip.saturating_add(most)));
        self.at += data.len() as u64;
        Ok(data)
    }
}

/// From the page cache, where the file is open and its chunk verified. `None`: not without waiting.
fn read_inline(file: &DiskFile, at: u64, length: usize) -> Option<io::Result<Bytes>> {
    let open: Arc<File> = file.opened_at(at)?;
    let mut buffer = vec![0; length];
    match read_cached(&open, &mut buffer, at) {
        Ok(Inline::Filled) => Some(Ok(buffer.into())),
        Ok(Inline::WouldBlock) => None,
        Err(error) => Some(Err(error)),
    }
}

/// Waits for the disk.
pub(super) fn read_whole(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    read_blocking(file, &mut buffer, at)?;
    Ok(buffer.into())
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Live(reader) => {
                let frame = ready!(reader.poll_frame(cx));
                Poll::Ready(frame.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Live(reader) => reader.is_done || reader.at >= reader.end,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Live(reader) if reader.is_done => SizeHint::with_exact(0),
            Source::Live(reader) if reader.end != u64::MAX => {
                SizeHint::with_exact(reader.end.saturating_sub(reader.at))
            }
            Source::Live(_) => SizeHint::default(),
        }
    }
}
