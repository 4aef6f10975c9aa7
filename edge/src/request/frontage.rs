//! What a site says about the connection itself: redirect to TLS, `Strict-Transport-Security`, `Server`.
//!
//! [`Frontage`] is made once per configuration; per request it is a header or two. What is said about content is
//! policy's, not decided here.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use nearside_fleet::config::front::{Hsts, PlainHttp, ServerField, SiteFront};

use super::{Answer, Body};
use crate::stats::Outcome;

/// Where ACME's http-01 is answered (RFC 8555 section 8.3): in the clear, by whoever runs the origin.
const ACME_PATH: &str = "/.well-known/acme-challenge/";

/// The port that `https` URLs need not name.
const HTTPS_PORT: u16 = 443;

/// See the module.
#[derive(Clone, Debug)]
pub struct Frontage {
    redirects: PlainHttp,
    hsts: Option<HeaderValue>,
    server: Server,
}

#[derive(Clone, Debug)]
enum Server {
    Origin,
    Absent,
    Text(HeaderValue),
}

impl From<&SiteFront> for Frontage {
    fn from(front: &SiteFront) -> Self {
        Frontage {
            redirects: front.plain,
            hsts: front.hsts.as_ref().and_then(|hsts| hsts_value(hsts).parse().ok()),
            server: match &front.server {
                ServerField::Origin => Server::Origin,
                ServerField::Absent => Server::Absent,
                ServerField::Text(text) => text.parse().map_or(Server::Origin, Server::Text),
            },
        }
    }
}

/// RFC 6797 section 6.1.
fn hsts_value(hsts: &Hsts) -> String {
    let flag = |set, text| if set { text } else { "" };
    let (subdomains, preload) =
        (flag(hsts.include_subdomains, "; includeSubDomains"), flag(hsts.preload, "; preload"));
    format!("max-age={}{subdomains}{preload}", hsts.max_age.as_secs())
}

impl Frontage {
    /// The answer that sends a request in the clear to TLS, where the site wants that. `host` without port;
    /// `https_port` is where this edge speaks TLS.
    pub fn redirect<B>(&self, request: &Request<B>, host: &str, https_port: Option<u16>) -> Option<Answer> {
        if self.redirects != PlainHttp::Redirect || request.uri().path().starts_with(ACME_PATH) {
            return None;
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let port = match https_port {
            Some(port) if port != HTTPS_PORT && names_port(request) => format!(":{port}"),
            _ => String::new(),
        };
        let location = HeaderValue::try_from(format!("https://{host}{port}{target}")).ok()?;
        let mut response = Response::new(Body::empty());
        // 301 lets old clients turn a POST into a GET; 308 does not (RFC 9110 section 15.4.9).
        *response.status_mut() = match *request.method() {
            Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
            _ => StatusCode::PERMANENT_REDIRECT,
        };
        let headers = response.headers_mut();
        headers.insert(header::LOCATION, location);
        headers.insert(header::SERVER, HeaderValue::from_static("nearside"));
        // Permanent, but not for ever: an operator who takes it back is heard within the hour.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
        Some(Answer { response, outcome: Outcome::Local })
    }

    /// Adds what belongs on every response of the site.
    pub fn dress(&self, scheme: &str, headers: &mut HeaderMap) {
        // RFC 6797 section 7.2: never in the clear.
        if let Some(hsts) = &self.hsts {
            if scheme == "https" {
                headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
            } else {
                headers.remove(header::STRICT_TRANSPORT_SECURITY);
            }
        }
        match &self.server {
            Server::Origin => {}
            Server::Absent => drop(headers.remove(header::SERVER)),
            Server::Text(text) => drop(headers.insert(header::SERVER, text.clone())),
        }
    }
}

/// Whether the client named a port: then it came to our listener's own, and needs that of the other.
fn names_port<B>(request: &Request<B>) -> bool {
    const HOST: HeaderName = header::HOST;
    let line = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    authority.or(line).is_some_and(|host| host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frontage() -> Frontage {
        let hsts = Hsts { max_age: Duration::from_secs(86_400), include_subdomains: true, preload: false };
        let (plain, server) = (PlainHttp::Redirect, ServerField::Text("here".to_owned()));
        Frontage::from(&SiteFront { plain, hsts: Some(hsts), server, ..SiteFront::default() })
    }

    fn redirected(method: Method, uri: &str, host: &str, port: Option<u16>) -> Option<(u16, String)> {
        let request = Request::builder().method(method).uri(uri).header("host", host).body(()).unwrap();
        let bare = host.split(':').next().unwrap();
        let answer = frontage().redirect(&request, bare, port)?;
        let location = answer.response.headers()["location"].to_str().unwrap().to_owned();
        Some((answer.response.status().as_u16(), location))
    }

    #[test]
    fn requests_in_the_clear_are_sent_to_the_same_address_over_tls() {
        let found = |code, location: &str| Some((code, location.to_owned()));
        let get = |uri, host, port| redirected(Method::GET, uri, host, port);
        assert_eq!(get("/a%2Fb?q=1", "a.test", Some(443)), found(301, "https://a.test/a%2Fb?q=1"));
        assert_eq!(get("/", "a.test", Some(8443)), found(301, "https://a.test/"), "ports may be mapped");
        assert_eq!(get("/", "a.test:8080", Some(8443)), found(301, "https://a.test:8443/"));
        assert_eq!(get("/", "a.test:80", Some(443)), found(301, "https://a.test/"));
        assert_eq!(get("//evil.test/x", "a.test", None), found(301, "https://a.test//evil.test/x"));
        assert_eq!(redirected(Method::POST, "/", "a.test", None), found(308, "https://a.test/"));
        assert_eq!(get("/.well-known/acme-challenge/x", "a.test", None), None);
    }

    #[test]
    fn responses_over_tls_are_dressed_and_those_in_the_clear_never_speak_of_hsts() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SERVER, HeaderValue::from_static("origin/1"));
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=1"));
        let mut plain = headers.clone();
        frontage().dress("https", &mut headers);
        assert_eq!(headers["strict-transport-security"], "max-age=86400; includeSubDomains");
        assert_eq!(headers["server"], "here");
        frontage().dress("http", &mut plain);
        assert!(!plain.contains_key("strict-transport-security"));
        let absent = SiteFront { server: ServerField::Absent, ..SiteFront::default() };
        Frontage::from(&absent).dress("https", &mut headers);
        assert!(!headers.contains_key("server"));
        assert_eq!(headers.len(), 1, "HSTS is left as it is where the site does not speak of it");
    }
}
