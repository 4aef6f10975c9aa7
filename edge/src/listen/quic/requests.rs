//! Requests of one HTTP/3 connection: heads read, content passed on as it comes, responses written, the connection
//! told to end.
//!
//! Requests go through the same [`request::handle`] as those of HTTP/1.1 and HTTP/2. What hyper does for those is done
//! here: what makes a message malformed (RFC 9114 section 4.1.2), `Date`, lengths that must come true, and the deadlines of a
//! head, of a reader that stalls, of a connection that asks for nothing. A request's content is looked for before it
//! is handled: whether there is any decides what may be answered from the store.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::{Buf, Bytes};
use h3::{
    error::{Code, StreamError},
    server::{RequestResolver, RequestStream},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Front,
        connection::{Client, InFlight, quiet},
        limits,
    },
    transport::{self, Accepted, Last},
};
use crate::{
    request::{
        self, Body, Incoming,
        incoming::IncomingError,
        interim::{Interim, interims},
    },
    stats::Turned,
};

type Resolver = RequestResolver<transport::Connection, Bytes>;
type Sender = RequestStream<transport::Sending, Bytes>;
type Receiver = RequestStream<transport::Receiving, Bytes>;

/// Serves a connection until it ends or is told to.
pub async fn serve(
    front: Arc<Front>,
    connection: quinn::Connection,
    client: Arc<Client>,
    stop: CancellationToken,
) {
    let last = Last::default();
    let transport = transport::Connection::new(connection, front.stats.clone(), last.clone());
    let mut builder = h3::server::builder();
    builder.max_field_section_size(limits::HEAD_BYTES_MAX as u64).send_grease(false);
    let build = builder.build(transport);
    let mut connection = match timeout(client.limits().handshake_timeout, build).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(peer = %client.peer, %error, "HTTP/3 could not begin"),
        Err(_) => return front.stats.turned(Turned::HandshakeTimeout),
    };
    let heads = Arc::new(Semaphore::new(limits::H3_HEADS_MAX));
    let mut leaving = pin!(async {
        tokio::select! {
            () = front.draining.cancelled() => {}
            () = stop.cancelled() => {}
            () = client.retire.notified() => {}
        }
    });
    let mut left = pin!(quiet(&client));
    let mut idle = pin!(idle(&client));
    let mut told = false;
    loop {
        let next = async {
            // Never closed.
            let permit = heads.clone().acquire_owned().await.ok();
            (permit, connection.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = leaving.as_mut(), if !told => {
                told = true;
                // What is on its way is still served; the client sends what comes after elsewhere (RFC 9114 section 5.2).
                if connection.shutdown(limits::STREAMS_MAX as usize).await.is_err() {
                    return;
                }
                continue;
            }
            () = left.as_mut(), if told => return,
            () = idle.as_mut() => return front.stats.turned(Turned::Idle),
            next = next => next,
        };
        let resolver = match accepted {
            Ok(Some(resolver)) => resolver,
            Ok(None) => return,
            Err(error) => return tracing::debug!(peer = %client.peer, %error, "connection ended"),
        };
        let accepted = last.lock().take();
        let Some(accepted) = accepted else { continue };
        let in_flight = InFlight::new(client.clone());
        let nth = client.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if nth >= limits::REQUESTS_MAX {
            client.retire.notify_one();
        }
        let (front, client) = (front.clone(), client.clone());
        tokio::spawn(async move {
            let head = timeout(limits::HEAD_TIMEOUT, resolve(resolver)).await;
            drop(permit);
            match head {
                Ok(Some((request, stream))) => exchange(&front, &client, request, stream, accepted).await,
                Ok(None) => {}
                Err(_) => front.stats.turned(Turned::HeadTimeout),
            }
            drop(in_flight);
        });
    }
}

/// Completes once nothing was under way for the idle timeout.
async fn idle(client: &Client) {
    let mut seen = client.requests.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(limits::IDLE_TIMEOUT).await;
        let now = client.requests.load(Ordering::Relaxed);
        if now == seen && client.in_flight.load(Ordering::Relaxed) == 0 {
            return;
        }
        seen = now;
    }
}

/// Reads a head; `None`: it was answered or refused here.
async fn resolve(resolver: Resolver) -> Option<(Request<()>, RequestStream<transport::Bidi, Bytes>)> {
    match resolver.resolve_request().await {
        Ok((request, mut stream)) if is_malformed(&request) => {
            stream.stop_stream(Code::H3_MESSAGE_ERROR);
            stream.stop_sending(Code::H3_MESSAGE_ERROR);
            None
        }
        Ok((request, mut stream)) if request.headers().len() > limits::HEADERS_MAX => {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            if stream.send_response(response).await.is_ok() {
                let _ = stream.finish().await;
            }
            None
        }
        Ok(good) => Some(good),
        Err(error) => {
            tracing::debug!(%error, "request refused");
            None
        }
    }
}

/// What only one connection of HTTP/1.1 gives a meaning makes a message of HTTP/3 malformed (RFC 9114 section 4.2), and so
/// does a scheme that this connection is not for, or a length that is none.
fn is_malformed(request: &Request<()>) -> bool {
    let headers = request.headers();
    let te = headers.get_all(header::TE).iter().any(|value| value != "trailers");
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let bad_length = lengths.next().is_some_and(|value| length(value).is_none()) || lengths.next().is_some();
    CONNECTION_SPECIFIC.iter().any(|name| headers.contains_key(name))
        || te
        || bad_length
        || (request.method() != Method::CONNECT && request.uri().scheme_str() != Some("https"))
}

/// RFC 9114 section 4.2.
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

fn length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Handles one request and writes its response.
async fn exchange(
    front: &Arc<Front>,
    client: &Arc<Client>,
    request: Request<()>,
    stream: RequestStream<transport::Bidi, Bytes>,
    accepted: Accepted,
) {
    let Accepted { mut stopped, empty_frames } = accepted;
    front.stats.http3_requests.fetch_add(1, Ordering::Relaxed);
    let (mut sender, receiver) = stream.split();
    let is_head = request.method() == Method::HEAD;
    let expects = request.headers().contains_key(header::EXPECT);
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(length);
    let at = Reading::Data;
    let mut content = Content { receiver, first: None, declared, read: 0, empty_frames, empty_read: 0, at };
    if !expects {
        match timeout(limits::BODY_TIMEOUT, content.look()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(peer = %client.peer, error = &*error, "request refused");
                return sender.stop_stream(Code::H3_MESSAGE_ERROR);
            }
            Err(_) => {
                front.stats.turned(Turned::BodyTimeout);
                return sender.stop_stream(Code::H3_REQUEST_INCOMPLETE);
            }
        }
    }
    let incoming = if content.is_end_stream() { Incoming::Empty } else { Incoming::Read(Box::pin(content)) };
    let mut request = request.map(|()| incoming);
    let (sink, mut interim) = interims();
    request.extensions_mut().insert(sink);
    if expects {
        // The origin connection wants the content soon, or the answer says that nobody does.
        let _ = say(&mut sender, Interim { status: StatusCode::CONTINUE, headers: HeaderMap::new() }).await;
    }
    let mut handled = pin!(request::handle(&front.edge, client, request));
    let response = loop {
        tokio::select! {
            biased;
            handled = handled.as_mut() => break handled,
            () = stopped.as_mut() => return front.stats.turned(Turned::Gone),
            interim = poll_fn(|cx| interim.poll_next(cx)) => {
                if say(&mut sender, interim).await.is_err() {
                    return front.stats.turned(Turned::Gone);
                }
            }
        }
    };
    while let Some(interim) = interim.waiting() {
        let _ = say(&mut sender, interim).await;
    }
    let Ok(response) = response;
    match send(&mut sender, response, is_head).await {
        Ok(()) => {
            // Under way until the client has confirmed it: a connection that ends now would take it along.
            let _ = timeout(limits::WRITE_STALL_TIMEOUT, stopped).await;
        }
        Err(Unsent::Stalled) => {
            front.stats.turned(Turned::WriteStall);
            sender.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
        Err(Unsent::Short) => sender.stop_stream(Code::H3_INTERNAL_ERROR),
        Err(Unsent::Stream(error)) => {
            tracing::debug!(peer = %client.peer, %error, "response not taken");
            sender.stop_stream(Code::H3_INTERNAL_ERROR);
        }
    }
}

/// Why a response did not leave whole.
enum Unsent {
    /// The client takes nothing.
    Stalled,
    /// There is less, or more, than its head has said, or its source failed.
    Short,
    /// The stream ended.
    Stream(StreamError),
}

async fn say(sender: &mut Sender, interim: Interim) -> Result<(), Unsent> {
    let mut response = Response::new(());
    *response.status_mut() = interim.status;
    *response.headers_mut() = interim.headers;
    taken(sender.send_response(response)).await
}

/// Within the write stall deadline.
async fn taken(sending: impl Future<Output = Result<(), StreamError>>) -> Result<(), Unsent> {
    match timeout(limits::WRITE_STALL_TIMEOUT, sending).await {
        Ok(result) => result.map_err(Unsent::Stream),
        Err(_) => Err(Unsent::Stalled),
    }
}

async fn send(sender: &mut Sender, response: Response<Body>, is_head: bool) -> Result<(), Unsent> {
    let (mut parts, body) = response.into_parts();
    let bodiless = is_head
        || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || body.is_end_stream();
    complete(&mut parts.headers, parts.status, &body, is_head);
    let mut left = parts.headers.get(header::CONTENT_LENGTH).and_then(length);
    taken(sender.send_response(Response::from_parts(parts, ()))).await?;
    if bodiless {
        drop(body);
    } else {
        let mut body = pin!(body);
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "response cut short");
                Unsent::Short
            })?;
            match frame.into_data() {
                Ok(mut data) => {
                    if let Some(left) = &mut left {
                        *left = left.checked_sub(data.len() as u64).ok_or(Unsent::Short)?;
                    }
                    while !data.is_empty() {
                        let part = data.split_to(data.len().min(limits::H3_SEND_BYTES));
                        taken(sender.send_data(part)).await?;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers()
                        && !trailers.is_empty()
                    {
                        taken(sender.send_trailers(trailers)).await?;
                    }
                }
            }
        }
        if left.is_some_and(|left| left > 0) {
            return Err(Unsent::Short);
        }
    }
    taken(sender.finish()).await
}

/// What hyper adds to and takes from a head.
fn complete(headers: &mut HeaderMap, status: StatusCode, body: &Body, is_head: bool) {
    for name in &CONNECTION_SPECIFIC {
        headers.remove(name);
    }
    if !headers.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(header::DATE, date);
    }
    let may_have_content = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if may_have_content
        && !is_head
        && !headers.contains_key(header::CONTENT_LENGTH)
        && let Some(exact) = body.size_hint().exact()
    {
        headers.insert(header::CONTENT_LENGTH, exact.into());
    }
}

/// What a client sends with its request. As large as it has said, or malformed.
struct Content {
    receiver: Receiver,
    /// What was read to see whether there is any.
    first: Option<Bytes>,
    declared: Option<u64>,
    read: u64,
    /// Frames without content that came, and that were gone past.
    empty_frames: Arc<AtomicU64>,
    empty_read: u64,
    at: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Data,
    Trailers,
    Ended,
}

impl Content {
    /// Waits for the first of it, or its end.
    async fn look(&mut self) -> Result<(), IncomingError> {
        self.first = poll_fn(|cx| self.poll_data(cx)).await?;
        Ok(())
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, IncomingError>> {
        while self.at == Reading::Data {
            let Some(mut data) = ready!(self.receiver.poll_recv_data(cx)).map_err(failed)? else {
                if self.empty_read < self.empty_frames.load(Ordering::Relaxed) {
                    self.empty_read += 1;
                    continue;
                }
                if self.declared.is_some_and(|declared| declared != self.read) {
                    self.at = Reading::Ended;
                    return Poll::Ready(Err(Arc::new(Malformed)));
                }
                // Trailers of no content have no use, and are not waited for.
                self.at = if self.read == 0 { Reading::Ended } else { Reading::Trailers };
                break;
            };
            let data = data.copy_to_bytes(data.remaining());
            self.read += data.len() as u64;
            if self.declared.is_some_and(|declared| declared < self.read) {
                self.at = Reading::Ended;
                return Poll::Ready(Err(Arc::new(Malformed)));
            }
            if !data.is_empty() {
                return Poll::Ready(Ok(Some(data)));
            }
        }
        Poll::Ready(Ok(None))
    }
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(data) = ready!(this.poll_data(cx)).transpose() {
            return Poll::Ready(Some(data.map(Frame::data)));
        }
        if this.at == Reading::Ended {
            return Poll::Ready(None);
        }
        let trailers = ready!(this.receiver.poll_recv_trailers(cx)).map_err(failed);
        this.at = Reading::Ended;
        Poll::Ready(match trailers {
            Ok(None) => None,
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.at == Reading::Ended
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        match self.declared {
            Some(declared) => SizeHint::with_exact(declared - self.read.min(declared) + first),
            None => SizeHint::default(),
        }
    }
}

fn failed(error: StreamError) -> IncomingError {
    Arc::new(error)
}

/// Content of another length than was declared (RFC 9114 section 4.1.2).
#[derive(Debug, thiserror::Error)]
#[error("content and its declared length differ")]
struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().uri("https://a.test/");
        for &(name, value) in fields {
            request = request.header(name, value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn what_belongs_to_other_versions_makes_a_request_malformed() {
        for good in [&[][..], &[("te", "trailers")], &[("content-length", "5")], &[("host", "a.test")]] {
            assert!(!is_malformed(&request(good)), "{good:?}");
        }
        for bad in [
            &[("connection", "close")][..],
            &[("transfer-encoding", "chunked")],
            &[("upgrade", "websocket")],
            &[("keep-alive", "5")],
            &[("proxy-connection", "close")],
            &[("te", "gzip")],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("content-length", "5"), ("content-length", "5")],
        ] {
            assert!(is_malformed(&request(bad)), "{bad:?}");
        }
        let plain = Request::builder().uri("http://a.test/").body(()).unwrap();
        assert!(is_malformed(&plain));
    }

    #[test]
    fn a_length_is_digits() {
        assert_eq!(length(&HeaderValue::from_static("10")), Some(10));
        for bad in ["", "-1", "1,1", " 1", "99999999999999999999999"] {
            assert_eq!(length(&HeaderValue::from_bytes(bad.as_bytes()).unwrap()), None, "{bad}");
        }
    }
}
