//! Serves DNS over TCP (RFC 7766): pipelined queries, each with a two-octet length before it.
//!
//! Answers leave in the order of their queries, since each is made at once and none waits for another;
//! those that are ready together are written together. Everything a client can hold is limited by name
//! below: connections, queries, octets, time. Invariant: a client that reads or writes slowly costs one
//! connection for a bounded time, and nothing else.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use super::stats::Stats;
use crate::{
    answer::{Scratch, Transport},
    clock,
    view::View,
};

/// Connections open at once. A thousand hold some 10 MB; resolvers use TCP for the few answers that were
/// cut, and this is far above what the busiest root servers see per machine.
pub const CONNECTIONS_MAX: u64 = 1024;

/// Connections open at once from one client, an IPv6 client being its /64: a large resolver farm behind
/// one address needs a few dozen, an attacker must not get them all.
pub const CONNECTIONS_PER_CLIENT_MAX: u32 = 64;

/// Queries answered on one connection before it is closed after an answer, so that load spreads again.
pub const QUERIES_MAX: u64 = 10_000;

/// A connection without a query is closed after this (RFC 7766 section 6.2.3 leaves it to us); also what
/// edns-tcp-keepalive tells clients.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A query that was begun must be whole after this.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers that were handed to the kernel must be taken by the client within this.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers gathered before they are written: one full-size message beside small ones.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// Octets read at once.
const READ_BYTES: usize = 4096;

/// Pause after a failing `accept`, which means that files or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection shares.
pub struct Streams {
    views: Arc<ArcSwap<View>>,
    stats: Arc<Stats>,
    clients: Mutex<HashMap<IpAddr, u32>>,
    open: AtomicU64,
    /// Tells listeners and idle connections to end.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Streams {
    /// Streams that answer from these views.
    pub fn new(views: Arc<ArcSwap<View>>, stats: Arc<Stats>) -> Arc<Streams> {
        Arc::new(Streams {
            views,
            stats,
            clients: Mutex::new(HashMap::new()),
            open: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Accepts connections until [`Streams::stop`].
    pub fn listen(self: &Arc<Self>, listener: TcpListener) {
        let streams = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = streams.stop.clone();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, client)) => streams.take(stream, client),
                        Err(error) => {
                            warn!(%error, "can't accept DNS over TCP");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    /// Ends listeners and idle connections; waits for the others until the deadline.
    pub async fn stop(&self, deadline: std::time::Instant) {
        self.stop.cancel();
        self.tasks.close();
        // What is still being written at the deadline is cut when the process ends.
        let _ = timeout_at(deadline.into(), self.tasks.wait()).await;
    }

    fn take(self: &Arc<Self>, stream: tokio::net::TcpStream, client: SocketAddr) {
        let Some(place) = Place::take(self, client.ip()) else {
            self.stats.connections.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.stats.connections.accepted.fetch_add(1, Ordering::Relaxed);
        let streams = Arc::clone(self);
        self.tasks.spawn(async move {
            // Answers are gathered here already; waiting for more would only delay them.
            let _ = stream.set_nodelay(true);
            if streams.serve(stream, client).await.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
            {
                streams.stats.connections.timed_out.fetch_add(1, Ordering::Relaxed);
            }
            drop(place);
        });
    }

    /// Serves one connection until it ends, is idle, too slow, or has asked enough.
    async fn serve<S>(&self, mut stream: S, client: SocketAddr) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut input: Vec<u8> = Vec::with_capacity(READ_BYTES);
        let mut output: Vec<u8> = Vec::new();
        let mut answered = 0;
        // A query in parts must be whole by then; counted from its first octet.
        let mut whole_by: Option<Instant> = None;
        loop {
            let used = self.answer(&input, &mut output, client, &mut answered);
            input.drain(..used);
            if !output.is_empty() {
                timeout(WRITE_TIMEOUT, stream.write_all(&output))
                    .await
                    .map_err(|_| io::ErrorKind::TimedOut)??;
                output.clear();
                output.shrink_to(READ_BYTES);
            }
            if answered >= QUERIES_MAX || self.stop.is_cancelled() {
                return stream.shutdown().await;
            }
            if used > 0 && !input.is_empty() && is_whole(&input) {
                continue;
            }
            let now = Instant::now();
            let deadline = if input.is_empty() {
                whole_by = None;
                now + IDLE_TIMEOUT
            } else if used > 0 {
                *whole_by.insert(now + QUERY_TIMEOUT)
            } else {
                *whole_by.get_or_insert(now + QUERY_TIMEOUT)
            };
            let idle = input.is_empty();
            input.reserve(READ_BYTES);
            let read = tokio::select! {
                read = timeout_at(deadline, stream.read_buf(&mut input)) => read,
                () = self.stop.cancelled(), if idle => return stream.shutdown().await,
            };
            match read {
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                // Idle is how connections end, not a fault of theirs.
                Err(_) if idle => return stream.shutdown().await,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Answers the whole queries in `input`, as many as fit the output, and says how many octets they
    /// were.
    fn answer(&self, input: &[u8], output: &mut Vec<u8>, client: SocketAddr, answered: &mut u64) -> usize {
        let mut used = 0;
        let view = self.views.load();
        while output.len() < WRITE_BYTES_MAX && *answered < QUERIES_MAX {
            let Some(query) = first_query(&input[used..]) else { break };
            used += 2 + query.len();
            *answered += 1;
            self.answer_one(&view, query, output, client);
        }
        used
    }

    fn answer_one(&self, view: &View, query: &[u8], output: &mut Vec<u8>, client: SocketAddr) {
        /// What answers are made in: one per thread, so that a connection need not hold 64 KiB.
        struct Desk(Scratch, Box<[u8; 65_535]>);
        thread_local! {
            static DESK: RefCell<Desk> = RefCell::new(Desk(Scratch::default(), Box::new([0; 65_535])));
        }
        let counters = self.stats.stream();
        let made = catch_unwind(AssertUnwindSafe(|| {
            DESK.with_borrow_mut(|Desk(scratch, room)| {
                let outcome =
                    view.respond(scratch, query, client, Transport::Stream, clock::now(), &mut room[..]);
                counters.count(&outcome, &view.base.slots);
                if let (Ok(length), 1..) = (u16::try_from(outcome.bytes), outcome.bytes) {
                    output.extend_from_slice(&length.to_be_bytes());
                    output.extend_from_slice(&room[..outcome.bytes]);
                }
            });
        }));
        if made.is_err() {
            counters.panicked();
            error!("a query over TCP made the answer panic. Please report this as a bug");
        }
    }
}

/// The first query, if all of it is there.
fn first_query(input: &[u8]) -> Option<&[u8]> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

fn is_whole(input: &[u8]) -> bool {
    first_query(input).is_some()
}

/// One connection's place among those allowed; given back when dropped.
struct Place {
    streams: Arc<Streams>,
    client: IpAddr,
}

impl Place {
    /// `None`: there are too many, in all or from this client.
    fn take(streams: &Arc<Streams>, client: IpAddr) -> Option<Place> {
        let client = client_of(client);
        let mut clients = streams.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            return None;
        }
        let of_client = clients.entry(client).or_insert(0);
        if *of_client >= CONNECTIONS_PER_CLIENT_MAX {
            return None;
        }
        *of_client += 1;
        let open = streams.open.fetch_add(1, Ordering::Relaxed) + 1;
        streams.stats.connections.open.store(open, Ordering::Relaxed);
        Some(Place { streams: Arc::clone(streams), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.streams.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_client) = clients.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                clients.remove(&self.client);
            }
        }
        let open = self.streams.open.fetch_sub(1, Ordering::Relaxed) - 1;
        self.streams.stats.connections.open.store(open, Ordering::Relaxed);
    }
}

/// Whom a connection counts for: an IPv6 client is its /64, since it chooses the rest.
fn client_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::view::sample;

    const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 9);

    fn streams() -> Arc<Streams> {
        Streams::new(Arc::new(ArcSwap::from_pointee(sample::view())), Arc::new(Stats::default()))
    }

    fn framed(id: u16, name: &str) -> Vec<u8> {
        let query = sample::query(id, name);
        [(query.len() as u16).to_be_bytes().as_slice(), &query].concat()
    }

    async fn read_id(stream: &mut DuplexStream) -> u16 {
        let length = stream.read_u16().await.unwrap();
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await.unwrap();
        u16::from_be_bytes([message[0], message[1]])
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_and_a_half_query_is_a_fault() {
        let streams = streams();
        let (mut client, server) = duplex(4096);
        let started = Instant::now();
        let served = tokio::spawn({
            let streams = Arc::clone(&streams);
            async move { streams.serve(server, CLIENT).await }
        });
        client.write_all(&framed(5, "static.cdn.test")).await.unwrap();
        assert_eq!(read_id(&mut client).await, 5);
        assert!(served.await.unwrap().is_ok());
        assert_eq!(started.elapsed(), IDLE_TIMEOUT);

        let (mut client, server) = duplex(4096);
        let started = Instant::now();
        // One octet a second: the deadline counts from the first, not from the last.
        let drip = async {
            for octet in framed(5, "static.cdn.test") {
                client.write_all(&[octet]).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            io::Result::Ok(())
        };
        let (served, dripped) = tokio::join!(streams.serve(server, CLIENT), drip);
        assert_eq!(served.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(dripped.is_err());
        assert!(started.elapsed() < QUERY_TIMEOUT + Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_dropped() {
        let streams = streams();
        let (mut client, server) = duplex(64);
        let flood = async {
            loop {
                if client.write_all(&framed(1, "static.cdn.test")).await.is_err() {
                    return;
                }
            }
        };
        let (served, ()) = tokio::join!(streams.serve(server, CLIENT), flood);
        assert_eq!(served.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_after_its_share_of_queries() {
        let streams = streams();
        let (client, server) = duplex(1 << 16);
        let (mut reader, mut writer) = tokio::io::split(client);
        let asked = async {
            for n in 0..QUERIES_MAX + 5 {
                if writer.write_all(&framed(n as u16, "static.cdn.test")).await.is_err() {
                    return;
                }
            }
        };
        let counted = async {
            let mut answers = 0;
            while let Ok(length) = reader.read_u16().await {
                let mut message = vec![0; usize::from(length)];
                reader.read_exact(&mut message).await.unwrap();
                answers += 1;
            }
            answers
        };
        let (served, (), answers) = tokio::join!(streams.serve(server, CLIENT), asked, counted);
        assert!(served.is_ok());
        assert_eq!(answers, QUERIES_MAX);
    }

    #[tokio::test]
    async fn places_are_limited_and_given_back() {
        let streams = streams();
        let client = CLIENT.ip();
        let places: Vec<Place> =
            (0..CONNECTIONS_PER_CLIENT_MAX).map(|_| Place::take(&streams, client).unwrap()).collect();
        assert!(Place::take(&streams, client).is_none());
        let others: Vec<Place> = (u64::from(CONNECTIONS_PER_CLIENT_MAX)..CONNECTIONS_MAX)
            .map(|n| Place::take(&streams, IpAddr::V4((n as u32).into())).unwrap())
            .collect();
        assert!(Place::take(&streams, "192.0.2.1".parse().unwrap()).is_none());
        drop((places, others));
        assert!(streams.clients.lock().unwrap().is_empty());
        assert!(Place::take(&streams, client).is_some());
    }

    #[test]
    fn framing_waits_for_the_whole() {
        assert_eq!(first_query(&[]), None);
        assert_eq!(first_query(&[0]), None);
        assert_eq!(first_query(&[0, 2, 7]), None);
        assert_eq!(first_query(&[0, 2, 7, 8, 0, 1]), Some(&[7, 8][..]));
        assert_eq!(first_query(&[0, 0, 1]), Some(&[][..]));
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let one = client_of("2001:db8:1:2:3::4".parse().unwrap());
        assert_eq!(one, client_of("2001:db8:1:2:ffff::".parse().unwrap()));
        assert_ne!(one, client_of("2001:db8:1:3::".parse().unwrap()));
    }
}
