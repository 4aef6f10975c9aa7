//! What the cache did, said to whoever reads it: `Cache-Status` (RFC 9211) and `X-Cache-Status`.
//!
//! Nothing in it comes from the request: no key, no query, no secrets.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::decide::Forward;

/// RFC 9211.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// One word, as nginx's users know it.
pub const X_CACHE_STATUS: HeaderName = HeaderName::from_static("x-cache-status");

/// How a response came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the store, fresh.
    Hit,
    /// From the store, stale: the client or the failing origin made it so.
    Stale,
    /// From the store, stale, while it is refreshed.
    Updating,
    /// From the store, confirmed by the origin just now.
    Revalidated,
    /// From the origin; nothing suitable was stored.
    Miss,
    /// From the origin; what was stored was stale and turned out to be outdated.
    Expired,
    /// From the origin; the cache had no part in it.
    Bypass,
}

impl Outcome {
    /// The word of `X-Cache-Status`, and the label of the counter.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Hit => "HIT",
            Outcome::Stale => "STALE",
            Outcome::Updating => "UPDATING",
            Outcome::Revalidated => "REVALIDATED",
            Outcome::Miss => "MISS",
            Outcome::Expired => "EXPIRED",
            Outcome::Bypass => "BYPASS",
        }
    }

    fn is_hit(self) -> bool {
        matches!(self, Outcome::Hit | Outcome::Stale | Outcome::Updating)
    }
}

impl Forward {
    /// The token of `fwd` (RFC 9211 §2.2).
    pub fn token(self) -> &'static str {
        match self {
            Forward::Bypass => "bypass",
            Forward::Method => "method",
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Request => "request",
            Forward::Stale => "stale",
            Forward::Partial => "partial",
        }
    }
}

/// One member of `Cache-Status`: ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus {
    /// How the response came about.
    pub outcome: Outcome,
    /// Why the origin was asked, where it was.
    pub forward: Option<Forward>,
    /// What it answered.
    pub forward_status: Option<StatusCode>,
    /// Seconds of freshness left, negative past it.
    pub ttl_secs: Option<i64>,
    /// Whether the origin's answer was stored.
    pub stored: bool,
    /// Whether the request waited for another one's fetch.
    pub collapsed: bool,
    /// A word of ours: why not stored, why stale.
    pub detail: Option<&'static str>,
}

impl CacheStatus {
    /// An answer from the store without asking the origin.
    pub fn hit(outcome: Outcome, ttl_secs: i64) -> CacheStatus {
        CacheStatus {
            outcome,
            forward: None,
            forward_status: None,
            ttl_secs: Some(ttl_secs),
            stored: false,
            collapsed: false,
            detail: None,
        }
    }

    /// A request that went to the origin, which answered with `status` (`None`: it failed).
    pub fn forwarded(outcome: Outcome, forward: Forward, status: Option<StatusCode>) -> CacheStatus {
        CacheStatus {
            outcome,
            forward: Some(forward),
            forward_status: status,
            ttl_secs: None,
            stored: false,
            collapsed: false,
            detail: None,
        }
    }

    /// As the field's value.
    pub fn value(&self) -> HeaderValue {
        // Written for every response: one allocation, which the value keeps.
        let mut text = String::with_capacity(64);
        let written = fmt::Write::write_fmt(&mut text, format_args!("{self}"));
        let value = written.ok().and_then(|()| HeaderValue::from_maybe_shared(Bytes::from(text)).ok());
        value.unwrap_or(HeaderValue::from_static("Nearside"))
    }
}

/// Names the node in our member, the last one, of an answer to another edge of ours: its client then sees which PoPs
/// were on the way (RFC 9211 §2: each cache its own name).
pub fn name_hop(headers: &mut HeaderMap, node: &str) {
    let members: Vec<HeaderValue> = headers.get_all(CACHE_STATUS).iter().cloned().collect();
    let Some((ours, others)) = members.split_last() else { return };
    let Some(rest) = ours.as_bytes().strip_prefix(b"Nearside") else { return };
    let named = [b"Nearside-", node.as_bytes(), rest].concat();
    let Ok(named) = HeaderValue::from_bytes(&named) else { return };
    headers.remove(CACHE_STATUS);
    for member in others.iter().chain([&named]) {
        headers.append(CACHE_STATUS, member.clone());
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nearside")?;
        // §2.1 and §2.2: a response has either `hit` or `fwd`, not both.
        match self.forward {
            Some(forward) => write!(f, "; fwd={}", forward.token())?,
            None if self.outcome.is_hit() => f.write_str("; hit")?,
            None => {}
        }
        if let (Some(_), Some(status)) = (self.forward, self.forward_status) {
            write!(f, "; fwd-status={}", status.as_u16())?;
        }
        if let Some(ttl) = self.ttl_secs {
            write!(f, "; ttl={ttl}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        if let Some(detail) = self.detail {
            write!(f, "; detail={detail}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_2_parameters() {
        assert_eq!(CacheStatus::hit(Outcome::Hit, 30).value(), "Nearside; hit; ttl=30");
        assert_eq!(CacheStatus::hit(Outcome::Stale, -5).value(), "Nearside; hit; ttl=-5");
        let mut miss = CacheStatus::forwarded(Outcome::Miss, Forward::UriMiss, Some(StatusCode::OK));
        miss.stored = true;
        miss.collapsed = true;
        assert_eq!(miss.value(), "Nearside; fwd=uri-miss; fwd-status=200; stored; collapsed");
        let failed = CacheStatus {
            detail: Some("origin-failed"),
            ttl_secs: Some(-3),
            ..CacheStatus::forwarded(Outcome::Stale, Forward::Stale, None)
        };
        assert_eq!(failed.value(), "Nearside; fwd=stale; ttl=-3; detail=origin-failed");
    }
}
