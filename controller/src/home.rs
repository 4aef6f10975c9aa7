//! What home keeps in its state directory, and how it comes to be: the CA, keys, identities.
//!
//! [`init`] makes what is missing and never touches what is there, so running it again after adding a node
//! adds that node. Layout of the state directory: `ca/`, `snapshot.key`, `identity/` (the controller's),
//! `operator/`, `seal/NODE.pub`; and, for copying to the nodes, `identities/NODE/`.
//!
//! Invariant: a private key is written once, mode 0600, and never printed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nearside_fleet::{
    config::Config,
    seal::{self, SealError, SealingKey},
    snapshot::{KeyError, SigningKey},
};
use nearside_node::{
    identity,
    state::{StateDir, StateError},
    tls,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber,
};

use crate::{
    identities::{HOME_LIFE, NODE_LIFE},
    journal::{
        Journal, JournalError,
        identity::{Provenance, Registered},
    },
};

/// The CA outlives every machine of the fleet.
const CA_YEARS: u64 = 20;
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// A site's certificate is valid a little before now: PoPs' clocks are not home's.
const CLOCK_SKEW: Duration = Duration::from_secs(3_600);
/// An identity is valid a day before now: a machine whose clock is wrong by a time zone can still be reached and told.
const IDENTITY_SKEW: Duration = Duration::from_secs(86_400);
/// How long a list of revoked identities says it is good; the newest counts however old it is.
const REVOKED_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Largest file read from the state directory here; keys and certificates are a few kilobytes.
const KEY_BYTES_MAX: u64 = 1 << 20;

const CA_CERT: &str = "ca/ca.pem";
const CA_KEY: &str = "ca/ca.key";
const SNAPSHOT_KEY: &str = "snapshot.key";
/// The journal, in the state directory.
pub const DATABASE: &str = "nearside.db";
/// The operator's identity, which the command line uses.
pub const OPERATOR: &str = "operator";

/// Why home's keys could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A certificate could not be made.
    #[error("making {what}: {source}")]
    Certificate {
        /// Whose.
        what: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The register of identities.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A snapshot key does not read.
    #[error("{path}: {source}")]
    Signing {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// A sealing key does not read.
    #[error("{path}: {source}")]
    Sealing {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// `nearside init` was not run, or not for this node.
    #[error("{0} is missing: run `nearside init` first")]
    NotInitialised(PathBuf),
}

/// An opened state directory that `init` has filled.
#[derive(Clone, Debug)]
pub struct Home {
    /// The directory.
    pub state: StateDir,
}

/// What [`init`] made, for the operator.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Paths of what is new, in order.
    pub paths: Vec<PathBuf>,
}

/// Makes the CA, the snapshot key, and identities of the controller, the operator and every node; what is
/// there stays. Identities for the nodes go to `identities`.
///
/// # Errors
/// [`HomeError`]; what was made before it stays and is used by the next run.
pub fn init(
    state: &StateDir,
    identities: &StateDir,
    config: &Config,
    now: SystemTime,
) -> Result<Made, HomeError> {
    let mut made = Made::default();
    if read(state, CA_KEY)?.is_none() {
        let (certificate, key) = make_ca(&config.fleet, now)?;
        made.paths.push(state.write(CA_CERT, certificate.as_bytes())?);
        // The key last: whoever finds it finds its certificate.
        made.paths.push(state.write(CA_KEY, key.as_bytes())?);
    }
    if read(state, SNAPSHOT_KEY)?.is_none() {
        let path = state.path(SNAPSHOT_KEY);
        let (_, text) = SigningKey::generate().map_err(|source| HomeError::Signing { path, source })?;
        made.paths.push(state.write(SNAPSHOT_KEY, text.as_bytes())?);
    }
    let home = Home { state: state.clone() };
    let journal = Journal::open(&state.path(DATABASE))?;
    let mut identity = |dir: &StateDir, at: &str, name: &str, life: Duration| -> Result<(), HomeError> {
        let dir = dir.subdir(at)?;
        if identity::files(dir.root()).iter().all(|file| file.exists()) {
            return Ok(());
        }
        journal.keep_identity(&home.make_identity(&dir, name, now, life)?)?;
        made.paths.extend(identity::files(dir.root()));
        Ok(())
    };
    identity(state, identity::DIR, "controller", HOME_LIFE)?;
    identity(state, OPERATOR, "operator", HOME_LIFE)?;
    for node in config.pops.keys().chain(config.dns.keys()) {
        // What was carried to its node is not made again: a node that home has heard of has an identity.
        let is_known = home.state.path(format!("seal/{node}.pub")).exists();
        if !is_known {
            identity(identities, node, &format!("node:{node}"), NODE_LIFE)?;
        }
    }
    for node in config.pops.keys().chain(config.dns.keys()) {
        made.paths.extend(home.node_keys(identities, node)?);
    }
    Ok(made)
}

impl Home {
    /// Opens a state directory that [`init`] has filled.
    ///
    /// # Errors
    /// [`HomeError::NotInitialised`] if it has not.
    pub fn open(state: StateDir) -> Result<Self, HomeError> {
        for file in [CA_KEY, CA_CERT, SNAPSHOT_KEY] {
            if read(&state, file)?.is_none() {
                return Err(HomeError::NotInitialised(state.path(file)));
            }
        }
        Ok(Self { state })
    }

    /// The key that signs snapshots.
    ///
    /// # Errors
    /// [`HomeError`] if it is gone or damaged.
    pub fn signing_key(&self) -> Result<SigningKey, HomeError> {
        let path = self.state.path(SNAPSHOT_KEY);
        let text = self.text(SNAPSHOT_KEY)?;
        SigningKey::from_text(&text).map_err(|source| HomeError::Signing { path, source })
    }

    /// What private files are sealed with for a node.
    ///
    /// # Errors
    /// [`HomeError`] if `init` was not run since the node was added.
    pub fn sealing_key(&self, node: &str) -> Result<SealingKey, HomeError> {
        let name = format!("seal/{node}.pub");
        let text = self.text(&name)?;
        let path = self.state.path(&name);
        SealingKey::from_text(&text).map_err(|source| HomeError::Sealing { path, source })
    }

    /// Issues a server certificate for host names. Returns chain and key as PEM.
    ///
    /// # Errors
    /// [`HomeError`] if a name can't be in a certificate.
    pub fn issue_server(
        &self,
        hosts: &[String],
        now: SystemTime,
        life: Duration,
    ) -> Result<(String, String), HomeError> {
        let what = || format!("a certificate for {}", hosts.join(", "));
        let failed = |source| HomeError::Certificate { what: what(), source };
        let mut params = CertificateParams::new(hosts.to_vec()).map_err(failed)?;
        // The names are in the SAN; a common name longer than 64 would not be a valid one (RFC 5280 A.1).
        let short = hosts.iter().find(|host| host.len() <= 64);
        params.distinguished_name.push(DnType::CommonName, short.map_or("nearside", String::as_str));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let ca = self.text(CA_CERT)?;
        let (leaf, key) = self.sign(params, now, life, what)?;
        Ok((leaf + &ca, key))
    }

    /// Makes `ca.pem`, `cert.pem` and `key.pem` in a directory: an identity whose key is made here.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn make_identity(
        &self,
        dir: &StateDir,
        name: &str,
        now: SystemTime,
        life: Duration,
    ) -> Result<Registered, HomeError> {
        let failed = |source| HomeError::Certificate { what: format!("the identity of {name}"), source };
        let key = KeyPair::generate().map_err(failed)?;
        let (certificate, registered) = self.sign_identity(&key, name, now, life, Provenance::Home)?;
        dir.write(identity::CA, self.text(CA_CERT)?.as_bytes())?;
        dir.write(identity::KEY, key.serialize_pem().as_bytes())?;
        dir.write(identity::CERT, certificate.as_bytes())?;
        Ok(registered)
    }

    /// Makes `cert.pem` anew for the `key.pem` of a directory.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn renew_certificate(
        &self,
        dir: &StateDir,
        name: &str,
        now: SystemTime,
        life: Duration,
    ) -> Result<Registered, HomeError> {
        let failed = |source| HomeError::Certificate { what: format!("the identity of {name}"), source };
        let key = dir.read(identity::KEY, KEY_BYTES_MAX)?.unwrap_or_default();
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key)).map_err(failed)?;
        let (certificate, registered) = self.sign_identity(&key, name, now, life, Provenance::Home)?;
        dir.write(identity::CERT, certificate.as_bytes())?;
        Ok(registered)
    }

    /// Signs the key of a signing request (PEM) for a name. Nothing else of the request counts, whatever it asks for.
    ///
    /// # Errors
    /// [`HomeError`], also where the request is not signed with its own key.
    pub fn sign_request(
        &self,
        csr: &str,
        name: &str,
        now: SystemTime,
        life: Duration,
    ) -> Result<(String, Registered), HomeError> {
        let failed = |source| HomeError::Certificate { what: format!("the identity of {name}"), source };
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(failed)?;
        self.sign_identity(&request.public_key, name, now, life, Provenance::There)
    }

    fn sign_identity(
        &self,
        key: &impl PublicKeyData,
        name: &str,
        now: SystemTime,
        life: Duration,
        made: Provenance,
    ) -> Result<(String, Registered), HomeError> {
        let failed = |source| HomeError::Certificate { what: format!("the identity of {name}"), source };
        let host = name.rsplit(':').next().unwrap_or(name);
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
        params.subject_alt_names.push(SanType::DnsName(tls::node_host(host).try_into().map_err(failed)?));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| failed(rcgen::Error::RingUnspecified))?;
        // Positive, and always as long (RFC 5280 section 4.1.2.2).
        serial[0] = serial[0] & 0x3f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = (now - IDENTITY_SKEW).into();
        params.not_after = (now + life).into();
        let certificate = params.signed_by(key, &self.issuer(|| format!("the identity of {name}"))?);
        let registered = Registered {
            serial: hex(&serial),
            name: name.to_owned(),
            issued: seconds(now),
            not_after: seconds(now + life),
            made,
            revoked: None,
            reason: String::new(),
        };
        Ok((certificate.map_err(failed)?.pem(), registered))
    }

    /// Signs a list of revoked identities (DER, RFC 5280 section 5).
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn sign_revoked<'r>(
        &self,
        number: u64,
        revoked: impl Iterator<Item = &'r Registered>,
        now: SystemTime,
    ) -> Result<Vec<u8>, HomeError> {
        let what = || "the list of revoked identities".to_owned();
        let one = |one: &Registered| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&unhex(&one.serial)),
            revocation_time: (UNIX_EPOCH + Duration::from_secs(one.revoked.unwrap_or(0))).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - IDENTITY_SKEW).into(),
            next_update: (now + REVOKED_LIFE).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = list.signed_by(&self.issuer(what)?);
        let signed = signed.map_err(|source| HomeError::Certificate { what: what(), source })?;
        Ok(signed.der().to_vec())
    }

    fn issuer(&self, what: impl Fn() -> String) -> Result<Issuer<'static, KeyPair>, HomeError> {
        let failed = |source| HomeError::Certificate { what: what(), source };
        let ca_key = KeyPair::from_pem(&self.text(CA_KEY)?).map_err(failed)?;
        Issuer::from_ca_cert_pem(&self.text(CA_CERT)?, ca_key).map_err(failed)
    }

    /// Makes a node's sealing pair and gives it the key snapshots are verified with.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn node_keys(&self, identities: &StateDir, node: &str) -> Result<Vec<PathBuf>, HomeError> {
        let mut made = Vec::new();
        let public = self.signing_key()?.public_key().to_string() + "\n";
        let snapshot_key = format!("{node}/{}", identity::SNAPSHOT_KEY);
        let is_here = identities.path(format!("{node}/{}", identity::CERT)).exists();
        if is_here && !identities.path(&snapshot_key).exists() {
            made.push(identities.write(snapshot_key, public.as_bytes())?);
        }
        let known = read(&self.state, &format!("seal/{node}.pub"))?.is_some();
        // The private half may have been moved to its node: only home's half says that there is a pair.
        if !known {
            let path = self.state.path("seal");
            let (private, public) = seal::generate().map_err(|source| HomeError::Sealing { path, source })?;
            made.push(identities.write(format!("{node}/{}", identity::SEAL_KEY), private.as_bytes())?);
            made.push(identities.write(format!("{node}/seal.pub"), public.as_bytes())?);
            made.push(self.state.write(format!("seal/{node}.pub"), public.as_bytes())?);
        }
        Ok(made)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        now: SystemTime,
        life: Duration,
        what: impl Fn() -> String,
    ) -> Result<(String, String), HomeError> {
        let issuer = self.issuer(&what)?;
        let failed = |source| HomeError::Certificate { what: what(), source };
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + life).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn text(&self, name: &str) -> Result<String, HomeError> {
        let bytes =
            read(&self.state, name)?.ok_or_else(|| HomeError::NotInitialised(self.state.path(name)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn make_ca(fleet: &str, now: SystemTime) -> Result<(String, String), HomeError> {
    let failed = |source| HomeError::Certificate { what: "the fleet's CA".to_owned(), source };
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, format!("{fleet} fleet CA"));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + YEAR * CA_YEARS as u32).into();
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn read(state: &StateDir, name: &str) -> Result<Option<Vec<u8>>, StateError> {
    state.read(name, KEY_BYTES_MAX)
}

/// Bytes in hex, as serial numbers are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] wrote; stops at what it did not.
fn unhex(text: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map_while(pair).collect()
}

/// Seconds since the epoch; 0 before it.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Writes a commented fleet file to begin with; `false` where there is one.
///
/// # Errors
/// Whatever writing gives.
pub fn write_starter(fleet_file: &Path) -> std::io::Result<bool> {
    if fleet_file.exists() {
        return Ok(false);
    }
    if let Some(dir) = fleet_file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir)?;
    }
    fs::write(fleet_file, STARTER)?;
    Ok(true)
}

const STARTER: &str = include_str!("../../etc/nearside.minimal.toml");

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use nearside_node::identity::Identity;

    use super::*;

    pub(crate) fn sample() -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nearside.toml");
        assert!(write_starter(&file).unwrap());
        assert!(!write_starter(&file).unwrap(), "an existing file stays");
        nearside_fleet::load(&file).unwrap().config
    }

    #[test]
    fn identities_are_made_once_kept_private_and_good() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path().join("home")).unwrap();
        let identities = StateDir::open(temp.path().join("ids")).unwrap();
        let config = sample();
        assert!(Home::open(state.clone()).is_err(), "not initialised yet");
        let made = init(&state, &identities, &config, SystemTime::now()).unwrap();
        assert!(made.paths.len() > 20, "{made:?}");
        for node in ["fra", "nyc", "ns1", "ns2"] {
            let read = Identity::read(&identities.path(node)).unwrap();
            assert_eq!(read.common_name, format!("node:{node}"));
            for file in [identity::SNAPSHOT_KEY, identity::SEAL_KEY, "seal.pub"] {
                assert!(identities.path(node).join(file).exists(), "{node}/{file}");
            }
        }
        let mode = fs::metadata(state.path(CA_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(init(&state, &identities, &config, SystemTime::now()).unwrap(), Made::default());
        fs::remove_dir_all(identities.path("nyc")).unwrap();
        let again = init(&state, &identities, &config, SystemTime::now()).unwrap();
        assert_eq!(again, Made::default(), "it was carried to its node");
        state.remove("seal/nyc.pub").unwrap();
        let again = init(&state, &identities, &config, SystemTime::now()).unwrap();
        assert!(Identity::read(&identities.path("nyc")).is_ok());
        let ours =
            |path: &PathBuf| path.starts_with(identities.path("nyc")) || path.ends_with("seal/nyc.pub");
        assert!(again.paths.iter().all(ours), "{again:?}");
        let register = Journal::open(&state.path(DATABASE)).unwrap().identities().unwrap();
        assert_eq!(
            register.iter().filter(|one| one.name == "node:nyc").count(),
            2,
            "all are in the register"
        );
    }

    #[test]
    fn a_site_certificate_is_issued_for_all_its_hosts() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        init(&state, &state.subdir("identities").unwrap(), &sample(), SystemTime::now()).unwrap();
        let home = Home::open(state).unwrap();
        let hosts = ["a.test".to_owned(), "*.b.test".to_owned()];
        let (chain, key) = home.issue_server(&hosts, SystemTime::now(), YEAR).unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(key.contains("PRIVATE KEY"));
    }
}
