//! Which fields travel: to the origin, into the store, and down to the client.
//!
//! Fields of one connection (RFC 9110 §7.6.1), and those its `Connection` names, go no further. What
//! `Connection` names is taken at its word except for fields that are meant for every
//! recipient: a nominated `Cache-Control` or `Vary` stays, because dropping it would loosen what the
//! origin asked for, and no sender may nominate it.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    date,
    decide::{Range, Serve},
    meta::Meta,
    structured::CDN_CACHE_CONTROL,
    time::Timestamp,
};

/// Fields of one connection, named by `Connection` or not.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    // Announces trailers, which go no further either.
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
];

/// Never appropriate as connection options (RFC 9110 §7.6.1): decisions depend on them.
const NEVER_NOMINATED: [HeaderName; 12] = [
    header::AGE,
    header::CACHE_CONTROL,
    CDN_CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::HOST,
    header::VARY,
];

/// What `Via` says we are (RFC 9110 §7.6.3).
const VIA: HeaderValue = HeaderValue::from_static("1.1 nearside");

/// The client's conditions. What we send instead are our own.
const CONDITIONS: [HeaderName; 5] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

/// Fields by which frameworks let a request be another one than it says. An answer to that is nobody else's.
const OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// Removes the fields of one connection.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut nominated: Vec<HeaderName> = Vec::new();
    for line in headers.get_all(header::CONNECTION) {
        for option in line.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(option.trim_ascii())
                && !NEVER_NOMINATED.contains(&name)
            {
                nominated.push(name);
            }
        }
    }
    for name in HOP_BY_HOP.iter().chain(&nominated) {
        headers.remove(name);
    }
}

/// A copy without the fields of one connection.
pub fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    strip_hop_by_hop(&mut kept);
    kept
}

/// Asks for trailers, if the client does: the wish is of each connection (RFC 9110 §10.1.4).
pub fn ask_for_trailers(client: &HeaderMap, upstream: &mut HeaderMap) {
    let mut codings =
        client.get_all(header::TE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    if codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers")) {
        upstream.insert(header::TE, HeaderValue::from_static("trailers"));
        upstream.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// The fields of a request that is passed on as it is.
pub fn upstream_pass(client: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(client);
    headers.append(header::VIA, VIA);
    headers
}

/// The fields of a request whose answer may be stored: the client's own conditions are gone, and what would make
/// another request of it;
/// `conditions` (of a revalidation; else empty) are in, `Range` stays only where the plan says so.
pub fn upstream(client: &HeaderMap, conditions: &HeaderMap, range: Range) -> HeaderMap {
    let mut headers = upstream_pass(client);
    let if_range = headers.remove(header::IF_RANGE);
    for name in CONDITIONS.iter().chain(&OVERRIDES) {
        headers.remove(name);
    }
    match (range, if_range) {
        (Range::Dropped, _) => {
            headers.remove(header::RANGE);
        }
        (Range::AsAsked, Some(if_range)) => {
            headers.insert(header::IF_RANGE, if_range);
        }
        (Range::AsAsked, None) => {}
    }
    for (name, value) in conditions {
        headers.insert(name, value.clone());
    }
    headers
}

/// The fields of a background refresh: as [`upstream`], and without the client's own wishes
/// about caches, who has been served already.
pub fn upstream_refresh(client: &HeaderMap, conditions: &HeaderMap) -> HeaderMap {
    let mut headers = upstream(client, conditions, Range::Dropped);
    headers.remove(header::CACHE_CONTROL);
    headers.remove(header::PRAGMA);
    headers
}

/// The fields of the origin's answer for the client that asked: nothing of the connection,
/// `Date` where it was missing or no date (RFC 9110 §6.6.1), `Age` grown by the time spent
/// waiting where a cache on the way set one, `Via`.
pub fn downstream(origin: &HeaderMap, request_time: Timestamp, response_time: Timestamp) -> HeaderMap {
    let mut headers = end_to_end(origin);
    date_if_missing(&mut headers, response_time);
    if headers.contains_key(header::AGE) {
        headers.remove(header::AGE);
        if let Some(secs) = super::freshness::age_secs(origin) {
            let secs = secs.saturating_add(response_time.since(request_time).as_secs());
            headers.insert(header::AGE, HeaderValue::from(secs));
        }
    }
    headers.append(header::VIA, VIA);
    headers
}

/// The fields of an interim response for the client: nothing of the connection, nothing that frames content,
/// which it has none of (RFC 9110 §15.2).
pub fn interim(origin: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(origin);
    headers.remove(header::CONTENT_LENGTH);
    headers
}

/// The trailer fields that go on to the client: those that a recipient could take for something that belongs into
/// the head (framing, routing, conditions, authentication, how to process the content) do not
/// (RFC 9110 §6.5.1).
pub fn trailers(origin: &HeaderMap) -> HeaderMap {
    const OF_THE_HEAD: [HeaderName; 14] = [
        header::CONTENT_LENGTH,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::HOST,
        header::CACHE_CONTROL,
        CDN_CACHE_CONTROL,
        header::EXPIRES,
        header::AGE,
        header::DATE,
        header::VARY,
        header::LOCATION,
        header::SET_COOKIE,
        header::WWW_AUTHENTICATE,
    ];
    let mut headers = end_to_end(origin);
    for name in &OF_THE_HEAD {
        headers.remove(name);
    }
    headers
}

/// The fields of an answer from the store with its stored status.
///
/// `Content-Length` is not among them for a stored part: the body's sender knows it.
pub fn from_store(stored: &Meta, serve: &Serve) -> HeaderMap {
    let mut headers = stored.headers.clone();
    if let Some(secs) = serve.age_secs {
        headers.insert(header::AGE, HeaderValue::from(secs));
    }
    headers.append(header::VIA, VIA);
    headers
}

/// Puts the cookies of a 304 into the answer to the client whose request caused it: they are this
/// client's, whether or not they may be stored for others.
pub fn hand_over_cookies(not_modified: &HeaderMap, answer: &mut HeaderMap) {
    if not_modified.contains_key(header::SET_COOKIE) {
        answer.remove(header::SET_COOKIE);
        for cookie in not_modified.get_all(header::SET_COOKIE) {
            answer.append(header::SET_COOKIE, cookie.clone());
        }
    }
}

/// The fields of a 304 (RFC 9110 §15.4.5): what would change a cache's mind, nothing that describes
/// content which isn't sent.
pub fn not_modified(mut headers: HeaderMap) -> HeaderMap {
    const DESCRIBE_CONTENT: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
    ];
    for name in &DESCRIBE_CONTENT {
        headers.remove(name);
    }
    // Useful only in place of an entity tag.
    if headers.contains_key(header::ETAG) {
        headers.remove(header::LAST_MODIFIED);
    }
    headers
}

/// The fields worth storing (RFC 9111 §3.1): end to end, without `Age`, without `except`, with a valid `Date`.
pub fn storable(
    origin: &HeaderMap,
    status: StatusCode,
    except: &[HeaderName],
    response_time: Timestamp,
) -> HeaderMap {
    let mut headers = end_to_end(origin);
    headers.remove(header::AGE);
    if status == StatusCode::PARTIAL_CONTENT {
        // Of this one answer, not of what is served from it.
        headers.remove(header::CONTENT_RANGE);
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in except {
        headers.remove(name);
    }
    date_if_missing(&mut headers, response_time);
    headers
}

fn date_if_missing(headers: &mut HeaderMap, response_time: Timestamp) {
    let date = headers.get(header::DATE).and_then(|date| date::parse(date.as_bytes(), response_time));
    if date.is_none() {
        headers.insert(header::DATE, date::format(response_time.secs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_connection_names_goes_no_further() {
        let headers = fields(&[
            ("connection", "close, X-One ,x-two"),
            ("connection", "x-three, cache-control, , host"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-four", "4"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic Zm9v"),
            ("cache-control", "no-store"),
            ("host", "a.test"),
        ]);
        assert_eq!(names(&end_to_end(&headers)), ["cache-control", "host", "x-four"]);
    }

    #[test]
    fn our_conditions_replace_the_clients() {
        let client = fields(&[
            ("if-none-match", "\"theirs\""),
            ("if-modified-since", "x"),
            ("if-range", "\"r\""),
            ("range", "bytes=0-1"),
            ("accept", "*/*"),
        ]);
        let ours = fields(&[("if-none-match", "\"ours\"")]);
        let sent = upstream(&client, &ours, Range::Dropped);
        assert_eq!(names(&sent), ["accept", "if-none-match", "via"]);
        assert_eq!(sent[header::IF_NONE_MATCH], "\"ours\"");
        let sent = upstream(&client, &HeaderMap::new(), Range::AsAsked);
        assert_eq!(names(&sent), ["accept", "if-range", "range", "via"]);
    }

    #[test]
    fn trailers_and_interim_fields_frame_nothing() {
        let sent = fields(&[
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-one"),
            ("x-one", "1"),
            ("x-two", "2"),
        ]);
        assert_eq!(names(&trailers(&sent)), ["x-two"]);
        assert_eq!(names(&interim(&sent)), ["x-two"]);
        assert!(trailers(&fields(&[("cache-control", "max-age=1"), ("set-cookie", "a=1")])).is_empty());
    }

    #[test]
    fn a_missing_or_invalid_date_is_the_moment_of_arrival() {
        let now = Timestamp::from_secs(784_111_777);
        for origin in [fields(&[]), fields(&[("date", "yesterday")])] {
            assert_eq!(downstream(&origin, now, now)[header::DATE], "Sun, 06 Nov 1994 08:49:37 GMT");
        }
        let age = fields(&[("age", "5, 7")]);
        assert_eq!(downstream(&age, Timestamp::from_secs(1), Timestamp::from_secs(3))[header::AGE], "7");
    }
}
