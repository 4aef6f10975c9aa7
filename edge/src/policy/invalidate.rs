//! What an unsafe request makes untrue (RFC 9111 §4.4).
//!
//! After a 2xx or 3xx answer to a method that isn't known to be safe: the target itself, and what
//! `Location` and `Content-Location` name, if they are of the same origin. Scheme, host and port are
//! compared; nobody may invalidate what isn't his. Invalidate before storing the answer: a POST may
//! bring what answers later GETs.

use http::{HeaderMap, Method, StatusCode, Uri, header, uri};
use nearside_fleet::config::QueryKey;

use super::key::Target;

/// Longest reference looked at, in bytes. Longer ones name nothing we store.
const REFERENCE_BYTES_MAX: usize = 8192;

/// The targets whose stored responses (all variants and parts) are invalid from now on; empty: none.
///
/// `target` is the request's own, in absolute form.
pub fn targets(
    method: &Method,
    status: StatusCode,
    target: &Uri,
    headers: &HeaderMap,
    keyed: &QueryKey,
) -> Vec<Target> {
    if is_safe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut uris = vec![target.clone()];
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let references = headers.get_all(&name).into_iter().filter_map(|value| value.to_str().ok());
        for uri in references.filter_map(|reference| resolve(target, reference)) {
            if same_origin(target, &uri) && !uris.contains(&uri) {
                uris.push(uri);
            }
        }
    }
    let targets =
        uris.iter().filter_map(|uri| Some(Target::new(uri.host()?, uri.path(), uri.query(), keyed)));
    targets.collect()
}

/// The methods registered as safe. Everything else, known or not, may change something.
pub fn is_safe(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PROPFIND" | "REPORT" | "SEARCH" | "QUERY" | "PRI"
    )
}

/// Resolves a reference against an absolute URI (RFC 3986 §5.2.2); dot segments are left to
/// [`Target`]. `None`: it is no reference to http or https.
pub fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.trim();
    let reference = reference.split('#').next().unwrap_or(reference);
    if reference.len() > REFERENCE_BYTES_MAX {
        return None;
    }
    let scheme = base.scheme_str()?;
    let authority = base.authority()?.as_str();
    if let Some(colon) = reference.find(':')
        && !reference[..colon].contains(['/', '?'])
    {
        let uri: Uri = reference.parse().ok()?;
        return matches!(uri.scheme_str()?, "http" | "https").then_some(uri);
    }
    let text = if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}")
    } else if reference.is_empty() {
        return Some(base.clone());
    } else if reference.starts_with('?') {
        format!("{scheme}://{authority}{}{reference}", base.path())
    } else {
        let directory = base.path().rfind('/').map_or("/", |slash| &base.path()[..=slash]);
        format!("{scheme}://{authority}{directory}{reference}")
    };
    text.parse().ok()
}

fn same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().or_else(|| default_port(uri.scheme()));
    let same_host = match (one.host(), other.host()) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    };
    one.scheme() == other.scheme() && same_host && port(one) == port(other)
}

fn default_port(scheme: Option<&uri::Scheme>) -> Option<u16> {
    match scheme?.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const BASE: &str = "http://a.test/dir/page?q=1";

    fn of(method: &str, status: u16, location: Option<&str>) -> Vec<String> {
        let mut headers = HeaderMap::new();
        if let Some(location) = location {
            headers.insert(header::LOCATION, HeaderValue::from_str(location).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let targets = targets(&method, status, &BASE.parse().unwrap(), &headers, &QueryKey::Keep);
        targets.iter().map(|target| format!("{}{}", target.host(), target.path_and_query())).collect()
    }

    #[test]
    fn successful_unsafe_methods_invalidate_their_target() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "FOO", "M-SEARCH", "get"] {
            for status in [200, 204, 299, 301, 303] {
                assert_eq!(of(method, status, None), ["a.test/dir/page?q=1"], "{method} {status}");
            }
            for status in [400, 404, 500, 503] {
                assert!(of(method, status, None).is_empty(), "{method} {status}");
            }
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND"] {
            assert!(of(method, 200, None).is_empty(), "{method}");
        }
    }

    #[test]
    fn location_of_the_same_origin_only() {
        for (location, also) in [
            ("/x", Some("a.test/x")),
            ("x", Some("a.test/dir/x")),
            ("../x", Some("a.test/x")),
            ("?x", Some("a.test/dir/page?x")),
            ("//a.test/x", Some("a.test/x")),
            ("http://A.test:80/x#frag", Some("a.test/x")),
            ("http://a.test", Some("a.test/")),
            ("http://a.test:8080/x", None),
            ("https://a.test/x", None),
            ("//b.test/x", None),
            ("http://b.test/x", None),
            ("ftp://a.test/x", None),
            ("mailto:x@a.test", None),
            ("http://a b/", None),
            ("", None),
        ] {
            let found = of("POST", 201, Some(location));
            assert_eq!(found.get(1).map(String::as_str), also, "{location}");
        }
    }
}
