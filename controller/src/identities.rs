//! Who belongs to the fleet: issues identities, renews them, revokes them.
//!
//! Everything signed is in the register ([`crate::journal::identity`]). A node's identity lives [`NODE_LIFE`] and is
//! renewed after a quarter of that, or at once while its key is one that was carried there. Home dials, so home renews: it asks
//! the node for a signing request over the connection that the present identity authenticates. A node that was out of reach until
//! its certificate ended is renewed over a connection that forgives that alone, for certificates in the register that are not
//! revoked. Its own identity and the local operator's home renews itself: whoever could not trust it with that has lost the CA.
//!
//! Invariant: the number of the list of revoked identities only grows, and the list never loses one before its certificate
//! has ended.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Method;
use nearside_node::{
    identity::{self, Identity, RevokedList, facts},
    renewal::Csr,
    state::StateDir,
    tls::{ClientCertificates, Credentials, TlsError},
};
use parking_lot::RwLock;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    client::{ClientError, Connection, SharedClient},
    home::{Home, HomeError, OPERATOR, hex, seconds},
    journal::{
        Journal, JournalError,
        identity::{Provenance, Registered},
    },
};

/// Life of a node's identity. With renewal after a quarter of it, home may be dark for 45 days before shields and DNS nodes refuse
/// each other; PoPs serve on even then.
pub const NODE_LIFE: Duration = Duration::from_secs(60 * 86_400);
/// Life of home's own and the local operator's: longer, since nodes whose clocks are ahead by less than the rest of it still
/// take home's orders. Renewed after a quarter too.
pub const HOME_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// For a request of a renewal: the node makes a key.
const RENEW: Duration = Duration::from_secs(10);

/// Why an identity was not renewed, or nobody was revoked.
#[derive(Debug, thiserror::Error)]
pub enum IdentityTrouble {
    /// Keys.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The register.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node did not answer, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Home's own identity.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// TLS of it.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// In words.
    #[error("{0}")]
    Wrong(String),
}

/// The fleet's identities.
pub struct Identities {
    home: Home,
    journal: Arc<Journal>,
    /// What home shows and believes as a client; swapped when it is renewed or somebody is revoked.
    client: SharedClient,
    /// The same for nodes whose certificate has ended.
    forgiving: SharedClient,
    server: nearside_node::control::server::SharedTls,
    revoked: RwLock<Revoked>,
}

#[derive(Debug, Default)]
struct Revoked {
    number: u64,
    serials: BTreeSet<String>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identities")
    }
}

impl Identities {
    /// Opens home's own identity, renewed first where that is due.
    ///
    /// # Errors
    /// [`IdentityTrouble`].
    pub fn open(home: Home, journal: Arc<Journal>, now: SystemTime) -> Result<Arc<Self>, IdentityTrouble> {
        renew_own(&home, &journal, now)?;
        let (client, forgiving, server) = configs(&home, &journal)?;
        let this = Self {
            home,
            journal,
            client: SharedClient::new(client),
            forgiving: SharedClient::new(forgiving),
            server: Arc::new(arc_swap::ArcSwapOption::new(Some(server))),
            revoked: RwLock::default(),
        };
        this.know_revoked()?;
        Ok(Arc::new(this))
    }

    /// What home shows as a client.
    pub fn client(&self) -> SharedClient {
        self.client.clone()
    }

    /// What it shows to nodes whose certificate may have ended. For renewal alone.
    pub fn forgiving(&self) -> SharedClient {
        self.forgiving.clone()
    }

    /// What its API shows.
    pub fn server(&self) -> nearside_node::control::server::SharedTls {
        Arc::clone(&self.server)
    }

    /// Whether a certificate was revoked.
    pub fn refuses(&self, serial: &[u8]) -> bool {
        !serial.is_empty() && self.revoked.read().serials.contains(&hex(serial))
    }

    /// Number of the newest list of revoked identities.
    pub fn revocations(&self) -> u64 {
        self.revoked.read().number
    }

    /// Renews home's own identity and the local operator's if that is due.
    ///
    /// # Errors
    /// [`IdentityTrouble`]; the present ones stay.
    pub fn renew_own(&self, now: SystemTime) -> Result<(), IdentityTrouble> {
        if renew_own(&self.home, &self.journal, now)? {
            self.reload()?;
        }
        Ok(())
    }

    /// A node has shown this certificate, which the CA has signed and nobody revoked: it is known from now on.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn seen(&self, leaf: &CertificateDer<'_>) -> Result<(), JournalError> {
        let Some(facts) = facts(leaf) else { return Ok(()) };
        self.journal.keep_identity(&Registered {
            serial: hex(&facts.serial),
            name: facts.common_name,
            issued: u64::try_from(facts.not_before).unwrap_or(0),
            not_after: u64::try_from(facts.not_after).unwrap_or(0),
            made: Provenance::Seen,
            revoked: None,
            reason: String::new(),
        })
    }

    /// Whether a node's identity should be renewed.
    pub fn is_due(identity: &nearside_fleet::report::Identity, now: SystemTime) -> bool {
        let left = identity.not_after.saturating_sub(seconds(now));
        !identity.made_here || left < (NODE_LIFE * 3 / 4).as_secs()
    }

    /// Renews a node's identity over a connection to it. Returns when the new one ends.
    ///
    /// # Errors
    /// [`IdentityTrouble`]; the node goes on with what it has.
    pub async fn renew(
        &self,
        node: &str,
        connection: &mut Connection,
        now: SystemTime,
    ) -> Result<u64, IdentityTrouble> {
        let name = format!("node:{node}");
        let asked = connection.ask(Method::GET, "/v1/identity/csr", Bytes::new(), RENEW).await?;
        let Csr { csr } = asked.good()?.json()?;
        let (certificate, registered) = self.home.sign_request(&csr, &name, now, NODE_LIFE)?;
        // Known before it is anywhere else.
        if !self.journal.keep_renewed(&registered)? {
            return Err(IdentityTrouble::Wrong(format!("{name} was revoked")));
        }
        let put = connection.ask(Method::PUT, "/v1/identity/certificate", certificate.into(), RENEW).await?;
        put.good()?;
        tracing::info!(
            node,
            serial = registered.serial,
            not_after = registered.not_after,
            "renewed its identity"
        );
        Ok(registered.not_after)
    }

    /// Brings a node the newest list of revoked identities, or takes a newer one from it: it was signed by this CA before
    /// this journal was restored from a backup.
    ///
    /// # Errors
    /// [`IdentityTrouble`].
    pub async fn exchange_revoked(
        &self,
        connection: &mut Connection,
        has: u64,
        now: SystemTime,
    ) -> Result<(), IdentityTrouble> {
        let path = "/v1/identity/revoked";
        if has > self.revocations() {
            let answer = connection.ask(Method::GET, path, Bytes::new(), RENEW).await?.good()?;
            return self.adopt_revoked(&answer.body, now);
        }
        if has < self.revocations() {
            let kept = self.home.state.read(format!("{}/{}", identity::DIR, identity::REVOKED), 1 << 20);
            let list = kept.map_err(HomeError::from)?.ok_or_else(|| {
                IdentityTrouble::Wrong(
                    "the list of revoked identities is gone; revoke anything again".to_owned(),
                )
            })?;
            connection.ask(Method::PUT, path, list.into(), RENEW).await?.good()?;
        }
        Ok(())
    }

    fn adopt_revoked(&self, der: &[u8], now: SystemTime) -> Result<(), IdentityTrouble> {
        let list = RevokedList::parse(der).map_err(IdentityTrouble::Wrong)?;
        let own = Identity::read(&self.home.state.path(identity::DIR))?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        list.verify(&own.credentials, UnixTime::since_unix_epoch(since)).map_err(IdentityTrouble::Wrong)?;
        let known = self.journal.identities()?;
        for serial in list.serials.iter().map(|serial| hex(serial)) {
            match known.iter().find(|one| one.serial == serial) {
                Some(one) if one.revoked.is_some() => {}
                // Whose it was, with all else the name had.
                Some(one) => {
                    self.journal.revoke_identities(&one.name, seconds(now), "revoked before the restore")?;
                }
                None => self.journal.keep_identity(&Registered {
                    name: format!("?:{serial}"),
                    serial,
                    issued: seconds(now),
                    not_after: seconds(now + HOME_LIFE),
                    made: Provenance::Listed,
                    revoked: Some(seconds(now)),
                    reason: "revoked before the restore".to_owned(),
                })?,
            }
        }
        tracing::warn!(number = list.number, "a node has a newer list of revoked identities: taken over");
        self.list_revoked(list.number, now)
    }

    /// Revokes all identities of a name (`node:fra`, `operator:eve`). Returns how many.
    ///
    /// # Errors
    /// [`IdentityTrouble`].
    pub fn revoke(&self, name: &str, reason: &str, now: SystemTime) -> Result<usize, IdentityTrouble> {
        let count = self.journal.revoke_identities(name, seconds(now), reason)?;
        self.list_revoked(0, now)?;
        Ok(count)
    }

    /// Signs a list of all that are revoked and have not ended, numbered past `past`, and believes it.
    fn list_revoked(&self, past: u64, now: SystemTime) -> Result<(), IdentityTrouble> {
        let all = self.journal.identities()?;
        let listed = all.iter().filter(|one| one.revoked.is_some() && one.not_after >= seconds(now));
        let number = self.journal.next_revocations(past)?;
        let list = self.home.sign_revoked(number, listed, now)?;
        let path = format!("{}/{}", identity::DIR, identity::REVOKED);
        self.home.state.write(path, &list).map_err(HomeError::from)?;
        self.reload()
    }

    fn reload(&self) -> Result<(), IdentityTrouble> {
        let (client, forgiving, server) = configs(&self.home, &self.journal)?;
        self.client.swap(client);
        self.forgiving.swap(forgiving);
        self.server.store(Some(server));
        self.know_revoked()
    }

    fn know_revoked(&self) -> Result<(), IdentityTrouble> {
        let all = self.journal.identities()?;
        let serials = all.into_iter().filter(|one| one.revoked.is_some()).map(|one| one.serial).collect();
        *self.revoked.write() = Revoked { number: self.journal.revocations()?, serials };
        Ok(())
    }
}

type Configs = (Arc<ClientConfig>, Arc<ClientConfig>, Arc<rustls::ServerConfig>);

fn configs(home: &Home, journal: &Arc<Journal>) -> Result<Configs, IdentityTrouble> {
    let own = Identity::read(&home.state.path(identity::DIR))?;
    let client = own.credentials.client_config()?;
    let forgiving = forgiving_config(&own.credentials, Arc::clone(journal))?;
    // Callers with a token have no certificate.
    let server = own.credentials.server_config_for(ClientCertificates::Welcome)?;
    Ok((client, forgiving, server))
}

/// Renews the certificates, for the keys that are there: each is one file, replaced whole.
fn renew_own(home: &Home, journal: &Journal, now: SystemTime) -> Result<bool, IdentityTrouble> {
    let mut renewed = false;
    for (dir, name) in [(identity::DIR, "controller"), (OPERATOR, "operator")] {
        let dir = home.state.subdir(dir).map_err(HomeError::from)?;
        if !dir.path(identity::KEY).exists() {
            continue;
        }
        let present = Identity::read(dir.root());
        let left = present
            .as_ref()
            .map_or(0, |one| u64::try_from(one.not_after).unwrap_or(0).saturating_sub(seconds(now)));
        if left < (HOME_LIFE * 3 / 4).as_secs() {
            let registered = home.renew_certificate(&dir, name, now, HOME_LIFE)?;
            journal.keep_identity(&registered)?;
            tracing::info!(name, not_after = registered.not_after, "renewed home's own identity");
            renewed = true;
        }
    }
    Ok(renewed)
}

fn forgiving_config(
    credentials: &Credentials,
    journal: Arc<Journal>,
) -> Result<Arc<ClientConfig>, IdentityTrouble> {
    let inner = credentials.server_verifier()?;
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Forgiving { inner, journal }))
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())
        .map_err(|source| TlsError::Rustls { path: credentials.path.clone(), source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// As strict as ever, but for one thing: a certificate that has ended is judged as of the last second of its life, if it
/// is in the register and not revoked.
#[derive(Debug)]
struct Forgiving {
    inner: Arc<WebPkiServerVerifier>,
    journal: Arc<Journal>,
}

impl ServerCertVerifier for Forgiving {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let facts = facts(end_entity);
        let ended = facts.as_ref().and_then(|facts| u64::try_from(facts.not_after).ok());
        let is_known = |facts: &identity::Facts| {
            self.journal.knows_identity(&hex(&facts.serial), &facts.common_name).unwrap_or(false)
        };
        let at = match (facts.as_ref(), ended) {
            (Some(facts), Some(ended)) if ended < now.as_secs() && is_known(facts) => {
                UnixTime::since_unix_epoch(Duration::from_secs(ended))
            }
            _ => now,
        };
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Makes an identity whose key is made here, for carrying: files of `dir`.
///
/// # Errors
/// [`IdentityTrouble`].
pub fn make(
    home: &Home,
    journal: &Journal,
    dir: &StateDir,
    name: &str,
    now: SystemTime,
    life: Duration,
) -> Result<Registered, IdentityTrouble> {
    let registered = home.make_identity(dir, name, now, life)?;
    journal.keep_identity(&registered)?;
    Ok(registered)
}
