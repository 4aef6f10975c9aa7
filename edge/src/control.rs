//! The edge's own endpoints on the control listener: what is cached, what shall be, and purges.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::{Method, StatusCode, Uri};
use nearside_fleet::{
    config::QueryKey,
    purge::{Acknowledged, Mode, PURGES_MAX, Purge, Purges, Scope, TEXT_BYTES_MAX},
};
use nearside_node::{Access, ControlRequest, ControlResponse, Route, routes::route};
use serde_json::json;

use crate::{
    cache::Extent,
    minutes::{self, Minutes},
    origin::{Group, Origin, Shown, Standing},
    policy::{CacheKey, Target, Timestamp},
    purge::{self, Order, PurgeError},
    request::Edge,
    warm::{self, Wanted, Warmer},
};

/// The endpoints an edge has beside every node's.
pub const ROUTES: &[Route<()>] = &[
    route(Method::POST, "/v1/purges", Access::Change, "Purges; answered once all is in force and on disk"),
    route(Method::GET, "/v1/cached", Access::Read, "Whether a URL is cached"),
    route(Method::GET, "/v1/origins", Access::Read, "Every site's origins, and how they are"),
    route(Method::GET, "/v1/stats", Access::Read, "What was counted, minute by minute"),
    route(Method::POST, "/v1/warm", Access::Change, "Takes a list of URLs to fetch"),
    route(Method::GET, "/v1/warm", Access::Read, "How far the list of URLs to fetch is"),
    route(Method::POST, "/v1/explain-http", Access::Read, "What would become of a request, and why"),
];

/// `POST /v1/purges`: answers once all of them are in force and journaled.
pub async fn purge(edge: &Edge, request: &ControlRequest, now: Timestamp) -> ControlResponse {
    let Purges { purges, journal } = match request.json() {
        Ok(purges) => purges,
        Err(response) => return response,
    };
    if purges.len() > PURGES_MAX {
        let message = format!("{} purges in one message; at most {PURGES_MAX}", purges.len());
        return ControlResponse::error(StatusCode::PAYLOAD_TOO_LARGE, message);
    }
    if let Some(journal) = journal
        && let Err(error) = edge.cache.find_place(journal, now).await
    {
        tracing::error!(%error, "purges not acknowledged");
        return ControlResponse::error(StatusCode::INTERNAL_SERVER_ERROR, error);
    }
    let orders: Result<Vec<Order>, ControlResponse> =
        purges.into_iter().map(|asked| order(edge, asked)).collect();
    let orders = match orders {
        Ok(orders) => orders,
        Err(response) => return response,
    };
    for order in &orders {
        tracing::info!(scope = ?order.scope, kind = ?order.kind, sequence = order.sequence, "purge");
    }
    if let Err(error) = edge.cache.purge_all(orders, now).await {
        let status = match error {
            PurgeError::NotDurable(_) => StatusCode::INTERNAL_SERVER_ERROR,
            PurgeError::TooFarAhead { .. } => StatusCode::CONFLICT,
            PurgeError::NotAKey(_) => StatusCode::BAD_REQUEST,
        };
        tracing::error!(%error, "purges not acknowledged");
        return ControlResponse::error(status, error);
    }
    ControlResponse::ok(&Acknowledged { through: edge.cache.purge_sequence() })
}

/// A purge as the fleet says it, as the store does it.
fn order(edge: &Edge, asked: Purge) -> Result<Order, ControlResponse> {
    let Purge { sequence, scope, mode } = asked;
    let scope = match scope {
        Scope::Url(url) => match key_of(edge, bounded(&url)?) {
            Ok(key) => purge::Scope::Key(key.as_str().to_owned()),
            Err(_) if sequence.is_some() => nothing(),
            Err(response) => return Err(response),
        },
        Scope::Prefix(prefix) => match pattern_of(edge, bounded(&prefix)?) {
            Ok((site, pattern)) => purge::Scope::Pattern { site, pattern },
            Err(_) if sequence.is_some() => nothing(),
            Err(response) => return Err(response),
        },
        Scope::Tag { tag, site } => purge::Scope::Tag { site, tag: bounded(&tag)?.to_owned() },
        Scope::Site(site) => purge::Scope::Site(site),
        Scope::All => purge::Scope::All,
    };
    let kind = match mode {
        Mode::Hard => purge::Kind::Hard,
        Mode::Soft => purge::Kind::Soft,
    };
    Ok(Order { scope, kind, sequence })
}

/// A purge of the fleet for a host that no site here serves (any more): nothing is stored of it, but its
/// number has to be acknowledged, or all later ones would wait for it.
fn nothing() -> purge::Scope {
    purge::Scope::Site(String::new())
}

fn bounded(text: &str) -> Result<&str, ControlResponse> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(text);
    }
    let message = format!("{} bytes; at most {TEXT_BYTES_MAX}", text.len());
    Err(ControlResponse::error(StatusCode::BAD_REQUEST, message))
}

/// The site and the pattern over `host/path?query` of a prefix such as `https://host/path`.
fn pattern_of(edge: &Edge, prefix: &str) -> Result<(String, String), ControlResponse> {
    let fail = |status, reason: String| Err(ControlResponse::error(status, reason));
    let rest = prefix.split_once("://").map_or(prefix, |(_, rest)| rest);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
    let Some(site) = edge.sites.load().find(&host).cloned() else {
        return fail(
            StatusCode::NOT_FOUND,
            format!("no site serves {host:?}: a prefix begins with scheme and host"),
        );
    };
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    // The same spelling as keys have; whether a query is keyed does not matter to a prefix of it.
    let target = Target::new(&host, path, query, &QueryKey::Keep);
    Ok((site.name.clone(), format!("{}{}*", target.host(), target.path_and_query())))
}

/// Where a URL is kept: the site that serves its host, and the key there.
fn key_of(edge: &Edge, url: &str) -> Result<CacheKey, ControlResponse> {
    let wanted = wanted(edge, url)?;
    Ok(CacheKey::new(&wanted.site.name, None, &wanted.target))
}

fn wanted(edge: &Edge, url: &str) -> Result<Wanted, ControlResponse> {
    let fail =
        |reason: &str| Err(ControlResponse::error(StatusCode::BAD_REQUEST, format!("{url}: {reason}")));
    let Ok(uri) = url.parse::<Uri>() else { return fail("not a URL") };
    let Some(host) = uri.host() else { return fail("a URL with scheme and host is needed") };
    let host = host.to_ascii_lowercase();
    let Some(site) = edge.sites.load().find(&host).cloned() else {
        return Err(ControlResponse::error(StatusCode::NOT_FOUND, format!("no site serves {host}")));
    };
    let target = Target::new(&host, uri.path(), uri.query(), &site.rules.query);
    let scheme = if uri.scheme_str() == Some("https") { "https" } else { "http" };
    Ok(Wanted { url: url.to_owned(), site, scheme, target })
}

/// Body of `POST /v1/warm`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Warm {
    urls: Vec<String>,
    #[serde(default)]
    job: Option<String>,
}

/// `POST /v1/warm`: takes a list of URLs to fetch, all or none, and says how far the job is that they are of, or the
/// whole list.
pub fn warm(edge: &Edge, warmer: &Arc<Warmer>, request: &ControlRequest) -> ControlResponse {
    let Warm { urls, job } = match request.json() {
        Ok(warm) => warm,
        Err(response) => return response,
    };
    if job.as_ref().is_some_and(|job| !(1..=warm::JOB_NAME_BYTES_MAX).contains(&job.len())) {
        let message = format!("job: expected 1 to {} bytes", warm::JOB_NAME_BYTES_MAX);
        return ControlResponse::error(StatusCode::BAD_REQUEST, message);
    }
    let listed: Result<Vec<Wanted>, ControlResponse> =
        urls.iter().map(|url| wanted(edge, bounded(url)?)).collect();
    match listed {
        Ok(listed) => queue(warmer, listed, job.as_deref()),
        Err(response) => response,
    }
}

fn queue(warmer: &Arc<Warmer>, listed: Vec<Wanted>, job: Option<&str>) -> ControlResponse {
    match warmer.add(listed, job) {
        Some(progress) => ControlResponse::ok(&progress),
        None => {
            let (urls, jobs) = (warm::QUEUE_MAX, warm::JOBS_MAX);
            let message = format!("more than {urls} URLs would be waiting, or {jobs} jobs under way");
            ControlResponse::error(StatusCode::PAYLOAD_TOO_LARGE, message)
        }
    }
}

/// `GET /v1/warm[?job=NAME]`: how far the list is, or a job.
pub fn warming(warmer: &Warmer, request: &ControlRequest) -> ControlResponse {
    match warmer.progress(request.parameter("job")) {
        Some(progress) => ControlResponse::ok(&progress),
        None => ControlResponse::error(
            StatusCode::NOT_FOUND,
            "no such job: it is long ago, or the edge was restarted",
        ),
    }
}

/// `GET /v1/origins`: every site's origins, and how they are.
pub fn origins(edge: &Edge) -> ControlResponse {
    let sites = edge.sites.load();
    let sites: Vec<_> = sites
        .iter()
        .map(|site| {
            let origins: Vec<_> = match site.origins.group() {
                Some(group) => group
                    .shown()
                    .into_iter()
                    .map(|(origin, under_way, shown)| shown_origin(origin, Some((under_way, shown))))
                    .collect(),
                None => site.origins.iter().map(|origin| shown_origin(origin, None)).collect(),
            };
            json!({ "site": site.name, "origins": origins })
        })
        .collect();
    ControlResponse::ok(&json!({ "sites": sites }))
}

fn shown_origin(origin: &Origin, health: Option<(u32, Shown)>) -> serde_json::Value {
    let settings = origin.settings();
    let (stats, idle) = origin.pool();
    let mut shown = json!({
        "name": settings.name,
        "host": settings.host,
        "port": settings.port,
        "requests": origin.requests(),
        "connections_idle": idle,
        "connections_http2": origin.multiplexed(),
        "waiting": stats.waiting.load(Relaxed),
    });
    if let Some((under_way, health)) = health {
        shown["standing"] = standing(health.standing).into();
        shown["check"] = health.checked.name().into();
        shown["reason"] = health.reason.into();
        shown["circuit"] = health.circuit.name().into();
        shown["ejected_for_seconds"] = health.ejected_for.map(|time| time.as_secs_f64()).into();
        shown["under_way"] = under_way.into();
        shown["backup"] = settings.backup.into();
    }
    shown
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Good => "good",
        Standing::Trial => "trial",
        Standing::Doubtful => "doubtful",
        Standing::Shut => "shut",
    }
}

/// `GET /v1/stats?life=L&after=NUMBER`: what was counted after that. With `&now=1`, up to now; else up to the last full minute.
pub fn stats(edge: &Edge, minutes: &Minutes, request: &ControlRequest) -> ControlResponse {
    let mut numbers = [0; 2];
    for (name, number) in ["life", "after"].into_iter().zip(&mut numbers) {
        match request.parameter(name).map(str::parse) {
            None => {}
            Some(Ok(given)) => *number = given,
            Some(Err(_)) => {
                let message = format!("{name}: expected a number");
                return ControlResponse::error(StatusCode::BAD_REQUEST, message);
            }
        }
    }
    if request.parameter("now") == Some("1") {
        minutes::close(minutes, edge);
    }
    ControlResponse::ok(&minutes.after(numbers[0], numbers[1]))
}

/// Those that are not well, as `site/origin`, for the node's report.
pub fn origins_unwell(edge: &Edge) -> Vec<String> {
    let sites = edge.sites.load();
    let of_site = |(site, group): (&str, &Group)| -> Vec<String> {
        let unwell = group.shown().into_iter().filter(|(_, _, shown)| shown.standing != Standing::Good);
        unwell.map(|(origin, _, _)| format!("{site}/{}", origin.settings().name)).collect()
    };
    let groups = sites.iter().filter_map(|site| Some((site.name.as_str(), &**site.origins.group()?)));
    groups.flat_map(of_site).collect()
}

/// Counters over all sites since the start, by which home judges a rollout.
pub fn traffic(edge: &Edge) -> serde_json::Value {
    let sites = edge.sites.load();
    let (mut requests, mut errors, mut fetches, mut failures) = (0_u64, 0_u64, 0_u64, 0_u64);
    for stats in sites.iter().map(|site| &site.stats).chain([&edge.unknown]) {
        for (_, class, count) in stats.requests() {
            requests += count;
            errors += if class == 5 { count } else { 0 };
        }
        let (asked, unanswered) = stats.origin();
        (fetches, failures) = (fetches + asked, failures + unanswered);
    }
    json!({ "requests": requests, "errors": errors, "fetches": fetches, "failures": failures })
}

/// `GET /v1/cached?url=URL`: whether it is, how much of it, and for how long. With `&fetch=1`, what is not there, not
/// whole or not fresh is put on the list to warm.
pub async fn cached(
    edge: &Edge,
    warmer: &Arc<Warmer>,
    request: &ControlRequest,
    now: Timestamp,
) -> ControlResponse {
    let Some(url) = request.parameter("url") else {
        return ControlResponse::error(StatusCode::BAD_REQUEST, "say which: ?url=https://host/path");
    };
    let wanted = match bounded(url).and_then(|url| wanted(edge, url)) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    let key = CacheKey::new(&wanted.site.name, None, &wanted.target);
    let presence = edge.cache.presence(&key, now).await;
    let is_good = presence
        .as_ref()
        .is_some_and(|presence| presence.extent == Extent::Cached && now < presence.fresh_until);
    let fetching = request.parameter("fetch") == Some("1") && !is_good;
    if fetching && warmer.add(vec![wanted], None).is_none() {
        return ControlResponse::error(StatusCode::SERVICE_UNAVAILABLE, "too many URLs wait to be fetched");
    }
    let Some(presence) = presence else {
        return ControlResponse::ok(&json!({ "url": url, "state": "absent", "fetching": fetching }));
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
        "fetching": fetching,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_describes_every_endpoint_and_no_other() {
        let document = include_str!("../../docs/openapi-nodes.json");
        let document = serde_json::from_str(document).unwrap();
        assert_eq!(nearside_node::control::table::differences(ROUTES, &document, "edge"), [""; 0]);
    }
}
