//! Deliver: makes the response head, and the body behind it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::{Answer, Body, Exchange, Refusal, body::Part, mend::Stored, now, partial};
use crate::{
    cache::{Candidates, Object, region::REGION_BYTES_MIN},
    policy::{
        self, Content, Precondition, Serve, headers,
        range::{self, Extent, Span},
        status::{self, CacheStatus},
    },
    stats::Outcome,
};

/// Content up to this size leaves as one frame with its head, in one `writev`; larger content in frames of
/// this size, which keep what a slow reader pins small (docs/design.md).
const FRAME_BYTES: usize = 128 * 1024;

/// Answers from the store; the origin is asked for gaps only.
pub(super) async fn hit(
    exchange: &Arc<Exchange>,
    found: &Candidates,
    serve: &Serve,
    outcome: Outcome,
) -> Result<Answer, Refusal> {
    let found = found.get(serve.index).ok_or(Refusal::Internal("no-such-candidate"))?;
    let account = CacheStatus::hit(outcome.policy(), serve.ttl_secs);
    partial::answer(exchange, &found.object, serve, account, outcome).await
}

/// What the store would say of an object that has just been stored or confirmed.
pub(super) fn serve_now(exchange: &Exchange, object: &Object) -> Serve {
    policy::decide::serve(&exchange.policy_request(), object.meta(), 0, now())
}

/// Answers with an object: whole, a part of it, or the news that it has not changed.
pub(super) fn object(
    exchange: &Arc<Exchange>,
    object: &Arc<Object>,
    serve: &Serve,
    account: &CacheStatus,
    outcome: Outcome,
) -> Answer {
    let fields = headers::from_store(object.meta(), serve);
    object_with(exchange, object, serve, fields, account, outcome)
}

/// Answers with an object under other fields than the stored ones: whoever caused the fetch gets what
/// the origin sent, with the fields that `private="…"` and `no-cache="…"` keep out of the store.
pub(super) fn object_with(
    exchange: &Arc<Exchange>,
    object: &Arc<Object>,
    serve: &Serve,
    mut fields: HeaderMap,
    account: &CacheStatus,
    outcome: Outcome,
) -> Answer {
    let mut status = object.meta().status;
    exchange.site.rules.for_client(exchange.target.path(), status, &mut fields);
    if let Some(shape) = &exchange.shape {
        shape.label(exchange, object, &mut fields);
    }
    let body = if serve.precondition == Precondition::NotModified {
        status = StatusCode::NOT_MODIFIED;
        fields = headers::not_modified(fields);
        Body::empty()
    } else {
        content(exchange, object, &mut status, &mut fields)
    };
    append_account(&mut fields, account);
    Answer { response: respond(status, fields, body), outcome }
}

fn content(
    exchange: &Arc<Exchange>,
    object: &Arc<Object>,
    status: &mut StatusCode,
    fields: &mut HeaderMap,
) -> Body {
    let meta = object.meta();
    if meta.content == Content::HeadOnly {
        return Body::empty();
    }
    if let Content::Part { first, last, complete_length } = meta.content {
        // The origin's answer to this very request, or one that policy has found to hold it.
        let span = range::within_part(&exchange.headers, meta, now()).unwrap_or(Span { first, last });
        *status = StatusCode::PARTIAL_CONTENT;
        fields.insert(header::CONTENT_RANGE, span.content_range_of(complete_length));
        fields.insert(header::CONTENT_LENGTH, span.bytes().into());
        let span = span.first - first..span.last + 1 - first;
        return in_memory(object, &span).unwrap_or_else(|| Body::stored(Stored::plain(object, Some(span))));
    }
    let length = object.length();
    if let Some(length) = length {
        if meta.status == StatusCode::OK {
            fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        match range::extent(&exchange.method, &exchange.headers, meta, length, now()) {
            Extent::Whole => {}
            Extent::Unsatisfiable => {
                *status = StatusCode::RANGE_NOT_SATISFIABLE;
                fields.insert(header::CONTENT_RANGE, range::unsatisfied(length));
                fields.remove(header::CONTENT_LENGTH);
                fields.remove(header::CONTENT_TYPE);
                fields.remove(header::CONTENT_ENCODING);
                return Body::empty();
            }
            Extent::Parts(spans) => {
                *status = StatusCode::PARTIAL_CONTENT;
                return parts(exchange, object, &spans, length, fields);
            }
        }
        if !has_no_content(*status) {
            fields.insert(header::CONTENT_LENGTH, length.into());
        }
    }
    match (&exchange.method, object.whole()) {
        (&Method::HEAD, _) => Body::empty(),
        (_, Some(whole)) if whole.len() <= FRAME_BYTES => resident(object, 0, whole.clone()),
        _ => Body::stored(Stored::mended(exchange, object, None)),
    }
}

/// All of an object that was made here, and can't be mended.
pub(super) fn whole(method: &Method, object: &Arc<Object>) -> Body {
    match (method, object.whole()) {
        (&Method::HEAD, _) => Body::empty(),
        (_, Some(whole)) if whole.len() <= FRAME_BYTES => resident(object, 0, whole.clone()),
        _ => Body::stored(Stored::plain(object, None)),
    }
}

/// Bytes `span` of an object: what is in memory and small enough goes out as one frame.
fn in_memory(object: &Arc<Object>, span: &std::ops::Range<u64>) -> Option<Body> {
    let whole = object.whole()?;
    let (start, end) = (usize::try_from(span.start).ok()?, usize::try_from(span.end).ok()?);
    (end <= whole.len() && end - start <= FRAME_BYTES)
        .then(|| resident(object, span.start, whole.slice(start..end)))
}

/// What is large enough may be sent from disk, though it is in memory.
fn resident(object: &Arc<Object>, at: u64, bytes: Bytes) -> Body {
    if (bytes.len() as u64) < REGION_BYTES_MIN {
        return Body::whole(bytes);
    }
    Body::resident(object.clone(), at, bytes)
}

/// 1xx, 204 and 304 have no content and no length (RFC 9110 section 8.6).
fn has_no_content(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// One span as it is, several as `multipart/byteranges` (RFC 9110 section 15.3.7).
fn parts(
    exchange: &Arc<Exchange>,
    object: &Arc<Object>,
    spans: &[Span],
    length: u64,
    fields: &mut HeaderMap,
) -> Body {
    if let [span] = spans {
        fields.insert(header::CONTENT_RANGE, span.content_range(length));
        fields.insert(header::CONTENT_LENGTH, span.bytes().into());
        let span = span.first..span.last + 1;
        return in_memory(object, &span)
            .unwrap_or_else(|| Body::stored(Stored::mended(exchange, object, Some(span))));
    }
    // 64 random bits: the content can't have been made to hold the boundary beforehand.
    let boundary = format!("{:016x}", fastrand::u64(..));
    let content_type = fields.get(header::CONTENT_TYPE).cloned();
    let mut total = 0;
    let mut parts = Vec::with_capacity(spans.len());
    for span in spans {
        let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(content_type) = &content_type {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(content_type.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Content-Range: ");
        head.extend_from_slice(span.content_range(length).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        total += head.len() as u64 + span.bytes();
        parts.push(Part::Made(Bytes::from(head)));
        parts.push(Part::Stored(object.body(Some(span.first..span.last + 1))));
    }
    let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    total += end.len() as u64;
    parts.push(Part::Made(end));
    let value = format!("multipart/byteranges; boundary={boundary}");
    if let Ok(value) = HeaderValue::try_from(value) {
        fields.insert(header::CONTENT_TYPE, value);
    }
    fields.insert(header::CONTENT_LENGTH, total.into());
    Body::parts(parts, total)
}

/// Adds our member to `Cache-Status`, after those of caches closer to the origin (RFC 9211 section 2).
pub(crate) fn append_account(fields: &mut HeaderMap, account: &CacheStatus) {
    fields.append(status::CACHE_STATUS, account.value());
    fields.insert(status::X_CACHE_STATUS, HeaderValue::from_static(account.outcome.word()));
}

/// The connection ends with this answer.
pub(super) fn close_after(fields: &mut HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
}

pub(super) fn respond(status: StatusCode, fields: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}
