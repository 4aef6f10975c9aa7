//! HTTP/1.0 and 1.1 with clients (RFC 9112): one loop per connection.
//!
//! Read a head, let the request be answered, send the answer, and again. A hit is read, answered and written within one
//! poll of the connection's task, with one system call each way; answers to pipelined requests leave together. While
//! a request is answered its content is read as it is wanted, and its client is watched where nobody else waits for the
//! origin. An idle connection holds no buffer: what is read goes through a buffer of its thread.
//!
//! [`head`] reads and writes heads and decides framing, [`upload`] brings a request's content to who reads it,
//! [`deadlines`] says how long is waited, [`wire`] moves the bytes; this file knows the order of things. Where a message
//! ends is decided by the framing guard alone ([`crate::framing`]).

mod deadlines;
mod head;
mod transport;
mod upload;
mod wire;

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use tokio::{sync::oneshot, time::Sleep};

pub use self::transport::Transport;
use self::{
    head::{Ends, Manners},
    upload::{Feed, Wanted, upload},
    wire::Wire,
};
use super::{Front, connection::Client, limits, pace::Pace};
use crate::{
    cache::region::FileRegion,
    framing::ContentFraming,
    request::{
        self, Body, Incoming, Reach,
        body::Piece,
        interim::{Interims, interims},
        tunnel::NearSide,
    },
    stats::Turned,
};

/// Content up to this size is copied behind its head: one plain write is cheaper than a vectored one.
const COPIED_BYTES_MAX: usize = 8 * 1024;

/// Answers that wait for those to pipelined requests behind them.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// Serves a connection to its end, or to the beginning of a tunnel.
pub async fn serve<T: Transport>(front: &Arc<Front>, transport: T, client: &Arc<Client>) {
    // Polled once: the waker it keeps is this task's, and a wake finds the connection idle or about to be.
    let mut draining = pin!(front.draining.cancelled());
    poll_fn(|cx| Poll::Ready(draining.as_mut().poll(cx))).await.is_ready();
    let limits = client.limits();
    let pace = Pace::new(limits.download_rate_min, limits.rate_window);
    let wire = Wire::new(transport, front.stats.clone(), pace);
    let mut connection = Connection { front, client, wire, requests: 0 };
    match connection.run().await {
        Ok(End::Closed) => connection.wire.close().await,
        Ok(End::Lingers) => connection.wire.close_and_linger().await,
        Ok(End::Tunnel(tell)) => {
            // Whoever waits for it has gone: so does the connection.
            let _ = tell.send(Box::new(connection.wire.into_near_side()));
        }
        Err(error) => tracing::debug!(peer = %client.peer, %error, "connection ended"),
    }
}

struct Connection<'a, T> {
    front: &'a Arc<Front>,
    client: &'a Arc<Client>,
    wire: Wire<T>,
    requests: u64,
}

enum End {
    Closed,
    /// The client may still be sending: closing at once would make its system drop our answer (RFC 9112 section 9.6).
    Lingers,
    Tunnel(Tell),
}

/// Gives the connection to whoever waits for a tunnel.
type Tell = oneshot::Sender<Box<dyn NearSide>>;

/// What goes on beside the answer to a request.
struct Beside {
    manners: Manners,
    /// Content that has not ended.
    feed: Option<Feed>,
    /// A `100 Continue` is owed once content is wanted.
    owes_continue: bool,
    interims: Option<Interims>,
    gone: Option<Pin<Box<Sleep>>>,
    tunnel: Option<Tell>,
}

impl<T: Transport> Connection<'_, T> {
    async fn run(&mut self) -> io::Result<End> {
        loop {
            let draining = &self.front.draining;
            let head = match poll_fn(|cx| self.wire.poll_head(cx, || draining.is_cancelled())).await? {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(End::Closed),
                Err(refused) => return self.refuse(refused.status()).await,
            };
            let (request, manners) = match head::parse(&head) {
                Ok(parsed) => parsed,
                Err(bad) => return self.refuse(bad.status()).await,
            };
            drop(head);
            self.requests += 1;
            let (request, reach, mut beside) = self.prepare(request, manners);
            let mut answering =
                Box::pin(request::handle_within(&self.front.edge, self.client, request, reach));
            let response = poll_fn(|cx| self.poll_answer(cx, answering.as_mut(), &mut beside)).await?;
            drop(answering);
            if let Some(end) = self.send(response, beside).await? {
                return Ok(end);
            }
            // Hundreds of pipelined hits are no reason to keep the other connections waiting.
            tokio::task::consume_budget().await;
        }
    }

    fn prepare(&mut self, request: Request<()>, manners: Manners) -> (Request<Incoming>, Reach, Beside) {
        let owes_continue = manners.expects;
        let mut beside =
            Beside { manners, feed: None, owes_continue, interims: None, gone: None, tunnel: None };
        let length = match self.wire.content() {
            ContentFraming::None => None,
            ContentFraming::Length(length) => Some(Some(length)),
            ContentFraming::Chunked => Some(None),
        };
        let incoming = length.map_or(Incoming::Empty, |length| {
            let (feed, content) = upload(length);
            beside.feed = Some(feed);
            Incoming::Read(Box::pin(content))
        });
        if self.wire.has_input() {
            // What came with the head leaves with it too.
            self.feed_once(&mut beside);
        }
        let mut reach = Reach::default();
        if manners.version == http::Version::HTTP_11 {
            let (sink, coming) = interims();
            (reach.interim, beside.interims) = (Some(sink), Some(coming));
        }
        if manners.upgrades {
            let (tell, told) = oneshot::channel();
            (beside.tunnel, reach.upgrade) = (Some(tell), Some(told));
        }
        (request.map(|()| incoming), reach, beside)
    }

    /// Polls the answer, and does meanwhile what it waits for.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        answering: Pin<&mut impl Future<Output = Response<Body>>>,
        beside: &mut Beside,
    ) -> Poll<io::Result<Response<Body>>> {
        if let Poll::Ready(response) = answering.poll(cx) {
            return Poll::Ready(Ok(response));
        }
        if let Some(interims) = &mut beside.interims {
            while let Poll::Ready(interim) = interims.poll_next(cx) {
                head::write_interim(self.wire.output(), interim.status, &interim.headers);
            }
        }
        self.feed(cx, beside)?;
        if beside.feed.is_none() && self.client.waiting.load(Ordering::Relaxed) > 0 {
            self.look_for_client(cx, beside)?;
        }
        // What was answered before this request leaves before its answer is waited for.
        if let Poll::Ready(sent) = self.wire.poll_flush(cx) {
            sent?;
        }
        self.wire.poll_deadline(cx).map(Err)
    }

    /// Hands over the next piece of content that is here.
    fn feed_once(&mut self, beside: &mut Beside) {
        let Some(feed) = &beside.feed else { return };
        match self.wire.step_content() {
            Ok(piece) => piece.into_iter().for_each(|piece| feed.push(piece)),
            Err(error) => {
                feed.end(Err(Arc::new(error)));
                beside.feed = None;
                return;
            }
        }
        if self.wire.is_between_messages()
            && let Some(feed) = beside.feed.take()
        {
            feed.end(Ok(()));
        }
    }

    /// Reads content as long as it is wanted.
    fn feed(&mut self, cx: &mut Context<'_>, beside: &mut Beside) -> io::Result<()> {
        while let Some(feed) = &beside.feed {
            match feed.poll_wanted(cx) {
                Wanted::Yes => {}
                Wanted::NotYet | Wanted::Never => {
                    self.wire.awaits_nothing();
                    return Ok(());
                }
            }
            if beside.owes_continue && !self.wire.has_input() {
                head::write_interim(self.wire.output(), StatusCode::CONTINUE, &HeaderMap::new());
                if let Poll::Ready(sent) = self.wire.poll_flush(cx) {
                    sent?;
                }
            }
            beside.owes_continue = false;
            match self.wire.poll_content(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => self.feed_once(beside),
                Poll::Ready(Err(error)) => {
                    feed.end(Err(Arc::new(error)));
                    beside.feed = None;
                }
            }
        }
        Ok(())
    }

    /// While an origin is asked for this client alone, whether it is still there.
    fn look_for_client(&mut self, cx: &mut Context<'_>, beside: &mut Beside) -> io::Result<()> {
        let gone = || self.front.stats.turned(Turned::Gone);
        self.wire.read_ahead(cx).inspect_err(|_| gone())?;
        if self.wire.is_half_closed() {
            let limit =
                beside.gone.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::HALF_CLOSED_TIMEOUT)));
            if limit.as_mut().poll(cx).is_ready() {
                gone();
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, Turned::Gone.name()));
            }
        }
        Ok(())
    }

    /// Sends a response. `Some`: the connection's messages end with it.
    async fn send(&mut self, response: Response<Body>, mut beside: Beside) -> io::Result<Option<End>> {
        let manners = beside.manners;
        let (mut parts, mut body) = response.into_parts();
        if let Some(interims) = &mut beside.interims {
            while let Some(interim) = interims.waiting() {
                head::write_interim(self.wire.output(), interim.status, &interim.headers);
            }
        }
        // Content that is here already need not end the connection. What has not come may never come.
        if beside.feed.is_some() && self.wire.skip_content_read() {
            beside.feed = None;
        }
        let length = body.size_hint().exact();
        let ends = head::frame(parts.status, &mut parts.headers, length, manners);
        let closes = !manners.keeps
            || ends == Ends::Close
            || beside.feed.is_some()
            || self.wire.is_broken()
            || self.requests >= limits::REQUESTS_MAX
            || asks_to_close(&parts.headers)
            || self.front.draining.is_cancelled();
        let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        head::write(self.wire.output(), parts.status, &parts.headers, manners, closes && !switches);
        let mut sending = Sending {
            ends,
            ended: matches!(ends, Ends::None | Ends::Length(0)),
            takes_trailers: manners.takes_trailers,
            trailers: HeaderMap::new(),
        };
        let sent = poll_fn(|cx| self.poll_send(cx, &mut body, &mut sending, &mut beside)).await;
        drop(body);
        match sent {
            Ok(()) if switches => {
                poll_fn(|cx| self.wire.poll_flush(cx)).await?;
                Ok(Some(beside.tunnel.map_or(End::Closed, End::Tunnel)))
            }
            Ok(()) if closes => {
                let lingers = beside.feed.is_some() || self.wire.is_broken();
                poll_fn(|cx| self.wire.poll_flush(cx)).await?;
                Ok(Some(if lingers { End::Lingers } else { End::Closed }))
            }
            Ok(()) => Ok(None),
            Err(error) => {
                if ends == Ends::Close {
                    self.wire.reset();
                }
                Err(error)
            }
        }
    }

    /// Sends content to its end. What is small may stay in the output, to leave with the next answer.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body,
        sending: &mut Sending,
        beside: &mut Beside,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.wire.must_leave(GATHERED_BYTES_MAX) && self.wire.poll_flush(cx)?.is_pending() {
                self.feed(cx, beside)?;
                return self.wire.poll_deadline(cx).map(Err);
            }
            if let lost @ 1.. = self.wire.take_lost() {
                body.give_back(lost);
                sending.give_back(lost);
            }
            if sending.ended {
                return Poll::Ready(Ok(()));
            }
            let polled = match sending.ends {
                Ends::Length(_) if T::SENDS_FILES => body.poll_piece(cx),
                _ => Pin::new(&mut *body)
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map(|frame| sending.piece(frame)))),
            };
            let Poll::Ready(piece) = polled else {
                if let Poll::Ready(sent) = self.wire.poll_flush(cx) {
                    sent?;
                }
                self.feed(cx, beside)?;
                return self.wire.poll_deadline(cx).map(Err);
            };
            match piece {
                Some(Ok(Piece::Data(data))) => sending.take(data, &mut self.wire),
                Some(Ok(Piece::File(region))) => sending.take_file(region, &mut self.wire),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => sending.end(&mut self.wire)?,
            }
        }
    }

    /// Answers what is no request.
    async fn refuse(&mut self, status: StatusCode) -> io::Result<End> {
        head::write_refusal(self.wire.output(), status);
        poll_fn(|cx| self.wire.poll_flush(cx)).await?;
        Ok(End::Lingers)
    }
}

/// Where a response's content is.
struct Sending {
    ends: Ends,
    ended: bool,
    takes_trailers: bool,
    trailers: HeaderMap,
}

impl Sending {
    /// Data of a frame; trailers are kept for the end.
    fn piece(&mut self, frame: Frame<Bytes>) -> Piece {
        Piece::Data(frame.into_data().unwrap_or_else(|frame| {
            if let Ok(trailers) = frame.into_trailers()
                && self.takes_trailers
            {
                self.trailers = trailers;
            }
            Bytes::new()
        }))
    }

    fn take<T: Transport>(&mut self, mut data: Bytes, wire: &mut Wire<T>) {
        match &mut self.ends {
            // An empty chunk would be the last one.
            _ if data.is_empty() => {}
            Ends::None => {}
            Ends::Close => wire.queue(data),
            Ends::Length(left) => {
                // More than was told would be read as the next response.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                self.ended = *left == 0;
                wire.queue(data);
            }
            Ends::Chunked => wire.queue_chunk(data),
        }
    }

    fn take_file<T: Transport>(&mut self, mut region: FileRegion, wire: &mut Wire<T>) {
        let Ends::Length(left) = &mut self.ends else { return };
        region.truncate(*left);
        *left -= region.left();
        wire.queue_file(region);
    }

    fn give_back(&mut self, bytes: u64) {
        if let Ends::Length(left) = &mut self.ends {
            *left += bytes;
        }
    }

    fn end<T: Transport>(&mut self, wire: &mut Wire<T>) -> io::Result<()> {
        match self.ends {
            Ends::Length(1..) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ends::Chunked => head::write_last_chunk(wire.output(), &self.trailers),
            Ends::Length(0) | Ends::Close | Ends::None => {}
        }
        self.ended = true;
        Ok(())
    }
}

fn asks_to_close(headers: &HeaderMap) -> bool {
    headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}
