//! `POST /v1/explain-http`: what would become of a request, and why, without sending it anywhere.
//!
//! The steps are those of `request`, asked of the same code: the redirect to TLS, the gates, the rules, the key, the store,
//! the plan. Nothing is counted, fetched or changed. Not told: what the origin would answer.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use nearside_node::{ControlRequest, ControlResponse};
use serde::Deserialize;
use serde_json::{Value, json};
use smallvec::SmallVec;

use crate::{
    place::Seen,
    policy::{self, CacheKey, Candidate, Forward, Plan, Timestamp},
    request::{
        Edge,
        ruled::{self, Asked},
    },
    rules::{Effects, VARIANT},
    site::Site,
};

/// Longest URL, as for clients.
const URL_BYTES_MAX: usize = 16 << 10;

/// Fields of one question.
const FIELDS_MAX: usize = 100;

/// The question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Absolute.
    url: String,
    /// `GET` unless said.
    #[serde(default)]
    method: Option<String>,
    /// Names and values.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The client's address.
    client: IpAddr,
}

/// One step on the way.
struct Step {
    stage: &'static str,
    name: String,
    result: String,
}

/// Answers it.
pub async fn http(edge: &Arc<Edge>, request: &ControlRequest, now: Timestamp) -> ControlResponse {
    let question: Question = match request.json() {
        Ok(question) => question,
        Err(response) => return response,
    };
    match Asking::read(&question) {
        Ok(asking) => ControlResponse::ok(&asking.explain(edge, now).await),
        Err(reason) => ControlResponse::error(StatusCode::BAD_REQUEST, reason),
    }
}

/// The question, understood.
struct Asking {
    scheme: &'static str,
    host: String,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    client: IpAddr,
}

impl Asking {
    fn read(question: &Question) -> Result<Asking, String> {
        let Question { url, method, headers, client } = question;
        if url.len() > URL_BYTES_MAX || headers.len() > FIELDS_MAX {
            return Err(format!("at most {URL_BYTES_MAX} bytes of URL and {FIELDS_MAX} fields"));
        }
        let whole: Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
        let scheme = match whole.scheme_str() {
            Some("https") => "https",
            Some("http") => "http",
            _ => return Err(format!("{url:?}: expected http://host/path or https://host/path")),
        };
        let host =
            whole.host().ok_or("a URL with a host is needed")?.trim_end_matches('.').to_ascii_lowercase();
        let target = whole.path_and_query().map_or("/", |target| target.as_str());
        let uri = target.parse().map_err(|_| format!("{target:?} is no path"))?;
        let method =
            method.as_deref().unwrap_or("GET").parse().map_err(|_| "that is no method".to_owned())?;
        let mut fields = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no field name"))?;
            let value =
                HeaderValue::from_str(value).map_err(|_| format!("{name}: that is no value of a field"))?;
            fields.append(name, value);
        }
        if !fields.contains_key(header::HOST) {
            fields.insert(header::HOST, host.parse().map_err(|_| "that is no host".to_owned())?);
        }
        Ok(Asking { scheme, host, uri, method, headers: fields, client: *client })
    }

    async fn explain(mut self, edge: &Arc<Edge>, now: Timestamp) -> Value {
        let mut steps = Vec::new();
        let Some(site) = edge.sites.load().find(&self.host).cloned() else {
            steps.push(Step::new("site", "", "no site serves this host: 421"));
            return told(edge, &self, steps, json!({ "outcome": "refused", "status": 421 }));
        };
        steps.push(Step::new("site", &site.name, format!("serves {}", self.host)));
        if let Some(answer) = self.redirected(edge, &site) {
            let status = answer.as_u16();
            steps.push(Step::new("https", "redirect", format!("in the clear: {status} to https")));
            return told(
                edge,
                &self,
                steps,
                json!({ "site": site.name, "outcome": "redirect", "status": status }),
            );
        }
        let seen = Seen::new(&site.places, self.client);
        if let Some(status) = self.gates(&site, &seen, &mut steps) {
            return told(
                edge,
                &self,
                steps,
                json!({ "site": site.name, "outcome": "refused", "status": status }),
            );
        }
        let effects = self.rules(&site, &seen, now, &mut steps);
        if let Some(made) = effects.as_ref().and_then(|effects| effects.made.as_ref()) {
            let outcome = if made.is_refusal { "refused" } else { "answered" };
            let mut result = json!({ "site": site.name, "outcome": outcome, "status": made.status.as_u16() });
            if let Some(to) = made.headers.get(header::LOCATION) {
                result["location"] = String::from_utf8_lossy(to.as_bytes()).into();
            }
            return told(edge, &self, steps, result);
        }
        let result = self.cache(edge, &site, effects.as_deref(), now, &mut steps).await;
        told(edge, &self, steps, result)
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            scheme: self.scheme,
            host: &self.host,
            uri: &self.uri,
            method: &self.method,
            headers: &self.headers,
        }
    }

    fn redirected(&self, edge: &Edge, site: &Site) -> Option<StatusCode> {
        if self.scheme != "http" {
            return None;
        }
        let https_port = edge.sites.load().https_port;
        Some(site.frontage.redirect(&self.request(), &self.host, https_port)?.response.status())
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// The status of the first refusal. What was meant for gates alone is gone from the request then.
    fn gates(&mut self, site: &Site, seen: &Seen<'_>, steps: &mut Vec<Step>) -> Option<u16> {
        let gates = site.gates.as_ref()?;
        let mut refused = None;
        let mut request = self.request();
        let said = gates.explain(&mut request, seen);
        (self.uri, self.headers) = (request.uri().clone(), std::mem::take(request.headers_mut()));
        for said in said {
            let result = match (&said.objection, said.enforces) {
                _ if !said.is_asked => "not asked here: to ask it is to be counted".to_owned(),
                (None, _) => "passes".to_owned(),
                (Some((status, why)), true) => {
                    refused = refused.or(Some(*status));
                    format!("refuses with {status}: {why}")
                }
                (Some((status, why)), false) => format!("would refuse with {status} (detect only): {why}"),
            };
            steps.push(Step::new("gate", said.gate.name(), result));
        }
        refused
    }

    fn rules(
        &mut self,
        site: &Site,
        seen: &Seen<'_>,
        now: Timestamp,
        steps: &mut Vec<Step>,
    ) -> Option<Box<Effects>> {
        let rulebook = site.rulebook.as_ref()?;
        let effects = ruled::foresee(site, seen, &self.asked(), now);
        let matched = effects.iter().flat_map(|effects| effects.matched.iter().copied());
        let before = steps.len();
        steps.extend(
            matched.map(|rule| Step::new("rule", rulebook.name(rule), rulebook.says(rule).join("; "))),
        );
        if steps.len() == before {
            steps.push(Step::new("rule", "", format!("none of {} matches", rulebook.len())));
        }
        effects
    }

    async fn cache(
        &self,
        edge: &Arc<Edge>,
        site: &Arc<Site>,
        effects: Option<&Effects>,
        now: Timestamp,
        steps: &mut Vec<Step>,
    ) -> Value {
        let target = ruled::target(site, &self.asked(), effects);
        let key = CacheKey::new(&site.name, None, &target);
        let mut headers = self.headers.clone();
        ruled::change(site, &mut headers, effects);
        let variant = headers.get(VARIANT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut found = edge.cache.lookup_with_gaps(&key).await;
        ruled::of_variant(site, headers.get(VARIANT), &mut found);
        let candidates: SmallVec<[Candidate<'_>; 2]> = found.iter().map(|found| found.candidate()).collect();
        let request = policy::Request::new(&self.method, &headers).under(&site.rules);
        let request = match effects {
            Some(effects) => request.ruled(effects.bypass, effects.ttl),
            None => request,
        };
        let (outcome, why) = match policy::plan(&request, &candidates, now) {
            Plan::Serve(serve) => ("hit", format!("stored, fresh for {} more seconds", serve.ttl_secs)),
            Plan::ServeAndRefresh(..) => ("stale", "stored, stale, served while it is refreshed".to_owned()),
            Plan::Revalidate(asked) => (
                "revalidate",
                format!("stored; the origin is asked whether it still holds: {}", why(asked.forward)),
            ),
            Plan::Fetch(fetch) => ("miss", why(fetch.forward).to_owned()),
            Plan::Pass(forward) => ("pass", why(forward).to_owned()),
            Plan::GatewayTimeout => ("refused", "only-if-cached, and it is not: 504".to_owned()),
        };
        steps.push(Step::new("cache", outcome, why));
        let origins: Vec<&str> = match effects.and_then(|effects| effects.origins.as_deref()) {
            Some(listed) => site
                .origins
                .iter()
                .enumerate()
                .filter(|(position, _)| listed.contains(position))
                .map(|(_, origin)| origin.settings().name.as_str())
                .collect(),
            None => site.origins.iter().map(|origin| origin.settings().name.as_str()).collect(),
        };
        json!({
            "site": site.name,
            "outcome": outcome,
            "key": key.as_str(),
            "variant": variant,
            "target": target.path_and_query(),
            "origins": origins,
        })
    }
}

/// Why the origin is asked, in words.
fn why(forward: Forward) -> &'static str {
    match forward {
        Forward::Bypass => "the cache has no part in it",
        Forward::Method => "the method is none that is answered from the store",
        Forward::UriMiss => "nothing is stored under the key",
        Forward::VaryMiss => "something is stored, but not for these fields or this variant",
        Forward::Request => "the request's own directives want the origin asked",
        Forward::Stale => "what is stored is stale",
        Forward::Partial => "only a part is stored",
    }
}

impl Step {
    fn new(stage: &'static str, name: &str, result: impl Into<String>) -> Step {
        Step { stage, name: name.to_owned(), result: result.into() }
    }
}

/// The answer, for programs and for people.
fn told(edge: &Edge, asking: &Asking, steps: Vec<Step>, mut result: Value) -> Value {
    let node = &edge.identity.node;
    let url = format!("{}://{}{}", asking.scheme, asking.host, asking.uri);
    let mut text = format!("{} {url} from {} at {node}\n", asking.method, asking.client);
    for step in &steps {
        text.push_str(&format!("  {:<6} {:<14} {}\n", step.stage, step.name, step.result));
    }
    for (name, shown) in [("key", "key"), ("variant", "variant"), ("location", "to")] {
        if let Some(value) = result.get(name).and_then(Value::as_str) {
            text.push_str(&format!("  {shown:<6} {value}\n"));
        }
    }
    let steps: Vec<Value> = steps
        .into_iter()
        .map(|step| json!({ "stage": step.stage, "name": step.name, "result": step.result }))
        .collect();
    result["node"] = node.clone().into();
    result["url"] = url.into();
    result["steps"] = steps.into();
    result["text"] = text.into();
    result
}
