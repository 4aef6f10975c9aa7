//! The state machine of a request: the only module that knows all steps.
//!
//! ```text
//! Recv → Gate → Lookup ─┬→ Hit ────────────────────────┐
//!                       ├→ Stale (refresh beside it) ───┤
//!                       ├→ Miss (fetch, judge, store) ──┼→ Deliver
//!                       └→ Pass (fetch, judge) ─────────┘
//! ```
//!
//! [`gate`] is Recv and Gate; this file looks up and chooses; [`miss`], [`partial`] and [`pass`] ask
//! the origin, [`mend`] once more where the store's copy gives out; [`mod@derive`] and [`deliver`] make the head. What may be decided about HTTP is decided by `policy`, what is kept is
//! kept by `cache`; here only the order of things lives. Errors are [`Refusal`]s all the way and become
//! statuses in [`refusal`].
//!
//! Interim responses go to the client whose request caused them, where its front end can send them ([`interim`]).
//! `100 Continue` is sent to the client when the origin connection first wants the body. Trailers are passed on with
//! content that is not stored, and not kept with what is: a recipient may discard them (RFC 9110 section 6.5.1).

pub mod body;
pub mod deliver;
pub mod derive;
pub mod forward;
pub mod frontage;
pub mod gate;
pub mod hooks;
pub mod id;
pub mod incoming;
pub mod interim;
pub mod log;
pub mod mend;
pub mod miss;
pub mod pages;
pub mod partial;
pub mod pass;
pub mod refusal;
pub mod ruled;
pub mod tunnel;

use std::{
    convert::Infallible,
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use smallvec::SmallVec;

pub use self::{body::Body, gate::HEALTH_PATH, incoming::Incoming, refusal::Refusal};
use self::{
    derive::{Query, Shape},
    gate::Gated,
    id::REQUEST_ID,
    interim::InterimSink,
    log::Access,
    miss::Need,
    pages::{About, Author},
    tunnel::Upgrade,
};
use crate::{
    cache::{Cache, Candidates},
    code::Hook,
    gates,
    listen::{connection::Client, share::Place},
    load::Load,
    origin::shield::PURGED,
    place::Seen,
    policy::{self, CacheKey, Candidate, Forward, Plan, Target, Timestamp},
    rules::Effects,
    site::{Site, Sites},
    stats::{Asker, Outcome, SiteStats},
    transform::Workshop,
};

/// hyper asks for an error type; a handler of ours always answers.
pub type Reset = Infallible;

/// Who this edge is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node's name in the fleet file.
    pub node: String,
    /// Its pseudonym in `Via`, `CDN-Loop` and `Cache-Status`: a token.
    pub name: String,
}

impl Identity {
    /// Of a node of a fleet.
    pub fn new(fleet: &str, node: &str) -> Self {
        let token = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect()
        };
        Identity { node: node.to_owned(), name: format!("nearside-{}-{}", token(fleet), token(node)) }
    }
}

/// Whether requests are welcome, as health checks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Serving {
    /// Not yet.
    Starting,
    /// Yes.
    Yes,
    /// No longer.
    Draining,
}

/// What answers requests.
pub struct Edge {
    /// Who we are.
    pub identity: Identity,
    /// What is served, swapped whole.
    pub sites: ArcSwap<Sites>,
    /// What is kept.
    pub cache: Arc<Cache>,
    /// Counts what belongs to no site.
    pub unknown: Arc<SiteStats>,
    /// Keys the hashes that tell variants apart while they are waited for.
    pub(crate) hints: RandomState,
    /// How busy we are, for health checks.
    pub load: Arc<Load>,
    /// What became of limits that the fleet shares.
    pub shared: gates::shared::Stats,
    /// Makes things of what is stored.
    pub workshop: Arc<Workshop>,
    serving: AtomicU8,
}

impl Edge {
    /// An edge that is starting and knows no sites.
    pub fn new(identity: Identity, cache: Arc<Cache>, workers: usize) -> Arc<Self> {
        Arc::new(Edge {
            identity,
            sites: ArcSwap::default(),
            cache,
            unknown: SiteStats::new(workers),
            hints: RandomState::new(),
            load: Arc::default(),
            shared: gates::shared::Stats::default(),
            // Half of the machine at most, and below the workers: they come first.
            workshop: Workshop::new(workers / 2),
            serving: AtomicU8::new(Serving::Starting as u8),
        })
    }

    /// Whether requests are welcome.
    pub fn serving(&self) -> Serving {
        match self.serving.load(Ordering::Relaxed) {
            0 => Serving::Starting,
            1 => Serving::Yes,
            _ => Serving::Draining,
        }
    }

    /// Whether another edge that asks has seen purges of the fleet which this one has not.
    fn is_behind(&self, headers: &HeaderMap) -> bool {
        let theirs = headers.get(PURGED).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        theirs.is_some_and(|theirs| theirs > self.cache.purges().sequence())
    }

    /// From now on.
    pub fn set_serving(&self, serving: Serving) {
        self.serving.store(serving as u8, Ordering::Relaxed);
    }
}

/// A response and how it came about.
pub struct Answer {
    /// Complete but for what the connection adds.
    pub response: Response<Body>,
    /// For counters and logs.
    pub outcome: Outcome,
}

/// A request that passed the gate. Immutable: the fetch it causes may outlive the client.
pub struct Exchange {
    edge: Arc<Edge>,
    client: Arc<Client>,
    site: Arc<Site>,
    target: Target,
    key: CacheKey,
    /// The port the client named, in `Host` or `:authority`.
    port: Option<u16>,
    method: Method,
    headers: HeaderMap,
    interim: Option<InterimSink>,
    /// What it wants of the site's transformations, if there are any.
    shape: Option<Box<Shape>>,
    /// What rules make of it.
    effects: Option<Box<Effects>>,
    /// What it is called.
    request_id: HeaderValue,
    /// What the origin answers is for this client alone. Decided on the path that gates judged, before anything rewrote it.
    is_private: bool,
}

impl Exchange {
    /// A GET of our own, which no client waits for: of the variant that a client without preferences gets.
    pub(crate) fn ahead(
        edge: &Arc<Edge>,
        site: Arc<Site>,
        scheme: &'static str,
        target: Target,
    ) -> Arc<Self> {
        let mut headers = HeaderMap::new();
        if let Ok(host) = target.host().parse() {
            headers.insert(header::HOST, host);
        }
        let client = Client::ourselves(scheme);
        let (mut target, mut effects) = (target, None);
        if site.rulebook.is_some()
            && let Ok(uri) = target.path_and_query().parse()
        {
            let (seen, host) = (Seen::new(&site.places, client.peer.ip()), target.host().to_owned());
            let asked =
                ruled::Asked { scheme, host: &host, uri: &uri, method: &Method::GET, headers: &headers };
            effects = ruled::foresee(&site, &seen, &asked, now());
            target = ruled::target(&site, &asked, effects.as_deref());
        }
        let key = CacheKey::new(&site.name, None, &target);
        let request_id = id::of(None, &client, &headers);
        ruled::change(&site, &mut headers, effects.as_deref());
        Arc::new(Exchange {
            edge: edge.clone(),
            client,
            site,
            target,
            key,
            port: None,
            method: Method::GET,
            headers,
            interim: None,
            shape: None,
            effects,
            request_id,
            is_private: false,
        })
    }

    /// Whether the store has it now.
    pub(crate) async fn is_stored(&self) -> bool {
        self.lookup().await.iter().any(|found| found.object.meta().content != policy::Content::HeadOnly)
    }

    /// Answers from the store or by way of it. The body brings what is stored in with it: read it to the end.
    ///
    /// # Errors
    /// [`Refusal`], also where the site's rules pass such requests.
    pub(crate) async fn obtain(self: &Arc<Self>) -> Result<Answer, Refusal> {
        if self.effects.as_ref().is_some_and(|effects| effects.made.is_some()) {
            return Err(Refusal::NotCached);
        }
        let found = self.lookup().await;
        match self.plan(&found, now()) {
            Plan::Serve(serve) | Plan::ServeAndRefresh(serve, _) => {
                deliver::hit(self, &found, &serve, Outcome::Hit).await
            }
            Plan::Revalidate(revalidate) => miss::obtain(self, found, Need::Revalidate(revalidate)).await,
            Plan::Fetch(fetch) => miss::obtain(self, found, Need::Fetch(fetch)).await,
            Plan::Pass(_) | Plan::GatewayTimeout => Err(Refusal::NotCached),
        }
    }

    /// The target in absolute form, with the port the client named: `Location` and `Content-Location`
    /// are compared with it, port included (RFC 9111 section 4.4).
    fn uri(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let (scheme, host) = (self.client.scheme(), self.target.host());
        format!("{scheme}://{host}{port}{}", self.target.path_and_query())
    }

    fn policy_request(&self) -> policy::Request<'_> {
        self.judged_by(&self.headers)
    }

    /// The request as policy sees it, under these fields.
    fn judged_by<'h>(&'h self, headers: &'h HeaderMap) -> policy::Request<'h> {
        let request = policy::Request::new(&self.method, headers).under(&self.site.rules);
        match &self.effects {
            Some(effects) => request.ruled(effects.bypass, effects.ttl),
            None => request,
        }
    }

    async fn lookup(&self) -> Candidates {
        let mut found = self.edge.cache.lookup_with_gaps(&self.key).await;
        ruled::of_variant(&self.site, self.variant(), &mut found);
        found
    }

    /// Which variant rules make of it.
    fn variant(&self) -> Option<&HeaderValue> {
        self.effects.as_ref()?.variant.as_ref()
    }

    fn plan(&self, found: &Candidates, now: Timestamp) -> Plan {
        let candidates: SmallVec<[Candidate<'_>; 2]> = found.iter().map(|found| found.candidate()).collect();
        policy::plan(&self.policy_request(), &candidates, now)
    }
}

/// The wall clock, read at the rim.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What a front end can do for a request besides taking its answer.
#[derive(Default)]
pub struct Reach {
    /// Sends interim responses.
    pub interim: Option<InterimSink>,
    /// Gives its connection away after a 101.
    pub upgrade: Option<Upgrade>,
}

/// Answers a request. Always: whatever fails becomes a status.
///
/// # Errors
/// None; the type is hyper's.
pub async fn handle(
    edge: &Arc<Edge>,
    client: &Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Reset> {
    Ok(handle_within(edge, client, request, Reach::default()).await)
}

/// As [`handle`], for a front end that can do more.
pub async fn handle_within(
    edge: &Arc<Edge>,
    client: &Arc<Client>,
    mut request: Request<Incoming>,
    reach: Reach,
) -> Response<Body> {
    let started = Instant::now();
    let (site, host) = match gate::receive(edge, client, &request) {
        Ok(Gated::Pass(site, host)) => (site, host),
        Ok(Gated::Answered(answer)) => {
            return finish_local(edge, client, &request, *answer, started, None);
        }
        Err(refusal) => {
            return finish_local(edge, client, &request, refusal.answer(), started, None);
        }
    };
    if client.scheme() == "http" {
        let https_port = edge.sites.load().https_port;
        if let Some(answer) = site.frontage.redirect(&request, &host, https_port) {
            return finish_local(edge, client, &request, answer, started, Some((&site, &host)));
        }
    }
    // Looked up when somebody asks, and then once.
    let seen = Seen::new(&site.places, client.peer.ip());
    // Another edge has asked its own gates: its clients are not known here.
    let admitted = match &site.gates {
        Some(site_gates) if client.node.is_none() => match site_gates.admit(&mut request, &seen, started) {
            Ok(admitted) => Some(admitted),
            Err(denied) => {
                let answer = denied.answer(request.method());
                return finish_local(edge, client, &request, answer, started, Some((&site, &host)));
            }
        },
        _ => None,
    };
    let share = match site.share.take(Place::Request, site.front.limits.requests_max) {
        Ok(share) => share,
        Err(_) => {
            let answer = Refusal::SiteBusy.answer();
            return finish_local(edge, client, &request, answer, started, Some((&site, &host)));
        }
    };
    let Reach { interim, upgrade } = reach;
    let request_id = id::of(Some(&site), client, request.headers());
    let (mut parts, incoming) = request.into_parts();
    let is_private = site.gates.as_ref().is_some_and(|gates| gates.is_private(parts.uri.path()));
    let (mut effects, mut rewritten) = (None, None);
    if site.rulebook.is_some() {
        let asked = ruled::Asked {
            scheme: client.scheme(),
            host: &host,
            uri: &parts.uri,
            method: &parts.method,
            headers: &parts.headers,
        };
        effects = ruled::decide(&site, client, &seen, &asked);
        rewritten = effects.as_deref().and_then(|effects| ruled::rewritten(&asked, effects));
        ruled::change(&site, &mut parts.headers, effects.as_deref());
    }
    parts.headers.insert(REQUEST_ID, request_id.clone());
    let is_answered = effects.as_ref().is_some_and(|effects| effects.made.is_some());
    if let Some(code) = site.code.as_ref().filter(|_| client.node.is_none() && !is_answered) {
        let uri = rewritten.as_ref().unwrap_or(&parts.uri);
        match hooks::on_request(code, client, &host, &parts.method, uri, &mut parts.headers) {
            Ok(None) => {}
            Ok(retargeted) => rewritten = retargeted,
            Err(answer) => {
                let request = Request::from_parts(parts, incoming);
                return finish_local(edge, client, &request, *answer, started, Some((&site, &host)));
            }
        }
    }
    let uri = rewritten.as_ref().unwrap_or(&parts.uri);
    let (shape, query) = match Shape::read(&site, client, uri, &mut parts.headers) {
        Ok(read) => read,
        Err(refusal) => {
            let request = Request::from_parts(parts, incoming);
            return finish_local(edge, client, &request, refusal.answer(), started, Some((&site, &host)));
        }
    };
    let query = match &query {
        Query::AsAsked => uri.query(),
        Query::Left(rest) => rest.as_deref(),
    };
    let keyed = ruled::keyed(&site, effects.as_deref());
    let target = Target::new(&host, uri.path(), query, keyed);
    let key = CacheKey::new(&site.name, None, &target);
    let has_content = !incoming.is_end_stream();
    let exchange = Arc::new(Exchange {
        edge: edge.clone(),
        client: client.clone(),
        site,
        target,
        key,
        port: gate::port(&parts.uri, &parts.headers),
        method: parts.method,
        headers: parts.headers,
        interim,
        shape,
        effects,
        request_id,
        is_private,
    });
    let made = exchange.effects.as_ref().and_then(|effects| effects.made.as_ref());
    let (author, answer) = match made {
        Some(made) => {
            let mut answer = ruled::answer(made, &exchange.method);
            if has_content {
                deliver::close_after(answer.response.headers_mut());
            }
            (if made.is_refusal { Author::Edge } else { Author::Rule }, answer)
        }
        None => match lookup(&exchange, incoming, upgrade).await {
            Ok(answer) => (Author::Origin, answer),
            Err(refusal) => {
                tracing::debug!(site = exchange.site.name, ?refusal, "refused");
                (Author::Edge, refusal.answer())
            }
        },
    };
    let mut response = finish(&exchange, author, answer, started);
    response.body_mut().hold_share(share);
    if let Some(admitted) = admitted {
        admitted.dress(&mut response);
    }
    if let Some(rate) = exchange.effects.as_ref().and_then(|effects| effects.throttle) {
        response.body_mut().slow_to(rate, started);
    }
    response
}

/// Lookup: what is stored decides, with policy, where the request goes.
///
/// The ways to the origin are boxed: they hold a fetch's whole state, and hyper moves this future into a
/// task of its own for every h2 stream, hits included.
async fn lookup(
    exchange: &Arc<Exchange>,
    incoming: Incoming,
    upgrade: Option<Upgrade>,
) -> Result<Answer, Refusal> {
    let protocol = upgrade.as_ref().and_then(|_| forward::upgrade_of(&exchange.headers));
    if let (Some(protocol), Some(upgrade)) = (protocol, upgrade) {
        return Box::pin(pass::tunnel(exchange, incoming, protocol, upgrade)).await;
    }
    // A GET with content may be answered by it (RFC 9110 section 9.3.1 gives it no meaning, some
    // applications do): shared, such an answer would be poison.
    if !incoming.is_end_stream() && matches!(exchange.method, Method::GET | Method::HEAD) {
        return Box::pin(pass::pass(exchange, Forward::Bypass, incoming)).await;
    }
    // What a token says may decide what the origin answers.
    if exchange.is_private {
        return Box::pin(pass::pass(exchange, Forward::Bypass, incoming)).await;
    }
    let found = exchange.lookup().await;
    match exchange.plan(&found, now()) {
        Plan::Serve(serve) => deliver::hit(exchange, &found, &serve, Outcome::Hit).await,
        Plan::ServeAndRefresh(serve, revalidate) => {
            miss::refresh(exchange, &found, revalidate);
            deliver::hit(exchange, &found, &serve, Outcome::Stale).await
        }
        Plan::Revalidate(revalidate) => {
            Box::pin(miss::obtain(exchange, found, Need::Revalidate(revalidate))).await
        }
        Plan::Fetch(fetch) => Box::pin(miss::obtain(exchange, found, Need::Fetch(fetch))).await,
        Plan::Pass(forward) => Box::pin(pass::pass(exchange, forward, incoming)).await,
        Plan::GatewayTimeout => Err(Refusal::NotCached),
    }
}

fn finish(exchange: &Exchange, author: Author, mut answer: Answer, started: Instant) -> Response<Body> {
    if let Some(pages) = &exchange.site.pages {
        let about = About {
            method: &exchange.method,
            headers: &exchange.headers,
            host: exchange.target.host(),
            request_id: &exchange.request_id,
        };
        pages.dress(author, &mut answer, &about);
    }
    let status = answer.response.status();
    if let Some(effects) = &exchange.effects {
        effects.dress(&exchange.headers, status, answer.response.headers_mut());
    }
    answer.response.headers_mut().insert(REQUEST_ID, exchange.request_id.clone());
    if let Some(code) = exchange.site.code.as_ref().filter(|code| code.has(Hook::Response))
        && exchange.client.node.is_none()
    {
        answer = hooks::on_response(code, exchange, answer);
    }
    let stats = &exchange.site.stats;
    let asker = if exchange.client.node.is_some() { Asker::Node } else { Asker::Client };
    let counters = stats.here_for(asker);
    counters.responded(answer.outcome, answer.response.status(), started.elapsed());
    if answer.outcome != Outcome::Local && asker == Asker::Client {
        counters.visited(exchange.target.path());
    }
    let access = Access::enabled().then(|| {
        let (host, path) = (exchange.target.host(), exchange.target.path());
        Access::new(&exchange.client, &exchange.method, host, path, &answer, started)
    });
    let fields = answer.response.headers_mut();
    if exchange.client.scheme() == "https" || exchange.site.http3.speaks() {
        fields.remove(header::ALT_SVC);
    }
    // Whoever speaks HTTP/3 already needs no word of it.
    if exchange.client.tls.is_some() && !exchange.client.is_quic() {
        exchange.site.http3.tell(exchange.client.local.port(), fields);
    }
    answer.response.body_mut().account(stats.clone(), asker, access);
    exchange.site.frontage.dress(exchange.client.scheme(), answer.response.headers_mut());
    if exchange.client.node.is_some() {
        policy::status::name_hop(answer.response.headers_mut(), &exchange.edge.identity.node);
    }
    answer.response
}

/// Finishes an answer that no store or origin had a part in. `of`: the site and host it is about, if that is known.
fn finish_local(
    edge: &Edge,
    client: &Client,
    request: &Request<Incoming>,
    mut answer: Answer,
    started: Instant,
    of: Option<(&Site, &str)>,
) -> Response<Body> {
    let stats = of.map_or(&edge.unknown, |(site, _)| &site.stats);
    stats.here().responded(answer.outcome, answer.response.status(), started.elapsed());
    let host = of.map_or("", |(_, host)| host);
    let request_id = id::of(of.map(|(site, _)| site), client, request.headers());
    if let Some(pages) = of.and_then(|(site, _)| site.pages.as_ref()) {
        let (method, headers) = (request.method(), request.headers());
        pages.dress(Author::Edge, &mut answer, &About { method, headers, host, request_id: &request_id });
    }
    answer.response.headers_mut().insert(REQUEST_ID, request_id);
    let access = Access::enabled()
        .then(|| Access::new(client, request.method(), host, request.uri().path(), &answer, started));
    answer.response.body_mut().account(stats.clone(), Asker::Client, access);
    if let Some((site, _)) = of {
        site.frontage.dress(client.scheme(), answer.response.headers_mut());
    }
    // What is left of a request's content after an early answer is not read as the next request: the
    // connection ends (RFC 9112 section 9.3).
    if !request.body().is_end_stream() {
        deliver::close_after(answer.response.headers_mut());
    }
    answer.response
}
