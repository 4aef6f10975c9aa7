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

use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;

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

/// Where interim responses of a request go.
#[derive(Clone, Debug)]
pub struct InterimSink(mpsc::Sender<Interim>);

/// Where they come out.
#[derive(Debug)]
pub struct Interims(mpsc::Receiver<Interim>);

/// Both ends, for one request.
pub fn interims() -> (InterimSink, Interims) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (InterimSink(sender), Interims(receiver))
}

impl InterimSink {
    /// Takes what an origin sent, if it is for clients at all. Never waits.
    pub fn put(&self, status: StatusCode, origin: &HeaderMap) {
        if !(102..200).contains(&status.as_u16()) {
            return;
        }
        // Full or gone: see WAITING_MAX; a client that left needs no hints.
        let _ = self.0.try_send(Interim { status, headers: headers::interim(origin) });
    }
}

impl Interims {
    /// The next one; `None` when there can be no more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Interim> {
        self.0.recv().await
    }

    /// One that waits already.
    pub fn waiting(&mut self) -> Option<Interim> {
        self.0.try_recv().ok()
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
