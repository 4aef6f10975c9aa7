//! Purges over the API: ordered, waited for, asked after.

use std::time::Duration;

use http::StatusCode;
use nearside_fleet::purge::{Mode, Scope, TEXT_BYTES_MAX};
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::table::Call;
use crate::purge::board::{Delivered, Order};

/// Scopes in one call: a deploy's URLs.
pub const SCOPES_MAX: usize = 1_000;
/// How long an answer waits for PoPs unless the call says.
pub const WAIT: u64 = 10;
/// Longest wait: below the 120 s after which the listener gives up.
pub const WAIT_MAX: u64 = 100;

/// Body of `POST /v1/purges`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// What to purge.
    pub scopes: Vec<Scope>,
    /// How.
    #[serde(default)]
    pub mode: Mode,
    /// How long to wait for PoPs, at most [`WAIT_MAX`]; absent: [`WAIT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,
}

/// Answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PurgeAnswer {
    /// Number of the first purge.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
    /// One per PoP, by name.
    pub pops: Vec<Delivered>,
}

/// `POST /v1/purges`: answers when every PoP has settled, or the wait is over.
pub(super) async fn post(call: Call) -> ControlResponse {
    let bad = |message: String| ControlResponse::error(StatusCode::BAD_REQUEST, message);
    let asked: PurgeRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    if !(1..=SCOPES_MAX).contains(&asked.scopes.len()) {
        return bad(format!("expected 1 to {SCOPES_MAX} scopes, read {}", asked.scopes.len()));
    }
    if let Some(reason) = asked.scopes.iter().find_map(wrong_scope) {
        return bad(reason);
    }
    if let Err(refused) = call.confine(&asked.scopes) {
        return refused;
    }
    let wait = asked.wait_seconds.unwrap_or(WAIT);
    if wait > WAIT_MAX {
        return bad(format!("wait_seconds: expected 0 to {WAIT_MAX}, read {wait}"));
    }
    match call.controller.purge(&asked.scopes, asked.mode, &call.request.who).await {
        Ok(order) => {
            if wait > 0 {
                order.settled(usize::MAX, Duration::from_secs(wait)).await;
            }
            told(&order, if wait > 0 { Told::Outcome } else { Told::Progress })
        }
        Err(error) => ControlResponse::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// `GET /v1/purges/NUMBER?settled=PoPs&wait_seconds=…`: how far an order of late is; waits until so many PoPs have settled.
pub(super) async fn progress(call: Call) -> ControlResponse {
    let Call { controller, request, parameter: number, .. } = call;
    let order = number.parse().ok().and_then(|number| controller.purge_order(number));
    let Some(order) = order else {
        return ControlResponse::error(
            StatusCode::NOT_FOUND,
            "no purge of late has this number; `GET /v1/status` says which PoPs lack any",
        );
    };
    let parameter = |name: &str| request.parameter(name).map(str::parse::<u64>).transpose();
    let (Ok(settled), Ok(wait)) = (parameter("settled"), parameter("wait_seconds")) else {
        return ControlResponse::error(StatusCode::BAD_REQUEST, "settled and wait_seconds are numbers");
    };
    let settled = settled.map_or(usize::MAX, |settled| usize::try_from(settled).unwrap_or(usize::MAX));
    let wait = wait.unwrap_or(0).min(WAIT_MAX);
    if wait > 0 {
        order.settled(settled, Duration::from_secs(wait)).await;
    }
    told(&order, Told::Progress)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Who has not settled is `waiting`.
    Progress,
    /// Who has not settled was waited for long enough.
    Outcome,
}

fn told(order: &Order, how: Told) -> ControlResponse {
    let pops = match how {
        Told::Progress => order.progress(),
        Told::Outcome => order.outcome(),
    };
    ControlResponse::ok(&PurgeAnswer { first: order.first, last: order.last, pops })
}

/// Why a scope is none; an edge that can't read a purge would hold up all later ones.
fn wrong_scope(scope: &Scope) -> Option<String> {
    let (text, is_url) = match scope {
        Scope::All => return None,
        Scope::Url(text) | Scope::Prefix(text) => (text, true),
        Scope::Tag { tag, .. } => (tag, false),
        Scope::Site(text) => (text, false),
    };
    if !(1..=TEXT_BYTES_MAX).contains(&text.len()) {
        return Some(format!("{scope}: expected 1 to {TEXT_BYTES_MAX} bytes"));
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let has_host = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    (is_url && !has_host)
        .then(|| format!("{text:?} is no URL; expected http://host/path or https://host/path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_that_edges_could_not_read_are_refused_at_home() {
        assert_eq!(wrong_scope(&Scope::Url("https://a.test/x".into())), None);
        assert_eq!(wrong_scope(&Scope::All), None);
        assert!(wrong_scope(&Scope::Url("/x".into())).is_some());
        assert!(wrong_scope(&Scope::Prefix("https:///x".into())).is_some());
        assert!(wrong_scope(&Scope::Tag { tag: String::new(), site: None }).is_some());
    }
}
