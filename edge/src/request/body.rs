//! The body of every response: from the store, from an origin, or made here.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use thiserror::Error;

use super::{log::Access, mend::Stored};
use crate::{
    cache::{self, Object, region::FileRegion},
    gates::{Terms, bandwidth::Throttle},
    listen::{connection::InFlight, share::Taken},
    origin::{FetchBody, FetchError},
    policy::headers,
    stats::{Asker, SiteStats},
};

/// Why a response stopped midway. hyper then closes the connection or resets the stream, so that the
/// client can't take what it has for the whole (RFC 9112 section 8).
#[derive(Debug, Error)]
pub enum BodyError {
    /// While reading from the store.
    #[error(transparent)]
    Stored(#[from] cache::BodyError),
    /// While reading from the origin.
    #[error(transparent)]
    Fetched(#[from] FetchError),
}

/// A piece of a multipart body.
pub enum Part {
    /// Written here.
    Made(Bytes),
    /// A span of an object.
    Stored(cache::Body),
}

/// What a body gives to who can send files.
#[derive(Debug)]
pub enum Piece {
    /// Bytes in memory.
    Data(Bytes),
    /// Bytes of a file, at most 1 MiB.
    File(FileRegion),
}

enum Source {
    Empty,
    Whole(Bytes),
    /// Bytes of an object in memory, from `at` of its content on.
    Resident {
        object: Arc<Object>,
        at: u64,
        bytes: Bytes,
    },
    Stored(Stored),
    Fetched(Box<FetchBody>),
    Cut {
        fetched: Box<FetchBody>,
        skip_bytes: u64,
        left_bytes: u64,
    },
    Parts {
        parts: std::vec::IntoIter<Part>,
        current: Option<cache::Body>,
        left_bytes: u64,
    },
}

/// See the module. Dropped, it accounts for what was sent.
pub struct Body {
    source: Source,
    sent_bytes: u64,
    /// The last piece was a file's.
    is_with_file: bool,
    stats: Option<(Arc<SiteStats>, Asker)>,
    access: Option<Box<Access>>,
    in_flight: Option<InFlight>,
    share: Option<Taken>,
    /// What the site's gates ask of it.
    terms: Option<Box<Terms>>,
}

impl Body {
    fn new(source: Source) -> Self {
        Body {
            source,
            sent_bytes: 0,
            is_with_file: false,
            stats: None,
            access: None,
            in_flight: None,
            share: None,
            terms: None,
        }
    }

    /// No content.
    pub fn empty() -> Self {
        Body::new(Source::Empty)
    }

    /// Something short, made here.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Body::new(Source::Whole(bytes.into()))
    }

    /// Bytes of an object that are in memory, from `at` of its content on: where there is a copy on disk, that may be the
    /// better one to send.
    pub fn resident(object: Arc<Object>, at: u64, bytes: Bytes) -> Self {
        Body::new(Source::Resident { object, at, bytes })
    }

    /// An object's content.
    pub fn stored(body: Stored) -> Self {
        Body::new(Source::Stored(body))
    }

    /// An origin's content, past the store.
    pub fn fetched(body: FetchBody) -> Self {
        Body::new(Source::Fetched(Box::new(body)))
    }

    /// Of an origin's content, past the store, `bytes` after the first `skip_bytes`.
    pub fn cut(body: FetchBody, skip_bytes: u64, bytes: u64) -> Self {
        Body::new(Source::Cut { fetched: Box::new(body), skip_bytes, left_bytes: bytes })
    }

    /// Several spans of an object, `total_bytes` with what goes between them.
    pub fn parts(parts: Vec<Part>, total_bytes: u64) -> Self {
        Body::new(Source::Parts { parts: parts.into_iter(), current: None, left_bytes: total_bytes })
    }

    /// As `poll_frame` for content of known length, with files where they can be sent as they are; no trailers.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, BodyError>>> {
        let piece = match &mut self.source {
            // Pieces at their times are cut from memory.
            _ if self.terms.as_ref().is_some_and(|terms| terms.throttle.is_some()) => None,
            Source::Resident { object, at, bytes } => {
                let region = object.region(*at, bytes.len() as u64);
                self.source = Source::Whole(std::mem::take(bytes));
                region.map(Piece::File)
            }
            // What was a file's has been sent: nothing is left.
            Source::Whole(_) if self.is_with_file => return Poll::Ready(None),
            Source::Stored(stored) => match std::task::ready!(stored.poll_piece(cx)) {
                Some(Ok(piece)) => Some(piece),
                end => return Poll::Ready(end),
            },
            _ => None,
        };
        let Some(piece) = piece else {
            let frame = std::task::ready!(Pin::new(self).poll_frame(cx));
            let data = |frame: Frame<Bytes>| Piece::Data(frame.into_data().unwrap_or_default());
            return Poll::Ready(frame.map(|frame| frame.map(data)));
        };
        self.is_with_file = matches!(piece, Piece::File(_));
        self.sent_bytes += match &piece {
            Piece::Data(data) => data.len() as u64,
            Piece::File(region) => region.left(),
        };
        Poll::Ready(Some(Ok(piece)))
    }

    /// The last piece was a file's, and so many bytes of it could not be had: they come again, from elsewhere.
    pub fn give_back(&mut self, bytes: u64) {
        self.sent_bytes -= bytes;
        self.is_with_file = false;
        match &mut self.source {
            Source::Whole(whole) => {
                let sent = whole.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
                *whole = whole.slice(sent..);
            }
            Source::Stored(stored) => stored.give_back(bytes),
            _ => {}
        }
    }

    /// Keeps the connection marked busy until the body is dropped.
    pub fn hold(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }

    /// Keeps its place among the site's requests until the body is dropped.
    pub fn hold_share(&mut self, share: Option<Taken>) {
        self.share = share;
    }

    /// Keeps to what the site's gates ask until the body is dropped.
    pub fn hold_terms(&mut self, terms: Terms) {
        self.terms = Some(Box::new(terms));
    }

    /// Holds it to this pace, beside the terms it is sent on.
    pub fn slow_to(&mut self, bytes_per_second: u64, now: Instant) {
        let none = || Box::new(Terms { throttle: None, flight: None });
        let terms = self.terms.get_or_insert_with(none);
        match &mut terms.throttle {
            Some(throttle) => throttle.slow_to(bytes_per_second, now),
            None => terms.throttle = Some(Throttle::own(bytes_per_second, now)),
        }
    }

    /// Bytes that were taken from the source and wait for their time.
    fn waiting_bytes(&self) -> u64 {
        let throttle = self.terms.as_ref().and_then(|terms| terms.throttle.as_ref());
        throttle.map_or(0, Throttle::held_bytes)
    }

    /// What is sent is added to these counters, and to the access log if there is one.
    pub fn account(&mut self, stats: Arc<SiteStats>, asker: Asker, access: Option<Box<Access>>) {
        self.stats = Some((stats, asker));
        self.access = access;
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.sent_bytes -= self.waiting_bytes().min(self.sent_bytes);
        if let Some((stats, asker)) = &self.stats {
            stats.here_for(*asker).body_bytes.fetch_add(self.sent_bytes, Relaxed);
        }
        if let Some(access) = self.access.take() {
            access.write(self.sent_bytes);
        }
    }
}

impl Body {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self;
        let polled = match &mut body.source {
            Source::Empty => return Poll::Ready(None),
            Source::Whole(bytes) | Source::Resident { bytes, .. } => {
                let bytes = std::mem::take(bytes);
                body.source = Source::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Stored(stored) => stored.poll_frame(cx),
            Source::Fetched(fetched) => Pin::new(fetched.as_mut())
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::from))),
            Source::Cut { fetched, skip_bytes, left_bytes } => poll_cut(fetched, skip_bytes, left_bytes, cx),
            Source::Parts { parts, current, left_bytes } => poll_parts(parts, current, cx).map(|frame| {
                if let Some(Ok(frame)) = &frame {
                    *left_bytes -= frame.data_ref().map_or(0, |data| data.len() as u64).min(*left_bytes);
                }
                frame
            }),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => {
                    body.sent_bytes += data.len() as u64;
                    Frame::data(data)
                }
                // Whether the client wants them is the connection's to know (RFC 9110 section 6.5.1).
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(headers::trailers(&trailers)),
                    Err(_unknown) => Frame::data(Bytes::new()),
                },
            }))),
            other => other,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        let Some(mut terms) = body.terms.take() else { return body.poll_source(cx) };
        let polled = match &mut terms.throttle {
            Some(throttle) => throttle.poll(cx, |cx| body.poll_source(cx)),
            None => body.poll_source(cx),
        };
        body.terms = Some(terms);
        polled
    }

    fn is_end_stream(&self) -> bool {
        if self.waiting_bytes() > 0 {
            return false;
        }
        match &self.source {
            Source::Empty => true,
            Source::Whole(bytes) | Source::Resident { bytes, .. } => bytes.is_empty(),
            Source::Stored(body) => body.is_end_stream(),
            Source::Fetched(body) => body.is_end_stream(),
            Source::Cut { left_bytes, .. } | Source::Parts { left_bytes, .. } => *left_bytes == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            // Asked for before anything was taken; later it is no promise.
            _ if self.waiting_bytes() > 0 => SizeHint::default(),
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) | Source::Resident { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Source::Stored(body) => body.size_hint(),
            Source::Fetched(body) => body.size_hint(),
            Source::Cut { left_bytes, .. } | Source::Parts { left_bytes, .. } => {
                SizeHint::with_exact(*left_bytes)
            }
        }
    }
}

fn poll_cut(
    fetched: &mut FetchBody,
    skip_bytes: &mut u64,
    left_bytes: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let taken = |wanted: u64, data: &Bytes| usize::try_from(wanted).unwrap_or(usize::MAX).min(data.len());
    while *left_bytes > 0 {
        let Some(frame) = std::task::ready!(Pin::new(&mut *fetched).poll_frame(cx)) else { break };
        let Ok(mut data) = frame?.into_data() else { continue };
        let skipped = data.split_to(taken(*skip_bytes, &data));
        *skip_bytes -= skipped.len() as u64;
        data.truncate(taken(*left_bytes, &data));
        if !data.is_empty() {
            *left_bytes -= data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }
    // What the origin owes shows in the length that was announced: hyper resets.
    Poll::Ready(None)
}

fn poll_parts(
    parts: &mut std::vec::IntoIter<Part>,
    current: &mut Option<cache::Body>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    loop {
        if let Some(stored) = current {
            match std::task::ready!(Pin::new(stored).poll_frame(cx)) {
                Some(frame) => return Poll::Ready(Some(frame.map_err(BodyError::from))),
                None => *current = None,
            }
        }
        match parts.next() {
            None => return Poll::Ready(None),
            Some(Part::Made(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Part::Stored(stored)) => *current = Some(stored),
        }
    }
}
