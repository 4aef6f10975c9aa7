//! Pass: the cache has no part in the answer. Still, what the answer makes untrue is forgotten.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body::Body as _;

use super::{
    Answer, Body, Exchange, Incoming, Refusal, deliver,
    miss::{self, Times},
    now, tunnel,
};
use crate::{
    cache::fill::{self, Keep},
    listen::{connection::Waiting, limits::BODY_TIMEOUT, pace::Pace},
    origin::{SendBody, UploadLimits},
    policy::{self, Asked, CacheKey, Forward, Meta, Verdict, headers, invalidate, status::CacheStatus},
    stats::Outcome,
};

/// Sends the request on, content and all, and its answer back.
pub(super) async fn pass(
    exchange: &Arc<Exchange>,
    forward: Forward,
    incoming: Incoming,
) -> Result<Answer, Refusal> {
    let mut fields = upstream(exchange);
    headers::ask_for_trailers(&exchange.headers, &mut fields);
    // Nobody else wants the answer: a client that leaves takes the fetch with it.
    let waiting = Waiting::new(&exchange.client);
    let (answer, times) =
        miss::ask(exchange, fields, send(exchange, incoming), exchange.interim.as_ref()).await;
    drop(waiting);
    let response = answer.map_err(Refusal::of_fetch)?;
    forget(exchange, response.status(), response.headers());
    if exchange.method == Method::POST
        && let Some(meta) = for_later_gets(exchange, &response, times)
    {
        let fields = headers::downstream(response.headers(), times.request, times.response);
        let mut account = CacheStatus::forwarded(Outcome::Pass.policy(), forward, Some(response.status()));
        account.stored = true;
        // Taken after what it replaces was forgotten: an older fetch can't come back over it.
        let (filler, object) = exchange.edge.cache.alone(&exchange.key).start(meta, Keep::WhileRead);
        let filler = filler.at_most(exchange.site.rules.object_bytes_max);
        tokio::spawn(fill::drive(filler, response.into_body()));
        let serve = deliver::serve_now(exchange, &object);
        return Ok(deliver::object_with(exchange, &object, &serve, fields, &account, Outcome::Pass));
    }
    Ok(miss::passed(exchange, forward, response, times, None))
}

/// The fields for the origin: with what rules tell it of what the cache has no part in.
fn upstream(exchange: &Exchange) -> HeaderMap {
    let mut fields = headers::upstream_pass(&exchange.headers);
    for (name, value) in exchange.effects.iter().flat_map(|effects| &effects.of_passes) {
        fields.insert(name.clone(), value.clone());
    }
    fields
}

/// The head under which an answer to POST answers later GETs: where it names an expiry and its own target
/// as `Content-Location` (RFC 9110 section 9.3.3).
fn for_later_gets<B>(exchange: &Exchange, response: &Response<B>, times: Times) -> Option<Meta> {
    let asked = Asked {
        request: &exchange.policy_request(),
        rules: &exchange.site.rules,
        uri: &exchange.uri(),
        request_time: times.request,
        response_time: times.response,
        validating: None,
    };
    match policy::judge(&asked, response.status(), response.headers()) {
        Verdict::Store(meta) => Some(*meta),
        _ => None,
    }
}

fn send(exchange: &Exchange, incoming: Incoming) -> SendBody {
    let (site, client) = (&exchange.site, exchange.client.limits());
    let limits = UploadLimits {
        bytes_max: site.front.limits.body_bytes_max,
        stall: BODY_TIMEOUT,
        pace: Pace::new(client.upload_rate_min, client.rate_window),
        share: site.share.clone(),
    };
    SendBody::client(incoming, limits)
}

/// Removes what a successful unsafe request made untrue (RFC 9111 section 4.4), before its answer goes
/// down: a client that reads its own write must not find the old.
fn forget(exchange: &Exchange, status: StatusCode, fields: &HeaderMap) {
    let Ok(uri) = exchange.uri().parse::<Uri>() else { return };
    let keyed = &exchange.site.rules.query;
    for target in invalidate::targets(&exchange.method, status, &uri, fields, keyed) {
        exchange.edge.cache.invalidate(&CacheKey::new(&exchange.site.name, None, &target), now());
    }
}

/// Asks the origin to switch protocols; if it does, so do we.
pub(super) async fn tunnel(
    exchange: &Arc<Exchange>,
    incoming: Incoming,
    protocol: HeaderValue,
    client_side: tunnel::Upgrade,
) -> Result<Answer, Refusal> {
    if !incoming.is_end_stream() {
        // Content and tunnel on one connection leave open where one ends.
        return Err(Refusal::UpgradeWithContent);
    }
    let mut fields = upstream(exchange);
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, protocol);
    let (answer, times) = miss::ask(exchange, fields, SendBody::Empty, None).await;
    let mut response = answer.map_err(Refusal::of_fetch)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(miss::passed(exchange, Forward::Bypass, response, times, None));
    }
    let origin_side = hyper::upgrade::on(&mut response);
    let (parts, body) = response.into_parts();
    let Times { request, response } = times;
    let mut fields = headers::downstream(&parts.headers, request, response);
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(agreed) = parts.headers.get(header::UPGRADE) {
        fields.insert(header::UPGRADE, agreed.clone());
    }
    let account = CacheStatus::forwarded(Outcome::Pass.policy(), Forward::Bypass, Some(parts.status));
    deliver::append_account(&mut fields, &account);
    tokio::spawn(tunnel::run(exchange.client.clone(), client_side, origin_side, body));
    let response = deliver::respond(StatusCode::SWITCHING_PROTOCOLS, fields, Body::empty());
    Ok(Answer { response, outcome: Outcome::Pass })
}
