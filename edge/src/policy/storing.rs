//! Whether a shared cache may store a response (RFC 9111 §3), and the head it stores.
//!
//! `Set-Cookie` does not forbid storing (RFC 9111 §7.3), but frameworks attach session cookies to
//! whatever passes, and a cookie served to a stranger can't be taken back. So a response that sets a
//! cookie is stored only where its origin speaks to shared caches explicitly: `public`,
//! `s-maxage`, `CDN-Cache-Control`, or `private="set-cookie"` (then without the cookie). A site may
//! decide otherwise.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};

use nearside_fleet::config::SetCookie;

use super::{
    decide::{Asked, Refusal},
    directives::Covers,
    freshness::{self, GovernedBy, Governing, is_heuristically_cacheable},
    headers,
    meta::{Content, Meta, Validators},
    range, stale,
    vary::Vary,
};

/// For how long requests for something that turned out not to be storable don't wait for each
/// other. Long enough that a busy private page is never a queue, short enough that a page whose
/// headers were mended is collapsed again within minutes.
const UNCOLLAPSED: Duration = Duration::from_secs(120);

/// Removing one of these would change what the content means: `no-cache` or `private` naming
/// it covers the whole response.
const INSEPARABLE: [HeaderName; 5] = [
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::VARY,
];

/// The head to store, or why not.
///
/// # Errors
/// [`Refusal`] names the first rule of RFC 9111 §3 (or of ours) that stands against it.
pub fn head(asked: &Asked<'_>, status: StatusCode, origin: &HeaderMap) -> Result<Meta, Refusal> {
    let governing = Governing::read(origin);
    may_store(asked, status, origin, &governing)?;
    let meta = digest(asked, status, origin, &governing)?;
    if let Content::Whole { length: Some(length) } = meta.content
        && length > asked.rules.object_bytes_max
    {
        return Err(Refusal::Size);
    }
    let lasts = meta.lifetime > meta.initial_age
        || !meta.stale_if_error.is_zero()
        || !meta.stale_while_revalidate.is_zero();
    if !lasts && meta.validators.is_empty() {
        return Err(Refusal::Useless);
    }
    Ok(meta)
}

/// For how long requests for the same key should not wait for each other.
pub fn uncollapsed(refusal: Refusal) -> Duration {
    match refusal {
        Refusal::NoStore
        | Refusal::Private
        | Refusal::Authorization
        | Refusal::SetCookie
        | Refusal::Vary
        | Refusal::Useless
        | Refusal::Size
        | Refusal::Status => UNCOLLAPSED,
        Refusal::Method | Refusal::RequestNoStore | Refusal::Partial => Duration::ZERO,
    }
}

fn may_store(
    asked: &Asked<'_>,
    status: StatusCode,
    origin: &HeaderMap,
    governing: &Governing,
) -> Result<(), Refusal> {
    let directives = &governing.directives;
    if asked.request.bypass {
        return Err(Refusal::RequestNoStore);
    }
    let explicit = governing.names_expiry(origin) || asked.ttl(status, origin).is_some();
    if !method_allows(asked, status, origin, explicit) {
        return Err(Refusal::Method);
    }
    if asked.request.directives.no_store {
        return Err(Refusal::RequestNoStore);
    }
    if directives.must_understand && !is_understood(status) {
        return Err(Refusal::Status);
    }
    // §5.2.2.3: must-understand overrules the no-store beside it, for those who understand.
    if directives.no_store && !directives.must_understand {
        return Err(Refusal::NoStore);
    }
    if covers_response(&directives.private) {
        return Err(Refusal::Private);
    }
    if is_never_stored(asked, status) {
        return Err(Refusal::Status);
    }
    let shared = directives.public || directives.s_maxage.is_present();
    // §3.5
    let authorized = asked.request.headers.contains_key(header::AUTHORIZATION);
    if authorized && !shared && !directives.must_revalidate {
        return Err(Refusal::Authorization);
    }
    let keeps_cookie =
        origin.contains_key(header::SET_COOKIE) && !removed(asked, governing).contains(&header::SET_COOKIE);
    if keeps_cookie && !shares_cookies(asked, governing) {
        return Err(Refusal::SetCookie);
    }
    if !(explicit || directives.public || is_heuristically_cacheable(status)) {
        return Err(Refusal::Status);
    }
    Ok(())
}

/// Whether the origin means shared caches, and so has thought of what they will share.
fn speaks_to_shared_caches(governing: &Governing) -> bool {
    let directives = &governing.directives;
    directives.public || directives.s_maxage.is_present() || governing.by == GovernedBy::Targeted
}

/// Whether a cookie in a response so governed may be stored with it.
pub fn shares_cookies(asked: &Asked<'_>, governing: &Governing) -> bool {
    asked.rules.set_cookie == SetCookie::Keep || speaks_to_shared_caches(governing)
}

/// Whether the directives forbid that a response stays stored.
pub fn forbids(governing: &Governing) -> bool {
    let directives = &governing.directives;
    (directives.no_store && !directives.must_understand) || covers_response(&directives.private)
}

/// GET; POST for later GETs where it says so with an expiry and its own target as
/// `Content-Location` (RFC 9110 §9.3.3); HEAD for later HEADs (§9.3.2), but never in place of a stored answer to GET.
fn method_allows(asked: &Asked<'_>, status: StatusCode, origin: &HeaderMap, explicit: bool) -> bool {
    match *asked.request.method {
        Method::GET => true,
        Method::HEAD => {
            let validating = asked.validating.as_ref().map(|(candidate, _)| &candidate.meta.content);
            validating.is_none_or(|content| *content == Content::HeadOnly)
        }
        Method::POST => explicit && status.is_success() && is_own_location(asked.uri, origin),
        _ => false,
    }
}

fn is_own_location(target: &str, origin: &HeaderMap) -> bool {
    let Some(location) = origin.get(header::CONTENT_LOCATION).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let Ok(base) = target.parse::<Uri>() else { return false };
    super::invalidate::resolve(&base, location).is_some_and(|location| location == base)
}

/// Statuses that must not be stored whatever their directives say: 1xx are not final, 304 is no
/// response of its own, 416 to a `Range` answers that range alone, and RFC 6585 forbids 428, 429, 431 and 511.
fn is_never_stored(asked: &Asked<'_>, status: StatusCode) -> bool {
    let answers_a_range =
        status == StatusCode::RANGE_NOT_SATISFIABLE && asked.request.headers.contains_key(header::RANGE);
    answers_a_range || status.is_informational() || matches!(status.as_u16(), 304 | 428 | 429 | 431 | 511)
}

/// Statuses whose caching requirements are known here (`must-understand`): RFC 9110 §15 and
/// those of WebDAV and RFC 6585, 7538, 7725, 8297, 8470 that add none.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=208 | 226 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421..=426 | 451 | 500..=508 | 510
    )
}

/// The fields `private` and `no-cache` name (§5.2.2.4, §5.2.2.7), and cookies where the site wants them
/// stripped: this answer carries them, a later one doesn't.
fn removed(asked: &Asked<'_>, governing: &Governing) -> Vec<HeaderName> {
    let mut fields = Vec::new();
    if asked.rules.set_cookie == SetCookie::Strip && !speaks_to_shared_caches(governing) {
        fields.push(header::SET_COOKIE);
    }
    for covers in [&governing.directives.private, &governing.directives.no_cache] {
        if let Covers::Fields(names) = covers {
            fields.extend(names.iter().cloned());
        }
    }
    fields
}

/// Whether a directive covers the whole response, or so much of it that the rest is worthless.
pub fn covers_response(covers: &Covers) -> bool {
    match covers {
        Covers::Nothing => false,
        Covers::Response => true,
        Covers::Fields(fields) => fields.iter().any(|field| INSEPARABLE.contains(field)),
    }
}

/// Turns fields into numbers and flags. Also digests the merged fields of a freshened response.
pub fn digest(
    asked: &Asked<'_>,
    status: StatusCode,
    origin: &HeaderMap,
    governing: &Governing,
) -> Result<Meta, Refusal> {
    let (request_time, response_time) = (asked.request_time, asked.response_time);
    let content = content(asked, status, origin)?;
    let vary =
        Vary::new(origin, &asked.rules.key_headers, asked.request.headers).map_err(|_| Refusal::Vary)?;
    let date_secs = freshness::date_secs(origin, response_time);
    let lifetime = asked.ttl(status, origin).unwrap_or_else(|| {
        let default = asked.rules.default_lifetime(status);
        governing.lifetime(origin, status, default, response_time).lifetime
    });
    let reuse = stale::reuse(&governing.directives);
    let windows = stale::windows(&governing.directives, asked.rules);
    Ok(Meta {
        status,
        headers: headers::storable(origin, status, &removed(asked, governing), response_time),
        request_time,
        response_time,
        initial_age: freshness::initial_age(origin, request_time, response_time),
        lifetime,
        date_secs,
        stale_while_revalidate: windows.while_revalidate,
        stale_if_error: windows.if_error,
        reuse,
        immutable: governing.directives.immutable,
        vary,
        validators: Validators::read(origin, date_secs, response_time),
        content,
    })
}

/// What there is of the content. A 206 is stored only as the one part it says it is, and only where
/// a part was asked for (RFC 9111 §3.3).
fn content(asked: &Asked<'_>, status: StatusCode, origin: &HeaderMap) -> Result<Content, Refusal> {
    if *asked.request.method == Method::HEAD {
        return Ok(Content::HeadOnly);
    }
    let length = content_length(origin);
    if status != StatusCode::PARTIAL_CONTENT {
        return Ok(Content::Whole { length });
    }
    if range::parse(asked.request.headers).is_none() {
        return Err(Refusal::Partial);
    }
    let (span, complete_length) = range::parse_content_range(origin).ok_or(Refusal::Partial)?;
    if length.is_some_and(|length| length != span.bytes()) {
        return Err(Refusal::Partial);
    }
    Ok(Content::Part { first: span.first, last: span.last, complete_length })
}

fn content_length(origin: &HeaderMap) -> Option<u64> {
    origin.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
