//! Fields that a configuration may not change, because the message's framing, the cache's word or the edge's own say
//! depends on them. One list for rules and for code at the edge.

/// Fields of one connection, and those that frame a message (RFC 9110 section 7.6.1, RFC 9112 section 6).
const OF_THE_CONNECTION: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Of requests: what is asked for (conditions and ranges are the cache's to send), and who asks.
const OF_REQUESTS: &[&str] = &[
    "cdn-loop",
    "forwarded",
    "front-end-https",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "range",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];

/// Of responses: what identifies and describes the stored bytes, and what the edge itself says.
const OF_RESPONSES: &[&str] = &[
    "accept-ranges",
    "age",
    "alt-svc",
    "cache-status",
    "content-encoding",
    "content-range",
    "date",
    "etag",
    "last-modified",
    "strict-transport-security",
    "x-cache-status",
    "x-request-id",
];

/// Every field that no configuration changes on the way to the origin, for documents and tests.
pub fn kept_of_requests() -> impl Iterator<Item = &'static str> {
    OF_THE_CONNECTION.iter().chain(OF_REQUESTS).copied()
}

/// The same on the way to the client.
pub fn kept_of_responses() -> impl Iterator<Item = &'static str> {
    OF_THE_CONNECTION.iter().chain(OF_RESPONSES).copied()
}

/// Whether a configuration may change a request field; lower case.
///
/// # Errors
/// Why not, in words.
pub fn may_change_request(name: &str) -> Result<(), &'static str> {
    match name {
        "host" => Err("an origin that wants another `Host` has `host_header`"),
        name if OF_THE_CONNECTION.contains(&name) => Err("it belongs to the connection"),
        name if OF_REQUESTS.contains(&name) => Err("the edge itself answers for it"),
        name if name.starts_with("nearside-") => Err("edges talk to each other with it"),
        _ => Ok(()),
    }
}

/// Whether a configuration may change a response field; lower case.
///
/// # Errors
/// Why not, in words.
pub fn may_change_response(name: &str) -> Result<(), &'static str> {
    match name {
        "cache-control" | "expires" | "pragma" => {
            Err("what clients may keep is said by `cache.client_cache_control`")
        }
        "strict-transport-security" => Err("the site's `hsts` says it"),
        "server" => Err("the site's `server` says it"),
        name if OF_THE_CONNECTION.contains(&name) => Err("it belongs to the connection"),
        name if OF_RESPONSES.contains(&name) => Err("the edge itself answers for it"),
        name if name.starts_with("nearside-") => Err("edges talk to each other with it"),
        _ => Ok(()),
    }
}

/// Whether it is a field name (RFC 9110 section 5.1).
pub fn is_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_is_nobodys_to_change() {
        for name in ["transfer-encoding", "content-length", "connection"] {
            assert!(may_change_request(name).is_err() && may_change_response(name).is_err(), "{name}");
        }
        assert!(may_change_request("host").is_err() && may_change_request("nearside-x").is_err());
        assert!(may_change_response("etag").is_err() && may_change_response("x-frame-options").is_ok());
        assert!(
            may_change_request("authorization").is_ok() && is_name("x-a") && !is_name("x a") && !is_name("")
        );
    }
}
