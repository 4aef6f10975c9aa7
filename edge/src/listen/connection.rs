//! One client connection from accept to close: handshake, protocol, requests, drain.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::{Request, Response, Version};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use nearside_fleet::config::front::{FrontLimits, TlsVersion};
use nearside_node::certificate::Served;

use super::{
    Front, Speaks,
    coalesce::{Coalesce, Sender},
    http1,
    limits::{self, Admitted},
    proxy::{self, Said},
    share::Place,
    wire::Wire,
};
use crate::{
    request::{self, Body},
    stats::Turned,
};

/// How long a connection that was told to end may stay idle: a round trip to the far side of the world and
/// a lost packet.
const LINGER: Duration = Duration::from_millis(500);

/// What is known of a client's connection.
pub struct Client {
    /// Its address.
    pub peer: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// How, if over TLS.
    pub tls: Option<ClientTls>,
    /// Requests whose response has not been sent to its end.
    pub in_flight: AtomicU32,
    /// Requests of it whose origin is being asked, for it alone.
    pub waiting: AtomicU32,
    /// Whether the connection has become a tunnel.
    pub tunnel: AtomicBool,
    pub(super) requests: AtomicU64,
    pub(super) retire: Notify,
    scheme: &'static str,
    /// Whether it came over QUIC.
    quic: bool,
    /// The node of the fleet that asks, for a client of its own.
    pub node: Option<String>,
    /// Held by a tunnel too, which outlives hyper's part in the connection. `None`: no connection.
    place: Option<Admitted>,
}

/// What the handshake settled.
pub struct ClientTls {
    /// The name the client asked for.
    pub server_name: Option<String>,
    /// The certificate it was shown.
    pub served: Arc<Served>,
}

impl Client {
    pub(super) fn new(
        peer: SocketAddr,
        local: SocketAddr,
        tls: Option<ClientTls>,
        place: Admitted,
    ) -> Arc<Self> {
        Arc::new(Self::of(peer, local, tls, place))
    }

    /// A client that came over QUIC.
    pub(super) fn over_quic(
        peer: SocketAddr,
        local: SocketAddr,
        tls: ClientTls,
        place: Admitted,
    ) -> Arc<Self> {
        Arc::new(Client { quic: true, ..Self::of(peer, local, Some(tls), place) })
    }

    /// Another edge of the fleet, which asks for clients of its own.
    pub(super) fn of_node(peer: SocketAddr, local: SocketAddr, node: String, place: Admitted) -> Arc<Self> {
        Arc::new(Client { node: Some(node), scheme: "https", ..Self::of(peer, local, None, place) })
    }

    fn of(peer: SocketAddr, local: SocketAddr, tls: Option<ClientTls>, place: Admitted) -> Self {
        let is_tls = tls.is_some();
        Client {
            peer,
            local,
            tls,
            in_flight: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            tunnel: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            retire: Notify::new(),
            scheme: if is_tls { "https" } else { "http" },
            quic: false,
            node: None,
            place: Some(place),
        }
    }

    /// This edge itself, fetching ahead of its clients: from its own address, over no connection.
    pub fn ourselves(scheme: &'static str) -> Arc<Self> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Arc::new(Client {
            peer: nowhere,
            local: nowhere,
            tls: None,
            in_flight: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            tunnel: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            retire: Notify::new(),
            scheme,
            quic: false,
            node: None,
            place: None,
        })
    }

    /// What holds for its connection.
    pub fn limits(&self) -> FrontLimits {
        self.place.as_ref().map_or_else(FrontLimits::default, |place| place.limits().clone())
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Whether it came over QUIC.
    pub fn is_quic(&self) -> bool {
        self.quic
    }
}

/// Marks a client as one who waits for an origin: whether it is still there is looked at.
pub struct Waiting<'a>(&'a Client);

impl<'a> Waiting<'a> {
    /// From now on until dropped.
    pub fn new(client: &'a Client) -> Self {
        client.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(client)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Marks a request as under way until the last byte of its response is sent.
pub struct InFlight(Arc<Client>);

impl InFlight {
    pub(super) fn new(client: Arc<Client>) -> Self {
        client.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(client)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection of a load balancer: its PROXY header, then as that client's.
pub async fn serve_proxied(
    front: Arc<Front>,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut place: Admitted,
    speaks: Speaks,
) {
    let limit = place.limits().handshake_timeout;
    let client = match tokio::time::timeout(limit, proxy::read(&mut stream)).await {
        Ok(Ok(Said::Client { source, .. })) => source,
        Ok(Ok(Said::Nothing)) => peer,
        Ok(Err(error)) => {
            front.stats.turned(Turned::ProxyHeader);
            tracing::debug!(%peer, %error, "no PROXY header");
            return;
        }
        Err(_) => {
            front.stats.turned(Turned::HandshakeTimeout);
            return;
        }
    };
    // A balancer that speaks for itself (health checks) has no account: it would be everyone's.
    if client != peer && !place.account(client.ip(), &front.stats) {
        return;
    }
    match speaks {
        Speaks::Http => serve_plain(front, stream, client, place).await,
        Speaks::Https | Speaks::Quic => serve_tls(front, stream, client, place).await,
        Speaks::Fleet => super::peers::serve(front, stream, client, place).await,
    }
}

/// What HTTP/2 by prior knowledge begins with (RFC 9113 section 3.4), as far as it tells it from every method.
const PREFACE: &[u8] = b"PRI";

/// Serves a plain connection: HTTP/1, unless the fleet file allows h2c. Two protocols on one listener are what
/// proxies in front of us may not expect, and no browser speaks h2c.
pub async fn serve_plain(front: Arc<Front>, stream: TcpStream, peer: SocketAddr, place: Admitted) {
    let Ok(local) = stream.local_addr() else { return };
    if front.h2c.load(Ordering::Relaxed) {
        let limit = limits::HEAD_TIMEOUT;
        match tokio::time::timeout(limit, begins_with_preface(&stream)).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                let client = Client::new(peer, local, None, place);
                let (stream, sender) = Coalesce::new(stream);
                sender.gather();
                return serve_http2(&front, stream, sender, client).await;
            }
            Ok(Err(_)) => return,
            Err(_) => return front.stats.turned(Turned::HeadTimeout),
        }
    }
    let client = Client::new(peer, local, None, place);
    http1::serve(&front, stream, &client).await;
}

/// Whether the first segment is that of an HTTP/2 client. One that sends its preface byte by byte is taken for
/// HTTP/1, where `PRI` is refused.
async fn begins_with_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    let seen = stream.peek(&mut first).await?;
    Ok(&first[..seen] == PREFACE)
}

/// Serves a TLS connection: handshake, then what ALPN settled.
pub async fn serve_tls(front: Arc<Front>, stream: TcpStream, peer: SocketAddr, mut place: Admitted) {
    let Ok(local) = stream.local_addr() else { return };
    let Some(handshake) = front.begin_handshake() else {
        front.stats.turned(Turned::Handshakes);
        return;
    };
    let (stream, sender) = Coalesce::new(stream);
    let accept = handshake_with(&front, stream);
    let stream = match tokio::time::timeout(place.limits().handshake_timeout, accept).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            front.stats.turned(Turned::HandshakeFailed);
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            front.stats.turned(Turned::HandshakeTimeout);
            return;
        }
    };
    drop(handshake);
    let (_, session) = stream.get_ref();
    front.stats.handshakes.fetch_add(1, Ordering::Relaxed);
    if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        front.stats.handshakes_resumed.fetch_add(1, Ordering::Relaxed);
    }
    let h2 = session.alpn_protocol() == Some(b"h2");
    let server_name = session.server_name().map(str::to_owned);
    // The certificate may have been swapped since the handshake; the new one is for the same site.
    let Some(served) = front.resolver.table().find(server_name.as_deref()).cloned() else { return };
    let site = server_name.as_deref().and_then(|name| front.edge.sites.load().find(name).cloned());
    if let Some(site) = site {
        let Ok(share) = site.share.take(Place::Connection, site.front.limits.connections_max) else { return };
        place.hold(share);
    }
    let client = Client::new(peer, local, Some(ClientTls { server_name, served }), place);
    if h2 {
        sender.gather();
        serve_http2(&front, stream, sender, client).await;
    } else {
        http1::serve(&front, stream, &client).await;
    }
}

/// The handshake. Where some site wants newer TLS than others, the name the client asks for decides first.
async fn handshake_with(front: &Front, stream: Coalesce) -> io::Result<TlsStream<Coalesce>> {
    if !front.edge.sites.load().differ_in_tls() {
        return TlsAcceptor::from(front.tls.any.clone()).accept(stream).await;
    }
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = {
        let sites = front.edge.sites.load();
        let site = hello.client_hello().server_name().and_then(|name| sites.find(name).cloned());
        front.tls.at_least(site.map_or(TlsVersion::V12, |site| site.front.tls_version_min))
    };
    hello.into_stream(config).await
}

async fn serve_http2<T>(front: &Arc<Front>, stream: T, sender: Sender, client: Arc<Client>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wire = Wire::new(stream, client.clone(), front.stats.clone());
    let service = service_fn(|request| respond(front.clone(), client.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_MAX)
        .max_pending_accept_reset_streams(limits::PENDING_RESETS_MAX)
        .max_local_error_reset_streams(limits::ERROR_RESETS_MAX)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES)
        .max_header_list_size(limits::HEAD_BYTES_MAX as u32)
        .max_send_buf_size(limits::STREAM_SEND_BYTES)
        .serve_connection(TokioIo::new(wire), service);
    let mut connection = pin!(connection);
    let mut draining = pin!(async {
        tokio::select! {
            () = front.draining.cancelled() => {}
            () = client.retire.notified() => {}
        }
    });
    let mut quiet = pin!(quiet(&client));
    let (mut told, mut ended) = (false, None);
    let result = poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        if ended.is_none()
            && let Poll::Ready(result) = connection.as_mut().poll(cx)
        {
            ended = Some(result);
        }
        // Whatever this poll wrote leaves now that it is over.
        match (sender.poll_send(cx), ended.take()) {
            (Poll::Ready(_), Some(result)) => return Poll::Ready(result),
            (Poll::Ready(Err(_)), None) => return Poll::Ready(Ok(())),
            (Poll::Ready(Ok(())), None) => {}
            (Poll::Pending, result) => ended = result,
        }
        if told { quiet.as_mut().poll(cx).map(Ok) } else { Poll::Pending }
    })
    .await;
    note_end(&client, result);
}

/// Completes once a connection that was told to end has had nothing under way for [`LINGER`]: its client
/// may have sent no preface yet, or never answer our GOAWAY.
pub(super) async fn quiet(client: &Client) {
    let mut idle = false;
    loop {
        tokio::time::sleep(LINGER).await;
        let busy = client.in_flight.load(Ordering::Relaxed) > 0;
        if idle && !busy {
            return;
        }
        idle = !busy;
    }
}

fn respond(
    front: Arc<Front>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, request::Reset>> + Send {
    let in_flight = InFlight::new(client.clone());
    let nth = client.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let last = nth >= limits::REQUESTS_MAX;
    async move {
        let version = request.version();
        let mut response = request::handle(&front.edge, &client, request.map(Into::into)).await?;
        // h2 says it with GOAWAY, which `retire` and the drain make hyper send.
        if version < Version::HTTP_2 && (last || front.draining.is_cancelled()) {
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert(http::header::CONNECTION, close);
        } else if last {
            client.retire.notify_one();
        }
        response.body_mut().hold(in_flight);
        Ok(response)
    }
}

fn note_end(client: &Client, result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(peer = %client.peer, %error, "connection ended");
    }
}
