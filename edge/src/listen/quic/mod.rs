//! HTTP/3's way in: QUIC endpoints, one per worker and address, and who may begin a connection there.
//!
//! quinn does the transport, loss recovery and amplification limits ([`transport`] joins it to h3); [`socket`] sees to
//! it that each datagram meets the endpoint that knows its connection; [`requests`] turns streams into requests. Places
//! and handshakes are counted together with TCP's: a client has one share, however it comes.
//!
//! Not here, deliberately: 0-RTT (as over TCP, a replay is a replay), datagrams, server push, extended CONNECT.

pub mod requests;
pub mod socket;
pub mod transport;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use quinn::{
    Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicServerConfig},
};
use tokio_util::sync::CancellationToken;

use super::{
    Front,
    connection::{Client, ClientTls},
    limits::{self, Admitted},
};
use crate::{stats::Turned, tls};

/// What all QUIC endpoints of a process share: a token or a reset made by one is known to the others.
pub struct Quic {
    server: ServerConfig,
    reset_key: Arc<hmac::Key>,
}

/// Why QUIC can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// See [`NoInitialCipherSuite`].
    #[error(transparent)]
    Suite(#[from] NoInitialCipherSuite),
    /// For keys.
    #[error("the system gives no randomness")]
    Random,
}

impl Quic {
    /// Takes certificates and ticket keys from the TLS of the other listeners.
    ///
    /// # Errors
    /// When TLS 1.3 lacks the suite that QUIC begins with, or the system gives no randomness.
    pub fn new(over_tcp: &rustls::ServerConfig) -> Result<Self, QuicError> {
        let crypto = QuicServerConfig::try_from(Arc::new(tls::quic_config(over_tcp)))?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(Arc::new(transport_config()))
            .migration(true)
            .retry_token_lifetime(RETRY_LIFETIME)
            .max_incoming(limits::QUIC_INCOMING_MAX)
            .incoming_buffer_size(limits::QUIC_INCOMING_BYTES)
            .incoming_buffer_size_total(limits::QUIC_INCOMING_BYTES * 64);
        let mut secret = [0; 64];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| QuicError::Random)?;
        let reset_key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret));
        Ok(Quic { server, reset_key })
    }

    fn endpoint(&self, socket: std::net::UdpSocket, place: socket::Place) -> io::Result<Endpoint> {
        let mut config = EndpointConfig::new(self.reset_key.clone());
        config.cid_generator(move || Box::new(place));
        Endpoint::new(config, Some(self.server.clone()), socket, Arc::new(TokioRuntime))
    }
}

/// A client that was asked for its address answers at once.
const RETRY_LIFETIME: Duration = Duration::from_secs(10);

fn transport_config() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(limits::UNI_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(limits::CONNECTION_WINDOW_BYTES))
        .send_window(limits::QUIC_SEND_BYTES)
        .crypto_buffer_size(limits::QUIC_CRYPTO_BYTES)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(limits::IDLE_TIMEOUT.try_into().ok())
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    transport
}

/// Takes connections until told to stop, then lets those that are open finish.
pub async fn serve(
    front: Arc<Front>,
    socket: std::net::UdpSocket,
    place: socket::Place,
    stop: CancellationToken,
) {
    let local = socket.local_addr();
    let endpoint = front.quic.endpoint(socket, place);
    let (endpoint, local) = match endpoint.and_then(|endpoint| Ok((endpoint, local?))) {
        Ok(ready) => ready,
        Err(error) => {
            tracing::error!(%error, "a QUIC socket can't be polled");
            return;
        }
    };
    loop {
        let incoming = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        admit(&front, incoming, local, &stop);
    }
    endpoint.set_server_config(None);
    endpoint.wait_idle().await;
}

/// Decides over a client's first datagram.
fn admit(front: &Arc<Front>, incoming: Incoming, local: SocketAddr, stop: &CancellationToken) {
    front.stats.accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let peer = incoming.remote_address();
    // A source address can be made up: under load it has to be proven before it costs a handshake and somebody's share.
    if !incoming.remote_address_validated() && front.handshakes() >= limits::QUIC_RETRY_ABOVE {
        front.stats.retries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let Err(error) = incoming.retry() {
            error.into_incoming().ignore();
        }
        return;
    }
    let Some(place) = front.admission.admit(peer.ip(), &front.stats) else {
        incoming.refuse();
        return;
    };
    let Some(handshake) = front.begin_handshake() else {
        front.stats.turned(Turned::Handshakes);
        incoming.refuse();
        return;
    };
    let (front, stop) = (front.clone(), stop.clone());
    tokio::spawn(async move {
        let Some((connection, client)) = shake_hands(&front, incoming, peer, local, place).await else {
            return;
        };
        drop(handshake);
        requests::serve(front, connection, client, stop).await;
    });
}

async fn shake_hands(
    front: &Front,
    incoming: Incoming,
    peer: SocketAddr,
    local: SocketAddr,
    place: Admitted,
) -> Option<(quinn::Connection, Arc<Client>)> {
    let accept = async { incoming.accept()?.await };
    let connection = match tokio::time::timeout(place.limits().handshake_timeout, accept).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            front.stats.turned(Turned::HandshakeFailed);
            tracing::debug!(%peer, %error, "QUIC handshake failed");
            return None;
        }
        Err(_) => {
            front.stats.turned(Turned::HandshakeTimeout);
            return None;
        }
    };
    front.stats.handshakes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let server_name = data.and_then(|data| data.server_name);
    // The certificate may have been swapped since the handshake; the new one is for the same site.
    let served = front.resolver.table().find(server_name.as_deref()).cloned()?;
    let client = Client::over_quic(peer, local, ClientTls { server_name, served }, place);
    Some((connection, client))
}
