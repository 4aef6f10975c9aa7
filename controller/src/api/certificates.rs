//! `POST /v1/certificates/renew`.

use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{published, table::Call};

/// Body of `POST /v1/certificates/renew`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Which site; absent: all that have their certificate from the fleet's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// Issues anew and publishes.
pub(super) async fn renew(call: Call) -> ControlResponse {
    match call.request.json::<RenewRequest>() {
        Ok(asked) => published(call.controller.renew(asked.site.as_deref(), &call.request.who).await),
        Err(refused) => refused,
    }
}
