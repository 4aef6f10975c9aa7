//! Where an address is, and how far it is from there.
//!
//! Pure and synchronous. [`prefix`] and [`place`] are the vocabulary. [`database`] reads `.mmdb`
//! files and [`builtin`] the embedded country table; [`geo`] joins them with what the operator knows.
//! [`map`] turns millions of (prefix, number) pairs into an immutable lookup of nanoseconds with
//! exact scopes.
//!
//! Geography is compiled when a configuration or a database is loaded, never looked up in the
//! database per query: `Geo::compile` walks everything once and asks its caller for a number per
//! distinct place.

pub mod builtin;
mod country;
pub mod database;
pub mod geo;
pub mod list;
pub mod map;
pub mod place;
pub mod prefix;
mod range;
mod subdivision;
mod tree;
