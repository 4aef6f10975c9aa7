//! A connection's bytes and what they are part of: framing checked as they are interpreted, deadlines while they are
//! waited for, output gathered and sent.
//!
//! Reads go through a buffer of the thread and are copied out in their own size, and output is written into a buffer
//! that goes back to the thread when it is empty: a connection that waits for its next request holds neither.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{COPIED_BYTES_MAX, deadlines::Deadlines, transport::Transport};
use crate::{
    cache::region::FileRegion,
    framing::{ContentFraming, Guard, Side, Step, Violation},
    listen::{
        limits,
        pace::{Pace, Verdict},
    },
    stats::{FrontStats, Turned},
};

/// Bytes read at once. An upload gains little past it.
const READ_BYTES: usize = 64 * 1024;

/// An output buffer larger than this goes back to the allocator, not to the thread.
const OUTPUT_BYTES_KEPT: usize = 128 * 1024;

/// How long, and for how many bytes, a client that was answered early is listened to without being heard, so that it
/// gets to read the answer (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Chunk sizes and trailers in a row, without content between them.
const AROUND_BYTES_MAX: usize = limits::HEAD_BYTES_MAX;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    static SPARE_OUTPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Why no head was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It may mean two things.
    Framing(Violation),
    /// It is too long.
    TooLarge,
}

impl Refused {
    /// What the client is told.
    pub fn status(self) -> StatusCode {
        match self {
            Refused::Framing(Violation::TooLong) | Refused::TooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Refused::Framing(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// See the module.
pub struct Wire<T> {
    transport: T,
    stats: Arc<FrontStats>,
    guard: Guard,
    deadlines: Deadlines,
    /// Read and not interpreted.
    input: BytesMut,
    /// How much of it the guard has seen as part of a head that goes on.
    seen: usize,
    /// Bytes since content was last read.
    around: usize,
    output: Vec<u8>,
    sent: usize,
    /// Leaves after the output, without being copied into it.
    frame: Bytes,
    /// Leaves after the output, without being read.
    file: Option<FileRegion>,
    /// Bytes of a file that could not be sent because they are not there.
    lost: u64,
    /// What was written may still be in the transport.
    unflushed: bool,
    half_closed: bool,
    broken: bool,
}

impl<T: Transport> Wire<T> {
    /// At the start of a connection.
    pub fn new(transport: T, stats: Arc<FrontStats>, pace: Pace) -> Self {
        Wire {
            transport,
            stats,
            guard: Guard::new(Side::Requests),
            deadlines: Deadlines::new(pace),
            input: BytesMut::new(),
            seen: 0,
            around: 0,
            output: Vec::new(),
            sent: 0,
            frame: Bytes::new(),
            file: None,
            lost: 0,
            unflushed: false,
            half_closed: false,
            broken: false,
        }
    }

    /// The next request head. `None`: the connection has ended, or is to.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        draining: impl Fn() -> bool,
    ) -> Poll<io::Result<Result<Option<Bytes>, Refused>>> {
        loop {
            match self.step_head() {
                Ok(None) => {}
                done => {
                    self.deadlines.not_reading();
                    return Poll::Ready(Ok(done));
                }
            }
            // Whatever was answered leaves before more is waited for.
            if self.poll_flush(cx)?.is_pending() {
                return self.poll_deadline(cx).map(Err);
            }
            if self.half_closed || (self.input.is_empty() && draining()) {
                return Poll::Ready(Ok(Ok(None)));
            }
            if self.poll_read(cx, READ_BYTES)?.is_pending() {
                let is_idle = self.input.is_empty();
                self.deadlines.reading(if is_idle { Turned::Idle } else { Turned::HeadTimeout });
                return self.poll_deadline(cx).map(Err);
            }
        }
    }

    fn step_head(&mut self) -> Result<Option<Bytes>, Refused> {
        while self.seen < self.input.len() {
            let step =
                self.guard.follow(&self.input[self.seen..]).map_err(|violation| self.refuse(violation))?;
            if let Step::HeadEnd(bytes) = step {
                let length = std::mem::take(&mut self.seen) + bytes;
                if length > limits::HEAD_BYTES_MAX {
                    self.broken = true;
                    return Err(Refused::TooLarge);
                }
                self.around = 0;
                let whole = if length == self.input.len() {
                    std::mem::take(&mut self.input)
                } else {
                    self.input.split_to(length)
                };
                return Ok(Some(whole.freeze()));
            }
            let Step::Head(bytes) = step else { return Err(self.refuse(Violation::BadChunk)) };
            self.seen += bytes;
        }
        if self.input.len() > limits::HEAD_BYTES_MAX {
            self.broken = true;
            return Err(Refused::TooLarge);
        }
        Ok(None)
    }

    fn refuse(&mut self, violation: Violation) -> Refused {
        self.broken = true;
        self.stats.violation(violation);
        tracing::debug!(%violation, "request refused: ambiguous framing");
        Refused::Framing(violation)
    }

    /// What follows the head that was read last.
    pub fn content(&self) -> ContentFraming {
        self.guard.content()
    }

    /// Ready when there is something for [`Self::step_content`].
    ///
    /// # Errors
    /// It breaks off. Nothing more can be read.
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.input.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.half_closed {
                self.broken = true;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            match self.poll_read(cx, READ_BYTES) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.broken = true;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.deadlines.reading(Turned::BodyTimeout);
                    return Poll::Pending;
                }
            }
        }
    }

    /// The next piece of content of what was read; `None`: look whether it has ended.
    ///
    /// # Errors
    /// Its framing breaks. Nothing more can be read.
    pub fn step_content(&mut self) -> io::Result<Option<Bytes>> {
        let violation = match self.guard.follow(&self.input) {
            Ok(Step::Content(bytes)) => {
                self.around = 0;
                return Ok(Some(self.input.split_to(bytes).freeze()));
            }
            Ok(Step::Around(bytes)) => {
                self.input.advance(bytes);
                self.around += bytes;
                if self.around <= AROUND_BYTES_MAX {
                    return Ok(None);
                }
                Violation::TooLong
            }
            Ok(Step::Head(_) | Step::HeadEnd(_)) => Violation::BadChunk,
            Err(violation) => violation,
        };
        self.refuse(violation);
        Err(io::Error::new(io::ErrorKind::InvalidData, violation.name()))
    }

    /// Passes over the rest of a request's content, if it is here. Whether it was.
    pub fn skip_content_read(&mut self) -> bool {
        while !self.is_between_messages() && !self.input.is_empty() && !self.broken {
            if self.step_content().is_err() {
                return false;
            }
        }
        self.is_between_messages()
    }

    /// Whether the last request's content has ended.
    pub fn is_between_messages(&self) -> bool {
        !self.broken && self.guard.is_idle()
    }

    /// Whether nothing that comes can be read as a message.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether something was read that is not interpreted yet.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether the client has closed its sending side.
    pub fn is_half_closed(&self) -> bool {
        self.half_closed
    }

    /// Reads what there is of the next requests, up to a limit, to see whether the client is there.
    pub fn read_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.half_closed && self.input.len() < limits::AHEAD_BYTES_MAX {
            match self.poll_read(cx, limits::AHEAD_BYTES_MAX - self.input.len()) {
                Poll::Ready(read) => read?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Nothing of the client's is awaited: the next move is ours.
    pub fn awaits_nothing(&mut self) {
        self.deadlines.not_reading();
    }

    /// Ready with an error when a deadline has passed.
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let why = ready!(self.deadlines.poll(cx));
        self.stats.turned(why);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why.name()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<io::Result<()>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(&mut buffer[..bytes_max]);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer))?;
            self.deadlines.read();
            let read = buffer.filled();
            self.half_closed = read.is_empty();
            self.input.extend_from_slice(read);
            Poll::Ready(Ok(()))
        })
    }

    /// Where heads are written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = SPARE_OUTPUT.take();
        }
        &mut self.output
    }

    /// Content to be sent after the output.
    pub fn queue(&mut self, data: Bytes) {
        if data.len() <= COPIED_BYTES_MAX {
            self.output().extend_from_slice(&data);
        } else {
            self.frame = data;
        }
    }

    /// Content to be sent after the output, from a file. Only where the transport can.
    pub fn queue_file(&mut self, region: FileRegion) {
        self.file = Some(region);
    }

    /// Bytes of the last file that could not be sent, because it has not got them. Told once.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Content to be sent after the output, as a chunk (RFC 9112 section 7.1).
    pub fn queue_chunk(&mut self, data: Bytes) {
        let size = format!("{:x}\r\n", data.len());
        let output = self.output();
        output.extend_from_slice(size.as_bytes());
        if data.len() <= COPIED_BYTES_MAX {
            output.extend_from_slice(&data);
            output.extend_from_slice(b"\r\n");
        } else {
            // One large copy spares a second write for its two last bytes.
            output.extend_from_slice(&data);
            output.extend_from_slice(b"\r\n");
        }
    }

    /// Whether what waits must leave before more is added.
    pub fn must_leave(&self, gathered_max: usize) -> bool {
        !self.frame.is_empty() || self.file.is_some() || self.output.len() - self.sent >= gathered_max
    }

    /// Sends all that waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() || !self.frame.is_empty() {
            let written = if self.file.is_some() {
                self.transport.poll_write_more(cx, &self.output[self.sent..])
            } else if self.frame.is_empty() {
                Pin::new(&mut self.transport).poll_write(cx, &self.output[self.sent..])
            } else {
                let slices = [IoSlice::new(&self.output[self.sent..]), IoSlice::new(&self.frame)];
                Pin::new(&mut self.transport).poll_write_vectored(cx, &slices)
            };
            let Poll::Ready(written) = written else {
                self.deadlines.writing();
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.took(written)?;
            self.unflushed = true;
            let of_output = written.min(self.output.len() - self.sent);
            self.sent += of_output;
            self.frame.advance(written - of_output);
        }
        if self.poll_send_file(cx)?.is_pending() {
            self.deadlines.writing();
            return Poll::Pending;
        }
        if self.unflushed {
            let Poll::Ready(flushed) = Pin::new(&mut self.transport).poll_flush(cx) else {
                self.deadlines.writing();
                return Poll::Pending;
            };
            flushed?;
            self.deadlines.flushed();
            self.unflushed = false;
        }
        if self.sent > 0 {
            self.sent = 0;
            self.output.clear();
            let empty = std::mem::take(&mut self.output);
            if empty.capacity() <= OUTPUT_BYTES_KEPT {
                SPARE_OUTPUT.set(empty);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The client took so much, fast enough or not.
    fn took(&mut self, bytes: usize) -> io::Result<()> {
        match self.deadlines.wrote(bytes) {
            Verdict::Fine => Ok(()),
            Verdict::TooSlow => {
                self.stats.turned(Turned::DownloadRate);
                Err(io::Error::new(io::ErrorKind::TimedOut, Turned::DownloadRate.name()))
            }
        }
    }

    fn poll_send_file(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(region) = &mut self.file {
            let (at, left) = (region.at(), region.left());
            match ready!(self.transport.poll_send_file(cx, region.file(), at, left)) {
                Ok(bytes @ 1..) => {
                    region.advance(bytes as u64);
                    if region.left() == 0 {
                        self.file = None;
                    }
                    self.took(bytes)?;
                }
                // The file ends early, or can't be read: whoever gave it knows what else there is.
                Ok(0) => (self.lost, self.file) = (left, None),
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    (self.lost, self.file) = (left, None)
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// See [`Transport::reset`].
    pub fn reset(&mut self) {
        self.transport.reset();
    }

    /// Ends a connection whose client expects that.
    pub async fn close(&mut self) {
        // The client may have closed first.
        let _ = tokio::time::timeout(LINGER, std::future::poll_fn(|cx| self.poll_shutdown(cx))).await;
    }

    /// Ends a connection whose client may still be sending.
    pub async fn close_and_linger(&mut self) {
        let mut left = LINGER_BYTES_MAX;
        let lingering = std::future::poll_fn(|cx| {
            if self.poll_shutdown(cx)?.is_pending() {
                return Poll::Pending;
            }
            while !self.half_closed && left > 0 {
                self.input.clear();
                ready!(self.poll_read(cx, READ_BYTES))?;
                left = left.saturating_sub(self.input.len());
            }
            Poll::Ready(io::Result::Ok(()))
        });
        let _ = tokio::time::timeout(LINGER, lingering).await;
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    /// The bytes as they are, those first that were read already.
    pub fn into_near_side(self) -> Ahead<T> {
        Ahead { ahead: self.input.freeze(), transport: self.transport }
    }
}

/// A connection of which something has been read ahead.
pub struct Ahead<T> {
    ahead: Bytes,
    transport: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Ahead<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buffer);
        }
        let bytes = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Ahead<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
