//! The listener behind every control endpoint: HTTP/1.1, small and bounded.
//!
//! Three doors lead to one handler: TCP with mutual TLS (roles by certificate), TCP in the clear where the
//! node has no identity (anonymous), and a Unix socket (file permissions). Bodies are read whole before the
//! handler runs, within named limits, and only for callers that may send one. Nothing here knows an
//! endpoint. The controller's API is served by the same code.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
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

/// The TLS configuration of now: replaced when the identity is renewed; empty without an identity.
pub type SharedTls = Arc<ArcSwapOption<ServerConfig>>;

/// Serves one handler over any number of doors, within one set of limits. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    handler: Handler,
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
            metrics,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            large_bodies: Arc::new(Semaphore::new(1)),
        }
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
                        None => server.connection(stream, Role::Anonymous).await,
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
        if UnixStream::connect(path).await.is_ok() {
            return Err(OpenError::Shared(path.to_path_buf()));
        }
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
                    server.connection(stream, Role::Local).await;
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
        let name = leaf.and_then(|leaf| identity::common_name_of(leaf));
        // A certificate of our CA that names no role may do as little as anybody.
        let role = name.as_deref().and_then(Role::from_common_name).unwrap_or(Role::Anonymous);
        self.connection(stream, role).await;
    }

    async fn connection<S>(&self, stream: S, role: Role)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| {
            let (server, role) = (self.clone(), role.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, role).await) }
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

    async fn answer(&self, request: Request<Incoming>, role: Role) -> Response<Full<Bytes>> {
        let head_only = request.method() == Method::HEAD;
        let response = match self.read(request, role).await {
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
    async fn read(&self, request: Request<Incoming>, role: Role) -> Result<ControlRequest, ControlResponse> {
        let (head, body) = request.into_parts();
        // HEAD is GET to handlers; the answer's body is dropped on the way out.
        let method = if head.method == Method::HEAD { Method::GET } else { head.method };
        if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&method) {
            return Err(ControlResponse::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "use GET, POST, PUT or DELETE",
            ));
        }
        if method != Method::GET && role == Role::Anonymous {
            return Err(ControlResponse::error(
                StatusCode::FORBIDDEN,
                "changes need a client certificate of the fleet, or the control socket in the state directory",
            ));
        }
        let body = self.body(&head.headers, body).await?;
        let query = parse_query(head.uri.query().unwrap_or(""));
        Ok(ControlRequest { role, method, path: head.uri.path().to_owned(), query, body })
    }

    async fn body(&self, headers: &http::HeaderMap, body: Incoming) -> Result<Bytes, ControlResponse> {
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let large = chunked || declared.is_some_and(|bytes| bytes > BODY_BYTES_SMALL as u64);
        let too_large = || {
            let message = format!("the body is larger than {BODY_BYTES_MAX} bytes");
            ControlResponse::error(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        if declared.is_some_and(|bytes| bytes > BODY_BYTES_MAX as u64) {
            return Err(too_large());
        }
        let read = async {
            let _one_at_a_time = match large {
                true => Some(self.large_bodies.acquire().await),
                false => None,
            };
            Limited::new(body, BODY_BYTES_MAX).collect().await
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
    out
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
