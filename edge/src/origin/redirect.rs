//! Redirects that are followed here: only to what the fleet file lists. Pure: a location in, a listed target out.
//!
//! Everything unclear is not followed but passed on: other schemes, user names, dot segments in any spelling, backslashes.
//! The cache key stays that of the request that was redirected.

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};
use nearside_fleet::config::{Scheme, UrlPrefix};

/// Redirects followed for one request. More are a loop or a maze.
pub const HOPS_MAX: usize = 3;

/// Fields that were meant for the origin that was asked, and for nobody else (as browsers have it for
/// `Authorization`).
const NOT_FOR_OTHERS: [HeaderName; 3] = [header::COOKIE, header::AUTHORIZATION, header::PROXY_AUTHORIZATION];

/// Where a request went.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host, lower case.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub target: PathAndQuery,
}

/// Whether an answer to this method is a redirect that could be followed without changing the method.
pub fn is_redirect(method: &Method, status: StatusCode) -> bool {
    matches!(method, &Method::GET | &Method::HEAD) && matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Which of `listed` a redirect leads into, and what to ask there.
pub fn target(asked: &Asked, fields: &HeaderMap, listed: &[UrlPrefix]) -> Option<(usize, Asked)> {
    let location = fields.get(header::LOCATION)?.to_str().ok()?;
    if fields.get_all(header::LOCATION).iter().count() > 1 {
        return None;
    }
    let next = resolve(asked, location)?;
    let within = |prefix: &UrlPrefix| {
        prefix.scheme == next.scheme
            && prefix.host == next.host
            && prefix.port == next.port
            && next.target.path().starts_with(&prefix.path)
    };
    listed.iter().position(within).map(|position| (position, next))
}

/// The head of the request to there.
pub fn head(head: &Parts, to: &Asked) -> Parts {
    let mut head = head.clone();
    for name in NOT_FOR_OTHERS {
        head.headers.remove(name);
    }
    head.uri = Uri::from(to.target.clone());
    let default = match to.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
    let host = if to.port == default { host } else { format!("{host}:{}", to.port) };
    if let Ok(host) = host.parse() {
        head.headers.insert(header::HOST, host);
    }
    head
}

/// RFC 3986 section 5.2 for what needs no removing of dot segments.
fn resolve(asked: &Asked, location: &str) -> Option<Asked> {
    let location = location.split('#').next().unwrap_or_default();
    let word = |scheme| match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}:{location}", word(asked.scheme))
    } else {
        let path = asked.target.path();
        let (directory, _) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        let target = match location.as_bytes().first() {
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{path}{location}"),
            Some(_) => format!("{directory}{location}"),
            None => return None,
        };
        return plain(&target).map(|target| Asked { target, ..asked.clone() });
    };
    let uri: Uri = absolute.parse().ok()?;
    let (scheme, default) = match uri.scheme_str()? {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let port = authority.port_u16().unwrap_or(default);
    let target = plain(uri.path_and_query().map_or("/", PathAndQuery::as_str))?;
    Some(Asked { scheme, host, port, target })
}

/// A target without dot segments, plain or encoded, and without backslashes: what a prefix of it means is certain.
fn plain(target: &str) -> Option<PathAndQuery> {
    let path = target.split('?').next().unwrap_or_default();
    let decoded = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\");
    let is_odd = decoded.contains('\\') || decoded.split('/').any(|segment| matches!(segment, "." | ".."));
    if is_odd || !path.starts_with('/') { None } else { target.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(location: &str) -> Option<(usize, String)> {
        let prefix = |scheme, host: &str, port, path: &str| UrlPrefix {
            scheme,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        };
        let listed =
            [prefix(Scheme::Https, "files.test", 443, "/public/"), prefix(Scheme::Http, "o.test", 8080, "/")];
        let target = "/a/b?q".parse().unwrap();
        let asked = Asked { scheme: Scheme::Http, host: "o.test".to_owned(), port: 8080, target };
        let mut fields = HeaderMap::new();
        fields.insert(header::LOCATION, location.parse().unwrap());
        super::target(&asked, &fields, &listed)
            .map(|(position, next)| (position, next.target.as_str().to_owned()))
    }

    #[test]
    fn only_listed_targets_are_followed() {
        for (location, expected) in [
            ("https://files.test/public/x?y#z", (0, "/public/x?y")),
            ("HTTPS://FILES.test:443/public/", (0, "/public/")),
            ("/c", (1, "/c")),
            ("c?d", (1, "/a/c?d")),
            ("?d", (1, "/a/b?d")),
            ("//o.test:8080/c", (1, "/c")),
        ] {
            assert_eq!(follow(location), Some((expected.0, expected.1.to_owned())), "{location}");
        }
        for location in [
            "https://files.test/private/x",
            "https://files.test/public/../private/x",
            "https://files.test/public/%2e%2E/private/x",
            "https://files.test/public/..%2fprivate/x",
            "https://files.test/public\\..\\private",
            "http://files.test/public/x",
            "https://files.test:444/public/x",
            "https://files.test@evil.test/public/",
            "https://evil.test/?https://files.test/public/",
            "//files.test/public/x",
            "../x",
            "ftp://files.test/public/x",
            "",
        ] {
            assert_eq!(follow(location), None, "{location}");
        }
    }

    #[test]
    fn what_was_meant_for_one_origin_is_not_sent_to_the_next() {
        let request = http::Request::get("/a").header("cookie", "s=1").header("authorization", "x");
        let (parts, ()) =
            request.header("accept", "*/*").header("host", "o.test").body(()).unwrap().into_parts();
        let target = "/b".parse().unwrap();
        let to = Asked { scheme: Scheme::Http, host: "n.test".to_owned(), port: 81, target };
        let head = head(&parts, &to);
        assert_eq!((head.headers.len(), head.uri.path()), (2, "/b"));
        assert_eq!(head.headers["host"], "n.test:81");
    }
}
