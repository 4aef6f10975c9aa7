//! The edge's own endpoints on the control listener: what is cached, and purges.

use http::{StatusCode, Uri};
use nearside_node::{ControlRequest, ControlResponse};
use serde_json::json;

use crate::{
    cache::Extent,
    policy::{CacheKey, Target, Timestamp},
    request::Edge,
};

/// Where a URL is kept: the site that serves its host, and the key there.
fn key_of(edge: &Edge, url: &str) -> Result<CacheKey, ControlResponse> {
    let fail =
        |reason: &str| Err(ControlResponse::error(StatusCode::BAD_REQUEST, format!("{url}: {reason}")));
    let Ok(uri) = url.parse::<Uri>() else { return fail("not a URL") };
    let Some(host) = uri.host() else { return fail("a URL with scheme and host is needed") };
    let host = host.to_ascii_lowercase();
    let Some(site) = edge.sites.load().find(&host).cloned() else {
        return Err(ControlResponse::error(StatusCode::NOT_FOUND, format!("no site serves {host}")));
    };
    let target = Target::new(&host, uri.path(), uri.query(), &site.rules.query);
    Ok(CacheKey::new(&site.name, None, &target))
}

/// `GET /v1/cached?url=URL`: whether it is, how much of it, and for how long.
pub async fn cached(edge: &Edge, request: &ControlRequest, now: Timestamp) -> ControlResponse {
    let Some(url) = request.parameter("url") else {
        return ControlResponse::error(StatusCode::BAD_REQUEST, "say which: ?url=https://host/path");
    };
    let key = match key_of(edge, url) {
        Ok(key) => key,
        Err(response) => return response,
    };
    let Some(presence) = edge.cache.presence(&key, now).await else {
        return ControlResponse::ok(&json!({ "url": url, "state": "absent" }));
    };
    let state = match presence.extent {
        Extent::Cached => "cached",
        Extent::Partial => "partial",
    };
    ControlResponse::ok(&json!({
        "url": url,
        "state": state,
        "bytes": presence.bytes,
        "length": presence.length,
        "age_seconds": presence.age.as_secs(),
        "fresh_until": presence.fresh_until.secs(),
    }))
}
