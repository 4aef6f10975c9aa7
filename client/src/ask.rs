//! One question to the controller: `GET /v1/route` over TLS under the fleet's CA.
//!
//! A connection per question: answers are kept, so questions are rare, and nothing has to be held open or found dead.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Credentials, Settings, SetupError, State};

/// The name in the controller's certificate, wherever it listens.
const SERVER_NAME: &str = "controller.node.nearside.internal";
/// Largest answer read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What the controller says.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// The PoP.
    pub pop: String,
    /// The URL there.
    pub url: Option<String>,
    /// Whether it is cached there.
    pub cached: Option<Cached>,
}

/// See [`Answer`].
#[derive(Debug, Deserialize)]
pub struct Cached {
    /// Whether it is.
    pub state: State,
}

/// Asks.
pub struct Asker {
    controller: String,
    tls: TlsConnector,
    token: Option<String>,
}

impl Asker {
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let pem = |what: &str| SetupError::Pem(format!("{what} can't be read"));
        let certificates = |pem_text: &[u8], what: &str| {
            CertificateDer::pem_slice_iter(pem_text).collect::<Result<Vec<_>, _>>().map_err(|_| pem(what))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&settings.ca, "the CA")? {
            roots.add(certificate)?;
        }
        if roots.is_empty() {
            return Err(SetupError::Pem("the CA holds no certificate".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let (config, token) = match &settings.credentials {
            Credentials::Token(token) => (builder.with_no_client_auth(), Some(token.clone())),
            Credentials::Certificate { chain, key } => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| pem("the key"))?;
                (builder.with_client_auth_cert(certificates(chain, "the chain")?, key)?, None)
            }
        };
        let (controller, tls) = (settings.controller.clone(), TlsConnector::from(Arc::new(config)));
        Ok(Self { controller, tls, token })
    }

    /// The PoP for a user, and whether it holds what is wanted; it fetches what it does not hold.
    pub async fn ask(&self, name: &str, user: IpAddr, wanted: &str) -> Result<Answer, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let path = format!("/v1/route?name={}&client={user}&url={}&fetch=1", encode(name), encode(wanted));
        let mut request = Request::get(path).header(header::HOST, SERVER_NAME);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| words(&error))?;
        let stream = TcpStream::connect(&self.controller).await.map_err(|error| words(&error))?;
        let server = ServerName::try_from(SERVER_NAME).map_err(|error| words(&error))?;
        let stream = self.tls.connect(server, stream).await.map_err(|error| words(&error))?;
        let (mut send, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
        // Ends when `send` is dropped; what went wrong is told to whoever waits on that.
        tokio::spawn(async move {
            let _told_elsewhere = connection.await;
        });
        let response = send.send_request(request).await.map_err(|error| words(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| words(&error))?;
        let body = body.to_bytes();
        if !head.status.is_success() {
            let said: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
            return Err(format!("answered {}: {said}", head.status));
        }
        serde_json::from_slice(&body).map_err(|error| format!("the answer can't be read: {error}"))
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
