//! HTTP/2 connections to one origin: one per core, and more only when its streams are all taken.
//!
//! Which requests may be sent is the pool's business, whose slots count streams as they count connections; here a
//! request gets a stream. A connection is opened by one request while the others of its core wait for
//! it; if that fails, all of them are told.
//!
//! An origin that closes a connection (GOAWAY, RFC 9113 section 6.8) says which streams it has not touched: hyper's
//! error for those is told apart by [`is_unprocessed`], and they may be sent again, whatever the method.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::Either;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;

use super::{
    body::SendBody,
    connect::{Guarded, Opened},
    error::FetchError,
    exchange::HEAD_BYTES_MAX,
    resolve::Resolver,
};
use crate::worker;

/// Streams on one connection. Past it a second connection costs less than waiting behind one TCP window.
pub const STREAMS_MAX: u32 = 64;

/// Bytes of one response in flight: 5 MB/s at 100 ms.
const STREAM_WINDOW_BYTES: u32 = 512 * 1024;

/// Of all responses of a connection: so many that streams whose readers stopped can't hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX;

/// Bytes per DATA frame; the default of 16 KiB costs a header and a wake-up each.
const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// Bytes of a request's body buffered per stream.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// A connection with streams under way is asked for a sign of life so often, and closed without one.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Cores that have connections of their own; more share.
const SHARDS: usize = 64;

/// One connection.
#[derive(Clone)]
struct Connection {
    sender: SendRequest<SendBody>,
    streams: Arc<AtomicU32>,
    /// Streams the origin allows at once.
    allowed: Arc<AtomicU32>,
    served: Arc<AtomicBool>,
    peer: SocketAddr,
}

/// A stream of a connection, until dropped.
pub struct Stream {
    pub(super) sender: SendRequest<SendBody>,
    /// Whether the connection has answered before.
    pub(super) is_reused: bool,
    streams: Arc<AtomicU32>,
    served: Arc<AtomicBool>,
}

impl Stream {
    /// It has answered: it was alive.
    pub(super) fn answered(&self) {
        self.served.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Connection {
    /// A stream of it, if it has one left.
    fn stream(&self) -> Option<Stream> {
        let most = self.allowed.load(Ordering::Relaxed).clamp(1, STREAMS_MAX);
        let taken = self.streams.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |streams| {
            (streams < most).then_some(streams + 1)
        });
        taken.ok()?;
        Some(Stream {
            sender: self.sender.clone(),
            is_reused: self.served.load(Ordering::Relaxed),
            streams: self.streams.clone(),
            served: self.served.clone(),
        })
    }
}

#[derive(Default)]
struct Shard {
    connections: Mutex<Vec<Connection>>,
    /// Held while one is opened; keeps when that failed last, and why.
    opening: tokio::sync::Mutex<Option<(Instant, FetchError)>>,
}

/// See the module.
pub struct Multiplex {
    shards: Box<[Shard]>,
    /// The origin chose HTTP/1.1 in its last handshake.
    is_declined: AtomicBool,
}

impl Multiplex {
    /// Without connections.
    pub fn new() -> Self {
        Multiplex {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            is_declined: AtomicBool::new(false),
        }
    }

    /// Whether the origin speaks HTTP/1.1 although it could choose.
    pub fn is_declined(&self) -> bool {
        self.is_declined.load(Ordering::Relaxed)
    }

    /// What the last handshake came to.
    pub fn set_declined(&self, is_declined: bool) {
        self.is_declined.store(is_declined, Ordering::Relaxed);
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        let open = |shard: &Shard| {
            shard.connections.lock().iter().filter(|connection| !connection.sender.is_closed()).count()
        };
        self.shards.iter().map(open).sum()
    }

    fn shard(&self) -> &Shard {
        &self.shards[worker::index() % SHARDS]
    }

    fn take(&self, resolver: &Resolver) -> Option<Stream> {
        let mut connections = self.shard().connections.lock();
        // One that is closed, or leads where the name no longer does, gets no new streams; it ends with its last.
        connections.retain(|connection| !connection.sender.is_closed() && resolver.leads_to(connection.peer));
        connections.iter().find_map(Connection::stream)
    }

    /// A stream: of an open connection, or of one that `open` opens. `Right` is what `open` made instead.
    ///
    /// # Errors
    /// Those of `open`, also if another request called it.
    pub async fn stream<T>(
        &self,
        resolver: &Resolver,
        open: impl Future<Output = Result<Either<Opened, T>, FetchError>>,
    ) -> Result<Either<Stream, T>, FetchError> {
        if let Some(stream) = self.take(resolver) {
            return Ok(Either::Left(stream));
        }
        let shard = self.shard();
        let asked = Instant::now();
        let mut failed = shard.opening.lock().await;
        if let Some((when, error)) = &*failed
            && *when > asked
        {
            return Err(error.clone());
        }
        if let Some(stream) = self.take(resolver) {
            return Ok(Either::Left(stream));
        }
        let result = match open.await {
            Ok(Either::Left(opened)) => match self.begin(opened, shard).await {
                Ok(stream) => Ok(Either::Left(stream)),
                Err(error) => Err(error),
            },
            Ok(Either::Right(other)) => Ok(Either::Right(other)),
            Err(error) => Err(error),
        };
        *failed = result.as_ref().err().map(|error| (Instant::now(), error.clone()));
        result
    }

    async fn begin(&self, opened: Opened, shard: &Shard) -> Result<Stream, FetchError> {
        let peer = opened.peer;
        let (sender, allowed) = handshake(opened.stream).await?;
        let (streams, served) = (Arc::default(), Arc::default());
        let connection = Connection { sender, streams, allowed, served, peer };
        // A new connection has a stream: the clamp above makes it so.
        let stream = connection.stream().ok_or(FetchError::QueueFull)?;
        shard.connections.lock().push(connection);
        Ok(stream)
    }
}

/// Begins HTTP/2 on a connection. Returns what requests are sent with, and the streams that the origin allows at once.
///
/// # Errors
/// [`FetchError::Closed`].
pub async fn handshake(stream: Guarded) -> Result<(SendRequest<SendBody>, Arc<AtomicU32>), FetchError> {
    let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| FetchError::Closed(Arc::new(error)))?;
    // Ends when the last sender is dropped or the origin closes; whoever waits for a response is told.
    let allowed = Arc::new(AtomicU32::new(STREAMS_MAX));
    let said = allowed.clone();
    tokio::spawn(poll_fn(move |cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        let most = connection.current_max_send_streams();
        said.store(u32::try_from(most).unwrap_or(u32::MAX), Ordering::Relaxed);
        ended
    }));
    Ok((sender, allowed))
}

/// Whether the origin has said that it did nothing about a request: REFUSED_STREAM, or a GOAWAY that names an
/// earlier stream as the last one (RFC 9113 sections 8.7 and 6.8).
pub fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<h2::Error>() {
            let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            // h2 gives the GOAWAY itself to the streams behind the last one alone; the others get the end of
            // the connection.
            return error.is_remote() && (is_refused || error.is_go_away());
        }
        cause = inner.source();
    }
    false
}
