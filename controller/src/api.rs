//! The controller's HTTPS API: what the command line asks.
//!
//! | request | does |
//! |---|---|
//! | `GET /v1/status` | [`FleetStatus`](crate::serve::FleetStatus) |
//! | `POST /v1/publish` | publishes what is on disk; 422 with `reasons` if it is bad |
//! | `POST /v1/purges` `{"scopes": ["all"], "mode": "soft"}` | purges; answers per PoP |
//! | `GET /v1/purges/{number}` | how far a purge of late is |
//! | `POST /v1/drains` `{"pop": "fra", "seconds": 3600, "reason": "disk"}` | drains; without `seconds` until lifted |
//! | `DELETE /v1/drains/{pop}` | lifts a drain |
//! | `POST /v1/certificates/renew` `{"site": "www"}` | renews from the fleet's CA; without `site` all |
//! | `GET /v1/explain?name=&type=&client=` | asks the first DNS node that answers |
//! | `GET /metrics` | OpenMetrics |
//!
//! Callers show a certificate of the fleet's CA. Nodes may read, operators change.

pub mod purges;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use nearside_node::{
    ControlRequest, ControlResponse, Role,
    metrics::{self, Metrics},
};
use serde::{Deserialize, Serialize};

use crate::{home::seconds, journal::Drain, nodes::Kind, serve::Controller};

/// A year: beyond it, "until lifted" is meant. DNS nodes take no longer one.
const DRAIN_SECONDS_MAX: u64 = 366 * 86_400;
/// An explanation reads databases.
const EXPLAIN: Duration = Duration::from_secs(10);

/// Body of `POST /v1/drains`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Which PoP.
    pub pop: String,
    /// For how long; absent: until lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Body of `POST /v1/certificates/renew`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Which site; absent: all that have their certificate from the fleet's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// Answers one request.
pub async fn answer(
    controller: Arc<Controller>,
    metrics: Metrics,
    request: ControlRequest,
) -> ControlResponse {
    let reads = request.method == Method::GET;
    let allowed = if reads { request.role.may_read() } else { request.role.may_change() };
    if !allowed {
        return ControlResponse::error(
            StatusCode::FORBIDDEN,
            "this needs an operator's certificate of the fleet",
        );
    }
    let who = who(&request.role);
    match (&request.method, request.path.as_str()) {
        (&Method::GET, "/v1/status") => match controller.status() {
            Ok(status) => ControlResponse::ok(&status),
            Err(error) => failed(&error),
        },
        (&Method::GET, "/v1/explain") => explain(&controller, &request).await,
        (&Method::GET, "/metrics") => scrape(&metrics),
        (&Method::POST, "/v1/publish") => published(controller.publish(&who).await),
        (&Method::POST, "/v1/purges") => purges::purge(&controller, &request, &who).await,
        (&Method::GET, path) if path.starts_with("/v1/purges/") => {
            purges::progress(&controller, &request, path.trim_start_matches("/v1/purges/")).await
        }
        (&Method::POST, "/v1/drains") => drain(&controller, &request, &who),
        (&Method::POST, "/v1/certificates/renew") => match request.json::<RenewRequest>() {
            Ok(asked) => published(controller.renew(asked.site.as_deref(), &who).await),
            Err(refused) => refused,
        },
        (&Method::DELETE, path) => {
            match path.strip_prefix("/v1/drains/").map(|pop| controller.undrain(pop, &who)) {
                Some(Ok(true)) => ControlResponse::ok(&serde_json::json!({})),
                Some(Ok(false)) => ControlResponse::error(StatusCode::NOT_FOUND, "that PoP is not drained"),
                Some(Err(error)) => failed(&error),
                None => ControlResponse::not_found(),
            }
        }
        _ => ControlResponse::not_found(),
    }
}

/// `/metrics` alone, for the separate plain listener.
pub async fn answer_scrape(metrics: Metrics, request: ControlRequest) -> ControlResponse {
    match (&request.method, request.path.as_str()) {
        (&Method::GET, "/metrics") => scrape(&metrics),
        _ => ControlResponse::not_found(),
    }
}

fn scrape(metrics: &Metrics) -> ControlResponse {
    let body = Bytes::from(metrics.encode());
    ControlResponse { status: StatusCode::OK, content_type: metrics::CONTENT_TYPE, body }
}

fn who(role: &Role) -> String {
    match role {
        Role::Controller => "controller".to_owned(),
        Role::Operator => "operator".to_owned(),
        Role::Node(name) => format!("node:{name}"),
        Role::Local => "local".to_owned(),
        Role::Anonymous => "anonymous".to_owned(),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ControlResponse {
    ControlResponse::error(StatusCode::INTERNAL_SERVER_ERROR, error)
}

fn published(outcome: Result<crate::serve::PublishOutcome, Vec<String>>) -> ControlResponse {
    match outcome {
        Ok(outcome) => ControlResponse::ok(&outcome),
        Err(reasons) => ControlResponse::json(
            StatusCode::UNPROCESSABLE_ENTITY,
            &serde_json::json!({ "reasons": reasons }),
        ),
    }
}

fn drain(controller: &Controller, request: &ControlRequest, who: &str) -> ControlResponse {
    let asked: DrainRequest = match request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    if asked.seconds.is_some_and(|seconds| !(1..=DRAIN_SECONDS_MAX).contains(&seconds)) {
        let message = format!("seconds must be 1 to {DRAIN_SECONDS_MAX}, or left out: until lifted");
        return ControlResponse::error(StatusCode::BAD_REQUEST, message);
    }
    let until = asked.seconds.map(|lasts| seconds(SystemTime::now()).saturating_add(lasts));
    match controller.drain(&Drain { pop: asked.pop, until, reason: asked.reason }, who) {
        Ok(()) => ControlResponse::ok(&serde_json::json!({})),
        Err(reason) => ControlResponse::error(StatusCode::NOT_FOUND, reason),
    }
}

async fn explain(controller: &Controller, request: &ControlRequest) -> ControlResponse {
    let query: Vec<String> =
        request.query.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    let path = format!("/v1/explain?{}", query.join("&"));
    let mut last = "the fleet has no DNS node with a control address".to_owned();
    for node in controller.nodes(Kind::Dns) {
        match node.peer().ask(Method::GET, &path, Bytes::new(), EXPLAIN).await {
            Ok(answer) => {
                return ControlResponse {
                    status: answer.status,
                    content_type: "application/json",
                    body: answer.body,
                };
            }
            Err(error) => last = format!("{}: {error}", node.peer().name),
        }
    }
    ControlResponse::error(StatusCode::BAD_GATEWAY, last)
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("2001:db8::/32 a&b"), "2001%3Adb8%3A%3A%2F32%20a%26b");
    }
}
