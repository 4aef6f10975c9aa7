//! Interim responses (1xx, RFC 9110 section 15.2) on their way from an origin to the one client whose request
//! caused them.
//!
//! A front end that can send them puts an [`InterimSink`] into the request's extensions, writes down what comes out
//! of its [`Interims`] while it waits for the final head, and once more what is left right before that head:
//! everything an origin sent before its head has been put in by then. What is never sent on:
//! `100 Continue`, which is ours to give (we take the expectation off), `101`, which is a final head here,
//! and anything to a client of HTTP/1.0. Nothing of them is stored, and requests that wait for another one's fetch
//! get none: they are hints about this answer's making (RFC 8297 section 2).
//!
//! HTTP/2: the h2 crate can send them, hyper's server in front of it offers no way; its clients get none.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use crate::policy::headers;

/// Interim responses that wait to be written. More than a few `103` per response have no use; what doesn't fit
/// is dropped, so that an origin that sends them without end costs nothing.
const WAITING_MAX: usize = 8;

/// A head without content, to be followed by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interim {
    /// 102 to 199.
    pub status: StatusCode,
    /// End-to-end fields only.
    pub headers: HeaderMap,
}

/// What waits, and who waits for it. Made for every request, hits included: one small allocation.
#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Interim>,
    waker: Option<Waker>,
}

/// Where interim responses of a request go.
#[derive(Clone, Debug)]
pub struct InterimSink(Arc<Mutex<State>>);

/// Where they come out.
#[derive(Debug)]
pub struct Interims(Arc<Mutex<State>>);

/// Both ends, for one request.
pub fn interims() -> (InterimSink, Interims) {
    let state = Arc::<Mutex<State>>::default();
    (InterimSink(state.clone()), Interims(state))
}

impl InterimSink {
    /// Takes what an origin sent, if it is for clients at all. Never waits.
    pub fn put(&self, status: StatusCode, origin: &HeaderMap) {
        if !(102..200).contains(&status.as_u16()) {
            return;
        }
        let waker = {
            let mut state = self.0.lock();
            if state.waiting.len() < WAITING_MAX {
                state.waiting.push_back(Interim { status, headers: headers::interim(origin) });
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Interims {
    /// The next one. Pending: the task is woken when one comes, if one does.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Interim> {
        let mut state = self.0.lock();
        match state.waiting.pop_front() {
            Some(interim) => Poll::Ready(interim),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// One that waits already.
    pub fn waiting(&mut self) -> Option<Interim> {
        self.0.lock().waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn put(sink: &InterimSink, status: u16) {
        let mut fields = HeaderMap::new();
        fields.insert(header::LINK, HeaderValue::from_static("</a>; rel=preload"));
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        sink.put(StatusCode::from_u16(status).unwrap(), &fields);
    }

    #[test]
    fn only_what_is_for_clients_comes_out() {
        let (sink, mut interims) = interims();
        for status in [100, 101, 102, 103, 199, 200] {
            put(&sink, status);
        }
        let mut statuses = Vec::new();
        while let Some(interim) = interims.waiting() {
            assert_eq!(interim.headers.keys().collect::<Vec<_>>(), [header::LINK]);
            statuses.push(interim.status.as_u16());
        }
        assert_eq!(statuses, [102, 103, 199]);
    }

    #[test]
    fn a_flood_is_cut() {
        let (sink, mut interims) = interims();
        for _ in 0..100 {
            put(&sink, 103);
        }
        assert_eq!(std::iter::from_fn(|| interims.waiting()).count(), WAITING_MAX);
    }
}
