//! An HTTP/2 connection as hyper sees it: with deadlines that hyper does not have.
//!
//! Two run here: for a client that sends nothing and has no stream open, and for one that does not take what it is
//! sent, or takes it too slowly. One timer per connection serves both. It is only moved when it fires too early, so that
//! a busy connection does not touch the timer wheel for each request. HTTP/1 has a loop of its own
//! ([`super::http1`]).

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
    limits::{IDLE_TIMEOUT, WRITE_STALL_TIMEOUT},
    pace::{Pace, Verdict},
};
use crate::stats::{FrontStats, Turned};

/// See the module.
pub struct Wire<T> {
    inner: T,
    client: Arc<Client>,
    stats: Arc<FrontStats>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the reader waits.
    reading: Option<Instant>,
    /// Since when the client takes nothing.
    writing: Option<Instant>,
    /// How fast it takes what it takes.
    pace: Pace,
}

impl<T> Wire<T> {
    /// Wraps a connection.
    pub fn new(inner: T, client: Arc<Client>, stats: Arc<FrontStats>) -> Self {
        let limits = client.limits();
        let pace = Pace::new(limits.download_rate_min, limits.rate_window);
        Wire { inner, client, pace, stats, timer: None, reading: None, writing: None }
    }

    fn deadline(&self) -> Option<(Turned, Instant)> {
        let reading = self.reading.map(|since| (Turned::Idle, since + IDLE_TIMEOUT));
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
                // The last stream may end without another read being tried: the deadline always runs, and
                // starts again where it finds streams open.
                if why == Turned::Idle && self.client.in_flight.load(Ordering::Relaxed) > 0 {
                    self.reading = Some(now);
                    continue;
                }
                self.stats.turned(why);
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why.name()));
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(bytes)) if self.writing.take().is_some() => {
                match self.pace.moved(bytes, Instant::now().into_std()) {
                    Verdict::Fine => result,
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

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(cx, buffer) {
            this.reading = None;
            return Poll::Ready(result);
        }
        this.reading.get_or_insert_with(Instant::now);
        this.poll_deadline(cx).map(Err)
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
        match Pin::new(&mut this.inner).poll_flush(cx) {
            Poll::Pending => {
                this.writing.get_or_insert_with(Instant::now);
                this.poll_deadline(cx).map(Err)
            }
            result => {
                this.writing = None;
                this.pace.rests();
                result
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
