//! The two decisions: what to do about a request, and what to do about the origin's answer.
//!
//! This module only orders the rules that its neighbours hold; each of them cites its section.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use super::{
    meta::{Candidate, Meta},
    rules::Rules,
    time::Timestamp,
};

/// A request, digested once.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its fields, as received.
    pub headers: &'a HeaderMap,
}

impl<'a> Request<'a> {
    /// Digests the fields that decisions read.
    pub fn new(method: &'a Method, headers: &'a HeaderMap) -> Request<'a> {
        Request { method, headers }
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
    /// For the `Age` field.
    pub age_secs: u64,
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
    /// `If-None-Match` and `If-Modified-Since` to send; the client's own conditions and `Range` are
    /// not sent.
    pub conditions: HeaderMap,
    /// What may be done if the origin fails.
    pub stale: StalePermit,
    /// Why the origin is asked.
    pub forward: Forward,
}

/// How long a stale response may stand in for a failing origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalePermit {
    /// Not at all: a failing origin is a 504 (or its own 5xx).
    Never,
    /// Until then.
    Until(Timestamp),
}

/// A request to the origin whose response may be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    /// Why the origin is asked.
    pub forward: Forward,
    /// Whether other requests for the same key may wait for this one's answer.
    pub collapse: Collapse,
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
    /// The target in absolute form, normalised: `http://host/path?query`.
    pub uri: &'a str,
    /// When it was sent to the origin.
    pub request_time: Timestamp,
    /// When the head of the answer arrived.
    pub response_time: Timestamp,
    /// The stored response that was being validated, with what may be done if the origin fails.
    pub validating: Option<(Candidate<'a>, StalePermit)>,
}

/// What becomes of the origin's answer. The answer's head is final: 1xx are passed on unjudged.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Pass it on and store it under this head, in place of what was validated.
    Store(Box<Meta>),
    /// Pass it on.
    Pass {
        /// Why it is not stored.
        reason: Refusal,
        /// For so long, requests for the key do not wait for each other (their answers are judged
        /// and may be stored). Zero: nothing is remembered.
        uncollapsed: Duration,
    },
    /// A 304 that confirms what was validated: store this head in place of its old one, keep
    /// the content, answer from it.
    Update(Box<Meta>),
    /// A 304 that confirms nothing we have: ask again, without conditions.
    AskAgain,
    /// An error, and the validated response may stand in: discard the answer, serve that.
    ServeStale,
}

/// Why a response is not stored (RFC 9111 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its request's method is not understood to be cacheable.
    Method,
    /// `no-store` in the request.
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
pub fn plan(request: &Request<'_>, rules: &Rules, candidates: &[Candidate<'_>], now: Timestamp) -> Plan {
    let _ = (request, rules, candidates, now);
    Plan::Pass(Forward::Bypass)
}

/// Says what becomes of the origin's final answer. `headers` are as received.
pub fn judge(asked: &Asked<'_>, status: StatusCode, headers: &HeaderMap) -> Verdict {
    let _ = (asked, status, headers);
    Verdict::Pass { reason: Refusal::Status, uncollapsed: Duration::ZERO }
}

/// Says what to do when the origin gave no answer: [`Verdict::ServeStale`], or nothing but the
/// error of this status.
pub fn origin_failed(asked: &Asked<'_>, failure: Failure) -> Result<Verdict, StatusCode> {
    let _ = asked;
    Err(match failure {
        Failure::Unreachable => StatusCode::BAD_GATEWAY,
        Failure::Timeout => StatusCode::GATEWAY_TIMEOUT,
    })
}
