//! Recv and Gate: which site is meant, and whether the request may go on.
//!
//! Cheapest checks first; nothing here waits. `OPTIONS *` and the health path are answered at once.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use super::{Answer, Body, Edge, Refusal, Serving};
use crate::{
    listen::{connection::Client, limits::TARGET_BYTES_MAX, share::Limit},
    site::Site,
    stats::Outcome,
};

/// Methods that are passed on; unknown ones are too (RFC 9110 section 9.1), but can't be listed.
pub const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Answered by the edge itself, for any host: what health checks ask for.
pub const HEALTH_PATH: &str = "/.well-known/nearside/health";

/// What Recv and Gate found out.
pub enum Gated {
    /// Goes on: to this site, asked for by this host.
    Pass(Arc<Site>, String),
    /// Answered here.
    Answered(Box<Answer>),
}

/// Receives a request head.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn receive<B>(edge: &Edge, client: &Client, request: &Request<B>) -> Result<Gated, Refusal> {
    let uri = request.uri();
    if target_bytes(uri) > TARGET_BYTES_MAX {
        return Err(Refusal::TargetTooLong);
    }
    if uri.path() == HEALTH_PATH {
        return Ok(Gated::Answered(Box::new(health(edge, request.method()))));
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    let host = host(request)?;
    if uri.path() == "*" {
        return match *request.method() {
            Method::OPTIONS => Ok(Gated::Answered(Box::new(options()))),
            _ => Err(Refusal::BadTarget),
        };
    }
    if !uri.path().starts_with('/') {
        return Err(Refusal::BadTarget);
    }
    // RFC 9110 section 7.6.2: who receives a zero is the last to be asked.
    if *request.method() == Method::OPTIONS && max_forwards(request.headers()) == Some(0) {
        return Ok(Gated::Answered(Box::new(options())));
    }
    if let Some(tls) = &client.tls {
        let asked = tls.server_name.as_deref();
        if asked != Some(&*host) && !tls.served.covers(&host) {
            return Err(Refusal::Misdirected);
        }
    }
    let Some(site) = edge.sites.load().find(&host).cloned() else { return Err(Refusal::UnknownHost) };
    if client.node.is_some() && edge.is_behind(request.headers()) {
        return Err(Refusal::Behind);
    }
    // Over QUIC, sites that chose it only: the client comes back over TCP (RFC 9110 section 15.5.20).
    if client.is_quic() && !site.http3.is_served() {
        return Err(Refusal::Misdirected);
    }
    gate(edge, &site, request.headers())?;
    Ok(Gated::Pass(site, host.into_owned()))
}

fn gate(edge: &Edge, site: &Site, headers: &HeaderMap) -> Result<(), Refusal> {
    for value in headers.get_all("cdn-loop") {
        if names_us(value.as_bytes(), &edge.identity.name) {
            return Err(Refusal::Loop);
        }
    }
    if let Some(expect) = headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::Expectation);
    }
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > site.front.limits.body_bytes_max) {
        site.share.refuse(Limit::Body);
        return Err(Refusal::BodyTooLarge);
    }
    Ok(())
}

/// How often a request for options may be passed on (RFC 9110 section 7.6.2); `None`: it does not say.
pub fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::MAX_FORWARDS)?.to_str().ok()?;
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| value.parse().unwrap_or(u64::MAX))
}

/// Whether a `CDN-Loop` value lists `name` (RFC 8586 section 2: a list of identifiers with parameters).
fn names_us(value: &[u8], name: &str) -> bool {
    value.split(|&byte| byte == b',').any(|member| {
        let identifier = member.split(|&byte| byte == b';').next().unwrap_or_default();
        identifier.trim_ascii().eq_ignore_ascii_case(name.as_bytes())
    })
}

fn target_bytes(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |target| target.as_str().len())
}

/// The host that is asked for: lower case, without port and final dot.
fn host<B>(request: &Request<B>) -> Result<Cow<'_, str>, Refusal> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Refusal::BadHost);
    }
    let line = line.map(|value| host_name(value.as_bytes()).ok_or(Refusal::BadHost)).transpose()?;
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let authority = authority.map(|bytes| host_name(bytes).ok_or(Refusal::BadHost)).transpose()?;
    match (authority, line) {
        // RFC 9113 section 8.3.1: a server should refuse a difference. On h1, RFC 9112 section 3.2.2 has
        // the absolute form win; a client that sends two different hosts is refused there too, because
        // whoever is behind us may choose the other one.
        (Some(authority), Some(line)) if authority != line => Err(Refusal::HostMismatch),
        (Some(authority), _) => Ok(authority),
        (None, Some(line)) => Ok(line),
        // HTTP/1.0 may go without; we could not tell the site.
        (None, None) if request.version() == Version::HTTP_2 => Err(Refusal::BadHost),
        (None, None) => Err(Refusal::BadHost),
    }
}

/// The port that a client names with the host it asks for; the authority counts before `Host`, as in [`host`].
pub fn port(uri: &Uri, headers: &HeaderMap) -> Option<u16> {
    match uri.authority() {
        Some(authority) => authority.port_u16(),
        None => headers.get(header::HOST)?.to_str().ok()?.rsplit_once(':')?.1.parse().ok(),
    }
}

/// Splits the port off, folds case; `None` where it is no host name or address.
fn host_name(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (_, after) = rest.split_once(']')?;
            (&text[..text.len() - after.len()], after)
        }
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let port_is_good = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let legal =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    if !port_is_good || name.is_empty() || name.len() > 255 || !name.bytes().all(legal) {
        return None;
    }
    Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// `OPTIONS *` asks about the server as a whole (RFC 9110 section 9.3.7).
fn options() -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOW));
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("nearside"));
    Answer { response, outcome: Outcome::Local }
}

fn health(edge: &Edge, method: &Method) -> Answer {
    let (status, word) = match edge.serving() {
        _ if !matches!(*method, Method::GET | Method::HEAD) => (StatusCode::METHOD_NOT_ALLOWED, "method"),
        Serving::Yes => (StatusCode::OK, "ok"),
        Serving::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Serving::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    let (node, load) = (&edge.identity.node, edge.load.now());
    let text = format!("{{\"status\":\"{word}\",\"node\":\"{node}\",\"load\":{load:.3}}}\n");
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::SERVER, HeaderValue::from_static("nearside"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    Answer { response, outcome: Outcome::Local }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request<()> {
        let mut builder = Request::builder().uri(uri);
        for host in hosts {
            builder = builder.header("host", *host);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn hosts_are_read_one_way() {
        for (uri, line, expected) in [
            ("/", "A.Test", "a.test"),
            ("/", "a.test:8080", "a.test"),
            ("/", "a.test.", "a.test"),
            ("/", "[2001:DB8::1]:443", "[2001:db8::1]"),
            ("http://a.test/", "a.test:80", "a.test"),
        ] {
            let request = request(uri, &[line]);
            assert_eq!(host(&request).unwrap(), expected, "{uri} {line}");
        }
        for (uri, lines) in [
            ("/", &[][..]),
            ("/", &["a.test", "a.test"]),
            ("/", &[""]),
            ("/", &["a b"]),
            ("/", &["a.test/x"]),
            ("/", &["user@a.test"]),
            ("/", &["a.test:port"]),
            ("/", &["a.test:123456"]),
            ("/", &["[::1"]),
        ] {
            assert!(matches!(host(&request(uri, lines)), Err(Refusal::BadHost)), "{lines:?}");
        }
        assert!(matches!(host(&request("http://a.test/", &["b.test"])), Err(Refusal::HostMismatch)));
    }

    #[test]
    fn the_port_is_the_authoritys_before_the_hosts() {
        for (uri, host, expected) in [
            ("/", Some("a.test:8080"), Some(8080)),
            ("/", Some("a.test"), None),
            ("/", Some("[::1]:8443"), Some(8443)),
            ("/", Some("[::1]"), None),
            ("/", None, None),
            ("https://a.test:8443/", None, Some(8443)),
            ("https://a.test/", Some("a.test:8443"), None),
        ] {
            let hosts: Vec<&str> = host.into_iter().collect();
            let request = request(uri, &hosts);
            assert_eq!(port(request.uri(), request.headers()), expected, "{uri} {host:?}");
        }
    }

    #[test]
    fn forwards_are_counted_where_they_are_numbers() {
        for (value, expected) in
            [("0", Some(0)), ("10", Some(10)), ("", None), ("-1", None), ("1 ", Some(1)), ("x", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::MAX_FORWARDS, HeaderValue::from_str(value.trim()).unwrap());
            assert_eq!(max_forwards(&headers), expected, "{value}");
        }
    }

    #[test]
    fn a_loop_is_found_among_other_networks() {
        assert!(names_us(b"other, Nearside-f-fra;x=y", "nearside-f-fra"));
        assert!(!names_us(b"nearside-f-nyc, nearside-f-fra2", "nearside-f-fra"));
    }
}
