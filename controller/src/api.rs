//! The controller's HTTPS API: what the command line, deploy pipelines and operators' programs ask.
//!
//! [`table::ROUTES`] lists every endpoint with the least a caller must be, `docs/openapi.json` describes them. Here a
//! request meets its row: known or 404, by that method or 405, allowed or 401 or 403, not too often or 429. Callers show a
//! certificate of the fleet's CA or a token.

pub mod audit;
pub mod certificates;
pub mod drains;
pub mod events;
pub mod explain_http;
pub mod identities;
pub mod limits;
pub mod publish;
pub mod purges;
pub mod route;
pub mod stats;
pub mod table;
pub mod tokens;
pub mod warm;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use nearside_node::{
    ControlRequest, ControlResponse, Role,
    control::{
        server::{Judge, Shown},
        table::Found,
    },
    metrics::{self, Metrics},
};

pub use self::{
    certificates::RenewRequest,
    drains::DrainRequest,
    limits::Limits,
    purges::{PurgeAnswer, PurgeRequest, SCOPES_MAX},
};
use self::{limits::Allowance, table::Call};
use crate::{home::seconds, journal::audit::Entry, nodes::Kind, serve::Controller, tokens::Tokens};

/// Characters of a request, or of why it failed, in a row of the audit log.
const AUDIT_CHARS_MAX: usize = 300;

/// The description of this API.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// An explanation reads databases.
const EXPLAIN: Duration = Duration::from_secs(10);

/// Answers one request.
pub async fn answer(
    controller: Arc<Controller>,
    metrics: Metrics,
    request: ControlRequest,
) -> ControlResponse {
    let path = request.path.clone();
    let (route, parameter) = match nearside_node::control::table::find(table::ROUTES, &request.method, &path)
    {
        Found::Route(route, parameter) => (route, parameter),
        Found::OtherMethods(methods) => return nearside_node::control::table::other_methods(&methods),
        Found::Nothing => return ControlResponse::not_found(),
    };
    if !route.least.allows(&request.role) {
        let message = match &request.role {
            Role::Token(grant) => format!("token {} may not: it is a {}'s", grant.token, grant.role),
            _ => "this needs an operator's certificate of the fleet, or an operator's token".to_owned(),
        };
        let refused = ControlResponse::error(StatusCode::FORBIDDEN, message);
        noted(&controller, &request, &refused, Written::No);
        return refused;
    }
    let parameter = parameter.unwrap_or_default().to_owned();
    let (log, asked) = (Arc::clone(&controller), ControlRequest { body: Bytes::new(), ..request.clone() });
    let answer = (route.handler)(Call { controller, metrics, request, parameter });
    let (answer, written) = crate::audit::answering(asked.from, answer).await;
    noted(&log, &asked, &answer, if written { Written::Yes } else { Written::No });
    answer
}

/// Whether an answer was written to the audit log by what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Yes,
    No,
}

/// Makes sure that the audit log has a row of every request for a change: of those that failed too, with the reason.
fn noted(controller: &Controller, request: &ControlRequest, answer: &ControlResponse, written: Written) {
    let failed = !answer.status.is_success();
    if request.method == Method::GET || (written == Written::Yes && !failed) {
        return;
    }
    let what = format!("{} {}", request.method, request.path);
    let reason = String::from_utf8_lossy(&answer.body);
    let result = match failed {
        true => format!("{}: {}", answer.status.as_u16(), shortened(reason.trim())),
        false => "done".to_owned(),
    };
    let from = request.from.map(|from| from.to_string());
    let (at, who) = (seconds(SystemTime::now()), request.who.clone());
    controller.audit_entry(&Entry { at, who, from, what: shortened(&what), result });
}

fn shortened(text: &str) -> String {
    text.chars().take(AUDIT_CHARS_MAX).collect()
}

/// Who asks, by certificate or token, and whether not too often.
pub fn judge(controller: Arc<Controller>) -> Judge {
    let limits = Limits::default();
    Arc::new(move |shown| {
        if controller.identities().refuses(&shown.serial) {
            // The handshake refuses new connections; this ends those that were open.
            return Err(ControlResponse::error(StatusCode::FORBIDDEN, "this identity was revoked"));
        }
        judged(&limits, controller.tokens(), shown)
    })
}

fn judged(limits: &Limits, tokens: &Tokens, shown: &Shown) -> Result<(Role, String), ControlResponse> {
    let (mut role, mut who) = shown.by_certificate();
    if let (Role::Anonymous, Some(bearer)) = (&role, &shown.bearer)
        && let Some(grant) = tokens.find(bearer, seconds(SystemTime::now()))
    {
        who = format!("token:{}", grant.token);
        role = Role::Token(grant);
    }
    let (caller, allowance) = match (&role, shown.from) {
        (Role::Anonymous, Some(from)) => (from.to_string(), Allowance::Stranger),
        _ => (who.clone(), Allowance::Known),
    };
    limits.take(&caller, allowance, Instant::now()).map_err(too_often)?;
    if role == Role::Anonymous {
        let message = match &shown.bearer {
            Some(_) => "this token is none of ours, has ended or was revoked",
            None => "show a certificate of the fleet, or `Authorization: Bearer TOKEN`",
        };
        let refused = ControlResponse::error(StatusCode::UNAUTHORIZED, message);
        let challenge = HeaderValue::from_static("Bearer realm=\"nearside\"");
        return Err(refused.with(header::WWW_AUTHENTICATE, challenge));
    }
    Ok((role, who))
}

fn too_often(wait: Duration) -> ControlResponse {
    let seconds = wait.as_secs() + 1;
    let message = format!("too many requests from this caller; again in {seconds} s");
    ControlResponse::error(StatusCode::TOO_MANY_REQUESTS, message)
        .with(header::RETRY_AFTER, HeaderValue::from(seconds))
}

/// `/metrics` alone, for the separate plain listener.
pub async fn answer_scrape(metrics: Metrics, request: ControlRequest) -> ControlResponse {
    match (&request.method, request.path.as_str()) {
        (&Method::GET, "/metrics") => scrape(&metrics),
        _ => ControlResponse::not_found(),
    }
}

fn scrape(metrics: &Metrics) -> ControlResponse {
    ControlResponse::new(StatusCode::OK, metrics::CONTENT_TYPE, metrics.encode())
}

async fn openapi(_call: Call) -> ControlResponse {
    ControlResponse::new(StatusCode::OK, "application/json", OPENAPI)
}

async fn metrics(call: Call) -> ControlResponse {
    scrape(&call.metrics)
}

async fn status(call: Call) -> ControlResponse {
    match call.controller.status() {
        Ok(status) => ControlResponse::ok(&status),
        Err(error) => failed(&error),
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

async fn explain(call: Call) -> ControlResponse {
    let Call { controller, request, .. } = call;
    let query: Vec<String> =
        request.query.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    let path = format!("/v1/explain?{}", query.join("&"));
    let mut last = "the fleet has no DNS node with a control address".to_owned();
    for node in controller.nodes(Kind::Dns) {
        match node.peer().ask(Method::GET, &path, Bytes::new(), EXPLAIN).await {
            Ok(answer) => {
                return ControlResponse::new(answer.status, "application/json", answer.body);
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
    use nearside_node::control::TokenRole;

    use super::*;

    #[test]
    fn a_caller_without_a_name_is_asked_for_one_and_a_busy_one_to_wait() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Arc::new(crate::journal::Journal::open(&temp.path().join("j.db")).unwrap());
        let tokens = Tokens::open(journal).unwrap();
        let (limits, home) = (Limits::default(), Some(std::net::Ipv4Addr::LOCALHOST.into()));
        let judged = |limits: &Limits, shown: &Shown| judged(limits, &tokens, shown);
        let stranger = Shown { from: home, ..Shown::default() };
        let refused = judged(&limits, &stranger).unwrap_err();
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.headers[0].0, header::WWW_AUTHENTICATE);
        let operator = Shown { common_name: Some("operator:eve".into()), from: home, ..Shown::default() };
        assert_eq!(judged(&limits, &operator).unwrap(), (Role::Operator, "operator:eve".to_owned()));
        let told = (0..100).map(|_| judged(&limits, &stranger).unwrap_err()).last().unwrap();
        assert_eq!(told.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(told.headers, [(header::RETRY_AFTER, HeaderValue::from_static("1"))]);
        let www = ["www".to_owned()];
        let (_, token) = tokens.create("ci", TokenRole::Deployer, &www, None, 1).unwrap();
        let with_token = Shown { bearer: Some(token), ..stranger };
        let (role, who) = judged(&limits, &with_token).unwrap();
        assert_eq!((role.token().unwrap().sites.as_slice(), who.as_str()), (&www[..], "token:ci"));
        assert!(judged(&limits, &operator).is_ok(), "one caller does not use up what another has");
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("2001:db8::/32 a&b"), "2001%3Adb8%3A%3A%2F32%20a%26b");
    }

    #[test]
    fn the_document_describes_every_endpoint_and_no_other() {
        let document = serde_json::from_str(OPENAPI).unwrap();
        let differences = nearside_node::control::table::differences(table::ROUTES, &document, "controller");
        assert_eq!(differences, [""; 0]);
    }
}
