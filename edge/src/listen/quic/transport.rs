//! Joins quinn to h3, and keeps h3 from buffering what a client makes long.
//!
//! h3 reads a frame other than DATA whole before it looks at it, whatever length the client has announced, and credit for
//! what was read is given back at once: no window bounds it. So frame headers are followed here, and a frame that is longer
//! than [`H3_FRAME_BYTES_MAX`](limits::H3_FRAME_BYTES_MAX) and no DATA ends its stream. Nothing is interpreted besides:
//! h3 alone gives frames a meaning.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use parking_lot::Mutex;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::limits;
use crate::stats::{FrontStats, Turned};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send + Sync>>;
type Pair = (quinn::SendStream, quinn::RecvStream);

/// Completes when the client wants no more of a response, or has all of it.
pub type Stopped = Boxed<()>;

/// What is known of a request's stream besides what h3 says: it hides the streams it is given.
pub struct Accepted {
    /// When it is over for the client.
    pub stopped: Stopped,
    /// DATA frames without content so far, for each of which h3 speaks of an end that is none.
    pub empty_frames: Arc<AtomicU64>,
}

/// Where that of the stream which was accepted last is found.
pub type Last = Arc<Mutex<Option<Accepted>>>;

/// A connection as h3 sees it.
pub struct Connection {
    inner: quinn::Connection,
    stats: Arc<FrontStats>,
    last: Last,
    next_bi: Option<Boxed<Result<Pair, ConnectionError>>>,
    next_uni: Option<Boxed<Result<quinn::RecvStream, ConnectionError>>>,
    opening: Opening,
}

/// Streams that we open.
pub struct Opening {
    inner: quinn::Connection,
    stats: Arc<FrontStats>,
    bi: Option<Boxed<Result<Pair, ConnectionError>>>,
    uni: Option<Boxed<Result<quinn::SendStream, ConnectionError>>>,
}

impl Connection {
    /// Wraps one. What it accepts is told in `last`.
    pub fn new(inner: quinn::Connection, stats: Arc<FrontStats>, last: Last) -> Self {
        let opening = Opening { inner: inner.clone(), stats: stats.clone(), bi: None, uni: None };
        Connection { inner, stats, last, next_bi: None, next_uni: None, opening }
    }
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = Receiving;
    type OpenStreams = Opening;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let inner = &self.inner;
        let next = self.next_uni.get_or_insert_with(|| {
            let inner = inner.clone();
            Box::pin(async move { inner.accept_uni().await })
        });
        let accepted = ready!(next.as_mut().poll(cx));
        self.next_uni = None;
        let stream = accepted.map_err(lost)?;
        Poll::Ready(Ok(Receiving::new(stream, Frames::after_stream_type(), self.stats.clone())))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi, ConnectionErrorIncoming>> {
        let inner = &self.inner;
        let next = self.next_bi.get_or_insert_with(|| {
            let inner = inner.clone();
            Box::pin(async move { inner.accept_bi().await })
        });
        let accepted = ready!(next.as_mut().poll(cx));
        self.next_bi = None;
        let (send, recv) = accepted.map_err(lost)?;
        let stopped = send.stopped();
        let stopped = Box::pin(async move {
            // Stopped, read to the end, or lost: it is over either way.
            let _ = stopped.await;
        });
        let bidi = Bidi::new(send, recv, self.stats.clone());
        *self.last.lock() = Some(Accepted { stopped, empty_frames: bidi.recv.frames.empty.clone() });
        Poll::Ready(Ok(bidi))
    }

    fn opener(&self) -> Opening {
        Opening { inner: self.inner.clone(), stats: self.stats.clone(), bi: None, uni: None }
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = Bidi;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi, StreamErrorIncoming>> {
        self.opening.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        self.opening.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.inner.close(code_of(code.value()), reason);
    }
}

impl quic::OpenStreams<Bytes> for Opening {
    type BidiStream = Bidi;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi, StreamErrorIncoming>> {
        let inner = &self.inner;
        let next = self.bi.get_or_insert_with(|| {
            let inner = inner.clone();
            Box::pin(async move { inner.open_bi().await })
        });
        let opened = ready!(next.as_mut().poll(cx));
        self.bi = None;
        let (send, recv) = opened.map_err(lost_stream)?;
        Poll::Ready(Ok(Bidi::new(send, recv, self.stats.clone())))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        let inner = &self.inner;
        let next = self.uni.get_or_insert_with(|| {
            let inner = inner.clone();
            Box::pin(async move { inner.open_uni().await })
        });
        let opened = ready!(next.as_mut().poll(cx));
        self.uni = None;
        Poll::Ready(Ok(Sending { stream: opened.map_err(lost_stream)?, writing: None }))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.inner.close(code_of(code.value()), reason);
    }
}

/// A request's stream.
pub struct Bidi {
    send: Sending,
    recv: Receiving,
}

impl Bidi {
    fn new(send: quinn::SendStream, recv: quinn::RecvStream, stats: Arc<FrontStats>) -> Self {
        Bidi {
            send: Sending { stream: send, writing: None },
            recv: Receiving::new(recv, Frames::default(), stats),
        }
    }
}

impl quic::BidiStream<Bytes> for Bidi {
    type SendStream = Sending;
    type RecvStream = Receiving;

    fn split(self) -> (Sending, Receiving) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for Bidi {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::SendStream<Bytes> for Bidi {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// Our side of a stream.
pub struct Sending {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
}

impl quic::SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            while data.has_remaining() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk()));
                data.advance(written.map_err(unwritten)?);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::ConnectionErrorIncoming {
                connection_error: ConnectionErrorIncoming::InternalError("written to while busy".to_owned()),
            });
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        let _ = self.stream.reset(code_of(code));
    }

    fn send_id(&self) -> StreamId {
        id_of(self.stream.id())
    }
}

/// The client's side of a stream.
pub struct Receiving {
    stream: quinn::RecvStream,
    frames: Frames,
    stats: Arc<FrontStats>,
}

impl Receiving {
    fn new(stream: quinn::RecvStream, frames: Frames, stats: Arc<FrontStats>) -> Self {
        Receiving { stream, frames, stats }
    }
}

impl quic::RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        // Dropped while pending it loses nothing: quinn keeps wakers by stream.
        let read = ready!(pin!(self.stream.read_chunk(CHUNK_BYTES, true)).poll(cx));
        let Some(chunk) = read.map_err(unread)? else { return Poll::Ready(Ok(None)) };
        if !self.frames.follow(&chunk.bytes) {
            self.stats.turned(Turned::FrameTooLong);
            let code = Code::H3_EXCESSIVE_LOAD.value();
            self.stop_sending(code);
            return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code: code }));
        }
        Poll::Ready(Ok(Some(chunk.bytes)))
    }

    fn stop_sending(&mut self, code: u64) {
        let _ = self.stream.stop(code_of(code));
    }

    fn recv_id(&self) -> StreamId {
        id_of(self.stream.id())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // Not wanted any more is no error (RFC 9114 section 4.1); quinn's own code would be none of HTTP/3's.
        let _ = self.stream.stop(code_of(Code::H3_NO_ERROR.value()));
    }
}

/// Bytes taken from a stream at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Follows the frames of a stream (RFC 9114 section 7.1): type and length, each a variable-length integer, then so many
/// bytes.
#[derive(Debug)]
struct Frames {
    at: At,
    /// Of the integer that is being read.
    value: u64,
    left: u8,
    /// DATA frames without content.
    empty: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The type of a stream of one direction (section 6.2).
    StreamType,
    Type,
    Length {
        data: bool,
    },
    Payload(u64),
    /// Not frames; h3 does not read such streams.
    Foreign,
}

impl Default for Frames {
    fn default() -> Self {
        Frames { at: At::Type, value: 0, left: 0, empty: Arc::default() }
    }
}

impl Frames {
    const CONTROL: u64 = 0;
    const DATA: u64 = 0;

    fn after_stream_type() -> Self {
        Frames { at: At::StreamType, ..Frames::default() }
    }

    /// Whether `bytes`, the stream's next, announce nothing too long.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            if let At::Foreign = self.at {
                return true;
            }
            if let At::Payload(left) = &mut self.at {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                bytes = &bytes[taken..];
                if *left > 0 {
                    return true;
                }
                self.at = At::Type;
            }
            let Some((&byte, rest)) = bytes.split_first() else { return true };
            bytes = rest;
            let Some(value) = self.integer(byte) else { continue };
            self.at = match self.at {
                At::StreamType if value == Self::CONTROL => At::Type,
                At::StreamType => At::Foreign,
                At::Type => At::Length { data: value == Self::DATA },
                At::Length { data: false } if value > limits::H3_FRAME_BYTES_MAX => return false,
                At::Length { data } => {
                    if data && value == 0 {
                        self.empty.fetch_add(1, Ordering::Relaxed);
                    }
                    At::Payload(value)
                }
                other => other,
            };
        }
    }

    /// Takes an octet of an integer (RFC 9000 section 16).
    fn integer(&mut self, byte: u8) -> Option<u64> {
        if self.left == 0 {
            self.left = 1 << (byte >> 6);
            self.value = u64::from(byte & 0x3f);
        } else {
            self.value = self.value << 8 | u64::from(byte);
        }
        self.left -= 1;
        (self.left == 0).then_some(self.value)
    }
}

fn code_of(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id_of(id: quinn::StreamId) -> StreamId {
    // Below 2^62 by quinn's own construction, which is all that h3 demands.
    StreamId::try_from(u64::from(VarInt::from(id))).expect("a stream ID is a variable-length integer")
}

fn lost(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn lost_stream(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
}

fn unread(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        ReadError::ConnectionLost(error) => lost_stream(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn unwritten(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(error) => lost_stream(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An integer in four octets.
    fn four(value: u32) -> [u8; 4] {
        (value | 0x8000_0000).to_be_bytes()
    }

    #[test]
    fn frames_are_followed_whatever_the_cuts() {
        let long = u32::try_from(limits::H3_FRAME_BYTES_MAX).unwrap();
        let headers = [&[1][..], &four(5), b"hello"].concat();
        let data = [&[0][..], &four(long + 1000), &vec![0xff; long as usize + 1000]].concat();
        let trailers = [&[1][..], &four(long), &vec![0xff; long as usize]].concat();
        let good = [&headers[..], &data, &trailers, &[0x21, 0]].concat();
        let unknown = [&[0x21][..], &four(long + 1)].concat();
        for cut in [1, 2, 3, 7, 1000, good.len()] {
            let mut frames = Frames::default();
            assert!(good.chunks(cut).all(|chunk| frames.follow(chunk)), "cut {cut}");
            let refused = unknown.chunks(cut).position(|chunk| !frames.follow(chunk));
            assert_eq!(
                refused,
                Some((unknown.len() - 1) / cut),
                "cut {cut}: with the last octet of the length"
            );
        }
    }

    #[test]
    fn only_control_streams_have_frames() {
        let mut control = Frames::after_stream_type();
        assert!(control.follow(&[0, 4, 0]));
        assert!(!control.follow(&[&[4][..], &four(1 << 20)].concat()));
        let mut encoder = Frames::after_stream_type();
        assert!(encoder.follow(&[&[2, 1][..], &four(1 << 20)].concat()));
    }
}
