//! Mend: goes on where a stored body breaks off, so that a failing disk is the operator's trouble and not a client's.
//!
//! A chunk that can't be read or does not match its checksum, and a reader cut off because it held up a fill that nothing
//! could spool, are not the origin's end: the rest is asked of it, for this client alone. Bytes join only under one strong
//! entity tag (RFC 9110 section 15.3.7.3); without one, or where the origin has something else by now, the response breaks
//! off as it would have. What comes is not stored: the damaged copy is gone, and the next request begins anew.
//!
//! Not mended: multipart bodies, parts that are kept as what they are, and fills that their origin broke off.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};

use super::{
    Exchange,
    body::{BodyError, Piece},
    miss, partial,
};
use crate::{
    cache::{self, Object, Span},
    origin::{FetchBody, SendBody},
    policy::{decide::Range, headers, range},
};

/// An object's content, from its origin where the store's copy gives out.
pub struct Stored {
    state: State,
    mend: Option<Box<Mend>>,
}

enum State {
    Reading(cache::Body),
    Asking { answer: Asking, why: cache::BodyError },
    Fetching { fetched: Box<FetchBody>, skip_bytes: u64 },
}

type Asking = Pin<Box<dyn Future<Output = Option<(FetchBody, u64)>> + Send>>;

/// What is left to send, and who could have it sent.
struct Mend {
    exchange: Arc<Exchange>,
    object: Arc<Object>,
    left: Span,
}

impl Stored {
    /// Of an object, `span` (`None`: all), never mended.
    pub(super) fn plain(object: &Object, span: Option<Span>) -> Stored {
        Stored { state: State::Reading(object.body(span)), mend: None }
    }

    /// Of an object, `span` (`None`: all), mended where that can be done.
    pub(super) fn mended(exchange: &Arc<Exchange>, object: &Arc<Object>, span: Option<Span>) -> Stored {
        let is_strong = object.meta().validators.etag.as_ref().is_some_and(|tag| !tag.weak);
        // The origin never had what was made here.
        let is_origins = !object.key().is_derived();
        let left = object.length().filter(|_| is_strong && is_origins).map(|length| match &span {
            Some(span) => span.start..span.end.min(length),
            None => 0..length,
        });
        let mend =
            left.map(|left| Box::new(Mend { exchange: exchange.clone(), object: object.clone(), left }));
        Stored { mend, ..Stored::plain(object, span) }
    }

    /// The next frame; see [`http_body::Body`].
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match &mut self.state {
                State::Reading(stored) => match ready!(Pin::new(stored).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let Some(mend) = &mut self.mend {
                            mend.left.start += frame.data_ref().map_or(0, |data| data.len() as u64);
                        }
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Some(Err(why)) => match self.mend.as_ref().filter(|mend| mend.is_for(why)) {
                        Some(mend) => {
                            let answer = ask(mend.exchange.clone(), mend.object.clone(), mend.left.clone());
                            self.state = State::Asking { answer: Box::pin(answer), why };
                        }
                        None => return Poll::Ready(Some(Err(why.into()))),
                    },
                    None => return Poll::Ready(None),
                },
                State::Asking { answer, why } => match ready!(answer.as_mut().poll(cx)) {
                    Some((fetched, skip_bytes)) => {
                        self.state = State::Fetching { fetched: Box::new(fetched), skip_bytes };
                    }
                    None => return Poll::Ready(Some(Err((*why).into()))),
                },
                State::Fetching { fetched, skip_bytes } => {
                    let Some(mend) = self.mend.as_mut().filter(|mend| !mend.left.is_empty()) else {
                        return Poll::Ready(None);
                    };
                    let Some(frame) = ready!(Pin::new(fetched.as_mut()).poll_frame(cx)) else {
                        return Poll::Ready(Some(Err(cache::BodyError::FillFailed.into())));
                    };
                    let Ok(mut data) = frame?.into_data() else { continue };
                    let cut = |bytes: u64, data: &Bytes| {
                        usize::try_from(bytes).unwrap_or(usize::MAX).min(data.len())
                    };
                    let skipped = data.split_to(cut(*skip_bytes, &data));
                    *skip_bytes -= skipped.len() as u64;
                    data.truncate(cut(mend.left.end - mend.left.start, &data));
                    if !data.is_empty() {
                        mend.left.start += data.len() as u64;
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
            }
        }
    }

    /// As [`Self::poll_frame`], with files where they can be sent as they are.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, BodyError>>> {
        if let State::Reading(stored) = &mut self.state
            && let Some(region) = stored.region()
        {
            if let Some(mend) = &mut self.mend {
                mend.left.start += region.left();
            }
            return Poll::Ready(Some(Ok(Piece::File(region))));
        }
        let frame = ready!(self.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| Piece::Data(frame.into_data().unwrap_or_default()))))
    }

    /// See [`cache::Body::give_back`].
    pub fn give_back(&mut self, bytes: u64) {
        if let State::Reading(stored) = &mut self.state {
            stored.give_back(bytes);
            if let Some(mend) = &mut self.mend {
                mend.left.start -= bytes;
            }
        }
    }

    /// Whether nothing is left to send.
    pub fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Reading(stored) => stored.is_end_stream(),
            State::Asking { .. } => false,
            State::Fetching { .. } => self.mend.as_ref().is_none_or(|mend| mend.left.is_empty()),
        }
    }

    /// What is left to send.
    pub fn size_hint(&self) -> SizeHint {
        match (&self.state, &self.mend) {
            (State::Reading(stored), _) => stored.size_hint(),
            (_, Some(mend)) => SizeHint::with_exact(mend.left.end - mend.left.start),
            (_, None) => SizeHint::default(),
        }
    }
}

impl Mend {
    fn is_for(&self, why: cache::BodyError) -> bool {
        use cache::BodyError::{Damaged, FillFailed, Missing, TooSlow};
        match why {
            Damaged | Missing | TooSlow => !self.left.is_empty(),
            FillFailed => false,
        }
    }
}

/// Asks for the rest. Gives it with the bytes to skip before it: an origin that knows no ranges sends all again.
async fn ask(exchange: Arc<Exchange>, object: Arc<Object>, left: Span) -> Option<(FetchBody, u64)> {
    let etag = object.meta().headers.get(header::ETAG)?;
    let mut asked = exchange.headers.clone();
    asked.insert(header::RANGE, partial::range_value(&left));
    asked.insert(header::IF_RANGE, etag.clone());
    let fields = headers::upstream(&asked, &HeaderMap::new(), Range::AsAsked);
    let (answer, _) = miss::ask(&exchange, fields, SendBody::Empty, None).await;
    let response = answer.ok()?;
    if response.headers().get(header::ETAG) != Some(etag) {
        return None;
    }
    let skip_bytes = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let (span, length) = range::parse_content_range(response.headers())?;
            let is_rest = span.first == left.start && span.last + 1 == left.end;
            (is_rest && length.is_none_or(|length| Some(length) == object.length())).then_some(0)?
        }
        StatusCode::OK => left.start,
        _ => return None,
    };
    exchange.edge.cache.metrics().mended.one();
    Some((response.into_body(), skip_bytes))
}
