//! `GET /v1/audit`.

use http::StatusCode;
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{failed, table::Call};
use crate::journal::audit::Entry;

/// Rows of one answer: some 2 MB.
pub const ROWS_MAX: usize = 10_000;

/// Answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditAnswer {
    /// Newest first.
    pub entries: Vec<Entry>,
}

/// Rows since a moment, newest first.
pub(super) async fn list(call: Call) -> ControlResponse {
    let number = |name: &str| call.request.parameter(name).map(str::parse::<u64>).transpose();
    let (Ok(since), Ok(limit)) = (number("since"), number("limit")) else {
        return ControlResponse::error(
            StatusCode::BAD_REQUEST,
            "since is seconds since the Unix epoch, limit a number of rows",
        );
    };
    let limit = limit.map_or(ROWS_MAX, |limit| usize::try_from(limit).unwrap_or(ROWS_MAX)).min(ROWS_MAX);
    match call.controller.audit_since(since.unwrap_or(0), limit) {
        Ok(entries) => ControlResponse::ok(&AuditAnswer { entries }),
        Err(error) => failed(&error),
    }
}
