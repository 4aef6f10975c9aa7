//! Opens a connection to an origin: addresses from [`super::resolve`], the families raced, TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{error::FetchError, resolve::Resolver};
use crate::framing::{Guard, Side};

/// Head start of each address over the next (RFC 8305 section 5 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// An origin as far as connecting goes.
pub struct Target {
    /// Where it is.
    pub resolver: Arc<Resolver>,
    /// For https origins.
    pub tls: Option<Tls>,
}

/// How TLS is spoken to an origin.
pub struct Tls {
    /// Asked for, and verified.
    pub name: String,
    /// Offers HTTP/1.1 alone.
    pub http1: Arc<ClientConfig>,
    /// Offers HTTP/2 as well.
    pub any: Arc<ClientConfig>,
}

/// What a new connection may turn out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 if the origin agrees in the handshake.
    Any,
    /// HTTP/2, without asking.
    Http2,
}

/// An open connection.
pub struct Opened {
    /// Its bytes.
    pub stream: Guarded,
    /// What its reader says.
    pub wire: Arc<Wire>,
    /// The other end.
    pub peer: SocketAddr,
    /// Whether HTTP/2 is spoken on it.
    pub is_http2: bool,
}

/// What a connection's reader and its pool tell each other.
#[derive(Default)]
pub struct Wire {
    /// Set by the pool as it sends a request; taken by the reader before the next byte.
    head_due: AtomicBool,
    /// Whether any byte came since.
    answered: AtomicBool,
}

impl Wire {
    /// A request is about to be sent.
    pub fn expect_head(&self) {
        self.answered.store(false, Ordering::Relaxed);
        self.head_due.store(true, Ordering::Release);
    }

    /// Whether the origin has sent anything since the last request.
    pub fn answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }
}

/// Opens one connection. The caller bounds the time.
///
/// # Errors
/// [`FetchError::Resolve`], [`FetchError::ForbiddenAddress`], [`FetchError::Connect`] (of the last
/// address tried) or [`FetchError::Tls`].
pub async fn connect(target: &Target, offer: Offer) -> Result<Opened, FetchError> {
    let addresses = target.resolver.addresses().await?;
    let stream = race(&addresses).await.map_err(|error| FetchError::Connect(Arc::new(error)))?;
    let peer = stream.peer_addr().map_err(|error| FetchError::Connect(Arc::new(error)))?;
    // Heads and small bodies must not wait for an ACK; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let mut is_http2 = offer == Offer::Http2;
    let stream = match &target.tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let fail = |error| FetchError::Tls(Arc::new(error));
            let name = ServerName::try_from(tls.name.clone())
                .map_err(|error| fail(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let config = if offer == Offer::Http1 { &tls.http1 } else { &tls.any };
            let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(fail)?;
            is_http2 |= stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Stream::Tls(Box::new(stream))
        }
    };
    let wire = Arc::new(Wire::default());
    // HTTP/2 has a framing of its own, which leaves no two ways to read it.
    let guard = (!is_http2).then(|| Guard::new(Side::Responses));
    let stream = Guarded { stream, guard, wire: wire.clone() };
    Ok(Opened { stream, wire, peer, is_http2 })
}

/// Connects to the address that answers first, each one starting [`STAGGER`] after the one before
/// or as soon as that has failed.
async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    loop {
        if let Some(address) = waiting.next() {
            running.push(TcpStream::connect(address));
        }
        if running.is_empty() {
            return Err(last);
        }
        let stagger = async {
            match waiting.len() {
                0 => std::future::pending().await,
                _ => tokio::time::sleep(STAGGER).await,
            }
        };
        tokio::select! {
            Some(result) = running.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = stagger => {}
        }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection whose response heads are checked before hyper reads them.
pub struct Guarded {
    stream: Stream,
    guard: Option<Guard>,
    wire: Arc<Wire>,
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let read = &mut buffer.filled_mut()[before..];
        if !read.is_empty() {
            let is_due = this.wire.head_due.swap(false, Ordering::AcqRel);
            this.wire.answered.store(true, Ordering::Release);
            let Some(guard) = &mut this.guard else { return result };
            if is_due {
                guard.expect_head();
            }
            if let Err(violation) = guard.inspect(read) {
                tracing::warn!(%violation, "origin response refused: ambiguous framing");
            }
        }
        result
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusing_address_does_not_delay_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad = closed.local_addr().unwrap();
        drop(closed);
        let started = std::time::Instant::now();
        assert_eq!(race(&[bad, good]).await.unwrap().peer_addr().unwrap(), good);
        assert!(started.elapsed() < STAGGER);
    }
}
