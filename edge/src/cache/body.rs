//! Reads an object's content as an HTTP body, at its client's own pace.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Why a body ended before its last byte. The client's connection (or stream) must be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The fill that brought it failed: its origin died, or sent another length than declared.
    #[error("the origin's response ended early")]
    FillFailed,
    /// Nobody fetches these bytes.
    #[error("part of the object is not stored")]
    Missing,
    /// The disk's copy is unreadable or torn; it has been dropped.
    #[error("the stored copy is damaged")]
    Damaged,
    /// This reader held up a fill that nothing can spool for longer than allowed.
    #[error("reader too slow for a response that is not stored")]
    TooSlow,
}

/// An object's bytes, in frames of at most 128 KiB. `Send`; dropping it tells the fill.
#[derive(Debug)]
pub struct Body {}

#[allow(clippy::unimplemented)]
impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        unimplemented!()
    }

    fn is_end_stream(&self) -> bool {
        unimplemented!()
    }

    fn size_hint(&self) -> SizeHint {
        unimplemented!()
    }
}
