//! Renews this node's identity and takes home's list of revoked ones.
//!
//! The key of a renewed identity is made here and leaves the node never: home asks for a signing request (`GET
//! /v1/identity/csr`), signs it with the fleet's CA, and puts the certificate (`PUT /v1/identity/certificate`). It is taken if
//! the CA has signed it for that very key and this node's name; then key and certificate are written as one file, so that no crash
//! leaves half of them, beside what was there before, which still serves if the new file is damaged. Revoked
//! identities come as a certificate revocation list (RFC 5280 section 5) of the CA, numbered; the number never falls.
//!
//! Who may ask is the routes' business.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::StatusCode;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use crate::{
    control::ControlResponse,
    enrolled::Enrolment,
    identity::{self, RevokedList},
    state::{StateDir, StateError},
    tls::Credentials,
};

/// The key of the identity to come, until its certificate is here.
const NEXT_KEY: &str = "next.key";
/// A key or a certificate.
const PEM_BYTES_MAX: usize = 64 << 10;

/// Body of the answer to `GET /v1/identity/csr`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Csr {
    /// PKCS#10 as PEM.
    pub csr: String,
}

/// Renews.
#[derive(Debug)]
pub struct Renewal {
    node: String,
    state: Option<StateDir>,
    enrolment: Arc<Enrolment>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("this node has no identity to renew")]
    NotEnrolled,
    #[error("no signing request was made: GET /v1/identity/csr first")]
    NoRequest,
    #[error("{0}")]
    Bad(String),
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<NotTaken> for ControlResponse {
    fn from(error: NotTaken) -> Self {
        let status = match &error {
            NotTaken::NotEnrolled | NotTaken::NoRequest => StatusCode::CONFLICT,
            NotTaken::Bad(_) => StatusCode::UNPROCESSABLE_ENTITY,
            NotTaken::State(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        Self::error(status, error)
    }
}

impl Renewal {
    /// For a node.
    pub fn new(node: &str, state: Option<StateDir>, enrolment: Arc<Enrolment>) -> Self {
        Self { node: node.to_owned(), state, enrolment, changing: tokio::sync::Mutex::default() }
    }

    /// A signing request for a key that is made here; the same key until its certificate has come.
    pub async fn csr(&self) -> ControlResponse {
        let _one = self.changing.lock().await;
        match self.make_csr() {
            Ok(csr) => ControlResponse::ok(&Csr { csr }),
            Err(error) => error.into(),
        }
    }

    /// Takes the certificate for the key of the last signing request.
    pub async fn certificate(&self, body: Bytes) -> ControlResponse {
        let _one = self.changing.lock().await;
        match self.take_certificate(&body) {
            Ok(not_after) => {
                self.enrolment.read_identity();
                ControlResponse::ok(&serde_json::json!({ "not_after": not_after }))
            }
            Err(error) => error.into(),
        }
    }

    /// Takes a list of revoked identities.
    pub async fn revoked(&self, body: Bytes) -> ControlResponse {
        let _one = self.changing.lock().await;
        match self.take_revoked(&body) {
            Ok(number) => {
                self.enrolment.read_identity();
                ControlResponse::ok(&serde_json::json!({ "number": number }))
            }
            Err(error) => error.into(),
        }
    }

    /// The list that is in force, as it came.
    pub fn revoked_list(&self) -> ControlResponse {
        let list = self.enrolment.identity().and_then(|identity| identity.revoked.clone());
        match list {
            Some(list) => ControlResponse::new(StatusCode::OK, "application/pkix-crl", list.der.to_vec()),
            None => ControlResponse::error(StatusCode::NOT_FOUND, "no list of revoked identities came yet"),
        }
    }

    fn state(&self) -> Result<StateDir, NotTaken> {
        self.enrolment.identity().ok_or(NotTaken::NotEnrolled)?;
        let state = self.state.as_ref().ok_or(NotTaken::NotEnrolled)?;
        Ok(state.subdir(identity::DIR)?)
    }

    fn make_csr(&self) -> Result<String, NotTaken> {
        let bad = |error: rcgen::Error| NotTaken::Bad(error.to_string());
        let state = self.state()?;
        let kept = state.read(NEXT_KEY, PEM_BYTES_MAX as u64)?;
        let kept = kept.and_then(|pem| KeyPair::from_pem(&String::from_utf8(pem).ok()?).ok());
        let key = match kept {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().map_err(bad)?;
                state.write(NEXT_KEY, key.serialize_pem().as_bytes())?;
                key
            }
        };
        // The name is for people: home signs the key for the node it dialed, whatever is written here.
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(bad)?;
        params.distinguished_name.push(DnType::CommonName, format!("node:{}", self.node));
        params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(bad)
    }

    fn take_certificate(&self, body: &[u8]) -> Result<i64, NotTaken> {
        let bad = |reason: String| NotTaken::Bad(reason);
        let state = self.state()?;
        let key = state.read(NEXT_KEY, PEM_BYTES_MAX as u64)?.ok_or(NotTaken::NoRequest)?;
        if body.len() > PEM_BYTES_MAX {
            return Err(bad(format!("more than {PEM_BYTES_MAX} bytes")));
        }
        let present = self.enrolment.identity().ok_or(NotTaken::NotEnrolled)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(body)
            .collect::<Result<_, _>>()
            .map_err(|error| bad(format!("the body is no certificate as PEM: {error}")))?;
        let leaf = chain.first().ok_or_else(|| bad("the body holds no certificate".to_owned()))?;
        let named = identity::facts(leaf).ok_or_else(|| bad("the certificate has no name".to_owned()))?;
        if named.common_name != format!("node:{}", self.node) {
            return Err(bad(format!("the certificate is {}'s, this is {}", named.common_name, self.node)));
        }
        let not_after = named.not_after;
        let private = PrivateKeyDer::from_pem_slice(&key).map_err(|error| bad(error.to_string()))?;
        let credentials = Credentials {
            chain: chain.clone(),
            key: private,
            roots: Arc::clone(&present.credentials.roots),
            revoked: present.credentials.revoked.clone(),
            path: state.path(identity::RENEWED),
        };
        // Key and certificate fit, and every other side would take it.
        credentials.server_config().map_err(|error| bad(error.to_string()))?;
        let verifier = credentials.client_verifier().map_err(|error| bad(error.to_string()))?;
        verifier
            .verify_client_cert(leaf, &chain[1..], now())
            .map_err(|error| bad(format!("the certificate is not good here: {error}")))?;
        let both = [key.as_slice(), b"\n", body].concat();
        if let Some(last) = state.read(identity::RENEWED, 2 * PEM_BYTES_MAX as u64)? {
            state.write(identity::PREVIOUS, &last)?;
        }
        state.write(identity::RENEWED, &both)?;
        state.remove(NEXT_KEY)?;
        tracing::info!(not_after, "the identity was renewed");
        Ok(not_after)
    }

    fn take_revoked(&self, body: &[u8]) -> Result<u64, NotTaken> {
        let state = self.state()?;
        let list = RevokedList::parse(body).map_err(NotTaken::Bad)?;
        let present = self.enrolment.identity().ok_or(NotTaken::NotEnrolled)?;
        list.verify(&present.credentials, now()).map_err(NotTaken::Bad)?;
        let has = present.revoked.as_ref().map_or(0, |list| list.number);
        if list.number < has {
            return Err(NotTaken::Bad(format!("list {} is older than {has}, which is here", list.number)));
        }
        state.write(identity::REVOKED, body)?;
        tracing::info!(
            number = list.number,
            revoked = list.serials.len(),
            "took the list of revoked identities"
        );
        Ok(list.number)
    }
}

fn now() -> rustls::pki_types::UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rustls::pki_types::UnixTime::since_unix_epoch(since)
}

/// What every caller's certificate must not be on.
pub fn judge(enrolment: Arc<Enrolment>) -> crate::control::server::Judge {
    Arc::new(move |shown| {
        let revoked = enrolment.identity().and_then(|identity| identity.revoked.clone());
        if revoked.is_some_and(|list| list.serials.contains(&shown.serial)) {
            // The handshake refuses new connections; this ends those that were open.
            return Err(ControlResponse::error(StatusCode::FORBIDDEN, "this identity was revoked"));
        }
        Ok(shown.by_certificate())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::CertificateSigningRequestParams;

    use super::*;
    use crate::test_identities::Ca;

    struct Node {
        _temp: tempfile::TempDir,
        state: StateDir,
        enrolment: Arc<Enrolment>,
        renewal: Renewal,
    }

    fn node(ca: &Ca) -> Node {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        ca.write_identity(&state.path(identity::DIR), "node:fra");
        let enrolment = Arc::new(Enrolment::new("fra", Some(state.clone())));
        let renewal = Renewal::new("fra", Some(state.clone()), Arc::clone(&enrolment));
        Node { _temp: temp, state, enrolment, renewal }
    }

    async fn csr(node: &Node) -> String {
        serde_json::from_slice::<Csr>(&node.renewal.csr().await.body).unwrap().csr
    }

    #[tokio::test]
    async fn a_certificate_for_our_key_is_taken_and_survives_damage() {
        crate::tls::install_provider();
        let ca = Ca::new();
        let node = node(&ca);
        let first = node.enrolment.identity().unwrap();
        assert!(!first.made_here);
        let request = csr(&node).await;
        let key = |pem: &str| CertificateSigningRequestParams::from_pem(pem).unwrap().public_key;
        assert_eq!(key(&csr(&node).await), key(&request), "the key is kept until its certificate is here");
        let taken = node.renewal.certificate(ca.sign(&request, "node:fra").into()).await;
        assert_eq!(taken.status, StatusCode::OK, "{taken:?}");
        let second = node.enrolment.identity().unwrap();
        assert!(second.made_here && second.credentials.chain != first.credentials.chain);
        // The next one, and then its file is damaged: the one before serves.
        let taken = node.renewal.certificate(ca.sign(&csr(&node).await, "node:fra").into()).await;
        assert_eq!(taken.status, StatusCode::OK, "{taken:?}");
        let third = node.enrolment.identity().unwrap();
        assert_ne!(third.credentials.chain, second.credentials.chain);
        fs::write(node.state.path(identity::DIR).join(identity::RENEWED), "half").unwrap();
        let again = Enrolment::new("fra", Some(node.state.clone()));
        assert_eq!(again.identity().unwrap().credentials.chain, second.credentials.chain);
    }

    #[tokio::test]
    async fn what_is_not_for_this_key_this_name_this_fleet_is_refused() {
        crate::tls::install_provider();
        let (ca, other) = (Ca::new(), Ca::new());
        let node = node(&ca);
        let early = node.renewal.certificate("x".into()).await;
        assert_eq!(early.status, StatusCode::CONFLICT, "nobody asked yet");
        let request = csr(&node).await;
        let stranger = KeyPair::generate().unwrap();
        let foreign = CertificateParams::new(Vec::<String>::new()).unwrap();
        let foreign = foreign.serialize_request(&stranger).unwrap().pem().unwrap();
        for body in [
            other.sign(&request, "node:fra"),
            ca.sign(&request, "node:nyc"),
            ca.sign(&request, "controller"),
            ca.sign(&foreign, "node:fra"),
            "no PEM".to_owned(),
            String::new(),
        ] {
            let answer = node.renewal.certificate(body.into()).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
        }
        assert!(!node.enrolment.identity().unwrap().made_here);
    }

    #[tokio::test]
    async fn a_revoked_identity_is_refused_by_servers_clients_and_on_open_connections() {
        crate::tls::install_provider();
        let (ca, other) = (Ca::new(), Ca::new());
        let node = node(&ca);
        let temp = tempfile::tempdir().unwrap();
        ca.write_identity(temp.path(), "node:nyc");
        let stolen = crate::identity::Identity::read(temp.path()).unwrap();
        let leaf = &stolen.credentials.chain[0];
        let good = |node: &Node| {
            let identity = node.enrolment.identity().unwrap();
            identity.credentials.client_verifier().unwrap().verify_client_cert(leaf, &[], now()).is_ok()
        };
        assert!(good(&node));
        let serial = identity::facts(leaf).unwrap().serial;
        let shown = crate::control::server::Shown {
            common_name: Some("node:nyc".into()),
            serial: serial.clone(),
            ..Default::default()
        };
        let judge = judge(Arc::clone(&node.enrolment));
        assert!(judge(&shown).is_ok());
        for forged in [other.revoke(9, &[&serial]), b"no list".to_vec()] {
            let answer = node.renewal.revoked(forged.into()).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
        }
        let taken = node.renewal.revoked(ca.revoke(2, &[&serial]).into()).await;
        assert_eq!(taken.status, StatusCode::OK, "{taken:?}");
        assert!(!good(&node));
        assert_eq!(judge(&shown).unwrap_err().status, StatusCode::FORBIDDEN);
        let older = node.renewal.revoked(ca.revoke(1, &[]).into()).await;
        assert_eq!(older.status, StatusCode::UNPROCESSABLE_ENTITY, "the number never falls");
        assert!(!good(&node));
        let again = Enrolment::new("fra", Some(node.state.clone()));
        assert_eq!(again.identity().unwrap().revoked.as_ref().unwrap().number, 2, "it is kept");
    }
}
