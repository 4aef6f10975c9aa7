//! Fetches from origins: over kept connections, with deadlines, at most once where it matters.
//!
//! | question | answered in |
//! |---|---|
//! | *which* origin, and which next | [`choose`] (pure), by what [`health`] (pure: checks, [`circuit`], [`outlier`]) knows; [`group`] carries it out within a [`budget`] |
//! | *how* it is reached | [`resolve`], [`connect`], [`trust`]; [`pool`] for HTTP/1.1, [`multiplex`] for HTTP/2 |
//! | what *one exchange* is | [`exchange`], with [`redirect`]s that are listed |
//! | what the origin gets to see | [`sign`], on a copy, for each origin anew; [`storage`] where it keeps objects |
//! | whether it is well | [`watch`] asks |
//! | which *other PoP* is asked instead | [`shield`] |
//!
//! Redirects that no list names are not followed: the client gets to see them.

mod body;
mod budget;
mod choose;
mod circuit;
mod connect;
mod error;
mod exchange;
mod group;
mod health;
mod multiplex;
mod outlier;
mod pool;
mod redirect;
mod resolve;
pub mod shield;
mod sign;
mod storage;
mod trust;
pub mod watch;

pub use self::{
    body::{FetchBody, SendBody, UploadLimits},
    choose::Standing,
    circuit::Stand,
    error::{FetchError, SendError},
    exchange::Origin,
    group::{Credentials, For, Group, GroupStats, Origins},
    health::{Checked, Shown},
    pool::PoolStats,
    storage::{Secret, SetupError, StorageError},
    trust::{Trust, TrustError},
};
