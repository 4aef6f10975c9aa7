//! Miss: asks the origin for what may be stored, once for all who want it.
//!
//! The fetch runs as a task of its own: a client that leaves takes neither the fetch nor the others'
//! answer with it. Who leads waits for its verdict; who follows waits for the head and then looks up
//! again, and fetches alone where what came is not for it.

use std::{
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use http_body_util::Full;

use super::{
    Answer, Body, Exchange, Refusal, deliver, forward::Forwarding, interim::InterimSink, now, partial,
};
use crate::{
    cache::{
        Candidates, Found, Object, Span,
        fill::{self, Keep},
        flight::{Join, Lease, Outcome as Waited},
    },
    origin::{
        FetchBody, FetchError, For, SendBody,
        shield::{ByShield, Orders},
    },
    policy::{
        self, Asked, Collapse, Content, Fetch, Forward, Meta, Plan, Revalidate, Serve, StalePermit,
        Timestamp, Verdict,
        decide::{Range, Validated},
        headers,
        range::{self, Spec},
        status::CacheStatus,
    },
    stats::Outcome,
};

/// Leaders in a row that went away without an answer before a follower fetches for itself.
const JOINS_MAX: usize = 3;

/// For how long parts of something are passed on as asked after one could not be kept: its origin has no strong entity
/// tag for it, or ignores what chunks are.
const PARTS_UNCOLLAPSED: Duration = Duration::from_secs(120);

/// Tells fetches of parts apart from those of the whole. Any odd bits would do.
const PARTS_HINT: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the origin is to be asked.
pub(super) enum Need {
    /// For a response.
    Fetch(Fetch),
    /// Whether a stored one still holds.
    Revalidate(Revalidate),
}

impl Need {
    fn forward(&self) -> Forward {
        match self {
            Need::Fetch(fetch) => fetch.forward,
            Need::Revalidate(revalidate) => revalidate.forward,
        }
    }

    fn collapse(&self) -> Collapse {
        match self {
            Need::Fetch(fetch) => fetch.collapse,
            Need::Revalidate(_) => Collapse::Join,
        }
    }

    /// What is validated, and whether it may stand in.
    fn validates(&self, found: &Candidates) -> Option<(Found, StalePermit)> {
        match self {
            Need::Fetch(_) => None,
            Need::Revalidate(revalidate) => Some((found.get(revalidate.index)?.clone(), revalidate.stale)),
        }
    }
}

/// Gets what is needed from the origin, or from whoever is getting it already.
pub(super) async fn obtain(
    exchange: &Arc<Exchange>,
    mut found: Candidates,
    mut need: Need,
) -> Result<Answer, Refusal> {
    let cache = &exchange.edge.cache;
    let waiting_since = now();
    widen(exchange, &mut need);
    for _ in 0..JOINS_MAX {
        if need.collapse() == Collapse::Alone {
            break;
        }
        let chunks = chunks(exchange, &need);
        // What is learned of parts is no reason not to wait for the whole.
        let apart = if chunks.is_some() { PARTS_HINT } else { 0 };
        let waiter = match cache.join(&exchange.key, hint(exchange, &found) ^ apart) {
            Join::Lead(lease) => {
                return lead(exchange, found, need, chunks, lease).await;
            }
            Join::Pass(lease) => return lead(exchange, found, need, None, lease).await,
            Join::Follow(waiter) => waiter,
        };
        match waiter.wait(exchange.site.origins.head_deadline()).await {
            Waited::Retry => continue,
            Waited::Pass | Waited::TimedOut => break,
            Waited::Failed => return stand_in(exchange, &found, &need),
            Waited::Ready => {}
        }
        found = exchange.lookup().await;
        if let Some((object, serve, account)) = shared(exchange, &found, need.forward(), waiting_since) {
            return partial::answer(exchange, &object, &serve, account, Outcome::Collapsed).await;
        }
        match exchange.plan(&found, now()) {
            Plan::Serve(serve) | Plan::ServeAndRefresh(serve, _) => {
                return deliver::hit(exchange, &found, &serve, Outcome::Collapsed).await;
            }
            Plan::Revalidate(revalidate) => need = Need::Revalidate(revalidate),
            Plan::Fetch(fetch) => need = Need::Fetch(fetch),
            Plan::Pass(forward) => need = Need::Fetch(alone(forward)),
            Plan::GatewayTimeout => return Err(Refusal::NotCached),
        }
        // What came was not for us, or was stale on arrival: no use in waiting for the next one.
        break;
    }
    let lease = cache.alone(&exchange.key);
    lead(exchange, found, need, None, lease).await
}

/// Asks the origin as if nothing were stored: for all of `chunks`, or just as the client asks.
pub(super) async fn anew(exchange: &Arc<Exchange>, chunks: Option<Span>) -> Result<Answer, Refusal> {
    let need = Need::Fetch(alone(Forward::Partial));
    let lease = exchange.edge.cache.alone(&exchange.key);
    lead(exchange, Candidates::new(), need, chunks, lease).await
}

/// The chunks to ask for in place of the client's range.
fn chunks(exchange: &Exchange, need: &Need) -> Option<Span> {
    match need {
        Need::Fetch(Fetch { range: Range::AsAsked, .. }) => partial::widened(exchange),
        _ => None,
    }
}

/// `bytes=0-`, which players begin with, asks for everything: it is fetched as everything, once for all. Of other
/// ranges the chunks around them are fetched, which others may want as well.
fn widen(exchange: &Exchange, need: &mut Need) {
    let Need::Fetch(fetch) = need else { return };
    if fetch.range == Range::Dropped {
        return;
    }
    let everything = [Spec::From { first: 0, last: None }];
    let asks_for_all = range::parse(&exchange.headers).is_some_and(|specs| specs == everything);
    if asks_for_all && !exchange.headers.contains_key(header::IF_RANGE) {
        fetch.range = Range::Dropped;
    } else if partial::widened(exchange).is_none() {
        return;
    }
    if !exchange.headers.contains_key(header::AUTHORIZATION) {
        fetch.collapse = Collapse::Join;
    }
}

/// What came of the fetch that was waited for, if it answers this request as well (RFC 9111 section 4).
fn shared(
    exchange: &Exchange,
    found: &Candidates,
    forward: Forward,
    since: Timestamp,
) -> Option<(Arc<Object>, Serve, CacheStatus)> {
    let request = exchange.policy_request();
    let came = found.iter().find(|found| {
        let meta = found.object.meta();
        meta.response_time >= since && policy::decide::answers_waiting(&request, meta)
    })?;
    let serve = deliver::serve_now(exchange, &came.object);
    let mut account = CacheStatus::forwarded(Outcome::Collapsed.policy(), forward, None);
    account.ttl_secs = Some(serve.ttl_secs);
    account.collapsed = true;
    Some((came.object.clone(), serve, account))
}

/// Refreshes what was served stale, unless someone does already.
pub(super) fn refresh(exchange: &Arc<Exchange>, found: &Candidates, revalidate: Revalidate) {
    let Join::Lead(lease) = exchange.edge.cache.join(&exchange.key, hint(exchange, found)) else { return };
    exchange.site.stats.here().refreshes.fetch_add(1, Relaxed);
    let need = Need::Revalidate(revalidate);
    let validates = need.validates(found);
    let (keep, beside) = (Keep::Always, Vec::new());
    let (exchange, offered) = (exchange.clone(), Vec::new());
    let asking = Asking { exchange, need, chunks: None, validates, offered, beside, keep };
    // Its outcome is told to the store; a failure leaves what is stored as it is.
    tokio::spawn(async move { asking.run(lease).await });
}

/// Tells variants apart for collapsing: requests that differ in what the newest stored response varies by
/// need not wait for each other. A clash costs a wait, never a wrong answer.
fn hint(exchange: &Exchange, found: &Candidates) -> u64 {
    let newest = found.first().map(|found| found.object.meta());
    let hint = newest.map_or(0, |meta| meta.vary.hint(&exchange.headers, &exchange.edge.hints));
    // Of something not stored yet nobody knows what it varies by, but for rules.
    match exchange.variant() {
        Some(variant) => hint ^ exchange.edge.hints.hash_one(variant),
        None => hint,
    }
}

/// Other requests' fetch failed: ours would too.
fn stand_in(exchange: &Arc<Exchange>, found: &Candidates, need: &Need) -> Result<Answer, Refusal> {
    match need.validates(found) {
        // Which of the two failures it was is not told; both allow it (RFC 9111 section 4.3.3).
        Some((stored, permit)) if now() < permit.silent.max(permit.erring) => {
            let account = CacheStatus::forwarded(Outcome::Stale.policy(), need.forward(), None);
            let account = CacheStatus { collapsed: true, ..account };
            stale(exchange, &stored.object, account)
        }
        _ => Err(Refusal::OthersFailed),
    }
}

fn stale(exchange: &Arc<Exchange>, object: &Arc<Object>, account: CacheStatus) -> Result<Answer, Refusal> {
    let serve = deliver::serve_now(exchange, object);
    if partial::lacking(exchange, object, &serve).is_some() {
        // The origin that fails is the one that would have to fill the gaps.
        return Err(Refusal::OthersFailed);
    }
    let account = CacheStatus { ttl_secs: Some(serve.ttl_secs), ..account };
    Ok(deliver::object(exchange, object, &serve, &account, Outcome::Stale))
}

async fn lead(
    exchange: &Arc<Exchange>,
    found: Candidates,
    need: Need,
    chunks: Option<Span>,
    lease: Lease,
) -> Result<Answer, Refusal> {
    let forward = need.forward();
    let validates = need.validates(&found);
    let outdated = validates.is_some();
    let stored = validates.clone();
    let asked = chunks.clone();
    let (keep, beside) = (Keep::WhileRead, partial::small_parts(exchange, &found));
    let offered = offered(exchange, &found, &need);
    let asking = Asking { exchange: exchange.clone(), need, chunks, validates, offered, beside, keep };
    let led = tokio::spawn(async move { asking.run(lease).await })
        .await
        .map_err(|_panicked| Refusal::Internal("fetch-task"))?;
    match led {
        Led::Stored(object, status, fields) => {
            let serve = deliver::serve_now(exchange, &object);
            let outcome =
                if outdated { policy::status::Outcome::Expired } else { policy::status::Outcome::Miss };
            let mut account = CacheStatus::forwarded(outcome, forward, Some(status));
            account.ttl_secs = Some(serve.ttl_secs);
            account.stored = true;
            if partial::lacking(exchange, &object, &serve).is_some() {
                // Less came than was asked for: the rest is a gap like any.
                return partial::answer(exchange, &object, &serve, account, Outcome::Miss).await;
            }
            if exchange.shape.as_ref().is_some_and(|shape| shape.wants_image()) {
                return partial::answer(exchange, &object, &serve, account, Outcome::Miss).await;
            }
            Ok(deliver::object_with(exchange, &object, &serve, fields, &account, Outcome::Miss))
        }
        Led::Updated(object, news) => {
            let serve = deliver::serve_now(exchange, &object);
            let outcome = policy::status::Outcome::Revalidated;
            let mut account = CacheStatus::forwarded(outcome, forward, Some(StatusCode::NOT_MODIFIED));
            account.ttl_secs = Some(serve.ttl_secs);
            let mut answer =
                partial::answer(exchange, &object, &serve, account, Outcome::Revalidated).await?;
            headers::hand_over_cookies(&news, answer.response.headers_mut());
            Ok(answer)
        }
        Led::Passed(response, _)
            if asked.is_some()
                && response.status() == StatusCode::PARTIAL_CONTENT
                && partial::wants_several(exchange) =>
        {
            drop(response);
            Box::pin(anew(exchange, None)).await
        }
        Led::Passed(response, times) => Ok(passed(exchange, forward, *response, times, asked)),
        Led::Stale(status, detail) => {
            let (stored, _) = stored.ok_or(Refusal::Internal("nothing-to-stand-in"))?;
            let mut account = CacheStatus::forwarded(Outcome::Stale.policy(), forward, status);
            account.detail = detail;
            stale(exchange, &stored.object, account)
        }
        Led::Failed(refusal) => Err(refusal),
    }
}

/// An origin's answer that is not stored, on its way down; cut to the client's range where more was asked for.
pub(super) fn passed(
    exchange: &Exchange,
    forward: Forward,
    response: Response<FetchBody>,
    times: Times,
    widened: Option<Span>,
) -> Answer {
    let (parts, body) = response.into_parts();
    let mut fields = headers::downstream(&parts.headers, times.request, times.response);
    let outcome = match forward {
        Forward::Bypass | Forward::Method => Outcome::Pass,
        _ => Outcome::Miss,
    };
    let account = CacheStatus::forwarded(outcome.policy(), forward, Some(parts.status));
    deliver::append_account(&mut fields, &account);
    let (status, body) = if exchange.method == http::Method::HEAD {
        (parts.status, Body::empty())
    } else if widened.is_some() && parts.status == StatusCode::PARTIAL_CONTENT {
        partial::cut(exchange, &mut fields, body)
    } else {
        (parts.status, Body::fetched(body))
    };
    Answer { response: deliver::respond(status, fields, body), outcome }
}

/// What the origin may choose from: complete in memory, so that a copy for these request fields costs nothing.
fn offered(exchange: &Exchange, found: &Candidates, need: &Need) -> Vec<Found> {
    match need {
        Need::Fetch(Fetch { forward: Forward::VaryMiss, range: Range::Dropped, .. })
            if exchange.method == http::Method::GET =>
        {
            let can = |found: &&Found| {
                found.object.whole().is_some() && policy::revalidate::can_be_offered(found.object.meta())
            };
            found.iter().filter(can).cloned().collect()
        }
        _ => Vec::new(),
    }
}

fn alone(forward: Forward) -> Fetch {
    Fetch { forward, collapse: Collapse::Alone, range: Range::AsAsked }
}

/// When the origin was asked, and when its head came.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) request: Timestamp,
    pub(super) response: Timestamp,
}

/// How a fetch ended, as far as its head.
enum Led {
    /// It is being stored; the origin's status, and its fields for the client that asked.
    Stored(Arc<Object>, StatusCode, HeaderMap),
    /// What is stored still holds; the fields of the answer that said so.
    Updated(Arc<Object>, HeaderMap),
    /// It is not to be stored.
    Passed(Box<Response<FetchBody>>, Times),
    /// What was validated stands in for the origin's error.
    Stale(Option<StatusCode>, Option<&'static str>),
    /// Nothing does.
    Failed(Refusal),
}

/// A question to the origin, with all that its answer is judged by.
struct Asking {
    exchange: Arc<Exchange>,
    need: Need,
    /// Asked for in place of the client's range.
    chunks: Option<Span>,
    validates: Option<(Found, StalePermit)>,
    /// Stored for other request fields: the origin may choose one of them.
    offered: Vec<Found>,
    /// Stored parts that an answer may be joined with.
    beside: Vec<Arc<Object>>,
    keep: Keep,
}

impl Asking {
    async fn run(mut self, lease: Lease) -> Led {
        let (answer, times) = self.ask().await;
        if let Ok(response) = &answer
            && response.status() == StatusCode::NOT_MODIFIED
            && let Some((meta, bytes)) = self.chosen(response.headers(), times)
        {
            let (filler, object) = lease.start(meta, Keep::Always);
            tokio::spawn(fill::drive(filler, Full::new(bytes)));
            return answer.map_or(Led::Failed(Refusal::Internal("no-answer")), |response| {
                Led::Updated(object, response.into_parts().0.headers)
            });
        }
        // A 304 to an offer that names none of it confirms nothing.
        let is_not_modified =
            answer.as_ref().is_ok_and(|response| response.status() == StatusCode::NOT_MODIFIED);
        let is_unchosen = !std::mem::take(&mut self.offered).is_empty() && is_not_modified;
        let (verdict, answer) = self.judge(answer, times);
        let verdict = if is_unchosen { Ok(Verdict::AskAgain) } else { verdict };
        let (verdict, answer, times) = match verdict {
            Ok(Verdict::AskAgain) => {
                // A 304 to conditions that were not ours, or not about what we have: without conditions
                // there can be none.
                self.validates = None;
                let (answer, times) = self.ask().await;
                let (verdict, answer) = self.judge(answer, times);
                (verdict, answer, times)
            }
            verdict => (verdict, answer, times),
        };
        let older = match &verdict {
            Ok(Verdict::Store(meta)) => partial::adjoining(&self.beside, meta),
            _ => None,
        };
        match (older, verdict, answer) {
            (Some(older), Ok(Verdict::Store(meta)), Ok(response)) => {
                self.combine(&older, &meta, response, times, lease).await
            }
            (_, verdict, answer) => self.carry_out(verdict, answer, times, lease),
        }
    }

    /// The head and content of the one that the origin chose of what was offered, for these request fields.
    fn chosen(&self, not_modified: &HeaderMap, times: Times) -> Option<(policy::Meta, bytes::Bytes)> {
        let found = self
            .offered
            .iter()
            .find(|found| policy::revalidate::chooses(not_modified, found.object.meta(), times.response))?;
        let exchange = &self.exchange;
        let request = exchange.policy_request();
        let asked = Asked {
            request: &request,
            rules: &exchange.site.rules,
            uri: &exchange.uri(),
            request_time: times.request,
            response_time: times.response,
            validating: None,
        };
        let meta = policy::decide::chosen(&asked, not_modified, found.object.meta())?;
        Some((meta, found.object.whole()?.clone()))
    }

    /// Stores a small part together with one it touches (RFC 9111 section 3.4). It is read whole first: what it is
    /// part of is only known with its last byte.
    async fn combine(
        self,
        older: &Object,
        meta: &policy::Meta,
        response: Response<FetchBody>,
        times: Times,
        lease: Lease,
    ) -> Led {
        let (parts, body) = response.into_parts();
        let newer = match partial::read_part(meta, body).await {
            Ok(newer) => newer,
            Err(error) => {
                lease.fail();
                return Led::Failed(Refusal::of_fetch(error));
            }
        };
        let Some((meta, bytes)) = partial::join(older, meta, &newer) else {
            return Led::Failed(Refusal::Internal("parts-apart"));
        };
        let mut fields = headers::downstream(&parts.headers, times.request, times.response);
        // Of the new part alone.
        fields.remove(header::CONTENT_RANGE);
        fields.remove(header::CONTENT_LENGTH);
        let (filler, object) = lease.start(meta, Keep::Always);
        tokio::spawn(fill::drive(filler, Full::new(bytes)));
        Led::Stored(object, parts.status, fields)
    }

    fn judge(
        &self,
        answer: Result<Response<FetchBody>, FetchError>,
        times: Times,
    ) -> (Result<Verdict, StatusCode>, Result<Response<FetchBody>, FetchError>) {
        let exchange = &self.exchange;
        let request = exchange.policy_request();
        let uri = exchange.uri();
        let validating = self.validates.as_ref().map(|(found, stale)| (found.candidate(), *stale));
        let asked = Asked {
            request: &request,
            rules: &exchange.site.rules,
            uri: &uri,
            request_time: times.request,
            response_time: times.response,
            validating,
        };
        let verdict = match &answer {
            Ok(response) => Ok(policy::judge(&asked, response.status(), response.headers())),
            Err(error) => match Refusal::failure(error) {
                Some(failure) => policy::origin_failed(&asked, failure),
                None => Err(StatusCode::BAD_REQUEST),
            },
        };
        (verdict, answer)
    }

    fn carry_out(
        self,
        verdict: Result<Verdict, StatusCode>,
        answer: Result<Response<FetchBody>, FetchError>,
        times: Times,
        lease: Lease,
    ) -> Led {
        let (verdict, response) = match (verdict, answer) {
            (Ok(Verdict::ServeStale), Err(error)) => {
                lease.fail();
                return Led::Stale(None, Some(error.reason()));
            }
            (Ok(Verdict::ServeStale), Ok(response)) => {
                lease.fail();
                return Led::Stale(Some(response.status()), None);
            }
            (Err(status), Err(error)) if self.validates.is_some() && Refusal::failure(&error).is_some() => {
                lease.fail();
                return Led::Failed(Refusal::Origin(status, error));
            }
            (_, Err(error)) => {
                lease.fail();
                return Led::Failed(Refusal::of_fetch(error));
            }
            (Ok(verdict), Ok(response)) => (verdict, response),
            (Err(_), Ok(_)) => return Led::Failed(Refusal::Internal("answer-and-failure")),
        };
        match verdict {
            Verdict::Store(meta) if matches!(meta.content, Content::Part { .. }) => {
                self.carry_out_part(&meta, response, times, lease)
            }
            Verdict::Store(meta) => {
                let status = response.status();
                let fields = headers::downstream(response.headers(), times.request, times.response);
                // A head alone has no readers to keep it going.
                let keep = if meta.content == Content::HeadOnly { Keep::Always } else { self.keep };
                let (filler, object) = lease.start(*meta, keep);
                // A body of undeclared length shows only as it comes whether the site may store it.
                let filler = filler.at_most(self.exchange.site.rules.object_bytes_max);
                // The store owns the fill: it goes on without us, and ends when nobody reads it.
                tokio::spawn(fill::drive(filler, response.into_body()));
                Led::Stored(object, status, fields)
            }
            Verdict::Pass { uncollapsed, validated, .. } => {
                lease.pass(uncollapsed);
                self.drop_validated(validated);
                Led::Passed(Box::new(response), times)
            }
            Verdict::Update { meta, validated } => match &self.validates {
                Some((found, _)) => {
                    let object = lease.update(found, *meta);
                    self.drop_validated(validated);
                    Led::Updated(object, response.into_parts().0.headers)
                }
                None => Led::Failed(Refusal::Internal("update-of-nothing")),
            },
            Verdict::AskAgain => Led::Failed(Refusal::Internal("not-modified-without-conditions")),
            Verdict::ServeStale => Led::Failed(Refusal::Internal("unreachable")),
        }
    }

    /// Whole chunks are kept as content with gaps; a small part of any other cut as what it is, if it holds what
    /// was asked for; the rest goes to the client alone.
    fn carry_out_part(&self, meta: &Meta, response: Response<FetchBody>, times: Times, lease: Lease) -> Led {
        let bytes_max = self.exchange.site.rules.object_bytes_max;
        let kept = self.chunks.as_ref().and_then(|asked| partial::to_keep(meta, asked, bytes_max));
        let Some((meta, span)) = kept else {
            if partial::is_small_answer(&self.exchange, meta) {
                let status = response.status();
                let fields = headers::downstream(response.headers(), times.request, times.response);
                let (filler, object) = lease.start(meta.clone(), self.keep);
                tokio::spawn(fill::drive(filler, response.into_body()));
                return Led::Stored(object, status, fields);
            }
            lease.pass(PARTS_UNCOLLAPSED);
            return Led::Passed(Box::new(response), times);
        };
        let status = response.status();
        let mut fields = headers::downstream(response.headers(), times.request, times.response);
        // Of the chunks, not of what the client asked for.
        fields.remove(header::CONTENT_RANGE);
        fields.remove(header::CONTENT_LENGTH);
        let (filler, object) = lease.start_part(meta, span, self.keep);
        tokio::spawn(fill::drive(filler, response.into_body()));
        Led::Stored(object, status, fields)
    }

    /// What was validated is no longer true: nothing under the key is.
    fn drop_validated(&self, fate: Validated) {
        if fate == Validated::Remove {
            self.exchange.edge.cache.invalidate(&self.exchange.key, now());
        }
    }

    fn conditions(&self) -> HeaderMap {
        match (&self.need, &self.validates) {
            (Need::Revalidate(revalidate), Some(_)) => revalidate.conditions.clone(),
            _ => policy::revalidate::offer(self.offered.iter().map(|found| found.object.meta())),
        }
    }

    async fn ask(&self) -> (Result<Response<FetchBody>, FetchError>, Times) {
        let exchange = &self.exchange;
        let conditions = self.conditions();
        let mut fields = match (&self.need, self.keep) {
            (_, Keep::Always) => headers::upstream_refresh(&exchange.headers, &conditions),
            (Need::Fetch(fetch), _) => headers::upstream(&exchange.headers, &conditions, fetch.range),
            (Need::Revalidate(asked), _) => headers::upstream(&exchange.headers, &conditions, asked.range),
        };
        if let Some(chunks) = &self.chunks {
            fields.insert(header::RANGE, partial::range_value(chunks));
        }
        let interim = exchange.interim.as_ref().filter(|_| self.keep != Keep::Always);
        ask(exchange, fields, SendBody::Empty, interim).await
    }
}

/// Adds the tags that rules give to those of the origin. What a 304 says of tags takes the place of what is stored, so
/// ours join it; where it says nothing, what is stored has them.
fn tag(exchange: &Exchange, response: &mut Response<FetchBody>) {
    const TAGS: HeaderName = HeaderName::from_static("surrogate-key");
    let Some(effects) = exchange.effects.as_ref().filter(|effects| !effects.tags.is_empty()) else { return };
    if response.status() == StatusCode::NOT_MODIFIED && !response.headers().contains_key(&TAGS) {
        return;
    }
    if let Ok(tags) = effects.tags.join(" ").parse() {
        response.headers_mut().append(TAGS, tags);
    }
}

/// Sends a request for this exchange, and counts it. Interim answers go to `interim`.
pub(super) async fn ask(
    exchange: &Exchange,
    fields: HeaderMap,
    body: SendBody,
    interim: Option<&InterimSink>,
) -> (Result<Response<FetchBody>, FetchError>, Times) {
    let request_time = now();
    let stats = &exchange.site.stats;
    let forwarding = Forwarding {
        edge: &exchange.edge,
        client: &exchange.client,
        site: &exchange.site,
        target: &exchange.target,
        method: &exchange.method,
    };
    let result = match forwarding.request(fields, body) {
        Ok(mut request) => {
            if let Some(sink) = interim.cloned() {
                hyper::ext::on_informational(&mut request, move |early| {
                    sink.put(early.status(), early.headers());
                });
            }
            stats.here().origin_fetches.fetch_add(1, Relaxed);
            let effects = exchange.effects.as_deref();
            let listed = effects.and_then(|effects| effects.origins.as_deref());
            let asked = For { key: exchange.key.as_str(), client: exchange.client.peer.ip(), listed };
            let orders = effects.and_then(|effects| Some((effects.orders()?, effects.variant.clone())));
            if let Some((orders, variant)) = orders.filter(|_| exchange.site.shields.is_some()) {
                request.extensions_mut().insert(Orders { orders, variant });
            }
            // A shield would see the path that rules made of it, and not know that the answer is for one client.
            let by_shield = exchange.client.node.is_none() && !exchange.is_private;
            match exchange.site.shields.as_ref().filter(|_| by_shield) {
                Some(shields) => {
                    let purged = exchange.edge.cache.purges().seen();
                    // Boxed: it holds a fetch within a fetch, and most sites have none.
                    Box::pin(shields.fetch(request, &asked, &exchange.site.origins, purged)).await
                }
                None => exchange.site.origins.fetch(request, &asked).await,
            }
        }
        Err(error) => Err(FetchError::Unsendable(Arc::new(error))),
    };
    let result = result.map(|mut response| {
        tag(exchange, &mut response);
        response
    });
    let result = match result {
        Ok(response) if response.extensions().get::<ByShield>().is_some() => {
            stats.here().shield_fetches.fetch_add(1, Relaxed);
            Ok(response)
        }
        Ok(response) => Ok(response.map(|body| body.counted(stats.clone()))),
        Err(error) => {
            stats.here().origin_failures.fetch_add(1, Relaxed);
            tracing::warn!(site = exchange.site.name, %error, "origin gave no answer");
            Err(error)
        }
    };
    (result, Times { request: request_time, response: now() })
}
