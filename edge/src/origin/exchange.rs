//! One exchange with one origin: a connection, a request, a response head, and the body still to come.
//!
//! [`Origin::fetch`] sends one request and returns the response head with its body still to come.
//! A request that may have reached the origin is never sent again, with one exception: a safe
//! request without a body, sent on a connection that had been idle and that closed before a single
//! byte of an answer, is sent once more on a fresh one. Closing an idle connection is the origin's
//! right (RFC 9112 section 9.3.1), and such a request changes nothing there.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use nearside_fleet::config;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    body::{FetchBody, SendBody},
    connect::{self, Target},
    error::FetchError,
    pool::{Connection, Lease, Pool, PoolStats, Reuse},
    storage::{self, Secret, SetupError, Storage},
    trust::Trust,
};

/// Header lines of a response at most.
const HEADERS_MAX: usize = 128;

/// Bytes of a response head at most, and of the read buffer. Larger heads are refused.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One origin and its connections.
pub struct Origin {
    settings: config::Origin,
    trust: Trust,
    target: Target,
    pool: Arc<Pool>,
    /// What turns requests into ones for objects, and the secret it was made with.
    storage: Option<(Storage, Secret)>,
}

impl Origin {
    /// An origin without connections yet. `secret` is the one that its storage's file holds.
    ///
    /// # Errors
    /// [`SetupError`] where what is said of storage makes no address.
    pub fn new(
        settings: config::Origin,
        trust: Trust,
        secret: Option<Secret>,
    ) -> Result<Arc<Self>, SetupError> {
        let storage = match (&settings.storage, secret) {
            (Some(storage), Some(secret)) => Some((Storage::new(&settings, storage, &secret)?, secret)),
            _ => None,
        };
        let tls = match settings.scheme {
            config::Scheme::Http => None,
            config::Scheme::Https => Some(trust.client_config()),
        };
        let target = Target { host: storage::host_of(&settings), port: settings.port, tls };
        let pool = Pool::new(settings.connections_max);
        Ok(Arc::new(Origin { settings, trust, target, pool, storage }))
    }

    /// Whether this origin, and its connections, still are what the configuration asks for.
    pub fn serves(&self, settings: &config::Origin, trust: &Trust, secret: Option<&Secret>) -> bool {
        let ours = self.storage.as_ref().map(|(_, secret)| secret);
        self.settings == *settings && self.trust == *trust && ours == secret
    }

    /// As configured.
    pub fn settings(&self) -> &config::Origin {
        &self.settings
    }

    /// For metrics: counters, and connections idle now.
    pub fn pool(&self) -> (&PoolStats, usize) {
        (&self.pool.stats, self.pool.idle_count())
    }

    /// Sends `request`, whose target is in origin form and whose `Host` is set.
    ///
    /// Not resumable: dropped midway it closes the connection it used.
    ///
    /// # Errors
    /// Every [`FetchError`]; errors of the body come from the body.
    pub async fn fetch(&self, request: Request<SendBody>) -> Result<Response<FetchBody>, FetchError> {
        let Some((storage, _)) = &self.storage else { return self.send(request).await };
        let response = self.send(storage.prepare(request).await?).await?;
        Ok(storage.clean(response).await?)
    }

    async fn send(&self, request: Request<SendBody>) -> Result<Response<FetchBody>, FetchError> {
        let slot = self.pool.slot(self.settings.connect_timeout).await?;
        let repeatable = request.method().is_safe() && request.body().is_empty();
        let reuse = if repeatable { Reuse::Any } else { Reuse::Fresh };
        // A tunnel never gives its connection back, and an origin may treat the first request of a
        // connection differently: take a new one.
        let wants_upgrade = request.headers().contains_key(http::header::UPGRADE);
        let idle = if wants_upgrade { None } else { self.pool.take(reuse).await };
        let Some(connection) = idle else {
            let connection = self.open().await?;
            return self.exchange(connection, request, slot).await.map_err(|failed| failed.error);
        };
        self.pool.stats.reused.fetch_add(1, Ordering::Relaxed);
        let copy = repeatable.then(|| copy_of(&request));
        match self.exchange(connection, request, slot).await {
            Ok(response) => Ok(response),
            Err(Failed { error: FetchError::Closed(_), slot, answered: false }) if copy.is_some() => {
                let Some(copy) = copy else { unreachable!("checked by the guard") };
                self.pool.stats.retried.fetch_add(1, Ordering::Relaxed);
                let connection = self.open().await?;
                self.exchange(connection, copy, slot).await.map_err(|failed| failed.error)
            }
            Err(failed) => Err(failed.error),
        }
    }

    async fn open(&self) -> Result<Connection, FetchError> {
        let limit = self.settings.connect_timeout;
        let opened = tokio::time::timeout(limit, async {
            let (stream, wire) = connect::connect(&self.target).await?;
            let (sender, connection) = http1::Builder::new()
                .max_headers(HEADERS_MAX)
                .max_header_size(HEAD_BYTES_MAX)
                .max_buf_size(HEAD_BYTES_MAX)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| FetchError::Closed(Arc::new(error)))?;
            // Ends when the sender is dropped or the origin closes. Its errors reach whoever waits
            // for the response; on an idle connection there is nobody to tell.
            tokio::spawn(connection.with_upgrades());
            Ok(Connection::new(sender, wire))
        })
        .await
        .unwrap_or(Err(FetchError::ConnectTimeout(limit)));
        let counter = match opened {
            Ok(_) => &self.pool.stats.opened,
            Err(_) => &self.pool.stats.connect_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        opened
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<SendBody>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Response<FetchBody>, Failed> {
        let sent = request.body().sent();
        let reusable = sent.is_none();
        connection.wire.expect_head();
        let response = connection.sender.send_request(request);
        let error = match self.first_byte(response, sent).await {
            Ok(response) => {
                let between = self.settings.between_bytes_timeout;
                let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                return Ok(response.map(|incoming| {
                    let lease = Lease::new(self.pool.clone(), connection, reusable, slot);
                    if switched {
                        FetchBody::tunnel(incoming, between, lease)
                    } else {
                        FetchBody::new(incoming, between, lease)
                    }
                }));
            }
            Err(error) => error,
        };
        Err(Failed { error, slot, answered: connection.wire.answered() })
    }

    /// Waits for the response head. While the client's body is still moving the clock starts again.
    async fn first_byte(
        &self,
        response: impl Future<Output = hyper::Result<Response<Incoming>>>,
        sent: Option<Arc<AtomicU64>>,
    ) -> Result<Response<Incoming>, FetchError> {
        let limit = self.settings.first_byte_timeout;
        let mut response = pin!(response);
        let mut seen = 0;
        loop {
            match tokio::time::timeout_at(Instant::now() + limit, response.as_mut()).await {
                Ok(result) => return result.map_err(FetchError::from_send),
                Err(_) => {
                    let now = sent.as_ref().map_or(0, |sent| sent.load(Ordering::Relaxed));
                    if now == seen {
                        return Err(FetchError::FirstByteTimeout(limit));
                    }
                    seen = now;
                }
            }
        }
    }

    /// The longest a fetch may take to its response head, everything included.
    pub fn head_deadline(&self) -> Duration {
        self.settings.connect_timeout * 2 + self.settings.first_byte_timeout
    }
}

/// An exchange without a response; the slot may serve a second attempt.
struct Failed {
    error: FetchError,
    slot: OwnedSemaphorePermit,
    answered: bool,
}

fn copy_of(request: &Request<SendBody>) -> Request<SendBody> {
    let mut copy = Request::new(SendBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    // Whoever listens for interim answers goes on listening.
    *copy.extensions_mut() = request.extensions().clone();
    copy
}
