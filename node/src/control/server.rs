//! The listener behind every control endpoint: HTTP/1.1, small and bounded.
//!
//! Three doors lead to one handler: TCP with mutual TLS (roles by certificate), TCP in the clear where the
//! node has no identity (anonymous), and a Unix socket (file permissions). Bodies are read whole before the
//! handler runs, within named limits, and only for callers that may send one. Nothing here knows an
//! endpoint. The controller's API is served by the same code.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{ControlRequest, ControlResponse, Role};
use crate::{identity, metrics::NodeMetrics};

/// Largest body of a control request: a city database in a snapshot (GeoLite2-City is 60 MB) and room.
pub const BODY_BYTES_MAX: usize = 256 << 20;

/// Bodies up to this are read freely; larger ones one at a time, so that memory is bounded by
/// `BODY_BYTES_MAX + CONNECTIONS_MAX × BODY_BYTES_SMALL`.
pub const BODY_BYTES_SMALL: usize = 1 << 20;

/// Largest body of a caller with a token: a thousand URLs of the greatest length.
pub const TOKEN_BODY_BYTES_MAX: usize = 16 << 20;

/// Connections at once over all doors of a listener. Home, operators and a scraper need a handful.
pub const CONNECTIONS_MAX: usize = 128;

/// Request line and headers together.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// From the first byte of a request (or the accept) to the end of its head; idle keep-alive ends here too.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// For a TLS handshake: post-quantum over a bad line takes a second, not five.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole body: 256 MiB in five minutes is 7 Mbit/s, a slow home uplink.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// For the handler. A purge over a whole fleet and a staging of a city database both fit.
pub const HANDLER_TIMEOUT: Duration = Duration::from_secs(120);

/// After a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers requests.
pub type Handler = Arc<dyn Fn(ControlRequest) -> Answering + Send + Sync>;

/// An answer being made.
pub type Answering = Pin<Box<dyn Future<Output = ControlResponse> + Send>>;

/// Makes a [`Handler`] of an async function.
pub fn handler<F, R>(answer: F) -> Handler
where
    F: Fn(ControlRequest) -> R + Send + Sync + 'static,
    R: Future<Output = ControlResponse> + Send + 'static,
{
    Arc::new(move |request| Box::pin(answer(request)))
}

/// What a caller shows of itself.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Common name of its certificate, which the fleet's CA has signed.
    pub common_name: Option<String>,
    /// Serial number of that certificate.
    pub serial: Vec<u8>,
    /// `Authorization: Bearer …`.
    pub bearer: Option<String>,
    /// Its address, over TCP.
    pub from: Option<IpAddr>,
    /// Through the Unix socket.
    pub local: bool,
}

impl Shown {
    /// Role and name of who shows a certificate, or came through the socket. A certificate of our CA that names no
    /// role may do as little as anybody.
    pub fn by_certificate(&self) -> (Role, String) {
        if self.local {
            return (Role::Local, "local".to_owned());
        }
        let role = self.common_name.as_deref().and_then(|name| Some((Role::from_common_name(name)?, name)));
        match role {
            Some((role, name)) => (role, name.to_owned()),
            None => (Role::Anonymous, "anonymous".to_owned()),
        }
    }
}

/// Says of each request who asks: the role and the name for the audit log, or the refusal.
pub type Judge = Arc<dyn Fn(&Shown) -> Result<(Role, String), ControlResponse> + Send + Sync>;

/// The TLS configuration of now: replaced when the identity is renewed; empty without an identity.
pub type SharedTls = Arc<ArcSwapOption<ServerConfig>>;

/// Serves one handler over any number of doors, within one set of limits. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    handler: Handler,
    judge: Judge,
    metrics: NodeMetrics,
    connections: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("control::Server")
    }
}

/// Why a door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address or path could not be bound.
    #[error("{0}")]
    Bind(String),
    /// Somebody answers on the Unix socket already.
    #[error("{0}: another process answers there: two nodes can't share a state directory")]
    Shared(PathBuf),
}

impl Server {
    /// A server of `handler`; counts into `metrics`.
    pub fn new(handler: Handler, metrics: NodeMetrics) -> Self {
        Self {
            handler,
            judge: Arc::new(|shown| Ok(shown.by_certificate())),
            metrics,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            large_bodies: Arc::new(Semaphore::new(1)),
        }
    }

    /// The same, with callers judged by `judge` instead of by their certificates alone.
    #[must_use]
    pub fn judged_by(self, judge: Judge) -> Self {
        Self { judge, ..self }
    }

    /// Opens a TCP door: mutual TLS while `tls` holds a configuration, else plain and anonymous. Returns
    /// the address bound and the accept loop, which never ends by itself.
    ///
    /// # Errors
    /// [`OpenError::Bind`], with advice.
    pub async fn tcp(
        &self,
        address: SocketAddr,
        tls: SharedTls,
    ) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), OpenError> {
        let failed = |error: io::Error| OpenError::Bind(crate::bind::explain("control", address, &error));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let server = self.clone();
        Ok((bound, async move {
            loop {
                let permit = server.permit().await;
                let Some((stream, peer)) = accepted(listener.accept().await).await else { continue };
                let _slow_is_fine = stream.set_nodelay(true);
                let (server, tls) = (server.clone(), tls.load_full());
                tokio::spawn(async move {
                    match tls {
                        Some(config) => server.connection_tls(stream, peer, config).await,
                        None => {
                            let shown = Shown { from: Some(peer.ip()), ..Shown::default() };
                            server.connection(stream, shown).await;
                        }
                    }
                    drop(permit);
                });
            }
        }))
    }

    /// Opens the Unix door (mode 0600). A stale socket file is replaced, a live one is an error.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn unix(&self, path: &Path) -> Result<impl Future<Output = ()> + Send + 'static, OpenError> {
        not_shared(path).await?;
        let failed =
            |error: io::Error| OpenError::Bind(format!("can't listen on {}: {error}", path.display()));
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // The directory is 0700 already, so there is no moment in which others could connect.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let server = self.clone();
        Ok(async move {
            loop {
                let permit = server.permit().await;
                let Some((stream, _)) = accepted(listener.accept().await).await else { continue };
                let server = server.clone();
                tokio::spawn(async move {
                    server.connection(stream, Shown { local: true, ..Shown::default() }).await;
                    drop(permit);
                });
            }
        })
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so this is always `Some`.
        Arc::clone(&self.connections).acquire_owned().await.ok()
    }

    async fn connection_tls(
        &self,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        config: Arc<ServerConfig>,
    ) {
        let handshake = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.control_refused.inc();
                tracing::debug!(%peer, %error, "control handshake failed");
                return;
            }
            Err(_elapsed) => {
                self.metrics.control_refused.inc();
                return;
            }
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let mut shown = Shown { from: Some(peer.ip()), ..Shown::default() };
        if let Some(facts) = leaf.and_then(|leaf| identity::facts(leaf)) {
            (shown.common_name, shown.serial) = (Some(facts.common_name), facts.serial);
        }
        self.connection(stream, shown).await;
    }

    async fn connection<S>(&self, stream: S, shown: Shown)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| {
            let (server, shown) = (self.clone(), shown.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, shown).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "control connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>, shown: Shown) -> Response<Full<Bytes>> {
        let head_only = request.method() == Method::HEAD;
        let response = match self.read(request, shown).await {
            Ok(request) => {
                self.metrics.control_requests.inc();
                match timeout(HANDLER_TIMEOUT, (self.handler)(request)).await {
                    Ok(response) => response,
                    Err(_elapsed) => {
                        ControlResponse::error(StatusCode::GATEWAY_TIMEOUT, "gave up after 120 s")
                    }
                }
            }
            Err(response) => {
                self.metrics.control_refused.inc();
                response
            }
        };
        respond(response, head_only)
    }

    /// Reads a request whole. The error is the answer to give; hyper then closes where body is left.
    async fn read(
        &self,
        request: Request<Incoming>,
        mut shown: Shown,
    ) -> Result<ControlRequest, ControlResponse> {
        let (head, body) = request.into_parts();
        shown.bearer = bearer(&head.headers);
        let (role, who) = (self.judge)(&shown)?;
        // HEAD is GET to handlers; the answer's body is dropped on the way out.
        let method = if head.method == Method::HEAD { Method::GET } else { head.method };
        if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&method) {
            let refused =
                ControlResponse::error(StatusCode::METHOD_NOT_ALLOWED, "use GET, POST, PUT or DELETE");
            let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
            return Err(refused.with(header::ALLOW, methods));
        }
        if method != Method::GET && role == Role::Anonymous {
            return Err(ControlResponse::error(
                StatusCode::FORBIDDEN,
                "changes need a client certificate of the fleet, or the control socket in the state directory",
            ));
        }
        let bytes_max = if role.token().is_some() { TOKEN_BODY_BYTES_MAX } else { BODY_BYTES_MAX };
        let body = self.body(&head.headers, body, bytes_max).await?;
        let query = parse_query(head.uri.query().unwrap_or(""));
        let (path, from) = (head.uri.path().to_owned(), shown.from);
        Ok(ControlRequest { role, who, from, method, path, query, body })
    }

    async fn body(
        &self,
        headers: &http::HeaderMap,
        body: Incoming,
        bytes_max: usize,
    ) -> Result<Bytes, ControlResponse> {
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let large = chunked || declared.is_some_and(|bytes| bytes > BODY_BYTES_SMALL as u64);
        let too_large = || {
            let message = format!("the body is larger than {bytes_max} bytes");
            ControlResponse::error(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        if declared.is_some_and(|bytes| bytes > bytes_max as u64) {
            return Err(too_large());
        }
        let read = async {
            let _one_at_a_time = match large {
                true => Some(self.large_bodies.acquire().await),
                false => None,
            };
            Limited::new(body, bytes_max).collect().await
        };
        match timeout(BODY_TIMEOUT, read).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
            Ok(Err(error)) => Err(ControlResponse::error(StatusCode::BAD_REQUEST, error)),
            Err(_elapsed) => {
                Err(ControlResponse::error(StatusCode::REQUEST_TIMEOUT, "the body took too long"))
            }
        }
    }
}

/// Makes sure that nobody answers on a Unix socket: a second node on the same state directory would.
///
/// # Errors
/// [`OpenError::Shared`].
pub async fn not_shared(path: &Path) -> Result<(), OpenError> {
    match UnixStream::connect(path).await {
        Ok(_) => Err(OpenError::Shared(path.to_path_buf())),
        Err(_) => Ok(()),
    }
}

async fn accepted<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::debug!(%error, "control accept failed");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn respond(response: ControlResponse, head_only: bool) -> Response<Full<Bytes>> {
    let length = response.body.len();
    let body = if head_only { Bytes::new() } else { response.body };
    let mut out = Response::new(Full::new(body));
    *out.status_mut() = response.status;
    let headers = out.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(response.content_type));
    headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.extend(response.headers);
    out
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
fn bearer(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// `a=1&b=%20` → pairs, decoded; `+` is a space, as forms and curl's `--data-urlencode` write it.
fn parse_query(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http_body_util::BodyExt;
    use hyper::client::conn::http1 as client;
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{identity::Identity, test_identities::Ca, tls};

    /// Answers with who asked for what, and how long the body was.
    fn echo() -> Server {
        let handler = handler(|request: ControlRequest| async move {
            ControlResponse::ok(&serde_json::json!({
                "role": format!("{:?}", request.role),
                "path": request.path,
                "query": request.query,
                "bytes": request.body.len(),
            }))
        });
        Server::new(handler, NodeMetrics::default())
    }

    async fn ask<S>(stream: S, request: Request<Full<Bytes>>) -> (StatusCode, serde_json::Value)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn request(method: Method, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
        let builder = Request::builder().method(method).uri(path).header(header::HOST, "node");
        builder.body(Full::new(body.into())).unwrap()
    }

    async fn open(tls: SharedTls) -> (Server, SocketAddr) {
        let server = echo();
        let (address, serving) = server.tcp("127.0.0.1:0".parse().unwrap(), tls).await.unwrap();
        tokio::spawn(serving);
        (server, address)
    }

    async fn handshake(
        address: SocketAddr,
        identity: &Path,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let config = Identity::read(identity).unwrap().credentials.client_config().unwrap();
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(config).connect(tls::server_name("fra").unwrap(), stream).await
    }

    #[tokio::test]
    async fn a_plain_door_is_anonymous_and_reads_only() {
        let (server, address) = open(SharedTls::default()).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let (status, body) = ask(stream, request(Method::GET, "/v1/status?a=1%20x&b", Vec::new())).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["role"], "Anonymous");
        assert_eq!(body["query"], serde_json::json!([["a", "1 x"], ["b", ""]]));
        let stream = TcpStream::connect(address).await.unwrap();
        let (status, body) = ask(stream, request(Method::POST, "/v1/purges", Vec::new())).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(body["error"].as_str().unwrap().contains("client certificate"));
        assert_eq!(server.metrics.control_refused.get(), 1);
        assert_eq!(server.metrics.control_requests.get(), 1);
    }

    #[tokio::test]
    async fn certificates_give_roles_and_strangers_get_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let (ours, other) = (Ca::new(), Ca::new());
        ours.write_identity(&temp.path().join("fra"), "node:fra");
        ours.write_identity(&temp.path().join("home"), "controller");
        ours.write_identity(&temp.path().join("odd"), "somebody");
        other.write_identity(&temp.path().join("stranger"), "controller");
        // The stranger trusts us, we don't trust the stranger.
        std::fs::copy(temp.path().join("fra/ca.pem"), temp.path().join("stranger/ca.pem")).unwrap();
        let server_config =
            Identity::read(&temp.path().join("fra")).unwrap().credentials.server_config().unwrap();
        let tls = SharedTls::default();
        tls.store(Some(server_config));
        let (server, address) = open(tls).await;

        for (identity, role) in [("home", "Controller"), ("fra", "Node(\"fra\")"), ("odd", "Anonymous")] {
            let stream = handshake(address, &temp.path().join(identity)).await.unwrap();
            let (status, body) = ask(stream, request(Method::GET, "/", Vec::new())).await;
            assert_eq!((status, body["role"].as_str().unwrap()), (StatusCode::OK, role));
        }
        // In TLS 1.3 the client learns of its refusal with the first read.
        let refused = match handshake(address, &temp.path().join("stranger")).await {
            Err(_) => true,
            Ok(mut stream) => tokio::io::AsyncReadExt::read_u8(&mut stream).await.is_err(),
        };
        assert!(refused);
        crate::test_wait("the refusal is counted", || server.metrics.control_refused.get() == 1).await;
    }

    #[tokio::test]
    async fn a_new_identity_serves_the_next_connection() {
        let temp = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        ca.write_identity(&temp.path().join("fra"), "node:fra");
        let tls = SharedTls::default();
        let (_server, address) = open(Arc::clone(&tls)).await;
        assert!(handshake(address, &temp.path().join("fra")).await.is_err(), "the door is plain");
        let config = Identity::read(&temp.path().join("fra")).unwrap().credentials.server_config().unwrap();
        tls.store(Some(config));
        assert!(handshake(address, &temp.path().join("fra")).await.is_ok());
    }

    #[tokio::test]
    async fn the_unix_door_is_local_private_and_not_shared() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("control.sock");
        // A socket file that nobody listens on any more.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let server = echo();
        let serving = tokio::spawn(server.unix(&path).await.unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let stream = UnixStream::connect(&path).await.unwrap();
        let (status, body) = ask(stream, request(Method::PUT, "/v1/files/x", vec![0; 2 << 20])).await;
        assert_eq!((status, body["bytes"].as_u64()), (StatusCode::OK, Some(2 << 20)));
        assert_eq!(body["role"], "Local");
        assert!(matches!(server.unix(&path).await, Err(OpenError::Shared(_))));
        serving.abort();
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_before_it_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("control.sock");
        tokio::spawn(echo().unix(&path).await.unwrap());
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let head = format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", BODY_BYTES_MAX + 1);
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }

    #[tokio::test]
    async fn a_taken_port_says_so() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let result = echo().tcp(taken.local_addr().unwrap(), SharedTls::default()).await;
        let Err(error) = result else { panic!("the port is taken") };
        assert!(error.to_string().contains("another program has it"), "{error}");
    }
}
