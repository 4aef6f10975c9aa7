//! `GET /v1/route`: the best PoP for a client, whether a file is there, and where to fetch it.

use std::net::IpAddr;

use http::{HeaderValue, StatusCode, header};
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{
    table::Call,
    warm::{AtPop, at_pop, wrong_url},
};
use crate::{api::encode, nodes::Kind, route::RouteError};

/// Answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// The PoP's name.
    pub pop: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// For how many seconds this holds.
    pub ttl: u64,
    /// The URL that was asked about, `{pop}` replaced.
    pub url: Option<String>,
    /// Whether that is cached there; absent without `url`.
    pub cached: Option<AtPop>,
    /// Whether it was put on that edge's list to fetch.
    pub fetching: bool,
}

/// `?name=NAME&client=IP[&url=URL][&fetch=1][&redirect=1]`.
pub(super) async fn get(call: Call) -> ControlResponse {
    let bad = |message: String| ControlResponse::error(StatusCode::BAD_REQUEST, message);
    let request = &call.request;
    let is = |name: &str| request.parameter(name) == Some("1");
    let Some(name) = request.parameter("name") else {
        return bad("say for which name: ?name=www.example.org&client=IP".to_owned());
    };
    let Some(client) = request.parameter("client").and_then(|client| client.parse::<IpAddr>().ok()) else {
        return bad("client: expected an address".to_owned());
    };
    let url = request.parameter("url");
    if let Some(reason) = url.and_then(wrong_url) {
        return bad(reason);
    }
    let Some(config) = call.controller.config() else {
        return ControlResponse::error(StatusCode::SERVICE_UNAVAILABLE, "nothing was published yet");
    };
    let best = match call.controller.router().best(&config, name, client).await {
        Ok(best) => best,
        Err(error) => {
            let status = match error {
                RouteError::Name(_) => StatusCode::BAD_REQUEST,
                RouteError::NoPop(_) => StatusCode::NOT_FOUND,
                RouteError::Unreachable(_) => StatusCode::BAD_GATEWAY,
            };
            return ControlResponse::error(status, error);
        }
    };
    let url = url.map(|url| url.replace("{pop}", &best.pop));
    if let Err(refused) = call.confine_urls(url.as_deref()) {
        return refused;
    }
    let (cached, fetching) = match &url {
        Some(url) => {
            let fetch = if is("fetch") { "&fetch=1" } else { "" };
            let path = format!("/v1/cached?url={}{fetch}", encode(url));
            match call.controller.nodes(Kind::Edge).into_iter().find(|node| node.peer().name == best.pop) {
                Some(node) => {
                    let (cached, fetching) = at_pop(node.peer(), &path).await;
                    (Some(cached), fetching)
                }
                None => (None, false),
            }
        }
        None => (None, false),
    };
    let ttl = best.ttl.as_secs();
    let answer = RouteAnswer { pop: best.pop, addresses: best.addresses, ttl, url, cached, fetching };
    let location = answer.url.as_deref().filter(|_| is("redirect")).map(HeaderValue::from_str);
    match location {
        None => ControlResponse::ok(&answer),
        Some(Ok(location)) => {
            ControlResponse::json(StatusCode::TEMPORARY_REDIRECT, &answer).with(header::LOCATION, location)
        }
        Some(Err(_)) => bad("url: can't stand in a Location".to_owned()),
    }
}
