//! The HTTP caching rules: RFC 9110, 9111, 9211, 9213, 5861 and 8246, as pure functions.
//!
//! Nothing here reads a clock, touches a socket or keeps state. The time comes in as a
//! [`Timestamp`], decisions go out as values:
//!
//! 1. [`key::Target`] turns a request's URI into the one spelling that the key, the rules and the
//!    origin all see; [`key::CacheKey`] is the primary key.
//! 2. [`Request`] digests a request's fields once; [`plan`] looks at it and at everything stored under
//!    the key, and says what to do ([`Plan`]).
//! 3. When the origin's head is there, [`judge`], knowing the site's [`Rules`], says what becomes of it ([`Verdict`]): stored as
//!    [`Meta`], merged into what is stored, passed on, or answered with a stale response.
//!    [`origin_failed`] says the same of an origin that gave no answer.
//! 4. [`headers`] makes the fields that go upstream and downstream, [`range`] says which part of the
//!    content, [`status::CacheStatus`] is the account of it all, and [`invalidate`] names what an unsafe
//!    request made untrue.
//!
//! Invariant: no decision ever makes a response fresher than its origin said, and whatever can't
//! be understood is decided towards asking the origin.

pub mod conditional;
pub mod date;
pub mod decide;
pub mod directives;
pub mod freshness;
pub mod headers;
pub mod invalidate;
pub mod key;
pub mod meta;
pub mod range;
pub mod revalidate;
pub mod rules;
pub mod stale;
pub mod status;
pub mod storing;
pub mod structured;
pub mod time;
pub mod vary;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod sections;
#[cfg(test)]
mod sim;

pub(crate) use self::key::normal_path;
pub use self::{
    decide::{
        Asked, Collapse, Failure, Fetch, Forward, Plan, Precondition, Range, Refusal, Request, Revalidate,
        Serve, StalePermit, Validated, Verdict, answers_waiting, judge, origin_failed, plan, serve,
    },
    key::{CacheKey, Target},
    meta::{Candidate, Content, Meta},
    rules::Rules,
    time::Timestamp,
};
