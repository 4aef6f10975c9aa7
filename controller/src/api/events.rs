//! `GET /v1/events`: what holds now, and what was told; `/v1/webhooks`: to whom.

use std::time::SystemTime;

use http::StatusCode;
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{failed, table::Call};
use crate::{
    events::{Entry, Open},
    home::seconds,
    webhooks::HookStatus,
};

/// Entries in one answer; a terminal shows fewer.
const ENTRIES_MAX: usize = 1_000;
/// How far back an answer reaches unless asked: a day.
const SINCE_SECONDS: u64 = 86_400;

/// The answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// Conditions that hold.
    pub open: Vec<Open>,
    /// What was told, newest first.
    pub events: Vec<Entry>,
}

/// `?since=SECONDS`: how far back, a day unless asked.
pub(super) async fn list(call: Call) -> ControlResponse {
    let Call { controller, request, .. } = call;
    let since = match request.parameter("since").map(str::parse::<u64>) {
        None => SINCE_SECONDS,
        Some(Ok(since)) => since,
        Some(Err(_)) => {
            return ControlResponse::error(StatusCode::BAD_REQUEST, "since: expected a number of seconds");
        }
    };
    let from = seconds(SystemTime::now()).saturating_sub(since);
    let read = || {
        let open = controller.events().open()?;
        let events = controller.journal().events_since(from, ENTRIES_MAX)?;
        Ok::<_, crate::journal::JournalError>(EventsAnswer { open, events })
    };
    match read() {
        Ok(answer) => ControlResponse::ok(&answer),
        Err(error) => failed(&error),
    }
}

/// How webhooks are doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WebhooksAnswer {
    /// By name.
    pub webhooks: Vec<HookStatus>,
}

/// `GET /v1/webhooks`.
pub(super) async fn webhooks(call: Call) -> ControlResponse {
    ControlResponse::ok(&WebhooksAnswer { webhooks: call.controller.webhooks().status() })
}

/// `POST /v1/webhooks/{name}/test`: 502 with the reason where it was not taken.
pub(super) async fn test(call: Call) -> ControlResponse {
    match call.controller.webhooks().test(&call.parameter).await {
        Some(Ok(())) => ControlResponse::ok(&serde_json::json!({})),
        Some(Err(reason)) => ControlResponse::error(StatusCode::BAD_GATEWAY, reason),
        None => ControlResponse::error(StatusCode::NOT_FOUND, "the published fleet file has no such webhook"),
    }
}
