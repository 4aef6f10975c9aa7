//! Takes connections: one single-threaded runtime per worker, one listening socket per worker and
//! address (SO_REUSEPORT), so that a connection lives and dies on one core.
//!
//! [`Front`] is what all connections share, [`Listeners`] owns workers and sockets. Sockets are bound
//! before anything is swapped: an address that can't be had refuses the configuration and leaves the old
//! listeners as they are. Removing an address stops accepting there and drains what is open.

pub mod coalesce;
pub mod connection;
mod http1;
pub mod limits;
pub mod pace;
mod peers;
pub mod proxy;
pub mod quic;
pub mod share;
pub mod wire;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use nearside_fleet::config::front::ProxyProtocol;
use nearside_node::identity::RevokedList;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use self::{limits::Admission, quic::Quic};
use crate::{
    request::Edge,
    stats::{FrontStats, Turned},
    tls::{self, Resolver, Tickets},
    worker,
};

/// Connections the kernel completes while we are busy. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after `accept` fails for want of descriptors or memory: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a drain looks whether all connections have ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// What a listening address speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Speaks {
    /// HTTP/1 in the clear.
    Http,
    /// TLS, then what ALPN settles.
    Https,
    /// HTTP/3 over QUIC.
    Quic,
    /// HTTP/1 over TLS with other edges, by both sides' identities.
    Fleet,
}

impl Speaks {
    /// For logs and errors.
    pub fn name(self) -> &'static str {
        match self {
            Speaks::Http => "HTTP",
            Speaks::Https => "HTTPS",
            Speaks::Quic => "HTTP/3",
            Speaks::Fleet => "HTTPS for the fleet's edges",
        }
    }
}

/// What all connections share.
pub struct Front {
    /// Answers requests.
    pub edge: Arc<Edge>,
    /// The server side of TLS.
    pub tls: tls::Configs,
    /// That of QUIC.
    pub quic: Quic,
    /// Makes session tickets.
    pub tickets: Arc<Tickets>,
    /// Who may say for whom it speaks.
    pub proxies: ArcSwap<Vec<ProxyProtocol>>,
    /// Whether plain listeners take HTTP/2 by prior knowledge.
    pub h2c: AtomicBool,
    /// Certificates by name.
    pub resolver: Arc<Resolver>,
    /// What listeners count.
    pub stats: Arc<FrontStats>,
    /// The server side of TLS with other edges; `None`: this node has no identity.
    pub peers: ArcSwapOption<rustls::ServerConfig>,
    /// Identities that are refused, on open connections too.
    pub revoked: watch::Sender<Option<Arc<RevokedList>>>,
    /// Who is in.
    pub admission: Arc<Admission>,
    /// Cancelled when the node stops.
    pub draining: CancellationToken,
    handshakes: Arc<AtomicUsize>,
}

impl Front {
    /// A front without connections.
    pub fn new(
        edge: Arc<Edge>,
        tls: tls::Configs,
        tickets: Arc<Tickets>,
        quic: Quic,
        resolver: Arc<Resolver>,
        stats: Arc<FrontStats>,
    ) -> Arc<Self> {
        Arc::new(Front {
            edge,
            tls,
            quic,
            tickets,
            proxies: ArcSwap::default(),
            h2c: AtomicBool::new(false),
            resolver,
            stats,
            peers: ArcSwapOption::empty(),
            revoked: watch::Sender::new(None),
            admission: Arc::default(),
            draining: CancellationToken::new(),
            handshakes: Arc::default(),
        })
    }

    /// Handshakes under way.
    fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Whether connections from `peer` to the listener at `address` begin with a PROXY header.
    fn is_proxy(&self, address: SocketAddr, peer: IpAddr) -> bool {
        let here = |proxy: &&ProxyProtocol| proxy.listen.is_none_or(|listen| listen == address);
        self.proxies.load().iter().filter(here).any(|proxy| proxy.from.iter().any(|from| from.contains(peer)))
    }

    fn begin_handshake(&self) -> Option<Handshake> {
        let begun = Handshake(self.handshakes.clone());
        // The place is taken before it is judged, and given back by its drop either way.
        (self.handshakes.fetch_add(1, Ordering::Relaxed) < limits::HANDSHAKES_MAX).then_some(begun)
    }
}

struct Handshake(Arc<AtomicUsize>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An address and what is spoken there.
pub type Endpoint = (SocketAddr, Speaks);

/// Sockets of one endpoint, one per worker, bound and listening but not yet accepted from.
pub struct Bound {
    endpoint: Endpoint,
    sockets: Vec<Bare>,
}

/// A socket that no worker has yet.
enum Bare {
    Stream(std::net::TcpListener),
    Datagram(std::net::UdpSocket, quic::socket::Place),
}

impl Bare {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Bare::Stream(socket) => socket.local_addr(),
            Bare::Datagram(socket, _) => socket.local_addr(),
        }
    }
}

/// Workers and what they listen on.
pub struct Listeners {
    front: Arc<Front>,
    workers: Vec<mpsc::UnboundedSender<Work>>,
    active: Mutex<BTreeMap<Endpoint, Active>>,
}

/// An endpoint that is accepted from.
struct Active {
    /// Where: the endpoint's address, with the port the system chose if it asked for any.
    address: SocketAddr,
    stop: CancellationToken,
}

struct Work {
    socket: Bare,
    endpoint: Endpoint,
    stop: CancellationToken,
}

impl Listeners {
    /// Starts `workers` threads that listen on nothing yet.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(front: Arc<Front>, workers: usize) -> io::Result<Arc<Self>> {
        let mut senders = Vec::new();
        for index in 0..workers.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // Bounded by the number of reloads: each adds an address or none.
            let (sender, receiver) = mpsc::unbounded_channel();
            let front = front.clone();
            thread::Builder::new().name(format!("edge-{index}")).spawn(move || {
                worker::enter(index);
                runtime.block_on(work(front, receiver));
            })?;
            senders.push(sender);
        }
        Ok(Arc::new(Listeners { front, workers: senders, active: Mutex::default() }))
    }

    /// Binds what `wanted` has and is not listened on yet. Nothing is accepted until [`Self::apply`].
    ///
    /// # Errors
    /// The first endpoint that can't be had, and why.
    pub fn bind(&self, wanted: &[Endpoint]) -> Result<Vec<Bound>, (Endpoint, io::Error)> {
        let active = self.active.lock();
        let missing = wanted.iter().filter(|endpoint| !active.contains_key(endpoint));
        missing
            .map(|&endpoint| bind(endpoint, self.workers.len()).map_err(|error| (endpoint, error)))
            .collect()
    }

    /// Starts accepting on `bound` and stops on everything that is not in `wanted`. A port of 0 stands
    /// for the one the system chose when it was bound.
    pub fn apply(&self, wanted: &[Endpoint], bound: Vec<Bound>) {
        let mut active = self.active.lock();
        active.retain(|endpoint, Active { address, stop }| {
            let keep = wanted.contains(endpoint);
            if !keep {
                tracing::info!(%address, protocol = endpoint.1.name(), "no longer listening");
                stop.cancel();
            }
            keep
        });
        for Bound { endpoint, sockets } in bound {
            let stop = CancellationToken::new();
            let address = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(endpoint.0);
            tracing::info!(%address, protocol = endpoint.1.name(), "listening");
            for (worker, socket) in self.workers.iter().zip(sockets) {
                let work = Work { socket, endpoint, stop: stop.clone() };
                if worker.send(work).is_err() {
                    tracing::error!(%address, "a worker is gone: its share of connections is not accepted");
                }
            }
            active.insert(endpoint, Active { address, stop });
        }
    }

    /// What is accepted from now.
    pub fn addresses(&self) -> Vec<Endpoint> {
        self.active.lock().iter().map(|((_, speaks), active)| (active.address, *speaks)).collect()
    }

    /// Stops accepting, lets open connections finish, returns at the deadline at the latest. `true`: all
    /// of them did.
    pub async fn drain(&self, deadline: Instant) -> bool {
        for (_, active) in std::mem::take(&mut *self.active.lock()) {
            active.stop.cancel();
        }
        self.front.draining.cancel();
        while self.front.admission.open() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        true
    }
}

fn bind(endpoint: Endpoint, workers: usize) -> io::Result<Bound> {
    if endpoint.1 == Speaks::Quic {
        let sockets = quic::socket::bind(endpoint.0, workers)?;
        let of = sockets.len();
        let placed = sockets.into_iter().enumerate();
        let sockets = placed.map(|(index, socket)| Bare::Datagram(socket, quic::socket::Place { index, of }));
        return Ok(Bound { endpoint, sockets: sockets.collect() });
    }
    // SO_REUSEPORT would let a second edge of the same user share the address by mistake, each getting
    // half of the connections. A socket without it finds out.
    if endpoint.0.port() != 0 {
        drop(open(endpoint.0, Sharing::Alone)?);
    }
    let mut address = endpoint.0;
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = open(address, Sharing::Workers)?;
        address = socket.local_addr()?;
        sockets.push(Bare::Stream(socket));
    }
    Ok(Bound { endpoint, sockets })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Workers,
}

fn open(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Workers {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // The fleet file lists both families by themselves.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if sharing == Sharing::Workers {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// A worker's life: accept on whatever it is given. Ends with the process: connections in progress and
/// fills belong to its runtime.
async fn work(front: Arc<Front>, mut receiver: mpsc::UnboundedReceiver<Work>) {
    while let Some(work) = receiver.recv().await {
        match work.socket {
            Bare::Datagram(socket, place) => {
                tokio::spawn(quic::serve(front.clone(), socket, place, work.stop));
            }
            Bare::Stream(socket) => match TcpListener::from_std(socket) {
                Ok(listener) => {
                    tokio::spawn(accept(front.clone(), listener, work.endpoint, work.stop));
                }
                Err(error) => tracing::error!(%error, "a listening socket can't be polled"),
            },
        }
    }
}

async fn accept(front: Arc<Front>, listener: TcpListener, endpoint: Endpoint, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                front.stats.turned(Turned::Accept);
                tracing::warn!(%error, "accept failed; more open files may be needed (LimitNOFILE)");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        front.stats.accepted.fetch_add(1, Ordering::Relaxed);
        let is_fleet = endpoint.1 == Speaks::Fleet;
        let proxied = !is_fleet && front.is_proxy(endpoint.0, peer.ip());
        // Who is behind a load balancer shows in its header; the balancer itself is as many clients as it has.
        // Another edge, too, speaks for many.
        let place = match proxied || is_fleet {
            true => front.admission.enter(&front.stats),
            false => front.admission.admit(peer.ip(), &front.stats),
        };
        let Some(place) = place else { continue };
        // Responses are written whole; waiting for an ACK only delays the last part of each.
        let _ = stream.set_nodelay(true);
        let front = front.clone();
        match endpoint.1 {
            speaks if proxied => tokio::spawn(connection::serve_proxied(front, stream, peer, place, speaks)),
            Speaks::Http => tokio::spawn(connection::serve_plain(front, stream, peer, place)),
            Speaks::Fleet => tokio::spawn(peers::serve(front, stream, peer, place)),
            Speaks::Https | Speaks::Quic => tokio::spawn(connection::serve_tls(front, stream, peer, place)),
        };
    }
}
