//! The one place where errors become statuses.
//!
//! A refusal says in `Cache-Status` why (RFC 9211 `detail`), and in a line of text for people. What it
//! never says: addresses, paths on disk, or anything of the origin's that the client did not see.

use http::{HeaderValue, Response, StatusCode, header};

use super::{Answer, Body, deliver};
use crate::{
    origin::{
        FetchError, SendError,
        shield::{BEHIND, REFUSED},
    },
    policy::{Failure, status::CacheStatus},
    stats::Outcome,
};

/// Why a request is answered here with an error.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// No `Host`, several, or one that is no host (RFC 9112 section 3.2).
    BadHost,
    /// `:authority` and `Host` differ (RFC 9113 section 8.3.1).
    HostMismatch,
    /// A target in a form that only a forward proxy serves.
    BadTarget,
    /// Another edge has seen purges that have not come here yet: what is stored may be what it was purged of.
    Behind,
    /// Longer than a target may be.
    TargetTooLong,
    /// No site has this host. 421 rather than 404: the resource may well exist, this server is not the one
    /// to ask (RFC 9110 section 15.5.20), and a client that coalesced connections tries again on its own.
    UnknownHost,
    /// The certificate of this connection is not for this host: 421, for the same reason.
    Misdirected,
    /// CONNECT and TRACE: a cache is no forward proxy, and TRACE would show a page its own cookies.
    Method,
    /// Expects something other than `100-continue` (RFC 9110 section 10.1.1).
    Expectation,
    /// An upgrade of a request with content.
    UpgradeWithContent,
    /// The request has been here before (RFC 8586).
    Loop,
    /// A longer body than is taken.
    BodyTooLarge,
    /// As many requests of the site as may be are in flight.
    SiteBusy,
    /// An image in a size or quality that may not be asked for.
    BadImageQuery,
    /// The site's own code ended early, and must not.
    EdgeCode,
    /// `only-if-cached`, and it is not.
    NotCached,
    /// The origin gave no answer; the status is policy's choice.
    Origin(StatusCode, FetchError),
    /// Others fetched it in vain; the client would only repeat what just failed.
    OthersFailed,
    /// Something of ours broke that should not.
    Internal(&'static str),
}

impl Refusal {
    /// Sorts a failed fetch. What policy needs to know of it; `None` if the client itself was the cause.
    pub fn failure(error: &FetchError) -> Option<Failure> {
        match error {
            FetchError::RequestBody(_) | FetchError::Unsendable(_) => None,
            FetchError::Storage(error) => (!error.is_the_clients()).then_some(Failure::Unreachable),
            FetchError::ConnectTimeout(_)
            | FetchError::QueueTimeout(_)
            | FetchError::FirstByteTimeout(_)
            | FetchError::BetweenBytesTimeout(_) => Some(Failure::Timeout),
            FetchError::Resolve { .. }
            | FetchError::ForbiddenAddress { .. }
            | FetchError::Connect(_)
            | FetchError::Tls(_)
            | FetchError::QueueFull
            | FetchError::CircuitOpen
            | FetchError::Closed(_)
            | FetchError::Malformed(_)
            | FetchError::BodyCut(_)
            | FetchError::PartLength => Some(Failure::Unreachable),
        }
    }

    /// A failed fetch that nothing stored can stand in for.
    pub fn of_fetch(error: FetchError) -> Self {
        let status = match Refusal::failure(&error) {
            _ if let FetchError::Storage(error) = &error => error.status(),
            _ if matches!(
                error,
                FetchError::QueueFull | FetchError::QueueTimeout(_) | FetchError::CircuitOpen
            ) =>
            {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Some(Failure::Timeout) => StatusCode::GATEWAY_TIMEOUT,
            Some(Failure::Unreachable) => StatusCode::BAD_GATEWAY,
            None => StatusCode::BAD_REQUEST,
        };
        Refusal::Origin(status, error)
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::BadHost
            | Refusal::HostMismatch
            | Refusal::BadTarget
            | Refusal::BadImageQuery
            | Refusal::UpgradeWithContent => StatusCode::BAD_REQUEST,
            Refusal::TargetTooLong => StatusCode::URI_TOO_LONG,
            Refusal::UnknownHost | Refusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Behind => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Expectation => StatusCode::EXPECTATION_FAILED,
            Refusal::Loop => StatusCode::LOOP_DETECTED,
            Refusal::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::SiteBusy | Refusal::EdgeCode => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NotCached => StatusCode::GATEWAY_TIMEOUT,
            Refusal::OthersFailed => StatusCode::BAD_GATEWAY,
            Refusal::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Origin(_, FetchError::RequestBody(SendError::TooLarge(_))) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Refusal::Origin(_, FetchError::RequestBody(SendError::Stalled(_) | SendError::TooSlow)) => {
                StatusCode::REQUEST_TIMEOUT
            }
            Refusal::Origin(status, _) => *status,
        }
    }

    /// `detail` of `Cache-Status`.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::BadHost => "bad-host",
            Refusal::HostMismatch => "host-mismatch",
            Refusal::BadTarget => "bad-target",
            Refusal::TargetTooLong => "target-too-long",
            Refusal::UnknownHost => "unknown-host",
            Refusal::Misdirected => "misdirected",
            Refusal::Behind => "shield-behind",
            Refusal::Method => "method",
            Refusal::Expectation => "expectation",
            Refusal::UpgradeWithContent => "upgrade-with-content",
            Refusal::Loop => "loop",
            Refusal::BodyTooLarge => "body-too-large",
            Refusal::SiteBusy => "site-busy",
            Refusal::BadImageQuery => "bad-image-query",
            Refusal::EdgeCode => "edge-code",
            Refusal::NotCached => "not-cached",
            Refusal::Origin(_, error) => error.reason(),
            Refusal::OthersFailed => "origin-failed-for-others",
            Refusal::Internal(reason) => reason,
        }
    }

    /// Whether what remains of the request must not be read: the connection ends with the answer.
    fn closes(&self) -> bool {
        matches!(
            self,
            Refusal::BadHost
                | Refusal::BadTarget
                | Refusal::TargetTooLong
                | Refusal::BodyTooLarge
                | Refusal::UpgradeWithContent
        ) || matches!(self, Refusal::Origin(_, FetchError::RequestBody(_)))
    }

    /// The answer.
    pub fn answer(&self) -> Answer {
        let status = self.status();
        let text = format!("{status}\n{}\n", self.reason());
        let mut response = Response::new(Body::whole(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        // An error of ours must not outlive its cause in a cache downstream.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::SERVER, HeaderValue::from_static("nearside"));
        if matches!(self, Refusal::Behind) {
            headers.insert(REFUSED, BEHIND);
        }
        if matches!(self, Refusal::Method) {
            headers.insert(header::ALLOW, HeaderValue::from_static(super::gate::ALLOW));
        }
        if matches!(self, Refusal::Origin(StatusCode::METHOD_NOT_ALLOWED, _)) {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if matches!(self, Refusal::SiteBusy) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let outcome = match self {
            Refusal::Origin(..) | Refusal::OthersFailed => Outcome::Miss,
            _ => Outcome::Local,
        };
        let account = CacheStatus { detail: Some(self.reason()), ..CacheStatus::hit(outcome.policy(), 0) };
        deliver::append_account(headers, &CacheStatus { ttl_secs: None, ..account });
        Answer { response, outcome }
    }
}
