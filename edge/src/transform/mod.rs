//! Transformations: what an edge makes of a stored response before it leaves.
//!
//! What is made is stored beside what it was made of, under a key of its own below that of the source
//! ([`crate::policy::CacheKey::derived`]), and says of which generation of content it was made
//! ([`crate::cache::Object::generation`]). It is looked for only once the source has been found and may be served, and taken
//! only if it is of the very generation. From this follows all that matters: it is never served when its source
//! would not be, whether that was purged, invalidated, replaced or has expired; it says the source's age, lifetime and
//! fields; and a 304 for the source keeps it good. It is stored, kept in memory, written to disk and evicted like anything
//! else. Purges cover it with its source, so that its space is free again.
//!
//! [`accept`] reads what clients want, [`compress`] codes, [`image`] resizes and rewrites, [`pool`] has the threads, [`workshop`] sees to it that each thing
//! is made once and stored. Nothing here knows of requests: [`crate::request`]'s `derive` does.

pub mod accept;
pub mod compress;
pub mod image;
mod niceness;
pub mod pool;
pub mod stats;
pub mod workshop;

pub use self::{accept::Accepts, workshop::Workshop};
