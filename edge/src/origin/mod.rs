//! Fetches from origins: over kept connections, with deadlines, at most once.
//!
//! [`exchange`] makes one exchange with one origin over a connection of [`pool`], which [`connect`] opens.
//!
//! Redirects are not followed: the client gets to see them. HTTP/1.1 only, so far.

mod body;
mod connect;
mod error;
mod exchange;
mod pool;
mod storage;
mod trust;

pub use self::{
    body::{FetchBody, SendBody},
    error::{FetchError, SendError},
    exchange::Origin,
    pool::PoolStats,
    storage::{Secret, SetupError, StorageError},
    trust::{Trust, TrustError},
};
