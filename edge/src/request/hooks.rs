//! Hooks: where a site's own code is asked about a request and about its response.
//!
//! What a module made of a message is taken only if its call returned; where it ended early, the message goes on as it was or
//! the client is told 503, as the site says. What tells a module's variants apart under one URL is a request field of
//! ours ([`KEY`]), which the site's responses vary by: purges and limits of variants hold for it as for any `Vary`.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, header, uri::PathAndQuery};
use nearside_fleet::config::transform::OnError;

use super::{Answer, Body, Exchange, Refusal};
use crate::{
    code::{Answered, Call, Code, End, Facts, Hook, Phase},
    listen::connection::Client,
    stats::Outcome,
};

/// What a module said with `key_add`. Between edges it is believed; of clients it is not taken.
pub const KEY: HeaderName = HeaderName::from_static("nearside-key");

/// Asks about a request that has passed gates and rules. Gives its target, where that is another one now.
///
/// # Errors
/// The answer, where there is one already.
pub(super) fn on_request(
    code: &Code,
    client: &Client,
    host: &str,
    method: &Method,
    uri: &Uri,
    headers: &mut HeaderMap,
) -> Result<Option<Uri>, Box<Answer>> {
    headers.remove(KEY);
    if !code.has(Hook::Request) {
        return Ok(None);
    }
    let facts = Facts {
        method: method.as_str().to_owned(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        host: host.to_owned(),
        scheme: client.scheme().to_owned(),
        client: client.peer.ip().to_canonical().to_string(),
    };
    let (mut call, end) = code.call(Hook::Request, Call::new(Phase::Request, facts, headers.clone()));
    if end != End::Returned {
        return match code.on_error() {
            OnError::Open => Ok(None),
            OnError::Closed => Err(Box::new(Refusal::EdgeCode.answer())),
        };
    }
    if let Some(answered) = call.answer() {
        return Err(Box::new(answer(method, answered)));
    }
    let target = match call.is_retargeted {
        true => Some(retargeted(uri, &call.facts).ok_or_else(|| Box::new(Refusal::EdgeCode.answer()))?),
        false => None,
    };
    *headers = call.headers;
    if let Ok(key) = HeaderValue::from_str(call.key.trim_end())
        && !key.is_empty()
    {
        headers.insert(KEY, key);
    }
    Ok(target)
}

/// The same URI but for path and query.
fn retargeted(uri: &Uri, facts: &Facts) -> Option<Uri> {
    let target = match &facts.query {
        Some(query) => format!("{}?{query}", facts.path),
        None => facts.path.clone(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

fn answer(method: &Method, answered: Answered) -> Answer {
    let Answered { status, mut headers, body } = answered;
    let has_content = !matches!(status.as_u16(), 204 | 205 | 304);
    if has_content {
        headers.insert(header::CONTENT_LENGTH, (body.len() as u64).into());
    }
    let body = if has_content && method != Method::HEAD { Body::whole(body) } else { Body::empty() };
    let mut response = Response::new(body);
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Answer { response, outcome: Outcome::Local }
}

/// Asks about a response that is about to leave.
pub(super) fn on_response(code: &Code, exchange: &Exchange, answer: Answer) -> Answer {
    let facts = Facts {
        method: exchange.method.as_str().to_owned(),
        path: exchange.target.path().to_owned(),
        query: exchange.target.query().map(str::to_owned),
        host: exchange.target.host().to_owned(),
        scheme: exchange.client.scheme().to_owned(),
        client: exchange.client.peer.ip().to_canonical().to_string(),
    };
    let mut call = Call::new(Phase::Response, facts, answer.response.headers().clone());
    call.status = answer.response.status();
    let (call, end) = code.call(Hook::Response, call);
    if end != End::Returned {
        return match code.on_error() {
            OnError::Open => answer,
            OnError::Closed => Refusal::EdgeCode.answer(),
        };
    }
    let mut answer = answer;
    *answer.response.headers_mut() = call.headers;
    *answer.response.status_mut() = call.status;
    answer
}
