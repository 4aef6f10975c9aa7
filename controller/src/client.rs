//! Asks a node, or the controller, over mutual TLS.
//!
//! One connection carries one exchange after another: HTTP/1.1, TLS 1.3, the fleet's CA on both sides. Every
//! wait is bounded. It does not retry; whoever asks knows whether asking twice is safe.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nearside_node::tls;
use rustls::{ClientConfig, pki_types::CertificateDer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// For TCP and TLS together: twice round the world over a bad line, and some.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer taken: a report of thousands of names, or an explanation.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody there, or not in time.
    #[error("{address}: {reason}")]
    Unreachable {
        /// Who was dialed.
        address: SocketAddr,
        /// What the system or TLS says.
        reason: String,
    },
    /// An answer, but not the one hoped for.
    #[error("{address} answered {status}: {message}")]
    Status {
        /// Who answered.
        address: SocketAddr,
        /// The status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// An answer that can't be read.
    #[error("{address}: the answer can't be read: {reason}")]
    Answer {
        /// Who answered.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// Who is asked, and who asks.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name; its certificate must be this node's.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Our identity.
    pub tls: SharedClient,
}

/// What we show and believe as a client; swapped when our identity is renewed or somebody's is revoked. Counts for the next
/// connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedClient(Arc<ArcSwap<ClientConfig>>);

impl SharedClient {
    /// Of a configuration.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    /// Replaces it.
    pub fn swap(&self, config: Arc<ClientConfig>) {
        self.0.store(config);
    }
}

/// An open connection to a [`Peer`].
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    send: SendRequest<Full<Bytes>>,
    /// The certificate that the peer has shown.
    pub leaf: Option<CertificateDer<'static>>,
    made_with: Arc<ClientConfig>,
}

/// A status and a body.
#[derive(Clone, Debug)]
pub struct Answer {
    address: SocketAddr,
    /// The status.
    pub status: StatusCode,
    /// The body, whole.
    pub body: Bytes,
}

impl Peer {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] after at most five seconds.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        let address = self.address;
        let failed = |reason: String| ClientError::Unreachable { address, reason };
        let made_with = self.tls.0.load_full();
        let opening = async {
            let name = tls::server_name(&self.name)
                .ok_or_else(|| format!("{} can't be in a certificate", self.name))?;
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let connector = TlsConnector::from(Arc::clone(&made_with));
            let stream = connector.connect(name, stream).await.map_err(|error| words(&error))?;
            let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let leaf = leaf.map(|leaf| leaf.clone().into_owned());
            let opened = http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
            Ok((opened, leaf))
        };
        let ((send, connection), leaf) = match timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => opened.map_err(failed)?,
            Err(_elapsed) => return Err(failed(format!("no connection within {CONNECT_TIMEOUT:?}"))),
        };
        // Ends when `send` is dropped or the peer closes; what went wrong is told to whoever waits on `send`.
        tokio::spawn(async move {
            let _told_elsewhere = connection.await;
        });
        Ok(Connection { address, send, leaf, made_with })
    }

    /// Whether a connection was made with what we show and believe now: the other side may have been revoked since.
    pub fn stands_by(&self, connection: &Connection) -> bool {
        Arc::ptr_eq(&self.tls.0.load(), &connection.made_with)
    }

    /// Connects and asks once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer, ClientError> {
        self.connect().await?.ask(method, path, body, within).await
    }

    /// Connects and gets JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str, within: Duration) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new(), within).await?.good()?.json()
    }
}

impl Connection {
    /// Asks and waits for the whole answer.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if the connection fails or `within` passes.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer, ClientError> {
        let address = self.address;
        let failed = |reason: String| ClientError::Unreachable { address, reason };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "nearside")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| failed(error.to_string()))?;
        let asking = async {
            self.send.ready().await.map_err(|error| words(&error))?;
            let response = self.send.send_request(request).await.map_err(|error| words(&error))?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>(Answer { address, status: head.status, body: body.to_bytes() })
        };
        match timeout(within, asking).await {
            Ok(answered) => answered.map_err(failed),
            Err(_elapsed) => Err(failed(format!("no answer within {within:?}"))),
        }
    }
}

impl Answer {
    /// This answer, if its status is a success.
    ///
    /// # Errors
    /// [`ClientError::Status`] with what the peer said.
    pub fn good(self) -> Result<Self, ClientError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let (address, status) = (self.address, self.status.as_u16());
        Err(ClientError::Status { address, status, message: self.message() })
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`ClientError::Answer`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        let failed = |error: serde_json::Error| ClientError::Answer {
            address: self.address,
            reason: error.to_string(),
        };
        serde_json::from_slice(&self.body).map_err(failed)
    }

    /// What an error says: `error` or `reasons` of its JSON, else its text.
    pub fn message(&self) -> String {
        let parsed: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let field = |name: &str| parsed.as_ref()?.get(name).cloned();
        if let Some(serde_json::Value::String(error)) = field("error").or_else(|| field("reason")) {
            return error;
        }
        if let Some(serde_json::Value::Array(reasons)) = field("reasons") {
            let lines: Vec<&str> = reasons.iter().filter_map(|reason| reason.as_str()).collect();
            return lines.join("\n");
        }
        String::from_utf8_lossy(&self.body).trim().chars().take(500).collect()
    }
}

/// An error with what led to it. The two ends of TLS judge each other's certificate by a clock of their own; neither
/// says which one is wrong.
fn words(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !out.contains(&text) {
            out += &format!(": {text}");
        }
        cause = error.source();
    }
    let by_clock = ["CertificateExpired", "certificate expired", "not valid yet"];
    if by_clock.iter().any(|sign| out.contains(sign)) {
        out += " (is a clock wrong, at home or there? Else the identity has ended)";
    }
    out
}

/// Something as a JSON body.
pub fn json(value: &impl Serialize) -> Bytes {
    // Our own types: maps have string keys and nothing refuses to be written.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}
