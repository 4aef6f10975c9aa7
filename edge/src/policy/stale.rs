//! When a stale response may be served (RFC 9111 §4.2.4, RFC 5861).
//!
//! Never against the origin's word: `must-revalidate`, `proxy-revalidate` and `s-maxage` forbid it
//! once the response is stale, `no-cache` always. Where the origin is silent the client's `max-stale`
//! and the site's rules count; both are permissions, neither is an order.

use std::time::Duration;

use http::StatusCode;

use super::{
    decide::StalePermit,
    directives::{Delta, RequestDirectives, ResponseDirectives},
    freshness::Governing,
    meta::{Candidate, Meta, Reuse},
    rules::Rules,
    storing::covers_response,
    time::Timestamp,
};

/// How long past its lifetime a response stands in for an origin that gives no answer, where nothing
/// else is said: long enough for a person to come back from holidays and mend it; what is older is no
/// longer what the site says.
const DISCONNECTED_MAX: Duration = Duration::from_secs(7 * 86_400);

/// How long past its lifetime a response may be served, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// While it is being refreshed.
    pub while_revalidate: Duration,
    /// Because the origin fails.
    pub if_error: Duration,
}

/// What a response's directives allow without asking the origin.
pub fn reuse(directives: &ResponseDirectives) -> Reuse {
    if covers_response(&directives.no_cache) {
        return Reuse::AfterValidation;
    }
    // s-maxage has the meaning of proxy-revalidate in it (RFC 9111 §5.2.2.10).
    if directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_present() {
        return Reuse::WhileFresh;
    }
    Reuse::Freely
}

/// The windows of a response: its own, else the site's. Zero where [`reuse`] is not free.
pub fn windows(directives: &ResponseDirectives, rules: &Rules) -> Windows {
    if reuse(directives) != Reuse::Freely {
        return Windows { while_revalidate: Duration::ZERO, if_error: Duration::ZERO };
    }
    let window = |delta: Delta, rule: Duration| match delta {
        Delta::Absent => rule,
        Delta::Secs(secs) => Duration::from_secs(secs),
        Delta::Invalid => Duration::ZERO,
    };
    Windows {
        while_revalidate: window(directives.stale_while_revalidate, rules.stale_while_revalidate),
        if_error: window(directives.stale_if_error, rules.stale_if_error),
    }
}

/// When a candidate stopped, or stops, being fresh: its lifetime's end, or an earlier soft purge.
pub fn stale_from(candidate: &Candidate<'_>) -> Timestamp {
    let meta = candidate.meta;
    let arrived_stale = meta.initial_age.saturating_sub(meta.lifetime);
    let ends = if arrived_stale.is_zero() {
        meta.fresh_until()
    } else {
        let millis = u64::try_from(arrived_stale.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(meta.response_time.millis().saturating_sub(millis))
    };
    candidate.stale_since.map_or(ends, |since| since.min(ends))
}

/// Whether it may be served now while it is refreshed behind the client's back.
pub fn while_revalidate(candidate: &Candidate<'_>, now: Timestamp) -> bool {
    now < stale_from(candidate).plus(candidate.meta.stale_while_revalidate)
}

/// Whether the client's `max-stale` takes it as it is.
pub fn client_accepts(candidate: &Candidate<'_>, wishes: &RequestDirectives, now: Timestamp) -> bool {
    let Delta::Secs(secs) = wishes.max_stale else { return false };
    let staleness = now.since(stale_from(candidate));
    candidate.meta.reuse == Reuse::Freely && staleness <= Duration::from_secs(secs)
}

/// Until when it may stand in for a failing origin. A response that is still fresh (a client
/// insisted on asking) may until it is not.
///
/// For an origin that gives no answer, silence about stale responses is consent (RFC 9111 §4.2.4:
/// a disconnected cache may); one that answers with an error is not disconnected, and is believed.
pub fn permit(candidate: &Candidate<'_>, wishes: &RequestDirectives) -> StalePermit {
    let meta: &Meta = candidate.meta;
    let wished = Duration::from_secs(wishes.stale_if_error.secs().unwrap_or(0));
    let (erring, silent) = match meta.reuse {
        Reuse::AfterValidation => {
            return StalePermit { erring: Timestamp::default(), silent: Timestamp::default() };
        }
        Reuse::WhileFresh => (Duration::ZERO, Duration::ZERO),
        Reuse::Freely => {
            let erring = meta.stale_if_error.max(wished);
            (erring, if limits_errors(meta) { erring } else { DISCONNECTED_MAX })
        }
    };
    let from = stale_from(candidate);
    StalePermit { erring: from.plus(erring), silent: from.plus(silent) }
}

/// Whether the origin or the site says how long errors may be covered up: then that holds for silence too.
fn limits_errors(meta: &Meta) -> bool {
    !meta.stale_if_error.is_zero() || Governing::read(&meta.headers).directives.stale_if_error.is_present()
}

/// Statuses that count as the origin failing (RFC 5861 §4).
pub fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
