//! TLS in front: which certificates there are ([`store`]), and which one a client gets ([`resolver`]).
//!
//! TLS 1.2 and 1.3 on aws-lc-rs, ALPN `h2` and `http/1.1`, over QUIC `h3`. Off, deliberately: 0-RTT, because a replayed
//! GET is still a replay to an origin that logs or counts, and a cached hit is one round trip anyway;
//! OCSP stapling, because the public authorities have stopped answering it in favour of short-lived
//! certificates.

pub mod resolver;
pub mod store;

use std::sync::Arc;

use rustls::{ServerConfig, server::NoServerSessionStorage};

pub use self::{
    resolver::{Resolver, Table},
    store::load_table,
};

/// The server side of TLS for all listeners and all workers: they share the ticket keys, so that a
/// session begun on one core resumes on any other.
///
/// # Errors
/// [`rustls::Error`] when the system gives no randomness for ticket keys.
pub fn server_config(resolver: Arc<Resolver>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    // Tickets carry the state; a table of sessions beside them would only cost memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The same for QUIC: TLS 1.3 and `h3` only, the same certificates and ticket keys.
pub fn quic_config(over_tcp: &ServerConfig) -> ServerConfig {
    let mut config = over_tcp.clone();
    config.alpn_protocols = vec![b"h3".to_vec()];
    config.max_early_data_size = 0;
    config
}
