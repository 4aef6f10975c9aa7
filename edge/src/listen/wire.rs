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
    limits::{BODY_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, WRITE_STALL_TIMEOUT},
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
        Wire { inner, client, stats, guard, timer: None, reading: None, writing: None }
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
            Poll::Ready(_) => {
                self.writing = None;
                result
            }
            Poll::Pending => {
                self.writing.get_or_insert_with(Instant::now);
                self.poll_deadline(cx).map(Err)
            }
        }
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
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(cx, buffer) {
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

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
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
            Poll::Ready(_) => {
                this.writing = None;
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
