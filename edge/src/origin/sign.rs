//! The last hand on a request before it goes to its origin: `Host`, the secret header, what of the client's fields
//! may go along.
//!
//! Here is where a request is signed for storage that wants it: everything that depends on *which* origin is
//! asked happens in [`Signer::sign`], on a copy, so that what is meant for one origin never reaches another.

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use nearside_fleet::config;

/// What goes to every origin, whatever its allow-list says: what HTTP needs, what validation and ranges need, and
/// what we say ourselves.
const ALWAYS: [HeaderName; 23] = [
    HeaderName::from_static("x-request-id"),
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::CACHE_CONTROL,
    header::VIA,
    header::MAX_FORWARDS,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("cdn-loop"),
    header::TE,
];

/// What an origin wants of its requests.
pub struct Signer {
    host: Option<HeaderValue>,
    secret: Option<(HeaderName, HeaderValue)>,
    allowed: Option<Vec<HeaderName>>,
}

impl Signer {
    /// By an origin's settings, which were validated.
    pub fn new(settings: &config::Origin) -> Self {
        if settings.storage.is_some() {
            // What was signed may not be changed.
            return Signer { host: None, secret: None, allowed: None };
        }
        let secret = settings.secret_header.as_ref().and_then(|secret| {
            let mut value = HeaderValue::from_str(&secret.values.first()?.0).ok()?;
            value.set_sensitive(true);
            Some((secret.name.parse().ok()?, value))
        });
        let names = |names: &Vec<String>| names.iter().filter_map(|name| name.parse().ok()).collect();
        Signer {
            host: settings.host_header.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
            secret,
            allowed: settings.request_headers.as_ref().map(names),
        }
    }

    /// Makes the head that the origin gets of the one that any origin would get.
    pub fn sign(&self, head: &Parts) -> Parts {
        let mut head = head.clone();
        if let Some(allowed) = &self.allowed {
            keep(&mut head.headers, allowed);
        }
        if let Some(host) = &self.host {
            head.headers.insert(header::HOST, host.clone());
        }
        if let Some((name, value)) = &self.secret {
            head.headers.insert(name.clone(), value.clone());
        }
        head
    }
}

fn keep(headers: &mut HeaderMap, allowed: &[HeaderName]) {
    let strange: Vec<HeaderName> =
        headers.keys().filter(|name| !allowed.contains(name) && !ALWAYS.contains(name)).cloned().collect();
    for name in strange {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use nearside_fleet::config::{Scheme, Secret, SecretHeader};

    use super::*;

    #[test]
    fn the_newest_secret_replaces_whatever_a_client_sent_and_strangers_stay_behind() {
        let mut settings = config::Origin::at(Scheme::Http, "o.test", 80);
        settings.host_header = Some("inner.test".to_owned());
        settings.request_headers = Some(vec!["accept".to_owned()]);
        let values = vec![Secret("new".to_owned()), Secret("old".to_owned())];
        settings.secret_header = Some(SecretHeader { name: "x-cdn".to_owned(), values });
        let request = Request::get("/")
            .header("host", "www.test")
            .header("accept", "text/html")
            .header("range", "bytes=0-1")
            .header("x-odd", "1")
            .header("x-cdn", "forged")
            .body(())
            .unwrap();
        let (head, ()) = request.into_parts();
        let signed = Signer::new(&settings).sign(&head);
        let field = |name: &str| signed.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(field("host"), Some("inner.test"));
        assert_eq!((field("accept"), field("range")), (Some("text/html"), Some("bytes=0-1")));
        assert_eq!((field("x-odd"), field("x-cdn")), (None, Some("new")));
        assert!(!format!("{:?}", signed.headers).contains("new"), "a secret is not for logs");
    }
}
