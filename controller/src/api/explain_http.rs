//! `POST /v1/explain/http`: asks an edge what would become of a request, and why.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::Call;
use crate::nodes::Kind;

/// An edge answers from memory, or with one look at its disk.
const WITHIN: Duration = Duration::from_secs(10);

/// Body of the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainHttp {
    /// Absolute.
    pub url: String,
    /// `GET` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Names and values.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The client's address.
    pub client: std::net::IpAddr,
    /// Whose edge is asked; absent: the first that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pop: Option<String>,
}

pub(super) async fn post(call: Call) -> ControlResponse {
    let Call { controller, request, .. } = call;
    let mut asked: ExplainHttp = match request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let wanted = asked.pop.take();
    let body = match serde_json::to_vec(&asked) {
        Ok(body) => Bytes::from(body),
        Err(error) => return ControlResponse::error(StatusCode::BAD_REQUEST, error),
    };
    let mut last = match &wanted {
        Some(pop) => format!("there is no PoP {pop} with a control address"),
        None => "the fleet has no PoP with a control address".to_owned(),
    };
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|pop| pop == name);
    for node in controller.nodes(Kind::Edge) {
        if !is_wanted(&node.peer().name) {
            continue;
        }
        match node.peer().ask(Method::POST, "/v1/explain-http", body.clone(), WITHIN).await {
            Ok(answer) => return ControlResponse::new(answer.status, "application/json", answer.body),
            Err(error) => last = format!("{}: {error}", node.peer().name),
        }
    }
    ControlResponse::error(StatusCode::BAD_GATEWAY, last)
}
