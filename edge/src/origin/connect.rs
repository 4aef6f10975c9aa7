//! Opens a connection to an origin: resolve, refuse forbidden addresses, race the families, TLS.
//!
//! Names are resolved anew for every connection (the system's resolver caches as its
//! configuration says), so that an origin that moves is followed within the life of a connection.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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

use super::error::FetchError;
use crate::framing::{Guard, Side};

/// Head start of each address over the next (RFC 8305 section 5 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses tried at most; a name with hundreds is a mistake or an attack on our sockets.
const ADDRESSES_MAX: usize = 8;

/// An origin as far as connecting goes.
pub struct Target {
    /// Name or address as configured.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Trust, for https origins.
    pub tls: Option<Arc<ClientConfig>>,
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
pub async fn connect(target: &Target) -> Result<(Guarded, Arc<Wire>), FetchError> {
    let addresses = resolve(target).await?;
    let stream = race(addresses).await.map_err(|error| FetchError::Connect(Arc::new(error)))?;
    // Heads and small bodies must not wait for an ACK; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let stream = match &target.tls {
        None => Stream::Plain(stream),
        Some(config) => {
            let name = ServerName::try_from(target.host.clone()).map_err(|error| {
                FetchError::Tls(Arc::new(io::Error::new(io::ErrorKind::InvalidInput, error)))
            })?;
            let stream = TlsConnector::from(config.clone())
                .connect(name, stream)
                .await
                .map_err(|error| FetchError::Tls(Arc::new(error)))?;
            Stream::Tls(Box::new(stream))
        }
    };
    let wire = Arc::new(Wire::default());
    Ok((Guarded { stream, guard: Guard::new(Side::Responses), wire: wire.clone() }, wire))
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, FetchError> {
    // Written as an address in the fleet file: its author meant it, whatever it is.
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let fail = |cause| FetchError::Resolve { host: target.host.clone(), cause: Arc::new(cause) };
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(fail)?;
    let mut refused = None;
    let allowed = found.filter(|address| {
        let forbidden = is_forbidden(address.ip());
        if forbidden {
            refused = Some(address.ip());
        }
        !forbidden
    });
    let addresses = interleave(allowed.collect());
    match (addresses.is_empty(), refused) {
        (false, _) => Ok(addresses),
        (true, Some(address)) => Err(FetchError::ForbiddenAddress { host: target.host.clone(), address }),
        (true, None) => Err(fail(io::Error::new(io::ErrorKind::NotFound, "no address"))),
    }
}

/// Addresses behind which machines answer that a name under someone else's control must not reach:
/// link-local ones (cloud metadata services live there) and the metadata addresses outside that
/// range, whatever notation carries them; and those that are no host at all.
fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => {
            const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            let embedded = v6.to_ipv4_mapped().or_else(|| nat64(v6));
            embedded.is_some_and(is_forbidden_v4)
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6 == AWS_METADATA
        }
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    const ALIBABA_METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_unspecified()
        || address == ALIBABA_METADATA
}

/// The IPv4 address inside the well-known NAT64 prefix (RFC 6052).
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

/// Alternates the families, the resolver's first choice first (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut mixed = Vec::new();
    while mixed.len() < ADDRESSES_MAX && (!first.is_empty() || !second.is_empty()) {
        mixed.extend(first.pop());
        mixed.extend(second.pop());
    }
    mixed
}

/// Connects to the address that answers first, each one starting [`STAGGER`] after the one before
/// or as soon as that has failed.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
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
    guard: Guard,
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
            if this.wire.head_due.swap(false, Ordering::AcqRel) {
                this.guard.expect_head();
            }
            this.wire.answered.store(true, Ordering::Release);
            if let Err(violation) = this.guard.inspect(read) {
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

    #[test]
    fn metadata_services_are_out_of_reach_in_every_notation() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "fe80::1",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "224.0.0.1",
        ] {
            assert!(is_forbidden(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "192.0.2.1", "::1", "2001:db8::1", "fd00::1"] {
            assert!(!is_forbidden(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn families_alternate_from_the_resolvers_first_choice() {
        let parse = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let [a, b, c] = [parse("[2001:db8::1]:1"), parse("[2001:db8::2]:1"), parse("192.0.2.1:1")];
        assert_eq!(interleave(vec![a, b, c]), [a, c, b]);
        assert_eq!(interleave(vec![c, a, b]), [c, a, b]);
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_delay_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad = closed.local_addr().unwrap();
        drop(closed);
        let started = std::time::Instant::now();
        assert_eq!(race(vec![bad, good]).await.unwrap().peer_addr().unwrap(), good);
        assert!(started.elapsed() < STAGGER);
    }
}
