//! Asking whether a stored response is still true, and merging the answer (RFC 9111 §4.3).
//!
//! All validators known are sent; where none of the stored variants answers a request, their entity tags are, so that the
//! origin may choose one. A 304 freshens only what it confirms: its own validators,
//! where it has any, must be those of the stored response. Framing is never merged: the content that
//! is kept keeps its length.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    date,
    decide::{Asked, Refusal},
    freshness::Governing,
    headers,
    meta::{Content, Meta, Validators},
    storing,
    time::Timestamp,
};

/// Fields of a 304 or HEAD answer that describe its own message, not the stored content (§3.2).
const NOT_MERGED: [HeaderName; 2] = [header::CONTENT_LENGTH, header::CONTENT_RANGE];

/// The conditions that ask for a 304 if `stored` is still true (§4.3.1); empty: it has no validator.
pub fn conditions(stored: &Meta) -> HeaderMap {
    let mut conditions = HeaderMap::with_capacity(2);
    if stored.validators.etag.is_some()
        && let Some(etag) = stored.headers.get(header::ETAG)
    {
        conditions.insert(header::IF_NONE_MATCH, etag.clone());
    }
    if stored.validators.last_modified_secs.is_some()
        && let Some(modified) = stored.headers.get(header::LAST_MODIFIED)
    {
        conditions.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
    conditions
}

/// Entity tags offered to the origin for a request that none of the stored variants answers. A page has a
/// handful of variants; each tag costs request bytes.
const OFFERED_MAX: usize = 8;

/// Whether the origin may be asked if this response, stored for other request fields, answers the request: whole, and
/// known by a strong entity tag. Not encoded: servers exist that give one tag to all encodings of a page.
pub fn can_be_offered(stored: &Meta) -> bool {
    let is_strong = stored.validators.etag.as_ref().is_some_and(|tag| !tag.weak);
    let is_whole = matches!(stored.content, Content::Whole { .. });
    is_strong
        && is_whole
        && stored.status == StatusCode::OK
        && !stored.headers.contains_key(header::CONTENT_ENCODING)
}

/// The condition by which the origin may choose one of these (§4.1, §4.3.1); empty: there are none.
pub fn offer<'a>(stored: impl Iterator<Item = &'a Meta>) -> HeaderMap {
    let tags = stored.filter_map(|meta| meta.headers.get(header::ETAG)).take(OFFERED_MAX);
    let tags: Vec<&[u8]> = tags.map(HeaderValue::as_bytes).collect();
    let value = HeaderValue::from_bytes(&tags.join(&b", "[..])).ok().filter(|_| !tags.is_empty());
    value.map(|value| (header::IF_NONE_MATCH, value)).into_iter().collect()
}

/// Whether a 304 to an [`offer`] chooses `stored`: by the same strong tag and nothing less.
pub fn chooses(not_modified: &HeaderMap, stored: &Meta, now: Timestamp) -> bool {
    let theirs = Validators::read(not_modified, stored.date_secs, now);
    match (&theirs.etag, &stored.validators.etag) {
        (Some(theirs), Some(ours)) => theirs.matches_strongly(ours),
        _ => false,
    }
}

/// Whether a 304 with these fields is about `stored` (§4.3.4).
///
/// A strong validator must match strongly, a weak one weakly; a 304 without any answers the only
/// question that was asked.
pub fn confirms(asked: &Asked<'_>, not_modified: &HeaderMap, stored: &Meta) -> bool {
    let theirs = Validators::read(not_modified, stored.date_secs, asked.response_time);
    let ours = &stored.validators;
    match (&theirs.etag, &ours.etag) {
        (Some(theirs), Some(ours)) if theirs.weak => theirs.matches_weakly(ours),
        (Some(theirs), Some(ours)) => theirs.matches_strongly(ours),
        (Some(_), None) => false,
        (None, _) => {
            theirs.last_modified_secs.is_none() || theirs.last_modified_secs == ours.last_modified_secs
        }
    }
}

/// Whether an answer to HEAD describes `stored` (§4.3.5): every validator and length it names is ours.
pub fn describes(asked: &Asked<'_>, head: &HeaderMap, stored: &Meta) -> bool {
    let date_secs = super::freshness::date_secs(head, asked.response_time);
    let theirs = Validators::read(head, date_secs, asked.response_time);
    let ours = &stored.validators;
    let same_etag = theirs.etag.is_none() || theirs.etag == ours.etag;
    let same_date =
        theirs.last_modified_secs.is_none() || theirs.last_modified_secs == ours.last_modified_secs;
    let length = head.get(header::CONTENT_LENGTH);
    let same_length = length.is_none() || length == stored.headers.get(header::CONTENT_LENGTH);
    same_etag && same_date && same_length
}

/// The stored head with the fields of `newer` in place of its own (§3.2), digested as if it had just
/// arrived.
///
/// # Errors
/// [`Refusal`] where the merged head could not be selected again (`Vary: *`).
pub fn merge(asked: &Asked<'_>, newer: &HeaderMap, stored: &Meta) -> Result<Meta, Refusal> {
    let mut fields = headers::end_to_end(newer);
    for name in &NOT_MERGED {
        fields.remove(name);
    }
    // A confirmation that sets a cookie sets it for one client: it is no reason to set it for all.
    if !storing::shares_cookies(asked, &Governing::read(newer)) {
        fields.remove(header::SET_COOKIE);
    }
    let mut merged = stored.headers.clone();
    // Age and Date are of the message that brought the news.
    merged.remove(header::DATE);
    for name in fields.keys() {
        merged.remove(name);
    }
    for (name, value) in &fields {
        merged.append(name, value.clone());
    }
    if !merged.contains_key(header::DATE) {
        merged.insert(header::DATE, date::format(asked.response_time.secs()));
    }
    let governing = Governing::read(&merged);
    let mut meta = storing::digest(asked, status_of_whole(stored), &merged, &governing)?;
    meta.status = stored.status;
    meta.content = stored.content.clone();
    if let (Content::Whole { .. }, Some(length)) =
        (&stored.content, stored.headers.get(header::CONTENT_LENGTH))
    {
        meta.headers.insert(header::CONTENT_LENGTH, length.clone());
    }
    Ok(meta)
}

/// The status to digest under: a stored part is not judged a second time as a 206.
fn status_of_whole(stored: &Meta) -> StatusCode {
    match stored.content {
        Content::Whole { .. } | Content::HeadOnly => stored.status,
        Content::Part { .. } => StatusCode::OK,
    }
}
