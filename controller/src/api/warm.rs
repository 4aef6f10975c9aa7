//! Warming and what is cached, over the API: for deploy pipelines.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use nearside_fleet::purge::TEXT_BYTES_MAX;
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{encode, purges::WAIT_MAX, table::Call};
use crate::{
    client::{ClientError, Peer},
    nodes::Kind,
    warm::{URLS_BYTES_MAX, URLS_MAX, Wanted},
};

/// Fastest rate that can be asked for, URLs per second and PoP.
const RATE_MAX: f64 = 10_000.0;
/// PoPs asked at once what they have.
const ASKED_AT_ONCE: usize = 64;
/// For one PoP's answer, connection included.
const CACHED: Duration = Duration::from_secs(5);

/// Body of `POST /v1/warm`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmRequest {
    /// Absolute URLs.
    pub urls: Vec<String>,
    /// Only these PoPs; empty: all.
    #[serde(default)]
    pub pops: Vec<String>,
    /// URLs per second and PoP; absent: as fast as each fetches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
}

/// Whether a URL is cached at a PoP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AtPop {
    /// Which.
    pub pop: String,
    /// `absent`, `partial`, `cached`; `unknown` where it could not be asked.
    pub state: String,
    /// Seconds since its origin made it.
    #[serde(default)]
    pub age_seconds: Option<u64>,
    /// Bytes that are there.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Bytes of it in all.
    #[serde(default)]
    pub length: Option<u64>,
    /// Until when it is fresh, seconds since the epoch.
    #[serde(default)]
    pub fresh_until: Option<u64>,
    /// Why it could not be asked.
    #[serde(default)]
    pub error: Option<String>,
}

/// Answer to `GET /v1/cached`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// Which URL.
    pub url: String,
    /// By PoP, in order of names.
    pub pops: Vec<AtPop>,
}

fn bad(message: impl std::fmt::Display) -> ControlResponse {
    ControlResponse::error(StatusCode::BAD_REQUEST, message)
}

/// `POST /v1/warm`: begins a job and says how far it is; its number asks further.
pub(super) async fn post(call: Call) -> ControlResponse {
    let asked: WarmRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    if !(1..=URLS_MAX).contains(&asked.urls.len()) {
        return bad(format!("expected 1 to {URLS_MAX} URLs, read {}", asked.urls.len()));
    }
    if let Some(reason) = asked.urls.iter().find_map(|url| wrong_url(url)) {
        return bad(reason);
    }
    if asked.urls.iter().map(String::len).sum::<usize>() > URLS_BYTES_MAX {
        return bad(format!("more than {URLS_BYTES_MAX} bytes of URLs in one job"));
    }
    if let Err(refused) = call.confine_urls(asked.urls.iter().map(String::as_str)) {
        return refused;
    }
    if asked.per_second.is_some_and(|rate| !(rate > 0.0 && rate <= RATE_MAX)) {
        return bad(format!("per_second: expected more than 0, at most {RATE_MAX}"));
    }
    let edges: Vec<Peer> = call.controller.nodes(Kind::Edge).iter().map(|node| node.peer().clone()).collect();
    if let Some(unknown) = asked.pops.iter().find(|pop| edges.iter().all(|edge| edge.name != **pop)) {
        let known: Vec<&str> = edges.iter().map(|edge| edge.name.as_str()).collect();
        let message = format!("there is no PoP {unknown}; there are: {}", known.join(", "));
        return ControlResponse::error(StatusCode::NOT_FOUND, message);
    }
    let chosen = |edge: &Peer| asked.pops.is_empty() || asked.pops.contains(&edge.name);
    let edges = edges.into_iter().filter(chosen).collect();
    let wanted = Wanted { urls: asked.urls, per_second: asked.per_second };
    match call.controller.warm(wanted, edges, &call.request.who) {
        Some(job) => ControlResponse::ok(&job.told()),
        None => ControlResponse::error(
            StatusCode::TOO_MANY_REQUESTS,
            "too many warm jobs are under way; try again when one is done",
        ),
    }
}

/// `GET /v1/warm/JOB?wait_seconds=…`: how far a job is; waits until it is over, or so long.
pub(super) async fn progress(call: Call) -> ControlResponse {
    let job = call.parameter.parse().ok().and_then(|number| call.controller.warm_job(number));
    let Some(job) = job else {
        return ControlResponse::error(StatusCode::NOT_FOUND, "no such job, or it is long ago");
    };
    let wait = match call.request.parameter("wait_seconds").map(str::parse::<u64>).transpose() {
        Ok(wait) => wait.unwrap_or(0).min(WAIT_MAX),
        Err(_) => return bad("wait_seconds is a number"),
    };
    if wait > 0 {
        job.over(Duration::from_secs(wait)).await;
    }
    ControlResponse::ok(&job.told())
}

/// `GET /v1/cached?url=URL`: asks every edge.
pub(super) async fn cached(call: Call) -> ControlResponse {
    let Some(url) = call.request.parameter("url") else {
        return bad("say which: ?url=https://host/path");
    };
    if let Some(reason) = wrong_url(url) {
        return bad(reason);
    }
    if let Err(refused) = call.confine_urls([url]) {
        return refused;
    }
    let path = format!("/v1/cached?url={}", encode(url));
    let asking = call.controller.nodes(Kind::Edge).into_iter().map(|node| {
        let path = path.clone();
        async move { at_pop(node.peer(), &path).await.0 }
    });
    let mut pops: Vec<AtPop> = stream::iter(asking).buffer_unordered(ASKED_AT_ONCE).collect().await;
    pops.sort_by(|one, other| one.pop.cmp(&other.pop));
    ControlResponse::ok(&CachedAnswer { url: url.to_owned(), pops })
}

/// Asks one edge; whether it fetches the URL too.
pub(super) async fn at_pop(peer: &Peer, path: &str) -> (AtPop, bool) {
    #[derive(Deserialize)]
    struct Said {
        state: String,
        age_seconds: Option<u64>,
        bytes: Option<u64>,
        length: Option<u64>,
        fresh_until: Option<u64>,
        #[serde(default)]
        fetching: bool,
    }
    let pop = peer.name.clone();
    let asked = async { peer.ask(Method::GET, path, Bytes::new(), CACHED).await?.good()?.json::<Said>() };
    let unknown = |error: String| AtPop {
        pop: pop.clone(),
        state: "unknown".to_owned(),
        age_seconds: None,
        bytes: None,
        length: None,
        fresh_until: None,
        error: Some(error),
    };
    match asked.await {
        Ok(Said { state, age_seconds, bytes, length, fresh_until, fetching }) => {
            (AtPop { pop, state, age_seconds, bytes, length, fresh_until, error: None }, fetching)
        }
        Err(ClientError::Status { message, .. }) => (unknown(message), false),
        Err(error) => (unknown(error.to_string()), false),
    }
}

pub(super) fn wrong_url(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let has_host = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    if !has_host || url.len() > TEXT_BYTES_MAX {
        let shown: String = url.chars().take(200).collect();
        return Some(format!(
            "{shown:?} is no URL; expected http://host/path or https://host/path of at most {TEXT_BYTES_MAX} bytes"
        ));
    }
    None
}
