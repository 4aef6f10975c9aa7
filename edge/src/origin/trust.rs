//! Whom an https origin is trusted by: the system's roots, or one PEM bundle.
//!
//! Reading the system's roots takes tens of milliseconds, so it is done once, when the first https
//! origin asks for it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use nearside_fleet::config::TlsVersion;
use nearside_node::tls::Credentials;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use thiserror::Error;

/// Why an origin's trust could not be set up.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The bundle can't be read.
    #[error("read {path}: {cause}")]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is no PEM, or holds no usable certificate.
    #[error("{path}: {reason}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What certificates an origin may show.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that chain to the system's roots.
    System,
    /// Those that chain to these.
    Bundle(Vec<CertificateDer<'static>>),
    /// Those of the fleet's CA; this node's identity is shown in return.
    Fleet(Arc<Credentials>),
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Trust::System, Trust::System) => true,
            (Trust::Bundle(ours), Trust::Bundle(theirs)) => ours == theirs,
            // A renewed identity is another chain.
            (Trust::Fleet(ours), Trust::Fleet(theirs)) => {
                ours.chain == theirs.chain && ours.revoked == theirs.revoked
            }
            _ => false,
        }
    }
}

impl Trust {
    /// Reads the trust a configuration asks for; `None` is the system's.
    ///
    /// # Errors
    /// [`TrustError`] when the bundle can't be read or holds nothing usable.
    pub fn load(bundle: Option<&Path>) -> Result<Self, TrustError> {
        let Some(path) = bundle else { return Ok(Trust::System) };
        let pem = std::fs::read(path).map_err(|cause| TrustError::Read { path: path.to_owned(), cause })?;
        let fail = |reason: String| TrustError::Bundle { path: path.to_owned(), reason };
        let roots = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| fail(error.to_string()))?;
        let (added, ignored) = RootCertStore::empty().add_parsable_certificates(roots.iter().cloned());
        if added == 0 || ignored > 0 {
            return Err(fail(format!("{added} usable certificates, {ignored} unusable")));
        }
        Ok(Trust::Bundle(roots))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        match self {
            Trust::System => {
                static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
                SYSTEM.get_or_init(|| Arc::new(system_roots())).clone()
            }
            Trust::Bundle(roots) => {
                let mut store = RootCertStore::empty();
                store.add_parsable_certificates(roots.iter().cloned());
                Arc::new(store)
            }
            Trust::Fleet(credentials) => credentials.roots.clone(),
        }
    }

    /// The client side of TLS under this trust, with these protocols offered.
    pub fn client_config(&self, min: TlsVersion, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let versions: &[&SupportedProtocolVersion] = match min {
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let builder = ClientConfig::builder_with_protocol_versions(versions);
        let builder = match self {
            Trust::Fleet(credentials) => match credentials.server_verifier() {
                Ok(verifier) => builder.with_webpki_verifier(verifier),
                Err(error) => {
                    // Read and found good when the node was staged. Nobody is trusted then: the origin is asked.
                    tracing::error!(%error, "shields can't be judged");
                    builder.with_root_certificates(RootCertStore::empty())
                }
            },
            Trust::System | Trust::Bundle(_) => builder.with_root_certificates(self.roots()),
        };
        let mut config = match self {
            Trust::System | Trust::Bundle(_) => builder.with_no_client_auth(),
            Trust::Fleet(credentials) => {
                let identity = (credentials.chain.clone(), credentials.key.clone_key());
                // Read and found to match when the node started.
                builder.clone().with_client_auth_cert(identity.0, identity.1).unwrap_or_else(|error| {
                    tracing::error!(%error, "this node's identity can't be shown to shields");
                    builder.with_no_client_auth()
                })
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        tracing::error!(
            errors = ?found.errors,
            "no system roots: every https origin without its own `ca` will fail; install ca-certificates"
        );
    }
    store
}
