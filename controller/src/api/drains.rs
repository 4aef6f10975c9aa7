//! `POST /v1/drains`, `DELETE /v1/drains/{pop}`.

use std::time::SystemTime;

use http::StatusCode;
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{failed, table::Call};
use crate::{home::seconds, journal::Drain};

/// A year: beyond it, "until lifted" is meant. DNS nodes take no longer one.
const DRAIN_SECONDS_MAX: u64 = 366 * 86_400;

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

/// Takes a PoP out of all answers.
pub(super) async fn post(call: Call) -> ControlResponse {
    let asked: DrainRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    if asked.seconds.is_some_and(|seconds| !(1..=DRAIN_SECONDS_MAX).contains(&seconds)) {
        let message = format!("seconds must be 1 to {DRAIN_SECONDS_MAX}, or left out: until lifted");
        return ControlResponse::error(StatusCode::BAD_REQUEST, message);
    }
    let until = asked.seconds.map(|lasts| seconds(SystemTime::now()).saturating_add(lasts));
    let drain = Drain { pop: asked.pop, until, reason: asked.reason };
    match call.controller.drain(&drain, &call.request.who) {
        Ok(()) => ControlResponse::ok(&serde_json::json!({})),
        Err(reason) => ControlResponse::error(StatusCode::NOT_FOUND, reason),
    }
}

/// Puts it back.
pub(super) async fn delete(call: Call) -> ControlResponse {
    match call.controller.undrain(&call.parameter, &call.request.who) {
        Ok(true) => ControlResponse::ok(&serde_json::json!({})),
        Ok(false) => ControlResponse::error(StatusCode::NOT_FOUND, "that PoP is not drained"),
        Err(error) => failed(&error),
    }
}
