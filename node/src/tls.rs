//! TLS between nodes and home: mutual, TLS 1.3 only, under the fleet's own CA.
//!
//! One crypto provider for the whole process ([`install_provider`]). Certificates of sites are not handled
//! here; they are the edge's.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, pem, pem::PemObject,
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};

/// Why TLS between nodes could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file does not hold what it should.
    #[error("{path}: {what}: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// A file without a single certificate.
    #[error("{path}: holds no certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The pieces don't fit together.
    #[error("{path}: {source}")]
    Rustls {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The CA can't judge certificates.
    #[error("{path}: not usable as a CA: {reason}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Makes aws-lc-rs the process's crypto provider. Calling it again is fine.
pub fn install_provider() {
    // An error means that one is installed already; nothing of ours installs another.
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The name a node's certificate carries and a client asks for, whatever address it dials: nodes move,
/// certificates stay.
pub fn node_host(node: &str) -> String {
    format!("{node}.node.nearside.internal")
}

/// [`node_host`] for rustls; `None` for a name that can't be a host name.
pub fn server_name(node: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(node_host(node)).ok()
}

/// What a server asks of its clients. One that is shown must be good in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Who has none gets no further than the handshake.
    Demanded,
    /// Who has none may show a token.
    Welcome,
}

/// A certificate chain with its key, and the CA that judges the other side.
#[derive(Debug)]
pub struct Credentials {
    /// This side's chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// This side's private key.
    pub key: PrivateKeyDer<'static>,
    /// Whom to trust.
    pub roots: Arc<RootCertStore>,
    /// Whom not, though the CA has signed it.
    pub revoked: Option<CertificateRevocationListDer<'static>>,
    /// Where the chain came from, for messages.
    pub path: PathBuf,
}

impl Credentials {
    /// Reads PEM files.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn read(
        ca: &std::path::Path,
        cert: &std::path::Path,
        key: &std::path::Path,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Ca { path: ca.to_path_buf(), reason: error.to_string() })?;
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem {
            path: key.to_path_buf(),
            what: "a private key",
            source,
        })?;
        Ok(Self {
            chain: certificates(cert)?,
            key: private,
            roots: Arc::new(roots),
            revoked: None,
            path: cert.to_path_buf(),
        })
    }

    /// A server that demands a certificate of the same CA from its clients.
    ///
    /// # Errors
    /// [`TlsError`] if key and certificate don't match, or the CA can't judge.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.server_config_for(ClientCertificates::Demanded)
    }

    /// [`Credentials::server_config`], where clients may have something else to show.
    ///
    /// # Errors
    /// [`TlsError`] as there.
    pub fn server_config_for(&self, clients: ClientCertificates) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = self.clients();
        let verifier = match clients {
            ClientCertificates::Demanded => verifier,
            ClientCertificates::Welcome => verifier.allow_unauthenticated(),
        };
        let verifier = verifier
            .build()
            .map_err(|error| TlsError::Ca { path: self.path.clone(), reason: error.to_string() })?;
        let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| TlsError::Rustls { path: self.path.clone(), source })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session would keep the role of a certificate that was since replaced.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn clients(&self) -> rustls::server::ClientCertVerifierBuilder {
        install_provider();
        WebPkiClientVerifier::builder(Arc::clone(&self.roots))
            .with_crls(self.revoked.clone())
            // The list is of the fleet's CA: where there are two, the other one's identities are on none.
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
    }

    /// Judges clients: of the fleet's CA, in their time, not revoked.
    ///
    /// # Errors
    /// [`TlsError::Ca`].
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let built = self.clients().build();
        built.map_err(|error| TlsError::Ca { path: self.path.clone(), reason: error.to_string() })
    }

    /// Judges servers likewise.
    ///
    /// # Errors
    /// [`TlsError::Ca`].
    pub fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        install_provider();
        let built = WebPkiServerVerifier::builder(Arc::clone(&self.roots))
            .with_crls(self.revoked.clone())
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build();
        built.map_err(|error| TlsError::Ca { path: self.path.clone(), reason: error.to_string() })
    }

    /// A client that shows its certificate and trusts only the fleet's CA.
    ///
    /// # Errors
    /// [`TlsError`] if key and certificate don't match, or the CA can't judge.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        install_provider();
        let verifier = self.server_verifier()?;
        let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| TlsError::Rustls { path: self.path.clone(), source })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// All certificates of a PEM file, in order; at least one.
fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { path: path.to_path_buf(), what: "certificates", source };
    let chain = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_path_buf() });
    }
    Ok(chain)
}
