//! Why an origin gave no usable answer.
//!
//! Typed causes only: what a client is told about them is decided in `request::refusal`, the one
//! place where errors become statuses.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use thiserror::Error;

use super::storage::StorageError;

use crate::request::incoming::IncomingError;

/// One failed attempt to get an answer, or the rest of one, from an origin. Cheap to clone: every
/// client that waited for the same fetch is told the same cause.
#[derive(Clone, Debug, Error)]
pub enum FetchError {
    /// The origin's name did not resolve.
    #[error("resolve {host}: {cause}")]
    Resolve {
        /// The name as configured.
        host: String,
        /// What the resolver said.
        cause: Arc<io::Error>,
    },
    /// The name resolved only to addresses an origin must not have.
    #[error("{host} resolves to {address}, which only an origin written as that address may use")]
    ForbiddenAddress {
        /// The name as configured.
        host: String,
        /// The address refused last.
        address: IpAddr,
    },
    /// No address took the connection.
    #[error("connect: {0}")]
    Connect(Arc<io::Error>),
    /// The TLS handshake failed; an unverifiable certificate is the usual cause.
    #[error("TLS handshake: {0}")]
    Tls(Arc<io::Error>),
    /// DNS, TCP and TLS together took too long.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// As many requests wait for a connection as may.
    #[error("the waiting queue is full")]
    QueueFull,
    /// No connection came free in time.
    #[error("no connection came free within {0:?}")]
    QueueTimeout(Duration),
    /// No origin is to be asked now: their circuits are open.
    #[error("no origin is asked for a while: none answered")]
    CircuitOpen,
    /// The request was sent, no response head came.
    #[error("no response within {0:?}")]
    FirstByteTimeout(Duration),
    /// The body stopped coming.
    #[error("no byte of the body within {0:?}")]
    BetweenBytesTimeout(Duration),
    /// The connection ended before the response head did.
    #[error("connection closed before the response: {0}")]
    Closed(Arc<hyper::Error>),
    /// The response is no HTTP, or framed in a way two readers could read differently.
    #[error("malformed response: {0}")]
    Malformed(Arc<hyper::Error>),
    /// The body ended before its framing said so, or the connection broke.
    #[error("body cut short: {0}")]
    BodyCut(Arc<hyper::Error>),
    /// A 206 whose content is not as long as its `Content-Range` says.
    #[error("a part of another length than it says")]
    PartLength,
    /// The request can't be written down.
    #[error("unsendable request: {0}")]
    Unsendable(Arc<http::Error>),
    /// Object storage has no answer to that, or none for us.
    #[error("storage: {0}")]
    Storage(#[from] StorageError),
    /// The client's own body failed: the origin is not to blame.
    #[error("request body: {0}")]
    RequestBody(#[from] SendError),
}

impl FetchError {
    /// A token for `Cache-Status` (RFC 9211 `detail`) and for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            FetchError::Resolve { .. } => "origin-dns",
            FetchError::ForbiddenAddress { .. } => "origin-address-forbidden",
            FetchError::Connect(_) => "origin-connect",
            FetchError::Tls(_) => "origin-tls",
            FetchError::ConnectTimeout(_) => "origin-connect-timeout",
            FetchError::QueueFull => "origin-queue-full",
            FetchError::QueueTimeout(_) => "origin-queue-timeout",
            FetchError::CircuitOpen => "origin-circuit-open",
            FetchError::FirstByteTimeout(_) => "origin-first-byte-timeout",
            FetchError::BetweenBytesTimeout(_) => "origin-body-timeout",
            FetchError::Closed(_) => "origin-closed",
            FetchError::Malformed(_) => "origin-malformed",
            FetchError::BodyCut(_) => "origin-body-cut",
            FetchError::PartLength => "origin-part-length",
            FetchError::Storage(error) => error.reason(),
            FetchError::Unsendable(_) => "unsendable",
            FetchError::RequestBody(_) => "request-body",
        }
    }

    /// Whether the origin has not seen anything of the request, or has said that it did nothing about it.
    pub fn is_unsent(&self) -> bool {
        matches!(
            self,
            FetchError::Resolve { .. }
                | FetchError::ForbiddenAddress { .. }
                | FetchError::Connect(_)
                | FetchError::Tls(_)
                | FetchError::ConnectTimeout(_)
                | FetchError::QueueFull
                | FetchError::QueueTimeout(_)
                | FetchError::CircuitOpen
        )
    }

    /// Sorts hyper's error for a request whose response head never came.
    pub(super) fn from_send(error: hyper::Error) -> Self {
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            if let Some(send) = inner.downcast_ref::<SendError>() {
                return FetchError::RequestBody(send.clone());
            }
            cause = inner.source();
        }
        if error.is_parse() {
            FetchError::Malformed(Arc::new(error))
        } else {
            FetchError::Closed(Arc::new(error))
        }
    }
}

/// Why a client's body could not be sent on.
#[derive(Clone, Debug, Error)]
pub enum SendError {
    /// The client's connection or its framing broke.
    #[error("{0}")]
    Client(IncomingError),
    /// More bytes than a request may have.
    #[error("longer than {0} bytes")]
    TooLarge(u64),
    /// Fewer bytes a second than a client has to send.
    #[error("sent too slowly")]
    TooSlow,
    /// The client stopped sending.
    #[error("no byte within {0:?}")]
    Stalled(Duration),
}
