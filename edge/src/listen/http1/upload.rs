//! A request's content on its way from the connection that reads it to whoever wants it.
//!
//! One piece at a time: the connection reads more only once the last piece was taken and another one is wanted, so
//! that a slow origin holds back its client and nothing piles up here. `100 Continue` hangs on the first wish.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::request::incoming::IncomingError;

#[derive(Default)]
struct State {
    piece: Option<Bytes>,
    end: Option<Result<(), IncomingError>>,
    is_wanted: bool,
    is_left: bool,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

/// The reading end.
pub struct Upload {
    state: Arc<Mutex<State>>,
    /// Bytes not read yet, where the head told.
    left: Option<u64>,
}

/// The connection's end.
pub struct Feed(Arc<Mutex<State>>);

/// Whether content is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Now.
    Yes,
    /// Not yet: the task is woken.
    NotYet,
    /// Nobody reads it any more.
    Never,
}

/// Both ends, for content of `length` bytes (`None`: unknown).
pub fn upload(length: Option<u64>) -> (Feed, Upload) {
    let state = Arc::<Mutex<State>>::default();
    (Feed(state.clone()), Upload { state, left: length })
}

impl Feed {
    /// Whether to read on.
    pub fn poll_wanted(&self, cx: &Context<'_>) -> Wanted {
        let mut state = self.0.lock();
        if state.is_left {
            return Wanted::Never;
        }
        if state.is_wanted && state.piece.is_none() {
            return Wanted::Yes;
        }
        if !state.feeder.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            state.feeder = Some(cx.waker().clone());
        }
        Wanted::NotYet
    }

    /// Hands a piece over. Only when one is wanted.
    pub fn push(&self, piece: Bytes) {
        self.change(|state| {
            state.is_wanted = false;
            state.piece = Some(piece);
        });
    }

    /// The content has ended, or broke off.
    pub fn end(&self, end: Result<(), IncomingError>) {
        self.change(|state| {
            state.end.get_or_insert(end);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let reader = {
            let mut state = self.0.lock();
            change(&mut state);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let mut state = self.state.lock();
        if let Some(piece) = state.piece.take() {
            drop(state);
            self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &state.end {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.clone()))),
            None => {}
        }
        state.is_wanted = true;
        state.reader = Some(cx.waker().clone());
        let feeder = state.feeder.take();
        drop(state);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock();
        state.piece.is_none() && matches!(state.end, Some(Ok(())))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let feeder = {
            let mut state = self.state.lock();
            state.is_left = true;
            state.piece = None;
            state.feeder.take()
        };
        if let Some(feeder) = feeder {
            feeder.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http_body_util::BodyExt;

    use super::*;

    fn wanted(feed: &Feed) -> Wanted {
        feed.poll_wanted(&Context::from_waker(Waker::noop()))
    }

    fn poll(upload: &mut Upload) -> Poll<Option<Result<Bytes, IncomingError>>> {
        let polled = Pin::new(upload).poll_frame(&mut Context::from_waker(Waker::noop()));
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
    }

    #[tokio::test]
    async fn pieces_come_when_they_are_wanted_one_at_a_time() {
        let (feed, mut upload) = upload(Some(4));
        assert_eq!(wanted(&feed), Wanted::NotYet, "nobody has asked");
        assert!(poll(&mut upload).is_pending());
        assert_eq!(wanted(&feed), Wanted::Yes);
        feed.push(Bytes::from_static(b"ab"));
        assert_eq!(wanted(&feed), Wanted::NotYet, "not taken yet");
        assert!(matches!(poll(&mut upload), Poll::Ready(Some(Ok(piece))) if piece == "ab"));
        assert_eq!(upload.size_hint().exact(), Some(2));
        assert!(poll(&mut upload).is_pending());
        feed.push(Bytes::from_static(b"cd"));
        feed.end(Ok(()));
        assert!(!upload.is_end_stream(), "a piece is left");
        assert_eq!(upload.collect().await.unwrap().to_bytes(), "cd");
    }

    #[test]
    fn a_break_is_told_after_what_came_before_it() {
        let (feed, mut upload) = upload(None);
        assert!(poll(&mut upload).is_pending());
        feed.push(Bytes::from_static(b"ab"));
        feed.end(Err(Arc::new(io::Error::other("broken"))));
        assert!(matches!(poll(&mut upload), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(poll(&mut upload), Poll::Ready(Some(Err(_)))));
        drop(upload);
        assert_eq!(wanted(&feed), Wanted::Never);
    }
}
