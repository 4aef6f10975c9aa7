//! Reads certificates and decides which may be served: the write half.
//!
//! A certificate is served only if its key matches, it parses, and today is between its dates. One that
//! fails is refused loudly, and the site keeps the last good one for as long as that is valid itself: an
//! operator who replaces two files in the wrong order must not take a site down. Host names that the
//! certificate does not cover are a warning: browsers will complain, but the operator may know better.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use nearside_fleet::config;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::resolver::Table;

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
#[derive(Debug, Error)]
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

/// A problem with one site's certificate, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The site.
    pub site: String,
    /// What is wrong and what was done about it.
    pub message: String,
    /// Whether a certificate was refused, or only looks wrong.
    pub severity: Severity,
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The certificate is not served.
    Refused,
    /// It is served all the same.
    Warning,
}

/// Loads the certificates of all sites. Where one is refused, `last` is searched for the site's last good
/// one.
pub fn load_table<'a>(
    sites: impl Iterator<Item = &'a config::Site>,
    last: Option<&Table>,
    now: SystemTime,
) -> (Table, Vec<Problem>) {
    let now_secs = epoch_secs(now);
    let mut table = Table::default();
    let mut problems = Vec::new();
    for site in sites {
        let Some(tls) = &site.tls else { continue };
        let mut problem = |severity, message| {
            problems.push(Problem { site: site.name.clone(), message, severity });
        };
        let loaded = match tls {
            config::SiteTls::Files { certificate, key } => {
                load(certificate, key, now_secs).map_err(|error| error.to_string())
            }
            config::SiteTls::FleetCa => Err("no certificate was published for it yet".to_owned()),
        };
        match loaded {
            Ok(served) => {
                let missing: Vec<&str> = site
                    .hosts
                    .iter()
                    .map(String::as_str)
                    .filter(|host| !covers_pattern(&served, host))
                    .collect();
                if !missing.is_empty() {
                    let message = format!("the certificate is not for {}", missing.join(", "));
                    problem(Severity::Warning, message);
                }
                table.insert(&site.name, &site.hosts, &Arc::new(served));
            }
            Err(reason) => {
                let kept = last.and_then(|last| last.sites.get(site.name.as_str()));
                match kept.filter(|kept| kept.not_after_secs > now_secs) {
                    Some(kept) => {
                        table.insert(&site.name, &site.hosts, kept);
                        problem(Severity::Refused, format!("{reason}; the last good certificate is kept"));
                    }
                    None => {
                        problem(Severity::Refused, format!("{reason}; its hosts are not served over TLS"))
                    }
                }
            }
        }
    }
    (table, problems)
}

fn covers_pattern(served: &Served, host: &str) -> bool {
    match host.strip_prefix('*') {
        Some(_) => served.names.iter().any(|name| name == host),
        None => served.covers(host),
    }
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

fn epoch_secs(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW as u64)
    }

    /// Writes a certificate for `names`, valid from `from` to `to` seconds around [`NOW`].
    fn write(dir: &TempDir, stem: &str, names: &[&str], from: i64, to: i64) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let date = |secs: i64| {
            let days = secs.div_euclid(86_400);
            let base = rcgen::date_time_ymd(1970, 1, 1);
            base + Duration::from_secs((days * 86_400) as u64)
        };
        params.not_before = date(NOW + from);
        params.not_after = date(NOW + to);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let paths = (dir.path().join(format!("{stem}.pem")), dir.path().join(format!("{stem}.key")));
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    const MONTH: i64 = 30 * 86_400;

    fn site(name: &str, hosts: &[&str], files: (PathBuf, PathBuf)) -> config::Site {
        config::Site {
            name: name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            origin: config::Origin {
                scheme: config::Scheme::Http,
                host: "127.0.0.1".to_owned(),
                port: 1,
                host_header: None,
                connections_max: 1,
                connect_timeout: Duration::from_secs(1),
                first_byte_timeout: Duration::from_secs(1),
                between_bytes_timeout: Duration::from_secs(1),
                ca: None,
            },
            tls: Some(config::SiteTls::Files { certificate: files.0, key: files.1 }),
            cache: config::SiteCache { object_bytes_max: 1, ..config::SiteCache::default() },
        }
    }

    #[test]
    fn names_are_found_exactly_then_by_wildcard_then_not_at_all() {
        let dir = TempDir::new().unwrap();
        let a = site("a", &["a.test"], write(&dir, "a", &["a.test"], -MONTH, MONTH));
        let b = site("b", &["*.b.test"], write(&dir, "b", &["*.b.test"], -MONTH, MONTH));
        let (table, problems) = load_table([&a, &b].into_iter(), None, now());
        assert_eq!(problems, []);
        assert_eq!(table.find(Some("a.test")).unwrap().names, ["a.test"]);
        assert_eq!(table.find(Some("x.b.test")).unwrap().names, ["*.b.test"]);
        assert!(table.find(Some("b.test")).is_none());
        assert!(table.find(Some("x.y.b.test")).is_none());
        assert_eq!(table.find(None).unwrap().names, ["a.test"]);
    }

    #[test]
    fn bad_certificates_are_refused_with_what_to_do_and_the_last_good_one_is_kept() {
        let dir = TempDir::new().unwrap();
        let good = write(&dir, "good", &["a.test"], -MONTH, MONTH);
        let (last, _) = load_table([&site("a", &["a.test"], good.clone())].into_iter(), None, now());
        let other = write(&dir, "other", &["a.test"], -MONTH, MONTH);
        let expired = write(&dir, "expired", &["a.test"], -2 * MONTH, -MONTH);
        let future = write(&dir, "future", &["a.test"], MONTH, 2 * MONTH);
        let cut = dir.path().join("cut.pem");
        std::fs::write(&cut, &std::fs::read(&good.0).unwrap()[..200]).unwrap();
        for (files, expected) in [
            ((good.0.clone(), other.1), "is not the key of"),
            (expired, "expired at"),
            (future, "not valid before"),
            ((cut, good.1.clone()), "cut.pem"),
            ((dir.path().join("none.pem"), good.1.clone()), "read "),
        ] {
            let site = site("a", &["a.test"], files);
            let (table, problems) = load_table([&site].into_iter(), Some(&last), now());
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].severity, Severity::Refused);
            assert!(problems[0].message.contains(expected), "{}", problems[0].message);
            assert!(problems[0].message.contains("last good"), "{}", problems[0].message);
            assert!(table.find(Some("a.test")).is_some());
            let (table, _) = load_table([&site].into_iter(), None, now());
            assert!(table.find(Some("a.test")).is_none());
        }
    }

    #[test]
    fn hosts_the_certificate_does_not_name_are_a_warning() {
        let dir = TempDir::new().unwrap();
        let site = site("a", &["a.test", "b.test"], write(&dir, "a", &["a.test"], -MONTH, MONTH));
        let (table, problems) = load_table([&site].into_iter(), None, now());
        assert_eq!(problems[0].severity, Severity::Warning);
        assert!(problems[0].message.contains("b.test"));
        assert!(table.find(Some("b.test")).is_some());
    }

    #[test]
    fn a_wildcard_is_one_label() {
        let dir = TempDir::new().unwrap();
        let (pem, key) = write(&dir, "w", &["*.b.test"], -MONTH, MONTH);
        let served = load(&pem, &key, NOW).unwrap();
        assert!(served.covers("x.b.test"));
        for host in ["b.test", ".b.test", "x.y.b.test", "xb.test"] {
            assert!(!served.covers(host), "{host}");
        }
    }
}
