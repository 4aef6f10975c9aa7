//! What a client sends with its request, whichever protocol brings it.
//!
//! The way to the origin reads it as one kind of body; each listener makes its own from what it speaks. Nothing is
//! buffered or judged here.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Why a client's content ended early: its connection broke, or its framing did.
pub type IncomingError = Arc<dyn Error + Send + Sync>;

/// A request's content.
#[derive(Default)]
pub enum Incoming {
    /// None.
    #[default]
    Empty,
    /// As hyper reads it.
    Hyper(hyper::body::Incoming),
    /// As a listener of our own reads it.
    Read(Pin<Box<dyn Body<Data = Bytes, Error = IncomingError> + Send>>),
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(incoming: hyper::body::Incoming) -> Self {
        if incoming.is_end_stream() { Incoming::Empty } else { Incoming::Hyper(incoming) }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match self.get_mut() {
            Incoming::Empty => Poll::Ready(None),
            Incoming::Hyper(body) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|error| -> IncomingError { Arc::new(error) })))
            }
            Incoming::Read(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Empty => true,
            Incoming::Hyper(body) => body.is_end_stream(),
            Incoming::Read(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Empty => SizeHint::with_exact(0),
            Incoming::Hyper(body) => body.size_hint(),
            Incoming::Read(body) => body.size_hint(),
        }
    }
}
