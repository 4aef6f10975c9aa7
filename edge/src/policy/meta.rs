//! Everything a cache must remember of a stored response besides its content.
//!
//! Digested once, when the response is stored, so that a hit reads numbers and flags instead of
//! fields. The stored fields are end to end only and without `Age`, which is made anew for
//! every answer.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::{time::Timestamp, vary::Vary};

/// A stored response's head, as decisions need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// Final status.
    pub status: StatusCode,
    /// End-to-end fields, ready to be sent: hop-by-hop fields, `Age` and those named by
    /// `private="…"` or `no-cache="…"` are gone, `Date` is always there.
    pub headers: HeaderMap,
    /// When the request was sent to the origin. A purge after this moment makes the response invalid.
    pub request_time: Timestamp,
    /// When the response's head arrived.
    pub response_time: Timestamp,
    /// Age at `response_time` (RFC 9111 §4.2.3, `corrected_initial_age`).
    pub initial_age: Duration,
    /// Freshness lifetime (RFC 9111 §4.2.1); zero: stale on arrival.
    pub lifetime: Duration,
    /// Seconds since the epoch in `Date`: of several matching responses the latest is used.
    pub date_secs: u64,
    /// After the lifetime, how long it may be served while it is refreshed (RFC 5861 §3).
    /// Zero where a directive forbids stale responses.
    pub stale_while_revalidate: Duration,
    /// After the lifetime, how long it may be served because the origin fails (RFC 5861 §4).
    pub stale_if_error: Duration,
    /// How much may be done without asking the origin.
    pub reuse: Reuse,
    /// `immutable` (RFC 8246): while fresh, a request's `max-age` does not cause a validation.
    pub immutable: bool,
    /// Secondary key.
    pub vary: Vary,
    /// Entity tag and modification date.
    pub validators: Validators,
    /// How much of the representation is there.
    pub content: Content,
}

/// What a stored response's directives allow without asking the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// While fresh; stale where the client or a `stale-*` permission allows it.
    Freely,
    /// While fresh only (`must-revalidate`, `proxy-revalidate`, `s-maxage`).
    WhileFresh,
    /// Never (`no-cache`).
    AfterValidation,
}

/// What identifies the stored representation (RFC 9110 §8.8).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Validators {
    /// `ETag`, as received.
    pub etag: Option<EntityTag>,
    /// Seconds since the epoch in `Last-Modified`.
    pub last_modified_secs: Option<u64>,
    /// Whether `Last-Modified` is at least a second before `Date`, so that it counts as strong
    /// (RFC 9110 §8.8.2.2).
    pub last_modified_is_strong: bool,
}

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTag {
    /// Whether it is prefixed `W/`, or no well-formed tag at all: then it may still be compared with
    /// what clients send back, but proves no identity of bytes.
    pub weak: bool,
    /// As written, quotes included, without `W/`.
    pub opaque: Box<[u8]>,
}

/// How much of the representation is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it; its length where the head declares one.
    Whole {
        /// `Content-Length`.
        length: Option<u64>,
    },
    /// One range, from a 206: usable only for requests inside it, combinable only where
    /// [`Validators`] holds a strong one.
    Part {
        /// First byte's position.
        first: u64,
        /// Last byte's position, inclusive.
        last: u64,
        /// Length of the whole; `None`: the origin said `*`.
        complete_length: Option<u64>,
    },
    /// None of it: the answer to a HEAD, which answers others (RFC 9110 §9.3.2). Its `Content-Length` is that of the
    /// content a GET would bring.
    HeadOnly,
}

/// A stored response as the store offers it to [`super::plan`].
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its head.
    pub meta: &'a Meta,
    /// Since when it is stale whatever its lifetime says: a soft purge. It still may
    /// be revalidated, and served stale where that is allowed.
    pub stale_since: Option<Timestamp>,
}

impl Meta {
    /// Age at `now` (RFC 9111 §4.2.3).
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age.saturating_add(now.since(self.response_time))
    }

    /// Whether it is fresh at `now` (RFC 9111 §4.2), not regarding what a request asks for.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.age(now) < self.lifetime && self.reuse != Reuse::AfterValidation
    }

    /// When its lifetime ends. It was stale from the start where this is not after `response_time`.
    pub fn fresh_until(&self) -> Timestamp {
        self.response_time.plus(self.lifetime.saturating_sub(self.initial_age))
    }
}
