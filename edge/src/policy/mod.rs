//! The HTTP caching rules: RFC 9110, 9111, 9211, 9213, 5861 and 8246, as pure functions.
//!
//! Nothing here reads a clock, touches a socket or keeps state. The time comes in as a
//! [`Timestamp`], decisions go out as values:
//!
//! 1. [`key::Target`] turns a request's URI into the one spelling that the key, the rules and the
//!    origin all see; [`key::CacheKey`] is the primary key.
//! 2. [`Request`] digests a request's fields once; [`plan`] looks at it, at the site's [`Rules`]
//!    and at everything stored under the key, and says what to do ([`Plan`]).
//! 3. When the origin's head is there, [`judge`] says what becomes of it ([`Verdict`]): stored as
//!    [`Meta`], merged into what is stored, passed on, or answered with a stale response.
//!    [`origin_failed`] says the same of an origin that gave no answer.
//! 4. `headers` makes the fields that go upstream and downstream, `status` the account of it all,
//!    `invalidate` names what an unsafe request made untrue.
//!
//! Invariant: no decision ever makes a response fresher than its origin said, and whatever can't
//! be understood is decided towards asking the origin.

pub mod decide;
pub mod key;
pub mod meta;
pub mod rules;
pub mod time;
pub mod vary;

pub use self::{
    decide::{
        Asked, Collapse, Failure, Fetch, Forward, Plan, Precondition, Refusal, Request, Revalidate, Serve,
        StalePermit, Verdict, judge, origin_failed, plan,
    },
    key::{CacheKey, Target},
    meta::{Candidate, Content, Meta},
    rules::Rules,
    time::Timestamp,
};
