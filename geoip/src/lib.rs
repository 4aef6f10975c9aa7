//! Where an address is, and how far it is from there.
//!
//! Pure and synchronous. [`prefix`] and [`place`] are the vocabulary; [`map`] turns millions of
//! (prefix, number) pairs into an immutable lookup of nanoseconds with exact scopes.

mod country;
pub mod map;
pub mod place;
pub mod prefix;
