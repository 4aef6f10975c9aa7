//! HTTP/1 with clients, on raw sockets: how messages follow each other on a connection, however their bytes are cut.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use support::{Edge, HOST, Origin, PATIENCE, Reply, request, said, talk};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

/// An origin that answers with the path and the content it was sent; `/kept…` may be stored.
async fn echo() -> Origin {
    Origin::start(|_, asked| async move {
        let path = asked.uri().path().to_owned();
        let kept = if path.starts_with("/kept") { "max-age=600" } else { "no-store" };
        match asked.into_body().collect().await {
            Ok(body) => {
                let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                said(200, &[("cache-control", kept)], format!("[{path} {body}]"))
            }
            Err(_) => said(400, &[("cache-control", "no-store")], "cut"),
        }
    })
    .await
}

/// An origin whose every answer is this, and may be stored.
async fn content(bytes: Bytes) -> Origin {
    Origin::start(move |_, _| {
        let bytes = bytes.clone();
        async move { said(200, &[("cache-control", "max-age=600")], bytes) }
    })
    .await
}

/// Bytes that tell where they belong.
fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at / 251 + at) as u8).collect()
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

/// The contents of `answers`, in order, which all have a length.
fn contents(answers: &str) -> Vec<&str> {
    let mut rest = answers;
    let mut found = Vec::new();
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let (content, next) = after.split_at(length.parse().unwrap());
        found.push(content);
        rest = next;
    }
    assert_eq!(rest, "", "what follows is no answer");
    found
}

/// A connection that is read one byte at a time.
struct Drip<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for Drip<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        std::task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut one))?;
        buffer.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Drip<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connects with as small a receive buffer as the system allows.
async fn narrow(address: std::net::SocketAddr) -> Drip<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    Drip(socket.connect(address).await.unwrap())
}

async fn narrow_tls(edge: &Edge, alpn: &str) -> tokio_rustls::client::TlsStream<Drip<TcpStream>> {
    let connector = tokio_rustls::TlsConnector::from(edge.client_config(&[alpn]));
    connector.connect(ServerName::try_from(HOST).unwrap(), narrow(edge.https()).await).await.unwrap()
}

async fn read_to_end(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut read = Vec::new();
    let reading = tokio::time::timeout(PATIENCE * 2, from.read_to_end(&mut read));
    reading.await.expect("all of it in time").unwrap();
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let origin = echo().await;
    let edge = Edge::start(&origin).await;
    edge.get("/kept", &[]).await;
    let post = "POST /post HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 4\r\n\r\nbody";
    let chunked = "PUT /put HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    let requests = [
        &get("/kept", ""),
        post,
        &get("/kept", ""),
        chunked,
        &get("/passed", ""),
        &get("/kept", "Connection: close\r\n"),
        &get("/never", ""),
    ]
    .concat();
    let answers = talk(edge.http(), requests.as_bytes()).await;
    let expected = ["[/kept ]", "[/post body]", "[/kept ]", "[/put abc]", "[/passed ]", "[/kept ]"];
    assert_eq!(contents(&answers), expected);
    assert_eq!(edge.metric("nearside_edge_connections_accepted_total", &[]), 2);
    assert_eq!(edge.requests("hit"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_one_byte_at_a_time_is_one_request() {
    let origin = echo().await;
    let edge = Edge::start(&origin).await;
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let requests = [
        "\r\nPOST /one HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: v\r\n\r\n",
        "POST /two HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 3\r\n\r\ndef",
        &get("/three", "Connection: close\r\n"),
    ]
    .concat();
    for byte in requests.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answers = String::from_utf8(read_to_end(stream).await).unwrap();
    assert_eq!(contents(&answers), ["[/one abc]", "[/two def]", "[/three ]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_one_byte_at_a_time_gets_every_byte() {
    let bytes = pattern(150_000);
    let origin = content(bytes.clone()).await;
    let edge = Edge::start_tls(&origin).await;
    edge.get("/", &[]).await;
    let asks = get("/", "Connection: close\r\n");
    let content_of = |answer: Vec<u8>| {
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        Bytes::from(answer).slice(end..)
    };
    let mut plain = narrow(edge.http()).await;
    plain.write_all(asks.as_bytes()).await.unwrap();
    assert!(content_of(read_to_end(plain).await) == bytes, "plain");
    let mut tls = narrow_tls(&edge, "http/1.1").await;
    tls.write_all(asks.as_bytes()).await.unwrap();
    assert!(content_of(read_to_end(tls).await) == bytes, "TLS");
    let h2 = narrow_tls(&edge, "h2").await;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(h2));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut asked = request(http::Method::GET, "/", &[], "");
    *asked.uri_mut() = format!("https://{HOST}/").parse().unwrap();
    asked.headers_mut().remove("host");
    let reply = Reply::read(sender.send_request(asked).await.unwrap()).await;
    assert!(reply.body.unwrap() == bytes, "h2");
    assert_eq!(edge.requests("hit"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_needs_no_content_asks_for_none() {
    let origin = echo().await;
    let edge = Edge::start(&origin).await;
    let head =
        "POST / HTTP/1.1\r\nHost: www.elsewhere.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let answer = talk(edge.http(), head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("connection: close\r\n"), "{answer}");
    // Content that was sent all the same is not taken for a request, and does not keep the answer from its reader.
    let sent = format!("{head}{}", get("/smuggled", "").repeat(2000));
    let answer = talk(edge.http(), sent.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_came_with_a_refused_request_does_not_end_the_connection() {
    let origin = echo().await;
    let edge = Edge::start(&origin).await;
    let refused = "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nCDN-Loop: nearside-test-fra\r\nContent-Length: 5\r\n\r\nhello";
    let answer =
        talk(edge.http(), format!("{refused}{}", get("/next", "Connection: close\r\n")).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 508 "), "{answer}");
    assert_eq!(origin.requests(), u64::from(answer.contains("[/next ]")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_ahead_of_a_101_goes_through_the_tunnel() {
    let origin = Origin::start(|_, mut asked| async move {
        let upgrade = hyper::upgrade::on(&mut asked);
        tokio::spawn(async move {
            let mut tunnel = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 64];
            while let Ok(read @ 1..) = tunnel.read(&mut buffer).await {
                tunnel.write_all(&buffer[..read]).await.unwrap();
            }
        });
        said(101, &[("upgrade", "echo"), ("connection", "upgrade")], "")
    })
    .await;
    let edge = Edge::start(&origin).await;
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    let early = "\0early\nbytes";
    let head = get("/", "Connection: upgrade\r\nUpgrade: echo\r\n");
    stream.write_all(format!("{head}{early}").as_bytes()).await.unwrap();
    stream.write_all(b" and late").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = String::from_utf8(read_to_end(stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer:?}");
    assert!(answer.ends_with("\r\n\r\n\0early\nbytes and late"), "{answer:?}");
    assert_eq!(edge.metric("nearside_edge_framing_refused_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_reach_clients_that_know_them() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x\r\n\r\n";
    let answer = format!(
        "HTTP/1.1 102 Processing\r\n\r\n{hints}HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nhi"
    );
    let origin = Origin::raw(&answer).await;
    let edge = Edge::start(&origin).await;
    let new = talk(edge.http(), get("/", "Connection: close\r\n").as_bytes()).await;
    let interim = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(new.starts_with(interim) && new.ends_with("\r\n\r\nhi"), "{new}");
    let old = talk(edge.http(), format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n") && !old.contains("103"), "{old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_unknown_length_ends_as_its_reader_understands() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    )
    .await;
    let edge = Edge::start(&origin).await;
    let chunked = talk(edge.http(), get("/", "Connection: close\r\n").as_bytes()).await;
    assert!(chunked.contains("transfer-encoding: chunked\r\n"), "{chunked}");
    assert!(chunked.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{chunked}");
    let trailers = talk(edge.http(), get("/", "TE: trailers\r\nConnection: close, TE\r\n").as_bytes()).await;
    assert!(trailers.ends_with("5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"), "{trailers}");
    let old = talk(
        edge.http(),
        format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(old.contains("connection: close\r\n") && old.ends_with("\r\n\r\nhello"), "{old}");
    assert!(!old.contains("chunked"), "{old}");
    let head = format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n{}", get("/", "Connection: close\r\n"));
    let both = talk(edge.http(), head.as_bytes()).await;
    assert_eq!(both.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{both}");
    assert_eq!(both.matches("hello").count(), 1, "{both}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_keeps_its_connection_if_it_asks_to() {
    let origin = echo().await;
    let edge = Edge::start(&origin).await;
    edge.get("/kept", &[]).await;
    let keeps = format!("GET /kept HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n");
    let closes = format!("GET /kept HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    let answers = talk(edge.http(), format!("{keeps}{closes}{keeps}").as_bytes()).await;
    assert_eq!(contents(&answers), ["[/kept ]", "[/kept ]"]);
    assert!(answers.starts_with("HTTP/1.0 200 OK\r\n") && answers.contains("connection: keep-alive\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_streams_both_ways_and_its_break_reaches_the_origin() {
    let origin = echo().await;
    let edge = Arc::new(Edge::start(&origin).await);
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    let length = 3_000_000;
    let head =
        format!("PUT /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let body = "x".repeat(length);
    stream.write_all(body.as_bytes()).await.unwrap();
    let answer = String::from_utf8(read_to_end(stream).await).unwrap();
    assert!(answer.ends_with(&format!("[/up {body}]")), "{} bytes", answer.len());
    // The client breaks off: the origin sees no end of the content, and the answer is no success.
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"only this").await.unwrap();
    support::until("the origin is asked", || origin.requests() == 2).await;
    stream.shutdown().await.unwrap();
    let answer = String::from_utf8(read_to_end(stream).await).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

/// An origin of one large object under a strong entity tag, in chunks on the edge's disk once it was asked for.
async fn large(bytes: Bytes) -> Origin {
    Origin::start(move |_, asked| {
        let bytes = bytes.clone();
        async move {
            let fields = [("cache-control", "max-age=600"), ("etag", "\"large\"")];
            let range = asked.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
            let Some((first, last)) =
                range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
            else {
                return said(200, &fields, bytes);
            };
            let first: usize = first.parse().unwrap();
            let last = last.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
            let part = format!("bytes {first}-{last}/{}", bytes.len());
            let fields = [fields[0], fields[1], ("content-range", part.as_str())];
            said(206, &fields, bytes.slice(first..=last))
        }
    })
    .await
}

async fn stored(bytes: &Bytes) -> (Origin, Edge) {
    let origin = large(bytes.clone()).await;
    let dir = tempfile::TempDir::new().unwrap();
    let mut config = support::fleet(origin.address, &dir, None);
    // So little that what is served comes from disk.
    config.pops.get_mut("fra").unwrap().memory_bytes_max = 1 << 20;
    let edge = Edge::with(config, dir).await;
    assert!(edge.get("/large", &[]).await.body.unwrap() == *bytes);
    edge.until("it is stored", |edge| edge.metric("nearside_edge_cache_objects_stored_total", &[]) == 1)
        .await;
    (origin, edge)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_reaches_readers_that_are_slow_and_outlives_those_that_leave() {
    let bytes = pattern(5_000_000);
    let (origin, edge) = stored(&bytes).await;
    let asks = get("/large", "Connection: close\r\n");
    let mut leaving = TcpStream::connect(edge.http()).await.unwrap();
    leaving.write_all(asks.as_bytes()).await.unwrap();
    leaving.read_exact(&mut [0; 1000]).await.unwrap();
    drop(leaving);
    let mut slow = narrow(edge.http()).await;
    slow.write_all(asks.as_bytes()).await.unwrap();
    let mut beginning = vec![0; 100_000];
    tokio::time::timeout(PATIENCE, slow.read_exact(&mut beginning)).await.unwrap().unwrap();
    beginning.extend_from_slice(&read_to_end(slow.0).await);
    let end = beginning.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert!(bytes == beginning[end..], "slow");
    let part = edge.get("/large", &[("range", "bytes=1000000-3999999")]).await;
    assert!(part.status == 206 && part.body.unwrap() == bytes.slice(1_000_000..4_000_000), "a part");
    assert_eq!(origin.requests(), 1);
    edge.until("nobody is left", |edge| edge.metric("nearside_edge_connections", &[]) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_gives_no_wrong_byte_and_is_dropped() {
    let bytes = pattern(5_000_000);
    let (origin, edge) = stored(&bytes).await;
    assert!(edge.get("/large", &[]).await.body.unwrap() == bytes);
    let mut truncated = 0;
    let mut dirs = vec![edge.dir.path().join("cache")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if metadata.len() == bytes.len() as u64 {
                std::fs::File::options().write(true).open(entry.path()).unwrap().set_len(1_700_000).unwrap();
                truncated += 1;
            }
        }
    }
    assert_eq!(truncated, 1);
    assert_eq!(origin.requests(), 1);
    let reply = edge.get("/large", &[]).await;
    assert!(reply.body.unwrap() == bytes, "the rest is the origin's");
    assert_eq!(origin.requests(), 2);
    assert_eq!(edge.metric("nearside_edge_cache_damaged_total", &[]), 1);
    assert!(edge.get("/large", &[]).await.body.unwrap() == bytes);
}
