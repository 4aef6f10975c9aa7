//! One exchange with one origin: a connection, a request, a response head, and the body still to come.
//!
//! A request that may have reached the origin is never sent again, with two exceptions. A safe
//! request without a body, sent on a connection that had been used before and that closed before a single
//! byte of an answer, is sent once more on a fresh one: closing an idle connection is the origin's
//! right (RFC 9112 section 9.3.1), and such a request changes nothing there. And a request of which an HTTP/2 origin says
//! that it did nothing about it. Both within a budget.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::Either;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use nearside_fleet::config::{self, Http2};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    body::{FetchBody, SendBody},
    budget::Budget,
    connect::{self, Offer, Opened, Target, Tls},
    error::FetchError,
    multiplex::{self, Multiplex, Stream},
    pool::{Connection, Lease, Line, Pool, PoolStats, Reuse},
    redirect::{self, Asked},
    resolve::Resolver,
    sign::Signer,
    storage::{self, Secret, SetupError, Storage, StorageError},
    trust::Trust,
};

/// Header lines of a response at most.
const HEADERS_MAX: usize = 128;

/// Bytes of a response head at most, and of the read buffer. Larger heads are refused.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Repetitions on a fresh connection, in percent of an origin's requests, and per second in any case: an origin that
/// restarts closes a pool's worth of connections at once.
const RETRY_PERCENT: u32 = 10;
const RETRIES_MIN: u32 = 10;

/// One origin and its connections.
pub struct Origin {
    settings: config::Origin,
    trust: Trust,
    target: Target,
    signer: Signer,
    pool: Arc<Pool>,
    /// Where HTTP/2 may be spoken.
    multiplex: Option<Multiplex>,
    /// What the listed redirects lead to, in their order.
    follow: Vec<Arc<Origin>>,
    /// What turns requests into ones for objects, and the secret it was made with.
    storage: Option<(Storage, Secret)>,
    requests: AtomicU64,
    counted: AtomicU64,
    budget: Mutex<Budget>,
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
        let host = storage::host_of(&settings);
        let tls = match settings.scheme {
            config::Scheme::Http => None,
            config::Scheme::Https => Some(Tls {
                name: settings.sni.clone().unwrap_or_else(|| host.clone()),
                http1: trust.client_config(settings.tls_min, &[b"http/1.1"]),
                any: match settings.http2 {
                    Http2::PriorKnowledge => trust.client_config(settings.tls_min, &[b"h2"]),
                    _ => trust.client_config(settings.tls_min, &[b"h2", b"http/1.1"]),
                },
            }),
        };
        let interval = settings.resolve_interval;
        let resolver = Arc::new(Resolver::new(&host, settings.port, interval, &settings.allow_networks));
        let follow = settings.follow_redirects.iter().map(|prefix| followed(&settings, prefix));
        Ok(Arc::new(Origin {
            target: Target { resolver: resolver.clone(), tls },
            signer: Signer::new(&settings),
            pool: Pool::new(settings.connections_max, resolver),
            multiplex: (settings.http2 != Http2::No).then(Multiplex::new),
            follow: follow.collect::<Result<_, _>>()?,
            storage,
            requests: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            budget: Mutex::new(Budget::new(RETRY_PERCENT, RETRIES_MIN)),
            settings,
            trust,
        }))
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

    /// HTTP/2 connections open now.
    pub fn multiplexed(&self) -> usize {
        self.multiplex.as_ref().map_or(0, Multiplex::connections)
    }

    /// Requests it was sent.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The longest a fetch may take to its response head, everything included.
    pub fn head_deadline(&self) -> Duration {
        self.settings.connect_timeout * 2 + self.settings.first_byte_timeout
    }

    /// Sends a request whose target is in origin form and whose `Host` is the client's, and follows the redirects
    /// that are listed.
    ///
    /// Not resumable: dropped midway it closes the connection it used.
    ///
    /// # Errors
    /// Every [`FetchError`]; errors of the body come from the body.
    pub async fn send(&self, head: &Parts, body: SendBody) -> Result<Response<FetchBody>, Failed> {
        if let Some((storage, _)) = &self.storage {
            return self.send_to_storage(storage, head, body).await;
        }
        let response = self.send_here(head, body).await?;
        if self.follow.is_empty() || !redirect::is_redirect(&head.method, response.status()) {
            return Ok(response);
        }
        self.send_on(head, response).await
    }

    async fn send_to_storage(
        &self,
        storage: &Storage,
        head: &Parts,
        body: SendBody,
    ) -> Result<Response<FetchBody>, Failed> {
        let fail = |error: StorageError| Failed { error: error.into(), unsent: None };
        let request = storage.prepare(Request::from_parts(head.clone(), body)).await.map_err(fail)?;
        let (head, body) = request.into_parts();
        let response = self.send_here(&head, body).await?;
        storage.clean(response).await.map_err(fail)
    }

    async fn send_on(
        &self,
        head: &Parts,
        mut response: Response<FetchBody>,
    ) -> Result<Response<FetchBody>, Failed> {
        let Some(target) = head.uri.path_and_query().cloned() else { return Ok(response) };
        let mut asked = Asked {
            scheme: self.settings.scheme,
            host: self.settings.host.clone(),
            port: self.settings.port,
            target,
        };
        for _ in 0..redirect::HOPS_MAX {
            if !redirect::is_redirect(&head.method, response.status()) {
                break;
            }
            let listed = &self.settings.follow_redirects;
            let Some((position, next)) = redirect::target(&asked, response.headers(), listed) else { break };
            let Some(origin) = self.follow.get(position) else { break };
            drop(response);
            response = Box::pin(origin.send_here(&redirect::head(head, &next), SendBody::Empty)).await?;
            asked = next;
        }
        Ok(response)
    }

    async fn send_here(&self, head: &Parts, body: SendBody) -> Result<Response<FetchBody>, Failed> {
        self.target.resolver.refresh_if_due();
        let slot = match self.pool.slot(self.settings.connect_timeout).await {
            Ok(slot) => slot,
            Err(error) => return Err(Failed { error, unsent: Some(body) }),
        };
        let repeatable = head.method.is_safe() && body.is_empty();
        let reuse = if repeatable { Reuse::Any } else { Reuse::Fresh };
        // A tunnel never gives its connection back, and an origin may treat the first request of a
        // connection differently: take a new one.
        let wants_upgrade = head.headers.contains_key(header::UPGRADE);
        let (line, is_reused) = match self.line(reuse, wants_upgrade).await {
            Ok(found) => found,
            Err(error) => return Err(Failed { error, unsent: Some(body) }),
        };
        let lost = match self.exchange(line, head, body, slot).await {
            Ok(response) => return Ok(response),
            Err(lost) => lost,
        };
        let proved_dead =
            repeatable && is_reused && !lost.answered && matches!(lost.error, FetchError::Closed(_));
        let body = match lost.unsent {
            // Nothing of it went out.
            Some(body) => body,
            // An empty one is as good as new.
            None if proved_dead || (lost.is_unprocessed && lost.was_empty) => SendBody::Empty,
            None => return Err(Failed { error: lost.error, unsent: None }),
        };
        if wants_upgrade || !self.may_repeat() {
            return Err(Failed { error: lost.error, unsent: Some(body) });
        }
        let stats = &self.pool.stats;
        let counter = if lost.is_unprocessed { &stats.unprocessed } else { &stats.retried };
        counter.fetch_add(1, Ordering::Relaxed);
        let line = match self.fresh().await {
            Ok(line) => line,
            Err(error) => return Err(Failed { error, unsent: Some(body) }),
        };
        let again = self.exchange(line, head, body, lost.slot).await;
        again.map_err(|lost| Failed { error: lost.error, unsent: lost.unsent })
    }

    fn may_repeat(&self) -> bool {
        let requests = self.requests();
        let before = self.counted.swap(requests, Ordering::Relaxed);
        let may = self.budget.lock().take(requests.saturating_sub(before), Instant::now());
        if !may {
            self.pool.stats.unretried.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// What the next request travels on, and whether that was used before.
    async fn line(&self, reuse: Reuse, wants_upgrade: bool) -> Result<(Line, bool), FetchError> {
        if wants_upgrade {
            let opened = self.open(Offer::Http1).await?;
            return Ok((Line::Alone(self.begin(opened).await?), false));
        }
        if let Some(multiplex) = &self.multiplex
            && !multiplex.is_declined()
        {
            let (line, is_reused) = match self.stream(multiplex).await? {
                Either::Left(stream) => {
                    let is_reused = stream.is_reused;
                    (Line::Stream(stream), is_reused)
                }
                Either::Right(connection) => (Line::Alone(connection), false),
            };
            self.count_reuse(is_reused);
            return Ok((line, is_reused));
        }
        if let Some(connection) = self.pool.take(reuse).await {
            self.count_reuse(true);
            return Ok((Line::Alone(connection), true));
        }
        self.fresh().await.map(|line| (line, false))
    }

    fn count_reuse(&self, is_reused: bool) {
        if is_reused {
            self.pool.stats.reused.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn stream(&self, multiplex: &Multiplex) -> Result<Either<Stream, Connection>, FetchError> {
        let open = async {
            let offer = self.offer();
            let opened = self.open(offer).await?;
            multiplex.set_declined(!opened.is_http2);
            if opened.is_http2 {
                Ok(Either::Left(opened))
            } else {
                self.begin(opened).await.map(Either::Right)
            }
        };
        multiplex.stream(&self.target.resolver, open).await
    }

    fn offer(&self) -> Offer {
        match self.settings.http2 {
            Http2::No => Offer::Http1,
            Http2::Alpn => Offer::Any,
            Http2::PriorKnowledge => Offer::Http2,
        }
    }

    /// A connection that nothing was sent on; for HTTP/2, one that is alive or new.
    async fn fresh(&self) -> Result<Line, FetchError> {
        if let Some(multiplex) = &self.multiplex {
            return Ok(match self.stream(multiplex).await? {
                Either::Left(stream) => Line::Stream(stream),
                Either::Right(connection) => Line::Alone(connection),
            });
        }
        let opened = self.open(Offer::Http1).await?;
        self.begin(opened).await.map(Line::Alone)
    }

    async fn open(&self, offer: Offer) -> Result<Opened, FetchError> {
        let limit = self.settings.connect_timeout;
        let opened = tokio::time::timeout(limit, connect::connect(&self.target, offer)).await;
        let opened = opened.unwrap_or(Err(FetchError::ConnectTimeout(limit)));
        let counter = match opened {
            Ok(_) => &self.pool.stats.opened,
            Err(_) => &self.pool.stats.connect_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        opened
    }

    /// Begins HTTP/1.1 on a connection.
    async fn begin(&self, opened: Opened) -> Result<Connection, FetchError> {
        let (sender, connection) = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(opened.stream))
            .await
            .map_err(|error| FetchError::Closed(Arc::new(error)))?;
        // Ends when the sender is dropped or the origin closes. Its errors reach whoever waits
        // for the response; on an idle connection there is nobody to tell.
        tokio::spawn(connection.with_upgrades());
        Ok(Connection::new(sender, opened.wire, opened.peer))
    }

    async fn exchange(
        &self,
        mut line: Line,
        head: &Parts,
        body: SendBody,
        slot: OwnedSemaphorePermit,
    ) -> Result<Response<FetchBody>, Lost> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (sent, was_empty) = (body.sent(), body.is_empty());
        let reusable = sent.is_none();
        let request = Request::from_parts(self.signer.sign(head), body);
        let result = match &mut line {
            Line::Alone(connection) => {
                connection.wire.expect_head();
                self.first_byte(connection.sender.try_send_request(request), sent).await
            }
            Line::Stream(stream) => match self.in_http2(request) {
                Ok(request) => self.first_byte(stream.sender.try_send_request(request), sent).await,
                Err(error) => Err((error, None)),
            },
        };
        match result {
            Ok(response) => {
                if let Line::Stream(stream) = &line {
                    stream.answered();
                }
                let between = self.settings.between_bytes_timeout;
                let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                Ok(response.map(|incoming| {
                    let lease = Lease::new(self.pool.clone(), line, reusable, slot);
                    if switched {
                        FetchBody::tunnel(incoming, between, lease)
                    } else {
                        FetchBody::new(incoming, between, lease)
                    }
                }))
            }
            Err((error, unsent)) => {
                let answered = match &line {
                    Line::Alone(connection) => connection.wire.answered(),
                    Line::Stream(_) => false,
                };
                let is_unprocessed =
                    matches!(&error, FetchError::Closed(cause) if multiplex::is_unprocessed(cause));
                let unsent = unsent.map(Request::into_body);
                Err(Lost { error, slot, answered, unsent, is_unprocessed, was_empty })
            }
        }
    }

    /// The request as HTTP/2 has it: the authority in the target (RFC 9113 section 8.3.1), nothing of a connection's.
    fn in_http2(&self, mut request: Request<SendBody>) -> Result<Request<SendBody>, FetchError> {
        let host = request.headers_mut().remove(header::HOST);
        let host = host.unwrap_or(HeaderValue::from_static(""));
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            request.headers_mut().remove(name);
        }
        let scheme = match self.settings.scheme {
            config::Scheme::Http => "http",
            config::Scheme::Https => "https",
        };
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(target).build();
        *request.uri_mut() = uri.map_err(|error| FetchError::Unsendable(Arc::new(error)))?;
        *request.version_mut() = http::Version::HTTP_2;
        Ok(request)
    }

    /// Waits for the response head. While the client's body is still moving the clock starts again.
    async fn first_byte(
        &self,
        response: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<SendBody>>>>,
        sent: Option<Arc<AtomicU64>>,
    ) -> Result<Response<Incoming>, (FetchError, Option<Request<SendBody>>)> {
        let limit = self.settings.first_byte_timeout;
        let mut response = pin!(response);
        let mut seen = 0;
        loop {
            match tokio::time::timeout(limit, response.as_mut()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut failed)) => {
                    let unsent = failed.take_message();
                    return Err((FetchError::from_send(failed.into_error()), unsent));
                }
                Err(_) => {
                    let now = sent.as_ref().map_or(0, |sent| sent.load(Ordering::Relaxed));
                    if now == seen {
                        return Err((FetchError::FirstByteTimeout(limit), None));
                    }
                    seen = now;
                }
            }
        }
    }

    /// Asks on a connection of its own whether the origin is well: a GET, its status within the range.
    ///
    /// # Errors
    /// What a person is told.
    pub async fn check(&self, check: &config::OriginCheck) -> Result<(), String> {
        match tokio::time::timeout(check.timeout, self.try_check(check)).await {
            Err(_) => Err(format!("no answer within {:?}", check.timeout)),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(status)) if (check.status.0..=check.status.1).contains(&status.as_u16()) => Ok(()),
            Ok(Ok(status)) => Err(format!("status {}", status.as_u16())),
        }
    }

    async fn try_check(&self, check: &config::OriginCheck) -> Result<StatusCode, FetchError> {
        self.target.resolver.refresh_if_due();
        let settings = &self.settings;
        let host = check.host.as_ref().or(settings.host_header.as_ref()).unwrap_or(&settings.host);
        let host = if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_ok() {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let request = Request::get(&check.path)
            .header(header::HOST, host.clone())
            .header(header::USER_AGENT, "nearside-edge")
            .body(());
        let (head, ()) = request.map_err(|error| FetchError::Unsendable(Arc::new(error)))?.into_parts();
        let mut head = self.signer.sign(&head);
        if let Ok(host) = host.parse() {
            head.headers.insert(header::HOST, host);
        }
        let mut request = Request::from_parts(head, SendBody::Empty);
        if let Some((storage, _)) = &self.storage {
            request = storage.prepare(request).await?;
        }
        let opened = connect::connect(&self.target, self.offer()).await?;
        let result = if opened.is_http2 {
            let (mut sender, _) = multiplex::handshake(opened.stream).await?;
            sender.send_request(self.in_http2(request)?).await
        } else {
            let mut connection = self.begin(opened).await?;
            connection.wire.expect_head();
            connection.sender.send_request(request).await
        };
        result.map(|response| response.status()).map_err(FetchError::from_send)
    }
}

/// The origin behind a listed redirect: under the limits of the one that redirects.
fn followed(settings: &config::Origin, prefix: &config::UrlPrefix) -> Result<Arc<Origin>, SetupError> {
    let settings = config::Origin {
        connections_max: settings.connections_max,
        connect_timeout: settings.connect_timeout,
        first_byte_timeout: settings.first_byte_timeout,
        between_bytes_timeout: settings.between_bytes_timeout,
        resolve_interval: settings.resolve_interval,
        allow_networks: settings.allow_networks.clone(),
        request_headers: settings.request_headers.clone(),
        ..config::Origin::at(prefix.scheme, &prefix.host, prefix.port)
    };
    Origin::new(settings, Trust::System, None)
}

/// A request without an answer.
pub struct Failed {
    /// Why.
    pub error: FetchError,
    /// Its body, if nothing of it was sent, or nothing was done about it: it may go elsewhere.
    pub unsent: Option<SendBody>,
}

/// An exchange without a response; the slot may serve a second attempt.
struct Lost {
    error: FetchError,
    slot: OwnedSemaphorePermit,
    /// Bytes of an answer came.
    answered: bool,
    unsent: Option<SendBody>,
    is_unprocessed: bool,
    was_empty: bool,
}
