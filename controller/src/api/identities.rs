//! `GET /v1/identities`, `POST /v1/identities/revoke`.

use http::StatusCode;
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{failed, table::Call};
use crate::{journal::identity::Registered, serve::RevokeError};

/// Answer to `GET /v1/identities`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentityList {
    /// By name, newest first.
    pub identities: Vec<Registered>,
    /// Number of the newest list of revoked ones.
    pub revocations: u64,
}

/// Body of `POST /v1/identities/revoke`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// `node:fra`, `operator:eve`.
    pub name: String,
    /// Why, in words.
    #[serde(default)]
    pub reason: String,
}

/// Answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevokeAnswer {
    /// How many identities it were; 0: all were revoked before.
    pub revoked: usize,
    /// Why what follows from it could not be published yet.
    pub publish: Option<String>,
}

/// The register.
pub(super) async fn list(call: Call) -> ControlResponse {
    match call.controller.journal().identities() {
        Ok(identities) => {
            let revocations = call.controller.identities().revocations();
            ControlResponse::ok(&IdentityList { identities, revocations })
        }
        Err(error) => failed(&error),
    }
}

/// Revokes.
pub(super) async fn revoke(call: Call) -> ControlResponse {
    let asked: RevokeRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    match call.controller.revoke(&asked.name, &asked.reason, &call.request.who).await {
        Ok((revoked, publish)) => ControlResponse::ok(&RevokeAnswer { revoked, publish }),
        Err(unknown @ RevokeError::Unknown(_)) => ControlResponse::error(StatusCode::NOT_FOUND, unknown),
        Err(error) => failed(&error),
    }
}
