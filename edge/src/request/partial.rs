//! Ranges on a miss, and stored responses with gaps: what a request needs is fetched in whole chunks, and no more.
//!
//! A range of something not stored is widened to the chunks around it ([`widened`]); what comes is kept as a
//! 200 with gaps (RFC 9111 section 3.3) where [`to_keep`] can tell its generation, else cut to what the client asked for
//! ([`cut`]). A request that meets gaps has them filled by [`complete`] first, one after the other,
//! with `If-Range`. Invariant: bytes are combined only under one strong entity tag
//! (RFC 9110 section 15.3.7.3); where the origin has another generation, the stored one is dropped whole.
//!
//! Small parts that are not made of whole chunks are kept as what they are, and joined where they touch ([`join`]).
//!
//! Of several ranges at once of something that is not stored, the chunks around the first are asked for; the others are
//! gaps of it. Not done: ranges from the end only of something that is not stored are passed on as asked, because where
//! the end is nobody knows yet. A 206 to a gap does not freshen the stored head.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::{
    Answer, Body, Exchange, Refusal, deliver, derive,
    miss::{self, Times},
    now,
};
use crate::{
    cache::{Candidates, Filler, Object, RangeLease, Span, fill, fill::Keep},
    origin::{FetchBody, FetchError, SendBody},
    policy::{
        self, Asked, Content, Forward, Meta, Precondition, Serve, Verdict, headers,
        range::{self, Extent, Spec},
        status::CacheStatus,
    },
    stats::Outcome,
};

/// How a request's gaps came to be filled, or not.
enum Gaps {
    /// On their way.
    Filling,
    /// The origin has something else now, or won't say that it has not: the stored one is gone.
    Changed,
    /// The store can't have them soon, or not for this client.
    Aside,
    /// The origin's error.
    Answer(Box<Answer>),
}

/// Answers with a stored object, once all that the request needs of it is there or on its way.
pub(super) async fn answer(
    exchange: &Arc<Exchange>,
    object: &Arc<Object>,
    serve: &Serve,
    mut account: CacheStatus,
    outcome: Outcome,
) -> Result<Answer, Refusal> {
    if let Some(shape) = &exchange.shape {
        match Box::pin(derive::answer(exchange, shape, object, serve, &account, outcome)).await {
            Ok(answer) => return Ok(answer),
            Err(why) => account.detail = account.detail.or(why),
        }
    }
    let Some(spans) = lacking(exchange, object, serve) else {
        return Ok(deliver::object(exchange, object, serve, &account, outcome));
    };
    if exchange.policy_request().directives.only_if_cached {
        return Err(Refusal::NotCached);
    }
    match complete(exchange, object, spans).await? {
        Gaps::Filling => {
            let miss = policy::status::Outcome::Miss;
            let filled = CacheStatus::forwarded(miss, Forward::Partial, Some(StatusCode::PARTIAL_CONTENT));
            let account = CacheStatus { ttl_secs: account.ttl_secs, stored: true, ..filled };
            Ok(deliver::object(exchange, object, serve, &account, Outcome::Miss))
        }
        Gaps::Changed => Box::pin(miss::anew(exchange, widened(exchange))).await,
        Gaps::Aside => Box::pin(miss::anew(exchange, None)).await,
        Gaps::Answer(answer) => Ok(*answer),
    }
}

/// The spans a request needs of an object; `None`: they are there, or will be soon. One look for what is whole.
pub(super) fn lacking(exchange: &Exchange, object: &Object, serve: &Serve) -> Option<Vec<Span>> {
    let needs_content = serve.precondition == Precondition::Proceed && exchange.method == Method::GET;
    if object.whole().is_some() || !needs_content || matches!(object.meta().content, Content::Part { .. }) {
        return None;
    }
    let is_whole = object.is_whole();
    if is_whole && !exchange.headers.contains_key(header::RANGE) {
        return None;
    }
    let length = object.length()?;
    let spans = match range::extent(&exchange.method, &exchange.headers, object.meta(), length, now()) {
        Extent::Whole => std::iter::once(0..length).collect(),
        Extent::Parts(spans) => spans.iter().map(|span| span.first..span.last + 1).collect::<Vec<Span>>(),
        Extent::Unsatisfiable => return None,
    };
    let comes_soon = |span: &Span| (is_whole || object.has(span.clone())) && !object.is_far(span.start);
    if spans.iter().all(comes_soon) { None } else { Some(spans) }
}

/// Takes the gaps in `spans` upon this request. The fetches run as a task of their own: others may wait for them.
async fn complete(exchange: &Arc<Exchange>, object: &Arc<Object>, spans: Vec<Span>) -> Result<Gaps, Refusal> {
    if spans.iter().any(|span| object.is_far(span.start)) {
        return Ok(Gaps::Aside);
    }
    let leases: Vec<RangeLease> = spans.iter().flat_map(|span| object.claim(span.clone())).collect();
    if leases.is_empty() {
        let there = spans.into_iter().all(|span| object.has(span));
        return Ok(if there { Gaps::Filling } else { Gaps::Aside });
    }
    leases.iter().skip(1).for_each(RangeLease::queue);
    let (tell, told) = oneshot::channel();
    tokio::spawn(fill_in_turn(exchange.clone(), object.clone(), leases, tell));
    told.await.map_err(|_panicked| Refusal::Internal("gap-task"))?
}

/// One gap after the other: however many there are, one connection to the origin. The first answer is told; where a
/// later one fails, the readers of its gap are reset.
async fn fill_in_turn(
    exchange: Arc<Exchange>,
    object: Arc<Object>,
    leases: Vec<RangeLease>,
    tell: oneshot::Sender<Result<Gaps, Refusal>>,
) {
    let mut tell = Some(tell);
    for lease in leases {
        let (gaps, filling) = match ask(&exchange, &object, lease).await {
            Ok(asked) => asked,
            Err(refusal) => (Err(refusal), None),
        };
        if let Some(tell) = tell.take() {
            // A client that left needs no answer; the fill ends if nobody else reads it.
            let _ = tell.send(gaps);
        }
        let Some((filler, body)) = filling else { return };
        if fill::drive(filler, body).await.is_err() {
            return;
        }
    }
}

type Told = (Result<Gaps, Refusal>, Option<(Filler, FetchBody)>);

/// Asks for one gap, on the condition that it belongs to what is stored (RFC 9110 section 13.1.5).
async fn ask(exchange: &Arc<Exchange>, object: &Arc<Object>, lease: RangeLease) -> Result<Told, Refusal> {
    let span = lease.span();
    let mut asked = exchange.headers.clone();
    asked.insert(header::RANGE, range_value(&span));
    asked.remove(header::IF_RANGE);
    if let Some(etag) = object.meta().headers.get(header::ETAG) {
        asked.insert(header::IF_RANGE, etag.clone());
    }
    let fields = headers::upstream(&asked, &HeaderMap::new(), policy::decide::Range::AsAsked);
    let (answer, times) = miss::ask(exchange, fields, SendBody::Empty, None).await;
    let response = answer.map_err(Refusal::of_fetch)?;
    let status = response.status();
    let verdict = judge(exchange, &asked, &response, times);
    let belongs = |meta: &Meta| {
        let content =
            Content::Part { first: span.start, last: span.end - 1, complete_length: object.length() };
        meta.content == content && object.meta().validators.same_bytes(&meta.validators)
    };
    match verdict {
        Verdict::Store(meta) if belongs(&meta) => {
            return Ok((Ok(Gaps::Filling), Some((lease.start(Keep::WhileRead), response.into_body()))));
        }
        // What is said to one client says nothing of what is stored for all.
        Verdict::Pass {
            reason: policy::decide::Refusal::Authorization | policy::decide::Refusal::RequestNoStore,
            ..
        } => return Ok((Ok(Gaps::Aside), None)),
        _ => {}
    }
    drop(lease);
    let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE);
    if status.is_server_error() || (status.is_client_error() && !gone) {
        let answer = miss::passed(exchange, Forward::Partial, response, times, None);
        return Ok((Ok(Gaps::Answer(Box::new(answer))), None));
    }
    exchange.edge.cache.outdate(object);
    Ok((Ok(Gaps::Changed), None))
}

fn judge(exchange: &Exchange, asked: &HeaderMap, response: &Response<FetchBody>, times: Times) -> Verdict {
    let request = exchange.judged_by(asked);
    let asked = Asked {
        request: &request,
        rules: &exchange.site.rules,
        uri: &exchange.uri(),
        request_time: times.request,
        response_time: times.response,
        validating: None,
    };
    policy::judge(&asked, response.status(), response.headers())
}

/// The chunks around the range that a request asks for, of several around the first that has a beginning: the others are
/// gaps of what comes. `None`: it asks for none, or from the end only.
pub(super) fn widened(exchange: &Exchange) -> Option<Span> {
    let specs = range::parse(&exchange.headers)?;
    let (first, last) = specs.iter().find_map(|spec| match spec {
        Spec::From { first, last } => Some((*first, *last)),
        Spec::Suffix(_) => None,
    })?;
    match last {
        Some(last) => Some(Object::chunks_around(first..last.saturating_add(1), None)),
        None => Some(Span { end: u64::MAX, ..Object::chunks_around(first..first, None) }),
    }
}

/// Whether a request asks for several ranges: chunks around one of them are no answer to it.
pub(super) fn wants_several(exchange: &Exchange) -> bool {
    range::parse(&exchange.headers).is_some_and(|specs| specs.len() > 1)
}

/// `Range` for whole chunks.
pub(super) fn range_value(span: &Span) -> HeaderValue {
    let last = if span.end == u64::MAX { String::new() } else { (span.end - 1).to_string() };
    HeaderValue::try_from(format!("bytes={}-{last}", span.start))
        .unwrap_or(HeaderValue::from_static("bytes=0-"))
}

/// The head to keep a 206 to the chunks `asked` under, as a 200 with gaps, and which chunks it brings. `None`: it can't be
/// told apart from another generation, brings no whole chunks, or is too large for its site.
pub(super) fn to_keep(meta: &Meta, asked: &Span, bytes_max: u64) -> Option<(Meta, Span)> {
    let Content::Part { first, last, complete_length: Some(length) } = meta.content else { return None };
    let is_strong = meta.validators.etag.as_ref().is_some_and(|tag| !tag.weak);
    let span = first..last + 1;
    let expected = asked.start..asked.end.min(length);
    if !is_strong || span != expected || length > bytes_max {
        return None;
    }
    let mut whole = meta.clone();
    whole.status = StatusCode::OK;
    whole.content = Content::Whole { length: Some(length) };
    whole.headers.insert(header::CONTENT_LENGTH, length.into());
    Some((whole, span))
}

/// Whether a part that is not made of whole chunks is worth keeping by itself: it answers this request, and so the next
/// like it, and memory holds it in one piece.
pub(super) fn is_small_answer(exchange: &Exchange, meta: &Meta) -> bool {
    let is_small =
        matches!(meta.content, Content::Part { first, last, .. } if last - first < fill::SMALL_BYTES_MAX);
    is_small && range::within_part(&exchange.headers, meta, now()).is_some()
}

/// The stored parts, small and complete, that were got by a request like this one.
pub(super) fn small_parts(exchange: &Exchange, found: &Candidates) -> Vec<Arc<Object>> {
    let usable = |object: &Object| {
        let meta = object.meta();
        let is_part = matches!(meta.content, Content::Part { .. });
        is_part && object.whole().is_some() && meta.vary.matches(&exchange.headers)
    };
    found.iter().map(|found| &found.object).filter(|object| usable(object)).cloned().collect()
}

/// The one of `parts` that makes a longer part with the new one: of one generation, touching it, and small together.
pub(super) fn adjoining(parts: &[Arc<Object>], newer: &Meta) -> Option<Arc<Object>> {
    let fits = |older: &&Arc<Object>| joined(older.meta(), newer).is_some();
    parts.iter().find(fits).cloned()
}

/// The span of both parts together.
fn joined(older: &Meta, newer: &Meta) -> Option<range::Span> {
    let span = |meta: &Meta| match meta.content {
        Content::Part { first, last, complete_length } => {
            Some((range::Span { first, last }, complete_length))
        }
        Content::Whole { .. } | Content::HeadOnly => None,
    };
    let ((older_span, older_length), (newer_span, newer_length)) = (span(older)?, span(newer)?);
    let joined = older_span.joined(newer_span)?;
    let is_one = older_length == newer_length && older.validators.same_bytes(&newer.validators);
    (is_one && joined.bytes() <= fill::SMALL_BYTES_MAX).then_some(joined)
}

/// Reads a part to its end, exactly as long as its head says.
pub(super) async fn read_part(meta: &Meta, mut body: FetchBody) -> Result<Bytes, FetchError> {
    let Content::Part { first, last, .. } = meta.content else { return Ok(Bytes::new()) };
    let expected = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > expected {
            break;
        }
    }
    if bytes.len() == expected { Ok(bytes.freeze()) } else { Err(FetchError::PartLength) }
}

/// The head and the bytes of both parts together: a 200 where nothing is missing. `None`: they don't join.
///
/// A purge between the lookup of the older one and the fetch of the newer takes nothing away: the origin, asked after
/// it, has named the same bytes by a strong validator.
pub(super) fn join(older: &Object, newer: &Meta, bytes: &[u8]) -> Option<(Meta, Bytes)> {
    let span = joined(older.meta(), newer)?;
    let mut content = vec![0; usize::try_from(span.bytes()).ok()?];
    for (meta, bytes) in [(older.meta(), &older.whole()?[..]), (newer, bytes)] {
        let Content::Part { first, .. } = meta.content else { return None };
        let start = usize::try_from(first - span.first).ok()?;
        content.get_mut(start..start + bytes.len())?.copy_from_slice(bytes);
    }
    let mut meta = newer.clone();
    let Content::Part { first, last, complete_length } = &mut meta.content else { return None };
    (*first, *last) = (span.first, span.last);
    if let Some(length) = *complete_length
        && span.bytes() == length
    {
        meta.status = StatusCode::OK;
        meta.content = Content::Whole { length: Some(length) };
        meta.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Some((meta, content.into()))
}

/// Cuts a 206 to widened chunks down to what the client asked for. `None`: the part has nothing of it, and is sent as it
/// is: its `Content-Range` says what it is.
pub(super) fn cut(exchange: &Exchange, fields: &mut HeaderMap, body: FetchBody) -> (StatusCode, Body) {
    let partial = StatusCode::PARTIAL_CONTENT;
    let Some((part, length)) = range::parse_content_range(fields) else {
        return (partial, Body::fetched(body));
    };
    let Some([Spec::From { first, last }]) =
        range::parse(&exchange.headers).as_deref().map(|specs| [specs[0]])
    else {
        return (partial, Body::fetched(body));
    };
    let (first, last) = (first.max(part.first), last.unwrap_or(u64::MAX).min(part.last));
    if first > last {
        let Some(length) = length.filter(|length| first >= *length) else {
            return (partial, Body::fetched(body));
        };
        fields.insert(header::CONTENT_RANGE, range::unsatisfied(length));
        fields.insert(header::CONTENT_LENGTH, 0.into());
        return (StatusCode::RANGE_NOT_SATISFIABLE, Body::empty());
    }
    let span = range::Span { first, last };
    let value = match length {
        Some(length) => span.content_range(length),
        None => HeaderValue::try_from(format!("bytes {first}-{last}/*"))
            .unwrap_or(HeaderValue::from_static("bytes */*")),
    };
    fields.insert(header::CONTENT_RANGE, value);
    fields.insert(header::CONTENT_LENGTH, span.bytes().into());
    (partial, Body::cut(body, first - part.first, span.bytes()))
}
