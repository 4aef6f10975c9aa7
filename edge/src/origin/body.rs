//! Bodies on their way: a client's to the origin, the origin's back.
//!
//! Each has a deadline between two bytes, which hyper does not have. Nothing is buffered here.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{
    error::{FetchError, SendError},
    group::Load,
    pool::Lease,
};
use crate::{
    listen::{
        pace::{Pace, Verdict},
        share::{Limit, Share},
    },
    request::incoming,
    stats::SiteStats,
};

/// A timer that is only armed while something is awaited, so that a body that never waits costs no
/// timer at all.
struct Stall {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Stall {
    fn new(limit: Duration) -> Self {
        Stall { limit, sleep: None, waiting: false }
    }

    /// Progress was made.
    fn calm(&mut self) {
        self.waiting = false;
    }

    /// Nothing came: ready once it has not come for the whole limit.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(Instant::now() + limit);
        }
        sleep.as_mut().poll(cx)
    }
}

/// What is sent to an origin.
pub enum SendBody {
    /// No body.
    Empty,
    /// The client's, as it comes.
    Client(Box<ClientBody>),
}

impl SendBody {
    /// Wraps a client's body. What breaks its limits is an error that also aborts the request to the origin, so that
    /// it never sees a shorter body as complete.
    pub fn client(incoming: incoming::Incoming, limits: UploadLimits) -> Self {
        if incoming.is_end_stream() {
            return SendBody::Empty;
        }
        SendBody::Client(Box::new(ClientBody {
            incoming,
            left: limits.bytes_max,
            bytes_max: limits.bytes_max,
            stall: Stall::new(limits.stall),
            pace: limits.pace,
            share: limits.share,
            sent: Arc::default(),
        }))
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        matches!(self, SendBody::Empty)
    }

    /// Counts bytes taken so far, for whoever waits for the response meanwhile.
    pub(super) fn sent(&self) -> Option<Arc<AtomicU64>> {
        match self {
            SendBody::Empty => None,
            SendBody::Client(client) => Some(client.sent.clone()),
        }
    }
}

/// What holds for a client's body.
pub struct UploadLimits {
    /// Bytes in all.
    pub bytes_max: u64,
    /// Longest pause.
    pub stall: Duration,
    /// Slowest rate.
    pub pace: Pace,
    /// Whose refusals these are.
    pub share: Arc<Share>,
}

/// A client's body with its limits.
pub struct ClientBody {
    incoming: incoming::Incoming,
    left: u64,
    bytes_max: u64,
    stall: Stall,
    pace: Pace,
    share: Arc<Share>,
    sent: Arc<AtomicU64>,
}

impl ClientBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            if !self.stall.waiting {
                self.pace.waits(Instant::now().into_std());
            }
            ready!(self.stall.poll(cx));
            return Poll::Ready(Some(Err(SendError::Stalled(self.stall.limit))));
        };
        let waited = std::mem::take(&mut self.stall.waiting);
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(SendError::Client(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let bytes = data.len() as u64;
                    if bytes > self.left {
                        self.share.refuse(Limit::Body);
                        return Poll::Ready(Some(Err(SendError::TooLarge(self.bytes_max))));
                    }
                    self.left -= bytes;
                    if !waited {
                        self.pace.took(data.len());
                    } else if self.pace.moved(data.len(), Instant::now().into_std()) == Verdict::TooSlow {
                        self.share.refuse(Limit::UploadRate);
                        return Poll::Ready(Some(Err(SendError::TooSlow)));
                    }
                    self.sent.fetch_add(bytes, Ordering::Relaxed);
                    Some(Ok(Frame::data(data)))
                }
                // RFC 9110 section 6.5.1: trailers may be dropped by whoever does not know that they
                // are safe to forward; nothing an origin needs travels there.
                Err(_trailers) => Some(Ok(Frame::data(Bytes::new()))),
            },
        })
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        match self.get_mut() {
            SendBody::Empty => Poll::Ready(None),
            SendBody::Client(client) => client.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            SendBody::Empty => true,
            SendBody::Client(client) => client.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            SendBody::Empty => SizeHint::with_exact(0),
            SendBody::Client(client) => client.incoming.size_hint(),
        }
    }
}

/// An origin's response body. Read to its end, it gives its connection back to the pool; dropped
/// earlier or failed, it closes it.
pub struct FetchBody {
    incoming: Incoming,
    stall: Stall,
    lease: Option<Lease>,
    load: Option<Load>,
    /// What is left of it is nobody's.
    withheld: bool,
    /// Where its bytes are counted.
    stats: Option<Arc<SiteStats>>,
}

impl FetchBody {
    /// Counts its bytes as an origin's.
    pub fn counted(mut self, stats: Arc<SiteStats>) -> Self {
        self.stats = Some(stats);
        self
    }

    /// Counts as load of its origin until it has been read or dropped.
    pub(super) fn loading(mut self, load: Load) -> Self {
        // What has been read to its end already is no load.
        self.load = self.lease.is_some().then_some(load);
        self
    }

    /// After a 101 the connection belongs to the tunnel: it keeps its slot until dropped.
    pub(super) fn tunnel(incoming: Incoming, between_bytes: Duration, lease: Lease) -> Self {
        FetchBody {
            incoming,
            stall: Stall::new(between_bytes),
            lease: Some(lease),
            load: None,
            withheld: false,
            stats: None,
        }
    }

    pub(super) fn new(incoming: Incoming, between_bytes: Duration, lease: Lease) -> Self {
        let mut body = FetchBody {
            incoming,
            stall: Stall::new(between_bytes),
            lease: Some(lease),
            load: None,
            withheld: false,
            stats: None,
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// An empty body in place of what is left of this one. A connection that is not through with it closes.
    pub(super) fn withheld(mut self) -> Self {
        (self.lease, self.load) = (None, None);
        self.withheld = true;
        self
    }

    fn finish(&mut self) {
        self.load = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for FetchBody {
    type Data = Bytes;
    type Error = FetchError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FetchError>>> {
        let body = self.get_mut();
        if body.withheld {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut body.incoming).poll_frame(cx) else {
            ready!(body.stall.poll(cx));
            (body.lease, body.load) = (None, None);
            return Poll::Ready(Some(Err(FetchError::BetweenBytesTimeout(body.stall.limit))));
        };
        body.stall.calm();
        Poll::Ready(match frame {
            None => {
                body.finish();
                None
            }
            Some(Ok(frame)) => {
                if body.incoming.is_end_stream() {
                    body.finish();
                }
                if let (Some(stats), Some(data)) = (&body.stats, frame.data_ref()) {
                    stats.here().origin_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                (body.lease, body.load) = (None, None);
                Some(Err(FetchError::BodyCut(Arc::new(error))))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.withheld || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.withheld { SizeHint::with_exact(0) } else { self.incoming.size_hint() }
    }
}
