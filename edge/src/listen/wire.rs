//! A client's connection as hyper sees it: checked framing, and deadlines that hyper does not have.
//!
//! What is awaited decides which deadline runs: a head's end, a body's next byte, the next request, the
//! client's reading. One timer per connection serves all four. It is only moved when it fires too early,
//! so that a busy connection does not touch the timer wheel for each request.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    connection::Client,
    limits::{
        AHEAD_BYTES_MAX, BODY_TIMEOUT, HALF_CLOSED_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, WRITE_STALL_TIMEOUT,
    },
    pace::{Pace, Verdict},
};
use crate::{
    framing::{Guard, Side},
    stats::{FrontStats, Turned},
};

/// See the module.
pub struct Wire<T> {
    inner: T,
    client: Arc<Client>,
    stats: Arc<FrontStats>,
    /// Follows HTTP/1 messages; `None` on h2, whose framing has no second reading.
    guard: Option<Guard>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What the reader waits for, and since when.
    reading: Option<(Turned, Instant)>,
    /// Since when the client takes nothing.
    writing: Option<Instant>,
    /// How fast it takes what it takes.
    pace: Pace,
    /// What was read to see whether the client is still there.
    ahead: Vec<u8>,
    /// The client has closed its sending side, and may wait for so long.
    half_closed: Option<Pin<Box<Sleep>>>,
}

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl<T> Wire<T> {
    /// Wraps a connection whose protocol is known.
    pub fn new(inner: T, protocol: Protocol, client: Arc<Client>, stats: Arc<FrontStats>) -> Self {
        let guard = match protocol {
            Protocol::Http1 => Some(Guard::new(Side::Requests)),
            Protocol::Http2 => None,
        };
        let limits = client.limits();
        let pace = Pace::new(limits.download_rate_min, limits.rate_window);
        Wire {
            inner,
            client,
            pace,
            stats,
            guard,
            timer: None,
            reading: None,
            writing: None,
            ahead: Vec::new(),
            half_closed: None,
        }
    }

    /// Which deadline runs while the reader waits. `None`: the next move is ours, not the client's.
    fn awaited(&self) -> Option<Turned> {
        if self.client.tunnel.load(Ordering::Relaxed) {
            // The tunnel has its own: silence of both sides.
            return None;
        }
        let busy = self.client.in_flight.load(Ordering::Relaxed) > 0;
        match &self.guard {
            Some(guard) if guard.in_head() => Some(Turned::HeadTimeout),
            Some(guard) if guard.is_idle() && !busy => Some(Turned::Idle),
            // hyper reads a body only when someone wants it: then the client is to blame.
            Some(guard) if !guard.is_idle() => Some(Turned::BodyTimeout),
            Some(_) => None,
            // The last stream may end without another read being tried: the deadline always runs here, and
            // starts again where it finds streams open.
            None => Some(Turned::Idle),
        }
    }

    fn deadline(&self) -> Option<(Turned, Instant)> {
        let reading = self.reading.map(|(why, since)| {
            let limit = match why {
                Turned::HeadTimeout => HEAD_TIMEOUT,
                Turned::BodyTimeout => BODY_TIMEOUT,
                _ => IDLE_TIMEOUT,
            };
            (why, since + limit)
        });
        let writing = self.writing.map(|since| (Turned::WriteStall, since + WRITE_STALL_TIMEOUT));
        match (reading, writing) {
            (Some(reading), Some(writing)) => Some(if writing.1 < reading.1 { writing } else { reading }),
            (reading, writing) => reading.or(writing),
        }
    }

    /// Ready with an error when the deadline that runs has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let Some((why, deadline)) = self.deadline() else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // A timer set for earlier stays: it fires, finds nothing due, and is moved then.
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if now >= deadline {
                if why == Turned::Idle && self.client.in_flight.load(Ordering::Relaxed) > 0 {
                    self.reading = Some((why, now));
                    continue;
                }
                self.stats.turned(why);
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why.name()));
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn wait_for_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let awaited = self.awaited();
        self.reading = match (awaited, self.reading) {
            (None, _) => None,
            // A head has one deadline from its first byte; the others start anew with each byte, which
            // `poll_read` sees to.
            (Some(why), Some((same, since))) if why == same => Some((why, since)),
            (Some(why), _) => Some((why, Instant::now())),
        };
        self.poll_deadline(cx)
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(bytes)) if self.writing.take().is_some() => {
                match self.pace.moved(bytes, Instant::now().into_std()) {
                    Verdict::Fine => result,
                    // The other side of a tunnel may have little to say; its silence has a limit of its own.
                    Verdict::TooSlow if self.client.tunnel.load(Ordering::Relaxed) => result,
                    Verdict::TooSlow => {
                        self.stats.turned(Turned::DownloadRate);
                        let why = Turned::DownloadRate.name();
                        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
                    }
                }
            }
            Poll::Ready(Ok(bytes)) => {
                self.pace.took(bytes);
                result
            }
            Poll::Ready(Err(_)) => result,
            Poll::Pending => {
                let since = *self.writing.get_or_insert_with(Instant::now);
                self.pace.waits(since.into_std());
                self.poll_deadline(cx).map(Err)
            }
        }
    }
}

impl<T: AsyncRead + Unpin> Wire<T> {
    /// What was read ahead first, then what comes.
    fn poll_read_on(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..length]);
            self.ahead.drain(..length);
            return Poll::Ready(Ok(()));
        }
        if self.half_closed.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }

    /// While an origin is asked, hyper does not read, and would not notice that the client has left. Called in every
    /// flush then, which hyper does in every poll; between messages only, so that no reader misses its bytes.
    fn look_for_client(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if !self.guard.as_ref().is_some_and(Guard::is_idle) {
            return None;
        }
        while self.half_closed.is_none() && self.ahead.len() < AHEAD_BYTES_MAX {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    self.half_closed = Some(Box::pin(tokio::time::sleep(HALF_CLOSED_TIMEOUT)));
                }
                Poll::Ready(Ok(())) => self.ahead.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => {
                    self.stats.turned(Turned::Gone);
                    return Some(error);
                }
                Poll::Pending => return None,
            }
        }
        let gone = self.half_closed.as_mut().is_some_and(|limit| limit.as_mut().poll(cx).is_ready());
        gone.then(|| {
            self.stats.turned(Turned::Gone);
            io::Error::new(io::ErrorKind::ConnectionAborted, Turned::Gone.name())
        })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(result) = this.poll_read_on(cx, buffer) {
            if this.reading.is_some_and(|(why, _)| why != Turned::HeadTimeout) {
                this.reading = None;
            }
            let read = &mut buffer.filled_mut()[before..];
            if let Some(guard) = &mut this.guard {
                if this.client.tunnel.load(Ordering::Relaxed) {
                    guard.open_tunnel();
                }
                if let Err(violation) = guard.inspect(read) {
                    this.stats.violation(violation);
                    tracing::debug!(peer = %this.client.peer, %violation, "request refused: ambiguous framing");
                }
                if !guard.in_head() {
                    this.reading = None;
                }
            }
            return Poll::Ready(result);
        }
        this.wait_for_read(cx).map(Err)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.wrote(result, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.wrote(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_flush(cx);
        match result {
            Poll::Ready(Ok(())) if this.client.waiting.load(Ordering::Relaxed) > 0 => {
                this.writing = None;
                this.look_for_client(cx).map_or(Poll::Ready(Ok(())), |error| Poll::Ready(Err(error)))
            }
            Poll::Ready(_) => {
                this.writing = None;
                this.pace.rests();
                result
            }
            Poll::Pending => {
                this.writing.get_or_insert_with(Instant::now);
                this.poll_deadline(cx).map(Err)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
