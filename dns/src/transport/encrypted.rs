//! DNS over TLS, HTTPS and QUIC, through hickory-server's listeners.
//!
//! Only the carriage is theirs: every query goes through the same [`View::respond`] as over UDP and TCP, with
//! the sizes of a stream, so client subnets, limits and counters are alike on all transports. The answer's
//! bytes are read back into hickory's types, because its listeners take nothing else; names and data survive
//! that unchanged, their compression may differ.
//!
//! Clients that pad are padded to (RFC 7830): here and nowhere else, since only here is a length all that an
//! observer sees, and only here is the final length known.
//!
//! What hickory cannot parse (a client subnet of an unknown family) it answers with FORMERR itself. Its
//! listeners bound handshakes in time, but not connections in number: the process's limit on open files is
//! the bound, and these listeners are opened only where the fleet file asks for them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use hickory_proto::{
    op::{Header, Message, Metadata},
    rr::rdata::opt::{EdnsCode, EdnsOption},
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server},
    zone_handler::MessageResponseBuilder,
};
use nearside_fleet::config::DnsEncrypted;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::{TcpListener, UdpSocket};
use tracing::{debug, info};

use super::stats::Stats;
use crate::{
    answer::{Scratch, Transport},
    clock,
    view::View,
};

/// A handshake, a query and the pause between two must each be over after this.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where DNS over HTTPS is asked (RFC 8484 section 3 leaves the path to us; this one is customary).
const HTTPS_PATH: &str = "/dns-query";
/// Answers to clients that pad fill whole blocks of this (RFC 8467 section 4.1).
const PADDING_BLOCK_BYTES: usize = 468;
/// Answer buffers kept for the next query, 64 KiB each: as many as answers are made at once on a busy machine.
const BUFFERS_MAX: usize = 16;

/// The certificate of the encrypted listeners; replaced whole when its files change.
#[derive(Debug, Default)]
pub struct Certificate(ArcSwapOption<CertifiedKey>);

impl Certificate {
    /// From the next handshake on.
    pub fn replace(&self, key: Option<Arc<CertifiedKey>>) {
        self.0.store(key);
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// The running listeners.
pub struct Encrypted {
    server: Server<Handler>,
}

impl Encrypted {
    /// Binds and serves what the fleet file asks for. Must be called on the runtime.
    ///
    /// # Errors
    /// A sentence that names the address.
    pub async fn start(
        config: &DnsEncrypted,
        certificate: Arc<Certificate>,
        views: &Arc<ArcSwap<View>>,
        stats: &Arc<Stats>,
    ) -> Result<Self, String> {
        let handler =
            Handler { views: Arc::clone(views), stats: Arc::clone(stats), buffers: Buffers::default() };
        let mut server = Server::new(handler);
        let failed = |address: &SocketAddr, error: std::io::Error| {
            nearside_node::bind::explain("DNS", *address, &error)
        };
        for address in &config.tls {
            let listener = TcpListener::bind(address).await.map_err(|error| failed(address, error))?;
            server
                .register_tls_listener(listener, TIMEOUT, certificate.clone())
                .map_err(|error| failed(address, error))?;
            info!(%address, "serving DNS over TLS");
        }
        for address in &config.https {
            let listener = TcpListener::bind(address).await.map_err(|error| failed(address, error))?;
            server
                .register_https_listener(listener, TIMEOUT, certificate.clone(), None, HTTPS_PATH.to_owned())
                .map_err(|error| failed(address, error))?;
            info!(%address, "serving DNS over HTTPS at {HTTPS_PATH}");
        }
        for address in &config.quic {
            let socket = UdpSocket::bind(address).await.map_err(|error| failed(address, error))?;
            server
                .register_quic_listener(socket, TIMEOUT, certificate.clone())
                .map_err(|error| failed(address, error))?;
            info!(%address, "serving DNS over QUIC");
        }
        Ok(Self { server })
    }

    /// Ends the listeners; waits for connections until the deadline.
    pub async fn stop(mut self, deadline: std::time::Instant) {
        // What is still open at the deadline is cut when the process ends.
        if let Ok(Err(error)) =
            tokio::time::timeout_at(deadline.into(), self.server.shutdown_gracefully()).await
        {
            debug!(%error, "an encrypted listener ended badly");
        }
    }
}

/// Answers hickory's requests with our own answer function.
struct Handler {
    views: Arc<ArcSwap<View>>,
    stats: Arc<Stats>,
    buffers: Buffers,
}

impl Handler {
    /// The answer as hickory's message; `None`: nothing is sent.
    fn answer(&self, request: &Request) -> Option<Message> {
        let view = self.views.load();
        let mut buffer = self.buffers.take();
        let (scratch, out) = (&mut buffer.0, &mut buffer.1[..]);
        let outcome =
            view.respond(scratch, request.as_slice(), request.src(), Transport::Stream, clock::now(), out);
        self.stats.stream().count(&outcome, &view.base.slots);
        let message = Message::from_vec(&buffer.1[..outcome.bytes]);
        self.buffers.give(buffer);
        // Tests hold every answer of ours against hickory's parser; an empty one is a drop.
        message.ok()
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let Some(mut message) = self.answer(request) else { return nothing_sent(&request.metadata) };
        if request.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::Padding).is_some()) {
            pad(request, &mut message);
        }
        let response = MessageResponseBuilder::new(&request.queries, message.edns.as_ref()).build(
            message.metadata,
            &message.answers,
            &message.authorities,
            &[],
            &message.additionals,
        );
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, client = %request.src(), "an encrypted answer could not be sent");
                nothing_sent(&request.metadata)
            }
        }
    }
}

/// Pads an answer to a whole number of blocks, if it has an OPT record to carry the padding.
fn pad(request: &Request, message: &mut Message) {
    let padding = |bytes: usize| EdnsOption::Unknown(EdnsCode::Padding.into(), vec![0; bytes]);
    let Some(edns) = message.edns.as_mut() else { return };
    edns.options_mut().insert(padding(0));
    let Some(bytes) = encoded_bytes(request, message) else { return };
    let missing = bytes.next_multiple_of(PADDING_BLOCK_BYTES) - bytes;
    if let Some(edns) = message.edns.as_mut()
        && bytes + missing <= usize::from(u16::MAX)
    {
        edns.options_mut().remove(EdnsCode::Padding);
        edns.options_mut().insert(padding(missing));
    }
}

/// Octets an answer takes as hickory's listeners write it: they don't compress against the question.
fn encoded_bytes(request: &Request, message: &Message) -> Option<usize> {
    let mut wire = Vec::new();
    let response = MessageResponseBuilder::new(&request.queries, message.edns.as_ref()).build(
        message.metadata,
        &message.answers,
        &message.authorities,
        &[],
        &message.additionals,
    );
    response.destructive_emit(&mut BinEncoder::new(&mut wire)).ok()?;
    Some(wire.len())
}

/// What hickory wants to hear about a query that got no answer.
fn nothing_sent(metadata: &Metadata) -> ResponseInfo {
    ResponseInfo::from(Header { metadata: *metadata, counts: Default::default() })
}

/// Answer buffers, reused: 64 KiB per query would be zeroed each time.
#[derive(Default)]
struct Buffers(Mutex<Vec<Buffer>>);

type Buffer = Box<(Scratch, [u8; u16::MAX as usize])>;

impl Buffers {
    fn take(&self) -> Buffer {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Box::new((Scratch::default(), [0; u16::MAX as usize])))
    }

    fn give(&self, buffer: Buffer) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < BUFFERS_MAX {
            free.push(buffer);
        }
    }
}
