//! The request as the origin gets to see it.
//!
//! Policy has taken out what belongs to the client's connection. What a client says about itself in forwarding
//! fields is replaced by what we know: an origin that trusts us must be able to. `Host` is the normalised
//! host without port, the one the cache key holds: what an origin reflects into a page is then what the
//! page is stored under.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};

use super::{Edge, gate};
use crate::{
    listen::connection::Client,
    origin::{SendBody, shield::PURGED},
    policy::Target,
    rules::{ORDERS, VARIANT},
    site::Site,
};

/// Fields by which proxies speak of clients and of what they asked for: never a client's to set. Frameworks take
/// some of them for the host, path or scheme to make a page from, which the cache key would not hold.
const FORWARDING: [HeaderName; 18] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-original-host"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("front-end-https"),
    PURGED,
    VARIANT,
    ORDERS,
];

/// Whether a request asks for a tunnel that is passed on. h2c is not: it would be HTTP again, past every
/// check.
pub fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get(header::CONNECTION)?.to_str().ok()?;
    if !connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let upgrade = headers.get(header::UPGRADE)?;
    let text = upgrade.to_str().ok()?.to_ascii_lowercase();
    let speaks_http = text.split(',').any(|protocol| {
        let protocol = protocol.trim();
        protocol == "h2c" || protocol.starts_with("http/") || protocol.starts_with("tls/")
    });
    (!speaks_http).then(|| upgrade.clone())
}

/// Who the client is, and how it asked.
struct Told {
    address: IpAddr,
    scheme: &'static str,
}

impl Told {
    /// As another edge of the fleet says, whose client it is.
    fn by_edge(headers: &HeaderMap) -> Option<Told> {
        let address = headers.get("x-forwarded-for")?.to_str().ok()?.parse().ok()?;
        let scheme = match headers.get("x-forwarded-proto")?.as_bytes() {
            b"http" => "http",
            _ => "https",
        };
        Some(Told { address, scheme })
    }
}

/// What the origin's request is made of, besides its fields.
pub struct Forwarding<'a> {
    /// Who we are.
    pub edge: &'a Edge,
    /// Whose request it is.
    pub client: &'a Client,
    /// The site.
    pub site: &'a Site,
    /// The target, normalised.
    pub target: &'a Target,
    /// The method.
    pub method: &'a Method,
}

impl Forwarding<'_> {
    /// Makes the request from end-to-end `headers`.
    ///
    /// # Errors
    /// When the target can't be written as one, which parsing it has ruled out.
    pub fn request(&self, mut headers: HeaderMap, body: SendBody) -> Result<Request<SendBody>, http::Error> {
        let told = self.client.node.is_some().then(|| Told::by_edge(&headers)).flatten();
        for name in FORWARDING {
            headers.remove(name);
        }
        // The 100 is ours to give: hyper sends it when the origin connection wants the body.
        headers.remove(header::EXPECT);
        if *self.method == Method::OPTIONS
            && let Some(left) = gate::max_forwards(&headers)
        {
            headers.insert(header::MAX_FORWARDS, left.saturating_sub(1).into());
        }
        // An origin that wants another one gets it as its request is signed.
        headers.insert(header::HOST, HeaderValue::from_str(self.target.host())?);
        self.say_who(told, &mut headers)?;
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.path_and_query().parse::<Uri>()?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn say_who(&self, told: Option<Told>, headers: &mut HeaderMap) -> Result<(), http::Error> {
        let ours = Told { address: self.client.peer.ip().to_canonical(), scheme: self.client.scheme() };
        let Told { address, scheme } = told.unwrap_or(ours);
        let host = self.target.host();
        headers.insert("x-forwarded-for", HeaderValue::from_str(&address.to_string())?);
        headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme));
        headers.insert("x-forwarded-host", HeaderValue::from_str(host)?);
        let node = match address {
            IpAddr::V4(v4) => v4.to_string(),
            // RFC 7239 section 6: an IPv6 address is bracketed and quoted.
            IpAddr::V6(v6) => format!("\"[{v6}]\""),
        };
        let forwarded = format!("for={node};host=\"{host}\";proto={scheme}");
        headers.insert(header::FORWARDED, HeaderValue::from_str(&forwarded)?);
        headers.append("cdn-loop", HeaderValue::from_str(&self.edge.identity.name)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_foreign_protocols_are_tunnelled() {
        let asks = |protocol: &'static str| {
            upgrade_of(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", protocol)])).is_some()
        };
        assert!(asks("websocket"));
        for protocol in ["h2c", "websocket, H2C", "HTTP/2.0", "TLS/1.0"] {
            assert!(!asks(protocol), "{protocol}");
        }
        assert!(upgrade_of(&headers(&[("upgrade", "websocket")])).is_none());
    }
}
