//! A certificate with its key, read from files and checked before anybody serves it.
//!
//! It passes only if the key matches, it parses, and the time is between its dates: the checks that edges,
//! DNS nodes and `nearside check` share. What is done about a failure is theirs.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Bytes of a certificate or key file at most.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A certificate that passed every check.
pub struct Served {
    /// What rustls signs with.
    pub key: Arc<CertifiedKey>,
    /// DNS names it is for, lower case; `*.` for wildcards.
    pub names: Vec<String>,
    /// First second at which it is no longer valid, since the epoch.
    pub not_after_secs: i64,
    /// SHA-256 of the leaf, as hex.
    pub fingerprint: String,
}

impl Served {
    /// Whether the certificate vouches for `host` (RFC 6125 section 6.4.3: a wildcard is one whole label).
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix('*') {
            Some(suffix) => host.find('.').is_some_and(|dot| dot > 0 && &host[dot..] == suffix),
            None => name == host,
        })
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Served({} for {:?})", self.fingerprint, self.names)
    }
}

/// Why a certificate is not served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read.
    #[error("read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Key and certificate belong to different pairs.
    #[error("{key} is not the key of {certificate}: replace both files together")]
    KeyMismatch {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Past its end.
    #[error("{path}: expired at {not_after}: renew it")]
    Expired {
        /// The chain.
        path: PathBuf,
        /// Its end, as the certificate says it.
        not_after: String,
    },
    /// Before its beginning.
    #[error("{path}: not valid before {not_before}: check this machine's clock")]
    NotYetValid {
        /// The chain.
        path: PathBuf,
        /// Its beginning, as the certificate says it.
        not_before: String,
    },
}

/// Reads and checks one certificate.
///
/// # Errors
/// [`CertificateError`]: the first thing found wrong.
pub fn load(certificate: &Path, key: &Path, now_secs: i64) -> Result<Served, CertificateError> {
    let content = |path: &Path, reason: String| CertificateError::Content { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(certificate, format!("no PEM: {error}")))?;
    let Some(leaf) = chain.first() else {
        return Err(content(certificate, "holds no certificate".to_owned()));
    };
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| content(key, format!("no private key: {error}")))?;
    let facts = facts(leaf).map_err(|reason| content(certificate, reason))?;
    if now_secs >= facts.not_after_secs {
        return Err(CertificateError::Expired { path: certificate.to_owned(), not_after: facts.not_after });
    }
    if now_secs < facts.not_before_secs {
        return Err(CertificateError::NotYetValid {
            path: certificate.to_owned(),
            not_before: facts.not_before,
        });
    }
    let fingerprint = hex(digest::digest(&digest::SHA256, leaf).as_ref());
    let provider = CryptoProvider::get_default()
        .map_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()), Arc::clone);
    let key = CertifiedKey::from_der(chain, private, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            CertificateError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        error => content(certificate, error.to_string()),
    })?;
    Ok(Served { key: Arc::new(key), names: facts.names, not_after_secs: facts.not_after_secs, fingerprint })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let fail = |cause| CertificateError::Read { path: path.to_owned(), cause };
    let bytes = std::fs::metadata(path).map_err(fail)?.len();
    if bytes > FILE_BYTES_MAX {
        let reason = format!("{bytes} bytes; at most {FILE_BYTES_MAX} are read");
        return Err(CertificateError::Content { path: path.to_owned(), reason });
    }
    std::fs::read(path).map_err(fail)
}

struct Facts {
    names: Vec<String>,
    not_before_secs: i64,
    not_before: String,
    not_after_secs: i64,
    not_after: String,
}

fn facts(leaf: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| format!("no certificate: {error}"))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| format!("subject alternative names: {error}"))?
        .map(|extension| {
            let dns = extension.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            });
            dns.collect()
        })
        .unwrap_or_default();
    let validity = parsed.validity();
    Ok(Facts {
        names,
        not_before_secs: validity.not_before.timestamp(),
        not_before: validity.not_before.to_string(),
        not_after_secs: validity.not_after.timestamp(),
        not_after: validity.not_after.to_string(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
