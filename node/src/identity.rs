//! Who this node is: its certificate from the fleet's CA, in STATE/identity.
//!
//! A node with an identity takes its desired state from home alone; one without follows its local fleet
//! file. The files are read again when they change, so that a renewed certificate needs no restart. Making
//! identities is home's work.

use std::path::{Path, PathBuf};

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    state::StateDir,
    tls::{Credentials, TlsError},
};

/// Directory of the identity in the state directory.
pub const DIR: &str = "identity";
/// The fleet's CA certificate.
pub const CA: &str = "ca.pem";
/// This node's chain, leaf first.
pub const CERT: &str = "cert.pem";
/// This node's private key.
pub const KEY: &str = "key.pem";

/// Home's public key, which signs snapshots ([`nearside_fleet::snapshot::PublicKey`]).
pub const SNAPSHOT_KEY: &str = "snapshot.pub";
/// This node's key for what is sealed for it ([`nearside_fleet::seal::OpeningKey`]).
pub const SEAL_KEY: &str = "seal.key";

/// A node's credentials, read and checked.
#[derive(Debug)]
pub struct Identity {
    /// Common name of the certificate: `node:NAME`, `controller`, `operator`.
    pub common_name: String,
    /// End of its validity, seconds since the epoch.
    pub not_after: i64,
    /// For TLS.
    pub credentials: Credentials,
}

/// Why an identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Files can't be read, or don't fit together.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The certificate does not say who this is.
    #[error("{path}: {reason}")]
    Subject {
        /// The certificate's file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
}

/// The three files of an identity in a directory.
pub fn files(dir: &Path) -> [PathBuf; 3] {
    [dir.join(CA), dir.join(CERT), dir.join(KEY)]
}

impl Identity {
    /// Reads the identity of a state directory; `None` where there is none at all.
    ///
    /// # Errors
    /// [`IdentityError`] where there is one that can't be used: half an identity is a mistake to be told,
    /// not a standalone node.
    pub fn of_state(state: &StateDir) -> Result<Option<Self>, IdentityError> {
        let dir = state.path(DIR);
        if files(&dir).iter().all(|file| !file.exists()) {
            return Ok(None);
        }
        Self::read(&dir).map(Some)
    }

    /// Reads `ca.pem`, `cert.pem` and `key.pem` of a directory.
    ///
    /// # Errors
    /// [`IdentityError`] naming the file at fault.
    pub fn read(dir: &Path) -> Result<Self, IdentityError> {
        let [ca, cert, key] = files(dir);
        let credentials = Credentials::read(&ca, &cert, &key)?;
        // Builds once here so that a key that does not match is found at the start, not at a handshake.
        credentials.server_config()?;
        let subject = |reason: String| IdentityError::Subject { path: cert.clone(), reason };
        let leaf = credentials.chain.first().ok_or_else(|| subject("holds no certificate".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| subject(error.to_string()))?;
        let common_name = common_name(&parsed).ok_or_else(|| subject("its subject has no CN".to_owned()))?;
        let not_after = parsed.validity().not_after.timestamp();
        Ok(Self { common_name, not_after, credentials })
    }
}

/// The common name of a DER certificate.
pub fn common_name_of(der: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    common_name(&parsed)
}

/// Common name and serial number of a DER certificate.
pub fn name_and_serial(der: &[u8]) -> Option<(String, Vec<u8>)> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some((common_name(&parsed)?, parsed.raw_serial().to_vec()))
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}
