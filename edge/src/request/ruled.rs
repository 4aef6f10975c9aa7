//! Rules, carried out: what a site's rulebook decides of a request, and the answers that rules make.
//!
//! What rules do is worked out once, before anything is looked up; it stays with the exchange. A request of another edge
//! comes with what that edge decided: its client's rules are not asked again.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};

use nearside_fleet::config::QueryKey;

use super::{Answer, Body, deliver};
use crate::{
    cache::Candidates,
    listen::connection::Client,
    place::Seen,
    policy::{self, Target, status::CacheStatus},
    rules::{Effects, Facts, Made, ORDERS, VARIANT},
    site::Site,
    stats::Outcome,
};

/// What is asked, as the client spells it.
pub(crate) struct Asked<'a> {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Without port.
    pub(crate) host: &'a str,
    /// In origin form.
    pub(crate) uri: &'a Uri,
    /// The method.
    pub(crate) method: &'a Method,
    /// Its fields.
    pub(crate) headers: &'a HeaderMap,
}

/// What becomes of a client's request.
pub(crate) fn decide(
    site: &Site,
    client: &Client,
    seen: &Seen<'_>,
    asked: &Asked<'_>,
) -> Option<Box<Effects>> {
    let rulebook = site.rulebook.as_ref()?;
    if client.node.is_some() {
        return Effects::ordered(asked.headers, |name| {
            site.origins.iter().position(|origin| origin.settings().name == name)
        });
    }
    let effects = foresee(site, seen, asked, super::now())?;
    rulebook.stats.matched(&effects.matched);
    Some(effects)
}

/// The same without counting: for what no client asks, and for explanations.
pub(crate) fn foresee(
    site: &Site,
    seen: &Seen<'_>,
    asked: &Asked<'_>,
    now: policy::Timestamp,
) -> Option<Box<Effects>> {
    let rulebook = site.rulebook.as_ref()?;
    let target = Target::new(asked.host, asked.uri.path(), asked.uri.query(), &QueryKey::Keep);
    rulebook.decide(&Facts {
        scheme: asked.scheme,
        host: target.host(),
        path: target.path(),
        query: target.query(),
        method: asked.method,
        headers: asked.headers,
        seen,
        now_secs: i64::try_from(now.secs()).unwrap_or(i64::MAX),
        fresh: fastrand::u128(..),
    })
}

/// The target in place of the one that is asked for, if a rule rewrites it.
pub(crate) fn rewritten(asked: &Asked<'_>, effects: &Effects) -> Option<Uri> {
    if effects.path.is_none() && effects.new_query.is_none() {
        return None;
    }
    let path = effects.path.as_deref().unwrap_or(asked.uri.path());
    let query = match effects.new_query.as_deref() {
        Some("") => None,
        Some(query) => Some(query),
        None => asked.uri.query(),
    };
    // In its normal spelling it is a target whatever a template says.
    Target::new(asked.host, path, query, &QueryKey::Keep).path_and_query().parse().ok()
}

/// How the query is part of the key.
pub(crate) fn keyed<'s>(site: &'s Site, effects: Option<&'s Effects>) -> &'s QueryKey {
    effects.and_then(|effects| effects.query.as_ref()).unwrap_or(&site.rules.query)
}

/// The target as key and origin see it, where no image is asked for.
pub(crate) fn target(site: &Site, asked: &Asked<'_>, effects: Option<&Effects>) -> Target {
    let rewritten = effects.and_then(|effects| rewritten(asked, effects));
    let uri = rewritten.as_ref().unwrap_or(asked.uri);
    Target::new(asked.host, uri.path(), uri.query(), keyed(site, effects))
}

/// Makes of a client's fields those that the rest of the way sees.
pub(crate) fn change(site: &Site, headers: &mut HeaderMap, effects: Option<&Effects>) {
    if site.rulebook.is_some() {
        headers.remove(VARIANT);
        headers.remove(ORDERS);
    }
    let Some(effects) = effects else { return };
    effects.change_request(headers);
    if let Some(variant) = &effects.variant {
        headers.insert(VARIANT, variant.clone());
    }
}

/// Leaves what was stored under a variant. What was stored before there were rules is of none; other variants have no
/// part in what a request waits for or finds.
pub(crate) fn of_variant(site: &Site, variant: Option<&HeaderValue>, found: &mut Candidates) {
    if site.rulebook.is_some() {
        let variant = variant.map(HeaderValue::as_bytes);
        found.retain(|found| found.object.meta().vary.value(&VARIANT) == variant);
    }
}

/// An answer that a rule made.
pub(super) fn answer(made: &Made, method: &Method) -> Answer {
    let status = made.status;
    let body = match made.is_refusal {
        true => format!("{status}\nrule\n").into(),
        false => made.body.clone(),
    };
    let length = body.len();
    let is_head = *method == Method::HEAD;
    let mut response = Response::new(if is_head { Body::empty() } else { Body::whole(body) });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    *headers = made.headers.clone();
    if made.is_refusal {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    headers.insert(header::SERVER, HeaderValue::from_static("nearside"));
    let account = CacheStatus { detail: Some("rule"), ..CacheStatus::hit(Outcome::Local.policy(), 0) };
    deliver::append_account(headers, &CacheStatus { ttl_secs: None, ..account });
    Answer { response, outcome: Outcome::Local }
}
