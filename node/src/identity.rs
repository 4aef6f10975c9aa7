//! Who this node is: its certificate from the fleet's CA, in STATE/identity.
//!
//! A node with an identity takes its desired state from home alone; one without follows its local fleet
//! file. The files are read again when they change, so that a renewed certificate needs no restart. An identity comes as
//! three files from home; one that was renewed is one file with key and certificate. The one that was issued last counts,
//! whichever file it is in. Making identities is home's work, renewing them [`crate::renewal`]'s.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError,
    pki_types::{CertificateRevocationListDer, UnixTime},
    server::WebPkiClientVerifier,
};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    revocation_list::CertificateRevocationList,
};

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

/// Key and chain of the identity that was renewed last, in one file.
pub const RENEWED: &str = "renewed.pem";
/// The one renewed before it, for when that is damaged.
pub const PREVIOUS: &str = "previous.pem";
/// The fleet's list of revoked identities (DER, RFC 5280 section 5).
pub const REVOKED: &str = "revoked.crl";
/// A list of some ten thousand.
const REVOKED_BYTES_MAX: u64 = 1 << 20;

/// Home's public key, which signs snapshots ([`nearside_fleet::snapshot::PublicKey`]).
pub const SNAPSHOT_KEY: &str = "snapshot.pub";
/// This node's key for what is sealed for it ([`nearside_fleet::seal::OpeningKey`]).
pub const SEAL_KEY: &str = "seal.key";

/// A node's credentials, read and checked.
#[derive(Debug)]
pub struct Identity {
    /// Common name of the certificate: `node:NAME`, `controller`, `operator`.
    pub common_name: String,
    /// Serial number of the certificate.
    pub serial: Vec<u8>,
    /// Start of its validity, seconds since the epoch.
    pub not_before: i64,
    /// End of its validity, seconds since the epoch.
    pub not_after: i64,
    /// Whether its key was made on this node, and not brought here.
    pub made_here: bool,
    /// The identities that are revoked.
    pub revoked: Option<Arc<RevokedList>>,
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

/// The three files of an identity in a directory, as home makes it.
pub fn files(dir: &Path) -> [PathBuf; 3] {
    [dir.join(CA), dir.join(CERT), dir.join(KEY)]
}

/// Every file that decides who a node is and whom it believes.
pub fn watched(dir: &Path) -> Vec<PathBuf> {
    let mut all = files(dir).to_vec();
    all.extend([RENEWED, PREVIOUS, REVOKED].map(|name| dir.join(name)));
    all
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

    /// Reads the identity of a directory: of those there, the one that was issued last.
    ///
    /// # Errors
    /// [`IdentityError`] naming the file at fault, where none is good.
    pub fn read(dir: &Path) -> Result<Self, IdentityError> {
        let [ca, cert, key] = files(dir);
        let renewed = |name: &str| {
            let file = dir.join(name);
            if !file.exists() {
                return None;
            }
            let read = Self::read_files(&ca, &file, &file, true);
            read.inspect_err(|error| tracing::warn!(%error, "a renewed identity can't be used")).ok()
        };
        let brought = Self::read_files(&ca, &cert, &key, false);
        let newest = [RENEWED, PREVIOUS].into_iter().filter_map(renewed).max_by_key(|one| one.not_before);
        let mut identity = match (brought, newest) {
            (Ok(brought), Some(newest)) if brought.not_before > newest.not_before => brought,
            (_, Some(newest)) => newest,
            (brought, None) => brought?,
        };
        identity.revoked = RevokedList::read(&dir.join(REVOKED)).map(Arc::new);
        identity.credentials.revoked = identity.revoked.as_ref().map(|list| list.der.clone());
        Ok(identity)
    }

    fn read_files(ca: &Path, cert: &Path, key: &Path, made_here: bool) -> Result<Self, IdentityError> {
        let credentials = Credentials::read(ca, cert, key)?;
        // Builds once here so that a key that does not match is found at the start, not at a handshake.
        credentials.server_config()?;
        let subject =
            |reason: &str| IdentityError::Subject { path: cert.to_owned(), reason: reason.to_owned() };
        let leaf = credentials.chain.first().ok_or_else(|| subject("holds no certificate"))?;
        let facts = facts(leaf).ok_or_else(|| subject("its subject has no CN"))?;
        let Facts { common_name, serial, not_before, not_after } = facts;
        Ok(Self { common_name, serial, not_before, not_after, made_here, revoked: None, credentials })
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Common name.
    pub common_name: String,
    /// Serial number, as it is written.
    pub serial: Vec<u8>,
    /// Start of its validity, seconds since the epoch.
    pub not_before: i64,
    /// End of it.
    pub not_after: i64,
}

/// Facts of a DER certificate; `None` without a common name.
pub fn facts(der: &[u8]) -> Option<Facts> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let (validity, serial) = (parsed.validity(), parsed.raw_serial().to_vec());
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Some(Facts { common_name: common_name(&parsed)?, serial, not_before, not_after })
}

/// The identities that the fleet's CA has revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedList {
    /// As it came.
    pub der: CertificateRevocationListDer<'static>,
    /// Grows with each list.
    pub number: u64,
    /// Serial numbers, as certificates write them.
    pub serials: BTreeSet<Vec<u8>>,
}

impl RevokedList {
    /// Reads a list (DER). Its signature is not looked at: see [`RevokedList::verify`].
    ///
    /// # Errors
    /// In words.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let wrong = |reason: &str| format!("not a list of revoked certificates: {reason}");
        let (_, list) =
            CertificateRevocationList::from_der(der).map_err(|error| wrong(&error.to_string()))?;
        let number = list.crl_number().ok_or_else(|| wrong("it has no number"))?;
        let number = number.to_string().parse().map_err(|_| wrong("its number is too large"))?;
        let serials = list.iter_revoked_certificates().map(|one| one.raw_serial().to_vec()).collect();
        Ok(Self { der: der.to_vec().into(), number, serials })
    }

    /// Whether the CA of these credentials has signed it, found by judging their own certificate under it.
    ///
    /// # Errors
    /// In words.
    pub fn verify(&self, credentials: &Credentials, now: UnixTime) -> Result<(), String> {
        let wrong = |error: &dyn std::fmt::Display| format!("not a list of this fleet's CA: {error}");
        let verifier = WebPkiClientVerifier::builder(Arc::clone(&credentials.roots))
            .with_crls([self.der.clone()])
            .build()
            .map_err(|error| wrong(&error))?;
        let leaf = credentials.chain.first().ok_or("no certificate")?;
        match verifier.verify_client_cert(leaf, &credentials.chain[1..], now) {
            // Ours may be the revoked one, or have ended: the list is genuine all the same.
            Ok(_) | Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => Ok(()),
            Err(error) => Err(wrong(&error)),
        }
    }

    /// Reads a kept list. A damaged one is told and is none: home sends it again.
    fn read(path: &Path) -> Option<Self> {
        let read = crate::state::read_bounded(path, REVOKED_BYTES_MAX).map_err(|error| error.to_string());
        match read.and_then(|bytes| bytes.map(|bytes| Self::parse(&bytes)).transpose()) {
            Ok(list) => list,
            Err(error) => {
                tracing::error!(path = %path.display(), error, "revoked identities are not known until home sends them");
                None
            }
        }
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}
