//! The two decisions: what to do about a request, and what to do about the origin's answer.
//!
//! This module only orders the rules that its neighbours hold; each of them cites its section.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    conditional,
    directives::RequestDirectives,
    freshness::Governing,
    meta::{Candidate, Content, Meta, Reuse},
    range, revalidate,
    rules::Rules,
    stale, storing,
    time::Timestamp,
};

/// A request, digested once.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its fields, as received.
    pub headers: &'a HeaderMap,
    /// What it wishes of caches.
    pub directives: RequestDirectives,
    /// Whether a readable `Range` is in force.
    pub has_range: bool,
    /// Whether the site wants the cache to have no part in it.
    pub bypass: bool,
    /// Lifetime that a rule gives its answer in place of the origin's.
    pub ttl: Option<Duration>,
}

impl<'a> Request<'a> {
    /// Digests the fields that decisions read.
    pub fn new(method: &'a Method, headers: &'a HeaderMap) -> Request<'a> {
        let has_range = *method == Method::GET && range::parse(headers).is_some();
        let directives = RequestDirectives::read(headers);
        Request { method, headers, directives, has_range, bypass: false, ttl: None }
    }

    /// Notes what the site's rules make of it.
    pub fn under(self, rules: &Rules) -> Request<'a> {
        Request { bypass: rules.bypasses(self.headers), ..self }
    }

    /// Notes what rules make of it that look at requests.
    pub fn ruled(self, bypass: bool, ttl: Option<Duration>) -> Request<'a> {
        Request { bypass: self.bypass || bypass, ttl, ..self }
    }
}

/// What to do about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Answer from the store; the origin is not asked.
    Serve(Serve),
    /// Answer from the store, stale, and refresh it in the background, once
    /// (`stale-while-revalidate`): send the [`Revalidate`] to the origin.
    ServeAndRefresh(Serve, Revalidate),
    /// Ask the origin whether what is stored is still true.
    Revalidate(Revalidate),
    /// Ask the origin for a response that may be stored.
    Fetch(Fetch),
    /// Ask the origin; neither collapse with other requests nor store the answer. [`judge`]
    /// the answer all the same: it may refresh or invalidate what is stored.
    Pass(Forward),
    /// `only-if-cached` and nothing suitable is stored: 504, the origin is not asked.
    GatewayTimeout,
}

/// An answer from the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Serve {
    /// Which candidate.
    pub index: usize,
    /// For the `Age` field; `None`: the origin generated or confirmed it for this very request, which
    /// the presence of an `Age` would deny (RFC 9111 §5.1).
    pub age_secs: Option<u64>,
    /// For `Cache-Status; ttl`: negative where it is stale.
    pub ttl_secs: i64,
    /// What the request's preconditions make of it (RFC 9111 §4.3.2).
    pub precondition: Precondition,
}

/// Outcome of a request's preconditions against a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The stored status and content (or a range of it).
    Proceed,
    /// 304, no content.
    NotModified,
}

/// A conditional request to the origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Revalidate {
    /// Which candidate is being validated.
    pub index: usize,
    /// `If-None-Match` and `If-Modified-Since` to send in place of the client's own conditions. Empty
    /// where nothing identifies what is stored, and for HEAD, whose answer is compared instead.
    pub conditions: HeaderMap,
    /// What becomes of the client's `Range`.
    pub range: Range,
    /// What may be done if the origin fails.
    pub stale: StalePermit,
    /// Why the origin is asked.
    pub forward: Forward,
}

/// Until when a stored response may stand in for its origin; a moment that has passed is a prohibition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StalePermit {
    /// Where the origin answers with an error (RFC 5861 §4); past it the error goes down.
    pub erring: Timestamp,
    /// Where the origin gives no answer at all (RFC 9111 §4.2.4); past it that is a 504.
    pub silent: Timestamp,
}

/// A request to the origin whose response may be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    /// Why the origin is asked.
    pub forward: Forward,
    /// Whether other requests for the same key may wait for this one's answer.
    pub collapse: Collapse,
    /// What becomes of the client's `Range`. A store that fetches whole objects (or chunks of its own
    /// choice) may send none where this says [`Range::AsAsked`], and then collapse too.
    pub range: Range,
}

/// What becomes of the client's `Range` on the way to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Not sent: the whole is asked for.
    Dropped,
    /// Sent with its `If-Range`: the answer may be a 206.
    AsAsked,
}

/// Request collapsing (RFC 9111 §4, "Collapsed requests").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collapse {
    /// Others may wait for it.
    Join,
    /// By itself.
    Alone,
}

/// Why a request goes to the origin: `Cache-Status; fwd` (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The cache was told not to handle the request.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// Nothing stored under the key.
    UriMiss,
    /// Something stored under the key, but not for these request fields.
    VaryMiss,
    /// A fresh response, but the request's directives want more.
    Request,
    /// A stale response.
    Stale,
    /// A stored part that does not hold the whole of the range asked for.
    Partial,
}

/// The question an answer of the origin belongs to.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The client's request (or the one that caused a background refresh).
    pub request: &'a Request<'a>,
    /// The site's rules.
    pub rules: &'a Rules,
    /// The target in absolute form (`http://host[:port]/path?query`), for `Content-Location`.
    pub uri: &'a str,
    /// When it was sent to the origin.
    pub request_time: Timestamp,
    /// When the head of the answer arrived.
    pub response_time: Timestamp,
    /// The stored response that was being validated, with what may be done if the origin fails.
    pub validating: Option<(Candidate<'a>, StalePermit)>,
}

impl Asked<'_> {
    /// Lifetime in place of whatever the origin says: of the rule that looks at requests, or else of the one that looks at
    /// answers. The former is for what was asked for: an error is not, nor is a page of HTML under another's name.
    pub fn ttl(&self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let is_meant = status.as_u16() < 400 && !super::rules::is_disguised(self.path(), headers);
        let asked = self.request.ttl.filter(|_| is_meant);
        asked.or_else(|| self.rules.ttl(self.path(), status, headers))
    }

    /// The target's path.
    pub fn path(&self) -> &str {
        let after_scheme = self.uri.find("://").map_or(0, |at| at + 3);
        let after = &self.uri[after_scheme..];
        let path = after.find('/').map_or("/", |at| &after[at..]);
        path.split('?').next().unwrap_or(path)
    }
}

/// What becomes of the origin's answer. The answer's head is final: 1xx are passed on unjudged.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Pass it on and store it under this head, in place of what was validated. The client that asked
    /// gets the origin's own fields ([`super::headers::downstream`]): the stored ones lack what
    /// `private="…"` and `no-cache="…"` name.
    Store(Box<Meta>),
    /// Pass it on.
    Pass {
        /// Why it is not stored.
        reason: Refusal,
        /// What becomes of the stored response that was being validated.
        validated: Validated,
        /// For so long, requests for the key do not wait for each other (their answers are judged
        /// and may be stored). Zero: nothing is remembered.
        uncollapsed: Duration,
    },
    /// What was validated is true (a 304, or a HEAD that describes it): this is its head from now on,
    /// the content stays. Answer from it.
    Update {
        /// The merged head.
        meta: Box<Meta>,
        /// Whether it may stay stored: not where the merged fields forbid it.
        validated: Validated,
    },
    /// A 304 that confirms nothing we have: ask again, without conditions, and don't keep what was
    /// validated.
    AskAgain,
    /// An error, and the validated response may stand in: discard the answer, serve that.
    ServeStale,
}

/// The fate of the stored response that was being validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validated {
    /// It stays as it is.
    Keep,
    /// The origin has something else now: remove it.
    Remove,
}

/// Why a response is not stored (RFC 9111 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its request's method is not understood to be cacheable.
    Method,
    /// `no-store` in the request, or a cookie that bypasses.
    RequestNoStore,
    /// `no-store` in the response.
    NoStore,
    /// `private`.
    Private,
    /// Its status is never stored, or not understood where `must-understand` wants it.
    Status,
    /// Answers a request with `Authorization` and does not say that it may be shared.
    Authorization,
    /// Sets a cookie and does not say that it may be shared.
    SetCookie,
    /// `Vary: *`, or fields that can't be matched.
    Vary,
    /// Neither a lifetime nor a validator: it could never be used.
    Useless,
    /// A 206 that says not or wrongly which part it is, or that nobody asked for.
    Partial,
    /// Larger than the site allows.
    Size,
}

/// How the origin failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused, reset, unresolvable, TLS failed, not HTTP.
    Unreachable,
    /// No answer in time.
    Timeout,
}

/// Says what to do about `request`, given all that is stored under its key.
///
/// Costs one pass over `candidates`, comparing the fields their `Vary` names.
pub fn plan(request: &Request<'_>, candidates: &[Candidate<'_>], now: Timestamp) -> Plan {
    if !matches!(*request.method, Method::GET | Method::HEAD) {
        return Plan::Pass(Forward::Method);
    }
    if request.bypass || conditional::is_for_the_origin(request.headers) {
        return Plan::Pass(Forward::Bypass);
    }
    match select(request, candidates, now) {
        Ok(index) => with_stored(request, &candidates[index], index, now),
        Err(forward) => without_stored(request, forward),
    }
}

/// The most recent of the stored responses that answer this request (RFC 9111 §4). Those that name what they
/// vary by come before those that don't, which may be a default that omits it (§4.1); but a stale one never
/// keeps a fresh one from being used.
fn select(request: &Request<'_>, candidates: &[Candidate<'_>], now: Timestamp) -> Result<usize, Forward> {
    let mut chosen: Option<(usize, (bool, u64, Timestamp))> = None;
    let mut missing = Forward::UriMiss;
    for (index, candidate) in candidates.iter().enumerate() {
        let meta = candidate.meta;
        // What a HEAD brought says nothing of content: to a GET it is as if it were not there.
        if meta.content == Content::HeadOnly && *request.method != Method::HEAD {
            continue;
        }
        if !meta.vary.matches(request.headers) {
            if missing == Forward::UriMiss {
                missing = Forward::VaryMiss;
            }
            continue;
        }
        let is_part = matches!(meta.content, Content::Part { .. });
        if is_part && !(request.has_range && range::within_part(request.headers, meta, now).is_some()) {
            missing = Forward::Partial;
            continue;
        }
        let is_chosen_by_fields = !meta.vary.fields.is_empty() && now < stale::stale_from(candidate);
        let recency = (is_chosen_by_fields, meta.date_secs, meta.response_time);
        if chosen.is_none_or(|(_, latest)| recency >= latest) {
            chosen = Some((index, recency));
        }
    }
    chosen.map(|(index, _)| index).ok_or(missing)
}

fn without_stored(request: &Request<'_>, forward: Forward) -> Plan {
    if request.directives.only_if_cached {
        return Plan::GatewayTimeout;
    }
    // What may not be stored is not worth waiting for.
    if request.directives.no_store {
        return Plan::Pass(forward);
    }
    let is_head = *request.method == Method::HEAD;
    let range = if request.has_range { Range::AsAsked } else { Range::Dropped };
    let personal = request.headers.contains_key(header::AUTHORIZATION);
    let collapse = if personal || request.has_range || is_head { Collapse::Alone } else { Collapse::Join };
    Plan::Fetch(Fetch { forward, collapse, range })
}

fn with_stored(request: &Request<'_>, candidate: &Candidate<'_>, index: usize, now: Timestamp) -> Plan {
    let meta = candidate.meta;
    let wishes = &request.directives;
    let stale_from = stale::stale_from(candidate);
    let fresh = now < stale_from && meta.reuse != Reuse::AfterValidation;
    let age = meta.age(now);
    // A page that never changes is not validated on an ordinary reload (RFC 8246 §2).
    // `max-age=0` is how clients spell a reload: it is not answered by what arrived within this second.
    let young_enough = wishes.max_age.secs().is_none_or(|secs| secs > 0 && age <= Duration::from_secs(secs))
        || (fresh && meta.immutable);
    let min_fresh = Duration::from_secs(wishes.min_fresh.secs().unwrap_or(0));
    let fresh_enough = wishes.min_fresh.secs().is_none() || stale_from.since(now) >= min_fresh;
    let acceptable = !wishes.no_cache && young_enough;
    let refresh = |forward| Revalidate {
        index,
        conditions: conditions(request, meta),
        range: if matches!(meta.content, Content::Part { .. }) { Range::AsAsked } else { Range::Dropped },
        stale: stale::permit(candidate, wishes),
        forward,
    };
    let serve = || Serve {
        index,
        age_secs: Some(age.as_secs()),
        ttl_secs: ttl_secs(stale_from, now),
        precondition: conditional::evaluate(request.method, request.headers, meta, now),
    };
    if fresh && acceptable && fresh_enough {
        return Plan::Serve(serve());
    }
    if !fresh && acceptable && meta.reuse == Reuse::Freely && wishes.min_fresh.secs().is_none() {
        if stale::client_accepts(candidate, wishes, now) {
            return Plan::Serve(serve());
        }
        if stale::while_revalidate(candidate, now) {
            return Plan::ServeAndRefresh(serve(), refresh(Forward::Stale));
        }
    }
    if wishes.only_if_cached {
        return Plan::GatewayTimeout;
    }
    let forward = if fresh { Forward::Request } else { Forward::Stale };
    if wishes.no_store {
        // Nothing of the answer may be stored, not even the news that nothing changed (§5.2.1.5).
        return Plan::Pass(forward);
    }
    Plan::Revalidate(refresh(forward))
}

fn conditions(request: &Request<'_>, stored: &Meta) -> HeaderMap {
    if *request.method == Method::HEAD { HeaderMap::new() } else { revalidate::conditions(stored) }
}

fn ttl_secs(stale_from: Timestamp, now: Timestamp) -> i64 {
    let (left, past) = (stale_from.since(now), now.since(stale_from));
    let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    secs(left) - secs(past)
}

/// What serving this head now would look like: after an update, or of a response that just
/// arrived and has preconditions to meet.
pub fn serve(request: &Request<'_>, meta: &Meta, index: usize, now: Timestamp) -> Serve {
    let age_secs = Some(meta.age(now).as_secs()).filter(|secs| *secs > 0);
    Serve {
        index,
        age_secs,
        ttl_secs: ttl_secs(stale::stale_from(&Candidate { meta, stale_since: None }), now),
        precondition: conditional::evaluate(request.method, request.headers, meta, now),
    }
}

/// Whether a request that waited for another one's fetch is answered by what came of it
/// (RFC 9111 §4, collapsed requests). Younger than the wait, it may be stale on arrival.
pub fn answers_waiting(request: &Request<'_>, meta: &Meta) -> bool {
    let whole = matches!(meta.content, Content::Whole { .. });
    whole && meta.reuse != Reuse::AfterValidation && meta.vary.matches(request.headers)
}

/// Says what becomes of the origin's final answer. `headers` are as received.
pub fn judge(asked: &Asked<'_>, status: StatusCode, headers: &HeaderMap) -> Verdict {
    if let Some((candidate, permit)) = &asked.validating {
        if stale::is_failure(status) && asked.response_time < permit.erring {
            return Verdict::ServeStale;
        }
        if let Some(verdict) = validated(asked, status, headers, candidate.meta) {
            return verdict;
        }
    }
    match storing::head(asked, status, headers) {
        Ok(meta) => Verdict::Store(Box::new(meta)),
        Err(reason) => {
            let outdated = asked.validating.is_some() && outdates(asked, status, reason);
            let validated = if outdated { Validated::Remove } else { Validated::Keep };
            Verdict::Pass { reason, validated, uncollapsed: storing::uncollapsed(reason) }
        }
    }
}

/// Whether an answer that isn't stored shows that what was validated is no longer true. What is said to
/// one client only (401, 403, a cookie, an error) says nothing of it: otherwise any client
/// could empty the cache by asking badly.
fn outdates(asked: &Asked<'_>, status: StatusCode, reason: Refusal) -> bool {
    let changed = status.is_success() || status.is_redirection();
    let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    let personal = matches!(reason, Refusal::Authorization | Refusal::SetCookie | Refusal::RequestNoStore);
    *asked.request.method == Method::GET && (changed || gone) && !personal
}

/// A 304 to our conditions (RFC 9111 §4.3.3), or a 200 to HEAD (§4.3.5).
fn validated(asked: &Asked<'_>, status: StatusCode, headers: &HeaderMap, stored: &Meta) -> Option<Verdict> {
    let is_head = *asked.request.method == Method::HEAD;
    if is_head && status == StatusCode::OK {
        let outdated = Verdict::Pass {
            reason: Refusal::Method,
            validated: Validated::Remove,
            uncollapsed: Duration::ZERO,
        };
        let describes = revalidate::describes(asked, headers, stored);
        if !describes && stored.content == Content::HeadOnly {
            // Nothing but the head was stored: the new one takes its place.
            return None;
        }
        return Some(match describes {
            true => update(asked, headers, stored).unwrap_or(outdated),
            false => outdated,
        });
    }
    if is_head || status != StatusCode::NOT_MODIFIED {
        return None;
    }
    if !revalidate::confirms(asked, headers, stored) {
        return Some(Verdict::AskAgain);
    }
    Some(update(asked, headers, stored).unwrap_or(Verdict::AskAgain))
}

/// The head of a stored response for the request fields of `asked`, where a 304 chose it of what was offered
/// ([`revalidate::offer`]); `None`: it may not be stored for them.
pub fn chosen(asked: &Asked<'_>, not_modified: &HeaderMap, stored: &Meta) -> Option<Meta> {
    let meta = revalidate::merge(asked, not_modified, stored).ok()?;
    storing::head(asked, meta.status, &meta.headers).is_ok().then_some(meta)
}

fn update(asked: &Asked<'_>, headers: &HeaderMap, stored: &Meta) -> Option<Verdict> {
    let meta = revalidate::merge(asked, headers, stored).ok()?;
    let forbidden = storing::forbids(&Governing::read(&meta.headers));
    let validated = if forbidden { Validated::Remove } else { Validated::Keep };
    Some(Verdict::Update { meta: Box::new(meta), validated })
}

/// Says what to do when the origin gave no answer.
///
/// # Errors
/// The status to answer with, where nothing stored may stand in: 504 also where a stored
/// response insists on validation (RFC 9111 §5.2.2.2).
pub fn origin_failed(asked: &Asked<'_>, failure: Failure) -> Result<Verdict, StatusCode> {
    if let Some((_, permit)) = &asked.validating {
        if asked.response_time < permit.silent {
            return Ok(Verdict::ServeStale);
        }
        return Err(StatusCode::GATEWAY_TIMEOUT);
    }
    Err(match failure {
        Failure::Unreachable => StatusCode::BAD_GATEWAY,
        Failure::Timeout => StatusCode::GATEWAY_TIMEOUT,
    })
}
