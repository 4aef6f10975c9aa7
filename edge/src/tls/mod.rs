//! TLS in front: which certificates there are ([`store`]), and which one a client gets ([`resolver`]).
//!
//! TLS 1.2 and 1.3 on aws-lc-rs, ALPN `h2` and `http/1.1`, over QUIC `h3`. Off, deliberately: 0-RTT, because a replayed
//! GET is still a replay to an origin that logs or counts, and a cached hit is one round trip anyway;
//! OCSP stapling, because the public authorities have stopped answering it in favour of short-lived
//! certificates.

pub mod resolver;
pub mod store;
pub mod tickets;

use std::sync::Arc;

use nearside_fleet::config::front::TlsVersion;
use rustls::{ServerConfig, SupportedProtocolVersion, server::NoServerSessionStorage, version};

pub use self::{
    resolver::{Resolver, Table},
    store::load_table,
    tickets::Tickets,
};

/// The server side of TLS for all listeners and all workers: they share the ticket keys, so that a
/// session begun on one core resumes on any other.
#[derive(Clone)]
pub struct Configs {
    /// TLS 1.2 and 1.3.
    pub any: Arc<ServerConfig>,
    /// TLS 1.3 alone.
    pub v13: Arc<ServerConfig>,
}

impl Configs {
    /// Of these certificates and ticket keys.
    pub fn new(resolver: &Arc<Resolver>, tickets: &Arc<Tickets>) -> Self {
        let with = |versions| server_config(versions, resolver.clone(), tickets.clone());
        Configs { any: with(&[&version::TLS13, &version::TLS12]), v13: with(&[&version::TLS13]) }
    }

    /// The one whose oldest version this is.
    pub fn at_least(&self, version_min: TlsVersion) -> Arc<ServerConfig> {
        match version_min {
            TlsVersion::V12 => self.any.clone(),
            TlsVersion::V13 => self.v13.clone(),
        }
    }
}

fn server_config(
    versions: &[&'static SupportedProtocolVersion],
    resolver: Arc<Resolver>,
    tickets: Arc<Tickets>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_protocol_versions(versions);
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = tickets;
    // Tickets carry the state; a table of sessions beside them would only cost memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// The same for QUIC: TLS 1.3 and `h3` only, the same certificates and ticket keys.
pub fn quic_config(over_tcp: &ServerConfig) -> ServerConfig {
    let mut config = over_tcp.clone();
    config.alpn_protocols = vec![b"h3".to_vec()];
    config.max_early_data_size = 0;
    config
}
